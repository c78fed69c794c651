//! A simulator in place of a VMM, for tests of scale: it starts no process and runs no guest. What it pretends is in
//! `simulated.json` of the VM's directory, so that a new agent finds it; removing that file is the death of the VMM.

use super::{GuestState, Machine, VmCounters, VmDir, Vmm, VmmError, VmmProbe, VmmProcess};
use async_trait::async_trait;
use basalt_api::host::{Accelerator, VmmName};
use std::{fs, io, path::PathBuf, time::Duration};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// The simulator.
#[derive(Default)]
pub struct Simulated;

fn state_file(dir: &VmDir) -> PathBuf {
    dir.path().join("simulated.json")
}

fn write(dir: &VmDir, state: &str) -> Result<(), VmmError> {
    let path = state_file(dir);
    fs::write(&path, format!("{{\"simulated\":true,\"state\":\"{state}\"}}\n")).map_err(|source| VmmError::File {
        action: "write",
        path: path.display().to_string(),
        source,
    })
}

#[async_trait]
impl Vmm for Simulated {
    fn name(&self) -> VmmName {
        VmmName::Simulated
    }

    async fn probe(&self) -> Result<VmmProbe, VmmError> {
        Ok(VmmProbe { version: "simulator".into(), accelerator: Accelerator::Simulated })
    }

    async fn start(&self, machine: &Machine, dir: &VmDir) -> Result<VmmProcess, VmmError> {
        let line = format!("simulated: no guest runs for {}\n", machine.title);
        let log = dir.console_log();
        fs::write(&log, line).map_err(|source| VmmError::File { action: "write", path: log.display().to_string(), source })?;
        write(dir, "running")?;
        Ok(VmmProcess { pid: 0, start_time: 0 })
    }

    async fn adopt(&self, dir: &VmDir) -> Result<Option<VmmProcess>, VmmError> {
        Ok(state_file(dir).exists().then_some(VmmProcess { pid: 0, start_time: 0 }))
    }

    async fn state(&self, dir: &VmDir) -> Result<GuestState, VmmError> {
        let path = state_file(dir);
        let text =
            fs::read_to_string(&path).map_err(|source| VmmError::File { action: "read", path: path.display().to_string(), source })?;
        Ok(match text {
            text if text.contains("\"paused\"") => GuestState::Paused,
            text if text.contains("\"shutdown\"") => GuestState::Shutdown,
            text if text.contains("\"crashed\"") => GuestState::Crashed,
            _ => GuestState::Running,
        })
    }

    async fn resume(&self, dir: &VmDir) -> Result<(), VmmError> {
        write(dir, "running")
    }

    async fn pause(&self, dir: &VmDir) -> Result<(), VmmError> {
        write(dir, "paused")
    }

    async fn power_button(&self, dir: &VmDir) -> Result<(), VmmError> {
        write(dir, "shutdown")
    }

    async fn destroy(&self, dir: &VmDir) -> Result<(), VmmError> {
        let path = state_file(dir);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(VmmError::File { action: "remove", path: path.display().to_string(), source })
            }
            _ => Ok(()),
        }
    }

    async fn counters(&self, _: &VmDir) -> Result<VmCounters, VmmError> {
        Ok(VmCounters::default())
    }

    async fn changed(&self, dir: &VmDir, from: GuestState) {
        while self.state(dir).await.ok() == Some(from) {
            tokio::time::sleep(LOOK).await;
        }
    }
}
