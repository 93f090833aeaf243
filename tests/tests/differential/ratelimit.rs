//! Requests that a service counts (`envoy.filters.http.ratelimit`): what it is asked, and what comes of its answer. The HTTP/2 upstream of
//! the rig is the service. What is not counted (`/`) is what the rig itself asks for.

use integration::config::{HttpListener, cluster, file_log, indent};
use integration::differential::{Case, Do, H2Request, Setup};
use integration::upstream::h2::H2Reply;
use xds_api::envoy::config::core::v3::HeaderValue;
use xds_api::envoy::service::ratelimit::v3::RateLimitResponse;
use xds_api::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use xds_api::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, Quota, RateLimit};

use crate::ext_authz::{answer, metadata};

const LOG: &str = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|code=%RESPONSE_CODE%\
|details=%RESPONSE_CODE_DETAILS%|flags=%RESPONSE_FLAGS%|path=%REQ(:PATH)%|route=%ROUTE_NAME%\
|key=%DYNAMIC_METADATA(envoy.filters.http.ratelimit)%|own=%DYNAMIC_METADATA(of.mine)%|grpc=%GRPC_STATUS%\\n\"}}";

const GIVEN_UP: &str = "a connection that nobody waits for any more is given up; Envoy goes on with it";

const SENT_AGAIN: &str =
    "A call that the service refused was not worked on and is sent once more, as a request is.";

const GONE_FIRST: &str = "A host that says GOAWAY is told GOAWAY, too, unless it is seen before that it has closed the connection.";
const GONE: &str = "A host that says GOAWAY and closes the connection behind its last answer broke no rule: the \
connection counts as one that the host ended, with the call on it whose answer is not read yet. Envoy counts an error of protocol.";

const OFF: &str = "typed_per_filter_config: {envoy.filters.http.ratelimit: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}\n";

fn filter(config: &str) -> String {
    format!(
        "- name: envoy.filters.http.ratelimit\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit\n{}",
        indent(config, 4)
    )
}

fn service(cluster: &str) -> String {
    format!(
        "rate_limit_service: {{transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: {cluster}}}}}}}\n"
    )
}

fn per_route(config: &str) -> String {
    format!(
        "typed_per_filter_config: {{envoy.filters.http.ratelimit: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute, {config}}}}}\n"
    )
}

fn key(value: &str) -> String {
    format!("actions: [{{generic_key: {{descriptor_value: {value}}}}}]")
}

/// What the locality of the host says.
fn place(key: &str, more: &str) -> String {
    format!(
        "actions: [{{metadata: {{descriptor_key: place, source: CLUSTER_LOCALITY_ENTRY, metadata_key: {{key: of.place, path: [{{key: {key}}}]}}, default_value: nowhere}}}}]{more}"
    )
}

