//! What becomes of a task: [`next`], a pure function of the task, of what it waits for, and of the time. Nothing else
//! decides about a phase.

use basalt_api::{
    BlockedBy, BlockedCode, NextStep, ObjectReference, Task, TaskStatus,
    task::{Happened, OnFailure, Operation, Outcome, Progress, Reported, Retry, TaskPhase, TaskReason},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use std::time::Duration;

/// How many entries a timeline keeps: the first, and the newest.
const TIMELINE: usize = 64;
/// How many things an attempt leaves behind are told.
const RESIDUE: usize = 32;

/// What a task's fate depends on, besides itself.
#[derive(Clone, Debug)]
pub struct World {
    /// How the tasks that it depends on stand, in its order; none for one that does not exist.
    pub dependencies: Vec<Option<TaskPhase>>,
    /// The tasks that it depends on, round to itself again, if they do.
    pub cycle: Option<Vec<String>>,
    /// Where it would be done.
    pub place: Place,
    /// How the host of the newest attempt is.
    pub host: HostState,
    /// What a new attempt would have to wait for.
    pub busy: Option<Busy>,
    /// What a new attempt would be known by.
    pub token: String,
}

/// How the host of an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostState {
    /// It reports, or there is none.
    Reports,
    /// It does not report since then.
    Silent {
        /// Since when.
        since: Timestamp,
    },
}

/// Where a task would be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this host.
    Host(String),
    /// By the control plane itself.
    Nowhere,
    /// On a host that does not report.
    Silent(String),
    /// The object that it is about does not exist.
    Missing(ObjectReference),
    /// The VM that it is about is on no host yet.
    Unplaced(ObjectReference),
}

/// What is in the way of a new attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Busy {
    /// Another task is at work on the same object.
    Object {
        /// The name of the other task, in the namespace given.
        task: ObjectReference,
        /// The object.
        object: ObjectReference,
    },
    /// The host does as much of the kind as it may, or others come first.
    Host {
        /// How many tasks of the class it may do.
        limit: usize,
        /// How many tasks wait for the same and come first.
        before: usize,
    },
}

/// What is decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The status, with what the hub writes as it was.
    pub status: TaskStatus,
    /// When to look again if nothing happens.
    pub look_again: Option<Duration>,
}

/// Decides what becomes of a task. A host that is silent for `lost` runs nothing of an attempt any more.
pub fn next(task: &Task, world: &World, lost: Duration, now: Timestamp) -> Decision {
    let mut turn = Turn { task, world, now, lost, status: task.status.clone().unwrap_or_default(), look_again: None };
    turn.status.blocked_by.clear();
    if turn.status.timeline.is_empty() {
        turn.happened("created");
    }
    turn.prove_stopped();
    match turn.status.phase.unwrap_or_default() {
        TaskPhase::Pending => turn.pending(),
        TaskPhase::Executing => turn.executing(),
        TaskPhase::Completed | TaskPhase::Failed | TaskPhase::TimedOut | TaskPhase::Cancelled => {}
    }
    if turn.status.phase.is_none() {
        turn.status.phase = Some(TaskPhase::Pending);
    }
    turn.keep_since();
    Decision { status: turn.status, look_again: turn.look_again }
}

struct Turn<'a> {
    task: &'a Task,
    world: &'a World,
    now: Timestamp,
    lost: Duration,
    status: TaskStatus,
    look_again: Option<Duration>,
}

