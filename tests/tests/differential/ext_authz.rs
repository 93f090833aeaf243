//! Requests that a service is asked about (`envoy.filters.http.ext_authz`), over gRPC and over HTTP: what it is asked, and what comes of its
//! answer. The HTTP/2 upstream of the rig is the service of gRPC, the HTTP/1 upstream that of HTTP and the host too.

use integration::config::{HttpListener, cluster, file_log, indent};
use integration::differential::{Case, Do, H2Request, Setup};
use integration::upstream::h2::H2Reply;
use integration::upstream::{Reply, Step};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use xds_api::envoy::config::core::v3::header_value_option::HeaderAppendAction as Action;
use xds_api::envoy::config::core::v3::{HeaderValue, HeaderValueOption, QueryParameter};
use xds_api::envoy::service::auth::v3::check_response::HttpResponse;
use xds_api::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use xds_api::envoy::r#type::v3::HttpStatus;
use xds_api::google::rpc;

const LOG: &str = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|code=%RESPONSE_CODE%\
|details=%RESPONSE_CODE_DETAILS%|flags=%RESPONSE_FLAGS%|path=%REQ(:PATH)%|route=%ROUTE_NAME%|cluster=%UPSTREAM_CLUSTER%\
|key=%DYNAMIC_METADATA(envoy.filters.http.ext_authz:key)%\
|state=%FILTER_STATE(envoy.filters.http.ext_authz:PLAIN)% %FILTER_STATE(envoy.filters.http.ext_authz:FIELD:key)%\
|~latency=%FILTER_STATE(envoy.filters.http.ext_authz:FIELD:latency_us)%\
|~sent=%FILTER_STATE(envoy.filters.http.ext_authz:FIELD:bytesSent)%\
|~received=%FILTER_STATE(envoy.filters.http.ext_authz:FIELD:bytesReceived)%\
|~took=%DYNAMIC_METADATA(envoy.filters.http.ext_authz:ext_authz_duration)%\\n\"}}";

const PIECES: &str = "a body is passed on piece by piece as it comes, and its end after the last of them; Envoy passes on at once what came together";
const AT_ONCE: &str = "a body that is larger than `max_request_bytes` is refused however it comes; Envoy lets one pass that comes in one piece with its end";
const GIVEN_UP: &str = "a connection that nobody waits for any more is given up; Envoy goes on with it";
const NO_PATH: &str = "a path that is none is sent to no host; Envoy sends it as it is";
const NO_TUNNEL: &str =
    "nobody is asked by CONNECT; Envoy asks, and takes it back at once: neither hears an answer";
const UNMEASURED: &str = "what the wire carried of a call that was not answered is not told";
const NO_LENGTH: &str = "a request without a body says no `content-length: 0` where its method expects none";

fn filter(config: &str) -> String {
    format!(
        "- name: envoy.filters.http.ext_authz\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz\n    transport_api_version: V3\n{}",
        indent(config, 4)
    )
}

fn per_route(config: &str) -> String {
    format!(
        "{{envoy.filters.http.ext_authz: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute, {config}}}}}"
    )
}

fn routes() -> String {
    let to = |name: &str, more: &str| {
        format!(
            "- name: to-{name}\n  match: {{prefix: /{name}}}\n  route: {{cluster: up}}\n{}",
            indent(more, 2)
        )
    };
    let own = |name: &str, config: &str| to(name, &format!("typed_per_filter_config: {}", per_route(config)));
    [
        own("off", "disabled: true"),
        own("extended", "check_settings: {context_extensions: {a: of the route, b: of the route too}}"),
        own("bodiless", "check_settings: {disable_request_body_buffering: true}"),
        own("small", "check_settings: {with_request_body: {max_request_bytes: 4, allow_partial_message: true}}"),
        own("strict", "check_settings: {with_request_body: {max_request_bytes: 4}}"),
        own("other", "check_settings: {grpc_service: {envoy_grpc: {cluster_name: refused}}}"),
        to("metadata", "metadata: {filter_metadata: {of.route: {key: value}, not.told: {key: value}}}"),
        "- name: moved\n  match: {prefix: /, headers: [{name: x-route, string_match: {exact: moved}}]}\n  direct_response: {status: 202}\n".to_owned(),
        "- name: direct\n  match: {prefix: /direct}\n  direct_response: {status: 200}\n".to_owned(),
        "- name: to-tunnels\n  match: {connect_matcher: {}}\n  route: {cluster: up}\n".to_owned(),
        to("", ""),
    ]
    .concat()
}

/// Pauses that nobody notices; a try may take as long as the longest could.
const PAUSE: &str = "retry_back_off: {base_interval: 0.001s, max_interval: 4s}";
const GRPC: &str = "grpc_service: {envoy_grpc: {cluster_name: h2up}, timeout: 5s}\n";

fn listener(name: &str, config: &str) -> String {
    let virtual_hosts = format!(
        "- name: all\n  domains: [\"*\"]\n  typed_per_filter_config: {}\n  routes:\n{}\n- name: nothing\n  domains: [nothing]\n",
        per_route("check_settings: {context_extensions: {a: of the host, c: of the host too}}"),
        indent(&routes(), 2)
    );
    HttpListener::with_virtual_hosts(name, &virtual_hosts)
        .filters(&filter(config))
        .logs(&file_log(LOG))
        .options("upgrade_configs: [{upgrade_type: websocket}, {upgrade_type: CONNECT}]\n")
        .yaml()
}

