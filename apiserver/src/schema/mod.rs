//! Structural schemas: what a kind's objects may look like, as its CustomResourceDefinition says it.
//!
//! A schema is compiled once and then prunes what is unknown, fills in defaults, and validates. Messages are in Kubernetes's
//! own words, because people and programs know them.

mod cel;
mod costs;
mod defaults;
mod prune;
mod rules;
mod validate;

pub use prune::UnknownField;

use crate::error::{Cause, CauseReason};
use regex::{Regex, RegexBuilder};
use rules::Rule;
use serde_json::Value;
use std::collections::BTreeMap;

/// A schema cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the schema of {path} is not usable: {reason}")]
pub struct SchemaError {
    path: String,
    reason: String,
}

/// A compiled schema of a whole object.
#[derive(Debug)]
pub struct Schema {
    root: Node,
}

/// What a list is, for uniqueness.
#[derive(Debug, Default)]
enum ListType {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// A compiled schema of a value.
#[derive(Debug, Default)]
struct Node {
    type_: String,
    nullable: bool,
    int_or_string: bool,
    preserve_unknown: bool,
    embedded: bool,
    properties: BTreeMap<String, Node>,
    additional: Option<Box<Node>>,
    items: Option<Box<Node>>,
    required: Vec<String>,
    enum_: Vec<Value>,
    pattern: Option<Regex>,
    format: String,
    minimum: Option<(f64, bool)>,
    maximum: Option<(f64, bool)>,
    multiple_of: Option<f64>,
    length: (Option<u64>, Option<u64>),
    count: (Option<u64>, Option<u64>),
    fields: (Option<u64>, Option<u64>),
    list: ListType,
    default: Option<Value>,
    one_of: Vec<Node>,
    any_of: Vec<Node>,
    all_of: Vec<Node>,
    not: Option<Box<Node>>,
    rules: Vec<Rule>,
    /// Here or below there are rules.
    has_rules: bool,
}

impl ListType {
    /// Two items of a list with keys have the same ones; two items of another list may be the same.
    fn same_item(&self, a: &Value, b: &Value) -> bool {
        match self {
            Self::Map(keys) => keys.iter().all(|key| a.get(key) == b.get(key)),
            Self::Atomic | Self::Set => true,
        }
    }
}

impl Schema {
    /// Compiles an OpenAPI v3 schema.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        let mut root = Node::compile(schema, "")?;
        rules::attach(&mut root, schema)?;
        Ok(Self { root })
    }

    /// Puts in what the object leaves out and the schema has a default for.
    pub fn apply_defaults(&self, object: &mut Value) {
        defaults::apply(&self.root, object);
    }

    /// What is wrong with the defaults themselves.
    pub fn check_defaults(&self) -> Vec<Cause> {
        defaults::check(&self.root, "")
    }

    /// The rules that may cost too much, by their place in the schema, which is at `path` itself.
    pub fn check_costs(&self, path: &str) -> Vec<Cause> {
        costs::check(&self.root, path)
    }

    /// Takes out what the schema does not know, and nulls where none are allowed; tells the unknown. Comes before the defaults.
    pub fn prune(&self, object: &mut Value) -> Vec<UnknownField> {
        prune::prune(&self.root, object)
    }

    /// Everything that is wrong with an object that is to take the place of another or, if that is none, to be new; up to a
    /// bound.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = validate::validate(&self.root, object);
        if !self.root.has_rules {
            return causes;
        }
        let blocks = |cause: &Cause| {
            use CauseReason::{FieldValueRequired, FieldValueTooLong, FieldValueTooMany, FieldValueTypeInvalid};
            matches!(cause.reason, FieldValueRequired | FieldValueTooLong | FieldValueTooMany | FieldValueTypeInvalid)
        };
        // Rules are written for values of the right types, and their cost is bounded by the bounds on sizes.
        if causes.iter().any(blocks) {
            let message = "Invalid value: null: some validation rules were not checked because the object was invalid; \
                           correct the existing errors to complete validation";
            causes.push(Cause { reason: CauseReason::FieldValueInvalid, message: message.into(), field: "<nil>".into() });
            return causes;
        }
        causes.extend(rules::check(&self.root, object, old));
        causes
    }
}

