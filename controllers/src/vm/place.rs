//! Placement: filters that refuse a host with a reason, then a score among those that are left.
//!
//! The filters run in the order of [`RefusalReason`]; the first that refuses is the one that is told. The score prefers the
//! host that would be least full afterwards, then the one with fewer VMs, then the first by name, so that a placement can
//! be explained and repeated.

use basalt_api::{
    Host, VirtualMachineSpec,
    host::{Resources, VmmName},
    virtual_machine::{Refusal, RefusalReason},
};
use kube::ResourceExt;
use std::{cmp::Ordering, collections::BTreeMap};

/// A host as placement sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Name of the host.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// It is being deleted.
    pub deleted: bool,
    /// Its agent reports.
    pub ready: bool,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// VMM programs that work on it.
    pub vmms: Vec<VmmName>,
    /// What VMs may use of it.
    pub allocatable: Resources,
    /// What VMs placed on it use, running or not, so that a halted VM can always be started where its disks are.
    pub used: Resources,
    /// How many VMs are placed on it.
    pub vms: usize,
}

impl Candidate {
    /// A host with nothing on it yet; [`Candidate::take`] adds the VMs.
    pub fn new(host: &Host) -> Self {
        let status = host.status.clone().unwrap_or_default();
        Self {
            name: host.name_any(),
            labels: host.labels().clone(),
            deleted: host.metadata.deletion_timestamp.is_some(),
            ready: status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            unschedulable: host.spec.unschedulable,
            vmms: status.vmms.iter().map(|v| v.name).collect(),
            allocatable: status.allocatable.unwrap_or_default(),
            used: Resources::default(),
            vms: 0,
        }
    }

    /// Counts a VM that is placed on the host.
    pub fn take(&mut self, wanted: Resources) {
        self.used.cpus = self.used.cpus.saturating_add(wanted.cpus);
        self.used.memory.0 = self.used.memory.0.saturating_add(wanted.memory.0);
        self.vms += 1;
    }

    fn free(&self) -> Resources {
        Resources {
            cpus: self.allocatable.cpus.saturating_sub(self.used.cpus),
            memory: basalt_api::Memory(self.allocatable.memory.0.saturating_sub(self.used.memory.0)),
        }
    }

    /// How full the fuller of the two resources would be with the VM, in thousandths.
    fn fullness(&self, wanted: Resources) -> u64 {
        let share =
            |used: u64, of: u64| if of == 0 { 1000 } else { u64::try_from(u128::from(used) * 1000 / u128::from(of)).unwrap_or(u64::MAX) };
        let cpus = share(u64::from(self.used.cpus) + u64::from(wanted.cpus), u64::from(self.allocatable.cpus));
        let memory = share(self.used.memory.0.saturating_add(wanted.memory.0), self.allocatable.memory.0);
        cpus.max(memory)
    }
}

/// What placement found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The host that takes the VM.
    On(String),
    /// No host does: the reason of each, in the order of their names.
    Nowhere(Vec<Refusal>),
}

/// Finds the host for a VM.
pub fn place(spec: &VirtualMachineSpec, hosts: &[Candidate]) -> Placed {
    let mut refusals = Vec::new();
    let mut best: Option<&Candidate> = None;
    for host in hosts {
        match refusal(spec, host) {
            Some((reason, message)) => refusals.push(Refusal { host: host.name.clone(), reason, message }),
            None if best.is_none_or(|best| better(spec, host, best) == Ordering::Less) => best = Some(host),
            None => {}
        }
    }
    refusals.sort_by(|a, b| a.host.cmp(&b.host));
    best.map_or(Placed::Nowhere(refusals), |host| Placed::On(host.name.clone()))
}

fn better(spec: &VirtualMachineSpec, a: &Candidate, b: &Candidate) -> Ordering {
    let wanted = spec.resources();
    (a.fullness(wanted), a.vms, &a.name).cmp(&(b.fullness(wanted), b.vms, &b.name))
}

