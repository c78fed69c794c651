//! All hosts with what is placed on them, kept so that the best host of thousands is found by looking at a few.
//!
//! Hosts that are alike but for their names and for what is on them make a class, and are kept in the order of their load. What
//! depends on the class alone is asked of one of them. As the room for a VM falls with the load, a search of a class goes from the
//! emptiest and ends where no later host could have more points than the best so far.

use super::place::{Among, Asked, CONSTRAINTS, Candidate, among, spread_among};
use basalt_api::{
    Host, Image, VirtualMachine,
    host::{Resources, VmmName},
    image::Presence,
    placement::{Constraint, HostVerdict, PlacementReport, ScorePart},
    virtual_machine::{GroupRule, HOST_TOPOLOGY, Refusal, RuleMode, VmPhase},
};
use kube::ResourceExt;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// What placement found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The host that takes the VM.
    On(String),
    /// No host does: the reason of each, in the order of their names.
    Nowhere(Vec<Refusal>),
}

/// A VM as placement keeps it.
#[derive(Clone, Debug)]
struct Kept {
    /// The resourceVersion that it was read at.
    revision: u64,
    host: Option<String>,
    group: Option<(String, String)>,
    anti_affinity: Option<GroupRule>,
    resources: Resources,
    troubled: bool,
}

/// What hosts of a class have in common: the CPUs and bytes that VMs may use, whether they take VMs, their VMMs, and their labels
/// but for that with their name.
type Class = (u32, u64, [bool; 3], Vec<VmmName>, BTreeMap<String, String>);

/// The order of the hosts of a class: by load, then by VMs, then by name.
type Order = BTreeSet<(u128, usize, Arc<str>)>;

/// The hosts and VMs.
#[derive(Debug, Default)]
pub struct Fleet {
    hosts: HashMap<Arc<str>, Candidate>,
    classes: BTreeMap<Arc<Class>, Order>,
    class_of: HashMap<Arc<str>, Arc<Class>>,
    /// Hosts by the values of each label.
    labels: HashMap<String, BTreeMap<String, BTreeSet<Arc<str>>>>,
    vms: HashMap<String, Kept>,
    on_host: HashMap<String, BTreeSet<String>>,
    groups: HashMap<(String, String), BTreeSet<String>>,
    /// The hosts that have an image.
    images: HashMap<String, HashSet<String>>,
}

impl Fleet {
    /// Takes a host as it is now.
    pub fn put_host(&mut self, host: &Host) {
        self.put(Candidate::new(host));
    }

    fn put(&mut self, mut host: Candidate) {
        self.remove_host(&host.name);
        for uid in self.on_host.get(&host.name).into_iter().flatten() {
            if let Some(vm) = self.vms.get(uid) {
                count(&mut host, vm, true);
            }
        }
        let name: Arc<str> = host.name.as_str().into();
        for (key, value) in &host.labels {
            self.labels.entry(key.clone()).or_default().entry(value.clone()).or_default().insert(name.clone());
        }
        let class = Arc::new(class(&host));
        self.classes.entry(class.clone()).or_default().insert(rank(&host, &name));
        self.class_of.insert(name.clone(), class);
        self.hosts.insert(name, host);
    }

    /// A host has gone. The VMs on it stay placed there.
    pub fn remove_host(&mut self, name: &str) {
        let Some((name, host)) = self.hosts.remove_entry(name) else { return };
        if let Some(class) = self.class_of.remove(&name)
            && let Some(order) = self.classes.get_mut(&class)
        {
            order.remove(&rank(&host, &name));
            if order.is_empty() {
                self.classes.remove(&class);
            }
        }
        for (key, value) in &host.labels {
            if let Some(values) = self.labels.get_mut(key) {
                if let Some(hosts) = values.get_mut(value) {
                    hosts.remove(&name);
                    if hosts.is_empty() {
                        values.remove(value);
                    }
                }
                if values.is_empty() {
                    self.labels.remove(key);
                }
            }
        }
    }

