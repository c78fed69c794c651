//! Secret: what is special about the kind. Its objects are encrypted at the border to the store, by [`seal`].

pub mod seal;

use crate::{
    builtin::schema_of,
    error::{Cause, CauseReason},
    registry::{Column, ResourceDef},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Map, Value};

/// What all values of a Secret may take together.
const MAX_BYTES: usize = 1 << 20;
/// The longest name of a value.
const MAX_NAME: usize = 253;

/// Whether a kind is Secret.
pub fn is_secret(def: &ResourceDef) -> bool {
    def.group.is_empty() && def.kind == "Secret"
}

/// The kind.
pub fn definition() -> ResourceDef {
    let mut schema = schema_of::<Secret>("A Secret holds values that are encrypted where they are stored.");
    schema["properties"]["type"]["default"] = "Opaque".into();
    ResourceDef {
        namespaced: true,
        columns: vec![Column::new("Type", ".type", "string", "What the values are for"), Column::age()],
        selectable_fields: vec!["type".into()],
        ..ResourceDef::builtin("", "Secret", schema)
    }
}

/// Puts the values that were written as texts among the others.
pub fn complete(def: &ResourceDef, object: &mut Value) {
    if !is_secret(def) {
        return;
    }
    let Some(fields) = object.as_object_mut() else { return };
    // What is no map of texts stays, for validation to refuse.
    let texts = match fields.get("stringData") {
        Some(Value::Object(texts)) if texts.values().all(Value::is_string) => texts.clone(),
        _ => return,
    };
    fields.remove("stringData");
    if texts.is_empty() {
        return;
    }
    let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
    if data.is_null() {
        *data = Value::Object(Map::new());
    }
    if let Value::Object(data) = data {
        data.extend(texts.into_iter().map(|(name, text)| (name, BASE64_STANDARD.encode(text.as_str().unwrap_or_default()).into())));
    }
}

/// Takes values out of what the schema says is wrong with them.
pub fn hide(causes: &mut [Cause]) {
    for cause in causes.iter_mut().filter(|cause| cause.field.starts_with("data.")) {
        cause.message = "Invalid value: it is not base64".into();
    }
}

/// What is wrong with a Secret beyond its schema. No message repeats a value.
pub fn validate(live: Option<&Value>, object: &Value) -> Vec<Cause> {
    let cause = |reason: CauseReason, field: String, message: &str| Cause { reason, message: message.to_owned(), field };
    let mut causes = Vec::new();
    let mut bytes = 0;
    for (name, value) in object["data"].as_object().into_iter().flatten() {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) || name == "." || name == ".." {
            let message = "Invalid value: a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
            causes.push(cause(CauseReason::FieldValueInvalid, format!("data[{name}]"), message));
        }
        match BASE64_STANDARD.decode(value.as_str().unwrap_or_default()) {
            Ok(value) => bytes += value.len(),
            Err(_) => causes.push(cause(CauseReason::FieldValueInvalid, format!("data[{name}]"), "Invalid value: it is not base64")),
        }
    }
    if bytes > MAX_BYTES {
        causes.push(cause(CauseReason::FieldValueTooLong, "data".into(), "Too long: may not be more than 1048576 bytes"));
    }
    let required: &[&str] = match object["type"].as_str() {
        Some("kubernetes.io/tls") => &["tls.crt", "tls.key"],
        Some("kubernetes.io/ssh-auth") => &["ssh-privatekey"],
        Some("kubernetes.io/dockerconfigjson") => &[".dockerconfigjson"],
        _ => &[],
    };
    for name in required.iter().filter(|name| object["data"].get(**name).is_none()) {
        causes.push(cause(CauseReason::FieldValueRequired, format!("data[{name}]"), "Required value"));
    }
    let Some(live) = live else { return causes };
    let differs = |field: &str| live.get(field) != object.get(field);
    if differs("type") {
        causes.push(cause(CauseReason::FieldValueInvalid, "type".into(), "Invalid value: field is immutable"));
    }
    if live["immutable"] == true {
        for field in ["immutable", "data"].into_iter().filter(|field| differs(field)) {
            causes.push(cause(CauseReason::FieldValueForbidden, field.into(), "Forbidden: field is immutable when `immutable` is set"));
        }
    }
    causes
}
