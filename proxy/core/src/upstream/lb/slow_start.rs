//! Slow start: a host that is new gets less than its weight for a while, ever more of it.
//!
//! A host is new from the moment when a host set first has it as healthy, and again with each check that passes while checks have it
//! ill. Source: Envoy
//! `docs/root/intro/arch_overview/upstream/load_balancing/slow_start.rst`, `EdfLoadBalancerBase::applySlowStartFactor`.

use std::time::{Duration, Instant};

use super::RuntimeDouble;
use crate::upstream::{Host, HostHealth};

/// Settings of slow start.
#[derive(Clone, Debug)]
pub struct SlowStart {
    /// How long a host is new, at least a millisecond.
    pub window: Duration,
    /// How fast its share grows: evenly with 1, late with less, early with more.
    pub aggression: RuntimeDouble,
    /// Least part of its weight that a host gets, between 0 and 1.
    pub min_weight: f64,
}

/// Slow start at the moment of a pick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Starting<'s> {
    settings: &'s SlowStart,
    now: Instant,
}

impl SlowStart {
    /// What a pick has to reckon with, if a host is new: `newest` is when the last one came.
    pub(super) fn starting(&self, newest: Option<Instant>) -> Option<Starting<'_>> {
        let now = Instant::now();
        let is_new = now.saturating_duration_since(newest?) <= self.window;
        is_new.then_some(Starting { settings: self, now })
    }
}

impl Starting<'_> {
    /// What part of its weight `host` gets.
    pub(super) fn factor(self, host: &Host) -> f64 {
        let SlowStart { window, aggression, min_weight } = self.settings;
        let Some(since) = host.healthy_since().filter(|_| host.health() == HostHealth::Healthy) else {
            return 1.0;
        };
        let age = self.now.saturating_duration_since(since);
        if age >= *window {
            return 1.0;
        }
        let share = age.as_millis().max(1) as f64 / window.as_millis().max(1) as f64;
        let aggression = aggression.value();
        // (Anything but a number above 0 counts as 1, as in Envoy.)
        let share = if aggression > 0.0 && aggression != 1.0 { share.powf(1.0 / aggression) } else { share };
        share.max(*min_weight)
    }
}
