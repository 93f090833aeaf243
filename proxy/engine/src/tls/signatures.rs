//! Signatures of handshakes: which are made and which are taken, by the names that BoringSSL has for them (`signature_algorithms`).
//!
//! What is said here concerns handshakes. How certificates are signed is for whoever trusts their authorities, as in BoringSSL.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::params::skip;

/// Schemes by name: that of TLS 1.3, and those of key and hash.
const SCHEMES: &[(&str, &[&str], SignatureScheme)] = &[
    ("rsa_pkcs1_sha256", &["RSA+SHA256"], SignatureScheme::RSA_PKCS1_SHA256),
    ("rsa_pkcs1_sha384", &["RSA+SHA384"], SignatureScheme::RSA_PKCS1_SHA384),
    ("rsa_pkcs1_sha512", &["RSA+SHA512"], SignatureScheme::RSA_PKCS1_SHA512),
    ("ecdsa_secp256r1_sha256", &["ECDSA+SHA256"], SignatureScheme::ECDSA_NISTP256_SHA256),
    ("ecdsa_secp384r1_sha384", &["ECDSA+SHA384"], SignatureScheme::ECDSA_NISTP384_SHA384),
    ("ecdsa_secp521r1_sha512", &["ECDSA+SHA512"], SignatureScheme::ECDSA_NISTP521_SHA512),
    ("rsa_pss_rsae_sha256", &["RSA-PSS+SHA256", "PSS+SHA256"], SignatureScheme::RSA_PSS_SHA256),
    ("rsa_pss_rsae_sha384", &["RSA-PSS+SHA384", "PSS+SHA384"], SignatureScheme::RSA_PSS_SHA384),
    ("rsa_pss_rsae_sha512", &["RSA-PSS+SHA512", "PSS+SHA512"], SignatureScheme::RSA_PSS_SHA512),
    ("ed25519", &[], SignatureScheme::ED25519),
];

/// Schemes that BoringSSL has and this proxy does not.
const LEGACY: &[&str] = &["rsa_pkcs1_sha1", "RSA+SHA1", "ecdsa_sha1", "ECDSA+SHA1"];

/// The schemes that are made and taken, by preference; all that are safe where nothing is said.
#[derive(Clone, Debug, Default)]
pub(super) struct Signatures(Option<Arc<[SignatureScheme]>>);

impl Signatures {
    /// These and no others.
    pub(super) fn only(schemes: &[SignatureScheme]) -> Self {
        Self(Some(schemes.into()))
    }

    /// Reads a list of names.
    pub(super) fn build(list: &[String], cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let all = list.join(":");
        if all.is_empty() {
            return Ok(Self::default());
        }
        cx.at("signature_algorithms", |cx| {
            let mut chosen: Vec<SignatureScheme> = Vec::new();
            for name in all.split(':') {
                let known = SCHEMES.iter().find(|(one, others, _)| *one == name || others.contains(&name));
                match known {
                    Some((.., scheme)) if !chosen.contains(scheme) => chosen.push(*scheme),
                    None if LEGACY.contains(&name) => skip(name, cx),
                    // (Of what is named twice BoringSSL takes nothing.)
                    Some(_) | None => {
                        return Err(cx.reject(format!("Failed to initialize TLS signature algorithms {all}")));
                    }
                }
            }
            match chosen.is_empty() {
                true => Err(cx.reject("none of these signature algorithms is available")),
                false => Ok(Self(Some(chosen.into()))),
            }
        })
    }

    /// Whether a signature of this scheme is taken.
    pub(super) fn takes(&self, scheme: SignatureScheme) -> bool {
        self.0.as_ref().is_none_or(|chosen| chosen.contains(&scheme))
    }

    /// Those of `all` that are taken, by preference.
    pub(super) fn among(&self, all: Vec<SignatureScheme>) -> Vec<SignatureScheme> {
        match &self.0 {
            Some(chosen) => chosen.iter().filter(|scheme| all.contains(scheme)).copied().collect(),
            None => all,
        }
    }

    /// A key that makes no others.
    pub(super) fn limit(&self, key: &Arc<CertifiedKey>) -> Arc<CertifiedKey> {
        let Some(schemes) = &self.0 else { return key.clone() };
        let limited = Limited { key: key.key.clone(), schemes: schemes.clone() };
        Arc::new(CertifiedKey { key: Arc::new(limited), ..CertifiedKey::clone(key) })
    }
}

/// A key that makes signatures of some schemes only, by our preference.
#[derive(Debug)]
struct Limited {
    key: Arc<dyn SigningKey>,
    schemes: Arc<[SignatureScheme]>,
}

impl SigningKey for Limited {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let both = self.schemes.iter().filter(|scheme| offered.contains(scheme));
        both.into_iter().find_map(|scheme| self.key.choose_scheme(&[*scheme]))
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        self.key.public_key()
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }
}
