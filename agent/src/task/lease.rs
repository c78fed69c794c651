//! The lease of an attempt, on the host's own clock: how long it may go on without a word from the gateway.
//!
//! A renewal counts from when its sign of life was sent, not from when it came: the gateway may have answered, and given the
//! attempt up, long before the answer got through.

use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// How many signs of life may be without an answer and still be answered.
const OUTSTANDING: usize = 64;

/// A lease.
#[derive(Debug)]
pub struct Lease {
    length: Duration,
    ends: Instant,
    next: u64,
    sent: VecDeque<(u64, Instant)>,
}

impl Lease {
    /// A lease that has not been renewed yet; it ends by itself like any other.
    pub fn new(length: Duration, now: Instant) -> Self {
        Self { length, ends: now + length, next: 0, sent: VecDeque::new() }
    }

    /// Notes that a sign of life is sent now, and gives it its number.
    pub fn sign(&mut self, now: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        self.sent.push_back((number, now));
        if self.sent.len() > OUTSTANDING {
            self.sent.pop_front();
        }
        number
    }

    /// Takes a renewal and says whether it is one: a number that was never sent, or was answered before, counts for nothing.
    pub fn renew(&mut self, number: u64) -> bool {
        let Some(at) = self.sent.iter().position(|(sent, _)| *sent == number) else { return false };
        // Answers come in order: earlier ones are renewed by this one too.
        if let Some((_, sent)) = self.sent.drain(..=at).next_back() {
            self.ends = self.ends.max(sent + self.length);
        }
        true
    }

    /// When the attempt has to be stopped.
    pub fn ends(&self) -> Instant {
        self.ends
    }

    /// How often signs of life are sent.
    pub fn period(&self) -> Duration {
        self.length / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_counts_from_when_its_sign_of_life_was_sent() {
        let begin = Instant::now();
        let after = |seconds| begin + Duration::from_secs(seconds);
        let mut lease = Lease::new(Duration::from_secs(30), begin);
        assert_eq!((lease.sign(after(0)), lease.sign(after(10)), lease.sign(after(20))), (0, 1, 2));
        assert!(lease.renew(1));
        assert_eq!(lease.ends(), after(40));
        // Old, unknown and repeated answers change nothing.
        for number in [0, 1, 7, u64::MAX] {
            assert!(!lease.renew(number));
            assert_eq!(lease.ends(), after(40));
        }
        assert!(lease.renew(2));
        assert_eq!(lease.ends(), after(50));
    }
}
