//! `tasks/NAME/log`: what a task wrote down, as text or as a line of JSON each, also of a task that is gone.

use super::{
    board::Board,
    log::{Head, Line, Logs},
};
use axum::{body::Body, response::Response};
use basalt_apiserver::{Status, Subresource, error::Reason};
use basalt_store::StoreError;
use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::{
    collections::{HashMap, VecDeque},
    fmt::Write,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, time::timeout};

/// How often a log that is followed is looked at, besides when it grows through this gateway.
const LOOK: Duration = Duration::from_secs(1);
/// How many last lines may be asked for.
const TAIL: usize = 100_000;

/// Reads the logs of tasks.
pub struct TaskLog {
    /// The logs.
    pub logs: Arc<Logs>,
    /// The tasks that may still write.
    pub board: Arc<Board>,
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
struct Asked {
    follow: bool,
    json: bool,
    since: Option<Timestamp>,
    tail: Option<usize>,
    uid: Option<String>,
}

#[async_trait::async_trait]
impl Subresource for TaskLog {
    async fn get(&self, task: Arc<Value>, query: HashMap<String, String>) -> Result<Response, Status> {
        let asked = asked(&query, Timestamp::now())?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let uid = asked.uid.clone().unwrap_or_else(|| text(&task["metadata"]["uid"]));
        let head = self.logs.find(&text(&task["metadata"]["namespace"]), &text(&task["metadata"]["name"]), Some(&uid)).await;
        let truncated = head.map_err(|error| unreadable(&error))?.is_some_and(|head| head.truncated);
        let ended = task["status"]["finishedAt"].is_string() && task["status"]["stopping"] != true;
        self.answer(uid, Asked { follow: asked.follow && !ended && !truncated, ..asked }).await
    }

    async fn get_of_gone(&self, namespace: Option<&str>, name: &str, query: HashMap<String, String>) -> Result<Option<Response>, Status> {
        let asked = asked(&query, Timestamp::now())?;
        let head = self.logs.find(namespace.unwrap_or_default(), name, asked.uid.as_deref()).await.map_err(|error| unreadable(&error))?;
        match head {
            // Nobody writes it any more.
            Some(Head { uid, .. }) => self.answer(uid, Asked { follow: false, ..asked }).await.map(Some),
            None => Ok(None),
        }
    }
}

impl TaskLog {
    async fn answer(&self, uid: String, asked: Asked) -> Result<Response, Status> {
        let kind = if asked.json { "application/x-ndjson" } else { "text/plain; charset=utf-8" };
        let mut after: Option<Bytes> = None;
        let mut first = Bytes::new();
        if let Some(tail) = asked.tail {
            let mut last = VecDeque::new();
            loop {
                let (lines, next) = self.logs.read(&uid, after.clone()).await.map_err(|error| unreadable(&error))?;
                if next == after {
                    break;
                }
                after = next;
                for line in lines.into_iter().filter(|line| asked.since.is_none_or(|since| line.time >= since)) {
                    if last.len() >= tail {
                        last.pop_front();
                    }
                    last.push_back(line);
                }
            }
            first = shown(last.make_contiguous(), &asked);
        }
        let reader =
            Reader { logs: self.logs.clone(), board: self.board.clone(), growth: self.logs.follow(&uid), uid, after, asked, ended: false };
        let state = (reader, Some(first));
        let body = stream::unfold(state, |(mut reader, first)| async move {
            if let Some(first) = first.filter(|first| !first.is_empty()) {
                return Some((Ok(first), (reader, None)));
            }
            let next = reader.next().await?;
            Some((next, (reader, None)))
        });
        let mut response = Response::new(Body::from_stream(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }
}

/// A log that is being read.
struct Reader {
    logs: Arc<Logs>,
    board: Arc<Board>,
    growth: watch::Receiver<u64>,
    uid: String,
    after: Option<Bytes>,
    asked: Asked,
    ended: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<Bytes, StoreError>> {
        while !self.ended {
            // Seen before it is read: what is written before the end is told.
            let last = !self.asked.follow || self.board.has_ended(&self.uid);
            self.growth.mark_unchanged();
            match self.logs.read(&self.uid, self.after.clone()).await {
                Ok((lines, next)) if next != self.after => {
                    self.after = next;
                    return Some(Ok(shown(&lines, &self.asked)));
                }
                Ok(_) if last => return None,
                // Whichever comes first: it grows here, or it is time to see whether it has grown elsewhere.
                Ok(_) => drop(timeout(LOOK, self.growth.changed()).await),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

fn shown(lines: &[Line], asked: &Asked) -> Bytes {
    let mut text = String::new();
    for line in lines.iter().filter(|line| asked.since.is_none_or(|since| line.time >= since)) {
        if asked.json {
            text.push_str(&serde_json::to_string(line).unwrap_or_default());
        } else {
            let step = if line.step.is_empty() { String::new() } else { format!("[{}] ", line.step) };
            // Writing to a text does not fail.
            let _ = write!(text, "{:.3} {:<5} {step}{}", line.time, line.level.to_uppercase(), line.text);
        }
        text.push('\n');
    }
    text.into()
}

fn asked(query: &HashMap<String, String>, now: Timestamp) -> Result<Asked, Status> {
    let given = |name: &str| query.get(name).filter(|text| !text.is_empty());
    let flag = |name: &'static str| match given(name).map(String::as_str) {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(text) => Err(wrong(name, text, "true or false")),
    };
    let json = match given("format").map(String::as_str) {
        None | Some("text") => false,
        Some("json") => true,
        Some(text) => return Err(wrong("format", text, "text or json")),
    };
    let since_time = given("sinceTime").map(|text| text.parse().map_err(|_| wrong("sinceTime", text, "a time of RFC 3339"))).transpose()?;
    let since_seconds = given("sinceSeconds")
        .map(|text| text.parse::<u32>().map_err(|_| wrong("sinceSeconds", text, "a whole number of seconds")))
        .transpose()?;
    let ago = since_seconds.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds.into())).ok());
    let tail = given("tailLines")
        .map(|text| text.parse().ok().filter(|lines| *lines <= TAIL).ok_or_else(|| wrong("tailLines", text, "a whole number up to 100000")))
        .transpose()?;
    Ok(Asked { follow: flag("follow")?, json, since: since_time.or(ago), tail, uid: given("uid").cloned() })
}

fn wrong(parameter: &str, text: &str, expected: &str) -> Status {
    Status::new(Reason::BadRequest, format!("the query parameter {parameter} is {text:?}: expected {expected}"))
}

fn unreadable(error: &StoreError) -> Status {
    Status::new(Reason::ServiceUnavailable, format!("the log of the task cannot be read: {error}"))
}
