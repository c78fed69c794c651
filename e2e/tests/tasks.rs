//! Tasks on real agents: they run, wait for each other, are cancelled, and end truly whoever is killed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use basalt_api::{
    Host, Task, TaskStatus, VirtualMachine,
    task::{TaskPhase, TaskReason},
    virtual_machine::{RunStrategy, VmPhase},
};
use basalt_e2e::{Fleet, Options};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
    runtime::wait::{Condition, await_condition},
};
use serde_json::{Value, json};
use std::{fs, path::PathBuf, time::Duration};

const DEADLINE: Duration = Duration::from_secs(60);

fn tasks(client: &Client) -> Api<Task> {
    Api::default_namespaced(client.clone())
}

fn status(task: Option<&Task>) -> TaskStatus {
    task.and_then(|task| task.status.clone()).unwrap_or_default()
}

async fn create(client: &Client, name: &str, spec: Value) {
    let task = json!({ "apiVersion": "basalt.dev/v1alpha1", "kind": "Task", "metadata": { "name": name }, "spec": spec });
    tasks(client).create(&Default::default(), &serde_json::from_value(task).unwrap()).await.unwrap();
}

async fn becomes(client: &Client, name: &str, what: &str, condition: impl Condition<Task>) -> TaskStatus {
    let found = tokio::time::timeout(DEADLINE, await_condition(tasks(client), name, condition)).await;
    let found = found.unwrap_or_else(|_| panic!("waited in vain: task {name} {what}")).unwrap();
    status(found.as_ref())
}

async fn ends(client: &Client, name: &str) -> TaskStatus {
    becomes(client, name, "ends", |task: Option<&Task>| {
        let status = status(task);
        status.phase.is_some_and(TaskPhase::is_terminal) && !status.stopping
    })
    .await
}

async fn log_of(client: &Client, name: &str) -> String {
    let path = format!("/apis/basalt.dev/v1alpha1/namespaces/default/tasks/{name}/log");
    client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
}

/// What a host keeps of attempts.
fn kept(fleet: &Fleet, host: &str) -> Vec<PathBuf> {
    let dir = fleet.path().join("hosts").join(host).join("tasks");
    fs::read_dir(dir).map(|found| found.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
}

async fn nothing_is_kept(fleet: &Fleet, host: &str) {
    let gone = async {
        while !kept(fleet, host).is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap_or_else(|_| panic!("{host} keeps {:?}", kept(fleet, host)));
}

fn probe(host: &str, more: Value) -> Value {
    let mut probe = json!({ "steps": 4, "stepMilliseconds": 300, "writeBytes": 65536 });
    probe.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "host": host, "operation": { "probe": probe } })
}

#[tokio::test]
async fn tasks_of_three_hosts_wait_for_each_other_and_tell_what_they_did() {
    let fleet = Fleet::start(Options { vmm: "simulated", hosts: 3, ..Options::default() });
    let client = fleet.client().await;
    let mut spec = probe("host-3", json!({}));
    spec["dependsOn"] = json!([{ "task": "one" }, { "task": "two", "onFailure": "Run" }]);
    create(&client, "three", spec).await;
    create(&client, "one", json!({ "host": "host-1", "operation": { "collectDiagnostics": {} } })).await;
    let mut spec = probe("host-2", json!({ "failAt": 2 }));
    spec["retry"] = json!({ "limit": 1, "backoff": "1s" });
    create(&client, "two", spec).await;
    let one = ends(&client, "one").await;
    assert_eq!(one.phase, Some(TaskPhase::Completed), "{one:?}");
    let file = PathBuf::from(&one.result["path"]);
    assert_eq!(fs::metadata(&file).unwrap().len().to_string(), one.result["bytes"]);
    let two = ends(&client, "two").await;
    assert_eq!((two.phase, two.reason, two.attempt), (Some(TaskPhase::Failed), Some(TaskReason::OperationFailed), 2));
    let three = ends(&client, "three").await;
    assert_eq!(three.phase, Some(TaskPhase::Completed), "{three:?}");
    assert!(three.started_at >= one.finished_at && three.started_at >= two.finished_at);
    assert!(log_of(&client, "three").await.contains("Step 4 of 4 begins"));
    for host in ["host-1", "host-2", "host-3"] {
        nothing_is_kept(&fleet, host).await;
    }
}

