//! What can be wrong with a message, and what Envoy answers for it.

use http::StatusCode;
use thiserror::Error;

/// Why a request head was refused. The connection cannot be used for a further request.
///
/// Status, body text and `%RESPONSE_CODE_DETAILS%` are those of Envoy 1.40 for the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{}", self.details())]
pub enum RequestError {
    /// Bytes that are no HTTP/1 message: request line, field name, line ending, chunk.
    Malformed,
    /// A control character where none may be.
    InvalidCharacters,
    /// The request target cannot be understood for this method.
    InvalidUrl,
    /// Absolute form with a scheme other than `http` and `https`.
    InvalidScheme,
    /// Absolute form that says `https`, on a plain connection that nobody can have secured in front of the proxy.
    HttpsOnPlaintext,
    /// `host` (or an authority) with characters that no authority has, or more than one `host`.
    InvalidAuthority,
    /// A transfer coding other than exactly one `chunked`.
    InvalidTransferEncoding,
    /// `content-length` together with `transfer-encoding`.
    ContentLengthAndChunked,
    /// A body on a request that cannot have one (CONNECT).
    BodyDisallowed,
    /// `connection` nominates a field that may not be removed, or too many.
    ConnectionHeaderRejected,
    /// A protocol version that is not served (anything but 1.1, and 1.0 unless allowed).
    LowVersion,
    /// The head is larger than allowed.
    HeadersTooLarge,
    /// The head has more fields than allowed.
    TooManyHeaders,
    /// A field name with an underscore where the policy is to reject.
    UnexpectedUnderscore,
    /// Nothing is wrong with it, but there is too much to do (`http1_server_abort_dispatch`).
    Overload,
}

impl RequestError {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Malformed
            | Self::InvalidCharacters
            | Self::InvalidUrl
            | Self::InvalidScheme
            | Self::InvalidAuthority
            | Self::ContentLengthAndChunked
            | Self::BodyDisallowed
            | Self::ConnectionHeaderRejected
            | Self::UnexpectedUnderscore => StatusCode::BAD_REQUEST,
            Self::HttpsOnPlaintext => StatusCode::FORBIDDEN,
            Self::InvalidTransferEncoding => StatusCode::NOT_IMPLEMENTED,
            Self::LowVersion => StatusCode::UPGRADE_REQUIRED,
            Self::HeadersTooLarge | Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Overload => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// `%RESPONSE_CODE_DETAILS%`.
    pub fn details(self) -> &'static str {
        match self {
            Self::Malformed => "http1.codec_error",
            Self::InvalidCharacters => "http1.invalid_characters",
            Self::InvalidUrl => "http1.invalid_url",
            Self::InvalidScheme => "http1.invalid_scheme",
            Self::HttpsOnPlaintext => "http1.https_url_on_plaintext_connection",
            Self::InvalidAuthority => "http.invalid_authority",
            Self::InvalidTransferEncoding => "http1.invalid_transfer_encoding",
            Self::ContentLengthAndChunked => "http1.content_length_and_chunked_not_allowed",
            Self::BodyDisallowed => "http1.body_disallowed",
            Self::ConnectionHeaderRejected => "http1.connection_header_rejected",
            Self::LowVersion => "low_version",
            Self::HeadersTooLarge => "http1.headers_too_large",
            Self::TooManyHeaders => "http1.too_many_headers",
            Self::UnexpectedUnderscore => "http1.unexpected_underscore",
            Self::Overload => "overload",
        }
    }

    /// The body of the answer, `text/plain`.
    pub fn body(self) -> &'static str {
        self.status().canonical_reason().unwrap_or_default()
    }
}

/// Why a response head was refused: the caller answers 502 (`protocol error`) and closes the upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResponseError {
    /// Bytes that are no HTTP/1 response.
    #[error("http1.codec_error")]
    Malformed,
    /// A status outside 100..=999, or not three digits.
    #[error("http1.codec_error: status")]
    InvalidStatus,
    /// A control character in a field value.
    #[error("http1.invalid_characters")]
    InvalidCharacters,
    /// A transfer coding other than exactly one `chunked`.
    #[error("http1.invalid_transfer_encoding")]
    InvalidTransferEncoding,
    /// `content-length` together with `transfer-encoding`.
    #[error("http1.content_length_and_chunked_not_allowed")]
    ContentLengthAndChunked,
    /// `content-length` other than 0 on a response without body (1xx, 204).
    #[error("http1.content_length_not_allowed")]
    ContentLengthNotAllowed,
    /// `transfer-encoding` on a response without body (1xx, 204).
    #[error("http1.transfer_encoding_not_allowed")]
    TransferEncodingNotAllowed,
    /// 101 although no upgrade was asked for, or without `upgrade`.
    #[error("http1.codec_error: unsolicited upgrade")]
    UnsolicitedUpgrade,
    /// The head is larger than allowed.
    #[error("http1.headers_too_large")]
    HeadersTooLarge,
    /// The head has more fields than allowed.
    #[error("http1.too_many_headers")]
    TooManyHeaders,
    /// More informational responses than allowed before the final one.
    #[error("http1.codec_error: too many informational responses")]
    TooManyInformational,
    /// A field name with an underscore where the policy is to reject.
    #[error("http1.unexpected_underscore")]
    UnexpectedUnderscore,
}

/// Why a body was refused. What was already handed on cannot be taken back: the stream must be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BodyError {
    /// Not a chunk: size, extension, line ending.
    #[error("http1.codec_error")]
    InvalidChunk,
    /// A trailer section that is no field section.
    #[error("http1.codec_error: trailers")]
    InvalidTrailers,
    /// The trailer section is larger than allowed.
    #[error("http1.headers_too_large")]
    TrailersTooLarge,
    /// The trailer section has more fields than allowed.
    #[error("http1.too_many_headers")]
    TooManyTrailers,
    /// The connection ended before the body did.
    #[error("connection closed before the end of the body")]
    Truncated,
}

impl BodyError {
    /// The answer for a request whose body was refused, if there is still somebody to answer.
    pub fn as_request_error(self) -> RequestError {
        match self {
            Self::InvalidChunk | Self::InvalidTrailers | Self::Truncated => RequestError::Malformed,
            Self::TrailersTooLarge => RequestError::HeadersTooLarge,
            Self::TooManyTrailers => RequestError::TooManyHeaders,
        }
    }
}

/// Why a message was not written. Nothing of it is in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EncodeError {
    /// A path with white space, control or non-ASCII characters.
    #[error("path cannot be written to HTTP/1")]
    InvalidPath,
    /// An authority with characters that no authority has.
    #[error("authority cannot be written to HTTP/1")]
    InvalidAuthority,
    /// The protocol of an upgrade with characters that no token list has.
    #[error("upgrade protocol cannot be written to HTTP/1")]
    InvalidUpgrade,
    /// More body than `content-length` announced.
    #[error("body exceeds its content-length")]
    BodyTooLong,
    /// The body ended before `content-length` was reached: the connection must be closed.
    #[error("body is shorter than its content-length")]
    BodyTooShort,
}
