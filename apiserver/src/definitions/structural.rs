//! Structural schemas: what Kubernetes demands of the schema of a definition, in its words, so that pruning, defaults and
//! ownership of fields mean the same here and there. The depth is bounded by that of request bodies.

use crate::{
    error::{Cause, CauseReason},
    schema::UnknownField,
};
use serde_json::{Map, Value, json};

/// How many causes are told at the most.
const MAX_CAUSES: usize = 32;
/// How many patterns a definition may have, and how long each may be.
const MAX_PATTERNS: (usize, usize) = (1000, 4096);

/// What a schema may say.
const KEYWORDS: [&str; 43] = [
    "$ref",
    "$schema",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "default",
    "definitions",
    "dependencies",
    "description",
    "enum",
    "example",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "externalDocs",
    "format",
    "id",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "nullable",
    "oneOf",
    "pattern",
    "patternProperties",
    "properties",
    "required",
    "title",
    "type",
    "uniqueItems",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
];
/// Besides the others; it comes with its own fields.
const RULES: &str = "x-kubernetes-validations";

/// Takes out of the schemas of a definition what is no keyword, and tells it.
pub fn prune(definition: &mut Value) -> Vec<UnknownField> {
    let mut unknown = Vec::new();
    let versions = definition["spec"].get_mut("versions").and_then(Value::as_array_mut);
    for (index, version) in versions.into_iter().flatten().enumerate() {
        if let Some(schema) = version.get_mut("schema").and_then(|schema| schema.get_mut("openAPIV3Schema")) {
            prune_schema(schema, &format!("spec.versions[{index}].schema.openAPIV3Schema"), &mut unknown);
        }
    }
    unknown
}

fn prune_schema(schema: &mut Value, path: &str, unknown: &mut Vec<UnknownField>) {
    let Some(fields) = schema.as_object_mut() else { return };
    fields.retain(|name, value| {
        let known = KEYWORDS.contains(&name.as_str()) || name == RULES;
        if !known {
            unknown.push(UnknownField { path: format!("{path}.{name}"), suggestion: None });
        }
        known && (!value.is_null() || name == "default")
    });
    for (name, value) in fields.iter_mut() {
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties {
                    prune_schema(property, &format!("{path}.properties.{name}"), unknown);
                }
            }
            ("items" | "additionalProperties" | "not", value) => prune_schema(value, &format!("{path}.{name}"), unknown),
            ("allOf" | "anyOf" | "oneOf", Value::Array(parts)) => {
                for (index, part) in parts.iter_mut().enumerate() {
                    prune_schema(part, &format!("{path}.{name}[{index}]"), unknown);
                }
            }
            _ => {}
        }
    }
}

/// Everything that keeps the schema at a path from being structural, up to a bound.
pub fn check(schema: &Value, path: &str) -> Vec<Cause> {
    let mut check = Check { causes: Vec::new(), patterns: 0 };
    check.schema(schema, path, Place::Root);
    if check.patterns > MAX_PATTERNS.0 {
        check.forbidden(path, format!("must not have more than {} patterns", MAX_PATTERNS.0));
    }
    check.causes
}

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    /// `metadata` of the whole object.
    Metadata,
    Field,
    Item,
}

struct Check {
    causes: Vec<Cause>,
    patterns: usize,
}

impl Check {
    fn cause(&mut self, reason: CauseReason, field: impl Into<String>, message: String) {
        if self.causes.len() < MAX_CAUSES {
            self.causes.push(Cause { reason, message, field: field.into() });
        }
    }

    fn forbidden(&mut self, field: impl Into<String>, why: impl AsRef<str>) {
        self.cause(CauseReason::FieldValueForbidden, field, format!("Forbidden: {}", why.as_ref()));
    }

    fn required(&mut self, field: impl Into<String>, why: &str) {
        self.cause(CauseReason::FieldValueRequired, field, format!("Required value: {why}"));
    }

    fn invalid(&mut self, field: impl Into<String>, value: &Value, why: &str) {
        let value = value.to_string();
        let shown = if value.len() > 80 { "...".to_owned() } else { value };
        self.cause(CauseReason::FieldValueInvalid, field, format!("Invalid value: {shown}: {why}"));
    }