    /// Takes a VM as it is now, unless a newer state of it is known.
    pub fn put_vm(&mut self, vm: &VirtualMachine) {
        let Some(uid) = vm.uid() else { return };
        let revision = vm.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0);
        if self.vms.get(&uid).is_some_and(|kept| kept.revision > revision) {
            return;
        }
        self.forget(&uid);
        let status = vm.status.as_ref();
        let host = status.and_then(|status| status.host.clone());
        let troubled = status.and_then(|status| status.phase) == Some(VmPhase::Failed);
        self.keep(uid, vm, revision, host, troubled);
    }

    /// A VM has gone.
    pub fn remove_vm(&mut self, vm: &VirtualMachine) {
        if let Some(uid) = vm.uid() {
            self.forget(&uid);
        }
    }

    /// Keeps room for a VM on a host before its placement is written.
    pub fn reserve(&mut self, vm: &VirtualMachine, host: &str) {
        if let Some(uid) = vm.uid() {
            let revision: u64 = vm.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0);
            self.forget(&uid);
            // What is read of it before the placement is written does not undo this.
            self.keep(uid, vm, revision + 1, Some(host.to_owned()), false);
        }
    }

    /// Gives back what was kept for a VM, whose placement could not be written.
    pub fn release(&mut self, vm: &VirtualMachine) {
        self.remove_vm(vm);
        self.put_vm(vm);
    }

    /// Forgets what there is no more, and takes what is not known yet.
    pub fn keep_only(&mut self, hosts: &[Arc<Host>], vms: &[Arc<VirtualMachine>]) {
        let there: HashSet<String> = hosts.iter().map(|host| host.name_any()).collect();
        let gone: Vec<Arc<str>> = self.hosts.keys().filter(|name| !there.contains(&***name)).cloned().collect();
        gone.iter().for_each(|name| self.remove_host(name));
        hosts.iter().for_each(|host| self.put_host(host));
        let there: HashSet<String> = vms.iter().filter_map(|vm| vm.uid()).collect();
        let gone: Vec<String> = self.vms.keys().filter(|uid| !there.contains(*uid)).cloned().collect();
        gone.iter().for_each(|uid| self.forget(uid));
        vms.iter().for_each(|vm| self.put_vm(vm));
    }

    /// The host that a VM is on, or about to be.
    pub fn host_of(&self, vm: &VirtualMachine) -> Option<String> {
        self.vms.get(&vm.uid()?)?.host.clone()
    }

    /// Whether a VM is placed, or about to be.
    pub fn is_placed(&self, uid: &str) -> bool {
        self.vms.get(uid).is_some_and(|kept| kept.host.is_some())
    }

    /// Takes an image: which hosts have it.
    pub fn put_image(&mut self, image: &Image) {
        let hosts = image.status.iter().flat_map(|status| &status.hosts);
        let present = hosts.filter(|seen| seen.presence == Presence::Present).map(|seen| seen.host.clone()).collect();
        self.images.insert(image.name_any(), present);
    }

    fn keep(&mut self, uid: String, vm: &VirtualMachine, revision: u64, host: Option<String>, troubled: bool) {
        let placement = &vm.spec.placement;
        let group = placement.group.clone().map(|group| (vm.namespace().unwrap_or_default(), group));
        let anti_affinity = placement.anti_affinity.clone();
        let kept = Kept { revision, host, group, anti_affinity, resources: vm.spec.resources(), troubled };
        if let Some(host) = &kept.host {
            self.on_host.entry(host.clone()).or_default().insert(uid.clone());
            self.recount(host, &kept, true);
        }
        if let Some(group) = &kept.group {
            self.groups.entry(group.clone()).or_default().insert(uid.clone());
        }
        self.vms.insert(uid, kept);
    }

    fn forget(&mut self, uid: &str) {
        let Some(kept) = self.vms.remove(uid) else { return };
        if let Some(host) = &kept.host {
            if let Some(vms) = self.on_host.get_mut(host) {
                vms.remove(uid);
                if vms.is_empty() {
                    self.on_host.remove(host);
                }
            }
            self.recount(host, &kept, false);
        }
        if let Some(group) = &kept.group
            && let Some(members) = self.groups.get_mut(group)
        {
            members.remove(uid);
            if members.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    fn recount(&mut self, host: &str, vm: &Kept, more: bool) {
        let Some((name, _)) = self.hosts.get_key_value(host) else { return };
        let name = name.clone();
        let Some(host) = self.hosts.get_mut(&name) else { return };
        let before = rank(host, &name);
        count(host, vm, more);
        let after = rank(host, &name);
        if let Some(order) = self.class_of.get(&name).and_then(|class| self.classes.get_mut(class)) {
            order.remove(&before);
            order.insert(after);
        }
    }

    /// Finds the host for a VM.
    pub fn place(&self, vm: &VirtualMachine) -> Placed {
        let asked = self.ask(vm);
        let mut best: Option<(i64, &Candidate)> = None;
        // Those with its images first: any other has fewer points for that.
        let mut names: Vec<&String> = asked.with_images.iter().collect();
        names.sort_unstable();
        for host in names.into_iter().filter_map(|name| self.hosts.get(name.as_str())) {
            consider(&asked, host, &mut best);
        }
        for order in self.classes.values() {
            for (n, (_, _, name)) in order.iter().enumerate() {
                let Some(host) = self.hosts.get(name) else { continue };
                if best.is_some_and(|(score, _)| asked.most(host) <= score) || (n == 0 && asked.refused_by_all_like(host)) {
                    break;
                }
                if !asked.with_images.contains(&host.name) {
                    consider(&asked, host, &mut best);
                }
            }
        }
        match best {
            Some((_, host)) => Placed::On(host.name.clone()),
            None => Placed::Nowhere(self.refusals(&asked)),
        }
    }

    /// The same by looking at every host, which is what the search is held against.
    pub fn place_by_all(&self, vm: &VirtualMachine) -> Option<String> {
        let asked = self.ask(vm);
        let accepting = self.hosts.values().filter(|host| asked.refusal(host).is_none());
        accepting.max_by_key(|host| asked.score(host)).map(|host| host.name.clone())
    }

    fn refusals(&self, asked: &Asked<'_>) -> Vec<Refusal> {
        let mut hosts: Vec<&Candidate> = self.hosts.values().collect();
        hosts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let refusals = hosts.into_iter().filter_map(|host| {
            let reason = asked.refusal(host)?;
            let (need, have) = asked.need_and_have(reason, host);
            Some(Refusal { host: host.name.clone(), reason, message: format!("needs {need}; {have}") })
        });
        refusals.collect()
    }

    /// Why a VM is placed where it would be placed now, and why not elsewhere: of one host, or of all.
    pub fn explain(&mut self, vm: &VirtualMachine, only: Option<&str>) -> PlacementReport {
        let current = vm.status.as_ref().and_then(|status| status.host.clone());
        // As if it were not placed yet.
        self.forget(&vm.uid().unwrap_or_default());
        let asked = self.ask(vm);
        let chosen = match self.place(vm) {
            Placed::On(host) => Some(host),
            Placed::Nowhere(_) => None,
        };
        let mut hosts: Vec<&Candidate> = self.hosts.values().filter(|host| only.is_none_or(|only| only == host.name)).collect();
        hosts.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut least: Option<(u32, String)> = None;
        let mut verdicts: Vec<HostVerdict> = Vec::new();
        for host in hosts {
            let verdict = verdict(&asked, host);
            let missing = || CONSTRAINTS.into_iter().filter(|constraint| !asked.holds(*constraint, host));
            let changes: Vec<(u32, String)> = missing().map(|constraint| asked.change(constraint, host)).collect();
            let cost = changes.iter().map(|(cost, _)| cost).sum();
            if !changes.is_empty() && least.as_ref().is_none_or(|(known, _)| cost < *known) {
                least = Some((cost, changes.into_iter().map(|(_, change)| change).collect::<Vec<_>>().join("; and ")));
            }
            verdicts.push(verdict);
        }
        let accepted = verdicts.iter().any(|verdict| verdict.accepts);
        let smallest_change = least.map(|(_, change)| change).filter(|_| !accepted);
        self.put_vm(vm);
        PlacementReport {
            vm: vm.name_any(),
            namespace: vm.namespace().unwrap_or_default(),
            current,
            chosen,
            hosts: verdicts,
            smallest_change,
        }
    }

    fn ask<'a>(&self, vm: &'a VirtualMachine) -> Asked<'a> {
        let spec = &vm.spec;
        let placement = &spec.placement;
        let uid = vm.uid().unwrap_or_default();
        let group = placement.group.clone().map(|group| (vm.namespace().unwrap_or_default(), group));
        let members = group.and_then(|group| self.groups.get(&group)).into_iter().flatten();
        let others: Vec<&Kept> =
            members.filter(|member| **member != uid).filter_map(|member| self.vms.get(member)).filter(|kept| kept.host.is_some()).collect();
        let by_place = |topology: &str, others: &mut dyn Iterator<Item = &&Kept>| {
            let mut counts: HashMap<String, usize> = HashMap::new();
            for kept in others {
                let host = kept.host.as_deref().unwrap_or_default();
                // One on a host that is not registered any more is there all the same.
                let place = if topology == HOST_TOPOLOGY { Some(host) } else { self.hosts.get(host).and_then(|host| host.place(topology)) };
                if let Some(place) = place {
                    *counts.entry(place.to_owned()).or_default() += 1;
                }
            }
            counts
        };
        let any = !others.is_empty();
        let affinity = placement.affinity.as_ref().map(|rule| among(rule, by_place(&rule.topology_key, &mut others.iter()), any));
        let mut anti_affinity: Vec<Among> = Vec::new();
        if let Some(rule) = &placement.anti_affinity {
            anti_affinity.push(among(rule, by_place(&rule.topology_key, &mut others.iter()), any));
        }
        let strict = |kept: &&Kept| kept.anti_affinity.as_ref().is_some_and(|rule| rule.mode == RuleMode::Required);
        let keys: BTreeSet<&str> =
            others.iter().copied().filter(strict).filter_map(|kept| Some(kept.anti_affinity.as_ref()?.topology_key.as_str())).collect();
        for key in keys {
            let mut theirs = others
                .iter()
                .filter(|kept| kept.anti_affinity.as_ref().is_some_and(|rule| rule.mode == RuleMode::Required && rule.topology_key == key));
            let rule = GroupRule { mode: RuleMode::Required, topology_key: key.to_owned() };
            anti_affinity.push(among(&rule, by_place(key, &mut theirs), any));
        }
        let mut asked = Asked { spec, affinity, anti_affinity, spread: None, with_images: self.with_images(vm) };
        if let Some(spread) = &placement.spread {
            let counts = by_place(&spread.topology_key, &mut others.iter());
            let least = self.emptiest(&asked, &spread.topology_key, &counts);
            let most = usize::try_from(spread.max_skew).unwrap_or(usize::MAX);
            asked.spread = Some((spread_among(spread, counts, any), least, most));
        }
        asked
    }

    /// How many of a group are in the place that has the fewest, of those with a host that the VM could go to but for its room.
    fn emptiest(&self, asked: &Asked<'_>, topology: &str, counts: &HashMap<String, usize>) -> usize {
        use basalt_api::virtual_machine::RefusalReason::{HostAffinity, SelectorMismatch, VmmUnavailable};
        let counts_in = |host: &Candidate| {
            host.takes_vms() && [SelectorMismatch, HostAffinity, VmmUnavailable].iter().all(|constraint| asked.holds(*constraint, host))
        };
        let there = |place: &str| counts.get(place).copied().unwrap_or(0);
        let least = if topology == HOST_TOPOLOGY {
            self.hosts.values().filter(|host| counts_in(host)).map(|host| there(&host.name)).min()
        } else {
            let places = self.labels.get(topology).into_iter().flatten();
            let places = places.filter(|(_, hosts)| hosts.iter().filter_map(|name| self.hosts.get(name)).any(counts_in));
            places.map(|(place, _)| there(place)).min()
        };
        least.unwrap_or(0)
    }

    fn with_images(&self, vm: &VirtualMachine) -> HashSet<String> {
        let mut sets = vm.spec.images().map(|image| self.images.get(image));
        let Some(Some(first)) = sets.next() else { return HashSet::new() };
        let rest: Option<Vec<&HashSet<String>>> = sets.collect();
        let Some(rest) = rest else { return HashSet::new() };
        first.iter().filter(|host| rest.iter().all(|set| set.contains(*host))).cloned().collect()
    }
}

