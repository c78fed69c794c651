//! The VMM programs: one trait, one driver a program.
//!
//! A driver starts one VMM process per VM, talks to it over a socket in the VM's directory, and forgets nothing that it
//! could not find again: after `kill -9` of the agent the next one adopts every VMM from its directory alone.

pub mod cloud_hypervisor;
mod kvm;
pub mod qemu;
mod qmp;
pub mod simulated;
mod spawned;

use basalt_api::host::{Accelerator, VmmName};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Which VMM programs a host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum VmmChoice {
    /// Every program that works: Cloud Hypervisor first, then QEMU.
    Auto,
    /// QEMU alone.
    Qemu,
    /// Cloud Hypervisor alone.
    CloudHypervisor,
    /// The simulator, which runs no guests.
    Simulated,
}

/// The drivers of a choice, each with what its probe found.
pub async fn drivers(choice: VmmChoice) -> Vec<(Arc<dyn Vmm>, Result<VmmProbe, VmmError>)> {
    let drivers: Vec<Arc<dyn Vmm>> = match choice {
        VmmChoice::Auto => vec![Arc::new(cloud_hypervisor::CloudHypervisor), Arc::new(qemu::Qemu::default())],
        VmmChoice::Qemu => vec![Arc::new(qemu::Qemu::default())],
        VmmChoice::CloudHypervisor => vec![Arc::new(cloud_hypervisor::CloudHypervisor)],
        VmmChoice::Simulated => vec![Arc::new(simulated::Simulated)],
    };
    let mut probed = Vec::new();
    for driver in drivers {
        let probe = driver.probe().await;
        probed.push((driver, probe));
    }
    probed
}

/// A guest as a VMM needs to know it: everything resolved to files and devices of this host.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Machine {
    /// Uid of the VirtualMachine; also the guest's SMBIOS/system uuid.
    pub uid: String,
    /// `namespace/name`, for people.
    pub title: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Guest memory in bytes.
    pub memory_bytes: u64,
    /// What to boot.
    pub boot: MachineBoot,
    /// Disks, in the order in which the guest sees them. With [`MachineBoot::Disk`] the boot disk comes first.
    pub disks: Vec<MachineDisk>,
    /// Network interfaces, in the order in which the guest sees them.
    pub nics: Vec<MachineNic>,
}

/// What a guest boots.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum MachineBoot {
    /// A kernel, without firmware.
    Kernel {
        /// bzImage or PVH vmlinux.
        kernel: PathBuf,
        /// Initial RAM file system.
        initramfs: Option<PathBuf>,
        /// The whole command line.
        cmdline: String,
    },
    /// The first disk, by firmware.
    Disk,
}

/// A disk of a guest.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MachineDisk {
    /// Name of the disk within the VM.
    pub name: String,
    /// The file that the guest writes to (its own overlay) or reads.
    pub path: PathBuf,
    /// The file is qcow2; raw otherwise. Never guessed from the content, which a guest can forge.
    pub qcow2: bool,
    /// The guest may only read it.
    pub read_only: bool,
}

/// A network interface of a guest.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct MachineNic {
    /// Name of the interface within the VM.
    pub name: String,
    /// The tap on the host; it exists and is a port of its bridge before the VMM starts.
    pub tap: String,
    /// MAC address of the guest's end.
    pub mac: String,
}

/// The directory of one VM on this host. It holds all that the host has of the VM: sockets, pid file, overlays, console log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmDir(PathBuf);

impl VmDir {
    /// The directory at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The guest's serial console, size-limited.
    pub fn console_log(&self) -> PathBuf {
        self.0.join("console.log")
    }
}

/// A running VMM process, identified so that a reused pid is never mistaken for it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct VmmProcess {
    /// Process id.
    pub pid: i32,
    /// Start time in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
}

