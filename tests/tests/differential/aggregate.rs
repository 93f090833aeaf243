//! Aggregate clusters: which of their clusters gets a request, and whose policies, breakers and statistics count then.

use integration::config::{H2_CLUSTER, HttpListener, cluster, listener_with_filters, tcp_proxy};
use integration::differential::{Case, Do, Setup};
use integration::upstream::{Reply, Step};

const AGAIN: &str = "retry_policy: {retry_on: \"connect-failure,5xx\", num_retries: 1, retry_priority: {name: p, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 1}}}";
const NO_PANIC: &str = "common_lb_config: {healthy_panic_threshold: {value: 0}}";

/// Path, name of the aggregate, its fields, its clusters, and fields of the route.
const AGGREGATES: &[(&str, &str, &str, &str)] = &[
    ("a_first", "", "one, two", ""),
    ("a_spill", NO_PANIC, "ill, one", ""),
    ("a_panic", "", "ill", ""),
    ("a_no_panic", NO_PANIC, "ill", ""),
    ("a_no_panic_anywhere", NO_PANIC, "ill_for_good", ""),
    ("a_missing", "", "nothing, two", ""),
    ("a_all_missing", "", "nothing, nobody", ""),
    ("a_empty", "", "empty, two", ""),
    ("a_of_empty", "", "empty", ""),
    ("a_nested", "", "a_first", ""),
    ("a_nested_too", "", "a_first, two", ""),
    ("a_priorities", NO_PANIC, "second_priority, two", ""),
    ("a_degraded", NO_PANIC, "degraded, ill", ""),
    ("a_refused", "", "refused, two", ""),
    ("a_again", "", "refused, two", AGAIN),
    ("a_again_alone", "", "refused", AGAIN),
    ("a_no_retries", "circuit_breakers: {thresholds: [{max_retries: 0}]}", "refused, two", AGAIN),
    ("a_members_retries", "", "tight, two", AGAIN),
    (
        "a_own_limits",
        "circuit_breakers: {thresholds: [{max_requests: 0, max_connections: 0, max_pending_requests: 0}]}",
        "one",
        "",
    ),
    ("a_limits", "", "tight, two", ""),
    ("a_slow", "", "one", "timeout: 0.2s"),
    ("a_h2", "", "h2, one", ""),
    ("a_hashed", "", "hashed, one", "hash_policy: [{header: {header_name: host}}]"),
    ("a_subset", "", "subsets, one", "metadata_match: {filter_metadata: {envoy.lb: {v: x}}}"),
    ("a_other_subset", "", "subsets, one", "metadata_match: {filter_metadata: {envoy.lb: {v: y}}}"),
    ("a_alt", "alt_stat_name: named", "one", ""),
    ("a_dropped", "", "dropped, one", ""),
    ("a_sizes", "track_cluster_stats: {request_response_sizes: true, timeout_budgets: true}", "one", ""),
    ("a_host", "", "two", "host_rewrite_literal: other.test"),
];

fn aggregate(name: &str, fields: &str, members: &str) -> String {
    let fields = if fields.is_empty() { String::new() } else { format!("  {fields}\n") };
    format!(
        "- name: {name}\n  connect_timeout: 1s\n  lb_policy: CLUSTER_PROVIDED\n{fields}  cluster_type:\n    name: envoy.clusters.aggregate\n    \
         typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig\n      \
         clusters: [{members}]\n"
    )
}

/// A cluster whose hosts are all the HTTP/1 upstream: of each its priority and fields.
fn hosts(name: &str, fields: &str, hosts: &[(u32, &str)]) -> String {
    let fields = if fields.is_empty() { String::new() } else { format!("  {fields}\n") };
    let mut yaml = format!(
        "- name: {name}\n  connect_timeout: 1s\n{fields}  load_assignment:\n    cluster_name: {name}\n    endpoints:\n"
    );
    for (priority, fields) in hosts {
        yaml += &format!(
            "    - priority: {priority}\n      lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {{{{up}}}}}}}}}}, {fields}}}]\n"
        );
    }
    yaml
}

const ILL: &str = "health_status: UNHEALTHY";

