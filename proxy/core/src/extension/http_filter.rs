//! HTTP filters: policies that see the heads, bodies and trailers of a stream.
//!
//! A filter is created for each stream. Its hooks return a *step*: go on, hold, wait for a future, or reply. The driver
//! resolves a step before it acts, so a hook can neither re-enter the chain nor reply and go on.
//! Source: Envoy `envoy/http/filter.h`, `docs/root/configuration/http/http_filters`.

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use prost::Message;

use super::{Descriptor, decode};
use crate::callout::Caller;
use crate::config::{BuildCx, Rejected};
use crate::head::{HeadLimits, Protocol, RequestHead, ResponseHead};
use crate::local_reply::LocalReply;
use crate::rate_limit::RateLimits;
use crate::runtime::Runtime;
use crate::stream_info::StreamInfo;

/// A future that stays on its worker.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A way through the chain: requests from the first filter to the last, responses from the last to the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the upstream.
    Request,
    /// From the upstream, or a local reply, to the client.
    Response,
}

/// What a hook on a head or on trailers wants next.
pub enum HeadersStep<'a> {
    /// Go on to the next filter, with whatever this filter held before.
    Continue,
    /// Keep the head (or the trailers) here. What follows is still read and shown to the filters up to this one, until one of
    /// its hooks on data or trailers says `Continue`, or [`HttpFilter::poll_resume`] is ready.
    Hold,
    /// Stop reading until the future says how to go on. The client going away or a timeout ends the wait by dropping it.
    Wait(LocalBoxFuture<'a, Verdict>),
    /// End the request here with this response.
    Reply(Box<LocalReply>),
}

/// What a hook on body data wants next.
pub enum DataStep<'a> {
    /// Pass the data, and before it what this filter held (the head too), to the next filter.
    Continue,
    /// Add the data to what this filter holds; over the stream's buffer limit the stream fails with 413 or 500.
    Hold,
    /// The filter took the data. Nothing goes on, except at the end of the message: that passes.
    Drop,
    /// As `Continue` with what the hook left in `data`; this rest of it, and the end of the message if it came along, is shown to the
    /// filter again when [`HttpFilter::poll_rest`] is ready. What comes meanwhile waits behind it, up to the stream's buffer limit; then
    /// no more of the message is read.
    Part(Bytes),
    /// Stop reading until the future says how to go on. The client going away or a timeout ends the wait by dropping it.
    Wait(LocalBoxFuture<'a, Verdict>),
    /// End the request here with this response.
    Reply(Box<LocalReply>),
}

/// How a wait ended.
pub enum Verdict {
    /// Go on to the next filter.
    Continue,
    /// End the request here with this response.
    Reply(Box<LocalReply>),
}

/// Which hooks of a filter do anything; the others are never called.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phases {
    /// `on_request_data`, `on_request_trailers`
    pub request_body: bool,
    /// `on_response_headers`
    pub response_headers: bool,
    /// `on_response_data`, `on_response_trailers`
    pub response_body: bool,
}

impl Phases {
    /// Those of both.
    pub fn add(&mut self, other: Self) {
        self.request_body |= other.request_body;
        self.response_headers |= other.response_headers;
        self.response_body |= other.response_body;
    }
}

/// What a filter may ask of the engine.
pub trait Engine: Caller {
    /// Runtime values.
    fn runtime(&self) -> &Runtime;
    /// A random number, not for secrets.
    fn random(&self) -> u64;
    /// Whether `/healthcheck/fail` is in force.
    fn health_check_failed(&self) -> bool;
    /// Share of healthy hosts (healthy, total) of a cluster; `None` if there is no such cluster.
    fn cluster_health(&self, cluster: &str) -> Option<(usize, usize)>;
    /// The HTTP that hosts of a cluster get a request in that came in `downstream`, if it is HTTP/2 or else 1.1 by ALPN the former;
    /// `None` if there is no such cluster.
    fn upstream_protocol(&self, cluster: &str, downstream: Protocol) -> Option<Protocol>;
    /// How large hosts of a cluster may make the head of a response over `protocol`; `None` if there is no such cluster.
    fn response_limits(&self, cluster: &str, protocol: Protocol) -> Option<HeadLimits>;
    /// The port of hosts that name none, of a cluster that goes where requests want to (a dynamic forward proxy); `None` if it is no such
    /// cluster.
    fn dynamic_port(&self, cluster: &str) -> Option<u16>;
    /// Counts a response that a filter makes as one of the cluster's, of internal origin.
    fn count_response(&self, cluster: &str, status: StatusCode);
}

