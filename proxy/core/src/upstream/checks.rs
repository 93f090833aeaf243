//! Active health checks: what the checks of a host found so far, what follows from it, and when it is checked next.
//!
//! [`HostChecks`] is the state of one host: results go in, its flags change, what is to be told comes out. It knows no sockets, and
//! looks at the clock only to note since when a host is well; the main thread asks hosts and says what came of it.
//! Source: Envoy `docs/root/intro/arch_overview/upstream/health_checking.rst`, `envoy/config/core/v3/health_check.proto`.

mod payload;
mod settings;
mod together;

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

pub use self::payload::Payload;
pub use self::settings::{CheckSettings, IntervalLimits};
use self::together::Member;
pub use self::together::Together;
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
    /// The answer to the check said that checks fail from now on (`x-envoy-immediate-health-check-fail`).
    pub immediate: bool,
}

impl CheckFailure {
    /// One without an answer.
    pub fn of(kind: FailureKind) -> Self {
        Self { kind, retriable: false, status: 0, immediate: false }
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

/// What a result means for the health of its host, as far as the check that found it goes.
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
    /// What it means for the host, if this check were the only one.
    pub transition: Transition,
    /// The host is another one for balancing: with several checks not each change of one of them changes the host.
    pub changed: bool,
    /// It fails checks from now on.
    pub fell: bool,
    /// What is to be written down, in order.
    pub events: Vec<CheckEvent>,
}

/// What one check of one host found so far. Counts in the statistics of the check until it is dropped.
#[derive(Debug)]
pub struct HostChecks {
    standing: Standing,
    stats: Shared<HealthCheckerStats>,
    is_first: bool,
    /// Failures in a row of a host that is well.
    failures: u32,
    /// Successes in a row of one that is not.
    successes: u32,
}

/// What a check thinks of its host.
#[derive(Debug)]
enum Standing {
    /// What the flags of the host say: there is no other check, or they all decide for themselves.
    OfHost(Arc<Host>),
    /// What it found itself: the host has to pass others as well.
    Own(Member),
}

impl Standing {
    fn host(&self) -> &Arc<Host> {
        match self {
            Self::OfHost(host) => host,
            Self::Own(member) => member.host(),
        }
    }

    fn has(&self, flag: HealthFlag) -> bool {
        match self {
            Self::OfHost(host) => host.has_flag(flag),
            Self::Own(member) => member.has(flag),
        }
    }

    fn set(&mut self, flag: HealthFlag, on: bool) {
        match self {
            Self::OfHost(host) => host.set_flag(flag, on),
            Self::Own(member) => member.set(flag, on),
        }
    }

    fn set_checked(&mut self) {
        match self {
            Self::OfHost(host) => host.set_checked(),
            Self::Own(member) => member.set_checked(),
        }
    }

    /// Takes note of how the host failed, as far as that leaves it out of the reckoning.
    fn exclude(&mut self, failure: CheckFailure) {
        match self {
            Self::OfHost(host) if failure.immediate => {
                host.set_flag(HealthFlag::ExcludedViaImmediateHealthCheckFail, true);
            }
            Self::Own(member) if failure.kind == FailureKind::Passive => member.set_excluded(),
            // Of several checks none excludes its host by what it is answered, as in Envoy.
            Self::OfHost(_) | Self::Own(_) => {}
        }
    }
}

impl HostChecks {
    /// For a host that was not checked yet.
    pub fn new(host: Arc<Host>, stats: Shared<HealthCheckerStats>) -> Self {
        Self::of(Standing::OfHost(host), stats)
    }

    /// For one check of several that a host has to pass.
    pub fn among(together: &Rc<Together>, stats: Shared<HealthCheckerStats>) -> Self {
        Self::of(Standing::Own(Member::new(together)), stats)
    }

    fn of(standing: Standing, stats: Shared<HealthCheckerStats>) -> Self {
        stats.healthy.add(u64::from(!standing.has(HealthFlag::FailedActiveHealthCheck)));
        stats.degraded.add(u64::from(standing.has(HealthFlag::DegradedActiveHealthCheck)));
        Self { standing, stats, is_first: true, failures: 0, successes: 0 }
    }

