//! Lengths of time as people write them: a whole number with a unit, `90s`, `15m`, `2h`, `30d`.

use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

/// Suffix, seconds, and how many digits the number may have.
const UNITS: [(&str, u64, usize); 4] = [("d", 86_400, 5), ("h", 3600, 6), ("m", 60, 8), ("s", 1, 10)];

/// What [`Span`] accepts, as the schema says it.
pub const PATTERN: &str = "^(0s|[1-9]([0-9]{0,4}d|[0-9]{0,5}h|[0-9]{0,7}m|[0-9]{0,9}s))$";

/// The seconds of a day.
pub const DAY: u64 = 86_400;

/// The rule that a field holds a span of so many seconds at least and at the most.
pub fn between(least: u64, most: u64) -> Rule {
    let number = "int(self.substring(0, self.size() - 1))";
    let seconds = format!("{number} * (self.endsWith('d') ? 86400 : self.endsWith('h') ? 3600 : self.endsWith('m') ? 60 : 1)");
    let (shortest, longest) = (Span(least), Span(most));
    Rule::new(format!("{seconds} >= {least} && {seconds} <= {most}"))
        .message(&*format!("expected a length of time from {shortest} to {longest}, such as 15m"))
}

/// A length of time in whole seconds, written with one unit (`s`, `m`, `h`, `d`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(u64);

/// The text is no length of time.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a length of time: expected a whole number with s, m, h or d, such as 15m")]
pub struct ParseSpanError(String);

impl Span {
    /// So many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds)
    }

    /// Whole seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The same as the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl FromStr for Span {
    type Err = ParseSpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseSpanError(text.to_owned());
        if text == "0s" {
            return Ok(Self(0));
        }
        let (number, seconds, digits) = UNITS
            .iter()
            .find_map(|(suffix, seconds, digits)| text.strip_suffix(suffix).map(|number| (number, *seconds, *digits)))
            .ok_or_else(error)?;
        if number.is_empty() || number.starts_with('0') || number.len() > digits || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let number: u64 = number.parse().map_err(|_| error())?;
        Ok(Self(number * seconds))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let (suffix, unit, _) = UNITS
            .into_iter()
            .find(|(_, unit, digits)| self.0.is_multiple_of(*unit) && self.0 / unit < 10_u64.pow(*digits as u32))
            .unwrap_or(UNITS[3]);
        write!(f, "{}{suffix}", self.0 / unit)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 11, "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_span_written_and_read_again_is_the_same(seconds in 0u64..9_999_999_999) {
            let span = Span::from_secs(seconds);
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
    }

    #[test]
    fn spans_are_written_as_people_write_them() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("30d", 2_592_000), ("0s", 0)] {
            assert_eq!((text.parse::<Span>().unwrap(), Span::from_secs(seconds).to_string()), (Span(seconds), text.to_owned()));
        }
        for text in ["", "s", "5", "-1s", "01s", "1.5h", "1w", "100000d", "m5"] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains("such as 15m"), "{error}");
        }
    }
}
