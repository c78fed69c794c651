//! Group commit: the commits that wait while etcd is busy go to it together, as one transaction with a transaction of its own for
//! each, which succeeds or fails by itself. etcd then has one entry to replicate and to sync to disk for all of them.

use super::{revision, within};
use crate::{Action, CommitError, Entry, Expect, Revision, StoreError, Write};
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, KvClient, Txn, TxnOp, TxnOpResponse, TxnResponse};
use std::{collections::HashSet, collections::VecDeque, sync::Arc};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// How many commits a transaction takes. With [`SMALL`] it stays within etcd's `--max-txn-ops` of 128, which holds for the number of
/// the commits and the operations of any of them together.
const TOGETHER: usize = 100;
const _: () = assert!(TOGETHER <= revision::COMMITS as usize && TOGETHER + SMALL <= crate::MAX_WRITES);
/// How many writes a commit may have to share a transaction.
const SMALL: usize = 8;
/// How large the commits of a transaction may be together; a larger one has it for itself.
const TOGETHER_BYTES: usize = 512 << 10;
/// How many transactions are under way at once: while etcd syncs one to disk, the next is on its way.
const UNDER_WAY: usize = 2;
/// How many commits wait before those who commit do.
const WAITING: usize = 1024;

/// A commit that waits.
struct Waiting {
    writes: Vec<Write>,
    done: oneshot::Sender<Result<Revision, CommitError>>,
}

/// Takes commits.
pub struct Commits {
    queue: mpsc::Sender<Waiting>,
}

impl Commits {
    /// Commits by this client until it is dropped.
    pub fn start(client: KvClient) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING);
        tokio::spawn(run(client, waiting));
        Self { queue }
    }

    /// Makes a commit that is within the limits of all stores.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<Revision, CommitError> {
        let (done, outcome) = oneshot::channel();
        self.queue.send(Waiting { writes, done }).await.map_err(|_| StoreError::Closed)?;
        let unknown = |_| StoreError::Engine { operation: "commit", reason: "the store is shutting down".into() };
        outcome.await.map_err(unknown)?
    }
}

async fn run(client: KvClient, mut queue: mpsc::Receiver<Waiting>) {
    let slots = Arc::new(Semaphore::new(UNDER_WAY));
    let mut waiting = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Some(first) = queue.recv().await else { return };
            waiting.push_back(first);
        }
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        while waiting.len() < WAITING
            && let Ok(next) = queue.try_recv()
        {
            waiting.push_back(next);
        }
        let together = choose(&mut waiting);
        let client = client.clone();
        tokio::spawn(async move {
            send(client, together).await;
            drop(slot);
        });
    }
}

/// Takes out of the queue what goes into the next transaction: the first that waits and those behind it that go with it.
fn choose(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut together: Vec<Waiting> = Vec::new();
    let mut bytes = 0;
    let mut touched: HashSet<Bytes> = HashSet::new();
    let mut written: HashSet<Bytes> = HashSet::new();
    let mut left = VecDeque::new();
    while let Some(next) = waiting.pop_front() {
        if together.is_empty() && !is_small(&next.writes) {
            together.push(next);
            break;
        }
        let size: usize = next.writes.iter().map(|write| write.key.len() + put(write).map_or(0, <[u8]>::len)).sum();
        // Each is judged by the state before the transaction: nobody's expectation may be of a key that another writes.
        let apart = next
            .writes
            .iter()
            .all(|write| if put(write).is_some() { !touched.contains(&write.key) } else { !written.contains(&write.key) });
        let fits = together.is_empty() || (is_small(&next.writes) && bytes + size <= TOGETHER_BYTES && apart);
        if !fits {
            left.push_back(next);
            continue;
        }
        bytes += size;
        for write in &next.writes {
            touched.insert(write.key.clone());
            if put(write).is_some() {
                written.insert(write.key.clone());
            }
        }
        together.push(next);
        if together.len() == TOGETHER {
            break;
        }
    }
    left.append(waiting);
    *waiting = left;
    together
}

/// Whether a commit can share a transaction: it deletes nothing, for a deletion's place could not be told.
fn is_small(writes: &[Write]) -> bool {
    writes.len() <= SMALL && writes.iter().all(|write| write.action != Action::Delete)
}

