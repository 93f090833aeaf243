//! Waiting for the host that a request names, where its cluster is a dynamic forward proxy.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, ready};

use proxy_core::stream_error::Details;

use super::deadlines::Tick;
use super::stream::{Stream, StreamEnd};
use crate::codec::downstream::Downstream;
use crate::local::timers::Timer;

impl Stream<'_> {
    /// Waits until the host is `found`, the client leaves, or a deadline passes.
    pub(super) async fn await_host<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        found: impl Future<Output = Result<(), Details>>,
    ) -> Result<(), StreamEnd> {
        let mut found = pin!(found);
        poll_fn(|cx| {
            if let Poll::Ready(found) = found.as_mut().poll(cx) {
                return Poll::Ready(found.map_err(|details| self.unknown_host(details)));
            }
            if let Poll::Ready(error) = down.poll_gone(cx) {
                return Poll::Ready(Err(self.downstream_failed(error)));
            }
            loop {
                match ready!(self.deadlines.poll_tick(timer, cx)) {
                    Tick::UpstreamLog => self.log_upstream_again(down.wire()),
                    Tick::TimedOut(timeout) => return Poll::Ready(Err(self.timed_out(timeout))),
                }
            }
        })
        .await
    }
}
