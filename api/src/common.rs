//! What several kinds share: references, reasons for waiting, and small condition helpers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The object that something waits for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectReference {
    /// Kind of the object, for example `Host`.
    pub kind: String,
    /// Name of the object.
    pub name: String,
    /// Namespace of the object; absent for cluster-scoped kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl ObjectReference {
    /// A reference to the host of this name.
    pub fn host(name: impl Into<String>) -> Self {
        Self { kind: "Host".into(), name: name.into(), namespace: None }
    }

    /// A reference to the task of this name.
    pub fn task(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { kind: "Task".into(), name: name.into(), namespace: Some(namespace.into()) }
    }

    /// A reference to the image of this name.
    pub fn image(name: impl Into<String>) -> Self {
        Self { kind: "Image".into(), name: name.into(), namespace: None }
    }
}

/// Why an object is not yet where its spec wants it: the closed list that programs may match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum BlockedCode {
    /// No host passes every filter of placement; `status.placement.refusals` says why for each.
    NoHostFits,
    /// The host that the VM is placed on does not report.
    HostNotReady,
    /// The host has not yet acted on the placement or on the newest spec.
    WaitingForHost,
    /// An Image that the VM names does not exist.
    ImageNotFound,
    /// An image file is missing on the host, unreadable, or not what its digest promises.
    ImageUnusable,
    /// A bridge that the VM names does not exist on the host.
    BridgeNotFound,
    /// The host cannot start the VMM: program missing, refused options, no memory.
    StartFailed,
    /// The VMM died and waits for its restart back-off to end.
    RestartBackOff,
    /// The VM is being deleted and its host has not yet proved that nothing of it is left.
    TearDown,
    /// A task that has to end first has not, or does not exist yet.
    WaitingForTask,
    /// Something else is being done to the same object.
    ObjectBusy,
    /// The host does as many tasks of the kind as it may.
    HostBusy,
    /// An attempt failed; the next one is waited for.
    RetryBackOff,
}

impl fmt::Display for BlockedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHostFits => "no host fits",
            Self::HostNotReady => "its host does not report",
            Self::WaitingForHost => "its host has not finished",
            Self::ImageNotFound => "an image does not exist",
            Self::ImageUnusable => "an image cannot be used on the host",
            Self::BridgeNotFound => "a bridge does not exist on the host",
            Self::StartFailed => "the VMM could not be started",
            Self::RestartBackOff => "the VMM died; waiting before the next start",
            Self::TearDown => "waiting for the host to remove it",
            Self::WaitingForTask => "another task has to end first",
            Self::ObjectBusy => "another task is at work on the same object",
            Self::HostBusy => "its host is busy with other tasks",
            Self::RetryBackOff => "an attempt failed; waiting before the next one",
        })
    }
}

/// The automatic step that follows, so that an operator knows whether waiting is enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NextStep {
    /// What the platform does by itself.
    pub action: String,
    /// When it does so; absent if it acts on an event and not at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// One reason why an object waits. Every non-terminal status carries at least one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedBy {
    /// Which of the known reasons it is.
    pub code: BlockedCode,
    /// The object waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectReference>,
    /// Since when.
    pub since: Time,
    /// What happens next without anybody's help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextStep>,
    /// The details, and what a person can do.
    pub hint: String,
}

/// The conditions `old` with `new` put in: its transition time is kept while its status stays the same, as the
/// Kubernetes API conventions ask.
pub fn set_condition(old: &[Condition], new: Condition) -> Vec<Condition> {
    let mut conditions: Vec<Condition> = old.iter().filter(|c| c.type_ != new.type_).cloned().collect();
    let kept = old.iter().find(|c| c.type_ == new.type_ && c.status == new.status).map(|c| c.last_transition_time.clone());
    conditions.push(Condition { last_transition_time: kept.unwrap_or_else(|| new.last_transition_time.clone()), ..new });
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    conditions
}
