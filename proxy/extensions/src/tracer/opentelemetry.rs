//! `envoy.tracers.opentelemetry`: contexts in `traceparent` and `tracestate`, spans as OTLP to a collector, over gRPC or HTTP.
//!
//! Source: Envoy `opentelemetry.proto`, `source/extensions/tracers/opentelemetry`; W3C Trace Context; opentelemetry.io/docs/specs/otlp.
//! What is told and reported observed on 1.40.

mod exporter;
mod fields;
mod otlp;
mod resource;
mod sampler;

use std::sync::Arc;

use http::HeaderMap;
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::tracer::{Span, SpanContext, SpanKind, Tracer, TracerFactory};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::head::RequestHead;
use xds_api::envoy::config::trace::v3::OpenTelemetryConfig;

use super::gathering::Gathering;
use super::w3c;
use exporter::Exporter;
pub use fields::FIELDS;
use sampler::Sampler;

/// Most spans that wait to be sent where nothing is said.
const MOST_SPANS: u32 = 1024;

/// The extension.
pub struct OpenTelemetry;

impl TracerFactory for OpenTelemetry {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.tracers.opentelemetry",
            message: "envoy.config.trace.v3.OpenTelemetryConfig",
            status: Status::Stable,
            posture: SecurityPosture::RequiresTrustedDownstreamAndUpstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn Tracer>, Rejected> {
        let config: OpenTelemetryConfig = decode(payload, cx)?;
        let sampler = config.sampler.as_ref();
        let sampler = sampler.map(|proto| cx.at("sampler", |cx| Sampler::build(proto, cx))).transpose();
        let exporter = Exporter::build(&config, cx);
        let most = config.max_cache_size.unwrap_or(MOST_SPANS);
        let (sampler, exporter) = (sampler?, exporter?);
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(Arc::new(OpenTelemetryTracer { sampler, spans: Gathering::begin(exporter, most, cx.env) }))
    }
}

/// The tracer.
struct OpenTelemetryTracer {
    sampler: Option<Sampler>,
    spans: Arc<Gathering<Exporter>>,
}

impl Tracer for OpenTelemetryTracer {
    fn begin(
        &self,
        request: &RequestHead,
        _kind: SpanKind,
        is_sampled: bool,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<SpanContext> {
        let parent = w3c::read(&request.headers).ok()?;
        let mut context = match &parent {
            Some(parent) => self.within(parent, random),
            None => SpanContext {
                trace_id: [random(), random()],
                span_id: random(),
                parent_id: 0,
                is_sampled,
                is_short_form: false,
                state: None,
            },
        };
        if let Some(sampler) = &self.sampler {
            context.is_sampled = sampler.samples(parent.as_ref(), context.trace_id);
        }
        context.is_sampled &= is_sampled;
        Some(context)
    }

    fn tell(&self, context: &SpanContext, headers: &mut HeaderMap) {
        w3c::write(context, headers);
    }

    fn name(&self, request: &RequestHead, kind: SpanKind) -> String {
        match kind {
            SpanKind::Server => "ingress".to_owned(),
            SpanKind::Client => format!("egress {}", request.authority),
        }
    }

    fn side(&self, side: SpanKind, has_tries: bool) -> SpanKind {
        if has_tries { SpanKind::Server } else { side }
    }

    fn has_wide_ids(&self) -> bool {
        true
    }

    fn report(&self, span: Span) {
        self.spans.take(span);
    }
}
