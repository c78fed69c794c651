//! The task of one VM: it looks, plans one step, does it, and looks again; between steps it waits for the manifest, the VMM
//! or the clock to say something new.

use super::{
    host::Doors,
    machine::{self, ImageSpecs},
    plan::{Decision, Seen, Step, Wanted, back_off, plan},
    record::Record,
};
use crate::{
    disk,
    files::FileError,
    net::{self, NetError},
    vmm::{GuestState, VmDir, Vmm, VmmError},
};
use basalt_api::{
    BlockedCode, VirtualMachineSpec,
    virtual_machine::{ObservedVm, Problem, VmState},
};
use basalt_daemon::traces;
use basalt_proto::v1::{Desired, VmEvent};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tracing::{Instrument, Span, field::Empty};

/// How often a VM is looked at although nothing says that it has changed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often a file that is missing is looked for again.
const IMAGE_RETRY: Duration = Duration::from_secs(5);

/// What is wanted of a VM, with all that is needed to make it.
#[derive(Clone, Debug)]
pub struct Order {
    /// `namespace` and `name`.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What the plan needs.
    pub wanted: Wanted,
    /// The spec; none for a VM that is only to go.
    pub spec: Option<VirtualMachineSpec>,
    /// Its images.
    pub images: ImageSpecs,
}

/// A step failed; what was wrong is in the VM's status too.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Vmm(#[from] VmmError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Disk(#[from] disk::DiskError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{}", .0.message)]
    Problem(Problem),
    #[error("no VMM program of this host can run the VM")]
    NoVmm,
}

impl StepError {
    fn problem(self) -> Problem {
        let message = self.to_string();
        let code = match self {
            Self::Problem(problem) => return problem,
            Self::Net(NetError::BridgeNotFound { .. }) => BlockedCode::BridgeNotFound,
            _ => BlockedCode::StartFailed,
        };
        Problem { code, object: None, message, retry_at: None }
    }
}

/// One VM's task.
pub struct Actor {
    dir: VmDir,
    record: Record,
    order: watch::Receiver<Option<Order>>,
    doors: Arc<Doors>,
    problem: Option<Problem>,
    adopted: bool,
}

impl Actor {
    /// A task for the VM of a directory; `record` is what is known of it.
    pub fn new(dir: VmDir, record: Record, order: watch::Receiver<Option<Order>>, doors: Arc<Doors>) -> Self {
        Self { dir, record, order, doors, problem: None, adopted: false }
    }

    /// Runs until nothing of the VM is left, or its order ends.
    pub async fn run(mut self) {
        loop {
            let order = self.order.borrow_and_update().clone();
            if let Some(order) = &order {
                self.take(order);
            }
            let seen = self.look().await;
            let now = Timestamp::now();
            let decision = plan(order.as_ref().map(|order| &order.wanted), &self.record, seen, now);
            self.settle(&decision, order.as_ref());
            self.report(&decision, order.as_ref());
            let span = self.span(decision.step);
            let failed = match decision.step {
                Step::Wait(until) => {
                    if !self.wait(seen, until, now).await {
                        return;
                    }
                    continue;
                }
                Step::TearDown => match self.tear_down().instrument(span.clone()).await {
                    Ok(()) => {
                        self.report_absent(order.as_ref());
                        return;
                    }
                    Err(error) => Err(error),
                },
                step => self.step(step, order.as_ref(), now).instrument(span.clone()).await,
            };
            if let Err(error) = failed {
                span.record("otel.status_code", "ERROR");
                drop(span);
                self.fail(error, order.as_ref());
                self.pause().await;
            }
        }
    }

    /// What is traced of a step.
    fn span(&self, step: Step) -> Span {
        if matches!(step, Step::Wait(_)) {
            return Span::none();
        }
        tracing::info_span!(
            target: traces::TARGET,
            "vm step",
            otel.name = format!("vm {step:?}"),
            otel.status_code = Empty,
            basalt.namespace = self.record.namespace,
            basalt.name = self.record.name,
            basalt.epoch = self.record.epoch,
        )
    }

    fn take(&mut self, order: &Order) {
        let record = &mut self.record;
        if (&record.name, &record.namespace, record.epoch) != (&order.name, &order.namespace, order.wanted.epoch) {
            (record.name, record.namespace, record.epoch) = (order.name.clone(), order.namespace.clone(), order.wanted.epoch);
            self.keep();
        }
    }