/// What the routes of all listeners say about rates.
fn routes() -> String {
    let to = |path: &str, limits: &str, more: &str| {
        format!(
            "- name: to-{path}\n  match: {{prefix: /{path}}}\n  route: {{cluster: up, {limits}}}\n{}",
            indent(more, 2)
        )
    };
    let limits = |all: &[String]| {
        let all: Vec<String> = all.iter().map(|one| format!("{{{one}}}")).collect();
        format!("rate_limits: [{}]", all.join(", "))
    };
    let one = limits(&[key("one")]);
    let who = "actions: [{request_headers: {header_name: x-who, descriptor_key: who}}]";
    let with = |more: &str| limits(&[format!("{}, {more}", key("one"))]);
    let done = limits(&[format!("{}, apply_on_stream_done: true", key("done"))]);
    [
        format!("- name: plain\n  match: {{path: /}}\n  route: {{cluster: up}}\n{}", indent(OFF, 2)),
        to("one", &one, ""),
        to(
            "two",
            &limits(&[
                who.to_owned(),
                "actions: [{source_cluster: {}}, {destination_cluster: {}}]".to_owned(),
            ]),
            "",
        ),
        to("who", &limits(&[who.to_owned()]), ""),
        to("bare", "idle_timeout: 60s", ""),
        to("both", &format!("{one}, include_vh_rate_limits: true"), ""),
        to("included", &one, &per_route("vh_rate_limits: INCLUDE")),
        to("ignored", "idle_timeout: 60s", &per_route("vh_rate_limits: IGNORE")),
        to("overridden", &one, &per_route("vh_rate_limits: OVERRIDE")),
        to("own", &one, &per_route(&format!("domain: theirs, rate_limits: [{{{}}}]", key("own")))),
        to("renamed", &one, &per_route("domain: theirs")),
        to(
            "staged",
            &limits(&[format!("stage: 1, {}", key("staged")), format!("stage: 0, {}", key("zero"))]),
            "",
        ),
        to(
            "switched",
            &limits(&[
                format!("disable_key: k-off, {}", key("k-off")),
                format!("disable_key: k-on, {}", key("k-on")),
            ]),
            "",
        ),
        to("fixed", &with("limit: {rate_limit: {requests_per_unit: 42, unit: HOUR}}"), ""),
        to(
            "limited",
            &with("limit: {dynamic_metadata: {metadata_key: {key: of.mine, path: [{key: limit}]}}}"),
            "",
        ),
        to("done", &done, ""),
        format!(
            "- name: to-place\n  match: {{prefix: /place}}\n  route: {{cluster: placed, {}}}\n",
            limits(&[place("zone", ""), place("zone", ", apply_on_stream_done: true")])
        ),
        format!(
            "- name: to-nothing-said\n  match: {{prefix: /unplaced}}\n  route: {{cluster: up, {}}}\n",
            limits(&[place("zone", ", apply_on_stream_done: true")])
        ),
        to("ends", &limits(&[key("one"), format!("{}, apply_on_stream_done: true", key("done"))]), ""),
        to("shown", &with("x_ratelimit_option: DRAFT_VERSION_03"), ""),
        to("hidden", &with("x_ratelimit_option: \"OFF\""), ""),
        to(
            "mixed",
            &limits(&[key("one"), format!("x_ratelimit_option: DRAFT_VERSION_03, {}", key("two"))]),
            "",
        ),
        to("half", &limits(&[key("one"), format!("x_ratelimit_option: \"OFF\", {}", key("two"))]), ""),
        format!("- name: gone\n  match: {{prefix: /gone}}\n  route: {{cluster: nowhere, {one}}}\n"),
        "- name: direct\n  match: {prefix: /direct}\n  direct_response: {status: 202}\n".to_owned(),
    ]
    .concat()
}

fn http_listener(name: &str, host: &str, filters: &str) -> HttpListener {
    let virtual_hosts =
        format!("- name: all\n  domains: [\"*\"]\n{}  routes:\n{}\n", indent(host, 2), indent(&routes(), 2));
    HttpListener::with_virtual_hosts(name, &virtual_hosts)
        .route_config("validate_clusters: false")
        .filters(filters)
        .logs(&file_log(LOG))
}

fn listener_with(name: &str, host: &str, filters: &str) -> String {
    http_listener(name, host, filters).yaml()
}

/// A listener that knows who is inside.
fn edge(name: &str, more: &str) -> String {
    let options = "use_remote_address: true\ninternal_address_config: {cidr_ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}\n";
    http_listener(name, "", &patient(more)).options(options).yaml()
}

/// A filter that waits for long.
fn patient(more: &str) -> String {
    filter(&format!("domain: here\ntimeout: 5s\n{}{more}", service("h2up")))
}

fn listener(name: &str, more: &str) -> String {
    listener_with(name, "", &patient(more))
}

fn set_state(value: &str) -> String {
    format!(
        "- name: envoy.filters.http.set_filter_state\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config\n    on_request_headers:\n    - {{object_key: envoy.ratelimit.hits_addend, format_string: {{text_format_source: {{inline_string: \"{value}\"}}}}}}\n"
    )
}

