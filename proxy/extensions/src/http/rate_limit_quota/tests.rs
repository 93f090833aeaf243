//! What the service is told and what it says, with a clock of the tests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use std::time::Duration;

use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::BucketAction;
use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_response::bucket_action::{
    AbandonAction, BucketAction as Action, QuotaAssignmentAction,
};
use xds_api::envoy::service::rate_limit_quota::v3::rate_limit_quota_usage_reports::BucketQuotaUsage;
use xds_api::envoy::service::rate_limit_quota::v3::{BucketId, RateLimitQuotaUsageReports};
use xds_api::envoy::r#type::v3::rate_limit_strategy::{
    BlanketRule, RequestsPerTimeUnit, Strategy as ProtoStrategy,
};
use xds_api::envoy::r#type::v3::{RateLimitStrategy, TokenBucket};

use super::ledger::{Created, Ledger};
use super::settings::Expired;
use super::strategy::Strategy;
use super::table::Table;
use super::*;
use crate::testing::{Stream, env};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn id(name: &str) -> BucketId {
    BucketId { bucket: HashMap::from([("name".to_owned(), name.to_owned())]) }
}

pub(super) fn settings(change: impl FnOnce(&mut Settings)) -> Arc<Settings> {
    let proto = proto::RateLimitQuotaBucketSettings {
        reporting_interval: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        ..Default::default()
    };
    let env = env();
    let mut settings = Settings::build(&proto, &mut BuildCx::new(&env)).unwrap();
    change(&mut settings);
    Arc::new(settings)
}

/// Beyond the end of all clocks.
#[test]
fn the_longest_interval_is_a_long_one() {
    let proto = proto::RateLimitQuotaBucketSettings {
        reporting_interval: Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 }),
        ..Default::default()
    };
    let env = env();
    let settings = Arc::new(Settings::build(&proto, &mut BuildCx::new(&env)).unwrap());
    let table = Arc::new(Table::new(1));
    let mut ledger = Ledger::new("d".to_owned(), table.clone());
    let now = Instant::now();
    let bucket = table.ask(b"a", settings.unassigned, now).unwrap().new.unwrap();
    ledger.add(Created { bucket, settings }, now);
    assert!(ledger.next().is_some_and(|next| next > now + 300 * 24 * 3600 * SECOND));
}

fn expired(strategy: Option<Strategy>, seconds: u64) -> Option<Expired> {
    Some(Expired { strategy, timeout: Duration::from_secs(seconds) })
}

fn rule(rule: BlanketRule) -> RateLimitStrategy {
    RateLimitStrategy { strategy: Some(ProtoStrategy::BlanketRule(rule.into())) }
}

fn tokens(most: u32, seconds: i64) -> RateLimitStrategy {
    let fill_interval = Some(prost_types::Duration { seconds, nanos: 0 });
    let bucket = TokenBucket { max_tokens: most, tokens_per_fill: Some(most), fill_interval };
    RateLimitStrategy { strategy: Some(ProtoStrategy::TokenBucket(bucket)) }
}

fn assign(name: &str, strategy: RateLimitStrategy, ttl: Option<i64>) -> BucketAction {
    let action = QuotaAssignmentAction {
        assignment_time_to_live: ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        rate_limit_strategy: Some(strategy),
    };
    BucketAction { bucket_id: Some(id(name)), bucket_action: Some(Action::QuotaAssignmentAction(action)) }
}

fn abandon(name: &str) -> BucketAction {
    let action = Some(Action::AbandonAction(AbandonAction {}));
    BucketAction { bucket_id: Some(id(name)), bucket_action: action }
}

/// A ledger, its table, and a clock.
struct Bed {
    table: Arc<Table>,
    ledger: Ledger,
    now: Instant,
}

impl Bed {
    fn new() -> Self {
        let table = Arc::new(Table::new(1));
        Self { ledger: Ledger::new("d".into(), table.clone()), table, now: Instant::now() }
    }

