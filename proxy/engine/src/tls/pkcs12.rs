//! A certificate with its chain and key in one file under a password (PKCS #12), as `openssl pkcs12 -export` and Java's `keytool`
//! write them: PBES2 with AES, and a code of authentication over all of it.
//!
//! What is older (RC2 and triple DES by PBES1, which `openssl` writes with `-legacy`) is refused, and so is what nothing
//! authenticates. Source: RFC 7292; what a file must have observed on Envoy 1.40.

use std::borrow::Cow;

use aws_lc_rs::{digest, hmac};
use proxy_core::tls::der::{Reader, tag};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::encrypted::{self, MAX_ROUNDS, Pbes2};

/// PKCS #7: data, and data that is encrypted.
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const ENCRYPTED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 6];
/// Kinds of bags, up to the last octet: 1 is a key, 2 an encrypted one, 3 a certificate.
const BAG: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 12, 10, 1];
/// `x509Certificate`
const X509: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 22, 1];
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 26];
/// `sha...`, up to the last octet, which tells which.
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 1, 101, 3, 4, 2];
/// Tags of what is there by context: `[0]`, with an element in it, or in the place of one.
const EXPLICIT: u8 = 0xa0;
const IMPLICIT: u8 = 0x80;
/// What a key of a code of authentication is derived for (RFC 7292, B.3).
const FOR_MAC: u8 = 3;

const MALFORMED: &str = "it is no PKCS #12 in DER";
const OLD: &str = "it is encrypted in a way that is not known: PBES2 with PBKDF2 and AES-CBC is, which openssl writes without -legacy";
const UNAUTHENTICATED: &str = "nothing in it authenticates it: a MAC by HMAC is needed";
const WRONG: &str = "the password is not that of the file";
const TOO_MANY_ROUNDS: &str = "deriving its keys takes too many rounds";

/// What a file holds.
#[derive(Default)]
pub(super) struct Pkcs12 {
    /// In the order of the file.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// A key in PKCS #8, if there is one.
    pub(super) key: Option<PrivatePkcs8KeyDer<'static>>,
}

/// Reads a file under a password, which may be empty.
///
/// # Errors
/// Why it cannot be read; what is in it is not told.
pub(super) fn read(der: &[u8], password: &[u8]) -> Result<Pkcs12, &'static str> {
    let file = File::parse(der).ok_or(MALFORMED)?;
    let mut reading = Reading { password, rounds: MAX_ROUNDS, found: Pkcs12::default() };
    file.mac.ok_or(UNAUTHENTICATED)?.check(file.content, &mut reading)?;
    let safes = Reader::new(file.content).enter(tag::SEQUENCE).ok_or(MALFORMED)?;
    for safe in safes {
        reading.safe(Reader::new(safe.whole))?;
    }
    Ok(reading.found)
}

/// The outermost layer.
struct File<'d> {
    content: &'d [u8],
    /// `None` if it has none of a kind that is known.
    mac: Option<Mac<'d>>,
}

impl<'d> File<'d> {
    fn parse(der: &'d [u8]) -> Option<Self> {
        let mut whole = Reader::new(der).enter(tag::SEQUENCE)?;
        whole.expect(tag::INTEGER).filter(|version| *version == [3])?;
        let mut safe = whole.enter(tag::SEQUENCE)?;
        let is_data = safe.expect(tag::OID)? == DATA;
        let content = safe.enter(EXPLICIT).filter(|_| is_data)?.expect(tag::OCTET_STRING)?;
        Some(Self { content, mac: whole.enter(tag::SEQUENCE).and_then(Mac::parse) })
    }
}

/// What authenticates a file.
struct Mac<'d> {
    /// The function of digests, the same in HMAC, and the octets of a block of it.
    hash: &'static digest::Algorithm,
    hmac: hmac::Algorithm,
    block: usize,
    code: &'d [u8],
    salt: &'d [u8],
    rounds: u32,
}

