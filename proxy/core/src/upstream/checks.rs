//! Active health checks: what the checks of a host found so far, what follows from it, and when it is checked next.
//!
//! [`HostChecks`] is the state of one host: results go in, its flags change, what is to be told comes out. It knows neither
//! sockets nor clock; the main thread asks hosts and says what came of it.
//! Source: Envoy `docs/root/intro/arch_overview/upstream/health_checking.rst`, `envoy/config/core/v3/health_check.proto`.

mod payload;
mod settings;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::payload::Payload;
pub use self::settings::{CheckSettings, IntervalLimits};
use super::{HealthFlag, Host};
use crate::stats::Shared;
use crate::stats::groups::HealthCheckerStats;

/// What one check of a host found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// It is well, if perhaps not at its best.
    Passed {
        /// It says that it had rather not be asked.
        degraded: bool,
    },
    /// It is not.
    Failed(CheckFailure),
}

/// How a host failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckFailure {
    /// In which way.
    pub kind: FailureKind,
    /// It takes `unhealthy_threshold` of these, although the host answered (`retriable_statuses`).
    pub retriable: bool,
    /// The status that it answered with; 0 if none.
    pub status: u16,
}

impl CheckFailure {
    /// One without an answer.
    pub fn of(kind: FailureKind) -> Self {
        Self { kind, retriable: false, status: 0 }
    }
}

/// In which way a host failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// It answered, and not well.
    Active,
    /// The answer to a request said that checks fail (`x-envoy-immediate-health-check-fail`).
    Passive,
    /// There was no connection, or it broke.
    Network,
    /// Nothing came in time.
    Timeout,
}

/// What a result means for the health of its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Nothing.
    Unchanged,
    /// It will be another one if it goes on like this.
    Pending,
    /// It is another one.
    Changed,
}

/// Something to be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckEvent {
    /// The host is not used any more.
    Ejected(CheckFailure),
    /// The host may be used.
    Added {
        /// That was found by its first check.
        first: bool,
    },
    /// A check failed.
    Failed {
        /// How.
        failure: CheckFailure,
        /// It was the first.
        first: bool,
    },
    /// A check passed that changed nothing.
    Passed,
    /// The host is degraded.
    Degraded,
    /// It is so no longer.
    NoLongerDegraded,
}

/// What a result brought about.
#[derive(Debug)]
pub struct CheckOutcome {
    /// What it means for the host.
    pub transition: Transition,
    /// What is to be written down, in order.
    pub events: Vec<CheckEvent>,
}

/// What the checks of one host found so far. Counts in the statistics of its cluster until it is dropped.
#[derive(Debug)]
pub struct HostChecks {
    host: Arc<Host>,
    stats: Shared<HealthCheckerStats>,
    is_first: bool,
    /// Failures in a row of a host that is well.
    failures: u32,
    /// Successes in a row of one that is not.
    successes: u32,
}

impl HostChecks {
    /// For a host that was not checked yet.
    pub fn new(host: Arc<Host>, stats: Shared<HealthCheckerStats>) -> Self {
        stats.healthy.add(u64::from(!host.has_flag(HealthFlag::FailedActiveHealthCheck)));
        stats.degraded.add(u64::from(host.has_flag(HealthFlag::DegradedActiveHealthCheck)));
        Self { host, stats, is_first: true, failures: 0, successes: 0 }
    }

    /// The host.
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// Takes the result of a check.
    pub fn take(&mut self, result: CheckResult, settings: &CheckSettings) -> CheckOutcome {
        let mut events = Vec::new();
        let transition = match result {
            CheckResult::Passed { degraded } => self.passed(degraded, settings, &mut events),
            CheckResult::Failed(failure) => self.failed(failure, settings, &mut events),
        };
        self.is_first = false;
        self.host.set_checked();
        CheckOutcome { transition, events }
    }

