//! Distributions of the policies.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::upstream::{Assignment, Endpoint, HostHealth, HostSetOptions, Locality, LocalityEndpoints};

fn endpoint(port: u16, weight: u32) -> Endpoint {
    Endpoint {
        address: std::net::SocketAddr::from(([127, 0, 0, 1], port)).into(),
        additional_addresses: Box::default(),
        hostname: Arc::default(),
        weight,
        health: HostHealth::Healthy.into(),
        metadata: crate::metadata::Metadata::default(),
        check: None,
    }
}

fn locality(zone: &str, weight: u32, endpoints: Vec<Endpoint>) -> LocalityEndpoints {
    let locality = Arc::new(Locality { zone: zone.into(), ..Locality::default() });
    LocalityEndpoints { locality, priority: 0, weight, endpoints }
}

fn set(localities: Vec<LocalityEndpoints>) -> Arc<HostSet> {
    let assignment = Assignment { localities, ..Assignment::default() };
    HostSet::update(None, &assignment, HostSetOptions::default()).hosts
}

fn counts(balancer: &mut Balancer, hosts: &HostSet, picks: usize) -> BTreeMap<u16, usize> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut counts = BTreeMap::new();
    for _ in 0..picks {
        let host = balancer.pick(hosts, &mut PickCx::new(&mut random)).unwrap();
        *counts.entry(host.address.port().unwrap()).or_default() += 1;
    }
    counts
}

fn least_request(selection: Selection) -> Policy {
    let bias = RuntimeDouble { default: 1.0, runtime: None };
    Policy::LeastRequest(LeastRequest::new(selection, bias))
}

#[test]
fn round_robin_is_even_and_follows_weights() {
    let even = set(vec![locality("a", 0, vec![endpoint(1, 1), endpoint(2, 1), endpoint(3, 1)])]);
    let mut balancer = Balancer::new(Policy::RoundRobin, false, false);
    assert_eq!(counts(&mut balancer, &even, 30), [(1, 10), (2, 10), (3, 10)].into());
    let uneven = set(vec![locality("a", 0, vec![endpoint(1, 1), endpoint(2, 2), endpoint(3, 7)])]);
    assert_eq!(counts(&mut balancer, &uneven, 100), [(1, 10), (2, 20), (3, 70)].into());
}

#[test]
fn random_does_not_look_at_weights() {
    let hosts = set(vec![locality("a", 0, vec![endpoint(1, 1), endpoint(2, 100)])]);
    let counts = counts(&mut Balancer::new(Policy::Random, false, false), &hosts, 10_000);
    assert!(counts.values().all(|count| (4_700..5_300).contains(count)), "{counts:?}");
}

#[test]
fn least_request_prefers_the_idle_host() {
    let hosts = set(vec![locality("a", 0, vec![endpoint(1, 1), endpoint(2, 1)])]);
    let busy = hosts.hosts().next().unwrap();
    busy.active_requests.store(5, std::sync::atomic::Ordering::Relaxed);
    // Two choices with replacement fall on the busy host alone in a quarter of the cases.
    let choices = &mut Balancer::new(least_request(Selection::Choices(2)), false, false);
    let some = counts(choices, &hosts, 10_000);
    assert!((2_200..2_800).contains(&some[&1]), "{some:?}");
    let full = &mut Balancer::new(least_request(Selection::FullScan), false, false);
    assert_eq!(counts(full, &hosts, 100), [(2, 100)].into());
}

#[test]
fn least_request_lessens_weights_by_requests_in_flight() {
    let hosts = set(vec![locality("a", 0, vec![endpoint(1, 8), endpoint(2, 1)])]);
    let busy = hosts.hosts().next().unwrap();
    busy.active_requests.store(3, std::sync::atomic::Ordering::Relaxed);
    let balancer = &mut Balancer::new(least_request(Selection::Choices(2)), false, false);
    assert_eq!(counts(balancer, &hosts, 300), [(1, 200), (2, 100)].into());
}

#[test]
fn localities_get_their_weight() {
    let hosts = set(vec![
        locality("a", 1, vec![endpoint(1, 1), endpoint(2, 1)]),
        locality("b", 3, vec![endpoint(3, 1)]),
        locality("c", 0, vec![endpoint(4, 1)]),
    ]);
    let weighted = &mut Balancer::new(Policy::RoundRobin, true, false);
    assert_eq!(counts(weighted, &hosts, 400), [(1, 50), (2, 50), (3, 300)].into());
    let unweighted = &mut Balancer::new(Policy::RoundRobin, false, false);
    assert_eq!(counts(unweighted, &hosts, 400), [(1, 100), (2, 100), (3, 100), (4, 100)].into());
}

