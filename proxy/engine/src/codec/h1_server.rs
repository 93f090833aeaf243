//! A downstream HTTP/1 connection: the codec, the socket, and the stream that is on it now.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use proxy_core::head::{BodyEvent, HeaderCase, Protocol, ResponseHead};
use proxy_core::stream_info::WireBytes;

use super::downstream::{Downstream, DownstreamError, Incoming, Lacks};
use super::h1::{
    BodyDecoder, BodyEncoder, BodyFraming, ConnectionOption, HeadLimits, KeyFormat, RequestError,
    RequestOptions, RequestParser, ResponseMessage, TrailerOptions, Trailers,
};
use super::output::Output;
use crate::local::buffers;
use crate::local::overload::{Overload, Point};
use crate::net::connection::Connection;
use crate::net::pipe::{self, Pipe};

/// Most bytes of further requests that a client may send ahead of the response it waits for.
const READ_AHEAD: usize = 16 * 1024;

/// How a connection reads and writes.
#[derive(Clone, Debug)]
pub(crate) struct ServerOptions {
    /// Limits of heads.
    pub(crate) limits: HeadLimits,
    /// How requests are read.
    pub(crate) request: Arc<RequestOptions>,
    /// Trailers pass in both directions.
    pub(crate) trailers: bool,
    /// Names are written in `Proper-Case`.
    pub(crate) proper_case: bool,
    /// `expect: 100-continue` is the upstream's to answer.
    pub(crate) proxy_100_continue: bool,
    /// `per_connection_buffer_limit_bytes` of the listener.
    pub(crate) buffer_limit: usize,
}

/// What waiting for a request brought.
#[expect(clippy::large_enum_variant, reason = "taken apart at once, once a request")]
pub(crate) enum NextRequest {
    /// A request.
    Request(Incoming),
    /// The client closed the connection, or it failed.
    Closed,
    /// The client broke the rules.
    Invalid(RequestError),
}

/// A downstream HTTP/1 connection.
pub(crate) struct ServerConnection {
    connection: Box<Connection>,
    options: Arc<ServerOptions>,
    parser: RequestParser,
    input: BytesMut,
    output: Output,
    eof: bool,
    /// Bytes read since the connection began.
    received: u64,
    /// `100 Continue` heads sent on the connection's own account.
    continues: u64,
    /// Fields dropped for an underscore in their names.
    dropped: u64,
    /// What is done against overload, where that may end requests.
    overload: Option<Arc<Overload>>,
    /// Bytes were read that nobody looked at yet.
    is_fresh: bool,
    stream: StreamState,
}

/// The stream that is on the connection.
struct StreamState {
    decoder: BodyDecoder,
    encoder: Option<BodyEncoder>,
    method: Method,
    upgrade: Option<proxy_core::text::Text>,
    protocol: Protocol,
    expect_continue: bool,
    body_started: bool,
    keep_alive: bool,
    close_after: bool,
    broken: bool,
    /// All of the response was queued.
    complete: bool,
    /// Marks of `received` and `output.written()` when the stream began, and the sizes of heads.
    received_before: u64,
    sent_before: u64,
    head_received: u64,
    trailers_received: u64,
    head_sent: u64,
}

impl StreamState {
    fn idle() -> Self {
        Self {
            decoder: BodyDecoder::new(BodyFraming::None, TrailerOptions::default()),
            encoder: None,
            method: Method::GET,
            upgrade: None,
            protocol: Protocol::Http11,
            expect_continue: false,
            body_started: false,
            keep_alive: true,
            close_after: false,
            broken: false,
            complete: false,
            received_before: 0,
            sent_before: 0,
            head_received: 0,
            trailers_received: 0,
            head_sent: 0,
        }
    }
}

impl ServerConnection {
    /// A connection on which nothing was read.
    pub(crate) fn new(connection: Box<Connection>, options: Arc<ServerOptions>) -> Self {
        let parser = RequestParser::new(options.limits, options.request.clone());
        Self {
            connection,
            options,
            parser,
            input: BytesMut::new(),
            output: Output::default(),
            eof: false,
            received: 0,
            continues: 0,
            dropped: 0,
            overload: None,
            is_fresh: false,
            stream: StreamState::idle(),
        }
    }

    /// Requests on it may be given up for `overload`.
    pub(crate) fn heeding(self, overload: Option<&Arc<Overload>>) -> Self {
        Self { overload: overload.filter(|overload| overload.watches(Point::Http1)).cloned(), ..self }
    }

