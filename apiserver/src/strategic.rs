//! Strategic merge patches: merge patches that know which lists are merged item by item, and carry directives.
//!
//! kubectl sends them for the kinds that it knows from Kubernetes. A list whose schema is of type `map` is merged by its
//! first key, one of type `set` by value; any other list is replaced. The directives are `$patch`, `$retainKeys`,
//! `$deleteFromPrimitiveList/<field>` and `$setElementOrder/<field>`.

use crate::metadata::object_meta_schema;
use serde_json::{Map, Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

/// What a patch says that cannot be done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    /// A `$patch` with another value than `merge`, `replace` or `delete`.
    #[error("{path}: $patch is {value}: expected \"merge\", \"replace\" or \"delete\"")]
    Operation {
        /// Where.
        path: String,
        /// What it is.
        value: String,
    },
    /// A directive that is not known, or has another form than it should.
    #[error(
        "{path}: the directive {name:?} is not known or is not a list: expected $patch, $retainKeys, $deleteFromPrimitiveList/<field> or $setElementOrder/<field>"
    )]
    Directive {
        /// Where.
        path: String,
        /// Its name.
        name: String,
    },
    /// An item of a list that is merged by a key has none.
    #[error("{path}[{index}]: the item has no {key:?}, by which the list is merged")]
    NoKey {
        /// The list.
        path: String,
        /// Place in the patch's list.
        index: usize,
        /// The key.
        key: String,
    },
}

/// The schema of `metadata`, which those of the kinds leave out.
static METADATA: LazyLock<Value> = LazyLock::new(|| json!({ "properties": { "metadata": object_meta_schema() } }));

/// Merges a patch into an object of a kind with this schema.
pub fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>, schema: &Value) -> Result<(), StrategicError> {
    let (metadata, own) = patch.clone().into_iter().partition(|(name, _)| name == "metadata");
    merge_fields(target, &own, schema, "")?;
    merge_fields(target, &metadata, &METADATA, "")
}

fn merge_fields(target: &mut Map<String, Value>, patch: &Map<String, Value>, schema: &Value, path: &str) -> Result<(), StrategicError> {
    match operation(patch, path)? {
        Operation::Merge => {}
        Operation::Replace => {
            *target = plain(patch);
            return Ok(());
        }
        Operation::Delete => {
            target.clear();
            return Ok(());
        }
    }
    for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let schema = field(schema, name);
        match (target.get_mut(name), value) {
            (_, Value::Null) => {
                target.remove(name);
            }
            (Some(Value::Object(target)), Value::Object(patch)) => merge_fields(target, patch, schema, &path)?,
            (Some(Value::Array(target)), Value::Array(patch)) => merge_list(target, patch, schema, &path)?,
            (_, Value::Object(patch)) => {
                let mut made = Map::new();
                merge_fields(&mut made, patch, schema, &path)?;
                target.insert(name.clone(), made.into());
            }
            (_, Value::Array(patch)) => {
                let mut made = Vec::new();
                merge_list(&mut made, patch, schema, &path)?;
                target.insert(name.clone(), made.into());
            }
            (_, value) => {
                target.insert(name.clone(), value.clone());
            }
        }
    }
    direct(target, patch, schema, path)
}

/// Follows the directives beside the fields.
fn direct(target: &mut Map<String, Value>, patch: &Map<String, Value>, schema: &Value, path: &str) -> Result<(), StrategicError> {
    for (name, value) in patch.iter().filter(|(name, _)| name.starts_with('$') && *name != "$patch") {
        let unknown = || StrategicError::Directive { path: path.to_owned(), name: name.clone() };
        let listed = value.as_array().ok_or_else(unknown)?;
        match name.split_once('/') {
            None if name == "$retainKeys" => target.retain(|field, _| listed.iter().any(|kept| kept.as_str() == Some(field))),
            Some(("$deleteFromPrimitiveList", name)) => {
                if let Some(Value::Array(items)) = target.get_mut(name) {
                    items.retain(|item| !listed.contains(item));
                }
            }
            Some(("$setElementOrder", name)) => {
                if let Some(Value::Array(items)) = target.get_mut(name) {
                    let key = merge_key(field(schema, name));
                    order(items, listed, |item| key.map_or(item, |key| &item[key]));
                }
            }
            _ => return Err(unknown()),
        }
    }
    Ok(())
}

