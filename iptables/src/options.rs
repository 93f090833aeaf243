//! What is to be captured, exempted and diverted: the meaning of the command line, checked.

use std::net::IpAddr;

use crate::address::{Cidr, Owner, Ports};

/// How inbound connections reach the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interception {
    /// The destination is rewritten; the proxy asks for the original one (`SO_ORIGINAL_DST`).
    Redirect,
    /// Nothing is rewritten: the proxy's transparent socket takes the connection as it is, the client's address included.
    TProxy,
}

/// Which inbound ports are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// All but these.
    AllBut(Vec<Ports>),
    /// These; an empty list captures nothing.
    Only(Vec<Ports>),
}

impl Inbound {
    /// Whether any inbound port is captured.
    pub fn captures(&self) -> bool {
        !matches!(self, Inbound::Only(ports) if ports.is_empty())
    }
}

/// Which destinations outbound connections are captured for, unless they are excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    All,
    Only(Vec<Cidr>),
}

/// Whose outbound connections are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Groups {
    AllBut(Vec<Owner>),
    Only(Vec<Owner>),
}

/// Whose DNS queries are captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dns {
    /// Those to any server.
    All,
    /// Those to these servers.
    Servers(Vec<IpAddr>),
}

/// Whose rules they are: the shape, the names of the chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mesh {
    Istio,
    Osm,
    Linkerd,
    Outrigger,
}

/// Which IP versions are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// IPv4 alone.
    V4,
    /// Both. (There is no IPv6 alone: IPv4 loopback exists everywhere.)
    Both,
}

/// Everything a plan is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub mesh: Mesh,
    pub families: Families,
    /// The proxy's port for outbound connections.
    pub outbound_port: u16,
    /// The proxy's port for inbound connections.
    pub inbound_port: u16,
    /// The proxy's port for tunnels (HBONE), which is reached directly.
    pub tunnel_port: u16,
    pub proxy_uids: Vec<Owner>,
    pub proxy_gids: Vec<Owner>,
    pub interception: Interception,
    pub inbound: Inbound,
    /// Sources whose inbound connections are left alone.
    pub inbound_sources_exclude: Vec<Cidr>,
    /// Interfaces whose traffic is left alone.
    pub interfaces_exclude: Vec<String>,
    /// Interfaces of virtual machines: what comes in from them is outbound.
    pub virtual_interfaces: Vec<String>,
    pub outbound: Ranges,
    pub outbound_exclude: Vec<Cidr>,
    /// Ports that are captured whatever the destination.
    pub outbound_ports: Vec<Ports>,
    pub outbound_ports_exclude: Vec<Ports>,
    pub groups: Groups,
    pub dns: Option<Dns>,
    /// Drop inbound packets that connection tracking calls invalid, instead of answering them with a reset.
    pub drop_invalid: bool,
    /// The mark of packets that are diverted to the host, and of the proxy's connections in the client's name.
    pub tproxy_mark: u32,
    pub tproxy_table: u32,
    /// The IPv4 range that counts as the workload's own loopback.
    pub loopback: Cidr,
    /// The pod's address, to which the proxy's connections to 127.0.0.1 are rewritten (OSM's pod IP mode).
    pub pod_ip: Option<IpAddr>,
    /// Copy the head of captured packets to a log group.
    pub trace: bool,
}

/// The mark of the proxy's connections to the workload's own address, which are to be inbound again (TPROXY).
pub const SELF_MARK: u32 = 1338;

/// The port of the DNS proxy beside the sidecar.
pub const DNS_PROXY_PORT: u16 = 15053;

/// How many groups may be named for capture: they share one rule.
pub const MAX_GROUPS: usize = 64;

/// Where the proxy's connections to the workload come from, so that they are not captured again.
pub const INBOUND_SOURCE_V4: Cidr = Cidr::v4(127, 0, 0, 6);
/// The same for IPv6.
pub const INBOUND_SOURCE_V6: Cidr = Cidr::v6(6);
