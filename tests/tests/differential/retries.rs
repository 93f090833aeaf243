//! Requests that are sent again: for what, how often, with which headers, and what is counted.

use std::time::Duration;

use integration::config::{H2_CLUSTER, HttpListener, cluster, indent};
use integration::differential::{Case, Do, H2Request, Setup};
use integration::upstream::h2::H2Reply;
use integration::upstream::{Reply, Step};

/// Why the time that is left differs where another host was tried first.
const LEFT: &str = "Another host was tried first, which takes a millisecond or none.";

const ROUTES: &str = r#"
- match: {prefix: /plain}
  route: {cluster: up}
- match: {prefix: /5xx}
  route: {cluster: up, retry_policy: {retry_on: 5xx}}
- match: {prefix: /twice}
  route: {cluster: up, retry_policy: {retry_on: 5xx, num_retries: 2}}
- match: {prefix: /never}
  route: {cluster: up, retry_policy: {retry_on: 5xx, num_retries: 0}}
- match: {prefix: /nothing}
  route: {cluster: up, retry_policy: {num_retries: 2}}
- match: {prefix: /gateway}
  route: {cluster: up, retry_policy: {retry_on: gateway-error}}
- match: {prefix: /4xx}
  route: {cluster: up, retry_policy: {retry_on: retriable-4xx}}
- match: {prefix: /codes}
  route: {cluster: up, retry_policy: {retry_on: retriable-status-codes, retriable_status_codes: [404, 425]}}
- match: {prefix: /headers}
  route: {cluster: up, retry_policy: {retry_on: retriable-headers, retriable_headers: [{name: x-again, string_match: {exact: "1"}}]}}
- match: {prefix: /request}
  route: {cluster: up, retry_policy: {retry_on: 5xx, retriable_request_headers: [{name: x-may}]}}
- match: {prefix: /reset-before}
  route: {cluster: up, retry_policy: {retry_on: reset-before-request}}
- match: {prefix: /reset}
  route: {cluster: up, retry_policy: {retry_on: reset}}
- match: {prefix: /connect}
  route: {cluster: refused, retry_policy: {retry_on: connect-failure, num_retries: 2}}
- match: {prefix: /refused-before}
  route: {cluster: refused, retry_policy: {retry_on: reset-before-request}}
- match: {prefix: /refused-unasked}
  route: {cluster: refused, retry_policy: {retry_on: retriable-4xx}}
- match: {prefix: /limited}
  route: {cluster: up, retry_policy: {retry_on: "5xx,envoy-ratelimited"}}
- match: {prefix: /grpc}
  route: {cluster: up, retry_policy: {retry_on: "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable"}}
- match: {prefix: /asked-pause}
  route: {cluster: up, retry_policy: {retry_on: 5xx, rate_limited_retry_back_off: {reset_headers: [{name: retry-after}, {name: x-reset, format: UNIX_TIMESTAMP}], max_interval: 1s}}}
- match: {prefix: /try}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_timeout: 0.15s}}
- match: {prefix: /slow-try}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: connect-failure, per_try_timeout: 0.15s}}
- match: {prefix: /bare-try}
  route: {cluster: up, timeout: 5s, retry_policy: {per_try_timeout: 0.15s}}
- match: {prefix: /long-try}
  route: {cluster: up, timeout: 0.2s, retry_policy: {retry_on: 5xx, per_try_timeout: 1s}}
- match: {prefix: /idle-try}
  route: {cluster: up, timeout: 5s, retry_policy: {retry_on: 5xx, per_try_idle_timeout: 0.15s}}
- match: {prefix: /short-stream}
  route: {cluster: short_streams, timeout: 5s, retry_policy: {retry_on: 5xx}}
- match: {prefix: /all-time}
  route: {cluster: up, timeout: 0.3s, retry_policy: {retry_on: 5xx, num_retries: 5, retry_back_off: {base_interval: 3600s}}}
- match: {prefix: /open}
  route: {cluster: no_retries, retry_policy: {retry_on: 5xx}}
- match: {prefix: /budget}
  route: {cluster: budget, retry_policy: {retry_on: 5xx, num_retries: 2}}
- match: {prefix: /no-budget}
  route: {cluster: no_budget, retry_policy: {retry_on: 5xx, num_retries: 2}}
- match: {prefix: /other-priority}
  route: {cluster: priorities, retry_policy: {retry_on: connect-failure, retry_priority: {name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 1}}}}
