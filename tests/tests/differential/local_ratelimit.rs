//! Requests that come faster than token buckets fill (`envoy.filters.http.local_ratelimit`), and what they are counted as: the actions of
//! rate limits, wherever they stand. Each listener has buckets of its own; what is not limited (`/`) is what the rig itself asks for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use integration::config::{HttpListener, file_log, indent};
use integration::differential::{Case, Do, H2Request, Setup};

const LOG: &str = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|code=%RESPONSE_CODE%\
|details=%RESPONSE_CODE_DETAILS%|flags=%RESPONSE_FLAGS%|path=%REQ(:PATH)%\\n\"}}";

const TYPE: &str =
    "\"@type\": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const ON: &str =
    "filter_enabled: {default_value: {numerator: 100}}\nfilter_enforced: {default_value: {numerator: 100}}\n";
/// Nothing comes back while a case lasts.
const SLOWLY: &str = "fill_interval: 3600s";

fn filter(listener: &str, config: &str) -> String {
    let config = indent(&format!("stat_prefix: {listener}\n{config}"), 4);
    format!("- name: envoy.filters.http.local_ratelimit\n  typed_config:\n    {TYPE}\n{config}")
}

fn bucket(tokens: u32) -> String {
    format!("token_bucket: {{max_tokens: {tokens}, {SLOWLY}}}\n")
}

/// A descriptor with these entries and so many tokens.
fn descriptor(entries: &[(&str, &str)], tokens: u32) -> String {
    let entries: Vec<String> =
        entries.iter().map(|(key, value)| format!("{{key: {key}, value: \"{value}\"}}")).collect();
    format!("- {{entries: [{}], token_bucket: {{max_tokens: {tokens}, {SLOWLY}}}}}\n", entries.join(", "))
}

fn off() -> String {
    "typed_per_filter_config: {envoy.filters.http.local_ratelimit: {\"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}\n".to_owned()
}

/// Routes: `more`, then everything but `/` to the host, then `/`, which is not limited.
fn listener_with_routes(name: &str, config: &str, more: &str) -> HttpListener {
    let routes = format!(
        "{more}- name: plain\n  match: {{prefix: \"/x\"}}\n  route: {{cluster: up}}\n- match: {{prefix: /}}\n  route: {{cluster: up}}\n{}",
        indent(&off(), 2)
    );
    HttpListener::new(name, &routes).filters(&filter(name, config)).logs(&file_log(LOG))
}

fn listener(name: &str, config: &str) -> String {
    listener_with_routes(name, config, "").yaml()
}

fn limited(name: &str, actions: &str, entries: &[(&str, &str)]) -> String {
    let config = format!(
        "{ON}{}rate_limits:\n- actions: {actions}\ndescriptors:\n{}",
        bucket(1000),
        descriptor(entries, 1)
    );
    listener(name, &config)
}

fn per_route(listener: &str, config: &str) -> String {
    format!(
        "typed_per_filter_config:\n  envoy.filters.http.local_ratelimit:\n    {TYPE}\n    stat_prefix: {listener}_route\n{}",
        indent(config, 4)
    )
}

