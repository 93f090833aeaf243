//! Connections that a service counts (`envoy.filters.network.ratelimit`). The HTTP/2 upstream of the rig is the service.

use integration::config::{file_log, indent, listener_with_filters, tcp_proxy_with_logs};
use integration::differential::{Case, Do, Setup};
use integration::upstream::h2::H2Reply;
use xds_api::envoy::service::ratelimit::v3::RateLimitResponse;
use xds_api::envoy::service::ratelimit::v3::rate_limit_response::Code;

use crate::ext_authz::{answer, metadata};

const LOG: &str = "log_format: {text_format_source: {inline_string: \"rx=%BYTES_RECEIVED%|tx=%BYTES_SENT%|flags=%RESPONSE_FLAGS%|details=%RESPONSE_CODE_DETAILS%\
|termination=%CONNECTION_TERMINATION_DETAILS%|key=%DYNAMIC_METADATA(envoy.filters.network.ratelimit)%|cluster=%UPSTREAM_CLUSTER%\\n\"}}";

const GIVEN_UP: &str = "a connection that nobody waits for any more is given up; Envoy goes on with it";

fn listener(name: &str, service: &str, config: &str) -> String {
    let config = format!(
        "stat_prefix: {name}\ndomain: here\nrate_limit_service: {{transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: {service}}}}}}}\n{config}"
    );
    let filter = format!(
        "- name: limits\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.ratelimit.v3.RateLimit\n{}",
        indent(&config, 4)
    );
    let logs = format!("access_log:\n{}", file_log(LOG));
    listener_with_filters(name, &(filter + &tcp_proxy_with_logs(name, &logs, "cluster: echo")))
}

pub(crate) fn setup() -> Setup {
    let plain = "descriptors: [{entries: [{key: k, value: v}]}]\n";
    let patient = format!("{plain}timeout: 5s\n");
    let strict = format!("{patient}failure_mode_deny: true\n");
    let formats = "timeout: 5s\ndescriptors:\n- entries: [{key: ip, value: \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\"}, {key: \"%PROTOCOL%\", value: \"a %DYNAMIC_METADATA(no:body)% b\"}]\n- entries: [{key: two, value: \"2\"}]\n";
    let mut setup = Setup::new(
        "network_ratelimit",
        [
            listener("plain", "h2up", &patient),
            listener("strict", "h2up", &strict),
            listener("formats", "h2up", formats),
            listener("gone", "refused", &strict),
            listener("gone_open", "refused", &patient),
            listener("late", "blackhole", &format!("{plain}failure_mode_deny: true\n")),
            listener_with_filters(
                "unasked",
                &tcp_proxy_with_logs("unasked", &format!("access_log:\n{}", file_log(LOG)), "cluster: echo"),
            ),
        ],
    );
    setup.bootstrap.push_str("\nlayered_runtime: {layers: [{name: admin, admin_layer: {}}]}\n");
    setup
}

pub(crate) fn cases() -> Vec<Case> {
    let send = || Do::Send(b"hello".to_vec());
    let passes = |name, listener| {
        Case::steps(name, listener, [send(), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd]).tcp(1)
    };
    let closed = |name, listener| Case::steps(name, listener, [send(), Do::AwaitEnd]).tcp(1);
    let says = |code: Code| answer(&RateLimitResponse { overall_code: code.into(), ..Default::default() });
    let told = answer(&RateLimitResponse {
        overall_code: Code::Ok.into(),
        dynamic_metadata: Some(metadata("key", "value")),
        ..Default::default()
    });
    let failed =
        || H2Reply::new(200, "").field("content-type", "application/grpc").trailer("grpc-status", "14");
    // What the runtime says when the connection is there is too late for its question: it is changed over one that asks nobody.
    let says_runtime = |name, key: &'static str| {
        let steps = [Do::Admin(key), send(), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd];
        Case::steps(name, "unasked", steps).tcp(1)
    };
    vec![
        passes("allowed", "plain").h2_reply(says(Code::Ok)),
        passes("a code that says nothing", "plain").h2_reply(says(Code::Unknown)),
        passes("allowed, with metadata", "plain").h2_reply(told),
        passes("values that are formats", "formats").h2_reply(says(Code::Ok)),
        closed("over the limit", "plain").h2_reply(says(Code::OverLimit)),
        passes("the service fails", "plain").h2_reply(failed()),
        closed("the service fails, refused", "strict").h2_reply(failed()),
        closed("the service is not there", "gone"),
        passes("the service is not there, and need not be", "gone_open"),
        closed("the service cannot be reached", "late")
            .differs("counter cluster.blackhole.upstream_cx_*", GIVEN_UP),
        Case::steps("the client leaves", "plain", [Do::AwaitH2Upstream(1), Do::Leave])
            .tcp(1)
            .h2_reply(H2Reply::stall()),
        says_runtime("the runtime enforces nothing", "/runtime_modify?ratelimit.tcp_filter_enforcing=0"),
        passes("not enforced at run time", "plain").h2_reply(says(Code::OverLimit)),
        says_runtime("the runtime enforces", "/runtime_modify?ratelimit.tcp_filter_enforcing="),
        says_runtime("the runtime asks nobody", "/runtime_modify?ratelimit.tcp_filter_enabled=0"),
        passes("off at run time", "plain"),
        says_runtime("the runtime asks", "/runtime_modify?ratelimit.tcp_filter_enabled="),
    ]
}
