//! Picking a host: the contract, the choice of priority and locality in front of every policy, and the policies.
//!
//! A balancer belongs to one worker. What it remembers (cursors, schedules) is made when a host set is first picked from,
//! so that a pick allocates nothing. Source: Envoy `docs/root/intro/arch_overview/upstream/load_balancing/`.

mod edf;
mod hashing;
mod override_host;
mod policy;
mod slow_start;
mod subset;
mod zones;

#[cfg(test)]
mod suite;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::edf::Edf;
pub use self::hashing::{EntryCounts, HashBalancer, HashFunction, HashTableKind, HashTables, Hashing};
pub use self::override_host::OverrideBalancer;
pub use self::policy::{LeastRequest, Policy, RuntimeDouble, Selection};
pub use self::slow_start::SlowStart;
pub use self::subset::SubsetBalancer;
pub use self::zones::ZoneRouting;
use self::zones::{Route, ZoneRouter};
use super::{Host, HostList, HostQueue, HostSet, Labels, Load, OverrideHosts, Priority, SubsetSettings};
use crate::stats::Cells;
use crate::stats::groups::ClusterTrafficStats;

/// What a pick may look at beside the hosts.
pub struct PickCx<'a> {
    /// The worker's random numbers.
    pub random: &'a mut fastrand::Rng,
    /// What the request hashes to, for those that balance by it.
    pub hash: Option<u64>,
    /// How many hosts were picked for the same request before and not wanted: those that hash pick another.
    pub attempt: u32,
    /// Requests in flight at the whole cluster, for those that bound the load of a host by it.
    pub active_requests: u32,
    /// The load of each priority in place of the set's own, for a request that is sent again; those that hash keep to the set's.
    pub loads: Option<&'a [Load]>,
    /// How hosts must be labelled, for clusters whose hosts are divided by that.
    pub labels: Option<&'a Labels>,
    /// The hosts that the request lists, for clusters that look for such a list.
    pub listed: Option<&'a HostQueue>,
    /// Set by a pick in panic, whether there was a host or not (`lb_healthy_panic`).
    pub in_panic: bool,
}

impl<'a> PickCx<'a> {
    /// A pick that depends on nothing but chance.
    pub fn new(random: &'a mut fastrand::Rng) -> Self {
        Self {
            random,
            hash: None,
            attempt: 0,
            active_requests: 0,
            loads: None,
            labels: None,
            listed: None,
            in_panic: false,
        }
    }
}

/// Chooses hosts for one cluster on one worker.
pub trait LoadBalancer {
    /// The host for the next request; `None` if there is none to choose (`no_healthy_upstream`).
    ///
    /// Allocates only when `hosts` is another set than that of the last pick.
    fn pick(&mut self, hosts: &HostSet, cx: &mut PickCx<'_>) -> Option<Arc<Host>>;
}

/// How a cluster balances.
#[derive(Clone, Debug)]
pub enum Scheme {
    /// By a policy among the hosts that priority, health and locality leave.
    Spread {
        /// The policy.
        policy: Policy,
        /// A locality is picked by its weight first.
        locality_weighted: bool,
        /// Nothing is picked in panic, instead of anything.
        fail_on_panic: bool,
        /// New hosts get less at first.
        slow_start: Option<Box<SlowStart>>,
        /// As much as is fair goes to the zone of this proxy.
        zones: Option<Arc<ZoneRouting>>,
    },
    /// By what requests hash to.
    Hashing(Hashing),
    /// Within the subset of hosts that a request wants.
    Subsets {
        /// How the hosts are divided.
        settings: Arc<SubsetSettings>,
        /// How to balance within a subset.
        inner: Box<Scheme>,
    },
    /// To the hosts that a request lists.
    OverrideHost {
        /// Where they are listed.
        hosts: Arc<OverrideHosts>,
        /// How to balance where none of them is there.
        fallback: Box<Scheme>,
    },
}

impl Scheme {
    /// A balancer for one worker; `stats` are those of its cluster.
    pub fn balancer(&self, stats: &Cells<ClusterTrafficStats>) -> Box<dyn LoadBalancer> {
        match self {
            Self::Spread { policy, locality_weighted, fail_on_panic, slow_start, zones } => {
                let balancer = Balancer::new(policy.clone(), *locality_weighted, *fail_on_panic);
                let router = |zones: &Arc<ZoneRouting>| ZoneRouter::new(zones.clone(), stats.clone());
                let zones = zones.as_ref().map(router).map(Box::new);
                Box::new(Balancer { slow_start: slow_start.clone(), zones, ..balancer })
            }
            Self::Hashing(hashing) => Box::new(HashBalancer::new(hashing)),
            Self::Subsets { settings, inner } => {
                Box::new(SubsetBalancer::new(settings.clone(), inner.clone(), stats.clone()))
            }
            Self::OverrideHost { fallback, .. } => Box::new(OverrideBalancer::new(fallback.balancer(stats))),
        }
    }

