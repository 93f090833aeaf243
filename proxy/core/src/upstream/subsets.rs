//! Subsets of the hosts of a cluster by their labels: how they are asked for, and those of one host set.
//!
//! They are made with each host set, on the main thread, and shared by all workers: a pick looks one up. Each is a host set of its
//! own, with its own reckoning of health, panic and localities; one in which nothing changed is taken over from the host set before,
//! with its tables and what balancers remember of it. Source: Envoy
//! `docs/root/intro/arch_overview/upstream/load_balancing/subsets.rst`, `cluster.proto` `LbSubsetConfig`.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use foldhash::quality::FixedState;
use hashbrown::{HashMap, HashSet};
use prost_types::Value;
use prost_types::value::Kind;

use super::host_set::{Group, Members};
use super::labels::{LB_NAMESPACE, Labels, encode};
use super::{AssignmentPolicy, Host, HostSet, HostSetOptions, Priority};

/// How the hosts of a cluster are divided.
#[derive(Clone, Debug)]
pub struct SubsetSettings {
    /// Who gets requests for which there is no subset.
    pub fallback: SubsetFallback,
    /// The labels of [`SubsetFallback::Default`].
    pub default_subset: Labels,
    /// The sets of keys that make subsets.
    pub selectors: Box<[SubsetSelector]>,
    /// The weights of localities in a subset.
    pub locality_weights: SubsetWeights,
    /// All hosts are tried where the fallback has none to give.
    pub panic_mode_any: bool,
    /// A label that is a list stands for each of its values.
    pub list_as_any: bool,
    /// `fallback_list` among the labels of a request is a list of what to try.
    pub metadata_fallback_list: bool,
    /// Labels of a request that no selector asks for do not matter.
    pub allow_redundant_keys: bool,
}

/// Keys that make subsets: one for each combination of values that hosts have.
#[derive(Clone, Debug)]
pub struct SubsetSelector {
    /// The keys, sorted, each once.
    pub keys: Box<[Box<str>]>,
    /// Who gets requests with exactly these keys for which there is no subset.
    pub fallback: SelectorFallback,
    /// Each of the subsets has but one host.
    pub single_host: bool,
}

/// Who gets a request for which there is no subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubsetFallback {
    /// Nobody.
    Nobody,
    /// Any host.
    Any,
    /// Those that are labelled as the default is.
    Default,
}

/// Who gets a request with the keys of a selector for which there is no subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectorFallback {
    /// The cluster says.
    OfCluster,
    /// This.
    To(SubsetFallback),
    /// Those that have these of the labels.
    Keys(Box<[Box<str>]>),
}

/// The weights of localities in a subset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubsetWeights {
    /// They have none.
    Ignored,
    /// As in the cluster.
    Kept,
    /// Less, by the part of their hosts that is not in the subset.
    Scaled,
}

/// More combinations of values of one host than this are not looked at: lists of labels may multiply.
const MOST_COMBINATIONS: usize = 4096;

impl SubsetSettings {
    /// The fallback for requests with exactly these keys.
    ///
    /// As in Envoy that of a selector whose keys begin those of one before it does not count.
    pub(super) fn fallback_of<'k>(&self, keys: impl Iterator<Item = &'k str> + Clone) -> &SelectorFallback {
        for selector in &self.selectors {
            let own = selector.keys.iter().map(|key| &**key);
            if own.clone().eq(keys.clone()) {
                return &selector.fallback;
            }
            if own.take(keys.clone().count()).eq(keys.clone()) {
                return &SelectorFallback::OfCluster;
            }
        }
        &SelectorFallback::OfCluster
    }

    fn falls_back_to(&self, fallback: SubsetFallback) -> bool {
        let wanted = SelectorFallback::To(fallback);
        self.fallback == fallback || self.selectors.iter().any(|selector| selector.fallback == wanted)
    }
}

/// The subsets of a host set.
#[derive(Debug)]
pub struct Subsets {
    by_labels: HashMap<Box<[u8]>, Subset, foldhash::fast::FixedState>,
    any: Option<Subset>,
    default: Option<Subset>,
    slots: usize,
    /// Hosts that were left out as their subset had its one host already (`lb_subsets_single_host_per_subset_duplicate`).
    pub duplicates: u64,
}

/// One subset.
#[derive(Debug)]
pub(super) struct Subset {
    /// Where a balancer keeps what it remembers of it: the same for as long as there is one for these labels.
    pub(super) slot: usize,
    pub(super) hosts: SubsetHosts,
    /// Of all that its hosts were made from.
    print: u64,
}

/// The hosts of a subset.
#[derive(Clone, Debug)]
pub(super) enum SubsetHosts {
    /// They are balanced over.
    Set(Arc<HostSet>),
    /// The only one.
    One(Arc<Host>),
}

const ANY_SLOT: usize = 0;
const DEFAULT_SLOT: usize = 1;
const FIRST_SLOT: usize = 2;

/// Hosts of a subset while it is gathered, by priority, each with the index of its locality.
struct Gathered {
    is_single: bool,
    hosts: Vec<Vec<(usize, Arc<Host>)>>,
}

