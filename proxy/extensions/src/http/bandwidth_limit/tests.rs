use std::any::Any;
use std::future::poll_fn;

use proxy_core::config::BuildEnv;
use proxy_core::stats::Value;

use super::proto::bandwidth_limit::EnableMode;
use super::*;
use crate::testing::{Stream, block_on_paused, env, lines};

fn limit(kbps: u64, mode: EnableMode) -> proto::BandwidthLimit {
    proto::BandwidthLimit {
        stat_prefix: "p".into(),
        limit_kbps: Some(kbps),
        enable_mode: mode.into(),
        enable_response_trailers: true,
        ..Default::default()
    }
}

fn build(env: &BuildEnv, proto: proto::BandwidthLimit) -> Result<Arc<Config>, String> {
    let mut cx = BuildCx::new(env);
    BandwidthLimit::build(proto, &mut cx).map_err(|Rejected| cx.into_errors()[0].to_string())
}

/// The value of a statistic.
fn stat(env: &BuildEnv, wanted: &str) -> u64 {
    let mut found = None;
    env.stats.visit(&mut |stat| {
        if stat.name == format!("p.http_bandwidth_limit.{wanted}") {
            found = match stat.value {
                Value::Counter(value) | Value::Gauge(value) => Some(value),
                _ => None,
            };
        }
    });
    found.unwrap()
}

/// Passes a body of this size through the filter in one piece; how long it took.
async fn pass(
    filter: &mut dyn HttpFilter,
    stream: &mut Stream,
    direction: Direction,
    size: usize,
) -> Duration {
    let (start, mut data) = (Instant::now(), Bytes::from(vec![0; size]));
    loop {
        let rest = {
            let mut cx = stream.cx();
            let step = match direction {
                Direction::Request => filter.on_request_data(&mut cx, &mut data, true),
                Direction::Response => filter.on_response_data(&mut cx, &mut data, true),
            };
            match step {
                DataStep::Part(rest) => Some(rest),
                DataStep::Continue => None,
                _ => panic!("unexpected step"),
            }
        };
        let Some(rest) = rest else { return start.elapsed() };
        poll_fn(|task| filter.poll_rest(direction, task)).await;
        data = rest;
    }
}

#[test]
fn both_ways_take_from_one_bucket_and_trailers_tell() {
    block_on_paused(async {
        let env = env();
        let config = Arc::new(build(&env, limit(10, EnableMode::RequestAndResponse)).unwrap());
        let mut filter = BandwidthLimit::create(&config);
        let mut stream = Stream::new(&[]);
        assert!(matches!(filter.on_request_headers(&mut stream.cx(), false), HeadersStep::Continue));
        assert!(stream.phases.request_body && !stream.phases.response_body);
        let took = pass(&mut *filter, &mut stream, Direction::Request, 15 * 1024).await;
        let half = 500..=551;
        assert!(half.contains(&took.as_millis()), "{took:?}: 10 KiB were there, and 5 come in half a second");
        assert!(matches!(filter.on_response_headers(&mut stream.cx(), false), HeadersStep::Continue));
        assert!(stream.phases.response_body);
        let took = pass(&mut *filter, &mut stream, Direction::Response, 2 * 1024).await;
        assert!((200..=251).contains(&took.as_millis()), "{took:?}");
        let told = lines(&stream.new_trailers);
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told[0].starts_with("bandwidth-request-delay-ms: 5"), "{told:?}");
        assert!(told[1].starts_with("bandwidth-request-filter-delay-ms: 5"), "{told:?}");
        assert!(told[2].starts_with("bandwidth-response-delay-ms: 2"), "{told:?}");
        assert_eq!(stat(&env, "request_allowed_total_size"), 15 * 1024);
        assert_eq!(stat(&env, "request_incoming_total_size"), 15 * 1024);
        assert_eq!(stat(&env, "response_allowed_total_size"), 2 * 1024);
        assert_eq!((stat(&env, "request_pending"), stat(&env, "response_pending")), (0, 0));
    });
}

#[test]
fn a_body_that_is_given_up_waits_no_more() {
    block_on_paused(async {
        let env = env();
        let config = Arc::new(build(&env, limit(1, EnableMode::Request)).unwrap());
        let mut filter = BandwidthLimit::create(&config);
        let mut stream = Stream::new(&[]);
        assert!(matches!(filter.on_request_headers(&mut stream.cx(), false), HeadersStep::Continue));
        let mut data = Bytes::from(vec![0; 4096]);
        assert!(matches!(filter.on_request_data(&mut stream.cx(), &mut data, true), DataStep::Part(_)));
        assert_eq!((data.len(), stat(&env, "request_pending")), (1024, 1));
        drop(filter);
        assert_eq!((stat(&env, "request_pending"), stat(&env, "request_enforced")), (0, 1));
    });
}

#[test]
fn a_route_has_a_bucket_of_its_own() {
    let env = env();
    let config = Arc::new(build(&env, limit(1, EnableMode::Request)).unwrap());
    let of_route = build(&env, limit(1, EnableMode::Disabled)).unwrap();
    let mut filter = BandwidthLimit::create(&config);
    let mut stream = Stream::new(&[]);
    stream.configs = vec![Arc::new(of_route) as Arc<dyn Any + Send + Sync>];
    assert!(matches!(filter.on_request_headers(&mut stream.cx(), false), HeadersStep::Continue));
    assert!(!stream.phases.request_body, "nothing is limited there");
}

#[test]
fn what_cannot_be_is_refused() {
    let env = env();
    let base = || limit(1, EnableMode::Request);
    let interval = |nanos| Some(prost_types::Duration { seconds: 0, nanos });
    let refused = [
        (proto::BandwidthLimit { stat_prefix: String::new(), ..base() }, "stat_prefix"),
        (proto::BandwidthLimit { limit_kbps: None, ..base() }, "limit_kbps"),
        (proto::BandwidthLimit { limit_kbps: Some(0), ..base() }, "limit_kbps"),
        (proto::BandwidthLimit { fill_interval: interval(19_000_000), ..base() }, "fill_interval"),
        (
            proto::BandwidthLimit { response_trailer_prefix: "a b".into(), ..base() },
            "response_trailer_prefix",
        ),
        (proto::BandwidthLimit { enable_mode: 9, ..base() }, "enable_mode"),
    ];
    for (proto, path) in refused {
        let error = build(&env, proto).err().expect(path);
        assert!(error.starts_with(path), "{error}");
    }
    let unlimited = proto::BandwidthLimit { limit_kbps: None, ..limit(1, EnableMode::Disabled) };
    assert!(build(&env, unlimited.clone()).is_ok());
    let mut cx = BuildCx::new(&env);
    assert!(BandwidthLimit::build_route(unlimited, &mut cx).is_err());
}
