//! The main path between gateway and host: what a host is told, and what becomes of what it reports.

mod common;

use basalt_api::{
    Host, Image, VirtualMachine,
    image::Presence,
    virtual_machine::{ObservedVm, VmPhase, VmState},
};
use basalt_proto::v1::{ConvergeRequest, Desired, HostReport, ImageReport, VmEvent};
use common::{DEADLINE, create_vm, epoch, manifest, place_by_hand, placed_vm, report, seen, start, until, until_gone, vms, within};
use k8s_openapi::api::core::v1::Event;
use kube::{Api, ResourceExt, api::DeleteParams};
use prost::Message;
use serde_json::json;
use sha2::{Digest, Sha256};
use tonic::Code;

fn observed(vm: &VirtualMachine) -> Option<&ObservedVm> {
    vm.status.as_ref()?.observed.as_ref()
}

fn state(vm: &VirtualMachine) -> Option<VmState> {
    observed(vm).map(|observed| observed.state)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_vm_reaches_its_host_and_what_the_host_reports_reaches_the_api() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, reports) = gateway.ready_host("h1").await;
    let hosts: Api<Host> = Api::all(client.clone());
    let status = hosts.get("h1").await.unwrap().status.unwrap();
    assert_eq!(status.capacity.unwrap().cpus, 8);
    assert_eq!((status.boot_id.as_deref(), status.addresses.as_slice()), (Some("boot-1"), ["198.18.0.2".to_owned()].as_slice()));

    let mut manifests = agent.manifests(0).await;
    let empty = manifest(&mut manifests, "the first manifest", |_| true).await;
    assert!(empty.vms.is_empty() && empty.generation > 0);
    let image: Image = serde_json::from_value(json!({
        "apiVersion": "basalt.dev/v1alpha1", "kind": "Image", "metadata": { "name": "linux" },
        "spec": { "source": "file:///boot/vmlinuz", "format": "Kernel" },
    }))
    .unwrap();
    let images: Api<Image> = Api::all(client.clone());
    images.create(&Default::default(), &image).await.unwrap();
    let vm = placed_vm(&client, "web", "h1").await;
    let told = manifest(&mut manifests, "the VM in the manifest", |m| m.vms.len() == 1).await;
    assert!(told.generation > empty.generation);
    let bare = basalt_proto::v1::HostManifest { generation: 0, hash: vec![], ..told.clone() };
    assert_eq!(told.hash, Sha256::digest(bare.encode_to_vec()).to_vec());
    let wanted = &told.vms[0];
    assert_eq!((&wanted.uid, wanted.epoch, wanted.desired()), (&vm.uid().unwrap(), epoch(&vm), Desired::Running));
    assert!(wanted.images[0].spec_json.contains("file:///boot/vmlinuz"));

    let mut running = seen(&vm, epoch(&vm), "Running");
    let happened = VmEvent { time: None, warning: true, reason: "VmmDied".into(), message: "The VMM died".into() };
    running.events = vec![happened.clone(), happened];
    let present = ImageReport { name: "linux".into(), image_json: r#"{"presence":"Present","size":"8Mi"}"#.into() };
    reports.send(HostReport { images: vec![present], ..report(told.generation, vec![running]) }).await;
    let vm = until(&vms(&client), "web", "the VM runs", |vm| vm.status.as_ref().unwrap().phase == Some(VmPhase::Running)).await;
    assert_eq!(observed(&vm).unwrap().host, "h1");
    let image = until(&images, "linux", "the image is found", |image| image.status.is_some()).await;
    assert_eq!(image.status.unwrap().hosts[0].presence, Presence::Present);
    let events: Api<Event> = Api::namespaced(client.clone(), "default");
    let event = within("the event, counted", async {
        loop {
            let list = events.list(&Default::default()).await.unwrap();
            if let Some(event) = list.items.into_iter().find(|e| e.reason.as_deref() == Some("VmmDied") && e.count == Some(2)) {
                return event;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((event.type_.as_deref(), event.involved_object.uid), (Some("Warning"), vm.uid()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_from_a_report_is_gone_from_the_status() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (_agent, reports) = gateway.ready_host("h1").await;
    let vm = placed_vm(&client, "web", "h1").await;
    let mut failed = seen(&vm, epoch(&vm), "Failed");
    let problem = json!({ "code": "StartFailed", "message": "no memory", "retryAt": "2030-01-01T00:00:00Z" });
    failed.observed_json =
        json!({ "epoch": epoch(&vm), "generation": 1, "state": "Failed", "problem": problem, "addresses": ["10.0.0.1"] }).to_string();
    reports.send(report(0, vec![failed])).await;
    until(&vms(&client), "web", "the problem", |vm| observed(vm).is_some_and(|o| o.problem.is_some())).await;
    reports.send(report(0, vec![seen(&vm, epoch(&vm), "Running")])).await;
    let vm = until(&vms(&client), "web", "the VM runs", |vm| state(vm) == Some(VmState::Running)).await;
    assert_eq!((&observed(&vm).unwrap().problem, observed(&vm).unwrap().addresses.len()), (&None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_an_old_epoch_or_of_another_hosts_vm_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (_agent, reports) = gateway.ready_host("h1").await;
    for name in ["moved", "replaced", "mine"] {
        placed_vm(&client, name, "h1").await;
    }
    let (_other, _silent) = gateway.ready_host("h2").await;
    let (moved, replaced) = (vms(&client).get("moved").await.unwrap(), vms(&client).get("replaced").await.unwrap());
    place_by_hand(&client, "moved", "h2", epoch(&moved) + 1).await;
    place_by_hand(&client, "replaced", "h1", epoch(&replaced) + 1).await;
    let mine = vms(&client).get("mine").await.unwrap();
    // The first two are in front: when the third has been written, they have been judged.
    let all = [seen(&moved, epoch(&moved), "Running"), seen(&replaced, epoch(&replaced), "Running"), seen(&mine, epoch(&mine), "Running")];
    reports.send(report(0, all.to_vec())).await;
    until(&vms(&client), "mine", "the report of the third", |vm| state(vm) == Some(VmState::Running)).await;
    for name in ["moved", "replaced"] {
        assert_eq!(observed(&vms(&client).get(name).await.unwrap()), None, "{name}");
    }
    // Another host's VM, under its right epoch.
    let moved = vms(&client).get("moved").await.unwrap();
    reports.send(report(0, vec![seen(&moved, epoch(&moved), "Running"), seen(&mine, epoch(&mine), "Paused")])).await;
    until(&vms(&client), "mine", "the next report", |vm| state(vm) == Some(VmState::Paused)).await;
    assert_eq!(observed(&vms(&client).get("moved").await.unwrap()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_cannot_be_read_does_not_stop_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (_agent, reports) = gateway.ready_host("h1").await;
    let (bad, good) = (placed_vm(&client, "bad", "h1").await, placed_vm(&client, "good", "h1").await);
    let mut vms_seen = vec![];
    for json in ["", "[]", "null", "7", "{}", "{\"state\":\"Dancing\",\"epoch\":1,\"generation\":1}"] {
        vms_seen.push(basalt_proto::v1::VmReport { observed_json: json.into(), ..seen(&bad, epoch(&bad), "Running") });
    }
    vms_seen.push(seen(&good, epoch(&good), "Running"));
    let mut mixed = report(0, vms_seen);
    mixed.images = ["", "[]", "3"].map(|json| ImageReport { name: "linux".into(), image_json: json.into() }).to_vec();
    let inventory = mixed.inventory.as_mut().unwrap();
    inventory.vmms.push(basalt_proto::v1::VmmReport { name: "Xen".into(), version: "4".into(), accelerator: "Kvm".into() });
    inventory.vmms.push(inventory.vmms[0].clone());
    inventory.boot_id = "boot-2".into();
    reports.send(mixed).await;
    until(&vms(&client), "good", "the report of the good one", |vm| state(vm) == Some(VmState::Running)).await;
    assert_eq!(observed(&vms(&client).get("bad").await.unwrap()), None);
    let host = Api::<Host>::all(client).get("h1").await.unwrap().status.unwrap();
    assert_eq!((host.boot_id.as_deref(), host.vmms.len()), (Some("boot-2"), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_vm_is_held_until_its_host_that_was_told_says_that_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, reports) = gateway.ready_host("h1").await;
    let (vm, marker) = (placed_vm(&client, "web", "h1").await, placed_vm(&client, "marker", "h1").await);
    let mut manifests = agent.manifests(0).await;
    let before = manifest(&mut manifests, "both VMs", |m| m.vms.len() == 2).await;
    let absent = || seen(&vm, epoch(&vm), "Absent");

    // Not started yet: true, but it may be at the next moment.
    reports.send(report(before.generation, vec![absent(), seen(&marker, epoch(&marker), "Starting")])).await;
    until(&vms(&client), "marker", "the first report", |vm| state(vm) == Some(VmState::Starting)).await;
    vms(&client).delete("web", &DeleteParams::default()).await.unwrap();
    let told = manifest(&mut manifests, "that the VM is to go", |m| m.vms.iter().any(|vm| vm.desired() == Desired::Absent)).await;
    // The host does not know yet that it must not start it.
    reports.send(report(before.generation, vec![absent(), seen(&marker, epoch(&marker), "Running")])).await;
    until(&vms(&client), "marker", "the second report", |vm| state(vm) == Some(VmState::Running)).await;
    let held = vms(&client).get("web").await.unwrap();
    assert!(!held.finalizers().is_empty() && state(&held) != Some(VmState::Absent), "let go before its host knew: {:?}", observed(&held));

    // A host that says nothing of it proves nothing.
    reports.send(report(told.generation, vec![seen(&marker, epoch(&marker), "Paused")])).await;
    until(&vms(&client), "marker", "the third report", |vm| state(vm) == Some(VmState::Paused)).await;
    assert!(state(&vms(&client).get("web").await.unwrap()) != Some(VmState::Absent));

    reports.send(report(told.generation, vec![absent(), seen(&marker, epoch(&marker), "Paused")])).await;
    until_gone(&vms(&client), "web").await;
    manifest(&mut manifests, "a manifest without the VM", |m| m.vms.len() == 1 && m.generation > told.generation).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_told_of_its_own_vms_only_and_a_report_is_no_news_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (first, reports) = gateway.ready_host("h1").await;
    let vm = placed_vm(&client, "one", "h1").await;
    let (second, _reports) = gateway.ready_host("h2").await;
    let (mut ones, mut twos) = (first.manifests(0).await, second.manifests(0).await);
    let told = manifest(&mut ones, "the VM", |m| m.vms.len() == 1).await;
    assert!(manifest(&mut twos, "a manifest", |_| true).await.vms.is_empty());
    reports.send(report(told.generation, vec![seen(&vm, epoch(&vm), "Running")])).await;
    until(&vms(&client), "one", "the VM runs", |vm| state(vm) == Some(VmState::Running)).await;
    place_by_hand(&client, "one", "h2", epoch(&vm) + 1).await;
    // The next that the first hears of is that the VM has gone: its own report made no manifest.
    let next = within("the next manifest", ones.message()).await.unwrap().unwrap();
    assert!(next.vms.is_empty() && next.generation > told.generation);
    assert_eq!(manifest(&mut twos, "the VM", |m| !m.vms.is_empty()).await.vms[0].epoch, epoch(&vm) + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_session_of_a_host_replaces_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, first_reports) = gateway.ready_host("h1").await;
    let (mut first_manifests, mut first_tunnel) = (agent.manifests(0).await, agent.tunnel().await);
    manifest(&mut first_manifests, "the first manifest", |_| true).await;

    let mut manifests = agent.manifests(0).await;
    let ended = within("the end of the first manifests", first_manifests.message()).await;
    assert_eq!(ended.unwrap_err().code(), Code::Aborted);
    let _tunnel = agent.tunnel().await;
    let ended = within("the end of the first tunnel", first_tunnel.requests.message()).await;
    assert_eq!(ended.unwrap_err().code(), Code::Aborted);
    let reports = agent.reports().await;
    reports.send(report(0, vec![])).await;
    let ended = within("the end of the first reports", first_reports.ended).await.unwrap();
    assert_eq!(ended.unwrap_err().code(), Code::Aborted);

    let vm = placed_vm(&client, "web", "h1").await;
    manifest(&mut manifests, "the VM", |m| m.vms.len() == 1).await;
    reports.send(report(0, vec![seen(&vm, epoch(&vm), "Running")])).await;
    until(&vms(&client), "web", "the VM runs", |vm| state(vm) == Some(VmState::Running)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_falls_silent_turns_not_ready_and_its_vms_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = common::start_with(basalt_gateway::config::Config { host_grace_seconds: 2, ..common::config(dir.path()) }).await;
    let client = gateway.admin().await;
    let (_agent, reports) = gateway.ready_host("h1").await;
    let vm = placed_vm(&client, "web", "h1").await;
    reports.send(report(0, vec![seen(&vm, epoch(&vm), "Running")])).await;
    until(&vms(&client), "web", "the VM is unknown", |vm| vm.status.as_ref().unwrap().phase == Some(VmPhase::Unknown)).await;
    reports.send(report(0, vec![seen(&vm, epoch(&vm), "Running")])).await;
    until(&vms(&client), "web", "the VM runs again", |vm| vm.status.as_ref().unwrap().phase == Some(VmPhase::Running)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_host_reported_last_is_written_even_if_its_connection_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (_agent, reports) = gateway.ready_host("h1").await;
    let mut running = Vec::new();
    for index in 0..8 {
        let vm = placed_vm(&client, &format!("vm-{index}"), "h1").await;
        running.push(seen(&vm, epoch(&vm), "Running"));
    }
    reports.send(report(0, running)).await;
    // The first is written; the connection ends while the others may not be.
    until(&vms(&client), "vm-0", "the first VM runs", |vm| state(vm) == Some(VmState::Running)).await;
    reports.ended.abort();
    until(&vms(&client), "vm-7", "the last VM runs", |vm| state(vm) == Some(VmState::Running)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_a_word_when_the_gateway_does() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (agent, reports) = gateway.ready_host("h1").await;
    let (mut manifests, mut tunnel) = (agent.manifests(0).await, agent.tunnel().await);
    manifest(&mut manifests, "the first manifest", |_| true).await;
    gateway.stop().await;
    let codes = [
        within("the end of the manifests", manifests.message()).await.unwrap_err().code(),
        within("the end of the tunnel", tunnel.requests.message()).await.unwrap_err().code(),
        within("the end of the reports", reports.ended).await.unwrap().unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::Unavailable; 3]);
    let refused = tokio::time::timeout(DEADLINE, agent.hub.clone().converge(ConvergeRequest::default())).await.unwrap();
    assert!(refused.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_fits_nowhere_is_on_no_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, _reports) = gateway.ready_host("h1").await;
    create_vm(&client, "huge", json!({ "spec": { "memory": "1Ti" } })).await;
    let vm = until(&vms(&client), "huge", "the refusal", |vm| vm.status.as_ref().is_some_and(|s| !s.refusals.is_empty())).await;
    assert_eq!(vm.status.unwrap().phase, Some(VmPhase::Pending));
    let mut manifests = agent.manifests(0).await;
    assert!(manifest(&mut manifests, "a manifest", |_| true).await.vms.is_empty());
}
