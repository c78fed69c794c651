//! A backup, and restores of it into the other engine and back, with the programs that people have.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use basalt_api::{VirtualMachine, virtual_machine::VmPhase};
use basalt_e2e::{Fleet, Options, bench::etcd::Etcd, gateway::Gateway};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt};

fn running(vm: Option<&VirtualMachine>) -> bool {
    vm.and_then(|vm| vm.status.as_ref()?.phase) == Some(VmPhase::Running)
}

/// The VMs and images of a backup: what they are, without the resource version, which is the store's.
fn objects(backup: &str) -> Vec<(String, Value)> {
    let lines = backup.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let kinds = ["/registry/basalt.dev/virtualmachines/", "/registry/basalt.dev/images/"];
    lines
        .filter(|line| kinds.iter().any(|kind| line["key"].as_str().is_some_and(|key| key.starts_with(kind))))
        .map(|line| (line["object"]["metadata"]["uid"].to_string(), line["object"]["spec"].clone()))
        .collect()
}

#[tokio::test]
async fn a_cluster_moves_to_etcd_and_back_by_backups_and_its_vms_run_on() {
    let fleet = Fleet::start(Options { vmm: "simulated", ..Options::default() });
    fleet.apply(
        "apiVersion: basalt.dev/v1alpha1\nkind: Image\nmetadata: {name: kernel}\nspec: {source: 'file:///etc/os-release', format: Kernel}\n---\n\
         apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {name: web}\nspec: {memory: 1Gi, boot: {kernel: {image: kernel}}}\n",
    );
    fleet.vm_becomes("web", "Running", running).await;
    let before = fleet.vm("web").await;
    let path = |name: &str| fleet.path().join(name).to_str().unwrap().to_owned();
    let (one, two, data) = (path("one"), path("two"), path("gateway"));

    let said = fleet.ctl(&["backup", &one]).succeeded();
    assert!(said.stderr.contains("objects as of revision"), "{}", said.stderr);
    assert_eq!(fs::metadata(&one).unwrap().permissions().mode() & 0o777, 0o600);
    let first = fs::read_to_string(&one).unwrap();
    assert_eq!(objects(&first).len(), 2);
    // What is there is never written over, and a store that is used is not restored into.
    let refused = fleet.ctl(&["backup", &one]);
    assert!(!refused.success && refused.stderr.contains("is there already"), "{}", refused.stderr);
    let refused = fleet.ctl(&["restore", &one, "--", "--data-dir", &data]);
    assert!(!refused.success && refused.stderr.contains("another process has it open"), "{}", refused.stderr);

    fleet.kill("gateway");
    let etcd = Etcd::start().unwrap();
    let flags = ["--store", "etcd", "--etcd-endpoints", etcd.endpoint(), "--data-dir", &data];
    let restore = |file: &str, flags: &[&str]| fleet.ctl(&[&["restore", file, "--"], flags].concat());
    for (wrong, why) in [
        (first[..first.len() / 2].to_owned(), "not whole"),
        (first.replacen("kernel", "KERNEL", 1), "its SHA-256 is"),
        (String::new(), "not whole"),
        ("{}\n".to_owned(), "not whole"),
    ] {
        fs::write(path("wrong"), wrong).unwrap();
        let refused = restore(&path("wrong"), &flags);
        assert!(!refused.success && refused.stderr.contains(why), "{why}: {}", refused.stderr);
    }
    restore(&one, &flags).succeeded();
    let refused = restore(&one, &flags);
    assert!(!refused.success && refused.stderr.contains("the store is not empty"), "{}", refused.stderr);

    let gateway = Gateway::start(fleet.path().join("gateway").as_path(), etcd.endpoint()).await;
    let kubeconfig = gateway.kubeconfig();
    fleet.ctl(&["backup", &two, "--kubeconfig", kubeconfig.to_str().unwrap()]).succeeded();
    gateway.terminate();
    assert_eq!(objects(&fs::read_to_string(&two).unwrap()), objects(&first));

    fs::remove_dir_all(fleet.path().join("gateway/store")).unwrap();
    restore(&two, &["--data-dir", &data]).succeeded();
    fleet.up();
    fleet.vm_becomes("web", "Running", running).await;
    let after = fleet.vm("web").await;
    assert_eq!(after.metadata.uid, before.metadata.uid);
    // The VMM has been running all the time.
    let started = |vm: &VirtualMachine| vm.status.as_ref().unwrap().observed.as_ref().unwrap().started_at.clone();
    assert_eq!(started(&after), started(&before));
    let revision = |backup: &str| serde_json::from_str::<Value>(backup.lines().next().unwrap()).unwrap()["revision"].as_u64().unwrap();
    let version: u64 = after.metadata.resource_version.unwrap().parse().unwrap();
    assert!(version > revision(&fs::read_to_string(&two).unwrap()), "no revision that anybody may know is used again");
}