fn merge_list(target: &mut Vec<Value>, patch: &[Value], schema: &Value, path: &str) -> Result<(), StrategicError> {
    match merge_key(schema) {
        Some(key) => return merge_by_key(target, patch, key, &schema["items"], path),
        None if schema["x-kubernetes-list-type"] == "set" => {
            let mut known: HashSet<String> = target.iter().map(Value::to_string).collect();
            target.extend(patch.iter().filter(|item| known.insert(item.to_string())).cloned());
        }
        None => *target = patch.to_vec(),
    }
    Ok(())
}

fn merge_by_key(target: &mut Vec<Value>, patch: &[Value], key: &str, schema: &Value, path: &str) -> Result<(), StrategicError> {
    let replaces =
        |item: &Value| item.as_object().is_some_and(|fields| fields.len() == 1 && fields.get("$patch").is_some_and(|p| p == "replace"));
    if patch.iter().any(replaces) {
        target.clear();
    }
    // What is deleted leaves its slot empty, so that the places of the others stay true.
    let mut slots: Vec<Option<Value>> = std::mem::take(target).into_iter().map(Some).collect();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, id) in slots.iter().enumerate().filter_map(|(place, item)| Some((place, item.as_ref()?.get(key)?))) {
        places.entry(id.to_string()).or_insert(place);
    }
    for (index, item) in patch.iter().enumerate().filter(|(_, item)| !replaces(item)) {
        let no_key = || StrategicError::NoKey { path: path.to_owned(), index, key: key.to_owned() };
        let fields = item.as_object().ok_or_else(no_key)?;
        let id = fields.get(key).ok_or_else(no_key)?.to_string();
        let path = format!("{path}[{index}]");
        match (operation(fields, &path)?, places.get(&id).and_then(|place| slots.get_mut(*place))) {
            (Operation::Delete, Some(slot)) => {
                *slot = None;
                places.remove(&id);
            }
            (Operation::Delete, None) => {}
            (_, Some(Some(Value::Object(known)))) => merge_fields(known, fields, schema, &path)?,
            _ => {
                places.insert(id, slots.len());
                slots.push(Some(plain(fields).into()));
            }
        }
    }
    target.extend(slots.into_iter().flatten());
    Ok(())
}

/// Brings the listed items into their order; the others keep their places before and behind them.
fn order(items: &mut Vec<Value>, listed: &[Value], id: impl Fn(&Value) -> &Value) {
    let ranks: HashMap<String, usize> = listed.iter().enumerate().map(|(rank, listed)| (id(listed).to_string(), rank)).collect();
    let (mut ranked, mut others) = (Vec::new(), Vec::new());
    for (place, item) in std::mem::take(items).into_iter().enumerate() {
        match ranks.get(&id(&item).to_string()) {
            Some(rank) => ranked.push((*rank, place, item)),
            None => others.push((place, item)),
        }
    }
    ranked.sort_by_key(|(rank, place, _)| (*rank, *place));
    let mut others = others.into_iter().peekable();
    for (_, place, item) in ranked {
        while let Some((_, other)) = others.next_if(|(other, _)| *other < place) {
            items.push(other);
        }
        items.push(item);
    }
    items.extend(others.map(|(_, item)| item));
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Merge,
    Replace,
    Delete,
}

fn operation(patch: &Map<String, Value>, path: &str) -> Result<Operation, StrategicError> {
    match patch.get("$patch") {
        None => Ok(Operation::Merge),
        Some(value) => match value.as_str() {
            Some("merge") => Ok(Operation::Merge),
            Some("replace") => Ok(Operation::Replace),
            Some("delete") => Ok(Operation::Delete),
            _ => Err(StrategicError::Operation { path: path.to_owned(), value: value.to_string() }),
        },
    }
}

/// The fields without the directives and the nulls, at every depth.
fn plain(patch: &Map<String, Value>) -> Map<String, Value> {
    let kept = patch.iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null());
    kept.map(|(name, value)| (name.clone(), value.as_object().map_or_else(|| value.clone(), |fields| plain(fields).into()))).collect()
}