    /// A request to this bucket: whether it passes.
    fn request(&mut self, name: &str, settings: &Arc<Settings>) -> bool {
        let key = super::id::key_of(&id(name));
        let asked = self.table.ask(&key, settings.unassigned, self.now).unwrap();
        if let Some(bucket) = asked.new {
            self.ledger.add(Created { bucket, settings: settings.clone() }, self.now);
        }
        asked.is_admitted
    }

    fn wait(&mut self, duration: Duration) {
        self.now += duration;
        self.ledger.expire(self.now);
    }

    fn apply(&mut self, action: &BucketAction) -> Result<(), &'static str> {
        let result = self.ledger.apply(action, self.now);
        self.ledger.expire(self.now);
        result
    }
}

/// Buckets, what passed and what did not, and the milliseconds.
fn told(reports: &[RateLimitQuotaUsageReports]) -> Vec<(String, u64, u64, u128)> {
    let mut told: Vec<_> = reports
        .iter()
        .flat_map(|report| &report.bucket_quota_usages)
        .map(|usage| {
            let elapsed = proxy_core::config::duration(&usage.time_elapsed.unwrap()).unwrap();
            let name = usage.bucket_id.as_ref().unwrap().bucket["name"].clone();
            (name, usage.num_requests_allowed, usage.num_requests_denied, elapsed.as_millis())
        })
        .collect();
    told.sort();
    told
}

#[test]
fn a_report_has_what_came_since_the_last() {
    let (mut bed, plain) = (Bed::new(), settings(|_| {}));
    let slow = settings(|settings| settings.interval = 7 * SECOND);
    for (name, settings) in [("a", &plain), ("a", &plain), ("b", &slow)] {
        assert!(bed.request(name, settings));
    }
    let key = super::id::key_of(&id("a"));
    let key: Arc<[u8]> = key[..].into();
    bed.wait(SECOND / 2);
    assert_eq!(told(&bed.ledger.report([&key], bed.now)), [("a".into(), 1, 0, 500)], "of the first");
    bed.wait(4 * SECOND);
    assert!(!bed.ledger.has_report(bed.now));
    assert_eq!(bed.ledger.next(), Some(bed.now + SECOND / 2));
    assert!(bed.request("a", &plain));
    bed.wait(SECOND / 2);
    assert!(bed.ledger.has_report(bed.now));
    assert_eq!(told(&bed.ledger.report_due(true, bed.now)), [("a".into(), 2, 0, 4500)]);
    bed.wait(5 * SECOND);
    assert_eq!(
        told(&bed.ledger.report_due(true, bed.now)),
        [("a".into(), 0, 0, 5000), ("b".into(), 1, 0, 10_000)]
    );
}

#[test]
fn what_nobody_hears_is_in_the_next_report() {
    let (mut bed, plain) = (Bed::new(), settings(|_| {}));
    assert!(bed.request("a", &plain));
    bed.wait(5 * SECOND);
    assert!(bed.ledger.report_due(false, bed.now).is_empty());
    assert!(!bed.ledger.has_report(bed.now));
    assert!(bed.request("a", &plain));
    bed.wait(5 * SECOND);
    assert_eq!(told(&bed.ledger.report_due(true, bed.now)), [("a".into(), 2, 0, 10_000)]);
}

#[test]
fn what_could_not_be_sent_is_in_the_next_report_too() {
    let (mut bed, plain) = (Bed::new(), settings(|_| {}));
    assert!(bed.request("a", &plain));
    bed.wait(5 * SECOND);
    for report in bed.ledger.report_due(true, bed.now) {
        bed.ledger.take_back(&report);
    }
    assert!(bed.request("a", &plain));
    bed.wait(5 * SECOND);
    assert_eq!(told(&bed.ledger.report_due(true, bed.now)), [("a".into(), 2, 0, 10_000)]);
}

