//! Merging an applied configuration into a live object, and taking out what its manager no longer applies.

use super::{
    fields::{Element, Fields, Node},
    schema::{Items, Schema, Scope, Shape, is_system_metadata, is_unowned_metadata},
};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Merges an applied configuration into `target`: what it names wins, all else stays.
pub(super) fn merge(target: &mut Map<String, Value>, intent: &Map<String, Value>, schema: Schema<'_>, scope: Scope) {
    for (name, value) in intent {
        match name.as_str() {
            "metadata" => merge_metadata(target, value, scope),
            "apiVersion" | "kind" => {
                target.insert(name.clone(), value.clone());
            }
            _ if scope.covers(name) => merge_field(target, name, value, schema.field(name).0),
            _ => {}
        }
    }
}

/// Names and preconditions come through from any configuration, what only the API server writes from none.
fn merge_metadata(target: &mut Map<String, Value>, intent: &Value, scope: Scope) {
    let Value::Object(intent) = intent else { return };
    let entry = target.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    let Value::Object(metadata) = entry else { return };
    for (name, value) in intent {
        let blank = value.is_null() || value.as_str() == Some("");
        if is_system_metadata(name) || (is_unowned_metadata(name) && blank) {
            continue;
        }
        if scope.covers("metadata") || is_unowned_metadata(name) {
            merge_field(metadata, name, value, Schema::metadata().field(name).0);
        }
    }
}

fn merge_field(target: &mut Map<String, Value>, name: &str, value: &Value, schema: Schema<'_>) {
    match target.get_mut(name) {
        Some(target) => merge_value(target, value, schema),
        None => {
            target.insert(name.to_owned(), value.clone());
        }
    }
}

fn merge_value(target: &mut Value, intent: &Value, schema: Schema<'_>) {
    let shape = schema.shape(target);
    match (shape, target, intent) {
        // A null empties nothing that others may own a part of.
        (Shape::Map, Value::Object(map), Value::Null) if !map.is_empty() => {}
        (Shape::List(_), Value::Array(list), Value::Null) if !list.is_empty() => {}
        (Shape::Map, Value::Object(map), Value::Object(intent)) => {
            for (name, value) in intent {
                merge_field(map, name, value, schema.field(name).0);
            }
        }
        (Shape::List(items), Value::Array(list), Value::Array(intent)) => merge_list(list, intent, items),
        (_, target, intent) => *target = intent.clone(),
    }
}

/// How an applied list lies on a live one.
struct Alignment {
    /// For each applied item its place in the live list.
    places: Vec<Option<usize>>,
    /// For each live item whether it is applied too.
    shared: Vec<bool>,
    /// For each live item whether it stands in the list only once.
    single: Vec<bool>,
}

/// `None` if an item of either list cannot be told from others.
fn align(live: &[Value], intent: &[Value], items: Items<'_>) -> Option<Alignment> {
    let (live, applied) = (items.elements(live)?, items.elements(intent)?);
    let mut places: BTreeMap<&Element<'_>, usize> = BTreeMap::new();
    let mut single = vec![true; live.len()];
    for (place, element) in live.iter().enumerate() {
        if let Some(former) = places.insert(element, place) {
            (single[former], single[place]) = (false, false);
        }
    }
    let applied_set: BTreeSet<&Element<'_>> = applied.iter().collect();
    Some(Alignment {
        places: applied.iter().map(|element| places.get(element).copied()).collect(),
        shared: live.iter().map(|element| applied_set.contains(element)).collect(),
        single,
    })
}

/// Applied items come in the order in which they are applied; an item that only the live list has comes before the
/// first item of both that it preceded. Items that the live list has twice are replaced, not merged.
fn merge_list(target: &mut Vec<Value>, intent: &[Value], items: Items<'_>) {
    let Some(Alignment { places, shared, single }) = align(target, intent, items) else {
        *target = intent.to_vec();
        return;
    };
    let mut live: Vec<Option<Value>> = std::mem::take(target).into_iter().map(Some).collect();
    let mut cursor = 0;
    let mut awaited = places.iter().flatten();
    let mut next = awaited.next();
    for (value, place) in intent.iter().zip(&places) {
        while cursor < live.len() && Some(&cursor) != next {
            if !shared[cursor] {
                target.extend(live[cursor].take());
            }
            cursor += 1;
        }
        let mut item = value.clone();
        if let Some(place) = *place {
            next = awaited.next();
            if let (Some(mut old), true) = (live[place].take(), single[place]) {
                merge_value(&mut old, value, items.schema());
                item = old;
            }
        }
        target.push(item);
    }
    let rest = live.into_iter().zip(shared).skip(cursor);
    target.extend(rest.filter(|(_, shared)| !shared).filter_map(|(value, _)| value));
}

/// Takes out of the object what its manager applied `last` time and nobody of `owned` owns now.
pub(super) fn prune(target: &mut Map<String, Value>, last: &Fields<'_>, owned: &Fields<'_>, schema: Schema<'_>, scope: Scope) {
    if let (Some(Value::Object(metadata)), true) = (target.get_mut("metadata"), scope.covers("metadata")) {
        let element = Element::field("metadata");
        prune_map(metadata, below(last, &element), below(owned, &element), Schema::metadata(), &is_unowned_metadata);
    }
    prune_map(target, last, owned, schema, &|name| name == "metadata" || !scope.covers(name));
}

/// No fields at all.
static NONE: Fields<'static> = Fields::NONE;

fn below<'f, 'a>(fields: &'f Fields<'a>, element: &Element<'_>) -> &'f Fields<'a> {
    fields.get(element).map_or(&NONE, |node| &node.fields)
}

/// A field is gone if it was applied and nobody owns it or a part of it; with it goes all below it.
fn prune_map(map: &mut Map<String, Value>, last: &Fields<'_>, owned: &Fields<'_>, schema: Schema<'_>, keep: &dyn Fn(&str) -> bool) {
    for (element, was) in last.iter() {
        let Element::Field(name) = element else { continue };
        if keep(name) || !map.contains_key(&**name) {
            continue;
        }
        let (schema, declared) = schema.field(name);
        let counts = |node: &Node<'_>| node.member || declared;
        let is = owned.get(element);
        if counts(was) && !is.is_some_and(counts) {
            map.remove(&**name);
        } else if let Some(value) = map.get_mut(&**name) {
            prune_value(value, &was.fields, is.map_or(&NONE, |is| &is.fields), schema, &|_| false);
        }
    }
}

fn prune_value(value: &mut Value, last: &Fields<'_>, owned: &Fields<'_>, schema: Schema<'_>, keep: &dyn Fn(&str) -> bool) {
    if last.is_empty() {
        return;
    }
    match (schema.shape(value), value) {
        (Shape::Map, Value::Object(map)) => prune_map(map, last, owned, schema, keep),
        (Shape::List(items), Value::Array(list)) => prune_list(list, last, owned, items),
        _ => {}
    }
}

fn prune_list(list: &mut Vec<Value>, last: &Fields<'_>, owned: &Fields<'_>, items: Items<'_>) {
    list.retain_mut(|value| {
        let (was, is) = match items.element(value) {
            Ok(element) => (last.get(&element), owned.get(&element)),
            Err(_) => return true,
        };
        let Some(was) = was else { return true };
        if was.member && !is.is_some_and(|is| is.member) {
            return false;
        }
        let owned = is.map_or(&NONE, |is| &is.fields);
        prune_value(value, &was.fields, owned, items.schema(), &|name| items.is_key(name));
        true
    });
}
