//! Other programs of the host: each call has a deadline, and a program never outlives the agent that waits for it.

use nix::sys::{prctl, signal::Signal};
use std::{ffi::OsStr, io, process::Stdio, time::Duration};
use tokio::process::Command;

/// A program did not do what it was called for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is not there.
    #[error("{0} is not installed (looked on PATH)")]
    NotInstalled(String),
    /// It cannot be started.
    #[error("cannot run `{command}`: {source}")]
    Start {
        /// With its arguments.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// It failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// With its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// Its last words.
        stderr: String,
    },
    /// It took too long and was ended.
    #[error("`{command}` had not ended after {seconds} s")]
    Late {
        /// With its arguments.
        command: String,
        /// How long it had.
        seconds: u64,
    },
}

/// What a program said.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// On its standard output.
    pub stdout: Vec<u8>,
    /// On its standard error.
    pub stderr: String,
}

/// Runs a program to its end; dropping the future kills it. `path` is where it is looked for.
pub async fn run(path: &OsStr, program: &str, args: &[&str], deadline: Duration) -> Result<Said, ProgramError> {
    let words = || std::iter::once(program).chain(args.iter().copied()).collect::<Vec<_>>().join(" ");
    tracing::debug!("{}", words());
    let mut command = Command::new(program);
    // bootc takes `container` for a sign that it runs in one, and then reports an empty host.
    command.args(args).env("PATH", path).env("LC_ALL", "C").env_remove("container").stdin(Stdio::null()).kill_on_drop(true);
    // SAFETY: between fork and exec the closure makes one system call and touches no memory that another thread may hold.
    unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)) };
    let output = match tokio::time::timeout(deadline, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => return Err(ProgramError::NotInstalled(program.to_owned())),
        Ok(Err(source)) => return Err(ProgramError::Start { command: words(), source }),
        Err(_) => return Err(ProgramError::Late { command: words(), seconds: deadline.as_secs() }),
    };
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        Ok(Said { stdout: output.stdout, stderr })
    } else {
        Err(ProgramError::Failed { command: words(), status: output.status.to_string(), stderr })
    }
}
