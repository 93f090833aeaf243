//! Headers that the proxy adds, removes and rewrites.

use integration::config::HttpListener;
use integration::differential::{Case, Setup};
use integration::frames::{END_HEADERS, END_STREAM, HEADERS, block, frame};

use crate::rbac_matcher::{header, is, list, map, network_input, tree};

const MUTATIONS: &str = r#"
- name: mutated
  domains: ["*"]
  request_headers_to_add:
  - {header: {key: x-level, value: host}}
  response_headers_to_remove: [x-remove]
  response_headers_to_add:
  - {header: {key: x-code, value: "%RESPONSE_CODE%"}}
  routes:
  - match: {prefix: /}
    route: {cluster: up}
    request_headers_to_add:
    - {header: {key: x-level, value: route}}
    - {header: {key: x-replaced, value: new}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
    - {header: {key: x-kept, value: new}, append_action: ADD_IF_ABSENT}
    - {header: {key: x-only-if, value: new}, append_action: OVERWRITE_IF_EXISTS}
    - {header: {key: x-empty, value: ""}}
    - {header: {key: x-kept-empty, value: ""}, keep_empty_value: true}
    - {header: {key: x-format, value: "%PROTOCOL% %REQ(x-in)% %REQ(x-none?x-in):3% %%"}}
    request_headers_to_remove: [x-remove]
"#;

/// Headers that tell what became of a request.
const TOLD: &str = r#"
- name: told
  domains: ["*"]
  include_attempt_count_in_response: true
  response_headers_to_add:
  - {header: {key: x-of-host, value: "%RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%"}}
  routes:
  - match: {prefix: /missing}
    route: {cluster: missing, cluster_not_found_response_code: NOT_FOUND}
    response_headers_to_add: [{header: {key: x-of-route, value: "%RESPONSE_CODE_DETAILS%"}}]
  - match: {prefix: /by-header}
    route: {cluster_header: x-cluster}
  - match: {prefix: /refused}
    route: {cluster: refused}
  - match: {prefix: /retried}
    route: {cluster: refused, retry_policy: {retry_on: connect-failure}}
  - match: {prefix: /direct}
    direct_response: {status: 200, body: {inline_string: hi}}
  - match: {prefix: /redirect}
    redirect: {path_redirect: /there}
  - match: {prefix: /up}
    route: {cluster: up}
"#;
const ABORTING: &str = "- name: fault
  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, headers: [{name: x-abort, present_match: true}], abort: {http_status: 418, percentage: {numerator: 100}}}
";
const OF_TABLE: &str = "validate_clusters: false\nresponse_headers_to_add: [{header: {key: x-of-table, value: \"%RESPONSE_CODE_DETAILS% %RESPONSE_CODE%\"}}]";

/// Routes that tell the scheme before and after a host is asked.
const SCHEME_ROUTES: &str = r#"
- match: {path: /redirect}
  redirect: {path_redirect: /there}
- match: {prefix: /}
  route: {cluster: h2up}
  request_headers_to_add: [{header: {key: x-scheme, value: "%REQ(:SCHEME)%"}}]
  response_headers_to_add: [{header: {key: x-scheme, value: "%REQ(:SCHEME)%"}}]
"#;

/// Headers of requests of which Envoy keeps but one value, and some of which it keeps all.
const OF_REQUESTS: [&str; 8] = [
    "accept",
    "authorization",
    "cookie",
    "user-agent",
    "via",
    "x-forwarded-host",
    "x-client-trace-id",
    "x-plain",
];
/// The same of responses.
const OF_RESPONSES: [&str; 7] =
    ["cache-control", "etag", "vary", "set-cookie", "www-authenticate", "x-request-id", "x-plain"];

/// A filter that adds to each of them.
fn added() -> String {
    let adds = |names: &[&str]| -> String {
        let add = |name: &&str| {
            format!(
                "{{append: {{header: {{key: {name}, value: new}}, append_action: APPEND_IF_EXISTS_OR_ADD}}}}"
            )
        };
        names.iter().map(add).collect::<Vec<_>>().join(", ")
    };
    format!(
        "- name: mutation\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation\n    mutations: {{request_mutations: [{}], response_mutations: [{}]}}\n",
        adds(&OF_REQUESTS),
        adds(&OF_RESPONSES)
    )
}

