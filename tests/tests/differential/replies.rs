//! Replies that the proxy makes itself, and their configuration.

use integration::config::HttpListener;
use integration::differential::{Case, Setup};
use integration::upstream::{Reply, Step};

const ROUTES: &str = r#"
- match: {prefix: /refused}
  route: {cluster: refused}
- match: {prefix: /denied}
  direct_response: {status: 403, body: {inline_string: denied}}
- match: {prefix: /400}
  direct_response: {status: 400, body: {inline_string: "bad: 100% \u00e9"}}
- match: {prefix: /401}
  direct_response: {status: 401}
- match: {prefix: /429}
  direct_response: {status: 429}
- match: {prefix: /502}
  direct_response: {status: 502}
- match: {prefix: /500}
  direct_response: {status: 500}
- match: {prefix: /204}
  direct_response: {status: 204}
- match: {prefix: /up}
  route: {cluster: up}
"#;

const MAPPED: &str = r#"
local_reply_config:
  body_format: {text_format_source: {inline_string: "%RESPONSE_CODE%: %LOCAL_REPLY_BODY% at %REQ(:PATH)%\n"}}
  mappers:
  - filter: {status_code_filter: {comparison: {op: EQ, value: {default_value: 503, runtime_key: none}}}}
    status_code: 599
    headers_to_add: [{header: {key: x-mapped, value: "%RESPONSE_FLAGS%"}}]
    body: {inline_string: sorry}
  - filter: {response_flag_filter: {flags: [NR]}}
    body_format_override:
      json_format: {code: "%RESPONSE_CODE%", details: "%RESPONSE_CODE_DETAILS%", text: "%LOCAL_REPLY_BODY%"}
  - filter: {header_filter: {header: {name: x-tag, string_match: {exact: special}}}}
    body_format_override: {text_format: "special", content_type: "text/x-special"}
"#;

pub(crate) fn setup() -> Setup {
    Setup::new(
        "replies",
        [
            HttpListener::new("plain", ROUTES).yaml(),
            HttpListener::new("mapped", ROUTES).options(MAPPED).yaml(),
        ],
    )
}

const GRPC: &str = "content-type: application/grpc\r\n";

pub(crate) fn cases() -> Vec<Case> {
    let get = |name, listener, target: &str, lines: &str| Case::get(name, listener, target, lines);
    vec![
        get("gRPC without route", "plain", "/nowhere", GRPC),
        get("gRPC refused", "plain", "/refused", GRPC),
        get("gRPC direct response", "plain", "/denied", GRPC),
        get("gRPC upstream resets", "plain", "/up", GRPC).reply(Reply::steps([Step::Reset])),
        Case::send("HEAD refused", "plain", "HEAD /refused HTTP/1.1\r\nhost: test\r\n\r\n"),
        get("gRPC 400", "plain", "/400", GRPC),
        get("gRPC 401", "plain", "/401", GRPC),
        get("gRPC 429", "plain", "/429", GRPC),
        get("gRPC 502", "plain", "/502", GRPC),
        get("gRPC 500", "plain", "/500", GRPC),
        get("gRPC with a suffix", "plain", "/401", "content-type: application/grpc+proto\r\n"),
        get("gRPC-Web is not gRPC", "plain", "/401", "content-type: application/grpc-web\r\n"),
        get("204 of its own", "plain", "/204", ""),
        Case::send("HEAD of a reply of its own", "plain", "HEAD /denied HTTP/1.1\r\nhost: test\r\n\r\n"),
        Case::send("HEAD is mapped", "mapped", "HEAD /denied HTTP/1.1\r\nhost: test\r\n\r\n"),
        get("mapped status", "mapped", "/refused", ""),
        get("mapped to JSON", "mapped", "/nowhere", ""),
        get("mapped by a header", "mapped", "/denied", "x-tag: special\r\n"),
        get("mapped by the default format", "mapped", "/denied", ""),
        get("mapped gRPC", "mapped", "/refused", GRPC),
        Case::send("codec errors are mapped", "mapped", "GET / HTTP/1.1\r\nhost: test\r\nx-a : 1\r\n\r\n"),
        get("upstream replies are not mapped", "mapped", "/up", "")
            .raw("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 6\r\n\r\ntheirs"),
    ]
}
