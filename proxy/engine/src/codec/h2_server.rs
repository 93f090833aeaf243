//! One downstream HTTP/2 stream, on the `h2` crate.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, Method, Response, Uri, Version, header};
use proxy_core::head::{BodyEvent, HeadLimits, Protocol, RequestHead, ResponseHead, Scheme};
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::Http2Stats;
use proxy_core::stream_info::WireBytes;
use proxy_core::text::Text;

use super::downstream::{Downstream, DownstreamError};
use super::h1::{Underscores, is_valid_authority, is_valid_path};
use super::h2_backlog::{Allowance, Backlog};
use super::h2_cookies::Cookies;
use super::h2_headers::{PLAIN_STATUS, fit, join_repeated, name_upgrade, plain_bytes, plain_request_bytes};
use super::h2_metadata::{MetadataBlock, MetadataStream};
use crate::local::heavy::Weight;
use proxy_core::field_names::joins_in_request;

/// Octets of a frame header (RFC 9113, 4.1).
const FRAME_HEADER: u64 = 9;

/// Informational heads of a stream that are passed on: they wait for the client to read, and no window limits them.
const MAX_INFORMATIONAL: u8 = 16;

/// A request on an HTTP/2 connection and the response to it.
pub(crate) struct ServerStream {
    receive: RecvStream,
    response: SendResponse<Bytes>,
    send: Option<SendStream<Bytes>>,
    is_head: bool,
    /// Informational heads so far.
    informed: u8,
    data_done: bool,
    /// The piece in hand, waiting for the client's window.
    pending: Bytes,
    /// What follows the piece in hand.
    backlog: Backlog,
    /// What both of them hold, where heavy streams may be reset.
    weight: Weight,
    /// What follows that.
    tail: Tail,
    failed: Option<DownstreamError>,
    close_after: bool,
    wire: WireBytes,
    /// Where the connection may carry metadata.
    metadata: Option<Box<MetadataStream>>,
    rules: Option<FieldRules>,
    /// Fields that trailers may have.
    max_fields: usize,
    stats: Cells<Http2Stats>,
}

enum Tail {
    None,
    End,
    Trailers(HeaderMap),
}

/// Why a request cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// It breaks the protocol; the text is the response code details.
    Invalid(&'static str),
    /// It has too many headers.
    TooManyHeaders,
    /// Its headers are too large together.
    TooLarge,
    /// A name with an underscore, which configuration forbids.
    Underscore,
    /// The cookies of its connection hold too much.
    TooManyCookies,
}

impl Malformed {
    /// Envoy's response code details.
    pub(crate) fn details(&self) -> &'static str {
        match self {
            Self::Invalid(details) => details,
            Self::TooManyHeaders => "http2.too_many_headers",
            Self::TooLarge => "http2.header_list_size_too_large",
            Self::Underscore => "http2.unexpected_underscore",
            Self::TooManyCookies => "http2.too_many_cookies",
        }
    }

    /// Envoy's response flag.
    pub(crate) fn flag(&self) -> ResponseFlag {
        match self {
            Self::Invalid(_) => ResponseFlag::DownstreamProtocolError,
            Self::TooManyHeaders | Self::TooLarge | Self::Underscore | Self::TooManyCookies => {
                ResponseFlag::DownstreamRemoteReset
            }
        }
    }
}

/// Details of a field that may not be.
const FIELD: &str = "http2.invalid.header.field";
/// Details of a message that is put together wrongly.
const MESSAGING: &str = "http2.violation.of.messaging.rule";

/// What configuration forbids in header and trailer fields beyond the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldRules {
    /// `headers_with_underscores_action`
    pub underscores: Underscores,
    /// `disallow_obs_text`: no octets above 0x7f in values.
    pub ascii_only: bool,
    /// `max_header_field_size_kb`, in octets of name and value.
    pub max_field: usize,
}

impl FieldRules {
    /// The rules of a configuration that asks for none.
    pub const NONE: Self = Self { underscores: Underscores::Allow, ascii_only: false, max_field: usize::MAX };

