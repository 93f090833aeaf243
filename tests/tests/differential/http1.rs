//! HTTP/1 heads, framing and connection rules; upstreams that break them.

use integration::config::{HttpListener, cluster};
use integration::differential::{Case, Do, Setup};
use integration::upstream::{Reply, Step};

pub(crate) fn setup() -> Setup {
    let old = "http_protocol_options: {accept_http_10: true, default_host_for_http_10: old.test}";
    let trailers = "http_protocol_options: {enable_trailers: true}";
    let limits = "max_request_headers_kb: 1\ncommon_http_protocol_options: {max_headers_count: 10}";
    let lenient = "http_protocol_options: {allow_custom_methods: true, allow_chunked_length: true}";
    Setup::with_clusters(
        "http1",
        [
            HttpListener::to_up("plain").yaml(),
            HttpListener::to_up("old").options(old).yaml(),
            HttpListener::to_up("trailers").options(trailers).yaml(),
            HttpListener::new("both_trailers", "- match: {prefix: /}\n  route: {cluster: up_trailers}")
                .options(trailers)
                .yaml(),
            HttpListener::to_up("expects").options("proxy_100_continue: true").yaml(),
            HttpListener::to_up("limits").options(limits).yaml(),
            HttpListener::to_up("lenient").options(lenient).yaml(),
            HttpListener::to_up("forgiving")
                .options("stream_error_on_invalid_http_message: true\nnormalize_path: true")
                .yaml(),
            HttpListener::to_up("forgiving_http1")
                .options("http_protocol_options: {override_stream_error_on_invalid_http_message: true}")
                .yaml(),
            HttpListener::to_up("forgiving_http2")
                .options("http_protocol_options: {override_stream_error_on_invalid_http_message: false}\nstream_error_on_invalid_http_message: true")
                .yaml(),
            HttpListener::to_up("two")
                .options("common_http_protocol_options: {max_requests_per_connection: 2}")
                .yaml(),
        ],
        [cluster("up_trailers", "up", TRAILERS_CLUSTER)],
    )
}

const TRAILERS_CLUSTER: &str = r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http_protocol_options: {enable_trailers: true}}
"#;

const EMPTY_HOST: &str = "A host that is empty says as little as none: the log shows `-`.";
const TRAILERS_LIMITED: &str =
    "Trailers are limited like headers even where they are dropped: what is read costs the same.";
const NO_OLD_UPGRADES: &str = "HTTP/1.0 has no upgrades, and a server must ignore them (RFC 9110, 7.8): the request is an ordinary \
    one.";
const ALL_INTERIM: &str = "Every interim response is relayed (RFC 9110, 15.2), Envoy relays the first.";
const CONTINUE_LATE: &str = "`100 Continue` is sent to a client that waits for it, and not if the body is there already (RFC 9110, \
    10.1.1).";
const NOBODY_WAITS: &str = "Nobody waits for `100 Continue` with a request that has no body.";
const NO_OLD_INTERIM: &str = "HTTP/1.0 has no interim responses: a client would take `100 Continue` for the answer (RFC 9110, \
    10.1.1).";

/// A POST with this body in chunks as they are.
fn chunked(name: &'static str, listener: &'static str, chunks: &str) -> Case {
    let head = "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    Case::send(name, listener, format!("{head}{chunks}"))
}

/// A POST whose head ends with these lines, and a body of five bytes.
fn post(name: &'static str, lines: &str) -> Case {
    Case::send(name, "plain", format!("POST / HTTP/1.1\r\nhost: test\r\n{lines}\r\nhello"))
}

