//! One upstream stream as the router drives it, whatever the protocol.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use proxy_core::address::Address;
use proxy_core::head::{Protocol, RequestHead};
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::{StreamInfo, WireBytes};
use proxy_core::tls::TlsInfo;

use super::pool::{Http1Lease as Http1, Http2Lease as Http2};
use super::tunnel::Tunnel;
use crate::codec::h2_metadata::MetadataBlock;
use crate::codec::upstream::UpstreamEvent;
use crate::net::pipe::Pipe;

/// A request to an upstream and its response.
pub(crate) enum Upstream {
    /// Over HTTP/1.
    Http1(Http1),
    /// Over HTTP/2.
    Http2(Box<Http2>),
    /// CONNECT that ends here.
    Tunnel(Box<Tunnel>),
}

impl Upstream {
    /// Protocol of the connection.
    pub(crate) fn protocol(&self) -> Protocol {
        match self {
            Self::Http1(_) | Self::Tunnel(_) => Protocol::Http11,
            Self::Http2(_) => Protocol::Http2,
        }
    }

    /// Queues the request head; `end` if nothing follows.
    pub(crate) fn request(&mut self, head: &RequestHead, end: bool) -> Result<(), UpstreamReset> {
        match self {
            Self::Http1(stream) => stream.request(head, end),
            Self::Http2(stream) => stream.request(head, end),
            Self::Tunnel(_) => Ok(()),
        }
    }

    /// Queues a piece of the request body.
    pub(crate) fn data(&mut self, data: Bytes) {
        match self {
            Self::Http1(stream) => stream.data(data),
            Self::Http2(stream) => stream.data(data),
            Self::Tunnel(stream) => stream.data(data),
        }
    }

    /// Ends the request, with trailers if there are any.
    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) {
        match self {
            Self::Http1(stream) => stream.finish(trailers),
            Self::Http2(stream) => stream.finish(trailers),
            Self::Tunnel(stream) => stream.finish(),
        }
    }

    /// Ready when another piece may be queued.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        match self {
            Self::Http1(stream) => stream.poll_room(cx),
            Self::Http2(stream) => stream.poll_room(cx),
            Self::Tunnel(stream) => stream.poll_room(cx),
        }
    }

    /// Ready when everything queued has left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        match self {
            Self::Http1(stream) => stream.poll_flush(cx),
            Self::Http2(stream) => stream.poll_flush(cx),
            Self::Tunnel(stream) => stream.poll_flush(cx),
        }
    }

    /// The next thing the upstream sends. Not called again after the end.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpstreamEvent, UpstreamReset>> {
        match self {
            Self::Http1(stream) => stream.poll_event(cx),
            Self::Http2(stream) => stream.poll_event(cx),
            Self::Tunnel(stream) => stream.poll_event(cx),
        }
    }

    /// Metadata that the upstream sent before the next event.
    pub(crate) fn poll_metadata(&mut self, cx: &mut Context<'_>) -> Poll<MetadataBlock> {
        match self {
            Self::Http2(stream) => stream.poll_metadata(cx),
            Self::Http1(_) | Self::Tunnel(_) => Poll::Pending,
        }
    }

    /// Ready when metadata would leave after what flow control lets pass of what is queued.
    pub(crate) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http2(stream) => stream.poll_begun(cx),
            Self::Http1(_) | Self::Tunnel(_) => Poll::Ready(()),
        }
    }

    /// Queues metadata, which not every upstream is told.
    pub(crate) fn metadata(&mut self, block: MetadataBlock) {
        match self {
            Self::Http1(stream) => stream.count_metadata(),
            Self::Http2(stream) => stream.metadata(block),
            Self::Tunnel(_) => {}
        }
    }

    /// Octets of the response that the kernel may move elsewhere.
    pub(crate) fn unread(&self) -> u64 {
        match self {
            Self::Http1(stream) => stream.unread(),
            Self::Http2(_) | Self::Tunnel(_) => 0,
        }
    }

    /// Moves some of what is [`Self::unread`] into an empty pipe.
    pub(crate) fn poll_splice(
        &mut self,
        pipe: &mut Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), UpstreamReset>> {
        match self {
            Self::Http1(stream) => stream.poll_splice(pipe, cx),
            Self::Http2(_) | Self::Tunnel(_) => Poll::Ready(Err(UpstreamReset::LocalReset)),
        }
    }

    /// Bytes on the wire for this stream so far.
    pub(crate) fn wire(&self) -> WireBytes {
        match self {
            Self::Http1(stream) => stream.wire(),
            Self::Http2(stream) => stream.wire(),
            Self::Tunnel(stream) => stream.wire(),
        }
    }

    /// Whether the connection served a request before this one, so that the upstream may just have closed it.
    pub(crate) fn is_reused(&self) -> bool {
        match self {
            Self::Http1(stream) => stream.is_reused(),
            Self::Http2(stream) => stream.is_reused(),
            Self::Tunnel(_) => false,
        }
    }

    /// Address of this end.
    pub(crate) fn local(&self) -> Option<&Address> {
        match self {
            Self::Http1(stream) => stream.local(),
            Self::Http2(stream) => stream.local(),
            Self::Tunnel(stream) => stream.socket().local.as_ref(),
        }
    }

    /// The TLS session, if the connection is in one.
    pub(crate) fn tls(&self) -> Option<&Arc<TlsInfo>> {
        match self {
            Self::Http1(stream) => stream.tls(),
            Self::Http2(stream) => stream.tls(),
            Self::Tunnel(stream) => stream.socket().tls.as_ref(),
        }
    }

    /// What the filters of the connection know of it, if it has any.
    pub(crate) fn filtered(&self) -> Option<&Rc<RefCell<StreamInfo>>> {
        match self {
            Self::Http1(stream) => stream.filtered(),
            Self::Http2(stream) => stream.filtered(),
            Self::Tunnel(stream) => stream.socket().filtered.as_ref(),
        }
    }

    /// When the connection was begun and made; `None` for a CONNECT that ends here.
    pub(crate) fn connect_times(&self) -> Option<(Instant, Instant)> {
        match self {
            Self::Http1(stream) => stream.connect_times(),
            Self::Http2(stream) => Some(stream.connect_times()),
            Self::Tunnel(stream) => Some(stream.socket().connect_times),
        }
    }

    /// Number of the connection.
    pub(crate) fn id(&self) -> Option<u64> {
        match self {
            Self::Http1(stream) => stream.id(),
            Self::Http2(stream) => stream.id(),
            Self::Tunnel(stream) => Some(stream.socket().id),
        }
    }
}
