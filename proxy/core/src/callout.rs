//! Calls: requests that the proxy itself makes to a cluster while it works on something else (Envoy's `AsyncClient`).
//!
//! Who calls says what goes out and what may come back; the engine sends it on the worker's own pools, under the cluster's breakers and
//! statistics. A call is a future: it ends with the answer, a failure, or its deadline, and dropping it takes it back. Nothing
//! here costs anything before a call is made.
//! Source: Envoy `envoy/http/async_client.h`; ADR 10.

pub mod grpc;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;

use crate::extension::http_filter::LocalBoxFuture;
use crate::head::{RequestHead, ResponseHead};
use crate::names::Name;
use crate::retry::RetryPolicy;
use crate::stream_error::UpstreamReset;
use crate::stream_info::WireBytes;
use crate::upstream::Host;

/// Most bytes of a response body that are taken, unless the call says otherwise (Envoy `http.async_response_buffer_limit`).
pub const MAX_RESPONSE_BYTES: usize = 32 * 1024 * 1024;

/// A request to a cluster.
#[derive(Clone, Debug)]
pub struct Call {
    /// Whom it is for.
    pub cluster: Name,
    /// The head; `x-envoy-internal`, `x-forwarded-for` and the timeout are added to it, as `envoy_headers` says.
    pub request: RequestHead,
    /// The whole body.
    pub body: Bytes,
    /// How long all of it may take, every retry included; for ever without.
    pub timeout: Option<Duration>,
    /// Most bytes that the body of the response may have.
    pub max_response_bytes: usize,
    /// Whether the head says that the proxy itself asks.
    pub envoy_headers: EnvoyHeaders,
    /// For what it is made again.
    pub retry: Option<Arc<RetryPolicy>>,
    /// The answer is to be messages of gRPC: what is none of them ends it.
    pub is_framed: bool,
}

/// What a call says of who makes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EnvoyHeaders {
    /// `x-envoy-internal`.
    #[default]
    Internal,
    /// `x-envoy-internal`, and this host's address in `x-forwarded-for`.
    InternalAndForwarded,
    /// Nothing (`skip_envoy_headers`).
    Skipped,
}

impl Call {
    /// A call without a deadline.
    pub fn new(cluster: Name, request: RequestHead, body: Bytes) -> Self {
        Self {
            cluster,
            request,
            body,
            timeout: None,
            max_response_bytes: MAX_RESPONSE_BYTES,
            envoy_headers: EnvoyHeaders::default(),
            retry: None,
            is_framed: false,
        }
    }
}

/// What a host answered.
#[derive(Debug)]
pub struct Answer {
    /// The head.
    pub head: ResponseHead,
    /// The body.
    pub body: Bytes,
    /// The trailers.
    pub trailers: Option<HeaderMap>,
    /// What the wire carried.
    pub wire: WireBytes,
    /// Who answered.
    pub host: Arc<Host>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFailure {
    /// There is no such cluster.
    NoCluster,
    /// It has no host that may be asked.
    NoHost,
    /// The stream ended before its time.
    Reset(UpstreamReset),
    /// The time was up.
    Timeout,
    /// The answer is larger than it may be.
    TooLarge,
}

impl CallFailure {
    /// The status that the router would answer in place of the host.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoCluster | Self::NoHost => StatusCode::SERVICE_UNAVAILABLE,
            Self::Reset(reset) => reset.status(),
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::TooLarge => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The messages of a call of gRPC that go both ways for as long as it lasts.
#[derive(Debug)]
pub struct Talk {
    /// What is told, framed ([`grpc::frame`]); the end of it ends the request.
    pub outgoing: mpsc::Receiver<Bytes>,
    /// Where what is heard goes, a message at a time; nobody there any more ends the call. Nothing is read while it is full: who awaits the call
    /// takes from it in the same task, and polls the call again then.
    pub incoming: mpsc::Sender<Bytes>,
}

/// What becomes of a call.
pub type Called = Result<Answer, CallFailure>;

/// Makes calls. Of a worker: neither it nor its calls leave the thread.
pub trait Caller {
    /// Begins `call` when first polled.
    fn call(&self, call: Call) -> LocalBoxFuture<'static, Called>;
    /// Begins `call`, whose body is `talk`, when first polled; ready when the host ends it, or it fails. Dropping it resets it. It has no deadline
    /// and is not made again.
    fn converse(&self, call: Call, talk: Talk) -> LocalBoxFuture<'static, Result<(), CallFailure>>;
    /// Makes `call` for nobody: it goes on when who asked for it is gone, and what comes of it is not told.
    fn send(&self, call: Call);
}
