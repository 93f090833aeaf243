//! Scalars of proto JSON: numbers (bare or quoted), booleans, base64, and the texts of `Duration`, `Timestamp` and
//! `FieldMask`. What is accepted beyond the protobuf specification was confirmed with Envoy 1.40.

use std::borrow::Cow;

use crate::{schema::Kind, tree::Value, wire};

/// A scalar as it goes on the wire.
pub(super) enum Scalar<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(Cow<'a, [u8]>),
}

impl Scalar<'_> {
    /// Whether this is the default, which a field without presence leaves out.
    pub(super) fn is_default(&self) -> bool {
        match self {
            Scalar::Varint(value) | Scalar::Fixed64(value) => *value == 0,
            Scalar::Fixed32(value) => *value == 0,
            Scalar::Bytes(bytes) => bytes.is_empty(),
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>, number: u32) {
        let wire_type = match self {
            Scalar::Varint(_) => wire::VARINT,
            Scalar::Fixed64(_) => wire::FIXED64,
            Scalar::Fixed32(_) => wire::FIXED32,
            Scalar::Bytes(_) => wire::BYTES,
        };
        wire::put_key(out, number, wire_type);
        self.put_value(out);
    }

    /// The value alone, as in a packed list.
    pub(super) fn put_value(&self, out: &mut Vec<u8>) {
        match self {
            Scalar::Varint(value) => wire::put_varint(out, *value),
            Scalar::Fixed64(value) => out.extend(value.to_le_bytes()),
            Scalar::Fixed32(value) => out.extend(value.to_le_bytes()),
            Scalar::Bytes(bytes) => {
                wire::put_varint(out, bytes.len() as u64);
                out.extend_from_slice(bytes);
            }
        }
    }
}

/// The scalar that a value stands for in a field of this kind; the error is Envoy's reason. Enums and messages are not
/// scalars here.
pub(super) fn scalar<'t>(kind: Kind, value: &'t Value<'_>) -> Result<Scalar<'t>, String> {
    match kind {
        Kind::Int32 | Kind::Int64 | Kind::Sint32 | Kind::Sint64 | Kind::Sfixed32 | Kind::Sfixed64 => {
            signed(kind, integer(value)?)
        }
        Kind::Uint32 | Kind::Fixed32 | Kind::Uint64 | Kind::Fixed64 => unsigned(kind, integer(value)?),
        Kind::Double => Ok(Scalar::Fixed64(double(value)?.to_bits())),
        Kind::Float => {
            let double = double(value)?;
            let float = double as f32;
            if double.is_finite() && float.is_infinite() {
                return Err("float out of range".into());
            }
            Ok(Scalar::Fixed32(float.to_bits()))
        }
        Kind::Bool => boolean(value).map(|value| Scalar::Varint(value.into())),
        Kind::String => match value {
            Value::String(text) => Ok(Scalar::Bytes(Cow::Borrowed(text.as_bytes()))),
            Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(Scalar::Bytes(Cow::Borrowed(text.as_bytes()))),
                Err(_) => Err("invalid UTF-8 string".into()),
            },
            other => Err(format!("expected a string, got {}", other.describe())),
        },
        Kind::Bytes => match value {
            Value::Bytes(bytes) => Ok(Scalar::Bytes(Cow::Borrowed(bytes))),
            Value::String(text) => {
                base64(text).map(|bytes| Scalar::Bytes(Cow::Owned(bytes))).ok_or("corrupt base64".into())
            }
            other => Err(format!("expected a string of base64, got {}", other.describe())),
        },
        Kind::Message(_) | Kind::Enum(_) | Kind::Group => Err("expected a message".into()),
    }
}

fn signed<'t>(kind: Kind, value: i128) -> Result<Scalar<'t>, String> {
    let narrow = || i32::try_from(value).map_err(|_| out_of_range());
    let wide = || i64::try_from(value).map_err(|_| out_of_range());
    Ok(match kind {
        Kind::Int32 => Scalar::Varint(i64::from(narrow()?).cast_unsigned()),
        Kind::Sint32 => Scalar::Varint(wire::zigzag(narrow()?.into())),
        Kind::Sfixed32 => Scalar::Fixed32(narrow()?.cast_unsigned()),
        Kind::Sint64 => Scalar::Varint(wire::zigzag(wide()?)),
        Kind::Sfixed64 => Scalar::Fixed64(wide()?.cast_unsigned()),
        _ => Scalar::Varint(wide()?.cast_unsigned()),
    })
}

