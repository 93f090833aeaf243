//! Which cluster a request is sent to when it is sent again (`refresh_cluster_on_retry`): trees, weighted clusters, priority groups.
//!
//! All clusters are one host; which of them a try was of is in their statistics.

use std::time::Duration;

use integration::config::{HttpListener, cluster, indent};
use integration::differential::{Case, Setup};
use integration::upstream::{Reply, Step};

const SPECIFIERS: &str = "type.googleapis.com/envoy.extensions.router.cluster_specifiers";
const HEADER: &str = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput";

/// Sent again so often, to a cluster that is chosen anew.
fn again(retries: u32) -> String {
    policy(retries, true)
}

fn policy(retries: u32, refresh: bool) -> String {
    format!(
        "retry_policy: {{retry_on: \"5xx,connect-failure\", num_retries: {retries}, refresh_cluster_on_retry: {refresh}, retry_back_off: {{base_interval: 0.001s}}}}"
    )
}

/// Tries that take longer than this are `hedged`, or end.
fn limited(hedged: bool) -> String {
    let policy = policy(2, true).replace("retry_back_off", "per_try_timeout: 0.2s, retry_back_off");
    format!("{policy}, timeout: 5s, hedge_policy: {{hedge_on_per_try_timeout: {hedged}}}")
}

/// A tree that asks for the value of a header; where it has none of these, for `otherwise`.
fn tree(header: &str, map: &[(&str, &str)], otherwise: &str) -> String {
    let to = |cluster: &str| {
        format!(
            "{{action: {{name: a, typed_config: {{\"@type\": {SPECIFIERS}.matcher.v3.ClusterAction, cluster: {cluster}}}}}}}"
        )
    };
    let map: Vec<_> = map.iter().map(|(value, cluster)| format!("\"{value}\": {}", to(cluster))).collect();
    let on_no_match = match otherwise {
        "" => String::new(),
        cluster => format!(", on_no_match: {}", to(cluster)),
    };
    format!(
        "inline_cluster_specifier_plugin: {{extension: {{name: t, typed_config: {{\"@type\": {SPECIFIERS}.matcher.v3.MatcherClusterSpecifier, cluster_matcher: {{matcher_tree: {{input: {{name: i, typed_config: {{\"@type\": {HEADER}, header_name: {header}}}}}, exact_match_map: {{map: {{{}}}}}}}{on_no_match}}}}}}}}}",
        map.join(", ")
    )
}

const ATTEMPT: &str = "x-envoy-attempt-count";

/// Weighted clusters; each adds a header to requests and to responses.
fn weighted(clusters: &[(&str, u32)]) -> String {
    let one = |(name, weight): &(&str, u32)| {
        format!(
            "{{name: {name}, weight: {weight}, request_headers_to_add: [{{header: {{key: x-to, value: {name}}}}}], response_headers_to_add: [{{header: {{key: x-of, value: {name}}}}}]}}"
        )
    };
    let clusters: Vec<_> = clusters.iter().map(one).collect();
    format!("weighted_clusters: {{header_name: x-random, clusters: [{}]}}", clusters.join(", "))
}

/// Priority groups and further fields.
fn groups(groups: &[(&str, &[(&str, u32)])], more: &str) -> String {
    let one = |(name, clusters): &(&str, &[(&str, u32)])| {
        let clusters: Vec<_> = clusters
            .iter()
            .map(|(name, weight)| format!("{{cluster_name: {name}, weight: {weight}}}"))
            .collect();
        format!("{{name: {name}, clusters: [{}]}}", clusters.join(", "))
    };
    let groups: Vec<_> = groups.iter().map(one).collect();
    format!(
        "inline_cluster_specifier_plugin: {{extension: {{name: g, typed_config: {{\"@type\": {SPECIFIERS}.priority_group.v3.PriorityGroupClusterSpecifier, priority_groups: [{}]{more}}}}}}}",
        groups.join(", ")
    )
}