pub(crate) fn setup() -> Setup {
    let grpc = |name: &str, more: &str| listener(name, &format!("{GRPC}{more}"));
    let http = |name: &str, service: &str, more: &str| {
        let uri = "server_uri: {uri: \"http://authz\", cluster: authz, timeout: 5s}";
        listener(name, &format!("http_service: {{{uri}{service}}}\n{more}"))
    };
    Setup::with_clusters(
        "ext_authz",
        [
            grpc("plain", "with_request_body: {max_request_bytes: 100, allow_partial_message: false}\nclear_route_cache: true\n"),
            grpc("partial", "with_request_body: {max_request_bytes: 10, allow_partial_message: true, pack_as_bytes: true}\nstat_prefix: named\n"),
            grpc("strictly", "with_request_body: {max_request_bytes: 10}\n"),
            grpc("open", "failure_mode_allow: true\nfailure_mode_allow_header_add: true\n"),
            grpc("teapot", "status_on_error: {code: 503}\n"),
            grpc("strict", "validate_mutations: true\nenable_dynamic_metadata_ingestion: false\nmax_denied_response_body_bytes: 3\n"),
            grpc("ruled", "decoder_header_mutation_rules: {disallow_expression: {regex: x-no.*}, allow_expression: {regex: x-envoy-yes}}\n"),
            grpc("erring", "decoder_header_mutation_rules: {disallow_all: true, disallow_is_error: true}\n"),
            grpc("picky", "allowed_headers: {patterns: [{prefix: x-}, {exact: \":method\"}]}\ndisallowed_headers: {patterns: [{exact: x-secret}]}\n"),
            grpc("raw", "encode_raw_headers: true\nwith_request_body: {max_request_bytes: 10}\ncharge_cluster_response_stats: false\n"),
            grpc("never", "filter_enabled: {default_value: {numerator: 0}}\n"),
            grpc("closed", "filter_enabled: {default_value: {numerator: 0}}\ndeny_at_disable: {default_value: true, runtime_key: k}\n"),
            grpc("marked", "filter_enabled_metadata: {filter: nobody, path: [{key: k}], value: {present_match: true}}\n"),
            grpc("told", "metadata_context_namespaces: [of.route]\nroute_metadata_context_namespaces: [of.route, nobody]\ninclude_tls_session: true\ninclude_peer_certificate: true\nbootstrap_metadata_labels_key: labels\n"),
            grpc("chosen", "clear_route_cache: true\nclear_route_cache_headers: [X-Clear, x-other]\n"),
            grpc("unchosen", "clear_route_cache_headers: [x-clear]\nfilter_metadata: {key: value}\n"),
            grpc("limited", "enforce_response_header_limits: true\nemit_filter_state_stats: true\n"),
            listener("measured_gone", "emit_filter_state_stats: true\ngrpc_service: {envoy_grpc: {cluster_name: refused}, timeout: 1s}\n"),
            listener("measured_hasty", "emit_filter_state_stats: true\ngrpc_service: {envoy_grpc: {cluster_name: h2up}, timeout: 0.2s}\n"),
            http("measured_web", "", "emit_filter_state_stats: true\n"),
            listener("gone", "grpc_service: {envoy_grpc: {cluster_name: refused, authority: authz.example}, timeout: 1s}\n"),
            listener("late", "grpc_service: {envoy_grpc: {cluster_name: blackhole}, timeout: 0.05s}\n"),
            listener("hasty", "grpc_service: {envoy_grpc: {cluster_name: h2up}, timeout: 0.2s}\n"),
            listener("quiet", "grpc_service: {envoy_grpc: {cluster_name: h2up, authority: authz.example, skip_envoy_headers: true}, timeout: 3s, initial_metadata: [{key: x-meta, value: \"of %PROTOCOL%\"}]}\n"),
            grpc("shadow", "shadow_mode: true\nfailure_mode_allow: true\nfailure_mode_allow_header_add: true\n"),
            listener("again", &format!("grpc_service: {{envoy_grpc: {{cluster_name: h2up}}, timeout: 5s, retry_policy: {{retry_on: \"5xx,unavailable\", num_retries: 2, {PAUSE}}}}}\n")),
            listener("again_at_once", "grpc_service: {envoy_grpc: {cluster_name: refused}, timeout: 5s, retry_policy: {retry_on: connect-failure, retry_back_off: {base_interval: 0.001s, max_interval: 4s}}}\n"),
            http("web_again", &format!(", retry_policy: {{retry_on: 5xx, {PAUSE}}}"), ""),
            http("web_slow", ", retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s, max_interval: 0.1s}}", ""),
            http("web", "", "with_request_body: {max_request_bytes: 100}\n"),
            http("web_more", ", path_prefix: /check, authorization_request: {headers_to_add: [{key: x-added, value: \"%PROTOCOL%\"}]}, authorization_response: {allowed_upstream_headers: {patterns: [{prefix: x-up}]}, allowed_upstream_headers_to_append: {patterns: [{exact: x-add}]}, allowed_client_headers: {patterns: [{prefix: x-client}]}, allowed_client_headers_on_success: {patterns: [{exact: x-ok}]}, dynamic_metadata_from_headers: {patterns: [{exact: key}]}}", "allowed_headers: {patterns: [{prefix: x-}]}\nclear_route_cache: true\n"),
            http("web_fixed", ", path_override: /fixed", "failure_mode_allow: true\n"),
        ],
        [cluster("authz", "up", "")],
    )
    .with_node("{id: node, cluster: here, metadata: {labels: {app: web, version: \"1\"}}}")
}

