//! `virtualmachines/log`: the serial console of a VM, read from its host.

use super::tunnel::Tunnels;
use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::Response,
};
use basalt_apiserver::{Status, Subresource, error::Reason};
use basalt_proto::v1::{ReadConsole, tunnel_request::Request};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::Value;
use std::{collections::HashMap, io, sync::Arc, time::Duration};

/// How long the host may take for its first answer before the response begins without one.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

/// Answers `GET .../virtualmachines/NAME/log?follow=true&tailLines=N`.
pub struct ConsoleLog {
    tunnels: Arc<Tunnels>,
}

impl ConsoleLog {
    /// Reads through these tunnels.
    pub fn new(tunnels: Arc<Tunnels>) -> Self {
        Self { tunnels }
    }
}

#[async_trait::async_trait]
impl Subresource for ConsoleLog {
    async fn get(&self, object: Arc<Value>, query: HashMap<String, String>) -> Result<Response, Status> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (uid, name, host) = (text(&object["metadata"]["uid"]), text(&object["metadata"]["name"]), text(&object["status"]["host"]));
        if host.is_empty() {
            return Err(Status::new(Reason::BadRequest, format!("VM {name:?} is not placed on a host yet, so it has no console log")));
        }
        let tail_lines = match query.get("tailLines").map(|n| n.parse::<u64>()) {
            None => None,
            Some(Ok(lines)) => Some(lines),
            Some(Err(_)) => {
                return Err(Status::new(Reason::BadRequest, "the query parameter tailLines is not valid: expected a whole number"));
            }
        };
        let follow = query.get("follow").is_some_and(|follow| matches!(follow.as_str(), "true" | "1"));
        let unavailable =
            |reason: String| Status::new(Reason::ServiceUnavailable, format!("the console log of VM {name:?} cannot be read: {reason}"));
        let request = Request::ReadConsole(ReadConsole { vm_uid: uid, tail_lines, follow });
        let mut answers = self.tunnels.ask(&host, request).await.map_err(|e| unavailable(e.to_string()))?;
        // A host that refuses says so in the response's code, not in its middle.
        let first = match tokio::time::timeout(FIRST_ANSWER, answers.next()).await {
            Ok(Some(Err(reason))) => return Err(unavailable(format!("host {host}: {reason}"))),
            Ok(first) => Some(first),
            Err(_) if follow => None,
            Err(_) => return Err(unavailable(format!("host {host} does not answer within {} s", FIRST_ANSWER.as_secs()))),
        };
        let ended = matches!(first, Some(None));
        let first = stream::iter(first.flatten());
        let rest = if ended { stream::empty().boxed() } else { answers.boxed() };
        let body = first.chain(rest).map(|chunk: Result<Bytes, String>| chunk.map_err(io::Error::other));
        let mut response = Response::new(Body::from_stream(body));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        Ok(response)
    }
}
