//! A `ClusterLoadAssignment` as plain data: localities with their endpoints, and the policy that goes with them.
//!
//! The kind of address is a parameter: numeric for STATIC and EDS, perhaps still a name for DNS.
//! Source: `envoy/config/endpoint/v3/endpoint.proto`, `endpoint_components.proto`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::HealthStatus;
use xds_api::envoy::config::endpoint::v3 as proto;
use xds_api::envoy::config::endpoint::v3::cluster_load_assignment as policy_proto;

use super::Locality;
use crate::address::Address;
use crate::config::{BuildCx, Rejected};
use crate::metadata::Metadata;
use crate::runtime::denominator;

/// The endpoints of a cluster with what governs their use.
#[derive(Clone, Debug)]
pub struct Assignment<A = Address> {
    /// Endpoints by locality and priority, in the order of the configuration.
    pub localities: Vec<LocalityEndpoints<A>>,
    /// Overprovisioning, drops.
    pub policy: AssignmentPolicy,
}

/// Endpoints of one locality in one priority.
#[derive(Clone, Debug)]
pub struct LocalityEndpoints<A = Address> {
    /// Where they are.
    pub locality: Arc<Locality>,
    /// Their priority, 0 first, at most 128.
    pub priority: u32,
    /// Weight of the locality among those of its priority; 0 if it has none.
    pub weight: u32,
    /// The endpoints.
    pub endpoints: Vec<Endpoint<A>>,
}

/// One endpoint, before it is a host.
#[derive(Clone, Debug)]
pub struct Endpoint<A = Address> {
    /// Where to connect.
    pub address: A,
    /// Further addresses of the same endpoint.
    pub additional_addresses: Box<[Address]>,
    /// Name of the host; empty if none.
    pub hostname: Arc<str>,
    /// Weight, at least 1.
    pub weight: u32,
    /// Health as configured.
    pub health: HealthStatus,
    /// Metadata of the endpoint.
    pub metadata: Metadata,
    /// How active health checks reach it, if it says so (`health_check_config`).
    pub check: Option<Box<CheckTarget>>,
}

/// `Endpoint.HealthCheckConfig`: how one endpoint is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckTarget {
    address: Option<Address>,
    port: Option<NonZeroU16>,
    /// What checks call it; empty for what all hosts of its cluster are called.
    pub hostname: Arc<str>,
    /// It is not checked, and so always well as far as checks go.
    pub disabled: bool,
}

impl CheckTarget {
    fn build(
        proto: &proto::endpoint::HealthCheckConfig,
        endpoint: &proto::Endpoint,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Box<Self>>, Rejected> {
        if *proto == proto::endpoint::HealthCheckConfig::default() {
            return Ok(None);
        }
        let own = &proto.address;
        let address =
            own.as_ref().map(|address| cx.at("address", |cx| Address::build(address, cx))).transpose();
        let port = u16::try_from(proto.port_value)
            .map_err(|_| cx.at("port_value", |cx| cx.reject("value must be less than or equal to 65535")))?;
        let target = own.as_ref().or(endpoint.address.as_ref()).and_then(|address| address.address.as_ref());
        if port != 0 && matches!(target, Some(core::address::Address::Pipe(_))) {
            return Err(cx.at("port_value", |cx| cx.reject("a pipe has no port")));
        }
        Ok(Some(Box::new(Self {
            address: address?,
            port: NonZeroU16::new(port),
            hostname: proto.hostname.as_str().into(),
            disabled: proto.disable_active_health_check,
        })))
    }

    /// Where checks of a host at `address` go.
    pub fn address(&self, address: &Address) -> Address {
        let base = self.address.as_ref().unwrap_or(address);
        match (base.socket_addr(), self.port) {
            (Some(socket), Some(port)) => SocketAddr::new(socket.ip(), port.get()).into(),
            (None, _) | (_, None) => base.clone(),
        }
    }

    /// The address that it names, and the port.
    pub fn configured(&self) -> (Option<&Address>, u16) {
        (self.address.as_ref(), self.port.map_or(0, NonZeroU16::get))
    }
}

/// `ClusterLoadAssignment.Policy`.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct AssignmentPolicy {
    /// How many percent of capacity a priority is taken to have; 140 lets 72 % of the hosts carry the whole load.
    pub overprovisioning_factor: u32,
    /// Whether a priority's health is weighed by host weights rather than counted in hosts.
    pub weighted_priority_health: bool,
    /// Share of requests to refuse before a host is picked.
    pub drop_overload: Option<Box<DropOverload>>,
}

