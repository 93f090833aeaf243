//! Consistent hashing: the same number goes to the same host for as long as that is there.
//!
//! The tables are worked out with each host set, on the main thread, and shared by all workers; a pick looks into them and
//! allocates nothing, but for bounded loads where a host is full. They are Envoy's, entry by entry, for the same hosts.
//! Source: Envoy `docs/root/intro/arch_overview/upstream/load_balancing/load_balancers.rst`,
//! `source/extensions/load_balancing_policies/{common/thread_aware_lb_impl,ring_hash/ring_hash_lb,maglev/maglev_lb}.cc`.

mod bounded;
mod maglev;
mod ring;

use std::sync::Arc;

use prost_types::value::Kind;

use self::maglev::Maglev;
use self::ring::Ring;
use super::{LoadBalancer, PickCx, choose_priority};
use crate::upstream::host_set::LocalityHosts;
use crate::upstream::{Host, HostSet, Priority};

/// How requests are spread by what they hash to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashing {
    /// How the table of a priority is made.
    pub table: HashTableKind,
    /// Hosts are placed by their names, not by their addresses.
    pub use_hostname: bool,
    /// Percent of the average load that a host may carry; `None` for any load.
    pub balance_factor: Option<u32>,
    /// Hosts count by the weight of their locality, too.
    pub locality_weighted: bool,
}

/// How the table of a priority is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashTableKind {
    /// Ketama: each host is at many places of a ring, and takes what is before them.
    Ring {
        /// Least number of places on the ring.
        minimum: u64,
        /// Most places on the ring.
        maximum: u64,
        /// What places hosts on the ring.
        function: HashFunction,
    },
    /// A table of this size, a prime number, that is filled evenly.
    Maglev {
        /// Number of entries.
        size: u32,
    },
}

/// What places hosts on a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashFunction {
    /// `XX_HASH`, the default.
    XxHash,
    /// `MURMUR_HASH_2`
    MurmurHash2,
}

/// The tables of a host set, one for each priority.
#[derive(Debug)]
pub struct HashTables(Box<[HashTable]>);

/// Which host each number goes to.
#[derive(Debug)]
struct HashTable {
    lookup: Lookup,
    hosts: Box<[Arc<Host>]>,
    /// Share of each host, for bounded loads; empty without.
    shares: Box<[f64]>,
    /// `None` if there are no hosts.
    counts: Option<EntryCounts>,
}

#[derive(Debug)]
enum Lookup {
    Ring(Ring),
    Maglev(Maglev),
}

/// Entries of a table and how they fall on hosts, as statistics show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// All of them.
    pub size: u64,
    /// Of the host with the fewest.
    pub least: u64,
    /// Of the host with the most.
    pub most: u64,
}

/// Indices of hosts in as few bytes as their number needs.
#[derive(Debug)]
enum Indices {
    Few(Box<[u8]>),
    Many(Box<[u16]>),
    Any(Box<[u32]>),
}

impl Indices {
    #[allow(clippy::cast_possible_truncation, reason = "the number of hosts chooses the width")]
    fn new(indices: &[u32], hosts: usize) -> Self {
        if hosts <= 1 << 8 {
            Self::Few(indices.iter().map(|index| *index as u8).collect())
        } else if hosts <= 1 << 16 {
            Self::Many(indices.iter().map(|index| *index as u16).collect())
        } else {
            Self::Any(indices.into())
        }
    }

    fn get(&self, at: usize) -> Option<usize> {
        match self {
            Self::Few(all) => all.get(at).map(|index| usize::from(*index)),
            Self::Many(all) => all.get(at).map(|index| usize::from(*index)),
            Self::Any(all) => all.get(at).map(|index| *index as usize),
        }
    }
}

/// A host and its share of the requests, the shares of all being 1 together.
type Share = (Arc<Host>, f64);

impl Hashing {
    /// The tables for the hosts of `priorities`.
    pub(in crate::upstream) fn tables(&self, priorities: &[Priority]) -> HashTables {
        HashTables(priorities.iter().map(|priority| self.table(priority)).collect())
    }

