//! The agent of a host: converges its VMs toward the gateway's manifest, with or without the gateway.
//!
//! The manifest goes into the ledger on disk first and is obeyed from there. Every VM has a task of its own ([`vm`]); every
//! VMM outlives the agent and is adopted by the next one ([`vmm`]).

pub mod config;
pub mod console;
pub mod disk;
pub mod files;
pub mod identity;
pub mod images;
pub mod inventory;
pub mod ledger;
pub mod net;
pub mod os;
pub mod process;
pub mod program;
pub mod session;
pub mod task;
pub mod vm;
pub mod vmm;

use basalt_daemon::traces;
use config::Config;
use files::FileError;
use ledger::Ledger;
use nix::fcntl::{Flock, FlockArg};
use session::Session;
use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use task::{Surroundings, Tasks};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use vm::host::{Doors, Vms};

/// How often consoles are looked at for their size.
const TRIM: Duration = Duration::from_secs(5);

/// The agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file or directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another agent has the directory.
    #[error("another basalt-agent runs on {0}. One host has one agent: end the other, or give this one a data directory of its own")]
    Busy(std::path::PathBuf),
}

/// Runs the agent until `shutdown`. The VMs run on after that.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), AgentError> {
    files::make_dir(&config.data_dir)?;
    let _lock = lock(&config)?;
    let mut ledger = Ledger::open(&config.data_dir.join("ledger"), &config.host)?;
    let mut working = Vec::new();
    for (vmm, probe) in vmm::drivers(config.vmm).await {
        match probe {
            Ok(probe) => {
                tracing::info!(vmm = %vmm.name(), version = probe.version, accelerator = %probe.accelerator, "VMM program works");
                working.push((vmm, probe));
            }
            Err(error) => tracing::info!(vmm = %vmm.name(), "VMM program is not used: {error}"),
        }
    }
    let known: Vec<_> = working.iter().map(|(vmm, probe)| (vmm.name(), probe.clone())).collect();
    let inventory = inventory::look(&config, &known).await;
    let doors = Arc::new(Doors::new(working));
    let vms_dir = config.data_dir.join("vms");
    let mut vms = Vms::open(&vms_dir, doors.clone())?;
    if let Some(manifest) = ledger.manifest() {
        tracing::info!(generation = manifest.generation, vms = manifest.vms.len(), "going on from the ledger");
        vms.apply(manifest).await;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let tasks =
        Tasks::open(Surroundings { data_dir: config.data_dir.clone(), doors: doors.clone(), path, boot_id: inventory.boot_id.clone() })?;
    let (manifests, mut incoming) = mpsc::channel(1);
    let (acknowledge, acknowledged) = watch::channel(ledger.generation());
    let limit = config.console_limit.bytes();
    let session = Arc::new(Session { config, inventory, doors, tasks, manifests, acknowledged, vms_dir, heartbeat: AtomicU64::new(0) });
    let talking = tokio::spawn(session.run(shutdown.clone()));
    let mut trim = tokio::time::interval(TRIM);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            manifest = incoming.recv() => {
                let Some(manifest) = manifest else { break };
                match ledger.take(manifest) {
                    Ok(()) => {
                        if let Some(manifest) = ledger.manifest() {
                            tracing::debug!(generation = manifest.generation, vms = manifest.vms.len(), "manifest taken");
                            let span = tracing::info_span!(
                                target: traces::TARGET,
                                "manifest",
                                otel.kind = "consumer",
                                basalt.host = manifest.host,
                                basalt.generation = manifest.generation,
                                basalt.vms = manifest.vms.len(),
                            );
                            vms.apply(manifest).instrument(span).await;
                        }
                        acknowledge.send_replace(ledger.generation());
                    }
                    Err(error) => tracing::error!("manifest refused: {error}"),
                }
            }
            _ = trim.tick() => {
                for dir in vms.dirs() {
                    if let Err(error) = console::trim(&dir, limit).await {
                        tracing::warn!(dir = %dir.path().display(), "the console log cannot be kept small: {error}");
                    }
                }
            }
        }
    }
    // The session ends by the same token.
    let _ = talking.await;
    tracing::info!("agent ended; VMs run on");
    Ok(())
}

fn lock(config: &Config) -> Result<Flock<std::fs::File>, AgentError> {
    let path = config.data_dir.join("lock");
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(FileError::at("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| AgentError::Busy(config.data_dir.clone()))
}