impl Turn<'_> {
    fn pending(&mut self) {
        let spec = &self.task.spec;
        if spec.cancel_requested {
            self.status.cancel_requested_at.get_or_insert(Time(self.now));
            return self.end(TaskPhase::Cancelled, TaskReason::CancelRequested, "Cancelled before it began".into());
        }
        if let Some(cycle) = &self.world.cycle {
            let message = format!("The tasks that it depends on depend on it: {}", cycle.join(" -> "));
            return self.end(TaskPhase::Failed, TaskReason::DependencyCycle, message);
        }
        let mut waits = Vec::new();
        for (dependency, phase) in spec.depends_on.iter().zip(&self.world.dependencies) {
            let name = &dependency.task;
            match phase {
                Some(TaskPhase::Completed) => {}
                Some(phase) if phase.is_terminal() => match dependency.on_failure {
                    OnFailure::Run => {}
                    OnFailure::Fail => {
                        let message = format!("task/{name}, which it depends on, ended as {phase}");
                        return self.end(TaskPhase::Failed, TaskReason::DependencyFailed, message);
                    }
                    OnFailure::Skip => {
                        let message = format!("Not run, for task/{name} ended as {phase}");
                        return self.end(TaskPhase::Cancelled, TaskReason::Skipped, message);
                    }
                },
                known => {
                    let hint = match known {
                        Some(phase) => format!("task/{name} has to end first and is {phase}"),
                        None => format!("task/{name} has to end first and does not exist. Create it, or cancel this task"),
                    };
                    waits.push((BlockedCode::WaitingForTask, Some(self.sibling(name)), hint));
                }
            }
        }
        if self.status.attempt == 0 && self.start_timeout(waits.is_empty()) {
            return;
        }
        if self.status.stopping {
            let attempt = self.status.attempt;
            let host = self.status.host.clone();
            let who = host.as_ref().map_or("the control plane".to_owned(), |host| format!("host {host}"));
            let hint = format!("Attempt {attempt} was told to stop, and {who} has not proved yet that it has");
            self.blocked(BlockedCode::WaitingForHost, host.map(ObjectReference::host), hint, None);
        } else if !waits.is_empty() {
            for (code, object, hint) in waits {
                self.blocked(code, object, hint, None);
            }
        } else if let Some(Time(at)) = self.status.retry_at.clone().filter(|Time(at)| *at > self.now) {
            self.look_again_at(at);
            let hint = format!("Attempt {} failed: {}", self.status.attempt, self.status.message.clone().unwrap_or_default());
            let next = NextStep { action: format!("attempt {}", self.status.attempt + 1), at: Some(Time(at)) };
            self.blocked(BlockedCode::RetryBackOff, None, hint, Some(next));
        } else {
            self.begin();
        }
    }

    /// Whether the task has waited too long for its first attempt, and has ended.
    fn start_timeout(&mut self, ready: bool) -> bool {
        let Some(created) = self.task.creation_timestamp() else { return false };
        let until = after(created.0, self.task.spec.start_timeout.duration());
        if until > self.now {
            self.look_again_at(until);
            return false;
        }
        let why = if ready { self.obstacle().map(|(_, _, hint)| hint) } else { Some("tasks that it depends on have not ended".into()) };
        let Some(why) = why else { return false };
        let message = format!("It waited {} for its first attempt: {why}", self.task.spec.start_timeout);
        self.end(TaskPhase::Failed, TaskReason::StartTimeout, message);
        true
    }

    /// What is in the way of an attempt.
    fn obstacle(&self) -> Option<(BlockedCode, Option<ObjectReference>, String)> {
        Some(match (&self.world.place, &self.world.busy) {
            (Place::Silent(host), _) => {
                (BlockedCode::HostNotReady, Some(ObjectReference::host(host)), format!("Host {host} does not report"))
            }
            (Place::Unplaced(vm), _) => (BlockedCode::NoHostFits, Some(vm.clone()), format!("VM {} is on no host", vm.name)),
            (_, Some(Busy::Object { task, object })) => {
                let hint = format!("task/{} is at work on {} {}", task.name, object.kind, object.name);
                (BlockedCode::ObjectBusy, Some(task.clone()), hint)
            }
            (Place::Host(host), Some(Busy::Host { limit, before })) => {
                let hint = format!("Host {host} does {limit} tasks of the kind at once, and {before} others come first");
                (BlockedCode::HostBusy, Some(ObjectReference::host(host)), hint)
            }
            _ => return None,
        })
    }

    fn begin(&mut self) {
        if let Place::Missing(object) = &self.world.place {
            let message = format!("{} {} does not exist", object.kind, object.name);
            return self.end(TaskPhase::Failed, TaskReason::ObjectNotFound, message);
        }
        if let Some((code, object, hint)) = self.obstacle() {
            return self.blocked(code, object, hint, None);
        }
        let host = match &self.world.place {
            Place::Host(host) => Some(host.clone()),
            _ => None,
        };
        let deadline = after(self.now, self.task.spec.timeout.duration());
        let status = &mut self.status;
        status.phase = Some(TaskPhase::Executing);
        status.attempt += 1;
        status.token = Some(self.world.token.clone());
        status.granted_at = Some(Time(self.now));
        status.started_at.get_or_insert(Time(self.now));
        status.deadline = Some(Time(deadline));
        (status.retry_at, status.message) = (None, None);
        status.host.clone_from(&host);
        let to = host.map_or_else(String::new, |host| format!(", given to host {host}"));
        self.happened(&format!("attempt {} begins{to}", self.status.attempt));
        self.look_again_at(deadline);
        self.under_way();
    }

    fn executing(&mut self) {
        if let Some((outcome, reported)) = self.outcome() {
            return self.conclude(outcome, &reported.message.unwrap_or_default());
        }
        let attempt = self.status.attempt;
        if self.task.spec.cancel_requested && self.status.cancel_requested_at.is_none() {
            self.status.cancel_requested_at = Some(Time(self.now));
            self.happened("cancel requested");
        }
        if self.host_is_lost() {
            let host = self.status.host.clone().unwrap_or_default();
            self.status.residue.push(format!("host {host}: what attempt {attempt} left there is not known"));
            let message = format!("Host {host} has been silent for so long that attempt {attempt} has ended there by itself");
            return match self.status.cancel_requested_at {
                Some(_) => self.end(TaskPhase::Cancelled, TaskReason::CancelRequested, message),
                None => self.failed(TaskPhase::Failed, TaskReason::HostLost, message, true),
            };
        }
        let Some(Time(deadline)) = self.status.deadline.clone() else { return };
        if deadline <= self.now {
            self.status.stopping = true;
            let message = format!("Attempt {attempt} took longer than {}", self.task.spec.timeout);
            return match self.status.cancel_requested_at {
                Some(_) => self.end(TaskPhase::Cancelled, TaskReason::CancelRequested, message),
                None => self.failed(TaskPhase::TimedOut, TaskReason::AttemptTimeout, message, true),
            };
        }
        self.look_again_at(deadline);
        self.under_way();
    }

    /// What an attempt that is under way is waited for.
    fn under_way(&mut self) {
        let Some(host) = self.status.host.clone() else { return };
        if let HostState::Silent { since } = self.world.host {
            if self.may_reboot() {
                let hint = format!("Host {host} does not report while it reboots. It says what it has booted when it is back");
                return self.blocked(BlockedCode::HostNotReady, Some(ObjectReference::host(host)), hint, None);
            }
            let hint =
                format!("Host {host} does not report. What it was doing ends there by itself at {} at the latest", after(since, self.lost));
            return self.blocked(BlockedCode::HostNotReady, Some(ObjectReference::host(host)), hint, None);
        }
        let begun = self.reported().is_some();
        let stop = self.status.cancel_requested_at.is_some();
        if stop || !begun {
            let what = if stop { "stop" } else { "begin" };
            let hint = format!("Host {host} was told to {what} attempt {}", self.status.attempt);
            self.blocked(BlockedCode::WaitingForHost, Some(ObjectReference::host(host)), hint, None);
        }
    }

    /// Takes note of the proof that an attempt which was told to stop has stopped.
    fn prove_stopped(&mut self) {
        if !self.status.stopping {
            return;
        }
        let attempt = self.status.attempt;
        if let Some((outcome, _)) = self.outcome() {
            self.status.stopping = false;
            self.take_residue();
            self.happened(&format!("attempt {attempt} has stopped on its host: {outcome:?}"));
        } else if self.host_is_lost() {
            self.status.stopping = false;
            self.happened(&format!("attempt {attempt} has stopped, for its host has been silent longer than an attempt's lease"));
        }
    }

    /// Whether the silence of the host is what the attempt is for. It is until the attempt's deadline.
    fn may_reboot(&self) -> bool {
        matches!(self.task.spec.operation, Operation::OsApply(_))
            && self.status.phase == Some(TaskPhase::Executing)
            && self.reported().is_some()
    }

    /// Whether the host has been silent for so long that nothing of the attempt can run any more.
    fn host_is_lost(&mut self) -> bool {
        let HostState::Silent { since } = self.world.host else { return false };
        if self.may_reboot() {
            return false;
        }
        let until = after(since, self.lost);
        if until > self.now {
            self.look_again_at(until);
        }
        until <= self.now
    }

    /// What the host says of the newest attempt.
    fn reported(&self) -> Option<Reported> {
        self.status.reported.clone().filter(|reported| Some(&reported.token) == self.status.token.as_ref())
    }

    fn outcome(&self) -> Option<(Outcome, Reported)> {
        self.reported().and_then(|reported| Some((reported.outcome?, reported)))
    }

    fn take_residue(&mut self) {
        if let Some((_, reported)) = self.outcome() {
            let host = reported.host;
            self.status.residue.extend(reported.residue.iter().map(|what| format!("host {host}: {what}")));
            self.status.residue.truncate(RESIDUE);
        }
    }

    /// The attempt has ended on its host.
    fn conclude(&mut self, outcome: Outcome, message: &str) {
        self.take_residue();
        let cancelled = self.task.spec.cancel_requested;
        let text = |otherwise: &str| if message.is_empty() { otherwise.to_owned() } else { message.to_owned() };
        match outcome {
            Outcome::Succeeded => {
                self.status.result = self.reported().map(|reported| reported.result).unwrap_or_default();
                self.end(TaskPhase::Completed, TaskReason::Succeeded, text("Done"));
            }
            _ if cancelled => {
                self.status.cancel_requested_at.get_or_insert(Time(self.now));
                self.end(TaskPhase::Cancelled, TaskReason::CancelRequested, text("Cancelled"));
            }
            Outcome::NotSupported => self.end(TaskPhase::Failed, TaskReason::NotSupported, text("The host cannot do it")),
            Outcome::Failed => self.failed(TaskPhase::Failed, TaskReason::OperationFailed, text("It failed"), true),
            Outcome::Stopped | Outcome::Interrupted => {
                let again = self.task.spec.operation.may_be_repeated();
                self.failed(TaskPhase::Failed, TaskReason::Interrupted, text("It was interrupted"), again);
            }
        }
    }

    /// An attempt has not done it: there is another one, or it is the end.
    fn failed(&mut self, phase: TaskPhase, reason: TaskReason, message: String, again: bool) {
        let attempt = self.status.attempt;
        if !again || attempt > self.task.spec.retry.limit {
            return self.end(phase, reason, message);
        }
        let at = after(self.now, backoff(&self.task.spec.retry, attempt));
        self.happened(&format!("attempt {attempt} failed ({reason}): {message}"));
        self.status.phase = Some(TaskPhase::Pending);
        self.status.message = Some(message);
        self.status.retry_at = Some(Time(at));
        self.pending();
    }

    fn end(&mut self, phase: TaskPhase, reason: TaskReason, message: String) {
        self.happened(&format!("ended as {phase} ({reason}): {message}"));
        let status = &mut self.status;
        (status.phase, status.reason, status.message) = (Some(phase), Some(reason), Some(message));
        status.finished_at = Some(Time(self.now));
        (status.retry_at, status.deadline) = (None, None);
        status.blocked_by.clear();
        self.look_again = None;
    }

    fn sibling(&self, name: &str) -> ObjectReference {
        ObjectReference::task(self.task.namespace().unwrap_or_default(), name)
    }

    fn blocked(&mut self, code: BlockedCode, object: Option<ObjectReference>, hint: String, next: Option<NextStep>) {
        self.status.blocked_by.push(BlockedBy { code, object, since: Time(self.now), next, hint });
    }

    /// What was in the way already is so since then.
    fn keep_since(&mut self) {
        let old = self.task.status.as_ref().map(|status| status.blocked_by.as_slice()).unwrap_or_default();
        for blocked in &mut self.status.blocked_by {
            if let Some(known) = old.iter().find(|known| known.code == blocked.code && known.object == blocked.object) {
                blocked.since = known.since.clone();
            }
        }
    }

    fn happened(&mut self, what: &str) {
        let entry = Happened { time: Time(self.now), attempt: self.status.attempt, what: what.to_owned() };
        if self.status.timeline.len() >= TIMELINE {
            self.status.timeline.remove(1);
        }
        self.status.timeline.push(entry);
    }

    fn look_again_at(&mut self, at: Timestamp) {
        let wait = Duration::try_from(at.duration_since(self.now)).unwrap_or_default();
        self.look_again = Some(self.look_again.map_or(wait, |known| known.min(wait)));
    }
}

