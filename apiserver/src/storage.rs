//! Writes: read the object, change it, and commit it if nobody else has changed it meanwhile; otherwise do it again.

use crate::{
    cache::{Cache, Kind, Replay},
    error::{Reason, Status},
    fence::Fence,
    keys,
    object::{Object, decode, encode},
    registry::ResourceDef,
};
use basalt_store::{Action, CommitError, Expect, Store, Write};

use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// How often a change is tried on an object that others keep changing.
const TRIES: usize = 50;
/// How long a read waits for the cache to be up to date.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The objects, for reading and writing.
pub struct Storage {
    pub store: Arc<dyn Store>,
    pub cache: Arc<Cache>,
}

/// What a change makes of an object.
pub enum Outcome {
    /// It stays as it is.
    Keep,
    /// It becomes this.
    Put(Value),
    /// It goes.
    Delete,
}

impl Storage {
    /// A kind's part of the cache.
    pub fn kind(&self, def: &ResourceDef) -> Result<Arc<Kind>, Status> {
        let gone = || Status::new(Reason::NotFound, format!("{} are not served any more", def.plural));
        self.cache.kind(&def.group, &def.plural).ok_or_else(gone)
    }

    /// Waits until the cache has all that was acknowledged before now.
    pub async fn catch_up(&self) -> Result<u64, Status> {
        let revision = self.store.revision().await?;
        if self.cache.reaches(revision, PATIENCE).await {
            return Ok(revision);
        }
        let have = self.cache.revision();
        Err(Status::new(
            Reason::Timeout,
            format!("the cache is at revision {have} and has not reached {revision} after {} s", PATIENCE.as_secs()),
        ))
    }

    /// The events of a kind after a revision, and those to come.
    pub async fn watch(&self, kind: &Kind, after: u64) -> Result<Replay, Status> {
        let late = |_| Status::new(Reason::Timeout, format!("the store has not told its history after {} s", PATIENCE.as_secs()));
        Ok(tokio::time::timeout(PATIENCE, self.cache.watch(kind, after)).await.map_err(late)??)
    }

    /// An object as it is now.
    pub async fn get(&self, def: &ResourceDef, place: &str) -> Result<Option<Arc<Object>>, Status> {
        self.catch_up().await?;
        Ok(self.kind(def)?.get(place))
    }

    /// Writes a new object; `None` if there is one already.
    pub async fn create(&self, def: &ResourceDef, place: &str, object: Value) -> Result<Option<Arc<Object>>, Status> {
        match self.create_if(def, place, object, None).await? {
            Created::Made(created) => Ok(Some(created)),
            Created::Exists | Created::Outdated => Ok(None),
        }
    }

    /// The same, if something else holds when it is committed.
    pub async fn create_if(&self, def: &ResourceDef, place: &str, object: Value, guard: Option<Write>) -> Result<Created, Status> {
        let guarding = guard.as_ref().map(|guard| guard.key.clone());
        match self.put(def, place, Expect::Absent, object, guard).await {
            Ok(created) => Ok(Created::Made(created)),
            Err(CommitError::Conflict { key, .. }) if fenced(&key) => Err(Fence::refusal()),
            Err(CommitError::Conflict { key, .. }) if guarding.as_ref() == Some(&key) => Ok(Created::Outdated),
            Err(CommitError::Conflict { .. }) => Ok(Created::Exists),
            Err(CommitError::Store(error)) => Err(error.into()),
        }
    }