fn head(name: &'static str, text: &str) -> Case {
    Case::send(name, "plain", text)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::get("plain GET", "plain", "/a?b=c", "x-one: 1\r\nX-Two: 2\r\n"),
        head("HEAD keeps content-length", "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n")
            .raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        post("POST with a length", "content-length: 5\r\n"),
        post("length with leading zeros", "content-length: 0005\r\n").differs(
            "upstream[0].header.content-length",
            "The length is written as it was understood: leading zeros are octal to some servers.",
        ),
        post("length and chunked", "content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        post("length twice", "content-length: 5\r\ncontent-length: 5\r\n"),
        post("length with a plus", "content-length: +5\r\n"),
        post("encoding gzip, chunked", "transfer-encoding: gzip, chunked\r\n"),
        post("encoding identity", "transfer-encoding: identity\r\n"),
        head("GET with a body", "GET / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello"),
        head("no host", "GET / HTTP/1.1\r\n\r\n"),
        head("absolute form", "GET http://other.test:81/p?q HTTP/1.1\r\nhost: test\r\n\r\n"),
        head("OPTIONS star", "OPTIONS * HTTP/1.1\r\nhost: test\r\n\r\n"),
        head("lower-case method", "get / HTTP/1.1\r\nhost: test\r\n\r\n"),
        head("bare line feeds", "GET / HTTP/1.1\nhost: test\n\n"),
        head("obsolete folding", "GET / HTTP/1.1\r\nhost: test\r\nx-a: one\r\n two\r\n\r\n"),
        head("space before the colon", "GET / HTTP/1.1\r\nhost: test\r\nx-a : 1\r\n\r\n"),
        head("NUL in a value", "GET / HTTP/1.1\r\nhost: test\r\nx-a: a\0b\r\n\r\n"),
        head("HTTP/1.0 refused", "GET / HTTP/1.0\r\nhost: test\r\n\r\n"),
        Case::send("HTTP/1.0 without host", "old", "GET / HTTP/1.0\r\n\r\n"),
        Case::send(
            "HTTP/1.0 keep-alive",
            "old",
            "GET / HTTP/1.0\r\nhost: test\r\nconnection: keep-alive\r\n\r\n",
        ),
        Case::send("HTTP/1.0 gets no chunks", "old", "GET / HTTP/1.0\r\nhost: test\r\n\r\n")
            .raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
        Case::get("connection close", "plain", "/", "connection: close\r\n"),
        Case::get(
            "hop-by-hop fields",
            "plain",
            "/",
            "connection: x-gone, keep-alive\r\nx-gone: 1\r\nkeep-alive: 5\r\nproxy-connection: keep-alive\r\nte: gzip\r\n",
        ),
        Case::get("te trailers stays", "plain", "/", "te: trailers\r\n"),
        Case::get(
            "repeated fields",
            "plain",
            "/",
            "x-a: 1\r\nx-a: 2\r\naccept: a\r\naccept: b\r\ncookie: c=1\r\ncookie: d=2\r\n",
        ),
        Case::get(
            "too many fields",
            "plain",
            "/",
            &(0..101).map(|n| format!("x-{n}: 1\r\n")).collect::<String>(),
        ),
        Case::get("too large a head", "plain", "/", &format!("x-a: {}\r\n", "a".repeat(61 * 1024))),
        Case::send(
            "pipelined",
            "plain",
            "GET /1 HTTP/1.1\r\nhost: test\r\n\r\nGET /2 HTTP/1.1\r\nhost: test\r\n\r\n",
        )
        .and_response("GET"),
        Case::steps(
            "two requests on one connection",
            "plain",
            [
                Do::Send(b"GET /1 HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()),
                Do::Response("GET"),
                Do::Send(b"GET /2 HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()),
                Do::Response("GET"),
            ],
        ),
    ];
    cases.extend(body_cases());
    cases.extend(target_cases());
    cases.extend(limit_cases());
    cases.extend(connection_cases());
    cases.extend(interim_cases());
    cases.extend(forgiven_cases());
    cases
}

fn target_cases() -> Vec<Case> {
    vec![
        head("empty host", "GET / HTTP/1.1\r\nhost:\r\n\r\n").differs("log[0].authority", EMPTY_HOST),
        head("no host, with a body", "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello"),
        head("absolute form without a path", "GET http://other.test?q HTTP/1.1\r\nhost: test\r\n\r\n"),
        head("absolute form, https", "GET https://other.test/p HTTP/1.1\r\nhost: test\r\n\r\n"),
        head("OPTIONS star without host", "OPTIONS * HTTP/1.1\r\n\r\n"),
        head(
            "folded twice",
            "GET / HTTP/1.1\r\nhost: test\r\nx-a: one \r\n \t two\r\n\tthree\r\nx-b: 1\r\n\r\n",
        ),
        head("folded to nothing", "GET / HTTP/1.1\r\nhost: test\r\nx-a: one\r\n \r\n\r\n"),
        head("fold before the first field", "GET / HTTP/1.1\r\n x-a: one\r\nhost: test\r\n\r\n"),
        Case::get("folded response", "plain", "/", "")
            .raw("HTTP/1.1 200 OK\r\nx-a: one\r\n two\r\ncontent-length: 0\r\n\r\n"),
        Case::send("custom method", "lenient", "BREW /pot HTTP/1.1\r\nhost: test\r\n\r\n"),
        Case::send(
            "length and chunked, allowed",
            "lenient",
            "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
    ]
}

fn limit_cases() -> Vec<Case> {
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let long = |length: usize| format!("x-a: {}\r\n", "a".repeat(length));
    vec![
        Case::get("as many fields as allowed", "limits", "/", &many(9)),
        Case::get("more fields than allowed", "limits", "/", &many(10)),
        Case::get("a head as large as allowed", "limits", "/", &long(900)),
        Case::get("a larger head than allowed", "limits", "/", &long(1100)),
        Case::send(
            "more trailers than allowed",
            "limits",
            format!(
                "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{}\r\n",
                many(11)
            ),
        )
        .differs("*", TRAILERS_LIMITED),
    ]
}

fn connection_cases() -> Vec<Case> {
    let get = |path: &str| Do::Send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n").into());
    let slow = || Reply::steps([Step::Stall]);
    let old = |lines: &str| format!("GET / HTTP/1.0\r\nhost: test\r\n{lines}\r\n");
    let close_delimited = || Reply::raw_then_close("HTTP/1.1 200 OK\r\n\r\nabc");
    vec![
        Case::steps("requests of a connection are counted", "two", [get("/1"), Do::Response("GET"), get("/2"), Do::Response("GET")]),
        Case::send(
            "pipelined after a body",
            "plain",
            "POST /1 HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhelloGET /2 HTTP/1.1\r\nhost: test\r\n\r\n",
        )
        .and_response("GET"),
        Case::send(
            "pipelined after the last",
            "plain",
            "GET /1 HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\nGET /2 HTTP/1.1\r\nhost: test\r\n\r\n",
        ),
        Case::send(
            "pipelined nonsense",
            "plain",
            "GET /1 HTTP/1.1\r\nhost: test\r\n\r\nnonsense\r\n\r\n",
        )
        .and_response("GET"),
        Case::steps("client leaves before the response", "plain", [get("/"), Do::AwaitUpstream(1), Do::Leave]).reply(slow()),
        Case::steps(
            "client leaves inside its body",
            "plain",
            [
                Do::Send(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nhello".to_vec()),
                Do::AwaitUpstream(1),
                Do::Leave,
            ],
        ),
        Case::steps("client ends its half", "plain", [get("/"), Do::AwaitUpstream(1), Do::HalfClose, Do::AwaitEnd]).reply(slow()),
        Case::send("HTTP/1.0 until the end", "old", old("")).reply(close_delimited()),
        Case::send("HTTP/1.0 keep-alive until the end", "old", old("connection: keep-alive\r\n")).reply(close_delimited()),
        Case::send("HTTP/1.0 POST", "old", "POST / HTTP/1.0\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello"),
        Case::send("HTTP/1.0 HEAD", "old", "HEAD / HTTP/1.0\r\nhost: test\r\n\r\n")
            .raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        Case::send("HTTP/1.0 upgrade", "old", old("connection: upgrade\r\nupgrade: websocket\r\n")).differs("*", NO_OLD_UPGRADES),
        Case::steps(
            "failed health checks close connections",
            "plain",
            [Do::Admin("/healthcheck/fail"), get("/"), Do::Response("GET"), Do::Admin("/healthcheck/ok")],
        ),
    ]
}

/// Requests that break a rule, and what becomes of the connection.
fn forgiven_cases() -> Vec<Case> {
    let ordinary = || Do::Send(b"GET /next HTTP/1.1\r\nhost: test\r\n\r\n".to_vec());
    let then_ordinary = |name, listener, first: &str| {
        Case::steps(
            name,
            listener,
            [Do::Send(first.into()), Do::Response("GET"), ordinary(), Do::Response("GET")],
        )
    };
    let then_end = |name, listener, first: &str| {
        Case::steps(name, listener, [Do::Send(first.into()), Do::Response("GET"), Do::AwaitEnd])
    };
    let no_host = "GET / HTTP/1.1\r\n\r\n";
    vec![
        then_end("broken rule: no host", "plain", no_host),
        then_ordinary("broken rule, forgiven: no host", "forgiving", no_host),
        then_ordinary("broken rule, forgiven in HTTP/1: no host", "forgiving_http1", no_host),
        then_end("broken rule, not forgiven in HTTP/1: no host", "forgiving_http2", no_host),
        then_ordinary(
            "broken rule, forgiven: a path",
            "forgiving",
            "GET /%00 HTTP/1.1\r\nhost: test\r\n\r\n",
        ),
        then_end(
            "broken rule, forgiven: no host, inside a body",
            "forgiving",
            "POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nhello",
        ),
        then_end("broken message, never forgiven", "forgiving", "GET / HTTP/1.1\r\nx-a : 1\r\n\r\n"),
        Case::steps(
            "broken chunk, never forgiven",
            "forgiving",
            [
                Do::Send(
                    b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n".to_vec(),
                ),
                Do::AwaitUpstream(1),
                Do::Send(b"x\r\n".to_vec()),
                Do::Response("GET"),
                Do::AwaitEnd,
            ],
        ),
    ]
}

fn interim_cases() -> Vec<Case> {
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n";
    let expect = "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello";
    vec![
        Case::get("interim responses are relayed", "expects", "/", "")
            .raw(format!("{hints}HTTP/1.1 102 Processing\r\n\r\n{ok}"))
            .differs("response*", ALL_INTERIM)
            .differs("counter *", ALL_INTERIM),
        Case::get("continue that nobody asked for", "expects", "/", "")
            .raw(format!("HTTP/1.1 100 Continue\r\n\r\n{ok}")),
        Case::send("expect with the body at once", "plain", expect)
            .differs("response*", CONTINUE_LATE)
            .differs("counter *", CONTINUE_LATE),
        Case::send("expect with the body at once, forwarded", "expects", expect),
        Case::send("expect in HTTP/1.0", "old", expect.replace("HTTP/1.1", "HTTP/1.0"))
            .differs("response*", NO_OLD_INTERIM)
            .differs("counter *", NO_OLD_INTERIM),
        Case::send(
            "expect without a body",
            "plain",
            "GET / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\n\r\n",
        )
        .differs("response*", NOBODY_WAITS)
        .differs("counter *", NOBODY_WAITS),
        Case::send("HEAD of chunks", "plain", "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n")
            .raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        Case::send("HEAD without a length", "plain", "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n")
            .raw("HTTP/1.1 200 OK\r\n\r\n"),
        Case::get("204 with a length of zero", "plain", "/", "")
            .raw("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n"),
        Case::get("304 without a length", "plain", "/", "")
            .raw("HTTP/1.1 304 Not Modified\r\netag: a\r\n\r\n"),
        Case::get("response trailers pass if both sides enable them", "both_trailers", "/", "").raw(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\nX-U: 2\r\n\r\n",
        ),
        Case::get("empty body with trailers", "both_trailers", "/", "")
            .raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-t: 1\r\n\r\n"),
        chunked(
            "request trailers pass if both sides enable them",
            "both_trailers",
            "3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
        ),
        chunked(
            "large request body",
            "plain",
            &format!("{}0\r\n\r\n", format!("1000\r\n{}\r\n", "a".repeat(4096)).repeat(50)),
        ),
    ]
}

fn body_cases() -> Vec<Case> {
    let expect = "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    let continued = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    let with_body = |name, listener| {
        let steps = [Do::Send(expect.into()), Do::Interim, Do::Send(b"hello".to_vec()), Do::Response("POST")];
        Case::steps(name, listener, steps)
    };
    vec![
        chunked("chunks", "plain", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        chunked("chunk extensions are dropped", "plain", "3;x=\"y\"\r\nabc\r\n0\r\n\r\n"),
        chunked("request trailers are dropped", "plain", "3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"),
        chunked("request trailers pass if enabled", "trailers", "3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"),
        Case::get("response trailers are dropped", "plain", "/", "")
            .raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"),
        Case::get("response without a length", "plain", "/", "").reply(Reply::raw_then_close("HTTP/1.1 200 OK\r\n\r\nabc")),
        Case::get("204", "plain", "/", "").raw("HTTP/1.1 204 No Content\r\n\r\n"),
        Case::get("304 with a length", "plain", "/", "").raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n"),
        Case::get("response hop-by-hop fields", "plain", "/", "").raw(
            "HTTP/1.1 200 OK\r\nconnection: x-named\r\nx-named: 1\r\nkeep-alive: 5\r\nproxy-authenticate: Basic\r\n\
             content-length: 0\r\n\r\n",
        ),
        Case::get("interim responses are swallowed", "plain", "/", "").raw(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        with_body("expect is answered by the proxy", "plain"),
        with_body("expect is forwarded", "expects")
            .reply(Reply::early([Step::Send(continued), Step::ReadBody, Step::Send(ok.clone())])),
        Case::send("expect is refused by the upstream", "expects", expect)
            .reply(Reply::early([Step::Send(b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n".to_vec())])),
        Case::send("answer before the body", "plain", "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhello")
            .reply(Reply::early([Step::Send(ok)])),
        Case::get("large body", "plain", "/", "")
            .raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 200000\r\n\r\n{}", "0123456789".repeat(20_000))),
    ]
}

pub(crate) fn upstream_cases() -> Vec<Case> {
    let get = |name| Case::get(name, "plain", "/", "");
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
    vec![
        get("upstream closes without an answer").reply(Reply::steps([Step::Close])),
        get("upstream resets").reply(Reply::steps([Step::Reset])),
        get("upstream closes inside the head").reply(Reply::raw_then_close("HTTP/1.1 200 OK\r\ncontent-")),
        get("upstream closes inside the body")
            .reply(Reply::raw_then_close("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")),
        get("upstream closes inside a chunk")
            .reply(Reply::raw_then_close("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabc")),
        get("upstream with length and chunked")
            .raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        get("upstream with two lengths")
            .raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello"),
        get("upstream speaks nonsense").raw("SSH-2.0-OpenSSH_9.2p1\r\n\r\n"),
        get("upstream with too many fields").raw(format!(
            "HTTP/1.1 200 OK\r\n{}\r\n",
            (0..101).map(|n| format!("x-{n}: 1\r\n")).collect::<String>()
        )),
        get("upstream with a long head")
            .raw(format!("HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(81_000))),
        get("upstream with too long a head")
            .raw(format!("HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(83_000))),
        get("upstream speaks HTTP/1.0")
            .reply(Reply::raw_then_close("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok")),
        get("upstream says close").raw("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok"),
        get("upstream dribbles").reply(Reply::steps([Step::Dribble {
            bytes: ok.into(),
            size: 7,
            pause: std::time::Duration::from_millis(1),
        }])),
        get("bytes after the response").raw(format!("{ok}HTTP/1.1 200 OK\r\n\r\n")),
    ]
}
