//! Connections that a service is asked about (`envoy.filters.network.ext_authz`): what it is asked, when, and what comes of its answer. The
//! HTTP/2 upstream of the rig is the service.

use integration::config::{HttpListener, file_log, indent, listener_with_filters, tcp_proxy_with_logs};
use integration::differential::{Case, Do, Setup};
use integration::upstream::h2::H2Reply;
use integration::upstream::{Reply, Step};
use xds_api::envoy::service::auth::v3::check_response::HttpResponse;
use xds_api::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse};
use xds_api::envoy::r#type::v3::HttpStatus;

use super::ext_authz::{answer, metadata, response};

const LOG: &str = "log_format: {text_format_source: {inline_string: \"flags=%RESPONSE_FLAGS%\
|details=%RESPONSE_CODE_DETAILS%|termination=%CONNECTION_TERMINATION_DETAILS%|rx=%BYTES_RECEIVED%|tx=%BYTES_SENT%\
|reason=%DOWNSTREAM_LOCAL_CLOSE_REASON%|code=%RESPONSE_CODE%|key=%DYNAMIC_METADATA(envoy.filters.network.ext_authz:key)%\
|~took=%DYNAMIC_METADATA(envoy.filters.network.ext_authz:ext_authz_duration)%\\n\"}}";

const GRPC: &str = "grpc_service: {envoy_grpc: {cluster_name: h2up}, timeout: 5s}\n";
const HELD: &str = "what is held counts once; Envoy counts it again when more comes, or the end";
const GIVEN_UP: &str = "a connection that nobody waits for any more is given up; Envoy goes on with it";

fn filter(name: &str, config: &str) -> String {
    format!(
        "- name: authz\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz\n    stat_prefix: {name}\n    transport_api_version: V3\n{}",
        indent(config, 4)
    )
}

fn listener_to(name: &str, config: &str, cluster: &str) -> String {
    let logs = format!("access_log:\n{}", file_log(LOG));
    let proxy = tcp_proxy_with_logs(name, &logs, &format!("cluster: {cluster}"));
    listener_with_filters(name, &(filter(name, config) + &proxy))
}

pub(crate) fn setup() -> Setup {
    let listener = |name: &str, more: &str| listener_to(name, &format!("{GRPC}{more}"), "echo");
    let service =
        |name: &str, service: &str| listener_to(name, &format!("grpc_service: {{{service}}}"), "echo");
    let inspected = "  listener_filters:\n  - name: tls\n    typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}\n";
    let all_told = "include_tls_session: true\ninclude_peer_certificate: true\nbootstrap_metadata_labels_key: labels\nmetadata_context_namespaces: [nobody]\n";
    let before_http = |name: &str, service: &str| {
        let filters = format!("  - filters:\n{}", indent(&filter(name, service), 4));
        HttpListener::to_up(name).yaml().replace("  - filters:\n", &filters)
    };
    Setup::new(
        "network_ext_authz",
        [
            listener("plain", ""),
            listener("told", all_told) + inspected,
            listener("open", "failure_mode_allow: true\n"),
            listener("shadow", "shadow_mode: true\n"),
            listener(
                "marked",
                "filter_enabled_metadata: {filter: nobody, path: [{key: k}], value: {present_match: true}}\n",
            ),
            listener(
                "unmarked",
                "filter_enabled_metadata: {filter: nobody, path: [{key: k}], value: {present_match: true}, invert: true}\n",
            ),
            service("gone", "envoy_grpc: {cluster_name: refused}, timeout: 1s"),
            service("late", "envoy_grpc: {cluster_name: blackhole}, timeout: 0.05s"),
            service(
                "quiet",
                "envoy_grpc: {cluster_name: h2up, authority: authz.example, skip_envoy_headers: true}, timeout: 3s, initial_metadata: [{key: x-meta, value: \"of %DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%\"}]",
            ),
            service("held", "envoy_grpc: {cluster_name: up}, timeout: 0.5s"),
            service("hurried", "envoy_grpc: {cluster_name: h2up}"),
            listener_to("refused_host", GRPC, "refused"),
            listener_with_filters(
                "twice",
                &(filter("twice", GRPC)
                    + &filter("twice_again", GRPC)
                    + &tcp_proxy_with_logs("twice", "", "cluster: echo")),
            ),
            before_http("http", GRPC),
            before_http("held_http", "grpc_service: {envoy_grpc: {cluster_name: up}, timeout: 60s}"),
        ],
    )
    .with_node("{id: node, cluster: here, metadata: {labels: {app: web, version: \"1\"}}}")
}

fn send(text: &str) -> Do {
    Do::Send(text.as_bytes().to_vec())
}

/// A client that says something and gets it back.
fn passes(name: &'static str, listener: &'static str, lines: usize) -> Case {
    Case::steps(name, listener, [send("hello"), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd]).tcp(lines)
}

/// A client that says something and is refused.
fn refused(name: &'static str, listener: &'static str) -> Case {
    Case::steps(name, listener, [send("hello"), Do::AwaitEnd]).tcp(1)
}