fn basic() -> Vec<String> {
    let never = "filter_enabled: {default_value: {numerator: 0}}\nfilter_enforced: {default_value: {numerator: 100}}\n";
    let shadow = "filter_enabled: {default_value: {numerator: 100}}\nfilter_enforced: {default_value: {numerator: 0}}\n\
        request_headers_to_add_when_not_enforced:\n- header: {key: x-limited, value: \"of %REQ(x-who)%\"}\n- header: {key: x-who, value: nobody}\n  append_action: OVERWRITE_IF_EXISTS_OR_ADD\n";
    let headers = "response_headers_to_add:\n- header: {key: x-why, value: \"%REQ(x-who)%\"}\n- header: {key: x-why, value: more}\n- header: {key: content-type, value: text/html}\n  append_action: OVERWRITE_IF_EXISTS_OR_ADD\n";
    let tells = "enable_x_ratelimit_headers: DRAFT_VERSION_03\n";
    let many = "token_bucket: {max_tokens: 3, tokens_per_fill: 2, fill_interval: 1000s}\n";
    vec![
        listener("plain", &format!("{ON}{}", bucket(2))),
        listener("unsaid", &bucket(1)),
        listener(
            "unenforced",
            &format!("filter_enabled: {{default_value: {{numerator: 100}}}}\n{}", bucket(1)),
        ),
        listener("never", &format!("{never}{}", bucket(1))),
        listener("shadow", &format!("{shadow}{}", bucket(1))),
        listener("unavailable", &format!("{ON}{}status: {{code: 503}}\n{headers}", bucket(1))),
        listener("ok_status", &format!("{ON}{}status: {{code: 200}}\n", bucket(1))),
        listener("tells", &format!("{ON}{many}{tells}")),
        listener("retry_after", &format!("{ON}{many}enable_retry_after_header: true\n")),
        listener("grpc", &format!("{ON}{}", bucket(1))),
        listener("exhausted", &format!("{ON}{}rate_limited_as_resource_exhausted: true\n", bucket(1))),
        listener("apart", &format!("{ON}{}local_rate_limit_per_downstream_connection: true\n", bucket(1))),
        listener("bucketless", ON),
    ]
}

fn described() -> Vec<String> {
    let by_header = "[{request_headers: {header_name: x-who, descriptor_key: who}}]";
    let with = |name: &str, rest: &str| listener(name, &format!("{ON}{rest}"));
    let two = format!(
        "rate_limits:\n- actions: {by_header}\n- actions: [{{generic_key: {{descriptor_value: all}}}}]\ndescriptors:\n{}{}",
        descriptor(&[("who", "a")], 1),
        "- {entries: [{key: generic_key, value: all}], token_bucket: {max_tokens: 2, fill_interval: 1800s}}\n",
    );
    let one =
        format!("rate_limits:\n- actions: {by_header}\ndescriptors:\n{}", descriptor(&[("who", "a")], 2));
    let open = |tokens| {
        format!("rate_limits:\n- actions: {by_header}\ndescriptors:\n{}", descriptor(&[("who", "")], tokens))
    };
    let hits = |hits: &str| {
        format!(
            "rate_limits:\n- actions: {by_header}\n  hits_addend: {hits}\ndescriptors:\n{}",
            descriptor(&[("who", "a")], 5)
        )
    };
    let option = |option: &str| {
        format!(
            "rate_limits:\n- actions: {by_header}\n  x_ratelimit_option: {option}\ndescriptors:\n{}",
            descriptor(&[("who", "a")], 5)
        )
    };
    let shadow = format!(
        "rate_limits:\n- actions: {by_header}\ndescriptors:\n- {{entries: [{{key: who, value: a}}], shadow_mode: true, token_bucket: {{max_tokens: 1, {SLOWLY}}}}}\n"
    );
    let tells = "enable_x_ratelimit_headers: DRAFT_VERSION_03\n";
    vec![
        with("two", &format!("{}{two}{tells}", bucket(3))),
        with("spared", &format!("{}{one}always_consume_default_token_bucket: false\n{tells}", bucket(1))),
        with("open", &format!("{}{}", bucket(100), open(1))),
        with("forgetful", &format!("{}{}max_dynamic_descriptors: 2\n", bucket(100), open(1))),
        with("hits", &format!("{}{}{tells}", bucket(100), hits("{number: 2}"))),
        with("no_hits", &format!("{}{}{tells}", bucket(100), hits("{number: 0}"))),
        with("hits_said", &format!("{}{}{tells}", bucket(100), hits("{format: \"%REQ(x-hits)%\"}"))),
        with("hits_back", &format!("{}{}{tells}", bucket(100), hits("{number: 2, is_negative_hits: true}"))),
        with("shown", &format!("{}{}", bucket(100), option("DRAFT_VERSION_03"))),
        with("hidden", &format!("{}{}{tells}", bucket(100), option("\"OFF\""))),
        with("watched", &format!("{}{shadow}{tells}", bucket(100))),
        with(
            "descriptors_apart",
            &format!("{}{one}local_rate_limit_per_downstream_connection: true\n{tells}", bucket(100)),
        ),
        with(
            "done",
            &format!(
                "{}rate_limits:\n- actions: {by_header}\n  apply_on_stream_done: true\ndescriptors:\n{}",
                bucket(100),
                descriptor(&[("who", "a")], 1)
            ),
        ),
    ]
}

