//! VirtualMachine: a guest that Basalt places on a host and keeps running.

use crate::{
    BlockedBy, BlockedCode, Memory,
    host::{Accelerator, Resources, VmmName},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The finalizer that holds a VM until its host has proved that nothing of it is left.
pub const TEARDOWN_FINALIZER: &str = "basalt.dev/vm-teardown";

/// The annotation that keeps the runStrategy of a VM from before `basaltctl stop`, for `basaltctl start`.
pub const STRATEGY_BEFORE_STOP: &str = "basalt.dev/run-strategy-before-stop";

/// What an operator wants of a virtual machine.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.boot.disk) || (has(self.disks) && self.disks.exists(d, d.name == self.boot.disk.name))")
        .message(Message::Expression("'spec.disks has no disk named ' + self.boot.disk.name".into()))
        .field_path(".boot.disk.name")
)]
#[x_kube(
    validation = Rule::new("!(has(self.protected) && self.protected) || !has(self.forceStopRequestedAt) || (has(oldSelf.forceStopRequestedAt) && self.forceStopRequestedAt == oldSelf.forceStopRequestedAt)")
        .message("the VM is protected: set spec.protected to false first")
        .reason(Reason::FieldValueForbidden)
        .field_path(".forceStopRequestedAt")
)]
#[kube(
    group = "basalt.dev",
    version = "v1alpha1",
    kind = "VirtualMachine",
    plural = "virtualmachines",
    shortname = "vm",
    shortname = "vms",
    category = "basalt",
    namespaced,
    status = "VirtualMachineStatus",
    derive = "PartialEq",
    doc = "A VirtualMachine is a guest that Basalt places on a host and keeps running there as its spec says.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where the VM stands"),
    printcolumn(name = "Host", type_ = "string", json_path = ".status.host", description = "Host that it is placed on"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.addresses[0]", description = "First address of the guest"),
    printcolumn(name = "CPUs", type_ = "integer", json_path = ".spec.cpus", description = "Virtual CPUs"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.memory", description = "Guest memory"),
    printcolumn(
        name = "Restarts",
        type_ = "integer",
        json_path = ".status.restarts",
        description = "Times the VMM was started again after it died"
    ),
    printcolumn(name = "VMM", type_ = "string", json_path = ".status.vmm", priority = 1, description = "VMM program that runs it"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.placementEpoch", priority = 1, description = "Placement epoch"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since creation")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineSpec {
    /// Whether the VM should run.
    #[serde(default)]
    pub run_strategy: RunStrategy,
    /// Hold the guest's vCPUs still while it runs: it keeps its memory and its place.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
    /// Every change of this time restarts a VM that runs: its guest is asked to shut down, and it is started again with its newest
    /// spec. `basaltctl restart` sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_requested_at: Option<Time>,
    /// How long the guest may take to shut down once it was asked to, before its VMM is ended. Without it that is 30 s, and 5 s for
    /// a VM that is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub termination_grace_period_seconds: Option<u32>,
    /// Every change of this time ends the waiting for a guest that is being shut down, at once: what it has not written is lost.
    /// `basaltctl stop --force` sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force_stop_requested_at: Option<Time>,
    /// Refuse to delete the VM, and to end it by force.
    #[serde(default, skip_serializing_if = "is_false")]
    pub protected: bool,
    /// Virtual CPUs.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 254))]
    pub cpus: u32,
    /// Guest memory, such as `512Mi`.
    #[schemars(extend("pattern" = crate::quantity::POSITIVE_PATTERN))]
    pub memory: Memory,
    /// What the guest boots.
    pub boot: Boot,
    /// Disks, in the order in which the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub disks: Vec<Disk>,
    /// Network interfaces, in the order in which the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self.all(n, !has(n.mac) || self.exists_one(m, has(m.mac) && m.mac == n.mac))")
        .message("two networks have the same mac")
        .reason(Reason::FieldValueDuplicate))]
    #[x_kube(validation = Rule::new("self.all(n, !has(n.address) || self.exists_one(m, has(m.address) && m.address == n.address))")
        .message("two networks have the same address")
        .reason(Reason::FieldValueDuplicate))]
    pub networks: Vec<Network>,
    /// Which hosts the VM may run on.
    #[serde(default)]
    pub placement: Placement,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

