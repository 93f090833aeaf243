//! The share of each host in the long run, of random clusters of several priorities and localities, with hosts of any weight and health,
//! and after they changed: what the documents say, written down plainly. Who has no share is never picked.

use std::collections::BTreeMap;

use super::*;
use crate::upstream::LinearPriorities;
use crate::upstream::tests::model as loads_of;

const PICKS: u32 = 2000;

/// A host of a cluster.
#[derive(Clone, Copy, Debug)]
struct Spot {
    port: u16,
    priority: usize,
    zone: usize,
    weight: u32,
    health: HostHealth,
}

impl Spot {
    /// Whether it says how busy it is, where that is asked for.
    fn reports(&self) -> bool {
        !self.port.is_multiple_of(4)
    }
}

/// A cluster.
#[derive(Clone, Debug)]
struct Fleet {
    spots: Vec<Spot>,
    zone_weights: [u32; 3],
    panic_threshold: u32,
}

/// Shares of one, by port.
type Shares = BTreeMap<u16, f64>;

impl Fleet {
    fn any(random: &mut fastrand::Rng, first_port: u16) -> Self {
        let (even, well, zones) = (random.bool(), random.u8(0..10), random.usize(1..4));
        let priorities = random.usize(1..4);
        let spots = (0..random.u16(0..16)).map(|at| {
            let unwell = [HostHealth::Degraded, HostHealth::Unhealthy, HostHealth::Draining];
            let is_well = random.u8(..10) < well;
            Spot {
                port: first_port + at,
                // (A port is always of the same locality, so that its host stays the same.)
                zone: usize::from(at) % zones,
                priority: random.usize(..priorities),
                weight: if even { 1 } else { random.u32(1..6) },
                health: if is_well { HostHealth::Healthy } else { unwell[random.usize(..3)] },
            }
        });
        Self {
            spots: spots.collect(),
            zone_weights: [random.u32(1..5), random.u32(0..5), random.u32(0..5)],
            panic_threshold: [0, 50, 50, 80][random.usize(..4)],
        }
    }

    fn priorities(&self) -> usize {
        1 + self.spots.iter().map(|spot| spot.priority).max().unwrap_or(0)
    }

    /// Hosts of a priority by health: healthy, degraded, unhealthy, draining.
    fn counts(&self, priority: usize) -> [u64; 4] {
        let count = |health: HostHealth| {
            self.spots.iter().filter(|spot| spot.priority == priority && spot.health == health).count() as u64
        };
        [HostHealth::Healthy, HostHealth::Degraded, HostHealth::Unhealthy, HostHealth::Draining].map(count)
    }

    fn loads(&self) -> Vec<(u64, u64, bool)> {
        let counts: Vec<_> = (0..self.priorities()).map(|priority| self.counts(priority)).collect();
        loads_of(&counts, self.panic_threshold.into())
    }

    fn host_set(&self, previous: Option<&HostSet>, case: &Case) -> Arc<HostSet> {
        let mut localities = Vec::new();
        for priority in 0..self.priorities() {
            for (index, weight) in self.zone_weights.into_iter().enumerate() {
                let own = self.spots.iter().filter(|spot| spot.priority == priority && spot.zone == index);
                let weight_of = |spot: &Spot| if case.reported { 1 } else { spot.weight };
                let endpoints: Vec<_> =
                    own.map(|spot| endpoint(spot.port, weight_of(spot), spot.health)).collect();
                if !endpoints.is_empty() {
                    let priority = u32::try_from(priority).unwrap();
                    localities.push(LocalityEndpoints { locality: zone(index), priority, weight, endpoints });
                }
            }
        }
        let assignment = Assignment { localities, ..Assignment::default() };
        let set = HostSet::update(previous, &assignment, case.options(self.panic_threshold)).hosts;
        if case.reported { self.weighed(&set, case) } else { set }
    }

