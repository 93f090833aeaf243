//! The spelling of names over HTTP/1 (`header_key_format`): as a peer wrote them, or not.

use integration::config::{HttpListener, cluster, indent};
use integration::differential::{Case, Do, H2Request, Setup};

pub(crate) fn setup() -> Setup {
    let proper = "header_key_format: {proper_case_words: {}}\n";
    let both = format!("{}enable_trailers: true\n", preserve(""));
    let others = preserve("formatter_type_on_envoy_headers: PROPER_CASE");
    Setup::with_clusters(
        "spelling",
        [
            listener("clients", &preserve(""), "up"),
            listener("hosts", "{}\n", "up_kept"),
            listener("both", &both, "up_kept"),
            listener("others", &others, "up_others"),
            listener("reasons", &others, "up_reasons"),
            listener("proper_clients", proper, "up_kept"),
            listener("proper_hosts", &preserve(""), "up_proper"),
            listener("proper_both", &format!("{proper}enable_trailers: true\n"), "up_proper"),
            listener("to_http2", &preserve(""), "h2up"),
        ],
        [
            cluster("up_kept", "up", &host_options(&both)),
            cluster("up_others", "up", &host_options(&others)),
            cluster("up_reasons", "up", &host_options(&preserve("forward_reason_phrase: true"))),
            cluster("up_proper", "up", &host_options(&format!("{proper}enable_trailers: true\n"))),
        ],
    )
}

/// `header_key_format` with the formatter that preserves, configured so.
fn preserve(config: &str) -> String {
    format!(
        r#"header_key_format:
  stateful_formatter:
    name: preserve_case
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig
      {config}
"#
    )
}

fn listener(name: &str, http1: &str, cluster: &str) -> String {
    let routes = format!(
        r#"
- match: {{prefix: /redirect}}
  redirect: {{path_redirect: /there}}
- match: {{prefix: /added}}
  route: {{cluster: {cluster}}}
  request_headers_to_remove: [x-gone]
  request_headers_to_add:
  - header: {{key: X-Added, value: added}}
  - header: {{key: x-gone, value: again}}
  response_headers_to_add:
  - header: {{key: X-Added, value: added}}
  - header: {{key: x-twice, value: added}}
- match: {{path: /none}}
  direct_response: {{status: 404, body: {{inline_string: none}}}}
- match: {{prefix: /}}
  route: {{cluster: {cluster}}}
"#
    );
    let options = format!(
        "http_protocol_options:\n{}upgrade_configs: [{{upgrade_type: websocket}}]\n",
        indent(http1, 2)
    );
    HttpListener::new(name, &routes).options(&options).yaml()
}

fn host_options(http1: &str) -> String {
    format!(
        r#"typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config:
      http_protocol_options:
{}"#,
        indent(http1, 8)
    )
}

const ODD_REQUEST: &str = "X-MyHeader: 1\r\nx-UPPER: 2\r\nplain: 3\r\nUser-AGENT: me\r\nX-Gone: 4\r\nX-Request-ID: mine\r\nConnection: Keep-Alive\r\n";
const ODD_RESPONSE: &str = "HTTP/1.1 200 Fine\r\nX-MyHeader: 1\r\nX-TWICE: 1\r\nx-Twice: 2\r\nplain: 3\r\nSERVER: mine\r\nContent-LENGTH: 3\r\n\r\nabc";
const ODD_CHUNKED: &str =
    "HTTP/1.1 200\r\nTransfer-ENCODING: chunked\r\nTRAILER: X-End\r\n\r\n3\r\nabc\r\n0\r\nX-End: 1\r\n\r\n";

fn odd(name: &'static str, listener: &'static str) -> Case {
    let head = format!("GET / HTTP/1.1\r\nHoST: test\r\n{ODD_REQUEST}\r\n");
    Case::send(name, listener, head).raw(ODD_RESPONSE)
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        odd("names of clients", "clients"),
        odd("names of hosts", "hosts"),
        odd("names of both", "both"),
        odd("names, others in proper case", "others"),
        odd("names and reasons", "reasons"),
        odd("names of hosts, proper case to clients", "proper_clients"),
        odd("names of clients, proper case to hosts", "proper_hosts"),
        odd("proper case on both sides", "proper_both"),
        Case::get("names added on the way", "both", "/added", ODD_REQUEST).raw(ODD_RESPONSE),
        Case::get("names added on the way, in proper case", "others", "/added", ODD_REQUEST)
            .raw(ODD_RESPONSE),
        Case::get("one name, lower case first", "both", "/", "x-two: 1\r\nX-Two: 2\r\nX-TWO: 3\r\n"),
        Case::get("one name, upper case first", "both", "/", "X-TWO: 1\r\nx-two: 2\r\n"),
        Case::get("names in a local reply", "both", "/none", ODD_REQUEST),
        Case::get("names in a local reply, others in proper case", "others", "/none", ODD_REQUEST),
        Case::get("names in a local reply, proper case", "proper_both", "/none", ODD_REQUEST),
        Case::get("names in a redirect", "others", "/redirect", ODD_REQUEST),
        Case::send("names in a reply to no request", "others", "GET /\r\n\r\n"),
        Case::get("an empty reason", "reasons", "/", "").raw("HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"),
        Case::get("a reason that is not kept", "both", "/", "")
            .raw("HTTP/1.1 404 Gone Fishing\r\ncontent-length: 0\r\n\r\n"),
        Case::get("the reason of a status without one", "reasons", "/", "")
            .raw("HTTP/1.1 299 My Own\r\ncontent-length: 0\r\n\r\n"),
        Case::h2("names of hosts over HTTP/2", "both", [H2Request::get("http://test/").field("x-one", "1")])
            .raw(ODD_RESPONSE),
        Case::get("names to an HTTP/2 host", "to_http2", "/", ODD_REQUEST),
    ];
    for (name, listener) in [
        ("trailers of clients", "clients"),
        ("trailers of both", "both"),
        ("trailers, proper case", "proper_both"),
        ("trailers, others in proper case", "others"),
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\n\r\n{}",
            "3\r\nabc\r\n0\r\nX-End: 1\r\n\r\n"
        );
        cases.push(Case::send(name, listener, request).raw(ODD_CHUNKED));
    }
    for (name, listener) in [("names in an upgrade", "both"), ("names in an upgrade, proper case", "others")]
    {
        let request = "GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUPGRADE: websocket\r\nSec-WebSocket-KEY: a\r\n\r\n";
        cases.push(
            Case::steps(name, listener, [Do::Send(request.into()), Do::Response("GET"), Do::Leave])
                .raw("HTTP/1.1 101 Other\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-ACCEPT: b\r\n\r\n"),
        );
    }
    cases
}
