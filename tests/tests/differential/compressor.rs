//! Bodies that are compressed (`envoy.filters.http.compressor`). Bodies are compared as they are when decoded.

use integration::config::{HttpListener, indent};
use integration::differential::{Case, H2Request, Setup};
use integration::upstream::Reply;
use integration::upstream::h2::H2Reply;

const TYPE: &str = "\"@type\": type.googleapis.com/envoy.extensions";

/// A filter with this library.
fn filter(name: &str, library: &str, config: &str) -> String {
    let message = format!("{TYPE}.compression.{}.compressor.v3.{library}", library.to_ascii_lowercase());
    format!(
        "- name: {name}\n  typed_config:\n    {TYPE}.filters.http.compressor.v3.Compressor\n    \
         compressor_library: {{name: text, typed_config: {{{message}}}}}\n{}",
        indent(config, 4)
    )
}

const SIZE: &str = "what a body is compressed to is up to the library";
const MISNAMED: &str =
    "Envoy names the library of the route, and compresses with that of the filter: nobody can read it";

const LENGTH: &str = "aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd";

/// Routes that answer themselves, with these headers.
fn routes() -> String {
    let answer = |prefix: &str, status: u16, body: &str, headers: &[(&str, &str)]| {
        let headers: Vec<String> = headers
            .iter()
            .map(|(name, value)| {
                format!(
                    "{{header: {{key: {name}, value: '{value}'}}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}}"
                )
            })
            .collect();
        format!(
            "- match: {{prefix: {prefix}}}\n  direct_response: {{status: {status}, body: {{inline_string: \"{body}\"}}}}\n  response_headers_to_add: [{}]\n",
            headers.join(", ")
        )
    };
    let short = "aaaaaaaaaabbbbbbbbbbccccccccc";
    let own = |prefix: &str, config: &str| {
        format!(
            "{}  typed_per_filter_config:\n    one: {{{TYPE}.filters.http.compressor.v3.CompressorPerRoute, {config}}}\n",
            answer(prefix, 200, LENGTH, &[])
        )
    };
    let zstd = format!("{{name: other, typed_config: {{{TYPE}.compression.zstd.compressor.v3.Zstd}}}}");
    [
        answer("/etag", 200, LENGTH, &[("etag", "\"abc\"")]),
        answer("/weak", 200, LENGTH, &[("etag", "w/\"abc\"")]),
        answer("/cache", 200, LENGTH, &[("cache-control", "max-age=1, No-Transform")]),
        answer("/short", 200, short, &[]),
        answer("/enough", 200, &format!("{short}d"), &[]),
        answer("/image", 200, LENGTH, &[("content-type", "image/png"), ("etag", "\"abc\"")]),
        answer("/html", 200, LENGTH, &[("content-type", "Text/HTML; charset=x")]),
        answer("/encoded", 200, LENGTH, &[("content-encoding", "x")]),
        answer("/teapot", 418, LENGTH, &[]),
        answer("/vary/other", 200, LENGTH, &[("vary", "Cookie")]),
        answer("/vary/same", 200, LENGTH, &[("vary", "Cookie, Accept-Encoding")]),
        answer("/vary/spelling", 200, LENGTH, &[("vary", "accept-encoding")]),
        answer("/empty", 200, "", &[]),
        answer("/tagged-teapot", 418, LENGTH, &[("etag", "\"abc\"")]),
        own("/off", "disabled: true"),
        own("/on", "overrides: {response_direction_config: {}}"),
        own("/removed", "overrides: {response_direction_config: {remove_accept_encoding_header: true}}"),
        own("/library", &format!("overrides: {{compressor_library: {zstd}}}")),
        "- match: {prefix: /h2}\n  route: {cluster: h2up}\n".to_owned(),
        "- match: {prefix: /}\n  route: {cluster: up}\n".to_owned(),
    ]
    .concat()
}