    /// How requests are hashed, if they are.
    pub fn hashing(&self) -> Option<&Hashing> {
        match self {
            Self::Spread { .. } => None,
            Self::Hashing(hashing) => Some(hashing),
            Self::Subsets { inner, .. } | Self::OverrideHost { fallback: inner, .. } => inner.hashing(),
        }
    }

    /// Whether new hosts get less at first.
    pub fn starts_slowly(&self) -> bool {
        match self {
            Self::Spread { slow_start, .. } => slow_start.is_some(),
            Self::Hashing(_) => false,
            Self::Subsets { inner, .. } | Self::OverrideHost { fallback: inner, .. } => inner.starts_slowly(),
        }
    }

    /// How the hosts are divided by their labels, if they are.
    pub fn subsets(&self) -> Option<&SubsetSettings> {
        match self {
            Self::Spread { .. } | Self::Hashing(_) => None,
            Self::Subsets { settings, .. } => Some(settings),
            Self::OverrideHost { fallback, .. } => fallback.subsets(),
        }
    }

    /// Where requests list the hosts that they are to go to, if somebody looks for that.
    pub fn override_hosts(&self) -> Option<&OverrideHosts> {
        match self {
            Self::Spread { .. } | Self::Hashing(_) => None,
            Self::Subsets { inner, .. } => inner.override_hosts(),
            Self::OverrideHost { hosts, .. } => Some(hosts),
        }
    }

    /// Whether it can be known now who is picked next.
    pub fn tells_next(&self) -> bool {
        match self {
            Self::Spread { policy, .. } => !matches!(policy, Policy::LeastRequest(_)),
            Self::Hashing(_) | Self::Subsets { .. } => false,
            Self::OverrideHost { fallback, .. } => fallback.tells_next(),
        }
    }
}

/// Balances by a policy among the hosts that priority, health and locality leave.
#[derive(Debug)]
pub struct Balancer {
    policy: Policy,
    locality_weighted: bool,
    fail_on_panic: bool,
    slow_start: Option<Box<SlowStart>>,
    zones: Option<Box<ZoneRouter>>,
    /// Generation of the set that the rest is about; 0 before the first.
    generation: u64,
    /// What the policy remembers of each list of hosts, by slot.
    places: Vec<Place>,
    /// Schedules of localities: two for each priority, for healthy and for degraded hosts.
    localities: Vec<Option<Box<Edf>>>,
}

/// What a policy remembers of one list of hosts.
#[derive(Debug, Default)]
struct Place {
    /// Where round robin stands; `None` before the first pick.
    cursor: Option<usize>,
    /// The schedule, where weights differ.
    schedule: Option<Box<Edf>>,
}

/// Hosts to pick from, and where the policy's memory of them is.
struct Source<'h> {
    hosts: &'h HostList,
    slot: usize,
}

/// Of what health the hosts are that a request goes to.
#[derive(Clone, Copy)]
pub(super) enum Availability {
    Healthy,
    Degraded,
}

impl Balancer {
    /// A balancer for `policy`.
    ///
    /// `locality_weighted` picks a locality by weight first; `fail_on_panic` picks nothing in panic instead of anything.
    pub fn new(policy: Policy, locality_weighted: bool, fail_on_panic: bool) -> Self {
        Self {
            policy,
            locality_weighted,
            fail_on_panic,
            slow_start: None,
            zones: None,
            generation: 0,
            places: Vec::new(),
            localities: Vec::new(),
        }
    }

