//! Circuit breakers: limits of a cluster on what it may have open at once, shared by all workers.
//!
//! A [`Permit`] counts while it lives. The runtime may set each limit (`circuit_breakers.<cluster>.<priority>.*`).
//! Source: Envoy `docs/root/intro/arch_overview/upstream/circuit_breaking.rst`,
//! `docs/root/configuration/upstream/cluster_manager/cluster_circuit_breakers.rst`.

mod limit;
mod recent;
#[cfg(test)]
mod simulation;
mod thresholds;

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::runtime::Runtime;
use proxy_core::stats::groups::{CircuitBreakerRemainingStats, ClusterStateStats};
use proxy_core::stats::{Scope, Shared, SharedGauge};
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::core::v3::RoutingPriority;

use self::limit::{Limit, Standing};
use self::thresholds::{RetryBudget, Rule, RuledThresholds, Thresholds};
use crate::local::clock;

/// Which of a cluster's two sets of limits applies; a route says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BreakerPriority {
    /// `DEFAULT`
    #[default]
    Default,
    /// `HIGH`
    High,
}

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests in flight.
    Requests,
    /// Retries in flight.
    Retries,
    /// Connection pools.
    Pools,
}

const RESOURCES: usize = 5;

/// What the runtime makes of the limits, while it says anything of them: nothing is kept for the many clusters of which it does not.
#[derive(Debug)]
struct Ruled {
    default: RuledThresholds,
    high: RuledThresholds,
}

/// The circuit breakers of one cluster.
#[derive(Debug)]
pub struct Breakers {
    default: Thresholds,
    high: Thresholds,
    /// Connections that one host may have over all workers, by priority.
    max_connections_per_host: [u32; 2],
    stats: Shared<ClusterStateStats>,
    ruled: ArcSwapOption<Ruled>,
}

/// Whatever leads to the breakers of a cluster; a [`Permit`] keeps it alive.
pub trait BreakerOwner {
    /// The breakers.
    fn breakers(&self) -> &Breakers;
}

impl BreakerOwner for Arc<Breakers> {
    fn breakers(&self) -> &Breakers {
        self
    }
}

/// Counts as one of a limited resource until it is dropped.
#[derive(Debug)]
pub struct Permit<O: BreakerOwner> {
    owner: O,
    priority: BreakerPriority,
    resource: Resource,
}

impl<O: BreakerOwner> Drop for Permit<O> {
    fn drop(&mut self) {
        self.owner.breakers().release(self.priority, self.resource);
    }
}

impl<O: BreakerOwner> Permit<O> {
    /// Takes one of `resource`; gives `owner` back when all are taken.
    pub fn acquire(owner: O, priority: BreakerPriority, resource: Resource) -> Result<Self, O> {
        if !owner.breakers().take(priority, resource, false) {
            return Err(owner);
        }
        Ok(Self { owner, priority, resource })
    }

    /// Takes one of `resource` even over the limit, as the first connection of a pool may.
    pub fn acquire_over(owner: O, priority: BreakerPriority, resource: Resource) -> Self {
        owner.breakers().take(priority, resource, true);
        Self { owner, priority, resource }
    }

    /// Takes one of the retries that the limit, or the budget in its place, leaves.
    pub fn acquire_retry(owner: O, priority: BreakerPriority) -> Result<Self, O> {
        let has_budget = match owner.breakers().budget_left(priority) {
            Some(false) => return Err(owner),
            Some(true) => true,
            None => false,
        };
        if !owner.breakers().take(priority, Resource::Retries, has_budget) {
            return Err(owner);
        }
        Ok(Self { owner, priority, resource: Resource::Retries })
    }

    /// What keeps the breakers alive.
    pub fn owner(&self) -> &O {
        &self.owner
    }
}

impl Breakers {
    /// Reads the limits; `scope` is that of the cluster's statistics.
    pub fn build(
        proto: Option<&proto::CircuitBreakers>,
        scope: &Scope,
        stats: Shared<ClusterStateStats>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let of = |priority: RoutingPriority| {
            let mut thresholds = proto.into_iter().flat_map(|proto| &proto.thresholds);
            thresholds.find(|one| one.priority == priority as i32)
        };
        cx.each("thresholds", proto.map_or(&[][..], |proto| &proto.thresholds), check_budget)?;
        let default = Thresholds::build(of(RoutingPriority::Default), BreakerPriority::Default.name(), scope);
        let high = Thresholds::build(of(RoutingPriority::High), BreakerPriority::High.name(), scope);
        let per_host = proto.map_or(&[][..], |proto| &proto.per_host_thresholds);
        cx.each("per_host_thresholds", per_host, check_per_host)?;
        let max_connections_per_host = [RoutingPriority::Default, RoutingPriority::High].map(|priority| {
            let of_host = per_host.iter().find(|one| one.priority == priority as i32);
            of_host.and_then(|one| one.max_connections).unwrap_or(u32::MAX)
        });
        let ruled = ArcSwapOption::empty();
        Ok(Self { default, high, max_connections_per_host, stats, ruled })
    }

