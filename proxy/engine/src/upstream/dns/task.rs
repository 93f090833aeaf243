//! Keeps the hosts of a DNS cluster current.

use std::future::ready;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use proxy_core::upstream::HostsUpdate;
use tokio::time::Instant;

use super::resolver::Resolver;
use super::schedule::{Answer, Outcome, Schedule};
use crate::upstream::cluster::Cluster;
use crate::upstream::discovery::Discovery;

/// What the owner of a DNS cluster is told.
#[derive(Debug)]
pub struct DnsUpdate {
    /// How the hosts changed; `None` if they did not. The cluster has them already.
    pub hosts: Option<HostsUpdate>,
    /// Whether this is what the cluster's initialisation waits for: the first answer, good or bad.
    pub warmed: bool,
}

/// Resolves the names of `cluster` for ever, and tells `on_update` of each change and of the end of warming.
///
/// Returns at once for a cluster that is not found by DNS. Dropping the future stops it; it owns nothing that could be
/// lost.
pub async fn run(cluster: Arc<Cluster>, resolver: Arc<dyn Resolver>, mut on_update: impl FnMut(DnsUpdate)) {
    let Discovery::Dns(config) = &cluster.discovery else { return };
    let mut schedule = Schedule::new(config, Instant::now(), fastrand::Rng::new());
    let mut warmed = schedule.next_due().is_none() || !config.wait_for_warm_on_init;
    if warmed {
        on_update(DnsUpdate { hosts: None, warmed });
    }
    let mut asked = FuturesUnordered::new();
    loop {
        for name in schedule.take_due(Instant::now()) {
            cluster.stats.state.update_attempt.inc();
            let answer = match name.parse::<IpAddr>() {
                Ok(ip) => Either::Left(ready(Ok(Answer { addresses: vec![ip], ..Answer::default() }))),
                Err(_) => Either::Right(resolver.resolve(name.clone(), config.family)),
            };
            asked.push(async move { (name, answer.await) });
        }
        let next = schedule.next_due();
        if next.is_none() && asked.is_empty() {
            return;
        }
        // Both arms are safe to cancel: the set keeps its futures, and the time is computed anew.
        tokio::select! {
            Some((name, answer)) = asked.next() => {
                if let Err(error) = &answer {
                    tracing::debug!(cluster = cluster.name.as_str(), %name, %error, "cannot be resolved");
                }
                let outcome = schedule.answered(&name, answer, Instant::now());
                let hosts = apply(&cluster, &schedule, outcome);
                if hosts.is_some() || !warmed {
                    on_update(DnsUpdate { hosts, warmed: !warmed });
                }
                warmed = true;
            }
            () = sleep_until(next) => {}
        }
    }
}

fn apply(cluster: &Cluster, schedule: &Schedule, outcome: Outcome) -> Option<HostsUpdate> {
    let state = &cluster.stats.state;
    match outcome {
        Outcome::Answered => state.update_success.inc(),
        Outcome::Failed => {
            state.update_failure.inc();
            return None;
        }
    }
    let update = cluster.update_hosts(&schedule.assignment());
    if !update.changed {
        state.update_no_rebuild.inc();
    }
    Some(update).filter(|update| update.changed)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
