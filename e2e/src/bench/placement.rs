//! Placements a second over many hosts, by the search that the VM controller makes.

use super::BenchError;
use basalt_api::{Host, VirtualMachine};
use basalt_controllers::vm::{
    fleet::{Fleet, Placed},
    place::CONSTRAINTS,
};
use serde_json::{Value, json};
use std::time::Instant;

/// How many hosts there are, and how many VMs come.
const HOSTS: usize = 5_000;
const VMS: usize = 100_000;
/// How many are placed by looking at every host, which takes longer.
const BY_ALL: usize = 500;

/// Prints placements a second against looking at every host.
pub fn run() -> Result<(), BenchError> {
    println!(
        "placements over {HOSTS} hosts of three sizes in ten zones, {VMS} VMs one after the other; reference: looking at every host for {} constraints",
        CONSTRAINTS.len()
    );
    println!("{:<44} {:>12} {:>14} {:>8}", "VMS", "PLACEMENTS/S", "BY ALL HOSTS/S", "RATIO");
    let zone = |operator: &str, zones: &[&str]| json!([{ "key": "topology.kubernetes.io/zone", "operator": operator, "values": zones }]);
    let required = zone("NotIn", &["zone-0", "zone-1", "zone-2"]);
    let preferred = json!([{ "weight": 50, "requirements": zone("In", &["zone-3", "zone-4"]) }]);
    let plain = |_| json!({});
    let groups = |n| json!({ "group": format!("g{}", n / 10), "antiAffinity": {}, "spread": {} });
    let zoned = |_| json!({ "requiredHosts": required, "preferredHosts": preferred });
    let rows: [(&str, &dyn Fn(usize) -> Value); 3] =
        [("plain", &plain), ("of groups of 10, apart and over zones", &groups), ("with required and preferred zones", &zoned)];
    for (name, placement) in rows {
        let vms: Vec<VirtualMachine> = (0..VMS).map(|n| vm(n, placement(n))).collect::<Result<_, _>>()?;
        let mut fleet = fleet()?;
        let begin = Instant::now();
        let mut placed = 0usize;
        for vm in &vms {
            if let Placed::On(host) = fleet.place(vm) {
                fleet.reserve(vm, &host);
                placed += 1;
            }
        }
        let by_search = rate(placed, begin);
        if placed < VMS {
            return Err(BenchError::new("place all VMs", format!("{placed} of {VMS} found a host")));
        }
        let mut fleet = self::fleet()?;
        let begin = Instant::now();
        for vm in vms.iter().take(BY_ALL) {
            if let Some(host) = fleet.place_by_all(vm) {
                fleet.reserve(vm, &host);
            }
        }
        let by_all = rate(BY_ALL, begin);
        println!("{name:<44} {by_search:>12.0} {by_all:>14.0} {:>8.1}", by_search / by_all);
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "counts are small")]
fn rate(count: usize, begin: Instant) -> f64 {
    count as f64 / begin.elapsed().as_secs_f64()
}

fn fleet() -> Result<Fleet, BenchError> {
    let mut fleet = Fleet::default();
    for n in 0..HOSTS {
        let (cpus, memory) = [(64, "256Gi"), (128, "512Gi"), (96, "1Ti")][n % 3];
        let host: Host = serde_json::from_value(json!({
            "metadata": { "name": format!("host-{n:04}"), "labels": { "topology.kubernetes.io/zone": format!("zone-{}", n % 10) } },
            "spec": {},
            "status": {
                "conditions": [{ "type": "Ready", "status": "True", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
                "vmms": [{ "name": "Qemu", "version": "10", "accelerator": "Kvm" }],
                "allocatable": { "cpus": cpus, "memory": memory },
            },
        }))
        .map_err(|e| BenchError::new("make a host", e))?;
        fleet.put_host(&host);
    }
    Ok(fleet)
}

fn vm(n: usize, placement: Value) -> Result<VirtualMachine, BenchError> {
    let (cpus, memory) = [(1, "1Gi"), (2, "4Gi"), (2, "16Gi"), (4, "8Gi")][n % 4];
    let vm = json!({
        "metadata": { "name": format!("vm-{n}"), "namespace": "default", "uid": format!("uid-{n}"), "resourceVersion": "1" },
        "spec": { "cpus": cpus, "memory": memory, "boot": { "disk": { "name": "root" } }, "disks": [{ "name": "root", "image": "disk" }], "placement": placement },
    });
    serde_json::from_value(vm).map_err(|e| BenchError::new("make a VM", e))
}