fn one() -> u32 {
    1
}

impl VirtualMachineSpec {
    /// The images that it boots from or has as disks.
    pub fn images(&self) -> impl Iterator<Item = &str> {
        let boot: [Option<&str>; 2] = match &self.boot {
            Boot::Kernel(kernel) => [Some(kernel.image.as_str()), kernel.initramfs.as_deref()],
            Boot::Disk(_) => [None, None],
        };
        boot.into_iter().flatten().chain(self.disks.iter().map(|disk| disk.image.as_str()))
    }

    /// What the VM takes from the host that it is placed on.
    pub fn resources(&self) -> Resources {
        Resources { cpus: self.cpus, memory: self.memory }
    }
}

/// Whether and how a VM is kept running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunStrategy {
    /// Run, and run again whatever ended it.
    #[default]
    Always,
    /// Run, and run again unless the guest shut itself down cleanly.
    RerunOnFailure,
    /// Do not run.
    Halted,
}

impl fmt::Display for RunStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a guest boots: exactly one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Boot {
    /// Boot this kernel directly, without firmware or boot loader.
    Kernel(KernelBoot),
    /// Boot from this disk by the VMM's firmware.
    Disk(DiskBoot),
}

/// A kernel booted directly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KernelBoot {
    /// Name of the Image with format Kernel.
    #[schemars(length(min = 1, max = 253))]
    pub image: String,
    /// Name of the Image with format Initramfs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub initramfs: Option<String>,
    /// Kernel command line. `console=ttyS0` sends the console to `basaltctl logs`. For the first network with a static
    /// address the host appends the kernel's own `ip=` parameter.
    #[serde(default)]
    #[schemars(length(max = 2048), regex(pattern = r"^[^\x00-\x1f]*$"))]
    pub cmdline: String,
}

/// A disk booted by firmware.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskBoot {
    /// Name of the disk in `spec.disks`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// A disk of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("self.readOnly || self.image == oldSelf.image")
        .message("the image of a writable disk cannot be changed: the disk keeps what was written to it. Add a disk of another name in its place")
        .reason(Reason::FieldValueForbidden)
        .field_path(".image")
)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Name of the disk within the VM: lower-case letters, digits and dashes.
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub name: String,
    /// Name of the Image (format Raw or Qcow2) whose content the disk starts with. The image itself is never written:
    /// the VM writes to an overlay of its own, which is deleted with the VM. It cannot be changed unless the disk is read-only.
    #[schemars(length(min = 1, max = 253))]
    pub image: String,
    /// The guest may only read the disk. It cannot be changed.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("a disk is read-only or writable for its life. Add a disk of another name in its place")
        .reason(Reason::FieldValueForbidden))]
    pub read_only: bool,
}

/// A network interface of a VM: a virtio-net device on a tap that is a port of a bridge of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(self.gateway) || has(self.address)")
        .message("a gateway goes with a static address, and there is none")
        .reason(Reason::FieldValueRequired)
        .field_path(".address")
)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Name of the interface within the VM: lower-case letters, digits and dashes.
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub name: String,
    /// Bridge on the host that the interface is attached to. It must exist; the host makes no bridges.
    #[schemars(regex(pattern = r"^[a-zA-Z0-9][-a-zA-Z0-9_.]{0,14}$"))]
    pub bridge: String,
    /// MAC address, lower case. Without it the VM gets one that is derived from its uid and stays the same for its life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 17), regex(pattern = r"^[0-9a-f][26ae](:[0-9a-f]{2}){5}$"))]
    pub mac: Option<String>,
    /// Static IPv4 address of the guest with its prefix length, such as `198.18.77.11/24`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 18),
        regex(
            pattern = r"^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])/(3[0-2]|[12]?[0-9])$"
        )
    )]
    pub address: Option<String>,
    /// IPv4 address of the guest's default gateway. It needs an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])$"))]
    pub gateway: Option<String>,
}

