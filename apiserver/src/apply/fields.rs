//! Sets of fields, as managedFields (FieldsV1) write them: a tree whose edges are `f:<name>` (a field), `k:{...}` (an
//! item of a list by its keys), `v:<value>` (an item of a set) and `i:<n>` (an item by position), with `.` for a node
//! that belongs to the set and has members below it too.
//!
//! A set borrows field names from the objects and entries that it was made of; each level is a sorted vector.

use serde_json::{Map, Number, Value};
use std::{borrow::Cow, fmt::Write};

/// One step of a path into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Element<'a> {
    /// A field of an object, by name.
    Field(Cow<'a, str>),
    /// An item of a list, by the canonical JSON of its key fields.
    Key(String),
    /// An item of a set of scalars, by its canonical JSON.
    Item(String),
    /// An item of a list, by position.
    Index(i64),
}

/// Fields below one point of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields<'a> {
    /// Sorted by element, each element once, and no empty node.
    nodes: Vec<(Element<'a>, Node<'a>)>,
}

/// A field: whether it belongs to the set, and what belongs to the set below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node<'a> {
    pub(super) member: bool,
    pub(super) fields: Fields<'a>,
}

/// A FieldsV1 value that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FieldsError {
    #[error("{0} stands where an object of fields is expected")]
    NotAnObject(&'static str),
    #[error("{0:?} is not a path element (f:<name>, k:<keys>, v:<value> or i:<index>)")]
    Element(String),
}

impl<'a> Element<'a> {
    pub(super) fn field(name: &'a str) -> Self {
        Self::Field(Cow::Borrowed(name))
    }

    /// A list item by its key fields; `keys` are sorted by name.
    pub(super) fn keyed(keys: &[(&str, &Value)]) -> Self {
        let mut text = String::with_capacity(32);
        for (name, value) in keys {
            text.push(if text.is_empty() { '{' } else { ',' });
            push_json_string(&mut text, name);
            text.push(':');
            push_json(&mut text, value);
        }
        text.push_str(if text.is_empty() { "{}" } else { "}" });
        Self::Key(text)
    }

    /// An item of a set of scalars.
    pub(super) fn item(value: &Value) -> Self {
        let mut text = String::new();
        push_json(&mut text, value);
        Self::Item(text)
    }

    /// Reads an element; `None` for a kind of element that a later version may know.
    fn parse(text: &'a str) -> Result<Option<Self>, FieldsError> {
        let error = || FieldsError::Element(text.to_owned());
        if text.len() < 2 || text.as_bytes()[1] != b':' {
            return Err(error());
        }
        let rest = &text[2..];
        Ok(match text.as_bytes()[0] {
            b'f' => Some(Self::field(rest)),
            b'k' => {
                let keys: Map<String, Value> = serde_json::from_str(rest).map_err(|_| error())?;
                let mut keys: Vec<(&str, &Value)> = keys.iter().map(|(k, v)| (k.as_str(), v)).collect();
                keys.sort_unstable_by_key(|(name, _)| *name);
                Some(Self::keyed(&keys))
            }
            b'v' => Some(Self::item(&serde_json::from_str(rest).map_err(|_| error())?)),
            b'i' => Some(Self::Index(rest.parse().map_err(|_| error())?)),
            _ => None,
        })
    }

    fn print(&self) -> String {
        match self {
            Self::Field(name) => ["f:", name].concat(),
            Self::Key(keys) => ["k:", keys].concat(),
            Self::Item(value) => ["v:", value].concat(),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    /// Appends the element as people read it in a path: `.spec`, `[name="root"]`, `[="a"]`, `[3]`.
    fn push_path(&self, path: &mut String) {
        match self {
            Self::Field(name) => path.extend([".", name]),
            Self::Key(keys) => {
                path.push('[');
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                for (i, (name, value)) in keys.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    let _infallible = write!(path, "{comma}{name}={value}");
                }
                path.push(']');
            }
            Self::Item(value) => path.extend(["[=", value, "]"]),
            Self::Index(index) => path.extend(["[", &index.to_string(), "]"]),
        }
    }
}

impl<'a> Node<'a> {
    pub(super) fn member() -> Self {
        Self { member: true, fields: Fields::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.fields.is_empty()
    }

    fn parse(value: &'a Value) -> Result<Self, FieldsError> {
        let mut node = Self::default();
        match value {
            Value::Object(map) => {
                node.member = map.contains_key(".");
                node.fields = Fields::parse_map(map)?;
            }
            Value::Null => {}
            other => return Err(FieldsError::NotAnObject(type_name(other))),
        }
        node.member |= node.fields.is_empty();
        Ok(node)
    }

    fn print(&self) -> Value {
        let mut map = self.fields.print();
        if self.member && !map.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        Value::Object(map)
    }
}

impl<'a> Fields<'a> {
    /// No fields.
    pub(super) const NONE: Self = Self { nodes: Vec::new() };

    /// Reads a `fieldsV1` value.
    pub(super) fn parse(value: &'a Value) -> Result<Self, FieldsError> {
        match value {
            Value::Object(map) => Self::parse_map(map),
            Value::Null => Ok(Self::default()),
            other => Err(FieldsError::NotAnObject(type_name(other))),
        }
    }

    fn parse_map(map: &'a Map<String, Value>) -> Result<Self, FieldsError> {
        let mut fields = Self { nodes: Vec::with_capacity(map.len()) };
        for (name, value) in map.iter().filter(|(name, _)| *name != ".") {
            if let Some(element) = Element::parse(name)? {
                fields.insert(element, Node::parse(value)?);
            }
        }
        Ok(fields)
    }

