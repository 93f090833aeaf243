//! `istio.stats` of requests: Istio's standard metrics, counted when a request is over.
//!
//! What is counted, and how it is labelled, is in `shared/istio/stats.rs`.

use std::sync::Arc;

use http::HeaderMap;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter::{
    Engine, HeadersStep, HttpFilter, HttpFilterExtension, NoRouteConfig, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use proxy_core::head::{RequestHead, ResponseHead};
use proxy_core::headers::GRPC_STATUS;
use proxy_core::stream_info::StreamInfo;
use xds_api::stats as proto;

use crate::http::grpc_stats;
use crate::shared::istio::stats::fields::MESSAGE;
use crate::shared::istio::stats::{Call, Metrics};

/// The extension.
pub struct IstioStats;

impl HttpFilterExtension for IstioStats {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "istio.stats",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    type Proto = proto::PluginConfig;
    type Config = Metrics;
    type RouteProto = NoRouteConfig;
    type RouteConfig = NoRouteConfig;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Metrics::build(proto, cx)
    }

    fn build_route(_: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        Err(cx.reject("this filter has no per-route configuration"))
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter { metrics: config.clone(), call: None })
    }
}

struct Filter {
    metrics: Arc<Metrics>,
    /// The call over gRPC that the request is, if it is one.
    call: Option<Call>,
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        if cx.request.is_grpc() {
            self.call = Some(Call::default());
            cx.phases.response_body = true;
        }
        HeadersStep::Continue
    }

    fn on_response_trailers<'a>(
        &'a mut self,
        _cx: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        if let Some(call) = &mut self.call {
            call.status = status(trailers);
        }
        HeadersStep::Continue
    }

    fn on_complete(
        &mut self,
        request: &RequestHead,
        response: Option<&ResponseHead>,
        info: &mut StreamInfo,
        _engine: &dyn Engine,
    ) {
        if let Some(call) = &mut self.call {
            call.status = call.status.or_else(|| response.and_then(|response| status(&response.headers)));
            call.messages = grpc_stats::messages(info);
        }
        self.metrics.count_request(request, response, info, self.call);
    }
}

fn status(headers: &HeaderMap) -> Option<u32> {
    headers.get(&GRPC_STATUS)?.to_str().ok()?.parse().ok()
}
