//! Which of several gateways runs the controllers: the one that holds a Lease.
//!
//! Time is measured by each gateway's own clock: a holder that has not renewed for [`LEASE`] as its rival saw it is passed over,
//! and a holder that could not renew for [`RENEW_DEADLINE`] stops. That alone is not proof, for a process may sleep between
//! looking at its clock and writing. So each term of a leader changes a second Lease, and what the leader writes is committed
//! only while that one is as its term made it ([`Fence`]).

use basalt_api::SYSTEM_NAMESPACE;
use basalt_apiserver::Fence;
use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::PostParams};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a holder that does not renew is waited for.
const LEASE: Duration = Duration::from_secs(15);
/// How long a holder that cannot renew goes on.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often the Lease is looked at or renewed.
const RETRY: Duration = Duration::from_secs(2);
/// How long the work may take to end: a controller that has not read its first list yet would wait for it for ever. A reconcile
/// that is cut off is one that the next leader makes again.
const END_DEADLINE: Duration = Duration::from_secs(2);
/// The Lease that is renewed, and the one that each term changes. Hosts, which have theirs in the same namespace, are of other
/// domains.
const NAMES: [&str; 2] = ["controllers.basalt.dev", "term.controllers.basalt.dev"];

/// A gateway that would run the controllers.
pub struct Candidate {
    leases: Api<Lease>,
    identity: String,
}

/// Why there is no leadership, or no more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{holder:?} holds it")]
    Other { holder: String },
    #[error("another's term has begun")]
    Term,
}

impl Candidate {
    /// A candidate; no two have the same identity.
    pub fn new(client: Client, identity: String) -> Self {
        Self { leases: Api::namespaced(client, SYSTEM_NAMESPACE), identity }
    }

    /// Does the work whenever this is the leader, each time under a fence of that term, until `shutdown`. The work ends when its
    /// token is cancelled, or is cut off.
    pub async fn run<W: Future<Output = ()>>(&self, shutdown: &CancellationToken, work: impl Fn(Fence, CancellationToken) -> W) {
        while let Some(fence) = shutdown.run_until_cancelled(self.lead()).await {
            tracing::info!(identity = self.identity, term = fence.revision, "this gateway runs the controllers");
            let lost = async {
                let lost = self.keep(&fence).await;
                tracing::warn!("this gateway runs the controllers no more: {lost}");
            };
            work_until(lost, shutdown, |term| work(fence.clone(), term)).await;
            self.release().await;
        }
    }

    /// Waits until this is the leader, and begins a term.
    async fn lead(&self) -> Fence {
        let mut seen: Option<(Option<String>, Instant)> = None;
        loop {
            match self.try_lead(&mut seen).await {
                Ok(fence) => return fence,
                Err(lost) => tracing::debug!("this gateway does not run the controllers: {lost}"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn try_lead(&self, seen: &mut Option<(Option<String>, Instant)>) -> Result<Fence, Lost> {
        // As of before the Lease is taken: if another takes it meanwhile, the term cannot be begun from here.
        let term = self.get(NAMES[1]).await?;
        let lease = self.get(NAMES[0]).await?;
        let holder = holder(&lease).to_owned();
        if !holder.is_empty() && holder != self.identity {
            let version = lease.metadata.resource_version.clone();
            let since = match seen {
                Some((known, since)) if *known == version => *since,
                _ => seen.insert((version, Instant::now())).1,
            };
            if since.elapsed() < LEASE {
                return Err(Lost::Other { holder });
            }
        }
        self.write(lease).await?;
        let term = self.write(term).await?;
        let revision = term.metadata.resource_version.and_then(|version| version.parse().ok()).ok_or(Lost::Term)?;
        Ok(Fence { namespace: SYSTEM_NAMESPACE.into(), lease: NAMES[1].into(), revision })
    }

    /// Renews until it cannot; says why.
    async fn keep(&self, fence: &Fence) -> Lost {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RETRY).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.renew(fence)).await {
                Ok(Ok(())) => renewed = Instant::now(),
                Ok(Err(Lost::Api(error))) if renewed.elapsed() < RENEW_DEADLINE => {
                    tracing::warn!("the lease of the controllers was not renewed, and is tried again: {error}");
                }
                Ok(Err(lost)) => return lost,
                Err(_) => return Lost::Api(kube::Error::Service("the API did not answer in time".into())),
            }
        }
    }

    async fn renew(&self, fence: &Fence) -> Result<(), Lost> {
        let lease = self.get(NAMES[0]).await?;
        if holder(&lease) != self.identity {
            return Err(Lost::Other { holder: holder(&lease).to_owned() });
        }
        let term = self.get(NAMES[1]).await?;
        if term.metadata.resource_version != Some(fence.revision.to_string()) {
            return Err(Lost::Term);
        }
        self.write(lease).await.map(drop)
    }

    /// Lets the next one lead without a wait.
    async fn release(&self) {
        let released = async {
            let mut lease = self.get(NAMES[0]).await?;
            if holder(&lease) == self.identity {
                lease.spec.get_or_insert_default().holder_identity = None;
                self.leases.replace(NAMES[0], &PostParams::default(), &lease).await?;
            }
            Ok::<_, Lost>(())
        };
        match tokio::time::timeout(END_DEADLINE, released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("the lease of the controllers was not released: {error}"),
            Err(_) => tracing::debug!("the lease of the controllers was not released in time"),
        }
    }

    /// A Lease, as it is or as it would be made.
    async fn get(&self, name: &str) -> Result<Lease, Lost> {
        let mut new = Lease::default();
        new.metadata.name = Some(name.to_owned());
        Ok(self.leases.get_opt(name).await?.unwrap_or(new))
    }

    /// Makes this the holder of a Lease that is as it was read.
    async fn write(&self, mut lease: Lease) -> Result<Lease, Lost> {
        let now = MicroTime(Timestamp::now());
        let same = holder(&lease) == self.identity;
        let LeaseSpec { acquire_time, lease_transitions, .. } = lease.spec.unwrap_or_default();
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE.as_secs()).ok(),
            acquire_time: if same { acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(lease_transitions.unwrap_or(0) + i32::from(!same)),
            ..LeaseSpec::default()
        });
        Ok(match &lease.metadata.resource_version {
            None => self.leases.create(&PostParams::default(), &lease).await?,
            Some(_) => self.leases.replace(lease.metadata.name.as_deref().unwrap_or_default(), &PostParams::default(), &lease).await?,
        })
    }
}

/// Does work until there is a reason to end it, or `shutdown`. The work ends when its token is cancelled, or is cut off.
pub async fn work_until<W: Future<Output = ()>>(
    reason: impl Future<Output = ()>,
    shutdown: &CancellationToken,
    work: impl FnOnce(CancellationToken) -> W,
) {
    let term = shutdown.child_token();
    let mut work = std::pin::pin!(work(term.clone()));
    tokio::select! {
        () = &mut work => return,
        () = reason => {}
        () = shutdown.cancelled() => {}
    }
    term.cancel();
    if tokio::time::timeout(END_DEADLINE, work).await.is_err() {
        tracing::debug!("the controllers are cut off");
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}
