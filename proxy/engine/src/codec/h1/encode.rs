//! Writing messages: heads in one pass over the header map, framing from a value, bodies held to what the head announced.
//!
//! The framing fields on the wire come from [`BodyFraming`] alone and hop-by-hop fields from nowhere but the parameters here, so
//! nothing a peer or a filter put into a header map can change how a message is delimited.

use bytes::{BufMut as _, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proxy_core::head::{Protocol, RequestHead, ResponseHead};

use super::case::KeyFormat;
use super::error::EncodeError;
use super::framing::{BodyFraming, parse_decimal};
use super::hop::{names_upgrade, wants_trailers};
use super::target::{is_valid_authority, is_valid_path};
use proxy_core::field_names::Role;

/// Octets that a chunk header needs at most.
const MAX_CHUNK_SIZE_LINE: usize = 18;

/// A request to write.
#[derive(Debug)]
pub struct RequestMessage<'a> {
    /// The head. `upgrade` set makes it an upgrade request.
    pub head: &'a RequestHead,
    /// How its body is delimited. [`BodyFraming::UntilClose`] only means a tunnel here (CONNECT, upgrade).
    pub framing: BodyFraming,
    /// Spelling of names.
    pub keys: KeyFormat<'a>,
    /// What the request line says.
    pub target: TargetForm,
}

/// What a request line names (RFC 9112 section 3.2); CONNECT has its own form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetForm {
    /// The path.
    #[default]
    Origin,
    /// Scheme, authority and path (`send_fully_qualified_url`).
    Absolute,
}

/// A response to write.
#[derive(Debug)]
pub struct ResponseMessage<'a> {
    /// The head.
    pub head: &'a ResponseHead,
    /// How its body is delimited, were it sent: see [`ResponseMessage::encode`].
    pub framing: BodyFraming,
    /// The method of the request: HEAD has no body, CONNECT has a tunnel.
    pub method: &'a Method,
    /// The version of the request: a 1.0 request gets a 1.0 status line and no chunks.
    pub protocol: Protocol,
    /// What is said about the connection.
    pub connection: ConnectionOption,
    /// For 101: the protocol that is switched to.
    pub upgrade: Option<&'a str>,
    /// Spelling of names.
    pub keys: KeyFormat<'a>,
}

/// The `connection` field of a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionOption {
    /// None: the default of the version.
    #[default]
    Default,
    /// `close`
    Close,
    /// `keep-alive`, for HTTP/1.0 clients that asked for it.
    KeepAlive,
}

impl RequestMessage<'_> {
    /// Appends the head to `out`. Returns the encoder for what follows.
    ///
    /// A request without body says `content-length: 0`, except where the method expects none (as Envoy 1.40 does).
    ///
    /// # Errors
    /// Path, authority or upgrade came from elsewhere and cannot be written to HTTP/1. `out` is as before.
    pub fn encode(&self, out: &mut BytesMut) -> Result<BodyEncoder, EncodeError> {
        let head = self.head;
        let connect = head.method == Method::CONNECT;
        let authority = head.authority.as_bytes();
        let target = if connect { authority } else { head.path.as_bytes() };
        if target.is_empty() || !is_valid_path(target) {
            return Err(EncodeError::InvalidPath);
        }
        if !is_valid_authority(authority) {
            return Err(EncodeError::InvalidAuthority);
        }
        let upgrade = head.upgrade.as_ref().map(|protocol| protocol.as_str());
        check_upgrade(upgrade)?;
        out.reserve(estimate(&head.headers) + target.len() + authority.len());
        out.put_slice(head.method.as_str().as_bytes());
        out.put_u8(b' ');
        if self.target == TargetForm::Absolute && !connect {
            out.put_slice(head.scheme.as_str().as_bytes());
            out.put_slice(b"://");
            out.put_slice(authority);
        }
        out.put_slice(target);
        out.put_slice(b" HTTP/1.1\r\n");
        let mut fields = FieldWriter { keys: self.keys, out };
        fields.put("host", authority);
        let framing = match self.framing {
            _ if connect => BodyFraming::UntilClose,
            BodyFraming::None if !no_length_expected(&head.method) && upgrade.is_none() => {
                BodyFraming::Length(0)
            }
            // A request cannot end with the connection: unknown length means chunks.
            BodyFraming::UntilClose if upgrade.is_none() => BodyFraming::Chunked,
            other => other,
        };
        let framing_written = fields.put_headers(&head.headers, framing, Side::Request);
        if let Some(protocol) = upgrade {
            // Another protocol than was asked for is not the client's word.
            let asked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(protocol.as_bytes());
            let words = head.headers.get(http::header::UPGRADE).filter(|value| asked(value));
            fields.put_upgrade(&head.headers, words.map_or(protocol.as_bytes(), HeaderValue::as_bytes));
        }
        if !framing_written {
            fields.put_framing(framing);
        }
        out.put_slice(b"\r\n");
        Ok(BodyEncoder::new(framing))
    }
}

