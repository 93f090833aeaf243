//! The detector by examples; `simulation.rs` has it beside a plain model of Envoy's rules.

mod simulation;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::tests::endpoint;
use super::super::{
    Assignment, HealthFlag, Host, HostHealth, HostSet, HostSetOptions, Locality, LocalityEndpoints,
};
use super::*;
use crate::stats::groups::OutlierDetectionStats;
use crate::stats::{Registry, Shared};

impl OutlierLimits for OutlierSettings {
    fn splits_local_origin(&self) -> bool {
        self.split_external_local_origin_errors
    }

    fn consecutive(&self, kind: EjectionKind) -> u32 {
        self.consecutive(kind, &crate::runtime::Runtime::default())
    }
}

fn host_set(count: u16, previous: Option<&HostSet>) -> Arc<HostSet> {
    let endpoints = (1..=count).map(|port| endpoint(port, 1, HostHealth::Healthy)).collect();
    let locality = LocalityEndpoints { locality: Locality::nowhere(), priority: 0, weight: 0, endpoints };
    let assignment = Assignment { localities: vec![locality], ..Assignment::default() };
    HostSet::update(previous, &assignment, HostSetOptions::default()).hosts
}

/// One cluster with its detector, and the messages that are under way to it.
struct Rig {
    settings: OutlierSettings,
    set: Arc<HostSet>,
    hosts: Vec<Arc<Host>>,
    detector: Detector,
    stats: Shared<OutlierDetectionStats>,
    random: fastrand::Rng,
    now: Instant,
    _registry: Arc<Registry>,
}

impl Rig {
    fn new(count: u16, settings: OutlierSettings) -> Self {
        let registry = Registry::new(1);
        let stats: Shared<OutlierDetectionStats> = registry.scope("cluster.c.outlier_detection").shared();
        let mut detector = Detector::new(stats.clone());
        let set = host_set(count, None);
        detector.set_hosts(&set);
        let hosts = set.hosts().cloned().collect();
        let random = fastrand::Rng::with_seed(7);
        Self { settings, set, hosts, detector, stats, random, now: Instant::now(), _registry: registry }
    }

    fn note(&mut self, host: usize, result: HostResult) -> Vec<OutlierChange> {
        let host = self.hosts[host].clone();
        let reached = host.outlier().note(result, &self.settings);
        let mut changes = Vec::new();
        for kind in reached.kinds() {
            changes.extend(self.detector.reached(&host, kind, &self.settings, &mut self.random, self.now));
        }
        changes
    }

    fn notes(&mut self, host: usize, count: usize, result: HostResult) -> Vec<OutlierChange> {
        (0..count).flat_map(|_| self.note(host, result)).collect()
    }

    fn sweep_after(&mut self, time: Duration) -> Vec<OutlierChange> {
        self.now += time;
        self.detector.sweep(&self.settings, &mut self.random, self.now)
    }

    fn ejected(&self) -> Vec<usize> {
        let is_ejected = |host: &Arc<Host>| host.has_flag(HealthFlag::FailedOutlierCheck);
        (0..self.hosts.len()).filter(|index| is_ejected(&self.hosts[*index])).collect()
    }
}

