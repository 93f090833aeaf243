//! Tries of one request that go on beside the latest one, because they took too long and may answer all the same
//! (`hedge_on_per_try_timeout`).
//!
//! The latest try is in the stream itself, as the only one of most requests is. A try that is put aside takes everything of its own along: the stream to its
//! host, what is known of it, its filters and its log. What it answers is judged as it comes: what would be tried again is dropped, anything
//! else makes it the try that goes on, and ends all others. Only complete requests are hedged, so all that is left to do for a try is to flush
//! what is queued and to read.
//! Source: Envoy `docs/root/intro/arch_overview/http/http_routing.rst` (request hedging), `source/common/router/router.cc`.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use proxy_core::extension::http_filter::Direction;
use proxy_core::head::ResponseHead;
use proxy_core::retry::Decision;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::UpstreamInfo;
use proxy_core::upstream::HostResult;

use super::deadlines::Timeout;
use super::retry::Decided;
use super::stream::Stream;
use super::upstream_filters::UpstreamFilters;
use super::upstream_log::LoggedStream;
use crate::codec::upstream::UpstreamEvent;
use crate::local::clock;
use crate::upstream::pool::{RequestGuard, WorkerCluster};
use crate::upstream::stream::Upstream;

/// A try that was put aside.
struct Attempt {
    up: Upstream,
    info: UpstreamInfo,
    in_flight: Option<RequestGuard>,
    member: Option<Rc<WorkerCluster>>,
    filters: Option<Box<UpstreamFilters>>,
    log: Option<Box<LoggedStream>>,
}

/// The tries of a request beside the latest; never without any.
#[derive(Default)]
pub(super) struct Race {
    /// Those that were put aside, the oldest first.
    aside: Vec<Attempt>,
    /// The one that takes the place of the latest.
    next: Option<Attempt>,
    /// What it has answered already.
    first: Option<UpstreamEvent>,
}

impl Race {
    fn is_over(&self) -> bool {
        self.aside.is_empty() && self.next.is_none() && self.first.is_none()
    }
}

