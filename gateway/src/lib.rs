//! The gateway: the control plane of Basalt in one process. It opens the store, starts the API server, the controllers and
//! the hub that agents talk to, and ends them all together.

mod admission;
pub mod certificates;
pub mod client;
pub mod config;
pub mod https;
pub mod hub;
pub mod kubeconfig;
mod leader;
pub mod pki;
mod placement;
mod roles;
mod secret_keys;
mod telemetry;

use basalt_api::SYSTEM_NAMESPACE;
use basalt_apiserver::{
    ApiServer, Metrics, Registry,
    audit::{self, Audit},
    backup::{self, Backup},
};
use basalt_store::{
    Store, StoreError,
    embedded::{self, Embedded},
    etcd::Etcd,
};
use certificates::Certificates;
use config::{AuditLevel, Config, StoreKind};
use hub::tasks::{board::Board, log::Logs, served::TaskLog};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// How long the parts may take to end.
const END_DEADLINE: Duration = Duration::from_secs(7);
/// How long those who work in the background may keep the store after the parts have ended, and how often that is looked at.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);
const CLOSE_POLL: Duration = Duration::from_millis(2);
/// How often logs of tasks are looked through for those to forget.
const LOG_SWEEP: Duration = Duration::from_secs(600);
/// How often certificates are looked at for those that end soon.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(3600);
/// How much history etcd keeps, as Kubernetes has it: who was away for longer lists again.
const ETCD_HISTORY: Duration = Duration::from_secs(300);

/// How long a host must have been silent before nothing of an attempt with such a lease can run there: a third more for the
/// renewal of the host's own lease to be late, and the rest for what clocks may differ by.
pub fn task_lost(lease: Duration) -> Duration {
    lease + lease / 2
}

