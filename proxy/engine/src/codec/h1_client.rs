//! An upstream HTTP/1 connection: the codec, the socket, and the exchange that is on it now.

use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method};
use proxy_core::head::{BodyEvent, HeaderCase, RequestHead};
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::WireBytes;

use super::h1::{
    BodyDecoder, BodyEncoder, BodyFraming, HeadLimits, KeyFormat, RequestMessage, ResponseContext,
    ResponseKind, ResponseOptions, ResponseParser, TargetForm, TrailerOptions, Trailers,
};
use super::h1_server::{LAST_CHUNK, fields_sent, framing_of, trailer_bytes};
use super::output::Output;
use super::upstream::UpstreamEvent;
use crate::local::buffers;
use crate::net::connection::Connection;
use crate::net::pipe::{self, Pipe};

/// How a connection reads and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientOptions {
    /// Limits of heads.
    pub(crate) limits: HeadLimits,
    /// How responses are read.
    pub(crate) response: ResponseOptions,
    /// Trailers pass in both directions.
    pub(crate) trailers: bool,
    /// Names are written in `Proper-Case`.
    pub(crate) proper_case: bool,
    /// What the request line says.
    pub(crate) target: TargetForm,
    /// Bytes that may wait to be sent before no further piece is taken.
    pub(crate) buffer_limit: usize,
}

/// An upstream HTTP/1 connection, idle or with one exchange on it.
pub(crate) struct ClientConnection {
    connection: Connection,
    options: ClientOptions,
    parser: ResponseParser,
    input: BytesMut,
    output: Output,
    received: u64,
    exchanges: u32,
    exchange: Exchange,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Phase {
    Head,
    Body,
    Done,
}

struct Exchange {
    context: ResponseContext,
    encoder: Option<BodyEncoder>,
    decoder: BodyDecoder,
    phase: Phase,
    until_close: bool,
    request_done: bool,
    keep_alive: bool,
    eof: bool,
    sent_before: u64,
    received_before: u64,
    head_sent: u64,
    head_received: u64,
    trailers_received: u64,
}

impl ClientConnection {
    /// A fresh connection.
    pub(crate) fn new(connection: Connection, options: ClientOptions) -> Self {
        Self {
            connection,
            options,
            parser: ResponseParser::new(options.limits, options.response),
            input: BytesMut::new(),
            output: Output::default(),
            received: 0,
            exchanges: 0,
            exchange: Exchange {
                context: ResponseContext::default(),
                encoder: None,
                decoder: BodyDecoder::new(BodyFraming::None, TrailerOptions::default()),
                phase: Phase::Done,
                until_close: false,
                request_done: true,
                keep_alive: true,
                eof: false,
                sent_before: 0,
                received_before: 0,
                head_sent: 0,
                head_received: 0,
                trailers_received: 0,
            },
        }
    }

    /// Requests sent on it so far.
    pub(crate) fn exchanges(&self) -> u32 {
        self.exchanges
    }

    /// Whether an idle connection can still carry a request, as far as is known without a system call.
    pub(crate) fn is_alive(&self) -> bool {
        !self.connection.is_readable()
    }

    /// Whether the exchange is complete in both directions and the connection may carry another.
    pub(crate) fn is_reusable(&self) -> bool {
        let exchange = &self.exchange;
        exchange.phase == Phase::Done
            && exchange.request_done
            && exchange.keep_alive
            && self.input.is_empty()
            && self.output.is_empty()
    }

    /// Whether the upstream sent more than its response.
    pub(crate) fn has_excess(&self) -> bool {
        self.exchange.phase == Phase::Done && !self.input.is_empty()
    }

    /// Whether the upstream ended the connection.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        self.exchange.eof
    }

    /// Whether the exchange is complete, even if the connection cannot carry another.
    pub(crate) fn is_finished(&self) -> bool {
        self.exchange.phase == Phase::Done && self.exchange.request_done
    }

