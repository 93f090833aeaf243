//! One rule: where a value is, and what becomes of it.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::matcher::cookie::cookie;
use proxy_core::matcher::{RegexRewrite, RequestHeader};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::http::header_to_metadata::v3::config as proto;
use xds_api::envoy::extensions::filters::http::header_to_metadata::v3::config::{ValueEncode, ValueType};

/// Bytes of the shortest value that is left out.
const TOO_LONG: usize = 8 * 1024;
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One rule.
pub(super) struct Rule {
    source: Source,
    present: Option<Pair>,
    missing: Option<Pair>,
}

enum Source {
    Header { name: RequestHeader, removed: bool },
    Cookie(Box<str>),
}

/// What is left in metadata.
struct Pair {
    namespace: Box<str>,
    key: Box<str>,
    /// In place of what was found, unless empty.
    value: Box<str>,
    rewrite: Option<RegexRewrite>,
    kind: ValueType,
    encode: ValueEncode,
}

/// What a rule came to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Nothing was there, and there is something for that.
    pub(super) is_missing: bool,
    /// Rewriting left nothing of the value.
    pub(super) is_emptied: bool,
    /// The value is too long.
    pub(super) is_too_long: bool,
    /// The value is no base64.
    pub(super) is_no_base64: bool,
    /// The value, if there is one.
    pub(super) value: Option<Value>,
}

impl Rule {
    pub(super) fn build(rule: &proto::Rule, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::Rule { header, cookie, on_header_present, on_header_missing, remove } = rule;
        let (source, name) = match (header.as_str(), cookie.as_str()) {
            ("", "") => return Err(cx.reject("One of Cookie or Header option needs to be specified")),
            ("", _) if *remove => {
                return Err(cx.at("remove", |cx| cx.reject("Cannot specify remove for cookie")));
            }
            ("", name) => (Source::Cookie(name.into()), format!("cookie '{name}'")),
            (name, "") => {
                let parsed = cx.at("header", |cx| RequestHeader::build(name, cx))?;
                if *remove && !matches!(parsed, RequestHeader::Named(_)) {
                    let reason = "pseudo-headers and host cannot be removed";
                    return Err(cx.at("remove", |cx| cx.reject(reason)));
                }
                (Source::Header { name: parsed, removed: *remove }, format!("header '{name}'"))
            }
            (_, _) => return Err(cx.reject("Cannot specify both header and cookie")),
        };
        if on_header_present.is_none() && on_header_missing.is_none() {
            return Err(cx.reject(format!(
                "header to metadata filter: rule for {name} has neither `on_header_present` nor `on_header_missing` \
                 set"
            )));
        }
        let present = on_header_present.as_ref();
        let present = present.map(|pair| cx.at("on_header_present", |cx| Pair::build(pair, cx)));
        let missing = on_header_missing.as_ref().map(|pair| {
            cx.at("on_header_missing", |cx| match pair.value.is_empty() {
                true => Err(cx.reject("Cannot specify on_header_missing rule with an empty value")),
                false => Pair::build(pair, cx),
            })
        });
        Ok(Self { source, present: present.transpose()?, missing: missing.transpose()? })
    }

    /// What it comes to for a request, which may lose the header by it.
    pub(super) fn of_request(&self, request: &mut RequestHead) -> Outcome {
        match &self.source {
            Source::Cookie(name) => self.of(of_cookie(&request.headers, name)),
            Source::Header { name, removed } => {
                let outcome = self.of(name.in_request(request));
                remove(name, *removed, &mut request.headers);
                outcome
            }
        }
    }

    /// The same for a response.
    pub(super) fn of_response(&self, response: &mut ResponseHead) -> Outcome {
        match &self.source {
            Source::Cookie(name) => self.of(of_cookie(&response.headers, name)),
            Source::Header { name, removed } => {
                let outcome = self.of(name.in_response(response));
                remove(name, *removed, &mut response.headers);
                outcome
            }
        }
    }

    fn of(&self, found: Option<Cow<'_, [u8]>>) -> Outcome {
        let is_missing = found.is_none() && self.missing.is_some();
        let outcome = Outcome { is_missing, ..Outcome::default() };
        match (found, &self.present, &self.missing) {
            (Some(found), Some(pair), _) => pair.of(found, outcome),
            (None, _, Some(pair)) => pair.of(Cow::Borrowed(&[]), outcome),
            (Some(_), None, _) | (None, _, None) => outcome,
        }
    }

    /// Leaves the value where it belongs.
    pub(super) fn leave(&self, outcome: Outcome, info: &mut StreamInfo) {
        let pair = if outcome.is_missing { &self.missing } else { &self.present };
        if let (Some(pair), Some(value)) = (pair, outcome.value) {
            info.metadata.merge(&pair.namespace, Struct { fields: [(pair.key.to_string(), value)].into() });
        }
    }
}

fn of_cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<Cow<'h, [u8]>> {
    cookie(headers, name).filter(|value| !value.is_empty()).map(Cow::Borrowed)
}