pub(crate) fn setup() -> Setup {
    let chain = |config: &str| {
        ["Brotli", "Zstd", "Gzip"]
            .map(|library| filter(&library.to_ascii_lowercase(), library, config))
            .concat()
    };
    let listener = |name: &str, filters: &str| HttpListener::new(name, &routes()).filters(filters).yaml();
    let one = |name: &str, config: &str| listener(name, &filter("one", "Gzip", config));
    Setup::new(
        "compressor",
        [
            listener("three", &chain("response_direction_config: {}")),
            listener("later", &chain("response_direction_config: {}\nchoose_first: true")),
            listener(
                "typed",
                &[
                    filter(
                        "brotli",
                        "Brotli",
                        "response_direction_config: {common_config: {content_type: [image/png]}}",
                    ),
                    filter(
                        "gzip",
                        "Gzip",
                        "response_direction_config: {common_config: {content_type: [text/plain]}}",
                    ),
                ]
                .concat(),
            ),
            one(
                "old",
                "content_length: 40\ncontent_type: [text/plain]\ndisable_on_etag_header: true\nremove_accept_encoding_header: true",
            ),
            one("plain", "response_direction_config: {status_header_enabled: true}"),
            one(
                "strict",
                "response_direction_config: {status_header_enabled: true, disable_on_etag_header: true, uncompressible_response_codes: [418], remove_accept_encoding_header: true}",
            ),
            one("weaken", "response_direction_config: {weaken_etag_on_compress: true}"),
            one(
                "matched",
                "response_direction_config: {status_header_enabled: true, common_config: {content_type: [image/png], content_type_matcher: [{exact: Text/HTML}]}}",
            ),
            one(
                "disabled",
                "response_direction_config: {common_config: {enabled: {default_value: false, runtime_key: none}}}",
            ),
            one("requests", "request_direction_config: {common_config: {min_content_length: 10}}"),
            one("default_requests", "request_direction_config: {}"),
        ],
    )
}

const PATHS: [&str; 19] = [
    "/etag",
    "/weak",
    "/cache",
    "/short",
    "/enough",
    "/image",
    "/html",
    "/encoded",
    "/teapot",
    "/vary/other",
    "/vary/same",
    "/vary/spelling",
    "/empty",
    "/tagged-teapot",
    "/off",
    "/on",
    "/removed",
    "/library",
    "/",
];

const LISTENERS: [&str; 6] = ["old", "plain", "strict", "weaken", "matched", "disabled"];

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for listener in ["three", "later"] {
        for accepted in [
            "gzip",
            "br",
            "zstd",
            "gzip, br",
            "br, gzip",
            "*",
            "identity, gzip",
            "gzip, *",
            "gzip;q=0, *",
            "GZIP",
            "deflate",
            "gzip;q=x, br;q=0.1",
            "zstd;q=0.9,*;q=0.9",
            "identity;q=0.5, *;q=0.1",
            "gzip;v=1;q=0.2, br;q=0.5",
        ] {
            let lines = format!("accept-encoding: {accepted}\r\n");
            cases.push(Case::get("an encoding is chosen", listener, "/enough", &lines));
        }
        cases.push(Case::get(
            "two headers",
            listener,
            "/enough",
            "accept-encoding: x\r\naccept-encoding: gzip\r\n",
        ));
        cases.push(Case::get("nothing is accepted", listener, "/enough", ""));
    }
    for target in ["/image", "/enough"] {
        for accepted in ["br, gzip", "gzip", "*"] {
            let lines = format!("accept-encoding: {accepted}\r\n");
            cases.push(Case::get("a type is the affair of one", "typed", target, &lines));
        }
    }
    for listener in LISTENERS {
        for target in PATHS {
            for lines in ["accept-encoding: gzip\r\n", "accept-encoding: identity\r\n"] {
                cases.push(Case::get("a response is compressed or not", listener, target, lines));
            }
        }
    }
    cases.push(
        Case::get("another library of a route", "plain", "/library", "accept-encoding: zstd\r\n")
            .differs("response[0].body", MISNAMED)
            .differs("log[0].tx", MISNAMED),
    );
    cases.push(Case::send(
        "HEAD",
        "plain",
        "HEAD /enough HTTP/1.1\r\nhost: t\r\naccept-encoding: gzip\r\n\r\n",
    ));
    cases.extend(of_hosts());
    cases.extend(requests());
    cases.extend(odd_heads());
    cases.extend(of_each_library());
    cases
}

