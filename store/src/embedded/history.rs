//! The history that watches replay after a restart: what the keys of each of the last commits were before it.
//!
//! What they became is what they are, or what a later commit found there: only values that are replaced are written twice. A
//! record takes the place of the one [`PLACES`] commits before it, so that nothing has to be deleted.

use super::{Reader, corrupt, decode, encode, engine};
use crate::{Change, Entry, Revision, StoreError, WatchEvent};
use bytes::Bytes;
use fjall::{Readable, Snapshot};
use std::collections::{HashMap, VecDeque};

/// How many commits are recorded.
const PLACES: Revision = 16_384;
/// How large a record may be: a commit with a larger one is not recorded, and no watch begins before it after a restart.
const MAX_BYTES: usize = 64 << 10;
/// Key of the revision that history was compacted up to, in the keyspace `meta`.
pub const FLOOR: &str = "floor";
/// What stands for the length of a value that was not there.
const ABSENT: u32 = u32::MAX;

/// Where the record of a commit is, and the record.
pub fn record(event: &WatchEvent) -> ([u8; 8], Vec<u8>) {
    let mut record = event.revision.to_be_bytes().to_vec();
    for change in &event.changes {
        let (key, previous) = match change {
            Change::Put { entry, previous } => (&entry.key, previous),
            Change::Delete { key, previous } => (key, previous),
        };
        put(&mut record, Some(key));
        put(&mut record, previous.as_ref().map(encode).as_deref());
    }
    if record.len() > MAX_BYTES {
        // It is there, for what it replaces must not be taken for it, and says nothing.
        record.truncate(0);
    }
    (place(event.revision), record)
}

fn place(revision: Revision) -> [u8; 8] {
    (revision % PLACES).to_be_bytes()
}

fn put(record: &mut Vec<u8>, bytes: Option<&[u8]>) {
    // A record that is too long for this is too large anyway.
    let length = bytes.map_or(ABSENT, |bytes| u32::try_from(bytes.len()).unwrap_or(ABSENT));
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(bytes.unwrap_or_default());
}

/// The next bytes of a record, if they are whole; `Some(None)` for a value that was not there.
fn take<'a>(record: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (length, rest) = record.split_first_chunk()?;
    let length = u32::from_be_bytes(*length);
    if length == ABSENT {
        *record = rest;
        return Some(None);
    }
    let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *record = rest;
    Some(Some(bytes))
}

/// The recorded commits without a gap up to that of the snapshot, in order; at most so many.
pub fn recall(reader: &Reader, snapshot: &Snapshot, most: usize) -> Result<VecDeque<WatchEvent>, StoreError> {
    let newest = reader.revision(snapshot)?;
    let failed = |e: fjall::Error| engine("read the history", &e);
    let floor = reader.number(snapshot, FLOOR)?.unwrap_or(0);
    let mut events = VecDeque::new();
    // What keys were before those commits that were looked at, the newest first.
    let mut then: HashMap<Bytes, Option<Entry>> = HashMap::new();
    for revision in (floor + 1..=newest).rev().take(most) {
        let Some(record) = snapshot.get(&reader.history, place(revision)).map_err(failed)? else { break };
        let mut rest = &record[..];
        match rest.split_first_chunk() {
            Some((of, after)) if Revision::from_be_bytes(*of) == revision => rest = after,
            _ => break,
        }
        let mut changes = Vec::new();
        while !rest.is_empty() {
            let broken = || corrupt(format!("the record of commit {revision} is cut off"));
            let key = Bytes::copy_from_slice(take(&mut rest).flatten().ok_or_else(broken)?);
            let previous = take(&mut rest).ok_or_else(broken)?;
            let previous = previous.map(|stored| decode(key.clone(), stored)).transpose()?;
            let now = match then.insert(key.clone(), previous.clone()) {
                Some(found) => found,
                None => reader.get(snapshot, &key)?,
            };
            changes.push(match now {
                Some(entry) => Change::Put { entry, previous },
                None => Change::Delete { key, previous },
            });
        }
        events.push_front(WatchEvent { revision, changes });
    }
    Ok(events)
}
