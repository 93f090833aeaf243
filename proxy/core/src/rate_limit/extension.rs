//! Entries that extensions of the API make: of an expression, or of a claim in a token.
//!
//! Source: Envoy `envoy/extensions/rate_limit_descriptors/{expr,jwt_claim}/v3`; answers observed on 1.40.

use prost_types::value::Kind;
use xds_api::envoy::config::core::v3::TypedExtensionConfig;
use xds_api::envoy::extensions::rate_limit_descriptors::{expr::v3 as expr, jwt_claim::v3 as jwt_claim};

use super::Subject;
use super::action::{Absent, Action, first};
use crate::cel;
use crate::config::{BuildCx, Rejected};
use crate::extension::decode;
use crate::jwt::Token;
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
        let token = Token::parse(value.strip_prefix(&*self.prefix)?).ok()?;
        match token.claim(&self.path)? {
            Kind::StringValue(text) => Some(text.clone()),
            _ => None,
        }
    }
}
