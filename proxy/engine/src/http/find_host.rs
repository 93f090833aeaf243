//! Waiting for the host that a request names, where its cluster is a dynamic forward proxy.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Poll, ready};

use proxy_core::stream_error::Details;

use super::deadlines::Tick;
use super::forward::Unavailable;
use super::stream::Stream;
use crate::codec::downstream::Downstream;
use crate::local::timers::Timer;

impl Stream<'_> {
    /// Waits until the host is `found`, an earlier try goes on, the client leaves, or a deadline passes.
    pub(super) async fn await_host<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        found: impl Future<Output = Result<(), Details>>,
    ) -> Result<(), Unavailable> {
        let mut found = pin!(found);
        poll_fn(|cx| {
            if let Poll::Ready(found) = found.as_mut().poll(cx) {
                return Poll::Ready(found.map_err(|details| match self.races() {
                    true => Unavailable::Overtaken,
                    false => Unavailable::End(self.unknown_host(details)),
                }));
            }
            if self.races() && self.poll_race(cx).is_ready() {
                return Poll::Ready(Err(Unavailable::Overtaken));
            }
            if let Poll::Ready(error) = down.poll_gone(cx) {
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
}
