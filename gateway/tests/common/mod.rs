//! A gateway in this process, on free ports and the embedded store, and a simulated agent: the agent's end of the protocol
//! without any VMM behind it.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests")]

use basalt_api::{Host, HostPhase, VirtualMachine};
use basalt_gateway::{
    GatewayError, Ready,
    config::{Config, Settings},
};
use basalt_proto::v1::{
    ConvergeRequest, EnrollRequest, EnrollResponse, HostInventory, HostManifest, HostReport, TunnelAnswer, TunnelRequest, VmReport,
    VmmReport, agent_client::AgentClient,
};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::await_condition,
};
use serde_json::{Value, json};
use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Status, Streaming,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

/// How long anything may take before a test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for something, at most [`DEADLINE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"))
}

/// A running gateway. It ends when dropped.
pub struct Gateway {
    pub dir: PathBuf,
    pub ready: Ready,
    shutdown: CancellationToken,
    task: Option<JoinHandle<Result<(), GatewayError>>>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub fn config(dir: &Path) -> Config {
    Settings {
        data_dir: Some(dir.to_owned()),
        listen: Some(([127, 0, 0, 1], 0).into()),
        hub_listen: Some(([127, 0, 0, 1], 0).into()),
        heartbeat_seconds: Some(1),
        ..Settings::default()
    }
    .resolve()
    .unwrap()
}

/// Starts a gateway whose data is in `dir`.
pub async fn start(dir: &Path) -> Gateway {
    start_with(config(dir)).await
}

pub async fn start_with(config: Config) -> Gateway {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = config.data_dir.clone();
    let shutdown = CancellationToken::new();
    let (tell, told) = oneshot::channel();
    let ended = shutdown.clone();
    let task = tokio::spawn(basalt_gateway::run(config, ended, |ready| tell.send(ready.clone()).unwrap()));
    match within("the gateway to be ready", told).await {
        Ok(ready) => Gateway { dir, ready, shutdown, task: Some(task) },
        Err(_) => panic!("the gateway did not start: {:?}", task.await),
    }
}

impl Gateway {
    /// Ends the gateway and waits until it has.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        within("the gateway to end", self.task.take().unwrap()).await.unwrap().unwrap();
    }

    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    pub fn token(&self) -> String {
        self.file("join-token")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// A client that speaks TLS with the gateway, as its kubeconfig says.
    pub async fn admin(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        // What the gateway says is what is tested: kube's own retries would hide a 503 for minutes.
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    /// A client of the API with a certificate or without.
    pub fn client(&self, identity: Option<(&str, &str)>) -> Client {
        let mut config = kube::Config::new(format!("https://{}", self.ready.api).parse().unwrap());
        config.root_cert = Some(vec![x509_parser::pem::parse_x509_pem(self.file("ca.crt").as_bytes()).unwrap().1.contents]);
        config.default_retry = false;
        if let Some((certificate, key)) = identity {
            let encoded = |text: &str| Some(base64::Engine::encode(&base64::prelude::BASE64_STANDARD, text));
            config.auth_info.client_certificate_data = encoded(certificate);
            config.auth_info.client_key_data = encoded(key).map(Into::into);
        }
        Client::try_from(config).unwrap()
    }

    /// A client of the API with a token of a user, made for it.
    pub async fn token_client(&self, user: &str) -> Client {
        use sha2::{Digest, Sha256};
        let token = format!("basalt_{user}_{}", "5e".repeat(32));
        let hash: String = Sha256::digest(&token).iter().map(|byte| format!("{byte:02x}")).collect();
        let object = json!({
            "apiVersion": "authentication.basalt.dev/v1",
            "kind": "AccessToken",
            "metadata": { "name": user },
            "spec": { "user": user, "tokenHash": hash, "expiresAt": "2999-01-01T00:00:00Z" },
        });
        let request = http::Request::post("/apis/authentication.basalt.dev/v1/accesstokens").header("content-type", "application/json");
        self.admin().await.request_text(request.body(object.to_string().into_bytes()).unwrap()).await.unwrap();
        let mut config = kube::Config::new(format!("https://{}", self.ready.api).parse().unwrap());
        config.root_cert = Some(vec![x509_parser::pem::parse_x509_pem(self.file("ca.crt").as_bytes()).unwrap().1.contents]);
        config.default_retry = false;
        config.auth_info.token = Some(token.into());
        Client::try_from(config).unwrap()
    }

    /// A connection to the hub, with a certificate or without.
    pub async fn dial(&self, identity: Option<(&str, &str)>) -> Result<AgentClient<Channel>, tonic::transport::Error> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(self.file("ca.crt"))).domain_name("127.0.0.1");
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.ready.hub)).unwrap().tls_config(tls).unwrap();
        Ok(AgentClient::new(endpoint.connect_timeout(DEADLINE).timeout(DEADLINE * 3).connect().await?))
    }

    /// Makes a machine a host and connects as it.
    pub async fn enrol(&self, host: &str) -> Agent {
        let key = rcgen::KeyPair::generate().unwrap();
        let request = enroll_request(&self.token(), host, &csr(&key));
        let response = self.dial(None).await.unwrap().enroll(request).await.unwrap().into_inner();
        let key = key.serialize_pem();
        let hub = self.dial(Some((&response.certificate_pem, &key))).await.unwrap();
        Agent { host: host.to_owned(), hub, enrolled: response, key }
    }

    /// The same, and the host is Ready.
    pub async fn ready_host(&self, host: &str) -> (Agent, Reports) {
        let agent = self.enrol(host).await;
        let reports = agent.reports().await;
        reports.send(report(0, vec![])).await;
        let hosts: Api<Host> = Api::all(self.admin().await);
        until(&hosts, host, "the host is Ready", |host: &Host| {
            host.status.as_ref().is_some_and(|status| status.phase == Some(HostPhase::Ready))
        })
        .await;
        (agent, reports)
    }
}

