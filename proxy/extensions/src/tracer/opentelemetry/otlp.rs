//! Spans as messages of OTLP.
//!
//! Source: opentelemetry/proto/trace/v1/trace.proto; for the status of a span Envoy `source/extensions/tracers/opentelemetry/tracer.cc`,
//! opentelemetry.io/docs/specs/semconv.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use proxy_core::extension::tracer::{Span, SpanKind};
use xds_api::opentelemetry::proto::common::v1::any_value::Value;
use xds_api::opentelemetry::proto::common::v1::{AnyValue, KeyValue};
use xds_api::opentelemetry::proto::trace::v1 as proto;
use xds_api::opentelemetry::proto::trace::v1::status::StatusCode;

/// Flags of a span: it is sampled, and it is known whether what it is within is of another process.
const SAMPLED: u32 = 1;
const IS_KNOWN: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// An attribute.
pub(super) fn attribute(key: impl Into<String>, value: String) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(Value::StringValue(value)) }) }
}

/// A span.
pub(super) fn span(span: Span) -> proto::Span {
    let Span { context, kind, is_try, name, start, duration, tags, events } = span;
    let [high, low] = context.trace_id;
    let start = nanos(start);
    let duration = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let status = status(kind, &tags);
    let event = |(name, time): (&str, SystemTime)| proto::span::Event {
        time_unix_nano: nanos(time),
        name: name.to_owned(),
        ..Default::default()
    };
    proto::Span {
        trace_id: [high.to_be_bytes(), low.to_be_bytes()].concat(),
        span_id: context.span_id.to_be_bytes().to_vec(),
        trace_state: context.state.as_deref().unwrap_or_default().to_owned(),
        parent_span_id: match context.parent_id {
            0 => Vec::new(),
            id => id.to_be_bytes().to_vec(),
        },
        flags: match context.parent_id != 0 && !is_try {
            true => SAMPLED | IS_KNOWN | IS_REMOTE,
            false => SAMPLED | IS_KNOWN,
        },
        name,
        kind: match kind {
            SpanKind::Server => proto::span::SpanKind::Server,
            SpanKind::Client => proto::span::SpanKind::Client,
        }
        .into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(duration),
        attributes: tags.into_iter().map(|(name, value)| attribute(name, value)).collect(),
        events: events.into_iter().map(event).collect(),
        status: status.map(|code| proto::Status { code: code.into(), ..Default::default() }),
        ..Default::default()
    }
}

/// What the tags say of how it went; what gRPC says comes last.
fn status(kind: SpanKind, tags: &[(Cow<'static, str>, String)]) -> Option<StatusCode> {
    let number = |value: &str| value.parse::<u64>().ok();
    let mut status = None;
    for (name, value) in tags {
        match &**name {
            "http.status_code" => {
                let least = match kind {
                    SpanKind::Server => 500,
                    SpanKind::Client => 400,
                };
                if number(value).is_some_and(|code| code >= least) {
                    status = Some(StatusCode::Error);
                }
            }
            "grpc.status_code" => status = Some(of_grpc(kind, number(value))),
            _ => {}
        }
    }
    status
}

fn of_grpc(kind: SpanKind, status: Option<u64>) -> StatusCode {
    match (kind, status) {
        (_, None) | (SpanKind::Client, Some(0)) => StatusCode::Unset,
        (SpanKind::Client, Some(_)) => StatusCode::Error,
        // Unknown, DeadlineExceeded, Unimplemented, Internal, Unavailable, DataLoss.
        (SpanKind::Server, Some(2 | 4 | 12 | 13 | 14 | 15)) => StatusCode::Error,
        (SpanKind::Server, Some(_)) => StatusCode::Unset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_what_the_protocols_say() {
        let of = |kind, tags: &[(&'static str, &str)]| {
            let tags: Vec<_> =
                tags.iter().map(|(name, value)| ((*name).into(), (*value).to_owned())).collect();
            status(kind, &tags)
        };
        let (http, grpc) = ("http.status_code", "grpc.status_code");
        assert_eq!(of(SpanKind::Server, &[(http, "499")]), None);
        assert_eq!(of(SpanKind::Server, &[(http, "500")]), Some(StatusCode::Error));
        assert_eq!(of(SpanKind::Client, &[(http, "400")]), Some(StatusCode::Error));
        assert_eq!(of(SpanKind::Server, &[(http, "503"), (grpc, "5")]), Some(StatusCode::Unset));
        assert_eq!(of(SpanKind::Client, &[(http, "200"), (grpc, "5")]), Some(StatusCode::Error));
        assert_eq!(of(SpanKind::Server, &[(http, "200"), (grpc, "14")]), Some(StatusCode::Error));
        assert_eq!(of(SpanKind::Server, &[]), None);
    }
}
