//! How many hosts a cluster has whose hosts are no set that is balanced over: by their health, for its gauges.

use proxy_core::upstream::{Host, HostHealth, HostSet};

/// How many hosts there are of each health.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Members {
    pub(super) total: usize,
    pub(super) healthy: usize,
    pub(super) degraded: usize,
    pub(super) excluded: usize,
}

impl Members {
    /// One more.
    pub(super) fn came(&mut self, host: &Host) {
        self.total += 1;
        if let Some(count) = self.like(host) {
            *count += 1;
        }
    }

    /// One less. (If its health changed since it was counted, all are about to be counted anew.)
    pub(super) fn left(&mut self, host: &Host) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.like(host) {
            *count = count.saturating_sub(1);
        }
    }

    fn like(&mut self, host: &Host) -> Option<&mut usize> {
        match host.health() {
            HostHealth::Healthy => Some(&mut self.healthy),
            HostHealth::Degraded => Some(&mut self.degraded),
            HostHealth::Draining => Some(&mut self.excluded),
            HostHealth::Unhealthy => None,
        }
    }
}

impl<'h> FromIterator<&'h Host> for Members {
    fn from_iter<I: IntoIterator<Item = &'h Host>>(hosts: I) -> Self {
        let mut members = Self::default();
        hosts.into_iter().for_each(|host| members.came(host));
        members
    }
}

impl From<&HostSet> for Members {
    fn from(hosts: &HostSet) -> Self {
        Self {
            total: hosts.len(),
            healthy: hosts.healthy_len(),
            degraded: hosts.degraded_len(),
            excluded: hosts.excluded_len(),
        }
    }
}
