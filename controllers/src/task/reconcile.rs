//! Owns the status of tasks, but for what the hub writes; needs the hosts, the VMs for where they are, and the other tasks for
//! who goes first.

use super::{
    coordinate::{Coordinator, Step, reported},
    index::{Index, key, revision},
    plan::{HostState, Place, World, next},
};
use crate::{
    Context,
    host::mirror::{Hosts, with_hosts},
    patch::status_patch,
    work::{Next, Work},
};
use basalt_api::{
    BlockedCode, Host, ObjectReference, Task, TaskStatus, VirtualMachine,
    task::{Class, Operation, Progress, TaskPhase},
};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    runtime::reflector::{ObjectRef, Store},
};
use serde_json::json;
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Fields of `Task.status` that the hub writes from what hosts say.
const HUB_FIELDS: [&str; 3] = ["reported", "progress", "lateResults"];
/// The finalizer that holds a task until nothing of it runs any more.
pub const FINALIZER: &str = "basalt.dev/task-end";
/// How many tasks are reconciled at once.
const CONCURRENCY: u16 = 64;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot {action} of task {task}: {source}")]
    Api { action: &'static str, task: String, source: Box<kube::Error> },
    #[error("cannot encode the status of task {task}: {source}")]
    Encode { task: String, source: serde_json::Error },
}

/// What the reconciles of all tasks share.
struct Tasks {
    context: Arc<Context>,
    tasks: Store<Task>,
    hosts: Store<Host>,
    /// None before the first reconcile, for it is made of all tasks.
    index: Mutex<Option<Index>>,
}

/// Runs the task controller until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    with_hosts(context.client.clone(), &shutdown, |Hosts { all, changed }| {
        let tasks: Api<Task> = Api::all(context.client.clone());
        let vms: Api<VirtualMachine> = Api::all(context.client.clone());
        let work = Work::new("task", &context, tasks.clone()).at_once(CONCURRENCY);
        let state = Arc::new(Tasks { context: context.clone(), tasks: work.objects(), hosts: all, index: Mutex::default() });
        let [of_task, of_host, of_vm, overdue] = std::array::from_fn(|_| state.clone());
        work.watches(tasks, move |task: &Task| of_task.concerned(task))
            .follows(changed, move |host: &Host| of_host.indexed_or_none(|index| index.on_host(&host.name_any())))
            .watches(vms, move |vm: &VirtualMachine| of_vm.indexed_or_none(|index| index.of_vm(vm)))
            // What was lost on its way to a timer is found here.
            .every(context.settings.task_sweep, move |now| overdue.overdue(now))
            .run(move |task| reconcile(task, state.clone()), shutdown.clone())
    })
    .await;
}

async fn reconcile(stored: Arc<Task>, state: Arc<Tasks>) -> Result<Next, Error> {
    let now = state.context.now();
    let task = state.coordinated(&stored, now).await?;
    let status = task.status.clone().unwrap_or_default();
    let place = state.place(&task).await?;
    let host = state.host_state(&task, now);
    let (decision, begins) = {
        let mut guard = state.index();
        let index = guard.get_or_insert_with(|| state.indexed());
        index.take_in(&task);
        let mut world = World {
            dependencies: task.spec.depends_on.iter().map(|of| state.phase_of(&task, &of.task)).collect(),
            cycle: state.cycle(&task),
            place,
            host,
            busy: None,
            token: format!("{}.{}.{}", task.uid().unwrap_or_default(), status.attempt + 1, uuid::Uuid::new_v4().simple()),
        };
        let lost = state.context.settings.task_lost;
        let mut decision = next(&task, &world, lost, now);
        let mut begins = status.token != decision.status.token;
        if begins {
            // It would: if there is a place.
            let host = decision.status.host.clone();
            world.busy = index.ask(&task, host.as_deref());
            if world.busy.is_some() {
                decision = next(&task, &world, lost, now);
                begins = false;
            } else {
                index.begin(&task, host.as_deref());
            }
        }
        (decision, begins)
    };
    let before = stored.status.clone().unwrap_or_default();
    let written = state.write_status(&task, &before, &decision.status).await;
    if begins && let Some(index) = state.index().as_mut() {
        index.settle(&key(&task), written.as_ref().ok().copied().flatten());
    }
    if written?.is_none() && decision.status != before {
        // It has changed meanwhile; its newer state is reconciled next.
        return Ok(Next::OnChange);
    }
    let ended = decision.status.phase.is_some_and(TaskPhase::is_terminal) && !decision.status.stopping;
    if ended {
        if task.metadata.deletion_timestamp.is_some() {
            state.let_go(&task).await?;
        } else if let Some(finished) = &decision.status.finished_at {
            let age = Duration::try_from(now.duration_since(finished.0)).unwrap_or_default();
            let ttl = task.spec.ttl_after_finished.duration();
            if age < ttl {
                return Ok(Next::After(ttl - age));
            }
            state.delete(&task).await?;
        }
    } else if task.metadata.deletion_timestamp.is_some() && !task.spec.cancel_requested {
        state.cancel(&task).await?;
    }
    Ok(decision.look_again.map_or(Next::OnChange, Next::After))
}

