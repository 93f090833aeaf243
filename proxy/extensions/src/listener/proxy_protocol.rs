//! `envoy.filters.listener.proxy_protocol`: addresses that a proxy in front tells in a PROXY protocol header, v1 or v2.
//!
//! The header is cut off the stream and its addresses become the connection's. `rules` put TLVs of a v2 header into the
//! connection's metadata or filter state. Everything that is not exactly a header closes the connection, unless the first bytes rule a
//! header out and `allow_requests_without_proxy_protocol` is set.
//! Sources: Envoy `docs/root/configuration/listeners/listener_filters/proxy_protocol.rst`; HAProxy's
//! `proxy-protocol.txt`, sections 2.1 and 2.2. Verdicts observed on Envoy 1.40.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use proxy_core::address::Address;
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::listener_filter::{
    ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerStep, Socket,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::proxy_protocol::Tlv;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::{ProxyProtocolErrorStats, ProxyProtocolStats};
use proxy_core::stream_info::ConnectionInfo;
use xds_api::envoy::config::core::v3::ProxyProtocolPassThroughTlVs;
use xds_api::envoy::config::core::v3::proxy_protocol_config::Version as ProtoVersion;
use xds_api::envoy::config::core::v3::proxy_protocol_pass_through_tl_vs::PassTlVsMatchType;
use xds_api::envoy::extensions::filters::listener::proxy_protocol::v3 as proto;

mod rules;

use FieldUse::Used;
use rules::Rules;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        &[
            ("rules", Used),
            ("allow_requests_without_proxy_protocol", Used),
            ("pass_through_tlvs", Used),
            ("disallowed_versions", Used),
            ("stat_prefix", Used),
            ("tlv_location", Used),
        ],
    ),
    (
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol.Rule",
        &[("tlv_type", Used), ("on_tlv_present", Used)],
    ),
    (
        "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol.KeyValuePair",
        &[("metadata_namespace", Used), ("key", Used), ("value_string_encoding", Used)],
    ),
];

/// The extension.
pub struct ProxyProtocol;

impl ListenerFilterFactory for ProxyProtocol {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.listener.proxy_protocol",
            message: "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn ListenerFilterConfig>, Rejected> {
        Ok(Arc::new(Shared(Arc::new(Config::build(decode(payload, cx)?, cx)?))))
    }
}

struct Config {
    rules: Rules,
    /// The types of TLVs that hosts may be told of.
    passed: Passed,
    allow_without: bool,
    allow_v1: bool,
    allow_v2: bool,
    stats: Cells<ProxyProtocolStats>,
    errors: Cells<ProxyProtocolErrorStats>,
}

enum Passed {
    All,
    Some(Vec<u8>),
}

impl Passed {
    fn build(proto: Option<&ProxyProtocolPassThroughTlVs>) -> Self {
        let Some(proto) = proto else { return Self::Some(Vec::new()) };
        match proto.match_type() {
            PassTlVsMatchType::IncludeAll => Self::All,
            // (The API allows no greater ones.)
            PassTlVsMatchType::Include => {
                Self::Some(proto.tlv_type.iter().filter_map(|kind| u8::try_from(*kind).ok()).collect())
            }
        }
    }

    fn has(&self, kind: u8) -> bool {
        match self {
            Self::All => true,
            Self::Some(kinds) => kinds.contains(&kind),
        }
    }
}

impl Config {
    fn build(proto: proto::ProxyProtocol, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::ProxyProtocol {
            rules,
            allow_requests_without_proxy_protocol,
            pass_through_tlvs,
            disallowed_versions,
            stat_prefix,
            tlv_location,
        } = proto;
        let rules = Rules::build(rules, tlv_location, cx)?;
        let scope = match stat_prefix.as_str() {
            "" => "proxy_proto".to_owned(),
            prefix => format!("proxy_proto.{prefix}"),
        };
        Ok(Self {
            rules,
            passed: Passed::build(pass_through_tlvs.as_ref()),
            allow_without: allow_requests_without_proxy_protocol,
            allow_v1: !disallowed_versions.contains(&(ProtoVersion::V1 as i32)),
            allow_v2: !disallowed_versions.contains(&(ProtoVersion::V2 as i32)),
            stats: cx.env.stats.scope(&scope).cells(),
            errors: cx.env.stats.scope("").cells(),
        })
    }
}

struct Shared(Arc<Config>);

