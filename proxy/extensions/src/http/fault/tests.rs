use std::any::Any;
use std::time::Duration;

use http::StatusCode;
use proxy_core::runtime::RuntimeLayer;
use tokio::time::Instant;
use xds_api::envoy::extensions::filters::common::fault::v3 as common;
use xds_api::envoy::r#type::v3::FractionalPercent;

use super::*;
use crate::testing::{Stream, block_on_paused, env};

fn percent(numerator: u32) -> Option<FractionalPercent> {
    Some(FractionalPercent { numerator, denominator: 0 })
}

fn abort(error_type: proto::fault_abort::ErrorType) -> proto::HttpFault {
    let abort =
        proto::FaultAbort { percentage: percent(100), error_type: Some(error_type), ..Default::default() };
    proto::HttpFault { abort: Some(abort), ..Default::default() }
}

fn delay(millis: i32) -> proto::HttpFault {
    let fixed = prost_types::Duration { seconds: 0, nanos: millis * 1_000_000 };
    let specifier = common::fault_delay::FaultDelaySecifier::FixedDelay(fixed);
    let delay = common::FaultDelay { percentage: percent(100), fault_delay_secifier: Some(specifier) };
    proto::HttpFault { delay: Some(delay), ..Default::default() }
}

struct Rig {
    env: proxy_core::config::BuildEnv,
    config: Arc<Config>,
}

impl Rig {
    fn new(proto: proto::HttpFault) -> Self {
        let env = env();
        let mut cx = BuildCx::new(&env);
        cx.stat_prefix = "http.a.".into();
        let config = Arc::new(Fault::build(proto, &mut cx).unwrap());
        Self { env, config }
    }

    fn stream(&self, headers: &[(&'static str, &'static str)]) -> (Box<dyn HttpFilter>, Stream) {
        (Fault::create(&self.config), Stream::new(headers))
    }

    /// Aborts, delays, and faults that were too many.
    fn counted(&self) -> [u64; 3] {
        let stats = self.config.stats.here();
        [&stats.aborts_injected, &stats.delays_injected, &stats.faults_overflow]
            .map(|counter| counter.value())
    }

    /// What becomes of a request: the reply, if there is one, and how long it took.
    fn request(&self, headers: &[(&'static str, &'static str)]) -> (Option<(u16, Option<u32>)>, Duration) {
        let (mut filter, mut stream) = self.stream(headers);
        block_on_paused(async {
            let start = Instant::now();
            let reply = match filter.on_request_headers(&mut stream.cx(), true) {
                HeadersStep::Reply(reply) => Some(reply),
                HeadersStep::Wait(future) => match future.await {
                    Verdict::Reply(reply) => Some(reply),
                    _ => None,
                },
                _ => None,
            };
            (reply.map(|reply| (reply.status.as_u16(), reply.grpc_status)), start.elapsed())
        })
    }
}

const HEADER: &str = "x-envoy-fault-abort-request";

#[test]
fn aborts_by_configuration_header_and_runtime() {
    use proto::fault_abort::{ErrorType, HeaderAbort};
    let by_header = Rig::new(abort(ErrorType::HeaderAbort(HeaderAbort {})));
    assert_eq!(by_header.request(&[]).0, None);
    assert_eq!(by_header.request(&[(HEADER, "418")]).0, Some((418, None)));
    assert_eq!(by_header.request(&[(HEADER, "199")]).0, None);
    assert_eq!(by_header.request(&[("x-envoy-fault-abort-grpc-request", "5")]).0, Some((200, Some(5))));
    let none = [(HEADER, "418"), ("x-envoy-fault-abort-request-percentage", "0")];
    assert_eq!(by_header.request(&none).0, None);
    let fixed = Rig::new(abort(ErrorType::HttpStatus(503)));
    assert_eq!(fixed.request(&[("x-envoy-downstream-service-cluster", "caller")]).0, Some((503, None)));
    assert_eq!(fixed.counted(), [1, 0, 0]);
    assert_eq!(fixed.config.callers.get("caller").unwrap().here().aborts_injected.value(), 1);
    let (mut filter, mut stream) = fixed.stream(&[]);
    let values = [("fault.http.abort.http_status".to_owned(), "429".to_owned())].into();
    stream.engine.runtime.set_layers(vec![RuntimeLayer { values, ..RuntimeLayer::default() }]);
    let HeadersStep::Reply(reply) = filter.on_request_headers(&mut stream.cx(), true) else {
        panic!("goes on")
    };
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
}

