//! `get`, `describe`, `why` and `logs`: what they print, and that it is data on standard output.

use crate::cluster::{Cluster, VM};
use serde_json::{Value, json};

fn two() -> Cluster {
    let cluster = Cluster::start();
    cluster.applied(VM);
    cluster.applied(&VM.replace("web-1", "web-2").replace("app: web", "app: other"));
    cluster.status("web-1", json!({"phase": "Running", "host": "r12-a", "placementEpoch": 1, "observedGeneration": 1}));
    cluster
}

#[test]
fn every_shape_is_printed_and_parses() {
    let cluster = two();
    let get = |shape: &str| {
        let run = cluster.run(&["get", "vm", "-o", shape]);
        assert_eq!((run.code, run.err.as_str()), (0, ""), "{run}");
        run.out
    };
    let table = get("table");
    assert!(table.starts_with("NAME ") && table.contains("Running") && !table.contains("EPOCH"), "{table}");
    assert!(get("wide").contains("EPOCH"));
    assert_eq!(get("name"), "virtualmachine.basalt.dev/web-1\nvirtualmachine.basalt.dev/web-2\n");
    let list: Value = serde_json::from_str(&get("json")).unwrap();
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("List"), 2));
    assert!(list["items"][0]["metadata"].get("managedFields").is_none());
    assert_eq!(list["items"][0]["kind"], "VirtualMachine");
    let yaml: Value = serde_saphyr::from_str(&get("yaml")).unwrap();
    assert_eq!(yaml, list);
    let lines: Vec<Value> = get("jsonl").lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(Value::Array(lines), list["items"]);

    let one: Value = serde_json::from_str(&cluster.run(&["get", "vm/web-1", "-o", "json"]).out).unwrap();
    assert_eq!(one["metadata"]["name"], "web-1");
    let managed = cluster.run(&["get", "vm/web-1", "-o", "json", "--show-managed-fields"]);
    assert!(managed.out.contains("managedFields"), "{managed}");
    assert!(!cluster.run(&["get", "vm", "--no-headers"]).out.contains("NAME"));
}

#[test]
fn objects_are_found_by_label_field_kind_and_namespace() {
    let cluster = two();
    let names = |words: &[&str]| cluster.run(&[&["get"], words, &["-o", "name"]].concat()).out;
    assert_eq!(names(&["virtualmachines", "-l", "app=web"]), "virtualmachine.basalt.dev/web-1\n");
    assert_eq!(names(&["VirtualMachine", "--field-selector", "metadata.name=web-2"]), "virtualmachine.basalt.dev/web-2\n");
    assert_eq!(names(&["vm,hosts", "-A"]), "virtualmachine.basalt.dev/web-1\nvirtualmachine.basalt.dev/web-2\n");
    let all = cluster.run(&["get", "vm", "-A"]);
    assert!(all.out.starts_with("NAMESPACE ") && all.out.contains("default"), "{all}");
}

#[test]
fn nothing_found_is_told_apart_from_a_namespace_or_a_kind_that_does_not_exist() {
    let cluster = Cluster::start();
    let run = cluster.run(&["get", "vm"]);
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (0, "", "No resources found in default namespace.\n"));
    assert_eq!(cluster.run(&["get", "vm", "--exit-empty"]).code, 4);
    let run = cluster.run(&["get", "vm", "-n", "nowhere"]);
    assert_eq!(run.code, 5, "{run}");
    assert!(run.err.contains("namespace \"nowhere\" does not exist"), "{run}");
    let run = cluster.run(&["get", "vmz"]);
    assert_eq!(run.code, 2, "{run}");
    assert!(run.err.contains("did you mean"), "{run}");
    let run = cluster.run(&["get", "vm", "web-9"]);
    assert_eq!((run.code, run.out.as_str()), (5, ""), "{run}");
}