pub(crate) fn setup() -> Setup {
    let host = format!("rate_limits: [{{{}}}]\n", key("host"));
    let with_host = |name: &str, more: &str| listener_with(name, &host, &patient(more));
    let other = |name: &str, service: &str, more: &str| {
        listener_with(name, "", &filter(&format!("domain: here\n{service}{more}")))
    };
    let deny = "failure_mode_deny: true\n";
    let tells = "enable_x_ratelimit_headers: DRAFT_VERSION_03\n";
    let headers = "response_headers_to_add:\n- header: {key: x-why, value: \"%REQ(x-who)%\"}\n- header: {key: x-why, value: more}\n- header: {key: x-service, value: ours}\n  append_action: OVERWRITE_IF_EXISTS_OR_ADD\n";
    let slow = "rate_limit_service: {transport_api_version: V3, grpc_service: {timeout: 9s, envoy_grpc: {cluster_name: h2up, authority: limits.example}, initial_metadata: [{key: x-meta, value: \"of %PROTOCOL%\"}]}}\n";
    let again = "rate_limit_service: {transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: h2up}, retry_policy: {retry_on: unavailable, num_retries: 1, retry_back_off: {base_interval: 0.001s, max_interval: 4s}}}}\ntimeout: 5s\n";
    let listeners = [
        listener("plain", ""),
        listener("denies", deny),
        listener("denies_oddly", &format!("{deny}status_on_error: {{code: 503}}\n")),
        listener("denies_wrongly", &format!("{deny}status_on_error: {{code: 200}}\n")),
        listener(
            "denies_none",
            &format!("{deny}failure_mode_deny_percent: {{default_value: {{numerator: 0}}}}\n"),
        ),
        listener("denies_all", "failure_mode_deny_percent: {default_value: {numerator: 100}}\n"),
        listener("unavailable", "rate_limited_status: {code: 503}\n"),
        listener("wrongly", "rate_limited_status: {code: 200}\n"),
        listener("exhausted", "rate_limited_as_resource_exhausted: true\n"),
        listener("tells", tells),
        listener("tells_when", &format!("{tells}enable_retry_after_header: true\n")),
        listener("when", "enable_retry_after_header: true\n"),
        listener("quiet", "disable_x_envoy_ratelimited_header: true\n"),
        listener("adds", headers),
        listener("named", "stat_prefix: mine\n"),
        listener("never", "filter_enabled: {default_value: {numerator: 0}}\n"),
        listener(
            "shadow",
            &format!(
                "filter_enforced: {{default_value: {{numerator: 0}}}}\n{tells}{deny}{headers}enable_retry_after_header: true\n"
            ),
        ),
        listener("metadata", "metadata_namespace: of.mine\n"),
        edge("internal", "request_type: internal\n"),
        edge("external", "request_type: external\n"),
        edge("everyone", "request_type: both\n"),
        listener("outside", "request_type: internal\n"),
        listener("staged", "stage: 1\n"),
        listener(
            "filtered",
            &format!(
                "rate_limits:\n- {{{}}}\n- {{{}, hits_addend: {{number: 2}}}}\n- {{{}, apply_on_stream_done: true}}\n",
                key("of-filter"),
                key("more"),
                key("end")
            ),
        ),
        listener(
            "formatted",
            &format!(
                "rate_limits:\n- {{{}, hits_addend: {{format: \"%REQ(x-hits)%\"}}}}\n- {{{}, hits_addend: {{number: 3, is_negative_hits: true}}}}\n- {{{}, apply_on_stream_done: true, hits_addend: {{format: \"%BYTES_SENT%\"}}}}\n- {{{}, apply_on_stream_done: true, hits_addend: {{format: \"%RESPONSE_CODE%\"}}}}\n",
                key("said"),
                key("back"),
                key("size"),
                key("code")
            ),
        ),
        with_host("host", ""),
        listener_with("state", "", &format!("{}{}", set_state("%REQ(x-hits)%"), patient(""))),
        listener("denies_limited", &format!("{deny}rate_limited_status: {{code: 503}}\n")),
        listener(
            "denies_share",
            "failure_mode_deny_percent: {default_value: {numerator: 100}, runtime_key: deny.share}\n",
        ),
        other("gone", &service("refused"), &format!("timeout: 1s\n{deny}")),
        other("gone_open", &service("refused"), "timeout: 1s\n"),
        other(
            "gone_oddly",
            &service("refused"),
            &format!("timeout: 1s\n{deny}status_on_error: {{code: 503}}\n"),
        ),
        other("late", &service("blackhole"), deny),
        other("late_open", &service("blackhole"), ""),
        other("hasty", &service("h2up"), &format!("{deny}timeout: 0.2s\n")),
        other("hasty_open", &service("h2up"), "timeout: 0.2s\n"),
        other(
            "hasty_oddly",
            &service("h2up"),
            &format!(
                "{deny}timeout: 0.2s\nstatus_on_error: {{code: 504}}\nrate_limited_status: {{code: 503}}\n"
            ),
        ),
        other("slow", slow, "timeout: 5s\n"),
        other("again", again, deny),
        other("untimed", &service("h2up"), "timeout: 0s\n"),
    ];
    let placed = cluster("placed", "up", "").replace(
        "    - lb_endpoints:",
        "    - metadata: {filter_metadata: {of.place: {zone: east}}}\n      lb_endpoints:",
    );
    let mut setup =
        Setup::with_clusters("ratelimit", listeners, [placed]).with_node("{id: node, cluster: here}");
    setup.bootstrap.push_str(
        "\nlayered_runtime: {layers: [{name: static, static_layer: {ratelimit.k-off.http_filter_enabled: 0, ratelimit.k-on.http_filter_enabled: 100}}, {name: admin, admin_layer: {}}]}\n",
    );
    setup
}

