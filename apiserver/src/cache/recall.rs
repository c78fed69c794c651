//! Watches from before the cache was loaded: what happened since is asked of the store, which keeps more history than a cache that
//! has just been started. So a client whose gateway was started anew, or who goes to another one, resumes where it was.

use super::{Cache, Event, Expired, Id, Kind, LiveEvents, RING, State};
use crate::{
    keys,
    object::{Object, decode},
};
use basalt_store::{Action, Change, CommitError, Entry, Expect, Previous, Revision, StoreError, WatchError, Write};
use bytes::Bytes;
use futures::StreamExt;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, atomic::Ordering},
};

/// The events after a revision that are kept, and those to come.
pub type Replay = Result<(Vec<Arc<Event>>, LiveEvents), Expired>;

/// The events of the kinds, in order.
type Recalled = HashMap<Id, VecDeque<Arc<Event>>>;

impl Cache {
    /// The events of a kind after a revision, and those to come.
    pub async fn watch(&self, kind: &Kind, after: Revision) -> Result<Replay, StoreError> {
        let replay = kind.watch(after);
        if replay.is_ok() {
            return Ok(replay);
        }
        let _one_at_a_time = self.recalling.lock().await;
        let replay = kind.watch(after);
        if replay.is_ok() || after <= self.forgotten.load(Ordering::Relaxed) {
            return Ok(replay);
        }
        match self.recall(after).await {
            Ok(recalled) => {
                let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner).clone();
                for (id, kind) in &kinds {
                    kind.extend(recalled.get(id).into_iter().flatten(), after);
                }
            }
            Err(WatchError::Store(error)) => return Err(error),
            Err(error) => tracing::info!("a watch from revision {after} has to begin anew: {error}"),
        }
        let replay = kind.watch(after);
        if replay.is_err() {
            // It, and what is older, need not be asked for again.
            self.forgotten.fetch_max(after, Ordering::Relaxed);
        }
        Ok(replay)
    }

    /// What happened after a revision.
    async fn recall(&self, after: Revision) -> Result<Recalled, WatchError> {
        let mut stream = self.store.watch(keys::ROOT.as_bytes(), after, Previous::Told).await?;
        // How far the history goes is not told, for it goes on. It has been told up to a commit that is made now when that comes.
        let mark = Write { key: Bytes::from_static(keys::MARK.as_bytes()), expect: Expect::Any, action: Action::Put(Bytes::new()) };
        let end = self.store.commit(vec![mark]).await.map_err(|error| match error {
            CommitError::Store(error) => error,
            conflict @ CommitError::Conflict { .. } => StoreError::Engine { operation: "mark the history", reason: conflict.to_string() },
        })?;
        let mut recalled = Recalled::new();
        while let Some(commit) = stream.next().await {
            let commit = commit?;
            for change in &commit.changes {
                if let Change::Delete { previous: None, .. } = change {
                    // It was compacted meanwhile.
                    return Err(WatchError::Compacted { asked: after, oldest: commit.revision });
                }
                let Some(((group, plural), event)) = recalled_event(change, commit.revision) else { continue };
                let events = recalled.entry((group.to_owned(), plural.to_owned())).or_default();
                events.push_back(Arc::new(event));
                // One more than there is room for, to tell that there are more.
                if events.len() > RING + 1 {
                    events.pop_front();
                }
            }
            if commit.revision >= end {
                return Ok(recalled);
            }
        }
        Err(StoreError::Engine { operation: "watch", reason: "the stream ended".into() }.into())
    }
}

fn recalled_event(change: &Change, revision: Revision) -> Option<((&str, &str), Event)> {
    let read = |entry: &Option<Entry>| entry.as_ref().and_then(decode).map(Arc::new);
    let (key, object, previous, deleted) = match change {
        Change::Put { entry, previous } => (&entry.key, Arc::new(decode(entry)?), read(previous), false),
        Change::Delete { key, previous } => {
            let previous: Option<Arc<Object>> = read(previous);
            (key, Arc::new(previous.as_ref()?.at(revision)), previous, true)
        }
    };
    let (group, plural, _) = keys::split(key)?;
    // Those who count events count those that they were told live.
    Some(((group, plural), Event { revision, object, previous, deleted, sequence: 0 }))
}

impl Kind {
    /// Puts earlier events, which are whole from after `floor` or begin with those that there is room for, before those that are
    /// kept.
    fn extend<'a>(&self, earlier: impl DoubleEndedIterator<Item = &'a Arc<Event>>, floor: Revision) {
        let mut guard = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let state: &mut State = &mut guard;
        let known = state.floor;
        for event in earlier.rev().filter(|event| event.revision <= known) {
            if state.ring.len() >= RING {
                state.floor = event.revision.min(known);
                return;
            }
            state.ring.push_front(event.clone());
        }
        state.floor = floor.min(known);
    }
}
