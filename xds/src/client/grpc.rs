//! Streams over gRPC: an HTTP/2 connection on whatever the caller dials.
//!
//! The caller's [`Dial`] opens the transport to a cluster (endpoints, TLS, timeouts and socket options are the cluster's);
//! here is only HTTP/2, gRPC framing and the mapping to [`Protocol`](crate::Protocol) messages.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::future::BoxFuture;
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
use tonic::metadata::MetadataMap;
use tonic_prost::ProstCodec;
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
    /// Which service.
    pub service: Service,
    /// `initial_metadata`: header names and values; of a name that comes twice the last one, and none without a value.
    pub initial_metadata: Vec<(String, Vec<u8>)>,
    /// The longest message in bytes; a longer one ends the stream.
    pub max_receive_message_bytes: usize,
}

impl GrpcConfig {
    /// The aggregated or a single service of a cluster, messages up to 128 MiB.
    pub fn new(cluster: &str, service: Service) -> Self {
        Self {
            cluster: cluster.to_owned(),
            authority: None,
            service,
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

/// A stream over gRPC, which starts when the [`Driver`] runs.
///
/// # Errors
/// The configuration cannot work.
pub fn client(
    settings: Settings,
    config: GrpcConfig,
    dial: Arc<dyn Dial>,
    observer: Arc<dyn Observer>,
) -> Result<(Client, Events, Driver), GrpcConfigError> {
    let no_method = || match &config.service {
        Service::Aggregated => GrpcConfigError::NoMethod("any".to_owned()),
        Service::Single(type_url) => GrpcConfigError::NoMethod(type_url.to_string()),
    };
    let path = config.service.path(settings.variant).ok_or_else(no_method)?;
    let mut metadata = HeaderMap::new();
    for (name, value) in config.initial_metadata.iter().filter(|(_, value)| !value.is_empty()) {
        let invalid = || GrpcConfigError::Metadata(name.clone());
        let header = HeaderName::try_from(name.as_str()).map_err(|_| invalid())?;
        metadata.insert(header, HeaderValue::from_bytes(value).map_err(|_| invalid())?);
    }
    let transport = Grpc {
        variant: settings.variant,
        path: PathAndQuery::try_from(path).map_err(|_| no_method())?,
        origin: origin(&config)?,
        metadata: MetadataMap::from_headers(metadata),
        cluster: config.cluster,
        max_message: config.max_receive_message_bytes,
        dial,
    };
    Ok(Driver::new(settings, Box::new(transport), observer))
}

/// The URI whose authority is sent. A cluster may be named freely, an authority not: what it cannot hold becomes `_`.
fn origin(config: &GrpcConfig) -> Result<Uri, GrpcConfigError> {
    let uri =
        |authority: &str| Uri::builder().scheme("http").authority(authority).path_and_query("/").build();
    if let Some(authority) = config.authority.as_deref().filter(|authority| !authority.is_empty()) {
        return uri(authority).map_err(|_| GrpcConfigError::Authority(authority.to_owned()));
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-._~".contains(c) { c } else { '_' };
    uri(&config.cluster)
        .or_else(|_| uri(&config.cluster.chars().map(plain).collect::<String>()))
        .map_err(|_| GrpcConfigError::Authority(config.cluster.clone()))
}

/// Opens gRPC streams.
struct Grpc {
    variant: Variant,
    path: PathAndQuery,
    origin: Uri,
    metadata: MetadataMap,
    cluster: String,
    max_message: usize,
    dial: Arc<dyn Dial>,
}

impl Transport for Grpc {
    fn open(&mut self) -> BoxFuture<'static, Result<Link, String>> {
        let dial = self.dial.dial(&self.cluster, Version::HTTP_2);
        let call = Call {
            path: self.path.clone(),
            origin: self.origin.clone(),
            metadata: self.metadata.clone(),
            max_message: self.max_message,
        };
        let (variant, keepalive, cluster) =
            (self.variant, self.dial.keepalive(&self.cluster), self.cluster.clone());
        Box::pin(async move {
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
            Ok(match variant {
                Variant::StateOfTheWorld => call.stream::<DiscoveryRequest, DiscoveryResponse>(
                    sender,
                    connection,
                    |request| match request {
                        Request::StateOfTheWorld(request) => Some(*request),
                        Request::Delta(_) => None,
                    },
                    |response| Response::StateOfTheWorld(Box::new(response)),
                ),
                Variant::Delta => call.stream::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>(
                    sender,
                    connection,
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

/// Ends the connection's task with the stream.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One call of the streaming method.
struct Call {
    path: PathAndQuery,
    origin: Uri,
    metadata: MetadataMap,
    max_message: usize,
}

impl Call {
    /// Begins the call. The server may hold back its headers until it has something to say, so requests flow at once.
    fn stream<Q, R>(
        self,
        sender: http2::SendRequest<Body>,
        connection: Connection,
        encode: fn(Request) -> Option<Q>,
        decode: fn(R) -> Response,
    ) -> Link
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(receiver)
            .filter_map(move |request| std::future::ready(encode(request)));
        let Self { path, origin, metadata, max_message } = self;
        let call = async move {
            let mut client = tonic::client::Grpc::with_origin(Http2(sender), origin)
                .max_decoding_message_size(max_message);
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let request = tonic::Request::from_parts(metadata, tonic::Extensions::default(), outgoing);
            let response = client.streaming(request, path, ProstCodec::<Q, R>::default()).await?;
            Ok::<_, Status>(response.into_inner().map_ok(decode))
        };
        let incoming = futures_util::stream::once(call).try_flatten().map(move |item| {
            let _kept_while_the_stream_lives = &connection;
            match item {
                Ok(response) => Incoming::Response(response),
                Err(status) => Incoming::Closed(format!("{:?}: {}", status.code(), status.message())),
            }
        });
        Link { requests, incoming: Box::pin(incoming) }
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
    fn authorities_are_made_of_cluster_names() {
        let of = |cluster: &str, authority: Option<&str>| {
            let config = GrpcConfig {
                authority: authority.map(str::to_owned),
                ..GrpcConfig::new(cluster, Service::Aggregated)
            };
            origin(&config).map(|uri| uri.authority().unwrap().to_string())
        };
        assert_eq!(of("xds_cluster", None).as_deref(), Ok("xds_cluster"));
        assert_eq!(
            of("xds", Some("istiod.istio-system.svc:15012")).as_deref(),
            Ok("istiod.istio-system.svc:15012")
        );
        assert_eq!(of("outbound|80||a b/ö", None).as_deref(), Ok("outbound_80__a_b__"));
        assert!(of("xds", Some("a b")).is_err());
    }

    #[test]
    fn what_cannot_work_is_told() {
        struct Nowhere;
        impl Dial for Nowhere {
            fn dial(&self, _: &str, _: Version) -> BoxFuture<'static, io::Result<Box<dyn Io>>> {
                Box::pin(std::future::ready(Err(io::ErrorKind::NotFound.into())))
            }
        }
        let settings = || Settings::new(Variant::StateOfTheWorld, Default::default());
        let build = |config| client(settings(), config, Arc::new(Nowhere), Arc::new(())).err();
        let virtual_hosts = Service::Single(crate::TypeUrl::VIRTUAL_HOST);
        assert!(matches!(build(GrpcConfig::new("c", virtual_hosts)), Some(GrpcConfigError::NoMethod(_))));
        let metadata = GrpcConfig {
            initial_metadata: vec![("a b".into(), "x".into())],
            ..GrpcConfig::new("c", Service::Aggregated)
        };
        assert_eq!(build(metadata), Some(GrpcConfigError::Metadata("a b".into())));
    }
}
