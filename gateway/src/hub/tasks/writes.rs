//! What the hub writes into the status of a task: only of the newest attempt, however the task changes meanwhile.

use super::board::Known;
use basalt_api::{
    Task,
    task::{Progress, Reported},
};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};

/// How many late results a task keeps.
const LATE: usize = 8;
/// How often it is tried to write what others keep changing.
const TRIES: usize = 8;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// It is in the API.
    Done,
    /// The attempt is not the newest any more, or the task is gone.
    Outdated,
}

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The API refused or did not answer.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// The API did not answer in time.
    #[error("the API did not answer in time")]
    Late,
    /// The status cannot be encoded.
    #[error("cannot encode the status of a task: {0}")]
    Encode(#[from] serde_json::Error),
    /// The request cannot be made.
    #[error("cannot make a request: {0}")]
    Request(#[from] http::Error),
}

/// Writes what a host says of an attempt, if that is the newest.
pub async fn report(client: &Client, task: &Known, reported: &Reported) -> Result<Wrote, WriteError> {
    patch(client, task, &reported.token, "reported", serde_json::to_value(reported)?).await
}

/// Writes how far an attempt is, if that is the newest.
pub async fn progress(client: &Client, task: &Known, token: &str, progress: &Progress) -> Result<Wrote, WriteError> {
    patch(client, task, token, "progress", serde_json::to_value(progress)?).await
}

async fn patch(client: &Client, task: &Known, token: &str, field: &str, value: Value) -> Result<Wrote, WriteError> {
    let patch = json!([
        { "op": "test", "path": "/status/token", "value": token },
        { "op": "add", "path": format!("/status/{field}"), "value": value },
    ]);
    let Known { namespace, name, .. } = task;
    let path = format!("/apis/basalt.dev/v1alpha1/namespaces/{namespace}/tasks/{name}/status");
    let request = http::Request::patch(path).header(http::header::CONTENT_TYPE, "application/json-patch+json");
    match client.request::<Value>(request.body(serde_json::to_vec(&patch)?)?).await {
        Ok(_) => Ok(Wrote::Done),
        // 422: the test of the token fails, or there is none.
        Err(kube::Error::Api(status)) if status.code == 422 || status.is_not_found() => Ok(Wrote::Outdated),
        Err(error) => Err(error.into()),
    }
}

/// Keeps the result of an attempt that had been given up, for people to see.
pub async fn late(client: &Client, task: &Known, reported: &Reported) -> Result<(), WriteError> {
    let tasks: Api<Task> = Api::namespaced(client.clone(), &task.namespace);
    for _ in 0..TRIES {
        let Some(mut found) = tasks.get_opt(&task.name).await? else { return Ok(()) };
        let status = found.status.get_or_insert_default();
        if status.late_results.iter().any(|known| known.token == reported.token) || status.late_results.len() >= LATE {
            return Ok(());
        }
        status.late_results.push(reported.clone());
        match tasks.replace_status(&task.name, &PostParams::default(), &found).await {
            Err(kube::Error::Api(status)) if status.is_conflict() => {}
            Err(kube::Error::Api(status)) if status.is_not_found() => return Ok(()),
            other => return other.map(drop).map_err(WriteError::from),
        }
    }
    Ok(())
}
