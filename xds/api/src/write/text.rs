//! Scalars as proto JSON writes them.

use std::fmt::Write as _;

use crate::{
    schema::Kind,
    wire::{self, Value},
};

/// A JSON string with its quotes. (Angle brackets are escaped, as protobuf does for the sake of HTML.)
pub(super) fn string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '\0'..='\u{1f}' | '\u{7f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A number; 64-bit integers and what is not finite in quotes.
pub(super) fn number(out: &mut String, kind: Kind, value: Value<'_>) {
    let _ = match (kind, value) {
        (Kind::Double, Value::Fixed64(bits)) => {
            return double(out, f64::from_bits(bits), &format!("{:e}", f64::from_bits(bits)), 15);
        }
        (Kind::Float, Value::Fixed32(bits)) => {
            let value = f32::from_bits(bits);
            return double(out, value.into(), &format!("{value:e}"), 6);
        }
        (Kind::Int32, Value::Varint(value)) => write!(out, "{}", value as i32),
        (Kind::Uint32, Value::Varint(value)) => write!(out, "{}", value as u32),
        (Kind::Sint32, Value::Varint(value)) => write!(out, "{}", wire::unzigzag(value) as i32),
        (Kind::Sfixed32, Value::Fixed32(value)) => write!(out, "{}", value.cast_signed()),
        (Kind::Fixed32, Value::Fixed32(value)) => write!(out, "{value}"),
        (Kind::Sint64, Value::Varint(value)) => write!(out, "\"{}\"", wire::unzigzag(value)),
        (Kind::Int64, Value::Varint(value)) => write!(out, "\"{}\"", value.cast_signed()),
        (Kind::Sfixed64, Value::Fixed64(value)) => write!(out, "\"{}\"", value.cast_signed()),
        (_, Value::Varint(value) | Value::Fixed64(value)) => write!(out, "\"{value}\""),
        (_, Value::Fixed32(value)) => write!(out, "{value}"),
        (_, Value::Bytes(_) | Value::Group) => return out.push_str("null"),
    };
}

/// A floating-point number from its shortest exact digits (`scientific`), laid out as C's `%g` with `digits` does.
fn double(out: &mut String, value: f64, scientific: &str, digits: i32) {
    if !value.is_finite() {
        let name = if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        return string(out, name);
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let length = i32::try_from(mantissa.bytes().filter(u8::is_ascii_digit).count()).unwrap_or(i32::MAX);
    if (-4..digits.max(length)).contains(&exponent) {
        let places = usize::try_from(length - 1 - exponent).unwrap_or(0);
        let _ = write!(out, "{value:.places$}");
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        let _ = write!(out, "{mantissa}e{sign}{:02}", exponent.abs());
    }
}

/// Padded base64 in the standard alphabet.
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for position in 0..4 {
            let symbol = ALPHABET[(bits >> (18 - 6 * position) & 63) as usize];
            out.push(if position <= group.len() { char::from(symbol) } else { '=' });
        }
    }
    out
}

/// A fraction of a second with 0, 3, 6 or 9 digits.
fn fraction(nanos: u32) -> String {
    if nanos == 0 {
        String::new()
    } else if nanos.is_multiple_of(1_000_000) {
        format!(".{:03}", nanos / 1_000_000)
    } else if nanos.is_multiple_of(1_000) {
        format!(".{:06}", nanos / 1_000)
    } else {
        format!(".{nanos:09}")
    }
}

pub(super) fn duration(seconds: i64, nanos: i32) -> String {
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanos.unsigned_abs()))
}

pub(super) fn timestamp(seconds: i64, nanos: i32) -> String {
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    let fraction = fraction(nanos.unsigned_abs());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// The Gregorian date that is so many days after 1970-01-01. Years are counted from March, so that a leap day ends one.
fn date(days: i64) -> (i64, i64, i64) {
    const DAYS_OF_400_YEARS: i64 = 146_097;
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(DAYS_OF_400_YEARS);
    let day_of_era = days.rem_euclid(DAYS_OF_400_YEARS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// `a_b.c` as `aB.c`.
pub(super) fn camel_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        if c == '_' {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let shown = |kind, value| {
            let mut out = String::new();
            number(&mut out, kind, value);
            out
        };
        let double = |value: f64| shown(Kind::Double, Value::Fixed64(value.to_bits()));
        for (value, expected) in [
            (0.0, "0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (1000.0, "1000"),
            (1e14, "100000000000000"),
            (1e21, "1e+21"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (f64::NAN, "\"NaN\""),
            (f64::NEG_INFINITY, "\"-Infinity\""),
        ] {
            assert_eq!(double(value), expected);
        }
        assert_eq!(shown(Kind::Float, Value::Fixed32(3.4e38_f32.to_bits())), "3.4e+38");
        assert_eq!(shown(Kind::Int64, Value::Varint(u64::MAX)), "\"-1\"");
        assert_eq!(shown(Kind::Uint64, Value::Varint(u64::MAX)), "\"18446744073709551615\"");
        assert_eq!(shown(Kind::Int32, Value::Varint(u64::MAX)), "-1");
        assert_eq!(shown(Kind::Uint32, Value::Varint(7)), "7");
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        string(&mut out, "a\"\\\n\u{1}<é>");
        assert_eq!(out, r#""a\"\\\n\u0001\u003cé\u003e""#);
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, expected) in
            [("", ""), ("h", "aA=="), ("hi", "aGk="), ("hi!", "aGkh"), ("hello", "aGVsbG8=")]
        {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn moments() {
        assert_eq!(duration(0, 250_000_000), "0.250s");
        assert_eq!(duration(5, 1_000), "5.000001s");
        assert_eq!(duration(0, -1), "-0.000000001s");
        assert_eq!(duration(5, 0), "5s");
        assert_eq!(timestamp(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(1_577_836_800, 100_000_000), "2020-01-01T00:00:00.100Z");
        assert_eq!(timestamp(951_782_400, 0), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(-62_135_596_800, 0), "0001-01-01T00:00:00Z");
        assert_eq!(timestamp(253_402_300_799, 0), "9999-12-31T23:59:59Z");
        timestamp(i64::MAX, i32::MIN);
        timestamp(i64::MIN, 0);
    }
}
