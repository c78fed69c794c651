//! A store whose operations are timed.

use super::Metrics;
use basalt_daemon::traces;
use basalt_store::{CommitError, Entry, Previous, Range, Revision, Store, StoreError, WatchError, WatchStream, Write};
use std::{sync::Arc, time::Instant};
use tracing::{Instrument, field::Empty};

/// Passes everything on and measures how long it took. A watch is only timed until it begins.
pub struct Timed {
    store: Arc<dyn Store>,
    metrics: Metrics,
}

impl Timed {
    /// Times the operations of a store.
    pub fn new(store: Arc<dyn Store>, metrics: Metrics) -> Self {
        Self { store, metrics }
    }

    async fn time<T, E>(
        &self,
        operation: &'static str,
        outcome: impl FnOnce(&E) -> &'static str,
        under_way: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let begin = Instant::now();
        let result = under_way.await;
        let outcome = result.as_ref().map_or_else(outcome, |_| "ok");
        self.metrics.stored(operation, outcome, begin.elapsed().as_secs_f64());
        result
    }
}

fn failed<E>(_: &E) -> &'static str {
    "error"
}

#[async_trait::async_trait]
impl Store for Timed {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.time("revision", failed, self.store.revision()).await
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.time("get", failed, self.store.get(key)).await
    }

    async fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Range, StoreError> {
        self.time("range", failed, self.store.range(start, end, limit)).await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, CommitError> {
        // That somebody was faster is no failure of the store.
        let outcome = |error: &CommitError| if matches!(error, CommitError::Conflict { .. }) { "conflict" } else { "error" };
        let span = tracing::info_span!(
            target: traces::TARGET,
            "store commit",
            otel.kind = "client",
            otel.status_code = Empty,
            basalt.writes = writes.len(),
            basalt.revision = Empty,
            basalt.outcome = Empty,
        );
        let committed = self.time("commit", outcome, self.store.commit(writes)).instrument(span.clone()).await;
        match &committed {
            Ok(revision) => span.record("basalt.revision", *revision).record("basalt.outcome", "ok"),
            Err(error @ CommitError::Conflict { .. }) => span.record("basalt.outcome", outcome(error)),
            Err(error) => span.record("basalt.outcome", outcome(error)).record("otel.status_code", "ERROR"),
        };
        committed
    }

    async fn watch(&self, prefix: &[u8], after: Revision, previous: Previous) -> Result<WatchStream, WatchError> {
        self.time("watch", failed, self.store.watch(prefix, after, previous)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.time("compact", failed, self.store.compact(revision)).await
    }
}