fn frame(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or_default();
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

/// What a service of gRPC answers.
pub(crate) fn answer(response: &impl Message) -> H2Reply {
    let mut reply =
        H2Reply::new(200, "").field("content-type", "application/grpc").trailer("grpc-status", "0");
    reply.body = frame(response);
    reply
}

pub(crate) fn response(code: i32, http_response: Option<HttpResponse>) -> CheckResponse {
    let status = Some(rpc::Status { code, ..Default::default() });
    CheckResponse { status, dynamic_metadata: None, http_response }
}

fn ok(response_to: OkHttpResponse) -> H2Reply {
    answer(&response(0, Some(HttpResponse::OkResponse(response_to))))
}

fn denied(code: i32, body: &str, headers: Vec<HeaderValueOption>) -> H2Reply {
    let status = Some(HttpStatus { code });
    let reply = DeniedHttpResponse { status, headers, body: body.to_owned() };
    answer(&response(7, Some(HttpResponse::DeniedResponse(reply))))
}

fn header(key: &str, value: &str, action: Action) -> HeaderValueOption {
    let header = HeaderValue { key: key.to_owned(), value: value.to_owned(), ..Default::default() };
    HeaderValueOption { header: Some(header), append_action: action.into(), ..Default::default() }
}

#[allow(deprecated, reason = "services still send it")]
fn old(key: &str, value: &str, append: bool) -> HeaderValueOption {
    HeaderValueOption { append: Some(append), ..header(key, value, Action::AppendIfExistsOrAdd) }
}

/// Every way to change a header that is there twice and one that is not.
fn changes() -> Vec<HeaderValueOption> {
    let actions = [
        ("add", Action::AppendIfExistsOrAdd),
        ("absent", Action::AddIfAbsent),
        ("over", Action::OverwriteIfExistsOrAdd),
        ("there", Action::OverwriteIfExists),
    ];
    let mut all = Vec::new();
    for (word, action) in actions {
        all.push(header(&format!("x-{word}"), "new", action));
        all.push(header(&format!("x-{word}"), "newer", action));
        all.push(header(&format!("x-new-{word}"), "new", action));
        all.push(header(&format!("x-new-{word}"), "newer", action));
    }
    for (word, append) in [("append", true), ("set", false)] {
        all.push(old(&format!("x-{word}"), "new", append));
        all.push(old(&format!("x-{word}"), "newer", append));
        all.push(old(&format!("x-new-{word}"), "new", append));
        all.push(old(&format!("x-new-{word}"), "newer", append));
    }
    all
}

const TWICE: &str = "x-add: 1\r\nx-add: 2\r\nx-absent: 1\r\nx-absent: 2\r\nx-over: 1\r\nx-over: 2\r\nx-there: 1\r\n\
x-there: 2\r\nx-append: 1\r\nx-append: 2\r\nx-set: 1\r\nx-set: 2\r\n";

pub(crate) fn metadata(key: &str, text: &str) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(text.to_owned())) };
    Struct { fields: [(key.to_owned(), value)].into() }
}

fn parameter(key: &str, value: &str) -> QueryParameter {
    QueryParameter { key: key.to_owned(), value: value.to_owned() }
}

