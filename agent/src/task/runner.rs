//! Runs an attempt, once: until it is done, is told to stop, takes too long, or has lost its lease. Whatever it was, nothing of
//! it runs when its end is noted, and what it had changed is undone or named.

use super::{
    Surroundings,
    attempt::Attempt,
    conversation::{self, Connection},
    log::Level,
    operations::{self, Ended, Results, Work},
};
use basalt_api::task::{Outcome, Reported};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// How long a disk gets that could not take an attempt's end.
const RETRY: Duration = Duration::from_secs(1);
/// How many characters a message has.
const LONGEST: usize = 2048;

/// How an attempt ended, and the details.
type Ending = (Outcome, Option<String>, Results);

/// Sees an attempt to its end, and its end to the gateway. One that an earlier agent began is not run again.
pub async fn run(attempt: Arc<Attempt>, host: Arc<Surroundings>, connection: Connection, begun_before: bool) {
    tokio::join!(perform(&attempt, &host, begun_before), conversation::talk(&attempt, connection));
    if attempt.settled.is_cancelled()
        && let Err(error) = attempt.journal.remove()
    {
        // The next agent tells of it again and is told again to forget it.
        tracing::warn!("{error}");
    }
}

async fn perform(attempt: &Arc<Attempt>, host: &Arc<Surroundings>, begun_before: bool) {
    let record = attempt.journal.record();
    if record.ended.is_some() {
        return;
    }
    let rebooted = if begun_before { operations::os::after_reboot(&record.effects, host).await } else { None };
    let (outcome, message, result) = if let Some(ended) = rebooted {
        ending(ended)
    } else if begun_before {
        let step = if record.step.is_empty() { "before its first step".to_owned() } else { format!("in the step {:?}", record.step) };
        (Outcome::Interrupted, Some(format!("The agent ended while the attempt ran, {step}")), Results::new())
    } else {
        operate(attempt, host).await
    };
    let residue = if outcome == Outcome::Succeeded { Vec::new() } else { undo(attempt, host).await };
    let message = message.map(|message| shorten(&message));
    let reported = Reported {
        token: attempt.journal.token().to_string(),
        host: String::new(),
        started_at: Time(record.started_at),
        outcome: Some(outcome),
        ended_at: Some(Time(Timestamp::now())),
        message,
        result,
        residue,
    };
    tracing::info!(
        task = format!("{}/{}", record.given.namespace, record.given.name),
        attempt = record.given.attempt,
        message = reported.message,
        "attempt ended: {outcome:?}"
    );
    // Told only when it is on disk: otherwise the next agent would undo what the gateway was told is done.
    while let Err(error) = attempt.end(reported.clone()) {
        tracing::error!("the end of an attempt cannot be noted, and is tried again: {error}");
        sleep(RETRY).await;
    }
}

async fn operate(attempt: &Arc<Attempt>, host: &Arc<Surroundings>) -> Ending {
    let given = attempt.given();
    let operation = match operations::parse(&given) {
        Ok(operation) => operation,
        Err(ended) => return ending(Err(ended)),
    };
    let mut hold = pin!(hold(attempt, Duration::from_millis(given.timeout_milliseconds)));
    // An attempt that was given up while its grant was under way is never begun.
    tokio::select! {
        biased;
        halted = &mut hold => return halted,
        () = attempt.confirmed.cancelled() => {}
    }
    tracing::info!(task = format!("{}/{}", given.namespace, given.name), attempt = given.attempt, "attempt begins");
    let cancel = CancellationToken::new();
    // Should this be dropped, the operation ends as well.
    let _guard = cancel.clone().drop_guard();
    let work = Work::new(attempt.clone(), host.clone(), cancel.clone(), operation.steps());
    let mut running = tokio::spawn(async move { operation.run(&work).await });
    tokio::select! {
        ended = &mut running => match ended {
            Ok(ended) => ending(ended),
            Err(broken) => ending(Err(Ended::Failed(format!("The operation broke, which is a fault of the agent: {broken}")))),
        },
        halted = &mut hold => {
            cancel.cancel();
            // Whatever it says, it was not to be finished: what it has done is undone.
            let _ = running.await;
            halted
        }
    }
}

fn ending(ended: Result<Results, Ended>) -> Ending {
    match ended {
        Ok(results) => (Outcome::Succeeded, None, results),
        Err(Ended::Failed(why)) => (Outcome::Failed, Some(why), Results::new()),
        Err(Ended::NotSupported(why)) => (Outcome::NotSupported, Some(why), Results::new()),
        Err(Ended::Cancelled) => (Outcome::Stopped, None, Results::new()),
    }
}

/// Resolves when the attempt has to stop.
async fn hold(attempt: &Attempt, timeout: Duration) -> Ending {
    let mut limit = pin!(sleep(timeout));
    loop {
        let lease_ends = attempt.lease().ends();
        let (outcome, why) = tokio::select! {
            biased;
            () = attempt.stop.cancelled() => (Outcome::Stopped, format!("It was stopped: {}", attempt.why_stopped())),
            () = &mut limit => (Outcome::Stopped, format!("It was stopped: it took longer than its timeout of {timeout:?}")),
            () = sleep_until(lease_ends) => {
                if attempt.lease().ends() > Instant::now() {
                    continue;
                }
                let began = if attempt.confirmed.is_cancelled() { "It was stopped" } else { "It was never begun" };
                (Outcome::Interrupted, format!("{began}: the gateway was not heard for {:?}, and the lease ran out", attempt.given().lease()))
            }
        };
        return (outcome, Some(why), Results::new());
    }
}

/// A text of another program may be of any length; one that is too long for the gateway would never be settled.
fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push_str(" ... (cut)");
    }
    short
}

/// Takes back what the attempt has changed, the newest change first. Says what is left.
async fn undo(attempt: &Attempt, host: &Surroundings) -> Vec<String> {
    let mut residue = Vec::new();
    for effect in attempt.journal.record().effects.iter().rev() {
        match effect.undo(host).await {
            Ok(()) => attempt.say(Level::Info, &format!("Undone: {effect}")),
            Err(left) => {
                attempt.say(Level::Error, &left);
                residue.push(shorten(&left));
            }
        }
    }
    residue
}
