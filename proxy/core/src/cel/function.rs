//! The functions of the language, of those that Envoy has.

use std::borrow::Cow;
use std::cmp::Ordering;

use xds_api::envoy::config::core::v3::CelExpressionConfig;

use super::time::{
    Part, bounded, from_nanos, from_seconds, parse_span, parse_time, part_of_span, part_of_time, write_span,
    write_time,
};
use super::value::{List, Map, Number, Value};
use super::{Failed, Outcome};
use crate::matcher::Search;

/// Most bytes that a function makes: what is asked about may be as long as the headers of a request.
const MAX_MADE: usize = 256 * 1024;

/// A function, of the first operand and others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Index,
    Add { joins: bool },
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Negate,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    Size,
    Int,
    Uint,
    Double,
    Bool,
    String,
    Bytes,
    Timestamp,
    Duration,
    Dyn,
    Type,
    Part(Part),
    LowerAscii,
    UpperAscii,
    Trim,
    Replace,
    Split,
    Join,
    Substring,
    CharAt,
    IndexOf,
    LastIndexOf,
}

/// How a function may be called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Global,
    Member,
    Both,
}

impl Function {
    /// The function of that name for so many operands, the one before the dot among them.
    pub(super) fn find(
        name: &str,
        is_member: bool,
        operands: usize,
        config: CelExpressionConfig,
    ) -> Option<Self> {
        let CelExpressionConfig { enable_string_conversion, enable_string_concat, enable_string_functions } =
            config;
        let (function, style, count) = basic(name, enable_string_concat)
            .or_else(|| Some((part(name)?, Style::Member, 1..=2)))
            .or_else(|| {
                (name == "string" && enable_string_conversion).then_some((Self::String, Style::Global, 1..=1))
            })
            .or_else(|| enable_string_functions.then(|| of_strings(name))?)?;
        let fits = match style {
            Style::Global => !is_member,
            Style::Member => is_member,
            Style::Both => true,
        };
        (fits && count.contains(&operands)).then_some(function)
    }