    /// Whether what was read last is not looked at, because there is too much to do.
    fn is_shed(&mut self) -> bool {
        let is_fresh = std::mem::take(&mut self.is_fresh);
        let overload = self.overload.as_ref().filter(|_| is_fresh);
        overload.is_some_and(|overload| overload.sheds(Point::Http1, || fastrand::u64(..)))
    }

    /// The connection by itself again, when nothing is read or written any more.
    pub(crate) fn into_connection(mut self) -> Box<Connection> {
        self.rest();
        self.connection
    }

    /// The connection beneath.
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Bytes read and written since the connection began.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.received, self.output.written())
    }

    /// Takes the number of `100 Continue` heads sent on the connection's own account.
    pub(crate) fn take_continues(&mut self) -> u64 {
        std::mem::take(&mut self.continues)
    }

    /// Takes the number of fields that were dropped for an underscore in their names.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Whether a part of a request was read that is not complete.
    pub(crate) fn has_partial_request(&self) -> bool {
        !self.input.is_empty()
    }

    /// Waits for the next request. Losing the wait loses nothing.
    pub(crate) fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<NextRequest> {
        loop {
            if !self.input.is_empty() {
                if self.is_shed() {
                    return Poll::Ready(NextRequest::Invalid(RequestError::Overload));
                }
                match self.parser.parse(&mut self.input) {
                    Ok(Some(parsed)) => {
                        self.stream = StreamState {
                            decoder: BodyDecoder::new(parsed.framing, self.trailer_options()),
                            encoder: None,
                            method: parsed.head.method.clone(),
                            upgrade: parsed.head.upgrade.clone(),
                            protocol: parsed.protocol,
                            expect_continue: parsed.expect_continue,
                            keep_alive: parsed.keep_alive,
                            body_started: false,
                            close_after: false,
                            broken: false,
                            complete: false,
                            received_before: self.received - self.input.len() as u64 - parsed.size as u64,
                            sent_before: self.output.written(),
                            head_received: parsed.header_bytes as u64,
                            trailers_received: 0,
                            head_sent: 0,
                        };
                        self.dropped += u64::from(parsed.dropped_underscores);
                        let end = matches!(parsed.framing, BodyFraming::None | BodyFraming::Length(0));
                        return Poll::Ready(NextRequest::Request(Incoming {
                            head: parsed.head,
                            end,
                            lacks: Lacks { host: parsed.lacks_host, scheme: parsed.lacks_scheme },
                        }));
                    }
                    Ok(None) => {}
                    Err(error) => return Poll::Ready(NextRequest::Invalid(error)),
                }
            }
            if self.eof {
                return Poll::Ready(NextRequest::Closed);
            }
            let filled = ready!(self.poll_fill(cx));
            if filled.is_err() || self.eof {
                return Poll::Ready(NextRequest::Closed);
            }
        }
    }

    /// Prepares an answer to a request that could not be read.
    pub(crate) fn begin_invalid(&mut self) {
        self.stream = StreamState::idle();
        self.stream.keep_alive = false;
    }

    /// Gives the read buffer back if it holds nothing.
    pub(crate) fn rest(&mut self) {
        if self.input.is_empty() && self.input.capacity() > 0 {
            buffers::give(std::mem::take(&mut self.input));
        }
    }

    /// Whether the response allows another request on this connection.
    pub(crate) fn can_continue(&self) -> bool {
        self.stream.keep_alive && !self.stream.close_after && !self.stream.broken && !self.eof
    }

    /// Whether the client ended the connection.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        self.eof
    }

    /// Whether the response could not be completed, so that the connection must not look as if it was.
    pub(crate) fn is_broken(&self) -> bool {
        self.stream.broken
    }

    /// Reads whatever arrives and drops it, until the client closes: the tail of a connection that ends.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.input.clear();
            if self.eof || ready!(self.poll_fill(cx)).is_err() {
                return Poll::Ready(());
            }
        }
    }

    fn trailer_options(&self) -> TrailerOptions {
        TrailerOptions {
            trailers: if self.options.trailers { Trailers::Keep } else { Trailers::Drop },
            limits: self.options.limits,
            underscores: self.options.request.underscores,
        }
    }

    /// Reads more into `input`; sets `eof` at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let size = buffers::size_for(self.stream.decoder.expected(), self.options.buffer_limit);
        if size > buffers::BUFFER_SIZE && self.input.capacity() == 0 {
            ready!(self.connection.poll_readable(cx))?;
            buffers::renew(&mut self.input, size);
        }
        match ready!(self.connection.poll_read(cx, &mut self.input)) {
            Ok(0) => self.eof = true,
            Ok(count) => {
                self.received += count as u64;
                self.is_fresh = true;
            }
            Err(error) => {
                self.eof = true;
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The spelling for one message: what goes with its head is first.
    fn keys<'h>(&self, case: Option<&'h HeaderCase>) -> KeyFormat<'h> {
        match case {
            Some(case) => KeyFormat::Preserve(case),
            None if self.options.proper_case => KeyFormat::ProperCase,
            None => KeyFormat::Lower,
        }
    }

    /// Whether all of the response waits to be written and no more, and another may follow it.
    fn is_whole(&self) -> bool {
        self.stream.complete
            && self.output.written() == self.stream.sent_before
            && !self.stream.broken
            && !self.says_close()
    }

    fn encode(&mut self, head: &ResponseHead, framing: BodyFraming) -> Option<BodyEncoder> {
        let connection = if self.says_close() {
            ConnectionOption::Close
        } else if self.stream.protocol == Protocol::Http10 {
            ConnectionOption::KeepAlive
        } else {
            ConnectionOption::Default
        };
        let keys = self.keys(head.case.as_deref());
        let out = self.output.small();
        let before = out.len();
        let encoded = ResponseMessage {
            head,
            framing,
            method: &self.stream.method,
            protocol: self.stream.protocol,
            connection,
            upgrade: self.stream.upgrade.as_deref(),
            keys,
        }
        .encode(out);
        self.stream.head_sent += fields_sent(out.get(before..).unwrap_or_default());
        match encoded {
            Ok(encoder) => Some(encoder),
            Err(error) => {
                tracing::debug!(%error, "a response could not be written");
                self.stream.broken = true;
                None
            }
        }
    }
}

