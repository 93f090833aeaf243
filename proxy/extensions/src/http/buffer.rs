//! `envoy.filters.http.buffer`: waits for the whole body of a request before anything of it goes on, for hosts that cannot wait for clients.
//!
//! What is larger than it may be is refused with 413. The request then says how long its body is. Upgrades, which have no end, pass.
//! Source: Envoy `docs/root/configuration/http/http_filters/buffer_filter.rst`; answers observed on 1.40.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use proxy_core::config::FieldUse::Used;
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::{
    DataStep, HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use xds_api::envoy::extensions::filters::http::buffer::v3 as proto;
use xds_api::envoy::extensions::filters::http::buffer::v3::buffer_per_route::Override;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    ("envoy.extensions.filters.http.buffer.v3.Buffer", &[("max_request_bytes", Used)]),
    ("envoy.extensions.filters.http.buffer.v3.BufferPerRoute", &[("disabled", Used), ("buffer", Used)]),
];

/// The extension.
pub struct Buffer;

impl HttpFilterExtension for Buffer {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.buffer",
        message: "envoy.extensions.filters.http.buffer.v3.Buffer",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> =
        Some("envoy.extensions.filters.http.buffer.v3.BufferPerRoute");
    const PHASES: Phases = Phases { request_body: true, response_headers: false, response_body: false };
    type Proto = proto::Buffer;
    type Config = usize;
    type RouteProto = proto::BufferPerRoute;
    type RouteConfig = RouteConfig;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        max_bytes(&proto, cx)
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        match proto.r#override {
            Some(Override::Disabled(true)) => Ok(RouteConfig(None)),
            Some(Override::Disabled(false)) => {
                Err(cx.at("disabled", |cx| cx.reject("value must equal true")))
            }
            Some(Override::Buffer(buffer)) => {
                cx.at("buffer", |cx| max_bytes(&buffer, cx)).map(|max| RouteConfig(Some(max)))
            }
            None => Err(cx.at("override", |cx| cx.reject("value is required"))),
        }
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter { max: **config, length: None })
    }
}

/// Most bytes of a body on a route; `None` where it is not waited for.
pub struct RouteConfig(Option<usize>);

fn max_bytes(proto: &proto::Buffer, cx: &mut BuildCx<'_>) -> Result<usize, Rejected> {
    cx.at("max_request_bytes", |cx| match proto.max_request_bytes {
        None => Err(cx.reject("value is required and must not be nil.")),
        Some(0) => Err(cx.reject("value must be greater than 0")),
        Some(max) => usize::try_from(max).map_err(|_| cx.reject("value is too large")),
    })
}

struct Filter {
    max: usize,
    /// How much of the body came, if it is waited for.
    length: Option<usize>,
}

impl Filter {
    /// The body is complete: the request says how long it is.
    fn finish(&self, length: usize, request: &mut HeaderMap) {
        if !request.contains_key(header::CONTENT_LENGTH) {
            request.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
}

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        let max = match cx.route_config::<RouteConfig>() {
            Some(RouteConfig(max)) => *max,
            None => Some(self.max),
        };
        let Some(max) = max.filter(|_| !end && cx.request.upgrade.is_none()) else {
            return HeadersStep::Continue;
        };
        self.max = max;
        self.length = Some(0);
        let limit = &mut *cx.hold_limit;
        *limit = max;
        HeadersStep::Hold
    }

    fn on_request_data<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        let Some(length) = &mut self.length else { return DataStep::Continue };
        *length = length.saturating_add(data.len());
        let length = *length;
        // (What is too much to hold is refused.)
        if !end || length > self.max {
            return DataStep::Hold;
        }
        self.finish(length, &mut cx.request.headers);
        DataStep::Continue
    }

    fn on_request_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        _trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        if let Some(length) = self.length {
            self.finish(length, &mut cx.request.headers);
        }
        HeadersStep::Continue
    }
}
