//! What statistics say of the subsets of a cluster's hosts.

use std::sync::atomic::{AtomicU64, Ordering};

use proxy_core::stats::groups::{ClusterTrafficStats, SubsetStats};
use proxy_core::stats::{Cells, Scope, Shared};
use proxy_core::upstream::HostSet;

/// Counts subsets that come and go, as often as Envoy does: once for each thread that has a balancer, the main one among them.
#[derive(Debug)]
pub(super) struct SubsetCounts {
    traffic: Cells<ClusterTrafficStats>,
    stats: Shared<SubsetStats>,
    threads: u64,
    active: AtomicU64,
}

impl SubsetCounts {
    pub(super) fn new(traffic: &Cells<ClusterTrafficStats>, scope: &Scope, workers: usize) -> Self {
        let threads = workers as u64 + 1;
        Self { traffic: traffic.clone(), stats: scope.shared(), threads, active: AtomicU64::new(0) }
    }

    /// The hosts are `now`, and were `before`. Main thread only.
    pub(super) fn publish(&self, before: &HostSet, now: &HostSet) {
        let (before, Some(now)) = (before.subsets(), now.subsets()) else { return };
        let created = now.not_in(before) as u64 * self.threads;
        let removed = before.map_or(0, |before| before.not_in(Some(now)) as u64) * self.threads;
        let active = now.len() as u64 * self.threads;
        let was_active = self.active.swap(active, Ordering::Relaxed);
        let traffic = self.traffic.here();
        traffic.lb_subsets_created.add(created);
        traffic.lb_subsets_removed.add(removed);
        traffic.lb_subsets_active.sub(was_active);
        traffic.lb_subsets_active.add(active);
        self.stats.lb_subsets_single_host_per_subset_duplicate.set(now.duplicates);
    }
}

impl Drop for SubsetCounts {
    fn drop(&mut self) {
        let traffic = self.traffic.here();
        traffic.lb_subsets_removed.add(*self.active.get_mut());
        traffic.lb_subsets_active.sub(*self.active.get_mut());
    }
}