fn response(code: Code) -> RateLimitResponse {
    RateLimitResponse { overall_code: code.into(), ..Default::default() }
}

fn says(code: Code) -> H2Reply {
    answer(&response(code))
}

fn ok() -> H2Reply {
    says(Code::Ok)
}

fn over() -> H2Reply {
    says(Code::OverLimit)
}

fn headers(all: &[(&str, &str)]) -> Vec<HeaderValue> {
    let one = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
        ..Default::default()
    };
    all.iter().map(one).collect()
}

fn status(code: Code, limit: Option<(u32, Unit)>, remaining: u32, reset: i64) -> DescriptorStatus {
    DescriptorStatus {
        code: code.into(),
        current_limit: limit.map(|(requests_per_unit, unit)| RateLimit {
            requests_per_unit,
            unit: unit.into(),
            ..Default::default()
        }),
        limit_remaining: remaining,
        duration_until_reset: Some(prost_types::Duration { seconds: reset, nanos: 900_000_000 }),
        ..Default::default()
    }
}

fn named(name: &str, multiplier: Option<u32>, mut status: DescriptorStatus) -> DescriptorStatus {
    if let Some(limit) = &mut status.current_limit {
        limit.name = name.to_owned();
        limit.unit_multiplier = multiplier;
    }
    status
}

fn with_statuses(code: Code, statuses: Vec<DescriptorStatus>) -> H2Reply {
    answer(&RateLimitResponse { statuses, ..response(code) })
}

fn failed(status: &'static str) -> H2Reply {
    H2Reply::new(200, "").field("content-type", "application/grpc").trailer("grpc-status", status)
}

fn get(name: &'static str, listener: &'static str, target: &str, lines: &str) -> Case {
    Case::get(name, listener, target, lines)
}

fn grpc() -> H2Request {
    H2Request::post("http://test/one", "").field("content-type", "application/grpc").field("te", "trailers")
}

/// What is asked and when.
fn questions() -> Vec<Case> {
    let asked = |name, listener, target: &str, lines: &str| get(name, listener, target, lines).h2_reply(ok());
    let mut cases = vec![
        asked("a key", "plain", "/one?a=b", ""),
        asked("two descriptors", "plain", "/two", "x-who: me\r\n"),
        asked("one of two descriptors", "plain", "/two", ""),
        asked("no descriptor", "plain", "/who", ""),
        asked("no rate limits", "plain", "/bare", ""),
        asked("no route", "plain", "/unknown", ""),
        asked("no cluster", "plain", "/gone", ""),
        asked("a direct response", "plain", "/direct", ""),
        asked("another stage", "staged", "/staged", ""),
        asked("the first stage", "plain", "/staged", ""),
        asked("no rate limits of this stage", "staged", "/one", ""),
        asked("switched off", "plain", "/switched", ""),
        asked("hits of the filter state", "state", "/one", "x-hits: 9\r\n"),
        asked("hits of the filter state that are no number", "state", "/one", "x-hits: many\r\n"),
        asked("hits of the filter state that are too many", "state", "/one", "x-hits: 4294967296\r\n"),
        asked("a limit of its own", "plain", "/fixed", ""),
        asked("a limit of metadata that is not there", "plain", "/limited", ""),
        asked("of the filter", "filtered", "/one", "").h2_reply(ok()),
        asked("of the filter, with nothing on the route", "filtered", "/bare", "").h2_reply(ok()),
        asked("of the filter, and the route's filter", "filtered", "/own", "").h2_reply(ok()),
        asked("a route of its own", "plain", "/own", ""),
        asked("a domain of its own", "plain", "/renamed", ""),
        asked("the virtual host, where the route has none", "host", "/bare", ""),
        asked("the route, and not its virtual host", "host", "/one", ""),
        asked("the route, which wants its virtual host", "host", "/both", ""),
        asked("the virtual host too", "host", "/included", ""),
        asked("never the virtual host", "host", "/ignored", ""),
        asked("the virtual host, overridden", "host", "/overridden", ""),
        asked("the virtual host, and the route's filter", "host", "/own", ""),
        asked("of everyone, from outside", "everyone", "/one", "x-forwarded-for: 8.8.8.8\r\n"),
        asked("of everyone, from inside", "everyone", "/one", ""),
        asked("of internal requests, from outside", "internal", "/one", "x-forwarded-for: 8.8.8.8\r\n"),
        asked("of internal requests, from inside", "internal", "/one", "x-forwarded-for: 10.0.0.1\r\n"),
        asked("of internal requests, said so", "internal", "/one", "x-envoy-internal: true\r\n"),
        asked("of internal requests, with nobody inside", "outside", "/one", ""),
        asked("asked without a deadline", "untimed", "/one", ""),
        asked("of the filter, as many hits as it says", "formatted", "/bare", "x-hits: 7\r\n").h2_reply(ok()),
        asked("of the filter, hits that are no number", "formatted", "/bare", "x-hits: many\r\n")
            .h2_reply(ok()),
        asked("of the filter, hits that are less than none", "formatted", "/bare", "x-hits: -1\r\n")
            .h2_reply(ok()),
        asked("of the filter, hits that are no whole number", "formatted", "/bare", "x-hits: 1.9\r\n")
            .h2_reply(ok()),
        asked("of external requests, from outside", "external", "/one", "x-forwarded-for: 8.8.8.8\r\n"),
        asked("of external requests, from inside", "external", "/one", "x-forwarded-for: 10.0.0.1\r\n"),
        asked("never", "never", "/one", ""),
        asked("how it is asked", "slow", "/one", ""),
        Case::h2("over http/2", "plain", [H2Request::get("http://test/one")]).h2_reply(ok()),
    ];
    let body = "POST /one HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello";
    cases.push(Case::send("a body that waits", "plain", body).h2_reply(ok()));
    cases
}

