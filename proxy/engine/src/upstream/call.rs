//! Calls that the proxy itself makes ([`proxy_core::callout`]): a host of the cluster, a connection of this worker's pools, one request, the
//! whole answer. Counted like any other request to the cluster, one of internal origin.
//!
//! A connection that the host closed at the moment of reuse costs nothing, as in the router; no other failure is hidden.
//! Source: Envoy `source/common/http/async_client_impl.cc`, which sends calls through a router of their own.

pub(crate) mod copy;
mod talk;
mod tries;

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use proxy_core::address::Address;
use proxy_core::callout::grpc::{BadFrame, Frames};
use proxy_core::callout::{Answer, Call, CallFailure, Called, EnvoyHeaders};
use proxy_core::config::BuildEnv;
use proxy_core::head::{BodyEvent, Protocol, ResponseHead};
use proxy_core::headers::{
    X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, X_ENVOY_INTERNAL, X_ENVOY_UPSTREAM_SERVICE_TIME, X_FORWARDED_FOR, number,
};
use proxy_core::stats::groups::ClusterTrafficStats;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use proxy_core::upstream::{Host, HostResult, LinearPick};

use self::copy::CopyBody;
pub(crate) use self::talk::converse;
use self::tries::Tries;
use super::canary::is_canary;
use super::circuit_breaker::BreakerPriority;
use super::cluster::Cluster;
use super::dynamic::Finding;
use super::http_options::Carriage;
use super::load_report;
use super::pool::{Clusters, HostPool, Lease, NoHost, RequestGuard, Wants, WorkerCluster};
use super::stream::Upstream;
use crate::codec::upstream::UpstreamEvent;
use crate::local::clock;
use crate::local::timers::Timer;

/// How often a request is sent that hosts refuse without having worked on it.
const MAX_SENDS: u32 = 4;

/// The address of no client: nobody is connected for whom the proxy asks.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Makes `call`. Cancel-safe: dropping it resets the request.
pub(crate) async fn run(
    clusters: Rc<Clusters>,
    env: Arc<BuildEnv>,
    random: fastrand::Rng,
    call: Call,
) -> Called {
    Box::pin(run_with(clusters, env, random, call, Extent::Call)).await
}

/// Sends `copy` of a request with a `body` that comes along, until it is given up: it goes with the length and the trailers that it comes with, and
/// nobody reads the answer.
pub(crate) async fn send_copy(
    clusters: Rc<Clusters>,
    env: Arc<BuildEnv>,
    random: fastrand::Rng,
    copy: Call,
    body: CopyBody,
) {
    let shared = body.share();
    tokio::select! {
        biased;
        () = shared.given_up() => {}
        _ = run_with(clusters, env, random, copy, Extent::Copy(body)) => {}
    }
}

/// What there is of a request and its answer.
enum Extent {
    /// A body of known length, and an answer.
    Call,
    /// What another request has, and nothing of the answer.
    Copy(CopyBody),
}

/// When a call or a copy has to be over.
enum Deadline {
    At(Option<Instant>),
    /// So long after the end of its request.
    OfCopy(CopyBody, Option<Duration>),
}

impl Deadline {
    fn get(&self, cx: &mut Context<'_>) -> Option<Instant> {
        match self {
            Self::At(at) => *at,
            Self::OfCopy(body, timeout) => body.deadline(*timeout, cx),
        }
    }
}

async fn run_with(
    clusters: Rc<Clusters>,
    env: Arc<BuildEnv>,
    random: fastrand::Rng,
    mut call: Call,
    extent: Extent,
) -> Called {
    let Some(cluster) = clusters.get(&call.cluster) else { return Err(CallFailure::NoCluster) };
    let clusters = cluster.aggregate().is_some().then_some(clusters);
    write_headers(&mut call, env.node.address);
    if matches!(extent, Extent::Call) {
        write_length(&mut call);
    }
    let begun = clock::now();
    let at = call.timeout.map(|timeout| begun + timeout);
    let deadline = match &extent {
        Extent::Call => Deadline::At(at),
        Extent::Copy(body) => Deadline::OfCopy(body.share(), call.timeout),
    };
    let mut tries = call.retry.clone().map(|policy| Tries::new(policy, env, at));
    let mut calling =
        Calling { cluster, clusters, member: None, call, extent, random, host: None, is_answered: false };
    let mut timer = Timer::default();
    let mut called = {
        let mut sending = std::pin::pin!(async {
            calling.check_maintenance()?;
            match &mut tries {
                Some(tries) => tries.send(&mut calling).await,
                None => calling.send(None).await,
            }
        });
        poll_fn(|cx| {
            let deadline = deadline.get(cx);
            if let Poll::Ready(called) = sending.as_mut().poll(cx) {
                return Poll::Ready(called);
            }
            match deadline {
                Some(at) => timer.poll(cx, at).map(|()| Err(CallFailure::Timeout)),
                None => Poll::Pending,
            }
        })
        .await
    };
    calling.settle(&mut called, begun, tries.is_some_and(|tries| tries.ran_out()));
    called
}

