//! Placement of one VM on one host: the constraints that each refuse with a reason, and the points of those hosts that are left.
//!
//! The constraints are looked at in the order of [`RefusalReason`]; the first that does not hold is the one that is told. Whatever
//! is told of one, what is needed and what there is, follows from the same numbers that decide.

use basalt_api::{
    Host, Memory, VirtualMachineSpec,
    host::{Resources, VmmName},
    virtual_machine::{GroupRule, HOST_TOPOLOGY, RefusalReason, RuleMode, Spread},
};
use kube::ResourceExt;
use std::collections::{BTreeMap, HashMap, HashSet};

/// The points of a host that would be empty with the VM on it.
const ROOM: i64 = 1000;
/// What it costs that a VM of the group is here from which this one should be apart, and what it is worth that one is here to which it should be near.
const GROUP_POINTS: i64 = 200;
/// What each VM costs by which the spread would be too uneven.
const SKEW_POINTS: i64 = 100;
/// What it is worth that the VM's images are here.
const IMAGE_POINTS: i64 = 50;
/// What each VM costs that the host cannot run, and how much they cost at most.
const TROUBLE_POINTS: i64 = 100;
const MOST_TROUBLE: i64 = 300;

/// The constraints, in the order in which they are looked at.
pub const CONSTRAINTS: [RefusalReason; 11] = [
    RefusalReason::HostDeleted,
    RefusalReason::HostNotReady,
    RefusalReason::HostUnschedulable,
    RefusalReason::SelectorMismatch,
    RefusalReason::HostAffinity,
    RefusalReason::VmmUnavailable,
    RefusalReason::Affinity,
    RefusalReason::AntiAffinity,
    RefusalReason::Spread,
    RefusalReason::InsufficientCpu,
    RefusalReason::InsufficientMemory,
];

/// A host as placement sees it.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// How many of them it fails to run.
    pub troubled: usize,
}

impl Candidate {
    /// A host with nothing on it yet.
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
            ..Self::default()
        }
    }

    /// Where the host is, as a label of hosts says it.
    pub fn place(&self, topology: &str) -> Option<&str> {
        if topology == HOST_TOPOLOGY { Some(&self.name) } else { self.labels.get(topology).map(String::as_str) }
    }

    /// Whether new VMs come here at all.
    pub fn takes_vms(&self) -> bool {
        !self.deleted && self.ready && !self.unschedulable
    }

    fn free(&self) -> Resources {
        Resources {
            cpus: self.allocatable.cpus.saturating_sub(self.used.cpus),
            memory: Memory(self.allocatable.memory.0.saturating_sub(self.used.memory.0)),
        }
    }

    /// How full a host of this size is with this much used: of hosts of one size the fuller has more.
    pub fn load(&self, used: Resources) -> u128 {
        u128::from(used.cpus) * u128::from(self.allocatable.memory.0) + u128::from(used.memory.0) * u128::from(self.allocatable.cpus)
    }

    /// The points for the room that is left with so much used: the mean of what is free of the CPUs and of the memory.
    fn room(&self, used: Resources) -> i64 {
        let whole = 2 * u128::from(self.allocatable.cpus) * u128::from(self.allocatable.memory.0);
        let taken = (self.load(used) * ROOM.unsigned_abs() as u128).checked_div(whole).unwrap_or(u128::MAX);
        (ROOM - i64::try_from(taken).unwrap_or(ROOM)).max(0)
    }
}

/// A rule about the group of a VM, and how many of its others are where.
#[derive(Clone, Debug)]
pub struct Among {
    /// Whether it must hold.
    pub mode: RuleMode,
    /// The label that tells places apart.
    pub topology: String,
    /// The others of the group, by place.
    pub others: HashMap<String, usize>,
    /// Whether there are any others, on whatever host.
    pub any: bool,
}

impl Among {
    fn there(&self, host: &Candidate) -> Option<usize> {
        host.place(&self.topology).map(|place| self.others.get(place).copied().unwrap_or(0))
    }
}

/// What is asked of hosts for one VM, with all that does not depend on the host.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The VM.
    pub spec: &'a VirtualMachineSpec,
    /// It goes where others are.
    pub affinity: Option<Among>,
    /// It goes where none are: by its own rule, and by those of the others.
    pub anti_affinity: Vec<Among>,
    /// They are spread: with how many of them the emptiest place has that counts, and how far ahead of it one may be.
    pub spread: Option<(Among, usize, usize)>,
    /// The hosts that have all of its images.
    pub with_images: HashSet<String>,
}

