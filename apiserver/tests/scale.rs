//! The subresource `scale` of users' kinds, over the wire and by kubectl.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use common::{
    Server, start,
    wire::{APPLY, JSON_PATCH, MERGE, STRATEGIC},
};
use http::Method;
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const FARMS: &str = "/apis/shop.example/v1/namespaces/default/farms";
const FARM: &str = "/apis/shop.example/v1/namespaces/default/farms/a";
const SCALE: &str = "/apis/shop.example/v1/namespaces/default/farms/a/scale";

fn farms(scale: Value) -> Value {
    let number = json!({ "type": "integer", "maximum": 9 });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": "farms.shop.example" },
        "spec": {
            "group": "shop.example",
            "scope": "Namespaced",
            "names": { "plural": "farms", "kind": "Farm" },
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": { "status": {}, "scale": scale },
                "schema": { "openAPIV3Schema": { "type": "object", "properties": {
                    "spec": { "type": "object", "properties": {
                        "size": { "type": "object", "properties": { "replicas": number } }, "colour": { "type": "string" },
                    } },
                    "status": { "type": "object", "properties": { "replicas": number, "selector": { "type": "string" } } },
                } } },
            }],
        },
    })
}

fn paths() -> Value {
    json!({ "specReplicasPath": ".spec.size.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector" })
}

/// A server with a farm `a` of three, two of which there are.
async fn with_a_farm() -> Server {
    let server = start().await;
    server.post(CRDS, &farms(paths())).await.ok(201);
    let farm = json!({ "metadata": { "name": "a", "labels": { "x": "y" } }, "spec": { "size": { "replicas": 3 }, "colour": "red" } });
    server.post(FARMS, &farm).await.ok(201);
    let status = json!({ "status": { "replicas": 2, "selector": "app=a" } });
    server.patch(&format!("{FARM}/status"), MERGE, &status).await.ok(200);
    server
}

