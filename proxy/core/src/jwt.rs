//! A JSON Web Token as it is read before anybody trusts it (RFC 7515, RFC 7519).

mod failure;
pub mod json;

use std::borrow::Cow;

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
pub struct Token<'t> {
    /// How it says that it is signed.
    pub algorithm: Algorithm,
    /// Its header.
    pub header: Struct,
    /// Its payload: the claims.
    pub payload: Struct,
    /// The payload as it came.
    pub payload_base64: &'t str,
    /// What is signed.
    pub signed: Cow<'t, str>,
    /// The signature, not verified.
    pub signature: Vec<u8>,
    /// Seconds since 1970; 0 if it is not said.
    pub not_before: u64,
    /// Likewise.
    pub expires: u64,
}

impl<'t> Token<'t> {
    /// Reads a token; what it says is not verified.
    ///
    /// # Errors
    /// Its form is not that of a token, or what it says of itself is of another kind than it must be.
    pub fn parse(text: &'t str) -> Result<Self, Failure> {
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
        text_of(&header, "kid").ok_or(Failure::HeaderBadKid)?;
        let payload = BASE64.decode(payload_part).map_err(|_| Failure::PayloadBadBase64)?;
        let payload = json::object(&payload).ok_or(Failure::PayloadBadJson)?;
        text_of(&payload, "iss").ok_or(Failure::IssNotString)?;
        text_of(&payload, "sub").ok_or(Failure::SubNotString)?;
        let time = |claim, not_integer, out_of_range| match kind(&payload, claim) {
            None => Ok(0),
            Some(Kind::NumberValue(number)) => seconds(*number).ok_or(out_of_range),
            Some(_) => Err(not_integer),
        };
        time("iat", Failure::IatNotInteger, Failure::IatOutOfRange)?;
        let not_before = time("nbf", Failure::NbfNotInteger, Failure::NbfOutOfRange)?;
        let expires = time("exp", Failure::ExpNotInteger, Failure::ExpOutOfRange)?;
        text_of(&payload, "jti").ok_or(Failure::JtiNotString)?;
        if audiences(&payload).iter().any(|audience| as_text(audience).is_none()) {
            return Err(Failure::AudNotString);
        }
        let signature = BASE64.decode(signature_part).map_err(|_| Failure::SignatureBadBase64)?;
        let signed = signed(text, header_part, payload_part);
        Ok(Self {
            algorithm,
            header,
            payload,
            payload_base64: payload_part,
            signed,
            signature,
            not_before,
            expires,
        })
    }

    /// The part of the header that names the key (`kid`); empty if none does.
    pub fn key_id(&self) -> &str {
        text_of(&self.header, "kid").unwrap_or_default()
    }

    /// Who made it (`iss`); empty if it is not said.
    pub fn issuer(&self) -> &str {
        text_of(&self.payload, "iss").unwrap_or_default()
    }

    /// Whom it is about (`sub`); empty if it is not said.
    pub fn subject(&self) -> &str {
        text_of(&self.payload, "sub").unwrap_or_default()
    }

    /// Whom it is for (`aud`).
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        audiences(&self.payload).iter().filter_map(as_text)
    }
}

/// The claim of a payload at a path.
pub fn claim<'p>(payload: &'p Struct, path: &[String]) -> Option<&'p Kind> {
    let (first, rest) = path.split_first()?;
    let mut value = payload.fields.get(first)?;
    for key in rest {
        let Some(Kind::StructValue(inner)) = &value.kind else { return None };
        value = inner.fields.get(key)?;
    }
    value.kind.as_ref()
}

fn kind<'s>(object: &'s Struct, key: &str) -> Option<&'s Kind> {
    object.fields.get(key)?.kind.as_ref()
}

/// A member that is a text, empty if there is none; `None` if it is something else.
fn text_of<'s>(object: &'s Struct, key: &str) -> Option<&'s str> {
    object.fields.get(key).map_or(Some(""), as_text)
}