    fn settle(&mut self, decision: &Decision, order: Option<&Order>) {
        let generation = order.map_or(0, |order| order.wanted.generation);
        if decision.settled {
            self.problem = None;
            if self.record.generation != generation {
                self.record.generation = generation;
                self.keep();
            }
        }
    }

    fn vmm(&self) -> Option<Arc<dyn Vmm>> {
        self.doors.vmm(self.record.vmm?)
    }

    async fn look(&mut self) -> Seen {
        let Some(vmm) = self.vmm() else { return Seen::Nothing };
        let process = match vmm.adopt(&self.dir).await {
            Ok(Some(process)) => process,
            Ok(None) => return Seen::Nothing,
            Err(error) => {
                tracing::warn!(vm = self.record.title(), "cannot see whether the VMM runs: {error}");
                return Seen::Silent;
            }
        };
        if !std::mem::replace(&mut self.adopted, true) && self.record.live {
            tracing::info!(vm = self.record.title(), pid = process.pid, "VMM adopted");
            self.event(false, "VmAdopted", format!("The agent took over the running {} (pid {})", vmm.name(), process.pid));
        }
        match vmm.state(&self.dir).await {
            Ok(state) => Seen::Vmm(state),
            Err(error) => {
                // It may have died between the two looks.
                if let Ok(None) = vmm.adopt(&self.dir).await {
                    return Seen::Nothing;
                }
                tracing::warn!(vm = self.record.title(), "the VMM does not answer: {error}");
                Seen::Silent
            }
        }
    }

    async fn step(&mut self, step: Step, order: Option<&Order>, now: Timestamp) -> Result<(), StepError> {
        match step {
            Step::Start => {
                if let Some(order) = order {
                    self.start(order, now).await?;
                }
            }
            Step::NoteDeath => {
                self.record.live = false;
                self.count_failure(now);
                self.keep();
                tracing::warn!(vm = self.record.title(), failures = self.record.failures, "the VMM died");
                self.event(true, "VmmDied", "The VMM ended although the VM should run".into());
            }
            Step::NoteShutdown => {
                self.record.shut_down = order.map(|order| order.wanted.generation);
                self.keep();
                self.event(false, "GuestShutDown", "The guest shut itself down".into());
            }
            Step::Resume => {
                if let Some(vmm) = self.vmm() {
                    vmm.resume(&self.dir).await?;
                    self.event(false, "VmResumed", "The vCPUs were let run again".into());
                }
            }
            Step::Pause => {
                if let Some(vmm) = self.vmm() {
                    vmm.pause(&self.dir).await?;
                    self.event(false, "VmPaused", "The vCPUs are held, as spec.paused says".into());
                }
            }
            Step::PressPower => {
                self.record.asked_to_stop = Some(now);
                self.keep();
                if let Some(vmm) = self.vmm() {
                    // A guest that cannot be asked is ended at its deadline.
                    if let Err(error) = vmm.power_button(&self.dir).await {
                        tracing::warn!(vm = self.record.title(), "the power button could not be pressed: {error}");
                    }
                }
            }
            Step::End => self.end(order, now).await?,
            Step::ForgetFailures => {
                self.record.failures = 0;
                self.keep();
            }
            Step::Wait(_) | Step::TearDown => {}
        }
        Ok(())
    }

