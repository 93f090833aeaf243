//! Streams over gRPC: an HTTP/2 connection on whatever the caller dials.
//!
//! The caller's [`Dial`] opens the transport to a cluster (endpoints, TLS, timeouts and socket options are the cluster's);
//! here is only HTTP/2, gRPC framing and the mapping to [`Protocol`](crate::Protocol) messages.

use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_core::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic::metadata::MetadataMap;
use tonic_prost::{ProstCodec, ProstEncoder};
use xds_api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

use super::service::Service;
use super::{Client, Driver, Events, Incoming, Link, REQUEST_QUEUE, Transport};
use crate::protocol::{Observer, Request, Response, Settings, Variant};

/// A byte stream to a server.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + ?Sized> Io for T {}

/// Opens transports to clusters.
pub trait Dial: Send + Sync {
    /// A transport, TLS included, over which HTTP of that version can start. `cluster` is the name from the configuration. The
    /// implementation bounds the time this takes.
    fn dial(&self, cluster: &str, version: Version) -> BoxFuture<'static, io::Result<Box<dyn Io>>>;

    /// The pings that the cluster wants on its connections, if any.
    fn keepalive(&self, _cluster: &str) -> Option<Keepalive> {
        None
    }
}

/// `connection_keepalive`: pings that tell a dead server from a silent one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Between pings.
    pub interval: Duration,
    /// Until a ping has to be answered.
    pub timeout: Duration,
}

/// A `GrpcService` with an `envoy_grpc` target.
#[derive(Clone, Debug)]
pub struct GrpcConfig {
    /// The cluster to dial; also the authority unless one is given.
    pub cluster: String,
    /// `:authority`.
    pub authority: Option<String>,
    /// `initial_metadata`: header names and values; of a name that comes twice the last one, and none without a value.
    pub initial_metadata: Vec<(String, Vec<u8>)>,
    /// The longest message in bytes; a longer one ends the stream.
    pub max_receive_message_bytes: usize,
}

impl GrpcConfig {
    /// The services of a cluster, messages up to 128 MiB.
    pub fn new(cluster: &str) -> Self {
        Self {
            cluster: cluster.to_owned(),
            authority: None,
            initial_metadata: Vec::new(),
            max_receive_message_bytes: 128 * 1024 * 1024,
        }
    }
}

/// What makes a [`GrpcConfig`] unusable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum GrpcConfigError {
    /// The service has no such method.
    #[error("resources of type {0} cannot be streamed this way")]
    NoMethod(String),
    /// A metadata name or value is not allowed in HTTP.
    #[error("invalid initial metadata {0:?}")]
    Metadata(String),
    /// The given authority is not one.
    #[error("invalid authority {0:?}")]
    Authority(String),
}

/// A stream of the aggregated or a single service over gRPC, which starts when the [`Driver`] runs.
///
/// # Errors
/// The configuration cannot work.
pub fn client(
    settings: Settings,
    config: GrpcConfig,
    service: &Service,
    dial: Arc<dyn Dial>,
    observer: Arc<dyn Observer>,
) -> Result<(Client, Events, Driver), GrpcConfigError> {
    let no_method = || match service {
        Service::Aggregated => GrpcConfigError::NoMethod("any".to_owned()),
        Service::Single(type_url) => GrpcConfigError::NoMethod(type_url.to_string()),
    };
    let path = service.path(settings.variant).ok_or_else(no_method)?;
    let path = PathAndQuery::try_from(path).map_err(|_| no_method())?;
    let transport = Grpc { variant: settings.variant, caller: Caller::new(config, path, dial)? };
    Ok(Driver::new(settings, Box::new(transport), observer))
}

/// The URI whose authority is sent.
fn origin(config: &GrpcConfig) -> Result<Uri, GrpcConfigError> {
    let given = config.authority.as_deref().unwrap_or_default();
    xds_api::authority(&config.cluster, given)
        .and_then(|sent| Uri::builder().scheme("http").authority(sent).path_and_query("/").build().ok())
        .ok_or_else(|| GrpcConfigError::Authority(given.to_owned()))
}

