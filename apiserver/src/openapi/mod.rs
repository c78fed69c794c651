//! OpenAPI: the schemas of all kinds, and as much of the paths as clients read.
//!
//! kubectl looks in version 3 for a kind's `patch` operation, to see that the server validates fields itself and can dry-run,
//! and for the path of a resource, to explain it. Version 2 is for clients that know no other, such as Debian 12's kubectl.

mod documents;
mod protobuf;
mod swagger;

pub use documents::{Documents, answer};

use crate::{
    access::review,
    metadata::object_meta_schema,
    registry::{Registry, ResourceDef},
};
use serde_json::{Map, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";

/// `/openapi/v3/apis/<group>/<version>` and `/openapi/v3/api/v1`.
fn v3_document(registry: &Registry, group: &str, version: &str) -> Value {
    let (mut schemas, mut paths) = (Map::new(), Map::new());
    schemas.insert(META.into(), object_meta_schema());
    schemas.insert(LIST_META.into(), list_meta());
    for def in registry.iter().filter(|def| def.group == group && def.version == version) {
        let reference = |name: &str| json!({ "allOf": [{ "$ref": format!("#/components/schemas/{name}") }], "default": {} });
        schemas.insert(name(def), object(def, &reference(META)));
        schemas.insert(
            format!("{}List", name(def)),
            list(def, &json!({ "$ref": format!("#/components/schemas/{}", name(def)) }), &reference(LIST_META)),
        );
        for (path, operations) in paths_of(def, &|name| json!({ "$ref": format!("#/components/schemas/{name}") }), true) {
            paths.insert(path, operations);
        }
    }
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Basalt", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// `/openapi/v2`.
fn v2_document(registry: &Registry) -> Value {
    let (mut definitions, mut paths) = (Map::new(), Map::new());
    definitions.insert(META.into(), object_meta_schema());
    definitions.insert(LIST_META.into(), list_meta());
    for def in registry.iter() {
        let reference = |name: &str| json!({ "$ref": format!("#/definitions/{name}") });
        definitions.insert(name(def), swagger::lower(&object(def, &reference(META))));
        definitions.insert(format!("{}List", name(def)), list(def, &reference(&name(def)), &reference(LIST_META)));
        for (path, operations) in paths_of(def, &reference, false) {
            paths.insert(path, operations);
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Basalt", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "definitions": definitions,
    })
}

/// `apis/<group>/<version>`, or `api/v1`.
fn base(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// `dev.basalt.v1alpha1.Host`.
fn name(def: &ResourceDef) -> String {
    if def.group.is_empty() {
        return format!("io.k8s.api.core.{}.{}", def.version, def.kind);
    }
    let mut parts: Vec<&str> = def.group.split('.').collect();
    parts.reverse();
    format!("{}.{}.{}", parts.join("."), def.version, def.kind)
}

fn gvk(def: &ResourceDef, kind: &str) -> Value {
    json!({ "group": def.group, "version": def.version, "kind": kind })
}

const API_VERSION: &str = "Version of the schema of this object, with its group.";
const KIND: &str = "What the object is.";

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn object(def: &ResourceDef, metadata: &Value) -> Value {
    let mut schema = (*def.schema).clone();
    let mut properties = schema["properties"].as_object().cloned().unwrap_or_default();
    properties.insert("apiVersion".into(), text(API_VERSION));
    properties.insert("kind".into(), text(KIND));
    let mut metadata = metadata.clone();
    metadata["description"] = "Metadata that every object has.".into();
    properties.insert("metadata".into(), metadata);
    schema["properties"] = properties.into();
    schema["type"] = "object".into();
    schema["x-kubernetes-group-version-kind"] = json!([gvk(def, &def.kind)]);
    schema
}

fn list(def: &ResourceDef, item: &Value, metadata: &Value) -> Value {
    let mut metadata = metadata.clone();
    metadata["description"] = "Metadata that every list has.".into();
    json!({
        "type": "object",
        "description": format!("A list of {}.", def.plural),
        "required": ["items"],
        "properties": {
            "apiVersion": text(API_VERSION),
            "kind": text(KIND),
            "metadata": metadata,
            "items": { "type": "array", "items": item, "description": format!("The {} of the list.", def.plural) },
        },
        "x-kubernetes-group-version-kind": [gvk(def, &def.list_kind)],
    })
}

fn list_meta() -> Value {
    json!({
        "type": "object",
        "description": "Metadata that every list has.",
        "properties": {
            "resourceVersion": text("The state of all that the list is of; a watch from here on misses nothing."),
            "continue": text("Asks for the next part of the list, if this is not the last one."),
            "remainingItemCount": { "type": "integer", "format": "int64", "description": "How many are in the parts that follow, if it is known." },
            "selfLink": text("No longer used."),
        },
    })
}

fn paths_of(def: &ResourceDef, reference: &dyn Fn(&str) -> Value, v3: bool) -> Vec<(String, Value)> {
    let base = base(&def.group, &def.version);
    let collection =
        if def.namespaced { format!("/{base}/namespaces/{{namespace}}/{}", def.plural) } else { format!("/{base}/{}", def.plural) };
    let single = format!("{collection}/{{name}}");
    let query = |name: &str, type_: &str, description: &str| {
        let schema = json!({ "type": type_, "uniqueItems": true });
        if v3 {
            json!({ "name": name, "in": "query", "description": description, "schema": schema })
        } else {
            json!({ "name": name, "in": "query", "description": description, "type": type_, "uniqueItems": true })
        }
    };
    let in_path = |name: &str| {
        if v3 {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
        } else {
            json!({ "name": name, "in": "path", "required": true, "type": "string" })
        }
    };
    let operation = |action: &str, kind: &str, answers: &str, writes: bool| {
        let mut parameters = Vec::new();
        if writes {
            parameters.push(query("dryRun", "string", "`All`: everything is done but the write."));
            parameters.push(query("fieldManager", "string", "Who is writing."));
            parameters.push(query("fieldValidation", "string", "What becomes of unknown fields: `Ignore`, `Warn` or `Strict`."));
        }
        let answer = if v3 {
            json!({ "description": "OK", "content": { "application/json": { "schema": reference(answers) } } })
        } else {
            json!({ "description": "OK", "schema": reference(answers) })
        };
        json!({
            "operationId": format!("{action}{}{}{kind}", def.group.replace('.', ""), def.version),
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": gvk(def, &def.kind),
            "parameters": parameters,
            "responses": { "200": answer },
        })
    };
    let object = name(def);
    let objects = format!("{object}List");
    let mut in_collection = Vec::new();
    if def.namespaced {
        in_collection.push(in_path("namespace"));
    }
    let mut in_single = in_collection.clone();
    in_single.push(in_path("name"));
    let kind = &def.kind;
    let mut paths = vec![
        (
            collection,
            json!({
                "get": operation("list", kind, &objects, false),
                "post": operation("post", kind, &object, true),
                "delete": operation("deletecollection", kind, &objects, false),
                "parameters": in_collection,
            }),
        ),
        (
            single,
            json!({
                "get": operation("get", kind, &object, false),
                "put": operation("put", kind, &object, true),
                "patch": operation("patch", kind, &object, true),
                "delete": operation("delete", kind, &object, false),
                "parameters": in_single,
            }),
        ),
    ];
    if def.namespaced {
        paths.push((
            format!("/{base}/{}", def.plural),
            json!({ "get": operation("list", &format!("{kind}ForAllNamespaces"), &objects, false) }),
        ));
    }
    if review::is_review(def) {
        paths.truncate(1);
        if let Some(operations) = paths.first_mut().and_then(|(_, operations)| operations.as_object_mut()) {
            operations.retain(|name, _| matches!(name.as_str(), "post" | "parameters"));
        }
    }
    paths
}
