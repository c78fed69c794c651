//! What a host's status should say, from its spec, its inventory and its lease.

use basalt_api::{
    Host, HostPhase, HostStatus,
    common::set_condition,
    host::{HostReason, Resources},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use std::time::Duration;

/// How old `status.lastHeartbeat` may grow while nothing else changes: its every renewal would be a write an agent and second.
const HEARTBEAT_SHOWN_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// What is decided for a host.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The status, with the fields of other writers as they were.
    pub status: HostStatus,
    /// The host became Ready or NotReady: the reason and the sentence for its Event.
    pub turned: Option<(HostReason, String)>,
    /// When to look again if nothing happens: the lease's end.
    pub look_again: Option<Duration>,
}

/// Decides from the host as it is, the last renewal of its lease, and the time.
pub fn plan(host: &Host, renewed: Option<Timestamp>, grace: Duration, now: Timestamp) -> Decision {
    let old = host.status.clone().unwrap_or_default();
    let (phase, reason, message, look_again) = judge(&old, renewed, grace, now);
    let ready = if phase == HostPhase::Ready && reason == HostReason::AgentReports { "True" } else { "False" };
    let condition = |type_: &str, status: &str, reason: String, message: String| Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason,
        message,
        observed_generation: host.metadata.generation,
        last_transition_time: Time(now),
    };
    let schedulable = match (ready, host.spec.unschedulable) {
        (_, true) => condition("Schedulable", "False", "Unschedulable".into(), "spec.unschedulable is set".into()),
        ("True", false) => condition("Schedulable", "True", "HostReady".into(), "New VMs may be placed here".into()),
        _ => condition("Schedulable", "False", "HostNotReady".into(), message.clone()),
    };
    let conditions = set_condition(&old.conditions, condition("Ready", ready, reason.to_string(), message.clone()));
    let before = old.conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str());
    let turned = (before != Some(ready) && (ready == "True" || before.is_some())).then_some((reason, message));
    let changed = turned.is_some() || old.phase != Some(phase);
    let status = HostStatus {
        phase: Some(phase),
        conditions: set_condition(&conditions, schedulable),
        allocatable: old.capacity.map(|capacity| host.spec.overcommit.of(allocatable(capacity, host.spec.reserved))),
        last_heartbeat: shown_heartbeat(&old, renewed, changed),
        ..old
    };
    Decision { status, turned, look_again }
}

fn judge(
    old: &HostStatus,
    renewed: Option<Timestamp>,
    grace: Duration,
    now: Timestamp,
) -> (HostPhase, HostReason, String, Option<Duration>) {
    let Some(renewed) = renewed else {
        let message = "The agent has not reported yet. Is basalt-agent running on the host, and can it reach the gateway?";
        return (HostPhase::Pending, HostReason::NeverReported, message.into(), None);
    };
    // A renewal from the future (the clock was set back) counts as one of now.
    let age = now.duration_since(renewed).max(SignedDuration::ZERO).unsigned_abs();
    if age > grace {
        let message = format!(
            "No report since {renewed:.0} ({} s are allowed). Its VMs may well run on; check the host's power, its network and basalt-agent",
            grace.as_secs()
        );
        return (HostPhase::NotReady, HostReason::HeartbeatMissed, message, None);
    }
    // A little past the lease's end, so that the next look finds it ended.
    let look_again = Some(grace - age + Duration::from_millis(50));
    if old.vmms.is_empty() {
        let message = "The agent reports but found no VMM program that works. Install qemu-system-x86 or cloud-hypervisor on the host";
        return (HostPhase::NotReady, HostReason::NoWorkingVmm, message.into(), look_again);
    }
    (HostPhase::Ready, HostReason::AgentReports, "The agent reports".into(), look_again)
}

fn allocatable(capacity: Resources, reserved: Resources) -> Resources {
    Resources {
        cpus: capacity.cpus.saturating_sub(reserved.cpus),
        memory: basalt_api::Memory(capacity.memory.bytes().saturating_sub(reserved.memory.bytes())),
    }
}

