//! What the bootstrap says about the process itself, besides its resources.

use std::sync::Arc;

use prost_types::Any;
use proxy_core::config::{BuildCx, ClusterDefaults, Rejected};
use proxy_core::headers;
use proxy_core::upstream::{LocalCluster, Locality};
use proxy_engine::state::source::{ApiUse, check_api};
use proxy_engine::upstream::dns::ResolverConfig;
use proxy_engine::upstream::socket_options::SocketOptions;
use xds_api::envoy::config::bootstrap::v3::{Bootstrap, ClusterManager};
use xds_api::envoy::config::core::v3::grpc_service::TargetSpecifier;
use xds_api::envoy::config::core::v3::{ApiConfigSource, TypedExtensionConfig};

use crate::overload::OverloadConfig;

const RE2: &str = "envoy.extensions.regex_engines.v3.GoogleRE2";
const INTERNAL_LISTENER: &str = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";

/// See the module above.
#[derive(Debug, Default)]
pub struct Settings {
    /// What is done against overload.
    pub overload: OverloadConfig,
    /// For DNS clusters without a resolver of their own.
    pub resolver: ResolverConfig,
}

impl Settings {
    /// Reads and checks the fields.
    ///
    /// # Errors
    /// Everything that is wrong with them, in `cx`.
    pub fn build(proto: &Bootstrap, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let overload = proto.overload_manager.as_ref();
        let overload = overload.map(|proto| cx.at("overload_manager", |cx| OverloadConfig::build(proto, cx)));
        let resolver = ResolverConfig::from_bootstrap(proto, cx);
        let engine = proto.default_regex_engine.as_ref();
        let engine = cx.at("default_regex_engine", |cx| engine.map_or(Ok(()), |one| is_a(one, &[RE2], cx)));
        let extensions = cx.each("bootstrap_extensions", &proto.bootstrap_extensions, |one, cx| {
            is_a(one, &[INTERNAL_LISTENER], cx)
        });
        let local = match &proto.cluster_manager {
            Some(manager) => cx.at("cluster_manager", |cx| local_cluster(manager, proto, cx)),
            None => Ok(()),
        };
        let prefix = Some(proto.header_prefix.as_str()).filter(|prefix| !prefix.is_empty());
        let renamed = prefix
            .map_or(Ok(()), headers::rename)
            .map_err(|_| cx.at("header_prefix", |cx| cx.reject("is not how the name of a header may begin")));
        let health = match &proto.hds_config {
            Some(api) => cx.at("hds_config", |cx| health_discovery(api, proto, cx)),
            None => Ok(()),
        };
        engine?;
        health?;
        renamed?;
        extensions?;
        local?;
        Ok(Self { overload: overload.transpose()?.unwrap_or_default(), resolver: resolver? })
    }

    /// What clusters take that do not say it themselves.
    ///
    /// # Errors
    /// What is wrong with it, in `cx`.
    pub fn cluster_defaults(proto: &Bootstrap, cx: &mut BuildCx<'_>) -> Result<ClusterDefaults, Rejected> {
        let bind = proto.cluster_manager.as_ref().and_then(|manager| manager.upstream_bind_config.as_ref());
        if let Some(bind) = bind {
            cx.at("cluster_manager", |cx| {
                cx.at("upstream_bind_config", |cx| SocketOptions::of_bind_config(bind, cx))
            })?;
        }
        let node = &cx.env.node;
        let locality = Locality {
            region: node.region.clone(),
            zone: node.zone.clone(),
            sub_zone: node.sub_zone.clone(),
            ..Locality::default()
        };
        let manager = proto.cluster_manager.as_ref().filter(|manager| !manager.local_cluster_name.is_empty());
        let local_cluster =
            manager.map(|manager| Arc::new(LocalCluster::new(&manager.local_cluster_name, locality)));
        Ok(ClusterDefaults { upstream_bind_config: bind.cloned(), local_cluster })
    }
}

fn local_cluster(manager: &ClusterManager, proto: &Bootstrap, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let name = &manager.local_cluster_name;
    let mut clusters = proto.static_resources.iter().flat_map(|resources| &resources.clusters);
    if name.is_empty() || clusters.any(|cluster| cluster.name == *name) {
        return Ok(());
    }
    Err(cx.at("local_cluster_name", |cx| cx.reject(format!("local cluster '{name}' must be defined"))))
}

/// Whether there can be a stream to the service: to a cluster that is there from the start.
fn health_discovery(api: &ApiConfigSource, proto: &Bootstrap, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    check_api(api, ApiUse::Health, cx)?;
    let target = api.grpc_services.first().and_then(|service| service.target_specifier.as_ref());
    let Some(TargetSpecifier::EnvoyGrpc(target)) = target else { return Ok(()) };
    let name = &target.cluster_name;
    let mut clusters = proto.static_resources.iter().flat_map(|resources| &resources.clusters);
    match clusters.any(|cluster| cluster.name == *name) {
        true => Ok(()),
        false => Err(cx.at("grpc_services", |cx| cx.reject(format!("Unknown gRPC client cluster '{name}'")))),
    }
}

/// Whether an extension is of one of these types.
fn is_a(config: &TypedExtensionConfig, types: &[&str], cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    cx.at("typed_config", |cx| match &config.typed_config {
        Some(any) => payload_of(any, types, cx).map(drop),
        None => Err(cx.reject("must be set")),
    })
}

/// The payload of an extension of one of these types.
fn payload_of(any: &Any, types: &[&str], cx: &mut BuildCx<'_>) -> Result<Vec<u8>, Rejected> {
    let (name, payload) = cx.unpack(any)?;
    if types.contains(&name.as_str()) {
        return Ok(payload);
    }
    Err(cx.reject(format!("extension type '{name}' is not available here; what is: {}", types.join(", "))))
}
