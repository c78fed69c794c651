//! Processes, told apart by when they started: a pid that was given to another program is never taken for ours.

use crate::vmm::VmmProcess;
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs, io,
    os::fd::{FromRawFd, OwnedFd},
    time::Duration,
};
use tokio::io::unix::AsyncFd;

/// How often a process is looked at whose end the kernel cannot tell of.
const LOOK: Duration = Duration::from_millis(200);

/// The process of a pid, unless it has ended.
pub fn identify(pid: i32) -> Option<VmmProcess> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in brackets and may itself hold spaces and brackets; the fields follow the last one.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    // The state is field 3 of the line, the start time field 22 (proc_pid_stat(5)).
    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }
    Some(VmmProcess { pid, start_time: fields.get(19)?.parse().ok()? })
}

/// Whether a process still runs.
pub fn lives(process: &VmmProcess) -> bool {
    identify(process.pid).as_ref() == Some(process)
}

/// Kills a process; fine if it has ended.
pub fn kill_now(process: &VmmProcess) -> io::Result<()> {
    if !lives(process) {
        return Ok(());
    }
    match kill(Pid::from_raw(process.pid), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Resolves when a process has ended, as soon as the kernel says so.
pub async fn exited(process: &VmmProcess) {
    if let Some(descriptor) = pidfd(process.pid).filter(|_| lives(process))
        // SAFETY: the descriptor is owned by what watches it, and stays open as long as that lives.
        && let Ok(watched) = unsafe { AsyncFd::register(descriptor) }
    {
        // Readable means ended.
        let _ = watched.readable().await;
        return;
    }
    while lives(process) {
        tokio::time::sleep(LOOK).await;
    }
}

fn pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and touches no memory of ours; what it returns is a new descriptor or an error.
    let fd = unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the descriptor was just made and nobody else has it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[tokio::test]
    async fn the_end_of_a_process_is_told_and_its_pid_is_not_taken_for_another() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = identify(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(lives(&process));
        let reused = VmmProcess { start_time: process.start_time + 1, ..process.clone() };
        assert!(!lives(&reused));
        kill_now(&reused).unwrap();
        assert!(lives(&process), "a process of the same pid but another start is not ours to kill");
        kill_now(&process).unwrap();
        exited(&process).await;
        // A process that nobody has waited for yet has ended all the same.
        assert!(!lives(&process));
        child.wait().unwrap();
    }
}
