//! Times in formats: a compiled `strftime` pattern with Envoy's additions `%f`, `%3f` and `%E3S`.
//!
//! Sources: Envoy `docs/root/configuration/observability/access_log/usage.rst` ("%START_TIME%"), POSIX `strftime` in the C
//! locale, and the `%E` forms of Abseil's `FormatTime`. What no pattern letter means is printed as it stands.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The pattern of `%START_TIME%` and `%EMIT_TIME%` without a parameter.
const DEFAULT: &str = "%Y-%m-%dT%H:%M:%E3SZ";
/// The pattern of the `_LOCAL` forms without a parameter.
const DEFAULT_LOCAL: &str = "%Y-%m-%dT%H:%M:%E3S%z";

/// How a number narrower than its field is filled up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pad {
    Zero,
    Space,
    None,
}

/// How the letters of a name are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    AsIs,
    Upper,
}

/// A part of a date that is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Century,
    Day,
    EpochSeconds,
    Hour,
    Hour12,
    IsoWeek,
    IsoYear,
    IsoYear2,
    Minute,
    Month,
    Second,
    WeekFromMonday,
    WeekFromSunday,
    Weekday,
    Weekday7,
    Year,
    Year2,
    YearDay,
}

/// A part of a date that is a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    AmPm,
    AmPmLower,
    Day,
    DayShort,
    Month,
    MonthShort,
    Zone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Literal(String),
    Number(Number, Pad, usize),
    Word(Word, Case),
    /// The first digits of the fraction of the second.
    Fraction(usize),
    /// A point and the fraction of the second without trailing zeros; nothing when it is zero.
    TrimmedFraction {
        point: bool,
    },
    /// `+0100`, or `+01:00`.
    Offset {
        colon: bool,
    },
}

/// A compiled time pattern.
#[derive(Clone, Debug)]
pub(super) struct TimeFormat {
    items: Vec<Item>,
    zone: Option<TimeZone>,
}

/// Where a time is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Zone {
    Utc,
    Local,
}

impl TimeFormat {
    /// Compiles `pattern`, the default one if it is empty. A line break is refused: the value may become a header.
    pub(super) fn parse(pattern: &str, zone: Zone) -> Result<Self, String> {
        let pattern = match (pattern, zone) {
            ("", Zone::Utc) => DEFAULT,
            ("", Zone::Local) => DEFAULT_LOCAL,
            (pattern, Zone::Utc | Zone::Local) => pattern,
        };
        let mut items = Vec::new();
        parse_into(pattern, &mut items)?;
        Ok(Self { items, zone: (zone == Zone::Local).then(TimeZone::system) })
    }

    /// Appends `time` to `out`.
    pub(super) fn render(&self, time: SystemTime, out: &mut Vec<u8>) {
        let moment = Moment::new(time, self.zone.as_ref());
        for item in &self.items {
            moment.write(item, self.zone.as_ref(), out);
        }
    }
}

fn literal(items: &mut Vec<Item>, text: &str) {
    match items.last_mut() {
        Some(Item::Literal(last)) => last.push_str(text),
        Some(_) | None => items.push(Item::Literal(text.to_owned())),
    }
}

/// Compiles `pattern` onto `items`.
fn parse_into(pattern: &str, items: &mut Vec<Item>) -> Result<(), String> {
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('%') {
        if !before.is_empty() {
            literal(items, before);
        }
        let used = parse_one(after, items)?;
        match used {
            Some(used) => rest = after.get(used..).unwrap_or_default(),
            None => {
                // Not a conversion: it stands for itself.
                literal(items, "%");
                rest = after;
            }
        }
    }
    if rest.contains('\n')
        || items.iter().any(|item| matches!(item, Item::Literal(text) if text.contains('\n')))
    {
        return Err("a time format must not contain a newline".to_owned());
    }
    if !rest.is_empty() {
        literal(items, rest);
    }
    Ok(())
}

