//! `envoy.stat_sinks.metrics_service`: statistics as messages of Prometheus, to a service of gRPC.
//!
//! Every flush is a call of its own (`StreamMetrics`, closed behind its last message), so each says who the proxy is, and the service
//! answers each. A service that is slow is not waited for: while some flushes have no answer yet, further ones are left out.
//! Source: Envoy `metrics_service.proto` (configuration and service), `source/extensions/stat_sinks/metrics_service`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proxy_core::callout::grpc::{self, GrpcService};
use proxy_core::config::{BuildCx, BuildEnv, FieldUse, MessageFields, Rejected};
use proxy_core::extension::stats_sink::{StatsSink, StatsSinkFactory, Surroundings, name_and_tags};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stats::{HistogramView, Metric, QUANTILES, Settings, Value};
use xds_api::envoy::config::core::v3::Node;
use xds_api::envoy::config::metrics::v3 as proto;
use xds_api::envoy::config::metrics::v3::HistogramEmitMode;
use xds_api::envoy::service::metrics::v3::stream_metrics_message::Identifier;
use xds_api::envoy::service::metrics::v3::{StreamMetricsMessage, StreamMetricsResponse};
use xds_api::io::prometheus::client as prometheus;
use xds_api::io::prometheus::client::MetricType;

use FieldUse::Used;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.config.metrics.v3.MetricsServiceConfig",
    &[
        ("grpc_service", Used),
        ("transport_api_version", Used),
        ("report_counters_as_deltas", Used),
        ("emit_tags_as_labels", Used),
        ("histogram_emit_mode", Used),
        ("batch_size", Used),
    ],
)];

/// `ApiVersion.V2`, which is deprecated.
const V2: i32 = 1;

const STREAM_METRICS: &str = "/envoy.service.metrics.v3.MetricsService/StreamMetrics";

/// How long an answer is waited for where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(60);

/// So many flushes may wait for their answer.
const MOST_UNDER_WAY: usize = 4;

/// The extension.
pub struct MetricsService;

impl StatsSinkFactory for MetricsService {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.stat_sinks.metrics_service",
            message: "envoy.config.metrics.v3.MetricsServiceConfig",
            status: Status::Stable,
            posture: SecurityPosture::RequiresTrustedDownstreamAndUpstream,
        }
    }

    fn build(
        &self,
        payload: &[u8],
        surroundings: &Surroundings<'_>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Box<dyn StatsSink>, Rejected> {
        let proto::MetricsServiceConfig {
            grpc_service,
            transport_api_version,
            report_counters_as_deltas,
            emit_tags_as_labels,
            histogram_emit_mode,
            batch_size,
        } = decode(payload, cx)?;
        if transport_api_version == V2 {
            let reason = "the v2 API is no longer supported";
            return Err(cx.at("transport_api_version", |cx| cx.reject(reason)));
        }
        let service = cx.at("grpc_service", |cx| {
            let Some(service) = &grpc_service else { return Err(cx.reject("value is required")) };
            let service = GrpcService::build(service, Some(TIMEOUT), cx)?;
            let name = service.cluster.as_str();
            match surroundings.clusters.iter().any(|cluster| cluster.name == name) {
                true => Ok(service),
                false => Err(cx.reject(format!("Unknown gRPC client cluster '{name}'"))),
            }
        })?;
        let mode = HistogramEmitMode::try_from(histogram_emit_mode).unwrap_or_default();
        Ok(Box::new(Sink {
            service: Arc::new(service),
            node: (surroundings.node)(),
            as_deltas: report_counters_as_deltas.unwrap_or(false),
            with_labels: emit_tags_as_labels,
            summaries: mode != HistogramEmitMode::Histogram,
            histograms: mode != HistogramEmitMode::Summary,
            batch: usize::try_from(batch_size).unwrap_or(usize::MAX),
            under_way: Arc::default(),
            families: Vec::new(),
        }))
    }
}

/// The sink.
struct Sink {
    service: Arc<GrpcService>,
    node: Node,
    as_deltas: bool,
    with_labels: bool,
    summaries: bool,
    histograms: bool,
    /// Most statistics of a message; 0: all.
    batch: usize,
    under_way: Arc<AtomicUsize>,
    families: Vec<prometheus::MetricFamily>,
}

