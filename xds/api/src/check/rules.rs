//! The constraints of `validate.rules` (protoc-gen-validate), evaluated straight from their bytes in the tables: parsing
//! a handful of bytes costs less than a lookup, and nothing has to be built at start. The wording is Envoy's.
//!
//! Rule kinds that no field of the API uses are not here; a test holds the API to that.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Mutex, OnceLock, PoisonError},
};

use regex::Regex;

use crate::{
    schema::{Enum, EnumValue, Kind},
    wire::{self, Fields, Value},
};

/// Field numbers of `validate.FieldRules`.
pub(super) mod kind {
    pub(in crate::check) const FLOAT: u32 = 1;
    pub(in crate::check) const DOUBLE: u32 = 2;
    pub(in crate::check) const SFIXED64: u32 = 12;
    pub(in crate::check) const BOOL: u32 = 13;
    pub(in crate::check) const STRING: u32 = 14;
    pub(in crate::check) const BYTES: u32 = 15;
    pub(in crate::check) const ENUM: u32 = 16;
    pub(in crate::check) const MESSAGE: u32 = 17;
    pub(in crate::check) const REPEATED: u32 = 18;
    pub(in crate::check) const MAP: u32 = 19;
    pub(in crate::check) const ANY: u32 = 20;
    pub(in crate::check) const DURATION: u32 = 21;
}

pub(super) const REQUIRED: &str = "value is required";