/// Compiles the conversion after a `%`; how many bytes it takes, or `None` if it is none.
fn parse_one(after: &str, items: &mut Vec<Item>) -> Result<Option<usize>, String> {
    let bytes = after.as_bytes();
    let mut at = 0;
    let (mut pad, mut case) = (None, Case::AsIs);
    while let Some(flag) = bytes.get(at) {
        match flag {
            b'-' => pad = Some(Pad::None),
            b'_' => pad = Some(Pad::Space),
            b'0' => pad = Some(Pad::Zero),
            b'^' | b'#' => case = Case::Upper,
            _ => break,
        }
        at += 1;
    }
    let Some(&letter) = bytes.get(at) else { return Ok(None) };
    if letter == b'n' {
        return Err("a time format must not contain a newline".to_owned());
    }
    if letter.is_ascii_digit() && bytes.get(at + 1) == Some(&b'f') {
        items.push(Item::Fraction(usize::from(letter - b'0')));
        return Ok(Some(at + 2));
    }
    if letter == b'E' {
        return Ok(parse_extended(bytes, at + 1, items));
    }
    let letter_at = if letter == b'O' { at + 1 } else { at };
    let Some(&letter) = bytes.get(letter_at) else { return Ok(None) };
    if let Some(composite) = composite(letter) {
        parse_into(composite, items)?;
    } else if let Some(item) = simple(letter, pad, case) {
        items.push(item);
    } else {
        return Ok(None);
    }
    Ok(Some(letter_at + 1))
}

/// Abseil's `%E` forms; `at` is behind the `E`.
fn parse_extended(bytes: &[u8], at: usize, items: &mut Vec<Item>) -> Option<usize> {
    let second = || Item::Number(Number::Second, Pad::Zero, 2);
    match (bytes.get(at)?, bytes.get(at + 1)) {
        (b'T', _) => {
            literal(items, "T");
            Some(at + 1)
        }
        (b'z', _) => {
            items.push(Item::Offset { colon: true });
            Some(at + 1)
        }
        (b'*', Some(b'z')) => {
            items.push(Item::Offset { colon: true });
            Some(at + 2)
        }
        (b'*', Some(b'S')) => {
            items.extend([second(), Item::TrimmedFraction { point: true }]);
            Some(at + 2)
        }
        (b'*', Some(b'f')) => {
            items.push(Item::TrimmedFraction { point: false });
            Some(at + 2)
        }
        (b'4', Some(b'Y')) => {
            items.push(Item::Number(Number::Year, Pad::Zero, 4));
            Some(at + 2)
        }
        (digit, Some(b'S')) if digit.is_ascii_digit() => {
            items.push(second());
            if *digit > b'0' {
                literal(items, ".");
                items.push(Item::Fraction(usize::from(digit - b'0')));
            }
            Some(at + 2)
        }
        (digit, Some(b'f')) if digit.is_ascii_digit() => {
            items.push(Item::Fraction(usize::from(digit - b'0')));
            Some(at + 2)
        }
        _ => None,
    }
}

/// Conversions that stand for others.
fn composite(letter: u8) -> Option<&'static str> {
    Some(match letter {
        b'c' => "%a %b %e %H:%M:%S %Y",
        b'D' | b'x' => "%m/%d/%y",
        b'F' => "%Y-%m-%d",
        b'r' => "%I:%M:%S %p",
        b'R' => "%H:%M",
        b'T' | b'X' => "%H:%M:%S",
        _ => return None,
    })
}

fn simple(letter: u8, pad: Option<Pad>, case: Case) -> Option<Item> {
    let number = |number, width| Item::Number(number, pad.unwrap_or(Pad::Zero), width);
    let spaced = |number| Item::Number(number, pad.unwrap_or(Pad::Space), 2);
    Some(match letter {
        b'%' => Item::Literal("%".to_owned()),
        b't' => Item::Literal("\t".to_owned()),
        b'a' => Item::Word(Word::DayShort, case),
        b'A' => Item::Word(Word::Day, case),
        b'b' | b'h' => Item::Word(Word::MonthShort, case),
        b'B' => Item::Word(Word::Month, case),
        b'p' => Item::Word(Word::AmPm, case),
        b'P' => Item::Word(Word::AmPmLower, case),
        b'Z' => Item::Word(Word::Zone, case),
        b'z' => Item::Offset { colon: false },
        b'f' => Item::Fraction(9),
        b'C' => number(Number::Century, 2),
        b'd' => number(Number::Day, 2),
        b'e' => spaced(Number::Day),
        b'g' => number(Number::IsoYear2, 2),
        b'G' => Item::Number(Number::IsoYear, pad.unwrap_or(Pad::None), 4),
        b'H' => number(Number::Hour, 2),
        b'I' => number(Number::Hour12, 2),
        b'j' => number(Number::YearDay, 3),
        b'k' => spaced(Number::Hour),
        b'l' => spaced(Number::Hour12),
        b'm' => number(Number::Month, 2),
        b'M' => number(Number::Minute, 2),
        b's' => Item::Number(Number::EpochSeconds, Pad::None, 1),
        b'S' => number(Number::Second, 2),
        b'u' => number(Number::Weekday7, 1),
        b'U' => number(Number::WeekFromSunday, 2),
        b'V' => number(Number::IsoWeek, 2),
        b'w' => number(Number::Weekday, 1),
        b'W' => number(Number::WeekFromMonday, 2),
        b'y' => number(Number::Year2, 2),
        b'Y' => Item::Number(Number::Year, pad.unwrap_or(Pad::None), 4),
        _ => return None,
    })
}

