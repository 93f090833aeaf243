//! The connection that a host is checked over, and one request and answer on it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use proxy_core::head::{BodyEvent, RequestHead, ResponseHead, Scheme};
use proxy_core::stream_error::UpstreamReset;
use proxy_core::tls::TlsInfo;
use proxy_core::upstream::Host;

use super::Checker;
use crate::codec::h1_client::ClientConnection;
use crate::codec::h2_client::ClientStream;
use crate::codec::upstream::UpstreamEvent;
use crate::net::connection::Connection;
pub(super) use crate::upstream::apart::Broken;
use crate::upstream::apart::{Apart, Http2};
use crate::upstream::cluster::Cluster;
use crate::upstream::pool::http1_options;

/// One host while it is checked, with the connection that is kept between checks.
pub(super) struct Probe<'c> {
    pub(super) cluster: &'c Cluster,
    pub(super) checker: &'c Checker,
    pub(super) host: &'c Arc<Host>,
    pub(super) kept: Option<Kept>,
}

/// A connection that lasts for more than one check.
pub(super) enum Kept {
    Tcp(Connection),
    Http1(Box<ClientConnection>),
    Http2(Http2),
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    Version1,
    Version2,
}

/// Which HTTP a request is sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    Fixed(Http),
    /// What the TLS handshake agrees on (ALPN), or else this.
    Agreed {
        or: Http,
    },
}

impl Codec {
    /// On a connection whose handshake agreed on this.
    fn on(self, agreed: Option<&TlsInfo>) -> Http {
        match (self, agreed.and_then(|tls| tls.alpn.as_deref())) {
            (Self::Agreed { .. }, Some(b"h2")) => Http::Version2,
            (Self::Agreed { .. }, Some(b"http/1.1")) => Http::Version1,
            (Self::Fixed(http) | Self::Agreed { or: http }, _) => http,
        }
    }
}

/// A connection for one request.
enum Carrier {
    Http1(Box<ClientConnection>),
    Http2(Http2),
}

/// A request and how much of its answer is wanted.
pub(super) struct Request {
    pub(super) head: RequestHead,
    pub(super) body: Bytes,
    /// How many bytes of the answer's body are kept; the rest is dropped.
    pub(super) keep: usize,
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) head: ResponseHead,
    /// Its beginning.
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
    /// It is nothing but a head.
    pub(super) is_bare: bool,
    /// Part of its body was dropped.
    pub(super) is_cut: bool,
}

impl<'c> Probe<'c> {
    pub(super) fn new(cluster: &'c Cluster, checker: &'c Checker, host: &'c Arc<Host>) -> Self {
        Self { cluster, checker, host, kept: None }
    }

    /// Where the host is checked.
    fn apart(&self) -> Apart<'c> {
        Apart {
            cluster: self.cluster,
            host: self.host,
            address: self.host.check_address(),
            criteria: self.checker.criteria.as_ref(),
            alpn: &self.checker.alpn,
        }
    }

    /// The scheme of requests.
    pub(super) fn scheme(&self) -> Scheme {
        self.apart().scheme()
    }

    /// Keeps a connection for the next check, if that is wanted.
    pub(super) fn keep(&mut self, connection: Kept) {
        self.kept = Some(connection).filter(|_| self.checker.settings.reuse_connection);
    }

    /// A new connection to where the host is checked.
    pub(super) async fn connect(&self) -> Result<Connection, Broken> {
        self.apart().connect().await
    }

    /// Ready when the host ended the connection that is kept, where that says something of the host.
    pub(super) async fn abandoned(&mut self) {
        poll_fn(|cx| match &self.kept {
            Some(Kept::Tcp(connection)) => connection.poll_readable(cx).map(|_| ()),
            Some(Kept::Http1(_) | Kept::Http2(_)) | None => Poll::Pending,
        })
        .await;
        self.kept = None;
    }

    /// Sends `request` and reads the whole answer.
    pub(super) async fn exchange(&mut self, request: Request, codec: Codec) -> Result<Answer, Broken> {
        match self.carrier(codec).await? {
            Carrier::Http1(mut connection) => {
                let answer = Exchange::new(Stream::Http1(&mut connection), request).run().await?;
                if connection.is_reusable() {
                    self.keep(Kept::Http1(connection));
                }
                Ok(answer)
            }
            Carrier::Http2(connection) => {
                let stream = ClientStream::new(
                    connection.send.clone(),
                    self.cluster.http.max_headers_count as usize,
                    None,
                );
                // It outlives a stream that is reset, and is not to end before the answer is there.
                self.kept = Some(Kept::Http2(connection));
                let answer = Exchange::new(Stream::Http2(Box::new(stream)), request).run().await;
                self.kept = self.kept.take().filter(|_| self.checker.settings.reuse_connection);
                answer
            }
        }
    }

    /// The connection that is kept, or a new one.
    async fn carrier(&mut self, codec: Codec) -> Result<Carrier, Broken> {
        match self.kept.take() {
            Some(Kept::Http1(connection)) if connection.is_alive() => return Ok(Carrier::Http1(connection)),
            Some(Kept::Http2(mut kept)) => {
                let mut nobody = Context::from_waker(std::task::Waker::noop());
                if matches!(kept.send.poll_ready(&mut nobody), Poll::Ready(Ok(()))) {
                    return Ok(Carrier::Http2(kept));
                }
            }
            Some(Kept::Tcp(_) | Kept::Http1(_)) | None => {}
        }
        // Their statistics are there from the first connection on, as in Envoy.
        match codec {
            Codec::Fixed(Http::Version1) => {
                self.cluster.stats.http1();
            }
            Codec::Fixed(Http::Version2) => {
                self.cluster.stats.http2();
            }
            Codec::Agreed { .. } => {}
        }
        let apart = self.apart();
        let (connection, session) = apart.connect_and_tell().await?;
        match codec.on(session.as_deref()) {
            Http::Version1 => {
                self.cluster.stats.http1();
                let connection = ClientConnection::new(connection, http1_options(self.cluster));
                Ok(Carrier::Http1(Box::new(connection)))
            }
            Http::Version2 => apart.http2_over(connection).await.map(Carrier::Http2),
        }
    }
}