/// Why a host cannot take a VM, or `None` if it can.
pub fn refusal(spec: &VirtualMachineSpec, host: &Candidate) -> Option<(RefusalReason, String)> {
    let (wanted, free) = (spec.resources(), host.free());
    if host.deleted {
        return Some((RefusalReason::HostDeleted, "the host is being deleted".into()));
    }
    if !host.ready {
        return Some((RefusalReason::HostNotReady, "the host is not Ready".into()));
    }
    if host.unschedulable {
        return Some((RefusalReason::HostUnschedulable, "spec.unschedulable is set on the host".into()));
    }
    for (key, value) in &spec.placement.host_selector {
        match host.labels.get(key) {
            Some(has) if has == value => {}
            Some(has) => return Some((RefusalReason::SelectorMismatch, format!("needs label {key}={value}, the host has {key}={has}"))),
            None => return Some((RefusalReason::SelectorMismatch, format!("needs label {key}={value}, the host has no label {key}"))),
        }
    }
    if let Some(vmm) = spec.placement.vmm
        && !host.vmms.contains(&vmm)
    {
        return Some((RefusalReason::VmmUnavailable, format!("needs {vmm}, the host has {}", list(&host.vmms))));
    }
    if host.vmms.is_empty() {
        return Some((RefusalReason::VmmUnavailable, "no VMM program works on the host".into()));
    }
    if wanted.cpus > free.cpus {
        let message = format!("needs {} CPUs, {} of {} are free", wanted.cpus, free.cpus, host.allocatable.cpus);
        return Some((RefusalReason::InsufficientCpu, message));
    }
    if wanted.memory > free.memory {
        let message = format!("needs {} of memory, {} of {} is free", wanted.memory, free.memory, host.allocatable.memory);
        return Some((RefusalReason::InsufficientMemory, message));
    }
    None
}

