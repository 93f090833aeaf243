//! Responses that are complete here while the client's HTTP/2 window lets nothing through, and how long that may last.

use std::time::Duration;

use integration::config::HttpListener;
use integration::differential::{Case, Do, Setup};
use integration::frames::{
    END_HEADERS, END_STREAM, HEADERS, SETTINGS, WINDOW_UPDATE, block, frame, get_block, hello,
};
use integration::upstream::{Reply, Step};

const ROUTES: &str = r#"
- match: {prefix: /route}
  route: {cluster: up, flush_timeout: 0.3s}
- match: {prefix: /never}
  route: {cluster: up, flush_timeout: 0s}
- match: {prefix: /idle}
  route: {cluster: up, idle_timeout: 0.3s}
- match: {prefix: /long_idle}
  route: {cluster: up, idle_timeout: 60s}
- match: {prefix: /direct}
  direct_response: {status: 200, body: {inline_string: hello}}
- match: {prefix: /max}
  route: {cluster: up, flush_timeout: 0s, max_stream_duration: {max_stream_duration: 0.3s}}
- match: {prefix: /timeout}
  route: {cluster: up, flush_timeout: 0s, timeout: 0.3s}
- match: {prefix: /}
  route: {cluster: up}
"#;

/// What is longer than the proxy reads at once.
const LARGE: usize = 300_000;

pub(crate) fn setup() -> Setup {
    let list = |name: &str, options: &str| HttpListener::new(name, ROUTES).options(options).yaml();
    Setup::new(
        "flushing",
        [
            list("flush", "stream_idle_timeout: 0s\nstream_flush_timeout: 0.3s"),
            list("long_flush", "stream_idle_timeout: 0.3s\nstream_flush_timeout: 60s"),
            list("no_flush", "stream_idle_timeout: 0.3s\nstream_flush_timeout: 0s"),
            list("idle", "stream_idle_timeout: 0.3s"),
            list("patient", "stream_idle_timeout: 0s"),
        ],
    )
}

fn no_window() -> Vec<u8> {
    [hello(), frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])].concat()
}

fn window(octets: u32) -> Do {
    let update = |stream| frame(WINDOW_UPDATE, 0, stream, &octets.to_be_bytes());
    Do::Send([update(0), update(1)].concat())
}

fn get(path: &str) -> Do {
    Do::Send([no_window(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &get_block(path))].concat())
}

fn plain(length: usize) -> Reply {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    Reply::raw([head.into_bytes(), vec![b'x'; length]].concat())
}

const EARLY: &str = "An answer to a request that is not complete waits for the window too; Envoy throws away what did not leave at once.";

/// Longer than any of the limits.
const OVERDUE: Do = Do::Pause(Duration::from_millis(700));

pub(crate) fn cases() -> Vec<Case> {
    let reset = |name, listener, path, length| {
        Case::steps(name, listener, [get(path), Do::StreamEnd]).reply(plain(length))
    };
    let stays = |name, listener, path, length: u32| {
        Case::steps(name, listener, [get(path), OVERDUE, window(length), Do::StreamEnd])
            .reply(plain(length as usize))
    };
    let trailers = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-a: b\r\n\r\n";
    let head = [(":method", "POST"), (":scheme", "http"), (":authority", "test"), (":path", "/")];
    let post = Do::Send([no_window(), frame(HEADERS, END_HEADERS, 1, &block(&head))].concat());
    vec![
        reset("flush, small", "flush", "/", 5),
        reset("flush, large", "flush", "/", LARGE),
        reset("flush, of the route", "patient", "/route", 5),
        reset("flush, of the route and not here", "no_flush", "/route", LARGE),
        reset("flush, idle", "idle", "/", 5),
        reset("flush, idle here and longer on the route", "idle", "/long_idle", 5),
        stays("flush, idle of the route", "patient", "/idle", 5),
        stays("flush, idle of the route beside flush", "long_flush", "/idle", 5),
        stays("flush, longer than idle", "long_flush", "/", 5),
        stays("flush, not here", "no_flush", "/", 5),
        stays("flush, not on the route", "flush", "/never", 5),
        stays("flush, large and not on the route", "flush", "/never", LARGE.try_into().unwrap_or(0)),
        stays("flush, off", "patient", "/", 5),
        stays("flush, after the longest life", "patient", "/max", 5),
        stays("flush, after the route's timeout", "patient", "/timeout", 5),
        Case::steps("flush, direct response", "flush", [get("/direct"), Do::StreamEnd]),
        Case::steps("flush, trailers", "flush", [get("/"), Do::StreamEnd]).raw(trailers),
        Case::steps("flush, trailers, in time", "flush", [get("/"), window(10), Do::StreamEnd]).raw(trailers),
        Case::steps(
            "flush, a little at a time",
            "flush",
            [
                get("/"),
                Do::Pause(Duration::from_millis(200)),
                window(1),
                Do::Pause(Duration::from_millis(200)),
                window(1),
                Do::Pause(Duration::from_millis(200)),
                window(3),
                Do::StreamEnd,
            ],
        )
        .reply(plain(5)),
        Case::steps("flush, the request goes on", "flush", [post, Do::StreamEnd])
            .reply(Reply::early([Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello".to_vec())]))
            .differs("counter*", EARLY),
        Case::steps("flush, the client leaves", "patient", [get("/"), OVERDUE, Do::Leave]).reply(plain(5)),
    ]
}
