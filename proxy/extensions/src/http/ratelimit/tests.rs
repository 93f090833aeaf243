use std::collections::VecDeque;

use prost::Message;
use proxy_core::callout::{CallFailure, Called};
use proxy_core::extension::http_filter::{HeadersStep, Route, RouteRateLimits, Verdict};
use proxy_core::metadata::Metadata;
use proxy_core::rate_limit::RateLimits;
use xds_api::envoy::config::core::v3::HeaderValue;
use xds_api::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use xds_api::envoy::config::route::v3::RateLimit as Limit;
use xds_api::envoy::config::route::v3::rate_limit::Action;
use xds_api::envoy::config::route::v3::rate_limit::action::{ActionSpecifier, GenericKey};
use xds_api::envoy::service::ratelimit::v3::rate_limit_response::Code;
use xds_api::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

use super::*;
use crate::testing::{Stream, block_on, env, grpc_answer, grpc_service};

/// The route of the tests, which says nothing about rates.
struct Bare(Metadata, RateLimits);

impl Route for Bare {
    fn name(&self) -> &'static str {
        "bare"
    }
    fn cluster(&self) -> Option<&str> {
        Some("app")
    }
    fn metadata(&self) -> &Metadata {
        &self.0
    }
    fn rate_limits(&self) -> Option<RouteRateLimits<'_>> {
        Some(RouteRateLimits { own: &self.1, host: &self.1, includes_host: false })
    }
    fn ignores_path_parameters(&self) -> bool {
        false
    }
}

fn limit(value: &str, apply_on_stream_done: bool) -> Limit {
    let key = GenericKey { descriptor_value: value.into(), ..Default::default() };
    let actions = vec![Action { action_specifier: Some(ActionSpecifier::GenericKey(key)) }];
    Limit { actions, apply_on_stream_done, ..Default::default() }
}

fn config(change: impl FnOnce(&mut proto::RateLimit)) -> Arc<Config> {
    let grpc_service = Some(grpc_service("limits"));
    let mut proto = proto::RateLimit {
        domain: "d".into(),
        rate_limit_service: Some(RateLimitServiceConfig { grpc_service, transport_api_version: 2 }),
        rate_limits: vec![limit("one", false)],
        ..Default::default()
    };
    change(&mut proto);
    let env = env();
    Arc::new(RateLimit::build(proto, &mut BuildCx::new(&env)).unwrap())
}

fn says(code: Code) -> RateLimitResponse {
    RateLimitResponse { overall_code: code.into(), ..Default::default() }
}

fn headers(all: &[(&str, &str)]) -> Vec<HeaderValue> {
    let one = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).into(),
        value: (*value).into(),
        ..Default::default()
    };
    all.iter().map(one).collect()
}

/// A request to the end, and its reply's status if the filter makes one.
fn outcome(config: &Arc<Config>, answers: Vec<Called>) -> (Option<u16>, Stream) {
    let mut stream = Stream::new(&[]);
    stream.info.upstream.cluster = Some("app".into());
    *stream.engine.answers.borrow_mut() = VecDeque::from(answers);
    let route = Bare(Metadata::default(), RateLimits::default());
    let mut filter = RateLimit::create(config);
    let verdict = {
        let mut cx = stream.cx();
        cx.route = Some(&route);
        let verdict = match filter.on_request_headers(&mut cx, true) {
            HeadersStep::Wait(future) => block_on(future),
            HeadersStep::Continue => Verdict::Continue,
            HeadersStep::Hold | HeadersStep::Reply(_) => panic!("unexpected step"),
        };
        assert!(matches!(filter.on_response_headers(&mut cx, true), HeadersStep::Continue));
        verdict
    };
    let Stream { request, response, info, engine, .. } = &mut stream;
    filter.on_complete(request, response.as_ref(), info, engine);
    let status = match verdict {
        Verdict::Continue => None,
        Verdict::Reply(reply) => Some(reply.status.as_u16()),
    };
    (status, stream)
}

fn asked(stream: &Stream) -> Vec<String> {
    let calls = stream.engine.calls.borrow();
    let values = calls.iter().map(|call| {
        let request = RateLimitRequest::decode(call.body.get(5..).unwrap()).unwrap();
        let entries = request.descriptors.iter().flat_map(|one| &one.entries);
        entries.map(|entry| entry.value.clone()).collect::<Vec<_>>().join(",")
    });
    values.collect()
}

#[test]
fn the_service_decides() {
    let plain = config(|_| {});
    assert_eq!(outcome(&plain, vec![grpc_answer(&says(Code::Ok))]).0, None);
    assert_eq!(outcome(&plain, vec![grpc_answer(&says(Code::OverLimit))]).0, Some(429));
    assert_eq!(outcome(&plain, vec![Err(CallFailure::Timeout)]).0, None);
    let strict = config(|proto| proto.failure_mode_deny = true);
    assert_eq!(outcome(&strict, vec![Err(CallFailure::Timeout)]).0, Some(500));
}

#[test]
fn what_is_over_is_told_when_it_is_and_only_then() {
    let both = config(|proto| proto.rate_limits.push(limit("done", true)));
    let (_, stream) = outcome(&both, vec![grpc_answer(&says(Code::Ok))]);
    assert_eq!(asked(&stream), ["one", "done"]);
    let end = config(|proto| proto.rate_limits = vec![limit("done", true)]);
    let (_, stream) = outcome(&end, vec![]);
    assert_eq!(asked(&stream), ["done"]);
    let off = config(|proto| {
        proto.rate_limits.push(limit("done", true));
        proto.filter_enabled = Some(xds_api::envoy::config::core::v3::RuntimeFractionalPercent::default());
    });
    let (_, stream) = outcome(&off, vec![]);
    assert!(asked(&stream).is_empty());
}

#[test]
fn a_question_that_is_taken_back_is_not_told_at_the_end() {
    let both = config(|proto| proto.rate_limits.push(limit("done", true)));
    let mut stream = Stream::new(&[]);
    stream.info.upstream.cluster = Some("app".into());
    let route = Bare(Metadata::default(), RateLimits::default());
    let mut filter = RateLimit::create(&both);
    {
        stream.engine.silent.set(true);
        let mut cx = stream.cx();
        cx.route = Some(&route);
        let HeadersStep::Wait(mut future) = filter.on_request_headers(&mut cx, true) else {
            panic!("not asked")
        };
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(future.as_mut().poll(&mut task).is_pending());
    }
    let Stream { request, response, info, engine, .. } = &mut stream;
    filter.on_complete(request, response.as_ref(), info, engine);
    assert_eq!(asked(&stream), ["one"]);
}

#[test]
fn a_service_changes_no_framing_and_fills_no_head() {
    let mut response = says(Code::Ok);
    response.request_headers_to_add = headers(&[
        ("content-length", "9"),
        ("host", "other"),
        ("transfer-encoding", "chunked"),
        ("bad name", "x"),
        ("x-ok", "1"),
    ]);
    response
        .request_headers_to_add
        .extend((0..30_000).map(|index| HeaderValue { key: format!("x-{index}"), ..Default::default() }));
    response.response_headers_to_add = response.request_headers_to_add.clone();
    let (_, stream) = outcome(&config(|_| {}), vec![grpc_answer(&response)]);
    for headers in [&stream.request.headers, &stream.response.as_ref().unwrap().headers] {
        assert_eq!(headers.get("x-ok").map(|value| value.as_bytes()), Some(&b"1"[..]));
        assert!(
            ["content-length", "host", "transfer-encoding"].iter().all(|name| !headers.contains_key(*name))
        );
        assert!(headers.len() <= 20_000);
    }
}
