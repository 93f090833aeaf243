//! Faults that are injected (`envoy.filters.http.fault`): by configuration, for a route, by headers and runtime keys.

use integration::config::{HttpListener, file_log, indent};
use integration::differential::{Case, H2Request, Setup};

const LOG: &str = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|code=%RESPONSE_CODE%\
|details=%RESPONSE_CODE_DETAILS%|flags=%RESPONSE_FLAGS%|grpc=%GRPC_STATUS_NUMBER%|sent=%BYTES_SENT%\
|fault=%DYNAMIC_METADATA(fault)%\\n\"}}";

const TYPE: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

/// Values of the runtime: of all callers, and of one.
const RUNTIME: &str = "
layered_runtime:
  layers:
  - name: static
    static_layer:
      ours.abort.none: 0
      ours.abort.all: 100
      ours.status: 418
      ours.grpc: 5
      ours.delay: 20
      ours.most: 0
      fault.http.never.abort.abort_percent: 0
      fault.http.always.abort.abort_percent: 100
      fault.http.teapot.abort.http_status: 418
      fault.http.nought.abort.grpc_status: 0
      fault.http.slow.delay.fixed_delay_percent: 100
";

fn listener(name: &str, config: &str) -> HttpListener {
    let filter = format!("- name: fault\n  typed_config:\n    {TYPE}\n{}", indent(config, 4));
    HttpListener::to_up(name).filters(&filter).logs(&file_log(LOG))
}

const ALL: &str = "percentage: {numerator: 100}";

fn routes() -> String {
    let own = |prefix: &str, config: &str| {
        format!(
            "- match: {{prefix: {prefix}}}\n  route: {{cluster: up}}\n  typed_per_filter_config:\n    fault: {{{TYPE}, {config}}}\n"
        )
    };
    [
        own("/abort", &format!("abort: {{http_status: 429, {ALL}}}")),
        own("/nothing", ""),
        own("/other-cluster", &format!("upstream_cluster: other, abort: {{http_status: 429, {ALL}}}")),
        own("/this-cluster", &format!("upstream_cluster: up, abort: {{http_status: 429, {ALL}}}")),
        "- match: {prefix: /}\n  route: {cluster: up}\n".to_owned(),
    ]
    .concat()
}