/// Heads that a careless compressor gets wrong.
fn odd_heads() -> Vec<Case> {
    let answer = |listener, status: &str, lines: &str| {
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: 40\r\n{lines}\r\n{LENGTH}");
        let name = format!("an odd head: {status} {}", lines.escape_default()).leak();
        Case::get(name, listener, "/", "accept-encoding: gzip\r\n").raw(head).varies("log[0].tx", SIZE)
    };
    let text = "content-type: text/plain\r\n";
    let mut cases = vec![
        answer("plain", "206 Partial Content", &format!("{text}content-range: bytes 0-39/100\r\n")),
        answer("plain", "205 Reset Content", text),
        answer("plain", "500 Oh", text),
        Case::get("304 with a length", "plain", "/", "accept-encoding: gzip\r\n").raw(
            "HTTP/1.1 304 Not Modified\r\ncontent-type: text/plain\r\ncontent-length: 400\r\netag: \"a\"\r\n\r\n",
        ),
        Case::send("HEAD of a host", "plain", "HEAD / HTTP/1.1\r\nhost: t\r\naccept-encoding: gzip\r\n\r\n")
            .raw("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 400\r\n\r\n"),
        Case::send("HEAD of a host, in chunks", "plain", "HEAD / HTTP/1.1\r\nhost: t\r\naccept-encoding: gzip\r\n\r\n")
            .raw("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n"),
    ];
    for lines in [
        "content-type: text/html ; charset=x\r\n",
        "content-type: ;text/html\r\n",
        "content-type: \r\n",
        "content-type: text/html\r\ncontent-type: image/png\r\n",
        "content-type: image/png\r\ncontent-type: text/html\r\n",
        "content-type: application/grpc\r\n",
        "content-type: text/html, text/plain\r\n",
        "content-type: text/plain\r\nvary: *\r\n",
        "content-type: text/plain\r\nvary: Cookie\r\nvary: Origin\r\n",
        "content-type: text/plain\r\nvary: Cookie\r\nvary: Accept-Encoding\r\n",
        "content-type: text/plain\r\nvary: X-Accept-Encoding\r\n",
        "content-type: text/plain\r\nvary: \r\n",
        "content-type: text/plain\r\nvary: Cookie,Accept-Encoding\r\n",
        "content-type: text/plain\r\nvary: Accept-Encoding;x\r\n",
        "content-type: text/plain\r\netag: \"\"\r\n",
        "content-type: text/plain\r\netag: \r\n",
        "content-type: text/plain\r\netag: a\r\n",
        "content-type: text/plain\r\netag: W/\r\n",
        "content-type: text/plain\r\netag: W/a\r\n",
        "content-type: text/plain\r\netag: \"a\"\r\netag: \"b\"\r\n",
        "content-type: text/plain\r\ncache-control: a\r\ncache-control: no-transform\r\n",
        "content-type: text/plain\r\ncache-control: xno-transform\r\n",
        "content-type: text/plain\r\ncache-control: no-transform=1\r\n",
        "content-type: text/plain\r\ncache-control: \"no-transform\"\r\n",
        "content-type: text/plain\r\ncache-control: a;no-transform\r\n",
        "content-type: text/plain\r\ncontent-encoding: identity\r\n",
        "content-type: text/plain\r\ncontent-encoding: \r\n",
        "content-type: text/plain\r\naccept-ranges: bytes\r\n",
        "content-type: text/plain\r\ncontent-md5: x\r\ndigest: y\r\n",
        "content-type: text/plain\r\nx-envoy-compression-status: x\r\n",
    ] {
        for listener in ["plain", "weaken"] {
            cases.push(answer(listener, "200 OK", lines));
        }
    }
    for accepted in [
        "",
        ",",
        " , gzip",
        "gzip ; q=1",
        "gzip;q = 0.5, br;q=0.6",
        "gzip;q=0.0, br;q=0.00",
        "gzip;q=-1",
        "gzip;q=1e1, br",
        "gzip;q=nan",
        "gzip;q=inf, br",
        "gzip;q=2, br;q=1",
        "gzip;q=",
        "gzip;q",
        "gzip;",
        "gzip;q=.5, br;q=0.4",
        "gzip;q=1., br;q=0.4",
        "gzip;q=+1",
        "gzip;Q=0.1, br;q=0.2",
        "*;q=0",
        "*;q=0, gzip",
        "identity;q=0",
        "identity;q=0, *;q=0",
        "x-gzip",
        "gzip;q=0.5;x=1, br;q=0.4",
        "gzip;q=0.5 , zstd;q=0.5, br;q=0.5",
        "gzip\tbr",
        "gzip;q=0.5junk, br;q=0.1",
        "gzip, gzip;q=0",
        "compress;q=1, gzip;q=0.1",
    ] {
        let lines = format!("accept-encoding: {accepted}\r\n");
        cases.push(Case::get(format!("odd wishes: {accepted:?}").leak(), "three", "/enough", &lines));
    }
    cases
}