impl Node {
    fn compile(schema: &Value, path: &str) -> Result<Self, SchemaError> {
        let error = |reason: String| SchemaError { path: if path.is_empty() { "the object".into() } else { path.into() }, reason };
        let text = |key: &str| schema[key].as_str().unwrap_or_default().to_owned();
        let flag = |key: &str| schema[key].as_bool().unwrap_or(false);
        let number = |key: &str| schema[key].as_f64();
        let count = |key: &str| schema[key].as_f64().filter(|n| *n >= 0.0).map(|n| n as u64);
        let strings = |key: &str| -> Vec<String> {
            schema[key].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let nodes = |key: &str| -> Result<Vec<Node>, SchemaError> {
            schema[key].as_array().into_iter().flatten().map(|s| Node::compile(s, path)).collect()
        };
        let child = |key: &str, suffix: &str| -> Result<Option<Box<Node>>, SchemaError> {
            match &schema[key] {
                value @ Value::Object(_) => Node::compile(value, &format!("{path}{suffix}")).map(|n| Some(Box::new(n))),
                Value::Bool(true) => Ok(Some(Box::new(Node { preserve_unknown: true, ..Node::default() }))),
                _ => Ok(None),
            }
        };
        let type_ = text("type");
        if !matches!(type_.as_str(), "" | "object" | "array" | "string" | "boolean" | "integer" | "number") {
            return Err(error(format!("there is no type {type_:?}")));
        }
        let mut properties = BTreeMap::new();
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let dot = if path.is_empty() { "" } else { "." };
            properties.insert(name.clone(), Self::compile(property, &format!("{path}{dot}{name}"))?);
        }
        let pattern = match &schema["pattern"] {
            Value::String(pattern) => Some(regex(pattern).map_err(|e| error(format!("the pattern {pattern:?} is not one: {e}")))?),
            _ => None,
        };
        let list = match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => ListType::Set,
            Some("map") => ListType::Map(strings("x-kubernetes-list-map-keys")),
            _ if flag("uniqueItems") => ListType::Set,
            _ => ListType::Atomic,
        };
        Ok(Self {
            type_,
            nullable: flag("nullable"),
            int_or_string: flag("x-kubernetes-int-or-string"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            properties,
            additional: child("additionalProperties", ".*")?,
            items: child("items", "[*]")?,
            required: strings("required"),
            enum_: schema["enum"].as_array().cloned().unwrap_or_default(),
            pattern,
            format: text("format"),
            minimum: number("minimum").map(|n| (n, flag("exclusiveMinimum"))),
            maximum: number("maximum").map(|n| (n, flag("exclusiveMaximum"))),
            multiple_of: number("multipleOf"),
            length: (count("minLength"), count("maxLength")),
            count: (count("minItems"), count("maxItems")),
            fields: (count("minProperties"), count("maxProperties")),
            list,
            default: schema.get("default").cloned(),
            one_of: nodes("oneOf")?,
            any_of: nodes("anyOf")?,
            all_of: nodes("allOf")?,
            not: child("not", "")?,
            rules: Vec::new(),
            has_rules: false,
        })
    }

    /// The schema of a field, if the field is known.
    fn field(&self, name: &str) -> Option<&Node> {
        self.properties.get(name).or(self.additional.as_deref())
    }
}

/// How much memory a compiled pattern may take: definitions come from users.
const MAX_PATTERN: usize = 2 << 20;

fn regex(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(MAX_PATTERN).nest_limit(50).build()
}

/// `a` and `b` as `a.b`.
fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

#[cfg(test)]
mod tests;
