//! Statistics of single hosts (`track_cluster_stats.per_endpoint_stats`): `cluster.<cluster>.endpoint.<address>.*`.
//!
//! They are what `/clusters` shows, which hosts count in any case: nothing is kept for them, and only who reads statistics pays.
//! Source: `TrackClusterStats` in `envoy/config/cluster/v3/cluster.proto`; observed on 1.40.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use proxy_core::stats::{KeptElsewhere, Labelled, Metric, Value, sanitize};
use proxy_core::upstream::{Host, HostHealth};
use proxy_engine::upstream::cluster::Cluster;

use super::dial::Directory;

const CLUSTER: &str = "envoy.cluster_name";
const ADDRESS: &str = "envoy.endpoint_address";
const HOSTNAME: &str = "envoy.endpoint_hostname";

/// Names of [`Endpoint::counters`].
const COUNTERS: [&str; 6] =
    ["cx_connect_fail", "cx_total", "rq_error", "rq_success", "rq_timeout", "rq_total"];

/// Names of [`Endpoint::gauges`].
const GAUGES: [&str; 3] = ["cx_active", "rq_active", "rq_pending_active"];

impl KeptElsewhere for Directory {
    fn visit(&self, visitor: &mut dyn FnMut(Metric<'_>)) {
        let snapshot = self.snapshot();
        for cluster in snapshot.clusters.iter().flatten().filter(|cluster| cluster.stats.per_endpoint) {
            let hosts = cluster.known_hosts();
            let mut endpoints = BTreeMap::new();
            for host in hosts.hosts() {
                let name = (host.address.to_string(), &*host.hostname);
                endpoints.entry(name).or_insert_with(Endpoint::default).add(host);
            }
            for ((address, hostname), endpoint) in endpoints {
                endpoint.visit(cluster, &address, hostname, visitor);
            }
        }
    }
}

/// What is told of one address and host name: of the host, or of the hosts together that have both in common.
#[derive(Default)]
struct Endpoint {
    counters: [u64; 6],
    gauges: [u64; 3],
    is_healthy: bool,
}

impl Endpoint {
    fn add(&mut self, host: &Host) {
        let stats = &host.stats;
        let counters = [
            &stats.cx_connect_fail,
            &stats.cx_total,
            &stats.rq_error,
            &stats.rq_success,
            &stats.rq_timeout,
            &stats.rq_total,
        ];
        for (sum, counter) in self.counters.iter_mut().zip(counters) {
            *sum += counter.load(Relaxed);
        }
        let gauges = [&host.active_connections, &host.active_requests, &host.pending_requests];
        for (sum, gauge) in self.gauges.iter_mut().zip(gauges) {
            *sum += u64::from(gauge.load(Relaxed));
        }
        self.is_healthy |= host.health() == HostHealth::Healthy;
    }

    fn visit(&self, cluster: &Cluster, address: &str, hostname: &str, visitor: &mut dyn FnMut(Metric<'_>)) {
        let prefix = cluster.stats.scope.prefix();
        let name = prefix.split_once('.').map_or("", |(_, name)| name);
        let mut labels: Vec<(Box<str>, Box<str>)> =
            vec![(CLUSTER.into(), name.into()), (ADDRESS.into(), address.into())];
        if !hostname.is_empty() {
            labels.push((HOSTNAME.into(), hostname.into()));
        }
        let mut labelled = Labelled::like_extracted("", labels.into());
        let prefix = format!("{prefix}.endpoint.{}", sanitize(address));
        let mut show = |what: &str, value: Value<'_>| {
            labelled.name = format!("cluster.endpoint.{what}").into();
            let name = format!("{prefix}.{what}");
            visitor(Metric { name: &name, labelled: Some(&labelled), value, used: true, hidden: false });
        };
        for (what, count) in COUNTERS.into_iter().zip(self.counters) {
            show(what, Value::Counter(count));
        }
        for (what, level) in GAUGES.into_iter().zip(self.gauges) {
            show(what, Value::Gauge(level));
        }
        show("healthy", Value::Gauge(self.is_healthy.into()));
    }
}
