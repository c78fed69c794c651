//! Backups: all that is in the store at one revision, as lines of JSON.
//!
//! The first line says what it is ([`Head`]), each further one is an entry, and the last has the SHA-256 of all before it, so that
//! a backup that was cut off is never taken for a whole one. What is stored is written as it is stored: what is encrypted in the
//! store is so in a backup.

use crate::{
    error::{Reason, Status},
    keys,
};
use axum::{
    body::Body,
    http::{HeaderValue, Response, header},
};
use basalt_store::{Action, CommitError, Expect, MAX_COMMIT_BYTES, MAX_WRITES, Revision, Store, StoreError, Write, prefix_end};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// What a backup calls its format.
const FORMAT: &str = "basalt-backup/v1";
/// There while a restore is under way, so that what it has left half done is not served.
const UNFINISHED: &[u8] = b"/restore";

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// `basalt-backup/v1`.
    pub format: String,
    /// The revision that it is of.
    pub revision: Revision,
    /// How many objects are in it.
    pub objects: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    key: &'a str,
    /// The value, if it is JSON.
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    object: Option<&'a RawValue>,
    /// The value in base64, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tail {
    sha256: String,
}

/// A backup that was read and is whole.
#[derive(Debug)]
pub struct Backup {
    /// What it says of itself.
    pub head: Head,
    entries: Vec<(Bytes, Bytes)>,
}

/// What is wrong with a backup.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A line cannot be read.
    #[error("line {line} is not one of a {FORMAT}: {reason}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// It ends too early, or was changed.
    #[error("the backup is not whole: {0}")]
    NotWhole(String),
}

/// Why a backup was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// There is something already.
    #[error("the store is not empty: it has {key}. A backup is restored into an empty store; use another directory or etcd")]
    NotEmpty {
        /// One of the keys that it has.
        key: String,
    },
    /// The store failed. What is there is not served before a restore has ended.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Answers with a backup of the store as it is now.
