//! What every reconcile is run in: it is counted and timed by its controller, and what it is about is known to the client that
//! it writes with, so that the audit log names it as the cause.

use crate::{Context, waiting::Queues};
use basalt_daemon::traces;
use kube::{Resource, ResourceExt};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{fmt, time::Instant};
use tracing::{Instrument, Span, field::Empty};

/// Upper bounds of the buckets of reconciles, in seconds.
const SECONDS: [f64; 11] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    controller: &'static str,
    outcome: &'static str,
}

/// What is measured of the reconciles of all controllers. Clones are the same metrics.
#[derive(Clone)]
pub struct Metrics {
    durations: Family<Labels, Histogram, fn() -> Histogram>,
    outcomes: Family<Outcome, Counter>,
    under_way: Family<Labels, Gauge>,
    /// What waits to be reconciled.
    pub queues: Queues,
}

impl Default for Metrics {
    fn default() -> Self {
        let durations: Family<Labels, Histogram, fn() -> Histogram> = Family::new_with_constructor(|| Histogram::new(SECONDS));
        Self { durations, outcomes: Family::default(), under_way: Family::default(), queues: Queues::default() }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// Adds them to what is told.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("basalt_controller_reconcile_duration_seconds", "Time that reconciles took", self.durations.clone());
        registry.register("basalt_controller_reconciles", "Reconciles that ended, by how they ended", self.outcomes.clone());
        registry.register("basalt_controller_reconciles_in_flight", "Reconciles that are under way", self.under_way.clone());
        registry.register_collector(Box::new(self.queues.clone()));
    }
}

/// Ends the count of what is under way, also of a reconcile that is cut off.
struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The object that makes a part of the program act.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the API")]
pub struct Cause {
    /// The controller, or other part, that acts.
    pub controller: &'static str,
    pub group: String,
    pub plural: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub generation: Option<i64>,
}

impl Cause {
    /// An object that a part acts on account of.
    pub fn of<K: Resource<DynamicType = ()>>(controller: &'static str, object: &K) -> Self {
        Self {
            controller,
            group: K::group(&()).into_owned(),
            plural: K::plural(&()).into_owned(),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            uid: object.uid().unwrap_or_default(),
            generation: object.meta().generation,
        }
    }

    /// An object of which only the name is known.
    pub fn named<K: Resource<DynamicType = ()>>(controller: &'static str, name: &str) -> Self {
        let (group, plural) = (K::group(&()).into_owned(), K::plural(&()).into_owned());
        Self { controller, group, plural, namespace: String::new(), name: name.to_owned(), uid: String::new(), generation: None }
    }

    /// What this task acts on account of.
    pub fn current() -> Option<Self> {
        CAUSE.try_with(Self::clone).ok()
    }

    /// Does something on account of this.
    pub async fn act<T>(self, act: impl Future<Output = T>) -> T {
        CAUSE.scope(self, act).await
    }
}

tokio::task_local! {
    static CAUSE: Cause;
}

/// Runs the reconcile of an object by a controller, which `woken_by` has woken.
pub async fn reconcile<K: Resource<DynamicType = ()>, T, E>(
    controller: &'static str,
    context: &Context,
    object: &K,
    woken_by: &str,
    under_way: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let (metrics, labels) = (&context.metrics, Labels { controller });
    let gauge = metrics.under_way.get_or_create_owned(&labels);
    gauge.inc();
    let count = UnderWay(gauge);
    let begin = Instant::now();
    let cause = Cause::of(controller, object);
    let span = span(&cause, woken_by);
    let result = cause.act(under_way).instrument(span.clone()).await;
    if result.is_err() {
        span.record("otel.status_code", "ERROR");
    }
    metrics.durations.get_or_create(&labels).observe(begin.elapsed().as_secs_f64());
    let outcome = if result.is_ok() { "ok" } else { "error" };
    metrics.outcomes.get_or_create(&Outcome { controller, outcome }).inc();
    drop(count);
    result
}

fn span(cause: &Cause, woken_by: &str) -> Span {
    // The first of its trace: what woke it may be many things.
    tracing::info_span!(
        target: traces::TARGET,
        parent: None,
        "reconcile",
        otel.name = format!("reconcile {}", cause.controller),
        otel.status_code = Empty,
        basalt.controller = cause.controller,
        basalt.group = cause.group,
        basalt.resource = cause.plural,
        basalt.namespace = cause.namespace,
        basalt.name = cause.name,
        basalt.generation = cause.generation,
        basalt.woken_by = woken_by,
    )
}