impl Tasks {
    fn index(&self) -> MutexGuard<'_, Option<Index>> {
        // It is whole between any two of its statements that can panic.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A task, with the next step done of what the control plane does itself.
    async fn coordinated(&self, task: &Arc<Task>, now: Timestamp) -> Result<Task, Error> {
        let mut task = Task::clone(task);
        let Some(status) = task.status.clone().filter(|status| status.stopping || status.phase == Some(TaskPhase::Executing)) else {
            return Ok(task);
        };
        let ended = status.reported.as_ref().is_some_and(|known| known.outcome.is_some() && Some(&known.token) == status.token.as_ref());
        if task.spec.operation.class() != Class::Coordination || ended {
            return Ok(task);
        }
        let stop = status.stopping || task.spec.cancel_requested;
        let step = Coordinator { client: &self.context.client, now }.step(&task, stop).await;
        let step = step.map_err(|source| failed("do the next step", &task, source))?;
        let told = match &step {
            Step::Ended(outcome, message, result) => Some((*outcome, message.clone(), result.clone())),
            Step::Note(_) | Step::Wait(_) => None,
        };
        let reported = reported(&task, now, told);
        let status = task.status.get_or_insert_default();
        status.reported = reported;
        match step {
            Step::Note(undo) => status.undo = undo,
            Step::Wait(progress) => {
                let same = |known: &Progress| Progress { updated_at: progress.updated_at.clone(), ..known.clone() } == progress;
                if !status.progress.as_ref().is_some_and(same) {
                    status.progress = Some(progress);
                }
            }
            Step::Ended(..) => {}
        }
        Ok(task)
    }

    /// What the index says, once there is one.
    fn indexed_or_none(&self, of: impl FnOnce(&Index) -> Vec<ObjectRef<Task>>) -> Vec<ObjectRef<Task>> {
        self.index().as_ref().map(of).unwrap_or_default()
    }

    /// The index of all tasks that there are.
    fn indexed(&self) -> Index {
        let mut index = Index::default();
        for task in self.tasks.state() {
            index.take_in(&task);
        }
        index
    }

    /// The tasks that a change of one concerns.
    fn concerned(&self, task: &Task) -> Vec<ObjectRef<Task>> {
        let mut guard = self.index();
        let Some(index) = guard.as_mut() else { return Vec::new() };
        // Whoever is woken must find it as it is now.
        index.take_in(task);
        let concerned = index.concerned(task);
        if self.tasks.get(&ObjectRef::from_obj(task)).is_none() {
            index.leave(task);
        }
        concerned
    }

