//! The newest manifest of each host, with its generation, and word of when it changes.
//!
//! A generation is the revision of the fleet at which the content changed. The fleet's revision is the store's, so it goes
//! on growing across restarts of the gateway; within a host it never stays the same for other content.

use super::{
    fleet::{Concerned, Fleet},
    projection::{ControlPlane, ProjectionError, project},
};
use basalt_proto::v1::{Desired, HostManifest};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};
use tokio::sync::watch;

/// Manifests of all hosts, over the fleet.
pub struct Manifests {
    plane: ControlPlane,
    fleet: RwLock<Fleet>,
    hosts: Mutex<HashMap<String, Host>>,
    /// Which of the two lists, of VMs and of images, have been taken in.
    listed: watch::Sender<Listed>,
}

#[derive(Clone, Copy, Default)]
struct Listed {
    vms: bool,
    images: bool,
}

/// What is remembered of a host that has asked.
struct Host {
    changed: watch::Sender<()>,
    last: Option<Arc<HostManifest>>,
    /// For each VM that the host is told to remove: the first generation that said so.
    absent_since: HashMap<String, u64>,
}

impl Manifests {
    /// Without any VM or image yet.
    pub fn new(plane: ControlPlane) -> Self {
        let listed = watch::Sender::new(Listed::default());
        Self { plane, fleet: RwLock::default(), hosts: Mutex::default(), listed }
    }

    /// Waits until both lists have been taken in: before, a manifest would lack VMs, and its host would remove them.
    pub async fn ready(&self) {
        // The sender lives as long as `self`.
        let _ = self.listed.subscribe().wait_for(|listed| listed.vms && listed.images).await;
    }

    /// Takes in a change and tells the hosts concerned.
    pub fn change(&self, change: impl FnOnce(&mut Fleet) -> Concerned) {
        let concerned = change(&mut self.fleet.write().unwrap_or_else(PoisonError::into_inner));
        let hosts = self.hosts();
        for host in concerned.iter().filter_map(|host| hosts.get(host)) {
            host.changed.send_replace(());
        }
    }

    /// All VMs have been listed.
    pub fn vms_listed(&self) {
        self.listed.send_modify(|listed| listed.vms = true);
    }

    /// All images have been listed.
    pub fn images_listed(&self) {
        self.listed.send_modify(|listed| listed.images = true);
    }