pub async fn answer(store: &dyn Store) -> Result<Response<Body>, Status> {
    let root = keys::ROOT.as_bytes();
    let mut range = store.range(root, &prefix_end(root), 0).await?;
    range.entries.retain(|entry| entry.key != keys::MARK);
    let head = Head { format: FORMAT.into(), revision: range.revision, objects: range.entries.len() };
    let first = encode(&head)?;
    let mut hash = Sha256::new_with_prefix(&first);
    // The entries share their bytes with what was read; a line is made when it is sent.
    let mut entries = range.entries.into_iter();
    let mut ended = false;
    let rest = std::iter::from_fn(move || {
        let line = match entries.next() {
            Some(entry) => std::str::from_utf8(&entry.key)
                .map_err(|_| Status::new(Reason::InternalError, format!("the key {} is not text", entry.key.escape_ascii())))
                .and_then(|key| {
                    let object: Option<&RawValue> =
                        serde_json::from_slice(&entry.value).ok().filter(|v: &&RawValue| !v.get().contains('\n'));
                    encode(&Line { key, object, bytes: object.is_none().then(|| BASE64_STANDARD.encode(&entry.value)) })
                }),
            None if ended => return None,
            None => {
                ended = true;
                return Some(encode(&Tail { sha256: hex(&hash.clone().finalize()) }));
            }
        };
        if let Ok(line) = &line {
            hash.update(line);
        }
        Some(line)
    });
    let body = Body::from_stream(stream::iter(std::iter::once(Ok(first)).chain(rest)));
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

fn encode(line: &impl Serialize) -> Result<Bytes, Status> {
    let mut text =
        serde_json::to_vec(line).map_err(|error| Status::new(Reason::InternalError, format!("cannot encode a line: {error}")))?;
    text.push(b'\n');
    Ok(text.into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Backup {
    /// Reads a backup, to its end.
    pub fn read(backup: &[u8]) -> Result<Self, ReadError> {
        let Some(body) = backup.strip_suffix(b"\n") else {
            return Err(ReadError::NotWhole("its last line does not end".into()));
        };
        let (before, last) = body.split_at(body.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
        let lines = before.split_inclusive(|byte| *byte == b'\n').count();
        let Ok(tail) = serde_json::from_slice::<Tail>(last) else {
            return Err(ReadError::NotWhole(format!("it ends with line {}, which has no sha256", lines + 1)));
        };
        let found = hex(&Sha256::digest(before));
        if found != tail.sha256 {
            return Err(ReadError::NotWhole(format!("its SHA-256 is {found}, and its last line says {}", tail.sha256)));
        }
        let mut numbered = before.split_inclusive(|byte| *byte == b'\n').zip(1..);
        let wrong = |line: usize, reason: String| ReadError::Line { line, reason };
        let (first, number) = numbered.next().unwrap_or((b"", 1));
        let head: Head = serde_json::from_slice(first).map_err(|error| wrong(number, error.to_string()))?;
        if head.format != FORMAT {
            return Err(wrong(number, format!("its format is {:?}", head.format)));
        }
        let mut entries = Vec::with_capacity(head.objects.min(lines));
        for (line, number) in numbered {
            let Line { key, object, bytes } = serde_json::from_slice(line).map_err(|error| wrong(number, error.to_string()))?;
            if keys::split(key.as_bytes()).is_none() {
                return Err(wrong(number, format!("{key:?} is not the key of an object")));
            }
            let value = match (object, bytes) {
                (Some(object), None) => Bytes::copy_from_slice(object.get().as_bytes()),
                (None, Some(bytes)) => BASE64_STANDARD.decode(bytes).map_err(|error| wrong(number, error.to_string()))?.into(),
                _ => return Err(wrong(number, "it needs an object or bytes".into())),
            };
            entries.push((Bytes::copy_from_slice(key.as_bytes()), value));
        }
        if entries.len() != head.objects {
            return Err(ReadError::NotWhole(format!("it has {} objects, and its first line says {}", entries.len(), head.objects)));
        }
        Ok(Self { head, entries })
    }

    /// Writes all into a store that is empty, or in which an earlier restore did not end.
    pub async fn restore(&self, store: &dyn Store) -> Result<(), RestoreError> {
        let (root, again) = (keys::ROOT.as_bytes(), store.get(UNFINISHED).await?.is_some());
        loop {
            let left = store.range(root, &prefix_end(root), MAX_WRITES).await?.entries;
            let Some(one) = left.first() else { break };
            if !again {
                return Err(RestoreError::NotEmpty { key: one.key.escape_ascii().to_string() });
            }
            write(store, left.into_iter().map(|entry| (entry.key, Expect::Any, Action::Delete)).collect()).await?;
        }
        let mark = |action| vec![(Bytes::from_static(UNFINISHED), Expect::Any, action)];
        write(store, mark(Action::Put(Bytes::from_static(b"{}")))).await?;
        let mut batch = Vec::new();
        let mut size = 0;
        for (key, value) in &self.entries {
            size += key.len() + value.len();
            if batch.len() == MAX_WRITES || size > MAX_COMMIT_BYTES {
                write(store, std::mem::take(&mut batch)).await?;
                size = key.len() + value.len();
            }
            batch.push((key.clone(), Expect::Absent, Action::Put(value.clone())));
        }
        write(store, batch).await?;
        write(store, mark(Action::Delete)).await
    }
}

/// Whether what is in the store is what a restore left that did not end.
pub async fn is_unfinished(store: &dyn Store) -> Result<bool, StoreError> {
    Ok(store.get(UNFINISHED).await?.is_some())
}

async fn write(store: &dyn Store, writes: Vec<(Bytes, Expect, Action)>) -> Result<(), RestoreError> {
    if writes.is_empty() {
        return Ok(());
    }
    let writes = writes.into_iter().map(|(key, expect, action)| Write { key, expect, action }).collect();
    match store.commit(writes).await {
        Ok(_) => Ok(()),
        // Somebody else writes to it.
        Err(CommitError::Conflict { key, .. }) => Err(RestoreError::NotEmpty { key: key.escape_ascii().to_string() }),
        Err(CommitError::Store(error)) => Err(error.into()),
    }
}
