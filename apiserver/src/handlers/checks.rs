//! What an object must be like before it is written, and what of it is the server's to say.

use super::{Api, Asked};
use crate::{
    access, definitions,
    error::{Cause, CauseReason, Details, Reason, Status},
    metadata,
    registry::ResourceDef,
    request::FieldValidation,
    schema::UnknownField,
    secret,
};
use serde_json::{Value, json};

/// Metadata that the server keeps, whatever a writer sends.
pub const SYSTEM_FIELDS: [&str; 7] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink", "resourceVersion"];

impl Api {
    /// `apiVersion`, `kind` and `metadata` are there and are those of the path.
    pub fn check_head(&self, asked: &Asked<'_>, new: &mut Value) -> Result<(), Status> {
        let def = &asked.target.def;
        let what = kind_of(new);
        let Some(fields) = new.as_object_mut() else {
            return Err(Status::new(Reason::BadRequest, format!("the body is not an object but {what}")));
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
            let message = "Invalid value: metadata in body must be of type object".into();
            let cause = Cause { reason: CauseReason::FieldValueTypeInvalid, message, field: "metadata".into() };
            return Err(Status::invalid(&def.group, &def.kind, "", vec![cause]));
        };
        metadata.retain(|_, value| !value.is_null());
        // These are read before the whole is validated.
        let is_text = |field: &&str| metadata.get(*field).is_some_and(|value| !value.is_string());
        let causes = ["name", "generateName", "namespace", "uid", "resourceVersion"].into_iter().filter(is_text).map(|field| Cause {
            reason: CauseReason::FieldValueTypeInvalid,
            message: format!("Invalid value: metadata.{field} in body must be of type string"),
            field: format!("metadata.{field}"),
        });
        let causes: Vec<_> = causes.collect();
        if !causes.is_empty() {
            return Err(Status::invalid(&def.group, &def.kind, asked.target.name.as_deref().unwrap_or_default(), causes));
        }
        let Some(namespace) = &asked.target.namespace else { return Ok(()) };
        match metadata.get("namespace").and_then(Value::as_str).unwrap_or_default() {
            "" => {
                metadata.insert("namespace".into(), namespace.clone().into());
                Ok(())
            }
            has if has == namespace => Ok(()),
            has => Err(Status::new(
                Reason::BadRequest,
                format!(
                    "the namespace of the provided object does not match the namespace sent on the request: {has:?}, expected {namespace:?}"
                ),
            )),
        }
    }

    /// The name is that of the path.
    pub fn check_name(&self, new: &mut Value, name: &str) -> Result<(), Status> {
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
    pub fn complete(&self, asked: &Asked<'_>, new: &mut Value) -> Result<Vec<UnknownField>, Status> {
        let unknown = self.refuse_unknown(asked, new)?;
        self.schema(&asked.target.def)?.apply_defaults(new);
        access::validate::complete(&asked.target.def, new);
        secret::complete(&asked.target.def, new);
        Ok(unknown)
    }

    /// Takes out what is unknown, or refuses it if that was asked for; says what to warn of.
    pub fn refuse_unknown(&self, asked: &Asked<'_>, new: &mut Value) -> Result<Vec<UnknownField>, Status> {
        let mut unknown = self.schema(&asked.target.def)?.prune(new);
        unknown.extend(metadata::prune(new));
        if definitions::is_definition(&asked.target.def) {
            unknown.extend(definitions::prune(new));
        }
        tolerate(asked, new, unknown)
    }

    /// Metadata, schema and rules, of a new object or of one that takes the place of another.
    pub fn validate(&self, asked: &Asked<'_>, new: &Value, old: Option<&Value>) -> Result<(), Status> {
        let def = &asked.target.def;
        let mut causes = metadata::validate(&new["metadata"], def.namespaced, access::validate::names(def));
        causes.extend(self.schema(def)?.validate(new, old));
        if secret::is_secret(def) {
            secret::hide(&mut causes);
        }
        if causes.is_empty() {
            causes.extend(access::validate::validate(def, old, new));
            if secret::is_secret(def) {
                causes.extend(secret::validate(old, new));
            }
        }
        if causes.is_empty() && definitions::is_definition(def) {
            causes.extend(definitions::check(new, old));
        }
        if causes.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(&def.group, &def.kind, new["metadata"]["name"].as_str().unwrap_or_default(), causes))
    }