/// Each of them twice.
fn twice(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name}: a\r\n{name}: b\r\n")).collect()
}

/// Requests choose what becomes of what they say of their client's certificate.
fn cert_tree() -> String {
    let to = |forward: &str| {
        format!(
            "{{action: {{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.ForwardClientCertConfig, forward_client_cert_details: {forward}}}}}}}"
        )
    };
    let entries =
        [("always", to("ALWAYS_FORWARD_ONLY")), ("set", to("SANITIZE_SET")), ("only", to("FORWARD_ONLY"))];
    let source =
        list(&[(is(&network_input("SourceIPInput"), "{exact: 127.0.0.1}"), to("ALWAYS_FORWARD_ONLY"))]);
    let nowhere = map("exact_match_map", &header("x-from"), &[("here", tree(&source))]);
    let by_name = map("exact_match_map", &header("x-trust"), &entries);
    format!("forward_client_cert_matcher: {{{by_name}, on_no_match: {{matcher: {{{nowhere}}}}}}}")
}

pub(crate) fn setup() -> Setup {
    let list = |name: &str, options: &str| HttpListener::to_up(name).options(options).yaml();
    Setup::new(
        "headers",
        [
            list("default", ""),
            list("edge", "use_remote_address: true"),
            list("hops", "use_remote_address: true\nxff_num_trusted_hops: 1"),
            list("inner", "internal_address_config: {cidr_ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}"),
            list("skip", "use_remote_address: true\nskip_xff_append: true\nvia: test-via\nserver_name: mine"),
            list("pass", "server_header_transformation: PASS_THROUGH\nalways_set_request_id_in_response: true"),
            list("underscore", "common_http_protocol_options: {headers_with_underscores_action: REJECT_REQUEST}"),
            list("dropping", "common_http_protocol_options: {headers_with_underscores_action: DROP_HEADER}"),
            list("no_id", "generate_request_id: false"),
            list("cert_forward", "forward_client_cert_details: FORWARD_ONLY"),
            list("cert_append", "forward_client_cert_details: APPEND_FORWARD\nset_current_client_cert_details: {uri: true}"),
            list("cert_set", "forward_client_cert_details: SANITIZE_SET"),
            list("cert_always", "forward_client_cert_details: ALWAYS_FORWARD_ONLY"),
            list("cert_tree", &cert_tree()),
            list("agent", "add_user_agent: true"),
            HttpListener::to_up("added").filters(&added()).yaml(),
            HttpListener::new("scheme", SCHEME_ROUTES).yaml(),
            HttpListener::new("scheme_edge", SCHEME_ROUTES).options("use_remote_address: true").yaml(),
            HttpListener::new("scheme_hops", SCHEME_ROUTES)
                .options("use_remote_address: true\nxff_num_trusted_hops: 1")
                .yaml(),
            HttpListener::new("scheme_set", SCHEME_ROUTES)
                .options("scheme_header_transformation: {scheme_to_overwrite: https}")
                .yaml(),
            HttpListener::new("scheme_set_edge", SCHEME_ROUTES)
                .options("scheme_header_transformation: {scheme_to_overwrite: https}\nuse_remote_address: true")
                .yaml(),
            HttpListener::new("scheme_matched", SCHEME_ROUTES)
                .options("scheme_header_transformation: {match_upstream: true}")
                .yaml(),
            ports("ports", ""),
            ports("ports_edge", "use_remote_address: true"),
            ports("ports_hops", "use_remote_address: true\nxff_num_trusted_hops: 1"),
            ports("ports_set", "scheme_header_transformation: {scheme_to_overwrite: http}"),
            HttpListener::new(
                "raw",
                &format!(
                    "- match: {{prefix: /}}\n  route: {{cluster: up}}\n  request_headers_to_add: [{}]\n  response_headers_to_add: [{}]",
                    raw_values("x-route"),
                    raw_values("x-route")
                ),
            )
            .filters(&format!(
                "- name: mutation\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation\n    \
                 mutations: {{request_mutations: [{}], response_mutations: [{}]}}\n",
                raw_values("x-filter").replace("{header:", "{append: {header:").replace("}}", "}}}"),
                raw_values("x-filter").replace("{header:", "{append: {header:").replace("}}", "}}}"),
            ))
            .yaml(),
            HttpListener::with_virtual_hosts("mutations", MUTATIONS)
                .route_config("request_headers_to_add: [{header: {key: x-level, value: table}}]")
                .yaml(),
            HttpListener::with_virtual_hosts("told", TOLD)
                .route_config(OF_TABLE)
                .options("request_timeout: 0.3s")
                .filters(ABORTING)
                .yaml(),
            HttpListener::with_virtual_hosts("specific", MUTATIONS)
                .route_config("most_specific_header_mutations_wins: true\nrequest_headers_to_add: [{header: {key: x-level, value: table}}]")
                .yaml(),
        ],
    )
}

