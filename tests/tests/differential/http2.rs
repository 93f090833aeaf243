//! HTTP/2 in front of HTTP/1 and the other way round.

use integration::config::HttpListener;
use integration::differential::{Case, H2Request, Setup};
use integration::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, WINDOW_UPDATE, block, frame,
    get_block, integer,
};
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

/// Listeners with an option of HTTP/2 each.
pub(crate) fn options_setup() -> Setup {
    let listener = |name: &str, options: &str| HttpListener::new(name, ROUTES).options(options).yaml();
    Setup::new(
        "http2-options",
        [
            listener("auto", ""),
            listener(
                "reject",
                "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}",
            ),
            listener("drop", "common_http_protocol_options: {headers_with_underscores_action: DROP_HEADER}"),
            listener("few", "common_http_protocol_options: {max_headers_count: 8}"),
            listener("small", "max_request_headers_kb: 1"),
            listener(
                "lenient",
                "http2_protocol_options: {override_stream_error_on_invalid_http_message: true}",
            ),
            listener("once", "common_http_protocol_options: {max_requests_per_connection: 1}"),
            listener("normal", "normalize_path: true"),
        ],
    )
}

const FRAGMENT: &str = "The codec takes a fragment off the path before anybody sees it; Envoy answers 400.";
const CODEC: &str = "The codec refuses the head before there is a request to count and log.";
const STREAM: &str = "A broken request costs its stream, not the connection (RFC 9113, 8.1.1).";
const BURST: &str =
    "Frames that come together are judged together: what the first of them asks for is not begun.";
const COOKIES: &str = "Cookies that differ from stream to stream may hold 256 KiB and 16 times the heads that their client sent, all streams of a connection \
                       together: further streams are refused. What one octet of the client refers to is memory here (CVE-2026-47774).";
const PSEUDO: &str = "The codec drops pseudo-headers of trailers; the message goes on without them.";
const LENGTH: &str = "A body that is longer than its content-length is a broken message; Envoy logs it as reset by the client.";

const WHOLE: u8 = END_STREAM | END_HEADERS;

fn head(stream: u32, flags: u8, method: &str, path: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let base = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)];
    frame(HEADERS, flags, stream, &block(&[&base, fields].concat()))
}

fn many(count: usize, bytes: Vec<u8>) -> Vec<u8> {
    bytes.repeat(count)
}

/// What breaks the rules, and what it counts.
pub(crate) fn frame_cases() -> Vec<Case> {
    [head_cases(), sequence_cases()].concat()
}

/// Heads that break the rules.
fn head_cases() -> Vec<Case> {
    let get = |stream, path| head(stream, WHOLE, "GET", path, &[]);
    let one = |name, listener, bytes| Case::frames(name, listener, [bytes]);
    let crumbs: Vec<(&str, &str)> = std::iter::repeat_n(("cookie", "a=b"), 120).collect();
    let large = "a".repeat(2000);
    vec![
        one("frames, GET", "auto", get(1, "/up")),
        one("frames, fragment", "auto", get(1, "/up#x"))
            .differs("counter*", FRAGMENT)
            .differs("log*", FRAGMENT)
            .differs("upstream*", FRAGMENT),
        one("frames, fragment with normalization", "normal", get(1, "/up#x"))
            .differs("counter*", FRAGMENT)
            .differs("log*", FRAGMENT)
            .differs("upstream*", FRAGMENT),
        one("frames, uppercase name", "auto", head(1, WHOLE, "GET", "/up", &[("X-A", "b")]))
            .differs("counter*", CODEC)
            .differs("log*", CODEC),
        one("frames, uppercase name, lenient", "lenient", head(1, WHOLE, "GET", "/up", &[("X-A", "b")]))
            .differs("counter*", CODEC)
            .differs("log*", CODEC)
            .differs("connection", CODEC)
            .differs("resets", CODEC),
        one("frames, connection", "auto", head(1, WHOLE, "GET", "/up", &[("connection", "close")]))
            .differs("counter*", CODEC)
            .differs("log*", CODEC)
            .differs("connection", STREAM)
            .differs("resets", STREAM),
        one(
            "frames, connection, lenient",
            "lenient",
            head(1, WHOLE, "GET", "/up", &[("connection", "close")]),
        )
        .differs("counter*", CODEC)
        .differs("log*", CODEC),
        one("frames, path with a space, lenient", "lenient", head(1, WHOLE, "GET", "/u p", &[]))
            .differs("counter*", CODEC)
            .differs("log*", CODEC),
        one("frames, path without slash", "auto", get(1, "up"))
            .differs("counter*", CODEC)
            .differs("log*", CODEC)
            .differs("connection", STREAM)
            .differs("resets", STREAM),
        one("frames, path without slash, lenient", "lenient", get(1, "up"))
            .differs("counter*", CODEC)
            .differs("log*", CODEC),
        one("frames, obs-text", "auto", head(1, WHOLE, "GET", "/up", &[("x-a", "\u{e9}")])),
        one("frames, underscore allowed", "auto", head(1, WHOLE, "GET", "/up", &[("x_a", "b")])),
        one("frames, underscore rejected", "reject", head(1, WHOLE, "GET", "/up", &[("x_a", "b")])),
        one(
            "frames, underscore dropped",
            "drop",
            head(1, WHOLE, "GET", "/up", &[("x_a", "b"), ("x-b", "c")]),
        ),
        one("frames, 8 headers of 8", "few", head(1, WHOLE, "GET", "/up", &[("x-a", "b"); 4])),
        one("frames, 9 headers of 8", "few", head(1, WHOLE, "GET", "/up", &[("x-a", "b"); 5])),
        one("frames, 120 crumbs", "auto", head(1, WHOLE, "GET", "/up", &crumbs)),
        one("frames, head too large", "small", head(1, WHOLE, "GET", "/up", &[("x-a", large.as_str())])),
    ]
}

