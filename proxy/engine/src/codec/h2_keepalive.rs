//! PINGs that check an HTTP/2 connection (`Http2ProtocolOptions.connection_keepalive`).

use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use h2::{Ping, PingPong};

use crate::local::timers::Timer;

/// Sends a PING every so often and waits for its answer.
pub(crate) struct Keepalive {
    ping: PingPong,
    timer: Timer,
    interval: Duration,
    timeout: Duration,
    /// When the next PING is due, or the answer to the last.
    at: Instant,
    waiting: bool,
}

impl Keepalive {
    /// Checks the connection of `ping` every `interval`, the first time after one.
    pub(crate) fn new(ping: PingPong, interval: Duration, timeout: Duration) -> Self {
        let at = Instant::now() + interval;
        Self { ping, timer: Timer::default(), interval, timeout, at, waiting: false }
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
                self.at = Instant::now() + self.interval;
            }
            ready!(self.timer.poll(cx, self.at));
            if self.waiting {
                return Poll::Ready(());
            }
            if self.ping.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.waiting = true;
            self.at = Instant::now() + self.timeout;
        }
    }
}
