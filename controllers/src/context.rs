//! What every controller is given: a client, the settings, a clock and a recorder of Events.

use crate::{events::Recorder, observe::Metrics};
use jiff::Timestamp;
use kube::Client;
use std::{sync::Arc, time::Duration};

/// How the controllers behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A host is NotReady when its agent has not renewed its lease for so long.
    pub host_grace: Duration,
    /// How long an Event is kept after it last happened.
    pub event_ttl: Duration,
    /// A host that has been NotReady for so long runs nothing of an attempt of a task any more. Longer than an attempt's lease
    /// and what the clocks of gateways may differ by.
    pub task_lost: Duration,
    /// How often it is looked for tasks whose time has come and that no timer has found.
    pub task_sweep: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host_grace: Duration::from_secs(10),
            event_ttl: Duration::from_secs(3 * 3600),
            task_lost: Duration::from_secs(45),
            task_sweep: Duration::from_secs(30),
        }
    }
}

/// What a reconcile works with.
pub struct Context {
    /// The API.
    pub client: Client,
    /// How to behave.
    pub settings: Settings,
    /// Records what happens for people.
    pub recorder: Recorder,
    /// Counts and times reconciles.
    pub metrics: Metrics,
    now: fn() -> Timestamp,
}

impl Context {
    /// A context with the system's clock.
    pub fn new(client: Client, settings: Settings, metrics: Metrics) -> Arc<Self> {
        let recorder = Recorder::new(client.clone(), "basalt-gateway");
        Arc::new(Self { client, settings, recorder, metrics, now: Timestamp::now })
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }
}