impl StatsSink for Sink {
    fn take(&mut self, metric: &Metric<'_>, fresh: u64, settings: &Settings) {
        let one = |metric: prometheus::Metric, kind| (metric, kind);
        let empty = prometheus::Metric::default;
        match metric.value {
            Value::Text(_) => {}
            Value::Counter(count) => {
                let value = Some(as_double(if self.as_deltas { fresh } else { count }));
                let counter = Some(prometheus::Counter { value, ..Default::default() });
                self.add(
                    metric,
                    settings,
                    one(prometheus::Metric { counter, ..empty() }, MetricType::Counter),
                );
            }
            Value::Gauge(level) => {
                let gauge = Some(prometheus::Gauge { value: Some(as_double(level)) });
                self.add(metric, settings, one(prometheus::Metric { gauge, ..empty() }, MetricType::Gauge));
            }
            Value::Histogram(view) => {
                if self.summaries {
                    let summary = Some(summary(view));
                    self.add(
                        metric,
                        settings,
                        one(prometheus::Metric { summary, ..empty() }, MetricType::Summary),
                    );
                }
                if self.histograms {
                    let histogram = Some(histogram(view, settings.buckets(metric.name)));
                    self.add(
                        metric,
                        settings,
                        one(prometheus::Metric { histogram, ..empty() }, MetricType::Histogram),
                    );
                }
            }
        }
    }

    fn send(&mut self, time: SystemTime, env: &BuildEnv) {
        let mut families = std::mem::take(&mut self.families);
        if self.under_way.load(Ordering::Relaxed) >= MOST_UNDER_WAY {
            tracing::warn!("the metrics service does not answer: statistics are not sent");
            return;
        }
        let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let millis = i64::try_from(millis).unwrap_or(i64::MAX);
        for metric in families.iter_mut().flat_map(|family| &mut family.metric) {
            metric.timestamp_ms = Some(millis);
        }
        let mut messages = Vec::new();
        loop {
            let identifier = messages.is_empty().then(|| Identifier { node: Some(self.node.clone()) });
            let rest = match self.batch {
                0 => Vec::new(),
                most => families.split_off(most.min(families.len())),
            };
            messages.push(StreamMetricsMessage { identifier, envoy_metrics: families });
            families = rest;
            if families.is_empty() {
                break;
            }
        }
        let (service, under_way) = (self.service.clone(), UnderWay::new(&self.under_way));
        env.background.begin(move |engine| {
            Box::pin(async move {
                let called = engine.call(service.call_of_nobody(STREAM_METRICS, &messages)).await;
                if let Err(status) = grpc::message::<StreamMetricsResponse>(&called) {
                    tracing::debug!("the metrics service answered with status {status}");
                }
                drop(under_way);
            })
        });
    }
}

impl Sink {
    fn add(&mut self, of: &Metric<'_>, settings: &Settings, one: (prometheus::Metric, MetricType)) {
        let (mut metric, kind) = one;
        let name = match self.with_labels {
            false => of.name.to_owned(),
            true => {
                let (name, tags) = name_and_tags(of, settings);
                metric.label = tags
                    .into_iter()
                    .map(|(name, value)| prometheus::LabelPair { name: Some(name), value: Some(value) })
                    .collect();
                name
            }
        };
        self.families.push(prometheus::MetricFamily {
            name: Some(name),
            r#type: Some(kind as i32),
            metric: vec![metric],
            ..Default::default()
        });
    }
}

/// A flush without an answer.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn summary(view: HistogramView<'_>) -> prometheus::Summary {
    let quantiles = QUANTILES.iter().zip(view.interval.quantiles(view.scale()));
    let quantile = |(quantile, value): (&f64, f64)| prometheus::Quantile {
        quantile: Some(*quantile),
        value: Some(value),
    };
    prometheus::Summary {
        sample_count: Some(view.interval.count()),
        sample_sum: Some(view.interval.sum(view.scale())),
        quantile: quantiles.map(quantile).collect(),
        ..Default::default()
    }
}

fn histogram(view: HistogramView<'_>, bounds: &[f64]) -> prometheus::Histogram {
    let counts = view.interval.at_or_below(bounds, view.scale());
    let bucket = |(bound, count): (&f64, u64)| prometheus::Bucket {
        upper_bound: Some(*bound),
        cumulative_count: Some(count),
        ..Default::default()
    };
    prometheus::Histogram {
        sample_count: Some(view.interval.count()),
        sample_sum: Some(view.interval.sum(view.scale())),
        bucket: bounds.iter().zip(counts).map(bucket).collect(),
        ..Default::default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "the messages of Prometheus know no whole numbers")]
fn as_double(count: u64) -> f64 {
    count as f64
}
