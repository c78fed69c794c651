//! An API server on the embedded store, served over plain HTTP on loopback to an administrator.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

pub mod rbac;
pub mod wire;

use axum::{Router, extract::Request, middleware::Next};
use basalt_apiserver::{ApiServer, Identity, Limits, Options, Registry, StartError, secret::seal::Keys};
use basalt_store::{Store, embedded::Embedded};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{Arc, LazyLock},
};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

pub struct Server {
    pub address: SocketAddr,
    /// What other programs of the same process ask.
    pub router: Router,
    api: ApiServer,
    wire: wire::Client,
    shutdown: CancellationToken,
    dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A header that names who asks: `user`, who is in no group, or `user/group`. Without it, it is an administrator.
pub const AS: &str = "x-test-as";

fn named(who: &str) -> Identity {
    let mut parts = who.split('/');
    Identity::new(parts.next().unwrap_or_default(), parts)
}

fn admin() -> Identity {
    Identity::new("admin", ["system:masters"])
}

pub async fn start() -> Server {
    start_on(|store| store).await
}

/// The same, on what is made of the embedded store.
pub async fn start_on(make: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Server {
    try_start(make, |_| Options::default(), &[]).await.unwrap()
}

/// The same, on what is made of the embedded store, with limits.
pub async fn start_within(limits: Limits, make: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Server {
    try_start(make, |_| Options { limits, ..Options::default() }, &[]).await.unwrap()
}

/// The same, with options that may use the directory of the server.
pub async fn start_with(options: impl FnOnce(&Path) -> Options) -> Server {
    try_start(|store| store, options, &[]).await.unwrap()
}

/// The same, which serves a further kind.
pub async fn start_serving(
    crd: CustomResourceDefinition,
    make: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
) -> Result<Server, StartError> {
    try_start(make, |_| Options::default(), &[crd]).await
}

/// Those of all servers of a test, which may have one store.
static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::parse(&Keys::generate("test").unwrap()).unwrap());

async fn try_start(
    make: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    options: impl FnOnce(&Path) -> Options,
    more: &[CustomResourceDefinition],
) -> Result<Server, StartError> {
    let dir = tempfile::tempdir().unwrap();
    let store = make(Embedded::open(&dir.path().join("store"), Default::default()).unwrap());
    let mut registry = Registry::builtin();
    for crd in basalt_api::crds().iter().chain(more) {
        registry.add_crd(crd).unwrap();
    }
    let shutdown = CancellationToken::new();
    let keys = Some(KEYS.clone());
    let api = ApiServer::start(store, registry, Options { shutdown: shutdown.clone(), keys, ..options(dir.path()) }).await?;
    Ok(serve(api, Some(admin()), shutdown, dir).await)
}

/// Serves to an administrator.
pub async fn serve_to_admin(api: ApiServer) -> Server {
    serve(api, Some(admin()), CancellationToken::new(), tempfile::tempdir().unwrap()).await
}

/// Serves to one who is always the same, or to somebody unknown, unless a request says otherwise.
async fn serve(api: ApiServer, identity: Option<Identity>, shutdown: CancellationToken, dir: TempDir) -> Server {
    let router = api.router().layer(axum::middleware::from_fn(move |mut request: Request, next: Next| {
        let user = request.headers_mut().remove(AS).map(|user| named(user.to_str().unwrap()));
        let identity = user.or_else(|| identity.clone());
        async move {
            if let Some(identity) = identity {
                request.extensions_mut().insert(identity);
            }
            next.run(request).await
        }
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = router.clone();
    tokio::spawn(async move { axum::serve(listener, served).await });
    Server { address, router, api, wire: wire::client(), shutdown, dir }
}

impl Server {
    /// The same server, as somebody else reaches it.
    pub async fn seen_by(&self, user: &str, groups: &[&str]) -> Server {
        let identity = Identity::new(user, groups.iter().copied());
        serve(self.api.clone(), Some(identity), self.shutdown.child_token(), tempfile::tempdir().unwrap()).await
    }

    /// The same server, as it is reached without a certificate.
    pub async fn seen_by_nobody(&self) -> Server {
        serve(self.api.clone(), None, self.shutdown.child_token(), tempfile::tempdir().unwrap()).await
    }

    /// Begins the end of the server; it still answers.
    pub fn end(&self) {
        self.shutdown.cancel();
    }

    /// kube-rs's client, over the socket.
    pub fn client(&self) -> kube::Client {
        let address: http::Uri = format!("http://{}", self.address).parse().unwrap();
        kube::Client::try_from(kube::Config::new(address)).unwrap()
    }

    /// Writes the condition Ready into a VM's status, as its controller does.
    pub async fn set_ready(&self, name: &str) {
        let vms: kube::Api<basalt_api::VirtualMachine> = kube::Api::default_namespaced(self.client());
        let ready = serde_json::json!({
            "type": "Ready", "status": "True", "reason": "Tested", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let patch = kube::api::Patch::Merge(serde_json::json!({ "status": { "conditions": [ready] } }));
        vms.patch_status(name, &Default::default(), &patch).await.unwrap();
    }

    /// A directory for what clients leave.
    pub fn scratch(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub fn kubeconfig(&self) -> std::path::PathBuf {
        let path = self.dir.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: t\nclusters: [{{name: t, cluster: {{server: 'http://{}'}}}}]\ncontexts: [{{name: t, context: {{cluster: t, user: t}}}}]\nusers: [{{name: t, user: {{}}}}]\n",
            self.address
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs the `kubectl` on PATH; whether it succeeded, and all that it printed.
    pub async fn kubectl(&self, args: &[&str], input: &str) -> (bool, String) {
        let mut child = tokio::process::Command::new("kubectl")
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is on PATH: scripts/setup test installs it");
        child.stdin.take().unwrap().write_all(input.as_bytes()).await.ok();
        let output = child.wait_with_output().await.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// The same, and it must succeed.
    pub async fn kubectl_ok(&self, args: &[&str], input: &str) -> String {
        let (success, text) = self.kubectl(args, input).await;
        assert!(success, "kubectl {args:?}: {text}");
        text
    }
}

/// A VM as a manifest.
pub fn vm(name: &str, memory: &str) -> String {
    format!(
        "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {{name: {name}}}\nspec: {{memory: {memory}, boot: {{kernel: {{image: k}}}}}}\n"
    )
}
