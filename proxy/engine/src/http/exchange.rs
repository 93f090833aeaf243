//! The exchange between one downstream stream and one upstream stream: heads, bodies and trailers in both directions,
//! in one task, with back-pressure, until both are through or one of them fails.
//!
//! Pull, not push: a piece is read only when the other side has room for one. Whatever is ready together leaves in one
//! write, because flushing comes after reading in every turn.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use proxy_core::head::{BodyEvent, Protocol};
use proxy_core::local_reply::LocalReply;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_error::UpstreamReset;

use super::deadlines::Timeout;
use super::filter_chain::Passed;
use super::stream::{Stream, StreamEnd};
use crate::codec::downstream::{Downstream, DownstreamError};
use crate::codec::upstream::{Upstream, UpstreamEvent};
use crate::local::timers::Timer;

/// What happened next.
enum Event {
    Request(BodyEvent),
    Response(UpstreamEvent),
    UpstreamFailed(UpstreamReset),
    DownstreamFailed(DownstreamError),
    TimedOut(Timeout),
}

/// How an exchange ended when it did not end well for the upstream.
pub(crate) enum Failure {
    /// The upstream failed; if the response was not begun, something else can be answered.
    Upstream(UpstreamReset),
    /// The stream ended for another reason.
    End(StreamEnd),
}

impl From<StreamEnd> for Failure {
    fn from(end: StreamEnd) -> Self {
        Self::End(end)
    }
}

struct Progress {
    /// The response is complete.
    response_done: bool,
    /// The stream became a tunnel.
    tunnel: bool,
    /// The request was complete when the tunnel began anew.
    request_done: bool,
}