/// What comes of the answer.
fn answers() -> Vec<Case> {
    let all = headers(&[
        ("x-service", "a"),
        ("x-service", "b"),
        ("x-envoy-ratelimited", "maybe"),
        ("server", "theirs"),
        ("Upper", "case"),
    ]);
    let html = headers(&[("content-type", "text/html"), ("x-service", "a")]);
    let full = |code, response_headers_to_add: &Vec<HeaderValue>, body: &str| {
        answer(&RateLimitResponse {
            response_headers_to_add: response_headers_to_add.clone(),
            raw_body: body.as_bytes().to_vec(),
            ..response(code)
        })
    };
    let to_request = |all: &[(&str, &str)]| {
        answer(&RateLimitResponse { request_headers_to_add: headers(all), ..response(Code::Ok) })
    };
    let told = |code, quota: bool| {
        let quota = quota.then(|| Quota { requests: 5, id: "q".to_owned(), ..Default::default() });
        let dynamic_metadata = Some(metadata("key", "value"));
        answer(&RateLimitResponse { dynamic_metadata, quota, ..response(code) })
    };
    let lines = "x-who: me\r\nx-add: 1\r\nuser-agent: mine\r\n";
    vec![
        get("over the limit", "plain", "/one", "").h2_reply(over()),
        get("a code that says nothing", "plain", "/one", "").h2_reply(says(Code::Unknown)),
        Case::h2("over the limit, over http/2", "plain", [H2Request::get("http://test/one")])
            .h2_reply(over()),
        Case::h2("over the limit, gRPC", "plain", [grpc()]).h2_reply(over()),
        Case::h2("over the limit, gRPC, as exhausted", "exhausted", [grpc()]).h2_reply(over()),
        Case::h2("over the limit, gRPC, with a body", "exhausted", [grpc()]).h2_reply(full(
            Code::OverLimit,
            &html,
            "slow down",
        )),
        get("over the limit, with another status", "unavailable", "/one", "").h2_reply(over()),
        get("over the limit, with a status that refuses nothing", "wrongly", "/one", "").h2_reply(over()),
        get("over the limit, quietly", "quiet", "/one", "").h2_reply(over()),
        get("over the limit, with headers", "adds", "/one", "x-who: me\r\n").h2_reply(over()),
        get("over the limit, with headers of both", "adds", "/one", "x-who: me\r\n").h2_reply(full(
            Code::OverLimit,
            &all,
            "slow down",
        )),
        get("over the limit, with a type of content", "plain", "/one", "").h2_reply(full(
            Code::OverLimit,
            &html,
            "<p>slow down",
        )),
        get("over the limit, not enforced", "shadow", "/one", "x-who: me\r\n").h2_reply(full(
            Code::OverLimit,
            &all,
            "slow down",
        )),
        get("over the limit, counted elsewhere", "named", "/one", "").h2_reply(over()),
        get("allowed, counted elsewhere", "named", "/one", "").h2_reply(ok()),
        get("allowed, with headers of the response", "plain", "/one", "").h2_reply(full(
            Code::Ok,
            &all,
            "body",
        )),
        get("allowed, with a type of content", "plain", "/one", "").h2_reply(full(Code::Ok, &html, "")),
        get("allowed, with headers of the request", "plain", "/one", lines).h2_reply(to_request(&[
            ("x-add", "2"),
            ("x-add", "3"),
            ("x-new", "1"),
            ("Upper", "case"),
        ])),
        get("allowed, with metadata", "plain", "/one", "").h2_reply(told(Code::Ok, false)),
        get("over the limit, with metadata", "plain", "/one", "").h2_reply(told(Code::OverLimit, false)),
        get("metadata elsewhere", "metadata", "/one", "").h2_reply(told(Code::Ok, false)),
        get("a quota", "plain", "/one", "").h2_reply(told(Code::Ok, true)),
    ]
}

