//! The embedded engine: fjall in this process.
//!
//! One writer thread takes all commits that wait, checks each against the state that the ones before it leave, writes them
//! as one atomic batch with one fsync, and only then acknowledges them and hands them to the watches, in order. The history
//! that watches replay from is a bounded ring in memory; after a restart it is read from the disk when a watch wants it.

mod history;

use crate::{
    Action, Change, CommitError, Entry, Expect, Previous, Range, Revision, Store, StoreError, WatchError, WatchEvent, WatchStream, Write,
    limits,
};
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use futures::{StreamExt, stream};
use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
};
use tokio::sync::{mpsc as channel, oneshot};

/// Key of the newest revision, in the keyspace `meta`.
const REVISION: &str = "revision";
/// Key of the number of the format, in the keyspace `meta`. A directory from before there was one is of format 1.
const FORMAT: &str = "format";
/// The format that this engine writes and reads: an entry is the revision that last changed it, in 8 bytes, and the value.
const THIS_FORMAT: &[u8] = b"2";

/// Bounds of an embedded store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many commits watches can be replayed from.
    pub history_commits: usize,
    /// How many bytes of keys and values they may take together.
    pub history_bytes: usize,
    /// How many commits may wait for one slow watcher before it is dropped.
    pub watcher_backlog: usize,
    /// How many commits share one fsync at the most.
    pub batch: usize,
    /// The next commit gets a later revision than this one, for those who know revisions of a store that this one takes up.
    pub least_revision: Revision,
}

impl Default for Options {
    fn default() -> Self {
        Self { history_commits: 20_000, history_bytes: 64 << 20, watcher_backlog: 20_000, batch: 1024, least_revision: 0 }
    }
}

/// A store in a directory of this machine.
pub struct Embedded {
    reader: Reader,
    /// Taken when the store is dropped, which ends the writer.
    commits: Option<mpsc::Sender<Commit>>,
    writer: Option<JoinHandle<()>>,
    feed: Arc<Mutex<Feed>>,
    /// Whether the history from before the start is in the feed, as far as it is kept.
    recalled: Mutex<bool>,
}

struct Commit {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<Revision, CommitError>>,
}

#[derive(Clone)]
struct Reader {
    database: Database,
    entries: Keyspace,
    meta: Keyspace,
    history: Keyspace,
}

/// The recent commits and those who follow them. Its lock is what makes a replay and the live tail meet without a gap.
struct Feed {
    options: Options,
    recent: VecDeque<Arc<WatchEvent>>,
    recent_bytes: usize,
    /// The newest acknowledged revision.
    revision: Revision,
    /// The oldest revision that a watch may start after.
    floor: Revision,
    /// What the floor was at the start.
    opened: Revision,
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: Bytes,
    after: Revision,
    sender: channel::Sender<Result<WatchEvent, WatchError>>,
}

impl Embedded {
    /// Opens the store in a directory, or makes one. A directory has one opener at a time.
    pub fn open(dir: &Path, options: Options) -> Result<Arc<Self>, StoreError> {
        let open = |e: fjall::Error| StoreError::Open { place: dir.display().to_string(), reason: reason(&e) };
        let database = Database::builder(dir).open().map_err(open)?;
        let entries = database.keyspace("entries", KeyspaceCreateOptions::default).map_err(open)?;
        let meta = database.keyspace("meta", KeyspaceCreateOptions::default).map_err(open)?;
        let history = database.keyspace("history", KeyspaceCreateOptions::default).map_err(open)?;
        let reader = Reader { database, entries, meta, history };
        reader.claim(dir)?;
        let revision = reader.revision(&reader.database.snapshot())?.max(options.least_revision);
        let feed =
            Feed { options, recent: VecDeque::new(), recent_bytes: 0, revision, floor: revision, opened: revision, watchers: Vec::new() };
        let feed = Arc::new(Mutex::new(feed));
        let (commits, queue) = mpsc::channel();
        let writer = Writer { reader: reader.clone(), feed: feed.clone(), revision, batch: options.batch.max(1) };
        let writer = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&queue))
            .map_err(|e| StoreError::Open { place: dir.display().to_string(), reason: format!("cannot start the writer: {e}") })?;
        Ok(Arc::new(Self { reader, commits: Some(commits), writer: Some(writer), feed, recalled: Mutex::new(false) }))
    }

    /// Puts what is kept of the history from before the start into the feed.
    fn recall(&self) -> Result<(), StoreError> {
        let mut recalled = lock(&self.recalled);
        if !*recalled {
            let events = history::recall(&self.reader, &self.reader.database.snapshot(), lock(&self.feed).options.history_commits)?;
            lock(&self.feed).take_up(events);
            *recalled = true;
        }
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.commits = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has acknowledged nothing that it did not write.
            let _ = writer.join();
        }
    }
}

