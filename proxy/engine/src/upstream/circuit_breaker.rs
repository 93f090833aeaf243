//! Circuit breakers: limits of a cluster on what it may have open at once, shared by all workers.
//!
//! A [`Permit`] counts while it lives. Source: Envoy `docs/root/intro/arch_overview/upstream/circuit_breaking.rst`,
//! `docs/root/configuration/upstream/cluster_manager/cluster_circuit_breakers.rst`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::stats::groups::{CircuitBreakerRemainingStats, ClusterStateStats};
use proxy_core::stats::{Scope, Shared, SharedGauge};
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::core::v3::RoutingPriority;

/// Which of a cluster's two sets of limits applies; a route says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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

#[derive(Debug)]
struct Limit {
    max: u32,
    used: AtomicU32,
}

/// The limits of one priority.
#[derive(Debug)]
struct Thresholds {
    limits: [Limit; RESOURCES],
    /// What limits retries in place of their number.
    budget: Option<RetryBudget>,
    remaining: Option<Shared<CircuitBreakerRemainingStats>>,
}

/// Retries as a share of what is in flight (`retry_budget`).
#[derive(Clone, Copy, Debug)]
struct RetryBudget {
    percent: f64,
    /// So many are always allowed.
    min: u32,
}

/// The circuit breakers of one cluster.
#[derive(Debug)]
pub struct Breakers {
    default: Thresholds,
    high: Thresholds,
    /// Connections that one host may have over all workers, by priority.
    max_connections_per_host: [u32; 2],
    stats: Shared<ClusterStateStats>,
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

impl Thresholds {
    fn new(max: [u32; RESOURCES]) -> Self {
        let limits = max.map(|max| Limit { max, used: AtomicU32::new(0) });
        Self { limits, budget: None, remaining: None }
    }

    fn build(proto: Option<&proto::circuit_breakers::Thresholds>, priority: &str, scope: &Scope) -> Self {
        let Some(proto) = proto else { return Self::new(DEFAULTS) };
        let [connections, pending, requests, retries, pools] = DEFAULTS;
        let mut built = Self::new([
            proto.max_connections.unwrap_or(connections),
            proto.max_pending_requests.unwrap_or(pending),
            proto.max_requests.unwrap_or(requests),
            proto.max_retries.unwrap_or(retries),
            proto.max_connection_pools.unwrap_or(pools),
        ]);
        built.budget = proto.retry_budget.as_ref().map(|budget| RetryBudget {
            percent: budget.budget_percent.map_or(20.0, |percent| percent.value),
            min: budget.min_retry_concurrency.unwrap_or(3),
        });
        if proto.track_remaining {
            let stats = scope.child(&format!("circuit_breakers.{priority}")).shared();
            for (resource, limit) in Resource::ALL.into_iter().zip(&built.limits) {
                let most = if built.is_budgeted(resource) { 0 } else { limit.max };
                resource.remaining(&stats).set(u64::from(most));
            }
            built.remaining = Some(stats);
        }
        built
    }

    /// Whether a budget takes the place of a number of `resource`.
    fn is_budgeted(&self, resource: Resource) -> bool {
        resource == Resource::Retries && self.budget.is_some()
    }

    /// Where it is shown how many of `resource` remain, if that is known.
    fn remaining(&self, resource: Resource) -> Option<&SharedGauge> {
        let stats = self.remaining.as_ref().filter(|_| !self.is_budgeted(resource))?;
        Some(resource.remaining(stats))
    }
}

pub(super) const NO_INTERVAL: &str = "requests that are over do not count";

/// Connections, pending requests, requests, retries, pools.
const DEFAULTS: [u32; RESOURCES] = [1024, 1024, 1024, 3, u32::MAX];

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
        let default = Thresholds::build(of(RoutingPriority::Default), "default", scope);
        let high = Thresholds::build(of(RoutingPriority::High), "high", scope);
        let per_host = proto.map_or(&[][..], |proto| &proto.per_host_thresholds);
        cx.each("per_host_thresholds", per_host, check_per_host)?;
        let max_connections_per_host = [RoutingPriority::Default, RoutingPriority::High].map(|priority| {
            let of_host = per_host.iter().find(|one| one.priority == priority as i32);
            of_host.and_then(|one| one.max_connections).unwrap_or(u32::MAX)
        });
        Ok(Self { default, high, max_connections_per_host, stats })
    }

    /// Whether none of `resource` is left.
    pub fn is_open(&self, priority: BreakerPriority, resource: Resource) -> bool {
        let limit = self.limit(priority, resource);
        limit.used.load(Ordering::Relaxed) >= limit.max
    }

    /// Whether the budget of retries, if there is one, allows another.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole retries; the cast saturates"
    )]
    fn budget_left(&self, priority: BreakerPriority) -> Option<bool> {
        let budget = self.thresholds(priority).budget?;
        let active =
            self.used(priority, Resource::Requests).saturating_add(self.used(priority, Resource::Pending));
        let allowed = (budget.percent / 100.0 * f64::from(active)) as u32;
        Some(self.used(priority, Resource::Retries) < allowed.max(budget.min))
    }

    /// How many of `resource` are taken.
    pub fn used(&self, priority: BreakerPriority, resource: Resource) -> u32 {
        self.limit(priority, resource).used.load(Ordering::Relaxed)
    }

    /// The limit of `resource`.
    pub fn max(&self, priority: BreakerPriority, resource: Resource) -> u32 {
        self.limit(priority, resource).max
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
        let limit = self.limit(priority, resource);
        let more = |used: u32| (over || used < limit.max).then(|| used.saturating_add(1));
        let Ok(before) = limit.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) else {
            return false;
        };
        self.took(priority, resource, before, limit.max);
        true
    }

    fn release(&self, priority: BreakerPriority, resource: Resource) {
        let limit = self.limit(priority, resource);
        let before = limit.used.fetch_sub(1, Ordering::Relaxed);
        self.gave_back(priority, resource, before, limit.max);
    }

    /// The gauges move by steps rather than being set, so that racing threads leave them right.
    #[inline]
    fn took(&self, priority: BreakerPriority, resource: Resource, before: u32, max: u32) {
        if before.checked_add(1) == Some(max) {
            resource.open_gauge(&self.stats, priority).inc();
        }
        if let Some(remaining) = self.thresholds(priority).remaining(resource)
            && before < max
        {
            remaining.dec();
        }
    }

    #[inline]
    fn gave_back(&self, priority: BreakerPriority, resource: Resource, before: u32, max: u32) {
        if before == max {
            resource.open_gauge(&self.stats, priority).dec();
        }
        if let Some(remaining) = self.thresholds(priority).remaining(resource)
            && before <= max
        {
            remaining.inc();
        }
    }
}

fn check_budget(proto: &proto::circuit_breakers::Thresholds, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let interval = proto.retry_budget.as_ref().and_then(|budget| budget.budget_interval.as_ref());
    let is_set = interval.is_some_and(|interval| (interval.seconds, interval.nanos) != (0, 0));
    cx.at("retry_budget", |cx| cx.reject_if(is_set, "budget_interval", NO_INTERVAL))
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
