//! What a VM's status should say, and what to do next: from its spec, its placement and what its host reported.
//!
//! ```text
//! Pending -> Scheduled -> Starting -> Running <-> Paused
//!    |                                  |  ^
//!    v                                  v  |
//! Stopped <------ Stopping <------------+--+-> Failed        any -> Unknown (host silent) and back
//!                                                            any -> Terminating (deleted) -> gone
//! ```
//! The phase is no memory: [`plan`] derives it anew each time, and nothing else writes it.

use basalt_api::{
    BlockedBy, BlockedCode, NextStep, ObjectReference, VirtualMachine, VirtualMachineStatus,
    common::set_condition,
    virtual_machine::{ObservedVm, Refusal, RunStrategy, TEARDOWN_FINALIZER, VmPhase, VmState},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

/// Of how many hosts the reason is kept in the status; `basaltctl explain placement` has them all.
const REFUSALS: usize = 100;

/// What is to be done for a VM.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Hold the VM by its finalizer, before anything of it can be on a host.
    AddFinalizer,
    /// Find a host.
    Place,
    /// Nothing of the VM is left on a host: let it go.
    RemoveFinalizer,
    /// Write this status, if it is not what stands there.
    Status(Box<VirtualMachineStatus>),
}

/// What is known of the host that a VM is placed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlacedHost {
    /// It reports.
    Ready,
    /// It does not report.
    Silent,
    /// There is no such Host any more.
    Gone,
}

/// Decides the next step for a VM. `host` is what is known of `status.host`, if that is set.
pub fn plan(vm: &VirtualMachine, host: Option<PlacedHost>, now: Timestamp) -> Step {
    let status = vm.status.clone().unwrap_or_default();
    let held = vm.finalizers().iter().any(|f| f == TEARDOWN_FINALIZER);
    if vm.metadata.deletion_timestamp.is_some() {
        return match (&status.host, observed(&status)) {
            _ if !held => Step::Status(Box::new(status)),
            (None, _) => Step::RemoveFinalizer,
            (Some(_), Some(observed)) if observed.state == VmState::Absent => Step::RemoveFinalizer,
            (Some(name), _) => Step::Status(Box::new(terminating(vm, name, host, now))),
        };
    }
    match (&status.host, vm.spec.run_strategy) {
        (None, RunStrategy::Halted) => Step::Status(Box::new(halted(vm, now))),
        (None, _) if !held => Step::AddFinalizer,
        (None, _) => Step::Place,
        (Some(name), _) => Step::Status(Box::new(placed(vm, name, host.unwrap_or(PlacedHost::Gone), now))),
    }
}

/// The status of a VM that was just placed.
pub fn newly_placed(vm: &VirtualMachine, host: &str, now: Timestamp) -> VirtualMachineStatus {
    let old = vm.status.clone().unwrap_or_default();
    let epoch = old.placement_epoch.unwrap_or(0) + 1;
    let vm = VirtualMachine {
        status: Some(VirtualMachineStatus { host: Some(host.to_owned()), placement_epoch: Some(epoch), ..old }),
        ..vm.clone()
    };
    placed(&vm, host, PlacedHost::Ready, now)
}

/// The status of a VM that no host could take.
pub fn unplaceable(vm: &VirtualMachine, refusals: Vec<Refusal>, now: Timestamp) -> VirtualMachineStatus {
    let hint = if refusals.is_empty() {
        "There are no hosts. Start basalt-agent on one".to_owned()
    } else {
        format!("{}. Free a host, add one, or ask for less", summary(&refusals))
    };
    let next = NextStep { action: "placed as soon as a host changes so that it fits".into(), at: None };
    let refusals = refusals.into_iter().take(REFUSALS).collect();
    Verdict {
        phase: VmPhase::Pending,
        scheduled: ("False", "NoHostFits", hint.clone()),
        ready: ("False", "NotScheduled", "The VM is not placed on a host".into()),
        blocked: Some((BlockedCode::NoHostFits, None, Some(next), hint)),
    }
    .status(vm, refusals, now)
}

/// `2 hosts: InsufficientMemory, 1 host: HostNotReady`: the reasons, the most frequent first.
pub fn summary(refusals: &[Refusal]) -> String {
    let mut counts: Vec<(usize, String)> = Vec::new();
    for refusal in refusals {
        let reason = refusal.reason.to_string();
        match counts.iter_mut().find(|(_, r)| *r == reason) {
            Some((count, _)) => *count += 1,
            None => counts.push((1, reason)),
        }
    }
    counts.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let texts: Vec<_> = counts.iter().map(|(n, reason)| format!("{n} host{}: {reason}", if *n == 1 { "" } else { "s" })).collect();
    texts.join(", ")
}