impl Default for AssignmentPolicy {
    fn default() -> Self {
        Self { overprovisioning_factor: 140, weighted_priority_health: false, drop_overload: None }
    }
}

/// Requests that the control plane wants refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DropOverload {
    /// Share of the requests to refuse, over `denominator`.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

impl DropOverload {
    /// Whether every request is to be refused.
    pub fn is_unconditional(&self) -> bool {
        self.numerator >= self.denominator
    }

    /// Whether a request with random number `random` is to be refused.
    pub fn holds(&self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

impl<A> Default for Assignment<A> {
    fn default() -> Self {
        Self { localities: Vec::new(), policy: AssignmentPolicy::default() }
    }
}

impl Assignment {
    /// Reads an assignment whose addresses must be numeric (STATIC and EDS).
    pub fn build(proto: &proto::ClusterLoadAssignment, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        Self::build_with(proto, cx, Address::build)
    }
}

impl<A> Assignment<A> {
    /// Reads an assignment; `address` reads the address of an endpoint.
    pub fn build_with(
        proto: &proto::ClusterLoadAssignment,
        cx: &mut BuildCx<'_>,
        mut address: impl FnMut(&core::Address, &mut BuildCx<'_>) -> Result<A, Rejected>,
    ) -> Result<Self, Rejected> {
        let localities = cx.each("endpoints", &proto.endpoints, |locality, cx| {
            LocalityEndpoints::build(locality, cx, &mut address)
        });
        let policy = cx.at("policy", |cx| AssignmentPolicy::build(proto.policy.as_ref(), cx));
        Ok(Self { localities: localities?, policy: policy? })
    }

    /// Refuses weights of the localities of one priority that overflow 32 bits together, as Envoy does for EDS.
    pub fn check_locality_weights(&self, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let highest = self.localities.iter().map(|locality| locality.priority).max().unwrap_or(0);
        for priority in 0..=highest {
            let of_priority = self.localities.iter().filter(|locality| locality.priority == priority);
            let sum: u64 = of_priority.map(|locality| u64::from(locality.weight)).sum();
            if sum > u64::from(u32::MAX) {
                return Err(cx.reject(format!(
                    "The sum of weights of all localities at the same priority {priority} exceeds 4294967295"
                )));
            }
        }
        Ok(())
    }
}

impl<A> Assignment<A> {
    /// Refuses weights of the hosts of one priority that overflow 32 bits together, as Envoy does where it hashes.
    pub fn check_host_weights(&self, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
        for locality in &self.localities {
            let sum: u64 = locality.endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
            *sums.entry(locality.priority).or_default() += sum;
        }
        match sums.values().any(|sum| *sum > u64::from(u32::MAX)) {
            true => {
                Err(cx.reject("The sum of weights of all upstream hosts in a locality exceeds 4294967295"))
            }
            false => Ok(()),
        }
    }
}

impl<A> LocalityEndpoints<A> {
    fn build(
        proto: &proto::LocalityLbEndpoints,
        cx: &mut BuildCx<'_>,
        address: &mut impl FnMut(&core::Address, &mut BuildCx<'_>) -> Result<A, Rejected>,
    ) -> Result<Self, Rejected> {
        if proto.priority > 128 {
            return Err(cx.at("priority", |cx| cx.reject("must be at most 128")));
        }
        let endpoints =
            cx.each("lb_endpoints", &proto.lb_endpoints, |one, cx| Endpoint::build(one, cx, address))?;
        Ok(Self {
            locality: locality(proto.locality.as_ref(), Metadata::new(proto.metadata.as_ref())),
            priority: proto.priority,
            weight: proto.load_balancing_weight.unwrap_or(0),
            endpoints,
        })
    }
}

fn locality(proto: Option<&core::Locality>, metadata: Metadata) -> Arc<Locality> {
    match proto {
        None if metadata.is_empty() => Locality::nowhere(),
        None => Arc::new(Locality { metadata, ..Locality::default() }),
        Some(core::Locality { region, zone, sub_zone }) => Arc::new(Locality {
            region: region.clone(),
            zone: zone.clone(),
            sub_zone: sub_zone.clone(),
            metadata,
        }),
    }
}

impl<A> Endpoint<A> {
    fn build(
        proto: &proto::LbEndpoint,
        cx: &mut BuildCx<'_>,
        address: &mut impl FnMut(&core::Address, &mut BuildCx<'_>) -> Result<A, Rejected>,
    ) -> Result<Self, Rejected> {
        use proto::lb_endpoint::HostIdentifier;
        let endpoint = match &proto.host_identifier {
            Some(HostIdentifier::Endpoint(endpoint)) => endpoint,
            Some(HostIdentifier::EndpointName(_)) => {
                return Err(cx.at("endpoint_name", |cx| cx.reject("named endpoints are not available")));
            }
            None => return Err(cx.at("endpoint", |cx| cx.reject("must be set"))),
        };
        cx.at("endpoint", |cx| {
            let main = cx.at("address", |cx| match &endpoint.address {
                Some(proto) => address(proto, cx),
                None => Err(cx.reject("must be set")),
            });
            let additional = cx.each("additional_addresses", &endpoint.additional_addresses, |one, cx| {
                cx.at("address", |cx| match &one.address {
                    Some(proto) => Address::build(proto, cx),
                    None => Err(cx.reject("must be set")),
                })
            });
            let check = match &endpoint.health_check_config {
                Some(config) => cx.at("health_check_config", |cx| CheckTarget::build(config, endpoint, cx)),
                None => Ok(None),
            };
            Ok(Self {
                address: main?,
                additional_addresses: additional?.into(),
                hostname: endpoint.hostname.as_str().into(),
                weight: proto.load_balancing_weight.unwrap_or(1).max(1),
                // (A number that this API does not know counts as unknown.)
                health: HealthStatus::try_from(proto.health_status).unwrap_or(HealthStatus::Unknown),
                metadata: Metadata::new(proto.metadata.as_ref()),
                check: check?,
            })
        })
    }
}

impl AssignmentPolicy {
    fn build(proto: Option<&policy_proto::Policy>, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Some(proto) = proto else { return Ok(Self::default()) };
        let drop_overload = match proto.drop_overloads.as_slice() {
            [] => None,
            [one] => Some(Box::new(cx.at_index("drop_overloads", 0, |cx| DropOverload::build(one, cx))?)),
            more => {
                return Err(cx.at("drop_overloads", |cx| {
                    cx.reject(format!(
                        "Cluster drop_overloads config has {} categories. Envoy only support one.",
                        more.len()
                    ))
                }));
            }
        };
        let overprovisioning_factor = proto.overprovisioning_factor.unwrap_or(140);
        if overprovisioning_factor == 0 {
            return Err(cx.at("overprovisioning_factor", |cx| cx.reject("must be greater than 0")));
        }
        Ok(Self {
            overprovisioning_factor,
            weighted_priority_health: proto.weighted_priority_health,
            drop_overload,
        })
    }
}

impl DropOverload {
    fn build(proto: &policy_proto::policy::DropOverload, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let percentage = proto.drop_percentage.unwrap_or_default();
        let denominator = denominator(&percentage);
        if percentage.numerator > denominator {
            let numerator = percentage.numerator;
            return Err(cx.at("drop_percentage", |cx| {
                cx.reject(format!(
                    "Cluster drop_overloads config is invalid. drop_ratio={}(Numerator {numerator} / \
                     Denominator {denominator}). The valid range is 0~1.",
                    f64::from(numerator) / f64::from(denominator)
                ))
            }));
        }
        Ok(Self { numerator: percentage.numerator, denominator })
    }
}
