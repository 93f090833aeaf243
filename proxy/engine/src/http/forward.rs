//! What the router does with a matched request: answer it, or forward it to a host of a cluster.
//!
//! Source: Envoy `docs/root/configuration/http/http_filters/router_filter.rst`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use proxy_core::extension::http_filter::Direction;
use proxy_core::head::{Protocol, ResponseHead, Scheme};
use proxy_core::headers::{
    X_ENVOY_ATTEMPT_COUNT, X_ENVOY_DROP_OVERLOAD, X_ENVOY_MAX_RETRIES, X_ENVOY_OVERLOADED,
    X_ENVOY_RETRY_GRPC_ON, X_ENVOY_RETRY_ON, X_ENVOY_UNCONDITIONAL_DROP_OVERLOAD,
    X_ENVOY_UPSTREAM_SERVICE_TIME, number,
};
use proxy_core::local_reply::LocalReply;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::RouteStats;
use proxy_core::stream_error::UpstreamReset;

use super::deadlines::Tick;
use super::exchange::Failure;
use super::stream::{Stream, StreamEnd, refuse, selected};
use crate::codec::downstream::Downstream;
use crate::local::clock;
use crate::local::timers::Timer;
use crate::router::cluster::ClusterChoice;
use crate::router::forward::Priority;
use crate::router::rewrite::EnvoyHeaders;
use crate::router::route::Action;
use crate::router::timeouts::ExpectedTimeout;
use crate::upstream::circuit_breaker::BreakerPriority;
use crate::upstream::cluster::Cluster;
use crate::upstream::pool::{HostPool, NoHost, RequestGuard, WorkerCluster};
use crate::upstream::stream::Upstream;
use crate::upstream::tunnel::Tunnel;

/// How often a request is sent that hosts refuse without having worked on it.
const MAX_SENDS: u32 = 4;

/// Why there is no upstream stream.
enum Unavailable {
    Reset(UpstreamReset, String),
    End(StreamEnd),
}

