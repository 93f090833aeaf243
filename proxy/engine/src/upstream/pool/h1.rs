//! HTTP/1 connections to one host, and their leases; which one is taken is decided in `exclusive.rs`.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use proxy_core::address::Address;
use proxy_core::head::{Protocol, RequestHead};
use proxy_core::stats::groups::ClusterTrafficStats;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::{StreamInfo, WireBytes};
use proxy_core::tls::TlsInfo;

use super::connect::{ConnectedSocket, ConnectionGuard, connect};
use super::exclusive::{Chosen, Closing, Rests, Served, Worn};
use super::multiplexed::Failure;
use super::preconnect::Ahead;
use super::{HostPool, Pending, Sockets};
use crate::codec::h1::{HeadLimits, ResponseOptions, TargetForm};
use crate::codec::h1_client::{ClientConnection, ClientOptions};
use crate::codec::upstream::UpstreamEvent;
use crate::local::clock;
use crate::local::contain::contain;
use crate::net::pipe::Pipe;
use crate::upstream::circuit_breaker::BreakerPriority;
use crate::upstream::cluster::Cluster;
use crate::upstream::key_format::HeaderKeyFormat;

/// A connection and what it counts as.
pub(crate) struct Pooled {
    connection: ClientConnection,
    local: Option<Address>,
    id: u64,
    connect_times: (Instant, Instant),
    tls: Option<Arc<TlsInfo>>,
    filtered: Option<Rc<RefCell<StreamInfo>>>,
    /// When it takes no more requests (`max_connection_duration`).
    expires: Option<Instant>,
    idle_since: Instant,
    guard: ConnectionGuard,
}

impl Pooled {
    /// Whether it served a request.
    pub(super) fn was_used(&self) -> bool {
        self.connection.exchanges() > 0
    }
}

impl Rests for Box<Pooled> {
    fn worn(&self, idle_timeout: Option<Duration>, now: Instant) -> Option<Worn> {
        if !self.connection.is_alive() {
            Some(Worn::Gone)
        } else if idle_timeout.is_some_and(|limit| now.saturating_duration_since(self.idle_since) >= limit) {
            Some(Worn::Idle)
        } else if self.expires.is_some_and(|at| at <= now) {
            Some(Worn::Old)
        } else {
            None
        }
    }

    fn count(&self, why: Closing) {
        let stats = self.guard.stats();
        match why {
            Closing::Worn(Worn::Gone) => {
                stats.upstream_cx_destroy_remote.inc();
                return;
            }
            Closing::Worn(Worn::Idle) => stats.upstream_cx_idle_timeout.inc(),
            Closing::Worn(Worn::Old) => stats.upstream_cx_max_duration_reached.inc(),
            Closing::MaxRequests => stats.upstream_cx_max_requests.inc(),
            Closing::Drained => {}
        }
        stats.upstream_cx_destroy_local.inc();
    }
}

/// An HTTP/1 connection lent to one request. Goes back to its pool when the exchange is complete, else closes.
pub(crate) struct Http1Lease {
    pooled: Option<Box<Pooled>>,
    pool: Rc<HostPool>,
    reused: bool,
}

impl Http1Lease {
    pub(super) fn new(pooled: Box<Pooled>, pool: &Rc<HostPool>, reused: bool) -> Self {
        Self { pooled: Some(pooled), pool: pool.clone(), reused }
    }
}

impl HostPool {
    /// An idle HTTP/1 connection, if there is one.
    pub(crate) fn idle_http1(self: &Rc<Self>, priority: BreakerPriority) -> Option<Http1Lease> {
        let pooled = self.exclusive.take(self.cluster.http.idle_timeout, clock::now)?;
        self.follow_exclusive(priority, Self::make_http1_ahead);
        Some(Http1Lease::new(pooled, self, true))
    }

    /// A new HTTP/1 connection, or one that becomes free while the breaker does not allow a new one. Cancel-safe.
    pub(crate) async fn open_http1(
        self: &Rc<Self>,
        priority: BreakerPriority,
    ) -> Result<Http1Lease, Failure> {
        let _pending = Pending::for_new(&self.cluster, &self.host, priority)?;
        let chosen = self.choose(priority, clock::now).await;
        self.follow_exclusive(priority, Self::make_http1_ahead);
        let (pooled, reused) = match chosen {
            Chosen::New(guard) => {
                let made = self.make_http1(guard).await.inspect_err(|_| {
                    self.cluster.stats.traffic.here().upstream_rq_pending_failure_eject.inc();
                });
                (made?, false)
            }
            Chosen::Free(pooled) => (pooled, true),
        };
        Ok(Http1Lease::new(pooled, self, reused))
    }

    /// Makes a connection that nobody asked for, in a task of its own.
    pub(super) fn make_http1_ahead(guard: ConnectionGuard, ahead: Ahead<Sockets>) {
        tokio::task::spawn_local(async move {
            let pool = ahead.0.clone();
            let made = contain(pin!(pool.make_http1(guard))).await;
            if let Some(Ok(pooled)) = made {
                ahead.made(pooled);
            }
        });
    }

    async fn make_http1(&self, guard: ConnectionGuard) -> Result<Box<Pooled>, Failure> {
        self.cluster.stats.traffic.here().upstream_cx_http1_total.inc();
        Ok(self.pooled(connect(guard).await?))
    }

    /// HTTP/1 on a connection that was just made.
    pub(super) fn pooled(&self, connected: ConnectedSocket) -> Box<Pooled> {
        self.cluster.stats.http1();
        let http = &self.cluster.http;
        let now = clock::now();
        let pooled = Pooled {
            connection: ClientConnection::new(connected.connection, http1_options(&self.cluster)),
            local: connected.local,
            id: connected.id,
            connect_times: connected.connect_times,
            tls: connected.tls,
            filtered: connected.filtered,
            expires: http.expiry(now),
            idle_since: now,
            guard: connected.guard,
        };
        Box::new(pooled)
    }
}

