//! Request heads: from bytes to a [`RequestHead`] and the framing of what follows (RFC 9112 sections 3 to 6).

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Method};
use proxy_core::head::{PreserveCase, Protocol, RequestHead, Scheme};
use proxy_core::matcher::StringMatcher;
use proxy_core::text::Text;

use super::Side;
use super::error::RequestError;
use super::fields::{self, FieldError, FieldOptions, FieldSection, HostField, Underscores};
use super::framing::{BodyFraming, Invalid};
use super::hop::{self, Nominated, is_token};
use super::scan::{HeadLimits, HeadScanner, HeadSpan, trim_line_end};
use super::target::{self, Target, is_valid_authority};

/// More empty lines than this before a request are no courtesy any more.
const MAX_EMPTY_LINES: u32 = 16;

/// How requests are read: `Http1ProtocolOptions` and friends. The default is Envoy's.
#[derive(Clone, Debug)]
pub struct RequestOptions {
    /// The scheme of a request that does not name one: that of the transport.
    pub scheme: Scheme,
    /// Nobody in front of the proxy is trusted to have secured a connection that is plain here: a target that says `https` is
    /// refused there.
    pub is_edge: bool,
    /// `accept_http_10`
    pub allow_http_10: bool,
    /// `default_host_for_http_10`
    pub default_host_for_http_10: Option<Text>,
    /// `allow_absolute_url`
    pub allow_absolute_url: bool,
    /// `allow_chunked_length`: `content-length` next to `transfer-encoding: chunked` is dropped instead of refused.
    pub allow_chunked_length: bool,
    /// `allow_custom_methods`
    pub allow_custom_methods: bool,
    /// `headers_with_underscores_action`
    pub underscores: Underscores,
    /// What is kept of the spelling of names, for `header_key_format: preserve_case`.
    pub keep_case: Option<PreserveCase>,
    /// `proxy_100_continue`: `expect: 100-continue` stays in the head.
    pub proxy_100_continue: bool,
    /// `ignore_http_11_upgrade`
    pub ignored_upgrades: Vec<StringMatcher>,
}

impl Default for RequestOptions {
    fn default() -> Self {
        Self {
            scheme: Scheme::Http,
            is_edge: false,
            allow_http_10: false,
            default_host_for_http_10: None,
            allow_absolute_url: true,
            allow_chunked_length: false,
            allow_custom_methods: false,
            underscores: Underscores::Allow,
            keep_case: None,
            proxy_100_continue: false,
            ignored_upgrades: Vec::new(),
        }
    }
}

/// A request head and what the connection must know about it.
#[derive(Debug)]
pub struct ParsedRequest {
    /// The head. `upgrade` is set when `connection` names it and it asks for more than `h2c`; its path is what the target
    /// says, and whether that can be served (`*`, a fragment) is not for the codec to say.
    pub head: RequestHead,
    /// Neither the target nor a `host` field names an authority, and there is no default: not a request that can be served.
    pub lacks_host: bool,
    /// The target names no scheme: the head has that of the transport.
    pub lacks_scheme: bool,
    /// 1.1, or 1.0 where allowed.
    pub protocol: Protocol,
    /// What follows the head. CONNECT has [`BodyFraming::UntilClose`]: the tunnel.
    pub framing: BodyFraming,
    /// Whether the client allows a further request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue`.
    pub expect_continue: bool,
    /// Octets of the head on the wire.
    pub size: usize,
    /// Octets of its fields, as Envoy counts them.
    pub header_bytes: usize,
    /// Fields dropped by [`Underscores::Drop`].
    pub dropped_underscores: u32,
}

/// Parses the request heads of one connection, one after the other.
#[derive(Debug)]
pub struct RequestParser {
    limits: HeadLimits,
    options: Arc<RequestOptions>,
    scanner: HeadScanner,
    line_checked: bool,
    empty_lines: u32,
}

impl RequestParser {
    /// A parser for a new connection.
    pub fn new(limits: HeadLimits, options: impl Into<Arc<RequestOptions>>) -> Self {
        Self {
            limits,
            options: options.into(),
            scanner: HeadScanner::default(),
            line_checked: false,
            empty_lines: 0,
        }
    }