fn clusters() -> Vec<String> {
    let mut all = vec![
        cluster("one", "up", ""),
        cluster("two", "up", ""),
        cluster("h2", "h2up", H2_CLUSTER),
        hosts("ill", "", &[(0, ILL)]),
        hosts("ill_for_good", NO_PANIC, &[(0, ILL)]),
        hosts("empty", "", &[]),
        hosts("second_priority", NO_PANIC, &[(0, ILL), (1, "")]),
        hosts("degraded", NO_PANIC, &[(0, ILL), (1, "health_status: DEGRADED")]),
        hosts("tight", "circuit_breakers: {thresholds: [{max_requests: 0, max_retries: 0}]}", &[(0, "")]),
        hosts("hashed", "lb_policy: RING_HASH", &[(0, "")]),
        hosts(
            "subsets",
            "lb_subset_config: {fallback_policy: NO_FALLBACK, subset_selectors: [{keys: [v]}]}",
            &[(0, "metadata: {filter_metadata: {envoy.lb: {v: x}}}")],
        ),
        hosts("dropped", "", &[(0, "")])
            .replace("    endpoints:", "    policy: {drop_overloads: [{category: c, drop_percentage: {numerator: 100}}]}\n    endpoints:"),
    ];
    all.extend(AGGREGATES.iter().map(|(name, fields, members, _)| aggregate(name, fields, members)));
    all
}

fn routes() -> String {
    let route = |(name, _, _, fields): &(&str, &str, &str, &str)| {
        let separator = if fields.is_empty() { "" } else { ", " };
        format!("- match: {{path: /{name}}}\n  route: {{cluster: {name}{separator}{fields}}}\n")
    };
    let copied =
        "- match: {path: /copied}\n  route: {cluster: one, request_mirror_policies: [{cluster: a_h2}]}\n";
    AGGREGATES.iter().map(route).chain([copied.to_owned()]).collect()
}

fn tcp(name: &str, cluster: &str) -> String {
    listener_with_filters(name, &tcp_proxy(name, &format!("cluster: {cluster}")))
}

pub(crate) fn setup() -> Setup {
    let listeners = [
        HttpListener::new("http", &routes()).yaml(),
        tcp("stream", "a_echo"),
        tcp("nowhere", "a_all_missing"),
        tcp("refusing", "a_refused"),
    ];
    let echo = aggregate("a_echo", "", "nothing, echo");
    Setup::with_clusters("aggregate", listeners, clusters().into_iter().chain([echo]))
}

pub(crate) fn cases() -> Vec<Case> {
    let get = |name: &'static str, path: &'static str| Case::get(name, "http", path, "");
    let ok = |name, path| get(name, path).reply(Reply::ok());
    let bad = "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
    let silent = Reply::steps([Step::Stall]);
    vec![
        ok("the first cluster", "/a_first"),
        ok("a cluster without healthy hosts is passed over", "/a_spill"),
        ok("panic of all clusters", "/a_panic"),
        ok("no panic of the aggregate", "/a_no_panic"),
        get("no panic at all", "/a_no_panic_anywhere"),
        ok("a cluster that is not there", "/a_missing"),
        get("none of the clusters is there", "/a_all_missing"),
        ok("a cluster without hosts", "/a_empty"),
        get("no cluster has hosts", "/a_of_empty"),
        get("an aggregate of an aggregate", "/a_nested"),
        ok("an aggregate and another cluster", "/a_nested_too"),
        ok("the second priority of the first cluster", "/a_priorities"),
        ok("degraded hosts before none", "/a_degraded"),
        get("a cluster that refuses", "/a_refused"),
        ok("again, at another cluster", "/a_again"),
        get("again, where there is no other", "/a_again_alone"),
        get("retries that the aggregate forbids", "/a_no_retries"),
        ok("retries that a member forbids", "/a_members_retries"),
        ok("limits of the aggregate", "/a_own_limits"),
        get("limits of a member", "/a_limits"),
        get("a member that takes too long", "/a_slow").reply(silent),
        get("a member that fails", "/a_first").raw(bad),
        get("a member that ends the connection", "/a_first").reply(Reply::steps([Step::Close])),
        get("a member with HTTP/2", "/a_h2"),
        ok("a member that hashes", "/a_hashed"),
        ok("a member with subsets", "/a_subset"),
        get("a subset that a member does not have", "/a_other_subset"),
        ok("an aggregate with another name", "/a_alt"),
        ok("a member that drops", "/a_dropped"),
        ok("sizes", "/a_sizes"),
        ok("another host", "/a_host"),
        ok("a copy for a member", "/copied").ends_with("cluster.h2.upstream_rq_active"),
        Case::steps(
            "bytes",
            "stream",
            [Do::Send(b"hello".to_vec()), Do::Bytes(5), Do::HalfClose, Do::AwaitEnd],
        )
        .tcp(1),
        Case::steps("bytes for nobody", "nowhere", [Do::AwaitEnd]).tcp(1),
        Case::steps("bytes for one that refuses", "refusing", [Do::AwaitEnd]).tcp(1),
    ]
}
