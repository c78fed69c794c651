//! Validation: every way in which an object breaks its schema, in the words that Kubernetes uses.

use super::{ListType, Node, join};
use crate::error::{Cause, CauseReason};
use serde_json::Value;

/// How many causes are told at the most.
pub(super) const MAX_CAUSES: usize = 64;

pub(super) fn validate(root: &Node, object: &Value) -> Vec<Cause> {
    let mut check = Check { causes: Vec::new() };
    check.value(root, object, "");
    check.causes
}

struct Check {
    causes: Vec<Cause>,
}

impl Check {
    fn cause(&mut self, reason: CauseReason, field: &str, message: impl Into<String>) {
        if self.causes.len() < MAX_CAUSES {
            self.causes.push(Cause { reason, message: message.into(), field: field.to_owned() });
        }
    }

    fn invalid(&mut self, field: &str, value: &Value, what: impl AsRef<str>) {
        self.cause(CauseReason::FieldValueInvalid, field, format!("Invalid value: {}: {field} in body {}", short(value), what.as_ref()));
    }

    fn value(&mut self, node: &Node, value: &Value, path: &str) {
        if self.causes.len() >= MAX_CAUSES || (value.is_null() && node.nullable) {
            return;
        }
        if !has_type(node, value) {
            let (wanted, found) = (if node.int_or_string { "integer,string" } else { &node.type_ }, type_of(value));
            let message = format!("Invalid value: {found:?}: {path} in body must be of type {wanted}: {found:?}");
            self.cause(CauseReason::FieldValueTypeInvalid, path, message);
            return;
        }
        if !node.enum_.is_empty() && !node.enum_.contains(value) {
            let supported: Vec<_> = node.enum_.iter().map(short).collect();
            let message = format!("Unsupported value: {}: supported values: {}", short(value), supported.join(", "));
            self.cause(CauseReason::FieldValueNotSupported, path, message);
        }
        match value {
            Value::String(text) => self.string(node, value, text, path),
            Value::Number(number) => self.number(node, value, number.as_f64().unwrap_or(f64::NAN), path),
            Value::Array(items) => self.list(node, items, path),
            Value::Object(fields) => {
                for name in &node.required {
                    if !fields.contains_key(name) {
                        self.cause(CauseReason::FieldValueRequired, &join(path, name), "Required value");
                    }
                }
                for name in ["apiVersion", "kind"].into_iter().filter(|_| node.embedded) {
                    if fields.get(name).is_none_or(|value| value == "") && !node.required.iter().any(|required| required == name) {
                        self.cause(CauseReason::FieldValueRequired, &join(path, name), "Required value: must not be empty");
                    }
                }
                self.bounds(node.fields, fields.len(), path, "properties");
                for (name, field) in fields {
                    if let Some(property) = node.field(name) {
                        self.value(property, field, &join(path, name));
                    }
                }
            }
            _ => {}
        }
        self.alternatives(node, value, path);
    }

