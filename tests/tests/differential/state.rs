//! What filters leave for others in the filter state: of requests, and of connections.

use integration::config::{HttpListener, file_log, indent, listener_with_filters, tcp_proxy_with_logs};
use integration::differential::{Case, Do, Setup};

use crate::rbac::filter;

/// Keys that access logs are asked for, as text and as JSON.
const KEYS: [&str; 20] = [
    "a",
    "twice",
    "empty",
    "skipped",
    "dash",
    "omitted",
    "omitted-skipped",
    "header",
    "yes",
    "one",
    "no-bool",
    "ip",
    "no-ip",
    "address",
    "no-address",
    "cluster",
    "chain",
    "spaces",
    "json",
    "connection",
];

fn log() -> String {
    let keys = KEYS.map(|key| format!("{key}=%FILTER_STATE({key}:PLAIN)%/%FILTER_STATE({key})%")).join("|");
    file_log(&format!(
        "log_format: {{text_format_source: {{inline_string: \"s=%REQ(x-sentinel)%|code=%RESPONSE_CODE%|{keys}\\n\"}}}}"
    ))
}

fn value(key: &str, factory: &str, format: &str) -> String {
    format!(
        "{{object_key: \"{key}\", factory_key: \"{factory}\", format_string: {{text_format_source: {{inline_string: \"{format}\"}}}}}}"
    )
}

fn with(value: String, field: &str) -> String {
    let inner = value.strip_suffix('}').unwrap_or(&value);
    format!("{inner}, {field}}}")
}

fn text(key: &str, format: &str) -> String {
    value(key, "envoy.string", format)
}

fn omitting(key: &str) -> String {
    text(key, "%REQ(x-none)%").replace("{text_format_source", "{omit_empty_values: true, text_format_source")
}

fn values() -> String {
    let json =
        "{object_key: json, factory_key: envoy.string, format_string: {json_format: {a: \"%REQ(x-a)%\"}}}";
    [
        text("a", "x"),
        with(text("twice", "1"), "read_only: true"),
        text("twice", "2"),
        text("empty", ""),
        with(text("skipped", ""), "skip_if_empty: true"),
        text("dash", "%REQ(x-none)%"),
        omitting("omitted"),
        with(omitting("omitted-skipped"), "skip_if_empty: true"),
        value("header", "envoy.hashable_string", "%REQ(x-a)%"),
        value("yes", "envoy.bool", "%REQ(x-bool)%"),
        value("one", "envoy.bool", "1"),
        value("no-bool", "envoy.bool", "nope"),
        value("ip", "envoy.network.ip", "1.2.3.4"),
        value("no-ip", "envoy.network.ip", "1.2.3"),
        value("address", "envoy.network.transport_socket.original_dst_address", "1.2.3.4:80"),
        value("no-address", "envoy.network.transport_socket.original_dst_address", "1.2.3.4"),
        value("cluster", "envoy.tcp_proxy.cluster", "c"),
        text("chain", "%FILTER_STATE(a:PLAIN)%+"),
        text("spaces", "  y "),
        json.to_owned(),
    ]
    .join(", ")
}

fn http(config: &str) -> String {
    format!(
        "- name: state\n  typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config, {config}}}\n"
    )
}

fn network(config: &str) -> String {
    format!(
        "- name: state\n  typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config, {config}}}\n"
    )
}

/// Routes that set values of their own, and that are chosen by values.
fn routes() -> String {
    let own = text("a", "of-route-%FILTER_STATE(a:PLAIN)%");
    format!(
        "- match: {{prefix: /own}}\n  route: {{cluster: up}}\n  typed_per_filter_config:\n    state: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config, on_request_headers: [{own}]}}\n\
         - match: {{prefix: /, filter_state: [{{key: header, string_match: {{exact: one}}}}]}}\n  direct_response: {{status: 202}}\n\
         - match: {{prefix: /}}\n  route: {{cluster: up}}\n"
    )
}

fn before_http(name: &str, config: &str) -> String {
    let filters = format!("  - filters:\n{}", indent(&network(config), 4));
    let allowed = filter(
        "rules: {policies: {p: {permissions: [{any: true}], principals: [{filter_state: {key: connection, string_match: {prefix: \"127.\"}}}]}}}",
    );
    HttpListener::to_up(name).filters(&allowed).logs(&log()).yaml().replace("  - filters:\n", &filters)
}

pub(crate) fn setup() -> Setup {
    let set = |values: &str| format!("on_request_headers: [{values}]");
    let of_connection = text("connection", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%");
    let to_cluster =
        |cluster: &str| format!("on_new_connection: [{}]", value("envoy.tcp_proxy.cluster", "", cluster));
    let tcp = |name: &str, config: &str, cluster: &str| {
        let logs = format!("access_log:\n{}", log());
        listener_with_filters(
            name,
            &(network(config) + &tcp_proxy_with_logs(name, &logs, &format!("cluster: {cluster}"))),
        )
    };
    Setup::new(
        "state",
        [
            HttpListener::new("http", &routes()).filters(&http(&set(&values()))).logs(&log()).yaml(),
            HttpListener::new("anew", &routes())
                .filters(&http(&format!("{}, clear_route_cache: true", set(&values()))))
                .logs(&log())
                .yaml(),
            before_http("connection", &format!("on_new_connection: [{of_connection}]")),
            before_http("handshake", &format!("on_downstream_tls_handshake: [{of_connection}]")),
            before_http("nobody", "on_new_connection: []"),
            tcp("cluster", &to_cluster("echo"), "refused"),
            tcp("no_cluster", &to_cluster("missing"), "echo"),
            tcp("kept", &format!("on_new_connection: [{of_connection}]"), "echo"),
        ],
    )
}

pub(crate) fn cases() -> Vec<Case> {
    let get = Case::get;
    let hello = || Do::Send(b"hello".to_vec());
    let echoed = |name, listener| {
        Case::steps(name, listener, [hello(), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd]).tcp(1)
    };
    vec![
        get("values of a request", "http", "/", "x-a: one\r\nx-bool: True\r\n"),
        get("values of another request", "http", "/", "x-bool: off\r\n"),
        get("values of a route too", "http", "/own", "x-a: two\r\nx-bool: F\r\n"),
        get("the route is chosen anew", "anew", "/", "x-a: one\r\n"),
        get("the route is chosen anew, for another", "anew", "/", "x-a: two\r\n"),
        get("a value of the connection", "connection", "/", ""),
        get("a value of the connection when it is ready", "handshake", "/", ""),
        get("no value of the connection", "nobody", "/", ""),
        echoed("a cluster by the connection", "cluster"),
        Case::steps("a missing cluster by the connection", "no_cluster", [hello(), Do::AwaitEnd]).tcp(1),
        echoed("a value of a TCP connection", "kept"),
    ]
}
