//! The hosts of a cluster at one moment: immutable, with everything that picking needs worked out beforehand.
//!
//! A change of membership, weight or health makes a new set; hosts that stay are the same objects with their counters.

use std::fmt;
use std::hash::BuildHasher;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use hashbrown::{HashMap, HashSet, HashTable};

use super::lb::{HashTables, Hashing};
use super::priority::{Load, Priority, loads, loads_without};
use super::subsets::{SubsetSettings, Subsets};
use super::{
    Assignment, AssignmentPolicy, Endpoint, HealthFlag, Host, HostHealth, Locality, LocalityEndpoints,
};
use crate::address::Address;

/// Some hosts, with what picking among them needs to know.
#[derive(Clone, Default)]
pub struct HostList {
    hosts: Arc<[Arc<Host>]>,
    equal_weights: bool,
}

impl HostList {
    fn new(hosts: Vec<Arc<Host>>) -> Self {
        let equal_weights = hosts.windows(2).all(|pair| pair[0].weight() == pair[1].weight());
        Self { hosts: hosts.into(), equal_weights }
    }

    /// Whether all weights are the same.
    pub fn equal_weights(&self) -> bool {
        self.equal_weights
    }

    /// Sum of the weights.
    pub fn total_weight(&self) -> u64 {
        self.iter().map(|host| u64::from(host.weight())).sum()
    }
}

impl Deref for HostList {
    type Target = [Arc<Host>];
    fn deref(&self) -> &Self::Target {
        &self.hosts
    }
}

impl fmt::Debug for HostList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hosts.fmt(f)
    }
}

/// Hosts by health.
#[derive(Clone, Debug, Default)]
pub struct HostLists {
    /// All of them.
    pub all: HostList,
    /// Those to choose first.
    pub healthy: HostList,
    /// Those to choose when too few are healthy.
    pub degraded: HostList,
    /// How many are draining: these do not count when health is reckoned, as if they had left already.
    pub excluded: usize,
}

impl HostLists {
    fn new(hosts: Vec<Arc<Host>>) -> Self {
        let with = |health: HostHealth| -> Vec<Arc<Host>> {
            hosts.iter().filter(|host| host.health() == health).cloned().collect()
        };
        let degraded = HostList::new(with(HostHealth::Degraded));
        let excluded = with(HostHealth::Draining).len();
        let healthy = with(HostHealth::Healthy);
        let healthy = (healthy.len() < hosts.len()).then(|| HostList::new(healthy));
        let all = HostList::new(hosts);
        Self { healthy: healthy.unwrap_or_else(|| all.clone()), degraded, all, excluded }
    }
}

/// The hosts of one locality in one priority.
#[derive(Clone, Debug)]
pub struct LocalityHosts {
    /// Where they are.
    pub locality: Arc<Locality>,
    /// Configured weight, 0 if none.
    pub weight: u32,
    /// The hosts by health.
    pub hosts: HostLists,
    /// Weight when picking a locality for a healthy host: the configured one, lessened as hosts fail.
    pub healthy_weight: f64,
    /// The same when picking for a degraded host.
    pub degraded_weight: f64,
}

impl LocalityHosts {
    fn new(locality: Arc<Locality>, weight: u32, hosts: HostLists, factor: u32) -> Self {
        let total = hosts.all.len() - hosts.excluded;
        let effective = |available: usize| -> f64 {
            if total == 0 {
                return 0.0;
            }
            let ratio = f64::from(factor) / 100.0 * (available as f64 / total as f64);
            f64::from(weight) * ratio.min(1.0)
        };
        let (healthy_weight, degraded_weight) =
            (effective(hosts.healthy.len()), effective(hosts.degraded.len()));
        Self { locality, weight, hosts, healthy_weight, degraded_weight }
    }
}

/// What becomes of endpoints with an address that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Duplicates {
    /// Only the first counts (EDS, DNS).
    #[default]
    Drop,
    /// Each is a host (STATIC).
    Keep,
}

/// What the cluster's configuration says about its host sets.
#[derive(Clone, Copy, Debug)]
pub struct HostSetOptions<'a> {
    /// Percent of available hosts below which health is ignored; 0 never.
    pub panic_threshold: u32,
    /// Endpoints with the same address.
    pub duplicates: Duplicates,
    /// What tables of hashes to make, if hosts are found by such.
    pub hashing: Option<&'a Hashing>,
    /// Whether it matters since when hosts are healthy.
    pub slow_start: bool,
    /// How hosts are divided by their labels, if they are.
    pub subsets: Option<&'a SubsetSettings>,
    /// What active health checks mean for hosts that come and go, if there are any.
    pub checks: Option<Checking>,
}

