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

/// The names of the snapshots in an overlay.
pub async fn snapshots(overlay: &Path) -> Result<Vec<String>, DiskError> {
    let described = qemu_img(&["info".as_ref(), "--output=json".as_ref(), "-f".as_ref(), "qcow2".as_ref(), overlay.as_os_str()]).await?;
    let described: Value = serde_json::from_str(&described).unwrap_or_default();
    let snapshots = described["snapshots"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(snapshots.iter().filter_map(|snapshot| snapshot["name"].as_str()).map(str::to_owned).collect())
}

/// Keeps the state of an overlay that no VMM uses: qemu-img refuses one that is in use.
pub async fn take_snapshot(overlay: &Path, name: &str) -> Result<(), DiskError> {
    snapshot("-c", overlay, name).await
}

/// Removes a snapshot.
pub async fn remove_snapshot(overlay: &Path, name: &str) -> Result<(), DiskError> {
    snapshot("-d", overlay, name).await
}

async fn snapshot(action: &str, overlay: &Path, name: &str) -> Result<(), DiskError> {
    // The only way to say the format, which is never guessed; a comma within a value is written twice.
    let file = format!("driver=qcow2,file.driver=file,file.filename={}", overlay.display().to_string().replace(',', ",,"));
    let args = ["snapshot", "--image-opts", "-q", action, name, &file];
    qemu_img(&args.map(OsStr::new)).await.map(drop)
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
