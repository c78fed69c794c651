//! Which tasks are at work and which wait, by host, class and object: what decides whether another may begin.

use super::plan::Busy;
use basalt_api::{
    ObjectReference, Task, VirtualMachine,
    task::{Class, PARENT_LABEL, PARENT_NAMESPACE_LABEL, TaskPhase},
};
use jiff::Timestamp;
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use std::collections::{BTreeSet, HashMap, HashSet};

/// How many waiting tasks are woken by one that has changed.
const WOKEN: usize = 4;
/// How many seconds of waiting a point of priority is worth: whoever waits long enough goes first at last.
const POINT: i64 = 60;

/// A task, as `namespace/name`.
pub type Key = (String, String);
/// Whoever is smaller goes first.
type Rank = (i64, Timestamp, Key);
/// What has a number of places.
type Line = (String, Class);

/// The tasks that have not ended, and who depends on which.
#[derive(Default)]
pub struct Index {
    open: HashMap<Key, Entry>,
    at_work: HashMap<Line, HashSet<Key>>,
    /// Who is at work on an object.
    taken: HashMap<ObjectReference, Key>,
    waiting: HashMap<Line, BTreeSet<Rank>>,
    waiting_for: HashMap<ObjectReference, BTreeSet<Rank>>,
    dependents: HashMap<Key, BTreeSet<Key>>,
}

#[derive(Clone, Debug)]
struct Entry {
    host: Option<String>,
    line: Option<Line>,
    object: Option<ObjectReference>,
    rank: Rank,
    state: State,
    /// What the API knew when this was so; more than any while that is being written.
    revision: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is ready to begin and stands in line.
    Waiting,
    /// An attempt is under way, or has not been proved to have stopped.
    AtWork,
}

/// The key of a task.
pub fn key(task: &Task) -> Key {
    (task.namespace().unwrap_or_default(), task.name_any())
}