fn unsigned<'t>(kind: Kind, value: i128) -> Result<Scalar<'t>, String> {
    let narrow = || u32::try_from(value).map_err(|_| out_of_range());
    let wide = || u64::try_from(value).map_err(|_| out_of_range());
    Ok(match kind {
        Kind::Uint32 => Scalar::Varint(narrow()?.into()),
        Kind::Fixed32 => Scalar::Fixed32(narrow()?),
        Kind::Fixed64 => Scalar::Fixed64(wide()?),
        _ => Scalar::Varint(wide()?),
    })
}

fn out_of_range() -> String {
    "integer out of range".into()
}

/// The enum number that a value without a name stands for.
pub(super) fn enum_number(value: &Value<'_>) -> Option<i32> {
    match value {
        Value::Int(number) => i32::try_from(*number).ok(),
        Value::String(text) => text.parse().ok(),
        number => i32::try_from(integer(number).ok()?).ok(),
    }
}

/// An integer field: a number without a fraction, or a string that holds one.
fn integer(value: &Value<'_>) -> Result<i128, String> {
    match value {
        Value::Int(value) => Ok((*value).into()),
        Value::Double(value) => whole(*value),
        Value::Number(text) | Value::String(text) => integer_text(text),
        other => Err(format!("expected number or string, got {}", other.describe())),
    }
}

fn integer_text(text: &str) -> Result<i128, String> {
    check_quoted(text)?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let signed = |magnitude: u64| {
        let value = i128::from(magnitude);
        if negative { -value } else { value }
    };
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"))
        && hex.bytes().all(|digit| digit.is_ascii_hexdigit())
        && let Ok(magnitude) = u64::from_str_radix(hex, 16)
    {
        return Ok(signed(magnitude));
    }
    if !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return digits.parse().map(signed).map_err(|_| out_of_range());
    }
    whole(double_text(text)?)
}

/// A number with an exponent or a fraction of zero, as far as a double is exact.
fn whole(value: f64) -> Result<i128, String> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() != 0.0 {
        return Err("expected integer, but JSON number had fractional part".into());
    }
    if value.abs() > EXACT || !value.is_finite() {
        return Err("JSON number out of range for int".into());
    }
    Ok(value as i128)
}

fn double(value: &Value<'_>) -> Result<f64, String> {
    match value {
        Value::Int(value) => Ok(*value as f64),
        Value::Double(value) => Ok(*value),
        Value::Number(text) => double_text(text),
        Value::String(text) => match text.as_ref() {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            text => {
                check_quoted(text)?;
                double_text(text)
            }
        },
        other => Err(format!("expected number or string, got {}", other.describe())),
    }
}

fn double_text(text: &str) -> Result<f64, String> {
    let value: f64 = match text.parse() {
        // (Rust also reads the words "inf" and "nan".)
        Ok(value) if text.bytes().any(|c| c.is_ascii_digit()) => value,
        _ => return Err(format!("invalid number: '{text}'")),
    };
    if value.is_finite() { Ok(value) } else { Err("double out of range".into()) }
}

fn check_quoted(text: &str) -> Result<(), String> {
    let part_of_number = |c: u8| c.is_ascii_hexdigit() || matches!(c, b'+' | b'-' | b'.' | b'x' | b'X');
    if text.is_empty() {
        Err("invalid number: ''".into())
    } else if !text.bytes().all(part_of_number) {
        Err("non-number characters in quoted number".into())
    } else {
        Ok(())
    }
}

fn boolean(value: &Value<'_>) -> Result<bool, String> {
    const WORDS: [(&str, bool); 10] = [
        ("true", true),
        ("t", true),
        ("yes", true),
        ("y", true),
        ("1", true),
        ("false", false),
        ("f", false),
        ("no", false),
        ("n", false),
        ("0", false),
    ];
    let word = match value {
        Value::Bool(value) => return Ok(*value),
        Value::String(text) => WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)),
        _ => None,
    };
    word.map(|(_, value)| *value).ok_or("expected 'true' or 'false'".into())
}

/// Base64 in either alphabet, padded or not.
fn base64(text: &str) -> Option<Vec<u8>> {
    let unpadded = text.trim_end_matches('=');
    let padding = text.len() - unpadded.len();
    if unpadded.len() % 4 == 1 || (padding > 0 && (padding > 2 || !text.len().is_multiple_of(4))) {
        return None;
    }
    let mut out = Vec::with_capacity(unpadded.len() / 4 * 3 + 2);
    for group in unpadded.as_bytes().chunks(4) {
        let mut bits = 0_u32;
        for &symbol in group {
            bits = bits << 6 | u32::from(sextet(symbol)?);
        }
        bits <<= 6 * (4 - group.len());
        let bytes = bits.to_be_bytes();
        out.extend_from_slice(&bytes[1..group.len()]);
    }
    Some(out)
}

