//! Sending a request again: what a stream has used of its retry policy, what is kept of its body, and the pause between
//! two tries.
//!
//! A stream without policy, and without headers that ask for one, has nothing of this.
//! Source: Envoy `docs/root/configuration/http/http_filters/router_filter.rst`, `docs/root/intro/arch_overview/http/
//! http_routing.rst` (retry semantics), `docs/root/faq/load_balancing/transient_failures.rst`.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use proxy_core::extension::http_filter::{Direction, Verdict};
use proxy_core::head::{BodyEvent, RequestHead, ResponseHead};
use proxy_core::headers::{
    EARLY_DATA, X_ENVOY_ATTEMPT_COUNT, X_ENVOY_IS_TIMEOUT_RETRY, X_ENVOY_MAX_RETRIES,
    X_ENVOY_RETRIABLE_HEADER_NAMES, X_ENVOY_RETRIABLE_STATUS_CODES, X_ENVOY_RETRY_GRPC_ON, X_ENVOY_RETRY_ON,
};
use proxy_core::local_reply::LocalReply;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::retry::{BackOff, Decision, ResponseRule, RetryOn, RetryPolicy};
use proxy_core::stats::groups::RouteStats;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::upstream::{Host, Load};
use smallvec::SmallVec;

use super::attempt::Race;
use super::deadlines::Timeout;
use super::filter_chain::{Ending, Parts};
use super::passing::Side;
use super::stream::{Stream, StreamEnd, selected};
use crate::codec::downstream::{Downstream, DownstreamError};
use crate::local::clock;
use crate::local::timers::Timer;
use crate::router::RouteMatch;
use crate::router::cluster::{Again, ClusterChoice, Tried};
use crate::router::timeouts::Timeouts;
use crate::upstream::circuit_breaker::BreakerPriority;
use crate::upstream::pool::WorkerCluster;
use crate::upstream::retry_state::{Granted, RetryState};

/// The longest first pause, if neither the policy nor the runtime says.
const BASE_PAUSE: u64 = 25;

/// The tries of one request.
pub(crate) struct Tries {
    /// For what it is sent again; nothing once that is over.
    on: RetryOn,
    state: RetryState,
    policy: Option<Arc<RetryPolicy>>,
    /// What headers of the request add to the policy.
    asked: Option<Box<Asked>>,
    back_off: Option<BackOff>,
    /// Hosts of earlier tries.
    tried: SmallVec<[Arc<Host>; 1]>,
    /// Priorities of the hosts of earlier tries, one for each try.
    tried_priorities: Vec<u32>,
    /// How the load was shared when priorities were avoided last.
    loads: Option<Vec<Load>>,
    /// How often it was sent again, if each try chooses the cluster anew.
    retries: u32,
    /// Weighted clusters it was sent to, if each try chooses one anew.
    tried_clusters: Tried,
    /// A redirect that the host may answer with is followed.
    redirects: bool,
    pub(super) kept: Kept,
    pub(super) timeouts: Timeouts,
    /// A host was sent something.
    started: bool,
    /// The request was sent again.
    pub(super) retried: bool,
    /// The pause before the retry.
    paused: Paused,
    /// Whether a try that takes too long goes on, beside the next.
    pub(super) hedges: bool,
    /// The request was sent again beside the latest try already.
    pub(super) is_hedged: bool,
    /// Outlier detection knows that the latest try takes too long.
    pub(super) is_late: bool,
    /// What is in flight beside the latest try.
    pub(super) race: Option<Box<Race>>,
}

/// The pause before a retry.
#[derive(Clone, Copy)]
enum Paused {
    /// There is none.
    Not,
    /// Of a random length that doubles.
    AtRandom,
    /// As long as the host asked for.
    AsAsked,
}

/// What is made of a try that ended, or takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decided {
    /// It is what the client gets.
    Keep,
    /// It would have been tried again, but may not be.
    Denied,
    /// It is tried again after this pause.
    Again(Duration),
}

/// What headers of the request ask for beside the conditions.
#[derive(Default)]
struct Asked {
    status_codes: Vec<u32>,
    header_names: Vec<HeaderName>,
}

/// What is kept of a body, so that it can be sent again.
#[derive(Default)]
pub(super) struct Kept {
    data: BytesMut,
    end: Option<Ending>,
    limit: usize,
}

