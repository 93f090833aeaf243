//! What statistics cost while nobody touches them, and once one worker does.
#![allow(clippy::unwrap_used)]

use proxy_core::stats::groups::{ClusterStateStats, ClusterTrafficStats};
use proxy_core::stats::{Cells, Registry, ShardId, Shared, set_shard};

const CLUSTERS: usize = 20_000;

/// Everything in one test: a second one in this process would disturb the measurement.
#[test]
fn an_untouched_cluster_costs_well_under_a_kilobyte() {
    set_shard(ShardId(0));
    let registry = Registry::new(2);
    let before = resident();
    let clusters: Vec<Owner> = (0..CLUSTERS).map(|index| Owner::new(&registry, index)).collect();
    let registered = resident();
    let mut shown = 0;
    registry.visit(&mut |_| shown += 1);
    assert!(shown > CLUSTERS * 100, "{shown} statistics shown");
    let visited = resident();
    for cluster in &clusters {
        let here = cluster.traffic.here();
        here.upstream_rq_total.inc();
        here.upstream_rq.inc(200);
        here.upstream_rq_time.record(3);
        cluster.state.membership_total.set(3);
    }
    let touched = resident();
    let per_cluster = |bytes: usize| bytes / CLUSTERS;
    let untouched = per_cluster(registered - before);
    let touching = per_cluster(touched - visited);
    assert!(untouched <= 650, "{untouched} bytes per untouched cluster");
    assert!(visited - registered <= CLUSTERS * 16, "reading cost {} bytes", visited - registered);
    assert!(touching <= 2_000, "{touching} bytes more once one thread touches it");
}

struct Owner {
    traffic: Cells<ClusterTrafficStats>,
    state: Shared<ClusterStateStats>,
}

impl Owner {
    fn new(registry: &std::sync::Arc<Registry>, index: usize) -> Self {
        let scope =
            registry.scope(&format!("cluster.outbound|80||service-{index}.default.svc.cluster.local"));
        Self { traffic: scope.cells(), state: scope.shared() }
    }
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