/// Opens gRPC streams.
struct Grpc {
    variant: Variant,
    caller: Caller,
}

impl Transport for Grpc {
    fn open(&mut self) -> BoxFuture<'static, Result<Link, String>> {
        let (variant, connecting) = (self.variant, self.caller.connect());
        Box::pin(async move {
            let connected = connecting.await?;
            Ok(match variant {
                Variant::StateOfTheWorld => connected.link::<DiscoveryRequest, DiscoveryResponse>(
                    |request| match request {
                        Request::StateOfTheWorld(request) => Some(*request),
                        Request::Delta(_) => None,
                    },
                    |response| Response::StateOfTheWorld(Box::new(response)),
                ),
                Variant::Delta => connected.link::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>(
                    |request| match request {
                        Request::Delta(request) => Some(*request),
                        Request::StateOfTheWorld(_) => None,
                    },
                    |response| Response::Delta(Box::new(response)),
                ),
            })
        })
    }
}

/// Calls a method whose messages flow both ways, each time over a connection of its own.
pub struct Caller {
    path: PathAndQuery,
    origin: Uri,
    metadata: MetadataMap,
    cluster: String,
    max_message: usize,
    dial: Arc<dyn Dial>,
}

impl Caller {
    /// For the method of `path`.
    ///
    /// # Errors
    /// The configuration cannot work.
    pub fn new(config: GrpcConfig, path: PathAndQuery, dial: Arc<dyn Dial>) -> Result<Self, GrpcConfigError> {
        let mut metadata = HeaderMap::new();
        for (name, value) in config.initial_metadata.iter().filter(|(_, value)| !value.is_empty()) {
            let invalid = || GrpcConfigError::Metadata(name.clone());
            let header = HeaderName::try_from(name.as_str()).map_err(|_| invalid())?;
            metadata.insert(header, HeaderValue::from_bytes(value).map_err(|_| invalid())?);
        }
        Ok(Self {
            path,
            origin: origin(&config)?,
            metadata: MetadataMap::from_headers(metadata),
            cluster: config.cluster,
            max_message: config.max_receive_message_bytes,
            dial,
        })
    }

    /// Begins a call. What it hears is not read here.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn call<Q>(&self) -> Result<Calling<Q>, String>
    where
        Q: prost::Message + 'static,
    {
        let connected = self.connect().await?;
        let (requests, heard) = connected.stream(RawCodec(PhantomData), Some::<Q>);
        Ok(Calling { requests, heard: Box::pin(heard) })
    }

    fn connect(&self) -> impl Future<Output = Result<Connected, String>> + use<> {
        let dial = self.dial.dial(&self.cluster, Version::HTTP_2);
        let (keepalive, cluster) = (self.dial.keepalive(&self.cluster), self.cluster.clone());
        let (path, origin, metadata) = (self.path.clone(), self.origin.clone(), self.metadata.clone());
        let max_message = self.max_message;
        async move {
            let io = dial.await.map_err(|error| format!("cannot connect to {cluster}: {error}"))?;
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).adaptive_window(true);
            if let Some(keepalive) = keepalive {
                builder.keep_alive_interval(keepalive.interval).keep_alive_timeout(keepalive.timeout);
            }
            let handshake = builder.handshake::<_, Body>(TokioIo::new(io)).await;
            let (sender, connection) = handshake.map_err(|error| format!("HTTP/2 to {cluster}: {error}"))?;
            let connection = Connection(
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "xDS connection ended");
                    }
                })
                .abort_handle(),
            );
            Ok(Connected { path, origin, metadata, max_message, sender, connection })
        }
    }
}

/// A call that is under way. It ends when this is dropped.
pub struct Calling<Q> {
    requests: mpsc::Sender<Q>,
    heard: BoxStream<'static, Result<Bytes, Status>>,
}

