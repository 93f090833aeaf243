//! The configuration of the filter, and of a route.

use http::StatusCode;
use proxy_core::callout::grpc::GrpcService;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::http_filter::{Engine, HostRateLimits};
use proxy_core::header_append::Appends;
use proxy_core::rate_limit::{Place, RateLimits};
use proxy_core::runtime::RuntimeFraction;
use xds_api::envoy::extensions::filters::http::ratelimit::v3 as proto;
use xds_api::envoy::extensions::filters::http::ratelimit::v3::rate_limit::XRateLimitHeadersRfcVersion;
use xds_api::envoy::extensions::filters::http::ratelimit::v3::rate_limit_per_route::{
    OverrideOptions, VhRateLimitsOptions,
};

use super::{NAME, OVERRIDE};
use crate::shared::by_name::ByName;
use crate::shared::rate_limit::build_service;

/// `grpc-status` of what is refused, where it is asked for.
const RESOURCE_EXHAUSTED: u32 = 8;
/// The last stage that there is.
const LAST_STAGE: u32 = 10;

proxy_core::stats! {
    /// `cluster.<name>.ratelimit`, of the cluster that the request goes to.
    pub sharded struct ClusterStats {
        /// The service could not be asked.
        counter error [on_demand],
        /// Of them, let pass all the same.
        counter failure_mode_allowed [on_demand],
        /// Within the limits.
        counter ok [on_demand],
        /// Over a limit.
        counter over_limit [on_demand],
    }
}

/// Whose requests are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestType {
    Internal,
    External,
    Both,
}

/// Whether a request is let pass whose service could not be asked.
#[derive(Debug)]
enum FailureMode {
    Allow,
    Deny,
    /// This share of them is not.
    DenyShare(RuntimeFraction),
}

/// The configuration of the filter.
pub struct Config {
    pub(super) service: GrpcService,
    pub(super) domain: Box<str>,
    pub(super) stage: u32,
    pub(super) request_type: RequestType,
    pub(super) rate_limits: RateLimits,
    pub(super) local_cluster: Box<str>,
    pub(super) status: StatusCode,
    pub(super) status_on_error: StatusCode,
    pub(super) grpc_status: Option<u32>,
    pub(super) tells_limit: bool,
    pub(super) tells_retry_after: bool,
    pub(super) marks_limited: bool,
    pub(super) response_headers: Appends,
    pub(super) metadata_namespace: Box<str>,
    pub(super) clusters: ByName<ClusterStats>,
    enabled: RuntimeFraction,
    enforced: RuntimeFraction,
    failure_mode: FailureMode,
}