fn sextet(symbol: u8) -> Option<u8> {
    Some(match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

/// The text of a `Duration` (`1.5s`) as seconds and nanoseconds of the same sign.
pub(super) fn duration(text: &str) -> Result<(i64, i32), String> {
    const MOST_SECONDS: i64 = 315_576_000_000;
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = rest.split_at_checked(digits).unwrap_or_default();
    if whole.is_empty() {
        return Err("duration must start with an integer".into());
    }
    let seconds = whole.parse().unwrap_or(i64::MAX);
    let (nanos, unit) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(fraction) => fraction_of_second(fraction).ok_or("duration had bad nanoseconds")?,
    };
    if unit != "s" {
        return Err("duration must end with a single 's'".into());
    }
    if seconds > MOST_SECONDS {
        return Err("duration out of range".into());
    }
    Ok(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// Up to nine digits as nanoseconds, and what follows them.
fn fraction_of_second(text: &str) -> Option<(i32, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction, rest) = text.split_at_checked(digits)?;
    let scale = 9_u32.checked_sub(u32::try_from(digits).ok()?)?;
    let value: i32 = fraction.parse().ok()?;
    Some((value * 10_i32.pow(scale), rest))
}

/// The text of a `Timestamp` (RFC 3339) as seconds since 1970 and nanoseconds.
pub(super) fn timestamp(text: &str) -> Result<(i64, i32), String> {
    let bad = |part: &str| format!("bad {part} in timestamp");
    if text.len() < "2000-01-01T00:00:00Z".len() {
        return Err("timestamp string too short".into());
    }
    let number = |from: usize, to: usize, before: &str, part: &str, range: std::ops::RangeInclusive<i64>| {
        let separator = text.get(from - before.len()..from);
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|c| c.is_ascii_digit()));
        let value = digits.filter(|_| separator == Some(before)).and_then(|digits| digits.parse().ok());
        value.filter(|value| range.contains(value)).ok_or_else(|| bad(part))
    };
    let year = number(0, 4, "", "year", 1..=9999)?;
    let month = number(5, 7, "-", "month", 1..=12)?;
    let day = number(8, 10, "-", "day", 1..=31)?;
    let hour = number(11, 13, "T", "hour", 0..=24)?;
    let minute = number(14, 16, ":", "minute", 0..=59)?;
    let second = number(17, 19, ":", "second", 0..=60)?;
    let rest = text.get(19..).unwrap_or_default();
    let (nanos, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(fraction) => fraction_of_second(fraction).ok_or_else(|| bad("nanoseconds"))?,
    };
    let offset = zone_offset(zone).ok_or_else(|| bad("offset"))?;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    Ok((seconds, nanos))
}

/// `Z` or `±HH:MM`, as seconds east.
fn zone_offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let two = |digits: &str| -> Option<i64> {
        (digits.len() == 2 && digits.bytes().all(|c| c.is_ascii_digit())).then(|| digits.parse().ok())?
    };
    let offset = two(hours)? * 3_600 + two(minutes)? * 60;
    match zone.as_bytes().first()? {
        b'+' => Some(offset),
        b'-' => Some(-offset),
        _ => None,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. A year is counted from March, so that a leap day ends it.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days_before_month = (153 * month + 2) / 5;
    year * 365 + leap_days + days_before_month + day - 1 - 719_468
}

