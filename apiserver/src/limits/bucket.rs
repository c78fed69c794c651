//! A token bucket: so many requests a second on average, and some more at once.

use std::time::{Duration, Instant};

/// How fast requests may come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests a second on average; 0 is without limit.
    pub per_second: f64,
    /// Requests at once, after a pause.
    pub burst: f64,
}

impl Rate {
    /// As fast as they like.
    pub const UNLIMITED: Self = Self { per_second: 0.0, burst: 0.0 };

    /// So many a second, and twice as many at once after a pause; 0 is without limit.
    pub fn per_second(count: u32) -> Self {
        Self { per_second: count.into(), burst: f64::from(count) * 2.0 }
    }
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: rate.burst, filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.filled);
        self.tokens = (self.tokens + since.as_secs_f64() * self.rate.per_second).min(self.rate.burst);
        self.filled = self.filled.max(now);
    }

    /// Takes a token, or says how long it takes until there is one.
    pub fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if self.rate.per_second <= 0.0 {
            return Ok(());
        }
        self.fill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate.per_second))
    }

    /// Whether it is as a new one would be.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.tokens >= self.rate.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut bucket = Bucket::new(Rate { per_second: 10.0, burst: 3.0 }, start);
        let taken: Vec<bool> = (0..4).map(|_| bucket.take(start).is_ok()).collect();
        assert_eq!(taken, [true, true, true, false]);
        let wait = bucket.take(at(40)).unwrap_err();
        assert!((0.055..0.065).contains(&wait.as_secs_f64()), "{wait:?}");
        assert!(bucket.take(at(100)).is_ok() && bucket.take(at(100)).is_err());
        // A pause fills it to the burst and no further, and a clock that goes back gives nothing.
        assert_eq!((0..9).filter(|_| bucket.take(at(100_000)).is_ok()).count(), 3);
        assert!(bucket.take(at(0)).is_err() && !bucket.is_full(at(100_000)) && bucket.is_full(at(100_300)));
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let now = Instant::now();
        let mut bucket = Bucket::new(Rate::UNLIMITED, now);
        assert!((0..10_000).all(|_| bucket.take(now).is_ok()) && bucket.is_full(now));
    }
}
