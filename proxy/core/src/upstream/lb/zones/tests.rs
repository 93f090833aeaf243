//! How requests are shared among zones.

use std::collections::BTreeMap;

use super::*;
use crate::runtime::RuntimeLayer;
use crate::stats::Registry;
use crate::upstream::tests::endpoint;
use crate::upstream::{
    Assignment, HostHealth, HostSetOptions, LoadBalancer, Locality, LocalityEndpoints, PickCx, Policy, Scheme,
};

fn zone(name: &str) -> Locality {
    Locality { zone: name.into(), ..Locality::default() }
}

/// Zones with the health of each of their hosts: `+`, `-` or `~` for degraded. Ports are a hundred for each zone.
fn set(zones: &[(&str, &str)]) -> Arc<HostSet> {
    let localities = (0..).zip(zones).map(|(index, (name, hosts))| {
        let endpoints = (100 * index + 1..).zip(hosts.chars()).map(|(port, health)| {
            let health = match health {
                '-' => HostHealth::Unhealthy,
                '~' => HostHealth::Degraded,
                _ => HostHealth::Healthy,
            };
            endpoint(port, 1, health)
        });
        let endpoints = endpoints.collect();
        LocalityEndpoints { locality: Arc::new(zone(name)), priority: 0, weight: 0, endpoints }
    });
    let assignment = Assignment { localities: localities.collect(), ..Assignment::default() };
    HostSet::update(None, &assignment, HostSetOptions::default()).hosts
}

struct Fixture {
    settings: ZoneRouting,
    stats: Cells<ClusterTrafficStats>,
}

impl Fixture {
    /// This proxy is in zone `a`.
    fn new(local: &[(&str, &str)]) -> Self {
        let cluster = LocalCluster::new("me", zone("a"));
        cluster.set_hosts(set(local));
        let settings = ZoneRouting {
            local: Arc::new(cluster),
            enabled: RuntimeFraction::all("upstream.zone_routing.enabled"),
            min_cluster_size: 6,
            force_local_zone: None,
            by_weight: false,
            panic_threshold: 50,
            runtime: Arc::default(),
        };
        Self { settings, stats: Registry::new(1).scope("cluster.c").cells() }
    }

    fn balancer(&self) -> Box<dyn LoadBalancer> {
        let scheme = Scheme::Spread {
            policy: Policy::RoundRobin,
            locality_weighted: false,
            fail_on_panic: false,
            slow_start: None,
            zones: Some(Arc::new(self.settings.clone())),
        };
        scheme.balancer(&self.stats)
    }

    /// How many of a thousand requests go to each zone, by number.
    fn shares(&self, hosts: &HostSet) -> BTreeMap<u16, u32> {
        let (mut balancer, mut random) = (self.balancer(), fastrand::Rng::with_seed(3));
        let mut shares = BTreeMap::new();
        for _ in 0..10_000 {
            let host = balancer.pick(hosts, &mut PickCx::new(&mut random)).unwrap();
            *shares.entry(host.address.port().unwrap() / 100).or_default() += 1;
        }
        shares.values_mut().for_each(|share| *share = (*share + 5) / 10);
        shares
    }
}

const EVEN: &[(&str, &str)] = &[("a", "++"), ("b", "++"), ("c", "++")];

#[test]
fn a_zone_with_its_share_of_hosts_keeps_its_requests() {
    let here = Fixture::new(EVEN);
    assert_eq!(here.shares(&set(EVEN)), [(0, 1000)].into());
    assert_eq!(here.stats.here().lb_zone_routing_all_directly.value(), 10_000);
}

