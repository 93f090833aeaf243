//! `envoy.filters.http.ratelimit`: asks a service that counts requests of all proxies whether one of them is within its limits.
//!
//! A request waits for the answer; the client going away takes the question back. What it is counted as is said by the rate limits of
//! its route, of the route's filter configuration, or of the filter. Those that count what was are told when the stream is over; nobody
//! waits for that.
//! Source: Envoy `docs/root/configuration/http/http_filters/rate_limit_filter.rst`; what is asked, answered and counted observed on 1.40.

mod config;
mod filter;
mod headers;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use proxy_core::config::FieldUse::{Rejected as Refused, Used};
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::http_filter::{HttpFilter, HttpFilterExtension, Phases};
use proxy_core::extension::{Descriptor, SecurityPosture, Status};
use xds_api::envoy::extensions::filters::http::ratelimit::v3 as proto;

pub use config::{Config, RouteConfig};
use filter::Filter;

const NAME: &str = "envoy.filters.http.ratelimit";
const OVERRIDE: &str = "Envoy does not act on it: use 'vh_rate_limits' or 'rate_limits'";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
        &[
            ("domain", Used),
            ("stage", Used),
            ("request_type", Used),
            ("timeout", Used),
            ("failure_mode_deny", Used),
            ("rate_limited_as_resource_exhausted", Used),
            ("rate_limit_service", Used),
            ("enable_x_ratelimit_headers", Used),
            ("disable_x_envoy_ratelimited_header", Used),
            ("rate_limited_status", Used),
            ("response_headers_to_add", Used),
            ("status_on_error", Used),
            ("stat_prefix", Used),
            ("filter_enabled", Used),
            ("filter_enforced", Used),
            ("failure_mode_deny_percent", Used),
            ("rate_limits", Used),
            ("metadata_namespace", Used),
            ("enable_retry_after_header", Used),
        ],
    ),
    (
        "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
        &[
            ("vh_rate_limits", Used),
            ("override_option", Refused(OVERRIDE)),
            ("rate_limits", Used),
            ("domain", Used),
        ],
    ),
];

/// The extension.
pub struct RateLimit;

impl HttpFilterExtension for RateLimit {
    const DESCRIPTOR: Descriptor = Descriptor {
        name: NAME,
        message: "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
        status: Status::Stable,
        posture: SecurityPosture::RobustToUntrustedDownstream,
    };
    const ROUTE_MESSAGE: Option<&'static str> =
        Some("envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute");
    const PHASES: Phases = Phases { request_body: false, response_headers: true, response_body: false };
    type Proto = proto::RateLimit;
    type Config = Config;
    type RouteProto = proto::RateLimitPerRoute;
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
