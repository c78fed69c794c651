//! How much one may ask at once, and all together: [`admission`] decides, and here is waited.
//!
//! Parts of this program are not held up, so that no client can hold up the hosts and the controllers; nor is whoever asks for
//! health.

mod admission;
mod bucket;

use crate::{
    error::{Details, Reason, Status},
    identity::Identity,
    telemetry::Metrics,
};
pub use admission::Class;
use admission::{Admission, Answer, Refusal, Room, Ticket, Who};
use axum::{body::Body, http::Response};
pub use bucket::Rate;
use futures::StreamExt;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::oneshot, time::Instant};

/// How much may be asked.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How fast an identity may write.
    pub writes: Rate,
    /// How fast an identity may read.
    pub reads: Rate,
    /// How fast those may ask who have not said who they are, all of them together.
    pub anonymous: Rate,
    /// How many writes, and how many reads, of an identity are worked on at once.
    pub in_flight_per_identity: usize,
    /// How many requests are worked on at once.
    pub in_flight: usize,
    /// How many writes, and how many reads, of an identity may wait for that.
    pub waiting_per_identity: usize,
    /// How long they wait.
    pub patience: Duration,
    /// How many watches of an identity may be open.
    pub watches_per_identity: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            writes: Rate::UNLIMITED,
            reads: Rate::UNLIMITED,
            anonymous: Rate::per_second(50),
            in_flight_per_identity: 256,
            in_flight: 1024,
            waiting_per_identity: 1024,
            patience: Duration::from_secs(10),
            watches_per_identity: 10_000,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    reason: &'static str,
}

/// Where requests wait until they may go on.
pub struct Gate {
    inner: Mutex<Inner>,
    patience: Duration,
    waiting: Gauge,
    refused: Family<Why, Counter>,
}

struct Inner {
    admission: Admission,
    /// Those who wait. Who is not here any more has been given a place.
    calls: HashMap<Ticket, oneshot::Sender<()>>,
}

impl Inner {
    fn call(&mut self, lucky: Vec<Ticket>) {
        for ticket in lucky {
            if let Some(call) = self.calls.remove(&ticket) {
                // Whoever does not hear it is just giving up, and gives the place back.
                let _ = call.send(());
            }
        }
    }
}

impl Gate {
    /// With all places free.
    pub fn new(limits: &Limits, metrics: &Metrics) -> Arc<Self> {
        let room = Room {
            rates: [limits.writes, limits.reads],
            anonymous: limits.anonymous,
            own: limits.in_flight_per_identity,
            all: limits.in_flight,
            waiting: limits.waiting_per_identity,
            watches: limits.watches_per_identity,
        };
        let inner = Mutex::new(Inner { admission: Admission::new(room), calls: HashMap::new() });
        let gate = Self { inner, patience: limits.patience, waiting: Gauge::default(), refused: Family::default() };
        metrics.register(|registry| {
            registry.register("basalt_api_requests_waiting", "Requests that wait for others to end", gate.waiting.clone());
            registry.register(
                "basalt_api_requests_refused",
                "Requests that were too many, by what there was too much of",
                gate.refused.clone(),
            );
        });
        Arc::new(gate)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // The lines are whole between any two of their statements that can panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a request may go on, which it may until the place is dropped.
    pub async fn admit(self: &Arc<Self>, identity: Option<&Identity>, class: Class) -> Result<Place, Status> {
        let who: Who = identity.map(|identity| identity.user.as_str().into());
        let (ticket, called) = {
            let mut inner = self.lock();
            match inner.admission.ask(&who, class, Instant::now().into_std()) {
                Answer::Go => return Ok(Place { gate: self.clone(), who, class, ticket: None }),
                Answer::Wait(ticket) => {
                    let (call, called) = oneshot::channel();
                    inner.calls.insert(ticket, call);
                    (ticket, called)
                }
                Answer::Refuse(refusal) => return Err(self.refuse(refusal)),
            }
        };
        let place = Place { gate: self.clone(), who, class, ticket: Some(ticket) };
        self.waiting.inc();
        let waiting = Waiting(&self.waiting);
        let heard = tokio::time::timeout(self.patience, called).await;
        drop(waiting);
        match heard {
            Ok(Ok(())) => Ok(place),
            _ => Err(self.too_many("patience", 1, "the server is busy with other requests")),
        }
    }

    /// Counts a watch until it is dropped.
    pub fn watch(self: &Arc<Self>, identity: Option<&Identity>) -> Result<WatchPlace, Status> {
        let who: Who = identity.map(|identity| identity.user.as_str().into());
        self.lock().admission.watch(&who, Instant::now().into_std()).map_err(|refusal| self.refuse(refusal))?;
        Ok(WatchPlace { gate: self.clone(), who })
    }

    fn refuse(&self, refusal: Refusal) -> Status {
        match refusal {
            Refusal::Rate(after) => {
                let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
                self.too_many("rate", u32::try_from(seconds).unwrap_or(u32::MAX), "your requests come too fast")
            }
            Refusal::Full => self.too_many("queue", 1, "too many of your requests are waiting already"),
            Refusal::Watches => self.too_many("watches", 10, "too many of your watches are open"),
        }
    }

    fn too_many(&self, reason: &'static str, seconds: u32, what: &str) -> Status {
        self.refused.get_or_create(&Why { reason }).inc();
        let details = Details { retry_after_seconds: Some(seconds), ..Details::default() };
        Status::new(Reason::TooManyRequests, format!("too many requests, please try again later: {what}")).with_details(details)
    }
}

struct Waiting<'a>(&'a Gauge);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A request's place among those that are worked on, or in the line for one.
pub struct Place {
    gate: Arc<Gate>,
    who: Who,
    class: Class,
    /// It had to wait under this.
    ticket: Option<Ticket>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inner = self.gate.lock();
        if let Some(ticket) = self.ticket
            && inner.calls.remove(&ticket).is_some()
        {
            return inner.admission.give_up(&self.who, ticket);
        }
        let lucky = inner.admission.leave(&self.who, self.class);
        inner.call(lucky);
    }
}

