//! Revisions over etcd's: several commits share one transaction of etcd's, and so its revision, and yet each has one of its own.
//!
//! A [`Revision`] is etcd's times [`COMMITS`] plus the commit's place in its transaction. A value stands in etcd behind one byte
//! with that place. A deletion leaves no value to put it in, so that a commit that deletes is alone in its transaction.

use crate::{Entry, Revision};
use bytes::Bytes;
use etcd_client::KeyValue;

/// How many commits a transaction can hold, at places from 0 on.
pub const COMMITS: u8 = 128;

/// Marks the byte before a value. No JSON text begins with such a byte, so that a value which was put in by hand, without one, is
/// read as well.
const MARK: u8 = 0x80;

/// The revision of the commit at a place of the transaction that made this revision of etcd's.
pub fn of_commit(etcd: i64, place: u8) -> Revision {
    // etcd's revisions are positive.
    Revision::try_from(etcd).unwrap_or(0) * Revision::from(COMMITS) + Revision::from(place)
}

/// The revision by which all commits up to a revision of etcd's are made.
pub fn after_all_of(etcd: i64) -> Revision {
    of_commit(etcd, COMMITS - 1)
}

/// etcd's revision that made a revision.
pub fn in_etcd(revision: Revision) -> i64 {
    // At most 2^57.
    (revision / Revision::from(COMMITS)).cast_signed()
}

/// A value as it stands in etcd when it was put by the commit at this place of its transaction.
pub fn marked(value: &[u8], place: u8) -> Vec<u8> {
    let mut stored = Vec::with_capacity(value.len() + 1);
    stored.push(MARK | place);
    stored.extend_from_slice(value);
    stored
}

/// The place of the commit that put what stands in etcd, and the value.
fn unmarked(stored: &[u8]) -> (u8, &[u8]) {
    match stored.split_first() {
        Some((first, value)) if first & MARK != 0 => (first & !MARK, value),
        _ => (0, stored),
    }
}

/// A key with its value.
pub fn entry(kv: &KeyValue) -> Entry {
    let (place, value) = unmarked(kv.value());
    Entry { key: Bytes::copy_from_slice(kv.key()), value: Bytes::copy_from_slice(value), modified: of_commit(kv.mod_revision(), place) }
}