impl Stream<'_> {
    /// Runs the exchange. The request head is queued on `up` already.
    pub(crate) async fn exchange<D: Downstream>(
        &mut self,
        down: &mut D,
        up: &mut Upstream,
        timer: &mut Timer,
    ) -> Result<(), Failure> {
        let request_done = self.request_done || self.is_tunnel();
        let mut progress = Progress { response_done: false, tunnel: false, request_done };
        while !progress.response_done {
            let event = poll_fn(|cx| self.poll_event(down, up, timer, &progress, cx)).await;
            match event {
                Event::Request(body) => self.on_request(up, &mut progress, body).await?,
                Event::Response(event) => self.on_response(down, &mut progress, event).await?,
                Event::UpstreamFailed(reset) => return Err(Failure::Upstream(reset)),
                Event::DownstreamFailed(error) => return Err(self.downstream_failed(error).into()),
                Event::TimedOut(timeout) => return Err(self.timed_out(timeout).into()),
            }
        }
        if !self.request_done && !progress.tunnel {
            self.cx.manager.stats.here().downstream_rq_response_before_rq_complete.inc();
        }
        self.flush(down, timer).await.map_err(Failure::End)
    }

    fn poll_event<D: Downstream>(
        &mut self,
        down: &mut D,
        up: &mut Upstream,
        timer: &mut Timer,
        progress: &Progress,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        // Response first: it is what frees resources.
        let mut down_blocked = false;
        match down.poll_room(cx) {
            Poll::Ready(Ok(())) => {
                if let Poll::Ready(event) = up.poll_event(cx) {
                    return Poll::Ready(match event {
                        Ok(event) => Event::Response(event),
                        Err(reset) => Event::UpstreamFailed(reset),
                    });
                }
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Event::DownstreamFailed(error)),
            Poll::Pending => down_blocked = true,
        }
        if !progress.request_done {
            match up.poll_room(cx) {
                Poll::Ready(Ok(())) => {
                    if let Poll::Ready(event) = down.poll_body(cx) {
                        return Poll::Ready(match event {
                            Ok(body) => Event::Request(body),
                            Err(error) => Event::DownstreamFailed(error),
                        });
                    }
                }
                Poll::Ready(Err(reset)) => return Poll::Ready(Event::UpstreamFailed(reset)),
                Poll::Pending => {}
            }
        }
        if let Poll::Ready(Err(reset)) = up.poll_flush(cx) {
            return Poll::Ready(Event::UpstreamFailed(reset));
        }
        if let Poll::Ready(Err(error)) = down.poll_flush(cx) {
            return Poll::Ready(Event::DownstreamFailed(error));
        }
        if down_blocked && down.poll_room(cx).is_ready() {
            // Room appeared while flushing: look again at once.
            cx.waker().wake_by_ref();
        }
        if progress.request_done
            && let Poll::Ready(error) = down.poll_gone(cx)
        {
            return Poll::Ready(Event::DownstreamFailed(error));
        }
        self.poll_deadline(timer, cx).map(Event::TimedOut)
    }

    /// Ready when a deadline of the stream has passed.
    pub(crate) fn poll_deadline(&self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<Timeout> {
        let Some(earliest) = self.deadlines.earliest() else { return Poll::Pending };
        while timer.poll(cx, earliest).is_ready() {
            if let Some(timeout) = self.deadlines.passed(Instant::now()) {
                return Poll::Ready(timeout);
            }
        }
        Poll::Pending
    }

    /// A piece of the request arrived.
    async fn on_request(
        &mut self,
        up: &mut Upstream,
        progress: &mut Progress,
        body: BodyEvent,
    ) -> Result<(), Failure> {
        self.deadlines.touch(Instant::now());
        match body {
            BodyEvent::Data(data) => {
                self.info.bytes_received += data.len() as u64;
                if let Some(data) = self.filter_request_data(data, false).await? {
                    up.data(data);
                }
            }
            BodyEvent::Trailers(mut trailers) => {
                progress.request_done = true;
                self.on_request_complete();
                self.filter_request_trailers(up, &mut trailers).await?;
                up.finish(Some(trailers));
                self.info.upstream.last_tx = Some(Instant::now());
            }
            BodyEvent::End => {
                progress.request_done = true;
                if progress.tunnel {
                    self.info.details = Some("downstream_remote_disconnect".into());
                } else {
                    self.on_request_complete();
                }
                if let Some(rest) = self.filter_request_data(Bytes::new(), true).await?
                    && !rest.is_empty()
                {
                    up.data(rest);
                }
                up.finish(None);
                self.info.upstream.last_tx = Some(Instant::now());
            }
        }
        Ok(())
    }

    /// Passes a piece of the request through the filters; `None` if nothing goes on.
    pub(crate) async fn filter_request_data(
        &mut self,
        mut data: Bytes,
        end: bool,
    ) -> Result<Option<Bytes>, StreamEnd> {
        if !self.filters.sees_request_body() {
            return Ok(Some(data));
        }
        let count = self.filters.len();
        let (filters, configured, mut view) = self.filter_view();
        match filters.request_data(configured, &mut view, (0, count), &mut data, end).await {
            Passed::On => {
                let held = filters.take_request();
                Ok(Some(join(held, data)))
            }
            Passed::Held(_) => {
                if filters.hold_request(&data) > self.cx.buffer_limit {
                    return Err(self.too_large());
                }
                Ok(None)
            }
            Passed::Dropped => Ok(None),
            Passed::Reply(reply) => Err(StreamEnd::Reply(reply)),
        }
    }

    fn too_large(&mut self) -> StreamEnd {
        self.cx.manager.stats.here().downstream_rq_too_large.inc();
        StreamEnd::Reply(Box::new(LocalReply::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Bytes::from_static(b"Payload Too Large"),
            "request_payload_too_large",
        )))
    }

    async fn filter_request_trailers(
        &mut self,
        up: &mut Upstream,
        trailers: &mut HeaderMap,
    ) -> Result<(), StreamEnd> {
        if !self.filters.sees_request_body() {
            return Ok(());
        }
        let (filters, configured, mut view) = self.filter_view();
        if let Passed::Reply(reply) = filters.request_trailers(configured, &mut view, trailers).await {
            return Err(StreamEnd::Reply(reply));
        }
        let held = filters.take_request();
        if !held.is_empty() {
            up.data(held);
        }
        Ok(())
    }

    /// The upstream sent something.
    async fn on_response<D: Downstream>(
        &mut self,
        down: &mut D,
        progress: &mut Progress,
        event: UpstreamEvent,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        self.deadlines.touch(now);
        match event {
            UpstreamEvent::Informational(head) => {
                // Envoy relays 1xx heads only when `expect` is proxied; others end here.
                if !std::mem::replace(&mut self.informed, true) {
                    self.charge(head.status);
                }
                if self.cx.manager.proxy_100_continue {
                    let stats = self.cx.manager.stats.here();
                    stats.downstream_rq_1xx.inc();
                    stats.downstream_rq_completed.inc();
                    down.inform(&head);
                }
            }
            UpstreamEvent::Head { head, end, is_upgrade } => {
                self.info.upstream.first_rx = Some(now);
                self.upstream_head(head, now);
                if is_upgrade {
                    progress.tunnel = true;
                    progress.request_done = false;
                    self.deadlines.set_route(None);
                }
                if end {
                    self.upstream_complete(now);
                }
                self.respond(down, end, is_upgrade).await?;
                progress.response_done = end;
            }
            UpstreamEvent::Body(BodyEvent::Data(data)) => {
                self.info.upstream.first_rx_body.get_or_insert(now);
                self.respond_data(down, data).await?;
            }
            UpstreamEvent::Body(BodyEvent::Trailers(trailers)) => {
                self.upstream_complete(now);
                self.respond_trailers(down, trailers).await?;
                progress.response_done = true;
            }
            UpstreamEvent::Body(BodyEvent::End) => {
                self.upstream_complete(now);
                let over_http1 = self.info.upstream.protocol == Some(Protocol::Http11);
                if progress.tunnel && !progress.request_done && over_http1 && !self.is_connect_terminated() {
                    // The upstream took the connection away; the client learns that after what it was sent.
                    let reset = UpstreamReset::ConnectionTermination;
                    self.info.flags.set(reset.flag());
                    let details = format!("upstream_reset_after_response_started{{{}}}", reset.details());
                    self.info.details = Some(details.into());
                }
                self.respond_end(down).await?;
                progress.response_done = true;
            }
        }
        Ok(())
    }

    /// Waits until everything queued downstream has left.
    pub(crate) async fn flush<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
    ) -> Result<(), StreamEnd> {
        let written = poll_fn(|cx| {
            if let Poll::Ready(result) = down.poll_flush(cx) {
                return Poll::Ready(Ok(result));
            }
            self.poll_deadline(timer, cx).map(Err)
        })
        .await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.downstream_failed(error)),
            Err(timeout) => Err(self.timed_out(timeout)),
        }
    }

    /// Notes that the downstream is gone.
    pub(crate) fn downstream_failed(&mut self, error: DownstreamError) -> StreamEnd {
        let stats = self.cx.manager.stats.here();
        match error {
            DownstreamError::Disconnected => {
                self.info.flags.set(ResponseFlag::DownstreamConnectionTermination);
                self.info.details = Some("downstream_remote_disconnect".into());
                StreamEnd::Gone
            }
            DownstreamError::Reset => {
                stats.downstream_rq_rx_reset.inc();
                self.info.flags.set(ResponseFlag::DownstreamRemoteReset);
                self.info.details.get_or_insert("http2.remote_reset".into());
                StreamEnd::Gone
            }
            DownstreamError::Protocol(details) => {
                stats.downstream_cx_protocol_error.inc();
                self.info.flags.set(ResponseFlag::DownstreamProtocolError);
                if self.committed {
                    return StreamEnd::Gone;
                }
                StreamEnd::Reply(Box::new(LocalReply::new(
                    StatusCode::BAD_REQUEST,
                    Bytes::from_static(b"Bad Request"),
                    details,
                )))
            }
        }
    }

    /// What a deadline that passed means for the stream.
    pub(crate) fn timed_out(&mut self, timeout: Timeout) -> StreamEnd {
        let stats = self.cx.manager.stats.here();
        let (flag, status, body, details) = match timeout {
            Timeout::Idle => {
                stats.downstream_rq_idle_timeout.inc();
                let status = match self.request_done {
                    true => StatusCode::GATEWAY_TIMEOUT,
                    false => StatusCode::REQUEST_TIMEOUT,
                };
                (Some(ResponseFlag::StreamIdleTimeout), status, "stream timeout", "stream_idle_timeout")
            }
            Timeout::Request => {
                stats.downstream_rq_timeout.inc();
                (None, StatusCode::REQUEST_TIMEOUT, "request timeout", "request_overall_timeout")
            }
            Timeout::Route => {
                self.upstream_timed_out();
                let flag = Some(ResponseFlag::UpstreamRequestTimeout);
                (flag, StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", "response_timeout")
            }
            Timeout::UpstreamMaxDuration => {
                if let Some(cluster) = &self.cluster {
                    cluster.stats.traffic.here().upstream_rq_max_duration_reached.inc();
                }
                let flag = Some(ResponseFlag::UpstreamMaxStreamDurationReached);
                let body = "upstream max stream duration reached";
                (flag, StatusCode::GATEWAY_TIMEOUT, body, "upstream_max_stream_duration_reached")
            }
            Timeout::MaxDuration => {
                stats.downstream_rq_max_duration_reached.inc();
                let status = match self.request_done {
                    true => StatusCode::GATEWAY_TIMEOUT,
                    false => StatusCode::REQUEST_TIMEOUT,
                };
                (None, status, "downstream duration timeout", "max_duration_timeout")
            }
        };
        if let Some(flag) = flag {
            self.info.flags.set(flag);
        }
        if self.committed {
            self.info.details = Some(details.into());
            return StreamEnd::Reset;
        }
        let mut reply = LocalReply::new(status, Bytes::from_static(body.as_bytes()), details);
        if timeout == Timeout::MaxDuration {
            // DEADLINE_EXCEEDED
            reply.grpc_status = Some(4);
        }
        StreamEnd::Reply(Box::new(reply))
    }
}

fn join(held: Bytes, data: Bytes) -> Bytes {
    match (held.is_empty(), data.is_empty()) {
        (true, _) => data,
        (false, true) => held,
        (false, false) => [held, data].concat().into(),
    }
}