impl ResponseMessage<'_> {
    /// Appends the head to `out`. Returns the encoder for what follows, which suppresses a body that must not be sent
    /// (HEAD, 1xx, 204, 304).
    ///
    /// `content-length` of the header map is written where it describes a body that is not sent (HEAD, 304), never otherwise.
    ///
    /// # Errors
    /// The protocol of a 101 cannot be written. `out` is as before.
    pub fn encode(&self, out: &mut BytesMut) -> Result<BodyEncoder, EncodeError> {
        let status = self.head.status;
        let switching = status == StatusCode::SWITCHING_PROTOCOLS;
        check_upgrade(self.upgrade)?;
        let tunnel = switching || (*self.method == Method::CONNECT && status.is_success());
        let never_a_body = status.is_informational() || status == StatusCode::NO_CONTENT;
        let undelivered =
            !tunnel && (*self.method == Method::HEAD || status == StatusCode::NOT_MODIFIED) && !never_a_body;
        let framing = match self.framing {
            _ if tunnel => BodyFraming::UntilClose,
            _ if never_a_body || undelivered => BodyFraming::None,
            // Only a 1.1 client can be given chunks; for the others the end of the connection is the end.
            BodyFraming::Chunked if self.protocol == Protocol::Http10 => BodyFraming::UntilClose,
            BodyFraming::None => BodyFraming::Length(0),
            other => other,
        };
        out.reserve(estimate(&self.head.headers));
        let reason = self.head.case.as_ref().and_then(|case| case.reason());
        put_status_line(status, reason, self.protocol, out);
        let mut fields = FieldWriter { keys: self.keys, out };
        let side = if undelivered { Side::Undelivered } else { Side::Response };
        let mut framing_written = fields.put_headers(&self.head.headers, framing, side);
        match self.upgrade {
            Some(protocol) if switching => {
                // What the upstream switched to, were it not what was asked for: the client is to know.
                let words = self.head.headers.get(http::header::UPGRADE).filter(|value| !value.is_empty());
                fields.put_upgrade(
                    &self.head.headers,
                    words.map_or(protocol.as_bytes(), HeaderValue::as_bytes),
                );
            }
            Some(_) | None => self.put_connection(framing, tunnel, &mut fields),
        }
        if *self.method == Method::HEAD
            && undelivered
            && status != StatusCode::NOT_MODIFIED
            && !framing_written
        {
            // What GET would have been given.
            fields.put_framing(match self.framing {
                BodyFraming::Length(length) => BodyFraming::Length(length),
                _ if self.protocol == Protocol::Http10 => BodyFraming::None,
                _ => BodyFraming::Chunked,
            });
            framing_written = true;
        }
        if !framing_written && !never_a_body {
            fields.put_framing(framing);
        }
        out.put_slice(b"\r\n");
        Ok(BodyEncoder::new(framing))
    }

    fn put_connection(&self, framing: BodyFraming, tunnel: bool, fields: &mut FieldWriter<'_, '_>) {
        let ends_with_connection = framing == BodyFraming::UntilClose && !tunnel;
        match self.connection {
            _ if self.head.status.is_informational() => {}
            _ if ends_with_connection => fields.put("connection", b"close"),
            ConnectionOption::Default => {}
            ConnectionOption::Close => fields.put("connection", b"close"),
            ConnectionOption::KeepAlive => fields.put("connection", b"keep-alive"),
        }
    }
}

/// Which rules apply to the fields of a map.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
    /// A response whose body is described but not sent.
    Undelivered,
}

struct FieldWriter<'a, 'b> {
    keys: KeyFormat<'a>,
    out: &'b mut BytesMut,
}