/// The gateway cannot start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says what failed")]
pub enum GatewayError {
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Api(#[from] basalt_apiserver::StartError),
    #[error("the keys of Secrets, {path}, cannot be used: {source}")]
    SecretKeys { path: PathBuf, source: basalt_apiserver::secret::seal::KeysError },
    #[error("the audit log cannot be kept: {0}")]
    Audit(#[from] audit::LogError),
    #[error("cannot serve a kind: {0}")]
    Registry(#[from] basalt_apiserver::registry::RegistryError),
    #[error(transparent)]
    Listen(#[from] https::ListenError),
    #[error("cannot read the namespace {SYSTEM_NAMESPACE}: {0}")]
    System(#[from] Box<kube::Error>),
    #[error("cannot read the backup {file}: {source}")]
    BackupFile { file: PathBuf, source: std::io::Error },
    #[error("{file} cannot be restored: {source}")]
    Backup { file: PathBuf, source: backup::ReadError },
    #[error("{file} was not restored: {source}")]
    Restore { file: PathBuf, source: backup::RestoreError },
    #[error("a part of the gateway failed: {0}")]
    Part(tokio::task::JoinError),
    #[error("cannot encode {what}: {reason}")]
    Encode { what: &'static str, reason: String },
}

/// Where a running gateway is: `DATA_DIR/gateway.json`, written when it is ready.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// Address of the API.
    pub api: SocketAddr,
    /// Address of the hub.
    pub hub: SocketAddr,
    /// The API, as clients reach it.
    pub api_url: String,
    /// The hub, as agents reach it.
    pub hub_url: String,
    /// The process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Identifies the control plane.
    pub cluster_uid: String,
}

/// Runs the gateway until `shutdown`; `ready` is called once, when everything answers.
pub async fn run(config: Config, shutdown: CancellationToken, ready: impl FnOnce(&Ready)) -> Result<(), GatewayError> {
    let begin = Instant::now();
    let now = Timestamp::now();
    let pki = Arc::new(pki::Pki::open(&config.data_dir, now)?);
    let shown = https::Shown::new(&pki.server(&config.advertise, now)?)?;
    let token = hub::JoinToken::new(&pki::join_token(&config.join_token_file)?);
    let listener = https::bind(config.listen).await?;
    let hub_listener = https::bind(config.hub_listen).await?;
    let local = |listener: &tokio::net::TcpListener, asked: SocketAddr| listener.local_addr().unwrap_or(asked);
    let (api_address, hub_address) = (local(&listener, config.listen), local(&hub_listener, config.hub_listen));
    let store: Arc<dyn Store> = match config.store {
        StoreKind::Embedded => open_embedded(&config, Default::default()).await?,
        StoreKind::Etcd => {
            let etcd = Etcd::connect(&config.etcd_endpoints).await?;
            let forgetful = etcd.clone();
            tokio::spawn(shutdown.clone().run_until_cancelled_owned(async move { forgetful.forget(ETCD_HISTORY).await }));
            etcd
        }
    };

    let place = config.data_dir.join("gateway.json");
    // What a gateway that was killed has left says nothing of this one.
    pki::remove(&place)?;

    let tunnels = Arc::new(hub::tunnel::Tunnels::default());
    let mut registry = Registry::builtin();
    for crd in basalt_api::crds() {
        registry.add_crd(&crd)?;
    }
    registry.add_subresource(basalt_api::GROUP, "virtualmachines", "log", Arc::new(hub::console::ConsoleLog { tunnels: tunnels.clone() }));
    let placement = Arc::new(placement::PlacementOf::default());
    registry.add_subresource(basalt_api::GROUP, "virtualmachines", "placement", placement.clone());
    registry.add_admission(basalt_api::GROUP, "tasks", Arc::new(admission::Tasks));
    registry.add_admission(basalt_api::GROUP, "virtualmachines", Arc::new(admission::VirtualMachines));
    let board = Arc::new(Board::default());
    let logs = Arc::new(Logs::new(store.clone(), config.task_logs()));
    registry.add_subresource(basalt_api::GROUP, "tasks", "log", Arc::new(TaskLog { logs: logs.clone(), board: board.clone() }));
    let (metrics, reconciles) = (Metrics::default(), basalt_controllers::observe::Metrics::default());
    let audit = audit(&config, &metrics)?;
    let options = basalt_apiserver::Options {
        namespaces: vec![SYSTEM_NAMESPACE.into()],
        shutdown: shutdown.clone(),
        metrics: metrics.clone(),
        limits: config.limits(),
        audit: audit.clone(),
        keys: Some(secret_keys::open(&config.data_dir)?),
        roles: roles::builtin(),
        authorizers: vec![Arc::new(roles::OwnHost)],
    };
    let api = ApiServer::start(store.clone(), registry, options).await?;

    let host_grace = Duration::from_secs(config.host_grace_seconds);
    let task_lease = Duration::from_secs(config.task_lease_seconds);
    let settings = basalt_controllers::Settings {
        host_grace,
        task_lost: task_lost(task_lease),
        task_sweep: Duration::from_secs(config.task_sweep_seconds),
        ..Default::default()
    };
    let agents = client::in_process(api.router(), client::part("hub"), None);
    placement.use_client(Some(client::in_process(api.router(), client::part("placement"), None)));
    let cluster_uid = cluster_uid(&agents).await?;

    let name = config.advertise.first().map_or("127.0.0.1", String::as_str);
    let url = |address: SocketAddr| format!("https://{}", kubeconfig::host_port(name, address.port()));
    let here = Ready {
        api: api_address,
        hub: hub_address,
        api_url: url(api_address),
        hub_url: url(hub_address),
        pid: std::process::id(),
        version: basalt_daemon::version::VERSION.into(),
        cluster_uid: cluster_uid.clone(),
    };
    let certificates = Certificates {
        pki: pki.clone(),
        names: config.advertise.clone(),
        shown: shown.clone(),
        kubeconfig: config.data_dir.join("admin.kubeconfig"),
        api_url: here.api_url.clone(),
    };
    certificates.put(now)?;

    let api_tls = https::tls(&pki.ca, shown.clone(), https::API_PROTOCOLS)?;
    let hub_tls = https::tls(&pki.ca, shown, https::HUB_PROTOCOLS)?;
    let heartbeat = Duration::from_secs(config.heartbeat_seconds.into());
    let parts = hub::Parts {
        client: agents,
        pki,
        token,
        cluster_uid,
        heartbeat,
        lease: host_grace,
        tunnels,
        board,
        logs: logs.clone(),
        task_lease,
    };
    let hub = hub::Hub::new(parts, shutdown.clone());
    metrics.register(|registry| {
        reconciles.register(registry);
        telemetry::register(registry, hub.connected());
    });
    let mirror = hub.clone();
    // The hub writes what hosts report until the listeners have let them go, and ends with this.
    let mirror = AbortOnDropHandle::new(tokio::spawn(async move { mirror.run().await }));
    shutdown.run_until_cancelled(hub.ready()).await;
    let mut parts = JoinSet::new();
    parts.spawn(https::serve("api", listener, api_tls, api.router(), shutdown.clone()));
    parts.spawn(https::serve("hub", hub_listener, hub_tls, hub.service(), shutdown.clone()));
    parts.spawn({
        let (shutdown, router) = (shutdown.clone(), api.router());
        let identity = format!("{name}:{}/{}", api_address.port(), uuid::Uuid::new_v4());
        let elections = client::in_process(router.clone(), client::part("election"), None);
        async move {
            let work = |fence, term| {
                let controllers = client::in_process(router.clone(), client::part("controllers"), fence);
                basalt_controllers::run(controllers, settings.clone(), reconciles.clone(), term)
            };
            match config.store {
                // No other gateway can be: this process alone has the directory open.
                StoreKind::Embedded => leader::work_until(std::future::pending(), &shutdown, |term| work(None, term)).await,
                StoreKind::Etcd => {
                    let candidate = leader::Candidate::new(elections, identity);
                    candidate.run(&shutdown, |fence, term| work(Some(fence), term)).await;
                }
            }
        }
    });
    parts.spawn(sweep_logs(logs, shutdown.clone()));
    parts.spawn(certificates.keep(CERTIFICATE_CHECK, Timestamp::now, shutdown.clone()));
    let text = serde_json::to_vec_pretty(&here).map_err(|e| GatewayError::Encode { what: "gateway.json", reason: e.to_string() })?;
    pki::write(&place, &text, 0o644)?;
    tracing::info!(
        api = here.api_url,
        hub = here.hub_url,
        version = here.version,
        "gateway ready after {} ms",
        begin.elapsed().as_millis()
    );
    ready(&here);

    let ended = tokio::select! {
        // None ends before the shutdown but by a fault.
        ended = parts.join_next() => ended,
        () = shutdown.cancelled() => None,
    };
    shutdown.cancel();
    pki::remove(&place)?;
    let rest = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(END_DEADLINE, rest).await.is_err() {
        tracing::warn!("some parts had not ended after {} s", END_DEADLINE.as_secs());
    }
    parts.shutdown().await;
    placement.use_client(None);
    drop((mirror, hub, api, parts));
    close(store).await;
    if let Some(audit) = audit {
        // Waits for the disk: not on the runtime's threads.
        let _ = tokio::task::spawn_blocking(move || audit.log.close()).await;
    }
    if let Some(Err(error)) = ended {
        return Err(GatewayError::Part(error));
    }
    tracing::info!("gateway ended");
    Ok(())
}

/// Forgets logs of tasks when their time has come.
async fn sweep_logs(logs: Arc<Logs>, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(LOG_SWEEP)).await.is_some() {
        match logs.sweep(Timestamp::now()).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::info!(forgotten, "logs of tasks forgotten"),
            Err(error) => tracing::warn!("logs of tasks cannot be looked through, tried again later: {error}"),
        }
    }
}

/// The audit log that the settings ask for.
fn audit(config: &Config, metrics: &Metrics) -> Result<Option<Audit>, GatewayError> {
    let level = match config.audit {
        AuditLevel::Off => return Ok(None),
        AuditLevel::Writes => audit::Level::Writes,
        AuditLevel::All => audit::Level::All,
    };
    let settings = audit::Settings {
        dir: config.data_dir.join("audit"),
        file_bytes: config.audit_file_mib.saturating_mul(1 << 20),
        file_age: Duration::from_secs(config.audit_file_hours.saturating_mul(3600)),
        files: config.audit_files,
        total_bytes: config.audit_total_mib.saturating_mul(1 << 20),
    };
    Ok(Some(Audit { log: Arc::new(audit::Log::open(settings, metrics)?), level }))
}

/// Puts a backup into the store of a gateway that does not run; says what it was of.
pub async fn restore(config: &Config, file: &Path) -> Result<backup::Head, GatewayError> {
    let bytes = tokio::fs::read(file).await.map_err(|source| GatewayError::BackupFile { file: file.to_owned(), source })?;
    let backup = Backup::read(&bytes).map_err(|source| GatewayError::Backup { file: file.to_owned(), source })?;
    let store: Arc<dyn Store> = match config.store {
        StoreKind::Embedded => {
            open_embedded(config, embedded::Options { least_revision: backup.head.revision, ..Default::default() }).await?
        }
        StoreKind::Etcd => Etcd::connect(&config.etcd_endpoints).await?,
    };
    let restored = backup.restore(&*store).await;
    close(store).await;
    restored.map_err(|source| GatewayError::Restore { file: file.to_owned(), source })?;
    Ok(backup.head)
}

async fn open_embedded(config: &Config, options: embedded::Options) -> Result<Arc<Embedded>, StoreError> {
    let dir = config.data_dir.join("store");
    // Opening replays the journal: not for the runtime's threads.
    tokio::task::spawn_blocking(move || Embedded::open(&dir, options)).await.map_err(|_| StoreError::Closed)?
}

/// Waits until nobody has the store any more, and closes it: who opens it next must find it free.
async fn close(store: Arc<dyn Store>) {
    let alone = async {
        while Arc::strong_count(&store) > 1 {
            tokio::time::sleep(CLOSE_POLL).await;
        }
    };
    if tokio::time::timeout(CLOSE_DEADLINE, alone).await.is_err() {
        tracing::warn!("the store is still in use after {} s; it is closed when the process ends", CLOSE_DEADLINE.as_secs());
    }
    // Its end waits for its writer: not for the runtime's threads.
    let _ = tokio::task::spawn_blocking(move || drop(store)).await;
}

/// What identifies the control plane for the life of its state: the uid of its own namespace.
async fn cluster_uid(client: &kube::Client) -> Result<String, GatewayError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = namespaces.get(SYSTEM_NAMESPACE).await.map_err(Box::new)?;
    Ok(system.metadata.uid.unwrap_or_default())
}
