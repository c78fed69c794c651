//! Kinds that users define at run time, over the wire: they come, are served with everything that the program's own kinds have,
//! change, and go.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use basalt_store::{Store, embedded::Embedded};
use common::{
    Server, start, start_on,
    wire::{APPLY, MERGE, NAMESPACES, VMS, names, resource_version},
};
use futures::TryStreamExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::sync::Arc;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.shop.example";
const WIDGETS: &str = "/apis/shop.example/v1/namespaces/default/widgets";

fn widgets() -> Value {
    definition(
        "widgets",
        "Widget",
        json!({
            "type": "object",
            "description": "A Widget is for sale.",
            "required": ["spec"],
            "properties": {
                "spec": {
                    "type": "object",
                    "description": "What it is like.",
                    "required": ["size"],
                    "properties": {
                        "size": { "type": "integer", "minimum": 1, "maximum": 9, "description": "How large it is." },
                        "colour": { "type": "string", "default": "grey" },
                        "port": { "x-kubernetes-int-or-string": true },
                        "parts": {
                            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                            "items": { "type": "object", "required": ["name"], "properties": {
                                "name": { "type": "string" }, "count": { "type": "integer", "default": 1 },
                            } },
                        },
                        "template": { "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true },
                    "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    },
                    "x-kubernetes-validations": [{ "rule": "self.size != 7", "message": "7 is not made" }],
                },
                "status": { "type": "object", "properties": { "sold": { "type": "integer" } } },
            },
        }),
    )
}

fn definition(plural: &str, kind: &str, schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{plural}.shop.example") },
        "spec": {
            "group": "shop.example",
            "scope": "Namespaced",
            "names": { "plural": plural, "kind": kind, "shortNames": [plural.get(..2).unwrap()], "categories": ["all"] },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [{ "name": "Size", "type": "integer", "jsonPath": ".spec.size" }],
                "selectableFields": [{ "jsonPath": ".spec.colour" }],
                "schema": { "openAPIV3Schema": schema },
            }],
        },
    })
}

fn widget(name: &str, size: i64) -> Value {
    json!({ "apiVersion": "shop.example/v1", "kind": "Widget", "metadata": { "name": name }, "spec": { "size": size } })
}

fn condition<'a>(definition: &'a Value, type_: &str) -> Option<&'a Value> {
    definition["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
}

/// Waits until a condition of a definition has a status; tells the definition.
async fn until(server: &Server, path: &str, type_: &str, status: &str) -> Value {
    let name = path.rsplit('/').next().unwrap();
    let mut watch = server.watch(&format!("{CRDS}?fieldSelector=metadata.name={name}")).await;
    loop {
        let line = watch.next().await.unwrap();
        if condition(&line.object, type_).is_some_and(|condition| condition["status"] == status) {
            return line.object;
        }
    }
}

/// Waits until a definition is gone.
async fn until_gone(server: &Server, path: &str, since: &Value) {
    let name = path.rsplit('/').next().unwrap();
    let version = resource_version(since);
    let mut watch = server.watch(&format!("{CRDS}?fieldSelector=metadata.name={name}&resourceVersion={version}")).await;
    while watch.next().await.unwrap().type_ != "DELETED" {}
}