    /// The tasks whose time has come and that were not looked at.
    fn overdue(&self, now: Timestamp) -> Vec<ObjectRef<Task>> {
        let past = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| time.as_ref().is_some_and(|time| time.0 <= now);
        let overdue = self.tasks.state_filter(|task| match &task.status {
            None => true,
            Some(status) => match status.phase {
                None | Some(TaskPhase::Pending) => past(&status.retry_at) || status.blocked_by.is_empty(),
                Some(TaskPhase::Executing) => past(&status.deadline),
                Some(_) => status.stopping,
            },
        });
        overdue.iter().map(|task| ObjectRef::from_obj(&**task)).collect()
    }

    fn phase_of(&self, task: &Task, name: &str) -> Option<TaskPhase> {
        let namespace = task.namespace().unwrap_or_default();
        let of = self.tasks.get(&ObjectRef::new(name).within(&namespace))?;
        // One that is stopping may still change what it is about.
        let status = of.status.as_ref();
        let phase = status.and_then(|status| status.phase).unwrap_or_default();
        Some(if status.is_some_and(|status| status.stopping) { TaskPhase::Executing } else { phase })
    }

    /// The tasks from this one to itself, if it depends on itself.
    fn cycle(&self, task: &Task) -> Option<Vec<String>> {
        if task.spec.depends_on.is_empty() || task.status.as_ref().is_some_and(|status| status.attempt > 0) {
            return None;
        }
        let namespace = task.namespace().unwrap_or_default();
        let of = |name: &str| {
            let task = self.tasks.get(&ObjectRef::new(name).within(&namespace));
            task.map(|task| task.spec.depends_on.iter().map(|of| of.task.clone()).collect()).unwrap_or_default()
        };
        cycle(&task.name_any(), of)
    }

    async fn place(&self, task: &Task) -> Result<Place, Error> {
        let status = task.status.as_ref();
        // What runs, and what has ended, is not placed any more.
        if status.and_then(|status| status.phase).is_some_and(|phase| phase != TaskPhase::Pending) {
            return Ok(Place::Nowhere);
        }
        let name = match (&task.spec.operation, &task.spec.host) {
            (operation, Some(host)) if operation.class() != Class::Coordination => host.clone(),
            (Operation::VmSnapshot(snapshot), _) => {
                let namespace = task.namespace().unwrap_or_default();
                let vms: Api<VirtualMachine> = Api::namespaced(self.context.client.clone(), &namespace);
                let found = vms.get_opt(&snapshot.vm).await.map_err(|source| failed("look up the VM", task, source))?;
                let reference = ObjectReference { kind: "VirtualMachine".into(), name: snapshot.vm.clone(), namespace: Some(namespace) };
                match found.map(|vm| vm.status.and_then(|status| status.host)) {
                    None => return Ok(Place::Missing(reference)),
                    Some(None) => return Ok(Place::Unplaced(reference)),
                    Some(Some(host)) => host,
                }
            }
            _ => return Ok(Place::Nowhere),
        };
        Ok(match self.silent_since(&name) {
            Some(None) => Place::Host(name),
            Some(Some(_)) => Place::Silent(name),
            None => Place::Missing(ObjectReference::host(name)),
        })
    }

