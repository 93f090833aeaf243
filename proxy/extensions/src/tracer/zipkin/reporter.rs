//! Reports of spans to the collector, which may take so long each (`tracing.zipkin.request_timeout`, 5 s).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use proxy_core::callout::{Call, CallFailure, Called};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::tracer::Span;
use proxy_core::runtime::Runtime;
use proxy_core::stats::Shared;
use serde_json::{Value, json};
use xds_api::envoy::config::trace::v3::ZipkinConfig;

use super::json;
use crate::tracer::gathering::{Collector, Gathering};
use crate::tracer::http_service::HttpService;

const TIMEOUT: &str = "tracing.zipkin.request_timeout";

proxy_core::stats! {
    /// `tracing.zipkin`.
    pub shared struct ZipkinStats {
        /// Spans that were sent.
        counter spans_sent,
        /// Times that the interval passed.
        counter timer_flushed,
        /// Reports without a cluster to send them to.
        counter reports_skipped_no_cluster,
        /// Reports that the collector took.
        counter reports_sent,
        /// Reports that it did not take, and spans that were too many.
        counter reports_dropped,
        /// Reports that it did not answer.
        counter reports_failed,
    }
}

/// Where spans go.
pub(super) struct Reporter {
    service: HttpService,
    endpoint: Value,
    shares: bool,
    stats: Shared<ZipkinStats>,
}

impl Reporter {
    /// A reporter, which has a worker send what it takes.
    pub(super) fn begin(
        config: &ZipkinConfig,
        shares: bool,
        cx: &mut BuildCx<'_>,
    ) -> Result<Arc<Gathering<Self>>, Rejected> {
        let env = cx.env;
        let mut endpoint = json!({"serviceName": env.node.cluster, "port": 0});
        if let Some(address) = env.node.address {
            endpoint[if address.is_ipv4() { "ipv4" } else { "ipv6" }] = Value::String(address.to_string());
        }
        let reporter = Self {
            service: service(config, cx)?,
            endpoint,
            shares,
            stats: env.stats.scope("tracing.zipkin").shared(),
        };
        Ok(Gathering::begin(reporter, usize::MAX, env))
    }

    /// The name of the collector's cluster.
    pub(super) fn cluster(&self) -> &str {
        self.service.cluster()
    }
}

/// The collector: `collector_service`, or else what the older fields say.
fn service(config: &ZipkinConfig, cx: &mut BuildCx<'_>) -> Result<HttpService, Rejected> {
    let headers =
        HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let ZipkinConfig { collector_cluster, collector_endpoint, collector_hostname, collector_service, .. } =
        config;
    if let Some(service) = collector_service {
        return cx.at("collector_service", |cx| HttpService::build(service, headers, cx));
    }
    for (field, value) in
        [("collector_cluster", collector_cluster), ("collector_endpoint", collector_endpoint)]
    {
        if value.is_empty() {
            return Err(cx.at(field, |cx| cx.reject("value length must be at least 1 characters")));
        }
    }
    let hostname = if collector_hostname.is_empty() { collector_cluster } else { collector_hostname };
    let cluster = cx.env.clusters.intern(collector_cluster);
    Ok(HttpService::new(cluster, hostname, collector_endpoint, headers))
}

impl Collector for Reporter {
    const MIN_SPANS: &'static str = "tracing.zipkin.min_flush_spans";
    const INTERVAL: &'static str = "tracing.zipkin.flush_interval_ms";

    fn report(&self, spans: Vec<Span>, runtime: &Runtime) -> Call {
        self.stats.spans_sent.add(spans.len() as u64);
        let spans = spans.into_iter().map(|span| json::span(span, &self.endpoint, self.shares)).collect();
        let body = Bytes::from(Value::Array(spans).to_string());
        let timeout = Duration::from_millis(runtime.number(TIMEOUT).unwrap_or(5000));
        let call = self.service.call(body);
        Call { timeout: Some(call.timeout.map_or(timeout, |own| own.min(timeout))), ..call }
    }

    fn reported(&self, called: &Called) {
        let stats = &self.stats;
        match called {
            Ok(answer) if answer.head.status == StatusCode::ACCEPTED => stats.reports_sent.inc(),
            Ok(_) => stats.reports_dropped.inc(),
            Err(CallFailure::NoCluster) => stats.reports_skipped_no_cluster.inc(),
            // (What the router would have answered itself is an answer that takes nothing.)
            Err(CallFailure::NoHost | CallFailure::Reset(_) | CallFailure::Timeout) => {
                stats.reports_dropped.inc();
            }
            Err(CallFailure::TooLarge) => stats.reports_failed.inc(),
        }
    }

    fn timer_flushed(&self) {
        self.stats.timer_flushed.inc();
    }

    fn dropped(&self) {
        self.stats.reports_dropped.inc();
    }
}