impl FieldWriter<'_, '_> {
    #[inline]
    fn put(&mut self, name: &str, value: &[u8]) {
        match self.keys {
            KeyFormat::Lower => self.out.put_slice(name.as_bytes()),
            other => other.write(name, self.out),
        }
        self.out.put_slice(b": ");
        self.out.put_slice(value);
        self.out.put_slice(b"\r\n");
    }

    /// Writes the end-to-end fields of a map, and the framing where `content-length` stands. Returns whether it did the latter.
    fn put_headers(&mut self, headers: &HeaderMap, framing: BodyFraming, side: Side) -> bool {
        let mut framing_written = false;
        for (name, value) in headers {
            match role(name) {
                Role::Plain | Role::Forwarded | Role::Expect => self.put(name.as_str(), value.as_bytes()),
                Role::ContentLength if framing_written => {}
                Role::ContentLength => match (side, framing) {
                    (Side::Undelivered, _) => {
                        if let Some(length) = parse_decimal(value.as_bytes()) {
                            self.put_framing(BodyFraming::Length(length));
                            framing_written = true;
                        }
                    }
                    (Side::Request | Side::Response, BodyFraming::Length(_)) => {
                        self.put_framing(framing);
                        framing_written = true;
                    }
                    (Side::Request | Side::Response, _) => {}
                },
                Role::Te if side == Side::Request => {
                    if wants_trailers(value.as_bytes()) {
                        self.put("te", b"trailers");
                    }
                }
                Role::Host if side != Side::Request => self.put(name.as_str(), value.as_bytes()),
                Role::Te => self.put(name.as_str(), value.as_bytes()),
                Role::Host
                | Role::TransferEncoding
                | Role::Connection
                | Role::Hop
                | Role::ProxyConnection
                | Role::Upgrade => {}
            }
        }
        framing_written
    }

    /// Writes the two fields of an upgrade to `protocol`; `connection` in the peer's own words if it wrote any.
    fn put_upgrade(&mut self, headers: &HeaderMap, protocol: &[u8]) {
        let connection = headers.get(http::header::CONNECTION).map(HeaderValue::as_bytes);
        self.put("connection", connection.filter(|value| names_upgrade(value)).unwrap_or(b"upgrade"));
        self.put("upgrade", protocol);
    }

    fn put_framing(&mut self, framing: BodyFraming) {
        match framing {
            BodyFraming::Length(length) => {
                self.put("content-length", itoa::Buffer::new().format(length).as_bytes());
            }
            BodyFraming::Chunked => self.put("transfer-encoding", b"chunked"),
            BodyFraming::None | BodyFraming::UntilClose => {}
        }
    }
}

/// What the encoder does with a field of this name: most are plain.
#[inline]
fn role(name: &HeaderName) -> Role {
    match name.as_str() {
        "te" => Role::Te,
        "host" => Role::Host,
        "upgrade" => Role::Upgrade,
        "connection" => Role::Connection,
        "keep-alive" => Role::Hop,
        "content-length" => Role::ContentLength,
        "proxy-connection" => Role::ProxyConnection,
        "transfer-encoding" => Role::TransferEncoding,
        _ => Role::Plain,
    }
}

/// Writes a body as the head announced it, and refuses anything else.
#[derive(Debug)]
pub struct BodyEncoder {
    state: EncoderState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EncoderState {
    /// Nothing is sent, whatever comes.
    Suppressed,
    Length(u64),
    Chunked,
    Raw,
}

impl BodyEncoder {
    fn new(framing: BodyFraming) -> Self {
        let state = match framing {
            BodyFraming::None => EncoderState::Suppressed,
            BodyFraming::Length(length) => EncoderState::Length(length),
            BodyFraming::Chunked => EncoderState::Chunked,
            BodyFraming::UntilClose => EncoderState::Raw,
        };
        Self { state }
    }

    /// The encoder of a connection that has become a tunnel (101, CONNECT): octets as they are.
    pub fn tunnel() -> Self {
        Self { state: EncoderState::Raw }
    }

    /// Whether pieces of the body go to the wire at all.
    pub fn sends_body(&self) -> bool {
        self.state != EncoderState::Suppressed
    }

