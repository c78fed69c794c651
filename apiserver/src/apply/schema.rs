//! What the schema says about ownership: which objects and lists are one value to be owned whole (atomic), and which
//! are owned field by field or item by item (granular); and which parts of an object a writer's ownership covers.

use super::fields::Element;
use crate::ResourceDef;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

/// A node of a structural schema; nothing below fields that the schema does not know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schema<'s>(Option<&'s Value>);

/// How a value is owned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape<'s> {
    /// Whole.
    Leaf,
    /// Field by field.
    Map,
    /// Item by item.
    List(Items<'s>),
}

/// How the items of a granular list are told apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Items<'s> {
    /// By value: the list is a set of scalars.
    Values,
    /// By the key fields with these names.
    Keys { names: &'s [Value], item: Schema<'s> },
}

/// Why an item of a granular list cannot be told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ItemFault {
    NotAnObject,
    NoKey,
    NotAScalar,
}

/// The schema of `metadata`, which resource definitions leave out.
static METADATA: LazyLock<Value> = LazyLock::new(|| {
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({"type": "object", "properties": {
        "labels": strings,
        "annotations": strings,
        "finalizers": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "ownerReferences": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["uid"],
            "items": {"type": "object", "x-kubernetes-map-type": "atomic"},
        },
    }})
});

impl<'s> Schema<'s> {
    pub(super) fn of(def: &'s ResourceDef) -> Self {
        Self(Some(&def.schema))
    }

    pub(super) fn metadata() -> Schema<'static> {
        Schema(Some(&METADATA))
    }

    fn get(self, name: &str) -> Option<&'s Value> {
        self.0.and_then(|schema| schema.get(name))
    }

    /// The schema of a field, and whether it is declared by name.
    pub(super) fn field(self, name: &str) -> (Self, bool) {
        match self.get("properties").and_then(|p| p.get(name)) {
            Some(property) => (Self(Some(property)), true),
            None => (Self(self.get("additionalProperties").filter(|a| a.is_object())), false),
        }
    }

    fn is_atomic_map(self) -> bool {
        self.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic")
    }

    /// How the items of a list of this schema are told apart; `None` for an atomic list.
    pub(super) fn items(self) -> Option<Items<'s>> {
        match self.get("x-kubernetes-list-type").and_then(Value::as_str) {
            Some("set") => Some(Items::Values),
            Some("map") => {
                let names = self.get("x-kubernetes-list-map-keys").and_then(Value::as_array).filter(|k| !k.is_empty())?;
                Some(Items::Keys { names, item: Self(self.get("items")) })
            }
            _ => None,
        }
    }

    /// True if the schema itself says that a value is owned whole although it is a container.
    pub(super) fn is_atomic_container(self) -> bool {
        match self.get("type").and_then(Value::as_str) {
            Some("array") => self.items().is_none(),
            Some("object") => self.is_atomic_map(),
            _ => false,
        }
    }

    /// How a value is owned. What the schema does not know is deduced from the value.
    pub(super) fn shape(self, value: &Value) -> Shape<'s> {
        match value {
            Value::Object(_) if !self.is_atomic_map() => Shape::Map,
            Value::Array(_) => self.items().map_or(Shape::Leaf, Shape::List),
            _ => Shape::Leaf,
        }
    }
}

impl<'s> Items<'s> {
    /// The schema of each item.
    pub(super) fn schema(self) -> Schema<'s> {
        match self {
            Self::Values => Schema(None),
            Self::Keys { item, .. } => item,
        }
    }

    /// What an item is told from others by.
    pub(super) fn element<'a>(self, value: &'a Value) -> Result<Element<'a>, ItemFault>
    where
        's: 'a,
    {
        match self {
            Self::Values => match value {
                Value::Null | Value::Array(_) | Value::Object(_) => Err(ItemFault::NotAScalar),
                scalar => Ok(Element::item(scalar)),
            },
            Self::Keys { names, item } => {
                let object = value.as_object().ok_or(ItemFault::NotAnObject)?;
                let mut keys: Vec<(&str, &Value)> = Vec::with_capacity(names.len());
                for name in names.iter().filter_map(Value::as_str) {
                    if let Some(value) = object.get(name).or_else(|| item.field(name).0.get("default")) {
                        keys.push((name, value));
                    }
                }
                if keys.is_empty() {
                    return Err(ItemFault::NoKey);
                }
                keys.sort_unstable_by_key(|(name, _)| *name);
                Ok(Element::keyed(&keys))
            }
        }
    }

    /// The same for all items; `None` if one of them cannot be told from others.
    pub(super) fn elements<'a>(self, list: &'a [Value]) -> Option<Vec<Element<'a>>>
    where
        's: 'a,
    {
        list.iter().map(|value| self.element(value).ok()).collect()
    }

    /// True for the names of key fields.
    pub(super) fn is_key(self, name: &str) -> bool {
        matches!(self, Self::Keys { names, .. } if names.iter().any(|key| key == name))
    }
}

/// The part of an object that a writer's ownership covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// All of it: the kind has no status subresource.
    Whole,
    /// All but `status`.
    ButStatus,
    /// Only `status`.
    Status,
}

impl Scope {
    pub(super) fn of(def: &ResourceDef, subresource: &str) -> Self {
        match subresource {
            "status" => Self::Status,
            _ if def.has_status => Self::ButStatus,
            _ => Self::Whole,
        }
    }

    /// Whether a field at the top of the object is covered. Nobody owns `apiVersion` and `kind`.
    pub(super) fn covers(self, name: &str) -> bool {
        match name {
            "apiVersion" | "kind" => false,
            "status" => self != Self::ButStatus,
            _ => self != Self::Status,
        }
    }
}

/// Fields of `metadata` that nobody owns: the API server writes them, or they name the object.
pub(super) fn is_unowned_metadata(name: &str) -> bool {
    matches!(name, "name" | "namespace" | "uid" | "resourceVersion") || is_system_metadata(name)
}

/// Fields of `metadata` that only the API server writes.
pub(super) fn is_system_metadata(name: &str) -> bool {
    matches!(name, "managedFields" | "creationTimestamp" | "deletionTimestamp" | "deletionGracePeriodSeconds" | "generation" | "selfLink")
}

/// A value as an object, if it is one.
pub(super) fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}
