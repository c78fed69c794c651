//! What is known of the values of an expression before it is evaluated: enough to refuse a field that the schema does not have
//! and a rule that tells neither true nor false, as Kubernetes does when it takes a definition.

use super::eval::Field;
use crate::schema::Node;

/// What is known of a value.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'n> {
    /// Nothing.
    Any,
    /// It has this schema.
    Node(&'n Node),
    /// The same, and it is an object with apiVersion, kind and metadata.
    Whole(&'n Node),
    /// It is the metadata of an object, of which name and generateName are known.
    Metadata,
    /// It is of this type.
    Of(Kind),
}

/// The types that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Bool,
    Int,
    Uint,
    Double,
    Text,
    List,
    Map,
}

impl Kind {
    /// As the language names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::Text => "string",
            Self::List => "list",
            Self::Map => "map",
        }
    }
}

impl<'n> Shape<'n> {
    /// Its type, if that is known.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::Any => None,
            Self::Of(kind) => Some(kind),
            Self::Whole(_) | Self::Metadata => Some(Kind::Map),
            Self::Node(node) if node.int_or_string || node.preserve_unknown => None,
            Self::Node(node) => match node.type_.as_str() {
                "object" => Some(Kind::Map),
                "array" => Some(Kind::List),
                "boolean" => Some(Kind::Bool),
                "integer" => Some(Kind::Int),
                "number" => Some(Kind::Double),
                "string" if !matches!(node.format.as_str(), "date-time" | "date" | "duration" | "byte") => Some(Kind::Text),
                _ => None,
            },
        }
    }

    /// The shape of a field.
    pub fn field(self, field: &Field) -> Result<Self, String> {
        let undefined = || Err(format!("undefined field '{}'", field.written));
        let node = match self {
            Self::Metadata if ["name", "generateName"].contains(&&*field.name) => return Ok(Self::Of(Kind::Text)),
            Self::Metadata => return undefined(),
            Self::Whole(node) => match &*field.name {
                "apiVersion" | "kind" => return Ok(Self::Of(Kind::Text)),
                "metadata" => return Ok(Self::Metadata),
                _ => node,
            },
            Self::Node(node) => node,
            Self::Any | Self::Of(Kind::Map) => return Ok(Self::Any),
            Self::Of(kind) => return Err(format!("type '{}' does not support field selection", kind.name())),
        };
        if let Some(property) = node.properties.get(&*field.name) {
            return Ok(property.shape());
        }
        match (&node.additional, self.kind()) {
            (Some(additional), _) => Ok(additional.shape()),
            (None, _) if node.preserve_unknown => Ok(Self::Any),
            (None, Some(Kind::Map)) => undefined(),
            (None, Some(kind)) => Err(format!("type '{}' does not support field selection", kind.name())),
            (None, None) => Ok(Self::Any),
        }
    }

    /// The shape of what is found by an index or a key.
    pub fn item(self) -> Self {
        match self {
            Self::Node(node) => node.items.as_deref().or(node.additional.as_deref()).map_or(Self::Any, Node::shape),
            _ => Self::Any,
        }
    }

    /// The shape of an index or a key.
    pub fn key(self) -> Self {
        match self.kind() {
            Some(Kind::List) => Self::Of(Kind::Int),
            Some(Kind::Map) if matches!(self, Self::Node(_)) => Self::Of(Kind::Text),
            _ => Self::Any,
        }
    }
}

impl Node {
    /// The shape of what has this schema.
    pub(super) fn shape(&self) -> Shape<'_> {
        if self.embedded { Shape::Whole(self) } else { Shape::Node(self) }
    }
}
