//! Probe: a bounded self-test of the host, and the way to try tasks out.

use super::{Ended, Operation, Results, Work};
use crate::task::{effect::Effect, log::Level};
use async_trait::async_trait;
use basalt_api::task;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
    time::Duration,
};

/// How many steps a probe has at the most.
const MOST_STEPS: u32 = 1000;
/// How much a step writes at the most.
const MOST_BYTES: u64 = 1 << 30;
/// How much is written before it is asked again whether to go on.
const BLOCK: usize = 1 << 20;

/// A probe of one attempt.
pub struct Probe {
    parameters: task::Probe,
    attempt: u32,
}

impl Probe {
    /// A probe within its bounds.
    pub fn new(parameters: task::Probe, attempt: u32) -> Result<Self, Ended> {
        if parameters.steps > MOST_STEPS || parameters.write_bytes > MOST_BYTES {
            return Err(Ended::Failed(format!("A probe has at most {MOST_STEPS} steps that write at most {MOST_BYTES} bytes each")));
        }
        Ok(Self { parameters, attempt })
    }

    fn fails_at(&self, step: u32) -> bool {
        self.parameters.fail_at == Some(step) && self.parameters.fail_attempts.is_none_or(|attempts| self.attempt <= attempts)
    }
}

#[async_trait]
impl Operation for Probe {
    fn steps(&self) -> Vec<String> {
        (1..=self.parameters.steps).map(|step| format!("step {step} of {}", self.parameters.steps)).collect()
    }

    async fn run(&self, work: &Work) -> Result<Results, Ended> {
        let task::Probe { steps, step_milliseconds, write_bytes, silent, .. } = self.parameters;
        for step in 1..=steps {
            work.enter(step as usize - 1)?;
            if !silent {
                work.log(Level::Info, &format!("Step {step} of {steps} begins"));
                work.progress(u64::from(step) - 1, u64::from(steps), "steps");
            }
            if self.fails_at(step) {
                return Err(Ended::Failed(format!("Step {step} failed, as the task asks for")));
            }
            if write_bytes > 0 {
                let path = work.dir().join("probe");
                let written = Effect::File { path: path.clone() };
                work.declare(written.clone())?;
                let asked = work.clone();
                work.blocking(move || write_and_compare(&path, write_bytes, &asked)).await?;
                work.sleep(Duration::from_millis(step_milliseconds.into())).await?;
                work.undo(&written).await?;
            } else {
                work.sleep(Duration::from_millis(step_milliseconds.into())).await?;
            }
        }
        if !silent {
            work.progress(steps.into(), steps.into(), "steps");
            work.log(Level::Info, "All steps are done");
        }
        let results = [("steps", u64::from(steps)), ("bytesWritten", u64::from(steps) * write_bytes)];
        Ok(results.into_iter().map(|(name, count)| (name.to_owned(), count.to_string())).collect())
    }
}

/// A block whose content says which one it is.
fn block(index: u64) -> Vec<u8> {
    let mut block = Vec::with_capacity(BLOCK);
    for word in 0..(BLOCK / 8) as u64 {
        block.extend_from_slice(&(index << 32 | word).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    block
}

fn write_and_compare(path: &Path, bytes: u64, work: &Work) -> Result<(), Ended> {
    let failed = |action: &str, error: io::Error| Ended::Failed(format!("cannot {action} {}: {error}", path.display()));
    let mut file = File::options().read(true).write(true).create(true).truncate(true).open(path).map_err(|error| failed("make", error))?;
    let blocks = || (0..bytes.div_ceil(BLOCK as u64)).map(|index| (index, (bytes - index * BLOCK as u64).min(BLOCK as u64) as usize));
    for (index, length) in blocks() {
        work.check()?;
        file.write_all(&block(index)[..length]).map_err(|error| failed("write", error))?;
    }
    file.sync_all().map_err(|error| failed("write", error))?;
    // What is compared comes from the disk, as far as the kernel heeds the wish.
    let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    file.rewind().map_err(|error| failed("read", error))?;
    let mut read = vec![0; BLOCK];
    for (index, length) in blocks() {
        work.check()?;
        file.read_exact(&mut read[..length]).map_err(|error| failed("read", error))?;
        if read[..length] != block(index)[..length] {
            return Err(Ended::Failed(format!("{}: the block at byte {} is not what was written", path.display(), index * BLOCK as u64)));
        }
    }
    Ok(())
}