/// The client hello of TLS 1.2 that asks for `a.example`, and nothing else.
fn client_hello() -> Vec<u8> {
    let name = b"a.example";
    let length = u8::try_from(name.len()).unwrap_or_default();
    let mut list = vec![0, length + 5, 0, length + 3, 0, 0, length];
    list.extend(name);
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    hello.extend([0, u8::try_from(list.len()).unwrap_or_default() + 2, 0, 0]);
    hello.extend(&list);
    let length = u8::try_from(hello.len()).unwrap_or_default();
    [&[22, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat()
}

pub(crate) fn cases() -> Vec<Case> {
    let allow = || answer(&response(0, None));
    let deny = || answer(&response(7, None));
    let with_metadata = |code| {
        answer(&CheckResponse { dynamic_metadata: Some(metadata("key", "value")), ..response(code, None) })
    };
    let erring = || H2Reply::new(503, "busy");
    let denied_reply = DeniedHttpResponse {
        status: Some(HttpStatus { code: 401 }),
        body: "no".to_owned(),
        ..Default::default()
    };
    let tcp = |name, listener, steps: Vec<Do>, lines| Case::steps(name, listener, steps).tcp(lines);
    let hello = client_hello();
    let length = hello.len();
    vec![
        passes("allowed", "plain", 1).h2_reply(allow()),
        refused("denied", "plain").h2_reply(deny()),
        refused("denied with a reply for requests", "plain")
            .h2_reply(answer(&response(7, Some(HttpResponse::DeniedResponse(denied_reply.clone()))))),
        refused("an error of the service", "plain")
            .h2_reply(answer(&response(7, Some(HttpResponse::ErrorResponse(denied_reply))))),
        passes("allowed, with metadata", "plain", 1).h2_reply(with_metadata(0)),
        refused("denied, with metadata", "plain").h2_reply(with_metadata(16)),
        refused("a service that is busy", "plain").h2_reply(erring()),
        refused("no answer of gRPC", "plain").h2_reply(H2Reply::new(200, "hello")),
        refused("a reset", "plain").h2_reply(H2Reply::refuse(2)),
        refused("refused connections", "gone"),
        refused("a service that does not answer", "late")
            .differs("counter cluster.blackhole.upstream_cx_*", GIVEN_UP),
        passes("an error that passes", "open", 1).h2_reply(erring()),
        refused("a denial where errors pass", "open").h2_reply(deny()),
        passes("allowed in the shadow", "shadow", 1).h2_reply(with_metadata(0)),
        passes("denied in the shadow", "shadow", 1).h2_reply(with_metadata(7)),
        passes("an error in the shadow", "shadow", 1).h2_reply(erring()),
        passes("without the metadata", "marked", 1),
        passes("with the metadata", "unmarked", 1).h2_reply(allow()),
        passes("metadata of the call", "quiet", 1).h2_reply(allow()),
        passes("the usual deadline", "hurried", 1).h2_reply(allow()),
        tcp(
            "all that is told",
            "told",
            vec![Do::Send(hello), Do::Bytes(length), Do::HalfClose, Do::AwaitEnd],
            1,
        )
        .h2_reply(allow()),
        passes("all that is told of little", "told", 1).h2_reply(allow()),
        tcp(
            "asked once",
            "plain",
            vec![send("hello"), Do::Bytes(5), send("again"), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd],
            1,
        )
        .h2_reply(allow()),
        tcp(
            "off for all that comes",
            "marked",
            vec![send("hello"), Do::Bytes(5), send("again"), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd],
            1,
        ),
        tcp("nothing but an end, allowed", "plain", vec![Do::HalfClose, Do::AwaitEnd], 1).h2_reply(allow()),
        tcp("nothing but an end, denied", "plain", vec![Do::HalfClose, Do::AwaitEnd], 1).h2_reply(deny()),
        tcp("a host that refuses comes first", "refused_host", vec![send("hello"), Do::AwaitEnd], 1),
        passes("two services", "twice", 0).h2_reply(allow()).h2_reply(allow()),
        tcp("the second service refuses", "twice", vec![send("hello"), Do::AwaitEnd], 0)
            .h2_reply(allow())
            .h2_reply(deny()),
        tcp("a client that says no more", "held", vec![send("hello"), Do::AwaitUpstream(1), Do::Leave], 1)
            .reply(Reply::steps([Step::Stall]))
            .differs("log[0].rx", HELD),
        tcp(
            "before HTTP, a client that leaves",
            "held_http",
            vec![send("GET / HTTP/1.1\r\nhost: test\r\n\r\n"), Do::AwaitUpstream(1), Do::Leave],
            0,
        )
        .reply(Reply::steps([Step::Stall]))
        .ends_with("ext_authz.held_http.active"),
        Case::get("before HTTP", "http", "/", "").h2_reply(allow()).h2_reply(allow()),
        Case::steps(
            "before HTTP, two requests",
            "http",
            [
                send("GET / HTTP/1.1\r\nhost: test\r\n\r\n"),
                Do::Response("GET"),
                send("GET / HTTP/1.1\r\nhost: test\r\n\r\n"),
                Do::Response("GET"),
                Do::HalfClose,
                Do::AwaitEnd,
            ],
        )
        .h2_reply(allow())
        .h2_reply(allow()),
        tcp(
            "before HTTP, refused",
            "http",
            vec![send("GET / HTTP/1.1\r\nhost: test\r\n\r\n"), Do::AwaitEnd],
            0,
        )
        .h2_reply(deny()),
    ]
}
