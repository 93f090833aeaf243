//! HTTP/2 connections to one host, and their streams; which connection takes a stream is decided in `multiplexed.rs`.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;
use proxy_core::address::Address;
use proxy_core::head::{Protocol, RequestHead};
use proxy_core::stats::Cells;
use proxy_core::stats::groups::Http2Stats;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::{StreamInfo, WireBytes};
use proxy_core::tls::TlsInfo;
use tokio::sync::Notify;

use super::connect::{ConnectedSocket, ConnectionGuard, connect};
use super::h1::Pooled;
use super::multiplexed::{Attempt, Carrier, Carries, Failure};
use super::{HostPool, Sockets, Wire};
use crate::codec::h2_client::{ClientStream, reset_of};
use crate::codec::h2_guard::{FrameLimits, Guarded, Side, Traffic, is_broken, is_flood};
use crate::codec::h2_keepalive::Keepalive;
use crate::codec::h2_metadata::{MetadataBlock, MetadataStreams};
use crate::codec::upstream::UpstreamEvent;
use crate::local::clock;
use crate::local::contain::{contain, drill};
use crate::local::in_place::boxed;
use crate::upstream::circuit_breaker::BreakerPriority;
use crate::upstream::cluster::Cluster;

/// How often, and how many times, SETTINGS are looked for before an extended CONNECT.
const SETTINGS_INTERVAL: Duration = Duration::from_millis(2);
const SETTINGS_LOOKS: u32 = 100;
/// How many streams the codec says a host allows while its SETTINGS have not come: a number that none can say.
const UNSETTLED: usize = usize::MAX - 1;

/// The codec's side of a connection.
pub(crate) struct Streams {
    /// (In a cell, because to ask is to change, and a copy for each question would be counted by the codec.)
    send: RefCell<SendRequest<Bytes>>,
    local: Option<Address>,
    id: u64,
    connect_times: (Instant, Instant),
    tls: Option<Arc<TlsInfo>>,
    filtered: Option<Rc<RefCell<StreamInfo>>>,
    metadata: Option<Rc<MetadataStreams>>,
    /// Has the connection checked with a PING.
    probe: Notify,
}

pub(super) type Shared = Carrier<Streams>;

impl Carries for Streams {
    fn takes_streams(&self) -> bool {
        let mut nobody = Context::from_waker(Waker::noop());
        !matches!(self.send.borrow_mut().poll_ready(&mut nobody), Poll::Ready(Err(_)))
    }

    fn max_streams(&self) -> Option<usize> {
        Some(self.send.borrow().current_max_send_streams()).filter(|streams| *streams != UNSETTLED)
    }
}

impl Wire for Sockets {
    type Exclusive = Box<Pooled>;
    type Multiplexed = Streams;
}

impl HostPool {
    /// A stream on an HTTP/2 connection to the host, which is made if none has room.
    pub(crate) async fn open_http2(
        self: &Rc<Self>,
        priority: BreakerPriority,
    ) -> Result<Box<Http2Lease>, Failure> {
        let make = |guard, attempt| self.make_http2_apart(guard, attempt);
        let shared = match self.with_room() {
            Some(shared) => shared,
            None => {
                let _pending = self.pending(priority)?;
                let waited = self.await_room(priority, make).await.inspect_err(|_| {
                    self.cluster.stats.traffic.here().upstream_rq_pending_failure_eject.inc();
                })?;
                waited.ok_or((UpstreamReset::LocalReset, String::new()))?
            }
        };
        let lease = Http2Lease::new(shared, self);
        self.follow_multiplexed(priority, make);
        Ok(lease)
    }

    /// Makes a connection in a task of its own, so that a request that gives up does not take it along.
    pub(super) fn make_http2_apart(self: &Rc<Self>, guard: ConnectionGuard, attempt: Attempt<Sockets>) {
        let pool = self.clone();
        tokio::task::spawn_local(attempt.run(async move { pool.make_http2(guard).await.map(Some) }));
    }

