//! What a host can do: an operation each, with its steps, and what it declares before it changes something.
//!
//! An operation asks often whether it is to go on, and ends when it is not; it never undoes by itself what it has declared. It
//! runs once: whether it may be run again by another attempt is for the api's `Operation::may_be_repeated` to say.

mod diagnostics;
mod image_pull;
pub mod os;
mod probe;
mod vm_snapshot;

use super::{Surroundings, attempt::Attempt, effect::Effect, log::Level, progress::Measure, record::Given};
use crate::files::FileError;
use async_trait::async_trait;
use basalt_api::task;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// What an operation has found or made.
pub type Results = BTreeMap<String, String>;

/// An operation ended before it was done.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It cannot be done now; the text says why.
    #[error("{0}")]
    Failed(String),
    /// This host cannot do it.
    #[error("{0}")]
    NotSupported(String),
    /// It was told to.
    #[error("it was stopped")]
    Cancelled,
}

impl From<FileError> for Ended {
    fn from(error: FileError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Something that a host can do.
#[async_trait]
pub trait Operation: Send + Sync {
    /// Its steps, in their order.
    fn steps(&self) -> Vec<String>;

    /// Does it.
    async fn run(&self, work: &Work) -> Result<Results, Ended>;
}

/// What an operation has in its hands: its attempt, its host, and the question whether it is to go on.
#[derive(Clone)]
pub struct Work {
    attempt: Arc<Attempt>,
    host: Arc<Surroundings>,
    cancel: CancellationToken,
    steps: Arc<[String]>,
}

impl Work {
    pub(super) fn new(attempt: Arc<Attempt>, host: Arc<Surroundings>, cancel: CancellationToken, steps: Vec<String>) -> Self {
        Self { attempt, host, cancel, steps: steps.into() }
    }

    /// The attempt as it was given.
    pub fn given(&self) -> Given {
        self.attempt.given()
    }

    /// The host.
    pub fn host(&self) -> &Surroundings {
        &self.host
    }

    /// A directory of the attempt's own, which goes when the gateway has heard of its end.
    pub fn dir(&self) -> &Path {
        self.attempt.journal.dir()
    }

    /// Enters a step, counted from 0.
    pub fn enter(&self, step: usize) -> Result<(), Ended> {
        self.check()?;
        let name = self.steps.get(step).cloned().unwrap_or_default();
        Ok(self.attempt.journal.change(|record| record.step = name)?)
    }

    /// Says how far it is.
    pub fn progress(&self, done: u64, total: u64, unit: &'static str) {
        self.attempt.measure(Measure { done, total: Some(total), unit });
    }

    /// Writes into the task's log.
    pub fn log(&self, level: Level, text: &str) {
        self.attempt.say(level, text);
    }

    /// Whether it is to go on.
    pub fn check(&self) -> Result<(), Ended> {
        if self.cancel.is_cancelled() { Err(Ended::Cancelled) } else { Ok(()) }
    }

    /// Waits for something that can be given up at any moment.
    pub async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Result<T, Ended> {
        self.cancel.run_until_cancelled(future).await.ok_or(Ended::Cancelled)
    }

    /// Waits.
    pub async fn sleep(&self, time: Duration) -> Result<(), Ended> {
        self.unless_stopped(tokio::time::sleep(time)).await
    }

    /// Says what is changed next. It is on disk when this returns.
    pub fn declare(&self, effect: Effect) -> Result<(), Ended> {
        self.check()?;
        Ok(self.attempt.journal.change(|record| record.effects.push(effect))?)
    }

    /// Takes back a change that has served its purpose.
    pub async fn undo(&self, effect: &Effect) -> Result<(), Ended> {
        effect.undo(&self.host).await.map_err(Ended::Failed)?;
        Ok(self.attempt.journal.change(|record| record.effects.retain(|declared| declared != effect))?)
    }

    /// Runs what reads or writes much, away from the threads that must not wait.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Ended> + Send + 'static) -> Result<T, Ended> {
        // It is waited for also when it is to stop: it asks for itself, and nothing of it may run on.
        tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|broken| Err(Ended::Failed(format!("a part of the operation broke: {broken}"))))
    }
}

/// The operation of an attempt.
pub fn parse(given: &Given) -> Result<Box<dyn Operation>, Ended> {
    let operation = serde_json::from_str(&given.operation).map_err(|error| {
        Ended::NotSupported(format!("This agent does not understand the operation; it may be older than the gateway: {error}"))
    })?;
    Ok(match operation {
        task::Operation::Probe(parameters) => Box::new(probe::Probe::new(parameters, given.attempt)?),
        task::Operation::ImagePull(parameters) => Box::new(image_pull::ImagePull::new(parameters, given)?),
        task::Operation::VmSnapshot(parameters) => Box::new(vm_snapshot::VmSnapshot::new(parameters, given)?),
        task::Operation::CollectDiagnostics(parameters) => Box::new(diagnostics::CollectDiagnostics::new(&parameters, given)),
        task::Operation::OsStage(parameters) => Box::new(os::OsStage(parameters)),
        task::Operation::OsApply(_) => Box::new(os::OsApply),
        task::Operation::OsRollback(_) => Box::new(os::OsRollback),
        coordinated @ (task::Operation::VmMigrate(_) | task::Operation::VmStop(_) | task::Operation::HostDrain(_)) => {
            return Err(Ended::NotSupported(format!("{} is not done by a host: the control plane does it", coordinated.name())));
        }
    })
}
