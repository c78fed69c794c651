//! The entries of `metadata.managedFields`: who owns which fields, through which kind of request, since when.
//!
//! Most writes touch the fields of one or two entries, so an entry's fields are read when they are asked for, and an
//! entry that was not changed is moved to the new object as it stood in the old one.

use super::{
    fields::{Element, Fields, FieldsError, Node, type_name},
    schema::Schema,
};
use jiff::Timestamp;
use serde_json::{Map, Value};
use std::fmt;

/// Update entries that an object keeps; the oldest beyond that are merged into one.
const MOST_UPDATE_ENTRIES: usize = 10;
/// Manager of the entry that the oldest are merged into.
const ANCIENT: &str = "ancient-changes";

/// How an owner came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

/// Who an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner<'a> {
    pub(super) operation: Operation,
    pub(super) manager: &'a str,
    pub(super) api_version: &'a str,
    pub(super) subresource: &'a str,
}

/// An entry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry<'a> {
    pub(super) owner: Owner<'a>,
    pub(super) time: Option<Timestamp>,
    fields: Fields<'a>,
    /// The `fieldsV1` that `fields` are still to be read from.
    unread: Option<&'a Value>,
    /// Where in its list the entry stands, while it is as it stands there.
    place: Option<usize>,
    /// Of an applier of an object with nothing but a name: it owns nothing, and that it applied is known all the same.
    bare: bool,
}

/// An entry that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata.managedFields{0}")]
pub struct EntryError(String);

impl EntryError {
    fn at(index: usize, what: &str) -> Self {
        Self(format!("[{index}].{what}"))
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Owner<'_> {
    /// An applier is the same in every version, another writer is not.
    pub(super) fn is(&self, other: &Owner<'_>) -> bool {
        self.operation == other.operation
            && self.manager == other.manager
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

impl<'a> Entry<'a> {
    pub(super) fn new(owner: Owner<'a>, time: Timestamp, fields: Fields<'a>) -> Self {
        let bare = owner.operation == Operation::Apply && fields.is_empty();
        Self { owner, time: Some(time), fields, unread: None, place: None, bare }
    }

    /// Reads an entry but for its fields.
    fn parse(value: &'a Value) -> Result<Self, String> {
        let text = |name: &str| match value.get(name) {
            None | Some(Value::Null) => Ok(""),
            Some(Value::String(text)) => Ok(text.as_str()),
            Some(other) => Err(format!("{name}: expected a string, got {}", type_name(other))),
        };
        let operation = match text("operation")? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            other => return Err(format!("operation: {other:?} is not one of Apply, Update")),
        };
        let api_version = text("apiVersion")?;
        if api_version.is_empty() {
            return Err("apiVersion: must not be empty".to_owned());
        }
        if text("fieldsType")? != "FieldsV1" {
            return Err(format!("fieldsType: {:?} is not FieldsV1", text("fieldsType")?));
        }
        let time = match text("time")? {
            "" => None,
            time => Some(time.parse().map_err(|e| format!("time: {time:?} is not an RFC 3339 time: {e}"))?),
        };
        let owner = Owner { operation, manager: text("manager")?, api_version, subresource: text("subresource")? };
        Ok(Self { owner, time, fields: Fields::default(), unread: value.get("fieldsV1"), place: None, bare: false })
    }

    /// The fields of an entry that was read whole.
    pub(super) fn fields(&self) -> &Fields<'a> {
        &self.fields
    }

    /// Reads the fields; those that cannot be read are none.
    fn read(&mut self, schema: Schema<'_>) -> Result<(), FieldsError> {
        if let Some(unread) = self.unread.take() {
            self.fields = Fields::parse(unread).inspect_err(|_| self.place = None)?;
            self.bare = self.owner.operation == Operation::Apply && self.fields.is_empty();
            if settle(&mut self.fields, schema) {
                self.place = None;
            }
        }
        Ok(())
    }

    /// Takes fields out of the entry. Those that cannot be read are gone then.
    pub(super) fn remove(&mut self, gone: &Fields<'_>, schema: Schema<'_>) {
        if self.unread.is_some_and(|unread| !gone.may_meet(unread)) {
            return;
        }
        let _unreadable = self.read(schema);
        if self.fields.remove(gone) {
            self.place = None;
        }
    }

    /// Adds fields that are written now.
    pub(super) fn add(&mut self, fields: Fields<'a>, now: Timestamp, schema: Schema<'_>) {
        let _unreadable = self.read(schema);
        self.fields.add(fields);
        (self.time, self.place) = (Some(now), None);
    }

    /// Has the entry printed although it is as it was read.
    pub(super) fn print_anew(&mut self) {
        self.place = None;
    }

    fn is_empty(&self) -> bool {
        !self.bare && self.unread.is_none() && self.fields.is_empty()
    }

    fn print(&self) -> Value {
        let mut map = Map::new();
        let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
        put("manager", self.owner.manager.into());
        put("operation", self.owner.operation.to_string().into());
        put("apiVersion", self.owner.api_version.into());
        if let Some(time) = self.time {
            put("time", Timestamp::from_second(time.as_second()).unwrap_or(time).to_string().into());
        }
        put("fieldsType", "FieldsV1".into());
        put("fieldsV1", Value::Object(self.fields.print()));
        if !self.owner.subresource.is_empty() {
            put("subresource", self.owner.subresource.into());
        }
        Value::Object(map)
    }

    fn seconds(&self) -> i64 {
        self.time.map_or(0, Timestamp::as_second)
    }
}

/// Reads entries that were written by [`print`], but for their fields; absent is none.
pub(super) fn parse_stored(managed: Option<&Value>) -> Result<Vec<Entry<'_>>, EntryError> {
    let list = match managed {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(EntryError(format!(": expected a list of entries, got {}", type_name(other)))),
    };
    let mut entries: Vec<Entry<'_>> = Vec::with_capacity(list.len() + 1);
    for (index, value) in list.iter().enumerate() {
        let entry = Entry::parse(value).map_err(|what| EntryError::at(index, &what))?;
        entries.push(Entry { place: Some(index), ..entry });
    }
    Ok(entries)
}

