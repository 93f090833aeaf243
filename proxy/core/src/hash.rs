//! Hashes whose values Envoy shows or uses: consistent hashing, the `version` gauges of subscriptions, names of init managers.
//!
//! Source: the xxHash specification, "XXH64 algorithm description"; Envoy `HashUtil::xxHash64`, whose seed is 0 unless it
//! says otherwise; MurmurHash2 for 64 bits as the C++ library of GCC has it, Envoy `MurmurHash::murmurHash2`.

const PRIMES: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];

/// The hash of `bytes` with seed 0.
pub fn xxhash64(bytes: &[u8]) -> u64 {
    xxhash64_seeded(bytes, 0)
}

/// The hash of `bytes` with seed `seed`.
pub fn xxhash64_seeded(bytes: &[u8], seed: u64) -> u64 {
    let [p1, p2, p3, p4, p5] = PRIMES;
    let (stripes, mut rest) = bytes.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        seed.wrapping_add(p5)
    } else {
        let mut lanes = [p1.wrapping_add(p2), p2, 0, p1.wrapping_neg()].map(|lane| lane.wrapping_add(seed));
        for stripe in stripes {
            for (lane, word) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
                *lane = round(*lane, u64::from_le_bytes(*word));
            }
        }
        let mixed = lanes.iter().zip([1, 7, 12, 18]);
        let mixed = mixed.fold(0_u64, |sum, (lane, bits)| sum.wrapping_add(lane.rotate_left(bits)));
        lanes.iter().fold(mixed, |hash, lane| (hash ^ round(0, *lane)).wrapping_mul(p1).wrapping_add(p4))
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    while let Some((word, after)) = rest.split_first_chunk::<8>() {
        hash ^= round(0, u64::from_le_bytes(*word));
        hash = hash.rotate_left(27).wrapping_mul(p1).wrapping_add(p4);
        rest = after;
    }
    if let Some((word, after)) = rest.split_first_chunk::<4>() {
        hash ^= u64::from(u32::from_le_bytes(*word)).wrapping_mul(p1);
        hash = hash.rotate_left(23).wrapping_mul(p2).wrapping_add(p3);
        rest = after;
    }
    for byte in rest {
        hash ^= u64::from(*byte).wrapping_mul(p5);
        hash = hash.rotate_left(11).wrapping_mul(p1);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(p2);
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(p3);
    hash ^ (hash >> 32)
}

fn round(lane: u64, word: u64) -> u64 {
    let [p1, p2, ..] = PRIMES;
    lane.wrapping_add(word.wrapping_mul(p2)).rotate_left(31).wrapping_mul(p1)
}

/// MurmurHash2 of `bytes` with the seed that Envoy uses for rings.
pub fn murmur_hash2(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0xC70F_6907;
    const FACTOR: u64 = 0xC6A4_A793_5BD1_E995;
    let shift_mix = |value: u64| value ^ (value >> 47);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    for word in words {
        let data = shift_mix(u64::from_le_bytes(*word).wrapping_mul(FACTOR)).wrapping_mul(FACTOR);
        hash = (hash ^ data).wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let data = rest.iter().rev().fold(0, |data, byte| (data << 8) | u64::from(*byte));
        hash = (hash ^ data).wrapping_mul(FACTOR);
    }
    shift_mix(shift_mix(hash).wrapping_mul(FACTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_the_specification_and_of_envoy() {
        // What Envoy 1.40 shows as `version` of updates with these versions.
        assert_eq!(xxhash64(b"15"), 17_181_926_294_437_511_708);
        assert_eq!(xxhash64(b"16"), 12_522_305_586_339_984_642);
        assert_eq!(xxhash64(b"11"), 2_489_716_146_917_121_730);
        // Reference values of the algorithm: empty, below a stripe, a stripe and all kinds of rest.
        assert_eq!(xxhash64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxhash64(b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(xxhash64(b"Nobody inspects the spammish repetition"), 0xFBCE_A83C_8A37_8BF1);
    }
}
