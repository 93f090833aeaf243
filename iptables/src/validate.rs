//! Trying the rules with a connection: it goes where the plan says it is captured, and must arrive at the proxy's port with its
//! original destination known.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use rustix::process::Uid;

use crate::address::{Family, Owner};
use crate::backend::Error;
use crate::cli::Validation;
use crate::explain::{Direction, Packet, Verdict, explain};
use crate::options::Options;
use crate::rule::{Plan, Protocol, Tracked};

/// How long between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// A connection that the plan captures.
#[derive(Clone, Copy, Debug)]
struct Probe {
    uid: Option<u32>,
    from: SocketAddr,
    to: SocketAddr,
    port: u16,
}

/// Tries the rules until a connection arrives as it should, or time is up.
///
/// # Errors
/// No connection arrived, or the plan captures none that could be tried.
pub fn validate(options: &Options, plan: &Plan, validation: Validation, v6: bool) -> Result<(), Error> {
    let Some(probe) = probe(options, plan, validation.port, if v6 { Family::V6 } else { Family::V4 }) else {
        return Err(Error::Other("the plan captures no connection that could be tried".into()));
    };
    let listener = SocketAddr::new(loopback(probe.to), probe.port);
    let listener =
        listen(listener).map_err(|error| Error::Other(format!("cannot listen on {listener}: {error}")))?;
    let deadline = Instant::now() + validation.timeout;
    let mut last = String::from("no connection arrived");
    while Instant::now() < deadline {
        match attempt(&listener, probe, deadline) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => last = error.to_string(),
        }
        std::thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
    }
    let Probe { to, port, .. } = probe;
    Err(Error::Other(format!(
        "a connection to {to} did not arrive at port {port} in {:?}: {last}",
        validation.timeout
    )))
}

/// The proxy's own connection to the workload, which comes in again; where a mesh has no such thing, somebody else's connection
/// to an address that is nobody's.
fn probe(options: &Options, plan: &Plan, port: u16, family: Family) -> Option<Probe> {
    let number = |owner: &Owner| match owner {
        Owner::Number(number) => Some(*number),
        Owner::Name(_) => None,
    };
    let proxy = options.proxy_uids.iter().find_map(number);
    let (own, elsewhere, here): (IpAddr, IpAddr, IpAddr) = match family {
        Family::V4 => (
            Ipv4Addr::new(127, 0, 0, 6).into(),
            Ipv4Addr::new(192, 0, 2, 1).into(),
            Ipv4Addr::LOCALHOST.into(),
        ),
        Family::V6 => (
            Ipv6Addr::from(6).into(),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::LOCALHOST.into(),
        ),
    };
    let tries = [(proxy, own, "lo"), (Some(65534), elsewhere, "eth0")];
    tries.into_iter().find_map(|(uid, to, interface)| {
        let (from, to) = (SocketAddr::new(here, 0), SocketAddr::new(to, port));
        let packet = Packet {
            direction: Direction::Out,
            protocol: Protocol::Tcp,
            from,
            to,
            uid,
            gid: uid,
            interface: interface.into(),
            state: Tracked::New,
            mark: 0,
            connection_mark: 0,
        };
        match explain(plan, &packet).verdict {
            Verdict::Redirected(port) => Some(Probe { uid, from, to, port }),
            _ => None,
        }
    })
}

fn loopback(address: SocketAddr) -> IpAddr {
    if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
}

fn socket(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(family, SocketType::STREAM, flags, None)
}

/// Beside a proxy that listens there already, if it must be.
fn listen(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let socket = socket(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// One connection; whether it arrived as it should.
fn attempt(listener: &OwnedFd, probe: Probe, deadline: Instant) -> io::Result<bool> {
    let _client = client(probe)?;
    let until = deadline.min(Instant::now() + Duration::from_secs(1));
    while Instant::now() < until {
        match rustix::net::accept(listener) {
            Ok(accepted) => {
                let original: SocketAddr = match probe.to {
                    SocketAddr::V4(_) => sockopt::ip_original_dst(&accepted).map(SocketAddr::V4)?,
                    SocketAddr::V6(_) => sockopt::ipv6_original_dst(&accepted).map(SocketAddr::V6)?,
                };
                if original == probe.to {
                    return Ok(true);
                }
            }
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

/// Connects as the user that the probe is for, if this process may; otherwise as who it is. The user of a socket is that
/// of the thread that makes it.
fn client(probe: Probe) -> io::Result<OwnedFd> {
    let connect = move || -> io::Result<OwnedFd> {
        if let Some(uid) = probe.uid.filter(|_| rustix::process::geteuid().is_root()) {
            let uid = Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        let socket = socket(probe.to)?;
        if probe.to.ip() == IpAddr::V6(Ipv6Addr::from(6)) {
            // an own address is connected to from itself, which is how the proxy's connections to the workload look
            rustix::net::bind(&socket, &probe.from)?;
        }
        match rustix::net::connect(&socket, &probe.to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error.into()),
        }
    };
    std::thread::spawn(connect)
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the connecting thread ended")))
}
