//! HTTP filters behind the router: its own (`upstream_http_filters`) and those of a cluster (`http_filters`).

use integration::config::{H2_CLUSTER, HttpListener, cluster, file_log, indent};
use integration::differential::{Case, Do, H2Request, Setup};
use integration::upstream::h2::H2Reply;

/// `typed_config` of a mutation that writes `word` wherever it may, after what is there, and has values of the stream in
/// `x-info`.
fn mutation(message: &str, word: &str) -> String {
    let append = |key: &str, value: &str| {
        format!(
            "{{append: {{header: {{key: {key}, value: \"{value}\"}}, append_action: APPEND_IF_EXISTS_OR_ADD}}}}"
        )
    };
    let info = "%PROTOCOL% %RESPONSE_CODE% %REQ(x-order)% %RESP(x-order)% %UPSTREAM_CLUSTER% %ROUTE_NAME% \
                %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_REQUEST_ATTEMPT_COUNT% %RESPONSE_FLAGS% %REQ(:PATH)% \
                %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%";
    let order = append("x-order", word);
    let info = append("x-info", info);
    format!(
        r#""@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.{message}
mutations:
  request_mutations: [{order}, {info}, {{remove: x-gone}}]
  response_mutations: [{order}, {info}, {{remove: x-remove}}]
  request_trailers_mutations: [{order}]
  response_trailers_mutations: [{order}]
  query_parameter_mutations: [{{append: {{record: {{key: q, value: "{word}"}}, action: APPEND_IF_EXISTS_OR_ADD}}}}]
"#
    )
}

fn filter(name: &str, word: &str, options: &str) -> String {
    let config = mutation("HeaderMutation", word);
    format!("- name: {name}\n{}  typed_config:\n{}", indent(options, 2), indent(&config, 4))
}

fn per_route(name: &str, word: &str) -> String {
    let config = mutation("HeaderMutationPerRoute", word);
    format!("typed_per_filter_config:\n  {name}:\n{}", indent(&config, 4))
}

const CODEC: &str = "- name: codec\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec}\n";

fn routes() -> String {
    let to = |prefix: &str, cluster: &str, more: &str| {
        format!(
            "- name: named\n  match: {{prefix: {prefix}}}\n  route: {{cluster: {cluster}, prefix_rewrite: /new}}\n  \
             request_headers_to_add: [{{header: {{key: x-order, value: route}}}}]\n  \
             response_headers_to_add: [{{header: {{key: x-order, value: route}}}}]\n{}",
            indent(more, 2)
        )
    };
    let switch = |name: &str, is_off: bool| {
        let config = if is_off { "disabled: true" } else { "config: {}" };
        format!(
            "typed_per_filter_config:\n  {name}: {{\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, {config}}}\n"
        )
    };
    [
        to("/own", "own", ""),
        to("/own-off", "own", &switch("cluster", true)),
        to("/h2", "h2up", ""),
        to("/refused", "refused", ""),
        to("/route", "up", &per_route("first", "per-route")),
        to("/off", "up", &switch("first", true)),
        to("/on", "up", &switch("sleeping", false)),
        "- match: {prefix: /direct}\n  direct_response: {status: 200, body: {inline_string: direct}}\n"
            .to_owned(),
        to("/", "up", ""),
    ]
    .concat()
    // The longer prefix first.
    .replace("{prefix: /own}", "{path_separated_prefix: /own}")
}

const LOG: &str = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|path=%REQ(:PATH)%|\
original=%REQ(x-envoy-original-path)%|order=%REQ(x-order)%|back=%RESP(x-order)%|info=%REQ(x-info)%|code=%RESPONSE_CODE%|\
trailer=%TRAILER(x-order)%|flags=%RESPONSE_FLAGS%\\n\"}}";
const MARK: &str = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|\\n\"}}";
const UPSTREAM_LOG: &str = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|up-path=%REQ(:PATH)%|\
up-order=%REQ(x-order)%|up-back=%RESP(x-order)%|up-code=%RESPONSE_CODE%\\n\"}}";

pub(crate) fn setup() -> Setup {
    let chain = [
        filter("first", "one", ""),
        filter("sleeping", "asleep", "disabled: true"),
        "- name: unknown\n  is_optional: true\n  typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}\n".to_owned(),
        filter("second", "two", ""),
        CODEC.to_owned(),
    ]
    .concat();
    let router = format!("upstream_http_filters:\n{chain}");
    let own = format!(
        "{H2_CLUSTER}    http_filters:\n{}",
        indent(&(filter("cluster", "of-the-cluster", "") + CODEC), 4)
    )
    .replace("http2_protocol_options", "http_protocol_options");
    let listener = |name: &str| {
        HttpListener::new(name, &routes()).router(&router).options(
            "upgrade_configs: [{upgrade_type: websocket}]\nhttp_protocol_options: {enable_trailers: true}",
        )
    };
    Setup::with_clusters(
        "upstream_filters",
        [
            listener("plain").logs(&file_log(LOG)).yaml(),
            listener("before").filters(&filter("before", "before", "")).logs(&file_log(LOG)).yaml(),
            listener("logged")
                .logs(&file_log(MARK))
                .router(&format!("upstream_log:\n{}", file_log(UPSTREAM_LOG)))
                .yaml(),
        ],
        [cluster("own", "up", &own)],
    )
}

const FIELDS: &str = "x-order: client\r\nx-gone: 1\r\n";
const ANSWER: &str = "HTTP/1.1 201 Made\r\nx-order: host\r\nx-remove: 1\r\ncontent-length: 2\r\n\r\nhi";

pub(crate) fn cases() -> Vec<Case> {
    let get = |name, target: &str| Case::get(name, "plain", target, FIELDS).raw(ANSWER);
    vec![
        get("the router's", "/a?b=c"),
        get("the cluster's instead of the router's", "/own"),
        get("the cluster's, off for a route", "/own-off"),
        get("with a configuration of the route", "/route"),
        get("off for a route", "/off"),
        get("on for a route", "/on"),
        Case::get("behind filters before the router", "before", "/a", FIELDS).raw(ANSWER),
        Case::get("in the log of the upstream stream", "logged", "/a?b=c", FIELDS).raw(ANSWER),
        Case::get("not for direct responses", "before", "/direct", FIELDS),
        get("no connection", "/refused"),
        Case::send("a body", "plain", "POST /a HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello")
            .raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        Case::send("HEAD", "plain", "HEAD /a HTTP/1.1\r\nhost: test\r\n\r\n")
            .raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        Case::h2(
            "trailers both ways",
            "plain",
            [H2Request::post("http://test/h2", "hello").trailer("x-t", "1").trailer("x-order", "client")],
        )
        .h2_reply(H2Reply::new(200, "world").trailer("x-order", "host").trailer("x-t", "2")),
        Case::steps(
            "an upgrade",
            "plain",
            [
                Do::Send(
                    b"GET /chat HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n"
                        .to_vec(),
                ),
                Do::Response("GET"),
                Do::Send(b"hello".to_vec()),
                Do::Bytes(5),
                Do::Leave,
            ],
        )
        .raw("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nworld"),
    ]
}
