//! A downstream HTTP/2 connection: accepts streams, one task each, and ends with a graceful GOAWAY.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{Method, Request};

use super::stream::{self, ConnectionCx};
use crate::codec::h2_server::{Malformed, ServerStream, request_head};
use crate::local::timers::Timer;
use crate::net::connection::Connection;

/// State that the connection shares with its streams.
struct Shared {
    streams: Cell<usize>,
    last_end: Cell<Instant>,
    /// A response asked for the connection to end.
    close: Cell<bool>,
    changed: tokio::sync::Notify,
}

/// Serves `connection` until it ends.
pub(super) async fn serve(cx: Rc<ConnectionCx>, connection: Connection) {
    let manager = cx.manager.clone();
    let stats = manager.stats.here();
    stats.downstream_cx_http2_total.inc();
    stats.downstream_cx_http2_active.inc();
    let options = &manager.http2;
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(options.initial_stream_window)
        .initial_connection_window_size(options.initial_connection_window)
        .max_concurrent_streams(options.max_concurrent_streams)
        .header_table_size(options.hpack_table_size)
        .max_header_list_size(u32::try_from(manager.max_request_headers_bytes).unwrap_or(u32::MAX));
    if options.allow_connect {
        builder.enable_connect_protocol();
    }
    let mut timer = Timer::default();
    let deadline = manager.idle_timeout.map(|idle| Instant::now() + idle);
    let mut handshake = pin!(builder.handshake::<_, Bytes>(connection));
    let connected = poll_fn(|task| {
        if let Poll::Ready(connected) = handshake.as_mut().poll(task) {
            return Poll::Ready(connected.ok());
        }
        deadline.map_or(Poll::Pending, |deadline| timer.poll(task, deadline).map(|()| None))
    })
    .await;
    if let Some(connected) = connected {
        accept(&cx, connected, timer).await;
    } else {
        stats.downstream_cx_protocol_error.inc();
    }
    stats.downstream_cx_http2_active.dec();
}

/// What the connection does next.
#[expect(clippy::large_enum_variant, reason = "taken apart at once, once a stream")]
enum Next {
    Stream(Request<RecvStream>, SendResponse<Bytes>),
    Closed,
    Failed(h2::Error),
    Idle,
    Duration,
    Drain,
    Again,
}

async fn accept(
    cx: &Rc<ConnectionCx>,
    mut connection: h2::server::Connection<Connection, Bytes>,
    mut timer: Timer,
) {
    let manager = &*cx.manager;
    let stats = manager.stats.here();
    let shared = Rc::new(Shared {
        streams: Cell::new(0),
        last_end: Cell::new(Instant::now()),
        close: Cell::new(false),
        changed: tokio::sync::Notify::new(),
    });
    let mut total = 0_u32;
    let mut ending = false;
    loop {
        let next = {
            let mut drained = pin!(cx.drain.closed());
            let mut changed = pin!(shared.changed.notified());
            poll_fn(|task| {
                match connection.poll_accept(task) {
                    Poll::Ready(Some(Ok((request, response)))) => {
                        return Poll::Ready(Next::Stream(request, response));
                    }
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Next::Failed(error)),
                    Poll::Ready(None) => return Poll::Ready(Next::Closed),
                    Poll::Pending => {}
                }
                if changed.as_mut().poll(task).is_ready() {
                    return Poll::Ready(Next::Again);
                }
                if ending {
                    return Poll::Pending;
                }
                if shared.close.get() || drained.as_mut().poll(task).is_ready() {
                    return Poll::Ready(Next::Drain);
                }
                let idle = manager.idle_timeout.filter(|_| shared.streams.get() == 0);
                let idle = idle.map(|idle| shared.last_end.get() + idle);
                let oldest = manager.max_connection_duration.map(|max| cx.info.start + max);
                let (at, what) = match (idle, oldest) {
                    (Some(idle), Some(oldest)) if oldest < idle => (oldest, Next::Duration),
                    (Some(idle), _) => (idle, Next::Idle),
                    (None, Some(oldest)) => (oldest, Next::Duration),
                    (None, None) => return Poll::Pending,
                };
                timer.poll(task, at).map(|()| what)
            })
            .await
        };
        match next {
            Next::Stream(request, response) => {
                total += 1;
                if manager.max_requests_per_connection == total {
                    stats.downstream_cx_max_requests_reached.inc();
                    shared.close.set(true);
                }
                shared.streams.set(shared.streams.get() + 1);
                tokio::task::spawn_local(serve_stream(cx.clone(), shared.clone(), request, response));
                continue;
            }
            Next::Again => continue,
            Next::Closed => break,
            Next::Failed(error) => {
                if !error.is_io() {
                    stats.downstream_cx_protocol_error.inc();
                }
                tracing::debug!(%error, "a downstream HTTP/2 connection failed");
                break;
            }
            Next::Idle => stats.downstream_cx_idle_timeout.inc(),
            Next::Duration => stats.downstream_cx_max_duration_reached.inc(),
            Next::Drain => {}
        }
        ending = true;
        connection.graceful_shutdown();
    }
}

async fn serve_stream(
    cx: Rc<ConnectionCx>,
    shared: Rc<Shared>,
    request: Request<RecvStream>,
    response: SendResponse<Bytes>,
) {
    let _active = Active(shared.clone());
    let (parts, receive) = request.into_parts();
    let end = receive.is_end_stream();
    let is_head = parts.method == Method::HEAD;
    let mut down = ServerStream::new(receive, response, is_head);
    let head = match request_head(Request::from_parts(parts, ()), cx.info.secure) {
        Ok(head) => head,
        Err(Malformed) => {
            cx.manager.stats.here().downstream_cx_protocol_error.inc();
            down.refuse(Reason::PROTOCOL_ERROR);
            return;
        }
    };
    let mut timer = Timer::default();
    let complete = stream::serve(&cx, &mut down, &mut timer, head, end).await;
    if !complete && !down.is_request_complete() {
        down.refuse_rest();
    }
    if down.asks_to_close() {
        shared.close.set(true);
        shared.changed.notify_one();
    }
}

/// Counts a stream of its connection until it is dropped.
struct Active(Rc<Shared>);

impl Drop for Active {
    fn drop(&mut self) {
        let shared = &self.0;
        shared.streams.set(shared.streams.get() - 1);
        shared.last_end.set(Instant::now());
        shared.changed.notify_one();
    }
}