/// A watch among those of its identity.
pub struct WatchPlace {
    gate: Arc<Gate>,
    who: Who,
}

impl WatchPlace {
    /// An answer that keeps the place until it is sent or given up.
    pub fn keep(self, answer: Response<Body>) -> Response<Body> {
        let kept = |body: Body| {
            let frames = body.into_data_stream();
            Body::from_stream(frames.inspect(move |_| {
                let _ = &self;
            }))
        };
        answer.map(kept)
    }
}

impl Drop for WatchPlace {
    fn drop(&mut self) {
        self.gate.lock().admission.unwatch(&self.who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(limits: Limits) -> (Arc<Gate>, Metrics) {
        let metrics = Metrics::default();
        (Gate::new(&limits, &metrics), metrics)
    }

    fn user(name: &str) -> Identity {
        Identity { user: name.into(), ..Identity::default() }
    }

    fn retry_after(status: &Status) -> Option<u32> {
        status.details.as_ref().and_then(|details| details.retry_after_seconds)
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_there_is_a_place() {
        let (gate, metrics) = gate(Limits { in_flight: 1, ..Limits::default() });
        let first = gate.admit(Some(&user("a")), Class::Reading).await.unwrap();
        let b = user("b");
        let mut waiting = Box::pin(gate.admit(Some(&b), Class::Reading));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert!(metrics.text(false).unwrap().contains("basalt_api_requests_waiting 1\n"));
        drop(first);
        assert!(waiting.await.is_ok());
        assert!(metrics.text(false).unwrap().contains("basalt_api_requests_waiting 0\n"));
    }

    #[tokio::test]
    async fn who_waits_too_long_is_refused_and_leaves_the_line() {
        let (gate, metrics) = gate(Limits { in_flight: 1, patience: Duration::ZERO, ..Limits::default() });
        let first = gate.admit(Some(&user("a")), Class::Reading).await.unwrap();
        for _ in 0..2 {
            let refusal = gate.admit(Some(&user("b")), Class::Reading).await.err().unwrap();
            assert_eq!((refusal.reason, retry_after(&refusal)), (Reason::TooManyRequests, Some(1)));
        }
        assert!(metrics.text(false).unwrap().contains("basalt_api_requests_refused_total{reason=\"patience\"} 2\n"));
        drop(first);
        assert!(gate.admit(Some(&user("c")), Class::Reading).await.is_ok());
    }

    #[tokio::test]
    async fn a_place_given_to_somebody_who_just_left_is_not_lost() {
        let (gate, _) = gate(Limits { in_flight: 1, ..Limits::default() });
        let first = gate.admit(None, Class::Reading).await.unwrap();
        let (b, c) = (user("b"), user("c"));
        let mut leaving = Box::pin(gate.admit(Some(&b), Class::Reading));
        let mut staying = Box::pin(gate.admit(Some(&c), Class::Reading));
        assert!(futures::poll!(&mut leaving).is_pending() && futures::poll!(&mut staying).is_pending());
        // It is called, and goes away without having heard it.
        drop(first);
        drop(leaving);
        assert!(staying.await.is_ok());
    }

    #[tokio::test]
    async fn who_comes_too_fast_is_told_when_to_come_back_and_nobody_else_is() {
        let (gate, _) = gate(Limits { writes: Rate { per_second: 0.01, burst: 2.0 }, ..Limits::default() });
        let fast = user("fast");
        for _ in 0..2 {
            assert!(gate.admit(Some(&fast), Class::Writing).await.is_ok());
        }
        let refusal = gate.admit(Some(&fast), Class::Writing).await.err().unwrap();
        assert!((1..=100).contains(&retry_after(&refusal).unwrap()));
        assert!(gate.admit(Some(&fast), Class::Reading).await.is_ok());
        assert!(gate.admit(Some(&user("other")), Class::Writing).await.is_ok());
    }
}
