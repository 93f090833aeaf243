//! `envoy.tracers.zipkin`: contexts in headers of B3, and if asked for of W3C, spans as JSON to a collector of Zipkin.
//!
//! Source: Envoy `zipkin.proto`, `source/extensions/tracers/zipkin`; Zipkin API v2; github.com/openzipkin/b3-propagation.

mod b3;
mod json;
mod reporter;

use std::sync::Arc;

use http::HeaderMap;
use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::tracer::{Span, SpanContext, SpanKind, Tracer, TracerFactory};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::head::RequestHead;
use xds_api::envoy::config::trace::v3 as proto;
use xds_api::envoy::config::trace::v3::zipkin_config::{CollectorEndpointVersion, TraceContextOption};

use self::b3::Sampled;
use self::reporter::Reporter;
use super::gathering::Gathering;
use super::w3c;

use FieldUse::{Rejected as Refused, Used};

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    ("envoy.config.trace.v3.Tracing", &[("http", Used)]),
    ("envoy.config.trace.v3.Tracing.Http", &[("name", Used), ("typed_config", Used)]),
    (
        "envoy.config.trace.v3.ZipkinConfig",
        &[
            ("collector_cluster", Used),
            ("collector_endpoint", Used),
            ("trace_id_128bit", Used),
            ("shared_span_context", Used),
            ("collector_endpoint_version", Used),
            ("collector_hostname", Used),
            ("split_spans_for_request", Refused("each request has a span and, if asked for, each try")),
            ("trace_context_option", Used),
            ("collector_service", Used),
            ("timestamp_trace_ids", Refused("trace ids are random")),
        ],
    ),
];

const NAME: &str = "envoy.tracers.zipkin";

/// The extension.
pub struct Zipkin;

impl TracerFactory for Zipkin {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: NAME,
            message: "envoy.config.trace.v3.ZipkinConfig",
            status: Status::Stable,
            posture: SecurityPosture::RequiresTrustedDownstreamAndUpstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn Tracer>, Rejected> {
        let config: proto::ZipkinConfig = decode(payload, cx)?;
        let version = CollectorEndpointVersion::try_from(config.collector_endpoint_version);
        let version = match version {
            Ok(CollectorEndpointVersion::HttpJson) => Ok(()),
            _ => Err(cx.at("collector_endpoint_version", |cx| cx.reject("spans are sent as HTTP_JSON"))),
        };
        let option = match TraceContextOption::try_from(config.trace_context_option) {
            Ok(option) => Ok(option),
            Err(_) => Err(cx.at("trace_context_option", |cx| cx.reject("not a defined value"))),
        };
        version?;
        let option = option?;
        let shared = config.shared_span_context.unwrap_or(true);
        Ok(Arc::new(ZipkinTracer {
            is_128bit: config.trace_id_128bit,
            shares: shared,
            has_w3c: option == TraceContextOption::UseB3WithW3cPropagation,
            spans: Reporter::begin(&config, shared, cx)?,
        }))
    }
}

/// The tracer.
struct ZipkinTracer {
    is_128bit: bool,
    /// A server has the span of its client.
    shares: bool,
    /// Contexts come in `traceparent`, too, and go on in both forms.
    has_w3c: bool,
    spans: Arc<Gathering<Reporter>>,
}

impl Tracer for ZipkinTracer {
    fn begin(
        &self,
        request: &RequestHead,
        kind: SpanKind,
        is_sampled: bool,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<SpanContext> {
        let is_sampled = match b3::sampled(&request.headers) {
            Sampled::Said(is_sampled) => is_sampled,
            Sampled::Unsaid => is_sampled,
        };
        let is_short_form = b3::is_short(&request.headers);
        let given = b3::read(&request.headers).ok()?.map(|given| SpanContext { is_sampled, ..given });
        let of_w3c = || w3c::read(&request.headers).ok().flatten().filter(|_| self.has_w3c);
        let Some(given) = given.or_else(of_w3c) else {
            let span_id = random();
            let high = if self.is_128bit { random() } else { 0 };
            return Some(SpanContext {
                trace_id: [high, span_id],
                span_id,
                parent_id: 0,
                is_sampled,
                is_short_form,
                state: None,
            });
        };
        let given = SpanContext { is_short_form, state: None, ..given };
        match kind {
            SpanKind::Server if self.shares => Some(given),
            SpanKind::Server | SpanKind::Client => Some(self.within(&given, random)),
        }
    }

    fn tell(&self, context: &SpanContext, headers: &mut HeaderMap) {
        b3::write(context, headers);
        if self.has_w3c {
            w3c::write_parent(context, headers);
        }
    }

    fn name(&self, request: &RequestHead, _kind: SpanKind) -> String {
        request.authority.to_string()
    }

    fn required_cluster(&self) -> Option<(&str, String)> {
        let cluster = self.spans.collector().cluster();
        Some((cluster, format!("{NAME}: unknown cluster '{cluster}'")))
    }

    fn report(&self, span: Span) {
        self.spans.take(span);
    }
}
