//! Configuration by polling: `POST /v3/discovery:<type>` with a `DiscoveryRequest` in JSON.
//!
//! As Envoy does: at once when something is subscribed, then after the refresh delay plus an even jitter of up to the same
//! again. The request carries the whole node and the last good version; 200 brings a response, 304 nothing, and anything else
//! is a failure that changes nothing. A rejection is not told to the server: it sees the old version again.
//!
//! References: Envoy "xDS REST and gRPC protocol", "REST-JSON polling subscriptions"; `envoy.config.core.v3.ApiConfigSource`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_core::future::BoxFuture;
use http::{StatusCode, Version, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use xds_api::envoy::config::core::v3::Node;
use xds_api::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

use super::grpc::Dial;
use super::{Client, Driver, Events, Incoming, Link, REQUEST_QUEUE, Transport};
use crate::protocol::{Observer, Request, Response, Settings, Variant};
use crate::resource::TypeUrl;

/// However short the refresh delay is.
const MIN_DELAY: Duration = Duration::from_millis(1);

/// The JSON form of the two messages, by protobuf's rules. The crate knows no JSON itself.
pub trait Json: Send + Sync {
    /// A request as JSON.
    ///
    /// # Errors
    /// What cannot be written, for the log.
    fn encode(&self, request: &DiscoveryRequest) -> Result<Vec<u8>, String>;

    /// A response from JSON.
    ///
    /// # Errors
    /// What is wrong, for the log.
    fn decode(&self, bytes: &[u8]) -> Result<DiscoveryResponse, String>;
}

/// An `ApiConfigSource` of type `REST`.
#[derive(Clone, Debug)]
pub struct RestConfig {
    /// The cluster to dial, and the host that is named.
    pub cluster: String,
    /// The type to ask for.
    pub type_url: TypeUrl,
    /// `refresh_delay`: at least this long between two polls, at most twice as long.
    pub refresh_delay: Duration,
    /// `request_timeout`. Envoy's default: 1 s.
    pub request_timeout: Duration,
    /// The longest body in bytes.
    pub max_bytes: usize,
}

impl RestConfig {
    /// Envoy's timeout and bodies up to 128 MiB.
    pub fn new(cluster: &str, type_url: &TypeUrl, refresh_delay: Duration) -> Self {
        Self {
            cluster: cluster.to_owned(),
            type_url: type_url.clone(),
            refresh_delay,
            request_timeout: Duration::from_secs(1),
            max_bytes: 128 * 1024 * 1024,
        }
    }
}

/// The path for a type; `None` if it cannot be polled.
pub fn path(type_url: &TypeUrl) -> Option<&'static str> {
    let paths = [
        (TypeUrl::LISTENER, "/v3/discovery:listeners"),
        (TypeUrl::ROUTE_CONFIGURATION, "/v3/discovery:routes"),
        (TypeUrl::SCOPED_ROUTE_CONFIGURATION, "/v3/discovery:scoped-routes"),
        (TypeUrl::CLUSTER, "/v3/discovery:clusters"),
        (TypeUrl::CLUSTER_LOAD_ASSIGNMENT, "/v3/discovery:endpoints"),
        (TypeUrl::SECRET, "/v3/discovery:secrets"),
        (TypeUrl::RUNTIME, "/v3/discovery:runtime"),
        (TypeUrl::TYPED_EXTENSION_CONFIG, "/v3/discovery:extension_configs"),
    ];
    paths.into_iter().find(|(known, _)| known == type_url).map(|(_, path)| path)
}

/// Polls a server, as a stream that is always open. `None` if the type cannot be polled.
pub fn client(
    node: Node,
    config: RestConfig,
    dial: Arc<dyn Dial>,
    json: Arc<dyn Json>,
    observer: Arc<dyn Observer>,
) -> Option<(Client, Events, Driver)> {
    let path = path(&config.type_url)?;
    let settings = Settings::new(Variant::StateOfTheWorld, node);
    Some(Driver::new(settings, Box::new(Rest { config: Arc::new(config), path, dial, json }), observer))
}

#[derive(Clone)]
struct Rest {
    config: Arc<RestConfig>,
    path: &'static str,
    dial: Arc<dyn Dial>,
    json: Arc<dyn Json>,
}

impl Transport for Rest {
    fn open(&mut self) -> BoxFuture<'static, Result<Link, String>> {
        let (requests, receiver) = mpsc::channel(REQUEST_QUEUE);
        let poller = Poller { rest: self.clone(), requests: receiver, request: None, due: Instant::now() };
        let incoming = futures_util::stream::unfold(poller, Poller::next);
        Box::pin(std::future::ready(Ok(Link { requests, incoming: Box::pin(incoming) })))
    }
}

struct Poller {
    rest: Rest,
    requests: mpsc::Receiver<Request>,
    /// What to ask: the protocol's latest request, be it an interest or an acknowledgement.
    request: Option<DiscoveryRequest>,
    due: Instant,
}

impl Poller {
    async fn next(mut self) -> Option<(Incoming, Self)> {
        loop {
            tokio::select! {
                biased;
                request = self.requests.recv() => {
                    self.asked(request?);
                    continue;
                }
                () = sleep_until(self.due), if self.request.is_some() => {}
            }
            let outcome = match timeout(self.rest.config.request_timeout, self.poll()).await {
                Ok(outcome) => outcome,
                Err(_) => Err("timed out".to_owned()),
            };
            let delay = self.rest.config.refresh_delay.max(MIN_DELAY);
            self.due = Instant::now() + delay + delay.mul_f64(fastrand::f64());
            match outcome {
                Ok(None) => {}
                Ok(Some(response)) => {
                    return Some((Incoming::Response(Response::StateOfTheWorld(Box::new(response))), self));
                }
                Err(reason) => {
                    tracing::debug!(reason, path = self.rest.path, "xDS poll failed");
                    let type_url = self.rest.config.type_url.clone();
                    return Some((Incoming::Failed { type_url }, self));
                }
            }
        }
    }

    fn asked(&mut self, request: Request) {
        match request {
            Request::StateOfTheWorld(request) => {
                let told = DiscoveryRequest { response_nonce: String::new(), error_detail: None, ..*request };
                self.request = Some(told);
            }
            Request::Delta(_) => {}
        }
    }

    /// One exchange, on a connection of its own. `None` if nothing has changed.
    async fn poll(&self) -> Result<Option<DiscoveryResponse>, String> {
        let Rest { config, path, dial, json } = &self.rest;
        let Some(request) = &self.request else { return Ok(None) };
        let body = json.encode(request)?;
        let io = dial.dial(&config.cluster, Version::HTTP_11).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(io)).await.map_err(|error| error.to_string())?;
        let request = http::Request::post(*path)
            .header(header::HOST, &config.cluster)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            match response.status() {
                StatusCode::OK => {
                    let body = Limited::new(response.into_body(), config.max_bytes).collect().await;
                    Ok(Some(body.map_err(|error| error.to_string())?.to_bytes()))
                }
                StatusCode::NOT_MODIFIED => Ok(None),
                status => Err(format!("status {status}")),
            }
        };
        // The connection is driven here, not by a task of its own, so that nothing outlives a poll that is given up. When it
        // ends, what it brought may still have to be read.
        let (exchange, connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
        let bytes = match futures_util::future::select(exchange, connection).await {
            futures_util::future::Either::Left((bytes, _)) => bytes?,
            futures_util::future::Either::Right((_, exchange)) => exchange.await?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let mut response = json.decode(&bytes)?;
        config.type_url.as_str().clone_into(&mut response.type_url);
        Ok(Some(response))
    }
}

#[cfg(test)]
mod tests;