    /// Since when a host does not report, if it does not; none if there is no such host.
    fn silent_since(&self, name: &str) -> Option<Option<Timestamp>> {
        let host = self.hosts.get(&ObjectRef::new(name))?;
        let conditions = host.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        Some(match conditions.iter().find(|condition| condition.type_ == "Ready") {
            Some(ready) if ready.status == "True" => None,
            Some(ready) => Some(ready.last_transition_time.0),
            None => Some(host.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0)),
        })
    }

    fn host_state(&self, task: &Task, now: Timestamp) -> HostState {
        let Some(status) = task.status.as_ref().filter(|status| status.stopping || status.phase == Some(TaskPhase::Executing)) else {
            return HostState::Reports;
        };
        let Some(host) = &status.host else { return HostState::Reports };
        match self.silent_since(host) {
            Some(None) => HostState::Reports,
            Some(Some(since)) => HostState::Silent { since },
            None => {
                // Of one that is gone, it counts from when that was seen.
                let reference = ObjectReference::host(host);
                let seen = status
                    .blocked_by
                    .iter()
                    .find(|blocked| blocked.code == BlockedCode::HostNotReady && blocked.object.as_ref() == Some(&reference));
                HostState::Silent { since: seen.map_or(now, |blocked| blocked.since.0) }
            }
        }
    }

    /// Writes what changed of the status; says which revision that made, if it made one. A task that has changed since it was
    /// read is left alone: its newer version is reconciled next.
    async fn write_status(&self, task: &Task, old: &TaskStatus, new: &TaskStatus) -> Result<Option<u64>, Error> {
        let encode = |source| Error::Encode { task: title(task), source };
        // What hosts do not do, no hub writes of.
        let foreign: &[&str] = if task.spec.operation.class() == Class::Coordination { &[] } else { &HUB_FIELDS };
        let Some(patch) = status_patch(old, new, foreign).map_err(encode)? else { return Ok(None) };
        let patch = json!({ "metadata": { "resourceVersion": task.resource_version() }, "status": patch });
        let written = self.api(task).patch_status(&task.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        let written = unless_changed(written).map_err(|source| failed("write the status", task, source))?;
        Ok(written.as_ref().map(revision))
    }

    /// Takes the finalizer off a task that is being deleted and of which nothing runs.
    async fn let_go(&self, task: &Task) -> Result<(), Error> {
        let rest: Vec<_> = task.finalizers().iter().filter(|name| *name != FINALIZER).collect();
        if rest.len() == task.finalizers().len() {
            return Ok(());
        }
        let patch = json!({ "metadata": { "resourceVersion": task.resource_version(), "finalizers": rest } });
        let written = self.api(task).patch(&task.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        unless_changed(written).map(drop).map_err(|source| failed("remove the finalizer", task, source))
    }

    /// A task that is deleted before it has ended is to end.
    async fn cancel(&self, task: &Task) -> Result<(), Error> {
        let patch = json!({ "metadata": { "resourceVersion": task.resource_version() }, "spec": { "cancelRequested": true } });
        let written = self.api(task).patch(&task.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await;
        unless_changed(written).map(drop).map_err(|source| failed("request the cancel", task, source))
    }

    async fn delete(&self, task: &Task) -> Result<(), Error> {
        let this = Preconditions { uid: task.uid(), resource_version: task.resource_version() };
        let parameters = DeleteParams { preconditions: Some(this), ..DeleteParams::default() };
        match self.api(task).delete(&task.name_any(), &parameters).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(()),
            Err(source) => Err(failed("delete what is left", task, source)),
        }
    }

    fn api(&self, task: &Task) -> Api<Task> {
        Api::namespaced(self.context.client.clone(), &task.namespace().unwrap_or_default())
    }
}

/// The tasks from one to itself again, by what each depends on, if there is such a way.
pub fn cycle(start: &str, of: impl Fn(&str) -> Vec<String>) -> Option<Vec<String>> {
    let mut seen = HashSet::new();
    let mut way = vec![(start.to_owned(), of(start))];
    while let Some((_, ahead)) = way.last_mut() {
        match ahead.pop() {
            None => drop(way.pop()),
            Some(name) if name == start => {
                let names = way.iter().map(|(name, _)| name.clone());
                return Some(names.chain([name]).collect());
            }
            Some(name) => {
                if seen.insert(name.clone()) {
                    let further = of(&name);
                    way.push((name, further));
                }
            }
        }
    }
    None
}

fn unless_changed<T>(written: Result<T, kube::Error>) -> Result<Option<T>, kube::Error> {
    match written {
        Ok(written) => Ok(Some(written)),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(action: &'static str, task: &Task, source: kube::Error) -> Error {
    Error::Api { action, task: title(task), source: Box::new(source) }
}

fn title(task: &Task) -> String {
    format!("{}/{}", task.namespace().unwrap_or_default(), task.name_any())
}
