//! One request and its response, from the head to the access log.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use proxy_core::extension::access_log::{LogEntry, LogType};
use proxy_core::extension::http_filter::Direction;
use proxy_core::head::{Protocol, RequestHead, ResponseHead, Scheme};
use proxy_core::headers::X_ENVOY_LOCAL_OVERLOADED;
use proxy_core::http_chain::HttpFilter;
use proxy_core::local_reply::LocalReply;
use proxy_core::metadata::Metadata;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::{ListenerHttpStats, RouteStats, RouterStats};
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use proxy_core::text::Text;

use super::config::{ConnectionManager, RouteSource, RouterOptions, Upgrade};
use super::deadlines::Deadlines;
use super::filter_chain::{FilterChain, Parts, View};
use super::mirror::Mirrors;
use super::normalize::PathOutcome;
use super::retry::Tries;
use super::trace::Traced;
use super::upstream_filters::UpstreamFilters;
use super::upstream_log::LoggedStream;
use super::{Context, forwarded, normalize};
use crate::codec::downstream::{Downstream, Incoming, Lacks};
use crate::local::clock;
use crate::local::contain::{contain, drill_request};
use crate::local::drain::DrainHandle;
use crate::local::header_maps;
use crate::local::overload::{Overload, Point};
use crate::local::reduced::{Reducible, reduced};
use crate::local::timers::Timer;
use crate::router::cluster::ClusterChoice;
use crate::router::route::Action;
use crate::router::{RouteMatch, RouteTable, SelectedRoute};
use crate::upstream::pool::{RequestGuard, WorkerCluster};

/// What all streams of one downstream connection share.
pub struct ConnectionCx {
    /// The worker.
    pub shared: Rc<Context>,
    /// The connection manager.
    pub manager: Arc<ConnectionManager>,
    /// The connection.
    pub info: Rc<ConnectionInfo>,
    /// `listener.<address>.http.<stat_prefix>`
    pub listener_stats: Cells<ListenerHttpStats>,
    /// The router's part of `http.<stat_prefix>`.
    pub router_stats: Cells<RouterStats>,
    /// Drain state of the filter chain.
    pub drain: Rc<DrainHandle>,
    /// What is done against overload, if anything may be.
    pub overload: Option<Arc<Overload>>,
    /// The listener takes inbound traffic.
    pub is_inbound: bool,
    /// The listener drains when it is modified only.
    pub modify_only: bool,
    /// Most bytes that filters may hold back.
    pub buffer_limit: usize,
}

impl ConnectionCx {
    /// A random number, not for secrets.
    pub(crate) fn random(&self) -> u64 {
        self.shared.random.borrow_mut().u64(..)
    }

    /// When a connection ends that has no request since then.
    pub(crate) fn idle_end(&self, since: Instant) -> Option<Instant> {
        self.manager.idle_timeout.map(|idle| since + reduced(Reducible::ConnectionIdle, idle))
    }

    /// When the connection is as old as it gets.
    pub(crate) fn last_moment(&self) -> Option<Instant> {
        let max = self.manager.max_connection_duration;
        max.map(|max| self.info.start + reduced(Reducible::ConnectionMax, max))
    }

    /// Whether `point` sheds what is there now.
    pub(crate) fn is_shed(&self, point: Point) -> bool {
        self.overload.as_ref().is_some_and(|overload| overload.sheds(point, || self.random()))
    }

    /// Whether the connection is older than it should get.
    pub(crate) fn is_old(&self) -> bool {
        self.last_moment().is_some_and(|last| Instant::now() >= last)
    }
}

/// The answer to a request that is refused because there is too much to do.
pub(crate) fn overloaded() -> LocalReply {
    LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, Bytes::from_static(b"envoy overloaded"), "overload")
}

/// Why a stream ends before its response did.
pub(crate) enum StreamEnd {
    /// Answer this.
    Reply(Box<LocalReply>),
    /// The client is gone: there is nobody to answer.
    Gone,
    /// An answer was begun and cannot be completed.
    Reset,
    /// The request goes elsewhere, as it is now and with this body, as if it had just come.
    Redirected(Bytes),
}