    /// Takes the next head from the front of `buf`, or `None` until it is complete.
    ///
    /// Call again with the same buffer after appending to it; nothing else may change in between. Exactly the head (and empty
    /// lines before it) is consumed. Hopeless input (a first octet that starts no method, a bad request line, too much without
    /// an end) is refused without waiting for the end of the head.
    ///
    /// # Errors
    /// The message cannot be understood or is not allowed; the connection is to be answered and closed.
    pub fn parse(&mut self, buf: &mut BytesMut) -> Result<Option<ParsedRequest>, RequestError> {
        self.skip_empty_lines(buf)?;
        match buf.first() {
            None | Some(b'\r') => return Ok(None),
            Some(&first) if !is_token(first) => return Err(RequestError::Malformed),
            Some(_) => {}
        }
        let Some(span) = self.scanner.find(buf) else {
            self.check_partial(buf)?;
            return Ok(None);
        };
        if span.end > self.limits.max_bytes {
            self.check_line(buf.get(..span.first_line).unwrap_or_default())?;
            return Err(RequestError::HeadersTooLarge);
        }
        let head = Bytes::copy_from_slice(buf.get(..span.end).unwrap_or_default());
        buf.advance(span.end);
        self.scanner.reset();
        self.line_checked = false;
        self.empty_lines = 0;
        self.parse_head(&head, span).map(Some)
    }

    fn skip_empty_lines(&mut self, buf: &mut BytesMut) -> Result<(), RequestError> {
        loop {
            let skip = match &buf[..] {
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                [b'\r', _, ..] => return Err(RequestError::Malformed),
                _ => return Ok(()),
            };
            buf.advance(skip);
            self.empty_lines += 1;
            if self.empty_lines > MAX_EMPTY_LINES {
                return Err(RequestError::Malformed);
            }
        }
    }

    /// What can be said before the head is complete: the same verdict, in the same order, as on the complete head.
    fn check_partial(&mut self, buf: &[u8]) -> Result<(), RequestError> {
        if let Some(end) = self.scanner.first_line().filter(|_| !self.line_checked) {
            self.check_line(buf.get(..end).unwrap_or_default())?;
            self.line_checked = true;
        }
        if buf.len() > self.limits.max_bytes { Err(RequestError::HeadersTooLarge) } else { Ok(()) }
    }

    fn check_line(&self, line: &[u8]) -> Result<(), RequestError> {
        if line.len() > self.limits.max_bytes {
            return Err(RequestError::HeadersTooLarge);
        }
        self.parse_line(&Bytes::copy_from_slice(line), line.len()).map(|_| ())
    }

    fn parse_head(&self, head: &Bytes, span: HeadSpan) -> Result<ParsedRequest, RequestError> {
        let line = self.parse_line(head, span.first_line)?;
        let options = FieldOptions {
            side: Side::Request,
            underscores: self.options.underscores,
            keep_case: self.options.keep_case,
            keep_expect: self.options.proxy_100_continue,
        };
        let mut section = fields::parse_unfolding(head, span, self.limits, options)?;
        let authority = self.authority(&line, &section)?;
        let framing = self.framing(&line, &mut section)?;
        let http_11 = line.protocol == Protocol::Http11;
        let upgrade = section.upgrade.take();
        let mut upgrade = upgrade.filter(|asked| section.connection.upgrade && http_11 && *asked != "h2c");
        if let Some(asked) = &upgrade {
            fields::keep_upgrade(head, span, &mut section.headers)?;
            if !self.options.ignored_upgrades.is_empty() {
                upgrade = self.drop_ignored(asked, &mut section.headers);
            }
        }
        if section.connection.nominates() {
            let removal = if upgrade.is_some() { Nominated::Stay } else { Nominated::Go };
            hop::apply_nominations(&section.connection, &mut section.headers, removal)
                .map_err(|_| RequestError::ConnectionHeaderRejected)?;
        }
        let keep_alive = section.connection.persists(http_11);
        Ok(ParsedRequest {
            lacks_host: authority.is_none(),
            lacks_scheme: line.target.scheme.is_none(),
            head: RequestHead {
                method: line.method,
                scheme: line.target.scheme.unwrap_or(self.options.scheme),
                authority: authority.unwrap_or_default(),
                path: line.target.path,
                upgrade,
                headers: section.headers,
                case: section.case,
            },
            protocol: line.protocol,
            framing,
            keep_alive,
            expect_continue: section.expect_continue,
            size: span.end,
            header_bytes: span.header_bytes(),
            dropped_underscores: section.dropped_underscores,
        })
    }

    /// Takes the members of `upgrade` that are to be ignored out of `headers`; what remains of it, in lower case.
    fn drop_ignored(&self, asked: &Text, headers: &mut HeaderMap) -> Option<Text> {
        let field = headers.get(UPGRADE).and_then(|field| field.to_str().ok()).unwrap_or(asked.as_str());
        let ignored = &self.options.ignored_upgrades;
        let is_ignored = |member: &str| ignored.iter().any(|matcher| matcher.matches(member.as_bytes()));
        let members = || field.split(',').map(str::trim).filter(|member| !member.is_empty());
        let kept: Vec<&str> = members().filter(|member| !is_ignored(member)).collect();
        if kept.len() == members().count() {
            return Some(asked.clone());
        }
        let kept = kept.join(",");
        if let Some(field) = HeaderValue::from_str(&kept).ok().filter(|_| !kept.is_empty()) {
            headers.insert(UPGRADE, field);
            return Some(Text::from(kept.to_ascii_lowercase()));
        }
        headers.remove(UPGRADE);
        headers.remove(CONNECTION);
        None
    }