#[test]
fn an_assignment_holds_until_it_expires() {
    let mut bed = Bed::new();
    let plain = settings(|settings| settings.unassigned = Strategy::DenyAll);
    assert!(!bed.request("a", &plain));
    bed.apply(&assign("a", rule(BlanketRule::AllowAll), Some(10))).unwrap();
    assert!(bed.request("a", &plain));
    bed.wait(10 * SECOND - Duration::from_nanos(1));
    assert!(bed.request("a", &plain));
    bed.wait(Duration::from_nanos(1));
    assert!(!bed.request("a", &plain));
    bed.apply(&assign("a", rule(BlanketRule::AllowAll), None)).unwrap();
    bed.wait(100_000 * SECOND);
    assert!(bed.request("a", &plain), "without a time to live it does not expire");
    bed.apply(&assign("a", rule(BlanketRule::AllowAll), Some(0))).unwrap();
    assert!(!bed.request("a", &plain), "it expires at once");
}

#[test]
fn what_is_expired_is_replaced_for_a_while() {
    let mut bed = Bed::new();
    let fallback = settings(|settings| settings.expired = expired(Some(Strategy::DenyAll), 3));
    let reused = settings(|settings| settings.expired = expired(None, 3));
    assert!(bed.request("fallback", &fallback) && bed.request("reused", &reused));
    bed.apply(&assign("fallback", rule(BlanketRule::AllowAll), Some(2))).unwrap();
    bed.apply(&assign("reused", tokens(2, 1000), Some(2))).unwrap();
    assert!(bed.request("reused", &reused));
    bed.wait(2 * SECOND);
    assert!(!bed.request("fallback", &fallback));
    assert!(bed.request("reused", &reused));
    assert!(!bed.request("reused", &reused), "the tokens are those of the assignment");
    bed.wait(3 * SECOND);
    assert!(bed.request("fallback", &fallback) && bed.request("reused", &reused));
    assert!(bed.request("reused", &reused));
}

#[test]
fn a_new_assignment_ends_what_was() {
    let mut bed = Bed::new();
    let plain = settings(|settings| settings.expired = expired(Some(Strategy::DenyAll), 3));
    assert!(bed.request("a", &plain));
    bed.apply(&assign("a", tokens(2, 1000), Some(2))).unwrap();
    assert!(bed.request("a", &plain) && bed.request("a", &plain) && !bed.request("a", &plain));
    bed.wait(SECOND);
    bed.apply(&assign("a", tokens(2, 1000), Some(2))).unwrap();
    assert!(!bed.request("a", &plain), "the same tokens go on");
    bed.wait(SECOND);
    bed.apply(&assign("a", tokens(3, 1000), Some(2))).unwrap();
    assert!(!bed.request("a", &plain), "others are as few");
    bed.wait(2 * SECOND);
    assert!(!bed.request("a", &plain));
    bed.apply(&assign("a", rule(BlanketRule::AllowAll), Some(100))).unwrap();
    bed.wait(50 * SECOND);
    assert!(bed.request("a", &plain));
    bed.apply(&assign("a", tokens(1, 1000), Some(2))).unwrap();
    assert!(bed.request("a", &plain) && !bed.request("a", &plain), "where there were none they are new");
}

#[test]
fn an_abandoned_bucket_is_forgotten() {
    let (mut bed, plain) = (Bed::new(), settings(|_| {}));
    assert!(bed.request("a", &plain));
    bed.apply(&assign("a", rule(BlanketRule::DenyAll), Some(100))).unwrap();
    assert!(!bed.request("a", &plain));
    bed.apply(&abandon("a")).unwrap();
    bed.wait(5 * SECOND);
    assert!(bed.ledger.report_due(true, bed.now).is_empty());
    assert!(bed.request("a", &plain), "it is a new one");
    bed.wait(5 * SECOND);
    assert_eq!(told(&bed.ledger.report_due(true, bed.now)), [("a".into(), 1, 0, 5000)]);
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let (mut bed, plain) = (Bed::new(), settings(|_| {}));
    assert!(bed.request("a", &plain));
    bed.apply(&assign("a", rule(BlanketRule::DenyAll), Some(100))).unwrap();
    let per_unit = ProtoStrategy::RequestsPerTimeUnit(RequestsPerTimeUnit::default());
    let strategies = [
        None,
        Some(per_unit),
        Some(ProtoStrategy::BlanketRule(7)),
        tokens(0, 1).strategy,
        tokens(1, 0).strategy,
        tokens(1, -1).strategy,
    ];
    for strategy in strategies {
        assert!(bed.apply(&assign("a", RateLimitStrategy { strategy }, Some(1))).is_err(), "{strategy:?}");
    }
    let nothing = BucketAction { bucket_id: Some(id("a")), bucket_action: None };
    let of_nobody = BucketAction { bucket_id: None, ..abandon("a") };
    let of_empty = BucketAction { bucket_id: Some(BucketId::default()), ..abandon("a") };
    for action in [nothing, of_nobody, of_empty, abandon("b"), assign("b", rule(BlanketRule::AllowAll), None)]
    {
        assert!(bed.apply(&action).is_err(), "{action:?}");
    }
    bed.wait(50 * SECOND);
    assert!(!bed.request("a", &plain));
}

