//! Time limits, with values that make the tests short.

use integration::config::HttpListener;
use integration::differential::{Case, Do, Setup};
use integration::upstream::{Reply, Step};

const ROUTES: &str = r#"
- match: {prefix: /route}
  route: {cluster: up, timeout: 0.15s}
- match: {prefix: /idle}
  route: {cluster: up, idle_timeout: 0.15s}
- match: {prefix: /max}
  route: {cluster: up, max_stream_duration: {max_stream_duration: 0.15s}}
- match: {prefix: /grpc}
  route: {cluster: up, max_stream_duration: {grpc_timeout_header_max: 1s}}
- match: {prefix: /blackhole}
  route: {cluster: blackhole}
- match: {prefix: /none}
  route: {cluster: up, timeout: 0s}
- match: {prefix: /}
  route: {cluster: up}
"#;

pub(crate) fn setup() -> Setup {
    let list = |name: &str, options: &str| HttpListener::new(name, ROUTES).options(options).yaml();
    Setup::new(
        "timeouts",
        [
            list("plain", ""),
            list("head", "request_headers_timeout: 0.15s"),
            list("request", "request_timeout: 0.15s"),
            list("stream_idle", "stream_idle_timeout: 0.15s"),
            list("idle", "common_http_protocol_options: {idle_timeout: 0.15s}\ndrain_timeout: 0.05s"),
            list(
                "duration",
                "common_http_protocol_options: {max_connection_duration: 0.15s}\ndrain_timeout: 0.05s",
            ),
        ],
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let stall = || Reply::steps([Step::Stall]);
    let get = |name, target: &str| Case::get(name, "plain", target, "").reply(Reply::steps([Step::Stall]));
    let partial = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhello".to_vec();
    vec![
        get("route timeout", "/route"),
        get("route idle timeout", "/idle"),
        get("max stream duration", "/max"),
        Case::get(
            "gRPC timeout",
            "plain",
            "/grpc",
            "content-type: application/grpc\r\ngrpc-timeout: 150m\r\n",
        )
        .reply(stall()),
        Case::get("connect timeout", "plain", "/blackhole", ""),
        Case::get("no timeout, no header", "plain", "/none", ""),
        Case::get("timeout inside the body", "plain", "/route", "").reply(Reply::steps([
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec()),
            Step::Stall,
        ])),
        Case::steps(
            "request head timeout",
            "head",
            [Do::Send(b"GET / HTTP/1.1\r\nhost:".to_vec()), Do::Response("GET")],
        ),
        Case::steps("request timeout", "request", [Do::Send(partial.clone()), Do::Response("POST")]),
        Case::steps(
            "stream idle, request incomplete",
            "stream_idle",
            [Do::Send(partial), Do::Response("POST")],
        ),
        Case::get("stream idle, no response", "stream_idle", "/", "").reply(stall()),
        Case::get("stream idle, response begun", "stream_idle", "/", "").reply(Reply::steps([
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec()),
            Step::Stall,
        ])),
        Case::steps(
            "connection idle",
            "idle",
            [Do::Send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()), Do::Response("GET"), Do::AwaitEnd],
        ),
        Case::steps(
            "connection duration",
            "duration",
            [Do::Send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()), Do::Response("GET"), Do::AwaitEnd],
        ),
    ]
}
