//! Filters that leave metadata on a request: configured ones, and what headers and cookies say.

use integration::config::{HttpListener, file_log};
use integration::differential::{Case, Setup};
use integration::upstream::Reply;

const NAMESPACES: [&str; 8] =
    ["h", "old", "new", "lists", "none", "envoy.lb", "envoy.filters.http.header_to_metadata", "labels"];

fn log() -> String {
    let all = NAMESPACES.map(|name| format!("{name}=%DYNAMIC_METADATA({name})%")).join("|");
    file_log(&format!(
        "log_format: {{text_format_source: {{inline_string: \"s=%REQ(x-sentinel)%|code=%RESPONSE_CODE%|{all}\\n\"}}}}"
    ))
}

/// Filters of this kind and configuration.
fn filter(name: &str, kind: &str, config: &str) -> String {
    format!(
        "- name: {name}\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.{kind}.v3.Config\n    {config}\n"
    )
}

const SET: &str = "metadata_namespace: old\n    value: {a: {b: [1], c: cx}, num: 1, s: t}\n    metadata: [\
{metadata_namespace: old, value: {a: {b: [2], d: dy}, num: 2, nothing: null, s: {u: v}}, allow_overwrite: true}, \
{metadata_namespace: old, value: {a: z, q: r}}, \
{metadata_namespace: new, value: {k: 1}}, {metadata_namespace: new, value: {k: {s: t}, j: [1]}, allow_overwrite: true}, \
{metadata_namespace: none}, \
{metadata_namespace: lists, value: {a: [1]}}, {metadata_namespace: lists, value: {a: [x, {b: 1}], c: null}, allow_overwrite: true}, {metadata_namespace: lists, value: {c: 5}, allow_overwrite: true}, \
{metadata_namespace: h, value: {a: set, set: true}}]";

const REWRITE: &str = "{pattern: {regex: \"^/(cluster[\\\\d\\\\w-]+)/?.*$\"}, substitution: \"\\\\1\"}";

fn rules() -> String {
    let pair = |key: &str, more: &str| format!("{{metadata_namespace: h, key: {key}{more}}}");
    let present = |header: &str, key: &str, more: &str| {
        format!("{{header: \"{header}\", on_header_present: {}}}", pair(key, more))
    };
    let request = [
        format!(
            "{{header: x-a, on_header_present: {}, on_header_missing: {}, remove: true}}",
            pair("a", ""),
            pair("a", ", value: missing")
        ),
        present("x-num", "num", ", type: NUMBER"),
        present("x-b64", "b64", ", encode: BASE64"),
        present("x-num64", "num64", ", encode: BASE64, type: NUMBER"),
        present("x-value", "value", ", encode: BASE64, type: PROTOBUF_VALUE"),
        present("x-rewritten", "rewritten", &format!(", regex_value_rewrite: {REWRITE}")),
        present(
            "x-emptied",
            "emptied",
            ", regex_value_rewrite: {pattern: {regex: \".*\"}, substitution: \"\"}",
        ),
        format!(
            "{{cookie: ck, on_header_present: {}, on_header_missing: {}}}",
            pair("ck", ""),
            pair("ck", ", value: none")
        ),
        "{header: x-own, on_header_present: {key: own, value: mine}}".to_owned(),
        format!("{{header: x-gone, on_header_missing: {}}}", pair("gone", ", value: \"5\", type: NUMBER")),
        present(":path", "path", ""),
        present(":method", "method", ""),
        present("host", "host", ""),
        present("x-last", "a", ""),
        "{header: x-v, on_header_present: {metadata_namespace: envoy.lb, key: v}}".to_owned(),
    ];
    let response = [
        format!(
            "{{header: x-r, on_header_present: {}, on_header_missing: {}, remove: true}}",
            pair("r", ""),
            pair("r", ", value: none")
        ),
        present(":status", "status", ", type: NUMBER"),
        format!("{{cookie: ck, on_header_present: {}}}", pair("rck", "")),
        present("content-type", "type", ""),
    ];
    format!(
        "stat_prefix: mine\n    request_rules: [{}]\n    response_rules: [{}]",
        request.join(", "),
        response.join(", ")
    )
}