fn all_may_go() -> OutlierSettings {
    OutlierSettings { max_ejection_percent: 100, ..OutlierSettings::default() }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn five_in_a_row_are_too_many_and_a_good_one_starts_anew() {
    let mut rig = Rig::new(3, all_may_go());
    assert!(rig.notes(0, 4, HostResult::Answered(500)).is_empty());
    assert!(rig.note(0, HostResult::Answered(404)).is_empty());
    assert!(rig.notes(0, 4, HostResult::Answered(500)).is_empty());
    let changes = rig.note(0, HostResult::Answered(500));
    let ejection = changes[0].ejection.unwrap();
    assert_eq!(
        (ejection.kind, ejection.enforced, changes[0].ejections),
        (EjectionKind::Consecutive5xx, true, 1)
    );
    assert_eq!(rig.ejected(), [0]);
    assert_eq!(rig.stats.ejections_active.value(), 1);
}

#[test]
fn gateway_failures_are_found_but_not_ejected_for_by_default() {
    let mut rig =
        Rig::new(3, OutlierSettings { consecutive_gateway_failure: 2, consecutive_5xx: 0, ..all_may_go() });
    let changes = rig.notes(0, 2, HostResult::Answered(503));
    assert_eq!(changes.len(), 1);
    assert!(!changes[0].ejection.unwrap().enforced);
    assert_eq!(rig.ejected(), [0_usize; 0]);
    assert_eq!(rig.stats.ejections_detected_consecutive_gateway_failure.value(), 1);
    assert_eq!(rig.stats.ejections_enforced_total.value(), 0);
    // Another 5xx is none of a gateway's.
    assert!(rig.note(0, HostResult::Answered(502)).is_empty());
    assert!(rig.note(0, HostResult::Answered(500)).is_empty());
    assert!(rig.note(0, HostResult::Answered(502)).is_empty());
}

#[test]
fn local_failures_count_by_themselves_where_they_are_split_off() {
    let settings = OutlierSettings { split_external_local_origin_errors: true, ..all_may_go() };
    let mut rig = Rig::new(3, settings);
    rig.notes(0, 4, HostResult::ConnectFailed);
    rig.note(0, HostResult::Connected);
    assert!(rig.notes(0, 4, HostResult::TimedOut).is_empty());
    let changes = rig.note(0, HostResult::ConnectFailed);
    assert_eq!(changes[0].ejection.unwrap().kind, EjectionKind::ConsecutiveLocalOriginFailure);
    // The bad answers of another do not touch its connections.
    rig.notes(1, 4, HostResult::ConnectFailed);
    rig.notes(1, 4, HostResult::Answered(500));
    assert_eq!(rig.ejected(), [0]);
}

#[test]
fn no_more_than_the_percentage_are_ejected_but_one_may_always_be() {
    let settings = OutlierSettings { max_ejection_percent: 40, ..OutlierSettings::default() };
    let mut rig = Rig::new(5, settings);
    for host in 0..5 {
        rig.notes(host, 5, HostResult::Answered(500));
    }
    assert_eq!((rig.ejected(), rig.stats.ejections_overflow.value()), (vec![0, 1], 3));

    let mut rig = Rig::new(3, OutlierSettings::default());
    rig.notes(0, 5, HostResult::Answered(500));
    assert_eq!((rig.ejected().len(), rig.stats.ejections_overflow.value()), (0, 1));
    rig.settings.always_eject_one_host = true;
    rig.notes(0, 5, HostResult::Answered(500));
    rig.notes(1, 5, HostResult::Answered(500));
    assert_eq!((rig.ejected(), rig.stats.ejections_overflow.value()), (vec![0], 2));
}

#[test]
fn each_ejection_lasts_longer_and_good_behaviour_shortens_the_next() {
    let mut rig = Rig::new(2, OutlierSettings { max_ejection_time: 90 * SECOND, ..all_may_go() });
    for (ejections, time) in [(1, 30), (2, 60), (3, 90), (4, 90)] {
        let changes = rig.notes(0, 5, HostResult::Answered(500));
        assert_eq!(changes[0].ejections, ejections);
        assert!(rig.sweep_after(time * SECOND - Duration::from_millis(1)).is_empty());
        let back = rig.sweep_after(Duration::from_millis(1));
        assert_eq!((back.len(), back[0].since), (1, Some(time * SECOND)));
    }
    // Four times base so far, or as much as there may be: three sweeps take three off.
    for _ in 0..3 {
        rig.sweep_after(10 * SECOND);
    }
    rig.notes(0, 5, HostResult::Answered(500));
    assert!(rig.sweep_after(59 * SECOND).is_empty());
    assert_eq!(rig.sweep_after(SECOND).len(), 1);
}

#[test]
fn jitter_prolongs_by_at_most_its_limit() {
    let mut rig = Rig::new(1, OutlierSettings { max_ejection_time_jitter: 10 * SECOND, ..all_may_go() });
    let mut times = BTreeSet::new();
    for _ in 0..20 {
        rig.notes(0, 5, HostResult::Answered(500));
        let mut time = Duration::ZERO;
        while !rig.ejected().is_empty() {
            rig.sweep_after(Duration::from_millis(100));
            time += Duration::from_millis(100);
        }
        assert!(time >= 30 * SECOND && time <= 40 * SECOND + Duration::from_millis(100), "{time:?}");
        times.insert(time);
        (0..3).for_each(|_| drop(rig.sweep_after(10 * SECOND)));
    }
    assert!(times.len() > 10, "{times:?}");
}

#[test]
fn success_rates_are_compared_with_those_of_the_others() {
    let mut rig = Rig::new(5, all_may_go());
    let answers = |rig: &mut Rig, host, good: usize, bad: usize| {
        for _ in 0..bad {
            rig.note(host, HostResult::Answered(500));
            rig.note(host, HostResult::Answered(200));
        }
        rig.notes(host, good - bad, HostResult::Answered(200));
    };
    answers(&mut rig, 0, 100, 100);
    (1..5).for_each(|host| answers(&mut rig, host, 200, 0));
    let changes = rig.sweep_after(10 * SECOND);
    assert_eq!(rig.ejected(), [0]);
    let ejection = changes[0].ejection.unwrap();
    assert_eq!((ejection.kind, ejection.success_rate), (EjectionKind::SuccessRate, Some(50.0)));
    assert_eq!(ejection.rates, OutlierRates { average: Some(90.0), threshold: Some(52.0) });
    assert_eq!(rig.hosts[0].outlier().success_rates(), [Some(50.0), None]);
    // The next interval has no requests.
    rig.sweep_after(10 * SECOND);
    assert_eq!(
        (rig.hosts[1].outlier().success_rates(), rig.detector.rates()[0].average),
        ([None, None], None)
    );
}

#[test]
fn failure_percentages_need_no_others() {
    let settings = OutlierSettings {
        enforcing_failure_percentage: 100,
        failure_percentage_minimum_hosts: 1,
        enforcing_success_rate: 0,
        consecutive_5xx: 0,
        ..all_may_go()
    };
    let mut rig = Rig::new(3, settings);
    for host in 0..3 {
        rig.notes(host, 50, HostResult::Answered(500));
    }
    rig.notes(2, 10, HostResult::Answered(200));
    rig.sweep_after(10 * SECOND);
    assert_eq!(rig.ejected(), [0, 1]);
    assert_eq!(rig.stats.ejections_enforced_failure_percentage.value(), 2);
}

#[test]
fn hosts_that_leave_take_their_ejection_along() {
    let mut rig = Rig::new(3, all_may_go());
    rig.notes(2, 5, HostResult::Answered(500));
    assert_eq!(rig.stats.ejections_active.value(), 1);
    let fewer = host_set(2, Some(&rig.set));
    rig.detector.set_hosts(&fewer);
    assert_eq!(rig.stats.ejections_active.value(), 0);
    // What is still told of it is nobody's business.
    assert!(rig.notes(2, 5, HostResult::Answered(500)).is_empty());
    rig.notes(0, 5, HostResult::Answered(500));
    assert_eq!(rig.stats.ejections_active.value(), 1);
    let (stats, host) = (rig.stats.clone(), rig.hosts[0].clone());
    drop(rig);
    assert_eq!((stats.ejections_active.value(), host.health()), (0, HostHealth::Healthy));
}

#[test]
fn a_check_that_succeeds_lets_a_host_back_in() {
    let mut rig = Rig::new(2, all_may_go());
    rig.notes(0, 5, HostResult::Answered(500));
    let now = rig.now + SECOND;
    let host = rig.hosts[0].clone();
    assert_eq!(rig.detector.checked(&host, now).unwrap().since, Some(SECOND));
    assert!(rig.ejected().is_empty() && rig.detector.checked(&host, now).is_none());
}

#[test]
fn who_is_degraded_is_so_for_longer_each_time() {
    let time = Duration::from_millis;
    let settings = OutlierSettings {
        interval: time(100),
        base_ejection_time: time(1000),
        max_ejection_time: time(2500),
        max_ejection_percent: 0,
        ..OutlierSettings::default()
    };
    let mut rig = Rig::new(2, settings);
    let host = rig.hosts[0].clone();
    let degrade = |rig: &mut Rig| {
        assert!(host.outlier().note_degraded() && !host.outlier().note_degraded());
        let kind = EjectionKind::Degraded;
        rig.detector.reached(&host, kind, &rig.settings, &mut rig.random, rig.now)
    };
    for lasts in [1000, 2000, 2500, 2500] {
        let change = degrade(&mut rig).unwrap();
        assert!(change.ejection.is_some_and(|ejection| ejection.enforced));
        assert_eq!(rig.hosts[0].health(), HostHealth::Degraded);
        assert!(degrade(&mut rig).is_none(), "it is degraded already");
        assert!(rig.sweep_after(time(lasts - 1)).is_empty());
        assert!(rig.sweep_after(time(1))[0].ejection.is_none());
        assert_eq!(rig.hosts[0].health(), HostHealth::Healthy);
    }
    // It is forgotten again with every interval in which it is well.
    for _ in 0..4 {
        assert!(rig.sweep_after(time(100)).is_empty());
    }
    degrade(&mut rig).unwrap();
    assert_eq!(rig.sweep_after(time(1000)).len(), 1);
    assert_eq!(rig.stats.ejections_detected_degradation.value(), 5);
    assert_eq!((rig.stats.ejections_active.value(), rig.stats.ejections_enforced_total.value()), (0, 0));
}