/// Requests that are never complete, each with about 56 KB of cookies that are no other's: one crumb of the dynamic table again
/// and again, which costs the client an octet, and one of its own.
fn cookies(streams: u32) -> Vec<Vec<u8>> {
    const LENGTH: usize = 4000;
    let request = |n: u32| {
        let own = format!("own={n}");
        let head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", "/up"),
            ("cookie", &own),
        ];
        let mut block = block(&head);
        if n == 0 {
            // literal with incremental indexing, name 32 of the static table: cookie
            block.push(0x40 | 32);
            integer(&mut block, 7, 0, LENGTH);
            block.extend(std::iter::repeat_n(b'c', LENGTH));
        }
        // index 62 is the newest of the dynamic table
        block.extend(std::iter::repeat_n(0x80 | 62, 13 + usize::from(n > 0)));
        frame(HEADERS, END_HEADERS, 2 * n + 1, &block)
    };
    (0..streams).map(request).collect()
}

/// Sequences of frames that break the rules.
fn sequence_cases() -> Vec<Case> {
    let get = |stream, path| head(stream, WHOLE, "GET", path, &[]);
    let post = |stream| head(stream, END_HEADERS, "POST", "/up", &[]);
    vec![
        Case::frames("frames, cookies that hold little", "auto", cookies(4))
            .varies("upstream*", "which of the requests that are there at once comes first"),
        Case::frames("frames, cookies that hold much", "auto", cookies(10))
            .differs("refused", COOKIES)
            .differs("resets", COOKIES)
            .differs("counter*", COOKIES)
            .differs("log*", COOKIES)
            .differs("upstream*", COOKIES),
        Case::frames(
            "frames, trailers",
            "auto",
            [post(1), frame(DATA, 0, 1, b"x"), frame(HEADERS, WHOLE, 1, &block(&[("x-t", "1")]))],
        ),
        Case::frames(
            "frames, trailers with a pseudo-header",
            "auto",
            [post(1), frame(DATA, 0, 1, b"x"), frame(HEADERS, WHOLE, 1, &block(&[(":path", "/")]))],
        )
        .differs("counter*", PSEUDO)
        .differs("log*", PSEUDO)
        .differs("upstream*", PSEUDO)
        .differs("connection", PSEUDO)
        .differs("heads", PSEUDO)
        .differs("refused", PSEUDO),
        Case::frames(
            "frames, trailers without an end",
            "auto",
            [post(1), frame(DATA, 0, 1, b"x"), frame(HEADERS, END_HEADERS, 1, &block(&[("x-t", "1")]))],
        )
        .differs("counter*", BURST)
        .differs("log[0].rx", BURST)
        .differs("connection", STREAM)
        .differs("resets", STREAM),
        Case::frames(
            "frames, body beyond content-length",
            "auto",
            [
                head(1, END_HEADERS, "POST", "/up", &[("content-length", "2")]),
                frame(DATA, END_STREAM, 1, b"hello"),
            ],
        )
        .differs("counter*", LENGTH)
        .differs("log[0].details", LENGTH),
        Case::frames("frames, priority flood", "auto", [many(1000, frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1]))]),
        Case::frames(
            "frames, window update flood",
            "auto",
            [many(1000, frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]))],
        ),
        Case::frames("frames, empty data flood", "auto", [post(1), many(10, frame(DATA, 0, 1, &[]))])
            .differs("counter*", BURST)
            .differs("log*", BURST)
            .differs("upstream.connections", BURST),
        Case::frames("frames, ping flood", "auto", [many(20_000, frame(PING, 0, 0, &[0; 8]))]).varies(
            "counter http2.outbound_control_flood",
            "A flood of PINGs is counted; Envoy's codec ends most such connections without counting.",
        ),
        Case::frames(
            "frames, continuation flood",
            "auto",
            [frame(HEADERS, END_STREAM, 1, &get_block("/up")), many(200, frame(CONTINUATION, 0, 1, &[]))],
        )
        .differs("counter*", CODEC)
        .differs("log*", CODEC),
        Case::frames("frames, one request of one", "once", [get(1, "/up")]),
        Case::frames("frames, two requests of one", "once", [get(1, "/up"), get(3, "/up")])
            .varies("upstream[0].connection", "which of two connections is accepted first is chance")
            .varies("upstream[1].connection", "which of two connections is accepted first is chance"),
        Case::frames("frames, data after the end", "auto", [get(1, "/up"), frame(DATA, END_STREAM, 1, b"x")])
            .differs("counter*", BURST)
            .differs("log*", BURST)
            .differs("upstream.connections", BURST),
        Case::frames("frames, upstream resets", "auto", [get(1, "/h2")]).h2_reply(H2Reply::refuse(8)),
        Case::frames("frames, upstream resets inside the body", "auto", [get(1, "/h2")])
            .h2_reply(H2Reply { reset: Some(2), ..H2Reply::new(200, "abc") }),
        Case::frames("frames, upstream trailers", "auto", [get(1, "/h2")])
            .h2_reply(H2Reply::new(200, "abc").trailer("x-t", "1")),
    ]
}