/// What active health checks mean for hosts that come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checking {
    /// New hosts are taken to be unwell until their first check passes.
    pub new_are_unwell: bool,
    /// They are left out of the reckoning until their first check (`ignore_new_hosts_until_first_hc`).
    pub new_are_excluded: bool,
    /// Hosts that discovery knows no longer stay while their checks pass.
    pub well_ones_stay: bool,
}

impl Default for HostSetOptions<'_> {
    fn default() -> Self {
        Self {
            panic_threshold: 50,
            duplicates: Duplicates::Drop,
            hashing: None,
            slow_start: false,
            subsets: None,
            checks: None,
        }
    }
}

/// The hosts of a cluster at one moment.
#[derive(Debug)]
pub struct HostSet {
    generation: u64,
    priorities: Box<[Priority]>,
    policy: AssignmentPolicy,
    slots: usize,
    tables: Option<HashTables>,
    newest: Option<Instant>,
    subsets: Option<Box<Subsets>>,
    /// Made when a host is first asked for by its address.
    by_address: OnceLock<Box<ByAddress>>,
}

/// Hosts by their address.
#[derive(Debug)]
struct ByAddress {
    hosts: HashTable<Arc<Host>>,
    hasher: foldhash::fast::RandomState,
}

impl ByAddress {
    /// Of several with an address the first counts.
    fn new<'h>(all: impl Iterator<Item = &'h Arc<Host>>) -> Self {
        let hasher = foldhash::fast::RandomState::default();
        let mut hosts: HashTable<Arc<Host>> = HashTable::new();
        for host in all {
            let hash = |host: &Arc<Host>| hasher.hash_one(&host.address);
            let entry = hosts.entry(hash(host), |other| other.address == host.address, hash);
            entry.or_insert_with(|| host.clone());
        }
        Self { hosts, hasher }
    }

    fn get(&self, address: &Address) -> Option<&Arc<Host>> {
        self.hosts.find(self.hasher.hash_one(address), |host| host.address == *address)
    }
}

/// What a new assignment changed.
#[derive(Debug)]
pub struct HostsUpdate {
    /// The hosts from now on.
    pub hosts: Arc<HostSet>,
    /// Hosts that were not there before.
    pub added: Vec<Arc<Host>>,
    /// Hosts that are there no more; their pools are to be drained.
    pub removed: Vec<Arc<Host>>,
    /// Hosts that stayed and have other metadata.
    pub relabelled: Vec<Arc<Host>>,
    /// Whether anything differs from before: membership, weights, health, metadata, localities or policy.
    pub changed: bool,
}

static GENERATION: AtomicU64 = AtomicU64::new(1);

impl Default for HostSet {
    fn default() -> Self {
        let options = HostSetOptions::default();
        Self::from_members(vec![Members::default()], AssignmentPolicy::default(), None, options)
    }
}

/// Hosts of one priority and locality while a set is made.
pub(super) struct Group {
    pub(super) locality: Arc<Locality>,
    pub(super) weight: u32,
    pub(super) hosts: Vec<Arc<Host>>,
}

/// Hosts of one priority while a set is made: all of them in the order of the configuration, and by locality.
#[derive(Default)]
pub(super) struct Members {
    pub(super) hosts: Vec<Arc<Host>>,
    pub(super) groups: Vec<Group>,
}

impl HostSet {
    /// Makes the set for `assignment`, keeping from `previous` the hosts that stay.
    ///
    /// A host stays when an endpoint with its address, hostname, further addresses and locality is there; its weight,
    /// health, metadata and priority are updated in place, and so are seen at once through `previous`, too.
    pub fn update(
        previous: Option<&Self>,
        assignment: &Assignment,
        options: HostSetOptions<'_>,
    ) -> HostsUpdate {
        let mut merge = Merge::new(previous, options);
        let mut members: Vec<Members> = vec![Members::default()];
        for locality in &assignment.localities {
            let priority = locality.priority as usize;
            if members.len() <= priority {
                members.resize_with(priority + 1, Members::default);
            }
            merge.locality(locality, &mut members[priority]);
        }
        merge.keep_well_ones(&mut members);
        let hosts = Arc::new(Self::from_members(members, assignment.policy.clone(), previous, options));
        let Merge { existing, added, relabelled, mut changed, .. } = merge;
        let removed: Vec<Arc<Host>> = existing.into_values().flatten().collect();
        changed |= !added.is_empty() || !removed.is_empty();
        changed |= previous.is_none_or(|previous| previous.shape_differs(&hosts));
        HostsUpdate { hosts, added, removed, relabelled, changed }
    }

