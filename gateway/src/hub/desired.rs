//! What each host should be: kept by host as VMs and images change, and projected into its manifest.

use basalt_api::{
    Image, VirtualMachine,
    virtual_machine::{Boot, RunStrategy},
};
use basalt_proto::v1::{Desired as Want, HostManifest, ImageManifest, VmManifest};
use futures::StreamExt;
use kube::{
    Api, Client, ResourceExt,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use prost::Message;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How soon the first look at the store is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// What hosts should be.
#[derive(Default)]
pub struct Desired {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// VMs by uid.
    vms: HashMap<String, Arc<VirtualMachine>>,
    /// Uids of the VMs of each host.
    placed: HashMap<String, BTreeSet<String>>,
    images: BTreeMap<String, Arc<Image>>,
    /// The newest resource version that was seen; it never goes back, also not over a restart.
    revision: u64,
    /// Who waits for a host to change.
    watchers: HashMap<String, watch::Sender<u64>>,
}

impl Desired {
    /// Follows VMs and images until `shutdown`. Returns when all that exist are known: a host that was told less than
    /// everything would take the rest for deleted.
    pub async fn follow(client: Client, shutdown: CancellationToken) -> Arc<Self> {
        let desired = Arc::new(Self::default());
        // The revision of a list is that of the whole store, also when what was written last has been deleted since.
        let images: Api<Image> = Api::all(client.clone());
        loop {
            match images.list_metadata(&ListParams::default().limit(1)).await {
                Ok(list) => {
                    desired.lock().saw(list.metadata.resource_version.as_deref());
                    break;
                }
                Err(error) => {
                    tracing::warn!("the hub cannot read images yet: {error}");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        let (vms_known, images_known) = (watch::Sender::new(false), watch::Sender::new(false));
        let (mut vms_ready, mut images_ready) = (vms_known.subscribe(), images_known.subscribe());
        let (here, api) = (desired.clone(), Api::<VirtualMachine>::all(client));
        let ended = shutdown.clone();
        tokio::spawn(ended.run_until_cancelled_owned(async move {
            let mut events = watcher::watcher(api, watcher::Config::default()).default_backoff().boxed();
            let mut listed = Vec::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => listed.clear(),
                    Ok(Event::InitApply(vm)) => listed.push(vm),
                    Ok(Event::InitDone) => {
                        here.lock().replace_vms(std::mem::take(&mut listed));
                        vms_known.send_replace(true);
                    }
                    Ok(Event::Apply(vm)) => here.lock().put_vm(vm),
                    Ok(Event::Delete(vm)) => here.lock().delete_vm(&vm),
                    Err(error) => tracing::warn!("the hub's watch on VMs failed and is tried again: {error}"),
                }
            }
        }));
        let here = desired.clone();
        tokio::spawn(shutdown.run_until_cancelled_owned(async move {
            let mut events = watcher::watcher(images, watcher::Config::default()).default_backoff().boxed();
            let mut listed = Vec::new();
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Init) => listed.clear(),
                    Ok(Event::InitApply(image)) => listed.push(image),
                    Ok(Event::InitDone) => {
                        here.lock().replace_images(std::mem::take(&mut listed));
                        images_known.send_replace(true);
                    }
                    Ok(Event::Apply(image)) => here.lock().put_image(image),
                    Ok(Event::Delete(image)) => here.lock().delete_image(&image),
                    Err(error) => tracing::warn!("the hub's watch on images failed and is tried again: {error}"),
                }
            }
        }));
        // Both end only when the tasks do, which is at the shutdown.
        let _ = tokio::join!(vms_ready.wait_for(|known| *known), images_ready.wait_for(|known| *known));
        desired
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two of its statements that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of changes that may concern a host.
    pub fn changes(&self, host: &str) -> watch::Receiver<u64> {
        self.lock().watchers.entry(host.to_owned()).or_default().subscribe()
    }

    /// A VM by its uid.
    pub fn vm(&self, uid: &str) -> Option<Arc<VirtualMachine>> {
        self.lock().vms.get(uid).cloned()
    }

    /// A host's manifest as of now.
    pub fn manifest(&self, host: &str, cluster_uid: &str, heartbeat_seconds: u32) -> HostManifest {
        let state = self.lock();
        let vms = state.placed.get(host).into_iter().flatten().filter_map(|uid| state.vms.get(uid)).map(|vm| project(vm, &state.images));
        let mut manifest = HostManifest {
            cluster_uid: cluster_uid.to_owned(),
            host: host.to_owned(),
            generation: 0,
            hash: Vec::new(),
            vms: vms.collect(),
            heartbeat_seconds,
        };
        manifest.hash = Sha256::digest(manifest.encode_to_vec()).to_vec();
        manifest.generation = state.revision;
        manifest
    }
}

