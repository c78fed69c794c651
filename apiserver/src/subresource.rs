//! Subresources that somebody else answers: what only the gateway can get, such as the console log of a VM.

use crate::Status;
use axum::response::Response;
use serde_json::Value;
use std::{collections::HashMap, sync::Arc};

/// Answers GET on a subresource of a kind.
#[async_trait::async_trait]
pub trait Subresource: Send + Sync + 'static {
    /// Answers for an object that exists, to somebody who may get it. `query` is the request's.
    async fn get(&self, object: Arc<Value>, query: HashMap<String, String>) -> Result<Response, Status>;

    /// Answers for an object that does not exist, if something of it is left; none if there is not.
    async fn get_of_gone(
        &self,
        _namespace: Option<&str>,
        _name: &str,
        _query: HashMap<String, String>,
    ) -> Result<Option<Response>, Status> {
        Ok(None)
    }
}
