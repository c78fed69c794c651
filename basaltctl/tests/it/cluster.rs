//! A cluster for a test: the real API server with the embedded store in a temporary directory, served on loopback, and
//! `basaltctl` as a process. Nothing of Basalt runs behind it: tests write what controllers would.

use axum::{
    extract::Request,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
};
use basalt_apiserver::{
    ApiServer, Identity, Metrics, Options, Registry, Status, Subresource,
    audit::{self, Audit},
};
use basalt_store::embedded::Embedded;
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::{ApiResource, ObjectMeta},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    fmt,
    io::{BufRead, BufReader, Write},
    ops::Deref,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// A virtual machine that the server accepts.
pub const VM: &str = "apiVersion: basalt.dev/v1alpha1
kind: VirtualMachine
metadata:
  name: web-1
  labels: {app: web}
spec:
  memory: 512Mi
  boot: {disk: {name: root}}
  disks: [{name: root, image: debian}]
";

/// Longer than anything takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// `basaltctl` with a kubeconfig.
#[derive(Clone)]
pub struct Ctl {
    directory: Arc<TempDir>,
    environment: Vec<(String, String)>,
    url: String,
}

/// How a run ended, and what it printed.
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit {}\n--- stdout\n{}--- stderr\n{}", self.code, self.out, self.err)
    }
}

impl Ctl {
    /// With a kubeconfig that leads to `url`.
    pub fn at(url: &str) -> Self {
        Self::of(url, json!({"server": url}))
    }

    /// With a kubeconfig that has this cluster, which is at `url`.
    pub fn of(url: &str, cluster: Value) -> Self {
        Self::with_user(url, cluster, json!({}))
    }

    /// At this server, with a token.
    pub fn bearing(&self, token: &str) -> Self {
        Self::with_user(&self.url, json!({"server": self.url}), json!({"token": token}))
    }

    fn with_user(url: &str, cluster: Value, user: Value) -> Self {
        let directory = Arc::new(tempfile::tempdir().unwrap());
        let ctl = Self { directory, environment: Vec::new(), url: url.to_owned() };
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "lab-1",
            "contexts": [{"name": "lab-1", "context": {"cluster": "lab", "user": "admin"}}],
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "admin", "user": user}],
        });
        ctl.file("kubeconfig", &config.to_string());
        let kubeconfig = ctl.kubeconfig();
        ctl.with("KUBECONFIG", &kubeconfig)
    }

    /// The same with another environment.
    pub fn with(&self, key: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.environment.retain(|(k, _)| k != key);
        other.environment.push((key.to_owned(), value.to_owned()));
        other
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn kubeconfig(&self) -> String {
        self.path("kubeconfig")
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        self.bytes(name, text.as_bytes())
    }

    pub fn bytes(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.directory.path()).env("PATH", path()).env("LANG", "C.UTF-8");
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, words: &[&str]) -> Run {
        self.spawn(words).end()
    }

    pub fn shell(&self, line: &str) -> Run {
        let mut command = self.command("bash");
        command.args(["-c", line]);
        Running::start(command, None).end()
    }

    /// Runs it with something on its standard input.
    pub fn fed(&self, words: &[&str], input: &[u8]) -> Run {
        let mut command = self.command(env!("CARGO_BIN_EXE_basaltctl"));
        command.args(words).stdin(Stdio::piped());
        Running::start(command, Some(input)).end()
    }

    pub fn spawn(&self, words: &[&str]) -> Running {
        let mut command = self.command(env!("CARGO_BIN_EXE_basaltctl"));
        command.args(words);
        Running::start(command, None)
    }
}

fn path() -> String {
    let own = std::path::Path::new(env!("CARGO_BIN_EXE_basaltctl")).parent().unwrap().display().to_string();
    format!("{own}:/usr/local/bin:/usr/bin:/bin")
}

/// A process whose output is read as it comes.
pub struct Running {
    child: Child,
    out: Output,
    err: Output,
}

struct Output {
    lines: Receiver<String>,
    all: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Output {
    fn read(stream: impl std::io::Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        let all = Arc::new(Mutex::new(String::new()));
        let kept = all.clone();
        let reader = std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            loop {
                let mut line = Vec::new();
                if stream.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                    return;
                }
                let line = String::from_utf8_lossy(&line).into_owned();
                kept.lock().unwrap().push_str(&line);
                let _ = sender.send(line);
            }
        });
        Self { lines, all, reader: Some(reader) }
    }

    fn line_with(&self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return line,
                Ok(_) => {}
                Err(_) => panic!("no line with {text:?} in:\n{}", self.all.lock().unwrap()),
            }
        }
    }

    fn end(&mut self) -> String {
        self.reader.take().unwrap().join().unwrap();
        self.all.lock().unwrap().clone()
    }
}

