//! `virtualmachines/NAME/log`: the serial console of a VM as text, from the host that it is placed on.

use super::tunnel::{AnswerStream, TunnelError, Tunnels};
use axum::{body::Body, response::Response};
use basalt_api::GROUP;
use basalt_apiserver::{Status, Subresource, error::Reason};
use basalt_proto::v1::ReadConsole;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderValue, header};
use serde_json::Value;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a host may take to begin its answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// The same when the console is followed: a guest that prints nothing is no error, so the answer begins without it.
const FIRST_FOLLOWED: Duration = Duration::from_secs(1);

/// Reads consoles through the hosts' tunnels.
pub struct ConsoleLog {
    /// The hosts that are connected.
    pub tunnels: Arc<Tunnels>,
}

#[async_trait::async_trait]
impl Subresource for ConsoleLog {
    async fn get(&self, vm: Arc<Value>, query: HashMap<String, String>) -> Result<Response, Status> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (tail_lines, follow) = (tail_lines(&query)?, follow(&query)?);
        let (name, host) = (text(&vm["metadata"]["name"]), text(&vm["status"]["host"]));
        if host.is_empty() {
            let text = format!("VM {name:?} is not placed on a host yet, so it has no console log; see basaltctl describe vm/{name}");
            return Err(Status::new(Reason::BadRequest, text));
        }
        let request = ReadConsole { vm_uid: text(&vm["metadata"]["uid"]), tail_lines, follow };
        let mut answer = self.tunnels.read_console(&host, request).map_err(|error| refused(&name, &error))?;
        let wait = if follow { FIRST_FOLLOWED } else { FIRST_ANSWER };
        let first = match timeout(wait, answer.next()).await {
            Ok(Some(Err(error))) => return Err(refused(&name, &error)),
            Ok(first) => first.and_then(Result::ok),
            Err(_) if follow => Some(Bytes::new()),
            Err(_) => {
                let text = format!("virtualmachines.{GROUP} {name:?}: host {host} did not begin to answer within {} s", wait.as_secs());
                return Err(Status::new(Reason::Timeout, text));
            }
        };
        Ok(plain_text(first, answer))
    }
}

fn plain_text(first: Option<Bytes>, rest: AnswerStream) -> Response {
    let chunks = stream::iter(first.map(Ok)).chain(rest);
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn tail_lines(query: &HashMap<String, String>) -> Result<Option<u64>, Status> {
    let lines = query.get("tailLines").filter(|text| !text.is_empty());
    lines.map(|text| text.parse().map_err(|_| wrong("tailLines", text, "a whole number"))).transpose()
}

fn follow(query: &HashMap<String, String>) -> Result<bool, Status> {
    match query.get("follow").map(String::as_str) {
        None | Some("" | "false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(text) => Err(wrong("follow", text, "true or false")),
    }
}

fn wrong(parameter: &str, text: &str, expected: &str) -> Status {
    Status::new(Reason::BadRequest, format!("the query parameter {parameter} is {text:?}: expected {expected}"))
}

fn refused(name: &str, error: &TunnelError) -> Status {
    unavailable(name, &error.to_string())
}

fn unavailable(name: &str, why: &str) -> Status {
    Status::new(Reason::ServiceUnavailable, format!("the console of virtualmachines.{GROUP} {name:?} cannot be read: {why}"))
}