- match: {prefix: /later-priority}
  route: {cluster: priorities, retry_policy: {retry_on: connect-failure, num_retries: 3, retry_priority: {name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 2}}}}
- match: {prefix: /no-other-host}
  route: {cluster: priorities, retry_policy: {retry_on: connect-failure, host_selection_retry_max_attempts: 3, retry_host_predicate: [{name: h, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}}
- match: {prefix: /of-cluster}
  route: {cluster: own_policy, retry_policy: {retry_on: retriable-4xx}}
- match: {prefix: /cluster-alone}
  route: {cluster: own_policy}
- match: {prefix: /small}
  route: {cluster: up, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.5s}}}
  per_request_buffer_limit_bytes: 8
- match: {prefix: /body-limit}
  route: {cluster: up, retry_policy: {retry_on: 5xx}}
  request_body_buffer_limit: 8
- match: {prefix: /long-pause}
  route: {cluster: up, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 3600s, max_interval: 3600s}}}
  request_body_buffer_limit: 16
- match: {prefix: /typed}
  route: {cluster: up, retry_policy_typed_config: {"@type": type.googleapis.com/envoy.config.route.v3.RetryPolicy, retry_on: 5xx}}
- match: {prefix: /adds}
  route: {cluster: up}
  request_headers_to_add: [{header: {key: x-envoy-retry-on, value: 5xx}}, {header: {key: x-envoy-max-retries, value: "2"}}]
- match: {prefix: /named}
  name: named
  stat_prefix: named
  route: {cluster: up, retry_policy: {retry_on: 5xx}}
- match: {prefix: /h2}
  route: {cluster: h2up, retry_policy: {retry_on: "5xx,refused-stream"}}
- match: {prefix: /refused-stream}
  route: {cluster: h2up, retry_policy: {retry_on: refused-stream}}
- match: {prefix: /rewritten}
  route: {cluster: up, prefix_rewrite: /new, host_rewrite_literal: other, retry_policy: {retry_on: 5xx}}
  request_headers_to_add: [{header: {key: x-added, value: "%UPSTREAM_REQUEST_ATTEMPT_COUNT%"}}]
- match: {prefix: /}
  route: {cluster: up}
"#;

fn listener(name: &str, options: &str, virtual_host: &str) -> String {
    let routes = indent(ROUTES.trim_start_matches('\n'), 2);
    let hosts = format!("- name: all\n  domains: [\"*\"]\n{}  routes:\n{routes}", indent(virtual_host, 2));
    HttpListener::with_virtual_hosts(name, &hosts).options(options).yaml()
}

/// Every client counts as internal.
const INTERNAL: &str = "use_remote_address: true\ninternal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}";

pub(crate) fn setup() -> Setup {
    let breakers = |thresholds: &str| format!("circuit_breakers: {{thresholds: [{thresholds}]}}\n");
    let http1 = H2_CLUSTER.replace("http2_protocol_options", "http_protocol_options");
    let own = format!("{http1}    retry_policy: {{retry_on: 5xx}}\n");
    let short = format!("{http1}    common_http_protocol_options: {{max_stream_duration: 0.15s}}\n");
    Setup::with_clusters(
        "retries",
        [
            listener("plain", "", ""),
            listener("external", "use_remote_address: true", ""),
            listener("internal", INTERNAL, ""),
            listener(
                "counted",
                INTERNAL,
                "include_request_attempt_count: true\ninclude_attempt_count_in_response: true\ninclude_is_timeout_retry_header: true\n",
            ),
            listener("of_host", "", "retry_policy: {retry_on: 5xx, num_retries: 3}\n"),
            listener("host_limit", "", "retry_policy: {retry_on: 5xx}\nrequest_body_buffer_limit: 8\n"),
            listener(
                "virtual",
                "",
                "virtual_clusters: [{name: v, headers: [{name: \":method\", string_match: {exact: GET}}]}]\n",
            ),
        ],
        [
            cluster("short_streams", "up", &short),
            cluster("no_retries", "up", &breakers("{max_retries: 0}")),
            cluster("budget", "up", &breakers("{max_retries: 0, retry_budget: {}}")),
            cluster(
                "no_budget",
                "up",
                &breakers("{retry_budget: {budget_percent: {value: 0}, min_retry_concurrency: 0}}"),
            ),
            cluster("own_policy", "up", &own),
            priorities(),
        ],
    )
}