#[async_trait::async_trait]
impl Store for Embedded {
    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(lock(&self.feed).revision)
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        if !limits::is_key(key) {
            return Ok(None);
        }
        self.reader.get(&self.reader.database.snapshot(), key)
    }

    async fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Range, StoreError> {
        let snapshot = self.reader.database.snapshot();
        let mut range = Range { entries: Vec::new(), revision: self.reader.revision(&snapshot)?, more: false };
        if start >= end {
            return Ok(range);
        }
        for guard in snapshot.range(&self.reader.entries, start..end) {
            if limit > 0 && range.entries.len() == limit {
                range.more = true;
                break;
            }
            let (key, value) = guard.into_inner().map_err(|e| engine("read a range", &e))?;
            range.entries.push(decode(Bytes::copy_from_slice(&key), &value)?);
        }
        Ok(range)
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, CommitError> {
        limits::check(&writes)?;
        let (done, outcome) = oneshot::channel();
        let commits = self.commits.as_ref().ok_or(StoreError::Closed)?;
        commits.send(Commit { writes, done }).map_err(|_| StoreError::Closed)?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    async fn watch(&self, prefix: &[u8], after: Revision, _previous: Previous) -> Result<WatchStream, WatchError> {
        if after < lock(&self.feed).floor {
            self.recall()?;
        }
        let mut feed = lock(&self.feed);
        if after < feed.floor {
            return Err(WatchError::Compacted { asked: after, oldest: feed.floor });
        }
        let start = feed.recent.partition_point(|event| event.revision <= after);
        let replay: Vec<_> = feed.recent.range(start..).filter_map(|event| below(event, prefix)).map(Ok).collect();
        let (sender, receiver) = channel::channel(feed.options.watcher_backlog.max(2));
        feed.watchers.push(Watcher { prefix: Bytes::copy_from_slice(prefix), after, sender });
        drop(feed);
        let live = stream::unfold(Some(receiver), |receiver| async {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Some(Ok(event)) => Some((Ok(event), Some(receiver))),
                Some(Err(error)) => Some((Err(error), None)),
                None => Some((Err(StoreError::Closed.into()), None)),
            }
        });
        Ok(stream::iter(replay).chain(live).boxed())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let mut feed = lock(&self.feed);
        if revision > feed.revision {
            return Err(StoreError::Revision { asked: revision, reason: format!("the newest is {}", feed.revision) });
        }
        while feed.recent.front().is_some_and(|event| event.revision <= revision) {
            feed.forget_oldest();
        }
        feed.floor = feed.floor.max(revision);
        // Not synced: the next commit does it, and without one there is nothing that could be told of.
        let floor = self.reader.meta.insert(history::FLOOR, &feed.floor.to_be_bytes()[..]);
        floor.map_err(|error| engine("compact", &error))
    }
}

impl Reader {
    /// Marks a new directory with the format, and refuses one of another format.
    fn claim(&self, dir: &Path) -> Result<(), StoreError> {
        let failed = |e: &fjall::Error| engine("read the format", e);
        let snapshot = self.database.snapshot();
        let format = snapshot.get(&self.meta, FORMAT).map_err(|e| failed(&e))?;
        let used = snapshot.get(&self.meta, REVISION).map_err(|e| failed(&e))?.is_some();
        match format {
            Some(format) if format[..] == *THIS_FORMAT => Ok(()),
            None if !used => {
                self.meta.insert(FORMAT, THIS_FORMAT).map_err(|e| failed(&e))?;
                self.database.persist(PersistMode::SyncData).map_err(|e| failed(&e))
            }
            other => Err(StoreError::Open {
                place: dir.display().to_string(),
                reason: format!(
                    "it is of format {} and this version reads format {}: back it up with the version that made it and restore that here",
                    other.map_or("1".into(), |format| String::from_utf8_lossy(&format).into_owned()),
                    String::from_utf8_lossy(THIS_FORMAT)
                ),
            }),
        }
    }

