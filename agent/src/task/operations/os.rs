//! OsStage, OsApply and OsRollback: what the host boots next, by bootc, and that it boots it.

use super::{Ended, Operation, Results, Work};
use crate::{
    os::{self, OsError, OsImage},
    program::ProgramError,
    task::{Surroundings, effect::Effect, log::Level},
};
use async_trait::async_trait;
use basalt_api::task;
use std::convert::Infallible;

impl From<OsError> for Ended {
    fn from(error: OsError) -> Self {
        match error {
            OsError::NotSupported(why) => Self::NotSupported(why),
            other => Self::Failed(other.to_string()),
        }
    }
}

fn results(image: &OsImage, state: &str) -> Results {
    let mut results = Results::from([
        ("image".to_owned(), image.reference.clone()),
        ("digest".to_owned(), image.digest.clone()),
        ("state".to_owned(), state.to_owned()),
    ]);
    if let Some(version) = &image.version {
        results.insert("version".to_owned(), version.clone());
    }
    results
}

/// Has an image pulled and staged for the next boot.
pub struct OsStage(pub task::OsStage);

#[async_trait]
impl Operation for OsStage {
    fn steps(&self) -> Vec<String> {
        vec!["look".into(), "stage".into(), "verify".into()]
    }

    async fn run(&self, work: &Work) -> Result<Results, Ended> {
        let image = &self.0.image;
        if image.starts_with('-') {
            return Err(Ended::Failed(format!("{image:?} is no image")));
        }
        let path = work.host().path.clone();
        work.enter(0)?;
        work.progress(0, 3, "steps");
        let before = work.unless_stopped(os::status(&path)).await??;
        if let Some(staged) = before.staged.as_ref().filter(|staged| staged.reference == *image && image.contains('@')) {
            work.log(Level::Info, "The image is staged already");
            return Ok(results(staged, "Staged"));
        }
        work.enter(1)?;
        work.progress(1, 3, "steps");
        work.declare(Effect::OsStaged { image: image.clone(), before: before.staged.map(|staged| staged.reference) })?;
        let said = work.unless_stopped(os::stage(&path, image, &before.booted)).await??;
        work.log(Level::Info, &said);
        work.enter(2)?;
        work.progress(2, 3, "steps");
        let after = work.unless_stopped(os::status(&path)).await??;
        let found = match after.staged {
            Some(staged) if staged.reference == *image => results(&staged, "Staged"),
            None if after.booted.reference == *image => results(&after.booted, "Booted"),
            staged => {
                let staged = staged.map_or_else(|| "nothing".to_owned(), |staged| staged.reference);
                return Err(Ended::Failed(format!("bootc reported no error, but {staged} is staged")));
            }
        };
        work.progress(3, 3, "steps");
        Ok(found)
    }
}

/// Reboots a host on which no VM runs into what is staged, or back if a rollback is queued. The agent of the next boot says how it
/// ended ([`after_reboot`]).
pub struct OsApply;

#[async_trait]
impl Operation for OsApply {
    fn steps(&self) -> Vec<String> {
        vec!["look".into(), "wait for VMs".into(), "reboot".into()]
    }

    async fn run(&self, work: &Work) -> Result<Results, Ended> {
        let host = work.host();
        work.enter(0)?;
        let status = work.unless_stopped(os::status(&host.path)).await??;
        let next = match (status.staged, status.rollback) {
            (Some(staged), _) => staged,
            (None, Some(previous)) if status.rollback_queued => previous,
            _ => return Err(Ended::Failed("A reboot would change nothing: no OS image is staged, and no rollback is queued".into())),
        };
        work.enter(1)?;
        work.progress(1, 3, "steps");
        // No VM is started any more: this is held until the host has gone.
        let Some(_no_starts) = work.unless_stopped(host.doors.no_starts()).await? else { return Err(Ended::Cancelled) };
        let at_work = host.doors.board.at_work();
        if !at_work.is_empty() {
            let why = format!("{} VMs run here, the first is {}. Drain the host first: a HostDrain task", at_work.len(), at_work[0]);
            return Err(Ended::Failed(why));
        }
        work.enter(2)?;
        work.progress(2, 3, "steps");
        work.log(Level::Info, &format!("The host reboots into {}", next.reference));
        let (boot_id, image, digest) = (host.boot_id.clone(), next.reference, next.digest);
        work.declare(Effect::Reboot { boot_id, image, digest })?;
        os::reboot(&host.path).await.map_err(|error| match error {
            ProgramError::NotInstalled(program) => {
                Ended::NotSupported(format!("This host cannot be rebooted: there is no {program} on its PATH"))
            }
            other => Ended::Failed(other.to_string()),
        })?;
        // It ends with the agent.
        work.unless_stopped(std::future::pending::<Infallible>()).await.map(|never| match never {})
    }
}

/// How an attempt ended that has rebooted its host, if this one has: by what the host has booted.
pub async fn after_reboot(effects: &[Effect], host: &Surroundings) -> Option<Result<Results, Ended>> {
    let (image, digest) = effects.iter().find_map(|effect| match effect {
        Effect::Reboot { boot_id, image, digest } if *boot_id != host.boot_id => Some((image, digest)),
        _ => None,
    })?;
    let status = match os::status(&host.path).await {
        Ok(status) => status,
        Err(error) => return Some(Err(Ended::Failed(format!("The host has rebooted, but what it booted is not known: {error}")))),
    };
    if status.booted.digest == *digest {
        return Some(Ok(results(&status.booted, "Booted")));
    }
    let returned = match status.rollback {
        Some(previous) if previous.digest == *digest => ": it ran and was taken back",
        _ => "",
    };
    Some(Err(Ended::Failed(format!("The host has rebooted, but into {}, and not into {image}{returned}", status.booted.reference))))
}

/// Has the next boot go back to the image before.
pub struct OsRollback;

#[async_trait]
impl Operation for OsRollback {
    fn steps(&self) -> Vec<String> {
        vec!["look".into(), "queue".into(), "verify".into()]
    }

    async fn run(&self, work: &Work) -> Result<Results, Ended> {
        let path = work.host().path.clone();
        work.enter(0)?;
        let before = work.unless_stopped(os::status(&path)).await??;
        let Some(previous) = before.rollback else { return Err(Ended::Failed("There is no OS image to go back to".into())) };
        if before.rollback_queued {
            work.log(Level::Info, "The next boot goes back already");
            return Ok(results(&previous, "Queued"));
        }
        if let Some(staged) = before.staged {
            let why = format!("{} is staged, and going back would discard it. Unstage it first: ostree admin undeploy 0", staged.reference);
            return Err(Ended::Failed(why));
        }
        work.enter(1)?;
        work.declare(Effect::RollbackQueued {})?;
        // It is short, and a toggle: whether it was heard is seen afterwards.
        os::toggle_rollback(&path).await?;
        work.enter(2)?;
        if !work.unless_stopped(os::status(&path)).await??.rollback_queued {
            return Err(Ended::Failed("bootc reported no error, but the next boot does not go back".into()));
        }
        work.log(Level::Info, &format!("The next boot goes back to {}", previous.reference));
        Ok(results(&previous, "Queued"))
    }
}