/// What there is while a request waits to be sent again.
enum Waited {
    Over,
    Body(Result<BodyEvent, DownstreamError>),
    Resumed(usize, Verdict),
    Gone(DownstreamError),
    TimedOut(Timeout),
    /// An earlier try goes on after all.
    Overtaken,
}

impl Tries {
    /// For what `headers` and `policy` have a request sent again: `None` if there is nothing to watch over.
    pub(super) fn new(
        request: &RequestHead,
        policy: Option<&Arc<RetryPolicy>>,
        timeouts: &Timeouts,
        priority: BreakerPriority,
        (redirects, limit): (bool, usize),
    ) -> Option<Box<Self>> {
        let asked = if timeouts.is_asked { asked_conditions(&request.headers) } else { RetryOn::default() };
        let on = policy.map_or(RetryOn::default(), |policy| policy.on).or(asked);
        let has_limits =
            timeouts.per_try.is_some() || policy.is_some_and(|policy| policy.per_try_idle.is_some());
        if on.is_empty() && !has_limits && !redirects {
            return None;
        }
        let mut tries = Box::new(Self {
            on,
            state: RetryState::new(policy.map_or(1, |policy| u64::from(policy.retries)), priority),
            policy: policy.cloned(),
            asked: None,
            back_off: policy.and_then(|policy| policy.back_off),
            tried: SmallVec::new(),
            tried_priorities: Vec::new(),
            loads: None,
            retries: 0,
            tried_clusters: Tried::new(),
            redirects,
            kept: Kept { limit, ..Kept::default() },
            timeouts: *timeouts,
            started: false,
            retried: false,
            paused: Paused::Not,
            hedges: timeouts.hedges,
            is_hedged: false,
            is_late: false,
            race: None,
        });
        tries.ask(request);
        Some(tries)
    }

    /// Reads what else the request says.
    fn ask(&mut self, request: &RequestHead) {
        if let Some(policy) = &self.policy {
            let wanted = &policy.request_headers;
            if !wanted.is_empty() && !wanted.iter().any(|header| header.matches_request(request)) {
                self.on = RetryOn::default();
            }
        }
        if self.on.is_empty() || !self.timeouts.is_asked {
            return;
        }
        let headers = &request.headers;
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(retries) = text(&X_ENVOY_MAX_RETRIES).and_then(|text| text.trim().parse().ok()) {
            self.state.left = retries;
        }
        let mut asked = Asked::default();
        if let Some(codes) = text(&X_ENVOY_RETRIABLE_STATUS_CODES) {
            asked.status_codes.extend(codes.split(',').filter_map(|code| code.trim().parse::<u32>().ok()));
        }
        if let Some(names) = text(&X_ENVOY_RETRIABLE_HEADER_NAMES) {
            let named = |name: &str| HeaderName::from_bytes(name.trim().to_ascii_lowercase().as_bytes()).ok();
            asked.header_names.extend(names.split(',').filter_map(named));
        }
        if !asked.status_codes.is_empty() || !asked.header_names.is_empty() {
            self.asked = Some(Box::new(asked));
        }
    }

    /// Whether the request may be sent again.
    pub(super) fn is_on(&self) -> bool {
        !self.on.is_empty()
    }

    /// The request is not sent again to its cluster, whatever comes.
    pub(super) fn forgo(&mut self) {
        self.on = RetryOn::default();
        self.state.release();
        if !self.redirects {
            self.kept.drop();
        }
    }

    /// The request is sent nowhere else.
    fn forgo_all(&mut self) {
        self.redirects = false;
        self.forgo();
    }

    /// What is kept of the body for the target of a redirect; `None` if that is not all of it.
    pub(super) fn take_kept(&mut self) -> Option<Bytes> {
        let is_kept = std::mem::take(&mut self.redirects);
        let data = std::mem::take(&mut self.kept.data).freeze();
        is_kept.then_some(data)
    }

    /// Whether somebody else may want what the host gets.
    fn keeps(&self) -> bool {
        self.is_on() || self.redirects
    }

    /// Whether each try chooses the cluster anew; not where tries may go on beside the next, as in Envoy.
    fn refreshes_cluster(&self) -> bool {
        !self.hedges && self.policy.as_ref().is_some_and(|policy| policy.refreshes_cluster)
    }