/// One stream. Dropping it, however that comes, finishes statistics and access logs.
pub(crate) struct Stream<'c> {
    pub(crate) cx: &'c ConnectionCx,
    pub(crate) request: RequestHead,
    pub(crate) response: Option<ResponseHead>,
    pub(crate) response_trailers: Option<HeaderMap>,
    pub(crate) info: StreamInfo,
    pub(crate) table: Option<Arc<RouteTable>>,
    pub(crate) matched: Option<RouteMatch>,
    pub(crate) random: u64,
    /// A head was received; not so if the bytes were no request.
    has_request: bool,
    pub(crate) filters: FilterChain,
    /// The filters behind the router, if there are any.
    pub(crate) upstream_filters: Option<Box<UpstreamFilters>>,
    pub(crate) deadlines: Deadlines,
    pub(crate) is_internal: bool,
    /// The request is complete.
    pub(crate) request_done: bool,
    /// The response head was sent.
    pub(crate) committed: bool,
    /// What came with the request head through a filter that held it; before the filters, a request that was redirected.
    pub(crate) gathered: Option<Box<Parts>>,
    /// The host got something of the body, or metadata, that is kept nowhere.
    pub(crate) body_sent: bool,
    /// The response head turns the stream into a tunnel.
    pub(crate) response_upgrades: bool,
    /// The stream became a tunnel.
    pub(crate) upgraded: bool,
    /// The client sent the request elsewhere: it was admitted then.
    pub(super) is_redirected: bool,
    /// The upstream sent an informational head.
    pub(crate) informed: bool,
    /// A host reported its load.
    pub(super) is_reported: bool,
    /// Whether the host did well is said by the end of its response (gRPC).
    pub(super) awaits_grpc_status: bool,
    /// The host that answered is a canary, or says that it is.
    pub(super) is_canary: bool,
    /// The connection must end after this response.
    pub(crate) close: bool,
    /// The cluster that the route chose, if there is such a cluster.
    pub(crate) cluster: Option<Rc<WorkerCluster>>,
    /// The cluster of the latest host, where the route's is an aggregate.
    pub(crate) member: Option<Rc<WorkerCluster>>,
    /// The request in flight at the cluster.
    pub(crate) in_flight: Option<RequestGuard>,
    /// What the request's virtual cluster counts.
    pub(crate) virtual_cluster: Option<Cells<RouteStats>>,
    /// The route's timeout, once there is one.
    pub(crate) route_timeout: Option<Duration>,
    pub(crate) clear_route: bool,
    /// What a TLS server is asked for or held to, if the request says so.
    pub(crate) server_name: Option<Text>,
    /// The authority before a host's name took its place.
    pub(crate) asked_authority: Option<Text>,
    /// Cookies that the client is given, so that its next request goes where this one did.
    #[expect(clippy::box_collection, reason = "mostly there are none, and every stream has room for them")]
    pub(crate) set_cookies: Option<Box<Vec<HeaderValue>>>,
    /// What the request has used of its retry policy.
    pub(crate) tries: Option<Box<Tries>>,
    /// Copies of the request, while it is not complete.
    pub(super) mirrors: Option<Box<Mirrors>>,
    /// The trace that it belongs to, if requests are traced.
    pub(super) traced: Option<Traced>,
    /// The stream to a host, if such are logged.
    pub(crate) upstream_log: Option<Box<LoggedStream>>,
}

/// Serves one request. Says whether the request was read to its end and the response
/// completed, so that the connection can go on.
pub(crate) async fn serve<D: Downstream>(
    cx: &ConnectionCx,
    down: &mut D,
    timer: &mut Timer,
    incoming: Incoming,
) -> bool {
    let Incoming { head, end, lacks } = incoming;
    let mut stream = Stream::new(cx, clock::now(), head);
    stream.begin(down.protocol(), end);
    let ended = loop {
        // A panic ends the stream as a broken upstream would, and its connection only if that cannot go on without it.
        let served = contain(pin!(async {
            match stream.serve(down, timer, lacks, end).await {
                Err(StreamEnd::Reply(reply)) => stream.local_reply(down, timer, *reply).await,
                ended => ended,
            }
        }))
        .await;
        match served {
            Some(Err(StreamEnd::Redirected(body))) => stream.begin_again(down.protocol(), body),
            Some(ended) => break ended,
            None => {
                stream.info.details = Some("panic".into());
                break Err(StreamEnd::Reset);
            }
        }
    };
    let goes_on = match ended {
        Ok(()) => {
            stream.info.last_downstream_tx = Some(clock::now());
            if !stream.request_done && (down.protocol() != Protocol::Http2 || stream.is_tunnel()) {
                // The rest of the request is not read.
                let stats = cx.manager.stats.here();
                stats.downstream_rq_rx_reset.inc();
                if stream.upgraded && stream.response_upgrades {
                    stats.downstream_rq_tx_reset.inc();
                }
            }
            stream.request_done && !stream.upgraded
        }
        Err(StreamEnd::Gone) => false,
        Err(StreamEnd::Reset | StreamEnd::Reply(_) | StreamEnd::Redirected(_)) => {
            let stats = cx.manager.stats.here();
            stats.downstream_rq_tx_reset.inc();
            // Envoy counts its own resets as resets of the stream too.
            stats.downstream_rq_rx_reset.inc();
            // What was received before it broke is the client's.
            stream.deadlines.end(clock::now());
            let _ = stream.flush_rest(down, timer).await;
            if down.protocol() == Protocol::Http2 {
                // It is queued, and a reset would take it back: the connection's task runs first.
                tokio::task::yield_now().await;
            }
            down.reset();
            false
        }
    };
    stream.info.wire = down.wire();
    goes_on
}