    /// Takes over what the runtime says of the limits of the cluster that is called `name`, and what is configured where it says
    /// nothing. For the main thread, which alone changes the runtime.
    pub(super) fn follow(&self, runtime: &Runtime, name: &str) {
        let prefix = format!("circuit_breakers.{name}.");
        let before = self.ruled.load_full();
        let has_keys = runtime.has_any(&prefix);
        if !has_keys && before.is_none() {
            return;
        }
        let of = |priority: BreakerPriority| {
            let rule = Rule { runtime, prefix: format!("{prefix}{}", priority.name()) };
            self.thresholds(priority).follow(&rule, before.as_deref().map(|ruled| ruled.of(priority)))
        };
        let ruled = Ruled { default: of(BreakerPriority::Default), high: of(BreakerPriority::High) };
        self.ruled.store(has_keys.then(|| Arc::new(ruled)));
    }

    /// Whether none of `resource` is left.
    pub fn is_open(&self, priority: BreakerPriority, resource: Resource) -> bool {
        self.limit(priority, resource).standing().is_open()
    }

    /// What limits retries in place of their number, if anything does.
    fn budget(&self, priority: BreakerPriority) -> Option<RetryBudget> {
        match &*self.ruled.load() {
            Some(ruled) => ruled.of(priority).budget,
            None => self.thresholds(priority).budget.as_deref().copied(),
        }
    }

    /// How many retries the budget allows, if there is one.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole retries; the cast saturates"
    )]
    fn budgeted(&self, priority: BreakerPriority) -> Option<u32> {
        let budget = self.budget(priority)?;
        let requests = match &self.thresholds(priority).recent {
            Some(recent) => recent.count(clock::now()),
            None => {
                let [active, pending] = [Resource::Requests, Resource::Pending];
                self.used(priority, active).saturating_add(self.used(priority, pending))
            }
        };
        let allowed = (budget.percent / 100.0 * f64::from(requests)) as u32;
        Some(allowed.max(budget.min))
    }

    /// Whether the budget of retries, if there is one, allows another.
    fn budget_left(&self, priority: BreakerPriority) -> Option<bool> {
        Some(self.used(priority, Resource::Retries) < self.budgeted(priority)?)
    }

    /// How many of `resource` are taken.
    pub fn used(&self, priority: BreakerPriority, resource: Resource) -> u32 {
        self.limit(priority, resource).standing().used
    }

    /// The limit of `resource`; of retries what the budget allows now, if there is one.
    pub fn max(&self, priority: BreakerPriority, resource: Resource) -> u32 {
        let budgeted = match resource {
            Resource::Retries => self.budgeted(priority),
            Resource::Connections | Resource::Pending | Resource::Requests | Resource::Pools => None,
        };
        budgeted.unwrap_or_else(|| self.limit(priority, resource).standing().max)
    }

    /// Connections that one host may have over all workers (`per_host_thresholds`); `u32::MAX` without limit.
    pub fn max_connections_per_host(&self, priority: BreakerPriority) -> u32 {
        let [default, high] = self.max_connections_per_host;
        match priority {
            BreakerPriority::Default => default,
            BreakerPriority::High => high,
        }
    }

    fn thresholds(&self, priority: BreakerPriority) -> &Thresholds {
        match priority {
            BreakerPriority::Default => &self.default,
            BreakerPriority::High => &self.high,
        }
    }

    fn limit(&self, priority: BreakerPriority, resource: Resource) -> &Limit {
        &self.thresholds(priority).limits[resource as usize]
    }

    /// Whether one was taken; always with `over`.
    fn take(&self, priority: BreakerPriority, resource: Resource, over: bool) -> bool {
        let more = |standing: Standing| (over || !standing.is_open()).then(|| standing.more());
        let Some((before, now)) = self.limit(priority, resource).change(more) else { return false };
        self.show(priority, resource, before, now);
        if resource == Resource::Requests
            && let Some(recent) = &self.thresholds(priority).recent
        {
            recent.add(clock::now());
        }
        true
    }

    fn release(&self, priority: BreakerPriority, resource: Resource) {
        let limit = self.limit(priority, resource);
        let (before, now) = limit.give_back();
        self.show(priority, resource, before, now);
        // (Rare, so that giving back is one step otherwise.)
        if now.is_open() != now.is_shown_open
            && let Some((before, now)) = limit.change(Standing::to_be_shown)
        {
            self.show(priority, resource, before, now);
        }
    }

    /// The gauges move by steps rather than being set, so that racing threads leave them right.
    #[inline]
    fn show(&self, priority: BreakerPriority, resource: Resource, before: Standing, now: Standing) {
        match (before.is_shown_open, now.is_shown_open) {
            (false, true) => resource.open_gauge(&self.stats, priority).inc(),
            (true, false) => resource.open_gauge(&self.stats, priority).dec(),
            (true, true) | (false, false) => {}
        }
        self.thresholds(priority).show_remaining(resource, before, now);
    }
}