#[test]
fn what_a_zone_cannot_take_goes_where_there_is_room() {
    // Documented of Envoy: 40, 40 and 20 percent of the proxies, 25, 50 and 25 percent of the hosts.
    let here = Fixture::new(&[("a", "++"), ("b", "++"), ("c", "+")]);
    let shares = here.shares(&set(&[("a", "++"), ("b", "++++"), ("c", "++")]));
    for (zone, wanted) in [(0, 625), (1, 250), (2, 125)] {
        assert!(shares[&zone].abs_diff(wanted) < 20, "{shares:?}");
    }
    let stats = here.stats.here();
    let (sampled, crossed) =
        (stats.lb_zone_routing_sampled.value(), stats.lb_zone_routing_cross_zone.value());
    assert_eq!(sampled + crossed, 10_000);
    let elsewhere = here.shares(&set(&[("b", "++++"), ("c", "++++")]));
    assert!(elsewhere[&1].abs_diff(750) < 20, "no host of the own zone: {elsewhere:?}");
}

#[test]
fn nothing_is_routed_so_where_too_little_is_known() {
    let even = set(EVEN);
    let anywhere =
        |here: &Fixture, hosts: &HostSet| here.shares(hosts).len() == hosts.priorities()[0].localities.len();
    let few = Fixture::new(EVEN);
    assert!(anywhere(&few, &set(&[("a", "++"), ("b", "+++")])));
    assert_eq!(few.stats.here().lb_zone_cluster_too_small.value(), 1);
    assert!(anywhere(&Fixture::new(&[("a", "++")]), &even), "the local cluster has one zone");
    let absent = Fixture::new(&[("b", "++"), ("c", "++")]);
    assert!(anywhere(&absent, &even), "the local cluster is not here");
    assert_eq!(absent.stats.here().lb_local_cluster_not_ok.value(), 1);
    let ill = Fixture::new(&[("a", "+--"), ("b", "+--")]);
    assert!(anywhere(&ill, &even), "the local cluster is in panic");
    assert_eq!(ill.stats.here().lb_local_cluster_not_ok.value(), 10_000);
    let mut off = Fixture::new(EVEN);
    let values = [("upstream.zone_routing.enabled".to_owned(), "0".to_owned())].into();
    let layer = RuntimeLayer { values, ..RuntimeLayer::default() };
    off.settings.runtime = Arc::new(Runtime::new(vec![layer]));
    assert!(anywhere(&off, &even));
}

#[test]
fn the_own_zone_may_be_wanted_for_as_long_as_it_has_hosts() {
    let mut here = Fixture::new(&[("a", "+++")]);
    here.settings.force_local_zone = Some(2);
    assert_eq!(here.shares(&set(&[("a", "++"), ("b", "++++")])), [(0, 1000)].into());
    assert!(here.shares(&set(&[("a", "+-"), ("b", "+++++")])).len() == 2);
}

#[test]
fn changes_of_either_cluster_are_seen_at_once() {
    let here = Fixture::new(EVEN);
    let (mut balancer, mut random) = (here.balancer(), fastrand::Rng::with_seed(3));
    let mut zones = |hosts: &HostSet| -> usize {
        let pick =
            |_| balancer.pick(hosts, &mut PickCx::new(&mut random)).unwrap().address.port().unwrap() / 100;
        (0..200).map(pick).collect::<std::collections::BTreeSet<u16>>().len()
    };
    let even = set(EVEN);
    assert_eq!(zones(&even), 1);
    here.settings.local.set_hosts(set(&[("a", "+++++"), ("b", "+")]));
    assert_eq!(zones(&even), 3);
    assert_eq!(zones(&set(&[("a", "+++++"), ("b", "+")])), 1);
    assert_eq!(here.stats.here().lb_recalculate_zone_structures.value(), 3);
}

#[test]
fn shares_may_be_of_weights() {
    let mut here = Fixture::new(EVEN);
    here.settings.by_weight = true;
    let heavy = set(EVEN);
    for host in heavy.hosts().filter(|host| host.locality.zone != "a") {
        host.set_weight(4);
    }
    let heavy = heavy.refreshed(HostSetOptions::default());
    let shares = here.shares(&heavy);
    assert!(shares[&0].abs_diff(333) < 20, "a ninth of the weight for a third of the proxies: {shares:?}");
}