/// What the host reported under the present placement; older reports say nothing.
fn observed(status: &VirtualMachineStatus) -> Option<&ObservedVm> {
    status.observed.as_ref().filter(|o| Some(&o.host) == status.host.as_ref() && Some(o.epoch) == status.placement_epoch)
}

/// What [`plan`] found, before it is put into a status.
struct Verdict {
    phase: VmPhase,
    scheduled: (&'static str, &'static str, String),
    ready: (&'static str, &'static str, String),
    blocked: Option<(BlockedCode, Option<ObjectReference>, Option<NextStep>, String)>,
}

impl Verdict {
    fn status(self, vm: &VirtualMachine, refusals: Vec<Refusal>, now: Timestamp) -> VirtualMachineStatus {
        let old = vm.status.clone().unwrap_or_default();
        let condition = |type_: &str, (status, reason, message): (&str, &str, String)| Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: vm.metadata.generation,
            last_transition_time: Time(now),
        };
        let conditions = set_condition(&old.conditions, condition("Scheduled", self.scheduled));
        let pending = observed(&old).map(|seen| seen.pending_restart.clone()).unwrap_or_default();
        let restart = match pending.is_empty() {
            true => ("False", "UpToDate", "The VM has no change that waits for a restart".to_owned()),
            false => {
                let message =
                    format!("In force from the next start on: {}. basaltctl restart vm/{} restarts it", pending.join(", "), vm.name_any());
                ("True", "SpecChanged", message)
            }
        };
        let told = old.conditions.iter().any(|c| c.type_ == "RestartRequired");
        let conditions =
            if told || !pending.is_empty() { set_condition(&conditions, condition("RestartRequired", restart)) } else { conditions };
        let blocked = self.blocked.map(|(code, object, next, hint)| {
            let same = old.blocked_by.iter().find(|b| b.code == code && b.object == object);
            BlockedBy { since: same.map_or(Time(now), |b| b.since.clone()), code, object, next, hint }
        });
        let seen = observed(&old).cloned();
        VirtualMachineStatus {
            observed_generation: vm.metadata.generation,
            phase: Some(self.phase),
            refusals,
            vmm: seen.as_ref().and_then(|o| o.vmm),
            addresses: seen.as_ref().map(|o| o.addresses.clone()).unwrap_or_default(),
            restarts: seen.as_ref().map_or(0, |o| o.restarts),
            conditions: set_condition(&conditions, condition("Ready", self.ready)),
            blocked_by: blocked.into_iter().collect(),
            ..old
        }
    }
}

fn halted(vm: &VirtualMachine, now: Timestamp) -> VirtualMachineStatus {
    Verdict {
        phase: VmPhase::Stopped,
        scheduled: ("False", "Halted", "runStrategy is Halted and the VM has never run".into()),
        ready: ("False", "Halted", "runStrategy is Halted".into()),
        blocked: None,
    }
    .status(vm, Vec::new(), now)
}

fn terminating(vm: &VirtualMachine, host: &str, placed: Option<PlacedHost>, now: Timestamp) -> VirtualMachineStatus {
    let hint = match placed {
        Some(PlacedHost::Ready) => format!("Host {host} stops the VM and removes its disks and network"),
        Some(PlacedHost::Silent) => {
            format!("Host {host} does not report, so nothing proves that the VM is gone. It is removed when the host is back")
        }
        _ => format!(
            "Host {host} is no longer registered, so nothing can prove that the VM is gone. If the machine is gone for good, remove the finalizer {TEARDOWN_FINALIZER}"
        ),
    };
    let next = NextStep { action: "removed as soon as the host reports that nothing of it is left".into(), at: None };
    Verdict {
        phase: VmPhase::Terminating,
        scheduled: ("True", "Placed", format!("Placed on {host}")),
        ready: ("False", "Terminating", "The VM is being deleted".into()),
        blocked: Some((BlockedCode::TearDown, Some(ObjectReference::host(host)), Some(next), hint)),
    }
    .status(vm, Vec::new(), now)
}

