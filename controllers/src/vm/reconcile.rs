//! Owns the VM's placement and the judgement in its status; needs the hosts, and the other VMs for what they use.

use super::{
    place::{Candidate, Placed, place},
    plan::{PlacedHost, Step, newly_placed, plan, summary, unplaceable},
};
use crate::{
    Context,
    events::Happening,
    host::mirror::{Hosts, with_hosts},
    patch::status_patch,
    work::{Next, Work},
};
use basalt_api::{
    Host, VirtualMachine, VirtualMachineStatus,
    host::Resources,
    virtual_machine::{TEARDOWN_FINALIZER, VmPhase},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::reflector::{ObjectRef, Store},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Fields of `VirtualMachine.status` that the hub writes from the agent's reports.
const HUB_FIELDS: [&str; 1] = ["observed"];
/// How many VMs are reconciled at once.
const CONCURRENCY: u16 = 32;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot {action} of VM {vm}: {source}")]
    Write { action: &'static str, vm: String, source: Box<kube::Error> },
    #[error("cannot encode the status of VM {vm}: {source}")]
    Encode { vm: String, source: serde_json::Error },
}

/// What the reconciles of all VMs share.
struct Vms {
    context: Arc<Context>,
    hosts: Store<Host>,
    vms: Store<VirtualMachine>,
    /// Placements that are written but may not have come back through the watch: uid -> host and resources. Held locked
    /// while a VM is placed, so that two VMs cannot be given the same room.
    assumed: Mutex<HashMap<String, (String, Resources)>>,
}

/// Runs the VM controller until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    with_hosts(context.client.clone(), &shutdown, |Hosts { all, changed }| {
        let work = Work::new("vm", &context, Api::<VirtualMachine>::all(context.client.clone())).at_once(CONCURRENCY);
        let vms = work.objects();
        let concerned = vms.clone();
        let state = Arc::new(Vms { context: context.clone(), hosts: all, vms, assumed: Mutex::new(HashMap::new()) });
        let work = work.follows(changed, move |host: &Host| concerned_vms(&concerned, &host.name_any()));
        work.run(move |vm| reconcile(vm, state.clone()), shutdown.clone())
    })
    .await;
}

/// The VMs that a change of a host concerns: those on it, and those that wait for a host.
fn concerned_vms(vms: &Store<VirtualMachine>, host: &str) -> Vec<ObjectRef<VirtualMachine>> {
    let concerned = vms.state_filter(|vm| vm.status.as_ref().and_then(|s| s.host.as_deref()).is_none_or(|h| h == host));
    concerned.iter().map(|vm| ObjectRef::from_obj(&**vm)).collect()
}

async fn reconcile(vm: Arc<VirtualMachine>, state: Arc<Vms>) -> Result<Next, Error> {
    let host = vm.status.as_ref().and_then(|s| s.host.as_deref()).map(|name| match state.hosts.get(&ObjectRef::new(name)) {
        None => PlacedHost::Gone,
        Some(host) if Candidate::new(&host).ready => PlacedHost::Ready,
        Some(_) => PlacedHost::Silent,
    });
    match plan(&vm, host, state.context.now()) {
        Step::AddFinalizer => {
            let finalizers: Vec<_> = vm.finalizers().iter().cloned().chain([TEARDOWN_FINALIZER.to_owned()]).collect();
            state.write_finalizers(&vm, finalizers, "add the finalizer").await?;
        }
        Step::RemoveFinalizer => {
            let finalizers: Vec<_> = vm.finalizers().iter().filter(|f| *f != TEARDOWN_FINALIZER).cloned().collect();
            state.write_finalizers(&vm, finalizers, "remove the finalizer").await?;
        }
        Step::Place => state.place(&vm).await?,
        Step::Status(status) => {
            state.write_status(&vm, &status).await?;
        }
    }
    Ok(Next::OnChange)
}

