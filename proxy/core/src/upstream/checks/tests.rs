mod simulation;

use std::time::Duration;

use super::*;
use crate::stats::Registry;
use crate::stats::groups::HealthChecksStats;
use crate::upstream::HostHealth;

fn settings() -> CheckSettings {
    let time = Duration::from_millis;
    CheckSettings {
        timeout: time(1000),
        interval: time(100),
        initial_jitter: Duration::ZERO,
        interval_jitter: Duration::ZERO,
        interval_jitter_percent: 0,
        unhealthy_threshold: 3,
        healthy_threshold: 2,
        reuse_connection: true,
        no_traffic_interval: time(60_000),
        no_traffic_healthy_interval: time(30_000),
        unhealthy_interval: time(200),
        unhealthy_edge_interval: time(300),
        healthy_edge_interval: time(400),
        always_log_failures: false,
        always_log_success: false,
    }
}

const LIMITS: IntervalLimits = IntervalLimits { least: Duration::ZERO, most: Duration::MAX };
const OK: CheckResult = CheckResult::Passed { degraded: false };

fn failed(kind: FailureKind) -> CheckResult {
    CheckResult::Failed(CheckFailure::of(kind))
}

struct Fixture {
    settings: CheckSettings,
    host: Arc<Host>,
    stats: Shared<HealthCheckerStats>,
    checks: HostChecks,
}

impl Fixture {
    fn new(settings: CheckSettings) -> Self {
        let registry = Registry::new(1);
        let stats: Shared<HealthCheckerStats> = registry.scope("cluster.c.health_check").shared();
        let host = Arc::new(Host::new(std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into()));
        host.await_check(false);
        let checks = HostChecks::new(host.clone(), stats.clone());
        Self { settings, host, stats, checks }
    }

    fn take(&mut self, result: CheckResult) -> CheckOutcome {
        self.checks.take(result, &self.settings)
    }

    /// The transitions that these results bring about.
    fn transitions(&mut self, results: &[CheckResult]) -> Vec<Transition> {
        results.iter().map(|result| self.take(*result).transition).collect()
    }
}

use Transition::{Changed, Pending, Unchanged};

#[test]
fn one_success_is_enough_for_who_was_never_seen() {
    let mut fixture = Fixture::new(settings());
    assert!(fixture.host.is_unchecked());
    assert_eq!(fixture.host.health(), HostHealth::Unhealthy);
    let outcome = fixture.take(OK);
    assert_eq!(outcome.transition, Changed);
    assert_eq!(outcome.events, [CheckEvent::Added { first: true }]);
    assert!(!fixture.host.is_unchecked());
    assert_eq!(fixture.host.health(), HostHealth::Healthy);
    assert_eq!(fixture.stats.healthy.value(), 1);
}

#[test]
fn it_takes_as_many_as_the_thresholds_say() {
    let mut fixture = Fixture::new(settings());
    let network = failed(FailureKind::Network);
    assert_eq!(fixture.transitions(&[network, OK, OK]), [Unchanged, Pending, Changed]);
    assert_eq!(fixture.transitions(&[network, network, OK]), [Pending, Pending, Unchanged]);
    assert_eq!(fixture.transitions(&[network, network, network]), [Pending, Pending, Changed]);
    assert_eq!(fixture.transitions(&[OK, network, OK, OK]), [Pending, Unchanged, Pending, Changed]);
    assert_eq!(fixture.stats.network_failure.value(), 7);
}

#[test]
fn a_host_that_recovers_is_new_from_its_last_check_on() {
    let mut fixture = Fixture::new(settings());
    assert_eq!(fixture.host.healthy_since(), None);
    fixture.take(OK);
    let mut since = fixture.host.healthy_since().unwrap();
    // Neither what it passes while it is well, nor what it fails, makes it new.
    let network = failed(FailureKind::Network);
    fixture.transitions(&[OK, network, OK, network, network, network]);
    assert_eq!(fixture.host.healthy_since(), Some(since));
    for _ in 0..2 {
        fixture.take(OK);
        let now = fixture.host.healthy_since().unwrap();
        assert!(now > since);
        since = now;
    }
    fixture.take(OK);
    assert_eq!(fixture.host.healthy_since(), Some(since));
}