fn as_text(value: &Value) -> Option<&str> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

fn seconds(number: f64) -> Option<u64> {
    #[expect(clippy::cast_precision_loss, reason = "the next larger number is as good a limit")]
    let most = u64::MAX as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the range")]
    (0.0..most).contains(&number).then_some(number as u64)
}

/// What the payload says of audiences: one, or a list of them.
fn audiences(payload: &Struct) -> &[Value] {
    match payload.fields.get("aud") {
        None => &[],
        Some(Value { kind: Some(Kind::ListValue(list)) }) => &list.values,
        Some(one) => std::slice::from_ref(one),
    }
}

/// What is signed: two parts of `text`, with one dot between them.
fn signed<'t>(text: &'t str, header: &str, payload: &str) -> Cow<'t, str> {
    let text = text.trim_start_matches('.');
    match text.get(..header.len() + 1 + payload.len()) {
        Some(signed) if signed.ends_with(payload) => Cow::Borrowed(signed),
        // (An empty part is none: there may be more dots.)
        _ => Cow::Owned(format!("{header}.{payload}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, payload: &str) -> String {
        format!("{}.{}.{}", BASE64.encode(header), BASE64.encode(payload), BASE64.encode("sig"))
    }

    const HEADER: &str = r#"{"alg":"ES256","kid":"k"}"#;

    #[test]
    fn what_is_signed_lies_in_the_token() {
        let text = token(HEADER, r#"{"iss":"i"}"#);
        let end = text.rfind('.').unwrap();
        let (signed, payload) = (&text[..end], text.split('.').nth(1).unwrap());
        for (text, is_borrowed) in [
            (text.clone(), true),
            (format!("..{text}."), true),
            (text.replacen('.', "..", 1), false),
            (text.replacen('.', "...", 1), false),
        ] {
            let token = Token::parse(&text).ok().unwrap();
            assert_eq!(token.signed, signed, "{text}");
            assert_eq!(matches!(token.signed, Cow::Borrowed(_)), is_borrowed, "{text}");
            assert_eq!(token.payload_base64, payload, "{text}");
            assert_eq!(token.signature, b"sig");
        }
    }

    #[test]
    fn what_a_token_says_of_itself_is_of_its_kind() {
        let failure = |header: &str, payload: &str| Token::parse(&token(header, payload)).err();
        for (payload, expected) in [
            (r#"{"iss":1}"#, Some(Failure::IssNotString)),
            (r#"{"iss":null}"#, Some(Failure::IssNotString)),
            (r#"{"sub":[]}"#, Some(Failure::SubNotString)),
            (r#"{"jti":{}}"#, Some(Failure::JtiNotString)),
            (r#"{"aud":null}"#, Some(Failure::AudNotString)),
            (r#"{"aud":["a",1]}"#, Some(Failure::AudNotString)),
            (r#"{"aud":[["a"]]}"#, Some(Failure::AudNotString)),
            (r#"{"aud":[]}"#, None),
            ("{}", None),
        ] {
            assert_eq!(failure(HEADER, payload), expected, "{payload}");
        }
        assert_eq!(failure(r#"{"alg":"ES256","kid":1}"#, "{}"), Some(Failure::HeaderBadKid));
    }

    #[test]
    fn what_a_token_says_of_itself_is_empty_if_it_is_not_said() {
        let said = |header: &str, payload: &str| {
            let text = token(header, payload);
            let token = Token::parse(&text).ok().unwrap();
            let audiences: Vec<_> = token.audiences().collect();
            format!("{} {} {} {audiences:?}", token.key_id(), token.issuer(), token.subject())
        };
        assert_eq!(said(HEADER, r#"{"iss":"i","sub":"s","aud":"a"}"#), r#"k i s ["a"]"#);
        assert_eq!(said(r#"{"alg":"ES256"}"#, r#"{"aud":["a","b"]}"#), r#"   ["a", "b"]"#);
        assert_eq!(said(HEADER, "{}"), "k   []");
    }
}
