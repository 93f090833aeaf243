//! What every way of balancing promises, whatever it is: shares by weight, no host that must not be picked, changes seen at
//! once, and picks that do not get slower with the number of hosts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::runtime::RuntimeFraction;
use crate::stats::Registry;
use crate::upstream::tests::endpoint;
use crate::upstream::{
    Assignment, HostHealth, HostSetOptions, LocalCluster, Locality, LocalityEndpoints, SelectorFallback,
    SubsetFallback, SubsetSelector, SubsetWeights,
};

fn spread(policy: Policy) -> Scheme {
    Scheme::Spread { policy, locality_weighted: false, fail_on_panic: false, slow_start: None, zones: None }
}

fn least_request(selection: Selection) -> Policy {
    Policy::LeastRequest(LeastRequest::new(selection, RuntimeDouble { default: 1.0, runtime: None }))
}

fn hashing(table: HashTableKind, balance_factor: Option<u32>) -> Scheme {
    Scheme::Hashing(Hashing { table, use_hostname: false, balance_factor, locality_weighted: false })
}

/// Beside proxies of two zones; the hosts are of none.
fn by_zone() -> Scheme {
    let of_zone = |zone: &str, port| LocalityEndpoints {
        locality: Arc::new(Locality { zone: zone.into(), ..Locality::default() }),
        priority: 0,
        weight: 0,
        endpoints: vec![endpoint(port, 1, HostHealth::Healthy)],
    };
    let local = LocalCluster::new("local", Locality { zone: "a".into(), ..Locality::default() });
    let localities = vec![of_zone("a", 1), of_zone("b", 2)];
    let assignment = Assignment { localities, ..Assignment::default() };
    local.set_hosts(HostSet::update(None, &assignment, HostSetOptions::default()).hosts);
    let zones = ZoneRouting {
        local: Arc::new(local),
        enabled: RuntimeFraction::all("upstream.zone_routing.enabled"),
        min_cluster_size: 1,
        force_local_zone: None,
        by_weight: false,
        panic_threshold: 50,
        runtime: Arc::default(),
    };
    Scheme::Spread {
        policy: Policy::RoundRobin,
        locality_weighted: false,
        fail_on_panic: false,
        slow_start: None,
        zones: Some(Arc::new(zones)),
    }
}

/// Falls back to any host.
fn subsets(inner: Scheme) -> Scheme {
    let selector = SubsetSelector {
        keys: ["v".into()].into(),
        fallback: SelectorFallback::OfCluster,
        single_host: false,
    };
    let settings = SubsetSettings {
        fallback: SubsetFallback::Any,
        default_subset: Labels::default(),
        selectors: [selector].into(),
        locality_weights: SubsetWeights::Ignored,
        panic_mode_any: false,
        list_as_any: false,
        metadata_fallback_list: false,
        allow_redundant_keys: false,
    };
    Scheme::Subsets { settings: Arc::new(settings), inner: Box::new(inner) }
}

/// Of requests that list none.
fn listed(fallback: Scheme) -> Scheme {
    let hosts = OverrideHosts { sources: Box::default(), selected: None };
    Scheme::OverrideHost { hosts: Arc::new(hosts), fallback: Box::new(fallback) }
}

pub(super) fn balancer(scheme: &Scheme) -> Box<dyn LoadBalancer> {
    scheme.balancer(&Registry::new(1).scope("cluster.c").cells())
}

