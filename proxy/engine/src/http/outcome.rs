//! What becomes of a request at its host: answers and failures, counted, and told to the client.

use std::sync::atomic::Ordering;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use proxy_core::grpc::status_in;
use proxy_core::head::Protocol;
use proxy_core::headers::{X_ENVOY_ATTEMPT_COUNT, X_ENVOY_OVERLOADED, X_ENVOY_UPSTREAM_SERVICE_TIME, number};
use proxy_core::local_reply::LocalReply;
use proxy_core::stats::Cells;
use proxy_core::stats::groups::RouteStats;
use proxy_core::stream_error::UpstreamReset;
use proxy_core::upstream::HostResult;

use super::deadlines::Timeout;
use super::stream::{Stream, StreamEnd, selected};
use crate::local::clock;
use crate::upstream::canary::is_canary;
use crate::upstream::load_report;
use crate::upstream::outlier::http_status;

impl Stream<'_> {
    /// Tells outlier detection, if there is any, what became of asking the host.
    #[inline]
    pub(super) fn note_at_host(&self, result: HostResult) {
        if let Some(cluster) = self.host_cluster()
            && let Some(outlier) = &cluster.cluster.outlier
            && let Some(host) = &self.info.upstream.host
        {
            outlier.note(host, result);
        }
    }

    /// The host answered with the head in `self.response`.
    #[inline]
    pub(super) fn note_answer(&mut self) {
        if let Some(cluster) = self.host_cluster()
            && let Some(outlier) = &cluster.cluster.outlier
            && let Some(host) = &self.info.upstream.host
            && let Some(head) = &self.response
        {
            outlier.note_answer(host, head, self.request.is_grpc());
        }
        if let Some(cluster) = self.host_cluster()
            && let Some(checks) = &cluster.cluster.checks
            && let Some(host) = &self.info.upstream.host
            && let Some(head) = &self.response
        {
            checks.note(host, head);
        }
        if self.wants_report()
            && let Some(head) = &self.response
        {
            self.is_reported = self.note_report(&head.headers);
        }
    }

    /// Whether what the host reports of its load matters, and was not heard yet.
    #[inline]
    pub(super) fn wants_report(&self) -> bool {
        self.host_cluster().is_some_and(|cluster| cluster.cluster.balancing.reported.is_some())
            && !self.is_reported
    }

    /// Notes what the host reports in headers or trailers; whether it does.
    #[cold]
    pub(super) fn note_report(&self, fields: &HeaderMap) -> bool {
        let reported = self.host_cluster().and_then(|cluster| cluster.cluster.balancing.reported.as_ref());
        let Some((reported, host)) = reported.zip(self.info.upstream.host.as_ref()) else { return false };
        let Some(report) = load_report::report(fields) else { return false };
        reported.note(host, &report, clock::now());
        true
    }

    /// Counts what a host, or the way to it, did to a stream.
    pub(super) fn count_reset(&self, reset: UpstreamReset) {
        if reset != UpstreamReset::Overflow {
            self.note_at_host(HostResult::ConnectFailed);
        }
        if let Some(cluster) = self.host_cluster() {
            let stats = cluster.cluster.stats.traffic.here();
            match reset {
                UpstreamReset::RemoteReset => stats.upstream_rq_rx_reset.inc(),
                // Over HTTP/2 a connection may outlive it: who knows of that counts.
                UpstreamReset::ProtocolError if self.info.upstream.protocol != Some(Protocol::Http2) => {
                    stats.upstream_cx_protocol_error.inc();
                }
                UpstreamReset::ConnectFailure
                | UpstreamReset::LocalConnectFailure
                | UpstreamReset::ConnectTimeout
                | UpstreamReset::ConnectionTermination
                | UpstreamReset::RemoteRefused
                | UpstreamReset::LocalReset
                | UpstreamReset::Overflow
                | UpstreamReset::ProtocolError => {}
            }
        }
    }

    /// What a failed upstream means for the stream.
    pub(crate) fn upstream_failed(&mut self, reset: UpstreamReset, reason: String) -> StreamEnd {
        self.info.flags.set(reset.flag());
        self.log_upstream_failure(reset);
        self.count_reset(reset);
        match self.committed {
            true => self.break_off(),
            false => self.count_host_error(),
        }
        let suffix = match reason.is_empty() {
            true => String::new(),
            false => format!("|{}", reason.replace(' ', "_")),
        };
        if self.committed {
            self.info.details =
                Some(format!("upstream_reset_after_response_started{{{}{suffix}}}", reset.details()).into());
            return StreamEnd::Reset;
        }
        let again = match &self.tries {
            Some(tries) if tries.retried => "retried and the latest ",
            _ => "",
        };
        let body = format!(
            "upstream connect error or disconnect/reset before headers. {again}reset reason: {}",
            reset.reason()
        );
        if !reason.is_empty() {
            self.info.upstream.transport_failure = Some(reason.replace(' ', "_"));
        }
        self.charge(reset.status());
        let details = match reset {
            UpstreamReset::Overflow => "upstream_reset_before_response_started{overflow}".to_owned(),
            _ => format!("upstream_reset_before_response_started{{{}{suffix}}}", reset.details()),
        };
        let mut reply = LocalReply::new(reset.status(), body, details);
        if reset == UpstreamReset::Overflow && !self.router().suppress_envoy_headers {
            reply.headers.insert(&*X_ENVOY_OVERLOADED, HeaderValue::from_static("true"));
        }
        self.route_reply(reply)
    }

    /// A deadline of one try passed.
    pub(super) fn count_try_timeout(&self, timeout: Timeout) {
        // (Where the stream was not to last longer, the host was in time.)
        if !matches!(timeout, Timeout::UpstreamMaxDuration) {
            self.note_at_host(HostResult::TimedOut);
        }
        if let Some(cluster) = &self.cluster {
            let stats = cluster.cluster.stats.traffic.here();
            match timeout {
                Timeout::TryIdle => stats.upstream_rq_per_try_idle_timeout.inc(),
                Timeout::UpstreamMaxDuration => return stats.upstream_rq_max_duration_reached.inc(),
                _ => stats.upstream_rq_per_try_timeout.inc(),
            }
        }
        if let Some(host) = &self.info.upstream.host {
            host.stats.rq_timeout.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The route's timeout passed.
    pub(crate) fn upstream_timed_out(&mut self) {
        // (Where the request waits to be sent again, it is nobody's fault.)
        if self.in_flight.is_some() || self.tries.as_ref().is_none_or(|tries| !tries.retried) {
            if !self.committed && self.tries.as_ref().is_none_or(|tries| !tries.is_late) {
                self.note_at_host(HostResult::TimedOut);
            }
            self.count_request_timeout();
        }
        if self.races() {
            self.time_out_race();
        }
    }

    /// Counts that a host did not answer within the route's timeout.
    pub(super) fn count_request_timeout(&mut self) {
        if let Some(cluster) = &self.cluster {
            cluster.cluster.stats.traffic.here().upstream_rq_timeout.inc();
        }
        for stats in self.route_stats() {
            stats.here().upstream_rq_timeout.inc();
        }
        if let Some(host) = &self.info.upstream.host {
            host.stats.rq_timeout.fetch_add(1, Ordering::Relaxed);
        }
        self.charge_unanswered(StatusCode::GATEWAY_TIMEOUT);
    }

    /// Counts the answer that is made in place of the host's, if none was begun. Whether a host did well that is late with what gRPC
    /// says at the end is never known.
    pub(super) fn charge_unanswered(&mut self, status: StatusCode) {
        self.awaits_grpc_status = false;
        if !self.committed {
            self.charge(status);
            self.count_host_error();
        }
    }

    /// A response ends before its end. Whether its host did well was known from the head, but for what gRPC says at the end.
    fn break_off(&mut self) {
        if std::mem::take(&mut self.awaits_grpc_status) {
            self.count_host_error();
            self.cx.router_stats.here().rq_reset_after_downstream_response_started.inc();
        }
    }

    fn count_host_error(&self) {
        if let Some(host) = &self.info.upstream.host {
            host.stats.rq_error.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts whether the host did well, now that its head is there and its end perhaps, too.
    fn count_at_host(&mut self, status: StatusCode, grpc_status: Option<u32>, is_complete: bool) {
        let is_error = match self.request.is_grpc() && !status.is_server_error() {
            true if !is_complete => {
                self.awaits_grpc_status = true;
                return;
            }
            true => is_grpc_error(grpc_status),
            false => status.is_server_error(),
        };
        let Some(host) = &self.info.upstream.host else { return };
        let counter = if is_error { &host.stats.rq_error } else { &host.stats.rq_success };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The response of the host is complete, with these trailers.
    pub(super) fn count_grpc_end(&mut self, trailers: Option<&HeaderMap>) {
        if !std::mem::take(&mut self.awaits_grpc_status) {
            return;
        }
        let Some(host) = &self.info.upstream.host else { return };
        let counter = match is_grpc_error(trailers.and_then(status_in)) {
            true => &host.stats.rq_error,
            false => &host.stats.rq_success,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The upstream's response head is in `self.response`.
    pub(crate) fn upstream_head(&mut self, now: Instant, is_complete: bool) {
        let Some(head) = self.response.take() else { return };
        self.deadlines.disarm_request();
        self.deadlines.set_try(None);
        let status = head.status;
        self.track_response_head(&head);
        self.log_upstream_head(&head);
        self.is_canary = is_canary(self.info.upstream.host.as_deref(), &head.headers);
        self.count_at_host(status, status_in(&head.headers), is_complete);
        self.response = Some(head);
        self.info.response_code = Some(status.as_u16());
        self.charge(status);
        self.info.details = Some("via_upstream".into());
        let suppress = self.router().suppress_envoy_headers;
        if let Some(response) = &mut self.response {
            if !suppress && let Some(since) = self.info.request_complete {
                let elapsed =
                    u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
                response.headers.insert(&*X_ENVOY_UPSTREAM_SERVICE_TIME, number(elapsed));
            }
            for cookie in self.set_cookies.iter().flat_map(|cookies| cookies.iter()) {
                response.headers.append(header::SET_COOKIE, cookie.clone());
            }
            let route = selected(self.table.as_ref(), self.matched);
            if let Some(route) = route {
                if route.virtual_host().include_attempt_count_in_response {
                    response
                        .headers
                        .insert(&*X_ENVOY_ATTEMPT_COUNT, HeaderValue::from(self.info.upstream.attempts));
                }
                route.finalize_response(&self.request, response, &self.info);
            }
        }
    }

    /// The upstream's response is complete.
    pub(crate) fn upstream_complete(&mut self, now: Instant) {
        self.info.upstream.last_rx = Some(now);
        self.count_grpc_end(None);
        self.deadlines.disarm_upstream();
        if self.in_flight.is_some()
            && self.router().dynamic_stats
            && let Some(cluster) = &self.cluster
        {
            let since = self.info.request_complete.unwrap_or(self.info.start);
            let elapsed = u64::try_from(now.saturating_duration_since(since).as_millis()).unwrap_or(u64::MAX);
            for stats in self.route_stats() {
                stats.here().upstream_rq_time.record(elapsed);
            }
            let stats = cluster.cluster.stats.traffic.here();
            stats.upstream_rq_time.record(elapsed);
            if self.is_canary {
                stats.canary_upstream_rq_time.record(elapsed);
            }
            match self.is_internal {
                true => stats.internal_upstream_rq_time.record(elapsed),
                false => stats.external_upstream_rq_time.record(elapsed),
            }
        }
    }

    /// What the route and the virtual cluster count of the request.
    pub(super) fn route_stats(&self) -> impl Iterator<Item = &Cells<RouteStats>> {
        let route = self.route().and_then(|route| route.entry().stats.as_ref());
        route.into_iter().chain(&self.virtual_cluster)
    }

    /// Counts a response of the cluster, or one made in its place.
    pub(crate) fn charge(&self, status: StatusCode) {
        let Some(cluster) = self.cluster.as_ref().filter(|_| self.router().dynamic_stats) else {
            return;
        };
        for stats in self.route_stats() {
            stats.here().upstream_rq.inc(status.as_u16());
        }
        let stats = cluster.cluster.stats.traffic.here();
        match self.router().suppress_grpc_codes && self.request.is_grpc() {
            true => stats.upstream_rq.inc_completed(),
            false => stats.upstream_rq.inc(status.as_u16()),
        }
        let has_canary = self.info.upstream.host.as_ref().is_some_and(|host| host.is_canary());
        if self.is_canary || has_canary {
            stats.canary_upstream_rq.inc(status.as_u16());
        }
        match self.is_internal {
            true => stats.internal_upstream_rq.inc(status.as_u16()),
            false => stats.external_upstream_rq.inc(status.as_u16()),
        }
    }
}

/// Whether a status of gRPC says that the host failed; that there is none does, too.
fn is_grpc_error(status: Option<u32>) -> bool {
    status.is_none_or(|status| http_status(status) >= 500)
}
