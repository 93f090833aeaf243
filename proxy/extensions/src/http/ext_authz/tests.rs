use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;
use prost::Message;
use proxy_core::callout::{CallFailure, Called};
use proxy_core::extension::http_filter::{DataStep, HeadersStep, Route, RouteRateLimits, Verdict};
use proxy_core::metadata::Metadata;
use xds_api::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use xds_api::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use xds_api::envoy::service::auth::v3::check_response::HttpResponse;
use xds_api::envoy::service::auth::v3::{CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse};
use xds_api::google::rpc;

use super::*;
use crate::testing::{Stream, block_on, env, grpc_answer, grpc_service};

/// The route of the tests.
struct Everything(Metadata);

impl Route for Everything {
    fn name(&self) -> &'static str {
        "all"
    }
    fn cluster(&self) -> Option<&str> {
        Some("app")
    }
    fn metadata(&self) -> &Metadata {
        &self.0
    }
    fn rate_limits(&self) -> Option<RouteRateLimits<'_>> {
        None
    }
    fn ignores_path_parameters(&self) -> bool {
        false
    }
}

fn config(change: impl FnOnce(&mut proto::ExtAuthz)) -> Arc<Config> {
    let services = Some(Services::GrpcService(grpc_service("authz")));
    let mut proto = proto::ExtAuthz { transport_api_version: 2, services, ..Default::default() };
    change(&mut proto);
    let env = env();
    Arc::new(ExtAuthz::build(proto, &mut BuildCx::new(&env)).unwrap())
}

fn answer(code: i32) -> Called {
    answer_with(code, None)
}

fn answer_with(code: i32, http_response: Option<HttpResponse>) -> Called {
    let status = Some(rpc::Status { code, ..Default::default() });
    grpc_answer(&CheckResponse { status, http_response, ..Default::default() })
}

/// What the filter does with a request whose service answers this: `None` if it passes, else status and details.
fn outcome(config: &Arc<Config>, answers: Vec<Called>) -> (Option<(u16, String)>, Stream) {
    let mut stream = Stream::new(&[("x-a", "1"), ("x-a", "2")]);
    *stream.engine.answers.borrow_mut() = VecDeque::from(answers);
    let route = Everything(Metadata::default());
    let mut filter = ExtAuthz::create(config);
    let verdict = {
        let mut cx = stream.cx();
        cx.route = Some(&route);
        match filter.on_request_headers(&mut cx, true) {
            HeadersStep::Wait(future) => block_on(future),
            HeadersStep::Reply(reply) => Verdict::Reply(reply),
            HeadersStep::Continue => Verdict::Continue,
            HeadersStep::Hold => panic!("held"),
        }
    };
    let outcome = match verdict {
        Verdict::Continue => None,
        Verdict::Reply(reply) => Some((reply.status.as_u16(), reply.details.into_owned())),
    };
    (outcome, stream)
}

#[test]
fn the_version_of_the_api_need_not_be_named() {
    let auto = config(|proto| proto.transport_api_version = 0);
    assert_eq!(outcome(&auto, vec![answer(0)]).0, None);
}

#[test]
fn the_service_decides() {
    let plain = config(|_| {});
    assert_eq!(outcome(&plain, vec![answer(0)]).0, None);
    assert_eq!(outcome(&plain, vec![answer(7)]).0, Some((403, "ext_authz_denied".into())));
    for failure in [CallFailure::NoCluster, CallFailure::Timeout, CallFailure::TooLarge] {
        assert_eq!(outcome(&plain, vec![Err(failure)]).0, Some((403, "ext_authz_error".into())));
    }
    let open = config(|proto| proto.failure_mode_allow = true);
    assert_eq!(outcome(&open, vec![Err(CallFailure::Timeout)]).0, None);
    assert_eq!(outcome(&open, vec![answer(7)]).0, Some((403, "ext_authz_denied".into())));
}