    /// The hosts are others from now on: priorities have nothing in common with those before.
    fn change_cluster(&mut self) {
        self.tried_priorities.clear();
        self.loads = None;
    }

    /// A host is tried, of this priority.
    pub(super) fn tries_host(&mut self, host: &Arc<Host>, priority: u32) {
        let Some(policy) = &self.policy else { return };
        if !policy.hosts.is_empty() {
            self.tried.push(host.clone());
        }
        if policy.priorities.is_some() {
            self.tried_priorities.push(priority);
        }
    }

    /// How often another host is picked for one that `avoids` says the request had better not go to.
    pub(super) fn host_attempts(&self) -> u32 {
        self.policy.as_ref().map_or(1, |policy| policy.host_attempts)
    }

    /// What tells whether a retry had better not go to a host.
    pub(super) fn avoids(&self) -> impl Fn(&Arc<Host>) -> bool {
        |host| {
            let mut predicates = self.policy.iter().flat_map(|policy| &policy.hosts);
            predicates.any(|predicate| predicate.avoids(host, &self.tried))
        }
    }

    /// How the load is shared for a retry, if not as usual: priorities that were tried are avoided for as long as another one has hosts.
    /// `without` shares the load among all but some.
    pub(super) fn loads(
        &mut self,
        without: impl Fn(&dyn Fn(usize) -> bool) -> Option<Vec<Load>>,
    ) -> Option<&[Load]> {
        let rule = self.policy.as_ref()?.priorities?;
        if self.tried_priorities.len() < rule.update_frequency {
            return None;
        }
        if self.tried_priorities.len().is_multiple_of(rule.update_frequency) {
            let is_tried = |index: usize| {
                self.tried_priorities.iter().any(|priority| usize::try_from(*priority) == Ok(index))
            };
            self.loads = without(&is_tried);
            if self.loads.is_none() {
                self.tried_priorities.clear();
                self.loads = without(&|_| false);
            }
        }
        self.loads.as_deref()
    }

    /// How long nothing may move in a try.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.policy.as_ref().and_then(|policy| policy.per_try_idle)
    }

    /// What `response` of the request in `stream` asks for.
    pub(super) fn judge(&self, response: &ResponseHead, request: &RequestHead) -> Decision {
        let asked = self.asked.as_deref();
        let rule = ResponseRule {
            on: self.on,
            status_codes: asked.map_or(&[], |asked| &asked.status_codes),
            header_names: asked.map_or(&[], |asked| &asked.header_names),
            policy: self.policy.as_deref(),
            is_early: response.status == StatusCode::TOO_EARLY && request.headers.contains_key(&EARLY_DATA),
        };
        rule.judge(response)
    }

    fn judge_response(&self, stream: &Stream<'_>) -> (Decision, Option<Duration>) {
        let Some(response) = &stream.response else { return (Decision::Keep, None) };
        let decision = self.judge(response, &stream.request);
        let rate_limited = self.policy.as_ref().and_then(|policy| policy.rate_limited.as_ref());
        let pause = rate_limited.filter(|_| decision == Decision::AfterPause).and_then(|back_off| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            back_off.pause(response, now, stream.random())
        });
        (decision, pause)
    }
}

fn asked_conditions(headers: &HeaderMap) -> RetryOn {
    let text =
        |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    RetryOn::http(text(&X_ENVOY_RETRY_ON)).or(RetryOn::grpc(text(&X_ENVOY_RETRY_GRPC_ON)))
}

impl Kept {
    fn drop(&mut self) {
        self.data = BytesMut::new();
        self.end = None;
    }

    /// Keeps a copy of `parts`; `false` if that is more than may be kept.
    fn keep(&mut self, parts: &Parts) -> bool {
        if self.data.len().saturating_add(parts.data.len()) > self.limit {
            return false;
        }
        self.data.extend_from_slice(&parts.data);
        if let Some(end) = &parts.end {
            self.end = Some(end.clone());
        }
        true
    }

    /// What follows the head, if anything does.
    fn parts(&self) -> Option<Box<Parts>> {
        let is_bare = self.data.is_empty() && !matches!(self.end, Some(Ending::Trailers(_)));
        (!is_bare).then(|| {
            Box::new(Parts { head: false, data: Bytes::copy_from_slice(&self.data), end: self.end.clone() })
        })
    }
}

