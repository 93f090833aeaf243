//! Tracers: whether and how a request belongs to a trace, what the next hop is told of it, and who collects what became of it.
//!
//! The engine decides whether a request is sampled, keeps the time, and fills in the tags; a tracer knows the headers of its kind and
//! where spans go. A request that is not sampled has a context only, which is a few numbers.
//! Source: Envoy `envoy/tracing/trace_driver.h`, `docs/root/intro/arch_overview/observability/tracing.rst`.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use prost_types::Any;

use super::{Descriptor, find, message_name};
use crate::config::{BuildCx, Rejected};
use crate::head::RequestHead;

/// What is told of a trace from hop to hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace, high half first; the high one is 0 for ids of 64 bits.
    pub trace_id: [u64; 2],
    /// The span.
    pub span_id: u64,
    /// The span that it is part of; 0 for none.
    pub parent_id: u64,
    /// Somebody wants to see it.
    pub is_sampled: bool,
    /// It came, and goes on, in the short one of two forms.
    pub is_short_form: bool,
    /// What vendors say beside it (`tracestate`).
    pub state: Option<Arc<str>>,
}

/// Which side of a request a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Of the server.
    Server,
    /// Of the client.
    Client,
}

/// What became of a request, or of one try to have a host answer it.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its place in the trace.
    pub context: SpanContext,
    /// Which side.
    pub kind: SpanKind,
    /// It is a try to have a host answer, within the span of its request; else what it is within is of another.
    pub is_try: bool,
    /// What was done.
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// What else is known, each name once; `error` if something went wrong.
    pub tags: Vec<(Cow<'static, str>, String)>,
    /// What happened when, where that is asked for.
    pub events: Vec<(&'static str, SystemTime)>,
}

/// Where the spans of requests go.
pub trait Tracer: Send + Sync {
    /// The context of a request as its headers and `is_sampled` say; `None` if nothing can be made of what the headers say, and nothing
    /// should. `random` gives numbers for ids.
    fn begin(
        &self,
        request: &RequestHead,
        kind: SpanKind,
        is_sampled: bool,
        random: &mut dyn FnMut() -> u64,
    ) -> Option<SpanContext>;
    /// The context of a try within `span`.
    fn within(&self, span: &SpanContext, random: &mut dyn FnMut() -> u64) -> SpanContext {
        SpanContext { span_id: random(), parent_id: span.span_id, ..span.clone() }
    }
    /// Tells the next hop.
    fn tell(&self, context: &SpanContext, headers: &mut HeaderMap);
    /// What a span is called where configuration does not say.
    fn name(&self, request: &RequestHead, kind: SpanKind) -> String;
    /// Which side the span of a request is whose listener's traffic goes that way; `has_tries`: tries have spans of their own.
    fn side(&self, side: SpanKind, has_tries: bool) -> SpanKind {
        let _ = has_tries;
        side
    }
    /// Ids of traces have 128 bits, whatever they are.
    fn has_wide_ids(&self) -> bool {
        false
    }
    /// The cluster that has to be there when a connection manager is configured with the tracer, if one has to; what is said to who
    /// configures it where it is not.
    fn required_cluster(&self) -> Option<(&str, String)> {
        None
    }
    /// Takes a span that is over. Must not block.
    fn report(&self, span: Span);
}

/// A kind of tracer, erased.
pub trait TracerFactory: Sync {
    /// What it says about itself.
    fn descriptor(&self) -> Descriptor;
    /// Builds the tracer from the payload of its `Any`.
    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn Tracer>, Rejected>;
}

/// Builds the tracer that the `typed_config` of a provider says.
pub fn build_tracer(any: Option<&Any>, cx: &mut BuildCx<'_>) -> Result<Arc<dyn Tracer>, Rejected> {
    cx.at("typed_config", |cx| {
        let Some(any) = any else { return Err(cx.reject("a tracer needs a typed_config")) };
        match find(cx.env.extensions.tracers, any, |factory| factory.descriptor()) {
            Some(factory) => factory.build(&any.value, cx),
            None => Err(cx.reject(format!("tracer '{}' is not available", message_name(&any.type_url)))),
        }
    })
}
