//! Where spans go: a service of gRPC, or one of HTTP that takes the same message.
//!
//! Source: Envoy `source/extensions/tracers/opentelemetry/{grpc,http}_trace_exporter.cc`; opentelemetry.io/docs/specs/otlp.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use prost::Message;
use proxy_core::callout::grpc::GrpcService;
use proxy_core::callout::{Call, Called};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::tracer::Span;
use proxy_core::runtime::Runtime;
use proxy_core::stats::Shared;
use xds_api::envoy::config::trace::v3::OpenTelemetryConfig;
use xds_api::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use xds_api::opentelemetry::proto::common::v1::InstrumentationScope;
use xds_api::opentelemetry::proto::resource::v1::Resource;
use xds_api::opentelemetry::proto::trace::v1::{ResourceSpans, ScopeSpans};

use super::{otlp, resource};
use crate::tracer::gathering::Collector;
use crate::tracer::http_service::HttpService;

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// How long a report may take where nothing is said, as OTLP has it.
const TIMEOUT: Duration = Duration::from_secs(10);
const USER_AGENT: &str = concat!("OTel-OTLP-Exporter-Outrigger/", env!("CARGO_PKG_VERSION"));

proxy_core::stats! {
    /// `tracing.opentelemetry`.
    pub shared struct OpenTelemetryStats {
        /// Spans that were sent.
        counter spans_sent,
        /// Spans that were too many.
        counter spans_dropped,
        /// Times that the interval passed.
        counter timer_flushed,
    }
}

/// Where spans go.
pub(super) struct Exporter {
    service: Service,
    resource: Resource,
    scope: Option<InstrumentationScope>,
    stats: Shared<OpenTelemetryStats>,
}

enum Service {
    Grpc(GrpcService),
    Http(HttpService),
}

impl Exporter {
    pub(super) fn build(config: &OpenTelemetryConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let own = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf")),
            (header::USER_AGENT, HeaderValue::from_static(USER_AGENT)),
        ]);
        let service = match (&config.grpc_service, &config.http_service) {
            (Some(service), None) => {
                cx.at("grpc_service", |cx| GrpcService::build(service, Some(TIMEOUT), cx).map(Service::Grpc))
            }
            (None, Some(service)) => {
                cx.at("http_service", |cx| HttpService::build(service, own, cx).map(Service::Http))
            }
            (Some(_), Some(_)) | (None, None) => {
                let reason = "OpenTelemetry Tracer must have exactly one of gRPC and HTTP configured.";
                Err(cx.at("grpc_service", |cx| cx.reject(reason)))
            }
        };
        let resource = resource::build(config, cx);
        Ok(Self {
            service: service?,
            resource: resource?,
            scope: config.set_instrumentation_scope.unwrap_or(true).then(|| InstrumentationScope {
                name: "outrigger".to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Default::default()
            }),
            stats: cx.env.stats.scope("tracing.opentelemetry").shared(),
        })
    }
}

impl Collector for Exporter {
    const MIN_SPANS: &'static str = "tracing.opentelemetry.min_flush_spans";
    const INTERVAL: &'static str = "tracing.opentelemetry.flush_interval_ms";

    fn report(&self, spans: Vec<Span>, _runtime: &Runtime) -> Call {
        self.stats.spans_sent.add(spans.len() as u64);
        let scope_spans = ScopeSpans {
            scope: self.scope.clone(),
            spans: spans.into_iter().map(otlp::span).collect(),
            ..Default::default()
        };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![scope_spans],
            ..Default::default()
        };
        let request = ExportTraceServiceRequest { resource_spans: vec![resource_spans] };
        match &self.service {
            Service::Grpc(service) => {
                let mut call = service.call_of_nobody(EXPORT, &[request]);
                call.request.headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
                call
            }
            Service::Http(service) => service.call(request.encode_to_vec()),
        }
    }

    fn reported(&self, _called: &Called) {
        // (Envoy counts nothing of that either; `cluster.<name>.upstream_rq_*` tells.)
    }

    fn timer_flushed(&self) {
        self.stats.timer_flushed.inc();
    }

    fn dropped(&self) {
        self.stats.spans_dropped.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{env, grpc_service};
    use crate::tracer::gathering::Gathering;
    use crate::tracer::gathering::tests::span;

    #[test]
    fn spans_that_are_too_many_are_counted() {
        let env = env();
        let service = Some(grpc_service("collector"));
        let config = OpenTelemetryConfig { grpc_service: service, ..OpenTelemetryConfig::default() };
        let Ok(exporter) = Exporter::build(&config, &mut BuildCx::new(&env)) else { panic!("refused") };
        let gathering = Gathering::begin(exporter, 1, &env);
        for _ in 0..3 {
            gathering.take(span(1));
        }
        assert_eq!(gathering.collector().stats.spans_dropped.value(), 2);
    }
}
