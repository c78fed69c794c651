//! All VMs of the host: a task each, told what the manifest says; and the board where they say how they are.

use super::{
    actor::{Actor, Order},
    machine::{self, ImageSpecs},
    plan::Wanted,
    record::Record,
};
use crate::{
    files::FileError,
    images::Images,
    net,
    vmm::{VmDir, Vmm, VmmProbe},
};
use basalt_api::{
    VirtualMachineSpec,
    host::{Accelerator, VmmName},
    image::ImageOnHost,
    virtual_machine::{ObservedVm, VmState},
};
use basalt_proto::v1::{Desired, HostManifest, ImageReport, VmEvent, VmManifest, VmReport};
use jiff::SignedDuration;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    task::JoinHandle,
};

/// How many VMs are started at once.
const STARTS: u32 = 4;
/// How many happenings of a VM are kept for a gateway that is away.
const EVENTS: usize = 64;

/// What the tasks of all VMs share.
pub struct Doors {
    vmms: Vec<(Arc<dyn Vmm>, VmmProbe)>,
    pub(crate) images: Images,
    pub(super) starts: Semaphore,
    /// Where VMs say how they are.
    pub board: Board,
}

impl Doors {
    /// With the VMM programs that work here.
    pub fn new(vmms: Vec<(Arc<dyn Vmm>, VmmProbe)>) -> Self {
        Self { vmms, images: Images::default(), starts: Semaphore::new(STARTS as usize), board: Board::default() }
    }

    /// The driver of a program, working or not: what it started earlier is looked after.
    pub(crate) fn vmm(&self, name: VmmName) -> Option<Arc<dyn Vmm>> {
        self.vmms.iter().find(|(vmm, _)| vmm.name() == name).map(|(vmm, _)| vmm.clone())
    }

    /// Keeps VMs from being started until this is dropped, once those starts have ended that are under way.
    pub(crate) async fn no_starts(&self) -> Option<SemaphorePermit<'_>> {
        self.starts.acquire_many(STARTS).await.ok()
    }

    /// The program that runs a new VM.
    pub(super) fn choose(&self, wanted: Option<VmmName>) -> Option<(Arc<dyn Vmm>, Accelerator)> {
        let found = self.vmms.iter().find(|(vmm, _)| wanted.is_none_or(|name| name == vmm.name()));
        found.map(|(vmm, probe)| (vmm.clone(), probe.accelerator))
    }
}

/// How the VMs and images of the host are, for the next report.
#[derive(Default)]
pub struct Board {
    state: Mutex<Reports>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Reports {
    vms: BTreeMap<String, (VmReport, ObservedVm)>,
    images: BTreeMap<String, ImageOnHost>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Reports> {
        // The reports are whole between any two statements that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Tells of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn vm(&self, record: &Record, observed: ObservedVm) {
        let mut reports = self.lock();
        let entry = reports.vms.get(&record.uid);
        if entry.is_some_and(|(_, before)| *before == observed) {
            return;
        }
        let events = entry.map(|(report, _)| report.events.clone()).unwrap_or_default();
        let report = VmReport {
            uid: record.uid.clone(),
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            observed_json: serde_json::to_string(&observed).unwrap_or_default(),
            events,
        };
        reports.vms.insert(record.uid.clone(), (report, observed));
        drop(reports);
        self.bump();
    }

    pub(super) fn event(&self, uid: &str, event: VmEvent) {
        if let Some((report, _)) = self.lock().vms.get_mut(uid) {
            report.events.push(event);
            let surplus = report.events.len().saturating_sub(EVENTS);
            report.events.drain(..surplus);
        }
        self.bump();
    }

    pub(crate) fn images(&self, seen: Vec<(String, ImageOnHost)>) {
        self.lock().images.extend(seen);
        self.bump();
    }

    fn forget(&self, uid: &str) {
        self.lock().vms.remove(uid);
    }

    /// The VMs that run, or are about to or not to, as `NAMESPACE/NAME`.
    pub(crate) fn at_work(&self) -> Vec<String> {
        let idle = |state: VmState| matches!(state, VmState::Absent | VmState::Stopped | VmState::Failed);
        let reports = self.lock();
        let at_work = reports.vms.values().filter(|(_, observed)| !idle(observed.state));
        at_work.map(|(report, _)| format!("{}/{}", report.namespace, report.name)).collect()
    }

    /// Everything there is to report. The happenings are handed over: they are told once.
    pub fn reports(&self) -> (Vec<VmReport>, Vec<ImageReport>) {
        let mut reports = self.lock();
        let vms = reports.vms.values_mut().map(|(report, _)| {
            let taken = report.clone();
            report.events.clear();
            taken
        });
        let vms = vms.collect();
        let images = reports
            .images
            .iter()
            .map(|(name, seen)| ImageReport { name: name.clone(), image_json: serde_json::to_string(seen).unwrap_or_default() });
        (vms, images.collect())
    }
}

/// All VMs of the host.
pub struct Vms {
    dir: PathBuf,
    doors: Arc<Doors>,
    tasks: HashMap<String, (watch::Sender<Option<Order>>, JoinHandle<()>)>,
}

impl Vms {
    /// Finds the VMs that an earlier agent left, and looks after them; nothing is touched before [`Vms::apply`].
    pub fn open(dir: &Path, doors: Arc<Doors>) -> Result<Self, FileError> {
        crate::files::make_dir(dir)?;
        let mut vms = Self { dir: dir.to_owned(), doors, tasks: HashMap::new() };
        for entry in std::fs::read_dir(dir).map_err(FileError::at("read the directory", dir))?.flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            let record = Record::read(&VmDir::new(entry.path()))?.unwrap_or_else(|| Record { uid: uid.clone(), ..Record::default() });
            vms.spawn(uid, record, None);
        }
        Ok(vms)
    }

