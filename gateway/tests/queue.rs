//! What `/metrics` tells of the queues of controllers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use basalt_api::VirtualMachine;
use basalt_controllers::{
    Context,
    observe::Metrics,
    work::{Next, Work},
};
use common::{start, within};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, ResourceExt, client::Body};
use prometheus_client::{encoding::text, registry::Registry};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tower::service_fn;

/// The samples whose name begins so.
fn samples(text: &str, prefix: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| line.starts_with(prefix)).filter_map(|line| line.rsplit_once(' '));
    lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_of_a_controller_grows_while_it_is_busy_and_is_empty_when_it_has_caught_up() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    // A kind that nobody else writes.
    let leases: Api<Lease> = Api::default_namespaced(gateway.admin().await);
    let lease = |name: &str| -> Lease { serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap() };
    for name in ["a", "b", "c", "d"] {
        leases.create(&Default::default(), &lease(name)).await.unwrap();
    }
    let (metrics, mut registry) = (Metrics::default(), Registry::default());
    metrics.register(&mut registry);
    let context = Context::new(gateway.admin().await, Default::default(), metrics);
    let (shutdown, gate) = (CancellationToken::new(), Arc::new(Semaphore::new(0)));
    let (tell, mut begun) = mpsc::unbounded_channel();
    let work = Work::new("slow", &context, leases.clone()).at_once(1);
    let (known, turns) = (work.objects(), gate.clone());
    let reconcile = move |lease: Arc<Lease>| {
        tell.send(lease.name_any()).unwrap();
        let turns = turns.clone();
        async move {
            turns.acquire().await.unwrap().forget();
            // What is to be looked at in an hour does not wait.
            Ok::<_, std::io::Error>(Next::After(Duration::from_secs(3600)))
        }
    };
    let working = tokio::spawn(work.run(reconcile, shutdown.clone()));
    let told = || {
        let mut told = String::new();
        text::encode(&mut told, &registry).unwrap();
        let one = |name: &str| samples(&told, name).values().next().copied();
        (one("basalt_controller_queue_depth{controller=\"slow\"}").unwrap(), one("basalt_controller_queue_oldest_seconds").unwrap())
    };
    let until = async |depth: f64| {
        let reached = async {
            while told().0 != depth {
                tokio::task::yield_now().await;
            }
        };
        within(&format!("a depth of {depth}"), reached).await;
    };
    // One is being reconciled, the others wait, and they wait longer and longer.
    let first = within("the first", begun.recv()).await.unwrap();
    until(3.0).await;
    let early = told().1;
    within("time passes", async {
        while told().1 <= early {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // What is woken again while it is under way waits once more; what is woken again while it waits does not wait twice.
    for name in ["a", "b", "c", "d"] {
        let patch = kube::api::Patch::Merge(json!({ "metadata": { "labels": { "touched": "yes" } } }));
        leases.patch(name, &Default::default(), &patch).await.unwrap();
    }
    until(4.0).await;
    // What is deleted does not wait for ever.
    let gone = ["a", "b", "c", "d"].into_iter().find(|name| *name != first).unwrap();
    leases.delete(gone, &Default::default()).await.unwrap();
    within("the deletion is known", async {
        while known.len() != 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    gate.add_permits(4);
    until(0.0).await;
    assert_eq!(told().1, 0.0);
    shutdown.cancel();
    within("the end", working).await.unwrap();
    let mut told = String::new();
    text::encode(&mut told, &registry).unwrap();
    assert!(samples(&told, "basalt_controller_queue").is_empty(), "a controller that has ended has no queue: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_that_are_known_before_the_hosts_are_all_looked_at_when_those_are_known_too() {
    const VMS: usize = 20;
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let admin = gateway.admin().await;
    let vms: Api<VirtualMachine> = Api::default_namespaced(admin.clone());
    for number in 0..VMS {
        let vm =
            json!({ "metadata": { "name": format!("v{number}") }, "spec": { "memory": "1Gi", "boot": { "kernel": { "image": "k" } } } });
        vms.create(&Default::default(), &serde_json::from_value(vm).unwrap()).await.unwrap();
    }
    // The API, which answers for the VMs and keeps those who ask for hosts waiting.
    let gate = Arc::new(Semaphore::new(0));
    let (doors, api) = (gate.clone(), admin.clone());
    let slow = service_fn(move |request: http::Request<Body>| {
        let (doors, api) = (doors.clone(), api.clone());
        async move {
            if request.uri().path().ends_with("/hosts") {
                drop(doors.acquire().await);
            }
            api.send(request).await
        }
    });
    let (metrics, mut registry) = (Metrics::default(), Registry::default());
    metrics.register(&mut registry);
    let context = Context::new(Client::new(slow, "default"), Default::default(), metrics);
    let shutdown = CancellationToken::new();
    let working = tokio::spawn(basalt_controllers::vm::run(context, shutdown.clone()));
    let told = |name: &str| {
        let mut told = String::new();
        text::encode(&mut told, &registry).unwrap();
        samples(&told, name).values().sum::<f64>()
    };
    let known = async {
        while told("basalt_controller_queue_depth{controller=\"vm\"}") + told("basalt_controller_reconciles_in_flight") < VMS as f64 {
            tokio::task::yield_now().await;
        }
    };
    // The controller may as well not ask for the VMs before the hosts are known.
    let _ = tokio::time::timeout(Duration::from_millis(300), known).await;
    gate.add_permits(1000);
    within("all are looked at", async {
        while told("basalt_controller_reconciles_total") < VMS as f64 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    shutdown.cancel();
    within("the end", working).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_tells_the_queues_of_its_controllers() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (_agent, _reports) = gateway.ready_host("h1").await;
    let client = gateway.admin().await;
    let request = || http::Request::get("/metrics").body(vec![]).unwrap();
    let text = client.request_text(request()).await.unwrap();
    let depths = samples(&text, "basalt_controller_queue_depth");
    let names: Vec<&str> = depths.keys().map(|name| name.split('"').nth(1).unwrap()).collect();
    assert_eq!(names, ["host", "task", "vm"]);
}
