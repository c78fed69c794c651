//! The fields that an object consists of, and the fields in which two objects differ.

use super::{
    fields::{Element, Fields, Node, canonical_number},
    schema::{ItemFault, Items, Schema, Scope, Shape, is_unowned_metadata, object},
};
use crate::{Cause, CauseReason};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
};

/// In what a new object differs from an old one.
#[derive(Debug, Default)]
pub(super) struct Change<'a> {
    /// Fields that were added or have another value.
    pub(super) changed: Fields<'a>,
    /// Fields that are gone.
    pub(super) removed: Fields<'a>,
}

/// The same for one field.
#[derive(Default)]
struct NodeChange<'a> {
    changed: Node<'a>,
    removed: Node<'a>,
}

/// The fields of an object that a writer of it would own by applying it. List items that cannot be told apart are
/// reported in `faults`.
pub(super) fn fields_of<'a>(value: &'a Value, schema: Schema<'a>, scope: Scope, faults: &mut Vec<Cause>) -> Fields<'a> {
    let mut fields = Fields::default();
    for (name, value) in object(Some(value)).into_iter().flatten().filter(|(name, _)| scope.covers(name)) {
        let trail = Trail { up: None, step: Step::Field(name) };
        let node = if name == "metadata" {
            let metadata = object(Some(value)).into_iter().flatten().filter(|(name, _)| !is_unowned_metadata(name));
            Node { member: false, fields: fields_of_map(metadata, Schema::metadata(), &trail, faults) }
        } else {
            let (schema, declared) = schema.field(name);
            field_node(value, schema, declared, &trail, faults)
        };
        fields.insert(Element::field(name), node);
    }
    fields
}

fn fields_of_map<'a>(
    map: impl Iterator<Item = (&'a String, &'a Value)>,
    schema: Schema<'a>,
    trail: &Trail<'_>,
    faults: &mut Vec<Cause>,
) -> Fields<'a> {
    map.map(|(name, value)| {
        let (schema, declared) = schema.field(name);
        let trail = Trail { up: Some(trail), step: Step::Field(name) };
        (Element::field(name), field_node(value, schema, declared, &trail, faults))
    })
    .collect()
}

/// A declared container is owned through its content; one that holds nothing, or that is itself the key of a map, by
/// itself. (Kubernetes leaves an empty list without an owner, and so adds and removes it by turns.)
fn field_node<'a>(value: &'a Value, schema: Schema<'a>, declared: bool, trail: &Trail<'_>, faults: &mut Vec<Cause>) -> Node<'a> {
    let mut node = value_node(value, schema, trail, faults);
    node.member |= !declared || is_hollow(Some(value));
    node
}

fn value_node<'a>(value: &'a Value, schema: Schema<'a>, trail: &Trail<'_>, faults: &mut Vec<Cause>) -> Node<'a> {
    match (schema.shape(value), value) {
        (Shape::Map, Value::Object(map)) => Node { member: false, fields: fields_of_map(map.iter(), schema, trail, faults) },
        (Shape::List(items), Value::Array(list)) => Node { member: false, fields: fields_of_list(list, items, trail, faults) },
        _ => Node::member(),
    }
}

fn fields_of_list<'a>(list: &'a [Value], items: Items<'a>, trail: &Trail<'_>, faults: &mut Vec<Cause>) -> Fields<'a> {
    let mut nodes = BTreeMap::new();
    for (index, value) in list.iter().enumerate() {
        let trail = Trail { up: Some(trail), step: Step::Index(index) };
        match items.element(value).map(|element| nodes.entry(element)) {
            Ok(Entry::Vacant(place)) => {
                let node = place.insert(value_node(value, items.schema(), &trail, faults));
                node.member = true;
            }
            Ok(Entry::Occupied(_)) => faults.push(trail.duplicate(value, items)),
            Err(fault) => faults.push(trail.fault(fault, items)),
        }
    }
    nodes.into_iter().collect()
}