/// Counts and logs a request that was refused for its head.
pub(crate) fn refused(cx: &ConnectionCx, protocol: Protocol, flag: ResponseFlag, details: &'static str) {
    let mut stream = Stream::new(cx, clock::now(), no_request());
    stream.begin(protocol, true);
    stream.has_request = false;
    stream.info.flags.set(flag);
    stream.info.details = Some(details.into());
    cx.manager.stats.here().downstream_rq_rx_reset.inc();
}

/// Answers where there is no request to answer: the bytes were none, or it did not come in time.
pub(crate) async fn reply_without_request<D: Downstream>(
    cx: &ConnectionCx,
    down: &mut D,
    timer: &mut Timer,
    reply: LocalReply,
) {
    let mut stream = Stream::new(cx, clock::now(), no_request());
    stream.begin(down.protocol(), true);
    stream.has_request = false;
    cx.manager.stats.here().downstream_rq_rx_reset.inc();
    stream.info.request_complete = None;
    if stream.local_reply(down, timer, reply).await.is_ok() {
        // Nobody is there to be told if this fails too.
        stream.info.last_downstream_tx = Some(clock::now());
    }
    stream.info.wire = down.wire();
}

/// Notes that the connection ended inside a request head.
pub(crate) fn abandoned<D: Downstream>(cx: &ConnectionCx, down: &D) {
    let mut stream = Stream::new(cx, clock::now(), no_request());
    stream.begin(down.protocol(), false);
    stream.has_request = false;
    cx.manager.stats.here().downstream_rq_rx_reset.inc();
}

fn no_request() -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: Text::default(),
        path: Text::default(),
        upgrade: None,
        case: None,
        headers: HeaderMap::new(),
    }
}

impl<'c> Stream<'c> {
    /// (Made in one expression, so that it is made where it stays: it is more than a kilobyte.)
    #[inline]
    pub(super) fn new(cx: &'c ConnectionCx, now: Instant, request: RequestHead) -> Self {
        let manager = &cx.manager;
        Self {
            cx,
            request,
            response: None,
            response_trailers: None,
            info: StreamInfo::new(cx.info.clone(), now, clock::wall(now)),
            table: None,
            matched: None,
            random: cx.shared.random.borrow_mut().u64(..),
            has_request: true,
            filters: FilterChain::new(&[], None, 0),
            upstream_filters: None,
            deadlines: Deadlines::new(now, manager.stream_idle_timeout, manager.request_timeout),
            is_internal: false,
            request_done: false,
            committed: false,
            gathered: None,
            body_sent: false,
            response_upgrades: false,
            upgraded: false,
            is_redirected: false,
            informed: false,
            is_reported: false,
            awaits_grpc_status: false,
            is_canary: false,
            close: false,
            cluster: None,
            member: None,
            in_flight: None,
            virtual_cluster: None,
            route_timeout: None,
            clear_route: false,
            server_name: None,
            asked_authority: None,
            set_cookies: None,
            tries: None,
            mirrors: None,
            traced: None,
            upstream_log: None,
        }
    }