const THREE: &[(&str, &[(&str, u32)])] =
    &[("one", &[("a", 1)]), ("two", &[("b", 1)]), ("three", &[("c", 1)])];

fn routes() -> Vec<(&'static str, String, String)> {
    let mixed: &[(&str, &[(&str, u32)])] =
        &[("one", &[("a", 1), ("b", 1)]), ("two", &[("a", 1), ("b", 2), ("c", 1)])];
    let short = "weighted_clusters: {header_name: x-random, clusters: [{name: a, weight: 1}, {cluster_header: x-second, weight: 1}, {name: c, weight: 1}]}";
    let rewritten = "weighted_clusters: {header_name: x-random, clusters: [{name: a, weight: 1}, {name: b, weight: 1, host_rewrite_literal: other.test}]}";
    let hashed = format!(
        "{}, hash_policy: [{{header: {{header_name: x-key}}}}]",
        groups(&[("one", &[("a", 1), ("b", 1), ("c", 1)])], ", use_hash_policy: true")
    );
    let weighted_by_hash = weighted(&[("a", 50), ("b", 30), ("c", 20)])
        .replace("header_name: x-random", "use_hash_policy: true")
        + ", hash_policy: [{header: {header_name: x-key}}]";
    let renamed = ", auto_host_rewrite: true, append_x_forwarded_host: true";
    vec![
        ("hedged", weighted(&[("a", 50), ("b", 50)]), limited(true)),
        ("hedged-tree", tree(ATTEMPT, &[("1", "nowhere")], "a"), limited(true)),
        ("limited", weighted(&[("a", 50), ("b", 50)]), limited(false)),
        ("named-first", weighted(&[("named", 50), ("b", 50)]) + renamed, again(1)),
        ("named-second", weighted(&[("a", 50), ("named", 50)]) + renamed, again(1)),
        ("tree", tree(ATTEMPT, &[("1", "b"), ("2", "c")], "a"), again(3)),
        ("tree-off", tree(ATTEMPT, &[("1", "b")], "a"), policy(3, false)),
        ("tree-unknown", tree(ATTEMPT, &[("1", "nowhere")], "a"), again(3)),
        ("tree-later", tree(ATTEMPT, &[("1", "b"), ("2", "nowhere")], "a"), again(3)),
        ("tree-same", tree("x-none", &[("1", "b")], "a"), again(2)),
        ("tree-refused", tree(ATTEMPT, &[("1", "a")], "refused"), again(2)),
        ("weighted", weighted(&[("a", 50), ("b", 30), ("c", 20)]), again(5)),
        ("weighted-changed", weighted(&[("a", 50), ("b", 30), ("c", 20)]), again(5)),
        ("weighted-hashed-changed", weighted_by_hash, again(5)),
        ("groups-changed", groups(mixed, ", header_name: x-random"), again(1)),
        ("weighted-off", weighted(&[("a", 50), ("b", 50)]), policy(2, false)),
        ("weighted-zero", weighted(&[("a", 50), ("b", 0)]), again(2)),
        ("weighted-twice", weighted(&[("a", 50), ("a", 50), ("b", 1)]), again(3)),
        ("weighted-header", short.to_owned(), again(3)),
        ("weighted-rewritten", rewritten.to_owned(), again(1)),
        ("weighted-asked", weighted(&[("a", 50), ("b", 50)]), "timeout: 5s".to_owned()),
        ("weighted-from-full", weighted(&[("full", 50), ("b", 50)]), again(2)),
        ("header", "cluster_header: x-second".to_owned(), again(2)),
        ("groups", groups(THREE, ""), again(5)),
        ("groups-off", groups(THREE, ""), policy(1, false)),
        ("groups-mixed", groups(mixed, ", header_name: x-random"), again(1)),
        ("groups-hashed", hashed, again(1)),
        ("groups-told", groups(THREE, ", override_metadata_namespace: told"), again(3)),
        ("groups-untold", groups(THREE, ", override_metadata_namespace: untold"), again(1)),
    ]
}