fn consider<'a>(asked: &Asked<'_>, host: &'a Candidate, best: &mut Option<(i64, &'a Candidate)>) {
    if asked.refusal(host).is_some() {
        return;
    }
    let score = asked.score(host);
    if best.is_none_or(|(known, _)| score > known) {
        *best = Some((score, host));
    }
}

fn verdict(asked: &Asked<'_>, host: &Candidate) -> HostVerdict {
    let constraints = CONSTRAINTS.into_iter().map(|name| {
        let (need, have) = asked.need_and_have(name, host);
        Constraint { name, need, have, holds: asked.holds(name, host) }
    });
    let parts = asked.parts(host).into_iter().map(|(name, points, why)| ScorePart { name: name.to_owned(), points, why });
    HostVerdict {
        host: host.name.clone(),
        accepts: asked.refusal(host).is_none(),
        score: asked.score(host),
        constraints: constraints.collect(),
        parts: parts.collect(),
    }
}

fn class(host: &Candidate) -> Class {
    let labels = host.labels.iter().filter(|(key, _)| *key != HOST_TOPOLOGY);
    let labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
    let takes = [host.deleted, host.ready, host.unschedulable];
    (host.allocatable.cpus, host.allocatable.memory.0, takes, host.vmms.clone(), labels)
}

