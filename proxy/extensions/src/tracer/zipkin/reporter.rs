//! Spans on their way to the collector: gathered for a while, sent together by one worker, and never waited for.
//!
//! So many spans (`tracing.zipkin.min_flush_spans`, 5) or so much time (`tracing.zipkin.flush_interval_ms`, 5 s) make a report, which
//! may take so long (`tracing.zipkin.request_timeout`, 5 s). While the collector is slow, spans are gathered for longer, and dropped beyond a limit.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use proxy_core::callout::{Call, CallFailure, Called, EnvoyHeaders};
use proxy_core::config::BuildEnv;
use proxy_core::extension::http_filter::Engine;
use proxy_core::extension::tracer::Span;
use proxy_core::head::{RequestHead, Scheme};
use proxy_core::names::Name;
use proxy_core::runtime::Runtime;
use proxy_core::stats::Shared;
use proxy_core::text::Text;
use serde_json::{Value, json};
use tokio::sync::Notify;
use xds_api::envoy::config::trace::v3::ZipkinConfig;

use super::json;

const MIN_SPANS: &str = "tracing.zipkin.min_flush_spans";
const INTERVAL: &str = "tracing.zipkin.flush_interval_ms";
const TIMEOUT: &str = "tracing.zipkin.request_timeout";

/// Most spans that wait to be sent.
const MOST_SPANS: usize = 4096;
/// So many reports may be under way; further spans wait for one of them to end, which all do by their deadline.
const MOST_REPORTS: usize = 16;

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
    cluster: Name,
    hostname: Text,
    path: Text,
    endpoint: Value,
    shares: bool,
    stats: Shared<ZipkinStats>,
    runtime: Arc<Runtime>,
    waiting: Mutex<Vec<Span>>,
    enough: Arc<Notify>,
}

impl Reporter {
    /// A reporter, which has a worker send what it takes.
    pub(super) fn new(config: &ZipkinConfig, shares: bool, env: &BuildEnv) -> Arc<Self> {
        let hostname = match config.collector_hostname.as_str() {
            "" => &config.collector_cluster,
            hostname => hostname,
        };
        let mut endpoint = json!({"serviceName": env.node.cluster, "port": 0});
        if let Some(address) = env.node.address {
            endpoint[if address.is_ipv4() { "ipv4" } else { "ipv6" }] = Value::String(address.to_string());
        }
        let reporter = Arc::new(Self {
            cluster: env.clusters.intern(&config.collector_cluster),
            hostname: hostname.into(),
            path: config.collector_endpoint.as_str().into(),
            endpoint,
            shares,
            stats: env.stats.scope("tracing.zipkin").shared(),
            runtime: env.runtime.clone(),
            waiting: Mutex::default(),
            enough: Arc::default(),
        });
        let (weak, enough) = (Arc::downgrade(&reporter), reporter.enough.clone());
        env.background.begin(move |engine| Box::pin(async move { run(&weak, &enough, &*engine).await }));
        reporter
    }

    /// Takes a span.
    pub(super) fn take(&self, span: Span) {
        let length = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= MOST_SPANS {
                self.stats.reports_dropped.inc();
                return;
            }
            waiting.push(span);
            waiting.len() as u64
        };
        if length >= self.runtime.number(MIN_SPANS).unwrap_or(5) {
            self.enough.notify_one();
        }
    }

    /// The call that reports what waits, if anything does.
    fn report(&self) -> Option<Call> {
        let spans = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        if spans.is_empty() {
            return None;
        }
        self.stats.spans_sent.add(spans.len() as u64);
        let spans = spans.into_iter().map(|span| json::span(span, &self.endpoint, self.shares)).collect();
        let body = Bytes::from(Value::Array(spans).to_string());
        let content_type = HeaderValue::from_static("application/json");
        let request = RequestHead {
            method: Method::POST,
            scheme: Scheme::Http,
            authority: self.hostname.clone(),
            path: self.path.clone(),
            upgrade: None,
            case: None,
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]),
        };
        Some(Call {
            timeout: Some(Duration::from_millis(self.runtime.number(TIMEOUT).unwrap_or(5000))),
            envoy_headers: EnvoyHeaders::InternalAndForwarded,
            ..Call::new(self.cluster.clone(), request, body)
        })
    }
}

/// Sends what a reporter takes, for as long as there is one.
async fn run(reporter: &Weak<Reporter>, enough: &Notify, engine: &dyn Engine) {
    let mut calls = tokio::task::JoinSet::new();
    loop {
        let Some(interval) = reporter
            .upgrade()
            .map(|reporter| Duration::from_millis(reporter.runtime.number(INTERVAL).unwrap_or(5000).max(1)))
        else {
            calls.detach_all();
            return;
        };
        let is_enough = tokio::select! {
            () = enough.notified() => true,
            () = tokio::time::sleep(interval) => false,
        };
        while calls.try_join_next().is_some() {}
        if calls.len() >= MOST_REPORTS {
            calls.join_next().await;
        }
        let Some(reporter) = reporter.upgrade() else { continue };
        if !is_enough {
            reporter.stats.timer_flushed.inc();
        }
        let Some(call) = reporter.report() else { continue };
        let stats = reporter.stats.clone();
        let called = engine.call(call);
        calls.spawn_local(async move { count(&stats, &called.await) });
    }
}

fn count(stats: &ZipkinStats, called: &Called) {
    match called {
        Ok(answer) if answer.head.status == StatusCode::ACCEPTED => stats.reports_sent.inc(),
        Ok(_) => stats.reports_dropped.inc(),
        Err(CallFailure::NoCluster) => stats.reports_skipped_no_cluster.inc(),
        // (What the router would have answered itself is an answer that takes nothing.)
        Err(CallFailure::NoHost | CallFailure::Reset(_) | CallFailure::Timeout) => {
            stats.reports_dropped.inc()
        }
        Err(CallFailure::TooLarge) => stats.reports_failed.inc(),
    }
}
