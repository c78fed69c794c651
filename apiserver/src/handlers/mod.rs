//! The verbs on kinds.

pub mod checks;
pub mod delete;
pub mod read;
pub mod scale;
pub mod watch;
pub mod write;

use crate::{
    access::Access,
    apply::Manager,
    audit::Audit,
    error::{Reason, Status},
    identity::Identity,
    limits::Gate,
    negotiate::Form,
    object::Object,
    origin::RequestIds,
    registry::{Registry, ResourceDef},
    request::{Query, Target},
    schema::Schema,
    storage::Storage,
    table,
    telemetry::Metrics,
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use basalt_store::Store;
use jiff::Timestamp;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What the handlers work with.
pub struct Api {
    /// The kinds that are served now. A request uses those that there were when it came.
    pub kinds: tokio::sync::watch::Sender<Arc<Registry>>,
    pub storage: Storage,
    /// The store without the encryption of Secrets.
    pub raw: Arc<dyn Store>,
    pub access: Access,
    /// The revision up to which the definitions of kinds are in effect.
    pub defined: tokio::sync::watch::Sender<u64>,
    pub metrics: Metrics,
    pub audit: Option<Audit>,
    pub request_ids: RequestIds,
    pub gate: Arc<Gate>,
    pub shutdown: CancellationToken,
}

/// A request for a kind, with all that its handler may need.
pub struct Asked<'a> {
    pub target: &'a Target,
    pub identity: &'a Identity,
    pub query: &'a Query,
    pub headers: &'a HeaderMap,
    pub form: Form,
}

impl Api {
    /// The kinds that are served now.
    pub fn registry(&self) -> Arc<Registry> {
        self.kinds.borrow().clone()
    }

    /// The schema of a kind.
    pub fn schema(&self, def: &ResourceDef) -> Result<Arc<Schema>, Status> {
        let registry = self.kinds.borrow();
        let schema = registry.schema(&def.group, &def.version, &def.plural).cloned();
        schema.ok_or_else(|| Status::new(Reason::NotFound, format!("{} in version {} are not served any more", def.plural, def.version)))
    }

    /// The time, to the second: no wire format carries more for an object.
    pub fn now(&self) -> Timestamp {
        let now = Timestamp::now();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }
}

impl Asked<'_> {
    /// The media type of the body.
    pub fn content_type(&self) -> Option<&str> {
        self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
    }

    /// Who writes: as the request says, or the program that sent it.
    pub fn manager(&self) -> Result<Manager<'_>, Status> {
        let agent = self.headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok()).and_then(|v| v.split('/').next());
        let name = self.query.text("fieldManager").or(agent).filter(|name| !name.is_empty()).unwrap_or("unknown");
        if name.len() > 128 || name.chars().any(char::is_control) {
            return Err(Status::new(Reason::BadRequest, format!("fieldManager {name:?} is not valid: at most 128 printable characters")));
        }
        Ok(Manager { name, subresource: &self.target.subresource })
    }
}

/// An answer in JSON.
pub fn json(code: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// One object in the form that was asked for.
pub fn object(asked: &Asked<'_>, code: StatusCode, object: &Arc<Object>) -> Response<Body> {
    let object = asked.target.in_version(object);
    match asked.form {
        Form::Objects => json(code, object.json.clone()),
        Form::Metadata => json(code, table::partial(&object.value()).to_string()),
        Form::Table => {
            let metadata = serde_json::json!({ "resourceVersion": object.value()["metadata"]["resourceVersion"] });
            let options = table::Options { include_object: read::include_object(asked.query), no_headers: false };
            json(code, table::render(&asked.target.def, &[object.value()], metadata, options, Timestamp::now()).to_string())
        }
    }
}
