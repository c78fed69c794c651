//! What the host has: for its Host object.

use crate::{config::Config, net, vmm::VmmProbe};
use basalt_api::host::VmmName;
use basalt_proto::v1::{HostInventory, VmmReport};
use std::fs;

/// Looks at the host.
pub async fn look(config: &Config, vmms: &[(VmmName, VmmProbe)]) -> HostInventory {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
    HostInventory {
        boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        agent_version: basalt_daemon::version::VERSION.to_owned(),
        cpus: config.capacity_cpus.unwrap_or(cpus),
        memory_bytes: config.capacity_memory.map_or(memory.unwrap_or(0) << 10, |memory| memory.bytes()),
        vmms: vmms
            .iter()
            .map(|(name, probe)| VmmReport {
                name: name.to_string(),
                version: probe.version.clone(),
                accelerator: probe.accelerator.to_string(),
            })
            .collect(),
        addresses: net::addresses().await.unwrap_or_default(),
    }
}