pub(crate) fn setup() -> Setup {
    let by_header = format!("abort: {{header_abort: {{}}, {ALL}}}\ndelay: {{header_delay: {{}}, {ALL}}}");
    let marked = "filter_metadata: {reason: a test}";
    let with_routes = {
        let filter = format!(
            "- name: fault\n  typed_config:\n    {TYPE}\n    abort: {{http_status: 503, {ALL}}}\n    {marked}\n"
        );
        HttpListener::new("routes", &routes()).filters(&filter).logs(&file_log(LOG))
    };
    let twice = {
        let limits = |name: &str, kib: u32| {
            format!(
                "- name: {name}\n  typed_config:\n    {TYPE}\n    response_rate_limit: {{fixed_limit: {{limit_kbps: {kib}}}, {ALL}}}\n"
            )
        };
        let filters = limits("fault", 16) + &limits("other", 24);
        HttpListener::to_up("twice").filters(&filters).logs(&file_log(LOG))
    };
    let listeners = [
        twice,
        listener("abort", &format!("abort: {{http_status: 503, {ALL}}}\n{marked}")),
        listener("said", &format!("abort: {{http_status: 503, response_body: another, {ALL}}}")),
        listener("grpc", &format!("abort: {{grpc_status: 14, {ALL}}}")),
        listener("odd_grpc", &format!("abort: {{grpc_status: 99, {ALL}}}")),
        listener("header", &by_header),
        listener("some", "abort: {header_abort: {}, percentage: {numerator: 0}}"),
        listener("none", "abort: {http_status: 503}"),
        listener("delay", &format!("delay: {{fixed_delay: 0.02s, {ALL}}}\n{marked}")),
        listener(
            "both",
            &format!("delay: {{fixed_delay: 0.02s, {ALL}}}\nabort: {{http_status: 503, {ALL}}}\n{marked}"),
        ),
        listener("tiny", &format!("delay: {{fixed_delay: 0.0001s, {ALL}}}")),
        listener(
            "full",
            &format!(
                "max_active_faults: 0\ndelay: {{fixed_delay: 0.02s, {ALL}}}\nabort: {{http_status: 503, {ALL}}}"
            ),
        ),
        listener("nodes", &format!("downstream_nodes: [one, two]\nabort: {{http_status: 503, {ALL}}}\n")),
        listener(
            "headers",
            &format!(
                "headers: [{{name: x-fault, string_match: {{exact: \"yes\"}}}}]\nabort: {{http_status: 503, {ALL}}}"
            ),
        ),
        listener(
            "quiet",
            &format!("disable_downstream_cluster_stats: true\nabort: {{http_status: 503, {ALL}}}"),
        ),
        listener(
            "runtime",
            "abort: {http_status: 503}\nabort_percent_runtime: ours.abort.all\nabort_http_status_runtime: ours.status",
        ),
        listener(
            "runtime_none",
            &format!("abort: {{http_status: 503, {ALL}}}\nabort_percent_runtime: ours.abort.none"),
        ),
        listener(
            "runtime_grpc",
            &format!("abort: {{grpc_status: 14, {ALL}}}\nabort_grpc_status_runtime: ours.grpc"),
        ),
        listener(
            "runtime_delay",
            &format!(
                "delay: {{fixed_delay: 3600s, {ALL}}}\ndelay_duration_runtime: ours.delay\nmax_active_faults_runtime: ours.other"
            ),
        ),
        listener(
            "runtime_full",
            &format!("abort: {{http_status: 503, {ALL}}}\nmax_active_faults_runtime: ours.most"),
        ),
        listener("callers", "abort: {http_status: 503}\ndelay: {fixed_delay: 0.02s}"),
        listener(
            "rate",
            &format!("response_rate_limit: {{fixed_limit: {{limit_kbps: 16}}, {ALL}}}\n{marked}"),
        ),
        listener("rate_header", &format!("response_rate_limit: {{header_limit: {{}}, {ALL}}}")),
        with_routes,
    ];
    let listeners = listeners.map(|listener| listener.yaml());
    let mut setup = Setup::new("fault", listeners);
    setup.bootstrap.push_str(RUNTIME);
    setup
}

const GRPC: &str = "content-type: application/grpc\r\n";

