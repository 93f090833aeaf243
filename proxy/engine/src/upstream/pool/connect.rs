//! Making a connection to a host: breakers, deadline, statistics; the guard that undoes the accounting.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use proxy_core::address::Address;
use proxy_core::stats::groups::ClusterTrafficStats;
use proxy_core::stream_error::UpstreamReset;

use super::HostPool;
use crate::net::connection::Connection;
use crate::net::socket;
use crate::upstream::circuit_breaker::{BreakerPriority, Permit, Resource};
use crate::upstream::cluster::Cluster;

/// Counts as one connection of a host until it is dropped.
pub(crate) struct ConnectionGuard {
    pool: Rc<HostPool>,
    permit: Option<Permit<Arc<Cluster>>>,
    established: Option<Instant>,
}

impl ConnectionGuard {
    /// Counts a connection to be made; `None` if the breaker is open. The first connection of a pool is always allowed.
    pub(crate) fn new(pool: &Rc<HostPool>, priority: BreakerPriority) -> Option<Self> {
        let permit = match Permit::acquire(pool.cluster.clone(), priority, Resource::Connections) {
            Ok(permit) => permit,
            Err(cluster) => {
                pool.cluster.stats.traffic.here().upstream_cx_overflow.inc();
                if pool.connections.get() > 0 {
                    return None;
                }
                Permit::acquire_over(cluster, priority, Resource::Connections)
            }
        };
        pool.connections.set(pool.connections.get() + 1);
        Some(Self { pool: pool.clone(), permit: Some(permit), established: None })
    }

    /// Statistics of the cluster.
    pub(crate) fn stats(&self) -> &ClusterTrafficStats {
        self.pool.cluster.stats.traffic.here()
    }

    fn establish(&mut self) {
        self.established = Some(Instant::now());
        let stats = self.pool.cluster.stats.traffic.here();
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        self.pool.host.stats.cx_total.fetch_add(1, Ordering::Relaxed);
        self.pool.host.active_connections.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.permit = None;
        self.pool.connections.set(self.pool.connections.get() - 1);
        if let Some(established) = self.established {
            let stats = self.pool.cluster.stats.traffic.here();
            stats.upstream_cx_active.dec();
            stats.upstream_cx_destroy.inc();
            let length = u64::try_from(established.elapsed().as_millis()).unwrap_or(u64::MAX);
            stats.upstream_cx_length_ms.record(length);
            self.pool.host.active_connections.fetch_sub(1, Ordering::Relaxed);
        }
        self.pool.http1.connection_gone();
    }
}

/// A connection to a host that was just made.
pub(crate) struct ConnectedSocket {
    /// The connection.
    pub(crate) connection: Connection,
    /// Address of this end.
    pub(crate) local: Option<Address>,
    /// Number of the connection.
    pub(crate) id: u64,
    /// When the connect began, and when it was done.
    pub(crate) connect_times: (Instant, Instant),
    /// Counts it.
    pub(crate) guard: ConnectionGuard,
}

/// Connects to the host of `guard`'s pool within the cluster's `connect_timeout`.
///
/// A host with several addresses is tried one after the other. On failure the text says why.
pub(crate) async fn connect(mut guard: ConnectionGuard) -> Result<ConnectedSocket, (UpstreamReset, String)> {
    let pool = guard.pool.clone();
    let cluster = &pool.cluster;
    let started = Instant::now();
    let attempt = async {
        let mut last = None;
        for address in cluster.socket_options().addresses(&pool.host) {
            let options = cluster.socket_options().connect_options(&address);
            match socket::connect(&address, options).await {
                Ok(socket) => return Ok(socket),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrNotAvailable.into()))
    };
    let connected = tokio::time::timeout(cluster.connect_timeout, attempt).await;
    let stats = cluster.stats.traffic.here();
    let failure = match connected {
        Ok(Ok(socket)) => {
            guard.establish();
            let connect_times = (started, Instant::now());
            let elapsed = connect_times.1.saturating_duration_since(started).as_millis();
            stats.upstream_cx_connect_ms.record(u64::try_from(elapsed).unwrap_or(u64::MAX));
            let connection = Connection::new(socket);
            let local = connection.local_address().ok();
            let id = crate::net::connection::next_id();
            return Ok(ConnectedSocket { connection, local, id, connect_times, guard });
        }
        Ok(Err(error)) => (UpstreamReset::ConnectFailure, failure_text(&error)),
        Err(_) => {
            stats.upstream_cx_connect_timeout.inc();
            (UpstreamReset::ConnectTimeout, String::new())
        }
    };
    stats.upstream_cx_total.inc();
    stats.upstream_cx_destroy.inc();
    stats.upstream_cx_connect_fail.inc();
    pool.host.stats.cx_total.fetch_add(1, Ordering::Relaxed);
    pool.host.stats.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
    Err(failure)
}

/// Envoy's words for a failed connect: `delayed connect error: Connection refused`.
fn failure_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    format!("delayed connect error: {text}")
}

impl HostPool {
    /// A connection of its own for a TCP stream.
    pub(crate) async fn open_tcp(
        self: &Rc<Self>,
        priority: BreakerPriority,
    ) -> Result<ConnectedSocket, (UpstreamReset, String)> {
        let Some(guard) = ConnectionGuard::new(self, priority) else {
            return Err((UpstreamReset::Overflow, String::new()));
        };
        connect(guard).await.inspect_err(|_| {
            self.cluster.stats.traffic.here().upstream_rq_pending_failure_eject.inc();
        })
    }
}