/// The bytes of one kind of rules inside `FieldRules`; `None` if there are none of that kind.
pub(super) fn of_kind(rules: &'static [u8], kind: u32) -> Option<&'static [u8]> {
    Fields::new(rules).flatten().find_map(|(number, value)| match value {
        Value::Bytes(bytes) if number == kind => Some(bytes),
        _ => None,
    })
}

/// A flag or number of a rule message; 0 if not set.
pub(super) fn varint(rules: &[u8], number: u32) -> Option<u64> {
    Fields::new(rules).flatten().find_map(|(at, value)| match value {
        Value::Varint(value) if at == number => Some(value),
        _ => None,
    })
}

pub(super) fn flag(rules: &[u8], number: u32) -> bool {
    varint(rules, number).is_some_and(|value| value != 0)
}

/// The rules for the elements, keys or values of a field.
pub(super) fn nested(rules: Option<&'static [u8]>, number: u32) -> &'static [u8] {
    rules.and_then(|rules| of_kind(rules, number)).unwrap_or_default()
}

/// Checks a scalar (enums and messages apart) against its rules; the error is the reason.
pub(super) fn scalar(rules: &'static [u8], kind: Kind, value: Value<'_>) -> Result<(), String> {
    for (number, rule) in Fields::new(rules).flatten() {
        let Value::Bytes(rule) = rule else { continue };
        match (number, value) {
            (kind::FLOAT..=kind::SFIXED64, value) => numeric(number, rule, kind, value)?,
            (kind::BOOL, Value::Varint(value)) => {
                if let Some(expected) = varint(rule, 1)
                    && (expected != 0) != (value != 0)
                {
                    return Err(format!("value must equal {}", expected != 0));
                }
            }
            (kind::STRING, Value::Bytes(bytes)) => string(rule, &String::from_utf8_lossy(bytes))?,
            (kind::BYTES, Value::Bytes(value)) => bytes(rule, value)?,
            _ => {}
        }
    }
    Ok(())
}

/// The bounds of a range: numbers of the fields `lt`, `lte`, `gt`, `gte` in a rule message.
struct Bounds<T> {
    lower: Option<(T, bool)>,
    upper: Option<(T, bool)>,
}

impl<T: PartialOrd + Copy> Bounds<T> {
    const fn new() -> Bounds<T> {
        Bounds { lower: None, upper: None }
    }

    /// The reason why a value is out of bounds. Bounds that cross mean "outside of".
    fn check(&self, value: T, show: impl Fn(T) -> String) -> Result<(), String> {
        let above = |(bound, inclusive): (T, bool)| value > bound || (inclusive && value == bound);
        let below = |(bound, inclusive): (T, bool)| value < bound || (inclusive && value == bound);
        let (reason, holds) = match (self.lower, self.upper) {
            (None, None) => return Ok(()),
            (Some(lower), None) => {
                let equal = if lower.1 { "or equal to " } else { "" };
                (format!("greater than {equal}{}", show(lower.0)), above(lower))
            }
            (None, Some(upper)) => {
                let equal = if upper.1 { "or equal to " } else { "" };
                (format!("less than {equal}{}", show(upper.0)), below(upper))
            }
            (Some(lower), Some(upper)) if lower.0 <= upper.0 => {
                let (open, close) = (if lower.1 { '[' } else { '(' }, if upper.1 { ']' } else { ')' });
                let range = format!("inside range {open}{}, {}{close}", show(lower.0), show(upper.0));
                (range, above(lower) && below(upper))
            }
            (Some(lower), Some(upper)) => {
                let (open, close) = (if upper.1 { '(' } else { '[' }, if lower.1 { ')' } else { ']' });
                let range = format!("outside range {open}{}, {}{close}", show(upper.0), show(lower.0));
                (range, above(lower) || below(upper))
            }
        };
        if holds { Ok(()) } else { Err(format!("value must be {reason}")) }
    }
}

/// A number of a message or a rule: exact integers, or a double.
#[derive(Clone, Copy)]
enum Number {
    Int(i128),
    Float(f64),
}

fn number(rule_kind: u32, value: Value<'_>) -> Option<Number> {
    Some(match (rule_kind, value) {
        (kind::FLOAT, Value::Fixed32(bits)) => Number::Float(f32::from_bits(bits).into()),
        (kind::DOUBLE, Value::Fixed64(bits)) => Number::Float(f64::from_bits(bits)),
        // int32, int64; sint32, sint64; uint32, uint64
        (3 | 4, Value::Varint(value)) => Number::Int(value.cast_signed().into()),
        (7 | 8, Value::Varint(value)) => Number::Int(wire::unzigzag(value).into()),
        (_, Value::Varint(value)) => Number::Int(value.into()),
        // sfixed32, sfixed64; fixed32, fixed64
        (11, Value::Fixed32(value)) => Number::Int(value.cast_signed().into()),
        (12, Value::Fixed64(value)) => Number::Int(value.cast_signed().into()),
        (_, Value::Fixed32(value)) => Number::Int(value.into()),
        (_, Value::Fixed64(value)) => Number::Int(value.into()),
        _ => return None,
    })
}

fn numeric(rule_kind: u32, rules: &[u8], kind: Kind, value: Value<'_>) -> Result<(), String> {
    const IGNORE_EMPTY: u32 = 8;
    let value = match value {
        // (An int32 is sign-extended on the wire; only its low half counts.)
        Value::Varint(value) if kind == Kind::Uint32 => Value::Varint(u64::from(value as u32)),
        value => value,
    };
    let Some(value) = number(rule_kind, value) else { return Ok(()) };
    let zero = match value {
        Number::Int(value) => value == 0,
        Number::Float(value) => value == 0.0,
    };
    if zero && flag(rules, IGNORE_EMPTY) {
        return Ok(());
    }
    let (mut ints, mut floats) = (Bounds::new(), Bounds::new());
    for (at, rule) in Fields::new(rules).flatten() {
        match number(rule_kind, rule) {
            Some(Number::Int(bound)) => set_bound(&mut ints, at, bound),
            Some(Number::Float(bound)) => set_bound(&mut floats, at, bound),
            None => {}
        }
    }
    match value {
        Number::Int(value) => ints.check(value, |bound| bound.to_string()),
        Number::Float(value) => floats.check(value, |bound| bound.to_string()),
    }
}

fn set_bound<T>(bounds: &mut Bounds<T>, number: u32, bound: T) {
    match number {
        2 => bounds.upper = Some((bound, false)),
        3 => bounds.upper = Some((bound, true)),
        4 => bounds.lower = Some((bound, false)),
        5 => bounds.lower = Some((bound, true)),
        _ => {}
    }
}

/// Lengths of a string or of bytes, at least and at most, with the words for them.
fn length(actual: usize, least: Option<u64>, most: Option<u64>, unit: &str) -> Result<(), String> {
    let actual = actual as u64;
    if least.is_none_or(|least| actual >= least) && most.is_none_or(|most| actual <= most) {
        return Ok(());
    }
    Err(match (least, most) {
        (Some(least), Some(most)) => {
            format!("value length must be between {least} and {most} {unit}, inclusive")
        }
        (Some(least), None) => format!("value length must be at least {least} {unit}"),
        (_, most) => format!("value length must be at most {} {unit}", most.unwrap_or_default()),
    })
}

fn string(rules: &'static [u8], value: &str) -> Result<(), String> {
    const IGNORE_EMPTY: u32 = 26;
    if value.is_empty() && flag(rules, IGNORE_EMPTY) {
        return Ok(());
    }
    let characters = || value.chars().count();
    let (mut least, mut most, mut least_bytes, mut most_bytes) = (None, None, None, None);
    let (mut well_known, mut strict) = (0, true);
    let mut list = Vec::new();
    for (number, rule) in Fields::new(rules).flatten() {
        match (number, rule) {
            (2, Value::Varint(bound)) => least = Some(bound),
            (3, Value::Varint(bound)) => most = Some(bound),
            (4, Value::Varint(bound)) => least_bytes = Some(bound),
            (5, Value::Varint(bound)) => most_bytes = Some(bound),
            (6, Value::Bytes(pattern)) => matches(text(pattern), value)?,
            (7, Value::Bytes(prefix)) if !value.starts_with(text(prefix)) => {
                return Err(format!("value does not have prefix {:?}", text(prefix)));
            }
            (8, Value::Bytes(suffix)) if !value.ends_with(text(suffix)) => {
                return Err(format!("value does not have suffix {:?}", text(suffix)));
            }
            (10, Value::Bytes(allowed)) => list.push(text(allowed)),
            (19, Value::Varint(exact)) if characters() as u64 != exact => {
                return Err(format!("value must be {exact} characters"));
            }
            (24, Value::Varint(known)) => well_known = known,
            (25, Value::Varint(flag)) => strict = flag != 0,
            _ => {}
        }
    }
    if !list.is_empty() && !list.contains(&value) {
        return Err(format!("value must be in list [{}]", list.join(" ")));
    }
    // (Counting characters is only needed when bytes alone do not decide.)
    if least.is_some_and(|least| least > 1 || value.is_empty()) || most.is_some() {
        length(characters(), least, most, "characters")?;
    }
    length(value.len(), least_bytes, most_bytes, "bytes")?;
    header(well_known, strict, value)
}

/// `well_known_regex`: a header's name (1) or value (2).
fn header(well_known: u64, strict: bool, value: &str) -> Result<(), String> {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+,-.^_|~`".contains(&c);
    let (holds, pattern) = match (well_known, strict) {
        (1, true) => {
            let name = value.strip_prefix(':').unwrap_or(value);
            (!name.is_empty() && name.bytes().all(token), "^:?[0-9a-zA-Z!#$%&'*+-.^_|~`]+$")
        }
        (1 | 2, false) => (!value.bytes().any(|c| matches!(c, 0 | b'\n' | b'\r')), "^[^\\x00\\n\\r]*$"),
        (2, true) => {
            (!value.bytes().any(|c| (c < b' ' && c != b'\t') || c == 0x7f), "^[^\\x00-\\b\\n-\\x1f\\x7f]*$")
        }
        _ => return Ok(()),
    };
    if holds { Ok(()) } else { Err(format!("value does not match regex pattern \"{pattern}\"")) }
}

