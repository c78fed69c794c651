//! What is garbage, and what is done about it.

use super::{
    FOREGROUND,
    index::{Id, references},
};
use crate::{
    audit::Event,
    error::{Reason, Status},
    handlers::{
        Api,
        checks::finalizers,
        delete::{Deletion, Propagation},
    },
    keys,
    namespace::{self, Remainder},
    object::Object,
    origin::Trigger,
    registry::ResourceDef,
    storage::Outcome,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc};

/// Who the collector is in the audit log.
const COLLECTOR: &str = "system:basalt:garbage-collector";

/// The objects as they are, and the way to change them.
pub struct Objects {
    pub api: Arc<Api>,
}

impl Objects {
    /// An object as it is now, with its kind.
    pub fn find(&self, id: &Id) -> Option<(Arc<ResourceDef>, Arc<Object>)> {
        let def = self.api.registry().iter().find(|def| def.group == id.group && def.plural == id.plural)?.clone();
        let object = self.api.storage.cache.kind(&id.group, &id.plural)?.get(&id.place)?;
        Some((def, object))
    }

    /// Whether an object has owners of which none is left, or is in a namespace that is gone.
    pub fn is_garbage(&self, def: &ResourceDef, object: &Object, gone: &HashSet<String>) -> bool {
        let value = object.value();
        let owners = references(&value);
        let namespace = value["metadata"]["namespace"].as_str().filter(|_| def.namespaced);
        let stranded = namespace.is_some_and(|name| {
            gone.contains(name) && self.api.storage.cache.kind("", "namespaces").is_some_and(|kind| kind.get(name).is_none())
        });
        stranded || (!owners.is_empty() && !owners.iter().any(|owner| self.lives(owner, namespace)))
    }

    /// Whether an owner is there. One of a kind that is not served may well exist elsewhere.
    fn lives(&self, reference: &Value, namespace: Option<&str>) -> bool {
        self.owner(reference, namespace).is_none_or(|found| found.is_some())
    }

    /// An owner, if it is there; `None` if nothing can be known of it.
    fn owner(&self, reference: &Value, namespace: Option<&str>) -> Option<Option<Arc<Object>>> {
        let text = |field: &str| reference[field].as_str().unwrap_or_default();
        let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
        let def = self.api.registry().iter().find(|def| def.group == group && def.kind == text("kind"))?.clone();
        // An owner is in the same namespace, or in none. Nobody knows which one an object of the whole cluster means.
        let namespace = if def.namespaced { Some(namespace?) } else { None };
        let place = keys::place(namespace, text("name"));
        let found = self.api.storage.cache.kind(&def.group, &def.plural)?.get(&place);
        Some(found.filter(|owner| owner.value()["metadata"]["uid"].as_str() == Some(text("uid"))))
    }

    /// Deletes what the owner with this uid is waiting for, or lets it be if it has another owner. Says whether the owner has
    /// to wait for it.
    pub async fn delete_dependent(&self, id: &Id, owner: &str) -> Result<bool, Status> {
        let Some((def, object)) = self.find(id) else { return Ok(false) };
        let value = object.value();
        let namespace = value["metadata"]["namespace"].as_str().filter(|_| def.namespaced);
        let (of_owner, others): (Vec<_>, Vec<_>) = references(&value).iter().partition(|r| r["uid"].as_str() == Some(owner));
        let solid = |reference: &&Value| match self.owner(reference, namespace) {
            None => true,
            Some(found) => found.is_some_and(|other| !(is_terminating(&other.value()) && finalizers(&other.value()).contains(&FOREGROUND))),
        };
        if others.iter().any(solid) {
            self.orphan(id, owner).await?;
            return Ok(false);
        }
        if !is_terminating(&value) {
            let deletion = Deletion { propagation: Some(Propagation::Foreground), ..Deletion::of(&value) };
            match self.api.remove(&def, &id.place, &deletion).await {
                Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => return Ok(false),
                other => drop(other?),
            }
            self.record("delete", &def, &id.place, of_owner.first().map(|reference| self.trigger(reference, namespace)));
        }
        let blocks = of_owner.iter().any(|reference| reference["blockOwnerDeletion"].as_bool() == Some(true));
        Ok(blocks && self.find(id).is_some())
    }

    /// The first owner of an object whose owners are gone, or else its namespace.
    pub fn gone_owner(&self, object: &Object) -> Option<Trigger> {
        let value = object.value();
        let namespace = value["metadata"]["namespace"].as_str();
        let owner = references(&value).first().map(|reference| self.trigger(reference, namespace));
        owner.or_else(|| Some(Trigger { resource: "namespaces".into(), name: namespace?.to_owned(), ..Trigger::default() }))
    }

