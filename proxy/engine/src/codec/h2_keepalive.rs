//! PINGs that check an HTTP/2 connection (`Http2ProtocolOptions.connection_keepalive`).

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};

use crate::local::timers::Timer;

/// When a connection is checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Time between PINGs; `None` sends none by time.
    pub interval: Option<Duration>,
    /// Percent of the interval that chance may add to it.
    pub jitter: f64,
    /// Longest wait for the answer.
    pub timeout: Duration,
}

impl Schedule {
    fn next(&self) -> Option<Instant> {
        let interval = self.interval?;
        Some(Instant::now() + interval + interval.mul_f64(fastrand::f64() * self.jitter / 100.0))
    }
}

/// Sends a PING every so often and waits for its answer.
pub(crate) struct Keepalive {
    ping: PingPong,
    timer: Timer,
    schedule: Schedule,
    /// When the next PING is due, or the answer to the last.
    at: Option<Instant>,
    waiting: bool,
}

impl Keepalive {
    /// Checks the connection of `ping`, the first time after one interval.
    pub(crate) fn new(ping: PingPong, schedule: Schedule) -> Self {
        Self { ping, timer: Timer::default(), at: schedule.next(), schedule, waiting: false }
    }

    /// Checks the connection now, if that is not under way. To be polled afterwards.
    pub(crate) fn probe(&mut self) {
        if !self.waiting && self.ping.send_ping(Ping::opaque()).is_ok() {
            self.waiting = true;
            self.at = Some(Instant::now() + self.schedule.timeout);
        }
    }

    /// Ready when the peer did not answer in time. Polled by the task that polls the connection.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting
                && let Poll::Ready(answer) = self.ping.poll_pong(cx)
            {
                if answer.is_err() {
                    // The connection failed, which its owner sees for itself.
                    return Poll::Pending;
                }
                self.waiting = false;
                self.at = self.schedule.next();
            }
            let Some(at) = self.at else { return Poll::Pending };
            ready!(self.timer.poll(cx, at));
            if self.waiting {
                return Poll::Ready(());
            }
            self.probe();
            if !self.waiting {
                return Poll::Pending;
            }
        }
    }
}