/// Which hosts a VM may run on, and which it should.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.group) || !(has(self.affinity) || has(self.antiAffinity) || has(self.spread))")
        .message("affinity, antiAffinity and spread are among the VMs of a group, and there is none")
        .reason(Reason::FieldValueRequired)
        .field_path(".group")
)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels that a host must have, all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_selector: BTreeMap<String, String>,
    /// VMM program that the host must offer. Without it any program that works on the host is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm: Option<VmmName>,
    /// What the labels of a host must be, beyond `hostSelector`: all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub required_hosts: Vec<HostRequirement>,
    /// What the labels of a host should be: each that is met makes the host more likely by its weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub preferred_hosts: Vec<PreferredHosts>,
    /// The VMs of the namespace with the same group are placed with regard to each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub group: Option<String>,
    /// The VM goes where others of its group are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<GroupRule>,
    /// The VM goes where no other of its group is. Required of one, it holds for those that come later, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anti_affinity: Option<GroupRule>,
    /// The group is spread evenly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
}

/// The label that says which zone a host is in, as Kubernetes has it.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Stands for the host itself where a label says what counts as one place.
pub const HOST_TOPOLOGY: &str = "kubernetes.io/hostname";

/// What a label of a host must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)")
        .message("In and NotIn need values, Exists and DoesNotExist take none")
        .field_path(".values")
)]
#[serde(rename_all = "camelCase")]
pub struct HostRequirement {
    /// The label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label is compared.
    pub operator: LabelOperator,
    /// What it is compared with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 63)))]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// It is there and has one of the values.
    In,
    /// It is not there, or has none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

impl HostRequirement {
    /// Whether labels are so.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            LabelOperator::In => value.is_some_and(|value| self.values.contains(value)),
            LabelOperator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for HostRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(", "));
        match self.operator {
            LabelOperator::In => write!(f, "label {key} in ({values})"),
            LabelOperator::NotIn => write!(f, "label {key} not in ({values})"),
            LabelOperator::Exists => write!(f, "a label {key}"),
            LabelOperator::DoesNotExist => write!(f, "no label {key}"),
        }
    }
}

/// Hosts that are preferred.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreferredHosts {
    /// How much, against a host's room: 10 points are worth a hundredth of the host.
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// What the host's labels are then: all of these.
    #[schemars(length(min = 1, max = 16))]
    pub requirements: Vec<HostRequirement>,
}

/// Whether a rule must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuleMode {
    /// The VM waits rather than break it.
    #[default]
    Required,
    /// It is kept where that costs nothing else.
    Preferred,
}

/// Where a VM is in regard to the others of its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupRule {
    /// Whether it must be so.
    #[serde(default)]
    pub mode: RuleMode,
    /// The label of hosts by which they are the same place. Without it each host is a place of its own.
    #[serde(default = "host_topology")]
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,
}

fn host_topology() -> String {
    HOST_TOPOLOGY.to_owned()
}

/// How evenly a group is spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spread {
    /// The label of hosts by which they are the same place. Places without a host that could take the VM do not count.
    #[serde(default = "zone_topology")]
    #[schemars(length(min = 1, max = 317))]
    pub topology_key: String,
    /// By how many VMs the fullest place may be ahead of the emptiest.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_skew: u32,
    /// Whether it must be so.
    #[serde(default)]
    pub mode: RuleMode,
}

fn zone_topology() -> String {
    ZONE_LABEL.to_owned()
}

