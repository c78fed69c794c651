//! The programs of a fleet as processes: started in the background with a log and a pid file, found again, ended.

use super::{Error, fleet::Dir};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    ffi::OsString,
    fs, io,
    os::unix::{fs::OpenOptionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};
use tokio::time::Instant;

/// How long a program may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(15);
/// How often a process is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// How many lines of a log an error shows.
const TAIL: usize = 12;

/// Starts a program in the background and notes its pid. Its output is added to its log.
pub fn start(dir: &Dir, name: &str, command: &[OsString]) -> Result<i32, Error> {
    let log = dir.log(name);
    let file = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { action, path, source }
    };
    let out = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&log).map_err(file("open", &log))?;
    let both = out.try_clone().map_err(file("open", &log))?;
    let (program, args) = command.split_first().ok_or_else(|| Error::Program {
        program: name.into(),
        problem: "has no command line".into(),
        log: log.clone(),
        tail: Vec::new(),
    })?;
    // A process group of its own: Ctrl-C at the terminal is not for it.
    let child = Command::new(program).args(args).stdin(Stdio::null()).stdout(out).stderr(both).process_group(0).spawn();
    let child = child.map_err(file("start", Path::new(program)))?;
    let pid = i32::try_from(child.id()).unwrap_or(-1);
    let pid_file = dir.pid_file(name);
    fs::write(&pid_file, format!("{pid}\n")).map_err(file("write", &pid_file))?;
    Ok(pid)
}

/// The pid of a program of the fleet, if it runs. A pid that has become another program's is not taken for it: the
/// command line of every program of a fleet names the fleet's directory.
pub fn running(dir: &Dir, name: &str) -> Option<i32> {
    let pid: i32 = fs::read_to_string(dir.pid_file(name)).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let wanted = dir.path().as_os_str().as_encoded_bytes();
    // A process that is only now becoming its program has no command line yet, and one that was not waited for has none any more.
    let becoming = command.is_empty() && lives(pid);
    (becoming || command.windows(wanted.len()).any(|part| part == wanted)).then_some(pid)
}

/// Ends a program: asks, waits, and kills if that does not help. Says whether it ran.
pub async fn stop(dir: &Dir, name: &str) -> Result<bool, Error> {
    let Some(pid) = running(dir, name) else {
        remove_pid_file(dir, name)?;
        return Ok(false);
    };
    signal(pid, Signal::SIGTERM);
    let deadline = Instant::now() + GRACE;
    while running(dir, name) == Some(pid) {
        if Instant::now() > deadline {
            eprintln!("{name} (pid {pid}) does not end; killed");
            signal(pid, Signal::SIGKILL);
        }
        tokio::time::sleep(LOOK).await;
    }
    remove_pid_file(dir, name)?;
    Ok(true)
}

/// Kills processes at once and waits until they are gone.
pub async fn kill_all(pids: &[i32]) {
    for pid in pids {
        signal(*pid, Signal::SIGKILL);
    }
    let deadline = Instant::now() + GRACE;
    while Instant::now() < deadline && pids.iter().any(|pid| lives(*pid)) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a process exists and has not merely been left to be waited for.
fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the program name, which may itself hold spaces and brackets.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn signal(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => tracing::warn!(pid, %signal, "cannot signal a process: {errno}"),
    }
}

fn remove_pid_file(dir: &Dir, name: &str) -> Result<(), Error> {
    let path = dir.pid_file(name);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File { action: "remove", path, source }),
        _ => Ok(()),
    }
}

/// The error for a program that ended or did not become ready, with the end of its log.
pub fn failed(dir: &Dir, name: &str, problem: impl Into<String>) -> Error {
    let log = dir.log(name);
    let text = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(TAIL)..].iter().map(|line| (*line).to_owned()).collect();
    Error::Program { program: name.into(), problem: problem.into(), log, tail }
}
