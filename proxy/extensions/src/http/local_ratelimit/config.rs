//! The configuration of the filter, and of a route, which has the same form.

use std::sync::Arc;

use http::StatusCode;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter::{Engine, HostRateLimits};
use proxy_core::rate_limit::{Place, RateLimits};
use proxy_core::runtime::RuntimeFraction;
use proxy_core::stats::Cells;
use proxy_core::upstream::LocalCluster;
use xds_api::envoy::extensions::common::ratelimit::v3::{VhRateLimitsOptions, XRateLimitHeadersRfcVersion};
use xds_api::envoy::extensions::filters::http::local_ratelimit::v3 as proto;

use super::limiter::{Connections, Limiter};
use proxy_core::header_append::Appends;

/// `grpc-status` of what is refused, where it is asked for.
const RESOURCE_EXHAUSTED: u32 = 8;

proxy_core::stats! {
    /// `<stat_prefix>.http_local_rate_limit`
    pub sharded struct HttpLocalRateLimitStats {
        /// Requests that were looked at.
        counter enabled,
        /// Requests that were refused.
        counter enforced,
        /// Requests that had a token.
        counter ok,
        /// Requests that had none.
        counter rate_limited,
        /// Requests that had none in the bucket of a descriptor that only looks on.
        counter shadow_mode,
    }
}

/// The configuration of the filter or of a route.
pub struct Config {
    pub(super) limiter: Limiter,
    pub(super) per_connection: bool,
    pub(super) status: StatusCode,
    pub(super) grpc_status: Option<u32>,
    pub(super) request_headers: Appends,
    pub(super) response_headers: Appends,
    pub(super) tells_limit: bool,
    pub(super) tells_retry_after: bool,
    pub(super) stage: u32,
    pub(super) host_limits: HostRateLimits,
    pub(super) rate_limits: RateLimits,
    pub(super) local_cluster: Box<str>,
    pub(super) stats: Cells<HttpLocalRateLimitStats>,
    enabled: Option<RuntimeFraction>,
    enforced: Option<RuntimeFraction>,
}

impl Config {
    pub(super) fn build(proto: &proto::LocalRateLimit, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::LocalRateLimit {
            stat_prefix,
            status,
            token_bucket,
            filter_enabled,
            filter_enforced,
            request_headers_to_add_when_not_enforced,
            response_headers_to_add,
            descriptors,
            stage,
            local_rate_limit_per_downstream_connection: per_connection,
            local_cluster_rate_limit,
            enable_x_ratelimit_headers,
            vh_rate_limits,
            always_consume_default_token_bucket,
            rate_limited_as_resource_exhausted,
            rate_limits,
            max_dynamic_descriptors,
            enable_retry_after_header,
        } = proto;
        let shared_with = local_cluster_rate_limit
            .as_ref()
            .map(|_| cx.at("local_cluster_rate_limit", |cx| local_cluster(*per_connection, cx)))
            .transpose();
        let connections = if *per_connection { Connections::Apart } else { Connections::Together };
        let limiter =
            Limiter::build(token_bucket.as_ref(), descriptors, *max_dynamic_descriptors, connections, cx)
                .map(|limiter| match always_consume_default_token_bucket {
                    Some(false) => limiter.sparing_the_default(),
                    _ => limiter,
                });
        let shared_with = shared_with?;
        let request_headers = Appends::build(
            "request_headers_to_add_when_not_enforced",
            request_headers_to_add_when_not_enforced,
            cx,
        );
        let response_headers = Appends::build("response_headers_to_add", response_headers_to_add, cx);
        let host_limits = match VhRateLimitsOptions::try_from(*vh_rate_limits) {
            Ok(VhRateLimitsOptions::Override) => HostRateLimits::WhereRouteHasNone,
            Ok(VhRateLimitsOptions::Include) => HostRateLimits::Too,
            Ok(VhRateLimitsOptions::Ignore) => HostRateLimits::Never,
            Err(_) => return Err(cx.at("vh_rate_limits", |cx| cx.reject("not a defined value"))),
        };
        let rate_limits = RateLimits::build("rate_limits", rate_limits, Place::Filter, cx);
        Ok(Self {
            limiter: limiter?.shared_with(shared_with),
            per_connection: *per_connection,
            status: refused_status(status.map_or(0, |status| status.code)),
            grpc_status: rate_limited_as_resource_exhausted.then_some(RESOURCE_EXHAUSTED),
            request_headers: request_headers?,
            response_headers: response_headers?,
            tells_limit: *enable_x_ratelimit_headers == XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
            tells_retry_after: *enable_retry_after_header,
            stage: *stage,
            host_limits,
            rate_limits: rate_limits?,
            local_cluster: cx.env.node.cluster.as_str().into(),
            stats: cx.env.stats.scope(&format!("{stat_prefix}.http_local_rate_limit")).cells(),
            enabled: filter_enabled.as_ref().map(RuntimeFraction::new),
            enforced: filter_enforced.as_ref().map(RuntimeFraction::new),
        })
    }

    pub(super) fn is_enabled(&self, engine: &dyn Engine) -> bool {
        holds(self.enabled.as_ref(), engine)
    }

    pub(super) fn is_enforced(&self, engine: &dyn Engine) -> bool {
        holds(self.enforced.as_ref(), engine)
    }
}

/// The cluster whose members share the limits with this proxy.
fn local_cluster(per_connection: bool, cx: &mut BuildCx<'_>) -> Result<Arc<LocalCluster>, Rejected> {
    if per_connection {
        let reason =
            "local_cluster_rate_limit is set and local_rate_limit_per_downstream_connection is set to true";
        return Err(cx.reject(reason));
    }
    match &cx.env.cluster_defaults.local_cluster {
        Some(cluster) => Ok(cluster.clone()),
        None => Err(cx.reject("local_cluster_rate_limit is set but no local cluster name is present")),
    }
}

fn holds(fraction: Option<&RuntimeFraction>, engine: &dyn Engine) -> bool {
    fraction.is_some_and(|fraction| fraction.holds(engine.runtime(), engine.random()))
}

/// The status of what is refused: 429 where none is said that refuses.
pub(super) fn refused_status(code: i32) -> StatusCode {
    let said = u16::try_from(code).ok().filter(|code| *code >= 400);
    said.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::TOO_MANY_REQUESTS)
}