    /// The `fieldsV1` object.
    pub(super) fn print(&self) -> Map<String, Value> {
        self.nodes.iter().map(|(element, node)| (element.print(), node.print())).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Element<'a>, &Node<'a>)> {
        self.nodes.iter().map(|(element, node)| (element, node))
    }

    /// Every node, to be changed; nodes that become empty are dropped.
    pub(super) fn edit(&mut self, mut change: impl FnMut(&Element<'a>, &mut Node<'a>)) {
        self.nodes.retain_mut(|(element, node)| {
            change(element, node);
            !node.is_empty()
        });
    }

    pub(super) fn get(&self, element: &Element<'_>) -> Option<&Node<'a>> {
        self.find(element).ok().map(|i| &self.nodes[i].1)
    }

    fn find(&self, element: &Element<'_>) -> Result<usize, usize> {
        self.nodes.binary_search_by(|(e, _)| e.cmp(element))
    }

    /// Puts a node in, joined with the one that is there.
    pub(super) fn insert(&mut self, element: Element<'a>, node: Node<'a>) {
        if node.is_empty() {
            return;
        }
        if self.nodes.last().is_none_or(|(last, _)| *last < element) {
            self.nodes.push((element, node));
            return;
        }
        match self.find(&element) {
            Ok(i) => {
                self.nodes[i].1.member |= node.member;
                self.nodes[i].1.fields.add(node.fields);
            }
            Err(i) => self.nodes.insert(i, (element, node)),
        }
    }

    /// Adds every member of another set.
    pub(super) fn add(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
            return;
        }
        let mut fresh = Vec::new();
        for (element, node) in other.nodes {
            match self.find(&element) {
                Ok(i) => {
                    self.nodes[i].1.member |= node.member;
                    self.nodes[i].1.fields.add(node.fields);
                }
                Err(_) => fresh.push((element, node)),
            }
        }
        if !fresh.is_empty() {
            self.nodes.append(&mut fresh);
            self.nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
    }

    /// Takes every member of another set out, and says whether there was one.
    pub(super) fn remove(&mut self, other: &Fields<'_>) -> bool {
        let (mut changed, mut emptied) = (false, false);
        for (element, gone) in &other.nodes {
            if let Ok(i) = self.find(element) {
                let node = &mut self.nodes[i].1;
                changed |= gone.member && node.member;
                node.member &= !gone.member;
                changed |= node.fields.remove(&gone.fields);
                emptied |= node.is_empty();
            }
        }
        if emptied {
            self.nodes.retain(|(_, node)| !node.is_empty());
        }
        changed
    }

    /// False if no member of the set is in a printed set, nor below a member of this one, as far as can be seen
    /// without reading it.
    pub(super) fn may_meet(&self, printed: &Value) -> bool {
        let Value::Object(printed) = printed else { return true };
        let meets = |(element, node): &(Element<'_>, Node<'_>)| {
            printed.get(&element.print()).is_some_and(|below| node.member || node.fields.may_meet(below))
        };
        self.nodes.iter().any(meets)
    }

    /// The members of both.
    pub(super) fn intersection(&self, other: &Fields<'_>) -> Self {
        let mut both = Self::default();
        for (element, node) in &other.nodes {
            if let Some(own) = self.find(element).ok().map(|i| &self.nodes[i]) {
                let fields = own.1.fields.intersection(&node.fields);
                both.insert(own.0.clone(), Node { member: own.1.member && node.member, fields });
            }
        }
        both
    }

    /// The paths of all members, as people read them.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.push_paths(&mut String::new(), &mut paths);
        paths
    }

    fn push_paths(&self, prefix: &mut String, paths: &mut Vec<String>) {
        for (element, node) in &self.nodes {
            let length = prefix.len();
            element.push_path(prefix);
            if node.member {
                paths.push(prefix.clone());
            }
            node.fields.push_paths(prefix, paths);
            prefix.truncate(length);
        }
    }
}

impl<'a> From<Vec<(Element<'a>, Node<'a>)>> for Fields<'a> {
    /// Takes elements in any order, each once, and no empty nodes.
    fn from(mut nodes: Vec<(Element<'a>, Node<'a>)>) -> Self {
        if nodes.len() > 1 && !nodes.is_sorted_by(|(a, _), (b, _)| a < b) {
            nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        Self { nodes }
    }
}

impl<'a> FromIterator<(Element<'a>, Node<'a>)> for Fields<'a> {
    /// Takes elements in any order, each once.
    fn from_iter<I: IntoIterator<Item = (Element<'a>, Node<'a>)>>(nodes: I) -> Self {
        nodes.into_iter().filter(|(_, node)| !node.is_empty()).collect::<Vec<_>>().into()
    }
}

/// What kind of JSON a value is, with its article.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Appends a value as JSON, equal numbers as equal text (`1.0` is `1`).
fn push_json(text: &mut String, value: &Value) {
    match value {
        Value::String(string) => push_json_string(text, string),
        Value::Number(number) => text.push_str(&canonical_number(number).to_string()),
        other => text.push_str(&other.to_string()),
    }
}

fn push_json_string(text: &mut String, string: &str) {
    if string.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        text.extend(["\"", string, "\""]);
    } else {
        text.push_str(&Value::from(string).to_string());
    }
}

/// The number as an integer if it is one.
pub(super) fn canonical_number(number: &Number) -> Number {
    match number.as_f64() {
        // Below 2^53 every integer has an exact float.
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => Number::from(float as i64),
        _ => number.clone(),
    }
}
