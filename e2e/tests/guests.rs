//! What guests do and how Basalt takes it, each on a real guest.

use basalt_api::{VirtualMachine, virtual_machine::VmPhase};
use basalt_e2e::{
    Fleet, Options,
    guest::{BOOT_DEADLINE, answer, directory, get},
};
use std::{process::Command, time::Instant};

fn phase(wanted: VmPhase) -> impl Fn(Option<&VirtualMachine>) -> bool {
    move |vm| vm.and_then(|vm| vm.status.as_ref()?.phase) == Some(wanted)
}

fn restarted(times: i64) -> impl Fn(Option<&VirtualMachine>) -> bool {
    move |vm| vm.and_then(|vm| vm.status.as_ref()).is_some_and(|s| s.phase == Some(VmPhase::Running) && s.restarts == times)
}

fn disk_vm(name: &str, image: &str, format: &str) -> String {
    format!(
        "apiVersion: basalt.dev/v1alpha1\nkind: Image\nmetadata: {{name: root-{name}}}\nspec: {{source: 'file://{image}', format: {format}}}\n---\n\
         apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {{name: {name}}}\nspec:\n  memory: 256Mi\n  boot: {{disk: {{name: root}}}}\n  disks:\n  - {{name: root, image: root-{name}}}\n"
    )
}

/// Waits until the console of a VM says something.
fn console_says(fleet: &Fleet, vm: &str, wanted: &str) {
    let deadline = Instant::now() + BOOT_DEADLINE;
    loop {
        let console = fleet.ctl(&["logs", vm]);
        if console.stdout.contains(wanted) {
            return;
        }
        assert!(Instant::now() < deadline, "{wanted:?} is not in the console of {vm}: {}{}", console.stdout, console.stderr);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[tokio::test]
async fn a_vm_boots_from_a_disk_and_never_writes_to_its_image() {
    let fleet = Fleet::start(Options::default());
    let image = directory().join("disk.raw");
    let before = std::fs::metadata(&image).expect("the guest was made with --disk").modified().expect("files have times");
    fleet.apply(&disk_vm("disk", image.to_str().expect("a plain path"), "Raw"));
    fleet.vm_becomes("disk", "Running", phase(VmPhase::Running)).await;
    console_says(&fleet, "vm/disk", "basalt-guest ready");
    assert_eq!(std::fs::metadata(&image).unwrap().modified().unwrap(), before);
}

#[tokio::test]
async fn an_image_that_refers_to_another_file_of_the_host_is_refused() {
    let fleet = Fleet::start(Options::default());
    let image = fleet.path().join("evil.qcow2");
    let made =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd"]).arg(&image).arg("1M").status();
    assert!(made.expect("qemu-img runs").success());
    fleet.apply(&disk_vm("evil", image.to_str().expect("a plain path"), "Qcow2"));
    fleet.vm_becomes("evil", "Failed", phase(VmPhase::Failed)).await;
    let why = fleet.ctl(&["describe", "vm", "evil"]).succeeded().stdout;
    assert!(why.contains("/etc/passwd"), "{why}");
    assert!(fleet.vmm_pid("evil").await.is_none());
}

#[tokio::test]
async fn a_bridge_that_does_not_exist_is_named_and_the_vm_starts_when_it_is_made() {
    let fleet = Fleet::start(Options::default());
    fleet.apply(&(fleet.guest_images() + &fleet.guest_vm("web", 11).replace("bridge: br0", "bridge: br9")));
    fleet.vm_becomes("web", "Failed", phase(VmPhase::Failed)).await;
    let why = fleet.ctl(&["describe", "vm", "web"]).succeeded().stdout;
    assert!(why.contains("BridgeNotFound") && why.contains("br9"), "{why}");
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(fleet.path().join("fleet.json")).unwrap()).unwrap();
    let namespace = format!("basalt-{}-host-1", state["id"].as_str().unwrap());
    let made = Command::new("ip").args(["-n", &namespace, "link", "add", "br9", "type", "bridge"]).status();
    assert!(made.expect("ip runs").success());
    fleet.vm_becomes("web", "Running", phase(VmPhase::Running)).await;
}

#[tokio::test]
async fn a_guest_that_shuts_itself_down_stays_down_or_runs_again_as_its_strategy_says() {
    let fleet = Fleet::start(Options::default());
    let once = fleet.guest_vm("once", 11).replace("spec:\n", "spec:\n  runStrategy: RerunOnFailure\n");
    fleet.apply(&(fleet.guest_images() + &once + &fleet.guest_vm("always", 12)));
    for last in [11, 12] {
        answer(fleet.address(last));
        get(fleet.address(last), "/cgi-bin/poweroff").expect("the guest answers before it goes");
    }
    fleet.vm_becomes("once", "Stopped", phase(VmPhase::Stopped)).await;
    fleet.vm_becomes("always", "Running again", restarted(1)).await;
    assert!(fleet.vmm_pid("once").await.is_none());
    // The next agent knows it too.
    fleet.kill("host-1");
    fleet.up();
    answer(fleet.address(12));
    fleet.vm_becomes("once", "Stopped", phase(VmPhase::Stopped)).await;
    assert!(fleet.vmm_pid("once").await.is_none());
}

#[tokio::test]
async fn a_guest_that_crashes_is_started_again_whatever_its_strategy() {
    let fleet = Fleet::start(Options::default());
    let vm = fleet.guest_vm("web", 11).replace("spec:\n", "spec:\n  runStrategy: RerunOnFailure\n");
    fleet.apply(&(fleet.guest_images() + &vm));
    answer(fleet.address(11));
    // The guest may be gone before its answer is.
    let _ = get(fleet.address(11), "/cgi-bin/crash");
    fleet.vm_becomes("web", "Running again", restarted(1)).await;
    answer(fleet.address(11));
    let events = fleet.kubectl(&["get", "events"], "").succeeded().stdout;
    assert!(events.contains("GuestCrashed"), "{events}");
}

#[tokio::test]
async fn a_halted_vm_is_shut_down_gracefully_and_runs_again_when_it_is_wanted() {
    let fleet = Fleet::start(Options::default());
    fleet.apply(&(fleet.guest_images() + &fleet.guest_vm("web", 11)));
    answer(fleet.address(11));
    fleet.kubectl(&["patch", "vm", "web", "--type=merge", "-p", r#"{"spec":{"runStrategy":"Halted"}}"#], "").succeeded();
    fleet.vm_becomes("web", "Stopped", phase(VmPhase::Stopped)).await;
    console_says(&fleet, "vm/web", "power button pressed");
    fleet.kubectl(&["patch", "vm", "web", "--type=merge", "-p", r#"{"spec":{"runStrategy":"Always"}}"#], "").succeeded();
    fleet.vm_becomes("web", "Running", restarted(0)).await;
    answer(fleet.address(11));
}
