//! Weights against a plain reading of Envoy's documents.

use proptest::prelude::*;

use super::*;
use crate::config::BuildEnv;
use crate::upstream::tests::endpoint;
use crate::upstream::{Assignment, HostHealth, HostSetOptions, Locality, LocalityEndpoints};

fn settings(metrics: &[&str], error_penalty: f32) -> ReportedWeights {
    let env = BuildEnv::new(1);
    let proto = proto::ClientSideWeightedRoundRobin {
        metric_names_for_computing_utilization: metrics.iter().map(|name| (*name).to_owned()).collect(),
        error_utilization_penalty: Some(error_penalty),
        ..Default::default()
    };
    ReportedWeights::build(&proto, &mut BuildCx::new(&env)).unwrap()
}

fn hosts(weights: &[u32]) -> Arc<HostSet> {
    let of = |(at, weight): (usize, &u32)| endpoint(1 + at as u16, *weight, HostHealth::Healthy);
    let endpoints = weights.iter().enumerate().map(of).collect();
    let locality = LocalityEndpoints { locality: Locality::nowhere(), priority: 0, weight: 0, endpoints };
    let assignment = Assignment { localities: vec![locality], ..Assignment::default() };
    HostSet::update(None, &assignment, HostSetOptions::default()).hosts
}

fn weights(set: &HostSet) -> Vec<u32> {
    set.hosts().map(|host| host.weight()).collect()
}

/// A report that makes this weight.
fn report(weight: u32) -> OrcaLoadReport {
    OrcaLoadReport { rps_fractional: f64::from(weight), cpu_utilization: 1.0, ..OrcaLoadReport::default() }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn the_weight_is_requests_for_each_unit_of_utilization() {
    let report = OrcaLoadReport {
        rps_fractional: 90.0,
        eps: 9.0,
        cpu_utilization: 0.5,
        mem_utilization: 0.9,
        utilization: [("disk".to_owned(), 0.6)].into(),
        named_metrics: [("queue".to_owned(), 0.3), ("other".to_owned(), 0.8)].into(),
        ..OrcaLoadReport::default()
    };
    let weight = |metrics: &[&str], penalty| settings(metrics, penalty).weight(&report);
    assert_eq!(weight(&[], 0.0), Some(180));
    assert_eq!(weight(&[], 1.0), Some(150));
    assert_eq!(weight(&["named_metrics.queue"], 0.0), Some(300));
    assert_eq!(weight(&["named_metrics.queue", "utilization.disk"], 0.0), Some(150));
    assert_eq!(weight(&["named_metrics.*"], 0.0), Some(112));
    assert_eq!(weight(&["mem_utilization"], 0.0), Some(100));
    // There is nothing of the kind: the CPU.
    assert_eq!(weight(&["named_metrics.none", "nothing", "utilization.queue"], 0.0), Some(180));
    let of_application = OrcaLoadReport { application_utilization: 0.2, ..report.clone() };
    assert_eq!(settings(&["named_metrics.queue"], 0.0).weight(&of_application), Some(300));
    assert_eq!(settings(&["named_metrics.none"], 0.0).weight(&of_application), Some(450));
    for nothing in [
        OrcaLoadReport { rps_fractional: 0.0, ..report.clone() },
        OrcaLoadReport { rps_fractional: -1.0, ..report.clone() },
        OrcaLoadReport { rps_fractional: f64::NAN, ..report.clone() },
        OrcaLoadReport { cpu_utilization: 0.0, ..report.clone() },
        OrcaLoadReport { cpu_utilization: f64::NAN, ..report.clone() },
    ] {
        assert_eq!(settings(&[], 0.0).weight(&nothing), None, "{nothing:?}");
    }
    let endless = OrcaLoadReport { rps_fractional: 1e300, cpu_utilization: 1e-300, ..report };
    assert_eq!(settings(&[], 0.0).weight(&endless), Some(u32::MAX));
}

#[test]
fn reports_count_after_a_while_and_for_a_while() {
    let settings = settings(&[], 0.0);
    let set = hosts(&[3, 3, 3]);
    let all: Vec<_> = set.hosts().cloned().collect();
    // (After the beginning of the clock.)
    let begin = Instant::now() + seconds(1);
    assert!(settings.weigh(&set, begin));
    assert_eq!(weights(&set), [1, 1, 1]);
    settings.note(&all[0], &report(40), begin);
    settings.note(&all[1], &report(10), begin + seconds(5));
    assert!(!settings.weigh(&set, begin + seconds(9)));
    assert!(settings.weigh(&set, begin + seconds(10)));
    assert_eq!(weights(&set), [40, 40, 40]);
    assert!(settings.weigh(&set, begin + seconds(15)));
    assert_eq!(weights(&set), [40, 10, 25]);
    settings.note(&all[1], &report(70), begin + seconds(100));
    assert!(settings.weigh(&set, begin + seconds(181)));
    assert_eq!(weights(&set), [70, 70, 70]);
    // A host that fell silent begins anew.
    settings.note(&all[0], &report(5), begin + seconds(182));
    assert!(!settings.weigh(&set, begin + seconds(183)));
    assert!(settings.weigh(&set, begin + seconds(192)));
    assert_eq!(weights(&set), [5, 70, 37]);
    // What discovery says is not forgotten.
    all.iter().for_each(|host| host.reset_weight());
    assert_eq!((weights(&set), set.max_weight()), (vec![3, 3, 3], 3));
}

#[test]
fn each_priority_has_a_median_of_its_own() {
    let of = |priority, port| LocalityEndpoints {
        locality: Locality::nowhere(),
        priority,
        weight: 0,
        endpoints: vec![endpoint(port, 1, HostHealth::Healthy), endpoint(port + 1, 1, HostHealth::Healthy)],
    };
    let assignment = Assignment { localities: vec![of(0, 1), of(1, 3)], ..Assignment::default() };
    let set = HostSet::update(None, &assignment, HostSetOptions::default()).hosts;
    let settings = settings(&[], 0.0);
    let begin = Instant::now() + seconds(1);
    let first = set.hosts().next().unwrap();
    settings.note(first, &report(8), begin);
    assert!(settings.weigh(&set, begin + seconds(11)));
    assert_eq!(weights(&set), [8, 8, 1, 1]);
}

proptest! {
    /// Whatever hosts report, a weight is one that was reported, lies between two that were, or is 1.
    #[test]
    fn the_median_is_in_the_middle(weights in prop::collection::vec(any::<u32>(), 0..20)) {
        let found = median(weights.clone());
        let below = weights.iter().filter(|weight| **weight <= found).count();
        let above = weights.iter().filter(|weight| **weight >= found).count();
        match weights.len() {
            0 => prop_assert_eq!(found, 1),
            count => prop_assert!(2 * below >= count && 2 * above >= count),
        }
    }
}
