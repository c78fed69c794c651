//! Task: one long-running operation, from the wish to the outcome.
//!
//! Who writes what: people (and controllers) write the spec; the task controller alone writes the status, but for `reported`,
//! `progress` and `lateResults`, which the hub writes from what the host says.

use crate::{
    BlockedBy, Memory, ObjectReference, Span,
    span::{DAY, between},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Label with the operation of a task, such as `Probe`.
pub const OPERATION_LABEL: &str = "basalt.dev/operation";
/// Label with the host that a task is for.
pub const HOST_LABEL: &str = "basalt.dev/host";
/// Label with the object that a task is about, as `kind.name` in lower case, such as `virtualmachine.web`.
pub const OBJECT_LABEL: &str = "basalt.dev/object";
/// Label with the name of the task that a task is a part of.
pub const PARENT_LABEL: &str = "basalt.dev/parent";
/// Label with the namespace of the task that a task is a part of.
pub const PARENT_NAMESPACE_LABEL: &str = "basalt.dev/parent-namespace";
/// Annotation with the user who created a task.
pub const CREATED_BY: &str = "basalt.dev/created-by";

/// What an operator wants done.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.operation == oldSelf.operation && has(self.host) == has(oldSelf.host) && (!has(self.host) || self.host == oldSelf.host)")
        .message("what a task does, and where, cannot be changed. Cancel it and create another")
        .reason(Reason::FieldValueForbidden)
        .field_path(".operation"),
    validation = Rule::new("has(self.dependsOn) == has(oldSelf.dependsOn) && (!has(self.dependsOn) || self.dependsOn == oldSelf.dependsOn)")
        .message("what a task depends on cannot be changed. Cancel it and create another")
        .reason(Reason::FieldValueForbidden)
        .field_path(".dependsOn"),
    validation = Rule::new("!oldSelf.cancelRequested || self.cancelRequested")
        .message("a cancel cannot be taken back. Retry the task when it has ended: basaltctl retry task/NAME")
        .reason(Reason::FieldValueForbidden)
        .field_path(".cancelRequested"),
    validation = Rule::new("has(self.host) || has(self.operation.vmMigrate) || has(self.operation.vmSnapshot) || has(self.operation.vmStop)")
        .message("the operation is one on a host: say which")
        .reason(Reason::FieldValueRequired)
        .field_path(".host"),
    validation = Rule::new("!has(self.host) || !(has(self.operation.vmMigrate) || has(self.operation.vmSnapshot) || has(self.operation.vmStop))")
        .message("an operation on a VM is done where the VM is: leave the host out")
        .reason(Reason::FieldValueForbidden)
        .field_path(".host")
)]
#[kube(
    group = "basalt.dev",
    version = "v1alpha1",
    kind = "Task",
    plural = "tasks",
    shortname = "task",
    category = "basalt",
    namespaced,
    status = "TaskStatus",
    derive = "PartialEq",
    selectable = ".spec.host",
    selectable = ".status.phase",
    doc = "A Task is one long-running operation: it waits for its turn, runs on a host in bounded attempts, can be cancelled at any time, and ends in one of five ways.",
    printcolumn(
        name = "Operation",
        type_ = "string",
        json_path = r#".metadata.labels.basalt\.dev/operation"#,
        description = "What is done"
    ),
    printcolumn(name = "Host", type_ = "string", json_path = ".status.host", description = "Host that it runs on"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where the task stands"),
    printcolumn(name = "Step", type_ = "string", json_path = ".status.progress.step", description = "What it is doing"),
    printcolumn(
        name = "Progress",
        type_ = "integer",
        json_path = ".status.progress.percent",
        description = "Percent of the work that is done"
    ),
    printcolumn(
        name = "ETA",
        type_ = "integer",
        json_path = ".status.progress.etaSeconds",
        description = "Seconds until the end, at the rate of late"
    ),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt", priority = 1, description = "Which attempt it is"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = 1, description = "Why it ended as it did"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation")
)]
#[serde(rename_all = "camelCase")]
pub struct TaskSpec {
    /// What is to be done: exactly one operation, with its parameters.
    pub operation: Operation,
    /// The host that it is done on. Left out for operations on a VM, which are done where the VM is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub host: Option<String>,
    /// The tasks of the same namespace that have to end first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["task"]))]
    pub depends_on: Vec<Dependency>,
    /// How long one attempt may take, from 1s to 30d. When it is over, the attempt is stopped on the host.
    #[serde(default = "default_timeout")]
    #[x_kube(validation = between(1, 30 * DAY))]
    pub timeout: Span,
    /// How long the task may wait for its first attempt, up to 30d.
    #[serde(default = "default_start_timeout")]
    #[x_kube(validation = between(1, 30 * DAY))]
    pub start_timeout: Span,
    /// What happens after an attempt that failed.
    #[serde(default)]
    pub retry: Retry,
    /// Of the tasks that wait for the same host, those with the higher priority go first; among equals the oldest.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// The task is to end, whatever it is doing. It cannot be taken back.
    #[serde(default)]
    pub cancel_requested: bool,
    /// How long after its end the task is kept, up to 365d. Its log is kept for as long as the gateway keeps logs, whatever becomes of the task.
    #[serde(default = "default_ttl")]
    #[x_kube(validation = between(0, 365 * DAY))]
    pub ttl_after_finished: Span,
}