    /// Its value.
    pub(super) fn call<'a>(self, first: &Value<'a>, others: &[Value<'a>]) -> Outcome<'a> {
        match (self, others) {
            (Self::Negate, []) => negate(first),
            (Self::Size, []) => size(first),
            (Self::Int, []) => to_int(first).map(Value::Int),
            (Self::Uint, []) => to_uint(first).map(Value::Uint),
            (Self::Double, []) => to_double(first).map(Value::Double),
            (Self::Bool, []) => to_bool(first).map(Value::Bool),
            (Self::String, []) => to_text(first),
            (Self::Bytes, []) => match first {
                Value::Text(bytes) | Value::Bytes(bytes) => Ok(Value::Bytes(bytes.clone())),
                _ => Err(Failed),
            },
            (Self::Timestamp, []) => match first {
                Value::Time(time) => Ok(Value::Time(*time)),
                Value::Int(seconds) => from_seconds(*seconds).map(Value::Time),
                other => parse_time(str_of(other)?).map(Value::Time),
            },
            (Self::Duration, []) => match first {
                Value::Span(span) => Ok(Value::Span(*span)),
                other => parse_span(str_of(other)?).map(Value::Span),
            },
            (Self::Dyn, []) => Ok(first.clone()),
            (Self::Type, []) => Ok(Value::Type(first.type_name())),
            (Self::Part(part), zone) => match (first, zone) {
                (Value::Time(time), []) => part_of_time(part, *time, None).map(Value::Int),
                (Value::Time(time), [zone]) => part_of_time(part, *time, Some(str_of(zone)?)).map(Value::Int),
                (Value::Span(span), []) => part_of_span(part, *span).map(Value::Int),
                _ => Err(Failed),
            },
            (
                Self::LowerAscii
                | Self::UpperAscii
                | Self::Trim
                | Self::Replace
                | Self::Split
                | Self::Substring
                | Self::CharAt
                | Self::IndexOf
                | Self::LastIndexOf
                | Self::Join,
                _,
            ) => self.of_text(first, others),
            (_, [second]) => self.of_two(first, second),
            _ => Err(Failed),
        }
    }

    fn of_two<'a>(self, one: &Value<'a>, two: &Value<'a>) -> Outcome<'a> {
        let truth = |truth| Ok(Value::Bool(truth));
        let ordered = |holds: fn(Ordering) -> bool| truth(one.compare(two)?.is_some_and(holds));
        match self {
            Self::Equal => truth(one.equals(two)),
            Self::NotEqual => truth(!one.equals(two)),
            Self::Less => ordered(Ordering::is_lt),
            Self::LessOrEqual => ordered(Ordering::is_le),
            Self::Greater => ordered(Ordering::is_gt),
            Self::GreaterOrEqual => ordered(Ordering::is_ge),
            Self::In => match two {
                Value::List(list) => truth(list.iter().any(|value| value.equals(one))),
                Value::Map(map) => truth(map.get(one).is_some()),
                _ => Err(Failed),
            },
            Self::Index => index(one, two),
            Self::Contains => truth(find_in(text_of(one)?, text_of(two)?).is_some()),
            Self::StartsWith => truth(text_of(one)?.starts_with(text_of(two)?)),
            Self::EndsWith => truth(text_of(one)?.ends_with(text_of(two)?)),
            Self::Matches => {
                let pattern = Search::limited(str_of(two)?).map_err(|_| Failed)?;
                truth(pattern.is_match(text_of(one)?))
            }
            Self::Add { .. } | Self::Subtract | Self::Multiply | Self::Divide | Self::Modulo => {
                self.arithmetic(one, two)
            }
            _ => Err(Failed),
        }
    }

    fn arithmetic<'a>(self, one: &Value<'a>, two: &Value<'a>) -> Outcome<'a> {
        let (is_sum, is_difference) = (matches!(self, Self::Add { .. }), self == Self::Subtract);
        match (one, two) {
            (Value::Int(one), Value::Int(two)) => {
                let number = match self {
                    Self::Add { .. } => one.checked_add(*two),
                    Self::Subtract => one.checked_sub(*two),
                    Self::Multiply => one.checked_mul(*two),
                    Self::Divide => one.checked_div(*two),
                    _ => one.checked_rem(*two),
                };
                number.map(Value::Int).ok_or(Failed)
            }
            (Value::Uint(one), Value::Uint(two)) => {
                let number = match self {
                    Self::Add { .. } => one.checked_add(*two),
                    Self::Subtract => one.checked_sub(*two),
                    Self::Multiply => one.checked_mul(*two),
                    Self::Divide => one.checked_div(*two),
                    _ => one.checked_rem(*two),
                };
                number.map(Value::Uint).ok_or(Failed)
            }
            (Value::Double(one), Value::Double(two)) => match self {
                Self::Add { .. } => Ok(Value::Double(one + two)),
                Self::Subtract => Ok(Value::Double(one - two)),
                Self::Multiply => Ok(Value::Double(one * two)),
                Self::Divide => Ok(Value::Double(one / two)),
                _ => Err(Failed),
            },
            (Value::Time(one), Value::Time(two)) if is_difference => {
                Ok(Value::Span(one.as_nanosecond() - two.as_nanosecond()))
            }
            (Value::Time(time), Value::Span(span)) if is_sum || is_difference => {
                let span = if is_sum { *span } else { -span };
                from_nanos(time.as_nanosecond() + span).map(Value::Time)
            }
            (Value::Span(span), Value::Time(time)) if is_sum => {
                from_nanos(time.as_nanosecond() + span).map(Value::Time)
            }
            (Value::Span(one), Value::Span(two)) if is_sum || is_difference => {
                bounded(Some(if is_sum { one + two } else { one - two })).map(Value::Span)
            }
            (Value::Text(one), Value::Text(two)) if self == (Self::Add { joins: true }) => {
                made([&**one, two].concat()).map(Value::Text)
            }
            (Value::Bytes(one), Value::Bytes(two)) if self == (Self::Add { joins: true }) => {
                made([&**one, two].concat()).map(Value::Bytes)
            }
            _ => Err(Failed),
        }
    }

    fn of_text<'a>(self, first: &Value<'a>, others: &[Value<'a>]) -> Outcome<'a> {
        let made_text = |text: String| made(text.into_bytes()).map(Value::Text);
        match (self, others) {
            (Self::LowerAscii, []) => made_text(str_of(first)?.to_ascii_lowercase()),
            (Self::UpperAscii, []) => made_text(str_of(first)?.to_ascii_uppercase()),
            (Self::Trim, []) => made_text(str_of(first)?.trim().to_owned()),
            (Self::Replace, [from, to, limit @ ..]) => {
                let (text, from, to) = (str_of(first)?, str_of(from)?, str_of(to)?);
                let limit = limit_of(limit)?;
                let count = text.matches(from).take(limit).count();
                if count.saturating_mul(to.len()).saturating_add(text.len()) > MAX_MADE {
                    return Err(Failed);
                }
                made_text(text.replacen(from, to, limit))
            }
            (Self::Split, [by, limit @ ..]) => split(str_of(first)?, str_of(by)?, limit_of(limit)?),
            (Self::Join, by) => {
                let (Value::List(list), by) = (first, by.first().map_or(Ok(""), str_of)?) else {
                    return Err(Failed);
                };
                let mut text = String::new();
                for (number, value) in list.iter().enumerate() {
                    if number > 0 {
                        text.push_str(by);
                    }
                    text.push_str(str_of(&value)?);
                    if text.len() > MAX_MADE {
                        return Err(Failed);
                    }
                }
                made_text(text)
            }
            (Self::Substring, [start, end @ ..]) => {
                let text = str_of(first)?;
                let count = text.chars().count();
                let (start, end) =
                    (place(start, count)?, end.first().map_or(Ok(count), |end| place(end, count))?);
                if start > end {
                    return Err(Failed);
                }
                made_text(text.chars().skip(start).take(end - start).collect())
            }
            (Self::CharAt, [at]) => {
                let text = str_of(first)?;
                let at = place(at, text.chars().count())?;
                made_text(text.chars().nth(at).map(String::from).unwrap_or_default())
            }
            (Self::IndexOf | Self::LastIndexOf, [what, at @ ..]) => {
                let (text, what) = (str_of(first)?, str_of(what)?);
                let found = self.position(text, what, at.first())?;
                Ok(Value::Int(found.map_or(-1, |found| text.get(..found).map_or(-1, count))))
            }
            _ => Err(Failed),
        }
    }

    /// Where `what` is in `text`, from or up to a letter.
    fn position(self, text: &str, what: &str, at: Option<&Value<'_>>) -> Result<Option<usize>, Failed> {
        let at = at.map(|at| place(at, text.chars().count())).transpose()?;
        let offset = at.map(|at| text.char_indices().nth(at).map_or(text.len(), |(offset, _)| offset));
        Ok(match (self, offset) {
            (Self::IndexOf, None) => text.find(what),
            (Self::IndexOf, Some(from)) => {
                text.get(from..).and_then(|rest| rest.find(what)).map(|at| at + from)
            }
            (_, None) => text.rfind(what),
            (_, Some(last)) => text.match_indices(what).map(|(at, _)| at).take_while(|at| *at <= last).last(),
        })
    }
}

fn basic(name: &str, joins: bool) -> Option<(Function, Style, std::ops::RangeInclusive<usize>)> {
    use Function as F;
    let operator = |function| Some((function, Style::Global, 2..=2));
    let conversion = |function| Some((function, Style::Global, 1..=1));
    let of_text = |function| Some((function, Style::Both, 2..=2));
    match name {
        "_==_" => operator(F::Equal),
        "_!=_" => operator(F::NotEqual),
        "_<_" => operator(F::Less),
        "_<=_" => operator(F::LessOrEqual),
        "_>_" => operator(F::Greater),
        "_>=_" => operator(F::GreaterOrEqual),
        "@in" | "_in_" | "in" => operator(F::In),
        "_[_]" => operator(F::Index),
        "_+_" => operator(F::Add { joins }),
        "_-_" => operator(F::Subtract),
        "_*_" => operator(F::Multiply),
        "_/_" => operator(F::Divide),
        "_%_" => operator(F::Modulo),
        "-_" => conversion(F::Negate),
        "contains" => of_text(F::Contains),
        "startsWith" => of_text(F::StartsWith),
        "endsWith" => of_text(F::EndsWith),
        "matches" => of_text(F::Matches),
        "size" => Some((F::Size, Style::Both, 1..=1)),
        "int" => conversion(F::Int),
        "uint" => conversion(F::Uint),
        "double" => conversion(F::Double),
        "bool" => conversion(F::Bool),
        "bytes" => conversion(F::Bytes),
        "timestamp" => conversion(F::Timestamp),
        "duration" => conversion(F::Duration),
        "dyn" => conversion(F::Dyn),
        "type" => conversion(F::Type),
        _ => None,
    }
}

fn part(name: &str) -> Option<Function> {
    Some(Function::Part(match name.strip_prefix("get")? {
        "FullYear" => Part::FullYear,
        "Month" => Part::Month,
        "Date" => Part::Date,
        "DayOfMonth" => Part::DayOfMonth,
        "DayOfWeek" => Part::DayOfWeek,
        "DayOfYear" => Part::DayOfYear,
        "Hours" => Part::Hours,
        "Minutes" => Part::Minutes,
        "Seconds" => Part::Seconds,
        "Milliseconds" => Part::Milliseconds,
        _ => return None,
    }))
}

fn of_strings(name: &str) -> Option<(Function, Style, std::ops::RangeInclusive<usize>)> {
    let (function, operands) = match name {
        "lowerAscii" => (Function::LowerAscii, 1..=1),
        "upperAscii" => (Function::UpperAscii, 1..=1),
        "trim" => (Function::Trim, 1..=1),
        "replace" => (Function::Replace, 3..=4),
        "split" => (Function::Split, 2..=3),
        "join" => (Function::Join, 1..=2),
        "substring" => (Function::Substring, 2..=3),
        "charAt" => (Function::CharAt, 2..=2),
        "indexOf" => (Function::IndexOf, 2..=3),
        "lastIndexOf" => (Function::LastIndexOf, 2..=3),
        _ => return None,
    };
    Some((function, Style::Member, operands))
}

fn text_of<'v>(value: &'v Value<'_>) -> Result<&'v [u8], Failed> {
    if let Value::Text(text) = value { Ok(text) } else { Err(Failed) }
}

fn str_of<'v>(value: &'v Value<'_>) -> Result<&'v str, Failed> {
    std::str::from_utf8(text_of(value)?).map_err(|_| Failed)
}

fn made<'a>(bytes: Vec<u8>) -> Result<Cow<'a, [u8]>, Failed> {
    if bytes.len() <= MAX_MADE { Ok(Cow::Owned(bytes)) } else { Err(Failed) }
}

fn find_in(text: &[u8], what: &[u8]) -> Option<usize> {
    if what.is_empty() {
        return Some(0);
    }
    memchr::memmem::find(text, what)
}

fn count(text: &str) -> i64 {
    i64::try_from(text.chars().count()).unwrap_or(i64::MAX)
}

/// A place within so many letters, or behind them.
fn place(value: &Value<'_>, count: usize) -> Result<usize, Failed> {
    let Value::Int(at) = value else { return Err(Failed) };
    usize::try_from(*at).ok().filter(|at| *at <= count).ok_or(Failed)
}

/// How often; a negative number is no limit.
fn limit_of(values: &[Value<'_>]) -> Result<usize, Failed> {
    match values {
        [] => Ok(usize::MAX),
        [Value::Int(limit)] => Ok(usize::try_from(*limit).unwrap_or(usize::MAX)),
        _ => Err(Failed),
    }
}

fn split<'a>(text: &str, by: &str, limit: usize) -> Outcome<'a> {
    let parts: Vec<&str> = match limit {
        0 => Vec::new(),
        _ if by.is_empty() => letters(text, limit),
        limit => text.splitn(limit, by).collect(),
    };
    if parts.len() > MAX_MADE / size_of::<Value<'_>>() {
        return Err(Failed);
    }
    let values = parts.into_iter().map(|part| Value::owned(part.to_owned()));
    Ok(Value::List(List::Values(values.collect())))
}

/// Each letter, the last of `limit` parts with what follows it.
fn letters(text: &str, limit: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let end = if parts.len() + 1 == limit { rest.len() } else { letter.len_utf8() };
        let (part, after) = rest.split_at(end);
        parts.push(part);
        rest = after;
    }
    parts
}

fn index<'a>(of: &Value<'a>, at: &Value<'a>) -> Outcome<'a> {
    match of {
        Value::Map(map) => map.get(at).ok_or(Failed),
        Value::List(list) => {
            let at = match at.number().ok_or(Failed)? {
                Number::Whole(at) => usize::try_from(at).map_err(|_| Failed)?,
                Number::Real(at) => usize::try_from(whole(at)?).map_err(|_| Failed)?,
            };
            list.get(at).ok_or(Failed)
        }
        _ => Err(Failed),
    }
}

/// A real number that is a whole one.
fn whole(number: f64) -> Result<i64, Failed> {
    if number.fract() == 0.0 { truncated(number) } else { Err(Failed) }
}

#[allow(clippy::cast_possible_truncation, reason = "the range is checked")]
fn truncated(number: f64) -> Result<i64, Failed> {
    const END: f64 = 9_223_372_036_854_775_808.0;
    if number > -END && number < END { Ok(number as i64) } else { Err(Failed) }
}

fn negate<'a>(value: &Value<'a>) -> Outcome<'a> {
    match value {
        Value::Int(number) => number.checked_neg().map(Value::Int).ok_or(Failed),
        Value::Double(number) => Ok(Value::Double(-number)),
        _ => Err(Failed),
    }
}

