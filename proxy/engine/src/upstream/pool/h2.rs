//! HTTP/2 connections to one host: requests share one until it is full, then another is made.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;
use proxy_core::address::Address;
use proxy_core::head::RequestHead;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::Http2Stats;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::WireBytes;
use tokio::sync::{Notify, watch};

use super::HostPool;
use super::connect::{ConnectedSocket, ConnectionGuard, connect};
use super::h1::Waiting;
use crate::codec::h2_client::{ClientStream, reset_of};
use crate::codec::h2_guard::{FrameLimits, Guarded, Side, Traffic, is_flood};
use crate::codec::h2_keepalive::Keepalive;
use crate::codec::upstream::UpstreamEvent;
use crate::local::clock;
use crate::local::contain::{contain, drill};
use crate::upstream::circuit_breaker::{BreakerPriority, Permit, Resource};

/// How often, and how many times, SETTINGS are looked for before an extended CONNECT.
const SETTINGS_INTERVAL: Duration = Duration::from_millis(2);
const SETTINGS_LOOKS: u32 = 100;
/// How many streams the codec says a host allows while its SETTINGS have not come: a number that none can say.
const UNSETTLED: usize = usize::MAX - 1;

/// The connections of one host.
///
/// A new connection carries one stream until the host's SETTINGS say how many it takes: whatever went beyond that would be
/// refused, and a request whose body was passed on cannot be sent again. No host may answer before its SETTINGS (RFC 9113,
/// 3.4), so who waits loses nothing; they are waited for as long as for the connection.
#[derive(Default)]
pub(crate) struct Http2Pool {
    ready: RefCell<Vec<Rc<Shared>>>,
    /// A connection being made or waiting for SETTINGS, and how that ended; every request that waits looks at it.
    connecting: RefCell<Option<Progress>>,
    /// A stream or a connection ended, or a connection was made: who waits for room looks again.
    room: Notify,
}

/// How an attempt to connect goes: nothing yet, or how it ended.
type Progress = watch::Receiver<Option<Result<(), (UpstreamReset, String)>>>;

/// One connection.
struct Shared {
    send: SendRequest<Bytes>,
    local: Option<Address>,
    id: u64,
    connect_times: (Instant, Instant),
    /// When it takes no more streams (`max_connection_duration`).
    expires: Option<Instant>,
    idle_since: Cell<Instant>,
    streams: Cell<usize>,
    total: Cell<u32>,
    draining: Cell<bool>,
    /// How many streams the host allows is known, or waited for no longer.
    settled: Cell<bool>,
    /// There is nothing to wait for any longer: SETTINGS came, or no stream is to be had here.
    settings: Notify,
    /// Ends the connection's task.
    close: Notify,
    /// Has the connection checked with a PING.
    probe: Notify,
}

impl Shared {
    /// Whether the host still takes new streams here: it sent no GOAWAY, and the connection did not fail.
    fn takes_streams(&self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        !matches!(self.send.clone().poll_ready(&mut nobody), Poll::Ready(Err(_)))
    }

    /// How many streams may be open.
    fn room(&self, limit: usize) -> usize {
        if !self.settled.get() {
            return 1;
        }
        // A host that allows no stream at all is given one to wait with, or connections would be made for ever.
        limit.min(self.send.current_max_send_streams()).max(1)
    }

    /// Takes note of the host's SETTINGS once they are in force.
    fn look_for_settings(&self) {
        if !self.settled.get() && self.send.current_max_send_streams() != UNSETTLED {
            self.settled.set(true);
            self.settings.notify_one();
        }
    }

    /// Waits for the host's SETTINGS, unless one stream is all there may be (`limit`).
    async fn settle(&self, limit: usize, deadline: Duration) {
        if limit > 1 && !self.draining.get() {
            let _ = tokio::time::timeout(deadline, self.settings.notified()).await;
        }
        self.settled.set(true);
    }

