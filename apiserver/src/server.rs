//! The API server: starts the cache and the garbage collector, and leads each request to its handler.

use crate::{
    access::{
        self, Access, Authorizer,
        bootstrap::BuiltinRole,
        impersonation, review,
        standing::{Caller, Standing},
    },
    apply::Manager,
    audit::Audit,
    backup,
    cache::Cache,
    compression,
    definitions::{self, Follower},
    discovery,
    error::{Reason, Status},
    fence::Fence,
    gc,
    handlers::{Api, Asked, json},
    health,
    identity::{Identity, Wanted},
    keys,
    limits::{Class, Gate, Limits},
    namespace, negotiate, openapi,
    origin::RequestIds,
    passage::Passage,
    registry::{Registry, ResourceDef},
    request::{self, Query, Target},
    schema::SchemaError,
    secret::{
        self,
        seal::{Keys, SealError, Sealed},
    },
    storage::Storage,
    telemetry::{self, Metrics, Timed},
};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use basalt_store::{Store, StoreError};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// How the API server is started.
#[derive(Clone, Default)]
pub struct Options {
    /// Namespaces that are made at the start if they are not there, besides `default`.
    pub namespaces: Vec<String>,
    /// Ends the watches and the work in the background.
    pub shutdown: CancellationToken,
    /// What `/metrics` tells; the API server adds its own.
    pub metrics: Metrics,
    /// How much may be asked.
    pub limits: Limits,
    /// Where requests are written down, if they are.
    pub audit: Option<Audit>,
    /// What Secrets are encrypted with; without keys there is no such kind.
    pub keys: Option<Keys>,
    /// Roles that are made at the start if they are not there.
    pub roles: Vec<BuiltinRole>,
    /// Those who allow what no role does.
    pub authorizers: Vec<Arc<dyn Authorizer>>,
}

/// The API server cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The objects cannot be read.
    #[error("cannot load the objects: {0}")]
    Store(#[from] StoreError),
    /// What is there is only a part of a backup.
    #[error("a restore into this store did not end: do it again, and what is there now is replaced")]
    Unfinished,
    /// A kind cannot be served.
    #[error("cannot serve {plural}: {source}")]
    Schema {
        /// Plural name of the kind.
        plural: String,
        /// What is wrong with its schema.
        source: SchemaError,
    },
    /// A namespace cannot be made.
    #[error("cannot make the namespace {name}: {status}")]
    Namespace {
        /// The namespace.
        name: String,
        /// Why.
        status: Box<Status>,
    },
    /// The definitions of kinds cannot be made or read.
    #[error("cannot serve the definitions of kinds: {0}")]
    Definitions(Box<Status>),
    /// The Secrets in the store cannot be read, or not be written.
    #[error("the keys of Secrets are not those of this store: {0}")]
    Seal(#[from] SealError),
    /// The built-in roles cannot be made.
    #[error("cannot make the built-in roles: {0}")]
    Roles(Box<Status>),
}

/// A running API server.
#[derive(Clone)]
pub struct ApiServer {
    api: Arc<Api>,
}

impl ApiServer {
    /// Loads all objects and starts what runs in the background.
    pub async fn start(store: Arc<dyn Store>, mut registry: Registry, options: Options) -> Result<Self, StartError> {
        if backup::is_unfinished(&*store).await? {
            return Err(StartError::Unfinished);
        }
        if let Some(keys) = &options.keys {
            keys.take_up(&*store).await?;
            registry.add(secret::definition());
        }
        registry.compile().map_err(|(def, source)| StartError::Schema { plural: def.plural.clone(), source })?;
        let metrics = options.metrics;
        let gate = Gate::new(&options.limits, &metrics);
        let raw: Arc<dyn Store> = Arc::new(Timed::new(store, metrics.clone()));
        let store = options.keys.map_or_else(|| raw.clone(), |keys| Arc::new(Sealed::new(raw.clone(), keys)) as Arc<dyn Store>);
        let kinds = registry.iter().map(|def| (def.group.clone(), def.plural.clone()));
        let cache = Cache::start(store.clone(), kinds, options.shutdown.clone()).await?;
        let access = Access::new(cache.clone(), options.authorizers);
        let api = Arc::new(Api {
            kinds: watch::Sender::new(Arc::new(registry)),
            storage: Storage { store, cache },
            raw,
            access,
            defined: watch::Sender::new(0),
            metrics,
            audit: options.audit,
            request_ids: RequestIds::default(),
            gate,
            shutdown: options.shutdown,
        });
        for name in [namespace::DEFAULT.to_owned()].into_iter().chain(options.namespaces) {
            api.ensure_namespace(&name).await.map_err(|status| StartError::Namespace { name, status: Box::new(status) })?;
        }
        api.ensure_roles(&options.roles).await.map_err(|status| StartError::Roles(Box::new(status)))?;
        let definitions = |status| StartError::Definitions(Box::new(status));
        api.ensure_definitions().await.map_err(definitions)?;
        let mut follower = Follower::new(api.clone());
        follower.take_in().await.map_err(definitions)?;
        tokio::spawn(definitions::run(follower));
        tokio::spawn(gc::run(api.clone()));
        Ok(Self { api })
    }

    /// Answers requests. Each carries its [`Identity`] in its extensions; one without is refused.
    pub fn router(&self) -> Router {
        Router::new().fallback(dispatch).with_state(self.api.clone()).layer(compression::layer())
    }
}

impl Api {
    async fn ensure_namespace(&self, name: &str) -> Result<(), Status> {
        let Some(def) = self.registry().get("", "v1", "namespaces").cloned() else { return Ok(()) };
        if self.storage.get(&def, name).await?.is_some() {
            return Ok(());
        }
        let mut namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": self.now().to_string(), "generation": 1 },
        });
        namespace::complete(&mut namespace, None);
        crate::apply::record_update(None, &mut namespace, &def, Manager { name: "basalt", subresource: "" }, self.now());
        // Another gateway may have made it meanwhile.
        self.storage.create(&def, &keys::place(None, name), namespace).await.map(drop)
    }
}

