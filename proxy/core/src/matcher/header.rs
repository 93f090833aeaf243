//! `envoy.config.route.v3.HeaderMatcher`: every form of it, over requests, responses and trailers.
//!
//! A header that occurs more than once matches if one of its values does, as in Envoy 1.40, where only those headers that
//! the codecs join into one line are ever seen joined.

#![allow(deprecated, reason = "the deprecated forms are still sent by control planes")]

use std::borrow::Cow;

use http::HeaderMap;
use http::header::HeaderName;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;

use super::regex::Regex;
use super::string::StringMatcher;
use crate::config::{BuildCx, Rejected};
use crate::head::{RequestHead, ResponseHead};

/// Matches one header by name and value.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    name: RequestHeader,
    specifier: Specifier,
    invert: bool,
    missing_is_empty: bool,
}

/// The name of a header of a request, pseudo-headers included: where to find it in a [`RequestHead`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestHeader {
    /// `:method`
    Method,
    /// `:path`
    Path,
    /// `:authority`, or `host`
    Authority,
    /// `:scheme`
    Scheme,
    /// `:protocol`, or `upgrade`
    Protocol,
    /// `:status`, which a response has
    Status,
    /// Any other.
    Named(HeaderName),
}

#[derive(Clone, Debug)]
enum Specifier {
    /// `start` up to but not `end`.
    Range {
        start: i64,
        end: i64,
    },
    Present(bool),
    /// `exact_match: ""` matches every value.
    Any,
    String(StringMatcher),
}

impl RequestHeader {
    /// Reads a header name in any case; `None` if it is not one.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        Some(match name.as_str() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            ":protocol" => Self::Protocol,
            ":status" => Self::Status,
            name => Self::Named(HeaderName::from_bytes(name.as_bytes()).ok()?),
        })
    }

    /// Builds from a name in a configuration.
    pub fn build(name: &str, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        Self::parse(name).ok_or_else(|| cx.reject(format!("'{name}' is not a header name")))
    }

    /// The first value in a request, if it is there, not empty and text.
    pub fn first_in_request<'h>(&self, request: &'h RequestHead) -> Option<&'h str> {
        let value = match self {
            Self::Method => request.method.as_str(),
            Self::Path => request.path.as_str(),
            Self::Authority => request.authority.as_str(),
            Self::Scheme => request.scheme.as_str(),
            Self::Protocol | Self::Status => return None,
            Self::Named(name) => request.headers.get(name)?.to_str().ok()?,
        };
        (!value.is_empty()).then_some(value)
    }

    /// The value in a request, repeated headers joined with `,`.
    pub fn in_request<'h>(&self, request: &'h RequestHead) -> Option<Cow<'h, [u8]>> {
        let text = match self {
            Self::Method => request.method.as_str(),
            Self::Path if request.path.is_empty() => return None,
            Self::Path => request.path.as_str(),
            // requests that name no host do not come so far: what is empty here was said
            Self::Authority => request.authority.as_str(),
            Self::Scheme => request.scheme.as_str(),
            // of an extended CONNECT it became `upgrade`
            Self::Protocol | Self::Status => return None,
            Self::Named(name) => return joined(&request.headers, name),
        };
        Some(Cow::Borrowed(text.as_bytes()))
    }

    /// The value in a response, repeated headers joined with `,`.
    pub fn in_response<'h>(&self, response: &'h ResponseHead) -> Option<Cow<'h, [u8]>> {
        match self {
            Self::Status => Some(Cow::Owned(response.status.as_str().as_bytes().to_vec())),
            Self::Named(name) => joined(&response.headers, name),
            Self::Authority => joined(&response.headers, &http::header::HOST),
            Self::Method | Self::Path | Self::Scheme | Self::Protocol => None,
        }
    }

    /// The value in trailers, repeated ones joined with `,`.
    pub fn in_headers<'h>(&self, headers: &'h HeaderMap) -> Option<Cow<'h, [u8]>> {
        match self {
            Self::Named(name) => joined(headers, name),
            Self::Authority => joined(headers, &http::header::HOST),
            Self::Method | Self::Path | Self::Scheme | Self::Protocol | Self::Status => None,
        }
    }
}