impl Vms {
    async fn place(&self, vm: &VirtualMachine) -> Result<(), Error> {
        let now = self.context.now();
        let uid = vm.uid().unwrap_or_default();
        let mut assumed = self.assumed.lock().await;
        if assumed.contains_key(&uid) {
            // The placement is written; the watch brings it back.
            return Ok(());
        }
        let hosts = self.candidates(&mut assumed);
        match place(&vm.spec, &hosts) {
            Placed::On(host) => {
                let status = newly_placed(vm, &host, now);
                if self.write_status(vm, &status).await? {
                    assumed.insert(uid, (host.clone(), vm.spec.resources()));
                    drop(assumed);
                    tracing::info!(vm = title(vm), host, epoch = status.placement_epoch, "VM placed");
                    self.record(vm, false, "Placed", format!("Placed on host {host}")).await;
                }
            }
            Placed::Nowhere(refusals) => {
                drop(assumed);
                let message =
                    if refusals.is_empty() { "There are no hosts".to_owned() } else { format!("No host fits. {}", summary(&refusals)) };
                let told = vm.status.as_ref().is_some_and(|s| s.phase == Some(VmPhase::Pending) && s.refusals == refusals);
                let written = self.write_status(vm, &unplaceable(vm, refusals, now)).await?;
                if written && !told {
                    self.record(vm, true, "NoHostFits", message).await;
                }
            }
        }
        Ok(())
    }

    /// The hosts with what is placed on them, by the watch and by what was written since.
    fn candidates(&self, assumed: &mut HashMap<String, (String, Resources)>) -> Vec<Candidate> {
        let mut hosts: BTreeMap<String, Candidate> =
            self.hosts.state().iter().map(|host| (host.name_any(), Candidate::new(host))).collect();
        let vms = self.vms.state();
        let known: HashSet<String> = vms.iter().filter_map(|vm| vm.uid()).collect();
        assumed.retain(|uid, _| known.contains(uid));
        for vm in &vms {
            if let Some(host) = vm.status.as_ref().and_then(|s| s.host.as_ref()) {
                assumed.remove(&vm.uid().unwrap_or_default());
                if let Some(host) = hosts.get_mut(host) {
                    host.take(vm.spec.resources());
                }
            }
        }
        for (host, wanted) in assumed.values() {
            if let Some(host) = hosts.get_mut(host) {
                host.take(*wanted);
            }
        }
        hosts.into_values().collect()
    }

    /// Writes what changed of the status; says whether something was written. A VM that has changed since it was read is
    /// left alone: its newer version is reconciled next.
    async fn write_status(&self, vm: &VirtualMachine, status: &VirtualMachineStatus) -> Result<bool, Error> {
        let encode = |source| Error::Encode { vm: title(vm), source };
        let old = vm.status.clone().unwrap_or_default();
        let Some(patch) = status_patch(&old, status, &HUB_FIELDS).map_err(encode)? else {
            return Ok(false);
        };
        let patch = json!({ "metadata": { "resourceVersion": vm.resource_version() }, "status": patch });
        let written = self.api(vm).patch_status(&vm.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        outcome(written, vm, "write the status")
    }

    async fn write_finalizers(&self, vm: &VirtualMachine, finalizers: Vec<String>, action: &'static str) -> Result<bool, Error> {
        let finalizers = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
        let patch = json!({ "metadata": { "resourceVersion": vm.resource_version(), "finalizers": finalizers } });
        let written = self.api(vm).patch(&vm.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        outcome(written, vm, action)
    }

    async fn record(&self, vm: &VirtualMachine, warning: bool, reason: &str, message: String) {
        let happening = Happening { warning, reason: reason.to_owned(), message, time: self.context.now() };
        self.context.recorder.record(vm, happening).await;
    }

    fn api(&self, vm: &VirtualMachine) -> Api<VirtualMachine> {
        Api::namespaced(self.context.client.clone(), &vm.namespace().unwrap_or_default())
    }
}

fn outcome(written: Result<VirtualMachine, kube::Error>, vm: &VirtualMachine, action: &'static str) -> Result<bool, Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(false),
        Err(source) => Err(Error::Write { action, vm: title(vm), source: Box::new(source) }),
    }
}

fn title(vm: &VirtualMachine) -> String {
    format!("{}/{}", vm.namespace().unwrap_or_default(), vm.name_any())
}
