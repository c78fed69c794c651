//! A request on its way through the server, from its arrival to its answer, and what is told of it.
//!
//! What is told is told when a [`Passage`] is dropped, so that a client that goes away before the answer leaves a trace too.

use crate::{
    access::review,
    audit::{Event, Level, Somebody},
    error::{Reason, Status},
    handlers::Api,
    identity::Identity,
    origin::InProcess,
    request::Target,
    telemetry::{Counted, RequestLabels},
};
use axum::{
    extract::Request,
    http::{HeaderValue, Method, Uri, header},
    response::{IntoResponse, Response},
};
use basalt_daemon::traces;
use jiff::Timestamp;
use std::{net::SocketAddr, sync::Arc, time::Instant};
use tracing::{Span, field::Empty};

/// What a request is said to be answered with if its client did not wait for the answer.
const GONE_AWAY: u16 = 499;
/// Names the request in its answer and in the audit log, as in Kubernetes.
const AUDIT_ID: &str = "audit-id";

/// The name of an object that was made: put into the answer by whoever made it, for the path does not name it.
#[derive(Clone)]
pub struct Made(pub String);

/// Nothing was written: put into the answer by whoever found that in the body.
#[derive(Clone)]
pub struct Tried;

/// A request on its way through.
pub struct Passage {
    api: Arc<Api>,
    begin: Instant,
    time: Timestamp,
    id: String,
    uri: Uri,
    user_agent: Option<HeaderValue>,
    source: Option<SocketAddr>,
    in_process: Option<InProcess>,
    identity: Option<Identity>,
    acting_as: Option<Identity>,
    verb: &'static str,
    target: Option<Target>,
    code: u16,
    reason: Option<Reason>,
    made: Option<String>,
    dry_run: bool,
    span: Span,
    _in_flight: Counted,
}

