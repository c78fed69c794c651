//! One attempt of a task, between its host and the API: what the host says of it is written, and it is told to go on or to stop.

use super::{
    board::{self, Board, Known, Standing},
    log::{Line, Logs, Writer},
    writes::{self, WriteError, Wrote},
};
use crate::hub::manifests::Manifests;
use basalt_api::task::{Operation, Progress, Reported};
use basalt_controllers::task::plan::checked;
use basalt_proto::v1::{
    LeaseTasksRequest, LeaseTasksResponse, TaskAttempt, TaskControl, TaskLog, TaskUpdate, task_control::Control, task_update::Update,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Client, ResourceExt};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

/// How long a host waits for attempts before it is told that there are none.
const POLL: Duration = Duration::from_secs(30);
/// How often the progress of an attempt is written at the most.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long a write may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How soon a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The longest message about a task that is read.
const LONGEST: usize = 256 << 10;
/// How many attempts are told of in one answer.
const MOST: usize = 64;

/// The attempts of all hosts that are connected here.
pub struct Attempts {
    /// The attempts, as the API has them.
    pub board: Arc<Board>,
    /// Their logs.
    pub logs: Arc<Logs>,
    client: Client,
    manifests: Arc<Manifests>,
    lease: Duration,
    shutdown: CancellationToken,
    /// The stream of each token; a newer one takes its place.
    open: Mutex<HashMap<String, CancellationToken>>,
    /// When each host's lease was renewed last.
    renewed: Mutex<HashMap<String, Instant>>,
}

/// A stream of one attempt.
struct Stream<'a> {
    all: &'a Attempts,
    host: &'a str,
    token: String,
    known: Option<Arc<Known>>,
    down: UnboundedSender<Result<TaskControl, Status>>,
    started: Option<Time>,
    written: Option<Progress>,
    pending: Option<Progress>,
    write_at: Instant,
    told_to_stop: bool,
}

impl Attempts {
    /// Attempts whose streams all end with `shutdown`. An attempt goes on for `lease` after the last renewal.
    pub fn new(
        client: Client,
        manifests: Arc<Manifests>,
        board: Arc<Board>,
        logs: Arc<Logs>,
        lease: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        let (open, renewed) = (Mutex::default(), Mutex::default());
        Self { board, logs, client, manifests, lease, shutdown, open, renewed }
    }

