//! The main job, as a newcomer does it, and what happens when it cannot be done.

use basalt_api::{
    VirtualMachine,
    virtual_machine::{RefusalReason, VmPhase},
};
use basalt_e2e::{Fleet, Options, fleet::program, guest::answer};
use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

fn phase(wanted: VmPhase) -> impl Fn(Option<&VirtualMachine>) -> bool {
    move |vm| vm.and_then(|vm| vm.status.as_ref()?.phase) == Some(wanted)
}

fn examples() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/examples"))
}

#[tokio::test]
async fn three_vms_spread_over_three_hosts_and_answer_http() {
    let fleet = Fleet::start(Options { hosts: 3, ..Options::default() });
    let vms = ["web-1", "web-2", "web-3"];
    // The example itself, with the addresses and files of this fleet in place of the demo's.
    let mut manifests = String::new();
    for entry in ["images.yaml", "web-1.yaml", "web-2.yaml", "web-3.yaml"] {
        manifests += &fs::read_to_string(examples().join("first-light").join(entry)).expect("the example is there");
        manifests += "\n---\n";
    }
    let subnet = fleet.address(0).to_string();
    let subnet = subnet.trim_end_matches('0');
    let guest = basalt_e2e::guest::directory();
    let manifests =
        manifests.replace("198.18.77.", subnet).replace("/var/lib/basalt/images/first-light", guest.to_str().expect("a plain path"));
    fleet.apply(&manifests);
    for (n, name) in (11..).zip(vms) {
        fleet.vm_becomes(name, "Running", phase(VmPhase::Running)).await;
        assert!(answer(fleet.address(n)).contains(name), "the guest knows its own name");
    }
    let mut hosts = BTreeSet::new();
    for name in vms {
        hosts.insert(fleet.vm(name).await.status.and_then(|s| s.host));
    }
    assert_eq!(hosts.len(), 3, "{hosts:?}");

    let again = fleet.ctl_with_input(&["apply", "-f", "-"], &manifests).succeeded().stdout;
    assert!(again.contains("unchanged") && !again.contains("configured"), "{again}");
    let table = fleet.kubectl(&["get", "vms"], "").succeeded().stdout;
    assert!(table.contains("PHASE") && table.matches("Running").count() == 3, "{table}");
    let console = fleet.ctl(&["logs", "vm/web-1"]).succeeded().stdout;
    assert!(console.contains("basalt-guest ready"), "{console}");
    let described = fleet.ctl(&["describe", "vm", "web-1"]).succeeded().stdout;
    assert!(described.contains("Placed on host"), "{described}");
}

#[tokio::test]
async fn a_vm_that_fits_nowhere_is_pending_with_the_reason_of_every_host_and_starts_when_it_fits() {
    let fleet = Fleet::start(Options {
        hosts: 2,
        vmm: "simulated",
        flags: vec!["--host-cpus=4".into(), "--host-memory=8Gi".into()],
        ..Options::default()
    });
    fleet.apply(&vm("big", "memory: 64Gi"));
    fleet.vm_becomes("big", "Pending", phase(VmPhase::Pending)).await;
    let refusals = fleet.vm("big").await.status.expect("it has a status").refusals;
    let told: Vec<_> = refusals.iter().map(|r| (r.host.as_str(), r.reason)).collect();
    assert_eq!(told, [("host-1", RefusalReason::InsufficientMemory), ("host-2", RefusalReason::InsufficientMemory)]);
    assert!(refusals[0].message.contains("64Gi") && refusals[0].message.contains("8Gi"), "{}", refusals[0].message);
    let described = fleet.ctl(&["describe", "vm", "big"]).succeeded().stdout;
    assert!(described.contains("InsufficientMemory"), "{described}");
    fleet.apply(&vm("big", "memory: 4Gi"));
    fleet.vm_becomes("big", "Running", phase(VmPhase::Running)).await;
}