impl ListenerFilterConfig for Shared {
    fn create(&self) -> Box<dyn ListenerFilter> {
        Box::new(Filter { config: self.0.clone(), wanted: V1_LIMIT })
    }
}

const V1_SIGNATURE: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A v1 header is never longer, line break included.
const V1_LIMIT: usize = 107;
const V2_FIXED: usize = 16;

/// Version of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its version.
    pub version: Version,
    /// Its length in bytes.
    pub length: usize,
    /// Source and destination; `None` if the proxy speaks for itself or does not know (`UNKNOWN`, `LOCAL`).
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The TLVs of a v2 header, as they came.
    pub tlvs: &'a [u8],
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// A header.
    Header(Header<'a>),
    /// The beginning of a header that may be up to this long, of this version if that is known.
    More(usize, Option<Version>),
    /// Not a header.
    NotFound,
    /// Something that began as a header and is none.
    Invalid(Version),
}

/// Reads the header at the beginning of `data`.
pub fn parse(data: &[u8]) -> Parsed<'_> {
    let begins = |signature: &[u8]| data.starts_with(signature) || signature.starts_with(data);
    if data.starts_with(V1_SIGNATURE) {
        return parse_v1(data);
    }
    if data.starts_with(V2_SIGNATURE) {
        return parse_v2(data);
    }
    if begins(V1_SIGNATURE) || begins(V2_SIGNATURE) {
        return Parsed::More(V1_LIMIT, None);
    }
    Parsed::NotFound
}

fn parse_v1(data: &[u8]) -> Parsed<'_> {
    let line = data.get(..V1_LIMIT).unwrap_or(data);
    let Some(end) = line.windows(2).position(|pair| pair == b"\r\n") else {
        return if data.len() < V1_LIMIT {
            Parsed::More(V1_LIMIT, Some(Version::V1))
        } else {
            Parsed::Invalid(Version::V1)
        };
    };
    let header = |addresses| Header { version: Version::V1, length: end + 2, addresses, tlvs: &[] };
    let words: Option<Vec<&str>> =
        line.get(..end).and_then(|line| std::str::from_utf8(line).ok()).map(|line| line.split(' ').collect());
    match words.as_deref() {
        Some(["PROXY", "UNKNOWN", ..]) => Parsed::Header(header(None)),
        Some(["PROXY", family @ ("TCP4" | "TCP6"), source, destination, source_port, destination_port]) => {
            let ip = |text: &str| -> Option<IpAddr> {
                match *family {
                    "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
                    _ => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
                }
            };
            let address = |text: &str, port: &str| Some(SocketAddr::new(ip(text)?, parse_port(port)?));
            match address(source, source_port).zip(address(destination, destination_port)) {
                Some(pair) if is_unicast(pair) => Parsed::Header(header(Some(pair))),
                Some(_) | None => Parsed::Invalid(Version::V1),
            }
        }
        Some(_) | None => Parsed::Invalid(Version::V1),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    // `parse` would take a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Whether both addresses can be those of a connection.
fn is_unicast((source, destination): (SocketAddr, SocketAddr)) -> bool {
    let fits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    fits(source.ip()) && fits(destination.ip())
}

fn parse_v2(data: &[u8]) -> Parsed<'_> {
    let invalid = Parsed::Invalid(Version::V2);
    let Some(&[version_command, family, high, low]) =
        data.get(V2_SIGNATURE.len()..V2_FIXED).and_then(|fixed| <&[u8; 4]>::try_from(fixed).ok())
    else {
        return Parsed::More(V2_FIXED, Some(Version::V2));
    };
    let length = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    let (version, command) = (version_command >> 4, version_command & 0xf);
    // Both transports of IP are addresses all the same.
    let address_length = match (command, family) {
        (0, _) => 0,
        (1, 0x11 | 0x12) => 12,
        (1, 0x21 | 0x22) => 36,
        _ => return invalid,
    };
    if version != 2 || length < V2_FIXED + address_length {
        return invalid;
    }
    let Some(body) = data.get(V2_FIXED..length) else { return Parsed::More(length, Some(Version::V2)) };
    if command == 0 {
        return Parsed::Header(Header { version: Version::V2, length, addresses: None, tlvs: &[] });
    }
    let Some((addresses, tlvs)) = body.split_at_checked(address_length) else { return invalid };
    match v2_addresses(addresses) {
        Some(pair) if is_unicast(pair) => {
            Parsed::Header(Header { version: Version::V2, length, addresses: Some(pair), tlvs })
        }
        Some(_) | None => invalid,
    }
}

