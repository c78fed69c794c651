//! Garbage collection: what belongs to an object goes with it, and what is in a namespace goes with that.
//!
//! It follows the events of all kinds and keeps an index of who owns what. Each event only says what to look at; what is done
//! is decided on the present state, so that a restart, a lost event and a periodic look at everything are the same code path.

mod garbage;
mod index;

use self::{
    garbage::{Objects, is_terminating},
    index::{Id, Index},
};
use crate::{
    cache::Event,
    error::{Reason, Status},
    handlers::{Api, checks::finalizers, delete::Deletion},
    namespace,
    object::Object,
    registry::{Registry, ResourceDef},
};
use futures::{
    FutureExt, StreamExt,
    stream::{BoxStream, SelectAll},
};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::Instant};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

/// Holds an object until all that it owns and that blocks its deletion is gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Holds an object until nothing refers to it as its owner.
pub const ORPHAN: &str = "orphan";
/// Without one of these in its bytes an object is neither owned nor being deleted.
const MARKS: [&str; 2] = ["\"ownerReferences\"", "\"deletionTimestamp\""];
/// How often everything is looked at, whatever the events say.
const SWEEP: Duration = Duration::from_secs(60);

/// Collects garbage until the API shuts down.
pub async fn run(api: Arc<Api>) {
    let shutdown = api.shutdown.clone();
    let mut gone = HashSet::new();
    let forever = async {
        loop {
            let mut collector = Collector::new(api.clone(), std::mem::take(&mut gone));
            if collector.collect().await.is_err() {
                tracing::info!("garbage collection has missed events, or there are other kinds now, and looks at everything");
            }
            gone = collector.gone;
        }
    };
    shutdown.run_until_cancelled(forever).await;
}

/// Events were lost, or there are other kinds now: the index is not to be trusted.
struct Lost;

/// Why an object was not settled.
enum Unsettled {
    Lost,
    Failed(Status),
}

impl From<Lost> for Unsettled {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

impl From<Status> for Unsettled {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

type Events = SelectAll<BoxStream<'static, (Arc<ResourceDef>, Result<Arc<Event>, BroadcastStreamRecvError>)>>;

struct Collector {
    objects: Objects,
    /// Tells that there are other kinds.
    kinds: watch::Receiver<Arc<Registry>>,
    events: Events,
    /// How many events of each kind are in the index.
    taken_in: HashMap<(String, String), u64>,
    index: Index,
    /// Uid -> object, of those that wait for what they own.
    waiting: HashMap<String, Id>,
    /// Namespaces that are being emptied.
    terminating: HashSet<String>,
    /// Namespaces that were seen to go. What was put into one at the last moment goes after it.
    gone: HashSet<String>,
    /// What is to be looked at.
    todo: BTreeSet<Id>,
    /// Namespaces that something went from.
    emptier: BTreeSet<String>,
}

impl Collector {
    fn new(api: Arc<Api>, gone: HashSet<String>) -> Self {
        let mut kinds = api.kinds.subscribe();
        let registry = kinds.borrow_and_update().clone();
        let mut collector = Self {
            objects: Objects { api: api.clone() },
            kinds,
            events: SelectAll::new(),
            taken_in: HashMap::new(),
            index: Index::default(),
            waiting: HashMap::new(),
            terminating: HashSet::new(),
            gone,
            todo: BTreeSet::new(),
            emptier: BTreeSet::new(),
        };
        for def in registry.kinds().cloned() {
            let id = (def.group.clone(), def.plural.clone());
            let Some(kind) = api.storage.cache.kind(&def.group, &def.plural) else { continue };
            let (snapshot, live) = kind.watch_from_now(0);
            collector.taken_in.insert(id, snapshot.events);
            for object in snapshot.objects.values() {
                collector.note(&def, &object.value());
            }
            collector.events.push(BroadcastStream::new(live).map(move |event| (def.clone(), event)).boxed());
        }
        collector
    }

    /// Settles what there is, and then what the events speak of, until it is time to look at everything again.
    async fn collect(&mut self) -> Result<(), Lost> {
        let sweep = Instant::now() + SWEEP;
        loop {
            self.take_in_what_is_ready()?;
            if let Some(id) = self.todo.pop_first() {
                self.settle(&id).await?;
            } else if let Some(namespace) = self.emptier.pop_first() {
                self.objects.empty_namespace(&namespace).await;
            } else {
                let Ok(next) = tokio::time::timeout_at(sweep, self.next()).await else { return Ok(()) };
                let (def, event) = next?;
                self.take_in(&def, &event);
            }
        }
    }

    fn take_in_what_is_ready(&mut self) -> Result<(), Lost> {
        while let Some(Some((def, event))) = self.events.next().now_or_never() {
            self.take_in(&def, &*event.map_err(|_| Lost)?);
        }
        Ok(())
    }