/// What a route and its virtual host say about rates.
#[derive(Clone, Copy, Debug)]
pub struct RouteRateLimits<'r> {
    /// Of the route.
    pub own: &'r RateLimits,
    /// Of the virtual host.
    pub host: &'r RateLimits,
    /// Whether the route wants those of the virtual host too, whatever a filter says.
    pub includes_host: bool,
}

/// When the rate limits of a virtual host hold beside those of a route, as filters say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostRateLimits {
    /// Where the route has none.
    WhereRouteHasNone,
    /// Beside those of the route.
    Too,
    /// Never.
    Never,
}

impl<'r> RouteRateLimits<'r> {
    /// Those of the virtual host, if they hold.
    pub fn host_if(&self, said: HostRateLimits) -> Option<&'r RateLimits> {
        let holds = match said {
            _ if self.includes_host => true,
            HostRateLimits::WhereRouteHasNone => self.own.is_empty(),
            HostRateLimits::Too => true,
            HostRateLimits::Never => false,
        };
        holds.then_some(self.host)
    }
}

/// The route a stream matched, as filters may see it.
pub trait Route {
    /// Name of the route.
    fn name(&self) -> &str;
    /// Name of the cluster, when the route names one.
    fn cluster(&self) -> Option<&str>;
    /// Metadata of the route.
    fn metadata(&self) -> &crate::metadata::Metadata;
    /// What the route and its virtual host say about rates, if it forwards.
    fn rate_limits(&self) -> Option<RouteRateLimits<'_>>;
    /// Whether paths are compared without their parameters (`ignore_path_parameters_in_path_matching`).
    fn ignores_path_parameters(&self) -> bool;
}

/// The stream as a filter sees it during one hook.
pub struct StreamCx<'s> {
    /// The request; changes are seen by later filters and the upstream.
    pub request: &'s mut RequestHead,
    /// The response, in the hooks of the response.
    pub response: Option<&'s mut ResponseHead>,
    /// What is known about the stream.
    pub info: &'s mut StreamInfo,
    /// The route that matched.
    pub route: Option<&'s dyn Route>,
    /// What the chain calls this filter.
    pub name: &'s str,
    /// This filter's `typed_per_filter_config` at every level that has one, the most specific level first.
    pub route_configs: &'s [Arc<dyn Any + Send + Sync>],
    /// Set to have the route matched anew before the next filter (`clearRouteCache`).
    pub clear_route: &'s mut bool,
    /// Most bytes of each message that the filters of the stream may hold; a filter that holds a head may change it then.
    pub hold_limit: &'s mut usize,
    /// Which hooks are called from here on: one that only some streams need is added when the request's head shows that.
    pub phases: &'s mut Phases,
    /// What goes on before the trailers, in hooks on trailers alone; a filter that holds back the end of a body puts it here.
    pub before_trailers: Option<&'s mut Bytes>,
    /// Trailers of a message that has none, in hooks on the data that ends it.
    pub new_trailers: Option<&'s mut HeaderMap>,
    /// How large clients may make the head of a request; for filters that add to it what others say.
    pub head_limits: HeadLimits,
    /// The engine.
    pub engine: &'s dyn Engine,
}

impl<'s> StreamCx<'s> {
    /// This filter's most specific per-route configuration, if any level has one.
    pub fn route_config<T: 'static>(&self) -> Option<&'s T> {
        self.route_configs.first()?.downcast_ref()
    }

    /// This filter's per-route configurations, from the route to the route configuration.
    pub fn route_configs<T: 'static>(&self) -> impl DoubleEndedIterator<Item = &'s T> + use<'s, T> {
        self.route_configs.iter().filter_map(|config| config.downcast_ref())
    }
}

/// One filter on one stream.
#[allow(unused_variables)]
pub trait HttpFilter {
    /// The request head arrived; `end` if nothing follows.
    fn on_request_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        HeadersStep::Continue
    }
    /// A piece of the request body; the filter may change it.
    fn on_request_data<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        DataStep::Continue
    }
    /// The request's trailers.
    fn on_request_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        HeadersStep::Continue
    }
    /// The response head, from upstream or local; `end` if nothing follows.
    fn on_response_headers<'a>(&'a mut self, cx: &'a mut StreamCx<'_>, end: bool) -> HeadersStep<'a> {
        HeadersStep::Continue
    }
    /// A piece of the response body; the filter may change it.
    fn on_response_data<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        data: &'a mut Bytes,
        end: bool,
    ) -> DataStep<'a> {
        DataStep::Continue
    }
    /// The response's trailers.
    fn on_response_trailers<'a>(
        &'a mut self,
        cx: &'a mut StreamCx<'_>,
        trailers: &'a mut HeaderMap,
    ) -> HeadersStep<'a> {
        HeadersStep::Continue
    }
    /// Polled while this filter holds something in `direction`: ready when it lets go of all that without more of the message.
    /// The waker of `task` is to be woken then, from whatever thread.
    fn poll_resume(&mut self, direction: Direction, task: &mut Context<'_>) -> Poll<Verdict> {
        Poll::Pending
    }
    /// Polled while a rest waits that this filter did not let pass ([`DataStep::Part`]): ready when it wants to see that again.
    fn poll_rest(&mut self, direction: Direction, task: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
    /// The stream is over, however it ended. Called once.
    fn on_complete(
        &mut self,
        request: &RequestHead,
        response: Option<&ResponseHead>,
        info: &mut StreamInfo,
        engine: &dyn Engine,
    ) {
    }
}

