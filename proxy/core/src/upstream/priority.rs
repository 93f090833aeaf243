//! How much of the load each priority gets, and when panic ignores health.
//!
//! Source: Envoy `docs/root/intro/arch_overview/upstream/load_balancing/{priority,panic_threshold,degraded,
//! overprovisioning}.rst`. All of it is whole percents, rounded down, as in Envoy.

use super::host_set::{HostLists, LocalityHosts};
use super::{AssignmentPolicy, Host, HostHealth};
use std::sync::Arc;

/// The hosts of one priority and its share of the load.
#[derive(Debug)]
pub struct Priority {
    /// Its hosts by health.
    pub hosts: HostLists,
    /// Its hosts by locality, in the order of the localities' names.
    pub localities: Box<[LocalityHosts]>,
    /// Its share of the load.
    pub load: Load,
    /// First of its places in a balancer's state.
    pub(super) first_slot: usize,
}

/// What share of the requests a priority gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Percent of all requests that go to its healthy hosts (to any host in panic).
    pub healthy: u32,
    /// Percent of all requests that go to its degraded hosts.
    pub degraded: u32,
    /// Whether too few hosts are available, so that health is ignored.
    pub panic: bool,
}

/// What one priority can carry, counted in hosts or in weights.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Capacity {
    /// All hosts.
    hosts: u64,
    /// Those that count: not the draining ones.
    counted: u64,
    available_hosts: u64,
    healthy: u32,
    degraded: u32,
}

impl Capacity {
    pub(super) fn new(hosts: &HostLists, policy: &AssignmentPolicy) -> Self {
        let sum = |hosts: &[Arc<Host>]| -> u64 {
            match policy.weighted_priority_health {
                true => hosts.iter().map(|host| u64::from(host.weight())).sum(),
                false => hosts.len() as u64,
            }
        };
        let counted: Vec<Arc<Host>> =
            hosts.all.iter().filter(|host| host.health() != HostHealth::Draining).cloned().collect();
        let total = sum(&counted);
        let percent = |part: u64| -> u32 {
            let percent = (u64::from(policy.overprovisioning_factor) * part).checked_div(total).unwrap_or(0);
            u32::try_from(percent.min(100)).unwrap_or(100)
        };
        Self {
            hosts: hosts.all.len() as u64,
            counted: counted.len() as u64,
            available_hosts: (hosts.healthy.len() + hosts.degraded.len()) as u64,
            healthy: percent(sum(&hosts.healthy)),
            degraded: percent(sum(&hosts.degraded)),
        }
    }

    fn in_panic(self, threshold: u32) -> bool {
        match self.counted {
            0 => threshold > 0,
            counted => self.available_hosts * 100 < u64::from(threshold) * counted,
        }
    }
}

/// Shares 100 percent of the load among priorities; the shares of a non-empty table always sum to 100.
///
/// `panic_threshold` is in percent; 0 turns panic off.
pub(super) fn loads(hosts: &[&HostLists], policy: &AssignmentPolicy, panic_threshold: u32) -> Vec<Load> {
    let capacity: Vec<Capacity> = hosts.iter().map(|hosts| Capacity::new(hosts, policy)).collect();
    share(&capacity, panic_threshold)
}

/// As [`loads`], of priorities that can carry so much.
pub(super) fn share(capacity: &[Capacity], panic_threshold: u32) -> Vec<Load> {
    let mut loads = vec![Load::default(); capacity.len()];
    let available: u32 = capacity.iter().map(|one| one.healthy + one.degraded).sum::<u32>().min(100);
    if available > 0 {
        share_by_availability(capacity, available, &mut loads);
    }
    if panic_threshold == 0 && available == 0 {
        // Nobody can take the load; the first priority gets it and has nothing to give.
        if let Some(first) = loads.first_mut() {
            first.healthy = 100;
        }
        return loads;
    }
    for (load, capacity) in loads.iter_mut().zip(capacity) {
        load.panic = available < 100 && capacity.in_panic(panic_threshold.min(100));
    }
    if loads.iter().all(|load| load.panic) {
        share_by_hosts(capacity, &mut loads);
    }
    loads
}

/// Shares the load of a request that is sent again among the priorities that are not `excluded`; `None` if none of them can
/// take any. Source: Envoy `envoy.retry_priorities.previous_priorities`.
pub(super) fn loads_without(
    priorities: &[Priority],
    policy: &AssignmentPolicy,
    excluded: impl Fn(usize) -> bool,
) -> Option<Vec<Load>> {
    let capacity = |priority: &Priority| Capacity::new(&priority.hosts, policy);
    share_without(&priorities.iter().map(capacity).collect::<Vec<_>>(), excluded)
}

/// As [`loads_without`], of priorities that can carry so much.
pub(super) fn share_without(capacity: &[Capacity], excluded: impl Fn(usize) -> bool) -> Option<Vec<Load>> {
    let of = |(index, capacity): (usize, &Capacity)| match excluded(index) {
        true => Capacity::default(),
        false => *capacity,
    };
    let capacity: Vec<Capacity> = capacity.iter().enumerate().map(of).collect();
    let available: u32 = capacity.iter().map(|one| one.healthy + one.degraded).sum::<u32>().min(100);
    if available == 0 {
        return None;
    }
    let mut loads = vec![Load::default(); capacity.len()];
    share_by_availability(&capacity, available, &mut loads);
    Some(loads)
}

/// Healthy hosts first, in order of priority, then degraded ones; what rounding leaves goes to the first that takes any.
fn share_by_availability(capacity: &[Capacity], available: u32, loads: &mut [Load]) {
    let mut left = 100;
    for (load, capacity) in loads.iter_mut().zip(capacity) {
        load.healthy = left.min(capacity.healthy * 100 / available);
        left -= load.healthy;
    }
    for (load, capacity) in loads.iter_mut().zip(capacity) {
        load.degraded = left.min(capacity.degraded * 100 / available);
        left -= load.degraded;
    }
    if let Some(first) = capacity.iter().position(|capacity| capacity.healthy > 0) {
        loads[first].healthy += left;
    } else if let Some(first) = capacity.iter().position(|capacity| capacity.degraded > 0) {
        loads[first].degraded += left;
    }
}

/// Every priority is in panic: each gets its share of all hosts, whatever their health.
fn share_by_hosts(capacity: &[Capacity], loads: &mut [Load]) {
    let total: u64 = capacity.iter().map(|one| one.hosts).sum();
    let mut left = 100;
    for (load, capacity) in loads.iter_mut().zip(capacity) {
        let share = (100 * capacity.hosts).checked_div(total).unwrap_or(0);
        load.healthy = u32::try_from(share).unwrap_or(100);
        load.degraded = 0;
        left -= load.healthy;
    }
    let first = capacity.iter().position(|capacity| capacity.hosts > 0).unwrap_or(0);
    if let Some(load) = loads.get_mut(first) {
        load.healthy += left;
    }
}
