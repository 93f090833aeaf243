//! Making, binding, connecting and configuring sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use proxy_core::address::Address;
use proxy_core::stream_info::OriginalSource;
use rustix::net::{RecvFlags, Shutdown};
use socket2::{Domain, SockAddr, Type};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use xds_api::envoy::config::core::v3 as core;

use super::connection::Socket;
use super::option::RawOption;

/// Looks at the next bytes of a socket without taking them.
pub fn peek(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0)
}

/// Says that nothing more will be sent.
pub fn shutdown_write(socket: &impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(socket, Shutdown::Write)?)
}

/// How TCP probes a silent peer; `None` fields take the system's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// Probes without an answer before the connection is given up.
    pub probes: Option<u32>,
    /// Silence before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

impl Keepalive {
    /// Turns probing on.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let mut keepalive = socket2::TcpKeepalive::new();
        if let Some(time) = self.time {
            keepalive = keepalive.with_time(time);
        }
        if let Some(interval) = self.interval {
            keepalive = keepalive.with_interval(interval);
        }
        if let Some(probes) = self.probes {
            keepalive = keepalive.with_retries(probes);
        }
        socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive)
    }
}

/// How an upstream connection is made.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// Address to bind first.
    pub source: Option<SocketAddr>,
    /// Bind even if the address is not local.
    pub freebind: bool,
    /// Keepalive probes.
    pub keepalive: Option<Keepalive>,
    /// Raw socket options.
    pub options: Vec<RawOption>,
}

/// A socket could not be made ready to connect: what is wrong is on this side.
#[derive(Debug, thiserror::Error)]
pub enum Unready {
    /// The source address of the connection could not be had.
    #[error("failed to bind to {address}: {cause}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        cause: io::Error,
    },
    /// An option could not be set.
    #[error("{0}")]
    Option(io::Error),
}

impl Unready {
    /// What of this `error` is, if it is that.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}

/// Connects to `address`, in the name of `client` if there is one; no deadline of its own.
///
/// # Errors
/// The system's, or an [`Unready`].
pub async fn connect(
    address: &Address,
    options: &ConnectOptions,
    client: Option<OriginalSource>,
) -> io::Result<Socket> {
    let address = match address {
        Address::Pipe(path) => return Ok(Socket::Unix(connect_unix(path).await?)),
        Address::Ip(address) => *address,
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let prepared = prepare(&socket, options, client);
    let source = prepared.map_err(|cause| io::Error::other(Unready::Option(cause)))?;
    if let Some(address) = source {
        socket.bind(address).map_err(|cause| io::Error::other(Unready::Bind { address, cause }))?;
    }
    Ok(Socket::Tcp(socket.connect(address).await?))
}

/// Sets all options; the address to bind to.
fn prepare(
    socket: &TcpSocket,
    options: &ConnectOptions,
    client: Option<OriginalSource>,
) -> io::Result<Option<SocketAddr>> {
    let reference = socket2::SockRef::from(socket);
    socket.set_nodelay(true)?;
    for option in &options.options {
        option.apply(socket)?;
    }
    if let Some(keepalive) = &options.keepalive {
        keepalive.apply(socket)?;
    }
    let source = match client {
        Some(OriginalSource { ip, mark }) => {
            if mark != 0 {
                reference.set_mark(mark)?;
            }
            set_transparent(&reference, ip)?;
            Some(SocketAddr::new(ip, 0))
        }
        None => options.source,
    };
    if let Some(source) = source {
        if options.freebind {
            if source.is_ipv6() {
                reference.set_freebind_v6(true)?
            } else {
                reference.set_freebind_v4(true)?
            }
        }
        if source.port() == 0 {
            // The port is chosen when it is known where to: one serves for connections to many hosts.
            super::sys::set_bind_address_no_port(socket)?;
        }
    }
    Ok(source)
}

/// Lets a socket have an address that is not this host's.
fn set_transparent(socket: &socket2::Socket, ip: IpAddr) -> io::Result<()> {
    if ip.is_ipv6() { super::sys::set_transparent_v6(socket) } else { socket.set_ip_transparent_v4(true) }
}

async fn connect_unix(path: &str) -> io::Result<UnixStream> {
    let Some(name) = path.strip_prefix('@') else { return UnixStream::connect(path).await };
    use std::os::linux::net::SocketAddrExt;
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// How a listening socket is made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenOptions {
    /// One socket for each worker, balanced by the kernel.
    pub reuse_port: bool,
    /// Bind even if the address is not local.
    pub freebind: bool,
    /// Accept connections to any address (`IP_TRANSPARENT`).
    pub transparent: bool,
    /// An IPv6 wildcard accepts IPv4 as well.
    pub ipv4_compat: bool,
    /// Connections waiting to be accepted.
    pub backlog: Option<u32>,
    /// Length of the TCP Fast Open queue.
    pub fast_open: Option<u32>,
    /// Mode of a unix socket's file.
    pub pipe_mode: u32,
    /// Raw socket options.
    pub options: Vec<RawOption>,
}

impl ListenOptions {
    /// What an address says of its socket.
    pub fn of_address(address: &core::Address) -> Self {
        use core::address::Address as Kind;
        let mut options = Self::default();
        match &address.address {
            Some(Kind::SocketAddress(socket)) => options.ipv4_compat = socket.ipv4_compat,
            Some(Kind::Pipe(pipe)) => options.pipe_mode = pipe.mode,
            Some(Kind::EnvoyInternalAddress(_)) | None => {}
        }
        options
    }

    /// Whether a socket made with these options is as good as one made with `other`: all but what [`listen`] says anew.
    pub fn binds_like(&self, other: &Self) -> bool {
        *self == Self { backlog: self.backlog, ..other.clone() }
    }
}

/// A bound socket. Nobody can connect before [`listen`]; only a pipe's file is there, in place of what was there before.
pub fn bind(address: &Address, options: &ListenOptions) -> io::Result<socket2::Socket> {
    let (domain, sockaddr) = match address {
        Address::Ip(ip) => (Domain::for_address(*ip), SockAddr::from(*ip)),
        Address::Pipe(path) => (Domain::UNIX, unix_address(path)?),
    };
    let socket = socket2::Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    if let Address::Ip(ip) = address {
        socket.set_reuse_address(true)?;
        if ip.is_ipv6() {
            socket.set_only_v6(!options.ipv4_compat)?;
        }
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        if options.freebind {
            if ip.is_ipv6() { socket.set_freebind_v6(true)? } else { socket.set_freebind_v4(true)? }
        }
        if options.transparent {
            set_transparent(&socket, ip.ip())?;
        }
    } else if let Address::Pipe(path) = address
        && !path.starts_with('@')
    {
        // A socket file left by an earlier run would make bind fail; Envoy removes it too.
        let _ = std::fs::remove_file(&**path);
    }
    for option in &options.options {
        option.apply(&socket)?;
    }
    socket.bind(&sockaddr)?;
    if let Address::Pipe(path) = address
        && options.pipe_mode != 0
        && !path.starts_with('@')
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&**path, std::fs::Permissions::from_mode(options.pipe_mode))?;
    }
    if let Some(queue) = options.fast_open {
        super::sys::set_fast_open(&socket, queue)?;
    }
    Ok(socket)
}