async fn replicas(server: &Server) -> Value {
    server.get(FARM).await.ok(200)["spec"]["size"]["replicas"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_read_replaced_and_patched_and_changes_nothing_but_the_number() {
    let server = with_a_farm().await;
    let farm = server.get(FARM).await.ok(200);
    let scale = server.get(SCALE).await.ok(200);
    assert_eq!((&scale["apiVersion"], &scale["kind"]), (&json!("autoscaling/v1"), &json!("Scale")));
    assert_eq!((&scale["spec"], &scale["status"]), (&json!({ "replicas": 3 }), &json!({ "replicas": 2, "selector": "app=a" })));
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        assert_eq!(scale["metadata"][field], farm["metadata"][field], "{field}");
    }
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = 5.into();
    wanted["status"]["replicas"] = 9.into();
    wanted["metadata"]["labels"] = json!({ "x": "z" });
    let replaced = server.put(SCALE, &wanted).await.ok(200);
    assert_eq!((&replaced["spec"]["replicas"], &replaced["status"]["replicas"]), (&json!(5), &json!(2)));
    let mut after = server.get(FARM).await.ok(200);
    assert_eq!(after["metadata"]["generation"], json!(2));
    assert_eq!(after["metadata"]["resourceVersion"], replaced["metadata"]["resourceVersion"]);
    after["spec"]["size"]["replicas"] = 3.into();
    assert_eq!((&after["spec"], &after["status"], &after["metadata"]["labels"]), (&farm["spec"], &farm["status"], &json!({ "x": "y" })));
    // It was read at an older version.
    server.put(SCALE, &wanted).await.refused(409, "Conflict");
    // Clients in Go leave out what is 0.
    let none = json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "a", "namespace": "default" }, "spec": {} });
    assert_eq!(server.put(SCALE, &none).await.ok(200)["spec"]["replicas"], 0);
    for (media, patch, wanted) in [
        (MERGE, json!({ "spec": { "replicas": 4 } }), 4),
        (STRATEGIC, json!({ "spec": { "replicas": 5 } }), 5),
        (JSON_PATCH, json!([{ "op": "replace", "path": "/spec/replicas", "value": 6 }]), 6),
    ] {
        assert_eq!(server.patch(SCALE, media, &patch).await.ok(200)["spec"]["replicas"], wanted);
        assert_eq!(replicas(&server).await, wanted);
    }
    let tried = server.patch(&format!("{SCALE}?dryRun=All"), MERGE, &json!({ "spec": { "replicas": 1 } })).await.ok(200);
    assert_eq!((tried["spec"]["replicas"].as_i64(), replicas(&server).await), (Some(1), json!(6)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_refused_and_nothing_changes() {
    let server = with_a_farm().await;
    for (patch, field) in [
        (json!({ "spec": { "replicas": -1 } }), "spec.replicas"),
        (json!({ "spec": { "replicas": "many" } }), "spec.replicas"),
        // The kind's own schema.
        (json!({ "spec": { "replicas": 10 } }), "spec.size.replicas"),
    ] {
        let refused = server.patch(SCALE, MERGE, &patch).await.refused(422, "Invalid");
        assert_eq!(refused["details"]["causes"][0]["field"], field, "{refused}");
    }
    let strict = format!("{SCALE}?fieldValidation=Strict");
    server.patch(&strict, MERGE, &json!({ "spec": { "replica": 1 } })).await.refused(400, "BadRequest");
    assert!(server.patch(SCALE, MERGE, &json!({ "spec": { "replica": 1 } })).await.warnings()[0].contains("spec.replica"));
    server.patch(SCALE, MERGE, &json!({ "kind": "Farm" })).await.refused(400, "BadRequest");
    server.patch(SCALE, MERGE, &json!({ "metadata": { "name": "b" } })).await.refused(400, "BadRequest");
    server.patch(SCALE, MERGE, &json!({ "metadata": { "uid": "other" } })).await.refused(409, "Conflict");
    assert_eq!(replicas(&server).await, 3);
    server.post(SCALE, &json!({})).await.refused(405, "MethodNotAllowed");
    server.delete(SCALE, Value::Null).await.refused(404, "NotFound");
    server.get(&format!("{FARMS}/none/scale")).await.refused(404, "NotFound");
    server.get("/apis/basalt.dev/v1alpha1/namespaces/default/virtualmachines/a/scale").await.refused(404, "NotFound");
    // As in Kubernetes, of an object that does not say how many are wanted there is no scale until it is told.
    server.post(FARMS, &json!({ "metadata": { "name": "b" } })).await.ok(201);
    let other = format!("{FARMS}/b/scale");
    server.get(&other).await.refused(500, "InternalError");
    server.patch(&other, MERGE, &json!({ "spec": { "replicas": 1 } })).await.ok(200);
    assert_eq!(server.get(&other).await.ok(200)["status"], json!({ "replicas": 0, "selector": "" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_scales_owns_the_number() {
    let server = with_a_farm().await;
    let farm =
        json!({ "apiVersion": "shop.example/v1", "kind": "Farm", "metadata": { "name": "b" }, "spec": { "size": { "replicas": 3 } } });
    server.patch(&format!("{FARMS}/b?fieldManager=maker"), APPLY, &farm).await.ok(201);
    let scale = json!({ "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": { "name": "b" }, "spec": { "replicas": 4 } });
    let at = format!("{FARMS}/b/scale?fieldManager=scaler");
    let refused = server.patch(&at, APPLY, &scale).await.refused(409, "Conflict");
    assert!(refused["message"].as_str().unwrap().contains("\"maker\"") && refused.to_string().contains(".spec.size.replicas"), "{refused}");
    assert_eq!(server.patch(&format!("{at}&force=true"), APPLY, &scale).await.ok(200)["spec"]["replicas"], 4);
    let held = server.get(&format!("{FARMS}/b")).await.ok(200);
    let entries = held["metadata"]["managedFields"].as_array().unwrap();
    let own = entries.iter().find(|entry| entry["manager"] == "scaler").unwrap();
    assert_eq!((&own["operation"], &own["subresource"]), (&json!("Apply"), &json!("scale")));
    assert_eq!(own["fieldsV1"], json!({ "f:spec": { "f:size": { "f:replicas": {} } } }));
    server.patch(&format!("{FARMS}/b/scale"), APPLY, &scale).await.refused(422, "Invalid");
    // Applied no more, it is the maker's again, who is told of nobody.
    server.patch(&format!("{at}&force=true"), MERGE, &json!({ "spec": { "replicas": 5 } })).await.ok(200);
    let refused = server.patch(&format!("{FARMS}/b?fieldManager=maker"), APPLY, &farm).await.refused(409, "Conflict");
    assert!(refused["message"].as_str().unwrap().contains("\"scaler\" with subresource \"scale\""), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_says_where_the_numbers_are_and_wrong_paths_are_refused() {
    let server = start().await;
    for (field, path, reason) in [
        ("specReplicasPath", "", "FieldValueRequired"),
        ("specReplicasPath", ".status.replicas", "FieldValueInvalid"),
        ("specReplicasPath", ".spec.all[0].replicas", "FieldValueInvalid"),
        ("specReplicasPath", ".spec..replicas", "FieldValueInvalid"),
        ("statusReplicasPath", ".spec.size.replicas", "FieldValueInvalid"),
        ("labelSelectorPath", ".metadata.labels", "FieldValueInvalid"),
    ] {
        let mut wrong = paths();
        wrong[field] = path.into();
        let refused = server.post(CRDS, &farms(wrong)).await.refused(422, "Invalid");
        let cause = &refused["details"]["causes"][0];
        let at = format!("spec.versions[0].subresources.scale.{field}");
        assert_eq!((cause["field"].as_str(), cause["reason"].as_str()), (Some(at.as_str()), Some(reason)), "{refused}");
    }
    server.post(CRDS, &farms(paths())).await.ok(201);
    let resources = server.get("/apis/shop.example/v1").await.ok(200);
    let scale = resources["resources"].as_array().unwrap().iter().find(|resource| resource["name"] == "farms/scale").unwrap();
    assert_eq!(scale["verbs"], json!(["get", "patch", "update"]));
    assert_eq!((&scale["group"], &scale["version"], &scale["kind"]), (&json!("autoscaling"), &json!("v1"), &json!("Scale")));
    let accept = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let all = server.send(Method::GET, "/apis", &accept, "").await.ok(200);
    assert!(all.to_string().contains(r#""responseKind":{"group":"autoscaling","kind":"Scale","version":"v1"}"#), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_scales() {
    let server = with_a_farm().await;
    let said = server.kubectl_ok(&["scale", "farm/a", "--replicas=5"], "").await;
    assert_eq!((said.trim(), replicas(&server).await), ("farm.shop.example/a scaled", json!(5)));
    let (success, said) = server.kubectl(&["scale", "farm/a", "--replicas=6", "--current-replicas=3"], "").await;
    assert!(!success && said.contains("Expected replicas to be 3, was 5"), "{said}");
    server.kubectl_ok(&["scale", "farm/a", "--replicas=0", "--current-replicas=5"], "").await;
    assert_eq!(replicas(&server).await, 0);
    let path = "/apis/shop.example/v1/namespaces/default/farms/a/scale";
    let shown = server.kubectl_ok(&["get", "--raw", path], "").await;
    let scale: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(0), &json!(2)), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_a_right_of_its_own() {
    let server = with_a_farm().await;
    let rule = json!([{ "apiGroups": ["shop.example"], "resources": ["farms/scale"], "verbs": ["get", "patch"] }]);
    let role = json!({ "metadata": { "name": "scaler" }, "rules": rule });
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.ok(201);
    let binding = json!({
        "metadata": { "name": "scaler" },
        "roleRef": { "kind": "ClusterRole", "name": "scaler" },
        "subjects": [{ "kind": "User", "name": "sam" }],
    });
    server.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.ok(201);
    let sam = server.seen_by("sam", &[]).await;
    assert_eq!(sam.patch(SCALE, MERGE, &json!({ "spec": { "replicas": 1 } })).await.ok(200)["spec"]["replicas"], 1);
    sam.get(SCALE).await.ok(200);
    sam.put(SCALE, &json!({ "spec": { "replicas": 2 } })).await.refused(403, "Forbidden");
    sam.get(FARM).await.refused(403, "Forbidden");
    sam.patch(FARM, MERGE, &json!({ "spec": { "colour": "blue" } })).await.refused(403, "Forbidden");
}