impl<'d> Mac<'d> {
    fn parse(mut data: Reader<'d>) -> Option<Self> {
        let mut info = data.enter(tag::SEQUENCE)?;
        let oid = info.enter(tag::SEQUENCE)?.expect(tag::OID)?;
        let (hash, hmac, block) = match oid.strip_prefix(SHA2) {
            Some([1]) => (&digest::SHA256, hmac::HMAC_SHA256, 64),
            Some([2]) => (&digest::SHA384, hmac::HMAC_SHA384, 128),
            Some([3]) => (&digest::SHA512, hmac::HMAC_SHA512, 128),
            None if oid == SHA1 => {
                (&digest::SHA1_FOR_LEGACY_USE_ONLY, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, 64)
            }
            _ => return None,
        };
        let code = info.expect(tag::OCTET_STRING)?;
        let salt = data.expect(tag::OCTET_STRING)?;
        let rounds = match data.optional(tag::INTEGER) {
            Some(rounds) => encrypted::number(rounds.content)?.max(1),
            None => 1,
        };
        Some(Self { hash, hmac, block, code, salt, rounds })
    }

    fn check(&self, content: &[u8], reading: &mut Reading<'_>) -> Result<(), &'static str> {
        let text = std::str::from_utf8(reading.password).map_err(|_| "the password is not in UTF-8")?;
        // Two octets for each unit, and a zero at the end; who writes files under no password leaves that out, or does not.
        let mut octets: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        octets.extend([0, 0]);
        let passwords: &[&[u8]] = if text.is_empty() { &[&octets, &[]] } else { &[&octets] };
        for password in passwords {
            reading.spend(self.rounds)?;
            let key = hmac::Key::new(self.hmac, &self.derive(password));
            if hmac::verify(&key, content, self.code).is_ok() {
                return Ok(());
            }
        }
        Err(WRONG)
    }

    /// RFC 7292, appendix B.2, for a key as long as a digest.
    fn derive(&self, password: &[u8]) -> Vec<u8> {
        let filled = |octets: &[u8]| {
            let length = octets.len().div_ceil(self.block) * self.block;
            octets.iter().copied().cycle().take(length).collect::<Vec<u8>>()
        };
        let first = [vec![FOR_MAC; self.block], filled(self.salt), filled(password)].concat();
        let mut key = digest::digest(self.hash, &first);
        for _ in 1..self.rounds {
            key = digest::digest(self.hash, key.as_ref());
        }
        key.as_ref().to_vec()
    }
}

/// A file while it is read.
struct Reading<'p> {
    password: &'p [u8],
    /// How many rounds its keys may still take: they hold up the thread that reads configuration.
    rounds: u32,
    found: Pkcs12,
}

