//! `create`, `update`, `patch` and apply: what comes in is checked, completed and written.

use super::{Api, Asked, object};
use crate::{
    apply,
    cache::Object,
    decode,
    error::{Cause, CauseReason, Details, Reason, Status},
    gc, keys, metadata,
    registry::ResourceDef,
    request::FieldValidation,
    schema::UnknownField,
    storage::{Changed, Outcome},
};
use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// Metadata that the server keeps, whatever a writer sends.
const SYSTEM_FIELDS: [&str; 6] = ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"];
/// How often a made-up name is tried.
const NAMES: usize = 8;

/// How an object is to be changed.
enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Apply(Value),
}

impl Api {
    /// `create`.
    pub async fn create(&self, asked: &Asked<'_>, body: &[u8]) -> Result<Response<Body>, Status> {
        let mut new = decode::object(body, content_type(asked))?;
        self.check_head(asked, &mut new)?;
        let warnings = self.complete(asked, &mut new)?;
        if new["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty()) {
            return Err(Status::new(Reason::BadRequest, "resourceVersion should not be set on objects to be created"));
        }
        let created = self.insert(asked, new, Mark::Update).await?;
        Ok(with_warnings(object(asked, StatusCode::CREATED, &created.value, &created.json), &warnings))
    }

    /// `update`.
    pub async fn update(&self, asked: &Asked<'_>, name: &str, body: &[u8]) -> Result<Response<Body>, Status> {
        let mut new = decode::object(body, content_type(asked))?;
        self.check_head(asked, &mut new)?;
        self.check_name(&mut new, name)?;
        let warnings = self.complete(asked, &mut new)?;
        let changed = self.modify(asked, name, |_| Ok((new.clone(), Mark::Update))).await?;
        Ok(with_warnings(changed.answer(asked), &warnings))
    }

    /// `patch`, of every kind.
    pub async fn patch(&self, asked: &Asked<'_>, name: &str, body: &[u8]) -> Result<Response<Body>, Status> {
        let def = &asked.target.def;
        let patch = self.read_patch(asked, body)?;
        let force = asked.query.flag("force")?;
        if let Patch::Apply(intent) = &patch {
            if asked.query.text("fieldManager").is_none() {
                return Err(Status::new(
                    Reason::BadRequest,
                    "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch",
                ));
            }
            let place = keys::place(asked.target.namespace.as_deref(), name);
            if asked.target.subresource.is_empty() && self.storage.get(def, &place).await?.is_none() {
                return self.create_by_apply(asked, intent, force).await;
            }
        }
        let mut warnings = Vec::new();
        let changed = self
            .modify(asked, name, |live| {
                let (mut new, mark) = match &patch {
                    Patch::Json(patch) => {
                        let mut new = live.clone();
                        json_patch::patch(&mut new, patch).map_err(|e| {
                            Status::about(Reason::Invalid, &def.group, &def.plural, name, format!("could not be patched: {e}"))
                        })?;
                        (new, Mark::Update)
                    }
                    Patch::Merge(patch) => {
                        let mut new = live.clone();
                        json_patch::merge(&mut new, patch);
                        (new, Mark::Update)
                    }
                    Patch::Apply(intent) => {
                        let merged = apply::apply(Some(live), intent, def, asked.manager()?, force, self.now());
                        (merged.map_err(|e| e.into_status(def, name))?, Mark::Applied)
                    }
                };
                if !new.is_object() {
                    return Err(Status::new(Reason::BadRequest, "the patch makes something of the object that is no object"));
                }
                self.check_head(asked, &mut new)?;
                self.check_name(&mut new, name)?;
                warnings = self.complete(asked, &mut new)?;
                Ok((new, mark))
            })
            .await?;
        Ok(with_warnings(changed.answer(asked), &warnings))
    }

    fn read_patch(&self, asked: &Asked<'_>, body: &[u8]) -> Result<Patch, Status> {
        let content_type = content_type(asked).unwrap_or_default();
        let media = content_type.split(';').next().unwrap_or_default().trim();
        let value = |media: &str| decode::object(body, Some(media));
        match media {
            "application/json-patch+json" => {
                let operations = value(media)?;
                let patch = serde_json::from_value(operations);
                patch.map(Patch::Json).map_err(|e| Status::new(Reason::BadRequest, format!("the body is not a JSON patch: {e}")))
            }
            "application/merge-patch+json" => Ok(Patch::Merge(value(media)?)),
            // kubectl sends these for the kinds that it knows from Kubernetes. Without a directive they mean the same.
            "application/strategic-merge-patch+json" if asked.target.def.group != "basalt.dev" && is_plain(&value(media)?) => {
                Ok(Patch::Merge(value(media)?))
            }
            "application/apply-patch+yaml" => {
                let mut intent = value(media)?;
                self.check_head(asked, &mut intent)?;
                if intent["metadata"].get("managedFields").is_some_and(|m| !m.is_null()) {
                    return Err(Status::new(Reason::BadRequest, "metadata.managedFields must be nil"));
                }
                if asked.target.name.is_some() && intent["metadata"].get("name").is_none() {
                    intent["metadata"]["name"] = asked.target.name.clone().into();
                }
                self.refuse_unknown(asked, &mut intent.clone())?;
                Ok(Patch::Apply(intent))
            }
            other => Err(Status::new(
                Reason::UnsupportedMediaType,
                format!(
                    "the body of the request was in an unknown format {other:?}: accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
                ),
            )),
        }
    }