impl Stream<'_> {
    fn random(&self) -> u64 {
        self.cx.shared.random.borrow_mut().u64(..)
    }

    /// A host has the request, or as much of it as there is.
    pub(super) fn start_try(&mut self) {
        let Some(tries) = &self.tries else { return };
        let now = clock::now();
        self.deadlines.touch(now);
        self.deadlines.set_try_idle(tries.idle());
        if self.is_routed() {
            self.deadlines.set_try(tries.timeouts.per_try.map(|limit| now + limit));
        }
    }

    /// Keeps what goes to the host, if it may have to go again or elsewhere too.
    pub(super) fn keep(&mut self, parts: &Parts) {
        if self.mirrors.is_some() {
            self.mirror_parts(parts);
        }
        let Some(tries) = self.tries.as_deref_mut().filter(|tries| tries.keeps()) else { return };
        if tries.kept.keep(parts) {
            return;
        }
        tries.forgo_all();
        if let Some(cluster) = &self.cluster {
            cluster.cluster.stats.traffic.here().retry_or_shadow_abandoned.inc();
        }
    }

    /// What is made of the response head in `self.response`. One that would be tried again but may not be goes to the client, unless
    /// another try may still have a better one: then it is gone.
    pub(super) fn judge_response(&mut self) -> Decided {
        let Some(mut tries) = self.tries.take() else { return Decided::Keep };
        let mut decided = Decided::Keep;
        if tries.is_on() {
            let (decision, asked) = tries.judge_response(self);
            decided = match (tries.is_hedged, decision) {
                (false, _) => self.decide(&mut tries, decision, asked),
                (true, Decision::Keep) => Decided::Keep,
                (true, Decision::AfterPause | Decision::AtOnce) => Decided::Denied,
            };
        }
        match decided {
            Decided::Again(_) => self.drop_response(),
            Decided::Denied if tries.race.is_some() => self.lose_response(),
            Decided::Keep | Decided::Denied => {
                decided = Decided::Keep;
                tries.forgo();
            }
        }
        self.tries = Some(tries);
        if decided == Decided::Keep {
            self.end_race();
        }
        decided
    }

    /// Counts the response that nobody gets.
    fn drop_response(&mut self) {
        let Some(head) = self.response.take() else { return };
        self.log_upstream_head(&head);
        self.track_response_head(&head);
        if let Some(host) = &self.info.upstream.host {
            host.stats.rq_error.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(cluster) = &self.cluster {
            let stats = cluster.cluster.stats.traffic.here();
            match self.router().suppress_grpc_codes && self.request.is_grpc() {
                true => stats.retry_upstream_rq.inc_completed(),
                false => stats.retry_upstream_rq.inc(head.status.as_u16()),
            }
        }
    }

    /// Whether the policy wants the request sent again for `reset`, if it may be.
    pub(super) fn would_retry(&mut self, reset: UpstreamReset) -> bool {
        let is_started = self.info.upstream.first_tx.is_some();
        let Some(tries) = self.tries.as_deref_mut().filter(|tries| tries.is_on() && !tries.is_hedged) else {
            return false;
        };
        tries.started |= is_started;
        tries.on.judge_reset(reset, tries.started) != Decision::Keep
    }

    /// What is made of a try that ended by `reset`: the pause until the request is sent again, or nothing if it is not.
    pub(super) fn retries_reset(&mut self, reset: UpstreamReset) -> Option<Duration> {
        let would_retry = self.would_retry(reset);
        let mut tries = self.tries.take()?;
        let mut decided = Decided::Keep;
        if tries.is_on() && !tries.is_hedged {
            let decision = if would_retry { Decision::AfterPause } else { Decision::Keep };
            decided = self.decide(&mut tries, decision, None);
        }
        self.tries = Some(tries);
        let Decided::Again(pause) = decided else { return None };
        if let Some(host) = &self.info.upstream.host {
            host.stats.rq_error.fetch_add(1, Ordering::Relaxed);
        }
        Some(pause)
    }

    /// Takes one of the tries that are left, and says how long to wait for it.
    pub(super) fn decide(
        &mut self,
        tries: &mut Tries,
        decision: Decision,
        asked_pause: Option<Duration>,
    ) -> Decided {
        let Some(cluster) = self.cluster.clone() else { return Decided::Keep };
        let count = |of: fn(&RouteStats)| self.route_stats().for_each(|stats| of(stats.here()));
        let runtime = &self.cx.shared.env.runtime;
        match tries.state.take(&cluster.cluster, decision, runtime, || self.random()) {
            Granted::Again => {}
            Granted::Unwanted | Granted::Untaken => return Decided::Keep,
            Granted::Success => {
                count(|stats| stats.upstream_rq_retry_success.inc());
                return Decided::Keep;
            }
            Granted::LimitExceeded => {
                count(|stats| stats.upstream_rq_retry_limit_exceeded.inc());
                self.info.flags.set(ResponseFlag::UpstreamRetryLimitExceeded);
                return Decided::Denied;
            }
            Granted::Overflow => {
                count(|stats| stats.upstream_rq_retry_overflow.inc());
                self.info.flags.set(ResponseFlag::UpstreamOverflow);
                return Decided::Denied;
            }
        }
        tries.retried = true;
        let (kind, pause) = match (decision, asked_pause) {
            (Decision::AtOnce | Decision::Keep, _) => (Paused::Not, Duration::ZERO),
            (Decision::AfterPause, Some(pause)) => (Paused::AsAsked, pause),
            (Decision::AfterPause, None) => {
                let base = || runtime.number("upstream.base_retry_backoff_ms").unwrap_or(BASE_PAUSE);
                let back_off =
                    tries.back_off.get_or_insert_with(|| BackOff::new(Duration::from_millis(base())));
                (Paused::AtRandom, back_off.pause(self.random()))
            }
        };
        tries.paused = kind;
        Decided::Again(pause)
    }

    /// Counts a retry: it takes place only once the pause before it is over.
    fn count_retry(&self, tries: &Tries) {
        let Some(cluster) = &self.cluster else { return };
        let stats = cluster.cluster.stats.traffic.here();
        stats.upstream_rq_retry.inc();
        for stats in self.route_stats() {
            stats.here().upstream_rq_retry.inc();
        }
        match tries.paused {
            Paused::Not => {}
            Paused::AtRandom => stats.upstream_rq_retry_backoff_exponential.inc(),
            Paused::AsAsked => stats.upstream_rq_retry_backoff_ratelimited.inc(),
        }
    }

    /// Waits until the request is to be sent again, taking in what comes of it meanwhile.
    pub(super) async fn pause<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        pause: Duration,
    ) -> Result<(), StreamEnd> {
        self.deadlines.disarm_try();
        self.in_flight = None;
        if pause.is_zero() {
            return Ok(());
        }
        self.deadlines.set_try(Some(clock::now() + pause));
        loop {
            let is_full = self.paces(Direction::Request);
            let watch = self.watches(down.protocol()) || is_full;
            let read = !self.request_done && !self.is_tunnel() && !is_full;
            let waited = poll_fn(|cx| {
                if self.races() && self.poll_race(cx).is_ready() {
                    return Poll::Ready(Waited::Overtaken);
                }
                if let Poll::Ready((position, verdict)) = self.filters.poll_resume(Direction::Request, cx) {
                    return Poll::Ready(Waited::Resumed(position, verdict));
                }
                if read && let Poll::Ready(body) = down.poll_body(cx) {
                    return Poll::Ready(Waited::Body(body));
                }
                if watch && let Poll::Ready(error) = down.poll_gone(cx) {
                    return Poll::Ready(Waited::Gone(error));
                }
                self.deadlines.poll(timer, cx).map(|timeout| match timeout {
                    Timeout::Try => Waited::Over,
                    timeout => Waited::TimedOut(timeout),
                })
            })
            .await;
            let parts = match waited {
                Waited::Over | Waited::Overtaken => break,
                Waited::Body(Ok(body)) => {
                    let parts = self.receive(body);
                    self.pass(down, timer, Side::Downstream, Direction::Request, 0, parts).await?
                }
                Waited::Resumed(position, verdict) => {
                    self.resume(down, timer, Side::Downstream, Direction::Request, position, verdict).await?
                }
                Waited::Body(Err(error)) | Waited::Gone(error) => return Err(self.downstream_failed(error)),
                Waited::TimedOut(timeout) => return Err(self.timed_out(timeout)),
            };
            self.keep(&parts);
            if self.tries.as_ref().is_none_or(|tries| !tries.is_on()) {
                // What was kept is gone, and there is no host that has it.
                return Err(self.too_much_to_retry());
            }
        }
        self.deadlines.disarm_try();
        Ok(())
    }

    fn too_much_to_retry(&self) -> StreamEnd {
        let body = Bytes::from_static(b"exceeded request buffer limit while retrying upstream");
        let details = "request_payload_exceeded_retry_buffer_limit";
        self.route_reply(LocalReply::new(StatusCode::INSUFFICIENT_STORAGE, body, details))
    }

    /// The cluster for the next try: the one that has its name now, or another if each try chooses anew.
    pub(super) fn next_cluster(&mut self, latest: Rc<WorkerCluster>) -> Option<Rc<WorkerCluster>> {
        let clusters = &self.cx.shared.clusters;
        let Some(chosen) = self.choose_again() else {
            if !latest.is_retired() {
                return Some(latest);
            }
            let next = clusters.get(&latest.cluster.name)?;
            self.leave_cluster_for(&next);
            return Some(next);
        };
        self.matched = Some(chosen);
        let next = match self.route()?.cluster(&self.request, &self.info) {
            ClusterChoice::Named(name) => clusters.get(name),
            ClusterChoice::FromRequest(name) => clusters.by_name(name),
            ClusterChoice::None => None,
        }?;
        if !Rc::ptr_eq(&next, &latest) {
            self.leave_cluster_for(&next);
        }
        Some(next)
    }

    /// Chooses the cluster anew, if the policy wants it and the route leaves a choice.
    fn choose_again(&mut self) -> Option<RouteMatch> {
        let Self { cx, table, matched, request, info, tries, .. } = self;
        let tries = tries.as_deref_mut().filter(|tries| tries.refreshes_cluster())?;
        tries.retries += 1;
        // (What is sent again without a policy is the same try.)
        let mut again = Again { tried: &mut tries.tried_clusters, attempt: tries.retries };
        table.as_ref()?.choose_again((*matched)?, request, info, &cx.shared.env.runtime, &mut again)
    }

    /// The next try is one of another cluster, though it may have the name of the one before.
    fn leave_cluster_for(&mut self, next: &WorkerCluster) {
        if let Some(tries) = &mut self.tries {
            tries.change_cluster();
        }
        let authority = self.asked_authority.as_ref().unwrap_or(&self.request.authority);
        let names = next.cluster.http.names.as_ref();
        self.server_name = names.map(|names| names.of(&self.request.headers, authority));
        self.deadlines.set_upstream(None);
    }

    /// The answer where there is no cluster for the next try.
    pub(super) fn no_cluster_left(&mut self) -> StreamEnd {
        let end = self.no_host_left();
        self.set_cluster(None);
        end
    }

    /// Makes the request ready to be sent again, to `cluster`.
    pub(super) fn prepare_again(&mut self, cluster: &Rc<WorkerCluster>, timed_out: bool) {
        self.set_cluster(Some(cluster.clone()));
        let headers = self.envoy_headers();
        let now = clock::now();
        let info = &mut self.info.upstream;
        (info.first_tx, info.last_tx, info.first_rx, info.first_rx_body, info.last_rx) =
            (None, None, None, None, None);
        self.gathered = None;
        let Some(tries) = &mut self.tries else { return };
        (tries.is_hedged, tries.is_late) = (false, false);
        let Some(tries) = &self.tries else { return };
        self.count_retry(tries);
        self.gathered = tries.kept.parts();
        let elapsed = self.info.request_complete.map(|since| now.saturating_duration_since(since));
        tries.timeouts.write_headers(&mut self.request, elapsed.unwrap_or_default(), headers);
        if let Some(route) = selected(self.table.as_ref(), self.matched) {
            let host = route.virtual_host();
            let headers = &mut self.request.headers;
            if host.include_request_attempt_count {
                let attempt = HeaderValue::from(self.info.upstream.attempts + 1);
                headers.insert(&*X_ENVOY_ATTEMPT_COUNT, attempt);
            }
            if host.include_is_timeout_retry_header {
                let value = HeaderValue::from_static(if timed_out { "true" } else { "false" });
                headers.insert(&*X_ENVOY_IS_TIMEOUT_RETRY, value);
            }
        }
    }
}
