//! Timeouts that get shorter the more there is to do (`envoy.overload_actions.reduce_timeouts`).
//!
//! At a share `s` a timeout `t` that is to be `least` at the least lasts `least + (t - least) * (1 - s)` from when it began, however
//! long it has run already. Whoever has such a deadline computes it anew each time it is polled, and all are polled when the share
//! changes (`timers::wake_all`). While nothing is reduced that is a look into a place of the worker's own.
//!
//! Source: Envoy `ScaledRangeTimerManager`, `overload_manager.rst` ("Reducing timeouts").

use std::cell::Cell;
use std::time::Duration;

/// A timeout that can be reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reducible {
    /// `idle_timeout` of a downstream connection.
    ConnectionIdle,
    /// `stream_idle_timeout`, of the connection manager or the route.
    StreamIdle,
    /// `transport_socket_connect_timeout` of a filter chain.
    TransportConnect,
    /// `max_connection_duration` of a downstream connection.
    ConnectionMax,
    /// `stream_flush_timeout`, of the connection manager or the route.
    StreamFlush,
}

impl Reducible {
    const COUNT: usize = 5;
}

/// What a timeout is reduced to at the most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Least {
    /// This long.
    Time(Duration),
    /// This share of the timeout, from 0 to 1.
    Share(f64),
}

impl Least {
    /// Of a timeout this long. It is never longer than that.
    fn of(self, timeout: Duration) -> Duration {
        match self {
            Self::Time(least) => least.min(timeout),
            Self::Share(share) => timeout.mul_f64(share.clamp(0.0, 1.0)),
        }
    }
}

/// What timeouts are reduced to at the most, those of them that are reduced at all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Leasts([Option<Least>; Reducible::COUNT]);

impl Leasts {
    /// Has a timeout reduced; whether it was not known to be.
    pub fn insert(&mut self, which: Reducible, least: Least) -> bool {
        self.0[which as usize].replace(least).is_none()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

/// How much is reduced.
#[derive(Clone, Copy)]
struct Reduction {
    leasts: Leasts,
    /// From 0 to 1.
    share: f64,
}

thread_local! {
    static REDUCTION: Cell<Option<Reduction>> = const { Cell::new(None) };
}

/// Reduces the timeouts of this thread by `share` of what they may be reduced by, from 0 to 1.
pub(crate) fn set(leasts: &Leasts, share: f64) {
    let is_reduced = share > 0.0;
    REDUCTION.set(is_reduced.then_some(Reduction { leasts: *leasts, share: share.min(1.0) }));
}

/// How long `timeout` lasts now.
#[inline]
pub(crate) fn reduced(which: Reducible, timeout: Duration) -> Duration {
    match REDUCTION.get() {
        None => timeout,
        Some(reduction) => reduction.of(which, timeout),
    }
}

impl Reduction {
    fn of(self, which: Reducible, timeout: Duration) -> Duration {
        let Some(least) = self.leasts.0[which as usize] else { return timeout };
        let least = least.of(timeout);
        least + (timeout - least).mul_f64(1.0 - self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(600);

    /// The example of Envoy's documentation, and what lies on both sides of it.
    #[test]
    fn a_timeout_lies_between_itself_and_its_least() {
        let mut leasts = Leasts::default();
        assert!(leasts.is_empty());
        assert!(leasts.insert(Reducible::ConnectionIdle, Least::Time(Duration::from_secs(2))));
        assert!(leasts.insert(Reducible::StreamIdle, Least::Share(0.1)));
        assert!(!leasts.insert(Reducible::StreamIdle, Least::Share(0.1)), "twice");
        let at = |share, which| {
            set(&leasts, share);
            let timeout = reduced(which, IDLE);
            set(&leasts, 0.0);
            timeout
        };
        assert_eq!(at(0.0, Reducible::ConnectionIdle), IDLE);
        assert_eq!(at(1.0, Reducible::ConnectionIdle), Duration::from_secs(2));
        let between = at(0.7, Reducible::ConnectionIdle).as_secs_f64();
        assert!((between - 181.4).abs() < 1e-6, "{between}");
        assert_eq!(at(1.0, Reducible::StreamIdle), Duration::from_secs(60));
        assert_eq!(at(1.0, Reducible::StreamFlush), IDLE, "that one is not reduced");
    }

    #[test]
    fn nothing_gets_longer() {
        let mut leasts = Leasts::default();
        leasts.insert(Reducible::ConnectionIdle, Least::Time(2 * IDLE));
        leasts.insert(Reducible::StreamIdle, Least::Share(7.0));
        for share in [0.3, 1.0, 9.0] {
            set(&leasts, share);
            assert_eq!(reduced(Reducible::ConnectionIdle, IDLE), IDLE);
            assert_eq!(reduced(Reducible::StreamIdle, IDLE), IDLE);
        }
        set(&leasts, 0.0);
    }
}
