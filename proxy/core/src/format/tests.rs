//! Formats against what Envoy 1.40 printed for the same stream.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use prost_types::{Struct, Value, value::Kind};

use super::{Empty, Format, LineFormat};
use crate::address::Address;
use crate::extension::access_log::{LogEntry, LogType};
use crate::filter_state::FilterStateValue;
use crate::head::{Protocol, RequestHead, ResponseHead, Scheme};
use crate::metadata::Metadata;
use crate::response_flag::{ResponseFlag, ResponseFlags};
use crate::stream_info::{ConnectionInfo, StreamInfo, WireBytes};
use crate::upstream::Host;

fn address(text: &str) -> Address {
    Address::Ip(text.parse().unwrap())
}

fn metadata(name: &str) -> Metadata {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let number = |number: f64| Value { kind: Some(Kind::NumberValue(number)) };
    let list = prost_types::ListValue { values: vec![number(1.0), text("a")] };
    let object = Struct { fields: [("x".to_owned(), Value { kind: Some(Kind::ListValue(list)) })].into() };
    let fields = [
        ("k", text(name)),
        ("n", number(1.5)),
        ("b", Value { kind: Some(Kind::BoolValue(true)) }),
        ("o", Value { kind: Some(Kind::StructValue(object)) }),
    ];
    let namespace =
        Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() };
    let mut proto = xds_api::envoy::config::core::v3::Metadata::default();
    proto.filter_metadata.insert("ns".to_owned(), namespace);
    Metadata::new(Some(&proto))
}

fn connection() -> ConnectionInfo {
    let info = ConnectionInfo::new(address("127.0.0.1:48522"), address("127.0.0.1:56525"), "l".into());
    ConnectionInfo { id: 198, filter_chain: "fc".into(), ..info }
}

pub(crate) fn headers(list: &[(&'static str, &[u8])]) -> HeaderMap {
    list.iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap()))
        .collect()
}

fn request() -> RequestHead {
    RequestHead {
        method: Method::POST,
        scheme: Scheme::Http,
        authority: "ex.com:80".into(),
        path: "/a/b?x=1&y=%20z".into(),
        upgrade: None,
        case: None,
        headers: headers(&[
            ("user-agent", b"ua"),
            ("foo", "b\"a\\r\té/</".as_bytes()),
            ("bar", b""),
            ("content-length", b"3"),
            ("x-request-id", b"11111111-2222-3333-4444-555555555555"),
            ("x-forwarded-proto", b"http"),
            ("x-envoy-expected-rq-timeout-ms", b"15000"),
        ]),
    }
}

fn response() -> ResponseHead {
    let mut head = ResponseHead::new(StatusCode::OK);
    head.headers = headers(&[
        ("server", b"envoy"),
        ("date", b"Sun, 22 Nov 2026 16:41:55 GMT"),
        ("content-length", b"5"),
        ("x-up", b"a\"b"),
        ("x-envoy-upstream-service-time", b"1"),
    ]);
    head
}

