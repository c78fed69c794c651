//! Patches: what a PATCH's body says, and the object that it makes of the present one.
//!
//! A JSON patch can copy and move parts of an object into one another. Bounds on depth and on what is copied keep a small
//! patch from making an object that no memory or stack can hold.

use crate::{
    decode,
    error::{Reason, Status},
    registry::ResourceDef,
    strategic,
};
use json_patch::{PatchError, PatchOperation, jsonptr::PointerBuf};
use serde_json::{Map, Value};
use std::io;

/// The most operations of a JSON patch, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;
/// The most bytes that a JSON patch may copy and move within the object.
const MAX_COPIED: usize = 3 << 20;

/// The media types of patches that every kind takes.
const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
/// The media type of those that only Kubernetes's own kinds take.
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// What a PATCH's body says.
#[derive(Clone, Debug)]
pub enum Patch {
    /// A list of operations.
    Json(json_patch::Patch),
    /// The fields that change.
    Merge(Value),
    /// The same, with lists that are merged item by item.
    Strategic(Map<String, Value>),
    /// The fields that its manager wants.
    Apply(Value),
}

impl Patch {
    /// Reads a patch by its media type.
    pub fn parse(body: &[u8], content_type: Option<&str>, def: &ResourceDef) -> Result<Self, Status> {
        let media = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let value = || decode::object(body, Some(media));
        let fields = |value| match value {
            Value::Object(fields) => Ok(fields),
            _ => Err(Status::new(Reason::BadRequest, "a merge patch must be an object")),
        };
        match media {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_value(value()?)
                    .map_err(|error| Status::new(Reason::BadRequest, format!("the body is not a JSON patch: {error}")))?;
                if patch.len() > MAX_OPERATIONS {
                    let message = format!("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}", patch.len());
                    return Err(Status::new(Reason::RequestEntityTooLarge, message));
                }
                Ok(Self::Json(patch))
            }
            "application/merge-patch+json" => Ok(Self::Merge(fields(value()?)?.into())),
            "application/apply-patch+yaml" => Ok(Self::Apply(value()?)),
            STRATEGIC if def.strategic_merge => Ok(Self::Strategic(fields(value()?)?)),
            _ => {
                let and_strategic = if def.strategic_merge { [", ", STRATEGIC] } else { [""; 2] }.concat();
                let message = format!(
                    "the body of the request was in an unknown format {media:?} - accepted media types for a patch of {} are: {ACCEPTED}{and_strategic}",
                    def.plural
                );
                Err(Status::new(Reason::UnsupportedMediaType, message))
            }
        }
    }
}

/// Why an object could not be patched.
#[derive(Debug, thiserror::Error)]
pub enum PatchFailure {
    /// An operation does not fit the object.
    #[error("{0}")]
    Operation(#[from] PatchError),
    /// An operation nests too deep.
    #[error("operation '/{operation}' failed at path '{path}': nested more than {} levels deep", decode::MAX_DEPTH)]
    Depth {
        /// Index of the operation.
        operation: usize,
        /// Its path.
        path: PointerBuf,
    },
    /// The operations copy and move too much.
    #[error("operation '/{operation}' failed at path '{path}': the patch copies and moves more than {MAX_COPIED} bytes")]
    Copied {
        /// Index of the operation.
        operation: usize,
        /// Its path.
        path: PointerBuf,
    },
}

/// Makes the operations of a JSON patch, all or an error; `object` is then of no use.
pub fn apply_json(object: &mut Value, patch: &json_patch::Patch) -> Result<(), PatchFailure> {
    let mut copied = 0;
    for (operation, step) in patch.iter().enumerate() {
        let path = step.path();
        let moved = match step {
            PatchOperation::Add(add) => Some(&add.value),
            PatchOperation::Replace(replace) => Some(&replace.value),
            PatchOperation::Copy(copy) => object.pointer(copy.from.as_str()),
            PatchOperation::Move(mov) => object.pointer(mov.from.as_str()),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
        };
        if let Some(moved) = moved {
            if path.count() + depth(moved) > decode::MAX_DEPTH {
                return Err(PatchFailure::Depth { operation, path: path.to_owned() });
            }
            if let PatchOperation::Copy(_) | PatchOperation::Move(_) = step {
                copied += size(moved);
                if copied > MAX_COPIED {
                    return Err(PatchFailure::Copied { operation, path: path.to_owned() });
                }
            }
        }
        json_patch::patch_unsafe(object, std::slice::from_ref(step)).map_err(|mut error| {
            error.operation = operation;
            error
        })?;
    }
    Ok(())
}

/// Merges a strategic merge patch into an object.
pub fn apply_strategic(object: &mut Value, patch: &Map<String, Value>, def: &ResourceDef) -> Result<(), Status> {
    let Some(fields) = object.as_object_mut() else { return Ok(()) };
    strategic::merge(fields, patch, &def.schema)
        .map_err(|error| Status::new(Reason::BadRequest, format!("the body is not a usable strategic merge patch: {error}")))
}

/// How deep a value is nested; no value in here is deeper than a decoded body.
fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// How many bytes a value is as text.
fn size(value: &Value) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // A counter takes everything, and a value is always JSON.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn operations(operations: Value) -> json_patch::Patch {
        serde_json::from_value(operations).unwrap()
    }

    #[test]
    fn a_failed_operation_is_named_by_its_place() {
        let patch = operations(json!([{"op": "test", "path": "/a", "value": 1}, {"op": "remove", "path": "/b"}]));
        let error = apply_json(&mut json!({"a": 1}), &patch).unwrap_err();
        assert_eq!(error.to_string(), "operation '/1' failed at path '/b': path is invalid");
    }

    #[test]
    fn moves_into_one_another_end_at_the_depth_limit() {
        let inner = "/a".repeat(40);
        let mut nested = json!({});
        (0..40).for_each(|_| nested = json!({ "a": nested.take() }));
        let patch = operations(json!([
            {"op": "add", "path": "/x", "value": nested},
            {"op": "copy", "from": "/x", "path": "/y"},
            {"op": "move", "from": "/y", "path": format!("/x{inner}/y")},
        ]));
        let error = apply_json(&mut json!({}), &patch).unwrap_err();
        assert!(matches!(error, PatchFailure::Depth { operation: 2, .. }), "{error}");
    }

    #[test]
    fn copies_that_double_the_object_end_at_the_size_limit() {
        let doubling =
            |i: usize| [json!({"op": "copy", "from": "/a", "path": format!("/b/{i}")}), json!({"op": "copy", "from": "/b", "path": "/a"})];
        let patch = operations((0..1000).flat_map(doubling).collect());
        let error = apply_json(&mut json!({"a": "x".repeat(1000), "b": {}}), &patch).unwrap_err();
        assert!(matches!(error, PatchFailure::Depth { .. } | PatchFailure::Copied { .. }), "{error}");
    }

    #[test]
    fn what_is_no_patch_is_refused() {
        let def = crate::builtin::definitions().remove(0);
        let parse = |body: &str, media: &str| Patch::parse(body.as_bytes(), Some(media), &def).unwrap_err().reason;
        assert_eq!(parse("{}", "application/json-patch+json"), Reason::BadRequest);
        assert_eq!(parse(r#"[{"op":"frob","path":"/a"}]"#, "application/json-patch+json"), Reason::BadRequest);
        assert_eq!(parse("[]", "application/merge-patch+json"), Reason::BadRequest);
        assert_eq!(parse("{}", "application/json"), Reason::UnsupportedMediaType);
    }
}
