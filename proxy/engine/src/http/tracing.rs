//! Tracing as the connection manager is configured: which requests are sampled, and what is known of them in the end.
//!
//! Source: Envoy `HttpConnectionManager.Tracing`, `source/common/http/conn_manager_utility.cc` (`mutateTracingRequestHeader`).

use std::sync::Arc;

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::tracer::{SpanContext, Tracer, build_tracer};
use proxy_core::head::RequestHead;
use proxy_core::headers::{X_CLIENT_TRACE_ID, X_ENVOY_FORCE_TRACE};
use proxy_core::runtime::Runtime;
use proxy_core::stats::groups::TracingStats;
use proxy_core::stream_info::TraceIds;
use xds_api::envoy::config::trace::v3::tracing::http::ConfigType;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager as proto;
use xds_api::envoy::r#type::v3::fractional_percent::DenominatorType;
use xds_api::envoy::r#type::v3::{FractionalPercent, Percent};

use super::request_id::{self, Packing};
use crate::router::decoration::{Sampling, SpanOptions};

/// Longest path in a tag where nothing is said.
const MAX_PATH: u32 = 256;

/// Why a request is sampled, as request ids carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is not.
    NotTraceable,
    /// By chance.
    Sampling,
    /// A service asked for it.
    ServiceForced,
    /// The client asked for it.
    ClientForced,
}

/// The configuration.
pub(crate) struct Tracing {
    /// Where spans go, if anywhere: without, requests are marked all the same.
    pub(crate) tracer: Option<Arc<dyn Tracer>>,
    pub(crate) sampling: Sampling,
    pub(crate) options: SpanOptions,
    pub(crate) max_path: usize,
    /// Every try has a span of its own.
    pub(crate) spans_of_tries: bool,
    /// Nobody is told of the trace.
    pub(crate) is_silent: bool,
    /// Spans say what happened when.
    pub(crate) is_verbose: bool,
    /// Of this proxy: id and zone.
    pub(crate) node: (String, String),
}

impl Tracing {
    pub(crate) fn build(
        proto: Option<&proto::Tracing>,
        cx: &mut BuildCx<'_>,
    ) -> Result<Option<Self>, Rejected> {
        let Some(proto) = proto else { return Ok(None) };
        cx.at("tracing", |cx| Self::build_here(proto, cx).map(Some))
    }

    fn build_here(proto: &proto::Tracing, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::Tracing {
            client_sampling,
            random_sampling,
            overall_sampling,
            verbose,
            max_path_tag_length,
            custom_tags,
            provider,
            spawn_upstream_span,
            operation,
            upstream_operation,
            no_context_propagation,
        } = proto;
        let tracer = match provider {
            None => Ok(cx.env.default_tracer.clone()),
            Some(provider) => cx.at("provider", |cx| {
                let any = provider.config_type.as_ref().map(|ConfigType::TypedConfig(any)| any);
                build_tracer(any, cx).map(Some)
            }),
        };
        let options = SpanOptions::build(custom_tags, operation, upstream_operation, cx);
        let max_path = usize::try_from(max_path_tag_length.unwrap_or(MAX_PATH)).unwrap_or(usize::MAX);
        Ok(Self {
            tracer: tracer?,
            sampling: Sampling::new(
                // (Whole percents: Envoy cuts off the rest.)
                share(client_sampling.as_ref(), DenominatorType::Hundred, 1.0, f64::trunc),
                share(random_sampling.as_ref(), DenominatorType::TenThousand, 100.0, f64::round),
                share(overall_sampling.as_ref(), DenominatorType::TenThousand, 100.0, f64::round),
            ),
            options: options?,
            max_path,
            spans_of_tries: spawn_upstream_span.unwrap_or(false),
            is_silent: *no_context_propagation,
            is_verbose: *verbose,
            node: (cx.env.node.id.clone(), cx.env.node.zone.clone()),
        })
    }

    /// The place in its trace of a request with this context, for formats.
    pub(crate) fn ids(&self, context: Option<&SpanContext>) -> Option<Box<TraceIds>> {
        let (context, tracer) = (context?, self.tracer.as_ref()?);
        let is_wide = tracer.has_wide_ids();
        Some(Box::new(TraceIds { trace_id: context.trace_id, is_wide, span_id: context.span_id }))
    }
}

fn share(
    percent: Option<&Percent>,
    denominator: DenominatorType,
    parts: f64,
    whole: fn(f64) -> f64,
) -> FractionalPercent {
    let percent = percent.map_or(100.0, |percent| percent.value);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10,000")]
    let numerator = whole(percent.clamp(0.0, 100.0) * parts) as u32;
    FractionalPercent { numerator, denominator: denominator.into() }
}

/// Decides whether `request` is sampled, and has its id say so.
pub(crate) fn decide(
    sampling: &Sampling,
    packing: Packing,
    request: &mut RequestHead,
    runtime: &Runtime,
    random: u64,
) -> Reason {
    if !packing.decides {
        return Reason::Sampling;
    }
    let Some(number) = request_id::number(request) else { return Reason::NotTraceable };
    let number = number % 10_000;
    let mut reason = request_id::reason(request);
    if reason == Reason::NotTraceable {
        reason = if request.headers.contains_key(&X_CLIENT_TRACE_ID) && sampling.client.holds(runtime, random)
        {
            Reason::ClientForced
        } else if request.headers.contains_key(&*X_ENVOY_FORCE_TRACE) {
            Reason::ServiceForced
        } else if sampling.random.holds(runtime, number) {
            Reason::Sampling
        } else {
            return reason;
        };
        request_id::set_reason(request, packing, reason);
    }
    if !sampling.overall.holds(runtime, number) {
        reason = Reason::NotTraceable;
        request_id::set_reason(request, packing, reason);
    }
    reason
}

/// Counts a decision.
pub(crate) fn count(stats: &TracingStats, reason: Reason) {
    match reason {
        Reason::NotTraceable => stats.not_traceable.inc(),
        Reason::Sampling => stats.random_sampling.inc(),
        Reason::ServiceForced => stats.service_forced.inc(),
        Reason::ClientForced => stats.client_enabled.inc(),
    }
}