fn put(write: &Write) -> Option<&[u8]> {
    match &write.action {
        Action::Put(value) => Some(value),
        Action::Delete | Action::Check => None,
    }
}

async fn send(mut client: KvClient, together: Vec<Waiting>) {
    let mut transactions: Vec<Txn> = together.iter().zip(0..).map(|(waiting, place)| transaction(&waiting.writes, place)).collect();
    let only = if transactions.len() == 1 { transactions.pop() } else { None };
    let nested = only.is_none();
    let whole = only.unwrap_or_else(|| Txn::new().and_then(transactions.into_iter().map(TxnOp::txn).collect::<Vec<_>>()));
    let answer = match within("commit", client.txn(whole)).await {
        Ok(answer) => answer,
        Err(error) => {
            for waiting in together {
                // Who asked may have gone, here and below.
                let _ = waiting.done.send(Err(error.clone().into()));
            }
            return;
        }
    };
    let etcd = answer.header().map_or(0, |header| header.revision());
    let answers = if nested { answer.op_responses() } else { vec![TxnOpResponse::Txn(answer)] };
    let mut answers = answers.into_iter();
    for (waiting, place) in together.into_iter().zip(0..) {
        let outcome = match answers.next() {
            Some(TxnOpResponse::Txn(answer)) if answer.succeeded() && changed(&answer) => Ok(revision::of_commit(etcd, place)),
            Some(TxnOpResponse::Txn(answer)) if answer.succeeded() => Ok(revision::after_all_of(etcd)),
            Some(TxnOpResponse::Txn(answer)) => Err(conflict(&waiting.writes, &answer)),
            _ => Err(unexpected("etcd did not answer to each part of a transaction")),
        };
        let _ = waiting.done.send(outcome);
    }
}

/// A commit as a transaction: if a key is not as expected, it tells how it is, so that nobody need ask again.
fn transaction(writes: &[Write], place: u8) -> Txn {
    let compares: Vec<Compare> = writes.iter().filter_map(compare).collect();
    let changes: Vec<TxnOp> = writes
        .iter()
        .filter_map(|write| match &write.action {
            Action::Put(value) => Some(TxnOp::put(&write.key[..], revision::marked(value, place), None)),
            Action::Delete => Some(TxnOp::delete(&write.key[..], None)),
            Action::Check => None,
        })
        .collect();
    let looks: Vec<TxnOp> = writes.iter().map(|write| TxnOp::get(&write.key[..], None)).collect();
    Txn::new().when(compares).and_then(changes).or_else(looks)
}

fn compare(write: &Write) -> Option<Compare> {
    let expected = match write.expect {
        Expect::Any => return None,
        Expect::Absent => 0,
        // No key was written at revision 0, which to etcd means that it is absent.
        Expect::At(revision) => match revision::in_etcd(revision) {
            0 => i64::MAX,
            etcd => etcd,
        },
    };
    Some(Compare::mod_revision(&write.key[..], CompareOp::Equal, expected))
}

/// Whether a transaction that was made changed anything.
fn changed(answer: &TxnResponse) -> bool {
    answer.op_responses().iter().any(|response| match response {
        TxnOpResponse::Put(_) => true,
        TxnOpResponse::Delete(deleted) => deleted.deleted() > 0,
        TxnOpResponse::Get(_) | TxnOpResponse::Txn(_) => false,
    })
}

fn conflict(writes: &[Write], answer: &TxnResponse) -> CommitError {
    let found = answer.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Get(range) => range.kvs().first().map(revision::entry),
        _ => None,
    });
    match writes.iter().zip(found).find(|(write, current)| !as_expected(write.expect, current.as_ref())) {
        Some((write, current)) => CommitError::Conflict { key: write.key.clone(), current },
        None => unexpected("etcd refused a transaction whose expectations hold"),
    }
}

fn unexpected(reason: &str) -> CommitError {
    StoreError::Engine { operation: "commit", reason: reason.into() }.into()
}

fn as_expected(expect: Expect, current: Option<&Entry>) -> bool {
    match expect {
        Expect::Any => true,
        Expect::Absent => current.is_none(),
        Expect::At(revision) => current.is_some_and(|entry| revision::in_etcd(entry.modified) == revision::in_etcd(revision)),
    }
}