/// What a VMM says of its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestState {
    /// The VMM is there, the guest has not been started.
    Created,
    /// vCPUs run.
    Running,
    /// vCPUs are held, by a person or by us.
    Paused,
    /// The guest shut itself down; the VMM is still there.
    Shutdown,
    /// The guest crashed (panic, triple fault, internal error); the VMM is still there.
    Crashed,
}

/// What a driver found when it tried its program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmmProbe {
    /// What the program says its version is.
    pub version: String,
    /// How guests run: probed by running one instruction's worth of guest, not by looking for `/dev/kvm`.
    pub accelerator: Accelerator,
}

/// Counters of one guest since its VMM started. What a VMM cannot tell is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmCounters {
    /// Per disk name: bytes read, bytes written.
    pub disks: Vec<(String, u64, u64)>,
    /// Per interface name: bytes received by the guest, bytes sent by it.
    pub nics: Vec<(String, u64, u64)>,
}

/// A step with a VMM failed.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The program is not there.
    #[error("{program} is not installed (looked on PATH)")]
    NotInstalled {
        /// Which.
        program: String,
    },
    /// The program could not be started or ended at once.
    #[error("cannot start {program} for {vm}: {reason}")]
    Start {
        /// Which.
        program: String,
        /// `namespace/name` of the VM.
        vm: String,
        /// Its last words, or the system's.
        reason: String,
    },
    /// The VMM's socket did not answer.
    #[error("the VMM of {vm} does not answer to {request} on {socket}: {reason}")]
    Silent {
        /// `namespace/name` or uid of the VM.
        vm: String,
        /// What we asked.
        request: &'static str,
        /// Where.
        socket: String,
        /// What happened.
        reason: String,
    },
    /// The VMM refused a request.
    #[error("the VMM of {vm} refused {request}: {reason}")]
    Refused {
        /// `namespace/name` or uid of the VM.
        vm: String,
        /// What we asked.
        request: &'static str,
        /// What it said.
        reason: String,
    },
    /// A file of the VM's directory could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What we tried.
        action: &'static str,
        /// On which file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A VMM program. Every method has a deadline of its own and says in its error what it tried.
#[async_trait::async_trait]
pub trait Vmm: Send + Sync + 'static {
    /// Which program.
    fn name(&self) -> VmmName;

    /// Finds out whether the program works on this host, and how.
    async fn probe(&self) -> Result<VmmProbe, VmmError>;

    /// Starts a VMM for the machine in a directory that exists, with the guest running, in a session of its own so that
    /// it outlives the agent. Writes the process to the directory before the guest runs.
    async fn start(&self, machine: &Machine, dir: &VmDir) -> Result<VmmProcess, VmmError>;

    /// The VMM that a directory belongs to, if it still lives: how a new agent finds what the last one started.
    async fn adopt(&self, dir: &VmDir) -> Result<Option<VmmProcess>, VmmError>;

    /// What the VMM says of its guest.
    async fn state(&self, dir: &VmDir) -> Result<GuestState, VmmError>;

    /// Lets held vCPUs run.
    async fn resume(&self, dir: &VmDir) -> Result<(), VmmError>;

    /// Holds the vCPUs.
    async fn pause(&self, dir: &VmDir) -> Result<(), VmmError>;

    /// Presses the guest's power button (ACPI). Returns at once; the guest may ignore it.
    async fn power_button(&self, dir: &VmDir) -> Result<(), VmmError>;

    /// Ends the VMM: asks it to quit, kills it when it does not within the driver's deadline, and removes its sockets and
    /// process file. Fine if there is none.
    async fn destroy(&self, dir: &VmDir) -> Result<(), VmmError>;

    /// What the VMM counted.
    async fn counters(&self, dir: &VmDir) -> Result<VmCounters, VmmError>;

    /// Resolves when the VMM process has ended or its guest has left the given state (shut down, crashed, paused by hand):
    /// at once by the VMM's own events and the process's pidfd, not by polling alone.
    async fn changed(&self, dir: &VmDir, from: GuestState);
}
