//! Response heads: from bytes to a [`ResponseHead`] and the framing of what follows (RFC 9112 sections 4 and 6.3).

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, StatusCode};
use proxy_core::head::{PreserveCase, Protocol, RequestHead, ResponseHead};
use proxy_core::text::Text;

use super::Side;
use super::error::ResponseError;
use super::fields::{self, FieldError, FieldOptions, FieldSection, Underscores};
use super::framing::{BodyFraming, Invalid};
use super::scan::{HeadLimits, HeadScanner, HeadSpan, trim_line_end};

/// Informational responses after which the final one must have come.
const MAX_INFORMATIONAL: u32 = 1000;

/// How responses are read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseOptions {
    /// `headers_with_underscores_action` of the upstream side.
    pub underscores: Underscores,
    /// What is kept of the spelling of names, for `header_key_format: preserve_case`.
    pub keep_case: Option<PreserveCase>,
    /// `allow_chunked_length` of the cluster: `content-length` next to `transfer-encoding: chunked` is dropped.
    pub allow_chunked_length: bool,
}

/// What the request was that a response answers: framing depends on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseContext {
    /// The request was HEAD: no body whatever the fields say.
    pub head: bool,
    /// The request was CONNECT: a 2xx opens a tunnel.
    pub connect: bool,
    /// The request asked for an upgrade: 101 is allowed.
    pub upgrade: bool,
}

impl ResponseContext {
    /// The context of answers to `request`.
    pub fn of(request: &RequestHead) -> Self {
        Self {
            head: request.method == Method::HEAD,
            connect: request.method == Method::CONNECT,
            upgrade: request.upgrade.is_some(),
        }
    }
}

/// What a response head is in its exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    /// 1xx other than 101: another head follows.
    Informational,
    /// 101: what follows is the other protocol.
    SwitchingProtocols,
    /// The answer.
    Final,
}

/// A response head and what the connection must know about it.
#[derive(Debug)]
pub struct ParsedResponse {
    /// The head. `content-length` stays for HEAD and 304, where it describes a body that is not sent.
    pub head: ResponseHead,
    /// The text after the status, possibly not UTF-8; Envoy never forwards it.
    pub reason: Bytes,
    /// 1.0 or 1.1.
    pub protocol: Protocol,
    /// Informational, 101 or final.
    pub kind: ResponseKind,
    /// What follows the head.
    pub framing: BodyFraming,
    /// `upgrade` of a 101, in lower case.
    pub upgrade: Option<Text>,
    /// Whether the connection can carry another exchange once this body is complete.
    ///
    /// Even then it must not be reused if bytes are left in the buffer after the body: they answer nothing.
    pub keep_alive: bool,
    /// Octets of the head on the wire.
    pub size: usize,
    /// Octets of its fields, as Envoy counts them.
    pub header_bytes: usize,
    /// Fields dropped by [`Underscores::Drop`].
    pub dropped_underscores: u32,
}

/// Parses the response heads of one connection, one after the other.
#[derive(Debug)]
pub struct ResponseParser {
    limits: HeadLimits,
    options: ResponseOptions,
    scanner: HeadScanner,
    informational: u32,
}

impl ResponseParser {
    /// A parser for a new connection.
    pub fn new(limits: HeadLimits, options: ResponseOptions) -> Self {
        Self { limits, options, scanner: HeadScanner::default(), informational: 0 }
    }

    /// Takes the next head from the front of `buf`, or `None` until it is complete.
    ///
    /// Call again with the same buffer after appending to it; nothing else may change in between. Exactly the head is consumed.
    /// After [`ResponseKind::Informational`] call again for the same exchange.
    ///
    /// # Errors
    /// The upstream broke the protocol: 502 (`protocol error`), and the connection is to be closed.
    pub fn parse(
        &mut self,
        buf: &mut BytesMut,
        context: ResponseContext,
    ) -> Result<Option<ParsedResponse>, ResponseError> {
        if !buf.iter().zip(b"HTTP/1.").all(|(byte, expected)| byte == expected) {
            return Err(ResponseError::Malformed);
        }
        let span = self.scanner.find(buf);
        let size = span.map_or(buf.len(), |span| span.end);
        if size > self.limits.max_bytes {
            return Err(ResponseError::HeadersTooLarge);
        }
        let Some(span) = span else { return Ok(None) };
        let head = Bytes::copy_from_slice(buf.get(..span.end).unwrap_or_default());
        buf.advance(span.end);
        self.scanner.reset();
        let parsed = self.parse_head(head, span, context)?;
        self.informational = match parsed.kind {
            ResponseKind::Informational => self.informational + 1,
            ResponseKind::SwitchingProtocols | ResponseKind::Final => 0,
        };
        if self.informational > MAX_INFORMATIONAL {
            return Err(ResponseError::TooManyInformational);
        }
        Ok(Some(parsed))
    }

