//! The watch cache: every object of every kind as of the newest revision, and the recent events of each kind.
//!
//! One stream of the store's commits feeds it, in order. All lists and watches share the bytes of an object. A list is a snapshot of a persistent map; a watch is a replay from a bounded ring and a live tail,
//! joined under the lock that events are published under, so that nothing is missed and nothing comes twice. A kind that is added
//! later is loaded between two commits of the stream.

mod recall;

use crate::{
    keys,
    object::{Object, decode},
};
use basalt_store::{Change, Previous, Revision, Store, StoreError, WatchError, prefix_end};
use futures::StreamExt;
use rpds::RedBlackTreeMapSync;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, atomic::AtomicU64},
    time::{Duration, Instant},
};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use recall::Replay;

/// How many recent events a kind keeps for watches to replay.
const RING: usize = 10_000;
/// How many events may wait for a slow watcher before it is dropped.
const BACKLOG: usize = 4096;
/// How long a snapshot is kept for the next page of a list.
const SNAPSHOT_LIFE: Duration = Duration::from_secs(300);
/// How many snapshots a kind keeps.
const SNAPSHOTS: usize = 64;
/// How soon a failed stream of the store is started again.
const RETRY: Duration = Duration::from_millis(500);

/// What happened to an object.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub revision: Revision,
    /// What it is now; for a deletion, its last state at the revision of the deletion.
    pub object: Arc<Object>,
    /// What it was before.
    pub previous: Option<Arc<Object>>,
    /// It is gone.
    pub deleted: bool,
    /// How many events of its kind there were before it.
    pub sequence: u64,
}

/// The objects of a kind by their place.
pub type Objects = RedBlackTreeMapSync<String, Arc<Object>>;

/// The events of a kind as they happen.
pub type LiveEvents = broadcast::Receiver<Arc<Event>>;

/// All objects of a kind at one revision.
#[derive(Clone)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// The objects.
    pub objects: Objects,
    /// How many events of the kind there were up to it.
    pub events: u64,
}

/// The history that a watch wants to start from is gone.
#[derive(Clone, Copy, Debug)]
pub struct Expired {
    /// The oldest revision that a watch may start after.
    pub oldest: Revision,
}

/// One kind's part of the cache.
pub struct Kind {
    state: RwLock<State>,
    pages: Mutex<VecDeque<(Instant, Snapshot)>>,
    /// Counts the events of this kind, and maybe of others.
    counted: OnceLock<watch::Sender<u64>>,
}

struct State {
    objects: Objects,
    ring: VecDeque<Arc<Event>>,
    /// The revision of the newest event.
    revision: Revision,
    /// How many events there were.
    events: u64,
    /// The oldest revision that a watch may start after: what came after it and is not in the ring is nothing.
    floor: Revision,
    /// The revision that the objects were read at.
    loaded: Revision,
    live: broadcast::Sender<Arc<Event>>,
}

/// A kind by group and plural name.
type Id = (String, String);

/// A kind that is to be added, and whom to tell the revision that it is loaded at.
type Order = (Id, oneshot::Sender<Revision>);

/// The cache of all kinds.
pub struct Cache {
    kinds: RwLock<HashMap<Id, Arc<Kind>>>,
    orders: mpsc::UnboundedSender<Order>,
    progress: watch::Sender<Revision>,
    store: Arc<dyn Store>,
    /// Held by the one who reads history of the store.
    recalling: tokio::sync::Mutex<()>,
    /// Up to here there is no history, or too much of it.
    forgotten: AtomicU64,
}

impl Cache {
    /// Loads all objects of the kinds, by group and plural name, and follows the store until `shutdown`.
    pub async fn start(
        store: Arc<dyn Store>,
        kinds: impl Iterator<Item = (String, String)>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        let kinds = kinds.map(|id| (id, Arc::new(Kind::new()))).collect();
        let (orders, ordered) = mpsc::unbounded_channel();
        let cache = Arc::new(Self {
            kinds: RwLock::new(kinds),
            orders,
            progress: watch::Sender::new(0),
            store: store.clone(),
            recalling: tokio::sync::Mutex::default(),
            forgotten: AtomicU64::new(0),
        });
        let revision = cache.load(&*store).await?;
        tokio::spawn({
            let cache = cache.clone();
            async move { shutdown.run_until_cancelled(cache.follow(store, revision, ordered)).await }
        });
        Ok(cache)
    }