impl State {
    fn saw(&mut self, version: Option<&str>) {
        self.revision = self.revision.max(version.and_then(|v| v.parse().ok()).unwrap_or(0));
    }

    fn tell(&self, host: &str) {
        if let Some(watcher) = self.watchers.get(host) {
            watcher.send_replace(self.revision);
        }
    }

    fn tell_all(&self) {
        for watcher in self.watchers.values() {
            watcher.send_replace(self.revision);
        }
    }

    fn put_vm(&mut self, vm: VirtualMachine) {
        self.saw(vm.metadata.resource_version.as_deref());
        let uid = vm.uid().unwrap_or_default();
        let host = vm.status.as_ref().and_then(|s| s.host.clone());
        let before = self.vms.insert(uid.clone(), Arc::new(vm)).and_then(|vm| vm.status.as_ref()?.host.clone());
        if let Some(before) = before.filter(|before| Some(before) != host.as_ref()) {
            self.unplace(&before, &uid);
        }
        if let Some(host) = host {
            self.placed.entry(host.clone()).or_default().insert(uid);
            self.tell(&host);
        }
    }

    fn delete_vm(&mut self, vm: &VirtualMachine) {
        self.saw(vm.metadata.resource_version.as_deref());
        let uid = vm.uid().unwrap_or_default();
        if let Some(host) = self.vms.remove(&uid).and_then(|vm| vm.status.as_ref()?.host.clone()) {
            self.unplace(&host, &uid);
        }
    }

    fn unplace(&mut self, host: &str, uid: &str) {
        if let Some(placed) = self.placed.get_mut(host) {
            placed.remove(uid);
            if placed.is_empty() {
                self.placed.remove(host);
            }
        }
        self.tell(host);
    }

    fn replace_vms(&mut self, vms: Vec<VirtualMachine>) {
        self.vms.clear();
        self.placed.clear();
        vms.into_iter().for_each(|vm| self.put_vm(vm));
        self.tell_all();
    }

    fn put_image(&mut self, image: Image) {
        self.saw(image.metadata.resource_version.as_deref());
        let before = self.images.insert(image.name_any(), Arc::new(image.clone()));
        if before.is_none_or(|before| before.spec != image.spec) {
            self.tell_all();
        }
    }

    fn delete_image(&mut self, image: &Image) {
        self.saw(image.metadata.resource_version.as_deref());
        self.images.remove(&image.name_any());
        self.tell_all();
    }

    fn replace_images(&mut self, images: Vec<Image>) {
        self.images.clear();
        images.into_iter().for_each(|image| self.put_image(image));
        self.tell_all();
    }
}

/// A VM as its host is told of it.
fn project(vm: &VirtualMachine, images: &BTreeMap<String, Arc<Image>>) -> VmManifest {
    let desired = match (&vm.metadata.deletion_timestamp, vm.spec.run_strategy) {
        (Some(_), _) => Want::Absent,
        (None, RunStrategy::Always) => Want::Running,
        (None, RunStrategy::RerunOnFailure) => Want::RunningUntilShutdown,
        (None, RunStrategy::Halted) => Want::Stopped,
    };
    let encode = |spec: Result<String, serde_json::Error>| spec.unwrap_or_default();
    let named = names(vm).into_iter().map(|name| ImageManifest {
        spec_json: images.get(&name).map(|image| encode(serde_json::to_string(&image.spec))).unwrap_or_default(),
        name,
    });
    VmManifest {
        uid: vm.uid().unwrap_or_default(),
        namespace: vm.namespace().unwrap_or_default(),
        name: vm.name_any(),
        generation: vm.metadata.generation.unwrap_or(0),
        epoch: vm.status.as_ref().and_then(|s| s.placement_epoch).unwrap_or(0),
        desired: desired.into(),
        spec_json: encode(serde_json::to_string(&vm.spec)),
        images: named.collect(),
    }
}