/// A moment broken down into the parts of a calendar.
struct Moment {
    epoch: i64,
    nanos: u32,
    offset: i32,
    year: i64,
    month: usize,
    day: i64,
    year_day: i64,
    weekday: usize,
    second_of_day: i64,
}

impl Moment {
    fn new(time: SystemTime, zone: Option<&TimeZone>) -> Self {
        let (epoch, nanos) = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos()),
            Err(before) => (-i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX), 0),
        };
        let offset = zone.map_or(0, |zone| offset_seconds(zone, epoch));
        let local = epoch.saturating_add(i64::from(offset));
        let days = local.div_euclid(86_400);
        let (year, month, day) = civil(days);
        let january_first = days_before(year);
        Self {
            epoch,
            nanos,
            offset,
            year,
            month,
            day,
            year_day: days - january_first,
            weekday: usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0),
            second_of_day: local.rem_euclid(86_400),
        }
    }

    fn write(&self, item: &Item, zone: Option<&TimeZone>, out: &mut Vec<u8>) {
        match item {
            Item::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Item::Number(number, pad, width) => write_number(out, self.number(*number), *pad, *width),
            Item::Word(word, case) => self.write_word(*word, *case, zone, out),
            Item::Fraction(digits) => {
                let start = out.len();
                write_number(out, i64::from(self.nanos), Pad::Zero, 9);
                out.truncate(start + (*digits).min(9));
            }
            Item::TrimmedFraction { point } => {
                let start = out.len();
                if *point {
                    out.push(b'.');
                }
                write_number(out, i64::from(self.nanos), Pad::Zero, 9);
                while out.len() > start && out.last() == Some(&b'0') {
                    out.pop();
                }
                if out.last() == Some(&b'.') && *point {
                    out.pop();
                }
                if out.len() == start && !point {
                    out.push(b'0');
                }
            }
            Item::Offset { colon } => {
                out.push(if self.offset < 0 { b'-' } else { b'+' });
                let minutes = i64::from(self.offset.unsigned_abs() / 60);
                write_number(out, minutes / 60, Pad::Zero, 2);
                if *colon {
                    out.push(b':');
                }
                write_number(out, minutes % 60, Pad::Zero, 2);
            }
        }
    }

    fn number(&self, number: Number) -> i64 {
        let hour = self.second_of_day / 3600;
        let weekday = i64::try_from(self.weekday).unwrap_or(0);
        match number {
            Number::Century => self.year.div_euclid(100),
            Number::Day => self.day,
            Number::EpochSeconds => self.epoch,
            Number::Hour => hour,
            Number::Hour12 => (hour + 11) % 12 + 1,
            Number::IsoWeek => self.iso_week().1,
            Number::IsoYear => self.iso_week().0,
            Number::IsoYear2 => self.iso_week().0.rem_euclid(100),
            Number::Minute => self.second_of_day / 60 % 60,
            Number::Month => i64::try_from(self.month).unwrap_or(0),
            Number::Second => self.second_of_day % 60,
            Number::WeekFromMonday => (self.year_day + 7 - (weekday + 6) % 7) / 7,
            Number::WeekFromSunday => (self.year_day + 7 - weekday) / 7,
            Number::Weekday => weekday,
            Number::Weekday7 => (weekday + 6) % 7 + 1,
            Number::Year => self.year,
            Number::Year2 => self.year.rem_euclid(100),
            Number::YearDay => self.year_day + 1,
        }
    }

    /// Year and week as ISO 8601 counts them: a week belongs to the year that holds its Thursday.
    fn iso_week(&self) -> (i64, i64) {
        let monday_based = (i64::try_from(self.weekday).unwrap_or(0) + 6) % 7;
        let thursday = self.year_day - monday_based + 3;
        let length = |year: i64| days_before(year + 1) - days_before(year);
        if thursday < 0 {
            return (self.year - 1, (thursday + length(self.year - 1)) / 7 + 1);
        }
        if thursday >= length(self.year) {
            return (self.year + 1, 1);
        }
        (self.year, thursday / 7 + 1)
    }

    fn write_word(&self, word: Word, case: Case, zone: Option<&TimeZone>, out: &mut Vec<u8>) {
        let start = out.len();
        let day = DAYS.get(self.weekday).copied().unwrap_or_default();
        let month = MONTHS.get(self.month.saturating_sub(1)).copied().unwrap_or_default();
        let morning = self.second_of_day < 43_200;
        match word {
            Word::AmPm => out.extend_from_slice(if morning { b"AM" } else { b"PM" }),
            Word::AmPmLower => out.extend_from_slice(if morning { b"am" } else { b"pm" }),
            Word::Day => out.extend_from_slice(day.as_bytes()),
            Word::DayShort => out.extend(day.bytes().take(3)),
            Word::Month => out.extend_from_slice(month.as_bytes()),
            Word::MonthShort => out.extend(month.bytes().take(3)),
            Word::Zone => match zone.zip(Timestamp::from_second(self.epoch).ok()) {
                Some((zone, at)) => {
                    out.extend_from_slice(zone.to_offset_info(at).abbreviation().as_bytes());
                }
                None => out.extend_from_slice(b"UTC"),
            },
        }
        if case == Case::Upper {
            out.iter_mut().skip(start).for_each(u8::make_ascii_uppercase);
        }
    }
}

