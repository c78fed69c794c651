//! Owns the judgement in `Host.status` (phase, conditions, allocatable, lastHeartbeat); needs the host's Lease.

use super::plan::plan;
use crate::{
    Context,
    events::Happening,
    patch::status_patch,
    work::{Next, Work},
};
use basalt_api::{Host, SYSTEM_NAMESPACE, host::HostReason};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use serde_json::json;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Fields of `Host.status` that the hub writes from the agent's reports.
const HUB_FIELDS: [&str; 5] = ["capacity", "vmms", "bootId", "agentVersion", "addresses"];

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot write the status of host {host}: {source}")]
    Write { host: String, source: Box<kube::Error> },
    #[error("cannot read the lease of host {host}: {source}")]
    Lease { host: String, source: Box<kube::Error> },
    #[error("cannot encode the status of host {host}: {source}")]
    Encode { host: String, source: serde_json::Error },
}

/// Runs the host controller until `shutdown`.
pub async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), SYSTEM_NAMESPACE);
    Work::new("host", &context, Api::<Host>::all(context.client.clone()))
        .watches(leases, |lease| vec![ObjectRef::new(&lease.name_any())])
        .run(|host| reconcile(host, context.clone()), shutdown)
        .await;
}

async fn reconcile(host: Arc<Host>, context: Arc<Context>) -> Result<Next, Error> {
    let name = host.name_any();
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), SYSTEM_NAMESPACE);
    let lease = leases.get_opt(&name).await.map_err(|source| Error::Lease { host: name.clone(), source: Box::new(source) })?;
    let renewed = lease.and_then(|lease| Some(lease.spec?.renew_time?.0));
    let decision = plan(&host, renewed, context.settings.host_grace, context.now());

    let old = host.status.clone().unwrap_or_default();
    let patch = status_patch(&old, &decision.status, &HUB_FIELDS).map_err(|source| Error::Encode { host: name.clone(), source })?;
    if let Some(status) = patch {
        // With the resource version: a decision on a host that has changed since is made again.
        let patch = json!({ "metadata": { "resourceVersion": host.resource_version() }, "status": status });
        let hosts: Api<Host> = Api::all(context.client.clone());
        match hosts.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_not_found() => return Ok(Next::OnChange),
            Err(source) => return Err(Error::Write { host: name, source: Box::new(source) }),
        }
    }
    if let Some((reason, message)) = decision.turned {
        let warning = reason != HostReason::AgentReports;
        tracing::info!(host = name, %reason, "host turned {}: {message}", if warning { "NotReady" } else { "Ready" });
        let reason = if warning { "HostNotReady" } else { "HostReady" }.to_owned();
        context.recorder.record(&*host, Happening { warning, reason, message, time: context.now() }).await;
    }
    Ok(decision.look_again.map_or(Next::OnChange, Next::After))
}