/// Reads entries whole, whoever wrote them. Entries of one owner are joined.
pub(super) fn parse<'a>(managed: Option<&'a Value>, schema: Schema<'_>) -> Result<Vec<Entry<'a>>, EntryError> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for (index, mut entry) in parse_stored(managed)?.into_iter().enumerate() {
        entry.read(schema).map_err(|e| EntryError::at(index, &format!("fieldsV1: {e}")))?;
        match entries.iter_mut().find(|e| e.owner.is(&entry.owner)) {
            Some(same) => {
                same.fields.add(entry.fields);
                same.time = same.time.max(entry.time);
                same.place = None;
            }
            None => entries.push(entry),
        }
    }
    Ok(entries)
}

/// Writes managedFields in their order, without empty entries and within the limit. Entries that are as they were are
/// taken from `list`, a copy of the list that they were read from.
pub(super) fn print(mut entries: Vec<Entry<'_>>, mut list: Vec<Value>, schema: Schema<'_>) -> Vec<Value> {
    entries.retain(|entry| !entry.is_empty());
    entries.sort_by(|a, b| {
        let key = |e: &Entry<'_>| (e.owner.operation, e.seconds());
        key(a).cmp(&key(b)).then_with(|| a.owner.cmp(&b.owner))
    });
    join_ancient(&mut entries, schema);
    let print = |entry: &Entry<'_>| match entry.place.and_then(|place| list.get_mut(place)) {
        Some(value) => value.take(),
        None => entry.print(),
    };
    entries.iter().map(print).collect()
}

/// Merges the oldest Update entries of each version until there are few enough. They are sorted by age already, after
/// the Apply entries.
fn join_ancient(entries: &mut Vec<Entry<'_>>, schema: Schema<'_>) {
    let first = entries.partition_point(|entry| entry.owner.operation == Operation::Apply);
    let mut at = first;
    while entries.len() - first > MOST_UPDATE_ENTRIES && at < entries.len() {
        let version = entries[at].owner.api_version;
        match (at + 1..entries.len()).find(|i| entries[*i].owner.api_version == version) {
            Some(next) => {
                let mut older = entries.remove(at);
                let joined = &mut entries[next - 1];
                let _unreadable = (older.read(schema), joined.read(schema));
                joined.fields.add(older.fields);
                joined.owner.manager = ANCIENT;
                joined.owner.subresource = "";
                joined.place = None;
                at = next - 1;
            }
            None => at += 1,
        }
    }
}

/// Brings a set up to date with a schema in which a container became atomic: who owned a part of it now owns it whole.
/// Says whether that was so anywhere.
fn settle(fields: &mut Fields<'_>, schema: Schema<'_>) -> bool {
    let mut changed = false;
    fields.edit(|element, node| {
        changed |= match element {
            Element::Field(name) if name == "metadata" => settle_below(node, Schema::metadata()),
            element => settle_node(element, node, schema),
        }
    });
    changed
}

fn settle_below(node: &mut Node<'_>, schema: Schema<'_>) -> bool {
    if schema.is_atomic_container() {
        *node = Node::member();
        return true;
    }
    let mut changed = false;
    node.fields.edit(|element, node| changed |= settle_node(element, node, schema));
    changed
}

fn settle_node(element: &Element<'_>, node: &mut Node<'_>, schema: Schema<'_>) -> bool {
    if node.fields.is_empty() {
        return false;
    }
    match element {
        Element::Field(name) => settle_below(node, schema.field(name).0),
        Element::Key(_) => schema.items().is_some_and(|items| settle_below(node, items.schema())),
        Element::Item(_) | Element::Index(_) => false,
    }
}

/// True for a value that a client sends to have all ownership forgotten: an empty list, or one empty entry.
pub(super) fn is_reset(managed: &Value) -> bool {
    match managed.as_array().map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// True if two values of managedFields differ in nothing but times.
pub(super) fn same_but_times(a: Option<&Value>, b: Option<&Value>) -> bool {
    let (Some(Value::Array(a)), Some(Value::Array(b))) = (a, b) else { return a == b };
    let sorted = |list: &[Value]| -> Vec<String> {
        let mut texts: Vec<String> = list
            .iter()
            .map(|entry| {
                let parts = entry.as_object().into_iter().flatten().filter(|(name, _)| *name != "time");
                parts.fold(String::new(), |text, (name, value)| text + name + "=" + &value.to_string() + "\n")
            })
            .collect();
        texts.sort_unstable();
        texts
    };
    a == b || (a.len() == b.len() && sorted(a) == sorted(b))
}