    /// A kind's part.
    pub fn kind(&self, group: &str, plural: &str) -> Option<Arc<Kind>> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.get(&(group.to_owned(), plural.to_owned())).cloned()
    }

    /// Loads a kind and follows it from then on; says whether it is here, after `patience` at the latest.
    pub async fn add(&self, group: &str, plural: &str, patience: Duration) -> bool {
        let (done, loaded) = oneshot::channel();
        if self.orders.send(((group.to_owned(), plural.to_owned()), done)).is_err() {
            return false;
        }
        match tokio::time::timeout(patience, loaded).await {
            // Whoever lists the kind is to get a revision that a watch may start from.
            Ok(Ok(revision)) => self.reaches(revision, patience).await,
            _ => false,
        }
    }

    /// Forgets a kind. Its watches end.
    pub fn remove(&self, group: &str, plural: &str) {
        self.kinds.write().unwrap_or_else(PoisonError::into_inner).remove(&(group.to_owned(), plural.to_owned()));
    }

    /// The revision up to which everything is here.
    pub fn revision(&self) -> Revision {
        *self.progress.borrow()
    }

    /// Waits until everything up to a revision is here; says whether it is, after `patience` at the latest.
    pub async fn reaches(&self, revision: Revision, patience: Duration) -> bool {
        if self.revision() >= revision {
            return true;
        }
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|newest| *newest >= revision);
        matches!(tokio::time::timeout(patience, reached).await, Ok(Ok(_)))
    }

    async fn load(&self, store: &dyn Store) -> Result<Revision, StoreError> {
        let start = keys::ROOT.as_bytes();
        let range = store.range(start, &prefix_end(start), 0).await?;
        let mut found: HashMap<(&str, &str), HashSet<&str>> = HashMap::new();
        let mut changed = Vec::new();
        for entry in &range.entries {
            let Some((group, plural, place)) = keys::split(&entry.key) else { continue };
            let Some(kind) = self.kind(group, plural) else { continue };
            found.entry((group, plural)).or_default().insert(place);
            if kind.get(place).is_none_or(|known| known.revision != entry.modified) {
                changed.push((kind, place, entry));
            }
        }
        // Watchers that are there see the difference in the order of revisions, what is gone first and as of the last
        // revision that they know: whoever is cut off in the midst of it has to list again.
        let nothing = HashSet::new();
        let before = self.revision();
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner).clone();
        for ((group, plural), kind) in &kinds {
            kind.begin_anew(found.get(&(group.as_str(), plural.as_str())).unwrap_or(&nothing), before, range.revision);
        }
        changed.sort_by_key(|(_, _, entry)| entry.modified);
        for (kind, place, entry) in changed {
            if let Some(object) = decode(entry) {
                kind.publish(place, Some(object), entry.modified);
            }
        }
        self.progress.send_replace(range.revision);
        Ok(range.revision)
    }

    async fn follow(&self, store: Arc<dyn Store>, mut revision: Revision, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let error = self.take(&*store, &mut revision, &mut orders).await;
            match error {
                WatchError::Store(StoreError::Closed) => return,
                // What was missed is found by comparing all there is with all that was here.
                WatchError::Compacted { .. } => match self.load(&*store).await {
                    Ok(newest) => {
                        tracing::warn!("the store's commits were not all followed, and all objects were read again: {error}");
                        revision = newest;
                        continue;
                    }
                    Err(error) => tracing::warn!("the store cannot be read and is tried again: {error}"),
                },
                error => tracing::warn!("the stream of the store's commits ended and is taken up again: {error}"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Takes the store's commits after a revision, which is moved on with them, until the stream ends; says why it did.
    async fn take(&self, store: &dyn Store, revision: &mut Revision, orders: &mut mpsc::UnboundedReceiver<Order>) -> WatchError {
        let mut stream = match store.watch(keys::ROOT.as_bytes(), *revision, Previous::Untold).await {
            Ok(stream) => stream,
            Err(error) => return error,
        };
        loop {
            tokio::select! {
                event = stream.next() => match event {
                    Some(Ok(event)) => {
                        for change in &event.changes {
                            self.change(change, event.revision);
                        }
                        *revision = event.revision;
                        self.progress.send_replace(event.revision);
                    }
                    Some(Err(error)) => return error,
                    None => break,
                },
                Some((id, done)) = orders.recv() => match self.load_kind(store, id).await {
                    // Who asked may have lost patience.
                    Ok(loaded) => drop(done.send(loaded)),
                    Err(error) => return error.into(),
                },
            }
        }
        StoreError::Engine { operation: "watch", reason: "the stream ended".into() }.into()
    }

    /// Loads one more kind, between two commits of the stream.
    async fn load_kind(&self, store: &dyn Store, (group, plural): Id) -> Result<Revision, StoreError> {
        if self.kind(&group, &plural).is_some() {
            return Ok(self.revision());
        }
        let prefix = keys::kind_prefix(&group, &plural);
        let mut range = store.range(prefix.as_bytes(), &prefix_end(prefix.as_bytes()), 0).await?;
        let kind = Kind::new();
        kind.begin_anew(&HashSet::new(), 0, range.revision);
        range.entries.sort_by_key(|entry| entry.modified);
        for entry in &range.entries {
            if let (Some((_, _, place)), Some(object)) = (keys::split(&entry.key), decode(entry)) {
                kind.publish(place, Some(object), entry.modified);
            }
        }
        self.kinds.write().unwrap_or_else(PoisonError::into_inner).insert((group, plural), Arc::new(kind));
        Ok(range.revision)
    }

    fn change(&self, change: &Change, revision: Revision) {
        let Some((group, plural, place)) = keys::split(change.key()) else { return };
        let Some(kind) = self.kind(group, plural) else { return };
        if kind.is_loaded_at(revision) {
            return;
        }
        match change {
            Change::Put { entry, .. } => {
                if let Some(object) = decode(entry) {
                    kind.publish(place, Some(object), revision);
                }
            }
            Change::Delete { .. } => kind.publish(place, None, revision),
        }
    }
}

impl Kind {
    fn new() -> Self {
        let state = State {
            objects: Objects::new_sync(),
            ring: VecDeque::new(),
            revision: 0,
            events: 0,
            floor: 0,
            loaded: 0,
            live: broadcast::Sender::new(BACKLOG),
        };
        Self { state: RwLock::new(state), pages: Mutex::default(), counted: OnceLock::new() }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // The state is whole between any two of its statements that can panic.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the kind was loaded as of this revision or a later one: the stream may still be behind.
    fn is_loaded_at(&self, revision: Revision) -> bool {
        revision <= self.read().loaded
    }

    /// One object.
    pub fn get(&self, place: &str) -> Option<Arc<Object>> {
        self.read().objects.get(place).cloned()
    }

    /// All objects; `known` is a revision that the whole cache has reached.
    pub fn snapshot(&self, known: Revision) -> Snapshot {
        let state = self.read();
        Snapshot { revision: state.revision.max(known), objects: state.objects.clone(), events: state.events }
    }

    /// Keeps a snapshot for the next page of a list.
    pub fn keep_page(&self, snapshot: &Snapshot) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.retain(|(since, kept)| since.elapsed() < SNAPSHOT_LIFE && kept.revision != snapshot.revision);
        pages.push_back((Instant::now(), snapshot.clone()));
        if pages.len() > SNAPSHOTS {
            pages.pop_front();
        }
    }

    /// The snapshot of an earlier page, if it is still kept.
    pub fn page(&self, revision: Revision) -> Option<Snapshot> {
        let pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.iter().find(|(since, kept)| kept.revision == revision && since.elapsed() < SNAPSHOT_LIFE).map(|(_, kept)| kept.clone())
    }

    /// The events after a revision that are kept, and those to come.
    fn watch(&self, after: Revision) -> Result<(Vec<Arc<Event>>, LiveEvents), Expired> {
        let state = self.read();
        if after < state.floor {
            return Err(Expired { oldest: state.floor });
        }
        let start = state.ring.partition_point(|event| event.revision <= after);
        Ok((state.ring.range(start..).cloned().collect(), state.live.subscribe()))
    }

    /// The objects as they are, and the events to come.
    pub fn watch_from_now(&self, known: Revision) -> (Snapshot, LiveEvents) {
        let state = self.read();
        (Snapshot { revision: state.revision.max(known), objects: state.objects.clone(), events: state.events }, state.live.subscribe())
    }

    /// Has each event counted before it is told to watches. One can ask for this.
    pub fn count_in(&self, counter: watch::Sender<u64>) {
        let _ = self.counted.set(counter);
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.read().events
    }

    fn publish(&self, place: &str, object: Option<Object>, revision: Revision) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let previous = state.objects.get(place).cloned();
        let event = match (object, &previous) {
            (Some(object), _) => {
                let object = Arc::new(object);
                state.objects.insert_mut(place.to_owned(), object.clone());
                Event { revision, object, previous, deleted: false, sequence: state.events }
            }
            (None, Some(last)) => {
                state.objects.remove_mut(place);
                Event { revision, object: Arc::new(last.at(revision)), previous, deleted: true, sequence: state.events }
            }
            (None, None) => return,
        };
        let event = Arc::new(event);
        state.revision = state.revision.max(revision);
        state.events += 1;
        // What comes of reading all objects anew is not what happened.
        if revision > state.loaded {
            state.ring.push_back(event.clone());
        }
        if state.ring.len() > RING
            && let Some(oldest) = state.ring.pop_front()
        {
            state.floor = oldest.revision;
        }
        if let Some(counter) = self.counted.get() {
            counter.send_modify(|count| *count += 1);
        }
        // No watcher is no failure.
        let _ = state.live.send(event);
    }

    /// At a load: the history before `revision` is not whole, and what was not found is gone since after `before`.
    fn begin_anew(&self, found: &HashSet<&str>, before: Revision, revision: Revision) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.ring.clear();
        state.floor = revision;
        state.loaded = revision;
        let gone: Vec<String> = state.objects.keys().filter(|place| !found.contains(place.as_str())).cloned().collect();
        drop(state);
        for place in gone {
            self.publish(&place, None, before);
        }
    }
}
