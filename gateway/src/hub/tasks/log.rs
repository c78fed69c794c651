//! The logs of tasks: lines in the store, in chunks, kept by age and size, whatever becomes of the task and its host.
//!
//! They are in the store and not in files, so that any gateway can tell them and a backup has them. Beside the chunks of a log
//! is its head, which says of whom it is and how large: what is looked through to find and to forget logs.

use basalt_store::{Action, CommitError, Expect, Range, Store, StoreError, Write, prefix_end};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

const CHUNKS: &str = "/registry/internal.basalt.dev/tasklogs/";
const HEADS: &str = "/registry/internal.basalt.dev/tasklogheads/";
/// How many entries are read at once.
const PAGE: usize = 256;
/// How long a line may be; a longer one is cut.
const LINE: usize = 8 << 10;
/// How often a head is tried to be written while others write it.
const TRIES: usize = 8;

/// Bounds of what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// How long after its last line a log is kept.
    pub age: SignedDuration,
    /// How large the log of one task may become.
    pub each: u64,
    /// How large all of them may become together; the oldest go first.
    pub total: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { age: SignedDuration::from_hours(30 * 24), each: 16 << 20, total: 1 << 30 }
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// When it was written.
    pub time: Timestamp,
    /// `error`, `warn`, `info` or `debug`.
    pub level: String,
    /// What was being done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// The attempt.
    pub attempt: u32,
    /// What it says.
    pub text: String,
}

/// Of whom a log is, and how large.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Namespace of the task.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// When the first lines came, and the last.
    pub first: Timestamp,
    /// See `first`.
    pub last: Timestamp,
    /// How large it is.
    pub bytes: u64,
    /// It was larger: lines are missing at its end.
    #[serde(default)]
    pub truncated: bool,
}

/// Of whom lines are.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Namespace of the task.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// The attempt.
    pub attempt: u32,
}

/// All logs.
pub struct Logs {
    store: Arc<dyn Store>,
    bounds: Bounds,
    /// Those who follow a log, by the task's uid.
    followers: Mutex<HashMap<String, watch::Sender<u64>>>,
}

impl Logs {
    /// The logs in a store.
    pub fn new(store: Arc<dyn Store>, bounds: Bounds) -> Self {
        Self { store, bounds, followers: Mutex::default() }
    }

    /// Appends lines of an attempt, of which the first has this number; what is there already is not written twice.
    pub async fn append(&self, writer: Writer<'_>, first: u64, lines: &[Line], now: Timestamp) -> Result<(), StoreError> {
        let mut chunk = Vec::new();
        for line in lines {
            // A line is made of texts and a time.
            serde_json::to_writer(&mut chunk, &clean(line)).map_err(|error| encode(&error))?;
            chunk.push(b'\n');
        }
        let key = Bytes::from(format!("{CHUNKS}{}/{:05}-{first:012}", writer.uid, writer.attempt));
        let head_key = Bytes::from(format!("{HEADS}{}/{}/{}", writer.namespace, writer.name, writer.uid));
        for _ in 0..TRIES {
            let found = self.store.get(&head_key).await?;
            let (mut head, expect) = match &found {
                Some(entry) => (read_head(&entry.value)?, Expect::At(entry.modified)),
                None => {
                    let (namespace, name, uid) = (writer.namespace.to_owned(), writer.name.to_owned(), writer.uid.to_owned());
                    (Head { namespace, name, uid, first: now, last: now, bytes: 0, truncated: false }, Expect::Absent)
                }
            };
            if head.truncated {
                return Ok(());
            }
            head.last = now;
            let mut value = chunk.clone();
            if head.bytes + chunk.len() as u64 > self.bounds.each {
                head.truncated = true;
                let text = format!("the log is cut off here: it may have {} MiB and no more", self.bounds.each >> 20);
                let line = Line { time: now, level: "warn".into(), step: String::new(), attempt: writer.attempt, text };
                value = serde_json::to_vec(&line).map_err(|error| encode(&error))?;
                value.push(b'\n');
            }
            head.bytes += value.len() as u64;
            let head = serde_json::to_vec(&head).map_err(|error| encode(&error))?;
            let writes = vec![
                Write { key: head_key.clone(), expect, action: Action::Put(head.into()) },
                Write { key: key.clone(), expect: Expect::Absent, action: Action::Put(value.into()) },
            ];
            match self.store.commit(writes).await {
                Ok(_) => {
                    if let Some(follower) = self.followers().get(writer.uid) {
                        follower.send_modify(|chunks| *chunks += 1);
                    }
                    return Ok(());
                }
                // It was sent again.
                Err(CommitError::Conflict { key: other, .. }) if other == key => return Ok(()),
                Err(CommitError::Conflict { .. }) => {}
                Err(CommitError::Store(error)) => return Err(error),
            }
        }
        Err(StoreError::Refused { operation: "append to a log", reason: format!("others wrote its head {TRIES} times") })
    }