    /// No new streams: the connection ends with its last one.
    fn retire(&self) {
        self.draining.set(true);
        self.settings.notify_one();
        if self.streams.get() == 0 {
            self.close.notify_one();
        }
    }
}

impl Http2Pool {
    /// A connection closed: whoever waits may make another.
    pub(super) fn connection_gone(&self) {
        self.room.notify_one();
    }

    /// No further requests on these connections; each ends with its last stream.
    pub(super) fn drain(&self) {
        for shared in self.ready.borrow_mut().drain(..) {
            shared.retire();
        }
    }

    /// Takes out the connections on which the host said GOAWAY.
    fn leave_retired(&self, pool: &HostPool) {
        self.ready.borrow_mut().retain(|shared| {
            if shared.takes_streams() {
                return true;
            }
            pool.cluster.stats.traffic.here().upstream_cx_close_notify.inc();
            shared.retire();
            false
        });
    }

    /// Closes connections that were idle or open for too long.
    pub(super) fn sweep(&self, pool: &HostPool, now: Instant) {
        let http = &pool.cluster.http;
        let stats = pool.cluster.stats.traffic.here();
        self.leave_retired(pool);
        self.ready.borrow_mut().retain(|shared| {
            let is_old = shared.expires.is_some_and(|at| at <= now);
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
            shared.retire();
            false
        });
    }

    /// A connection with room for one more stream.
    fn available(&self, pool: &HostPool, limit: usize) -> Option<Rc<Shared>> {
        self.leave_retired(pool);
        let ready = self.ready.borrow();
        ready.iter().find(|shared| shared.streams.get() < shared.room(limit)).cloned()
    }
}

impl HostPool {
    /// A stream on an HTTP/2 connection to the host, which is made if none has room.
    pub(crate) async fn open_http2(
        self: &Rc<Self>,
        priority: BreakerPriority,
    ) -> Result<Http2Lease, (UpstreamReset, String)> {
        let limit = self.cluster.http.http2.max_concurrent_streams as usize;
        if let Some(shared) = self.http2.available(self, limit) {
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
            let room = self.http2.room.notified();
            if let Some(mut done) = running.or_else(|| self.start_http2(priority)) {
                // Safe to cancel: both only wait. A failure counts before room, which it makes as well.
                let outcome = tokio::select! {
                    biased;
                    outcome = done.wait_for(Option::is_some) => match outcome {
                        Ok(outcome) => outcome.clone(),
                        Err(_) => Some(Err((UpstreamReset::ConnectFailure, String::new()))),
                    },
                    () = room => None,
                };
                if let Some(Err(failure)) = outcome {
                    stats.here().upstream_rq_pending_failure_eject.inc();
                    return Err(failure);
                }
            } else {
                // The breaker allows no further connection: room is where a stream or a connection ends.
                room.await;
            }
            if let Some(shared) = self.http2.available(self, limit) {
                return Ok(Http2Lease::new(shared, self));
            }
        }
    }

    /// Starts to connect in a task of its own, so that a request that gives up does not take the connection with it;
    /// `None` if the breaker is open.
    fn start_http2(self: &Rc<Self>, priority: BreakerPriority) -> Option<Progress> {
        let guard = ConnectionGuard::new(self, priority)?;
        let (sender, receiver) = watch::channel(None);
        *self.http2.connecting.borrow_mut() = Some(receiver.clone());
        let pool = self.clone();
        tokio::task::spawn_local(async move {
            let handshaken = contain(pin!(async {
                let connected = connect(guard).await?;
                drill("handshake", &pool.cluster.runtime);
                pool.handshake(connected).await
            }))
            .await;
            let handshaken = handshaken.unwrap_or(Err((UpstreamReset::ConnectFailure, String::new())));
            if let Ok(shared) = &handshaken {
                // The first who waits takes its first stream.
                pool.http2.room.notify_waiters();
                let limit = pool.cluster.http.http2.max_concurrent_streams as usize;
                shared.settle(limit, pool.cluster.connect_timeout).await;
            }
            *pool.http2.connecting.borrow_mut() = None;
            sender.send_replace(Some(handshaken.map(drop)));
            pool.http2.room.notify_waiters();
            if pool.draining.get() {
                // The host left meanwhile: who waited takes the connection, and with the last of them it ends.
                tokio::task::yield_now().await;
                pool.http2.drain();
            }
        });
        Some(receiver)
    }

