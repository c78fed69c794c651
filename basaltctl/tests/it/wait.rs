//! `wait`: every way in which it ends has an exit code of its own.

use crate::cluster::{Cluster, VM};
use serde_json::json;

fn one() -> Cluster {
    let cluster = Cluster::start();
    cluster.applied(VM);
    cluster
}

#[test]
fn it_ends_when_the_goal_is_met() {
    let cluster = one();
    for (goal, status) in [
        ("--for=phase=Running", json!({"phase": "Running", "observedGeneration": 1})),
        ("--for=condition=Ready", json!({"observedGeneration": 1, "conditions": [Cluster::condition("Ready", "True")]})),
        ("--for=condition=Ready=False", json!({"observedGeneration": 1, "conditions": [Cluster::condition("Ready", "False")]})),
        ("--for=jsonpath={.status.host}=r12-a", json!({"host": "r12-a", "observedGeneration": 1})),
    ] {
        cluster.status("web-1", json!({"phase": "Pending"}));
        let run = cluster.spawn(&["wait", "vm/web-1", goal]);
        run.told("waiting for vm/web-1");
        cluster.status("web-1", status);
        let run = run.end();
        assert_eq!(run.code, 0, "{goal}: {run}");
    }
}

#[test]
fn it_ends_with_11_and_the_reasons_when_time_is_up() {
    let cluster = one();
    cluster.status("web-1", json!({"blockedBy": [{"code": "NoHostFits", "since": "2026-11-23T12:00:00Z", "hint": "make room on a host"}]}));
    let run = cluster.run(&["wait", "vm/web-1", "--timeout", "1s"]);
    assert_eq!((run.code, run.out.as_str()), (11, ""), "{run}");
    assert!(run.err.contains("time is up after 1s") && run.err.contains("make room on a host"), "{run}");
}

#[test]
fn it_ends_with_10_at_once_when_the_object_has_failed_for_good() {
    let cluster = one();
    let run = cluster.spawn(&["wait", "vm/web-1", "--for=condition=Ready", "--timeout", "10m"]);
    run.told("waiting for vm/web-1");
    cluster.status("web-1", json!({"phase": "Failed", "observedGeneration": 1, "conditions": [Cluster::condition("Ready", "False")]}));
    run.told("Ready is False");
    cluster.status("web-1", json!({"phase": "Failed", "observedGeneration": 1, "conditions": [Cluster::condition("Stalled", "True")]}));
    let run = run.end();
    assert_eq!(run.code, 10, "a VM whose phase is Failed is tried again, one that is Stalled is not: {run}");
}

#[test]
fn it_ends_with_5_when_there_is_no_such_object_and_with_0_when_that_is_the_goal() {
    let cluster = one();
    assert_eq!(cluster.run(&["wait", "vm/web-9"]).code, 5);
    assert_eq!(cluster.run(&["wait", "vm/web-9", "--for=delete"]).code, 0);
    let run = cluster.spawn(&["wait", "vm/web-1", "--for=delete"]);
    run.told("waiting for vm/web-1");
    cluster.delete("web-1");
    assert_eq!(run.end().code, 0);
}

#[test]
fn a_goal_that_cannot_be_is_refused_at_once() {
    let cluster = one();
    assert_eq!(cluster.run(&["wait", "vm/web-1", "--for=ready"]).code, 2);
    assert_eq!(cluster.run(&["wait", "vm/web-1", "--for=jsonpath={.a[?(@.b)]}"]).code, 2);
    cluster.status("web-1", json!({"conditions": [Cluster::condition("Ready", "False")]}));
    let run = cluster.run(&["wait", "vm/web-1", "--for=condition=Redy"]);
    assert_eq!(run.code, 2, "{run}");
    assert!(run.err.contains("did you mean Ready"), "{run}");
}