impl Stream<'_> {
    /// Whether there is any try beside the latest.
    #[inline]
    pub(super) fn races(&self) -> bool {
        self.tries.as_ref().is_some_and(|tries| tries.race.is_some())
    }

    fn take_race(&mut self) -> Option<Box<Race>> {
        self.tries.as_mut()?.race.take()
    }

    fn put_race(&mut self, race: Box<Race>) {
        if let Some(tries) = self.tries.as_mut().filter(|_| !race.is_over()) {
            tries.race = Some(race);
        }
    }

    /// Whether a try that takes too long goes on beside the next one.
    pub(super) fn hedges(&self) -> bool {
        self.tries.as_ref().is_some_and(|tries| tries.hedges)
            && self.response.is_none()
            && self.request_done
            && !self.is_tunnel()
            && !self.holds(Direction::Request)
    }

    /// The latest try takes too long: the pause until the next begins beside it, if one may.
    pub(super) fn hedge(&mut self, timeout: Timeout) -> Option<Duration> {
        match timeout {
            Timeout::Try => self.deadlines.set_try(None),
            _ => self.deadlines.set_try_idle(None),
        }
        self.note_at_host(HostResult::TimedOut);
        let mut tries = self.tries.take()?;
        tries.is_late = true;
        let decided = match tries.is_on() {
            true => self.decide(&mut tries, Decision::AfterPause, None),
            false => Decided::Keep,
        };
        self.tries = Some(tries);
        match decided {
            Decided::Again(pause) => Some(pause),
            Decided::Keep | Decided::Denied => None,
        }
    }

    /// Puts the latest try aside: its request is with its host, and may be answered.
    pub(super) fn put_aside(&mut self, up: Upstream) {
        let mut attempt = Attempt {
            up,
            info: UpstreamInfo::default(),
            in_flight: None,
            member: self.member.clone(),
            filters: None,
            log: None,
        };
        self.swap(&mut attempt);
        self.deadlines.set_upstream_log(None);
        let mut race = self.take_race().unwrap_or_default();
        race.aside.push(attempt);
        self.put_race(race);
    }

    /// Exchanges the latest try's own for that of `attempt`, but for the stream to the host.
    fn swap(&mut self, attempt: &mut Attempt) {
        let (here, there) = (&mut self.info.upstream, &mut attempt.info);
        std::mem::swap(here, there);
        // What is the request's stays.
        std::mem::swap(&mut here.cluster, &mut there.cluster);
        std::mem::swap(&mut here.cluster_observability_name, &mut there.cluster_observability_name);
        std::mem::swap(&mut here.cluster_metadata, &mut there.cluster_metadata);
        std::mem::swap(&mut here.attempts, &mut there.attempts);
        std::mem::swap(&mut here.attempted, &mut there.attempted);
        std::mem::swap(&mut here.sought, &mut there.sought);
        std::mem::swap(&mut self.in_flight, &mut attempt.in_flight);
        std::mem::swap(&mut self.member, &mut attempt.member);
        std::mem::swap(&mut self.upstream_filters, &mut attempt.filters);
        std::mem::swap(&mut self.upstream_log, &mut attempt.log);
    }

    /// Ready when a try that was put aside takes the place of the latest.
    pub(super) fn poll_race(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(mut race) = self.take_race() else { return Poll::Pending };
        let mut at = 0;
        while race.next.is_none()
            && let Some(attempt) = race.aside.get_mut(at)
        {
            let event = match attempt.up.poll_flush(cx) {
                Poll::Ready(Err(reset)) => Poll::Ready(Err(reset)),
                Poll::Ready(Ok(())) | Poll::Pending => attempt.up.poll_event(cx),
            };
            match event {
                Poll::Pending => at += 1,
                Poll::Ready(Ok(UpstreamEvent::Head { head, .. })) if self.is_unwanted(&head) => {
                    self.lose(race.aside.remove(at), Ok(head));
                }
                Poll::Ready(Ok(event)) => {
                    race.next = Some(race.aside.remove(at));
                    race.first = Some(event);
                }
                Poll::Ready(Err(reset)) => self.lose(race.aside.remove(at), Err(reset)),
            }
        }
        let is_ready = race.next.is_some();
        self.put_race(race);
        if is_ready { Poll::Ready(()) } else { Poll::Pending }
    }

    fn is_unwanted(&self, head: &ResponseHead) -> bool {
        self.tries.as_ref().is_some_and(|tries| tries.judge(head, &self.request) != Decision::Keep)
    }

    /// A try that was put aside answered what nobody wants, or failed.
    fn lose(&mut self, mut attempt: Attempt, outcome: Result<ResponseHead, UpstreamReset>) {
        self.swap(&mut attempt);
        match outcome {
            Ok(head) => {
                let latest = self.response.replace(head);
                self.note_answer();
                self.lose_response();
                self.response = latest;
            }
            Err(reset) => self.lose_reset(reset),
        }
        self.swap(&mut attempt);
        self.dispose(attempt);
    }

    /// Counts the response of a try, where another may have a better one.
    pub(super) fn lose_response(&mut self) {
        let Some(head) = self.response.take() else { return };
        self.log_upstream_head(&head);
        self.track_response_head(&head);
        if let Some(host) = &self.info.upstream.host {
            host.stats.rq_error.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the failure of a try, where another may have an answer.
    pub(super) fn lose_reset(&mut self, reset: UpstreamReset) {
        self.log_upstream_failure(reset);
        self.count_reset(reset);
        self.charge(reset.status());
        if let Some(host) = &self.info.upstream.host {
            host.stats.rq_error.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts what there is to count of a try that ends.
    fn dispose(&mut self, mut attempt: Attempt) {
        self.swap(&mut attempt);
        self.info.upstream.wire = attempt.up.wire();
        if matches!(attempt.up, Upstream::Http2(_))
            && let Some(cluster) = self.host_cluster()
        {
            cluster.cluster.stats.traffic.here().upstream_rq_tx_reset.inc();
        }
        self.track_try(clock::now());
        let wire = self.info.wire;
        self.log_upstream_end(|| wire);
        self.in_flight = None;
        self.swap(&mut attempt);
    }

    /// Has one of the tries that were put aside take the place of the latest, which failed.
    pub(super) fn recall(&mut self) {
        let Some(mut race) = self.take_race() else { return };
        if race.next.is_none() {
            race.next = race.aside.pop();
        }
        self.put_race(race);
    }

    /// Whether a try that was put aside is to take the place of the latest.
    pub(super) fn is_recalled(&self) -> bool {
        self.tries.as_ref().and_then(|tries| tries.race.as_ref()).is_some_and(|race| race.next.is_some())
    }

    /// The try that takes the place of the latest, of which nothing is left here.
    pub(super) fn resume_attempt(&mut self) -> Option<Upstream> {
        let mut race = self.take_race()?;
        let Some(mut attempt) = race.next.take() else {
            self.put_race(race);
            return None;
        };
        self.swap(&mut attempt);
        self.adopt(race);
        Some(attempt.up)
    }

    /// The try that takes the place of `up`, which ends.
    pub(super) fn overtake(&mut self, up: &mut Upstream) {
        let Some(mut race) = self.take_race() else { return };
        let Some(mut attempt) = race.next.take() else { return self.put_race(race) };
        std::mem::swap(up, &mut attempt.up);
        self.swap(&mut attempt);
        self.response = None;
        self.dispose(attempt);
        self.adopt(race);
    }

    /// A try that was put aside is the latest now; if it has answered, others have nothing to say any more.
    fn adopt(&mut self, mut race: Box<Race>) {
        if race.first.is_some() {
            for attempt in std::mem::take(&mut race.aside) {
                self.dispose(attempt);
            }
        }
        // (The request is with its host.)
        self.gathered = None;
        self.deadlines.disarm_try();
        let limit = self.host_cluster().and_then(|cluster| cluster.cluster.http.max_stream_duration);
        if let (Some(limit), Some(begun)) = (limit, self.info.upstream.pool_ready) {
            self.deadlines.set_upstream(Some(begun + limit));
        }
        if let Some(tries) = &mut self.tries {
            (tries.is_hedged, tries.is_late) = (true, true);
        }
        self.put_race(race);
    }

    /// What the try that took the place of another had answered by then.
    pub(super) fn first_answer(&mut self) -> Option<UpstreamEvent> {
        let mut race = self.take_race()?;
        let first = race.first.take();
        self.put_race(race);
        first
    }

    /// Ends all tries but the latest.
    pub(super) fn end_race(&mut self) {
        let Some(race) = self.take_race() else { return };
        for attempt in race.aside.into_iter().chain(race.next) {
            self.dispose(attempt);
        }
    }

    /// Counts a timeout of the request at each of the tries that were put aside.
    pub(super) fn time_out_race(&mut self) {
        let Some(mut race) = self.take_race() else { return };
        for attempt in &mut race.aside {
            self.swap(attempt);
            self.count_request_timeout();
            self.swap(attempt);
        }
        self.put_race(race);
    }
}
