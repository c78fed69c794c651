//! The audit log: who wrote what, when, from where, why and with which outcome, and who was refused.
//!
//! A line is made of what a request's head says and of nothing in its body, so that no secret can get into it. [`log`] writes
//! the lines, [`query`] finds them again.

pub mod log;
pub mod query;

use crate::{
    error::{Reason, Status},
    origin::Trigger,
};
use axum::{
    body::Body,
    http::{Response, Uri, header},
};
use bytes::Bytes;
use futures::stream;
use jiff::Timestamp;
pub use log::{Log, LogError, Settings};
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, sync::Arc};

/// The longest text of a client that goes into a line, in bytes.
const LONGEST: usize = 512;
/// How many groups of a user go into a line.
const GROUPS: usize = 32;
/// How many lines of an answer are sent at once.
const BATCH: usize = 200;

/// What is written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Writes and refusals. Renewals of Leases by this program are left out: they are the heartbeats of hosts.
    #[default]
    Writes,
    /// Every request.
    All,
}

/// The audit log of an API server.
#[derive(Clone)]
pub struct Audit {
    /// Where the lines go.
    pub log: Arc<Log>,
    /// Which there are.
    pub level: Level,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Audit({:?})", self.level)
    }
}

/// Whom somebody acts as.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Somebody {
    /// The user.
    pub user: String,
    /// The groups, as they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// A line of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Event {
    /// When the request came.
    pub time: Timestamp,
    /// The request, as the header `Audit-Id` of its answer names it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Who asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// The groups of who asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Whom they acted as, or would have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated: Option<Somebody>,
    /// What was to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub verb: String,
    /// The path, if it is of no kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Group of the kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Plural name of the kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    /// Namespace of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Subresource of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
    /// Nothing was to be written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// The address that the request came from; none if from this program itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The program that asked, as it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    /// The HTTP code of the answer; 499 if the client went away before it, so that the outcome is not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub code: u16,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// How long the answer took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<f64>,
    /// The object that made a part of this program ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Trigger>,
    /// So many lines before this one were lost, for the disk did not take them or they came too fast. Such a line says nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<u64>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(code: &u16) -> bool {
    *code == 0
}

impl Event {
    /// Makes what clients write no longer than a line can bear.
    fn cut(&mut self) {
        self.groups.truncate(GROUPS);
        let texts = [&mut self.user, &mut self.path, &mut self.namespace, &mut self.name, &mut self.subresource, &mut self.user_agent];
        let others = self.impersonated.iter_mut().flat_map(|other| {
            other.groups.truncate(GROUPS);
            std::iter::once(&mut other.user).chain(&mut other.groups)
        });
        for text in texts.into_iter().chain(&mut self.groups).chain(others) {
            if text.len() > LONGEST {
                text.truncate((0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
                text.push('…');
            }
        }
    }
}

impl Audit {
    /// Writes a line.
    pub fn record(&self, mut event: Event) {
        event.cut();
        // Nothing in it can fail to be JSON.
        if let Ok(mut line) = serde_json::to_vec(&event) {
            line.push(b'\n');
            self.log.append(&line);
        }
    }

    /// Answers `/audit`: the lines that the query asks for, the newest last.
    pub async fn answer(&self, uri: &Uri) -> Result<Response<Body>, Status> {
        let filter = query::Filter::parse(uri)?;
        let failed = |why: String| Status::new(Reason::InternalError, format!("the audit log cannot be read: {why}"));
        let _turn = self.log.turn().await;
        let log = self.log.clone();
        // Files are read: not on the runtime's threads.
        let found = tokio::task::spawn_blocking(move || query::find(&log, &filter)).await;
        let lines = found.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        let batches: Vec<Bytes> = lines.chunks(BATCH).map(|lines| lines.concat().into()).collect();
        let mut response = Response::new(Body::from_stream(stream::iter(batches.into_iter().map(Ok::<_, Infallible>))));
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/x-ndjson"));
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_writes_cannot_make_a_line_long_or_two() {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::open(Settings::new(dir.path().to_owned()), &Default::default()).unwrap());
        let audit = Audit { log: log.clone(), level: Level::Writes };
        let nasty = "ü\n\u{1b}[2J\"\u{2028}".repeat(10_000);
        audit.record(Event {
            user: "u".into(),
            user_agent: nasty.clone(),
            name: nasty.clone(),
            groups: vec![nasty; 100],
            ..Event::default()
        });
        log.flush();
        let text = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.len() < 64 << 10 && !text.trim_end().contains(|c: char| c.is_ascii_control()), "{} bytes", text.len());
        assert_eq!(serde_json::from_str::<Event>(&text).unwrap().user, "u");
    }
}
