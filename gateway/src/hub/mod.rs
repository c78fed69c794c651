//! The hub: where agents connect. It enrols hosts, tells each what it should be, takes what each reports, and asks them for
//! what only they have.
//!
//! Whom a connection's certificate names decides whom a call is about: no call but Enroll says a host's name, so a host can
//! touch nothing but itself.

pub mod console;
mod enrol;
mod fleet;
mod images;
mod inbox;
mod inventory;
mod manifests;
mod mirror;
mod observe;
mod projection;
mod report;
mod sessions;
pub mod tasks;
pub mod tunnel;

use crate::{https, pki::Pki};
use basalt_api::Host;
use basalt_apiserver::Identity;
use basalt_controllers::{events::Recorder, observe::Cause};
use basalt_daemon::traces;
use basalt_proto::v1::{
    ConvergeRequest, EnrollRequest, EnrollResponse, HostManifest, HostReport, LeaseTasksRequest, LeaseTasksResponse, ReportSummary,
    TaskControl, TaskUpdate, TunnelAnswer, TunnelRequest,
    agent_server::{Agent, AgentServer},
};
use enrol::Enrolment;
pub use enrol::JoinToken;
use images::ImageFindings;
use jiff::Timestamp;
use kube::Client;
use manifests::Manifests;
use projection::ControlPlane;
use report::Reporting;
use sessions::{Call, Sessions};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tasks::{Attempts, board::Board, log::Logs};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{Instrument, Span, field::Empty};
use tunnel::Tunnels;

/// The largest message that is read from an agent.
const LARGEST_MESSAGE: usize = 16 << 20;
/// How long a host may wait for its first manifest before it is told to ask again.
const MIRROR_DEADLINE: Duration = Duration::from_secs(30);

/// What a hub works with.
pub struct Parts {
    /// The API, as the hub.
    pub client: Client,
    /// Signs hosts' certificates.
    pub pki: Arc<Pki>,
    /// Lets machines join.
    pub token: JoinToken,
    /// What agents know this control plane by.
    pub cluster_uid: String,
    /// How often agents report when nothing changes.
    pub heartbeat: Duration,
    /// How long a host's lease lasts.
    pub lease: Duration,
    /// Where answers of hosts are awaited.
    pub tunnels: Arc<Tunnels>,
    /// The attempts of tasks, as the API has them.
    pub board: Arc<Board>,
    /// Where logs of tasks are kept.
    pub logs: Arc<Logs>,
    /// How long an attempt of a task goes on after its last renewal.
    pub task_lease: Duration,
}

/// The hub.
pub struct Hub {
    enrolment: Enrolment,
    manifests: Arc<Manifests>,
    images: Arc<ImageFindings>,
    reporting: Arc<Reporting>,
    sessions: Arc<Sessions>,
    tunnels: Arc<Tunnels>,
    attempts: Arc<Attempts>,
    client: Client,
}

impl Hub {
    /// A hub whose streams all end with `shutdown`.
    pub fn new(parts: Parts, shutdown: CancellationToken) -> Arc<Self> {
        let Parts { client, pki, token, cluster_uid, heartbeat, lease, tunnels, board, logs, task_lease } = parts;
        let manifests = Arc::new(Manifests::new(ControlPlane { cluster_uid: cluster_uid.clone(), heartbeat }));
        let images = Arc::new(ImageFindings::new(client.clone(), manifests.clone()));
        let attempts = Arc::new(Attempts::new(client.clone(), manifests.clone(), board, logs, task_lease, shutdown.clone()));
        let reporting = Arc::new(Reporting {
            attempts: attempts.clone(),
            client: client.clone(),
            manifests: manifests.clone(),
            images: images.clone(),
            recorder: Recorder::new(client.clone(), "basalt-agent"),
            lease,
            silence: (heartbeat * 10).max(Duration::from_secs(30)),
        });
        let enrolment = Enrolment { pki, token, client: client.clone(), cluster_uid };
        Arc::new(Self { enrolment, manifests, images, reporting, sessions: Sessions::new(shutdown), tunnels, attempts, client })
    }

    /// Counts the hosts that are connected.
    pub fn connected(&self) -> impl Fn() -> usize + Send + Sync + use<> {
        let sessions = self.sessions.clone();
        move || sessions.hosts()
    }

    /// Mirrors the API and writes what hosts find of images, for ever.
    pub async fn run(&self) {
        tokio::join!(
            mirror::run(self.client.clone(), self.manifests.clone()),
            self.images.run(),
            self.attempts.board.mirror(self.client.clone())
        );
    }

    /// Waits until manifests can be made.
    pub async fn ready(&self) {
        self.manifests.ready().await;
    }

    /// The gRPC service.
    pub fn service(self: &Arc<Self>) -> AgentServer<Self> {
        AgentServer::from_arc(self.clone()).max_decoding_message_size(LARGEST_MESSAGE)
    }

