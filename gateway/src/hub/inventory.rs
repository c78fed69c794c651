//! What a host reports of itself: the hub's fields of `Host.status`, checked before they are written.

use super::observe::Unreadable;
use basalt_api::{
    HostStatus, Memory,
    host::{Resources, Vmm},
};
use basalt_proto::v1::{HostInventory, VmmReport};
use serde::Serialize;
use serde_json::Value;
use std::net::IpAddr;

/// The largest memory that the API can say.
const MOST_MEMORY: u64 = 9999 << 40;
/// How many addresses of a host are kept.
const MOST_ADDRESSES: usize = 64;
/// How long a text may be.
const LONGEST_TEXT: usize = 256;

/// The fields of `Host.status` that the hub alone writes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    capacity: Option<Resources>,
    vmms: Vec<Vmm>,
    boot_id: Option<String>,
    agent_version: Option<String>,
    addresses: Vec<String>,
}

impl Inventory {
    /// What the API has.
    pub fn standing(status: Option<&HostStatus>) -> Self {
        let status = status.cloned().unwrap_or_default();
        Self {
            capacity: status.capacity,
            vmms: status.vmms,
            boot_id: status.boot_id,
            agent_version: status.agent_version,
            addresses: status.addresses,
        }
    }

    /// Reads a host's report. A VMM or an address that cannot be read is left out and told of.
    pub fn read(report: &HostInventory, host: &str) -> Result<(Self, Vec<Unreadable>), Unreadable> {
        let unreadable = |field, reason: String| Unreadable { field, subject: format!("the inventory of host {host}"), reason };
        if report.memory_bytes > MOST_MEMORY {
            return Err(unreadable("memory_bytes", format!("{} is more than a host can have", report.memory_bytes)));
        }
        let (mut vmms, mut skipped): (Vec<Vmm>, Vec<Unreadable>) = (Vec::new(), Vec::new());
        for report in &report.vmms {
            match vmm(report) {
                Ok(vmm) if vmms.iter().any(|other| other.name == vmm.name) => {
                    skipped.push(unreadable("vmms", format!("{} is there twice", vmm.name)));
                }
                Ok(vmm) => vmms.push(vmm),
                Err(reason) => skipped.push(unreadable("vmms", reason)),
            }
        }
        let (addresses, wrong): (Vec<_>, Vec<_>) = report.addresses.iter().partition(|text| text.parse::<IpAddr>().is_ok());
        skipped.extend(wrong.iter().map(|text| unreadable("addresses", format!("{text:?} is not an IP address"))));
        let inventory = Self {
            capacity: Some(Resources { cpus: report.cpus, memory: Memory(report.memory_bytes & !1023) }),
            vmms,
            boot_id: text(&report.boot_id),
            agent_version: text(&report.agent_version),
            addresses: addresses.into_iter().take(MOST_ADDRESSES).cloned().collect(),
        };
        Ok((inventory, skipped))
    }
}

fn vmm(report: &VmmReport) -> Result<Vmm, String> {
    let known = |text: &str| Value::String(text.to_owned());
    Ok(Vmm {
        name: serde_json::from_value(known(&report.name)).map_err(|e| e.to_string())?,
        version: text(&report.version).unwrap_or_default(),
        accelerator: serde_json::from_value(known(&report.accelerator)).map_err(|e| e.to_string())?,
    })
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.chars().filter(|c| !c.is_control()).take(LONGEST_TEXT).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmm(name: &str) -> VmmReport {
        VmmReport { name: name.into(), version: "9.1".into(), accelerator: "Kvm".into() }
    }

    #[test]
    fn what_a_host_reports_is_what_the_api_has_after_it_was_written() {
        let report = HostInventory {
            boot_id: "b".into(),
            agent_version: "0.1".into(),
            cpus: 4,
            memory_bytes: (8 << 30) + 5,
            vmms: vec![vmm("Qemu"), vmm("CloudHypervisor")],
            addresses: vec!["198.18.77.2".into()],
        };
        let (inventory, skipped) = Inventory::read(&report, "h1").unwrap();
        let status: HostStatus = serde_json::from_value(serde_json::to_value(&inventory).unwrap()).unwrap();
        assert_eq!(Inventory::standing(Some(&status)), inventory);
        assert_eq!((status.capacity.unwrap().memory, skipped.len()), (Memory(8 << 30), 0));
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_told_of() {
        let report = HostInventory {
            vmms: vec![vmm("Qemu"), vmm("Qemu"), vmm("Xen")],
            addresses: vec!["here".into(), "::1".into()],
            ..HostInventory::default()
        };
        let (inventory, skipped) = Inventory::read(&report, "h1").unwrap();
        assert_eq!((inventory.vmms.len(), inventory.addresses.len(), skipped.len()), (1, 1, 3));
        let error = Inventory::read(&HostInventory { memory_bytes: u64::MAX, ..report }, "h1").unwrap_err();
        assert!(error.to_string().starts_with("memory_bytes of the inventory of host h1"), "{error}");
    }
}
