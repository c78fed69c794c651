//! Amounts of memory and disk as people write them: a whole number with a binary unit, `512Mi`, `2Gi`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{borrow::Cow, fmt, str::FromStr};

/// Suffix, bytes, and how many digits the number may have, so that no amount that the pattern admits overflows.
const UNITS: [(&str, u64, usize); 4] = [("Ti", 1 << 40, 4), ("Gi", 1 << 30, 7), ("Mi", 1 << 20, 10), ("Ki", 1 << 10, 13)];

/// What [`Memory`] accepts, as the schema says it.
pub const PATTERN: &str = "^(0|[1-9]([0-9]{0,3}Ti|[0-9]{0,6}Gi|[0-9]{0,9}Mi|[0-9]{0,12}Ki))$";

/// [`PATTERN`] without zero, for what cannot be nothing.
pub const POSITIVE_PATTERN: &str = "^[1-9]([0-9]{0,3}Ti|[0-9]{0,6}Gi|[0-9]{0,9}Mi|[0-9]{0,12}Ki)$";

/// A number of bytes, written with a binary unit (`Ki`, `Mi`, `Gi`, `Ti`), the subset of Kubernetes quantities that
/// names memory without ambiguity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory(pub u64);

/// The text is no amount of memory.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an amount of memory: expected a whole number with Ki, Mi, Gi or Ti, such as 512Mi")]
pub struct ParseMemoryError(String);

impl Memory {
    /// This many mebibytes.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whole mebibytes, rounded down.
    pub const fn mib(self) -> u64 {
        self.0 >> 20
    }
}

impl FromStr for Memory {
    type Err = ParseMemoryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseMemoryError(text.to_owned());
        if text == "0" {
            return Ok(Self(0));
        }
        let (number, unit, digits) = UNITS
            .iter()
            .find_map(|(suffix, unit, digits)| text.strip_suffix(suffix).map(|number| (number, *unit, *digits)))
            .ok_or_else(error)?;
        if number.starts_with('0') || number.len() > digits || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(unit).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Memory {
    /// The largest unit that divides the amount; a remainder below one `Ki` is dropped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            return f.write_str("0");
        }
        let whole = self.0 & !1023;
        match UNITS.iter().find(|(_, unit, _)| whole.is_multiple_of(*unit)) {
            Some((suffix, unit, _)) => write!(f, "{}{suffix}", whole / unit),
            None => f.write_str("0"),
        }
    }
}

impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Memory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Memory {
    fn schema_name() -> Cow<'static, str> {
        "Memory".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_amount_of_memory_is_refused_with_an_example() {
        for text in ["", "-1Gi", "1", "0Gi", "1.5Gi", "Gi", "1GB", "99999999Gi", "99999Ti", " 1Gi", "01Gi"] {
            let error = text.parse::<Memory>().unwrap_err().to_string();
            assert!(error.contains("512Mi"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn an_amount_written_and_read_again_is_the_same(kib in 0u64..9_999_999_999_999) {
            let memory = Memory(kib << 10);
            prop_assert_eq!(memory.to_string().parse::<Memory>().unwrap(), memory);
        }
    }
}
