//! What a host reports: its lease is renewed, its inventory, its VMs and its images are written where the API shows them.
//!
//! Only what has changed is written. A report of a VM under another placement than the present one is refused: it is late.

use super::desired::Desired;
use basalt_api::{
    Host, HostStatus, Image, Memory, SYSTEM_NAMESPACE, VirtualMachine,
    host::{Resources, Vmm},
    image::ImageOnHost,
    virtual_machine::ObservedVm,
};
use basalt_controllers::{
    events::{Happening, Recorder},
    patch::{merge_patch, status_patch},
};
use basalt_proto::v1::{HostInventory, HostReport, ImageReport, VmReport};
use jiff::Timestamp;
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// How often a lease is renewed at the most, however often its host reports.
const RENEWAL: Duration = Duration::from_millis(500);

/// One host's stream of reports.
pub struct Session {
    client: Client,
    desired: Arc<Desired>,
    recorder: Recorder,
    host: String,
    renewed: Option<Instant>,
    inventory: Option<HostInventory>,
    /// What was last written of each VM by this session, by uid.
    written: HashMap<String, ObservedVm>,
    images: HashMap<String, ImageReport>,
    /// VMs whose late reports were told of.
    late: HashSet<(String, i64)>,
}

impl Session {
    /// The reports of a host.
    pub fn new(client: Client, desired: Arc<Desired>, host: String) -> Self {
        let recorder = Recorder::new(client.clone(), "basalt-agent");
        Self {
            client,
            desired,
            recorder,
            host,
            renewed: None,
            inventory: None,
            written: HashMap::new(),
            images: HashMap::new(),
            late: HashSet::new(),
        }
    }

    /// Takes one report in. What cannot be written is logged and comes again with the next report.
    pub async fn take(&mut self, report: HostReport) {
        if let Some(inventory) = report.inventory.filter(|inventory| self.inventory.as_ref() != Some(inventory)) {
            match self.write_inventory(&inventory).await {
                Ok(()) => self.inventory = Some(inventory),
                Err(error) => tracing::warn!(host = self.host, "cannot write the host's inventory: {error}"),
            }
        }
        // After the inventory, so that a host is never Ready before it is known what it has.
        if self.renewed.is_none_or(|renewed| renewed.elapsed() >= RENEWAL) {
            match self.renew().await {
                Ok(()) => self.renewed = Some(Instant::now()),
                Err(error) => tracing::warn!(host = self.host, "cannot renew the host's lease: {error}"),
            }
        }
        for vm in report.vms {
            self.take_vm(vm).await;
        }
        for image in report.images {
            if self.images.get(&image.name) != Some(&image) {
                match self.write_image(&image).await {
                    Ok(()) => drop(self.images.insert(image.name.clone(), image)),
                    Err(error) => {
                        tracing::warn!(host = self.host, image = image.name, "cannot write what the host says of the image: {error}")
                    }
                }
            }
        }
    }