#[test]
fn a_closed_pipe_is_no_error() {
    let cluster = two();
    let run = cluster.shell("basaltctl get vm -o yaml | head -c 1; echo \"${PIPESTATUS[0]}\"");
    assert_eq!((run.out.as_str(), run.err.as_str()), ("a0\n", ""), "{run}");
}

#[test]
fn a_watch_that_is_piped_prints_a_line_for_each_change() {
    let cluster = two();
    let watch = cluster.spawn(&["get", "vm", "-w"]);
    watch.line_with("web-2");
    cluster.status("web-2", json!({"phase": "Pending", "observedGeneration": 1}));
    let line = watch.line_with("MODIFIED");
    assert!(line.contains("web-2") && line.contains("Pending"), "{line}");
    cluster.delete("web-1");
    let line = watch.line_with("DELETED");
    assert!(line.contains("web-1"), "{line}");

    let watch = cluster.spawn(&["get", "vm/web-2", "-w", "-o", "jsonl"]);
    let event: Value = serde_json::from_str(&watch.line_with("ADDED")).unwrap();
    assert_eq!(event["object"]["metadata"]["name"], "web-2");
    cluster.status("web-2", json!({"phase": "Running", "observedGeneration": 1}));
    let event: Value = serde_json::from_str(&watch.line_with("MODIFIED")).unwrap();
    assert_eq!(event["object"]["status"]["phase"], "Running");
}

#[test]
fn a_description_has_reasons_refusals_conditions_and_events() {
    let cluster = two();
    cluster.status(
        "web-2",
        json!({"phase": "Pending", "observedGeneration": 1, "conditions": [Cluster::condition("Ready", "False")],
            "blockedBy": [{"code": "NoHostFits", "since": "2026-11-23T12:00:00Z", "hint": "make room on a host"}],
            "refusals": [{"host": "r12-a", "reason": "InsufficientMemory", "message": "needs 512Mi, 100Mi are free"}]}),
    );
    cluster.event("web-2", "NoHostFits", "no host fits");
    cluster.event("web-1", "Placed", "placed on r12-a");
    let run = cluster.run(&["describe", "vm", "web-2"]);
    assert_eq!(run.code, 0, "{run}");
    for part in [
        "Name:         web-2",
        "no host fits (NoHostFits)",
        "make room on a host",
        "InsufficientMemory",
        "Ready  False",
        "no host fits\n",
        "memory: 512Mi",
    ] {
        assert!(run.out.contains(part), "{part}: {run}");
    }
    assert!(!run.out.contains("placed on r12-a"), "only its own events: {run}");
    let view: Value = serde_json::from_str(&cluster.run(&["describe", "vm/web-2", "-o", "json"]).out).unwrap();
    assert_eq!(view["blockedBy"][0]["code"], "NoHostFits");
    assert_eq!(view["events"][0]["reason"], "NoHostFits");
    assert_eq!(cluster.run(&["describe", "vm/web-9"]).code, 5);

    let why = cluster.run(&["why", "vm/web-2"]);
    assert!(why.out.contains("web-2 (Pending) waits") && why.out.contains("make room on a host") && why.out.contains("r12-a"), "{why}");
    let events = cluster.run(&["events", "--for", "vm/web-1"]);
    assert!(events.out.contains("placed on r12-a") && !events.out.contains("NoHostFits"), "{events}");
}

#[test]
fn the_console_is_printed_as_it_is() {
    let cluster = two();
    let run = cluster.run(&["logs", "vm/web-1", "--tail", "2"]);
    assert_eq!((run.code, run.out.as_str()), (0, "console of web-1, follow=, tailLines=2\nlogin: "), "{run}");
    assert_eq!(cluster.run(&["logs", "web-1", "-f"]).out, "console of web-1, follow=true, tailLines=\nlogin: ");
    assert_eq!(cluster.run(&["logs", "vm/web-9"]).code, 5);
    assert_eq!(cluster.run(&["logs", "host/r12-a"]).code, 2);
}