    /// The set after some of its hosts reported their load, a request a second for each unit of weight.
    fn weighed(&self, set: &HostSet, case: &Case) -> Arc<HostSet> {
        let env = BuildEnv::new(1);
        let proto = client_side::ClientSideWeightedRoundRobin {
            blackout_period: Some(prost_types::Duration::default()),
            ..Default::default()
        };
        let weights = ReportedWeights::build(&proto, &mut BuildCx::new(&env)).unwrap();
        let now = Instant::now();
        for host in set.hosts() {
            let spot = self.spots.iter().find(|spot| Some(spot.port) == host.address.port()).unwrap();
            if spot.reports() {
                let (rps_fractional, cpu_utilization) = (f64::from(spot.weight) * 0.5, 0.5);
                weights.note(
                    host,
                    &OrcaLoadReport { rps_fractional, cpu_utilization, ..Default::default() },
                    now,
                );
            }
        }
        weights.weigh(set, now);
        Arc::new(set.refreshed(case.options(self.panic_threshold)))
    }

    /// What a host weighs: where hosts start slowly, those that are well have just begun to.
    fn weight(&self, spot: &Spot, case: &Case) -> f64 {
        let is_new = case.scheme.starts_slowly() && spot.health == HostHealth::Healthy;
        self.full_weight(spot, case) * if is_new { 0.1 } else { 1.0 }
    }

    /// One that reports nothing weighs as much as the median of the others of its priority.
    fn full_weight(&self, spot: &Spot, case: &Case) -> f64 {
        if !case.reported || spot.reports() {
            return spot.weight.into();
        }
        let others = self.spots.iter().filter(|other| other.priority == spot.priority && other.reports());
        let mut weights: Vec<u32> = others.map(|other| other.weight).collect();
        weights.sort_unstable();
        let (low, high) = (weights.len().saturating_sub(1) / 2, weights.len() / 2);
        // (Half way is rounded down.)
        f64::from(weights.get(high).map_or(1, |high| (weights[low] + high) / 2))
    }

    /// The shares among these hosts.
    fn among(&self, case: &Case, share: f64, which: impl Fn(&Spot) -> bool, shares: &mut Shares) {
        let is_blind = matches!(&case.scheme, Scheme::Spread { policy: Policy::Random, .. });
        let weight = |spot: &Spot| if is_blind { 1.0 } else { self.weight(spot, case) };
        let own: Vec<&Spot> = self.spots.iter().filter(|spot| which(spot)).collect();
        let total: f64 = own.iter().map(|spot| weight(spot)).sum();
        for spot in own {
            *shares.entry(spot.port).or_default() += share * weight(spot) / total;
        }
    }

    /// The shares of the localities with such hosts, in a priority.
    fn of_localities(&self, case: &Case, priority: usize, health: HostHealth) -> Vec<(usize, f64)> {
        let count = |zone: usize, which: &dyn Fn(HostHealth) -> bool| {
            let own = self.spots.iter().filter(|spot| spot.priority == priority && spot.zone == zone);
            own.filter(|spot| which(spot.health)).count() as f64
        };
        let weight = |zone: usize| {
            let available = count(zone, &|one| one == health);
            let counted = count(zone, &|one| one != HostHealth::Draining);
            let weight = f64::from(self.zone_weights[zone]);
            match case.scheme.hashing() {
                _ if available == 0.0 => 0.0,
                // Tables take the weight as it is.
                Some(_) => weight,
                None => weight * (1.4 * available / counted).min(1.0),
            }
        };
        let total: f64 = (0..3).map(weight).sum();
        (0..3).map(|zone| (zone, weight(zone) / total)).filter(|(_, share)| *share > 0.0).collect()
    }

