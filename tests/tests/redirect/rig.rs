//! A pod with a proxy and a workload, and a peer.
//!
//! Every server answers with a line about the connection and ends it. The proxy puts its line before what the original
//! destination answers to it, so that an answer shows the whole way: `outbound(10.9.0.1:80 of 10.9.0.2:4321) peer(..)`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use integration::netns::Netns;
pub use integration::netns::User;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

/// How long a connection may take; a table under change drops packets, which are sent again after a second.
const SOON: Duration = Duration::from_secs(10);

/// How many connections a proxy has under way at most; more is a connection that comes back to it.
const MANY: usize = 32;

pub const WORKLOAD: User = User { uid: 1000, gid: 1000 };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V4,
    V6,
}

impl Version {
    pub const BOTH: [Version; 2] = [Version::V4, Version::V6];

    fn pick(self, v4: &str, v6: &str) -> IpAddr {
        match self {
            Version::V4 => v4,
            Version::V6 => v6,
        }
        .parse()
        .unwrap()
    }

    pub fn pod(self) -> IpAddr {
        self.pick("10.9.0.2", "2001:db8:9::2")
    }

    pub fn peer(self) -> IpAddr {
        self.pick("10.9.0.1", "2001:db8:9::1")
    }

    /// An address of the peer that plans exclude.
    pub fn excluded(self) -> IpAddr {
        self.pick("10.77.0.1", "2001:db8:77::1")
    }