/// Octets of a chunked ending without trailers: `0`, and two line ends.
pub(super) const LAST_CHUNK: usize = 5;

/// The octets of the fields in a head that was written, as Envoy counts what it sends: without start line and empty line.
pub(super) fn fields_sent(head: &[u8]) -> u64 {
    let line = memchr::memchr(b'\n', head).map_or(0, |at| at + 1);
    head.len().saturating_sub(line + 2) as u64
}

/// The octets of trailers, as Envoy counts what it receives.
pub(super) fn trailer_bytes(trailers: &HeaderMap) -> u64 {
    trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 3).sum::<usize>() as u64
}

/// How a response with `head` is delimited when a body follows.
pub(super) fn framing_of(headers: &HeaderMap, end: bool) -> BodyFraming {
    if end {
        return BodyFraming::None;
    }
    let length = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    length.map_or(BodyFraming::Chunked, BodyFraming::Length)
}

impl Downstream for ServerConnection {
    fn protocol(&self) -> Protocol {
        self.stream.protocol
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyEvent, DownstreamError>> {
        loop {
            if self.is_shed() {
                self.stream.keep_alive = false;
                self.input.clear();
                return Poll::Ready(Err(DownstreamError::Shed));
            }
            match self.stream.decoder.decode(&mut self.input) {
                Ok(Some(event)) => {
                    self.stream.body_started = true;
                    if let BodyEvent::Trailers(trailers) = &event {
                        self.stream.trailers_received = trailer_bytes(trailers);
                    }
                    return Poll::Ready(Ok(event));
                }
                Ok(None) => {}
                Err(error) => {
                    self.stream.keep_alive = false;
                    self.input.clear();
                    let details = error.as_request_error().details();
                    return Poll::Ready(Err(DownstreamError::Protocol(details)));
                }
            }
            if self.eof {
                let is_tunnel = self.stream.encoder.is_some() && self.stream.upgrade.is_some()
                    || self.stream.method == Method::CONNECT;
                return Poll::Ready(match is_tunnel {
                    true => Ok(BodyEvent::End),
                    false => Err(DownstreamError::Disconnected),
                });
            }
            if self.stream.expect_continue && !self.stream.body_started && !self.options.proxy_100_continue {
                self.stream.expect_continue = false;
                self.continues += 1;
                self.inform(&ResponseHead::new(StatusCode::CONTINUE));
            }
            if !self.output.is_empty() && self.stream.encoder.is_none() {
                // A queued 100 must leave before its effect can arrive.
                let _ = self.output.poll_flush(&self.connection, cx);
            }
            if ready!(self.poll_fill(cx)).is_err() {
                return Poll::Ready(Err(DownstreamError::Disconnected));
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<DownstreamError> {
        loop {
            if self.eof {
                return Poll::Ready(DownstreamError::Disconnected);
            }
            let most = match self.stream.decoder.is_done() {
                true => READ_AHEAD,
                false => self.options.buffer_limit.max(READ_AHEAD),
            };
            if self.input.len() >= most {
                // The rest waits in the kernel.
                return self.poll_hung_up(cx);
            }
            if ready!(self.poll_fill(cx)).is_err() {
                return Poll::Ready(DownstreamError::Disconnected);
            }
        }
    }

    fn poll_hung_up(&mut self, cx: &mut Context<'_>) -> Poll<DownstreamError> {
        match self.eof {
            true => Poll::Ready(DownstreamError::Disconnected),
            false => self.connection.poll_hung_up(cx).map(|()| DownstreamError::Disconnected),
        }
    }

    fn inform(&mut self, head: &ResponseHead) {
        if self.stream.protocol == Protocol::Http11 {
            self.encode(head, BodyFraming::None);
        }
    }

    fn respond(&mut self, head: &ResponseHead, end: bool, is_upgrade: bool) {
        if is_upgrade {
            self.stream.decoder = BodyDecoder::new(BodyFraming::UntilClose, TrailerOptions::default());
        }
        let framing = framing_of(&head.headers, end);
        if self.stream.protocol == Protocol::Http10 && framing == BodyFraming::Chunked {
            // No chunks for HTTP/1.0: the end of the connection is the end of the body.
            self.stream.keep_alive = false;
        }
        self.stream.encoder = self.encode(head, framing);
        self.stream.complete = end && !is_upgrade;
    }

    fn data(&mut self, data: Bytes, end: bool) {
        let Some(encoder) = &mut self.stream.encoder else { return };
        if encoder.sends_body() && !data.is_empty() {
            if encoder.before(data.len(), self.output.small()).is_err() {
                self.stream.broken = true;
                return;
            }
            let after = encoder.after();
            self.output.data(data);
            self.output.small().extend_from_slice(after);
        }
        if end {
            self.finish();
        }
    }

    fn trailers(&mut self, trailers: HeaderMap) {
        self.stream.complete = true;
        let trailers = self.options.trailers.then_some(&trailers);
        if let Some(encoder) = &mut self.stream.encoder {
            let out = self.output.small();
            let before = out.len();
            self.stream.broken |= encoder.finish(trailers, out).is_err();
            self.stream.head_sent += (out.len() - before).saturating_sub(LAST_CHUNK) as u64;
        }
    }

    fn finish(&mut self) {
        self.stream.complete = true;
        if let Some(encoder) = &mut self.stream.encoder {
            self.stream.broken |= encoder.finish(None, self.output.small()).is_err();
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        if self.output.has_room_within(self.options.buffer_limit) {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        if self.is_whole() {
            self.output.post(&self.connection);
        }
        self.output.poll_flush(&self.connection, cx).map_err(|_| DownstreamError::Disconnected)
    }

    fn can_splice(&self, length: u64) -> bool {
        let left = self.stream.encoder.as_ref().and_then(BodyEncoder::unframed);
        !self.stream.broken
            && self.connection.is_plain()
            && self.options.buffer_limit >= pipe::CAPACITY
            && left.is_some_and(|left| left >= length)
    }

    fn poll_splice(&mut self, pipe: &mut Pipe, cx: &mut Context<'_>) -> Poll<Result<usize, DownstreamError>> {
        let drained = ready!(pipe.poll_drain(&self.connection, cx));
        let count = drained.map_err(|_| DownstreamError::Disconnected)?;
        self.output.count(count);
        if let Some(encoder) = &mut self.stream.encoder {
            encoder.skip(count as u64);
        }
        Poll::Ready(Ok(count))
    }

    fn reset(&mut self) {
        self.stream.broken = true;
    }

    fn close_after(&mut self) {
        self.stream.close_after = true;
    }

    fn says_close(&self) -> bool {
        self.stream.close_after || !self.stream.keep_alive
    }

    fn wire(&self) -> WireBytes {
        let unread = self.input.len() as u64;
        WireBytes {
            sent: self.output.written() - self.stream.sent_before,
            received: (self.received - unread).saturating_sub(self.stream.received_before),
            header_sent: self.stream.head_sent,
            header_received: self.stream.head_received + self.stream.trailers_received,
            plain_header_sent: self.stream.head_sent,
            plain_header_received: self.stream.head_received,
        }
    }
}
