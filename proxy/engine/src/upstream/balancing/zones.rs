//! Routing by zone, as clusters ask for it: `zone_aware_lb_config`, by `common_lb_config` and in the extensions.
//!
//! Source: `envoy/config/cluster/v3/cluster.proto`, `envoy/extensions/load_balancing_policies/common/v3/common.proto`.

use std::sync::Arc;

use proxy_core::config::BuildCx;
use proxy_core::runtime::RuntimeFraction;
use proxy_core::upstream::ZoneRouting;
use xds_api::envoy::config::cluster::v3::cluster::common_lb_config::ZoneAwareLbConfig as Legacy;
use xds_api::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::ZoneAwareLbConfig;
use xds_api::envoy::extensions::load_balancing_policies::common::v3::locality_lb_config::zone_aware_lb_config::LocalityBasis;

/// The same in the words of the extensions.
pub(super) fn legacy(proto: &Legacy) -> ZoneAwareLbConfig {
    let Legacy { routing_enabled, min_cluster_size, fail_traffic_on_panic } = *proto;
    ZoneAwareLbConfig {
        routing_enabled,
        min_cluster_size,
        fail_traffic_on_panic,
        ..ZoneAwareLbConfig::default()
    }
}

/// How the cluster `name` is routed to by zone; never without a local cluster, nor to that one.
///
/// `panic_threshold` is the cluster's, in percent.
#[allow(deprecated)]
pub(super) fn routing(
    proto: &ZoneAwareLbConfig,
    name: &str,
    panic_threshold: u32,
    cx: &BuildCx<'_>,
) -> Option<Arc<ZoneRouting>> {
    let local = cx.env.cluster_defaults.local_cluster.as_ref().filter(|local| *local.name != *name)?;
    let percent = proto.routing_enabled.map_or(100.0, |percent| percent.value.clamp(0.0, 100.0));
    // (Envoy, too, asks the runtime once for this.)
    let of_runtime = cx.env.runtime.number("upstream.zone_routing.force_local_zone.min_size");
    let of_runtime = of_runtime.filter(|size| *size > 0).and_then(|size| u32::try_from(size).ok());
    let forced = of_runtime.or(proto.force_local_zone.map(|force| force.min_size.unwrap_or(1)));
    Some(Arc::new(ZoneRouting {
        local: local.clone(),
        enabled: RuntimeFraction::percent("upstream.zone_routing.enabled", percent.round() as u32),
        min_cluster_size: proto.min_cluster_size.unwrap_or(6),
        force_local_zone: forced.or(proto.force_locality_direct_routing.then_some(1)),
        by_weight: proto.locality_basis == LocalityBasis::HealthyHostsWeight as i32,
        panic_threshold,
        runtime: cx.env.runtime.clone(),
    }))
}
