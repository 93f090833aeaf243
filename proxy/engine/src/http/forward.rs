//! What the router does with a matched request: answer it, or forward it to a host of a cluster.
//!
//! Source: Envoy `docs/root/configuration/http/http_filters/router_filter.rst`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use proxy_core::extension::http_filter::Direction;
use proxy_core::head::{ResponseHead, Scheme};
use proxy_core::headers::{
    EnvoyHeader, X_ENVOY_ATTEMPT_COUNT, X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT, X_ENVOY_MAX_RETRIES,
    X_ENVOY_RETRIABLE_HEADER_NAMES, X_ENVOY_RETRIABLE_STATUS_CODES, X_ENVOY_RETRY_GRPC_ON, X_ENVOY_RETRY_ON,
};
use proxy_core::local_reply::LocalReply;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::upstream::HostResult;

use super::deadlines::{Tick, Timeout};
use super::exchange::Failure;
use super::filter_chain::Ending;
use super::retry::Tries;
use super::stream::{Stream, StreamEnd, overloaded, refuse, selected};
use crate::codec::downstream::Downstream;
use crate::local::clock;
use crate::local::overload::Point;
use crate::local::timers::Timer;
use crate::router::cluster::ClusterChoice;
use crate::router::forward::Priority;
use crate::router::rewrite::EnvoyHeaders;
use crate::router::route::Action;
use crate::router::timeouts::ExpectedTimeout;
use crate::upstream::circuit_breaker::BreakerPriority;
use crate::upstream::cluster::Cluster;
use crate::upstream::dynamic::Finding;
use crate::upstream::http_options::Carriage;
use crate::upstream::pool::{HostPool, Lease, NoHost, RequestGuard, WorkerCluster};
use crate::upstream::stream::Upstream;
use crate::upstream::transport_options::{Client, TransportOptions};
use crate::upstream::tunnel::Tunnel;

/// What requests ask of the router about retries.
static RETRY_HEADERS: [&EnvoyHeader; 6] = [
    &X_ENVOY_RETRY_ON,
    &X_ENVOY_RETRY_GRPC_ON,
    &X_ENVOY_MAX_RETRIES,
    &X_ENVOY_RETRIABLE_HEADER_NAMES,
    &X_ENVOY_RETRIABLE_STATUS_CODES,
    &X_ENVOY_HEDGE_ON_PER_TRY_TIMEOUT,
];

/// How often a request is sent that hosts refuse without having worked on it.
const MAX_SENDS: u32 = 4;

/// For what time a request is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    First,
    /// Nobody had it: the host gets it on a connection of its own.
    Resent,
    /// Its retry policy wants it.
    Retried,
}

/// What became of sending a request.
enum Sent {
    /// The response was passed on.
    Answered,
    /// There will be no response.
    Failed(Failed),
    /// It is sent again after this pause; whether because it took too long.
    Again { pause: Duration, timed_out: bool },
    /// An earlier try goes on in place of this one.
    Overtaken,
}

struct Failed {
    reset: UpstreamReset,
    reason: String,
    /// The deadline of the try that passed.
    timeout: Option<Timeout>,
    /// How often the request may be sent without a policy.
    max_sends: u32,
}

/// Why there is no upstream stream.
pub(super) enum Unavailable {
    Reset(UpstreamReset, String),
    /// An earlier try goes on.
    Overtaken,
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