    /// A set of these hosts, all of one priority and locality.
    pub fn of_hosts(hosts: Vec<Arc<Host>>, options: HostSetOptions<'_>) -> Self {
        let group = Group { locality: Locality::nowhere(), weight: 0, hosts: hosts.clone() };
        let members = Members { hosts, groups: vec![group] };
        Self::from_members(vec![members], AssignmentPolicy::default(), None, options)
    }

    /// The same hosts sorted by their health and weight as they are now.
    pub fn refreshed(&self, options: HostSetOptions<'_>) -> Self {
        let members = self.priorities.iter().map(|priority| {
            let group = |one: &LocalityHosts| Group {
                locality: one.locality.clone(),
                weight: one.weight,
                hosts: one.hosts.all.to_vec(),
            };
            let groups = priority.localities.iter().map(group).collect();
            Members { hosts: priority.hosts.all.to_vec(), groups }
        });
        Self::from_members(members.collect(), self.policy.clone(), Some(self), options)
    }

    /// The hosts that are only there because their checks passed, and do no longer.
    pub fn outstayed(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts().filter(|host| {
            host.has_flag(HealthFlag::PendingDynamicRemoval)
                && host.has_flag(HealthFlag::FailedActiveHealthCheck)
        })
    }

    /// The same hosts but for [`Self::outstayed`], which are removed.
    pub fn without_outstayed(&self, options: HostSetOptions<'_>) -> HostsUpdate {
        let removed: Vec<Arc<Host>> = self.outstayed().cloned().collect();
        let stays = |host: &&Arc<Host>| !removed.iter().any(|gone| Arc::ptr_eq(gone, host));
        let members = self.priorities.iter().map(|priority| {
            let group = |one: &LocalityHosts| Group {
                locality: one.locality.clone(),
                weight: one.weight,
                hosts: one.hosts.all.iter().filter(stays).cloned().collect(),
            };
            let groups = priority.localities.iter().map(group).filter(|group| !group.hosts.is_empty());
            let groups = groups.collect();
            Members { hosts: priority.hosts.all.iter().filter(stays).cloned().collect(), groups }
        });
        let hosts = Self::from_members(members.collect(), self.policy.clone(), Some(self), options);
        let hosts = Arc::new(hosts);
        HostsUpdate { hosts, added: Vec::new(), removed, relabelled: Vec::new(), changed: true }
    }

    pub(super) fn from_members(
        members: Vec<Members>,
        policy: AssignmentPolicy,
        previous: Option<&Self>,
        options: HostSetOptions<'_>,
    ) -> Self {
        let factor = policy.overprovisioning_factor;
        let mut priorities: Vec<Priority> = Vec::with_capacity(members.len());
        let mut slots = 0;
        for Members { hosts, mut groups } in members {
            groups.sort_by(|a, b| a.locality.cmp(&b.locality));
            let hosts = HostLists::new(hosts);
            let is_only = groups.len() == 1;
            let localities: Box<[LocalityHosts]> = groups
                .into_iter()
                .map(|Group { locality, weight, hosts: own }| {
                    let lists = if is_only { hosts.clone() } else { HostLists::new(own) };
                    LocalityHosts::new(locality, weight, lists, factor)
                })
                .collect();
            let first_slot = slots;
            slots += 3 + 2 * localities.len();
            priorities.push(Priority { hosts, localities, load: Load::default(), first_slot });
        }
        let lists: Vec<&HostLists> = priorities.iter().map(|priority| &priority.hosts).collect();
        let loads = loads(&lists, &policy, options.panic_threshold);
        for (priority, load) in priorities.iter_mut().zip(loads) {
            priority.load = load;
        }
        let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
        // (Where there are subsets, nothing is picked from the whole.)
        let hashing = options.hashing.filter(|_| options.subsets.is_none());
        let tables = hashing.map(|hashing| hashing.tables(&priorities));
        let newest = if options.slow_start { newest(&priorities) } else { None };
        let subsets = options.subsets.map(|settings| {
            let previous = previous.and_then(Self::subsets);
            Box::new(Subsets::new(settings, &priorities, &policy, previous, options))
        });
        Self {
            generation,
            priorities: priorities.into(),
            policy,
            slots,
            tables,
            newest,
            subsets,
            by_address: OnceLock::new(),
        }
    }

