//! What speaks against a host: one flag for each who may say so, as in Envoy, and what all of them come to.
//!
//! Flags change on the main thread, but for [`HealthFlag::ExcludedViaImmediateHealthCheckFail`], which whoever hears of it sets;
//! balancing sees them with the next host set, the admin interface at once.
//! Source: Envoy `docs/root/operations/admin.rst` (`/clusters`), `docs/root/intro/arch_overview/upstream/health_checking.rst`.

use std::sync::atomic::{AtomicU16, Ordering};

use xds_api::envoy::config::core::v3::{HealthStatus, HealthStatusSet};

/// Whether a host may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HostHealth {
    /// Chosen first.
    Healthy = 0,
    /// Chosen when too few are healthy.
    Degraded = 1,
    /// Chosen only in panic.
    Unhealthy = 2,
    /// Chosen only in panic, and not counted as a host of its priority; what it has goes on.
    Draining = 3,
}

impl HostHealth {
    /// What discovery saying this means for balancing.
    pub fn of(status: HealthStatus) -> Self {
        match status {
            HealthStatus::Unknown | HealthStatus::Healthy => Self::Healthy,
            HealthStatus::Degraded => Self::Degraded,
            HealthStatus::Draining => Self::Draining,
            HealthStatus::Unhealthy | HealthStatus::Timeout => Self::Unhealthy,
        }
    }
}

impl From<HostHealth> for HealthStatus {
    /// What discovery says of such a host.
    fn from(health: HostHealth) -> Self {
        match health {
            HostHealth::Healthy => Self::Healthy,
            HostHealth::Degraded => Self::Degraded,
            HostHealth::Unhealthy => Self::Unhealthy,
            HostHealth::Draining => Self::Draining,
        }
    }
}

/// Some statuses of hosts (`core.v3.HealthStatusSet`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthStatuses(u8);

impl HealthStatuses {
    /// Those of hosts that may be asked for (`override_host_status`): all but the unhealthy ones, unless configured.
    pub fn of_overrides(proto: Option<&HealthStatusSet>) -> Self {
        match proto {
            None => Self::new([HealthStatus::Unknown, HealthStatus::Healthy, HealthStatus::Degraded]),
            // (A number that this API does not know is that of no host.)
            Some(set) => Self::new(set.statuses.iter().filter_map(|one| HealthStatus::try_from(*one).ok())),
        }
    }

    fn new(statuses: impl IntoIterator<Item = HealthStatus>) -> Self {
        Self(statuses.into_iter().fold(0, |set, status| set | 1 << status as u8))
    }

    /// Whether this is one of them.
    pub fn contains(self, status: HealthStatus) -> bool {
        self.0 & 1 << status as u8 != 0
    }
}

/// Why a host is not simply healthy. The order is that in which Envoy lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the flag of its name")]
pub enum HealthFlag {
    FailedActiveHealthCheck,
    FailedOutlierCheck,
    FailedEdsHealth,
    DegradedActiveHealthCheck,
    DegradedEdsHealth,
    PendingDynamicRemoval,
    PendingActiveHealthCheck,
    ExcludedViaImmediateHealthCheckFail,
    ActiveHealthCheckTimeout,
    EdsStatusDraining,
    DegradedOutlierDetection,
}

