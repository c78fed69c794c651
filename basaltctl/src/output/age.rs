//! Ages and durations as an operator reads and writes them: `88d`, `3d4h`, `5m3s`.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// A duration in at most two units, as kubectl prints it.
pub fn short(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{unit}") } else { format!("{big}{unit}{small}{small_unit}") }
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () => format!("{days}d"),
    }
}

/// How long ago `then`, an RFC 3339 time, was at `now`; `None` if it is not a time.
pub fn since(then: &str, now: Timestamp) -> Option<String> {
    let then: Timestamp = then.parse().ok()?;
    Some(short(now.duration_since(then)))
}

/// Reads a duration such as `30s`, `1m30s` or `2h`, or a number of seconds.
pub fn parse(text: &str) -> Result<Duration, String> {
    let accepted = || format!("{text:?} is not a duration: write 30s, 1m30s, 2h, or a number of seconds");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let duration: SignedDuration = text.parse().map_err(|_| accepted())?;
    Duration::try_from(duration).map_err(|_| accepted())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_like_kubectls() {
        let ages = [0, 59, 119, 125, 300, 605, 7200, 10800 + 900, 100_000, 3 * 86400 + 4 * 3600, 88 * 86400];
        let texts: Vec<String> = ages.map(|s| short(SignedDuration::from_secs(s))).into();
        assert_eq!(texts, ["0s", "59s", "119s", "2m5s", "5m", "10m", "120m", "3h15m", "27h", "3d4h", "88d"]);
    }

    #[test]
    fn durations_are_read_with_and_without_units() {
        assert_eq!(parse("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        assert!(parse("soon").is_err() && parse("-3s").is_err());
    }
}