/// Times that no clock reaches neither panic nor end anything early.
#[test]
fn the_longest_times_are_long() {
    let mut bed = Bed::new();
    let plain =
        settings(|settings| settings.expired = Some(Expired { strategy: None, timeout: Duration::MAX }));
    assert!(bed.request("a", &plain));
    bed.apply(&assign("a", rule(BlanketRule::DenyAll), Some(i64::MAX))).unwrap();
    bed.wait(100_000 * SECOND);
    assert!(!bed.request("a", &plain));
    bed.apply(&assign("a", rule(BlanketRule::DenyAll), Some(1))).unwrap();
    bed.wait(100_000 * SECOND);
    assert!(!bed.request("a", &plain));
}

#[test]
fn a_large_report_is_several() {
    let (mut bed, plain) = (Bed::new(), settings(|_| {}));
    let name = "n".repeat(60_000);
    for number in 0..50 {
        assert!(bed.request(&format!("{name}{number}"), &plain));
    }
    bed.wait(5 * SECOND);
    let reports = bed.ledger.report_due(true, bed.now);
    assert_eq!(told(&reports).len(), 50);
    assert!(reports.len() == 3 || reports.len() == 4, "{}", reports.len());
    assert!(reports.iter().all(|report| report.domain == "d"));
}

/// Buckets are forgotten while they are asked for again: what is counted of them until that is noticed is in their last report.
#[test]
fn threads_lose_no_request_of_buckets_that_are_forgotten() {
    let plain = settings(|_| {});
    let table = Arc::new(Table::new(2));
    let mut ledger = Ledger::new("d".into(), table.clone());
    // More than half of the room, and not all of it.
    let name = "n".repeat(2500);
    let keys: Vec<_> = (0..1000).map(|number| super::id::key_of(&id(&format!("{name}{number}")))).collect();
    let (created, news) = std::sync::mpsc::channel();
    let begin = Instant::now();
    let mut now = begin;
    let (mut told_of, mut begun) = (0, 0);
    let mut report = || {
        now += 10 * SECOND;
        while let Ok(created) = news.try_recv() {
            ledger.add(created, now);
            begun += 1;
        }
        told_of += told(&ledger.report_due(true, now)).iter().map(|(_, allowed, ..)| allowed).sum::<u64>();
        begun
    };
    // Goes on until some were forgotten, however seldom the thread that reports gets to it.
    let is_seen = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let (table, settings, keys, is_seen) = (&table, &plain, &keys, &is_seen);
        let asking = scope.spawn(move || {
            let mut asked = 0;
            let rounds = (0..10_000).take_while(|round| *round < 50 || !is_seen.load(Ordering::Relaxed));
            for key in rounds.flat_map(|_| keys) {
                asked += 1;
                if let Some(bucket) = table.ask(key, settings.unassigned, begin).unwrap().new {
                    created.send(Created { bucket, settings: settings.clone() }).unwrap();
                }
            }
            asked
        });
        while !asking.is_finished() {
            is_seen.store(report() > keys.len(), Ordering::Relaxed);
        }
        asking.join().unwrap()
    });
    (0..3).for_each(|_| _ = report());
    assert!(begun > keys.len(), "nothing was forgotten");
    assert_eq!(told_of, asked);
}