fn size<'a>(value: &Value<'a>) -> Outcome<'a> {
    let size = match value {
        Value::Text(text) => String::from_utf8_lossy(text).chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(list) => list.len(),
        Value::Map(map) => Map::len(map),
        _ => return Err(Failed),
    };
    i64::try_from(size).map(Value::Int).map_err(|_| Failed)
}

fn to_int(value: &Value<'_>) -> Result<i64, Failed> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::Bool(truth) => Ok((*truth).into()),
        Value::Uint(number) => i64::try_from(*number).map_err(|_| Failed),
        Value::Double(number) => truncated(*number),
        Value::Time(time) => Ok(time.as_second()),
        other => str_of(other)?.trim().parse().map_err(|_| Failed),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
fn to_uint(value: &Value<'_>) -> Result<u64, Failed> {
    const END: f64 = 18_446_744_073_709_551_616.0;
    match value {
        Value::Uint(number) => Ok(*number),
        Value::Int(number) => u64::try_from(*number).map_err(|_| Failed),
        Value::Double(number) if *number >= 0.0 && *number < END => Ok(*number as u64),
        Value::Double(_) => Err(Failed),
        other => str_of(other)?.trim().parse().map_err(|_| Failed),
    }
}

#[allow(clippy::cast_precision_loss, reason = "that is what the conversion does")]
fn to_double(value: &Value<'_>) -> Result<f64, Failed> {
    match value {
        Value::Double(number) => Ok(*number),
        Value::Int(number) => Ok(*number as f64),
        Value::Uint(number) => Ok(*number as f64),
        other => str_of(other)?.trim().parse().map_err(|_| Failed),
    }
}

fn to_bool(value: &Value<'_>) -> Result<bool, Failed> {
    if let Value::Bool(truth) = value {
        return Ok(*truth);
    }
    match str_of(value)? {
        "true" | "True" | "TRUE" | "t" | "1" => Ok(true),
        "false" | "False" | "FALSE" | "f" | "0" => Ok(false),
        _ => Err(Failed),
    }
}

fn to_text<'a>(value: &Value<'a>) -> Outcome<'a> {
    Ok(match value {
        Value::Text(text) => Value::Text(text.clone()),
        Value::Bytes(bytes) if std::str::from_utf8(bytes).is_ok() => Value::Text(bytes.clone()),
        Value::Int(number) => Value::owned(number.to_string()),
        Value::Uint(number) => Value::owned(number.to_string()),
        Value::Double(number) => Value::owned(shortest(*number)),
        Value::Bool(truth) => Value::owned(truth.to_string()),
        Value::Time(time) => Value::owned(write_time(*time)),
        Value::Span(span) => Value::owned(write_span(*span)),
        _ => return Err(Failed),
    })
}

/// The fewest digits that tell the number, with an exponent where C's `%g` has one.
fn shortest(number: f64) -> String {
    if !number.is_finite() {
        return number.to_string().to_ascii_lowercase();
    }
    let scientific = format!("{number:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..6 => number.to_string(),
        exponent => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
    }
}