    /// The log of the newest task of a name, whether or not that is still there.
    pub async fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Option<Head>, StoreError> {
        let prefix = format!("{HEADS}{namespace}/{name}/");
        let range = self.store.range(prefix.as_bytes(), &prefix_end(prefix.as_bytes()), 0).await?;
        let heads = range.entries.iter().filter_map(|entry| read_head(&entry.value).ok());
        Ok(heads.filter(|head| uid.is_none_or(|uid| head.uid == uid)).max_by_key(|head| head.first))
    }

    /// The lines of a log after a place, and the place after them. None are left if there are no more.
    pub async fn read(&self, uid: &str, after: Option<Bytes>) -> Result<(Vec<Line>, Option<Bytes>), StoreError> {
        let prefix = format!("{CHUNKS}{uid}/");
        let start = after.as_ref().map_or_else(|| prefix.clone().into_bytes(), |after| [&after[..], b"\0"].concat());
        let range = self.store.range(&start, &prefix_end(prefix.as_bytes()), PAGE).await?;
        let lines = range.entries.iter().flat_map(|entry| entry.value.split(|byte| *byte == b'\n'));
        let lines = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        Ok((lines, range.entries.last().map(|entry| entry.key.clone()).or(after)))
    }

    /// Wakes whoever holds it when a log grows, if it does so through this gateway.
    pub fn follow(&self, uid: &str) -> watch::Receiver<u64> {
        let mut followers = self.followers();
        followers.retain(|_, follower| !follower.is_closed());
        followers.entry(uid.to_owned()).or_default().subscribe()
    }

    /// Forgets what is too old, and the oldest of what is too much. Says how many logs that were.
    pub async fn sweep(&self, now: Timestamp) -> Result<usize, StoreError> {
        let mut heads = Vec::new();
        let mut start = HEADS.as_bytes().to_vec();
        loop {
            let Range { entries, more, .. } = self.store.range(&start, &prefix_end(HEADS.as_bytes()), PAGE).await?;
            if let Some(last) = entries.last() {
                start = [&last.key[..], b"\0"].concat();
            }
            heads.extend(entries.iter().filter_map(|entry| Some((entry.key.clone(), read_head(&entry.value).ok()?))));
            if !more {
                break;
            }
        }
        heads.sort_by_key(|(_, head)| head.last);
        let mut total: u64 = heads.iter().map(|(_, head)| head.bytes).sum();
        let mut forgotten = 0;
        for (key, head) in heads {
            if now.duration_since(head.last) < self.bounds.age && total <= self.bounds.total {
                break;
            }
            self.forget(key, &head.uid).await?;
            total = total.saturating_sub(head.bytes);
            forgotten += 1;
        }
        Ok(forgotten)
    }

    async fn forget(&self, head: Bytes, uid: &str) -> Result<(), StoreError> {
        let prefix = format!("{CHUNKS}{uid}/");
        let delete = |key: Bytes| Write { key, expect: Expect::Any, action: Action::Delete };
        loop {
            let range = self.store.range(prefix.as_bytes(), &prefix_end(prefix.as_bytes()), 64).await?;
            let mut writes: Vec<Write> = range.entries.into_iter().map(|entry| delete(entry.key)).collect();
            if !range.more {
                // The head goes last: what is left of a log is found by it.
                writes.push(delete(head.clone()));
            }
            match self.store.commit(writes).await {
                Ok(_) if range.more => {}
                Ok(_) => return Ok(()),
                Err(CommitError::Store(error)) => return Err(error),
                // Nothing is expected of a key.
                Err(CommitError::Conflict { .. }) => return Ok(()),
            }
        }
    }

    fn followers(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<u64>>> {
        self.followers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line as it may be shown on a terminal, and no longer than it may be.
fn clean(line: &Line) -> Line {
    let mut text = String::with_capacity(line.text.len().min(LINE));
    for character in line.text.chars() {
        if text.len() >= LINE {
            text.push_str(" ... (cut)");
            break;
        }
        match character {
            '\t' => text.push(' '),
            character if character.is_control() => text.extend(character.escape_default()),
            character => text.push(character),
        }
    }
    let level = if ["error", "warn", "info", "debug"].contains(&&*line.level) { line.level.clone() } else { "info".into() };
    let step = line.step.chars().filter(|character| !character.is_control()).take(100).collect();
    Line { time: line.time, level, step, attempt: line.attempt, text }
}

fn read_head(bytes: &[u8]) -> Result<Head, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Engine { operation: "read the head of a log", reason: error.to_string() })
}

fn encode(error: &serde_json::Error) -> StoreError {
    StoreError::Engine { operation: "encode a log", reason: error.to_string() }
}
