//! A kind with every sort of list and map, and short ways to write to it.

use crate::{
    ResourceDef,
    apply::{ApplyError, Manager, apply, record_update},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// `spec` has scalars, nested objects, a keyed list, a set, an atomic list, an atomic map, a free map and unknown fields.
pub(super) fn kind() -> ResourceDef {
    let item = json!({"type": "object", "properties": {
        "name": {"type": "string"},
        "protocol": {"type": "string", "default": "TCP"},
        "size": {"type": "integer"},
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
    }});
    let keyed = |keys: &[&str]| {
        json!({
            "type": "array", "items": item.clone(),
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys,
        })
    };
    let schema = json!({"type": "object", "properties": {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": {"type": "object", "properties": {
            "cpus": {"type": "integer"},
            "memory": {"type": "string"},
            "disks": keyed(&["name"]),
            "ports": keyed(&["name", "protocol"]),
            "groups": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "args": {"type": "array", "items": {"type": "string"}},
            "ref": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {
                "kind": {"type": "string"}, "name": {"type": "string"},
            }},
            "options": {"type": "object", "additionalProperties": {"type": "string"}},
            "boot": {"type": "object", "properties": {
                "image": {"type": "string"}, "cmdline": {"type": "string"},
            }},
            "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }},
        "status": {"type": "object", "properties": {
            "phase": {"type": "string"},
            "conditions": {
                "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                "items": {"type": "object", "properties": {"type": {"type": "string"}, "status": {"type": "string"}}},
            },
        }},
    }});
    ResourceDef {
        group: "basalt.dev".into(),
        version: "v1alpha1".into(),
        kind: "Machine".into(),
        list_kind: "MachineList".into(),
        plural: "machines".into(),
        singular: "machine".into(),
        short_names: vec![],
        categories: vec![],
        namespaced: true,
        has_status: true,
        columns: vec![],
        schema: Arc::new(schema),
        selectable_fields: vec![],
        strategic_merge: false,
        scale: None,
    }
}

/// The time `seconds` after ten o'clock.
pub(super) fn at(seconds: i64) -> Timestamp {
    let ten: Timestamp = "2026-11-23T10:00:00Z".parse().unwrap();
    Timestamp::from_second(ten.as_second() + seconds).unwrap()
}

pub(super) fn by(name: &str) -> Manager<'_> {
    Manager { name, subresource: "" }
}

pub(super) fn machine(spec: Value) -> Value {
    json!({"apiVersion": "basalt.dev/v1alpha1", "kind": "Machine", "metadata": {"name": "m"}, "spec": spec})
}

pub(super) fn labelled(labels: Value) -> Value {
    json!({"apiVersion": "basalt.dev/v1alpha1", "kind": "Machine", "metadata": {"name": "m", "labels": labels}})
}

/// An object that `manager` created.
pub(super) fn created(manager: &str, mut object: Value) -> Value {
    record_update(None, &mut object, &kind(), by(manager), at(0));
    object
}

/// The object after `manager` changed it by `change`.
pub(super) fn updated(manager: Manager<'_>, live: &Value, seconds: i64, change: impl FnOnce(&mut Value)) -> Value {
    let mut new = live.clone();
    change(&mut new);
    record_update(Some(live), &mut new, &kind(), manager, at(seconds));
    new
}

pub(super) fn try_apply(manager: &str, live: Option<&Value>, intent: &Value) -> Result<Value, ApplyError> {
    apply(live, intent, &kind(), by(manager), false, at(100))
}

/// The object after `manager` applied `intent`, which must go well.
pub(super) fn applied(manager: &str, live: Option<&Value>, intent: &Value) -> Value {
    try_apply(manager, live, intent).unwrap()
}

pub(super) fn forced(manager: &str, live: &Value, intent: &Value) -> Value {
    apply(Some(live), intent, &kind(), by(manager), true, at(100)).unwrap()
}

/// `fieldsV1` of an owner; null if it has no entry.
pub(super) fn owned(object: &Value, manager: &str, operation: &str) -> Value {
    entry(object, manager, operation)["fieldsV1"].clone()
}

/// The entry of an owner; null if it has none.
pub(super) fn entry(object: &Value, manager: &str, operation: &str) -> Value {
    let mut found = entries(object).into_iter().filter(|e| e["manager"] == manager && e["operation"] == operation);
    let entry = found.next().unwrap_or_default();
    assert_eq!(found.next(), None, "{manager} has two entries for {operation}");
    entry
}

pub(super) fn entries(object: &Value) -> Vec<Value> {
    object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default()
}

/// Messages of the conflicts that an apply fails with.
pub(super) fn conflicts(manager: &str, live: &Value, intent: &Value) -> Vec<String> {
    match try_apply(manager, Some(live), intent) {
        Err(ApplyError::Conflicts(conflicts)) => {
            conflicts.into_iter().map(|c| format!("{} {} {}", c.manager, c.operation, c.path)).collect()
        }
        other => panic!("no conflict: {other:?}"),
    }
}