const ROUTES: &str = r#"
- match: {path: /own}
  route: {cluster: up}
  typed_per_filter_config: {rules: {"@type": type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config, stat_prefix: of-route, request_rules: [{header: x-a, on_header_present: {metadata_namespace: h, key: route}}]}}
- match: {path: /response}
  route: {cluster: up}
  typed_per_filter_config: {rules: {"@type": type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config, response_rules: [{header: x-r, on_header_present: {metadata_namespace: h, key: route}}]}}
- match: {path: /direct}
  direct_response: {status: 201, body: {inline_string: direct}}
- match: {path: /labelled}
  route: {cluster: labelled}
- match: {prefix: /}
  route: {cluster: up}
"#;

const LABELLED: &str = r#"- name: labelled
  connect_timeout: 1s
  lb_subset_config: {subset_selectors: [{keys: [v]}]}
  load_assignment:
    cluster_name: labelled
    endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{up}}}}}, metadata: {filter_metadata: {envoy.lb: {v: a}}}}, {endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{refused}}}}}, metadata: {filter_metadata: {envoy.lb: {v: b}}}}]}]
"#;

pub(crate) fn setup() -> Setup {
    let filters = [filter("set", "set_metadata", SET), filter("rules", "header_to_metadata", &rules())];
    let silent = filter("rules", "header_to_metadata", "stat_prefix: silent");
    Setup::with_clusters(
        "labelling",
        [
            HttpListener::new("http", ROUTES).filters(&filters.concat()).logs(&log()).yaml(),
            HttpListener::new("silent", ROUTES).filters(&silent).logs(&log()).yaml(),
        ],
        [LABELLED.to_owned()],
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let get = |name, path: &str, lines: &str| Case::get(name, "http", path, lines);
    let answer = |lines: &str| Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n{lines}\r\nok"));
    let long = |length: usize| format!("x-b64: {}\r\n", "MDAw".repeat(length));
    vec![
        get("nothing", "/x?y", ""),
        get("a header", "/", "x-a: 1\r\n"),
        get("headers of one name", "/", "x-a: 1\r\nx-A: 2, 3\r\n"),
        get("an empty header", "/", "x-a:\r\nx-gone:\r\nx-own:\r\n"),
        get("a later rule", "/", "x-a: 1\r\nx-last: 2\r\n"),
        get("numbers", "/", "x-num:  -1.5e2 \r\nx-num64: MTI=\r\n"),
        get("a hexadecimal number", "/", "x-num: 0x1F\r\n"),
        get("no number", "/", "x-num: 1x\r\nx-num64: eA==\r\n"),
        get("base64", "/", "x-b64: aGVsbG8=\r\nx-value: GgNhYmM=\r\n"),
        get("base64 without padding", "/", "x-b64: aGVsbG8\r\n"),
        get("no base64", "/", "x-b64: a!\r\nx-num64: =\r\nx-value: AAAA\r\n"),
        get("a rewritten value", "/", "x-rewritten: /cluster-prod-001/x/y\r\n"),
        get("a value that is not rewritten", "/", "x-rewritten: /other\r\n"),
        get("a value of which nothing is left", "/", "x-emptied: x\r\n"),
        get("a cookie", "/", "cookie: a=b; ck=v1; ck=v2\r\n"),
        get("a quoted cookie", "/", "cookie: ck=\"v 1\"\r\n"),
        get("an empty cookie", "/", "cookie: ck=\r\n"),
        get("a value in place of a header", "/", "x-own: x\r\n"),
        get("a value that is long", "/", &long(2047)),
        get("a value that is too long", "/", &long(2048)),
        get("a label", "/labelled", "x-v: a\r\n"),
        get("a label of another host", "/labelled", "x-v: b\r\n"),
        get("a label of no host", "/labelled", "x-v: c\r\n"),
        get("rules of a route", "/own", "x-a: 1\r\nx-num: 5\r\n").reply(answer("x-r: 1\r\n")),
        get("rules of a route for responses", "/response", "x-a: 1\r\n").reply(answer("x-r: 1\r\n")),
        get("a direct response", "/direct", "x-a: 1\r\n"),
        get("a response", "/", "").reply(answer("x-r: 1\r\nx-r: 2\r\ncookie: ck=1\r\n")),
        Case::get("no rules", "silent", "/", "x-a: 1\r\n"),
        Case::get("rules of a route alone", "silent", "/own", "x-a: 1\r\n"),
    ]
}
