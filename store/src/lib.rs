//! Where state lives: a revisioned key-value store behind one small trait, with two engines.
//!
//! - [`embedded`]: fjall in this process, for one machine (the default);
//! - [`etcd`]: an etcd cluster.
//!
//! Both keep one promise, which `tests/conformance.rs` holds them to: every commit gets a revision that is larger than
//! every earlier one and is never used twice, a commit that was acknowledged survives `kill -9` and power loss, and a
//! watch delivers every commit after its start revision exactly once and in order, or ends with [`WatchError::Compacted`].

pub mod embedded;
pub mod etcd;
mod limits;

pub use limits::{MAX_COMMIT_BYTES, MAX_KEY_BYTES, MAX_WRITES};

use bytes::Bytes;
use futures::stream::BoxStream;

/// A point in the history of a store, which only ever grows. A watch from revision 0 gets every commit since the first,
/// if none is compacted. An empty embedded store is at revision 0, one in etcd at 255 (etcd's own 1). How much larger the next one
/// is than the one before, is the engine's affair.
pub type Revision = u64;

/// A key with its value, and the commit that last changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision of the commit that last wrote the key.
    pub modified: Revision,
}

/// What a write demands of the key's present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Nothing.
    Any,
    /// The key does not exist.
    Absent,
    /// The key exists and was last written at this revision, which is one that the store has given.
    At(Revision),
}

/// One write of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Bytes,
    /// What must hold for the commit to happen.
    pub expect: Expect,
    /// What is done if all expectations of the commit hold.
    pub action: Action,
}

/// What a write does to its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The key has this value from now on.
    Put(Bytes),
    /// The key is gone from now on. Deleting an absent key is no change.
    Delete,
    /// Nothing: only the expectation counts.
    Check,
}

/// Keys of a range, all seen at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The entries in key order.
    pub entries: Vec<Entry>,
    /// The revision at which they were seen.
    pub revision: Revision,
    /// There are more entries behind the last one.
    pub more: bool,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key was created or changed.
    Put {
        /// Its new state.
        entry: Entry,
        /// What it was before; none if it was not there, or if nobody asked for it.
        previous: Option<Entry>,
    },
    /// The key was deleted.
    Delete {
        /// The key.
        key: Bytes,
        /// What it was before; none if nobody asked for it, or if that has been compacted.
        previous: Option<Entry>,
    },
}

/// Whether a watch is to tell what keys were before they changed, which some stores have to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Previous {
    /// It is told.
    Told,
    /// It may be left out.
    Untold,
}

impl Change {
    /// The key.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { entry, .. } => &entry.key,
            Self::Delete { key, .. } => key,
        }
    }
}

/// What a watch delivers: the changes of one commit, or word that there are none up to a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// All commits up to this one have been delivered.
    pub revision: Revision,
    /// The changes of the commit below the watched prefix; empty for a progress notice.
    pub changes: Vec<Change>,
}

/// A stream of commits, in order. It ends only with an error.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, WatchError>>;

/// Why a commit was not made.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// A key was not as expected; nothing was written.
    #[error("key {} is not as expected ({})", .key.escape_ascii(), match .current { Some(e) => format!("at revision {}", e.modified), None => "absent".into() })]
    Conflict {
        /// The first key that was not as expected.
        key: Bytes,
        /// Its state when the commit was tried.
        current: Option<Entry>,
    },
    /// The store failed. Whether the commit was made is unknown if [`StoreError::outcome_unknown`] says so.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The history from the asked revision on is gone; list again and watch from the list's revision.
    #[error("revision {asked} is compacted; the oldest that can be watched from is {oldest}")]
    Compacted {
        /// The revision asked for.
        asked: Revision,
        /// The oldest revision that a watch may start after.
        oldest: Revision,
    },
    /// The watcher did not keep up and its changes were dropped.
    #[error("the watcher fell behind")]
    Lagged,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The data directory or an etcd endpoint could not be opened.
    #[error("cannot open the store at {place}: {reason}")]
    Open {
        /// The directory or the endpoints.
        place: String,
        /// What the engine said.
        reason: String,
    },
    /// The asked revision is compacted or in the future.
    #[error("revision {asked} is not readable: {reason}")]
    Revision {
        /// The revision asked for.
        asked: Revision,
        /// Why.
        reason: String,
    },
    /// A commit that no store takes; nothing was changed. The bounds are [`MAX_WRITES`], [`MAX_KEY_BYTES`] and
    /// [`MAX_COMMIT_BYTES`].
    #[error("the commit is not possible: {reason}")]
    Invalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The engine does not take the operation, though there is nothing wrong with it; nothing was changed.
    #[error("the store refuses to {operation}: {reason}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// An operation failed. Its outcome, if it was a commit, is unknown.
    #[error("the store failed to {operation}: {reason}")]
    Engine {
        /// What was being done.
        operation: &'static str,
        /// What the engine said.
        reason: String,
    },
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether a commit that failed with this may nevertheless have been made.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::Engine { .. })
    }
}

/// A revisioned key-value store.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// A revision not before any commit that was acknowledged until now, and before every commit that is yet to be begun.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// One key, as it is now.
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError>;

    /// The keys from `start` (included) to `end` (excluded) in order, at most `limit` of them (0: all), as they are now.
    async fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Range, StoreError>;

    /// Makes all writes as one commit, or none. Returns its revision after it is on disk. A key may stand in only one of
    /// the writes. A commit that changes nothing (deletions of absent keys, checks) makes no revision and returns [`Self::revision`].
    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, CommitError>;

    /// Every commit after revision `after` that touches a key with this prefix. `after` may be in the future.
    async fn watch(&self, prefix: &[u8], after: Revision, previous: Previous) -> Result<WatchStream, WatchError>;

    /// Drops the history up to `revision`: watches that want to start before it are refused from then on.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;
}

/// The smallest key that is larger than every key with this prefix: the `end` of a range over a prefix.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Every key is smaller than this: no key of ours starts with 0xff bytes.
    vec![u8::MAX; 64]
}
