//! `basaltctl backup FILE` and `basaltctl restore FILE`: all objects in one file, and back into an empty store.

use super::usage;
use crate::{cli::Global, connect::Server, discovery::get, error::Error, exit::Exit, output::Screen};
use clap::Args;
use futures::{AsyncReadExt, AsyncWriteExt, io::AllowStdIo};
use serde_json::Value;
use std::{
    ffi::OsString,
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// How long the last line of a backup is at most.
const TAIL: usize = 128;

/// Writes all objects of the cluster into a file, as of one revision.
#[derive(Debug, Args)]
pub struct Backup {
    /// The file, which must not exist; - for standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Puts the objects of a backup into the empty store of a gateway of this machine that does not run.
#[derive(Debug, Args)]
pub struct Restore {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the store is, as basalt-gateway takes it: --data-dir DIR, --store etcd --etcd-endpoints URL, --config FILE
    #[arg(last = true, value_name = "GATEWAY FLAGS")]
    gateway: Vec<OsString>,
}

impl Backup {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let server = Server::connect(global).await?;
        let mut backup = Box::pin(server.stream("make a backup", get("/backup")?).await?);
        if self.file == Path::new("-") {
            futures::io::copy(&mut backup, &mut AllowStdIo::new(io::stdout())).await.map_err(Error::Output)?;
            return Ok(());
        }
        if self.file.exists() {
            return Err(usage(format!("{} is there already", self.file.display()), "name a new file; a backup never replaces another"));
        }
        let unfinished = {
            let mut name = self.file.clone().into_os_string();
            name.push(".unfinished");
            PathBuf::from(name)
        };
        let failed = |source| Error::Write { what: unfinished.display().to_string(), source };
        // What it holds is for its owner alone.
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished).map_err(failed)?;
        let mut out = AllowStdIo::new(file);
        let (mut head, mut last, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut chunk = vec![0; 64 * 1024];
        let cut = loop {
            let part = match backup.read(&mut chunk).await {
                Ok(0) => break None,
                Ok(length) => &chunk[..length],
                Err(error) => break Some(error.to_string()),
            };
            if !head.contains(&b'\n') {
                head.extend_from_slice(part);
            }
            last.extend_from_slice(part);
            last.drain(..last.len().saturating_sub(TAIL));
            bytes += part.len();
            out.write_all(part).await.map_err(failed)?;
        };
        // Its last line says that it is whole.
        let whole = last.ends_with(b"\"}\n") && last.windows(8).any(|part| part == b"\"sha256\"");
        if let Some(reason) = cut.or_else(|| (!whole).then(|| "the line that ends a backup is missing".into())) {
            let _ = fs::remove_file(&unfinished);
            return Err(Error::CutOff { bytes, reason });
        }
        out.into_inner().sync_all().map_err(failed)?;
        fs::rename(&unfinished, &self.file).map_err(failed)?;
        let head: Value = serde_json::from_slice(head.split(|byte| *byte == b'\n').next().unwrap_or_default()).unwrap_or_default();
        screen.say(&format!("{}: {} objects as of revision {}, {bytes} bytes", self.file.display(), head["objects"], head["revision"]));
        Ok(())
    }
}

impl Restore {
    /// Runs the verb.
    pub fn run(&self, screen: &Screen) -> Result<(), Error> {
        let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("basalt-gateway")).filter(|program| program.is_file());
        let program = beside.unwrap_or_else(|| "basalt-gateway".into());
        let status = Command::new(&program).arg("--restore").arg(&self.file).args(&self.gateway).status();
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(_) => Err(Error::Told(Exit::Failed)),
            Err(error) => {
                screen.say(&format!("error: cannot run {}: {error}; run this on the machine of the gateway", program.display()));
                Err(Error::Told(Exit::Failed))
            }
        }
    }
}
