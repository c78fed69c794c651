//! The kinds that the API server needs itself: Namespace, Event, Lease and CustomResourceDefinition, with the schemas of Kubernetes's own types.

use crate::{
    access, definitions,
    registry::{Column, ResourceDef},
};
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Event, Namespace},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use schemars::JsonSchema;
use serde_json::{Map, Value, json};

/// The finalizer in a Namespace's spec, which goes when the namespace is empty.
pub const NAMESPACE_FINALIZER: &str = "kubernetes";

/// The built-in kinds.
pub fn definitions() -> Vec<ResourceDef> {
    let age = Column::age();
    let def = |group: &str, kind: &str, short: &str, namespaced, has_status, columns, schema| ResourceDef {
        short_names: Some(short.to_owned()).filter(|s| !s.is_empty()).into_iter().collect(),
        namespaced,
        has_status,
        columns,
        ..ResourceDef::builtin(group, kind, schema)
    };
    let mut namespace = def(
        "",
        "Namespace",
        "ns",
        false,
        true,
        vec![Column::new("Status", ".status.phase", "string", "Active or Terminating"), age.clone()],
        namespace_schema(),
    );
    namespace.selectable_fields = vec!["status.phase".to_owned()];
    let mut event = def(
        "",
        "Event",
        "ev",
        true,
        false,
        vec![
            Column::new("Last Seen", ".lastTimestamp", "date", "Time since it last happened"),
            Column::new("Type", ".type", "string", "Normal or Warning"),
            Column::new("Reason", ".reason", "string", "What happened, in a word"),
            Column::new("Object", ".involvedObject.name", "string", "The object that it happened to"),
            Column::new("Message", ".message", "string", "What happened"),
            Column { priority: 1, ..Column::new("Count", ".count", "integer", "How often it happened") },
        ],
        schema_of::<Event>("An Event says what happened to an object."),
    );
    let fields = [
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ];
    event.selectable_fields = fields.map(str::to_owned).to_vec();
    let lease = def(
        "coordination.k8s.io",
        "Lease",
        "",
        true,
        false,
        vec![Column::new("Holder", ".spec.holderIdentity", "string", "Who holds the lease"), age],
        schema_of::<Lease>("A Lease is held by renewing it."),
    );
    let mut definition = def(
        definitions::GROUP,
        "CustomResourceDefinition",
        "crd",
        false,
        true,
        vec![Column::new("Created At", ".metadata.creationTimestamp", "date", "Time since creation")],
        definition_schema(),
    );
    definition.short_names.push("crds".into());
    definition.categories = vec!["api-extensions".into()];
    let mut definitions = vec![namespace, event, lease, definition];
    definitions.extend(access::kinds::definitions());
    definitions.extend(access::review::definitions());
    definitions.push(access::token::definition());
    definitions
}

fn namespace_schema() -> Value {
    let mut schema = schema_of::<Namespace>("A Namespace holds objects apart from those of other namespaces.");
    // The generated schema leaves out how lists are merged.
    if let Some(Value::Object(conditions)) = schema.pointer_mut("/properties/status/properties/conditions") {
        conditions.insert("x-kubernetes-list-type".into(), "map".into());
        conditions.insert("x-kubernetes-list-map-keys".into(), json!(["type"]));
    }
    schema
}

fn definition_schema() -> Value {
    let mut schema = schema_of::<CustomResourceDefinition>("A CustomResourceDefinition adds a kind to those that are served.");
    if let Some(Value::Object(conditions)) = schema.pointer_mut("/properties/status/properties/conditions") {
        conditions.insert("x-kubernetes-list-type".into(), "map".into());
        conditions.insert("x-kubernetes-list-map-keys".into(), json!(["type"]));
    }
    schema
}

/// A type's schema in structural form: without references, and without what structural schemas may not say.
pub fn schema_of<T: JsonSchema>(description: &str) -> Value {
    let root = schemars::generate::SchemaSettings::openapi3().into_generator().into_root_schema_for::<T>();
    let root = root.to_value();
    let definitions = root["components"]["schemas"].as_object().or_else(|| root["$defs"].as_object()).cloned().unwrap_or_default();
    let mut schema = inline(&root, &definitions, 0);
    if let Value::Object(fields) = &mut schema {
        fields.insert("description".into(), description.into());
        for own in ["$schema", "components", "$defs", "title"] {
            fields.remove(own);
        }
        if let Some(Value::Object(properties)) = fields.get_mut("properties") {
            for own in ["apiVersion", "kind", "metadata"] {
                properties.remove(own);
            }
        }
        if let Some(Value::Array(required)) = fields.get_mut("required") {
            required.retain(|name| name != "metadata");
        }
    }
    schema
}

/// Definitions may refer to themselves; no type of ours is deeper than this.
const MAX_INLINE: usize = 24;

fn inline(schema: &Value, definitions: &Map<String, Value>, depth: usize) -> Value {
    if depth > MAX_INLINE {
        return json!({ "x-kubernetes-preserve-unknown-fields": true });
    }
    match schema {
        Value::Object(fields) => {
            if let Some(name) = fields.get("$ref").and_then(|r| r.as_str()?.rsplit('/').next()) {
                if name.ends_with(".JSONSchemaProps") {
                    // It contains itself. What it may say is checked where definitions are.
                    return json!({ "type": "object", "description": "Schema of the object.", "x-kubernetes-preserve-unknown-fields": true });
                }
                let mut target = inline(definitions.get(name).unwrap_or(&Value::Null), definitions, depth + 1);
                if let (Value::Object(target), Some(description)) = (&mut target, fields.get("description")) {
                    target.insert("description".into(), description.clone());
                }
                return target;
            }
            // A single alternative is how a reference with a description of its own is written.
            if let Some([only]) = fields.get("allOf").and_then(|a| a.as_array().map(Vec::as_slice)) {
                let mut target = inline(only, definitions, depth + 1);
                if let (Value::Object(target), Some(description)) = (&mut target, fields.get("description")) {
                    target.insert("description".into(), description.clone());
                }
                return target;
            }
            fields.iter().map(|(name, value)| (name.clone(), inline(value, definitions, depth + 1))).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(|item| inline(item, definitions, depth + 1)).collect(),
        other => other.clone(),
    }
}
