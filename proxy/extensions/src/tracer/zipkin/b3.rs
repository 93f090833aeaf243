//! The headers of B3: `x-b3-*`, and the one header `b3` that has all of it.
//!
//! Who sends the one header is told in it, too; everybody else in many. Source: github.com/openzipkin/b3-propagation; Envoy
//! `source/extensions/tracers/zipkin/span_context_extractor.cc`.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use proxy_core::extension::tracer::SpanContext;

const B3: HeaderName = HeaderName::from_static("b3");
const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Whether the headers say if somebody wants to see the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sampled {
    /// They do not.
    Unsaid,
    /// They do.
    Said(bool),
}

/// What the headers have is no context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Whether the context comes in the one header.
pub(super) fn is_short(headers: &HeaderMap) -> bool {
    headers.contains_key(&B3)
}

/// Whether somebody wants to see it.
pub(super) fn sampled(headers: &HeaderMap) -> Sampled {
    if let Some(b3) = headers.get(&B3) {
        let b3 = b3.as_bytes();
        let at = match b3.len() {
            1 => 0,
            35 | 52 => 34,
            51 | 68 => 50,
            _ => return Sampled::Unsaid,
        };
        return Sampled::Said(b3.get(at).is_some_and(|flag| matches!(flag, b'1' | b'd')));
    }
    match headers.get(&SAMPLED) {
        Some(said) => Sampled::Said(matches!(said.as_bytes(), b"1" | b"true")),
        None => Sampled::Unsaid,
    }
}

/// The context that the headers have, if they have one.
///
/// # Errors
/// What they have is none.
pub(super) fn read(headers: &HeaderMap) -> Result<Option<SpanContext>, Unreadable> {
    if let Some(b3) = headers.get(&B3) {
        return read_short(b3.as_bytes());
    }
    let (Some(trace), Some(span)) = (headers.get(&TRACE_ID), headers.get(&SPAN_ID)) else { return Ok(None) };
    let parent = match headers.get(&PARENT_ID) {
        Some(parent) if !parent.is_empty() => hex(parent.as_bytes())?,
        _ => 0,
    };
    context(trace.as_bytes(), hex(span.as_bytes())?, parent).map(Some)
}

/// `{trace id}-{span id}-{flag}-{parent's id}`, the last two of which may be left out; or the flag alone.
fn read_short(b3: &[u8]) -> Result<Option<SpanContext>, Unreadable> {
    let is_flag = |text: &[u8]| matches!(text, b"0" | b"1" | b"d");
    if b3.len() == 1 {
        return if is_flag(b3) { Ok(None) } else { Err(Unreadable) };
    }
    let mut parts = b3.split(|byte| *byte == b'-');
    let (Some(trace), Some(span)) = (parts.next(), parts.next()) else { return Err(Unreadable) };
    let (flag, parent) = (parts.next(), parts.next());
    let is_well_formed = matches!(trace.len(), 16 | 32)
        && span.len() == 16
        && flag.is_none_or(is_flag)
        && parent.is_none_or(|parent| parent.len() == 16)
        && parts.next().is_none();
    if !is_well_formed {
        return Err(Unreadable);
    }
    let parent = parent.map_or(Ok(0), hex)?;
    context(trace, hex(span)?, parent).map(Some)
}

fn context(trace: &[u8], span_id: u64, parent_id: u64) -> Result<SpanContext, Unreadable> {
    let trace_id = match trace.split_at_checked(16) {
        Some((high, low)) if low.len() == 16 => [hex(high)?, hex(low)?],
        _ => [0, hex(trace)?],
    };
    Ok(SpanContext { trace_id, span_id, parent_id, is_sampled: false, is_short_form: false, state: None })
}

/// (Space and `0x` may stand before the digits, as in C.)
fn hex(digits: &[u8]) -> Result<u64, Unreadable> {
    let text = std::str::from_utf8(digits).map_err(|_| Unreadable)?.trim_ascii_start();
    let text = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if text.starts_with('+') {
        return Err(Unreadable);
    }
    u64::from_str_radix(text, 16).map_err(|_| Unreadable)
}

/// Digits that are being written.
struct Digits {
    text: [u8; 80],
    length: usize,
}

impl Digits {
    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.text.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn id(&mut self, id: u64) {
        for shift in (0..16).rev() {
            let digit = usize::try_from(id >> (shift * 4) & 15).unwrap_or(0);
            self.byte(HEX.get(digit).copied().unwrap_or(b'0'));
        }
    }

    fn trace_id(&mut self, [high, low]: [u64; 2]) {
        if high != 0 {
            self.id(high);
        }
        self.id(low);
    }
}

/// An id as text.
pub(super) fn id_text(id: u64) -> String {
    format!("{id:016x}")
}

/// The id of a trace as text.
pub(super) fn trace_id_text([high, low]: [u64; 2]) -> String {
    if high == 0 { id_text(low) } else { format!("{high:016x}{low:016x}") }
}