    async fn make_http2(self: &Rc<Self>, guard: ConnectionGuard) -> Result<Rc<Shared>, Failure> {
        let handshaken = contain(pin!(async {
            let connected = connect(guard).await?;
            drill("handshake", &self.cluster.runtime);
            self.handshake(connected).await
        }))
        .await;
        handshaken.unwrap_or(Err((UpstreamReset::ConnectFailure, String::new())))
    }

    pub(super) async fn handshake(
        self: &Rc<Self>,
        connected: ConnectedSocket,
    ) -> Result<Rc<Shared>, Failure> {
        let options = &self.cluster.http.http2;
        let builder = http2_builder(&self.cluster);
        let ConnectedSocket { connection, local, id, connect_times, tls, filtered, guard } = connected;
        let limits = frame_limits(&self.cluster);
        let codec = self.cluster.stats.http2().clone();
        let metadata = options
            .max_metadata_size
            .map(|size| MetadataStreams::new(Side::Client, size, options.max_concurrent_streams));
        let max_frame = options.settings.as_ref().and_then(|settings| settings.max_frame_size());
        let connection = Guarded::new(
            connection,
            Side::Client,
            limits,
            codec.clone(),
            Traffic::Upstream(self.cluster.stats.traffic.clone()),
        )
        .with_settings(options.settings.as_ref())
        .with_metadata(metadata.as_ref(), max_frame);
        let (send, mut driver) = builder
            .handshake::<_, Bytes>(connection)
            .await
            .map_err(|error| (reset_of(&error), String::new()))?;
        let stats = self.cluster.stats.traffic.here();
        stats.upstream_cx_http2_total.inc();
        let now = clock::now();
        let send = RefCell::new(send);
        let streams =
            Streams { send, local, id, connect_times, tls, filtered, metadata, probe: Notify::new() };
        let shared = Rc::new(Carrier::new(streams, self.cluster.http.expiry(now), now));
        self.multiplexed.add(&shared);
        codec.here().nghttp2_upstream_connections.inc();
        let keepalive = options
            .keepalive
            .as_ref()
            .and_then(|options| Some(Keepalive::new(driver.ping_pong()?, options.schedule)));
        let pool = Rc::downgrade(self);
        let made = shared.clone();
        tokio::task::spawn_local(async move {
            let mut guard = guard;
            let ended =
                contain(pin!(drive(driver, keepalive, &shared, &pool))).await.unwrap_or(Ended::Broken);
            guard.requests = shared.total();
            if let Some(pool) = pool.upgrade() {
                pool.multiplexed.ended(&shared);
                pool.count_end(&ended, shared.streams(), &codec);
            }
        });
        Ok(made)
    }
}

/// The codec of connections to the hosts of `cluster`.
pub(crate) fn http2_builder(cluster: &Cluster) -> h2::client::Builder {
    let options = &cluster.http.http2;
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .header_table_size(options.hpack_table_size)
        .max_header_list_size(cluster.http.max_response_head(Protocol::Http2))
        .enable_push(false)
        .initial_max_send_streams(UNSETTLED);
    if let Some(size) = options.settings.as_ref().and_then(|settings| settings.max_frame_size()) {
        builder.max_frame_size(size);
    }
    builder
}

