//! `istio.metadata_exchange` of connections: sidecars tell each other over TCP which workload they stand for.
//!
//! Where both sides agreed on the protocol for it (ALPN), each says it before anything else: eight octets, a magic number and a length,
//! and so many octets of an `Any` with a `Struct`. What the peer says is kept in the filter state for statistics and access logs, and taken out
//! of the stream. Who begins with something else is left alone. The filter stands on both sides: before what serves clients, and
//! behind what speaks with hosts (`Cluster.filters`). Peers are looked up in no service of the control plane (`enable_discovery`), as with
//! the filter for HTTP.
//! Source: `MetadataExchange` in `xds/api/descriptors/istio/metadata_exchange.proto`; what is on the wire and counted is Istio's.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Any, Struct, Value};
use proxy_core::config::FieldUse::{Ignored, Used};
use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::network_filter::{
    ConnectionStep, CreateUpstreamFilter, DataStep, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
    UpstreamNetworkFilterFactory,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode, message_name};
use proxy_core::stats::Cells;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::tcp::metadataexchange::config as proto;

use crate::shared::istio::peer::{DOWNSTREAM, Peer, PeerState, UPSTREAM};

const MESSAGE: &str = "envoy.tcp.metadataexchange.config.MetadataExchange";
const MAGIC: [u8; 4] = 0x3D23_0467_u32.to_be_bytes();
const HEADER: usize = 8;
/// Most octets that a peer may say of itself. Some hundreds are usual.
const MOST: usize = 64 * 1024;
const METADATA: &str = "x-envoy-peer-metadata";
const ID: &str = "x-envoy-peer-metadata-id";
const STRUCT: &str = "google.protobuf.Struct";
/// Why a connection is closed.
const TOO_LONG: &str = "metadata_exchange_too_long";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    MESSAGE,
    &[
        ("protocol", Used),
        (
            "enable_discovery",
            Ignored("finds nothing, as in Istio's proxy where the service for it is absent"),
        ),
        ("additional_labels", Used),
    ],
)];

proxy_core::stats! {
    /// `metadata_exchange`
    pub sharded struct MetadataExchangeStats {
        /// Connections with the protocol.
        counter alpn_protocol_found,
        /// Connections without it.
        counter alpn_protocol_not_found,
        /// Peers whose words could not be read.
        counter header_not_found,
        /// Peers that began with something else.
        counter initial_header_not_found,
        /// Peers that were told.
        counter metadata_added,
    }
}

/// The extension, on either side.
pub struct IstioMetadataExchange;

const DESCRIPTOR: Descriptor = Descriptor {
    name: "istio.metadata_exchange",
    message: MESSAGE,
    status: Status::Stable,
    posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
};

impl NetworkFilterFactory for IstioMetadataExchange {
    fn descriptor(&self) -> Descriptor {
        DESCRIPTOR
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let config = Arc::new(Config::build(decode(payload, cx)?, Side::Client, cx)?);
        Ok(NetworkFilterConfig::Policy(Arc::new(move |_| Filter::boxed(&config))))
    }
}

impl UpstreamNetworkFilterFactory for IstioMetadataExchange {
    fn descriptor(&self) -> Descriptor {
        DESCRIPTOR
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<CreateUpstreamFilter>, Rejected> {
        let config = Arc::new(Config::build(decode(payload, cx)?, Side::Host, cx)?);
        Ok(Arc::new(move || Filter::boxed(&config)))
    }
}

/// Who the peer is.
#[derive(Clone, Copy)]
enum Side {
    Client,
    Host,
}

struct Config {
    side: Side,
    protocol: Vec<u8>,
    more_labels: Vec<String>,
    /// What peers are told.
    greeting: Bytes,
    stats: Cells<MetadataExchangeStats>,
}

impl Config {
    fn build(proto: proto::MetadataExchange, side: Side, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::MetadataExchange { protocol, enable_discovery: _, additional_labels } = proto;
        if protocol.is_empty() {
            return Err(cx.at("protocol", |cx| cx.reject("must not be empty")));
        }
        let node = &cx.env.node;
        Ok(Self {
            side,
            protocol: protocol.into_bytes(),
            greeting: said(&Peer::of_node(node, &additional_labels), &node.id),
            more_labels: additional_labels,
            stats: cx.env.stats.scope("metadata_exchange").cells(),
        })
    }

    /// Whether the peer agreed on the protocol.
    fn is_agreed(&self, info: &StreamInfo) -> bool {
        let session = match self.side {
            Side::Client => info.connection.tls.as_deref(),
            Side::Host => info.upstream.tls.as_deref(),
        };
        session.is_some_and(|session| session.alpn.as_ref() == Some(&self.protocol))
    }