impl HeaderMatcher {
    /// Builds from the message, its deprecated forms (`exact_match`, ...) included.
    pub fn build(proto: &proto::HeaderMatcher, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::HeaderMatcher {
            name,
            invert_match,
            treat_missing_header_as_empty,
            header_match_specifier,
        } = proto;
        let name = cx.at("name", |cx| RequestHeader::build(name, cx))?;
        let specifier = match header_match_specifier {
            None => Specifier::Present(true),
            Some(specifier) => Specifier::build(specifier, cx)?,
        };
        Ok(Self { name, specifier, invert: *invert_match, missing_is_empty: *treat_missing_header_as_empty })
    }

    /// Builds all of a repeated field.
    pub fn build_all(
        field: &'static str,
        protos: &[proto::HeaderMatcher],
        cx: &mut BuildCx<'_>,
    ) -> Result<Box<[Self]>, Rejected> {
        cx.each(field, protos, Self::build).map(Vec::into_boxed_slice)
    }

    /// Whether the header of `request` matches.
    pub fn matches_request(&self, request: &RequestHead) -> bool {
        match &self.name {
            RequestHeader::Named(name) => self.matches_named(&request.headers, name),
            pseudo => self.matches_value(pseudo.in_request(request).as_deref()),
        }
    }

    /// Whether the header of `response` matches.
    pub fn matches_response(&self, response: &ResponseHead) -> bool {
        match &self.name {
            RequestHeader::Status => self.matches_value(Some(response.status.as_str().as_bytes())),
            _ => self.matches_headers(&response.headers),
        }
    }

    /// Whether the header among `headers` (trailers) matches.
    pub fn matches_headers(&self, headers: &HeaderMap) -> bool {
        match &self.name {
            RequestHeader::Named(name) => self.matches_named(headers, name),
            RequestHeader::Authority => self.matches_named(headers, &http::header::HOST),
            RequestHeader::Method
            | RequestHeader::Path
            | RequestHeader::Scheme
            | RequestHeader::Protocol
            | RequestHeader::Status => self.matches_value(None),
        }
    }

    fn matches_named(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        let mut values = headers.get_all(name).iter();
        let Some(first) = values.next() else { return self.matches_value(None) };
        let holds = self.specifier.holds(first.as_bytes())
            || values.any(|value| self.specifier.holds(value.as_bytes()));
        holds != self.invert
    }

    fn matches_value(&self, value: Option<&[u8]>) -> bool {
        let value = match value {
            Some(value) => value,
            None if self.missing_is_empty => b"",
            None => {
                // Apart from presence, nothing holds for a missing header, inverted or not.
                let Specifier::Present(present) = self.specifier else { return false };
                return present == self.invert;
            }
        };
        self.specifier.holds(value) != self.invert
    }
}

impl Specifier {
    fn build(proto: &HeaderMatchSpecifier, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let mut some = |text: &str, field| match text.is_empty() {
            true => Err(cx.at(field, |cx| cx.reject("value length must be at least 1 characters"))),
            false => Ok(()),
        };
        Ok(match proto {
            HeaderMatchSpecifier::ExactMatch(text) if text.is_empty() => Self::Any,
            HeaderMatchSpecifier::ExactMatch(text) => Self::String(StringMatcher::exact(text)),
            HeaderMatchSpecifier::PrefixMatch(text) => {
                some(text, "prefix_match")?;
                Self::String(StringMatcher::prefix(text))
            }
            HeaderMatchSpecifier::SuffixMatch(text) => {
                some(text, "suffix_match")?;
                Self::String(StringMatcher::suffix(text))
            }
            HeaderMatchSpecifier::ContainsMatch(text) => {
                some(text, "contains_match")?;
                Self::String(StringMatcher::contains(text))
            }
            HeaderMatchSpecifier::SafeRegexMatch(regex) => {
                Self::String(StringMatcher::regex(cx.at("safe_regex_match", |cx| Regex::build(regex, cx))?))
            }
            HeaderMatchSpecifier::RangeMatch(range) => Self::Range { start: range.start, end: range.end },
            HeaderMatchSpecifier::PresentMatch(present) => Self::Present(*present),
            HeaderMatchSpecifier::StringMatch(string) => {
                Self::String(cx.at("string_match", |cx| StringMatcher::build(string, cx))?)
            }
        })
    }

    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Range { start, end } => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim().parse::<i64>().ok())
                .is_some_and(|number| *start <= number && number < *end),
            Self::Present(present) => *present,
            Self::Any => true,
            Self::String(string) => string.matches(value),
        }
    }
}

/// All values of `name` as one; borrowed when there is only one.
pub fn joined<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Cow<'h, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(all))
}
