//! What a pick looks at, counted rather than timed: data of hosts, entries of schedules, places of rings (`watched.rs`). Ten thousand
//! hosts are picked from as ten are; a pick that went through them would look at ten thousand.

use std::sync::atomic::Ordering;

use super::*;
use crate::upstream::watched::looks;

const PICKS: u64 = 2000;

/// The most that one pick of `count` hosts, of equal weights or not, looked at once the balancer knows the set.
fn most_looks(case: &Case, count: u16, even: bool) -> u64 {
    let weight = |port: u16| if even { 1 } else { 1 + u32::from(port / 3 % 3) };
    let of_zone = |index: usize| LocalityEndpoints {
        locality: zone(index),
        priority: 0,
        weight: 1 + index as u32,
        endpoints: (1..=count)
            .filter(|port| usize::from(port % 3) == index)
            .map(|port| endpoint(port, weight(port), HostHealth::Healthy))
            .collect(),
    };
    let assignment = Assignment { localities: (0..3).map(of_zone).collect(), ..Assignment::default() };
    let set = HostSet::update(None, &assignment, case.options(50)).hosts;
    // Every second one is busier than it may be where loads are bounded.
    set.hosts().step_by(2).for_each(|host| host.active_requests.store(9, Ordering::Relaxed));
    let (mut balancer, mut random) = (balancer(&case.scheme), fastrand::Rng::with_seed(3));
    let mut pick = || {
        let hash = Some(random.u64(..));
        let mut cx = PickCx { hash, active_requests: 9 * u32::from(count) / 2, ..PickCx::new(&mut random) };
        let before = looks();
        balancer.pick(&set, &mut cx).unwrap();
        looks() - before
    };
    // (What is remembered of a list of hosts is made when that is first picked from.)
    for _ in 0..100 {
        pick();
    }
    (0..PICKS).map(|_| pick()).max().unwrap()
}

#[test]
fn ten_thousand_hosts_are_picked_from_as_ten_are() {
    for (case, even) in cases().iter().flat_map(|case| [(case, true), (case, false)]) {
        let (of_few, of_many) = (most_looks(case, 10, even), most_looks(case, 10_000, even));
        if case.name == "least request of all" && even {
            // It goes through all: that is what it is asked for, and shows that it would be seen.
            assert!(of_many >= 10_000, "{of_many} looks");
            continue;
        }
        // A schedule grows by ten levels of two comparisons each, a ring by as many halves.
        let is_as_few = of_many <= of_few + 10 * 8;
        assert!(is_as_few, "{}, even {even}: {of_many} looks of a pick, {of_few} of ten hosts", case.name);
    }
}