impl Config {
    pub(super) fn build(proto: &proto::RateLimit, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RateLimit {
            domain,
            stage,
            request_type,
            timeout,
            failure_mode_deny,
            rate_limited_as_resource_exhausted,
            rate_limit_service,
            enable_x_ratelimit_headers,
            disable_x_envoy_ratelimited_header,
            rate_limited_status,
            response_headers_to_add,
            status_on_error,
            stat_prefix,
            filter_enabled,
            filter_enforced,
            failure_mode_deny_percent,
            rate_limits,
            metadata_namespace,
            enable_retry_after_header,
        } = proto;
        if domain.is_empty() {
            return Err(cx.at("domain", |cx| cx.reject("value length must be at least 1 characters")));
        }
        if *stage > LAST_STAGE {
            return Err(cx.at("stage", |cx| cx.reject("value must be less than or equal to 10")));
        }
        let request_type = build_request_type(request_type, cx);
        let service = cx
            .at("rate_limit_service", |cx| build_service(rate_limit_service.as_ref(), timeout.as_ref(), cx));
        let response_headers = Appends::build("response_headers_to_add", response_headers_to_add, cx);
        let rate_limits = RateLimits::build("rate_limits", rate_limits, Place::Filter, cx);
        let fraction = |said: &Option<_>, key| match said {
            Some(said) => RuntimeFraction::new(said),
            None => RuntimeFraction::all(key),
        };
        let scope = match stat_prefix.as_str() {
            "" => "ratelimit".to_owned(),
            prefix => format!("ratelimit.{prefix}"),
        };
        let namespace = if metadata_namespace.is_empty() { NAME } else { metadata_namespace };
        Ok(Self {
            service: service?,
            domain: domain.as_str().into(),
            stage: *stage,
            request_type: request_type?,
            rate_limits: rate_limits?,
            local_cluster: cx.env.node.cluster.as_str().into(),
            status: status(rate_limited_status.map(|status| status.code))
                .filter(|status| status.as_u16() >= 400)
                .unwrap_or(StatusCode::TOO_MANY_REQUESTS),
            status_on_error: status(status_on_error.map(|status| status.code))
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            grpc_status: rate_limited_as_resource_exhausted.then_some(RESOURCE_EXHAUSTED),
            tells_limit: *enable_x_ratelimit_headers == XRateLimitHeadersRfcVersion::DraftVersion03 as i32,
            tells_retry_after: *enable_retry_after_header,
            marks_limited: !disable_x_envoy_ratelimited_header,
            response_headers: response_headers?,
            metadata_namespace: namespace.into(),
            clusters: ByName::around(cx.env.stats.clone(), "cluster", scope),
            enabled: fraction(filter_enabled, "ratelimit.http_filter_enabled"),
            enforced: fraction(filter_enforced, "ratelimit.http_filter_enforcing"),
            failure_mode: match failure_mode_deny_percent {
                Some(share) => FailureMode::DenyShare(RuntimeFraction::new(share)),
                None if *failure_mode_deny => FailureMode::Deny,
                None => FailureMode::Allow,
            },
        })
    }

    pub(super) fn is_enabled(&self, engine: &dyn Engine) -> bool {
        self.enabled.holds(engine.runtime(), engine.random())
    }

    pub(super) fn is_enforced(&self, engine: &dyn Engine) -> bool {
        self.enforced.holds(engine.runtime(), engine.random())
    }

    pub(super) fn allows_failure(&self, engine: &dyn Engine) -> bool {
        match &self.failure_mode {
            FailureMode::Allow => true,
            FailureMode::Deny => false,
            FailureMode::DenyShare(share) => !share.holds(engine.runtime(), engine.random()),
        }
    }
}

fn build_request_type(said: &str, cx: &mut BuildCx<'_>) -> Result<RequestType, Rejected> {
    match said {
        "internal" => Ok(RequestType::Internal),
        "external" => Ok(RequestType::External),
        "both" | "" => Ok(RequestType::Both),
        _ => Err(cx.at("request_type", |cx| cx.reject("value must be in list [internal, external, both, ]"))),
    }
}

/// A status that Envoy knows to be one.
fn status(code: Option<i32>) -> Option<StatusCode> {
    let code = u16::try_from(code?).ok().filter(|code| (100..=511).contains(code))?;
    StatusCode::from_u16(code).ok()
}

/// What a route says.
pub struct RouteConfig {
    pub(super) host_limits: HostRateLimits,
    pub(super) rate_limits: RateLimits,
    pub(super) domain: Option<Box<str>>,
}

impl RouteConfig {
    pub(super) fn build(proto: &proto::RateLimitPerRoute, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RateLimitPerRoute { vh_rate_limits, override_option, rate_limits, domain } = proto;
        let has_override = *override_option != OverrideOptions::Default as i32;
        cx.reject_if(has_override, "override_option", OVERRIDE)?;
        let host_limits = match VhRateLimitsOptions::try_from(*vh_rate_limits) {
            Ok(VhRateLimitsOptions::Override) => HostRateLimits::WhereRouteHasNone,
            Ok(VhRateLimitsOptions::Include) => HostRateLimits::Too,
            Ok(VhRateLimitsOptions::Ignore) => HostRateLimits::Never,
            Err(_) => return Err(cx.at("vh_rate_limits", |cx| cx.reject("not a defined value"))),
        };
        Ok(Self {
            host_limits,
            rate_limits: RateLimits::build("rate_limits", rate_limits, Place::Filter, cx)?,
            domain: (!domain.is_empty()).then(|| domain.as_str().into()),
        })
    }
}