pub(crate) fn cases() -> Vec<Case> {
    let caller = |name, listener, caller: &str| {
        Case::get(name, listener, "/", &format!("x-envoy-downstream-service-cluster: {caller}\r\n"))
    };
    let asks = |name, listener, lines: &str| {
        let lines: String = lines.split(", ").map(|line| format!("x-envoy-fault-{line}\r\n")).collect();
        Case::get(name, listener, "/", &lines)
    };
    let body = "b".repeat(4096);
    let long = || format!("HTTP/1.1 200 OK\r\ncontent-length: 4096\r\n\r\n{body}");
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\nx-trailer: yes\r\n\r\n";
    vec![
        Case::get("aborted", "abort", "/", ""),
        Case::send("aborted_head", "abort", "HEAD / HTTP/1.1\r\nhost: test\r\n\r\n"),
        Case::send("aborted_post", "abort", "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\n\r\nabc"),
        Case::get("aborted_grpc", "abort", "/", GRPC),
        Case::get("aborted_with_words", "said", "/", ""),
        Case::get("grpc_status", "grpc", "/", GRPC),
        Case::get("grpc_status_over_http", "grpc", "/", ""),
        Case::get("odd_grpc_status", "odd_grpc", "/", GRPC),
        Case::get("odd_grpc_status_over_http", "odd_grpc", "/", ""),
        Case::get("nothing_asked", "header", "/", ""),
        asks("abort_asked", "header", "abort-request: 404"),
        asks("abort_asked_with_less", "header", "abort-request: 404, abort-request-percentage: 0"),
        asks("abort_asked_with_more", "header", "abort-request: 404, abort-request-percentage: 200"),
        asks("abort_asked_out_of_range", "header", "abort-request: 600"),
        asks("abort_asked_below_the_range", "header", "abort-request: 199"),
        asks("abort_asked_as_200", "header", "abort-request: 200"),
        asks("abort_asked_in_words", "header", "abort-request: all"),
        asks("abort_asked_for_grpc", "header", "abort-grpc-request: 5"),
        asks("abort_asked_for_grpc_out_of_range", "header", "abort-grpc-request: 500"),
        asks("abort_asked_for_both", "header", "abort-request: 404, abort-grpc-request: 5"),
        asks("delay_asked", "header", "delay-request: 20"),
        asks("delay_asked_as_0", "header", "delay-request: 0"),
        asks("delay_asked_in_words", "header", "delay-request: long"),
        asks("delay_asked_with_less", "header", "delay-request: 20, delay-request-percentage: 0"),
        asks("delay_and_abort_asked", "header", "delay-request: 20, abort-request: 404"),
        asks("abort_asked_of_none", "some", "abort-request: 404"),
        asks("abort_asked_of_none_with_all", "some", "abort-request: 404, abort-request-percentage: 100"),
        Case::get("no_share_is_none", "none", "/", ""),
        Case::get("delayed", "delay", "/", ""),
        Case::send("delayed_post", "delay", "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 3\r\n\r\nabc"),
        Case::get("delayed_and_aborted", "both", "/", ""),
        Case::get("delayed_by_less_than_a_millisecond", "tiny", "/", ""),
        Case::get("too_many", "full", "/", ""),
        Case::get("another_node", "nodes", "/", "x-envoy-downstream-service-node: three\r\n"),
        Case::get("no_node", "nodes", "/", ""),
        Case::get("one_of_the_nodes", "nodes", "/", "x-envoy-downstream-service-node: two\r\n"),
        Case::get("header_matches", "headers", "/", "x-fault: yes\r\n"),
        Case::get("header_does_not_match", "headers", "/", "x-fault: no\r\n"),
        caller("callers_are_counted", "abort", "front"),
        caller("callers_with_dots_are_counted", "delay", "front.of.house"),
        caller("callers_are_not_counted", "quiet", "front"),
        Case::get("runtime_says_all", "runtime", "/", ""),
        caller("runtime_of_all_is_not_for_a_caller", "runtime", "front"),
        Case::get("runtime_says_none", "runtime_none", "/", ""),
        Case::get("runtime_says_another_grpc_status", "runtime_grpc", "/", GRPC),
        Case::get("runtime_says_another_delay", "runtime_delay", "/", ""),
        Case::get("runtime_says_no_faults", "runtime_full", "/", ""),
        caller("runtime_of_a_caller_says_none", "abort", "never"),
        caller("runtime_of_a_caller_says_all", "callers", "always"),
        caller("runtime_of_a_caller_says_another_status", "abort", "teapot"),
        caller("runtime_of_a_caller_says_another_grpc_status", "grpc", "nought"),
        caller("runtime_of_a_caller_or_of_all_says_the_status", "runtime", "always"),
        caller("runtime_of_a_caller_delays", "callers", "slow"),
        Case::get("slow_response", "rate", "/", "").raw(long()),
        Case::get("slow_response_in_chunks", "rate", "/", "").raw(chunked),
        Case::get("slow_response_without_a_body", "rate", "/", "").raw("HTTP/1.1 204 No Content\r\n\r\n"),
        asks("rate_asked", "rate_header", "throughput-response: 16").raw(long()),
        asks(
            "rate_asked_with_less",
            "rate_header",
            "throughput-response: 16, throughput-response-percentage: 0",
        )
        .raw(long()),
        asks("rate_asked_as_0", "rate_header", "throughput-response: 0").raw(long()),
        Case::get("slow_response_of_two", "twice", "/", "").raw(long()),
        Case::get("slow_response_of_two_in_chunks", "twice", "/", "").raw(chunked),
        Case::h2("slow_response_over_http2", "rate", [H2Request::get("http://test/")]).raw(long()),
        Case::get("route_aborts", "routes", "/abort", ""),
        Case::get("route_without_faults", "routes", "/nothing", ""),
        Case::get("route_to_another_cluster", "routes", "/other-cluster", ""),
        Case::get("route_to_this_cluster", "routes", "/this-cluster", ""),
        Case::get("route_of_its_own_says_nothing", "routes", "/", ""),
    ]
}
