//! The limits of one priority, and what the runtime makes of them.

use proxy_core::config::duration;
use proxy_core::runtime::Runtime;
use proxy_core::stats::groups::CircuitBreakerRemainingStats;
use proxy_core::stats::{Scope, Shared};
use xds_api::envoy::config::cluster::v3 as proto;

use super::limit::{Limit, Standing};
use super::recent::Recent;
use super::{RESOURCES, Resource};
use crate::local::clock::now;

/// Connections, pending requests, requests, retries, pools.
const DEFAULTS: [u32; RESOURCES] = [1024, 1024, 1024, 3, u32::MAX];

/// The limits of one priority.
#[derive(Debug)]
pub(super) struct Thresholds {
    pub(super) limits: [Limit; RESOURCES],
    /// What limits retries in place of their number, unless the runtime says otherwise. Boxed: few clusters have one.
    pub(super) budget: Option<Box<RetryBudget>>,
    /// What the budget is a share of, if not what is in flight or waits (`budget_interval`).
    pub(super) recent: Option<Box<Recent>>,
    pub(super) remaining: Option<Shared<CircuitBreakerRemainingStats>>,
}

/// What the runtime makes of them, while it says anything.
#[derive(Debug)]
pub(super) struct RuledThresholds {
    /// The limits that hold again when the runtime says no more of them.
    configured: [u32; RESOURCES],
    pub(super) budget: Option<RetryBudget>,
}

/// Retries as a share of requests (`retry_budget`).
#[derive(Clone, Copy, Debug)]
pub(super) struct RetryBudget {
    pub(super) percent: f64,
    /// So many are always allowed.
    pub(super) min: u32,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: 20.0, min: 3 }
    }
}

impl Thresholds {
    fn new(max: [u32; RESOURCES], budget: Option<RetryBudget>) -> Self {
        let limit = |resource| Limit::new(max[resource as usize], is_budgeted(resource, budget.as_ref()));
        Self { limits: Resource::ALL.map(limit), budget: budget.map(Box::new), recent: None, remaining: None }
    }

    pub(super) fn build(
        proto: Option<&proto::circuit_breakers::Thresholds>,
        priority: &str,
        scope: &Scope,
    ) -> Self {
        let Some(proto) = proto else { return Self::new(DEFAULTS, None) };
        let [connections, pending, requests, retries, pools] = DEFAULTS;
        let max = [
            proto.max_connections.unwrap_or(connections),
            proto.max_pending_requests.unwrap_or(pending),
            proto.max_requests.unwrap_or(requests),
            proto.max_retries.unwrap_or(retries),
            proto.max_connection_pools.unwrap_or(pools),
        ];
        let usual = RetryBudget::default();
        let budget = proto.retry_budget.as_ref().map(|budget| RetryBudget {
            percent: budget.budget_percent.map_or(usual.percent, |percent| percent.value),
            min: budget.min_retry_concurrency.unwrap_or(usual.min),
        });
        let mut built = Self::new(max, budget);
        let interval =
            proto.retry_budget.as_ref().and_then(|budget| duration(budget.budget_interval.as_ref()?));
        built.recent = interval.and_then(|interval| Recent::new(interval, now())).map(Box::new);
        if proto.track_remaining {
            let stats = scope.child(&format!("circuit_breakers.{priority}")).shared();
            for (resource, limit) in Resource::ALL.into_iter().zip(&built.limits) {
                resource.remaining(&stats).add(resource.left(limit.standing()));
            }
            built.remaining = Some(stats);
        }
        built
    }

    /// Takes over what the runtime says, or what is configured where it says nothing. `before` is what it made of the limits until now.
    pub(super) fn follow(&self, rule: &Rule<'_>, before: Option<&RuledThresholds>) -> RuledThresholds {
        let configured = before.map_or_else(|| self.max(), |ruled| ruled.configured);
        let budget = self.ruled_budget(rule);
        for (resource, configured) in Resource::ALL.into_iter().zip(configured) {
            let max = rule.number(resource.runtime_key()).unwrap_or(configured);
            self.set(resource, max, is_budgeted(resource, budget.as_ref()));
        }
        RuledThresholds { configured, budget }
    }

    /// The limits that are in force.
    fn max(&self) -> [u32; RESOURCES] {
        self.limits.each_ref().map(|limit| limit.standing().max)
    }

    /// The budget that the runtime makes of the one that is configured, if there is one.
    fn ruled_budget(&self, rule: &Rule<'_>) -> Option<RetryBudget> {
        let percent = rule.runtime.double(&rule.key("retry_budget.budget_percent"));
        let min = rule.number("retry_budget.min_retry_concurrency");
        let configured = self.budget.as_deref().copied();
        if percent.is_none() && min.is_none() {
            return configured;
        }
        let RetryBudget { percent: usual, min: least } = configured.unwrap_or_default();
        Some(RetryBudget { percent: percent.unwrap_or(usual), min: min.unwrap_or(least) })
    }

    /// Moves the limit of `resource`.
    fn set(&self, resource: Resource, max: u32, is_budgeted: bool) {
        let moved = |standing: Standing| {
            let now = Standing { max, is_budgeted, ..standing };
            (now != standing).then_some(now)
        };
        if let Some((before, now)) = self.limits[resource as usize].change(moved) {
            self.show_remaining(resource, before, now);
        }
    }

    /// Shows how many of `resource` are left, if that is to be known; in steps, so that racing threads leave it right.
    pub(super) fn show_remaining(&self, resource: Resource, before: Standing, now: Standing) {
        let Some(stats) = &self.remaining else { return };
        let remaining = resource.remaining(stats);
        match (resource.left(before), resource.left(now)) {
            (before, now) if now > before => remaining.add(now - before),
            (before, now) if now < before => remaining.sub(before - now),
            _ => {}
        }
    }
}

fn is_budgeted(resource: Resource, budget: Option<&RetryBudget>) -> bool {
    resource == Resource::Retries && budget.is_some()
}

/// What the runtime says of the limits of one priority of one cluster.
pub(super) struct Rule<'r> {
    pub(super) runtime: &'r Runtime,
    /// What its keys begin with.
    pub(super) prefix: String,
}

impl Rule<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// A number; the greatest there is in place of those that are greater.
    fn number(&self, name: &str) -> Option<u32> {
        let number = self.runtime.number(&self.key(name))?;
        Some(u32::try_from(number).unwrap_or(u32::MAX))
    }
}