/// In what `new` differs from `old`, within the scope.
pub(super) fn compare<'a>(old: Option<&'a Value>, new: &'a Value, schema: Schema<'a>, scope: Scope) -> Change<'a> {
    let mut changes = Changes::default();
    zip(object(old), object(Some(new)), |name, old, new| {
        if !scope.covers(name) {
            return;
        }
        let node = if name == "metadata" {
            let skip = |name: &str| is_unowned_metadata(name);
            let inner = compare_maps(object(old), object(new), Schema::metadata(), skip);
            NodeChange { changed: Node { member: false, fields: inner.changed }, removed: Node { member: false, fields: inner.removed } }
        } else {
            compare_values(old, new, schema.field(name).0)
        };
        changes.push(Element::field(name), node);
    });
    changes.into()
}

impl<'a> Change<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Changes below one point, in any order.
#[derive(Default)]
struct Changes<'a> {
    changed: Vec<(Element<'a>, Node<'a>)>,
    removed: Vec<(Element<'a>, Node<'a>)>,
}

impl<'a> Changes<'a> {
    fn push(&mut self, element: Element<'a>, node: NodeChange<'a>) {
        match (node.changed.is_empty(), node.removed.is_empty()) {
            (true, true) => {}
            (false, true) => self.changed.push((element, node.changed)),
            (true, false) => self.removed.push((element, node.removed)),
            (false, false) => {
                self.changed.push((element.clone(), node.changed));
                self.removed.push((element, node.removed));
            }
        }
    }
}

impl<'a> From<Changes<'a>> for Change<'a> {
    fn from(changes: Changes<'a>) -> Self {
        Self { changed: changes.changed.into(), removed: changes.removed.into() }
    }
}

/// Calls with every name in either map.
fn zip<'a>(
    old: Option<&'a Map<String, Value>>,
    new: Option<&'a Map<String, Value>>,
    mut each: impl FnMut(&'a str, Option<&'a Value>, Option<&'a Value>),
) {
    for (name, value) in old.into_iter().flatten() {
        each(name, Some(value), new.and_then(|new| new.get(name)));
    }
    for (name, value) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(name)) {
            each(name, None, Some(value));
        }
    }
}

fn compare_maps<'a>(
    old: Option<&'a Map<String, Value>>,
    new: Option<&'a Map<String, Value>>,
    schema: Schema<'a>,
    skip: impl Fn(&str) -> bool,
) -> Change<'a> {
    let mut changes = Changes::default();
    zip(old, new, |name, old, new| {
        if !skip(name) {
            changes.push(Element::field(name), compare_values(old, new, schema.field(name).0));
        }
    });
    changes.into()
}

/// Compares two values, of which one may be missing. A null takes the shape of the other.
fn compare_values<'a>(old: Option<&'a Value>, new: Option<&'a Value>, schema: Schema<'a>) -> NodeChange<'a> {
    if is_hollow(old) && is_hollow(new) {
        return compare_leaves(old, new);
    }
    let shapes = |value: Option<&'a Value>| value.filter(|v| !v.is_null()).map(|v| schema.shape(v));
    let change = match (shapes(old), shapes(new)) {
        (Some(Shape::Map) | None, Some(Shape::Map) | None) => compare_maps(object(old), object(new), schema, |_| false),
        (Some(Shape::List(items)), Some(Shape::List(_)) | None) | (None, Some(Shape::List(items))) => {
            match compare_lists(list(old), list(new), items) {
                Some(change) => change,
                None => return compare_leaves(old, new),
            }
        }
        (Some(Shape::Leaf) | None, Some(Shape::Leaf) | None) => return compare_leaves(old, new),
        // Of different shapes: the value changed, and what was or is below it is gone or new.
        _ => {
            let mut change = compare_values(old, None, schema);
            change.changed = compare_values(None, new, schema).changed;
            (change.changed.member, change.removed.member) = (true, false);
            return change;
        }
    };
    NodeChange {
        changed: Node { member: old.is_none(), fields: change.changed },
        removed: Node { member: new.is_none(), fields: change.removed },
    }
}

