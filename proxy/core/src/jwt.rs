//! A JSON Web Token as it is read before anybody trusts it (RFC 7515, RFC 7519).

mod failure;
pub mod json;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_types::value::Kind;
use prost_types::{Struct, Value};

pub use failure::Failure;

/// Base64 for URLs, with padding or without.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// How a token is signed (RFC 7518, section 3.1; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Es256,
    Es384,
    Es512,
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    EdDsa,
}

impl Algorithm {
    /// By its name; `None` for all that is not a signature, above all `none`.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A token whose form is right; whether what it says is true is another matter.
pub struct Token {
    /// How it says that it is signed.
    pub algorithm: Algorithm,
    /// The part of the header that names the key; empty if none does.
    pub key_id: String,
    /// Its header.
    pub header: Struct,
    /// Its payload: the claims.
    pub payload: Struct,
    /// The payload as it came.
    pub payload_base64: String,
    /// What is signed.
    pub signed: String,
    /// The signature, not verified.
    pub signature: Vec<u8>,
    /// Who made it (`iss`); empty if it is not said.
    pub issuer: String,
    /// Whom it is about (`sub`); empty if it is not said.
    pub subject: String,
    /// Whom it is for (`aud`).
    pub audiences: Vec<String>,
    /// Seconds since 1970; 0 if it is not said.
    pub not_before: u64,
    /// Likewise.
    pub expires: u64,
}

impl Token {
    /// Reads a token; what it says is not verified.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let mut parts = text.split('.').filter(|part| !part.is_empty());
        let (Some(header_part), Some(payload_part), Some(signature_part), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::BadFormat);
        };
        let header = BASE64.decode(header_part).map_err(|_| Failure::HeaderBadBase64)?;
        let header = json::object(&header).ok_or(Failure::HeaderBadJson)?;
        let Some(Kind::StringValue(name)) = kind(&header, "alg") else { return Err(Failure::HeaderBadAlg) };
        let algorithm = Algorithm::parse(name).ok_or(Failure::HeaderNotImplementedAlg)?;
        let key_id = text_of(&header, "kid").map_err(|()| Failure::HeaderBadKid)?;
        let payload = BASE64.decode(payload_part).map_err(|_| Failure::PayloadBadBase64)?;
        let payload = json::object(&payload).ok_or(Failure::PayloadBadJson)?;
        let issuer = text_of(&payload, "iss").map_err(|()| Failure::IssNotString)?;
        let subject = text_of(&payload, "sub").map_err(|()| Failure::SubNotString)?;
        let time = |claim, not_integer, out_of_range| match kind(&payload, claim) {
            None => Ok(0),
            Some(Kind::NumberValue(number)) => seconds(*number).ok_or(out_of_range),
            Some(_) => Err(not_integer),
        };
        time("iat", Failure::IatNotInteger, Failure::IatOutOfRange)?;
        let not_before = time("nbf", Failure::NbfNotInteger, Failure::NbfOutOfRange)?;
        let expires = time("exp", Failure::ExpNotInteger, Failure::ExpOutOfRange)?;
        text_of(&payload, "jti").map_err(|()| Failure::JtiNotString)?;
        let audiences = audiences(&payload).ok_or(Failure::AudNotString)?;
        let signature = BASE64.decode(signature_part).map_err(|_| Failure::SignatureBadBase64)?;
        Ok(Self {
            algorithm,
            key_id,
            payload_base64: payload_part.to_owned(),
            signed: format!("{header_part}.{payload_part}"),
            signature,
            issuer,
            subject,
            audiences,
            not_before,
            expires,
            header,
            payload,
        })
    }

    /// The claim at a path.
    pub fn claim(&self, path: &[String]) -> Option<&Kind> {
        let (first, rest) = path.split_first()?;
        let mut value = self.payload.fields.get(first)?;
        for key in rest {
            let Some(Kind::StructValue(inner)) = &value.kind else { return None };
            value = inner.fields.get(key)?;
        }
        value.kind.as_ref()
    }
}

fn kind<'s>(object: &'s Struct, key: &str) -> Option<&'s Kind> {
    object.fields.get(key)?.kind.as_ref()
}

/// A member that is a string, empty if there is none.
fn text_of(object: &Struct, key: &str) -> Result<String, ()> {
    match kind(object, key) {
        None => Ok(String::new()),
        Some(Kind::StringValue(text)) => Ok(text.clone()),
        Some(_) => Err(()),
    }
}

fn seconds(number: f64) -> Option<u64> {
    #[expect(clippy::cast_precision_loss, reason = "the next larger number is as good a limit")]
    let most = u64::MAX as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
    (0.0..most).contains(&number).then_some(number as u64)
}

fn audiences(payload: &Struct) -> Option<Vec<String>> {
    match kind(payload, "aud") {
        None => Some(Vec::new()),
        Some(Kind::StringValue(one)) => Some(vec![one.clone()]),
        Some(Kind::ListValue(list)) => list
            .values
            .iter()
            .map(|value| match value {
                Value { kind: Some(Kind::StringValue(text)) } => Some(text.clone()),
                _ => None,
            })
            .collect(),
        Some(_) => None,
    }
}
