//! Consistent hashing with bounded loads (`hash_balance_factor`): a host that is full leaves what comes to others.
//!
//! Which others is a matter of the number alone, so that the same number overflows to the same host.
//! Source: Envoy `BoundedLoadHashingLoadBalancer`; the numbers are those of the Mersenne Twister (MT19937).

use hashbrown::HashMap;

use super::HashTable;
use crate::upstream::Host;

/// The host at `index`, or one that is not full, or the one that is the least so.
#[allow(clippy::cast_possible_truncation, reason = "Envoy seeds with 32 bits")]
pub(super) fn within_load(table: &HashTable, index: usize, hash: u64, factor: u32, active: u32) -> usize {
    let load = |index: usize| match (table.hosts.get(index), table.shares.get(index)) {
        (Some(host), Some(share)) => load(host, *share, factor, active),
        _ => f64::INFINITY,
    };
    let mut least = (load(index), index);
    if least.0 <= 1.0 {
        return index;
    }
    let hosts = table.hosts.len();
    let mut random = Twister::new(hash as u32);
    // A shuffle of all hosts of which only what was looked at is written down.
    let mut moved: HashMap<usize, usize> = HashMap::new();
    for at in 0..hosts {
        let other = at + random.below((hosts - at) as u32) as usize;
        let here = moved.get(&at).copied().unwrap_or(at);
        let candidate = moved.insert(other, here).unwrap_or(other);
        if candidate == index {
            continue;
        }
        let load = load(candidate);
        if load <= 1.0 {
            return candidate;
        }
        if load < least.0 {
            least = (load, candidate);
        }
    }
    least.1
}

/// How full a host is: its requests, over those that it may have with one more in the cluster.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "Envoy reckons with 32 bits")]
fn load(host: &Host, share: f64, factor: u32, active: u32) -> f64 {
    let slots = (active.wrapping_add(1).wrapping_mul(factor).wrapping_add(99)) / 100;
    let slots = ((f64::from(slots) * share).ceil() as u32).max(1);
    f64::from(host.active_requests.load(std::sync::atomic::Ordering::Relaxed)) / f64::from(slots)
}

const WORDS: usize = 624;
const MIDDLE: usize = 397;

/// MT19937, whose words are made as they are needed.
struct Twister {
    state: Box<[u32; WORDS]>,
    at: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = Box::new([0; WORDS]);
        let mut last = seed;
        for (index, word) in (0u32..).zip(state.iter_mut()) {
            if index > 0 {
                last = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(index);
            }
            *word = last;
        }
        Self { state, at: 0 }
    }

    fn next(&mut self) -> u32 {
        let at = self.at;
        let (next, middle) = ((at + 1) % WORDS, (at + MIDDLE) % WORDS);
        let mixed = (self.state[at] & 0x8000_0000) | (self.state[next] & 0x7FFF_FFFF);
        let odd = if mixed & 1 == 1 { 0x9908_B0DF } else { 0 };
        let mut word = self.state[middle] ^ (mixed >> 1) ^ odd;
        self.state[at] = word;
        self.at = next;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9D2C_5680;
        word ^= (word << 15) & 0xEFC6_0000;
        word ^ (word >> 18)
    }

    /// A number below `limit`, each as likely as any other.
    fn below(&mut self, limit: u32) -> u32 {
        let width = (1u64 << 32) / u64::from(limit);
        loop {
            let number = u64::from(self.next()) / width;
            if number < u64::from(limit) {
                return number as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_standard() {
        // The C++ standard gives the 10,000th number for the default seed.
        let mut random = Twister::new(5489);
        let last = (0..10_000).map(|_| random.next()).last();
        assert_eq!(last, Some(4_123_659_995));
    }
}
