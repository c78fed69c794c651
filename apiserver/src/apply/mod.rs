//! Server-side apply, and the ownership of fields that it rests on (`metadata.managedFields`), as Kubernetes has them.
//!
//! Every field has owners. [`record_update`] makes the writer of a changed field its only owner. [`apply`] merges a
//! configuration into the live object: its fields win, fields that its manager applied before and applies no more go
//! unless others own them, and a change to a field that others own is a conflict, or by force takes it from them.
//!
//! Pure functions of JSON values; the time is an argument.

mod client_side;
mod entries;
mod error;
mod fields;
mod merge;
mod schema;
#[cfg(test)]
mod tests;
mod walk;

use self::{
    entries::{Entry, Owner},
    fields::Fields,
    schema::{Schema, Scope, object},
};
use crate::{Cause, CauseReason, ResourceDef};
use jiff::Timestamp;
use serde_json::{Map, Value};

pub use self::{
    entries::{EntryError, Operation},
    error::{ApplyError, Conflict},
};

/// Owner of all fields of an object that was written before anything was recorded.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes, and through which door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manager<'a> {
    /// Name of the field manager.
    pub name: &'a str,
    /// `status` for the status subresource, empty for the object itself.
    pub subresource: &'a str,
}

impl<'a> Manager<'a> {
    fn owner(self, operation: Operation, api_version: &'a str) -> Owner<'a> {
        Owner { operation, manager: self.name, api_version, subresource: self.subresource }
    }
}

/// Merges an applied configuration into the live object and returns the whole object with its new managedFields.
///
/// Of a kind with a status subresource `status` is merged through that subresource only, and nothing else is. Where
/// nothing changes, `live` is returned as it was. `metadata.resourceVersion` and `metadata.uid` of the configuration
/// come through for the caller to compare; defaults and validation are the caller's too.
pub fn apply(
    live: Option<&Value>,
    intent: &Value,
    def: &ResourceDef,
    manager: Manager<'_>,
    force: bool,
    now: Timestamp,
) -> Result<Value, ApplyError> {
    let (schema, scope, api_version) = (Schema::of(def), Scope::of(def, manager.subresource), def.api_version());
    let own = manager.owner(Operation::Apply, &api_version);
    let set = intended_fields(intent, schema, scope)?;
    let mut entries = entries::parse(live.and_then(managed_fields), schema)?;
    if let (Some(live), true) = (live, entries.is_empty()) {
        let before = Manager { name: BEFORE_FIRST_APPLY, ..manager }.owner(Operation::Update, &api_version);
        let fields = walk::compare(None, live, schema, scope).changed;
        entries.push(Entry::new(before, now, fields));
    }
    let last = entries.iter().position(|entry| entry.owner.is(&own)).map(|i| entries.swap_remove(i));

    let mut merged = live.filter(|live| live.is_object()).cloned().unwrap_or_else(|| Value::Object(Map::new()));
    if let (Value::Object(merged), Value::Object(intent)) = (&mut merged, intent) {
        merge::merge(merged, intent, schema, scope);
        if let Some(last) = &last {
            prune(merged, last.fields(), &set, &entries, schema, scope);
        }
    }
    if let Some(live) = live {
        let change = walk::compare(Some(live), &merged, schema, scope);
        if !force {
            let configuration = match client_side::takes_over(manager.name, scope) {
                true => client_side::configuration(live, &api_version),
                false => None,
            };
            let held = configuration.as_ref().map(|c| client_side::held(c, live, schema, scope));
            refuse_conflicts(&entries, &change.changed, &held.unwrap_or_default())?;
        }
        for entry in &mut entries {
            entry.remove(&change.changed, schema);
            entry.remove(&change.removed, schema);
        }
    }
    if client_side::takes_over(manager.name, scope) {
        client_side::refresh(&mut merged, intent);
    }
    let same_set = last.is_some_and(|last| *last.fields() == set && last.owner == own);
    if same_set && live == Some(&merged) {
        return Ok(merged);
    }
    entries.push(Entry::new(own, now, set));
    let list = take_managed_fields(&mut merged);
    set_managed_fields(&mut merged, entries::print(entries, list, schema));
    Ok(merged)
}

/// Sets the managedFields of an object that was created, replaced or patched: what it changed is the writer's alone,
/// what it removed is nobody's, and all else stays as it was.
///
/// `new` is the object as it is to be stored, but for the managedFields: what the client sent there is taken if it can
/// be read (through a subresource never), otherwise those of `live`; `[]` and `[{}]` forget all ownership.
pub fn record_update(live: Option<&Value>, new: &mut Value, def: &ResourceDef, manager: Manager<'_>, now: Timestamp) {
    let (schema, scope) = (Schema::of(def), Scope::of(def, manager.subresource));
    let api_version = def.api_version();
    let before = live.and_then(managed_fields);
    let as_before = managed_fields(new) == before;
    let edited = if as_before || !manager.subresource.is_empty() { None } else { managed_fields(new).cloned() };
    let edited = edited.as_ref().and_then(|sent| readable(sent, schema));
    let list = match as_before {
        true => take_managed_fields(new),
        false => before.and_then(Value::as_array).cloned().unwrap_or_default(),
    };

    let change = walk::compare(live, new, schema, scope);
    if change.is_empty() && edited.is_none() {
        return set_managed_fields(new, list);
    }
    let mut entries = edited.unwrap_or_else(|| entries::parse_stored(before).unwrap_or_default());
    for entry in &mut entries {
        entry.remove(&change.changed, schema);
        entry.remove(&change.removed, schema);
    }
    let own = manager.owner(Operation::Update, &api_version);
    if !change.changed.is_empty() {
        match entries.iter_mut().find(|entry| entry.owner.is(&own)) {
            Some(entry) => entry.add(change.changed, now, schema),
            None => entries.push(Entry::new(own, now, change.changed)),
        }
    }
    let printed = entries::print(entries, list, schema);
    set_managed_fields(new, printed);
}

/// True if `new` is `live` but for the times in managedFields and the resource version: there is nothing to write.
pub fn unchanged(live: &Value, new: &Value) -> bool {
    let (Some(live), Some(new)) = (live.as_object(), new.as_object()) else { return live == new };
    let same = |live: &Map<String, Value>, new: &Map<String, Value>, except: &[&str]| {
        let missing = |name: &String| !except.contains(&name.as_str()) && !live.contains_key(name);
        !new.keys().any(missing) && live.iter().all(|(name, value)| except.contains(&name.as_str()) || new.get(name) == Some(value))
    };
    same(live, new, &["metadata"])
        && match (object(live.get("metadata")), object(new.get("metadata"))) {
            (Some(live), Some(new)) => {
                same(live, new, &["managedFields", "resourceVersion"])
                    && entries::same_but_times(live.get("managedFields"), new.get("managedFields"))
            }
            _ => live.get("metadata") == new.get("metadata"),
        }
}

/// What an applied configuration says, or what is wrong with it.
fn intended_fields<'a>(intent: &'a Value, schema: Schema<'a>, scope: Scope) -> Result<Fields<'a>, ApplyError> {
    let mut faults = Vec::new();
    if !intent.is_object() {
        let message = format!("expected an object, got {}", fields::type_name(intent));
        faults.push(Cause { reason: CauseReason::FieldValueTypeInvalid, message, field: String::new() });
    }
    if managed_fields(intent).is_some_and(|managed| !managed.is_null()) {
        let message = "must not be set in an applied configuration".to_owned();
        faults.push(Cause { reason: CauseReason::FieldValueForbidden, message, field: "metadata.managedFields".to_owned() });
    }
    let fields = walk::fields_of(intent, schema, scope, &mut faults);
    if faults.is_empty() { Ok(fields) } else { Err(ApplyError::Invalid(faults)) }
}

/// Takes out what was applied last time, is not in `set`, and belongs to nobody else.
fn prune(merged: &mut Map<String, Value>, last: &Fields<'_>, set: &Fields<'_>, others: &[Entry<'_>], schema: Schema<'_>, scope: Scope) {
    let mut gone = last.clone();
    gone.remove(set);
    if gone.is_empty() {
        return;
    }
    let mut owned = set.clone();
    for entry in others {
        owned.add(entry.fields().clone());
    }
    merge::prune(merged, last, &owned, schema, scope);
}

/// Refuses a change of fields that others own, but for those in `held`.
fn refuse_conflicts(entries: &[Entry<'_>], changed: &Fields<'_>, held: &Fields<'_>) -> Result<(), ApplyError> {
    let mut conflicts = Vec::new();
    for entry in entries {
        let owner = &entry.owner;
        let mut contested = entry.fields().intersection(changed);
        contested.remove(held);
        conflicts.extend(contested.paths().into_iter().map(|path| Conflict {
            manager: owner.manager.to_owned(),
            operation: owner.operation,
            api_version: owner.api_version.to_owned(),
            subresource: owner.subresource.to_owned(),
            path,
        }));
    }
    if conflicts.is_empty() { Ok(()) } else { Err(ApplyError::Conflicts(conflicts)) }
}

/// What a client sent as managedFields, if it counts: ownership that can be read, or the wish to forget it.
fn readable<'a>(sent: &'a Value, schema: Schema<'_>) -> Option<Vec<Entry<'a>>> {
    if entries::is_reset(sent) {
        return Some(Vec::new());
    }
    let mut entries = entries::parse(Some(sent), schema).ok()?;
    entries.iter_mut().for_each(Entry::print_anew);
    (!entries.is_empty()).then_some(entries)
}

fn managed_fields(value: &Value) -> Option<&Value> {
    value.get("metadata")?.get("managedFields")
}

fn take_managed_fields(value: &mut Value) -> Vec<Value> {
    match value.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields")).map(Value::take) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

fn set_managed_fields(value: &mut Value, entries: Vec<Value>) {
    let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if entries.is_empty() {
        metadata.remove("managedFields");
    } else {
        metadata.insert("managedFields".to_owned(), Value::Array(entries));
    }
}
