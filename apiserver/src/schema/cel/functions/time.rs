//! Times and durations.

use super::{Function, global, member};
use crate::schema::cel::{Failure, Val};
use jiff::{
    Timestamp, Zoned,
    civil::Date,
    tz::{Offset, TimeZone},
};

type Made<'a> = Result<Option<Val<'a>>, Failure>;

pub const FUNCTIONS: &[Function] = &[
    global("timestamp", 1..=1, |_, args| match &args[0] {
        time @ Val::Time(_) => Ok(Some(time.clone())),
        Val::Text(text) => text.parse().map(|time| Some(Val::Time(time))).map_err(|_| Failure::wrong("it is no timestamp")),
        Val::Int(seconds) => {
            Timestamp::from_second(*seconds).map(|time| Some(Val::Time(time))).map_err(|_| Failure::wrong("timestamp overflow"))
        }
        _ => Ok(None),
    }),
    global("duration", 1..=1, |_, args| match &args[0] {
        duration @ Val::Duration(_) => Ok(Some(duration.clone())),
        Val::Text(text) => parse_duration(text).map(|nanos| Some(Val::Duration(nanos))).ok_or_else(|| Failure::wrong("it is no duration")),
        _ => Ok(None),
    }),
    member("getFullYear", 1..=2, |_, args| of_time(args, |time| i64::from(time.year()))),
    member("getMonth", 1..=2, |_, args| of_time(args, |time| i64::from(time.month()) - 1)),
    member("getDate", 1..=2, |_, args| of_time(args, |time| i64::from(time.day()))),
    member("getDayOfMonth", 1..=2, |_, args| of_time(args, |time| i64::from(time.day()) - 1)),
    member("getDayOfWeek", 1..=2, |_, args| of_time(args, |time| i64::from(time.weekday().to_sunday_zero_offset()))),
    member("getDayOfYear", 1..=2, |_, args| of_time(args, |time| i64::from(time.day_of_year()) - 1)),
    member("getHours", 1..=2, |_, args| of_either(args, |time| i64::from(time.hour()), |nanos| nanos / HOUR)),
    member("getMinutes", 1..=2, |_, args| of_either(args, |time| i64::from(time.minute()), |nanos| nanos / MINUTE)),
    member("getSeconds", 1..=2, |_, args| of_either(args, |time| i64::from(time.second()), |nanos| nanos / SECOND)),
    member("getMilliseconds", 1..=2, |_, args| of_either(args, |time| i64::from(time.millisecond()), |nanos| nanos / 1_000_000)),
];

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

fn of_time<'a>(args: &[Val<'a>], ask: fn(&Zoned) -> i64) -> Made<'a> {
    let (time, zone) = match args {
        [Val::Time(time)] => (time, TimeZone::UTC),
        [Val::Time(time), Val::Text(name)] => {
            let zone = offset(name).or_else(|| TimeZone::get(name).ok());
            (time, zone.ok_or_else(|| Failure::wrong("there is no such time zone"))?)
        }
        _ => return Ok(None),
    };
    Ok(Some(Val::Int(ask(&time.to_zoned(zone)))))
}

fn of_either<'a>(args: &[Val<'a>], of_a_time: fn(&Zoned) -> i64, of_a_duration: fn(i64) -> i64) -> Made<'a> {
    match args {
        [Val::Duration(nanos)] => Ok(Some(Val::Int(of_a_duration(*nanos)))),
        args => of_time(args, of_a_time),
    }
}

/// A text is a duration or a timestamp.
pub fn is_one(kind: &str, text: &str) -> bool {
    if kind == "duration" { parse_duration(text).is_some() } else { text.parse::<Timestamp>().is_ok() }
}

/// `+01:00`, `-3:30`.
fn offset(text: &str) -> Option<TimeZone> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    if !(0..24).contains(&hours) || !(0..60).contains(&minutes) {
        return None;
    }
    Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok().map(TimeZone::fixed)
}

/// The start of a day.
pub fn midnight(date: Date) -> Option<Timestamp> {
    date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// Nanoseconds of `1h30m`, `1.5s`, `-20ms`.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() || rest.len() > 64 {
        return None;
    }
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(unit_at);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, beyond) = after.split_at(end);
        let unit = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => MINUTE,
            "h" => HOUR,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let digits: String = fraction.chars().take(18).collect();
        if !digits.is_empty() {
            let part = digits.parse::<i128>().ok()? * i128::from(unit) / 10i128.pow(digits.len() as u32);
            total = total.checked_add(i64::try_from(part).ok()?)?;
        }
        rest = beyond;
    }
    if negative { total.checked_neg() } else { Some(total) }
}

/// A duration as the language writes it: in seconds.
pub fn seconds(nanos: i64) -> String {
    let (whole, part) = (nanos.unsigned_abs() / SECOND.unsigned_abs(), nanos.unsigned_abs() % SECOND.unsigned_abs());
    let sign = if nanos < 0 { "-" } else { "" };
    if part == 0 {
        return format!("{sign}{whole}s");
    }
    let part = format!("{part:09}");
    format!("{sign}{whole}.{}s", part.trim_end_matches('0'))
}
