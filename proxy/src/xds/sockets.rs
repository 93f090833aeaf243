//! The listening sockets of the process, kept here so that a listener's successor can share them.
//!
//! A socket is bound when its listener is taken and listens when the workers get it: the kernel would give connections to
//! one that nobody accepts on, because its listener waits for routes. For the same reason a pipe whose path serves already
//! is bound only then, as that takes the path away from whoever has it.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use proxy_core::address::Address;
use proxy_engine::listener::accept::{Bound, ListenerTag};
use proxy_engine::listener::config::Listener;
use proxy_engine::net::socket::{self, ListenOptions};
use proxy_engine::state::Sockets;
use socket2::Socket;

/// By tag, the addresses of each listener and what is bound to them.
pub(super) struct ListenSockets {
    workers: usize,
    open: HashMap<ListenerTag, Vec<Open>>,
}

/// One address of a listener.
struct Open {
    /// With the port that the kernel chose.
    address: Address,
    options: ListenOptions,
    /// One for each worker, or one for all; none if it is not to be bound, not yet or no longer.
    sockets: Vec<Socket>,
    /// To be bound when the workers get it.
    is_late: bool,
}

impl ListenSockets {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, open: HashMap::new() }
    }

    /// The addresses of a listener, ports chosen by the kernel included.
    pub(super) fn addresses(&self, tag: ListenerTag) -> Vec<Address> {
        self.open.get(&tag).into_iter().flatten().map(|open| open.address.clone()).collect()
    }

    /// The sockets of each worker, to give away: they listen from now on.
    pub(super) fn of_workers(&mut self, tag: ListenerTag) -> io::Result<Vec<Vec<Bound>>> {
        let Some(listener) = self.open.get_mut(&tag) else { return Err(io::ErrorKind::NotFound.into()) };
        let mut sockets: Vec<Vec<Bound>> = (0..self.workers).map(|_| Vec::new()).collect();
        for open in listener {
            if std::mem::take(&mut open.is_late) {
                open.sockets = vec![socket::bind(&open.address, &open.options)?];
            }
            for socket in &open.sockets {
                socket::listen(socket, &open.options)?;
            }
            for (of_worker, socket) in sockets.iter_mut().zip(open.sockets.iter().cycle()) {
                let socket = socket.try_clone()?;
                of_worker.push(match open.address.ip() {
                    Some(_) => Bound::Tcp(socket.into()),
                    None => Bound::Unix(OwnedFd::from(socket).into()),
                });
            }
        }
        Ok(sockets)
    }

    /// Closes the sockets; the addresses stay known, as `/listeners` of Envoy shows them to the end.
    pub(super) fn stop(&mut self, tag: ListenerTag) {
        for open in self.open.get_mut(&tag).into_iter().flatten() {
            open.sockets = Vec::new();
        }
    }

    pub(super) fn close(&mut self, tag: ListenerTag) {
        self.open.remove(&tag);
    }

    /// Whether this is the file of a pipe that another form of the listener has.
    fn is_served_pipe(&self, address: &Address) -> bool {
        let Address::Pipe(path) = address else { return false };
        !path.starts_with('@') && self.open.values().flatten().any(|open| open.address == *address)
    }

    fn bind(&self, address: &Address, options: &ListenOptions) -> io::Result<Open> {
        let first = socket::bind(address, options)?;
        // The kernel may have chosen the port.
        let address = socket::local_address(&first)?;
        let mut sockets = vec![first];
        // Without SO_REUSEPORT all workers accept on one socket.
        if options.reuse_port && address.ip().is_some() {
            for _ in 1..self.workers {
                sockets.push(socket::bind(&address, options)?);
            }
        }
        Ok(Open { address, options: options.clone(), sockets, is_late: false })
    }
}

impl Sockets for ListenSockets {
    fn open(&mut self, tag: ListenerTag, listener: &Listener) -> Result<(), String> {
        let mut opened = Vec::new();
        for (address, options) in &listener.addresses {
            let is_late = listener.bind_to_port && self.is_served_pipe(address);
            if is_late || !listener.bind_to_port {
                let (address, options) = (address.clone(), options.clone());
                opened.push(Open { address, options, sockets: Vec::new(), is_late });
                continue;
            }
            let cannot = |error: io::Error| format!("cannot bind '{address}': {}", plain(&error));
            opened.push(self.bind(address, options).map_err(cannot)?);
        }
        self.open.insert(tag, opened);
        Ok(())
    }

    fn share(&mut self, from: ListenerTag, tag: ListenerTag, listener: &Listener) -> Result<(), String> {
        let Some(known) = self.open.get(&from) else { return Err("the listener has no sockets".to_owned()) };
        let one = |(known, (_, options)): (&Open, &(Address, ListenOptions))| -> io::Result<Open> {
            Ok(Open {
                address: known.address.clone(),
                options: options.clone(),
                sockets: known.sockets.iter().map(Socket::try_clone).collect::<io::Result<_>>()?,
                is_late: known.is_late,
            })
        };
        let shared: io::Result<_> = known.iter().zip(&listener.addresses).map(one).collect();
        let shared = shared.map_err(|error| format!("cannot share sockets: {}", plain(&error)))?;
        self.open.insert(tag, shared);
        Ok(())
    }
}

/// The system's words without Rust's `(os error 98)`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
