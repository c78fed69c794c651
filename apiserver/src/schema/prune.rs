//! Pruning: fields that the schema does not know are taken out and told, nulls where none are allowed are taken out, and
//! whole numbers that are written with a point lose it: JSON Schema takes `2.0` for an integer, readers of the object do not.

use super::{Node, join};
use serde_json::Value;
use std::fmt;

/// A field that the schema does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownField {
    /// Path of the field.
    pub path: String,
    /// A known field of nearly the same name.
    pub suggestion: Option<String>,
}

impl fmt::Display for UnknownField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown field {:?}", self.path)?;
        match &self.suggestion {
            Some(name) => write!(f, " (did you mean {name:?}?)"),
            None => Ok(()),
        }
    }
}

pub(super) fn prune(root: &Node, object: &mut Value) -> Vec<UnknownField> {
    let mut unknown = Vec::new();
    if let Value::Object(fields) = object {
        // These three are checked by the API server itself, whatever the schema says of them.
        let own: Vec<_> = ["apiVersion", "kind", "metadata"].into_iter().filter_map(|name| fields.remove_entry(name)).collect();
        walk(root, object, "", &mut unknown);
        if let Value::Object(fields) = object {
            fields.extend(own);
        }
    }
    unknown
}

/// The same for a part of an object.
pub(super) fn prune_value(node: &Node, value: &mut Value) -> Vec<UnknownField> {
    let mut unknown = Vec::new();
    walk(node, value, "", &mut unknown);
    unknown
}

fn walk(node: &Node, value: &mut Value, path: &str, unknown: &mut Vec<UnknownField>) {
    match value {
        Value::Object(fields) => {
            // A schema that says nothing of fields (a plain object, an atomic blob) knows none, as in Kubernetes.
            let known = |name: &str| {
                node.field(name).is_some()
                    || node.preserve_unknown
                    || (node.type_.is_empty() && node.properties.is_empty())
                    || (node.embedded && ["apiVersion", "kind", "metadata"].contains(&name))
            };
            fields.retain(|name, field| {
                if !known(name) {
                    unknown.push(UnknownField { path: join(path, name), suggestion: suggest(node, name) });
                    return false;
                }
                // A null stands for nothing: the absence of the field, or its default, which is put in later.
                !field.is_null() || node.field(name).is_none_or(|property| property.nullable || property.default.is_some())
            });
            for (name, field) in fields.iter_mut() {
                if let Some(property) = node.field(name) {
                    walk(property, field, &join(path, name), unknown);
                }
            }
        }
        Value::Array(items) => {
            if let Some(item) = &node.items {
                for (index, value) in items.iter_mut().enumerate() {
                    walk(item, value, &format!("{path}[{index}]"), unknown);
                }
            }
        }
        Value::Number(number) if node.type_ == "integer" && number.is_f64() => {
            // Beyond 2^53 a float does not say which integer it is, and validation refuses what is no integer.
            if let Some(whole) = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0) {
                *value = (whole as i64).into();
            }
        }
        _ => {}
    }
}

fn suggest(node: &Node, name: &str) -> Option<String> {
    let near = node.properties.keys().map(|known| (distance(&known.to_lowercase(), &name.to_lowercase()), known));
    near.filter(|(distance, known)| *distance <= 2 && *distance < known.len()).min().map(|(_, known)| known.clone())
}

/// How many letters must be changed, put in, taken out or swapped with their neighbour to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let least = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                if swapped { least.min(rows[i - 2][j - 2] + 1) } else { least }
            };
        }
    }
    rows[a.len()][b.len()]
}
