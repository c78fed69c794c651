//! VmSnapshot: the state of a VM's disks is kept within its overlays, as long as no VMM has them open.

use super::{Ended, Operation, Results, Work};
use crate::{
    disk::{self, DiskError},
    task::{effect::Effect, log::Level, record::Given},
    vm::record::Record,
    vmm::VmDir,
};
use async_trait::async_trait;
use basalt_api::task;
use std::path::{Path, PathBuf};

/// A snapshot of one VM.
pub struct VmSnapshot {
    vm: String,
    uid: String,
    snapshot: String,
}

impl VmSnapshot {
    /// Of the VM whose uid came with the attempt.
    pub fn new(parameters: task::VmSnapshot, given: &Given) -> Result<Self, Ended> {
        let task::VmSnapshot { vm, snapshot } = parameters;
        // The uid becomes the name of a directory, the snapshot's name an argument.
        if uuid::Uuid::try_parse(&given.vm_uid).is_err() {
            return Err(Ended::Failed(format!("{:?} is not the uid of VM {vm}", given.vm_uid)));
        }
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if snapshot.is_empty() || snapshot.len() > 63 || snapshot.starts_with('-') || !snapshot.bytes().all(fits) {
            return Err(Ended::Failed(format!("{snapshot:?} is no name of a snapshot: expected lower-case letters, digits and dashes")));
        }
        Ok(Self { vm, uid: given.vm_uid.clone(), snapshot })
    }

    /// The overlays of the VM, if nothing runs that writes to them.
    async fn disks(&self, work: &Work) -> Result<Vec<PathBuf>, Ended> {
        let dir = VmDir::new(work.host().data_dir.join("vms").join(&self.uid));
        let record = Record::read(&dir)?.ok_or_else(|| Ended::Failed(format!("VM {} is not on this host", self.vm)))?;
        if let Some(name) = record.vmm {
            let Some(vmm) = work.host().doors.vmm(name) else {
                return Err(Ended::NotSupported(format!(
                    "{name} does not work on this host, so that it cannot be seen whether VM {} runs",
                    self.vm
                )));
            };
            let running = vmm.adopt(&dir).await.map_err(|error| Ended::Failed(error.to_string()))?;
            if running.is_some() {
                return Err(Ended::NotSupported(format!(
                    "VM {} runs. Only a VM that is stopped can be snapshotted: stop it first",
                    self.vm
                )));
            }
        }
        let entries =
            std::fs::read_dir(dir.path()).map_err(|error| Ended::Failed(format!("cannot read {}: {error}", dir.path().display())))?;
        let mut disks: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| is_overlay(path)).collect();
        disks.sort();
        if disks.is_empty() {
            return Err(Ended::NotSupported(format!(
                "VM {} has no disk on this host that it writes to: there is nothing to keep",
                self.vm
            )));
        }
        Ok(disks)
    }
}

fn is_overlay(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("disk-") && name.ends_with(".qcow2"))
}

fn failed(error: DiskError) -> Ended {
    match error {
        DiskError::NotInstalled(_) => Ended::NotSupported(error.to_string()),
        other => Ended::Failed(other.to_string()),
    }
}

#[async_trait]
impl Operation for VmSnapshot {
    fn steps(&self) -> Vec<String> {
        vec!["look".into(), "take".into()]
    }

    async fn run(&self, work: &Work) -> Result<Results, Ended> {
        work.enter(0)?;
        let disks = self.disks(work).await?;
        for disk in &disks {
            if disk::snapshots(disk).await.map_err(failed)?.contains(&self.snapshot) {
                return Err(Ended::Failed(format!("{} has a snapshot {} already. Choose another name", disk.display(), self.snapshot)));
            }
        }
        work.enter(1)?;
        for (done, disk) in (0..).zip(&disks) {
            work.progress(done, disks.len() as u64, "disks");
            work.declare(Effect::Snapshot { disk: disk.clone(), name: self.snapshot.clone() })?;
            // It is short, and ended in the middle it would leave lost room in the disk: it is not cut short.
            disk::take_snapshot(disk, &self.snapshot).await.map_err(failed)?;
            work.log(Level::Info, &format!("Snapshot {} of {} is taken", self.snapshot, disk.display()));
        }
        work.progress(disks.len() as u64, disks.len() as u64, "disks");
        Ok([("snapshot".to_owned(), self.snapshot.clone()), ("disks".to_owned(), disks.len().to_string())].into())
    }
}