    fn unsupported(&mut self, field: impl Into<String>, value: &Value, supported: &[&str]) {
        let supported: Vec<_> = supported.iter().map(|name| format!("{name:?}")).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", supported.join(", "));
        self.cause(CauseReason::FieldValueNotSupported, field, message);
    }

    fn schema(&mut self, schema: &Value, path: &str, place: Place) {
        let Some(fields) = schema.as_object() else {
            return self.invalid(path, schema, "must be a schema");
        };
        self.keywords(fields, path);
        let flag = |name: &str| fields.get(name) == Some(&Value::Bool(true));
        let type_ = fields.get("type").and_then(Value::as_str).unwrap_or_default();
        let (open, either) = (flag("x-kubernetes-preserve-unknown-fields"), flag("x-kubernetes-int-or-string"));
        let at_type = format!("{path}.type");
        match (type_, place) {
            ("", Place::Root) => self.required(at_type, "must not be empty at the root"),
            ("", _) if either || open => {}
            ("", Place::Item) => self.required(at_type, "must not be empty for specified array items"),
            ("", _) => self.required(at_type, "must not be empty for specified object fields"),
            (_, Place::Root | Place::Metadata) if type_ != "object" => {
                self.invalid(at_type, &json!(type_), "must be object at the root");
            }
            (_, _) if either => self.invalid(at_type, &json!(type_), "must be empty if x-kubernetes-int-or-string is true"),
            ("object" | "array" | "string" | "boolean" | "integer" | "number", _) => {}
            _ => self.unsupported(at_type, &json!(type_), &["array", "boolean", "integer", "number", "object", "string"]),
        }
        if place == Place::Root && flag("nullable") {
            self.forbidden(format!("{path}.nullable"), "nullable cannot be true at the root");
        }
        self.extensions(fields, type_, path);
        if place == Place::Metadata {
            let named = ["name", "generateName"];
            let other = fields.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys);
            if other.into_iter().any(|name| !named.contains(&name.as_str())) || fields.contains_key("additionalProperties") {
                self.forbidden(path, "must not specify anything other than name and generateName, but metadata is implicitly specified");
            }
        }
        for (name, property) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let place = if place == Place::Root && name == "metadata" { Place::Metadata } else { Place::Field };
            self.schema(property, &format!("{path}.properties[{name}]"), place);
        }
        match fields.get("additionalProperties") {
            Some(Value::Bool(false)) => {
                self.forbidden(format!("{path}.additionalProperties"), "additionalProperties cannot be set to false")
            }
            Some(additional @ Value::Object(_)) => {
                if fields.get("properties").and_then(Value::as_object).is_some_and(|properties| !properties.is_empty()) {
                    self.forbidden(format!("{path}.additionalProperties"), "additionalProperties and properties are mutual exclusive");
                }
                self.schema(additional, &format!("{path}.additionalProperties"), Place::Field);
            }
            _ => {}
        }
        match fields.get("items") {
            Some(items @ Value::Object(_)) => self.schema(items, &format!("{path}.items"), Place::Item),
            Some(_) => self.forbidden(format!("{path}.items"), "items must be a schema object and not an array"),
            None if type_ == "array" => self.required(format!("{path}.items"), "must be specified"),
            None => {}
        }
        self.parts(fields, fields, path, either);
    }

    /// What no schema of a definition may say.
    fn keywords(&mut self, fields: &Map<String, Value>, path: &str) {
        for name in ["$ref", "definitions", "dependencies", "id", "additionalItems", "patternProperties"] {
            if fields.contains_key(name) {
                self.forbidden(format!("{path}.{name}"), format!("{name} is not supported"));
            }
        }
        if fields.get("uniqueItems") == Some(&Value::Bool(true)) {
            let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
            self.forbidden(format!("{path}.uniqueItems"), why);
        }
        if let Some(Value::String(pattern)) = fields.get("pattern") {
            self.patterns += 1;
            if pattern.len() > MAX_PATTERNS.1 {
                let message = format!("Too long: may not be more than {} bytes", MAX_PATTERNS.1);
                self.cause(CauseReason::FieldValueTooLong, format!("{path}.pattern"), message);
            }
        }
    }

    /// What only Kubernetes's schemas say.
    fn extensions(&mut self, fields: &Map<String, Value>, type_: &str, path: &str) {
        let open = fields.get("x-kubernetes-preserve-unknown-fields");
        if open == Some(&Value::Bool(false)) {
            self.invalid(format!("{path}.x-kubernetes-preserve-unknown-fields"), &json!(false), "must be true or undefined");
        }
        if fields.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true)) {
            if type_ != "object" {
                self.invalid(format!("{path}.type"), &json!(type_), "must be object if x-kubernetes-embedded-resource is true");
            }
            if open.is_none() && !fields.contains_key("properties") {
                let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
                self.required(format!("{path}.properties"), why);
            }
        }
        if let Some(map) = fields.get("x-kubernetes-map-type") {
            let at = format!("{path}.x-kubernetes-map-type");
            if !["atomic", "granular"].iter().any(|known| map == known) {
                self.unsupported(&at, map, &["atomic", "granular"]);
            }
            if type_ != "object" {
                self.invalid(at, map, "must be object if x-kubernetes-map-type is specified");
            }
        }
        let list = fields.get("x-kubernetes-list-type");
        let keys = fields.get("x-kubernetes-list-map-keys").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let at = format!("{path}.x-kubernetes-list-type");
        if list.is_some() && type_ != "array" {
            self.invalid(format!("{path}.type"), &json!(type_), "must be array if x-kubernetes-list-type is specified");
        }
        let item = |name: &str| fields.get("items").and_then(|items| items.get(name));
        match list.map(|list| list.as_str().unwrap_or_default()) {
            None | Some("atomic") if !keys.is_empty() => {
                self.invalid(at, &json!(list), "must be map if x-kubernetes-list-map-keys is non-empty");
            }
            None | Some("atomic") => {}
            Some("set") => {
                let item_type = item("type").and_then(Value::as_str).unwrap_or_default();
                let whole = (item_type == "array" && item("x-kubernetes-list-type").is_none_or(|list| list == "atomic"))
                    || (item_type == "object" && item("x-kubernetes-map-type").is_some_and(|map| map == "atomic"));
                if matches!(item_type, "array" | "object") && !whole {
                    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
                    self.invalid(format!("{path}.items"), &json!(item_type), why);
                }
            }
            Some("map") => self.map_keys(keys, &item, path),
            Some(_) => self.unsupported(at, &json!(list), &["atomic", "map", "set"]),
        }
    }

    fn map_keys<'a>(&mut self, keys: &[Value], item: &dyn Fn(&str) -> Option<&'a Value>, path: &str) {
        let at = format!("{path}.x-kubernetes-list-map-keys");
        if keys.is_empty() {
            return self.required(at, "must not be empty if x-kubernetes-list-type is map");
        }
        if item("type").is_none_or(|type_| type_ != "object") {
            self.invalid(
                format!("{path}.items.type"),
                &json!(item("type")),
                "must be object if parent array's x-kubernetes-list-type is map",
            );
        }
        for (index, key) in keys.iter().enumerate() {
            let at = format!("{at}[{index}]");
            let name = key.as_str().unwrap_or_default();
            if keys.iter().take(index).any(|earlier| earlier == key) {
                self.cause(CauseReason::FieldValueDuplicate, at, format!("Duplicate value: {key}"));
                continue;
            }
            let Some(property) = item("properties").and_then(|properties| properties.get(name)) else {
                self.invalid(at, key, "must be the name of an item property");
                continue;
            };
            if matches!(property["type"].as_str(), Some("array" | "object")) {
                self.invalid(&at, key, "must be the name of a scalar property");
            }
            let required = item("required").and_then(Value::as_array).is_some_and(|required| required.contains(key));
            if !required && property.get("default").is_none() {
                let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
                self.required(format!("{path}.items.properties[{name}].default"), why);
            }
        }
    }

    /// The parts of a schema that speak of the same value: they may only bound what `outer`, outside of them, specifies.
    fn parts(&mut self, fields: &Map<String, Value>, outer: &Map<String, Value>, path: &str, either: bool) {
        for name in ["allOf", "anyOf", "oneOf"] {
            for (index, part) in fields.get(name).and_then(Value::as_array).into_iter().flatten().enumerate() {
                self.part(part, outer, &format!("{path}.{name}[{index}]"), either);
            }
        }
        if let Some(not) = fields.get("not") {
            self.part(not, outer, &format!("{path}.not"), false);
        }
    }

    fn part(&mut self, part: &Value, outer: &Map<String, Value>, path: &str, either: bool) {
        let Some(fields) = part.as_object() else {
            return self.invalid(path, part, "must be a schema");
        };
        self.keywords(fields, path);
        for (name, value) in fields {
            // How Kubernetes's generators write that a value is an integer or a string.
            let of_either = either && name == "type" && (value == "integer" || value == "string");
            let structural = name.starts_with("x-kubernetes-")
                || matches!(name.as_str(), "additionalProperties" | "type" | "description" | "title" | "default" | "nullable");
            if structural && !of_either {
                self.forbidden(format!("{path}.{name}"), "must be undefined to be structural");
            }
        }
        let empty = Map::new();
        let known = outer.get("properties").and_then(Value::as_object).unwrap_or(&empty);
        for (name, property) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let at = format!("{path}.properties[{name}]");
            match known.get(name).and_then(Value::as_object) {
                Some(outer) => self.part(property, outer, &at, flag(outer)),
                None => self.required(at, "because it is used here, it must be specified outside of this part as well"),
            }
        }
        if let Some(items) = fields.get("items") {
            let at = format!("{path}.items");
            match outer.get("items").and_then(Value::as_object) {
                Some(outer) => self.part(items, outer, &at, flag(outer)),
                None => self.required(at, "because it is used here, it must be specified outside of this part as well"),
            }
        }
        self.parts(fields, outer, path, either);
    }
}

