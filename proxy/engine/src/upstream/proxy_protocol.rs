//! The PROXY protocol towards hosts: every connection begins with a header that tells of the client
//! (`envoy.transport_sockets.upstream_proxy_protocol`).
//!
//! Sources: `envoy/extensions/transport_sockets/proxy_protocol/v3`, `envoy/config/core/v3/proxy_protocol.proto`; HAProxy's
//! `proxy-protocol.txt`, sections 2.1 and 2.2. What goes into a header observed on Envoy 1.40.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use prost::Message;
use proxy_core::address::Address;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::message_name;
use proxy_core::metadata::Metadata;
use proxy_core::proxy_protocol::Tlv;
use proxy_core::stats::groups::UpstreamProxyProtocolStats;
use proxy_core::stats::{Cells, Scope};
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use proxy_core::upstream::Host;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::proxy_protocol_config::Version;
use xds_api::envoy::config::core::v3::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType;

use super::added_tlvs::{AddedTlvs, kind};
use super::transport_options::Client;
use crate::local::clock;
use crate::net::connection::Socket;

/// The message that configures it.
pub(super) const MESSAGE: &str =
    "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
/// Where the metadata of an endpoint have TLVs of its own.
const NAMESPACE: &str = "envoy.transport_sockets.proxy_protocol";
const PER_HOST: &str = "envoy.config.core.v3.PerHostConfig";

const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
/// Families, of streams.
const UNSPECIFIED: u8 = 0x00;
const INET: u8 = 0x11;
const INET6: u8 = 0x21;

/// How hosts are told.
#[derive(Debug)]
pub struct ProxyProtocol {
    version: Version,
    passed: Passed,
    added: AddedTlvs,
    allow_unspecified: bool,
    stats: Cells<UpstreamProxyProtocolStats>,
}

/// Which of the TLVs that a proxy in front of us sent are passed on.
#[derive(Debug)]
enum Passed {
    All,
    Some(BTreeSet<u8>),
}

/// A connection to a host that was just made.
pub(crate) struct Made<'c> {
    pub(crate) host: &'c Arc<Host>,
    pub(crate) socket: &'c Socket,
    /// Its number, unique in the process.
    pub(crate) id: u64,
}

impl Made<'_> {
    /// What texts tell of it: as in Envoy it is the connection that they are about, not that of the client.
    fn info(&self) -> StreamInfo {
        let known = |end: io::Result<Address>| end.unwrap_or_else(|_| self.host.address.clone());
        let (remote, local) = (known(self.socket.peer_address()), known(self.socket.local_address()));
        let connection = ConnectionInfo { id: self.id, ..ConnectionInfo::new(remote, local, Arc::default()) };
        let start = connection.start;
        let mut info = StreamInfo::new(Rc::new(connection), start, clock::wall(start));
        info.upstream.host = Some(self.host.clone());
        info
    }
}

impl ProxyProtocol {
    pub(super) fn build(
        proto: &core::ProxyProtocolConfig,
        allow_unspecified: bool,
        scope: &Scope,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let core::ProxyProtocolConfig { version, pass_through_tlvs, added_tlvs } = proto;
        let Ok(version) = Version::try_from(*version) else {
            return Err(cx.at("version", |cx| cx.reject("not a defined value")));
        };
        let added = AddedTlvs::build("added_tlvs", added_tlvs, cx);
        let passed = match pass_through_tlvs {
            None => Passed::Some(BTreeSet::new()),
            Some(passed) if passed.match_type == PassTlVsMatchType::IncludeAll as i32 => Passed::All,
            Some(passed) => cx.at("pass_through_tlvs", |cx| {
                let kinds = cx.each("tlv_type", &passed.tlv_type, |one, cx| kind(*one, cx));
                kinds.map(|kinds| Passed::Some(kinds.into_iter().collect()))
            })?,
        };
        let stats = scope.child("upstream.proxyprotocol").cells();
        Ok(Self { version, passed, added: added?, allow_unspecified, stats })
    }

    /// What a connection that was just made begins with, if it is for a client.
    pub(crate) fn header(&self, client: &Client, made: &Made<'_>) -> Vec<u8> {
        match self.version {
            Version::V1 => v1(client.addresses),
            Version::V2 if client.addresses.is_some() || self.allow_unspecified => self.v2(client, made),
            Version::V2 => v2(LOCAL, UNSPECIFIED, &[]),
        }
    }

