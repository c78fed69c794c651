//! What `kubectl explain` tells: every field of every kind is described.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use common::start;
use serde_json::Value;

/// The schema that a reference leads to, if it is one.
fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema.get("$ref").or_else(|| schema["allOf"][0].get("$ref"));
    reference.map_or(schema, |reference| document.pointer(reference.as_str().unwrap().trim_start_matches('#')).unwrap())
}

/// Paths of the fields below a schema that nothing is said of.
fn undescribed(document: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    let schema = resolve(document, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let said = |schema: &Value| schema["description"].as_str().is_some_and(|text| text.trim().len() > 3);
        if !said(field) && !said(resolve(document, field)) {
            found.push(path.clone());
        }
        undescribed(document, field, &path, found);
    }
    for below in ["items", "additionalProperties"] {
        if schema[below].is_object() {
            undescribed(document, &schema[below], &format!("{path}[]"), found);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_of_every_kind_is_described() {
    let server = start().await;
    let index = server.get("/openapi/v3").await.ok(200);
    let (mut found, mut kinds) = (Vec::new(), Vec::new());
    for path in index["paths"].as_object().unwrap().values() {
        let document = server.get(path["serverRelativeURL"].as_str().unwrap()).await.ok(200);
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            if schema["description"].as_str().is_none_or(str::is_empty) {
                found.push(name.clone());
            }
            let kind = schema["x-kubernetes-group-version-kind"][0]["kind"].as_str();
            undescribed(&document, schema, kind.unwrap_or(name), &mut found);
            kinds.extend(kind.map(str::to_owned));
        }
    }
    for kind in ["Host", "Secret", "ClusterRoleBinding", "CustomResourceDefinition", "SelfSubjectAccessReview", "AccessToken", "EventList"]
    {
        assert!(kinds.iter().any(|known| known == kind), "{kind} is not among {kinds:?}");
    }
    found.dedup();
    assert!(found.is_empty(), "not described:\n{}", found.join("\n"));
}
