//! A downstream HTTP connection: which codec it speaks, one request after the other, and how it ends.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use proxy_core::head::Scheme;
use proxy_core::local_reply::LocalReply;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_info::ConnectionInfo;

use super::config::{Codec, ConnectionManager};
use super::stream;
pub use super::stream::ConnectionCx;
use crate::codec::downstream::Downstream;
use crate::codec::h1::{HeadLimits, RequestError, RequestOptions};
use crate::codec::h1_server::{NextRequest, ServerConnection, ServerOptions};
use crate::local::clock;
use crate::local::contain::Finally;
use crate::local::in_place::pinned;
use crate::local::overload::{Overload, Point};
use crate::local::reduced::{Reducible, reduced};
use crate::local::timers::Timer;
use crate::net::connection::Connection;
use crate::upstream::key_format::HeaderKeyFormat;

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves `connection` until it ends.
///
/// What waits for the next request is small and is kept together: each box on the way to it is memory to be fetched, and was last
/// touched many connections ago.
pub async fn serve(cx: Rc<ConnectionCx>, connection: Box<Connection>) {
    let counted = cx.clone();
    let _counted = Counted::new(&counted);
    if let Some(overload) = &cx.overload
        && overload.watches(Point::Codec)
        && is_shed(&cx, overload, &connection).await
    {
        return;
    }
    let codec = match cx.manager.codec {
        Codec::Auto => match Box::pin(sniff(&cx, &connection)).await {
            Sniffed::Codec(codec) => codec,
            Sniffed::Gone => {
                cx.manager.stats.here().downstream_cx_destroy_remote.inc();
                return;
            }
            Sniffed::Late(ended) => {
                count_late(&cx, ended);
                return;
            }
        },
        codec => codec,
    };
    match codec {
        Codec::Http2 => super::connection_h2::serve(cx, connection).await,
        Codec::Http1 | Codec::Auto => serve_http1(&cx, connection).await,
    }
}

/// Whether a connection is closed when its first bytes come, because there is too much to do, or ends before.
async fn is_shed(cx: &ConnectionCx, overload: &Overload, connection: &Connection) -> bool {
    let stats = cx.manager.stats.here();
    match rest(cx, connection, &mut Timer::default()).await {
        Some(ended) => count_late(cx, ended),
        None if overload.sheds(Point::Codec, || cx.random()) => {
            stats.downstream_rq_overload_close.inc();
            stats.downstream_cx_destroy_local.inc();
        }
        None => return false,
    }
    true
}

/// What the first bytes said.
enum Sniffed {
    Codec(Codec),
    /// The client left before it said enough.
    Gone,
    /// It said too little for too long.
    Late(Ended),
}

/// Tells HTTP/2 from HTTP/1 by the first bytes.
async fn sniff(cx: &ConnectionCx, connection: &Connection) -> Sniffed {
    let agreed = cx.info.tls.as_ref().and_then(|tls| tls.alpn.as_deref());
    if agreed == Some(b"h2") {
        return Sniffed::Codec(Codec::Http2);
    }
    let mut timer = Timer::default();
    let since = clock::now();
    let mut buffer = BytesMut::new();
    let codec = poll_fn(|task| {
        loop {
            match connection.poll_read(task, &mut buffer) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Sniffed::Gone),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
            let compared = buffer.len().min(PREFACE.len());
            if buffer.get(..compared) != PREFACE.get(..compared) {
                return Poll::Ready(Sniffed::Codec(Codec::Http1));
            }
            if compared == PREFACE.len() {
                return Poll::Ready(Sniffed::Codec(Codec::Http2));
            }
        }
        // Who serves the connection waits for this, and polls it then.
        if cx.drain.is_closed() {
            return Poll::Ready(Sniffed::Late(Ended::Drained));
        }
        match first_deadline(cx, since) {
            Some((at, ended)) => timer.poll(task, at).map(|()| Sniffed::Late(ended)),
            None => Poll::Pending,
        }
    })
    .await;
    connection.replay(buffer);
    codec
}