fn flag(schema: &Map<String, Value>) -> bool {
    schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(spec: Value) -> Vec<String> {
        let schema = json!({ "type": "object", "properties": { "spec": spec } });
        check(&schema, "s").into_iter().map(|cause| format!("{} {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn schemas_as_generators_write_them_are_structural() {
        let either = json!({ "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }], "pattern": "^1" });
        let fine = json!({ "type": "object", "properties": {
            "port": either,
            "any": { "x-kubernetes-preserve-unknown-fields": true },
            "names": { "type": "array", "items": { "type": "string" }, "x-kubernetes-list-type": "set" },
            "map": { "type": "object", "additionalProperties": { "type": "string" } },
            "list": { "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": { "type": "object", "required": ["name"], "properties": { "name": { "type": "string" } } } },
        }, "oneOf": [{ "required": ["port"] }, { "required": ["any"], "properties": { "names": { "maxItems": 1 } } }] });
        assert_eq!(told(fine), Vec::<String>::new());
        for crd in basalt_api::crds() {
            let schema = json!(crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema);
            assert_eq!(check(&schema, "s"), [], "{:?}", crd.metadata.name);
        }
    }

    #[test]
    fn what_is_not_structural_is_told_by_its_place() {
        let cases = [
            (json!({}), "s.properties[spec].type Required value: must not be empty for specified object fields"),
            (json!({ "type": "frob" }), "s.properties[spec].type Unsupported value: \"frob\""),
            (json!({ "type": "object", "$ref": "#/x" }), "s.properties[spec].$ref Forbidden: $ref is not supported"),
            (json!({ "type": "array" }), "s.properties[spec].items Required value: must be specified"),
            (
                json!({ "type": "array", "items": {} }),
                "s.properties[spec].items.type Required value: must not be empty for specified array items",
            ),
            (json!({ "type": "object", "additionalProperties": false }), "additionalProperties cannot be set to false"),
            (json!({ "type": "string", "anyOf": [{ "type": "string" }] }), "anyOf[0].type Forbidden: must be undefined to be structural"),
            (json!({ "type": "object", "not": { "properties": { "a": {} } } }), "s.properties[spec].not.properties[a] Required value"),
            (json!({ "type": "array", "items": { "type": "object" }, "x-kubernetes-list-type": "map" }), "list-map-keys Required value"),
            (json!({ "type": "string", "x-kubernetes-list-type": "set" }), "must be array if x-kubernetes-list-type is specified"),
            (json!({ "type": "string", "pattern": "a".repeat(5000) }), "s.properties[spec].pattern Too long"),
        ];
        for (schema, wanted) in cases {
            let told = told(schema.clone());
            assert!(told.iter().any(|told| told.contains(wanted)), "{schema}: {told:?}");
        }
    }
}
