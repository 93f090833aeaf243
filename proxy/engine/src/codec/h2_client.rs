//! One upstream HTTP/2 stream, on the `h2` crate.

use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use proxy_core::head::{BodyEvent, RequestHead, ResponseHead, Scheme};
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::WireBytes;
use proxy_core::text::Text;

use super::h2_guard::is_broken;
use super::h2_headers::{PLAIN_STATUS, fit, join_repeated, name_upgrade, plain_bytes, plain_request_bytes};
use super::h2_metadata::{MetadataBlock, MetadataStream, MetadataStreams};
use super::upstream::UpstreamEvent;
use proxy_core::field_names::joins_in_response;

const FRAME_HEADER: u64 = 9;

/// A request on an upstream HTTP/2 connection and its response.
pub(crate) struct ClientStream {
    connection: SendRequest<Bytes>,
    /// Fields that a response head may have, `:status` included.
    max_headers: usize,
    /// The host sent more fields than that.
    is_excessive: bool,
    send: Option<SendStream<Bytes>>,
    response: Option<ResponseFuture>,
    receive: Option<RecvStream>,
    data_done: bool,
    is_upgrade: bool,
    /// What an extended CONNECT asked for.
    protocol: Option<Text>,
    pending: Bytes,
    tail: Tail,
    wire: WireBytes,
    /// Where the connection may carry metadata.
    streams: Option<Rc<MetadataStreams>>,
    /// Metadata of this stream.
    metadata: Option<Box<MetadataStream>>,
}

enum Tail {
    None,
    End,
    Trailers(HeaderMap),
}

/// What an error of the codec means for the request.
pub(crate) fn reset_of(error: &h2::Error) -> UpstreamReset {
    if error.is_go_away() && error.is_remote() {
        // The codec says so only of streams that the GOAWAY did not cover: nobody worked on them (RFC 9113, 6.8).
        return UpstreamReset::RemoteRefused;
    }
    match error.reason() {
        Some(Reason::REFUSED_STREAM) => UpstreamReset::RemoteRefused,
        _ if is_broken(error) => UpstreamReset::ProtocolError,
        _ if error.is_io() => UpstreamReset::ConnectionTermination,
        Some(_) if error.is_remote() => UpstreamReset::RemoteReset,
        Some(Reason::PROTOCOL_ERROR | Reason::COMPRESSION_ERROR | Reason::FRAME_SIZE_ERROR) => {
            UpstreamReset::ProtocolError
        }
        Some(_) => UpstreamReset::LocalReset,
        None => UpstreamReset::ConnectionTermination,
    }
}

impl ClientStream {
    /// A stream to be opened on `connection`, which is ready for one.
    pub(crate) fn new(
        connection: SendRequest<Bytes>,
        max_headers: usize,
        streams: Option<Rc<MetadataStreams>>,
    ) -> Self {
        Self {
            connection,
            max_headers,
            is_excessive: false,
            send: None,
            response: None,
            receive: None,
            data_done: false,
            is_upgrade: false,
            protocol: None,
            pending: Bytes::new(),
            tail: Tail::None,
            wire: WireBytes::default(),
            streams,
            metadata: None,
        }
    }

