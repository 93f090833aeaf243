//! Where the hosts of a cluster come from: `type`, `cluster_type`, and what goes with each.
//!
//! Source: `envoy/config/cluster/v3/cluster.proto`, `envoy/extensions/clusters/*/v3/`.

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::{decode, message_name};
use proxy_core::upstream::Assignment;
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use xds_api::envoy::config::core::v3::ConfigSource;
use xds_api::envoy::extensions::clusters::dns::v3::DnsCluster;
use xds_api::envoy::extensions::clusters::original_dst::v3::OriginalDstCluster;

use super::aggregate::{AGGREGATE_CLUSTER, Aggregate};
use super::dns::DnsConfig;
use super::dynamic::{DYNAMIC_CLUSTER, DynamicHosts};
use super::original_dst::OriginalDst;

/// Where the hosts of a cluster come from.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// From the configuration itself.
    Static,
    /// From DNS (STRICT_DNS, LOGICAL_DNS).
    Dns(Box<DnsConfig>),
    /// From an endpoint discovery service.
    Eds(Box<EdsConfig>),
    /// Made for wherever clients want to go (ORIGINAL_DST).
    OriginalDst(Arc<OriginalDst>),
    /// Those that requests name, as far as DNS knows them (`envoy.clusters.dynamic_forward_proxy`).
    Dynamic(Arc<DynamicHosts>),
    /// There are none: other clusters have them (`envoy.clusters.aggregate`).
    Aggregate(Aggregate),
}

/// Where to subscribe to the endpoints of a cluster.
#[derive(Clone, Debug)]
pub struct EdsConfig {
    /// Name of the `ClusterLoadAssignment`: `service_name`, else the name of the cluster.
    pub service_name: Box<str>,
    /// Where it comes from.
    pub source: ConfigSource,
}

const DNS_CLUSTER: &str = "envoy.extensions.clusters.dns.v3.DnsCluster";
pub(super) const ORIGINAL_DST_CLUSTER: &str = "envoy.extensions.clusters.original_dst.v3.OriginalDstCluster";
/// What the extension that makes such clusters is called: it takes no configuration as well.
pub(super) const ORIGINAL_DST_NAME: &str = "envoy.cluster.original_dst";

impl Discovery {
    /// Reads how hosts are found, and those that are known already.
    pub(super) fn build(
        proto: &proto::Cluster,
        cx: &mut BuildCx<'_>,
    ) -> Result<(Self, Assignment), Rejected> {
        let is_eds =
            proto.cluster_discovery_type == Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32));
        if proto.eds_cluster_config.is_some() && !is_eds {
            return Err(cx.reject("eds_cluster_config set in a non-EDS cluster"));
        }
        let kind = match &proto.cluster_discovery_type {
            None => DiscoveryType::Static,
            Some(ClusterDiscoveryType::Type(kind)) => match DiscoveryType::try_from(*kind) {
                Ok(kind) => kind,
                Err(_) => return Err(cx.at("type", |cx| cx.reject("unknown discovery type"))),
            },
            Some(ClusterDiscoveryType::ClusterType(custom)) => {
                return cx.at("cluster_type", |cx| Self::custom(proto, custom, cx));
            }
        };
        match kind {
            DiscoveryType::Static => {
                let assignment = proto.load_assignment.as_ref();
                let assignment =
                    assignment.map(|one| cx.at("load_assignment", |cx| Assignment::build(one, cx)));
                Ok((Self::Static, assignment.transpose()?.unwrap_or_default()))
            }
            DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
                let dns = DnsConfig::from_cluster(proto, kind == DiscoveryType::LogicalDns, cx)?;
                Ok((Self::Dns(Box::new(dns)), Assignment::default()))
            }
            DiscoveryType::Eds => {
                Ok((Self::Eds(Box::new(EdsConfig::build(proto, cx)?)), Assignment::default()))
            }
            DiscoveryType::OriginalDst => {
                let hosts = OriginalDst::from_cluster(proto, cx)?;
                Ok((Self::OriginalDst(Arc::new(hosts)), Assignment::default()))
            }
        }
    }

    fn custom(
        proto: &proto::Cluster,
        custom: &proto::cluster::CustomClusterType,
        cx: &mut BuildCx<'_>,
    ) -> Result<(Self, Assignment), Rejected> {
        let original_dst = |config: &OriginalDstCluster, cx: &mut BuildCx<'_>| {
            let hosts = OriginalDst::from_typed(config, proto, cx)?;
            Ok((Self::OriginalDst(Arc::new(hosts)), Assignment::default()))
        };
        let Some(any) = &custom.typed_config else {
            if custom.name == ORIGINAL_DST_NAME {
                return original_dst(&OriginalDstCluster::default(), cx);
            }
            return Err(cx.at("typed_config", |cx| cx.reject("must be set")));
        };
        match message_name(&any.type_url) {
            DNS_CLUSTER => {
                let typed: DnsCluster = cx.at("typed_config", |cx| decode(&any.value, cx))?;
                let dns = DnsConfig::from_typed(proto, &typed, cx)?;
                Ok((Self::Dns(Box::new(dns)), Assignment::default()))
            }
            AGGREGATE_CLUSTER => {
                let built = cx.at("typed_config", |cx| {
                    let config = decode(&any.value, cx)?;
                    Aggregate::build(&config, cx)
                });
                Ok((Self::Aggregate(built?), Assignment::default()))
            }
            DYNAMIC_CLUSTER => {
                let built = cx.at("typed_config", |cx| {
                    let config = decode(&any.value, cx)?;
                    DynamicHosts::build(&config, cx)
                });
                Ok((Self::Dynamic(Arc::new(built?)), Assignment::default()))
            }
            ORIGINAL_DST_CLUSTER => {
                let typed = cx.at("typed_config", |cx| decode(&any.value, cx))?;
                original_dst(&typed, cx)
            }
            other => Err(cx.reject(format!("cluster type '{other}' is not available"))),
        }
    }
}

impl EdsConfig {
    fn build(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let config = proto.eds_cluster_config.as_ref();
        let Some(source) = config.and_then(|config| config.eds_config.clone()) else {
            return Err(cx.at("eds_cluster_config", |cx| {
                cx.reject("cannot create an EDS cluster without an EDS config")
            }));
        };
        let named = config.map_or("", |config| config.service_name.as_str());
        let service_name = if named.is_empty() { proto.name.as_str() } else { named };
        Ok(Self { service_name: service_name.into(), source })
    }
}
