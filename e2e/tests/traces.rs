//! Traces: a gateway and an agent, told of a collector, send it what they do; without one that answers they work as ever.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use basalt_api::{Host, HostPhase, VirtualMachine, virtual_machine::VmPhase};
use basalt_e2e::fleet::{client, program};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, client::Body, runtime::wait::await_condition};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value as Attribute,
    trace::v1::Span,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

const DEADLINE: Duration = Duration::from_secs(60);

/// A span with the program that sent it.
#[derive(Clone, Debug)]
struct Seen {
    service: String,
    span: Span,
}

impl Seen {
    fn attribute(&self, name: &str) -> String {
        let found = self.span.attributes.iter().find(|attribute| attribute.key == name);
        match found.and_then(|attribute| attribute.value.clone()?.value) {
            Some(Attribute::StringValue(text)) => text,
            Some(Attribute::IntValue(number)) => number.to_string(),
            other => format!("{other:?}"),
        }
    }

    fn is_child_of(&self, parent: &Seen) -> bool {
        self.span.parent_span_id == parent.span.span_id && self.span.trace_id == parent.span.trace_id
    }
}

/// An OTLP collector that keeps what it is sent.
#[derive(Clone)]
struct Collector {
    spans: Arc<watch::Sender<Vec<Seen>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(&self, request: Request<ExportTraceServiceRequest>) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.spans.send_modify(|spans| {
            for of_program in request.into_inner().resource_spans {
                let resource = of_program.resource.unwrap_or_default();
                let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
                let Some(Attribute::StringValue(service)) = name.value.clone().unwrap().value else { unreachable!("it is a text") };
                let all = of_program.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(all.map(|span| Seen { service: service.clone(), span }));
            }
        });
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn on(listener: TcpListener) -> Self {
        let collector = Self { spans: Arc::new(watch::Sender::new(Vec::new())) };
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        collector
    }

    /// Waits for a span as described.
    async fn span(&self, what: &str, is: impl Fn(&Seen) -> bool) -> Seen {
        let mut seen = self.spans.subscribe();
        let found = timeout(DEADLINE, seen.wait_for(|spans| spans.iter().any(&is))).await.map(|all| all.unwrap().clone());
        let spans = found.unwrap_or_else(|_| {
            let names: Vec<_> = self.spans.borrow().iter().map(|seen| format!("{}: {}", seen.service, seen.span.name)).collect();
            unreachable!("no span is {what}: {names:#?}")
        });
        spans.into_iter().find(is).unwrap()
    }
}

/// A program that is killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn terminate(mut self) {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

