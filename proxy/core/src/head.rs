//! Heads of requests and responses, independent of the protocol version that carried them.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use std::fmt;

pub use crate::header_case::{HeaderCase, PreserveCase};
use crate::text::Text;

/// Version of HTTP on one side of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// The name as `%PROTOCOL%` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The scheme of a request (`:scheme`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// The scheme in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The head of a request: what Envoy keeps in pseudo-headers is in fields of its own.
///
/// `headers` never holds `host`, hop-by-hop headers or `transfer-encoding`: codecs put them on the wire. Of an upgrade it holds
/// `connection` and `upgrade` as the client wrote them, so that routes and filters can match them.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// `:method`
    pub method: Method,
    /// `:scheme`
    pub scheme: Scheme,
    /// `:authority` (HTTP/1: `Host`); empty when absent.
    pub authority: Text,
    /// `:path`, query included; empty for a plain CONNECT.
    pub path: Text,
    /// Protocol asked for by an upgrade (HTTP/1 `Upgrade`, HTTP/2 `:protocol`), in lower case.
    pub upgrade: Option<Text>,
    /// All other headers, names in lower case, order of arrival kept per name.
    pub headers: HeaderMap,
    /// How the client spelled the names, where that is to be kept.
    pub case: Option<Box<HeaderCase>>,
}

/// How large a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Fields, pseudo-headers and each crumb of a cookie included (`max_headers_count`).
    pub fields: usize,
    /// Bytes of names and values (`max_request_headers_kb`).
    pub bytes: usize,
}

/// Most fields that the proxy gives a head, whatever is configured: a map of headers holds 24,576, and some are added on the way.
pub const MOST_FIELDS: u32 = 20_000;

impl RequestHead {
    /// `:path` without query and fragment.
    pub fn path_only(&self) -> &str {
        let path = self.path.as_str();
        let end = path.bytes().position(|byte| matches!(byte, b'?' | b'#'));
        end.and_then(|end| path.get(..end)).unwrap_or(path)
    }

    /// The query of `:path`, without `?`; `None` when there is no `?`.
    pub fn query(&self) -> Option<&str> {
        let path = self.path.as_str();
        path.split_once('?').map(|(_, query)| query)
    }

    /// Whether this is a gRPC request: `content-type` is `application/grpc` or `application/grpc+...`.
    pub fn is_grpc(&self) -> bool {
        is_grpc(&self.headers)
    }
}

/// Whether `content-type` says gRPC (Envoy `Grpc::Common::hasGrpcContentType`).
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(http::header::CONTENT_TYPE) else { return false };
    value.as_bytes().strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
}

/// The head of a response.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// `:status`
    pub status: StatusCode,
    /// All other headers; never hop-by-hop headers (but those of a 101) or `transfer-encoding`.
    pub headers: HeaderMap,
    /// How the upstream spelled the names, where that is to be kept.
    pub case: Option<Box<HeaderCase>>,
}

impl ResponseHead {
    /// A head without headers.
    pub fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), case: None }
    }
}

/// The next piece of a message after its head.
#[derive(Debug)]
pub enum BodyEvent {
    /// Bytes of the body, never empty.
    Data(Bytes),
    /// Trailers; the message ends with them.
    Trailers(HeaderMap),
    /// The message ended without trailers.
    End,
}
