//! The response on its way downstream: filters, the headers that the proxy owns, and local replies.
//!
//! Source: Envoy `ConnectionManagerUtility::mutateResponseHeaders`, `headers.rst`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use proxy_core::extension::access_log::{LogEntry, LogType};
use proxy_core::head::{Protocol, ResponseHead};
use proxy_core::headers::X_REQUEST_ID;
use proxy_core::local_reply::LocalReply;
use std::time::Instant;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::ServerHeaderTransformation;

use super::filter_chain::Passed;
use super::forwarded::append;
use super::stream::{Stream, StreamEnd};
use super::{exchange::Failure, reply};
use crate::codec::downstream::Downstream;
use crate::local::clock;
use crate::local::timers::Timer;

impl Stream<'_> {
    /// Sends the response head that is in `self.response`; `end` if nothing follows.
    pub(crate) async fn respond<D: Downstream>(
        &mut self,
        down: &mut D,
        end: bool,
        is_upgrade: bool,
    ) -> Result<(), Failure> {
        let count = self.filters.len();
        let (filters, configured, mut view) = self.filter_view();
        match filters.response_headers(configured, &mut view, count, end).await {
            Passed::On | Passed::Dropped => {}
            Passed::Held(_) => {
                self.response_held = true;
                return Ok(());
            }
            Passed::Reply(reply) => return Err(StreamEnd::Reply(reply).into()),
        }
        self.send_head(down, end, is_upgrade);
        Ok(())
    }

    /// Puts the head on the wire; from here on nothing else can be answered.
    fn send_head<D: Downstream>(&mut self, down: &mut D, end: bool, is_upgrade: bool) {
        let manager = &*self.cx.manager;
        let is_cut_short = !self.request_done && down.protocol() != Protocol::Http2;
        if !is_upgrade && (self.close || is_cut_short || self.should_close()) {
            down.close_after();
        }
        let says_close = down.says_close();
        let Some(response) = &mut self.response else { return };
        if says_close && !is_upgrade {
            // The codec writes this field itself; it stands here for access logs.
            response.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let status = response.status;
        set_server(manager.server_header, &manager.server_name, response);
        if !response.headers.contains_key(header::DATE) {
            let now = Instant::now();
            response.headers.insert(header::DATE, clock::date(clock::wall(now)));
        }
        if let Some(via) = &manager.via {
            append(&mut response.headers, &header::VIA, via, ", ");
        }
        if manager.always_set_request_id_in_response
            && let Some(id) = self.request.headers.get(&X_REQUEST_ID)
        {
            response.headers.insert(&X_REQUEST_ID, id.clone());
        }
        self.info.response_code = Some(status.as_u16());
        self.info.first_downstream_tx = Some(Instant::now());
        self.committed = true;
        let stats = manager.stats.here();
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
        down.respond(response, end, is_upgrade);
    }

    /// Whether this response should be the connection's last one because something drains.
    fn should_close(&self) -> bool {
        let cx = self.cx;
        if let Some(max) = cx.manager.max_connection_duration
            && self.info.protocol != Some(Protocol::Http2)
            && cx.info.start.elapsed() >= max
        {
            return true;
        }
        if cx.drain.should_close() || cx.shared.drain.should_close(cx.is_inbound, cx.modify_only) {
            cx.manager.stats.here().downstream_cx_drain_close.inc();
            return true;
        }
        false
    }

    /// Sends a piece of the body through the filters.
    pub(crate) async fn respond_data<D: Downstream>(
        &mut self,
        down: &mut D,
        data: Bytes,
    ) -> Result<(), Failure> {
        if let Some(data) = self.filter_response_data(down, data, false).await? {
            self.info.bytes_sent += data.len() as u64;
            down.data(data, false);
        }
        Ok(())
    }

    /// Ends the body without trailers.
    pub(crate) async fn respond_end<D: Downstream>(&mut self, down: &mut D) -> Result<(), Failure> {
        if let Some(rest) = self.filter_response_data(down, Bytes::new(), true).await?
            && !rest.is_empty()
        {
            self.info.bytes_sent += rest.len() as u64;
            down.data(rest, false);
        }
        down.finish();
        Ok(())
    }

    /// Ends the body with trailers.
    pub(crate) async fn respond_trailers<D: Downstream>(
        &mut self,
        down: &mut D,
        mut trailers: HeaderMap,
    ) -> Result<(), Failure> {
        if self.filters.sees_response_body() {
            let (filters, configured, mut view) = self.filter_view();
            if let Passed::Reply(reply) =
                filters.response_trailers(configured, &mut view, &mut trailers).await
            {
                return Err(StreamEnd::Reply(reply).into());
            }
            let held = filters.take_response();
            self.release_head(down);
            if !held.is_empty() {
                self.info.bytes_sent += held.len() as u64;
                down.data(held, false);
            }
        }
        down.trailers(trailers.clone());
        self.response_trailers = Some(trailers);
        Ok(())
    }

    async fn filter_response_data<D: Downstream>(
        &mut self,
        down: &mut D,
        mut data: Bytes,
        end: bool,
    ) -> Result<Option<Bytes>, Failure> {
        if !self.filters.sees_response_body() {
            return Ok(Some(data));
        }
        let count = self.filters.len();
        let limit = self.cx.buffer_limit;
        let (filters, configured, mut view) = self.filter_view();
        match filters.response_data(configured, &mut view, count, &mut data, end).await {
            Passed::On => {
                let held = filters.take_response();
                self.release_head(down);
                Ok(Some(if held.is_empty() { data } else { [held, data].concat().into() }))
            }
            Passed::Held(_) => {
                if filters.hold_response(&data) > limit {
                    self.cx.manager.stats.here().rs_too_large.inc();
                    let reply = LocalReply::new(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        Bytes::from_static(b"Internal Server Error"),
                        "response_payload_too_large",
                    );
                    return Err(StreamEnd::Reply(Box::new(reply)).into());
                }
                Ok(None)
            }
            Passed::Dropped => Ok(None),
            Passed::Reply(reply) => Err(StreamEnd::Reply(reply).into()),
        }
    }

    /// Sends a head that a filter held until now.
    fn release_head<D: Downstream>(&mut self, down: &mut D) {
        if std::mem::take(&mut self.response_held) {
            self.send_head(down, false, false);
        }
    }

    /// Answers with `reply`, or resets the stream if an answer was begun.
    pub(crate) async fn local_reply<D: Downstream>(
        &mut self,
        down: &mut D,
        timer: &mut Timer,
        reply: LocalReply,
    ) -> Result<(), StreamEnd> {
        if let Some(flag) = reply.flag {
            self.info.flags.set(flag);
        }
        self.info.details = Some(reply.details.clone());
        if reply.status == StatusCode::BAD_REQUEST && self.info.protocol != Some(Protocol::Http2) {
            // To Envoy this status says that the message was broken, whoever says it.
            self.close = true;
        }
        if self.committed {
            return Err(StreamEnd::Reset);
        }
        let grpc_status = reply.grpc_status;
        let (mut head, mut body) = reply::plain(reply);
        let replies = &self.cx.manager.local_replies;
        if !replies.is_empty() {
            let text = String::from_utf8_lossy(&body).into_owned();
            self.info.response_code = Some(head.status.as_u16());
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
        self.response_held = false;
        let end = body.is_empty() || self.request.method == Method::HEAD;
        match self.respond(down, end, false).await {
            Ok(()) => {}
            // A filter that replies to a local reply would never end: what there is goes out as it is.
            Err(_) => self.send_head(down, end, false),
        }
        if !end {
            self.info.bytes_sent += body.len() as u64;
            down.data(body, true);
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
