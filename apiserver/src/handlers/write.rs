//! `create`, `update`, `patch` and apply: what comes in is checked, completed and written.

use super::{
    Api, Asked,
    checks::{SYSTEM_FIELDS, check_expected, finalizers, keep_system_fields, refuse_new_finalizers, remove, set_or_remove, wanted_differs},
    object,
};
use crate::{
    apply, decode, definitions,
    error::{Cause, CauseReason, Reason, Status},
    identity::{Attributes, Wanted},
    keys, namespace,
    object::Object,
    passage::Made,
    patch::{self, Patch},
    schema::UnknownField,
    storage::{Changed, Created, Outcome},
};
use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use serde_json::Value;
use std::sync::Arc;
use uuid::Uuid;

/// How often a made-up name is tried.
const NAMES: usize = 8;
/// How often the definition of a kind may change while an object of it is made.
const DEFINITIONS: usize = 20;
/// How often apply finds the object made, or gone, just when it would do the other.
const APPLIES: usize = 5;

/// Who is recorded as the owner of what was changed.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    /// The writer, of what differs.
    Update,
    /// It is recorded already, by apply.
    Applied,
}

impl Api {
    /// `create`.
    pub async fn create(&self, asked: &Asked<'_>, body: &[u8]) -> Result<Response<Body>, Status> {
        let mut new = decode::object(body, asked.content_type())?;
        self.check_head(asked, &mut new)?;
        let warnings = self.complete(asked, &mut new)?;
        if new["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty()) {
            return Err(Status::new(Reason::BadRequest, "resourceVersion should not be set on objects to be created"));
        }
        let created = self.insert(asked, new, Mark::Update).await?;
        let mut response = object(asked, StatusCode::CREATED, &created);
        if asked.target.name.is_none() {
            response.extensions_mut().insert(Made(created.value()["metadata"]["name"].as_str().unwrap_or_default().to_owned()));
        }
        Ok(with_warnings(response, &warnings))
    }

    /// `update`.
    pub async fn update(&self, asked: &Asked<'_>, name: &str, body: &[u8]) -> Result<Response<Body>, Status> {
        let def = &asked.target.def;
        let mut new = decode::object(body, asked.content_type())?;
        self.check_head(asked, &mut new)?;
        self.check_name(&mut new, name)?;
        // As in Kubernetes, whose core kinds alone may be replaced unseen.
        if !def.group.is_empty() && new["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty() {
            let message = "Invalid value: 0: must be specified for an update".into();
            let cause = Cause { reason: CauseReason::FieldValueInvalid, message, field: "metadata.resourceVersion".into() };
            return Err(Status::invalid(&def.group, &def.kind, name, vec![cause]));
        }
        let warnings = self.complete(asked, &mut new)?;
        let changed = self.modify(asked, name, |_| Ok((new.clone(), Mark::Update))).await?;
        Ok(with_warnings(object(asked, StatusCode::OK, &changed), &warnings))
    }

    /// `patch`, of every kind.
    pub async fn patch(&self, asked: &Asked<'_>, name: &str, body: &[u8]) -> Result<Response<Body>, Status> {
        let def = &asked.target.def;
        match Patch::parse(body, asked.content_type(), def)? {
            Patch::Apply(intent) => self.apply(asked, name, intent).await,
            patch => {
                let mut warnings = Vec::new();
                let changed = self.modify(asked, name, |live| {
                    let mut new = live.clone();
                    match &patch {
                        Patch::Json(operations) => patch::apply_json(&mut new, operations).map_err(|failure| {
                            Status::about(Reason::Invalid, &def.group, &def.plural, name, format!("could not be patched: {failure}"))
                        })?,
                        Patch::Strategic(fields) => patch::apply_strategic(&mut new, fields, def)?,
                        Patch::Merge(fields) | Patch::Apply(fields) => json_patch::merge(&mut new, fields),
                    }
                    warnings = self.complete_patched(asked, name, &mut new)?;
                    Ok((new, Mark::Update))
                });
                Ok(with_warnings(object(asked, StatusCode::OK, &changed.await?), &warnings))
            }
        }
    }

