//! The rest of a long response body, moved by the kernel from socket to socket.
//!
//! Where no filter looks at the body, both sides speak HTTP/1 and its length is known, the proxy has nothing to do with the
//! octets but to count them. Deadlines, the client's leaving and back-pressure are as in the exchange that goes on afterwards.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use proxy_core::extension::http_filter::Direction;
use proxy_core::head::BodyEvent;
use proxy_core::stream_error::UpstreamReset;

use super::deadlines::Timeout;
use super::exchange::Failure;
use super::filter_chain::Parts;
use super::stream::Stream;
use crate::codec::downstream::{Downstream, DownstreamError};
use crate::local::clock;
use crate::local::timers::Timer;
use crate::net::pipe::Pipe;
use crate::upstream::stream::Upstream;

/// Octets still to come for which a pipe pays.
const SPLICE_FROM: u64 = 128 * 1024;

/// Why not everything was moved.
enum Ended {
    Upstream(UpstreamReset),
    Downstream(DownstreamError),
    TimedOut(Timeout),
}

impl Stream<'_> {
    /// Whether the rest of the response body may be left to the kernel.
    pub(crate) fn may_splice<D: Downstream>(&self, down: &D, up: &Upstream) -> bool {
        let left = up.unread();
        left >= SPLICE_FROM
            && down.can_splice(left)
            && !self.is_logged_again()
            && !self.holds(Direction::Request)
            && !self.upstream_filters.as_ref().is_some_and(|filters| filters.see_response_body())
            && !self.filters.concerns(Direction::Response, &Parts::body(BodyEvent::Data(Bytes::new())))
    }

    /// Moves what is [`Upstream::unread`].
    pub(crate) async fn splice<D: Downstream>(
        &mut self,
        down: &mut D,
        up: &mut Upstream,
        timer: &mut Timer,
    ) -> Result<(), Failure> {
        self.flush_rest(down, timer).await?;
        let Some(mut pipe) = Pipe::take(self.cx.buffer_limit) else { return Ok(()) };
        let ended = poll_fn(|cx| self.poll_splice(down, up, timer, &mut pipe, cx)).await;
        pipe.give();
        ended.map_err(|ended| match ended {
            Ended::Upstream(reset) => Failure::Upstream(reset),
            Ended::Downstream(error) => self.downstream_failed(error).into(),
            Ended::TimedOut(timeout) => self.timed_out(timeout).into(),
        })
    }

    fn poll_splice<D: Downstream>(
        &mut self,
        down: &mut D,
        up: &mut Upstream,
        timer: &mut Timer,
        pipe: &mut Pipe,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Ended>> {
        // the end of the request may still wait, and the host for it
        if let Poll::Ready(Err(reset)) = up.poll_flush(cx) {
            return Poll::Ready(Err(Ended::Upstream(reset)));
        }
        let before = self.info.bytes_sent;
        let ended = loop {
            if !pipe.is_empty() {
                match down.poll_splice(pipe, cx) {
                    Poll::Ready(Ok(count)) => self.info.bytes_sent += count as u64,
                    Poll::Ready(Err(error)) => break Some(Err(Ended::Downstream(error))),
                    Poll::Pending => break None,
                }
            } else if up.unread() == 0 {
                break Some(Ok(()));
            } else {
                match up.poll_splice(pipe, cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(reset)) => break Some(Err(Ended::Upstream(reset))),
                    Poll::Pending => break None,
                }
            }
        };
        if self.info.bytes_sent > before {
            let now = clock::now();
            self.deadlines.touch(now);
            self.info.upstream.first_rx_body.get_or_insert(now);
        }
        if let Some(ended) = ended {
            return Poll::Ready(ended);
        }
        if let Poll::Ready(error) = down.poll_gone(cx) {
            return Poll::Ready(Err(Ended::Downstream(error)));
        }
        self.deadlines.poll(timer, cx).map(|timeout| Err(Ended::TimedOut(timeout)))
    }
}
