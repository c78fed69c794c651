//! Owns the VM's placement and the judgement in its status; needs the hosts, and the other VMs for what they use.

use super::{
    fleet::{Fleet, Placed},
    place::Candidate,
    plan::{PlacedHost, Step, newly_placed, plan, summary, unplaceable},
};
use crate::{
    Context,
    events::Happening,
    host::mirror::{Hosts, with_hosts},
    patch::status_patch,
    work::{Fate, Next, Work},
};
use basalt_api::{
    Host, Image, VirtualMachine, VirtualMachineStatus,
    virtual_machine::{TEARDOWN_FINALIZER, VmPhase},
};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::reflector::{ObjectRef, Store},
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Fields of `VirtualMachine.status` that the hub writes from the agent's reports.
const HUB_FIELDS: [&str; 1] = ["observed"];
/// How many VMs are reconciled at once.
const CONCURRENCY: u16 = 32;
/// How often what is known of hosts and VMs is held against what there is.
const RENEW: Duration = Duration::from_secs(300);

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
    fleet: Mutex<Placing>,
}

/// The hosts with what is on them.
#[derive(Default)]
struct Placing {
    fleet: Fleet,
    /// It has all hosts and VMs: not before the first placement, for only then are all known.
    whole: bool,
}

/// Runs the VM controller until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    with_hosts(context.client.clone(), &shutdown, |Hosts { all, changed }| {
        let vms: Api<VirtualMachine> = Api::all(context.client.clone());
        let images: Api<Image> = Api::all(context.client.clone());
        let work = Work::new("vm", &context, vms.clone()).at_once(CONCURRENCY);
        let state = Arc::new(Vms { context: context.clone(), hosts: all, vms: work.objects(), fleet: Mutex::default() });
        let [of_vm, of_host, of_image, renewed] = std::array::from_fn(|_| state.clone());
        let work = work
            .learns(vms, move |vm: &VirtualMachine, fate| of_vm.take_vm(vm, fate))
            .watches(images, move |image: &Image| of_image.take_image(image))
            .follows(changed, move |host: &Host| of_host.take_host(host))
            // A watch that was broken does not tell of what has gone meanwhile.
            .every(RENEW, move |_| renewed.renew());
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
    fn fleet(&self) -> MutexGuard<'_, Placing> {
        // It is whole between any two of its statements that can panic.
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_vm(&self, vm: &VirtualMachine, fate: Fate) -> Vec<ObjectRef<VirtualMachine>> {
        let mut placing = self.fleet();
        let before = placing.fleet.host_of(vm);
        match fate {
            Fate::There => placing.fleet.put_vm(vm),
            Fate::Gone => placing.fleet.remove_vm(vm),
        }
        let after = placing.fleet.host_of(vm);
        drop(placing);
        // Whoever waits for a host may fit where one has left.
        if before.is_some() && before != after { self.waiting() } else { Vec::new() }
    }

    fn take_image(&self, image: &Image) -> Vec<ObjectRef<VirtualMachine>> {
        self.fleet().fleet.put_image(image);
        Vec::new()
    }

    fn take_host(&self, host: &Host) -> Vec<ObjectRef<VirtualMachine>> {
        let name = host.name_any();
        match self.hosts.get(&ObjectRef::from_obj(host)) {
            Some(host) => self.fleet().fleet.put_host(&host),
            None => self.fleet().fleet.remove_host(&name),
        }
        concerned_vms(&self.vms, &name)
    }

    fn renew(&self) -> Vec<ObjectRef<VirtualMachine>> {
        self.fleet().whole = false;
        Vec::new()
    }

    /// The VMs that wait for a host.
    fn waiting(&self) -> Vec<ObjectRef<VirtualMachine>> {
        let waiting = self.vms.state_filter(|vm| vm.status.as_ref().is_some_and(|s| s.host.is_none() && !s.refusals.is_empty()));
        waiting.iter().map(|vm| ObjectRef::from_obj(&**vm)).collect()
    }

    async fn place(&self, vm: &VirtualMachine) -> Result<(), Error> {
        let now = self.context.now();
        let placed = {
            let mut placing = self.fleet();
            if !std::mem::replace(&mut placing.whole, true) {
                let hosts = self.hosts.state();
                let vms = self.vms.state();
                placing.fleet.keep_only(&hosts, &vms);
            }
            if placing.fleet.is_placed(&vm.uid().unwrap_or_default()) {
                // The placement is written; the watch brings it back.
                return Ok(());
            }
            let placed = placing.fleet.place(vm);
            if let Placed::On(host) = &placed {
                placing.fleet.reserve(vm, host);
            }
            placed
        };
        match placed {
            Placed::On(host) => {
                let status = newly_placed(vm, &host, now);
                match self.write_status(vm, &status).await {
                    Ok(Some(written)) => self.fleet().fleet.put_vm(&written),
                    // It has changed meanwhile; its newer state is reconciled next.
                    Ok(None) => {
                        self.fleet().fleet.release(vm);
                        return Ok(());
                    }
                    Err(error) => {
                        self.fleet().fleet.release(vm);
                        return Err(error);
                    }
                }
                tracing::info!(vm = title(vm), host, epoch = status.placement_epoch, "VM placed");
                self.record(vm, false, "Placed", format!("Placed on host {host}")).await;
            }
            Placed::Nowhere(refusals) => {
                let message =
                    if refusals.is_empty() { "There are no hosts".to_owned() } else { format!("No host fits. {}", summary(&refusals)) };
                let status = unplaceable(vm, refusals, now);
                let told = vm.status.as_ref().is_some_and(|s| s.phase == Some(VmPhase::Pending) && s.refusals == status.refusals);
                let written = self.write_status(vm, &status).await?.is_some();
                if written && !told {
                    self.record(vm, true, "NoHostFits", message).await;
                }
            }
        }
        Ok(())
    }

    /// Writes what changed of the status; gives the VM as it was written, if it was. A VM that has changed since it was read is
    /// left alone: its newer version is reconciled next.
    async fn write_status(&self, vm: &VirtualMachine, status: &VirtualMachineStatus) -> Result<Option<VirtualMachine>, Error> {
        let encode = |source| Error::Encode { vm: title(vm), source };
        let old = vm.status.clone().unwrap_or_default();
        let Some(patch) = status_patch(&old, status, &HUB_FIELDS).map_err(encode)? else {
            return Ok(None);
        };
        let patch = json!({ "metadata": { "resourceVersion": vm.resource_version() }, "status": patch });
        let written = self.api(vm).patch_status(&vm.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        outcome(written, vm, "write the status")
    }

    async fn write_finalizers(&self, vm: &VirtualMachine, finalizers: Vec<String>, action: &'static str) -> Result<(), Error> {
        let finalizers = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
        let patch = json!({ "metadata": { "resourceVersion": vm.resource_version(), "finalizers": finalizers } });
        let written = self.api(vm).patch(&vm.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        outcome(written, vm, action).map(drop)
    }

    async fn record(&self, vm: &VirtualMachine, warning: bool, reason: &str, message: String) {
        let happening = Happening { warning, reason: reason.to_owned(), message, time: self.context.now() };
        self.context.recorder.record(vm, happening).await;
    }

    fn api(&self, vm: &VirtualMachine) -> Api<VirtualMachine> {
        Api::namespaced(self.context.client.clone(), &vm.namespace().unwrap_or_default())
    }
}

fn outcome(
    written: Result<VirtualMachine, kube::Error>,
    vm: &VirtualMachine,
    action: &'static str,
) -> Result<Option<VirtualMachine>, Error> {
    match written {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(None),
        Err(source) => Err(Error::Write { action, vm: title(vm), source: Box::new(source) }),
    }
}

fn title(vm: &VirtualMachine) -> String {
    format!("{}/{}", vm.namespace().unwrap_or_default(), vm.name_any())
}