fn v2_addresses(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?));
    let (source, destination, ports): (IpAddr, IpAddr, usize) = if bytes.len() == 12 {
        let ip = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
        (ip(0)?.into(), ip(4)?.into(), 8)
    } else {
        let ip = |at: usize| Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?));
        (ip(0)?.into(), ip(16)?.into(), 32)
    };
    Some((SocketAddr::new(source, port(ports)?), SocketAddr::new(destination, port(ports + 2)?)))
}

/// The TLVs of a header as type and value; `None` if they do not add up.
pub fn tlvs(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut all = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<3>() {
        let [kind, high, low] = *head;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        all.push((kind, value));
        bytes = rest;
    }
    bytes.is_empty().then_some(all)
}

struct Filter {
    config: Arc<Config>,
    wanted: usize,
}

impl Filter {
    /// The version that `parsed` turns out to be and that is not allowed.
    fn disallowed(&self, parsed: &Parsed<'_>) -> Option<Version> {
        let version = match parsed {
            Parsed::Header(header) => header.version,
            Parsed::More(_, Some(version)) | Parsed::Invalid(version) => *version,
            Parsed::More(_, None) | Parsed::NotFound => return None,
        };
        let allowed = match version {
            Version::V1 => self.config.allow_v1,
            Version::V2 => self.config.allow_v2,
        };
        (!allowed).then_some(version)
    }

    fn count(&self, version: Version, v1: Counting, v2: Counting) {
        let stats = self.config.stats.here();
        match version {
            Version::V1 => v1(stats).inc(),
            Version::V2 => v2(stats).inc(),
        }
    }

    fn invalid(&self, version: Version) -> ListenerStep {
        self.count(version, |stats| &stats.v1_error, |stats| &stats.v2_error);
        self.config.errors.here().downstream_cx_proxy_proto_error.inc();
        ListenerStep::Close
    }

    fn not_found(&self) -> ListenerStep {
        if self.config.allow_without {
            self.config.stats.here().not_found_allowed.inc();
            return ListenerStep::Continue { consume: 0 };
        }
        self.config.stats.here().not_found_disallowed.inc();
        self.config.errors.here().downstream_cx_proxy_proto_error.inc();
        ListenerStep::Close
    }

    fn apply(&self, header: &Header<'_>, info: &mut ConnectionInfo) -> ListenerStep {
        // They must add up whether somebody wants them or not.
        let Some(tlvs) = tlvs(header.tlvs) else { return self.invalid(header.version) };
        self.config.rules.apply(&tlvs, info);
        let mut passed = tlvs.iter().filter(|(kind, _)| self.config.passed.has(*kind)).peekable();
        info.proxied = Some(match passed.peek() {
            Some(_) => passed.map(|(kind, value)| Tlv { kind: *kind, value: (*value).into() }).collect(),
            None => Arc::default(),
        });
        self.count(header.version, |stats| &stats.v1_found, |stats| &stats.v2_found);
        if let Some((source, destination)) = header.addresses {
            info.remote = Address::Ip(source);
            let destination = Address::Ip(destination);
            if destination != info.local {
                info.local = destination;
                info.local_restored = true;
            }
        }
        ListenerStep::Continue { consume: header.length }
    }
}

type Counting = fn(&ProxyProtocolStats) -> &proxy_core::stats::Counter;

impl ListenerFilter for Filter {
    fn max_read_bytes(&self) -> usize {
        self.wanted
    }

    fn on_data(&mut self, data: &[u8], _socket: &dyn Socket, info: &mut ConnectionInfo) -> ListenerStep {
        let parsed = parse(data);
        if let Some(version) = self.disallowed(&parsed) {
            if self.config.allow_without {
                return self.not_found();
            }
            self.count(version, |stats| &stats.v1_disallowed, |stats| &stats.v2_disallowed);
            self.count(version, |stats| &stats.v1_found, |stats| &stats.v2_found);
            return ListenerStep::Close;
        }
        match parsed {
            Parsed::Header(header) => self.apply(&header, info),
            Parsed::More(length, _) => {
                self.wanted = self.wanted.max(length);
                ListenerStep::NeedData
            }
            Parsed::NotFound => self.not_found(),
            Parsed::Invalid(version) => self.invalid(version),
        }
    }
}

#[cfg(test)]
mod tests;
