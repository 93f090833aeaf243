//! `envoy.filters.http.ext_authz`: asks a service, over gRPC or HTTP, whether a request may pass.
//!
//! The request waits for the answer; the client going away takes the question back. What the service says about headers, parameters and
//! metadata is done before the next filter sees the request.
//! Source: Envoy `docs/root/configuration/http/http_filters/ext_authz_filter.rst`; what is asked, answered and counted observed on 1.40.

mod config;
pub mod fields;
mod filter;
mod http_service;
mod measured;
mod query;
mod room;
mod service;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter::{HttpFilter, HttpFilterExtension, Phases};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use xds_api::envoy::extensions::filters::http::ext_authz::v3 as proto;

pub use config::{Config, RouteConfig};
pub use fields::FIELDS;
use filter::Filter;

const NAME: &str = "envoy.filters.http.ext_authz";

/// The extension.
pub struct ExtAuthz;

impl HttpFilterExtension for ExtAuthz {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: NAME,
        message: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> =
        Some("envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute");
    const PHASES: Phases = Phases { request_body: true, response_headers: true, response_body: false };
    type Proto = proto::ExtAuthz;
    type Config = Config;
    type RouteProto = proto::ExtAuthzPerRoute;
    type RouteConfig = RouteConfig;

    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected> {
        Config::build(&proto, cx)
    }

    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected> {
        RouteConfig::build(&proto, cx)
    }

    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter> {
        Box::new(Filter::new(config.clone()))
    }
}