    async fn handshake(
        self: &Rc<Self>,
        connected: ConnectedSocket,
    ) -> Result<Rc<Shared>, (UpstreamReset, String)> {
        let options = &self.cluster.http.http2;
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(options.initial_stream_window)
            .initial_connection_window_size(options.initial_connection_window)
            .header_table_size(options.hpack_table_size)
            .max_header_list_size(self.cluster.http.max_response_headers_kb * 1024)
            .enable_push(false)
            .initial_max_send_streams(UNSETTLED);
        let ConnectedSocket { connection, local, id, connect_times, guard } = connected;
        let limits = FrameLimits {
            empty_frames: options.max_consecutive_inbound_frames_with_empty_payload,
            priority_per_stream: options.max_inbound_priority_frames_per_stream,
            window_updates_per_data: options.max_inbound_window_update_frames_per_data_frame_sent,
            control_frames: options.max_outbound_control_frames,
        };
        let codec = self.cluster.stats.http2().clone();
        let connection = Guarded::new(
            connection,
            Side::Client,
            limits,
            codec.clone(),
            Traffic::Upstream(self.cluster.stats.traffic.clone()),
        );
        let (send, mut driver) = builder
            .handshake::<_, Bytes>(connection)
            .await
            .map_err(|error| (reset_of(&error), String::new()))?;
        let stats = self.cluster.stats.traffic.here();
        stats.upstream_cx_http2_total.inc();
        let now = clock::now();
        let shared = Rc::new(Shared {
            send,
            local,
            id,
            connect_times,
            expires: self.cluster.http.expiry(now),
            idle_since: Cell::new(now),
            streams: Cell::new(0),
            total: Cell::new(0),
            draining: Cell::new(false),
            settled: Cell::new(false),
            settings: Notify::new(),
            close: Notify::new(),
            probe: Notify::new(),
        });
        self.http2.ready.borrow_mut().push(shared.clone());
        codec.here().nghttp2_upstream_connections.inc();
        let keepalive = options
            .keepalive
            .as_ref()
            .and_then(|options| Some(Keepalive::new(driver.ping_pong()?, options.schedule)));
        let pool = Rc::downgrade(self);
        let made = shared.clone();
        tokio::task::spawn_local(async move {
            let mut guard = guard;
            let ended = contain(pin!(drive(driver, keepalive, &shared))).await.unwrap_or(Ended::Broken);
            shared.draining.set(true);
            shared.settings.notify_one();
            guard.requests = shared.total.get();
            if let Some(pool) = pool.upgrade() {
                pool.http2.ready.borrow_mut().retain(|other| !Rc::ptr_eq(other, &shared));
                pool.count_end(&ended, shared.streams.get(), &codec);
            }
        });
        Ok(made)
    }
}

/// How a connection ended.
enum Ended {
    Here,
    There,
    Broken,
    Unanswered,
}

