//! One revision of an object: its bytes, which lists and watches share, and what they say, read when somebody asks.
//!
//! An object is stored without a resource version, for that is the revision of the store. It is put into the bytes, in front of
//! the other metadata, without reading and writing the whole again.

use basalt_store::{Entry, Revision};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, RwLock, Weak},
};

/// How many bytes of JSON are kept as values too, in all objects together: a value is several times as large as its JSON.
const MOST_READ: usize = 8 << 20;

/// The values that were read last, each with how long its JSON is, and how long all are; the oldest are forgotten first.
static READ: Mutex<(VecDeque<Kept>, usize)> = Mutex::new((VecDeque::new(), 0));

type Kept = (Weak<Slot>, usize);

/// What an object says, while that is kept.
type Slot = RwLock<Option<Arc<Value>>>;

/// One revision of an object.
#[derive(Debug)]
pub struct Object {
    /// The revision that wrote it; 0 for one that is not written.
    pub revision: Revision,
    /// It, encoded, with its resource version.
    pub json: Bytes,
    value: Arc<Slot>,
}

/// What is stored cannot be an object.
#[derive(Debug, thiserror::Error)]
#[error("what is stored is not an object: {0}")]
pub struct NotAnObject(String);

/// What is read of all bytes: that they are JSON, and where the metadata is.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

impl Object {
    /// An object as the store has it, at a revision.
    pub fn stored(bytes: &[u8], revision: Revision) -> Result<Self, NotAnObject> {
        let head: Head<'_> = serde_json::from_slice(bytes).map_err(|e| NotAnObject(e.to_string()))?;
        let metadata = head.metadata.get();
        let Some(fields) = metadata.strip_prefix('{') else { return Err(NotAnObject("its metadata is not an object".into())) };
        if fields.contains("\"resourceVersion\":") {
            // Not as we write it.
            let mut value: Value = serde_json::from_slice(bytes).map_err(|e| NotAnObject(e.to_string()))?;
            let bare = encode(&mut value);
            if bare.len() < bytes.len() {
                return Self::stored(&bare, revision);
            }
        }
        let start = fields.as_ptr() as usize - bytes.as_ptr() as usize;
        Ok(Self::with_version(&bytes[..start], &bytes[start..], revision))
    }

    /// An object at a revision, which is 0 for one that is not written: that has no resource version.
    pub fn of(mut value: Value, revision: Revision) -> Self {
        if let Some(metadata) = value["metadata"].as_object_mut() {
            match revision {
                0 => metadata.remove("resourceVersion"),
                _ => metadata.insert("resourceVersion".into(), revision.to_string().into()),
            };
        }
        let object = Self { revision, json: value.to_string().into(), value: Arc::default() };
        object.keep(value);
        object
    }

    /// The same object with the resource version of another revision.
    pub fn at(&self, revision: Revision) -> Self {
        Self::of((*self.value()).clone(), revision)
    }

    fn with_version(before: &[u8], after: &[u8], revision: Revision) -> Self {
        let comma = if after.trim_ascii_start().starts_with(b"}") { "" } else { "," };
        let version = format!("\"resourceVersion\":\"{revision}\"{comma}");
        let json = [before, version.as_bytes(), after].concat().into();
        Self { revision, json, value: Arc::default() }
    }

    /// It, with its resource version.
    pub fn value(&self) -> Arc<Value> {
        let kept = self.value.read().unwrap_or_else(PoisonError::into_inner).clone();
        // That they are JSON was seen when the object was made of them.
        kept.unwrap_or_else(|| self.keep(serde_json::from_slice(&self.json).unwrap_or_default()))
    }

    /// Whether a text is somewhere in the bytes.
    pub fn mentions(&self, text: &str) -> bool {
        std::str::from_utf8(&self.json).is_ok_and(|json| json.contains(text))
    }

    /// Gives what the bytes say to those who will ask, from one who knows.
    pub fn tell(&self, mut value: Value) {
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.keep(value);
    }

    /// Keeps a value for those who ask next, for as long as it is among those that were read last.
    fn keep(&self, value: Value) -> Arc<Value> {
        let value = Arc::new(value);
        let known = self.value.write().unwrap_or_else(PoisonError::into_inner).replace(value.clone());
        if known.is_none() {
            let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
            read.0.push_back((Arc::downgrade(&self.value), self.json.len()));
            read.1 += self.json.len();
            while read.1 > MOST_READ
                && let Some((slot, size)) = read.0.pop_front()
            {
                read.1 -= size;
                if let Some(slot) = slot.upgrade() {
                    slot.write().unwrap_or_else(PoisonError::into_inner).take();
                }
            }
        }
        value
    }
}

/// An object as it is stored.
pub fn encode(value: &mut Value) -> Bytes {
    if let Some(metadata) = value["metadata"].as_object_mut() {
        metadata.remove("resourceVersion");
    }
    value.to_string().into()
}

/// An object as the store has it. What cannot be read is left out, loudly: it must not take all others with it.
pub fn decode(entry: &Entry) -> Option<Object> {
    Object::stored(&entry.value, entry.modified)
        .inspect_err(|error| tracing::error!(key = %entry.key.escape_ascii(), "an object is left out: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn stored(mut value: Value, revision: Revision) -> Object {
        Object::stored(&encode(&mut value), revision).unwrap()
    }

    #[test]
    fn the_resource_version_is_put_into_the_metadata_and_nowhere_else() {
        let value = json!({ "kind": "A", "data": { "metadata": { "x": "\"metadata\":{" } }, "metadata": { "name": "n" } });
        let object = stored(value.clone(), 7);
        let mut expected = value;
        expected["metadata"]["resourceVersion"] = "7".into();
        assert_eq!(*object.value(), expected);
        assert_eq!(serde_json::from_slice::<Value>(&object.json).unwrap(), expected);
        expected["metadata"]["resourceVersion"] = "12345".into();
        let later = object.at(12345);
        assert_eq!((later.revision, &*later.value()), (12345, &expected));
    }

    #[test]
    fn empty_metadata_and_a_foreign_resource_version_do_no_harm() {
        assert_eq!(stored(json!({ "metadata": {} }), 1).at(2).json, r#"{"metadata":{"resourceVersion":"2"}}"#);
        let foreign = Object::stored(br#"{ "metadata" : { "resourceVersion": "5", "name": "n" } }"#, 8).unwrap();
        assert_eq!(*foreign.value(), json!({ "metadata": { "name": "n", "resourceVersion": "8" } }));
        let elsewhere = br#"{"metadata":{"annotations":{"resourceVersion":"5"}}}"#;
        let expected = json!({ "metadata": { "annotations": { "resourceVersion": "5" }, "resourceVersion": "9" } });
        assert_eq!(*Object::stored(elsewhere, 9).unwrap().value(), expected);
    }

    #[test]
    fn what_is_not_an_object_is_told() {
        for bytes in [&b"{"[..], b"[]", b"{}", b"{\"metadata\":[]}", b"{\"metadata\":{}} x", b"\xff"] {
            assert!(Object::stored(bytes, 1).is_err(), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_stored_is_what_is_read(names in prop::collection::btree_map("\\PC{0,8}", "\\PC{0,8}", 0..5), revision in 1u64..) {
            let mut value = json!({ "kind": "A", "metadata": { "labels": names }, "spec": names });
            let object = stored(value.clone(), revision);
            value["metadata"]["resourceVersion"] = revision.to_string().into();
            prop_assert_eq!(&*object.value(), &value);
        }
    }
}
