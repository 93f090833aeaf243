//! Looks after the health of a cluster's hosts on the main thread: ejects outliers and lets them back in.
//!
//! A change of health sorts the hosts anew; no pool, balancer or cluster is rebuilt, and no request waits for it.

use std::sync::Arc;

use proxy_core::upstream::{HealthFlag, Host, OutlierChange};

use super::cluster::Cluster;
use super::outlier::Judge;

/// Whether somebody has to look after the hosts of `cluster`.
pub fn is_watched(cluster: &Cluster) -> bool {
    cluster.outlier.is_some()
}

/// Looks after the hosts of `cluster` for as long as it is polled; `changed` is told after the hosts were sorted anew, with
/// those that failed just now. For the main thread; cancel-safe.
pub async fn run(cluster: Arc<Cluster>, changed: impl Fn(Vec<Arc<Host>>)) {
    let Some(outlier) = &cluster.outlier else { return };
    let Some(mut judge) = Judge::new(outlier, cluster.name.as_str()) else { return };
    judge.set_hosts(&cluster.known_hosts());
    loop {
        tokio::select! {
            () = cluster.membership_changed() => judge.set_hosts(&cluster.known_hosts()),
            changes = judge.judge(|| cluster.known_hosts()) => settle(&cluster, &changes, &changed),
        }
    }
}

fn settle(cluster: &Cluster, changes: &[OutlierChange], changed: &impl Fn(Vec<Arc<Host>>)) {
    let is_real = |change: &&OutlierChange| change.ejection.is_none_or(|ejection| ejection.enforced);
    let changed_hosts: Vec<&Arc<Host>> = changes.iter().filter(is_real).map(|change| &change.host).collect();
    if changed_hosts.is_empty() {
        return;
    }
    cluster.refresh_hosts();
    let has_failed = |host: &&Arc<Host>| host.has_flag(HealthFlag::FailedOutlierCheck);
    changed(changed_hosts.into_iter().filter(has_failed).cloned().collect());
}