fn actions() -> Vec<String> {
    vec![
        limited("source", "[{source_cluster: {}}]", &[("source_cluster", "here")]),
        limited("destination", "[{destination_cluster: {}}]", &[("destination_cluster", "up")]),
        limited("remote", "[{remote_address: {}}]", &[("remote_address", "127.0.0.1")]),
        limited(
            "masked",
            "[{masked_remote_address: {v4_prefix_mask_len: 8}}]",
            &[("masked_remote_address", "127.0.0.0/8")],
        ),
        limited(
            "masked_whole",
            "[{masked_remote_address: {}}]",
            &[("masked_remote_address", "127.0.0.1/32")],
        ),
        limited("header", "[{request_headers: {header_name: x-who, descriptor_key: who}}]", &[("who", "a")]),
        limited(
            "path",
            "[{request_headers: {header_name: \":path\", descriptor_key: path}}]",
            &[("path", "/x?q=1")],
        ),
        limited(
            "skipped",
            "[{request_headers: {header_name: x-who, descriptor_key: who, skip_if_absent: true}}, {generic_key: {descriptor_value: v}}]",
            &[("generic_key", "v")],
        ),
        limited(
            "query",
            "[{query_parameters: {query_parameter_name: q, descriptor_key: q}}]",
            &[("q", "a b")],
        ),
        limited("generic", "[{generic_key: {descriptor_value: v, descriptor_key: k}}]", &[("k", "v")]),
        limited(
            "unformatted",
            "[{generic_key: {descriptor_value: \"%REQ(x-who)%!\"}}]",
            &[("generic_key", "%REQ(x-who)%!")],
        ),
        limited(
            "match_header",
            "[{header_value_match: {descriptor_value: v, headers: [{name: x-who, string_match: {exact: a}}]}}]",
            &[("header_match", "v")],
        ),
        limited(
            "match_query",
            "[{query_parameter_value_match: {descriptor_value: v, query_parameters: [{name: q, string_match: {exact: a}}]}}]",
            &[("query_match", "v")],
        ),
        limited(
            "match_address",
            "[{remote_address_match: {descriptor_value: v, address_matcher: {ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}]}}}]",
            &[("remote_address_match", "v")],
        ),
        limited(
            "match_no_address",
            "[{remote_address_match: {descriptor_value: v, address_matcher: {ranges: [{address_prefix: 127.0.0.0, prefix_len: 8}], invert_match: true}}}]",
            &[("remote_address_match", "v")],
        ),
        limited(
            "metadata",
            "[{metadata: {descriptor_key: k, metadata_key: {key: nobody, path: [{key: a}]}, default_value: d}}]",
            &[("k", "d")],
        ),
        limited(
            "metadata_absent",
            "[{metadata: {descriptor_key: k, metadata_key: {key: nobody, path: [{key: a}]}, skip_if_absent: true}}, {remote_address: {}}]",
            &[("remote_address", "127.0.0.1")],
        ),
        limited(
            "metadata_missing",
            "[{metadata: {descriptor_key: k, metadata_key: {key: nobody, path: [{key: a}]}}}, {remote_address: {}}]",
            &[("remote_address", "127.0.0.1")],
        ),
        limited(
            "expression",
            "[{extension: {name: e, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor, descriptor_key: m, parsed: {select_expr: {operand: {ident_expr: {name: request}}, field: method}}}}}]",
            &[("m", "GET")],
        ),
        limited(
            "expression_text",
            "[{extension: {name: e, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.rate_limit_descriptors.expr.v3.Descriptor, descriptor_key: m, text: 'request.method == \"GET\" ? \"read\" : [1]'}}}]",
            &[("m", "read")],
        ),
    ]
}

