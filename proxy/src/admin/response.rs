//! An answer of the admin interface, and its body on the wire.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;

/// What happens once the answer has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    Nothing,
    Quit,
}

/// What a handler answers.
#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
    pub(super) afterwards: Afterwards,
}

const TEXT: &str = "text/plain; charset=UTF-8";

impl Response {
    /// 200 with text.
    pub(super) fn text(body: impl Into<Bytes>) -> Self {
        Self::with(StatusCode::OK, TEXT, body)
    }

    /// Another status with text.
    pub(super) fn error(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self::with(status, TEXT, body)
    }

    /// 200 with JSON.
    pub(super) fn json(body: impl Into<Bytes>) -> Self {
        Self::with(StatusCode::OK, "application/json", body)
    }

    /// 200 with HTML.
    pub(super) fn html(body: impl Into<Bytes>) -> Self {
        Self::with(StatusCode::OK, "text/html; charset=UTF-8", body)
    }

    /// What a mutation that worked says.
    pub(super) fn ok() -> Self {
        Self::text("OK\n")
    }

    pub(super) fn with(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, body: body.into(), afterwards: Afterwards::Nothing }
    }
}

/// One piece of bytes without a length, so that HTTP/1.1 sends it chunked, as Envoy does.
pub(super) struct Chunked(pub(super) Option<Bytes>);

impl http_body::Body for Chunked {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
    }
}