    fn revision(&self, snapshot: &impl Readable) -> Result<Revision, StoreError> {
        Ok(self.number(snapshot, REVISION)?.unwrap_or(0))
    }

    fn number(&self, snapshot: &impl Readable, key: &str) -> Result<Option<Revision>, StoreError> {
        let stored = snapshot.get(&self.meta, key).map_err(|e| engine("read a revision", &e))?;
        let Some(stored) = stored else { return Ok(None) };
        let bytes: [u8; 8] = stored[..].try_into().map_err(|_| corrupt(format!("the {key} has {} bytes", stored.len())))?;
        Ok(Some(Revision::from_be_bytes(bytes)))
    }

    fn get(&self, snapshot: &impl Readable, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        let stored = snapshot.get(&self.entries, key).map_err(|e| engine("read a key", &e))?;
        stored.map(|stored| decode(Bytes::copy_from_slice(key), &stored)).transpose()
    }
}

/// What the writer thread owns.
struct Writer {
    reader: Reader,
    feed: Arc<Mutex<Feed>>,
    revision: Revision,
    batch: usize,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Commit>) {
        while let Ok(first) = queue.recv() {
            let mut commits = vec![first];
            commits.extend(queue.try_iter().take(self.batch - 1));
            if let Err(error) = self.write(commits) {
                // What reached the disk is unknown, and so is what a further batch would build on: nothing is acknowledged
                // any more until the directory is opened anew.
                tracing::error!("the store takes no more writes: {error}");
                return;
            }
        }
    }

    /// Writes what of the commits is as expected, in one batch.
    fn write(&mut self, commits: Vec<Commit>) -> Result<(), StoreError> {
        let mut pending: HashMap<Bytes, Option<Entry>> = HashMap::new();
        let mut accepted = Vec::new();
        let mut revision = self.revision;
        for commit in commits {
            match self.check(&commit.writes, &pending, revision + 1) {
                Ok(changes) => {
                    if !changes.is_empty() {
                        revision += 1;
                    }
                    for change in &changes {
                        match change {
                            Change::Put { entry, .. } => pending.insert(entry.key.clone(), Some(entry.clone())),
                            Change::Delete { key, .. } => pending.insert(key.clone(), None),
                        };
                    }
                    accepted.push((commit.done, WatchEvent { revision, changes }));
                }
                Err(error) => {
                    // The asker may be gone.
                    let _ = commit.done.send(Err(error));
                }
            }
        }
        if revision > self.revision {
            let written = self.persist(pending, accepted.iter().map(|(_, event)| event), revision);
            if let Err(error) = written {
                for (done, _) in accepted {
                    let _ = done.send(Err(engine("commit", &error).into()));
                }
                return Err(engine("commit", &error));
            }
            self.revision = revision;
        }
        lock(&self.feed).publish(accepted.iter().map(|(_, event)| event), revision);
        for (done, event) in accepted {
            let _ = done.send(Ok(event.revision));
        }
        Ok(())
    }

    fn persist<'a>(
        &self,
        pending: HashMap<Bytes, Option<Entry>>,
        events: impl Iterator<Item = &'a WatchEvent>,
        revision: Revision,
    ) -> Result<(), fjall::Error> {
        let mut batch = self.reader.database.batch().durability(Some(PersistMode::SyncData));
        for (key, entry) in pending {
            match entry {
                Some(entry) => batch.insert(&self.reader.entries, &key[..], encode(&entry)),
                None => batch.remove(&self.reader.entries, &key[..]),
            }
        }
        for event in events.filter(|event| !event.changes.is_empty()) {
            let (place, record) = history::record(event);
            batch.insert(&self.reader.history, &place[..], record);
        }
        batch.insert(&self.reader.meta, REVISION, &revision.to_be_bytes()[..]);
        batch.commit()
    }

    /// What a commit changes, or the first key that is not as expected.
    fn check(&self, writes: &[Write], pending: &HashMap<Bytes, Option<Entry>>, revision: Revision) -> Result<Vec<Change>, CommitError> {
        let mut changes = Vec::with_capacity(writes.len());
        for write in writes {
            let current = match pending.get(&write.key) {
                Some(entry) => entry.clone(),
                None => self.reader.get(&self.reader.database.snapshot(), &write.key)?,
            };
            let as_expected = match write.expect {
                Expect::Any => true,
                Expect::Absent => current.is_none(),
                Expect::At(revision) => current.as_ref().is_some_and(|entry| entry.modified == revision),
            };
            if !as_expected {
                return Err(CommitError::Conflict { key: write.key.clone(), current });
            }
            match (&write.action, current) {
                (Action::Put(value), previous) => {
                    let entry = Entry { key: write.key.clone(), value: value.clone(), modified: revision };
                    changes.push(Change::Put { entry, previous });
                }
                (Action::Delete, previous @ Some(_)) => changes.push(Change::Delete { key: write.key.clone(), previous }),
                (Action::Delete, None) | (Action::Check, _) => {}
            }
        }
        Ok(changes)
    }
}

