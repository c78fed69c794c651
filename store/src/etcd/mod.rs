//! The etcd engine: an etcd cluster, by its v3 API.
//!
//! A commit is a transaction, or a part of one that it shares with others (see [`commits`]); a watch is etcd's.
//! How revisions come of etcd's, [`revision`] says.

mod commits;
mod revision;

use crate::{Change, CommitError, Entry, Previous, Range, Revision, Store, StoreError, WatchError, WatchEvent, WatchStream, Write, limits};
use bytes::Bytes;
use commits::Commits;
use etcd_client::{Client, ConnectOptions, EventType, GetOptions, KvClient, WatchOptions};
use futures::{StreamExt, stream};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tonic::Code;

/// How long etcd may take for a request.
const DEADLINE: Duration = Duration::from_secs(10);
/// How soon what reads is asked again after a connection was lost.
const AGAIN: Duration = Duration::from_millis(50);

/// A store in an etcd cluster.
pub struct Etcd {
    client: Client,
    commits: Commits,
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
        let commits = Commits::start(kv(&client));
        let etcd = Self { client, commits };
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
}

/// A client whose answers may be as large as what is stored.
fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(usize::MAX)
}

async fn within<T>(operation: &'static str, request: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(StoreError::Engine { operation, reason: error.to_string() }),
        Err(_) => Err(StoreError::Engine { operation, reason: format!("etcd did not answer within {} s", DEADLINE.as_secs()) }),
    }
}

/// The same for what only reads: it is asked again, of another member, when the connection to one was lost.
async fn reading<T, F>(operation: &'static str, request: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, etcd_client::Error>>,
{
    let lost = |error: &etcd_client::Error| match error {
        etcd_client::Error::GRpcStatus(status) => matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown),
        error => matches!(error, etcd_client::Error::TransportError(_)),
    };
    let asking = async {
        loop {
            match request().await {
                Err(error) if lost(&error) => tokio::time::sleep(AGAIN).await,
                other => return other,
            }
        }
    };
    within(operation, asking).await
}

#[async_trait::async_trait]
impl Store for Etcd {
    async fn revision(&self) -> Result<Revision, StoreError> {
        // A linearizable read: what it says was acknowledged by a quorum.
        let answer = reading("read the revision", || {
            let mut client = kv(&self.client);
            async move { client.get("\0", Some(GetOptions::new().with_keys_only())).await }
        })
        .await?;
        Ok(answer.header().map_or(0, |header| revision::after_all_of(header.revision())))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        if !limits::is_key(key) {
            return Ok(None);
        }
        let answer = reading("read a key", || {
            let mut client = kv(&self.client);
            async move { client.get(key, None).await }
        })
        .await?;
        Ok(answer.kvs().first().map(revision::entry))
    }

    async fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Range, StoreError> {
        let options = GetOptions::new().with_range(end).with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        if start >= end {
            return Ok(Range { entries: Vec::new(), revision: self.revision().await?, more: false });
        }
        let answer = reading("read a range", || {
            let (mut client, options) = (kv(&self.client), options.clone());
            async move { client.get(start, Some(options)).await }
        })
        .await?;
        Ok(Range {
            entries: answer.kvs().iter().map(revision::entry).collect(),
            revision: answer.header().map_or(0, |header| revision::after_all_of(header.revision())),
            more: answer.more(),
        })
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, CommitError> {
        limits::check(&writes)?;
        self.commits.commit(writes).await
    }

    async fn watch(&self, prefix: &[u8], after: Revision, previous: Previous) -> Result<WatchStream, WatchError> {
        // From that commit on, not from the one after it, and it is passed over: etcd refuses this if anything later is
        // compacted, and only then. Of the very revision that it has compacted up to, it may have forgotten deletions.
        let start = revision::in_etcd(after).max(1);
        let mut options = WatchOptions::new().with_prefix().with_start_revision(start).with_progress_notify();
        if previous == Previous::Told {
            options = options.with_prev_key();
        }
        let mut client = self.client.watch_client().max_decoding_message_size(usize::MAX);
        let mut watch = within("watch", client.watch(prefix, Some(options))).await?;
        // Its first answer says that the watch is made; that the history is gone, it says in this one or in the next.
        let first = within("watch", watch.message()).await?;
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
        if revision::in_etcd(wanted) == 0 {
            return Ok(());
        }
        match within("compact", kv(&self.client).compact(revision::in_etcd(wanted), None)).await {
            // Compacted to there or further already.
            Err(StoreError::Engine { reason, .. }) if reason.contains("has been compacted") => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Takes the commits out of an answer of etcd's: its events, grouped by revision. An answer has all events of each transaction in it.
fn take(answer: &etcd_client::WatchResponse, after: Revision, ready: &mut VecDeque<WatchEvent>) -> Result<(), WatchError> {
    if answer.compact_revision() > 0 {
        return Err(WatchError::Compacted { asked: after, oldest: revision::after_all_of(answer.compact_revision()) });
    }
    if answer.canceled() {
        return Err(StoreError::Engine { operation: "watch", reason: answer.cancel_reason().to_owned() }.into());
    }
    let mut all_of = None;
    for event in answer.events() {
        let Some(kv) = event.kv() else { continue };
        let previous = event.prev_kv().map(revision::entry);
        let (at, change) = match event.event_type() {
            EventType::Put => {
                let entry = revision::entry(kv);
                (entry.modified, Change::Put { entry, previous })
            }
            EventType::Delete => {
                let key = Bytes::copy_from_slice(kv.key());
                (revision::of_commit(kv.mod_revision(), 0), Change::Delete { key, previous })
            }
        };
        if all_of.is_some_and(|before| before != kv.mod_revision()) {
            have_all_of(&mut all_of, after, ready);
        }
        all_of = Some(kv.mod_revision());
        if at <= after {
            continue;
        }
        match ready.back_mut() {
            Some(last) if last.revision == at => last.changes.push(change),
            _ => ready.push_back(WatchEvent { revision: at, changes: vec![change] }),
        }
    }
    if answer.events().is_empty() && !answer.created() {
        all_of = answer.header().map(|header| header.revision());
    }
    have_all_of(&mut all_of, after, ready);
    Ok(())
}

/// Says that there is no more to come of a transaction.
fn have_all_of(etcd: &mut Option<i64>, after: Revision, ready: &mut VecDeque<WatchEvent>) {
    let at = etcd.take().map_or(0, revision::after_all_of);
    if at > after {
        ready.push_back(WatchEvent { revision: at, changes: Vec::new() });
    }
}