    pub fn loopback(self) -> IpAddr {
        match self {
            Version::V4 => Ipv4Addr::LOCALHOST.into(),
            Version::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// Where the proxy's connections to the workload come from.
    pub fn inbound_source(self) -> IpAddr {
        self.pick("127.0.0.6", "::6")
    }

    pub fn any(self) -> IpAddr {
        self.pick("0.0.0.0", "::")
    }
}

/// How a server tells the original destination, and what it does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It answers itself.
    Plain,
    /// It answers with a line and waits until the client ends the connection.
    Held,
    /// Redirected; goes on as this user to the original destination, from the proxy's inbound address if that is given.
    Redirected(User, Option<IpAddr>),
    /// Redirected; goes on as this user to the same port of the loopback.
    Local(User),
    /// Diverted to a transparent socket; goes on as this user, in the client's name, with this mark.
    Transparent(User, u32),
}

/// A server on a thread in a namespace; it ends when this is dropped.
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(netns: &Netns, name: &'static str, at: SocketAddr, kind: Kind) -> Result<Server> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = netns.within(move || -> Result<JoinHandle<()>> {
            let listener = socket(at)?;
            listener.set_reuse_address(true)?;
            if at.is_ipv6() {
                listener.set_only_v6(true)?;
            }
            // so that it can be diverted to; otherwise it makes no difference
            listener.set_ip_transparent_v4(true)?;
            listener.bind(&at.into())?;
            listener.listen(1024)?;
            listener.set_nonblocking(true)?;
            Ok(std::thread::spawn(move || serve(&listener, name, kind, &stopped)))
        })??;
        Ok(Server { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

fn serve(listener: &Socket, name: &'static str, kind: Kind, stop: &AtomicBool) {
    let under_way = Arc::new(AtomicUsize::new(0));
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((accepted, _)) => {
                let under_way = under_way.clone();
                std::thread::spawn(move || answer(accepted.into(), name, kind, &under_way));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn answer(mut client: TcpStream, name: &str, kind: Kind, under_way: &AtomicUsize) {
    let _ = client.set_nonblocking(false);
    let (Ok(peer), Ok(local)) = (client.peer_addr(), client.local_addr()) else { return };
    let (to, onward) = match kind {
        Kind::Plain | Kind::Held => (local, None),
        Kind::Redirected(user, source) => {
            let to = original(&client).unwrap_or(local);
            (to, Some((user, source.map(|source| SocketAddr::new(source, 0)), 0)))
        }
        Kind::Local(user) => (original(&client).unwrap_or(local), Some((user, None, 0))),
        Kind::Transparent(user, mark) => (original(&client).unwrap_or(local), Some((user, Some(peer), mark))),
    };
    let mut text = format!("{name}({to} of {peer}) ");
    if let Some((user, source, mark)) = onward {
        let onward = match kind {
            Kind::Local(_) if to.is_ipv4() => SocketAddr::new(Version::V4.loopback(), to.port()),
            Kind::Local(_) => SocketAddr::new(Version::V6.loopback(), to.port()),
            _ => to,
        };
        text += &match under_way.fetch_add(1, Ordering::SeqCst) {
            0..MANY => converse(user, source, mark, onward),
            _ => "loop!".into(),
        };
        under_way.fetch_sub(1, Ordering::SeqCst);
    }
    if kind == Kind::Held {
        let _ = client.write_all(format!("{peer}\n").as_bytes());
        let _ = client.read(&mut [0]);
        return;
    }
    let _ = client.write_all(text.as_bytes());
    let _ = client.shutdown(Shutdown::Both);
}

fn original(client: &TcpStream) -> rustix::io::Result<SocketAddr> {
    match client.local_addr() {
        Ok(SocketAddr::V6(_)) => sockopt::ipv6_original_dst(client).map(SocketAddr::V6),
        _ => sockopt::ip_original_dst(client).map(SocketAddr::V4),
    }
}

fn socket(of: SocketAddr) -> std::io::Result<Socket> {
    Socket::new(Domain::for_address(of), Type::STREAM, Some(Protocol::TCP))
}

/// Connects from this thread's namespace and gives everything that comes back, or what went wrong.
fn converse(user: User, source: Option<SocketAddr>, mark: u32, to: SocketAddr) -> String {
    let connect = || -> std::io::Result<String> {
        if mark == 0 {
            // a mark, and a foreign source, take privileges that a user does not have
            user.become_one()?;
        }
        let socket = socket(to)?;
        if mark != 0 {
            socket.set_ip_transparent_v4(true)?;
            socket.set_mark(mark)?;
        }
        if let Some(source) = source {
            socket.set_reuse_address(true)?;
            let source = if mark == 0 { source } else { SocketAddr::new(source.ip(), 0) };
            socket.bind(&source.into())?;
        }
        socket.connect_timeout(&to.into(), SOON)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SOON))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    connect().unwrap_or_else(|error| format!("error: {error}"))
}

/// The pod and its peer.
pub struct Pod {
    pub pod: Netns,
    pub peer: Netns,
    servers: Vec<Server>,
}

impl Pod {
    /// Both, with a server on these ports of the peer and of the pod.
    pub fn new(ports: &[u16]) -> Result<Pod> {
        let (pod, peer) = (Netns::new()?, Netns::new()?);
        pod.cable("eth0", &peer, "eth0")?;
        peer.command("ip address add 10.9.0.1/24 dev eth0; ip address add 10.77.0.1/32 dev lo")?;
        peer.command(
            "ip -6 address add 2001:db8:9::1/64 dev eth0 nodad; ip -6 address add 2001:db8:77::1/128 dev lo",
        )?;
        pod.command(
            "ip address add 10.9.0.2/24 dev eth0; ip -6 address add 2001:db8:9::2/64 dev eth0 nodad",
        )?;
        pod.command("ip route add default via 10.9.0.1; ip -6 route add default via 2001:db8:9::1")?;
        let mut servers = Vec::new();
        for port in ports {
            for version in Version::BOTH {
                let at = SocketAddr::new(version.any(), *port);
                servers.push(Server::start(&peer, "peer", at, Kind::Plain)?);
                servers.push(Server::start(&pod, "workload", at, Kind::Plain)?);
            }
        }
        Ok(Pod { pod, peer, servers })
    }

    /// Adds a server to the pod, for both IP versions; `kind` depends on the version.
    pub fn serve(&mut self, name: &'static str, port: u16, kind: impl Fn(Version) -> Kind) -> Result<()> {
        for version in Version::BOTH {
            let at = SocketAddr::new(version.any(), port);
            self.servers.push(Server::start(&self.pod, name, at, kind(version))?);
        }
        Ok(())
    }

    /// A workload on one address alone.
    pub fn workload(&mut self, at: SocketAddr) -> Result<()> {
        self.servers.push(Server::start(&self.pod, "workload", at, Kind::Plain)?);
        Ok(())
    }

    /// What a process of the pod is answered.
    pub fn ask(&self, user: User, source: Option<IpAddr>, to: SocketAddr) -> String {
        let source = source.map(|source| SocketAddr::new(source, 0));
        self.pod.within(move || converse(user, source, 0, to)).unwrap()
    }

    /// What a process of the peer is answered.
    pub fn ask_from_peer(&self, to: SocketAddr) -> String {
        self.peer.within(move || converse(WORKLOAD, None, 0, to)).unwrap()
    }

    /// Runs `outrigger-iptables` in the pod; its exit code and what it said.
    pub fn run_iptables(&self, flags: &str, variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut command = Command::new(integration::process::outrigger_iptables().unwrap());
        command.args(flags.split_whitespace()).envs(variables.iter().copied());
        let output = self.pod.run(&mut command).unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text.into_owned())
    }

    pub fn try_iptables(&self, flags: &str) -> (Option<i32>, String) {
        self.run_iptables(flags, &[])
    }

    /// The same; it must succeed.
    pub fn iptables(&self, flags: &str) -> String {
        let (code, text) = self.try_iptables(flags);
        assert_eq!(code, Some(0), "outrigger-iptables {flags}: {text}");
        text
    }
}

/// A connection from this thread's namespace, from this very address and port, and whom the server says it is from.
pub fn hold(
    from: SocketAddr,
    to: SocketAddr,
    patience: Duration,
) -> std::io::Result<(TcpStream, SocketAddr)> {
    let socket = socket(to)?;
    // one address and port may be the source of connections to several destinations
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), patience)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    let seen = line.trim().parse().map_err(|_| std::io::Error::other(format!("answer {line:?}")))?;
    Ok((stream, seen))
}

/// How many files this process may have open at least.
pub fn allow_files(count: u64) -> Result<()> {
    let mut limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limits.current.is_some_and(|current| current < count) {
        ensure!(limits.maximum.is_none_or(|maximum| maximum >= count), "too few open files are allowed");
        limits.current = Some(count);
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limits)?;
    }
    Ok(())
}