/// Missing, null, or a container without content: to be compared as it is, so that `{}` and null and nothing differ.
fn is_hollow(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(_) => false,
    }
}

fn compare_leaves<'a>(old: Option<&Value>, new: Option<&Value>) -> NodeChange<'a> {
    let mut change = NodeChange::default();
    match (old, new) {
        (Some(old), Some(new)) => change.changed.member = !equal(old, new),
        (None, Some(_)) => change.changed.member = true,
        (Some(_), None) => change.removed.member = true,
        (None, None) => {}
    }
    change
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Compares granular lists item by item. Items that stand more than once in a list are one item owned whole. `None` if
/// an item cannot be told from others.
fn compare_lists<'a>(old: &'a [Value], new: &'a [Value], items: Items<'a>) -> Option<Change<'a>> {
    if old == new {
        return Some(Change::default());
    }
    let mut changes = Changes::default();
    let mut pairs: BTreeMap<Element<'a>, (Vec<&'a Value>, Vec<&'a Value>)> = BTreeMap::new();
    for value in old {
        pairs.entry(items.element(value).ok()?).or_default().0.push(value);
    }
    for value in new {
        pairs.entry(items.element(value).ok()?).or_default().1.push(value);
    }
    let schema = items.schema();
    for (element, (old, new)) in pairs {
        let node = match (&old[..], &new[..]) {
            ([] | [_], [] | [_]) => compare_values(old.first().copied(), new.first().copied(), schema),
            ([] | [_], _) => {
                let mut node = old.first().map(|old| compare_values(Some(old), None, schema)).unwrap_or_default();
                node.removed.member = false;
                node.changed.member = true;
                node
            }
            (_, []) => NodeChange { changed: Node::default(), removed: Node::member() },
            (_, [one]) => NodeChange { changed: compare_values(None, Some(one), schema).changed, removed: Node::default() },
            _ if old == new => NodeChange::default(),
            _ => NodeChange { changed: Node::member(), removed: Node::default() },
        };
        changes.push(element, node);
    }
    Some(changes.into())
}

/// Equal as JSON, where `1` and `1.0` are the same number.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => canonical_number(a) == canonical_number(b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b))),
        _ => a == b,
    }
}

/// Where a walk is, to be printed if something is wrong there.
struct Trail<'t> {
    up: Option<&'t Trail<'t>>,
    step: Step<'t>,
}

enum Step<'t> {
    Field(&'t str),
    Index(usize),
}

impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            up.fmt(f)?;
        }
        match self.step {
            Step::Field(name) if self.up.is_none() => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl Trail<'_> {
    fn fault(&self, fault: ItemFault, items: Items<'_>) -> Cause {
        let (reason, message) = match fault {
            ItemFault::NotAnObject => (CauseReason::FieldValueTypeInvalid, "an item of this list must be an object".to_owned()),
            ItemFault::NotAScalar => {
                (CauseReason::FieldValueTypeInvalid, "an item of this set must be a string, number or boolean".to_owned())
            }
            ItemFault::NoKey => {
                (CauseReason::FieldValueRequired, format!("Required value: an item of this list is identified by {}", key_names(items)))
            }
        };
        Cause { reason, message, field: self.to_string() }
    }

    fn duplicate(&self, value: &Value, items: Items<'_>) -> Cause {
        let what = match items {
            Items::Values => value.to_string(),
            Items::Keys { names, .. } => {
                let keys = names.iter().filter_map(Value::as_str);
                let keys = keys.filter_map(|name| value.get(name).map(|value| format!("{name}={value}")));
                keys.collect::<Vec<_>>().join(",")
            }
        };
        Cause { reason: CauseReason::FieldValueDuplicate, message: format!("Duplicate value: {what}"), field: self.to_string() }
    }
}

fn key_names(items: Items<'_>) -> String {
    match items {
        Items::Values => "its value".to_owned(),
        Items::Keys { names, .. } => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" and "),
    }
}