async fn dispatch(State(api): State<Arc<Api>>, request: Request) -> Response {
    if let Some(answer) = health::answer(&api, request.uri()).await {
        return answer;
    }
    let fence = request.extensions().get::<Fence>().cloned();
    let mut passage = Passage::begin(&api, &request);
    let span = passage.span();
    let answered = Fence::around(fence, answer(&api, request, &mut passage)).instrument(span).await;
    passage.end(answered)
}

async fn answer(api: &Arc<Api>, request: Request, passage: &mut Passage) -> Result<Response, Status> {
    let path = request.uri().path().to_owned();
    if path == "/version" {
        return Ok(document(&discovery::version()));
    }
    // A certificate goes before a token, as in Kubernetes.
    let known = match request.extensions().get::<Identity>().cloned() {
        Some(identity) => Ok(Some((identity, None))),
        None => api.authenticate(request.headers()).await.map(|known| known.map(|(identity, pass)| (identity, Some(pass)))),
    };
    // Whose credentials are no good is nobody known, so that guessing has its limit too.
    let asker = known.as_ref().ok().and_then(Option::as_ref).map(|(identity, _)| identity);
    passage.asked_by(asker);
    let class = if [Method::GET, Method::HEAD].contains(request.method()) { Class::Reading } else { Class::Writing };
    let _place = match passage.is_in_process() {
        true => None,
        false => Some(api.gate.admit(asker, class).await?),
    };
    let Some((identity, pass)) = known? else {
        let what = "Unauthorized: neither a client certificate of this control plane's CA nor a bearer token was given";
        return Err(Status::new(Reason::Unauthorized, what));
    };
    let own = identity.known();
    let caller = match impersonation::wanted(request.headers())? {
        None => Caller { identity: own, impersonator: None, pass },
        Some(other) => {
            passage.acts_as(&other);
            for need in impersonation::needs(&other) {
                api.authorize(&own, &Wanted::Resource(need)).await?;
            }
            Caller { identity: impersonation::taken_on(other.clone()), impersonator: Some((own, other)), pass }
        }
    };
    let identity = &caller.identity;
    let verb = request.method().as_str().to_ascii_lowercase();
    let reading = Wanted::Path { verb: &verb, path: &path };
    if path == "/backup" && request.method() == Method::GET {
        api.authorize(identity, &reading).await?;
        return backup::answer(&*api.raw).await;
    }
    if path == "/metrics" {
        api.authorize(identity, &reading).await?;
        return metrics(api, request.headers()).await;
    }
    if path == "/audit" {
        api.authorize(identity, &reading).await?;
        let off = || Status::new(Reason::NotFound, "this server keeps no audit log");
        return api.audit.as_ref().ok_or_else(off)?.answer(request.uri()).await;
    }
    for newest in [false, true] {
        if newest {
            // It may be of a definition that has just been made, here or by another server.
            api.definitions_settle().await?;
        }
        let registry = api.registry();
        if let Some(found) = describe(&registry, &request, &path) {
            api.authorize(identity, &reading).await?;
            if request.method() != Method::GET && request.method() != Method::HEAD {
                return Err(Status::new(Reason::MethodNotAllowed, format!("{path} knows only GET")));
            }
            return Ok(found);
        }
        if let Some(target) = Target::parse(&registry, &path)? {
            return serve(api, request, target, &caller, passage).await;
        }
    }
    Err(Status::new(Reason::NotFound, "the server could not find the requested resource"))
}