/// What the proxy says of itself, and for how long it is going to wait.
fn write_headers(call: &mut Call, own_address: Option<IpAddr>) {
    let headers = &mut call.request.headers;
    if call.envoy_headers != EnvoyHeaders::Skipped {
        headers.insert(&*X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    }
    if call.envoy_headers == EnvoyHeaders::InternalAndForwarded
        && let Some(address) = own_address
    {
        append_forwarded_for(headers, address);
    }
    if let Some(timeout) = call.timeout {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        headers.insert(&*X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, number(millis));
    }
}

fn write_length(call: &mut Call) {
    let is_sized = call.request.headers.contains_key(header::CONTENT_LENGTH);
    if !is_sized && !call.body.is_empty() && !call.request.is_grpc() {
        call.request.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(call.body.len()));
    }
}

fn append_forwarded_for(headers: &mut HeaderMap, address: IpAddr) {
    let all = match headers.get(&X_FORWARDED_FOR) {
        Some(before) => [before.as_bytes(), b",", address.to_string().as_bytes()].concat(),
        None => address.to_string().into_bytes(),
    };
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(all)) {
        headers.insert(&X_FORWARDED_FOR, value);
    }
}

/// A call under way.
struct Calling {
    cluster: Rc<WorkerCluster>,
    /// Where to find the clusters that this one stands for, if it is an aggregate.
    clusters: Option<Rc<Clusters>>,
    /// That of the host then.
    member: Option<Rc<WorkerCluster>>,
    call: Call,
    extent: Extent,
    random: fastrand::Rng,
    /// Who is asked.
    host: Option<Arc<Host>>,
    /// An answer began to come.
    is_answered: bool,
}

impl Calling {
    /// Sends it; an answer that `tries` want to have again is not read further than its head.
    async fn send(&mut self, tries: Option<&Tries>) -> Called {
        if self.call.request.method == Method::CONNECT {
            // A call is no tunnel, and a host that agreed to one would have answered nothing. In Envoy it fails, too.
            return Err(CallFailure::Reset(UpstreamReset::LocalReset));
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (mut up, in_flight) = self.open(attempt > 1).await?;
            let is_bare = match &self.extent {
                Extent::Call => self.call.body.is_empty(),
                Extent::Copy(body) => body.is_bare(),
            };
            let reset = match up.request(&self.call.request, is_bare) {
                Ok(()) => {
                    let mut coming = match &self.extent {
                        Extent::Copy(body) => Some(body).filter(|_| !is_bare),
                        Extent::Call => {
                            if !is_bare {
                                up.data(self.call.body.clone());
                                up.finish(None);
                            }
                            None
                        }
                    };
                    let mut reading = Reading::new(&self.call, &self.extent);
                    let carrier = self.host_cluster().clone();
                    let sent = Sent { cluster: &carrier.cluster, protocol: up.protocol() };
                    let read = poll_fn(|cx| {
                        if let Some(body) = coming
                            && let Poll::Ready(passed) = body.poll_pass(&mut up, cx)
                        {
                            passed.map_err(Broken::Reset)?;
                            coming = None;
                        }
                        reading.poll(&mut up, tries, cx)
                    })
                    .await;
                    if !matches!(read, Err(Broken::TooLarge)) {
                        std::mem::forget(sent);
                    }
                    match read {
                        Ok(()) => return self.answer(reading, &up),
                        Err(Broken::TooLarge) => return Err(CallFailure::TooLarge),
                        Err(Broken::Reset(reset)) if reading.head.is_some() => {
                            self.is_answered = true;
                            return Err(CallFailure::Reset(reset));
                        }
                        Err(Broken::Reset(reset)) => reset,
                    }
                }
                Err(reset) => reset,
            };
            drop(in_flight);
            let is_whole = match &self.extent {
                Extent::Call => true,
                Extent::Copy(body) => body.is_whole(),
            };
            let is_safe = match reset {
                _ if !is_whole => false,
                // The host did not work on it (RFC 9113, 8.7).
                UpstreamReset::RemoteRefused => attempt < MAX_SENDS,
                // The host closed a connection at the moment it was used again.
                UpstreamReset::ConnectionTermination => {
                    attempt == 1 && up.is_reused() && self.call.request.method.is_idempotent()
                }
                UpstreamReset::ConnectFailure
                | UpstreamReset::LocalConnectFailure
                | UpstreamReset::ConnectTimeout
                | UpstreamReset::RemoteReset
                | UpstreamReset::LocalReset
                | UpstreamReset::Overflow
                | UpstreamReset::ProtocolError => false,
            };
            if !is_safe {
                return Err(CallFailure::Reset(reset));
            }
        }
    }