#[test]
fn delays_before_it_aborts_and_counts_a_stream_once() {
    use proto::fault_abort::ErrorType;
    let both = proto::HttpFault { delay: delay(250).delay, ..abort(ErrorType::GrpcStatus(14)) };
    let rig = Rig::new(both);
    let (reply, took) = rig.request(&[]);
    assert_eq!(reply, Some((200, Some(14))));
    assert!((Duration::from_millis(250)..Duration::from_millis(260)).contains(&took), "{took:?}");
    assert_eq!(rig.counted(), [1, 1, 0]);
    assert_eq!(rig.config.active.active_faults.value(), 0, "the stream is over");
}

#[test]
fn no_more_than_the_limit_are_active_at_once() {
    let rig = Rig::new(proto::HttpFault { max_active_faults: Some(1), ..delay(10) });
    let (mut first, mut stream) = rig.stream(&[]);
    let mut of_first = stream.cx();
    let waits = first.on_request_headers(&mut of_first, true);
    assert!(matches!(waits, HeadersStep::Wait(_)));
    assert_eq!(rig.request(&[]).1, Duration::ZERO);
    assert_eq!(rig.counted(), [0, 1, 1]);
    drop(waits);
    drop(first);
    assert!(rig.request(&[]).1 >= Duration::from_millis(10));
}

#[test]
fn a_routes_settings_take_the_place_of_the_filters() {
    use proto::fault_abort::ErrorType;
    let rig = Rig::new(abort(ErrorType::HttpStatus(503)));
    let mut cx = BuildCx::new(&rig.env);
    let of_route = Fault::build_route(proto::HttpFault::default(), &mut cx).unwrap();
    let (mut filter, mut stream) = rig.stream(&[]);
    stream.configs = vec![Arc::new(of_route) as Arc<dyn Any + Send + Sync>];
    assert!(matches!(filter.on_request_headers(&mut stream.cx(), true), HeadersStep::Continue));
}

#[test]
fn what_is_for_some_requests_is_not_for_others() {
    use proto::fault_abort::ErrorType;
    let nodes = proto::HttpFault {
        downstream_nodes: vec!["one".into(), "two".into()],
        ..abort(ErrorType::HttpStatus(503))
    };
    let rig = Rig::new(nodes);
    assert_eq!(rig.request(&[]).0, None);
    assert_eq!(rig.request(&[("x-envoy-downstream-service-node", "two")]).0, Some((503, None)));
    let cluster = proto::HttpFault { upstream_cluster: "c".into(), ..abort(ErrorType::HttpStatus(503)) };
    let rig = Rig::new(cluster);
    assert_eq!(rig.request(&[]).0, None, "no route");
    let (mut filter, mut stream) = rig.stream(&[]);
    stream.info.upstream.cluster = Some("c".into());
    assert!(matches!(filter.on_request_headers(&mut stream.cx(), true), HeadersStep::Reply(_)), "chosen");
}

#[test]
fn configurations_that_say_nothing_are_refused() {
    let refused = [
        (
            proto::HttpFault { abort: Some(proto::FaultAbort::default()), ..Default::default() },
            "abort.error_type",
        ),
        (abort(proto::fault_abort::ErrorType::HttpStatus(600)), "abort.http_status"),
        (delay(0), "delay.fixed_delay"),
        (
            proto::HttpFault { delay: Some(common::FaultDelay::default()), ..Default::default() },
            "delay.fault_delay_secifier",
        ),
        (
            proto::HttpFault {
                response_rate_limit: Some(common::FaultRateLimit::default()),
                ..Default::default()
            },
            "response_rate_limit.limit_type",
        ),
    ];
    for (proto, path) in refused {
        let env = env();
        let mut cx = BuildCx::new(&env);
        assert!(Fault::build(proto, &mut cx).is_err(), "{path}");
        let errors = cx.into_errors();
        assert!(errors[0].to_string().contains(path), "{errors:?}");
    }
}