impl Running {
    fn start(mut command: Command, input: Option<&[u8]>) -> Self {
        let mut child = command.spawn().unwrap();
        let (out, err) = (Output::read(child.stdout.take().unwrap()), Output::read(child.stderr.take().unwrap()));
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input).unwrap();
        }
        Self { child, out, err }
    }

    /// The next line of standard output that contains `text`.
    pub fn line_with(&self, text: &str) -> String {
        self.out.line_with(text)
    }

    /// The next line of standard error that contains `text`.
    pub fn told(&self, text: &str) -> String {
        self.err.line_with(text)
    }

    /// Waits for its end.
    pub fn end(mut self) -> Run {
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                let _ = self.child.kill();
                panic!("it did not end:\n{}{}", self.out.end(), self.err.end());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Run { code: status.code().unwrap_or(-1), out: self.out.end(), err: self.err.end() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A cluster of one API server.
pub struct Cluster {
    ctl: Ctl,
    client: Client,
    runtime: Runtime,
    shutdown: CancellationToken,
    _store: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A console that says for which machine and how it was asked; the real one is on a host.
struct Console;

#[async_trait::async_trait]
impl Subresource for Console {
    async fn get(&self, vm: Arc<Value>, query: HashMap<String, String>) -> Result<Response, Status> {
        let asked = |key: &str| query.get(key).cloned().unwrap_or_default();
        let name = vm["metadata"]["name"].as_str().unwrap_or_default();
        Ok(format!("console of {name}, follow={}, tailLines={}\nlogin: ", asked("follow"), asked("tailLines")).into_response())
    }
}

impl Deref for Cluster {
    type Target = Ctl;
    fn deref(&self) -> &Ctl {
        &self.ctl
    }
}

impl Cluster {
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (store, shutdown) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let mut registry = Registry::builtin();
        basalt_api::crds().iter().for_each(|crd| registry.add_crd(crd).unwrap());
        registry.add_subresource("basalt.dev", "virtualmachines", "log", Arc::new(Console));
        let metrics = Metrics::default();
        let log = Arc::new(audit::Log::open(audit::Settings::new(store.path().join("audit")), &metrics).unwrap());
        let audit = Some(Audit { log, level: audit::Level::Writes });
        let options = Options { shutdown: shutdown.clone(), metrics, audit, ..Options::default() };
        let url = runtime.block_on(async {
            let store = Embedded::open(&store.path().join("store"), Default::default()).unwrap();
            let server = ApiServer::start(store, registry, options).await.unwrap();
            let router = server.router().layer(from_fn(|mut request: Request, next: Next| async move {
                if !request.headers().contains_key(http::header::AUTHORIZATION) {
                    request.extensions_mut().insert(Identity::new("admin", ["system:masters"]));
                }
                next.run(request).await
            }));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            tokio::spawn(async move { axum::serve(listener, router).await });
            url
        });
        let config = kube::Config::new(url.parse().unwrap());
        let client = runtime.block_on(async { Client::try_from(config) }).unwrap();
        Self { ctl: Ctl::at(&url), client, runtime, shutdown, _store: store }
    }

    fn vms(&self) -> Api<DynamicObject> {
        let resource = ApiResource {
            group: "basalt.dev".into(),
            version: "v1alpha1".into(),
            api_version: "basalt.dev/v1alpha1".into(),
            kind: "VirtualMachine".into(),
            plural: "virtualmachines".into(),
        };
        Api::namespaced_with(self.client.clone(), "default", &resource)
    }

    /// The manifest as JSON.
    pub fn json(&self, yaml: &str) -> String {
        serde_saphyr::from_str::<Value>(yaml).unwrap().to_string()
    }

    /// Applies a manifest with `basaltctl`.
    pub fn applied(&self, yaml: &str) {
        let run = self.fed(&["apply", "-f", "-"], yaml.as_bytes());
        assert_eq!(run.code, 0, "{run}");
    }

    /// Applies a virtual machine as another field manager.
    pub fn applied_by(&self, manager: &str, yaml: &str) {
        let object: DynamicObject = serde_saphyr::from_str(yaml).unwrap();
        let name = object.metadata.name.clone().unwrap();
        self.runtime.block_on(self.vms().patch(&name, &PatchParams::apply(manager), &Patch::Apply(&object))).unwrap();
    }

    /// Replaces the status of a virtual machine, as its controller would.
    pub fn status(&self, name: &str, mut status: Value) {
        status["restarts"] = json!(0);
        self.runtime.block_on(async {
            let vms = self.vms();
            let mut vm = vms.get(name).await.unwrap();
            vm.data["status"] = status;
            vms.replace_status(name, &PostParams::default(), &vm).await.unwrap();
        });
    }

    /// A condition of a status.
    pub fn condition(type_: &str, status: &str) -> Value {
        json!({"type": type_, "status": status, "reason": "Tested", "message": "", "lastTransitionTime": "2026-11-23T12:00:00Z"})
    }

    /// Sets the finalizers of a virtual machine.
    pub fn finalizers(&self, name: &str, finalizers: Value) {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        self.runtime.block_on(self.vms().patch(name, &PatchParams::default(), &patch)).unwrap();
    }

    /// Deletes a virtual machine.
    pub fn delete(&self, name: &str) {
        let _ = self.runtime.block_on(self.vms().delete(name, &DeleteParams::default())).unwrap();
    }

    /// Records an event about a virtual machine.
    pub fn event(&self, name: &str, reason: &str, message: &str) {
        let event = Event {
            metadata: ObjectMeta { name: Some(format!("{name}.{}", reason.to_lowercase())), ..ObjectMeta::default() },
            involved_object: ObjectReference {
                kind: Some("VirtualMachine".into()),
                name: Some(name.into()),
                namespace: Some("default".into()),
                ..ObjectReference::default()
            },
            type_: Some("Normal".into()),
            reason: Some(reason.into()),
            message: Some(message.into()),
            ..Event::default()
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        self.runtime.block_on(events.create(&PostParams::default(), &event)).unwrap();
    }
}