    /// Where the request is, if it says so: its own URL.
    fn own_location(&self) -> Option<HeaderValue> {
        let (scheme, authority, path) = (self.request.scheme, &self.request.authority, &self.request.path);
        if path.is_empty() {
            return None;
        }
        HeaderValue::try_from(format!("{}://{authority}{path}", scheme.as_str())).ok()
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
                self.own_reply(reply)
            }
            Some((_, Action::DirectResponse(direct))) => {
                stats.rq_direct_response.inc();
                let body = direct.render(&self.request, &self.info);
                let mut reply = LocalReply::new(direct.status, body.bytes, "direct_response");
                if let Some(content_type) = body.content_type {
                    reply.headers.insert(header::CONTENT_TYPE, content_type);
                }
                if direct.says_where()
                    && let Some(location) = self.own_location()
                {
                    reply.headers.insert(header::LOCATION, location);
                }
                self.own_reply(reply)
            }
            Some((_, Action::NonForwarding | Action::Forward(_))) | None => {
                refuse(StatusCode::NOT_FOUND, "route_not_found")
            }
        }
    }

    pub(super) fn envoy_headers(&self) -> EnvoyHeaders {
        match self.router().suppress_envoy_headers {
            true => EnvoyHeaders::Suppressed,
            false => EnvoyHeaders::Added,
        }
    }

    /// A reply of a route that answers itself, with the header mutations of its levels.
    fn own_reply(&mut self, mut reply: LocalReply) -> StreamEnd {
        // (Mutations may tell why.)
        self.info.details = Some(reply.details.clone());
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

    /// A reply of the router in place of a host's.
    pub(super) fn route_reply(&self, mut reply: LocalReply) -> StreamEnd {
        if self.info.upstream.attempts > 0
            && self.route().is_some_and(|route| route.virtual_host().include_attempt_count_in_response)
        {
            reply.headers.insert(&*X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(self.info.upstream.attempts));
        }
        StreamEnd::Reply(Box::new(reply))
    }

    async fn forward<D: Downstream>(&mut self, down: &mut D, timer: &mut Timer) -> Result<(), StreamEnd> {
        let mut cluster = self.take_cluster()?;
        self.check_strictly()?;
        if cluster.cluster.refuses_in_maintenance(|| self.cx.random()) {
            return Err(self.no_host(NoHost::InMaintenance));
        }
        if let Some(overload) = &self.cx.overload
            && overload.sheds(Point::Router, || self.cx.random())
        {
            self.cx.router_stats.here().rq_overload_local_reply.inc();
            self.info.upstream.attempts = 1;
            return Err(StreamEnd::Reply(Box::new(overloaded())));
        }
        let priority = self.prepare(&cluster);
        let mut hash = self.hash(&cluster.cluster);
        let mut sends = 1;
        let mut sending = Sending::First;
        loop {
            let mut again = None;
            match self.send(down, timer, &cluster, (priority, hash), sending).await? {
                Sent::Answered => return self.flush(down, timer).await,
                Sent::Failed(failed) => {
                    if sends < failed.max_sends && !self.would_retry(failed.reset) {
                        sends += 1;
                        sending = Sending::Resent;
                        continue;
                    }
                    let Some(pause) = self.retries_reset(failed.reset) else {
                        if failed.timeout.is_none() && self.races() {
                            self.lose_reset(failed.reset);
                            self.recall();
                            continue;
                        }
                        return Err(match failed.timeout {
                            Some(timeout) => self.timed_out(timeout),
                            None => self.upstream_failed(failed.reset, failed.reason),
                        });
                    };
                    match failed.timeout {
                        Some(timeout) => self.count_try_timeout(timeout),
                        None => self.count_reset(failed.reset),
                    }
                    let timed_out = matches!(failed.timeout, Some(Timeout::Try | Timeout::TryIdle));
                    again = Some((pause, timed_out));
                }
                Sent::Again { pause, timed_out } => again = Some((pause, timed_out)),
                Sent::Overtaken => self.recall(),
            }
            if let Some((pause, timed_out)) = again {
                self.pause(down, timer, pause).await?;
                if !self.is_recalled() {
                    let Some(next) = self.next_cluster(cluster.clone()) else {
                        self.info.upstream.attempts += 1;
                        if !self.races() {
                            return Err(self.no_cluster_left());
                        }
                        // (An earlier try may still be answered.)
                        self.recall();
                        continue;
                    };
                    self.prepare_again(&next, timed_out);
                    if !Rc::ptr_eq(&next, &cluster) {
                        hash = self.hash(&next.cluster);
                        cluster = next;
                    }
                    sending = Sending::Retried;
                }
            }
        }
    }

    /// Sends the request to a host, and passes its response on unless the request is to be sent again.
    async fn send<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        cluster: &Rc<WorkerCluster>,
        wants: (BreakerPriority, Option<u64>),
        sending: Sending,
    ) -> Result<Sent, StreamEnd> {
        let resumed = if self.races() { self.resume_attempt() } else { None };
        let is_resumed = resumed.is_some();
        let opened = match resumed {
            Some(up) => Ok(up),
            None => self.open(down, timer, cluster, wants, sending).await,
        };
        let mut up = match opened {
            Ok(up) => up,
            Err(Unavailable::Overtaken) => {
                self.log_upstream_end(|| down.wire());
                return Ok(Sent::Overtaken);
            }
            Err(Unavailable::End(end)) => {
                if !matches!(end, StreamEnd::Gone) {
                    self.log_upstream_end(|| down.wire());
                }
                return Err(end);
            }
            Err(Unavailable::Reset(reset, reason)) => {
                self.log_upstream_failure(reset);
                if self.mirrors.is_some() && !self.would_retry(reset) {
                    Box::pin(self.mirror_what_came(down, timer)).await?;
                }
                if self.tries.is_none() {
                    let end = self.upstream_failed(reset, reason);
                    self.log_upstream_end(|| down.wire());
                    return Err(end);
                }
                self.log_upstream_end(|| down.wire());
                return Ok(Sent::Failed(Failed { reset, reason, timeout: None, max_sends: 0 }));
            }
        };
        let queued = if is_resumed { Ok(()) } else { self.begin_request(down, &mut up) };
        let was_sent = queued.is_ok();
        let ended = match queued {
            Ok(()) => self.exchange(down, &mut up, timer).await,
            Err(reset) => Err(Failure::Upstream(reset)),
        };
        if let Err(Failure::Hedged(pause)) = ended {
            self.end_try_span();
            self.put_aside(up);
            return Ok(Sent::Again { pause, timed_out: true });
        }
        self.info.upstream.wire = up.wire();
        if let Err(Failure::Upstream(reset)) = &ended {
            self.log_upstream_failure(*reset);
        }
        self.end_try_span();
        if !matches!(ended, Err(Failure::End(StreamEnd::Gone))) {
            self.log_upstream_end(|| down.wire());
        }
        let is_cut_short = matches!(up, Upstream::Http2(_)) && self.info.upstream.last_rx.is_none();
        let member = self.member.clone();
        let cut_short = || {
            if is_cut_short {
                member.as_ref().unwrap_or(cluster).cluster.stats.traffic.here().upstream_rq_tx_reset.inc();
            }
        };
        match ended {
            Ok(()) => {
                // The host is done with it, however long the client takes.
                drop(up);
                self.track_end(clock::now());
                self.in_flight = None;
                Ok(Sent::Answered)
            }
            Err(Failure::End(end)) => {
                cut_short();
                Err(end)
            }
            Err(Failure::Refused(pause) | Failure::Hedged(pause)) => {
                cut_short();
                self.track_try(clock::now());
                Ok(Sent::Again { pause, timed_out: false })
            }
            Err(Failure::Denied) => {
                cut_short();
                self.track_try(clock::now());
                Ok(Sent::Overtaken)
            }
            Err(Failure::TimedOut(timeout)) => {
                cut_short();
                self.track_try(clock::now());
                let (reset, timeout) = (UpstreamReset::LocalReset, Some(timeout));
                Ok(Sent::Failed(Failed { reset, reason: String::new(), timeout, max_sends: 0 }))
            }
            Err(Failure::Upstream(reset)) => {
                let max_sends = self.max_sends(reset, &up, was_sent);
                Ok(Sent::Failed(Failed { reset, reason: String::new(), timeout: None, max_sends }))
            }
        }
    }

    /// Queues the head for a host that it is new to.
    fn begin_request<D: Downstream>(&mut self, down: &D, up: &mut Upstream) -> Result<(), UpstreamReset> {
        self.log_upstream_ready(|| down.wire());
        // What was gathered of the body follows the head.
        let end = (self.request_done || self.is_tunnel())
            && self.gathered.is_none()
            && !self.holds(Direction::Request)
            && (self.is_tunnel() || !down.has_metadata());
        self.body_sent = false;
        self.tell_of_trace();
        up.request(&self.request, end)?;
        let sent = clock::now();
        self.info.upstream.first_tx = Some(sent);
        self.info.upstream.last_tx = self.request_done.then_some(sent);
        Ok(())
    }

    /// How often the request may be sent whose stream ended so, without anybody having worked on it twice who minds.
    fn max_sends(&self, reset: UpstreamReset, up: &Upstream, was_sent: bool) -> u32 {
        // What was sent of the body is gone.
        let is_whole = !self.body_sent
            && !self.committed
            && self.info.upstream.first_rx.is_none()
            && self.tries.as_ref().is_none_or(|tries| !tries.is_hedged);
        match reset {
            _ if !is_whole => 0,
            // The host did not work on it (RFC 9113, 8.7).
            UpstreamReset::RemoteRefused => MAX_SENDS,
            // The host closed a connection at the moment it was used again: nothing is lost if the request
            // did not leave, or does not mind to be worked on twice.
            UpstreamReset::ConnectionTermination
                if up.is_reused() && (!was_sent || self.request.method.is_idempotent()) =>
            {
                2
            }
            UpstreamReset::ConnectionTermination
            | UpstreamReset::ConnectFailure
            | UpstreamReset::LocalConnectFailure
            | UpstreamReset::ConnectTimeout
            | UpstreamReset::RemoteReset
            | UpstreamReset::LocalReset
            | UpstreamReset::Overflow
            | UpstreamReset::ProtocolError => 0,
        }
    }

    /// The cluster that the route chose, or what has come in its place while a filter made the request wait.
    fn take_cluster(&mut self) -> Result<Rc<WorkerCluster>, StreamEnd> {
        if let Some(cluster) = self.cluster.as_ref().filter(|cluster| !cluster.is_retired()) {
            return Ok(cluster.clone());
        }
        let clusters = &self.cx.shared.clusters;
        let Some(route) = self.route() else { return Err(refuse(StatusCode::NOT_FOUND, "route_not_found")) };
        let found = match (&self.cluster, route.cluster(&self.request, &self.info)) {
            (Some(retired), _) => clusters.get(&retired.cluster.name),
            (None, ClusterChoice::Named(name)) => clusters.get(name),
            // The header counted when the route was matched.
            (None, ClusterChoice::FromRequest(_) | ClusterChoice::None) => None,
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
    fn prepare(&mut self, cluster: &WorkerCluster) -> BreakerPriority {
        let headers = self.envoy_headers();
        let manager = &*self.cx.manager;
        let expected = match self.router().respect_expected_rq_timeout {
            true => ExpectedTimeout::Respected,
            false => ExpectedTimeout::Overwritten,
        };
        let is_routed = self.is_routed();
        let Self { table, matched, request, info, deadlines, .. } = self;
        let Some(route) = selected(table.as_ref(), *matched) else {
            return BreakerPriority::Default;
        };
        let policy = cluster.cluster.http.retry.as_ref().or(route.retry_policy());
        let mut timeouts = route.timeouts(request, expected, policy.and_then(|policy| policy.per_try));
        let now = clock::now();
        deadlines.set_idle(timeouts.idle.or(manager.stream_idle_timeout));
        let max_stream = timeouts.resolve_max_stream(manager.max_stream_duration);
        deadlines.set_max_duration(max_stream.map(|max| info.start + max));
        self.route_timeout = timeouts.global;
        if is_routed {
            deadlines.set_route(timeouts.global.map(|timeout| now + timeout));
        }
        timeouts.hedges = route.hedges(request, timeouts.is_asked);
        timeouts.write_headers(request, Duration::ZERO, headers);
        if route.virtual_host().include_request_attempt_count {
            request.headers.insert(&*X_ENVOY_ATTEMPT_COUNT, HeaderValue::from_static("1"));
        }
        info.upstream.attempts = 1;
        route.finalize_request(request, info, headers);
        self.server_name =
            cluster.cluster.http.names.as_ref().map(|names| names.of(&request.headers, &request.authority));
        let priority = match route.action() {
            Action::Forward(forward) if forward.priority == Priority::High => BreakerPriority::High,
            _ => BreakerPriority::Default,
        };
        // (What a route adds asks the router too.)
        timeouts.is_asked = timeouts.is_asked || route.asks_router();
        let limit = route.entry().buffer_limit.and_then(|limit| usize::try_from(limit).ok());
        let limit = limit.unwrap_or(self.cx.buffer_limit);
        let redirects = match route.action() {
            Action::Forward(forward) => forward.internal_redirects.is_some(),
            Action::Redirect(_) | Action::DirectResponse(_) | Action::NonForwarding => false,
        };
        if policy.is_some() || timeouts.is_asked || redirects {
            self.tries = Tries::new(request, policy, &timeouts, priority, (redirects, limit));
        }
        // Retries are the router's business, not the upstream's.
        if timeouts.is_asked {
            for name in RETRY_HEADERS {
                request.headers.remove(&**name);
            }
        }
        self.mirror(&cluster.cluster, timeouts.global);
        if (self.tries.is_some() || self.mirrors.is_some())
            && let Some(gathered) = self.gathered.as_deref().cloned()
        {
            self.keep(&gathered);
        } else if self.request_done && !self.holds(Direction::Request) {
            self.finish_mirrors(&Ending::Stream);
        }
        priority
    }

    /// Picks a host and gets a stream to it.
    async fn open<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        cluster: &Rc<WorkerCluster>,
        (priority, hash): (BreakerPriority, Option<u64>),
        sending: Sending,
    ) -> Result<Upstream, Unavailable> {
        if sending != Sending::First {
            self.info.upstream.attempts += 1;
        }
        let place = match cluster.aggregate() {
            Some(aggregate) => {
                let place = self.choose_member(cluster, aggregate, sending);
                Some(place.map_err(|none| self.without_host(none))?)
            }
            None => None,
        };
        // What is the route's to say is said by its cluster, the rest by that of the host.
        let (of_route, member) = (cluster, self.member.clone());
        let cluster = member.as_ref().unwrap_or(of_route);
        let hash = if place.is_some() { self.hash(&cluster.cluster) } else { hash };
        let known = match cluster.find_host(&self.info, Some(&self.request)) {
            Some(Finding::Known(found)) => Some(found),
            Some(Finding::Waits(found)) => {
                Box::pin(self.await_host(down, timer, found)).await?;
                None
            }
            None => None,
        };
        self.note_wishes(&cluster.cluster, sending);
        let host = self.pick_host(cluster, place.as_ref(), hash, sending, known);
        let host = host.map_err(|none| self.without_host(none))?;
        self.info.upstream.host = Some(host.clone());
        self.info.upstream.sought = true;
        self.info.upstream.connection_id = None;
        self.info.upstream.tls = None;
        self.info.upstream.filtered = None;
        self.rewrite_host(&host.hostname);
        self.in_flight = None;
        self.info.upstream.transport_failure = None;
        if self.cx.manager.scheme_match_upstream {
            let is_secured = cluster.cluster.transport.of(|| host.metadata()).tls.is_some();
            self.request.scheme = if is_secured { Scheme::Https } else { Scheme::Http };
        }
        let options = self.transport_options(&of_route.cluster, &cluster.cluster);
        let Some(pool) = cluster.pool(&host, &self.cx.info, options.as_ref(), priority) else {
            self.info.upstream.host = None;
            return Err(self.without_host(NoHost::Unavailable));
        };
        self.log_upstream_start();
        let fresh = sending == Sending::Resent;
        if !fresh {
            let passed = self.pass_to_upstream(down, timer, &of_route.cluster).await;
            passed.map_err(Unavailable::End)?;
        }
        if cluster.cluster.balancing.preconnect.predictive() > 1.0
            && place.is_none()
            && !self.is_connect_terminated()
        {
            let carriage = cluster.cluster.http.protocol.carriage(down.protocol());
            let random = &mut self.cx.shared.random.borrow_mut();
            cluster.preconnect(random, &self.cx.info, options.as_ref(), priority, carriage);
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
        self.begin_mirrors();
        if let Some(limit) = cluster.cluster.http.max_stream_duration {
            self.deadlines.set_upstream(Some(clock::now() + limit));
        }
        self.start_try();
        self.note_at_host(HostResult::Connected);
        for stats in self.route_stats() {
            stats.here().upstream_rq_total.inc();
        }
        let info = &mut self.info.upstream;
        info.attempted.push(host);
        info.connection_id = up.id();
        info.tls = up.tls().cloned();
        info.filtered = up.filtered().cloned();
        info.local = up.local().cloned();
        info.protocol = Some(up.protocol());
        (info.connect_start, info.connect_end) = up.connect_times().unzip();
        Ok(up)
    }

    /// There is nobody to try: an earlier try may still be answered.
    fn without_host(&mut self, none: NoHost) -> Unavailable {
        match self.races() {
            true => Unavailable::Overtaken,
            false => Unavailable::End(self.no_host(none)),
        }
    }

    /// What the connection must be like, if that is more than a connection to the host: its name is for the cluster of the route to say.
    fn transport_options(&self, of_route: &Cluster, cluster: &Cluster) -> Option<TransportOptions> {
        let named = of_route.http.names.as_ref().zip(self.server_name.as_ref());
        let named = named.map(|(names, name)| names.options(name));
        let named = TransportOptions::with_state(named, &self.info);
        if !cluster.transport.tells_of_clients() {
            return named;
        }
        let is_told = self.cx.manager.tells_of_clients || self.cx.info.proxied.is_some();
        let client = is_told.then(|| Client::of(&self.cx.info));
        Some(TransportOptions { client, ..named.unwrap_or_default() })
    }

    fn rewrite_host(&mut self, hostname: &str) {
        if hostname.is_empty() {
            // (As in Envoy, what the try before was given for a host stays then.)
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
        let carriage = pool.cluster.http.protocol.carriage(down.protocol());
        if carriage == Carriage::Http1
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
            } else {
                let lease = match carriage {
                    Carriage::Http1 => Lease::Http1(pool.open_http1(priority).await?),
                    Carriage::Http2 => Lease::Http2(pool.open_http2(priority).await?),
                    Carriage::Either => pool.open_either(priority, fresh).await?,
                };
                match lease {
                    Lease::Http1(lease) => Ok(Upstream::Http1(lease)),
                    Lease::Http2(lease) => {
                        if is_upgrade {
                            lease.await_extended_connect().await;
                        }
                        Ok(Upstream::Http2(lease))
                    }
                }
            }
        };
        let mut opening = pin!(opening);
        poll_fn(|cx| {
            let opened = opening.as_mut().poll(cx);
            if let Poll::Ready(opened) = opened {
                return Poll::Ready(opened.map_err(|(reset, reason)| Unavailable::Reset(reset, reason)));
            }
            self.begin_mirrors();
            if self.races() && self.poll_race(cx).is_ready() {
                pool.cluster.stats.traffic.here().upstream_rq_cancelled.inc();
                return Poll::Ready(Err(Unavailable::Overtaken));
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
}