    /// The lease of a host was renewed.
    pub fn host_renewed(&self, host: &str) {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned(), Instant::now());
    }

    /// The attempts that a host is to begin; waits for one if there is none.
    pub async fn lease(&self, host: &str, request: LeaseTasksRequest) -> Result<LeaseTasksResponse, Status> {
        let known: HashSet<String> = request.known_tokens.into_iter().collect();
        let mut changes = self.board.changes(host);
        let until = Instant::now() + POLL;
        loop {
            changes.mark_unchanged();
            let settled_tokens: Vec<String> = known.iter().filter(|token| self.is_settled(host, token)).cloned().collect();
            let new = self.board.to_begin(host, &known);
            let attempts: Vec<TaskAttempt> = new.iter().take(MOST).filter_map(|task| self.attempt(task)).collect();
            if !attempts.is_empty() || !settled_tokens.is_empty() {
                return Ok(LeaseTasksResponse { attempts, settled_tokens });
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return Err(Status::unavailable("the gateway ends")),
                () = tokio::time::sleep_until(until) => return Ok(LeaseTasksResponse::default()),
                changed = changes.changed() => if changed.is_err() { changes = self.board.changes(host) },
            }
        }
    }

    /// Whether the host need not tell of an attempt any more.
    fn is_settled(&self, host: &str, token: &str) -> bool {
        self.board.is_listed() && (self.board.task(token).is_none() || self.board.standing(host, token) == Standing::Settled)
    }

    fn attempt(&self, known: &Known) -> Option<TaskAttempt> {
        let task = known.task.as_ref()?;
        let status = task.status.as_ref()?;
        let (object_json, vm_uid) = match &task.spec.operation {
            Operation::ImagePull(pull) => {
                let spec = self.manifests.look(|fleet| fleet.image(&pull.image).and_then(|image| serde_json::to_string(&image.spec).ok()));
                (spec.unwrap_or_default(), String::new())
            }
            Operation::VmSnapshot(snapshot) => {
                let uid = self.manifests.look(|fleet| fleet.vm(&known.namespace, &snapshot.vm).and_then(|vm| vm.uid()));
                (String::new(), uid.unwrap_or_default())
            }
            _ => Default::default(),
        };
        let left = status.deadline.as_ref().map(|deadline| deadline.0.duration_since(Timestamp::now()));
        let left = left.and_then(|left| u64::try_from(left.as_millis()).ok()).unwrap_or_default();
        Some(TaskAttempt {
            token: known.token.clone()?,
            task_uid: task.uid()?,
            namespace: known.namespace.clone(),
            name: known.name.clone(),
            attempt: status.attempt,
            operation_json: serde_json::to_string(&task.spec.operation).ok()?,
            object_json,
            vm_uid,
            timeout_milliseconds: left,
            lease_milliseconds: u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Serves the stream of one attempt until it ends.
    pub async fn serve(&self, host: &str, mut updates: Streaming<TaskUpdate>, down: UnboundedSender<Result<TaskControl, Status>>) {
        let first = tokio::select! {
            () = self.shutdown.cancelled() => return,
            first = timeout(DEADLINE, updates.message()) => first,
        };
        let Ok(Ok(Some(first))) = first else { return };
        let newest = self.shutdown.child_token();
        let token = first.token.clone();
        let older = self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(token.clone(), newest.clone());
        if let Some(older) = older {
            older.cancel();
        }
        let known = self.board.task(&token);
        let mut stream = Stream {
            all: self,
            host,
            token,
            known,
            down,
            started: None,
            written: None,
            pending: None,
            write_at: Instant::now(),
            told_to_stop: false,
        };
        let ended = stream.follow(first, &mut updates, &newest).await;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !newest.is_cancelled() {
            open.remove(&stream.token);
        }
        if let Err(status) = ended {
            tracing::info!(host, token = stream.token, "the stream of an attempt ended: {}", status.message());
            // The host may be gone.
            let _ = stream.down.send(Err(status));
        }
    }
}

impl Stream<'_> {
    async fn follow(&mut self, first: TaskUpdate, updates: &mut Streaming<TaskUpdate>, newest: &CancellationToken) -> Result<(), Status> {
        let mut changes = self.all.board.changes(self.host);
        if self.all.board.standing(self.host, &self.token) == Standing::Foreign {
            return Err(Status::permission_denied(format!("the attempt {:?} is another host's", self.token)));
        }
        if self.take(first).await? {
            return Ok(());
        }
        loop {
            self.tell_to_stop();
            tokio::select! {
                biased;
                () = newest.cancelled() => return Err(Status::aborted("another stream of the attempt was opened, or the gateway ends")),
                changed = changes.changed() => if changed.is_err() { changes = self.all.board.changes(self.host) },
                update = updates.message() => {
                    let Some(update) = update? else { return Ok(()) };
                    if update.token != self.token {
                        return Err(Status::invalid_argument(format!("the stream is of attempt {:?} and not of {:?}", self.token, update.token)));
                    }
                    if self.take(update).await? {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(self.write_at), if self.pending.is_some() => self.write_progress().await,
            }
        }
    }

    /// Takes one message; says whether it was the last.
    async fn take(&mut self, update: TaskUpdate) -> Result<bool, Status> {
        match update.update {
            None => {}
            Some(Update::StartedAt(text)) => self.start(&text).await?,
            Some(Update::Alive(number)) => self.renew(number),
            Some(Update::ProgressJson(text)) => self.progress(&text).await,
            Some(Update::Log(log)) => self.log(log).await?,
            Some(Update::EndedJson(text)) => {
                self.end(&text).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn start(&mut self, text: &str) -> Result<(), Status> {
        let time: Timestamp =
            text.parse().map_err(|_| Status::invalid_argument(format!("started_at is {text:?}: expected a time of RFC 3339")))?;
        self.started = Some(Time(time));
        if self.all.board.standing(self.host, &self.token) != Standing::Current {
            return Ok(());
        }
        let Some(known) = self.known() else { return Ok(()) };
        let reported = Reported {
            token: self.token.clone(),
            host: self.host.to_owned(),
            started_at: Time(time),
            outcome: None,
            ended_at: None,
            message: None,
            result: Default::default(),
            residue: Vec::new(),
        };
        let told =
            known.task.as_ref().and_then(|task| task.status.as_ref()?.reported.as_ref()).is_some_and(|known| known.token == self.token);
        if !told && let Err(error) = within(writes::report(&self.all.client, &known, &reported)).await {
            // What it says in the end says this too.
            tracing::warn!(host = self.host, task = known.name, "cannot write that an attempt began: {error}");
        }
        Ok(())
    }

    fn known(&mut self) -> Option<Arc<Known>> {
        // It may have changed, and come after its first attempt's stream.
        self.known = self.all.board.task(&self.token).or(self.known.take());
        self.known.clone()
    }

    fn renew(&mut self, number: u64) {
        let age = self.all.renewed.lock().unwrap_or_else(PoisonError::into_inner).get(self.host).map(Instant::elapsed);
        let alive = age.is_some_and(|age| board::may_renew(age, self.all.lease));
        if alive && self.all.board.standing(self.host, &self.token) == Standing::Current {
            self.say(Control::Renewed(number));
        }
    }

    fn tell_to_stop(&mut self) {
        // While the tasks are not known, nothing follows from one that is not.
        if self.told_to_stop || !self.all.board.is_listed() {
            return;
        }
        if let Standing::Stop(reason) = self.all.board.standing(self.host, &self.token) {
            self.told_to_stop = true;
            self.say(Control::Stop(reason));
        }
    }

    fn say(&self, control: Control) {
        // The host may be gone.
        let _ = self.down.send(Ok(TaskControl { control: Some(control) }));
    }

    async fn progress(&mut self, text: &str) {
        let before = self.pending.as_ref().or(self.written.as_ref());
        let read =
            if text.len() > LONGEST { Err("it is too long".to_owned()) } else { serde_json::from_str(text).map_err(|e| e.to_string()) };
        let read = read.and_then(|progress: Progress| checked(progress, before));
        match read {
            Ok(mut progress) => {
                progress.step = progress.step.chars().filter(|c| !c.is_control()).take(100).collect();
                progress.unit = progress.unit.chars().filter(|c| !c.is_control()).take(20).collect();
                progress.updated_at = Time(Timestamp::now());
                self.pending = Some(progress);
                if self.write_at <= Instant::now() {
                    self.write_progress().await;
                }
            }
            Err(reason) => tracing::warn!(host = self.host, token = self.token, "progress of an attempt is refused: {reason}"),
        }
    }

    async fn write_progress(&mut self) {
        self.write_at = Instant::now() + PROGRESS;
        let (Some(progress), Some(known)) = (self.pending.take(), self.known()) else { return };
        match within(writes::progress(&self.all.client, &known, &self.token, &progress)).await {
            Ok(_) => self.written = Some(progress),
            Err(error) => {
                tracing::warn!(host = self.host, task = known.name, "cannot write the progress of an attempt: {error}");
                self.pending = Some(progress);
            }
        }
    }

    async fn log(&mut self, log: TaskLog) -> Result<(), Status> {
        let Some(known) = self.known() else { return Ok(()) };
        let attempt = board::attempt(&self.token);
        let now = Timestamp::now();
        let lines: Vec<Line> = log
            .lines
            .into_iter()
            .map(|line| {
                let time = line.time.and_then(|time| Timestamp::new(time.seconds, time.nanos).ok()).unwrap_or(now);
                Line { time, level: line.level, step: line.step, attempt, text: line.text }
            })
            .collect();
        let writer = Writer { namespace: &known.namespace, name: &known.name, uid: board::uid(&self.token), attempt };
        let next = log.first + lines.len() as u64;
        match timeout(DEADLINE, self.all.logs.append(writer, log.first, &lines, now)).await {
            Ok(Ok(())) => {
                self.say(Control::Logged(next));
                Ok(())
            }
            // It is sent again over the next stream.
            Ok(Err(error)) => Err(Status::unavailable(format!("the log of the task cannot be written: {error}"))),
            Err(_) => Err(Status::unavailable("the log of the task cannot be written: the store did not answer in time")),
        }
    }

    async fn end(&mut self, text: &str) -> Result<(), Status> {
        let wrong = |reason: String| Status::invalid_argument(format!("ended_json is not usable: {reason}"));
        if text.len() > LONGEST {
            return Err(wrong(format!("it has {} bytes: expected {LONGEST} at the most", text.len())));
        }
        let mut reported: Reported = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if reported.token != self.token {
            return Err(wrong(format!("it is of token {:?} and the stream is of {:?}", reported.token, self.token)));
        }
        if reported.outcome.is_none() {
            return Err(wrong("outcome is missing".into()));
        }
        self.host.clone_into(&mut reported.host);
        reported.ended_at.get_or_insert(Time(Timestamp::now()));
        if self.pending.is_some() {
            self.write_progress().await;
        }
        let Some(known) = self.known() else {
            if self.all.board.is_listed() {
                self.say(Control::Settled(true));
            }
            return Ok(());
        };
        loop {
            let written = match within(writes::report(&self.all.client, &known, &reported)).await {
                Ok(Wrote::Outdated) => within(writes::late(&self.all.client, &known, &reported)).await,
                Ok(Wrote::Done) => Ok(()),
                Err(error) => Err(error),
            };
            match written {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(host = self.host, task = known.name, "cannot write how an attempt ended, tried again: {error}");
                    tokio::time::sleep(RETRY).await;
                    if self.all.shutdown.is_cancelled() {
                        return Err(Status::unavailable("the gateway ends"));
                    }
                }
            }
        }
        self.say(Control::Settled(true));
        Ok(())
    }
}

async fn within<T>(write: impl Future<Output = Result<T, WriteError>>) -> Result<T, WriteError> {
    match timeout(DEADLINE, write).await {
        Ok(written) => written,
        Err(_) => Err(WriteError::Late),
    }
}