/// Lets clients connect to a bound socket; to one that listens already it gives the length of its queue anew.
pub fn listen(socket: &socket2::Socket, options: &ListenOptions) -> io::Result<()> {
    socket.listen(i32::try_from(options.backlog.unwrap_or(4096)).unwrap_or(i32::MAX))
}

fn unix_address(path: &str) -> io::Result<SockAddr> {
    match path.strip_prefix('@') {
        Some(name) => SockAddr::unix(format!("\0{name}")),
        None => SockAddr::unix(path),
    }
}

/// The address a connected or listening socket is bound to.
pub fn local_address(socket: &impl AsFd) -> io::Result<Address> {
    address_of(&socket2::SockRef::from(socket).local_addr()?)
}

/// The address of the peer.
pub fn peer_address(socket: &impl AsFd) -> io::Result<Address> {
    address_of(&socket2::SockRef::from(socket).peer_addr()?)
}

fn address_of(address: &SockAddr) -> io::Result<Address> {
    if let Some(ip) = address.as_socket() {
        return Ok(Address::Ip(unmap(ip)));
    }
    if let Some(path) = address.as_pathname() {
        return Ok(Address::Pipe(path.to_string_lossy().as_ref().into()));
    }
    if let Some(name) = address.as_abstract_namespace() {
        return Ok(Address::Pipe(format!("@{}", String::from_utf8_lossy(name)).into()));
    }
    Ok(Address::Pipe("".into()))
}

/// An IPv4 address that arrived over an IPv6 socket as plain IPv4.
fn unmap(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// Where the client was going before the kernel redirected the connection: what `SO_ORIGINAL_DST` says (REDIRECT), or the
/// socket's own address if it is transparent (TPROXY), which nothing rewrote.
pub fn original_destination(tcp: &TcpStream) -> Option<Address> {
    let socket = socket2::SockRef::from(tcp);
    let local = socket.local_addr().ok()?.as_socket()?;
    let original = match unmap(local) {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    match original {
        Ok(original) => Some(Address::Ip(unmap(original.as_socket()?))),
        Err(_) if socket.ip_transparent_v4().unwrap_or(false) => Some(Address::Ip(unmap(local))),
        Err(_) => None,
    }
}

/// The address that stands for this host (Envoy's `LocalInfo`): the first of its interfaces' addresses that is of this
/// family and not loopback, or else the loopback address.
pub fn host_address(family: HostAddress) -> IpAddr {
    let is_v4 = family == HostAddress::V4;
    let addresses = super::sys::interface_addresses().unwrap_or_default();
    let found = addresses.into_iter().find(|ip| !ip.is_loopback() && ip.is_ipv4() == is_v4);
    found.unwrap_or(match family {
        HostAddress::V4 => Ipv4Addr::LOCALHOST.into(),
        HostAddress::V6 => Ipv6Addr::LOCALHOST.into(),
    })
}

/// The family of the address that stands for this host (`--local-address-ip-version`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAddress {
    /// IPv4
    V4,
    /// IPv6
    V6,
}