    /// Forgets what was about another set; round robin goes on where it stood.
    #[cold]
    fn adopt(&mut self, hosts: &HostSet, random: &mut fastrand::Rng) {
        self.generation = hosts.generation();
        self.policy.refresh();
        self.places.resize_with(hosts.slots(), Place::default);
        for place in &mut self.places {
            place.schedule = None;
        }
        self.localities.clear();
        if !self.locality_weighted {
            return;
        }
        for priority in hosts.priorities() {
            let weights = |degraded: bool| {
                priority
                    .localities
                    .iter()
                    .map(move |one| if degraded { one.degraded_weight } else { one.healthy_weight })
            };
            let schedule = |degraded: bool, seed: usize| Edf::new(weights(degraded), seed).map(Box::new);
            self.localities.push(schedule(false, random.usize(..)));
            self.localities.push(schedule(true, random.usize(..)));
        }
    }

    fn source<'h>(&mut self, hosts: &'h HostSet, cx: &mut PickCx<'_>) -> Option<Source<'h>> {
        let (index, availability) = choose_priority(hosts, cx.loads, cx.random.u64(..))?;
        let priority = hosts.priorities().get(index)?;
        let slot = priority.first_slot;
        if priority.load.panic {
            cx.in_panic = true;
            let source = Source { hosts: &priority.hosts.all, slot };
            return (!self.fail_on_panic).then_some(source);
        }
        if let Some(source) = self.locality(index, priority, availability) {
            return Some(source);
        }
        if index == 0
            && let Some(zones) = &mut self.zones
        {
            match zones.route(hosts, self.fail_on_panic, cx.random) {
                Route::Anywhere => {}
                Route::To(locality) => return of_locality(priority, locality, availability),
                Route::Nowhere => return None,
            }
        }
        Some(match availability {
            Availability::Healthy => Source { hosts: &priority.hosts.healthy, slot: slot + 1 },
            Availability::Degraded => Source { hosts: &priority.hosts.degraded, slot: slot + 2 },
        })
    }

    fn locality<'h>(
        &mut self,
        index: usize,
        priority: &'h Priority,
        availability: Availability,
    ) -> Option<Source<'h>> {
        let degraded = usize::from(matches!(availability, Availability::Degraded));
        let schedule = self.localities.get_mut(2 * index + degraded)?.as_mut()?;
        let weight = |index: usize| {
            priority.localities.get(index).map_or(0.0, |locality| match availability {
                Availability::Healthy => locality.healthy_weight,
                Availability::Degraded => locality.degraded_weight,
            })
        };
        let chosen = schedule.pick(weight)?;
        of_locality(priority, chosen, availability)
    }
}

/// The hosts of one locality.
fn of_locality(priority: &Priority, index: usize, availability: Availability) -> Option<Source<'_>> {
    let lists = &priority.localities.get(index)?.hosts;
    let slot = priority.first_slot + 3 + 2 * index;
    Some(match availability {
        Availability::Healthy => Source { hosts: &lists.healthy, slot },
        Availability::Degraded => Source { hosts: &lists.degraded, slot: slot + 1 },
    })
}

impl LoadBalancer for Balancer {
    fn pick(&mut self, hosts: &HostSet, cx: &mut PickCx<'_>) -> Option<Arc<Host>> {
        if self.generation != hosts.generation() {
            self.adopt(hosts, cx.random);
        }
        let source = self.source(hosts, cx)?;
        let place = self.places.get_mut(source.slot)?;
        let starting = self.slow_start.as_ref().and_then(|slow| slow.starting(hosts.newest()));
        self.policy.pick(source.hosts, place, starting, cx.random)
    }
}

/// The priority for a request with random number `random`: healthy shares first, then degraded ones.
fn choose_priority(hosts: &HostSet, loads: Option<&[Load]>, random: u64) -> Option<(usize, Availability)> {
    if let Some(loads) = loads {
        return choose_by_load(loads.iter(), random);
    }
    let priorities = hosts.priorities();
    if let [only] = priorities
        && only.load.healthy == 100
    {
        return Some((0, Availability::Healthy));
    }
    choose_by_load(priorities.iter().map(|priority| &priority.load), random)
}

/// As [`choose_priority`], by these loads.
pub(super) fn choose_by_load<'l>(
    loads: impl Iterator<Item = &'l Load> + Clone,
    random: u64,
) -> Option<(usize, Availability)> {
    let point = random % 100;
    let mut sum = 0;
    for (index, load) in loads.clone().enumerate() {
        sum += u64::from(load.healthy);
        if point < sum {
            return Some((index, Availability::Healthy));
        }
    }
    for (index, load) in loads.enumerate() {
        sum += u64::from(load.degraded);
        if point < sum {
            return Some((index, Availability::Degraded));
        }
    }
    None
}
