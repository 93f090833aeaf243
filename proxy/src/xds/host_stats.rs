//! Statistics of single hosts (`track_cluster_stats.per_endpoint_stats`): `cluster.<cluster>.endpoint.<address>.*`.
//!
//! They are what `/clusters` shows, which hosts count in any case: nothing is kept for them, and only who reads statistics pays.
//! Source: `TrackClusterStats` in `envoy/config/cluster/v3/cluster.proto`; observed on 1.40.

use std::sync::atomic::{AtomicU32, Ordering};

use proxy_core::stats::{KeptElsewhere, Labelled, Metric, Value, sanitize};
use proxy_core::upstream::{Host, HostHealth};
use proxy_engine::upstream::cluster::Cluster;

use super::dial::Directory;

const CLUSTER: &str = "envoy.cluster_name";
const ADDRESS: &str = "envoy.endpoint_address";
const HOSTNAME: &str = "envoy.endpoint_hostname";

impl KeptElsewhere for Directory {
    fn visit(&self, visitor: &mut dyn FnMut(Metric<'_>)) {
        let snapshot = self.snapshot();
        for cluster in snapshot.clusters.iter().flatten().filter(|cluster| cluster.stats.per_endpoint) {
            for host in cluster.known_hosts().hosts() {
                visit(cluster, host, visitor);
            }
        }
    }
}

fn visit(cluster: &Cluster, host: &Host, visitor: &mut dyn FnMut(Metric<'_>)) {
    let prefix = cluster.stats.scope.prefix();
    let name = prefix.split_once('.').map_or("", |(_, name)| name);
    let address = host.address.to_string();
    let mut labels: Vec<(Box<str>, Box<str>)> =
        vec![(CLUSTER.into(), name.into()), (ADDRESS.into(), address.as_str().into())];
    if !host.hostname.is_empty() {
        labels.push((HOSTNAME.into(), Box::from(&*host.hostname)));
    }
    let mut labelled = Labelled::like_extracted("", labels.into());
    let prefix = format!("{prefix}.endpoint.{}", sanitize(&address));
    let mut show = |what: &str, value: Value<'_>| {
        labelled.name = format!("cluster.endpoint.{what}").into();
        let name = format!("{prefix}.{what}");
        visitor(Metric { name: &name, labelled: Some(&labelled), value, used: true, hidden: false });
    };
    let read = |count: &AtomicU32| u64::from(count.load(Ordering::Relaxed));
    for (what, count) in [
        ("cx_connect_fail", &host.stats.cx_connect_fail),
        ("cx_total", &host.stats.cx_total),
        ("rq_error", &host.stats.rq_error),
        ("rq_success", &host.stats.rq_success),
        ("rq_timeout", &host.stats.rq_timeout),
        ("rq_total", &host.stats.rq_total),
    ] {
        show(what, Value::Counter(read(count)));
    }
    for (what, level) in [
        ("cx_active", read(&host.active_connections)),
        ("rq_active", read(&host.active_requests)),
        ("rq_pending_active", read(&host.pending_requests)),
        ("healthy", u64::from(host.health() == HostHealth::Healthy)),
    ] {
        show(what, Value::Gauge(level));
    }
}