    /// Changes an object. `change` may be called several times, each time with a newer state of it.
    pub async fn change(
        &self,
        def: &ResourceDef,
        place: &str,
        dry_run: bool,
        mut change: impl FnMut(&Value) -> Result<Outcome, Status>,
    ) -> Result<Changed, Status> {
        let not_found = || Status::not_found(&def.group, &def.plural, place.rsplit('/').next().unwrap_or(place));
        // A state that is a little old is as good as any to try on: the store refuses what was made of it.
        let mut live = match self.kind(def)?.get(place) {
            Some(live) => live,
            None => self.get(def, place).await?.ok_or_else(not_found)?,
        };
        let mut fresh = false;
        for _ in 0..TRIES {
            let outcome = change(&live.value());
            // What the store is not asked may be of a state that is no more: a refusal, that nothing is to be done, what is only tried.
            let asks = !dry_run && matches!(outcome, Ok(Outcome::Put(_) | Outcome::Delete));
            if !asks && !fresh {
                fresh = true;
                live = self.get(def, place).await?.ok_or_else(not_found)?;
                continue;
            }
            let outcome = outcome?;
            let expect = Expect::At(live.revision);
            let written = match outcome {
                Outcome::Keep => return Ok(Changed::Kept(live)),
                Outcome::Delete if dry_run => return Ok(Changed::Deleted(live)),
                Outcome::Put(new) if dry_run => return Ok(Changed::Put(Arc::new(Object::of(new, live.revision)))),
                Outcome::Put(new) => self.put(def, place, expect, new, None).await.map(Changed::Put),
                Outcome::Delete => self.commit(def, place, expect, Action::Delete, None).await.map(|_| Changed::Deleted(live.clone())),
            };
            match written {
                Ok(changed) => return Ok(changed),
                Err(CommitError::Conflict { key, .. }) if fenced(&key) => return Err(Fence::refusal()),
                Err(CommitError::Conflict { current, .. }) => {
                    fresh = true;
                    live = current.as_ref().and_then(decode).map(Arc::new).ok_or_else(not_found)?;
                }
                Err(CommitError::Store(error)) => return Err(error.into()),
            }
        }
        let name = place.rsplit('/').next().unwrap_or(place);
        Err(Status::about(
            Reason::Conflict,
            &def.group,
            &def.plural,
            name,
            format!("was changed by others {TRIES} times while it was being changed; try again"),
        ))
    }

    async fn put(
        &self,
        def: &ResourceDef,
        place: &str,
        expect: Expect,
        mut new: Value,
        guard: Option<Write>,
    ) -> Result<Arc<Object>, CommitError> {
        let bytes = encode(&mut new);
        let revision = self.commit(def, place, expect, Action::Put(bytes.clone()), guard).await?;
        // The cache most often has it already, and is spared the reading.
        let cached = self.cache.kind(&def.group, &def.plural).and_then(|kind| kind.get(place)).filter(|o| o.revision == revision);
        let object = match cached {
            Some(object) => object,
            None => Arc::new(Object::stored(&bytes, revision).unwrap_or_else(|_| Object::of(new.clone(), revision))),
        };
        object.tell(new);
        Ok(object)
    }

    async fn commit(
        &self,
        def: &ResourceDef,
        place: &str,
        expect: Expect,
        action: Action,
        guard: Option<Write>,
    ) -> Result<u64, CommitError> {
        let write = Write { key: keys::key(&def.group, &def.plural, place), expect, action };
        self.store.commit(std::iter::once(write).chain(guard).chain(Fence::check()).collect()).await
    }
}

/// What became of an object that was to be made.
pub enum Created {
    /// It is there.
    Made(Arc<Object>),
    /// Another was there already.
    Exists,
    /// What had to hold does not.
    Outdated,
}

/// What became of an object.
pub enum Changed {
    /// It was as wanted already.
    Kept(Arc<Object>),
    /// It is this now.
    Put(Arc<Object>),
    /// It was this and is gone.
    Deleted(Arc<Object>),
}

impl Changed {
    /// The object, as it is or was last.
    pub fn into_object(self) -> Arc<Object> {
        match self {
            Self::Kept(object) | Self::Put(object) | Self::Deleted(object) => object,
        }
    }
}

/// Whether a key is that of the fence that the request stands behind.
fn fenced(key: &[u8]) -> bool {
    Fence::check().is_some_and(|check| check.key == key)
}