/// The stream that Envoy logged: `POST /a/b?x=1&y=%20z` proxied to one host of cluster `c`.
fn stream() -> StreamInfo {
    let start = Instant::now();
    let after = |nanos| Some(start + Duration::from_nanos(nanos));
    let start_time = UNIX_EPOCH + Duration::from_micros(1_795_365_715_107_341);
    let mut info = StreamInfo::new(Rc::new(connection()), start, start_time);
    info.protocol = Some(Protocol::Http11);
    info.response_code = Some(200);
    info.details = Some("via_upstream".into());
    info.bytes_received = 3;
    info.bytes_sent = 5;
    info.wire = WireBytes {
        sent: 140,
        received: 164,
        header_sent: 116,
        header_received: 123,
        plain_header_sent: 116,
        plain_header_received: 123,
    };
    info.request_complete = after(369_000);
    info.first_downstream_tx = after(1_597_603);
    info.last_downstream_tx = after(1_652_603);
    info.end = after(1_700_000);
    info.route_name = Some("rt".into());
    info.route_metadata = metadata("route");
    info.virtual_host_metadata = metadata("vh");
    let mut host = Host::new(address("127.0.0.1:32803"));
    host.hostname = "hn".into();
    host.set_metadata(&metadata("host"));
    let host = Arc::new(host);
    let upstream = &mut info.upstream;
    upstream.cluster = Some("c".into());
    upstream.cluster_observability_name = Some("alt".into());
    upstream.cluster_metadata = metadata("cl");
    upstream.attempted.push(host.clone());
    upstream.host = Some(host);
    upstream.sought = true;
    upstream.connection_id = Some(199);
    upstream.local = Some(address("127.0.0.1:42608"));
    upstream.protocol = Some(Protocol::Http11);
    upstream.attempts = 1;
    upstream.pool_ready = after(400_000);
    upstream.first_tx = after(410_000);
    upstream.last_tx = after(414_436);
    upstream.first_rx = after(1_449_915);
    upstream.connect_start = after(380_000);
    upstream.connect_end = after(408_780);
    upstream.first_rx_body = after(1_591_516);
    upstream.last_rx = after(1_598_936);
    upstream.wire = WireBytes {
        sent: 229,
        received: 127,
        header_sent: 193,
        header_received: 99,
        plain_header_sent: 193,
        plain_header_received: 99,
    };
    info
}

/// A stream with all that an entry of it shows.
pub(crate) struct Fixture {
    pub(crate) request: Option<RequestHead>,
    pub(crate) response: Option<ResponseHead>,
    pub(crate) trailers: Option<HeaderMap>,
    pub(crate) info: StreamInfo,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self { request: Some(request()), response: Some(response()), trailers: None, info: stream() }
    }

    pub(crate) fn entry(&self) -> LogEntry<'_> {
        LogEntry {
            request: self.request.as_ref(),
            response: self.response.as_ref(),
            response_trailers: self.trailers.as_ref(),
            info: &self.info,
            local_reply_body: "",
            log_type: LogType::DownstreamEnd,
        }
    }

    fn text(&self, format: &str) -> String {
        self.text_with(format, Empty::Dash)
    }

    fn text_with(&self, format: &str, empty: Empty) -> String {
        let mut out = Vec::new();
        Format::parse_with(format, empty).unwrap().render(&self.entry(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn json(&self, format: serde_json::Value, empty: Empty) -> String {
        let Some(Kind::StructValue(format)) = value(format).kind else { panic!("not an object") };
        let mut out = Vec::new();
        super::json::JsonFormat::new(&format, empty).unwrap().render(&self.entry(), &mut out);
        String::from_utf8(out).unwrap()
    }
}

fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap()),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => {
            Kind::ListValue(prost_types::ListValue { values: values.into_iter().map(value).collect() })
        }
        Json::Object(fields) => {
            Kind::StructValue(Struct { fields: fields.into_iter().map(|(k, v)| (k, value(v))).collect() })
        }
    };
    Value { kind: Some(kind) }
}

/// `command -> value` as Envoy 1.40 printed them in one text line for this stream (ports, ids and times put in).
const ENVOY: &str = include_str!("tests/envoy-1.40.txt");