fn field<'s>(schema: &'s Value, name: &str) -> &'s Value {
    match &schema["properties"][name] {
        Value::Null => &schema["additionalProperties"],
        property => property,
    }
}

fn merge_key(schema: &Value) -> Option<&str> {
    (schema["x-kubernetes-list-type"] == "map").then(|| schema["x-kubernetes-list-map-keys"][0].as_str()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({ "properties": {
            "finalizers": { "x-kubernetes-list-type": "set" },
            "owners": { "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"], "items": { "properties": {} } },
        } })
    }

    fn merged(target: Value, patch: Value) -> Result<Value, StrategicError> {
        let Value::Object(mut target) = target else { panic!("{target}") };
        merge(&mut target, patch.as_object().unwrap(), &schema()).map(|()| target.into())
    }

    #[test]
    fn maps_are_merged_and_lists_by_what_their_schema_says() {
        let live =
            json!({ "labels": { "a": "1", "b": "2" }, "finalizers": ["x", "y"], "other": [1, 2], "owners": [{ "uid": "1", "n": "a" }] });
        let cases = [
            (json!({ "labels": { "a": null, "c": "3" } }), "labels", json!({ "b": "2", "c": "3" })),
            (json!({ "labels": { "$patch": "replace", "c": "3" } }), "labels", json!({ "c": "3" })),
            (json!({ "labels": { "$retainKeys": ["a"], "a": "5" } }), "labels", json!({ "a": "5" })),
            (json!({ "other": [3] }), "other", json!([3])),
            (json!({ "finalizers": ["y", "z"] }), "finalizers", json!(["x", "y", "z"])),
            (json!({ "$deleteFromPrimitiveList/finalizers": ["x"] }), "finalizers", json!(["y"])),
            (json!({ "finalizers": ["z"], "$setElementOrder/finalizers": ["z", "y"] }), "finalizers", json!(["x", "z", "y"])),
            (json!({ "owners": [{ "uid": "1", "m": "b" }] }), "owners", json!([{ "uid": "1", "n": "a", "m": "b" }])),
            (json!({ "owners": [{ "uid": "2" }] }), "owners", json!([{ "uid": "1", "n": "a" }, { "uid": "2" }])),
            (json!({ "owners": [{ "uid": "1", "$patch": "delete" }] }), "owners", json!([])),
            (json!({ "owners": [{ "uid": "2" }, { "$patch": "replace" }] }), "owners", json!([{ "uid": "2" }])),
            (
                json!({ "owners": [{ "uid": "2" }], "$setElementOrder/owners": [{ "uid": "2" }, { "uid": "1" }] }),
                "owners",
                json!([{ "uid": "2" }, { "uid": "1", "n": "a" }]),
            ),
            (json!({ "new": { "a": { "b": null, "$patch": "merge", "c": [] } } }), "new", json!({ "a": { "c": [] } })),
        ];
        for (patch, field, wanted) in cases {
            assert_eq!(merged(live.clone(), patch.clone()).unwrap()[field], wanted, "{patch}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_told_with_its_place() {
        let cases = [
            (json!({ "a": { "$patch": "frob" } }), "a: $patch is \"frob\""),
            (json!({ "a": { "$frob": [] } }), "a: the directive \"$frob\""),
            (json!({ "$setElementOrder/a": 1 }), "the directive \"$setElementOrder/a\""),
            (json!({ "owners": [{ "uid": "1" }, { "name": "x" }] }), "owners[1]: the item has no \"uid\""),
        ];
        for (patch, wanted) in cases {
            let error = merged(json!({}), patch.clone()).unwrap_err().to_string();
            assert!(error.contains(wanted), "{patch}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_patch_makes_it_panic(patch in r#"\{("(a|owners|finalizers|\$patch|\$retainKeys|\$setElementOrder/owners)":(1|null|\[1,\{\}\]|\[\{"uid":1\}\]|\{"a":\[\]\}|"delete"),){0,4}"z":0\}"#) {
            let live = json!({ "a": 1, "owners": [{ "uid": 1 }, 2], "finalizers": ["x"] });
            if let Ok(patch @ Value::Object(_)) = serde_json::from_str(&patch) {
                let _ = merged(live, patch);
            }
        }
    }
}
