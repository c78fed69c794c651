//! A stand-in for the gateway, which hands out attempts and says what it hears; and an agent's task side that can be killed.

use basalt_agent::{
    task::{Surroundings, Tasks},
    vm::host::Doors,
};
use basalt_api::task::{Progress, Reported};
use basalt_proto::v1::{
    ConvergeRequest, EnrollRequest, EnrollResponse, HostManifest, HostReport, LeaseTasksRequest, LeaseTasksResponse, ReportSummary,
    TaskAttempt, TaskControl, TaskLog, TaskUpdate, TunnelAnswer, TunnelRequest,
    agent_client::AgentClient,
    agent_server::{Agent, AgentServer},
    task_control::Control,
    task_update::Update,
};
use futures::stream::BoxStream;
use std::{
    ffi::OsString,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Controls = mpsc::Sender<Result<TaskControl, Status>>;

/// What the stand-in does of itself.
struct Shared {
    offers: Mutex<Vec<TaskAttempt>>,
    settle: Mutex<Vec<String>>,
    poked: Notify,
    /// How many signs of life are still answered.
    renewals: Mutex<u64>,
    heard: mpsc::UnboundedSender<Update>,
    asked: mpsc::UnboundedSender<Vec<String>>,
    controls: Mutex<Option<Controls>>,
}

/// The stand-in, as a test sees it.
pub struct Gateway {
    shared: Arc<Shared>,
    address: SocketAddr,
    heard: mpsc::UnboundedReceiver<Update>,
    asked: mpsc::UnboundedReceiver<Vec<String>>,
}

impl Gateway {
    pub async fn start() -> Self {
        let (heard_sender, heard) = mpsc::unbounded_channel();
        let (asked_sender, asked) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            offers: Mutex::default(),
            settle: Mutex::default(),
            poked: Notify::new(),
            renewals: Mutex::new(u64::MAX),
            heard: heard_sender,
            asked: asked_sender,
            controls: Mutex::default(),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = AgentServer::new(Service(shared.clone()));
        tokio::spawn(tonic::transport::Server::builder().add_service(server).serve_with_incoming(TcpListenerStream::new(listener)));
        Self { shared, address, heard, asked }
    }

    /// Hands an attempt out, as often as the agent does not know it.
    pub fn offer(&self, attempt: TaskAttempt) {
        self.shared.offers.lock().unwrap().push(attempt);
        self.shared.poked.notify_one();
    }

    /// So many signs of life are answered, and no more.
    pub fn renew_only(&self, signs: u64) {
        *self.shared.renewals.lock().unwrap() = signs;
    }

    pub async fn say(&self, control: Control) {
        let controls = self.shared.controls.lock().unwrap().clone().unwrap();
        controls.send(Ok(TaskControl { control: Some(control) })).await.unwrap();
    }

    /// Ends the stream of the attempt.
    pub fn cut(&self) {
        self.shared.controls.lock().unwrap().take().unwrap();
    }

    pub async fn hear(&mut self) -> Update {
        self.heard.recv().await.unwrap()
    }

    /// Listens until something is heard that counts.
    pub async fn hear_that<T>(&mut self, mut wanted: impl FnMut(Update) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.hear().await) {
                return found;
            }
        }
    }

    /// What has been heard and not been looked at is forgotten.
    pub fn forget(&mut self) {
        while self.heard.try_recv().is_ok() {}
    }

    /// The end of the attempt, and the texts of the log before it.
    pub async fn end(&mut self) -> (Reported, Vec<String>) {
        let mut lines = Vec::new();
        let reported = self
            .hear_that(|update| match update {
                Update::Log(log) => {
                    lines.extend(texts(log));
                    None
                }
                Update::EndedJson(json) => Some(serde_json::from_str(&json).unwrap()),
                _ => None,
            })
            .await;
        (reported, lines)
    }

    pub async fn step(&mut self, step: &str) {
        self.hear_that(|update| match update {
            Update::ProgressJson(json) => (serde_json::from_str::<Progress>(&json).unwrap().step == step).then_some(()),
            Update::EndedJson(json) => panic!("it ended before {step:?}: {json}"),
            _ => None,
        })
        .await;
    }

    /// Settles the attempt and waits until the host has forgotten it.
    pub async fn settle(&mut self) {
        self.shared.offers.lock().unwrap().clear();
        self.say(Control::Settled(true)).await;
        self.wait_until_forgotten().await;
    }

    /// Settles an attempt by the other way, the answer to LeaseTasks.
    pub async fn settle_by_lease(&mut self, token: &str) {
        self.shared.offers.lock().unwrap().clear();
        self.shared.settle.lock().unwrap().push(token.into());
        self.wait_until_forgotten().await;
    }

    async fn wait_until_forgotten(&mut self) {
        while self.asked.try_recv().is_ok() {}
        loop {
            self.shared.poked.notify_one();
            if self.asked.recv().await.unwrap().is_empty() {
                return;
            }
        }
    }
}