impl TaskSpec {
    /// A task of an operation, with the defaults.
    pub fn of(operation: Operation) -> Self {
        Self {
            operation,
            host: None,
            depends_on: Vec::new(),
            timeout: default_timeout(),
            start_timeout: default_start_timeout(),
            retry: Retry::default(),
            priority: 0,
            cancel_requested: false,
            ttl_after_finished: default_ttl(),
        }
    }
}

const fn default_timeout() -> Span {
    Span::from_secs(3600)
}

const fn default_start_timeout() -> Span {
    Span::from_secs(DAY)
}

const fn default_ttl() -> Span {
    Span::from_secs(30 * DAY)
}

/// What a task does: exactly one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Operation {
    /// Have an Image on a host, whole and verified.
    ImagePull(ImagePull),
    /// Move a VM to another host.
    VmMigrate(VmMigrate),
    /// Keep the state of a VM's disks, to go back to.
    VmSnapshot(VmSnapshot),
    /// Shut a VM down and keep it so.
    VmStop(VmStop),
    /// Move all VMs off a host, and let no other come.
    HostDrain(HostDrain),
    /// Have an OS image on a host, ready for the next boot.
    OsStage(OsStage),
    /// Reboot a host into the OS image that is staged.
    OsApply(OsApply),
    /// Go back to the OS image that a host ran before.
    OsRollback(OsRollback),
    /// Gather what a host knows of its state into a file.
    CollectDiagnostics(CollectDiagnostics),
    /// A bounded self-test of a host, and the way to try tasks out.
    Probe(Probe),
}

/// Parameters of ImagePull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImagePull {
    /// Name of the Image.
    #[schemars(length(min = 1, max = 253))]
    pub image: String,
}

/// Parameters of VmMigrate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmMigrate {
    /// Name of the VM, in the task's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub vm: String,
    /// The host to move it to. Without it, placement chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub target: Option<String>,
}

/// Parameters of VmSnapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmSnapshot {
    /// Name of the VM, in the task's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub vm: String,
    /// Name of the snapshot: lower-case letters, digits and dashes.
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub snapshot: String,
}

/// Parameters of VmStop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmStop {
    /// Name of the VM, in the task's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub vm: String,
}

/// Parameters of HostDrain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostDrain {
    /// Stop the VMs that cannot be moved. Without it the drain fails if there is one, and names it.
    #[serde(default)]
    pub stop_unmovable: bool,
}

/// Parameters of OsStage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OsStage {
    /// The bootc image, by digest or tag, such as `registry.example.com/os@sha256:...`.
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"))]
    pub image: String,
}

/// Parameters of OsApply: there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OsApply {}

/// Parameters of OsRollback: there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OsRollback {}

/// Parameters of CollectDiagnostics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CollectDiagnostics {
    /// How large the file may become; what does not fit is left out, and the log says so.
    #[serde(default = "default_diagnostics")]
    pub limit: Memory,
}

const fn default_diagnostics() -> Memory {
    Memory::from_mib(64)
}

/// Parameters of Probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// How many steps it has.
    #[serde(default = "default_steps")]
    #[schemars(range(min = 1, max = 1000))]
    pub steps: u32,
    /// How long a step takes, in milliseconds.
    #[serde(default = "default_step")]
    #[schemars(range(min = 0, max = 3_600_000))]
    pub step_milliseconds: u32,
    /// How many bytes each step writes to the host's disk, reads back and compares. They are removed in the end.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_073_741_824))]
    pub write_bytes: u64,
    /// The step that fails, from 1; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub fail_at: Option<u32>,
    /// How many attempts fail at that step; all by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub fail_attempts: Option<u32>,
    /// Say nothing while it runs: neither progress nor log.
    #[serde(default)]
    pub silent: bool,
}