/// What is known of a VM. The hub alone writes `observed`, from the agent's reports; the VM controller alone writes the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("!has(oldSelf.placementEpoch) || (has(self.placementEpoch) && self.placementEpoch >= oldSelf.placementEpoch)")
        .message("the placement epoch never falls: under an old one a VM could run twice")
        .reason(Reason::FieldValueForbidden)
        .field_path(".placementEpoch")
)]
#[serde(rename_all = "camelCase")]
pub struct VirtualMachineStatus {
    /// The `metadata.generation` that this status answers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the VM stands, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<VmPhase>,
    /// The host that the VM is placed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Grows by one with every placement. A host acts for a VM only under the newest epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement_epoch: Option<i64>,
    /// Why each host that was looked at could not take the VM. Empty once it is placed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["host"]))]
    pub refusals: Vec<Refusal>,
    /// VMM program that runs the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm: Option<VmmName>,
    /// Addresses of the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Times that the host started the VMM again after it had died.
    #[serde(default)]
    pub restarts: i64,
    /// `Scheduled`, `Ready` and `RestartRequired`, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Why the VM is not yet where its spec wants it. Empty when it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked_by: Vec<BlockedBy>,
    /// What the host last reported of the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ObservedVm>,
}

/// Where a VM stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VmPhase {
    /// Not placed on a host; `refusals` says why.
    Pending,
    /// Placed; its host has not started it yet.
    Scheduled,
    /// Its host prepares or starts it.
    Starting,
    /// The VMM runs the guest.
    Running,
    /// The VMM holds the guest still.
    Paused,
    /// Its host shuts it down.
    Stopping,
    /// It does not run, as wanted.
    Stopped,
    /// It should run but does not, and its host keeps trying; `blockedBy` says why.
    Failed,
    /// Its host does not report. The VM may well run on.
    Unknown,
    /// It is being deleted.
    Terminating,
}

impl fmt::Display for VmPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a host could not take a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The host.
    pub host: String,
    /// Which filter refused.
    pub reason: RefusalReason,
    /// The arithmetic: what the VM needs and what the host has.
    pub message: String,
}

/// The filters of placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RefusalReason {
    /// The host is being deleted.
    HostDeleted,
    /// The host does not report.
    HostNotReady,
    /// `spec.unschedulable` is set on the host.
    HostUnschedulable,
    /// The host lacks a label that the VM selects by.
    SelectorMismatch,
    /// The host's labels are not what the VM requires of them.
    HostAffinity,
    /// The host does not offer the VMM that the VM asks for, or none at all.
    VmmUnavailable,
    /// Others of the VM's group are elsewhere, and it is to be with them.
    Affinity,
    /// Others of the VM's group are here, and it is to be apart from them.
    AntiAffinity,
    /// The VM's group would be spread too unevenly.
    Spread,
    /// Too few CPUs are left.
    InsufficientCpu,
    /// Too little memory is left.
    InsufficientMemory,
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A VM as its host reported it last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObservedVm {
    /// The host that reported.
    pub host: String,
    /// The placement epoch that the host acts under.
    pub epoch: i64,
    /// The `metadata.generation` of the VM that the host has acted on.
    pub generation: i64,
    /// What the host found.
    pub state: VmState,
    /// VMM program that runs the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm: Option<VmmName>,
    /// How the VMM runs the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// When the VMM was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// Times that the VMM was started again after it had died.
    #[serde(default)]
    pub restarts: i64,
    /// Addresses of the guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Fields of the spec that the running machine was not made with: they are in force from its next start on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_restart: Vec<String>,
    /// Why the VM is not as wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What a host found of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VmState {
    /// Nothing of it is on the host: no process, tap or file.
    Absent,
    /// Its files or its VMM are being made ready.
    Starting,
    /// The VMM runs the guest.
    Running,
    /// The VMM holds the guest still.
    Paused,
    /// It is being shut down.
    Stopping,
    /// The VMM does not run, as wanted.
    Stopped,
    /// The VMM should run but does not; `problem` says why.
    Failed,
}

impl fmt::Display for VmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a host cannot bring a VM where its spec wants it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Which of the known reasons it is.
    pub code: BlockedCode,
    /// The object at fault, if it is one of the API's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<crate::ObjectReference>,
    /// The details, and what a person can do.
    pub message: String,
    /// When the host tries again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Time>,
}