async fn metrics(api: &Api, headers: &HeaderMap) -> Result<Response, Status> {
    // That the store does not answer is told by its not being told.
    api.metrics.revisions(api.storage.store.revision().await.ok(), api.storage.cache.revision());
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let openmetrics = accepted.contains("application/openmetrics-text");
    let text = api.metrics.text(openmetrics).map_err(|_| Status::new(Reason::InternalError, "the metrics cannot be encoded"))?;
    let type_ = if openmetrics { telemetry::OPENMETRICS } else { telemetry::PLAIN };
    Ok(([(header::CONTENT_TYPE, type_)], text).into_response())
}

/// What is said of the kinds, as against of objects.
fn describe(registry: &Registry, request: &Request, path: &str) -> Option<Response> {
    let aggregated = negotiate::wants_aggregated_discovery(request.headers());
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let said = match segments.as_slice() {
        ["api"] if aggregated => Some(discovery::aggregated(registry, true)),
        ["apis"] if aggregated => Some(discovery::aggregated(registry, false)),
        ["api"] => Some(discovery::api_versions()),
        ["apis"] => Some(discovery::api_groups(registry)),
        ["api", version] => discovery::resources(registry, "", version),
        ["apis", group] => discovery::group(registry, group),
        ["apis", group, version] => discovery::resources(registry, group, version),
        ["openapi", rest @ ..] => return openapi::answer(registry, &rest.join("/"), request.uri(), request.headers()),
        _ => None,
    };
    said.as_ref().map(document)
}

fn document(value: &Value) -> Response {
    let aggregated = value["kind"] == "APIGroupDiscoveryList";
    let mut response = json(StatusCode::OK, value.to_string());
    if aggregated {
        let type_ = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(type_));
    }
    response
}