/// Writes the context; all of it lies in one piece of memory.
pub(super) fn write(context: &SpanContext, headers: &mut HeaderMap) {
    let mut digits = Digits { text: [0; 80], length: 0 };
    let flag = if context.is_sampled { b'1' } else { b'0' };
    digits.trace_id(context.trace_id);
    let trace_end = digits.length;
    if context.is_short_form {
        digits.byte(b'-');
        digits.id(context.span_id);
        digits.byte(b'-');
        digits.byte(flag);
        if context.parent_id != 0 {
            digits.byte(b'-');
            digits.id(context.parent_id);
        }
        return set(
            headers,
            B3,
            Bytes::copy_from_slice(digits.text.get(..digits.length).unwrap_or_default()),
        );
    }
    digits.id(context.span_id);
    let span_end = digits.length;
    if context.parent_id != 0 {
        digits.id(context.parent_id);
    }
    let all = Bytes::copy_from_slice(digits.text.get(..digits.length).unwrap_or_default());
    set(headers, TRACE_ID, all.slice(..trace_end));
    set(headers, SPAN_ID, all.slice(trace_end..span_end));
    if context.parent_id != 0 {
        set(headers, PARENT_ID, all.slice(span_end..));
    }
    headers.insert(SAMPLED, HeaderValue::from_static(if context.is_sampled { "1" } else { "0" }));
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: Bytes) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        fields.iter().map(field).collect()
    }

    const LONG: &str = "463ac35c9f6413ad48485a3953bb6124";

    #[test]
    fn contexts_are_read_from_both_forms() {
        let many = headers(&[
            ("x-b3-traceid", LONG),
            ("x-b3-spanid", "a2fb4a1d1a96d312"),
            ("x-b3-parentspanid", "0020000000000001"),
            ("x-b3-sampled", "true"),
        ]);
        let one = headers(&[("b3", &format!("{LONG}-a2fb4a1d1a96d312-d-0020000000000001"))]);
        for headers in [&many, &one] {
            let context = read(headers).unwrap().unwrap();
            assert_eq!(trace_id_text(context.trace_id), LONG);
            assert_eq!(id_text(context.span_id), "a2fb4a1d1a96d312");
            assert_eq!(id_text(context.parent_id), "0020000000000001");
            assert_eq!(sampled(headers), Sampled::Said(true));
        }
        let short = headers(&[("b3", "48485a3953bb6124-a2fb4a1d1a96d312")]);
        assert_eq!(read(&short).unwrap().unwrap().trace_id, [0, 0x4848_5a39_53bb_6124]);
        assert_eq!(sampled(&short), Sampled::Unsaid);
        let denied = headers(&[("b3", "0")]);
        assert_eq!((read(&denied), sampled(&denied)), (Ok(None), Sampled::Said(false)));
        assert_eq!((read(&HeaderMap::new()), sampled(&HeaderMap::new())), (Ok(None), Sampled::Unsaid));
    }

    #[test]
    fn what_is_no_context_is_none() {
        for b3 in [
            "",
            "x",
            "x-y",
            "12",
            "48485a3953bb6124",
            "48485a3953bb6124-a2fb4a1d1a96d312-x",
            "48485a3953bb6124-a2fb4a1d1a96d312-1-",
            "-----",
        ] {
            assert_eq!(read(&headers(&[("b3", b3)])), Err(Unreadable), "{b3}");
        }
        for (trace, span) in [("zz", "a2fb4a1d1a96d312"), (LONG, "z"), ("+1", "1")] {
            let headers = headers(&[("x-b3-traceid", trace), ("x-b3-spanid", span)]);
            assert_eq!(read(&headers), Err(Unreadable), "{trace} {span}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            high in any::<u64>(), low in any::<u64>(), span_id in any::<u64>(), parent_id in any::<u64>(),
            is_sampled in any::<bool>(), is_short_form in any::<bool>(),
        ) {
            let context = SpanContext { trace_id: [high, low], span_id, parent_id, is_sampled, is_short_form, state: None };
            let mut headers = HeaderMap::new();
            write(&context, &mut headers);
            prop_assert_eq!(is_short(&headers), is_short_form);
            prop_assert_eq!(sampled(&headers), Sampled::Said(is_sampled));
            let known = read(&headers).unwrap().unwrap();
            prop_assert_eq!(SpanContext { is_sampled, is_short_form, ..known }, context);
        }

        #[test]
        fn nothing_that_comes_is_a_panic(b3 in "\\PC{0,80}", trace in "\\PC{0,40}") {
            let value = |text: &str| HeaderValue::from_bytes(text.as_bytes());
            let mut headers = HeaderMap::new();
            if let (Ok(b3), Ok(trace)) = (value(&b3), value(&trace)) {
                headers.insert(TRACE_ID, trace.clone());
                headers.insert(SPAN_ID, trace);
                let _ = (read(&headers), sampled(&headers));
                headers.insert(B3, b3);
                let _ = (read(&headers), sampled(&headers));
            }
        }
    }
}