/// What waiting for a request ended with.
#[expect(clippy::large_enum_variant, reason = "taken apart at once, once a request")]
enum Waited {
    Next(NextRequest),
    Ended(Ended),
}

/// Why there is no next request.
#[derive(Clone, Copy)]
pub(super) enum Ended {
    Invalid(RequestError),
    Closed,
    Idle,
    /// The stream that a head begins was idle.
    HeadIdle,
    HeadTimeout,
    Duration,
    /// The drain of the filter chain is over.
    Drained,
    /// It is, and a request was in flight.
    Cut,
    /// There is too much to do for a request that came.
    Shed,
}

/// Most connections of a worker that keep their codec between requests. Making it anew costs 0.3 us, keeping it 0.7 KiB: few
/// connections are fast, many are small.
const MOST_WARM: usize = 256;

thread_local! {
    static WARM: Cell<usize> = const { Cell::new(0) };
}

/// Counts a connection that has its codec.
struct Warm;

impl Warm {
    fn new() -> Self {
        WARM.set(WARM.get() + 1);
        Self
    }

    /// Whether the codec may stay though the connection is idle.
    fn may_stay(&self) -> bool {
        WARM.get() <= MOST_WARM
    }
}

impl Drop for Warm {
    fn drop(&mut self) {
        WARM.set(WARM.get() - 1);
    }
}

/// Serves HTTP/1. One idle connection among many is its socket and its deadlines: the codec comes with the first byte of a
/// request and goes when nothing is left of it.
async fn serve_http1(cx: &Rc<ConnectionCx>, mut connection: Box<Connection>) {
    let stats = cx.manager.stats.here();
    stats.downstream_cx_http1_total.inc();
    stats.downstream_cx_http1_active.inc();
    let _active = Finally(|| stats.downstream_cx_http1_active.dec());
    let mut timer = Timer::default();
    let mut requests = 0;
    loop {
        let ended = rest(cx, &connection, &mut timer).await;
        match Box::pin(serve_requests(cx, connection, &mut timer, &mut requests, ended)).await {
            Some(idle) => connection = idle,
            None => return,
        }
    }
}

/// When a connection that has no request since then ends, and why.
pub(super) fn first_deadline(cx: &ConnectionCx, since: Instant) -> Option<(Instant, Ended)> {
    let idle = cx.idle_end(since).map(|at| (at, Ended::Idle));
    let duration = cx.last_moment().map(|at| (at, Ended::Duration));
    match (idle, duration) {
        (Some(idle), Some(duration)) if duration.0 < idle.0 => Some(duration),
        (idle, duration) => idle.or(duration),
    }
}

/// Counts a connection that ended before it was known what it speaks.
pub(super) fn count_late(cx: &ConnectionCx, ended: Ended) {
    let stats = cx.manager.stats.here();
    stats.downstream_cx_destroy_local.inc();
    match ended {
        Ended::Idle => stats.downstream_cx_idle_timeout.inc(),
        Ended::Duration => stats.downstream_cx_max_duration_reached.inc(),
        _ => {}
    }
}

/// Counts a connection whose TLS handshake failed: in Envoy the connection manager is there before it.
pub fn count_unshaken(manager: &ConnectionManager, info: &ConnectionInfo) {
    let stats = manager.stats.here();
    stats.downstream_cx_total.inc();
    stats.downstream_cx_ssl_total.inc();
    stats.downstream_cx_destroy.inc();
    stats.downstream_cx_destroy_remote.inc();
    let length = info.start.elapsed().as_millis();
    stats.downstream_cx_length_ms.record(u64::try_from(length).unwrap_or(u64::MAX));
}

/// Counts a connection that the end of a drain cuts off. Its requests are to Envoy as those that the client took away.
pub(super) fn count_cut(cx: &ConnectionCx, in_flight: u64) {
    let stats = cx.manager.stats.here();
    stats.downstream_cx_destroy_local.inc();
    if in_flight > 0 {
        stats.downstream_cx_destroy_active_rq.inc();
        stats.downstream_cx_destroy_remote_active_rq.inc();
    }
}

