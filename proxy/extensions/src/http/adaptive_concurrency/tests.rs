use proxy_core::config::BuildEnv;
use proxy_core::runtime::RuntimeLayer;
use proxy_core::stats::Value;
use xds_api::envoy::r#type::v3::HttpStatus;

use super::proto::GradientControllerConfig;
use super::proto::gradient_controller_config::{
    ConcurrencyLimitCalculationParams, MinimumRttCalculationParams,
};
use super::*;
use crate::testing::{Stream, env, reply};

const fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// Two requests at once, until the minimum is known.
fn config() -> (ConcurrencyLimitCalculationParams, MinimumRttCalculationParams) {
    let limit = ConcurrencyLimitCalculationParams {
        concurrency_update_interval: seconds(3600),
        ..Default::default()
    };
    let minimum = MinimumRttCalculationParams {
        interval: seconds(60),
        min_concurrency: Some(2),
        request_count: Some(3),
        ..Default::default()
    };
    (limit, minimum)
}

fn proto(
    (limit, minimum): (ConcurrencyLimitCalculationParams, MinimumRttCalculationParams),
) -> proto::AdaptiveConcurrency {
    let config = GradientControllerConfig {
        concurrency_limit_params: Some(limit),
        min_rtt_calc_params: Some(minimum),
        ..Default::default()
    };
    proto::AdaptiveConcurrency {
        concurrency_controller_config: Some(ConcurrencyControllerConfig::GradientControllerConfig(config)),
        ..Default::default()
    }
}

fn build(env: &BuildEnv, proto: proto::AdaptiveConcurrency) -> Result<Arc<Config>, String> {
    let mut cx = BuildCx::new(env);
    cx.stat_prefix = "http.p.".into();
    AdaptiveConcurrency::build(proto, &mut cx)
        .map(Arc::new)
        .map_err(|Rejected| cx.into_errors()[0].to_string())
}

fn stat(env: &BuildEnv, wanted: &str) -> u64 {
    let mut found = None;
    env.stats.visit(&mut |stat| {
        if stat.name == format!("http.p.adaptive_concurrency.gradient_controller.{wanted}") {
            found = match stat.value {
                Value::Counter(value) | Value::Gauge(value) => Some(value),
                _ => None,
            };
        }
    });
    found.unwrap()
}

struct Request {
    filter: Box<dyn HttpFilter>,
    stream: Stream,
    refused: Option<Box<LocalReply>>,
}

fn begin(config: &Arc<Config>) -> Request {
    let (mut filter, mut stream) = (AdaptiveConcurrency::create(config), Stream::new(&[]));
    let refused = reply(filter.on_request_headers(&mut stream.cx(), true));
    Request { filter, stream, refused }
}

impl Request {
    fn end(mut self, answered: bool) {
        self.stream.info.last_downstream_tx = answered.then(Instant::now);
        let Stream { request, info, engine, .. } = &mut self.stream;
        self.filter.on_complete(request, None, info, engine);
    }
}

#[test]
fn what_is_too_much_at_once_is_refused() {
    let env = env();
    let config = build(&env, proto(config())).unwrap();
    assert_eq!((stat(&env, "concurrency_limit"), stat(&env, "min_rtt_calculation_active")), (2, 1));
    let (first, second, third) = (begin(&config), begin(&config), begin(&config));
    assert!(first.refused.is_none() && second.refused.is_none());
    let refusal = third.refused.as_ref().unwrap();
    assert_eq!((refusal.status.as_u16(), &*refusal.details), (503, "reached_concurrency_limit"));
    assert_eq!(refusal.body, "reached concurrency limit");
    assert_eq!(stat(&env, "rq_blocked"), 1);
    third.end(true);
    assert!(begin(&config).refused.is_some(), "what was refused was not in progress");
    drop(first);
    assert!(begin(&config).refused.is_none(), "what is dropped is in progress no more");
    second.end(false);
    assert_eq!(stat(&env, "min_rtt_calculation_active"), 1, "what was not answered tells nothing");
    for _ in 0..3 {
        begin(&config).end(true);
    }
    assert_eq!(stat(&env, "min_rtt_calculation_active"), 0);
}

