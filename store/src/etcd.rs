//! The etcd engine: an etcd cluster, by its v3 API.
//!
//! A revision is etcd's own. A commit is one transaction; a watch is etcd's, with the previous values.

use crate::{
    Action, Change, CommitError, Entry, Expect, Range, Revision, Store, StoreError, WatchError, WatchEvent, WatchStream, Write, limits,
};
use bytes::Bytes;
use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, EventType, GetOptions, KeyValue, KvClient, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use futures::{StreamExt, stream};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// How long etcd may take for a request.
const DEADLINE: Duration = Duration::from_secs(10);

/// A store in an etcd cluster.
pub struct Etcd {
    client: Client,
}

impl Etcd {
    /// Connects to a cluster and sees that it answers.
    pub async fn connect(endpoints: &[String]) -> Result<Arc<Self>, StoreError> {
        let open = |reason: String| StoreError::Open { place: endpoints.join(", "), reason };
        let options = ConnectOptions::new()
            .with_connect_timeout(DEADLINE)
            // Only while calls or watches are open, and not too often: etcd hangs up on those who ping more than that.
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5));
        let client = Client::connect(endpoints, Some(options)).await.map_err(|e| open(e.to_string()))?;
        let etcd = Self { client };
        etcd.revision().await.map_err(|e| open(e.to_string()))?;
        Ok(Arc::new(etcd))
    }

    /// Compacts, again and again, what is older than `keep`, for etcd keeps all history until it is told otherwise. Several may
    /// do this on one cluster. Runs until it is dropped.
    pub async fn forget(&self, keep: Duration) {
        loop {
            let then = self.revision().await;
            tokio::time::sleep(keep).await;
            let forgotten = match then {
                Ok(revision) => self.compact(revision).await,
                Err(error) => Err(error),
            };
            if let Err(error) = forgotten {
                tracing::warn!("etcd's history was not compacted, and is the next time: {error}");
            }
        }
    }

    /// A client whose answers may be as large as what is stored.
    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(usize::MAX)
    }

    async fn within<T>(operation: &'static str, request: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, StoreError> {
        match tokio::time::timeout(DEADLINE, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(StoreError::Engine { operation, reason: error.to_string() }),
            Err(_) => Err(StoreError::Engine { operation, reason: format!("etcd did not answer within {} s", DEADLINE.as_secs()) }),
        }
    }
}

#[async_trait::async_trait]
impl Store for Etcd {
    async fn revision(&self) -> Result<Revision, StoreError> {
        let mut client = self.kv();
        // A linearizable read: what it says was acknowledged by a quorum.
        let answer = Self::within("read the revision", client.get("\0", Some(GetOptions::new().with_keys_only()))).await?;
        Ok(answer.header().map_or(0, |header| revision(header.revision())))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        if !limits::is_key(key) {
            return Ok(None);
        }
        let answer = Self::within("read a key", self.kv().get(key, None)).await?;
        Ok(answer.kvs().first().map(entry))
    }