fn rank(host: &Candidate, name: &Arc<str>) -> (u128, usize, Arc<str>) {
    (host.load(host.used), host.vms, name.clone())
}

fn count(host: &mut Candidate, vm: &Kept, more: bool) {
    let (cpus, memory) = (vm.resources.cpus, vm.resources.memory.0);
    if more {
        host.used.cpus = host.used.cpus.saturating_add(cpus);
        host.used.memory.0 = host.used.memory.0.saturating_add(memory);
        host.vms += 1;
        host.troubled += usize::from(vm.troubled);
    } else {
        host.used.cpus = host.used.cpus.saturating_sub(cpus);
        host.used.memory.0 = host.used.memory.0.saturating_sub(memory);
        host.vms = host.vms.saturating_sub(1);
        host.troubled = host.troubled.saturating_sub(usize::from(vm.troubled));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_api::virtual_machine::RefusalReason;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn host(name: &str, zone: &str, cpus: u32, mib: u64) -> Host {
        serde_json::from_value(json!({
            "metadata": { "name": name, "labels": { "topology.kubernetes.io/zone": zone, "disk": "ssd", "kubernetes.io/hostname": name } },
            "spec": {},
            "status": {
                "conditions": [{ "type": "Ready", "status": "True", "reason": "", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }],
                "vmms": [{ "name": "Qemu", "version": "10", "accelerator": "Kvm" }],
                "allocatable": { "cpus": cpus, "memory": format!("{mib}Mi") },
            },
        }))
        .unwrap()
    }

    fn vm(name: &str, cpus: u32, mib: u64, placement: Value) -> VirtualMachine {
        serde_json::from_value(json!({
            "metadata": { "name": name, "namespace": "default", "uid": name, "resourceVersion": "1", "finalizers": ["f"] },
            "spec": { "cpus": cpus, "memory": format!("{mib}Mi"), "boot": { "disk": { "name": "root" } },
                      "disks": [{ "name": "root", "image": "disk" }], "placement": placement },
        }))
        .unwrap()
    }

    fn fleet(hosts: &[Host]) -> Fleet {
        let mut fleet = Fleet::default();
        hosts.iter().for_each(|host| fleet.put_host(host));
        fleet
    }

    /// Places a VM and keeps it there; where.
    fn put(fleet: &mut Fleet, vm: &VirtualMachine) -> Option<String> {
        match fleet.place(vm) {
            Placed::On(host) => {
                fleet.reserve(vm, &host);
                Some(host)
            }
            Placed::Nowhere(_) => None,
        }
    }

    fn reasons(placed: Placed) -> Vec<RefusalReason> {
        match placed {
            Placed::On(host) => panic!("placed on {host}"),
            Placed::Nowhere(refusals) => refusals.into_iter().map(|refusal| refusal.reason).collect(),
        }
    }

    #[test]
    fn the_emptiest_host_is_taken_and_of_like_ones_the_first_by_name() {
        let mut fleet = fleet(&[host("c", "z", 4, 4096), host("b", "z", 4, 4096), host("a", "z", 4, 4096)]);
        let hosts: Vec<_> = (0..4).map(|n| put(&mut fleet, &vm(&format!("v{n}"), 1, 256, json!({}))).unwrap()).collect();
        assert_eq!(hosts, ["a", "b", "c", "a"]);
        // Twice as large, and with as much on it: half as full.
        fleet.put_host(&host("big", "z", 8, 8192));
        assert_eq!(put(&mut fleet, &vm("w", 1, 256, json!({}))).as_deref(), Some("big"));
    }

    #[test]
    fn every_constraint_refuses_with_its_own_reason_and_says_what_is_needed_and_there() {
        let good = || host("h", "z", 4, 4096);
        let changed = |change: &dyn Fn(&mut Host)| {
            let mut host = good();
            change(&mut host);
            host
        };
        let group = |more: Value| {
            let mut placement = json!({ "group": "g" });
            placement.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            placement
        };
        let plain = || json!({});
        let cases = [
            (RefusalReason::HostDeleted, plain(), 1, 256, changed(&|h| h.metadata.deletion_timestamp = Some(k8s_time()))),
            (RefusalReason::HostNotReady, plain(), 1, 256, changed(&|h| h.status.as_mut().unwrap().conditions[0].status = "False".into())),
            (RefusalReason::HostUnschedulable, plain(), 1, 256, changed(&|h| h.spec.unschedulable = true)),
            (RefusalReason::SelectorMismatch, json!({ "hostSelector": { "disk": "hdd" } }), 1, 256, good()),
            (
                RefusalReason::HostAffinity,
                json!({ "requiredHosts": [{ "key": "disk", "operator": "NotIn", "values": ["ssd"] }] }),
                1,
                256,
                good(),
            ),
            (RefusalReason::HostAffinity, json!({ "requiredHosts": [{ "key": "gpu", "operator": "Exists" }] }), 1, 256, good()),
            (RefusalReason::VmmUnavailable, json!({ "vmm": "CloudHypervisor" }), 1, 256, good()),
            (RefusalReason::VmmUnavailable, plain(), 1, 256, changed(&|h| h.status.as_mut().unwrap().vmms.clear())),
            (RefusalReason::Affinity, group(json!({ "affinity": {} })), 1, 256, good()),
            (RefusalReason::AntiAffinity, group(json!({ "antiAffinity": { "topologyKey": "disk" } })), 1, 256, good()),
            (RefusalReason::Spread, group(json!({ "spread": { "topologyKey": "nowhere" } })), 1, 256, good()),
            (RefusalReason::InsufficientCpu, plain(), 5, 256, good()),
            (RefusalReason::InsufficientMemory, plain(), 1, 4097, good()),
        ];
        for (reason, placement, cpus, mib, host) in cases {
            // Another of the group is on a host that takes nobody.
            let mut elsewhere = self::host("x", "z", 4, 4096);
            elsewhere.spec.unschedulable = true;
            let mut fleet = fleet(&[host, elsewhere]);
            fleet.reserve(&vm("other", 1, 256, json!({ "group": "g" })), "x");
            let wanted = vm("v", cpus, mib, placement);
            assert_eq!(reasons(fleet.place(&wanted)), [reason, RefusalReason::HostUnschedulable]);
            let report = fleet.explain(&wanted, Some("h"));
            let failed: Vec<_> = report.hosts[0].constraints.iter().filter(|constraint| !constraint.holds).collect();
            assert!(
                failed.len() == 1 && failed[0].name == reason && !failed[0].need.is_empty() && !failed[0].have.is_empty(),
                "{failed:?}"
            );
            assert!(report.smallest_change.is_some(), "{reason}");
        }
    }

    fn k8s_time() -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
        k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_group_is_kept_apart_also_from_those_that_do_not_ask_for_it() {
        let apart = json!({ "group": "g", "antiAffinity": {} });
        let mut fleet = fleet(&[host("a", "z", 4, 4096), host("b", "z", 4, 4096)]);
        assert_eq!(put(&mut fleet, &vm("one", 1, 256, apart.clone())).as_deref(), Some("a"));
        assert_eq!(put(&mut fleet, &vm("two", 1, 256, json!({ "group": "g" }))).as_deref(), Some("b"));
        assert_eq!(reasons(fleet.place(&vm("three", 1, 256, apart))), [RefusalReason::AntiAffinity; 2]);
        let mild = json!({ "group": "g", "antiAffinity": { "mode": "Preferred" } });
        // Not even it may go to the one that asks to be alone.
        assert_eq!(put(&mut fleet, &vm("four", 1, 256, mild)).as_deref(), Some("b"));
        assert_eq!(put(&mut fleet, &vm("five", 1, 256, json!({}))).as_deref(), Some("a"));
    }

    #[test]
    fn a_group_is_spread_over_the_zones_that_can_take_it() {
        let spread = json!({ "group": "g", "spread": {} });
        let mut fleet = fleet(&[host("a1", "a", 8, 8192), host("a2", "a", 8, 8192), host("b1", "b", 8, 8192)]);
        let zones: Vec<_> =
            (0..4).map(|n| put(&mut fleet, &vm(&format!("v{n}"), 1, 256, spread.clone())).unwrap()[..1].to_owned()).collect();
        assert_eq!(zones.iter().filter(|zone| *zone == "a").count(), 2, "{zones:?}");
        // A zone that is down does not hold up the others.
        let mut down = host("b1", "b", 8, 8192);
        down.spec.unschedulable = true;
        fleet.put_host(&down);
        assert!(put(&mut fleet, &vm("v5", 1, 256, spread)).unwrap().starts_with('a'));
    }

    #[test]
    fn affinity_preferences_images_and_trouble_decide_between_hosts_with_like_room() {
        let hosts = [host("a", "z", 8, 8192), host("b", "z", 8, 8192), host("c", "y", 8, 8192)];
        let place = |fleet: &Fleet, placement: Value| match fleet.place(&vm("v", 1, 256, placement)) {
            Placed::On(host) => host,
            Placed::Nowhere(refusals) => panic!("{refusals:?}"),
        };
        let mut fleet = fleet(&hosts);
        let preferred = json!({ "preferredHosts": [{ "weight": 50, "requirements": [{ "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["y"] }] }] });
        assert_eq!(place(&fleet, preferred), "c");
        fleet.reserve(&vm("db", 1, 256, json!({ "group": "db" })), "b");
        assert_eq!(place(&fleet, json!({ "group": "db", "affinity": {} })), "b");
        assert_eq!(place(&fleet, json!({ "group": "db", "affinity": { "mode": "Preferred" } })), "b");
        let image = json!({ "metadata": { "name": "disk" }, "spec": { "source": "file:///x", "format": "Raw" },
            "status": { "hosts": [{ "host": "c", "presence": "Present" }, { "host": "a", "presence": "Missing" }] } });
        fleet.put_image(&serde_json::from_value(image).unwrap());
        assert_eq!(place(&fleet, json!({})), "c");
        let mut broken = vm("broken", 1, 256, json!({}));
        broken.status = Some(serde_json::from_value(json!({ "host": "c", "phase": "Failed" })).unwrap());
        fleet.put_vm(&broken);
        assert_eq!(place(&fleet, json!({})), "a");
    }

    #[test]
    fn the_smallest_change_is_told_and_a_vm_is_explained_as_if_it_were_not_placed_yet() {
        let mut closed = host("b", "z", 4, 4096);
        closed.spec.unschedulable = true;
        let mut fleet = fleet(&[host("a", "z", 4, 1024), closed]);
        let big = vm("big", 2, 2048, json!({}));
        let report = fleet.explain(&big, None);
        assert_eq!(report.chosen, None);
        assert_eq!(report.smallest_change.as_deref(), Some("let VMs come to host b: set its spec.unschedulable to false"));
        let only = fleet.explain(&big, Some("a")).smallest_change.unwrap();
        assert_eq!(only, "free 1Gi of memory on host a, or ask for 1Gi at most");
        let small = vm("small", 4, 1024, json!({}));
        assert_eq!(put(&mut fleet, &small).as_deref(), Some("a"));
        let mut placed = small;
        placed.metadata.resource_version = Some("9".into());
        placed.status = Some(serde_json::from_value(json!({ "host": "a" })).unwrap());
        let report = fleet.explain(&placed, None);
        assert_eq!((report.current.as_deref(), report.chosen.as_deref()), (Some("a"), Some("a")));
        assert!(report.hosts[0].accepts && report.smallest_change.is_none());
        assert_eq!(fleet.host_of(&placed).as_deref(), Some("a"));
    }

    fn any_host() -> impl Strategy<Value = Host> {
        let sizes = prop::sample::select(vec![(4, 4096), (8, 8192), (8, 4096), (1, 1)]);
        (0..12_u32, "[a-c]", sizes, any::<[bool; 6]>()).prop_map(|(n, zone, (cpus, mib), flags)| {
            let mut host = host(&format!("h{n:02}"), &zone, cpus, mib);
            host.spec.unschedulable = flags[0] && flags[1];
            if flags[2] && flags[3] {
                host.status.as_mut().unwrap().conditions[0].status = "False".into();
            }
            if flags[4] && flags[5] {
                host.metadata.labels = None;
            }
            host
        })
    }

    fn any_vm() -> impl Strategy<Value = VirtualMachine> {
        let mode = || prop::sample::select(vec!["Required", "Preferred"]);
        let key = || prop::sample::select(vec!["topology.kubernetes.io/zone", "kubernetes.io/hostname"]);
        let rule = move || (mode(), key()).prop_map(|(mode, key)| json!({ "mode": mode, "topologyKey": key }));
        let group = (prop::option::of(rule()), prop::option::of(rule()), prop::option::of(rule()));
        (0..24_u32, 1..4_u32, 1..8_u64, prop::option::of(group), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
            |(n, cpus, size, group, zone, prefers, vmm)| {
                let mut placement = json!({});
                if let Some((affinity, anti_affinity, spread)) = group {
                    placement["group"] = "g".into();
                    for (key, rule) in [("affinity", affinity), ("antiAffinity", anti_affinity), ("spread", spread)] {
                        rule.into_iter().for_each(|rule| placement[key] = rule);
                    }
                }
                let requirement = json!({ "key": "topology.kubernetes.io/zone", "operator": "In", "values": ["a", "b"] });
                if zone {
                    placement["requiredHosts"] = json!([requirement]);
                }
                if prefers {
                    let by_name = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": ["h03", "h04"] });
                    let requirement = if zone { by_name } else { requirement };
                    placement["preferredHosts"] = json!([{ "weight": 70, "requirements": [requirement] }]);
                }
                if vmm {
                    placement["vmm"] = VmmName::Qemu.to_string().into();
                }
                vm(&format!("v{n}"), cpus, size * 256, placement)
            },
        )
    }

    proptest! {
        #[test]
        fn a_search_finds_what_looking_at_every_host_finds_and_what_it_keeps_is_what_there_is(
            hosts in prop::collection::vec(any_host(), 1..14), vms in prop::collection::vec(any_vm(), 1..30), gone in prop::collection::vec(0..24_u32, 0..6)
        ) {
            let mut fleet = fleet(&hosts);
            let mut there: BTreeMap<String, (VirtualMachine, String)> = BTreeMap::new();
            for (n, vm) in vms.iter().enumerate() {
                let uid = vm.uid().unwrap();
                if there.contains_key(&uid) {
                    continue;
                }
                let asked = fleet.ask(vm);
                let best = fleet.place_by_all(vm).map(|host| asked.score(&fleet.hosts[host.as_str()]));
                match fleet.place(vm) {
                    Placed::On(host) => {
                        prop_assert_eq!(Some(asked.score(&fleet.hosts[host.as_str()])), best);
                        fleet.reserve(vm, &host);
                        let taken = &fleet.hosts[host.as_str()];
                        prop_assert!(taken.used.cpus <= taken.allocatable.cpus && taken.used.memory <= taken.allocatable.memory);
                        there.insert(uid, (vm.clone(), host));
                    }
                    Placed::Nowhere(refusals) => {
                        prop_assert_eq!(best, None);
                        prop_assert_eq!(refusals.len(), fleet.hosts.len());
                    }
                }
                if let Some(gone) = gone.get(n)
                    && let Some((vm, _)) = there.remove(&format!("v{gone}"))
                {
                    fleet.remove_vm(&vm);
                }
            }
            let mut anew = Fleet::default();
            for (vm, host) in there.values() {
                anew.reserve(vm, host);
            }
            hosts.iter().for_each(|host| anew.put_host(host));
            prop_assert_eq!(&anew.hosts, &fleet.hosts);
            prop_assert_eq!(&anew.classes, &fleet.classes);
            prop_assert_eq!(&anew.labels, &fleet.labels);
            prop_assert_eq!(&anew.groups, &fleet.groups);
        }

        #[test]
        fn a_stated_reason_is_necessary_and_without_all_of_them_the_host_accepts(
            hosts in prop::collection::vec(any_host(), 1..6), placed in prop::collection::vec(any_vm(), 0..8), wanted in any_vm()
        ) {
            let mut fleet = fleet(&hosts);
            for (n, vm) in placed.iter().enumerate().filter(|(_, vm)| vm.uid() != wanted.uid()) {
                fleet.reserve(vm, &hosts[n % hosts.len()].name_any());
            }
            let asked = fleet.ask(&wanted);
            for host in fleet.hosts.values() {
                let mut asked = asked.clone();
                let mut host = host.clone();
                while let Some(reason) = asked.refusal(&host) {
                    amend(&mut asked, &mut host, reason);
                    prop_assert!(asked.refusal(&host).is_none_or(|next| next > reason), "{reason} is not what was in the way");
                }
            }
        }
    }

    /// Takes away what a reason complains of.
    fn amend(asked: &mut Asked<'_>, host: &mut Candidate, reason: RefusalReason) {
        let (spec, name) = (asked.spec, host.name.clone());
        match reason {
            RefusalReason::HostDeleted => host.deleted = false,
            RefusalReason::HostNotReady => host.ready = true,
            RefusalReason::HostUnschedulable => host.unschedulable = false,
            RefusalReason::SelectorMismatch => host.labels.extend(spec.placement.host_selector.clone()),
            RefusalReason::HostAffinity => {
                host.labels.insert("topology.kubernetes.io/zone".into(), "a".into());
            }
            RefusalReason::VmmUnavailable => host.vmms.push(spec.placement.vmm.unwrap_or(VmmName::Qemu)),
            RefusalReason::Affinity => {
                let rule = asked.affinity.as_mut().unwrap();
                let place = host.place(&rule.topology).unwrap_or(&name).to_owned();
                host.labels.entry(rule.topology.clone()).or_insert_with(|| place.clone());
                rule.others.insert(place, 1);
            }
            RefusalReason::AntiAffinity => asked.anti_affinity.iter_mut().for_each(|rule| rule.others.clear()),
            RefusalReason::Spread => {
                let (rule, least, _) = asked.spread.as_mut().unwrap();
                host.labels.entry(rule.topology.clone()).or_insert_with(|| "where nobody is".into());
                rule.others.clear();
                *least = 0;
            }
            RefusalReason::InsufficientCpu => host.allocatable.cpus = host.used.cpus + spec.cpus,
            RefusalReason::InsufficientMemory => host.allocatable.memory.0 = host.used.memory.0 + spec.memory.0,
        }
    }
}