fn list(vmms: &[VmmName]) -> String {
    if vmms.is_empty() {
        return "none".into();
    }
    vmms.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_api::{
        Memory,
        virtual_machine::{Boot, DiskBoot, Placement, RunStrategy},
    };
    use proptest::prelude::*;

    fn host(name: &str, cpus: u32, mib: u64) -> Candidate {
        Candidate {
            name: name.into(),
            labels: BTreeMap::from([("zone".into(), "a".into())]),
            deleted: false,
            ready: true,
            unschedulable: false,
            vmms: vec![VmmName::Qemu],
            allocatable: Resources { cpus, memory: Memory::from_mib(mib) },
            used: Resources::default(),
            vms: 0,
        }
    }

    fn vm(cpus: u32, mib: u64) -> VirtualMachineSpec {
        VirtualMachineSpec {
            run_strategy: RunStrategy::Always,
            cpus,
            memory: Memory::from_mib(mib),
            boot: Boot::Disk(DiskBoot { name: "root".into() }),
            disks: vec![],
            networks: vec![],
            placement: Placement::default(),
        }
    }

    fn reasons(placed: Placed) -> Vec<(String, RefusalReason)> {
        match placed {
            Placed::On(host) => panic!("placed on {host}"),
            Placed::Nowhere(refusals) => refusals.into_iter().map(|r| (r.host, r.reason)).collect(),
        }
    }

    #[test]
    fn every_filter_refuses_with_its_own_reason() {
        let base = host("h", 4, 4096);
        let mut selecting = vm(1, 256);
        selecting.placement.host_selector.insert("zone".into(), "b".into());
        let mut asking = vm(1, 256);
        asking.placement.vmm = Some(VmmName::CloudHypervisor);
        let cases = [
            (RefusalReason::HostDeleted, vm(1, 256), Candidate { deleted: true, ..base.clone() }),
            (RefusalReason::HostNotReady, vm(1, 256), Candidate { ready: false, ..base.clone() }),
            (RefusalReason::HostUnschedulable, vm(1, 256), Candidate { unschedulable: true, ..base.clone() }),
            (RefusalReason::SelectorMismatch, selecting.clone(), base.clone()),
            (RefusalReason::SelectorMismatch, selecting, Candidate { labels: BTreeMap::new(), ..base.clone() }),
            (RefusalReason::VmmUnavailable, asking, base.clone()),
            (RefusalReason::VmmUnavailable, vm(1, 256), Candidate { vmms: vec![], ..base.clone() }),
            (RefusalReason::InsufficientCpu, vm(5, 256), base.clone()),
            (RefusalReason::InsufficientMemory, vm(1, 4097), base.clone()),
        ];
        for (reason, vm, host) in cases {
            assert_eq!(reasons(place(&vm, &[host])), [("h".to_owned(), reason)]);
        }
    }

    #[test]
    fn the_host_that_would_be_least_full_is_chosen_and_ties_go_by_name() {
        let mut busy = host("a", 4, 4096);
        busy.take(Resources { cpus: 1, memory: Memory::from_mib(512) });
        assert_eq!(place(&vm(1, 256), &[busy, host("c", 4, 4096), host("b", 4, 4096)]), Placed::On("b".into()));
    }

    prop_compose! {
        fn any_host()(name in "[a-f]{1,3}", cpus in 0u32..8, mib in 0u64..4096, flags in any::<[bool; 4]>(), used in (0u32..8, 0u64..4096)) -> Candidate {
            let mut host = host(&name, cpus, mib);
            (host.deleted, host.ready, host.unschedulable) = (flags[0] && flags[1], flags[1], flags[2] && flags[3]);
            host.take(Resources { cpus: used.0, memory: Memory::from_mib(used.1) });
            host
        }
    }

    /// The host with what the reason complains of taken away.
    fn amended(host: &Candidate, reason: RefusalReason, spec: &VirtualMachineSpec) -> Candidate {
        let mut host = host.clone();
        match reason {
            RefusalReason::HostDeleted => host.deleted = false,
            RefusalReason::HostNotReady => host.ready = true,
            RefusalReason::HostUnschedulable => host.unschedulable = false,
            RefusalReason::SelectorMismatch => host.labels.extend(spec.placement.host_selector.clone()),
            RefusalReason::VmmUnavailable => host.vmms.push(spec.placement.vmm.unwrap_or(VmmName::Qemu)),
            RefusalReason::InsufficientCpu => host.allocatable.cpus = host.used.cpus + spec.cpus,
            RefusalReason::InsufficientMemory => host.allocatable.memory = Memory(host.used.memory.0 + spec.memory.0),
        }
        host
    }

    proptest! {
        #[test]
        fn a_stated_reason_is_true_without_it_the_host_accepts_or_names_a_later_one(host in any_host(), cpus in 1u32..8, mib in 1u64..4096) {
            let vm = vm(cpus, mib);
            if let Some((reason, _)) = refusal(&vm, &host) {
                let next = refusal(&vm, &amended(&host, reason, &vm)).map(|r| r.0);
                prop_assert!(next.is_none_or(|next| next > reason), "{reason} then {next:?}");
            }
        }

        #[test]
        fn a_chosen_host_is_never_overcommitted_and_the_order_of_hosts_does_not_matter(
            mut hosts in proptest::collection::vec(any_host(), 0..8), cpus in 1u32..8, mib in 1u64..4096
        ) {
            hosts.sort_by(|a, b| a.name.cmp(&b.name));
            hosts.dedup_by(|a, b| a.name == b.name);
            let vm = vm(cpus, mib);
            let placed = place(&vm, &hosts);
            hosts.reverse();
            prop_assert_eq!(&placed, &place(&vm, &hosts));
            match placed {
                Placed::On(name) => {
                    let mut host = hosts.into_iter().find(|h| h.name == name).unwrap();
                    host.take(vm.resources());
                    prop_assert!(host.used.cpus <= host.allocatable.cpus && host.used.memory <= host.allocatable.memory);
                }
                Placed::Nowhere(refusals) => prop_assert_eq!(refusals.len(), hosts.len()),
            }
        }
    }
}