fn offset_seconds(zone: &TimeZone, epoch: i64) -> i32 {
    Timestamp::from_second(epoch).map_or(0, |at| zone.to_offset(at).seconds())
}

fn write_number(out: &mut Vec<u8>, value: i64, pad: Pad, width: usize) {
    // Writing to a vector cannot fail.
    let _ = match pad {
        Pad::Zero => write!(out, "{value:0width$}"),
        Pad::Space => write!(out, "{value:width$}"),
        Pad::None => write!(out, "{value}"),
    };
}

/// Days from the epoch to the first of January of `year` (proleptic Gregorian calendar).
fn days_before(year: i64) -> i64 {
    let past = year - 1;
    past * 365 + past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400) - 719_162
}

/// Year, month (1-12) and day (1-31) of a number of days since the epoch.
fn civil(days: i64) -> (i64, usize, i64) {
    // Count from the first of March of year 0, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, usize::try_from(month).unwrap_or(1), day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn render(pattern: &str, nanos: u64) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(pattern, Zone::Utc)
            .unwrap()
            .render(UNIX_EPOCH + Duration::from_nanos(nanos), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Expected texts were printed by Envoy 1.40 for the same moment.
    #[test]
    fn patterns_print_what_envoy_prints() {
        let at = 1_795_365_715_107_341_000;
        for (pattern, expected) in [
            ("", "2026-11-22T16:41:55.107Z"),
            ("%s.%3f", "1795365715.107"),
            ("%s%9f %f %1f", "1795365715107341000 107341000 1"),
            ("%Y/%m/%dT%H:%M:%S%z %Z %s", "2026/11/22T16:41:55+0000 UTC 1795365715"),
            (
                "%E3S %E*S %ET %E4Y %Ez %ES %OS %-d %_d %^a %Q",
                "55.107 55.107341 T 2026 +00:00 %ES 55 22 22 SUN %Q",
            ),
            (
                "%c|%x|%X|%D|%r|%R|%T|%F|%h|%G|%g|%V|%U|%W|%u|%w|%j|%I|%l|%k|%p|%P|%C|%e|%y",
                "Sun Nov 22 16:41:55 2026|11/22/26|16:41:55|11/22/26|04:41:55 PM|16:41|16:41:55|2026-11-22|Nov|2026|26\
                 |47|47|46|7|0|326|04| 4|16|PM|pm|20|22|26",
            ),
            ("%", "%"),
        ] {
            assert_eq!(render(pattern, at), expected, "{pattern}");
        }
    }

    #[test]
    fn calendar_edges() {
        assert_eq!(render("%F %j %G-%V %U %W", 0), "1970-01-01 001 1970-01 00 00");
        let day = 86_400_000_000_000;
        // 2021-01-03 is a Sunday of ISO week 53 of 2020; 2024-12-30 is a Monday of week 1 of 2025.
        assert_eq!(render("%F %G-%V", 18_630 * day), "2021-01-03 2020-53");
        assert_eq!(render("%F %G-%V", 20_087 * day), "2024-12-30 2025-01");
        assert_eq!(render("%F", 11_016 * day), "2000-02-29");
    }

    #[test]
    fn newlines_are_refused() {
        assert!(TimeFormat::parse("%Y%n", Zone::Utc).is_err());
        assert!(TimeFormat::parse("%Y\n", Zone::Utc).is_err());
    }
}