#[tokio::test]
async fn an_unschedulable_host_gets_no_vm_and_a_selector_is_kept() {
    let fleet = Fleet::start(Options { hosts: 2, vmm: "simulated", ..Options::default() });
    fleet.kubectl(&["patch", "host", "host-1", "--type=merge", "-p", r#"{"spec":{"unschedulable":true}}"#], "").succeeded();
    fleet.kubectl(&["label", "host", "host-2", "zone=b"], "").succeeded();
    fleet.apply(&vm("anywhere", "memory: 1Gi"));
    fleet.apply(&vm("in-a", "memory: 1Gi\n  placement: {hostSelector: {zone: a}}"));
    fleet.vm_becomes("anywhere", "Running", phase(VmPhase::Running)).await;
    assert_eq!(fleet.vm("anywhere").await.status.and_then(|s| s.host).as_deref(), Some("host-2"));
    fleet.vm_becomes("in-a", "Pending", phase(VmPhase::Pending)).await;
    let refusals = fleet.vm("in-a").await.status.expect("it has a status").refusals;
    let reasons: Vec<_> = refusals.iter().map(|r| r.reason).collect();
    assert_eq!(reasons, [RefusalReason::HostUnschedulable, RefusalReason::SelectorMismatch]);
}

#[tokio::test]
async fn an_image_path_that_does_not_exist_is_named_in_the_vm_and_in_the_image() {
    let fleet = Fleet::start(Options { vmm: "simulated", ..Options::default() });
    fleet.apply(&vm("lost", "memory: 1Gi").replace("/etc/os-release", "/no/such/kernel"));
    fleet.vm_becomes("lost", "Failed", phase(VmPhase::Failed)).await;
    let why = fleet.ctl(&["describe", "vm", "lost"]).succeeded().stdout;
    assert!(why.contains("/no/such/kernel"), "{why}");
    let image = fleet.ctl(&["get", "image", "kernel", "-o", "yaml"]).succeeded().stdout;
    assert!(image.contains("Missing"), "{image}");
}

#[tokio::test]
async fn every_invalid_example_is_refused_by_field_and_nothing_is_stored() {
    let fleet = Fleet::start(Options { vmm: "simulated", ..Options::default() });
    let expected = [
        ("unknown-field", "memroy"),
        ("wrong-type", "spec.cpus"),
        ("missing-required", "spec.memory"),
        ("negative-memory", "spec.memory"),
        ("duplicate-disk", "spec.disks[1]"),
        ("two-boots", "spec.boot"),
        ("missing-boot-disk", "spec.boot.disk.name"),
        ("gateway-without-address", "spec.networks[0].address"),
        ("relative-image", "spec.source"),
        ("name-too-long", "metadata.name"),
        ("task-without-host", "spec.host"),
    ];
    let dir = examples().join("invalid");
    let files = fs::read_dir(&dir).expect("the examples are there").flatten().filter(|e| e.path().extension().is_some_and(|x| x == "yaml"));
    assert_eq!(files.count(), expected.len(), "every invalid example is tried here");
    for (name, field) in expected {
        let path = dir.join(format!("{name}.yaml"));
        let path = path.to_str().expect("a plain path");
        let ours = fleet.ctl(&["apply", "-f", path]);
        assert!(!ours.success && ours.stderr.contains(field), "{name}: {}", ours.stderr);
        // An old kubectl refuses some by itself, and names the field without its path.
        let theirs = fleet.kubectl(&["apply", "-f", path], "");
        let field = field.rsplit('.').next().unwrap_or(field);
        assert!(!theirs.success && theirs.stderr.contains(field), "{name}: {}", theirs.stderr);
    }
    for kind in ["vms", "images", "tasks"] {
        assert_eq!(fleet.kubectl(&["get", kind, "-o", "name"], "").succeeded().stdout, "");
    }
}

#[tokio::test]
async fn the_same_fleet_runs_on_etcd() {
    let fleet = Fleet::start(Options { vmm: "simulated", store: "etcd", ..Options::default() });
    fleet.apply(&vm("web", "memory: 1Gi"));
    fleet.vm_becomes("web", "Running", phase(VmPhase::Running)).await;
    fleet.kill("gateway");
    fleet.up();
    fleet.vm_becomes("web", "Running", phase(VmPhase::Running)).await;
    fleet.ctl(&["delete", "vm", "web"]).succeeded();
}

#[tokio::test]
async fn fleets_run_side_by_side_and_end_without_a_trace() {
    let fleets = [Fleet::start(Options::default()), Fleet::start(Options::default())];
    assert_ne!(fleets[0].address(0), fleets[1].address(0));
    for fleet in &fleets {
        fleet.apply(&(fleet.guest_images() + &fleet.guest_vm("web", 11)));
    }
    for fleet in &fleets {
        answer(fleet.address(11));
    }
    let traces = || {
        let links = Command::new("ip").args(["-br", "link"]).output().expect("ip runs").stdout;
        let namespaces = Command::new("ip").args(["netns", "list"]).output().expect("ip runs").stdout;
        String::from_utf8_lossy(&links).into_owned() + &String::from_utf8_lossy(&namespaces)
    };
    let ids: Vec<String> = fleets
        .iter()
        .map(|fleet| {
            let state: serde_json::Value = serde_json::from_slice(&fs::read(fleet.path().join("fleet.json")).unwrap()).unwrap();
            state["id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(ids.iter().all(|id| traces().contains(id)));
    let paths: Vec<_> = fleets.iter().map(|f| f.path().to_str().unwrap().to_owned()).collect();
    drop(fleets);
    assert!(ids.iter().all(|id| !traces().contains(id)), "{}", traces());
    for path in paths {
        assert!(!PathBuf::from(&path).exists());
        let left = Command::new("pgrep").args(["-f", &path]).output().expect("pgrep runs").stdout;
        assert_eq!(String::from_utf8_lossy(&left), "");
    }
}

#[test]
fn a_fleet_without_the_programs_it_needs_says_what_is_missing_and_what_to_do() {
    let empty = tempfile::tempdir().expect("a temporary directory can be made");
    let ran = Command::new(program("basaltctl"))
        .args(["dev", "up", "--vmm", "qemu", "--data-dir"])
        .arg(empty.path().join("fleet"))
        .env("PATH", empty.path())
        .output()
        .expect("basaltctl runs");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(!ran.status.success());
    assert!(said.contains("qemu-system-x86_64") && said.contains("install -y"), "{said}");
    assert!(!empty.path().join("fleet").exists(), "nothing was made");
}

/// A VM for the simulator, which looks at its image files but runs nothing.
fn vm(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: basalt.dev/v1alpha1\nkind: Image\nmetadata: {{name: kernel}}\nspec: {{source: 'file:///etc/os-release', format: Kernel}}\n---\n\
         apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {{name: {name}}}\nspec:\n  boot: {{kernel: {{image: kernel}}}}\n  {spec}\n"
    )
}
