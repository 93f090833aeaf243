//! Time limits, with values that make the tests short.

use std::time::Duration;

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

const AFTER_A_SECOND: Do = Do::Pause(Duration::from_millis(1300));

pub(crate) fn setup() -> Setup {
    let list = |name: &str, options: &str| HttpListener::new(name, ROUTES).options(options).yaml();
    Setup::new(
        "timeouts",
        [
            list("plain", ""),
            list("head", "request_headers_timeout: 0.15s"),
            list("request", "request_timeout: 0.15s"),
            // long enough for a response to begin in time, on a busy machine too
            list("long_request", "request_timeout: 1s\nupgrade_configs: [{upgrade_type: websocket}]"),
            list("stream_idle", "stream_idle_timeout: 0.15s"),
            list("idle", "common_http_protocol_options: {idle_timeout: 0.15s}\ndrain_timeout: 0.05s"),
            list(
                "duration",
                // long enough for a request to be there before the connection is too old, on a busy machine too
                "common_http_protocol_options: {max_connection_duration: 1s}\ndrain_timeout: 0.05s",
            ),
            list("stream", "common_http_protocol_options: {max_stream_duration: 0.15s}"),
            list("tunnel", "stream_idle_timeout: 0.15s\nupgrade_configs: [{upgrade_type: websocket}]"),
            list("no_delay", "delayed_close_timeout: 0s"),
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
            "request timeout, response begun",
            "long_request",
            [Do::Send(partial.clone()), AFTER_A_SECOND, Do::Send(b"world".to_vec()), Do::Response("POST")],
        )
        .reply(Reply::early([
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello".to_vec()),
            Step::ReadBody,
            Step::Send(b"world".to_vec()),
        ])),
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
    .into_iter()
    .chain(further_cases())
    .collect()
}

fn further_cases() -> Vec<Case> {
    let stall = || Reply::steps([Step::Stall]);
    let begun = || {
        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec();
        Reply::steps([Step::Send(head), Step::Stall])
    };
    let partial = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhello".to_vec();
    let upgrade =
        b"GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_vec();
    let switching =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_vec();
    let grpc = |name, timeout: &str| {
        let lines = format!("content-type: application/grpc\r\ngrpc-timeout: {timeout}\r\n");
        Case::get(name, "plain", "/grpc", &lines).reply(Reply::steps([Step::Stall]))
    };
    vec![
        Case::get("stream duration, no response", "stream", "/", "").reply(stall()),
        Case::get("stream duration, response begun", "stream", "/", "").reply(begun()),
        Case::steps(
            "stream duration, request incomplete",
            "stream",
            [Do::Send(partial.clone()), Do::Response("POST")],
        ),
        Case::get("stream duration of gRPC", "stream", "/", "content-type: application/grpc\r\n")
            .reply(stall()),
        Case::get("route idle timeout, response begun", "plain", "/idle", "").reply(begun()),
        Case::get("route timeout of gRPC", "plain", "/route", "content-type: application/grpc\r\n")
            .reply(stall()),
        grpc("gRPC timeout in microseconds", "150000u"),
        Case::steps(
            "tunnel beyond the request timeout",
            "long_request",
            [
                Do::Send(upgrade.clone()),
                Do::Response("GET"),
                AFTER_A_SECOND,
                Do::Send(b"hello".to_vec()),
                Do::Bytes(5),
                Do::HalfClose,
                Do::AwaitEnd,
            ],
        )
        .reply(Reply::early([Step::Send(switching.clone()), Step::Echo])),
        Case::steps("idle tunnel", "tunnel", [Do::Send(upgrade), Do::Response("GET"), Do::AwaitEnd])
            .reply(Reply::early([Step::Send(switching), Step::Stall])),
        Case::steps("connection idle before a request", "idle", [Do::AwaitEnd]),
        Case::steps("connection idle inside a head", "idle", [Do::Send(b"GET / HT".to_vec()), Do::AwaitEnd]),
        Case::steps(
            "connection duration, request in flight",
            "duration",
            [Do::Send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()), Do::Response("GET"), Do::AwaitEnd],
        )
        .reply(Reply::steps([
            Step::Pause(Duration::from_millis(1300)),
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec()),
        ])),
        Case::steps(
            "request head timeout, second request",
            "head",
            [
                Do::Send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\nGET".to_vec()),
                Do::Response("GET"),
                Do::Response("GET"),
            ],
        ),
        Case::get("last response, no delay", "no_delay", "/", "connection: close\r\n"),
        Case::get("last response, client stays", "plain", "/", "connection: close\r\n"),
    ]
}
