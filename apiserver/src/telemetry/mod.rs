//! What the API server measures of itself, and `/metrics`, which tells it in the text format of Prometheus.
//!
//! A client cannot make the number of series grow: labels are verbs, codes and the names of kinds that are served. What a
//! path names otherwise is folded into the empty name.

mod store;

pub use store::Timed;

use crate::registry::ResourceDef;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// The media type of OpenMetrics, which Prometheus asks for first.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The media type of the older text format, which everything reads.
pub const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Upper bounds of the buckets of requests, in seconds.
const REQUEST_SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Upper bounds of the buckets of the store's operations, in seconds.
const STORE_SECONDS: [f64; 12] = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    pub verb: &'static str,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    group: String,
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlightLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    operation: &'static str,
    outcome: &'static str,
}

/// All that is measured. Clones are the same metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    requests: Histograms<RequestLabels>,
    in_flight: Family<InFlightLabels, Gauge>,
    watches: Family<KindLabels, Gauge>,
    watches_dropped: Family<KindLabels, Counter>,
    store: Histograms<StoreLabels>,
    store_revision: Gauge,
    cache_revision: Gauge,
    cache_lag: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Arc::default(),
            requests: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
            in_flight: Family::default(),
            watches: Family::default(),
            watches_dropped: Family::default(),
            store: Family::new_with_constructor(|| Histogram::new(STORE_SECONDS)),
            store_revision: Gauge::default(),
            cache_revision: Gauge::default(),
            cache_lag: Gauge::default(),
        };
        metrics.register(|registry| {
            registry.register(
                "basalt_api_request_duration_seconds",
                "Time until a request was answered; of a watch, until it began",
                metrics.requests.clone(),
            );
            registry.register("basalt_api_requests_in_flight", "Requests that are not answered yet", metrics.in_flight.clone());
            registry.register("basalt_api_watches", "Watches that are open", metrics.watches.clone());
            registry.register(
                "basalt_api_watches_dropped",
                "Watches ended because their client did not keep up",
                metrics.watches_dropped.clone(),
            );
            registry.register("basalt_store_operation_duration_seconds", "Time that operations of the store took", metrics.store.clone());
            registry.register("basalt_store_revision", "Newest revision of the store", metrics.store_revision.clone());
            registry.register(
                "basalt_api_cache_revision",
                "Revision up to which the watch cache has everything",
                metrics.cache_revision.clone(),
            );
            registry.register(
                "basalt_api_cache_lag_revisions",
                "Revisions that the watch cache is behind the store",
                metrics.cache_lag.clone(),
            );
        });
        metrics
    }
}

impl Metrics {
    /// Adds what others measure.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn answered(&self, labels: &RequestLabels, seconds: f64) {
        self.requests.get_or_create(labels).observe(seconds);
    }

    /// Requests that are not answered yet, of those that write or of those that do not.
    pub(crate) fn in_flight(&self, writes: bool) -> Counted {
        Counted::one_more(self.in_flight.get_or_create_owned(&InFlightLabels { kind: if writes { "mutating" } else { "readonly" } }))
    }

    pub(crate) fn watch(&self, def: &ResourceDef) -> Counted {
        Counted::one_more(self.watches.get_or_create_owned(&kind(def)))
    }

    pub(crate) fn watch_dropped(&self, def: &ResourceDef) {
        self.watches_dropped.get_or_create(&kind(def)).inc();
    }

    pub(crate) fn revisions(&self, store: Option<u64>, cache: u64) {
        let number = |revision: u64| i64::try_from(revision).unwrap_or(i64::MAX);
        self.cache_revision.set(number(cache));
        if let Some(store) = store {
            self.store_revision.set(number(store));
            self.cache_lag.set(number(store.saturating_sub(cache)));
        }
    }

    fn stored(&self, operation: &'static str, outcome: &'static str, seconds: f64) {
        self.store.get_or_create(&StoreLabels { operation, outcome }).observe(seconds);
    }

    /// All of it as text, in OpenMetrics or in the older format.
    pub fn text(&self, openmetrics: bool) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry.lock().unwrap_or_else(PoisonError::into_inner))?;
        Ok(if openmetrics { out } else { plain(&out) })
    }
}

fn kind(def: &ResourceDef) -> KindLabels {
    KindLabels { group: def.group.clone(), resource: def.plural.clone() }
}

/// One more in a gauge for as long as this lives.
pub(crate) struct Counted(Gauge);

impl Counted {
    fn one_more(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The older text format names a counter with its suffix everywhere, and knows neither units nor an end.
fn plain(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    let mut help = "";
    for line in openmetrics.lines() {
        if line.starts_with("# HELP ") {
            help = line;
            continue;
        }
        if line.starts_with("# UNIT ") || line == "# EOF" {
            continue;
        }
        let Some((name, type_)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.rsplit_once(' ')) else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let text = help.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')).map_or("", |(_, text)| text);
        let suffix = if type_ == "counter" { "_total" } else { "" };
        out.push_str(&format!("# HELP {name}{suffix} {text}\n# TYPE {name}{suffix} {type_}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format_names_counters_in_full_and_has_no_end() {
        let metrics = Metrics::default();
        metrics.watches_dropped.get_or_create(&KindLabels { group: "g".into(), resource: "r".into() }).inc();
        let text = metrics.text(false).unwrap();
        assert!(
            text.contains(
                "# TYPE basalt_api_watches_dropped_total counter\nbasalt_api_watches_dropped_total{group=\"g\",resource=\"r\"} 1\n"
            ),
            "{text}"
        );
        assert!(text.contains("# TYPE basalt_api_cache_lag_revisions gauge\nbasalt_api_cache_lag_revisions 0\n"), "{text}");
        assert!(!text.contains("# EOF") && metrics.text(true).unwrap().ends_with("# EOF\n"));
    }
}