impl Feed {
    fn publish<'a>(&mut self, events: impl Iterator<Item = &'a WatchEvent>, revision: Revision) {
        for event in events.filter(|event| !event.changes.is_empty()) {
            self.recent_bytes += size(event);
            self.recent.push_back(Arc::new(event.clone()));
            self.watchers.retain(|watcher| watcher.send(event));
        }
        self.revision = revision;
        while self.recent.len() > self.options.history_commits || (self.recent_bytes > self.options.history_bytes && self.recent.len() > 1)
        {
            self.forget_oldest();
        }
    }

    /// Takes up the history up to the start, unless what came after it is not whole any more.
    fn take_up(&mut self, mut events: VecDeque<WatchEvent>) {
        while self.floor == self.opened && events.back().is_some_and(|event| event.revision > self.opened) {
            events.pop_back();
        }
        while self.recent.len() < self.options.history_commits && events.back().is_some_and(|event| event.revision == self.floor) {
            let Some(event) = events.pop_back() else { return };
            let bytes = self.recent_bytes + size(&event);
            if bytes > self.options.history_bytes {
                return;
            }
            self.recent_bytes = bytes;
            self.floor = event.revision - 1;
            self.recent.push_front(Arc::new(event));
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(event) = self.recent.pop_front() {
            self.recent_bytes -= size(&event);
            self.floor = event.revision;
        }
    }
}

impl Watcher {
    /// Hands an event on; says whether the watcher is to be kept.
    fn send(&self, event: &WatchEvent) -> bool {
        if event.revision <= self.after {
            return !self.sender.is_closed();
        }
        let Some(event) = below(event, &self.prefix) else { return !self.sender.is_closed() };
        // The last place is kept for the word that the watcher fell behind.
        if self.sender.capacity() > 1 {
            return self.sender.try_send(Ok(event)).is_ok();
        }
        let _ = self.sender.try_send(Err(WatchError::Lagged));
        false
    }
}

/// The part of a commit that is below a prefix.
fn below(event: &WatchEvent, prefix: &[u8]) -> Option<WatchEvent> {
    let changes: Vec<_> = event.changes.iter().filter(|change| change.key().starts_with(prefix)).cloned().collect();
    (!changes.is_empty()).then_some(WatchEvent { revision: event.revision, changes })
}

fn size(event: &WatchEvent) -> usize {
    let entry = |entry: &Entry| entry.key.len() + entry.value.len();
    let change = |change: &Change| match change {
        Change::Put { entry: new, previous } => entry(new) + previous.as_ref().map_or(0, entry),
        Change::Delete { key, previous } => key.len() + previous.as_ref().map_or(0, entry),
    };
    event.changes.iter().map(change).sum()
}

fn encode(entry: &Entry) -> Vec<u8> {
    let mut stored = Vec::with_capacity(size_of::<Revision>() + entry.value.len());
    stored.extend_from_slice(&entry.modified.to_be_bytes());
    stored.extend_from_slice(&entry.value);
    stored
}

fn decode(key: Bytes, stored: &[u8]) -> Result<Entry, StoreError> {
    match stored.split_first_chunk() {
        Some((modified, value)) => Ok(Entry { key, value: Bytes::copy_from_slice(value), modified: Revision::from_be_bytes(*modified) }),
        None => Err(corrupt(format!("the entry of {} has {} bytes", key.escape_ascii(), stored.len()))),
    }
}

fn lock<T>(feed: &Mutex<T>) -> MutexGuard<'_, T> {
    // The feed is whole between any two of its statements that can panic.
    feed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn engine(operation: &'static str, error: &fjall::Error) -> StoreError {
    StoreError::Engine { operation, reason: reason(error) }
}

fn reason(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Locked => "another process has it open".into(),
        other => other.to_string(),
    }
}

fn corrupt(reason: String) -> StoreError {
    StoreError::Engine { operation: "understand what is stored", reason }
}