    /// Fails where the runtime has the cluster in maintenance.
    fn check_maintenance(&mut self) -> Result<(), CallFailure> {
        match self.cluster.cluster.refuses_in_maintenance(|| self.random.u64(..)) {
            true => Err(CallFailure::NoHost),
            false => Ok(()),
        }
    }

    /// Picks a host and gets a stream to it.
    async fn open(&mut self, fresh: bool) -> Result<(Upstream, RequestGuard), CallFailure> {
        let nobody = Rc::new(ConnectionInfo::new(Address::Ip(NOBODY), Address::Ip(NOBODY), Arc::default()));
        let priority = BreakerPriority::Default;
        let host = {
            let info = StreamInfo::new(nobody.clone(), clock::now(), std::time::SystemTime::UNIX_EPOCH);
            let place = self.choose_member()?;
            let cluster = self.member.as_ref().unwrap_or(&self.cluster);
            let mut known = None;
            match cluster.find_host(&info, Some(&self.call.request)) {
                Some(Finding::Known(found)) => known = Some(found),
                Some(Finding::Waits(found)) => Box::pin(found).await.map_err(|_| CallFailure::NoHost)?,
                None => {}
            }
            let hosts = cluster.cluster.balancing.override_hosts();
            let listed = hosts.map(|hosts| hosts.queue(Some(&self.call.request), &info));
            let wants = Wants { listed: listed.as_ref(), found: known.as_ref(), ..Wants::default() };
            let picked = match place {
                Some(place) => {
                    let picked = cluster.pick_member(wants, &place.loads, &mut self.random);
                    picked.ok_or(NoHost::Unavailable)
                }
                None => cluster.pick_for_request(&info, &self.call.request, wants, &mut self.random),
            };
            picked.map_err(|_| CallFailure::NoHost)?
        };
        self.host = Some(host.clone());
        // A call is for no client; its name is that of its request.
        let names = self.cluster.cluster.http.names.as_ref();
        let options = names
            .map(|names| names.options(&names.of(&self.call.request.headers, &self.call.request.authority)));
        let cluster = self.host_cluster();
        let pool = cluster.pool(&host, &nobody, options.as_ref(), priority).ok_or(CallFailure::NoHost)?;
        let waiting = Waiting(&cluster.cluster);
        let up = connect(&pool, priority, fresh).await;
        std::mem::forget(waiting);
        let up = up.map_err(CallFailure::Reset)?;
        let guard = RequestGuard::new(&cluster.cluster, &host, priority);
        let guard = guard.ok_or(CallFailure::Reset(UpstreamReset::Overflow))?;
        self.note(HostResult::Connected);
        Ok((up, guard))
    }

    /// Chooses the cluster and its priority, if the call is to an aggregate.
    fn choose_member(&mut self) -> Result<Option<LinearPick>, CallFailure> {
        let Some((aggregate, clusters)) = self.cluster.aggregate().zip(self.clusters.as_ref()) else {
            return Ok(None);
        };
        let pick = self.cluster.priorities(aggregate, clusters).pick(None, self.random.u64(..));
        self.member = pick.as_ref().and_then(|pick| aggregate.member(pick, clusters));
        match pick.filter(|_| self.member.is_some()) {
            Some(pick) => Ok(Some(pick)),
            None => {
                self.cluster.no_member();
                Err(CallFailure::NoHost)
            }
        }
    }

    /// The cluster that the host is of.
    fn host_cluster(&self) -> &Rc<WorkerCluster> {
        self.member.as_ref().unwrap_or(&self.cluster)
    }

