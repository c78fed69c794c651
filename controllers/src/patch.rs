//! Status writes: only the fields that a writer owns, and only when they changed.

use serde::Serialize;
use serde_json::{Map, Value};

/// The merge patch that turns the fields of `old` into those of `new`, or `None` if they are the same. Fields named in
/// `foreign` have another writer and are left out.
pub fn status_patch<T: Serialize>(old: &T, new: &T, foreign: &[&str]) -> Result<Option<Value>, serde_json::Error> {
    let (mut old, mut new) = (serde_json::to_value(old)?, serde_json::to_value(new)?);
    for value in [&mut old, &mut new] {
        if let Value::Object(fields) = value {
            fields.retain(|name, _| !foreign.contains(&name.as_str()));
        }
    }
    Ok(merge_patch(&old, &new))
}

/// The merge patch (RFC 7386) that turns `old` into `new`, or `None` if they are the same.
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return Some(new.clone()) };
    let mut patch: Map<String, Value> =
        old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null)).collect();
    for (name, value) in new {
        if let Some(change) = merge_patch(old.get(name).unwrap_or(&Value::Null), value) {
            patch.insert(name.clone(), change);
        }
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_changed_fields_are_patched_and_removed_ones_become_null() {
        let patch = status_patch(&json!({"a": 1, "b": 2, "c": [1]}), &json!({"a": 1, "c": [2]}), &[]).unwrap();
        assert_eq!(patch.unwrap(), json!({"b": null, "c": [2]}));
    }

    #[test]
    fn what_is_gone_within_a_field_becomes_null_too() {
        let patch = merge_patch(&json!({"a": {"b": 1, "c": 2}}), &json!({"a": {"c": 2, "d": 3}}));
        assert_eq!(patch, Some(json!({"a": {"b": null, "d": 3}})));
    }

    #[test]
    fn the_fields_of_another_writer_are_never_touched() {
        let patch = status_patch(&json!({"observed": 1}), &json!({"observed": 2}), &["observed"]).unwrap();
        assert_eq!(patch, None);
    }
}