impl HealthFlag {
    const ALL: [Self; 11] = [
        Self::FailedActiveHealthCheck,
        Self::FailedOutlierCheck,
        Self::FailedEdsHealth,
        Self::DegradedActiveHealthCheck,
        Self::DegradedEdsHealth,
        Self::PendingDynamicRemoval,
        Self::PendingActiveHealthCheck,
        Self::ExcludedViaImmediateHealthCheckFail,
        Self::ActiveHealthCheckTimeout,
        Self::EdsStatusDraining,
        Self::DegradedOutlierDetection,
    ];

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

const FAILED: u16 = HealthFlag::FailedActiveHealthCheck.bit()
    | HealthFlag::FailedOutlierCheck.bit()
    | HealthFlag::FailedEdsHealth.bit()
    | HealthFlag::EdsStatusDraining.bit();
/// What was found out here.
const FAILED_HERE: u16 = HealthFlag::FailedActiveHealthCheck.bit() | HealthFlag::FailedOutlierCheck.bit();
const DEGRADED: u16 = DEGRADED_HERE | HealthFlag::DegradedEdsHealth.bit();
const DEGRADED_HERE: u16 =
    HealthFlag::DegradedActiveHealthCheck.bit() | HealthFlag::DegradedOutlierDetection.bit();
const EXCLUDED: u16 = HealthFlag::PendingActiveHealthCheck.bit()
    | HealthFlag::ExcludedViaImmediateHealthCheckFail.bit()
    | HealthFlag::EdsStatusDraining.bit();
/// What active health checks say, which a host takes along when it moves to another locality.
const ACTIVE: u16 = HealthFlag::FailedActiveHealthCheck.bit()
    | HealthFlag::DegradedActiveHealthCheck.bit()
    | HealthFlag::PendingActiveHealthCheck.bit()
    | HealthFlag::ActiveHealthCheckTimeout.bit();
/// It was not checked yet and is to be. No flag that is shown: beside them.
const UNCHECKED: u16 = 1 << 15;
/// It is none of its cluster any more. No flag that is shown either.
const GONE: u16 = 1 << 14;
/// What discovery says, as it says it: a `HealthStatus`. Beside the flags too.
const SAID: u16 = 0b111 << SAID_AT;
const SAID_AT: u32 = 11;
const DISCOVERED: u16 = HealthFlag::FailedEdsHealth.bit()
    | HealthFlag::DegradedEdsHealth.bit()
    | HealthFlag::EdsStatusDraining.bit();

/// The flags of one host.
#[derive(Debug, Default)]
pub(super) struct HealthFlags(AtomicU16);

impl HealthFlags {
    fn load(&self) -> u16 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn health(&self) -> HostHealth {
        health(self.load())
    }

    pub(super) fn has(&self, flag: HealthFlag) -> bool {
        self.load() & flag.bit() != 0
    }

    pub(super) fn set(&self, flag: HealthFlag, on: bool) {
        match on {
            true => self.0.fetch_or(flag.bit(), Ordering::Relaxed),
            false => self.0.fetch_and(!flag.bit(), Ordering::Relaxed),
        };
    }

    pub(super) fn list(&self) -> Vec<HealthFlag> {
        let flags = self.load();
        HealthFlag::ALL.into_iter().filter(|flag| flags & flag.bit() != 0).collect()
    }

    pub(super) fn discovered(&self) -> HostHealth {
        health(self.load() & DISCOVERED)
    }

    /// As one that discovery could have said, with what was found out here.
    pub(super) fn status(&self) -> HealthStatus {
        use HealthStatus::{Degraded, Draining, Timeout, Unhealthy, Unknown};
        let flags = self.load();
        let said = HealthStatus::try_from(i32::from((flags & SAID) >> SAID_AT)).unwrap_or(Unknown);
        if flags & FAILED_HERE != 0 {
            return Unhealthy;
        }
        match said {
            Unhealthy | Draining | Timeout => said,
            _ if flags & DEGRADED_HERE != 0 => Degraded,
            Unknown | HealthStatus::Healthy | Degraded => said,
        }
    }

    pub(super) fn set_discovered(&self, status: HealthStatus) {
        let said = (status as u16) << SAID_AT;
        let bit = match HostHealth::of(status) {
            HostHealth::Healthy => 0,
            HostHealth::Degraded => HealthFlag::DegradedEdsHealth.bit(),
            HostHealth::Unhealthy => HealthFlag::FailedEdsHealth.bit(),
            HostHealth::Draining => HealthFlag::EdsStatusDraining.bit(),
        };
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |flags| {
            Some(flags & !(DISCOVERED | SAID) | bit | said)
        });
    }

    pub(super) fn is_unchecked(&self) -> bool {
        self.load() & UNCHECKED != 0
    }

