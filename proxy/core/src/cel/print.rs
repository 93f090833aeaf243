//! Values as text, and as JSON, as Envoy writes them.
//!
//! Source: Envoy `source/extensions/filters/common/expr/evaluator.cc` (`print`), the JSON form of `google.protobuf.Value`; texts observed on 1.40.

use std::borrow::Cow;

use prost_types::value::Kind;
use prost_types::{ListValue, NullValue, Struct, Value as Json};

use super::Failed;
use super::time::{write_span, write_time};
use super::value::{Map, Value};

impl Value<'_> {
    /// As text, which may be no UTF-8; of what has none the name of its type.
    pub(super) fn print(&self) -> Cow<'_, [u8]> {
        let text = match self {
            Self::Null => "NULL".to_owned(),
            Self::Bool(truth) => truth.to_string(),
            Self::Int(number) => number.to_string(),
            Self::Uint(number) => number.to_string(),
            Self::Double(number) => six_digits(*number),
            Self::Text(bytes) | Self::Bytes(bytes) => return Cow::Borrowed(bytes),
            Self::Time(time) => time.to_string().replace('Z', "+00:00"),
            Self::Span(span) => in_units(*span),
            Self::List(_) => "CelList value".to_owned(),
            Self::Map(_) => "CelMap value".to_owned(),
            Self::Type(_) => "CelType value".to_owned(),
        };
        Cow::Owned(text.into_bytes())
    }

    /// As JSON, unless there is something in it that has no list of its keys; a type is `null`. Numbers are doubles, as all of
    /// JSON's here.
    #[allow(clippy::cast_precision_loss, reason = "JSON has doubles only")]
    pub(super) fn to_json(&self) -> Result<Json, Failed> {
        let kind = match self {
            Self::Null | Self::Type(_) => Kind::NullValue(NullValue::NullValue.into()),
            Self::Bool(truth) => Kind::BoolValue(*truth),
            Self::Int(number) => Kind::NumberValue(*number as f64),
            Self::Uint(number) => Kind::NumberValue(*number as f64),
            Self::Double(number) => Kind::NumberValue(*number),
            Self::Text(bytes) => Kind::StringValue(String::from_utf8_lossy(bytes).into_owned()),
            Self::Bytes(bytes) => Kind::StringValue(crate::tls::base64(bytes)),
            Self::Time(time) => Kind::StringValue(write_time(*time)),
            Self::Span(span) => Kind::StringValue(write_span(*span)),
            Self::List(list) => {
                let values: Result<_, _> = list.iter().map(|value| value.to_json()).collect();
                Kind::ListValue(ListValue { values: values? })
            }
            Self::Map(map) => Kind::StructValue(map.to_json()?),
        };
        Ok(Json { kind: Some(kind) })
    }
}

impl Map<'_> {
    fn to_json(&self) -> Result<Struct, Failed> {
        let fields: Result<_, _> = match self {
            Self::Json(fields) => return Ok((*fields).clone()),
            Self::Entries(entries) => {
                let name = |key: &Value<'_>| String::from_utf8_lossy(&key.print()).into_owned();
                entries.iter().map(|(key, value)| Ok((name(key), value.to_json()?))).collect()
            }
            Self::Object(object) => {
                let names = object.names().ok_or(Failed)?.into_iter();
                let known = names.filter_map(|name| Some((name, object.get(name)?)));
                known.map(|(name, value)| Ok((name.to_owned(), value.to_json()?))).collect()
            }
        };
        Ok(Struct { fields: fields? })
    }
}

/// A double with six significant digits, the shorter of its forms (`%g`).
fn six_digits(number: f64) -> String {
    if !number.is_finite() {
        return number.to_string().to_ascii_lowercase();
    }
    let scientific = format!("{number:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        return without_zeros(&format!("{number:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_zeros(mantissa), exponent.unsigned_abs())
}

/// Without zeros at the end of a fraction.
fn without_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// Nanoseconds in the units that they fill: `25h1m1.5s`, `580.412us`.
fn in_units(span: i128) -> String {
    let sign = if span < 0 { "-" } else { "" };
    let nanos = span.unsigned_abs();
    let decimal = |unit: u128, digits: usize| {
        let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
        without_zeros(&text).to_owned()
    };
    match nanos {
        0 => "0".to_owned(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => format!("{sign}{}us", decimal(1_000, 3)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", decimal(1_000_000, 6)),
        _ => {
            const SECOND: u128 = 1_000_000_000;
            let (hours, minutes) = (nanos / (3600 * SECOND), nanos / (60 * SECOND) % 60);
            let rest = nanos % (60 * SECOND);
            let seconds = format!("{}.{:09}", rest / SECOND, rest % SECOND);
            let part =
                |number: u128, unit| if number > 0 { format!("{number}{unit}") } else { String::new() };
            let seconds = if rest > 0 { format!("{}s", without_zeros(&seconds)) } else { String::new() };
            format!("{sign}{}{}{seconds}", part(hours, 'h'), part(minutes, 'm'))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_have_six_digits() {
        for (number, text) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (12_345_678.9, "1.23457e+07"),
            (123_456.0, "123456"),
            (1e21, "1e+21"),
            (1e-7, "1e-07"),
            (0.000_123_456_7, "0.000123457"),
            (-2.5, "-2.5"),
            (999_999.5, "1e+06"),
            (f64::INFINITY, "inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(six_digits(number), text);
        }
    }

    #[test]
    fn spans_are_in_units() {
        for (span, text) in [
            (0, "0"),
            (7, "7ns"),
            (580_412, "580.412us"),
            (-250_000_000, "-250ms"),
            (90_061_500_000_000, "25h1m1.5s"),
            (3_600_000_000_000, "1h"),
            (60_000_000_001, "1m0.000000001s"),
        ] {
            assert_eq!(in_units(span), text);
        }
    }
}
