//! A session of reports: what a host says becomes its lease, its Host's and VMs' status, Images' status and Events.
//!
//! Three loops run beside each other, so that none waits for another: one reads reports, one renews the lease, one writes
//! the rest. What cannot be written is logged and forgotten: the next report says it again.

use super::{
    exchange,
    images::ImageFindings,
    inbox::{Batch, Inbox},
    inventory::Inventory,
    manifests::Manifests,
    observe::{Observation, Refusal, Verdict, Written, judge, patch},
    sessions::Session,
    tasks::Attempts,
};
use basalt_api::{Host, SYSTEM_NAMESPACE, VirtualMachine, virtual_machine::VmState};
use basalt_controllers::events::Recorder;
use basalt_proto::v1::HostReport;
use futures::{FutureExt, StreamExt, stream};
use http::{Request, header};
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, error::Elapsed, timeout},
};
use tonic::{Status, Streaming};
use tracing::Instrument;

/// The lease is not renewed more often than this, however often a host reports.
const RENEW_INTERVAL: Duration = Duration::from_millis(500);
/// How long the API may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long what was reported last may take to be written after the session has ended.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// How many VMs of a host are written at once.
const CONCURRENCY: usize = 16;

/// What all sessions share.
pub struct Reporting {
    /// The API.
    pub client: Client,
    /// What hosts were told.
    pub manifests: Arc<Manifests>,
    /// Writes what hosts find of images.
    pub images: Arc<ImageFindings>,
    /// Renewed only while their host's lease is.
    pub attempts: Arc<Attempts>,
    /// Writes Events.
    pub recorder: Recorder,
    /// How long a lease is said to last.
    pub lease: Duration,
    /// A session without a report for so long is ended.
    pub silence: Duration,
}

impl Reporting {
    /// Takes reports until the session or the stream ends.
    pub async fn take(self: Arc<Self>, mut reports: Streaming<HostReport>, session: Session) -> Result<(), Status> {
        let inbox = Inbox::default();
        let host = session.host.clone();
        let reading = async {
            let outcome = self.read(&mut reports, &session, &inbox).await;
            inbox.closed.cancel();
            outcome
        };
        let (registered, known) = watch::channel(false);
        let writing = async {
            let mut writer = Writer { host: &host, shared: &self, inventory: None, written: HashMap::new(), told: HashSet::new() };
            let limit = async {
                inbox.closed.cancelled().await;
                tokio::time::sleep(LAST_WRITES).await;
            };
            let all = async {
                while let Some(batch) = inbox.next().await {
                    let span = exchange("report", &host);
                    span.record("basalt.generation", batch.acknowledged).record("basalt.vms", batch.vms.len());
                    writer.write(batch, &registered).instrument(span).await;
                }
            };
            tokio::select! {
                () = all => {}
                () = limit => tracing::warn!(host, "what the host reported last could not be written in time"),
            }
        };
        let (outcome, (), ()) = tokio::join!(reading, writing, self.renew_lease(&host, &inbox, known));
        outcome
    }

    async fn read(&self, reports: &mut Streaming<HostReport>, session: &Session, inbox: &Inbox) -> Result<(), Status> {
        loop {
            let report = tokio::select! {
                biased;
                () = session.ended() => return Err(session.farewell()),
                report = timeout(self.silence, reports.message()) => report,
            };
            match report {
                Ok(Ok(Some(report))) => inbox.put(report, &session.host, Timestamp::now()),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(status)) => return Err(status),
                Err(_) => return Err(Status::deadline_exceeded(format!("no report for {} s", self.silence.as_secs()))),
            }
        }
    }

    /// Renews the host's lease with the reports that arrive, once the Host has its inventory: a host that is judged
    /// before would be one without VMMs.
    async fn renew_lease(&self, host: &str, inbox: &Inbox, mut registered: watch::Receiver<bool>) {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), SYSTEM_NAMESPACE);
        loop {
            let beat = async {
                inbox.beat.notified().await;
                // The sender outlives this loop, or the session has ended.
                let _ = registered.wait_for(|registered| *registered).await;
            };
            tokio::select! {
                biased;
                () = inbox.closed.cancelled() => return,
                () = beat => {}
            }
            let next = Instant::now() + RENEW_INTERVAL;
            let renewing = renew(&leases, host, self.lease, Timestamp::now()).instrument(exchange("lease", host));
            match timeout(DEADLINE, renewing).await {
                Ok(Ok(())) => self.attempts.host_renewed(host),
                Ok(Err(error)) => tracing::warn!(host, "cannot renew the lease of the host: {error}"),
                Err(_) => tracing::warn!(host, "cannot renew the lease of the host: the API did not answer in time"),
            }
            tokio::select! {
                biased;
                () = inbox.closed.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }
}