/// How far a count of `picks` may be from its expectation: five deviations, and one.
fn tolerance(picks: usize, share: f64) -> f64 {
    5.0 * (picks as f64 * share * (1.0 - share)).sqrt() + 1.0
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// In turn, each host gets what its weight says, within one round.
    #[test]
    fn round_robin_gives_each_its_weight(weights in prop::collection::vec(1u32..20, 1..8)) {
        let endpoints = (1u16..).zip(&weights).map(|(port, weight)| endpoint(port, *weight)).collect();
        let hosts = set(vec![locality("a", 0, endpoints)]);
        let total: u32 = weights.iter().sum();
        let counts = counts(&mut Balancer::new(Policy::RoundRobin, false, false), &hosts, 10 * total as usize);
        for (port, weight) in (1u16..).zip(&weights) {
            let count = counts.get(&port).copied().unwrap_or(0);
            prop_assert!(count.abs_diff(10 * *weight as usize) <= 1, "{:?} of {:?}", counts, weights);
        }
    }

    /// At random, each host is as likely as any other, and each locality as its weight says.
    #[test]
    fn random_picks_follow_localities(localities in prop::collection::vec((1u32..5, 1usize..4), 1..4), seed: u64) {
        let mut port = 0;
        let built = localities.iter().enumerate().map(|(index, (weight, count))| {
            let endpoints = (0..*count).map(|_| { port += 1; endpoint(port, 1) }).collect();
            locality(&format!("z{index}"), *weight, endpoints)
        });
        let hosts = set(built.collect());
        let mut balancer = Balancer::new(Policy::Random, true, false);
        let mut random = fastrand::Rng::with_seed(seed);
        let mut counts = vec![0usize; usize::from(port) + 1];
        const PICKS: usize = 4000;
        for _ in 0..PICKS {
            let host = balancer.pick(&hosts, &mut PickCx::new(&mut random)).unwrap();
            counts[usize::from(host.address.port().unwrap())] += 1;
        }
        let total: u32 = localities.iter().map(|(weight, _)| weight).sum();
        let mut port = 0;
        for (weight, count) in &localities {
            let share = f64::from(*weight) / f64::from(total) / *count as f64;
            for _ in 0..*count {
                port += 1;
                let far = (counts[port] as f64 - share * PICKS as f64).abs();
                // The localities take turns exactly, their hosts at random.
                prop_assert!(far <= tolerance(PICKS, share), "{:?} of {:?}", counts, localities);
            }
        }
    }
}

/// Two hosts of the same weight, one old and one that is `age` old, in a window of 10 seconds: what share the new one has.
fn share_of_new(age: Duration, aggression: f64, min_weight: f64, policy: Policy) -> f64 {
    let slow_start = SlowStart {
        window: Duration::from_secs(10),
        aggression: RuntimeDouble { default: aggression, runtime: None },
        min_weight,
    };
    let before = set(vec![locality("a", 0, vec![endpoint(1, 3), endpoint(2, 3)])]);
    let now = std::time::Instant::now();
    for (host, age) in before.hosts().zip([Duration::from_secs(20), age]) {
        host.note_recovery(now.checked_sub(age).unwrap());
    }
    let hosts = before.refreshed(HostSetOptions { slow_start: true, ..HostSetOptions::default() });
    let scheme = Scheme::Spread {
        policy,
        locality_weighted: false,
        fail_on_panic: false,
        slow_start: Some(Box::new(slow_start)),
        zones: None,
    };
    let (mut balancer, mut random) = (suite::balancer(&scheme), fastrand::Rng::with_seed(1));
    let mut new = 0;
    for _ in 0..1000 {
        let host = balancer.pick(&hosts, &mut PickCx::new(&mut random)).unwrap();
        new += usize::from(host.address.port() == Some(2));
    }
    new as f64 / (1000 - new) as f64
}

#[test]
fn a_new_host_starts_slowly() {
    let seconds = Duration::from_secs;
    let near = |share: f64, wanted: f64| assert!((share - wanted).abs() < 0.05, "{share}, not {wanted}");
    for policy in [Policy::RoundRobin, least_request(Selection::Choices(2))] {
        let share = |age, aggression, least| share_of_new(age, aggression, least, policy.clone());
        near(share(Duration::ZERO, 1.0, 0.1), 0.1);
        near(share(seconds(5), 1.0, 0.1), 0.5);
        // Faster at first, or slower.
        near(share(seconds(4), 2.0, 0.1), 0.4f64.sqrt());
        near(share(seconds(5), 0.5, 0.1), 0.25);
        near(share(seconds(5), -1.0, 0.1), 0.5);
        near(share(seconds(5), 1.0, 0.8), 0.8);
    }
    near(share_of_new(seconds(11), 1.0, 0.1, Policy::RoundRobin), 1.0);
}