    fn parse_head(
        &self,
        head: Bytes,
        span: HeadSpan,
        context: ResponseContext,
    ) -> Result<ParsedResponse, ResponseError> {
        let (protocol, status, reason) = parse_line(&head, span.first_line)?;
        let kind = match status.as_u16() {
            101 => ResponseKind::SwitchingProtocols,
            100..=199 => ResponseKind::Informational,
            _ => ResponseKind::Final,
        };
        let mut section = self.parse_fields(&head, span)?;
        let framing = self.framing(status, context, &mut section)?;
        if kind == ResponseKind::SwitchingProtocols
            && !(context.upgrade && section.connection.upgrade && section.upgrade.is_some())
        {
            return Err(ResponseError::UnsolicitedUpgrade);
        }
        if kind == ResponseKind::SwitchingProtocols {
            fields::keep_upgrade(&head, span, &mut section.headers)?;
        }
        // RFC 9112 section 6.1: a transfer coding in HTTP/1.0 is a faulty framing, so nothing may follow.
        let faulty = protocol == Protocol::Http10 && framing == BodyFraming::Chunked;
        let persists = section.connection.persists(protocol == Protocol::Http11);
        if let Some(case) = &mut section.case {
            case.note_reason(reason.clone());
        }
        Ok(ParsedResponse {
            reason,
            protocol,
            kind,
            framing,
            upgrade: section.upgrade.filter(|_| kind == ResponseKind::SwitchingProtocols),
            keep_alive: persists && !faulty && framing != BodyFraming::UntilClose,
            size: span.end,
            header_bytes: span.header_bytes(),
            dropped_underscores: section.dropped_underscores,
            head: ResponseHead { status, headers: section.headers, case: section.case },
        })
    }

    fn parse_fields(&self, head: &Bytes, span: HeadSpan) -> Result<FieldSection, ResponseError> {
        let options = FieldOptions {
            side: Side::Response,
            underscores: self.options.underscores,
            keep_case: self.options.keep_case,
            keep_expect: true,
        };
        Ok(fields::parse_unfolding(head, span, self.limits, options)?)
    }

    fn framing(
        &self,
        status: StatusCode,
        context: ResponseContext,
        section: &mut FieldSection,
    ) -> Result<BodyFraming, ResponseError> {
        let fields = section.framing;
        let chunked = fields.chunked().map_err(|Invalid| ResponseError::InvalidTransferEncoding)?;
        let mut length = fields.length().map_err(|Invalid| ResponseError::Malformed)?;
        if chunked && length.is_some() {
            if !self.options.allow_chunked_length {
                return Err(ResponseError::ContentLengthAndChunked);
            }
            section.headers.remove(http::header::CONTENT_LENGTH);
            length = None;
        }
        let never_a_body = status.is_informational() || status == StatusCode::NO_CONTENT;
        if never_a_body {
            if chunked {
                return Err(ResponseError::TransferEncodingNotAllowed);
            }
            if length.is_some_and(|length| length > 0) {
                return Err(ResponseError::ContentLengthNotAllowed);
            }
            section.headers.remove(http::header::CONTENT_LENGTH);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(BodyFraming::UntilClose);
        }
        if context.connect && status.is_success() {
            // RFC 9110 section 9.3.6: both fields are ignored here.
            section.headers.remove(http::header::CONTENT_LENGTH);
            return Ok(BodyFraming::UntilClose);
        }
        Ok(match length {
            _ if never_a_body || context.head || status == StatusCode::NOT_MODIFIED => BodyFraming::None,
            _ if chunked => BodyFraming::Chunked,
            Some(0) => BodyFraming::None,
            Some(length) => BodyFraming::Length(length),
            None => BodyFraming::UntilClose,
        })
    }
}

/// `HTTP/1.x SP 3DIGIT [SP reason]`
fn parse_line(head: &Bytes, end: usize) -> Result<(Protocol, StatusCode, Bytes), ResponseError> {
    let line = trim_line_end(head.get(..end).unwrap_or_default());
    let (protocol, rest) = match line {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', b' ', rest @ ..] => (Protocol::Http11, rest),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', b' ', rest @ ..] => (Protocol::Http10, rest),
        _ => return Err(ResponseError::Malformed),
    };
    let (digits, reason) = match rest {
        [_, _, _] => (rest, &b""[..]),
        [a, b, c, b' ', reason @ ..] => (&[*a, *b, *c][..], reason),
        _ => return Err(ResponseError::InvalidStatus),
    };
    let status = StatusCode::from_bytes(digits).map_err(|_| ResponseError::InvalidStatus)?;
    let text = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    if !reason.iter().all(text) {
        return Err(ResponseError::InvalidCharacters);
    }
    Ok((protocol, status, head.slice_ref(reason)))
}

impl From<FieldError> for ResponseError {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::Malformed => Self::Malformed,
            FieldError::InvalidCharacters => Self::InvalidCharacters,
            FieldError::TooMany => Self::TooManyHeaders,
            FieldError::Underscore => Self::UnexpectedUnderscore,
        }
    }
}
