//! One downstream stream as the connection manager drives it, whatever the protocol.

use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use proxy_core::head::{BodyEvent, Protocol, RequestHead, ResponseHead};
use proxy_core::stream_info::WireBytes;

use super::h2_metadata::MetadataBlock;
use crate::net::pipe::Pipe;

/// Why nothing more comes from, or goes to, downstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DownstreamError {
    /// The client closed the connection or the connection failed.
    Disconnected,
    /// The client reset this stream.
    Reset,
    /// The client sent more than it may on this stream, which was reset for it; the text is the response code details.
    Excess(&'static str),
    /// The client broke the protocol; the text is the response code details.
    Protocol(&'static str),
    /// The stream was reset because it held much while there was too much to do.
    Overloaded,
    /// No more of the request is read, because there is too much to do.
    Shed,
}

/// A request as it arrived.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// The head.
    pub(crate) head: RequestHead,
    /// Nothing follows the head.
    pub(crate) end: bool,
    /// What it does not say.
    pub(crate) lacks: Lacks,
}

/// What a request does not say of where it is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lacks {
    /// It names no host, which is not the same as naming an empty one.
    pub(crate) host: bool,
    /// It names no scheme, or none that is served: the head has that of the connection.
    pub(crate) scheme: bool,
}

/// One request and its response on a downstream connection.
///
/// Everything is queued by the plain methods and moved by the `poll_*` ones, so that one task drives both directions and
/// whatever is ready together leaves in one write. All polls may be called again after they returned `Pending`; none may
/// lose bytes when the caller stops polling.
pub(crate) trait Downstream {
    /// Protocol of the connection.
    fn protocol(&self) -> Protocol;
    /// The next piece of the request after its head. Not called again after `End` or `Trailers`.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<BodyEvent, DownstreamError>>;
    /// Ready when the client went away. Over HTTP/1 what comes meanwhile is read ahead up to a limit; who waits for the body polls
    /// [`Self::poll_body`] and not this, which takes its wake-ups.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<DownstreamError>;
    /// Ready when the client went away, while nothing is read of the request because its host takes none of it; takes the
    /// wake-ups of [`Self::poll_body`].
    fn poll_hung_up(&mut self, cx: &mut Context<'_>) -> Poll<DownstreamError> {
        self.poll_gone(cx)
    }
    /// Metadata that the client sent after what was read of the request, and before what was not; `Pending` where there can be none.
    fn poll_metadata(&mut self, _cx: &mut Context<'_>) -> Poll<MetadataBlock> {
        Poll::Pending
    }
    /// Whether there is metadata that was not read.
    fn has_metadata(&self) -> bool {
        false
    }
    /// Queues metadata behind everything that flow control has let pass; dropped where there can be none.
    fn metadata(&mut self, _block: MetadataBlock) {}
    /// Queues an informational (1xx) head.
    fn inform(&mut self, head: &ResponseHead);
    /// Queues the response head; `end` if nothing follows. `is_upgrade` turns the stream into a tunnel.
    fn respond(&mut self, head: &ResponseHead, end: bool, is_upgrade: bool);
    /// Queues a piece of the response body.
    fn data(&mut self, data: Bytes, end: bool);
    /// Queues the trailers, which end the response.
    fn trailers(&mut self, trailers: HeaderMap);
    /// Ends the response without trailers.
    fn finish(&mut self);
    /// Ready when another piece may be queued.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>>;
    /// Ready when everything queued has been handed to the kernel (HTTP/1) or to flow control (HTTP/2).
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), DownstreamError>>;
    /// Whether the next `length` octets of the response body may come through a pipe, once everything queued has left.
    fn can_splice(&self, _length: u64) -> bool {
        false
    }
    /// Sends some of what is in a pipe; the number of octets. Only where [`Self::can_splice`] said so.
    fn poll_splice(
        &mut self,
        _pipe: &mut Pipe,
        _cx: &mut Context<'_>,
    ) -> Poll<Result<usize, DownstreamError>> {
        Poll::Ready(Err(DownstreamError::Reset))
    }
    /// Ends the stream abruptly: the response cannot be completed.
    fn reset(&mut self);
    /// Asks that the connection end after this response (`connection: close`, GOAWAY).
    fn close_after(&mut self);
    /// Whether the response head says, or would say now, `connection: close`.
    fn says_close(&self) -> bool;
    /// Bytes on the wire for this stream so far.
    fn wire(&self) -> WireBytes;
}