pub fn csr(key: &rcgen::KeyPair) -> String {
    rcgen::CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

pub fn enroll_request(token: &str, host: &str, csr_pem: &str) -> EnrollRequest {
    EnrollRequest { token: token.trim().into(), host: host.into(), csr_pem: csr_pem.into(), agent_version: "0.0.0+simulated".into() }
}

/// The simulated agent of one host.
#[derive(Clone)]
pub struct Agent {
    pub host: String,
    pub hub: AgentClient<Channel>,
    pub enrolled: EnrollResponse,
    pub key: String,
}

/// An open stream of reports. The host is silent once it is dropped.
pub struct Reports {
    sender: mpsc::Sender<HostReport>,
    pub ended: JoinHandle<Result<(), Status>>,
}

/// An open tunnel.
pub struct Tunnel {
    pub requests: Streaming<TunnelRequest>,
    pub answers: mpsc::Sender<TunnelAnswer>,
}

impl Agent {
    pub async fn manifests(&self, known_generation: u64) -> Streaming<HostManifest> {
        self.hub.clone().converge(ConvergeRequest { known_generation }).await.unwrap().into_inner()
    }

    pub async fn reports(&self) -> Reports {
        let (sender, reports) = mpsc::channel(16);
        let mut hub = self.hub.clone();
        let ended = tokio::spawn(async move { hub.report(ReceiverStream::new(reports)).await.map(drop) });
        Reports { sender, ended }
    }

    pub async fn tunnel(&self) -> Tunnel {
        let (answers, outgoing) = mpsc::channel(16);
        answers.send(TunnelAnswer::default()).await.unwrap();
        let requests = self.hub.clone().tunnel(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        Tunnel { requests, answers }
    }
}

impl Reports {
    pub async fn send(&self, report: HostReport) {
        self.sender.send(report).await.unwrap();
    }
}

/// The next manifest that is as described.
pub async fn manifest(stream: &mut Streaming<HostManifest>, what: &str, good: impl Fn(&HostManifest) -> bool) -> HostManifest {
    within(what, async {
        loop {
            let manifest = stream.message().await.unwrap().expect("the stream goes on");
            if good(&manifest) {
                return manifest;
            }
        }
    })
    .await
}

pub fn report(acknowledged_generation: u64, vms: Vec<VmReport>) -> HostReport {
    let qemu = VmmReport { name: "Qemu".into(), version: "7.2".into(), accelerator: "Tcg".into() };
    let inventory = HostInventory {
        boot_id: "boot-1".into(),
        agent_version: "0.0.0+simulated".into(),
        cpus: 8,
        memory_bytes: 16 << 30,
        vmms: vec![qemu],
        addresses: vec!["198.18.0.2".into()],
    };
    HostReport { acknowledged_generation, inventory: Some(inventory), vms, images: vec![] }
}

/// What a host says of a VM.
pub fn seen(vm: &VirtualMachine, epoch: i64, state: &str) -> VmReport {
    let observed = json!({ "epoch": epoch, "generation": vm.metadata.generation, "state": state, "vmm": "Qemu", "accelerator": "Tcg" });
    VmReport {
        uid: vm.uid().unwrap(),
        namespace: vm.namespace().unwrap(),
        name: vm.name_any(),
        observed_json: observed.to_string(),
        events: vec![],
    }
}

/// Waits until an object is as described.
pub async fn until<K>(api: &Api<K>, name: &str, what: &str, good: impl Fn(&K) -> bool) -> K
where
    K: kube::Resource + Clone + Debug + Send + serde::de::DeserializeOwned + 'static,
{
    let found = within(what, await_condition(api.clone(), name, |object: Option<&K>| object.is_some_and(&good))).await;
    found.unwrap().unwrap()
}

pub async fn until_gone<K>(api: &Api<K>, name: &str)
where
    K: kube::Resource + Clone + Debug + Send + serde::de::DeserializeOwned + 'static,
{
    within("the object is gone", await_condition(api.clone(), name, |object: Option<&K>| object.is_none())).await.unwrap();
}

pub fn vms(client: &Client) -> Api<VirtualMachine> {
    Api::namespaced(client.clone(), "default")
}

/// A VM that boots the image `linux`.
pub async fn create_vm(client: &Client, name: &str, more: Value) -> VirtualMachine {
    let mut vm = json!({
        "apiVersion": "basalt.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": { "name": name },
        "spec": { "memory": "256Mi", "boot": { "kernel": { "image": "linux" } } },
    });
    json_merge(&mut vm, &more);
    let vm: VirtualMachine = serde_json::from_value(vm).unwrap();
    vms(client).create(&Default::default(), &vm).await.unwrap()
}

fn json_merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            more.iter().for_each(|(name, value)| json_merge(into.entry(name.clone()).or_insert(Value::Null), value));
        }
        (into, more) => *into = more.clone(),
    }
}

/// A VM that the controllers have placed on a host.
pub async fn placed_vm(client: &Client, name: &str, host: &str) -> VirtualMachine {
    create_vm(client, name, json!({})).await;
    until(&vms(client), name, "the VM is placed", |vm| vm.status.as_ref().and_then(|s| s.host.as_deref()) == Some(host)).await
}

pub fn epoch(vm: &VirtualMachine) -> i64 {
    vm.status.as_ref().unwrap().placement_epoch.unwrap()
}

/// Places a VM anew by hand, as if its host had failed.
pub async fn place_by_hand(client: &Client, name: &str, host: &str, epoch: i64) -> VirtualMachine {
    let patch = json!({ "status": { "host": host, "placementEpoch": epoch } });
    vms(client).patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap()
}
