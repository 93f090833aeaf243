//! Random outcomes, delays, times, checks and changes of hosts, beside a plain reading of Envoy's rules: consecutive failures, success
//! rates and failure percentages, of all requests or with local ones split off, and hosts that call themselves degraded.
//!
//! Where chance decides (`enforcing_*` between 0 and 100) the model takes its word. What is checked after every step: who is ejected
//! and who is degraded, what is told, every counter and gauge, and the rates that are shown.

use std::collections::{BTreeMap, VecDeque};

use super::super::count::{detected, enforced_by};
use super::*;

const KINDS: [EjectionKind; 8] = [
    EjectionKind::Consecutive5xx,
    EjectionKind::ConsecutiveGatewayFailure,
    EjectionKind::SuccessRate,
    EjectionKind::ConsecutiveLocalOriginFailure,
    EjectionKind::SuccessRateLocalOrigin,
    EjectionKind::FailurePercentage,
    EjectionKind::FailurePercentageLocalOrigin,
    EjectionKind::Degraded,
];

/// In seconds.
const INTERVAL: u64 = 10;
const BASE: u64 = 30;
const LONGEST: u64 = 100;

/// For how long a host is out, or degraded, and how that grows and shrinks.
#[derive(Clone, Copy, Debug, Default)]
struct Out {
    since: Option<u64>,
    over_since: Option<u64>,
    times: u64,
}

impl Out {
    fn begin(&mut self, now: u64) {
        let longer = u64::from(self.times * BASE < LONGEST + BASE);
        *self = Self { since: Some(now), over_since: self.over_since, times: self.times + longer };
    }

    fn is_due(&self, now: u64) -> bool {
        self.since.is_some_and(|since| now - since >= (self.times * BASE).min(LONGEST))
    }

    fn end(&mut self, now: u64) {
        (self.since, self.over_since) = (None, Some(now));
    }

    fn forgive(&mut self, now: u64) {
        if self.since.is_none() && self.over_since.is_some_and(|since| now - since >= INTERVAL) {
            self.times = self.times.saturating_sub(1);
        }
    }
}

/// What there is to know of a host.
#[derive(Clone, Debug, Default)]
struct Modelled {
    /// Bad answers, answers of a bad gateway, and failures of connections, in a row.
    in_a_row: [u32; 3],
    /// Of all, and of connections alone: how many, and how many of them good.
    volumes: [(u64, u64); 2],
    ejected: Out,
    degraded: Out,
    rates: [Option<f64>; 2],
    told: Vec<EjectionKind>,
}

/// A number for each kind, and those of no kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    detected: [u64; 8],
    enforced: [u64; 8],
    overflow: u64,
}

struct World {
    random: fastrand::Rng,
    settings: OutlierSettings,
    start: Instant,
    now: u64,
    set: Arc<HostSet>,
    detector: Detector,
    stats: Shared<OutlierDetectionStats>,
    /// By port; those that are there now.
    hosts: BTreeMap<u16, (Arc<Host>, Modelled)>,
    /// What the main thread was told of and has not heard.
    messages: VecDeque<(Arc<Host>, EjectionKind)>,
    counts: Counts,
    _registry: Arc<Registry>,
}

/// A change as it is told: of whom, and why it is ejected, if it is not let back in.
type Told = (u16, Option<(EjectionKind, bool)>);

fn told(changes: &[OutlierChange]) -> Vec<Told> {
    let one = |change: &OutlierChange| {
        let ejection = change.ejection.map(|ejection| (ejection.kind, ejection.enforced));
        (change.host.address.port().unwrap(), ejection)
    };
    changes.iter().map(one).collect()
}