    async fn start(&mut self, order: &Order, now: Timestamp) -> Result<(), StepError> {
        let Some(spec) = &order.spec else { return Ok(()) };
        let _turn = self.doors.starts.acquire().await;
        crate::files::make_dir(self.dir.path())?;
        let (doors, images) = (self.doors.clone(), order.images.clone());
        let checked = tokio::task::spawn_blocking(move || machine::check_images(&doors.images, &images)).await;
        let (seen, files) = checked.map_err(|e| StepError::Problem(start_failed(format!("the images could not be looked at: {e}"))))?;
        self.doors.board.images(seen);
        let files = files.map_err(StepError::Problem)?;
        let title = self.record.title();
        let blueprint = machine::draw(&self.record.uid, &title, spec, &order.images, &files, &self.dir).map_err(StepError::Problem)?;
        let (vmm, accelerator) = self.doors.choose(spec.placement.vmm).ok_or(StepError::NoVmm)?;
        for (image, qcow2, overlay) in &blueprint.overlays {
            disk::ensure_overlay(image, *qcow2, overlay).await?;
        }
        // Noted before they are made, so that they are found after a crash.
        self.record.taps = blueprint.machine.nics.iter().map(|nic| nic.tap.clone()).collect();
        self.record.vmm = Some(vmm.name());
        self.record.accelerator = Some(accelerator);
        self.keep();
        if vmm.name() != basalt_api::host::VmmName::Simulated {
            for (index, bridge) in blueprint.bridges.iter().enumerate() {
                net::ensure_tap(&self.record.uid, index, bridge).await?;
            }
        }
        let process = vmm.start(&blueprint.machine, &self.dir).await?;
        let again = self.record.started_at.is_some() && self.record.failures > 0;
        self.record.restarts += i64::from(again);
        self.record.live = true;
        self.record.started_at = Some(now);
        self.record.shape = order.wanted.shape.clone();
        (self.record.restarted_for, self.record.forced_for) = (order.wanted.restart, order.wanted.force);
        self.record.generation = order.wanted.generation;
        (self.record.asked_to_stop, self.record.next_try, self.record.shut_down) = (None, None, None);
        self.adopted = true;
        self.keep();
        self.problem = None;
        let (reason, verb) = if again { ("VmRestarted", "started again") } else { ("VmStarted", "started") };
        tracing::info!(vm = title, pid = process.pid, vmm = %vmm.name(), %accelerator, "VM {verb}");
        self.event(false, reason, format!("The VM was {verb} with {} ({accelerator})", vmm.name()));
        Ok(())
    }

    /// Ends the VMM. What ended by itself and is to run again counts as a failure.
    async fn end(&mut self, order: Option<&Order>, now: Timestamp) -> Result<(), StepError> {
        let state = match self.vmm() {
            Some(vmm) => {
                let state = vmm.state(&self.dir).await.ok();
                vmm.destroy(&self.dir).await?;
                state
            }
            None => None,
        };
        let restart = order.is_some_and(|order| order.wanted.restart.is_some() && order.wanted.restart != self.record.restarted_for);
        let asked = self.record.asked_to_stop.take().is_some() || self.record.shut_down.is_some() || restart;
        let to_run = order.is_some_and(|o| matches!(o.wanted.desired, Desired::Running | Desired::RunningUntilShutdown));
        self.record.live = false;
        if to_run && !asked {
            self.count_failure(now);
            let (reason, message) = match state {
                Some(GuestState::Shutdown) => {
                    ("GuestShutDown", "The guest shut itself down; runStrategy is Always, so it is started again")
                }
                Some(GuestState::Crashed) => ("GuestCrashed", "The guest crashed"),
                _ => ("VmmSilent", "The VMM did not answer and was ended"),
            };
            self.event(state != Some(GuestState::Shutdown), reason, message.into());
        } else {
            self.event(false, "VmStopped", "The VM was stopped".into());
        }
        self.keep();
        Ok(())
    }

    async fn tear_down(&mut self) -> Result<(), StepError> {
        if let Some(vmm) = self.vmm() {
            vmm.destroy(&self.dir).await?;
        }
        for tap in &self.record.taps {
            net::remove_tap(tap).await?;
        }
        match std::fs::remove_dir_all(self.dir.path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(FileError::at("remove", self.dir.path())(e).into()),
            _ => Ok(()),
        }
    }

    fn count_failure(&mut self, now: Timestamp) {
        self.record.failures = self.record.failures.saturating_add(1);
        self.record.next_try = Some(now + back_off(self.record.failures));
    }

    fn fail(&mut self, error: StepError, order: Option<&Order>) {
        let now = Timestamp::now();
        let mut problem = error.problem();
        self.count_failure(now);
        if matches!(problem.code, BlockedCode::ImageUnusable | BlockedCode::ImageNotFound | BlockedCode::BridgeNotFound) {
            // What is missing is looked for often: whoever puts it there is waiting.
            self.record.next_try = Some(now + IMAGE_RETRY);
        }
        problem.retry_at = self.record.next_try.map(Time);
        let told = self.problem.as_ref().is_some_and(|before| before.message == problem.message);
        self.problem = Some(problem.clone());
        if self.dir.path().exists() {
            self.keep();
        }
        if !told {
            tracing::warn!(vm = self.record.title(), code = ?problem.code, "{}", problem.message);
            self.event(true, &format!("{:?}", problem.code), problem.message);
        }
        let decision = Decision { step: Step::Wait(None), state: VmState::Failed, settled: false };
        self.report(&decision, order);
    }

