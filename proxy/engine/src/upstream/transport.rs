//! The transport sockets of a cluster: the one that most hosts have, and those that the metadata of some choose
//! (`transport_socket_matches`).
//!
//! A host's metadata are looked at when a connection is made to it: connections that are there stay as they are when they change.
//! Source: `TransportSocketMatch` in `envoy/config/cluster/v3/cluster.proto`.

use std::collections::BTreeMap;

use prost_types::Value;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::metadata::Metadata;
use proxy_core::stats::groups::{ClusterStateStats, TransportSocketMatchStats};
use proxy_core::stats::{Scope, Shared};
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;
use xds_api::envoy::extensions::transport_sockets::proxy_protocol::v3 as proto_proxy;

use super::proxy_protocol::{self, ProxyProtocol};
use crate::tls;
use crate::tls::client::ClientTls;

/// Where the metadata of endpoints say which socket they are for.
pub(super) const NAMESPACE: &str = "envoy.transport_socket_match";

/// How hosts are spoken with.
#[derive(Debug)]
pub struct Transport {
    /// The first that matches a host is the host's.
    matches: Box<[Match]>,
    default: Layers,
    state: Shared<ClusterStateStats>,
}

/// What lies between the bytes of a connection and its socket.
#[derive(Debug, Default)]
pub struct Layers {
    /// A header that tells of the client comes first.
    pub proxy_protocol: Option<Box<ProxyProtocol>>,
    /// All the rest is encrypted.
    pub tls: Option<Box<ClientTls>>,
}

#[derive(Debug)]
struct Match {
    /// What the metadata of a host must have; nothing matches every host.
    criteria: BTreeMap<String, Value>,
    layers: Layers,
    stats: Shared<TransportSocketMatchStats>,
}

impl Match {
    fn holds(&self, metadata: &Metadata) -> bool {
        let of_host = metadata.namespace(NAMESPACE);
        self.criteria.iter().all(|(key, value)| {
            of_host.is_some_and(|of_host| of_host.fields.get(key).is_some_and(|found| found == value))
        })
    }
}

impl Transport {
    pub(super) fn build(
        proto: &proto::Cluster,
        scope: &Scope,
        state: Shared<ClusterStateStats>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let default = proto.transport_socket.as_ref();
        let default = default.map(|socket| cx.at("transport_socket", |cx| build_socket(socket, scope, cx)));
        let matches = cx.each("transport_socket_matches", &proto.transport_socket_matches, |one, cx| {
            let layers = cx.at("transport_socket", |cx| match &one.transport_socket {
                Some(socket) => build_socket(socket, scope, cx),
                None => Err(cx.reject("must be set")),
            })?;
            let criteria = one.r#match.clone().unwrap_or_default().fields;
            Ok(Match { criteria, layers, stats: scope.child(&one.name).shared() })
        });
        let default = default.transpose()?.unwrap_or_default();
        let built = Self { default, matches: matches?.into(), state };
        if let Some(assignment) = &proto.load_assignment {
            cx.at("load_assignment", |cx| built.check(assignment, cx))?;
        }
        Ok(built)
    }

    /// Refuses what would choose sockets in Envoy, and is not looked at here.
    pub(super) fn check(
        &self,
        assignment: &ClusterLoadAssignment,
        cx: &mut BuildCx<'_>,
    ) -> Result<(), Rejected> {
        let chooses = |metadata: &core::Metadata| metadata.filter_metadata.contains_key(NAMESPACE);
        let mut localities = assignment.endpoints.iter();
        let found = localities.position(|locality| locality.metadata.as_ref().is_some_and(chooses));
        match found {
            Some(index) if !self.matches.is_empty() => cx.at_index("endpoints", index, |cx| {
                cx.at("metadata", |cx| {
                    Err(cx.reject(
                        "only the metadata of endpoints choose transport sockets, not those of localities",
                    ))
                })
            }),
            _ => Ok(()),
        }
    }

    /// How a host with these metadata is spoken with.
    pub fn of(&self, metadata: impl FnOnce() -> Metadata) -> &Layers {
        let found = match &*self.matches {
            [] => None,
            matches => {
                let metadata = metadata();
                matches.iter().find(|one| one.holds(&metadata))
            }
        };
        found.map_or(&self.default, |found| &found.layers)
    }

    /// Whether hosts, or some of them, are told of clients.
    pub(crate) fn tells_of_clients(&self) -> bool {
        self.layers().any(|layers| layers.proxy_protocol.is_some())
    }

    /// Whether all hosts are spoken with over TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.layers().all(|layers| layers.tls.is_some())
    }

    fn layers(&self) -> impl Iterator<Item = &Layers> {
        self.matches.iter().map(|one| &one.layers).chain([&self.default])
    }

    /// Counts a host that came with these metadata.
    pub(super) fn count(&self, metadata: &Metadata) {
        match self.matches.iter().find(|one| one.holds(metadata)) {
            Some(found) => found.stats.total_match_count.inc(),
            None => self.state.default_total_match_count.inc(),
        }
    }

    /// Every TLS context, the default last.
    pub fn contexts(&self) -> impl Iterator<Item = &ClientTls> {
        self.layers().filter_map(|layers| layers.tls.as_deref())
    }
}

/// What `socket` is.
fn build_socket(
    socket: &core::TransportSocket,
    scope: &Scope,
    cx: &mut BuildCx<'_>,
) -> Result<Layers, Rejected> {
    match unpacked(socket, cx)? {
        (message, payload) if message == proxy_protocol::MESSAGE => cx.at("typed_config", |cx| {
            let proto: proto_proxy::ProxyProtocolUpstreamTransport = decode(&payload, cx)?;
            let proto_proxy::ProxyProtocolUpstreamTransport {
                config,
                transport_socket,
                allow_unspecified_address,
                tlv_as_pool_key: _,
            } = &proto;
            let config = config.clone().unwrap_or_default();
            let told =
                cx.at("config", |cx| ProxyProtocol::build(&config, *allow_unspecified_address, scope, cx));
            let tls = cx.at("transport_socket", |cx| match transport_socket {
                Some(socket) => {
                    let (message, payload) = unpacked(socket, cx)?;
                    build_tls(&message, &payload, scope, cx)
                }
                None => Err(cx.reject("value is required")),
            });
            Ok(Layers { proxy_protocol: Some(Box::new(told?)), tls: tls? })
        }),
        (message, payload) => {
            Ok(Layers { proxy_protocol: None, tls: build_tls(&message, &payload, scope, cx)? })
        }
    }
}

fn unpacked(socket: &core::TransportSocket, cx: &mut BuildCx<'_>) -> Result<(String, Vec<u8>), Rejected> {
    match &socket.config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => cx.unpack(any),
        None => Err(cx.at("typed_config", |cx| cx.reject("must be set"))),
    }
}

/// TLS, if that is what the socket is.
fn build_tls(
    message: &str,
    payload: &[u8],
    scope: &Scope,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Box<ClientTls>>, Rejected> {
    const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    cx.at("typed_config", |cx| match message {
        RAW_BUFFER => Ok(None),
        tls::client::MESSAGE => ClientTls::build(payload, scope, cx).map(|built| Some(Box::new(built))),
        other => Err(cx.reject(format!("transport socket '{other}' is not available"))),
    })
}
