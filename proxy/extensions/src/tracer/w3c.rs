//! The headers of W3C Trace Context (www.w3.org/TR/trace-context): `traceparent`, and `tracestate` beside it.
//!
//! `{version}-{trace id}-{span id}-{flags}` in hexadecimal digits. Who is told is told in version 00. Source: Envoy
//! `source/extensions/tracers/opentelemetry/span_context_extractor.cc`.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use proxy_core::extension::tracer::SpanContext;

const PARENT: HeaderName = HeaderName::from_static("traceparent");
const STATE: HeaderName = HeaderName::from_static("tracestate");

/// Of `flags`: somebody wants to see the trace.
const SAMPLED: u64 = 1;

/// What the header has is no context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// The context that the headers have, if they have one.
///
/// # Errors
/// What they have is none.
pub(super) fn read(headers: &HeaderMap) -> Result<Option<SpanContext>, Unreadable> {
    let Some(parent) = headers.get(&PARENT) else { return Ok(None) };
    let mut parts = parent.as_bytes().split(|byte| *byte == b'-');
    let all = [(); 5].map(|()| parts.next());
    let [Some(version), Some(trace), Some(span), Some(flags), None] = all else { return Err(Unreadable) };
    if [version.len(), trace.len(), span.len(), flags.len()] != [2, 32, 16, 2] {
        return Err(Unreadable);
    }
    let _ = hex(version)?;
    let (high, low) = trace.split_at_checked(16).ok_or(Unreadable)?;
    let (trace_id, span_id) = ([hex(high)?, hex(low)?], hex(span)?);
    let is_sampled = hex(flags)? & SAMPLED != 0;
    if trace_id == [0, 0] || span_id == 0 {
        return Err(Unreadable);
    }
    let state = state(headers);
    Ok(Some(SpanContext { trace_id, span_id, parent_id: 0, is_sampled, is_short_form: false, state }))
}

fn hex(digits: &[u8]) -> Result<u64, Unreadable> {
    let add = |number: u64, byte: &u8| Some(number << 4 | u64::from(char::from(*byte).to_digit(16)?));
    digits.iter().try_fold(0, add).ok_or(Unreadable)
}

/// What vendors say beside the context, if they say anything.
fn state(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut values = headers.get_all(&STATE).iter().filter_map(|value| value.to_str().ok());
    let mut all = values.next()?.to_owned();
    for value in values {
        all.push(',');
        all.push_str(value);
    }
    (!all.is_empty()).then(|| all.into())
}

/// Writes the context, and what vendors say beside it.
pub(super) fn write(context: &SpanContext, headers: &mut HeaderMap) {
    write_parent(context, headers);
    match context.state.as_deref().and_then(value) {
        Some(state) => drop(headers.insert(STATE, state)),
        None => drop(headers.remove(STATE)),
    }
}

/// Writes the context alone.
pub(super) fn write_parent(context: &SpanContext, headers: &mut HeaderMap) {
    let SpanContext { trace_id: [high, low], span_id, .. } = context;
    let flags = u64::from(context.is_sampled) * SAMPLED;
    if let Some(parent) = value(&format!("00-{high:016x}{low:016x}-{span_id:016x}-{flags:02x}")) {
        headers.insert(PARENT, parent);
    }
}

/// The value of a header, of text that is known to be one.
fn value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARENT_TEXT: &str = "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01";

    fn headers(parent: &str) -> HeaderMap {
        HeaderMap::from_iter([(PARENT, HeaderValue::from_str(parent).unwrap())])
    }

    #[test]
    fn a_context_is_read_and_its_states_are_joined() {
        let mut headers = headers(PARENT_TEXT);
        headers.append(STATE, HeaderValue::from_static("a=1"));
        headers.append(STATE, HeaderValue::from_static("b=2,c=3"));
        let context = read(&headers).unwrap().unwrap();
        assert_eq!(context.trace_id, [0x463a_c35c_9f64_13ad, 0x4848_5a39_53bb_6124]);
        assert_eq!((context.span_id, context.is_sampled), (0xa2fb_4a1d_1a96_d312, true));
        assert_eq!(context.state.as_deref(), Some("a=1,b=2,c=3"));
        assert_eq!(read(&HeaderMap::new()), Ok(None));
    }

    #[test]
    fn what_is_no_context_is_none() {
        for parent in [
            "",
            "00",
            "----",
            "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312",
            "00-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01-",
            "0-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d3121-01",
            "00-00000000000000000000000000000000-a2fb4a1d1a96d312-01",
            "00-463ac35c9f6413ad48485a3953bb6124-0000000000000000-01",
            "00-463ac35c9f6413ad48485a3953bb612g-a2fb4a1d1a96d312-01",
            "0+-463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-01",
        ] {
            assert_eq!(read(&headers(parent)), Err(Unreadable), "{parent}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            high in any::<u64>(), low in 1..u64::MAX, span_id in 1..u64::MAX, is_sampled in any::<bool>(),
        ) {
            let context = SpanContext {
                trace_id: [high, low], span_id, parent_id: 0, is_sampled, is_short_form: false, state: None,
            };
            let mut headers = HeaderMap::new();
            write(&context, &mut headers);
            prop_assert_eq!(read(&headers), Ok(Some(context)));
        }

        #[test]
        fn nothing_that_comes_is_a_panic(parent in "\\PC{0,60}") {
            if let Ok(parent) = HeaderValue::from_bytes(parent.as_bytes()) {
                let _ = read(&HeaderMap::from_iter([(PARENT, parent)]));
            }
        }
    }
}