fn routed() -> Vec<String> {
    let limit = |value: &str| format!("{{actions: [{{generic_key: {{descriptor_value: {value}}}}}]}}");
    let descriptors = ["route", "host", "staged", "switched", "done", "meta"]
        .map(|value| descriptor(&[("generic_key", value)], 1))
        .concat();
    let config = |more: &str| format!("{ON}{}descriptors:\n{descriptors}{more}", bucket(1000));
    let route = |path: &str, limits: &str, more: &str| {
        format!(
            "- name: to-{path}\n  match: {{prefix: /{path}}}\n  route: {{cluster: up{limits}}}\n{}",
            indent(more, 2)
        )
    };
    let own = format!(", rate_limits: [{}]", limit("route"));
    let routes = [
        route("own", &own, ""),
        route("both", &format!("{own}, include_vh_rate_limits: true"), ""),
        route("bare", "", ""),
        route("staged", ", rate_limits: [{stage: 3, actions: [{generic_key: {descriptor_value: staged}}]}]", ""),
        route("switched", ", rate_limits: [{disable_key: k, actions: [{generic_key: {descriptor_value: switched}}]}]", ""),
        route("done", ", rate_limits: [{apply_on_stream_done: true, actions: [{generic_key: {descriptor_value: done}}]}]", ""),
        route(
            "metadata",
            ", rate_limits: [{actions: [{metadata: {descriptor_key: generic_key, source: ROUTE_ENTRY, metadata_key: {key: of.route, path: [{key: a}]}}}]}]",
            "metadata: {filter_metadata: {of.route: {a: meta}}}\n",
        ),
        "- match: {prefix: /direct}\n  direct_response: {status: 202}\n".to_owned(),
    ]
    .concat();
    let with = |name: &str, more: &str| {
        let virtual_hosts = format!(
            "- name: all\n  domains: [\"*\"]\n  rate_limits: [{}]\n  routes:\n{}  - match: {{prefix: /}}\n    route: {{cluster: up}}\n{}",
            limit("host"),
            indent(&routes, 2),
            indent(&off(), 4)
        );
        HttpListener::with_virtual_hosts(name, &virtual_hosts)
            .filters(&filter(name, &config(more)))
            .logs(&file_log(LOG))
            .yaml()
    };
    let routes = format!(
        "- match: {{prefix: /own}}\n  route: {{cluster: up}}\n{}- match: {{prefix: /off}}\n  route: {{cluster: up}}\n{}",
        indent(&per_route("per_route", &format!("{ON}{}status: {{code: 503}}\n", bucket(1))), 2),
        indent(&per_route("per_route_off", &bucket(1)), 2),
    );
    vec![
        with("override", ""),
        with("include", "vh_rate_limits: INCLUDE\n"),
        with("ignore", "vh_rate_limits: IGNORE\n"),
        with("stage", "stage: 3\n"),
        listener_with_routes("per_route", &format!("{ON}{}", bucket(2)), &routes).yaml(),
    ]
}

