//! The router's own access log: one entry for each stream to a host, when it ends and, on demand, when it begins and
//! again and again while it lasts.
//!
//! What is logged is the upstream stream: its sizes are those of what was sent to the host and came from it, its
//! protocol and flags are its own, it has no details. Source: Envoy `router.proto` (`upstream_log`,
//! `UpstreamAccessLogOptions`), `docs/root/configuration/observability/access_log/usage.rst`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::extension::access_log::{AccessLog, LogEntry, LogType};
use proxy_core::head::ResponseHead;
use proxy_core::log_filter::build_access_log;
use proxy_core::response_flag::ResponseFlag;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::stream_info::{StreamInfo, WireBytes};
use xds_api::envoy::extensions::filters::http::router::v3::Router;

use super::stream::Stream;
use crate::local::clock;

/// The logs of a router, and when they are written.
pub struct UpstreamLogs {
    logs: Vec<Arc<dyn AccessLog>>,
    /// Also when there is a connection for the stream.
    at_begin: bool,
    /// Also this often.
    interval: Option<Duration>,
}

impl UpstreamLogs {
    /// The logs that `proto` asks for, if any.
    pub fn build(proto: &Router, cx: &mut BuildCx<'_>) -> Result<Option<Arc<Self>>, Rejected> {
        let logs = cx.each("upstream_log", &proto.upstream_log, build_access_log)?;
        let options = proto.upstream_log_options.as_ref();
        let interval = options.and_then(|options| options.upstream_log_flush_interval.as_ref());
        let built = Self {
            logs,
            at_begin: options.is_some_and(|options| options.flush_upstream_log_on_upstream_stream),
            interval: interval.and_then(duration),
        };
        Ok((!built.logs.is_empty()).then(|| Arc::new(built)))
    }
}

/// A stream to a host that will be logged.
pub(crate) struct LoggedStream {
    logs: Arc<UpstreamLogs>,
    start: Instant,
    /// Body bytes of the response that earlier streams passed on.
    sent_before: u64,
    /// The head as the host sent it.
    response: Option<ResponseHead>,
    flag: Option<ResponseFlag>,
    has_connection: bool,
}

impl Stream<'_> {
    /// A stream to a host is about to begin.
    pub(crate) fn log_upstream_start(&mut self) {
        let Some(logs) = &self.router().upstream_logs else { return };
        let start = clock::now();
        self.deadlines.set_upstream_log(logs.interval.map(|interval| start + interval));
        self.upstream_log = Some(Box::new(LoggedStream {
            logs: logs.clone(),
            start,
            sent_before: self.info.bytes_sent,
            response: None,
            flag: None,
            has_connection: false,
        }));
    }

    /// There is a connection for it.
    pub(crate) fn log_upstream_ready(&mut self, downstream: impl FnOnce() -> WireBytes) {
        let Some(logged) = &mut self.upstream_log else { return };
        logged.has_connection = true;
        if logged.logs.at_begin {
            self.info.wire = downstream();
            self.log_upstream(LogType::UpstreamPoolReady);
        }
    }

    /// The interval between entries passed.
    pub(crate) fn log_upstream_again(&mut self, downstream: WireBytes) {
        let interval = self.upstream_log.as_ref().and_then(|logged| logged.logs.interval);
        self.info.wire = downstream;
        self.log_upstream(LogType::UpstreamPeriodic);
        self.deadlines.set_upstream_log(interval.map(|interval| clock::now() + interval));
    }

    /// Whether it is logged while it lasts.
    pub(crate) fn is_logged_again(&self) -> bool {
        self.upstream_log.as_ref().is_some_and(|logged| logged.logs.interval.is_some())
    }

    /// Its response head came.
    pub(crate) fn log_upstream_head(&mut self, head: &ResponseHead) {
        if let Some(logged) = &mut self.upstream_log {
            logged.response = Some(head.clone());
        }
    }

    /// It failed.
    pub(crate) fn log_upstream_failure(&mut self, reset: UpstreamReset) {
        if let Some(logged) = &mut self.upstream_log {
            logged.flag = Some(reset.flag());
        }
    }

    /// It ended.
    pub(crate) fn log_upstream_end(&mut self, downstream: impl FnOnce() -> WireBytes) {
        if self.upstream_log.is_some() {
            self.info.wire = downstream();
            self.log_upstream(LogType::UpstreamEnd);
            self.upstream_log = None;
            self.deadlines.set_upstream_log(None);
        }
    }

    fn log_upstream(&mut self, log_type: LogType) {
        let Some(logged) = &self.upstream_log else { return };
        let mut info = StreamInfo::new(self.info.connection.clone(), logged.start, clock::wall(logged.start));
        info.remote.clone_from(&self.info.remote);
        info.route_name.clone_from(&self.info.route_name);
        info.route_metadata.clone_from(&self.info.route_metadata);
        info.health_check = self.info.health_check;
        info.response_code = logged.response.as_ref().map(|response| response.status.as_u16());
        info.bytes_received = self.info.bytes_sent - logged.sent_before;
        if logged.has_connection {
            info.bytes_sent = self.info.bytes_received;
            info.wire = self.info.wire;
        }
        if let Some(flag) = logged.flag {
            info.flags.set(flag);
        }
        info.end = (log_type == LogType::UpstreamEnd).then(clock::now);
        // Lent for the entry, together with the number of attempts, which is not the stream's.
        info.upstream = std::mem::take(&mut self.info.upstream);
        let attempts = std::mem::take(&mut info.upstream.attempts);
        info.protocol = info.upstream.protocol;
        let entry = LogEntry {
            request: Some(&self.request),
            response: logged.response.as_ref(),
            response_trailers: self.response_trailers.as_ref(),
            info: &info,
            local_reply_body: "",
            log_type,
        };
        for log in &logged.logs.logs {
            log.log(&entry);
        }
        self.info.upstream = info.upstream;
        self.info.upstream.attempts = attempts;
    }
}
