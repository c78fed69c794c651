//! A request on its way through the server, from its arrival to its answer, and what is told of it.
//!
//! What is told is told when a [`Passage`] is dropped, so that a client that goes away before the answer leaves a trace too.

use crate::{
    error::Status,
    handlers::Api,
    request::Target,
    telemetry::{Counted, RequestLabels},
};
use axum::{
    http::Method,
    response::{IntoResponse, Response},
};
use std::{sync::Arc, time::Instant};

/// What a request is said to be answered with if its client did not wait for the answer.
const GONE_AWAY: u16 = 499;

/// A request on its way through.
pub struct Passage {
    api: Arc<Api>,
    begin: Instant,
    verb: &'static str,
    target: Option<Target>,
    code: u16,
    _in_flight: Counted,
}

impl Passage {
    /// The request is here.
    pub fn begin(api: &Arc<Api>, method: &Method) -> Self {
        let verb = match *method {
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        let in_flight = api.metrics.in_flight(verb != "get");
        Self { api: api.clone(), begin: Instant::now(), verb, target: None, code: GONE_AWAY, _in_flight: in_flight }
    }

    /// It is a request for a kind.
    pub fn leads_to(&mut self, verb: &'static str, target: &Target) {
        self.verb = verb;
        self.target = Some(target.clone());
    }

    /// It is answered.
    pub fn end(mut self, answered: Result<Response, Status>) -> Response {
        let response = answered.unwrap_or_else(IntoResponse::into_response);
        self.code = response.status().as_u16();
        response
    }

    fn labels(&self) -> RequestLabels {
        let (mut group, mut resource, mut subresource) = (String::new(), String::new(), String::new());
        if let Some(Target { def, subresource: named, .. }) = &self.target {
            (group, resource) = (def.group.clone(), def.plural.clone());
            // A name that leads nowhere is whatever a client likes to write.
            if self.code < 300 || (named == "status" && def.has_status) {
                subresource = named.clone();
            }
        }
        RequestLabels { verb: self.verb, group, resource, subresource, code: self.code }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.api.metrics.answered(&self.labels(), self.begin.elapsed().as_secs_f64());
    }
}
