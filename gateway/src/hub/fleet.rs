//! What the hub knows of VMs and images: a mirror of the API, indexed by host.
//!
//! Each change says which hosts it concerns. The mirror's revision grows with every change and, because it is made of the
//! store's revisions, never goes back, not even across restarts: that is what manifests take their generation from.

use basalt_api::{Image, VirtualMachine};
use kube::{Resource, ResourceExt};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

/// Namespace and name of a VM.
pub type VmKey = (String, String);

/// VMs and images as the API has them.
#[derive(Debug, Default)]
pub struct Fleet {
    vms: HashMap<VmKey, Arc<VirtualMachine>>,
    /// The VMs on each host, in the order in which manifests list them.
    on_host: HashMap<String, BTreeSet<VmKey>>,
    images: HashMap<String, Arc<Image>>,
    /// The newest revision of each kind that is taken in: each grows with every change of its kind, so their sum does
    /// with every change, in whatever order the two watches deliver.
    vm_revision: u64,
    image_revision: u64,
}

/// The hosts whose desired state a change may have touched.
pub type Concerned = HashSet<String>;

impl Fleet {
    /// Grows with every change, and never goes back.
    pub fn revision(&self) -> u64 {
        self.vm_revision + self.image_revision
    }

    /// A VM by namespace and name.
    pub fn vm(&self, namespace: &str, name: &str) -> Option<&Arc<VirtualMachine>> {
        self.vms.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The VMs that are placed on a host, by namespace and name.
    pub fn vms_on(&self, host: &str) -> impl Iterator<Item = &Arc<VirtualMachine>> {
        self.on_host.get(host).into_iter().flatten().filter_map(|key| self.vms.get(key))
    }

    /// An image by name.
    pub fn image(&self, name: &str) -> Option<&Arc<Image>> {
        self.images.get(name)
    }

    /// A VM was created or changed.
    pub fn put_vm(&mut self, mut vm: VirtualMachine) -> Concerned {
        self.vm_revision = self.vm_revision.max(revision(&vm));
        vm.metadata.managed_fields = None;
        let key = key(&vm);
        let old = self.take_vm(&key);
        if let Some(host) = host(&vm) {
            self.on_host.entry(host.to_owned()).or_default().insert(key.clone());
        }
        let concerned = match &old {
            Some(old) if desired(old) == desired(&vm) => Concerned::new(),
            old => old.iter().filter_map(|old| host(old)).chain(host(&vm)).map(str::to_owned).collect(),
        };
        self.vms.insert(key, Arc::new(vm));
        concerned
    }

    /// A VM is gone.
    pub fn remove_vm(&mut self, vm: &VirtualMachine) -> Concerned {
        self.vm_revision = self.vm_revision.max(revision(vm));
        self.take_vm(&key(vm)).iter().filter_map(|old| host(old)).map(str::to_owned).collect()
    }

    /// All VMs were listed anew, at `listed` or later: what is not among them is gone.
    pub fn replace_vms(&mut self, vms: Vec<VirtualMachine>, listed: u64) -> Concerned {
        let kept: HashSet<VmKey> = vms.iter().map(key).collect();
        let gone: Vec<VmKey> = self.vms.keys().filter(|key| !kept.contains(*key)).cloned().collect();
        let mut concerned = Concerned::new();
        for key in gone {
            concerned.extend(self.take_vm(&key).iter().filter_map(|old| host(old)).map(str::to_owned));
        }
        for vm in vms {
            concerned.extend(self.put_vm(vm));
        }
        self.vm_revision = self.vm_revision.max(listed);
        concerned
    }

    /// An image was created or changed.
    pub fn put_image(&mut self, mut image: Image) -> Concerned {
        self.image_revision = self.image_revision.max(revision(&image));
        image.metadata.managed_fields = None;
        let name = image.name_any();
        let image = Arc::new(image);
        match self.images.insert(name.clone(), image.clone()) {
            Some(old) if old.spec == image.spec => Concerned::new(),
            _ => self.users_of(&name),
        }
    }

    /// An image is gone.
    pub fn remove_image(&mut self, image: &Image) -> Concerned {
        self.image_revision = self.image_revision.max(revision(image));
        let name = image.name_any();
        if self.images.remove(&name).is_some() { self.users_of(&name) } else { Concerned::new() }
    }

    /// All images were listed anew, at `listed` or later: what is not among them is gone.
    pub fn replace_images(&mut self, images: Vec<Image>, listed: u64) -> Concerned {
        let kept: HashSet<String> = images.iter().map(|image| image.name_any()).collect();
        let gone: Vec<String> = self.images.keys().filter(|name| !kept.contains(*name)).cloned().collect();
        let mut concerned = Concerned::new();
        for name in gone {
            self.images.remove(&name);
            concerned.extend(self.users_of(&name));
        }
        for image in images {
            concerned.extend(self.put_image(image));
        }
        self.image_revision = self.image_revision.max(listed);
        concerned
    }

    fn take_vm(&mut self, key: &VmKey) -> Option<Arc<VirtualMachine>> {
        let old = self.vms.remove(key)?;
        if let Some(host) = host(&old)
            && let Some(keys) = self.on_host.get_mut(host)
        {
            keys.remove(key);
            if keys.is_empty() {
                self.on_host.remove(host);
            }
        }
        Some(old)
    }

    fn users_of(&self, image: &str) -> Concerned {
        let users = self.vms.values().filter(|vm| images_of(vm).contains(image));
        users.filter_map(|vm| host(vm)).map(str::to_owned).collect()
    }
}

/// The host that a VM is placed on.
pub fn host(vm: &VirtualMachine) -> Option<&str> {
    vm.status.as_ref()?.host.as_deref()
}

/// The names of the images that a VM's spec names.
pub fn images_of(vm: &VirtualMachine) -> BTreeSet<&str> {
    vm.spec.images().collect()
}

fn key(vm: &VirtualMachine) -> VmKey {
    (vm.namespace().unwrap_or_default(), vm.name_any())
}

fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// All of a VM that its host's manifest is made of.
fn desired(vm: &VirtualMachine) -> impl PartialEq + '_ {
    let meta = &vm.metadata;
    let epoch = vm.status.as_ref().and_then(|status| status.placement_epoch);
    (host(vm), epoch, &meta.uid, meta.generation, meta.deletion_timestamp.is_some(), &vm.spec)
}