/// What services of gRPC are asked, and failures of all kinds.
pub(crate) fn cases() -> Vec<Case> {
    let get = |name, listener, target: &str, lines: &str| Case::get(name, listener, target, lines);
    let allow = || answer(&response(0, None));
    let post = |name, listener, target: &str, body: &str| {
        let length = body.len();
        let text = format!("POST {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}");
        Case::send(name, listener, text)
    };
    let chunked = |name, listener, target: &str, pieces: &[&str], trailers: &str| {
        let pieces: String = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len())).collect();
        let head = format!("POST {target} HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
        Case::send(name, listener, format!("{head}{pieces}0\r\n{trailers}\r\n"))
    };
    let mut cases = vec![
        get(
            "allowed",
            "plain",
            "/a?b=c#d",
            "x-one: 1\r\nx-two: a\r\nx-two: b\r\ncookie: a=1\r\ncookie: b=2\r\n",
        )
        .h2_reply(allow()),
        get("allowed with no status", "plain", "/a", "").h2_reply(answer(&CheckResponse::default())),
        get("denied", "plain", "/a", "").h2_reply(answer(&response(7, None))),
        get("denied with ok", "plain", "/a", "").h2_reply(answer(&response(
            16,
            Some(HttpResponse::OkResponse(OkHttpResponse { headers: changes(), ..Default::default() })),
        ))),
        get("allowed with denied", "plain", "/a", "").h2_reply(answer(&response(
            0,
            Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
                status: Some(HttpStatus { code: 401 }),
                ..Default::default()
            })),
        ))),
        get(
            "a service that says who asks",
            "plain",
            "/a",
            "x-envoy-downstream-service-cluster: me\r\nx-envoy-auth-partial-body: mine\r\n",
        )
        .h2_reply(allow()),
        get("bytes that are no text", "plain", "/a", "x-bytes: \u{e9}\r\n").h2_reply(allow()),
        Case::send(
            "bytes that are not utf-8",
            "plain",
            b"GET /a HTTP/1.1\r\nhost: test\r\nx-bytes: a\xff\xfeb\r\n\r\n",
        )
        .h2_reply(allow()),
        Case::h2(
            "over http/2",
            "plain",
            [H2Request::get("http://test/a").field("cookie", "a=1").field("cookie", "b=2")],
        )
        .h2_reply(allow()),
        Case::h2(
            "over http/2, a body too large",
            "strictly",
            [H2Request::post("http://test/a", "hello there")],
        )
        .h2_reply(allow())
        .differs("*", AT_ONCE),
        post("a body", "plain", "/a", "hello there").h2_reply(allow()),
        post("a body that is no text", "plain", "/a", "caf\u{e9}").h2_reply(allow()),
        post("an empty body", "plain", "/a", "").h2_reply(allow()),
        post("a body of the most", "plain", "/a", &"x".repeat(100)).h2_reply(allow()),
        post("a body too large", "plain", "/a", &"x".repeat(101)).h2_reply(allow()),
        chunked("a body in pieces", "plain", "/a", &["one ", "two ", "three"], "").h2_reply(allow()),
        chunked("a body with trailers", "plain", "/a", &["one ", "two"], "x-trailer: 1\r\n")
            .h2_reply(allow()),
        chunked("trailers alone", "plain", "/a", &[], "x-trailer: 1\r\n").h2_reply(allow()),
        post("part of a body", "partial", "/a", "hello there").h2_reply(allow()),
        post("the whole of a short body", "partial", "/a", "hello").h2_reply(allow()),
        post("a body as long as what is told", "partial", "/a", "hellohello").h2_reply(allow()),
        chunked("part of a body in pieces", "partial", "/a", &["hello", " there", " and more"], "")
            .h2_reply(allow())
            .differs("h2 upstream[0].check.size", PIECES),
        post("a denied body", "partial", "/a", "hello there")
            .h2_reply(denied(403, "no", vec![]))
            .differs("connection", PIECES)
            .differs("counter http.partial.downstream_rq_rx_reset", PIECES)
            .differs("response[0].header.connection", PIECES),
        post("a route that tells no body", "plain", "/bodiless", "hello").h2_reply(allow()),
        post("a route that tells little", "plain", "/small", "hello").h2_reply(allow()),
        post("a route that takes little", "plain", "/strict", "hello").h2_reply(allow()),
        post("a route that takes as much", "plain", "/strict", "hell").h2_reply(allow()),
        post("a filter that tells no body, a route that does", "open", "/small", "hello").h2_reply(allow()),
        get("a route that asks nobody", "plain", "/off", ""),
        get("a route with extensions", "plain", "/extended", "").h2_reply(allow()),
        get("a route with another service", "plain", "/other", ""),
        get("a route that answers itself", "plain", "/direct", "").h2_reply(denied(403, "no", vec![])),
        get("a route with metadata", "told", "/metadata", "").h2_reply(allow()),
        Case::send("no route", "plain", "GET / HTTP/1.1\r\nhost: nothing\r\n\r\n"),
        get("an upgrade", "plain", "/a", "connection: upgrade\r\nupgrade: websocket\r\n").h2_reply(denied(
            403,
            "",
            vec![],
        )),
        get("some headers", "picky", "/a", "x-one: 1\r\nx-secret: 1\r\naccept: */*\r\n").h2_reply(allow()),
        get("raw headers", "raw", "/a", "x-one: 1\r\nx-one: 2\r\n").h2_reply(allow()),
        post("raw headers and a body", "raw", "/a", "hello").h2_reply(denied(403, "", vec![])),
        get("switched off", "never", "/a", ""),
        get("switched off and closed", "closed", "/a", ""),
        get("without the metadata", "marked", "/a", ""),
        get("refused connections", "gone", "/a", ""),
        get("a service that does not answer", "late", "/a", "")
            .differs("counter cluster.blackhole.upstream_cx_*", GIVEN_UP),
        get("a service that takes too long", "hasty", "/a", "").h2_reply(H2Reply::stall()),
        get("metadata of the call", "quiet", "/a", "").h2_reply(allow()),
        get("no answer of gRPC", "plain", "/a", "").h2_reply(H2Reply::new(200, "hello")),
        get("an empty answer", "plain", "/a", "").h2_reply(
            H2Reply::new(200, "").field("content-type", "application/grpc").trailer("grpc-status", "0"),
        ),
        get("a status of gRPC", "plain", "/a", "").h2_reply(
            H2Reply::new(200, "").field("content-type", "application/grpc").field("grpc-status", "7"),
        ),
        get("a status in trailers", "plain", "/a", "").h2_reply(
            H2Reply::new(200, "").field("content-type", "application/grpc").trailer("grpc-status", "14"),
        ),
        get("an answer of 503", "plain", "/a", "").h2_reply(H2Reply::new(503, "busy")),
        get("a reset", "plain", "/a", "").h2_reply(H2Reply::refuse(2)),
        get("an answer that ends early", "plain", "/a", "")
            .h2_reply(H2Reply { reset: Some(8), ..H2Reply::new(200, "\0\0\0\0\x05a") }),
        get("an error that passes", "open", "/a", "x-envoy-auth-failure-mode-allowed: mine\r\n")
            .h2_reply(H2Reply::new(503, "busy")),
        get("a denial where errors pass", "open", "/a", "").h2_reply(denied(403, "no", vec![])),
        get("an error with a status", "teapot", "/a", "").h2_reply(H2Reply::new(503, "busy")),
        get("allowed in the shadow", "shadow", "/a", "").h2_reply(ok(OkHttpResponse {
            headers: vec![header("x-new", "1", Action::OverwriteIfExistsOrAdd)],
            ..Default::default()
        })),
        get("denied in the shadow", "shadow", "/a", "").h2_reply(denied(403, "no", vec![])),
        get("denied in the shadow, with metadata", "shadow", "/a", "").h2_reply(answer(&CheckResponse {
            dynamic_metadata: Some(metadata("key", "value")),
            ..response(7, None)
        })),
        get("an error in the shadow", "shadow", "/a", "").h2_reply(H2Reply::new(503, "busy")),
        get("asked again after 503", "again", "/a", "").h2_reply(H2Reply::new(503, "busy")).h2_reply(allow()),
        get("asked again after two failures", "again", "/a", "")
            .h2_reply(H2Reply::refuse(2))
            .h2_reply(
                H2Reply::new(200, "").field("content-type", "application/grpc").field("grpc-status", "14"),
            )
            .h2_reply(allow()),
        get("asked again in vain", "again", "/a", "")
            .h2_reply(H2Reply::new(503, "busy"))
            .h2_reply(H2Reply::new(503, "busy"))
            .h2_reply(H2Reply::new(503, "busy")),
        get("not asked again after a denial", "again", "/a", "").h2_reply(denied(403, "no", vec![])),
        get("asked again where nobody listens", "again_at_once", "/a", ""),
        get("a denial beside a status of errors", "teapot", "/a", "").h2_reply(answer(&response(7, None))),
    ];
    cases.extend(clearing());
    cases.extend(answers());
    cases.extend(large_answers());
    cases.extend(limited_responses());
    cases.extend(measured());
    cases
}

