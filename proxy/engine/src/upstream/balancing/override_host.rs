//! `envoy.load_balancing_policies.override_host`, as clusters ask for it.
//!
//! Source: `envoy/extensions/load_balancing_policies/override_host/v3/override_host.proto`.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::matcher::RequestHeader;
use proxy_core::metadata::MetadataPath;
use proxy_core::upstream::{OverrideHosts, OverrideSource};
use xds_api::envoy::extensions::load_balancing_policies::override_host::v3::OverrideHost;
use xds_api::envoy::extensions::load_balancing_policies::override_host::v3::override_host::OverrideHostSource;

/// The policy without its `fallback_policy`.
pub(super) fn typed(proto: &OverrideHost, cx: &mut BuildCx<'_>) -> Result<OverrideHosts, Rejected> {
    let OverrideHost { override_host_sources, selected_host_key, fallback_policy: _ } = proto;
    let sources = cx.each("override_host_sources", override_host_sources, source);
    let selected = selected_host_key.as_ref();
    let selected =
        selected.map(|key| cx.at("selected_host_key", |cx| MetadataPath::build(key, cx))).transpose();
    let sources = sources?;
    if sources.is_empty() {
        let reason = "value must contain at least 1 item(s)";
        return Err(cx.at("override_host_sources", |cx| cx.reject(reason)));
    }
    Ok(OverrideHosts { sources: sources.into(), selected: selected? })
}

fn source(proto: &OverrideHostSource, cx: &mut BuildCx<'_>) -> Result<OverrideSource, Rejected> {
    let OverrideHostSource { header, metadata } = proto;
    match (header.as_str(), metadata) {
        ("", None) => Err(cx.reject("Empty override source")),
        ("", Some(key)) => cx.at("metadata", |cx| MetadataPath::build(key, cx)).map(OverrideSource::Metadata),
        (header, None) => cx.at("header", |cx| RequestHeader::build(header, cx)).map(OverrideSource::Header),
        (_, Some(_)) => Err(cx.reject("Only one override source must be set")),
    }
}
