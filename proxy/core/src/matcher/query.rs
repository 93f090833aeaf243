//! `envoy.config.route.v3.QueryParameterMatcher`: the first value of a query parameter, as it stands in the URL.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;

use super::string::StringMatcher;
use crate::config::{BuildCx, Rejected};

/// Matches one parameter of a query. Nothing is percent-decoded, as in Envoy.
#[derive(Clone, Debug)]
pub struct QueryParameterMatcher {
    name: Box<str>,
    specifier: Specifier,
}

#[derive(Clone, Debug)]
enum Specifier {
    Present(bool),
    String(StringMatcher),
}

impl QueryParameterMatcher {
    /// Builds from the message.
    pub fn build(proto: &proto::QueryParameterMatcher, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::QueryParameterMatcher { name, query_parameter_match_specifier } = proto;
        let specifier = match query_parameter_match_specifier {
            None => Specifier::Present(true),
            Some(QueryParameterMatchSpecifier::PresentMatch(present)) => Specifier::Present(*present),
            Some(QueryParameterMatchSpecifier::StringMatch(string)) => {
                Specifier::String(cx.at("string_match", |cx| StringMatcher::build(string, cx))?)
            }
        };
        Ok(Self { name: name.as_str().into(), specifier })
    }

    /// Whether the parameter in `query` (what follows `?`) matches.
    pub fn matches(&self, query: Option<&str>) -> bool {
        let value = query.and_then(|query| parameter(query, &self.name));
        match &self.specifier {
            Specifier::Present(present) => value.is_some() == *present,
            Specifier::String(string) => value.is_some_and(|value| string.matches(value.as_bytes())),
        }
    }
}

/// The first value of `name` in a query; empty if it has none.
pub fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// The first value of `name` in a query, both decoded; `+` is not a space, as in Envoy.
pub fn decoded_parameter<'q>(query: &'q str, name: &str) -> Option<Cow<'q, [u8]>> {
    query.split('&').filter(|pair| !pair.is_empty()).find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        percent_decode_str(key).eq(name.bytes()).then(|| percent_decode_str(value).into())
    })
}
