//! The metadata of every object: its fields, and what its names, labels and annotations may look like.

use crate::{
    error::{Cause, CauseReason},
    schema::{Schema, UnknownField},
};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Bytes that all annotations of an object may take together.
const ANNOTATIONS_BYTES: usize = 256 << 10;

/// The fields of ObjectMeta, as OpenAPI v3.
pub fn object_meta_schema() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let texts = |description: &str| json!({ "type": "object", "additionalProperties": { "type": "string" }, "description": description });
    json!({
        "type": "object",
        "description": "Metadata that every object has.",
        "properties": {
            "name": text("Name of the object, unique in its namespace for its kind. It cannot be changed."),
            "generateName": text("Prefix of a name that the server makes up, if no name is given."),
            "namespace": text("Namespace of the object. It cannot be changed."),
            "uid": text("Unique in time and space; set by the server."),
            "resourceVersion": text("Changes with every write. A write that gives one happens only if the object is still at it."),
            "generation": { "type": "integer", "format": "int64", "description": "Grows with every change of what is wanted; set by the server." },
            "creationTimestamp": { "type": "string", "format": "date-time", "description": "When the object was created; set by the server." },
            "deletionTimestamp": { "type": "string", "format": "date-time", "description": "When deletion was asked for; the object goes when its finalizers are gone." },
            "deletionGracePeriodSeconds": { "type": "integer", "format": "int64", "description": "Seconds that deletion may take." },
            "selfLink": text("No longer used."),
            "labels": texts("Names and values to select objects by."),
            "annotations": texts("Names and values for programs, not to be selected by."),
            "finalizers": { "type": "array", "items": { "type": "string" }, "x-kubernetes-list-type": "set", "description": "Who must let the object go before it is deleted." },
            "ownerReferences": {
                "type": "array",
                "description": "The objects that this one belongs to; it is deleted with the last of them.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["uid"],
                "items": {
                    "type": "object",
                    "required": ["apiVersion", "kind", "name", "uid"],
                    "properties": {
                        "apiVersion": text("API version of the owner."),
                        "kind": text("Kind of the owner."),
                        "name": text("Name of the owner."),
                        "uid": text("Uid of the owner."),
                        "controller": { "type": "boolean", "description": "The owner manages this object." },
                        "blockOwnerDeletion": { "type": "boolean", "description": "Foreground deletion of the owner waits for this object." },
                    },
                },
            },
            "managedFields": {
                "type": "array",
                "description": "Who set which field; kept by the server.",
                "items": {
                    "type": "object",
                    "properties": {
                        "manager": text("Who set the fields: the `fieldManager` of the request."),
                        "operation": text("How: `Apply` or `Update`."),
                        "apiVersion": text("API version of the object that the fields are of."),
                        "time": { "type": "string", "format": "date-time", "description": "When the set of fields, or what is in them, changed last." },
                        "fieldsType": text("Form of the set of fields: `FieldsV1`."),
                        "fieldsV1": {
                            "type": "object",
                            "description": "The set of fields, as a tree: `f:` and a name, `k:` and the keys of an item, `v:` and a value.",
                            "x-kubernetes-preserve-unknown-fields": true,
                        },
                        "subresource": text("The subresource by which they were set, empty for the object itself."),
                    },
                },
            },
        },
    })
}

static META: LazyLock<Option<Schema>> =
    LazyLock::new(|| Schema::compile(&json!({ "type": "object", "properties": { "meta": object_meta_schema() } })).ok());

/// Takes unknown fields out of an object's metadata and tells them.
pub fn prune(object: &mut Value) -> Vec<UnknownField> {
    let (Some(schema), Some(meta)) = (&*META, object.get_mut("metadata")) else { return Vec::new() };
    let mut wrapped = json!({ "meta": meta.take() });
    let unknown = schema.prune(&mut wrapped);
    *meta = wrapped["meta"].take();
    unknown.into_iter().map(|field| UnknownField { path: field.path.replacen("meta", "metadata", 1), ..field }).collect()
}

