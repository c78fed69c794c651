//! The way over from client-side apply: `kubectl apply` keeps what it applied in an annotation and owns it by plain
//! updates. `kubectl apply --server-side` of the same object takes those fields over without a conflict, and keeps the
//! annotation true as long as it is there.

use super::{
    fields::Fields,
    schema::{Schema, Scope},
    walk::{compare, fields_of},
};
use serde_json::{Map, Value};

/// Where client-side apply keeps what was applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The field manager of `kubectl apply --server-side`.
const KUBECTL: &str = "kubectl";
/// The most that all annotations of an object may take.
const MOST_ANNOTATION_BYTES: usize = 256 * 1024;

/// True for a writer that may take over what client-side apply owns.
pub(super) fn takes_over(manager: &str, scope: Scope) -> bool {
    manager == KUBECTL && scope != Scope::Status
}

fn last_applied(object: &Value) -> Option<&str> {
    let annotation = object.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    Some(annotation).filter(|text| !text.is_empty())
}

/// What client-side apply wrote into `live`, read from the annotation.
pub(super) fn configuration(live: &Value, api_version: &str) -> Option<Value> {
    let configuration: Value = serde_json::from_str(last_applied(live)?).ok()?;
    (configuration.get("apiVersion")?.as_str()? == api_version).then_some(configuration)
}

/// The fields of that configuration that still are as it says.
pub(super) fn held<'a>(configuration: &'a Value, live: &'a Value, schema: Schema<'a>, scope: Scope) -> Fields<'a> {
    let mut held = fields_of(configuration, schema, scope, &mut Vec::new());
    let change = compare(Some(configuration), live, schema, scope);
    held.remove(&change.changed);
    held.remove(&change.removed);
    held
}

/// Keeps the annotation of the merged object true, if it is there.
pub(super) fn refresh(merged: &mut Value, intent: &Value) {
    if last_applied(merged).is_none() {
        return;
    }
    let mut configuration = intent.clone();
    if let Some(metadata) = configuration.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    let mut text = configuration.to_string() + "\n";
    let annotations = merged.get_mut("metadata").and_then(|m| m.get_mut("annotations")).and_then(Value::as_object_mut);
    let Some(annotations) = annotations else { return };
    if size_of_others(annotations) + LAST_APPLIED.len() + text.len() > MOST_ANNOTATION_BYTES {
        text.clear();
    }
    annotations.insert(LAST_APPLIED.to_owned(), text.into());
}

fn size_of_others(annotations: &Map<String, Value>) -> usize {
    let others = annotations.iter().filter(|(name, _)| *name != LAST_APPLIED);
    others.map(|(name, value)| name.len() + value.as_str().map_or(0, str::len)).sum()
}