const RAW: &str = "`raw_value` is the value of a header that has no other, as the API says; Envoy takes it and adds no header.";

/// Headers with a value as bytes (base64 of `raw`), alone and beside one as text.
fn raw_values(name: &str) -> String {
    format!(
        "{{header: {{key: {name}-raw, raw_value: cmF3}}}}, {{header: {{key: {name}-both, value: text, raw_value: cmF3}}}}"
    )
}

/// A listener that tells the scheme by the port that the PROXY protocol names, where it does.
fn ports(name: &str, options: &str) -> String {
    HttpListener::new(name, SCHEME_ROUTES)
        .options("forward_proto_config: {https_destination_ports: [443, 8443, 444], http_destination_ports: [80, 444]}")
        .options(options)
        .listener(PROXY_PROTOCOL)
        .yaml()
}

const PROXY_PROTOCOL: &str = r#"
listener_filters:
- name: envoy.filters.listener.proxy_protocol
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol
    allow_requests_without_proxy_protocol: true
"#;

const UNKNOWN_SCHEME: &str =
    "A scheme that is neither http nor https is none: the request has the one that it would have without it.";

/// A request over HTTP/2 that names its scheme; whoever is in front says that its client spoke `proto`, if anything.
fn named(name: &'static str, listener: &'static str, scheme: &str, proto: &str) -> Case {
    let head = [(":method", "GET"), (":scheme", scheme), (":authority", "there.test"), (":path", "/a")];
    let proto = [("x-forwarded-proto", proto)];
    let fields = [&head[..], if proto[0].1.is_empty() { &[] } else { &proto }].concat();
    Case::frames(name, listener, [frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))])
}

/// A request to `port`, if not to that of the listener, from who says that its client spoke `scheme`, if anything.
fn to_port(name: &'static str, listener: &'static str, port: Option<u16>, scheme: &str) -> Case {
    let proxy = port.map_or_else(String::new, |port| format!("PROXY TCP4 1.2.3.4 5.6.7.8 1111 {port}\r\n"));
    let proto = if scheme.is_empty() { String::new() } else { format!("x-forwarded-proto: {scheme}\r\n") };
    Case::send(name, listener, format!("{proxy}GET / HTTP/1.1\r\nhost: test\r\n{proto}\r\n"))
}

/// What `forward_proto_config` says of ports.
fn port_cases() -> Vec<Case> {
    vec![
        to_port("port of https", "ports", Some(443), ""),
        to_port("port of https, told http", "ports", Some(8443), "http"),
        to_port("port of http", "ports", Some(80), ""),
        to_port("port of http, told https", "ports", Some(80), "https"),
        to_port("port of both", "ports", Some(444), ""),
        to_port("port of none", "ports", Some(99), ""),
        to_port("port of the listener", "ports", None, ""),
        to_port("port of https at the edge, told http", "ports_edge", Some(443), "http"),
        to_port("port of http at the edge, told https", "ports_edge", Some(80), "https"),
        to_port("port of none at the edge, told https", "ports_edge", Some(99), "https"),
        to_port("port of https behind a trusted hop", "ports_hops", Some(443), ""),
        to_port("port of https behind a trusted hop, told http", "ports_hops", Some(443), "http"),
        to_port("port of https, scheme overwritten", "ports_set", Some(443), ""),
    ]
}

