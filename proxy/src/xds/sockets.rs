//! The listening sockets of the process: one set for each worker, kept here so that a listener's successor can share them.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use proxy_core::address::Address;
use proxy_engine::listener::accept::{Bound, ListenerTag};
use proxy_engine::listener::config::Listener;
use proxy_engine::net::socket;
use proxy_engine::state::Sockets;

/// By tag, the sockets of each worker and the addresses they are bound to.
pub(super) struct ListenSockets {
    workers: usize,
    open: HashMap<ListenerTag, Open>,
}

struct Open {
    addresses: Vec<Address>,
    sockets: Vec<Vec<Bound>>,
}

impl ListenSockets {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, open: HashMap::new() }
    }

    /// The addresses of a listener, ports chosen by the kernel included.
    pub(super) fn addresses(&self, tag: ListenerTag) -> Vec<Address> {
        self.open.get(&tag).map(|open| open.addresses.clone()).unwrap_or_default()
    }

    /// The sockets of each worker, to give away.
    pub(super) fn of_workers(&self, tag: ListenerTag) -> io::Result<Vec<Vec<Bound>>> {
        match self.open.get(&tag) {
            Some(open) => duplicate(&open.sockets),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Closes the sockets; the addresses stay known, as `/listeners` of Envoy shows them to the end.
    pub(super) fn stop(&mut self, tag: ListenerTag) {
        if let Some(open) = self.open.get_mut(&tag) {
            open.sockets = Vec::new();
        }
    }

    pub(super) fn close(&mut self, tag: ListenerTag) {
        self.open.remove(&tag);
    }
}

impl Sockets for ListenSockets {
    fn open(&mut self, tag: ListenerTag, listener: &Listener) -> Result<(), String> {
        let mut sockets: Vec<Vec<Bound>> = (0..self.workers).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for (address, options) in &listener.addresses {
            if !listener.bind_to_port {
                addresses.push(address.clone());
                continue;
            }
            let cannot = |error: io::Error| format!("cannot bind '{address}': {}", plain(&error));
            let first = socket::listen(address, options).map_err(cannot)?;
            // The kernel may have chosen the port.
            let bound = socket::local_address(&first).map_err(cannot)?;
            for (worker, of_worker) in sockets.iter_mut().enumerate() {
                // Without SO_REUSEPORT all workers accept on one socket.
                let socket = match worker > 0 && options.reuse_port && bound.ip().is_some() {
                    true => socket::listen(&bound, options),
                    false => first.try_clone(),
                }
                .map_err(cannot)?;
                of_worker.push(match bound.ip() {
                    Some(_) => Bound::Tcp(socket.into()),
                    None => Bound::Unix(OwnedFd::from(socket).into()),
                });
            }
            addresses.push(bound);
        }
        self.open.insert(tag, Open { addresses, sockets });
        Ok(())
    }

    fn share(&mut self, from: ListenerTag, tag: ListenerTag) -> Result<(), String> {
        let Some(open) = self.open.get(&from) else { return Err("the listener has no sockets".to_owned()) };
        let sockets =
            duplicate(&open.sockets).map_err(|error| format!("cannot share sockets: {}", plain(&error)))?;
        let addresses = open.addresses.clone();
        self.open.insert(tag, Open { addresses, sockets });
        Ok(())
    }
}

fn duplicate(sockets: &[Vec<Bound>]) -> io::Result<Vec<Vec<Bound>>> {
    let one = |bound: &Bound| match bound {
        Bound::Tcp(tcp) => tcp.try_clone().map(Bound::Tcp),
        Bound::Unix(unix) => unix.try_clone().map(Bound::Unix),
    };
    sockets.iter().map(|of_worker| of_worker.iter().map(one).collect()).collect()
}

/// The system's words without Rust's `(os error 98)`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}
