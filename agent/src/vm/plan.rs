//! What to do next for a VM: from what is wanted, what is known, and what is seen.
//!
//! The plan has no memory of its own: after a crash at any step the next look finds the same state and plans the same step.

use super::record::Record;
use crate::vmm::GuestState;
use basalt_api::virtual_machine::VmState;
use basalt_proto::v1::Desired;
use jiff::{SignedDuration, Timestamp};

/// How long a guest may take to shut down after its power button was pressed.
pub const STOP_DEADLINE: SignedDuration = SignedDuration::from_secs(30);
/// The same for a guest that is deleted: what it holds goes anyway.
pub const DELETE_DEADLINE: SignedDuration = SignedDuration::from_secs(5);
/// A VMM that ran so long was started well: its next death is restarted at once.
pub const HEALTHY_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// The longest wait before a start.
const LONGEST_BACK_OFF: i64 = 30;

/// What is wanted of a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Run, stop or go.
    pub desired: Desired,
    /// The generation of the spec.
    pub generation: i64,
    /// The placement epoch.
    pub epoch: i64,
    /// What the machine is to be made of.
    pub shape: String,
    /// Its vCPUs are to be held.
    pub paused: bool,
    /// The last time that a restart was asked for.
    pub restart: Option<Timestamp>,
    /// The last time that an end by force was asked for.
    pub force: Option<Timestamp>,
    /// How long the guest may take to shut down, if that was said.
    pub grace: Option<SignedDuration>,
}

impl Wanted {
    /// How long the guest may still take to shut down.
    fn patience(&self, record: &Record, usual: SignedDuration) -> SignedDuration {
        let forced = self.force.is_some() && self.force != record.forced_for;
        if forced { SignedDuration::ZERO } else { self.grace.unwrap_or(usual) }
    }
}

/// What is seen of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No VMM runs.
    Nothing,
    /// A VMM runs, and says this of its guest.
    Vmm(GuestState),
    /// A VMM runs, but does not answer.
    Silent,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All is as wanted, or something is waited for: until then at the latest.
    Wait(Option<Timestamp>),
    /// Make the machine and start it.
    Start,
    /// The VMM died: note it, so that the next look plans its restart.
    NoteDeath,
    /// The guest shut itself down and is not to run again: note it.
    NoteShutdown,
    /// Let a held guest run.
    Resume,
    /// Hold the guest.
    Pause,
    /// Press the power button and note when.
    PressPower,
    /// End the VMM.
    End,
    /// Remove everything.
    TearDown,
    /// The machine has run well for a while: forget earlier failures.
    ForgetFailures,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do.
    pub step: Step,
    /// What to report meanwhile.
    pub state: VmState,
    /// The newest spec is in force.
    pub settled: bool,
}

/// How long to wait before the next start, after so many failures in a row: the first is tried again at once.
pub fn back_off(failures: u32) -> SignedDuration {
    match failures {
        0 | 1 => SignedDuration::ZERO,
        n => SignedDuration::from_secs((1i64 << (n - 2).min(10)).min(LONGEST_BACK_OFF)),
    }
}

/// Decides the next step. Without a manifest (`wanted` is `None`) nothing is touched.
pub fn plan(wanted: Option<&Wanted>, record: &Record, seen: Seen, now: Timestamp) -> Decision {
    let decide = |step, state| Decision { step, state, settled: false };
    let as_seen = match seen {
        Seen::Nothing => VmState::Stopped,
        Seen::Vmm(GuestState::Running) => VmState::Running,
        Seen::Vmm(GuestState::Paused | GuestState::Created) => VmState::Paused,
        Seen::Vmm(GuestState::Shutdown | GuestState::Crashed) | Seen::Silent => VmState::Failed,
    };
    let Some(wanted) = wanted else { return decide(Step::Wait(None), as_seen) };
    match wanted.desired {
        Desired::Absent | Desired::Unspecified => match seen {
            Seen::Nothing => decide(Step::TearDown, VmState::Stopping),
            _ => decide(stop(record, seen, wanted.patience(record, DELETE_DEADLINE), now), VmState::Stopping),
        },
        Desired::Stopped => match seen {
            Seen::Nothing => Decision { step: Step::Wait(None), state: VmState::Stopped, settled: true },
            _ => decide(stop(record, seen, wanted.patience(record, STOP_DEADLINE), now), VmState::Stopping),
        },
        Desired::Running | Desired::RunningUntilShutdown => run(wanted, record, seen, now),
    }
}