impl<Q> Calling<Q> {
    /// Sends a message, unless too many wait for the connection already; whether it was taken.
    pub fn say(&self, message: Q) -> bool {
        self.requests.try_send(message).is_ok()
    }

    /// The next message, or why there is none. Cancel-safe.
    ///
    /// # Errors
    /// The call is over.
    pub async fn hear(&mut self) -> Result<Bytes, String> {
        match self.heard.next().await {
            Some(Ok(message)) => Ok(message),
            Some(Err(status)) => Err(said(&status)),
            None => Err("it was ended".to_owned()),
        }
    }
}

fn said(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// Ends the connection's task with the stream.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A connection, and what is called on it.
struct Connected {
    path: PathAndQuery,
    origin: Uri,
    metadata: MetadataMap,
    max_message: usize,
    sender: http2::SendRequest<Body>,
    connection: Connection,
}

impl Connected {
    /// Begins the call of a discovery service.
    fn link<Q, R>(self, encode: fn(Request) -> Option<Q>, decode: fn(R) -> Response) -> Link
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let (requests, heard) = self.stream(ProstCodec::<Q, R>::default(), encode);
        let incoming = heard.map(move |item| match item {
            Ok(response) => Incoming::Response(decode(response)),
            Err(status) => Incoming::Closed(said(&status)),
        });
        Link { requests, incoming: Box::pin(incoming) }
    }

    /// Begins the call. The server may hold back its headers until it has something to say, so requests flow at once.
    fn stream<T, C>(
        self,
        codec: C,
        encode: fn(T) -> Option<C::Encode>,
    ) -> (mpsc::Sender<T>, impl Stream<Item = Result<C::Decode, Status>> + Send + use<T, C>)
    where
        T: Send + 'static,
        C: Codec + Send + 'static,
        C::Encode: Send + Sync + 'static,
        C::Decode: Send + Sync + 'static,
    {
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(receiver)
            .filter_map(move |request| std::future::ready(encode(request)));
        let Self { path, origin, metadata, max_message, sender, connection } = self;
        let call = async move {
            let mut client = tonic::client::Grpc::with_origin(Http2(sender), origin)
                .max_decoding_message_size(max_message);
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let request = tonic::Request::from_parts(metadata, tonic::Extensions::default(), outgoing);
            Ok::<_, Status>(client.streaming(request, path, codec).await?.into_inner())
        };
        let heard = futures_util::stream::once(call).try_flatten().inspect(move |_| {
            let _kept_while_the_stream_lives = &connection;
        });
        (requests, heard)
    }
}

/// Messages are written, and read as they come: who hears them reads them.
struct RawCodec<Q>(PhantomData<fn(Q)>);

impl<Q: prost::Message + 'static> Codec for RawCodec<Q> {
    type Encode = Q;
    type Decode = Bytes;
    type Encoder = ProstEncoder<Q>;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        RawDecoder
    }
}

struct RawDecoder;

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(source.copy_to_bytes(source.remaining())))
    }
}

/// A connection as the service that tonic calls.
struct Http2(http2::SendRequest<Body>);

impl tower::Service<http::Request<Body>> for Http2 {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_told() {
        struct Nowhere;
        impl Dial for Nowhere {
            fn dial(&self, _: &str, _: Version) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
                Box::pin(std::future::ready(Err(io::ErrorKind::NotFound.into())))
            }
        }
        let settings = || Settings::new(Variant::StateOfTheWorld, Default::default());
        let build =
            |config, service| client(settings(), config, &service, Arc::new(Nowhere), Arc::new(())).err();
        let virtual_hosts = Service::Single(crate::TypeUrl::VIRTUAL_HOST);
        assert!(matches!(build(GrpcConfig::new("c"), virtual_hosts), Some(GrpcConfigError::NoMethod(_))));
        let metadata =
            GrpcConfig { initial_metadata: vec![("a b".into(), "x".into())], ..GrpcConfig::new("c") };
        assert_eq!(build(metadata, Service::Aggregated), Some(GrpcConfigError::Metadata("a b".into())));
    }
}
