//! Status writes: only the fields that a writer owns, and only when they changed.

use serde::Serialize;
use serde_json::{Map, Value};

/// The merge patch that turns the fields of `old` into those of `new`, or `None` if they are the same. Fields named in
/// `foreign` have another writer and are left out.
pub fn status_patch<T: Serialize>(old: &T, new: &T, foreign: &[&str]) -> Result<Option<Map<String, Value>>, serde_json::Error> {
    let (Value::Object(mut old), Value::Object(mut new)) = (serde_json::to_value(old)?, serde_json::to_value(new)?) else {
        return Ok(None);
    };
    for field in foreign {
        old.remove(*field);
        new.remove(*field);
    }
    let mut patch = Map::new();
    for field in old.keys() {
        if !new.contains_key(field) {
            patch.insert(field.clone(), Value::Null);
        }
    }
    for (field, value) in new {
        if old.get(&field) != Some(&value) {
            patch.insert(field, value);
        }
    }
    Ok((!patch.is_empty()).then_some(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_changed_fields_are_patched_and_removed_ones_become_null() {
        let patch = status_patch(&json!({"a": 1, "b": 2, "c": [1]}), &json!({"a": 1, "c": [2]}), &[]).unwrap();
        assert_eq!(Value::Object(patch.unwrap()), json!({"b": null, "c": [2]}));
    }

    #[test]
    fn the_fields_of_another_writer_are_never_touched() {
        let patch = status_patch(&json!({"observed": 1}), &json!({"observed": 2}), &["observed"]).unwrap();
        assert_eq!(patch, None);
    }
}
