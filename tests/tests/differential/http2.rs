//! HTTP/2 in front of HTTP/1 and the other way round.

use integration::config::HttpListener;
use integration::differential::{Case, H2Request, Setup};
use integration::upstream::h2::H2Reply;
use integration::upstream::{Reply, Step};

const ROUTES: &str = r#"
- match: {prefix: /h2}
  route: {cluster: h2up}
- match: {prefix: /refused}
  route: {cluster: refused}
- match: {prefix: /slow}
  route: {cluster: up, timeout: 0.15s}
- match: {prefix: /up}
  route: {cluster: up}
"#;

pub(crate) fn setup() -> Setup {
    Setup::new("http2", [HttpListener::new("auto", ROUTES).yaml()])
}

/// An upstream that refuses a stream has not touched it (RFC 9113, 8.7): it is sent once more, where Envoy answers 503.
fn refused_stream(case: Case) -> Case {
    let reason = "A request in a stream that the upstream refused was not worked on and is sent once more, without any retry \
                  policy: the client gets its answer instead of a 503.";
    ["response[0].*", "h2 upstream[1].*", "log[0].*", "counter *"]
        .into_iter()
        .fold(case, |case, fact| case.differs(fact, reason))
}

pub(crate) fn cases() -> Vec<Case> {
    let one = |name, request| Case::h2(name, "auto", [request]);
    let get = H2Request::get;
    vec![
        one("h2 to h1, GET", get("http://test/up?a=b").field("cookie", "a=1").field("cookie", "b=2").field("te", "trailers")),
        one("h2 to h1, POST", H2Request::post("http://test/up", "hello").field("content-length", "5")),
        one("h2 to h1, POST without a length", H2Request::post("http://test/up", "hello")),
        one("h2 to h1, request trailers", H2Request::post("http://test/up", "hello").trailer("x-t", "1")),
        one("h2 to h1, hop-by-hop fields of the response", get("http://test/up")).raw(
            "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\nkeep-alive: 5\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        one("h2 to h1, upstream closes", get("http://test/up")).reply(Reply::steps([Step::Close])),
        one("h2 to h1, body cut short", get("http://test/up"))
            .reply(Reply::raw_then_close("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")),
        one("h2 to h1, timeout", get("http://test/slow")).reply(Reply::steps([Step::Stall])),
        one("h2, no route", get("http://test/nowhere")),
        one("h2, refused, gRPC", H2Request::post("http://test/refused", "x").field("content-type", "application/grpc"))
            .differs(
                "log[0].rx",
                "A body is read when there is an upstream to take it, so that a slow one holds the client back instead of \
                 filling memory: what was not read is not counted as received.",
            ),
        one("h2 to h2, GET", get("http://test/h2?a=b")),
        one("h2 to h2, trailers both ways", H2Request::post("http://test/h2", "hello").trailer("x-t", "1"))
            .h2_reply(H2Reply::new(200, "world").field("content-type", "application/grpc").trailer("grpc-status", "0")),
        one("h2 to h2, trailers only", H2Request::post("http://test/h2", "x").field("content-type", "application/grpc"))
            .h2_reply(H2Reply::new(200, "").field("content-type", "application/grpc").field("grpc-status", "5")),
        refused_stream(one("h2 to h2, refused stream", get("http://test/h2")).h2_reply(H2Reply::refuse(7))),
        one("h2 to h2, internal error", get("http://test/h2")).h2_reply(H2Reply::refuse(2)),
        one("h2 to h2, 204", get("http://test/h2")).h2_reply(H2Reply::new(204, "")),
        one("h2 to h2, HEAD", H2Request { method: "HEAD", ..get("http://test/h2") })
            .h2_reply(H2Reply::new(200, "").field("content-length", "7")),
        Case::h2("h2, two requests on one connection", "auto", [get("http://test/up/1"), get("http://test/up/2")]),
        Case::get("h1 to h2, GET", "auto", "/h2?a=b", "cookie: a=1\r\ncookie: b=2\r\nconnection: x-gone\r\nx-gone: 1\r\n"),
        Case::send(
            "h1 to h2, chunked POST",
            "auto",
            "POST /h2 HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        Case::get("h1 to h2, trailers", "auto", "/h2", "").h2_reply(H2Reply::new(200, "world").trailer("x-t", "1")),
        Case::get("h1 to h2, interim response", "auto", "/h2", "")
            .h2_reply(H2Reply { interim: vec![103], ..H2Reply::new(200, "x") }),
        Case::get("h1 to h2, reset inside the body", "auto", "/h2", "")
            .h2_reply(H2Reply { reset: Some(2), ..H2Reply::new(200, "abc") }),
    ]
}
