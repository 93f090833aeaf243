//! Connections to management servers, over the hosts of a cluster.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use proxy_core::address::Address;
use proxy_engine::state::Snapshot;
use tokio::net::{TcpStream, UnixStream};
use xds::client::grpc::{Dial, Io};

/// The clusters in force, by name.
#[derive(Debug, Default)]
pub(super) struct Directory {
    snapshot: ArcSwap<Snapshot>,
    /// Attempts so far: each goes to the next host.
    attempts: AtomicUsize,
}

type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

impl Directory {
    pub(super) fn publish(&self, snapshot: &Arc<Snapshot>) {
        self.snapshot.store(snapshot.clone());
    }
}

impl Dial for Directory {
    fn dial(&self, cluster: &str) -> Dialling {
        let found = self.snapshot.load().cluster(cluster).cloned();
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let Some(cluster) = found else {
                return Err(io::Error::new(io::ErrorKind::NotFound, "there is no such cluster"));
            };
            let host = {
                let hosts = cluster.hosts_full();
                let hosts: Vec<_> = hosts.hosts().cloned().collect();
                hosts.get(attempt % hosts.len().max(1)).cloned()
            };
            let Some(host) = host else {
                return Err(io::Error::new(io::ErrorKind::NotConnected, "no healthy upstream"));
            };
            let connecting = connect(host.addresses().first().cloned());
            match tokio::time::timeout(cluster.connect_timeout, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }
}

async fn connect(address: Option<Address>) -> io::Result<Box<dyn Io>> {
    match address {
        Some(Address::Ip(address)) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Some(Address::Pipe(path)) => match path.strip_prefix('@') {
            Some(name) => {
                use std::os::linux::net::SocketAddrExt;
                let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
                let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
                stream.set_nonblocking(true)?;
                Ok(Box::new(UnixStream::from_std(stream)?))
            }
            None => Ok(Box::new(UnixStream::connect(&*path).await?)),
        },
        None => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}
