//! What every way of balancing promises, whatever it is: the share of each host (`shares.rs`), keys that move no more than hosts do
//! (`moves.rs`), and picks that do not get slower with the number of hosts (`work.rs`).

mod moves;
mod shares;
mod work;

use std::time::{Duration, Instant};

use xds_api::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3 as client_side;
use xds_api::xds::data::orca::v3::OrcaLoadReport;

use super::*;
use crate::config::{BuildCx, BuildEnv};
use crate::runtime::RuntimeFraction;
use crate::stats::Registry;
use crate::upstream::tests::endpoint;
use crate::upstream::{
    Assignment, HostHealth, HostSetOptions, LocalCluster, Locality, LocalityEndpoints, ReportedWeights,
    SelectorFallback, SubsetFallback, SubsetSelector, SubsetWeights,
};

/// A way of balancing.
struct Case {
    name: &'static str,
    scheme: Scheme,
    /// Weights are those that hosts report.
    reported: bool,
}

fn spread(policy: Policy) -> Scheme {
    Scheme::Spread { policy, locality_weighted: false, fail_on_panic: false, slow_start: None, zones: None }
}

fn by_locality(policy: Policy) -> Scheme {
    Scheme::Spread { policy, locality_weighted: true, fail_on_panic: false, slow_start: None, zones: None }
}

fn least_request(selection: Selection) -> Policy {
    Policy::LeastRequest(LeastRequest::new(selection, RuntimeDouble { default: 1.0, runtime: None }))
}

fn hashing(table: HashTableKind, balance_factor: Option<u32>, locality_weighted: bool) -> Scheme {
    Scheme::Hashing(Hashing { table, use_hostname: false, balance_factor, locality_weighted })
}

const ZONES: [&str; 3] = ["a", "b", "c"];

fn zone(index: usize) -> Arc<Locality> {
    Arc::new(Locality { zone: ZONES[index].into(), ..Locality::default() })
}

/// How many proxies there are in each zone; this one is in the first.
const PROXIES: [u16; 3] = [2, 1, 1];

fn by_zone(fail_on_panic: bool) -> Scheme {
    let proxies = |index: usize| LocalityEndpoints {
        locality: zone(index),
        priority: 0,
        weight: 0,
        endpoints: (0..PROXIES[index])
            .map(|at| endpoint(10 * (1 + index as u16) + at, 1, HostHealth::Healthy))
            .collect(),
    };
    let local = LocalCluster::new("local", (*zone(0)).clone());
    let assignment = Assignment { localities: (0..3).map(proxies).collect(), ..Assignment::default() };
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
        fail_on_panic,
        slow_start: None,
        zones: Some(Arc::new(zones)),
    }
}

fn starting_slowly(policy: Policy) -> Scheme {
    let slow_start = SlowStart {
        window: Duration::from_secs(3600),
        aggression: RuntimeDouble { default: 1.0, runtime: None },
        min_weight: 0.1,
    };
    Scheme::Spread {
        policy,
        locality_weighted: false,
        fail_on_panic: false,
        slow_start: Some(Box::new(slow_start)),
        zones: None,
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

/// One of each kind.
fn cases() -> Vec<Case> {
    let ring = |function| HashTableKind::Ring { minimum: 16_384, maximum: 8 << 20, function };
    let xx_ring = ring(HashFunction::XxHash);
    let maglev = HashTableKind::Maglev { size: 10_007 };
    let round_robin = || spread(Policy::RoundRobin);
    let schemes = [
        ("round robin", round_robin()),
        ("round robin with slow start", starting_slowly(Policy::RoundRobin)),
        ("round robin by locality", by_locality(Policy::RoundRobin)),
        ("round robin by zone", by_zone(false)),
        ("round robin by zone that fails in panic", by_zone(true)),
        ("least request", spread(least_request(Selection::Choices(2)))),
        ("least request of all", spread(least_request(Selection::FullScan))),
        ("least request with slow start", starting_slowly(least_request(Selection::Choices(2)))),
        ("least request by locality", by_locality(least_request(Selection::Choices(2)))),
        ("random", spread(Policy::Random)),
        ("random by locality", by_locality(Policy::Random)),
        ("ring hash", hashing(xx_ring, None, false)),
        ("ring hash by Murmur", hashing(ring(HashFunction::MurmurHash2), None, false)),
        ("ring hash by locality", hashing(xx_ring, None, true)),
        ("maglev", hashing(maglev, None, false)),
        ("maglev with bounded loads", hashing(maglev, Some(150), false)),
        ("maglev by locality", hashing(maglev, None, true)),
        ("subsets", subsets(round_robin())),
        ("subsets of maglev", subsets(hashing(maglev, None, false))),
        ("listed hosts", listed(round_robin())),
        ("listed hosts of subsets", listed(subsets(round_robin()))),
    ];
    let reported = [
        ("client-side weighted round robin", round_robin()),
        ("client-side weighted round robin by locality", by_locality(Policy::RoundRobin)),
    ];
    let of = |reported| move |(name, scheme)| Case { name, scheme, reported };
    schemes.into_iter().map(of(false)).chain(reported.into_iter().map(of(true))).collect()
}

impl Case {
    fn options(&self, panic_threshold: u32) -> HostSetOptions<'_> {
        HostSetOptions {
            panic_threshold,
            hashing: self.scheme.hashing(),
            subsets: self.scheme.subsets(),
            slow_start: self.scheme.starts_slowly(),
            ..HostSetOptions::default()
        }
    }
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
    let locality = LocalityEndpoints { locality: Locality::nowhere(), priority: 0, weight: 1, endpoints };
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

fn pick(
    balancer: &mut dyn LoadBalancer,
    hosts: &HostSet,
    hash: u64,
    random: &mut fastrand::Rng,
) -> Option<Arc<Host>> {
    balancer.pick(hosts, &mut PickCx { hash: Some(hash), ..PickCx::new(random) })
}
