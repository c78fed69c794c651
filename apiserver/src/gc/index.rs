//! Who refers to whom as its owner.

use crate::{keys, registry::ResourceDef};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    pub group: String,
    pub plural: String,
    pub place: String,
}

impl Id {
    /// The id of an object of a kind.
    pub fn of(def: &ResourceDef, object: &Value) -> Self {
        let meta = &object["metadata"];
        let place = keys::place(meta["namespace"].as_str(), meta["name"].as_str().unwrap_or_default());
        Self { group: def.group.clone(), plural: def.plural.clone(), place }
    }
}

/// The owners of all objects, by both ends.
#[derive(Default)]
pub struct Index {
    /// Uid of an owner -> what refers to it.
    dependents: HashMap<String, BTreeSet<Id>>,
    /// What refers to which owners.
    owners: HashMap<Id, Vec<String>>,
}

impl Index {
    /// Puts an object in as it is now.
    pub fn put(&mut self, id: &Id, object: &Value) {
        self.remove(id);
        let owners: Vec<String> = references(object).iter().filter_map(|owner| owner["uid"].as_str().map(str::to_owned)).collect();
        for owner in &owners {
            self.dependents.entry(owner.clone()).or_default().insert(id.clone());
        }
        if !owners.is_empty() {
            self.owners.insert(id.clone(), owners);
        }
    }

    /// Takes an object out; tells the uids of its owners.
    pub fn remove(&mut self, id: &Id) -> Vec<String> {
        let owners = self.owners.remove(id).unwrap_or_default();
        for owner in &owners {
            if let Some(dependents) = self.dependents.get_mut(owner) {
                dependents.remove(id);
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        owners
    }

    /// What refers to the owner with this uid.
    pub fn dependents(&self, uid: &str) -> Vec<Id> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

/// The references of an object to its owners.
pub fn references(object: &Value) -> &[Value] {
    object["metadata"]["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_counts_by_its_newest_references() {
        let def = crate::builtin::definitions().remove(0);
        let object = |owners: Value| json!({ "metadata": { "name": "a", "ownerReferences": owners } });
        let mut index = Index::default();
        let id = Id::of(&def, &object(json!([])));
        index.put(&id, &object(json!([{ "uid": "1" }, { "uid": "2" }])));
        index.put(&id, &object(json!([{ "uid": "2" }, { "uid": "3" }])));
        assert_eq!([index.dependents("1").len(), index.dependents("2").len(), index.dependents("3").len()], [0, 1, 1]);
        assert_eq!(index.remove(&id), ["2", "3"]);
        assert!(index.dependents.is_empty() && index.owners.is_empty());
    }
}
