//! Host sets against their assignments, and priority shares against a plain reading of Envoy's documents.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::metadata::Metadata;

pub(super) fn endpoint(port: u16, weight: u32, health: HostHealth) -> Endpoint {
    Endpoint {
        address: std::net::SocketAddr::from(([127, 0, 0, 1], port)).into(),
        additional_addresses: Box::default(),
        hostname: Arc::default(),
        weight,
        health: health.into(),
        metadata: Metadata::default(),
        check: None,
    }
}

fn of_priority(priority: u32, endpoints: Vec<Endpoint>) -> LocalityEndpoints {
    LocalityEndpoints { locality: Locality::nowhere(), priority, weight: 0, endpoints }
}

fn assignment(localities: Vec<LocalityEndpoints>) -> Assignment {
    Assignment { localities, ..Assignment::default() }
}

fn ports(hosts: &[Arc<Host>]) -> Vec<u16> {
    hosts.iter().filter_map(|host| host.address.port()).collect()
}

#[test]
fn a_host_that_stays_is_the_same_object() {
    let healthy = HostHealth::Healthy;
    let first = assignment(vec![of_priority(0, vec![endpoint(1, 1, healthy), endpoint(2, 1, healthy)])]);
    let before = HostSet::update(None, &first, HostSetOptions::default());
    assert_eq!((ports(&before.added), before.removed.len(), before.changed), (vec![1, 2], 0, true));
    let kept = before.hosts.hosts().find(|host| host.address.port() == Some(2)).unwrap().clone();
    kept.stats.rq_total.store(9, std::sync::atomic::Ordering::Relaxed);

    let second = assignment(vec![
        of_priority(0, vec![endpoint(3, 1, healthy)]),
        of_priority(1, vec![endpoint(2, 5, HostHealth::Degraded)]),
    ]);
    let after = HostSet::update(Some(&before.hosts), &second, HostSetOptions::default());
    assert_eq!((ports(&after.added), ports(&after.removed), after.changed), (vec![3], vec![1], true));
    let moved = &after.hosts.priorities()[1].hosts.degraded[0];
    assert!(Arc::ptr_eq(moved, &kept));
    assert_eq!((moved.weight(), moved.priority(), moved.health()), (5, 1, HostHealth::Degraded));

    let again = HostSet::update(Some(&after.hosts), &second, HostSetOptions::default());
    assert!(!again.changed && again.added.is_empty() && again.removed.is_empty());
}

#[test]
fn a_host_whose_locality_changed_is_another_host() {
    let at = |zone: &str| {
        let locality = Arc::new(Locality { zone: zone.into(), ..Locality::default() });
        let endpoints = vec![endpoint(1, 1, HostHealth::Healthy)];
        assignment(vec![LocalityEndpoints { locality, priority: 0, weight: 1, endpoints }])
    };
    let before = HostSet::update(None, &at("a"), HostSetOptions::default());
    let after = HostSet::update(Some(&before.hosts), &at("b"), HostSetOptions::default());
    assert_eq!((ports(&after.added), ports(&after.removed)), (vec![1], vec![1]));
}

#[test]
fn a_host_keeps_what_was_said_of_its_locality_when_it_came() {
    let said = |value: &str| {
        let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(value.into())) };
        let fields = prost_types::Struct { fields: [("key".to_owned(), value)].into() };
        Metadata::new(Some(&xds_api::envoy::config::core::v3::Metadata {
            filter_metadata: [("of".to_owned(), fields)].into(),
            ..Default::default()
        }))
    };
    let of = |metadata: Metadata, port| LocalityEndpoints {
        locality: Arc::new(Locality { zone: "a".into(), metadata, ..Locality::default() }),
        priority: 0,
        weight: 1,
        endpoints: vec![endpoint(port, 1, HostHealth::Healthy)],
    };
    let heard =
        |hosts: &HostSet| hosts.hosts().map(|host| host.locality.metadata.clone()).collect::<Vec<_>>();
    let before = assignment(vec![of(said("first"), 1), of(said("other"), 2)]);
    let before = HostSet::update(None, &before, HostSetOptions::default()).hosts;
    assert_eq!(before.priorities()[0].localities.len(), 1, "it is one place, whatever is said of it");
    assert_eq!(heard(&before), [said("first"), said("other")]);
    let after = assignment(vec![of(said("second"), 1), of(said("second"), 3)]);
    let after = HostSet::update(Some(&before), &after, HostSetOptions::default());
    assert_eq!((ports(&after.added), ports(&after.removed)), (vec![3], vec![2]));
    assert_eq!(heard(&after.hosts), [said("first"), said("second")]);
}

