//! Tasks: attempts that the gateway hands out, each run once, in bounds, and reported until the gateway has heard.
//!
//! An attempt is on disk ([`record`]) before it begins. It goes on as long as its lease is renewed ([`lease`]), and whatever
//! stops it, what it changed is undone ([`effect`]) or named.

pub mod attempt;
pub mod conversation;
pub mod effect;
pub mod lease;
pub mod log;
pub mod operations;
pub mod progress;
pub mod record;
pub mod runner;

use crate::{
    files::{self, FileError},
    vm::host::Doors,
};
use attempt::Attempt;
use basalt_proto::v1::{LeaseTasksRequest, TaskAttempt, agent_client::AgentClient};
use record::{Given, Journal, Token};
use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    ffi::OsString,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use tonic::transport::Channel;

/// How long the gateway may take to answer: longer than it holds the question.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the gateway is left alone after an answer that was none, or that only had attempts that cannot be begun.
const PAUSE: Duration = Duration::from_secs(1);
/// How many forgotten attempts are remembered by their tokens.
const SETTLED: usize = 1024;

/// What operations see of their host.
pub struct Surroundings {
    /// The agent's directory.
    pub data_dir: PathBuf,
    /// The VMs and images.
    pub doors: Arc<Doors>,
    /// Where programs are looked for, as in `PATH`.
    pub path: OsString,
    /// Names this run of the kernel.
    pub boot_id: String,
}

/// All attempts that the host has a record of.
pub struct Tasks {
    dir: PathBuf,
    host: Arc<Surroundings>,
    connection: watch::Sender<Option<AgentClient<Channel>>>,
    attempts: Mutex<Attempts>,
}

#[derive(Default)]
struct Attempts {
    known: BTreeMap<Token, Arc<Attempt>>,
    /// The newest of those that are forgotten on disk: a gateway that is behind may hand them out once more.
    settled: VecDeque<Token>,
}

impl Tasks {
    /// Finds the attempts that an earlier agent left: those that ran are undone, and all are reported.
    pub fn open(host: Surroundings) -> Result<Arc<Self>, FileError> {
        let dir = host.data_dir.join("tasks");
        files::make_dir(&dir)?;
        let tasks =
            Arc::new(Self { dir: dir.clone(), host: Arc::new(host), connection: watch::Sender::new(None), attempts: Mutex::default() });
        for entry in std::fs::read_dir(&dir).map_err(FileError::at("read the directory", &dir))?.flatten() {
            let Ok(token) = Token::parse(&entry.file_name().to_string_lossy()) else {
                tracing::warn!(path = %entry.path().display(), "this is not the record of an attempt, and is left alone");
                continue;
            };
            if let Some(journal) = Journal::open(entry.path(), token)? {
                tasks.spawn(Arc::new(Attempt::of(journal)?), true);
            }
        }
        Ok(tasks)
    }

    /// Asks the gateway for attempts, and lets those that are here talk to it, until this is dropped with the connection.
    pub async fn lease(self: &Arc<Self>, mut client: AgentClient<Channel>) -> Infallible {
        let _connected = Connected::new(&self.connection, client.clone());
        let mut told = String::new();
        loop {
            // Of those that are settled the gateway would only say so again.
            let unsettled = |(token, attempt): (&Token, &Arc<Attempt>)| (!attempt.settled.is_cancelled()).then(|| token.to_string());
            let known_tokens = self.attempts().known.iter().filter_map(unsettled).collect();
            let answer = tokio::time::timeout(DEADLINE, client.lease_tasks(LeaseTasksRequest { known_tokens })).await;
            let response = match answer {
                Ok(Ok(response)) => response.into_inner(),
                Ok(Err(status)) => {
                    // Reports and manifests do not suffer from it.
                    if status.message() != told {
                        tracing::warn!("the gateway hands out no tasks ({}); it is asked again", status.message());
                        told = status.message().to_owned();
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Err(_) => continue,
            };
            told.clear();
            for token in &response.settled_tokens {
                self.settle(token);
            }
            let had_some = !response.attempts.is_empty();
            let mut began = false;
            for attempt in response.attempts {
                began |= self.begin(attempt);
            }
            if had_some && !began {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Begins an attempt, unless there is a record of it. Says whether it did.
    fn begin(self: &Arc<Self>, attempt: TaskAttempt) -> bool {
        let token = match Token::parse(&attempt.token) {
            Ok(token) => token,
            Err(error) => {
                tracing::error!(task = format!("{}/{}", attempt.namespace, attempt.name), "an attempt is not begun: {error}");
                return false;
            }
        };
        let attempts = self.attempts();
        if attempts.known.contains_key(&token) || attempts.settled.contains(&token) {
            return false;
        }
        drop(attempts);
        match Attempt::begin(&self.dir, token, Given::from(attempt)) {
            Ok(attempt) => {
                self.spawn(Arc::new(attempt), false);
                true
            }
            Err(error) => {
                tracing::error!("an attempt is not begun, as there can be no record of it: {error}");
                false
            }
        }
    }

    fn settle(&self, token: &str) {
        let Ok(token) = Token::parse(token) else { return };
        if let Some(attempt) = self.attempts().known.get(&token) {
            attempt.settle();
        }
    }

    fn spawn(self: &Arc<Self>, attempt: Arc<Attempt>, begun_before: bool) {
        let token = attempt.journal.token().clone();
        self.attempts().known.insert(token.clone(), attempt.clone());
        let (tasks, connection) = (self.clone(), self.connection.subscribe());
        tokio::spawn(async move {
            runner::run(attempt, tasks.host.clone(), connection, begun_before).await;
            let mut attempts = tasks.attempts();
            attempts.known.remove(&token);
            attempts.settled.push_back(token);
            if attempts.settled.len() > SETTLED {
                attempts.settled.pop_front();
            }
        });
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        // An attempt is in the list or it is not.
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The attempts have a gateway to talk to as long as this lives.
struct Connected<'a>(&'a watch::Sender<Option<AgentClient<Channel>>>);

impl<'a> Connected<'a> {
    fn new(connection: &'a watch::Sender<Option<AgentClient<Channel>>>, client: AgentClient<Channel>) -> Self {
        connection.send_replace(Some(client));
        Self(connection)
    }
}

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}