    fn string(&mut self, node: &Node, value: &Value, text: &str, path: &str) {
        let length = text.chars().count() as u64;
        if let Some(max) = node.length.1.filter(|max| length > *max) {
            self.cause(CauseReason::FieldValueTooLong, path, format!("Too long: may not be more than {max} bytes"));
        }
        if let Some(min) = node.length.0.filter(|min| length < *min) {
            self.invalid(path, value, format!("should be at least {min} chars long"));
        }
        if let Some(pattern) = node.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
            self.invalid(path, value, format!("should match '{pattern}'"));
        }
        let as_format = match node.format.as_str() {
            "date-time" => is_rfc3339(text),
            "date" => text.parse::<jiff::civil::Date>().is_ok(),
            "uuid" => uuid::Uuid::try_parse(text).is_ok(),
            "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).is_ok(),
            "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
            "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
            _ => true,
        };
        if !as_format {
            let shown = short(value);
            let message = format!("Invalid value: {shown}: {path} in body must be of type {}: {shown}", node.format);
            self.cause(CauseReason::FieldValueTypeInvalid, path, message);
        }
    }

    fn number(&mut self, node: &Node, value: &Value, number: f64, path: &str) {
        if let Some((min, exclusive)) = node.minimum
            && (number < min || (exclusive && number <= min))
        {
            self.invalid(path, value, format!("should be greater than {}{min}", if exclusive { "" } else { "or equal to " }));
        }
        if let Some((max, exclusive)) = node.maximum
            && (number > max || (exclusive && number >= max))
        {
            self.invalid(path, value, format!("should be less than {}{max}", if exclusive { "" } else { "or equal to " }));
        }
        if let Some(step) = node.multiple_of.filter(|step| *step > 0.0 && (number / step).fract() != 0.0) {
            self.invalid(path, value, format!("should be a multiple of {step}"));
        }
        let fits = match (node.format.as_str(), value) {
            ("int32", value) => value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            ("uint32", value) => value.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
            ("int64", value) => value.as_i64().is_some(),
            ("uint64", value) => value.as_u64().is_some(),
            _ => true,
        };
        if !fits {
            self.invalid(path, value, format!("must be of type {}: {}", node.format, short(value)));
        }
    }

    fn list(&mut self, node: &Node, items: &[Value], path: &str) {
        self.bounds(node.count, items.len(), path, "items");
        if let Some(item) = &node.items {
            for (index, value) in items.iter().enumerate() {
                self.value(item, value, &format!("{path}[{index}]"));
            }
        }
        let identity = |value: &Value| match &node.list {
            ListType::Atomic => None,
            ListType::Set => Some(value.clone()),
            ListType::Map(keys) => {
                let keys = keys.iter().filter_map(|key| Some((key.clone(), value.get(key)?.clone())));
                Some(Value::Object(keys.collect())).filter(|id| id.as_object().is_some_and(|id| !id.is_empty()))
            }
        };
        let mut seen = std::collections::HashSet::new();
        for (index, value) in items.iter().enumerate() {
            if let Some(identity) = identity(value)
                && !seen.insert(identity.to_string())
            {
                self.cause(CauseReason::FieldValueDuplicate, &format!("{path}[{index}]"), format!("Duplicate value: {}", short(&identity)));
            }
        }
    }

    fn bounds(&mut self, (min, max): (Option<u64>, Option<u64>), count: usize, path: &str, what: &str) {
        let count = count as u64;
        if let Some(max) = max.filter(|max| count > *max) {
            self.cause(CauseReason::FieldValueTooMany, path, format!("Too many: {count}: must have at most {max} {what}"));
        }
        if let Some(min) = min.filter(|min| count < *min) {
            self.cause(
                CauseReason::FieldValueInvalid,
                path,
                format!("Invalid value: {count}: {path} in body should have at least {min} {what}"),
            );
        }
    }

    fn alternatives(&mut self, node: &Node, value: &Value, path: &str) {
        let valid = |alternative: &Node| {
            let mut check = Check { causes: Vec::new() };
            check.value(alternative, value, path);
            check.causes.is_empty()
        };
        for all in &node.all_of {
            self.value(all, value, path);
        }
        if !node.any_of.is_empty() && !node.any_of.iter().any(valid) {
            let message = format!("Invalid value: \"\": {path:?} must validate at least one schema (anyOf){}", choices(&node.any_of));
            self.cause(CauseReason::FieldValueInvalid, path, message);
        }
        if !node.one_of.is_empty() {
            let count = node.one_of.iter().filter(|alternative| valid(alternative)).count();
            if count != 1 {
                let found = if count == 0 { "Found none valid".to_owned() } else { format!("Found {count} valid alternatives") };
                let choices = choices(&node.one_of);
                let message = format!("Invalid value: \"\": {path:?} must validate one and only one schema (oneOf). {found}{choices}");
                self.cause(CauseReason::FieldValueInvalid, path, message);
            }
        }
        if node.not.as_deref().is_some_and(valid) {
            self.cause(CauseReason::FieldValueInvalid, path, format!("Invalid value: \"\": {path:?} must not validate the schema (not)"));
        }
    }
}

/// What would do, where the alternatives are told apart by a field that each requires.
fn choices(alternatives: &[Node]) -> String {
    let names: Vec<_> = alternatives.iter().flat_map(|node| node.required.iter().map(String::as_str)).collect();
    if names.is_empty() || alternatives.iter().any(|node| node.required.len() != 1) {
        return String::new();
    }
    format!(": give one of {}", names.join(", "))
}

fn has_type(node: &Node, value: &Value) -> bool {
    if node.int_or_string {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match node.type_.as_str() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        // 2.0 is an integer in JSON Schema.
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        _ => true,
    }
}

/// A time as all clients read it: jiff alone would take a space for the `T`, leave out the seconds, or add a zone in brackets.
pub(super) fn is_rfc3339(text: &str) -> bool {
    let seconds = text.as_bytes().get(..19);
    let shape = b"0000-00-00T00:00:00";
    let alike = |(byte, like): (&u8, &u8)| if *like == b'0' { byte.is_ascii_digit() } else { byte == like };
    seconds.is_some_and(|seconds| seconds.iter().zip(shape).all(alike))
        && (text.ends_with('Z') || text.get(text.len().saturating_sub(6)..).is_some_and(|zone| zone.starts_with(['+', '-'])))
        && text.parse::<jiff::Timestamp>().is_ok()
}

pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as a message shows it: not more of it than a line.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 120 { text } else { format!("{}...", text.chars().take(117).collect::<String>()) }
}
