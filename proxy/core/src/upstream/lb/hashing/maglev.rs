//! Maglev: a table that hosts fill in turns, each in an order of its own.
//!
//! Source: "Maglev: A Fast and Reliable Software Network Load Balancer", listing 1, with weights as Envoy adds them.

use super::{EntryCounts, Indices, Share, key};
use crate::hash::{xxhash64, xxhash64_seeded};

/// The host of each entry; no entries without hosts.
#[derive(Debug)]
pub(super) struct Maglev {
    size: u64,
    hosts: Indices,
}

/// A host while the table is filled.
struct Turn {
    host: u32,
    /// The entry that it wants next.
    next: u64,
    skip: u64,
    share: f64,
    /// It takes an entry when the rounds, weighed by its share, have come so far.
    due: f64,
    count: u64,
}

const FREE: u32 = u32::MAX;

impl Maglev {
    /// The host of the entry that `hash` falls on; another attempt falls on another, far from it.
    pub(super) fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        let hash = hash ^ u64::from(attempt).wrapping_neg();
        self.hosts.get(usize::try_from(hash % self.size).ok()?)
    }

    /// A table of `size` entries, a prime number.
    pub(super) fn new(shares: &[Share], size: u32, use_hostname: bool) -> (Self, EntryCounts) {
        let size = u64::from(size);
        let greatest = shares.iter().map(|(_, share)| *share).fold(0.0, f64::max);
        let mut keys: Vec<(String, u32, f64)> = (0u32..)
            .zip(shares)
            .map(|(index, (host, share))| (key(host, use_hostname), index, *share))
            .collect();
        // Hosts take turns, in an order that is the same whatever that of the configuration.
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        let turns = keys.iter().map(|(key, host, share)| {
            let skip = xxhash64_seeded(key.as_bytes(), 1) % (size - 1) + 1;
            Turn {
                host: *host,
                next: xxhash64(key.as_bytes()) % size,
                skip,
                share: *share,
                due: 0.0,
                count: 0,
            }
        });
        let mut turns: Vec<Turn> = turns.collect();
        let mut table = Vec::new();
        if !turns.is_empty() {
            table = vec![FREE; size as usize];
            fill(&mut table, &mut turns, greatest);
        }
        let count = |turn: &Turn| if turns.len() == 1 { 1 } else { turn.count };
        // (Envoy says 1 where one host has them all.)
        let counts = EntryCounts {
            size,
            least: turns.iter().map(count).min().unwrap_or(0),
            most: turns.iter().map(count).max().unwrap_or(0),
        };
        (Self { size, hosts: Indices::new(&table, shares.len()) }, counts)
    }
}

fn fill(table: &mut [u32], turns: &mut [Turn], greatest: f64) {
    let size = table.len() as u64;
    let mut left = table.len();
    let mut round = 0.0;
    loop {
        round += 1.0;
        for turn in turns.iter_mut() {
            // The host with the greatest share takes one entry each round, one with half of that one each second round.
            if round * turn.share < turn.due {
                continue;
            }
            turn.due += greatest;
            // (Whatever the skip, it leads to every entry, since the size is prime.)
            let mut entry = turn.next as usize;
            while table[entry] != FREE {
                entry = ((entry as u64 + turn.skip) % size) as usize;
            }
            table[entry] = turn.host;
            turn.next = (entry as u64 + turn.skip) % size;
            turn.count += 1;
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}