impl Reading<'_> {
    fn spend(&mut self, rounds: u32) -> Result<(), &'static str> {
        self.rounds = self.rounds.checked_sub(rounds).ok_or(TOO_MANY_ROUNDS)?;
        Ok(())
    }

    /// `ContentInfo`, with bags in it.
    fn safe(&mut self, mut safe: Reader<'_>) -> Result<(), &'static str> {
        let mut info = safe.enter(tag::SEQUENCE).ok_or(MALFORMED)?;
        let kind = info.expect(tag::OID).ok_or(MALFORMED)?;
        let mut content = info.enter(EXPLICIT).ok_or(MALFORMED)?;
        let bags = match kind {
            DATA => Cow::Borrowed(content.expect(tag::OCTET_STRING).ok_or(MALFORMED)?),
            ENCRYPTED_DATA => Cow::Owned(self.decrypt_data(content)?),
            _ => return Err(MALFORMED),
        };
        for bag in Reader::new(&bags).enter(tag::SEQUENCE).ok_or(MALFORMED)? {
            self.bag(Reader::new(bag.content))?;
        }
        Ok(())
    }

    fn decrypt_data(&mut self, mut content: Reader<'_>) -> Result<Vec<u8>, &'static str> {
        let mut parts = || {
            let mut data = content.enter(tag::SEQUENCE)?;
            data.expect(tag::INTEGER)?;
            let mut info = data.enter(tag::SEQUENCE)?;
            let is_data = info.expect(tag::OID)? == DATA;
            let algorithm = info.enter(tag::SEQUENCE).filter(|_| is_data)?;
            Some((algorithm, info.expect(IMPLICIT)?))
        };
        let (algorithm, data) = parts().ok_or(MALFORMED)?;
        self.decrypt(algorithm, data)
    }

    fn decrypt(&mut self, algorithm: Reader<'_>, data: &[u8]) -> Result<Vec<u8>, &'static str> {
        let scheme = Pbes2::parse(algorithm).ok_or(OLD)?;
        self.spend(scheme.rounds())?;
        scheme.decrypt(data, self.password).ok_or(WRONG)
    }

    fn bag(&mut self, mut bag: Reader<'_>) -> Result<(), &'static str> {
        let kind = bag.expect(tag::OID).ok_or(MALFORMED)?;
        let mut value = bag.enter(EXPLICIT).ok_or(MALFORMED)?;
        match kind.strip_prefix(BAG) {
            Some([1]) => self.key(value.element().ok_or(MALFORMED)?.whole.to_vec()),
            Some([2]) => {
                let mut whole = value.enter(tag::SEQUENCE).ok_or(MALFORMED)?;
                let algorithm = whole.enter(tag::SEQUENCE).ok_or(MALFORMED)?;
                let key = self.decrypt(algorithm, whole.expect(tag::OCTET_STRING).ok_or(MALFORMED)?)?;
                self.key(key)
            }
            Some([3]) => {
                let mut certificate = value.enter(tag::SEQUENCE).ok_or(MALFORMED)?;
                let is_x509 = certificate.expect(tag::OID).ok_or(MALFORMED)? == X509;
                let der = certificate.enter(EXPLICIT).and_then(|mut der| der.expect(tag::OCTET_STRING));
                if is_x509 {
                    let der = der.ok_or(MALFORMED)?.to_vec();
                    self.found.certificates.push(CertificateDer::from(der));
                }
                Ok(())
            }
            // Lists of revoked certificates, and secrets of others.
            _ => Ok(()),
        }
    }

    fn key(&mut self, der: Vec<u8>) -> Result<(), &'static str> {
        match self.found.key.replace(PrivatePkcs8KeyDer::from(der)) {
            None => Ok(()),
            Some(_) => Err("MULTIPLE_PRIVATE_KEYS_IN_PKCS12: it has several keys"),
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    /// `openssl pkcs12 -export -passout pass:secret` of a certificate and two authorities, in base64.
    const FILE: &str = include_str!("encrypted/chain.txt");
    /// `... -keypbe NONE -certpbe NONE -passout pass:`
    const PLAIN: &str = include_str!("encrypted/plain.txt");
    /// `... -legacy`
    const LEGACY: &str = include_str!("encrypted/legacy.txt");

    fn der(text: &str) -> Vec<u8> {
        STANDARD.decode(text.split_ascii_whitespace().collect::<String>()).unwrap()
    }

    #[test]
    fn what_openssl_writes_is_read() {
        let [file, plain, legacy] = [FILE, PLAIN, LEGACY].map(der);
        for (file, password) in [(&file, "secret"), (&plain, "")] {
            let read = read(file, password.as_bytes()).unwrap();
            assert_eq!(read.certificates.len(), 3);
            assert!(read.key.is_some());
        }
        for wrong in ["Secret", "", "secret\n"] {
            assert_eq!(read(&file, wrong.as_bytes()).err(), Some(WRONG), "{wrong:?}");
        }
        assert_eq!(read(&plain, b"x").err(), Some(WRONG));
        assert_eq!(read(&legacy, b"secret").err(), Some(OLD));
        assert_eq!(read(&file, b"\xff").err(), Some("the password is not in UTF-8"));
    }

    #[test]
    fn what_is_cut_off_or_changed_is_refused() {
        let [file, plain] = [FILE, PLAIN].map(der);
        for length in 0..file.len() {
            assert!(read(&file[..length], b"secret").is_err(), "{length} octets");
        }
        let whole = read(&plain, b"").unwrap();
        let content = File::parse(&plain).unwrap().content;
        let begin = content.as_ptr().addr() - plain.as_ptr().addr();
        let authenticated = begin..begin + content.len();
        assert!(authenticated.len() > plain.len() / 2, "{authenticated:?} of {}", plain.len());
        for at in 0..plain.len() {
            let mut changed = plain.clone();
            changed[at] ^= 0x40;
            match read(&changed, b"") {
                Err(_) => {}
                Ok(_) if authenticated.contains(&at) => panic!("octet {at} is another, and that is taken"),
                // What is around may differ: it says nothing of what is in the file.
                Ok(read) => {
                    assert_eq!(read.certificates, whole.certificates, "octet {at}");
                    let key = |read: &Pkcs12| read.key.as_ref().map(|key| key.secret_pkcs8_der().to_vec());
                    assert_eq!(key(&read), key(&whole), "octet {at}");
                }
            }
        }
    }

    #[test]
    fn rounds_are_limited() {
        let mut reading = Reading { password: b"", rounds: 10, found: Pkcs12::default() };
        assert_eq!(reading.spend(6), Ok(()));
        assert_eq!(reading.spend(6), Err(TOO_MANY_ROUNDS));
    }
}