async fn renew(leases: &Api<Lease>, host: &str, lasts: Duration, now: Timestamp) -> Result<(), kube::Error> {
    let patch = json!({ "spec": { "renewTime": MicroTime(now) } });
    match leases.patch(host, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        other => return other.map(drop),
    }
    let lease = Lease {
        metadata: ObjectMeta { name: Some(host.to_owned()), ..ObjectMeta::default() },
        spec: Some(LeaseSpec {
            holder_identity: Some(host.to_owned()),
            lease_duration_seconds: i32::try_from(lasts.as_secs()).ok(),
            acquire_time: Some(MicroTime(now)),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    };
    match leases.create(&PostParams::default(), &lease).await {
        // Somebody made it in between; the next report renews it.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        other => other.map(drop),
    }
}

/// Writes the reports of one session, and remembers what it wrote.
struct Writer<'a> {
    host: &'a str,
    shared: &'a Reporting,
    inventory: Option<Inventory>,
    written: HashMap<String, Written>,
    /// What was logged before and need not be again.
    told: HashSet<String>,
}

impl Writer<'_> {
    async fn write(&mut self, batch: Batch, registered: &watch::Sender<bool>) {
        for unreadable in &batch.unreadable {
            self.tell(unreadable.to_string());
        }
        if let Some(report) = &batch.inventory {
            match Inventory::read(report, self.host) {
                Ok((inventory, skipped)) => {
                    skipped.iter().for_each(|skipped| self.tell(skipped.to_string()));
                    self.write_inventory(inventory).await;
                }
                Err(unreadable) => self.tell(unreadable.to_string()),
            }
        }
        registered.send_replace(true);
        for (image, found) in &batch.images {
            self.shared.images.take(image, found.clone());
        }
        self.write_vms(&batch).await;
        for (namespace, name, uid, happening) in batch.happenings {
            let vm = self.shared.manifests.look(|fleet| fleet.vm(&namespace, &name).cloned());
            let ours = |vm: &VirtualMachine| vm.uid() == Some(uid) && super::fleet::host(vm) == Some(self.host);
            if let Some(vm) = vm.filter(|vm| ours(vm))
                && timeout(DEADLINE, self.shared.recorder.record(&*vm, happening)).await.is_err()
            {
                tracing::warn!(host = self.host, "cannot record an event: the API did not answer in time");
            }
        }
    }

    async fn write_inventory(&mut self, inventory: Inventory) {
        if self.inventory.as_ref() == Some(&inventory) {
            return;
        }
        let hosts: Api<Host> = Api::all(self.shared.client.clone());
        let write = async {
            let Some(host) = hosts.get_opt(self.host).await? else { return Ok(false) };
            if Inventory::standing(host.status.as_ref()) != inventory {
                let patch = json!({ "status": inventory });
                hosts.patch_status(self.host, &PatchParams::default(), &Patch::Merge(&patch)).await?;
            }
            Ok::<_, kube::Error>(true)
        };
        match timeout(DEADLINE, write).await {
            Ok(Ok(true)) => self.inventory = Some(inventory),
            Ok(Ok(false)) => self.tell("there is no Host object for it: it was deleted. To register the host again, enrol it again".into()),
            Ok(Err(error)) => tracing::warn!(host = self.host, "cannot write the status of the host: {error}"),
            Err(_) => tracing::warn!(host = self.host, "cannot write the status of the host: the API did not answer in time"),
        }
    }

    async fn write_vms(&mut self, batch: &Batch) {
        let news: Vec<&Observation> = batch.vms.iter().filter(|seen| self.is_news(seen, batch.acknowledged)).collect();
        let shared = self.shared;
        let writes: Vec<_> = news.into_iter().map(|seen| write_vm(shared.client.clone(), seen.clone()).boxed()).collect();
        let outcomes: Vec<_> = stream::iter(writes).buffer_unordered(CONCURRENCY).collect().await;
        for (seen, outcome) in outcomes {
            let vm = format!("{}/{}", seen.namespace, seen.name);
            match outcome {
                Ok(Ok(revision)) => {
                    tracing::debug!(host = self.host, vm, state = %seen.observed.state, "VM reported");
                    self.written.insert(seen.uid.clone(), Written { observed: seen.observed.clone(), revision });
                }
                Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409 | 422) => {
                    self.tell(format!("report of VM {vm} refused: the VM has changed in between ({})", status.message));
                }
                Ok(Err(error)) => tracing::warn!(host = self.host, vm, "cannot write what the host reported of the VM: {error}"),
                Err(_) => {
                    tracing::warn!(host = self.host, vm, "cannot write what the host reported of the VM: the API did not answer in time")
                }
            }
        }
        let present: HashSet<&str> = batch.vms.iter().map(|seen| seen.uid.as_str()).collect();
        self.written.retain(|uid, _| present.contains(uid.as_str()));
    }

    fn is_news(&mut self, seen: &Observation, acknowledged: u64) -> bool {
        let vm = self.shared.manifests.look(|fleet| fleet.vm(&seen.namespace, &seen.name).cloned());
        let told_to_remove = self.shared.manifests.told_to_remove(self.host, &seen.uid, acknowledged);
        match judge(seen, vm.as_deref(), self.written.get(&seen.uid), told_to_remove) {
            Verdict::Write => true,
            Verdict::Same => false,
            // The usual end of a VM, and its usual beginning.
            Verdict::Refused(Refusal::Unknown | Refusal::NotToldToRemove) if seen.observed.state == VmState::Absent => false,
            Verdict::Refused(refusal) => {
                self.tell(format!("report of VM {}/{} ({}) refused: {refusal}", seen.namespace, seen.name, seen.observed.state));
                false
            }
        }
    }

    /// Logs something once a session: a host says the same every few seconds.
    fn tell(&mut self, what: String) {
        if self.told.len() < 1000 && self.told.insert(what.clone()) {
            tracing::warn!(host = self.host, "{what}");
        }
    }
}

/// Writes what was observed of a VM; says which revision that made.
async fn write_vm(client: Client, seen: Observation) -> (Observation, Result<Result<u64, kube::Error>, Elapsed>) {
    let outcome = timeout(DEADLINE, patch_vm(&client, &seen)).await;
    (seen, outcome)
}

async fn patch_vm(client: &Client, seen: &Observation) -> Result<u64, kube::Error> {
    let path = format!("{}/{}/status", VirtualMachine::url_path(&(), Some(&seen.namespace)), seen.name);
    let request = Request::patch(path)
        .header(header::CONTENT_TYPE, "application/json-patch+json")
        .body(serde_json::to_vec(&patch(seen)).map_err(kube::Error::SerdeError)?)
        .map_err(kube::Error::HttpError)?;
    let vm: VirtualMachine = client.request(request).await?;
    Ok(vm.resource_version().and_then(|text| text.parse().ok()).unwrap_or(0))
}