    fn passed(
        &mut self,
        degraded: bool,
        settings: &CheckSettings,
        events: &mut Vec<CheckEvent>,
    ) -> Transition {
        let host = &self.host;
        self.failures = 0;
        let mut transition = Transition::Unchanged;
        if host.has_flag(HealthFlag::FailedActiveHealthCheck) {
            self.successes += 1;
            // One success is enough for who was never seen: a start should not take longer than it must.
            if self.is_first || self.successes == settings.healthy_threshold {
                host.set_flag(HealthFlag::ActiveHealthCheckTimeout, false);
                host.set_flag(HealthFlag::ExcludedViaImmediateHealthCheckFail, false);
                host.set_flag(HealthFlag::FailedActiveHealthCheck, false);
                self.stats.healthy.inc();
                transition = Transition::Changed;
                events.push(CheckEvent::Added { first: self.is_first });
            } else {
                transition = Transition::Pending;
            }
        }
        if transition != Transition::Changed && settings.always_log_success {
            events.push(CheckEvent::Passed);
        }
        transition = self.no_longer_pending(transition);
        if degraded != self.host.has_flag(HealthFlag::DegradedActiveHealthCheck) {
            self.host.set_flag(HealthFlag::DegradedActiveHealthCheck, degraded);
            if degraded {
                self.stats.degraded.inc();
                events.push(CheckEvent::Degraded);
            } else {
                self.stats.degraded.dec();
                events.push(CheckEvent::NoLongerDegraded);
            }
            if transition == Transition::Unchanged {
                transition = Transition::Changed;
            }
        }
        self.stats.success.inc();
        transition
    }

    fn failed(
        &mut self,
        failure: CheckFailure,
        settings: &CheckSettings,
        events: &mut Vec<CheckEvent>,
    ) -> Transition {
        let host = &self.host;
        self.successes = 0;
        let mut transition = Transition::Unchanged;
        let is_network = matches!(failure.kind, FailureKind::Network | FailureKind::Timeout);
        if !host.has_flag(HealthFlag::FailedActiveHealthCheck) {
            // Who answers, and not well, is believed at once.
            let is_enough = !is_network && !failure.retriable || {
                self.failures += 1;
                self.failures == settings.unhealthy_threshold
            };
            if is_enough {
                host.set_flag(HealthFlag::FailedActiveHealthCheck, true);
                self.stats.healthy.dec();
                transition = Transition::Changed;
                events.push(CheckEvent::Ejected(failure));
            } else {
                transition = Transition::Pending;
            }
        }
        let timed_out =
            failure.kind == FailureKind::Timeout && self.host.has_flag(HealthFlag::FailedActiveHealthCheck);
        self.host.set_flag(HealthFlag::ActiveHealthCheckTimeout, timed_out);
        transition = self.no_longer_pending(transition);
        if self.is_first || settings.always_log_failures {
            events.push(CheckEvent::Failed { failure, first: self.is_first });
        }
        self.stats.failure.inc();
        match failure.kind {
            FailureKind::Network | FailureKind::Timeout => self.stats.network_failure.inc(),
            FailureKind::Passive => self.stats.passive_failure.inc(),
            FailureKind::Active => {}
        }
        transition
    }

    /// A host that was kept out of the reckoning until its first check takes part in it from now on.
    fn no_longer_pending(&self, transition: Transition) -> Transition {
        if !self.host.has_flag(HealthFlag::PendingActiveHealthCheck) {
            return transition;
        }
        self.host.set_flag(HealthFlag::PendingActiveHealthCheck, false);
        Transition::Changed
    }
}

impl Drop for HostChecks {
    fn drop(&mut self) {
        self.stats.healthy.sub(u64::from(!self.host.has_flag(HealthFlag::FailedActiveHealthCheck)));
        self.stats.degraded.sub(u64::from(self.host.has_flag(HealthFlag::DegradedActiveHealthCheck)));
    }
}
