use proxy_core::config::BuildEnv;
use proxy_core::runtime::RuntimeLayer;
use proxy_core::stats::Value;
use xds_api::envoy::config::core::v3::{RuntimeDouble, RuntimeFeatureFlag, RuntimePercent, RuntimeUInt32};
use xds_api::envoy::r#type::v3::{Int32Range, Percent};

use super::proto::admission_control::SuccessCriteria;
use super::proto::admission_control::success_criteria::{GrpcCriteria, HttpCriteria};
use super::*;
use crate::testing::{Stream, env, header_map, reply};

/// A filter that refuses the more the surer, after any failure.
fn strict() -> proto::AdmissionControl {
    proto::AdmissionControl {
        aggression: Some(RuntimeDouble { default_value: 1e6, runtime_key: "aggression".into() }),
        max_rejection_probability: percent(100.0),
        evaluation_criteria: Some(EvaluationCriteria::SuccessCriteria(SuccessCriteria::default())),
        ..Default::default()
    }
}

fn percent(value: f64) -> Option<RuntimePercent> {
    Some(RuntimePercent { default_value: Some(Percent { value }), runtime_key: String::new() })
}

fn build(env: &BuildEnv, proto: proto::AdmissionControl) -> Result<Arc<Config>, String> {
    let mut cx = BuildCx::new(env);
    cx.stat_prefix = "http.p.".into();
    AdmissionControl::build(proto, &mut cx).map(Arc::new).map_err(|Rejected| cx.into_errors()[0].to_string())
}

/// Requests that went well, that went wrong, and that were refused.
fn counts(env: &BuildEnv) -> [u64; 3] {
    ["rq_success", "rq_failure", "rq_rejected"].map(|wanted| {
        let mut found = None;
        env.stats.visit(&mut |stat| {
            if stat.name == format!("http.p.admission_control.{wanted}")
                && let Value::Counter(value) = stat.value
            {
                found = Some(value);
            }
        });
        found.unwrap()
    })
}

type Headers = &'static [(&'static str, &'static str)];
const GRPC: Headers = &[("content-type", "application/grpc")];

/// One request that is answered with this head and these trailers; whether it was refused.
fn request(config: &Arc<Config>, status: u16, headers: Headers, trailers: Option<Headers>) -> bool {
    let mut filter = AdmissionControl::create(config);
    let mut stream = Stream::new(&[]);
    if let Some(reply) = reply(filter.on_request_headers(&mut stream.cx(), true)) {
        assert_eq!((reply.status.as_u16(), &*reply.details), (503, "denied_by_admission_control"));
        // (It passes the filters like any response.)
        stream.respond(StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new());
        filter.on_response_headers(&mut stream.cx(), true);
        return true;
    }
    stream.respond(StatusCode::from_u16(status).unwrap(), header_map(headers));
    filter.on_response_headers(&mut stream.cx(), trailers.is_none());
    if let Some(trailers) = trailers {
        let mut trailers = header_map(trailers);
        filter.on_response_trailers(&mut stream.cx(), &mut trailers);
    }
    false
}

#[test]
fn what_fails_has_the_next_refused_which_does_not_count() {
    let env = env();
    let config = build(&env, strict()).unwrap();
    assert!(!request(&config, 200, &[], None));
    assert!(!request(&config, 503, &[], None));
    for _ in 0..3 {
        assert!(request(&config, 200, &[], None));
    }
    assert_eq!(counts(&env), [1, 1, 3]);
}

#[test]
fn responses_and_calls_are_judged_by_their_status() {
    for (status, headers, trailers, expected) in [
        (200, &[][..], None, [1, 0, 0]),
        (499, &[], None, [1, 0, 0]),
        (500, &[], None, [0, 1, 0]),
        (200, &[("grpc-status", "0")], None, [1, 0, 0]),
        (200, &[("grpc-status", "14")], None, [0, 1, 0]),
        (200, GRPC, Some(&[("grpc-status", "5")][..]), [1, 0, 0]),
        (200, GRPC, Some(&[("grpc-status", "13")]), [0, 1, 0]),
        (200, GRPC, Some(&[]), [0, 1, 0]),
        (500, GRPC, Some(&[("grpc-status", "0")]), [0, 1, 0]),
        (200, &[("content-type", "application/grpc"), ("grpc-status", "8")], Some(&[]), [0, 1, 0]),
    ] {
        let env = env();
        let config = build(&env, strict()).unwrap();
        request(&config, status, headers, trailers);
        assert_eq!(counts(&env), expected, "{status} {headers:?} {trailers:?}");
    }
}