    fn keep(&self, peer: Peer, info: &mut StreamInfo) {
        let key = match self.side {
            Side::Client => DOWNSTREAM,
            Side::Host => UPSTREAM,
        };
        PeerState::keep(info, key, Arc::new(peer));
    }
}

/// What is sent of `peer`, whose node has this id.
fn said(peer: &Peer, id: &str) -> Bytes {
    let value = |kind| Value { kind: Some(kind) };
    let mut message = Struct::default();
    message.fields.insert(METADATA.to_owned(), value(Kind::StructValue(peer.message())));
    if !id.is_empty() {
        message.fields.insert(ID.to_owned(), value(Kind::StringValue(id.to_owned())));
    }
    let type_url = format!("type.googleapis.com/{STRUCT}");
    let any = Any { type_url, value: message.encode_to_vec() }.encode_to_vec();
    let mut said = BytesMut::with_capacity(HEADER + any.len());
    said.put_slice(&MAGIC);
    said.put_u32(u32::try_from(any.len()).unwrap_or(u32::MAX));
    said.put_slice(&any);
    said.freeze()
}

/// The peer that says this of itself; none if it cannot be read.
fn heard(said: &[u8], more_labels: &[String]) -> Option<Peer> {
    let any = Any::decode(said).ok().filter(|any| message_name(&any.type_url) == STRUCT)?;
    let message = Struct::decode(&*any.value).ok()?;
    match message.fields.get(METADATA)?.kind.as_ref()? {
        Kind::StructValue(peer) => Some(Peer::read(peer, more_labels)),
        _ => None,
    }
}

struct Filter {
    config: Arc<Config>,
    heard: Heard,
}

/// How much of what the peer says was heard.
enum Heard {
    Nothing,
    /// So many octets are still to come after these.
    Part(usize, BytesMut),
    /// All that there is.
    All,
}

impl Filter {
    fn boxed(config: &Arc<Config>) -> Box<dyn NetworkFilter> {
        Box::new(Self { config: config.clone(), heard: Heard::All })
    }

    /// Looks for the eight octets that come first.
    fn poll_header(&mut self, data: &[u8], end: bool) -> Poll<DataStep> {
        let is_other = data.iter().zip(MAGIC).any(|(octet, wanted)| *octet != wanted);
        let stats = self.config.stats.here();
        match data.first_chunk::<HEADER>() {
            Some(&[_, _, _, _, a, b, c, d]) if !is_other => {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length > MOST {
                    stats.header_not_found.inc();
                    return Poll::Ready(DataStep::Close(TOO_LONG.into()));
                }
                self.heard = Heard::Part(length, BytesMut::new());
                Poll::Ready(DataStep::Take(HEADER))
            }
            None if !is_other && !end => Poll::Pending,
            Some(_) | None => {
                stats.initial_header_not_found.inc();
                Poll::Ready(DataStep::Done)
            }
        }
    }
}

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        let stats = self.config.stats.here();
        if self.config.is_agreed(info) {
            stats.alpn_protocol_found.inc();
            self.heard = Heard::Nothing;
        } else {
            stats.alpn_protocol_not_found.inc();
        }
        ConnectionStep::Continue
    }

    fn greeting(&mut self) -> Bytes {
        if !self.sees_data() {
            return Bytes::new();
        }
        self.config.stats.here().metadata_added.inc();
        self.config.greeting.clone()
    }

    fn sees_data(&self) -> bool {
        !matches!(self.heard, Heard::All)
    }

    fn poll_data(
        &mut self,
        _cx: &mut Context<'_>,
        data: &[u8],
        end: bool,
        info: &mut StreamInfo,
    ) -> Poll<DataStep> {
        match &mut self.heard {
            Heard::Nothing => self.poll_header(data, end),
            Heard::Part(0, said) => {
                match heard(said, &self.config.more_labels) {
                    Some(peer) => self.config.keep(peer, info),
                    None => self.config.stats.here().header_not_found.inc(),
                }
                self.heard = Heard::All;
                Poll::Ready(DataStep::Done)
            }
            Heard::Part(left, said) if !data.is_empty() => {
                let (next, _) = data.split_at((*left).min(data.len()));
                said.extend_from_slice(next);
                *left -= next.len();
                Poll::Ready(DataStep::Take(next.len()))
            }
            Heard::Part(..) if end => {
                self.config.stats.here().header_not_found.inc();
                Poll::Ready(DataStep::Done)
            }
            Heard::Part(..) => Poll::Pending,
            Heard::All => Poll::Ready(DataStep::Done),
        }
    }
}