#[test]
fn a_bad_answer_is_believed_at_once_unless_it_may_be_repeated() {
    let mut fixture = Fixture::new(settings());
    assert_eq!(fixture.transitions(&[OK, failed(FailureKind::Active)]), [Changed, Changed]);
    let retriable = CheckFailure { retriable: true, status: 503, ..CheckFailure::of(FailureKind::Active) };
    let retriable = CheckResult::Failed(retriable);
    assert_eq!(
        fixture.transitions(&[OK, OK, retriable, retriable, retriable]),
        [Pending, Changed, Pending, Pending, Changed]
    );
}

#[test]
fn who_times_out_is_marked_for_as_long_as_that_is_how_it_fails() {
    let mut fixture = Fixture::new(settings());
    let timed_out = |fixture: &Fixture| fixture.host.has_flag(HealthFlag::ActiveHealthCheckTimeout);
    fixture.take(failed(FailureKind::Timeout));
    assert!(timed_out(&fixture));
    fixture.take(failed(FailureKind::Network));
    assert!(!timed_out(&fixture));
    fixture.transitions(&[failed(FailureKind::Timeout), OK, OK]);
    assert!(!timed_out(&fixture));
    fixture.take(failed(FailureKind::Timeout));
    assert!(!timed_out(&fixture), "once is not enough for it to fail");
}

#[test]
fn a_degraded_host_is_one_that_is_well() {
    let mut fixture = Fixture::new(settings());
    let degraded = CheckResult::Passed { degraded: true };
    let outcome = fixture.take(degraded);
    assert_eq!(outcome.events, [CheckEvent::Added { first: true }, CheckEvent::Degraded]);
    assert_eq!((fixture.host.health(), fixture.stats.degraded.value()), (HostHealth::Degraded, 1));
    assert_eq!(fixture.take(degraded).transition, Unchanged);
    let outcome = fixture.take(OK);
    assert_eq!((outcome.transition, outcome.events), (Changed, vec![CheckEvent::NoLongerDegraded]));
    assert_eq!((fixture.host.health(), fixture.stats.degraded.value()), (HostHealth::Healthy, 0));
}

#[test]
fn a_host_that_is_excluded_until_its_first_check_counts_from_then_on() {
    let mut fixture = Fixture::new(settings());
    fixture.host.await_check(true);
    assert_eq!(fixture.host.health(), HostHealth::Draining);
    assert_eq!(fixture.take(failed(FailureKind::Active)).transition, Changed);
    assert_eq!(fixture.host.health(), HostHealth::Unhealthy);
}

#[test]
fn intervals_are_those_of_the_state() {
    let settings = settings();
    let bad = failed(FailureKind::Active);
    let mut random = fastrand::Rng::with_seed(1);
    for (result, transition, has_traffic, millis) in [
        (OK, Unchanged, true, 100),
        (OK, Changed, true, 100),
        (OK, Pending, true, 400),
        (bad, Changed, true, 200),
        (bad, Unchanged, true, 200),
        (bad, Pending, true, 300),
        (OK, Unchanged, false, 30_000),
        (OK, Pending, false, 60_000),
        (bad, Unchanged, false, 60_000),
    ] {
        let next = settings.until_next(result, transition, has_traffic, LIMITS, &mut random);
        assert_eq!(next, Duration::from_millis(millis), "{result:?} {transition:?} {has_traffic}");
    }
    let limits = |least, most| IntervalLimits {
        least: Duration::from_millis(least),
        most: Duration::from_millis(most),
    };
    let mut next = |limits| settings.until_next(OK, Unchanged, true, limits, &mut random);
    assert_eq!(next(limits(150, 1000)), Duration::from_millis(150));
    assert_eq!(next(limits(0, 50)), Duration::from_millis(50));
    assert_eq!(next(limits(0, 0)), Duration::from_millis(1), "never at once");
}