    /// What a connection on `socket` begins with that is for no client.
    pub fn own_header(&self, socket: &Socket) -> Vec<u8> {
        match self.version {
            Version::V1 => {
                let ip = |end: io::Result<Address>| end.ok().and_then(|end| end.socket_addr());
                v1(ip(socket.local_address()).zip(ip(socket.peer_address())))
            }
            Version::V2 => v2(LOCAL, UNSPECIFIED, &[]),
        }
    }

    fn v2(&self, client: &Client, made: &Made<'_>) -> Vec<u8> {
        let (family, mut body) = client.addresses.map_or((UNSPECIFIED, Vec::new()), addresses);
        let mut is_whole = true;
        for tlv in self.tlvs(client, made) {
            // The length of all is told in two octets, and so is that of each.
            let length = u16::try_from(tlv.value.len()).ok();
            match length.filter(|length| body.len() + 3 + usize::from(*length) <= usize::from(u16::MAX)) {
                Some(length) => {
                    body.push(tlv.kind);
                    body.extend_from_slice(&length.to_be_bytes());
                    body.extend_from_slice(&tlv.value);
                }
                None => is_whole = false,
            }
        }
        if !is_whole {
            self.stats.here().v2_tlvs_exceed_max_length.inc();
        }
        v2(PROXY, family, &body)
    }

    /// The TLVs of the host, then ours, then those of the proxy in front of us: none of a type that was there before.
    fn tlvs(&self, client: &Client, made: &Made<'_>) -> Vec<Tlv> {
        let mut tlvs = of_host(&made.host.metadata());
        let mut then = |others: &[Tlv], is_passed: &dyn Fn(u8) -> bool| {
            let known: BTreeSet<u8> = tlvs.iter().map(|tlv| tlv.kind).collect();
            let added = others.iter().filter(|tlv| is_passed(tlv.kind) && !known.contains(&tlv.kind));
            tlvs.extend(added.cloned());
        };
        then(&self.added.of(|| made.info()), &|_| true);
        then(&client.tlvs, &|kind| match &self.passed {
            Passed::All => true,
            Passed::Some(kinds) => kinds.contains(&kind),
        });
        tlvs
    }
}

/// The TLVs that the metadata of an endpoint have for it. What is no such message says nothing, as in Envoy; in one whose
/// types are none, octets are cut off as there.
fn of_host(metadata: &Metadata) -> Vec<Tlv> {
    let Some(any) = metadata.typed(NAMESPACE).filter(|any| message_name(&any.type_url) == PER_HOST) else {
        return Vec::new();
    };
    let added = core::PerHostConfig::decode(any.value.as_slice()).unwrap_or_default().added_tlvs;
    let known = added.into_iter();
    known.map(|one| Tlv { kind: one.r#type.to_le_bytes()[0], value: one.value.into_boxed_slice() }).collect()
}

fn v1(addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let mut line = String::from("PROXY ");
    match addresses.map(of_one_family) {
        Some((source, destination)) => {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let _ = write!(
                line,
                "{family} {} {} {} {}",
                source.ip(),
                destination.ip(),
                source.port(),
                destination.port()
            );
        }
        None => line.push_str("UNKNOWN"),
    }
    line.push_str("\r\n");
    line.into_bytes()
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    [V2_SIGNATURE, &[command, family], &length.to_be_bytes(), body].concat()
}

/// The family of addresses, and the addresses as a header has them.
fn addresses(pair: (SocketAddr, SocketAddr)) -> (u8, Vec<u8>) {
    let (source, destination) = of_one_family(pair);
    let mut octets = Vec::with_capacity(36);
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => octets.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => octets.extend_from_slice(&ip.octets()),
        }
    }
    octets.extend_from_slice(&source.port().to_be_bytes());
    octets.extend_from_slice(&destination.port().to_be_bytes());
    (if source.is_ipv4() { INET } else { INET6 }, octets)
}

/// Two addresses of which only one is of IPv6 are both written as such.
fn of_one_family((source, destination): (SocketAddr, SocketAddr)) -> (SocketAddr, SocketAddr) {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    match source.is_ipv4() == destination.is_ipv4() {
        true => (source, destination),
        false => (mapped(source), mapped(destination)),
    }
}