fn trailers(count: usize) -> H2Request {
    (0..count).fold(H2Request::post("http://test/up", "hello"), |request, _| request.trailer("x-t", "1"))
}

fn reply_trailers(count: usize) -> H2Reply {
    (0..count).fold(H2Reply::new(200, "world"), |reply, _| reply.trailer("x-t", "1"))
}

fn many_fields(count: usize) -> H2Reply {
    (0..count).fold(H2Reply::new(200, "world"), |reply, _| reply.field("x-f", "1"))
}

pub(crate) fn cases() -> Vec<Case> {
    let one = |name, request| Case::h2(name, "auto", [request]);
    let get = H2Request::get;
    vec![
        one("h2 to h1, GET", get("http://test/up?a=b").field("cookie", "a=1").field("cookie", "b=2").field("te", "trailers")),
        one("h2 to h1, POST", H2Request::post("http://test/up", "hello").field("content-length", "5")),
        one("h2 to h1, POST without a length", H2Request::post("http://test/up", "hello")),
        one("h2 to h1, request trailers", H2Request::post("http://test/up", "hello").trailer("x-t", "1")),
        one("h2 to h1, as many trailers as may be", trailers(100)),
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
        Case::get("h1 to h2, too many fields", "auto", "/h2", "").h2_reply(many_fields(100)),
        Case::get("h1 to h2, as many fields as may be", "auto", "/h2", "").h2_reply(many_fields(99)),
        Case::get("h1 to h2, as many trailers as may be", "auto", "/h2", "").h2_reply(reply_trailers(100)),
        Case::get("h1 to h2, too many trailers", "auto", "/h2", "").h2_reply(reply_trailers(101)),
        Case::get("h1 to h2, interim response", "auto", "/h2", "")
            .h2_reply(H2Reply { interim: vec![103], ..H2Reply::new(200, "x") }),
        Case::get("h1 to h2, reset inside the body", "auto", "/h2", "")
            .h2_reply(H2Reply { reset: Some(2), ..H2Reply::new(200, "abc") }),
    ]
}