fn matches(pattern: &'static str, value: &str) -> Result<(), String> {
    static COMPILED: OnceLock<Mutex<HashMap<&'static str, Option<Regex>>>> = OnceLock::new();
    let mut compiled = COMPILED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
    // (A pattern that this crate cannot compile would accept nothing; a test compiles them all.)
    let regex = compiled.entry(pattern).or_insert_with(|| Regex::new(pattern).ok());
    if regex.as_ref().is_some_and(|regex| regex.is_match(value)) {
        Ok(())
    } else {
        Err(format!("value does not match regex pattern {pattern:?}"))
    }
}

fn bytes(rules: &[u8], value: &[u8]) -> Result<(), String> {
    const IGNORE_EMPTY: u32 = 14;
    if value.is_empty() && flag(rules, IGNORE_EMPTY) {
        return Ok(());
    }
    length(value.len(), varint(rules, 2), varint(rules, 3), "bytes")
}

/// The text of a rule: descriptors are UTF-8.
fn text(bytes: &'static [u8]) -> &'static str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// Checks the number of an enum field.
pub(super) fn enum_number(rules: &'static [u8], an_enum: Enum, number: i32) -> Result<(), String> {
    const DEFINED_ONLY: u32 = 2;
    const NOT_IN: u32 = 4;
    let Some(rules) = of_kind(rules, kind::ENUM) else { return Ok(()) };
    if flag(rules, DEFINED_ONLY) && an_enum.value(number).is_none() {
        return Err("value must be one of the defined enum values".into());
    }
    let mut forbidden = Vec::new();
    for (at, rule) in Fields::new(rules).flatten() {
        match rule {
            Value::Varint(value) if at == NOT_IN => forbidden.push(value as i32),
            Value::Bytes(mut packed) if at == NOT_IN => {
                while let Ok(value) = wire::varint(&mut packed) {
                    forbidden.push(value as i32);
                }
            }
            _ => {}
        }
    }
    if !forbidden.contains(&number) {
        return Ok(());
    }
    let names: Vec<_> = forbidden.iter().filter_map(|&n| an_enum.value(n)).map(EnumValue::name).collect();
    Err(format!("value must not be in list [{}]", names.join(" ")))
}

/// Whether the rules demand that a message field is set.
pub(super) fn is_required(rules: &'static [u8]) -> bool {
    [(kind::MESSAGE, 2), (kind::ANY, 1), (kind::DURATION, 1)]
        .into_iter()
        .any(|(kind, required)| of_kind(rules, kind).is_some_and(|rules| flag(rules, required)))
}

/// Whether the rules exempt the content of a message field.
pub(super) fn skips_content(rules: &'static [u8]) -> bool {
    of_kind(rules, kind::MESSAGE).is_some_and(|rules| flag(rules, 1))
}

/// Checks a `google.protobuf.Duration`.
pub(super) fn duration(rules: &'static [u8], value: &[u8]) -> Result<(), String> {
    let Some(rules) = of_kind(rules, kind::DURATION) else { return Ok(()) };
    let mut bounds = Bounds::new();
    for (number, rule) in Fields::new(rules).flatten() {
        if let Value::Bytes(bound) = rule {
            // (The numbers are those of the numeric rules, shifted by `required`.)
            set_bound(&mut bounds, number - 1, nanoseconds(bound));
        }
    }
    bounds.check(nanoseconds(value), show_duration)
}

/// A `google.protobuf.Duration` in nanoseconds.
pub(crate) fn nanoseconds(duration: &[u8]) -> i128 {
    let (mut seconds, mut nanos) = (0, 0);
    for (number, value) in Fields::new(duration).flatten() {
        match (number, value) {
            (1, Value::Varint(value)) => seconds = i128::from(value.cast_signed()),
            (2, Value::Varint(value)) => nanos = i128::from(value as i32),
            _ => {}
        }
    }
    seconds * 1_000_000_000 + nanos
}

/// A duration as Envoy's messages show it: `1h0m0s`, `5m0s`, `1.5s`, `20ms`.
fn show_duration(nanoseconds: i128) -> String {
    const SECOND: i128 = 1_000_000_000;
    if nanoseconds == 0 {
        return "0s".into();
    }
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let nanoseconds = nanoseconds.abs();
    let decimal = |unit: i128| {
        let fraction = format!("{:0width$}", nanoseconds % unit, width = unit.to_string().len() - 1);
        let fraction = fraction.trim_end_matches('0');
        let whole = nanoseconds / unit;
        if unit == 1 || fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") }
    };
    if nanoseconds < 1_000 {
        return format!("{sign}{nanoseconds}ns");
    } else if nanoseconds < 1_000_000 {
        return format!("{sign}{}us", decimal(1_000));
    } else if nanoseconds < SECOND {
        return format!("{sign}{}ms", decimal(1_000_000));
    }
    let minutes = nanoseconds / SECOND / 60;
    let mut shown = String::from(sign);
    if minutes >= 60 {
        let _ = write!(shown, "{}h", minutes / 60);
    }
    if minutes > 0 {
        let _ = write!(shown, "{}m", minutes % 60);
    }
    let seconds = nanoseconds % (60 * SECOND);
    let fraction = format!("{:09}", seconds % SECOND);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let _ = write!(shown, "{}{point}{fraction}s", seconds / SECOND);
    shown
}

/// Checks how many elements a list, or pairs a map, has.
pub(super) fn count(rules: &'static [u8], count: u32) -> Result<(), String> {
    for (kind, unit) in [(kind::REPEATED, "item(s)"), (kind::MAP, "pair(s)")] {
        let Some(rules) = of_kind(rules, kind) else { continue };
        let (least, most) = (varint(rules, 1), varint(rules, 2));
        let count = u64::from(count);
        if least.is_none_or(|least| count >= least) && most.is_none_or(|most| count <= most) {
            continue;
        }
        return Err(match (least, most) {
            (Some(least), Some(most)) if least == most => {
                format!("value must contain exactly {least} {unit}")
            }
            (Some(least), Some(most)) => {
                format!("value must contain between {least} and {most} {unit}, inclusive")
            }
            (Some(least), None) => format!("value must contain at least {least} {unit}"),
            (_, most) => format!("value must contain no more than {} {unit}", most.unwrap_or_default()),
        });
    }
    Ok(())
}

/// Whether the elements of a list must differ.
pub(super) fn is_unique(rules: &'static [u8]) -> bool {
    of_kind(rules, kind::REPEATED).is_some_and(|rules| flag(rules, 3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Message;

    /// Every rule that the API uses is one that this file evaluates.
    #[test]
    fn no_rule_of_the_api_is_overlooked() {
        let known: [(u32, &[u32]); 15] = [
            (kind::FLOAT, &[2, 3, 4, 5, 8]),
            (kind::DOUBLE, &[2, 3, 4, 5, 8]),
            (3, &[2, 3, 4, 5, 8]),
            (4, &[2, 3, 4, 5, 8]),
            (5, &[2, 3, 4, 5, 8]),
            (6, &[2, 3, 4, 5, 8]),
            (kind::BOOL, &[1]),
            (kind::STRING, &[2, 3, 4, 5, 6, 7, 8, 10, 19, 24, 25, 26]),
            (kind::BYTES, &[2, 3, 14]),
            (kind::ENUM, &[2, 4]),
            (kind::MESSAGE, &[1, 2]),
            (kind::REPEATED, &[1, 2, 3, 4]),
            (kind::MAP, &[1, 2, 4, 5]),
            (kind::ANY, &[1]),
            (kind::DURATION, &[1, 3, 4, 5, 6]),
        ];
        let mut seen = 0;
        let mut stack: Vec<(String, &[u8])> = Message::all()
            .flat_map(Message::fields)
            .filter(|field| !field.rules().is_empty())
            .map(|field| (format!("{field:?}"), field.rules()))
            .collect();
        while let Some((name, rules)) = stack.pop() {
            seen += 1;
            for (number, value) in Fields::new(rules).map(Result::unwrap) {
                let (_, parts) = known.iter().find(|(kind, _)| *kind == number).expect(&name);
                let Value::Bytes(rule) = value else { panic!("{name}") };
                for (part, value) in Fields::new(rule).map(Result::unwrap) {
                    assert!(parts.contains(&part), "{name}: rule {number}.{part}");
                    match (number, part, value) {
                        (kind::REPEATED, 4, Value::Bytes(items)) => stack.push((name.clone(), items)),
                        (kind::MAP, 4 | 5, Value::Bytes(items)) => stack.push((name.clone(), items)),
                        (kind::STRING, 6, Value::Bytes(pattern)) => {
                            Regex::new(text(pattern)).unwrap();
                        }
                        _ => {}
                    }
                }
            }
        }
        assert!(seen > 1_254, "{seen}");
    }

    #[test]
    fn ranges_in_envoys_words() {
        let bounds = |lower, upper| Bounds { lower, upper };
        let show = |value: i32| value.to_string();
        let both = bounds(Some((1, true)), Some((5, false)));
        assert_eq!(both.check(1, show), Ok(()));
        assert_eq!(both.check(5, show), Err("value must be inside range [1, 5)".into()));
        let crossed = bounds(Some((5, true)), Some((0, true)));
        assert_eq!(crossed.check(0, show), Ok(()));
        assert_eq!(crossed.check(5, show), Ok(()));
        assert_eq!(crossed.check(3, show), Err("value must be outside range (0, 5)".into()));
        let lower = bounds(Some((0, false)), None);
        assert_eq!(lower.check(0, show), Err("value must be greater than 0".into()));
        let upper = bounds(None, Some((9, true)));
        assert_eq!(upper.check(10, show), Err("value must be less than or equal to 9".into()));
    }

    #[test]
    fn durations_in_envoys_words() {
        for (nanoseconds, shown) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5us"),
            (20_000_000, "20ms"),
            (1_000_000_000, "1s"),
            (1_500_000_000, "1.5s"),
            (300_000_000_000, "5m0s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1_000_000_000, "-1s"),
        ] {
            assert_eq!(show_duration(nanoseconds), shown);
        }
    }

    #[test]
    fn headers() {
        assert!(header(1, true, ":path").is_ok());
        assert!(header(1, true, "x-a.b,c").is_ok());
        assert!(header(1, true, "").is_err());
        assert!(header(1, true, "a b").is_err());
        assert!(header(1, false, "a b").is_ok());
        assert!(header(1, false, "").is_ok());
        assert!(header(2, false, "a\r").is_err());
        assert!(header(2, false, "").is_ok());
        assert!(header(2, true, "a\tb").is_ok());
        assert!(header(2, true, "a\u{1}b").is_err());
    }

    #[test]
    fn lengths_count_characters_or_bytes() {
        assert_eq!(
            length(0, Some(1), None, "characters"),
            Err("value length must be at least 1 characters".into())
        );
        assert_eq!(length(9, None, Some(8), "bytes"), Err("value length must be at most 8 bytes".into()));
        assert!(length(5, Some(1), Some(5), "bytes").is_ok());
    }
}