/// Waits, with nothing but the socket, until there is something to read, or until the connection ends without that.
async fn rest(cx: &ConnectionCx, connection: &Connection, timer: &mut Timer) -> Option<Ended> {
    let since = clock::now();
    poll_fn(|task| {
        if connection.poll_readable(task).is_ready() {
            return Poll::Ready(None);
        }
        // Who serves the connection waits for this, and polls it then.
        if cx.drain.is_closed() {
            return Poll::Ready(Some(Ended::Drained));
        }
        let Some((at, ended)) = first_deadline(cx, since) else { return Poll::Pending };
        timer.poll(task, at).map(|()| Some(ended))
    })
    .await
}

/// Serves one request after the other until none is left, and gives the connection back to rest; nothing if it ended.
async fn serve_requests(
    cx: &Rc<ConnectionCx>,
    connection: Box<Connection>,
    timer: &mut Timer,
    requests: &mut u32,
    mut ended: Option<Ended>,
) -> Option<Box<Connection>> {
    let manager = &*cx.manager;
    let stats = manager.stats.here();
    let warm = Warm::new();
    let mut server = ServerConnection::new(connection, server_options(cx)).heeding(cx.overload.as_ref());
    let mut counted = (0, 0);
    loop {
        let served = {
            let waited = match ended.take() {
                Some(ended) => Waited::Ended(ended),
                None => wait(cx, &mut server, timer).await,
            };
            let next = match waited {
                Waited::Next(NextRequest::Request(_)) if cx.is_shed(Point::GoAwayAndClose) => {
                    Err(Ended::Shed)
                }
                Waited::Next(NextRequest::Request(incoming)) => {
                    *requests += 1;
                    manager.http1_stats.here().dropped_headers_with_underscores.add(server.take_dropped());
                    if manager.max_requests_per_connection == *requests {
                        stats.downstream_cx_max_requests_reached.inc();
                        server.close_after();
                    }
                    if cx.is_old() || cx.is_shed(Point::GoAway) {
                        server.close_after();
                    }
                    // Boxed: the state of a request is several kilobytes, which an idle connection must not hold.
                    Ok(pinned(|| stream::serve(cx, &mut server, timer, incoming)))
                }
                Waited::Next(NextRequest::Invalid(error)) => Err(Ended::Invalid(error)),
                Waited::Next(NextRequest::Closed) => Err(Ended::Closed),
                Waited::Ended(ended) => Err(ended),
            };
            match next {
                Ok(request) => unless_closed(cx, request).await.ok_or(Ended::Cut),
                Err(ended) => Err(ended),
            }
        };
        match served {
            Ok(complete) => {
                let continues = server.take_continues();
                if continues > 0 {
                    stats.downstream_rq_1xx.add(continues);
                    stats.downstream_rq_completed.add(continues);
                }
                count_bytes(cx, &server, &mut counted);
                if complete && server.can_continue() {
                    if server.has_partial_request() || warm.may_stay() {
                        server.rest();
                        continue;
                    }
                    return Some(server.into_connection());
                }
                // (It became too old while the request was served, or before.)
                stats.downstream_cx_max_duration_reached.add(u64::from(cx.is_old()));
                if server.is_broken() {
                    break;
                }
            }
            Err(Ended::Invalid(error)) => {
                unless_closed(cx, Box::pin(reply_invalid(cx, &mut server, timer, error))).await;
            }
            Err(late @ (Ended::HeadIdle | Ended::HeadTimeout)) => {
                unless_closed(cx, Box::pin(reply_late(cx, &mut server, timer, &late))).await;
            }
            Err(Ended::Shed) => {}
            Err(Ended::Closed) => {
                if server.has_partial_request() {
                    stream::abandoned(cx, &server);
                    stats.downstream_cx_destroy_active_rq.inc();
                    stats.downstream_cx_destroy_remote_active_rq.inc();
                }
                stats.downstream_cx_destroy_remote.inc();
                count_bytes(cx, &server, &mut counted);
                return None;
            }
            Err(Ended::Idle) => {
                stats.downstream_cx_idle_timeout.inc();
                break;
            }
            Err(Ended::Duration) => {
                stats.downstream_cx_max_duration_reached.inc();
                break;
            }
            Err(ended @ (Ended::Drained | Ended::Cut)) => {
                let in_flight = u64::from(matches!(ended, Ended::Cut));
                stats.downstream_rq_rx_reset.add(in_flight);
                count_cut(cx, in_flight);
                count_bytes(cx, &server, &mut counted);
                return None;
            }
        }
        linger(cx, &mut server, timer).await;
        break;
    }
    count_bytes(cx, &server, &mut counted);
    match server.is_closed_by_peer() {
        true => stats.downstream_cx_destroy_remote.inc(),
        false => stats.downstream_cx_destroy_local.inc(),
    }
    None
}

