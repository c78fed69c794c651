//! Whether a definition can be served: its names, its versions, and the schema of each.

use super::{is_true, plan::Known, storage_version, structural};
use crate::{
    error::{Cause, CauseReason},
    metadata,
    schema::Schema,
};
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceDefinition as Definition, CustomResourceDefinitionSpec, CustomResourceDefinitionVersion as Version,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Approves of the use of a group that belongs to Kubernetes.
const APPROVED: &str = "api-approved.kubernetes.io";
/// How many versions a definition may have.
const MAX_VERSIONS: usize = 32;
/// What a printer column may show.
const COLUMN_TYPES: [&str; 5] = ["integer", "number", "string", "boolean", "date"];

/// Everything that is wrong with a definition that is new or takes the place of another. It has the form of a definition.
pub fn check(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    stored_versions(new, &mut causes);
    if old.is_some_and(|old| old["spec"] == new["spec"]) {
        return causes;
    }
    let definition = match definition(new) {
        Ok(definition) => definition,
        Err(error) => return vec![cause(CauseReason::FieldValueInvalid, "spec", format!("Invalid value: {error}"))],
    };
    names(&definition, new, &mut causes);
    if let Some(old) = old {
        immutable(new, old, &mut causes);
    }
    let mut costs = Vec::new();
    versions(&definition, new, &mut costs, &mut causes);
    // What was taken once may go on being changed.
    if !costs.is_empty() && old.is_none_or(|old| !is_costly(old)) {
        causes.extend(costs);
    }
    causes
}

/// Reads a definition that is stored, if its kind can be served.
pub(super) fn read(stored: &Value) -> Known {
    let definition = definition(stored).map_err(|error| error.to_string())?;
    let mut causes = Vec::new();
    for (index, version) in stored["spec"]["versions"].as_array().into_iter().flatten().enumerate() {
        schema(&version["schema"]["openAPIV3Schema"], &format!("spec.versions[{index}].schema.openAPIV3Schema"), &mut causes);
    }
    match causes.first() {
        None => Ok(Arc::new(definition)),
        Some(first) => Err(format!("{}: {}", first.field, first.message)),
    }
}

/// Name and spec of a definition.
fn definition(object: &Value) -> Result<Definition, serde_json::Error> {
    let name = object["metadata"]["name"].as_str().map(str::to_owned);
    let spec = CustomResourceDefinitionSpec::deserialize(&object["spec"])?;
    Ok(Definition { metadata: ObjectMeta { name, ..ObjectMeta::default() }, spec, status: None })
}

fn cause(reason: CauseReason, field: impl Into<String>, message: String) -> Cause {
    Cause { reason, message, field: field.into() }
}

fn invalid(field: impl Into<String>, value: impl serde::Serialize, why: &str) -> Cause {
    cause(CauseReason::FieldValueInvalid, field, format!("Invalid value: {}: {why}", json!(value)))
}

fn required(field: impl Into<String>, why: &str) -> Cause {
    cause(CauseReason::FieldValueRequired, field, format!("Required value: {why}"))
}