fn remove(name: &RequestHeader, removed: bool, headers: &mut HeaderMap) {
    if let RequestHeader::Named(name) = name
        && removed
    {
        headers.remove(name);
    }
}

impl Pair {
    fn build(pair: &proto::KeyValuePair, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::KeyValuePair { metadata_namespace, key, value, regex_value_rewrite, r#type, encode } =
            pair;
        if key.is_empty() {
            return Err(cx.at("key", |cx| cx.reject("value length must be at least 1 characters")));
        }
        if !value.is_empty() && regex_value_rewrite.is_some() {
            return Err(cx.reject("Cannot specify both value and regex_value_rewrite"));
        }
        let rewrite = regex_value_rewrite.as_ref();
        let rewrite =
            rewrite.map(|rewrite| cx.at("regex_value_rewrite", |cx| RegexRewrite::build(rewrite, cx)));
        let undefined = "value must be one of the defined enum values";
        let kind = ValueType::try_from(*r#type);
        let kind = kind.map_err(|_| cx.at("type", |cx| cx.reject(undefined)))?;
        let encode = ValueEncode::try_from(*encode);
        let encode = encode.map_err(|_| cx.at("encode", |cx| cx.reject(undefined)))?;
        let namespace = match metadata_namespace.as_str() {
            "" => super::NAME,
            namespace => namespace,
        };
        Ok(Self {
            namespace: namespace.into(),
            key: key.as_str().into(),
            value: value.as_str().into(),
            rewrite: rewrite.transpose()?,
            kind,
            encode,
        })
    }

    fn of(&self, found: Cow<'_, [u8]>, mut outcome: Outcome) -> Outcome {
        let mut value = found;
        if !self.value.is_empty() {
            value = Cow::Borrowed(self.value.as_bytes());
        } else if let Some(rewritten) = self.rewrite.as_ref().and_then(|one| one.replace_all(&value)) {
            outcome.is_emptied = rewritten.is_empty() && !value.is_empty();
            value = Cow::Owned(rewritten);
        }
        if value.is_empty() {
            return outcome;
        }
        if value.len() >= TOO_LONG {
            outcome.is_too_long = true;
            return outcome;
        }
        if self.encode == ValueEncode::Base64 {
            match BASE64.decode(&value).ok().filter(|decoded| !decoded.is_empty()) {
                Some(decoded) => value = Cow::Owned(decoded),
                None => {
                    outcome.is_no_base64 = true;
                    return outcome;
                }
            }
        }
        outcome.value = typed(&value, self.kind);
        outcome
    }
}

/// The value as one of its type; `None` if it is none.
fn typed(value: &[u8], kind: ValueType) -> Option<Value> {
    let kind = match kind {
        ValueType::String => Kind::StringValue(String::from_utf8_lossy(value).into_owned()),
        ValueType::Number => Kind::NumberValue(number(std::str::from_utf8(value).ok()?.trim())?),
        ValueType::ProtobufValue => return Value::decode(value).ok(),
    };
    Some(Value { kind: Some(kind) })
}

/// Decimal, or hexadecimal behind `0x`.
fn number(text: &str) -> Option<f64> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(|number| number as f64),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(kind: ValueType, encode: ValueEncode) -> Pair {
        let (namespace, key, value) = ("n".into(), "k".into(), "".into());
        Pair { namespace, key, value, rewrite: None, kind, encode }
    }

    fn value(pair: &Pair, found: &[u8]) -> Option<Kind> {
        pair.of(Cow::Borrowed(found), Outcome::default()).value?.kind
    }

    #[test]
    fn values_are_of_their_type_or_left_out() {
        let number = pair(ValueType::Number, ValueEncode::None);
        for (text, wanted) in [(" 1.5e2 ", 150.0), ("0x10", 16.0), ("-3", -3.0), ("+1", 1.0)] {
            assert_eq!(value(&number, text.as_bytes()), Some(Kind::NumberValue(wanted)), "{text}");
        }
        for text in ["", "x", "1 2", "0x", "\u{e9}"] {
            assert_eq!(value(&number, text.as_bytes()), None, "{text}");
        }
        let encoded = pair(ValueType::String, ValueEncode::Base64);
        let hello = Some(Kind::StringValue("hello".into()));
        assert_eq!((value(&encoded, b"aGVsbG8="), value(&encoded, b"aGVsbG8")), (hello.clone(), hello));
        assert!(encoded.of(Cow::Borrowed(b"!"), Outcome::default()).is_no_base64);
        let message = pair(ValueType::ProtobufValue, ValueEncode::Base64);
        assert_eq!(value(&message, b"GgNhYmM="), Some(Kind::StringValue("abc".into())));
        assert_eq!(value(&message, b"AAAA"), None);
    }

    #[test]
    fn long_values_are_left_out() {
        let text = pair(ValueType::String, ValueEncode::None);
        assert!(value(&text, &[b'x'; TOO_LONG - 1]).is_some());
        let outcome = text.of(Cow::Borrowed(&[b'x'; TOO_LONG]), Outcome::default());
        assert_eq!(outcome, Outcome { is_too_long: true, ..Outcome::default() });
    }
}
