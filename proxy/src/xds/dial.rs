//! Connections to management servers, over the hosts of a cluster.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use http::Version;
use proxy_core::upstream::Host;
use proxy_engine::net::connection::Socket;
use proxy_engine::net::socket::connect;
use proxy_engine::state::Snapshot;
use proxy_engine::tls::client::Offer;
use proxy_engine::upstream::cluster::Cluster;
use tokio::io::{AsyncRead, AsyncWrite};
use xds::client::grpc::{Dial, Io, Keepalive};

/// The clusters in force, by name.
#[derive(Debug, Default)]
pub(super) struct Directory {
    snapshot: ArcSwap<Snapshot>,
    /// Attempts so far: each goes to the next host.
    attempts: AtomicUsize,
}

/// The socket, or the TLS session on it if the cluster has one.
async fn secured<S>(socket: S, cluster: &Cluster, host: &Host, offer: Offer) -> io::Result<Box<dyn Io>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    match &cluster.transport.of(|| host.metadata()).tls {
        Some(tls) => Ok(Box::new(tls.over(socket, host, offer).await.map_err(io::Error::other)?)),
        None => Ok(Box::new(socket)),
    }
}

type Dialling = Pin<Box<dyn Future<Output = io::Result<Box<dyn Io>>> + Send>>;

impl Directory {
    pub(super) fn publish(&self, snapshot: &Arc<Snapshot>) {
        self.snapshot.store(snapshot.clone());
    }

    /// What is in force.
    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }
}

impl Dial for Directory {
    fn dial(&self, cluster: &str, version: Version) -> Dialling {
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
            let Some(address) = host.addresses().first().cloned() else {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            };
            let offer = if version == Version::HTTP_2 { Offer::Http2 } else { Offer::Http1 };
            let connecting = async {
                let socket = connect(&address, cluster.connect_options(&address), None).await?;
                if let Some(told) = &cluster.transport.of(|| host.metadata()).proxy_protocol {
                    socket.write_all(&told.own_header(&socket)).await?;
                }
                match socket {
                    Socket::Tcp(tcp) => secured(tcp, &cluster, &host, offer).await,
                    Socket::Unix(unix) => secured(unix, &cluster, &host, offer).await,
                }
            };
            match tokio::time::timeout(cluster.connect_timeout, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }

    fn keepalive(&self, cluster: &str) -> Option<Keepalive> {
        let snapshot = self.snapshot.load();
        let keepalive = snapshot.cluster(cluster)?.http.http2.keepalive.as_deref()?;
        Some(Keepalive { interval: keepalive.schedule.interval?, timeout: keepalive.schedule.timeout })
    }
}