/// The images that a VM names, each once.
fn names(vm: &VirtualMachine) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = vm.spec.disks.iter().map(|disk| disk.image.clone()).collect();
    if let Boot::Kernel(kernel) = &vm.spec.boot {
        names.insert(kernel.image.clone());
        names.extend(kernel.initramfs.clone());
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_api::{VirtualMachineSpec, VirtualMachineStatus};
    use serde_json::json;

    fn vm(name: &str, version: u64, host: Option<&str>) -> VirtualMachine {
        let spec: VirtualMachineSpec = serde_json::from_value(json!({"memory": "1Gi", "boot": {"kernel": {"image": "k"}}})).unwrap();
        let mut vm = VirtualMachine::new(name, spec);
        vm.metadata.uid = Some(format!("uid-{name}"));
        vm.metadata.namespace = Some("default".into());
        vm.metadata.resource_version = Some(version.to_string());
        vm.status = Some(VirtualMachineStatus { host: host.map(str::to_owned), placement_epoch: Some(1), ..Default::default() });
        vm
    }

    fn names(desired: &Desired, host: &str) -> Vec<String> {
        desired.manifest(host, "c", 2).vms.into_iter().map(|vm| vm.name).collect()
    }

    #[test]
    fn a_host_is_told_of_its_own_vms_only_whatever_order_they_came_in() {
        let (one, other) = (Desired::default(), Desired::default());
        let vms = [vm("a", 1, Some("h1")), vm("b", 2, Some("h2")), vm("c", 3, Some("h1")), vm("d", 4, None)];
        vms.iter().for_each(|vm| one.lock().put_vm(vm.clone()));
        vms.iter().rev().for_each(|vm| other.lock().put_vm(vm.clone()));
        assert_eq!(names(&one, "h1"), ["a", "c"]);
        assert_eq!(one.manifest("h1", "c", 2), other.manifest("h1", "c", 2));
    }

    #[test]
    fn the_generation_grows_with_every_change_also_with_a_deletion() {
        let desired = Desired::default();
        desired.lock().put_vm(vm("a", 5, Some("h1")));
        let first = desired.manifest("h1", "c", 2);
        desired.lock().delete_vm(&vm("a", 6, Some("h1")));
        let second = desired.manifest("h1", "c", 2);
        assert!(second.generation > first.generation && second.hash != first.hash);
        assert_eq!(second.vms, []);
    }

    #[test]
    fn a_host_hears_of_a_vm_that_leaves_it_and_of_an_image_that_changes() {
        let desired = Desired::default();
        desired.lock().put_vm(vm("a", 1, Some("h1")));
        let mut changes = desired.changes("h1");
        desired.lock().put_vm(vm("b", 2, Some("h2")));
        assert!(!changes.has_changed().unwrap());
        desired.lock().put_vm(vm("a", 3, Some("h2")));
        assert!(changes.has_changed().unwrap());
        changes.borrow_and_update();
        let image = serde_json::from_value(
            json!({"metadata": {"name": "k", "resourceVersion": "4"}, "apiVersion": "basalt.dev/v1alpha1", "kind": "Image",
            "spec": {"source": "file:///k", "format": "Kernel"}}),
        )
        .unwrap();
        desired.lock().put_image(image);
        assert!(changes.has_changed().unwrap());
        assert!(desired.manifest("h2", "c", 2).vms[0].images[0].spec_json.contains("file:///k"));
    }
}