/// The configuration of a filter, built once and shared by all streams.
pub trait HttpFilterConfig: Send + Sync {
    /// The filter for a new stream.
    fn create(&self) -> Box<dyn HttpFilter>;
    /// Which hooks do anything.
    fn phases(&self) -> Phases;
}

/// A kind of HTTP filter, erased.
pub trait HttpFilterFactory: Sync {
    /// What it says about itself.
    fn descriptor(&self) -> Descriptor;
    /// Whether it may stand behind the router too, in the chain of a stream to a host.
    fn may_be_upstream(&self) -> bool;
    /// Full name of the message of `typed_per_filter_config`, if it has one.
    fn route_message(&self) -> Option<&'static str>;
    /// Builds the configuration from the payload of its `Any`.
    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Rejected>;
    /// Builds a per-route configuration from the payload of its `Any`.
    fn build_route(
        &self,
        payload: &[u8],
        cx: &mut BuildCx<'_>,
    ) -> Result<Arc<dyn Any + Send + Sync>, Rejected>;
}

/// A kind of HTTP filter, typed: what an extension's file implements.
pub trait HttpFilterExtension: Sync + 'static {
    /// What it says about itself.
    const DESCRIPTOR: Descriptor;
    /// Full name of the per-route message, if there is one.
    const ROUTE_MESSAGE: Option<&'static str> = None;
    /// Which hooks do anything.
    const PHASES: Phases;
    /// Whether it may stand behind the router too, in the chain of a stream to a host.
    const MAY_BE_UPSTREAM: bool = false;
    /// The configuration message.
    type Proto: Message + Default;
    /// The configuration built from it.
    type Config: Send + Sync + 'static;
    /// The per-route message; [`NoRouteConfig`] if there is none.
    type RouteProto: Message + Default;
    /// The per-route configuration built from it.
    type RouteConfig: Send + Sync + 'static;
    /// Builds the configuration.
    fn build(proto: Self::Proto, cx: &mut BuildCx<'_>) -> Result<Self::Config, Rejected>;
    /// Builds the per-route configuration.
    fn build_route(proto: Self::RouteProto, cx: &mut BuildCx<'_>) -> Result<Self::RouteConfig, Rejected>;
    /// The filter for a new stream.
    fn create(config: &Arc<Self::Config>) -> Box<dyn HttpFilter>;
}

/// The per-route message of filters that have none.
pub type NoRouteConfig = ();

/// Erases an extension: `&Of::<Cors>::new()` is a line of the table.
pub struct Of<T>(PhantomData<fn() -> T>);

impl<T> Of<T> {
    /// The erased extension.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

struct Built<T: HttpFilterExtension>(Arc<T::Config>);

impl<T: HttpFilterExtension> HttpFilterConfig for Built<T> {
    fn create(&self) -> Box<dyn HttpFilter> {
        T::create(&self.0)
    }
    fn phases(&self) -> Phases {
        T::PHASES
    }
}

impl<T: HttpFilterExtension> HttpFilterFactory for Of<T> {
    fn descriptor(&self) -> Descriptor {
        T::DESCRIPTOR
    }
    fn may_be_upstream(&self) -> bool {
        T::MAY_BE_UPSTREAM
    }
    fn route_message(&self) -> Option<&'static str> {
        T::ROUTE_MESSAGE
    }
    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Rejected> {
        let config = T::build(decode(payload, cx)?, cx)?;
        Ok(Arc::new(Built::<T>(Arc::new(config))))
    }
    fn build_route(
        &self,
        payload: &[u8],
        cx: &mut BuildCx<'_>,
    ) -> Result<Arc<dyn Any + Send + Sync>, Rejected> {
        Ok(Arc::new(T::build_route(decode(payload, cx)?, cx)?))
    }
}