impl Gathered {
    fn new(is_single: bool, priorities: usize) -> Self {
        Self { is_single, hosts: vec![Vec::new(); priorities] }
    }

    /// Whether there was room for `host`, or it was there already.
    fn take(&mut self, priority: usize, locality: usize, host: &Arc<Host>) -> bool {
        let hosts = &mut self.hosts[priority];
        match hosts.last() {
            Some((_, last)) if Arc::ptr_eq(last, host) => return !self.is_single,
            Some(_) if self.is_single => return false,
            Some(_) | None => {}
        }
        hosts.push((locality, host.clone()));
        true
    }

    /// The subset, with the hosts of `previous` if they are the same.
    fn finish(self, slot: usize, previous: Option<&Subset>, whole: &Whole<'_>) -> Subset {
        if self.is_single
            && let Some((_, host)) = self.hosts.iter().flatten().next()
        {
            return Subset { slot, hosts: SubsetHosts::One(host.clone()), print: 0 };
        }
        let members: Vec<Members> = self.members(whole);
        let print = print(&members, whole);
        let hosts = match previous.filter(|previous| previous.print == print) {
            Some(previous) => previous.hosts.clone(),
            None => {
                let set = HostSet::from_members(members, whole.policy.clone(), None, whole.options);
                SubsetHosts::Set(Arc::new(set))
            }
        };
        Subset { slot, hosts, print }
    }

    fn members(self, whole: &Whole<'_>) -> Vec<Members> {
        let members = whole.priorities.iter().zip(self.hosts).map(|(priority, hosts)| {
            let mut groups: Vec<Group> = priority
                .localities
                .iter()
                .map(|one| Group { locality: one.locality.clone(), weight: 0, hosts: Vec::new() })
                .collect();
            for (locality, host) in &hosts {
                groups[*locality].hosts.push(host.clone());
            }
            for (group, all) in groups.iter_mut().zip(&priority.localities) {
                group.weight = match whole.weights {
                    SubsetWeights::Ignored => 0,
                    SubsetWeights::Kept => all.weight,
                    SubsetWeights::Scaled => scaled(all.weight, group.hosts.len(), all.hosts.all.len()),
                };
            }
            Members { hosts: hosts.into_iter().map(|(_, host)| host).collect(), groups }
        });
        members.collect()
    }
}

/// What subsets are made from beside their hosts.
struct Whole<'a> {
    priorities: &'a [Priority],
    policy: &'a AssignmentPolicy,
    weights: SubsetWeights,
    options: HostSetOptions<'a>,
}

/// A number for all that a host set is made from. Two sets with the same one are the same: hosts are known by where they are in memory,
/// which nobody else takes while there is a set with them.
fn print(members: &[Members], whole: &Whole<'_>) -> u64 {
    let mut print = FixedState::default().build_hasher();
    whole.policy.hash(&mut print);
    whole.options.panic_threshold.hash(&mut print);
    for Members { hosts, groups } in members {
        hosts.len().hash(&mut print);
        for host in hosts {
            (Arc::as_ptr(host), host.weight(), host.health() as u8).hash(&mut print);
        }
        groups.len().hash(&mut print);
        for Group { locality, weight, hosts } in groups {
            (locality, weight, hosts.len()).hash(&mut print);
            hosts.iter().for_each(|host| Arc::as_ptr(host).hash(&mut print));
        }
    }
    print.finish()
}

/// `weight` by the part of the hosts that is left.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "never more than the weight")]
fn scaled(weight: u32, left: usize, all: usize) -> u32 {
    match all {
        0 => 0,
        all => (f64::from(weight) * left as f64 / all as f64).round() as u32,
    }
}

impl Subsets {
    pub(super) fn new(
        settings: &SubsetSettings,
        priorities: &[Priority],
        policy: &AssignmentPolicy,
        previous: Option<&Self>,
        options: HostSetOptions<'_>,
    ) -> Self {
        let options = HostSetOptions { subsets: None, ..options };
        let count = priorities.len();
        let mut any = (settings.panic_mode_any || settings.falls_back_to(SubsetFallback::Any))
            .then(|| Gathered::new(false, count));
        let mut default =
            settings.falls_back_to(SubsetFallback::Default).then(|| Gathered::new(false, count));
        let mut by_labels: HashMap<Box<[u8]>, Gathered> = HashMap::new();
        let mut duplicates = 0;
        for (index, priority) in priorities.iter().enumerate() {
            duplicates = 0;
            let localities = locality_indices(priority);
            for host in priority.hosts.all.iter() {
                let locality = localities.get(&Arc::as_ptr(host)).copied().unwrap_or(0);
                if let Some(any) = &mut any {
                    any.take(index, locality, host);
                }
                if let Some(default) = &mut default
                    && is_labelled(host, &settings.default_subset, settings.list_as_any)
                {
                    default.take(index, locality, host);
                }
                for selector in &settings.selectors {
                    for code in codes(host, selector, settings.list_as_any) {
                        let gathered = by_labels
                            .entry(code)
                            .or_insert_with(|| Gathered::new(selector.single_host, count));
                        duplicates += u64::from(!gathered.take(index, locality, host));
                    }
                }
            }
        }
        let whole = Whole { priorities, policy, weights: settings.locality_weights, options };
        let mut slots = Slots::new(previous, &by_labels);
        let known = |of: fn(&Self) -> &Option<Subset>| previous.and_then(|previous| of(previous).as_ref());
        let (known_any, known_default) = (known(|subsets| &subsets.any), known(|subsets| &subsets.default));
        Self {
            any: any.map(|gathered| gathered.finish(ANY_SLOT, known_any, &whole)),
            default: default.map(|gathered| gathered.finish(DEFAULT_SLOT, known_default, &whole)),
            by_labels: by_labels
                .into_iter()
                .map(|(code, gathered)| {
                    let slot = slots.of(&code);
                    let known = previous.and_then(|previous| previous.find(&code));
                    let subset = gathered.finish(slot, known, &whole);
                    (code, subset)
                })
                .collect(),
            slots: slots.end,
            duplicates,
        }
    }