fn names(definition: &Definition, new: &Value, causes: &mut Vec<Cause>) {
    let spec = &definition.spec;
    if let Some(why) = metadata::subdomain(&spec.group) {
        causes.push(invalid("spec.group", &spec.group, &why));
    } else if !spec.group.contains('.') {
        causes.push(invalid("spec.group", &spec.group, "should be a domain with at least one dot"));
    }
    let protected = ["k8s.io", "kubernetes.io"];
    if protected.iter().any(|domain| spec.group == *domain || spec.group.ends_with(&format!(".{domain}")))
        && new["metadata"]["annotations"][APPROVED].as_str().unwrap_or_default().is_empty()
    {
        let why = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111";
        causes.push(required(format!("metadata.annotations[{APPROVED}]"), why));
    }
    if !["Cluster", "Namespaced"].contains(&spec.scope.as_str()) {
        let message = format!("Unsupported value: {:?}: supported values: \"Cluster\", \"Namespaced\"", spec.scope);
        causes.push(cause(CauseReason::FieldValueNotSupported, "spec.scope", message));
    }
    let names = &spec.names;
    let list_kind = names.list_kind.as_deref().unwrap_or_default();
    let singular = names.singular.as_deref().unwrap_or_default();
    let short = names.short_names.iter().flatten().map(|name| ("shortNames", name.clone()));
    let categories = names.categories.iter().flatten().map(|name| ("categories", name.clone()));
    let own = [
        ("plural", names.plural.clone()),
        ("singular", singular.to_owned()),
        ("kind", names.kind.to_lowercase()),
        ("listKind", list_kind.to_lowercase()),
    ];
    for (field, name) in own.into_iter().chain(short).chain(categories) {
        if !is_label(&name) {
            let why = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123')";
            causes.push(invalid(format!("spec.names.{field}"), name, why));
        }
    }
    if names.kind == list_kind {
        causes.push(invalid("spec.names.listKind", list_kind, "kind and listKind may not be the same"));
    }
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    if name != format!("{}.{}", names.plural, spec.group) {
        causes.push(invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
    }
}

fn immutable(new: &Value, old: &Value, causes: &mut Vec<Cause>) {
    let always = ["/spec/group", "/spec/names/plural"];
    let established = ["/spec/scope", "/spec/names/kind"];
    let fields = always.iter().chain(established.iter().filter(|_| is_true(old, "Established")));
    for field in fields.filter(|field| new.pointer(field) != old.pointer(field)) {
        causes.push(invalid(field.trim_start_matches('/').replace('/', "."), new.pointer(field), "field is immutable"));
    }
}

/// What is wrong with the versions, and apart from that which of their rules cost too much.
fn versions(definition: &Definition, new: &Value, costs: &mut Vec<Cause>, causes: &mut Vec<Cause>) {
    let spec = &definition.spec;
    if spec.preserve_unknown_fields == Some(true) {
        causes.push(invalid("spec.preserveUnknownFields", true, "must be false"));
    }
    if let Some(conversion) = &spec.conversion {
        if conversion.strategy != "None" {
            let why =
                "only None is served here, with which objects differ between versions in nothing but apiVersion; no webhook is called";
            causes.push(invalid("spec.conversion.strategy", &conversion.strategy, why));
        } else if conversion.webhook.is_some() {
            let message = "Forbidden: should not be set when strategy is not set to Webhook".into();
            causes.push(cause(CauseReason::FieldValueForbidden, "spec.conversion.webhook", message));
        }
    }
    if spec.versions.iter().filter(|version| version.storage).count() != 1 {
        let names: Vec<_> = spec.versions.iter().map(|version| &version.name).collect();
        causes.push(invalid("spec.versions", names, "must have exactly one version marked as storage version"));
    }
    if spec.versions.len() > MAX_VERSIONS {
        let message = format!("Too many: {}: must have at most {MAX_VERSIONS} items", spec.versions.len());
        causes.push(cause(CauseReason::FieldValueTooMany, "spec.versions", message));
        return;
    }
    for (index, version) in spec.versions.iter().enumerate() {
        let at = format!("spec.versions[{index}]");
        if !is_label(&version.name) {
            causes.push(invalid(format!("{at}.name"), &version.name, "must be a DNS-1035 label, such as v1"));
        }
        if spec.versions.iter().take(index).any(|earlier| earlier.name == version.name) {
            causes.push(invalid("spec.versions", &version.name, "must contain unique version names"));
        }
        for (column, told) in version.additional_printer_columns.iter().flatten().enumerate() {
            let at = format!("{at}.additionalPrinterColumns[{column}]");
            if told.name.is_empty() {
                causes.push(required(format!("{at}.name"), ""));
            }
            if !told.json_path.starts_with('.') && !told.json_path.starts_with("{.") {
                causes.push(invalid(format!("{at}.jsonPath"), &told.json_path, "must be a simple json path starting with ."));
            }
            if !COLUMN_TYPES.contains(&told.type_.as_str()) {
                causes.push(invalid(format!("{at}.type"), &told.type_, "must be one of integer,number,string,boolean,date"));
            }
        }
        for (field, told) in version.selectable_fields.iter().flatten().enumerate() {
            if !is_simple(&told.json_path) {
                let at = format!("{at}.selectableFields[{field}].jsonPath");
                causes.push(invalid(at, &told.json_path, "must be a simple json path to a field, starting with ."));
            }
        }
        scale(version, &format!("{at}.subresources.scale"), causes);
        let (told, at) = (&new["spec"]["versions"][index]["schema"]["openAPIV3Schema"], format!("{at}.schema.openAPIV3Schema"));
        if let Some(schema) = schema(told, &at, causes) {
            costs.extend(schema.check_costs(&at));
        }
    }
}

/// Whether the rules of a definition may cost too much.
fn is_costly(definition: &Value) -> bool {
    let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
    let mut schemas = versions.filter_map(|version| Schema::compile(&version["schema"]["openAPIV3Schema"]).ok());
    schemas.any(|schema| !schema.check_costs("").is_empty())
}

/// Whether a path leads from field to field.
fn is_simple(path: &str) -> bool {
    path.starts_with('.') && !path.contains(['[', ']', '*', '?', '\'', '"', '\\', ' ']) && !path.split('.').skip(1).any(str::is_empty)
}

fn scale(version: &Version, at: &str, causes: &mut Vec<Cause>) {
    let Some(scale) = version.subresources.as_ref().and_then(|subresources| subresources.scale.as_ref()) else { return };
    let selector = scale.label_selector_path.as_deref().unwrap_or_default();
    let paths: [(&str, &str, &[&str], &str); 3] = [
        ("specReplicasPath", &scale.spec_replicas_path, &[".spec."], "should be a json path under .spec"),
        ("statusReplicasPath", &scale.status_replicas_path, &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", selector, &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ];
    for (field, path, under, why) in paths {
        let field_path = format!("{at}.{field}");
        if path.is_empty() {
            if field != "labelSelectorPath" {
                causes.push(required(field_path, ""));
            }
        } else if !is_simple(path) {
            causes.push(invalid(field_path, path, "must be a simple json path from field to field, starting with ."));
        } else if !under.iter().any(|under| path.starts_with(under)) {
            causes.push(invalid(field_path, path, why));
        }
    }
}

fn schema(schema: &Value, at: &str, causes: &mut Vec<Cause>) -> Option<Schema> {
    if schema.is_null() {
        causes.push(required(at, "schemas are required"));
        return None;
    }
    let wrong = structural::check(schema, at);
    if !wrong.is_empty() {
        causes.extend(wrong);
        return None;
    }
    match Schema::compile(schema) {
        Ok(schema) => {
            causes.extend(schema.check_defaults().into_iter().map(|wrong| Cause { field: format!("{at}.{}", wrong.field), ..wrong }));
            Some(schema)
        }
        Err(error) => {
            causes.push(cause(CauseReason::FieldValueInvalid, at, format!("Invalid value: {error}")));
            None
        }
    }
}

/// The versions that objects may be stored in are those that are still there.
fn stored_versions(new: &Value, causes: &mut Vec<Cause>) {
    let stored: Vec<&str> = new["status"]["storedVersions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let versions: Vec<&str> =
        new["spec"]["versions"].as_array().into_iter().flatten().filter_map(|version| version["name"].as_str()).collect();
    for (index, stored) in stored.iter().enumerate().filter(|(_, stored)| !versions.contains(stored)) {
        let why = format!(
            "missing from spec.versions; {stored} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {stored} and removes {stored} from status.storedVersions"
        );
        causes.push(invalid(format!("status.storedVersions[{index}]"), stored, &why));
    }
    if let Some(storage) = storage_version(new).filter(|storage| !stored.contains(storage)) {
        let why = format!("must have the storage version {storage}");
        causes.push(invalid("status.storedVersions", stored, &why));
    }
}

/// Whether a text is a DNS-1035 label.
fn is_label(text: &str) -> bool {
    metadata::label(text).is_none() && text.starts_with(|first: char| first.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWICE: &str = "self.all(a, self.exists_one(b, a == b))";

    fn definition(list: Value) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": { "name": "as.x.dev" },
            "spec": {
                "group": "x.dev", "scope": "Cluster",
                "names": { "plural": "as", "singular": "a", "kind": "A", "listKind": "AList" },
                "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": {
                    "type": "object", "properties": { "spec": { "type": "object", "properties": { "list": list } } },
                } } }],
            },
            "status": { "storedVersions": ["v1"] },
        })
    }

    fn rule(mut schema: Value, rule: &str) -> Value {
        schema["x-kubernetes-validations"] = json!([{ "rule": "true" }, { "rule": rule }]);
        schema
    }

    fn told(list: Value, old: Option<&Value>) -> Vec<String> {
        check(&definition(list), old).into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn a_rule_that_may_cost_too_much_is_refused_by_its_place() {
        let list = json!({ "type": "array", "items": { "type": "string", "maxLength": 20 } });
        let refused = told(rule(list.clone(), TWICE), None);
        let at = "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[list].x-kubernetes-validations[1].rule";
        let budget =
            "Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems";
        assert!(refused[0].starts_with(&format!("{at}: {budget}")), "{refused:?}");
        assert!(refused[1].contains("estimated rule cost total for entire OpenAPIv3 schema exceeds budget"), "{refused:?}");
        let mut bounded = list;
        bounded["maxItems"] = 100.into();
        assert_eq!(told(rule(bounded, TWICE), None), [""; 0]);
    }

    #[test]
    fn a_rule_costs_as_often_as_there_may_be_its_value() {
        // 630,000 for a text that may be as long as the request; no request has 100 of those, but nothing says so.
        let long = rule(json!({ "type": "string" }), "self.contains('abcdefghijk')");
        assert_eq!(told(long.clone(), None), [""; 0]);
        let many = told(json!({ "type": "array", "maxItems": 100, "items": long }), None);
        assert!(many[0].contains("properties[list].items.x-kubernetes-validations[1].rule: Forbidden: estimated rule cost"), "{many:?}");
        assert!(many[0].contains("by factor of 6.3x"), "{many:?}");
        let short = rule(json!({ "type": "string", "maxLength": 100 }), "self.contains('abcdefghijk')");
        assert_eq!(told(json!({ "type": "array", "maxItems": 100, "items": short }), None), [""; 0]);
    }

    #[test]
    fn a_definition_that_was_taken_may_be_changed_though_it_is_costly() {
        let list = rule(json!({ "type": "array", "items": { "type": "string" } }), TWICE);
        let old = definition(list.clone());
        let mut changed = list;
        changed["description"] = "Some.".into();
        assert_eq!(told(changed.clone(), Some(&old)), [""; 0]);
        let cheap = definition(json!({ "type": "array", "items": { "type": "string" } }));
        assert_eq!(told(changed, Some(&cheap)).len(), 2);
    }

    #[test]
    fn the_rules_of_the_programs_own_kinds_are_taken_by_a_kubernetes() {
        for crd in basalt_api::crds() {
            assert!(!is_costly(&json!(crd)), "{:?}", crd.metadata.name);
        }
    }
}