async fn serve(api: &Arc<Api>, request: Request, target: Target, caller: &Caller, passage: &mut Passage) -> Result<Response, Status> {
    let identity = &caller.identity;
    let (parts, body) = request.into_parts();
    let query = Query::parse(&parts.uri)?;
    let watch = query.flag("watch")?;
    let verb = match (&parts.method, &target.name) {
        (&Method::GET | &Method::HEAD, Some(_)) if !watch => "get",
        (&Method::GET | &Method::HEAD, _) if watch => "watch",
        (&Method::GET | &Method::HEAD, _) => "list",
        (&Method::POST, None) => "create",
        (&Method::PUT, Some(_)) => "update",
        (&Method::PATCH, Some(_)) => "patch",
        (&Method::DELETE, Some(_)) => "delete",
        (&Method::DELETE, None) => "deletecollection",
        (method, _) => {
            return Err(Status::new(Reason::MethodNotAllowed, format!("the server does not allow {method} on {}", parts.uri.path())));
        }
    };
    passage.leads_to(verb, &target);
    api.authorize(identity, &Wanted::Resource(target.attributes(verb, &query))).await?;
    if review::is_review(&target.def) && verb != "create" {
        return Err(Status::new(Reason::MethodNotAllowed, format!("{} can only be created", target.def.plural)));
    }
    if target.def.namespaced && target.namespace.is_none() && !matches!(verb, "list" | "watch") {
        return Err(Status::new(Reason::MethodNotAllowed, format!("{} are in namespaces: name one in the path", target.def.plural)));
    }
    let form = negotiate::form(&parts.headers)?;
    let asked = Asked { target: &target, identity, query: &query, headers: &parts.headers, form };
    let name = target.name.as_deref().unwrap_or_default();
    match (target.subresource.as_str(), verb) {
        ("", _) => {}
        ("status", "get" | "update" | "patch") if target.def.has_status => {}
        ("scale", "get" | "update" | "patch") if target.def.scale.is_some() => {}
        (subresource, "get") => {
            // It may go on for as long as a watch.
            let place = api.gate.watch(Some(identity))?;
            let answer = other(api, &target.def, subresource, &target, query.clone()).await?;
            return Ok(place.keep(Standing::new(api, caller, verb, &target, query).keep(answer)));
        }
        _ => return Err(Status::new(Reason::NotFound, "the server could not find the requested resource")),
    }
    let writes = !matches!(verb, "get" | "list" | "watch");
    // Whether a right may be given is seen by the newest rights, and whoever has given or taken one is answered when it holds.
    let settles = writes && access::decides(&target.def);
    if settles {
        api.storage.catch_up().await?;
    }
    let answer = match verb {
        _ if target.subresource == "scale" => api.scale(&asked, verb, name, &request::body(body, &parts.headers).await?).await,
        "get" => api.get(&asked, name).await,
        "list" => api.list(&asked).await,
        "watch" => {
            let place = if passage.is_in_process() { None } else { Some(api.gate.watch(Some(identity))?) };
            let answer = api.watch(&asked).await?;
            let answer = Standing::new(api, caller, verb, &target, query.clone()).keep(answer);
            Ok(match place {
                Some(place) => place.keep(answer),
                None => answer,
            })
        }
        "create" if review::is_review(&target.def) => api.review(&asked, &request::body(body, &parts.headers).await?).await,
        "create" => api.create(&asked, &request::body(body, &parts.headers).await?).await,
        "update" => api.update(&asked, name, &request::body(body, &parts.headers).await?).await,
        "patch" => api.patch(&asked, name, &request::body(body, &parts.headers).await?).await,
        "delete" => api.delete(&asked, name, &request::body(body, &parts.headers).await?).await,
        _ => api.delete_collection(&asked, &request::body(body, &parts.headers).await?).await,
    };
    if settles && answer.is_ok() {
        api.storage.catch_up().await?;
    }
    if writes && definitions::is_definition(&target.def) && answer.is_ok() {
        api.definitions_settle().await?;
    }
    answer
}

/// A subresource that somebody else answers.
async fn other(api: &Arc<Api>, def: &ResourceDef, subresource: &str, target: &Target, query: Query) -> Result<Response<Body>, Status> {
    let Some(answers) = api.registry().subresource(&def.group, &def.plural, subresource).cloned() else {
        return Err(Status::new(Reason::NotFound, "the server could not find the requested resource"));
    };
    let name = target.name.as_deref().unwrap_or_default();
    let found = api.storage.get(def, &keys::place(target.namespace.as_deref(), name)).await?;
    match found {
        Some(found) => answers.get(found.value(), query.0).await,
        None => {
            let left = answers.get_of_gone(target.namespace.as_deref(), name, query.0).await?;
            left.ok_or_else(|| Status::not_found(&def.group, &def.plural, name))
        }
    }
}
