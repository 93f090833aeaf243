//! Options of routes and of the connection manager that no other group has: each of them once where it acts, and once where
//! it does not.

use integration::config::{HttpListener, cluster};
use integration::differential::{Case, Setup};
use integration::upstream::{Reply, Step};

const ROUTES: &str = r#"
- match:
    path_match_policy:
      name: envoy.path.match.uri_template.uri_template_matcher
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig
        path_template: /template/{name}/{rest=**}
  route:
    cluster: up
    path_rewrite_policy:
      name: envoy.path.rewrite.uri_template.uri_template_rewriter
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig
        path_template_rewrite: /{rest}/of/{name}
- match: {prefix: /match, headers: [{name: x-m, contains_match: mid}]}
  direct_response: {status: 200, body: {inline_string: contains}}
- match: {prefix: /match, headers: [{name: x-m, prefix_match: pre}]}
  direct_response: {status: 200, body: {inline_string: prefix}}
- match: {prefix: /match, headers: [{name: x-m, suffix_match: suf}]}
  direct_response: {status: 200, body: {inline_string: suffix}}
- match: {prefix: /match, headers: [{name: x-m, exact_match: exact}]}
  direct_response: {status: 200, body: {inline_string: exact}}
- match: {prefix: /match, headers: [{name: x-m, safe_regex_match: {regex: "[0-9]+"}}]}
  direct_response: {status: 200, body: {inline_string: digits}}
- match: {prefix: /match, headers: [{name: x-m, string_match: {exact: CaSe, ignore_case: true}}]}
  direct_response: {status: 200, body: {inline_string: caseless}}
- match: {prefix: /match, headers: [{name: x-none, treat_missing_header_as_empty: true, string_match: {safe_regex: {regex: ".{0}"}}}, {name: x-m, present_match: true}]}
  direct_response: {status: 200, body: {inline_string: missing is empty}}
- match: {prefix: /query, query_parameters: [{name: q, string_match: {safe_regex: {regex: "a+"}}}]}
  direct_response: {status: 200, body: {inline_string: query}}
- match: {prefix: /redirect/scheme}
  redirect: {scheme_redirect: ftp, response_code: SEE_OTHER}
- match: {prefix: /redirect/all}
  redirect: {scheme_redirect: https, host_redirect: there.test, port_redirect: 444, path_redirect: "/p?q=1", response_code: TEMPORARY_REDIRECT}
- match: {prefix: /redirect/https}
  redirect: {https_redirect: true}
- match: {prefix: /redirect/query}
  redirect: {path_redirect: "/p", strip_query: false}
- match: {prefix: /file}
  direct_response: {status: 200, body: {filename: "FILE"}}
- match: {prefix: /auto}
  route: {cluster: named, auto_host_rewrite: true}
- match: {prefix: /append}
  route: {cluster: named, auto_host_rewrite: true, append_x_forwarded_host: true}
- match: {prefix: /literal}
  route: {cluster: up, host_rewrite_literal: new.test, append_x_forwarded_host: true}
- match: {prefix: /chosen}
  route:
    weighted_clusters:
      header_name: x-random
      clusters: [{name: refused, weight: 30}, {name: up, weight: 70}]
- match: {prefix: /mutated}
  request_headers_to_remove: [x-route]
  route:
    weighted_clusters:
      clusters:
      - name: up
        weight: 1
        host_rewrite_literal: weighted.test
        request_headers_to_add: [{header: {key: x-there, value: weight}}]
        request_headers_to_remove: [x-gone]
        response_headers_to_add: [{header: {key: x-back, value: "%UPSTREAM_CLUSTER%"}}]
        response_headers_to_remove: [x-remove]
- match: {prefix: /cut}
  route: {cluster: up, timeout: 10s, max_stream_duration: {grpc_timeout_header_max: 1s, grpc_timeout_header_offset: 0.1s}}
- match: {prefix: /small}
  route: {cluster: small}
- match: {prefix: /}
  route: {cluster: up}
"#;

const COUNTED: &str = r#"
- name: counted
  domains: ["counted.test"]
  include_request_attempt_count: true
  include_attempt_count_in_response: true
  metadata: {filter_metadata: {ns: {key: of the host}}}
  response_headers_to_add: [{header: {key: x-meta, value: "%METADATA(VIRTUAL_HOST:ns:key)% %METADATA(ROUTE:ns:key)%"}}]
  routes:
  - match: {prefix: /}
    metadata: {filter_metadata: {ns: {key: of the route}}}
    route: {cluster: up}