/// What clients are told of limits.
fn limits() -> Vec<Case> {
    use Code::{Ok, OverLimit};
    let told = |name, listener, target: &str, code, statuses| {
        get(name, listener, target, "").h2_reply(with_statuses(code, statuses))
    };
    let minute = |code, remaining| status(code, Some((10, Unit::Minute)), remaining, 12);
    let all = || {
        vec![
            named("per-ip", None, minute(Ok, 9)),
            status(Ok, None, 0, 1),
            named("", None, status(OverLimit, Some((1, Unit::Second)), 2, 0)),
            named("of \"day\"", None, status(Ok, Some((1000, Unit::Day)), 2, 5000)),
            status(Ok, Some((7, Unit::Unknown)), 7, 3),
            status(Ok, Some((4, Unit::Hour)), 7, 3),
            status(Ok, Some((4, Unit::Week)), 7, 3),
            status(Ok, Some((4, Unit::Month)), 7, 3),
            status(Ok, Some((4, Unit::Year)), 7, 3),
        ]
    };
    vec![
        told("a limit is told", "tells", "/one", Ok, vec![minute(Ok, 9)]),
        told("a limit is told, over it", "tells", "/one", OverLimit, vec![minute(OverLimit, 0)]),
        told("many limits are told", "tells", "/one", Ok, all()),
        told("many limits are told, over one", "tells", "/one", OverLimit, all()),
        told("no limit is told of", "tells", "/one", Ok, vec![]),
        told("a status without a limit", "tells", "/one", Ok, vec![status(Ok, None, 3, 4)]),
        told(
            "a multiple of a unit",
            "tells",
            "/one",
            Ok,
            vec![named("m", Some(5), minute(Ok, 9)), named("", Some(0), minute(Ok, 9))],
        ),
        told("a limit that is shown", "plain", "/shown", Ok, vec![minute(Ok, 9)]),
        told("a limit that is hidden", "tells", "/hidden", Ok, vec![minute(Ok, 9)]),
        told("a second limit that is shown", "plain", "/mixed", Ok, vec![minute(Ok, 8), minute(Ok, 9)]),
        told(
            "a second limit that is shown, with too few statuses",
            "plain",
            "/mixed",
            Ok,
            vec![minute(Ok, 8)],
        ),
        told(
            "a second limit that is shown, with too many statuses",
            "plain",
            "/mixed",
            Ok,
            vec![minute(Ok, 8), minute(Ok, 9), minute(Ok, 7)],
        ),
        told(
            "a second limit that is shown, with the least left",
            "plain",
            "/mixed",
            Ok,
            vec![minute(Ok, 9), minute(Ok, 8)],
        ),
        told(
            "a second limit that is hidden, with the most left",
            "tells",
            "/half",
            Ok,
            vec![minute(Ok, 8), minute(Ok, 9)],
        ),
        told("a second limit that is hidden", "tells", "/half", Ok, vec![minute(Ok, 9), minute(Ok, 8)]),
        told(
            "a second limit that is hidden, with too many statuses",
            "tells",
            "/half",
            Ok,
            vec![minute(Ok, 9), minute(Ok, 8), minute(Ok, 7)],
        ),
        told("when to come again", "when", "/one", OverLimit, all()),
        told(
            "when to come again, where two say it",
            "when",
            "/one",
            OverLimit,
            vec![
                status(OverLimit, Some((1, Unit::Second)), 2, 20),
                status(OverLimit, Some((10, Unit::Minute)), 0, 12),
                status(Ok, Some((10, Unit::Minute)), 0, 40),
            ],
        ),
        told("when to come again, with none over", "when", "/one", OverLimit, vec![minute(Ok, 9)]),
        told(
            "when to come again, without a limit",
            "when",
            "/one",
            OverLimit,
            vec![status(OverLimit, None, 0, 7)],
        ),
        told("when to come again, with nothing said", "when", "/one", OverLimit, vec![]),
        told("when to come again, allowed", "when", "/one", Ok, vec![minute(OverLimit, 9)]),
        told("when to come again, and limits", "tells_when", "/one", OverLimit, all()),
        told("limits, not enforced", "shadow", "/one", OverLimit, all()),
    ]
}