/// Requests with tokens: which limit is told says what was found in them.
fn claims() -> Vec<String> {
    let told = |name: &str, claim: &str, more: &str| {
        let token = "\"@type\": type.googleapis.com/envoy.extensions.rate_limit_descriptors.jwt_claim.v3.Descriptor, descriptor_key: k";
        let descriptors = [("me", 1001), ("default", 1002)]
            .map(|(value, tokens)| descriptor(&[("k", value)], tokens))
            .concat();
        let config = format!(
            "{ON}{}enable_x_ratelimit_headers: DRAFT_VERSION_03\nrate_limits:\n- actions: [{{extension: {{name: e, typed_config: {{{token}, {claim}}}}}}}{more}]\ndescriptors:\n{descriptors}{}{}",
            bucket(1000),
            descriptor(&[("g", "all")], 1003),
            descriptor(&[("k", ""), ("g", "all")], 1004),
        );
        listener(name, &config)
    };
    let key = ", {generic_key: {descriptor_key: g, descriptor_value: all}}";
    vec![
        told("claim", "header_name: authorization, value_prefix: \"Bearer \", claim_name: sub", ""),
        told("claim_or", "header_name: x-jwt, claim_name: sub, default_value: default", ""),
        told("claim_of_claim", "header_name: x-jwt, claim_name: a.b", ""),
        told("claim_in_cookie", "cookie: jwt, claim_name: sub", ""),
        told("claim_skipped", "header_name: x-jwt, claim_name: sub, skip_if_absent: true", key),
        told("claim_needed", "header_name: x-jwt, claim_name: sub", key),
    ]
}

pub(crate) fn setup() -> Setup {
    let listeners = [basic(), described(), actions(), routed(), claims()].concat();
    Setup::new("local_ratelimit", listeners).with_node("{id: node, cluster: here}")
}

/// Where the runtime says that values are formats.
pub(crate) fn formatted_setup() -> Setup {
    let listeners = [
        limited(
            "formatted",
            "[{generic_key: {descriptor_value: \"%REQ(x-who)%!\"}}]",
            &[("generic_key", "a!")],
        ),
        limited(
            "defaulted",
            "[{generic_key: {descriptor_value: \"%REQ(x-who)%\", default_value: d}}]",
            &[("generic_key", "d")],
        ),
        limited("empty", "[{generic_key: {descriptor_value: \"%REQ(x-who)%\"}}]", &[("generic_key", "-")]),
        limited(
            "match_no_header",
            "[{header_value_match: {descriptor_key: k, descriptor_value: \"%REQ(x-who)%\", expect_match: false, headers: [{name: x-who, string_match: {exact: a}}]}}]",
            &[("k", "b")],
        ),
    ];
    let mut setup = Setup::new("local_ratelimit_formatted", listeners).with_node("{id: node, cluster: here}");
    setup.bootstrap.push_str(
        "\nlayered_runtime: {layers: [{name: static, static_layer: {envoy.reloadable_features.enable_formatter_for_ratelimit_action_descriptor_value: true}}]}\n",
    );
    setup
}

/// Where the members of a cluster share the limits.
pub(crate) fn shared_setup() -> Setup {
    let shared = "enable_x_ratelimit_headers: DRAFT_VERSION_03\nlocal_cluster_rate_limit: {}\n";
    let described = "rate_limits:\n- actions: [{request_headers: {header_name: x-who, descriptor_key: who}}]\n  hits_addend: {format: \"%REQ(x-hits)%\"}\n";
    let descriptors = [descriptor(&[("who", "a")], 7), descriptor(&[("who", "")], 6)].concat();
    let watched = format!(
        "- {{entries: [{{key: who, value: b}}], shadow_mode: true, token_bucket: {{max_tokens: 2, {SLOWLY}}}}}\n"
    );
    let own = per_route("shared", &format!("{ON}{}{shared}", bucket(4)));
    let routes = format!("- match: {{prefix: /own}}\n  route: {{cluster: up}}\n{}", indent(&own, 2));
    let listeners = [
        listener_with_routes("shared", &format!("{ON}{}{shared}", bucket(10)), &routes).yaml(),
        listener("shared_out", &format!("{ON}{}{shared}", bucket(2))),
        listener("shared_when", &format!("{ON}{}{shared}enable_retry_after_header: true\n", bucket(4))),
        listener(
            "shared_by",
            &format!("{ON}{}{shared}{described}descriptors:\n{descriptors}{watched}", bucket(100)),
        ),
    ];
    let members = (1..=3).map(|at| {
        format!("    - lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.{at}, port_value: 9}}}}}}}}]\n")
    });
    let us = format!(
        "- name: us\n  type: STATIC\n  connect_timeout: 1s\n  load_assignment:\n    cluster_name: us\n    endpoints:\n{}",
        members.collect::<String>()
    );
    let mut setup = Setup::with_clusters("local_ratelimit_shared", listeners, [us])
        .with_node("{id: node, cluster: here}");
    setup.bootstrap.push_str("\ncluster_manager: {local_cluster_name: us}\n");
    setup
}