/// Answers that make heads large: what a request may be on both sides of its limits, a response and a reply beyond them.
fn large_answers() -> Vec<Case> {
    let case = |name, listener, reply: H2Reply| Case::get(name, listener, "/a", "").h2_reply(reply);
    let text = |key: &str, value: &str| header(key, value, Action::OverwriteIfExistsOrAdd);
    let many = |count: usize| (0..count).map(|number| text(&format!("x-m{number}"), "1")).collect();
    let with = |headers: Vec<HeaderValueOption>| ok(OkHttpResponse { headers, ..Default::default() });
    let long = |name: &str, length: usize| with(vec![text(name, &"x".repeat(length))]);
    let back = OkHttpResponse { response_headers_to_add: many(120), ..Default::default() };
    vec![
        case("as many headers as there may be", "plain", with(many(94))),
        case("one header more than there may be", "plain", with(many(95))),
        case("as long a header as there may be", "plain", long("x-long", 61_320)),
        case("a header longer than there may be", "plain", long("x-long", 61_324)),
        case("a long header against rules", "ruled", long("x-no", 62_000)),
        case("many headers of a response", "plain", ok(back)),
        case("many headers of a reply", "plain", denied(403, "no", many(120))),
    ]
}

/// Responses that may have no more headers than a host may give them (`enforce_response_header_limits`).
fn limited_responses() -> Vec<Case> {
    let one = |key: &str, value: &str, action| header(key, value, action);
    let add =
        |count: usize, action| (0..count).map(|number| one(&format!("x-m{number}"), "1", action)).collect();
    let case = |name, target: &str, headers: Vec<HeaderValueOption>| {
        let reply = OkHttpResponse { response_headers_to_add: headers, ..Default::default() };
        let host = Reply::raw("HTTP/1.1 200 OK\r\nx-m0: 0\r\ncontent-length: 0\r\n\r\n");
        Case::get(name, "limited", target, "").h2_reply(ok(reply)).reply(host)
    };
    let long = |length: usize, action| vec![one("x-long", &"x".repeat(length), action)];
    let then = |count, last| [add(count, Action::AppendIfExistsOrAdd), vec![last]].concat();
    let set = Action::OverwriteIfExistsOrAdd;
    vec![
        case("95 headers added to a limited response", "/a", add(95, Action::AppendIfExistsOrAdd)),
        case("96 headers added to a limited response", "/a", add(96, Action::AppendIfExistsOrAdd)),
        case("97 headers added to a limited response", "/a", add(97, Action::AppendIfExistsOrAdd)),
        case("96 headers set in a limited response", "/a", add(96, set)),
        case("97 headers set in a limited response", "/a", add(97, set)),
        case("98 headers set in a limited response", "/a", add(98, set)),
        case("97 headers added if absent to a limited response", "/a", add(97, Action::AddIfAbsent)),
        case("98 headers added if absent to a limited response", "/a", add(98, Action::AddIfAbsent)),
        case("120 headers overwritten in a limited response", "/a", add(120, Action::OverwriteIfExists)),
        case("a full limited response and one set", "/a", then(96, one("x-m0", "2", set))),
        case("a limited response of 80 KiB", "/a", long(81_700, set)),
        case("a limited response of more than 80 KiB", "/a", long(82_000, set)),
        case("a limited response with a long value added", "/a", long(82_000, Action::AppendIfExistsOrAdd)),
        case("120 headers added to a direct response", "/direct", add(120, Action::AppendIfExistsOrAdd)),
        Case::get("120 headers in a limited denial", "limited", "/a", "").h2_reply(denied(
            403,
            "no",
            add(120, set),
        )),
    ]
}

/// What is left of a call in the filter state (`emit_filter_state_stats`).
fn measured() -> Vec<Case> {
    let get = |name, listener| Case::get(name, listener, "/a", "");
    vec![
        get("measured: allowed", "limited").h2_reply(answer(&response(0, None))),
        get("measured: denied", "limited").h2_reply(denied(401, "no", vec![])),
        get("measured: nobody there", "measured_gone")
            .differs("log[0].~sent", UNMEASURED)
            .differs("log[0].~received", UNMEASURED),
        get("measured: nothing in time", "measured_hasty")
            .h2_reply(H2Reply::stall())
            .differs("log[0].~sent", UNMEASURED)
            .differs("log[0].~received", UNMEASURED),
        get("measured: no service", "limited").h2_reply(H2Reply::new(200, "no message")),
    ]
}