/// What headers tell of answers that the proxy makes.
fn told_cases() -> Vec<Case> {
    let told = |name, target, lines| Case::get(name, "told", target, lines);
    vec![
        told("told of a cluster that is not there", "/missing", ""),
        told("told of a cluster that nobody names", "/by-header", ""),
        told("told of a cluster that a header names in vain", "/by-header", "x-cluster: nope\r\n"),
        told("told of a host that refuses", "/refused", ""),
        told("told of a host that refuses twice", "/retried", ""),
        told("told of a direct response", "/direct", ""),
        told("told of a redirect", "/redirect", ""),
        told(
            "told of an upgrade that is not allowed",
            "/up",
            "connection: upgrade\r\nupgrade: websocket\r\n",
        ),
        told("told of an answer", "/up", ""),
        told("told of nothing", "/", ""),
        told("told of a filter that answers", "/up", "x-abort: 1\r\n"),
        told("told of a filter that answers for a route", "/direct", "x-abort: 1\r\n"),
        told("told of a filter that answers for none", "/", "x-abort: 1\r\n"),
        told(
            "told of a call that a filter answers",
            "/up",
            "content-type: application/grpc\r\nx-abort: 1\r\n",
        ),
        Case::send(
            "told of a request that does not end",
            "told",
            "POST /up HTTP/1.1\r\nhost: test\r\ncontent-length: 9\r\n\r\nbody",
        ),
    ]
}

fn get(name: &'static str, listener: &'static str, lines: &str) -> Case {
    Case::get(name, listener, "/", lines)
}

const SANITISED: &str = "x-envoy-internal: true\r\nx-envoy-retry-on: 5xx\r\nx-envoy-max-retries: 3\r\n\
x-envoy-upstream-rq-timeout-ms: 5\r\nx-envoy-expected-rq-timeout-ms: 5\r\nx-envoy-force-trace: 1\r\n\
x-envoy-original-url: x\r\nx-envoy-decorator-operation: x\r\nx-envoy-foo: kept\r\n\
x-envoy-downstream-service-cluster: x\r\nx-envoy-upstream-alt-stat-name: x\r\n";

const CERTIFICATE: &str = "x-forwarded-client-cert: By=spiffe://a/b;Hash=00;URI=spiffe://a/c\r\n";

