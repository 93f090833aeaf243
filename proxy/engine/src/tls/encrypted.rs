//! Private keys that are encrypted under a password: PKCS #8 (`BEGIN ENCRYPTED PRIVATE KEY`) with PBES2, PBKDF2 and AES in CBC mode,
//! which is what `openssl` writes unless it is told otherwise.
//!
//! Older ways (traditional PEM with `DEK-Info`, PBES1) derive keys by MD5 or SHA-1 in one round, and are not read. Source: RFC 8018,
//! RFC 5958 section 3.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{
    AES_128, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey,
};
use aws_lc_rs::pbkdf2::{self, PBKDF2_HMAC_SHA1, PBKDF2_HMAC_SHA256, PBKDF2_HMAC_SHA384, PBKDF2_HMAC_SHA512};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proxy_core::tls::der::{Reader, tag};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

const BEGIN: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----";
const END: &str = "-----END ENCRYPTED PRIVATE KEY-----";

const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 13];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 5, 12];
/// `hmacWithSHA...`, up to the last octet, which tells which.
const HMAC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 2];
/// `aes...-CBC-PAD`, likewise.
const AES: &[u8] = &[0x60, 0x86, 0x48, 1, 101, 3, 4, 1];
/// More rounds than are advised (OWASP: 600,000); each costs a microsecond or so, of the thread that reads configuration.
pub(super) const MAX_ROUNDS: u32 = 2_000_000;

const UNREADABLE: &str = "it is not encrypted in a way that is known: PKCS #8 with PBKDF2 and AES-CBC is";

/// Whether a file in PEM holds a key that a password is needed for.
pub(super) fn is_encrypted(pem: &[u8]) -> bool {
    std::str::from_utf8(pem).is_ok_and(|text| text.contains(BEGIN))
}

/// The key in a file in PEM, under a password.
///
/// # Errors
/// It cannot be read; what is in it is not told.
pub(super) fn decrypt(pem: &[u8], password: &[u8]) -> Result<PrivateKeyDer<'static>, &'static str> {
    if password.is_empty() {
        return Err("BAD_PASSWORD_READ: it is encrypted, and there is no password");
    }
    let text = std::str::from_utf8(pem).ok();
    let body = text.and_then(|text| Some(text.split_once(BEGIN)?.1.split_once(END)?.0));
    let body: String = body.unwrap_or_default().split_ascii_whitespace().collect();
    let der = STANDARD.decode(body).map_err(|_| "it is no PEM")?;
    let parsed = Reader::new(&der).enter(tag::SEQUENCE).and_then(|mut whole| {
        let scheme = Pbes2::parse(whole.enter(tag::SEQUENCE)?)?;
        Some((scheme, whole.expect(tag::OCTET_STRING)?))
    });
    let (scheme, data) = parsed.ok_or(UNREADABLE)?;
    let plain = scheme.decrypt(data, password).ok_or("BAD_DECRYPT: the password is not that of the key")?;
    Ok(PrivatePkcs8KeyDer::from(plain).into())
}

/// How something is encrypted (RFC 8018, A.4).
pub(super) struct Pbes2<'d> {
    hash: pbkdf2::Algorithm,
    salt: &'d [u8],
    rounds: NonZeroU32,
    cipher: &'static Algorithm,
    key_length: usize,
    iv: [u8; 16],
}

impl<'d> Pbes2<'d> {
    /// What is in an `AlgorithmIdentifier`; nothing if that is another way, or takes too many rounds.
    pub(super) fn parse(mut algorithm: Reader<'d>) -> Option<Self> {
        let is_known = algorithm.expect(tag::OID)? == PBES2;
        let mut schemes = algorithm.enter(tag::SEQUENCE).filter(|_| is_known)?;
        let mut derivation = schemes.enter(tag::SEQUENCE)?;
        let is_known = derivation.expect(tag::OID)? == PBKDF2;
        let mut derivation = derivation.enter(tag::SEQUENCE).filter(|_| is_known)?;
        let salt = derivation.expect(tag::OCTET_STRING)?;
        let rounds = number(derivation.expect(tag::INTEGER)?)?;
        let length = derivation.optional(tag::INTEGER).map(|length| number(length.content));
        let hash = match derivation.enter(tag::SEQUENCE) {
            None => PBKDF2_HMAC_SHA1,
            Some(mut function) => match function.expect(tag::OID)?.strip_prefix(HMAC)? {
                [7] => PBKDF2_HMAC_SHA1,
                [9] => PBKDF2_HMAC_SHA256,
                [10] => PBKDF2_HMAC_SHA384,
                [11] => PBKDF2_HMAC_SHA512,
                _ => return None,
            },
        };
        let mut cipher = schemes.enter(tag::SEQUENCE)?;
        let (algorithm, key_length) = match cipher.expect(tag::OID)?.strip_prefix(AES)? {
            [2] => (&AES_128, 16),
            [42] => (&AES_256, 32),
            _ => return None,
        };
        if length.is_some_and(|length| length.is_none_or(|length| length as usize != key_length)) {
            return None;
        }
        let iv = cipher.expect(tag::OCTET_STRING)?.try_into().ok()?;
        let rounds = NonZeroU32::new(rounds).filter(|rounds| rounds.get() <= MAX_ROUNDS)?;
        Some(Self { hash, salt, rounds, cipher: algorithm, key_length, iv })
    }

    /// How many rounds deriving the key takes.
    pub(super) fn rounds(&self) -> u32 {
        self.rounds.get()
    }

    /// What was encrypted, which is a sequence; nothing under a wrong password.
    pub(super) fn decrypt(&self, data: &[u8], password: &[u8]) -> Option<Vec<u8>> {
        let mut key = [0; 32];
        let key = key.get_mut(..self.key_length)?;
        pbkdf2::derive(self.hash, self.rounds, self.salt, password, key);
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(UnboundCipherKey::new(self.cipher, key).ok()?).ok()?;
        let mut data = data.to_vec();
        let plain = key.decrypt(&mut data, DecryptionContext::Iv128((&self.iv).into())).ok()?;
        // With the wrong password the padding may be right by chance.
        Reader::new(plain).enter(tag::SEQUENCE)?;
        Some(plain.to_vec())
    }
}

/// A number that is not negative, of up to four octets.
pub(super) fn number(octets: &[u8]) -> Option<u32> {
    let octets = octets.strip_prefix(&[0]).unwrap_or(octets);
    (octets.len() <= 4).then(|| octets.iter().fold(0, |number, octet| number << 8 | u32::from(*octet)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `openssl pkcs8 -topk8 -passout pass:secret`
    const KEY: &str = include_str!("encrypted/key.pem");

    #[test]
    fn what_openssl_writes_is_read() {
        assert!(is_encrypted(KEY.as_bytes()));
        assert!(decrypt(KEY.as_bytes(), b"secret").is_ok());
        for wrong in [&b"Secret"[..], b"", b"secret\n"] {
            assert!(decrypt(KEY.as_bytes(), wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_changed_is_refused() {
        let body: String = KEY.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).unwrap();
        let pem = |der: &[u8]| format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(der));
        for length in 0..der.len() {
            assert!(decrypt(pem(&der[..length]).as_bytes(), b"secret").is_err(), "{length} octets");
        }
        // (What of the header is changed may be of no matter; nothing panics.)
        for at in 0..der.len() {
            let mut changed = der.clone();
            changed[at] ^= 0x40;
            let _ = decrypt(pem(&changed).as_bytes(), b"secret");
        }
        assert!(decrypt(BEGIN.as_bytes(), b"secret").is_err());
    }
}