    fn answer(&self, reading: Reading, up: &Upstream) -> Called {
        let is_whole = reading.is_whole;
        let Reading { head: Some(head), body, trailers, .. } = reading else {
            return Err(CallFailure::Reset(UpstreamReset::ProtocolError));
        };
        if !is_whole && up.protocol() == Protocol::Http2 {
            let stats = &self.host_cluster().cluster.stats;
            stats.traffic.here().upstream_rq_tx_reset.inc();
            stats.http2().here().tx_reset.inc();
        }
        let Some(host) = self.host.clone() else { return Err(CallFailure::NoHost) };
        Ok(Answer { head, body: body.freeze(), trailers, wire: up.wire(), host })
    }

    /// Counts how it ended.
    fn settle(&self, called: &mut Called, begun: Instant, tried_out: bool) {
        let stats = self.stats();
        let is_internal = self.call.envoy_headers != EnvoyHeaders::Skipped;
        let status = match called {
            Ok(answer) => {
                let elapsed = clock::now().saturating_duration_since(begun);
                let elapsed = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
                stats.upstream_rq_time.record(elapsed);
                match is_internal {
                    true => stats.internal_upstream_rq_time.record(elapsed),
                    false => stats.external_upstream_rq_time.record(elapsed),
                }
                if is_canary(self.host.as_deref(), &answer.head.headers) {
                    stats.canary_upstream_rq.inc(answer.head.status.as_u16());
                    stats.canary_upstream_rq_time.record(elapsed);
                }
                answer.head.headers.insert(&*X_ENVOY_UPSTREAM_SERVICE_TIME, number(elapsed));
                answer.head.status
            }
            Err(failure) => {
                // (That of a try was counted with it.)
                if !tried_out {
                    self.count_failure(failure);
                }
                failure.status()
            }
        };
        stats.upstream_rq.inc(status.as_u16());
        match is_internal {
            true => stats.internal_upstream_rq.inc(status.as_u16()),
            false => stats.external_upstream_rq.inc(status.as_u16()),
        }
        self.count_at_host(called, status);
    }

    /// Tells outlier detection, if there is any, what became of asking the host.
    fn note(&self, result: HostResult) {
        if let Some((outlier, host)) = self.host_cluster().cluster.outlier.as_ref().zip(self.host.as_ref()) {
            outlier.note(host, result);
        }
    }

    /// Notes what the host reports of its load, if that matters.
    fn note_report(&self, answer: &Answer) {
        let reported = self.host_cluster().cluster.balancing.reported.as_ref();
        let Some((reported, host)) = reported.zip(self.host.as_ref()) else { return };
        let report = load_report::report(&answer.head.headers);
        if let Some(report) = report.or_else(|| answer.trailers.as_ref().and_then(load_report::report)) {
            reported.note(host, &report, clock::now());
        }
    }

    fn count_failure(&self, failure: &CallFailure) {
        let stats = self.stats();
        match failure {
            CallFailure::Timeout => stats.upstream_rq_timeout.inc(),
            CallFailure::Reset(UpstreamReset::RemoteReset) => stats.upstream_rq_rx_reset.inc(),
            CallFailure::Reset(UpstreamReset::ProtocolError) if !self.is_http2() => {
                stats.upstream_cx_protocol_error.inc();
            }
            CallFailure::Reset(_) | CallFailure::NoHost | CallFailure::NoCluster | CallFailure::TooLarge => {}
        }
    }

    fn count_at_host(&self, called: &Called, status: StatusCode) {
        match called {
            Ok(answer) => {
                let checks = self.host_cluster().cluster.checks.as_ref();
                if let Some((checks, host)) = checks.zip(self.host.as_ref()) {
                    checks.note(host, &answer.head);
                }
                if let Some((outlier, host)) =
                    self.host_cluster().cluster.outlier.as_ref().zip(self.host.as_ref())
                {
                    outlier.note_answer(host, &answer.head, self.call.request.is_grpc());
                }
                self.note_report(answer);
            }
            Err(CallFailure::Timeout) => self.note(HostResult::TimedOut),
            Err(
                CallFailure::Reset(UpstreamReset::Overflow) | CallFailure::NoHost | CallFailure::NoCluster,
            ) => {}
            Err(CallFailure::Reset(_)) => self.note(HostResult::ConnectFailed),
            Err(CallFailure::TooLarge) => self.note(HostResult::Answered(200)),
        }
        let Some(host) = &self.host else { return };
        let counter = match called {
            Err(CallFailure::Timeout) => &host.stats.rq_timeout,
            Ok(_) if !status.is_server_error() => &host.stats.rq_success,
            Ok(_) | Err(_) => &host.stats.rq_error,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn is_http2(&self) -> bool {
        self.cluster.cluster.http.protocol.carriage(Protocol::Http11) == Carriage::Http2
    }

    fn stats(&self) -> &ClusterTrafficStats {
        let cluster: &Cluster = &self.cluster.cluster;
        cluster.stats.traffic.here()
    }
}

/// A call that waits for a connection: dropped, it has been given up.
struct Waiting<'c>(&'c Arc<Cluster>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.stats.traffic.here().upstream_rq_cancelled.inc();
    }
}

