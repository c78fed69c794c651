//! Host: a bare-metal machine with an agent on it.

use crate::Memory;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What an operator wants of a host.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "basalt.dev",
    version = "v1alpha1",
    kind = "Host",
    plural = "hosts",
    shortname = "ho",
    category = "basalt",
    status = "HostStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "A Host is a machine that runs virtual machines. Its agent registers it; labels on it are what VMs select by.",
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase", description = "Ready, NotReady or Pending"),
    printcolumn(
        name = "Unschedulable",
        type_ = "boolean",
        json_path = ".spec.unschedulable",
        description = "True if no new VM is placed here"
    ),
    printcolumn(name = "CPUs", type_ = "integer", json_path = ".status.capacity.cpus", description = "Logical CPUs of the host"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".status.capacity.memory", description = "Memory of the host"),
    printcolumn(name = "VMM", type_ = "string", json_path = ".status.vmms[*].name", description = "VMM programs that work on the host"),
    printcolumn(
        name = "Address",
        type_ = "string",
        json_path = ".status.addresses[0]",
        priority = 1,
        description = "First address of the host"
    ),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agentVersion", priority = 1, description = "Version of the agent"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since the host registered")
)]
#[serde(rename_all = "camelCase")]
pub struct HostSpec {
    /// No new VM is placed on the host while this is true; the VMs that it has stay.
    #[serde(default)]
    pub unschedulable: bool,
    /// Capacity kept for the host's own use and never given to VMs.
    #[serde(default)]
    pub reserved: Resources,
    /// How much more than the host has is given to VMs.
    #[serde(default)]
    pub overcommit: Overcommit,
}

/// How much of what a host has beyond `reserved` is given to VMs, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Overcommit {
    /// Of the CPUs: 400 means four virtual CPUs for each.
    #[serde(default = "all")]
    #[schemars(range(min = 10, max = 3200))]
    pub cpu_percent: u32,
    /// Of the memory. More than 100 needs swap, or guests that do not use theirs.
    #[serde(default = "all")]
    #[schemars(range(min = 10, max = 400))]
    pub memory_percent: u32,
}

fn all() -> u32 {
    100
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { cpu_percent: all(), memory_percent: all() }
    }
}

impl Overcommit {
    /// What may be given away of what there is.
    pub fn of(self, there: Resources) -> Resources {
        let cpus = u64::from(there.cpus) * u64::from(self.cpu_percent) / 100;
        let memory = u128::from(there.memory.0) * u128::from(self.memory_percent) / 100;
        Resources { cpus: u32::try_from(cpus).unwrap_or(u32::MAX), memory: Memory(u64::try_from(memory).unwrap_or(u64::MAX)) }
    }
}

/// CPUs and memory, of a host or wanted by a VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Logical CPUs.
    #[serde(default)]
    pub cpus: u32,
    /// Memory, such as `64Gi`.
    #[serde(default)]
    pub memory: Memory,
}

/// What is known of a host. The agent's reports fill the inventory; the host controller alone
/// writes `phase`, `conditions`, `allocatable` and `lastHeartbeat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// Where the host stands, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<HostPhase>,
    /// `Ready` and `Schedulable`, each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What the machine has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Resources>,
    /// What VMs may use of it: capacity less `spec.reserved`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<Resources>,
    /// The VMM programs that the agent found to work.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub vmms: Vec<Vmm>,
    /// The kernel's boot id: it changes with every boot of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Version of the agent, with its commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Addresses of the host, the one it reaches the gateway from first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The last time the controller saw a new heartbeat. The exact time of the newest one is the host's Lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<Time>,
}

/// Where a host stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HostPhase {
    /// Registered, but its agent has not reported yet.
    Pending,
    /// Its agent reports.
    Ready,
    /// Its agent has missed its heartbeats. Its VMs may well run on.
    NotReady,
}

impl fmt::Display for HostPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Why a host is Ready or not: the `reason` of its `Ready` condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostReason {
    /// The agent renews its lease.
    AgentReports,
    /// The agent has not renewed its lease in time.
    HeartbeatMissed,
    /// The agent has never reported.
    NeverReported,
    /// The agent reports but found no VMM program that works.
    NoWorkingVmm,
}

impl fmt::Display for HostReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A VMM program on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vmm {
    /// Which program.
    pub name: VmmName,
    /// What the program says its version is.
    pub version: String,
    /// How it runs guests here.
    pub accelerator: Accelerator,
}

/// The VMM programs that Basalt drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VmmName {
    /// Cloud Hypervisor, over its REST API.
    CloudHypervisor,
    /// QEMU, over QMP.
    Qemu,
    /// No VMM at all: a simulator for tests of scale, which runs no guest. Only ever used when asked for by name.
    Simulated,
}

impl fmt::Display for VmmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// How a VMM runs guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's software emulation: slow, but needs nothing.
    Tcg,
    /// Nothing runs.
    Simulated,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
