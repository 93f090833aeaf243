//! Consistent hashing, as clusters ask for it: ring hash and Maglev, by the enum and as extensions.
//!
//! Source: `envoy/config/cluster/v3/cluster.proto`, `envoy/extensions/load_balancing_policies/{ring_hash,maglev,common}/v3/`.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::hash_policy::HashPolicies;
use proxy_core::upstream::{HashFunction, HashTableKind, Hashing};
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbConfig, common_lb_config, ring_hash_lb_config,
};
use xds_api::envoy::extensions::load_balancing_policies::common::v3::ConsistentHashingLbConfig;
use xds_api::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
use xds_api::envoy::extensions::load_balancing_policies::ring_hash::v3::{RingHash, ring_hash};

const DEFAULT_MINIMUM_RING: u64 = 1024;
const DEFAULT_MAXIMUM_RING: u64 = 8 * 1024 * 1024;
const DEFAULT_TABLE: u64 = 65_537;
/// The largest table that the API allows.
const LARGEST_TABLE: u64 = 5_000_011;

pub(super) fn legacy_ring(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<Hashing, Rejected> {
    let config = match &proto.lb_config {
        Some(LbConfig::RingHashLbConfig(config)) => *config,
        Some(
            LbConfig::RoundRobinLbConfig(_)
            | LbConfig::LeastRequestLbConfig(_)
            | LbConfig::MaglevLbConfig(_)
            | LbConfig::OriginalDstLbConfig(_),
        )
        | None => Default::default(),
    };
    let function = match config.hash_function == ring_hash_lb_config::HashFunction::MurmurHash2 as i32 {
        true => HashFunction::MurmurHash2,
        false => HashFunction::XxHash,
    };
    let table = cx.at("ring_hash_lb_config", |cx| {
        ring(config.minimum_ring_size, config.maximum_ring_size, function, cx)
    })?;
    Ok(legacy(table, proto))
}

pub(super) fn legacy_maglev(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<Hashing, Rejected> {
    let size = match &proto.lb_config {
        Some(LbConfig::MaglevLbConfig(config)) => config.table_size,
        Some(
            LbConfig::RoundRobinLbConfig(_)
            | LbConfig::LeastRequestLbConfig(_)
            | LbConfig::RingHashLbConfig(_)
            | LbConfig::OriginalDstLbConfig(_),
        )
        | None => None,
    };
    let table = cx.at("maglev_lb_config", |cx| maglev(size, cx))?;
    Ok(legacy(table, proto))
}

/// Refuses names of hosts for hashing where Envoy has none: in clusters of any type but STRICT_DNS.
pub(super) fn check_names(proto: &proto::Cluster, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
    let config =
        proto.common_lb_config.as_ref().and_then(|common| common.consistent_hashing_lb_config.as_ref());
    let kind = match &proto.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => match DiscoveryType::try_from(*kind) {
            Ok(DiscoveryType::StrictDns) => return Ok(()),
            Ok(DiscoveryType::LogicalDns) => "envoy.cluster.logical_dns",
            Ok(DiscoveryType::Eds) => "envoy.cluster.eds",
            Ok(DiscoveryType::OriginalDst) => "envoy.cluster.original_dst",
            Ok(DiscoveryType::Static) | Err(_) => "envoy.cluster.static",
        },
        Some(ClusterDiscoveryType::ClusterType(custom)) => custom.name.as_str(),
        None => "envoy.cluster.static",
    };
    if config.is_some_and(|config| config.use_hostname_for_hashing) {
        return Err(cx.reject(format!(
            "Cannot use hostname for consistent hashing loadbalancing for cluster of type: '{kind}'"
        )));
    }
    Ok(())
}

fn legacy(table: HashTableKind, proto: &proto::Cluster) -> Hashing {
    let common = proto.common_lb_config.as_ref();
    let hashing = common.and_then(|common| common.consistent_hashing_lb_config.as_ref());
    let locality = common.and_then(|common| common.locality_config_specifier.as_ref());
    Hashing {
        table,
        use_hostname: hashing.is_some_and(|config| config.use_hostname_for_hashing),
        balance_factor: factor(hashing.and_then(|config| config.hash_balance_factor)),
        locality_weighted: matches!(
            locality,
            Some(common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
        ),
    }
}

#[allow(deprecated, reason = "they count where the newer message is absent")]
pub(super) fn typed_ring(
    proto: &RingHash,
    cx: &mut BuildCx<'_>,
) -> Result<(Hashing, HashPolicies), Rejected> {
    let function = match proto.hash_function == ring_hash::HashFunction::MurmurHash2 as i32 {
        true => HashFunction::MurmurHash2,
        false => HashFunction::XxHash,
    };
    let table = ring(proto.minimum_ring_size, proto.maximum_ring_size, function, cx);
    let policies = hash_policies(proto.consistent_hashing_lb_config.as_ref(), cx);
    let (use_hostname, balance_factor) = match &proto.consistent_hashing_lb_config {
        Some(config) => (config.use_hostname_for_hashing, config.hash_balance_factor),
        None => (proto.use_hostname_for_hashing, proto.hash_balance_factor),
    };
    let hashing = Hashing {
        table: table?,
        use_hostname,
        balance_factor: factor(balance_factor),
        locality_weighted: proto.locality_weighted_lb_config.is_some(),
    };
    Ok((hashing, policies?))
}

pub(super) fn typed_maglev(
    proto: &Maglev,
    cx: &mut BuildCx<'_>,
) -> Result<(Hashing, HashPolicies), Rejected> {
    let table = maglev(proto.table_size, cx);
    let policies = hash_policies(proto.consistent_hashing_lb_config.as_ref(), cx);
    let config = proto.consistent_hashing_lb_config.as_ref();
    let hashing = Hashing {
        table: table?,
        use_hostname: config.is_some_and(|config| config.use_hostname_for_hashing),
        balance_factor: factor(config.and_then(|config| config.hash_balance_factor)),
        locality_weighted: proto.locality_weighted_lb_config.is_some(),
    };
    Ok((hashing, policies?))
}

fn hash_policies(
    proto: Option<&ConsistentHashingLbConfig>,
    cx: &mut BuildCx<'_>,
) -> Result<HashPolicies, Rejected> {
    let policies = proto.map_or(&[][..], |proto| &proto.hash_policy);
    cx.at("consistent_hashing_lb_config", |cx| HashPolicies::build("hash_policy", policies, cx))
}

fn factor(factor: Option<u32>) -> Option<u32> {
    factor.filter(|factor| *factor > 0)
}

fn ring(
    minimum: Option<u64>,
    maximum: Option<u64>,
    function: HashFunction,
    cx: &mut BuildCx<'_>,
) -> Result<HashTableKind, Rejected> {
    let minimum = minimum.unwrap_or(DEFAULT_MINIMUM_RING);
    let maximum = maximum.unwrap_or(DEFAULT_MAXIMUM_RING);
    if minimum > maximum {
        return Err(
            cx.reject(format!("ring hash: minimum_ring_size ({minimum}) > maximum_ring_size ({maximum})"))
        );
    }
    if maximum > DEFAULT_MAXIMUM_RING {
        return Err(cx.at("maximum_ring_size", |cx| cx.reject("must be at most 8388608")));
    }
    Ok(HashTableKind::Ring { minimum, maximum, function })
}

fn maglev(size: Option<u64>, cx: &mut BuildCx<'_>) -> Result<HashTableKind, Rejected> {
    let size = size.unwrap_or(DEFAULT_TABLE);
    match u32::try_from(size).ok().filter(|_| size <= LARGEST_TABLE && is_prime(size)) {
        Some(size) => Ok(HashTableKind::Maglev { size }),
        None => Err(cx.at("table_size", |cx| cx.reject("The table size of maglev must be prime number"))),
    }
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}