    async fn renew(&self) -> Result<(), kube::Error> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": self.host },
            "spec": { "holderIdentity": self.host, "renewTime": MicroTime(Timestamp::now()) },
        });
        match leases.patch(&self.host, &PatchParams::default(), &Patch::Merge(&lease)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => {
                let params = PatchParams::apply("basalt-hub").force();
                leases.patch(&self.host, &params, &Patch::Apply(&lease)).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    async fn write_inventory(&self, inventory: &HostInventory) -> Result<(), kube::Error> {
        let hosts: Api<Host> = Api::all(self.client.clone());
        let old = hosts.get_status(&self.host).await?.status.unwrap_or_default();
        let vmms = inventory.vmms.iter().filter_map(|vmm| {
            let known = json!({ "name": vmm.name, "version": vmm.version, "accelerator": vmm.accelerator });
            serde_json::from_value::<Vmm>(known)
                .inspect_err(|error| tracing::warn!(host = self.host, "a VMM program is left out: {error}"))
                .ok()
        });
        let new = HostStatus {
            capacity: Some(Resources { cpus: inventory.cpus, memory: Memory(inventory.memory_bytes) }),
            vmms: vmms.collect(),
            boot_id: Some(inventory.boot_id.clone()),
            agent_version: Some(inventory.agent_version.clone()),
            addresses: inventory.addresses.clone(),
            ..old.clone()
        };
        let Ok(Some(status)) = status_patch(&old, &new, &[]) else { return Ok(()) };
        hosts.patch_status(&self.host, &PatchParams::default(), &Patch::Merge(&json!({ "status": status }))).await.map(drop)
    }

    async fn take_vm(&mut self, report: VmReport) {
        let observed = serde_json::from_str::<Value>(&report.observed_json).ok().and_then(|mut observed| {
            observed["host"] = self.host.clone().into();
            serde_json::from_value::<ObservedVm>(observed).ok()
        });
        let Some(observed) = observed else {
            tracing::warn!(host = self.host, vm = report.name, "the host's report of a VM is not understood");
            return;
        };
        // A VM that the hub does not know is gone from the API already; its host is told so by its manifest.
        let Some(vm) = self.desired.vm(&report.uid) else { return };
        let placement = vm.status.as_ref().map(|s| (s.host.as_deref(), s.placement_epoch));
        if placement != Some((Some(&self.host), Some(observed.epoch))) {
            if self.late.insert((report.uid.clone(), observed.epoch)) {
                tracing::warn!(
                    host = self.host, vm = report.name, epoch = observed.epoch, state = %observed.state,
                    "late report refused: the VM is no longer placed here under this epoch"
                );
            }
            return;
        }
        for event in &report.events {
            let time = event.time.and_then(|t| Timestamp::new(t.seconds, t.nanos).ok()).unwrap_or_else(Timestamp::now);
            let happening = Happening { warning: event.warning, reason: event.reason.clone(), message: event.message.clone(), time };
            self.recorder.record(&*vm, happening).await;
        }
        let shown = self.written.get(&report.uid).or_else(|| vm.status.as_ref()?.observed.as_ref());
        if shown == Some(&observed) {
            return;
        }
        match self.write_vm(&vm, shown, &observed).await {
            Ok(()) => drop(self.written.insert(report.uid, observed)),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(error) => tracing::warn!(host = self.host, vm = report.name, "cannot write what the host says of the VM: {error}"),
        }
    }

    async fn write_vm(&self, vm: &VirtualMachine, old: Option<&ObservedVm>, new: &ObservedVm) -> Result<(), kube::Error> {
        let Some(patch) = merge_patch(&json!(old), &json!(new)) else { return Ok(()) };
        let vms: Api<VirtualMachine> = Api::namespaced(self.client.clone(), &vm.namespace().unwrap_or_default());
        // With the uid: another VM of the same name is not meant.
        let patch = json!({ "metadata": { "uid": vm.uid() }, "status": { "observed": patch } });
        vms.patch_status(&vm.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    }

    async fn write_image(&self, report: &ImageReport) -> Result<(), kube::Error> {
        let seen = serde_json::from_str::<Value>(&report.image_json).ok().and_then(|mut seen| {
            seen["host"] = self.host.clone().into();
            serde_json::from_value::<ImageOnHost>(seen).ok()
        });
        let Some(seen) = seen else {
            tracing::warn!(host = self.host, image = report.name, "the host's report of an image is not understood");
            return Ok(());
        };
        // Each host owns its own entry of the list.
        let status = json!({ "apiVersion": "basalt.dev/v1alpha1", "kind": "Image", "status": { "hosts": [seen] } });
        let images: Api<Image> = Api::all(self.client.clone());
        let params = PatchParams::apply(&format!("basalt-host-{}", self.host)).force();
        match images.patch_status(&report.name, &params, &Patch::Apply(&status)).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}
