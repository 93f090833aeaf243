//! Random results of checks; what a host is after each is what a look back at all of them says.

use super::*;

/// Whether a host is well after these results, found by looking back at all of them.
fn is_well(history: &[CheckResult], settings: &CheckSettings) -> bool {
    let mut well = false;
    for end in 1..=history.len() {
        let since = |state: &dyn Fn(&CheckResult) -> bool| {
            history[..end].iter().rev().take_while(|result| state(result)).count()
        };
        let passes = since(&|result| matches!(result, CheckResult::Passed { .. }));
        let failures = since(&|result| matches!(result, CheckResult::Failed(_)));
        let is_final = matches!(history[end - 1], CheckResult::Failed(failure)
            if !failure.retriable && matches!(failure.kind, FailureKind::Active | FailureKind::Passive));
        if well {
            well = failures < settings.unhealthy_threshold as usize && !is_final;
        } else {
            well = passes >= settings.healthy_threshold as usize || (end == 1 && passes == 1);
        }
    }
    well
}

fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let settings = CheckSettings {
        unhealthy_threshold: random.u32(1..5),
        healthy_threshold: random.u32(1..5),
        ..settings()
    };
    let mut fixture = Fixture::new(settings.clone());
    let mut history = Vec::new();
    let mut before = false;
    for _ in 0..60 {
        let kinds = [FailureKind::Active, FailureKind::Passive, FailureKind::Network, FailureKind::Timeout];
        let result = match random.u8(..10) {
            0..=5 => CheckResult::Passed { degraded: random.u8(..6) == 0 },
            _ => CheckResult::Failed(CheckFailure {
                retriable: random.bool(),
                status: 500,
                ..CheckFailure::of(kinds[random.usize(..4)])
            }),
        };
        history.push(result);
        let transition = fixture.take(result).transition;
        let host = &fixture.host;
        let well = is_well(&history, &settings);
        let context = format!("{history:?}");
        assert_eq!(!host.has_flag(HealthFlag::FailedActiveHealthCheck), well, "{context}");
        assert_eq!(fixture.stats.healthy.value(), u64::from(well), "{context}");
        let degraded = host.has_flag(HealthFlag::DegradedActiveHealthCheck);
        assert_eq!(fixture.stats.degraded.value(), u64::from(degraded), "{context}");
        assert!(well == before || transition == Changed, "{context}");
        if host.has_flag(HealthFlag::ActiveHealthCheckTimeout) {
            assert!(!well, "{context}");
        }
        before = well;
    }
    assert_eq!(fixture.stats.success.value() + fixture.stats.failure.value(), 60);
    let Fixture { stats, checks, .. } = fixture;
    drop(checks);
    assert_eq!((stats.healthy.value(), stats.degraded.value()), (0, 0), "who is gone does not count");
}

#[test]
fn whatever_checks_find_the_host_is_what_its_history_says() {
    simulate::each_seed(500, run);
}
