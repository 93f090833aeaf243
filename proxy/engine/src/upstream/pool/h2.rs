//! HTTP/2 connections to one host: requests share one until it is full, then another is made.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;
use proxy_core::address::Address;
use proxy_core::head::RequestHead;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::WireBytes;
use tokio::sync::{Notify, watch};

use super::HostPool;
use super::connect::{ConnectedSocket, ConnectionGuard, connect};
use super::h1::Waiting;
use crate::codec::h2_client::{ClientStream, reset_of};
use crate::codec::upstream::UpstreamEvent;
use crate::upstream::circuit_breaker::{BreakerPriority, Permit, Resource};

/// The connections of one host.
#[derive(Default)]
pub(crate) struct Http2Pool {
    ready: RefCell<Vec<Rc<Shared>>>,
    /// A connection being made, and how it ended; every request that waits looks at it.
    connecting: RefCell<Option<Progress>>,
}

/// How an attempt to connect goes: nothing yet, or how it ended.
type Progress = watch::Receiver<Option<Result<(), (UpstreamReset, String)>>>;

/// One connection.
struct Shared {
    send: SendRequest<Bytes>,
    local: Option<Address>,
    id: u64,
    opened: Instant,
    idle_since: Cell<Instant>,
    streams: Cell<usize>,
    total: Cell<u32>,
    draining: Cell<bool>,
    /// Ends the connection's task.
    close: Notify,
}

impl Http2Pool {
    /// No further requests on these connections; each ends with its last stream.
    pub(super) fn drain(&self) {
        for shared in self.ready.borrow_mut().drain(..) {
            shared.draining.set(true);
            if shared.streams.get() == 0 {
                shared.close.notify_one();
            }
        }
    }

    /// Closes connections that were idle or open for too long.
    pub(super) fn sweep(&self, pool: &HostPool, now: Instant) {
        let http = &pool.cluster.http;
        let stats = pool.cluster.stats.traffic.here();
        self.ready.borrow_mut().retain(|shared| {
            let is_old = http.max_connection_duration.is_some_and(|limit| now - shared.opened >= limit);
            let is_idle = shared.streams.get() == 0
                && http.idle_timeout.is_some_and(|limit| now - shared.idle_since.get() >= limit);
            if !is_old && !is_idle {
                return true;
            }
            if is_idle {
                stats.upstream_cx_idle_timeout.inc();
            } else {
                stats.upstream_cx_max_duration_reached.inc();
            }
            shared.draining.set(true);
            if shared.streams.get() == 0 {
                shared.close.notify_one();
            }
            false
        });
    }

    /// A connection with room for one more stream.
    fn available(&self, limit: usize) -> Option<Rc<Shared>> {
        let ready = self.ready.borrow();
        ready
            .iter()
            .find(|shared| shared.streams.get() < limit.min(shared.send.current_max_send_streams()))
            .cloned()
    }
}

