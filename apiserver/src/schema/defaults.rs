//! Defaults: what an object leaves out and its schema has a value for, at every depth.

use super::Node;
use serde_json::Value;

pub(super) fn apply(node: &Node, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, property) in &node.properties {
                if let Some(default) = &property.default {
                    let missing = match fields.get(name) {
                        None => true,
                        Some(Value::Null) => !property.nullable,
                        Some(_) => false,
                    };
                    if missing {
                        fields.insert(name.clone(), default.clone());
                    }
                }
            }
            for (name, field) in fields.iter_mut() {
                if let Some(property) = node.field(name) {
                    apply(property, field);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = &node.items {
                items.iter_mut().for_each(|value| apply(item, value));
            }
        }
        _ => {}
    }
}