/// The revision of a task.
pub fn revision(task: &Task) -> u64 {
    task.resource_version().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// Whether an attempt is under way, or may be.
fn is_at_work(task: &Task) -> bool {
    task.status.as_ref().is_some_and(|status| status.stopping || status.phase == Some(TaskPhase::Executing))
}

impl Index {
    /// Takes in a task as it is.
    pub fn take_in(&mut self, task: &Task) {
        let key = key(task);
        for dependency in &task.spec.depends_on {
            self.dependents.entry((key.0.clone(), dependency.task.clone())).or_default().insert(key.clone());
        }
        let known = self.open.get(&key).map(|entry| (entry.revision, entry.state));
        if known.is_some_and(|(known, _)| known > revision(task)) {
            return;
        }
        if is_at_work(task) {
            let host = task.status.as_ref().and_then(|status| status.host.clone());
            self.put(task, host.as_deref(), State::AtWork, revision(task));
        } else if known.is_some_and(|(_, state)| state == State::AtWork) || has_ended(task) {
            self.remove(&key);
        }
    }

    /// The tasks that a change of one concerns: those that depend on it, and those that may begin because it does not run any more.
    pub fn concerned(&self, task: &Task) -> Vec<ObjectRef<Task>> {
        if is_at_work(task) {
            return Vec::new();
        }
        let key = key(task);
        let parent = task.labels().get(PARENT_LABEL).map(|name| {
            let namespace = task.labels().get(PARENT_NAMESPACE_LABEL).unwrap_or(&key.0);
            (namespace.clone(), name.clone())
        });
        let dependents = self.dependents.get(&key).into_iter().flatten().cloned();
        let host = task.status.as_ref().and_then(|status| status.host.clone());
        let line = host.map(|host| (host, task.spec.operation.class()));
        let object = task.spec.operation.object(task.spec.host.as_deref(), &key.0);
        let lines = line.and_then(|line| self.waiting.get(&line)).into_iter();
        let objects = object.and_then(|object| self.waiting_for.get(&object)).into_iter();
        let waiting = lines.chain(objects).flat_map(|waiting| waiting.iter().take(WOKEN)).map(|(_, _, key)| key.clone());
        dependents.chain(parent).chain(waiting).filter(|other| *other != key).map(|key| reference(&key)).collect()
    }

    /// The tasks that coordinate what becomes of a VM.
    pub fn of_vm(&self, vm: &VirtualMachine) -> Vec<ObjectRef<Task>> {
        let object = ObjectReference { kind: "VirtualMachine".into(), name: vm.name_any(), namespace: vm.namespace() };
        let host = vm.status.as_ref().and_then(|status| status.host.as_ref()).map(ObjectReference::host);
        [Some(object), host].into_iter().flatten().filter_map(|object| self.taken.get(&object)).map(reference).collect()
    }

    /// The tasks that run or wait on a host.
    pub fn on_host(&self, host: &str) -> Vec<ObjectRef<Task>> {
        let open = self.open.iter().filter(|(_, entry)| entry.host.as_deref() == Some(host));
        open.map(|(key, _)| reference(key)).collect()
    }

    /// A task is gone.
    pub fn leave(&mut self, task: &Task) {
        self.remove(&key(task));
        self.forget(task);
    }

    fn forget(&mut self, task: &Task) {
        let key = key(task);
        for dependency in &task.spec.depends_on {
            let of = (key.0.clone(), dependency.task.clone());
            if let Some(dependents) = self.dependents.get_mut(&of) {
                dependents.remove(&key);
                if dependents.is_empty() {
                    self.dependents.remove(&of);
                }
            }
        }
    }

    /// A task that is ready to begin on a host stands in line; says what is in its way.
    pub fn ask(&mut self, task: &Task, host: Option<&str>) -> Option<Busy> {
        let key = key(task);
        let entry = self.put(task, host, State::Waiting, revision(task));
        if let Some(object) = &entry.object
            && let Some(other) = self.taken.get(object).filter(|other| **other != key)
        {
            return Some(Busy::Object { task: ObjectReference::task(&other.0, &other.1), object: object.clone() });
        }
        let line = entry.line.as_ref()?;
        let limit = line.1.limit();
        let free = limit.saturating_sub(self.at_work.get(line).map_or(0, HashSet::len));
        // Those who wait for another object as well are not in the way.
        let could = |(_, _, key): &&Rank| {
            let object = self.open.get(key).and_then(|entry| entry.object.as_ref());
            object.is_none_or(|object| !self.taken.contains_key(object))
        };
        let before = self.waiting.get(line).map_or(0, |waiting| waiting.range(..entry.rank.clone()).filter(could).take(limit).count());
        (before >= free).then_some(Busy::Host { limit, before })
    }

    /// A task begins, as soon as that is written.
    pub fn begin(&mut self, task: &Task, host: Option<&str>) {
        self.put(task, host, State::AtWork, u64::MAX);
    }

    /// That a task begins was written at a revision; or it was not, and what it is comes yet.
    pub fn settle(&mut self, key: &Key, written: Option<u64>) {
        if let Some(entry) = self.open.get_mut(key) {
            entry.revision = written.unwrap_or_default();
        }
    }

    fn put(&mut self, task: &Task, host: Option<&str>, state: State, revision: u64) -> Entry {
        let key = key(task);
        self.remove(&key);
        let operation = &task.spec.operation;
        let line = host.map(|host| (host.to_owned(), operation.class())).filter(|(_, class)| *class != Class::Coordination);
        let object = operation.object(task.spec.host.as_deref(), &key.0).filter(|_| operation.is_exclusive());
        let created = task.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let rank = (created.as_second() - i64::from(task.spec.priority) * POINT, created, key.clone());
        let entry = Entry { host: host.map(str::to_owned), line, object, rank, state, revision };
        match state {
            State::AtWork => {
                if let Some(line) = &entry.line {
                    self.at_work.entry(line.clone()).or_default().insert(key.clone());
                }
                if let Some(object) = &entry.object {
                    self.taken.insert(object.clone(), key.clone());
                }
            }
            State::Waiting => {
                if let Some(line) = &entry.line {
                    self.waiting.entry(line.clone()).or_default().insert(entry.rank.clone());
                }
                if let Some(object) = &entry.object {
                    self.waiting_for.entry(object.clone()).or_default().insert(entry.rank.clone());
                }
            }
        }
        self.open.insert(key, entry.clone());
        entry
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.open.remove(key)?;
        if let Some(line) = &entry.line {
            take(&mut self.at_work, line, |keys| keys.remove(key), HashSet::is_empty);
            take(&mut self.waiting, line, |ranks| ranks.remove(&entry.rank), BTreeSet::is_empty);
        }
        if let Some(object) = &entry.object {
            if self.taken.get(object) == Some(key) {
                self.taken.remove(object);
            }
            take(&mut self.waiting_for, object, |ranks| ranks.remove(&entry.rank), BTreeSet::is_empty);
        }
        Some(entry)
    }
}

fn reference(key: &Key) -> ObjectRef<Task> {
    ObjectRef::new(&key.1).within(&key.0)
}

/// Whether a task has ended.
fn has_ended(task: &Task) -> bool {
    task.status.as_ref().and_then(|status| status.phase).is_some_and(TaskPhase::is_terminal)
}

/// Takes something out of the set of a key, and the set out of the map if it is empty then.
fn take<K: Eq + std::hash::Hash, S>(map: &mut HashMap<K, S>, key: &K, remove: impl FnOnce(&mut S) -> bool, is_empty: impl Fn(&S) -> bool) {
    if let Some(set) = map.get_mut(key) {
        remove(set);
        if is_empty(set) {
            map.remove(key);
        }
    }
}
