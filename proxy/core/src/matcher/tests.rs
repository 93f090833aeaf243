use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use xds_api::envoy::config::route::v3 as route;
use xds_api::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier as Header;
use xds_api::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier as Query;
use xds_api::envoy::r#type::matcher::v3 as proto;
use xds_api::envoy::r#type::matcher::v3::string_matcher::MatchPattern as Pattern;
use xds_api::envoy::r#type::v3::{DoubleRange, Int64Range};

use super::*;
use crate::config::{BuildCx, BuildEnv, ConfigError, Rejected};
use crate::head::{RequestHead, Scheme};
use crate::runtime::{Runtime, RuntimeLayer};
use crate::stream_info::{ConnectionInfo, StreamInfo};

/// Builds with a default environment, or says what is wrong.
pub(super) fn build<T>(
    make: impl FnOnce(&mut BuildCx<'_>) -> Result<T, Rejected>,
) -> Result<T, Vec<ConfigError>> {
    build_with(Vec::new(), make)
}

/// Builds with these runtime layers.
pub(super) fn build_with<T>(
    layers: Vec<RuntimeLayer>,
    make: impl FnOnce(&mut BuildCx<'_>) -> Result<T, Rejected>,
) -> Result<T, Vec<ConfigError>> {
    let env = BuildEnv { runtime: Arc::new(Runtime::new(layers)), ..BuildEnv::new(1) };
    let mut cx = BuildCx::new(&env);
    make(&mut cx).map_err(|Rejected| cx.into_errors())
}

fn request(headers: &[(&'static str, &str)]) -> RequestHead {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: "h".into(),
        path: "/a?b".into(),
        upgrade: None,
        case: None,
        headers: map,
    }
}

fn string(pattern: Pattern) -> proto::StringMatcher {
    proto::StringMatcher { ignore_case: false, match_pattern: Some(pattern) }
}

fn exact(text: &str) -> proto::StringMatcher {
    string(Pattern::Exact(text.to_owned()))
}

fn header(name: &str, specifier: Option<Header>) -> route::HeaderMatcher {
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: specifier,
        ..route::HeaderMatcher::default()
    }
}

fn inverted(matcher: route::HeaderMatcher) -> route::HeaderMatcher {
    route::HeaderMatcher { invert_match: true, ..matcher }
}

fn missing_is_empty(matcher: route::HeaderMatcher) -> route::HeaderMatcher {
    route::HeaderMatcher { treat_missing_header_as_empty: true, ..matcher }
}

#[test]
fn strings_match_in_every_way() {
    for (pattern, ignore_case, value, expected) in [
        (Pattern::Exact("a".to_owned()), false, "a", true),
        (Pattern::Exact("A".to_owned()), false, "a", false),
        (Pattern::Exact("A".to_owned()), true, "a", true),
        (Pattern::Prefix("ab".to_owned()), false, "abc", true),
        (Pattern::Prefix("AB".to_owned()), true, "aBc", true),
        (Pattern::Prefix("abc".to_owned()), false, "ab", false),
        (Pattern::Suffix("bc".to_owned()), false, "abc", true),
        (Pattern::Suffix("BC".to_owned()), true, "abC", true),
        (Pattern::Suffix("abc".to_owned()), false, "bc", false),
        (Pattern::Contains("b".to_owned()), false, "abc", true),
        (Pattern::Contains("BC".to_owned()), true, "abcd", true),
        (Pattern::Contains("x".to_owned()), true, "", false),
    ] {
        let text = format!("{pattern:?} {ignore_case} {value}");
        let matcher = proto::StringMatcher { ignore_case, match_pattern: Some(pattern) };
        let matcher = build(|cx| StringMatcher::build(&matcher, cx)).unwrap();
        assert_eq!(matcher.matches(value.as_bytes()), expected, "{text}");
    }
    let regex = proto::RegexMatcher { regex: "a".to_owned(), engine_type: None };
    let bad = [
        string(Pattern::Prefix(String::new())),
        string(Pattern::Suffix(String::new())),
        string(Pattern::Contains(String::new())),
        string(Pattern::Custom(Default::default())),
        proto::StringMatcher { ignore_case: true, match_pattern: Some(Pattern::SafeRegex(regex)) },
        proto::StringMatcher { ignore_case: false, match_pattern: None },
    ];
    for matcher in bad {
        assert!(build(|cx| StringMatcher::build(&matcher, cx)).is_err(), "{matcher:?}");
    }
}

/// Every row was observed on Envoy 1.40; columns: absent, `a`, `A`, empty, `a` and `b` as two lines.
#[test]
#[allow(deprecated, reason = "the deprecated forms have to work")]
fn headers_match_as_envoy_does() {
    let ranges = |start, end| Some(Header::RangeMatch(Int64Range { start, end }));
    let rows: Vec<(&str, route::HeaderMatcher, [bool; 5])> = vec![
        ("exact ''", header("x", Some(Header::ExactMatch(String::new()))), [false, true, true, true, true]),
        ("exact", header("x", Some(Header::ExactMatch("a".to_owned()))), [false, true, false, false, true]),
        (
            "not exact",
            inverted(header("x", Some(Header::ExactMatch("a".to_owned())))),
            [false, false, true, true, false],
        ),
        ("joined", header("x", Some(Header::ExactMatch("a,b".to_owned()))), [false; 5]),
        ("present", header("x", Some(Header::PresentMatch(true))), [false, true, true, true, true]),
        ("absent", header("x", Some(Header::PresentMatch(false))), [true, false, false, false, false]),
        ("default", header("X", None), [false, true, true, true, true]),
        ("not default", inverted(header("x", None)), [true, false, false, false, false]),
        (
            "not present",
            inverted(header("x", Some(Header::PresentMatch(true)))),
            [true, false, false, false, false],
        ),
        (
            "not exact, missing is empty",
            missing_is_empty(inverted(header("x", Some(Header::StringMatch(exact("a")))))),
            [true, false, true, true, false],
        ),
        (
            "exact '', missing is empty",
            missing_is_empty(header("x", Some(Header::StringMatch(exact(""))))),
            [true, false, false, true, false],
        ),
        (
            "absent, missing is empty",
            missing_is_empty(header("x", Some(Header::PresentMatch(false)))),
            [false; 5],
        ),
        (
            "present, missing is empty",
            missing_is_empty(header("x", Some(Header::PresentMatch(true)))),
            [true; 5],
        ),
        (
            "prefix",
            header("x", Some(Header::PrefixMatch("b".to_owned()))),
            [false, false, false, false, true],
        ),
        ("suffix", header("x", Some(Header::SuffixMatch("a".to_owned()))), [false, true, false, false, true]),
        ("comma", header("x", Some(Header::ContainsMatch(",".to_owned()))), [false; 5]),
        ("range", header("x", ranges(1, 5)), [false; 5]),
        ("not range", inverted(header("x", ranges(1, 5))), [false, true, true, true, true]),
    ];
    let requests = [
        request(&[]),
        request(&[("x", "a")]),
        request(&[("x", "A")]),
        request(&[("x", "")]),
        request(&[("x", "a"), ("x", "b")]),
    ];
    for (name, proto, expected) in rows {
        let matcher = build(|cx| HeaderMatcher::build(&proto, cx)).unwrap();
        let got = requests.each_ref().map(|request| matcher.matches_request(request));
        assert_eq!(got, expected, "{name}");
    }
}

#[test]
fn ranges_read_numbers_as_envoy_does() {
    let range = header("x", Some(Header::RangeMatch(Int64Range { start: 1, end: 5 })));
    let range = build(|cx| HeaderMatcher::build(&range, cx)).unwrap();
    for (value, expected) in [
        ("1", true),
        ("5", false),
        ("0", false),
        ("-3", false),
        ("x", false),
        ("+2", true),
        ("2.0", false),
        ("0x1", false),
        ("01", true),
        ("99999999999999999999", false),
        ("2,3", false),
        ("", false),
    ] {
        assert_eq!(range.matches_request(&request(&[("x", value)])), expected, "{value}");
    }
    assert!(range.matches_request(&request(&[("x", "9"), ("x", "1")])));
}

#[test]
#[allow(deprecated, reason = "the deprecated forms have to work")]
fn pseudo_headers_are_headers() {
    for (name, value) in
        [(":path", "/a?b"), (":method", "GET"), (":authority", "h"), ("Host", "h"), (":scheme", "http")]
    {
        let matcher = header(name, Some(Header::ExactMatch(value.to_owned())));
        let matcher = build(|cx| HeaderMatcher::build(&matcher, cx)).unwrap();
        assert!(matcher.matches_request(&request(&[])), "{name}");
    }
    assert!(build(|cx| HeaderMatcher::build(&header("a b", None), cx)).is_err());
    let status = header(":status", Some(Header::ExactMatch("404".to_owned())));
    let status = build(|cx| HeaderMatcher::build(&status, cx)).unwrap();
    assert!(status.matches_response(&crate::head::ResponseHead::new(http::StatusCode::NOT_FOUND)));
}

#[test]
fn query_parameters_match_as_envoy_does() {
    let matcher = |specifier| {
        let proto =
            route::QueryParameterMatcher { name: "a".to_owned(), query_parameter_match_specifier: specifier };
        build(|cx| QueryParameterMatcher::build(&proto, cx)).unwrap()
    };
    let any = matcher(None);
    for (query, expected) in [
        (Some("a"), true),
        (Some("a="), true),
        (Some("b"), false),
        (None, false),
        (Some("x&a"), true),
        (Some("%61=1"), false),
        (Some("b=a"), false),
    ] {
        assert_eq!(any.matches(query), expected, "{query:?}");
    }
    let one = matcher(Some(Query::StringMatch(exact("1"))));
    for (query, expected) in [
        ("a=1", true),
        ("a=2&a=1", false),
        ("a=1&a=2", true),
        ("A=1", false),
        ("a=1;b", false),
        ("a==1", false),
        ("&&a=1", true),
    ] {
        assert_eq!(one.matches(Some(query)), expected, "{query}");
    }
    let absent = matcher(Some(Query::PresentMatch(false)));
    assert!(absent.matches(None) && absent.matches(Some("b")) && !absent.matches(Some("a")));
}

#[test]
fn cookies_match_as_envoy_does() {
    let matcher = |invert_match| {
        let proto =
            route::CookieMatcher { name: "a".to_owned(), string_match: Some(exact("1")), invert_match };
        build(|cx| CookieMatcher::build(&proto, cx)).unwrap()
    };
    let (is, is_not) = (matcher(false), matcher(true));
    for (cookies, expected) in [
        (vec![], false),
        (vec![("cookie", "a=1")], true),
        (vec![("cookie", "a=2")], false),
        (vec![("cookie", "b=1; a=1")], true),
        (vec![("cookie", "b=1"), ("cookie", "a=1")], true),
        (vec![("cookie", "a=2; a=1")], false),
        (vec![("cookie", "a=1; a=2")], true),
        (vec![("cookie", "a=\"1\"")], true),
        (vec![("cookie", "a")], false),
        (vec![("cookie", "b=1;a=1")], true),
        (vec![("cookie", "a =1")], false),
    ] {
        let request = request(&cookies);
        assert_eq!(is.matches(&request.headers), expected, "{cookies:?}");
        assert_eq!(is_not.matches(&request.headers), !expected, "not {cookies:?}");
    }
}

#[test]
fn paths_are_matched_without_query() {
    let proto = proto::PathMatcher { rule: Some(proto::path_matcher::Rule::Path(exact("/a"))) };
    let matcher = build(|cx| PathMatcher::build(&proto, cx)).unwrap();
    assert!(matcher.matches("/a?b") && matcher.matches("/a#b") && !matcher.matches("/ab"));
}

fn value(kind: Kind) -> Value {
    Value { kind: Some(kind) }
}

#[test]
fn values_match_by_kind() {
    use proto::value_matcher::MatchPattern as Match;
    let matcher = |pattern| proto::ValueMatcher { match_pattern: Some(pattern) };
    let double = |pattern| matcher(Match::DoubleMatch(proto::DoubleMatcher { match_pattern: Some(pattern) }));
    let text = value(Kind::StringValue("a".to_owned()));
    let list = value(Kind::ListValue(ListValue { values: vec![text.clone(), value(Kind::BoolValue(true))] }));
    let one_of = proto::ListMatcher {
        match_pattern: Some(proto::list_matcher::MatchPattern::OneOf(Box::new(matcher(Match::BoolMatch(
            true,
        ))))),
    };
    let or = proto::OrMatcher {
        value_matchers: vec![matcher(Match::BoolMatch(false)), matcher(Match::StringMatch(exact("a")))],
    };
    for (proto, value, expected) in [
        (matcher(Match::NullMatch(Default::default())), Some(value(Kind::NullValue(0))), true),
        (matcher(Match::NullMatch(Default::default())), None, false),
        (double(proto::double_matcher::MatchPattern::Exact(1.5)), Some(value(Kind::NumberValue(1.5))), true),
        (
            double(proto::double_matcher::MatchPattern::Range(DoubleRange { start: 1.0, end: 2.0 })),
            Some(value(Kind::NumberValue(2.0))),
            false,
        ),
        (matcher(Match::StringMatch(exact("a"))), Some(text.clone()), true),
        (matcher(Match::StringMatch(exact("a"))), Some(list.clone()), false),
        (matcher(Match::BoolMatch(true)), Some(value(Kind::BoolValue(true))), true),
        (matcher(Match::PresentMatch(true)), None, false),
        (matcher(Match::PresentMatch(false)), None, false),
        (matcher(Match::ListMatch(Box::new(one_of))), Some(list), true),
        (matcher(Match::OrMatch(or)), Some(text), true),
    ] {
        let built = build(|cx| ValueMatcher::build(&proto, cx)).unwrap();
        assert_eq!(built.matches(value.as_ref()), expected, "{proto:?}");
    }
    let mut deep = matcher(Match::PresentMatch(true));
    for _ in 0..20 {
        deep = matcher(Match::OrMatch(proto::OrMatcher { value_matchers: vec![deep] }));
    }
    assert!(build(|cx| ValueMatcher::build(&deep, cx)).is_err());
}

#[test]
fn metadata_is_found_by_path() {
    let key = |key: &str| proto::metadata_matcher::PathSegment {
        segment: Some(proto::metadata_matcher::path_segment::Segment::Key(key.to_owned())),
    };
    let mut proto = proto::MetadataMatcher {
        filter: "f".to_owned(),
        path: vec![key("a"), key("b")],
        value: Some(proto::ValueMatcher {
            match_pattern: Some(proto::value_matcher::MatchPattern::StringMatch(exact("v"))),
        }),
        invert: false,
    };
    let inner = Struct { fields: [("b".to_owned(), value(Kind::StringValue("v".to_owned())))].into() };
    let outer = Struct { fields: [("a".to_owned(), value(Kind::StructValue(inner)))].into() };
    let (without, mut with) = (stream(), stream());
    let matcher = build(|cx| MetadataMatcher::build(&proto, cx)).unwrap();
    assert!(!matcher.matches_dynamic(&without));
    with.metadata.merge("f", outer);
    assert!(matcher.matches_dynamic(&with));
    proto.invert = true;
    let inverted = build(|cx| MetadataMatcher::build(&proto, cx)).unwrap();
    assert!(!inverted.matches_dynamic(&with));
    assert!(inverted.matches_dynamic(&without));
}

fn stream() -> StreamInfo {
    let address = || crate::address::Address::Ip(([127, 0, 0, 1], 80).into());
    let connection = ConnectionInfo::new(address(), address(), "l".into());
    StreamInfo::new(connection.into(), std::time::Instant::now(), std::time::SystemTime::now())
}

#[test]
fn missing_filter_state_does_not_match() {
    let proto = proto::FilterStateMatcher {
        key: "k".to_owned(),
        matcher: Some(proto::filter_state_matcher::Matcher::StringMatch(exact("v"))),
    };
    let matcher = build(|cx| FilterStateMatcher::build(&proto, cx)).unwrap();
    assert!(!matcher.matches(&stream()));
}

#[test]
fn every_field_of_the_messages_has_a_use() {
    for (message, fields) in super::fields::FIELDS {
        let mut known: Vec<&str> = xds_api::schema::fields_of(message).expect(message).collect();
        let mut listed: Vec<&str> = fields.iter().map(|(field, _)| *field).collect();
        known.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, known, "{message}");
    }
}