    /// Checks `fields`, and drops what is to be dropped; how many were.
    pub(crate) fn apply(&self, fields: &mut HeaderMap) -> Result<u64, Malformed> {
        let mut dropped = 0;
        let mut names = Vec::new();
        for (name, value) in fields.iter() {
            let is_large = name.as_str().len() + value.len() > self.max_field;
            if is_large || (self.ascii_only && !value.as_bytes().is_ascii()) {
                return Err(Malformed::Invalid(FIELD));
            }
            match self.underscores {
                Underscores::Reject if name.as_str().contains('_') => return Err(Malformed::Underscore),
                Underscores::Drop if name.as_str().contains('_') => {
                    dropped += 1;
                    names.push(name.clone());
                }
                Underscores::Allow | Underscores::Reject | Underscores::Drop => {}
            }
        }
        for name in names {
            fields.remove(name);
        }
        Ok(dropped)
    }
}

/// Makes a head of the `parts` of a request; refuses what would be ambiguous elsewhere, and what is more than `limits` allow (a
/// crumb of a cookie may cost its sender one octet, and the receiver a field).
pub(crate) fn request_head(
    mut parts: Parts,
    secure: bool,
    limits: HeadLimits,
    cookies: &Cookies,
) -> Result<RequestHead, Malformed> {
    let pseudo = 1
        + usize::from(parts.uri.scheme().is_some())
        + usize::from(parts.uri.authority().is_some())
        + usize::from(parts.uri.path_and_query().is_some());
    if parts.headers.len() + pseudo > limits.fields {
        return Err(Malformed::TooManyHeaders);
    }
    let size: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size + parts.uri.path().len() + parts.uri.query().map_or(0, str::len) > limits.bytes {
        return Err(Malformed::TooLarge);
    }
    let protocol = parts.extensions.remove::<h2::ext::Protocol>();
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    if !is_valid_path(path.as_bytes()) && parts.method != Method::CONNECT {
        return Err(Malformed::Invalid(if path.starts_with('/') { FIELD } else { MESSAGING }));
    }
    let authority = match parts.uri.authority() {
        Some(authority) => {
            parts.headers.remove(header::HOST);
            Text::from(authority.as_str())
        }
        None => match parts.headers.remove(header::HOST) {
            Some(host) => Text::from(host.to_str().map_err(|_| Malformed::Invalid(FIELD))?),
            None => Text::default(),
        },
    };
    if !authority.is_empty() && !is_valid_authority(authority.as_str().as_bytes()) {
        return Err(Malformed::Invalid(FIELD));
    }
    let of_connection = if secure { Scheme::Https } else { Scheme::Http };
    let scheme = named_scheme(&parts.uri).unwrap_or(of_connection);
    cookies.join(&mut parts.headers)?;
    join_repeated(&mut parts.headers, joins_in_request);
    let is_plain_connect = parts.method == Method::CONNECT && protocol.is_none();
    let path = if is_plain_connect { Text::default() } else { Text::from(path) };
    // An extended CONNECT (RFC 8441) is an upgrade, and looks like one from here on.
    let method = if protocol.is_some() { Method::GET } else { parts.method };
    if let Some(protocol) = &protocol {
        name_upgrade(&mut parts.headers, protocol.as_str());
    }
    let upgrade = protocol.map(|protocol| Text::from(protocol.as_str().to_ascii_lowercase()));
    Ok(RequestHead { method, scheme, authority, path, upgrade, headers: parts.headers, case: None })
}

/// The scheme that a request names, if it is one that is served; how it is spelled does not matter (RFC 3986, 3.1).
pub(crate) fn named_scheme(uri: &Uri) -> Option<Scheme> {
    let scheme = uri.scheme_str()?;
    [Scheme::Http, Scheme::Https].into_iter().find(|one| scheme.eq_ignore_ascii_case(one.as_str()))
}

impl ServerStream {
    /// The stream of a request that was just accepted.
    pub(crate) fn new(
        receive: RecvStream,
        response: SendResponse<Bytes>,
        request: &Parts,
        rules: Option<FieldRules>,
        max_fields: usize,
        allowance: Allowance,
        stats: Cells<Http2Stats>,
    ) -> Self {
        let wire = WireBytes {
            plain_header_received: plain_request_bytes(&request.method, &request.uri, &request.headers),
            ..WireBytes::default()
        };
        Self {
            rules,
            max_fields,
            stats,
            receive,
            response,
            send: None,
            is_head: request.method == Method::HEAD,
            informed: 0,
            data_done: false,
            pending: Bytes::new(),
            backlog: Backlog::new(allowance),
            weight: Weight::new(),
            tail: Tail::None,
            failed: None,
            close_after: false,
            wire,
            metadata: None,
        }
    }