async fn two_on_one_store() -> (Server, Server, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Embedded::open(&dir.path().join("store"), Default::default()).unwrap();
    let (one, other) = (store.clone(), store);
    (start_on(move |_| one).await, start_on(move |_| other).await, dir)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_is_served_as_soon_as_its_creation_is_answered() {
    let server = start().await;
    server.get(WIDGETS).await.refused(404, "NotFound");
    let created = server.post(CRDS, &widgets()).await.ok(201);
    assert_eq!(created["spec"]["names"]["singular"], "widget");
    assert_eq!(created["spec"]["names"]["listKind"], "WidgetList");
    assert_eq!(created["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(created["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    let made = server
        .post(
            WIDGETS,
            &json!({
                "apiVersion": "shop.example/v1", "kind": "Widget", "metadata": { "name": "a" },
                "spec": { "size": 3, "odd": true, "port": "http", "parts": [{ "name": "x" }], "free": { "any": [1] } },
            }),
        )
        .await;
    assert!(made.warnings()[0].contains("spec.odd"));
    let made = made.ok(201);
    let spec = json!({ "size": 3, "colour": "grey", "port": "http", "parts": [{ "name": "x", "count": 1 }], "free": { "any": [1] } });
    assert_eq!(made["spec"], spec);
    let established = until(&server, CRD, "Established", "True").await;
    assert_eq!(condition(&established, "NamesAccepted").unwrap()["reason"], "NoConflicts");
    assert_eq!(established["status"]["acceptedNames"]["shortNames"], json!(["wi"]));
    let list = server.get(WIDGETS).await.ok(200);
    assert_eq!((list["kind"].as_str(), names(&list)), (Some("WidgetList"), vec!["a"]));
    assert_eq!(names(&server.get(&format!("{WIDGETS}?fieldSelector=spec.colour=grey")).await.ok(200)), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_objects_are_validated_patched_and_applied_as_those_of_any_kind() {
    let server = start().await;
    server.post(CRDS, &widgets()).await.ok(201);
    let wrong = server.post(WIDGETS, &widget("a", 10)).await.refused(422, "Invalid");
    assert_eq!(wrong["details"]["causes"][0]["field"], "spec.size");
    let wrong = server.post(WIDGETS, &widget("a", 7)).await.refused(422, "Invalid");
    assert!(wrong["message"].as_str().unwrap().contains("7 is not made"), "{wrong}");
    let mut within = widget("a", 1);
    within["spec"]["template"] = json!({ "apiVersion": "v1" });
    let wrong = server.post(WIDGETS, &within).await.refused(422, "Invalid");
    assert_eq!(wrong["details"]["causes"][0]["field"], "spec.template.kind");
    let a = format!("{WIDGETS}/a");
    let part = |name: &str, count: i64| {
        json!({
            "apiVersion": "shop.example/v1", "kind": "Widget", "metadata": { "name": "a" },
            "spec": { "size": 2, "parts": [{ "name": name, "count": count }] },
        })
    };
    server.patch(&format!("{a}?fieldManager=one"), APPLY, &part("x", 1)).await.ok(201);
    let both = server.patch(&format!("{a}?fieldManager=two"), APPLY, &part("y", 2)).await.ok(200);
    assert_eq!(both["spec"]["parts"].as_array().unwrap().len(), 2);
    server.patch(&format!("{a}?fieldManager=two"), APPLY, &part("x", 5)).await.refused(409, "Conflict");
    let merged = server.patch(&a, MERGE, &json!({ "spec": { "size": 4 }, "status": { "sold": 1 } })).await.ok(200);
    assert_eq!(
        (merged["spec"]["size"].as_i64(), merged.get("status"), merged["metadata"]["generation"].as_i64()),
        (Some(4), None, Some(3))
    );
    let sold = server.patch(&format!("{a}/status"), MERGE, &json!({ "spec": { "size": 5 }, "status": { "sold": 1 } })).await.ok(200);
    assert_eq!((&sold["spec"]["size"], &sold["status"]["sold"]), (&json!(4), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_openapi_and_tables_know_it_and_forget_it() {
    let server = start().await;
    let without = [tag(&server, "/openapi/v2").await, tag(&server, "/openapi/v3").await, tag(&server, "/openapi/v3/api/v1").await];
    let created = server.post(CRDS, &widgets()).await.ok(201);
    let with = [tag(&server, "/openapi/v2").await, tag(&server, "/openapi/v3").await, tag(&server, "/openapi/v3/api/v1").await];
    // The document of another group does not change.
    assert!(with[0] != without[0] && with[1] != without[1] && with[2] == without[2], "{without:?} {with:?}");
    let resources = server.get("/apis/shop.example/v1").await.ok(200);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["wi"]));
    assert_eq!(resources["resources"][1]["name"], "widgets/status");
    assert!(server.get("/apis").await.ok(200).to_string().contains("shop.example/v1"));
    let v3 = server.get("/openapi/v3/apis/shop.example/v1").await.ok(200);
    assert_eq!(v3.pointer("/components/schemas/example.shop.v1.Widget/properties/spec/properties/size/maximum"), Some(&json!(9.0)));
    let v2 = server.get("/openapi/v2").await.ok(200);
    assert_eq!(v2["definitions"]["example.shop.v1.Widget"]["description"], "A Widget is for sale.");
    server.post(WIDGETS, &widget("a", 3)).await.ok(201);
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = server.send(http::Method::GET, WIDGETS, &accept, "").await.ok(200);
    assert_eq!(table["rows"][0]["cells"], json!(["a", 3]));
    server.delete(CRD, Value::Null).await.ok(200);
    until_gone(&server, CRD, &created).await;
    server.get("/apis/shop.example/v1").await.refused(404, "NotFound");
    server.get(WIDGETS).await.refused(404, "NotFound");
    assert!(!server.get("/apis").await.ok(200).to_string().contains("shop.example"));
    assert_eq!([tag(&server, "/openapi/v2").await, tag(&server, "/openapi/v3").await], [without[0].clone(), without[1].clone()]);
}

/// What a document is known by.
async fn tag(server: &Server, path: &str) -> String {
    server.get(path).await.headers["etag"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_may_cost_too_much_are_refused_before_an_object_is_large_enough() {
    let server = start().await;
    let mut costly = widgets();
    let parts = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/parts";
    costly.pointer_mut(parts).unwrap()["x-kubernetes-validations"] =
        json!([{ "rule": "self.all(a, self.exists_one(b, a.name == b.name))", "message": "no name is there twice" }]);
    let refused = server.post(CRDS, &costly).await.refused(422, "Invalid");
    let cause = &refused["details"]["causes"][0];
    let at = "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[parts].x-kubernetes-validations[0].rule";
    assert_eq!((cause["field"].as_str(), cause["reason"].as_str()), (Some(at), Some("FieldValueForbidden")));
    assert!(cause["message"].as_str().unwrap().contains("exceeds budget by factor of"), "{cause}");
    server.get(CRD).await.refused(404, "NotFound");
    costly.pointer_mut(parts).unwrap()["maxItems"] = 10.into();
    costly.pointer_mut(&format!("{parts}/items/properties/name")).unwrap()["maxLength"] = 63.into();
    server.post(CRDS, &costly).await.ok(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_its_schema_holds_for_the_next_write() {
    let server = start().await;
    server.post(CRDS, &widgets()).await.ok(201);
    server.post(WIDGETS, &widget("old", 9)).await.ok(201);
    let mut definition = server.get(CRD).await.ok(200);
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]["maximum"] = 5.into();
    definition["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    server.patch(CRD, MERGE, &json!({ "spec": definition["spec"] })).await.ok(200);
    server.post(WIDGETS, &widget("new", 9)).await.refused(422, "Invalid");
    assert_eq!(server.get(&format!("{WIDGETS}/old")).await.ok(200)["spec"]["size"], 9);
    let fix = json!({ "spec": { "size": 5 } });
    server.patch(&format!("{WIDGETS}/old"), MERGE, &fix).await.ok(200);
    for (path, value) in
        [("/spec/group", "other.example"), ("/spec/names/plural", "others"), ("/spec/names/kind", "Other"), ("/spec/scope", "Cluster")]
    {
        until(&server, CRD, "Established", "True").await;
        let mut changed = server.get(CRD).await.ok(200);
        *changed.pointer_mut(path).unwrap() = value.into();
        let refused = server.put(CRD, &changed).await.refused(422, "Invalid");
        assert!(refused["message"].as_str().unwrap().contains("field is immutable"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_definition_its_objects_go_when_their_finalizers_let_them() {
    let server = start().await;
    server.post(CRDS, &widgets()).await.ok(201);
    let mut held = widget("held", 1);
    held["metadata"]["finalizers"] = json!(["shop.example/sold"]);
    server.post(WIDGETS, &held).await.ok(201);
    for name in ["a", "b", "c"] {
        server.post(WIDGETS, &widget(name, 1)).await.ok(201);
    }
    let before = server.revision().await;
    let mut events = server.watch(&format!("{WIDGETS}?resourceVersion={before}")).await;
    let deleted = server.delete(CRD, Value::Null).await.ok(200);
    assert!(deleted["metadata"]["deletionTimestamp"].is_string());
    let mut seen = events.take(4).await;
    seen.sort();
    assert_eq!(seen, ["DELETED a", "DELETED b", "DELETED c", "MODIFIED held"]);
    let terminating = until(&server, CRD, "Terminating", "True").await;
    assert_eq!(condition(&terminating, "Terminating").unwrap()["reason"], "InstanceDeletionInProgress");
    let refused = server.post(WIDGETS, &widget("late", 1)).await.refused(405, "MethodNotAllowed");
    assert!(refused["message"].as_str().unwrap().contains("terminating"), "{refused}");
    assert_eq!(names(&server.get(WIDGETS).await.ok(200)), ["held"]);
    server.patch(&format!("{WIDGETS}/held"), MERGE, &json!({ "metadata": { "finalizers": null } })).await.ok(200);
    assert_eq!(events.take(1).await, ["DELETED held"]);
    until_gone(&server, CRD, &terminating).await;
    // The watch ends with the kind.
    assert!(events.next().await.is_none());
    // What comes again by the same name is empty.
    server.post(CRDS, &widgets()).await.ok(201);
    assert!(names(&server.get(WIDGETS).await.ok(200)).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_another_has_are_not_served_until_they_are_free() {
    let server = start().await;
    server.post(CRDS, &widgets()).await.ok(201);
    until(&server, CRD, "Established", "True").await;
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    server.post(CRDS, &definition("gadgets", "Widget", schema)).await.ok(201);
    let gadgets = format!("{CRDS}/gadgets.shop.example");
    let refused = until(&server, &gadgets, "NamesAccepted", "False").await;
    assert_eq!(condition(&refused, "NamesAccepted").unwrap()["reason"], "ListKindConflict");
    assert_eq!(condition(&refused, "Established").unwrap()["status"], "False");
    server.get("/apis/shop.example/v1/namespaces/default/gadgets").await.refused(404, "NotFound");
    server.delete(CRD, Value::Null).await.ok(200);
    until(&server, &gadgets, "Established", "True").await;
    server.get("/apis/shop.example/v1/namespaces/default/gadgets").await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_that_cannot_be_served_are_refused_by_field() {
    let server = start().await;
    let deep = (0..40).fold(json!({ "type": "string" }), |schema, _| json!({ "type": "array", "items": schema }));
    let spec = |schema: Value| vec![("/spec/versions/0/schema/openAPIV3Schema/properties/spec", schema)];
    let cases = [
        (vec![("/metadata/name", json!("other.shop.example"))], "metadata.name", "must be spec.names.plural+"),
        (vec![("/spec/group", json!("shop")), ("/metadata/name", json!("widgets.shop"))], "spec.group", "at least one dot"),
        (vec![("/spec/scope", json!("Everywhere"))], "spec.scope", "supported values"),
        (vec![("/spec/versions/0/storage", json!(false))], "spec.versions", "exactly one version marked as storage"),
        (vec![("/spec/versions/0/schema", json!({}))], "schema.openAPIV3Schema", "schemas are required"),
        (vec![("/spec/names/kind", json!("wid get"))], "spec.names.kind", "DNS-1035"),
        (spec(json!({})), "properties[spec].type", "must not be empty"),
        (spec(json!({ "$ref": "#/definitions/x", "type": "object" })), "properties[spec].$ref", "not supported"),
        (spec(json!({ "type": "string", "pattern": "(" })), "openAPIV3Schema", "pattern"),
        (spec(json!({ "type": "string", "pattern": "(\\w{1000}){1000}" })), "openAPIV3Schema", "pattern"),
        (spec(json!({ "type": "string", "default": 3 })), "properties[spec].default", "must be of type string"),
        (spec(json!({ "type": "object", "x-kubernetes-validations": [{ "rule": "self.no.such" }] })), "openAPIV3Schema", "no"),
    ];
    for (changes, field, wanted) in cases {
        let mut definition = widgets();
        for (path, value) in changes {
            *definition.pointer_mut(path).unwrap() = value;
        }
        let refused = server.post(CRDS, &definition).await.refused(422, "Invalid");
        let causes = refused["details"]["causes"].as_array().unwrap();
        let told = causes
            .iter()
            .any(|cause| cause["field"].as_str().unwrap().contains(field) && cause["message"].as_str().unwrap().contains(wanted));
        assert!(told, "{field} {wanted}: {refused}");
    }
    let mut webhook = widgets();
    webhook["spec"]["conversion"] = json!({ "strategy": "Webhook", "webhook": { "conversionReviewVersions": ["v1"] } });
    let refused = server.post(CRDS, &webhook).await.refused(422, "Invalid");
    assert!(refused["message"].as_str().unwrap().contains("no webhook is called"), "{refused}");
    let mut deeper = widgets();
    deeper["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = deep;
    server.post(CRDS, &deeper).await.ok(201);
    server.delete(CRD, Value::Null).await.ok(200);
    let endless = format!("{}{}", "{\"items\":".repeat(100_000), "}".repeat(100_000));
    let text = widgets().to_string().replace("\"default\":\"grey\"", &format!("\"items\":{endless}"));
    let refused = server.send(http::Method::POST, CRDS, &[("content-type", "application/json")], text).await.refused(400, "BadRequest");
    assert!(refused["message"].as_str().unwrap().contains("64 levels"), "{refused}");
    let mut unknown = widgets();
    unknown["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["frob"] = json!(1);
    server.post(&format!("{CRDS}?fieldValidation=Strict"), &unknown).await.refused(400, "BadRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_programs_own_kinds_are_shown_and_cannot_be_changed() {
    let server = start().await;
    let vms = format!("{CRDS}/virtualmachines.basalt.dev");
    let shown = server.get(&vms).await.ok(200);
    assert_eq!(condition(&shown, "Established").unwrap()["status"], "True");
    let refused = server.delete(&vms, Value::Null).await.refused(403, "Forbidden");
    assert!(refused["message"].as_str().unwrap().contains("the control plane itself brings this kind"), "{refused}");
    let patch = json!({ "spec": { "versions": [] } });
    assert!(matches!(server.patch(&vms, MERGE, &patch).await.code, 403 | 422));
    server.patch(&vms, MERGE, &json!({ "spec": { "names": { "shortNames": ["x"] } } })).await.refused(403, "Forbidden");
    server.patch(&format!("{vms}/status"), MERGE, &json!({ "status": { "conditions": [] } })).await.refused(403, "Forbidden");
    server.patch(&vms, MERGE, &json!({ "metadata": { "labels": { "a": "b" } } })).await.ok(200);
    for crd in basalt_api::crds() {
        let path = format!("{CRDS}/{}?fieldManager=git&force=true", crd.metadata.name.as_deref().unwrap());
        server.patch(&path, APPLY, &json!(crd)).await.ok(200);
    }
    server.get(VMS).await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_read_and_written_in_every_served_version() {
    let server = start().await;
    let mut definition = widgets();
    let mut v2 = definition["spec"]["versions"][0].clone();
    (v2["name"], v2["storage"]) = ("v2".into(), false.into());
    definition["spec"]["versions"].as_array_mut().unwrap().push(v2);
    server.post(CRDS, &definition).await.ok(201);
    server.post(WIDGETS, &widget("a", 1)).await.ok(201);
    let in_v2 = WIDGETS.replace("/v1/", "/v2/");
    let read = server.get(&format!("{in_v2}/a")).await.ok(200);
    assert_eq!(read["apiVersion"], "shop.example/v2");
    assert_eq!(server.get(&in_v2).await.ok(200)["items"][0]["apiVersion"], "shop.example/v2");
    let mut watch = server.watch(&in_v2).await;
    assert_eq!(watch.next().await.unwrap().object["apiVersion"], "shop.example/v2");
    let mut changed = read;
    changed["spec"]["size"] = 2.into();
    assert_eq!(server.put(&format!("{in_v2}/a"), &changed).await.ok(200)["apiVersion"], "shop.example/v2");
    let read = server.get(&format!("{WIDGETS}/a")).await.ok(200);
    assert_eq!(
        (&read["apiVersion"], &read["spec"]["size"], &read["metadata"]["generation"]),
        (&json!("shop.example/v1"), &json!(2), &json!(2))
    );
    // The version to store in can be another from then on, and objects are moved by writing them anew.
    let mut definition = server.get(CRD).await.ok(200);
    definition["spec"]["versions"][0]["storage"] = false.into();
    definition["spec"]["versions"][1]["storage"] = true.into();
    let moved = server.patch(CRD, MERGE, &json!({ "spec": definition["spec"] })).await.ok(200);
    assert_eq!(moved["status"]["storedVersions"], json!(["v1", "v2"]));
    let written = server.patch(&format!("{WIDGETS}/a"), MERGE, &json!({})).await.ok(200);
    assert!(resource_version(&written) > resource_version(&read));
    assert_eq!(written["apiVersion"], "shop.example/v1");
    let gone = json!([definition["spec"]["versions"][1]]);
    server.patch(CRD, MERGE, &json!({ "spec": { "versions": gone } })).await.refused(422, "Invalid");
    server.patch(&format!("{CRD}/status"), MERGE, &json!({ "status": { "storedVersions": ["v2"] } })).await.ok(200);
    server.patch(CRD, MERGE, &json!({ "spec": { "versions": gone } })).await.ok(200);
    server.get(WIDGETS).await.refused(404, "NotFound");
    assert_eq!(names(&server.get(&in_v2).await.ok(200)), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_the_same_store_serves_the_kinds_again() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Embedded::open(&dir.path().join("store"), Default::default()).unwrap();
    let again = store.clone();
    let server = start_on(move |_| store).await;
    server.post(CRDS, &widgets()).await.ok(201);
    let made = server.post(WIDGETS, &widget("a", 1)).await.ok(201);
    until(&server, CRD, "Established", "True").await;
    drop(server);
    let server = start_on(move |_| again).await;
    assert_eq!(server.get(&format!("{WIDGETS}/a")).await.ok(200), made);
    server.post(WIDGETS, &widget("b", 10)).await.refused(422, "Invalid");
    let before = server.revision().await;
    server.delete(&format!("{WIDGETS}/a"), Value::Null).await.ok(200);
    let mut watch = server.watch(&format!("{WIDGETS}?resourceVersion={before}")).await;
    assert_eq!(watch.take(1).await, ["DELETED a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_on_one_store_serve_each_others_definitions() {
    let (one, other, _dir) = two_on_one_store().await;
    for round in 0..5 {
        let created = one.post(CRDS, &widgets()).await.ok(201);
        // Asked at once, the other one looks before it says that there is no such kind.
        let name = format!("a{round}");
        let made = other.post(WIDGETS, &widget(&name, 1)).await.ok(201);
        assert_eq!(one.get(&format!("{WIDGETS}/{name}")).await.ok(200), made);
        let mut watch = one.watch(&format!("{WIDGETS}?resourceVersion={}", resource_version(&made))).await;
        other.delete(CRD, Value::Null).await.ok(200);
        assert_eq!(watch.take(1).await, [format!("DELETED {name}")]);
        until_gone(&one, CRD, &created).await;
        assert!(watch.next().await.is_none());
        other.get(WIDGETS).await.refused(404, "NotFound");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_what_is_made_while_a_kind_goes() {
    let (one, other, _dir) = two_on_one_store().await;
    for _ in 0..3 {
        let created = one.post(CRDS, &widgets()).await.ok(201);
        other.get(WIDGETS).await.ok(200);
        let writers = (0..8).map(|writer| {
            let server = if writer % 2 == 0 { &one } else { &other };
            async move {
                let mut made = 0;
                loop {
                    let answer = server.post(WIDGETS, &widget(&format!("w{writer}-{made}"), 1)).await;
                    match answer.code {
                        201 => made += 1,
                        404 | 405 => return made,
                        _ => panic!("{answer:?}"),
                    }
                }
            }
        });
        let end = async {
            while names(&one.get(WIDGETS).await.ok(200)).len() < 20 {}
            other.delete(CRD, Value::Null).await.ok(200);
        };
        let (made, ()) = futures::join!(futures::future::join_all(writers), end);
        assert!(made.iter().sum::<i32>() >= 20);
        until_gone(&one, CRD, &created).await;
        let again = other.post(CRDS, &widgets()).await.ok(201);
        assert!(names(&one.get(WIDGETS).await.ok(200)).is_empty());
        one.delete(CRD, Value::Null).await.ok(200);
        until_gone(&one, CRD, &again).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_of_other_kinds_go_on_and_miss_nothing_while_a_kind_comes_and_goes() {
    let server = start().await;
    server.post(CRDS, &widgets()).await.ok(201);
    let rounds = 10;
    let mut watches = Vec::new();
    for _ in 0..8 {
        watches.push(server.watch(WIDGETS).await);
    }
    let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let coming_and_going = async {
        for _ in 0..rounds {
            let created = server.post(CRDS, &definition("gadgets", "Gadget", schema.clone())).await.ok(201);
            let gadget = json!({ "metadata": { "name": "g" } });
            server.post(&WIDGETS.replace("widgets", "gadgets"), &gadget).await.ok(201);
            let gadgets = format!("{CRDS}/gadgets.shop.example");
            server.delete(&gadgets, Value::Null).await.ok(200);
            until_gone(&server, &gadgets, &created).await;
        }
    };
    let writing = async {
        for index in 0..100 {
            server.post(WIDGETS, &widget(&format!("w{index}"), 1)).await.ok(201);
        }
    };
    futures::join!(coming_and_going, writing);
    let wanted: Vec<String> = (0..100).map(|index| format!("ADDED w{index}")).collect();
    for watch in &mut watches {
        assert_eq!(watch.take(100).await, wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_objects_go_with_their_owners_and_their_namespace() {
    let server = start().await;
    server.post(CRDS, &widgets()).await.ok(201);
    let owner = server.post(WIDGETS, &widget("owner", 1)).await.ok(201);
    let mut owned = widget("owned", 1);
    let uid = &owner["metadata"]["uid"];
    owned["metadata"]["ownerReferences"] = json!([{ "apiVersion": "shop.example/v1", "kind": "Widget", "name": "owner", "uid": uid }]);
    let owned = server.post(WIDGETS, &owned).await.ok(201);
    let mut watch = server.watch(&format!("{WIDGETS}?resourceVersion={}", resource_version(&owned))).await;
    server.delete(&format!("{WIDGETS}/owner"), Value::Null).await.ok(200);
    assert_eq!(watch.take(2).await, ["DELETED owner", "DELETED owned"]);
    let team = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "team" } });
    server.post(NAMESPACES, &team).await.ok(201);
    let in_team = WIDGETS.replace("/default/", "/team/");
    let made = server.post(&in_team, &widget("a", 1)).await.ok(201);
    let mut watch = server.watch(&format!("{in_team}?resourceVersion={}", resource_version(&made))).await;
    server.delete(&format!("{NAMESPACES}/team"), Value::Null).await.ok(200);
    assert_eq!(watch.take(1).await, ["DELETED a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_makes_a_kind_and_works_with_it() {
    let server = start().await;
    let client = server.client();
    let gvk = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let crds: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&gvk));
    let definition: DynamicObject = serde_json::from_value(widgets()).unwrap();
    crds.patch("widgets.shop.example", &PatchParams::apply("test"), &Patch::Apply(&definition)).await.unwrap();
    let gvk = GroupVersionKind::gvk("shop.example", "v1", "Widget");
    let found = kube::discovery::pinned_kind(&client, &gvk).await.unwrap();
    assert_eq!(found.0.plural, "widgets");
    let widgets: Api<DynamicObject> = Api::default_namespaced_with(client, &found.0);
    let made: DynamicObject = serde_json::from_value(widget("a", 1)).unwrap();
    widgets.create(&PostParams::default(), &made).await.unwrap();
    let mut events = Box::pin(kube::runtime::watcher(widgets.clone(), Default::default()));
    while !matches!(events.try_next().await.unwrap(), Some(kube::runtime::watcher::Event::InitDone)) {}
    let patch = Patch::Merge(json!({ "spec": { "colour": "red" } }));
    widgets.patch("a", &PatchParams::default(), &patch).await.unwrap();
    let Some(kube::runtime::watcher::Event::Apply(seen)) = events.try_next().await.unwrap() else { panic!("no event of the change") };
    assert_eq!(seen.data["spec"]["colour"], "red");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_makes_a_kind_waits_for_it_and_works_with_it() {
    let server = start().await;
    assert!(server.kubectl_ok(&["apply", "-f", "-"], &widgets().to_string()).await.contains("created"));
    server.kubectl_ok(&["wait", "--for", "condition=established", "crd/widgets.shop.example", "--timeout=30s"], "").await;
    assert!(server.kubectl_ok(&["apply", "-f", "-"], &widget("a", 3).to_string()).await.contains("widget.shop.example/a created"));
    assert!(server.kubectl_ok(&["get", "wi"], "").await.contains("SIZE"));
    assert!(server.kubectl_ok(&["explain", "widgets.spec"], "").await.contains("How large it is."));
    assert!(server.kubectl_ok(&["api-resources"], "").await.contains("widgets"));
    assert!(server.kubectl_ok(&["apply", "-f", "-"], &widgets().to_string()).await.contains("unchanged"));
    assert!(server.kubectl_ok(&["get", "crd"], "").await.contains("virtualmachines.basalt.dev"));
    assert!(server.kubectl_ok(&["delete", "crd", "widgets.shop.example", "--timeout=30s"], "").await.contains("deleted"));
    assert!(!server.kubectl(&["get", "widgets"], "").await.0);
}