/// An allowing answer whose body is made another.
fn odd(name: &'static str, body: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Case {
    let mut reply = ok();
    reply.body = body(reply.body);
    get(name, "denies", "/one", "").h2_reply(reply)
}

/// What goes wrong.
fn failures() -> Vec<Case> {
    let mut cases = vec![
        get("the service fails", "plain", "/one", "").h2_reply(failed("14")),
        get("the service fails, refused", "denies", "/one", "").h2_reply(failed("14")),
        get("the service fails, refused as unavailable", "denies_oddly", "/one", "").h2_reply(failed("14")),
        get("the service fails, refused with a status that is none", "denies_wrongly", "/one", "")
            .h2_reply(failed("14")),
        get("the service fails, refused never", "denies_none", "/one", "").h2_reply(failed("14")),
        get("the service fails, refused always", "denies_all", "/one", "").h2_reply(failed("14")),
        get("the service fails, not enforced", "shadow", "/one", "x-who: me\r\n").h2_reply(failed("14")),
        get("the service fails, asked again", "again", "/one", "")
            .h2_reply(
                H2Reply::new(200, "").field("content-type", "application/grpc").field("grpc-status", "14"),
            )
            .h2_reply(ok()),
        Case::h2("the service fails, gRPC", "denies", [grpc()]).h2_reply(failed("14")),
        get("the service is no service", "denies", "/one", "").h2_reply(H2Reply::new(503, "no")),
        get("no message", "denies", "/one", "").h2_reply(failed("0")),
        get("a message that is none", "denies", "/one", "").h2_reply({
            let mut reply = failed("0");
            reply.body = b"\0\0\0\0\x02\xff\xff".to_vec();
            reply
        }),
        get("the service resets", "denies", "/one", "").h2_reply(H2Reply::refuse(2)),
        get("the service refuses to work on it", "denies", "/one", "")
            .h2_reply(H2Reply::refuse(7))
            .differs("h2 upstream[1].*", SENT_AGAIN)
            .differs("counter *", SENT_AGAIN),
        get("the service resets after its answer", "denies", "/one", "").h2_reply({
            let mut reply = ok();
            (reply.trailers, reply.reset) = (vec![], Some(2));
            reply
        }),
        get("the service goes away", "denies", "/one", "")
            .h2_reply({
                let mut reply = ok();
                reply.goaway = true;
                reply
            })
            .differs("counter cluster.h2up.upstream_cx_*", GONE)
            .varies("counter cluster.h2up.http2.goaway_sent", GONE_FIRST),
        get("an answer that ends without a status", "denies", "/one", "").h2_reply({
            let mut reply = ok();
            reply.trailers.clear();
            reply
        }),
        odd("two answers", |body| [&body[..], &over().body].concat()),
        odd("two answers, the second allows", |body| [&over().body, &body[..]].concat()),
        odd("an answer that says it is compressed", |body| [&[1], &body[1..]].concat()),
        odd("an answer with an odd flag", |body| [&[2], &body[1..]].concat()),
        odd("half an answer", |body| body[..body.len() - 1].to_vec()),
        odd("an answer and half another", |body| [&body[..], &[0, 0, 0]].concat()),
        odd("an answer of nothing", |_| vec![0; 5]),
        odd("an answer that is said to be huge", |_| b"\0\xff\xff\xff\xff".to_vec()),
        odd("HTML", |_| b"<html>".to_vec()),
        odd("a code that is not known", |_| b"\0\0\0\0\x02\x08\x63".to_vec()),
        odd("fields that are not known", |body| {
            let mut all = [&body[..], b"\xf8\x3f\x01"].concat();
            all[4] += 3;
            all
        }),
        get("a code that says nothing, where failures are refused", "denies", "/one", "")
            .h2_reply(says(Code::Unknown)),
        get("a code that is not known, where failures pass", "plain", "/one", "").h2_reply({
            let mut reply = ok();
            reply.body = b"\0\0\0\0\x02\x08\x63".to_vec();
            reply
        }),
        get("the service fails, where limits have a status", "denies_limited", "/one", "")
            .h2_reply(failed("14")),
        get("over the limit, where failures have a status", "denies_oddly", "/one", "").h2_reply(over()),
        get("the service is not there", "gone", "/one", ""),
        get("the service is not there, and need not be", "gone_open", "/one", ""),
        get("the service is not there, refused as unavailable", "gone_oddly", "/one", ""),
        Case::h2("the service is not there, gRPC", "gone_oddly", [grpc()]),
        get("the service is late", "hasty", "/one", "").h2_reply(H2Reply::stall()),
        get("the service is late, and need not be in time", "hasty_open", "/one", "")
            .h2_reply(H2Reply::stall()),
        get("the service is late, refused as it is said", "hasty_oddly", "/one", "")
            .h2_reply(H2Reply::stall()),
    ];
    let leaves =
        [Do::Send(b"GET /one HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()), Do::AwaitH2Upstream(1), Do::Leave];
    cases.push(Case::steps("the client leaves", "plain", leaves).h2_reply(H2Reply::stall()));
    let late = get("the service cannot be reached", "late", "/one", "");
    cases.push(late.differs("counter cluster.blackhole.upstream_cx_*", GIVEN_UP));
    let late = get("the service cannot be reached, and need not be", "late_open", "/one", "");
    cases.push(late.differs("counter cluster.blackhole.upstream_cx_*", GIVEN_UP));
    cases
}

/// What is counted when all is over.
fn done() -> Vec<Case> {
    let at_end = |name, listener, target: &str, count| {
        let text = format!("GET {target} HTTP/1.1\r\nhost: test\r\n\r\n");
        let steps = [Do::Send(text.into_bytes()), Do::Response("GET"), Do::AwaitH2Upstream(count)];
        Case::steps(name, listener, steps).h2_reply(ok()).h2_reply(ok())
    };
    vec![
        at_end("counted when it is over", "plain", "/done", 1),
        at_end("counted when it is over, asked about never", "never", "/done", 0),
        at_end("counted when it is over, of internal requests", "internal", "/done", 0),
        at_end("counted when it is over, of the filter", "formatted", "/one", 2),
        at_end("counted by the place of its host, once it has one", "plain", "/place", 2),
        at_end("counted by the place of its host, which says nothing", "plain", "/unplaced", 1),
        at_end("counted before and when it is over", "plain", "/ends", 2),
        at_end("counted when it is over, by the filter", "filtered", "/one", 2),
        {
            let steps = [
                Do::Send(b"GET /ends HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()),
                Do::Response("GET"),
                Do::AwaitH2Upstream(2),
            ];
            Case::steps("over the limit, and counted when it is over", "plain", steps)
                .h2_reply(over())
                .h2_reply(over())
        },
    ]
}

/// Runtime keys.
fn runtime() -> Vec<Case> {
    let with_at = |name, listener, key: &'static str, back: &'static str, reply: H2Reply| {
        let steps = [
            Do::Admin(key),
            Do::Send(b"GET /one HTTP/1.1\r\nhost: test\r\n\r\n".to_vec()),
            Do::Response("GET"),
            Do::Admin(back),
        ];
        Case::steps(name, listener, steps).h2_reply(reply)
    };
    let with = |name, key, back, reply| with_at(name, "plain", key, back, reply);
    vec![
        get("failures are refused as configured", "denies_share", "/one", "").h2_reply(failed("14")),
        with_at(
            "failures pass at run time",
            "denies_share",
            "/runtime_modify?deny.share=0",
            "/runtime_modify?deny.share=",
            failed("14"),
        ),
        with(
            "off at run time",
            "/runtime_modify?ratelimit.http_filter_enabled=0",
            "/runtime_modify?ratelimit.http_filter_enabled=",
            ok(),
        ),
        with(
            "not enforced at run time",
            "/runtime_modify?ratelimit.http_filter_enforcing=0",
            "/runtime_modify?ratelimit.http_filter_enforcing=",
            over(),
        ),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    [questions(), answers(), limits(), failures(), done(), runtime()].concat()
}