/// What a filter tells of groups.
const TOLD: [(&str, &str); 9] = [
    ("named", "[{name: three}, {name: two}]"),
    ("own", "[{name: x}, {name: x, clusters: [{cluster_name: c, weight: 1}]}, {name: one}]"),
    ("nowhere", "[{name: x}, {name: x, clusters: [{cluster_name: nowhere, weight: 1}]}]"),
    ("fraction", "[{name: x}, {name: x, clusters: [{cluster_name: c, weight: 1.5}]}]"),
    ("zero", "[{name: x}, {name: x, clusters: [{cluster_name: c, weight: 0}]}]"),
    ("nameless", "[{name: x}, {clusters: [{cluster_name: c, weight: 1}]}]"),
    ("empty", "[{name: x}, {name: three, clusters: []}]"),
    ("no_list", "{name: three}"),
    ("nothing", "[]"),
];

fn listener(name: &str, told: Option<&str>) -> HttpListener {
    let route = |(path, cluster, policy): &(&str, String, String)| {
        let changes = match path.ends_with("-changed") {
            true => {
                "  request_headers_to_add: [{header: {key: x-random, value: \"40\"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}, {header: {key: x-key, value: other}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]\n"
            }
            false => "",
        };
        format!("- match: {{path: /{path}}}\n  route: {{{cluster}, {policy}}}\n{changes}")
    };
    let routes: String = routes().iter().map(route).collect();
    let host = format!(
        "- name: all\n  domains: [\"*\"]\n  include_request_attempt_count: true\n  include_attempt_count_in_response: true\n  routes:\n{}",
        indent(&routes, 2)
    );
    let listener = HttpListener::with_virtual_hosts(name, &host);
    let Some(told) = told else { return listener };
    listener.filters(&format!(
        "- name: m\n  typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config, metadata: [{{metadata_namespace: told, value: {{priority_groups: {told}}}}}]}}"
    ))
}

pub(crate) fn setup() -> Setup {
    let told = TOLD.iter().map(|(name, told)| listener(name, Some(told)).yaml());
    let listeners = std::iter::once(listener("plain", None).yaml()).chain(told);
    let full = cluster("full", "up", "circuit_breakers: {thresholds: [{max_retries: 0}]}\n");
    let named =
        cluster("named", "up", "").replace("endpoint: {address", "endpoint: {hostname: named.test, address");
    let further = ["a", "b", "c"].map(|name| cluster(name, "up", "")).into_iter().chain([full, named]);
    Setup::with_clusters("retried_clusters", listeners, further)
}

fn failing(case: Case, times: usize) -> Case {
    let failure = || Reply::raw("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n");
    (0..times).fold(case, |case, _| case.reply(failure()))
}

/// An answer that takes longer than a try may, and not as long as two.
fn late() -> Reply {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
    Reply::steps([Step::Pause(Duration::from_millis(300)), Step::Send(answer)])
}

fn stalls() -> Reply {
    Reply::steps([Step::Stall])
}

/// Tries that go on beside the next, or would.
fn hedged_cases() -> impl Iterator<Item = Case> {
    let get = |name, path| Case::get(name, "plain", path, "x-random: 0\r\n");
    [
        get("hedged, the first answers", "/hedged").reply(late()).reply(stalls()).reply(stalls()),
        get("hedged, the second answers", "/hedged").reply(stalls()),
        failing(get("hedged, but the first fails in time", "/hedged"), 1),
        get("hedged, where a tree leads nowhere by then", "/hedged-tree").reply(late()).reply(stalls()),
        get("not hedged, the first takes too long", "/limited")
            .reply(stalls())
            .varies("upstream[1].header.x-envoy-expected-rq-timeout-ms", "whether a millisecond has passed"),
    ]
    .into_iter()
}