pub fn texts(log: TaskLog) -> Vec<String> {
    log.lines.into_iter().map(|line| line.text).collect()
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl Agent for Service {
    type ConvergeStream = BoxStream<'static, Result<HostManifest, Status>>;
    type TunnelStream = BoxStream<'static, Result<TunnelRequest, Status>>;
    type RunTaskStream = ReceiverStream<Result<TaskControl, Status>>;

    async fn enroll(&self, _: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn converge(&self, _: Request<ConvergeRequest>) -> Result<Response<Self::ConvergeStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn report(&self, _: Request<Streaming<HostReport>>) -> Result<Response<ReportSummary>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn tunnel(&self, _: Request<Streaming<TunnelAnswer>>) -> Result<Response<Self::TunnelStream>, Status> {
        Err(Status::unimplemented("not needed here"))
    }

    async fn lease_tasks(&self, request: Request<LeaseTasksRequest>) -> Result<Response<LeaseTasksResponse>, Status> {
        let known = request.into_inner().known_tokens;
        let _ = self.0.asked.send(known.clone());
        let new = || -> Vec<TaskAttempt> {
            self.0.offers.lock().unwrap().iter().filter(|offer| !known.contains(&offer.token)).cloned().collect()
        };
        let mut attempts = new();
        if attempts.is_empty() {
            self.0.poked.notified().await;
            attempts = new();
        }
        let settled_tokens = std::mem::take(&mut *self.0.settle.lock().unwrap());
        Ok(Response::new(LeaseTasksResponse { attempts, settled_tokens }))
    }

    async fn run_task(&self, request: Request<Streaming<TaskUpdate>>) -> Result<Response<Self::RunTaskStream>, Status> {
        let (controls, receiver) = mpsc::channel(16);
        *self.0.controls.lock().unwrap() = Some(controls.clone());
        let (mut updates, shared, controls) = (request.into_inner(), self.0.clone(), controls.downgrade());
        tokio::spawn(async move {
            while let Ok(Some(TaskUpdate { update: Some(update), .. })) = updates.message().await {
                if let Update::Alive(number) = update {
                    let answered = {
                        let mut renewals = shared.renewals.lock().unwrap();
                        let answered = *renewals > 0;
                        *renewals = renewals.saturating_sub(1);
                        answered
                    };
                    let Some(controls) = controls.upgrade().filter(|_| answered) else { continue };
                    let _ = controls.send(Ok(TaskControl { control: Some(Control::Renewed(number)) })).await;
                }
                let _ = shared.heard.send(update);
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// The task side of an agent, in a runtime of its own so that it can be ended at any moment with nothing said.
pub struct Host {
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Host {
    pub fn start(gateway: &Gateway, data_dir: PathBuf) -> Self {
        Self::with_path(gateway, data_dir, std::env::var_os("PATH").unwrap_or_default())
    }

    pub fn with_path(gateway: &Gateway, data_dir: PathBuf, path: OsString) -> Self {
        Self::booted(gateway, data_dir, path, "boot-1")
    }

    /// The same host after another boot.
    pub fn booted(gateway: &Gateway, data_dir: PathBuf, path: OsString, boot_id: &str) -> Self {
        let boot_id = boot_id.to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let address = format!("http://{}", gateway.address);
        runtime.spawn(async move {
            let tasks = Tasks::open(Surroundings { data_dir, doors: Arc::new(Doors::new(Vec::new())), path, boot_id }).unwrap();
            let client = AgentClient::connect(address).await.unwrap();
            tasks.lease(client).await;
        });
        Self { runtime: Some(runtime) }
    }

    /// Ends everything at once: what comes after finds only what is on disk.
    pub async fn kill(mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(60))).await.unwrap();
    }
}

pub fn attempt(token: &str, operation: serde_json::Value) -> TaskAttempt {
    TaskAttempt {
        token: token.into(),
        task_uid: "3b8a7e1c-0000-4000-8000-000000000001".into(),
        namespace: "default".into(),
        name: "job".into(),
        attempt: 1,
        operation_json: operation.to_string(),
        object_json: String::new(),
        vm_uid: String::new(),
        timeout_milliseconds: 3_600_000,
        lease_milliseconds: 30_000,
    }
}
