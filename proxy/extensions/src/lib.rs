//! The policies of the data plane: one extension a file, one line a table.
//!
//! An extension knows the contracts of `proxy-core` and nothing of the engine. Its file holds, in this order: what it
//! does and where Envoy documents it, how each field of its configuration is used, the extension, its configuration,
//! its statistics, the filter, and tests. See `docs/extensions.md` for adding one.

pub mod access_log;
pub mod http;
pub mod listener;
pub mod network;
pub mod shared;
pub mod stats_sink;
pub mod tracer;

#[cfg(test)]
mod testing;

use proxy_core::config::MessageFields;
use proxy_core::extension::Extensions;
use proxy_core::extension::access_log::AccessLogFactory;
use proxy_core::extension::http_filter::{HttpFilterFactory, Of};
use proxy_core::extension::listener_filter::ListenerFilterFactory;
use proxy_core::extension::network_filter::{NetworkFilterFactory, UpstreamNetworkFilterFactory};
use proxy_core::extension::stats_sink::StatsSinkFactory;
use proxy_core::extension::tracer::TracerFactory;

/// Access logs, sorted by name.
pub const ACCESS_LOGS: &[&dyn AccessLogFactory] = &[
    &access_log::file::FileAccessLog,
    &access_log::stream::StderrAccessLog,
    &access_log::stream::StdoutAccessLog,
];

/// HTTP filters, sorted by name.
pub const HTTP_FILTERS: &[&dyn HttpFilterFactory] = &[
    &Of::<http::adaptive_concurrency::AdaptiveConcurrency>::new(),
    &Of::<http::admission_control::AdmissionControl>::new(),
    &Of::<http::bandwidth_limit::BandwidthLimit>::new(),
    &Of::<http::buffer::Buffer>::new(),
    &Of::<http::compressor::Compressor>::new(),
    &Of::<http::cors::Cors>::new(),
    &Of::<http::dynamic_forward_proxy::DynamicForwardProxy>::new(),
    &Of::<http::ext_authz::ExtAuthz>::new(),
    &Of::<http::fault::Fault>::new(),
    &Of::<http::grpc_stats::GrpcStats>::new(),
    &Of::<http::header_mutation::HeaderMutation>::new(),
    &Of::<http::header_to_metadata::HeaderToMetadata>::new(),
    &Of::<http::health_check::HealthCheck>::new(),
    &Of::<http::jwt_authn::JwtAuthn>::new(),
    &Of::<http::local_ratelimit::LocalRateLimit>::new(),
    &http::match_delegate::MatchDelegate,
    &Of::<http::rate_limit_quota::RateLimitQuota>::new(),
    &Of::<http::ratelimit::RateLimit>::new(),
    &Of::<http::rbac::Rbac>::new(),
    &Of::<http::set_filter_state::SetFilterState>::new(),
    &Of::<http::set_metadata::SetMetadata>::new(),
    &Of::<http::stateful_session::StatefulSession>::new(),
    &Of::<http::istio_alpn::IstioAlpn>::new(),
    &Of::<http::istio_metadata_exchange::IstioMetadataExchange>::new(),
    &Of::<http::istio_stats::IstioStats>::new(),
];

/// Listener filters, sorted by name.
pub const LISTENER_FILTERS: &[&dyn ListenerFilterFactory] = &[
    &listener::http_inspector::HttpInspector,
    &listener::local_ratelimit::LocalRateLimit,
    &listener::original_dst::OriginalDst,
    &listener::original_src::OriginalSrc,
    &listener::proxy_protocol::ProxyProtocol,
    &listener::tls_inspector::TlsInspector,
];