pub(crate) fn cases() -> Vec<Case> {
    let plain =
        |name, path: &str, lines: &str, failures| failing(Case::get(name, "plain", path, lines), failures);
    let told = |name, listener, failures| failing(Case::get(name, listener, "/groups-told", ""), failures);
    let first = "x-random: 0\r\n";
    vec![
        plain("a tree chooses anew", "/tree", "", 2),
        plain("a tree chooses anew, to the end", "/tree", "", 4),
        plain("a tree is not asked again", "/tree-off", "", 2),
        plain("a tree leads to no cluster the second time", "/tree-unknown", "", 1),
        plain("a tree leads to no cluster the third time", "/tree-later", "", 2),
        plain("a tree leads to the same cluster", "/tree-same", "", 3),
        plain("a tree leads away from a host that refuses", "/tree-refused", "", 0)
            .varies("upstream[0].header.x-envoy-expected-rq-timeout-ms", "whether a millisecond has passed"),
        plain("weighted clusters that were not tried", "/weighted", first, 2),
        plain("weighted clusters, by another number", "/weighted", "x-random: 60\r\n", 2),
        plain("weighted clusters, all tried", "/weighted", first, 6),
        plain("weighted clusters, the route changes the number", "/weighted-changed", first, 2),
        plain(
            "weighted clusters, the route changes what is hashed",
            "/weighted-hashed-changed",
            "x-key: some\r\n",
            2,
        ),
        plain(
            "weighted clusters, the route changes what else is hashed",
            "/weighted-hashed-changed",
            "x-key: more\r\n",
            2,
        ),
        plain("groups, the route changes the number", "/groups-changed", first, 1),
        plain("weighted clusters, not chosen anew", "/weighted-off", first, 2),
        plain("weighted clusters, one without weight", "/weighted-zero", first, 3),
        plain("weighted clusters, one listed twice", "/weighted-twice", first, 2),
        plain("weighted clusters, one by header", "/weighted-header", "x-random: 0\r\nx-second: b\r\n", 2),
        plain("weighted clusters, none by header", "/weighted-header", "x-random: 0\r\nx-second: no\r\n", 2),
        plain("weighted clusters, a host is rewritten", "/weighted-rewritten", first, 1),
        plain(
            "weighted clusters, the request asks for retries",
            "/weighted-asked",
            "x-random: 0\r\nx-envoy-retry-on: 5xx\r\n",
            1,
        ),
        plain("weighted clusters, the first may not retry", "/weighted-from-full", first, 1),
        plain("a header names the cluster", "/header", "x-second: a\r\n", 2),
        plain("groups one after the other", "/groups", "", 2),
        plain("groups, the last for all that follow", "/groups", "", 6),
        plain("groups, not chosen anew", "/groups-off", "", 1),
        plain("groups by a number", "/groups-mixed", first, 1),
        plain("groups by another number", "/groups-mixed", "x-random: 5\r\n", 1),
        plain("groups by a large number", "/groups-mixed", "x-random: 18446744073709551615\r\n", 1),
        plain("groups by what is hashed", "/groups-hashed", "x-key: some\r\n", 1),
        plain("groups by what else is hashed", "/groups-hashed", "x-key: other\r\n", 1),
        plain("groups, nothing told", "/groups-told", "", 2),
        plain("groups, nothing told there", "/groups-untold", "", 1),
        told("groups told by name", "named", 3),
        told("groups told with clusters", "own", 3),
        told("groups told with an unknown cluster", "nowhere", 1),
        told("groups told with half a weight", "fraction", 1),
        told("groups told with no weight", "zero", 1),
        told("groups told without a name", "nameless", 1),
        told("groups told without clusters", "empty", 1),
        told("groups told, but no list", "no_list", 1),
        told("groups told, an empty list", "nothing", 1),
        plain("a host with a name, then one without", "/named-first", first, 1),
        plain("a host without a name, then one with", "/named-second", first, 1),
    ]
    .into_iter()
    .chain(hedged_cases())
    .collect()
}