    fn spawn(&mut self, uid: String, record: Record, order: Option<Order>) {
        let (sender, receiver) = watch::channel(order);
        let actor = Actor::new(VmDir::new(self.dir.join(&uid)), record, receiver, self.doors.clone());
        self.tasks.insert(uid, (sender, tokio::spawn(actor.run())));
    }

    /// Tells each VM what the manifest says of it; one that the manifest does not name is to go.
    pub async fn apply(&mut self, manifest: &HostManifest) {
        let mut named = HashSet::new();
        for vm in &manifest.vms {
            // The uid becomes a directory name: nothing but a uid will do.
            if uuid::Uuid::try_parse(&vm.uid).is_err() {
                tracing::error!(uid = vm.uid, "a VM of the manifest has no valid uid and is left out");
                continue;
            }
            named.insert(vm.uid.clone());
            match order(vm) {
                Ok(order) => self.tell(vm.uid.clone(), order),
                // The VM goes on as it is: a newer agent may be needed to understand its spec.
                Err(error) => tracing::error!(vm = format!("{}/{}", vm.namespace, vm.name), "the spec of a VM is not understood: {error}"),
            }
        }
        let gone: Vec<String> = self.tasks.keys().filter(|uid| !named.contains(*uid)).cloned().collect();
        for uid in gone {
            if self.tasks.get(&uid).is_some_and(|(_, task)| task.is_finished()) {
                self.tasks.remove(&uid);
                self.doors.board.forget(&uid);
            } else {
                let wanted = Wanted {
                    desired: Desired::Absent,
                    generation: 0,
                    epoch: 0,
                    shape: String::new(),
                    paused: false,
                    restart: None,
                    force: None,
                    grace: None,
                };
                self.tell(uid, Order { namespace: String::new(), name: String::new(), wanted, spec: None, images: ImageSpecs::new() });
            }
        }
        self.remove_stray_taps().await;
    }

    fn tell(&mut self, uid: String, mut order: Order) {
        match self.tasks.get(&uid) {
            Some((sender, task)) if !task.is_finished() => sender.send_modify(|before| {
                if order.name.is_empty()
                    && let Some(before) = before
                {
                    (order.name, order.namespace) = (std::mem::take(&mut before.name), std::mem::take(&mut before.namespace));
                    order.wanted.epoch = before.wanted.epoch;
                }
                *before = Some(order);
            }),
            // Its task ended with the VM removed; that stays so until the manifest forgets it or wants it back.
            Some(_) if order.wanted.desired == Desired::Absent => {}
            _ => {
                let record = Record {
                    uid: uid.clone(),
                    namespace: order.namespace.clone(),
                    name: order.name.clone(),
                    epoch: order.wanted.epoch,
                    ..Record::default()
                };
                self.spawn(uid, record, Some(order));
            }
        }
    }

    /// Taps of ours that no VM has: what a crash left.
    async fn remove_stray_taps(&self) {
        let ours: HashSet<String> = self.tasks.keys().flat_map(|uid| (0..8).map(move |index| net::tap_name(uid, index))).collect();
        match net::list_taps().await {
            Ok(taps) => {
                for tap in taps.iter().filter(|tap| !ours.contains(*tap)) {
                    tracing::warn!(tap, "a tap of no VM is removed");
                    if let Err(error) = net::remove_tap(tap).await {
                        tracing::warn!("{error}");
                    }
                }
            }
            Err(error) => tracing::debug!("taps cannot be listed: {error}"),
        }
    }

    /// The directories of all VMs.
    pub fn dirs(&self) -> Vec<VmDir> {
        self.tasks.keys().map(|uid| VmDir::new(self.dir.join(uid))).collect()
    }
}

fn order(vm: &VmManifest) -> Result<Order, serde_json::Error> {
    let spec: VirtualMachineSpec = serde_json::from_str(&vm.spec_json)?;
    let mut images = ImageSpecs::new();
    for image in &vm.images {
        images.insert(image.name.clone(), machine::image_spec(&image.spec_json)?);
    }
    let shape = machine::shape(&spec, &images);
    let wanted = Wanted {
        desired: vm.desired(),
        generation: vm.generation,
        epoch: vm.epoch,
        shape,
        paused: spec.paused,
        restart: spec.restart_requested_at.as_ref().map(|asked| asked.0),
        force: spec.force_stop_requested_at.as_ref().map(|asked| asked.0),
        grace: spec.termination_grace_period_seconds.map(|seconds| SignedDuration::from_secs(seconds.into())),
    };
    Ok(Order { namespace: vm.namespace.clone(), name: vm.name.clone(), wanted, spec: Some(spec), images })
}
