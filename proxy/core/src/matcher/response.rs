//! `envoy.config.common.matcher.v3.MatchPredicate` on the head of a response.
//!
//! It is for more than heads of responses, and what it says of anything else holds for none of them, as in Envoy.

use xds_api::envoy::config::common::matcher::v3 as proto;
use xds_api::envoy::config::common::matcher::v3::match_predicate::Rule;

use super::header::HeaderMatcher;
use crate::config::{BuildCx, FieldUse, MessageFields, Rejected};
use crate::head::ResponseHead;

use FieldUse::{Rejected as Refused, Used};

/// How the fields are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.config.common.matcher.v3.MatchPredicate",
        &[
            ("or_match", Used),
            ("and_match", Used),
            ("not_match", Used),
            ("any_match", Used),
            ("http_request_headers_match", Refused(HEADS)),
            ("http_request_trailers_match", Refused(HEADS)),
            ("http_response_headers_match", Used),
            ("http_response_trailers_match", Refused(HEADS)),
            ("http_request_generic_body_match", Refused(HEADS)),
            ("http_response_generic_body_match", Refused(HEADS)),
        ],
    ),
    ("envoy.config.common.matcher.v3.MatchPredicate.MatchSet", &[("rules", Used)]),
    ("envoy.config.common.matcher.v3.HttpHeadersMatch", &[("headers", Used)]),
];

const HEADS: &str = "only the head of a response is looked at, so it never holds";

/// A condition on the head of a response.
#[derive(Clone, Debug)]
pub enum ResponsePredicate {
    /// One of these holds.
    Or(Vec<Self>),
    /// All of these hold.
    And(Vec<Self>),
    /// This does not hold.
    Not(Box<Self>),
    /// It holds for all.
    Any,
    /// All of these match.
    Headers(Box<[HeaderMatcher]>),
}

impl ResponsePredicate {
    /// Reads a predicate.
    ///
    /// # Errors
    /// What is wrong with it, in `cx`.
    pub fn build(proto: &proto::MatchPredicate, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let set = |field, set: &proto::match_predicate::MatchSet, cx: &mut BuildCx<'_>| {
            cx.at(field, |cx| cx.each("rules", &set.rules, Self::build))
        };
        match &proto.rule {
            Some(Rule::OrMatch(rules)) => set("or_match", rules, cx).map(Self::Or),
            Some(Rule::AndMatch(rules)) => set("and_match", rules, cx).map(Self::And),
            Some(Rule::NotMatch(rule)) => {
                cx.at("not_match", |cx| Self::build(rule, cx)).map(Box::new).map(Self::Not)
            }
            Some(Rule::AnyMatch(_)) => Ok(Self::Any),
            Some(Rule::HttpResponseHeadersMatch(headers)) => cx
                .at("http_response_headers_match", |cx| {
                    HeaderMatcher::build_all("headers", &headers.headers, cx)
                })
                .map(Self::Headers),
            Some(
                Rule::HttpRequestHeadersMatch(_)
                | Rule::HttpRequestTrailersMatch(_)
                | Rule::HttpResponseTrailersMatch(_)
                | Rule::HttpRequestGenericBodyMatch(_)
                | Rule::HttpResponseGenericBodyMatch(_),
            ) => Err(cx.reject(HEADS)),
            None => Err(cx.reject("rule: value is required")),
        }
    }

    /// Whether it holds for this head.
    pub fn matches(&self, head: &ResponseHead) -> bool {
        match self {
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(head)),
            Self::And(rules) => rules.iter().all(|rule| rule.matches(head)),
            Self::Not(rule) => !rule.matches(head),
            Self::Any => true,
            Self::Headers(headers) => headers.iter().all(|header| header.matches_response(head)),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};
    use xds_api::read::{Options, Source, read};

    use super::*;
    use crate::config::BuildEnv;

    fn build(text: &str) -> Result<ResponsePredicate, String> {
        let proto = read(&Source::yaml("t", text.as_bytes()), &Options::default()).unwrap().message;
        let env = BuildEnv::new(1);
        let mut cx = BuildCx::new(&env);
        ResponsePredicate::build(&proto, &mut cx).map_err(|_| cx.into_errors()[0].to_string())
    }

    #[test]
    fn predicates_are_of_the_head() {
        let mut headers = HeaderMap::new();
        headers.insert("x-field", HeaderValue::from_static("bad"));
        let head = ResponseHead { status: StatusCode::NOT_FOUND, headers, case: None };
        let status =
            "http_response_headers_match: {headers: [{name: ':status', string_match: {exact: '404'}}]}";
        let field = "http_response_headers_match: {headers: [{name: x-field, string_match: {exact: good}}]}";
        for (text, holds) in [
            (status.to_owned(), true),
            (field.to_owned(), false),
            (format!("or_match: {{rules: [{{{status}}}, {{{field}}}]}}"), true),
            (format!("and_match: {{rules: [{{{status}}}, {{{field}}}]}}"), false),
            (format!("not_match: {{{field}}}"), true),
            ("any_match: true".to_owned(), true),
        ] {
            assert_eq!(build(&text).unwrap().matches(&head), holds, "{text}");
        }
        let request = "not_match: {http_request_headers_match: {headers: [{name: ':path'}]}}";
        assert_eq!(build(request).unwrap_err(), format!("not_match: {HEADS}"));
    }
}