#[tokio::test]
async fn the_examples_run_and_are_seen_by_the_command_line() {
    let fleet = Fleet::start(Options { vmm: "simulated", hosts: 2, ..Options::default() });
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/examples/tasks");
    fleet.ctl(&["apply", "-f", examples]).succeeded();
    let log = fleet.ctl(&["logs", "task/self-test", "-f"]).succeeded().stdout;
    assert!(log.contains("Step 5 of 5 begins"), "{log}");
    fleet.ctl(&["wait", "task/self-test", "task/write-it-down", "--for=phase=Completed", "--timeout=60s"]).succeeded();
    let again = fleet.ctl(&["retry", "task/self-test"]).succeeded().stdout;
    assert!(again.contains("self-test-retry-1 created"), "{again}");
    let refused = fleet.ctl(&["retry", "task/self-test-retry-1"]);
    assert!(refused.stderr.contains("has not ended"), "{}", refused.stderr);
    let cancelled = fleet.ctl(&["cancel", "task/self-test-retry-1", "--wait"]).succeeded().stdout;
    assert!(cancelled.contains("is Cancelled"), "{cancelled}");
    let waited = fleet.ctl(&["wait", "task/self-test-retry-1", "--for=phase=Completed"]);
    assert_eq!(waited.code, Some(15), "{}", waited.stderr);
    let history = fleet.ctl(&["tasks", "history", "--host=host-1", "--user=admin", "--since=10m"]).succeeded().stdout;
    assert!(history.contains("write-it-down") && !history.contains("look-again"), "{history}");
    let failed = fleet.ctl(&["tasks", "history", "--phase=Cancelled"]).succeeded().stdout;
    assert_eq!(failed.lines().count(), 2, "{failed}");
    let tree = fleet.ctl(&["tasks", "tree", "host/host-2"]).succeeded().stdout;
    assert!(tree.contains("Probe task/look-again  Completed") && tree.contains("after look-around (Completed)"), "{tree}");
    let described = fleet.ctl(&["describe", "task/look-again"]).succeeded().stdout;
    for part in ["Operation:    Probe", "Attempt:      1 of at most", "Timeline:", "attempt 1 begins, given to host host-2"] {
        assert!(described.contains(part), "{part}:\n{described}");
    }
    let table = fleet.kubectl(&["get", "tasks"], "").succeeded().stdout;
    assert!(table.contains("OPERATION") && table.matches("Completed").count() == 4, "{table}");
}

#[tokio::test]
async fn a_cancel_reaches_a_silent_task_and_what_it_wrote_is_gone() {
    let fleet = Fleet::start(Options { vmm: "simulated", ..Options::default() });
    let client = fleet.client().await;
    create(&client, "t", probe("host-1", json!({ "steps": 1000, "silent": true }))).await;
    becomes(&client, "t", "began", |task: Option<&Task>| status(task).reported.is_some()).await;
    let patch = Patch::Merge(json!({ "spec": { "cancelRequested": true } }));
    tasks(&client).patch("t", &PatchParams::default(), &patch).await.unwrap();
    let ended = ends(&client, "t").await;
    assert_eq!((ended.phase, ended.residue.len()), (Some(TaskPhase::Cancelled), 0), "{ended:?}");
    nothing_is_kept(&fleet, "host-1").await;
}

#[tokio::test]
async fn a_task_ends_truly_whoever_is_killed_at_whichever_step() {
    let fleet = Fleet::start(Options { vmm: "simulated", ..Options::default() });
    for step in 1..=4 {
        for victim in ["gateway", "host-1"] {
            let name = format!("{victim}-{step}");
            let client = fleet.client().await;
            create(&client, &name, probe("host-1", json!({ "stepMilliseconds": 1300 }))).await;
            let at = format!("step {step} of 4");
            becomes(&client, &name, "is there", move |task: Option<&Task>| status(task).progress.is_some_and(|p| p.step == at)).await;
            fleet.kill(victim);
            fleet.up();
            let client = fleet.client().await;
            let ended = ends(&client, &name).await;
            let expected: &[_] = match victim {
                // The attempt goes on without the gateway.
                "gateway" => &[(Some(TaskPhase::Completed), Some(TaskReason::Succeeded))],
                // It may just have ended.
                _ if step == 4 => {
                    &[(Some(TaskPhase::Failed), Some(TaskReason::Interrupted)), (Some(TaskPhase::Completed), Some(TaskReason::Succeeded))]
                }
                _ => &[(Some(TaskPhase::Failed), Some(TaskReason::Interrupted))],
            };
            assert!(expected.contains(&(ended.phase, ended.reason)), "{name}: {ended:?}");
            assert_eq!((ended.attempt, ended.residue.len(), ended.late_results.len()), (1, 0, 0), "{name}: {ended:?}");
            nothing_is_kept(&fleet, "host-1").await;
            let log = log_of(&client, &name).await;
            for step in 1..=4 {
                let begun = log.lines().filter(|line| line.contains(&format!("Step {step} of 4 begins"))).count();
                assert!(begun <= 1, "{name}: step {step} began {begun} times:\n{log}");
            }
        }
    }
}