/// Which changes of a request have its route looked for anew.
fn clearing() -> Vec<Case> {
    let moved = || header("x-route", "moved", Action::OverwriteIfExistsOrAdd);
    let case = |name, reply: OkHttpResponse| Case::get(name, "chosen", "/a?b=1", TWICE).h2_reply(ok(reply));
    let with = |name, action| OkHttpResponse {
        headers: vec![moved(), header(name, "1", action)],
        ..Default::default()
    };
    let moves = || OkHttpResponse { headers: vec![moved()], ..Default::default() };
    let remove = |name: &str| OkHttpResponse { headers_to_remove: vec![name.to_owned()], ..moves() };
    vec![
        case("clearing: nothing that is meant", moves()),
        case("clearing: a header that is set", with("x-clear", Action::OverwriteIfExistsOrAdd)),
        case("clearing: a header in capitals", with("X-OTHER", Action::OverwriteIfExistsOrAdd)),
        case("clearing: a header that is appended to", with("x-clear", Action::AppendIfExistsOrAdd)),
        case("clearing: a header that is added if absent", with("x-clear", Action::AddIfAbsent)),
        case(
            "clearing: a header that is not there to be replaced",
            with("x-clear", Action::OverwriteIfExists),
        ),
        case("clearing: a header that is removed", remove("x-clear")),
        case("clearing: another that is removed", remove("x-over")),
        case(
            "clearing: a parameter that is set",
            OkHttpResponse { query_parameters_to_set: vec![parameter("b", "2")], ..moves() },
        ),
        case(
            "clearing: a parameter that is removed",
            OkHttpResponse { query_parameters_to_remove: vec!["b".to_owned()], ..moves() },
        ),
        Case::get("clearing: not at all", "unchosen", "/a", "")
            .h2_reply(ok(with("x-clear", Action::OverwriteIfExistsOrAdd))),
        Case::get("clearing: a response", "chosen", "/a", "").h2_reply(ok(OkHttpResponse {
            response_headers_to_add: vec![header("x-clear", "1", Action::OverwriteIfExistsOrAdd)],
            ..moves()
        })),
    ]
}

