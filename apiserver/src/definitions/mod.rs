//! CustomResourceDefinitions at run time: kinds that users add, which get everything that the kinds of the program have.
//!
//! A definition is an object like any other. Each server follows the definitions by its cache ([`serve`]), compiles what has
//! changed and swaps the registry; requests work with the registry that there was when they came. Which names a definition gets
//! ([`names`]) and what its status says ([`plan`]) is a pure function of all definitions, so that several servers on one store
//! come to the same end.

mod check;
mod cleanup;
mod names;
mod own;
mod plan;
mod serve;
mod structural;

pub use self::{
    check::check,
    serve::{Follower, run},
    structural::prune,
};

use crate::{
    error::{Reason, Status},
    handlers::Api,
    registry::{Registry, ResourceDef},
};
use serde_json::{Value, json};

/// The group of CustomResourceDefinition.
pub const GROUP: &str = "apiextensions.k8s.io";
/// Its plural name.
pub const PLURAL: &str = "customresourcedefinitions";
/// Holds a definition until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How many definitions there may be.
const MAX_DEFINITIONS: usize = 1000;

/// Whether a kind is CustomResourceDefinition.
pub fn is_definition(def: &ResourceDef) -> bool {
    def.group == GROUP && def.plural == PLURAL
}

/// Sets what the server sets in a new definition (`live` is none) or in a changed one: names that follow from others, the
/// finalizer, and in which versions objects may be stored. What has another form than it should is left for validation.
pub fn complete(definition: &mut Value, live: Option<&Value>) {
    if let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) {
        spec.entry("conversion").or_insert_with(|| json!({ "strategy": "None" }));
        if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut)
            && let Some(kind) = names.get("kind").and_then(Value::as_str).map(str::to_owned)
        {
            for (field, value) in [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))] {
                let given = names.entry(field).or_insert_with(|| json!(""));
                if given == "" {
                    *given = value.into();
                }
            }
        }
    }
    let storage = storage_version(definition).map(str::to_owned);
    let Some(fields) = definition.as_object_mut() else { return };
    let fresh = || json!({ "acceptedNames": { "kind": "", "plural": "" }, "conditions": [], "storedVersions": [] });
    let mut status = live.map_or_else(fresh, |live| live["status"].clone());
    if let (Some(stored), Some(storage)) = (status["storedVersions"].as_array_mut(), storage)
        && !stored.iter().any(|version| *version == storage)
    {
        stored.push(storage.into());
    }
    fields.insert("status".to_owned(), status);
    // A writer that leaves it out does not mean to leave the objects behind.
    if live.is_none_or(|live| live["metadata"]["deletionTimestamp"].is_null())
        && let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(finalizers) = metadata.entry("finalizers").or_insert_with(|| json!([])).as_array_mut()
        && !finalizers.iter().any(|held| held == FINALIZER)
    {
        finalizers.push(FINALIZER.into());
    }
}

/// The version that objects of a definition are stored in.
fn storage_version(definition: &Value) -> Option<&str> {
    let versions = definition["spec"]["versions"].as_array()?;
    versions.iter().find(|version| version["storage"] == true)?["name"].as_str()
}

/// Refuses to change or to delete (`new` is none) the definition of a kind that the program itself brings.
pub fn refuse_foreign(registry: &Registry, name: &str, live: Option<&Value>, new: Option<&Value>) -> Result<(), Status> {
    let same = live.zip(new).is_some_and(|(live, new)| live["spec"] == new["spec"] && live["status"] == new["status"]);
    if same || !registry.brings(name) {
        return Ok(());
    }
    let what = if new.is_some() { "changed" } else { "deleted" };
    let why = format!("is forbidden: the control plane itself brings this kind and rests on it; its definition cannot be {what}");
    Err(Status::about(Reason::Forbidden, GROUP, PLURAL, name, why))
}

impl Api {
    /// Refuses one more definition than there may be.
    pub fn check_room_for_definition(&self) -> Result<(), Status> {
        let count = self.storage.cache.kind(GROUP, PLURAL).map_or(0, |kind| kind.snapshot(0).objects.size());
        match count < MAX_DEFINITIONS {
            true => Ok(()),
            false => Err(Status::new(Reason::Forbidden, format!("there are {count} definitions already, and there may not be more"))),
        }
    }
}

/// A condition of a definition.
struct Condition {
    type_: &'static str,
    status: bool,
    reason: String,
    message: String,
}

/// Sets a condition in a status, with the time if it has changed.
fn set_condition(status: &mut Value, condition: &Condition, now: &str) {
    let state = if condition.status { "True" } else { "False" };
    let mut new = json!({
        "type": condition.type_, "status": state, "reason": condition.reason, "message": condition.message, "lastTransitionTime": now,
    });
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    match conditions.iter_mut().find(|known| known["type"] == condition.type_) {
        Some(known) => {
            if known["status"] == state {
                new["lastTransitionTime"] = known["lastTransitionTime"].clone();
            }
            *known = new;
        }
        None => conditions.push(new),
    }
}

/// Whether a condition is said to be true.
fn is_true(definition: &Value, type_: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| condition["type"] == type_ && condition["status"] == "True")
}
