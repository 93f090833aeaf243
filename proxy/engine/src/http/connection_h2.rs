//! A downstream HTTP/2 connection: accepts streams, one task each, and ends with a graceful GOAWAY.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use http::request::Parts;
use proxy_core::head::RequestHead;
use proxy_core::response_flag::ResponseFlag;

use super::connection::{Ended, count_cut, count_late, first_deadline};
use super::stream::{self, ConnectionCx};
use crate::codec::downstream::{Downstream, Incoming, Lacks};
use crate::codec::h2_backlog::Allowance;
use crate::codec::h2_cookies::Cookies;
use crate::codec::h2_guard::{FrameLimits, Guarded, Side, Traffic, is_broken, is_flood};
use crate::codec::h2_keepalive::Keepalive;
use crate::codec::h2_metadata::MetadataStreams;
use crate::codec::h2_server::{Malformed, ServerStream, named_scheme, request_head};
use crate::codec::h2_shedding::Shedding;
use crate::local::clock;
use crate::local::contain::Finally;
use crate::local::in_place::pinned;
use crate::local::timers::Timer;
use crate::net::connection::Connection;

/// State that the connection shares with its streams.
struct Shared {
    streams: Cell<usize>,
    last_end: Cell<Instant>,
    /// A response asked for the connection to end.
    close: Cell<bool>,
    /// No new streams are taken.
    ending: Cell<bool>,
    /// Streams that ended, and those of them that the client reset too soon.
    ended: Cell<u64>,
    premature: Cell<u64>,
    /// The connection has something to look at that its streams did.
    changed: Cell<bool>,
    /// The task of the connection.
    task: RefCell<Option<Waker>>,
    /// Timers of streams that ended, for those to come.
    timers: RefCell<Vec<Timer>>,
    cookies: Cookies,
    /// What responses may hold back while the client's window is closed.
    allowance: Allowance,
    /// Metadata of the streams, where there may be any.
    metadata: Option<Rc<MetadataStreams>>,
}

/// Streams that a client may have reset by protocol errors of its own (MadeYouReset).
const MAX_ERROR_RESETS: usize = 128;
/// Streams that were reset before they were looked at.
const MAX_RESET_UNSEEN: usize = 100;
/// `overload.premature_reset_total_stream_count`
const PREMATURE_TOTAL: u64 = 500;
/// `overload.premature_reset_min_stream_lifetime_seconds`
const PREMATURE_LIFETIME: u64 = 1;

impl Shared {
    fn new(cookies: Cookies, buffer_limit: usize, metadata: Option<Rc<MetadataStreams>>) -> Self {
        Self {
            streams: Cell::new(0),
            last_end: Cell::new(clock::now()),
            close: Cell::new(false),
            ending: Cell::new(false),
            ended: Cell::new(0),
            premature: Cell::new(0),
            changed: Cell::new(false),
            task: RefCell::default(),
            cookies,
            allowance: Allowance::new(buffer_limit),
            metadata,
            timers: RefCell::default(),
        }
    }

    /// Has `notify` wake the connection.
    fn register(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        if !task.as_ref().is_some_and(|task| task.will_wake(cx.waker())) {
            *task = Some(cx.waker().clone());
        }
    }

    /// Has the connection look at what changed.
    fn notify(&self) {
        self.changed.set(true);
        if let Some(task) = &*self.task.borrow() {
            task.wake_by_ref();
        }
    }

    /// The client gave up a stream too soon, or sent one that cannot be taken.
    fn count_premature(&self) {
        self.premature.set(self.premature.get() + 1);
        self.notify();
    }

    /// Whether the client resets too many streams right after it opened them (CVE-2023-44487): half of `limit` at first, half
    /// of all later on.
    fn is_abusive(&self, limit: u64) -> bool {
        is_abusive(self.premature.get(), self.ended.get(), limit)
    }
}

fn is_abusive(premature: u64, ended: u64, limit: u64) -> bool {
    premature > 0 && premature * 2 >= ended.max(limit)
}