    /// The shares of localities when so much is kept in the zone of this proxy as is fair; `None` where zones do not count.
    fn of_zones(&self) -> Option<Vec<(usize, f64)>> {
        let present: Vec<usize> = (0..3)
            .filter(|zone| self.spots.iter().any(|spot| spot.priority == 0 && spot.zone == *zone))
            .collect();
        let healthy = |zone: usize| {
            let own = self.spots.iter().filter(|spot| spot.priority == 0 && spot.zone == zone);
            own.filter(|spot| spot.health == HostHealth::Healthy).count() as f64
        };
        let total: f64 = (0..3).map(healthy).sum();
        if present.len() < 2 || total == 0.0 {
            return None;
        }
        let here = |zone: usize| healthy(zone) / total;
        let proxies = |zone: usize| match healthy(zone) {
            0.0 => 0.0,
            _ => f64::from(PROXIES[zone]) / f64::from(PROXIES.iter().sum::<u16>()),
        };
        if here(0) > 0.0 && here(0) >= proxies(0) {
            return Some(vec![(0, 1.0)]);
        }
        let kept = if proxies(0) > 0.0 { here(0) / proxies(0) } else { 0.0 };
        let room = |zone: usize| if zone == 0 { 0.0 } else { (here(zone) - proxies(zone)).max(0.0) };
        let free: f64 = (0..3).map(room).sum();
        let rest = |zone: usize| {
            (1.0 - kept) * if free > 0.0 { room(zone) / free } else { 1.0 / present.len() as f64 }
        };
        Some(present.iter().map(|zone| (*zone, rest(*zone) + if *zone == 0 { kept } else { 0.0 })).collect())
    }

    /// Adds the shares of the hosts of a priority that has this share, for hosts of this health unless it is in panic.
    fn within(&self, case: &Case, priority: usize, health: HostHealth, share: f64, shares: &mut Shares) {
        let in_panic = self.loads()[priority].2;
        let (by_locality, by_zone, fails) = match &case.scheme {
            Scheme::Spread { locality_weighted, zones, fail_on_panic, .. } => {
                (*locality_weighted, zones.is_some(), *fail_on_panic)
            }
            other => (other.hashing().is_some_and(|hashing| hashing.locality_weighted), false, false),
        };
        // Tables have no place for degraded hosts.
        let is_table = case.scheme.hashing().is_some();
        let health = if is_table { HostHealth::Healthy } else { health };
        let is_of = |spot: &Spot| spot.priority == priority && (in_panic || spot.health == health);
        if in_panic && fails {
            return;
        }
        let of_localities = match (in_panic, by_locality, by_zone && priority == 0) {
            (true, true, _) if is_table => self.of_localities_in_panic(priority),
            (false, true, _) => self.of_localities(case, priority, health),
            (false, false, true) => self.of_zones().unwrap_or_default(),
            _ => Vec::new(),
        };
        // (Where no locality has a weight, those of tables get nothing.)
        if of_localities.is_empty() && !(is_table && by_locality) {
            return self.among(case, share, is_of, shares);
        }
        for (zone, of_locality) in of_localities {
            self.among(case, share * of_locality, |spot| is_of(spot) && spot.zone == zone, shares);
        }
    }

    fn of_localities_in_panic(&self, priority: usize) -> Vec<(usize, f64)> {
        let has_hosts =
            |zone: &usize| self.spots.iter().any(|spot| spot.priority == priority && spot.zone == *zone);
        let zones: Vec<usize> =
            (0..3).filter(has_hosts).filter(|zone| self.zone_weights[*zone] > 0).collect();
        let total: u32 = zones.iter().map(|zone| self.zone_weights[*zone]).sum();
        zones.iter().map(|zone| (*zone, f64::from(self.zone_weights[*zone]) / f64::from(total))).collect()
    }

    fn shares(&self, case: &Case) -> Shares {
        let mut shares = Shares::new();
        for (priority, (healthy, degraded, _)) in self.loads().into_iter().enumerate() {
            self.within(case, priority, HostHealth::Healthy, healthy as f64 / 100.0, &mut shares);
            self.within(case, priority, HostHealth::Degraded, degraded as f64 / 100.0, &mut shares);
        }
        shares
    }
}

/// Whether what was counted may be chance: six deviations, and what turns and tables are uneven by.
fn compare(counts: &BTreeMap<u16, u32>, shares: &Shares, unevenness: f64, context: &str) {
    let picks = f64::from(PICKS);
    let nothing = (1.0 - shares.values().sum::<f64>()).max(0.0);
    let nothing = if nothing < 1e-9 { 0.0 } else { nothing };
    let wanted = shares.iter().map(|(port, share)| (*port, *share)).chain([(0, nothing)]);
    for (port, share) in wanted {
        let count = f64::from(counts.get(&port).copied().unwrap_or(0));
        let slack = 6.0 * (picks * share * (1.0 - share)).max(0.0).sqrt() + 8.0 + unevenness * picks * share;
        let slack = if share == 0.0 { 0.0 } else { slack };
        assert!(
            (count - picks * share).abs() <= slack,
            "{port} has {count}, not {}: {context}",
            picks * share
        );
    }
    assert!(counts.keys().all(|port| *port == 0 || shares.contains_key(port)), "{counts:?}: {context}");
}