    fn shape_differs(&self, other: &Self) -> bool {
        let localities = |set: &Self| -> Vec<(Arc<Locality>, u32, usize)> {
            let all = set.priorities.iter().flat_map(|priority| &priority.localities);
            all.map(|one| (one.locality.clone(), one.weight, one.hosts.all.len())).collect()
        };
        self.policy != other.policy
            || self.priorities.len() != other.priorities.len()
            || localities(self) != localities(other)
    }

    /// A number that no other set has.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The priorities, 0 first; at least one.
    pub fn priorities(&self) -> &[Priority] {
        &self.priorities
    }

    /// What came with the assignment.
    pub fn policy(&self) -> &AssignmentPolicy {
        &self.policy
    }

    /// Every host.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.priorities.iter().flat_map(|priority| priority.hosts.all.iter())
    }

    /// The host at `address`, whatever its priority and health.
    pub fn at(&self, address: &Address) -> Option<&Arc<Host>> {
        self.by_address.get_or_init(|| Box::new(ByAddress::new(self.hosts()))).get(address)
    }

    /// Number of hosts.
    pub fn len(&self) -> usize {
        self.priorities.iter().map(|priority| priority.hosts.all.len()).sum()
    }

    /// Whether there are no hosts.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of healthy hosts (`membership_healthy`).
    pub fn healthy_len(&self) -> usize {
        self.priorities.iter().map(|priority| priority.hosts.healthy.len()).sum()
    }

    /// Number of degraded hosts (`membership_degraded`).
    pub fn degraded_len(&self) -> usize {
        self.priorities.iter().map(|priority| priority.hosts.degraded.len()).sum()
    }

    /// Number of draining hosts (`membership_excluded`).
    pub fn excluded_len(&self) -> usize {
        self.priorities.iter().map(|priority| priority.hosts.excluded).sum()
    }

    /// The largest weight that discovery gives a host (`max_host_weight`); 0 if there are none.
    pub fn max_weight(&self) -> u32 {
        self.hosts().map(|host| host.discovered_weight()).max().unwrap_or(0)
    }

    /// Whether `host`, which was picked from this set, was picked in panic (`lb_healthy_panic`).
    pub fn picked_in_panic(&self, host: &Host) -> bool {
        self.priorities.get(host.priority() as usize).is_some_and(|priority| priority.load.panic)
    }

    /// How the load is shared when these priorities are to be avoided; `None` if no other can take any.
    pub fn loads_without(&self, excluded: impl Fn(usize) -> bool) -> Option<Vec<Load>> {
        loads_without(&self.priorities, &self.policy, excluded)
    }

    /// Which hosts numbers go to, if that was asked for.
    pub fn tables(&self) -> Option<&HashTables> {
        self.tables.as_ref()
    }

    /// The subsets of the hosts, if they are divided.
    pub fn subsets(&self) -> Option<&Subsets> {
        self.subsets.as_deref()
    }

    /// When the last of its hosts became healthy, if that was asked for.
    pub(super) fn newest(&self) -> Option<Instant> {
        self.newest
    }

    pub(super) fn slots(&self) -> usize {
        self.slots
    }
}

/// Notes the time for the healthy hosts that are new, and says when the last one came.
fn newest(priorities: &[Priority]) -> Option<Instant> {
    let now = Instant::now();
    let healthy = priorities.iter().flat_map(|priority| priority.hosts.healthy.iter());
    healthy.map(|host| host.note_healthy(now)).max()
}

/// Matches endpoints with the hosts of the previous set.
struct Merge<'a> {
    existing: HashMap<&'a Address, Vec<Arc<Host>>>,
    seen: HashSet<Address>,
    duplicates: Duplicates,
    checks: Option<Checking>,
    added: Vec<Arc<Host>>,
    relabelled: Vec<Arc<Host>>,
    changed: bool,
}

impl<'a> Merge<'a> {
    fn new(previous: Option<&'a HostSet>, options: HostSetOptions<'_>) -> Self {
        let mut existing: HashMap<&'a Address, Vec<Arc<Host>>> = HashMap::new();
        for host in previous.into_iter().flat_map(HostSet::hosts) {
            existing.entry(&host.address).or_default().push(host.clone());
        }
        Self {
            existing,
            seen: HashSet::new(),
            duplicates: options.duplicates,
            checks: options.checks,
            added: Vec::new(),
            relabelled: Vec::new(),
            changed: false,
        }
    }