fn placed(vm: &VirtualMachine, host: &str, known: PlacedHost, now: Timestamp) -> VirtualMachineStatus {
    let status = vm.status.clone().unwrap_or_default();
    let waiting = |action: &str, hint: String| {
        Some((BlockedCode::WaitingForHost, Some(ObjectReference::host(host)), Some(NextStep { action: action.into(), at: None }), hint))
    };
    let (phase, ready, blocked) = match (known, observed(&status)) {
        (PlacedHost::Silent | PlacedHost::Gone, _) => {
            let hint = match known {
                PlacedHost::Gone => format!("Host {host} is no longer registered. Start basalt-agent on it, or delete the VM"),
                _ => format!("Host {host} does not report; the VM may well run on. See basaltctl describe host/{host}"),
            };
            let next = NextStep { action: "followed again as soon as the host reports".into(), at: None };
            let blocked = (BlockedCode::HostNotReady, Some(ObjectReference::host(host)), Some(next), hint.clone());
            (VmPhase::Unknown, ("Unknown", "HostNotReady", hint), Some(blocked))
        }
        (PlacedHost::Ready, None) => {
            let hint = format!("Host {host} has not reported the VM yet");
            (VmPhase::Scheduled, ("False", "WaitingForHost", hint.clone()), waiting("started by the host", hint))
        }
        (PlacedHost::Ready, Some(seen)) => follow(vm, host, seen, waiting),
    };
    Verdict { phase, scheduled: ("True", "Placed", format!("Placed on {host}")), ready, blocked }.status(vm, Vec::new(), now)
}

type Blocked = Option<(BlockedCode, Option<ObjectReference>, Option<NextStep>, String)>;