fn check(case: &Case, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut balancer = balancer(&case.scheme);
    let mut before: Option<Arc<HostSet>> = None;
    for step in 0..2 {
        let fleet = Fleet::any(&mut random, 1);
        let now = fleet.host_set(before.as_deref(), case);
        let loads = fleet.loads();
        let mut counts: BTreeMap<u16, u32> = BTreeMap::new();
        for _ in 0..PICKS {
            let hash = Some(random.u64(..));
            let mut cx = PickCx { hash, ..PickCx::new(&mut random) };
            let host = balancer.pick(&now, &mut cx);
            if let Some(host) = &host {
                assert_eq!(cx.in_panic, loads[host.priority() as usize].2, "{}: {fleet:?}", case.name);
            }
            *counts.entry(host.map_or(0, |host| host.address.port().unwrap())).or_default() += 1;
        }
        let unevenness = if case.name.starts_with("ring") { 0.15 } else { 0.01 };
        let shares = fleet.shares(case);
        let context = format!("{} in step {step}: {shares:?}, {loads:?} of {fleet:?}", case.name);
        compare(&counts, &shares, unevenness, &context);
        before = Some(now);
    }
}

/// Clusters in a row, as an aggregate has them.
fn check_aggregate(case: &Case, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let count = random.u16(1..4);
    let fleets: Vec<Fleet> = (0..count).map(|at| Fleet::any(&mut random, 1 + 20 * at)).collect();
    let sets: Vec<Arc<HostSet>> = fleets.iter().map(|fleet| fleet.host_set(None, case)).collect();
    let mut balancers: Vec<_> = fleets.iter().map(|_| balancer(&case.scheme)).collect();
    let panic_threshold = [0, 50][random.usize(..2)];
    let linear = LinearPriorities::new(sets.iter().map(|set| Some(&**set)), panic_threshold);
    let mut counts: BTreeMap<u16, u32> = BTreeMap::new();
    for _ in 0..PICKS {
        let host = linear.pick(None, random.u64(..)).and_then(|pick| {
            let mut cx = PickCx { loads: Some(&pick.loads), ..PickCx::new(&mut random) };
            balancers[pick.member].pick(&sets[pick.member], &mut cx)
        });
        *counts.entry(host.map_or(0, |host| host.address.port().unwrap())).or_default() += 1;
    }
    let rows: Vec<(&Fleet, usize)> = (fleets.iter())
        .flat_map(|fleet| (0..fleet.priorities()).map(move |priority| (fleet, priority)))
        .filter(|(fleet, priority)| fleet.counts(*priority) != [0; 4])
        .collect();
    let row_counts: Vec<_> = rows.iter().map(|(fleet, priority)| fleet.counts(*priority)).collect();
    let loads = if rows.is_empty() { Vec::new() } else { loads_of(&row_counts, panic_threshold.into()) };
    let mut shares = Shares::new();
    for ((fleet, priority), (healthy, degraded, _)) in rows.into_iter().zip(&loads) {
        fleet.within(case, priority, HostHealth::Healthy, *healthy as f64 / 100.0, &mut shares);
        fleet.within(case, priority, HostHealth::Degraded, *degraded as f64 / 100.0, &mut shares);
    }
    let context = format!("{} of {panic_threshold}: {shares:?}, {loads:?} of {fleets:?}", case.name);
    compare(&counts, &shares, 0.01, &context);
}

#[test]
fn simulation_of_shares() {
    let cases = cases();
    simulate::each_seed(60, |seed| cases.iter().for_each(|case| check(case, seed)));
}

#[test]
fn simulation_of_shares_in_aggregates() {
    let cases = cases();
    let spread = || cases.iter().filter(|case| case.scheme.hashing().is_none());
    simulate::each_seed(60, |seed| spread().for_each(|case| check_aggregate(case, seed)));
}
