//! What is said of an attempt to the gateway, and what the gateway answers, over as many connections as it takes.
//!
//! Every connection begins with all that the gateway may not have heard: that the attempt runs, the log lines that it has not
//! acknowledged, the newest progress and, once the attempt has ended, how. The gateway knows what it has.

use super::attempt::Attempt;
use basalt_proto::v1::{TaskControl, TaskLog, TaskUpdate, agent_client::AgentClient, task_control::Control, task_update::Update};
use std::time::Duration;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// The gateway, if there is a connection.
pub type Connection = watch::Receiver<Option<AgentClient<Channel>>>;

/// The shortest and the longest wait before a stream is opened again on a connection that holds.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often the gateway is asked whether an attempt may begin: a gateway that has just come back renews nothing at first.
const ASK: Duration = Duration::from_millis(500);
/// How often progress is told at the most.
const PROGRESS: Duration = Duration::from_millis(500);
/// How much log is sent at once.
const BATCH: usize = 64 << 10;

/// Talks of an attempt until the gateway needs to hear no more.
pub async fn talk(attempt: &Attempt, mut connection: Connection) {
    let mut wait = RETRY.0;
    while !attempt.settled.is_cancelled() {
        let client = connection.wait_for(Option::is_some).await.map(|client| client.clone()).ok().flatten();
        // Without a sender there is no agent either.
        let Some(client) = client else { return };
        let opened = Instant::now();
        let lost = tokio::select! {
            () = attempt.settled.cancelled() => return,
            lost = converse(attempt, client) => lost,
            _ = connection.changed() => "the connection ended".to_owned(),
        };
        if opened.elapsed() > RETRY.1 {
            wait = RETRY.0;
        }
        tracing::debug!(token = %attempt.journal.token(), "the gateway hears nothing of an attempt ({lost}); it is tried again");
        tokio::select! {
            () = attempt.settled.cancelled() => return,
            () = sleep(wait) => wait = (wait * 2).min(RETRY.1),
        }
    }
}

/// One stream. Says why it ended.
async fn converse(attempt: &Attempt, mut client: AgentClient<Channel>) -> String {
    let (updates, receiver) = mpsc::channel(4);
    let hear = async {
        let mut controls = match client.run_task(ReceiverStream::new(receiver)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return status.message().to_owned(),
        };
        loop {
            match controls.message().await {
                Ok(Some(control)) => obey(attempt, control),
                Ok(None) => return "it ended the conversation".into(),
                Err(status) => return status.message().to_owned(),
            }
        }
    };
    let tell = async {
        // Once nothing can be sent, what is heard says why.
        let _ = tell(attempt, &updates).await;
        std::future::pending::<String>().await
    };
    tokio::select! {
        ended = hear => ended,
        ended = tell => ended,
    }
}

fn obey(attempt: &Attempt, TaskControl { control }: TaskControl) {
    match control {
        Some(Control::Renewed(number)) => attempt.renew(number),
        Some(Control::Stop(reason)) => attempt.stop(&reason),
        Some(Control::Logged(before)) => attempt.log.acknowledge(before),
        Some(Control::Settled(true)) => attempt.settle(),
        // A newer gateway may say more than this agent understands; what it must understand is above.
        Some(Control::Settled(false)) | None => {}
    }
}

/// The gateway takes nothing more.
struct Closed;

async fn tell(attempt: &Attempt, updates: &mpsc::Sender<TaskUpdate>) -> Result<(), Closed> {
    let token = attempt.journal.token().to_string();
    let send = async |update| updates.send(TaskUpdate { token: token.clone(), update: Some(update) }).await.map_err(|_| Closed);
    let period = attempt.lease().period();
    let mut sign_due = Instant::now();
    let mut sign = async || {
        if Instant::now() >= sign_due {
            // Counted from before it waits for its turn.
            let now = Instant::now();
            let number = attempt.lease().sign(now);
            sign_due = now + if attempt.confirmed.is_cancelled() { period } else { period.min(ASK) };
            send(Update::Alive(number)).await?;
        }
        Ok(sign_due)
    };
    let (mut next_line, mut told, mut progress_due) = (0, None, Instant::now());
    send(Update::StartedAt(attempt.journal.record().started_at.to_string())).await?;
    loop {
        // Before the log is looked at: what was said before the end is told before the end.
        let ended = attempt.journal.record().ended;
        let mut next_sign = sign().await?;
        while let Some((first, lines)) = attempt.log.batch(next_line, BATCH) {
            next_line = first + lines.len() as u64;
            send(Update::Log(TaskLog { first, lines })).await?;
            next_sign = sign().await?;
        }
        let progress = attempt.progress().filter(|progress| told.as_ref() != Some(progress));
        let now = Instant::now();
        let mut next = next_sign;
        match progress {
            Some(progress) if now >= progress_due || ended.is_some() => {
                send(Update::ProgressJson(serde_json::to_string(&progress).unwrap_or_default())).await?;
                told = Some(progress);
                progress_due = now + PROGRESS;
            }
            Some(_) => next = next.min(progress_due),
            None => {}
        }
        if let Some(ended) = ended {
            send(Update::EndedJson(serde_json::to_string(&ended).unwrap_or_default())).await?;
            return Ok(());
        }
        tokio::select! {
            () = attempt.news.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}
