//! What each condition, pause and predicate means.

use std::sync::Arc;

use http::{HeaderValue, StatusCode};
use prost_types::Any;
use prost_types::value::Kind;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::route::v3::retry_policy as messages;

use super::*;
use crate::address::Address;
use crate::config::{BuildCx, BuildEnv};
use crate::metadata::Metadata;
use crate::upstream::Host;

fn build(proto: &proto::RetryPolicy) -> Result<RetryPolicy, Vec<String>> {
    let env = BuildEnv::new(1);
    let mut cx = BuildCx::new(&env);
    let built = RetryPolicy::build(proto, &mut cx);
    built.map_err(|_| cx.into_errors().into_iter().map(|error| error.path).collect())
}

fn policy(retry_on: &str) -> RetryPolicy {
    build(&proto::RetryPolicy { retry_on: retry_on.to_owned(), ..Default::default() }).expect("a policy")
}

fn response(status: u16, headers: &[(&'static str, &'static str)]) -> ResponseHead {
    let mut head = ResponseHead::new(StatusCode::from_u16(status).expect("a status"));
    for (name, value) in headers {
        head.headers.insert(*name, HeaderValue::from_static(value));
    }
    head
}

fn judge(policy: &RetryPolicy, response: &ResponseHead) -> Decision {
    let rule = ResponseRule {
        on: policy.on,
        status_codes: &[],
        header_names: &[],
        policy: Some(policy),
        is_early: false,
    };
    rule.judge(response)
}

#[test]
fn each_condition_takes_its_responses() {
    let takes = |retry_on: &str, status, headers: &[(&'static str, &'static str)]| {
        judge(&policy(retry_on), &response(status, headers)) == Decision::AfterPause
    };
    for (retry_on, yes, no) in [
        ("5xx", vec![500, 503, 599], vec![200, 404, 499]),
        ("gateway-error", vec![502, 503, 504], vec![500, 501, 505]),
        ("retriable-4xx", vec![409], vec![400, 404, 429]),
        ("reset,connect-failure,refused-stream,nonsense", vec![], vec![200, 503]),
        ("", vec![], vec![503]),
    ] {
        for status in yes {
            assert!(takes(retry_on, status, &[]), "{retry_on} {status}");
        }
        for status in no {
            assert!(!takes(retry_on, status, &[]), "{retry_on} {status}");
        }
    }
    for (name, _, status) in GRPC_CONDITIONS {
        for code in 0..17 {
            let mut head = response(200, &[]);
            head.headers.insert("grpc-status", HeaderValue::from(code));
            assert_eq!(judge(&policy(name), &head) == Decision::AfterPause, code == status, "{name} {code}");
        }
    }
    let limited = [("x-envoy-ratelimited", "true")];
    assert!(!takes("5xx", 503, &limited));
    assert!(takes("5xx,envoy-ratelimited", 200, &limited));
}

#[test]
fn status_codes_and_headers_come_from_the_policy_and_from_the_request() {
    let policy = build(&proto::RetryPolicy {
        retry_on: "retriable-status-codes, retriable-headers".to_owned(),
        retriable_status_codes: vec![404, 425],
        retriable_headers: vec![proto::HeaderMatcher { name: "x-again".to_owned(), ..Default::default() }],
        ..Default::default()
    })
    .expect("a policy");
    let name = http::HeaderName::from_static("x-mine");
    let rule = |is_early| ResponseRule {
        on: policy.on,
        status_codes: &[418],
        header_names: std::slice::from_ref(&name),
        policy: Some(&policy),
        is_early,
    };
    assert_eq!(rule(false).judge(&response(404, &[])), Decision::AfterPause);
    assert_eq!(rule(false).judge(&response(418, &[])), Decision::AfterPause);
    assert_eq!(rule(false).judge(&response(500, &[])), Decision::Keep);
    assert_eq!(rule(false).judge(&response(425, &[])), Decision::AtOnce);
    assert_eq!(rule(true).judge(&response(425, &[])), Decision::Keep);
    assert_eq!(rule(false).judge(&response(200, &[("x-again", "1")])), Decision::AfterPause);
    assert_eq!(rule(false).judge(&response(200, &[("x-mine", "")])), Decision::AfterPause);
}

#[test]
fn each_condition_takes_its_resets() {
    use UpstreamReset::{
        ConnectFailure, ConnectTimeout, ConnectionTermination, LocalConnectFailure, LocalReset, Overflow,
        ProtocolError, RemoteRefused, RemoteReset,
    };
    let all = [
        ConnectFailure,
        ConnectTimeout,
        ConnectionTermination,
        LocalConnectFailure,
        LocalReset,
        ProtocolError,
        RemoteRefused,
        RemoteReset,
    ];
    let taken = |retry_on: &str, started| -> Vec<UpstreamReset> {
        let on = policy(retry_on).on;
        all.into_iter().filter(|reset| on.judge_reset(*reset, started) == Decision::AfterPause).collect()
    };
    for retry_on in ["5xx", "gateway-error", "reset"] {
        assert_eq!(taken(retry_on, true), all);
    }
    assert_eq!(taken("connect-failure", true), [ConnectFailure, ConnectTimeout, LocalConnectFailure]);
    assert_eq!(taken("refused-stream", true), [RemoteRefused]);
    assert_eq!(taken("reset-before-request", false), all);
    assert!(taken("reset-before-request", true).is_empty());
    assert!(taken("retriable-4xx,http3-post-connect-failure", false).is_empty());
    assert_eq!(policy("5xx,reset-before-request").on.judge_reset(Overflow, false), Decision::Keep);
}

