//! What is kept on disk of an attempt: what it is, what it has changed so far, and how it ended.
//!
//! A record is written before its attempt begins and before each change that the attempt makes, so that the next agent knows
//! what the last one began, begins nothing of it again, and undoes it.

use super::effect::Effect;
use crate::files::{self, FileError};
use basalt_api::task::{Outcome, Reported};
use basalt_proto::v1::TaskAttempt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long a token may be: it becomes the name of a directory.
const LONGEST_TOKEN: usize = 128;
/// The shortest and the longest lease that is gone by.
const LEASE: (Duration, Duration) = (Duration::from_millis(30), Duration::from_secs(3600));

/// What an attempt is known by; fit to be the name of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Token(String);

/// The text is no token.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no token: expected up to 128 letters, digits, dashes and dots, of which the first is no dot")]
pub struct NoToken(String);

impl Token {
    /// Takes a token that came from outside.
    pub fn parse(text: &str) -> Result<Self, NoToken> {
        let fits = !text.is_empty()
            && text.len() <= LONGEST_TOKEN
            && !text.starts_with('.')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
        if fits { Ok(Self(text.to_owned())) } else { Err(NoToken(text.chars().take(LONGEST_TOKEN).collect())) }
    }

    /// As it came.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An attempt as the gateway gave it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Given {
    /// Uid of the Task.
    pub task_uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// The Operation of the api as JSON.
    pub operation: String,
    /// What the operation names, as JSON.
    pub object: String,
    /// Uid of the VM that it is about.
    pub vm_uid: String,
    /// How long it may take.
    pub timeout_milliseconds: u64,
    /// How long it may go on after the last renewal was asked for.
    pub lease_milliseconds: u64,
}

impl Given {
    /// How long it may go on after the last renewal was asked for.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_milliseconds).clamp(LEASE.0, LEASE.1)
    }
}

impl From<TaskAttempt> for Given {
    fn from(attempt: TaskAttempt) -> Self {
        Self {
            task_uid: attempt.task_uid,
            namespace: attempt.namespace,
            name: attempt.name,
            attempt: attempt.attempt,
            operation: attempt.operation_json,
            object: attempt.object_json,
            vm_uid: attempt.vm_uid,
            timeout_milliseconds: attempt.timeout_milliseconds,
            lease_milliseconds: attempt.lease_milliseconds,
        }
    }
}

/// All that the next agent has to know of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The attempt.
    pub given: Given,
    /// When it began.
    pub started_at: Timestamp,
    /// The step that it is in, or was in last.
    #[serde(default)]
    pub step: String,
    /// What it changes or has changed, oldest first; declared before the change is made.
    #[serde(default)]
    pub effects: Vec<Effect>,
    /// How it ended, if it has.
    #[serde(default)]
    pub ended: Option<Reported>,
}

/// A record and the directory that it is kept in.
pub struct Journal {
    dir: PathBuf,
    token: Token,
    record: Mutex<Record>,
}

impl Journal {
    /// Writes the record of an attempt that is about to begin.
    pub fn begin(tasks: &Path, token: Token, given: Given, started_at: Timestamp) -> Result<Self, FileError> {
        let dir = tasks.join(token.as_str());
        files::make_dir(&dir)?;
        let record = Record { given, started_at, step: String::new(), effects: Vec::new(), ended: None };
        let journal = Self { dir, token, record: Mutex::new(record) };
        let begun = journal.write(&journal.lock()).and_then(|()| sync(tasks));
        if begun.is_err() {
            // Without its record it has not begun.
            let _ = std::fs::remove_dir_all(&journal.dir);
        }
        begun.map(|()| journal)
    }

