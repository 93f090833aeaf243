//! The deadlines of one stream, on one timer armed to the earliest.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::local::reduced::{Reducible, reduced};
use crate::local::timers::Timer;

/// Which deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timeout {
    /// Nothing moved for `stream_idle_timeout`.
    Idle,
    /// The request was not complete, and no response begun, within `request_timeout`.
    Request,
    /// The route's `timeout` passed after the request was complete.
    Route,
    /// The stream lasted longer than `max_stream_duration`.
    MaxDuration,
    /// A try took longer than `per_try_timeout`, or the pause before the next is over.
    Try,
    /// Nothing moved in a try for `per_try_idle_timeout`.
    TryIdle,
    /// The upstream's part lasted longer than the cluster's `max_stream_duration`.
    UpstreamMaxDuration,
    /// What ended the stream was not taken by the client.
    Farewell,
}

/// How long a client may take to read what is left for it once its stream has ended otherwise.
const FAREWELL: Duration = Duration::from_secs(5);

/// What happens at a moment that was waited for.
pub(crate) enum Tick {
    /// A deadline passed.
    TimedOut(Timeout),
    /// The stream to the host is logged again.
    UpstreamLog,
}

/// The deadlines of one stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    idle: Option<Duration>,
    activity: Instant,
    request: Option<Instant>,
    route: Option<Instant>,
    max_duration: Option<Instant>,
    upstream: Option<Instant>,
    try_end: Option<Instant>,
    try_idle: Option<Duration>,
    upstream_log: Option<Instant>,
    farewell: Option<Instant>,
}

impl Deadlines {
    /// Deadlines of a stream that started at `start`.
    pub(crate) fn new(start: Instant, idle: Option<Duration>, request: Option<Duration>) -> Self {
        Self {
            idle,
            activity: start,
            request: request.map(|request| start + request),
            route: None,
            max_duration: None,
            upstream: None,
            try_end: None,
            try_idle: None,
            upstream_log: None,
            farewell: None,
        }
    }

    /// The stream ends now, whatever deadlines it had: what was said last may still be read for a while.
    pub(crate) fn end(&mut self, now: Instant) {
        *self = Self { farewell: Some(now + FAREWELL), ..Self::new(now, None, None) };
    }

    /// Something moved.
    pub(crate) fn touch(&mut self, now: Instant) {
        self.activity = now;
    }

    /// The request is complete, or the response begins.
    pub(crate) fn disarm_request(&mut self) {
        self.request = None;
    }

    /// Replaces the idle timeout by the route's.
    pub(crate) fn set_idle(&mut self, idle: Option<Duration>) {
        self.idle = idle;
    }

    /// Starts the route's timeout.
    pub(crate) fn set_route(&mut self, at: Option<Instant>) {
        self.route = at;
    }

    /// Sets the end of the longest life.
    pub(crate) fn set_max_duration(&mut self, at: Option<Instant>) {
        self.max_duration = at;
    }

    /// Sets the end of the upstream's part.
    pub(crate) fn set_upstream(&mut self, at: Option<Instant>) {
        self.upstream = at;
    }

    /// Sets the end of a try, or of the pause before the next.
    pub(crate) fn set_try(&mut self, at: Option<Instant>) {
        self.try_end = at;
    }

    /// Sets how long nothing may move in a try.
    pub(crate) fn set_try_idle(&mut self, idle: Option<Duration>) {
        self.try_idle = idle;
    }

    /// A try is over.
    pub(crate) fn disarm_try(&mut self) {
        self.upstream = None;
        self.try_end = None;
        self.try_idle = None;
    }

    /// The host's part is complete: what limits it passes no more.
    pub(crate) fn disarm_upstream(&mut self) {
        self.route = None;
        self.disarm_try();
    }

    /// Sets when the stream to the host is logged again.
    pub(crate) fn set_upstream_log(&mut self, at: Option<Instant>) {
        self.upstream_log = at;
    }

    /// Ready when a deadline has passed.
    pub(crate) fn poll(&self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<Timeout> {
        let Some(earliest) = self.earliest() else { return Poll::Pending };
        while timer.poll(cx, earliest).is_ready() {
            if let Some(timeout) = self.passed(Instant::now()) {
                return Poll::Ready(timeout);
            }
        }
        Poll::Pending
    }

    /// Ready when a deadline has passed, or when the stream to the host is to be logged again.
    pub(crate) fn poll_tick(&self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<Tick> {
        let Some(log) = self.upstream_log else { return self.poll(timer, cx).map(Tick::TimedOut) };
        let earliest = self.earliest().map_or(log, |earliest| earliest.min(log));
        while timer.poll(cx, earliest).is_ready() {
            let now = Instant::now();
            if let Some(timeout) = self.passed(now) {
                return Poll::Ready(Tick::TimedOut(timeout));
            }
            if log <= now {
                return Poll::Ready(Tick::UpstreamLog);
            }
        }
        Poll::Pending
    }

    /// The earliest deadline.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        let idle = self.idle_end();
        let try_idle = self.try_idle.map(|idle| self.activity + idle);
        [
            idle,
            self.request,
            self.route,
            self.max_duration,
            self.upstream,
            self.try_end,
            try_idle,
            self.farewell,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When nothing moved for too long.
    fn idle_end(&self) -> Option<Instant> {
        self.idle.map(|idle| self.activity + reduced(Reducible::StreamIdle, idle))
    }

    /// What has passed at `now`; the most specific first.
    pub(crate) fn passed(&self, now: Instant) -> Option<Timeout> {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if passed(self.max_duration) {
            Some(Timeout::MaxDuration)
        } else if passed(self.route) {
            Some(Timeout::Route)
        } else if passed(self.upstream) {
            Some(Timeout::UpstreamMaxDuration)
        } else if passed(self.try_end) {
            Some(Timeout::Try)
        } else if passed(self.try_idle.map(|idle| self.activity + idle)) {
            Some(Timeout::TryIdle)
        } else if passed(self.request) {
            Some(Timeout::Request)
        } else if passed(self.idle_end()) {
            Some(Timeout::Idle)
        } else if passed(self.farewell) {
            Some(Timeout::Farewell)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_deadline_passes_again_after_the_end() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut deadlines = Deadlines::new(start, Some(second), Some(second));
        deadlines.set_route(Some(start + second));
        deadlines.set_max_duration(Some(start + second));
        deadlines.set_upstream(Some(start + second));
        let now = start + 2 * second;
        assert_eq!(deadlines.passed(now), Some(Timeout::MaxDuration));
        deadlines.end(now);
        assert_eq!(deadlines.passed(now), None);
        assert_eq!(deadlines.earliest(), Some(now + FAREWELL));
        assert_eq!(deadlines.passed(now + FAREWELL), Some(Timeout::Farewell));
    }
}
