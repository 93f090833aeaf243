//! `envoy.filters.http.set_filter_state`: leaves values for other filters, routes and access logs when a request arrives.
//!
//! A route's configuration is evaluated after the filter's own.
//! Source: Envoy `docs/root/configuration/http/http_filters/set_filter_state.rst`; observed on 1.40.

use std::sync::Arc;

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::http_filter::{HeadersStep, HttpFilter, HttpFilterExtension, Phases, StreamCx};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use xds_api::envoy::extensions::filters::http::set_filter_state::v3 as proto;

use crate::shared::set_filter_state::StateValue;
use FieldUse::Used;

const MESSAGE: &str = "envoy.extensions.filters.http.set_filter_state.v3.Config";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] =
    &[(MESSAGE, &[("on_request_headers", Used), ("clear_route_cache", Used)])];

/// The extension.
pub struct SetFilterState;

impl HttpFilterExtension for SetFilterState {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: "envoy.filters.http.set_filter_state",
        message: MESSAGE,
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> = Some(MESSAGE);
    const PHASES: Phases = Phases { request_body: false, response_headers: false, response_body: false };
    const MAY_BE_UPSTREAM: bool = true;
    type Proto = proto::Config;
    type Config = Config;
    type RouteProto = proto::Config;
    type RouteConfig = Config;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(&proto, cx)
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        Config::build(&proto, cx)
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter(config.clone()))
    }
}

/// What is set, by the filter or for a route.
pub struct Config {
    on_request_headers: Box<[StateValue]>,
    clear_route_cache: bool,
}

impl Config {
    fn build(proto: &proto::Config, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::Config { on_request_headers, clear_route_cache } = proto;
        let values = cx.each("on_request_headers", on_request_headers, StateValue::build)?;
        Ok(Self { on_request_headers: values.into(), clear_route_cache: *clear_route_cache })
    }

    fn apply(&self, cx: &mut StreamCx<'_>) {
        for value in &self.on_request_headers {
            value.set(Some(cx.request), cx.info);
        }
        *cx.clear_route |= self.clear_route_cache;
    }
}

struct Filter(Arc<Config>);

impl HttpFilter for Filter {
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, _end: bool) -> HeadersStep<'a> {
        self.0.apply(cx);
        let of_route = cx.route_configs;
        for config in of_route.iter().rev() {
            if let Some(config) = config.downcast_ref::<Config>() {
                config.apply(cx);
            }
        }
        HeadersStep::Continue
    }
}