    fn parse_line(&self, head: &Bytes, end: usize) -> Result<RequestLine, RequestError> {
        let line = trim_line_end(head.get(..end).unwrap_or_default());
        let (method, rest) = split_at_space(line).ok_or(RequestError::Malformed)?;
        let method =
            parse_method(method, self.options.allow_custom_methods).ok_or(RequestError::Malformed)?;
        // HTTP/0.9 has no version at all.
        let (target, version) = split_at_space(rest).ok_or(RequestError::LowVersion)?;
        let protocol = match version {
            b"HTTP/1.1" => Protocol::Http11,
            b"HTTP/1.0" if self.options.allow_http_10 => Protocol::Http10,
            [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return Err(RequestError::LowVersion);
            }
            _ => return Err(RequestError::Malformed),
        };
        let target = target::parse(head, target, &method, &self.options)?;
        Ok(RequestLine { method, target, protocol })
    }

    /// `:authority`: that of the target wins, `host` is next, and it must be a single valid one in any case.
    fn authority(&self, line: &RequestLine, section: &FieldSection) -> Result<Option<Text>, RequestError> {
        let host = match &section.host {
            HostField::Absent => None,
            HostField::Many => return Err(RequestError::InvalidAuthority),
            HostField::One(host) if is_valid_authority(host) => Text::from_bytes(host.clone()),
            HostField::One(_) => return Err(RequestError::InvalidAuthority),
        };
        let default =
            self.options.default_host_for_http_10.as_ref().filter(|_| line.protocol == Protocol::Http10);
        Ok(line.target.authority.clone().or(host).or_else(|| default.cloned()))
    }

    fn framing(&self, line: &RequestLine, section: &mut FieldSection) -> Result<BodyFraming, RequestError> {
        let fields = section.framing;
        let chunked = fields.chunked().map_err(|Invalid| RequestError::InvalidTransferEncoding);
        if fields.has_length() && fields.has_coding() {
            if !(self.options.allow_chunked_length && chunked == Ok(true)) {
                return Err(RequestError::ContentLengthAndChunked);
            }
            section.headers.remove(http::header::CONTENT_LENGTH);
        } else if fields.length().is_err() {
            return Err(RequestError::Malformed);
        }
        let chunked = chunked?;
        // RFC 9112 section 6.1: a transfer coding in HTTP/1.0 is a faulty framing.
        if chunked && (line.method == Method::CONNECT || line.protocol == Protocol::Http10) {
            return Err(RequestError::InvalidTransferEncoding);
        }
        let length = if chunked { None } else { fields.length().ok().flatten() };
        if line.method == Method::CONNECT {
            return match length {
                None | Some(0) => Ok(BodyFraming::UntilClose),
                Some(_) => Err(RequestError::BodyDisallowed),
            };
        }
        Ok(match length {
            _ if chunked => BodyFraming::Chunked,
            None | Some(0) => BodyFraming::None,
            Some(length) => BodyFraming::Length(length),
        })
    }
}

/// A parsed request line.
#[derive(Debug)]
struct RequestLine {
    method: Method,
    target: Target,
    protocol: Protocol,
}

fn split_at_space(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = memchr::memchr(b' ', line)?;
    Some((line.get(..space)?, line.get(space + 1..)?))
}

/// The methods Envoy 1.40 knows; any token where custom methods are allowed.
fn parse_method(method: &[u8], custom: bool) -> Option<Method> {
    match method {
        b"GET" => Some(Method::GET),
        b"POST" => Some(Method::POST),
        b"PUT" | b"DELETE" | b"HEAD" | b"OPTIONS" | b"CONNECT" | b"PATCH" | b"TRACE" | b"COPY" | b"LOCK"
        | b"MKCOL" | b"MOVE" | b"PROPFIND" | b"PROPPATCH" | b"SEARCH" | b"UNLOCK" | b"BIND" | b"REBIND"
        | b"UNBIND" | b"ACL" | b"REPORT" | b"MKACTIVITY" | b"CHECKOUT" | b"MERGE" | b"NOTIFY"
        | b"SUBSCRIBE" | b"UNSUBSCRIBE" | b"PURGE" | b"MKCALENDAR" | b"LINK" | b"UNLINK" | b"SOURCE"
        | b"QUERY" => Method::from_bytes(method).ok(),
        _ if custom => Method::from_bytes(method).ok(),
        _ => None,
    }
}

impl From<FieldError> for RequestError {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::Malformed => Self::Malformed,
            FieldError::InvalidCharacters => Self::InvalidCharacters,
            FieldError::TooMany => Self::TooManyHeaders,
            FieldError::Underscore => Self::UnexpectedUnderscore,
        }
    }
}
