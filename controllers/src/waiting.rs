//! What waits to be reconciled: `kube_runtime` does not tell, so it is counted at its doors.
//!
//! An object waits from the moment that something wakes its controller, or that the time comes at which it is to be looked at
//! again, until its reconcile begins. However often it is woken, it waits once, as in the controller's own queue.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

/// An object of the controller's kind: its namespace, and its name.
pub type Key = (Option<String>, String);

/// What waits for one controller.
#[derive(Debug)]
pub struct Waiting {
    controller: &'static str,
    /// When each may be reconciled, and what it was that woke the controller first.
    objects: Mutex<HashMap<Key, (Instant, String)>>,
}

impl Waiting {
    /// An object is to be reconciled: `after` so long, on account of `cause`.
    pub fn put(&self, key: Key, after: Duration, cause: String) {
        // What is never due is not waited for.
        let Some(due) = Instant::now().checked_add(after) else { return };
        let mut objects = self.lock();
        let entry = objects.entry(key).or_insert_with(|| (due, cause.clone()));
        if due < entry.0 {
            *entry = (due, cause);
        }
    }

    /// An object is being reconciled, or there is none of that name; says what it waited on account of.
    pub fn take(&self, key: &Key) -> Option<String> {
        self.lock().remove(key).map(|(_, cause)| cause)
    }

    /// How many wait, and for how long the first has.
    pub fn now(&self) -> (usize, Duration) {
        let now = Instant::now();
        let objects = self.lock();
        let due = objects.values().map(|(due, _)| *due).filter(|due| *due <= now);
        due.fold((0, Duration::ZERO), |(count, oldest), due| (count + 1, oldest.max(now - due)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, (Instant, String)>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What waits for each controller that runs. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Queues(Arc<Mutex<Vec<Weak<Waiting>>>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    controller: &'static str,
}

impl Queues {
    /// One more controller, for as long as it runs.
    pub fn open(&self, controller: &'static str) -> Arc<Waiting> {
        let waiting = Arc::new(Waiting { controller, objects: Mutex::default() });
        let mut all = self.lock();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&waiting));
        waiting
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Waiting>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Queues {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let running: Vec<_> = self.lock().iter().filter_map(Weak::upgrade).collect();
        let seen: Vec<_> = running.iter().map(|waiting| (Labels { controller: waiting.controller }, waiting.now())).collect();
        let mut family = |name: &str, help: &str, value: &dyn Fn(&(usize, Duration)) -> f64| {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            seen.iter().try_for_each(|(labels, now)| ConstGauge::new(value(now)).encode(family.encode_family(labels)?))
        };
        family("basalt_controller_queue_depth", "Objects that wait to be reconciled.", &|(count, _)| count_of(*count))?;
        let oldest = "Time that the object which waits longest to be reconciled has waited.";
        family("basalt_controller_queue_oldest_seconds", oldest, &|(_, oldest)| oldest.as_secs_f64())
    }
}

/// Exact: there are never 2^32 objects.
fn count_of(count: usize) -> f64 {
    u32::try_from(count).unwrap_or(u32::MAX).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        (None, name.to_owned())
    }

    #[test]
    fn an_object_waits_once_from_the_first_time_on_and_not_before_its_time() {
        let waiting = Queues::default().open("c");
        waiting.put(key("later"), Duration::from_secs(3600), "again".into());
        assert_eq!(waiting.now().0, 0);
        waiting.put(key("later"), Duration::ZERO, "changed".into());
        waiting.put(key("other"), Duration::ZERO, "first".into());
        waiting.put(key("other"), Duration::ZERO, "second".into());
        waiting.put(key("never"), Duration::MAX, "again".into());
        assert_eq!(waiting.now().0, 2);
        assert_eq!((waiting.take(&key("later")).unwrap(), waiting.take(&key("other")).unwrap()), ("changed".into(), "first".into()));
        assert_eq!(waiting.now(), (0, Duration::ZERO));
    }

    #[test]
    fn the_controllers_that_run_are_told_of_and_no_others() {
        let queues = Queues::default();
        let text = || {
            let (mut registry, mut text) = (prometheus_client::registry::Registry::default(), String::new());
            registry.register_collector(Box::new(queues.clone()));
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        let one = queues.open("one");
        let two = queues.open("two");
        one.put(key("a"), Duration::ZERO, String::new());
        let told = text();
        assert!(told.contains("basalt_controller_queue_depth{controller=\"one\"} 1.0\n"), "{told}");
        assert!(told.contains("basalt_controller_queue_depth{controller=\"two\"} 0.0\n"), "{told}");
        assert!(told.contains("basalt_controller_queue_oldest_seconds{controller=\"two\"} 0.0\n"), "{told}");
        drop(two);
        assert!(!text().contains("two"));
    }
}