#[test]
fn every_command_prints_what_envoy_prints() {
    let fixture = Fixture::new();
    let mut failures = Vec::new();
    for line in ENVOY.lines().filter(|line| !line.starts_with('#')) {
        let (command, expected) = line.split_once(" -> ").unwrap();
        let printed = fixture.text(command);
        if printed != expected {
            failures.push(format!("{command}: {printed:?}, Envoy: {expected:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn json_keeps_types_sorts_keys_and_escapes_as_envoy_does() {
    let fixture = Fixture::new();
    let format = serde_json::json!({
        "num": 1.5, "null": null, "bool": true, "big": 12_345_678_901_234_567_890_u64,
        "list": ["%DURATION%", "%REQ(nope)%", 2, null, {"b": "%REQ(foo)%"}],
        "nest": {"x": "%REQ(nope)%", "y": {}}, "empty": "", "two": "%REQ(nope)%%REQ(foo)%",
        "ns": "%METADATA(ROUTE:ns):9%", "cut": "%METADATA(ROUTE:ns:k):2%", "flag": "%METADATA(ROUTE:ns:b)%",
        "coalesce": "%COALESCE({\"operators\":[{\"command\":\"REQ\",\"param\":\"nope\"},\"RESPONSE_CODE\"]}):2%",
        "flags": "%CUSTOM_FLAGS%", "port": "%UPSTREAM_REMOTE_PORT%",
    });
    let foo = r#"b\"a\\r\té/</"#;
    assert_eq!(
        fixture.json(format.clone(), Empty::Dash),
        [
            r#"{"big":12345678901234567168,"bool":true,"coalesce":200,"cut":"ro","empty":"","flag":true,"flags":"","#,
            r#""list":[1,null,2,null,{"b":""#,
            foo,
            r#""}],"nest":{"x":null,"y":{}},"ns":{"b":true,"k":"route","n":1.5,"o":{"x":[1,"a"]}},"#,
            r#""null":null,"num":1.5,"port":32803,"two":"-"#,
            foo,
            r#""}"#
        ]
        .concat()
    );
    assert_eq!(
        fixture.json(format, Empty::Omit),
        [
            r#"{"big":12345678901234567168,"bool":true,"coalesce":200,"cut":"ro","empty":"","flag":true,"flags":"","#,
            r#""list":[1,2,{"b":""#,
            foo,
            r#""}],"ns":{"b":true,"k":"route","n":1.5,"o":{"x":[1,"a"]}},"num":1.5,"port":32803,"two":""#,
            foo,
            r#""}"#
        ]
        .concat()
    );
}

#[test]
fn json_escapes_bytes_that_are_not_utf8() {
    let mut fixture = Fixture::new();
    fixture.request.as_mut().unwrap().headers = headers(&[("foo", b"\xff\xc3\xa9\x80z")]);
    let json =
        fixture.json(serde_json::json!({"a": "%REQ(foo)%", "b": "%REQ(foo)% %REQ(nope)%"}), Empty::Dash);
    assert_eq!(json, r#"{"a":"\u00ff\u00c3\u00a9\u0080z","b":"\u00ff\u00c3\u00a9\u0080z -"}"#);
}

#[test]
fn the_default_line_of_a_codec_error_is_envoys() {
    let mut fixture = Fixture::new();
    fixture.request = None;
    fixture.response = None;
    let mut info = StreamInfo::new(Rc::new(connection()), fixture.info.start, fixture.info.start_time);
    info.protocol = Some(Protocol::Http11);
    info.response_code = Some(400);
    info.flags.set(ResponseFlag::DownstreamProtocolError);
    info.bytes_sent = 11;
    info.end = Some(info.start);
    fixture.info = info;
    let mut out = Vec::new();
    LineFormat::default().render(&fixture.entry(), &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "[2026-11-22T16:41:55.107Z] \"- - HTTP/1.1\" 400 DPE 0 11 0 - \"-\" \"-\" \"-\" \"-\" \"-\"\n"
    );
}

#[test]
fn missing_values_print_a_dash_or_nothing() {
    let fixture = Fixture::new();
    assert_eq!(fixture.text("a%REQ(nope)%b%ENVIRONMENT(NO_SUCH_VARIABLE)%"), "a-b-");
    assert_eq!(fixture.text_with("a%REQ(nope)%b%ENVIRONMENT(NO_SUCH_VARIABLE)%", Empty::Omit), "ab-");
}

#[test]
fn flags_and_details() {
    let mut fixture = Fixture::new();
    fixture.info.flags =
        ResponseFlags::from_iter([ResponseFlag::UpstreamRetryLimitExceeded, ResponseFlag::NoHealthyUpstream]);
    fixture.info.details = Some("a b c".into());
    assert_eq!(
        fixture.text("%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%"),
        "URX,UH UpstreamRetryLimitExceeded,NoHealthyUpstream"
    );
    assert_eq!(
        fixture.text("%RESPONSE_CODE_DETAILS%|%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%"),
        "a_b_c|a b c"
    );
}

#[test]
fn grpc_status_needs_a_grpc_request_and_falls_back_on_the_http_status() {
    let mut fixture = Fixture::new();
    let format = "%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)% %GRPC_STATUS_NUMBER%";
    assert_eq!(fixture.text(format), "- - - -");
    fixture.request.as_mut().unwrap().headers = headers(&[("content-type", b"application/grpc")]);
    assert_eq!(fixture.text(format), "Unknown UNKNOWN 2 2");
    fixture.trailers = Some(headers(&[("grpc-status", b"4")]));
    assert_eq!(fixture.text(format), "DeadlineExceeded DEADLINE_EXCEEDED 4 4");
    fixture.trailers = Some(headers(&[("grpc-status", b"99")]));
    assert_eq!(fixture.text(format), "99 99 99 99");
}

#[test]
fn query_parameters_as_envoy_decodes_them() {
    let mut fixture = Fixture::new();
    fixture.request.as_mut().unwrap().path = "/x?a=b+c&d=%41%2f/!*'()&e&=f&a=2#fr".into();
    assert_eq!(
        fixture.text("%QUERY_PARAMS(DECODED)%|%QUERY_PARAM(a)%|%QUERY_PARAM(d)%|%PATH(NQ)%"),
        "a=b+c&d=A//!*'()&e&=f&a=2#fr|b+c|A//!*'()|/x"
    );
}

#[test]
fn server_name_from_sni_or_host() {
    let mut fixture = Fixture::new();
    let format =
        "%REQUESTED_SERVER_NAME% %REQUESTED_SERVER_NAME(SNI_FIRST)% %REQUESTED_SERVER_NAME(HOST_FIRST)%";
    assert_eq!(fixture.text(format), "- ex.com:80 ex.com:80");
    let mut connection = connection();
    connection.server_name = Some("s n\"i.com".into());
    fixture.info.connection = Rc::new(connection);
    assert_eq!(fixture.text(format), "s_n_i.com s_n_i.com ex.com:80");
}

struct Pair;

impl FilterStateValue for Pair {
    fn to_text(&self) -> Option<String> {
        Some("a,b".to_owned())
    }
    fn to_json(&self) -> Option<String> {
        Some(r#"{"first":"a"}"#.to_owned())
    }
    fn field(&self, name: &str) -> Option<String> {
        (name == "first").then(|| "a".to_owned())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

#[test]
fn filter_state_in_all_forms() {
    let mut fixture = Fixture::new();
    fixture.info.filter_state.set("k", Rc::new(Pair));
    assert_eq!(
        fixture.text("%FILTER_STATE(k:PLAIN)% %FILTER_STATE(k)% %FILTER_STATE(k:FIELD:first):1% %FILTER_STATE(k:FIELD:x)%"),
        r#"a,b {"first":"a"} a -"#
    );
}

#[test]
fn pipes_have_no_port() {
    let mut fixture = Fixture::new();
    let mut connection = connection();
    connection.local = Address::Pipe("/run/sock".into());
    fixture.info.connection = Rc::new(connection);
    assert_eq!(
        fixture.text("%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(8)%"),
        "/run/sock /run/sock"
    );
}

#[test]
fn a_network_is_never_longer_than_its_address() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.text("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(64)%"), "127.0.0.1/32");
    fixture.info.remote = Some(address("[2001:db8:1:2:3::4]:80"));
    assert_eq!(fixture.text("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(48)%"), "2001:db8:1::/48");
    assert_eq!(fixture.text("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(0)%"), "::/0");
}

#[test]
fn what_envoy_refuses_is_refused() {
    for bad in [
        "%FOO%",
        "%REQ%",
        "%REQ()%",
        "%REQ(A?B?C)%",
        "%REQ(a b)%",
        "%REQ(a):x%",
        "%REQ(a)",
        "%REQ (a)%",
        "%req(a)%",
        "100%",
        "%DURATION:3%",
        "%DYNAMIC_METADATA()%",
        "%FILTER_STATE%",
        "%FILTER_STATE(a:XX)%",
        "%FILTER_STATE(a:FIELD)%",
        "%FILTER_STATE(a:PLAIN:b)%",
        "%METADATA(XX:a:b)%",
        "%ENVIRONMENT%",
        "%PATH(XX)%",
        "%PATH(NQ:XX)%",
        "%QUERY_PARAMS(XX)%",
        "%COALESCE({\"operators\":[\"FOO\"]})%",
        "%COALESCE({\"operators\":[]})%",
        "%COALESCE({\"operators\":[1]})%",
        "%COALESCE({})%",
        "%START_TIME(%Y%n)%",
        "%START_TIME:3%",
        "%GRPC_STATUS(FOO)%",
        "%COMMON_DURATION(foo)%",
        "%COMMON_DURATION(a:b:s)%",
        "%UPSTREAM_CLUSTER:3%",
        "%DOWNSTREAM_REMOTE_ADDRESS(a)%",
        "%DOWNSTREAM_REMOTE_ADDRESS_ENDPOINT_ID%",
        "%PER_REQUEST_STATE(a)%",
        "%REQUESTED_SERVER_NAME(a)%",
    ] {
        assert!(Format::parse(bad).is_err(), "{bad} was accepted");
    }
    let error = Format::parse("ab%%%REQ(a)% %FOO%").unwrap_err();
    assert!(error.ends_with("(at position 13)"), "{error}");
}

#[test]
fn what_envoy_accepts_is_accepted() {
    for good in [
        "%DURATION()%",
        "%DYNAMIC_METADATA([\"a\",\"b\"])%",
        "%START_TIME(%Q)%",
        "%START_TIME(%Y (%d))%",
        "%START_TIME(%0f)%",
        "%PATH(:PATH)%",
        "%REQ(?B)%",
        "%REQ(A?)%",
        "%REQ(:FOO)%",
        "%COMMON_DURATION(foo:bar:ns)%",
        "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(x)%",
        "%RESP(a)%%TRAILER(a)%",
        "%DOWNSTREAM_PEER_CERT_V_START(%b)%",
        "%COALESCE({\"operators\":[{\"command\":\"COALESCE\",\"param\":\"{\\\"operators\\\":[\\\"DURATION\\\"]}\"}]})%",
        "",
    ] {
        assert!(Format::parse(good).is_ok(), "{good}: {:?}", Format::parse(good));
    }
}

#[test]
fn constants_are_found() {
    assert_eq!(Format::parse("a%%b").unwrap().constant(), Some("a%b"));
    assert_eq!(Format::parse("").unwrap().constant(), Some(""));
    assert_eq!(Format::parse("a%DURATION%").unwrap().constant(), None);
}

#[test]
fn times_of_emission_and_unique_ids_are_new() {
    let fixture = Fixture::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let emitted: u64 = fixture.text("%EMIT_TIME(%s)%").parse().unwrap();
    assert!(emitted >= now && emitted < now + 60);
    assert_ne!(fixture.text("%UNIQUE_ID%"), fixture.text("%UNIQUE_ID%"));
    assert_eq!(fixture.text("%UNIQUE_ID%").len(), 36);
}