/// What becomes of the answers of services of gRPC.
#[expect(clippy::too_many_lines, reason = "a table of cases, and what its lines are short for")]
fn answers() -> Vec<Case> {
    let case =
        |name, listener, reply: H2Reply| Case::get(name, listener, "/a?b=1&c=2", TWICE).h2_reply(reply);
    let with = |headers: Vec<HeaderValueOption>| OkHttpResponse { headers, ..Default::default() };
    let back = |headers: Vec<HeaderValueOption>| OkHttpResponse {
        response_headers_to_add: headers,
        ..Default::default()
    };
    let text = |key: &str, value: &str| header(key, value, Action::OverwriteIfExistsOrAdd);
    let host_headers = "HTTP/1.1 200 OK\r\nx-add: 1\r\nx-add: 2\r\nx-absent: 1\r\nx-over: 1\r\nx-there: 1\r\nx-append: 1\r\nx-set: 1\r\ncontent-length: 0\r\n\r\n";
    let set = |pairs: &[(&str, &str)]| OkHttpResponse {
        query_parameters_to_set: pairs.iter().map(|(key, value)| parameter(key, value)).collect(),
        ..Default::default()
    };
    let drop = |names: &[&str]| OkHttpResponse {
        query_parameters_to_remove: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let remove = |names: &[&str]| OkHttpResponse {
        headers_to_remove: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let emit = |code: i32| CheckResponse {
        dynamic_metadata: Some(metadata("key", "value")),
        ..response(code, None)
    };
    #[allow(deprecated, reason = "services still send it")]
    let older = OkHttpResponse { dynamic_metadata: Some(metadata("key", "older")), ..Default::default() };
    let twice = CheckResponse {
        dynamic_metadata: Some(metadata("key", "newer")),
        ..response(0, Some(HttpResponse::OkResponse(older)))
    };
    let error = |code: i32| {
        let status = Some(HttpStatus { code });
        let reply =
            DeniedHttpResponse { status, headers: vec![text("x-why", "broken")], body: "broken".to_owned() };
        answer(&response(13, Some(HttpResponse::ErrorResponse(reply))))
    };
    vec![
        case("changes of a request", "plain", ok(with(changes()))),
        case("changes of a response", "plain", ok(back(changes()))).raw(host_headers),
        case("headers of a reply", "plain", denied(401, "who?", changes())),
        case(
            "headers of a reply of the proxy's own",
            "plain",
            denied(
                401,
                "who?",
                vec![
                    text("content-type", "text/html"),
                    text("content-length", "2"),
                    text("x-a", "1"),
                    text("server", "me"),
                    text("date", "now"),
                ],
            ),
        ),
        case(
            "cookies of a reply",
            "plain",
            denied(
                302,
                "",
                vec![
                    header("set-cookie", "a=1", Action::AppendIfExistsOrAdd),
                    header("set-cookie", "b=2", Action::AppendIfExistsOrAdd),
                    text("location", "/login"),
                ],
            ),
        ),
        case("a reply with 200", "plain", denied(200, "fine", vec![])),
        case("a reply with no status", "plain", denied(0, "no", vec![])),
        case("a reply with a long body", "plain", denied(500, &"long ".repeat(100), vec![])),
        Case::h2(
            "a reply to gRPC",
            "plain",
            [H2Request::post("http://test/a", "")
                .field("content-type", "application/grpc")
                .field("te", "trailers")],
        )
        .h2_reply(denied(401, "who?", vec![text("x-a", "1")])),
        case(
            "headers that are removed",
            "plain",
            ok(remove(&["x-add", "host", ":path", "X-Over", "x-nobody", ""])),
        ),
        case("another host", "plain", ok(with(vec![text("host", "other")]))),
        case("another authority", "plain", ok(with(vec![text(":authority", "other")]))),
        case("another path", "plain", ok(with(vec![text(":path", "/other?d=1")]))),
        case("another method", "plain", ok(with(vec![text(":method", "PUT")]))),
        case("a header that makes another route", "plain", ok(with(vec![text("x-route", "moved")]))),
        case("a header that would make another route", "partial", ok(with(vec![text("x-route", "moved")]))),
        case(
            "values are joined where there can be but one",
            "plain",
            ok(OkHttpResponse {
                headers: ["accept", "x-forwarded-for", "cookie", "x-plain"]
                    .map(|name| [old(name, "new", true), header(name, "newer", Action::AppendIfExistsOrAdd)])
                    .concat(),
                response_headers_to_add: [
                    ["cache-control", "vary", "set-cookie", "x-plain"]
                        .map(|name| header(name, "new", Action::AppendIfExistsOrAdd))
                        .to_vec(),
                    vec![
                        header("x-both", "1", Action::OverwriteIfExistsOrAdd),
                        header("x-both", "2", Action::AppendIfExistsOrAdd),
                        header("x-third", "1", Action::AddIfAbsent),
                        header("x-third", "2", Action::AppendIfExistsOrAdd),
                        header("x-fourth", "1", Action::OverwriteIfExists),
                        header("x-fourth", "2", Action::AddIfAbsent),
                    ],
                ]
                .concat(),
                ..Default::default()
            }),
        )
        .raw("HTTP/1.1 200 OK\r\ncache-control: a\r\nvary: a\r\nset-cookie: a\r\nx-plain: a\r\ncontent-length: 0\r\n\r\n"),
        case("upper case", "plain", ok(with(vec![text("X-Upper", "1")]))),
        case("a header without a value", "plain", ok(with(vec![text("x-empty", "")]))),
        case("parameters", "plain", ok(set(&[("b", "3"), ("d", "4"), ("a", "0")]))),
        case("parameters that go", "plain", ok(drop(&["b", "x"]))),
        case("all parameters go", "plain", ok(drop(&["b", "c"]))),
        case("parameters to be escaped", "plain", ok(set(&[("b", "a b&c")])))
            .differs("counter *", NO_PATH)
            .differs("log[0].*", NO_PATH)
            .differs("response[0].*", NO_PATH)
            .differs("upstream[0].*", NO_PATH),
        case("metadata", "plain", answer(&emit(0))),
        case("metadata of a denial", "plain", answer(&emit(7))),
        case("metadata in two places", "plain", answer(&twice)),
        case("an error of the service's own", "plain", error(0)),
        case("an error of the service's own with a status", "plain", error(507)),
        case("an error of the service's own that passes", "open", error(507)),
        case("metadata that nobody wants", "strict", answer(&emit(0))),
        case("a body that is cut", "strict", denied(403, "refused", vec![])),
        case("a name that is none", "strict", ok(with(vec![text("x y", "1")]))),
        case("a value that is none", "strict", ok(with(vec![text("x-y", "a\nb")]))),
        case("a value of a response that is none", "strict", ok(back(vec![text("x-y", "a\nb")]))),
        case("a value of a reply that is none", "strict", denied(401, "", vec![text("x-y", "a\nb")])),
        case(
            "an action that there is not",
            "strict",
            ok(with(vec![HeaderValueOption { append_action: 17, ..text("x-y", "1") }])),
        ),
        case(
            "an action that there is not, unheeded",
            "plain",
            ok(with(vec![HeaderValueOption { append_action: 17, ..text("x-y", "1") }])),
        ),
        case("a parameter that is none", "strict", ok(set(&[("b", "a b")]))),
        case("a name to remove that is none", "strict", ok(remove(&["x y", "x-add"]))),
        case(
            "changes by rules",
            "ruled",
            ok(OkHttpResponse {
                headers_to_remove: vec!["x-no-add".to_owned(), "x-add".to_owned(), ":path".to_owned()],
                ..with(vec![
                    text("x-no", "1"),
                    text("x-yes", "1"),
                    text("x-envoy-no", "1"),
                    text("x-envoy-yes", "1"),
                    text("host", "other"),
                    text(":path", "/other"),
                ])
            }),
        ),
        case("changes against rules", "erring", ok(with(vec![text("x-yes", "1")]))),
        case("removals against rules", "erring", ok(remove(&["x-add"]))),
        case("no changes under rules", "erring", answer(&response(0, None))),
    ]
}

/// Services that are asked over HTTP, with what differs.
pub(crate) fn http_cases() -> Vec<Case> {
    let has_body = |case: &Case| {
        case.name.contains("body") && !case.name.contains("without") || case.name.contains("http/2")
    };
    let cases = cases_over_http().into_iter();
    let differs = |case: Case| case.differs("upstream[0].header.content-length", NO_LENGTH);
    cases.map(|case| if has_body(&case) { case } else { differs(case) }).collect()
}

/// Services that are asked over HTTP. What they answer comes first in the script of the upstream, and then the host.
fn cases_over_http() -> Vec<Case> {
    let allow = "HTTP/1.1 200 OK\r\nx-up-a: 1\r\nx-add: 1\r\nx-ok: 1\r\nx-client: 1\r\nkey: value\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-envoy-auth-headers-to-remove: x-gone, x-b\r\ncontent-length: 2\r\n\r\nhi";
    let deny = "HTTP/1.1 401 Who\r\nx-up-a: 1\r\nx-client-a: 1\r\nwww-authenticate: basic\r\nlocation: /login\r\nkey: value\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-type: text/html\r\ndate: yesterday\r\nserver: authz\r\ncontent-length: 4\r\n\r\nwho?";
    let get = |name, listener, target: &str| {
        Case::get(
            name,
            listener,
            target,
            "x-one: 1\r\nx-one: 2\r\nx-gone: 1\r\nx-add: 0\r\nx-up-a: 0\r\nauthorization: basic x\r\naccept: */*\r\n",
        )
    };
    let post = |name, listener, target: &str, body: &str| {
        let length = body.len();
        let text = format!("POST {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}");
        Case::send(name, listener, text)
    };
    vec![
        get("asked again over http", "web_again", "/a")
            .raw("HTTP/1.1 503 busy\r\ncontent-length: 4\r\n\r\nbusy")
            .raw(allow)
            .reply(Reply::ok())
            .differs("upstream[1].header.content-length", NO_LENGTH),
        get("asked again over http after a reset", "web_again", "/a")
            .reply(Reply::steps([Step::Reset]))
            .raw(allow)
            .reply(Reply::ok())
            .differs("upstream[1].header.content-length", NO_LENGTH),
        get("asked again over http in vain", "web_again", "/a")
            .raw("HTTP/1.1 503 busy\r\ncontent-length: 0\r\n\r\n")
            .raw("HTTP/1.1 500 busy\r\ncontent-length: 0\r\n\r\n")
            .differs("upstream[1].header.content-length", NO_LENGTH),
        get("asked again over http where a try takes too long", "web_slow", "/a")
            .reply(Reply::steps([Step::Stall]))
            .reply(Reply::steps([Step::Stall]))
            .differs("upstream[1].header.content-length", NO_LENGTH),
        get("HTTP: allowed", "web", "/a?b=c").raw(allow),
        get("HTTP: measured", "measured_web", "/a").raw(allow),
        get("HTTP: denied", "web", "/a").raw(deny),
        get("HTTP: denied without a body", "web", "/a").raw("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n"),
        get("HTTP: no content", "web", "/a").raw("HTTP/1.1 204 No\r\n\r\n"),
        get("HTTP: moved", "web", "/a").raw("HTTP/1.1 302 No\r\nlocation: /b\r\ncontent-length: 0\r\n\r\n"),
        get("HTTP: an error", "web", "/a").raw("HTTP/1.1 503 No\r\ncontent-length: 4\r\n\r\nbusy"),
        get("HTTP: in pieces", "web", "/a")
            .raw("HTTP/1.1 403 No\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n"),
        get("HTTP: until it ends", "web", "/a").reply(Reply::raw_then_close("HTTP/1.1 403 No\r\n\r\nno")),
        get("HTTP: hung up", "web", "/a").reply(Reply::raw_then_close("")),
        get("HTTP: nonsense", "web", "/a").reply(Reply::raw_then_close("hello\r\n\r\n")),
        post("HTTP: a body", "web", "/a", "hello").raw(allow),
        post("HTTP: a body too large", "web", "/a", &"x".repeat(101)).raw(allow),
        post("HTTP: an empty body", "web", "/a", "").raw(allow),
        Case::h2("HTTP: over http/2", "web", [H2Request::post("http://test/a", "hello")]).raw(allow),
        Case::send("HTTP: HEAD", "web", "HEAD /a HTTP/1.1\r\nhost: test\r\n\r\n")
            .raw("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n"),
        get("HTTP: more, allowed", "web_more", "/a?b=c").raw(allow),
        get("HTTP: more, denied", "web_more", "/a").raw(deny),
        get("HTTP: a fixed path", "web_fixed", "/a?b=c").raw(allow),
        get("HTTP: an error that passes", "web_fixed", "/a")
            .raw("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"),
        Case::send(
            "HTTP: CONNECT with no body",
            "web_more",
            "CONNECT test:80 HTTP/1.1\r\nhost: test:80\r\n\r\n",
        )
        .raw("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .differs("upstream[0].*", NO_TUNNEL)
        .differs("upstream.connections", NO_TUNNEL)
        .differs("counter cluster.authz.*", NO_TUNNEL),
        Case::steps(
            "HTTP: a client that leaves in its body",
            "web_fixed",
            [
                Do::Send(b"POST /a HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\nhello".to_vec()),
                Do::AwaitUpstream(1),
                Do::Leave,
            ],
        )
        .reply(Reply::steps([Step::Stall])),
        Case::steps(
            "HTTP: a client of an upgrade that leaves",
            "web_fixed",
            [
                Do::Send(
                    b"GET /a HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                        .to_vec(),
                ),
                Do::AwaitUpstream(1),
                Do::Leave,
            ],
        )
        .reply(Reply::steps([Step::Stall])),
        Case::steps(
            "HTTP: a client that leaves",
            "web",
            [Do::Send(b"GET /a HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()), Do::AwaitUpstream(1), Do::Leave],
        )
        .reply(Reply::steps([integration::upstream::Step::Stall])),
    ]
}
