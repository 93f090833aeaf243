//! The contracts of extensions: typed inside, erased outside, looked up by type URL and never by name.
//!
//! Each kind of extension has one file here. An extension implements its contract in one file of `proxy-extensions`
//! and stands in one line of that crate's tables; [`Extensions`] carries the tables to whoever builds configuration.

pub mod access_log;
pub mod http_filter;
pub mod listener_filter;
pub mod network_filter;
pub mod stats_sink;
pub mod tracer;

use prost_types::Any;

use crate::config::{BuildCx, Rejected};

/// How far an extension is (Envoy `extensions_metadata.yaml`, `status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Complete and proven.
    Stable,
    /// Works; lacks proof or parts.
    Alpha,
}

/// What an extension may face (Envoy `extensions_metadata.yaml`, `security_posture`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityPosture {
    /// Hardened against untrusted clients and upstreams.
    RobustToUntrustedDownstreamAndUpstream,
    /// Hardened against untrusted clients.
    RobustToUntrustedDownstream,
    /// For trusted peers only.
    RequiresTrustedDownstreamAndUpstream,
}

/// What every extension says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    /// Envoy's name, `envoy.filters.http.cors`.
    pub name: &'static str,
    /// Full name of the configuration message, `envoy.extensions.filters.http.cors.v3.Cors`.
    pub message: &'static str,
    /// How far it is.
    pub status: Status,
    /// What it may face.
    pub posture: SecurityPosture,
}

/// The tables of extensions that this process was built with.
#[derive(Clone, Copy, Default)]
pub struct Extensions {
    /// HTTP filters, the terminal router excepted.
    pub http_filters: &'static [&'static dyn http_filter::HttpFilterFactory],
    /// Network filters, `tcp_proxy` and the connection manager excepted.
    pub network_filters: &'static [&'static dyn network_filter::NetworkFilterFactory],
    /// Network filters on connections to hosts.
    pub upstream_network_filters: &'static [&'static dyn network_filter::UpstreamNetworkFilterFactory],
    /// Listener filters.
    pub listener_filters: &'static [&'static dyn listener_filter::ListenerFilterFactory],
    /// Access loggers.
    pub access_logs: &'static [&'static dyn access_log::AccessLogFactory],
    /// Sinks of statistics.
    pub stats_sinks: &'static [&'static dyn stats_sink::StatsSinkFactory],
    /// Tracers.
    pub tracers: &'static [&'static dyn tracer::TracerFactory],
}

/// The message name in a type URL: what follows the last `/`.
pub fn message_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

/// Decodes the payload of an `Any` that is known to hold an `M`.
pub fn decode<M: prost::Message + Default>(payload: &[u8], cx: &mut BuildCx<'_>) -> Result<M, Rejected> {
    M::decode(payload).map_err(|error| cx.reject(format!("cannot be decoded: {error}")))
}

/// Finds the extension for `any` in `table`, or says which type is missing.
pub fn find<'t, F: ?Sized>(
    table: &'t [&'static F],
    any: &Any,
    descriptor: impl Fn(&F) -> Descriptor,
) -> Option<&'t &'static F> {
    let message = message_name(&any.type_url);
    table.iter().find(|factory| descriptor(factory).message == message)
}