/// Moves the frames of a connection until it ends.
async fn drive(
    driver: impl Future<Output = Result<(), h2::Error>>,
    mut keepalive: Option<Keepalive>,
    shared: &Shared,
) -> Ended {
    let mut driver = pin!(driver);
    let mut close = pin!(shared.close.notified());
    let mut probe = pin!(shared.probe.notified());
    poll_fn(|task| {
        if let Some(keepalive) = &mut keepalive
            && probe.as_mut().poll(task).is_ready()
        {
            keepalive.probe();
            probe.set(shared.probe.notified());
            task.waker().wake_by_ref();
        }
        if let Poll::Ready(ended) = driver.as_mut().poll(task) {
            return Poll::Ready(match ended {
                Err(error) if is_flood(&error) || !(error.is_io() || error.is_remote()) => {
                    tracing::debug!(%error, "an upstream HTTP/2 connection broke the protocol");
                    Ended::Broken
                }
                Ok(()) | Err(_) => Ended::There,
            });
        }
        shared.look_for_settings();
        if close.as_mut().poll(task).is_ready() {
            return Poll::Ready(Ended::Here);
        }
        let unanswered = keepalive.as_mut().is_some_and(|keepalive| keepalive.poll(task).is_ready());
        if unanswered { Poll::Ready(Ended::Unanswered) } else { Poll::Pending }
    })
    .await
}

impl HostPool {
    fn count_end(&self, ended: &Ended, streams: usize, codec: &Cells<Http2Stats>) {
        let stats = self.cluster.stats.traffic.here();
        let is_remote = match ended {
            Ended::There => true,
            Ended::Here => false,
            Ended::Broken => {
                stats.upstream_cx_protocol_error.inc();
                false
            }
            Ended::Unanswered => {
                codec.here().keepalive_timeout.inc();
                false
            }
        };
        if is_remote {
            stats.upstream_cx_destroy_remote.inc();
        } else {
            stats.upstream_cx_destroy_local.inc();
        }
        if streams > 0 {
            stats.upstream_cx_destroy_with_active_rq.inc();
            if is_remote {
                stats.upstream_cx_destroy_remote_with_active_rq.inc();
            } else {
                stats.upstream_cx_destroy_local_with_active_rq.inc();
            }
        }
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
        let keepalive = pool.cluster.http.http2.keepalive.as_ref();
        if let Some(idle) = keepalive.and_then(|keepalive| keepalive.connection_idle_interval)
            && shared.streams.get() == 0
            && shared.total.get() > 0
            && shared.idle_since.get().elapsed() >= idle
        {
            shared.probe.notify_one();
        }
        shared.streams.set(shared.streams.get() + 1);
        shared.total.set(shared.total.get() + 1);
        let limit = pool.cluster.http.max_requests_per_connection;
        if limit.is_some_and(|limit| shared.total.get() >= limit) {
            pool.cluster.stats.traffic.here().upstream_cx_max_requests.inc();
            shared.draining.set(true);
            shared.settings.notify_one();
            pool.http2.ready.borrow_mut().retain(|other| !Rc::ptr_eq(other, &shared));
        }
        Self {
            stream: ClientStream::new(shared.send.clone(), pool.cluster.http.max_headers_count as usize),
            reused: shared.total.get() > 1,
            shared,
            pool: pool.clone(),
        }
    }

    /// Waits for the host's SETTINGS to allow extended CONNECT, but not for long: on a connection that was just made they are on
    /// their way, and the codec does not say when they have come.
    pub(crate) async fn await_extended_connect(&self) {
        for _ in 0..SETTINGS_LOOKS {
            if self.shared.send.is_extended_connect_protocol_enabled() {
                return;
            }
            tokio::time::sleep(SETTINGS_INTERVAL).await;
        }
    }

    /// Address of this end.
    pub(crate) fn local(&self) -> Option<&Address> {
        self.shared.local.as_ref()
    }

    /// When the connection was begun and made.
    pub(crate) fn connect_times(&self) -> (Instant, Instant) {
        self.shared.connect_times
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
        let shared = &self.shared;
        shared.streams.set(shared.streams.get() - 1);
        self.pool.http2.room.notify_one();
        if shared.streams.get() == 0 {
            shared.idle_since.set(clock::now());
            if shared.draining.get() || !shared.takes_streams() {
                shared.close.notify_one();
            }
        }
    }
}