pub(crate) fn shared_cases() -> Vec<Case> {
    let x = |name, listener, count: usize| requests(name, listener, &vec![("/x", ""); count]);
    let who = |name, all: &[&str]| {
        requests(name, "shared_by", &all.iter().map(|lines| ("/x", *lines)).collect::<Vec<_>>())
    };
    let (a, b, c) = ("x-who: a\r\n", "x-who: b\r\n", "x-who: c\r\n");
    vec![
        x("a third of the tokens", "shared", 5),
        x("less than a token", "shared_out", 2),
        x("when to come again", "shared_when", 3),
        requests("a third of a route's tokens", "shared", &[("/own", ""), ("/own", "")]),
        who("a third of a descriptor's tokens", &[a, a, a]),
        who("a third of the tokens of a value that is left open", &[c, c, c]),
        who("a third of what only looks on", &[b, b]),
        who(
            "a third of the tokens, for many hits",
            &["x-who: d\r\nx-hits: 3\r\n", "x-who: d\r\nx-hits: 0\r\n", "x-who: d\r\nx-hits: 2\r\n"],
        ),
    ]
}

/// These requests (a target, and lines of the head), one after the other on one connection.
fn requests(name: &'static str, listener: &'static str, all: &[(&str, &str)]) -> Case {
    let step = |(target, lines): &(&str, &str)| {
        let text = format!("GET {target} HTTP/1.1\r\nhost: test\r\n{lines}\r\n");
        [Do::Send(text.into_bytes()), Do::Response("GET")]
    };
    Case::steps(name, listener, all.iter().flat_map(step))
}

