//! Why a VM is where it is: what `virtualmachines/NAME/placement` answers and `basaltctl explain placement` prints.

use crate::virtual_machine::RefusalReason;
use serde::{Deserialize, Serialize};

/// Why a VM would be placed where it would be placed now, and why not elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlacementReport {
    /// Name of the VM.
    pub vm: String,
    /// Its namespace.
    pub namespace: String,
    /// The host that it is placed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// The host that it would be placed on if it were placed now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// Each host that was asked for.
    pub hosts: Vec<HostVerdict>,
    /// The smallest change by which one of these hosts would take it, if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smallest_change: Option<String>,
}

/// What is to be said of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostVerdict {
    /// The host.
    pub host: String,
    /// It could take the VM.
    pub accepts: bool,
    /// Its points; of those that accept, the one with the most is taken.
    pub score: i64,
    /// What is needed of it.
    pub constraints: Vec<Constraint>,
    /// What the points are made of.
    pub parts: Vec<ScorePart>,
}

/// Something that a host must be or have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Constraint {
    /// The reason that the host refuses with if it does not hold.
    pub name: RefusalReason,
    /// What is needed.
    pub need: String,
    /// What there is.
    pub have: String,
    /// It holds.
    pub holds: bool,
}

/// A part of a host's points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScorePart {
    /// What is judged.
    pub name: String,
    /// The points; below zero where it speaks against the host.
    pub points: i64,
    /// By what.
    pub why: String,
}