    /// After a failed step: a moment, so that a step that fails at once is not tried at once for ever.
    async fn pause(&mut self) {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(500)) => {}
            changed = self.order.changed() => drop(changed),
        }
    }

    /// Waits for something new; says whether there is more to do.
    async fn wait(&mut self, seen: Seen, until: Option<Timestamp>, now: Timestamp) -> bool {
        let least = until.and_then(|until| Duration::try_from(until.duration_since(now)).ok()).unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN);
        let vmm = self.vmm();
        let dir = self.dir.clone();
        let changed = async {
            match (vmm, seen) {
                (Some(vmm), Seen::Vmm(state)) => vmm.changed(&dir, state).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            order = self.order.changed() => order.is_ok(),
            () = changed => true,
            () = tokio::time::sleep(least) => true,
        }
    }

    fn keep(&self) {
        if !self.dir.path().exists() && !self.record.live {
            return;
        }
        if let Err(error) = self.record.write(&self.dir) {
            tracing::error!(vm = self.record.title(), "{error}");
        }
    }

    fn event(&self, warning: bool, reason: &str, message: String) {
        let now = Timestamp::now();
        let time = Some(prost_types::Timestamp { seconds: now.as_second(), nanos: now.subsec_nanosecond() });
        self.doors.board.event(&self.record.uid, VmEvent { time, warning, reason: reason.to_owned(), message });
    }

    fn report(&self, decision: &Decision, order: Option<&Order>) {
        let running = matches!(decision.state, VmState::Running | VmState::Paused | VmState::Stopping) && self.record.live;
        let spec = order.and_then(|order| order.spec.as_ref());
        let backing_off = (decision.state == VmState::Failed && self.problem.is_none()).then(|| Problem {
            code: BlockedCode::RestartBackOff,
            object: None,
            message: format!(
                "The VMM died {} times in a row. See its console: basaltctl logs vm/{}",
                self.record.failures, self.record.name
            ),
            retry_at: self.record.next_try.map(Time),
        });
        self.doors.board.vm(
            &self.record,
            ObservedVm {
                host: String::new(),
                epoch: self.record.epoch,
                generation: self.record.generation,
                state: decision.state,
                vmm: self.record.vmm.filter(|_| running),
                accelerator: self.record.accelerator.filter(|_| running),
                started_at: self.record.started_at.filter(|_| running).map(Time),
                restarts: self.record.restarts,
                addresses: spec.filter(|_| running).map(machine::addresses).unwrap_or_default(),
                pending_restart: order.filter(|_| running).map(|order| self.pending_restart(&order.wanted)).unwrap_or_default(),
                problem: self.problem.clone().or(backing_off),
            },
        );
    }

    /// The fields of the spec that wait for the next start.
    fn pending_restart(&self, wanted: &Wanted) -> Vec<String> {
        if self.record.shape == wanted.shape || matches!(wanted.desired, Desired::Absent | Desired::Stopped) {
            return Vec::new();
        }
        let fields = machine::differences(&self.record.shape, &wanted.shape);
        if fields.is_empty() { vec!["machine".to_owned()] } else { fields }
    }

    fn report_absent(&self, order: Option<&Order>) {
        tracing::info!(vm = self.record.title(), "VM removed");
        let observed = ObservedVm {
            host: String::new(),
            epoch: self.record.epoch,
            generation: order.map_or(self.record.generation, |order| order.wanted.generation),
            state: VmState::Absent,
            vmm: None,
            accelerator: None,
            started_at: None,
            restarts: self.record.restarts,
            addresses: Vec::new(),
            pending_restart: Vec::new(),
            problem: None,
        };
        self.doors.board.vm(&self.record, observed);
    }
}

fn start_failed(message: String) -> Problem {
    Problem { code: BlockedCode::StartFailed, object: None, message, retry_at: None }
}
