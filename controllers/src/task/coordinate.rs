//! Operations that the control plane does itself, by other objects and tasks: VmStop, VmMigrate, HostDrain.
//!
//! Each call looks at what there is and does the next step, so that it makes no difference when it was interrupted. What it changes
//! is noted in `status.undo` before it is changed, and put back if the task does not complete.

use basalt_api::{
    Host, ObjectReference, Task, TaskSpec, TaskStatus, VirtualMachine,
    task::{HostDrain, Operation, Outcome, PARENT_LABEL, PARENT_NAMESPACE_LABEL, Progress, Reported, TaskPhase, VmMigrate, VmStop},
    virtual_machine::{RunStrategy, VmPhase},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::collections::BTreeMap;

/// Key of a VM's run strategy in `status.undo`.
const RUN_STRATEGY: &str = "runStrategy";
/// Key of whether a host was unschedulable in `status.undo`.
const UNSCHEDULABLE: &str = "unschedulable";

/// What a call has found or done.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// This is to be noted before anything is changed.
    Note(BTreeMap<String, String>),
    /// It goes on when something changes.
    Wait(Progress),
    /// Nothing more is to be done.
    Ended(Outcome, String, BTreeMap<String, String>),
}

/// The control plane, as it is at a time.
pub struct Coordinator<'a> {
    /// The API.
    pub client: &'a Client,
    /// The time.
    pub now: Timestamp,
}

