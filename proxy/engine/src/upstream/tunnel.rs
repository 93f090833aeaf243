//! A CONNECT request that ends here: its payload goes to the upstream as plain TCP (`connect_config`).

use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use proxy_core::head::{BodyEvent, ResponseHead};
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::WireBytes;

use super::pool::ConnectedSocket;
use crate::codec::output::Output;
use crate::codec::upstream::UpstreamEvent;
use crate::local::buffers;

/// A TCP connection that looks like a stream: it answers 200 by itself, then carries bytes.
pub(crate) struct Tunnel {
    socket: ConnectedSocket,
    output: Output,
    input: BytesMut,
    answered: bool,
    eof: bool,
    finished: bool,
    received: u64,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let stats = self.socket.guard.stats();
        stats.upstream_cx_destroy_local.inc();
        stats.upstream_cx_destroy_with_active_rq.inc();
        stats.upstream_cx_destroy_local_with_active_rq.inc();
    }
}

impl Tunnel {
    /// A tunnel over a connection that was just made.
    pub(crate) fn new(socket: ConnectedSocket) -> Self {
        Self {
            socket,
            output: Output::default(),
            input: BytesMut::new(),
            answered: false,
            eof: false,
            finished: false,
            received: 0,
        }
    }

    /// The connection.
    pub(crate) fn socket(&self) -> &ConnectedSocket {
        &self.socket
    }

    /// Queues bytes.
    pub(crate) fn data(&mut self, data: Bytes) {
        self.output.data(data);
    }

    /// The client will send no more.
    pub(crate) fn finish(&mut self) {
        self.finished = true;
        if self.output.is_empty() {
            let _ = self.socket.connection.shutdown_write();
        }
    }

    /// Ready when more may be queued.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        if self.output.has_room() { Poll::Ready(Ok(())) } else { self.poll_flush(cx) }
    }

    /// Ready when everything queued has left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(self.output.poll_flush(&self.socket.connection, cx));
        if self.finished {
            let _ = self.socket.connection.shutdown_write();
        }
        Poll::Ready(flushed.map_err(|_| UpstreamReset::ConnectionTermination))
    }

    /// 200 first, then what the upstream sends.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpstreamEvent, UpstreamReset>> {
        if !self.answered {
            self.answered = true;
            let head = ResponseHead::new(StatusCode::OK);
            return Poll::Ready(Ok(UpstreamEvent::Head { head, end: false, is_upgrade: true }));
        }
        if self.eof {
            return Poll::Pending;
        }
        if self.input.capacity() == 0 {
            if ready!(self.socket.connection.poll_readable(cx)).is_err() {
                return Poll::Ready(Err(UpstreamReset::ConnectionTermination));
            }
            self.input = buffers::take();
        }
        self.input.reserve(1);
        match ready!(self.socket.connection.poll_read(cx, &mut self.input)) {
            Ok(0) => {
                self.eof = true;
                Poll::Ready(Ok(UpstreamEvent::Body(BodyEvent::End)))
            }
            Ok(count) => {
                self.received += count as u64;
                Poll::Ready(Ok(UpstreamEvent::Body(BodyEvent::Data(self.input.split().freeze()))))
            }
            Err(_) => Poll::Ready(Err(UpstreamReset::ConnectionTermination)),
        }
    }

    /// Bytes on the wire so far.
    pub(crate) fn wire(&self) -> WireBytes {
        WireBytes { sent: self.output.written(), received: self.received, ..WireBytes::default() }
    }
}
