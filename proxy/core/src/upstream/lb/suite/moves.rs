//! Where keys go when hosts do, for all that hash: the keys of a host that goes are shared by the others as their weights say, a host that
//! comes takes its share from all, and hardly any other key moves.

use super::*;

const KEYS: u64 = 4000;

/// Hosts by port with their weight; they are all well.
type Weighed = Vec<(u16, u32)>;

/// Where each key goes.
fn places(case: &Case, hosts: &Weighed) -> Vec<u16> {
    let hosts: Vec<_> = hosts.iter().map(|(port, weight)| (*port, *weight, HostHealth::Healthy)).collect();
    let set = set(None, &hosts, &case.scheme, 50);
    let (mut balancer, mut random) = (balancer(&case.scheme), fastrand::Rng::with_seed(1));
    let place = |key: u64| pick(&mut *balancer, &set, crate::hash::xxhash64(&key.to_le_bytes()), &mut random);
    (0..KEYS).map(place).map(|host| host.unwrap().address.port().unwrap()).collect()
}

/// Moving keys between `fewer` and the same with one host more, `port`: `(before, after)` of each key.
fn check(case: &Case, fewer: &Weighed, port: u16, weight: u32) {
    let mut more = fewer.clone();
    // (In the middle: where a host stands in the list does not matter.)
    more.insert(fewer.len() / 2, (port, weight));
    let (with, without) = (places(case, &more), places(case, fewer));
    let total: u32 = fewer.iter().map(|(_, weight)| weight).sum();
    let share = f64::from(weight) / f64::from(total + weight);
    let context = format!("{}: {port} of weight {weight} beside {fewer:?}", case.name);
    let own = with.iter().filter(|at| **at == port).count() as f64;
    let (keys, uneven) = (KEYS as f64, if case.name.starts_with("ring") { 0.15 } else { 0.02 });
    let slack = |count: f64| 6.0 * count.sqrt() + 2.0 + uneven * count;
    assert!((own - keys * share).abs() <= slack(keys * share), "{own} keys, not {}: {context}", keys * share);
    // Whose keys its own are when it is not there.
    for (other, weight) in fewer {
        let wanted = own * f64::from(*weight) / f64::from(total);
        let found =
            with.iter().zip(&without).filter(|(at, then)| **at == port && *then == other).count() as f64;
        assert!((found - wanted).abs() <= slack(wanted), "{other} takes {found}, not {wanted}: {context}");
    }
    let moved = with.iter().zip(&without).filter(|(at, then)| **at != port && at != then).count() as f64;
    let allowed = keys * moved_besides(case, share) + 10.0;
    assert!(moved <= allowed, "{moved} keys moved between others, {allowed} may: {context}");
}

/// What part of the keys may move although their host stays. A ring of a certain size has other places where there are other hosts, and a
/// table of Maglev is filled in another order.
fn moved_besides(case: &Case, share: f64) -> f64 {
    if case.name.starts_with("ring") { 1.2 * share } else { 0.6 * share }
}

#[test]
fn simulation_of_moving_keys() {
    let cases = cases();
    simulate::each_seed(30, |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let even = random.bool();
        let mut weight = || if even { 1 } else { random.u32(1..4) };
        let new = weight();
        let fewer: Weighed = (1..=3 + seed as u16 % 20).map(|port| (port, weight())).collect();
        for case in cases.iter().filter(|case| case.scheme.hashing().is_some()) {
            check(case, &fewer, 99, new);
        }
    });
}
