//! Making a connection to a host: breakers, deadline, statistics; the guard that undoes the accounting.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use proxy_core::address::Address;
use proxy_core::stats::groups::ClusterTrafficStats;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::{OriginalSource, StreamInfo};
use proxy_core::tls::TlsInfo;

use super::{HostPool, Pending, Sockets, Wire};
use crate::net::connection::{Connection, Socket};
use crate::net::socket::{self, Unready};
use crate::tls::client::Offer;
use crate::upstream::circuit_breaker::{BreakerPriority, Permit, Resource};
use crate::upstream::cluster::Cluster;
use crate::upstream::http_options::UpstreamProtocol;
use crate::upstream::proxy_protocol::{Made, ProxyProtocol};
use crate::upstream::socket_options::SocketOptions;

/// Counts as one connection of a host until it is dropped.
pub(crate) struct ConnectionGuard<P: Wire = Sockets> {
    pool: Rc<HostPool<P>>,
    kind: Kind,
    permit: Option<Permit<Arc<Cluster>>>,
    begun: Instant,
    state: State,
    /// Requests that it carried.
    pub(crate) requests: u32,
}

/// What carries what: a connection of one kind does not serve who needs another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One request at a time.
    Exclusive,
    /// Many requests.
    Multiplexed,
    /// One stream of bytes.
    Tcp,
}

impl Kind {
    /// What such a connection offers in a TLS handshake.
    fn offer(self, protocol: UpstreamProtocol) -> Offer {
        match self {
            Self::Exclusive | Self::Multiplexed if protocol == UpstreamProtocol::Alpn => Offer::Either,
            Self::Exclusive => Offer::Http1,
            Self::Multiplexed => Offer::Http2,
            Self::Tcp => Offer::Nothing,
        }
    }
}

/// Connections by kind.
#[derive(Default)]
pub(super) struct Counts([Cell<usize>; 3]);

impl Counts {
    pub(super) fn of(&self, kind: Kind) -> &Cell<usize> {
        let [exclusive, multiplexed, tcp] = &self.0;
        match kind {
            Kind::Exclusive => exclusive,
            Kind::Multiplexed => multiplexed,
            Kind::Tcp => tcp,
        }
    }

    /// All of them.
    pub(super) fn sum(&self) -> usize {
        self.0.iter().map(Cell::get).sum()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    Established,
    /// The host refused, or the network did.
    Refused,
}

impl<P: Wire> ConnectionGuard<P> {
    /// Counts a connection to be made; `None` if the breaker is open. The first connection of its kind is always
    /// allowed: in Envoy these are pools of their own.
    pub(super) fn new(pool: &Rc<HostPool<P>>, kind: Kind, priority: BreakerPriority) -> Option<Self> {
        let cluster = pool.cluster.clone();
        let permit = match cluster.host_may_connect(&pool.host, priority) {
            true => Permit::acquire(cluster, priority, Resource::Connections),
            false => Err(cluster),
        };
        let permit = match permit {
            Ok(permit) => permit,
            Err(cluster) => {
                cluster.stats.traffic.here().upstream_cx_overflow.inc();
                if pool.connections.of(kind).get() > 0 {
                    return None;
                }
                Permit::acquire_over(cluster, priority, Resource::Connections)
            }
        };
        let connections = pool.connections.of(kind);
        connections.set(connections.get() + 1);
        let stats = pool.cluster.stats.traffic.here();
        stats.upstream_cx_total.inc();
        stats.upstream_cx_active.inc();
        pool.host.stats.cx_total.fetch_add(1, Ordering::Relaxed);
        pool.host.active_connections.fetch_add(1, Ordering::Relaxed);
        let (begun, state) = (Instant::now(), State::Connecting);
        Some(Self { pool: pool.clone(), kind, permit: Some(permit), begun, state, requests: 0 })
    }

    /// Statistics of the cluster.
    pub(crate) fn stats(&self) -> &ClusterTrafficStats {
        self.pool.cluster.stats.traffic.here()
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.pool.cluster
    }