#[test]
fn intervals_are_spread_within_their_jitter() {
    let jittery = CheckSettings {
        interval_jitter: Duration::from_millis(20),
        interval_jitter_percent: 50,
        initial_jitter: Duration::from_millis(10),
        ..settings()
    };
    let mut random = fastrand::Rng::with_seed(2);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        let next = jittery.until_next(OK, Unchanged, true, LIMITS, &mut random).as_millis();
        assert!((100..169).contains(&next), "{next}");
        seen.insert(next);
        let first = jittery.until_first(LIMITS, &mut random).unwrap().as_millis();
        assert!((1..10).contains(&first), "{first}");
    }
    assert!(seen.len() > 50, "{seen:?}");
    assert_eq!(settings().until_first(LIMITS, &mut random), None);
}

#[test]
fn what_is_awaited_must_come_in_order() {
    use xds_api::envoy::config::core::v3::health_check::{Payload as Proto, payload};
    let env = crate::config::BuildEnv::new(1);
    let mut cx = crate::config::BuildCx::new(&env);
    let text = |text: &str| Proto { payload: Some(payload::Payload::Text(text.to_owned())) };
    let built = Payload::build_all("receive", &[text("6162"), text("63")], &mut cx).unwrap();
    assert_eq!(built.len(), 3);
    for (bytes, is_in) in
        [(&b"abc"[..], true), (b"xabxcx", true), (b"cab", false), (b"ab", false), (b"", false)]
    {
        assert_eq!(built.is_in(bytes), is_in, "{bytes:?}");
    }
    assert!(Payload::default().is_in(b""));
    for bad in ["", "6", "6g", "0x61"] {
        let mut cx = crate::config::BuildCx::new(&env);
        assert!(Payload::build_all("receive", &[text("61"), text(bad)], &mut cx).is_err());
        assert_eq!(cx.into_errors()[0].path, "receive[1].text");
    }
}

#[test]
fn a_host_has_to_pass_all_checks() {
    let registry = Registry::new(1);
    let stats: Shared<HealthChecksStats> = registry.scope("cluster.c.health_check").shared();
    let host = Arc::new(Host::new(std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into()));
    host.await_check(true);
    let together = Together::new(&host, &stats);
    let mut checks = ["a", "b"].map(|name| {
        let of_one = registry.scope(&format!("cluster.c.health_check.name.{name}")).shared();
        HostChecks::among(&together, of_one)
    });
    drop(together);
    let settings = settings();
    let counts = || (stats.healthy.value(), stats.degraded.value());
    let is_well = || !host.has_flag(HealthFlag::FailedActiveHealthCheck);
    checks[0].take(OK, &settings);
    assert!(!is_well() && host.is_unchecked());
    assert_eq!((counts(), checks[0].stats.healthy.value(), checks[1].stats.healthy.value()), ((0, 0), 1, 0));
    checks[1].take(OK, &settings);
    assert!(is_well() && !host.is_unchecked());
    assert_eq!((host.health(), counts()), (HostHealth::Healthy, (1, 0)));
    // Each counts for itself: three failures of the network between them are not enough.
    for check in [0, 1, 0] {
        let outcome = checks[check].take(failed(FailureKind::Network), &settings);
        assert_eq!(outcome.transition, Transition::Pending);
    }
    assert!(is_well());
    checks[1].take(failed(FailureKind::Active), &settings);
    assert!(!is_well());
    checks[0].take(failed(FailureKind::Timeout), &settings);
    assert!(host.has_flag(HealthFlag::ActiveHealthCheckTimeout));
    // The way back takes two successes of each.
    for (check, well) in [(0, false), (0, false), (1, false), (1, true)] {
        checks[check].take(OK, &settings);
        assert_eq!((is_well(), counts().0), (well, u64::from(well)));
    }
    assert!(!host.has_flag(HealthFlag::ActiveHealthCheckTimeout));
    let degraded = CheckResult::Passed { degraded: true };
    for (check, result, count) in [(0, degraded, 1), (1, degraded, 1), (0, OK, 1), (1, OK, 0)] {
        checks[check].take(result, &settings);
        assert_eq!((host.has_flag(HealthFlag::DegradedActiveHealthCheck), counts().1), (count == 1, count));
    }
    drop(checks);
    assert_eq!(counts(), (0, 0));
}