    /// Counts what begins; `end`: the request is complete with its head.
    #[inline]
    pub(super) fn begin(&mut self, protocol: Protocol, end: bool) {
        let manager = &self.cx.manager;
        let stats = manager.stats.here();
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        match protocol {
            Protocol::Http10 | Protocol::Http11 => stats.downstream_rq_http1_total.inc(),
            Protocol::Http2 => stats.downstream_rq_http2_total.inc(),
        }
        self.info.protocol = Some(protocol);
        let start = self.info.start;
        self.deadlines.set_max_duration(manager.max_stream_duration.map(|duration| start + duration));
        if end && !self.is_tunnel() {
            self.on_request_complete();
        }
    }

    /// The client has sent all of the request.
    pub(crate) fn on_request_complete(&mut self) {
        self.request_done = true;
        self.deadlines.disarm_request();
        self.info.request_complete = Some(clock::now());
    }

    /// Whether the router has all of the request: the client sent it, and no filter before the router holds anything of it.
    pub(crate) fn is_routed(&self) -> bool {
        self.request_done && !self.filters.holds(Direction::Request)
    }

    /// The router has all of the request: what the host may take begins.
    pub(crate) fn on_request_routed(&mut self) {
        // (The timeout is known once there is a route to follow, and no matter once the host is done.)
        if self.info.upstream.last_rx.is_none() {
            self.deadlines.set_route(self.route_timeout.map(|timeout| clock::now() + timeout));
            if self.tries.is_some() && self.in_flight.is_some() {
                self.start_try();
            }
        }
    }