/// A VM that runs on the first host, as far as a simulator can.
async fn with_vm(fleet: &Fleet, name: &str) {
    let spec = "{ cpus: 1, memory: 64Mi, boot: { kernel: { image: kernel } } }";
    fleet.apply(&format!(
        "apiVersion: basalt.dev/v1alpha1\nkind: Image\nmetadata: {{ name: kernel }}\nspec: {{ source: 'file:///etc/os-release', format: Kernel }}\n---\n\
         apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {{ name: {name} }}\nspec: {spec}\n"
    ));
    fleet.vm_becomes(name, "runs", vm_is(VmPhase::Running)).await;
}

fn vm_is(phase: VmPhase) -> impl Condition<VirtualMachine> {
    move |vm: Option<&VirtualMachine>| vm.and_then(|vm| vm.status.as_ref()).and_then(|status| status.phase) == Some(phase)
}

async fn host(client: &Client) -> Host {
    Api::<Host>::all(client.clone()).get("host-1").await.unwrap()
}

#[tokio::test]
async fn what_the_control_plane_does_itself_is_done_or_undone_whenever_the_gateway_is_killed() {
    let fleet = Fleet::start(Options { vmm: "simulated", ..Options::default() });
    with_vm(&fleet, "v").await;
    let drain = json!({ "host": "host-1", "operation": { "hostDrain": { "stopUnmovable": true } } });
    // What there is when the gateway is killed, in the order in which it comes to be.
    let moments = ["executing", "noted", "unschedulable", "moving", "stopping", "halted", "stopped"];
    for cancel in [false, true] {
        for moment in moments {
            let name = format!("{moment}-{cancel}");
            let client = fleet.client().await;
            create(&client, &name, drain.clone()).await;
            let reached = async {
                loop {
                    let task = status(tasks(&client).get_opt(&name).await.unwrap().as_ref());
                    let children = ListParams::default().labels(&format!("basalt.dev/parent={name}"));
                    let children = tasks(&client).list(&children).await.unwrap().items;
                    let is = |operation: &str| children.iter().any(|child| child.spec.operation.name() == operation);
                    let vm = fleet.vm("v").await;
                    // Who comes late sees a later one.
                    let over = task.phase.is_some_and(TaskPhase::is_terminal);
                    let there = match moment {
                        "executing" => task.phase == Some(TaskPhase::Executing),
                        "noted" => !task.undo.is_empty(),
                        "unschedulable" => host(&client).await.spec.unschedulable,
                        "moving" => is("VmMigrate"),
                        "stopping" => is("VmStop"),
                        "halted" => vm.spec.run_strategy == RunStrategy::Halted,
                        _ => vm.status.and_then(|status| status.phase) == Some(VmPhase::Stopped),
                    };
                    if there || over {
                        return;
                    }
                }
            };
            tokio::time::timeout(DEADLINE, reached).await.unwrap_or_else(|_| panic!("waited in vain: {name}"));
            if cancel {
                let patch = Patch::Merge(json!({ "spec": { "cancelRequested": true } }));
                tasks(&client).patch(&name, &PatchParams::default(), &patch).await.unwrap();
            }
            fleet.kill("gateway");
            fleet.up();
            let client = fleet.client().await;
            let ended = ends(&client, &name).await;
            let host = host(&client).await;
            match ended.phase {
                Some(TaskPhase::Completed) => {
                    fleet.vm_becomes("v", "is stopped", vm_is(VmPhase::Stopped)).await;
                    assert!(host.spec.unschedulable, "{name}: {ended:?}");
                    assert!(!cancel || ["halted", "stopped"].contains(&moment), "{name}: {ended:?}");
                    Api::<Host>::all(client.clone())
                        .patch("host-1", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "unschedulable": false } })))
                        .await
                        .unwrap();
                    Api::<VirtualMachine>::default_namespaced(client.clone())
                        .patch("v", &PatchParams::default(), &Patch::Merge(json!({ "spec": { "runStrategy": "Always" } })))
                        .await
                        .unwrap();
                }
                Some(TaskPhase::Cancelled) => assert!(cancel && !host.spec.unschedulable, "{name}: {ended:?}"),
                _ => panic!("{name}: {ended:?}"),
            }
            assert_eq!((ended.attempt, ended.residue.len(), ended.late_results.len()), (1, 0, 0), "{name}: {ended:?}");
            fleet.vm_becomes("v", "runs again", vm_is(VmPhase::Running)).await;
            let children = tasks(&client).list(&ListParams::default().labels(&format!("basalt.dev/parent={name}"))).await.unwrap().items;
            assert!(children.len() <= 2, "{name}: no part is made twice: {children:?}");
            for child in &children {
                assert!(status(Some(child)).phase.is_some_and(TaskPhase::is_terminal), "{name}: {child:?}");
            }
        }
    }
    let described = fleet.ctl(&["describe", "task/stopped-false"]).succeeded().stdout;
    assert!(described.contains("Parts:\n  VmMigrate task/stopped-false-move-") && described.contains("\n  VmStop task/"), "{described}");
}