impl Stream<'_> {
    /// Does what the route says.
    pub(crate) async fn act<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
    ) -> Result<(), StreamEnd> {
        let stats = self.cx.router_stats.here();
        stats.rq_total.inc();
        let forwards = self.route().map(|route| matches!(route.action(), Action::Forward(_)));
        match forwards {
            Some(true) => self.forward(down, timer).await,
            Some(false) => Err(self.answer()),
            None => {
                stats.no_route.inc();
                self.info.flags.set(ResponseFlag::NoRouteFound);
                Err(refuse(StatusCode::NOT_FOUND, "route_not_found"))
            }
        }
    }

    /// What a route answers that does not forward.
    fn answer(&mut self) -> StreamEnd {
        let stats = self.cx.router_stats.here();
        let table = self.table.clone();
        let action = selected(table.as_ref(), self.matched).map(|route| (route, route.action()));
        match action {
            Some((route, Action::Redirect(redirect))) => {
                // Envoy counts a redirect as a direct response.
                stats.rq_direct_response.inc();
                let mut reply = LocalReply::new(redirect.status, Bytes::new(), "direct_response");
                let headers = self.envoy_headers();
                if let Some(location) = route.redirect(&mut self.request, &self.info, headers) {
                    reply.headers.insert(header::LOCATION, location);
                }
                self.route_reply(reply)
            }
            Some((_, Action::DirectResponse(direct))) => {
                stats.rq_direct_response.inc();
                let body = direct.render(&self.request, &self.info);
                let mut reply = LocalReply::new(direct.status, body.bytes, "direct_response");
                if let Some(content_type) = body.content_type {
                    reply.headers.insert(header::CONTENT_TYPE, content_type);
                }
                self.route_reply(reply)
            }
            Some((_, Action::NonForwarding | Action::Forward(_))) | None => {
                refuse(StatusCode::NOT_FOUND, "route_not_found")
            }
        }
    }

    fn envoy_headers(&self) -> EnvoyHeaders {
        match self.router().suppress_envoy_headers {
            true => EnvoyHeaders::Suppressed,
            false => EnvoyHeaders::Added,
        }
    }

    /// A reply of the route's own, with the header mutations of its levels.
    fn route_reply(&self, mut reply: LocalReply) -> StreamEnd {
        let mut head =
            ResponseHead { status: reply.status, headers: std::mem::take(&mut reply.headers), case: None };
        if !reply.body.is_empty() && !head.headers.contains_key(header::CONTENT_TYPE) {
            head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        if let Some(route) = self.route() {
            route.finalize_response(&self.request, &mut head, &self.info);
        }
        reply.headers = head.headers;
        StreamEnd::Reply(Box::new(reply))
    }

    async fn forward<D: Downstream>(&mut self, down: &mut D, timer: &mut Timer) -> Result<(), StreamEnd> {
        let cluster = self.take_cluster()?;
        self.check_strictly()?;
        let priority = self.prepare();
        let hash = self.hash(&cluster.cluster);
        if self.cx.manager.scheme_match_upstream {
            // No connection to a host is secured.
            self.request.scheme = Scheme::Http;
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut up = match self.open(down, timer, &cluster, (priority, hash), attempt > 1).await {
                Ok(up) => up,
                Err(Unavailable::End(end)) => {
                    if !matches!(end, StreamEnd::Gone) {
                        self.log_upstream_end(|| down.wire());
                    }
                    return Err(end);
                }
                Err(Unavailable::Reset(reset, reason)) => {
                    let end = self.upstream_failed(reset, reason);
                    self.log_upstream_end(|| down.wire());
                    return Err(end);
                }
            };
            self.log_upstream_ready(|| down.wire());
            // What was gathered of the body follows the head.
            let end = (self.request_done || self.is_tunnel())
                && self.gathered.is_none()
                && !self.holds(Direction::Request)
                && (self.is_tunnel() || !down.has_metadata());
            self.body_sent = false;
            let queued = up.request(&self.request, end);
            let was_sent = queued.is_ok();
            let ended = match queued {
                Ok(()) => {
                    let sent = clock::now();
                    self.info.upstream.first_tx = Some(sent);
                    self.info.upstream.last_tx = self.request_done.then_some(sent);
                    self.exchange(down, &mut up, timer).await
                }
                Err(reset) => Err(Failure::Upstream(reset)),
            };
            self.info.upstream.wire = up.wire();
            if let Err(Failure::Upstream(reset)) = &ended {
                self.log_upstream_failure(*reset);
            }
            if !matches!(ended, Err(Failure::End(StreamEnd::Gone))) {
                self.log_upstream_end(|| down.wire());
            }
            match ended {
                Ok(()) => {
                    // The host is done with it, however long the client takes.
                    drop(up);
                    self.track_end(clock::now());
                    self.in_flight = None;
                    return self.flush(down, timer).await;
                }
                Err(Failure::End(end)) => {
                    if matches!(up, Upstream::Http2(_)) && self.info.upstream.last_rx.is_none() {
                        cluster.cluster.stats.traffic.here().upstream_rq_tx_reset.inc();
                    }
                    if matches!(end, StreamEnd::Gone) && !self.committed {
                        cluster.cluster.stats.traffic.here().upstream_rq_cancelled.inc();
                    }
                    return Err(end);
                }
                Err(Failure::Upstream(reset)) => {
                    // What was sent of the body is gone.
                    let is_whole =
                        !self.body_sent && !self.committed && self.info.upstream.first_rx.is_none();
                    let is_safe = match reset {
                        // The host did not work on it (RFC 9113, 8.7).
                        UpstreamReset::RemoteRefused => attempt < MAX_SENDS,
                        // The host closed a connection at the moment it was used again: nothing is lost if the request
                        // did not leave, or does not mind to be worked on twice.
                        UpstreamReset::ConnectionTermination => {
                            attempt == 1
                                && up.is_reused()
                                && (!was_sent || self.request.method.is_idempotent())
                        }
                        UpstreamReset::ConnectFailure
                        | UpstreamReset::LocalConnectFailure
                        | UpstreamReset::ConnectTimeout
                        | UpstreamReset::RemoteReset
                        | UpstreamReset::LocalReset
                        | UpstreamReset::Overflow
                        | UpstreamReset::ProtocolError => false,
                    };
                    if is_whole && is_safe {
                        continue;
                    }
                    return Err(self.upstream_failed(reset, String::new()));
                }
            }
        }
    }

    /// The cluster that the route chose, or what has come in its place while a filter made the request wait.
    fn take_cluster(&mut self) -> Result<Rc<WorkerCluster>, StreamEnd> {
        if let Some(cluster) = self.cluster.as_ref().filter(|cluster| !cluster.is_retired()) {
            return Ok(cluster.clone());
        }
        let clusters = &self.cx.shared.clusters;
        let Some(route) = self.route() else { return Err(refuse(StatusCode::NOT_FOUND, "route_not_found")) };
        let found = match (&self.cluster, route.cluster(&self.request)) {
            (Some(retired), _) => clusters.get(&retired.cluster.name),
            (None, ClusterChoice::Named(name)) => clusters.get(name),
            // The header counted when the route was matched.
            (None, ClusterChoice::FromHeader(_) | ClusterChoice::None) => None,
        };
        if let Some(cluster) = found {
            self.set_cluster(Some(cluster.clone()));
            return Ok(cluster);
        }
        let status = match route.action() {
            Action::Forward(forward) => forward.cluster_not_found,
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        self.cx.router_stats.here().no_cluster.inc();
        self.info.flags.set(ResponseFlag::NoClusterFound);
        Err(refuse(status, "cluster_not_found"))
    }

    /// Refuses requests by `strict_check_headers`.
    fn check_strictly(&mut self) -> Result<(), StreamEnd> {
        let strict = &self.router().strict_check_headers;
        let Some((name, value)) = strict.iter().find_map(|header| header.violated(&self.request.headers))
        else {
            return Ok(());
        };
        let value = String::from_utf8_lossy(value.as_bytes());
        let body = format!("invalid header '{name}' with value '{value}'");
        let details = format!("request_headers_failed_strict_check{{{name}}}");
        self.info.flags.set(ResponseFlag::InvalidEnvoyRequestHeaders);
        Err(StreamEnd::Reply(Box::new(LocalReply::new(StatusCode::BAD_REQUEST, body, details))))
    }

    /// Makes the request ready to leave: timeouts, header mutations, rewrites.
    fn prepare(&mut self) -> BreakerPriority {
        let headers = self.envoy_headers();
        let manager = &*self.cx.manager;
        let expected = match self.router().respect_expected_rq_timeout {
            true => ExpectedTimeout::Respected,
            false => ExpectedTimeout::Overwritten,
        };
        let Self { table, matched, request, info, deadlines, .. } = self;
        let Some(route) = selected(table.as_ref(), *matched) else {
            return BreakerPriority::Default;
        };
        let mut timeouts = route.timeouts(request, expected);
        let now = clock::now();
        deadlines.set_idle(timeouts.idle.or(manager.stream_idle_timeout));
        let max_stream = timeouts.resolve_max_stream(manager.max_stream_duration);
        deadlines.set_max_duration(max_stream.map(|max| info.start + max));
        self.route_timeout = timeouts.global;
        if self.request_done {
            deadlines.set_route(timeouts.global.map(|timeout| now + timeout));
        }
        timeouts.write_headers(request, Duration::ZERO, headers);
        if route.virtual_host().include_request_attempt_count {
            request.headers.insert(&*X_ENVOY_ATTEMPT_COUNT, HeaderValue::from_static("1"));
        }
        // Retries are the router's business, not the upstream's.
        if timeouts.is_asked {
            for name in [&*X_ENVOY_RETRY_ON, &*X_ENVOY_RETRY_GRPC_ON, &*X_ENVOY_MAX_RETRIES] {
                request.headers.remove(name);
            }
        }
        route.finalize_request(request, info, headers);
        match route.action() {
            Action::Forward(forward) if forward.priority == Priority::High => BreakerPriority::High,
            _ => BreakerPriority::Default,
        }
    }

    /// What the request hashes to, if `cluster` balances by that. Cookies that are made up for it go to the client.
    fn hash(&mut self, cluster: &Cluster) -> Option<u64> {
        if !cluster.balancing.is_hashing() {
            return None;
        }
        let mut set_cookies = Vec::new();
        let route = selected(self.table.as_ref(), self.matched);
        let of_route = route.and_then(|route| match route.action() {
            Action::Forward(forward) => Some(&forward.hash_policies),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => None,
        });
        let policies = cluster.balancing.hash_policies().or(of_route)?;
        let hash = policies.hash(&self.request, &self.info, Some(&mut set_cookies));
        if !set_cookies.is_empty() {
            self.set_cookies = Some(Box::new(set_cookies));
        }
        hash
    }

    /// Picks a host and gets a stream to it.
    async fn open<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        cluster: &Rc<WorkerCluster>,
        (priority, hash): (BreakerPriority, Option<u64>),
        fresh: bool,
    ) -> Result<Upstream, Unavailable> {
        self.info.upstream.attempts += 1;
        let random = &self.cx.shared.random;
        let picked = cluster.pick_for_request(&self.info, &self.request, hash, &mut random.borrow_mut());
        let host = picked.map_err(|none| Unavailable::End(self.no_host(none)))?;
        self.info.upstream.host = Some(host.clone());
        self.info.upstream.sought = true;
        self.info.upstream.connection_id = None;
        self.info.upstream.tls = None;
        self.rewrite_host(&host.hostname);
        self.in_flight = None;
        self.info.upstream.transport_failure = None;
        let Some(pool) = cluster.pool(&host, &self.cx.info, priority) else {
            self.info.upstream.host = None;
            return Err(Unavailable::End(self.no_host(NoHost::Unavailable)));
        };
        self.log_upstream_start();
        if !fresh {
            let passed = self.pass_to_upstream(down, timer, &cluster.cluster).await;
            passed.map_err(Unavailable::End)?;
        }
        if cluster.cluster.balancing.preconnect.predictive > 1.0 && !self.is_connect_terminated() {
            let is_http2 = cluster.cluster.http.protocol.is_http2(down.protocol());
            cluster.preconnect(&mut self.cx.shared.random.borrow_mut(), &self.cx.info, priority, is_http2);
        }
        let up = self.checkout(down, timer, &pool, priority, fresh).await;
        self.info.upstream.pool_ready = Some(clock::now());
        if matches!(up, Err(Unavailable::Reset(UpstreamReset::Overflow, _))) {
            // Nobody was asked: Envoy names no host then.
            self.info.upstream.host = None;
        }
        let up = up?;
        let Some(guard) = RequestGuard::new(&cluster.cluster, &host, priority) else {
            return Err(Unavailable::Reset(UpstreamReset::Overflow, String::new()));
        };
        self.in_flight = Some(guard);
        if let Some(limit) = cluster.cluster.http.max_stream_duration {
            self.deadlines.set_upstream(Some(clock::now() + limit));
        }
        for stats in self.route_stats() {
            stats.here().upstream_rq_total.inc();
        }
        let info = &mut self.info.upstream;
        info.attempted.push(host);
        info.connection_id = up.id();
        info.tls = up.tls().cloned();
        info.local = up.local().cloned();
        info.protocol = Some(up.protocol());
        (info.connect_start, info.connect_end) = up.connect_times().unzip();
        Ok(up)
    }

    /// The answer where there is no host, or none that may be asked.
    fn no_host(&mut self, none: NoHost) -> StreamEnd {
        let (flag, body, details, header) = match none {
            NoHost::Unavailable => {
                (ResponseFlag::NoHealthyUpstream, "no healthy upstream", "no_healthy_upstream", None)
            }
            NoHost::Dropped => {
                let header = Some(&*X_ENVOY_DROP_OVERLOAD);
                (ResponseFlag::DropOverload, "drop overload", "drop_overload", header)
            }
            NoHost::DroppedAlways => (
                ResponseFlag::UnconditionalDropOverload,
                "unconditional drop overload",
                "unconditional_drop_overload",
                Some(&*X_ENVOY_UNCONDITIONAL_DROP_OVERLOAD),
            ),
        };
        self.info.flags.set(flag);
        self.charge(StatusCode::SERVICE_UNAVAILABLE);
        let body = Bytes::from_static(body.as_bytes());
        let mut reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, body, details);
        if let Some(header) = header.filter(|_| !self.router().suppress_envoy_headers) {
            reply.headers.insert(header, HeaderValue::from_static("true"));
        }
        self.route_reply(reply)
    }

    fn rewrite_host(&mut self, hostname: &str) {
        if hostname.is_empty() {
            return;
        }
        let table = self.table.clone();
        let route = selected(table.as_ref(), self.matched);
        if let Some(route) = route {
            let headers = self.envoy_headers();
            // each attempt begins with what the client asked for
            match &self.asked_authority {
                Some(asked) => self.request.authority = asked.clone(),
                None => self.asked_authority = Some(self.request.authority.clone()),
            }
            route.rewrite_host_to_upstream(&mut self.request, hostname, headers);
        }
    }

    async fn checkout<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        pool: &Rc<HostPool>,
        priority: BreakerPriority,
        fresh: bool,
    ) -> Result<Upstream, Unavailable> {
        let is_tcp = self.is_connect_terminated();
        let is_http2 = pool.cluster.http.protocol.is_http2(down.protocol());
        if !is_http2
            && !is_tcp
            && !fresh
            && let Some(lease) = pool.idle_http1(priority)
        {
            return Ok(Upstream::Http1(lease));
        }
        let is_upgrade = self.request.upgrade.is_some();
        let opening = async {
            if is_tcp {
                pool.open_tcp(priority).await.map(|socket| Upstream::Tunnel(Box::new(Tunnel::new(socket))))
            } else if is_http2 {
                let lease = pool.open_http2(priority).await?;
                if is_upgrade {
                    lease.await_extended_connect().await;
                }
                Ok(Upstream::Http2(lease))
            } else {
                pool.open_http1(priority).await.map(Upstream::Http1)
            }
        };
        let mut opening = pin!(opening);
        poll_fn(|cx| {
            if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
                return Poll::Ready(opened.map_err(|(reset, reason)| Unavailable::Reset(reset, reason)));
            }
            if let Poll::Ready(error) = down.poll_gone(cx) {
                pool.cluster.stats.traffic.here().upstream_rq_cancelled.inc();
                return Poll::Ready(Err(Unavailable::End(self.downstream_failed(error))));
            }
            loop {
                match ready!(self.deadlines.poll_tick(timer, cx)) {
                    Tick::UpstreamLog => self.log_upstream_again(down.wire()),
                    Tick::TimedOut(timeout) => {
                        return Poll::Ready(Err(Unavailable::End(self.timed_out(timeout))));
                    }
                }
            }
        })
        .await
    }

    /// Whether the route ends CONNECT here and sends its payload on as plain TCP.
    pub(crate) fn is_connect_terminated(&self) -> bool {
        let Some(route) = self.route() else { return false };
        let Action::Forward(forward) = route.action() else { return false };
        let Some(connect) = forward.upgrade("connect").and_then(|upgrade| upgrade.connect.as_ref()) else {
            return false;
        };
        self.request.method == Method::CONNECT || (connect.allow_post && self.request.method == Method::POST)
    }

    /// What a failed upstream means for the stream.
    pub(crate) fn upstream_failed(&mut self, reset: UpstreamReset, reason: String) -> StreamEnd {
        self.info.flags.set(reset.flag());
        self.log_upstream_failure(reset);
        if let Some(cluster) = &self.cluster {
            let stats = cluster.cluster.stats.traffic.here();
            match reset {
                UpstreamReset::RemoteReset => stats.upstream_rq_rx_reset.inc(),
                // Over HTTP/2 a connection may outlive it: who knows of that counts.
                UpstreamReset::ProtocolError if self.info.upstream.protocol != Some(Protocol::Http2) => {
                    stats.upstream_cx_protocol_error.inc();
                }
                UpstreamReset::ConnectFailure
                | UpstreamReset::LocalConnectFailure
                | UpstreamReset::ConnectTimeout
                | UpstreamReset::ConnectionTermination
                | UpstreamReset::RemoteRefused
                | UpstreamReset::LocalReset
                | UpstreamReset::Overflow
                | UpstreamReset::ProtocolError => {}
            }
        }
        if let Some(host) = &self.info.upstream.host {
            host.stats.rq_error.fetch_add(1, Ordering::Relaxed);
        }
        let suffix = match reason.is_empty() {
            true => String::new(),
            false => format!("|{}", reason.replace(' ', "_")),
        };
        if self.committed {
            self.info.details =
                Some(format!("upstream_reset_after_response_started{{{}{suffix}}}", reset.details()).into());
            return StreamEnd::Reset;
        }
        let body = format!(
            "upstream connect error or disconnect/reset before headers. reset reason: {}",
            reset.reason()
        );
        if !reason.is_empty() {
            self.info.upstream.transport_failure = Some(reason.replace(' ', "_"));
        }
        self.charge(reset.status());
        let details = match reset {
            UpstreamReset::Overflow => "upstream_reset_before_response_started{overflow}".to_owned(),
            _ => format!("upstream_reset_before_response_started{{{}{suffix}}}", reset.details()),
        };
        let mut reply = LocalReply::new(reset.status(), body, details);
        if reset == UpstreamReset::Overflow && !self.router().suppress_envoy_headers {
            reply.headers.insert(&*X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
        }
        self.route_reply(reply)
    }

    /// The route's timeout passed.
    pub(crate) fn upstream_timed_out(&mut self) {
        if let Some(cluster) = &self.cluster {
            cluster.cluster.stats.traffic.here().upstream_rq_timeout.inc();
        }
        for stats in self.route_stats() {
            stats.here().upstream_rq_timeout.inc();
        }
        if let Some(host) = &self.info.upstream.host {
            host.stats.rq_timeout.fetch_add(1, Ordering::Relaxed);
        }
        if !self.committed {
            self.charge(StatusCode::GATEWAY_TIMEOUT);
        }
    }

    /// The upstream's response head is in `self.response`.
    pub(crate) fn upstream_head(&mut self, now: Instant) {
        let Some(head) = self.response.take() else { return };
        self.deadlines.disarm_request();
        let status = head.status;
        self.track_response_head(&head);
        self.log_upstream_head(&head);
        self.response = Some(head);
        self.info.response_code = Some(status.as_u16());
        self.charge(status);
        if let Some(host) = &self.info.upstream.host {
            let counter =
                if status.is_server_error() { &host.stats.rq_error } else { &host.stats.rq_success };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        self.info.details = Some("via_upstream".into());
        let suppress = self.router().suppress_envoy_headers;
        if let Some(response) = &mut self.response {
            if !suppress && let Some(since) = self.info.request_complete {
                let elapsed =
                    u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
                response.headers.insert(&*X_ENVOY_UPSTREAM_SERVICE_TIME, number(elapsed));
            }
            for cookie in self.set_cookies.iter().flat_map(|cookies| cookies.iter()) {
                response.headers.append(header::SET_COOKIE, cookie.clone());
            }
            let route = selected(self.table.as_ref(), self.matched);
            if let Some(route) = route {
                if route.virtual_host().include_attempt_count_in_response {
                    response
                        .headers
                        .insert(&*X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(self.info.upstream.attempts));
                }
                route.finalize_response(&self.request, response, &self.info);
            }
        }
    }

    /// The upstream's response is complete.
    pub(crate) fn upstream_complete(&mut self, now: Instant) {
        self.info.upstream.last_rx = Some(now);
        self.deadlines.disarm_upstream();
        if let Some(guard) = self.in_flight.as_ref().filter(|_| self.router().dynamic_stats) {
            let since = self.info.request_complete.unwrap_or(self.info.start);
            let elapsed = u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
            for stats in self.route_stats() {
                stats.here().upstream_rq_time.record(elapsed);
            }
            let stats = guard.cluster().stats.traffic.here();
            stats.upstream_rq_time.record(elapsed);
            match self.is_internal {
                true => stats.internal_upstream_rq_time.record(elapsed),
                false => stats.external_upstream_rq_time.record(elapsed),
            }
        }
    }

    /// What the route and the virtual cluster count of the request.
    fn route_stats(&self) -> impl Iterator<Item = &Cells<RouteStats>> {
        let route = self.route().and_then(|route| route.entry().stats.as_ref());
        route.into_iter().chain(&self.virtual_cluster)
    }

    /// Counts a response of the cluster, or one made in its place.
    pub(crate) fn charge(&self, status: StatusCode) {
        let Some(cluster) = self.cluster.as_ref().filter(|_| self.router().dynamic_stats) else {
            return;
        };
        for stats in self.route_stats() {
            stats.here().upstream_rq.inc(status.as_u16());
        }
        let stats = cluster.cluster.stats.traffic.here();
        match self.router().suppress_grpc_codes && self.request.is_grpc() {
            true => stats.upstream_rq.inc_completed(),
            false => stats.upstream_rq.inc(status.as_u16()),
        }
        match self.is_internal {
            true => stats.internal_upstream_rq.inc(status.as_u16()),
            false => stats.external_upstream_rq.inc(status.as_u16()),
        }
    }
}
