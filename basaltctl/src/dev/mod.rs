//! `basaltctl dev`: a fleet of one gateway and several hosts on this machine, for demos, tests and development.
//!
//! Each host is a `basalt-agent` in a network namespace of its own, joined to the others and to the gateway by a bridge.
//! With the simulated VMM there are no namespaces and no root is needed. `up` on a fleet that exists starts what does not
//! run; `down` leaves nothing behind.

mod down;
mod fleet;
mod network;
mod preflight;
mod process;
mod status;
mod up;

use crate::{error::Report, exit::Exit};
use std::{path::PathBuf, time::Duration};

/// The fleet verbs.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Start a fleet, or what does not run of it, and wait until all hosts are Ready
    Up(UpArgs),
    /// Stop a fleet and remove every trace of it
    Down(DownArgs),
    /// Show what runs of a fleet
    Status(StatusArgs),
}

/// Where a fleet lives.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// Directory of the fleet: its state, logs, pid files and admin.kubeconfig
    #[arg(long, value_name = "D", default_value = ".basalt-dev", env = "BASALT_DEV_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// How to start a fleet. An existing fleet keeps the settings that it was made with.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    #[command(flatten)]
    place: Place,
    /// Number of hosts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=200))]
    hosts: u8,
    /// VMM program of the hosts; `simulated` runs no guests and needs no root
    #[arg(long, value_enum, default_value_t = VmmChoice::Auto)]
    vmm: VmmChoice,
    /// Where the gateway keeps its state; `etcd` starts one of the fleet's own
    #[arg(long, value_enum, default_value_t = StoreChoice::Embedded)]
    store: StoreChoice,
    /// Network that gateway, hosts and guests share, a /24 [default: the first free one in 198.18.0.0/16]
    #[arg(long, value_name = "CIDR")]
    subnet: Option<fleet::Subnet>,
    /// CPUs that each host offers [default: those of this machine]
    #[arg(long, value_name = "N")]
    host_cpus: Option<u32>,
    /// Memory that each host offers, such as 8Gi [default: that of this machine]
    #[arg(long, value_name = "SIZE")]
    host_memory: Option<basalt_api::Memory>,
    /// Seconds without a report after which a host is NotReady
    #[arg(long, value_name = "S", default_value_t = 10)]
    host_grace_seconds: u64,
    /// Directory with basalt-gateway and basalt-agent [default: that of basaltctl]
    #[arg(long, value_name = "DIR", env = "BASALT_BIN_DIR")]
    bin_dir: Option<PathBuf>,
    /// How long to wait for the hosts, in seconds
    #[arg(long, value_name = "S", default_value_t = 120)]
    timeout: u64,
}

/// How to end a fleet.
#[derive(Debug, clap::Args)]
pub struct DownArgs {
    #[command(flatten)]
    place: Place,
    /// Keep the data directory, so that `up` continues with the same state
    #[arg(long)]
    keep_data: bool,
}

/// Which fleet to show.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    place: Place,
}

/// Which VMM program the hosts use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum VmmChoice {
    /// Whatever works: Cloud Hypervisor or QEMU.
    Auto,
    /// QEMU.
    Qemu,
    /// Cloud Hypervisor.
    CloudHypervisor,
    /// A simulator: runs no guests.
    Simulated,
}

impl VmmChoice {
    fn flag(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Simulated => "simulated",
        }
    }
}

/// Where the gateway keeps its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum StoreChoice {
    /// In the gateway.
    Embedded,
    /// In an etcd that the fleet starts.
    Etcd,
}

/// Why a fleet verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something; nothing was started.
    #[error("this machine is not ready for a fleet with {vmm} hosts")]
    Missing {
        /// The VMM asked for.
        vmm: &'static str,
        /// What is missing.
        missing: Vec<String>,
        /// The command that mends it.
        remedy: String,
    },
    /// A file of the fleet.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The fleet's state file is not readable.
    #[error("{path} is not the state of a fleet: {reason}")]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// There is no fleet.
    #[error("there is no fleet in {0}")]
    NoFleet(PathBuf),
    /// Another `dev` runs on the same directory.
    #[error("another basaltctl dev is at work on {0}")]
    Busy(PathBuf),
    /// The subnet is no /24 or is in use.
    #[error("the subnet {subnet} cannot be used: {reason}")]
    Subnet {
        /// The subnet.
        subnet: String,
        /// Why.
        reason: String,
    },
    /// `ip` refused.
    #[error("cannot set up the network: `{command}` failed: {stderr}")]
    Network {
        /// The command line.
        command: String,
        /// Its last words.
        stderr: String,
    },
    /// A program of the fleet ended or did not become ready.
    #[error("{program} {problem}")]
    Program {
        /// Which, such as `gateway`.
        program: String,
        /// What happened.
        problem: String,
        /// Its log file.
        log: PathBuf,
        /// The end of the log.
        tail: Vec<String>,
    },
    /// Hosts did not become Ready in time.
    #[error("{} of {total} hosts are not Ready after {} s", .waiting.len(), .after.as_secs())]
    NotReady {
        /// Each host that is not Ready, and why.
        waiting: Vec<String>,
        /// How many hosts there are.
        total: usize,
        /// How long was waited.
        after: Duration,
        /// Where the logs are.
        logs: PathBuf,
    },
    /// The gateway's API.
    #[error("cannot ask the gateway: {0}")]
    Api(#[from] Box<kube::Error>),
    /// The kubeconfig that the gateway wrote.
    #[error("cannot use {path}: {reason}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// What the process exits with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Missing { .. } | Self::Subnet { .. } => Exit::Usage,
            Self::NoFleet(_) => Exit::NotFound,
            Self::Busy(_) => Exit::TryAgain,
            Self::NotReady { .. } => Exit::TimeUp,
            Self::Api(_) | Self::Kubeconfig { .. } => Exit::Unreachable,
            Self::Program { .. } => Exit::Failed,
            Self::File { .. } | Self::State { .. } | Self::Network { .. } => Exit::Bug,
        }
    }

    /// Adds to a report what an operator wants to know besides what happened.
    pub fn explain(&self, report: &mut Report) {
        match self {
            Self::Missing { missing, remedy, .. } => {
                report.why.clone_from(missing);
                report.remedy.push(remedy.clone());
            }
            Self::NoFleet(dir) => report.remedy.push(format!("basaltctl dev up --data-dir {}", dir.display())),
            Self::Busy(dir) => report.remedy.push(format!("wait for it, or see: basaltctl dev status --data-dir {}", dir.display())),
            Self::Program { log, tail, .. } => {
                report.at.push(log.display().to_string());
                report.snippet.clone_from(tail);
            }
            Self::NotReady { waiting, logs, .. } => {
                report.why.clone_from(waiting);
                report.remedy.push(format!("look at the logs in {}", logs.display()));
            }
            Self::File { .. }
            | Self::State { .. }
            | Self::Subnet { .. }
            | Self::Network { .. }
            | Self::Api(_)
            | Self::Kubeconfig { .. } => {}
        }
    }
}

/// Runs a fleet verb.
pub async fn run(command: &Command) -> Result<(), Error> {
    match command {
        Command::Up(args) => up::up(args).await,
        Command::Down(args) => down::down(args).await,
        Command::Status(args) => status::status(args).await,
    }
}