fn run(wanted: &Wanted, record: &Record, seen: Seen, now: Timestamp) -> Decision {
    let decide = |step, state| Decision { step, state, settled: false };
    let until_shutdown = wanted.desired == Desired::RunningUntilShutdown;
    match seen {
        Seen::Vmm(GuestState::Running | GuestState::Paused | GuestState::Created)
            if wanted.restart.is_some() && wanted.restart != record.restarted_for =>
        {
            decide(stop(record, seen, wanted.patience(record, STOP_DEADLINE), now), VmState::Stopping)
        }
        // It was asked to stop for a halt or a restart that was taken back: it may be on its way down.
        Seen::Vmm(GuestState::Running) if record.asked_to_stop.is_some_and(|asked| now.duration_since(asked) < STOP_DEADLINE) => {
            let deadline = record.asked_to_stop.map(|asked| asked + STOP_DEADLINE);
            decide(Step::Wait(deadline), VmState::Running)
        }
        Seen::Vmm(GuestState::Running) if wanted.paused => decide(Step::Pause, VmState::Running),
        Seen::Vmm(GuestState::Paused) if wanted.paused => Decision { step: Step::Wait(None), state: VmState::Paused, settled: true },
        Seen::Vmm(GuestState::Running) => {
            let healthy_at = record.started_at.map(|started| started + HEALTHY_AFTER).filter(|_| record.failures > 0);
            let step = match healthy_at {
                Some(at) if at <= now => Step::ForgetFailures,
                at => Step::Wait(at),
            };
            Decision { step, state: VmState::Running, settled: true }
        }
        Seen::Vmm(GuestState::Paused | GuestState::Created) => decide(Step::Resume, VmState::Paused),
        Seen::Vmm(GuestState::Shutdown)
            if until_shutdown && record.shut_down != Some(wanted.generation) && record.asked_to_stop.is_none() =>
        {
            decide(Step::NoteShutdown, VmState::Stopping)
        }
        Seen::Vmm(GuestState::Shutdown) if record.shut_down == Some(wanted.generation) || record.asked_to_stop.is_some() => {
            decide(Step::End, VmState::Stopping)
        }
        // A guest that went down and is to run again, or crashed, or whose VMM no longer answers: as if the VMM had died.
        Seen::Vmm(GuestState::Shutdown | GuestState::Crashed) | Seen::Silent => decide(Step::End, VmState::Starting),
        Seen::Nothing if until_shutdown && record.shut_down == Some(wanted.generation) => {
            Decision { step: Step::Wait(None), state: VmState::Stopped, settled: true }
        }
        Seen::Nothing if record.live => decide(Step::NoteDeath, VmState::Starting),
        Seen::Nothing => match record.next_try.filter(|at| *at > now) {
            Some(at) => decide(Step::Wait(Some(at)), VmState::Failed),
            None => decide(Step::Start, VmState::Starting),
        },
    }
}