fn settings(random: &mut fastrand::Rng) -> OutlierSettings {
    let mut enforcing = || [0, 50, 100, 100][random.usize(..4)];
    OutlierSettings {
        enforcing_consecutive_5xx: enforcing(),
        enforcing_consecutive_gateway_failure: enforcing(),
        enforcing_consecutive_local_origin_failure: enforcing(),
        enforcing_success_rate: enforcing(),
        enforcing_local_origin_success_rate: enforcing(),
        enforcing_failure_percentage: enforcing(),
        enforcing_failure_percentage_local_origin: enforcing(),
        consecutive_5xx: random.u32(0..8),
        consecutive_gateway_failure: random.u32(0..6),
        consecutive_local_origin_failure: random.u32(0..6),
        interval: u32::try_from(INTERVAL).unwrap() * SECOND,
        base_ejection_time: u32::try_from(BASE).unwrap() * SECOND,
        max_ejection_time: u32::try_from(LONGEST).unwrap() * SECOND,
        max_ejection_percent: random.u32(0..120),
        always_eject_one_host: random.bool(),
        success_rate_minimum_hosts: random.u32(0..6),
        success_rate_request_volume: random.u32(0..10),
        success_rate_stdev_factor: random.u32(0..2000),
        failure_percentage_threshold: random.u32(0..=100),
        failure_percentage_minimum_hosts: random.u32(0..6),
        failure_percentage_request_volume: random.u32(0..10),
        split_external_local_origin_errors: random.bool(),
        ..OutlierSettings::default()
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let registry = Registry::new(1);
        let stats: Shared<OutlierDetectionStats> = registry.scope("cluster.c.outlier_detection").shared();
        let settings = settings(&mut random);
        let mut world = Self {
            random,
            settings,
            start: Instant::now(),
            now: 0,
            set: Arc::default(),
            detector: Detector::new(stats.clone()),
            stats,
            hosts: BTreeMap::new(),
            messages: VecDeque::new(),
            counts: Counts::default(),
            _registry: registry,
        };
        world.set_hosts(vec![1, 2, 3, 4, 5, 6]);
        world
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_secs(self.now)
    }

    fn set_hosts(&mut self, ports: Vec<u16>) {
        let endpoints = ports.iter().map(|port| endpoint(*port, 1, HostHealth::Healthy)).collect();
        let locality = LocalityEndpoints { locality: Locality::nowhere(), priority: 0, weight: 0, endpoints };
        let assignment = Assignment { localities: vec![locality], ..Assignment::default() };
        self.set = HostSet::update(Some(&self.set), &assignment, HostSetOptions::default()).hosts;
        self.detector.set_hosts(&self.set);
        self.hosts.retain(|port, _| ports.contains(port));
        for host in self.set.hosts() {
            let port = host.address.port().unwrap();
            self.hosts.entry(port).or_insert_with(|| (host.clone(), Modelled::default()));
        }
    }

    /// An outcome of a request; what it brings to a limit is told once until it is heard.
    fn note(&mut self, port: u16, result: HostResult) {
        let split = self.settings.split_external_local_origin_errors;
        let (host, model) = self.hosts.get_mut(&port).unwrap();
        let (answer, connection) = match result {
            HostResult::Answered(status) => (Some(status), (split && status / 100 != 5).then_some(true)),
            HostResult::Connected => (None, split.then_some(true)),
            HostResult::ConnectedFinally => ((!split).then_some(200), split.then_some(true)),
            HostResult::ConnectFailed => ((!split).then_some(503), split.then_some(false)),
            HostResult::TimedOut => ((!split).then_some(504), split.then_some(false)),
        };
        let mut expected = Vec::new();
        let mut count = |row: &mut u32, is_one: bool, limit: u32, kind: EjectionKind| {
            *row = if is_one { *row + 1 } else { 0 };
            if is_one && *row == limit {
                expected.push(kind);
            }
        };
        let [bad, gateway, local] = &mut model.in_a_row;
        if let Some(status) = answer {
            let limit = self.settings.consecutive_gateway_failure;
            let is_gateway = matches!(status, 502..=504);
            count(gateway, is_gateway, limit, EjectionKind::ConsecutiveGatewayFailure);
            count(bad, status / 100 == 5, self.settings.consecutive_5xx, EjectionKind::Consecutive5xx);
            model.volumes[0].0 += 1;
            model.volumes[0].1 += u64::from(status / 100 != 5);
        }
        if let Some(good) = connection {
            let limit = self.settings.consecutive_local_origin_failure;
            count(local, !good, limit, EjectionKind::ConsecutiveLocalOriginFailure);
            model.volumes[1].0 += 1;
            model.volumes[1].1 += u64::from(good);
        }
        expected.retain(|kind| !model.told.contains(kind));
        model.told.extend(&expected);
        let reached: Vec<_> = host.outlier().note(result, &self.settings).kinds().collect();
        assert_eq!(reached, expected, "{result:?}");
        self.messages.extend(reached.into_iter().map(|kind| (host.clone(), kind)));
    }

    fn note_degraded(&mut self, port: u16) {
        let (host, model) = self.hosts.get_mut(&port).unwrap();
        let is_new = !model.told.contains(&EjectionKind::Degraded);
        assert_eq!(host.outlier().note_degraded(), is_new);
        if is_new {
            model.told.push(EjectionKind::Degraded);
            self.messages.push_back((host.clone(), EjectionKind::Degraded));
        }
    }

    /// The main thread hears a message.
    fn hear(&mut self) {
        let Some((host, kind)) = self.messages.pop_front() else { return };
        let now = self.instant();
        let change = self.detector.reached(&host, kind, &self.settings, &mut self.random, now);
        let changes = told(change.as_slice());
        let port = host.address.port().unwrap();
        let mut expected = Vec::new();
        let model = self.hosts.get_mut(&port).filter(|(own, _)| Arc::ptr_eq(own, &host));
        if let Some((_, model)) = model {
            model.told.retain(|other| *other != kind);
            if kind == EjectionKind::Degraded {
                if model.degraded.since.is_none() {
                    model.degraded.begin(self.now);
                    model.degraded.over_since = None;
                    self.counts.detected[kind as usize] += 1;
                    expected.push((port, Some((kind, true))));
                }
            } else if model.ejected.since.is_none() {
                self.judge(port, kind, &changes, &mut expected);
                let row = match kind {
                    EjectionKind::Consecutive5xx => 0,
                    EjectionKind::ConsecutiveGatewayFailure => 1,
                    _ => 2,
                };
                self.hosts.get_mut(&port).unwrap().1.in_a_row[row] = 0;
            }
        }
        assert_eq!(changes, expected, "{port}: {kind:?}");
    }

    /// A host is an outlier. `changes` is what became of it, for where chance decides.
    fn judge(&mut self, port: u16, kind: EjectionKind, changes: &[Told], expected: &mut Vec<Told>) {
        self.counts.detected[kind as usize] += 1;
        let out = self.hosts.values().filter(|(_, host)| host.ejected.since.is_some()).count();
        let share = (out + 1) as f64 * 100.0 / self.hosts.len() as f64;
        let is_within = share <= f64::from(self.settings.max_ejection_percent.min(100));
        let is_first = self.settings.always_eject_one_host && out == 0;
        if !is_within && !is_first {
            self.counts.overflow += 1;
            return;
        }
        let enforced = match self.settings.enforcing(kind) {
            0 => false,
            100 => true,
            _ => !changes.contains(&(port, Some((kind, false)))),
        };
        let ejected = &mut self.hosts.get_mut(&port).unwrap().1.ejected;
        if enforced && ejected.since.is_some() {
            return;
        }
        if enforced {
            ejected.begin(self.now);
            self.counts.enforced[kind as usize] += 1;
        }
        expected.push((port, Some((kind, enforced))));
    }

    fn let_in(model: &mut Modelled, now: u64) {
        model.ejected.end(now);
        model.in_a_row = [0; 3];
    }

    fn check_passes(&mut self, port: u16) {
        let now = self.instant();
        let (host, model) = self.hosts.get_mut(&port).unwrap();
        let was_ejected = model.ejected.since.is_some();
        assert_eq!(self.detector.checked(host, now).is_some(), was_ejected, "{port}");
        if was_ejected {
            Self::let_in(model, self.now);
        }
    }

    fn sweep(&mut self, seconds: u64) {
        self.now += seconds;
        let now = self.instant();
        let changes = told(&self.detector.sweep(&self.settings, &mut self.random, now));
        let mut expected = Vec::new();
        for (port, (_, model)) in &mut self.hosts {
            if model.degraded.is_due(self.now) {
                model.degraded.end(self.now);
                expected.push((*port, None));
            }
            if model.ejected.is_due(self.now) {
                Self::let_in(model, self.now);
                expected.push((*port, None));
            }
        }
        self.judge_rates(
            0,
            [EjectionKind::SuccessRate, EjectionKind::FailurePercentage],
            &changes,
            &mut expected,
        );
        let kinds = [EjectionKind::SuccessRateLocalOrigin, EjectionKind::FailurePercentageLocalOrigin];
        self.judge_rates(1, kinds, &changes, &mut expected);
        for (_, model) in self.hosts.values_mut() {
            model.ejected.forgive(self.now);
            model.degraded.forgive(self.now);
        }
        assert_eq!(changes, expected);
    }

    fn judge_rates(
        &mut self,
        origin: usize,
        [by_rate, by_percentage]: [EjectionKind; 2],
        changes: &[Told],
        expected: &mut Vec<Told>,
    ) {
        let settings = self.settings.clone();
        let (rate_volume, percentage_volume) = (
            u64::from(settings.success_rate_request_volume),
            u64::from(settings.failure_percentage_request_volume),
        );
        let least = settings.success_rate_minimum_hosts.min(settings.failure_percentage_minimum_hosts);
        let are_enough = self.hosts.len() >= least as usize;
        // The hosts of whom enough is known, with their rates.
        let mut known: Vec<(u16, u64, f64)> = Vec::new();
        for (port, (_, model)) in &mut self.hosts {
            let (total, good) = std::mem::take(&mut model.volumes[origin]);
            model.rates[origin] = None;
            if total == 0 || !are_enough || model.ejected.since.is_some() {
                continue;
            }
            let rate = good as f64 * 100.0 / total as f64;
            if total >= rate_volume.min(percentage_volume) {
                model.rates[origin] = Some(rate);
            }
            known.push((*port, total, rate));
        }
        let with = |volume: u64, least: u32| -> Vec<(u16, f64)> {
            let hosts = known.iter().filter(|(_, total, _)| *total >= volume);
            let hosts: Vec<_> = hosts.map(|(port, _, rate)| (*port, *rate)).collect();
            if hosts.len() >= least as usize { hosts } else { Vec::new() }
        };
        let compared = with(rate_volume, settings.success_rate_minimum_hosts);
        let found = self.detector.rates()[origin];
        assert_eq!(
            (found.average.is_some(), found.threshold.is_some()),
            (!compared.is_empty(), !compared.is_empty())
        );
        if let (Some(average), Some(threshold)) = (found.average, found.threshold) {
            let count = compared.len() as f64;
            let mean = compared.iter().map(|(_, rate)| rate).sum::<f64>() / count;
            let squares = compared.iter().map(|(_, rate)| rate * rate).sum::<f64>() / count;
            let deviation = (squares - mean * mean).max(0.0).sqrt();
            let wanted = mean - f64::from(settings.success_rate_stdev_factor) / 1000.0 * deviation;
            assert!(
                (average - mean).abs() < 1e-6 && (threshold - wanted).abs() < 1e-4,
                "{found:?}: {compared:?}"
            );
            // (Between equal rates rounding decides.)
            for (port, _) in compared.iter().filter(|(_, rate)| *rate < threshold) {
                self.judge(*port, by_rate, changes, expected);
            }
        }
        for (port, rate) in with(percentage_volume, settings.failure_percentage_minimum_hosts) {
            if 100.0 - rate >= f64::from(settings.failure_percentage_threshold) {
                self.judge(port, by_percentage, changes, expected);
            }
        }
    }

    fn check(&self) {
        for (port, (host, model)) in &self.hosts {
            let out = model.ejected.since.is_some();
            let degraded = model.degraded.since.is_some();
            let health = match (out, degraded) {
                (true, _) => HostHealth::Unhealthy,
                (false, true) => HostHealth::Degraded,
                (false, false) => HostHealth::Healthy,
            };
            assert_eq!(
                (host.health(), host.outlier().success_rates()),
                (health, model.rates),
                "{port}: {model:?}"
            );
            assert_eq!(host.has_flag(HealthFlag::DegradedOutlierDetection), degraded, "{port}");
        }
        let out = self.hosts.values().filter(|(_, host)| host.ejected.since.is_some()).count();
        let found = Counts {
            detected: KINDS.map(|kind| detected(&self.stats, kind).value()),
            enforced: KINDS.map(|kind| enforced_by(&self.stats, kind).map_or(0, |counter| counter.value())),
            overflow: self.stats.ejections_overflow.value(),
        };
        assert_eq!(found, self.counts);
        assert_eq!(self.stats.ejections_enforced_total.value(), self.counts.enforced.iter().sum::<u64>());
        assert_eq!(self.stats.ejections_active.value(), out as u64, "ejections_active");
    }

    /// So many outcomes of a host that is as bad as its port says, now and then.
    fn burst(&mut self, port: u16) {
        let is_bad = u16::from(self.random.u8(..12)) < port;
        for _ in 0..self.random.usize(1..12) {
            let bad = [
                HostResult::Answered(500),
                HostResult::Answered(503),
                HostResult::ConnectFailed,
                HostResult::TimedOut,
            ];
            let good = [
                HostResult::Answered(200),
                HostResult::Answered(404),
                HostResult::Connected,
                HostResult::ConnectedFinally,
            ];
            let is_bad = if self.random.u8(..8) == 0 { self.random.bool() } else { is_bad };
            let result = if is_bad { bad[self.random.usize(..4)] } else { good[self.random.usize(..4)] };
            self.note(port, result);
        }
    }

    fn step(&mut self) {
        let ports: Vec<u16> = self.hosts.keys().copied().collect();
        let Some(port) = self.random.choice(ports) else { return self.set_hosts(vec![1, 2, 3, 4, 5, 6]) };
        match self.random.u8(..32) {
            0..16 => self.burst(port),
            16..22 => self.hear(),
            22 => (0..self.messages.len()).for_each(|_| self.hear()),
            23..28 => self.sweep(INTERVAL),
            28 => {
                let seconds = self.random.u64(0..60);
                self.sweep(seconds);
            }
            29 => self.check_passes(port),
            30 => self.note_degraded(port),
            _ => {
                let ports = (1..=7).filter(|_| self.random.u8(..6) > 0).collect();
                self.set_hosts(ports);
            }
        }
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..300 {
        world.step();
        world.check();
    }
    let World { detector, stats, hosts, .. } = world;
    drop(detector);
    assert_eq!(stats.ejections_active.value(), 0);
    assert!(
        hosts.values().all(|(host, _)| host.health() == HostHealth::Healthy),
        "nobody is judged any more"
    );
}

#[test]
fn outliers_are_those_of_the_rules() {
    simulate::each_seed(500, run);
}
