//! Spans on their way to the collector: gathered for a while, sent together by one worker, and never waited for.
//!
//! So many spans (`tracing.zipkin.min_flush_spans`, 5) or so much time (`tracing.zipkin.flush_interval_ms`, 5 s) make a report, which
//! may take so long (`tracing.zipkin.request_timeout`, 5 s). While the collector is slow, spans are gathered for longer, and dropped beyond a limit
//! of bytes, since what a span tells of its request is as long as the client likes.

use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Most bytes of spans that wait to be sent, or for the collector to take them.
const MOST_BYTES: usize = 16 << 20;
/// What a span takes beside the texts of its tags, and a tag beside its text.
const OF_SPAN: usize = 512;
const OF_TAG: usize = 64;
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
    waiting: Mutex<Waiting>,
    /// Bytes of spans that are under way.
    under_way: Arc<AtomicUsize>,
    enough: Arc<Notify>,
}

/// Spans that wait to be sent.
#[derive(Default)]
struct Waiting {
    spans: Vec<Span>,
    bytes: usize,
}

/// Spans that are under way.
struct UnderWay {
    all: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// About how many bytes a span takes.
fn size(span: &Span) -> usize {
    let tags = span.tags.iter().map(|(name, value)| OF_TAG + name.len() + value.len());
    OF_SPAN + span.name.len() + tags.sum::<usize>()
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
            under_way: Arc::default(),
            enough: Arc::default(),
        });
        let (weak, enough) = (Arc::downgrade(&reporter), reporter.enough.clone());
        env.background.begin(move |engine| Box::pin(async move { run(&weak, &enough, &*engine).await }));
        reporter
    }

    /// Takes a span.
    pub(super) fn take(&self, span: Span) {
        let bytes = size(&span);
        let length = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.bytes + self.under_way.load(Ordering::Relaxed) + bytes > MOST_BYTES {
                self.stats.reports_dropped.inc();
                return;
            }
            waiting.bytes += bytes;
            waiting.spans.push(span);
            waiting.spans.len() as u64
        };
        if length >= self.runtime.number(MIN_SPANS).unwrap_or(5) {
            self.enough.notify_one();
        }
    }

    /// The call that reports what waits, if anything does, and what is under way with it.
    fn report(&self) -> Option<(Call, UnderWay)> {
        let (spans, under_way) = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let Waiting { spans, bytes } = std::mem::take(&mut *waiting);
            self.under_way.fetch_add(bytes, Ordering::Relaxed);
            (spans, UnderWay { all: self.under_way.clone(), bytes })
        };
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
        let call = Call {
            timeout: Some(Duration::from_millis(self.runtime.number(TIMEOUT).unwrap_or(5000))),
            envoy_headers: EnvoyHeaders::InternalAndForwarded,
            ..Call::new(self.cluster.clone(), request, body)
        };
        Some((call, under_way))
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
        let Some((call, under_way)) = reporter.report() else { continue };
        let stats = reporter.stats.clone();
        let called = engine.call(call);
        calls.spawn_local(async move {
            count(&stats, &called.await);
            drop(under_way);
        });
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

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::time::SystemTime;

    use proxy_core::extension::tracer::{SpanContext, SpanKind};

    use super::*;
    use crate::testing::env;

    fn span(tag: usize) -> Span {
        let context = SpanContext {
            trace_id: [0, 1],
            span_id: 1,
            parent_id: 0,
            is_sampled: true,
            is_short_form: false,
        };
        let tags = vec![(Cow::Borrowed("user_agent"), "a".repeat(tag))];
        let (start, duration) = (SystemTime::UNIX_EPOCH, Duration::ZERO);
        Span { context, kind: SpanKind::Server, name: "a".to_owned(), start, duration, tags }
    }

    /// How many of such spans are kept.
    fn kept(reporter: &Reporter, tag: usize) -> usize {
        let dropped = reporter.stats.reports_dropped.value();
        (0..100_000)
            .take_while(|_| {
                reporter.take(span(tag));
                reporter.stats.reports_dropped.value() == dropped
            })
            .count()
    }

    #[test]
    fn spans_that_nobody_takes_have_a_limit_of_bytes() {
        let config = ZipkinConfig { collector_cluster: "z".into(), ..ZipkinConfig::default() };
        let reporter = Reporter::new(&config, true, &env());
        let of_long = kept(&reporter, 60_000);
        assert!((200..300).contains(&of_long), "{of_long}");
        let (call, under_way) = reporter.report().unwrap();
        assert!(call.body.len() > of_long * 60_000);
        assert_eq!(kept(&reporter, 60_000), 0, "what is under way counts too");
        drop(under_way);
        assert_eq!(kept(&reporter, 60_000), of_long);
        drop(reporter.report());
        let of_short = kept(&reporter, 10);
        assert!((20_000..40_000).contains(&of_short), "{of_short}");
    }
}