/// What requests say of their client's certificate.
pub(crate) fn certificate_cases() -> Vec<Case> {
    vec![
        get("client certificate is removed", "default", CERTIFICATE),
        get("client certificate, forward only", "cert_forward", CERTIFICATE),
        get("client certificate, append and forward", "cert_append", CERTIFICATE),
        get("client certificate, sanitize and set", "cert_set", CERTIFICATE),
        get("client certificate, always forward only", "cert_always", CERTIFICATE),
        get("client certificate, a tree leads nowhere", "cert_tree", CERTIFICATE),
        get(
            "client certificate, always, by a tree",
            "cert_tree",
            &format!("{CERTIFICATE}x-trust: always\r\n"),
        ),
        get("client certificate, set, by a tree", "cert_tree", &format!("{CERTIFICATE}x-trust: set\r\n")),
        get(
            "client certificate, forward only, by a tree",
            "cert_tree",
            &format!("{CERTIFICATE}x-trust: only\r\n"),
        ),
        get("client certificate, by the source", "cert_tree", &format!("{CERTIFICATE}x-from: here\r\n")),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    let upstream = "HTTP/1.1 200 OK\r\nserver: theirs\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nx-remove: 1\r\nvia: 1.1 a\r\n\
                    content-length: 0\r\n\r\n";
    let mutated = "x-replaced: old\r\nx-kept: old\r\nx-only-if: old\r\nx-in: abcdef\r\nx-remove: 1\r\nx-level: client\r\n";
    vec![
        get("values as bytes", "raw", "")
            .differs("response[0].header.x-filter-raw", RAW)
            .differs("response[0].header.x-route-raw", RAW)
            .differs("upstream[0].header.x-filter-raw", RAW)
            .differs("upstream[0].header.x-route-raw", RAW),
        get("forwarded-for is left alone", "default", "x-forwarded-for: 1.2.3.4\r\n"),
        get("forwarded-proto is kept without remote address", "default", "x-forwarded-proto: https\r\n"),
        get("request id is kept inside", "default", "x-request-id: mine\r\n"),
        get("external headers are removed", "default", SANITISED),
        get("forwarded-for is appended at the edge", "edge", "x-forwarded-for: 1.2.3.4\r\n"),
        get("forwarded-proto is overwritten at the edge", "edge", "x-forwarded-proto: https\r\n"),
        get("request id is renewed at the edge", "edge", "x-request-id: mine\r\n"),
        get("scheme of a secured client", "scheme", "x-forwarded-proto: https\r\n"),
        get("scheme that is overwritten", "scheme_set", "x-forwarded-proto: http\r\n"),
        get("scheme that is overwritten, unheard", "scheme_set", ""),
        get("scheme that is overwritten at the edge", "scheme_set_edge", "x-forwarded-proto: http\r\n"),
        get("scheme that matches the host", "scheme_matched", "x-forwarded-proto: https\r\n"),
        get("scheme of a secured client, in capitals", "scheme", "x-forwarded-proto: HTTPS\r\n"),
        get("scheme of a secured client that is none", "scheme", "x-forwarded-proto: ftp\r\n"),
        Case::get("scheme of the target", "scheme", "https://there.test/a", ""),
        Case::get(
            "scheme of the target, capitals",
            "scheme",
            "HTTPS://there.test/a",
            "x-forwarded-proto: http\r\n",
        ),
        Case::get(
            "plain scheme of the target",
            "scheme",
            "http://there.test/a",
            "x-forwarded-proto: https\r\n",
        ),
        Case::get("scheme of the target of a redirect", "scheme", "https://there.test/redirect", ""),
        Case::get("scheme of the target, overwritten", "scheme_set", "http://there.test/a", ""),
        Case::get("scheme of the target that matches the host", "scheme_matched", "https://there.test/a", ""),
        Case::get("scheme of the target at the edge", "scheme_edge", "https://there.test/a", ""),
        Case::get("plain scheme of the target at the edge", "scheme_edge", "http://there.test/a", ""),
        Case::get(
            "scheme of the target at the edge, overwritten",
            "scheme_set_edge",
            "https://there.test/a",
            "",
        ),
        Case::get("scheme of the target behind another proxy", "scheme_hops", "https://there.test/a", ""),
        named("scheme over HTTP/2", "scheme", "https", ""),
        named("scheme over HTTP/2, capitals", "scheme", "HTTPS", "http"),
        named("plain scheme over HTTP/2", "scheme", "http", "https"),
        named("unknown scheme over HTTP/2", "scheme", "ftp", "https")
            .differs("h2 upstream[0].header.x-scheme", UNKNOWN_SCHEME),
        named("scheme over HTTP/2 at the edge", "scheme_edge", "https", "http"),
        Case::get("scheme of a redirect", "scheme_matched", "/redirect", "x-forwarded-proto: https\r\n"),
        get("external headers are removed at the edge", "edge", SANITISED),
        get("trusted hops", "hops", "x-forwarded-for: 1.2.3.4, 5.6.7.8\r\nx-forwarded-proto: https\r\n"),
        get("internal by forwarded-for", "inner", "x-forwarded-for: 10.1.2.3\r\nx-envoy-max-retries: 3\r\n"),
        get(
            "not internal with two addresses",
            "inner",
            "x-forwarded-for: 10.1.2.3, 10.1.2.4\r\nx-envoy-internal: true\r\n",
        ),
        get("via, server name, no append", "skip", "x-forwarded-for: 1.2.3.4\r\n").raw(upstream),
        get("server and date of the upstream", "default", "").raw(upstream),
        get("server passes through", "pass", "x-request-id: mine\r\n").raw(upstream),
        get("server of the upstream is absent", "pass", ""),
        get("underscore is refused", "underscore", "x_a: 1\r\n"),
        get("underscore is dropped", "dropping", "x_a: 1\r\nx-b: 2\r\n"),
        get("no request id is generated", "no_id", ""),
        get("user agent is added", "agent", ""),
        get("user agent is kept", "agent", "user-agent: mine\r\nx-envoy-downstream-service-node: theirs\r\n"),
        get("mutations at all levels", "mutations", mutated).raw(upstream),
        get("mutations, most specific wins", "specific", mutated).raw(upstream),
        get("values are joined where there can be but one", "added", &twice(&OF_REQUESTS))
            .raw(format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", twice(&OF_RESPONSES))),
        get("values where there were none", "added", ""),
        get("mutations without the headers", "mutations", ""),
    ]
    .into_iter()
    .chain(port_cases())
    .chain(told_cases())
    .collect()
}