/// Serves `connection` until it ends.
pub(super) async fn serve(cx: Rc<ConnectionCx>, connection: Box<Connection>) {
    let manager = cx.manager.clone();
    let stats = manager.stats.here();
    stats.downstream_cx_http2_total.inc();
    stats.downstream_cx_http2_active.inc();
    let _active = Finally(|| stats.downstream_cx_http2_active.dec());
    // What it takes to begin is gone once that is done: an idle connection is to be small.
    if let Some(mut accept) = Box::pin(begin(&cx, connection)).await {
        accept.run().await;
    }
}

/// Waits until the client has begun the connection; nothing if it did not.
async fn begin(cx: &Rc<ConnectionCx>, connection: Box<Connection>) -> Option<Box<Accept<'_>>> {
    let manager = &*cx.manager;
    let options = &manager.http2;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .max_concurrent_streams(options.max_concurrent_streams)
        .header_table_size(options.hpack_table_size)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .max_pending_accept_reset_streams(MAX_RESET_UNSEEN)
        .max_header_list_size(codec_limit(manager.max_request_headers_bytes));
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    let max_frame = options.settings.as_ref().and_then(|settings| settings.max_frame_size());
    if let Some(size) = max_frame {
        builder.max_frame_size(size);
    }
    let metadata = options
        .max_metadata_size
        .map(|size| MetadataStreams::new(Side::Server, size, options.max_concurrent_streams));
    let limits = FrameLimits {
        empty_frames: options.max_empty_frames,
        priority_per_stream: options.max_priority_frames_per_stream,
        window_updates_per_data: options.max_window_updates_per_data,
        control_frames: options.max_outbound_control_frames,
    };
    let shedding = Shedding::new(cx.overload.as_ref());
    manager.http2_stats.here().nghttp2_downstream_connections.inc();
    let connection = Guarded::new(
        connection,
        Side::Server,
        limits,
        manager.http2_stats.clone(),
        Traffic::Downstream(manager.stats.clone()),
    )
    .with_settings(options.settings.as_ref())
    .with_metadata(metadata.as_ref(), max_frame)
    .with_shedding(shedding.as_ref());
    let cookies = Cookies::new(connection.head_octets());
    let mut timer = Timer::default();
    let since = clock::now();
    let mut handshake = Box::pin(builder.handshake::<_, Bytes>(connection));
    let connected = poll_fn(|task| {
        if let Poll::Ready(connected) = handshake.as_mut().poll(task) {
            return Poll::Ready(connected.map_err(Failed::Codec));
        }
        // Who serves the connection waits for this, and polls it then.
        if cx.drain.is_closed() {
            return Poll::Ready(Err(Failed::Late(Ended::Drained)));
        }
        let Some((at, ended)) = first_deadline(cx, since) else { return Poll::Pending };
        timer.poll(task, at).map(|()| Err(Failed::Late(ended)))
    })
    .await;
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(failed) => {
            count_failed(cx, &failed);
            return None;
        }
    };
    let keepalive =
        options.keepalive.and_then(|schedule| Some(Keepalive::new(connection.ping_pong()?, schedule)));
    let shared = Rc::new(Shared::new(cookies, cx.buffer_limit, metadata));
    shedding.iter().for_each(|shedding| shedding.begin());
    Some(Box::new(Accept { cx, connection, keepalive, timer, shared, shedding, total: 0, ending: None }))
}

/// Why a connection ended within its preface.
enum Failed {
    Codec(h2::Error),
    Late(Ended),
}

/// Counts a connection that ended within its preface.
fn count_failed(cx: &ConnectionCx, failed: &Failed) {
    let stats = cx.manager.stats.here();
    match failed {
        Failed::Codec(error) if error.is_io() => stats.downstream_cx_destroy_remote.inc(),
        Failed::Codec(_) => {
            stats.downstream_cx_protocol_error.inc();
            stats.downstream_cx_destroy_local.inc();
        }
        Failed::Late(ended) => count_late(cx, *ended),
    }
}

/// What the connection does next, beside taking streams.
enum Next {
    Closed,
    Failed(h2::Error),
    Idle,
    Duration,
    /// A response asked for it, or there is too much to do.
    Asked,
    /// There is too much to do for anything that is on it.
    Shed,
    /// The drain of the filter chain is over.
    Drained,
    /// The client did not hang up after its last response.
    Overdue,
    Unanswered,
    Again,
}

