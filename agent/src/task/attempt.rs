//! One attempt, as those see it who run it and those who tell the gateway of it.

use super::{
    lease::Lease,
    log::{Level, Log},
    progress::{Measure, Meter},
    record::{Given, Journal, Token},
};
use crate::files::FileError;
use basalt_api::task::{Progress, Reported};
use jiff::Timestamp;
use std::{
    path::Path,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

/// An attempt that the host has a record of.
pub struct Attempt {
    pub(super) journal: Journal,
    pub(super) log: Log,
    lease: Mutex<Lease>,
    meter: Mutex<(Meter, Option<Progress>)>,
    /// The gateway has renewed the lease: the attempt had not been given up before it could begin.
    pub(super) confirmed: CancellationToken,
    /// The attempt is to stop, for the reason in `why`.
    pub(super) stop: CancellationToken,
    why: OnceLock<String>,
    /// The gateway needs to hear no more.
    pub(super) settled: CancellationToken,
    /// There is something to tell.
    pub(super) news: Notify,
}

impl Attempt {
    /// A new attempt; its record is on disk when this returns.
    pub fn begin(tasks: &Path, token: Token, given: Given) -> Result<Self, FileError> {
        Self::of(Journal::begin(tasks, token, given, Timestamp::now())?)
    }

    /// The attempt of a record.
    pub fn of(journal: Journal) -> Result<Self, FileError> {
        let log = Log::open(journal.dir())?;
        let lease = Lease::new(journal.record().given.lease(), Instant::now());
        Ok(Self {
            journal,
            log,
            lease: Mutex::new(lease),
            meter: Mutex::default(),
            confirmed: CancellationToken::new(),
            stop: CancellationToken::new(),
            why: OnceLock::new(),
            settled: CancellationToken::new(),
            news: Notify::new(),
        })
    }

    pub(super) fn lease(&self) -> MutexGuard<'_, Lease> {
        // A lease that is half renewed is not renewed.
        self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn renew(&self, number: u64) {
        if self.lease().renew(number) {
            self.confirmed.cancel();
        }
    }

    /// Stops it, unless it is being stopped for another reason.
    pub(super) fn stop(&self, why: &str) {
        let _ = self.why.set(why.to_owned());
        self.stop.cancel();
    }

    pub(super) fn why_stopped(&self) -> &str {
        self.why.get().map_or("", String::as_str)
    }

    /// The gateway needs to hear no more of it; should it run, it stops.
    pub(super) fn settle(&self) {
        self.stop("the gateway has given the attempt up");
        self.settled.cancel();
    }

    pub(super) fn say(&self, level: Level, text: &str) {
        self.log.add(level, &self.journal.record().step, text);
        self.news.notify_one();
    }

    pub(super) fn measure(&self, measure: Measure) {
        let step = self.journal.record().step;
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = meter.0.take(Instant::now(), Timestamp::now(), &step, measure);
        meter.1 = Some(progress);
        drop(meter);
        self.news.notify_one();
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// Notes how it ended: from here on nothing of it runs.
    pub(super) fn end(&self, reported: Reported) -> Result<(), FileError> {
        self.journal.change(|record| {
            record.effects.clear();
            record.ended = Some(reported);
        })?;
        self.news.notify_one();
        Ok(())
    }

    pub(super) fn given(&self) -> Given {
        self.journal.record().given
    }
}
