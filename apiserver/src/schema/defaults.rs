//! Defaults: what an object leaves out and its schema has a value for, at every depth.

use super::{Node, join, prune, validate};
use crate::error::{Cause, CauseReason};
use serde_json::Value;

/// What is wrong with the defaults of a schema: each must be as its own schema says.
pub(super) fn check(node: &Node, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    if let Some(default) = &node.default {
        let at = join(path, "default");
        let mut pruned = default.clone();
        for unknown in prune::prune_value(node, &mut pruned) {
            let message = format!("Invalid value: {default}: must not have unknown fields: {unknown}");
            causes.push(Cause { reason: CauseReason::FieldValueInvalid, message, field: at.clone() });
        }
        apply(node, &mut pruned);
        causes.extend(validate::validate(node, &pruned).into_iter().map(|cause| {
            let field = if cause.field.is_empty() { at.clone() } else { format!("{at}.{}", cause.field) };
            Cause { field, ..cause }
        }));
    }
    for (name, property) in &node.properties {
        causes.extend(check(property, &join(path, &format!("properties[{name}]"))));
    }
    for (name, child) in [("additionalProperties", &node.additional), ("items", &node.items)] {
        causes.extend(child.iter().flat_map(|child| check(child, &join(path, name))));
    }
    causes
}

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