impl Drop for Breakers {
    /// The gauges are those of the cluster's name, and other forms of it may still be there.
    fn drop(&mut self) {
        for priority in [BreakerPriority::Default, BreakerPriority::High] {
            for resource in Resource::ALL {
                let standing = self.limit(priority, resource).standing();
                if standing.is_shown_open {
                    resource.open_gauge(&self.stats, priority).dec();
                }
                if let Some(stats) = &self.thresholds(priority).remaining {
                    resource.remaining(stats).sub(resource.left(standing));
                }
            }
        }
    }
}

impl Ruled {
    fn of(&self, priority: BreakerPriority) -> &RuledThresholds {
        match priority {
            BreakerPriority::Default => &self.default,
            BreakerPriority::High => &self.high,
        }
    }
}

impl BreakerPriority {
    /// How keys of the runtime and statistics call it.
    fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::High => "high",
        }
    }
}

fn check_budget(proto: &proto::circuit_breakers::Thresholds, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let interval = proto.retry_budget.as_ref().and_then(|budget| budget.budget_interval.as_ref());
    let is_negative = interval.is_some_and(|interval| duration(interval).is_none());
    cx.at("retry_budget", |cx| cx.reject_if(is_negative, "budget_interval", "Expected positive duration"))
}

fn check_per_host(proto: &proto::circuit_breakers::Thresholds, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let only = "Unsupported field in per_host_thresholds";
    cx.reject_if(proto.max_pending_requests.is_some(), "max_pending_requests", only)?;
    cx.reject_if(proto.max_requests.is_some(), "max_requests", only)?;
    cx.reject_if(proto.max_retries.is_some(), "max_retries", only)?;
    cx.reject_if(proto.retry_budget.is_some(), "retry_budget", only)?;
    cx.reject_if(proto.track_remaining, "track_remaining", only)?;
    cx.reject_if(proto.max_connection_pools.is_some(), "max_connection_pools", only)
}

impl Resource {
    const ALL: [Self; RESOURCES] =
        [Self::Connections, Self::Pending, Self::Requests, Self::Retries, Self::Pools];

    /// How many are left, as `remaining_*` shows it: none of those for which a budget stands, and of pools, which are not limited unless somebody says so, the greatest number
    /// there is.
    fn left(self, standing: Standing) -> u64 {
        match self {
            _ if standing.is_budgeted => 0,
            Self::Pools if standing.max == u32::MAX => u64::MAX - u64::from(standing.used),
            Self::Connections | Self::Pending | Self::Requests | Self::Retries | Self::Pools => {
                u64::from(standing.max.saturating_sub(standing.used))
            }
        }
    }

    /// How the key of the runtime ends that says its limit.
    fn runtime_key(self) -> &'static str {
        match self {
            Self::Connections => "max_connections",
            Self::Pending => "max_pending_requests",
            Self::Requests => "max_requests",
            Self::Retries => "max_retries",
            Self::Pools => "max_connection_pools",
        }
    }

    fn open_gauge(self, stats: &ClusterStateStats, priority: BreakerPriority) -> &SharedGauge {
        match (priority, self) {
            (BreakerPriority::Default, Self::Connections) => &stats.default_open_cx,
            (BreakerPriority::Default, Self::Pending) => &stats.default_open_rq_pending,
            (BreakerPriority::Default, Self::Requests) => &stats.default_open_rq,
            (BreakerPriority::Default, Self::Retries) => &stats.default_open_rq_retry,
            (BreakerPriority::Default, Self::Pools) => &stats.default_open_cx_pool,
            (BreakerPriority::High, Self::Connections) => &stats.high_open_cx,
            (BreakerPriority::High, Self::Pending) => &stats.high_open_rq_pending,
            (BreakerPriority::High, Self::Requests) => &stats.high_open_rq,
            (BreakerPriority::High, Self::Retries) => &stats.high_open_rq_retry,
            (BreakerPriority::High, Self::Pools) => &stats.high_open_cx_pool,
        }
    }

    fn remaining(self, stats: &CircuitBreakerRemainingStats) -> &SharedGauge {
        match self {
            Self::Connections => &stats.remaining_cx,
            Self::Pending => &stats.remaining_pending,
            Self::Requests => &stats.remaining_rq,
            Self::Retries => &stats.remaining_retries,
            Self::Pools => &stats.remaining_cx_pools,
        }
    }
}
