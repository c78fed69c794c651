//! `apply -f`: all of it or nothing on a fault of the input; the rest if the server refuses some.

use crate::cluster::{Cluster, VM};

const THREE: &str = "
apiVersion: basalt.dev/v1alpha1
kind: VirtualMachine
metadata: {name: web-1, namespace: shop}
spec:
  memory: 512Mi
  boot: {disk: {name: root}}
  disks: [{name: root, image: debian}]
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: basalt.dev/v1alpha1
kind: Image
metadata: {name: debian}
spec: {source: 'file:///images/debian.raw', format: Raw}
";

#[test]
fn a_file_is_applied_namespaces_first_and_applying_it_again_changes_nothing() {
    let cluster = Cluster::start();
    let file = cluster.file("three.yaml", THREE);
    let run = cluster.run(&["apply", "-f", &file]);
    assert_eq!(
        (run.code, run.out.as_str()),
        (0, "namespace/shop created\nvirtualmachine.basalt.dev/web-1 created\nimage.basalt.dev/debian created\n"),
        "{run}"
    );
    assert!(run.err.starts_with("cluster lab-1 (http://127.0.0.1:"), "{run}");
    let run = cluster.run(&["apply", "-f", &file]);
    assert_eq!(
        (run.code, run.out.as_str()),
        (0, "namespace/shop unchanged\nvirtualmachine.basalt.dev/web-1 unchanged\nimage.basalt.dev/debian unchanged\n"),
        "{run}"
    );

    cluster.file("three.yaml", &THREE.replace("512Mi", "1Gi"));
    let run = cluster.run(&["apply", "-f", &file]);
    assert_eq!((run.code, run.out.lines().nth(1)), (0, Some("virtualmachine.basalt.dev/web-1 configured")), "{run}");
}

#[test]
fn a_directory_standard_input_and_json_are_applied() {
    let cluster = Cluster::start();
    cluster.file("set/b.yaml", &VM.replace("web-1", "b"));
    cluster.file("set/a.yml", &VM.replace("web-1", "a"));
    cluster.file("set/below/c.json", &cluster.json(&VM.replace("web-1", "c")));
    cluster.file("set/notes.txt", "not a manifest");
    let run = cluster.run(&["apply", "-f", &cluster.path("set")]);
    assert_eq!((run.code, run.out.as_str()), (0, "virtualmachine.basalt.dev/a created\nvirtualmachine.basalt.dev/b created\n"), "{run}");
    let run = cluster.run(&["apply", "-R", "-f", &cluster.path("set")]);
    assert_eq!((run.code, run.out.lines().last()), (0, Some("virtualmachine.basalt.dev/c created")), "{run}");
    let both = format!("{}\n{}", cluster.json(&VM.replace("web-1", "d")), cluster.json(&VM.replace("web-1", "e")));
    let run = cluster.fed(&["apply", "-f", "-"], both.as_bytes());
    assert_eq!((run.code, run.out.as_str()), (0, "virtualmachine.basalt.dev/d created\nvirtualmachine.basalt.dev/e created\n"), "{run}");
}

#[test]
fn a_fault_of_the_input_is_told_with_its_place_and_nothing_is_stored() {
    let cluster = Cluster::start();
    let good = VM.replace("web-1", "good");
    let bad: &[(&str, Vec<u8>, &str)] = &[
        ("parse", b"apiVersion: v1\nkind: [\n".to_vec(), "parse.yaml:2:7"),
        ("tab", b"kind: A\n\tname: b\n".to_vec(), "tab.yaml:1:"),
        ("utf8", b"apiVersion: v1\nkind: \xff\n".to_vec(), "utf8.yaml:2:7"),
        ("empty", b"# nothing\n---\n".to_vec(), "holds no object"),
        ("list", b"- a\n".to_vec(), "is a list"),
        ("no-kind", b"apiVersion: v1\nmetadata: {name: a}\n".to_vec(), "has no kind"),
        ("no-name", b"apiVersion: v1\nkind: Namespace\nmetadata: {}\n".to_vec(), "no-name.yaml:3:1"),
        (
            "unknown",
            b"apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachin\nmetadata: {name: a}\n".to_vec(),
            "VirtualMachine in basalt.dev/v1alpha1",
        ),
        ("group", b"apiVersion: basalt.dev/v9\nkind: Host\nmetadata: {name: a}\n".to_vec(), "Host in basalt.dev/v1alpha1"),
        ("twice", format!("{good}---\n{good}").into_bytes(), "is given twice"),
        ("duplicate-key", format!("{good}  cpus: 1\n  cpus: 2\n").into_bytes(), "duplicate mapping key"),
        ("deep", "[".repeat(10_000).into_bytes(), "does not parse"),
    ];
    for (name, bytes, says) in bad {
        let good = cluster.file("good.yaml", &good);
        let file = cluster.bytes(&format!("{name}.yaml"), bytes);
        let run = cluster.run(&["apply", "-f", &good, "-f", &file]);
        assert_eq!((run.code, run.out.as_str()), (7, ""), "{name}: {run}");
        assert!(run.err.contains("nothing was changed") && run.err.contains(says), "{name}: {run}");
    }
    assert_eq!(cluster.run(&["get", "vm", "-o", "name"]).out, "");
    assert_eq!(cluster.run(&["apply", "-f", "/nowhere.yaml"]).code, 7);
    assert_eq!(cluster.run(&["apply"]).code, 2);
}