/// What is in pieces, and what has trailers, with each library.
fn of_each_library() -> Vec<Case> {
    let mut cases = Vec::new();
    for accepted in ["gzip", "br", "zstd"] {
        let lines = format!("accept-encoding: {accepted}\r\n");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
        cases.push(
            Case::get("pieces and trailers", "three", "/", &lines)
                .raw(format!("{head}5\r\nhello\r\n6\r\n world\r\n0\r\na: b\r\n\r\n"))
                .differs("log[0].tx", SIZE),
        );
        cases.push(Case::get("no body after all", "three", "/", &lines).raw(format!("{head}0\r\n\r\n")));
    }
    cases
}

/// Responses of hosts: in pieces, with trailers, upgraded.
fn of_hosts() -> Vec<Case> {
    let accepts = "accept-encoding: gzip\r\n";
    let chunked = |trailers: &str| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n\r\n";
        Reply::raw(format!("{head}5\r\nhello\r\n6\r\n world\r\n0\r\n{trailers}\r\n"))
    };
    let close = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nuntil the end of the connection";
    let h2 = || H2Reply::new(200, "a body of unknown length").field("content-type", "text/plain");
    vec![
        Case::get("chunks", "plain", "/", accepts).reply(chunked("")).differs("log[0].tx", SIZE),
        Case::get("trailers that nobody wants", "plain", "/", accepts)
            .reply(chunked("a: b\r\n"))
            .differs("log[0].tx", SIZE),
        Case::get("the end is that of the connection", "plain", "/", accepts)
            .reply(Reply::raw_then_close(close)),
        Case::get("HTTP/2 without a length", "plain", "/h2", accepts).h2_reply(h2()),
        Case::h2(
            "HTTP/2 on both sides",
            "plain",
            [H2Request::get("http://t/h2").field("accept-encoding", "gzip")],
        )
        .h2_reply(h2().trailer("a", "b")),
        Case::h2(
            "a body that is all in the trailers",
            "plain",
            [H2Request::get("http://t/h2").field("accept-encoding", "gzip")],
        )
        .h2_reply(H2Reply::new(200, "").field("content-type", "text/plain").trailer("a", "b")),
        Case::get("no content", "plain", "/", accepts).reply(Reply::raw("HTTP/1.1 204 No Content\r\n\r\n")),
        Case::get("not modified", "plain", "/", accepts)
            .reply(Reply::raw("HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n")),
        Case::get("what the host sees", "strict", "/", accepts),
        Case::get("what the host sees, as it was configured once", "old", "/", accepts),
    ]
}

fn requests() -> Vec<Case> {
    let post = |name, listener, lines: &str, body: &str| {
        Case::send(name, listener, format!("POST / HTTP/1.1\r\nhost: t\r\n{lines}\r\n{body}"))
    };
    let text = "content-type: text/plain\r\n";
    let h2 =
        || H2Request::post("http://t/h2", "a body of unknown length").field("content-type", "text/plain");
    vec![
        post("a request", "requests", &format!("{text}content-length: 10\r\n"), "aaaaaaaaaa"),
        post("a request that is short", "requests", &format!("{text}content-length: 9\r\n"), "aaaaaaaaa"),
        post(
            "a request in chunks",
            "requests",
            &format!("{text}transfer-encoding: chunked\r\n"),
            "3\r\nabc\r\n0\r\n\r\n",
        ),
        post(
            "a request of another type",
            "requests",
            "content-type: image/png\r\ncontent-length: 10\r\n",
            "aaaaaaaaaa",
        ),
        post(
            "an encoded request",
            "requests",
            &format!("{text}content-encoding: x\r\ncontent-length: 10\r\n"),
            "aaaaaaaaaa",
        ),
        post("a request without a body", "requests", text, ""),
        post("requests are not meant", "plain", &format!("{text}content-length: 40\r\n"), LENGTH),
        post("a request, by default", "default_requests", &format!("{text}content-length: 40\r\n"), LENGTH),
        Case::h2("a request over HTTP/2", "requests", [h2()]),
        Case::h2("a request with trailers", "requests", [h2().trailer("a", "b")]),
    ]
}
