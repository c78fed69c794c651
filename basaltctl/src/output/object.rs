//! Objects as YAML and JSON, without the bookkeeping that nobody asked for.

use crate::error::Error;
use serde_json::{Value, json};

/// `object` without `metadata.managedFields`.
pub fn without_managed_fields(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Several objects as one `List`.
pub fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// `value` as YAML.
pub fn yaml(value: &Value) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|e| Error::Bug(format!("cannot write YAML: {e}")))
}

/// `value` as indented JSON.
pub fn json(value: &Value) -> String {
    format!("{value:#}\n")
}
