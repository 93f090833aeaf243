//! What requests hash to, spelled out from Envoy's rules.

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, HeaderName, Method};
use proto::hash_policy as specifier;
use xds_api::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};

use super::*;
use crate::config::BuildEnv;
use crate::filter_state::FilterStateValue;
use crate::head::Scheme;
use crate::stream_info::ConnectionInfo;

fn policy(specifier: PolicySpecifier, terminal: bool) -> proto::HashPolicy {
    proto::HashPolicy { terminal, policy_specifier: Some(specifier) }
}

fn header(name: &str) -> PolicySpecifier {
    PolicySpecifier::Header(specifier::Header { header_name: name.into(), regex_rewrite: None })
}

fn build(protos: &[proto::HashPolicy]) -> Result<HashPolicies, Rejected> {
    let env = BuildEnv::new(1);
    HashPolicies::build("hash_policy", protos, &mut BuildCx::new(&env))
}

fn request(fields: &[(&'static str, &'static str)]) -> RequestHead {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: "a".into(),
        path: "/p?x=1&x=2&y".into(),
        upgrade: None,
        headers,
        case: None,
    }
}

fn info() -> StreamInfo {
    let address = |text: &str| text.parse::<std::net::SocketAddr>().unwrap().into();
    let connection = ConnectionInfo::new(address("1.2.3.4:5"), address("127.0.0.1:80"), "l".into());
    StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::now())
}

fn hash(protos: &[proto::HashPolicy], request: &RequestHead) -> (Option<u64>, Vec<HeaderValue>) {
    let mut cookies = Vec::new();
    let hash = build(protos).unwrap().hash(request, &info(), Some(&mut cookies));
    (hash, cookies)
}

fn of(text: &str) -> Option<u64> {
    Some(xxhash64(text.as_bytes()))
}

#[test]
fn headers_are_hashed_in_order_and_rewritten() {
    let one = [policy(header("x-a"), false)];
    assert_eq!(hash(&one, &request(&[("x-a", "v")])).0, of("v"));
    let chained =
        |first: &str, second: &str| Some(xxhash64_seeded(second.as_bytes(), xxhash64(first.as_bytes())));
    assert_eq!(hash(&one, &request(&[("x-a", "b"), ("x-a", "a")])).0, chained("a", "b"));
    assert_eq!(hash(&one, &request(&[("x-b", "v")])).0, None);
    assert_eq!(hash(&[policy(header(":path"), false)], &request(&[])).0, of("/p?x=1&x=2&y"));
    let rewrite = RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher { regex: "^v(.)".into(), ..Default::default() }),
        substitution: "\\1!".into(),
    };
    let header = specifier::Header { header_name: "x-a".into(), regex_rewrite: Some(rewrite) };
    let rewritten = [policy(PolicySpecifier::Header(header), false)];
    assert_eq!(hash(&rewritten, &request(&[("x-a", "v1z"), ("x-a", "0")])).0, chained("0", "1!z"));
}

#[test]
fn numbers_are_combined_until_a_terminal_policy_has_one() {
    let request = request(&[("x-a", "1"), ("x-b", "2")]);
    let (a, b) = (of("1").unwrap(), of("2").unwrap());
    let two = |terminal| [policy(header("x-a"), terminal), policy(header("x-b"), false)];
    assert_eq!(hash(&two(false), &request).0, Some(a.rotate_left(1) ^ b));
    assert_eq!(hash(&two(true), &request).0, Some(a));
    let missing_first = [policy(header("x-c"), true), policy(header("x-b"), false)];
    assert_eq!(hash(&missing_first, &request).0, Some(b));
    // Even a terminal policy without a number ends it, once there is one.
    let missing_last =
        [policy(header("x-a"), false), policy(header("x-c"), true), policy(header("x-b"), false)];
    assert_eq!(hash(&missing_last, &request).0, Some(a));
}

#[test]
fn addresses_and_parameters_are_hashed_as_text() {
    let source = |source_ip| {
        let properties = specifier::ConnectionProperties { source_ip };
        [policy(PolicySpecifier::ConnectionProperties(properties), false)]
    };
    assert_eq!(hash(&source(true), &request(&[])).0, of("1.2.3.4"));
    assert!(build(&source(false)).unwrap().is_empty());
    let parameter = |name: &str| {
        let parameter = specifier::QueryParameter { name: name.into() };
        [policy(PolicySpecifier::QueryParameter(parameter), false)]
    };
    assert_eq!(hash(&parameter("x"), &request(&[])).0, of("1"));
    assert_eq!(hash(&parameter("y"), &request(&[])).0, of(""));
    assert_eq!(hash(&parameter("z"), &request(&[])).0, None);
    assert!(build(&[proto::HashPolicy::default()]).is_err());
}

#[test]
fn a_missing_cookie_is_made_up_if_it_may_be_set() {
    let cookie = |seconds: Option<i64>| specifier::Cookie {
        name: "c".into(),
        ttl: seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        path: "/p".into(),
        attributes: vec![
            specifier::CookieAttribute { name: "Secure".into(), value: String::new() },
            specifier::CookieAttribute { name: "SameSite".into(), value: "Lax".into() },
        ],
    };
    let policies = |seconds| [policy(PolicySpecifier::Cookie(cookie(seconds)), false)];
    let there = request(&[("cookie", "b=1; c=v")]);
    assert_eq!(hash(&policies(Some(9)), &there), (of("v"), Vec::new()));
    assert_eq!(hash(&policies(None), &request(&[])), (None, Vec::new()));
    let value = format!("{:016x}", xxhash64(b"1.2.3.4:5127.0.0.1:80"));
    let expected = |age: &str| format!("c=\"{value}\"{age}; Path=/p; Secure; SameSite=Lax; HttpOnly");
    let (made, cookies) = hash(&policies(Some(9)), &request(&[("cookie", "c=")]));
    assert_eq!((made, cookies), (of(&value), vec![expected("; Max-Age=9").parse().unwrap()]));
    let (_, session) = hash(&policies(Some(0)), &request(&[]));
    assert_eq!(session, [expected("")]);
    let nowhere = build(&policies(Some(9))).unwrap();
    assert_eq!(nowhere.hash(&request(&[]), &info(), None), None);
}

#[test]
fn filter_state_is_hashed_if_it_can_be() {
    struct Number(Option<u64>);
    impl FilterStateValue for Number {
        fn to_text(&self) -> Option<String> {
            None
        }
        fn hash(&self) -> Option<u64> {
            self.0
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    let state = specifier::FilterState { key: "k".into() };
    let policies = build(&[policy(PolicySpecifier::FilterState(state), false)]).unwrap();
    for number in [Some(3), None] {
        let mut info = info();
        info.filter_state.set("k", Rc::new(Number(number)));
        assert_eq!(policies.hash(&request(&[]), &info, None), number);
    }
    assert_eq!(policies.hash(&request(&[]), &info(), None), None);
}
