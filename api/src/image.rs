//! Image: a file that VMs boot from or use as a disk.

use crate::Memory;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where an image comes from and what it is.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "basalt.dev",
    version = "v1alpha1",
    kind = "Image",
    plural = "images",
    shortname = "img",
    category = "basalt",
    status = "ImageStatus",
    derive = "PartialEq",
    doc = "An Image is a file that virtual machines boot from or use as a disk: a raw or qcow2 disk, a kernel, or an initramfs.",
    printcolumn(name = "Format", type_ = "string", json_path = ".spec.format", description = "What the file is"),
    printcolumn(name = "Source", type_ = "string", json_path = ".spec.source", description = "Where the file comes from"),
    printcolumn(
        name = "Digest",
        type_ = "string",
        json_path = ".spec.sha256",
        priority = 1,
        description = "SHA-256 that the file must have"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation")
)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Where each host finds the file: `file:///absolute/path` on the host itself.
    #[schemars(regex(pattern = r"^file:///[^\x00-\x1f]+$"), length(max = 4096))]
    pub source: String,
    /// The SHA-256 that the file must have, 64 lower-case hexadecimal digits. Without it the file is used unverified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// What the file is.
    pub format: ImageFormat,
}

/// What an image file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImageFormat {
    /// A raw disk.
    Raw,
    /// A QEMU copy-on-write disk.
    Qcow2,
    /// A kernel: bzImage, or an uncompressed vmlinux with a PVH entry.
    Kernel,
    /// An initial RAM file system for a kernel.
    Initramfs,
}

/// What the hosts found at the image's source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Per host that uses the image: is it there, and is it right.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["host"]))]
    pub hosts: Vec<ImageOnHost>,
}

/// An image as one host sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageOnHost {
    /// The host.
    pub host: String,
    /// What the host found.
    pub presence: Presence,
    /// Size of the file, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Memory>,
    /// The details, when the image cannot be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Whether a host has an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Presence {
    /// The file is there, and verified if the image has a digest.
    Present,
    /// There is no such file.
    Missing,
    /// The file is there but cannot be used: unreadable, or not what its digest promises.
    Unusable,
}