    /// `patch` by apply: changes the object, or makes it.
    async fn apply(&self, asked: &Asked<'_>, name: &str, mut intent: Value) -> Result<Response<Body>, Status> {
        let def = &asked.target.def;
        if asked.query.text("fieldManager").is_none() {
            let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
            return Err(Status::new(Reason::Invalid, message));
        }
        let force = asked.query.flag("force")?;
        self.check_head(asked, &mut intent)?;
        self.check_name(&mut intent, name)?;
        if intent["metadata"].get("managedFields").is_some() {
            return Err(Status::new(Reason::BadRequest, "metadata.managedFields must be nil"));
        }
        let unknown = self.refuse_unknown(asked, &mut intent.clone())?;
        let place = keys::place(asked.target.namespace.as_deref(), name);
        for last in (0..APPLIES).map(|tried| tried + 1 == APPLIES) {
            // That it is there, the cache need not be up to date to know: it is changed only if the store agrees.
            let exists = !asked.target.subresource.is_empty()
                || self.storage.kind(def)?.get(&place).is_some()
                || self.storage.get(def, &place).await?.is_some();
            let (code, outcome) = if exists {
                let changed = self.modify(asked, name, |live| {
                    let merged = apply::apply(Some(live), &intent, def, asked.manager()?, force, self.now());
                    let mut new = merged.map_err(|e| e.into_status(def, name))?;
                    self.complete_patched(asked, name, &mut new)?;
                    Ok((new, Mark::Applied))
                });
                (StatusCode::OK, changed.await)
            } else {
                let wanted = Attributes { name, ..asked.target.attributes("create", asked.query) };
                self.authorize(asked.identity, &Wanted::Resource(wanted)).await?;
                (StatusCode::CREATED, self.create_by_apply(asked, name, &intent, force).await)
            };
            match outcome {
                // Somebody did the other meanwhile.
                Err(status) if !last && exists && status.reason == Reason::NotFound && asked.target.subresource.is_empty() => {}
                Err(status) if !last && !exists && status.reason == Reason::AlreadyExists => {}
                outcome => return Ok(with_warnings(object(asked, code, &outcome?), &unknown)),
            }
        }
        Err(Status::about(Reason::Conflict, &def.group, &def.plural, name, "is made and deleted by others all the time; try again"))
    }

    async fn create_by_apply(&self, asked: &Asked<'_>, name: &str, intent: &Value, force: bool) -> Result<Arc<Object>, Status> {
        let def = &asked.target.def;
        if ["uid", "resourceVersion"].iter().any(|field| intent["metadata"][*field].as_str().is_some_and(|v| !v.is_empty())) {
            let what = "does not exist, but the configuration names its uid or resourceVersion";
            return Err(Status::about(Reason::Conflict, &def.group, &def.plural, name, what));
        }
        let mut new = apply::apply(None, intent, def, asked.manager()?, force, self.now()).map_err(|e| e.into_status(def, name))?;
        self.complete_patched(asked, name, &mut new)?;
        self.insert(asked, new, Mark::Applied).await
    }

    fn complete_patched(&self, asked: &Asked<'_>, name: &str, new: &mut Value) -> Result<Vec<UnknownField>, Status> {
        self.check_head(asked, new)?;
        self.check_name(new, name)?;
        self.complete(asked, new)
    }

