//! The exchange between one downstream stream and one upstream stream: heads, bodies and trailers in both directions,
//! in one task, with back-pressure, until both are through or one of them fails.
//!
//! Pull, not push: a piece is read only when the other side has room for one. Whatever is ready together leaves in one
//! write, because flushing comes after reading in every turn.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use proxy_core::extension::http_filter::{Direction, Verdict};
use proxy_core::head::{BodyEvent, Protocol};
use proxy_core::local_reply::LocalReply;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_error::UpstreamReset;

use super::deadlines::{Tick, Timeout};
use super::filter_chain::{Ending, Parts};
use super::passing::Side;
use super::retry::Decided;
use super::stream::{Stream, StreamEnd};
use crate::codec::downstream::{Downstream, DownstreamError};
use crate::codec::h2_metadata::MetadataBlock;
use crate::codec::upstream::UpstreamEvent;
use crate::local::clock;
use crate::local::reduced::{Reducible, reduced};
use crate::local::timers::Timer;
use crate::upstream::stream::Upstream;

/// What happened next.
enum Event {
    Request(BodyEvent),
    Response(UpstreamEvent),
    Metadata(Direction, MetadataBlock),
    UpstreamFailed(UpstreamReset),
    /// An earlier try takes the place of this one.
    Overtaken,
    DownstreamFailed(DownstreamError),
    Tick(Tick),
    /// The filter at this position lets go of what it held.
    Resumed(Direction, Side, usize, Verdict),
}

/// How an exchange ended when it did not end well for the upstream.
pub(crate) enum Failure {
    /// The upstream failed; if the response was not begun, something else can be answered.
    Upstream(UpstreamReset),
    /// The response is one to send the request again for, after this pause.
    Refused(Duration),
    /// The response is not one to pass on while another try may have a better one.
    Denied,
    /// The try takes too long: after this pause another one begins beside it.
    Hedged(Duration),
    /// A deadline of the try passed, and no response was begun.
    TimedOut(Timeout),
    /// The stream ended for another reason.
    End(StreamEnd),
}

impl From<StreamEnd> for Failure {
    fn from(end: StreamEnd) -> Self {
        Self::End(end)
    }
}