    async fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Range, StoreError> {
        let options = GetOptions::new().with_range(end).with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        if start >= end {
            return Ok(Range { entries: Vec::new(), revision: self.revision().await?, more: false });
        }
        let answer = Self::within("read a range", self.kv().get(start, Some(options))).await?;
        Ok(Range {
            entries: answer.kvs().iter().map(entry).collect(),
            revision: answer.header().map_or(0, |header| revision(header.revision())),
            more: answer.more(),
        })
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, CommitError> {
        limits::check(&writes)?;
        let compares: Vec<Compare> = writes.iter().filter_map(compare).collect();
        let changes: Vec<TxnOp> = writes
            .iter()
            .filter_map(|write| match &write.action {
                Action::Put(value) => Some(TxnOp::put(&write.key[..], &value[..], None)),
                Action::Delete => Some(TxnOp::delete(&write.key[..], None)),
                Action::Check => None,
            })
            .collect();
        // If a key is not as expected: how it is, so that the caller need not ask again.
        let looks: Vec<TxnOp> = writes.iter().map(|write| TxnOp::get(&write.key[..], None)).collect();
        let txn = Txn::new().when(compares).and_then(changes).or_else(looks);
        let answer = Self::within("commit", self.kv().txn(txn)).await?;
        if answer.succeeded() {
            return Ok(answer.header().map_or(0, |header| revision(header.revision())));
        }
        let found = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(range) => range.kvs().first().map(entry),
            _ => None,
        });
        let conflict = writes.iter().zip(found).find(|(write, current)| !as_expected(write.expect, current.as_ref()));
        match conflict {
            Some((write, current)) => Err(CommitError::Conflict { key: write.key.clone(), current }),
            None => {
                Err(StoreError::Engine { operation: "commit", reason: "etcd refused a transaction whose expectations hold".into() }.into())
            }
        }
    }

    async fn watch(&self, prefix: &[u8], after: Revision) -> Result<WatchStream, WatchError> {
        // From that commit on, not from the one after it, and it is passed over: etcd refuses this if anything later is
        // compacted, and only then. Of the very revision that it has compacted up to, it may have forgotten deletions.
        let start = i64::try_from(after.max(1)).unwrap_or(i64::MAX);
        let options = WatchOptions::new().with_prefix().with_start_revision(start).with_prev_key().with_progress_notify();
        let mut client = self.client.watch_client().max_decoding_message_size(usize::MAX);
        let mut watch = Self::within("watch", client.watch(prefix, Some(options))).await?;
        // Its first answer says that the watch is made; that the history is gone, it says in this one or in the next.
        let first = Self::within("watch", watch.message()).await?;
        let mut ready = VecDeque::new();
        if let Some(first) = first {
            take(&first, after, &mut ready)?;
        }
        let follow = stream::unfold(Some((watch, ready, after)), |state| async move {
            let (mut watch, mut ready, after) = state?;
            loop {
                if let Some(event) = ready.pop_front() {
                    return Some((Ok(event), Some((watch, ready, after))));
                }
                let error = match watch.message().await {
                    Ok(Some(answer)) => match take(&answer, after, &mut ready) {
                        Ok(()) => continue,
                        Err(error) => error,
                    },
                    Ok(None) => StoreError::Engine { operation: "watch", reason: "etcd ended the watch".into() }.into(),
                    Err(error) => StoreError::Engine { operation: "watch", reason: error.to_string() }.into(),
                };
                return Some((Err(error), None));
            }
        });
        Ok(follow.boxed())
    }

    async fn compact(&self, wanted: Revision) -> Result<(), StoreError> {
        let newest = self.revision().await?;
        if wanted > newest {
            return Err(StoreError::Revision { asked: wanted, reason: format!("the newest is {newest}") });
        }
        if wanted == 0 {
            return Ok(());
        }
        let asked = i64::try_from(wanted).unwrap_or(i64::MAX);
        match Self::within("compact", self.kv().compact(asked, None)).await {
            // Compacted to there or further already.
            Err(StoreError::Engine { reason, .. }) if reason.contains("has been compacted") => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Takes the commits out of an answer of etcd's: its events, grouped by revision.
fn take(answer: &etcd_client::WatchResponse, after: Revision, ready: &mut VecDeque<WatchEvent>) -> Result<(), WatchError> {
    if answer.compact_revision() > 0 {
        return Err(WatchError::Compacted { asked: after, oldest: revision(answer.compact_revision()) });
    }
    if answer.canceled() {
        return Err(StoreError::Engine { operation: "watch", reason: answer.cancel_reason().to_owned() }.into());
    }
    for event in answer.events() {
        let Some(kv) = event.kv() else { continue };
        let at = revision(kv.mod_revision());
        if at <= after {
            continue;
        }
        let previous = event.prev_kv().map(entry);
        let change = match event.event_type() {
            EventType::Put => Change::Put { entry: entry(kv), previous },
            EventType::Delete => Change::Delete { key: Bytes::copy_from_slice(kv.key()), previous },
        };
        match ready.back_mut() {
            Some(last) if last.revision == at => last.changes.push(change),
            _ => ready.push_back(WatchEvent { revision: at, changes: vec![change] }),
        }
    }
    if answer.events().is_empty() && !answer.created() {
        let at = answer.header().map_or(0, |header| revision(header.revision()));
        if at > after {
            ready.push_back(WatchEvent { revision: at, changes: Vec::new() });
        }
    }
    Ok(())
}

fn compare(write: &Write) -> Option<Compare> {
    let expected = match write.expect {
        Expect::Any => return None,
        Expect::Absent => 0,
        // No key was written at revision 0, which to etcd means that it is absent.
        Expect::At(0) => i64::MAX,
        Expect::At(revision) => i64::try_from(revision).unwrap_or(i64::MAX),
    };
    Some(Compare::mod_revision(&write.key[..], CompareOp::Equal, expected))
}

fn as_expected(expect: Expect, current: Option<&Entry>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::At(revision) => current.is_some_and(|entry| entry.modified == revision),
    }
}

fn entry(kv: &KeyValue) -> Entry {
    Entry {
        key: Bytes::copy_from_slice(kv.key()),
        value: Bytes::copy_from_slice(kv.value()),
        created: revision(kv.create_revision()),
        modified: revision(kv.mod_revision()),
    }
}

/// etcd's revisions are positive.
fn revision(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or(0)
}
