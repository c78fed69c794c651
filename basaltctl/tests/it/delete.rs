//! `delete`: what is asked, what is waited for, and what is left.

use crate::cluster::{Cluster, VM};
use serde_json::json;

fn two() -> Cluster {
    let cluster = Cluster::start();
    cluster.applied(VM);
    cluster.applied(&VM.replace("web-1", "web-2"));
    cluster
}

#[test]
fn one_named_object_is_deleted_without_a_question() {
    let cluster = two();
    let run = cluster.run(&["delete", "vm", "web-1"]);
    assert_eq!((run.code, run.out.as_str()), (0, "virtualmachine.basalt.dev/web-1 deleted\n"), "{run}");
    assert_eq!(cluster.run(&["get", "vm", "-o", "name"]).out, "virtualmachine.basalt.dev/web-2\n");
    assert_eq!(cluster.run(&["delete", "vm", "web-1"]).code, 5);
    assert_eq!(cluster.run(&["delete", "vm", "web-1", "--ignore-not-found"]).code, 0);
}

#[test]
fn more_than_one_needs_yes_where_nobody_can_be_asked() {
    let cluster = two();
    let file = cluster.file("both.yaml", &format!("{VM}---\n{}", VM.replace("web-1", "web-2")));
    for words in
        [&["delete", "vm", "--all"][..], &["delete", "vm", "-l", "app=web"], &["delete", "vm/web-1", "vm/web-2"], &["delete", "-f", &file]]
    {
        let run = cluster.run(words);
        assert_eq!((run.code, run.out.as_str()), (13, ""), "{run}");
        assert!(run.err.contains("virtualmachine.basalt.dev/web-1") && run.err.contains("--yes"), "{run}");
    }
    let run = cluster.run(&["delete", "-f", &file, "--yes"]);
    assert_eq!(run.code, 0, "{run}");
    assert_eq!(cluster.run(&["get", "vm", "-o", "name"]).out, "");
}

#[test]
fn a_namespace_for_a_kind_without_one_is_refused() {
    let run = two().run(&["delete", "host/r12-a", "-n", "default"]);
    assert_eq!(run.code, 2, "{run}");
}

#[test]
fn it_waits_until_the_finalizer_is_gone_and_says_what_it_waits_for() {
    let cluster = two();
    cluster.finalizers("web-1", json!(["basalt.dev/vm-teardown"]));
    cluster.status("web-1", json!({"blockedBy": [{"code": "TearDown", "since": "2026-11-23T12:00:00Z", "hint": "host r12-a stops it"}]}));
    let run = cluster.run(&["delete", "vm/web-1", "--timeout", "1s"]);
    assert_eq!((run.code, run.out.as_str()), (11, ""), "{run}");
    assert!(run.err.contains("host r12-a stops it") && run.err.contains("basalt.dev/vm-teardown"), "{run}");

    let run = cluster.run(&["delete", "vm/web-1", "--wait=false"]);
    assert_eq!((run.code, run.out.as_str()), (0, "virtualmachine.basalt.dev/web-1 deleting\n"), "{run}");
    let run = cluster.spawn(&["delete", "vm/web-1"]);
    run.told("waiting for vm/web-1");
    cluster.finalizers("web-1", json!(null));
    let run = run.end();
    assert_eq!((run.code, run.out.as_str()), (0, "virtualmachine.basalt.dev/web-1 deleted\n"), "{run}");
}