    /// Has the stream carry metadata.
    pub(crate) fn with_metadata(mut self, mut metadata: Option<Box<MetadataStream>>) -> Self {
        if let Some(metadata) = &mut metadata {
            metadata.final_head_read();
        }
        self.metadata = metadata;
        self
    }

    /// Whether the connection should end after this stream.
    pub(crate) fn asks_to_close(&self) -> bool {
        self.close_after
    }

    /// Whether a response head went out.
    pub(crate) fn has_responded(&self) -> bool {
        self.send.is_some()
    }

    /// Resets the stream before any answer.
    pub(crate) fn refuse(&mut self, reason: Reason) {
        self.response.send_reset(reason);
    }

    fn check_trailers(&mut self, mut trailers: HeaderMap) -> Result<BodyEvent, DownstreamError> {
        let stats = self.stats.here();
        stats.trailers.inc();
        if trailers.len() > self.max_fields {
            stats.header_overflow.inc();
            self.reset();
            return Err(DownstreamError::Excess(Malformed::TooManyHeaders.details()));
        }
        match self.rules.map_or(Ok(0), |rules| rules.apply(&mut trailers)) {
            Ok(dropped) => {
                stats.dropped_headers_with_underscores.add(dropped);
                Ok(BodyEvent::Trailers(trailers))
            }
            Err(malformed) => Err(DownstreamError::Protocol(malformed.details())),
        }
    }

    /// Says what is held, where somebody wants to know.
    fn weigh(&mut self) {
        if self.weight.is_tracked() {
            self.weight.set(self.pending.len() + self.backlog.held());
        }
    }

    fn fail(&mut self, error: &h2::Error) -> DownstreamError {
        let failure = match error.is_remote() && error.is_reset() {
            true => DownstreamError::Reset,
            false if error.is_io() || error.is_go_away() => DownstreamError::Disconnected,
            false if error.is_reset() => DownstreamError::Protocol(MESSAGING),
            false => DownstreamError::Disconnected,
        };
        self.failed = Some(failure);
        failure
    }
}