    pub(super) fn find(&self, code: &[u8]) -> Option<&Subset> {
        self.by_labels.get(code)
    }

    pub(super) fn fallback(&self, to: SubsetFallback) -> Option<&Subset> {
        match to {
            SubsetFallback::Nobody => None,
            SubsetFallback::Any => self.any.as_ref(),
            SubsetFallback::Default => self.default.as_ref(),
        }
    }

    /// One more than the last slot.
    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// How many there are, those to fall back to not counted.
    pub fn len(&self) -> usize {
        self.by_labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_labels.is_empty()
    }

    /// How many of them `previous` does not have.
    pub fn not_in(&self, previous: Option<&Self>) -> usize {
        let has = |code: &[u8]| previous.is_some_and(|previous| previous.by_labels.contains_key(code));
        self.by_labels.keys().filter(|code| !has(code)).count()
    }
}

/// Gives subsets their slots: those that they had, or ones that are free.
struct Slots<'p> {
    kept: HashMap<&'p [u8], usize>,
    used: HashSet<usize>,
    next: usize,
    end: usize,
}

impl<'p> Slots<'p> {
    fn new(previous: Option<&'p Subsets>, wanted: &HashMap<Box<[u8]>, Gathered>) -> Self {
        let kept: HashMap<&[u8], usize> = previous
            .into_iter()
            .flat_map(|previous| &previous.by_labels)
            .filter(|(code, _)| wanted.contains_key(*code))
            .map(|(code, subset)| (&**code, subset.slot))
            .collect();
        Self { used: kept.values().copied().collect(), kept, next: FIRST_SLOT, end: FIRST_SLOT }
    }

    fn of(&mut self, code: &[u8]) -> usize {
        let slot = self.kept.get(code).copied().unwrap_or_else(|| {
            while self.used.contains(&self.next) {
                self.next += 1;
            }
            self.next += 1;
            self.next - 1
        });
        self.end = self.end.max(slot + 1);
        slot
    }
}

fn locality_indices(priority: &Priority) -> HashMap<*const Host, usize> {
    let localities = priority.localities.iter().enumerate();
    localities
        .flat_map(|(index, locality)| locality.hosts.all.iter().map(move |host| (Arc::as_ptr(host), index)))
        .collect()
}

/// The combinations of values that a host has for the keys of a selector; none if it lacks one of them.
fn codes(host: &Host, selector: &SubsetSelector, list_as_any: bool) -> BTreeSet<Box<[u8]>> {
    let metadata = host.metadata();
    let mut codes: Vec<Vec<u8>> = vec![Vec::new()];
    let fields = metadata.namespace(LB_NAMESPACE).filter(|_| !selector.keys.is_empty());
    for key in &selector.keys {
        let Some(value) = fields.and_then(|fields| fields.fields.get(&**key)) else { return BTreeSet::new() };
        let values = match &value.kind {
            Some(Kind::ListValue(list)) if list_as_any => list.values.as_slice(),
            _ => std::slice::from_ref(value),
        };
        let combine = |code: Vec<u8>| {
            values.iter().map(move |value| {
                let mut code = code.clone();
                encode(key, value, &mut code);
                code
            })
        };
        codes = codes.into_iter().flat_map(combine).take(MOST_COMBINATIONS).collect();
    }
    codes.into_iter().filter(|code| !code.is_empty()).map(Vec::into_boxed_slice).collect()
}

/// Whether a host has all of these labels.
fn is_labelled(host: &Host, labels: &Labels, list_as_any: bool) -> bool {
    if labels.is_empty() {
        return true;
    }
    let metadata = host.metadata();
    let Some(fields) = metadata.namespace(LB_NAMESPACE) else { return false };
    let is_one_of = |own: &Value, wanted: &Value| match &own.kind {
        Some(Kind::ListValue(list)) if list_as_any => list.values.contains(wanted),
        _ => own == wanted,
    };
    labels.iter().all(|label| fields.fields.get(&*label.key).is_some_and(|own| is_one_of(own, &label.value)))
}
