//! How parts of a message pass through the filters of a stream, before the router and behind it: waiting as long as one of them does, but never longer than
//! the client stays and the deadlines allow.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use proxy_core::extension::http_filter::{Direction, Verdict};
use proxy_core::head::{BodyEvent, Protocol};
use proxy_core::local_reply::LocalReply;

use super::deadlines::{Deadlines, Timeout};
use super::filter_chain::{Parts, Passed};
use super::stream::{Stream, StreamEnd};
use crate::codec::downstream::{Downstream, DownstreamError};
use crate::local::clock;
use crate::local::timers::Timer;

/// Which filters of a stream: those before the router, or those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Downstream,
    Upstream,
}

/// Why a wait for a filter ended without it.
enum Interrupt {
    Gone(DownstreamError),
    TimedOut(Timeout),
}

/// What moves a message on that a filter holds.
enum Moved {
    Resumed(Side, usize, Verdict),
    Body(Result<BodyEvent, DownstreamError>),
    Interrupted(Interrupt),
}

impl Stream<'_> {
    /// Passes the request head through the filters before the router, and what follows for as long as one of them holds
    /// the head.
    pub(crate) async fn pass_request_head<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        parts: Parts,
    ) -> Result<(), StreamEnd> {
        self.pass_head(down, timer, Side::Downstream, parts).await?;
        if std::mem::take(&mut self.clear_route) {
            self.match_route();
        }
        Ok(())
    }

    /// Passes `parts` with the request head through the filters of one side, and what follows for as long as one of them
    /// holds the head. What comes out with the head is gathered.
    pub(crate) async fn pass_head<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        side: Side,
        parts: Parts,
    ) -> Result<(), StreamEnd> {
        let end = parts.ends_with_head();
        let mut passed = self.pass(down, timer, side, Direction::Request, 0, parts).await?;
        while !passed.head {
            passed = self.move_on(down, timer, side, end).await?;
        }
        if !passed.data.is_empty() || (passed.end.is_some() && !end) {
            self.gathered = Some(Box::new(passed));
        }
        Ok(())
    }

    /// What passes next while a filter of `side` holds the request head.
    async fn move_on<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        side: Side,
        end: bool,
    ) -> Result<Parts, StreamEnd> {
        let is_full = self.paces(Direction::Request);
        let watch = self.watches(down.protocol()) || is_full;
        let read = !end && !self.request_done && !is_full;
        let moved = poll_fn(|cx| {
            if let Poll::Ready((side, position, verdict)) = self.poll_resume(Direction::Request, cx) {
                return Poll::Ready(Moved::Resumed(side, position, verdict));
            }
            if read && let Poll::Ready(body) = down.poll_body(cx) {
                return Poll::Ready(Moved::Body(body));
            }
            poll_interrupt(self.deadlines, watch, down, timer, cx).map(Moved::Interrupted)
        })
        .await;
        let (passed, by) = match moved {
            Moved::Resumed(by, position, verdict) => {
                (self.resume(down, timer, by, Direction::Request, position, verdict).await?, by)
            }
            Moved::Body(Ok(body)) => {
                let parts = self.receive(body);
                let parts = self.pass(down, timer, Side::Downstream, Direction::Request, 0, parts).await?;
                (parts, Side::Downstream)
            }
            Moved::Body(Err(error)) => return Err(self.downstream_failed(error)),
            Moved::Interrupted(interrupt) => return Err(self.interrupted(interrupt)),
        };
        match side == by {
            true => Ok(passed),
            false => self.pass_upstream(down, timer, Direction::Request, passed).await,
        }
    }

    /// Ready when a filter that holds something wants to go on: on which side and where it stands, and how.
    pub(crate) fn poll_resume(
        &mut self,
        direction: Direction,
        cx: &mut Context<'_>,
    ) -> Poll<(Side, usize, Verdict)> {
        if let Poll::Ready((position, verdict)) = self.filters.poll_resume(direction, cx) {
            return Poll::Ready((Side::Downstream, position, verdict));
        }
        match &mut self.upstream_filters {
            Some(filters) => filters
                .chain
                .poll_resume(direction, cx)
                .map(|(position, verdict)| (Side::Upstream, position, verdict)),
            None => Poll::Pending,
        }
    }

    /// Takes note of what the client sent after the head.
    pub(crate) fn receive(&mut self, body: BodyEvent) -> Parts {
        self.deadlines.touch(clock::now());
        match &body {
            BodyEvent::Data(data) => self.info.bytes_received += data.len() as u64,
            BodyEvent::Trailers(_) | BodyEvent::End => self.on_request_complete(),
        }
        Parts::body(body)
    }

    /// Passes `parts` through the filters of `side` from position `from` on.
    pub(crate) async fn pass<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        side: Side,
        direction: Direction,
        mut from: usize,
        mut parts: Parts,
    ) -> Result<Parts, StreamEnd> {
        let chain = match (side, &self.upstream_filters) {
            (Side::Upstream, Some(filters)) => &filters.chain,
            (Side::Upstream, None) => return Ok(parts),
            (Side::Downstream, _) => &self.filters,
        };
        if !chain.concerns(direction, &parts) {
            self.note_passed(side, direction, &parts);
            return Ok(parts);
        }
        loop {
            let watch = self.watches_unread(down.protocol());
            let deadlines = self.deadlines;
            let passed = {
                let (filters, configured, mut view) = match side {
                    Side::Downstream => self.filter_view(),
                    Side::Upstream => match self.upstream_filter_view() {
                        Some(view) => view,
                        None => return Ok(parts),
                    },
                };
                let mut advancing = pin!(filters.advance(direction, configured, &mut view, from, parts));
                poll_fn(|cx| {
                    if let Poll::Ready(passed) = advancing.as_mut().poll(cx) {
                        return Poll::Ready(Ok(passed));
                    }
                    // What the client is to have already does not wait with it.
                    if direction == Direction::Response
                        && let Poll::Ready(Err(error)) = down.poll_flush(cx)
                    {
                        return Poll::Ready(Err(Interrupt::Gone(error)));
                    }
                    poll_interrupt(deadlines, watch, down, timer, cx).map(Err)
                })
                .await
            };
            match passed {
                Ok(Passed::On(passed)) => {
                    self.note_passed(side, direction, &passed);
                    return Ok(passed);
                }
                Ok(Passed::Reply(reply)) => return Err(StreamEnd::Reply(reply)),
                Ok(Passed::TooLarge) => return Err(self.too_large(direction)),
                Ok(Passed::Rematch(position, rest)) => {
                    if side == Side::Downstream {
                        self.clear_route = false;
                        self.match_route();
                    }
                    (from, parts) = (position, rest);
                }
                Err(interrupt) => return Err(self.interrupted(interrupt)),
            }
        }
    }

    /// Takes note of what passed all filters of `side`.
    #[inline]
    fn note_passed(&mut self, side: Side, direction: Direction, parts: &Parts) {
        if parts.end.is_some() && (side, direction) == (Side::Downstream, Direction::Request) {
            self.on_request_routed();
        }
    }

    /// Goes on with what the filter at `position` held.
    pub(crate) async fn resume<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        side: Side,
        direction: Direction,
        position: usize,
        verdict: Verdict,
    ) -> Result<Parts, StreamEnd> {
        match verdict {
            Verdict::Continue => {
                self.deadlines.touch(clock::now());
                let chain = match (side, &mut self.upstream_filters) {
                    (Side::Upstream, Some(filters)) => &mut filters.chain,
                    (Side::Upstream, None) | (Side::Downstream, _) => &mut self.filters,
                };
                let (from, parts) = chain.release(direction, position);
                self.pass(down, timer, side, direction, from, parts).await
            }
            Verdict::Reply(reply) => Err(StreamEnd::Reply(reply)),
        }
    }

    /// Waits until a filter before the router lets go of what it holds of the response.
    pub(crate) async fn await_response<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
    ) -> Result<Parts, StreamEnd> {
        let watch = self.watches_unread(down.protocol());
        let resumed = poll_fn(|cx| {
            if let Poll::Ready(resumed) = self.filters.poll_resume(Direction::Response, cx) {
                return Poll::Ready(Ok(resumed));
            }
            // What the client is to have already does not wait with it.
            if let Poll::Ready(Err(error)) = down.poll_flush(cx) {
                return Poll::Ready(Err(Interrupt::Gone(error)));
            }
            poll_interrupt(self.deadlines, watch, down, timer, cx).map(Err)
        })
        .await;
        match resumed {
            Ok((position, verdict)) => {
                self.resume(down, timer, Side::Downstream, Direction::Response, position, verdict).await
            }
            Err(interrupt) => Err(self.interrupted(interrupt)),
        }
    }

    /// Whether the client going away can be seen without reading its request.
    pub(super) fn watches(&self, protocol: Protocol) -> bool {
        self.request_done || protocol == Protocol::Http2
    }

    /// Whether the client going away can be seen while nobody reads its request: over HTTP/1 what comes is read ahead and kept.
    fn watches_unread(&self, protocol: Protocol) -> bool {
        // (Of a tunnel the end of one half says nothing.)
        self.watches(protocol) || !self.committed || !self.is_tunnel()
    }

    fn interrupted(&mut self, interrupt: Interrupt) -> StreamEnd {
        match interrupt {
            Interrupt::Gone(error) => self.downstream_failed(error),
            Interrupt::TimedOut(timeout) => self.timed_out(timeout),
        }
    }

    fn too_large(&mut self, direction: Direction) -> StreamEnd {
        let stats = self.cx.manager.stats.here();
        let (status, body, details) = match direction {
            Direction::Request => {
                stats.downstream_rq_too_large.inc();
                (StatusCode::PAYLOAD_TOO_LARGE, "Payload Too Large", "request_payload_too_large")
            }
            Direction::Response => {
                stats.rs_too_large.inc();
                (StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error", "response_payload_too_large")
            }
        };
        StreamEnd::Reply(Box::new(LocalReply::new(status, Bytes::from_static(body.as_bytes()), details)))
    }
}

fn poll_interrupt<D: Downstream>(
    deadlines: Deadlines,
    watch: bool,
    down: &mut D,
    timer: &mut Timer,
    cx: &mut Context<'_>,
) -> Poll<Interrupt> {
    if watch && let Poll::Ready(error) = down.poll_gone(cx) {
        return Poll::Ready(Interrupt::Gone(error));
    }
    deadlines.poll(timer, cx).map(Interrupt::TimedOut)
}