/// A call that waits for its answer: dropped, it is taken back.
struct Sent<'c> {
    cluster: &'c Cluster,
    protocol: Protocol,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        // (Over HTTP/1 the connection ends with it.)
        if self.protocol == Protocol::Http2 {
            self.cluster.stats.traffic.here().upstream_rq_tx_reset.inc();
        }
    }
}

async fn connect(
    pool: &Rc<HostPool>,
    priority: BreakerPriority,
    fresh: bool,
) -> Result<Upstream, UpstreamReset> {
    match pool.cluster.http.protocol.carriage(Protocol::Http11) {
        Carriage::Http1 => {}
        Carriage::Http2 => {
            return pool.open_http2(priority).await.map(Upstream::Http2).map_err(|(reset, _)| reset);
        }
        Carriage::Either => {
            return match pool.open_either(priority, fresh).await {
                Ok(Lease::Http1(lease)) => Ok(Upstream::Http1(lease)),
                Ok(Lease::Http2(lease)) => Ok(Upstream::Http2(lease)),
                Err((reset, _)) => Err(reset),
            };
        }
    }
    if !fresh && let Some(lease) = pool.idle_http1(priority) {
        return Ok(Upstream::Http1(lease));
    }
    pool.open_http1(priority).await.map(Upstream::Http1).map_err(|(reset, _)| reset)
}

/// Why an answer is not read to its end.
enum Broken {
    Reset(UpstreamReset),
    TooLarge,
}

/// An answer as far as it came.
struct Reading {
    head: Option<ResponseHead>,
    body: BytesMut,
    trailers: Option<HeaderMap>,
    limit: usize,
    /// Somebody reads the body.
    is_read: bool,
    /// What gRPC says with another status than 200 is said by its head.
    is_grpc: bool,
    /// Its messages, where it is to be nothing else.
    frames: Option<Frames>,
    /// All of it came.
    is_whole: bool,
}

impl Reading {
    fn new(call: &Call, extent: &Extent) -> Self {
        let is_read = matches!(extent, Extent::Call);
        let (limit, is_grpc) = (call.max_response_bytes, call.request.is_grpc());
        let frames = (is_read && call.is_framed).then(Frames::default);
        Self {
            head: None,
            body: BytesMut::new(),
            trailers: None,
            limit,
            is_read,
            is_grpc,
            frames,
            is_whole: false,
        }
    }

    /// Whether what came last is no message.
    fn is_broken(&mut self) -> bool {
        let Some(frames) = &mut self.frames else { return false };
        loop {
            match frames.next(&self.body) {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(BadFrame) => return true,
            }
        }
    }

    /// Ready when all of it is there that counts.
    fn poll(
        &mut self,
        up: &mut Upstream,
        tries: Option<&Tries>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        if let Poll::Ready(Err(reset)) = up.poll_flush(cx) {
            return Poll::Ready(Err(Broken::Reset(reset)));
        }
        loop {
            let event = match ready!(up.poll_event(cx)) {
                Ok(event) => event,
                Err(reset) => return Poll::Ready(Err(Broken::Reset(reset))),
            };
            let (data, ends) = match event {
                UpstreamEvent::Informational(_) => continue,
                UpstreamEvent::Head { head, end, is_upgrade } => {
                    let is_over = is_upgrade
                        || (self.is_grpc && head.status != StatusCode::OK)
                        || tries.is_some_and(|tries| tries.want(&head));
                    self.head = Some(head);
                    if is_over && !end {
                        return Poll::Ready(Ok(()));
                    }
                    (Bytes::new(), end)
                }
                UpstreamEvent::Body(BodyEvent::Data(data)) => (data, false),
                UpstreamEvent::Last(data) => (data, true),
                UpstreamEvent::Body(BodyEvent::Trailers(trailers)) => {
                    self.trailers = Some(trailers);
                    (Bytes::new(), true)
                }
                UpstreamEvent::Body(BodyEvent::End) => (Bytes::new(), true),
            };
            if self.is_read {
                if self.body.len() + data.len() > self.limit {
                    return Poll::Ready(Err(Broken::TooLarge));
                }
                self.body.extend_from_slice(&data);
            }
            self.is_whole = ends;
            if ends || self.is_broken() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}
