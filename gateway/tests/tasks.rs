//! Tasks between the API and hosts: who begins what, what is written of it, and how each ends.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use basalt_api::{
    Task, TaskStatus,
    task::{TaskPhase, TaskReason},
    virtual_machine::{RunStrategy, VmPhase},
};
use basalt_proto::v1::{
    Desired, LeaseTasksRequest, TaskAttempt, TaskControl, TaskLog, TaskLogLine, TaskUpdate, task_control::Control, task_update::Update,
};
use common::{Agent, Gateway, Reports, config, placed_vm, report, seen, start, start_with, until, until_gone, within};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

/// A host that reports every second.
struct Host {
    agent: Agent,
    beat: JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.beat.abort();
    }
}

impl Host {
    async fn ready(gateway: &Gateway, name: &str) -> Self {
        let (agent, reports): (Agent, Reports) = gateway.ready_host(name).await;
        let beat = tokio::spawn(async move {
            loop {
                reports.send(report(0, vec![])).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        Self { agent, beat }
    }

    async fn lease(&self, known: &[&str]) -> Vec<TaskAttempt> {
        let mut known_tokens: Vec<String> = known.iter().map(ToString::to_string).collect();
        loop {
            let request = LeaseTasksRequest { known_tokens: known_tokens.clone() };
            let leased = within("an attempt", self.agent.hub.clone().lease_tasks(request)).await.unwrap().into_inner();
            if !leased.attempts.is_empty() {
                return leased.attempts;
            }
            known_tokens.retain(|token| !leased.settled_tokens.contains(token));
        }
    }

    async fn begin(&self, token: &str) -> Attempt {
        let (up, updates) = mpsc::channel(64);
        let attempt = |down| Attempt { token: token.to_owned(), up: up.clone(), down };
        up.send(TaskUpdate { token: token.into(), update: Some(Update::StartedAt("2026-11-24T00:00:00Z".into())) }).await.unwrap();
        attempt(self.agent.hub.clone().run_task(ReceiverStream::new(updates)).await.unwrap().into_inner())
    }
}

/// The stream of an attempt.
struct Attempt {
    token: String,
    up: mpsc::Sender<TaskUpdate>,
    down: Streaming<TaskControl>,
}

impl Attempt {
    async fn say(&self, update: Update) {
        self.up.send(TaskUpdate { token: self.token.clone(), update: Some(update) }).await.unwrap();
    }

    async fn progress(&self, step: &str, done: u64, total: u64) {
        let progress = json!({ "step": step, "done": done, "total": total, "unit": "steps", "updatedAt": "2026-11-24T00:00:00Z" });
        self.say(Update::ProgressJson(progress.to_string())).await;
    }

    async fn log(&self, first: u64, texts: &[&str]) {
        let line = |text: &&str| TaskLogLine { time: None, level: "info".into(), step: "one".into(), text: (*text).to_owned() };
        self.say(Update::Log(TaskLog { first, lines: texts.iter().map(line).collect() })).await;
    }

    async fn end(&self, more: Value) {
        let mut reported = json!({ "token": self.token, "host": "", "startedAt": "2026-11-24T00:00:00Z" });
        reported.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.say(Update::EndedJson(reported.to_string())).await;
    }

    async fn told(&mut self, what: &str, good: impl Fn(&Control) -> bool) -> Control {
        within(what, async {
            loop {
                let control = self.down.message().await.unwrap().expect("the stream goes on").control.unwrap();
                if good(&control) {
                    return control;
                }
            }
        })
        .await
    }

    async fn stopped(&mut self) -> String {
        match self.told("the word to stop", |control| matches!(control, Control::Stop(_))).await {
            Control::Stop(reason) => reason,
            _ => unreachable!(),
        }
    }

    async fn settled(&mut self) {
        self.told("that it is settled", |control| matches!(control, Control::Settled(true))).await;
    }
}

fn tasks(client: &Client) -> Api<Task> {
    Api::default_namespaced(client.clone())
}

async fn create(client: &Client, name: &str, spec: Value) -> Task {
    let mut whole = json!({ "operation": { "probe": {} }, "host": "h1" });
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let task = json!({ "apiVersion": "basalt.dev/v1alpha1", "kind": "Task", "metadata": { "name": name }, "spec": whole });
    tasks(client).create(&Default::default(), &serde_json::from_value(task).unwrap()).await.unwrap()
}

fn status(task: &Task) -> TaskStatus {
    task.status.clone().unwrap_or_default()
}

async fn in_phase(client: &Client, name: &str, phase: TaskPhase) -> Task {
    until(&tasks(client), name, &format!("{name} is {phase}"), |task: &Task| status(task).phase == Some(phase)).await
}

async fn cancel(client: &Client, name: &str) {
    let patch = Patch::Merge(json!({ "spec": { "cancelRequested": true } }));
    tasks(client).patch(name, &PatchParams::default(), &patch).await.unwrap();
}

async fn log_of(client: &Client, name: &str, query: &str) -> String {
    let path = format!("/apis/basalt.dev/v1alpha1/namespaces/default/tasks/{name}/log{query}");
    client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_given_to_its_host_and_what_the_host_says_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (admin, host) = (gateway.admin().await, Host::ready(&gateway, "h1").await);
    let waiting = tokio::spawn({
        let mut hub = host.agent.hub.clone();
        async move { hub.lease_tasks(LeaseTasksRequest::default()).await.unwrap().into_inner().attempts }
    });
    let task = create(&admin, "t", json!({})).await;
    let attempts = within("the attempt", waiting).await.unwrap();
    let [attempt] = &attempts[..] else { panic!("{attempts:?}") };
    assert_eq!((&*attempt.namespace, &*attempt.name, attempt.attempt), ("default", "t", 1));
    assert_eq!(attempt.task_uid, task.uid().unwrap());
    assert!(attempt.operation_json.contains("probe"), "{attempt:?}");
    let mut running = host.begin(&attempt.token).await;
    running.progress("one", 1, 4).await;
    running.log(0, &["hello", "a \u{1b}[31mred\u{7} line"]).await;
    running.say(Update::Alive(7)).await;
    running.told("the renewal", |control| *control == Control::Renewed(7)).await;
    let seen = until(&tasks(&admin), "t", "progress", |task| status(task).progress.is_some()).await;
    let progress = status(&seen).progress.unwrap();
    assert_eq!((&*progress.step, progress.done, progress.percent), ("one", 1, Some(25)));
    assert_eq!(status(&seen).host.as_deref(), Some("h1"));
    // Sent again, they are not there twice.
    running.log(0, &["hello", "a \u{1b}[31mred\u{7} line"]).await;
    running.log(2, &["bye"]).await;
    running.end(json!({ "outcome": "Succeeded", "result": { "answer": "42" } })).await;
    running.settled().await;
    let done = in_phase(&admin, "t", TaskPhase::Completed).await;
    assert_eq!(status(&done).result["answer"], "42");
    let log = log_of(&admin, "t", "").await;
    let texts: Vec<&str> = log.lines().map(|line| line.split_once("[one] ").unwrap().1).collect();
    assert_eq!(texts, ["hello", "a \\u{1b}[31mred\\u{7} line", "bye"]);
    assert_eq!(log_of(&admin, "t", "?tailLines=1&format=json").await.lines().count(), 1);
    // The log outlives the task.
    tasks(&admin).delete("t", &DeleteParams::default()).await.unwrap();
    until_gone(&tasks(&admin), "t").await;
    assert_eq!(log_of(&admin, "t", "").await, log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_cancelled_ends_when_its_host_has_stopped_it_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (admin, host) = (gateway.admin().await, Host::ready(&gateway, "h1").await);
    create(&admin, "t", json!({ "operation": { "probe": { "silent": true } } })).await;
    let attempt = host.lease(&[]).await.remove(0);
    let mut running = host.begin(&attempt.token).await;
    until(&tasks(&admin), "t", "it began", |task| status(task).reported.is_some()).await;
    cancel(&admin, "t").await;
    assert_eq!(running.stopped().await, "the task is cancelled");
    let waits = until(&tasks(&admin), "t", "the cancel is seen", |task| status(task).cancel_requested_at.is_some()).await;
    assert_eq!(status(&waits).phase, Some(TaskPhase::Executing));
    running.end(json!({ "outcome": "Stopped", "residue": ["a file"] })).await;
    running.settled().await;
    let ended = in_phase(&admin, "t", TaskPhase::Cancelled).await;
    assert_eq!(status(&ended).residue, ["host h1: a file"]);
    // One that has not begun is cancelled at once.
    create(&admin, "first", json!({})).await;
    create(&admin, "second", json!({ "dependsOn": [{ "task": "first" }] })).await;
    cancel(&admin, "second").await;
    in_phase(&admin, "second", TaskPhase::Cancelled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_takes_too_long_is_stopped_and_the_next_one_waits_for_the_proof() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (admin, host) = (gateway.admin().await, Host::ready(&gateway, "h1").await);
    create(&admin, "t", json!({ "timeout": "1s", "retry": { "limit": 1, "backoff": "0s" } })).await;
    let first = host.lease(&[]).await.remove(0);
    let mut running = host.begin(&first.token).await;
    assert_eq!(running.stopped().await, "the attempt has been given up");
    let waits = until(&tasks(&admin), "t", "it waits", |task| status(task).stopping).await;
    assert_eq!(status(&waits).phase, Some(TaskPhase::Pending));
    assert!(status(&waits).blocked_by[0].hint.contains("has not proved yet"), "{waits:?}");
    running.end(json!({ "outcome": "Stopped" })).await;
    running.settled().await;
    let second = host.lease(&[&first.token]).await.remove(0);
    assert_eq!(second.attempt, 2);
    let mut running = host.begin(&second.token).await;
    assert_eq!(running.stopped().await, "the attempt took too long");
    let ended = in_phase(&admin, "t", TaskPhase::TimedOut).await;
    assert!(status(&ended).stopping);
    running.end(json!({ "outcome": "Stopped" })).await;
    until(&tasks(&admin), "t", "the proof", |task| !status(task).stopping).await;
    // What is said of the first attempt now is late.
    let late = host.begin(&first.token).await;
    late.end(json!({ "outcome": "Succeeded", "message": "after all" })).await;
    let told = until(&tasks(&admin), "t", "the late result", |task| !status(task).late_results.is_empty()).await;
    assert_eq!(status(&told).late_results[0].message.as_deref(), Some("after all"));
    assert_eq!(status(&told).phase, Some(TaskPhase::TimedOut));
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_wait_for_those_they_depend_on_and_for_places_by_priority() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (admin, host) = (gateway.admin().await, Host::ready(&gateway, "h1").await);
    create(&admin, "c", json!({ "dependsOn": [{ "task": "b", "onFailure": "Skip" }] })).await;
    create(&admin, "b", json!({ "dependsOn": [{ "task": "a" }] })).await;
    create(&admin, "d", json!({ "dependsOn": [{ "task": "b", "onFailure": "Run" }] })).await;
    let waits = until(&tasks(&admin), "b", "it waits", |task| !status(task).blocked_by.is_empty()).await;
    assert!(status(&waits).blocked_by[0].hint.contains("task/a has to end first"), "{waits:?}");
    create(&admin, "a", json!({})).await;
    let attempt = host.lease(&[]).await.remove(0);
    assert_eq!(attempt.name, "a");
    let mut running = host.begin(&attempt.token).await;
    running.end(json!({ "outcome": "Failed", "message": "no" })).await;
    running.settled().await;
    let b = in_phase(&admin, "b", TaskPhase::Failed).await;
    assert_eq!(status(&b).message.as_deref(), Some("task/a, which it depends on, ended as Failed"));
    in_phase(&admin, "c", TaskPhase::Cancelled).await;
    let attempt = host.lease(&[&attempt.token]).await.remove(0);
    assert_eq!(attempt.name, "d");
    // Four of a class at once; of those who wait, the most urgent is next.
    for name in ["e", "f", "g"] {
        create(&admin, name, json!({})).await;
        in_phase(&admin, name, TaskPhase::Executing).await;
    }
    create(&admin, "calm", json!({})).await;
    create(&admin, "urgent", json!({ "priority": 10 })).await;
    let waits = until(&tasks(&admin), "calm", "it waits", |task| !status(task).blocked_by.is_empty()).await;
    assert!(status(&waits).blocked_by[0].hint.contains("does 4 tasks of the kind at once"), "{waits:?}");
    until(&tasks(&admin), "urgent", "it waits", |task| !status(task).blocked_by.is_empty()).await;
    let running = host.begin(&attempt.token).await;
    running.end(json!({ "outcome": "Succeeded" })).await;
    in_phase(&admin, "urgent", TaskPhase::Executing).await;
    assert_eq!(status(&tasks(&admin).get("calm").await.unwrap()).phase, Some(TaskPhase::Pending));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_touches_its_own_attempts_only() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (admin, host) = (gateway.admin().await, Host::ready(&gateway, "h1").await);
    let other = Host::ready(&gateway, "h2").await;
    create(&admin, "t", json!({})).await;
    let attempt = host.lease(&[]).await.remove(0);
    let mut foreign = other.begin(&attempt.token).await;
    let refused = within("the refusal", foreign.down.message()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let mut running = host.begin(&attempt.token).await;
    for (wrong, says) in [
        (json!({ "outcome": "Succeeded", "token": "another" }), "is of token"),
        (json!({}), "outcome is missing"),
        (json!({ "outcome": "Great" }), "unknown variant"),
    ] {
        running.end(wrong).await;
        let refused = within("the refusal", running.down.message()).await.unwrap_err();
        assert!(refused.message().contains(says), "{refused}");
        running = host.begin(&attempt.token).await;
    }
    running.progress("one", 3, 4).await;
    running.progress("one", 2, 4).await;
    running.progress("one", 9, 4).await;
    running.end(json!({ "outcome": "Succeeded" })).await;
    running.settled().await;
    let done = in_phase(&admin, "t", TaskPhase::Completed).await;
    assert_eq!(status(&done).progress.unwrap().done, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_silent_loses_its_attempt_and_a_task_that_is_deleted_ends_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = config(dir.path());
    (settings.heartbeat_seconds, settings.host_grace_seconds, settings.task_lease_seconds) = (1, 2, 3);
    let gateway = start_with(settings).await;
    let (admin, host) = (gateway.admin().await, Host::ready(&gateway, "h1").await);
    create(&admin, "t", json!({})).await;
    let attempt = host.lease(&[]).await.remove(0);
    let running = host.begin(&attempt.token).await;
    until(&tasks(&admin), "t", "it began", |task| status(task).reported.is_some()).await;
    tasks(&admin).delete("t", &DeleteParams::default()).await.unwrap();
    drop((host, running));
    until(&tasks(&admin), "t", "the host is silent", |task| {
        status(task).blocked_by.iter().any(|blocked| blocked.hint.contains("does not report"))
    })
    .await;
    until_gone(&tasks(&admin), "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_cannot_be_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (admin, _host) = (gateway.admin().await, Host::ready(&gateway, "h1").await);
    create(&admin, "a", json!({ "dependsOn": [{ "task": "c" }] })).await;
    create(&admin, "b", json!({ "dependsOn": [{ "task": "a" }] })).await;
    let many: Vec<Value> = (0..101).map(|number| json!({ "task": format!("t{number}") })).collect();
    for (spec, says) in [
        (json!({ "dependsOn": [{ "task": "b" }] }), "for ever: c -> b -> a -> c"),
        (json!({ "dependsOn": [{ "task": "c" }] }), "for ever: c -> c"),
        (json!({ "dependsOn": many }), "spec.dependsOn"),
        (json!({ "host": "h9" }), "there is no such host"),
        (json!({ "host": null }), "say which"),
        (json!({ "operation": { "vmStop": { "vm": "v" } } }), "leave the host out"),
        (json!({ "operation": { "dance": {} } }), "spec.operation"),
        (json!({ "operation": { "probe": { "image": "x" } } }), "spec.operation.probe.image"),
        (json!({ "operation": { "probe": {}, "osApply": {} } }), "spec.operation"),
        (json!({ "operation": { "osApply": {} }, "retry": { "limit": 1 } }), "may not be repeated"),
        (json!({ "timeout": "0s" }), "from 1s to 30d"),
        (json!({ "timeout": "36500d" }), "from 1s to 30d"),
        (json!({ "timeout": "soon" }), "spec.timeout"),
        (json!({ "ttlAfterFinished": "366d" }), "from 0s to 365d"),
        (json!({ "priority": 5000 }), "spec.priority"),
    ] {
        let mut whole = json!({ "operation": { "probe": {} }, "host": "h1" });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let task = json!({ "apiVersion": "basalt.dev/v1alpha1", "kind": "Task", "metadata": { "name": "c" }, "spec": whole });
        let request = http::Request::post("/apis/basalt.dev/v1alpha1/namespaces/default/tasks?fieldValidation=Strict");
        let request = request.header("content-type", "application/json").body(task.to_string().into_bytes()).unwrap();
        let refused = admin.request::<Value>(request).await.unwrap_err().to_string();
        assert!(refused.contains(says), "{spec}: {refused}");
    }
    let made = create(&admin, "d", json!({})).await;
    let patch = Patch::Merge(json!({ "spec": { "host": "h2" } }));
    let refused = tasks(&admin).patch("d", &PatchParams::default(), &patch).await.unwrap_err().to_string();
    assert!(refused.contains("cannot be changed"), "{refused}");
    assert_eq!(made.labels()["basalt.dev/operation"], "Probe");
    assert_eq!(made.annotations()["basalt.dev/created-by"], "admin");
    assert_eq!(tasks(&admin).list(&Default::default()).await.unwrap().items.len(), 3);
}

/// A host that says of each of its VMs that it is as it should be.
async fn obedient(gateway: &Gateway, name: &str) -> (Agent, JoinHandle<()>) {
    let (agent, reports): (Agent, Reports) = gateway.ready_host(name).await;
    let mut manifests = agent.manifests(0).await;
    let admin = gateway.admin().await;
    let task = tokio::spawn(async move {
        let mut manifest = manifests.message().await.unwrap().unwrap();
        loop {
            let mut vms = Vec::new();
            for wanted in &manifest.vms {
                let Some(vm) = common::vms(&admin).get_opt(&wanted.name).await.unwrap() else { continue };
                let state = if wanted.desired() == Desired::Stopped { "Stopped" } else { "Running" };
                let mut seen = seen(&vm, wanted.epoch, state);
                let observed =
                    json!({ "epoch": wanted.epoch, "generation": wanted.generation, "state": state, "vmm": "Qemu", "accelerator": "Tcg" });
                seen.observed_json = observed.to_string();
                vms.push(seen);
            }
            reports.send(report(manifest.generation, vms)).await;
            if let Ok(newer) = tokio::time::timeout(Duration::from_secs(1), manifests.message()).await {
                manifest = newer.unwrap().unwrap();
            }
        }
    });
    (agent, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_stopped_and_a_cancel_puts_back_what_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (admin, _host) = (gateway.admin().await, obedient(&gateway, "h1").await);
    placed_vm(&admin, "v", "h1").await;
    let stop = json!({ "operation": { "vmStop": { "vm": "v" } }, "host": null });
    create(&admin, "stop", stop).await;
    in_phase(&admin, "stop", TaskPhase::Completed).await;
    let stopped = common::vms(&admin).get("v").await.unwrap();
    assert_eq!(stopped.spec.run_strategy, RunStrategy::Halted);
    assert_eq!(stopped.status.unwrap().phase, Some(VmPhase::Stopped));
    // A host that does not act: the VM goes on, and is to go on.
    let (_idle, _reports) = gateway.ready_host("h2").await;
    placed_vm(&admin, "busy", "h2").await;
    let stop = json!({ "operation": { "vmStop": { "vm": "busy" } }, "host": null });
    create(&admin, "enough", stop).await;
    let halted = |vm: &basalt_api::VirtualMachine| vm.spec.run_strategy == RunStrategy::Halted;
    common::until(&common::vms(&admin), "busy", "it is to stop", halted).await;
    cancel(&admin, "enough").await;
    in_phase(&admin, "enough", TaskPhase::Cancelled).await;
    assert_eq!(common::vms(&admin).get("busy").await.unwrap().spec.run_strategy, RunStrategy::Always);
    create(&admin, "none", json!({ "operation": { "vmStop": { "vm": "none" } }, "host": null })).await;
    let failed = in_phase(&admin, "none", TaskPhase::Failed).await;
    assert_eq!(status(&failed).message.as_deref(), Some("VM none does not exist"));
    create(&admin, "move", json!({ "operation": { "vmMigrate": { "vm": "v" } }, "host": null })).await;
    let failed = in_phase(&admin, "move", TaskPhase::Failed).await;
    assert_eq!(status(&failed).reason, Some(TaskReason::NotSupported));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_drained_by_tasks_and_takes_vms_again_if_that_fails() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (admin, _host) = (gateway.admin().await, obedient(&gateway, "h1").await);
    placed_vm(&admin, "v", "h1").await;
    placed_vm(&admin, "w", "h1").await;
    let hosts: Api<basalt_api::Host> = Api::all(admin.clone());
    create(&admin, "gently", json!({ "operation": { "hostDrain": {} } })).await;
    let failed = in_phase(&admin, "gently", TaskPhase::Failed).await;
    assert!(status(&failed).message.unwrap().contains("v, w could not be moved"), "{failed:?}");
    assert!(!hosts.get("h1").await.unwrap().spec.unschedulable);
    create(&admin, "hard", json!({ "operation": { "hostDrain": { "stopUnmovable": true } } })).await;
    in_phase(&admin, "hard", TaskPhase::Completed).await;
    assert!(hosts.get("h1").await.unwrap().spec.unschedulable);
    for name in ["v", "w"] {
        assert_eq!(common::vms(&admin).get(name).await.unwrap().status.unwrap().phase, Some(VmPhase::Stopped));
    }
    let children = tasks(&admin).list(&ListParams::default().labels("basalt.dev/parent=hard")).await.unwrap();
    assert_eq!(children.items.len(), 4);
}
