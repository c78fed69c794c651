//! `delete` and `deletecollection`.

use super::{
    Api, Asked,
    checks::{conflict, finalizers, set_or_remove},
    json, object,
    read::Selection,
};
use crate::{
    decode, definitions,
    error::{Reason, Status},
    gc::{FOREGROUND, ORPHAN},
    keys, namespace,
    passage::Tried,
    registry::ResourceDef,
    storage::{Changed, Outcome},
};
use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// What becomes of the objects that the deleted one owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay.
    Orphan,
}

/// How an object is to be deleted.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    /// As an earlier deletion said, or in the background, if it is not given.
    pub propagation: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl Deletion {
    /// Of this object, and not of one that has its name since.
    pub fn of(object: &Value) -> Self {
        Self { uid: object["metadata"]["uid"].as_str().map(str::to_owned), ..Self::default() }
    }

    fn parse(asked: &Asked<'_>, body: &[u8]) -> Result<Self, Status> {
        let value = if body.is_empty() { json!({}) } else { decode::object(body, asked.content_type())? };
        let wrong = |what: String| Status::new(Reason::BadRequest, format!("the body is not usable as DeleteOptions: {what}"));
        if !value.is_object() {
            return Err(wrong("it is not an object".into()));
        }
        let options: DeleteOptions = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
        if let Some(kind) = options.kind.filter(|kind| !matches!(kind.as_str(), "" | "DeleteOptions")) {
            return Err(wrong(format!("its kind is {kind:?}")));
        }
        let policy = options.propagation_policy.filter(|policy| !policy.is_empty());
        let propagation = match (policy.as_deref().or_else(|| asked.query.text("propagationPolicy")), options.orphan_dependents) {
            (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
            (Some("Foreground"), _) => Some(Propagation::Foreground),
            (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
            (None, None) => None,
            (Some(other), _) => {
                let message = format!("propagationPolicy {other:?} is not valid: expected Background, Foreground or Orphan");
                return Err(Status::new(Reason::BadRequest, message));
            }
        };
        let dry_run = match options.dry_run.unwrap_or_default().as_slice() {
            [] => asked.query.dry_run()?,
            [all] if all == "All" => true,
            other => return Err(Status::new(Reason::BadRequest, format!("dryRun {other:?} is not valid: expected [\"All\"]"))),
        };
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let Preconditions { uid, resource_version } = options.preconditions.unwrap_or_default();
        Ok(Self { propagation, uid: given(uid), resource_version: given(resource_version), dry_run })
    }
}

/// The body of a deletion. Unlike an object's, its other fields mean nothing here and are let be.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteOptions {
    kind: Option<String>,
    propagation_policy: Option<String>,
    orphan_dependents: Option<bool>,
    dry_run: Option<Vec<String>>,
    preconditions: Option<Preconditions>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

impl Api {
    /// `delete`.
    pub async fn delete(&self, asked: &Asked<'_>, name: &str, body: &[u8]) -> Result<Response<Body>, Status> {
        let deletion = Deletion::parse(asked, body)?;
        let def = &asked.target.def;
        let place = keys::place(asked.target.namespace.as_deref(), name);
        let mut response = match self.remove(def, &place, &deletion).await? {
            Changed::Deleted(gone) => {
                let details = json!({ "name": name, "group": def.group, "kind": def.plural, "uid": gone.value()["metadata"]["uid"] });
                let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
                json(StatusCode::OK, status.to_string())
            }
            Changed::Kept(held) | Changed::Put(held) => object(asked, StatusCode::OK, &held),
        };
        if deletion.dry_run {
            response.extensions_mut().insert(Tried);
        }
        Ok(response)
    }

    /// `deletecollection`.
    pub async fn delete_collection(&self, asked: &Asked<'_>, body: &[u8]) -> Result<Response<Body>, Status> {
        let deletion = Deletion::parse(asked, body)?;
        let def = &asked.target.def;
        let selection = Selection::of(asked)?;
        let snapshot = self.storage.kind(def)?.snapshot(self.storage.catch_up().await?);
        for (place, object) in &snapshot.objects {
            let here = asked.target.namespace.as_ref().is_none_or(|ns| object.value()["metadata"]["namespace"].as_str() == Some(ns));
            if here && selection.wants(&object.value()) {
                match self.remove(def, place, &deletion).await {
                    Err(status) if status.reason == Reason::NotFound => {}
                    other => drop(other?),
                }
            }
        }
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": { "group": def.group, "kind": def.plural } });
        let mut response = json(StatusCode::OK, status.to_string());
        if deletion.dry_run {
            response.extensions_mut().insert(Tried);
        }
        Ok(response)
    }

    /// Deletes an object, or marks it as to be deleted while something holds it.
    pub async fn remove(&self, def: &ResourceDef, place: &str, deletion: &Deletion) -> Result<Changed, Status> {
        let name = place.rsplit('/').next().unwrap_or(place).to_owned();
        let now = self.now();
        if namespace::is_namespace(def) && name == namespace::DEFAULT {
            let what = "is forbidden: this namespace may not be deleted";
            return Err(Status::about(Reason::Forbidden, &def.group, &def.plural, &name, what));
        }
        if definitions::is_definition(def) {
            definitions::refuse_foreign(&self.registry(), &name, None, None)?;
        }
        let admission = self.registry().admission(&def.group, &def.plural).cloned();
        self.storage
            .change(def, place, deletion.dry_run, |live| {
                let meta = &live["metadata"];
                if let Some(Err(why)) = admission.as_ref().map(|admission| admission.check_deletion(live)) {
                    return Err(Status::about(Reason::Forbidden, &def.group, &def.plural, &name, format!("is forbidden: {why}")));
                }
                for (what, wanted, field) in
                    [("UID", &deletion.uid, "uid"), ("ResourceVersion", &deletion.resource_version, "resourceVersion")]
                {
                    if let Some(wanted) = wanted
                        && meta[field].as_str() != Some(wanted)
                    {
                        let has = meta[field].as_str().unwrap_or_default();
                        return Err(conflict(
                            def,
                            &name,
                            &format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {has}"),
                        ));
                    }
                }
                let mut held: Vec<&str> = finalizers(live);
                if let Some(propagation) = deletion.propagation {
                    for (finalizer, wanted) in [(FOREGROUND, Propagation::Foreground), (ORPHAN, Propagation::Orphan)] {
                        match held.contains(&finalizer) {
                            false if propagation == wanted => held.push(finalizer),
                            true if propagation != wanted => held.retain(|held| *held != finalizer),
                            _ => {}
                        }
                    }
                }
                if held.is_empty() && !namespace::holds(def, live) {
                    return Ok(Outcome::Delete);
                }
                let mut new = live.clone();
                set_or_remove(&mut new["metadata"], "finalizers", if held.is_empty() { Value::Null } else { json!(held) });
                if meta["deletionTimestamp"].is_null() {
                    new["metadata"]["deletionTimestamp"] = now.to_string().into();
                    new["metadata"]["deletionGracePeriodSeconds"] = 0.into();
                    // Kubernetes counts the wish to be deleted as a change of what is wanted.
                    new["metadata"]["generation"] = (meta["generation"].as_i64().unwrap_or(0) + 1).into();
                    namespace::mark_terminating(def, &mut new);
                }
                Ok(if new == *live { Outcome::Keep } else { Outcome::Put(new) })
            })
            .await
    }
}