    /// Writes a new object, complete but for what only the server knows.
    async fn insert(&self, asked: &Asked<'_>, mut new: Value, mark: Mark) -> Result<Arc<Object>, Status> {
        let def = &asked.target.def;
        let dry_run = asked.query.dry_run()?;
        for field in SYSTEM_FIELDS {
            remove(&mut new["metadata"], field);
        }
        if def.has_status {
            remove(&mut new, "status");
        }
        new["metadata"]["uid"] = Uuid::new_v4().to_string().into();
        new["metadata"]["creationTimestamp"] = self.now().to_string().into();
        new["metadata"]["generation"] = 1.into();
        let prefix = new["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
        let given = new["metadata"]["name"].as_str().is_some_and(|name| !name.is_empty());
        let mut outdated = 0;
        let mut tried = 0;
        while tried < NAMES && outdated < DEFINITIONS {
            if !given && !prefix.is_empty() {
                new["metadata"]["name"] = made_up_name(&prefix).into();
            }
            if namespace::is_namespace(def) {
                namespace::complete(&mut new, None);
            }
            if definitions::is_definition(def) {
                definitions::complete(&mut new, None);
                self.check_room_for_definition()?;
            }
            let guard = self.guard_creation(def)?;
            self.validate(asked, &new, None)?;
            self.complete_admitted(asked, &mut new, None);
            self.check_grant(asked, None, &new)?;
            self.check_admission(asked, &new).await?;
            if let Mark::Update = mark {
                apply::record_update(None, &mut new, def, asked.manager()?, self.now());
            }
            let name = new["metadata"]["name"].as_str().unwrap_or_default();
            if let Some(namespace) = &asked.target.namespace {
                self.check_namespace(namespace, def, name).await?;
            }
            let place = keys::place(asked.target.namespace.as_deref(), name);
            if dry_run {
                return match self.storage.get(def, &place).await? {
                    None => Ok(Arc::new(Object::of(new, 0))),
                    Some(_) => Err(Status::already_exists(&def.group, &def.plural, name)),
                };
            }
            let mut stored = new.clone();
            store_as(asked, &mut stored);
            match self.storage.create_if(def, &place, stored, guard).await? {
                Created::Made(created) => return Ok(created),
                Created::Exists if given => return Err(Status::already_exists(&def.group, &def.plural, name)),
                Created::Exists => tried += 1,
                // The definition of its kind has changed.
                Created::Outdated => {
                    outdated += 1;
                    self.storage.catch_up().await?;
                }
            }
        }
        if outdated == DEFINITIONS {
            let what = "was not made, because the definition of its kind changes all the time; try again";
            let name = new["metadata"]["name"].as_str().unwrap_or_default();
            return Err(Status::about(Reason::Conflict, &def.group, &def.plural, name, what));
        }
        Err(Status::new(Reason::AlreadyExists, format!("no free name was found for generateName {prefix:?} in {NAMES} tries")))
    }

    fn complete_admitted(&self, asked: &Asked<'_>, new: &mut Value, old: Option<&Value>) {
        let def = &asked.target.def;
        if let Some(admission) = self.registry().admission(&def.group, &def.plural) {
            admission.complete(new, old, asked.identity);
        }
    }

    /// Refuses a new object that does not go with the others.
    async fn check_admission(&self, asked: &Asked<'_>, new: &Value) -> Result<(), Status> {
        let def = &asked.target.def;
        let Some(admission) = self.registry().admission(&def.group, &def.plural).cloned() else { return Ok(()) };
        if admission.check(new, &self.access.look()).is_empty() {
            return Ok(());
        }
        // The cache may not have the others yet.
        self.storage.catch_up().await?;
        match admission.check(new, &self.access.look()) {
            causes if causes.is_empty() => Ok(()),
            causes => Err(Status::invalid(&def.group, &def.kind, new["metadata"]["name"].as_str().unwrap_or_default(), causes)),
        }
    }

    /// Changes an object to what `make` makes of its present state, and keeps what a writer may not change.
    pub(super) async fn modify(
        &self,
        asked: &Asked<'_>,
        name: &str,
        mut make: impl FnMut(&Value) -> Result<(Value, Mark), Status>,
    ) -> Result<Arc<Object>, Status> {
        let def = &asked.target.def;
        let place = keys::place(asked.target.namespace.as_deref(), name);
        let (manager, now, dry_run) = (asked.manager()?, self.now(), asked.query.dry_run()?);
        let changed = self.storage.change(def, &place, dry_run, |stored| {
            let converted = asked.target.stored_as.as_ref().map(|_| {
                let mut converted = stored.clone();
                converted["apiVersion"] = def.api_version().into();
                converted
            });
            let live = converted.as_ref().unwrap_or(stored);
            let (mut new, mark) = make(live)?;
            check_expected(def, name, live, &new)?;
            keep_system_fields(live, &mut new);
            match asked.target.subresource.as_str() {
                "status" => {
                    // Through this door only the status is changed, and who owns it.
                    let (status, fields) = (new["status"].take(), new["metadata"]["managedFields"].take());
                    new = live.clone();
                    set_or_remove(&mut new, "status", status);
                    if let Mark::Applied = mark {
                        set_or_remove(&mut new["metadata"], "managedFields", fields);
                    }
                }
                _ if namespace::is_namespace(def) => namespace::complete(&mut new, Some(live)),
                _ if definitions::is_definition(def) => definitions::complete(&mut new, Some(live)),
                _ if def.has_status => set_or_remove(&mut new, "status", live["status"].clone()),
                _ => {}
            }
            if definitions::is_definition(def) {
                definitions::refuse_foreign(&self.registry(), name, Some(live), Some(&new))?;
            }
            if wanted_differs(live, &new, def) {
                new["metadata"]["generation"] = (live["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
            }
            self.validate(asked, &new, Some(live))?;
            if asked.target.subresource.is_empty() {
                self.complete_admitted(asked, &mut new, Some(live));
            }
            self.check_grant(asked, Some(live), &new)?;
            if let Mark::Update = mark {
                apply::record_update(Some(live), &mut new, def, manager, now);
            }
            if live["metadata"]["deletionTimestamp"].is_string() {
                refuse_new_finalizers(def, name, live, &new)?;
                if finalizers(&new).is_empty() && !namespace::holds(def, &new) {
                    return Ok(Outcome::Delete);
                }
            }
            let same = apply::unchanged(live, &new);
            store_as(asked, &mut new);
            // What is stored in an older version is written anew in that of today.
            Ok(if same && stored["apiVersion"] == new["apiVersion"] { Outcome::Keep } else { Outcome::Put(new) })
        });
        changed.await.map(Changed::into_object)
    }
}

/// Gives an object the version that its kind is stored in.
fn store_as(asked: &Asked<'_>, object: &mut Value) {
    if let Some(stored_as) = &asked.target.stored_as {
        object["apiVersion"] = stored_as.as_str().into();
    }
}

pub(super) fn with_warnings(mut response: Response<Body>, warnings: &[UnknownField]) -> Response<Body> {
    for field in warnings {
        let text = field.to_string().replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// A name that starts with `prefix`, which is cut where the whole would be too long for a label.
fn made_up_name(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    const LONGEST_PREFIX: usize = 58;
    let random = Uuid::new_v4();
    let suffix: String = random.as_bytes().iter().take(5).map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])).collect();
    let prefix: String = prefix.chars().take(LONGEST_PREFIX).collect();
    prefix + &suffix
}