    /// Gives the read buffer back; called when the connection becomes idle.
    pub(crate) fn rest(&mut self) {
        // the exchange has been counted
        self.exchange.sent_before = self.output.written();
        self.exchange.received_before = self.received;
        if self.input.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.input));
        }
    }

    fn trailer_options(&self) -> TrailerOptions {
        TrailerOptions {
            trailers: if self.options.trailers { Trailers::Keep } else { Trailers::Drop },
            limits: self.options.limits,
            underscores: self.options.response.underscores,
        }
    }

    /// The spelling for one message: what goes with its head is first.
    fn keys<'h>(&self, case: Option<&'h HeaderCase>) -> KeyFormat<'h> {
        match case {
            Some(case) => KeyFormat::Preserve(case),
            None if self.options.proper_case => KeyFormat::ProperCase,
            None => KeyFormat::Lower,
        }
    }

    /// Queues the request head.
    pub(crate) fn request(&mut self, head: &RequestHead, end: bool) -> Result<(), UpstreamReset> {
        self.exchanges += 1;
        let is_tunnel = head.upgrade.is_some() || head.method == Method::CONNECT;
        self.exchange = Exchange {
            context: ResponseContext::of(head),
            encoder: None,
            decoder: BodyDecoder::new(BodyFraming::None, TrailerOptions::default()),
            phase: Phase::Head,
            until_close: false,
            // A tunnel's request goes on after the head: the connection is not for another.
            request_done: end && !is_tunnel,
            keep_alive: true,
            eof: false,
            sent_before: self.output.written(),
            received_before: self.received,
            head_sent: 0,
            head_received: 0,
            trailers_received: 0,
        };
        let framing = match framing_of(&head.headers, end) {
            // An upgrade has no body; what follows it is the tunnel.
            BodyFraming::Chunked | BodyFraming::None if is_tunnel => BodyFraming::UntilClose,
            other => other,
        };
        let keys = self.keys(head.case.as_deref());
        let out = self.output.small();
        let before = out.len();
        let encoder = RequestMessage { head, framing, keys, target: self.options.target }
            .encode(out)
            .map_err(|error| {
                tracing::debug!(%error, "a request could not be written");
                UpstreamReset::LocalReset
            })?;
        self.exchange.head_sent = fields_sent(out.get(before..).unwrap_or_default());
        self.exchange.encoder = Some(encoder);
        Ok(())
    }

    /// Queues a piece of the request body.
    pub(crate) fn data(&mut self, data: Bytes) {
        let Some(encoder) = &mut self.exchange.encoder else { return };
        if data.is_empty() || !encoder.sends_body() {
            return;
        }
        if encoder.before(data.len(), self.output.small()).is_err() {
            self.exchange.keep_alive = false;
            return;
        }
        let after = encoder.after();
        self.output.data(data);
        self.output.small().extend_from_slice(after);
    }

    /// Ends the request.
    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) {
        let trailers = trailers.as_ref().filter(|_| self.options.trailers);
        if let Some(encoder) = &mut self.exchange.encoder {
            let out = self.output.small();
            let before = out.len();
            let finished = encoder.finish(trailers, out);
            self.exchange.head_sent += (out.len() - before).saturating_sub(LAST_CHUNK) as u64;
            self.exchange.keep_alive &= finished.is_ok();
        }
        self.exchange.request_done = true;
        if self.exchange.until_close {
            // The client ended its half of a tunnel.
            self.exchange.keep_alive = false;
            if self.output.is_empty() {
                let _ = self.connection.shutdown_write();
            }
        }
    }

    /// Ready when another piece may be queued.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        if self.output.has_room_within(self.options.buffer_limit) {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    /// Ready when everything queued has left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if self.is_whole() {
            self.output.post(&self.connection);
        }
        match ready!(self.output.poll_flush(&self.connection, cx)) {
            Ok(()) => {
                if self.exchange.until_close && self.exchange.request_done {
                    let _ = self.connection.shutdown_write();
                }
                Poll::Ready(Ok(()))
            }
            // The upstream may have answered before it closed: its answer is read first.
            Err(_) if self.exchange.phase == Phase::Head => {
                self.output = Output::default();
                self.exchange.keep_alive = false;
                Poll::Ready(Ok(()))
            }
            Err(_) => Poll::Ready(Err(UpstreamReset::ConnectionTermination)),
        }
    }

    /// Whether all of the request waits to be written, and no more.
    fn is_whole(&self) -> bool {
        let exchange = &self.exchange;
        exchange.request_done && !exchange.until_close && self.output.written() == exchange.sent_before
    }

    /// The next thing the upstream sends.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpstreamEvent, UpstreamReset>> {
        loop {
            match self.exchange.phase {
                Phase::Head if !self.input.is_empty() => {
                    if let Some(event) = self.parse_head()? {
                        return Poll::Ready(Ok(event));
                    }
                }
                Phase::Body => match self.exchange.decoder.decode(&mut self.input) {
                    Ok(Some(BodyEvent::Data(data))) if self.exchange.decoder.is_done() => {
                        self.exchange.phase = Phase::Done;
                        return Poll::Ready(Ok(UpstreamEvent::Last(data)));
                    }
                    Ok(Some(event)) => {
                        if let BodyEvent::Trailers(trailers) = &event {
                            self.exchange.trailers_received = trailer_bytes(trailers);
                        }
                        if matches!(event, BodyEvent::End | BodyEvent::Trailers(_)) {
                            self.exchange.phase = Phase::Done;
                        }
                        return Poll::Ready(Ok(UpstreamEvent::Body(event)));
                    }
                    Ok(None) => {}
                    Err(_) => return Poll::Ready(Err(UpstreamReset::ProtocolError)),
                },
                Phase::Head => {}
                Phase::Done => return Poll::Pending,
            }
            if ready!(self.poll_fill(cx)) == 0 {
                self.exchange.eof = true;
                self.exchange.keep_alive = false;
                if self.exchange.phase == Phase::Body && self.exchange.until_close {
                    self.exchange.phase = Phase::Done;
                    return Poll::Ready(Ok(UpstreamEvent::Body(BodyEvent::End)));
                }
                // Half a message is worse than none.
                let has_begun = self.exchange.phase == Phase::Body || !self.input.is_empty();
                return Poll::Ready(Err(match has_begun {
                    true => UpstreamReset::ProtocolError,
                    false => UpstreamReset::ConnectionTermination,
                }));
            }
        }
    }

    /// Octets of the response that the kernel may move elsewhere: none of them was read, nothing is between them.
    pub(crate) fn unread(&self) -> u64 {
        let is_plain =
            self.exchange.phase == Phase::Body && self.input.is_empty() && self.connection.is_plain();
        if is_plain && self.options.buffer_limit >= pipe::CAPACITY {
            self.exchange.decoder.unframed()
        } else {
            0
        }
    }

    /// Moves some of what is [`Self::unread`] into an empty pipe.
    pub(crate) fn poll_splice(
        &mut self,
        pipe: &mut Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UpstreamReset>> {
        let most = usize::try_from(self.unread()).unwrap_or(usize::MAX).min(self.options.buffer_limit);
        let count = ready!(pipe.poll_fill(&self.connection, cx, most)).unwrap_or(0);
        if count == 0 {
            // Half a message is worse than none.
            self.exchange.eof = true;
            self.exchange.keep_alive = false;
            return Poll::Ready(Err(UpstreamReset::ProtocolError));
        }
        self.received += count as u64;
        self.exchange.decoder.skip(count as u64);
        Poll::Ready(Ok(()))
    }

    fn parse_head(&mut self) -> Result<Option<UpstreamEvent>, UpstreamReset> {
        let parsed = self.parser.parse(&mut self.input, self.exchange.context).map_err(|error| {
            tracing::debug!(%error, "a response could not be read");
            self.input.clear();
            UpstreamReset::ProtocolError
        })?;
        let Some(parsed) = parsed else { return Ok(None) };
        self.exchange.head_received += parsed.header_bytes as u64;
        if parsed.kind == ResponseKind::Informational {
            return Ok(Some(UpstreamEvent::Informational(parsed.head)));
        }
        let is_upgrade = parsed.kind == ResponseKind::SwitchingProtocols
            || (self.exchange.context.connect && parsed.head.status.is_success());
        if is_upgrade {
            self.exchange.encoder = Some(BodyEncoder::tunnel());
        }
        self.exchange.keep_alive &= parsed.keep_alive && !is_upgrade;
        self.exchange.until_close = parsed.framing == BodyFraming::UntilClose || is_upgrade;
        let end = matches!(parsed.framing, BodyFraming::None | BodyFraming::Length(0)) && !is_upgrade;
        self.exchange.phase = if end { Phase::Done } else { Phase::Body };
        self.exchange.decoder = BodyDecoder::new(parsed.framing, self.trailer_options());
        Ok(Some(UpstreamEvent::Head { head: parsed.head, end, is_upgrade }))
    }

    /// Reads more; 0 means the end, orderly or not.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let size = buffers::size_for(self.exchange.decoder.expected(), self.options.buffer_limit);
        if size > buffers::BUFFER_SIZE && self.input.capacity() == 0 {
            if ready!(self.connection.poll_readable(cx)).is_err() {
                return Poll::Ready(0);
            }
            buffers::renew(&mut self.input, size);
        }
        let count = ready!(self.connection.poll_read(cx, &mut self.input)).unwrap_or(0);
        self.received += count as u64;
        Poll::Ready(count)
    }

    /// Bytes on the wire for this exchange so far.
    pub(crate) fn wire(&self) -> WireBytes {
        WireBytes {
            sent: self.output.written() - self.exchange.sent_before,
            received: self.received - self.input.len() as u64 - self.exchange.received_before,
            header_sent: self.exchange.head_sent,
            header_received: self.exchange.head_received + self.exchange.trailers_received,
            plain_header_sent: self.exchange.head_sent,
            plain_header_received: self.exchange.head_received,
        }
    }
}