    async fn manifests_of(
        manifests: Arc<Manifests>,
        session: sessions::Session,
        known: u64,
        stream: mpsc::Sender<Result<HostManifest, Status>>,
    ) {
        let host = session.host.as_str();
        let mut changes = manifests.changes(host);
        let (mut known, mut sent) = (known, None);
        loop {
            changes.mark_unchanged();
            let span = exchange("manifest", host);
            let manifest = match span.in_scope(|| manifests.current(host, known)) {
                Ok(manifest) => manifest,
                Err(error) => {
                    tracing::error!(host, "cannot make the host's manifest: {error}");
                    let _ = stream.send(Err(Status::internal(error.to_string()))).await;
                    return;
                }
            };
            if sent != Some(manifest.generation) {
                (known, sent) = (manifest.generation, Some(manifest.generation));
                tracing::debug!(host, generation = known, vms = manifest.vms.len(), "manifest sent");
                span.record("basalt.generation", known).record("basalt.vms", manifest.vms.len());
                tokio::select! {
                    biased;
                    () = session.ended() => {}
                    // A full channel is a slow host: it gets the newest manifest when it reads again.
                    _ = stream.send(Ok((*manifest).clone())) => {}
                }
            }
            drop(span);
            tokio::select! {
                biased;
                () = session.ended() => {
                    let _ = stream.try_send(Err(session.farewell()));
                    return;
                }
                () = stream.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// What is traced of a message to or from a host.
fn exchange(what: &'static str, host: &str) -> Span {
    tracing::info_span!(
        target: traces::TARGET,
        parent: None,
        "hub",
        otel.name = format!("hub {what}"),
        otel.kind = if what == "manifest" { "producer" } else { "server" },
        basalt.host = host,
        basalt.generation = Empty,
        basalt.vms = Empty,
    )
}

/// The host that a call is of.
fn host_of<T>(request: &Request<T>) -> Result<String, Status> {
    let identity = request.extensions().get::<Identity>();
    let identity =
        identity.ok_or_else(|| Status::unauthenticated("a client certificate of this control plane is needed; Enroll gives one"))?;
    https::host(identity)
        .map(str::to_owned)
        .ok_or_else(|| Status::permission_denied(format!("the client certificate is of {:?}, which is not a host", identity.user)))
}

#[tonic::async_trait]
impl Agent for Hub {
    type ConvergeStream = ReceiverStream<Result<HostManifest, Status>>;
    type TunnelStream = UnboundedReceiverStream<Result<TunnelRequest, Status>>;
    type RunTaskStream = UnboundedReceiverStream<Result<TaskControl, Status>>;

    async fn enroll(&self, request: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let peer = request.extensions().get::<SocketAddr>().copied();
        let caller = request.extensions().get::<Identity>().cloned();
        let span = exchange("enrol", &request.get_ref().host);
        traces::follow(&span, request.metadata().as_ref());
        let enrolling = self.enrolment.enrol(request.into_inner(), caller.as_ref(), peer, Timestamp::now());
        enrolling.instrument(span).await.map(Response::new)
    }

    async fn converge(&self, request: Request<ConvergeRequest>) -> Result<Response<Self::ConvergeStream>, Status> {
        let host = host_of(&request)?;
        let known = request.into_inner().known_generation;
        if known > u64::MAX / 2 {
            return Err(Status::invalid_argument(format!("known_generation is {known}: no generation is so large")));
        }
        if tokio::time::timeout(MIRROR_DEADLINE, self.manifests.ready()).await.is_err() {
            return Err(Status::unavailable("the gateway does not know the VMs yet; try again"));
        }
        let session = self.sessions.open(&host, Call::Converge);
        tracing::info!(host, known, "host connected");
        let (sender, stream) = mpsc::channel(1);
        tokio::spawn(Self::manifests_of(self.manifests.clone(), session, known, sender));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn report(&self, request: Request<Streaming<HostReport>>) -> Result<Response<ReportSummary>, Status> {
        let host = host_of(&request)?;
        let session = self.sessions.open(&host, Call::Report);
        // In a task of its own: what was reported last is written even if the connection is lost.
        let cause = Cause::named::<Host>("hub", &host);
        let taking = tokio::spawn(cause.act(self.reporting.clone().take(request.into_inner(), session)));
        let outcome = taking.await.unwrap_or_else(|_| Err(Status::internal("taking the reports failed")));
        if let Err(status) = &outcome {
            tracing::info!(host, "reports ended: {}", status.message());
        }
        outcome.map(|()| Response::new(ReportSummary {}))
    }

    async fn tunnel(&self, request: Request<Streaming<TunnelAnswer>>) -> Result<Response<Self::TunnelStream>, Status> {
        let host = host_of(&request)?;
        let session = self.sessions.open(&host, Call::Tunnel);
        let (requests, taking) = self.tunnels.open(request.into_inner(), session);
        tokio::spawn(taking);
        Ok(Response::new(UnboundedReceiverStream::new(requests)))
    }

    async fn lease_tasks(&self, request: Request<LeaseTasksRequest>) -> Result<Response<LeaseTasksResponse>, Status> {
        let host = host_of(&request)?;
        self.attempts.lease(&host, request.into_inner()).await.map(Response::new)
    }

    async fn run_task(&self, request: Request<Streaming<TaskUpdate>>) -> Result<Response<Self::RunTaskStream>, Status> {
        let host = host_of(&request)?;
        let (down, controls) = mpsc::unbounded_channel();
        let attempts = self.attempts.clone();
        // In a task of its own: what was said last is written even if the connection is lost.
        tokio::spawn(async move { attempts.serve(&host, request.into_inner(), down).await });
        Ok(Response::new(UnboundedReceiverStream::new(controls)))
    }
}