    pub(super) fn set_unchecked(&self, on: bool) {
        match on {
            true => self.0.fetch_or(UNCHECKED, Ordering::Relaxed),
            false => self.0.fetch_and(!UNCHECKED, Ordering::Relaxed),
        };
    }

    pub(super) fn is_gone(&self) -> bool {
        self.load() & GONE != 0
    }

    pub(super) fn set_gone(&self) {
        self.0.fetch_or(GONE, Ordering::Relaxed);
    }

    /// Takes over what active health checks found of `other`.
    pub(super) fn take_active(&self, other: &Self) {
        self.0.fetch_or(other.load() & ACTIVE, Ordering::Relaxed);
    }
}

fn health(flags: u16) -> HostHealth {
    match (flags & FAILED != 0, flags & EXCLUDED != 0) {
        (true, true) => HostHealth::Draining,
        (true, false) => HostHealth::Unhealthy,
        (false, _) if flags & DEGRADED != 0 => HostHealth::Degraded,
        (false, _) => HostHealth::Healthy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_discovered_leaves_the_other_flags_alone() {
        let flags = HealthFlags::default();
        flags.set(HealthFlag::FailedOutlierCheck, true);
        for status in
            [HealthStatus::Degraded, HealthStatus::Draining, HealthStatus::Unhealthy, HealthStatus::Healthy]
        {
            flags.set_discovered(status);
            assert_eq!(flags.discovered(), HostHealth::of(status));
            assert!(flags.has(HealthFlag::FailedOutlierCheck));
        }
        assert_eq!(flags.health(), HostHealth::Unhealthy);
        flags.set(HealthFlag::FailedOutlierCheck, false);
        assert_eq!(flags.health(), HostHealth::Healthy);
    }

    #[test]
    fn the_status_is_what_was_found_out_here_or_what_discovery_says() {
        use HealthStatus::{Degraded, Draining, Healthy, Timeout, Unhealthy, Unknown};
        let all = [Unknown, Healthy, Unhealthy, Draining, Timeout, Degraded];
        let flags = HealthFlags::default();
        let statuses = |flags: &HealthFlags| {
            all.map(|said| {
                flags.set_discovered(said);
                flags.status()
            })
        };
        assert_eq!(statuses(&flags), all);
        flags.set(HealthFlag::DegradedActiveHealthCheck, true);
        assert_eq!(statuses(&flags), [Degraded, Degraded, Unhealthy, Draining, Timeout, Degraded]);
        flags.set(HealthFlag::FailedOutlierCheck, true);
        assert_eq!(statuses(&flags), [Unhealthy; 6]);
        let ok = |set: HealthStatuses| all.map(|status| set.contains(status));
        let set = |statuses: &[HealthStatus]| HealthStatusSet {
            statuses: statuses.iter().map(|status| *status as i32).collect(),
        };
        assert_eq!(ok(HealthStatuses::of_overrides(None)), [true, true, false, false, false, true]);
        assert_eq!(ok(HealthStatuses::of_overrides(Some(&set(&[])))), [false; 6]);
        let some = HealthStatuses::of_overrides(Some(&set(&[Timeout, Healthy])));
        assert_eq!(ok(some), [false, true, false, false, true, false]);
    }

    #[test]
    fn one_failure_outweighs_what_is_degraded() {
        let flags = HealthFlags::default();
        flags.set_discovered(HealthStatus::Degraded);
        assert_eq!(flags.health(), HostHealth::Degraded);
        flags.set(HealthFlag::FailedActiveHealthCheck, true);
        assert_eq!(flags.health(), HostHealth::Unhealthy);
        flags.set(HealthFlag::ExcludedViaImmediateHealthCheckFail, true);
        assert_eq!(flags.health(), HostHealth::Draining);
        assert_eq!(
            flags.list(),
            [
                HealthFlag::FailedActiveHealthCheck,
                HealthFlag::DegradedEdsHealth,
                HealthFlag::ExcludedViaImmediateHealthCheckFail
            ]
        );
    }
}