enum Stream<'s> {
    Http1(&'s mut ClientConnection),
    Http2(Box<ClientStream>),
}

impl Stream<'_> {
    fn request(&mut self, head: &RequestHead, body: Bytes) -> Result<(), UpstreamReset> {
        let is_bare = body.is_empty();
        match self {
            Self::Http1(connection) => connection.request(head, is_bare)?,
            Self::Http2(stream) => stream.request(head, is_bare)?,
        }
        match self {
            Self::Http1(connection) if !is_bare => {
                connection.data(body);
                connection.finish(None);
            }
            Self::Http2(stream) if !is_bare => {
                stream.data(body);
                stream.finish(None);
            }
            Self::Http1(_) | Self::Http2(_) => {}
        }
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        match self {
            Self::Http1(connection) => connection.poll_flush(cx),
            Self::Http2(stream) => stream.poll_flush(cx),
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpstreamEvent, UpstreamReset>> {
        match self {
            Self::Http1(connection) => connection.poll_event(cx),
            Self::Http2(stream) => stream.poll_event(cx),
        }
    }
}

/// A request that is sent while its answer is read.
struct Exchange<'s> {
    stream: Stream<'s>,
    request: Request,
    answer: Option<Answer>,
}

impl<'s> Exchange<'s> {
    fn new(stream: Stream<'s>, request: Request) -> Self {
        Self { stream, request, answer: None }
    }

    async fn run(mut self) -> Result<Answer, Broken> {
        let body = std::mem::take(&mut self.request.body);
        self.stream.request(&self.request.head, body)?;
        poll_fn(|cx| self.poll(cx)).await?;
        self.answer.ok_or(Broken)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), UpstreamReset>> {
        if let Poll::Ready(Err(reset)) = self.stream.poll_flush(cx) {
            return Poll::Ready(Err(reset));
        }
        loop {
            match ready!(self.stream.poll_event(cx))? {
                UpstreamEvent::Informational(_) => {}
                UpstreamEvent::Head { head, end, is_upgrade: _ } => {
                    self.answer =
                        Some(Answer { head, body: Vec::new(), trailers: None, is_bare: end, is_cut: false });
                    if end {
                        return Poll::Ready(Ok(()));
                    }
                }
                UpstreamEvent::Body(BodyEvent::Data(data)) => self.take(&data),
                UpstreamEvent::Body(BodyEvent::Trailers(trailers)) => {
                    if let Some(answer) = &mut self.answer {
                        answer.trailers = Some(trailers);
                    }
                    return Poll::Ready(Ok(()));
                }
                UpstreamEvent::Body(BodyEvent::End) => return Poll::Ready(Ok(())),
                UpstreamEvent::Last(data) => {
                    self.take(&data);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    fn take(&mut self, data: &Bytes) {
        let Some(answer) = &mut self.answer else { return };
        let room = self.request.keep.saturating_sub(answer.body.len());
        answer.is_cut |= data.len() > room;
        answer.body.extend_from_slice(data.get(..room).unwrap_or(data));
    }
}