/// A connection that accepts streams.
struct Accept<'c> {
    cx: &'c Rc<ConnectionCx>,
    connection: h2::server::Connection<Guarded<Box<Connection>>, Bytes>,
    keepalive: Option<Keepalive>,
    timer: Timer,
    shared: Rc<Shared>,
    /// What may be done against overload, if anything may.
    shedding: Option<Rc<Shedding>>,
    /// Streams that were taken.
    total: u32,
    /// When GOAWAY was sent.
    ending: Option<Instant>,
}

impl Accept<'_> {
    /// Takes streams until the connection ends.
    async fn run(&mut self) {
        let manager = &*self.cx.manager;
        let stats = manager.stats.here();
        let is_remote = loop {
            match self.next().await {
                Next::Again => {
                    let limit =
                        self.cx.shared.env.runtime.number("overload.premature_reset_total_stream_count");
                    if self.shared.premature.get() > 0
                        && self.shared.is_abusive(limit.unwrap_or(PREMATURE_TOTAL))
                    {
                        stats.downstream_rq_too_many_premature_resets.inc();
                        break false;
                    }
                }
                Next::Closed => break self.ending.is_none(),
                Next::Failed(error) => {
                    tracing::debug!(%error, "a downstream HTTP/2 connection failed");
                    let is_broken = is_broken(&error);
                    if is_broken || !error.is_io() {
                        stats.downstream_cx_protocol_error.inc();
                    }
                    break error.is_io() && !is_broken && !is_flood(&error);
                }
                Next::Overdue => break false,
                Next::Drained => return count_cut(self.cx, self.shared.streams.get() as u64),
                Next::Unanswered => {
                    manager.http2_stats.here().keepalive_timeout.inc();
                    break false;
                }
                Next::Idle => {
                    stats.downstream_cx_idle_timeout.inc();
                    self.end();
                }
                Next::Duration => {
                    stats.downstream_cx_max_duration_reached.inc();
                    self.end();
                }
                Next::Asked => self.end(),
                Next::Shed => {
                    self.ending = Some(clock::now());
                    self.shared.ending.set(true);
                    self.connection.abrupt_shutdown(Reason::NO_ERROR);
                }
            }
        };
        count_end(self.cx, is_remote, self.shared.streams.get());
    }

    async fn next(&mut self) -> Next {
        poll_fn(|task| {
            self.shared.register(task);
            loop {
                match self.connection.poll_accept(task) {
                    // (Taken here: it is some hundred octets, which need not move on.)
                    Poll::Ready(Some(Ok((request, response)))) => self.take(request, response),
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Next::Failed(error)),
                    Poll::Ready(None) => return Poll::Ready(Next::Closed),
                    Poll::Pending => break,
                }
            }
            if self.shared.changed.take() {
                return Poll::Ready(Next::Again);
            }
            if let Some(shed) = self.shed() {
                return Poll::Ready(shed);
            }
            if let Some(keepalive) = &mut self.keepalive
                && keepalive.poll(task).is_ready()
            {
                return Poll::Ready(Next::Unanswered);
            }
            // Who serves the connection waits for this, and polls it then.
            if self.cx.drain.is_closed() {
                return Poll::Ready(Next::Drained);
            }
            if self.ending.is_none() && self.shared.close.get() {
                return Poll::Ready(Next::Asked);
            }
            match self.deadline() {
                Some((at, what)) => self.timer.poll(task, at).map(|()| what),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// What is to be done because there is too much to do for what came, if that is not done yet.
    fn shed(&mut self) -> Option<Next> {
        let shedding = self.shedding.as_ref()?;
        if shedding.is_closed() {
            self.shedding = None;
            return Some(Next::Shed);
        }
        (self.ending.is_none() && shedding.goes_away()).then_some(Next::Asked)
    }

    /// Takes a stream.
    fn take(&mut self, request: Request<RecvStream>, mut response: SendResponse<Bytes>) {
        if self.is_over() {
            // The codec names the last stream when its PING is answered. Who answers none gets no further streams either: nobody
            // worked on them, and they may be sent again elsewhere (RFC 9113, 8.7).
            response.send_reset(Reason::REFUSED_STREAM);
            return;
        }
        let manager = &*self.cx.manager;
        self.total = self.total.saturating_add(1);
        if manager.max_requests_per_connection > 0 && self.total >= manager.max_requests_per_connection {
            manager.stats.here().downstream_cx_max_requests_reached.inc();
            self.shared.close.set(true);
        }
        self.shared.streams.set(self.shared.streams.get() + 1);
        manager.http2_stats.here().streams_active.inc();
        // Boxed: the runtime moves a task thrice.
        let (cx, shared) = (self.cx.clone(), self.shared.clone());
        tokio::task::spawn_local(pinned(|| serve_stream(cx, shared, request, response)));
    }

    /// What happens next if nothing else does.
    fn deadline(&self) -> Option<(Instant, Next)> {
        let manager = &self.cx.manager;
        let is_quiet = self.shared.streams.get() == 0;
        if let Some(since) = self.ending {
            let since = since.max(self.shared.last_end.get());
            return is_quiet.then_some((since + manager.drain_timeout, Next::Overdue));
        }
        // While there are streams the deadline moves along, so that the last one need not wake the connection to set it.
        let since = if is_quiet { self.shared.last_end.get() } else { clock::now() };
        let idle = self.cx.idle_end(since).map(|at| (at, Next::Idle));
        let oldest = self.cx.last_moment().map(|at| (at, Next::Duration));
        match (idle, oldest) {
            (Some(idle), Some(oldest)) => Some(if oldest.0 < idle.0 { oldest } else { idle }),
            (idle, oldest) => idle.or(oldest),
        }
    }

    /// Whether the time is up in which streams are taken after the first GOAWAY.
    fn is_over(&self) -> bool {
        self.ending.is_some_and(|since| since.elapsed() >= self.cx.manager.drain_timeout)
    }

    /// No new streams: those there are come to their end.
    fn end(&mut self) {
        let manager = &self.cx.manager;
        // Connections that are drained together do not all come back at once (`drain_timeout_jitter`).
        let later = jitter(manager.drain_timeout, manager.drain_timeout_jitter, fastrand::f64());
        self.ending = Some(clock::now() + later);
        self.shared.ending.set(true);
        self.connection.graceful_shutdown();
    }
}

/// What is added to `time` if it is lengthened by up to `percent` of it; `random` is between 0 and 1.
fn jitter(time: Duration, percent: f64, random: f64) -> Duration {
    time.mul_f64(percent / 100.0 * random)
}

fn count_end(cx: &ConnectionCx, is_remote: bool, streams: usize) {
    let stats = cx.manager.stats.here();
    if is_remote {
        stats.downstream_cx_destroy_remote.inc();
    } else {
        stats.downstream_cx_destroy_local.inc();
    }
    if streams > 0 {
        stats.downstream_cx_destroy_active_rq.inc();
        if is_remote {
            stats.downstream_cx_destroy_remote_active_rq.inc();
        } else {
            stats.downstream_cx_destroy_local_active_rq.inc();
        }
    }
}

async fn serve_stream(
    cx: Rc<ConnectionCx>,
    shared: Rc<Shared>,
    request: Request<RecvStream>,
    response: SendResponse<Bytes>,
) {
    let start = clock::now();
    let _active = Active { cx: cx.clone(), shared: shared.clone() };
    let (parts, receive) = request.into_parts();
    let end = receive.is_end_stream();
    let metadata = shared.metadata.as_ref();
    let metadata = metadata.map(|streams| Box::new(streams.take(receive.stream_id().as_u32())));
    let rules = cx.manager.http2.field_rules;
    let allowance = shared.allowance.clone();
    let stats = cx.manager.http2_stats.clone();
    let max_fields = cx.manager.max_headers_count;
    let mut down = ServerStream::new(receive, response, &parts, rules, max_fields, allowance, stats)
        .with_metadata(metadata);
    let lacks_scheme = named_scheme(&parts.uri).is_none();
    let head = match read_head(&cx, &shared.cookies, parts) {
        Ok(head) => head,
        Err(malformed) => {
            count_malformed(&cx, &malformed);
            stream::refused(&cx, down.protocol(), malformed.flag(), malformed.details());
            shared.count_premature();
            down.refuse(match malformed.flag() {
                _ if malformed == Malformed::TooManyCookies => Reason::REFUSED_STREAM,
                ResponseFlag::DownstreamProtocolError => Reason::PROTOCOL_ERROR,
                _ => Reason::INTERNAL_ERROR,
            });
            return;
        }
    };
    let recycled = shared.timers.borrow_mut().pop();
    let mut timer = recycled.unwrap_or_default();
    let lacks = Lacks { host: head.authority.is_empty(), scheme: lacks_scheme };
    let incoming = Incoming { head, end, lacks };
    // Boxed: a task is moved when it is spawned and when it ends, which several kilobytes should not be.
    let complete = pinned(|| stream::serve(&cx, &mut down, &mut timer, incoming)).await;
    timer.rest();
    shared.timers.borrow_mut().push(timer);
    // After an early response the codec itself says, once that has left, that the rest of the request is not wanted
    // (RST_STREAM with NO_ERROR); a reset from here would take back what is still queued.
    if !complete && !down.has_responded() {
        let lifetime = cx.shared.env.runtime.number("overload.premature_reset_min_stream_lifetime_seconds");
        // Envoy compares whole seconds.
        if start.elapsed() < Duration::from_secs(lifetime.unwrap_or(PREMATURE_LIFETIME).saturating_add(1)) {
            shared.count_premature();
        }
    }
    if down.asks_to_close() {
        shared.close.set(true);
        shared.notify();
    }
}

/// The request head, if protocol and configuration allow it.
fn read_head(cx: &ConnectionCx, cookies: &Cookies, mut parts: Parts) -> Result<RequestHead, Malformed> {
    let manager = &cx.manager;
    if let Some(rules) = &manager.http2.field_rules {
        let dropped = rules.apply(&mut parts.headers)?;
        manager.http2_stats.here().dropped_headers_with_underscores.add(dropped);
    }
    request_head(parts, cx.info.secure, manager.head_limits(), cookies)
}

fn count_malformed(cx: &ConnectionCx, malformed: &Malformed) {
    let stats = cx.manager.http2_stats.here();
    match malformed {
        Malformed::Invalid(_) => cx.manager.stats.here().downstream_cx_protocol_error.inc(),
        Malformed::TooManyHeaders | Malformed::TooManyCookies => stats.header_overflow.inc(),
        Malformed::TooLarge => stats.header_list_size_too_large.inc(),
        Malformed::Underscore => stats.requests_rejected_with_underscores_in_headers.inc(),
    }
}

/// What the codec lets pass for a limit of `bytes`. It counts more for each field than Envoy, answers what is larger without
/// telling anyone, and has to bound memory only: the limit itself is kept by [`request_head`].
fn codec_limit(bytes: usize) -> u32 {
    u32::try_from(bytes.saturating_mul(2)).unwrap_or(u32::MAX).saturating_add(16 * 1024)
}

/// Counts a stream of its connection until it is dropped.
struct Active {
    cx: Rc<ConnectionCx>,
    shared: Rc<Shared>,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.cx.manager.http2_stats.here().streams_active.dec();
        let shared = &self.shared;
        shared.ended.set(shared.ended.get() + 1);
        shared.streams.set(shared.streams.get() - 1);
        shared.last_end.set(clock::now());
        // A drain waits for the last stream.
        if shared.streams.get() == 0 && shared.ending.get() {
            shared.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection is while nothing happens on it, beside its [`Accept`].
    #[test]
    fn an_idle_connection_is_small() {
        fn size<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(serve) <= 256, "{}", size(serve));
    }

    #[test]
    fn premature_resets_as_envoy_counts_them() {
        // Premature, ended, limit 500.
        for (premature, ended, abusive) in [
            (0, 0, false),
            (0, 9_000, false),
            (249, 249, false),
            (250, 250, true),
            (250, 500, true),
            (250, 501, false),
            (4_000, 8_001, false),
            (4_001, 8_001, true),
        ] {
            assert_eq!(is_abusive(premature, ended, 500), abusive, "{premature} of {ended}");
        }
    }

    #[test]
    fn a_drain_is_lengthened_by_up_to_the_jitter() {
        let drain = Duration::from_secs(10);
        assert_eq!(jitter(drain, 0.0, 0.9), Duration::ZERO);
        assert_eq!(jitter(drain, 50.0, 0.5), Duration::from_millis(2500));
        assert_eq!(jitter(drain, 100.0, 1.0), drain);
    }
}
