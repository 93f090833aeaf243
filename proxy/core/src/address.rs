//! Addresses of sockets: IP and port, or a path in the file system.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use xds_api::envoy::config::core::v3 as proto;
use xds_api::envoy::config::core::v3::socket_address::{PortSpecifier, Protocol};

use crate::config::{BuildCx, Rejected};

/// Where a socket is bound or connected.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// An IPv4 or IPv6 address and port.
    Ip(SocketAddr),
    /// A unix domain socket; a leading `@` means the abstract name space.
    Pipe(Arc<str>),
}

impl Address {
    /// The IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(address) => Some(address.ip()),
            Self::Pipe(_) => None,
        }
    }

    /// The address as it is printed; `None` if it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        match text.as_bytes().first()? {
            b'/' | b'@' => Some(Self::Pipe(text.into())),
            _ => text.parse().ok().map(Self::Ip),
        }
    }

    /// The port, if the address has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(address) => Some(address.port()),
            Self::Pipe(_) => None,
        }
    }

    /// The IP address and port, if it is one.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Ip(address) => Some(*address),
            Self::Pipe(_) => None,
        }
    }

    /// The address as messages have it.
    pub fn to_proto(&self) -> proto::Address {
        use proto::address::Address as Kind;
        let kind = match self {
            Self::Ip(socket) => Kind::SocketAddress(proto::SocketAddress {
                address: socket.ip().to_string(),
                port_specifier: Some(PortSpecifier::PortValue(socket.port().into())),
                ..proto::SocketAddress::default()
            }),
            Self::Pipe(path) => Kind::Pipe(proto::Pipe { path: path.to_string(), mode: 0 }),
        };
        proto::Address { address: Some(kind) }
    }

    /// Reads an address that must already be numeric: an IP with a port, or a pipe.
    pub fn build(address: &proto::Address, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        use proto::address::Address as Kind;
        match &address.address {
            Some(Kind::SocketAddress(socket)) => {
                cx.at("socket_address", |cx| Self::build_socket(socket, cx).map(Self::Ip))
            }
            Some(Kind::Pipe(pipe)) => cx.at("pipe", |cx| {
                if pipe.path.is_empty() {
                    return Err(cx.reject("path: a pipe needs a path"));
                }
                Ok(Self::Pipe(pipe.path.as_str().into()))
            }),
            Some(Kind::EnvoyInternalAddress(_)) => {
                Err(cx.reject("envoy_internal_address: internal addresses are not available"))
            }
            None => Err(cx.reject("address must be set")),
        }
    }

    /// Reads an IP address with a port.
    pub fn build_socket(socket: &proto::SocketAddress, cx: &mut BuildCx<'_>) -> Result<SocketAddr, Rejected> {
        if socket.protocol != Protocol::Tcp as i32 {
            return Err(cx.reject("protocol: only TCP is available"));
        }
        // (One does what Envoy does without any.)
        if !matches!(socket.resolver_name.as_str(), "" | "envoy.ip") {
            return Err(
                cx.reject(format!("resolver_name: Unknown address resolver: {}", socket.resolver_name))
            );
        }
        let port = match &socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => u16::try_from(*port)
                .map_err(|_| cx.reject(format!("port_value: {port} is not a port (0-65535)")))?,
            Some(PortSpecifier::NamedPort(name)) => {
                return Err(cx.reject(format!("named_port: '{name}' cannot be resolved; use port_value")));
            }
            None => 0,
        };
        match socket.address.parse::<IpAddr>() {
            Ok(ip) => Ok(SocketAddr::new(ip, port)),
            Err(_) => Err(cx.reject(format!("malformed IP address: {}", socket.address))),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => fmt::Display::fmt(address, f),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