    async fn create_by_apply(&self, asked: &Asked<'_>, intent: &Value, force: bool) -> Result<Response<Body>, Status> {
        let def = &asked.target.def;
        let name = asked.target.name.as_deref().unwrap_or_default();
        let meta = &intent["metadata"];
        if ["uid", "resourceVersion"].iter().any(|field| meta[*field].as_str().is_some_and(|v| !v.is_empty())) {
            return Err(Status::about(
                Reason::Conflict,
                &def.group,
                &def.plural,
                name,
                "does not exist, but the configuration names its uid or resourceVersion",
            ));
        }
        let mut new = apply::apply(None, intent, def, asked.manager()?, force, self.now()).map_err(|e| e.into_status(def, name))?;
        self.check_head(asked, &mut new)?;
        self.check_name(&mut new, name)?;
        let warnings = self.complete(asked, &mut new)?;
        let created = self.insert(asked, new, Mark::Applied).await?;
        Ok(with_warnings(object(asked, StatusCode::CREATED, &created.value, &created.json), &warnings))
    }

    /// Writes a new object, complete but for what only the server knows.
    async fn insert(&self, asked: &Asked<'_>, mut new: Value, mark: Mark) -> Result<Object, Status> {
        let def = &asked.target.def;
        let dry_run = asked.query.dry_run()?;
        if let Some(namespace) = &asked.target.namespace {
            self.check_namespace(namespace, def).await?;
        }
        for field in SYSTEM_FIELDS.iter().chain(["resourceVersion"].iter()) {
            remove(&mut new["metadata"], field);
        }
        if def.has_status {
            remove(&mut new, "status");
        }
        if def.kind == "Namespace" && def.group.is_empty() {
            gc::complete_namespace(&mut new);
        }
        new["metadata"]["uid"] = Uuid::new_v4().to_string().into();
        new["metadata"]["creationTimestamp"] = self.now().to_string().into();
        new["metadata"]["generation"] = 1.into();
        let prefix = new["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
        let given = new["metadata"]["name"].as_str().is_some_and(|name| !name.is_empty());
        for _ in 0..NAMES {
            if !given {
                new["metadata"]["name"] = made_up_name(&prefix).into();
            }
            self.validate(asked, &new)?;
            if let Mark::Update = mark {
                apply::record_update(None, &mut new, def, asked.manager()?, self.now());
            }
            let name = new["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let place = keys::place(asked.target.namespace.as_deref(), &name);
            if dry_run {
                return match self.storage.get(def, &place).await? {
                    None => Ok(Object::at(&new, 0)),
                    Some(_) => Err(Status::already_exists(&def.group, &def.plural, &name)),
                };
            }
            match self.storage.create(def, &place, &new).await? {
                Some(created) => return Ok(created),
                None if given => return Err(Status::already_exists(&def.group, &def.plural, &name)),
                None => {}
            }
        }
        Err(Status::new(Reason::AlreadyExists, format!("no free name was found for generateName {prefix:?} in {NAMES} tries")))
    }

    /// Changes an object to what `make` makes of its present state, and keeps what a writer may not change.
    async fn modify(
        &self,
        asked: &Asked<'_>,
        name: &str,
        mut make: impl FnMut(&Value) -> Result<(Value, Mark), Status>,
    ) -> Result<Change, Status> {
        let def = &asked.target.def;
        let place = keys::place(asked.target.namespace.as_deref(), name);
        let (manager, now, dry_run) = (asked.manager()?, self.now(), asked.query.dry_run()?);
        let changed = self.storage.change(def, &place, dry_run, |live| {
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
                _ if def.has_status => set_or_remove(&mut new, "status", live["status"].clone()),
                _ => {}
            }
            if wanted_differs(live, &new, def) {
                new["metadata"]["generation"] = (live["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
            }
            self.validate(asked, &new)?;
            if let Mark::Update = mark {
                apply::record_update(Some(live), &mut new, def, manager, now);
            }
            if live["metadata"]["deletionTimestamp"].is_string() {
                refuse_new_finalizers(def, name, live, &new)?;
                if finalizers(&new).is_empty() && !gc::holds(def, &new) {
                    return Ok(Outcome::Delete);
                }
            }
            if apply::unchanged(live, &new) {
                return Ok(Outcome::Keep);
            }
            Ok(Outcome::Put(new))
        });
        Ok(match changed.await? {
            Changed::Kept(object) | Changed::Deleted(object) => Change::Shared(object),
            Changed::Put(object) => Change::Own(object),
        })
    }

    /// `apiVersion`, `kind` and `metadata` are there and are those of the path.
    fn check_head(&self, asked: &Asked<'_>, new: &mut Value) -> Result<(), Status> {
        let def = &asked.target.def;
        let Some(fields) = new.as_object_mut() else {
            return Err(Status::new(Reason::BadRequest, format!("the body is not an object but {}", kind_of(new))));
        };
        for (field, wanted) in [("apiVersion", def.api_version()), ("kind", def.kind.clone())] {
            match fields.get(field) {
                None => {
                    fields.insert(field.to_owned(), wanted.into());
                }
                Some(Value::String(has)) if *has == wanted => {}
                Some(has) => {
                    let message = format!("the {field} in the data ({has}) does not match the expected {field} ({wanted})");
                    return Err(Status::new(Reason::BadRequest, message));
                }
            }
        }
        let metadata = fields.entry("metadata").or_insert_with(|| json!({}));
        if metadata.is_null() {
            *metadata = json!({});
        }
        let Some(metadata) = metadata.as_object_mut() else {
            let cause = Cause {
                reason: CauseReason::FieldValueTypeInvalid,
                message: "Invalid value: metadata must be of type object".into(),
                field: "metadata".into(),
            };
            return Err(Status::invalid(&def.group, &def.kind, "", vec![cause]));
        };
        metadata.retain(|_, value| !value.is_null());
        if let Some(namespace) = &asked.target.namespace {
            match metadata.get("namespace").and_then(Value::as_str).unwrap_or_default() {
                "" => {
                    metadata.insert("namespace".into(), namespace.clone().into());
                }
                has if has == namespace => {}
                has => {
                    let message = format!(
                        "the namespace of the provided object does not match the namespace sent on the request: {has:?}, expected {namespace:?}"
                    );
                    return Err(Status::new(Reason::BadRequest, message));
                }
            }
        }
        Ok(())
    }

    fn check_name(&self, new: &mut Value, name: &str) -> Result<(), Status> {
        match new["metadata"]["name"].as_str().unwrap_or_default() {
            "" => new["metadata"]["name"] = name.into(),
            has if has == name => {}
            has => {
                let message = format!("the name of the object ({has}) does not match the name on the URL ({name})");
                return Err(Status::new(Reason::BadRequest, message));
            }
        }
        Ok(())
    }

    /// Takes out what is unknown and puts in what is left out; says what to warn of.
    fn complete(&self, asked: &Asked<'_>, new: &mut Value) -> Result<Vec<UnknownField>, Status> {
        let unknown = self.refuse_unknown(asked, new)?;
        self.schema(&asked.target.def)?.apply_defaults(new);
        Ok(unknown)
    }

    fn refuse_unknown(&self, asked: &Asked<'_>, new: &mut Value) -> Result<Vec<UnknownField>, Status> {
        let mut unknown = self.schema(&asked.target.def)?.prune(new);
        unknown.extend(metadata::prune(new));
        match asked.query.field_validation()? {
            FieldValidation::Strict if !unknown.is_empty() => {
                let def = &asked.target.def;
                let name = new["metadata"]["name"].as_str().unwrap_or_default();
                let texts: Vec<_> = unknown.iter().map(ToString::to_string).collect();
                let causes = unknown.iter().map(|field| Cause {
                    reason: CauseReason::FieldValueInvalid,
                    message: field.to_string(),
                    field: field.path.clone(),
                });
                let details = Details {
                    name: name.into(),
                    group: def.group.clone(),
                    kind: def.kind.clone(),
                    causes: causes.collect(),
                    ..Details::default()
                };
                let message = format!(
                    "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                    def.kind,
                    def.version,
                    def.kind,
                    texts.join(", ")
                );
                Err(Status::new(Reason::BadRequest, message).with_details(details))
            }
            FieldValidation::Ignore => Ok(Vec::new()),
            _ => Ok(unknown),
        }
    }

    fn validate(&self, asked: &Asked<'_>, new: &Value) -> Result<(), Status> {
        let def = &asked.target.def;
        let mut causes = metadata::validate(&new["metadata"], def.namespaced);
        causes.extend(self.schema(def)?.validate(new));
        if causes.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&def.group, &def.kind, new["metadata"]["name"].as_str().unwrap_or_default(), causes))
    }

    async fn check_namespace(&self, name: &str, def: &ResourceDef) -> Result<(), Status> {
        let Some(namespaces) = self.storage.cache.kind("", "namespaces") else { return Ok(()) };
        let found = match namespaces.get(name) {
            Some(found) => Some(found),
            None => {
                self.storage.catch_up().await?;
                namespaces.get(name)
            }
        };
        match found {
            None => Err(Status::not_found("", "namespaces", name)),
            Some(namespace) if namespace.value["metadata"]["deletionTimestamp"].is_string() => Err(Status::new(
                Reason::Forbidden,
                format!("{} cannot be created in namespace {name:?} because it is being terminated", def.plural),
            )),
            Some(_) => Ok(()),
        }
    }
}

/// Who is recorded as the owner of what was changed.
enum Mark {
    /// The writer, of what differs.
    Update,
    /// It is recorded already, by apply.
    Applied,
}

/// The object after a change.
enum Change {
    Shared(Arc<Object>),
    Own(Object),
}

impl Change {
    fn answer(&self, asked: &Asked<'_>) -> Response<Body> {
        let changed = match self {
            Self::Shared(object) => object,
            Self::Own(object) => object,
        };
        object(asked, StatusCode::OK, &changed.value, &changed.json)
    }
}

fn content_type<'a>(asked: &'a Asked<'_>) -> Option<&'a str> {
    asked.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok())
}

