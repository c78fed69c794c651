//! Placement by rules, and what is said of it, on three hosts of a simulated VMM.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use basalt_api::{VirtualMachine, virtual_machine::VmPhase};
use basalt_e2e::{Fleet, Options};
use kube::runtime::wait::Condition;
use std::collections::BTreeSet;

fn vm(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {{ name: {name} }}\n\
         spec: {{ boot: {{ kernel: {{ image: kernel }} }}, {spec} }}\n---\n"
    )
}

fn phase(wanted: VmPhase) -> impl Condition<VirtualMachine> {
    move |vm: Option<&VirtualMachine>| vm.and_then(|vm| vm.status.as_ref()?.phase) == Some(wanted)
}

async fn host_of(fleet: &Fleet, name: &str) -> String {
    fleet.vm(name).await.status.unwrap().host.unwrap()
}

#[tokio::test]
async fn a_group_is_kept_apart_and_whoever_waits_comes_in_when_one_leaves() {
    let fleet = Fleet::start(Options { vmm: "simulated", hosts: 3, ..Options::default() });
    fleet.apply("apiVersion: basalt.dev/v1alpha1\nkind: Image\nmetadata: { name: kernel }\nspec: { source: 'file:///etc/os-release', format: Kernel }\n");
    for (host, zone) in [("host-1", "a"), ("host-2", "a"), ("host-3", "b")] {
        fleet.kubectl(&["label", "host", host, &format!("topology.kubernetes.io/zone={zone}")], "").succeeded();
    }
    let apart = "memory: 64Mi, placement: { group: web, antiAffinity: {}, spread: {} }";
    for name in ["web-1", "web-2", "web-3"] {
        fleet.apply(&vm(name, apart));
        fleet.vm_becomes(name, "Running", phase(VmPhase::Running)).await;
    }
    let mut hosts = BTreeSet::new();
    for name in ["web-1", "web-2", "web-3"] {
        hosts.insert(host_of(&fleet, name).await);
    }
    assert_eq!(hosts.len(), 3, "{hosts:?}");

    fleet.apply(&vm("web-4", apart));
    fleet.vm_becomes("web-4", "Pending", phase(VmPhase::Pending)).await;
    let all = fleet.ctl(&["explain", "placement", "vm/web-4"]).succeeded().stdout;
    assert!(all.starts_with("vm/web-4 fits on no host\n  do  ") && all.contains("0 of 3 hosts could take it"), "{all}");
    let one = fleet.ctl(&["explain", "placement", "vm/web-4", "--host", "host-3"]).succeeded().stdout;
    assert!(one.contains("NO  AntiAffinity") && one.contains("ok  InsufficientMemory") && one.contains("points:"), "{one}");
    let none = fleet.ctl(&["explain", "placement", "vm/web-4", "--host", "host-9"]);
    assert!(none.code != Some(0) && none.stderr.contains("\"host-9\" not found"), "{}", none.stderr);
    let raw = fleet.kubectl(&["get", "--raw", "/apis/basalt.dev/v1alpha1/namespaces/default/virtualmachines/web-1/placement"], "");
    let report: basalt_api::placement::PlacementReport = serde_json::from_str(&raw.succeeded().stdout).unwrap();
    assert_eq!((report.current, report.hosts.len()), (Some(host_of(&fleet, "web-1").await), 3));

    let freed = host_of(&fleet, "web-2").await;
    fleet.ctl(&["delete", "vm/web-2"]).succeeded();
    fleet.vm_becomes("web-4", "Running", phase(VmPhase::Running)).await;
    assert_eq!(host_of(&fleet, "web-4").await, freed);
}

#[tokio::test]
async fn a_host_gives_away_more_than_it_has_if_it_is_told_to() {
    let flags = vec!["--host-cpus=2".into(), "--host-memory=1Gi".into()];
    let fleet = Fleet::start(Options { vmm: "simulated", flags, ..Options::default() });
    fleet.apply("apiVersion: basalt.dev/v1alpha1\nkind: Image\nmetadata: { name: kernel }\nspec: { source: 'file:///etc/os-release', format: Kernel }\n");
    fleet.apply(&vm("wide", "memory: 64Mi, cpus: 6"));
    fleet.vm_becomes("wide", "Pending", phase(VmPhase::Pending)).await;
    let patch = r#"{"spec":{"overcommit":{"cpuPercent":300}}}"#;
    fleet.kubectl(&["patch", "host", "host-1", "--type=merge", "-p", patch], "").succeeded();
    fleet.vm_becomes("wide", "Running", phase(VmPhase::Running)).await;
    let refused = fleet.kubectl(&["patch", "host", "host-1", "--type=merge", "-p", r#"{"spec":{"overcommit":{"cpuPercent":0}}}"#], "");
    assert!(refused.code != Some(0) && refused.stderr.contains("spec.overcommit.cpuPercent"), "{}", refused.stderr);
}
