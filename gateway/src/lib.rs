//! The gateway: the control plane of Basalt in one process. It opens the store, starts the API server, the controllers and
//! the hub that agents talk to, and ends them all together.

pub mod client;
pub mod config;
pub mod https;
pub mod hub;
pub mod kubeconfig;
pub mod pki;

use basalt_api::SYSTEM_NAMESPACE;
use basalt_apiserver::{ApiServer, Registry};
use basalt_store::{Store, StoreError, embedded::Embedded, etcd::Etcd};
use config::{Config, StoreKind};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, sync::Arc, time::Duration, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long the parts may take to end.
const END_DEADLINE: Duration = Duration::from_secs(8);

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
    #[error("cannot serve a kind: {0}")]
    Registry(#[from] basalt_apiserver::registry::RegistryError),
    #[error(transparent)]
    Listen(#[from] https::ListenError),
    #[error("cannot start the hub: {0}")]
    Hub(#[from] tonic::transport::Error),
    #[error("cannot read the namespace {SYSTEM_NAMESPACE}: {0}")]
    System(#[from] Box<kube::Error>),
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
    let server = pki.server(&config.advertise, now)?;
    let token = hub::token(&config.join_token_file)?;
    let listener = https::bind(config.listen).await?;
    let hub_listener = https::bind(config.hub_listen).await?;
    let local = |listener: &tokio::net::TcpListener, asked: SocketAddr| listener.local_addr().unwrap_or(asked);
    let (api_address, hub_address) = (local(&listener, config.listen), local(&hub_listener, config.hub_listen));
    let store: Arc<dyn Store> = match config.store {
        StoreKind::Embedded => {
            let dir = config.data_dir.join("store");
            // Opening replays the journal: not for the runtime's threads.
            let opened = tokio::task::spawn_blocking(move || Embedded::open(&dir, Default::default())).await;
            opened.map_err(|_| StoreError::Closed)??
        }
        StoreKind::Etcd => Etcd::connect(&config.etcd_endpoints).await?,
    };

    let tunnels = Arc::new(hub::tunnel::Tunnels::default());
    let mut registry = Registry::builtin();
    for crd in basalt_api::crds() {
        registry.add_crd(&crd)?;
    }
    registry.add_subresource(basalt_api::GROUP, "virtualmachines", "log", Arc::new(hub::console::ConsoleLog::new(tunnels.clone())));
    let options = basalt_apiserver::Options { namespaces: vec![SYSTEM_NAMESPACE.into()], shutdown: shutdown.clone() };
    let api = ApiServer::start(store, registry, options).await?;

    let controllers = client::in_process(api.router(), client::part("controllers"));
    let settings = basalt_controllers::Settings { host_grace: Duration::from_secs(config.host_grace_seconds), ..Default::default() };
    let agents = client::in_process(api.router(), client::part("hub"));
    let cluster_uid = cluster_uid(&agents).await?;

    let admin = pki.admin(now)?;
    let url =
        format!("https://{}", kubeconfig::host_port(config.advertise.first().map_or("127.0.0.1", String::as_str), api_address.port()));
    let file = kubeconfig::admin(&url, &pki.ca, &admin)?;
    pki::write(&config.data_dir.join("admin.kubeconfig"), file.as_bytes(), 0o600)?;

    let tls = https::tls(&pki.ca, &server)?;
    let hub = hub::Hub::start(agents, pki.clone(), token, cluster_uid.clone(), config.heartbeat_seconds, tunnels, shutdown.clone()).await;
    let parts = async {
        tokio::join!(
            https::serve(listener, tls, api.router(), shutdown.clone()),
            basalt_controllers::run(controllers, settings, shutdown.clone()),
            hub::serve(hub, hub_listener, &pki.ca, &server, shutdown.clone()),
        )
        .2
    };
    let here =
        Ready { api: api_address, hub: hub_address, pid: std::process::id(), version: basalt_daemon::version::VERSION.into(), cluster_uid };
    let text = serde_json::to_vec_pretty(&here).map_err(|e| GatewayError::Encode { what: "gateway.json", reason: e.to_string() })?;
    pki::write(&config.data_dir.join("gateway.json"), &text, 0o644)?;
    tracing::info!(api = %here.api, hub = %here.hub, version = here.version, "gateway ready after {} ms", begin.elapsed().as_millis());
    ready(&here);

    tokio::pin!(parts);
    tokio::select! {
        ended = &mut parts => ended?,
        () = shutdown.cancelled() => match tokio::time::timeout(END_DEADLINE, &mut parts).await {
            Ok(ended) => ended?,
            Err(_) => tracing::warn!("some parts had not ended after {} s", END_DEADLINE.as_secs()),
        },
    }
    tracing::info!("gateway ended");
    Ok(())
}

/// What identifies the control plane for the life of its state: the uid of its own namespace.
async fn cluster_uid(client: &kube::Client) -> Result<String, GatewayError> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let system = namespaces.get(SYSTEM_NAMESPACE).await.map_err(Box::new)?;
    Ok(system.metadata.uid.unwrap_or_default())
}
