use std::rc::Rc;
use std::time::{Instant, SystemTime};

use http::{HeaderValue, Method};
use proxy_core::address::Address;
use proxy_core::config::{BuildEnv, ConfigError};
use proxy_core::head::{Protocol, Scheme};
use proxy_core::stream_info::ConnectionInfo;
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use super::*;

fn build<T>(make: impl FnOnce(&mut BuildCx<'_>) -> Result<T, Rejected>) -> Result<T, Vec<ConfigError>> {
    let env = BuildEnv::new(1);
    let mut cx = BuildCx::new(&env);
    make(&mut cx).map_err(|Rejected| cx.into_errors())
}

/// A stream of an HTTP/1.1 connection from loopback.
fn info() -> StreamInfo {
    let address = Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
    let connection = ConnectionInfo::new(address.clone(), address, "".into());
    let mut info = StreamInfo::new(Rc::new(connection), Instant::now(), SystemTime::now());
    info.protocol = Some(Protocol::Http11);
    info
}

fn get(authority: &str, path: &str) -> RequestHead {
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: authority.into(),
        path: path.into(),
        upgrade: None,
        case: None,
        headers,
    }
}

fn option(key: &str, value: &str, action: HeaderAppendAction) -> proto::HeaderValueOption {
    proto::HeaderValueOption {
        header: Some(proto::HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }),
        append_action: action as i32,
        ..proto::HeaderValueOption::default()
    }
}

fn add(key: &str, value: &str) -> proto::HeaderValueOption {
    option(key, value, HeaderAppendAction::AppendIfExistsOrAdd)
}

fn keep(option: proto::HeaderValueOption) -> proto::HeaderValueOption {
    proto::HeaderValueOption { keep_empty_value: true, ..option }
}

fn mutated(
    add: &[proto::HeaderValueOption],
    remove: &[&str],
    headers: &[(&'static str, &str)],
) -> Vec<(String, String)> {
    let remove: Vec<String> = remove.iter().map(|name| (*name).to_owned()).collect();
    let mutations = build(|cx| HeaderMutations::build_request(add, &remove, cx)).unwrap();
    let mut request = get("m2", "/p?q");
    for (name, value) in headers {
        request.headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    mutations.apply_to_request(&mut request, &info());
    let pairs = request.headers.iter();
    pairs.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

fn values(pairs: &[(String, String)], name: &str) -> Vec<String> {
    pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
}

/// Every expectation was observed on Envoy 1.40.
#[test]
fn request_headers_change_as_in_envoy() {
    use HeaderAppendAction::{AddIfAbsent, OverwriteIfExists, OverwriteIfExistsOrAdd};
    let headers = mutated(
        &[
            option("x-a", "1", AddIfAbsent),
            option("x-there", "1", AddIfAbsent),
            option("x-b", "1", OverwriteIfExists),
            option("x-b2", "1", OverwriteIfExists),
            option("x-k", "1", OverwriteIfExistsOrAdd),
            add("x-c", "%REQ(x-in)%"),
            add("x-d", "%REQ(x-none)%"),
            keep(add("x-e", "%REQ(x-none)%")),
            keep(add("x-f", "")),
            add("x-g", ""),
            add("x-h", "a%%b %PROTOCOL%"),
            add("x-i", "[%REQ(x-none)%]"),
            add("X-J", "1"),
            add("x-j", "%REQ(x-j)%"),
            add("x-q", "%REQ(:path)% %REQ(:authority)%"),
            add("cookie", "z=1"),
            add("accept", "q"),
            add("x-m", "%DYNAMIC_METADATA([\"a\",\"b\"])%"),
            add("x-rm", "new"),
        ],
        &["x-rm", "X-RM2"],
        &[
            ("x-in", "in"),
            ("x-there", "old"),
            ("x-b", "old"),
            ("x-k", "old"),
            ("x-j", "orig"),
            ("cookie", "a=1"),
            ("accept", "w"),
            ("x-rm", "1"),
            ("x-rm2", "2"),
        ],
    );
    for (name, expected) in [
        ("x-a", vec!["1"]),
        ("x-there", vec!["old"]),
        ("x-b", vec!["1"]),
        ("x-b2", vec![]),
        ("x-k", vec!["1"]),
        ("x-c", vec!["in"]),
        ("x-d", vec![]),
        ("x-e", vec![""]),
        ("x-f", vec![""]),
        ("x-g", vec![]),
        ("x-h", vec!["a%b HTTP/1.1"]),
        ("x-i", vec!["[]"]),
        ("x-j", vec!["orig", "1", "orig"]),
        ("x-q", vec!["/p?q m2"]),
        ("cookie", vec!["a=1", "z=1"]),
        ("accept", vec!["w,q"]),
        ("x-m", vec![]),
        ("x-rm", vec!["new"]),
        ("x-rm2", vec![]),
    ] {
        assert_eq!(values(&headers, name), expected, "{name}");
    }
}

#[test]
fn a_response_may_refer_to_request_and_response() {
    let add =
        [add("x-s", "%RESPONSE_CODE% %REQ(x-in)% %RESP(x-up)%"), add("vary", "b"), add("set-cookie", "b")];
    let mutations = build(|cx| HeaderMutations::build_response(&add, &["x-gone".to_owned()], cx)).unwrap();
    let mut request = get("h", "/");
    request.headers.insert("x-in", HeaderValue::from_static("in"));
    let mut response = ResponseHead::new(http::StatusCode::OK);
    for name in ["x-up", "x-gone", "vary", "set-cookie"] {
        response.headers.insert(name, HeaderValue::from_static("u"));
    }
    let mut info = info();
    info.response_code = Some(200);
    mutations.apply_to_response(&mut response, MutationContext { request: Some(&request), info: &info });
    assert_eq!(response.headers["x-s"], "200 in u");
    assert_eq!(response.headers["vary"], "u,b");
    assert_eq!(response.headers.get_all("set-cookie").iter().count(), 2);
    assert!(!response.headers.contains_key("x-gone"));
}

#[test]
fn what_cannot_be_changed_is_refused() {
    for key in
        [":path", ":authority", "host", "Host", "a b", "transfer-encoding", "Connection", "content-length"]
    {
        let errors = build(|cx| HeaderMutations::build_request(&[add(key, "x")], &[], cx)).unwrap_err();
        assert!(errors[0].path.starts_with("request_headers_to_add[0]"), "{key}: {}", errors[0]);
    }
    for key in [":path", "host", "Host", ""] {
        assert!(build(|cx| HeaderMutations::build_request(&[], &[key.to_owned()], cx)).is_err(), "{key}");
    }
    for value in ["%", "%NOPE%", "%REQ(", "a\nb"] {
        assert!(build(|cx| HeaderMutations::build_request(&[add("x", value)], &[], cx)).is_err(), "{value}");
    }
    #[allow(deprecated, reason = "still sent by control planes")]
    let both =
        proto::HeaderValueOption { append: Some(true), ..option("x", "a", HeaderAppendAction::AddIfAbsent) };
    assert!(build(|cx| HeaderMutations::build_request(&[both], &[], cx)).is_err());
}

#[test]
#[allow(deprecated, reason = "still sent by control planes")]
fn append_false_overwrites() {
    let headers = mutated(
        &[proto::HeaderValueOption { append: Some(false), ..add("x-a", "new") }],
        &[],
        &[("x-a", "old"), ("x-a", "older")],
    );
    assert_eq!(values(&headers, "x-a"), ["new"]);
}