/// The text of a `FieldMask` (`a.bC,d`) as paths in snake case.
pub(super) fn field_mask(text: &str) -> Vec<String> {
    let snake = |path: &str| {
        let mut out = String::with_capacity(path.len() + 4);
        for c in path.chars() {
            if c.is_ascii_uppercase() {
                out.push('_');
            }
            out.push(c.to_ascii_lowercase());
        }
        out
    };
    text.split(',').filter(|path| !path.is_empty()).map(snake).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_bare_and_quoted() {
        let text = |text: &'static str| integer(&Value::String(text.into()));
        for (quoted, expected) in
            [("5", 5), ("1e3", 1000), ("1.0", 1), ("0x10", 16), ("+5", 5), ("-0", 0), ("05", 5)]
        {
            assert_eq!(text(quoted), Ok(expected), "{quoted}");
        }
        for (quoted, reason) in [
            ("1.5", "expected integer, but JSON number had fractional part"),
            ("1e-1", "expected integer, but JSON number had fractional part"),
            (" 5", "non-number characters in quoted number"),
            ("5 ", "non-number characters in quoted number"),
            ("", "invalid number: ''"),
            ("abc", "invalid number: 'abc'"),
            ("1e18", "JSON number out of range for int"),
            ("99999999999999999999", "integer out of range"),
        ] {
            assert_eq!(text(quoted), Err(reason.to_owned()), "{quoted}");
        }
        assert!(scalar(Kind::Uint32, &Value::Int(-1)).is_err());
        assert!(scalar(Kind::Uint32, &Value::Int(1 << 32)).is_err());
        assert!(scalar(Kind::Int32, &Value::Bool(true)).is_err());
        assert_eq!(integer(&Value::Number("9007199254740993".into())), Ok(9_007_199_254_740_993));
    }

    #[test]
    fn doubles() {
        let text = |text: &'static str| double(&Value::String(text.into()));
        assert_eq!(text("1.5"), Ok(1.5));
        assert!(text("NaN").unwrap().is_nan());
        assert_eq!(text("-Infinity"), Ok(f64::NEG_INFINITY));
        for bad in ["abc", ".inf", "inf", "nan", "", "1 "] {
            assert!(text(bad).is_err(), "{bad}");
        }
        assert!(scalar(Kind::Float, &Value::Number("3.5e38".into())).is_err());
        assert!(double(&Value::Number("1e400".into())).is_err());
    }

    #[test]
    fn booleans() {
        for (word, expected) in [("true", true), ("1", true), ("yes", true), ("Y", true), ("no", false)] {
            assert_eq!(boolean(&Value::String(word.into())), Ok(expected));
        }
        for bad in [Value::String("".into()), Value::String("on".into()), Value::Int(1), Value::Null] {
            assert!(boolean(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn base64_in_both_alphabets() {
        for text in ["aGk=", "aGk", "aGl"] {
            assert_eq!(base64(text).as_deref(), Some(&b"hi"[..]), "{text}");
        }
        assert_eq!(base64("_-8="), base64("/+8"));
        assert_eq!(base64("aGVsbG8gd29ybGQ=").as_deref(), Some(&b"hello world"[..]));
        assert_eq!(base64(""), Some(vec![]));
        for bad in ["aGk===", "a", "a G k", "aG%k", "=", "aGk=aGk="] {
            assert_eq!(base64(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("5s", (5, 0)),
            ("0.25s", (0, 250_000_000)),
            ("-1s", (-1, 0)),
            ("-0.5s", (0, -500_000_000)),
            ("01s", (1, 0)),
            ("1.123456789s", (1, 123_456_789)),
            ("315576000000s", (315_576_000_000, 0)),
        ] {
            assert_eq!(duration(text), Ok(expected), "{text}");
        }
        for (text, reason) in [
            ("5", "duration must end with a single 's'"),
            ("5 s", "duration must end with a single 's'"),
            ("5ms", "duration must end with a single 's'"),
            ("5S", "duration must end with a single 's'"),
            ("1e3s", "duration must end with a single 's'"),
            (".5s", "duration must start with an integer"),
            (" 5s", "duration must start with an integer"),
            ("+5s", "duration must start with an integer"),
            ("5.s", "duration had bad nanoseconds"),
            ("1.1234567891s", "duration had bad nanoseconds"),
            ("315576000001s", "duration out of range"),
            ("99999999999999999999s", "duration out of range"),
        ] {
            assert_eq!(duration(text), Err(reason.to_owned()), "{text}");
        }
    }

    #[test]
    fn timestamps() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", (0, 0)),
            ("2020-01-01T00:00:00.1Z", (1_577_836_800, 100_000_000)),
            ("2020-01-01T00:00:00+01:00", (1_577_833_200, 0)),
            ("9999-12-31T23:59:59.999999999Z", (253_402_300_799, 999_999_999)),
            ("0001-01-01T00:00:00Z", (-62_135_596_800, 0)),
            ("2020-02-30T00:00:00Z", (1_583_020_800, 0)),
            ("2020-01-01T24:00:00Z", (1_577_923_200, 0)),
        ] {
            assert_eq!(timestamp(text), Ok(expected), "{text}");
        }
        for text in [
            "2020-01-01",
            "2020-01-01T00:00:00",
            "0000-01-01T00:00:00Z",
            "2020-01-01t00:00:00z",
            "2020-13-01T00:00:00Z",
            "2020-01-01T00:00:00+1:00",
            "2020-01-01T00:00:00é",
        ] {
            assert!(timestamp(text).is_err(), "{text}");
        }
    }

    #[test]
    fn field_masks() {
        assert_eq!(field_mask("a_b,cD.eF"), ["a_b", "c_d.e_f"]);
        assert!(field_mask("").is_empty());
    }
}
