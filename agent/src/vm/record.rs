//! What is kept on disk of a VM.

use crate::{
    files::{self, FileError},
    vmm::VmDir,
};
use basalt_api::host::{Accelerator, VmmName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// All that the next agent has to know of a VM besides what it can see.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// Uid of the VirtualMachine.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The placement epoch that the host acts under.
    pub epoch: i64,
    /// The generation that the host has acted on.
    pub generation: i64,
    /// What the running or last machine was made of; a change of it needs a new start.
    pub shape: String,
    /// The VMM program that runs or last ran it.
    pub vmm: Option<VmmName>,
    /// How it ran guests.
    pub accelerator: Option<Accelerator>,
    /// When the VMM was last started.
    pub started_at: Option<Timestamp>,
    /// A VMM was started and has not been ended by us: if there is none, it died.
    pub live: bool,
    /// How often the VMM was started again after it had died.
    pub restarts: i64,
    /// How often in a row a start failed or did not last.
    pub failures: u32,
    /// Not to be started before.
    pub next_try: Option<Timestamp>,
    /// The restart that the running or last machine answers to.
    pub restarted_for: Option<Timestamp>,
    /// The forced stop that was carried out, or that the running machine came after.
    pub forced_for: Option<Timestamp>,
    /// When the guest was asked to shut down.
    pub asked_to_stop: Option<Timestamp>,
    /// The generation under which the guest shut itself down.
    pub shut_down: Option<i64>,
    /// Names of taps that were made for it.
    pub taps: Vec<String>,
}

impl Record {
    fn file(dir: &VmDir) -> PathBuf {
        dir.path().join("vm.json")
    }

    /// The record in a VM's directory. One that cannot be read is as none: what runs is found by looking.
    pub fn read(dir: &VmDir) -> Result<Option<Self>, FileError> {
        let file = Self::file(dir);
        let Some(stored) = files::read(&file)? else { return Ok(None) };
        match serde_json::from_slice(&stored) {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::error!(file = %file.display(), "the record of a VM is broken and is left out: {error}");
                Ok(None)
            }
        }
    }

    /// Writes the record.
    pub fn write(&self, dir: &VmDir) -> Result<(), FileError> {
        let content = serde_json::to_vec_pretty(self).map_err(std::io::Error::other).map_err(FileError::at("encode", dir.path()))?;
        files::write(&Self::file(dir), &content, 0o600)
    }

    /// `namespace/name`.
    pub fn title(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}
