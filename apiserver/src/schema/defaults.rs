//! Defaults: what an object leaves out and its schema has a value for, at every depth.

use super::Node;
use serde_json::Value;

pub(super) fn apply(node: &Node, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in &node.properties {
                if let Some(default) = &property.default
                    && !fields.contains_key(name)
                {
                    fields.insert(name.clone(), default.clone());
                }
            }
            for (name, field) in fields.iter_mut() {
                if let Some(property) = node.field(name) {
                    fill(property, field);
                    apply(property, field);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = &node.items {
                for value in items {
                    fill(item, value);
                    apply(item, value);
                }
            }
        }
        _ => {}
    }
}

/// A null where none is allowed becomes the default.
fn fill(node: &Node, value: &mut Value) {
    if let (Value::Null, false, Some(default)) = (&*value, node.nullable, &node.default) {
        *value = default.clone();
    }
}