pub(crate) fn cases() -> Vec<Case> {
    let x = |name, listener, count: usize| requests(name, listener, &vec![("/x", ""); count]);
    let who = |name, listener, all: &[&str]| {
        let lines: Vec<String> = all.iter().map(|who| format!("x-who: {who}\r\n")).collect();
        requests(name, listener, &lines.iter().map(|lines| ("/x", &**lines)).collect::<Vec<_>>())
    };
    let grpc = || {
        H2Request::post("http://test/x", "").field("content-type", "application/grpc").field("te", "trailers")
    };
    let mut cases = vec![
        x("a bucket with two tokens", "plain", 4),
        x("nothing is said about when it holds", "unsaid", 3),
        x("nothing is said about when it is enforced", "unenforced", 3),
        x("it never holds", "never", 3),
        requests(
            "it is not enforced",
            "shadow",
            &[("/x", "x-who: me\r\n"), ("/x", "x-who: me\r\n"), ("/x", "")],
        ),
        requests(
            "a status and headers of its own",
            "unavailable",
            &[("/x", "x-who: me\r\n"), ("/x", "x-who: me\r\n"), ("/x", "")],
        ),
        x("a status that refuses nothing", "ok_status", 2),
        x("clients are told of the limit", "tells", 4),
        x("clients are told when to come again", "retry_after", 5),
        Case::h2("gRPC", "grpc", [grpc(), grpc()]),
        Case::h2("gRPC, as exhausted", "exhausted", [grpc(), grpc()]),
        x("a bucket of the connection", "apart", 2),
        x("a bucket of another connection", "apart", 2),
        x("there is no bucket", "bucketless", 2),
        who("two descriptors, the slower one first", "two", &["a", "a", "b", "b"]),
        who("the default bucket is spared", "spared", &["a", "a", "a", "b", "b"]),
        who("a value that is left open", "open", &["a", "b", "a", "c", "b", ""]),
        requests("a value that is left open, absent", "open", &[("/x", ""), ("/x", "")]),
        who("values that are forgotten", "forgetful", &["a", "b", "c", "a", "c", "b", "c"]),
        who("two hits a request", "hits", &["a", "a", "a", "b"]),
        who("no hits a request", "no_hits", &["a", "a"]),
        requests(
            "as many hits as it says",
            "hits_said",
            &[
                "x-hits: 3\r\n",
                "x-hits: 3\r\n",
                "x-hits: 2\r\n",
                "x-hits: many\r\n",
                "",
                "x-hits: -1\r\n",
                "x-hits: 1.5\r\n",
            ]
            .map(|lines| ("/x", lines))
            .map(|(target, lines)| (target, format!("x-who: a\r\n{lines}")))
            .iter()
            .map(|(target, lines)| (*target, &**lines))
            .collect::<Vec<_>>(),
        ),
        who("hits that are given back", "hits_back", &["a", "a", "a"]),
        who("a limit that is shown", "shown", &["a", "b"]),
        who("a limit that is hidden", "hidden", &["a", "b"]),
        who("a bucket that only looks on", "watched", &["a", "a", "b"]),
        who("descriptors of the connection", "descriptors_apart", &["a", "a", "a", "b"]),
        who("descriptors of another connection", "descriptors_apart", &["a", "b"]),
        who("a limit of streams that are done", "done", &["a", "a"]),
        requests(
            "a filter of a route",
            "per_route",
            &[("/own", ""), ("/x", ""), ("/own", ""), ("/x", ""), ("/x", ""), ("/off", ""), ("/off", "")],
        ),
    ];
    cases.extend(action_cases());
    cases.extend(claim_cases());
    for (listener, name) in [
        ("override", "rate limits of a virtual host, where the route has none"),
        ("include", "rate limits of a virtual host, beside those of the route"),
        ("ignore", "rate limits of a virtual host, never"),
        ("stage", "rate limits of another stage"),
    ] {
        let all = [
            "/bare",
            "/bare",
            "/own",
            "/own",
            "/both",
            "/both",
            "/staged",
            "/staged",
            "/switched",
            "/switched",
            "/done",
            "/done",
            "/metadata",
            "/metadata",
            "/direct",
            "/direct",
        ];
        cases.push(requests(name, listener, &all.map(|target| (target, ""))));
    }
    cases
}

fn action_cases() -> Vec<Case> {
    let twice = |name, listener, target: &str, lines: &str| {
        requests(name, listener, &[(target, lines), (target, lines)])
    };
    vec![
        twice("of a cluster", "source", "/x", ""),
        twice("for a cluster", "destination", "/x", ""),
        twice("an address", "remote", "/x", ""),
        twice("an address, forwarded", "remote", "/x", "x-forwarded-for: 1.2.3.4\r\n"),
        twice("a network", "masked", "/x", ""),
        twice("a whole address", "masked_whole", "/x", ""),
        twice("a header, twice", "header", "/x", "x-who: a\r\nx-who: b\r\n"),
        twice("no header", "header", "/x", ""),
        twice("a path", "path", "/x?q=1", ""),
        twice("an entry that is left out", "skipped", "/x", ""),
        twice("an entry that is not left out", "skipped", "/x", "x-who: a\r\n"),
        twice("a parameter", "query", "/x?p=1&q=a%20b", ""),
        twice("no parameter", "query", "/x?p=1", ""),
        twice("a key", "generic", "/x", ""),
        twice("a key that looks like a format", "unformatted", "/x", "x-who: a\r\n"),
        twice("a header that matches", "match_header", "/x", "x-who: a\r\n"),
        twice("a header that does not match", "match_header", "/x", "x-who: b\r\n"),
        twice("a parameter that matches", "match_query", "/x?q=a", ""),
        twice("an address that matches", "match_address", "/x", ""),
        twice("an address that is not to match", "match_no_address", "/x", ""),
        twice("metadata, with a default", "metadata", "/x", ""),
        twice("metadata that may be absent", "metadata_absent", "/x", ""),
        twice("metadata that is absent", "metadata_missing", "/x", ""),
        twice("an expression", "expression", "/x", ""),
        twice("an expression as text", "expression_text", "/x", ""),
    ]
}