    /// Ready when the host failed and the connection is to end with that (`close_connections_on_host_health_failure`); `None` where
    /// it is not to.
    pub(crate) fn host_failed(&self) -> Option<impl Future<Output = ()>> {
        self.pool.cluster.closes_on_failure.then(|| self.pool.failed())
    }

    /// How long it has been there.
    pub(crate) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// It turned out to be of this kind.
    pub(super) fn turn_out(&mut self, kind: Kind) {
        let connections = |kind| self.pool.connections.of(kind);
        connections(self.kind).set(connections(self.kind).get() - 1);
        connections(kind).set(connections(kind).get() + 1);
        self.kind = kind;
    }

    pub(super) fn establish(&mut self) {
        self.state = State::Established;
        self.stats().upstream_cx_connect_ms.record(millis(self.age()));
    }

    /// Counts a connection that was never made: nothing else sees its end.
    fn fail(&self, stats: &ClusterTrafficStats) {
        stats.upstream_cx_connect_fail.inc();
        self.pool.host.stats.cx_connect_fail.fetch_add(1, Ordering::Relaxed);
        if self.state == State::Refused {
            stats.upstream_cx_destroy_remote.inc();
        } else {
            stats.upstream_cx_destroy_local.inc();
        }
    }
}

impl<P: Wire> Drop for ConnectionGuard<P> {
    fn drop(&mut self) {
        self.permit = None;
        let connections = self.pool.connections.of(self.kind);
        connections.set(connections.get() - 1);
        let stats = self.pool.cluster.stats.traffic.here();
        if self.state != State::Established {
            self.fail(stats);
        }
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        stats.upstream_cx_length_ms.record(millis(self.age()));
        if self.requests > 0 {
            stats.upstream_rq_per_cx.record(self.requests.into());
        }
        self.pool.host.active_connections.fetch_sub(1, Ordering::Relaxed);
        self.pool.exclusive.connection_gone();
        self.pool.multiplexed.connection_gone();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
    /// The TLS session, if it is in one.
    pub(crate) tls: Option<Arc<TlsInfo>>,
    /// What its filters know of it, if it has any.
    pub(crate) filtered: Option<Rc<RefCell<StreamInfo>>>,
    /// Counts it.
    pub(crate) guard: ConnectionGuard,
}

/// Why there is no connection.
enum NotConnected {
    /// No socket could be connected.
    Socket(io::Error),
    /// The TLS handshake failed, or a filter wants no such connection, for the reason that is told.
    Refused(String),
}

/// Connects to the host of `guard`'s pool within the cluster's `connect_timeout`.
///
/// On failure the text says why. Dropping the future gives the connection up.
pub(crate) async fn connect(mut guard: ConnectionGuard) -> Result<ConnectedSocket, (UpstreamReset, String)> {
    let pool = guard.pool.clone();
    let cluster = &pool.cluster;
    let addresses = cluster.socket_options().addresses(&pool.host);
    let offer = guard.kind.offer(cluster.http.protocol);
    let id = crate::net::connection::next_id();
    let attempt = async {
        let socket = first_to_connect(&addresses, cluster.socket_options(), pool.source).await;
        let mut connection = Connection::new(socket.map_err(NotConnected::Socket)?);
        let layers = cluster.transport.of(|| pool.host.metadata());
        if let Some(told) = &layers.proxy_protocol {
            pool.tell(told, &connection, id).await.map_err(NotConnected::Socket)?;
        }
        let session = match &layers.tls {
            Some(tls) => {
                // Boxed: only connections with TLS pay for the size of a handshake.
                let options = pool.options.as_deref();
                let asked = options.map_or(offer.into(), |options| options.asked(offer));
                let shaken = Box::pin(tls.connect(&mut connection, &pool.host, asked)).await;
                Some(Arc::new(shaken.map_err(NotConnected::Refused)?))
            }
            None => None,
        };
        // (Boxed as well: few clusters have filters.)
        let filtered = match cluster.filters.of(&mut connection, session.as_ref(), &pool.host, cluster) {
            Some(passing) => Some(Box::pin(passing).await.map_err(NotConnected::Refused)?),
            None => None,
        };
        Ok((connection, session, filtered))
    };
    let connected = tokio::time::timeout(cluster.connect_timeout, attempt).await;
    let stats = cluster.stats.traffic.here();
    match connected {
        Ok(Ok((connection, tls, filtered))) => {
            guard.establish();
            let connect_times = (guard.begun, Instant::now());
            let local = connection.local_address().ok();
            Ok(ConnectedSocket { connection, local, id, connect_times, tls, filtered, guard })
        }
        Ok(Err(NotConnected::Refused(reason))) => {
            guard.state = State::Refused;
            Err((UpstreamReset::ConnectFailure, reason))
        }
        Ok(Err(NotConnected::Socket(error))) => match Unready::of(&error) {
            Some(Unready::Bind { .. }) => {
                stats.bind_errors.inc();
                Err((UpstreamReset::LocalConnectFailure, without_number(&error)))
            }
            Some(Unready::Option(cause)) => {
                let cluster = cluster.name.as_str();
                tracing::debug!(%cause, cluster, "a socket towards a host cannot have an option");
                Err((UpstreamReset::LocalConnectFailure, String::new()))
            }
            None => {
                guard.state = State::Refused;
                let reason = format!("delayed connect error: {}", without_number(&error));
                Err((UpstreamReset::ConnectFailure, reason))
            }
        },
        Err(_) => {
            stats.upstream_cx_connect_timeout.inc();
            Err((UpstreamReset::ConnectTimeout, String::new()))
        }
    }
}

/// How long an attempt has before the next address is tried beside it (RFC 8305 section 5; Envoy has the same 300 ms).
const HEAD_START: Duration = Duration::from_millis(300);

/// The first of `addresses` to which a connection is made: each is tried when its predecessor failed or had its head
/// start.
async fn first_to_connect(
    addresses: &[Address],
    options: &SocketOptions,
    source: Option<OriginalSource>,
) -> io::Result<Socket> {
    if let [address] = addresses {
        return socket::connect(address, options.connect_options(address), source).await;
    }
    let mut left = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    loop {
        let next = left.next();
        if let Some(address) = next {
            attempts.push(socket::connect(address, options.connect_options(address), source));
        } else if attempts.is_empty() {
            return Err(last);
        }
        // Safe to cancel: the set keeps its attempts.
        tokio::select! {
            Some(ended) = attempts.next() => match ended {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(HEAD_START), if next.is_some() => {}
        }
    }
}

/// The system's words for an error, without its number.
fn without_number(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

impl HostPool {
    /// Tells the host whom the connection is for.
    async fn tell(&self, told: &ProxyProtocol, connection: &Connection, id: u64) -> io::Result<()> {
        let client = self.options.as_ref().and_then(|options| options.client.as_ref());
        let header = match client {
            Some(client) => {
                let made = Made { host: &self.host, socket: connection.socket(), id };
                told.header(client, &made)
            }
            None => told.own_header(connection.socket()),
        };
        self.cluster.stats.traffic.here().upstream_cx_tx_bytes_total.add(header.len() as u64);
        connection.socket().write_all(&header).await
    }

    /// A connection of its own for a TCP stream.
    pub(crate) async fn open_tcp(
        self: &Rc<Self>,
        priority: BreakerPriority,
    ) -> Result<ConnectedSocket, (UpstreamReset, String)> {
        let _pending = Pending::for_new(&self.cluster, &self.host, priority)?;
        let Some(guard) = ConnectionGuard::new(self, Kind::Tcp, priority) else {
            return Err((UpstreamReset::Overflow, String::new()));
        };
        connect(guard).await.inspect_err(|_| {
            self.cluster.stats.traffic.here().upstream_rq_pending_failure_eject.inc();
        })
    }
}