#[test]
fn what_the_server_refuses_is_told_with_the_line_and_the_rest_is_applied() {
    let cluster = Cluster::start();
    let cases = [
        ("unknown", "  colour: red\n", "unknown.yaml:10:3"),
        ("type", "  cpus: many\n", "type.yaml:10:3"),
        ("range", "  cpus: 0\n", "range.yaml:10:3"),
    ];
    for (name, line, place) in cases {
        let file = cluster.file(&format!("{name}.yaml"), &format!("{VM}{line}"));
        let run = cluster.run(&["apply", "-f", &file]);
        assert_eq!((run.code, run.out.as_str()), (7, ""), "{name}: {run}");
        assert!(run.err.contains(place), "{name}: {run}");
    }
    assert_eq!(cluster.run(&["get", "vm", "-o", "name"]).out, "");

    let file = cluster.file("nowhere.yaml", &VM.replace("  labels", "  namespace: nowhere\n  labels"));
    let run = cluster.run(&["apply", "-f", &file]);
    assert_eq!(run.code, 5, "{run}");
    assert!(run.err.contains("namespace \"nowhere\" does not exist") && run.err.contains("nowhere.yaml:5:3"), "{run}");

    let long = VM.replace("web-1", &"x".repeat(300));
    let good = cluster.file("mixed.yaml", &format!("{long}---\n{}", VM.replace("web-1", "good")));
    let run = cluster.run(&["apply", "-f", &good]);
    assert_eq!((run.code, run.out.as_str()), (12, "virtualmachine.basalt.dev/good created\n"), "{run}");
    assert!(run.err.contains("mixed.yaml:4:3"), "{run}");
    assert!(run.err.contains("1 of 2 objects were applied"), "{run}");
}

#[test]
fn an_object_of_twenty_megabytes_is_refused() {
    let cluster = Cluster::start();
    let huge = cluster.file("huge.yaml", &format!("{VM}  runStrategy: {}\n", "x".repeat(20 << 20)));
    let run = cluster.run(&["apply", "-f", &huge]);
    assert_eq!((run.code, run.out.as_str()), (7, ""), "{}", &run.err[..run.err.len().min(500)]);
    assert!(run.err.len() < 4000, "the error does not repeat the object");
}

#[test]
fn a_dry_run_says_what_would_happen_and_stores_nothing() {
    let cluster = Cluster::start();
    let file = cluster.file("vm.yaml", VM);
    let run = cluster.run(&["apply", "-f", &file, "--dry-run=server"]);
    assert_eq!((run.code, run.out.as_str()), (0, "virtualmachine.basalt.dev/web-1 created (server dry run)\n"), "{run}");
    assert_eq!(cluster.run(&["get", "vm", "-o", "name"]).out, "");
    cluster.applied(VM);
    assert!(cluster.run(&["apply", "-f", &file, "--dry-run=server"]).out.contains("unchanged"));
    cluster.file("vm.yaml", &VM.replace("512Mi", "1Gi"));
    assert!(cluster.run(&["apply", "-f", &file, "--dry-run=server"]).out.contains("configured"));
    assert!(cluster.run(&["get", "vm", "-o", "yaml"]).out.contains("512Mi"));
}

#[test]
fn a_field_of_another_manager_is_a_conflict_until_it_is_forced() {
    let cluster = Cluster::start();
    cluster.applied_by("flux", VM);
    let file = cluster.file("vm.yaml", &VM.replace("512Mi", "1Gi"));
    let run = cluster.run(&["apply", "-f", &file]);
    assert_eq!(run.code, 6, "{run}");
    assert!(run.err.contains("flux") && run.err.contains("vm.yaml:7:3") && run.err.contains("--force-conflicts"), "{run}");
    assert_eq!(cluster.run(&["apply", "-f", &file, "--force-conflicts"]).code, 0);
}

#[test]
fn another_namespace_than_the_one_given_is_refused() {
    let cluster = Cluster::start();
    let file = cluster.file("vm.yaml", &VM.replace("  name: web-1", "  name: web-1\n  namespace: shop"));
    let run = cluster.run(&["apply", "-f", &file, "-n", "other"]);
    assert_eq!(run.code, 7, "{run}");
    assert!(run.err.contains("vm.yaml:5:3"), "{run}");
}

#[test]
fn apply_and_wait_returns_when_it_is_as_wanted() {
    let cluster = Cluster::start();
    let file = cluster.file("vm.yaml", VM);
    let run = cluster.spawn(&["apply", "-f", &file, "--wait"]);
    run.line_with("web-1 created");
    cluster.status(
        "web-1",
        serde_json::json!({"phase": "Running", "observedGeneration": 1, "conditions": [Cluster::condition("Ready", "True")]}),
    );
    let run = run.end();
    assert_eq!(run.code, 0, "{run}");
    assert!(run.out.contains("virtualmachine.basalt.dev/web-1 is as wanted"), "{run}");
}
