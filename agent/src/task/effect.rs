//! What an operation changes on the host, declared before it is changed, so that whoever comes after a crash can undo it.

use super::Surroundings;
use crate::{disk, os};
use serde::{Deserialize, Serialize};
use std::{fmt, io, path::PathBuf};

/// A change that lasts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Effect {
    /// A file of the operation's own.
    File {
        /// Where.
        path: PathBuf,
    },
    /// A snapshot that was not there before.
    Snapshot {
        /// In which overlay.
        disk: PathBuf,
        /// Its name.
        name: String,
    },
    /// An OS image is staged.
    OsStaged {
        /// Which.
        image: String,
        /// What was staged before.
        before: Option<String>,
    },
    /// The next boot goes back to the OS image before; it did not yet.
    RollbackQueued {},
    /// The host reboots.
    Reboot {
        /// The run of the kernel that ends with it.
        boot_id: String,
        /// The OS image that it boots then, as it was pulled.
        image: String,
        /// The digest of its manifest.
        digest: String,
    },
}

impl Effect {
    /// Takes the change back; fine if it was never made. Says what is left, if something is.
    pub async fn undo(&self, host: &Surroundings) -> Result<(), String> {
        let left = |error: &dyn fmt::Display| format!("{self} is left: {error}");
        match self {
            Self::File { path } => match tokio::fs::remove_file(path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(left(&error)),
                _ => Ok(()),
            },
            Self::Snapshot { disk, name } => {
                // A disk that went with its VM took the snapshot with it.
                if disk.exists() && disk::snapshots(disk).await.map_err(|e| left(&e))?.contains(name) {
                    disk::remove_snapshot(disk, name).await.map_err(|e| left(&e))?;
                }
                Ok(())
            }
            Self::OsStaged { image, before } => {
                let staged = async || os::status(&host.path).await.map(|status| status.staged.map(|staged| staged.reference));
                let mut now = staged().await.map_err(|e| left(&e))?;
                if now.as_ref() == Some(image) && before.as_ref() != Some(image) {
                    os::unstage(&host.path).await.map_err(|e| left(&e))?;
                    now = staged().await.map_err(|e| left(&e))?;
                }
                match before {
                    _ if now.as_ref() == before.as_ref() => Ok(()),
                    Some(before) => Err(format!("The OS image {before}, which was staged before, is staged no more")),
                    None if now.as_ref() == Some(image) => Err(left(&"it is staged still. Take it away by hand: ostree admin undeploy 0")),
                    // Somebody else's.
                    None => Ok(()),
                }
            }
            Self::RollbackQueued {} => {
                if os::status(&host.path).await.map_err(|e| left(&e))?.rollback_queued {
                    os::toggle_rollback(&host.path).await.map_err(|e| left(&e))?;
                }
                Ok(())
            }
            // What systemd has heard, nobody can take back.
            Self::Reboot { boot_id, .. } if *boot_id == host.boot_id => Err(format!("{self} was asked for and may still come")),
            Self::Reboot { .. } => Ok(()),
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path } => write!(f, "the file {}", path.display()),
            Self::Snapshot { disk, name } => write!(f, "the snapshot {name} of {}", disk.display()),
            Self::OsStaged { image, .. } => write!(f, "the staged OS image {image}"),
            Self::RollbackQueued {} => write!(f, "the queued rollback of the OS"),
            Self::Reboot { image, .. } => write!(f, "the reboot into the OS image {image}"),
        }
    }
}
