//! Names, kinds, tags and order against a dump of Envoy 1.40 with one HTTP and one TCP listener, TLS and HTTP inspector,
//! PROXY protocol, a file access log, a virtual cluster, a route with `stat_prefix`, and five static clusters of which
//! `c` got traffic with sizes and remaining breakers tracked.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::stats::{Registry, Scope, Selection, Value, prometheus};

const NAMES: &str = include_str!("../fixtures/envoy-1.40-names.txt");
const PROMETHEUS: &str = include_str!("../fixtures/envoy-1.40-prometheus.txt");

/// What Envoy has and this proxy has not, on purpose.
const LEFT_OUT: [&str; 1] = [
    // Only the hot restart of Envoy's build counts its shared memory generations.
    "gauge server.hot_restart_generation",
];

/// What this proxy counts and Envoy does not: fields of the configuration that have no effect.
const OWN: [&str; 2] = ["server.static_ignored_fields", "server.dynamic_ignored_fields"];

/// Keeps the owners of the groups alive.
struct Owners {
    registry: Arc<Registry>,
    scopes: Vec<Scope>,
}

impl Owners {
    fn scope(&mut self, prefix: &str) -> Scope {
        let scope = self.registry.scope(prefix);
        self.scopes.push(scope.clone());
        scope
    }
}

fn cluster(owners: &mut Owners, name: &str) -> Scope {
    let scope = owners.scope(&format!("cluster.{name}"));
    scope.cells::<ClusterTrafficStats>();
    scope.shared::<ClusterStateStats>();
    scope
}

fn respond(scope: &Scope) {
    let route = scope.cells::<RouteStats>();
    route.here().upstream_rq.inc(200);
    route.here().upstream_rq_time.record(1);
}

fn listener(owners: &mut Owners, address: &str, prefix: &str, handler: &str) -> Scope {
    let scope = owners.scope(&format!("listener.{address}"));
    scope.cells::<ListenerStats>();
    let handler = scope.child(handler);
    handler.cells::<PerHandlerStats>();
    owners.scopes.push(handler);
    if !prefix.is_empty() {
        let http = scope.child(&format!("http.{prefix}"));
        http.cells::<ListenerHttpStats>();
        owners.scopes.push(http);
    }
    scope
}

/// The same configuration as that of the dump.
fn comparable() -> Owners {
    let mut owners = Owners { registry: Registry::new(1), scopes: Vec::new() };
    for name in ["a-b.c", "a.b", "h2", "outbound|80||a.b:c"] {
        cluster(&mut owners, name);
    }
    let c = cluster(&mut owners, "c");
    let traffic = c.cells::<ClusterTrafficStats>();
    traffic.here().upstream_rq.inc(200);
    traffic.here().external_upstream_rq.inc(200);
    traffic.here().upstream_rq_time.record(1);
    traffic.here().external_upstream_rq_time.record(1);
    c.cells::<ClusterSizeStats>();
    c.cells::<ClusterTimeoutBudgetStats>();
    owners.scope("cluster.c.http1").cells::<Http1Stats>();
    owners.scope("cluster.c.circuit_breakers.default").shared::<CircuitBreakerRemainingStats>();

    for prefix in ["ing", "admin"] {
        owners.scope(&format!("http.{prefix}")).cells::<HttpStats>();
    }
    owners.scope("http.ing").cells::<RouterStats>();
    owners.scope("http.ing.tracing").cells::<TracingStats>();
    owners.scope("http.async-client").cells::<RouterStats>();
    for prefix in ["vhost.vh.route.rsp", "vhost.vh.vcluster.vc", "vhost.vh.vcluster.other"] {
        respond(&owners.scope(prefix));
    }
    // Both listeners were bound to port 0 of one address, which Envoy puts into the name: they share their groups.
    listener(&mut owners, "127.0.0.1_0", "ing", "worker_0").cells::<ListenerExtensionStats>();
    listener(&mut owners, "admin", "admin", "main_thread");
    owners.scope("listener_manager").shared::<ListenerManagerStats>();
    owners.scope("tls_inspector").cells::<TlsInspectorStats>();
    owners.scope("http_inspector").cells::<HttpInspectorStats>();
    owners.scope("proxy_proto").cells::<ProxyProtocolStats>();
    owners.scope("").cells::<ProxyProtocolErrorStats>();
    owners.scope("tcp.tp").cells::<TcpProxyStats>();
    process(&mut owners);
    owners
}

fn process(owners: &mut Owners) {
    owners.scope("http1").cells::<Http1Stats>();
    owners.scope("http2").cells::<Http2Stats>();
    owners.scope("cluster_manager").shared::<ClusterManagerStats>();
    owners.scope("dns.cares").shared::<CaresStats>();
    owners.scope("envoy.overload_actions.reset_high_memory_stream").shared::<HighMemoryStreamStats>();
    owners.scope("filesystem").shared::<FilesystemStats>();
    owners.scope("overload").shared::<OverloadStats>();
    owners.scope("runtime").shared::<RuntimeStats>();
    owners.scope("server").shared::<ServerStats>();
    for prefix in ["main_thread", "workers", "server.main_thread", "server.worker_0"] {
        owners.scope(prefix).shared::<WatchdogStats>();
    }
    for thread in ["main_thread", "worker_0"] {
        let scope = owners.scope(&format!("thread_local_cluster_manager.{thread}"));
        scope.shared::<ThreadLocalClusterManagerStats>();
    }
}