#[test]
fn health_checks_and_switched_off_filters_are_passed_by() {
    let env = env();
    let enabled = Some(xds_api::envoy::config::core::v3::RuntimeFeatureFlag {
        default_value: Some(false),
        runtime_key: String::new(),
    });
    let off = build(&env, proto::AdaptiveConcurrency { enabled, ..proto(config()) }).unwrap();
    let all: Vec<_> = (0..5).map(|_| begin(&off)).collect();
    assert!(all.iter().all(|request| request.refused.is_none()));
    let on = build(&env, proto(config())).unwrap();
    let _busy = (begin(&on), begin(&on));
    let (mut filter, mut stream) = (AdaptiveConcurrency::create(&on), Stream::new(&[]));
    stream.info.health_check = true;
    assert!(reply(filter.on_request_headers(&mut stream.cx(), true)).is_none());
}

#[test]
fn the_status_of_refusals_can_be_said() {
    let env = env();
    for (code, expected) in [(0, 503), (200, 503), (429, 429), (599, 599), (9999, 503)] {
        let status = Some(HttpStatus { code });
        let proto =
            proto::AdaptiveConcurrency { concurrency_limit_exceeded_status: status, ..proto(config()) };
        assert_eq!(build(&env, proto).unwrap().status, expected);
    }
}

#[test]
fn the_runtime_has_other_parameters() {
    let env = env();
    let said = |key: &str, value: &str| {
        let key = format!("adaptive_concurrency.gradient_controller.{key}");
        let layer = RuntimeLayer { values: [(key, value.to_owned())].into(), ..RuntimeLayer::default() };
        env.runtime.set_layers(vec![layer]);
        let mut cx = BuildCx::new(&env);
        let Some(ConcurrencyControllerConfig::GradientControllerConfig(config)) =
            proto(config()).concurrency_controller_config
        else {
            panic!("another controller")
        };
        Settings::build(config, &mut cx).unwrap().now()
    };
    assert_eq!(said("min_concurrency", "7").while_measuring, 7);
    assert_eq!(said("min_concurrency_limit", "8").least, 8);
    assert_eq!(said("max_concurrency_limit", "9").most, 9);
    assert_eq!(said("min_rtt_aggregate_request_count", "10").sample_count, 10);
    assert_eq!(said("min_rtt_calc_interval_ms", "11").minimum_interval.as_millis(), 11);
    assert_eq!(said("sample_rtt_calc_interval_ms", "0").update_interval.as_millis(), 1);
    assert_eq!(said("jitter", "130").jitter, 1.0);
    assert_eq!(said("min_rtt_buffer", "50").buffer, 0.5);
    assert_eq!(said("sample_aggregate_percentile", "nan").quantile, 0.5);
    let params = said("other", "1");
    assert_eq!((params.least, params.while_measuring, params.most, params.sample_count), (2, 2, 1_000, 3));
}

#[test]
fn what_cannot_be_is_refused() {
    let env = env();
    let with = |change: fn(&mut ConcurrencyLimitCalculationParams, &mut MinimumRttCalculationParams)| {
        let (mut limit, mut minimum) = config();
        change(&mut limit, &mut minimum);
        proto((limit, minimum))
    };
    let refused = [
        (proto::AdaptiveConcurrency::default(), "concurrency_controller_config"),
        (with(|_, minimum| minimum.interval = None), "gradient_controller_config.min_rtt_calc_params"),
        (
            with(|_, minimum| minimum.interval = seconds(0)),
            "gradient_controller_config.min_rtt_calc_params.interval",
        ),
        (
            with(|_, minimum| minimum.fixed_value = seconds(0)),
            "gradient_controller_config.min_rtt_calc_params.fixed_value",
        ),
        (
            with(|_, minimum| minimum.request_count = Some(0)),
            "gradient_controller_config.min_rtt_calc_params.request_count",
        ),
        (
            with(|_, minimum| minimum.min_concurrency = Some(0)),
            "gradient_controller_config.min_rtt_calc_params.min_concurrency",
        ),
        (
            with(|limit, _| limit.max_concurrency_limit = Some(0)),
            "gradient_controller_config.concurrency_limit_params.max_concurrency_limit",
        ),
        (
            with(|limit, _| limit.min_concurrency_limit = Some(0)),
            "gradient_controller_config.concurrency_limit_params.min_concurrency_limit",
        ),
        (
            with(|limit, _| limit.concurrency_update_interval = seconds(0)),
            "gradient_controller_config.concurrency_limit_params.concurrency_update_interval",
        ),
    ];
    for (proto, path) in refused {
        let error = build(&env, proto).err().expect(path);
        assert!(error.starts_with(&format!("{path}:")), "{error}");
    }
    let longest = with(|limit, minimum| {
        limit.concurrency_update_interval = seconds(i64::MAX);
        minimum.interval = seconds(i64::MAX);
    });
    assert!(begin(&build(&env, longest).unwrap()).refused.is_none());
}