fn default_steps() -> u32 {
    3
}

fn default_step() -> u32 {
    1000
}

/// Another task that has to end first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dependency {
    /// Name of the task, in the same namespace. It may be created later.
    #[schemars(length(min = 1, max = 253))]
    pub task: String,
    /// What becomes of this task if that one ends otherwise than Completed.
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// What becomes of a task when one that it depends on does not complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnFailure {
    /// It fails, with the reason `DependencyFailed`.
    #[default]
    Fail,
    /// It is not run, and counts as Cancelled, with the reason `Skipped`.
    Skip,
    /// It runs nevertheless.
    Run,
}

/// What happens after an attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How many further attempts there are after the first. Operations that may not be repeated take 0 only.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub limit: u32,
    /// How long the first retry is waited for.
    #[serde(default = "default_backoff")]
    #[x_kube(validation = between(0, DAY))]
    pub backoff: Span,
    /// By how much each further wait is longer than the one before.
    #[serde(default = "default_factor")]
    #[schemars(range(min = 1, max = 10))]
    pub factor: u32,
    /// The longest wait.
    #[serde(default = "default_cap")]
    #[x_kube(validation = between(0, DAY))]
    pub cap: Span,
}

const fn default_backoff() -> Span {
    Span::from_secs(10)
}

const fn default_factor() -> u32 {
    2
}

const fn default_cap() -> Span {
    Span::from_secs(300)
}

impl Default for Retry {
    fn default() -> Self {
        Self { limit: 0, backoff: default_backoff(), factor: default_factor(), cap: default_cap() }
    }
}

/// What is known of a task. The hub alone writes `reported`, `progress` and `lateResults`, from what the host says; the task
/// controller alone writes the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(oldSelf.finishedAt) || (has(self.phase) && has(oldSelf.phase) && self.phase == oldSelf.phase)")
        .message("a task that has ended stays as it ended")
        .reason(Reason::FieldValueForbidden)
        .field_path(".phase")
)]
#[serde(rename_all = "camelCase")]
pub struct TaskStatus {
    /// Where the task stands, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<TaskPhase>,
    /// Why it ended as it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<TaskReason>,
    /// The details, and what a person can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The host of the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The number of the newest attempt, from 1.
    #[serde(default)]
    pub attempt: u32,
    /// What the newest attempt is known by: `UID.ATTEMPT.RANDOM`. A host acts under the newest token only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// When the newest attempt was given to its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted_at: Option<Time>,
    /// When the newest attempt has to be over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// When the next attempt begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
    /// When the cancel was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_requested_at: Option<Time>,
    /// When the first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the task ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// The newest attempt was told to stop and its host has not proved yet that it has: nothing else is done to the same object before.
    #[serde(default)]
    pub stopping: bool,
    /// What the operation has found or made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub result: BTreeMap<String, String>,
    /// What attempts have left behind and could not undo.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub residue: Vec<String>,
    /// What was changed before the operation began, to be put back if it is not completed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub undo: BTreeMap<String, String>,
    /// Why the task is not done yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<BlockedBy>,
    /// What happened, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Happened>,
    /// What the host says of an attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<Reported>,
    /// How far the newest attempt is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Results that came after the attempt had been given up. They count for nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub late_results: Vec<Reported>,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TaskPhase {
    /// It waits; `blockedBy` says for what.
    #[default]
    Pending,
    /// An attempt is under way.
    Executing,
    /// It was done.
    Completed,
    /// It was not done; `reason` says why.
    Failed,
    /// An attempt took too long, and there is no other.
    TimedOut,
    /// Somebody ended it.
    Cancelled,
}

impl TaskPhase {
    /// Nothing follows.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::TimedOut | Self::Cancelled)
    }
}

impl fmt::Display for TaskPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a task ended as it did: the closed list that programs may match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TaskReason {
    /// The operation was done.
    Succeeded,
    /// The operation failed; the log and the message say how.
    OperationFailed,
    /// The host cannot do the operation.
    NotSupported,
    /// The agent ended or lost its gateway while it ran, and the operation may not be repeated or has been often enough.
    Interrupted,
    /// The host did not report for so long that the attempt cannot be running any more.
    HostLost,
    /// The task waited longer than `startTimeout` for its first attempt.
    StartTimeout,
    /// An attempt took longer than `timeout`.
    AttemptTimeout,
    /// A task that it depends on did not complete.
    DependencyFailed,
    /// The tasks that it depends on depend on it.
    DependencyCycle,
    /// It was not run because a task that it depends on did not complete.
    Skipped,
    /// Somebody asked for its end.
    CancelRequested,
    /// The object that it is about does not exist.
    ObjectNotFound,
}