    fn locality(&mut self, from: &LocalityEndpoints, members: &mut Members) {
        let Members { hosts, groups } = members;
        let index = groups.iter().position(|group| group.locality == from.locality).unwrap_or_else(|| {
            groups.push(Group { locality: from.locality.clone(), weight: 0, hosts: Vec::new() });
            groups.len() - 1
        });
        let group = &mut groups[index];
        group.weight = from.weight;
        for endpoint in &from.endpoints {
            if self.duplicates == Duplicates::Drop && !self.seen.insert(endpoint.address.clone()) {
                continue;
            }
            let host = self.host(endpoint, &from.locality, from.priority);
            hosts.push(host.clone());
            group.hosts.push(host);
        }
    }

    fn host(&mut self, endpoint: &Endpoint, locality: &Arc<Locality>, priority: u32) -> Arc<Host> {
        let is_checked = self.checks.is_some();
        let kept = self.existing.get_mut(&endpoint.address).and_then(|hosts| {
            let same = |host: &Arc<Host>| {
                (!is_checked || is_checked_alike(host, endpoint))
                    && host.locality == *locality
                    && host.hostname == endpoint.hostname
                    && host.additional_addresses == endpoint.additional_addresses
            };
            hosts.iter().position(same).map(|index| hosts.swap_remove(index))
        });
        let host = match kept {
            Some(host) => {
                host.set_flag(HealthFlag::PendingDynamicRemoval, false);
                self.changed |= host.discovered_weight() != endpoint.weight
                    || host.discovered_health() != HostHealth::of(endpoint.health)
                    || host.priority() != priority;
                if host.metadata() != endpoint.metadata {
                    self.changed = true;
                    self.relabelled.push(host.clone());
                }
                host
            }
            None => {
                let host = Arc::new(Host::from_endpoint(endpoint, locality));
                self.first_health(&host, endpoint);
                self.added.push(host.clone());
                host
            }
        };
        host.set_weight(endpoint.weight);
        host.set_discovered_health(endpoint.health);
        host.set_priority(priority);
        if host.metadata() != endpoint.metadata {
            host.set_metadata(&endpoint.metadata);
        }
        host
    }
    /// What is known of the health of a new host before it is checked: that of the one whose place it takes, if it is checked in
    /// the same way.
    fn first_health(&self, host: &Host, endpoint: &Endpoint) {
        let Some(checks) = self.checks.filter(|_| !host.is_never_checked()) else { return };
        let before = self.existing.get(&endpoint.address);
        let before = before.and_then(|hosts| hosts.iter().find(|before| is_checked_alike(before, endpoint)));
        match before {
            Some(before) => host.take_active_health(before),
            None if checks.new_are_unwell => host.await_check(checks.new_are_excluded),
            None => host.await_check_healthy(),
        }
    }

    /// Hosts that discovery knows no longer stay while nothing but that speaks against them.
    fn keep_well_ones(&mut self, members: &mut Vec<Members>) {
        if !self.checks.is_some_and(|checks| checks.well_ones_stay) {
            return;
        }
        for (address, hosts) in &mut self.existing {
            if self.seen.contains(*address) {
                continue;
            }
            let is_well = |host: &mut Arc<Host>| {
                !host.has_flag(HealthFlag::FailedActiveHealthCheck)
                    && !host.has_flag(HealthFlag::FailedEdsHealth)
                    && !host.is_never_checked()
            };
            for host in hosts.extract_if(.., is_well) {
                host.set_flag(HealthFlag::PendingDynamicRemoval, true);
                let priority = host.priority() as usize;
                if members.len() <= priority {
                    members.resize_with(priority + 1, Members::default);
                }
                let Some(Members { hosts, groups }) = members.get_mut(priority) else { continue };
                hosts.push(host.clone());
                match groups.iter_mut().find(|group| group.locality == host.locality) {
                    Some(group) => group.hosts.push(host),
                    None => {
                        groups.push(Group { locality: host.locality.clone(), weight: 0, hosts: vec![host] });
                    }
                }
            }
        }
    }
}

/// Whether checks of `host` are those of `endpoint`.
fn is_checked_alike(host: &Host, endpoint: &Endpoint) -> bool {
    let disabled = endpoint.check.as_ref().is_some_and(|check| check.disabled);
    let address = endpoint.check.as_ref().map(|check| check.address(&endpoint.address));
    host.is_never_checked() == disabled
        && host.check_address() == *address.as_ref().unwrap_or(&endpoint.address)
}
