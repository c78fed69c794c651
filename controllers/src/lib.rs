//! The controllers: a folder a concern, each with a `plan` that is a pure function of what was observed, and a small
//! `reconcile` that gathers the state, calls the plan and writes the result.
//!
//! They are ordinary `kube_runtime` controllers over a `kube::Client`, so that they run inside the gateway over its own
//! router or anywhere else over HTTPS. A reconcile takes no hint of what changed: a restart, a missed event and a periodic
//! resync are all the same code path. [`run`] is where a new controller is registered.

pub mod context;
pub mod events;
pub mod host;
pub mod observe;
pub mod patch;
pub mod task;
pub mod vm;
pub mod waiting;
pub mod work;

pub use context::{Context, Settings};

use kube::Client;
use tokio_util::sync::CancellationToken;

/// Runs every controller until `shutdown` is cancelled and the reconciles under way have ended.
pub async fn run(client: Client, settings: Settings, metrics: observe::Metrics, shutdown: CancellationToken) {
    let context = Context::new(client, settings, metrics);
    tokio::join!(
        host::run(context.clone(), shutdown.clone()),
        vm::run(context.clone(), shutdown.clone()),
        task::run(context.clone(), shutdown.clone()),
        events::sweep(context, shutdown),
    );
}