#[test]
fn repeated_addresses_count_once_unless_kept() {
    let twice = vec![endpoint(1, 1, HostHealth::Healthy), endpoint(1, 7, HostHealth::Healthy)];
    let assignment = assignment(vec![of_priority(0, twice)]);
    let dropped = HostSet::update(None, &assignment, HostSetOptions::default()).hosts;
    assert_eq!((dropped.len(), dropped.max_weight()), (1, 1));
    let options = HostSetOptions { duplicates: Duplicates::Keep, ..HostSetOptions::default() };
    let kept = HostSet::update(None, &assignment, options).hosts;
    assert_eq!(kept.len(), 2);
    let again = HostSet::update(Some(&kept), &assignment, options);
    assert!(!again.changed, "both hosts stay");
}

/// Shares and panic as observed of Envoy 1.40: hosts by priority, then the share of each priority.
#[test]
fn shares_are_those_of_envoy() {
    use HostHealth::{Degraded as G, Draining as D, Healthy as H, Unhealthy as U};
    let load = |healthy, degraded, panic| Load { healthy, degraded, panic };
    let cases: Vec<(Vec<Vec<HostHealth>>, Vec<Load>)> = vec![
        (vec![vec![D]], vec![load(100, 0, true)]),
        (vec![vec![H, D, D, D]], vec![load(100, 0, false)]),
        (vec![vec![H, U, U, U]], vec![load(100, 0, true)]),
        (vec![vec![D, D], vec![H]], vec![load(0, 0, false), load(100, 0, false)]),
        (vec![vec![H, G, G, G]], vec![load(35, 65, false)]),
        (vec![vec![D, D, D], vec![U, U]], vec![load(60, 0, true), load(40, 0, true)]),
        (vec![vec![H, U], vec![H]], vec![load(70, 0, false), load(30, 0, false)]),
        (vec![vec![]], vec![load(100, 0, true)]),
    ];
    for (priorities, expected) in cases {
        let hosts = set(&priorities, &[], 50, false);
        let loads: Vec<Load> = hosts.priorities().iter().map(|priority| priority.load).collect();
        assert_eq!(loads, expected, "{priorities:?}");
    }
    let off = set(&[vec![D]], &[], 0, false);
    assert_eq!(off.priorities()[0].load, load(100, 0, false));
}

fn set(
    priorities: &[Vec<HostHealth>],
    weights: &[u32],
    panic_threshold: u32,
    weighted: bool,
) -> Arc<HostSet> {
    let mut port = 0;
    let localities = priorities.iter().enumerate().map(|(priority, hosts)| {
        let endpoints = hosts.iter().map(|health| {
            port += 1;
            let weight = weights.get(usize::from(port) % weights.len().max(1)).copied().unwrap_or(1);
            endpoint(port, weight, *health)
        });
        of_priority(priority as u32, endpoints.collect())
    });
    let mut assignment = assignment(localities.collect());
    assignment.policy.weighted_priority_health = weighted;
    let options = HostSetOptions { panic_threshold, ..HostSetOptions::default() };
    HostSet::update(None, &assignment, options).hosts
}