impl Downstream for ServerStream {
    fn protocol(&self) -> Protocol {
        Protocol::Http2
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyEvent, DownstreamError>> {
        while !self.data_done {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.wire.received += data.len() as u64 + FRAME_HEADER;
                    if let Some(metadata) = &mut self.metadata {
                        metadata.data_read(data.len());
                    }
                    // The caller asks for a piece only when the next hop has room for it.
                    let _ = self.receive.flow_control().release_capacity(data.len());
                    if !data.is_empty() {
                        return Poll::Ready(Ok(BodyEvent::Data(data)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(self.fail(&error))),
                None => self.data_done = true,
            }
        }
        match ready!(self.receive.poll_trailers(cx)) {
            Ok(Some(trailers)) => {
                self.wire.plain_header_received += plain_bytes(&trailers);
                Poll::Ready(self.check_trailers(trailers))
            }
            Ok(None) => Poll::Ready(Ok(BodyEvent::End)),
            Err(error) => Poll::Ready(Err(self.fail(&error))),
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<DownstreamError> {
        if let Some(failed) = self.failed {
            return Poll::Ready(failed);
        }
        let reset = match &mut self.send {
            Some(send) => send.poll_reset(cx),
            None => self.response.poll_reset(cx),
        };
        match ready!(reset) {
            // Clients have no reason to send these codes: the codec does, when the request breaks the rules.
            Ok(Reason::PROTOCOL_ERROR | Reason::FLOW_CONTROL_ERROR) => {
                Poll::Ready(DownstreamError::Protocol(MESSAGING))
            }
            Ok(_) => Poll::Ready(DownstreamError::Reset),
            Err(error) => Poll::Ready(self.fail(&error)),
        }
    }

    fn inform(&mut self, head: &ResponseHead) {
        if self.informed == MAX_INFORMATIONAL {
            return;
        }
        self.informed += 1;
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers.clone();
        fit(response.headers_mut());
        let sent = self.response.send_informational(response);
        if let Some(metadata) = self.metadata.as_mut().filter(|_| sent.is_ok()) {
            metadata.head_handed();
        }
    }

    fn respond(&mut self, head: &ResponseHead, end: bool, is_upgrade: bool) {
        let mut response = Response::new(());
        *response.version_mut() = Version::HTTP_2;
        // The answer to an extended CONNECT is 200 where HTTP/1 says 101.
        *response.status_mut() = if is_upgrade { http::StatusCode::OK } else { head.status };
        *response.headers_mut() = head.headers.clone();
        fit(response.headers_mut());
        if is_upgrade {
            // A tunnel has no length (RFC 9110, 9.3.6).
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        self.wire.plain_header_sent += PLAIN_STATUS + plain_bytes(response.headers());
        let end = end || self.is_head;
        match self.response.send_response(response, end) {
            Ok(send) => {
                self.send = Some(send);
                if let Some(metadata) = &mut self.metadata {
                    metadata.head_handed();
                }
            }
            Err(error) => {
                self.fail(&error);
            }
        }
    }

    fn poll_metadata(&mut self, cx: &mut Context<'_>) -> Poll<MetadataBlock> {
        self.metadata.as_ref().map_or(Poll::Pending, |metadata| metadata.poll_next(cx))
    }

    fn has_metadata(&self) -> bool {
        self.metadata.as_ref().is_some_and(|metadata| metadata.has_next())
    }

    fn metadata(&mut self, block: MetadataBlock) {
        if let Some(metadata) = &self.metadata {
            metadata.send(block);
        }
    }

    fn data(&mut self, data: Bytes, end: bool) {
        if self.is_head {
            return;
        }
        if self.pending.is_empty() {
            if let Some(send) = &mut self.send {
                send.reserve_capacity(data.len());
            }
            self.pending = data;
        } else {
            self.backlog.push(data);
        }
        self.weigh();
        if end {
            self.tail = Tail::End;
        }
    }

    fn trailers(&mut self, trailers: HeaderMap) {
        self.wire.plain_header_sent += plain_bytes(&trailers);
        self.tail = Tail::Trailers(trailers);
    }

    fn finish(&mut self) {
        self.tail = Tail::End;
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        if self.pending.is_empty() {
            return Poll::Ready(self.failed.map_or(Ok(()), Err));
        }
        match self.poll_flush(cx) {
            Poll::Pending => self.backlog.poll_room(cx).map(Ok),
            flushed => flushed,
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>> {
        if let Some(failed) = self.failed {
            return Poll::Ready(Err(failed));
        }
        if self.weight.poll_doomed(cx).is_ready() {
            self.reset();
            self.failed = Some(DownstreamError::Overloaded);
            return Poll::Ready(Err(DownstreamError::Overloaded));
        }
        let Some(send) = &mut self.send else { return Poll::Ready(Ok(())) };
        if self.is_head {
            return Poll::Ready(Ok(()));
        }
        let sent = loop {
            if self.pending.is_empty() {
                if let Some(next) = self.backlog.pop() {
                    send.reserve_capacity(next.len());
                    self.pending = next;
                    continue;
                }
                break match std::mem::replace(&mut self.tail, Tail::None) {
                    Tail::None => Ok(()),
                    Tail::End => send.send_data(Bytes::new(), true),
                    Tail::Trailers(trailers) => send.send_trailers(trailers),
                };
            }
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(capacity)) => {
                    let piece = self.pending.split_to(capacity.min(self.pending.len()));
                    self.wire.sent += piece.len() as u64 + FRAME_HEADER;
                    if let Some(metadata) = &mut self.metadata {
                        metadata.data_handed(piece.len());
                    }
                    let end =
                        self.pending.is_empty() && self.backlog.is_empty() && matches!(self.tail, Tail::End);
                    if end {
                        self.tail = Tail::None;
                    }
                    if let Err(error) = send.send_data(piece, end) {
                        break Err(error);
                    }
                    if self.weight.is_tracked() {
                        self.weight.set(self.pending.len() + self.backlog.held());
                    }
                }
                Some(Err(error)) => break Err(error),
                None => break Err(Reason::CANCEL.into()),
            }
        };
        match sent {
            Ok(()) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(self.fail(&error))),
        }
    }

    fn reset(&mut self) {
        match &mut self.send {
            Some(send) => send.send_reset(Reason::INTERNAL_ERROR),
            None => self.response.send_reset(Reason::INTERNAL_ERROR),
        }
    }

    fn close_after(&mut self) {
        self.close_after = true;
    }

    fn says_close(&self) -> bool {
        // It is GOAWAY that says it here.
        false
    }

    fn wire(&self) -> WireBytes {
        self.wire
    }
}

#[cfg(test)]
mod tests;
