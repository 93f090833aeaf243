//! Spans as JSON (Zipkin API v2).

use std::time::{SystemTime, UNIX_EPOCH};

use proxy_core::extension::tracer::{Span, SpanKind};
use serde_json::{Map, Value, json};

use super::b3::{id_text, trace_id_text};

fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// `span` of a proxy that is at `endpoint`; `shares`: a server has the span of its client.
pub(super) fn span(span: Span, endpoint: &Value, shares: bool) -> Value {
    let Span { context, kind, is_try: _, name, start, duration, tags, events } = span;
    let start = micros(start);
    // (Zipkin takes 0 for a span that is not over.)
    let duration = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1);
    let (kind, end) = match kind {
        SpanKind::Server => ("SERVER", "ss"),
        SpanKind::Client => ("CLIENT", "cr"),
    };
    let tags: Map<String, Value> =
        tags.into_iter().map(|(name, value)| (name.into_owned(), Value::String(value))).collect();
    let events = events.into_iter().map(|(name, time)| (micros(time), name));
    let annotations = events.chain([(start.saturating_add(duration), end)]);
    let annotations = annotations.map(|(time, value)| json!({"timestamp": time, "value": value}));
    let mut json = json!({
        "traceId": trace_id_text(context.trace_id),
        "id": id_text(context.span_id),
        "kind": kind,
        "name": name,
        "timestamp": start,
        "duration": duration,
        "localEndpoint": endpoint,
        "annotations": annotations.collect::<Vec<_>>(),
        "tags": tags,
    });
    if context.parent_id != 0 {
        json["parentId"] = Value::String(id_text(context.parent_id));
    }
    if shares && kind == "SERVER" {
        json["shared"] = Value::Bool(true);
    }
    json
}