    fn table(&self, priority: &Priority) -> HashTable {
        let shares = self.shares(priority);
        let (lookup, counts) = match self.table {
            HashTableKind::Ring { minimum, maximum, function } => {
                let (ring, counts) = Ring::new(&shares, minimum, maximum, function, self.use_hostname);
                (Lookup::Ring(ring), counts)
            }
            HashTableKind::Maglev { size } => {
                let (table, counts) = Maglev::new(&shares, size, self.use_hostname);
                (Lookup::Maglev(table), counts)
            }
        };
        let counts = (!shares.is_empty()).then_some(counts);
        let (hosts, mut shares): (Vec<_>, Vec<_>) = shares.into_iter().unzip();
        if !self.is_bounded() {
            shares = Vec::new();
        }
        HashTable { lookup, hosts: hosts.into(), shares: shares.into(), counts }
    }

    /// The hosts that take part, with their shares.
    fn shares(&self, priority: &Priority) -> Vec<Share> {
        let panic = priority.load.panic;
        let mut shares = Vec::new();
        if !self.locality_weighted {
            let hosts = if panic { &priority.hosts.all } else { &priority.hosts.healthy };
            add_shares(hosts, 1.0, &mut shares);
            return shares;
        }
        let total: u64 = priority.localities.iter().map(|locality| u64::from(locality.weight)).sum();
        for LocalityHosts { weight, hosts, .. } in priority.localities.iter().filter(|one| one.weight > 0) {
            let hosts = if panic { &hosts.all } else { &hosts.healthy };
            add_shares(hosts, f64::from(*weight) / total as f64, &mut shares);
        }
        shares
    }

    /// Whether picks need to know how many requests are in flight.
    pub fn is_bounded(&self) -> bool {
        self.balance_factor.is_some()
    }
}

fn add_shares(hosts: &[Arc<Host>], share: f64, shares: &mut Vec<Share>) {
    let sum: u64 = hosts.iter().map(|host| u64::from(host.weight())).sum();
    shares.extend(hosts.iter().map(|host| (host.clone(), f64::from(host.weight()) * share / sum as f64)));
}

/// What places a host: `hash_key` of its metadata, else its name if that is wanted, else its address.
fn key(host: &Host, use_hostname: bool) -> String {
    let metadata = host.metadata();
    let named = metadata.namespace("envoy.lb").and_then(|values| values.fields.get("hash_key"));
    match named.and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(key)) if !key.is_empty() => key.clone(),
        _ if use_hostname => host.hostname.to_string(),
        _ => host.address.to_string(),
    }
}

impl HashTables {
    /// The entries of the last priority that has hosts, which is the one that Envoy's statistics show.
    pub fn counts(&self) -> Option<EntryCounts> {
        self.0.iter().rev().find_map(|table| table.counts)
    }
}

impl HashTable {
    fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        match &self.lookup {
            Lookup::Ring(ring) => ring.find(hash, attempt),
            Lookup::Maglev(table) => table.find(hash, attempt),
        }
    }
}

/// Picks by the tables of the host sets.
#[derive(Debug)]
pub struct HashBalancer {
    balance_factor: Option<u32>,
}

impl HashBalancer {
    /// A balancer for `hashing`, for host sets that were made with it.
    pub fn new(hashing: &Hashing) -> Self {
        Self { balance_factor: hashing.balance_factor }
    }
}

impl LoadBalancer for HashBalancer {
    fn pick(&mut self, hosts: &HostSet, cx: &mut PickCx<'_>) -> Option<Arc<Host>> {
        let hash = cx.hash.unwrap_or_else(|| cx.random.u64(..));
        // (Whatever was tried before, as in Envoy: `cx.loads` has no say here.)
        let (priority, _) = choose_priority(hosts, None, hash)?;
        cx.in_panic = hosts.priorities().get(priority).is_some_and(|priority| priority.load.panic);
        let table = hosts.tables()?.0.get(priority)?;
        let index = table.find(hash, cx.attempt)?;
        let index = match self.balance_factor {
            None => index,
            Some(factor) => bounded::within_load(table, index, hash, factor, cx.active_requests),
        };
        table.hosts.get(index).cloned()
    }
}

#[cfg(test)]
mod tests;