#[test]
fn pauses_double_up_to_their_limit() {
    let mut back_off = BackOff::new(Duration::from_millis(25));
    // The greatest random number below any power of two: the longest pause.
    let pauses: Vec<_> = (0..6).map(|_| back_off.pause(u64::MAX).as_millis()).collect();
    assert!(pauses.iter().zip([25, 50, 100, 200, 250, 250]).all(|(pause, longest)| *pause < longest));
    let mut back_off = BackOff::new(Duration::from_millis(25));
    let longest: Vec<_> = [24, 49, 99, 199, 249, 249]
        .map(|random| (back_off.pause(random).as_millis(), random))
        .into_iter()
        .collect();
    assert!(longest.iter().all(|(pause, random)| pause == &u128::from(*random)), "{longest:?}");
    assert_eq!(BackOff::new(Duration::ZERO).pause(u64::MAX), Duration::ZERO);
}

#[test]
fn hosts_may_say_how_long_to_wait() {
    let header = |name: &str, format: i32| messages::ResetHeader { name: name.to_owned(), format };
    let policy = build(&proto::RetryPolicy {
        rate_limited_retry_back_off: Some(messages::RateLimitedRetryBackOff {
            reset_headers: vec![header("Retry-After", 0), header("x-reset", 1)],
            max_interval: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        }),
        ..Default::default()
    })
    .expect("a policy");
    let back_off = policy.rate_limited.expect("a pause");
    let now = Duration::from_secs(1_000_000);
    let pause = |headers: &[(&'static str, &'static str)], random| {
        back_off.pause(&response(429, headers), now, random).map(|pause| pause.as_millis())
    };
    assert_eq!(pause(&[("retry-after", "2")], 0), Some(2000));
    assert_eq!(pause(&[("retry-after", "2")], 999), Some(2999));
    assert_eq!(pause(&[("retry-after", "2")], 1000), Some(2000));
    assert_eq!(pause(&[("retry-after", "61"), ("x-reset", "1000003")], 0), Some(3000));
    assert_eq!(pause(&[("x-reset", "999999")], 0), None);
    assert_eq!(pause(&[("retry-after", "soon")], 0), None);
    assert_eq!(pause(&[("retry-after", "0")], 0), None);
    assert_eq!(pause(&[], 0), None);
}

#[test]
fn predicates_avoid_their_hosts() {
    let host =
        |port: u16| Arc::new(Host::new(Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], port)))));
    let (first, second) = (host(1), host(2));
    assert!(HostPredicate::Previous.avoids(&first, &[second.clone(), first.clone()]));
    assert!(!HostPredicate::Previous.avoids(&first, &[second]));
    assert!(!HostPredicate::Canary.avoids(&first, &[]));
    assert!(!HostPredicate::Metadata(prost_types::Struct::default()).avoids(&first, &[]));

    let value = |kind| prost_types::Value { kind: Some(kind) };
    let values = |canary: bool| prost_types::Struct {
        fields: [
            ("canary".to_owned(), value(Kind::BoolValue(canary))),
            ("version".to_owned(), value(Kind::StringValue("v1".to_owned()))),
        ]
        .into(),
    };
    let labelled = |canary| {
        let filter_metadata = [("envoy.lb".to_owned(), values(canary))].into();
        let proto = core::Metadata { filter_metadata, ..core::Metadata::default() };
        let host = host(3);
        host.set_metadata(&Metadata::new(Some(&proto)));
        host
    };
    assert!(HostPredicate::Canary.avoids(&labelled(true), &[]));
    assert!(!HostPredicate::Canary.avoids(&labelled(false), &[]));
    let wanted = HostPredicate::Metadata(values(true));
    assert!(wanted.avoids(&labelled(true), &[]));
    assert!(!wanted.avoids(&labelled(false), &[]));
    assert!(!wanted.avoids(&first, &[]));
}

#[test]
fn what_makes_no_sense_is_refused_where_it_stands() {
    let duration = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let predicate = |any: Option<Any>| messages::RetryHostPredicate {
        name: "x".to_owned(),
        config_type: any.map(messages::retry_host_predicate::ConfigType::TypedConfig),
    };
    let refused = build(&proto::RetryPolicy {
        per_try_timeout: duration(-1),
        per_try_idle_timeout: duration(-1),
        retry_back_off: Some(messages::RetryBackOff {
            base_interval: duration(2),
            max_interval: duration(1),
        }),
        retry_host_predicate: vec![
            predicate(None),
            predicate(Some(Any { type_url: "type.googleapis.com/a.b.C".to_owned(), value: vec![] })),
        ],
        ..Default::default()
    });
    let mut paths = refused.expect_err("refused");
    paths.sort();
    assert_eq!(
        paths,
        [
            "per_try_idle_timeout",
            "per_try_timeout",
            "retry_back_off.max_interval",
            "retry_host_predicate[0]",
            "retry_host_predicate[1]",
        ]
    );
}