/// The same tables, written as the documents tell them, for counts of (healthy, degraded, unhealthy, draining).
pub(super) fn model(counts: &[[u64; 4]], panic_threshold: u64) -> Vec<(u64, u64, bool)> {
    let percent = |part: u64, row: &[u64; 4]| match row[0] + row[1] + row[2] {
        0 => 0,
        total => (140 * part / total).min(100),
    };
    let healthy: Vec<u64> = counts.iter().map(|row| percent(row[0], row)).collect();
    let degraded: Vec<u64> = counts.iter().map(|row| percent(row[1], row)).collect();
    let total = (healthy.iter().sum::<u64>() + degraded.iter().sum::<u64>()).min(100);
    let mut shares = vec![(0, 0, false); counts.len()];
    if total == 0 && panic_threshold == 0 {
        shares[0].0 = 100;
        return shares;
    }
    let mut left = 100;
    for step in 0..2 * counts.len() {
        let priority = step % counts.len();
        let of = if step < counts.len() { healthy[priority] } else { degraded[priority] };
        let share = (of * 100).checked_div(total).unwrap_or(0).min(left);
        left -= share;
        if step < counts.len() { shares[priority].0 = share } else { shares[priority].1 = share }
    }
    match (healthy.iter().position(|one| *one > 0), degraded.iter().position(|one| *one > 0)) {
        (Some(first), _) => shares[first].0 += left,
        (None, Some(first)) => shares[first].1 += left,
        (None, None) => {}
    }
    for (share, row) in shares.iter_mut().zip(counts) {
        let available = match row[0] + row[1] + row[2] {
            0 => 0.0,
            counted => 100.0 * (row[0] + row[1]) as f64 / counted as f64,
        };
        share.2 = total != 100 && available < panic_threshold as f64;
    }
    if shares.iter().all(|share| share.2) {
        let all: u64 = counts.iter().flatten().sum();
        let of = |row: &[u64; 4]| (100 * row.iter().sum::<u64>()).checked_div(all).unwrap_or(0);
        shares = counts.iter().map(|row| (of(row), 0, true)).collect();
        let first = counts.iter().position(|row| row.iter().any(|one| *one > 0)).unwrap_or(0);
        shares[first].0 += 100 - shares.iter().map(|share| share.0).sum::<u64>();
    }
    shares
}

