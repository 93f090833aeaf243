//! What is known of a TLS session and of the certificates that were shown in it: for access logs, headers and policies.
//!
//! Nothing here speaks TLS or verifies anything; the engine fills these values once a handshake is done.

use std::cell::RefCell;
use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use http::HeaderValue;

pub mod client_hello;
pub mod der;
pub mod ocsp;
pub mod san;
pub mod x509;

pub use san::SanMatcher;
pub use x509::{Certificate, San, SanKind, Usage, list_issued_and_due};

/// A TLS session, of either side.
#[derive(Clone, Debug, Default)]
pub struct TlsInfo {
    /// As Envoy spells it: `TLSv1.3`.
    pub version: &'static str,
    /// The name that OpenSSL gives the cipher suite.
    pub cipher: &'static str,
    /// The group of the key exchange; empty if there was none, in a session that was resumed.
    pub group: &'static str,
    /// The protocol that both agreed on (ALPN).
    pub alpn: Option<Vec<u8>>,
    /// The name of the server as the client asked for it.
    pub server_name: Option<String>,
    /// The peer's certificates, its own first; shared by all sessions with a peer that is known.
    pub peer: Arc<[PeerCertificate]>,
    /// Who issued the peer's certificate, where the peer did not show that.
    pub issuer: Option<Arc<PeerCertificate>>,
    /// Whether the peer's certificate was held to something, and held.
    pub validated: bool,
    /// The certificate of this side, if it showed one.
    pub local: Option<Arc<Certificate>>,
    /// `x-forwarded-client-cert` of its requests, once one was made.
    pub client_cert: OnceLock<Option<HeaderValue>>,
}

/// Values of `x-forwarded-client-cert` that were made for requests of one connection, by the number of what they are made by.
#[derive(Clone, Debug, Default)]
pub struct ClientCerts(RefCell<Vec<(u32, Option<HeaderValue>)>>);

impl ClientCerts {
    /// So many are kept.
    const MOST: usize = 16;

    /// The value of that number, which is made if it is not kept.
    pub fn get_or_make(
        &self,
        number: u32,
        make: impl FnOnce() -> Option<HeaderValue>,
    ) -> Option<HeaderValue> {
        let known = self.0.borrow().iter().find(|(of, _)| *of == number).map(|(_, value)| value.clone());
        known.unwrap_or_else(|| {
            let (made, mut kept) = (make(), self.0.borrow_mut());
            if kept.len() == Self::MOST {
                kept.clear();
            }
            kept.push((number, made.clone()));
            made
        })
    }
}

impl TlsInfo {
    /// The peer's own certificate.
    pub fn peer_certificate(&self) -> Option<&PeerCertificate> {
        self.peer.first()
    }
}

/// A certificate as it came, and its digests.
#[derive(Clone, Debug)]
pub struct PeerCertificate {
    /// DER.
    pub der: Vec<u8>,
    /// SHA-1.
    pub sha1: [u8; 20],
    /// SHA-256.
    pub sha256: [u8; 32],
    /// What it says; nothing if it cannot be read.
    pub content: Option<Certificate>,
}

impl PeerCertificate {
    /// PEM, percent-encoded as Envoy does: everything but letters, digits, `-`, `.`, `_` and `~`.
    pub fn url_encoded_pem(&self) -> String {
        url_encode(&pem(&self.der))
    }
}

/// Lower case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Percent-encodes PEM as Envoy does: what stands in base64 and in the lines around it, and no more.
pub fn url_encode(pem: &str) -> String {
    let mut encoded = String::with_capacity(pem.len() * 5 / 4);
    for letter in pem.chars() {
        match letter {
            '\n' => encoded.push_str("%0A"),
            ' ' => encoded.push_str("%20"),
            '+' => encoded.push_str("%2B"),
            '/' => encoded.push_str("%2F"),
            '=' => encoded.push_str("%3D"),
            other => encoded.push(other),
        }
    }
    encoded
}

/// The PEM of a certificate.
pub fn pem(der: &[u8]) -> String {
    const LINE: usize = 64;
    let encoded = base64(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, left) = rest.split_at(LINE.min(rest.len()));
        pem.push_str(line);
        pem.push('\n');
        rest = left;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// Base64 with padding (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for index in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * index) & 63) as usize];
            text.push(if index <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_said_of_a_client_is_made_once_of_each_kind() {
        let (certs, made) = (ClientCerts::default(), Cell::new(0));
        let value = |number: u32| {
            certs.get_or_make(number, || {
                made.set(made.get() + 1);
                (number > 0).then(|| HeaderValue::from(number))
            })
        };
        for _ in 0..3 {
            assert_eq!([0, 1, 2].map(value), [None, Some(HeaderValue::from(1)), Some(HeaderValue::from(2))]);
        }
        assert_eq!(made.get(), 3);
        // However many kinds there are, no more are kept than these.
        let all: Vec<_> = (1..100).map(|number| value(number).unwrap()).collect();
        assert_eq!(all, (1..100u32).map(HeaderValue::from).collect::<Vec<_>>());
        assert!(certs.0.borrow().len() <= ClientCerts::MOST);
    }

    #[test]
    fn base64_as_in_the_rfc() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }

    #[test]
    fn pem_has_short_lines() {
        let text = pem(&[7; 100]);
        assert!(text.lines().all(|line| line.len() <= 64));
        assert_eq!(text.lines().count(), 2 + 100_usize.div_ceil(3).div_ceil(16));
        assert!(!url_encode(&text).contains(['\n', ' ', '+', '/', '=']));
    }
}
