//! Ketama: a ring of hashes.

use super::{EntryCounts, HashFunction, Indices, Share, key};
use crate::hash::{murmur_hash2, xxhash64};
use crate::upstream::watched::{Watched, watched};

/// The hashes of the places, in order, and the host at each.
#[derive(Debug)]
pub(super) struct Ring {
    hashes: Box<[Watched<u64>]>,
    hosts: Indices,
}

impl Ring {
    /// The host at the first place that is not before `hash`, or that of the first place of all if there is none; another attempt
    /// goes so many places on.
    pub(super) fn find(&self, hash: u64, attempt: u32) -> Option<usize> {
        let at = self.hashes.partition_point(|place| place.lt(&hash));
        let first = if at == self.hashes.len() { 0 } else { at };
        self.hosts.get((first + attempt as usize).checked_rem(self.hashes.len())?)
    }

    /// A ring where the host with the least share is at a whole number of places, the others at as many as their shares say.
    pub(super) fn new(
        shares: &[Share],
        minimum: u64,
        maximum: u64,
        function: HashFunction,
        use_hostname: bool,
    ) -> (Self, EntryCounts) {
        let (mut places, counts) = places(shares, minimum, maximum, function, use_hostname);
        places.sort_unstable();
        let hosts: Vec<u32> = places.iter().map(|(_, host)| *host).collect();
        let hashes = places.into_iter().map(|(hash, _)| watched(hash)).collect();
        (Self { hashes, hosts: Indices::new(&hosts, shares.len()) }, counts)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most the maximum, which is 8 million"
)]
fn places(
    shares: &[Share],
    minimum: u64,
    maximum: u64,
    function: HashFunction,
    use_hostname: bool,
) -> (Vec<(u64, u32)>, EntryCounts) {
    let least = shares.iter().map(|(_, share)| *share).fold(1.0, f64::min);
    let scale = ((least * minimum as f64).ceil() / least).min(maximum as f64);
    let size = scale.ceil() as usize;
    let mut places = Vec::with_capacity(if shares.is_empty() { 0 } else { size });
    let mut counts = EntryCounts { size: size as u64, least: size as u64, most: 0 };
    let mut wanted = 0.0;
    let mut name = Vec::new();
    for (host, (entry, share)) in (0u32..).zip(shares) {
        name.clear();
        name.extend_from_slice(key(entry, use_hostname).as_bytes());
        name.push(b'_');
        let prefix = name.len();
        wanted += scale * share;
        let before = places.len();
        while (places.len() as f64) < wanted {
            name.truncate(prefix);
            let mut digits = itoa::Buffer::new();
            name.extend_from_slice(digits.format(places.len() - before).as_bytes());
            let hash = match function {
                HashFunction::XxHash => xxhash64(&name),
                HashFunction::MurmurHash2 => murmur_hash2(&name),
            };
            places.push((hash, host));
        }
        let own = (places.len() - before) as u64;
        (counts.least, counts.most) = (counts.least.min(own), counts.most.max(own));
    }
    (places, counts)
}
