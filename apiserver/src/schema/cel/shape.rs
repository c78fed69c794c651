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
    /// It is the metadata of an object: name and generateName, and what the schema says of it besides.
    Metadata(Option<&'n Node>),
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
    /// An object, whose fields its schema names.
    Object,
    Null,
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
            Self::Object => "object",
            Self::Null => "null",
        }
    }

    /// Values of it are compared with those of the other types of numbers.
    pub fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }
}

impl<'n> Shape<'n> {
    /// Its type, if that is known.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::Any => None,
            Self::Of(kind) => Some(kind),
            Self::Whole(_) | Self::Metadata(_) => Some(Kind::Object),
            Self::Node(node) if node.int_or_string => None,
            Self::Node(node) => match node.type_.as_str() {
                "object" if node.additional.is_some() => Some(Kind::Map),
                "object" => Some(Kind::Object),
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
            Self::Metadata(_) if ["name", "generateName"].contains(&&*field.name) => return Ok(Self::Of(Kind::Text)),
            Self::Metadata(Some(node)) => node,
            Self::Metadata(None) => return undefined(),
            Self::Whole(node) => match &*field.name {
                "apiVersion" | "kind" => return Ok(Self::Of(Kind::Text)),
                "metadata" => return Ok(Self::Metadata(node.properties.get("metadata"))),
                _ => node,
            },
            Self::Node(node) => node,
            Self::Any | Self::Of(Kind::Map) => return Ok(Self::Any),
            Self::Of(kind) => return Err(format!("type '{}' does not support field selection", kind.name())),
        };
        // As in Kubernetes: of what no schema is known, nothing is to be asked for.
        match (node.properties.get(&*field.name), &node.additional, self.kind()) {
            (Some(property), _, _) if property.is_typed() => Ok(property.shape()),
            (Some(_), _, _) => undefined(),
            (None, Some(additional), _) => Ok(additional.shape()),
            (None, None, Some(Kind::Object)) => undefined(),
            (None, None, Some(kind)) => Err(format!("type '{}' does not support field selection", kind.name())),
            (None, None, None) => Ok(Self::Any),
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
    /// It is known what it is, and its items and entries too.
    fn is_typed(&self) -> bool {
        let within = self.items.as_deref().into_iter().chain(self.additional.as_deref());
        self.int_or_string || (!self.type_.is_empty() && within.into_iter().all(Node::is_typed))
    }

    /// The shape of what has this schema.
    pub(super) fn shape(&self) -> Shape<'_> {
        if self.embedded { Shape::Whole(self) } else { Shape::Node(self) }
    }
}
