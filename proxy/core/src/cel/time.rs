//! Points in time and spans between them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::temporal::DateTimeParser;
use jiff::tz::{Offset, TimeZone};

use super::Failed;

const SECOND: i128 = 1_000_000_000;
/// Longest span of the API, about ten thousand years.
const LONGEST: i128 = 315_576_000_000 * SECOND;
/// First and last second of the years 1 to 9999.
const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A part of a date or of the time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    Month,
    Date,
    DayOfMonth,
    DayOfWeek,
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}

pub(super) fn time_of(time: SystemTime) -> Option<Timestamp> {
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Timestamp::from_nanosecond(i128::try_from(since.as_nanos()).ok()?).ok()
}

pub(super) fn from_nanos(nanos: i128) -> Result<Timestamp, Failed> {
    let time = Timestamp::from_nanosecond(nanos).map_err(|_| Failed)?;
    if YEARS.contains(&time.as_second()) { Ok(time) } else { Err(Failed) }
}

pub(super) fn from_seconds(seconds: i64) -> Result<Timestamp, Failed> {
    from_nanos(i128::from(seconds) * SECOND)
}

/// Reads RFC 3339.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, Failed> {
    static PARSER: DateTimeParser = DateTimeParser::new();
    if text.as_bytes().get(10) != Some(&b'T') {
        return Err(Failed);
    }
    let time = PARSER.parse_timestamp(text).map_err(|_| Failed)?;
    from_nanos(time.as_nanosecond())
}

pub(super) fn bounded(span: Option<i128>) -> Result<i128, Failed> {
    span.filter(|span| (-LONGEST..=LONGEST).contains(span)).ok_or(Failed)
}

/// Reads a span as Go writes it: `1h2m3.5s`, with a sign, or `0`.
pub(super) fn parse_span(text: &str) -> Result<i128, Failed> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(Failed);
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or(Failed)?;
        let (number, after) = rest.split_at(end);
        let units = [
            ("ns", 1),
            ("us", 1_000),
            ("ms", 1_000_000),
            ("s", SECOND),
            ("m", 60 * SECOND),
            ("h", 3600 * SECOND),
        ];
        let unit = units.iter().find_map(|(unit, nanos)| after.strip_prefix(unit).map(|rest| (*nanos, rest)));
        let (nanos, after) = unit.ok_or(Failed)?;
        total = bounded(total.checked_add(scaled(number, nanos)?))?;
        rest = after;
    }
    Ok(if negative { -total } else { total })
}

/// A decimal number of units.
fn scaled(number: &str, nanos: i128) -> Result<i128, Failed> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 18 {
        return Err(Failed);
    }
    let digits = |text: &str| if text.is_empty() { Ok(0) } else { text.parse::<i128>().map_err(|_| Failed) };
    let fraction = fraction.get(..fraction.len().min(18)).unwrap_or("");
    let power = u32::try_from(fraction.len()).map_err(|_| Failed)?;
    Ok(digits(whole)? * nanos + digits(fraction)? * nanos / 10_i128.pow(power))
}

/// `90s`, `1.500s`.
pub(super) fn write_span(span: i128) -> String {
    let sign = if span < 0 { "-" } else { "" };
    let (seconds, nanos) =
        (span.unsigned_abs() / SECOND.unsigned_abs(), span.unsigned_abs() % SECOND.unsigned_abs());
    format!("{sign}{seconds}{}s", fraction(nanos))
}

/// RFC 3339, in UTC.
pub(super) fn write_time(time: Timestamp) -> String {
    let at = TimeZone::UTC.to_datetime(time);
    let nanos = u128::try_from(at.subsec_nanosecond()).unwrap_or(0);
    format!("{}{}Z", at.strftime("%Y-%m-%dT%H:%M:%S"), fraction(nanos))
}

/// Of a second: none, three, six or nine digits.
fn fraction(nanos: u128) -> String {
    match nanos {
        0 => String::new(),
        nanos if nanos % 1_000_000 == 0 => format!(".{:03}", nanos / 1_000_000),
        nanos if nanos % 1_000 == 0 => format!(".{:06}", nanos / 1_000),
        nanos => format!(".{nanos:09}"),
    }
}

/// A zone by its name, or by its distance from UTC: `+02:00`.
fn zone(name: &str) -> Result<TimeZone, Failed> {
    let digits = name.trim_start_matches(['+', '-']);
    let Some((hours, minutes)) = digits.split_once(':') else {
        return TimeZone::get(name).map_err(|_| Failed);
    };
    let number =
        |text: &str| text.parse::<i32>().ok().filter(|number| (0..60).contains(number)).ok_or(Failed);
    let seconds = (number(hours)? * 60 + number(minutes)?) * 60;
    let seconds = if name.starts_with('-') { -seconds } else { seconds };
    Offset::from_seconds(seconds).map(Offset::to_time_zone).map_err(|_| Failed)
}

/// A part of a point in time, in a zone or in UTC.
pub(super) fn part_of_time(part: Part, time: Timestamp, in_zone: Option<&str>) -> Result<i64, Failed> {
    let zone = in_zone.map_or(Ok(TimeZone::UTC), zone)?;
    let at: DateTime = zone.to_datetime(time);
    Ok(match part {
        Part::FullYear => at.year().into(),
        Part::Month => i64::from(at.month()) - 1,
        Part::Date => at.day().into(),
        Part::DayOfMonth => i64::from(at.day()) - 1,
        Part::DayOfWeek => at.weekday().to_sunday_zero_offset().into(),
        Part::DayOfYear => i64::from(at.day_of_year()) - 1,
        Part::Hours => at.hour().into(),
        Part::Minutes => at.minute().into(),
        Part::Seconds => at.second().into(),
        Part::Milliseconds => at.millisecond().into(),
    })
}

/// A span in whole units; its milliseconds are those within the second.
pub(super) fn part_of_span(part: Part, span: i128) -> Result<i64, Failed> {
    let units = match part {
        Part::Hours => span / (3600 * SECOND),
        Part::Minutes => span / (60 * SECOND),
        Part::Seconds => span / SECOND,
        Part::Milliseconds => span % SECOND / 1_000_000,
        Part::FullYear | Part::Month | Part::Date | Part::DayOfMonth | Part::DayOfWeek | Part::DayOfYear => {
            return Err(Failed);
        }
    };
    i64::try_from(units).map_err(|_| Failed)
}