/// A host that refuses connections, and another for when it is not available.
fn priorities() -> String {
    let at = |priority: u32, port: &str| {
        format!(
            "    - priority: {priority}\n      lb_endpoints:\n      - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{{port}}}}}}}}}}}\n"
        )
    };
    format!(
        "- name: priorities\n  type: STATIC\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: priorities\n    endpoints:\n{}{}",
        at(0, "refused"),
        at(1, "up")
    )
}

fn status(status: &str) -> Reply {
    Reply::raw(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n"))
}

fn with(status: &str, lines: &str) -> Reply {
    Reply::raw(format!("HTTP/1.1 {status}\r\n{lines}content-length: 0\r\n\r\n"))
}

fn hangs_up() -> Reply {
    Reply::steps([Step::Close])
}

fn stalls() -> Reply {
    Reply::steps([Step::Stall])
}

/// What is there in the log beyond what the client sees.
const NONE: &str = "";

pub(crate) fn cases() -> Vec<Case> {
    let get = |name, target: &str| Case::get(name, "plain", target, NONE);
    vec![
        get("no policy", "/plain").reply(status("503 X")),
        get("once again", "/5xx").reply(status("503 X")),
        get("once again, with a body that nobody gets", "/5xx")
            .reply(Reply::raw("HTTP/1.1 500 X\r\ncontent-length: 5\r\n\r\nhello")),
        get("not for less", "/5xx").reply(status("404 X")),
        get("limit reached", "/5xx").reply(status("503 X")).reply(status("502 X")),
        get("limit of two", "/twice").reply(status("503 X")).reply(status("500 X")).reply(status("503 X")),
        get("success after two", "/twice").reply(status("503 X")).reply(status("500 X")),
        get("other failure after a retry", "/twice").reply(status("503 X")).reply(status("404 X")),
        get("no retries allowed", "/never").reply(status("503 X")),
        get("no condition", "/nothing").reply(status("503 X")),
        get("gateway error", "/gateway").reply(status("502 X")),
        get("no gateway error", "/gateway").reply(status("500 X")),
        get("conflict", "/4xx").reply(status("409 X")),
        get("no conflict", "/4xx").reply(status("404 X")),
        get("status code", "/codes").reply(status("404 X")),
        get("other status code", "/codes").reply(status("503 X")),
        get("too early", "/codes").reply(status("425 X")),
        Case::get("too early, early data", "plain", "/codes", "early-data: 1\r\n").reply(status("425 X")),
        get("header", "/headers").reply(with("200 OK", "x-again: 1\r\n")),
        get("header of another value", "/headers").reply(with("200 OK", "x-again: 2\r\n")),
        Case::get("request header", "plain", "/request", "x-may: 1\r\n").reply(status("503 X")),
        get("no request header", "/request").reply(status("503 X")),
        get("limited by another proxy", "/5xx").reply(with("503 X", "x-envoy-ratelimited: true\r\n")),
        get("limited by another proxy, asked for", "/limited")
            .reply(with("429 X", "x-envoy-ratelimited: true\r\n")),
        get("overloaded", "/5xx").reply(with("503 X", "x-envoy-overloaded: true\r\n")),
        get("typed policy", "/typed").reply(status("503 X")),
        get("statistics of the route", "/named").reply(status("503 X")),
        get("statistics of the route, limit", "/named").reply(status("503 X")).reply(status("503 X")),
        Case::get("statistics of the virtual cluster", "virtual", "/5xx", NONE).reply(status("503 X")),
        Case::get("statistics of the virtual cluster, limit", "virtual", "/5xx", NONE)
            .reply(status("503 X"))
            .reply(status("503 X")),
        get("rewritten", "/rewritten/x").reply(status("503 X")),
        Case::send("HEAD", "plain", "HEAD /5xx HTTP/1.1\r\nhost: test\r\n\r\n").reply(status("503 X")),
        get("interim response", "/5xx")
            .reply(Reply::raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")),
    ]
    .into_iter()
    .chain(reset_cases())
    .chain(grpc_cases())
    .chain(header_cases())
    .chain(time_cases())
    .chain(breaker_cases())
    .chain(body_cases())
    .chain(h2_cases())
    .collect()
}

fn reset_cases() -> Vec<Case> {
    let get = |name, target: &str| Case::get(name, "plain", target, NONE);
    let half = || Reply::raw_then_close("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
    vec![
        get("reset", "/reset").reply(hangs_up()),
        get("reset twice", "/reset").reply(hangs_up()).reply(hangs_up()),
        get("reset counts as 5xx", "/5xx").reply(hangs_up()),
        get("reset counts as a gateway error", "/gateway").reply(hangs_up()),
        get("reset does not count", "/4xx").reply(hangs_up()),
        get("reset, no policy", "/plain").reply(hangs_up()),
        get("reset, then a failure", "/5xx").reply(hangs_up()).reply(status("503 X")),
        get("failure, then a reset", "/5xx").reply(status("503 X")).reply(hangs_up()),
        get("reset after the request", "/reset-before").reply(hangs_up()),
        get("reset by RST", "/reset").reply(Reply::steps([Step::Reset])),
        get("nonsense", "/reset").reply(Reply::raw_then_close("nonsense\r\n\r\n")),
        get("nonsense twice", "/reset")
            .reply(Reply::raw_then_close("nonsense\r\n\r\n"))
            .reply(Reply::raw_then_close("nonsense\r\n\r\n")),
        get("half a response", "/reset").reply(half()),
        get("half a response, 5xx", "/5xx")
            .reply(Reply::raw_then_close("HTTP/1.1 503 X\r\ncontent-length: 9\r\n\r\nabc")),
        get("half a head", "/reset").reply(Reply::raw_then_close("HTTP/1.1 200 OK\r\nconte")),
        get("connect failure", "/connect"),
        get("connect failure, before the request", "/refused-before"),
        get("connect failure, not asked for", "/refused-unasked"),
    ]
}

fn grpc_cases() -> Vec<Case> {
    let grpc = |name, code: &str| {
        Case::get(name, "plain", "/grpc", "content-type: application/grpc\r\n")
            .reply(with("200 OK", &format!("content-type: application/grpc\r\ngrpc-status: {code}\r\n")))
    };
    vec![
        grpc("gRPC ok", "0"),
        grpc("gRPC cancelled", "1"),
        grpc("gRPC unknown", "2"),
        grpc("gRPC deadline exceeded", "4"),
        grpc("gRPC resource exhausted", "8"),
        grpc("gRPC internal", "13"),
        grpc("gRPC unavailable", "14"),
        grpc("gRPC of no number", "x"),
        Case::get("gRPC retry of 503", "plain", "/5xx", "content-type: application/grpc\r\n")
            .reply(status("503 X"))
            .reply(status("503 X")),
        Case::get("gRPC reset", "plain", "/5xx", "content-type: application/grpc\r\n")
            .reply(hangs_up())
            .reply(hangs_up()),
    ]
}

fn header_cases() -> Vec<Case> {
    let asks =
        |name, listener, lines: &str| Case::get(name, listener, "/plain", lines).reply(status("503 X"));
    let five = "x-envoy-retry-on: 5xx\r\n";
    vec![
        asks("header of an internal request", "internal", five),
        asks("header of an external request", "external", five),
        asks("header where nobody decides who is internal", "plain", five),
        asks("header with spaces", "internal", "x-envoy-retry-on: reset , 5xx\r\n"),
        asks("header with nonsense", "internal", "x-envoy-retry-on: nonsense\r\n"),
        asks("header of gRPC", "internal", "x-envoy-retry-grpc-on: unavailable\r\n"),
        Case::get(
            "header of gRPC, unavailable",
            "internal",
            "/plain",
            "x-envoy-retry-grpc-on: unavailable\r\n",
        )
        .reply(with("200 OK", "grpc-status: 14\r\n")),
        Case::get("header of HTTP names gRPC", "internal", "/plain", "x-envoy-retry-on: unavailable\r\n")
            .reply(with("200 OK", "grpc-status: 14\r\n")),
        asks("header with a limit", "internal", &format!("{five}x-envoy-max-retries: 2\r\n"))
            .reply(status("503 X")),
        asks("header with a limit of none", "internal", &format!("{five}x-envoy-max-retries: 0\r\n")),
        asks("header with nonsense for a limit", "internal", &format!("{five}x-envoy-max-retries: x\r\n")),
        asks("limit alone", "internal", "x-envoy-max-retries: 2\r\n"),
        Case::get("limit over the policy's", "internal", "/5xx", "x-envoy-max-retries: 2\r\n")
            .reply(status("503 X"))
            .reply(status("503 X")),
        Case::get("header beside the policy", "internal", "/4xx", five).reply(status("503 X")),
        Case::get(
            "status codes",
            "internal",
            "/plain",
            "x-envoy-retry-on: retriable-status-codes\r\nx-envoy-retriable-status-codes: 404, 418\r\n",
        )
        .reply(status("418 X")),
        Case::get(
            "header names",
            "internal",
            "/plain",
            "x-envoy-retry-on: retriable-headers\r\nx-envoy-retriable-header-names: X-Other, X-Again\r\n",
        )
        .reply(with("200 OK", "x-again: 0\r\n")),
        Case::get(
            "timeout of a try",
            "internal",
            "/plain",
            "x-envoy-retry-on: 5xx\r\nx-envoy-upstream-rq-per-try-timeout-ms: 150\r\n",
        )
        .reply(stalls()),
        Case::get(
            "timeout of a try alone",
            "internal",
            "/plain",
            "x-envoy-upstream-rq-per-try-timeout-ms: 150\r\n",
        )
        .reply(stalls()),
        Case::get("added by the route", "plain", "/adds", NONE).reply(status("503 X")).reply(status("503 X")),
        Case::get("attempts counted", "counted", "/twice", NONE)
            .reply(status("503 X"))
            .reply(status("503 X")),
        Case::get("attempts counted, none of them again", "counted", "/twice", NONE),
        Case::get("attempts counted, limit", "counted", "/5xx", NONE)
            .reply(status("503 X"))
            .reply(status("503 X")),
        Case::get("attempts counted, resets", "counted", "/5xx", NONE).reply(hangs_up()).reply(hangs_up()),
        Case::get("attempts counted, timeout", "counted", "/try", NONE).reply(stalls()),
        Case::get("attempts counted, timeouts", "counted", "/try", NONE).reply(stalls()).reply(stalls()),
        Case::get("attempts given by the client", "counted", "/5xx", "x-envoy-attempt-count: 7\r\n")
            .reply(status("503 X")),
        Case::get("policy of the virtual host", "of_host", "/plain", NONE)
            .reply(status("503 X"))
            .reply(status("503 X"))
            .reply(status("503 X")),
        Case::get("policy of the route before the virtual host's", "of_host", "/4xx", NONE)
            .reply(status("503 X")),
    ]
}

fn time_cases() -> Vec<Case> {
    let get = |name, target: &str| Case::get(name, "plain", target, NONE);
    let slow_body = || {
        Reply::steps([
            Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec()),
            Step::Pause(Duration::from_millis(400)),
            Step::Send(b"defghi".to_vec()),
        ])
    };
    let stuck_body = || {
        Reply::steps([Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc".to_vec()), Step::Stall])
    };
    vec![
        get("try timed out", "/try").reply(stalls()),
        get("try timed out twice", "/try").reply(stalls()).reply(stalls()),
        get("try timed out, not asked for", "/slow-try").reply(stalls()),
        get("try timed out, no condition", "/bare-try").reply(stalls()),
        get("timeout of all before that of a try", "/long-try").reply(stalls()),
        get("response begun in time", "/try").reply(slow_body()),
        get("try idle", "/idle-try").reply(stalls()),
        get("try idle twice", "/idle-try").reply(stalls()).reply(stalls()),
        get("try idle inside the response", "/idle-try").reply(stuck_body()),
        get("stream of a host that is too long", "/short-stream").reply(stalls()),
        get("streams of hosts that are too long", "/short-stream").reply(stalls()).reply(stalls()),
        get("stream of a host that is too long inside the response", "/short-stream").reply(stuck_body()),
        Case::get("stream of a host that is too long, counted", "counted", "/short-stream", NONE)
            .reply(stalls()),
        get("all time used in a pause", "/all-time").reply(status("503 X")),
        get("a pause that is asked for", "/asked-pause").reply(with("503 X", "retry-after: 1\r\n")),
        get("a pause that is too long", "/asked-pause").reply(with("503 X", "retry-after: 100\r\n")),
        get("a pause of no number", "/asked-pause").reply(with("503 X", "retry-after: soon\r\n")),
        Case::steps(
            "client leaves in a pause",
            "plain",
            [
                Do::Send(b"GET /long-pause HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()),
                Do::AwaitUpstream(1),
                Do::Pause(Duration::from_millis(100)),
                Do::Leave,
            ],
        )
        .reply(status("503 X")),
    ]
}

fn breaker_cases() -> Vec<Case> {
    let get = |name, target: &str| Case::get(name, "plain", target, NONE);
    vec![
        get("breaker open", "/open").reply(status("503 X")),
        get("breaker open, reset", "/open").reply(hangs_up()),
        get("budget", "/budget").reply(status("503 X")).reply(status("503 X")),
        get("no budget", "/no-budget").reply(status("503 X")),
        get("another priority", "/other-priority")
            .varies("upstream[0].header.x-envoy-expected-rq-timeout-ms", LEFT),
        get("another priority after two tries", "/later-priority")
            .varies("upstream[0].header.x-envoy-expected-rq-timeout-ms", LEFT),
        get("no other host", "/no-other-host"),
        get("policy of the cluster", "/cluster-alone").reply(status("503 X")),
        get("policies of cluster and route, cluster's", "/of-cluster").reply(status("503 X")),
        get("policies of cluster and route, route's", "/of-cluster").reply(status("409 X")),
    ]
}

fn body_cases() -> Vec<Case> {
    let post = |name, listener, target: &str, body: &str| {
        let length = body.len();
        Case::send(
            name,
            listener,
            format!("POST {target} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{body}"),
        )
    };
    let chunked = "POST /5xx HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let long = "x".repeat(100_000);
    let early = |text: &str| {
        Reply::early([
            Step::Send(format!("HTTP/1.1 {text}\r\ncontent-length: 0\r\n\r\n").into_bytes()),
            Step::ReadBody,
        ])
    };
    vec![
        post("body", "plain", "/5xx", "hello").reply(status("503 X")),
        post("long body", "plain", "/5xx", &long).reply(status("503 X")),
        Case::send("chunked body", "plain", chunked).reply(status("503 X")),
        post("body of exactly the limit", "plain", "/small", "12345678").reply(status("503 X")),
        post("body over the limit", "plain", "/small", "123456789").reply(status("503 X")),
        post("body of exactly the other limit", "plain", "/body-limit", "12345678").reply(status("503 X")),
        post("body over the limit of the virtual host", "host_limit", "/5xx", "123456789")
            .reply(status("503 X")),
        post("body, connect failure", "plain", "/connect", "hello"),
        post("body, reset", "plain", "/5xx", "hello").reply(hangs_up()),
        Case::steps(
            "response before the body",
            "plain",
            [
                Do::Send(b"POST /5xx HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhello".to_vec()),
                Do::AwaitUpstream(2),
                Do::Send(b"world".to_vec()),
                Do::Response("POST"),
            ],
        )
        .reply(early("503 X")),
        Case::steps(
            "body grows too long in a pause",
            "plain",
            [
                Do::Send(
                    b"POST /long-pause HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\nhello".to_vec(),
                ),
                Do::AwaitUpstream(1),
                Do::Pause(Duration::from_millis(150)),
                Do::Send(b"123456789012".to_vec()),
                Do::Response("POST"),
            ],
        )
        .reply(early("503 X")),
    ]
}

fn h2_cases() -> Vec<Case> {
    let once = |name, request| Case::h2(name, "plain", [request]);
    let get = |target| H2Request::get(target);
    vec![
        once("HTTP/2 client", get("http://test/5xx")).reply(status("503 X")),
        once(
            "HTTP/2 client, body and trailers",
            H2Request::post("http://test/h2", "hello").trailer("x-end", "1"),
        )
        .h2_reply(H2Reply::new(503, "")),
        once("HTTP/2 host", get("http://test/h2")).h2_reply(H2Reply::new(503, "")),
        once("HTTP/2 host with a body", get("http://test/h2")).h2_reply(H2Reply::new(503, "busy")).differs(
            "counter cluster.h2up.http2.tx_reset",
            "A stream whose end has come needs no reset, read or not; Envoy resets what it has not read yet.",
        ),
        once("HTTP/2 host, limit", get("http://test/h2"))
            .h2_reply(H2Reply::new(503, ""))
            .h2_reply(H2Reply::new(502, "")),
        once("HTTP/2 host refuses", get("http://test/refused-stream")).h2_reply(H2Reply::refuse(7)),
        once("HTTP/2 host refuses twice", get("http://test/refused-stream"))
            .h2_reply(H2Reply::refuse(7))
            .h2_reply(H2Reply::refuse(7)),
        once("HTTP/2 host resets", get("http://test/h2")).h2_reply(H2Reply::refuse(2)),
        once("HTTP/2 host resets, not asked for", get("http://test/refused-stream"))
            .h2_reply(H2Reply::refuse(2)),
    ]
}