impl Coordinator<'_> {
    /// Does the next step of a task; with `stop`, of its end.
    pub async fn step(&self, task: &Task, stop: bool) -> Result<Step, kube::Error> {
        match &task.spec.operation {
            Operation::VmStop(operation) => self.vm_stop(task, operation, stop).await,
            Operation::HostDrain(operation) => self.host_drain(task, operation, stop).await,
            Operation::VmMigrate(VmMigrate { vm, .. }) => {
                let text = format!("This version does not move VMs. Stop {vm} and start it elsewhere: basaltctl create a VmStop task");
                Ok(Step::Ended(Outcome::NotSupported, text, BTreeMap::new()))
            }
            other => Ok(Step::Ended(Outcome::NotSupported, format!("{} is done by hosts", other.name()), BTreeMap::new())),
        }
    }

    async fn vm_stop(&self, task: &Task, operation: &VmStop, stop: bool) -> Result<Step, kube::Error> {
        let vms: Api<VirtualMachine> = Api::namespaced(self.client.clone(), &task.namespace().unwrap_or_default());
        let Some(vm) = vms.get_opt(&operation.vm).await? else {
            return Ok(Step::Ended(Outcome::Failed, format!("VM {} does not exist", operation.vm), BTreeMap::new()));
        };
        let noted = undo(task).get(RUN_STRATEGY).cloned();
        if stop {
            if let Some(before) = noted.filter(|_| vm.spec.run_strategy == RunStrategy::Halted)
                && !self.run_strategy(&vms, &vm, &before).await?
            {
                return Ok(self.wait("putting back what was changed", 0, 1, "vms"));
            }
            return Ok(Step::Ended(Outcome::Stopped, "What was changed has been put back".into(), BTreeMap::new()));
        }
        if noted.is_none() {
            return Ok(Step::Note(BTreeMap::from([(RUN_STRATEGY.into(), vm.spec.run_strategy.to_string())])));
        }
        if vm.spec.run_strategy != RunStrategy::Halted {
            self.run_strategy(&vms, &vm, "Halted").await?;
            return Ok(self.wait("shutting down", 0, 1, "vms"));
        }
        // What is on no host does not run.
        if is_at_rest(&vm) || (is_current(&vm) && vm.status.as_ref().is_none_or(|status| status.host.is_none())) {
            return Ok(Step::Ended(Outcome::Succeeded, format!("VM {} is stopped", operation.vm), BTreeMap::new()));
        }
        Ok(self.wait("shutting down", 0, 1, "vms"))
    }

    /// Changes the run strategy of a VM, unless it has changed meanwhile, which wakes the task again; says whether it did.
    async fn run_strategy(&self, vms: &Api<VirtualMachine>, vm: &VirtualMachine, to: &str) -> Result<bool, kube::Error> {
        let patch = json!({ "metadata": { "resourceVersion": vm.resource_version() }, "spec": { "runStrategy": to } });
        unless_changed(vms.patch(&vm.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await)
    }

    async fn host_drain(&self, task: &Task, operation: &HostDrain, stop: bool) -> Result<Step, kube::Error> {
        let hosts: Api<Host> = Api::all(self.client.clone());
        let name = task.spec.host.clone().unwrap_or_default();
        let Some(host) = hosts.get_opt(&name).await? else {
            return Ok(Step::Ended(Outcome::Failed, format!("Host {name} does not exist"), BTreeMap::new()));
        };
        let children = self.children(task).await?;
        let noted = undo(task).get(UNSCHEDULABLE).map(|before| before == "true");
        if stop {
            return self.undrain(&hosts, &host, noted, &children).await;
        }
        if noted.is_none() {
            return Ok(Step::Note(BTreeMap::from([(UNSCHEDULABLE.into(), host.spec.unschedulable.to_string())])));
        }
        if !host.spec.unschedulable {
            self.unschedulable(&hosts, &host, true).await?;
        }
        let vms: Api<VirtualMachine> = Api::all(self.client.clone());
        let here = vms.list(&ListParams::default()).await?.items.into_iter().filter(|vm| on_host(vm, &name));
        let here: Vec<VirtualMachine> = here.filter(|vm| !is_at_rest(vm)).collect();
        let mut unmovable = Vec::new();
        for vm in &here {
            let moved = child(&children, vm, "VmMigrate");
            let stopped = child(&children, vm, "VmStop");
            match (moved, stopped) {
                (None, _) => {
                    let operation = Operation::VmMigrate(VmMigrate { vm: vm.name_any(), target: None });
                    self.create_child(task, vm, "move", operation).await?;
                }
                (Some(moved), None) if phase(moved).is_terminal() => {
                    if operation.stop_unmovable {
                        self.create_child(task, vm, "stop", Operation::VmStop(VmStop { vm: vm.name_any() })).await?;
                    } else {
                        unmovable.push(vm.name_any());
                    }
                }
                (_, Some(stopped)) if phase(stopped).is_terminal() && phase(stopped) != TaskPhase::Completed => {
                    unmovable.push(vm.name_any())
                }
                _ => {}
            }
        }
        let open = children.iter().any(|child| !phase(child).is_terminal());
        if !unmovable.is_empty() && !open {
            // As if it had been cancelled: the host takes VMs again.
            if let Step::Wait(progress) = self.undrain(&hosts, &host, noted, &children).await? {
                return Ok(Step::Wait(progress));
            }
            let text = format!("Host {name} is not empty: {} could not be moved", unmovable.join(", "));
            return Ok(Step::Ended(Outcome::Failed, text, BTreeMap::new()));
        }
        if here.is_empty() && !open {
            let result = BTreeMap::from([("vms".to_owned(), vms_of(&children).to_string())]);
            return Ok(Step::Ended(Outcome::Succeeded, format!("No VM runs on host {name}"), result));
        }
        let total = vms_of(&children).max(here.len());
        Ok(self.wait("moving VMs", total.saturating_sub(here.len()), total, "vms"))
    }

    /// Lets VMs come to a host again, if they could before, and starts those that were stopped.
    async fn undrain(&self, hosts: &Api<Host>, host: &Host, noted: Option<bool>, children: &[Task]) -> Result<Step, kube::Error> {
        let mut open = 0;
        for child in children {
            let tasks: Api<Task> = Api::namespaced(self.client.clone(), &child.namespace().unwrap_or_default());
            if !phase(child).is_terminal() {
                open += 1;
                if !child.spec.cancel_requested {
                    let patch = json!({ "spec": { "cancelRequested": true } });
                    unless_changed(tasks.patch(&child.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await)?;
                }
            } else if let (TaskPhase::Completed, Operation::VmStop(VmStop { vm })) = (phase(child), &child.spec.operation) {
                let vms: Api<VirtualMachine> = Api::namespaced(self.client.clone(), &child.namespace().unwrap_or_default());
                if let (Some(vm), Some(before)) = (vms.get_opt(vm).await?, undo(child).get(RUN_STRATEGY))
                    && vm.spec.run_strategy == RunStrategy::Halted
                    && !self.run_strategy(&vms, &vm, before).await?
                {
                    open += 1;
                }
            }
        }
        if open > 0 {
            return Ok(self.wait("ending what was begun", 0, open, "tasks"));
        }
        if let Some(before) = noted.filter(|before| *before != host.spec.unschedulable) {
            self.unschedulable(hosts, host, before).await?;
        }
        Ok(Step::Ended(Outcome::Stopped, "What was changed has been put back".into(), BTreeMap::new()))
    }

    async fn unschedulable(&self, hosts: &Api<Host>, host: &Host, to: bool) -> Result<(), kube::Error> {
        let patch = json!({ "spec": { "unschedulable": to } });
        hosts.patch(&host.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    }

    /// The tasks that are parts of a task.
    async fn children(&self, task: &Task) -> Result<Vec<Task>, kube::Error> {
        let tasks: Api<Task> = Api::all(self.client.clone());
        let selector = format!("{PARENT_LABEL}={},{PARENT_NAMESPACE_LABEL}={}", task.name_any(), task.namespace().unwrap_or_default());
        let found = tasks.list(&ListParams::default().labels(&selector)).await?;
        // Of an earlier task of this name there may be some, too.
        let since = task.creation_timestamp();
        Ok(found.items.into_iter().filter(|child| child.creation_timestamp() >= since).collect())
    }

    async fn create_child(&self, task: &Task, vm: &VirtualMachine, what: &str, operation: Operation) -> Result<(), kube::Error> {
        let namespace = vm.namespace().unwrap_or_default();
        let uid = vm.uid().unwrap_or_default();
        let name = format!("{}-{what}-{}", task.name_any(), uid.split('-').next().unwrap_or_default());
        let spec = TaskSpec {
            timeout: task.spec.timeout,
            ttl_after_finished: task.spec.ttl_after_finished,
            priority: task.spec.priority,
            ..TaskSpec::of(operation)
        };
        let mut new = Task::new(&name, spec);
        let labels = [(PARENT_LABEL, task.name_any()), (PARENT_NAMESPACE_LABEL, task.namespace().unwrap_or_default())];
        new.metadata.labels = Some(labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
        let tasks: Api<Task> = Api::namespaced(self.client.clone(), &namespace);
        match tasks.create(&PostParams::default(), &new).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            other => other.map(drop),
        }
    }

    fn wait(&self, step: &str, done: usize, total: usize, unit: &str) -> Step {
        let percent = (done * 100).checked_div(total).and_then(|percent| u32::try_from(percent).ok());
        let (done, total) = (done as u64, Some(total as u64));
        let updated_at = Time(self.now);
        Step::Wait(Progress { step: step.into(), done, total, unit: unit.into(), percent, rate: None, eta_seconds: None, updated_at })
    }
}

/// What a step says, as a host would say it.
pub fn reported(task: &Task, now: Timestamp, ended: Option<(Outcome, String, BTreeMap<String, String>)>) -> Option<Reported> {
    let status = task.status.as_ref()?;
    let token = status.token.clone()?;
    let known = status.reported.clone().filter(|reported| reported.token == token);
    let begun = Reported {
        token,
        host: "the control plane".into(),
        started_at: Time(now),
        outcome: None,
        ended_at: None,
        message: None,
        result: BTreeMap::new(),
        residue: Vec::new(),
    };
    let begun = known.unwrap_or(begun);
    Some(match ended {
        Some((outcome, message, result)) => {
            Reported { outcome: Some(outcome), ended_at: Some(Time(now)), message: Some(message), result, ..begun }
        }
        None => begun,
    })
}

fn undo(task: &Task) -> BTreeMap<String, String> {
    task.status.as_ref().map(|status: &TaskStatus| status.undo.clone()).unwrap_or_default()
}

fn phase(task: &Task) -> TaskPhase {
    task.status.as_ref().and_then(|status| status.phase).unwrap_or_default()
}

fn on_host(vm: &VirtualMachine, host: &str) -> bool {
    vm.status.as_ref().and_then(|status| status.host.as_deref()) == Some(host)
}

/// Whether a VM's status is of its spec as it is now.
fn is_current(vm: &VirtualMachine) -> bool {
    vm.status.as_ref().is_some_and(|status| status.observed_generation >= vm.metadata.generation)
}

/// Whether a VM does not run and is not about to.
fn is_at_rest(vm: &VirtualMachine) -> bool {
    let stopped = vm.status.as_ref().and_then(|status| status.phase) == Some(VmPhase::Stopped);
    stopped && is_current(vm) && vm.spec.run_strategy != RunStrategy::Always
}

fn child<'a>(children: &'a [Task], vm: &VirtualMachine, operation: &str) -> Option<&'a Task> {
    let namespace = vm.namespace().unwrap_or_default();
    let about = ObjectReference { kind: "VirtualMachine".into(), name: vm.name_any(), namespace: Some(namespace.clone()) };
    children.iter().find(|child| {
        let same = child.namespace().as_deref() == Some(namespace.as_str());
        same && child.spec.operation.name() == operation && child.spec.operation.object(None, &namespace).as_ref() == Some(&about)
    })
}

/// How many VMs children are about.
fn vms_of(children: &[Task]) -> usize {
    children.iter().filter(|child| matches!(child.spec.operation, Operation::VmMigrate(_))).count()
}

fn unless_changed<T>(written: Result<T, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(false),
        other => other.map(|_| true),
    }
}
