//! JSON as Envoy prints it: one space per level, and the escapes of protobuf's printer.

use std::io::{self, Write};
use std::time::SystemTime;

use prost_types::Any;
use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter};
use serde_json::{Map, Value};
use xds_api::write::{JsonOptions, to_json};

/// The text of a value, with a newline at the end.
pub(super) fn print(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = Layout(PrettyFormatter::with_indent(b" "));
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    // Neither writing to memory nor a value that is JSON already can fail.
    let _ = value.serialize(&mut serializer);
    out.push(b'\n');
    String::from_utf8_lossy(&out).into_owned()
}

/// A message with its `@type`, its `Any`s expanded and its secrets hidden.
pub(super) fn message(any: &Any) -> Value {
    let mut fields = Map::new();
    fields.insert("@type".to_owned(), Value::from(any.type_url.as_str()));
    let mut text = String::new();
    let written = to_json(&any.type_url, &any.value, &JsonOptions::default(), &mut text);
    match (written, serde_json::from_str(&text)) {
        (Ok(()), Ok(Value::Object(message))) => fields.extend(message),
        // A type with a form of its own in JSON, such as a duration.
        (Ok(()), Ok(other)) => {
            fields.insert("value".to_owned(), other);
        }
        // It was read before it came here, so this needs a bug; the dump should show the rest all the same.
        (Err(error), _) => {
            fields.insert("unreadable".to_owned(), Value::from(error.to_string()));
        }
        (Ok(()), Err(error)) => {
            fields.insert("unreadable".to_owned(), Value::from(error.to_string()));
        }
    }
    Value::Object(fields)
}

/// Serde's pretty layout with protobuf's numbers and escapes.
struct Layout(PrettyFormatter<'static>);

impl Formatter for Layout {
    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        // As `%.15g` would lay it out: an exponent only for the very large and the very small.
        let scientific = format!("{value:e}");
        match scientific.split_once('e').map(|(digits, exponent)| (digits, exponent.parse::<i32>())) {
            Some((digits, Ok(exponent))) if !(-4..15).contains(&exponent) => {
                let sign = if exponent < 0 { '-' } else { '+' };
                write!(out, "{digits}e{sign}{:02}", exponent.unsigned_abs())
            }
            _ => write!(out, "{value}"),
        }
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for piece in fragment.split_inclusive(['<', '>', '\u{7f}']) {
            let plain = piece.trim_end_matches(['<', '>', '\u{7f}']);
            out.write_all(plain.as_bytes())?;
            for escaped in piece.get(plain.len()..).unwrap_or_default().chars() {
                write!(out, "\\u{:04x}", u32::from(escaped))?;
            }
        }
        Ok(())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

/// An object whose fields are given in order; absent values are left out.
pub(super) fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let mut object = Map::new();
    for (name, value) in fields {
        if let Some(value) = value {
            object.insert(name.to_owned(), value);
        }
    }
    Value::Object(object)
}

/// A text unless it is empty, as protobuf leaves out defaults.
pub(super) fn text(text: &str) -> Option<Value> {
    (!text.is_empty()).then(|| Value::from(text))
}

/// A 64 bit number, which protobuf prints as a text, unless it is zero.
pub(super) fn wide(number: u64) -> Option<Value> {
    (number != 0).then(|| Value::from(number.to_string()))
}

/// A number unless it is zero.
pub(super) fn number(number: u32) -> Option<Value> {
    (number != 0).then(|| Value::from(number))
}

/// `true`, or nothing.
pub(super) fn flag(set: bool) -> Option<Value> {
    set.then_some(Value::Bool(true))
}

/// A list unless it is empty.
pub(super) fn list(items: Vec<Value>) -> Option<Value> {
    (!items.is_empty()).then_some(Value::Array(items))
}

/// A moment as protobuf prints a `Timestamp`, in milliseconds.
pub(super) fn timestamp(moment: SystemTime) -> Value {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let millis = match since.subsec_millis() {
        0 => String::new(),
        millis => format!(".{millis:03}"),
    };
    Value::from(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{millis}Z"))
}

/// Year, month and day of a day since 1970, by 400-year eras that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_printed_with_milliseconds() {
        let at = |millis| timestamp(SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_795_367_770_045), "2026-11-22T17:16:10.045Z");
        assert_eq!(at(4_102_444_799_007), "2099-12-31T23:59:59.007Z");
    }

    #[test]
    fn numbers_and_angle_brackets_are_those_of_protobuf() {
        let value = serde_json::json!([300_000.0, 0.5, 1e20, -2.5e-7, 7, "a<b>\u{7f}\n"]);
        assert_eq!(
            print(&value),
            "[\n 300000,\n 0.5,\n 1e+20,\n -2.5e-07,\n 7,\n \"a\\u003cb\\u003e\\u007f\\n\"\n]\n"
        );
    }

    #[test]
    fn printing_indents_by_one_space() {
        let value = serde_json::json!({"a": [], "b": {}, "c": [1, {"d": "x"}]});
        assert_eq!(
            print(&value),
            "{\n \"a\": [],\n \"b\": {},\n \"c\": [\n  1,\n  {\n   \"d\": \"x\"\n  }\n ]\n}\n"
        );
    }
}