/// Everything that is wrong with an object's metadata; `wrong_name` says what is wrong with a name.
pub fn validate(meta: &Value, namespaced: bool, wrong_name: fn(&str) -> Option<String>) -> Vec<Cause> {
    let Some(schema) = &*META else { return Vec::new() };
    let mut causes = schema.validate(&json!({ "meta": meta }), None);
    for cause in &mut causes {
        cause.message = cause.message.replacen(&cause.field, &cause.field.replacen("meta", "metadata", 1), 1);
        cause.field = cause.field.replacen("meta", "metadata", 1);
    }
    if !causes.is_empty() {
        return causes;
    }
    let text = |field: &str| meta[field].as_str().unwrap_or_default();
    match text("name") {
        "" if text("generateName").is_empty() => {
            causes.push(cause(CauseReason::FieldValueRequired, "metadata.name", "Required value: name or generateName is required".into()));
        }
        "" => {}
        name => causes.extend(wrong_name(name).map(|what| invalid("metadata.name", name, what))),
    }
    // A generated name ends in letters, so its prefix may end in a dash.
    let prefix = text("generateName").trim_end_matches('-');
    if !prefix.is_empty() {
        causes.extend(wrong_name(prefix).map(|what| invalid("metadata.generateName", text("generateName"), what)));
    }
    match (namespaced, text("namespace")) {
        (false, namespace) if !namespace.is_empty() => {
            causes.push(cause(CauseReason::FieldValueForbidden, "metadata.namespace", "Forbidden: not allowed on this type".into()));
        }
        (true, namespace) if !namespace.is_empty() => {
            causes.extend(label(namespace).map(|what| invalid("metadata.namespace", namespace, what)))
        }
        _ => {}
    }
    for (key, value) in meta["labels"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        causes.extend(qualified(key).map(|what| invalid("metadata.labels", key, what)));
        if !label_value(value) {
            let what = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character, and be no more than 63 characters";
            causes.push(invalid("metadata.labels", value, what.into()));
        }
    }
    let mut bytes = 0;
    for (key, value) in meta["annotations"].as_object().into_iter().flatten() {
        bytes += key.len() + value.as_str().unwrap_or_default().len();
        causes.extend(qualified(&key.to_lowercase()).map(|what| invalid("metadata.annotations", key, what)));
    }
    if bytes > ANNOTATIONS_BYTES {
        let message = format!("Too long: may not be more than {ANNOTATIONS_BYTES} bytes");
        causes.push(cause(CauseReason::FieldValueTooLong, "metadata.annotations", message));
    }
    for finalizer in meta["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        causes.extend(qualified(finalizer).map(|what| invalid("metadata.finalizers", finalizer, what)));
    }
    causes
}

fn cause(reason: CauseReason, field: &str, message: String) -> Cause {
    Cause { reason, message, field: field.to_owned() }
}

fn invalid(field: &str, value: &str, what: String) -> Cause {
    let shown: String = value.chars().take(80).collect();
    let dots = if shown.len() < value.len() { "..." } else { "" };
    cause(CauseReason::FieldValueInvalid, field, format!("Invalid value: \"{shown}{dots}\": {what}"))
}

fn dns_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !text.is_empty()
        && text.bytes().all(|b| inner(b) || b == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

/// What is wrong with a DNS-1123 label.
pub fn label(text: &str) -> Option<String> {
    if text.len() > 63 {
        return Some("must be no more than 63 bytes".into());
    }
    (!dns_label(text)).then(|| {
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc')".into()
    })
}

/// What is wrong with a DNS-1123 subdomain.
pub fn subdomain(text: &str) -> Option<String> {
    if text.len() > 253 {
        return Some("must be no more than 253 bytes".into());
    }
    (!text.split('.').all(dns_label)).then(|| {
        "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com')".into()
    })
}

fn qualified_name(name: &str) -> bool {
    !name.is_empty() && label_value(name)
}

/// What is wrong with a key of a label or annotation.
pub fn qualified(key: &str) -> Option<String> {
    let good = match key.split_once('/') {
        Some((prefix, name)) => subdomain(prefix).is_none() && qualified_name(name),
        None => qualified_name(key),
    };
    (!good).then(|| {
        "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character, and be no more than 63 characters; an optional prefix must be a DNS subdomain and '/' (e.g. 'example.com/MyName')".into()
    })
}

/// Whether a text can be the value of a label.
pub fn label_value(value: &str) -> bool {
    value.len() <= 63
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && value.bytes().next().is_none_or(|b| b.is_ascii_alphanumeric())
        && value.bytes().last().is_none_or(|b| b.is_ascii_alphanumeric())
}
