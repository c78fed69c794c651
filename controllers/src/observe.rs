//! What every reconcile is run in: it is counted and timed by its controller.

use crate::Context;
use kube::runtime::controller::Action;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{fmt, time::Instant};

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
}

impl Default for Metrics {
    fn default() -> Self {
        let durations: Family<Labels, Histogram, fn() -> Histogram> = Family::new_with_constructor(|| Histogram::new(SECONDS));
        Self { durations, outcomes: Family::default(), under_way: Family::default() }
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
    }
}

/// Ends the count of what is under way, also of a reconcile that is cut off.
struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Runs a reconcile of a controller.
pub async fn reconcile<E>(
    controller: &'static str,
    context: &Context,
    under_way: impl Future<Output = Result<Action, E>>,
) -> Result<Action, E> {
    let (metrics, labels) = (&context.metrics, Labels { controller });
    let gauge = metrics.under_way.get_or_create_owned(&labels);
    gauge.inc();
    let count = UnderWay(gauge);
    let begin = Instant::now();
    let result = under_way.await;
    metrics.durations.get_or_create(&labels).observe(begin.elapsed().as_secs_f64());
    let outcome = if result.is_ok() { "ok" } else { "error" };
    metrics.outcomes.get_or_create(&Outcome { controller, outcome }).inc();
    drop(count);
    result
}
