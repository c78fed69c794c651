//! The agent's half of tasks, against a stand-in for the gateway: each attempt is begun once, bounded, stoppable at any time, and
//! what a crash leaves is undone and told.

#![allow(clippy::unwrap_used, clippy::panic)] // the stand-in is part of the tests

mod gateway;
mod operations;

use basalt_api::task::{Outcome, Progress};
use basalt_proto::v1::{TaskAttempt, task_control::Control, task_update::Update};
use gateway::{Gateway, Host, attempt, texts};
use serde_json::json;

fn long_probe(silent: bool) -> TaskAttempt {
    attempt("t1", json!({"probe": {"steps": 2, "stepMilliseconds": 3_600_000, "writeBytes": 4096, "silent": silent}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_is_begun_once_tells_its_progress_and_log_and_is_forgotten_when_settled() {
    let (dir, mut gateway) = (tempfile::tempdir().unwrap(), Gateway::start().await);
    let _host = Host::start(&gateway, dir.path().into());
    gateway.offer(attempt("t1", json!({"probe": {"steps": 3, "stepMilliseconds": 0, "writeBytes": 3_000_000}})));
    assert!(matches!(gateway.hear().await, Update::StartedAt(_)));
    let (mut lines, mut progress) = (Vec::new(), Vec::new());
    let reported: basalt_api::task::Reported = gateway
        .hear_that(|update| match update {
            Update::Log(log) => {
                assert_eq!(log.first, lines.len() as u64);
                lines.extend(texts(log));
                None
            }
            Update::ProgressJson(json) => {
                progress.push(serde_json::from_str::<Progress>(&json).unwrap());
                None
            }
            Update::EndedJson(json) => Some(serde_json::from_str(&json).unwrap()),
            _ => None,
        })
        .await;
    assert_eq!((reported.outcome, reported.residue.len()), (Some(Outcome::Succeeded), 0));
    assert_eq!(reported.result["bytesWritten"], "9000000");
    assert_eq!(lines, ["Step 1 of 3 begins", "Step 2 of 3 begins", "Step 3 of 3 begins", "All steps are done"]);
    assert!(progress.is_sorted_by_key(|progress| progress.done));
    assert_eq!(progress.last().unwrap().percent, Some(100));
    assert!(dir.path().join("tasks/t1/record.json").exists());
    gateway.settle().await;
    assert!(!dir.path().join("tasks/t1").exists());
    // A gateway that is behind hands it out once more: it is not begun, though there is no record of it any more.
    gateway.forget();
    gateway.offer(attempt("t1", json!({"probe": {"steps": 1, "stepMilliseconds": 0}})));
    gateway.offer(attempt("t2", json!({"probe": {"steps": 1, "stepMilliseconds": 100, "failAt": 1}})));
    assert_eq!(gateway.end().await.0.token, "t2");
    assert!(!dir.path().join("tasks/t1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_attempt_hears_the_word_to_stop_and_undoes_what_it_did() {
    let (dir, mut gateway) = (tempfile::tempdir().unwrap(), Gateway::start().await);
    let _host = Host::start(&gateway, dir.path().into());
    gateway.offer(long_probe(true));
    gateway.hear_that(|update| matches!(update, Update::Alive(_)).then_some(())).await;
    gateway.say(Control::Stop("somebody asked for its end".into())).await;
    let (reported, _) = gateway.end().await;
    assert_eq!(reported.outcome, Some(Outcome::Stopped));
    assert!(reported.message.unwrap().contains("somebody asked for its end"));
    assert!(!dir.path().join("tasks/t1/probe").exists());
    gateway.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_ends_at_its_timeout_without_the_gateway() {
    let (dir, mut gateway) = (tempfile::tempdir().unwrap(), Gateway::start().await);
    let _host = Host::start(&gateway, dir.path().into());
    gateway.offer(TaskAttempt { timeout_milliseconds: 200, ..long_probe(false) });
    let (reported, _) = gateway.end().await;
    assert_eq!(reported.outcome, Some(Outcome::Stopped));
    assert!(reported.message.unwrap().contains("timeout of 200ms"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_lease_is_not_renewed_is_stopped_and_undone() {
    let (dir, mut gateway) = (tempfile::tempdir().unwrap(), Gateway::start().await);
    let _host = Host::start(&gateway, dir.path().into());
    gateway.renew_only(3);
    gateway.offer(TaskAttempt { lease_milliseconds: 600, ..long_probe(false) });
    gateway.step("step 1 of 2").await;
    let (reported, _) = gateway.end().await;
    assert_eq!(reported.outcome, Some(Outcome::Interrupted));
    assert!(reported.message.unwrap().contains("the lease ran out"));
    assert!(!dir.path().join("tasks/t1/probe").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_was_given_up_before_its_grant_came_is_never_begun() {
    let (dir, mut gateway) = (tempfile::tempdir().unwrap(), Gateway::start().await);
    let _host = Host::start(&gateway, dir.path().into());
    gateway.renew_only(0);
    gateway.offer(TaskAttempt { lease_milliseconds: 300, ..long_probe(false) });
    let (reported, lines) = gateway.end().await;
    assert_eq!(reported.outcome, Some(Outcome::Interrupted));
    assert!(reported.message.unwrap().contains("never begun"));
    assert!(lines.is_empty(), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_stream_is_opened_again_and_says_what_was_not_acknowledged_and_nothing_is_repeated() {
    let (dir, mut gateway) = (tempfile::tempdir().unwrap(), Gateway::start().await);
    let _host = Host::start(&gateway, dir.path().into());
    gateway.offer(attempt("t1", json!({"probe": {"steps": 4, "stepMilliseconds": 700}})));
    gateway.step("step 2 of 4").await;
    gateway.say(Control::Logged(1)).await;
    gateway.step("step 3 of 4").await;
    gateway.cut();
    let again = gateway.hear_that(|update| matches!(update, Update::StartedAt(_)).then_some(())).await;
    let () = again;
    let (first, lines) = gateway
        .hear_that(|update| match update {
            Update::Log(log) => Some((log.first, texts(log))),
            _ => None,
        })
        .await;
    assert_eq!((first, lines[0].as_str()), (1, "Step 2 of 4 begins"));
    let (reported, later) = gateway.end().await;
    assert_eq!(reported.outcome, Some(Outcome::Succeeded));
    let said: Vec<_> = lines.iter().chain(&later).collect();
    assert_eq!(said, ["Step 2 of 4 begins", "Step 3 of 4 begins", "Step 4 of 4 begins", "All steps are done"]);
    // What has ended is told again too, until it is settled.
    gateway.cut();
    assert_eq!(gateway.end().await.0, reported);
    gateway.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_in_any_step_the_attempt_is_undone_told_as_interrupted_and_not_run_again() {
    for step in ["step 1 of 3", "step 2 of 3", "step 3 of 3"] {
        let (dir, mut gateway) = (tempfile::tempdir().unwrap(), Gateway::start().await);
        let host = Host::start(&gateway, dir.path().into());
        gateway.offer(attempt("t1", json!({"probe": {"steps": 3, "stepMilliseconds": 700, "writeBytes": 100_000}})));
        gateway.step(step).await;
        host.kill().await;
        gateway.forget();
        let _host = Host::start(&gateway, dir.path().into());
        let (reported, lines) = gateway.end().await;
        assert_eq!((reported.outcome, reported.residue.len()), (Some(Outcome::Interrupted), 0));
        assert!(reported.message.unwrap().contains(step));
        assert_eq!(lines.iter().filter(|line| line.as_str() == "Step 1 of 3 begins").count(), 1, "{lines:?}");
        assert!(!dir.path().join("tasks/t1/probe").exists());
        // The token is still on offer: a host that has a record of it begins nothing.
        gateway.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_not_heard_is_told_by_the_next_agent_and_settled_by_either_way() {
    let (dir, mut gateway) = (tempfile::tempdir().unwrap(), Gateway::start().await);
    let host = Host::start(&gateway, dir.path().into());
    gateway.offer(attempt("t1", json!({"probe": {"steps": 2, "stepMilliseconds": 0, "failAt": 2}})));
    let (reported, _) = gateway.end().await;
    assert_eq!(reported.outcome, Some(Outcome::Failed));
    host.kill().await;
    let _host = Host::start(&gateway, dir.path().into());
    assert_eq!(gateway.end().await.0, reported);
    gateway.settle_by_lease("t1").await;
    assert!(!dir.path().join("tasks/t1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_host_does_or_knows_is_refused_with_the_reason_and_nothing_else_suffers() {
    let (dir, mut gateway) = (tempfile::tempdir().unwrap(), Gateway::start().await);
    let _host = Host::start(&gateway, dir.path().into());
    let refused = [
        (json!({"flyToTheMoon": {}}), Outcome::NotSupported, "flyToTheMoon"),
        (json!({"probe": {"steps": "many"}}), Outcome::NotSupported, "does not understand"),
        (json!([1, 2]), Outcome::NotSupported, "does not understand"),
        (json!({"probe": {"steps": 4_000_000_000_u32}}), Outcome::Failed, "at most 1000 steps"),
        (json!({"hostDrain": {}}), Outcome::NotSupported, "HostDrain"),
        (json!({"vmMigrate": {"vm": "x"}}), Outcome::NotSupported, "VmMigrate"),
    ];
    for (index, (operation, outcome, reason)) in refused.into_iter().enumerate() {
        let extreme =
            TaskAttempt { timeout_milliseconds: u64::MAX, lease_milliseconds: u64::MAX, ..attempt(&format!("t{index}"), operation) };
        gateway.offer(TaskAttempt { token: "../../etc".into(), ..extreme.clone() });
        gateway.offer(extreme);
        let (reported, _) = gateway.end().await;
        assert_eq!(reported.outcome, Some(outcome));
        assert!(reported.message.as_ref().unwrap().contains(reason), "{:?}", reported.message);
        gateway.settle().await;
    }
    assert_eq!(std::fs::read_dir(dir.path().join("tasks")).unwrap().count(), 0);
}