    /// A new object's namespace is there and is to stay.
    pub async fn check_namespace(&self, namespace: &str, def: &ResourceDef, name: &str) -> Result<(), Status> {
        let Some(namespaces) = self.storage.cache.kind("", "namespaces") else { return Ok(()) };
        let found = match namespaces.get(namespace) {
            Some(found) => Some(found),
            None => {
                self.storage.catch_up().await?;
                namespaces.get(namespace)
            }
        };
        match found {
            None => Err(Status::not_found("", "namespaces", namespace)),
            Some(found) if found.value()["metadata"]["deletionTimestamp"].is_string() => {
                let what = format!("is forbidden: unable to create new content in namespace {namespace} because it is being terminated");
                let mut status = Status::about(Reason::Forbidden, &def.group, &def.plural, name, what);
                if let Some(details) = &mut status.details {
                    details.causes.push(Cause {
                        reason: CauseReason::NamespaceTerminating,
                        message: format!("namespace {namespace} is being terminated"),
                        field: "metadata.namespace".into(),
                    });
                }
                Err(status)
            }
            Some(_) => Ok(()),
        }
    }
}

/// Refuses unknown fields if that was asked for; says what to warn of.
pub fn tolerate(asked: &Asked<'_>, new: &Value, unknown: Vec<UnknownField>) -> Result<Vec<UnknownField>, Status> {
    match asked.query.field_validation()? {
        FieldValidation::Ignore => Ok(Vec::new()),
        FieldValidation::Strict if !unknown.is_empty() => Err(strict_error(&asked.target.def, new, &unknown)),
        _ => Ok(unknown),
    }
}

fn strict_error(def: &ResourceDef, new: &Value, unknown: &[UnknownField]) -> Status {
    let texts: Vec<_> = unknown.iter().map(ToString::to_string).collect();
    let cause =
        |field: &UnknownField| Cause { reason: CauseReason::FieldValueInvalid, message: field.to_string(), field: field.path.clone() };
    let details = Details {
        name: new["metadata"]["name"].as_str().unwrap_or_default().into(),
        group: def.group.clone(),
        kind: def.kind.clone(),
        causes: unknown.iter().map(cause).collect(),
        ..Details::default()
    };
    let (kind, version) = (&def.kind, &def.version);
    let message = format!("{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}", texts.join(", "));
    Status::new(Reason::BadRequest, message).with_details(details)
}

/// A writer that names a version or a uid means that object and no other.
pub fn check_expected(def: &ResourceDef, name: &str, live: &Value, new: &Value) -> Result<(), Status> {
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

/// Puts the server's own metadata back, whatever was sent.
pub fn keep_system_fields(live: &Value, new: &mut Value) {
    for field in SYSTEM_FIELDS {
        set_or_remove(&mut new["metadata"], field, live["metadata"][field].clone());
    }
}

/// Something besides metadata and status differs.
pub fn wanted_differs(live: &Value, new: &Value, def: &ResourceDef) -> bool {
    let (Some(live), Some(new)) = (live.as_object(), new.as_object()) else { return true };
    let wanted = |name: &String| name != "metadata" && !(def.has_status && name == "status");
    live.keys().filter(|name| wanted(name)).any(|name| !new.contains_key(name))
        || new.iter().filter(|(name, _)| wanted(name)).any(|(name, value)| live.get(name) != Some(value))
}

/// The finalizers of an object.
pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// What is being deleted gets no further finalizers.
pub fn refuse_new_finalizers(def: &ResourceDef, name: &str, live: &Value, new: &Value) -> Result<(), Status> {
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

/// Takes a field out of an object.
pub fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

/// Sets a field of an object; null takes it out.
pub fn set_or_remove(object: &mut Value, field: &str, value: Value) {
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