/// The filter with which the dump was taken: of the other clusters only one gauge, to keep it small.
fn selection() -> Selection {
    let filter =
        crate::matcher::regex::Search::new(r"^[^c]|^cluster_|^cluster\.c\.|membership_total$").unwrap();
    Selection { filter: Some(filter), ..Selection::default() }
}

#[test]
fn names_and_kinds_are_those_of_envoy() {
    let owners = comparable();
    let selection = selection();
    let mut ours = BTreeSet::new();
    owners.registry.visit(&mut |metric| {
        if selection.wants(&metric) {
            let kind = match metric.value {
                Value::Counter(_) => "counter",
                Value::Gauge(_) => "gauge",
                Value::Histogram(_) => "histogram",
                Value::Text(_) => "text",
            };
            assert!(ours.insert(format!("{kind} {}", metric.name)), "{} twice", metric.name);
        }
    });
    let theirs: BTreeSet<String> =
        NAMES.lines().filter(|line| !LEFT_OUT.contains(line)).map(str::to_owned).collect();
    let missing: Vec<_> = theirs.difference(&ours).collect();
    let is_own = |line: &str| OWN.iter().any(|own| line == format!("counter {own}"));
    let extra: Vec<_> = ours.difference(&theirs).filter(|line| !is_own(line)).collect();
    assert!(OWN.iter().all(|own| ours.contains(&format!("counter {own}"))), "a counter of our own is gone");
    assert!(missing.is_empty() && extra.is_empty(), "missing {missing:#?}, extra {extra:#?}");
}

#[test]
fn subscriptions_have_the_names_of_envoy() {
    let mut owners = Owners { registry: Registry::new(1), scopes: Vec::new() };
    let eds = owners.scope("cluster.dyn");
    eds.shared::<ClusterStateStats>();
    eds.shared::<EdsStats>();
    let rds = owners.scope("http.ing.rds.r.x");
    rds.shared::<XdsStats>();
    rds.shared::<ConfigReloadStats>();
    rds.shared::<RdsStats>();
    let mut names = Vec::new();
    owners.registry.visit(&mut |metric| names.push(metric.name.to_owned()));
    names.retain(|name| name.contains("update") || name.contains("version") || name.contains("rds"));
    names.sort();
    // As Envoy 1.40 shows them for file based CDS, EDS and RDS.
    let expected = [
        "cluster.dyn.update_attempt",
        "cluster.dyn.update_duration",
        "cluster.dyn.update_empty",
        "cluster.dyn.update_failure",
        "cluster.dyn.update_no_rebuild",
        "cluster.dyn.update_rejected",
        "cluster.dyn.update_success",
        "cluster.dyn.update_time",
        "cluster.dyn.version",
        "cluster.dyn.version_text",
        "http.ing.rds.r.x.config_reload",
        "http.ing.rds.r.x.config_reload_time_ms",
        "http.ing.rds.r.x.init_fetch_timeout",
        "http.ing.rds.r.x.update_attempt",
        "http.ing.rds.r.x.update_duration",
        "http.ing.rds.r.x.update_empty",
        "http.ing.rds.r.x.update_failure",
        "http.ing.rds.r.x.update_rejected",
        "http.ing.rds.r.x.update_success",
        "http.ing.rds.r.x.update_time",
        "http.ing.rds.r.x.version",
        "http.ing.rds.r.x.version_text",
    ];
    assert_eq!(names, expected);
}

#[test]
fn the_prometheus_exposition_has_the_lines_of_envoy_in_its_order() {
    let owners = comparable();
    owners.registry.flush();
    let shown = prometheus::render(&owners.registry, &selection()).unwrap();
    let one_histogram = |line: &&str| {
        !line.contains("_bucket{")
            || (line.starts_with("envoy_http_downstream_rq_time") && line.contains("\"ing\""))
    };
    let ours: Vec<&str> = shown
        .lines()
        .filter(one_histogram)
        .filter(|line| !line.contains("_ignored_fields"))
        .map(|line| if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 })
        .collect();
    let theirs: Vec<&str> =
        PROMETHEUS.lines().filter(|line| !line.contains("hot_restart_generation")).collect();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
fn sizes_stay_within_their_budgets() {
    // One worker's copy of a cluster with traffic; HTTP/2 and the rest are other groups.
    assert!(size_of::<ClusterTrafficStats>() <= 800, "{}", size_of::<ClusterTrafficStats>());
    assert!(size_of::<HttpStats>() <= 600, "{}", size_of::<HttpStats>());
    assert!(size_of::<RouteStats>() <= 100, "{}", size_of::<RouteStats>());
}