/// How HTTP/1 is spoken with the hosts of `cluster`.
pub(crate) fn http1_options(cluster: &Cluster) -> ClientOptions {
    let http = &cluster.http;
    ClientOptions {
        limits: HeadLimits {
            max_bytes: http.max_response_head(Protocol::Http11) as usize,
            max_headers: http.max_headers_count as usize,
        },
        response: ResponseOptions {
            allow_chunked_length: http.http1.allow_chunked_length,
            keep_case: http.http1.header_key_format.kept(),
            ..ResponseOptions::default()
        },
        trailers: http.http1.enable_trailers,
        proper_case: http.http1.header_key_format == HeaderKeyFormat::ProperCase,
        target: match http.http1.send_fully_qualified_url {
            true => TargetForm::Absolute,
            false => TargetForm::Origin,
        },
        buffer_limit: cluster.buffer_limit as usize,
    }
}

/// Counts the end of a connection that cannot carry another request.
fn count_end(stats: &ClusterTrafficStats, connection: &ClientConnection) {
    let is_remote = connection.is_closed_by_peer();
    match is_remote {
        true => stats.upstream_cx_destroy_remote.inc(),
        false => stats.upstream_cx_destroy_local.inc(),
    }
    if connection.is_finished() {
        stats.upstream_cx_close_notify.inc();
        return;
    }
    stats.upstream_cx_destroy_with_active_rq.inc();
    match is_remote {
        true => stats.upstream_cx_destroy_remote_with_active_rq.inc(),
        false => stats.upstream_cx_destroy_local_with_active_rq.inc(),
    }
}

impl Http1Lease {
    fn connection(&mut self) -> Result<&mut ClientConnection, UpstreamReset> {
        self.pooled.as_mut().map(|pooled| &mut pooled.connection).ok_or(UpstreamReset::LocalReset)
    }

    /// Address of this end.
    pub(crate) fn local(&self) -> Option<&Address> {
        self.pooled.as_ref()?.local.as_ref()
    }

    /// Number of the connection.
    pub(crate) fn id(&self) -> Option<u64> {
        Some(self.pooled.as_ref()?.id)
    }

    /// When the connection was begun and made.
    pub(crate) fn connect_times(&self) -> Option<(Instant, Instant)> {
        Some(self.pooled.as_ref()?.connect_times)
    }

    /// The TLS session, if it is in one.
    pub(crate) fn tls(&self) -> Option<&Arc<TlsInfo>> {
        self.pooled.as_ref()?.tls.as_ref()
    }

    /// What the filters of the connection know of it, if it has any.
    pub(crate) fn filtered(&self) -> Option<&Rc<RefCell<StreamInfo>>> {
        self.pooled.as_ref()?.filtered.as_ref()
    }

    /// Whether it served a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    /// Counts metadata, which HTTP/1 cannot carry.
    pub(crate) fn count_metadata(&self) {
        self.pool.cluster.stats.http1().here().metadata_not_supported_error.inc();
    }

    pub(crate) fn request(&mut self, head: &RequestHead, end: bool) -> Result<(), UpstreamReset> {
        self.connection()?.request(head, end)
    }

    pub(crate) fn data(&mut self, data: Bytes) {
        if let Ok(connection) = self.connection() {
            connection.data(data);
        }
    }

    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) {
        if let Ok(connection) = self.connection() {
            connection.finish(trailers);
        }
    }

    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        match self.connection() {
            Ok(connection) => connection.poll_room(cx),
            Err(reset) => Poll::Ready(Err(reset)),
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        match self.connection() {
            Ok(connection) => connection.poll_flush(cx),
            Err(reset) => Poll::Ready(Err(reset)),
        }
    }

    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpstreamEvent, UpstreamReset>> {
        match self.connection() {
            Ok(connection) => connection.poll_event(cx),
            Err(reset) => Poll::Ready(Err(reset)),
        }
    }

    pub(crate) fn unread(&self) -> u64 {
        self.pooled.as_ref().map_or(0, |pooled| pooled.connection.unread())
    }

    pub(crate) fn poll_splice(
        &mut self,
        pipe: &mut Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UpstreamReset>> {
        match self.connection() {
            Ok(connection) => connection.poll_splice(pipe, cx),
            Err(reset) => Poll::Ready(Err(reset)),
        }
    }

    pub(crate) fn wire(&self) -> WireBytes {
        self.pooled.as_ref().map(|pooled| pooled.connection.wire()).unwrap_or_default()
    }
}

impl Drop for Http1Lease {
    fn drop(&mut self) {
        let Some(mut pooled) = self.pooled.take() else { return };
        pooled.guard.requests = pooled.connection.exchanges();
        let stats = self.pool.cluster.stats.traffic.here();
        let wire = pooled.connection.wire();
        stats.upstream_cx_rx_bytes_total.add(wire.received);
        stats.upstream_cx_tx_bytes_total.add(wire.sent);
        if pooled.connection.has_excess() {
            stats.upstream_cx_protocol_error.inc();
        }
        if !pooled.connection.is_reusable() {
            count_end(stats, &pooled.connection);
            return;
        }
        let served = Served { requests: pooled.connection.exchanges(), expires: pooled.expires };
        if let Some(closing) = self.pool.closing(&served, clock::now) {
            pooled.count(closing);
            return;
        }
        pooled.connection.rest();
        pooled.idle_since = clock::now();
        self.pool.exclusive.put(pooled);
    }
}
