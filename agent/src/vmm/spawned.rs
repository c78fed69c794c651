//! A VMM process: started so that it outlives the agent, noted in its VM's directory, found again by that note.

use super::{VmDir, VmmError, VmmProcess};
use crate::{files, process};
use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Where the process is noted.
fn note(dir: &VmDir) -> PathBuf {
    dir.path().join("vmm.json")
}

/// Where the program's own words go.
fn log(dir: &VmDir) -> PathBuf {
    dir.path().join("vmm.log")
}

/// The last thing that a program said.
pub fn last_words(dir: &VmDir) -> String {
    let text = fs::read_to_string(log(dir)).unwrap_or_default();
    text.trim().lines().last().unwrap_or("it ended at once and said nothing").to_owned()
}

/// Starts a program in its VM's directory, in a process group of its own, and notes it.
pub fn start(program: &str, args: &[String], title: &str, dir: &VmDir, stdout: Option<fs::File>) -> Result<VmmProcess, VmmError> {
    let start = |reason: String| VmmError::Start { program: program.into(), vm: title.into(), reason };
    let path = log(dir);
    let errors = fs::File::create(&path).map_err(at("make", &path))?;
    let stdout = match stdout {
        Some(stdout) => stdout,
        None => errors.try_clone().map_err(at("open", &path))?,
    };
    let mut command = Command::new(program);
    command.args(args).current_dir(dir.path()).stdin(Stdio::null()).stdout(stdout).stderr(errors).process_group(0);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => VmmError::NotInstalled { program: program.into() },
        _ => start(e.to_string()),
    })?;
    let process = i32::try_from(child.id()).ok().and_then(process::identify);
    // Reaped as soon as it ends, as long as this agent lives; after that it is init's.
    std::thread::spawn(move || child.wait());
    let process = process.ok_or_else(|| start(last_words(dir)))?;
    let content = serde_json::to_vec(&process).map_err(|e| start(e.to_string()))?;
    files::write(&note(dir), &content, 0o600).map_err(|e| start(e.to_string()))?;
    Ok(process)
}

/// The noted process, if it still runs.
pub fn find(dir: &VmDir) -> Result<Option<VmmProcess>, VmmError> {
    let path = note(dir);
    match fs::read(&path) {
        Ok(content) => Ok(serde_json::from_slice(&content).ok().filter(process::lives)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(at("read", &path)(e)),
    }
}

/// Waits for the process to end, which it was asked to, and kills it when it takes too long; then forgets it.
pub async fn end(process: &VmmProcess, patience: std::time::Duration, dir: &VmDir) -> Result<(), VmmError> {
    if tokio::time::timeout(patience, process::exited(process)).await.is_err() {
        process::kill_now(process).map_err(at("kill the process of", &note(dir)))?;
        process::exited(process).await;
    }
    Ok(())
}

/// Removes the note and other files of a VMM that has ended.
pub fn forget(dir: &VmDir, sockets: &[&str]) -> Result<(), VmmError> {
    for name in sockets.iter().chain(["vmm.json"].iter()) {
        let path = dir.path().join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at("remove", &path)(e)),
            _ => {}
        }
    }
    Ok(())
}

/// For `map_err` on files.
pub fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VmmError {
    let path = path.display().to_string();
    move |source| VmmError::File { action, path, source }
}