/// Network filters, sorted by name.
pub const NETWORK_FILTERS: &[&dyn NetworkFilterFactory] = &[
    &network::connection_limit::ConnectionLimit,
    &network::direct_response::DirectResponse,
    &network::echo::Echo,
    &network::ext_authz::ExtAuthz,
    &network::local_ratelimit::LocalRateLimit,
    &network::ratelimit::RateLimit,
    &network::rbac::Rbac,
    &network::set_filter_state::SetFilterState,
    &network::sni_dynamic_forward_proxy::SniDynamicForwardProxy,
    &network::istio_metadata_exchange::IstioMetadataExchange,
    &network::istio_stats::IstioStats,
];

/// Network filters on connections to hosts, sorted by name.
pub const UPSTREAM_NETWORK_FILTERS: &[&dyn UpstreamNetworkFilterFactory] =
    &[&network::istio_metadata_exchange::IstioMetadataExchange];

/// Sinks of statistics, sorted by name.
pub const STATS_SINKS: &[&dyn StatsSinkFactory] = &[
    &stats_sink::dialects::DOG,
    &stats_sink::dialects::GRAPHITE,
    &stats_sink::metrics_service::MetricsService,
    &stats_sink::dialects::PLAIN,
];

/// Tracers, sorted by name.
pub const TRACERS: &[&dyn TracerFactory] = &[&tracer::opentelemetry::OpenTelemetry, &tracer::zipkin::Zipkin];

/// How every extension uses the fields of its messages.
pub const FIELDS: &[&[MessageFields]] = &[
    access_log::file::FIELDS,
    access_log::stream::FIELDS,
    http::adaptive_concurrency::FIELDS,
    http::admission_control::FIELDS,
    http::bandwidth_limit::FIELDS,
    http::buffer::FIELDS,
    http::compressor::FIELDS,
    http::cors::FIELDS,
    http::dynamic_forward_proxy::FIELDS,
    http::ext_authz::FIELDS,
    http::fault::FIELDS,
    http::grpc_stats::FIELDS,
    http::istio_alpn::FIELDS,
    http::istio_metadata_exchange::FIELDS,
    http::header_mutation::FIELDS,
    http::header_to_metadata::FIELDS,
    http::health_check::FIELDS,
    http::jwt_authn::FIELDS,
    http::local_ratelimit::FIELDS,
    http::match_delegate::FIELDS,
    http::rate_limit_quota::FIELDS,
    http::ratelimit::FIELDS,
    http::rbac::FIELDS,
    http::set_filter_state::FIELDS,
    http::set_metadata::FIELDS,
    http::stateful_session::FIELDS,
    listener::http_inspector::FIELDS,
    listener::local_ratelimit::FIELDS,
    listener::original_dst::FIELDS,
    listener::original_src::FIELDS,
    listener::proxy_protocol::FIELDS,
    listener::tls_inspector::FIELDS,
    network::connection_limit::FIELDS,
    network::direct_response::FIELDS,
    network::echo::FIELDS,
    network::ext_authz::FIELDS,
    network::istio_metadata_exchange::FIELDS,
    network::local_ratelimit::FIELDS,
    network::ratelimit::FIELDS,
    network::rbac::FIELDS,
    network::set_filter_state::FIELDS,
    network::sni_dynamic_forward_proxy::FIELDS,
    shared::istio::stats::fields::FIELDS,
    shared::rate_limit::FIELDS,
    shared::rbac::fields::FIELDS,
    shared::set_filter_state::FIELDS,
    stats_sink::dialects::FIELDS,
    stats_sink::metrics_service::FIELDS,
    tracer::opentelemetry::FIELDS,
    tracer::zipkin::FIELDS,
];

/// Every extension of this crate.
pub fn extensions() -> Extensions {
    Extensions {
        http_filters: HTTP_FILTERS,
        network_filters: NETWORK_FILTERS,
        upstream_network_filters: UPSTREAM_NETWORK_FILTERS,
        listener_filters: LISTENER_FILTERS,
        access_logs: ACCESS_LOGS,
        stats_sinks: STATS_SINKS,
        tracers: TRACERS,
    }
}