fn after(time: Timestamp, wait: Duration) -> Timestamp {
    SignedDuration::try_from(wait).ok().and_then(|wait| time.checked_add(wait).ok()).unwrap_or(Timestamp::MAX)
}

/// How long the attempt after this one is waited for.
pub fn backoff(retry: &Retry, attempt: u32) -> Duration {
    let factor = u64::from(retry.factor).saturating_pow(attempt.saturating_sub(1));
    Duration::from_secs(retry.backoff.as_secs().saturating_mul(factor).min(retry.cap.as_secs()))
}

/// Progress as it may be shown, with what follows from its numbers; or why it is refused.
pub fn checked(mut progress: Progress, before: Option<&Progress>) -> Result<Progress, String> {
    let Progress { done, total, .. } = progress;
    if let Some(total) = total.filter(|total| done > *total) {
        return Err(format!("progress of {done} is past the total of {total}"));
    }
    if let Some(before) = before.filter(|before| before.step == progress.step && before.unit == progress.unit && done < before.done) {
        return Err(format!("progress went back from {} to {done} in step {:?}", before.done, progress.step));
    }
    progress.percent = total.filter(|total| *total > 0).map(|total| {
        let percent = u128::from(done) * 100 / u128::from(total);
        u32::try_from(percent).unwrap_or(100)
    });
    Ok(progress)
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_api::{
        Span, TaskSpec,
        task::{Dependency, Probe},
    };
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const LOST: Duration = Duration::from_secs(45);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn task() -> Task {
        let probe = Probe { steps: 1, step_milliseconds: 0, write_bytes: 0, fail_at: None, fail_attempts: None, silent: true };
        let mut task = Task::new("t", TaskSpec { host: Some("h".into()), ..TaskSpec::of(Operation::Probe(probe)) });
        task.metadata.namespace = Some("default".into());
        task.metadata.creation_timestamp = Some(Time(at(0)));
        task.spec.timeout = Span::from_secs(100);
        task
    }

    fn world() -> World {
        let place = Place::Host("h".into());
        World { dependencies: vec![], cycle: None, place, host: HostState::Reports, busy: None, token: "new".into() }
    }

    fn decided(task: &mut Task, world: &World, second: i64) -> Decision {
        let decision = next(task, world, LOST, at(second));
        task.status = Some(decision.status.clone());
        decision
    }

    fn report(task: &mut Task, outcome: Outcome) {
        let status = task.status.as_mut().unwrap();
        let (token, time) = (status.token.clone().unwrap(), Time(at(0)));
        let (result, residue) = (BTreeMap::new(), vec!["a file".to_owned()]);
        let ended_at = Some(time.clone());
        let outcome = Some(outcome);
        status.reported = Some(Reported { token, host: "h".into(), started_at: time, outcome, ended_at, message: None, result, residue });
    }

    #[test]
    fn an_attempt_that_failed_is_followed_by_others_until_the_limit() {
        let mut task = task();
        task.spec.retry = Retry { limit: 2, backoff: Span::from_secs(10), factor: 3, cap: Span::from_secs(20) };
        let mut now = 1;
        for wait in [10, 20] {
            assert_eq!(decided(&mut task, &world(), now).status.phase, Some(TaskPhase::Executing));
            report(&mut task, Outcome::Failed);
            let again = decided(&mut task, &world(), now);
            assert_eq!((again.status.phase, again.look_again), (Some(TaskPhase::Pending), Some(Duration::from_secs(wait))));
            assert_eq!(again.status.blocked_by[0].code, BlockedCode::RetryBackOff);
            now += i64::try_from(wait).unwrap();
        }
        decided(&mut task, &world(), now);
        report(&mut task, Outcome::Failed);
        let ended = decided(&mut task, &world(), now).status;
        assert_eq!((ended.phase, ended.reason, ended.attempt), (Some(TaskPhase::Failed), Some(TaskReason::OperationFailed), 3));
        assert_eq!(ended.residue.len(), 3);
    }

    #[test]
    fn time_ends_what_waits_and_what_runs_and_the_proof_comes_after() {
        let mut waits = task();
        waits.spec.start_timeout = Span::from_secs(60);
        let silent = World { place: Place::Silent("h".into()), ..world() };
        assert_eq!(decided(&mut waits, &silent, 1).look_again, Some(Duration::from_secs(59)));
        let ended = decided(&mut waits, &silent, 60).status;
        assert_eq!(ended.reason, Some(TaskReason::StartTimeout));
        assert!(ended.message.unwrap().contains("Host h does not report"));
        let mut runs = task();
        assert_eq!(decided(&mut runs, &world(), 1).look_again, Some(Duration::from_secs(100)));
        let ended = decided(&mut runs, &world(), 101).status;
        assert_eq!((ended.phase, ended.stopping), (Some(TaskPhase::TimedOut), true));
        report(&mut runs, Outcome::Stopped);
        let proved = decided(&mut runs, &world(), 102).status;
        assert_eq!((proved.phase, proved.stopping), (Some(TaskPhase::TimedOut), false));
        assert_eq!(proved.finished_at, Some(Time(at(101))));
    }

    #[test]
    fn a_silent_host_is_waited_for_as_long_as_an_attempt_may_run_there() {
        let mut task = task();
        decided(&mut task, &world(), 1);
        let silent = World { host: HostState::Silent { since: at(10) }, ..world() };
        let waits = decided(&mut task, &silent, 20);
        assert_eq!((waits.status.phase, waits.look_again), (Some(TaskPhase::Executing), Some(Duration::from_secs(35))));
        assert_eq!(waits.status.blocked_by[0].code, BlockedCode::HostNotReady);
        let lost = decided(&mut task, &silent, 55).status;
        assert_eq!((lost.phase, lost.reason), (Some(TaskPhase::Failed), Some(TaskReason::HostLost)));
        assert_eq!(lost.residue.len(), 1);
    }

    #[test]
    fn what_may_not_be_repeated_is_not() {
        let mut task = task();
        task.spec.operation = Operation::OsApply(Default::default());
        task.spec.retry.limit = 5;
        decided(&mut task, &world(), 1);
        report(&mut task, Outcome::Interrupted);
        assert_eq!(decided(&mut task, &world(), 2).status.reason, Some(TaskReason::Interrupted));
    }

    #[test]
    fn a_host_that_reboots_is_silent_until_the_deadline_and_then_like_any_other() {
        let mut task = task();
        task.spec.operation = Operation::OsApply(Default::default());
        task.spec.timeout = Span::from_secs(600);
        decided(&mut task, &world(), 1);
        report(&mut task, Outcome::Succeeded);
        let reported = task.status.as_mut().unwrap().reported.as_mut().unwrap();
        (reported.outcome, reported.ended_at) = (None, None);
        let silent = World { host: HostState::Silent { since: at(2) }, ..world() };
        let waits = decided(&mut task, &silent, 500);
        assert_eq!(waits.status.phase, Some(TaskPhase::Executing));
        assert!(waits.status.blocked_by[0].hint.contains("while it reboots"), "{:?}", waits.status.blocked_by);
        let over = decided(&mut task, &silent, 602).status;
        assert_eq!((over.phase, over.reason, over.stopping), (Some(TaskPhase::TimedOut), Some(TaskReason::AttemptTimeout), true));
        assert!(!decided(&mut task, &silent, 603).status.stopping, "it has been silent for longer than a lease");
    }

    fn outcome() -> impl Strategy<Value = Option<Outcome>> {
        let all = [Outcome::Succeeded, Outcome::Failed, Outcome::NotSupported, Outcome::Stopped, Outcome::Interrupted];
        prop::option::of(prop::sample::select(all.to_vec()))
    }

    proptest! {
        #[test]
        fn whatever_happens_an_end_is_the_end_and_every_wait_says_for_what(
            steps in prop::collection::vec((0..200_i64, outcome(), any::<bool>(), 0..4_usize, any::<bool>()), 1..30),
            limit in 0..3_u32,
        ) {
            let mut task = task();
            task.spec.retry.limit = limit;
            task.spec.depends_on = vec![Dependency { task: "other".into(), on_failure: OnFailure::Fail }];
            let phases = [None, Some(TaskPhase::Executing), Some(TaskPhase::Completed), Some(TaskPhase::Completed)];
            let mut now = 1;
            for (number, (wait, outcome, cancel, phase, silent)) in steps.into_iter().enumerate() {
                now += wait;
                task.spec.cancel_requested |= cancel && number % 7 == 0;
                if let Some(outcome) = outcome && task.status.as_ref().is_some_and(|status| status.token.is_some()) {
                    report(&mut task, outcome);
                }
                let before = task.status.clone().unwrap_or_default();
                let host = if silent { HostState::Silent { since: at(now - 10) } } else { HostState::Reports };
                let world = World { dependencies: vec![phases[phase]], host, token: format!("token-{number}"), ..world() };
                let after = decided(&mut task, &world, now).status;
                if before.finished_at.is_some() {
                    prop_assert_eq!((before.phase, before.finished_at, before.attempt), (after.phase, after.finished_at.clone(), after.attempt));
                } else if after.phase == Some(TaskPhase::Pending) {
                    prop_assert!(!after.blocked_by.is_empty(), "{:?}", after);
                }
                // A new attempt begins only when nothing is left of the one before.
                if after.attempt > before.attempt {
                    prop_assert!(!after.stopping && after.attempt == before.attempt + 1 && after.attempt <= limit + 1);
                }
                prop_assert_eq!(after.phase.is_some_and(TaskPhase::is_terminal), after.finished_at.is_some());
            }
        }
    }
}