#[test]
fn the_service_is_told_of_the_request() {
    let (_, stream) = outcome(&config(|_| {}), vec![answer(0)]);
    let calls = stream.engine.calls.borrow();
    let call = calls.first().unwrap();
    assert_eq!(call.cluster.as_str(), "authz");
    assert_eq!(call.request.path, "/envoy.service.auth.v3.Authorization/Check");
    let asked = CheckRequest::decode(call.body.get(5..).unwrap()).unwrap();
    let http = asked.attributes.unwrap().request.unwrap().http.unwrap();
    assert_eq!((http.method.as_str(), http.path.as_str(), http.host.as_str()), ("GET", "/", "host"));
    assert_eq!(http.headers.get("x-a").map(String::as_str), Some("1,2"));
}

#[test]
fn a_body_is_told_up_to_its_limit_and_asked_about_once() {
    let partial =
        proto::BufferSettings { max_request_bytes: 4, allow_partial_message: true, pack_as_bytes: true };
    let config = config(|proto| proto.with_request_body = Some(partial));
    let mut stream = Stream::new(&[]);
    stream.engine.answers.borrow_mut().push_back(answer(0));
    let route = Everything(Metadata::default());
    let mut filter = ExtAuthz::create(&config);
    {
        let mut cx = stream.cx();
        cx.route = Some(&route);
        assert!(matches!(filter.on_request_headers(&mut cx, false), HeadersStep::Hold));
        let mut piece = Bytes::from_static(b"abc");
        assert!(matches!(filter.on_request_data(&mut cx, &mut piece, false), DataStep::Hold));
        let mut piece = Bytes::from_static(b"def");
        match filter.on_request_data(&mut cx, &mut piece, false) {
            DataStep::Wait(future) => assert!(matches!(block_on(future), Verdict::Continue)),
            _ => panic!("not asked"),
        }
        let mut piece = Bytes::from_static(b"ghi");
        assert!(matches!(filter.on_request_data(&mut cx, &mut piece, true), DataStep::Continue));
        let mut trailers = HeaderMap::new();
        assert!(matches!(filter.on_request_trailers(&mut cx, &mut trailers), HeadersStep::Continue));
    }
    let calls = stream.engine.calls.borrow();
    assert_eq!(calls.len(), 1);
    let asked = CheckRequest::decode(calls[0].body.get(5..).unwrap()).unwrap();
    let http = asked.attributes.unwrap().request.unwrap().http.unwrap();
    assert_eq!(http.raw_body, b"abcd");
    assert_eq!(http.headers.get("x-envoy-auth-partial-body").map(String::as_str), Some("true"));
}

#[test]
fn requests_that_match_no_route_are_not_asked_about() {
    let mut stream = Stream::new(&[]);
    let mut filter = ExtAuthz::create(&config(|_| {}));
    assert!(matches!(filter.on_request_headers(&mut stream.cx(), true), HeadersStep::Continue));
    assert!(stream.engine.calls.borrow().is_empty());
}

#[test]
fn answers_with_more_headers_than_there_is_room_for_do_no_harm() {
    let option = |number: usize| {
        let header = HeaderValue { key: format!("x-{number}"), value: "1".into(), ..Default::default() };
        HeaderValueOption { header: Some(header), ..Default::default() }
    };
    let many = || (0..40_000).map(option).collect::<Vec<_>>();
    let plain = config(|_| {});
    let ok = OkHttpResponse { headers: many(), ..Default::default() };
    let (reply, _) = outcome(&plain, vec![answer_with(0, Some(HttpResponse::OkResponse(ok)))]);
    assert_eq!(reply, Some((500, "ext_authz_invalid".into())));
    assert_eq!(plain.stats.here().request_header_limits_reached.value(), 1);
    let denied = DeniedHttpResponse { headers: many(), ..Default::default() };
    let (reply, _) = outcome(&plain, vec![answer_with(7, Some(HttpResponse::DeniedResponse(denied)))]);
    assert_eq!(reply, Some((403, "ext_authz_denied".into())));
    assert_eq!(plain.stats.here().omitted_response_headers.value(), 1);
}