    /// Takes in every event up to now: no dependent that was acknowledged is missing from the index then.
    async fn catch_up(&mut self) -> Result<(), Unsettled> {
        self.objects.api.storage.catch_up().await?;
        let cache = self.objects.api.storage.cache.clone();
        let behind = |taken_in: &HashMap<(String, String), u64>| {
            taken_in.iter().any(|((group, plural), count)| cache.kind(group, plural).is_some_and(|kind| kind.events() > *count))
        };
        while behind(&self.taken_in) {
            let (def, event) = self.next().await?;
            self.take_in(&def, &event);
        }
        Ok(())
    }

    /// The next event of any kind.
    async fn next(&mut self) -> Result<(Arc<ResourceDef>, Arc<Event>), Lost> {
        tokio::select! {
            next = self.events.next() => {
                let (def, event) = next.ok_or(Lost)?;
                Ok((def, event.map_err(|_| Lost)?))
            }
            _ = self.kinds.changed() => Err(Lost),
        }
    }

    fn take_in(&mut self, def: &ResourceDef, event: &Event) {
        if let Some(count) = self.taken_in.get_mut(&(def.group.clone(), def.plural.clone())) {
            *count = event.sequence + 1;
        }
        // Most changes are of objects that nothing owns and nobody deletes; they are not worth the reading.
        let of_no_concern = |object: &Object| !MARKS.iter().any(|mark| object.mentions(mark));
        if !event.deleted && of_no_concern(&event.object) && event.previous.as_deref().is_some_and(of_no_concern) {
            return;
        }
        let object = event.object.value();
        if !event.deleted {
            return self.note(def, &object);
        }
        let id = Id::of(def, &object);
        let meta = &object["metadata"];
        let uid = meta["uid"].as_str().unwrap_or_default();
        self.waiting.remove(uid);
        let owners = self.index.remove(&id);
        self.todo.extend(owners.iter().filter_map(|owner| self.waiting.get(owner).cloned()));
        self.todo.extend(self.index.dependents(uid));
        if let Some(namespace) = meta["namespace"].as_str().filter(|namespace| self.terminating.contains(*namespace)) {
            self.emptier.insert(namespace.to_owned());
        }
        if namespace::is_namespace(def) {
            self.terminating.remove(&id.place);
            self.gone.insert(id.place.clone());
            self.emptier.insert(id.place);
        }
    }

    /// Puts an object into the index and has it looked at.
    fn note(&mut self, def: &ResourceDef, object: &Value) {
        let id = Id::of(def, object);
        let meta = &object["metadata"];
        self.index.put(&id, object);
        if is_terminating(object) {
            if finalizers(object).iter().any(|f| [FOREGROUND, ORPHAN].contains(f)) {
                self.waiting.insert(meta["uid"].as_str().unwrap_or_default().to_owned(), id.clone());
            }
            if namespace::is_namespace(def) {
                self.terminating.insert(id.place.clone());
                self.emptier.insert(id.place.clone());
            }
        }
        self.todo.insert(id);
    }

    /// Does what the present state of an object asks for.
    async fn settle(&mut self, id: &Id) -> Result<(), Lost> {
        match self.try_settle(id).await {
            Ok(()) => Ok(()),
            Err(Unsettled::Lost) => Err(Lost),
            Err(Unsettled::Failed(status)) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => Ok(()),
            // The sweep comes back to it.
            Err(Unsettled::Failed(status)) => {
                tracing::warn!(plural = id.plural, place = id.place, "garbage collection failed and is tried again: {status}");
                Ok(())
            }
        }
    }

    async fn try_settle(&mut self, id: &Id) -> Result<(), Unsettled> {
        let Some((def, object)) = self.objects.find(id) else { return Ok(()) };
        let value = object.value();
        let meta = &value["metadata"];
        if !is_terminating(&value) {
            // Only if it is so in the newest state too: what the cache has may lack an owner that it is about to get.
            if self.objects.is_garbage(&def, &object, &self.gone) {
                self.catch_up().await?;
                if self
                    .objects
                    .find(id)
                    .is_some_and(|(_, now)| now.revision == object.revision && self.objects.is_garbage(&def, &now, &self.gone))
                {
                    tracing::info!(plural = id.plural, place = id.place, "deleted: neither its namespace nor any of its owners is left");
                    self.objects.api.remove(&def, &id.place, &Deletion::of(&value)).await?;
                    self.objects.record("delete", &def, &id.place, self.objects.gone_owner(&object));
                }
            }
            return Ok(());
        }
        let held = finalizers(&value);
        let uid = meta["uid"].as_str().unwrap_or_default();
        if held.contains(&ORPHAN) {
            self.catch_up().await?;
            for dependent in self.index.dependents(uid) {
                self.objects.orphan(&dependent, uid).await?;
            }
            self.objects.let_go(&def, &id.place, ORPHAN).await?;
        } else if held.contains(&FOREGROUND) {
            self.catch_up().await?;
            let mut blocked = false;
            for dependent in self.index.dependents(uid) {
                blocked |= self.objects.delete_dependent(&dependent, uid).await?;
            }
            if !blocked {
                self.objects.let_go(&def, &id.place, FOREGROUND).await?;
            }
        }
        Ok(())
    }
}