fn follow(
    vm: &VirtualMachine,
    host: &str,
    seen: &ObservedVm,
    waiting: impl Fn(&str, String) -> Blocked,
) -> (VmPhase, (&'static str, &'static str, String), Blocked) {
    let halted = vm.spec.run_strategy == RunStrategy::Halted;
    let current = Some(seen.generation) == vm.metadata.generation;
    let outdated = || waiting("changed by the host", format!("Host {host} has not acted on the newest spec yet"));
    let problem = || {
        seen.problem.as_ref().map(|p| {
            let next = NextStep { action: "the host tries again".into(), at: p.retry_at.clone() };
            (p.code, p.object.clone().or_else(|| Some(ObjectReference::host(host))), Some(next), p.message.clone())
        })
    };
    let why = |otherwise: &str| seen.problem.as_ref().map_or_else(|| otherwise.to_owned(), |p| p.message.clone());
    match seen.state {
        VmState::Running if current && !halted => (VmPhase::Running, ("True", "Running", "The VMM runs the guest".into()), problem()),
        VmState::Running => (VmPhase::Running, ("False", "SpecNotApplied", "The newest spec is not in force yet".into()), outdated()),
        VmState::Paused if current && vm.spec.paused && !halted => {
            (VmPhase::Paused, ("False", "Paused", "The vCPUs are held, as spec.paused says".into()), problem())
        }
        VmState::Paused => {
            let hint = format!("Host {host} lets it run again");
            (VmPhase::Paused, ("False", "Paused", "The vCPUs are held".into()), problem().or_else(|| waiting("resumed by the host", hint)))
        }
        VmState::Starting => {
            let hint = format!("Host {host} is starting it");
            (VmPhase::Starting, ("False", "Starting", why("The VM is being started")), problem().or_else(|| waiting("running", hint)))
        }
        VmState::Stopping => {
            let hint = format!("Host {host} is shutting it down");
            (VmPhase::Stopping, ("False", "Stopping", "The VM is being shut down".into()), problem().or_else(|| waiting("stopped", hint)))
        }
        VmState::Stopped if current => (VmPhase::Stopped, ("False", "Stopped", "The VM does not run, as wanted".into()), None),
        VmState::Stopped => (VmPhase::Stopped, ("False", "SpecNotApplied", "The newest spec is not in force yet".into()), outdated()),
        VmState::Failed => {
            let blocked = problem().or_else(|| waiting("tried again by the host", format!("Host {host} could not run it")));
            (VmPhase::Failed, ("False", "Failed", why("The host could not run the VM")), blocked)
        }
        VmState::Absent => {
            let hint = format!("Host {host} has nothing of the VM yet");
            (VmPhase::Scheduled, ("False", "WaitingForHost", hint.clone()), waiting("started by the host", hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_api::{
        Memory, VirtualMachineSpec,
        virtual_machine::{Boot, DiskBoot, Placement, Problem, RefusalReason},
    };
    use proptest::prelude::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn vm(run_strategy: RunStrategy) -> VirtualMachine {
        let spec = VirtualMachineSpec {
            run_strategy,
            paused: false,
            restart_requested_at: None,
            termination_grace_period_seconds: None,
            force_stop_requested_at: None,
            protected: false,
            cpus: 1,
            memory: Memory::from_mib(256),
            boot: Boot::Disk(DiskBoot { name: "root".into() }),
            disks: vec![],
            networks: vec![],
            placement: Placement::default(),
        };
        let mut vm = VirtualMachine::new("web", spec);
        vm.metadata.generation = Some(3);
        vm.metadata.finalizers = Some(vec![TEARDOWN_FINALIZER.into()]);
        vm
    }

    fn seen(state: VmState, epoch: i64) -> ObservedVm {
        ObservedVm {
            host: "h1".into(),
            epoch,
            generation: 3,
            state,
            vmm: None,
            accelerator: None,
            started_at: None,
            restarts: 0,
            addresses: vec![],
            pending_restart: vec![],
            problem: None,
        }
    }

    fn on_host(run_strategy: RunStrategy, observed: Option<ObservedVm>) -> VirtualMachine {
        let mut vm = vm(run_strategy);
        vm.status = Some(VirtualMachineStatus { host: Some("h1".into()), placement_epoch: Some(2), observed, ..Default::default() });
        vm
    }

    fn deleted(mut vm: VirtualMachine) -> VirtualMachine {
        vm.metadata.deletion_timestamp = Some(Time(now()));
        vm
    }

    fn status(step: Step) -> VirtualMachineStatus {
        match step {
            Step::Status(status) => *status,
            other => panic!("no status but {other:?}"),
        }
    }

    #[test]
    fn a_vm_is_held_by_its_finalizer_before_it_is_placed() {
        let mut fresh = vm(RunStrategy::Always);
        fresh.metadata.finalizers = None;
        assert_eq!(plan(&fresh, None, now()), Step::AddFinalizer);
        assert_eq!(plan(&vm(RunStrategy::Always), None, now()), Step::Place);
    }

    #[test]
    fn a_halted_vm_that_never_ran_takes_no_host() {
        assert_eq!(status(plan(&vm(RunStrategy::Halted), None, now())).phase, Some(VmPhase::Stopped));
    }

    #[test]
    fn a_placement_grows_the_epoch() {
        let mut vm = vm(RunStrategy::Always);
        vm.status = Some(VirtualMachineStatus { placement_epoch: Some(7), ..Default::default() });
        let status = newly_placed(&vm, "h1", now());
        assert_eq!((status.host.as_deref(), status.placement_epoch, status.phase), (Some("h1"), Some(8), Some(VmPhase::Scheduled)));
    }

    #[test]
    fn the_phase_follows_what_the_host_reports() {
        let cases = [
            (VmState::Absent, VmPhase::Scheduled),
            (VmState::Starting, VmPhase::Starting),
            (VmState::Running, VmPhase::Running),
            (VmState::Paused, VmPhase::Paused),
            (VmState::Stopping, VmPhase::Stopping),
            (VmState::Stopped, VmPhase::Stopped),
            (VmState::Failed, VmPhase::Failed),
        ];
        for (state, phase) in cases {
            let vm = on_host(RunStrategy::Always, Some(seen(state, 2)));
            assert_eq!(status(plan(&vm, Some(PlacedHost::Ready), now())).phase, Some(phase), "{state}");
        }
    }

    #[test]
    fn a_report_under_an_older_epoch_says_nothing() {
        let vm = on_host(RunStrategy::Always, Some(seen(VmState::Running, 1)));
        assert_eq!(status(plan(&vm, Some(PlacedHost::Ready), now())).phase, Some(VmPhase::Scheduled));
        let vm = deleted(on_host(RunStrategy::Always, Some(seen(VmState::Absent, 1))));
        assert_eq!(status(plan(&vm, Some(PlacedHost::Ready), now())).phase, Some(VmPhase::Terminating));
    }

    #[test]
    fn a_running_vm_with_an_older_spec_is_not_ready_and_says_so() {
        let mut vm = on_host(RunStrategy::Always, Some(seen(VmState::Running, 2)));
        vm.metadata.generation = Some(4);
        let status = status(plan(&vm, Some(PlacedHost::Ready), now()));
        assert_eq!(status.conditions.iter().find(|c| c.type_ == "Ready").unwrap().reason, "SpecNotApplied");
        assert_eq!(status.blocked_by[0].code, BlockedCode::WaitingForHost);
    }

    #[test]
    fn the_vms_of_a_silent_host_are_unknown_and_stay_placed() {
        let vm = on_host(RunStrategy::Always, Some(seen(VmState::Running, 2)));
        let status = status(plan(&vm, Some(PlacedHost::Silent), now()));
        assert_eq!((status.phase, status.host.as_deref()), (Some(VmPhase::Unknown), Some("h1")));
        assert_eq!(status.blocked_by[0].code, BlockedCode::HostNotReady);
    }

    #[test]
    fn a_deleted_vm_goes_only_when_its_host_proved_that_nothing_is_left() {
        for state in [VmState::Starting, VmState::Running, VmState::Paused, VmState::Stopping, VmState::Stopped, VmState::Failed] {
            let vm = deleted(on_host(RunStrategy::Always, Some(seen(state, 2))));
            assert_eq!(status(plan(&vm, Some(PlacedHost::Ready), now())).phase, Some(VmPhase::Terminating), "{state}");
        }
        let vm = deleted(on_host(RunStrategy::Always, Some(seen(VmState::Absent, 2))));
        assert_eq!(plan(&vm, Some(PlacedHost::Ready), now()), Step::RemoveFinalizer);
        assert_eq!(plan(&deleted(super::tests::vm(RunStrategy::Always)), None, now()), Step::RemoveFinalizer);
    }

    #[test]
    fn a_problem_of_the_host_is_told_with_its_code_and_the_time_of_the_next_try() {
        let retry_at = Some(Time(now()));
        let problem =
            Problem { code: BlockedCode::ImageUnusable, object: None, message: "no such file: /x".into(), retry_at: retry_at.clone() };
        let vm = on_host(RunStrategy::Always, Some(ObservedVm { problem: Some(problem), ..seen(VmState::Failed, 2) }));
        let status = status(plan(&vm, Some(PlacedHost::Ready), now()));
        let blocked = &status.blocked_by[0];
        assert_eq!(
            (blocked.code, &blocked.hint[..], &blocked.next.as_ref().unwrap().at),
            (BlockedCode::ImageUnusable, "no such file: /x", &retry_at)
        );
    }

    #[test]
    fn since_is_kept_while_the_reason_stays() {
        let first = on_host(RunStrategy::Always, None);
        let waiting = status(plan(&first, Some(PlacedHost::Ready), now()));
        let later = now() + std::time::Duration::from_secs(60);
        let again = VirtualMachine { status: Some(waiting.clone()), ..first };
        assert_eq!(status(plan(&again, Some(PlacedHost::Ready), later)), waiting);
    }

    #[test]
    fn refusals_are_summed_up_by_reason() {
        let refusal = |host: &str, reason| Refusal { host: host.into(), reason, message: String::new() };
        let refusals = [
            refusal("a", RefusalReason::HostNotReady),
            refusal("b", RefusalReason::InsufficientMemory),
            refusal("c", RefusalReason::InsufficientMemory),
        ];
        assert_eq!(summary(&refusals), "2 hosts: InsufficientMemory, 1 host: HostNotReady");
    }

    fn any_vm() -> impl Strategy<Value = (VirtualMachine, Option<PlacedHost>)> {
        let strategies = prop_oneof![Just(RunStrategy::Always), Just(RunStrategy::RerunOnFailure), Just(RunStrategy::Halted)];
        let states = prop_oneof![
            Just(VmState::Absent),
            Just(VmState::Starting),
            Just(VmState::Running),
            Just(VmState::Paused),
            Just(VmState::Stopping),
            Just(VmState::Stopped),
            Just(VmState::Failed),
        ];
        let hosts = prop_oneof![Just(None), Just(Some(PlacedHost::Ready)), Just(Some(PlacedHost::Silent)), Just(Some(PlacedHost::Gone))];
        (strategies, proptest::option::of((states, 0i64..4)), hosts, any::<bool>(), 1i64..5).prop_map(
            |(strategy, observed, host, gone, generation)| {
                let observed = observed.map(|(state, epoch)| seen(state, epoch));
                let mut vm = if host.is_some() { on_host(strategy, observed) } else { super::tests::vm(strategy) };
                vm.metadata.generation = Some(generation);
                (if gone { deleted(vm) } else { vm }, host)
            },
        )
    }

    proptest! {
        #[test]
        fn a_plan_that_was_carried_out_is_not_made_again((vm, host) in any_vm()) {
            if let Step::Status(first) = plan(&vm, host, now()) {
                let again = VirtualMachine { status: Some(*first.clone()), ..vm };
                prop_assert_eq!(plan(&again, host, now()), Step::Status(first));
            }
        }

        #[test]
        fn a_vm_that_is_not_where_it_should_be_says_why((vm, host) in any_vm()) {
            if let Step::Status(status) = plan(&vm, host, now()) {
                let settled = matches!(status.phase, Some(VmPhase::Running | VmPhase::Stopped));
                prop_assert!(settled || !status.blocked_by.is_empty(), "{:?} without a reason", status.phase);
            }
        }
    }
}