fn start(dir: &Path, name: &str, args: &[&str], environment: &[(&str, &str)]) -> Running {
    let log = File::create(dir.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(program(&format!("basalt-{name}")));
    command.args(args).arg("--data-dir").arg(dir.join(name)).stderr(log).env_remove("RUST_LOG").env("OTEL_BSP_SCHEDULE_DELAY", "50");
    Running(command.envs(environment.iter().copied()).spawn().unwrap())
}

/// Starts a gateway; says where its hub is.
async fn gateway(dir: &Path, args: &[&str], environment: &[(&str, &str)]) -> (Running, String, Client) {
    let listen = ["--listen", "127.0.0.1:0", "--hub-listen", "127.0.0.1:0"];
    let gateway = start(dir, "gateway", &[&listen, args].concat(), environment);
    let place = dir.join("gateway/gateway.json");
    let ready = async {
        while !place.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, ready).await.expect("the gateway becomes ready");
    let ready: Value = serde_json::from_slice(&fs::read(place).unwrap()).unwrap();
    (gateway, ready["hubUrl"].as_str().unwrap().to_owned(), client(&dir.join("gateway/admin.kubeconfig")).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_what_gateway_and_agent_do_and_requests_in_the_traces_of_their_clients() {
    let dir = tempfile::Builder::new().prefix("bslt").tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = Collector::on(listener);
    // By OpenTelemetry's own variable, and by a flag.
    let (gateway, hub, client) = gateway(dir.path(), &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]).await;
    let (ca, token) = (dir.path().join("gateway/ca.crt"), dir.path().join("gateway/join-token"));
    let (ca, token) = (ca.to_str().unwrap(), token.to_str().unwrap());
    let flags = ["--gateway", &hub, "--ca-file", ca, "--token-file", token, "--host", "h1", "--vmm", "simulated"];
    let agent = start(dir.path(), "agent", &[&flags[..], &["--otlp-endpoint", &endpoint]].concat(), &[]);
    let hosts: Api<Host> = Api::all(client.clone());
    let ready = |host: Option<&Host>| host.and_then(|host| host.status.as_ref()?.phase) == Some(HostPhase::Ready);
    timeout(DEADLINE, await_condition(hosts, "h1", ready)).await.expect("the host becomes Ready").unwrap();

    // A request in a trace that its client began is a part of it, and is answered with its own name.
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let secret = json!({ "metadata": { "name": "s" }, "stringData": { "password": "correct horse battery staple" } });
    let request = http::Request::post("/api/v1/namespaces/default/secrets?fieldManager=m")
        .header("traceparent", format!("00-{trace}-{parent}-01"))
        .header("content-type", "application/json")
        .body(Body::from(secret.to_string().into_bytes()))
        .unwrap();
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.status(), 201);
    let answered = answer.headers()["traceparent"].to_str().unwrap().to_owned();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let of_client = |seen: &Seen| hex(&seen.span.trace_id) == trace;
    let span = collector.span("the request", |seen| of_client(seen) && hex(&seen.span.parent_span_id) == parent).await;
    assert_eq!(answered, format!("00-{trace}-{}-01", hex(&span.span.span_id)));
    assert_eq!((span.service.as_str(), span.span.name.as_str()), ("basalt-gateway", "create secrets"));
    let expected = [
        ("http.request.method", "POST"),
        ("http.response.status_code", "201"),
        ("user.name", "admin"),
        ("basalt.resource", "secrets"),
        ("basalt.namespace", "default"),
        ("basalt.name", "s"),
    ];
    for (name, value) in expected {
        assert_eq!(span.attribute(name), value, "{name}");
    }
    let commit = collector.span("its commit", |seen| seen.span.name == "store commit" && seen.is_child_of(&span)).await;
    assert_eq!(commit.attribute("basalt.outcome"), "ok");
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "default");
    let made = secrets.get("s").await.unwrap().metadata.resource_version.unwrap();
    assert_eq!(commit.attribute("basalt.revision"), made);

    // What controllers, the hub and the agent do.
    let image = json!({ "apiVersion": "basalt.dev/v1alpha1", "kind": "Image", "metadata": { "name": "kernel" },
        "spec": { "source": "file:///etc/os-release", "format": "Kernel" } });
    let images: Api<basalt_api::Image> = Api::all(client.clone());
    images.create(&Default::default(), &serde_json::from_value(image).unwrap()).await.unwrap();
    let vm = json!({ "apiVersion": "basalt.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": "web" },
        "spec": { "memory": "64Mi", "boot": { "kernel": { "image": "kernel" } }, "placement": { "vmm": "Simulated" } } });
    let vms: Api<VirtualMachine> = Api::default_namespaced(client.clone());
    vms.create(&Default::default(), &serde_json::from_value(vm).unwrap()).await.unwrap();
    let running = |vm: Option<&VirtualMachine>| vm.and_then(|vm| vm.status.as_ref()?.phase) == Some(VmPhase::Running);
    let waited = timeout(DEADLINE, await_condition(vms.clone(), "web", running)).await;
    assert!(waited.is_ok(), "{:?}\n{}", vms.get("web").await, fs::read_to_string(dir.path().join("agent.log")).unwrap());
    let write = collector.span("the placement", |seen| {
        seen.span.name == "patch virtualmachines/status" && seen.attribute("user.name") == "system:basalt:controllers"
    });
    let write = write.await;
    let reconcile = collector.span("what placed the VM", |seen| write.is_child_of(seen)).await;
    assert_eq!(reconcile.span.name, "reconcile vm");
    assert_eq!((reconcile.attribute("basalt.controller"), reconcile.attribute("basalt.name")), ("vm".into(), "web".into()));
    collector.span("a manifest sent", |seen| seen.span.name == "hub manifest" && seen.attribute("basalt.vms") == "1").await;
    let started = |seen: &Seen| seen.service == "basalt-agent" && seen.span.name == "vm Start" && seen.attribute("basalt.name") == "web";
    collector.span("the start", started).await;
    let asked = collector.span("the agent's enrolment", |seen| seen.service == "basalt-agent" && seen.span.name == "enrol").await;
    collector.span("the hub's enrolment", |seen| seen.span.name == "hub enrol" && seen.is_child_of(&asked)).await;
    let seen = collector.span("a report's write", |seen| {
        seen.span.name == "patch virtualmachines/status" && seen.attribute("user.name") == "system:basalt:hub"
    });
    let seen = seen.await;
    collector.span("the report", |report| report.span.name == "hub report" && seen.is_child_of(report)).await;

    agent.terminate();
    gateway.terminate();
    let all = format!("{:?}", collector.spans.borrow());
    let token = fs::read_to_string(token).unwrap();
    for secret in ["correct horse", "battery", token.trim(), "BEGIN "] {
        assert!(!all.contains(secret), "{secret} was sent");
    }
    let line = fs::read_to_string(dir.path().join("gateway.log")).unwrap();
    assert!(!line.contains("store commit") && !line.contains("basalt.verb"), "spans are not logged: {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_down_is_told_once_and_holds_up_nobody() {
    let dir = tempfile::Builder::new().prefix("bslt").tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    drop(listener);
    let small = [("OTEL_BSP_MAX_QUEUE_SIZE", "64"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")];
    let (gateway, _, client) = gateway(dir.path(), &["--otlp-endpoint", &format!("http://{address}")], &small).await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client);
    let log = || fs::read_to_string(dir.path().join("gateway.log")).unwrap();
    let told = |what: &str| log().matches(what).count();
    // Many times what the queue holds.
    for _ in 0..500 {
        namespaces.get("default").await.unwrap();
    }
    let until = async |what: &str| {
        let is_told = async {
            while told(what) == 0 {
                namespaces.get("default").await.unwrap();
            }
        };
        timeout(DEADLINE, is_told).await.unwrap_or_else(|_| unreachable!("it is never told that {what}: {}", log()));
    };
    until("the collector does not take traces").await;
    let collector = Collector::on(TcpListener::bind(address).await.unwrap());
    until("the collector takes traces again").await;
    collector.span("a request", |seen| seen.span.name == "get namespaces").await;
    gateway.terminate();
    assert_eq!(told("the collector does not take traces"), 1, "{}", log());
    assert_eq!(told("the collector takes traces again"), 1, "{}", log());
}