/// Down gracefully: the power button, a deadline, the end.
fn stop(record: &Record, seen: Seen, deadline: SignedDuration, now: Timestamp) -> Step {
    match (seen, record.asked_to_stop) {
        (Seen::Vmm(GuestState::Running), None) if deadline.is_positive() => Step::PressPower,
        (Seen::Vmm(GuestState::Running), Some(asked)) if now.duration_since(asked) < deadline => Step::Wait(Some(asked + deadline)),
        // It is down, or held and so deaf to its power button, or out of time.
        _ => Step::End,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn wanted(desired: Desired) -> Wanted {
        Wanted { desired, generation: 1, epoch: 1, shape: "a".into(), paused: false, restart: None, force: None, grace: None }
    }

    fn running() -> Record {
        Record { shape: "a".into(), live: true, started_at: Some(now()), ..Record::default() }
    }

    fn step(desired: Desired, record: &Record, seen: Seen) -> Step {
        plan(Some(&wanted(desired)), record, seen, now()).step
    }

    const UP: Seen = Seen::Vmm(GuestState::Running);
    const DOWN: Seen = Seen::Vmm(GuestState::Shutdown);

    #[test]
    fn without_a_manifest_nothing_is_touched() {
        for seen in [Seen::Nothing, UP, DOWN, Seen::Silent, Seen::Vmm(GuestState::Paused)] {
            assert_eq!(plan(None, &running(), seen, now()).step, Step::Wait(None));
        }
    }

    #[test]
    fn a_vm_that_runs_as_wanted_is_left_alone() {
        assert_eq!(step(Desired::Running, &running(), UP), Step::Wait(None));
    }

    #[test]
    fn a_vm_held_by_hand_is_let_run() {
        assert_eq!(step(Desired::Running, &running(), Seen::Vmm(GuestState::Paused)), Step::Resume);
    }

    #[test]
    fn a_dead_vmm_is_noted_and_started_again_at_once_the_first_time_and_later_after_longer_and_longer() {
        assert_eq!(step(Desired::Running, &running(), Seen::Nothing), Step::NoteDeath);
        let noted = Record { live: false, failures: 1, next_try: Some(now() + back_off(1)), ..running() };
        assert_eq!(step(Desired::Running, &noted, Seen::Nothing), Step::Start);
        let waits: Vec<i64> = (1..9).map(|failures| back_off(failures).as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 30, 30]);
        let again = Record { live: false, failures: 3, next_try: Some(now() + back_off(3)), ..running() };
        assert_eq!(step(Desired::Running, &again, Seen::Nothing), Step::Wait(Some(now() + back_off(3))));
    }

    #[test]
    fn failures_are_forgotten_after_a_healthy_minute() {
        let record = Record { failures: 4, started_at: Some(now() - HEALTHY_AFTER), ..running() };
        assert_eq!(step(Desired::Running, &record, UP), Step::ForgetFailures);
        let young = Record { failures: 4, ..running() };
        assert_eq!(step(Desired::Running, &young, UP), Step::Wait(Some(now() + HEALTHY_AFTER)));
    }

    #[test]
    fn a_clean_shutdown_ends_a_vm_that_reruns_on_failure_only_until_its_spec_changes() {
        assert_eq!(step(Desired::RunningUntilShutdown, &running(), DOWN), Step::NoteShutdown);
        let noted = Record { shut_down: Some(1), ..running() };
        assert_eq!(step(Desired::RunningUntilShutdown, &noted, DOWN), Step::End);
        let ended = Record { shut_down: Some(1), live: false, ..running() };
        assert_eq!(step(Desired::RunningUntilShutdown, &ended, Seen::Nothing), Step::Wait(None));
        assert_eq!(step(Desired::RunningUntilShutdown, &Record { shut_down: Some(0), ..ended }, Seen::Nothing), Step::Start);
    }

    #[test]
    fn a_crash_is_no_clean_shutdown() {
        assert_eq!(step(Desired::RunningUntilShutdown, &running(), Seen::Vmm(GuestState::Crashed)), Step::End);
        assert_eq!(step(Desired::RunningUntilShutdown, &running(), Seen::Nothing), Step::NoteDeath);
    }

    #[test]
    fn a_halted_vm_is_asked_first_and_ended_when_its_time_is_up() {
        assert_eq!(step(Desired::Stopped, &running(), UP), Step::PressPower);
        let asked = Record { asked_to_stop: Some(now() - SignedDuration::from_secs(10)), ..running() };
        assert_eq!(step(Desired::Stopped, &asked, UP), Step::Wait(Some(now() + SignedDuration::from_secs(20))));
        let late = Record { asked_to_stop: Some(now() - STOP_DEADLINE), ..running() };
        assert_eq!(step(Desired::Stopped, &late, UP), Step::End);
        assert_eq!(step(Desired::Stopped, &asked, DOWN), Step::End);
    }

    #[test]
    fn a_vm_that_is_to_be_held_is_held_once_it_runs_and_let_run_when_that_is_over() {
        const HELD: Seen = Seen::Vmm(GuestState::Paused);
        let paused = Wanted { paused: true, ..wanted(Desired::Running) };
        let look = |wanted: &Wanted, seen| plan(Some(wanted), &running(), seen, now());
        assert_eq!(look(&paused, UP).step, Step::Pause);
        assert_eq!(look(&paused, Seen::Vmm(GuestState::Created)).step, Step::Resume);
        assert_eq!(look(&paused, HELD), Decision { step: Step::Wait(None), state: VmState::Paused, settled: true });
        assert_eq!(look(&wanted(Desired::Running), HELD).step, Step::Resume);
        assert_eq!(look(&Wanted { desired: Desired::Stopped, ..paused }, HELD).step, Step::End);
    }

    #[test]
    fn a_restart_is_carried_out_once_for_each_time_it_is_asked_for() {
        let (asked, again) = (Some(now()), Some(now() + SignedDuration::from_secs(5)));
        let restart = |restart, record: &Record| plan(Some(&Wanted { restart, ..wanted(Desired::Running) }), record, UP, now()).step;
        assert_eq!(restart(asked, &running()), Step::PressPower);
        let served = Record { restarted_for: asked, ..running() };
        assert_eq!(restart(asked, &served), Step::Wait(None));
        assert_eq!(restart(again, &served), Step::PressPower);
    }

    #[test]
    fn a_forced_stop_ends_the_waiting_and_a_grace_period_changes_its_length() {
        let asked = Record { asked_to_stop: Some(now() - SignedDuration::from_secs(3)), ..running() };
        let stop = |force, grace, record: &Record| plan(Some(&Wanted { force, grace, ..wanted(Desired::Stopped) }), record, UP, now()).step;
        let two = Some(SignedDuration::from_secs(2));
        assert_eq!(stop(None, two, &asked), Step::End);
        assert_eq!(stop(None, None, &asked), Step::Wait(Some(now() + SignedDuration::from_secs(27))));
        assert_eq!(stop(Some(now()), None, &asked), Step::End);
        assert_eq!(stop(Some(now()), None, &running()), Step::End);
        assert_eq!(stop(Some(now()), None, &Record { forced_for: Some(now()), ..running() }), Step::PressPower);
    }

    #[test]
    fn a_change_of_the_machine_waits_for_a_restart() {
        assert_eq!(step(Desired::Running, &Record { shape: "b".into(), ..running() }, UP), Step::Wait(None));
        let labelled = Wanted { generation: 9, ..wanted(Desired::Running) };
        assert_eq!(plan(Some(&labelled), &running(), UP, now()).step, Step::Wait(None));
    }

    fn any_desired() -> impl Strategy<Value = Desired> {
        prop_oneof![Just(Desired::Running), Just(Desired::RunningUntilShutdown), Just(Desired::Stopped), Just(Desired::Absent)]
    }

    fn any_seen() -> impl Strategy<Value = Seen> {
        let states = [GuestState::Created, GuestState::Running, GuestState::Paused, GuestState::Shutdown, GuestState::Crashed];
        prop_oneof![Just(Seen::Nothing), Just(Seen::Silent), proptest::sample::select(states.to_vec()).prop_map(Seen::Vmm)]
    }

    prop_compose! {
        fn any_record()(shape in "[ab]", live in any::<bool>(), failures in 0u32..5, asked in proptest::option::of(0i64..60),
            next in proptest::option::of(-60i64..60), shut_down in proptest::option::of(0i64..2)) -> Record {
            Record {
                shape, live, failures, shut_down,
                started_at: Some(now()),
                asked_to_stop: asked.map(|s| now() - SignedDuration::from_secs(s)),
                next_try: next.map(|s| now() + SignedDuration::from_secs(s)),
                ..Record::default()
            }
        }
    }

    /// What a step makes of the world, if nothing else happens.
    fn carry_out(step: Step, record: &mut Record, seen: &mut Seen, now: &mut Timestamp) {
        match step {
            Step::Wait(Some(until)) => *now = (*now).max(until),
            Step::Wait(None) | Step::TearDown => {}
            Step::Start => {
                (record.live, record.shape, record.started_at) = (true, "a".into(), Some(*now));
                (record.asked_to_stop, record.next_try) = (None, None);
                *seen = UP;
            }
            Step::NoteDeath => {
                record.live = false;
                record.failures += 1;
                record.next_try = Some(*now + back_off(record.failures));
            }
            Step::NoteShutdown => record.shut_down = Some(1),
            Step::Resume => *seen = UP,
            Step::Pause => *seen = Seen::Vmm(GuestState::Paused),
            Step::PressPower => record.asked_to_stop = Some(*now),
            Step::End => {
                *seen = Seen::Nothing;
                (record.live, record.asked_to_stop) = (false, None);
            }
            Step::ForgetFailures => record.failures = 0,
        }
    }

    proptest! {
        #[test]
        fn every_vm_comes_to_rest_where_it_is_wanted(
            desired in any_desired(), record in any_record(), seen in any_seen(), paused in any::<bool>(),
        ) {
            let (mut record, mut seen, mut now) = (record, seen, now());
            let wanted = Wanted { paused, ..wanted(desired) };
            let up = if paused { VmState::Paused } else { VmState::Running };
            for _ in 0..20 {
                let decision = plan(Some(&wanted), &record, seen, now);
                match decision.step {
                    Step::Wait(None) => {
                        let rest = match desired {
                            Desired::Running => decision.state == up,
                            Desired::RunningUntilShutdown => decision.state == up || decision.state == VmState::Stopped,
                            _ => decision.state == VmState::Stopped,
                        };
                        prop_assert!(rest && decision.settled, "{decision:?}");
                        return Ok(());
                    }
                    Step::TearDown => {
                        prop_assert!(desired == Desired::Absent && seen == Seen::Nothing);
                        return Ok(());
                    }
                    step => carry_out(step, &mut record, &mut seen, &mut now),
                }
            }
            prop_assert!(false, "no rest: {record:?} {seen:?}");
        }

        #[test]
        fn a_vmm_is_never_started_beside_another(desired in any_desired(), record in any_record(), seen in any_seen()) {
            let decision = plan(Some(&wanted(desired)), &record, seen, now());
            prop_assert!(decision.step != Step::Start || seen == Seen::Nothing);
        }
    }
}
