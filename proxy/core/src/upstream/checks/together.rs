//! Several checks that a host has to pass: it is well if all of them say so, and degraded if one does.
//!
//! Each check counts its own failures and successes in a row; the flags of the host are what they come to. A host waits for its first
//! check until all of them were made, and one that was excluded by the answer to a request stays so until the check that this counted
//! for passes.
//! Source: `health_checks` in `envoy/config/cluster/v3/cluster.proto`.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::super::{HealthFlag, Host};
use crate::stats::Shared;
use crate::stats::groups::HealthChecksStats;

/// What all checks of one host come to. Counts in the statistics of its cluster until it is dropped.
#[derive(Debug)]
pub struct Together {
    host: Arc<Host>,
    stats: Shared<HealthChecksStats>,
    failing: Cell<usize>,
    degraded: Cell<usize>,
    timed_out: Cell<usize>,
    /// Those without which the host takes no part in the reckoning (`ignore_new_hosts_until_first_hc`).
    pending: Cell<usize>,
    /// Those that did not check the host yet.
    unchecked: Cell<usize>,
}

impl Together {
    /// For a host that no check was made of yet.
    pub fn new(host: &Arc<Host>, stats: &Shared<HealthChecksStats>) -> Rc<Self> {
        let none = || Cell::new(0);
        let together = Self {
            host: host.clone(),
            stats: stats.clone(),
            failing: none(),
            degraded: none(),
            timed_out: none(),
            pending: none(),
            unchecked: none(),
        };
        let [well, degraded] = together.counts();
        together.stats.healthy.add(well);
        together.stats.degraded.add(degraded);
        Rc::new(together)
    }

    /// 1 if the host is well, and 1 if it is degraded.
    fn counts(&self) -> [u64; 2] {
        let has = |flag| u64::from(self.host.has_flag(flag));
        [1 - has(HealthFlag::FailedActiveHealthCheck), has(HealthFlag::DegradedActiveHealthCheck)]
    }

    fn change(&self, flag: HealthFlag, count: &Cell<usize>, on: bool) {
        let number = match on {
            true => count.get() + 1,
            false => count.get().saturating_sub(1),
        };
        count.set(number);
        let is_set = number > 0;
        if is_set == self.host.has_flag(flag) {
            return;
        }
        self.host.set_flag(flag, is_set);
        match (flag, is_set) {
            (HealthFlag::FailedActiveHealthCheck, true) => self.stats.healthy.dec(),
            (HealthFlag::FailedActiveHealthCheck, false) => self.stats.healthy.inc(),
            (HealthFlag::DegradedActiveHealthCheck, true) => self.stats.degraded.inc(),
            (HealthFlag::DegradedActiveHealthCheck, false) => self.stats.degraded.dec(),
            _ => {}
        }
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        let [well, degraded] = self.counts();
        self.stats.healthy.sub(well);
        self.stats.degraded.sub(degraded);
    }
}

/// One of the checks.
#[derive(Debug)]
pub(super) struct Member {
    together: Rc<Together>,
    failing: bool,
    degraded: bool,
    timed_out: bool,
    pending: bool,
    unchecked: bool,
    /// An answer to a request excluded the host, and that counted for this check.
    excluded: bool,
}

impl Member {
    /// It starts with what is known of the host.
    pub(super) fn new(together: &Rc<Together>) -> Self {
        let has = |flag| together.host.has_flag(flag);
        let member = Self {
            together: together.clone(),
            failing: has(HealthFlag::FailedActiveHealthCheck),
            degraded: has(HealthFlag::DegradedActiveHealthCheck),
            timed_out: has(HealthFlag::ActiveHealthCheckTimeout),
            pending: has(HealthFlag::PendingActiveHealthCheck),
            unchecked: true,
            excluded: false,
        };
        let count = |cell: &Cell<usize>, one: bool| cell.set(cell.get() + usize::from(one));
        count(&together.failing, member.failing);
        count(&together.degraded, member.degraded);
        count(&together.timed_out, member.timed_out);
        count(&together.pending, member.pending);
        count(&together.unchecked, true);
        member
    }

    pub(super) fn host(&self) -> &Arc<Host> {
        &self.together.host
    }

    pub(super) fn has(&self, flag: HealthFlag) -> bool {
        match flag {
            HealthFlag::FailedActiveHealthCheck => self.failing,
            HealthFlag::DegradedActiveHealthCheck => self.degraded,
            HealthFlag::ActiveHealthCheckTimeout => self.timed_out,
            HealthFlag::PendingActiveHealthCheck => self.pending,
            HealthFlag::ExcludedViaImmediateHealthCheckFail => self.excluded,
            flag => self.together.host.has_flag(flag),
        }
    }

    pub(super) fn set(&mut self, flag: HealthFlag, on: bool) {
        let Self { together, failing, degraded, timed_out, pending, excluded, .. } = self;
        let (own, count) = match flag {
            HealthFlag::FailedActiveHealthCheck => (failing, &together.failing),
            HealthFlag::DegradedActiveHealthCheck => (degraded, &together.degraded),
            HealthFlag::ActiveHealthCheckTimeout => (timed_out, &together.timed_out),
            HealthFlag::PendingActiveHealthCheck => (pending, &together.pending),
            HealthFlag::ExcludedViaImmediateHealthCheckFail => {
                if std::mem::replace(excluded, on) != on {
                    together.host.set_flag(flag, on);
                }
                return;
            }
            // The others are not for checks to say.
            flag => return together.host.set_flag(flag, on),
        };
        if std::mem::replace(own, on) != on {
            together.change(flag, count, on);
        }
    }

    /// An answer to a request failed this check: its host is excluded (who heard the answer said so) until the check passes.
    pub(super) fn set_excluded(&mut self) {
        self.excluded = true;
    }

    /// The host was checked when all checks were made once.
    pub(super) fn set_checked(&mut self) {
        if !std::mem::replace(&mut self.unchecked, false) {
            return;
        }
        let left = self.together.unchecked.get().saturating_sub(1);
        self.together.unchecked.set(left);
        if left == 0 {
            self.together.host.set_checked();
        }
    }
}