struct Several {
    host: Arc<Host>,
    checks: [HostChecks; 2],
}

impl Several {
    /// Two checks of a host that waits for them.
    fn new() -> Self {
        let registry = Registry::new(1);
        let stats: Shared<HealthChecksStats> = registry.scope("cluster.c.health_check").shared();
        let host = Arc::new(Host::new(std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into()));
        host.await_check(true);
        let together = Together::new(&host, &stats);
        let checks = ["a", "b"].map(|name| {
            let of_one = registry.scope(&format!("cluster.c.health_check.name.{name}")).shared();
            HostChecks::among(&together, of_one)
        });
        Self { host, checks }
    }

    /// Whether the host is another one after this result of a check.
    fn changed(&mut self, check: usize, result: CheckResult) -> bool {
        self.take(check, result).changed
    }

    fn take(&mut self, check: usize, result: CheckResult) -> CheckOutcome {
        let settings = CheckSettings { healthy_threshold: 1, ..settings() };
        self.checks[check].take(result, &settings)
    }
}

#[test]
fn what_one_check_finds_is_no_change_of_a_host_that_fails_anyway() {
    let bad = failed(FailureKind::Active);
    let mut several = Several::new();
    assert!(!several.changed(0, OK));
    assert!(several.changed(1, bad), "it waits no longer");
    for _ in 0..3 {
        assert!(!several.changed(0, bad));
        assert!(!several.changed(0, OK));
    }
    let degraded = several.take(0, CheckResult::Passed { degraded: true });
    assert!(degraded.changed && !degraded.fell, "it fell before");
    assert!(several.changed(0, OK));
    assert!(several.changed(1, OK) && several.take(0, bad).fell);
    assert!(!several.changed(1, bad) && !several.changed(0, OK));
}

#[test]
fn a_host_waits_for_all_checks() {
    let mut several = Several::new();
    let pending = |several: &Several| several.host.has_flag(HealthFlag::PendingActiveHealthCheck);
    for result in [OK, failed(FailureKind::Active), OK] {
        several.changed(0, result);
        assert!(pending(&several) && several.host.is_unchecked());
    }
    several.changed(1, failed(FailureKind::Timeout));
    assert!(!pending(&several) && !several.host.is_unchecked());
}

#[test]
fn a_host_is_excluded_until_the_check_passes_that_an_answer_failed() {
    let mut several = Several::new();
    let excluded = |several: &Several| several.host.has_flag(HealthFlag::ExcludedViaImmediateHealthCheckFail);
    several.changed(0, OK);
    several.changed(1, OK);
    assert!(several.host.note_passive_failure());
    assert!(several.changed(1, failed(FailureKind::Passive)));
    several.changed(0, failed(FailureKind::Active));
    several.changed(0, OK);
    assert!(excluded(&several));
    several.changed(0, failed(FailureKind::Active));
    assert!(!several.changed(1, OK));
    assert!(!excluded(&several) && several.host.has_flag(HealthFlag::FailedActiveHealthCheck));
    // What a check is answered excludes a host that has no other check, and no other host.
    let immediate = CheckFailure { immediate: true, ..CheckFailure::of(FailureKind::Active) };
    several.changed(1, CheckResult::Failed(immediate));
    assert!(!excluded(&several));
    let mut fixture = Fixture::new(settings());
    fixture.take(CheckResult::Failed(immediate));
    assert_eq!(fixture.host.health(), HostHealth::Draining);
}