fn with_warnings(mut response: Response<Body>, warnings: &[UnknownField]) -> Response<Body> {
    for field in warnings {
        let text = field.to_string().replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// A strategic merge patch without any of the directives that set it apart from a merge patch.
fn is_plain(patch: &Value) -> bool {
    match patch {
        Value::Object(fields) => fields.iter().all(|(name, value)| !name.starts_with('$') && is_plain(value)),
        Value::Array(items) => items.iter().all(is_plain),
        _ => true,
    }
}

/// A writer that names a version or a uid means that object and no other.
fn check_expected(def: &ResourceDef, name: &str, live: &Value, new: &Value) -> Result<(), Status> {
    let given = |field: &str| new["metadata"][field].as_str().filter(|v| !v.is_empty());
    if given("resourceVersion").is_some_and(|version| Some(version) != live["metadata"]["resourceVersion"].as_str()) {
        return Err(conflict(def, name, "the object has been modified; please apply your changes to the latest version and try again"));
    }
    match (given("uid"), live["metadata"]["uid"].as_str()) {
        (Some(given), Some(has)) if given != has => {
            Err(conflict(def, name, &format!("Precondition failed: UID in precondition: {given}, UID in object meta: {has}")))
        }
        _ => Ok(()),
    }
}

/// `Operation cannot be fulfilled on ...`, as Kubernetes says it.
pub fn conflict(def: &ResourceDef, name: &str, why: &str) -> Status {
    let dot = if def.group.is_empty() { "" } else { "." };
    let mut status = Status::about(Reason::Conflict, &def.group, &def.plural, name, why);
    status.message = format!("Operation cannot be fulfilled on {}{dot}{} {name:?}: {why}", def.plural, def.group);
    status
}

fn keep_system_fields(live: &Value, new: &mut Value) {
    for field in SYSTEM_FIELDS {
        set_or_remove(&mut new["metadata"], field, live["metadata"][field].clone());
    }
    set_or_remove(&mut new["metadata"], "resourceVersion", live["metadata"]["resourceVersion"].clone());
}

/// Something besides metadata and status differs.
fn wanted_differs(live: &Value, new: &Value, def: &ResourceDef) -> bool {
    let (Some(live), Some(new)) = (live.as_object(), new.as_object()) else { return true };
    let wanted = |name: &String| name != "metadata" && !(def.has_status && name == "status");
    live.keys().filter(|name| wanted(name)).any(|name| !new.contains_key(name))
        || new.iter().filter(|(name, _)| wanted(name)).any(|(name, value)| live.get(name) != Some(value))
}

/// The finalizers of an object.
pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn refuse_new_finalizers(def: &ResourceDef, name: &str, live: &Value, new: &Value) -> Result<(), Status> {
    let had = finalizers(live);
    let added: Vec<_> = finalizers(new).into_iter().filter(|f| !had.contains(f)).collect();
    if added.is_empty() {
        return Ok(());
    }
    let cause = Cause {
        reason: CauseReason::FieldValueForbidden,
        message: format!("Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"),
        field: "metadata.finalizers".into(),
    };
    Err(Status::invalid(&def.group, &def.kind, name, vec![cause]))
}

fn made_up_name(prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = Uuid::new_v4();
    let suffix: String = random.as_bytes().iter().take(5).map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])).collect();
    let prefix: String = prefix.chars().take(248).collect();
    prefix + &suffix
}

fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

fn set_or_remove(object: &mut Value, field: &str, value: Value) {
    if value.is_null() {
        remove(object, field);
    } else if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