    /// Sends the request head.
    pub(crate) fn request(&mut self, head: &RequestHead, end: bool) -> Result<(), UpstreamReset> {
        let mut request = Request::new(());
        *request.version_mut() = Version::HTTP_2;
        let is_connect = head.method == Method::CONNECT && head.upgrade.is_none();
        let uri = if is_connect {
            Uri::from_maybe_shared(head.authority.as_bytes().clone())
                .map_err(|_| UpstreamReset::LocalReset)?
        } else {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(match head.scheme {
                Scheme::Http => http::uri::Scheme::HTTP,
                Scheme::Https => http::uri::Scheme::HTTPS,
            });
            let authority = http::uri::Authority::from_maybe_shared(head.authority.as_bytes().clone());
            parts.authority = Some(authority.map_err(|_| UpstreamReset::LocalReset)?);
            let path = http::uri::PathAndQuery::from_maybe_shared(head.path.as_bytes().clone());
            parts.path_and_query = Some(path.map_err(|_| UpstreamReset::LocalReset)?);
            Uri::from_parts(parts).map_err(|_| UpstreamReset::LocalReset)?
        };
        *request.uri_mut() = uri;
        *request.method_mut() = head.method.clone();
        *request.headers_mut() = head.headers.clone();
        fit(request.headers_mut());
        // `:authority` says it, and two hosts are one too many.
        request.headers_mut().remove(http::header::HOST);
        if let Some(protocol) = &head.upgrade {
            if !self.connection.is_extended_connect_protocol_enabled() {
                return Err(UpstreamReset::LocalReset);
            }
            *request.method_mut() = Method::CONNECT;
            request.extensions_mut().insert(h2::ext::Protocol::from(protocol.as_str()));
            self.is_upgrade = true;
            self.protocol = Some(protocol.clone());
        }
        self.wire.plain_header_sent = plain_request_bytes(request.method(), request.uri(), request.headers());
        self.is_upgrade |= is_connect;
        let end = end && !self.is_upgrade;
        let (response, send) =
            self.connection.send_request(request, end).map_err(|error| reset_of(&error))?;
        self.metadata = self.streams.as_ref().map(|streams| {
            let mut metadata = streams.take(send.stream_id().as_u32());
            metadata.head_handed();
            Box::new(metadata)
        });
        self.response = Some(response);
        self.send = Some(send);
        Ok(())
    }

    /// Metadata that the host sent after what was read of the response, and before what was not.
    pub(crate) fn poll_metadata(&mut self, cx: &mut Context<'_>) -> Poll<MetadataBlock> {
        self.metadata.as_ref().map_or(Poll::Pending, |metadata| metadata.poll_next(cx))
    }

    /// Ready when the request head has left, where metadata is to keep its place behind it.
    pub(crate) fn poll_begun(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.metadata.as_ref().map_or(Poll::Ready(()), |metadata| metadata.poll_begun(cx))
    }

    /// Queues metadata behind everything that flow control has let pass; dropped where there can be none.
    pub(crate) fn metadata(&mut self, block: MetadataBlock) {
        if let Some(metadata) = &self.metadata {
            metadata.send(block);
        }
    }

    /// Queues a piece of the request body.
    pub(crate) fn data(&mut self, data: Bytes) {
        if let Some(send) = &mut self.send {
            send.reserve_capacity(data.len());
        }
        self.pending = data;
    }

    /// Ends the request.
    pub(crate) fn finish(&mut self, trailers: Option<HeaderMap>) {
        self.wire.plain_header_sent += trailers.as_ref().map_or(0, plain_bytes);
        self.tail = trailers.map_or(Tail::End, Tail::Trailers);
    }

