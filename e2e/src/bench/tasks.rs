//! Tasks through one gateway with many hosts, which are simulated here: they speak the agent's protocol and do nothing.

use super::{BenchError, gateway::resident_mib, percentile};
use crate::{Fleet, Options};
use basalt_api::{
    Task, TaskSpec,
    task::{CollectDiagnostics, Operation, Probe, TaskPhase},
};
use basalt_proto::v1::{
    EnrollRequest, HostInventory, HostReport, LeaseTasksRequest, TaskAttempt, TaskLog, TaskLogLine, TaskUpdate, VmmReport,
    agent_client::AgentClient, task_control::Control, task_update::Update,
};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, ResourceExt,
    api::{ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// How many hosts are simulated, and over how many connections: a host has its own certificate and so its own connection.
const HOSTS: usize = 1000;
/// How many tasks are run.
const TASKS: usize = 5000;
/// How many are created at once.
const WRITERS: usize = 64;
/// How many tasks are cancelled.
const CANCELS: usize = 200;
/// How many attempts write logs, how many lines at once, and for how long.
const LOGGERS: usize = 50;
const LINES: usize = 100;
const LOGGING: Duration = Duration::from_secs(5);
/// How many tasks have ended when memory is looked at.
const ENDED: usize = 100_000;
/// How long a part may take.
const DEADLINE: Duration = Duration::from_secs(180);

/// What the simulated hosts have seen.
#[derive(Default)]
struct Seen {
    /// When a host was given a task, and told to stop it, by name.
    given: Mutex<HashMap<String, Instant>>,
    stopped: Mutex<HashMap<String, Instant>>,
    ended: AtomicUsize,
    lines: AtomicU64,
}

/// Prints how many tasks a second there can be, how late they begin and stop, and what they cost.
pub async fn run() -> Result<(), BenchError> {
    let fleet = Fleet::start(Options { vmm: "simulated", ..Options::default() });
    let client = fleet.client().await;
    let pid = u32::try_from(fleet.pid("gateway")).unwrap_or_default();
    let seen = Arc::new(Seen::default());
    let begin = Instant::now();
    let _hosts = simulate(&fleet.path().join("gateway"), &seen).await?;
    println!("{HOSTS} hosts, simulated in this process, connected after {:.1} s", begin.elapsed().as_secs_f64());

    let leases: Api<Lease> = Api::default_namespaced(client.clone());
    let begin = Instant::now();
    each(TASKS, |number| {
        let leases = leases.clone();
        let lease = Lease { metadata: ObjectMeta { name: Some(format!("reference-{number}")), ..Default::default() }, spec: None };
        async move { leases.create(&PostParams::default(), &lease).await.map(drop).map_err(failed) }
    })
    .await?;
    let creates = rate(TASKS, begin);

    let tasks: Api<Task> = Api::default_namespaced(client.clone());
    let created = Arc::new(Mutex::new(HashMap::new()));
    let begin = Instant::now();
    each(TASKS, |number| {
        let (tasks, created) = (tasks.clone(), created.clone());
        async move {
            let name = format!("t-{number}");
            create(&tasks, &name, number % HOSTS, Operation::Probe(quick())).await?;
            lock(&created).insert(name, Instant::now());
            Ok(())
        }
    })
    .await?;
    all_are(&tasks, "t-", TASKS, TaskPhase::Completed).await?;
    let done = rate(TASKS, begin);
    let mut late = between(&lock(&created), &lock(&seen.given));
    println!(
        "tasks by {WRITERS} clients over {HOSTS} simulated hosts, from create to Completed; reference: creates of Leases by the same clients"
    );
    println!("  tasks                       {done:>8.0} /s   creates {creates:>6.0} /s   ratio {:.2}", done / creates);
    print_latency("create acknowledged to given to the host", &mut late);

    let mut asked = HashMap::new();
    for number in 0..CANCELS {
        create(&tasks, &format!("c-{number}"), number, Operation::CollectDiagnostics(CollectDiagnostics::default())).await?;
    }
    wait("all that are to be cancelled run", || lock(&seen.given).keys().filter(|name| name.starts_with("c-")).count() == CANCELS).await?;
    for number in 0..CANCELS {
        let name = format!("c-{number}");
        asked.insert(name.clone(), Instant::now());
        let patch = Patch::Merge(json!({ "spec": { "cancelRequested": true } }));
        tasks.patch(&name, &PatchParams::default(), &patch).await.map_err(failed)?;
    }
    wait("all are told to stop", || lock(&seen.stopped).len() >= CANCELS).await?;
    print_latency("cancel sent to the word at the host, of tasks that report no progress", &mut between(&asked, &lock(&seen.stopped)));

    for number in 0..LOGGERS {
        create(&tasks, &format!("l-{number}"), number, Operation::Probe(quick())).await?;
    }
    all_are(&tasks, "l-", LOGGERS, TaskPhase::Completed).await?;
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let lines = seen.lines.load(Ordering::Relaxed) as f64 / LOGGING.as_secs_f64();
    println!("  log lines                   {lines:>8.0} /s   by {LOGGERS} attempts, {LINES} lines at a time, each acknowledged on disk");

    let before = resident_mib(pid)?;
    let begin = Instant::now();
    each(ENDED, |number| {
        let tasks = tasks.clone();
        async move {
            let mut task =
                Task::new(&format!("e-{number}"), TaskSpec { host: Some(host(number % HOSTS)), ..TaskSpec::of(Operation::Probe(quick())) });
            task.spec.cancel_requested = true;
            tasks.create(&PostParams::default(), &task).await.map(drop).map_err(failed)
        }
    })
    .await?;
    all_are(&tasks, "e-", ENDED, TaskPhase::Cancelled).await?;
    let growth = resident_mib(pid)? - before;
    println!("  {ENDED} ended tasks      {growth:>8.0} MiB  resident, made and ended in {:.0} s", begin.elapsed().as_secs_f64());
    Ok(())
}

fn quick() -> Probe {
    Probe { steps: 1, step_milliseconds: 0, write_bytes: 0, fail_at: None, fail_attempts: None, silent: true }
}

fn failed(error: kube::Error) -> BenchError {
    BenchError::new("use the API", error)
}

fn host(number: usize) -> String {
    format!("sim-{number}")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[allow(clippy::cast_precision_loss, reason = "for people")]
fn rate(count: usize, begin: Instant) -> f64 {
    count as f64 / begin.elapsed().as_secs_f64()
}

fn print_latency(what: &str, samples: &mut [Duration]) {
    let (median, late) = (percentile(samples, 0.5), percentile(samples, 0.99));
    println!("  {what}: p50 {:.1} ms, p99 {:.1} ms", median.as_secs_f64() * 1e3, late.as_secs_f64() * 1e3);
}

fn between(from: &HashMap<String, Instant>, to: &HashMap<String, Instant>) -> Vec<Duration> {
    from.iter().filter_map(|(name, from)| Some(to.get(name)?.saturating_duration_since(*from))).collect()
}

async fn each<F: Future<Output = Result<(), BenchError>>>(count: usize, make: impl Fn(usize) -> F) -> Result<(), BenchError> {
    stream::iter(0..count).map(make).buffer_unordered(WRITERS).try_for_each(|()| std::future::ready(Ok(()))).await
}

async fn create(tasks: &Api<Task>, name: &str, on: usize, operation: Operation) -> Result<(), BenchError> {
    let task = Task::new(name, TaskSpec { host: Some(host(on)), ..TaskSpec::of(operation) });
    tasks.create(&PostParams::default(), &task).await.map(drop).map_err(failed)
}

async fn wait(what: &'static str, good: impl Fn() -> bool) -> Result<(), BenchError> {
    let waiting = async {
        while !good() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.map_err(|_| BenchError::new(what, "it takes too long"))
}

async fn all_are(tasks: &Api<Task>, prefix: &str, count: usize, phase: TaskPhase) -> Result<(), BenchError> {
    let begin = Instant::now();
    let selected = ListParams::default().fields(&format!("status.phase={phase}"));
    loop {
        let list = tasks.list_metadata(&selected).await.map_err(failed)?;
        let there = list.items.iter().filter(|task| task.name_any().starts_with(prefix)).count();
        if there == count {
            return Ok(());
        }
        if begin.elapsed() > DEADLINE {
            return Err(BenchError::new("see all tasks end", format!("{there} of {count} are {phase}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Enrols and connects the hosts; they end when what is returned is dropped.
async fn simulate(gateway: &Path, seen: &Arc<Seen>) -> Result<JoinSet<()>, BenchError> {
    // Another part of the bench may have done so.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let read = |file: &str| fs::read_to_string(gateway.join(file)).map_err(|e| BenchError::new("read what the gateway has left", e));
    let (ca, token) = (read("pki/ca.crt")?, read("join-token")?);
    let ready: serde_json::Value = serde_json::from_str(&read("gateway.json")?).map_err(|e| BenchError::new("read gateway.json", e))?;
    let hub = ready["hubUrl"].as_str().unwrap_or_default().to_owned();
    let joined = stream::iter(0..HOSTS).map(|number| enrol(&hub, &ca, token.trim(), host(number))).buffer_unordered(32);
    let clients: Vec<(String, AgentClient<Channel>)> = joined.try_collect().await?;
    let mut hosts = JoinSet::new();
    for (host, client) in clients {
        hosts.spawn(report(client.clone()));
        hosts.spawn(work(host, client, seen.clone()));
    }
    Ok(hosts)
}

async fn enrol(hub: &str, ca: &str, token: &str, host: String) -> Result<(String, AgentClient<Channel>), BenchError> {
    let wrong = |e: &dyn std::fmt::Display| BenchError::new("enrol a simulated host", e);
    let key = rcgen::KeyPair::generate().map_err(|e| wrong(&e))?;
    let csr = rcgen::CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem()).map_err(|e| wrong(&e))?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("127.0.0.1");
    let endpoint = Endpoint::from_shared(hub.to_owned()).map_err(|e| wrong(&e))?;
    let plain = endpoint.clone().tls_config(tls.clone()).map_err(|e| wrong(&e))?.connect().await.map_err(|e| wrong(&e))?;
    let request = EnrollRequest { token: token.to_owned(), host: host.clone(), csr_pem: csr, agent_version: "simulator".into() };
    let enrolled = AgentClient::new(plain).enroll(request).await.map_err(|e| wrong(&e.message()))?.into_inner();
    let tls = tls.identity(Identity::from_pem(enrolled.certificate_pem, key.serialize_pem()));
    let channel = endpoint.tls_config(tls).map_err(|e| wrong(&e))?.connect().await.map_err(|e| wrong(&e))?;
    Ok((host, AgentClient::new(channel)))
}

async fn report(mut client: AgentClient<Channel>) {
    let (sender, reports) = mpsc::channel(2);
    tokio::spawn(async move {
        let vmms = vec![VmmReport { name: "Simulated".into(), version: "simulator".into(), accelerator: "Simulated".into() }];
        let (cpus, memory_bytes) = (8, 16 << 30);
        let inventory =
            HostInventory { boot_id: "simulated".into(), agent_version: "simulator".into(), cpus, memory_bytes, vmms, addresses: vec![] };
        while sender.send(HostReport { inventory: Some(inventory.clone()), ..HostReport::default() }).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    });
    if let Err(status) = client.report(ReceiverStream::new(reports)).await {
        eprintln!("the reports of a simulated host ended: {}", status.message());
    }
}

async fn work(host: String, client: AgentClient<Channel>, seen: Arc<Seen>) {
    let known = Arc::new(Mutex::new(HashSet::new()));
    loop {
        let known_tokens: Vec<String> = lock(&known).iter().cloned().collect();
        let leased = match client.clone().lease_tasks(LeaseTasksRequest { known_tokens }).await {
            Ok(leased) => leased.into_inner(),
            Err(status) => {
                eprintln!("host {host} is not leased tasks: {}", status.message());
                return;
            }
        };
        for token in leased.settled_tokens {
            lock(&known).remove(&token);
        }
        for attempt in leased.attempts {
            lock(&seen.given).entry(attempt.name.clone()).or_insert_with(Instant::now);
            lock(&known).insert(attempt.token.clone());
            let (client, seen, known) = (client.clone(), seen.clone(), known.clone());
            tokio::spawn(async move {
                let token = attempt.token.clone();
                if let Err(status) = run_attempt(client, attempt, &seen).await {
                    eprintln!("an attempt of a simulated host ended: {}", status.message());
                }
                lock(&known).remove(&token);
                seen.ended.fetch_add(1, Ordering::Relaxed);
            });
        }
    }
}

async fn run_attempt(mut client: AgentClient<Channel>, attempt: TaskAttempt, seen: &Seen) -> Result<(), tonic::Status> {
    let (up, updates) = mpsc::channel(8);
    let say = |update| {
        let (up, token) = (up.clone(), attempt.token.clone());
        async move { up.send(TaskUpdate { token, update: Some(update) }).await.map_err(|_| tonic::Status::cancelled("the stream ended")) }
    };
    let started = "2026-01-01T00:00:00Z";
    say(Update::StartedAt(started.into())).await?;
    let mut down = client.run_task(ReceiverStream::new(updates)).await?.into_inner();
    let mut outcome = "Succeeded";
    if attempt.name.starts_with("c-") {
        // It says nothing until it is told to stop.
        while let Some(control) = down.message().await? {
            if let Some(Control::Stop(_)) = control.control {
                lock(&seen.stopped).insert(attempt.name.clone(), Instant::now());
                outcome = "Stopped";
                break;
            }
        }
    } else if attempt.name.starts_with("l-") {
        let begin = Instant::now();
        let mut first = 0;
        while begin.elapsed() < LOGGING {
            let text = "a line of a log as long as such lines are, with some words in it";
            let line = TaskLogLine { time: None, level: "info".into(), step: "step".into(), text: text.into() };
            say(Update::Log(TaskLog { first, lines: vec![line; LINES] })).await?;
            first += LINES as u64;
            while let Some(control) = down.message().await? {
                if control.control == Some(Control::Logged(first)) {
                    seen.lines.fetch_add(LINES as u64, Ordering::Relaxed);
                    break;
                }
            }
        }
    }
    let ended = json!({ "token": attempt.token, "host": "", "startedAt": started, "outcome": outcome });
    say(Update::EndedJson(ended.to_string())).await?;
    while let Some(control) = down.message().await? {
        if control.control == Some(Control::Settled(true)) {
            return Ok(());
        }
    }
    Ok(())
}
