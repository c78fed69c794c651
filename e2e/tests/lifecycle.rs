//! Start, stop, restart, pause and resume of a real guest, and what a protected VM refuses.

use basalt_api::{VirtualMachine, virtual_machine::VmPhase};
use basalt_e2e::{
    Fleet, Options,
    guest::{answer, get},
};

fn phase(wanted: VmPhase) -> impl Fn(Option<&VirtualMachine>) -> bool {
    move |vm| vm.and_then(|vm| vm.status.as_ref()?.phase) == Some(wanted)
}

fn restart_required(vm: &VirtualMachine) -> Option<(String, String)> {
    let conditions = &vm.status.as_ref()?.conditions;
    let condition = conditions.iter().find(|condition| condition.type_ == "RestartRequired")?;
    Some((condition.status.clone(), condition.message.clone()))
}

fn asked_for_a_restart(vm: Option<&VirtualMachine>) -> bool {
    vm.and_then(restart_required).is_some_and(|(status, _)| status == "True")
}

#[tokio::test]
async fn a_vm_is_paused_restarted_stopped_and_started_by_the_word() {
    let fleet = Fleet::start(Options::default());
    let address = fleet.address(11);
    fleet.apply(&fleet.guest_images());
    fleet.apply(&fleet.guest_vm("web", 11));
    fleet.vm_becomes("web", "Running", phase(VmPhase::Running)).await;
    answer(address);
    let first = fleet.vmm_pid("web").await;

    let paused = fleet.ctl(&["pause", "vm/web"]).succeeded();
    assert!(paused.stdout.contains("is paused"), "{}", paused.stdout);
    assert_eq!(fleet.vm("web").await.status.and_then(|s| s.phase), Some(VmPhase::Paused));
    assert!(get(address, "/").is_err(), "a guest whose vCPUs are held answers nothing");
    fleet.ctl(&["resume", "vm/web"]).succeeded();
    answer(address);
    assert_eq!(fleet.vmm_pid("web").await, first);

    let patch = r#"{"spec":{"memory":"320Mi","terminationGracePeriodSeconds":1}}"#;
    fleet.kubectl(&["patch", "vm", "web", "--type=merge", "-p", patch], "").succeeded();
    fleet.vm_becomes("web", "in need of a restart", asked_for_a_restart).await;
    let (_, message) = restart_required(&fleet.vm("web").await).expect("there is the condition");
    assert_eq!(message, "In force from the next start on: memory. basaltctl restart vm/web restarts it");
    assert_eq!(fleet.vmm_pid("web").await, first, "a change alone restarts nothing");
    fleet.ctl(&["restart", "vm/web"]).succeeded();
    let vm = fleet.vm("web").await;
    assert_eq!(restart_required(&vm).map(|(status, _)| status).as_deref(), Some("False"));
    assert_ne!(fleet.vmm_pid("web").await, first);
    assert_eq!(vm.status.map(|status| status.restarts), Some(0), "what was asked for is no failure");
    answer(address);

    fleet.kubectl(&["patch", "vm", "web", "--type=merge", "-p", r#"{"spec":{"protected":true}}"#], "").succeeded();
    for refused in
        [fleet.ctl(&["delete", "vm/web"]), fleet.ctl(&["stop", "--force", "vm/web"]), fleet.kubectl(&["delete", "vm", "web"], "")]
    {
        assert!(refused.code != Some(0) && refused.stderr.contains("set spec.protected to false first"), "{}", refused.stderr);
    }
    answer(address);
    fleet.kubectl(&["patch", "vm", "web", "--type=merge", "-p", r#"{"spec":{"protected":false}}"#], "").succeeded();

    let stopped = fleet.ctl(&["stop", "--force", "vm/web"]).succeeded();
    assert!(stopped.stdout.contains("is stopped"), "{}", stopped.stdout);
    assert_eq!(fleet.vmm_pid("web").await, None);
    let paused = fleet.ctl(&["pause", "vm/web"]);
    assert!(paused.code == Some(2) && paused.stderr.contains("vm/web is stopped"), "{}", paused.stderr);
    fleet.ctl(&["start", "vm/web"]).succeeded();
    answer(address);
    let again = fleet.ctl(&["start", "vm/web"]).succeeded();
    assert!(again.stdout.contains("runs already"), "{}", again.stdout);
}