impl Asked<'_> {
    /// The first constraint that does not hold on a host.
    pub fn refusal(&self, host: &Candidate) -> Option<RefusalReason> {
        CONSTRAINTS.into_iter().find(|constraint| !self.holds(*constraint, host))
    }

    /// Whether a constraint holds on a host.
    pub fn holds(&self, constraint: RefusalReason, host: &Candidate) -> bool {
        let placement = &self.spec.placement;
        match constraint {
            RefusalReason::HostDeleted => !host.deleted,
            RefusalReason::HostNotReady => host.ready,
            RefusalReason::HostUnschedulable => !host.unschedulable,
            RefusalReason::SelectorMismatch => placement.host_selector.iter().all(|(key, value)| host.labels.get(key) == Some(value)),
            RefusalReason::HostAffinity => placement.required_hosts.iter().all(|required| required.holds(&host.labels)),
            RefusalReason::VmmUnavailable => placement.vmm.map_or(!host.vmms.is_empty(), |vmm| host.vmms.contains(&vmm)),
            RefusalReason::Affinity => match required(self.affinity.as_ref()) {
                // The first of a group goes where it likes.
                Some(rule) => !rule.any || rule.there(host).is_some_and(|there| there > 0),
                None => true,
            },
            RefusalReason::AntiAffinity => {
                // A host without the label is no place, and nobody is there.
                self.anti_affinity.iter().all(|rule| rule.mode == RuleMode::Preferred || rule.there(host).unwrap_or(0) == 0)
            }
            RefusalReason::Spread => match &self.spread {
                Some((rule, least, most)) if rule.mode == RuleMode::Required => rule.there(host).is_some_and(|there| there < least + most),
                _ => true,
            },
            RefusalReason::InsufficientCpu => self.spec.cpus <= host.free().cpus,
            RefusalReason::InsufficientMemory => self.spec.memory <= host.free().memory,
        }
    }

    /// What a constraint needs of a host, and what the host has.
    pub fn need_and_have(&self, constraint: RefusalReason, host: &Candidate) -> (String, String) {
        let placement = &self.spec.placement;
        let free = host.free();
        let label = |key: &str| host.labels.get(key).map_or_else(|| format!("no label {key}"), |value| format!("{key}={value}"));
        let labels = |keys: Vec<&str>| words(&keys.into_iter().map(label).collect::<Vec<_>>(), "-");
        let place = |topology: &str| host.place(topology).map_or_else(|| format!("no label {topology}"), str::to_owned);
        let others = |rule: &Among| match rule.there(host) {
            Some(there) => format!("{there} of the group in {}", place(&rule.topology)),
            None => place(&rule.topology),
        };
        match constraint {
            RefusalReason::HostDeleted => {
                ("a host that stays".into(), if host.deleted { "it is being deleted" } else { "it stays" }.into())
            }
            RefusalReason::HostNotReady => ("a host that is Ready".into(), if host.ready { "Ready" } else { "not Ready" }.into()),
            RefusalReason::HostUnschedulable => {
                let has = if host.unschedulable { "spec.unschedulable is set" } else { "it takes VMs" };
                ("a host that takes new VMs".into(), has.into())
            }
            RefusalReason::SelectorMismatch => {
                let wanted: Vec<_> = placement.host_selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
                (words(&wanted, "no label"), labels(placement.host_selector.keys().map(String::as_str).collect()))
            }
            RefusalReason::HostAffinity => {
                let wanted: Vec<_> = placement.required_hosts.iter().map(ToString::to_string).collect();
                (words(&wanted, "no label"), labels(placement.required_hosts.iter().map(|required| required.key.as_str()).collect()))
            }
            RefusalReason::VmmUnavailable => {
                let wanted = placement.vmm.map_or_else(|| "a VMM that works".to_owned(), |vmm| vmm.to_string());
                let has: Vec<_> = host.vmms.iter().map(ToString::to_string).collect();
                (wanted, words(&has, "none"))
            }
            RefusalReason::Affinity => match required(self.affinity.as_ref()) {
                Some(rule) => (format!("one of the group, by {}", rule.topology), others(rule)),
                None => ("nothing".into(), "-".into()),
            },
            RefusalReason::AntiAffinity => {
                let required = || self.anti_affinity.iter().filter(|rule| rule.mode == RuleMode::Required);
                match required().find(|rule| rule.there(host).unwrap_or(0) > 0).or_else(|| required().next()) {
                    Some(rule) => (format!("none of the group, by {}", rule.topology), others(rule)),
                    None => ("nothing".into(), "-".into()),
                }
            }
            RefusalReason::Spread => match &self.spread {
                Some((rule, least, most)) if rule.mode == RuleMode::Required => {
                    let need = format!(
                        "at most {} of the group, by {}: the emptiest place has {least}",
                        (least + most).saturating_sub(1),
                        rule.topology
                    );
                    (need, others(rule))
                }
                _ => ("nothing".into(), "-".into()),
            },
            RefusalReason::InsufficientCpu => {
                (format!("{} CPUs", self.spec.cpus), format!("{} of {} are free", free.cpus, host.allocatable.cpus))
            }
            RefusalReason::InsufficientMemory => {
                (format!("{} of memory", self.spec.memory), format!("{} of {} is free", free.memory, host.allocatable.memory))
            }
        }
    }

    /// What would make a constraint hold, and how much that asks for.
    pub fn change(&self, constraint: RefusalReason, host: &Candidate) -> (u32, String) {
        let name = &host.name;
        let free = host.free();
        match constraint {
            RefusalReason::HostDeleted => (1000, format!("register host {name} again")),
            RefusalReason::HostNotReady => (100, format!("bring the agent of host {name} back")),
            RefusalReason::HostUnschedulable => (1, format!("let VMs come to host {name}: set its spec.unschedulable to false")),
            RefusalReason::SelectorMismatch | RefusalReason::HostAffinity => {
                (5, format!("label host {name} as the VM wants it: {}", self.need_and_have(constraint, host).0))
            }
            RefusalReason::VmmUnavailable => match self.spec.placement.vmm {
                Some(vmm) => (20, format!("install {vmm} on host {name}, or take another VMM")),
                None => (50, format!("install a VMM on host {name}")),
            },
            RefusalReason::Affinity => (10, "make affinity Preferred".to_owned()),
            RefusalReason::AntiAffinity => (10, format!("move the VM of the group from host {name}, or make antiAffinity Preferred")),
            RefusalReason::Spread => (10, "make spread Preferred, or its maxSkew larger".to_owned()),
            RefusalReason::InsufficientCpu => {
                let lack = self.spec.cpus - free.cpus.min(self.spec.cpus);
                (
                    2 + lack.saturating_mul(8) / self.spec.cpus.max(1),
                    format!("free {lack} CPUs on host {name}, or ask for {} at most", free.cpus),
                )
            }
            RefusalReason::InsufficientMemory => {
                let lack = self.spec.memory.0.saturating_sub(free.memory.0);
                let share = u32::try_from(u128::from(lack) * 8 / u128::from(self.spec.memory.0.max(1))).unwrap_or(8);
                (2 + share, format!("free {} of memory on host {name}, or ask for {} at most", Memory(lack), free.memory))
            }
        }
    }

    /// The points of a host.
    pub fn score(&self, host: &Candidate) -> i64 {
        self.room(host) + self.preferred_points(host) + self.group_points(host) + self.image_points(host) - trouble(host)
    }

    fn room(&self, host: &Candidate) -> i64 {
        let (wanted, used) = (self.spec.resources(), host.used);
        let used = Resources { cpus: used.cpus.saturating_add(wanted.cpus), memory: Memory(used.memory.0.saturating_add(wanted.memory.0)) };
        host.room(used)
    }

    /// The points for the labels of a host.
    fn preferred_points(&self, host: &Candidate) -> i64 {
        let preferred = self.spec.placement.preferred_hosts.iter();
        let met = preferred.filter(|preferred| preferred.requirements.iter().all(|required| required.holds(&host.labels)));
        met.map(|preferred| i64::from(preferred.weight)).sum()
    }

    /// Whether the VM asks for hosts by their names, so that hosts that are alike in all else are not to it.
    fn names_hosts(&self) -> bool {
        let placement = &self.spec.placement;
        let preferred = placement.preferred_hosts.iter().flat_map(|preferred| &preferred.requirements);
        placement.host_selector.contains_key(HOST_TOPOLOGY)
            || placement.required_hosts.iter().chain(preferred).any(|required| required.key == HOST_TOPOLOGY)
    }

    /// Whether all hosts refuse that are like this one but for their names and for what is on them.
    pub fn refused_by_all_like(&self, host: &Candidate) -> bool {
        let of_places = |rule: Option<&Among>| rule.is_some_and(|rule| rule.topology != HOST_TOPOLOGY);
        let shared = |constraint: &RefusalReason| match constraint {
            RefusalReason::HostDeleted | RefusalReason::HostNotReady | RefusalReason::HostUnschedulable | RefusalReason::VmmUnavailable => {
                true
            }
            RefusalReason::SelectorMismatch | RefusalReason::HostAffinity => !self.names_hosts(),
            RefusalReason::Affinity => of_places(self.affinity.as_ref()),
            RefusalReason::Spread => of_places(self.spread.as_ref().map(|(rule, ..)| rule)),
            RefusalReason::AntiAffinity | RefusalReason::InsufficientCpu | RefusalReason::InsufficientMemory => false,
        };
        CONSTRAINTS.iter().filter(|constraint| shared(constraint)).any(|constraint| !self.holds(*constraint, host))
    }

    /// How many points a host that is like this one and no emptier can have at the most, but for its images.
    pub fn most(&self, host: &Candidate) -> i64 {
        let preferred = if self.names_hosts() {
            self.spec.placement.preferred_hosts.iter().map(|preferred| i64::from(preferred.weight)).sum()
        } else {
            self.preferred_points(host)
        };
        let near = if self.affinity.as_ref().is_some_and(|rule| rule.mode == RuleMode::Preferred && rule.any) { GROUP_POINTS } else { 0 };
        self.room(host) + preferred + near
    }

    fn group_points(&self, host: &Candidate) -> i64 {
        let preferred = |rule: &&Among| rule.mode == RuleMode::Preferred;
        let there = |rule: &Among| i64::try_from(rule.there(host).unwrap_or(0)).unwrap_or(i64::MAX);
        let near = self.affinity.as_ref().filter(preferred).map_or(0, |rule| if there(rule) > 0 { GROUP_POINTS } else { 0 });
        let apart: i64 = self.anti_affinity.iter().filter(preferred).map(|rule| there(rule).min(5) * GROUP_POINTS).sum();
        let skew = match &self.spread {
            Some((rule, least, most)) if rule.mode == RuleMode::Preferred => {
                let over = (rule.there(host).unwrap_or(0) + 1).saturating_sub(least + most);
                i64::try_from(over.min(5)).unwrap_or(5) * SKEW_POINTS
            }
            _ => 0,
        };
        near - apart - skew
    }

    fn image_points(&self, host: &Candidate) -> i64 {
        if self.with_images.contains(&host.name) { IMAGE_POINTS } else { 0 }
    }

    /// The parts of a host's points, with the reason of each.
    pub fn parts(&self, host: &Candidate) -> Vec<(&'static str, i64, String)> {
        let wanted = self.spec.resources();
        let free = host.free();
        let left = (free.cpus.saturating_sub(wanted.cpus), Memory(free.memory.0.saturating_sub(wanted.memory.0)));
        let room = self.room(host);
        let mut parts = vec![("Room", room, format!("{} CPUs and {} would be left", left.0, left.1))];
        for preferred in &self.spec.placement.preferred_hosts {
            let wanted = preferred.requirements.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            let met = preferred.requirements.iter().all(|required| required.holds(&host.labels));
            parts.push(("PreferredHosts", if met { i64::from(preferred.weight) } else { 0 }, wanted));
        }
        match self.group_points(host) {
            0 => {}
            points => parts.push(("Group", points, "where others of its group are".into())),
        }
        match self.image_points(host) {
            0 => {}
            points => parts.push(("Images", points, "its images are here".into())),
        }
        match trouble(host) {
            0 => {}
            points => parts.push(("Trouble", -points, format!("{} VMs here do not run although they should", host.troubled))),
        }
        parts
    }
}

fn trouble(host: &Candidate) -> i64 {
    i64::try_from(host.troubled).unwrap_or(i64::MAX).saturating_mul(TROUBLE_POINTS).min(MOST_TROUBLE)
}

fn required(rule: Option<&Among>) -> Option<&Among> {
    rule.filter(|rule| rule.mode == RuleMode::Required)
}

fn words(list: &[String], none: &str) -> String {
    if list.is_empty() { none.to_owned() } else { list.join(", ") }
}

/// The rule of a VM as asked.
pub fn among(rule: &GroupRule, others: HashMap<String, usize>, any: bool) -> Among {
    Among { mode: rule.mode, topology: rule.topology_key.clone(), others, any }
}

/// The same of a spread.
pub fn spread_among(spread: &Spread, others: HashMap<String, usize>, any: bool) -> Among {
    Among { mode: spread.mode, topology: spread.topology_key.clone(), others, any }
}