/// Waits for `serving`, unless what is left must close.
async fn unless_closed<T>(cx: &ConnectionCx, serving: Pin<Box<impl Future<Output = T>>>) -> Option<T> {
    let mut serving = serving;
    poll_fn(|task| match serving.as_mut().poll(task) {
        Poll::Ready(served) => Poll::Ready(Some(served)),
        // Who serves the connection waits for this, and polls it then.
        Poll::Pending if cx.drain.is_closed() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

fn count_bytes(cx: &ConnectionCx, server: &ServerConnection, counted: &mut (u64, u64)) {
    let (received, sent) = server.totals();
    let stats = cx.manager.stats.here();
    stats.downstream_cx_rx_bytes_total.add(received - counted.0);
    stats.downstream_cx_tx_bytes_total.add(sent - counted.1);
    *counted = (received, sent);
}

/// Waits for the next request, within the timeouts that run while there is none.
async fn wait(cx: &ConnectionCx, server: &mut ServerConnection, timer: &mut Timer) -> Waited {
    let manager = &*cx.manager;
    // mostly the request is there at once, and no clock is read
    let mut idle_since = None;
    let mut head_since = None;
    poll_fn(|task| {
        if let Poll::Ready(next) = server.poll_request(task) {
            return Poll::Ready(Waited::Next(next));
        }
        let is_partial = server.has_partial_request();
        if !is_partial {
            // Who serves the connection waits for this, and polls it then.
            if cx.drain.is_closed() {
                return Poll::Ready(Waited::Ended(Ended::Drained));
            }
            server.rest();
        }
        // With its first byte a request has begun: the connection is not idle any more, the stream may be.
        let head_since = is_partial.then(|| *head_since.get_or_insert_with(clock::now));
        let since = |limit: Option<Duration>| Some(head_since? + limit?);
        let idle_since = *idle_since.get_or_insert_with(clock::now);
        let head_idle = manager.stream_idle_timeout.map(|idle| reduced(Reducible::StreamIdle, idle));
        let deadlines = [
            (cx.idle_end(idle_since).filter(|_| !is_partial), Ended::Idle),
            (since(manager.request_headers_timeout), Ended::HeadTimeout),
            (since(head_idle), Ended::HeadIdle),
            (cx.last_moment(), Ended::Duration),
        ];
        let mut deadlines = deadlines.into_iter().filter_map(|(at, what)| Some((at?, what)));
        let Some(first) = deadlines.next() else { return Poll::Pending };
        let (at, what) = deadlines.fold(first, |first, next| if next.0 < first.0 { next } else { first });
        timer.poll(task, at).map(|()| Waited::Ended(what))
    })
    .await
}

/// Answers where the head of a request did not come in time.
async fn reply_late(cx: &Rc<ConnectionCx>, server: &mut ServerConnection, timer: &mut Timer, late: &Ended) {
    let stats = cx.manager.stats.here();
    let reply = if matches!(late, Ended::HeadIdle) {
        stats.downstream_rq_idle_timeout.inc();
        let body = Bytes::from_static(b"stream timeout");
        LocalReply::new(StatusCode::REQUEST_TIMEOUT, body, "stream_idle_timeout")
            .with_flag(ResponseFlag::StreamIdleTimeout)
    } else {
        stats.downstream_rq_header_timeout.inc();
        let body = Bytes::from_static(b"request header timeout");
        LocalReply::new(StatusCode::REQUEST_TIMEOUT, body, "request_header_timeout")
    };
    server.begin_invalid();
    stream::reply_without_request(cx, server, timer, reply).await;
}

/// Answers bytes that are no request.
async fn reply_invalid(
    cx: &Rc<ConnectionCx>,
    server: &mut ServerConnection,
    timer: &mut Timer,
    error: RequestError,
) {
    let stats = cx.manager.stats.here();
    if error == RequestError::Overload {
        stats.downstream_rq_overload_close.inc();
    } else {
        stats.downstream_cx_protocol_error.inc();
    }
    if error == RequestError::UnexpectedUnderscore {
        cx.manager.http1_stats.here().requests_rejected_with_underscores_in_headers.inc();
    }
    let body = Bytes::from_static(error.body().as_bytes());
    let reply = LocalReply::new(error.status(), body, error.details())
        .with_flag(ResponseFlag::DownstreamProtocolError);
    server.begin_invalid();
    stream::reply_without_request(cx, server, timer, reply).await;
}

/// Ends the connection so that the client surely reads the last response: says that nothing follows, and waits for the
/// client to close, for a while (`delayed_close_timeout`).
async fn linger(cx: &ConnectionCx, server: &mut ServerConnection, timer: &mut Timer) {
    let _ = server.connection().shutdown_write();
    let Some(timeout) = cx.manager.delayed_close_timeout else { return };
    let deadline = clock::now() + timeout;
    poll_fn(|task| {
        // (Who serves the connection waits for the end of a drain, and polls this then.)
        if server.poll_drain(task).is_ready() || cx.drain.is_closed() {
            return Poll::Ready(());
        }
        timer.poll(task, deadline).map(|()| cx.manager.stats.here().downstream_cx_delayed_close_timeout.inc())
    })
    .await;
}

/// What the codec of every connection of `manager` needs, made once.
fn server_options(cx: &ConnectionCx) -> Arc<ServerOptions> {
    let made = &cx.manager.http1_server[usize::from(cx.info.secure)];
    made.get_or_init(|| Arc::new(make_server_options(cx))).clone()
}

fn make_server_options(cx: &ConnectionCx) -> ServerOptions {
    let (manager, secure) = (&*cx.manager, cx.info.secure);
    let http1 = &manager.http1;
    ServerOptions {
        limits: HeadLimits {
            max_bytes: manager.max_request_headers_bytes,
            max_headers: manager.max_headers_count,
        },
        request: Arc::new(RequestOptions {
            scheme: if secure { Scheme::Https } else { Scheme::Http },
            is_edge: manager.trusts_nobody(),
            allow_http_10: http1.accept_http_10,
            default_host_for_http_10: (!http1.default_host_for_http_10.is_empty())
                .then(|| http1.default_host_for_http_10.as_str().into()),
            allow_absolute_url: true,
            allow_chunked_length: http1.allow_chunked_length,
            allow_custom_methods: http1.allow_custom_methods,
            underscores: manager.underscores,
            keep_case: http1.header_key_format.kept(),
            proxy_100_continue: manager.proxy_100_continue,
            ignored_upgrades: http1.ignored_upgrades.clone(),
        }),
        trailers: http1.enable_trailers,
        proper_case: http1.header_key_format == HeaderKeyFormat::ProperCase,
        proxy_100_continue: manager.proxy_100_continue,
        buffer_limit: cx.buffer_limit,
    }
}

/// Counts a connection until it is dropped.
struct Counted<'c> {
    cx: &'c ConnectionCx,
}

impl<'c> Counted<'c> {
    fn new(cx: &'c ConnectionCx) -> Self {
        let stats = cx.manager.stats.here();
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        if cx.info.secure {
            stats.downstream_cx_ssl_total.inc();
            stats.downstream_cx_ssl_active.inc();
        }
        Self { cx }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        let stats = self.cx.manager.stats.here();
        stats.downstream_cx_active.dec();
        if self.cx.info.secure {
            stats.downstream_cx_ssl_active.dec();
        }
        stats.downstream_cx_destroy.inc();
        let length = self.cx.info.start.elapsed().as_millis();
        stats.downstream_cx_length_ms.record(u64::try_from(length).unwrap_or(u64::MAX));
    }
}