    /// The host.
    pub fn host(&self) -> &Arc<Host> {
        self.standing.host()
    }

    /// Takes the result of a check.
    pub fn take(&mut self, result: CheckResult, settings: &CheckSettings) -> CheckOutcome {
        let mut events = Vec::new();
        let before = self.host_flags();
        let transition = match result {
            CheckResult::Passed { degraded } => self.passed(degraded, settings, &mut events),
            CheckResult::Failed(failure) => self.failed(failure, settings, &mut events),
        };
        self.is_first = false;
        self.standing.set_checked();
        let changed = transition == Transition::Changed && self.host_flags() != before;
        let fell = changed && !before[0] && self.host_flags()[0];
        CheckOutcome { transition, changed, fell, events }
    }

    /// What checks say of the host to balancing.
    fn host_flags(&self) -> [bool; 3] {
        [
            HealthFlag::FailedActiveHealthCheck,
            HealthFlag::DegradedActiveHealthCheck,
            HealthFlag::PendingActiveHealthCheck,
        ]
        .map(|flag| self.host().has_flag(flag))
    }

    fn passed(
        &mut self,
        degraded: bool,
        settings: &CheckSettings,
        events: &mut Vec<CheckEvent>,
    ) -> Transition {
        self.failures = 0;
        let mut transition = Transition::Unchanged;
        if self.standing.has(HealthFlag::FailedActiveHealthCheck) {
            self.successes += 1;
            // One success is enough for who was never seen: a start should not take longer than it must.
            if self.is_first || self.successes == settings.healthy_threshold {
                self.standing.set(HealthFlag::ActiveHealthCheckTimeout, false);
                self.standing.set(HealthFlag::ExcludedViaImmediateHealthCheckFail, false);
                self.standing.set(HealthFlag::FailedActiveHealthCheck, false);
                self.stats.healthy.inc();
                transition = Transition::Changed;
                events.push(CheckEvent::Added { first: self.is_first });
            } else {
                transition = Transition::Pending;
            }
            self.standing.host().note_recovery(Instant::now());
        }
        if transition != Transition::Changed && settings.always_log_success {
            events.push(CheckEvent::Passed);
        }
        transition = self.no_longer_pending(transition);
        if degraded != self.standing.has(HealthFlag::DegradedActiveHealthCheck) {
            self.standing.set(HealthFlag::DegradedActiveHealthCheck, degraded);
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
        self.successes = 0;
        self.standing.exclude(failure);
        let mut transition = Transition::Unchanged;
        let is_network = matches!(failure.kind, FailureKind::Network | FailureKind::Timeout);
        if !self.standing.has(HealthFlag::FailedActiveHealthCheck) {
            // Who answers, and not well, is believed at once.
            let is_enough = !is_network && !failure.retriable || {
                self.failures += 1;
                self.failures == settings.unhealthy_threshold
            };
            if is_enough {
                self.standing.set(HealthFlag::FailedActiveHealthCheck, true);
                self.stats.healthy.dec();
                transition = Transition::Changed;
                events.push(CheckEvent::Ejected(failure));
            } else {
                transition = Transition::Pending;
            }
        }
        let timed_out =
            failure.kind == FailureKind::Timeout && self.standing.has(HealthFlag::FailedActiveHealthCheck);
        self.standing.set(HealthFlag::ActiveHealthCheckTimeout, timed_out);
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
    fn no_longer_pending(&mut self, transition: Transition) -> Transition {
        if !self.standing.has(HealthFlag::PendingActiveHealthCheck) {
            return transition;
        }
        self.standing.set(HealthFlag::PendingActiveHealthCheck, false);
        Transition::Changed
    }
}

impl Drop for HostChecks {
    fn drop(&mut self) {
        self.stats.healthy.sub(u64::from(!self.standing.has(HealthFlag::FailedActiveHealthCheck)));
        self.stats.degraded.sub(u64::from(self.standing.has(HealthFlag::DegradedActiveHealthCheck)));
    }
}
