//! Subresources that the gateway serves itself, such as the serial console at `virtualmachines/log`.
//!
//! The API server finds the object and asks whether the asker may; the rest of the answer is the subresource's own.

use crate::Status;
use axum::response::Response;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// Answers `GET .../<plural>/<name>/<subresource>`.
#[async_trait::async_trait]
pub trait Subresource: Send + Sync + 'static {
    /// The answer for an object that exists; `query` holds the parameters of the request.
    async fn get(&self, object: Arc<Value>, query: HashMap<String, String>) -> Result<Response, Status>;
}
