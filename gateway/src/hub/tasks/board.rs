//! The attempts that hosts are to begin, or to end, as the API has them.

use basalt_api::{Task, TaskStatus, task::TaskPhase};
use futures::StreamExt;
use kube::{
    Api, Client, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// All tasks, as far as hosts are concerned.
#[derive(Default)]
pub struct Board {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listed: bool,
    /// By uid.
    tasks: HashMap<String, Arc<Known>>,
    /// The uids of the tasks of which something is to begin or to end on a host.
    on_host: HashMap<String, HashSet<String>>,
    /// Wakes those who wait for changes on a host.
    wakers: HashMap<String, watch::Sender<u64>>,
}

/// A task.
#[derive(Debug)]
pub struct Known {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its newest state, while something of it may run; what has ended is not kept.
    pub task: Option<Task>,
    /// The newest attempt's token.
    pub token: Option<String>,
    /// The outcome of the newest attempt is in the API.
    pub settled: bool,
    /// It has ended, and nothing of it runs any more.
    pub ended: bool,
}

/// What an attempt is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It goes on.
    Current,
    /// It is another host's.
    Foreign,
    /// It is to stop.
    Stop(String),
    /// Its outcome is known.
    Settled,
}

/// What the attempt of a token is to do on a host, by the task's newest state.
pub fn standing(task: &Task, host: &str, token: &str) -> Standing {
    let Some(status) = &task.status else { return Standing::Stop("the attempt has been given up".into()) };
    if status.token.as_deref() != Some(token) {
        return Standing::Stop("the attempt has been given up".into());
    }
    if status.host.as_deref() != Some(host) {
        return Standing::Foreign;
    }
    if task.spec.cancel_requested {
        return Standing::Stop("the task is cancelled".into());
    }
    match status.phase {
        Some(TaskPhase::Executing) => Standing::Current,
        Some(TaskPhase::TimedOut) => Standing::Stop("the attempt took too long".into()),
        _ => Standing::Stop("the attempt has been given up".into()),
    }
}

/// Whether an attempt may be renewed whose host's own lease was renewed so long ago: whoever judges the host by that must not
/// find it silent for longer than an attempt may still run.
pub fn may_renew(age: Duration, lease: Duration) -> bool {
    age < lease / 3
}

/// The uid of the task that a token is of.
pub fn uid(token: &str) -> &str {
    token.split('.').next().unwrap_or_default()
}

/// The number of the attempt that a token is of.
pub fn attempt(token: &str) -> u32 {
    token.split('.').nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn is_at_work(status: &TaskStatus) -> bool {
    status.host.is_some() && (status.stopping || status.phase == Some(TaskPhase::Executing))
}

impl Board {
    /// Keeps it equal to the API, for ever.
    pub async fn mirror(&self, client: Client) {
        let mut events = pin!(
            watcher(Api::<Task>::all(client), watcher::Config::default())
                .default_backoff()
                .modify(|task| task.managed_fields_mut().clear())
        );
        let mut listing = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => listing.clear(),
                Ok(watcher::Event::InitApply(task)) => listing.push(task),
                Ok(watcher::Event::InitDone) => self.replace(std::mem::take(&mut listing)),
                Ok(watcher::Event::Apply(task)) => self.put(task),
                Ok(watcher::Event::Delete(task)) => self.remove(&task.uid().unwrap_or_default()),
                Err(error) => tracing::warn!("the hub's watch on tasks failed and is tried again: {error}"),
            }
        }
    }

    fn replace(&self, tasks: Vec<Task>) {
        let there: HashSet<String> = tasks.iter().filter_map(|task| task.uid()).collect();
        let gone: Vec<String> = self.lock().tasks.keys().filter(|uid| !there.contains(*uid)).cloned().collect();
        for uid in gone {
            self.remove(&uid);
        }
        for task in tasks {
            self.put(task);
        }
        self.lock().listed = true;
    }

    fn put(&self, task: Task) {
        let uid = task.uid().unwrap_or_default();
        let status = task.status.clone().unwrap_or_default();
        let reported = status.reported.as_ref().filter(|reported| Some(&reported.token) == status.token.as_ref());
        let settled = reported.is_some_and(|reported| reported.outcome.is_some());
        let host = status.host.clone().filter(|_| is_at_work(&status) && !settled);
        let ended = status.phase.is_some_and(TaskPhase::is_terminal) && !status.stopping;
        let (namespace, name) = (task.namespace().unwrap_or_default(), task.name_any());
        let known = Known { namespace, name, settled, ended, task: is_at_work(&status).then_some(task), token: status.token };
        let mut state = self.lock();
        let before = state.tasks.insert(uid.clone(), Arc::new(known));
        let was_on = before.and_then(|known| known.task.as_ref().and_then(|task| task.status.as_ref()?.host.clone()));
        if let Some(was_on) = &was_on
            && Some(was_on) != host.as_ref()
        {
            state.leave(was_on, &uid);
        }
        if let Some(host) = &host {
            state.on_host.entry(host.clone()).or_default().insert(uid);
            state.wake(host);
        }
    }

    fn remove(&self, uid: &str) {
        let mut state = self.lock();
        let host = state.tasks.remove(uid).and_then(|known| known.task.as_ref().and_then(|task| task.status.as_ref()?.host.clone()));
        if let Some(host) = host {
            state.leave(&host, uid);
        }
    }

    /// Whether all tasks are known.
    pub fn is_listed(&self) -> bool {
        self.lock().listed
    }

    /// Wakes whoever holds it when something changes for a host.
    pub fn changes(&self, host: &str) -> watch::Receiver<u64> {
        self.lock().wakers.entry(host.to_owned()).or_default().subscribe()
    }

    /// The attempts that a host is to begin: all that are under way there but those it knows. One that is to end already is
    /// begun nevertheless and told to stop, for only the host can prove that it does not run.
    pub fn to_begin(&self, host: &str, known: &HashSet<String>) -> Vec<Arc<Known>> {
        let state = self.lock();
        let here = state.on_host.get(host).into_iter().flatten().filter_map(|uid| state.tasks.get(uid));
        here.filter(|task| task.token.as_ref().is_some_and(|token| !known.contains(token))).cloned().collect()
    }

    /// Whether a task has ended, or is gone.
    pub fn has_ended(&self, uid: &str) -> bool {
        let state = self.lock();
        state.listed && state.tasks.get(uid).is_none_or(|known| known.ended)
    }

    /// The task that a token is of.
    pub fn task(&self, token: &str) -> Option<Arc<Known>> {
        self.lock().tasks.get(uid(token)).cloned()
    }

    /// What the attempt of a token is to do on a host.
    pub fn standing(&self, host: &str, token: &str) -> Standing {
        let Some(known) = self.task(token) else { return Standing::Stop("the task is gone".into()) };
        if known.token.as_deref() != Some(token) {
            return Standing::Stop("the attempt has been given up".into());
        }
        if known.settled {
            return Standing::Settled;
        }
        match &known.task {
            Some(task) => standing(task, host, token),
            None => Standing::Stop("the task has ended".into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // It is whole between any two of its statements that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn leave(&mut self, host: &str, uid: &str) {
        if let Some(here) = self.on_host.get_mut(host) {
            here.remove(uid);
            if here.is_empty() {
                self.on_host.remove(host);
            }
        }
        self.wake(host);
    }

    fn wake(&mut self, host: &str) {
        if let Some(waker) = self.wakers.get_mut(host) {
            waker.send_modify(|changes| *changes += 1);
            if waker.is_closed() {
                self.wakers.remove(host);
            }
        }
    }
}
