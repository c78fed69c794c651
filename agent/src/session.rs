//! The conversation with the gateway: manifests come in, reports go out, and questions about what only the host has are
//! answered. It is taken up again whenever it breaks; the VMs do not notice.

use crate::{
    config::Config,
    console,
    identity::{Identity, IdentityError, sources},
    task::Tasks,
    vm::host::Doors,
    vmm::VmDir,
};
use basalt_proto::v1::{
    ConvergeRequest, End, HostInventory, HostManifest, HostReport, TunnelAnswer, TunnelRequest, agent_client::AgentClient,
    tunnel_answer::Answer, tunnel_request::Request,
};
use futures::StreamExt;
use std::{
    collections::HashMap,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// The shortest and the longest wait before the gateway is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long changes are gathered before they are reported together.
const GATHER: Duration = Duration::from_millis(20);
/// How often a host reports if its manifest does not say.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What the conversation needs of the agent.
pub struct Session {
    /// The settings.
    pub config: Config,
    /// What the host has.
    pub inventory: HostInventory,
    /// How the VMs are.
    pub doors: Arc<Doors>,
    /// What the host is doing besides.
    pub tasks: Arc<Tasks>,
    /// Where manifests go.
    pub manifests: mpsc::Sender<HostManifest>,
    /// The generation that is in the ledger.
    pub acknowledged: watch::Receiver<u64>,
    /// Where the VMs' directories are.
    pub vms_dir: PathBuf,
    /// How often to report, in milliseconds; the manifest says so.
    pub heartbeat: AtomicU64,
}

impl Session {
    /// Talks to the gateway until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut wait = RETRY.0;
        let mut told = String::new();
        while !shutdown.is_cancelled() {
            match shutdown.run_until_cancelled(self.connect()).await {
                None => return,
                Some(Ok(channel)) => {
                    tracing::info!(gateway = self.config.gateway, "connected to the gateway");
                    told.clear();
                    wait = RETRY.0;
                    let Some(ended) = shutdown.run_until_cancelled(self.talk(channel)).await else { return };
                    tracing::warn!("the gateway is gone ({ended}); VMs run on, and it is tried again");
                }
                Some(Err(error)) => {
                    // Once for each way in which it fails, not once for each try.
                    let text = error.to_string();
                    if text != told {
                        tracing::warn!("{text}; it is tried again");
                        told = text;
                    }
                }
            }
            shutdown.run_until_cancelled(tokio::time::sleep(wait)).await;
            wait = (wait * 2).min(RETRY.1);
        }
    }

    async fn connect(&self) -> Result<Channel, IdentityError> {
        let identity = match Identity::kept(&self.config)? {
            Some(identity) => identity,
            None => Identity::enrol(&self.config).await?,
        };
        let endpoint = identity.endpoint(&self.config)?;
        endpoint.connect().await.map_err(|e| IdentityError::Unreachable(sources(&e)))
    }

    /// All of the conversation; the end of one part ends all. Says why.
    async fn talk(&self, channel: Channel) -> String {
        let client = AgentClient::new(channel).max_decoding_message_size(64 << 20);
        tokio::select! {
            ended = self.converge(client.clone()) => ended,
            ended = self.report(client.clone()) => ended,
            ended = self.tunnel(client.clone()) => ended,
            never = self.tasks.lease(client) => match never {},
        }
    }

    async fn converge(&self, mut client: AgentClient<Channel>) -> String {
        let known_generation = *self.acknowledged.borrow();
        let mut manifests = match client.converge(ConvergeRequest { known_generation }).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return status.message().to_owned(),
        };
        loop {
            match manifests.message().await {
                Ok(Some(manifest)) => {
                    let heartbeat = u64::from(manifest.heartbeat_seconds) * 1000;
                    self.heartbeat.store(heartbeat, Ordering::Relaxed);
                    if self.manifests.send(manifest).await.is_err() {
                        return "the agent ends".into();
                    }
                }
                Ok(None) => return "it ended the conversation".into(),
                Err(status) => return status.message().to_owned(),
            }
        }
    }

    async fn report(&self, mut client: AgentClient<Channel>) -> String {
        let (sender, receiver) = mpsc::channel(4);
        let reports = async {
            let mut changes = self.doors.board.changes();
            let mut acknowledged = self.acknowledged.clone();
            loop {
                changes.borrow_and_update();
                let acknowledged_generation = *acknowledged.borrow_and_update();
                let (vms, images) = self.doors.board.reports();
                let report = HostReport { acknowledged_generation, inventory: Some(self.inventory.clone()), vms, images };
                if sender.send(report).await.is_err() {
                    return;
                }
                let heartbeat = match self.heartbeat.load(Ordering::Relaxed) {
                    0 => HEARTBEAT,
                    milliseconds => Duration::from_millis(milliseconds),
                };
                tokio::select! {
                    _ = changes.changed() => {}
                    _ = acknowledged.changed() => {}
                    () = tokio::time::sleep(heartbeat) => continue,
                }
                tokio::time::sleep(GATHER).await;
            }
        };
        tokio::select! {
            answer = client.report(ReceiverStream::new(receiver)) => match answer {
                Ok(_) => "it took no more reports".into(),
                Err(status) => status.message().to_owned(),
            },
            () = reports => "it took no more reports".into(),
        }
    }

    async fn tunnel(&self, mut client: AgentClient<Channel>) -> String {
        let (answers, receiver) = mpsc::channel(16);
        let opening = TunnelAnswer { id: 0, answer: None };
        if answers.send(opening).await.is_err() {
            return "the agent ends".into();
        }
        let mut requests = match client.tunnel(ReceiverStream::new(receiver)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return status.message().to_owned(),
        };
        let mut running: HashMap<u64, CancellationToken> = HashMap::new();
        // Whatever still runs ends with the conversation.
        let all = CancellationToken::new();
        let _guard = all.clone().drop_guard();
        loop {
            match requests.message().await {
                Ok(Some(TunnelRequest { id, request })) => match request {
                    Some(Request::ReadConsole(read)) => {
                        let cancel = all.child_token();
                        running.retain(|_, token| !token.is_cancelled());
                        running.insert(id, cancel.clone());
                        let (answers, dir) = (answers.clone(), self.vms_dir.clone());
                        tokio::spawn(async move {
                            let error = cancel.run_until_cancelled(read_console(id, &dir, read, &answers)).await.flatten();
                            let end = TunnelAnswer { id, answer: Some(Answer::End(End { error: error.unwrap_or_default() })) };
                            // A gateway that is gone needs no answer.
                            let _ = answers.send(end).await;
                            cancel.cancel();
                        });
                    }
                    Some(Request::Cancel(_)) => {
                        if let Some(token) = running.remove(&id) {
                            token.cancel();
                        }
                    }
                    None => {
                        let end = End { error: "this agent does not understand the request; it is older than the gateway".into() };
                        let _ = answers.send(TunnelAnswer { id, answer: Some(Answer::End(end)) }).await;
                    }
                },
                Ok(None) => return "it ended the conversation".into(),
                Err(status) => return status.message().to_owned(),
            }
        }
    }
}

/// Sends what a console says; tells what went wrong, if something did.
async fn read_console(
    id: u64,
    vms: &std::path::Path,
    read: basalt_proto::v1::ReadConsole,
    answers: &mpsc::Sender<TunnelAnswer>,
) -> Option<String> {
    if uuid::Uuid::try_parse(&read.vm_uid).is_err() {
        return Some(format!("{:?} is no uid", read.vm_uid));
    }
    let dir = VmDir::new(vms.join(&read.vm_uid));
    if !dir.console_log().exists() && !read.follow {
        return Some("the VM has not been started on this host yet, so it has no console log".into());
    }
    let mut chunks = pin!(console::read(dir, read.tail_lines, read.follow));
    while let Some(chunk) = chunks.next().await {
        match chunk {
            Ok(chunk) => {
                if answers.send(TunnelAnswer { id, answer: Some(Answer::Chunk(chunk.to_vec())) }).await.is_err() {
                    return None;
                }
            }
            Err(error) => return Some(format!("the console log cannot be read: {error}")),
        }
    }
    None
}