struct Progress {
    /// The response was read to its end.
    response_read: bool,
    /// The response was passed on to its end.
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
        let mut progress =
            Progress { response_read: false, response_done: false, tunnel: false, request_done };
        self.send_early_metadata(down, up).await;
        if let Some(parts) = self.gathered.as_deref().cloned() {
            // (It has passed all filters, and can be sent again.)
            self.queue(up, parts);
        }
        while !progress.response_done {
            if progress.request_done
                && !progress.response_read
                && !progress.tunnel
                && self.may_splice(down, up)
            {
                self.splice(down, up, timer).await?;
            }
            let event = poll_fn(|cx| self.poll_event(down, up, timer, &progress, cx)).await;
            match event {
                Event::Request(body) => self.on_request(down, up, timer, &mut progress, body).await?,
                Event::Response(event) => self.on_response(down, timer, &mut progress, event).await?,
                Event::Metadata(direction, block) => self.pass_metadata(down, up, direction, block),
                Event::Resumed(Direction::Request, side, position, verdict) => {
                    let mut parts =
                        self.resume(down, timer, side, Direction::Request, position, verdict).await?;
                    if side == Side::Downstream {
                        self.keep(&parts);
                        parts = self.pass_upstream(down, timer, Direction::Request, parts).await?;
                    }
                    self.send_on(up, parts);
                }
                Event::Resumed(Direction::Response, side, position, verdict) => {
                    let parts =
                        self.resume(down, timer, side, Direction::Response, position, verdict).await?;
                    match side {
                        Side::Upstream => self.on_routed(down, timer, &mut progress, parts).await?,
                        Side::Downstream => progress.response_done = self.emit(down, parts),
                    }
                }
                Event::Overtaken => {
                    self.overtake(up);
                    progress.response_read = false;
                }
                Event::UpstreamFailed(reset) => return Err(Failure::Upstream(reset)),
                Event::DownstreamFailed(error) => return Err(self.downstream_failed(error).into()),
                Event::Tick(Tick::UpstreamLog) => self.log_upstream_again(down.wire()),
                Event::Tick(Tick::TimedOut(timeout @ (Timeout::Try | Timeout::TryIdle))) if self.hedges() => {
                    if let Some(pause) = self.hedge(timeout) {
                        return Err(Failure::Hedged(pause));
                    }
                }
                Event::Tick(Tick::TimedOut(
                    timeout @ (Timeout::Try | Timeout::TryIdle | Timeout::UpstreamMaxDuration),
                )) if self.response.is_none() => {
                    return Err(Failure::TimedOut(timeout));
                }
                Event::Tick(Tick::TimedOut(timeout)) => return Err(self.timed_out(timeout).into()),
            }
        }
        if !self.request_done && !progress.tunnel {
            self.cx.manager.stats.here().downstream_rq_response_before_rq_complete.inc();
        }
        let flushed = poll_fn(|cx| Poll::Ready(down.poll_flush(cx))).await;
        match flushed {
            Poll::Ready(Err(error)) => Err(self.downstream_failed(error).into()),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn poll_event<D: Downstream>(
        &mut self,
        down: &mut D,
        up: &mut Upstream,
        timer: &mut Timer,
        progress: &Progress,
        cx: &mut Context<'_>,
    ) -> Poll<Event> {
        if self.races() {
            if let Some(event) = self.first_answer() {
                return Poll::Ready(Event::Response(event));
            }
            if self.poll_race(cx).is_ready() {
                return Poll::Ready(Event::Overtaken);
            }
        }
        // Response first: it is what frees resources.
        let mut down_blocked = false;
        let down_room = down.poll_room(cx);
        // Flow control is not for metadata: what goes before it, and may leave, has left.
        if !progress.response_read
            && let Poll::Ready(block) = up.poll_metadata(cx)
        {
            return Poll::Ready(Event::Metadata(Direction::Response, block));
        }
        match down_room {
            Poll::Ready(Ok(())) => {
                if let Some(resumed) = self.poll_resumed(Direction::Response, cx) {
                    return Poll::Ready(resumed);
                }
                if !progress.response_read
                    && !self.paces(Direction::Response)
                    && let Poll::Ready(event) = up.poll_event(cx)
                {
                    return Poll::Ready(match event {
                        Ok(event) => Event::Response(event),
                        Err(reset) => Event::UpstreamFailed(reset),
                    });
                }
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Event::DownstreamFailed(error)),
            Poll::Pending => down_blocked = true,
        }
        let mut up_blocked = false;
        if !progress.request_done || self.holds(Direction::Request) {
            let up_room = up.poll_room(cx);
            up_blocked = up_room.is_pending();
            if !progress.request_done
                && (up_room.is_ready() || up.poll_begun(cx).is_ready())
                && let Poll::Ready(block) = down.poll_metadata(cx)
            {
                return Poll::Ready(Event::Metadata(Direction::Request, block));
            }
            match up_room {
                Poll::Ready(Ok(())) => {
                    if let Some(resumed) = self.poll_resumed(Direction::Request, cx) {
                        return Poll::Ready(resumed);
                    }
                    if !progress.request_done
                        && !self.paces(Direction::Request)
                        && let Poll::Ready(event) = down.poll_body(cx)
                    {
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
        let gone = match progress.request_done {
            true => down.poll_gone(cx),
            // (A tunnel's client may end its half, and what it sent before is the host's to take.)
            false
                if (up_blocked || self.paces(Direction::Request)) && !progress.tunnel
                    || down.protocol() == Protocol::Http2 =>
            {
                down.poll_hung_up(cx)
            }
            // Who reads the request learns of it.
            false => Poll::Pending,
        };
        if let Poll::Ready(error) = gone {
            return Poll::Ready(Event::DownstreamFailed(error));
        }
        self.deadlines.poll_tick(timer, cx).map(Event::Tick)
    }

    /// Whether a filter holds anything in `direction`.
    pub(crate) fn holds(&self, direction: Direction) -> bool {
        self.filters.holds(direction) || self.upstream_holds(direction)
    }

    /// Whether as much waits in `direction` as may be held, because a filter did not let it pass yet.
    pub(crate) fn paces(&self, direction: Direction) -> bool {
        self.filters.paces(direction) || self.upstream_paces(direction)
    }

    fn poll_resumed(&mut self, direction: Direction, cx: &mut Context<'_>) -> Option<Event> {
        if !self.holds(direction) {
            return None;
        }
        match self.poll_resume(direction, cx) {
            Poll::Ready((side, position, verdict)) => {
                Some(Event::Resumed(direction, side, position, verdict))
            }
            Poll::Pending => None,
        }
    }

    /// Sends on the metadata that came before the request went on, which a filter may have held until it was complete.
    async fn send_early_metadata<D: Downstream>(&mut self, down: &mut D, up: &mut Upstream) {
        if self.is_tunnel() || !down.has_metadata() {
            return;
        }
        while let Poll::Ready(block) = poll_fn(|cx| Poll::Ready(down.poll_metadata(cx))).await {
            self.pass_metadata(down, up, Direction::Request, block);
        }
        if self.request_done && self.gathered.is_none() && !self.holds(Direction::Request) {
            up.finish(None);
        }
    }

    /// Passes metadata on. Filters have no part in it; where the other side cannot be told, nobody learns of it.
    fn pass_metadata<D: Downstream>(
        &mut self,
        down: &mut D,
        up: &mut Upstream,
        direction: Direction,
        block: MetadataBlock,
    ) {
        self.deadlines.touch(clock::now());
        // It is passed on once, and kept nowhere.
        self.body_sent = true;
        match direction {
            Direction::Request => up.metadata(block),
            Direction::Response if down.protocol() == Protocol::Http2 => down.metadata(block),
            Direction::Response => {
                self.cx.manager.http1_stats.here().metadata_not_supported_error.inc();
            }
        }
    }

    /// Sends on what passed the filters, which is gone then.
    fn send_on(&mut self, up: &mut Upstream, parts: Parts) {
        self.body_sent |= !parts.data.is_empty() || parts.end.is_some();
        self.queue(up, parts);
    }

    fn queue(&mut self, up: &mut Upstream, parts: Parts) {
        if !parts.data.is_empty() {
            up.data(parts.data);
        }
        match parts.end {
            Some(Ending::Stream) => up.finish(None),
            Some(Ending::Trailers(trailers)) => up.finish(Some(*trailers)),
            None => return,
        }
        self.info.upstream.last_tx = Some(clock::now());
    }

    /// A piece of the request arrived.
    async fn on_request<D: Downstream>(
        &mut self,
        down: &mut D,
        up: &mut Upstream,
        timer: &mut Timer,
        progress: &mut Progress,
        body: BodyEvent,
    ) -> Result<(), Failure> {
        progress.request_done = !matches!(body, BodyEvent::Data(_));
        let parts = if progress.tunnel && matches!(body, BodyEvent::End) {
            self.deadlines.touch(clock::now());
            self.request_done = true;
            self.info.details = Some("downstream_remote_disconnect".into());
            Parts::body(body)
        } else {
            self.receive(body)
        };
        let parts = self.pass(down, timer, Side::Downstream, Direction::Request, 0, parts).await?;
        if self.tries.is_some() || self.mirrors.is_some() {
            self.keep(&parts);
        }
        let parts = self.pass_upstream(down, timer, Direction::Request, parts).await?;
        self.send_on(up, parts);
        Ok(())
    }

    /// The upstream sent something.
    async fn on_response<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        progress: &mut Progress,
        event: UpstreamEvent,
    ) -> Result<(), Failure> {
        let now = clock::now();
        self.deadlines.touch(now);
        match event {
            UpstreamEvent::Informational(head) => {
                // Envoy relays 1xx heads only when `expect` is proxied; others end here.
                if !std::mem::replace(&mut self.informed, true) {
                    self.charge(head.status);
                }
                if let Some(tries) = &mut self.tries {
                    tries.forgo();
                    self.end_race();
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
                self.response = Some(head);
                if is_upgrade {
                    progress.tunnel = true;
                    progress.request_done = false;
                    self.deadlines.set_route(None);
                }
                self.response_upgrades = is_upgrade;
                let parts = Parts::head(end);
                self.on_response_parts(down, timer, progress, parts).await?;
            }
            UpstreamEvent::Last(data) => {
                self.info.upstream.first_rx_body.get_or_insert(now);
                self.on_response_parts(down, timer, progress, Parts::last(data)).await?;
            }
            UpstreamEvent::Body(body) => {
                if matches!(body, BodyEvent::Data(_)) {
                    self.info.upstream.first_rx_body.get_or_insert(now);
                }
                let over_http1 = self.info.upstream.protocol == Some(Protocol::Http11);
                if matches!(body, BodyEvent::End)
                    && progress.tunnel
                    && !progress.request_done
                    && over_http1
                    && !self.is_connect_terminated()
                {
                    // The upstream took the connection away; the client learns that after what it was sent.
                    let reset = UpstreamReset::ConnectionTermination;
                    self.info.flags.set(reset.flag());
                    let details = format!("upstream_reset_after_response_started{{{}}}", reset.details());
                    self.info.details = Some(details.into());
                }
                self.on_response_parts(down, timer, progress, Parts::body(body)).await?;
            }
        }
        Ok(())
    }

    async fn on_response_parts<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        progress: &mut Progress,
        parts: Parts,
    ) -> Result<(), Failure> {
        progress.response_read |= parts.end.is_some();
        let parts = self.pass_upstream(down, timer, Direction::Response, parts).await?;
        self.on_routed(down, timer, progress, parts).await
    }

    /// The router gets a part of the response, past the filters behind it.
    async fn on_routed<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        progress: &mut Progress,
        parts: Parts,
    ) -> Result<(), Failure> {
        if parts.head {
            self.note_answer();
            if self.tries.is_some() {
                let last_rx = parts.end.is_some().then(clock::now);
                match self.judge_response() {
                    Decided::Keep => {}
                    Decided::Again(pause) => {
                        self.info.upstream.last_rx = last_rx;
                        return Err(Failure::Refused(pause));
                    }
                    Decided::Denied => {
                        self.info.upstream.last_rx = last_rx;
                        return Err(Failure::Denied);
                    }
                }
                if let Some(end) = self.follows_redirect() {
                    self.info.upstream.last_rx = last_rx;
                    return Err(end.into());
                }
            }
            self.upstream_head(clock::now(), parts.end.is_some());
        }
        if let Some(Ending::Trailers(trailers)) = &parts.end
            && self.wants_report()
        {
            self.is_reported = self.note_report(trailers);
        }
        if let Some(end) = &parts.end {
            if let Ending::Trailers(trailers) = end {
                self.count_grpc_end(Some(trailers));
            }
            self.upstream_complete(clock::now());
        }
        let parts = self.pass(down, timer, Side::Downstream, Direction::Response, 0, parts).await?;
        progress.response_done = self.emit(down, parts);
        Ok(())
    }

    /// Waits until a complete response has left; over HTTP/2 as long as it may wait for the client's window.
    pub(crate) async fn flush<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
    ) -> Result<(), StreamEnd> {
        if down.protocol() != Protocol::Http2 {
            return self.flush_rest(down, timer).await;
        }
        let mut begun = None;
        let written = poll_fn(|cx| {
            if let Poll::Ready(result) = down.poll_flush(cx) {
                return Poll::Ready(Some(result));
            }
            let (since, timeout) = begun.get_or_insert_with(|| (clock::now(), self.flush_timeout()));
            let Some(timeout) = *timeout else { return Poll::Pending };
            timer.poll(cx, *since + reduced(Reducible::StreamFlush, timeout)).map(|()| None)
        })
        .await;
        match written {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(self.downstream_failed(error)),
            None => {
                self.cx.manager.http2_stats.here().tx_flush_timeout.inc();
                down.reset();
                Err(StreamEnd::Gone)
            }
        }
    }

    fn flush_timeout(&self) -> Option<Duration> {
        let here = self.cx.manager.stream_flush_timeout;
        self.route().map_or(here, |route| route.flush_timeout().or(here))
    }

    /// Waits until everything queued downstream has left, or a deadline passes.
    pub(crate) async fn flush_rest<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
    ) -> Result<(), StreamEnd> {
        let written = poll_fn(|cx| {
            if let Poll::Ready(result) = down.poll_flush(cx) {
                return Poll::Ready(Ok(result));
            }
            self.deadlines.poll(timer, cx).map(Err)
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
                stats.downstream_rq_rx_reset.inc();
                if self.info.protocol != Some(Protocol::Http2) {
                    stats.downstream_cx_destroy_active_rq.inc();
                    stats.downstream_cx_destroy_remote_active_rq.inc();
                }
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
            DownstreamError::Overloaded => {
                stats.downstream_rq_rx_reset.inc();
                self.info.flags.set(ResponseFlag::OverloadManagerTerminated);
                self.info.details = Some("overload".into());
                StreamEnd::Gone
            }
            DownstreamError::Shed => {
                stats.downstream_rq_overload_close.inc();
                self.info.flags.set(ResponseFlag::DownstreamProtocolError);
                if self.committed {
                    stats.downstream_rq_rx_reset.inc();
                    self.info.details = Some("overload".into());
                    return StreamEnd::Gone;
                }
                stats.downstream_rq_response_before_rq_complete.inc();
                let (status, body) = (StatusCode::INTERNAL_SERVER_ERROR, &b"Internal Server Error"[..]);
                StreamEnd::Reply(Box::new(LocalReply::new(status, Bytes::from_static(body), "overload")))
            }
            DownstreamError::Excess(details) => {
                stats.downstream_rq_rx_reset.inc();
                self.info.flags.set(ResponseFlag::DownstreamRemoteReset);
                self.info.details = Some(details.into());
                StreamEnd::Gone
            }
            DownstreamError::Protocol(details) => {
                stats.downstream_cx_protocol_error.inc();
                self.info.flags.set(ResponseFlag::DownstreamProtocolError);
                let is_reset = self.info.protocol == Some(Protocol::Http2);
                if is_reset {
                    stats.downstream_rq_rx_reset.inc();
                    self.info.details = Some(details.into());
                }
                if is_reset || self.committed {
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
        // none of them passes twice
        self.deadlines.end(clock::now());
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
            Timeout::Try => {
                let flag = Some(ResponseFlag::UpstreamRequestTimeout);
                self.count_try_timeout(timeout);
                self.charge_unanswered(StatusCode::GATEWAY_TIMEOUT);
                (flag, StatusCode::GATEWAY_TIMEOUT, "upstream request timeout", "upstream_per_try_timeout")
            }
            Timeout::TryIdle => {
                let flag = Some(ResponseFlag::UpstreamRequestTimeout);
                self.count_try_timeout(timeout);
                self.charge_unanswered(StatusCode::GATEWAY_TIMEOUT);
                let body = "upstream request timeout";
                (flag, StatusCode::GATEWAY_TIMEOUT, body, "upstream_per_try_idle_timeout")
            }
            Timeout::UpstreamMaxDuration => {
                self.count_try_timeout(timeout);
                let flag = Some(ResponseFlag::UpstreamMaxStreamDurationReached);
                let body = "upstream max stream duration reached";
                (flag, StatusCode::GATEWAY_TIMEOUT, body, "upstream_max_stream_duration_reached")
            }
            Timeout::Farewell => return StreamEnd::Gone,
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
        if matches!(timeout, Timeout::Route | Timeout::Try | Timeout::TryIdle | Timeout::UpstreamMaxDuration)
        {
            return self.route_reply(reply);
        }
        StreamEnd::Reply(Box::new(reply))
    }
}