#[test]
fn what_a_success_is_can_be_said() {
    let range = |start, end| Int32Range { start, end };
    let criteria = SuccessCriteria {
        http_criteria: Some(HttpCriteria { http_success_status: vec![range(200, 300), range(404, 405)] }),
        grpc_criteria: Some(GrpcCriteria { grpc_success_status: vec![0, 14] }),
    };
    let env = env();
    let proto = proto::AdmissionControl {
        evaluation_criteria: Some(EvaluationCriteria::SuccessCriteria(criteria)),
        ..strict()
    };
    let config = build(&env, proto).unwrap();
    let criteria = &config.criteria;
    assert_eq!(
        [200, 299, 300, 404, 405].map(|status| criteria.http(status)),
        [true, true, false, true, false]
    );
    assert_eq!([0, 5, 14].map(|status| criteria.grpc(status)), [true, false, true]);
}

#[test]
fn health_checks_and_switched_off_filters_are_passed_by() {
    let env = env();
    env.runtime.set_layers(vec![RuntimeLayer {
        values: [("on".to_owned(), "false".to_owned())].into(),
        ..RuntimeLayer::default()
    }]);
    let enabled = Some(RuntimeFeatureFlag { default_value: Some(true), runtime_key: "on".into() });
    let off = build(&env, proto::AdmissionControl { enabled, ..strict() }).unwrap();
    assert!(!request(&off, 503, &[], None) && !request(&off, 503, &[], None));
    assert_eq!(counts(&env), [0, 0, 0]);
    let config = build(&env, strict()).unwrap();
    request(&config, 503, &[], None);
    let mut filter = AdmissionControl::create(&config);
    let mut stream = Stream::new(&[]);
    stream.info.health_check = true;
    assert!(reply(filter.on_request_headers(&mut stream.cx(), true)).is_none());
    stream.respond(StatusCode::SERVICE_UNAVAILABLE, HeaderMap::new());
    filter.on_response_headers(&mut stream.cx(), true);
    assert_eq!(counts(&env), [0, 1, 0]);
}

#[test]
fn nothing_is_refused_below_a_rate_or_where_none_may_be() {
    let env = env();
    let slow = RuntimeUInt32 { default_value: 1_000, runtime_key: String::new() };
    for proto in [
        proto::AdmissionControl { rps_threshold: Some(slow), ..strict() },
        proto::AdmissionControl { max_rejection_probability: percent(0.0), ..strict() },
    ] {
        let config = build(&env, proto).unwrap();
        assert!((0..5).all(|_| !request(&config, 503, &[], None)));
    }
}

#[test]
fn the_runtime_has_the_last_word_if_it_makes_sense() {
    let env = env();
    let config = build(&env, strict()).unwrap();
    let say = |value: &str| {
        let values = [("aggression".to_owned(), value.to_owned())].into();
        env.runtime.set_layers(vec![RuntimeLayer { values, ..RuntimeLayer::default() }]);
        config.aggression.get()
    };
    assert_eq!([say("2.5"), say("-1"), say("much"), say("inf")], [2.5, -1.0, 1e6, 1e6]);
}

#[test]
fn what_cannot_be_is_refused() {
    let env = env();
    let criteria = |http_criteria, grpc_criteria| {
        Some(EvaluationCriteria::SuccessCriteria(SuccessCriteria { http_criteria, grpc_criteria }))
    };
    let http = |start, end| HttpCriteria { http_success_status: vec![Int32Range { start, end }] };
    let with = |evaluation_criteria| proto::AdmissionControl { evaluation_criteria, ..strict() };
    let short = Some(prost_types::Duration { seconds: 0, nanos: 999_999_999 });
    let refused = [
        (with(None), "evaluation_criteria"),
        (
            with(criteria(Some(HttpCriteria::default()), None)),
            "success_criteria.http_criteria.http_success_status",
        ),
        (with(criteria(Some(http(99, 200)), None)), "success_criteria.http_criteria.http_success_status[0]"),
        (with(criteria(Some(http(300, 200)), None)), "success_criteria.http_criteria.http_success_status[0]"),
        (with(criteria(Some(http(600, 600)), None)), "success_criteria.http_criteria.http_success_status[0]"),
        (with(criteria(Some(http(100, 601)), None)), "success_criteria.http_criteria.http_success_status[0]"),
        (
            with(criteria(None, Some(GrpcCriteria { grpc_success_status: vec![0, 17] }))),
            "success_criteria.grpc_criteria.grpc_success_status[1]",
        ),
        (proto::AdmissionControl { sampling_window: short, ..strict() }, "sampling_window"),
        (proto::AdmissionControl { sr_threshold: percent(0.5), ..strict() }, "sr_threshold"),
    ];
    for (proto, path) in refused {
        let error = build(&env, proto).err().expect(path);
        assert!(error.starts_with(&format!("{path}:")), "{error}");
    }
    for (start, end) in [(100, 600), (100, 100), (599, 600)] {
        assert!(build(&env, with(criteria(Some(http(start, end)), None))).is_ok());
    }
}