fn shown_heartbeat(old: &HostStatus, renewed: Option<Timestamp>, changed: bool) -> Option<Time> {
    match (&old.last_heartbeat, renewed) {
        (Some(shown), Some(renewed)) if !changed && renewed.duration_since(shown.0) < HEARTBEAT_SHOWN_WITHIN => Some(shown.clone()),
        (_, Some(renewed)) => Some(Time(renewed)),
        (shown, None) => shown.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_api::{
        HostSpec, Memory,
        host::{Accelerator, Vmm, VmmName},
    };
    use proptest::prelude::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn host() -> Host {
        let mut host = Host::new("h1", HostSpec { reserved: Resources { cpus: 1, memory: Memory::from_mib(1024) }, ..HostSpec::default() });
        host.status = Some(HostStatus {
            capacity: Some(Resources { cpus: 4, memory: Memory::from_mib(4096) }),
            vmms: vec![Vmm { name: VmmName::Qemu, version: "7.2".into(), accelerator: Accelerator::Tcg }],
            ..HostStatus::default()
        });
        host
    }

    fn after(host: &Host, decision: &Decision) -> Host {
        Host { status: Some(decision.status.clone()), ..host.clone() }
    }

    #[test]
    fn a_host_that_never_reported_is_pending_and_says_what_to_check() {
        let decision = plan(&host(), None, GRACE, at(0));
        assert_eq!(decision.status.phase, Some(HostPhase::Pending));
        assert_eq!(decision.turned, None);
        assert!(decision.status.conditions[0].message.contains("basalt-agent"));
    }

    #[test]
    fn a_host_turns_not_ready_when_its_grace_is_over_and_ready_again_with_the_next_heartbeat() {
        let host = host();
        let ready = plan(&host, Some(at(0)), GRACE, at(1));
        assert_eq!((ready.status.phase, ready.turned.map(|t| t.0)), (Some(HostPhase::Ready), Some(HostReason::AgentReports)));
        let look_again = ready.look_again.unwrap();
        let host = Host { status: Some(ready.status), ..host };
        let lost = plan(&host, Some(at(0)), GRACE, at(1) + look_again);
        assert_eq!((lost.status.phase, lost.turned.as_ref().map(|t| t.0)), (Some(HostPhase::NotReady), Some(HostReason::HeartbeatMissed)));
        let back = plan(&after(&host, &lost), Some(at(60)), GRACE, at(60));
        assert_eq!((back.status.phase, back.turned.map(|t| t.0)), (Some(HostPhase::Ready), Some(HostReason::AgentReports)));
    }

    #[test]
    fn a_host_without_a_working_vmm_is_not_ready() {
        let mut host = host();
        host.status.as_mut().unwrap().vmms.clear();
        let decision = plan(&host, Some(at(0)), GRACE, at(0));
        assert_eq!(decision.status.phase, Some(HostPhase::NotReady));
        assert_eq!(decision.status.conditions[0].reason, "NoWorkingVmm");
    }

    #[test]
    fn an_unschedulable_host_stays_ready() {
        let mut host = host();
        host.spec.unschedulable = true;
        let decision = plan(&host, Some(at(0)), GRACE, at(0));
        let conditions: Vec<_> = decision.status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
        assert_eq!(conditions, [("Ready", "True"), ("Schedulable", "False")]);
    }

    #[test]
    fn reserved_capacity_is_not_allocatable() {
        let status = plan(&host(), Some(at(0)), GRACE, at(0)).status;
        assert_eq!(status.allocatable, Some(Resources { cpus: 3, memory: Memory::from_mib(3072) }));
    }

    proptest! {
        #[test]
        fn heartbeats_of_a_steady_host_are_not_all_written(beats in 1i64..29) {
            let host = host();
            let first = plan(&host, Some(at(0)), GRACE, at(0));
            let host = after(&host, &first);
            prop_assert_eq!(plan(&host, Some(at(beats)), GRACE, at(beats)).status, first.status);
        }

        #[test]
        fn a_clock_that_was_set_back_never_makes_a_host_not_ready(back in 0i64..100_000) {
            let decision = plan(&host(), Some(at(back)), GRACE, at(0));
            prop_assert_eq!(decision.status.phase, Some(HostPhase::Ready));
        }
    }
}