/// One of each kind, with its name.
fn schemes() -> [(&'static str, Scheme); 13] {
    let ring = |function| HashTableKind::Ring { minimum: 65_536, maximum: 8 << 20, function };
    let maglev = HashTableKind::Maglev { size: 65_537 };
    let slow_start = SlowStart {
        window: Duration::from_secs(60),
        aggression: RuntimeDouble { default: 1.0, runtime: None },
        min_weight: 0.1,
    };
    [
        ("round robin", spread(Policy::RoundRobin)),
        (
            "round robin with slow start",
            Scheme::Spread {
                policy: Policy::RoundRobin,
                locality_weighted: false,
                fail_on_panic: false,
                slow_start: Some(Box::new(slow_start)),
                zones: None,
            },
        ),
        ("least request", spread(least_request(Selection::Choices(2)))),
        ("least request of all", spread(least_request(Selection::FullScan))),
        ("random", spread(Policy::Random)),
        ("ring hash", hashing(ring(HashFunction::XxHash), None)),
        ("maglev", hashing(maglev, None)),
        ("maglev with bounded loads", hashing(maglev, Some(150))),
        ("round robin by zone", by_zone()),
        ("subsets", subsets(spread(Policy::RoundRobin))),
        ("subsets of maglev", subsets(hashing(maglev, None))),
        ("listed hosts", listed(spread(Policy::RoundRobin))),
        ("listed hosts of subsets", listed(subsets(spread(Policy::RoundRobin)))),
    ]
}

/// Hosts by port, with weight and health.
pub(super) type Hosts = [(u16, u32, HostHealth)];

pub(super) fn set(
    previous: Option<&HostSet>,
    hosts: &Hosts,
    scheme: &Scheme,
    panic_threshold: u32,
) -> Arc<HostSet> {
    let endpoints = hosts.iter().map(|(port, weight, health)| endpoint(*port, *weight, *health)).collect();
    let locality = LocalityEndpoints { locality: Locality::nowhere(), priority: 0, weight: 0, endpoints };
    let assignment = Assignment { localities: vec![locality], ..Assignment::default() };
    let options = HostSetOptions {
        panic_threshold,
        hashing: scheme.hashing(),
        subsets: scheme.subsets(),
        slow_start: true,
        ..HostSetOptions::default()
    };
    HostSet::update(previous, &assignment, options).hosts
}

fn pick(balancer: &mut dyn LoadBalancer, hosts: &HostSet, random: &mut fastrand::Rng) -> Option<Arc<Host>> {
    let hash = Some(random.u64(..));
    balancer.pick(hosts, &mut PickCx { hash, ..PickCx::new(random) })
}

fn health() -> impl Strategy<Value = HostHealth> {
    prop_oneof![
        4 => Just(HostHealth::Healthy),
        1 => Just(HostHealth::Degraded),
        2 => Just(HostHealth::Unhealthy),
        1 => Just(HostHealth::Draining),
    ]
}

fn hosts() -> impl Strategy<Value = Vec<(u16, u32, HostHealth)>> {
    prop::collection::btree_map(1u16..60, (1u32..6, health()), 1..20)
        .prop_map(|hosts| hosts.into_iter().map(|(port, (weight, health))| (port, weight, health)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Hosts that are not there any more, or not healthy where there is no panic, are never picked; healthy ones always can be.
    #[test]
    fn only_hosts_that_may_be_picked_are(steps in prop::collection::vec(hosts(), 1..4), seed: u64) {
        for (name, scheme) in schemes() {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut balancer = balancer(&scheme);
            let mut before: Option<Arc<HostSet>> = None;
            for step in &steps {
                let now = set(before.as_deref(), step, &scheme, 0);
                let healthy = step.iter().filter(|(.., health)| *health == HostHealth::Healthy).count();
                for _ in 0..60 {
                    let Some(host) = pick(&mut *balancer, &now, &mut random) else {
                        prop_assert!(healthy == 0 || scheme.hashing().is_some(), "{name}: nothing of {step:?}");
                        continue;
                    };
                    let port = host.address.port().unwrap();
                    let found = step.iter().find(|(own, ..)| *own == port);
                    prop_assert!(matches!(found, Some((.., HostHealth::Healthy | HostHealth::Degraded))),
                        "{name}: {port} of {step:?}");
                }
                before = Some(now);
            }
        }
    }

    /// In the long run each host has the share that its weight says; with equal weights, so it is for all of them.
    #[test]
    fn shares_follow_weights(weights in prop::collection::vec(1u32..6, 2..8), even: bool, seed: u64) {
        let weight = |index: usize| if even { 1 } else { weights[index] };
        let named: Vec<_> = (0..weights.len()).map(|index| (1 + index as u16, weight(index), HostHealth::Healthy)).collect();
        let total: u32 = named.iter().map(|(_, weight, _)| weight).sum();
        for (name, scheme) in schemes() {
            // Random does not look at weights, and of hosts that are all idle the first picks say nothing of the others.
            if !even && name == "random" {
                continue;
            }
            let now = set(None, &named, &scheme, 50);
            let (mut balancer, mut random) = (balancer(&scheme), fastrand::Rng::with_seed(seed));
            let mut counts: BTreeMap<u16, u32> = BTreeMap::new();
            const PICKS: u32 = 4000;
            for _ in 0..PICKS {
                let host = pick(&mut *balancer, &now, &mut random).unwrap();
                *counts.entry(host.address.port().unwrap()).or_default() += 1;
            }
            for (port, weight, _) in &named {
                let wanted = f64::from(PICKS) * f64::from(*weight) / f64::from(total);
                let found = f64::from(counts.get(port).copied().unwrap_or(0));
                // (A ring is uneven by itself: the fewer places a host has, the more.)
                let slack = 5.0 * wanted.sqrt() + 8.0 + if name == "ring hash" { 0.15 * wanted } else { 0.0 };
                prop_assert!((found - wanted).abs() <= slack, "{name}: {port} has {found} of {wanted}: {counts:?}");
            }
        }
    }
}

#[test]
fn ten_thousand_hosts_are_picked_from_as_ten_are() {
    let many: Vec<_> =
        (1..=10_000).map(|port| (port, 1 + u32::from(port % 3), HostHealth::Healthy)).collect();
    for (name, scheme) in schemes() {
        let now = set(None, &many, &scheme, 50);
        let (mut balancer, mut random) = (balancer(&scheme), fastrand::Rng::with_seed(3));
        pick(&mut *balancer, &now, &mut random).unwrap();
        // (A scan of all takes as long as there are hosts: that is what it is asked for.)
        let picks = if name == "least request of all" { 200 } else { 20_000 };
        let start = Instant::now();
        for _ in 0..picks {
            pick(&mut *balancer, &now, &mut random).unwrap();
        }
        // No more than that a scan by each pick would show: it takes minutes.
        assert!(start.elapsed() < Duration::from_secs(20), "{name}: {:?}", start.elapsed());
    }
}