    /// Ready when another piece may be queued.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        if self.pending.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.poll_flush(cx)
    }

    /// Ready when everything queued is in the hands of the connection.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        let Some(send) = &mut self.send else { return Poll::Ready(Ok(())) };
        while !self.pending.is_empty() {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(capacity)) => {
                    let piece = self.pending.split_to(capacity.min(self.pending.len()));
                    self.wire.sent += piece.len() as u64 + FRAME_HEADER;
                    if let Some(metadata) = &mut self.metadata {
                        metadata.data_handed(piece.len());
                    }
                    if let Err(error) = send.send_data(piece, false) {
                        return Poll::Ready(Err(reset_of(&error)));
                    }
                }
                // The response says more about a failed stream than its sending half.
                Some(Err(_)) | None => self.pending = Bytes::new(),
            }
        }
        let sent = match std::mem::replace(&mut self.tail, Tail::None) {
            Tail::None => Ok(()),
            Tail::End => send.send_data(Bytes::new(), true),
            Tail::Trailers(trailers) => send.send_trailers(trailers),
        };
        // A stream that the upstream ended early refuses more data: its response is what counts.
        drop(sent);
        Poll::Ready(Ok(()))
    }

    /// Whether the host sent more fields than it may.
    pub(crate) fn is_excessive(&self) -> bool {
        self.is_excessive
    }

    /// The next thing the upstream sends.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpstreamEvent, UpstreamReset>> {
        if let Some(response) = &mut self.response {
            if let Poll::Ready(Some(Ok(head))) = response.poll_informational(cx) {
                if let Some(metadata) = &mut self.metadata {
                    metadata.head_read();
                }
                let (parts, ()) = head.into_parts();
                let mut head = ResponseHead { status: parts.status, headers: parts.headers, case: None };
                join_repeated(&mut head.headers, joins_in_response);
                return Poll::Ready(Ok(UpstreamEvent::Informational(head)));
            }
            let received = ready!(std::pin::Pin::new(response).poll(cx));
            self.response = None;
            if let Some(metadata) = &mut self.metadata {
                metadata.final_head_read();
            }
            return Poll::Ready(match received {
                Ok(response) if response.headers().len() >= self.max_headers => {
                    self.is_excessive = true;
                    Err(UpstreamReset::RemoteReset)
                }
                Ok(response) => Ok(self.head(response)),
                Err(error) => Err(reset_of(&error)),
            });
        }
        let Some(receive) = &mut self.receive else { return Poll::Pending };
        while !self.data_done {
            match ready!(receive.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.wire.received += data.len() as u64 + FRAME_HEADER;
                    if let Some(metadata) = &mut self.metadata {
                        metadata.data_read(data.len());
                    }
                    let _ = receive.flow_control().release_capacity(data.len());
                    if data.is_empty() {
                        continue;
                    }
                    if receive.is_end_stream() {
                        self.receive = None;
                        return Poll::Ready(Ok(UpstreamEvent::Last(data)));
                    }
                    return Poll::Ready(Ok(UpstreamEvent::Body(BodyEvent::Data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Err(reset_of(&error))),
                None => self.data_done = true,
            }
        }
        let trailers = ready!(receive.poll_trailers(cx));
        self.receive = None;
        Poll::Ready(match trailers {
            Ok(Some(trailers)) if trailers.len() > self.max_headers => {
                self.is_excessive = true;
                Err(UpstreamReset::RemoteReset)
            }
            Ok(Some(trailers)) => {
                self.wire.plain_header_received += plain_bytes(&trailers);
                Ok(UpstreamEvent::Body(BodyEvent::Trailers(trailers)))
            }
            Ok(None) => Ok(UpstreamEvent::Body(BodyEvent::End)),
            Err(error) => Err(reset_of(&error)),
        })
    }

    fn head(&mut self, response: http::Response<RecvStream>) -> UpstreamEvent {
        let (parts, receive) = response.into_parts();
        self.wire.plain_header_received = PLAIN_STATUS + plain_bytes(&parts.headers);
        let end = receive.is_end_stream();
        let is_upgrade = self.is_upgrade && parts.status.is_success() && !end;
        self.receive = (!end).then_some(receive);
        let mut head = ResponseHead { status: parts.status, headers: parts.headers, case: None };
        join_repeated(&mut head.headers, joins_in_response);
        if let Some(protocol) = self.protocol.as_ref().filter(|_| is_upgrade) {
            // What HTTP/1 says; an HTTP/2 client is told 200 again.
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            name_upgrade(&mut head.headers, protocol);
        }
        UpstreamEvent::Head { head, end, is_upgrade }
    }

    /// Bytes for this stream so far, heads excepted: their size after compression is the codec's secret.
    pub(crate) fn wire(&self) -> WireBytes {
        self.wire
    }
}

#[cfg(test)]
mod tests;
