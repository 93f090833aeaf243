//! The response on its way downstream: filters, the headers that the proxy owns, and local replies.
//!
//! Source: Envoy `ConnectionManagerUtility::mutateResponseHeaders`, `headers.rst`.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use proxy_core::extension::access_log::{LogEntry, LogType};
use proxy_core::extension::http_filter::Direction;
use proxy_core::head::{Protocol, ResponseHead};
use proxy_core::headers::{X_ENVOY_FORCE_TRACE, X_REQUEST_ID};
use proxy_core::local_reply::LocalReply;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ServerHeaderTransformation;

use super::filter_chain::{Ending, Parts};
use super::forwarded::append;
use super::passing::Side;
use super::reply;
use super::stream::{Stream, StreamEnd};
use crate::codec::downstream::Downstream;
use crate::local::clock;
use crate::local::contain::drill_request;
use crate::local::timers::Timer;
use crate::router::route::Action;

impl Stream<'_> {
    /// Sends what passed the filters; whether that was the end.
    pub(crate) fn emit<D: Downstream>(&mut self, down: &mut D, parts: Parts) -> bool {
        if parts.head {
            let end = parts.ends_with_head();
            self.send_head(down, end, self.response_upgrades);
            if end {
                return true;
            }
        }
        drill_request("body", &self.request, &self.cx.shared.env.runtime);
        let end = parts.ends();
        if !parts.data.is_empty() {
            self.info.bytes_sent += parts.data.len() as u64;
            down.data(parts.data, end);
        } else if end {
            down.finish();
        }
        if let Some(Ending::Trailers(trailers)) = parts.end {
            down.trailers((*trailers).clone());
            self.response_trailers = Some(*trailers);
            return true;
        }
        end
    }

    /// Puts the head on the wire; from here on nothing else can be answered.
    fn send_head<D: Downstream>(&mut self, down: &mut D, end: bool, is_upgrade: bool) {
        let manager = &*self.cx.manager;
        let is_cut_short = !self.request_done && down.protocol() != Protocol::Http2;
        let is_overloaded = self.is_overloaded();
        if !is_upgrade && (is_overloaded || self.close || is_cut_short || self.should_close()) {
            down.close_after();
        }
        drill_request("response", &self.request, &self.cx.shared.env.runtime);
        self.trace_response();
        let says_close = down.says_close();
        let Some(response) = &mut self.response else { return };
        if says_close && !is_upgrade {
            // The codec writes this field itself; it stands here for access logs.
            response.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let status = response.status;
        set_server(manager.server_header, &manager.server_name, response);
        if !response.headers.contains_key(header::DATE) {
            let now = clock::now();
            response.headers.insert(header::DATE, clock::date(clock::wall(now)));
        }
        if let Some(via) = &manager.via {
            append(&mut response.headers, &header::VIA, via, ", ");
        }
        let is_told_id = manager.always_set_request_id_in_response
            || (manager.tracing.is_some() && self.request.headers.contains_key(&*X_ENVOY_FORCE_TRACE));
        if is_told_id && let Some(id) = self.request.headers.get(&X_REQUEST_ID) {
            response.headers.insert(&X_REQUEST_ID, id.clone());
        }
        self.info.response_code = Some(status.as_u16());
        self.info.first_downstream_tx = Some(clock::now());
        self.committed = true;
        down.respond(response, end, is_upgrade);
        if !self.info.health_check {
            self.count_response(status);
        }
    }

    /// Counts a response to the client. (Those to health checks are not counted.)
    fn count_response(&self, status: StatusCode) {
        let stats = self.cx.manager.stats.here();
        stats.downstream_rq_completed.inc();
        match status.as_u16() / 100 {
            1 => stats.downstream_rq_1xx.inc(),
            2 => stats.downstream_rq_2xx.inc(),
            3 => stats.downstream_rq_3xx.inc(),
            4 => stats.downstream_rq_4xx.inc(),
            5 => stats.downstream_rq_5xx.inc(),
            _ => {}
        }
        let stats = self.cx.listener_stats.here();
        stats.downstream_rq_completed.inc();
        match status.as_u16() / 100 {
            1 => stats.downstream_rq_1xx.inc(),
            2 => stats.downstream_rq_2xx.inc(),
            3 => stats.downstream_rq_3xx.inc(),
            4 => stats.downstream_rq_4xx.inc(),
            5 => stats.downstream_rq_5xx.inc(),
            _ => {}
        }
    }

    /// Whether this response should be the connection's last one because something drains.
    fn should_close(&self) -> bool {
        let cx = self.cx;
        if self.info.protocol != Some(Protocol::Http2) && cx.is_old() {
            return true;
        }
        if cx.drain.should_close() || cx.shared.drain.should_close(cx.is_inbound, cx.modify_only) {
            cx.manager.stats.here().downstream_cx_drain_close.inc();
            return true;
        }
        false
    }

    /// Whoever answers a request in place of a host, its route has its say: what it adds to responses stands before the reply's own
    /// headers. (A route that answers itself has had it, and has none in the replies of filters.)
    fn add_route_headers(&self, reply: &mut LocalReply) {
        let Some(route) = self.route().filter(|route| matches!(route.action(), Action::Forward(_))) else {
            return;
        };
        let mut head = ResponseHead::new(reply.status);
        route.finalize_response(&self.request, &mut head, &self.info);
        head.headers.extend(std::mem::take(&mut reply.headers));
        reply.headers = head.headers;
    }

    /// Whether this response should be the connection's last one because there is too much to do.
    fn is_overloaded(&self) -> bool {
        let cx = self.cx;
        let Some(overload) = &cx.overload else { return false };
        if !overload.ends_connection(|| cx.random()) {
            return false;
        }
        let stats = cx.manager.stats.here();
        stats.downstream_cx_drain_close.inc();
        stats.downstream_cx_overload_disable_keepalive.inc();
        true
    }

    /// Answers with `reply`, or resets the stream if an answer was begun.
    pub(crate) async fn local_reply<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        mut reply: LocalReply,
    ) -> Result<(), StreamEnd> {
        if let Some(flag) = reply.flag {
            self.info.flags.set(flag);
        }
        self.info.details = Some(reply.details.clone());
        self.deadlines.disarm_request();
        self.deadlines.disarm_upstream();
        self.end_race();
        if reply.status == StatusCode::BAD_REQUEST
            && self.info.protocol != Some(Protocol::Http2)
            && !self.cx.manager.stream_error_on_invalid_http_message
        {
            // To Envoy this status says that the message was broken, whoever says it.
            self.close = true;
        }
        if self.committed {
            return Err(StreamEnd::Reset);
        }
        let grpc_status = reply.grpc_status;
        self.add_route_headers(&mut reply);
        let (mut head, mut body) = reply::plain(reply);
        self.info.response_code = Some(head.status.as_u16());
        let replies = &self.cx.manager.local_replies;
        if !replies.is_empty() {
            let text = String::from_utf8_lossy(&body).into_owned();
            let original = head.clone();
            let mapper = replies.mapper(&LogEntry {
                response: Some(&original),
                local_reply_body: &text,
                ..self.entry(LogType::NotSet)
            });
            if let Some(status) = mapper.and_then(reply::Mapper::status) {
                head.status = status;
                self.info.response_code = Some(status.as_u16());
            }
            let entry = self.entry(LogType::NotSet);
            replies.apply(mapper, &entry, &mut head, &mut body);
        }
        if self.request.is_grpc() {
            head = reply::grpc(head, &body, grpc_status);
            body = Bytes::new();
        }
        self.response = Some(head);
        self.response_upgrades = false;
        self.filters.forget(Direction::Response);
        let data = if self.request.method == Method::HEAD { Bytes::new() } else { body };
        let whole = Parts { head: true, data, end: Some(Ending::Stream) };
        let mut passed =
            self.pass(down, timer, Side::Downstream, Direction::Response, 0, whole.clone()).await;
        loop {
            match passed {
                Ok(parts) if self.emit(down, parts.clone()) => break,
                Ok(_) => passed = self.await_response(down, timer).await,
                // A filter that replies to a local reply would never end: what there is goes out as it is.
                Err(StreamEnd::Reply(_)) if !self.committed => {
                    self.emit(down, whole);
                    break;
                }
                Err(end) => return Err(end),
            }
        }
        self.flush(down, timer).await
    }
}

fn set_server(action: ServerHeaderTransformation, name: &HeaderValue, response: &mut ResponseHead) {
    let keep = match action {
        ServerHeaderTransformation::Overwrite => false,
        ServerHeaderTransformation::AppendIfAbsent => response.headers.contains_key(header::SERVER),
        ServerHeaderTransformation::PassThrough => true,
    };
    if !keep {
        response.headers.insert(header::SERVER, name.clone());
    }
}