    /// Appends what must precede a piece of `length` octets. For a piece that is then sent without copying; [`Self::after`]
    /// follows it. An empty piece is nothing at all: neither it nor `before` and `after` may be sent for it.
    ///
    /// # Errors
    /// The piece exceeds the announced length: nothing of it may be sent.
    pub fn before(&mut self, length: usize, out: &mut BytesMut) -> Result<(), EncodeError> {
        match &mut self.state {
            EncoderState::Length(left) => {
                *left = left.checked_sub(length as u64).ok_or(EncodeError::BodyTooLong)?;
            }
            EncoderState::Chunked if length > 0 => put_chunk_size(length, out),
            EncoderState::Chunked | EncoderState::Raw | EncoderState::Suppressed => {}
        }
        Ok(())
    }

    /// What must follow a (non-empty) piece.
    pub fn after(&self) -> &'static [u8] {
        if self.state == EncoderState::Chunked { b"\r\n" } else { b"" }
    }

    /// Octets that are still to be written as they are; `None` if framing is written around pieces, or no length is known.
    pub fn unframed(&self) -> Option<u64> {
        if let EncoderState::Length(left) = self.state { Some(left) } else { None }
    }

    /// `count` of the [`Self::unframed`] octets went another way.
    pub fn skip(&mut self, count: u64) {
        if let EncoderState::Length(left) = &mut self.state {
            *left = left.saturating_sub(count);
        }
    }

    /// Appends a piece of the body, copied. A suppressed body is dropped.
    ///
    /// # Errors
    /// The piece exceeds the announced length: nothing of it was appended.
    pub fn data(&mut self, piece: &[u8], out: &mut BytesMut) -> Result<(), EncodeError> {
        if piece.is_empty() || !self.sends_body() {
            return Ok(());
        }
        self.before(piece.len(), out)?;
        out.put_slice(piece);
        out.put_slice(self.after());
        Ok(())
    }

    /// Appends the end of the body. Trailers are written after chunks only, and only if given; their names in lower case
    /// whatever the format of the head, as Envoy 1.40 does.
    ///
    /// # Errors
    /// Less than the announced length was written: the connection must be closed.
    pub fn finish(&mut self, trailers: Option<&HeaderMap>, out: &mut BytesMut) -> Result<(), EncodeError> {
        match self.state {
            EncoderState::Chunked => {
                out.put_slice(b"0\r\n");
                let mut fields = FieldWriter { keys: KeyFormat::Lower, out };
                for (name, value) in trailers.into_iter().flatten() {
                    if role(name) == Role::Plain && name != http::header::TRAILER {
                        fields.put(name.as_str(), value.as_bytes());
                    }
                }
                out.put_slice(b"\r\n");
                Ok(())
            }
            EncoderState::Length(1..) => Err(EncodeError::BodyTooShort),
            EncoderState::Length(0) | EncoderState::Raw | EncoderState::Suppressed => Ok(()),
        }
    }
}

fn put_chunk_size(length: usize, out: &mut BytesMut) {
    let mut line = [0u8; MAX_CHUNK_SIZE_LINE];
    let mut start = line.len() - 2;
    line[start..].copy_from_slice(b"\r\n");
    let mut left = length;
    loop {
        start -= 1;
        line[start] = b"0123456789abcdef"[left % 16];
        left /= 16;
        if left == 0 {
            break;
        }
    }
    out.put_slice(&line[start..]);
}

fn put_status_line(status: StatusCode, kept: Option<&[u8]>, protocol: Protocol, out: &mut BytesMut) {
    out.put_slice(if protocol == Protocol::Http10 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(kept.unwrap_or_else(|| reason(status).as_bytes()));
    out.put_slice(b"\r\n");
}

/// The reason phrases of Envoy 1.40, observed one by one; what it does not know is `Unknown`.
fn reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        102..=199 | 418 | 451 => "Unknown",
        599 => "Last Unassigned Server Error Code",
        _ => status.canonical_reason().unwrap_or("Unknown"),
    }
}

/// Methods whose requests without body carry no `content-length: 0`.
fn no_length_expected(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::TRACE | Method::CONNECT)
}

fn check_upgrade(protocol: Option<&str>) -> Result<(), EncodeError> {
    let writable =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    if protocol.is_none_or(writable) { Ok(()) } else { Err(EncodeError::InvalidUpgrade) }
}

/// Octets that a head will take, about.
fn estimate(headers: &HeaderMap) -> usize {
    128 + headers.len() * 48
}