impl fmt::Display for TaskReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One step in the life of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Happened {
    /// When.
    pub time: Time,
    /// The attempt that it is about; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// What.
    pub what: String,
}

/// What a host says of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reported {
    /// The attempt's token.
    pub token: String,
    /// The host.
    pub host: String,
    /// When the host began.
    pub started_at: Time,
    /// How it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Time>,
    /// The details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the operation has found or made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub result: BTreeMap<String, String>,
    /// What could not be undone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub residue: Vec<String>,
}

/// How an attempt ended on its host. Whatever it was, nothing of it runs any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Outcome {
    /// It was done.
    Succeeded,
    /// It failed.
    Failed,
    /// The host cannot do the operation.
    NotSupported,
    /// The gateway told the host to stop it.
    Stopped,
    /// The agent ended, or could not renew the attempt's lease.
    Interrupted,
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// What it is doing.
    pub step: String,
    /// How much is done, in units.
    #[serde(default)]
    pub done: u64,
    /// How much there is to do, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What `done` and `total` count: `bytes`, `steps`, `vms`.
    #[serde(default)]
    pub unit: String,
    /// Percent of the total that is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u32>,
    /// Units a second, of late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Seconds until the end, at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// When the host said so.
    pub updated_at: Time,
}

/// Which operations share places on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// They load the network and the disk.
    Transfer,
    /// They change the OS: one at a time.
    Os,
    /// They change a VM.
    Vm,
    /// They look and change nothing that lasts.
    Look,
    /// The control plane does them, by other tasks and objects.
    Coordination,
}

impl Class {
    /// How many of the class a host does at once.
    pub const fn limit(self) -> usize {
        match self {
            Self::Transfer => 2,
            Self::Os => 1,
            Self::Vm | Self::Look => 4,
            Self::Coordination => usize::MAX,
        }
    }
}

impl Operation {
    /// Its name, as in `basalt.dev/operation`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ImagePull(_) => "ImagePull",
            Self::VmMigrate(_) => "VmMigrate",
            Self::VmSnapshot(_) => "VmSnapshot",
            Self::VmStop(_) => "VmStop",
            Self::HostDrain(_) => "HostDrain",
            Self::OsStage(_) => "OsStage",
            Self::OsApply(_) => "OsApply",
            Self::OsRollback(_) => "OsRollback",
            Self::CollectDiagnostics(_) => "CollectDiagnostics",
            Self::Probe(_) => "Probe",
        }
    }

    /// Which operations it shares places with.
    pub const fn class(&self) -> Class {
        match self {
            Self::ImagePull(_) => Class::Transfer,
            Self::VmSnapshot(_) => Class::Vm,
            Self::OsStage(_) | Self::OsApply(_) | Self::OsRollback(_) => Class::Os,
            Self::CollectDiagnostics(_) | Self::Probe(_) => Class::Look,
            Self::VmMigrate(_) | Self::VmStop(_) | Self::HostDrain(_) => Class::Coordination,
        }
    }

    /// Whether it may be begun again after an attempt that ended anywhere.
    pub const fn may_be_repeated(&self) -> bool {
        // A host that was rebooted or rolled back is another than before.
        !matches!(self, Self::OsApply(_) | Self::OsRollback(_))
    }

    /// What it is about; nothing else is done to that at the same time, unless the operation only looks.
    pub fn object(&self, host: Option<&str>, namespace: &str) -> Option<ObjectReference> {
        match self {
            Self::ImagePull(ImagePull { image }) => Some(ObjectReference::image(image)),
            Self::VmMigrate(VmMigrate { vm, .. }) | Self::VmSnapshot(VmSnapshot { vm, .. }) | Self::VmStop(VmStop { vm }) => {
                Some(ObjectReference { kind: "VirtualMachine".into(), name: vm.clone(), namespace: Some(namespace.to_owned()) })
            }
            Self::HostDrain(_)
            | Self::OsStage(_)
            | Self::OsApply(_)
            | Self::OsRollback(_)
            | Self::CollectDiagnostics(_)
            | Self::Probe(_) => host.map(ObjectReference::host),
        }
    }

    /// Whether nothing else may be done to its object at the same time.
    pub const fn is_exclusive(&self) -> bool {
        !matches!(self, Self::CollectDiagnostics(_) | Self::Probe(_) | Self::ImagePull(_))
    }
}
