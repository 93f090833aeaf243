//! The transport sockets of a cluster: the one that most hosts have, and those that the metadata of some choose
//! (`transport_socket_matches`).
//!
//! A host's metadata are looked at when a connection is made to it: connections that are there stay as they are when they change.
//! Source: `TransportSocketMatch` in `envoy/config/cluster/v3/cluster.proto`.

use std::collections::BTreeMap;

use prost_types::Value;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::metadata::Metadata;
use proxy_core::stats::groups::{ClusterStateStats, TransportSocketMatchStats};
use proxy_core::stats::{Scope, Shared};
use xds_api::envoy::config::cluster::v3 as proto;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::endpoint::v3::ClusterLoadAssignment;

use crate::tls;
use crate::tls::client::ClientTls;

/// Where the metadata of endpoints say which socket they are for.
const NAMESPACE: &str = "envoy.transport_socket_match";

/// How hosts are spoken with: TLS, or none.
#[derive(Debug)]
pub struct Transport {
    /// The first that matches a host is the host's.
    matches: Box<[Match]>,
    default: Option<Box<ClientTls>>,
    state: Shared<ClusterStateStats>,
}

#[derive(Debug)]
struct Match {
    /// What the metadata of a host must have; nothing matches every host.
    criteria: BTreeMap<String, Value>,
    tls: Option<Box<ClientTls>>,
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
            let tls = cx.at("transport_socket", |cx| match &one.transport_socket {
                Some(socket) => build_socket(socket, scope, cx),
                None => Err(cx.reject("must be set")),
            })?;
            let criteria = one.r#match.clone().unwrap_or_default().fields;
            Ok(Match { criteria, tls, stats: scope.child(&one.name).shared() })
        });
        let built = Self { default: default.transpose()?.flatten(), matches: matches?.into(), state };
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

    /// The TLS for a host with these metadata; `None` without.
    pub fn of(&self, metadata: impl FnOnce() -> Metadata) -> Option<&ClientTls> {
        let found = match &*self.matches {
            [] => None,
            matches => {
                let metadata = metadata();
                matches.iter().find(|one| one.holds(&metadata))
            }
        };
        found.map_or(self.default.as_deref(), |found| found.tls.as_deref())
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
        self.matches.iter().filter_map(|one| one.tls.as_deref()).chain(self.default.as_deref())
    }
}

/// TLS, if that is what `socket` is.
fn build_socket(
    socket: &core::TransportSocket,
    scope: &Scope,
    cx: &mut BuildCx<'_>,
) -> Result<Option<Box<ClientTls>>, Rejected> {
    use core::transport_socket::ConfigType;
    const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    let Some(ConfigType::TypedConfig(any)) = &socket.config_type else {
        return Err(cx.at("typed_config", |cx| cx.reject("must be set")));
    };
    let (message, payload) = cx.unpack(any)?;
    cx.at("typed_config", |cx| match message.as_str() {
        RAW_BUFFER => Ok(None),
        tls::client::MESSAGE => ClientTls::build(&payload, scope, cx).map(|built| Some(Box::new(built))),
        other => Err(cx.reject(format!("transport socket '{other}' is not available"))),
    })
}
