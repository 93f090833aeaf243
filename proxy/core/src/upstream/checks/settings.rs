//! When hosts are checked, and how many results make a difference.

use std::time::Duration;

use xds_api::envoy::config::core::v3 as proto;

use super::{CheckResult, Transition};
use crate::config::{BuildCx, Rejected, duration};
use crate::runtime::Runtime;

/// What all kinds of checks have in common. Durations are whole milliseconds, as in Envoy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of its name in HealthCheck")]
pub struct CheckSettings {
    pub timeout: Duration,
    pub interval: Duration,
    pub initial_jitter: Duration,
    pub interval_jitter: Duration,
    pub interval_jitter_percent: u32,
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    pub reuse_connection: bool,
    pub no_traffic_interval: Duration,
    pub no_traffic_healthy_interval: Duration,
    pub unhealthy_interval: Duration,
    pub unhealthy_edge_interval: Duration,
    pub healthy_edge_interval: Duration,
    pub always_log_failures: bool,
    pub always_log_success: bool,
}

/// What the runtime says of intervals (`health_check.min_interval`, `health_check.max_interval`).
#[derive(Clone, Copy, Debug)]
pub struct IntervalLimits {
    /// None is shorter.
    pub least: Duration,
    /// None is longer, but for `least`.
    pub most: Duration,
}

impl IntervalLimits {
    /// As they are now.
    pub fn now(runtime: &Runtime) -> Self {
        let time = |key, default| runtime.number(key).map_or(default, Duration::from_millis);
        Self {
            least: time("health_check.min_interval", Duration::ZERO),
            most: time("health_check.max_interval", Duration::MAX),
        }
    }
}

impl CheckSettings {
    /// Takes what `proto` says.
    ///
    /// # Errors
    /// What is missing, in `cx`.
    pub fn build(proto: &proto::HealthCheck, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let time = |proto: Option<&prost_types::Duration>, default: Duration| {
            proto.and_then(duration).map_or(default, whole_millis)
        };
        let mut needed = |field, proto: Option<&prost_types::Duration>| {
            proto
                .and_then(duration)
                .map(whole_millis)
                .ok_or_else(|| cx.at(field, |cx| cx.reject("value is required")))
        };
        let timeout = needed("timeout", proto.timeout.as_ref());
        let interval = needed("interval", proto.interval.as_ref());
        let mut needed = |field, proto: Option<u32>| {
            proto.ok_or_else(|| cx.at(field, |cx| cx.reject("value is required")))
        };
        let unhealthy_threshold = needed("unhealthy_threshold", proto.unhealthy_threshold);
        let healthy_threshold = needed("healthy_threshold", proto.healthy_threshold);
        let interval = interval?;
        let no_traffic_interval = time(proto.no_traffic_interval.as_ref(), Duration::from_secs(60));
        let unhealthy_interval = time(proto.unhealthy_interval.as_ref(), interval);
        Ok(Self {
            timeout: timeout?,
            interval,
            initial_jitter: time(proto.initial_jitter.as_ref(), Duration::ZERO),
            interval_jitter: time(proto.interval_jitter.as_ref(), Duration::ZERO),
            interval_jitter_percent: proto.interval_jitter_percent,
            unhealthy_threshold: unhealthy_threshold?,
            healthy_threshold: healthy_threshold?,
            reuse_connection: proto.reuse_connection.unwrap_or(true),
            no_traffic_interval,
            no_traffic_healthy_interval: time(
                proto.no_traffic_healthy_interval.as_ref(),
                no_traffic_interval,
            ),
            unhealthy_interval,
            unhealthy_edge_interval: time(proto.unhealthy_edge_interval.as_ref(), unhealthy_interval),
            healthy_edge_interval: time(proto.healthy_edge_interval.as_ref(), interval),
            always_log_failures: proto.always_log_health_check_failures,
            always_log_success: proto.always_log_health_check_success,
        })
    }

    /// How long until the first check; `None` for at once.
    pub fn until_first(&self, limits: IntervalLimits, random: &mut fastrand::Rng) -> Option<Duration> {
        (!self.initial_jitter.is_zero())
            .then(|| self.spread(Duration::ZERO, self.initial_jitter, limits, random))
    }

    /// How long until the next check after one that found `result`; `has_traffic` says whether the cluster ever had any.
    pub fn until_next(
        &self,
        result: CheckResult,
        transition: Transition,
        has_traffic: bool,
        limits: IntervalLimits,
        random: &mut fastrand::Rng,
    ) -> Duration {
        let passed = matches!(result, CheckResult::Passed { .. });
        let is_edge = transition == Transition::Pending;
        let base = match (has_traffic, passed, is_edge) {
            (true, false, true) => self.unhealthy_edge_interval,
            (true, false, false) => self.unhealthy_interval,
            (true, true, true) => self.healthy_edge_interval,
            (true, true, false) => self.interval,
            (false, true, false) => self.no_traffic_healthy_interval,
            (false, ..) => self.no_traffic_interval,
        };
        self.spread(base, self.interval_jitter, limits, random)
    }

    fn spread(
        &self,
        base: Duration,
        jitter: Duration,
        limits: IntervalLimits,
        random: &mut fastrand::Rng,
    ) -> Duration {
        let base = millis(base);
        let mut below = |most: u64| if most == 0 { 0 } else { random.u64(..most) };
        let share = base.saturating_mul(self.interval_jitter_percent.into()) / 100;
        let spread = base.saturating_add(below(share)).saturating_add(below(millis(jitter)));
        let time = Duration::from_millis(spread).min(limits.most).max(limits.least);
        // Never at once: nothing else would be done.
        time.max(Duration::from_millis(1))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn whole_millis(duration: Duration) -> Duration {
    Duration::from_millis(millis(duration))
}
