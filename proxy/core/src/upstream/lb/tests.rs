//! Distributions of the policies.

use std::collections::BTreeMap;

use super::*;
use crate::upstream::{Assignment, Endpoint, HostHealth, HostSetOptions, Locality, LocalityEndpoints};

fn endpoint(port: u16, weight: u32) -> Endpoint {
    Endpoint {
        address: std::net::SocketAddr::from(([127, 0, 0, 1], port)).into(),
        additional_addresses: Box::default(),
        hostname: Arc::default(),
        weight,
        health: HostHealth::Healthy,
        metadata: crate::metadata::Metadata::default(),
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
