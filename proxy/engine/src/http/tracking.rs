//! What `track_cluster_stats` asks for: sizes of requests and responses, and how much of their timeout they used.
//!
//! Counted is what a connection carried. Source: `TrackClusterStats` in `envoy/config/cluster/v3/cluster.proto`,
//! Envoy `docs/root/configuration/upstream/cluster_manager/cluster_stats.rst`.

use std::time::{Duration, Instant};

use http::HeaderMap;
use proxy_core::head::ResponseHead;

use super::stream::Stream;

impl Stream<'_> {
    /// Notes the size of the response head as the upstream sent it.
    pub(crate) fn track_response_head(&self, head: &ResponseHead) {
        let Some(sizes) = self.cluster.as_ref().and_then(|cluster| cluster.cluster.stats.sizes.as_ref())
        else {
            return;
        };
        let sizes = sizes.here();
        sizes.upstream_rs_headers_size.record(size(&head.headers) + ":status200".len() as u64);
        sizes.upstream_rs_headers_count.record(head.headers.len() as u64 + 1);
    }

    /// Notes the rest when a host is done with the request.
    pub(crate) fn track_try(&self, now: Instant) {
        let Some(guard) = &self.in_flight else { return };
        let stats = &guard.cluster().stats;
        if let Some(sizes) = &stats.sizes {
            let sizes = sizes.here();
            let request = &self.request;
            let pseudo = [
                (":method", request.method.as_str()),
                (":scheme", request.scheme.as_str()),
                (":authority", &request.authority),
                (":path", &request.path),
            ];
            let pseudo_size: usize = pseudo.iter().map(|(name, value)| name.len() + value.len()).sum();
            sizes.upstream_rq_headers_size.record(size(&request.headers) + pseudo_size as u64);
            sizes.upstream_rq_headers_count.record((request.headers.len() + pseudo.len()) as u64);
            sizes.upstream_rq_body_size.record(self.info.bytes_received);
            if self.response.is_some() {
                sizes.upstream_rs_body_size.record(self.info.bytes_sent);
            }
        }
        if let Some(budgets) = &stats.timeout_budgets {
            let per_try = self.tries.as_ref().and_then(|tries| tries.timeouts.per_try);
            let since = self.info.upstream.pool_ready.unwrap_or(now);
            let used = percent(now.saturating_duration_since(since), per_try);
            budgets.here().upstream_rq_timeout_budget_per_try_percent_used.record(used);
        }
    }

    /// Notes what there is to note of the last try and of all of them.
    pub(crate) fn track_end(&self, now: Instant) {
        let Some(guard) = &self.in_flight else { return };
        self.track_try(now);
        if let (Some(budgets), Some(since)) =
            (&guard.cluster().stats.timeout_budgets, self.info.request_complete)
        {
            let used = percent(now.saturating_duration_since(since), self.route_timeout);
            budgets.here().upstream_rq_timeout_budget_percent_used.record(used);
        }
    }
}

/// Bytes of names and values, as Envoy counts the size of headers.
fn size(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| (name.as_str().len() + value.len()) as u64).sum()
}

/// Whole percents of `timeout`; none of an infinite one is ever used.
fn percent(elapsed: Duration, timeout: Option<Duration>) -> u64 {
    let timeout = timeout.map_or(0, |timeout| timeout.as_millis());
    let used = (elapsed.as_millis() * 100).checked_div(timeout).unwrap_or(0);
    u64::try_from(used).unwrap_or(u64::MAX)
}