    /// The object that a reference is to.
    fn trigger(&self, reference: &Value, namespace: Option<&str>) -> Trigger {
        let text = |field: &str| reference[field].as_str().unwrap_or_default().to_owned();
        let group = text("apiVersion").rsplit_once('/').map_or_else(String::new, |(group, _)| group.to_owned());
        let def = self.api.registry().iter().find(|def| def.group == group && def.kind == text("kind")).cloned();
        let namespace = namespace.filter(|_| def.as_ref().is_none_or(|def| def.namespaced)).unwrap_or_default().to_owned();
        let resource = def.map_or_else(|| text("kind"), |def| def.plural.clone());
        Trigger { controller: String::new(), group, resource, namespace, name: text("name"), uid: text("uid"), generation: None }
    }

    /// Writes down what was done to an object because another is gone or is to go.
    pub fn record(&self, verb: &str, def: &ResourceDef, place: &str, cause: Option<Trigger>) {
        let Some(audit) = &self.api.audit else { return };
        let (namespace, name) = place.split_once('/').unwrap_or(("", place));
        audit.record(Event {
            time: Timestamp::now(),
            id: self.api.request_ids.next(),
            user: COLLECTOR.to_owned(),
            verb: verb.to_owned(),
            group: def.group.clone(),
            resource: def.plural.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            code: 200,
            cause: cause.map(|cause| Trigger { controller: "garbage-collector".into(), ..cause }),
            ..Event::default()
        });
    }

    /// Takes the references to an owner out of an object.
    pub async fn orphan(&self, id: &Id, owner: &str) -> Result<(), Status> {
        let Some((def, object)) = self.find(id) else { return Ok(()) };
        let value = object.value();
        let namespace = value["metadata"]["namespace"].as_str();
        let left = references(&value).iter().find(|reference| reference["uid"].as_str() == Some(owner));
        let changed = self.api.storage.change(&def, &id.place, false, |live| {
            let mut new = live.clone();
            if let Some(references) = new["metadata"]["ownerReferences"].as_array_mut() {
                references.retain(|reference| reference["uid"].as_str() != Some(owner));
            }
            Ok(if new == *live { Outcome::Keep } else { Outcome::Put(new) })
        });
        match changed.await {
            Err(status) if status.reason == Reason::NotFound => return Ok(()),
            other => drop(other?),
        }
        self.record("patch", &def, &id.place, left.map(|reference| self.trigger(reference, namespace)));
        Ok(())
    }

    /// Takes a finalizer of ours from an object, which goes if it was the last that held it.
    pub async fn let_go(&self, def: &ResourceDef, place: &str, finalizer: &str) -> Result<(), Status> {
        let changed = self.api.storage.change(def, place, false, |live| {
            let left: Vec<_> = finalizers(live).into_iter().filter(|f| *f != finalizer).collect();
            if left.is_empty() && !namespace::holds(def, live) {
                return Ok(Outcome::Delete);
            }
            let mut new = live.clone();
            new["metadata"]["finalizers"] = json!(left);
            Ok(Outcome::Put(new))
        });
        changed.await.map(drop)
    }

    /// Deletes what is in a namespace that is to go or is gone, and the namespace when nothing is left.
    pub async fn empty_namespace(&self, name: &str) {
        if let Err(status) = self.try_empty(name).await {
            tracing::warn!(namespace = name, "the namespace cannot be emptied and is tried again: {status}");
        }
    }

    async fn try_empty(&self, name: &str) -> Result<(), Status> {
        self.api.storage.catch_up().await?;
        let registry = self.api.registry();
        let Some(def) = registry.get("", "v1", "namespaces") else { return Ok(()) };
        let found = self.api.storage.kind(def)?.get(name);
        if found.as_ref().is_some_and(|namespace| !is_terminating(&namespace.value())) {
            return Ok(());
        }
        let mut left = Vec::new();
        for def in registry.kinds().filter(|def| def.namespaced) {
            let Some(kind) = self.api.storage.cache.kind(&def.group, &def.plural) else { continue };
            let objects = kind.snapshot(0).objects;
            let within = || objects.range(format!("{name}/")..format!("{name}0"));
            for (place, object) in within().filter(|(_, object)| !is_terminating(&object.value())) {
                match self.api.remove(def, place, &Deletion::of(&object.value())).await {
                    Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => {}
                    other => {
                        other?;
                        let namespace = Trigger { resource: "namespaces".into(), name: name.to_owned(), ..Trigger::default() };
                        self.record("delete", def, place, Some(namespace));
                    }
                }
            }
            left.extend(Remainder::of(def, within().map(|(_, object)| object.value())));
        }
        if found.is_none() {
            return Ok(());
        }
        let now = self.api.now().to_string();
        let changed = self.api.storage.change(def, name, false, |live| {
            if !is_terminating(live) {
                return Ok(Outcome::Keep);
            }
            if left.is_empty() && finalizers(live).is_empty() {
                return Ok(Outcome::Delete);
            }
            let mut new = live.clone();
            namespace::explain(&mut new, &left, &now);
            if left.is_empty() {
                new["spec"]["finalizers"] = json!([]);
            }
            Ok(if new == *live { Outcome::Keep } else { Outcome::Put(new) })
        });
        match changed.await {
            Err(status) if status.reason == Reason::NotFound => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Whether an object is being deleted.
pub fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}
