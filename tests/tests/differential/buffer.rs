//! Requests whose bodies are waited for (`envoy.filters.http.buffer`).

use integration::config::HttpListener;
use integration::differential::{Case, H2Request, Setup};

const AT_ONCE: &str = "a body that is larger than `max_request_bytes` is refused however it comes; Envoy lets one pass that comes in one piece with its end";

fn per_route(config: &str) -> String {
    format!(
        "  typed_per_filter_config: {{envoy.filters.http.buffer: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute, {config}}}}}\n"
    )
}

pub(crate) fn setup() -> Setup {
    let route =
        |path: &str, more: &str| format!("- match: {{prefix: {path}}}\n  route: {{cluster: up}}\n{more}");
    let routes = [
        route("/off", &per_route("disabled: true")),
        route("/small", &per_route("buffer: {max_request_bytes: 3}")),
        route("/large", &per_route("buffer: {max_request_bytes: 20}")),
        route("/", ""),
    ]
    .concat();
    let filter = "- name: envoy.filters.http.buffer\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 10}\n";
    Setup::new("buffer", [HttpListener::new("buffer", &routes).filters(filter).yaml()])
}

pub(crate) fn cases() -> Vec<Case> {
    let post = |name, target: &str, body: &str| {
        let length = body.len();
        let text = format!("POST {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}");
        Case::send(name, "buffer", text)
    };
    let chunked = |name, target: &str, pieces: &[&str], trailers: &str| {
        let pieces: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
        let head = format!("POST {target} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
        Case::send(name, "buffer", format!("{head}{pieces}0\r\n{trailers}\r\n"))
    };
    vec![
        Case::get("no body", "buffer", "/a", ""),
        post("a body", "/a", "hello"),
        post("an empty body", "/a", ""),
        post("a body of the most", "/a", "0123456789"),
        post("a body too large", "/a", "0123456789x"),
        chunked("a body in pieces", "/a", &["he", "llo"], ""),
        chunked("an empty body in pieces", "/a", &[], ""),
        chunked("a body in pieces, too large", "/a", &["01234", "567890"], ""),
        chunked("trailers", "/a", &["hello"], "x-trailer: 1\r\n"),
        post("a body that is not waited for", "/off", "0123456789x"),
        chunked("a body in pieces that is not waited for", "/off", &["01234", "567890"], ""),
        post("a smaller limit", "/small", "hello"),
        post("a larger limit", "/large", "0123456789x"),
        Case::h2("over http/2", "buffer", [H2Request::post("http://test/a", "hello")]),
        Case::h2("over http/2, too large", "buffer", [H2Request::post("http://test/a", "0123456789x")])
            .differs("*", AT_ONCE),
    ]
}
