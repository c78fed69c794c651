//! Overlays: a VM's own copy-on-write layer over an image, made by `qemu-img`, the one door to which is here.

use serde_json::Value;
use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;

/// How long `qemu-img` may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// A disk cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// `qemu-img` is not there or cannot be started.
    #[error("cannot run qemu-img: {0}. Install qemu-utils (Debian) or qemu-img (Fedora)")]
    NotInstalled(io::Error),
    /// `qemu-img` failed.
    #[error("`qemu-img {command}` failed: {stderr}")]
    Failed {
        /// Its arguments.
        command: String,
        /// Its last words.
        stderr: String,
    },
    /// The image would make the guest read another file of the host.
    #[error(
        "the image {image} refers to another file, {backing}: such an image could read any file of the host. Flatten it with qemu-img convert"
    )]
    BackingFile {
        /// The image.
        image: PathBuf,
        /// What it refers to.
        backing: String,
    },
}

/// Makes an overlay over an image, if there is none. The format of the image is given, never guessed: a guest can forge one.
pub async fn ensure_overlay(image: &Path, qcow2: bool, overlay: &Path) -> Result<(), DiskError> {
    if overlay.exists() {
        return Ok(());
    }
    let format = if qcow2 { "qcow2" } else { "raw" };
    if qcow2 {
        let described = qemu_img(&["info".as_ref(), "--output=json".as_ref(), "-f".as_ref(), format.as_ref(), image.as_os_str()]).await?;
        let described: Value = serde_json::from_str(&described).unwrap_or_default();
        let external = &described["format-specific"]["data"]["data-file"];
        if let Some(backing) = described["backing-filename"].as_str().or_else(|| external.as_str()) {
            return Err(DiskError::BackingFile { image: image.to_owned(), backing: backing.to_owned() });
        }
    }
    // Beside its place first: one that is half made is never taken for whole.
    let new = overlay.with_extension("new");
    qemu_img(&[
        "create".as_ref(),
        "-q".as_ref(),
        "-f".as_ref(),
        "qcow2".as_ref(),
        "-F".as_ref(),
        format.as_ref(),
        "-b".as_ref(),
        image.as_os_str(),
        new.as_os_str(),
    ])
    .await?;
    std::fs::rename(&new, overlay)
        .map_err(|e| DiskError::Failed { command: format!("create {}", overlay.display()), stderr: e.to_string() })
}

async fn qemu_img(args: &[&OsStr]) -> Result<String, DiskError> {
    let command = args.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ");
    tracing::debug!("qemu-img {command}");
    let running = Command::new("qemu-img").args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = match tokio::time::timeout(DEADLINE, running).await {
        Ok(output) => output.map_err(DiskError::NotInstalled)?,
        Err(_) => return Err(DiskError::Failed { command, stderr: format!("it had not ended after {} s", DEADLINE.as_secs()) }),
    };
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(DiskError::Failed { command, stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
    }
}