/// However many buckets are forgotten while the service comes and goes, what is kept of them is bounded.
#[test]
fn what_nobody_was_told_of_forgotten_buckets_has_an_end() {
    let mut bed = Bed::new();
    let long = "n".repeat(60_000);
    for number in 0..200 {
        let usage = BucketQuotaUsage {
            bucket_id: Some(id(&format!("{long}{number}"))),
            num_requests_allowed: 1,
            ..Default::default()
        };
        let report = RateLimitQuotaUsageReports { domain: "d".into(), bucket_quota_usages: vec![usage] };
        bed.ledger.take_back(&report);
    }
    let usages = |bed: &mut Bed| {
        let reports = bed.ledger.report_due(true, bed.now);
        reports.iter().map(|report| report.bucket_quota_usages.len()).sum::<usize>()
    };
    assert_eq!(usages(&mut bed), 4 * 1024 * 1024 / 60_050);
    assert_eq!(usages(&mut bed), 0);
}

/// What a service that was never there was not told is told later, though the bucket is forgotten by then.
#[test]
fn what_nobody_was_told_of_a_bucket_that_is_forgotten_is_told_later() {
    let (mut bed, plain) = (Bed::new(), settings(|_| {}));
    let long = "n".repeat(60_000);
    for number in 0..50 {
        assert!(bed.request(&format!("{long}{number}"), &plain));
    }
    bed.wait(5 * SECOND);
    let mut untold = bed.ledger.report_due(true, bed.now);
    assert_eq!(told(&untold).iter().map(|(_, allowed, ..)| allowed).sum::<u64>(), 50);
    // All are unused by now, and forgotten.
    bed.wait(5 * SECOND);
    untold.extend(bed.ledger.report_due(true, bed.now));
    assert!(bed.apply(&abandon(&format!("{long}0"))).is_err());
    untold.iter().for_each(|report| bed.ledger.take_back(report));
    assert!(bed.request("a", &plain));
    bed.wait(5 * SECOND);
    let told = told(&bed.ledger.report_due(true, bed.now));
    assert_eq!((told.len(), told.iter().map(|(_, allowed, ..)| allowed).sum::<u64>()), (51, 51));
}

/// Clients choose what buckets are named after: with more of them than there is room for, nobody gains tokens.
#[test]
fn requests_without_room_for_their_buckets_share_one() {
    let types = "type.googleapis.com";
    let text = format!(
        r#"
rlqs_server: {{envoy_grpc: {{cluster_name: quotas}}}}
domain: d
bucket_matchers:
  on_no_match:
    action:
      name: a
      typed_config:
        "@type": {types}/{SETTINGS}
        reporting_interval: 5s
        bucket_id_builder:
          bucket_id_builder:
            id: {{custom_value: {{name: i, typed_config: {{"@type": {types}/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-id}}}}}}
        no_assignment_behavior:
          fallback_rate_limit: {{token_bucket: {{max_tokens: 2, tokens_per_fill: 1, fill_interval: 3600s}}}}
"#
    );
    let source = xds_api::read::Source::yaml("t", text.as_bytes());
    let read = xds_api::read::read(&source, &xds_api::read::Options::default()).unwrap();
    let env = env();
    let mut cx = BuildCx::new(&env);
    let built = RateLimitQuota::build(read.message, &mut cx).map_err(|Rejected| cx.into_errors());
    let config = Arc::new(built.unwrap());
    let admits = |id: &str| {
        let mut stream = Stream::new(&[]);
        stream.request.headers.insert("x-id", id.parse().unwrap());
        let (mut filter, mut cx) = (RateLimitQuota::create(&config), stream.cx());
        let step = filter.on_request_headers(&mut cx, true);
        matches!(step, HeadersStep::Continue)
    };
    let long = "n".repeat(60_000);
    let count = |ids: std::ops::Range<u32>| ids.filter(|id| admits(&format!("{id}{long}"))).count();
    assert_eq!(count(0..60), 60, "each has tokens of its own");
    count(60..100);
    assert_eq!(count(100..200), 0, "the tokens of those without a bucket are gone");
    assert!(admits(&format!("0{long}")) && !admits(&format!("0{long}")));
}