impl Passage {
    /// The request is here.
    pub fn begin(api: &Arc<Api>, request: &Request) -> Self {
        let verb = match *request.method() {
            Method::GET | Method::HEAD => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "other",
        };
        let in_process = request.extensions().get::<InProcess>().cloned();
        let span = span(request.method(), in_process.is_some());
        if in_process.is_none() {
            traces::follow(&span, request.headers());
        }
        Self {
            begin: Instant::now(),
            time: Timestamp::now(),
            id: api.request_ids.next(),
            uri: request.uri().clone(),
            user_agent: request.headers().get(header::USER_AGENT).cloned(),
            source: request.extensions().get().copied(),
            in_process,
            identity: None,
            acting_as: None,
            verb,
            target: None,
            code: GONE_AWAY,
            reason: None,
            made: None,
            dry_run: request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "dryRun=All")),
            span,
            _in_flight: api.metrics.in_flight(verb != "get"),
            api: api.clone(),
        }
    }

    /// What is traced of it.
    pub fn span(&self) -> Span {
        self.span.clone()
    }

    /// It does not come over the network.
    pub fn is_in_process(&self) -> bool {
        self.in_process.is_some()
    }

    /// It is known who asks.
    pub fn asked_by(&mut self, identity: Option<&Identity>) {
        self.identity = identity.cloned();
    }

    /// Who asks would act as somebody else.
    pub fn acts_as(&mut self, other: &Identity) {
        self.acting_as = Some(other.clone());
    }

    /// It is a request for a kind.
    pub fn leads_to(&mut self, verb: &'static str, target: &Target) {
        self.verb = verb;
        self.target = Some(target.clone());
    }

    /// It is answered.
    pub fn end(mut self, answered: Result<Response, Status>) -> Response {
        if let Err(status) = &answered {
            self.reason = Some(status.reason);
            self.made = status.details.as_ref().map(|details| details.name.clone());
        }
        let mut response = answered.unwrap_or_else(IntoResponse::into_response);
        self.code = response.status().as_u16();
        if let Some(Made(name)) = response.extensions_mut().remove() {
            self.made = Some(name);
        }
        self.dry_run |= response.extensions_mut().remove::<Tried>().is_some();
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        if self.in_process.is_none() {
            traces::carry(&self.span, response.headers_mut());
        }
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

    fn is_worth_a_line(&self, level: Level) -> bool {
        let asks = self.target.as_ref().is_some_and(|target| review::is_review(&target.def));
        let writes = !asks && !matches!(self.verb, "get" | "list" | "watch");
        let denied = matches!(self.code, 401 | 403);
        let renews = self.in_process.is_some()
            && self.code < 300
            && matches!(self.verb, "update" | "patch")
            && self.target.as_ref().is_some_and(|target| target.def.plural == "leases" && target.def.group == "coordination.k8s.io");
        // What was too much would push out of the log what was done.
        let too_many = self.reason == Some(Reason::TooManyRequests);
        // A backup is a read of everything that there is.
        let takes_all = self.target.is_none() && self.uri.path() == "/backup";
        level == Level::All || denied || takes_all || (writes && !renews && !too_many)
    }

    /// What the trace tells, which is less than the audit log does: nothing that a path or a query says but what leads to a kind.
    fn record(&self) {
        let (span, labels) = (&self.span, self.labels());
        let what = if labels.resource.is_empty() { self.uri.path() } else { &labels.resource };
        // Of paths that lead nowhere there are as many as clients like.
        let what = if labels.resource.is_empty() && self.code >= 300 { "" } else { what };
        let part = if labels.subresource.is_empty() { String::new() } else { format!("/{}", labels.subresource) };
        traces::rename(span, format!("{} {what}{part}", labels.verb).trim_end().to_owned());
        span.record("http.response.status_code", self.code);
        span.record("basalt.verb", labels.verb);
        span.record("basalt.audit_id", self.id.as_str());
        if self.code >= 500 {
            span.record("otel.status_code", "ERROR");
        }
        if let Some(identity) = &self.identity {
            span.record("user.name", identity.user.as_str());
        }
        if let Some(target) = &self.target {
            span.record("basalt.group", labels.group);
            span.record("basalt.resource", labels.resource);
            span.record("basalt.subresource", labels.subresource);
            span.record("basalt.namespace", target.namespace.as_deref().unwrap_or_default());
            span.record("basalt.name", target.name.as_deref().or(self.made.as_deref()).unwrap_or_default());
        }
        if let Some(reason) = self.reason {
            span.record("error.type", tracing::field::debug(reason));
        }
    }

    fn event(&mut self) -> Event {
        let identity = self.identity.take().unwrap_or_else(Identity::anonymous);
        let mut event = Event {
            time: self.time,
            id: std::mem::take(&mut self.id),
            user: identity.user,
            groups: identity.groups,
            impersonated: self.acting_as.take().map(|other| Somebody { user: other.user, groups: other.groups }),
            verb: self.verb.to_owned(),
            dry_run: self.dry_run,
            source: self.source.map(|source| source.to_string()).unwrap_or_default(),
            user_agent: self.user_agent.as_ref().map(|agent| String::from_utf8_lossy(agent.as_bytes()).into_owned()).unwrap_or_default(),
            code: self.code,
            reason: self.reason,
            milliseconds: Some((self.begin.elapsed().as_secs_f64() * 1e6).round() / 1e3),
            cause: self.in_process.take().and_then(|origin| origin.trigger),
            ..Event::default()
        };
        match self.target.take() {
            None => event.path = self.uri.path().to_owned(),
            Some(target) => {
                (event.group, event.resource) = (target.def.group.clone(), target.def.plural.clone());
                event.namespace = target.namespace.unwrap_or_default();
                event.name = target.name.or(self.made.take()).unwrap_or_default();
                event.subresource = target.subresource;
            }
        }
        event
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.api.metrics.answered(&self.labels(), self.begin.elapsed().as_secs_f64());
        if !self.span.is_disabled() {
            self.record();
        }
        if let Some(audit) = self.api.audit.clone().filter(|audit| self.is_worth_a_line(audit.level)) {
            audit.record(self.event());
        }
    }
}

fn span(method: &Method, in_process: bool) -> Span {
    tracing::info_span!(
        target: traces::TARGET,
        "request",
        otel.kind = if in_process { "internal" } else { "server" },
        otel.status_code = Empty,
        http.request.method = %method,
        http.response.status_code = Empty,
        error.type = Empty,
        user.name = Empty,
        basalt.verb = Empty,
        basalt.group = Empty,
        basalt.resource = Empty,
        basalt.subresource = Empty,
        basalt.namespace = Empty,
        basalt.name = Empty,
        basalt.audit_id = Empty,
    )
}