    /// Takes the request in, and does with it what its route says.
    async fn serve<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        lacks: Lacks,
        end: bool,
    ) -> Result<(), StreamEnd> {
        if let Some(overload) = &self.cx.overload {
            self.shed(overload)?;
        }
        self.admit(lacks)?;
        self.match_route();
        self.begin_trace();
        drill_request("request", &self.request, &self.cx.shared.env.runtime);
        let allowed = self.check_upgrade();
        let limit = self.cx.buffer_limit;
        self.filters = FilterChain::new(self.configured_filters(), self.route().as_ref(), limit);
        // Filters see the answer to an upgrade that is not allowed.
        allowed?;
        let parts = self.gathered.take().map_or_else(|| Parts::head(end), |parts| *parts);
        self.pass_request_head(down, timer, parts).await?;
        self.act(down, timer).await
    }

    /// Refuses the request if there is too much to do.
    fn shed(&self, overload: &Overload) -> Result<(), StreamEnd> {
        if self.is_redirected || !overload.refuses_request(|| self.cx.random()) {
            return Ok(());
        }
        self.cx.manager.stats.here().downstream_rq_overload_close.inc();
        let mut reply = overloaded();
        if self.cx.manager.append_local_overload {
            reply.headers.insert(&*X_ENVOY_LOCAL_OVERLOADED, HeaderValue::from_static("true"));
        }
        Err(StreamEnd::Reply(Box::new(reply)))
    }

    /// Checks the head, and makes it say what the connection manager wants it to say.
    fn admit(&mut self, lacks: Lacks) -> Result<(), StreamEnd> {
        let manager = &*self.cx.manager;
        let stats = manager.stats.here();
        let is_connect = self.request.method == Method::CONNECT;
        if lacks.host && !self.is_redirected {
            return Err(refuse(StatusCode::BAD_REQUEST, "missing_host_header"));
        }
        if self.request.path.is_empty() && !is_connect {
            return Err(refuse(StatusCode::NOT_FOUND, "missing_path_rejected"));
        }
        if !self.request.path.starts_with('/') && !self.request.path.is_empty() {
            stats.downstream_rq_non_relative_path.inc();
            return Err(refuse(StatusCode::NOT_FOUND, "absolute_path_rejected"));
        }
        match normalize::path(manager, &self.cx.shared.env.runtime, &mut self.request) {
            PathOutcome::Ok => {}
            PathOutcome::Redirect(_) if self.request.is_grpc() => {
                stats.downstream_rq_failed_path_normalization.inc();
                return Err(refuse(StatusCode::BAD_REQUEST, "path_normalization_failed"));
            }
            PathOutcome::Reject => {
                stats.downstream_rq_failed_path_normalization.inc();
                return Err(refuse(StatusCode::BAD_REQUEST, "path_normalization_failed"));
            }
            PathOutcome::Redirect(path) => {
                stats.downstream_rq_redirected_with_normalized_path.inc();
                let mut reply = LocalReply::new(
                    StatusCode::TEMPORARY_REDIRECT,
                    Bytes::new(),
                    "path_normalization_failed",
                );
                if let Ok(location) = http::HeaderValue::from_maybe_shared(path.as_bytes().clone()) {
                    reply.headers.insert(http::header::LOCATION, location);
                }
                return Err(StreamEnd::Reply(Box::new(reply)));
            }
        }
        normalize::authority(manager, &mut self.request, self.cx.info.local.port());
        if self.is_redirected {
            return Ok(());
        }
        let origin = forwarded::apply(manager, &self.info, &mut self.request, lacks);
        self.is_internal = origin.is_internal;
        self.info.remote = Some(origin.address);
        Ok(())
    }

    /// The route that matched.
    pub(crate) fn route(&self) -> Option<SelectedRoute<'_>> {
        selected(self.table.as_ref(), self.matched)
    }

    /// Matches the request against the route table now in force.
    pub(crate) fn match_route(&mut self) {
        if self.table.is_none() {
            self.table = match &self.cx.manager.routes {
                RouteSource::Inline(table) => Some(table.clone()),
                RouteSource::Rds { place, .. } => self.cx.shared.routes.table(place),
            };
        }
        let runtime = &self.cx.shared.env.runtime;
        self.matched = self
            .table
            .as_ref()
            .and_then(|table| table.route(&self.request, &self.info, runtime, self.random));
        let Self { cx, table, matched, request, info, .. } = self;
        let Some(route) = table.as_ref().zip(*matched).and_then(|(table, matched)| table.selected(matched))
        else {
            let host = table.as_ref().and_then(|table| table.virtual_host(request));
            info.virtual_host_metadata = host.map(|host| host.metadata.clone()).unwrap_or_default();
            self.set_cluster(None);
            return;
        };
        info.route_name = Some(route.entry().name.clone());
        info.route_metadata = route.entry().metadata.clone();
        let host = route.virtual_host();
        info.virtual_host = Some(host.name.clone());
        info.virtual_host_metadata = host.metadata.clone();
        let virtual_cluster = host.virtual_cluster(request);
        let (name, stats) =
            virtual_cluster.map(|cluster| (cluster.name.clone(), cluster.stats.clone())).unzip();
        self.virtual_cluster = stats;
        info.virtual_cluster = name.flatten();
        let cluster = match route.cluster(request, info) {
            ClusterChoice::Named(name) => cx.shared.clusters.get(name),
            ClusterChoice::FromRequest(name) => cx.shared.clusters.by_name(name),
            ClusterChoice::None => None,
        };
        self.set_cluster(cluster);
    }

    /// Makes `cluster` the one that the route chose: filters before the router know it too.
    pub(crate) fn set_cluster(&mut self, cluster: Option<Rc<WorkerCluster>>) {
        let info = &mut self.info.upstream;
        match cluster.as_deref().map(|cluster| &*cluster.cluster) {
            Some(cluster) => {
                info.cluster = Some(cluster.name.shared());
                info.cluster_observability_name = cluster.observability_name.clone();
                info.cluster_metadata = cluster.metadata.clone();
            }
            None => {
                info.cluster = None;
                info.cluster_observability_name = None;
                info.cluster_metadata = Metadata::default();
            }
        }
        self.cluster = cluster;
        self.member = None;
    }

    /// The cluster of the latest host: the route's, or one that this stands for.
    #[inline]
    pub(super) fn host_cluster(&self) -> Option<&Rc<WorkerCluster>> {
        self.member.as_ref().or(self.cluster.as_ref())
    }

    fn configured_filters(&self) -> &'c [HttpFilter] {
        self.own_chain().map_or(&self.cx.manager.filters, |(filters, _)| filters)
    }

    /// Options of the router at the end of the stream's filters.
    pub(crate) fn router(&self) -> &'c RouterOptions {
        self.own_chain().map_or(&self.cx.manager.router, |(_, router)| router)
    }

    /// The filters of an upgrade that is allowed and has its own.
    fn own_chain(&self) -> Option<&'c (Vec<HttpFilter>, RouterOptions)> {
        if !self.upgraded {
            return None;
        }
        self.upgrade()?.filters.as_ref()
    }

    /// What the connection manager says of the upgrade that the request asks for.
    fn upgrade(&self) -> Option<&'c Upgrade> {
        let kind = self.upgrade_kind()?;
        self.cx.manager.upgrades.iter().find(|upgrade| upgrade.kind.eq_ignore_ascii_case(kind))
    }

    fn upgrade_kind(&self) -> Option<&str> {
        match &self.request.upgrade {
            Some(kind) => Some(kind),
            None if self.request.method == Method::CONNECT => Some("connect"),
            None => None,
        }
    }

    /// Whether the request asks for a tunnel: it has no end before the tunnel has.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.request.upgrade.is_some() || self.request.method == Method::CONNECT
    }

    /// An upgrade must be enabled on the route or here.
    fn check_upgrade(&mut self) -> Result<(), StreamEnd> {
        let Some(kind) = self.upgrade_kind() else { return Ok(()) };
        let manager = &*self.cx.manager;
        let here = self.upgrade();
        let route = self.route();
        let on_route = match route.map(|route| route.action()) {
            Some(Action::Forward(forward)) => forward.allows_upgrade(&kind.to_ascii_lowercase()),
            Some(Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding) | None => None,
        };
        if on_route.or(here.map(|upgrade| upgrade.enabled)).unwrap_or(false) {
            let stats = manager.stats.here();
            stats.downstream_cx_upgrades_total.inc();
            stats.downstream_cx_upgrades_active.inc();
            self.upgraded = true;
            return Ok(());
        }
        if route.is_none() {
            // There is nothing that could be upgraded: the router says so.
            return Ok(());
        }
        manager.stats.here().downstream_rq_ws_on_non_ws_route.inc();
        Err(refuse(StatusCode::FORBIDDEN, "upgrade_failed"))
    }

    /// The filters, their configuration, and what they may see, borrowed side by side.
    pub(crate) fn filter_view(&mut self) -> (&mut FilterChain, &[HttpFilter], View<'_>) {
        let configured = self.configured_filters();
        let view = View {
            request: &mut self.request,
            response: self.response.as_mut(),
            info: &mut self.info,
            route: selected(self.table.as_ref(), self.matched),
            clear_route: &mut self.clear_route,
            head_limits: self.cx.manager.head_limits(),
            engine: &*self.cx.shared,
        };
        (&mut self.filters, configured, view)
    }

    /// What formats may print of the stream now.
    pub(crate) fn entry(&self, log_type: LogType) -> LogEntry<'_> {
        LogEntry {
            request: self.has_request.then_some(&self.request),
            response: self.response.as_ref(),
            response_trailers: self.response_trailers.as_ref(),
            info: &self.info,
            local_reply_body: "",
            log_type,
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        let now = clock::now();
        self.info.end = Some(now);
        let stats = self.cx.manager.stats.here();
        stats.downstream_rq_active.dec();
        if self.upgraded {
            stats.downstream_cx_upgrades_active.dec();
        }
        if !self.committed && self.info.details.is_none() {
            // The task was dropped: the client reset the stream or its connection ended.
            self.info.flags.set(ResponseFlag::DownstreamConnectionTermination);
            self.info.details = Some("downstream_remote_disconnect".into());
        }
        stats
            .downstream_rq_time
            .record(u64::try_from(self.info.duration(now).as_millis()).unwrap_or(u64::MAX));
        if self.races() {
            self.end_race();
        }
        self.track_end(now);
        self.in_flight = None;
        drill_request("complete", &self.request, &self.cx.shared.env.runtime);
        self.complete_upstream_filters();
        self.filters.complete(&self.request, self.response.as_ref(), &mut self.info, &*self.cx.shared);
        self.end_trace(now);
        let entry = self.entry(LogType::DownstreamEnd);
        for log in &self.cx.manager.access_logs {
            log.log(&entry);
        }
        // Where the client is gone, the stream to the host ends with this one.
        let wire = self.info.wire;
        self.log_upstream_end(|| wire);
        header_maps::give(std::mem::take(&mut self.request.headers));
        if let Some(response) = &mut self.response {
            header_maps::give(std::mem::take(&mut response.headers));
        }
    }
}

/// The route of `table` that matched; [`Stream::route`] where more than it is borrowed.
pub(crate) fn selected(
    table: Option<&Arc<RouteTable>>,
    matched: Option<RouteMatch>,
) -> Option<SelectedRoute<'_>> {
    table?.selected(matched?)
}

/// A reply without a body.
pub(crate) fn refuse(status: StatusCode, details: &'static str) -> StreamEnd {
    StreamEnd::Reply(Box::new(LocalReply::new(status, Bytes::new(), details)))
}