- name: ported
  domains: ["ported.test"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: ported}}}]
- name: rest
  domains: ["*"]
  routes: [{match: {prefix: /}, route: {cluster: up}}]
"#;

/// A cluster that takes small response heads only.
fn small() -> String {
    let options = "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    common_http_protocol_options: {max_response_headers_kb: 1, max_headers_count: 5}\n    explicit_http_config: {http_protocol_options: {}}\n";
    cluster("small", "up", options)
}

pub(crate) fn setup() -> Setup {
    let routes = ROUTES.replace("FILE", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let list = |name: &str, options: &str| HttpListener::to_up(name).options(options).yaml();
    let internal = "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}";
    let named =
        cluster("named", "up", "").replace("endpoint: {address", "endpoint: {hostname: named.test, address");
    Setup::with_clusters(
        "options",
        [
            HttpListener::new("routes", &routes).yaml(),
            HttpListener::with_virtual_hosts("counted", COUNTED)
                .route_config("ignore_port_in_host_matching: true")
                .yaml(),
            HttpListener::to_up("expected")
                .options(internal)
                .router("respect_expected_rq_timeout: true")
                .yaml(),
            HttpListener::to_up("unexpected").options(internal).yaml(),
            HttpListener::to_up("strict").options(internal).router(STRICT).yaml(),
            HttpListener::to_up("uncounted").router("suppress_grpc_request_failure_code_stats: true").yaml(),
            HttpListener::to_up("quiet").router("suppress_envoy_headers: true").yaml(),
            list("kept", "use_remote_address: true\npreserve_external_request_id: true"),
            list("dot", "strip_trailing_host_dot: true"),
            list("port", "append_x_forwarded_port: true"),
            list("other_port", "strip_matching_host_port: true"),
        ],
        [named, small()],
    )
}

fn get(name: &'static str, target: &str, lines: &str) -> Case {
    Case::get(name, "routes", target, lines)
}

const STRICT: &str = "strict_check_headers: [x-envoy-upstream-rq-timeout-ms, x-envoy-upstream-rq-per-try-timeout-ms, \
                      x-envoy-max-retries, x-envoy-retry-grpc-on, x-envoy-retry-on]";

/// A request from inside, whose headers are believed.
fn strict(name: &'static str, lines: &str) -> Case {
    Case::get(name, "strict", "/", &format!("x-forwarded-for: 10.1.2.3\r\n{lines}"))
}

/// A request that fails where gRPC's failures are not counted.
fn uncounted(name: &'static str, lines: &str) -> Case {
    Case::get(name, "uncounted", "/", lines).raw("HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
}

fn host(name: &'static str, listener: &'static str, host: &str) -> Case {
    Case::send(name, listener, format!("GET /x HTTP/1.1\r\nhost: {host}\r\n\r\n"))
}

pub(crate) fn cases() -> Vec<Case> {
    let stall = || Reply::steps([Step::Stall]);
    let odd = "HTTP/1.1 200 OK\r\nx-remove: 1\r\ncontent-length: 0\r\n\r\n";
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(1500));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x-a: 1\r\n".repeat(8));
    vec![
        get("template", "/template/alice/a/b?c=d", ""),
        get("template of one segment too few", "/template/alice", ""),
        get("matcher that contains", "/match", "x-m: a-mid-b\r\n"),
        get("matcher of a prefix", "/match", "x-m: prefix\r\n"),
        get("matcher of a suffix", "/match", "x-m: is-suf\r\n"),
        get("matcher of all", "/match", "x-m: exact\r\n"),
        get("matcher by regex", "/match", "x-m: 123\r\n"),
        get("matcher without case", "/match", "x-m: cAsE\r\n"),
        get("matcher of a header that is missing", "/match", "x-m: other\r\n"),
        get("matcher of a header that is not missing", "/match", "x-m: other\r\nx-none: 1\r\n"),
        get("query by regex", "/query?q=aaa", ""),
        get("query by regex, part of it", "/query?q=aab", ""),
        get("redirect to a scheme", "/redirect/scheme?a=b", ""),
        get("redirect everything", "/redirect/all?a=b", ""),
        Case::send(
            "redirect with a port",
            "routes",
            "GET /redirect/https HTTP/1.1\r\nhost: test:8080\r\n\r\n",
        ),
        Case::send(
            "redirect with the port of the scheme",
            "routes",
            "GET /redirect/https HTTP/1.1\r\nhost: test:80\r\n\r\n",
        ),
        get("redirect that keeps the query", "/redirect/query?a=b", ""),
        get("body from a file", "/file", ""),
        get("host of the endpoint", "/auto", ""),
        get("host of the endpoint, old one appended", "/append", "x-forwarded-host: before.test\r\n"),
        get("host rewritten, old one appended", "/literal", ""),
        get("weighted by a header, first", "/chosen", "x-random: 29\r\n"),
        get("weighted by a header, second", "/chosen", "x-random: 30\r\n"),
        get("weighted by a header, beyond all", "/chosen", "x-random: 130\r\n"),
        get("weighted cluster's mutations", "/mutated", "x-gone: 1\r\nx-route: 1\r\n").raw(odd),
        get(
            "gRPC timeout with an offset",
            "/cut",
            "content-type: application/grpc\r\ngrpc-timeout: 250m\r\n",
        )
        .reply(stall()),
        get("response head that is too long", "/small", "").raw(long),
        get("response head of too many fields", "/small", "").raw(many),
        host("attempts are counted", "counted", "counted.test"),
        host("port is ignored in the match", "counted", "ported.test:4711"),
        strict("strict, in order", "x-envoy-max-retries: 2\r\nx-envoy-retry-on: 5xx, reset\r\n"),
        strict("strict, retries", "x-envoy-max-retries: two\r\n"),
        strict("strict, timeout", "x-envoy-upstream-rq-timeout-ms: 1.5\r\n"),
        strict("strict, timeout of a try", "x-envoy-upstream-rq-per-try-timeout-ms: -1\r\n"),
        strict("strict, retry-on", "x-envoy-retry-on: 5xx,never\r\n"),
        strict("strict, retry-grpc-on", "x-envoy-retry-grpc-on: internal,5xx\r\n"),
        strict("strict, two", "x-envoy-retry-on: never\r\nx-envoy-max-retries: x\r\n"),
        uncounted("codes of gRPC are not counted", "content-type: application/grpc\r\n"),
        uncounted("codes are counted without gRPC", ""),
        Case::get("no headers of Envoy's", "quiet", "/", ""),
        Case::get("request id is kept at the edge", "kept", "/", "x-request-id: mine\r\n"),
        host("dot is stripped", "dot", "test."),
        host("dot is stripped before a port", "dot", "test.:80"),
        host("dots are stripped once", "dot", "test.."),
        Case::send("absolute URL", "dot", "GET http://other.test/x HTTP/1.1\r\nhost: test\r\n\r\n"),
        Case::get("forwarded port", "port", "/", "x-forwarded-port: 1\r\n"),
        host("port of the listener", "other_port", "test:1"),
    ]
    .into_iter()
    .chain(timeouts())
    .collect()
}

fn timeouts() -> Vec<Case> {
    let stall = || Reply::steps([Step::Stall]);
    let inside = "x-forwarded-for: 10.1.2.3\r\n";
    vec![
        Case::get(
            "expected timeout",
            "expected",
            "/",
            &format!("{inside}x-envoy-expected-rq-timeout-ms: 150\r\n"),
        )
        .reply(stall()),
        Case::get(
            "expected timeout, and one of its own",
            "expected",
            "/",
            &format!(
                "{inside}x-envoy-expected-rq-timeout-ms: 900\r\nx-envoy-upstream-rq-timeout-ms: 150\r\n"
            ),
        )
        .raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        Case::get(
            "timeout of a request",
            "unexpected",
            "/",
            &format!(
                "{inside}x-envoy-expected-rq-timeout-ms: 9000\r\nx-envoy-upstream-rq-timeout-ms: 150\r\n"
            ),
        )
        .reply(stall()),
        Case::get(
            "timeout of a request from outside",
            "unexpected",
            "/",
            "x-envoy-upstream-rq-timeout-ms: 150\r\n",
        ),
    ]
}
