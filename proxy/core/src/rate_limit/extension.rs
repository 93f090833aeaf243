//! Entries that extensions of the API make: of an expression, or of a claim in a token.
//!
//! Source: Envoy `envoy/extensions/rate_limit_descriptors/{expr,jwt_claim}/v3`; answers observed on 1.40.

use std::cell::RefCell;

use prost_types::Struct;
use prost_types::value::Kind;
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::extensions::rate_limit_descriptors::{expr::v3 as expr, jwt_claim::v3 as jwt_claim};

use super::Subject;
use super::action::{Absent, Action, first};
use crate::cel;
use crate::config::{BuildCx, Rejected};
use crate::extension::decode;
use crate::jwt::{Token, claim};
use crate::matcher::RequestHeader;
use crate::matcher::cookie::cookie;

const EXPR: &str = "envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor";
const JWT_CLAIM: &str = "envoy.extensions.rate_limit_descriptors.jwt_claim.v3.Descriptor";

/// A claim of a token that a request carries. Nobody verifies the token: whoever sends the request chooses what the claim says.
#[derive(Debug)]
pub(super) struct Claim {
    place: Place,
    prefix: Box<str>,
    path: Box<[String]>,
    default: Box<str>,
}

/// Where the token is.
#[derive(Debug)]
enum Place {
    Header(RequestHeader),
    Cookie(Box<str>),
}

pub(super) fn build(proto: &TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Action, Rejected> {
    cx.at("typed_config", |cx| {
        let Some(any) = &proto.typed_config else { return Err(cx.reject("value is required")) };
        let (message, payload) = cx.unpack(any)?;
        match message.as_str() {
            EXPR => build_expression(&payload, cx),
            JWT_CLAIM => build_claim(&payload, cx),
            _ => Err(cx.reject(format!(
                "Didn't find a registered implementation for '{}' with type URL: '{message}'",
                proto.name
            ))),
        }
    })
}

fn build_expression(payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Action, Rejected> {
    let expr::Descriptor { descriptor_key, skip_if_error, expr_specifier } = decode(payload, cx)?;
    let program = match expr_specifier {
        None => return Err(cx.reject("expr_specifier: value is required")),
        Some(expr::descriptor::ExprSpecifier::Text(text)) => {
            cx.at("text", |cx| cel::Program::parse(&text, None).map_err(|reason| cx.reject(reason)))?
        }
        Some(expr::descriptor::ExprSpecifier::Parsed(parsed)) => {
            cx.at("parsed", |cx| cel::Program::build(&parsed, None).map_err(|reason| cx.reject(reason)))?
        }
    };
    let absent = Absent::new(skip_if_error);
    Ok(Action::Expression { key: descriptor_key.as_str().into(), program, absent })
}

fn build_claim(payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Action, Rejected> {
    let jwt_claim::Descriptor {
        descriptor_key,
        header_name,
        cookie,
        value_prefix,
        claim_name,
        default_value,
        skip_if_absent,
    } = decode(payload, cx)?;
    let place = match (header_name.as_str(), cookie.as_str()) {
        (name, "") if !name.is_empty() => {
            Place::Header(cx.at("header_name", |cx| RequestHeader::build(name, cx))?)
        }
        ("", name) if !name.is_empty() => Place::Cookie(name.into()),
        _ => {
            let reason = "jwt_claim descriptor: exactly one of header_name or cookie must be set";
            return Err(cx.reject(reason));
        }
    };
    let claim = Claim {
        place,
        prefix: value_prefix.into(),
        path: claim_name.split('.').map(str::to_owned).collect(),
        default: default_value.into(),
    };
    let absent = Absent::new(skip_if_absent);
    Ok(Action::Claim { key: descriptor_key.into(), claim: Box::new(claim), absent })
}

impl Claim {
    /// What the claim says if it is a text, else the default if there is one.
    pub(super) fn text(&self, subject: &Subject<'_>) -> Option<String> {
        self.said(subject).or_else(|| Some(&*self.default).filter(|text| !text.is_empty()).map(str::to_owned))
    }

    fn said(&self, subject: &Subject<'_>) -> Option<String> {
        let value = match &self.place {
            Place::Header(name) => first(name, subject.request)?,
            Place::Cookie(name) => String::from_utf8_lossy(cookie(&subject.request.headers, name)?),
        };
        subject.tokens.claim(value.strip_prefix(&*self.prefix)?, &self.path)
    }
}

/// What tokens of a request say that were looked at: several rate limits may ask for claims of one.
#[derive(Debug, Default)]
pub struct Tokens(RefCell<Vec<(Box<str>, Option<Struct>)>>);

impl Tokens {
    /// The claim of a token at a path, if it is a text.
    fn claim(&self, token: &str, path: &[String]) -> Option<String> {
        let mut known = self.0.borrow_mut();
        let place = known.iter().position(|(text, _)| **text == *token).unwrap_or_else(|| {
            known.push((token.into(), Token::parse(token).ok().map(|token| token.payload)));
            known.len() - 1
        });
        match claim(known.get(place)?.1.as_ref()?, path)? {
            Kind::StringValue(text) => Some(text.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::*;
    use crate::jwt::BASE64;

    #[test]
    fn a_token_is_read_once() {
        let [header, payload] =
            [r#"{"alg":"ES256"}"#, r#"{"sub":"s","in":{"a":"b"}}"#].map(|part| BASE64.encode(part));
        let token = format!("{header}.{payload}.c2ln");
        let tokens = Tokens::default();
        let claim = |token: &str, path: &[&str]| {
            tokens.claim(token, &path.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>())
        };
        for _ in 0..2 {
            assert_eq!(claim(&token, &["sub"]).as_deref(), Some("s"));
            assert_eq!(claim("none", &["sub"]), None);
            assert_eq!(claim(&token, &["in", "a"]).as_deref(), Some("b"));
            assert_eq!(claim(&token, &["in"]), None);
        }
        assert_eq!(tokens.0.borrow().len(), 2);
    }
}