/// A token of this header and payload, signed by nobody.
fn token(header: &str, payload: &str) -> String {
    let signed = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
    format!("{signed}.AAAA")
}

fn claim_cases() -> Vec<Case> {
    let rs256 = |payload: &str| token("{\"alg\": \"RS256\"}", payload);
    let me = rs256("{\"sub\": \"me\"}");
    let one = |name, listener, lines: &str| requests(name, listener, &[("/x", lines)]);
    let jwt = |name, listener, token: &str| one(name, listener, &format!("x-jwt: {token}\r\n"));
    let unsigned = me.trim_end_matches("AAAA");
    vec![
        one("a claim", "claim", &format!("authorization: Bearer {me}\r\n")),
        one("a claim, without the prefix", "claim", &format!("authorization: {me}\r\n")),
        one("a claim, behind another prefix", "claim", &format!("authorization: bearer {me}\r\n")),
        one("a claim, behind two prefixes", "claim", &format!("authorization: Bearer Bearer {me}\r\n")),
        one("a claim of the first of two tokens", "claim_or", &format!("x-jwt: {me}\r\nx-jwt: x\r\n")),
        one("a claim of the second of two tokens", "claim_or", &format!("x-jwt: x\r\nx-jwt: {me}\r\n")),
        one("no token", "claim_or", ""),
        jwt("a claim of somebody else", "claim_or", &rs256("{\"sub\": \"you\"}")),
        jwt("a claim that is empty", "claim_or", &rs256("{\"sub\": \"\"}")),
        jwt("a claim that is no text", "claim_or", &rs256("{\"sub\": 5}")),
        jwt("no claim", "claim_or", &rs256("{}")),
        jwt("a claim that is old", "claim_or", &rs256("{\"sub\": \"me\", \"exp\": 1}")),
        jwt("a claim of a token with no time", "claim_or", &rs256("{\"sub\": \"me\", \"exp\": \"1\"}")),
        jwt("a claim that nobody signs", "claim_or", &token("{\"alg\": \"none\"}", "{\"sub\": \"me\"}")),
        jwt("a claim with no signature", "claim_or", unsigned),
        jwt("a claim with a signature that is none", "claim_or", &format!("{unsigned}!")),
        jwt("a claim that is not in its header's way", "claim_or", "a.b.c"),
        jwt("a claim within a claim", "claim_of_claim", &rs256("{\"a\": {\"b\": \"me\"}}")),
        jwt("a claim within none", "claim_of_claim", &rs256("{\"a\": \"me\", \"a.b\": \"me\"}")),
        one("a claim in a cookie", "claim_in_cookie", &format!("cookie: a=b; jwt={me}\r\n")),
        one("a claim in a quoted cookie", "claim_in_cookie", &format!("cookie: jwt=\"{me}\"\r\n")),
        one("no cookie with a claim", "claim_in_cookie", "cookie: a=b\r\n"),
        jwt("a claim that may be absent", "claim_skipped", &me),
        one("a claim that is absent", "claim_skipped", ""),
        jwt("a claim that must be there", "claim_needed", &rs256("{\"sub\": \"\"}")),
        one("a claim that must be there, and is not", "claim_needed", ""),
    ]
}

pub(crate) fn formatted_cases() -> Vec<Case> {
    let twice = |name, listener, lines: &str| requests(name, listener, &[("/x", lines), ("/x", lines)]);
    vec![
        twice("a key made of a header", "formatted", "x-who: a\r\n"),
        twice("a key made of nothing, with a default", "defaulted", ""),
        twice("a key made of nothing", "empty", ""),
        twice("a header that is not to match", "match_no_header", "x-who: b\r\n"),
    ]
}
