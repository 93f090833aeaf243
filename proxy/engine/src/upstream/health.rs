//! Looks after a cluster's hosts on the main thread: checks them, ejects outliers and lets them back in, and weighs them by what they report.
//!
//! A change of health or weight sorts the hosts anew; no pool, balancer or cluster is rebuilt, and no request waits for it.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use proxy_core::upstream::{HealthFlag, Host, OutlierChange};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::checks::sessions::{Findings, Found};
use super::cluster::Cluster;
use super::oob::Streams;
use super::outlier::Judge;

/// Whether somebody has to look after the hosts of `cluster`.
pub fn is_watched(cluster: &Cluster) -> bool {
    cluster.outlier.is_some() || cluster.checks.is_some() || cluster.balancing.reported.is_some()
}

/// What is told of the health of a cluster.
#[derive(Debug)]
pub enum HealthUpdate {
    /// The hosts were sorted anew.
    Sorted {
        /// Those that failed just now.
        failed: Vec<Arc<Host>>,
        /// Some left.
        removed: bool,
    },
    /// All hosts were checked at least once.
    Checked,
}

/// Looks after the hosts of `cluster` for as long as it is polled, and tells `on_update` of what changed. For the main thread, in a
/// local set; cancel-safe.
pub async fn run(cluster: Arc<Cluster>, on_update: impl Fn(HealthUpdate)) {
    let outlier = cluster.outlier.as_ref();
    let mut judge = outlier.and_then(|outlier| Judge::new(outlier, cluster.name.as_str()));
    let mut findings = Findings::new(&cluster);
    let mut streams = Streams::new(&cluster);
    let reported = cluster.balancing.reported.as_ref();
    let mut weighing = reported.map(|reported| weighing(reported.period));
    if judge.is_none() && findings.is_none() && weighing.is_none() {
        return;
    }
    let mut is_checked = true;
    loop {
        let hosts = cluster.known_hosts();
        if let Some(judge) = &mut judge {
            judge.set_hosts(&hosts);
        }
        if let Some(findings) = &mut findings {
            findings.set_hosts(&hosts);
        }
        if let Some(streams) = &mut streams {
            streams.set_hosts(&hosts);
        }
        drop(hosts);
        let was_checked = std::mem::replace(&mut is_checked, cluster.is_checked());
        if is_checked && !was_checked {
            on_update(HealthUpdate::Checked);
        }
        tokio::select! {
            () = cluster.membership_changed() => {}
            _ = wait(weighing.as_mut().map(Interval::tick)) => cluster.weigh_hosts(),
            changes = wait(judge.as_mut().map(|judge| judge.judge(|| cluster.known_hosts()))) => {
                settle(&cluster, &changes, &[], &on_update);
            }
            found = wait(findings.as_mut().map(Findings::found)) => {
                let changes = judge.as_mut().map_or_else(Vec::new, |judge| unejected(judge, &found));
                settle(&cluster, &changes, &found, &on_update);
            }
        }
    }
}

/// The weights of hosts are made anew so often; none of them is made up for.
fn weighing(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// What the future comes to, if there is one.
async fn wait<F: Future>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}

/// Hosts that are well as far as checks go are let back in.
fn unejected(judge: &mut Judge<'_>, found: &[Found]) -> Vec<OutlierChange> {
    let is_well = |found: &&Found| found.passed && !found.host.has_flag(HealthFlag::FailedActiveHealthCheck);
    found.iter().filter(is_well).flat_map(|found| judge.checked(&found.host)).collect()
}

fn settle(cluster: &Cluster, changes: &[OutlierChange], found: &[Found], on_update: &impl Fn(HealthUpdate)) {
    let is_real = |change: &&OutlierChange| change.ejection.is_none_or(|ejection| ejection.enforced);
    let judged: Vec<&Arc<Host>> = changes.iter().filter(is_real).map(|change| &change.host).collect();
    if judged.is_empty() && !found.iter().any(|found| found.changed) {
        return;
    }
    let ejected = judged.into_iter().filter(|host| host.has_flag(HealthFlag::FailedOutlierCheck));
    let fell = found.iter().filter(|found| found.fell).map(|found| &found.host);
    let failed = ejected.chain(fell).cloned().collect();
    let removed = cluster.remove_outstayed();
    if !removed {
        cluster.refresh_hosts();
    }
    on_update(HealthUpdate::Sorted { failed, removed });
}