/// The same by a model that is asked at the end of every step: what holds for a bucket is a function of what was said last and of the time since.
mod simulation {
    use super::*;

    /// What was said of a bucket, in the fewest words.
    #[derive(Clone, Copy)]
    struct Said {
        at: Instant,
        deny: bool,
        ttl: Option<u64>,
    }

    /// Whether a bucket is closed.
    fn denies(said: Option<Said>, settings: &Settings, now: Instant) -> bool {
        let by_default = settings.unassigned == Strategy::DenyAll;
        let Some(Said { at, deny, ttl }) = said else { return by_default };
        let Some(ttl) = ttl else { return deny };
        let end = at + Duration::from_secs(ttl);
        if now < end {
            return deny;
        }
        match settings.expired {
            Some(Expired { strategy, timeout }) if now < end + timeout => match strategy {
                Some(strategy) => strategy == Strategy::DenyAll,
                None => deny,
            },
            _ => by_default,
        }
    }

    fn run(seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bed = Bed::new();
        let blanket = |deny| if deny { Strategy::DenyAll } else { Strategy::AllowAll };
        let all: Vec<Arc<Settings>> = (0..4)
            .map(|_| {
                settings(|settings| {
                    settings.interval = Duration::from_secs(random.u64(1..6));
                    settings.unassigned = blanket(random.bool());
                    settings.expired = random.bool().then(|| Expired {
                        strategy: random.bool().then(|| blanket(random.bool())),
                        timeout: Duration::from_secs(random.u64(0..5)),
                    });
                })
            })
            .collect();
        let mut said: [Option<Option<Said>>; 4] = [None; 4];
        let mut counted = [(0, 0); 4];
        let mut reported = [(0, 0); 4];
        for step in 0..300 {
            let one = random.usize(0..4);
            let name = one.to_string();
            match random.u8(0..10) {
                0..5 => {
                    let was = said[one].get_or_insert(None);
                    let deny = denies(*was, &all[one], bed.now);
                    assert_eq!(bed.request(&name, &all[one]), !deny, "step {step}");
                    if deny { counted[one].1 += 1 } else { counted[one].0 += 1 }
                }
                5..7 => {
                    let (deny, ttl) = (random.bool(), random.bool().then(|| random.u64(0..6)));
                    let rule = rule(if deny { BlanketRule::DenyAll } else { BlanketRule::AllowAll });
                    let is_done = bed.apply(&assign(&name, rule, ttl.map(u64::cast_signed))).is_ok();
                    assert_eq!(is_done, said[one].is_some(), "step {step}");
                    if is_done {
                        said[one] = Some(Some(Said { at: bed.now, deny, ttl }));
                    }
                }
                7 => {
                    let is_done = bed.apply(&abandon(&name)).is_ok();
                    assert_eq!(is_done, said[one].is_some(), "step {step}");
                    said[one] = None;
                    // (What was not reported of it is not.)
                    counted[one] = reported[one];
                }
                _ => bed.wait(Duration::from_millis(random.u64(0..3000))),
            }
            let has_report = bed.ledger.has_report(bed.now);
            let is_heard = random.bool();
            for (name, allowed, denied, _) in told(&bed.ledger.report_due(is_heard, bed.now)) {
                assert!(has_report && is_heard);
                let one: usize = name.parse().unwrap();
                reported[one].0 += allowed;
                reported[one].1 += denied;
                assert_eq!(reported[one], counted[one], "step {step}");
            }
            assert!(bed.ledger.next().is_none_or(|next| next > bed.now), "step {step}");
        }
    }

    #[test]
    fn holds_and_reports_are_those_of_a_model() {
        simulate::each_seed(300, run);
    }
}
