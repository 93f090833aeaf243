//! What the HTTP and the network filter `ratelimit` have in common: the service, what it is asked, and what it answers.
//!
//! Source: Envoy `envoy/service/ratelimit/v3/rls.proto`, `envoy/config/ratelimit/v3/rls.proto`, `source/extensions/filters/common/ratelimit`.

use std::time::Duration;

use proxy_core::callout::grpc::{self, GrpcService};
use proxy_core::callout::{Call, Called};
use proxy_core::config::FieldUse::Used;
use proxy_core::config::{BuildCx, MessageFields, Rejected, duration};
use proxy_core::rate_limit::Descriptor;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use xds_api::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use xds_api::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use xds_api::envoy::service::ratelimit::v3::rate_limit_response::Code;
use xds_api::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

/// How the fields of the service's configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.config.ratelimit.v3.RateLimitServiceConfig",
    &[("grpc_service", Used), ("transport_api_version", Used)],
)];

/// The method that is called.
pub const SHOULD_RATE_LIMIT: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// `core::ApiVersion::V2`, which the API deprecates.
const V2: i32 = 1;

/// How long an answer is waited for where nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(20);

/// What the service's answer amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// Within the limit.
    Ok,
    /// Over it.
    OverLimit,
    /// There is no answer.
    Error,
}

/// Builds the service; a filter says how long its answer is waited for (zero: for as long as it takes), the service does not.
pub fn build_service(
    proto: Option<&RateLimitServiceConfig>,
    timeout: Option<&prost_types::Duration>,
    cx: &mut BuildCx<'_>,
) -> Result<GrpcService, Rejected> {
    let Some(RateLimitServiceConfig { grpc_service, transport_api_version }) = proto else {
        return Err(cx.reject("value is required"));
    };
    if *transport_api_version == V2 {
        return Err(cx.at("transport_api_version", |cx| cx.reject("the v2 API is no longer supported")));
    }
    let service = cx.at("grpc_service", |cx| match grpc_service {
        Some(service) => GrpcService::build(service, None, cx),
        None => Err(cx.reject("value is required")),
    })?;
    let timeout = match timeout {
        None => Some(DEFAULT_TIMEOUT),
        Some(timeout) => duration(timeout).filter(|timeout| !timeout.is_zero()),
    };
    Ok(service.with_timeout(timeout))
}

/// The call that asks `service` about `descriptors` of `domain`, each of them `hits` times where it does not say it (0: once).
pub fn ask(
    service: &GrpcService,
    domain: &str,
    descriptors: Vec<RateLimitDescriptor>,
    hits: u32,
    info: &StreamInfo,
) -> Call {
    let request = RateLimitRequest { domain: domain.to_owned(), descriptors, hits_addend: hits };
    service.call(SHOULD_RATE_LIMIT, &request, info)
}

/// A descriptor as the service is told it.
pub fn told(descriptor: &Descriptor<'_>) -> RateLimitDescriptor {
    let entry = |entry: &proxy_core::rate_limit::Entry<'_>| Entry {
        key: entry.key.clone().into_owned(),
        value: entry.value.clone().into_owned(),
    };
    RateLimitDescriptor {
        entries: descriptor.entries.iter().map(entry).collect(),
        limit: descriptor.limit.map(|limit| RateLimitOverride {
            requests_per_unit: limit.requests,
            unit: limit.unit.into(),
            unit_multiplier: None,
        }),
        hits_addend: descriptor.hits,
        is_negative_hits: descriptor.negative_hits,
    }
}

/// What the service answered.
pub fn answer(called: &Called) -> (Ruling, RateLimitResponse) {
    match grpc::message::<RateLimitResponse>(called) {
        Ok(response) if response.overall_code == Code::OverLimit as i32 => (Ruling::OverLimit, response),
        Ok(response) => (Ruling::Ok, response),
        Err(_) => (Ruling::Error, RateLimitResponse::default()),
    }
}
