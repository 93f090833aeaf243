//! A set of keys (RFC 7517), and what they say of a signature.
//!
//! Keys that cannot be used are left out; a set of which nothing is left is refused. RSA keys have 2,048 bits at least, where Envoy
//! takes shorter ones: signatures of those can be forged.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaPublicKeyComponents,
    VerificationAlgorithm,
};
use base64::Engine as _;
use prost_types::Struct;
use prost_types::value::Kind;
use proxy_core::jwt::{Algorithm, BASE64, Failure, Token, json};

/// A set of keys.
#[derive(Debug)]
pub(super) struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    /// Empty if it has none.
    id: String,
    /// What it is for, if it says so.
    algorithm: Option<Algorithm>,
    kind: KeyKind,
}

#[derive(Debug)]
enum KeyKind {
    /// With what each of the algorithms that it may be used with needs.
    Public(Vec<(Algorithm, ParsedPublicKey)>),
    Secret(Vec<(Algorithm, hmac::Key)>),
}

const ED25519_SIGNATURE: usize = 64;

impl Keys {
    /// Reads a set.
    pub(super) fn parse(text: &[u8]) -> Result<Self, Failure> {
        let set = json::object(text).ok_or(Failure::KeysBadJson)?;
        let Some(keys) = set.fields.get("keys") else { return Err(Failure::NoKeys) };
        let Some(Kind::ListValue(list)) = &keys.kind else { return Err(Failure::BadKeys) };
        let keys: Vec<Key> = list
            .values
            .iter()
            .filter_map(|value| match &value.kind {
                Some(Kind::StructValue(key)) => Key::parse(key),
                _ => None,
            })
            .collect();
        if keys.is_empty() { Err(Failure::NoValidKeys) } else { Ok(Self(keys)) }
    }

    /// Whether one of them made the signature of a token.
    pub(super) fn verify(&self, token: &Token<'_>) -> Result<(), Failure> {
        let (mut failure, key_id) = (Failure::KidAlgMismatch, token.key_id());
        for key in &self.0 {
            let other_id = !key_id.is_empty() && !key.id.is_empty() && key.id != key_id;
            if other_id || key.algorithm.is_some_and(|algorithm| algorithm != token.algorithm) {
                continue;
            }
            failure = Failure::VerificationFail;
            if key.verify(token)? {
                return Ok(());
            }
        }
        Err(failure)
    }
}

impl Key {
    fn parse(key: &Struct) -> Option<Self> {
        let member = |name: &str| match &key.fields.get(name)?.kind {
            Some(Kind::StringValue(text)) => Some(text.as_str()),
            _ => None,
        };
        let octets = |name: &str| BASE64.decode(member(name)?).ok();
        let named = member("alg").filter(|name| !name.is_empty());
        let algorithm = named.and_then(Algorithm::parse);
        if named.is_some() && algorithm.is_none() {
            return None;
        }
        let kind = match member("kty")? {
            "RSA" => KeyKind::rsa(&octets("n")?, &octets("e")?)?,
            "EC" => KeyKind::elliptic(member("crv"), algorithm, &octets("x")?, &octets("y")?)?,
            "oct" => KeyKind::secret(&octets("k")?)?,
            "OKP" if member("crv")? == "Ed25519" => {
                KeyKind::Public(vec![(Algorithm::EdDsa, ParsedPublicKey::new(&ED25519, octets("x")?).ok()?)])
            }
            _ => return None,
        };
        // a key that says what it is for and is of another kind is none
        if algorithm.is_some_and(|algorithm| !kind.is_for(algorithm)) {
            return None;
        }
        Some(Self { id: member("kid").unwrap_or_default().to_owned(), algorithm, kind })
    }

    /// Whether it made the signature. An algorithm of another kind of key is no signature of this one: above all nobody makes a
    /// secret of what is public.
    fn verify(&self, token: &Token<'_>) -> Result<bool, Failure> {
        let (signed, signature) = (token.signed.as_bytes(), &token.signature[..]);
        match &self.kind {
            KeyKind::Public(keys) => {
                let Some((algorithm, key)) = keys.iter().find(|(name, _)| *name == token.algorithm) else {
                    return Ok(false);
                };
                if *algorithm == Algorithm::EdDsa && signature.len() != ED25519_SIGNATURE {
                    return Err(Failure::Ed25519WrongLength);
                }
                Ok(key.verify_sig(signed, signature).is_ok())
            }
            KeyKind::Secret(keys) => {
                let key = keys.iter().find(|(name, _)| *name == token.algorithm);
                Ok(key.is_some_and(|(_, key)| hmac::verify(key, signed, signature).is_ok()))
            }
        }
    }
}

impl KeyKind {
    fn is_for(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Public(keys) => keys.iter().any(|(name, _)| *name == algorithm),
            Self::Secret(keys) => keys.iter().any(|(name, _)| *name == algorithm),
        }
    }

    fn rsa(n: &[u8], e: &[u8]) -> Option<Self> {
        if !matches!(e, [3] | [1, 0, 1]) {
            return None;
        }
        let key: PublicEncryptingKey = RsaPublicKeyComponents { n, e }.try_into().ok()?;
        let der: PublicKeyX509Der<'_> = key.as_der().ok()?;
        let algorithms: [(Algorithm, &'static dyn VerificationAlgorithm); 6] = [
            (Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
            (Algorithm::Rs384, &RSA_PKCS1_2048_8192_SHA384),
            (Algorithm::Rs512, &RSA_PKCS1_2048_8192_SHA512),
            (Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256),
            (Algorithm::Ps384, &RSA_PSS_2048_8192_SHA384),
            (Algorithm::Ps512, &RSA_PSS_2048_8192_SHA512),
        ];
        let parse = |(name, algorithm)| Some((name, ParsedPublicKey::new(algorithm, der.as_ref()).ok()?));
        algorithms.into_iter().map(parse).collect::<Option<_>>().map(Self::Public)
    }

    fn elliptic(curve: Option<&str>, algorithm: Option<Algorithm>, x: &[u8], y: &[u8]) -> Option<Self> {
        let curve = match (curve.filter(|name| !name.is_empty()), algorithm) {
            (Some(curve), _) => curve,
            (None, None | Some(Algorithm::Es256)) => "P-256",
            (None, Some(Algorithm::Es384)) => "P-384",
            (None, Some(Algorithm::Es512)) => "P-521",
            (None, Some(_)) => return None,
        };
        let (name, algorithm, length): (_, &'static dyn VerificationAlgorithm, usize) = match curve {
            "P-256" => (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32),
            "P-384" => (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48),
            "P-521" => (Algorithm::Es512, &ECDSA_P521_SHA512_FIXED, 66),
            _ => return None,
        };
        // an uncompressed point: SEC 1, section 2.3.3
        let mut point = vec![4];
        for coordinate in [x, y] {
            point.resize(point.len() + length.checked_sub(coordinate.len())?, 0);
            point.extend_from_slice(coordinate);
        }
        Some(Self::Public(vec![(name, ParsedPublicKey::new(algorithm, point).ok()?)]))
    }

    fn secret(key: &[u8]) -> Option<Self> {
        let keyed = |algorithm| hmac::Key::new(algorithm, key);
        (!key.is_empty()).then(|| {
            Self::Secret(vec![
                (Algorithm::Hs256, keyed(hmac::HMAC_SHA256)),
                (Algorithm::Hs384, keyed(hmac::HMAC_SHA384)),
                (Algorithm::Hs512, keyed(hmac::HMAC_SHA512)),
            ])
        })
    }
}
