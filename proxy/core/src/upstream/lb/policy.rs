//! The policies: round robin, least request, random.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::slow_start::Starting;
use super::{Edf, Place};
use crate::runtime::Runtime;
use crate::upstream::{Host, HostList};

/// How to pick among hosts that are equally good otherwise.
#[derive(Clone, Debug)]
pub enum Policy {
    /// Each in turn, as often as its weight says.
    RoundRobin,
    /// The one with the fewest requests in flight.
    LeastRequest(LeastRequest),
    /// Any; weights do not count.
    Random,
}

/// Settings of the least request policy.
#[derive(Clone, Debug)]
pub struct LeastRequest {
    /// How to look for the host with the fewest requests, where weights are equal.
    pub selection: Selection,
    /// How much requests in flight lessen a weight, where weights differ.
    pub active_request_bias: RuntimeDouble,
    /// The bias in force.
    bias: f64,
}

/// How least request looks for a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// The best of this many random ones, at least 2.
    Choices(u32),
    /// The best of all.
    FullScan,
}

/// A number that the runtime may override.
#[derive(Clone, Debug)]
pub struct RuntimeDouble {
    /// The number unless the runtime says otherwise.
    pub default: f64,
    /// Key and source of the override.
    pub runtime: Option<(Box<str>, Arc<Runtime>)>,
}

impl RuntimeDouble {
    /// The number now.
    pub fn value(&self) -> f64 {
        let set = self.runtime.as_ref().and_then(|(key, runtime)| runtime.double(key));
        set.unwrap_or(self.default)
    }
}

impl LeastRequest {
    /// Envoy's defaults are 2 choices and a bias of 1.
    pub fn new(selection: Selection, active_request_bias: RuntimeDouble) -> Self {
        let bias = active_request_bias.value();
        Self { selection, active_request_bias, bias }
    }

    fn weight(&self, host: &Host) -> f64 {
        let weight = f64::from(host.weight());
        let active = f64::from(host.active_requests.load(Ordering::Relaxed)) + 1.0;
        if self.bias == 1.0 {
            weight / active
        } else if self.bias == 0.0 {
            weight
        } else {
            weight / active.powf(self.bias)
        }
    }
}

impl Policy {
    /// Takes over what the runtime says now. A bias that is negative or not a number counts as 1.
    pub(super) fn refresh(&mut self) {
        if let Self::LeastRequest(least) = self {
            let bias = least.active_request_bias.value();
            least.bias = if bias >= 0.0 { bias } else { 1.0 };
        }
    }

    pub(super) fn pick(
        &self,
        hosts: &HostList,
        place: &mut Place,
        starting: Option<Starting<'_>>,
        random: &mut fastrand::Rng,
    ) -> Option<Arc<Host>> {
        if hosts.is_empty() {
            return None;
        }
        let is_even = hosts.equal_weights() && starting.is_none();
        let factor = |host: &Host| starting.map_or(1.0, |starting| starting.factor(host));
        match self {
            Self::Random => hosts.get(random.usize(..hosts.len())).cloned(),
            Self::RoundRobin if is_even => {
                let cursor = place.cursor.get_or_insert_with(|| random.usize(..hosts.len()));
                let host = hosts.get(*cursor % hosts.len());
                *cursor = cursor.wrapping_add(1);
                host.cloned()
            }
            Self::RoundRobin => {
                by_weight(hosts, place, random, |host| f64::from(host.weight()) * factor(host))
            }
            Self::LeastRequest(least) if is_even => match least.selection {
                Selection::Choices(choices) => best_of(hosts, choices, random).cloned(),
                Selection::FullScan => best_of_all(hosts, random).cloned(),
            },
            Self::LeastRequest(least) => {
                by_weight(hosts, place, random, |host| least.weight(host) * factor(host))
            }
        }
    }
}

fn by_weight(
    hosts: &HostList,
    place: &mut Place,
    random: &mut fastrand::Rng,
    weight: impl Fn(&Host) -> f64,
) -> Option<Arc<Host>> {
    if place.schedule.is_none() {
        let schedule = Edf::new(hosts.iter().map(|host| weight(host)), random.usize(..));
        place.schedule = schedule.map(Box::new);
    }
    let index = place.schedule.as_mut()?.pick(|index| hosts.get(index).map_or(1.0, |host| weight(host)))?;
    hosts.get(index).cloned()
}

fn active(host: &Host) -> u32 {
    host.active_requests.load(Ordering::Relaxed)
}

fn best_of<'h>(hosts: &'h HostList, choices: u32, random: &mut fastrand::Rng) -> Option<&'h Arc<Host>> {
    if let [only] = &**hosts {
        return Some(only);
    }
    let mut best = hosts.get(random.usize(..hosts.len()))?;
    for _ in 1..choices {
        let other = hosts.get(random.usize(..hosts.len()))?;
        if active(other) < active(best) {
            best = other;
        }
    }
    Some(best)
}

/// The host with the fewest requests in flight, each of several with as few being equally likely.
fn best_of_all<'h>(hosts: &'h HostList, random: &mut fastrand::Rng) -> Option<&'h Arc<Host>> {
    let mut best = hosts.first()?;
    let mut ties = 1;
    for other in hosts.iter().skip(1) {
        match active(other).cmp(&active(best)) {
            std::cmp::Ordering::Less => (best, ties) = (other, 1),
            std::cmp::Ordering::Equal => {
                ties += 1;
                if random.usize(..ties) == 0 {
                    best = other;
                }
            }
            std::cmp::Ordering::Greater => {}
        }
    }
    Some(best)
}
