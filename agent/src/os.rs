//! The host's own OS image, by `bootc`, the one door to which is here. What bootc prints is no interface, and it exits with 0 for
//! nothing done too: what counts is the status that is read after each call.

use crate::program::{self, ProgramError};
use serde_json::Value;
use std::{ffi::OsStr, time::Duration};

/// How long reading the status may take: it waits for the lock of whoever changes the OS.
const READ: Duration = Duration::from_secs(30);
/// How long a change may take that downloads nothing.
const CHANGE: Duration = Duration::from_secs(120);
/// How long a download may take; the attempt that asks for it ends sooner.
const DOWNLOAD: Duration = Duration::from_secs(24 * 3600);

/// Something with the OS did not go.
#[derive(Debug, thiserror::Error)]
pub enum OsError {
    /// The host is no such host.
    #[error("{0}")]
    NotSupported(String),
    /// bootc did not do it.
    #[error(transparent)]
    Program(ProgramError),
    /// bootc said something that is not understood.
    #[error("what `bootc status` says is not understood: {0}")]
    Status(serde_json::Error),
}

impl From<ProgramError> for OsError {
    fn from(error: ProgramError) -> Self {
        match error {
            ProgramError::NotInstalled(program) => {
                Self::NotSupported(format!("This host's OS is not an image: there is no {program} on its PATH"))
            }
            other => Self::Program(other),
        }
    }
}

/// An OS image on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsImage {
    /// What it was pulled as.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
    /// Its version, if it has one.
    pub version: Option<String>,
}

/// The OS images of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OsStatus {
    /// What runs.
    pub booted: OsImage,
    /// What the next boot takes.
    pub staged: Option<OsImage>,
    /// What ran before.
    pub rollback: Option<OsImage>,
    /// The next boot goes back to what ran before.
    pub rollback_queued: bool,
}

impl OsStatus {
    /// Of what `bootc status --format=json` prints; nothing if the host has not booted from an image.
    pub fn parse(stdout: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        let host: Value = serde_json::from_slice(stdout)?;
        let status = &host["status"];
        let image = |entry: &Value| {
            let image = &entry["image"];
            image["image"]["image"].as_str().map(|reference| OsImage {
                reference: reference.to_owned(),
                digest: image["imageDigest"].as_str().unwrap_or_default().to_owned(),
                version: image["version"].as_str().map(str::to_owned),
            })
        };
        Ok(image(&status["booted"]).map(|booted| Self {
            booted,
            staged: image(&status["staged"]),
            rollback: image(&status["rollback"]),
            rollback_queued: status["rollbackQueued"].as_bool().unwrap_or_default(),
        }))
    }
}

/// Reads the status.
pub async fn status(path: &OsStr) -> Result<OsStatus, OsError> {
    let said = program::run(path, "bootc", &["status", "--format=json", "--format-version=1"], READ).await?;
    let status = OsStatus::parse(&said.stdout).map_err(OsError::Status)?;
    status.ok_or_else(|| OsError::NotSupported("This host has not booted from an OS image: `bootc status` names no booted image".into()))
}

/// Has an image pulled and staged. Says what bootc said.
pub async fn stage(path: &OsStr, image: &str, booted: &OsImage) -> Result<String, OsError> {
    // A switch to what the host follows already is no pull, even if the tag names another image by now.
    let args = if image == booted.reference { vec!["upgrade", "--quiet"] } else { vec!["switch", "--quiet", image] };
    let said = program::run(path, "bootc", &args, DOWNLOAD).await?;
    Ok(format!("{}\n{}", String::from_utf8_lossy(&said.stdout).trim(), said.stderr).trim().to_owned())
}

/// Takes away what is staged.
pub async fn unstage(path: &OsStr) -> Result<(), OsError> {
    Ok(program::run(path, "ostree", &["admin", "undeploy", "0"], CHANGE).await.map(drop)?)
}

/// Has the next boot go back, or, if it does already, not go back: it is a toggle.
pub async fn toggle_rollback(path: &OsStr) -> Result<(), OsError> {
    Ok(program::run(path, "bootc", &["rollback"], CHANGE).await.map(drop)?)
}

/// Has the host reboot. It goes on for a while after that: services are stopped first.
pub async fn reboot(path: &OsStr) -> Result<(), ProgramError> {
    program::run(path, "systemctl", &["reboot"], CHANGE).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_read_leniently_and_a_host_without_an_image_is_none() {
        let entry =
            |image: &str| json!({"image": {"image": {"image": image, "transport": "registry"}, "imageDigest": "sha256:1"}, "new": 1});
        let host = json!({"status": {"booted": entry("r/os:1"), "staged": null, "rollback": entry("r/os:0"), "rollbackQueued": true}});
        let status = OsStatus::parse(host.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!((status.booted.reference.as_str(), status.staged), ("r/os:1", None));
        assert!(status.rollback_queued);
        assert_eq!(OsStatus::parse(br#"{"status": {"booted": null, "type": null}}"#).unwrap(), None);
        assert_eq!(OsStatus::parse(b"[]").unwrap(), None);
        assert!(OsStatus::parse(b"error: no").is_err());
    }
}
