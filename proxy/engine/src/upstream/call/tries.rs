//! Calls that are made again, as their policies say.
//!
//! As the router does it for requests, but for what only requests have: a call has its whole body at hand, and no client.
//! Source: Envoy `Http::Utility::convertCoreToRouteRetryPolicy`, `docs/root/configuration/http/http_filters/router_filter.rst`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use proxy_core::callout::{CallFailure, Called};
use proxy_core::config::BuildEnv;
use proxy_core::head::ResponseHead;
use proxy_core::headers::{X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, number};
use proxy_core::retry::{BackOff, Decision, ResponseRule, RetryPolicy};
use proxy_core::stream_error::UpstreamReset;

use super::Calling;
use crate::local::clock;
use crate::local::timers::Timer;
use crate::upstream::circuit_breaker::BreakerPriority;
use crate::upstream::retry_state::{Granted, RetryState};

/// What a call has used of its policy.
pub(super) struct Tries {
    policy: Arc<RetryPolicy>,
    env: Arc<BuildEnv>,
    /// When all of it has to be over.
    deadline: Option<Instant>,
    state: RetryState,
    back_off: Option<BackOff>,
    /// The last try took too long.
    ran_out: bool,
}

impl Tries {
    pub(super) fn new(policy: Arc<RetryPolicy>, env: Arc<BuildEnv>, deadline: Option<Instant>) -> Self {
        let state = RetryState::new(u64::from(policy.retries), BreakerPriority::Default);
        let back_off = policy.back_off;
        Self { policy, env, deadline, state, back_off, ran_out: false }
    }

    /// Whether the last try took longer than one may.
    pub(super) fn ran_out(&self) -> bool {
        self.ran_out
    }

    /// Whether an answer with this head is one to call again for.
    pub(super) fn want(&self, head: &ResponseHead) -> bool {
        self.state.left > 0 && self.judge(head) != Decision::Keep
    }

    fn judge(&self, head: &ResponseHead) -> Decision {
        let policy = &self.policy;
        let rule = ResponseRule {
            on: policy.on,
            status_codes: &[],
            header_names: &[],
            policy: Some(policy),
            is_early: false,
        };
        rule.judge(head)
    }

    /// Sends `calling` until an answer is good or no try is left.
    pub(super) async fn send(&mut self, calling: &mut Calling) -> Called {
        loop {
            self.write_timeout(calling);
            let called = self.try_once(calling).await;
            let decision = match &called {
                Ok(answer) => self.judge(&answer.head),
                Err(CallFailure::Timeout) => self.policy.on.judge_reset(UpstreamReset::LocalReset, true),
                // (Nobody sends again what was answered in part.)
                Err(CallFailure::Reset(_)) if calling.is_answered => Decision::Keep,
                Err(CallFailure::Reset(reset)) => self.policy.on.judge_reset(*reset, true),
                Err(CallFailure::NoCluster | CallFailure::NoHost | CallFailure::TooLarge) => Decision::Keep,
            };
            let Some(pause) = self.decide(calling, decision) else { return called };
            self.count_dropped(calling, &called);
            drop(called);
            let (mut timer, at) = (Timer::default(), clock::now() + pause);
            poll_fn(|cx| timer.poll(cx, at)).await;
            let stats = calling.stats();
            stats.upstream_rq_retry.inc();
            stats.upstream_rq_retry_backoff_exponential.inc();
        }
    }

    async fn try_once(&mut self, calling: &mut Calling) -> Called {
        self.ran_out = false;
        let mut timer = Timer::default();
        let limit = self.policy.per_try.map(|limit| clock::now() + limit);
        let called = {
            let mut sending = std::pin::pin!(calling.send(Some(self)));
            poll_fn(|cx| {
                if let Poll::Ready(called) = sending.as_mut().poll(cx) {
                    return Poll::Ready(Some(called));
                }
                match limit {
                    Some(at) => timer.poll(cx, at).map(|()| None),
                    None => Poll::Pending,
                }
            })
            .await
        };
        called.unwrap_or_else(|| {
            self.ran_out = true;
            calling.stats().upstream_rq_per_try_timeout.inc();
            Err(CallFailure::Timeout)
        })
    }

    /// Takes one of the tries that are left, and says how long to wait for it.
    fn decide(&mut self, calling: &mut Calling, decision: Decision) -> Option<Duration> {
        let cluster = calling.cluster.cluster.clone();
        let granted = self.state.take(&cluster, decision, &self.env.runtime, || calling.random.u64(..));
        (granted == Granted::Again).then(|| {
            let random = calling.random.u64(..);
            self.back_off.as_mut().map_or(Duration::ZERO, |back_off| back_off.pause(random))
        })
    }

    /// How long the host is going to be waited for.
    fn write_timeout(&self, calling: &mut Calling) {
        let left = self.deadline.map(|at| at.saturating_duration_since(clock::now()));
        let Some(limit) = [self.policy.per_try, left].into_iter().flatten().min() else { return };
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        calling.call.request.headers.insert(&*X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, number(millis));
    }

    /// Counts what a call got that is made again.
    fn count_dropped(&self, calling: &Calling, called: &Called) {
        let status = match called {
            Ok(answer) => {
                calling.stats().retry_upstream_rq.inc(answer.head.status.as_u16());
                answer.head.status
            }
            Err(failure) => {
                if !self.ran_out {
                    calling.count_failure(failure);
                }
                failure.status()
            }
        };
        calling.count_at_host(called, status);
    }
}