impl HostPool {
    /// A stream on an HTTP/2 connection to the host, which is made if none has room.
    pub(crate) async fn open_http2(
        self: &Rc<Self>,
        priority: BreakerPriority,
    ) -> Result<Http2Lease, (UpstreamReset, String)> {
        let limit = self.cluster.http.http2.max_concurrent_streams as usize;
        if let Some(shared) = self.http2.available(limit) {
            return Ok(Http2Lease::new(shared, self));
        }
        let stats = &self.cluster.stats.traffic;
        let Ok(_pending) = Permit::acquire(self.cluster.clone(), priority, Resource::Pending) else {
            stats.here().upstream_rq_pending_overflow.inc();
            return Err((UpstreamReset::Overflow, String::new()));
        };
        let _waiting = Waiting::new(self);
        loop {
            let running = self.http2.connecting.borrow().clone();
            let mut done = match running {
                Some(done) => done,
                None => self.start_http2(priority)?,
            };
            let outcome = match done.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                Err(_) => Some(Err((UpstreamReset::ConnectFailure, String::new()))),
            };
            if let Some(Err(failure)) = outcome {
                stats.here().upstream_rq_pending_failure_eject.inc();
                return Err(failure);
            }
            if let Some(shared) = self.http2.available(limit) {
                return Ok(Http2Lease::new(shared, self));
            }
        }
    }

    /// Starts to connect in a task of its own, so that a request that gives up does not take the connection with it.
    fn start_http2(self: &Rc<Self>, priority: BreakerPriority) -> Result<Progress, (UpstreamReset, String)> {
        let Some(guard) = ConnectionGuard::new(self, priority) else {
            return Err((UpstreamReset::Overflow, String::new()));
        };
        let (sender, receiver) = watch::channel(None);
        *self.http2.connecting.borrow_mut() = Some(receiver.clone());
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let connected = connect(guard).await;
            let handshaken = match connected {
                Ok(connected) => pool.handshake(connected).await,
                Err(failure) => Err(failure),
            };
            *pool.http2.connecting.borrow_mut() = None;
            sender.send_replace(Some(handshaken));
        });
        Ok(receiver)
    }

    async fn handshake(self: &Rc<Self>, connected: ConnectedSocket) -> Result<(), (UpstreamReset, String)> {
        let options = &self.cluster.http.http2;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(options.initial_stream_window)
            .initial_connection_window_size(options.initial_connection_window)
            .header_table_size(options.hpack_table_size)
            .max_header_list_size(self.cluster.http.max_response_headers_kb * 1024)
            .enable_push(false)
            .initial_max_send_streams(options.max_concurrent_streams as usize);
        let ConnectedSocket { connection, local, id, guard } = connected;
        let (send, driver) = builder
            .handshake::<_, Bytes>(connection)
            .await
            .map_err(|error| (reset_of(&error), String::new()))?;
        let stats = self.cluster.stats.traffic.here();
        stats.upstream_cx_http2_total.inc();
        let now = Instant::now();
        let shared = Rc::new(Shared {
            send,
            local,
            id,
            opened: now,
            idle_since: Cell::new(now),
            streams: Cell::new(0),
            total: Cell::new(0),
            draining: Cell::new(false),
            close: Notify::new(),
        });
        if !self.draining.get() {
            self.http2.ready.borrow_mut().push(shared.clone());
        }
        let pool = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            let _guard = guard;
            tokio::select! {
                ended = driver => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "an upstream HTTP/2 connection ended");
                    }
                }
                () = shared.close.notified() => {}
            }
            shared.draining.set(true);
            if let Some(pool) = pool.upgrade() {
                pool.http2.ready.borrow_mut().retain(|other| !Rc::ptr_eq(other, &shared));
            }
        });
        Ok(())
    }
}

/// A stream on a shared connection.
pub(crate) struct Http2Lease {
    stream: ClientStream,
    shared: Rc<Shared>,
    pool: Rc<HostPool>,
    reused: bool,
}

impl Http2Lease {
    fn new(shared: Rc<Shared>, pool: &Rc<HostPool>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        shared.total.set(shared.total.get() + 1);
        let limit = pool.cluster.http.max_requests_per_connection;
        if limit.is_some_and(|limit| shared.total.get() >= limit) {
            pool.cluster.stats.traffic.here().upstream_cx_max_requests.inc();
            shared.draining.set(true);
            pool.http2.ready.borrow_mut().retain(|other| !Rc::ptr_eq(other, &shared));
        }
        Self {
            stream: ClientStream::new(shared.send.clone()),
            reused: shared.total.get() > 1,
            shared,
            pool: pool.clone(),
        }
    }

    /// Address of this end.
    pub(crate) fn local(&self) -> Option<&Address> {
        self.shared.local.as_ref()
    }

    /// Number of the connection.
    pub(crate) fn id(&self) -> Option<u64> {
        Some(self.shared.id)
    }

    /// Whether the connection carried a request before.
    pub(crate) fn is_reused(&self) -> bool {
        self.reused
    }

    pub(crate) fn request(&mut self, head: &RequestHead, end: bool) -> Result<(), UpstreamReset> {
        self.stream.request(head, end)
    }

    pub(crate) fn data(&mut self, data: Bytes) {
        self.stream.data(data);
    }

    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) {
        self.stream.finish(trailers);
    }

    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        self.stream.poll_room(cx)
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        self.stream.poll_flush(cx)
    }

    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpstreamEvent, UpstreamReset>> {
        self.stream.poll_event(cx)
    }

    pub(crate) fn wire(&self) -> WireBytes {
        self.stream.wire()
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        let wire = self.stream.wire();
        let stats = self.pool.cluster.stats.traffic.here();
        stats.upstream_cx_rx_bytes_total.add(wire.received);
        stats.upstream_cx_tx_bytes_total.add(wire.sent);
        let shared = &self.shared;
        shared.streams.set(shared.streams.get() - 1);
        if shared.streams.get() == 0 {
            shared.idle_since.set(Instant::now());
            if shared.draining.get() {
                shared.close.notify_one();
            }
        }
    }
}