    /// Reads the record that an earlier agent left in a directory. Nothing, if no attempt was begun there; one that is broken
    /// counts as ended, with what it changed unknown.
    pub fn open(dir: PathBuf, token: Token) -> Result<Option<Self>, FileError> {
        let file = dir.join("record.json");
        let Some(stored) = files::read(&file)? else {
            std::fs::remove_dir_all(&dir).map_err(FileError::at("remove", &dir))?;
            return Ok(None);
        };
        let record = serde_json::from_slice(&stored).unwrap_or_else(|error| {
            tracing::error!(file = %file.display(), "the record of an attempt is broken: {error}");
            let now = Timestamp::now();
            let ended = Reported {
                token: token.to_string(),
                host: String::new(),
                started_at: Time(now),
                outcome: Some(Outcome::Interrupted),
                ended_at: Some(Time(now)),
                message: Some(format!("The agent ended while the attempt ran, and its record {} is broken: {error}", file.display())),
                result: BTreeMap::new(),
                residue: vec!["What the attempt has changed is not known: its record on the host is broken".to_owned()],
            };
            Record { given: Given::default(), started_at: now, step: String::new(), effects: Vec::new(), ended: Some(ended) }
        });
        Ok(Some(Self { dir, token, record: Mutex::new(record) }))
    }

    /// What the attempt is known by.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The directory of the attempt: what it needs for itself goes here, and goes with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A copy of the record.
    pub fn record(&self) -> Record {
        self.lock().clone()
    }

    /// Changes the record; it is on disk when this returns, and unchanged if it cannot be written.
    pub fn change(&self, change: impl FnOnce(&mut Record)) -> Result<(), FileError> {
        let mut record = self.lock();
        let mut changed = record.clone();
        change(&mut changed);
        self.write(&changed)?;
        *record = changed;
        Ok(())
    }

    /// Removes the record: the attempt is known no more.
    pub fn remove(&self) -> Result<(), FileError> {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at("remove", &self.dir)(error)),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // A record is replaced as a whole.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, record: &Record) -> Result<(), FileError> {
        let content = serde_json::to_vec_pretty(record).map_err(io::Error::other).map_err(FileError::at("encode", &self.dir))?;
        files::write(&self.dir.join("record.json"), &content, 0o600)
    }
}

fn sync(dir: &Path) -> Result<(), FileError> {
    std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(FileError::at("sync", dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_no_name_of_a_directory_is_refused() {
        for text in ["", ".", "..", "../x", "a/b", "a b", "a\0", ".hidden", "ä", &"x".repeat(129)] {
            assert!(Token::parse(text).is_err(), "{text:?}");
        }
        assert!(Token::parse("0f1c-9.2.abcdef").is_ok());
    }

    #[test]
    fn a_record_is_there_after_a_restart_with_its_effects_and_gone_when_removed() {
        let dir = tempfile::tempdir().unwrap();
        let token = Token::parse("t").unwrap();
        let given = Given { name: "n".into(), attempt: 2, ..Given::default() };
        let journal = Journal::begin(dir.path(), token.clone(), given, Timestamp::now()).unwrap();
        journal.change(|record| record.effects.push(Effect::File { path: "/x".into() })).unwrap();
        let found = Journal::open(dir.path().join("t"), token.clone()).unwrap().unwrap();
        assert_eq!(found.record(), journal.record());
        found.remove().unwrap();
        assert!(!dir.path().join("t").exists());
    }

    #[test]
    fn a_broken_record_counts_as_interrupted_with_unknown_residue_and_an_empty_one_as_never_begun() {
        let dir = tempfile::tempdir().unwrap();
        let (broken, empty) = (dir.path().join("b"), dir.path().join("e"));
        std::fs::create_dir(&broken).unwrap();
        std::fs::create_dir(&empty).unwrap();
        std::fs::write(broken.join("record.json"), "{").unwrap();
        let ended = Journal::open(broken, Token::parse("b").unwrap()).unwrap().unwrap().record().ended.unwrap();
        assert_eq!((ended.outcome, ended.residue.len()), (Some(Outcome::Interrupted), 1));
        assert!(Journal::open(empty.clone(), Token::parse("e").unwrap()).unwrap().is_none());
        assert!(!empty.exists());
    }
}