    /// Looks something up in the fleet.
    pub fn look<T>(&self, look: impl FnOnce(&Fleet) -> T) -> T {
        look(&self.fleet.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Word of changes of a host's manifest.
    pub fn changes(&self, host: &str) -> watch::Receiver<()> {
        self.hosts().entry(host.to_owned()).or_insert_with(Host::new).changed.subscribe()
    }

    /// The manifest of a host as it is now. Its generation is larger than `known` if that is from another history of the
    /// store, for instance from before it was restored from a backup.
    pub fn current(&self, host: &str, known: u64) -> Result<Arc<HostManifest>, ProjectionError> {
        let mut hosts = self.hosts();
        let state = hosts.entry(host.to_owned()).or_insert_with(Host::new);
        let (revision, mut manifest) = self.look(|fleet| project(&self.plane, host, fleet).map(|m| (fleet.revision(), m)))?;
        let last = state.last.as_ref().filter(|last| last.generation >= known);
        if let Some(last) = last.filter(|last| last.hash == manifest.hash) {
            return Ok(last.clone());
        }
        let next = state.last.as_ref().map_or(0, |last| last.generation.saturating_add(1));
        manifest.generation = revision.max(next);
        if known > manifest.generation {
            tracing::warn!(
                host,
                known,
                revision,
                "the host has a manifest that is newer than this store: was the store restored from a backup? It gets the store's state"
            );
            manifest.generation = known.saturating_add(1);
        }
        state.note_absent(&manifest);
        let manifest = Arc::new(manifest);
        state.last = Some(manifest.clone());
        Ok(manifest)
    }

    /// Whether a host that has acknowledged this generation has been told to remove this VM.
    pub fn told_to_remove(&self, host: &str, uid: &str, acknowledged: u64) -> bool {
        let hosts = self.hosts();
        hosts.get(host).and_then(|host| host.absent_since.get(uid)).is_some_and(|since| acknowledged >= *since)
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Host {
    fn new() -> Self {
        Self { changed: watch::Sender::new(()), last: None, absent_since: HashMap::new() }
    }

    fn note_absent(&mut self, manifest: &HostManifest) {
        let absent = manifest.vms.iter().filter(|vm| vm.desired() == Desired::Absent);
        let before = std::mem::take(&mut self.absent_since);
        self.absent_since = absent.map(|vm| (vm.uid.clone(), before.get(&vm.uid).copied().unwrap_or(manifest.generation))).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_api::VirtualMachine;
    use serde_json::json;
    use std::time::Duration;

    fn manifests() -> Manifests {
        Manifests::new(ControlPlane { cluster_uid: "c".into(), heartbeat: Duration::from_secs(2) })
    }

    fn vm(revision: u64, deleted: bool) -> VirtualMachine {
        let mut vm: VirtualMachine = serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "a", "uid": "u", "generation": 1, "resourceVersion": revision.to_string() },
            "spec": { "memory": "256Mi", "boot": { "disk": { "name": "root" } } },
            "status": { "host": "h1", "placementEpoch": 1 },
        }))
        .unwrap();
        vm.metadata.deletion_timestamp = deleted.then(|| serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
        vm
    }

    #[test]
    fn a_generation_is_the_same_for_the_same_content_and_grows_with_every_other() {
        let manifests = manifests();
        manifests.change(|fleet| fleet.replace_vms(vec![], 7));
        let empty = manifests.current("h1", 0).unwrap();
        assert_eq!(empty.generation, 7);
        manifests.change(|fleet| fleet.put_vm(vm(9, false)));
        let one = manifests.current("h1", 0).unwrap();
        assert_eq!((one.generation, one.vms.len()), (9, 1));
        manifests.change(|fleet| fleet.put_vm(vm(10, false)));
        assert_eq!(manifests.current("h1", 9).unwrap(), one);
        // A removal whose revision is not known still makes a new generation.
        manifests.change(|fleet| fleet.replace_vms(vec![], 0));
        assert_eq!(manifests.current("h1", 9).unwrap().generation, 10);
    }

    #[test]
    fn a_host_that_knows_a_newer_generation_than_the_store_gets_a_newer_one_still() {
        let manifests = manifests();
        manifests.change(|fleet| fleet.replace_vms(vec![vm(9, false)], 9));
        assert_eq!(manifests.current("h1", 9).unwrap().generation, 9);
        let ahead = manifests.current("h1", 500).unwrap();
        assert_eq!(ahead.generation, 501);
        assert_eq!(manifests.current("h1", 501).unwrap().generation, 501);
        manifests.change(|fleet| fleet.put_vm(vm(12, true)));
        assert_eq!(manifests.current("h1", 501).unwrap().generation, 502);
    }

    #[tokio::test]
    async fn nothing_is_ready_before_both_lists_are_there() {
        let manifests = manifests();
        let waiting = async |manifests: &Manifests| futures::poll!(std::pin::pin!(manifests.ready())).is_pending();
        assert!(waiting(&manifests).await);
        manifests.vms_listed();
        assert!(waiting(&manifests).await);
        manifests.images_listed();
        assert!(!waiting(&manifests).await);
    }

    #[test]
    fn a_host_is_told_to_remove_a_vm_only_once_it_has_acknowledged_the_manifest_that_says_so() {
        let manifests = manifests();
        let mut changes = manifests.changes("h1");
        manifests.change(|fleet| fleet.put_vm(vm(5, false)));
        let running = manifests.current("h1", 0).unwrap();
        assert!(!manifests.told_to_remove("h1", "u", running.generation));
        changes.mark_unchanged();
        manifests.change(|fleet| fleet.put_vm(vm(6, true)));
        assert!(changes.has_changed().unwrap());
        let removed = manifests.current("h1", 0).unwrap();
        assert!(!manifests.told_to_remove("h1", "u", running.generation));
        assert!(manifests.told_to_remove("h1", "u", removed.generation));
        assert!(!manifests.told_to_remove("h1", "other", u64::MAX));
    }
}
