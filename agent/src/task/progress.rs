//! How far an attempt is: never backward, never past the total, with the rate of late and the time that is left at it.

use basalt_api::task::Progress;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// What "of late" means.
const WINDOW: Duration = Duration::from_secs(10);
/// How far apart the moments are that the rate is taken from.
const APART: Duration = Duration::from_millis(200);

/// What an operation says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// How much is done.
    pub done: u64,
    /// How much there is to do.
    pub total: Option<u64>,
    /// What is counted.
    pub unit: &'static str,
}

/// Makes a Progress of what an operation says.
#[derive(Default)]
pub struct Meter {
    last: Option<Measure>,
    moments: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// Takes what an operation says now.
    pub fn take(&mut self, now: Instant, at: Timestamp, step: &str, mut measure: Measure) -> Progress {
        match &self.last {
            Some(last) if last.unit == measure.unit => measure.done = measure.done.max(last.done),
            Some(_) => self.moments.clear(),
            None => {}
        }
        measure.total = measure.total.map(|total| total.max(measure.done));
        if self.moments.back().is_none_or(|(then, _)| now.duration_since(*then) >= APART) {
            self.moments.push_back((now, measure.done));
        }
        while self.moments.len() > 2 && self.moments.front().is_some_and(|(then, _)| now.duration_since(*then) > WINDOW) {
            self.moments.pop_front();
        }
        let rate = self.moments.front().and_then(|(then, done)| {
            let elapsed = now.duration_since(*then);
            (elapsed >= APART).then(|| per_second(measure.done.saturating_sub(*done), elapsed))
        });
        let left = measure.total.map(|total| total - measure.done);
        let progress = Progress {
            step: step.to_owned(),
            done: measure.done,
            total: measure.total,
            unit: measure.unit.to_owned(),
            percent: measure.total.map(|total| percent(measure.done, total)),
            rate,
            eta_seconds: left.zip(rate).and_then(|(left, rate)| left.checked_div(rate)),
            updated_at: Time(at),
        };
        self.last = Some(measure);
        progress
    }
}

fn per_second(done: u64, elapsed: Duration) -> u64 {
    let rate = u128::from(done) * 1000 / elapsed.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

fn percent(done: u64, total: u64) -> u32 {
    // What has nothing to do is done.
    let percent = (u128::from(done) * 100).checked_div(u128::from(total)).unwrap_or(100);
    u32::try_from(percent).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(done: u64, total: u64) -> Measure {
        Measure { done, total: Some(total), unit: "bytes" }
    }

    #[test]
    fn progress_goes_neither_backward_nor_past_its_total() {
        let (mut meter, now) = (Meter::default(), Instant::now());
        let mut take = |done, total| {
            let progress = meter.take(now, Timestamp::UNIX_EPOCH, "s", bytes(done, total));
            (progress.done, progress.total, progress.percent)
        };
        assert_eq!(take(5, 10), (5, Some(10), Some(50)));
        assert_eq!(take(3, 10), (5, Some(10), Some(50)));
        assert_eq!(take(12, 10), (12, Some(12), Some(100)));
        assert_eq!(take(0, 0), (12, Some(12), Some(100)));
        assert_eq!(take(u64::MAX, u64::MAX), (u64::MAX, Some(u64::MAX), Some(100)));
    }

    #[test]
    fn rate_and_time_left_follow_the_last_seconds() {
        let (mut meter, begin) = (Meter::default(), Instant::now());
        let mut take = |second, done| meter.take(begin + Duration::from_secs(second), Timestamp::UNIX_EPOCH, "s", bytes(done, 10_000));
        assert_eq!(take(0, 0).rate, None);
        let steady = take(2, 2000);
        assert_eq!((steady.rate, steady.eta_seconds), (Some(1000), Some(8)));
        for second in 3..30 {
            take(second, 2000);
        }
        let stuck = take(30, 2000);
        assert_eq!((stuck.rate, stuck.eta_seconds), (Some(0), None));
    }
}