/// What the hosts of `cluster` may send on a connection.
pub(crate) fn frame_limits(cluster: &Cluster) -> FrameLimits {
    let options = &cluster.http.http2;
    FrameLimits {
        empty_frames: options.max_consecutive_inbound_frames_with_empty_payload,
        priority_per_stream: options.max_inbound_priority_frames_per_stream,
        window_updates_per_data: options.max_inbound_window_update_frames_per_data_frame_sent,
        control_frames: options.max_outbound_control_frames,
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
    pool: &Weak<HostPool>,
) -> Ended {
    let mut driver = pin!(driver);
    let mut close = pin!(shared.close.notified());
    let mut probe = pin!(shared.transport.probe.notified());
    poll_fn(|task| {
        if let Some(keepalive) = &mut keepalive
            && probe.as_mut().poll(task).is_ready()
        {
            keepalive.probe();
            probe.set(shared.transport.probe.notified());
            task.waker().wake_by_ref();
        }
        if let Poll::Ready(ended) = driver.as_mut().poll(task) {
            return Poll::Ready(match ended {
                Err(error)
                    if is_flood(&error) || is_broken(&error) || !(error.is_io() || error.is_remote()) =>
                {
                    tracing::debug!(%error, "an upstream HTTP/2 connection broke the protocol");
                    Ended::Broken
                }
                Ok(()) | Err(_) => Ended::There,
            });
        }
        if let Some(pool) = pool.upgrade() {
            pool.look_for_settings(shared);
        }
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
    /// Boxed where it is made: it would be moved on from here several times.
    pub(super) fn new(shared: Rc<Shared>, pool: &Rc<HostPool>) -> Box<Self> {
        let keepalive = pool.cluster.http.http2.keepalive.as_ref();
        if let Some(idle) = keepalive.and_then(|keepalive| keepalive.connection_idle_interval)
            && shared.idle_since().is_some_and(|since| since.elapsed() >= idle)
        {
            shared.transport.probe.notify_one();
        }
        pool.open_stream(&shared);
        let transport = &shared.transport;
        let (send, metadata) = (transport.send.borrow().clone(), transport.metadata.clone());
        let (reused, pool) = (shared.total() > 1, pool.clone());
        boxed(|| Self {
            stream: ClientStream::new(send, pool.cluster.http.max_headers_count as usize, metadata),
            reused,
            shared,
            pool,
        })
    }

    /// Waits for the host's SETTINGS to allow extended CONNECT, but not for long: on a connection that was just made they are on
    /// their way, and the codec does not say when they have come.
    pub(crate) async fn await_extended_connect(&self) {
        for _ in 0..SETTINGS_LOOKS {
            if self.shared.transport.send.borrow().is_extended_connect_protocol_enabled() {
                return;
            }
            tokio::time::sleep(SETTINGS_INTERVAL).await;
        }
    }

    /// Address of this end.
    pub(crate) fn local(&self) -> Option<&Address> {
        self.shared.transport.local.as_ref()
    }

    /// When the connection was begun and made.
    pub(crate) fn connect_times(&self) -> (Instant, Instant) {
        self.shared.transport.connect_times
    }

    /// The TLS session, if the connection is in one.
    pub(crate) fn tls(&self) -> Option<&Arc<TlsInfo>> {
        self.shared.transport.tls.as_ref()
    }

    /// What the filters of the connection know of it, if it has any.
    pub(crate) fn filtered(&self) -> Option<&Rc<RefCell<StreamInfo>>> {
        self.shared.transport.filtered.as_ref()
    }

    /// Number of the connection.
    pub(crate) fn id(&self) -> Option<u64> {
        Some(self.shared.transport.id)
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
        let event = self.stream.poll_event(cx);
        // (A connection that broke the rules is counted when it ends.)
        if matches!(event, Poll::Ready(Err(UpstreamReset::ProtocolError)))
            && self.shared.transport.takes_streams()
        {
            self.pool.cluster.stats.traffic.here().upstream_cx_protocol_error.inc();
        }
        if matches!(event, Poll::Ready(Err(_))) && self.stream.is_excessive() {
            let stats = self.pool.cluster.stats.http2().here();
            stats.header_overflow.inc();
            stats.tx_reset.inc();
        }
        event
    }

    pub(crate) fn poll_metadata(&mut self, cx: &mut Context<'_>) -> Poll<MetadataBlock> {
        self.stream.poll_metadata(cx)
    }

    pub(crate) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_begun(cx)
    }

    pub(crate) fn metadata(&mut self, block: MetadataBlock) {
        self.stream.metadata(block);
    }

    pub(crate) fn wire(&self) -> WireBytes {
        self.stream.wire()
    }
}

impl Drop for Http2Lease {
    fn drop(&mut self) {
        self.pool.close_stream(&self.shared, clock::now);
    }
}