fn health() -> impl Strategy<Value = HostHealth> {
    prop_oneof![
        3 => Just(HostHealth::Healthy),
        1 => Just(HostHealth::Degraded),
        2 => Just(HostHealth::Unhealthy),
        1 => Just(HostHealth::Draining),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let bias = || RuntimeDouble { default: 1.0, runtime: None };
    prop_oneof![
        Just(Policy::RoundRobin),
        Just(Policy::Random),
        Just(Policy::LeastRequest(LeastRequest::new(Selection::Choices(2), bias()))),
        Just(Policy::LeastRequest(LeastRequest::new(Selection::FullScan, bias()))),
    ]
}

proptest! {
    #[test]
    fn shares_follow_the_model(
        priorities in prop::collection::vec(prop::collection::vec(health(), 0..12), 1..5),
        panic_threshold in prop_oneof![Just(0u32), Just(50), 0u32..=100],
    ) {
        let hosts = set(&priorities, &[], panic_threshold, false);
        let counts: Vec<[u64; 4]> = priorities.iter().map(|hosts| {
            let of = |health| hosts.iter().filter(|one| **one == health).count() as u64;
            [of(HostHealth::Healthy), of(HostHealth::Degraded), of(HostHealth::Unhealthy), of(HostHealth::Draining)]
        }).collect();
        let loads: Vec<(u64, u64, bool)> = hosts.priorities().iter()
            .map(|one| (one.load.healthy.into(), one.load.degraded.into(), one.load.panic)).collect();
        prop_assert_eq!(&loads, &model(&counts, panic_threshold.into()));
        prop_assert_eq!(loads.iter().map(|load| load.0 + load.1).sum::<u64>(), 100);
    }

    /// Whatever the policy, weights and localities: a pick is of a priority with load and of the health that has the load.
    #[test]
    fn picks_respect_shares(
        priorities in prop::collection::vec(prop::collection::vec(health(), 0..6), 1..4),
        weights in prop::collection::vec(1u32..5, 1..4),
        locality_weighted: bool,
        weighted_health: bool,
        policy in policy(),
        seed: u64,
    ) {
        let hosts = set(&priorities, &weights, 50, weighted_health);
        let mut balancer = Balancer::new(policy, locality_weighted, false);
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..50 {
            let Some(host) = balancer.pick(&hosts, &mut PickCx::new(&mut random)) else {
                prop_assert!(hosts.priorities().iter().any(|one| one.load.healthy + one.load.degraded > 0
                    && one.hosts.all.is_empty()));
                continue;
            };
            let load = hosts.priorities()[host.priority() as usize].load;
            match host.health() {
                _ if load.panic => prop_assert!(load.healthy + load.degraded > 0),
                HostHealth::Healthy => prop_assert!(load.healthy > 0),
                HostHealth::Degraded => prop_assert!(load.degraded > 0),
                HostHealth::Unhealthy | HostHealth::Draining => prop_assert!(false, "{host:?} without panic"),
            }
        }
    }

    /// A chain of updates always leaves what the last assignment says, with added and removed as the difference.
    #[test]
    fn updates_add_up(steps in prop::collection::vec(
        prop::collection::vec((1u16..12, 0u32..3, health()), 0..10), 1..6)) {
        let mut hosts = Arc::new(HostSet::default());
        for step in steps {
            let localities = step.iter().map(|(port, priority, health)| of_priority(*priority, vec![endpoint(*port, 1, *health)]));
            let update = HostSet::update(Some(&hosts), &assignment(localities.collect()), HostSetOptions::default());
            let set = |hosts: &HostSet| -> std::collections::BTreeSet<u16> {
                hosts.hosts().filter_map(|host| host.address.port()).collect() };
            let wanted: std::collections::BTreeSet<u16> = step.iter().map(|(port, ..)| *port).collect();
            prop_assert_eq!(&set(&update.hosts), &wanted);
            let (before, after) = (set(&hosts), wanted);
            prop_assert_eq!(ports(&update.added).into_iter().collect::<std::collections::BTreeSet<_>>(), &after - &before);
            prop_assert_eq!(ports(&update.removed).into_iter().collect::<std::collections::BTreeSet<_>>(), &before - &after);
            for old in hosts.hosts() {
                if let Some(new) = update.hosts.hosts().find(|new| new.address == old.address) {
                    prop_assert!(Arc::ptr_eq(old, new));
                }
            }
            hosts = update.hosts;
        }
    }
}

#[test]
fn priorities_that_are_avoided_leave_their_load_to_the_others() {
    let healthy = |port| vec![endpoint(port, 1, HostHealth::Healthy)];
    let all = assignment(
        (0..3_u16).map(|priority| of_priority(u32::from(priority), healthy(1 + priority))).collect(),
    );
    let hosts = HostSet::update(None, &all, HostSetOptions::default()).hosts;
    let healthy_loads = |excluded: &[usize]| {
        let loads = hosts.loads_without(|index| excluded.contains(&index));
        loads.map(|loads| loads.iter().map(|load| load.healthy).collect::<Vec<_>>())
    };
    assert_eq!(healthy_loads(&[]), Some(vec![100, 0, 0]));
    assert_eq!(healthy_loads(&[0]), Some(vec![0, 100, 0]));
    assert_eq!(healthy_loads(&[0, 1]), Some(vec![0, 0, 100]));
    assert_eq!(healthy_loads(&[0, 1, 2]), None);

    let loads = hosts.loads_without(|index| index == 0).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    let mut balancer = Balancer::new(Policy::RoundRobin, false, false);
    let picked = balancer.pick(&hosts, &mut PickCx { loads: Some(&loads), ..PickCx::new(&mut random) });
    assert_eq!(picked.map(|host| host.priority()), Some(1));
}
