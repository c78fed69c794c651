//! `delete`, `deletecollection`, and what goes with what is deleted.
#![allow(clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use common::{
    Server, start,
    wire::{HOSTS, JSON_PATCH, LEASES, MERGE, NAMESPACES, VMS, host, labelled, names, resource_version, vm},
};
use serde_json::{Value, json};

fn path(name: &str) -> String {
    format!("{VMS}/{name}")
}

fn held(mut object: Value, finalizers: Value) -> Value {
    object["metadata"]["finalizers"] = finalizers;
    object
}

/// A reference to an owner.
fn owned_by(owner: &Value, blocks: bool) -> Value {
    json!({
        "apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"],
        "blockOwnerDeletion": blocks,
    })
}

fn owned(mut object: Value, references: Value) -> Value {
    object["metadata"]["ownerReferences"] = references;
    object
}

/// Waits until a condition holds for an object or its absence (null), as told by a watch.
async fn until(server: &Server, collection: &str, name: &str, mut holds: impl FnMut(&Value) -> bool) {
    let list = server.get(&format!("{collection}?fieldSelector=metadata.name%3D{name}")).await.ok(200);
    if holds(&list["items"][0]) {
        return;
    }
    let from = resource_version(&list);
    let mut watch = server.watch(&format!("{collection}?fieldSelector=metadata.name%3D{name}&resourceVersion={from}")).await;
    loop {
        let line = watch.next().await.expect("it becomes as expected");
        if holds(if line.type_ == "DELETED" { &Value::Null } else { &line.object }) {
            return;
        }
    }
}

async fn until_gone(server: &Server, collection: &str, name: &str) {
    until(server, collection, name, Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nothing_holds_goes_at_once() {
    let server = start().await;
    let created = server.post(VMS, &vm("web")).await.ok(201);
    let status = server.delete(&path("web"), json!(null)).await.ok(200);
    let details = json!({ "name": "web", "group": "basalt.dev", "kind": "virtualmachines", "uid": created["metadata"]["uid"] });
    assert_eq!((&status["status"], &status["details"]), (&json!("Success"), &details));
    server.get(&path("web")).await.refused(404, "NotFound");
    server.delete(&path("web"), json!(null)).await.refused(404, "NotFound");
    // What takes the name is another object.
    let again = server.post(VMS, &vm("web")).await.ok(201);
    assert_ne!(again["metadata"]["uid"], created["metadata"]["uid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_goes_with_its_last_finalizer() {
    let server = start().await;
    let created = server.post(VMS, &held(vm("web"), json!(["x/one", "x/two"]))).await.ok(201);
    let marked = server.delete(&path("web"), json!(null)).await.ok(200);
    let meta = &marked["metadata"];
    assert_eq!(
        (&meta["deletionGracePeriodSeconds"], &meta["generation"], &meta["uid"]),
        (&json!(0), &json!(2), &created["metadata"]["uid"])
    );
    assert!(meta["deletionTimestamp"].is_string());
    // To delete it again changes nothing.
    assert_eq!(server.delete(&path("web"), json!(null)).await.ok(200), marked);
    server.post(VMS, &vm("web")).await.refused(409, "AlreadyExists");

    let more = json!({ "metadata": { "finalizers": ["x/one", "x/two", "x/three"] } });
    let status = server.patch(&path("web"), MERGE, &more).await.refused(422, "Invalid");
    let cause = &status["details"]["causes"][0];
    assert_eq!((&cause["field"], &cause["reason"]), (&json!("metadata.finalizers"), &json!("FieldValueForbidden")));
    assert!(cause["message"].as_str().unwrap().contains("x/three"), "{cause}");
    // The mark stays, and all else can be changed.
    let unmarked = server.patch(&path("web"), MERGE, &json!({ "metadata": { "deletionTimestamp": null } })).await.ok(200);
    assert!(unmarked["metadata"]["deletionTimestamp"].is_string());
    server.patch(&path("web"), MERGE, &json!({ "metadata": { "labels": { "a": "1" } } })).await.ok(200);
    let mut watch = server.watch(&format!("{VMS}?resourceVersion={}", server.revision().await)).await;
    let one = server.patch(&path("web"), MERGE, &json!({ "metadata": { "finalizers": ["x/two"] } })).await.ok(200);
    assert!(one["metadata"]["deletionTimestamp"].is_string());
    let last = server.patch(&path("web"), JSON_PATCH, &json!([{ "op": "remove", "path": "/metadata/finalizers" }])).await.ok(200);
    assert_eq!(last["metadata"]["uid"], created["metadata"]["uid"]);
    server.get(&path("web")).await.refused(404, "NotFound");
    assert_eq!(watch.take(2).await, ["MODIFIED web", "DELETED web"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_of_the_object_that_its_asker_means() {
    let server = start().await;
    let created = server.post(VMS, &vm("web")).await.ok(201);
    let seen = created["metadata"]["resourceVersion"].clone();
    let changed = server.patch(&path("web"), MERGE, &json!({ "spec": { "cpus": 2 } })).await.ok(200);
    for preconditions in [
        json!({ "uid": "other" }),
        json!({ "resourceVersion": seen }),
        json!({ "uid": created["metadata"]["uid"], "resourceVersion": seen }),
    ] {
        let status = server.delete(&path("web"), json!({ "preconditions": preconditions })).await.refused(409, "Conflict");
        assert!(status["message"].as_str().unwrap().contains("Precondition failed"), "{status}");
    }
    for wrong in [
        json!({ "propagationPolicy": "Sometimes" }),
        json!({ "dryRun": ["Some"] }),
        json!({ "preconditions": { "uid": 5 } }),
        json!({ "kind": "Host" }),
        json!([]),
    ] {
        server.delete(&path("web"), wrong).await.refused(400, "BadRequest");
    }
    server.delete(&format!("{}?propagationPolicy=Sometimes", path("web")), json!(null)).await.refused(400, "BadRequest");
    assert_eq!(server.get(&path("web")).await.ok(200), changed);
    let right = json!({ "uid": changed["metadata"]["uid"], "resourceVersion": changed["metadata"]["resourceVersion"] });
    server.delete(&path("web"), json!({ "preconditions": right })).await.ok(200);
    server.get(&path("web")).await.refused(404, "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_background_what_is_owned_goes_after_its_owner() {
    let server = start().await;
    let owner = server.post(VMS, &vm("owner")).await.ok(201);
    let child = server.post(VMS, &owned(vm("child"), json!([owned_by(&owner, true)]))).await.ok(201);
    server.post(LEASES, &owned(json!({ "metadata": { "name": "grandchild" } }), json!([owned_by(&child, false)]))).await.ok(201);
    server.post(VMS, &vm("stranger")).await.ok(201);
    server.delete(&path("owner"), json!({ "propagationPolicy": "Background" })).await.ok(200);
    server.get(&path("owner")).await.refused(404, "NotFound");
    until_gone(&server, VMS, "child").await;
    until_gone(&server, LEASES, "grandchild").await;
    assert_eq!(names(&server.get(VMS).await.ok(200)), ["stranger"]);
    // Whoever comes too late to be owned goes as well.
    server.post(VMS, &owned(vm("late"), json!([owned_by(&owner, true)]))).await.ok(201);
    until_gone(&server, VMS, "late").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_foreground_what_is_owned_goes_before_its_owner() {
    let server = start().await;
    let owner = server.post(VMS, &vm("owner")).await.ok(201);
    server.post(VMS, &held(owned(vm("blocks"), json!([owned_by(&owner, true)])), json!(["x/hold"]))).await.ok(201);
    server.post(VMS, &owned(vm("goes"), json!([owned_by(&owner, true)]))).await.ok(201);
    server.post(VMS, &held(owned(vm("lingers"), json!([owned_by(&owner, false)])), json!(["x/hold"]))).await.ok(201);
    let marked = server.delete(&path("owner"), json!({ "propagationPolicy": "Foreground" })).await.ok(200);
    assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    until_gone(&server, VMS, "goes").await;
    let is_marked = |object: &Value| object["metadata"]["deletionTimestamp"].is_string();
    until(&server, VMS, "blocks", is_marked).await;
    until(&server, VMS, "lingers", is_marked).await;
    assert!(is_marked(&server.get(&path("owner")).await.ok(200)));
    server.patch(&path("blocks"), MERGE, &json!({ "metadata": { "finalizers": null } })).await.ok(200);
    // What does not block is not waited for.
    until_gone(&server, VMS, "owner").await;
    server.get(&path("lingers")).await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_another_owner_stays_with_that_one() {
    let server = start().await;
    for policy in ["Foreground", "Background"] {
        let (first, second) = (server.post(VMS, &vm("first")).await.ok(201), server.post(VMS, &vm("second")).await.ok(201));
        let both = json!([owned_by(&first, true), owned_by(&second, true)]);
        server.post(VMS, &owned(vm("shared"), both)).await.ok(201);
        server.delete(&path("first"), json!({ "propagationPolicy": policy })).await.ok(200);
        until_gone(&server, VMS, "first").await;
        // The collector has looked at all of this by the time it has done what comes after it.
        let gone = server.post(VMS, &owned(vm("after"), json!([owned_by(&first, true)]))).await.ok(201);
        until_gone(&server, VMS, gone["metadata"]["name"].as_str().unwrap()).await;
        let shared = server.get(&path("shared")).await.ok(200);
        assert!(shared["metadata"].get("deletionTimestamp").is_none(), "{policy}: {shared}");
        assert!(shared["metadata"]["ownerReferences"].as_array().unwrap().contains(&owned_by(&second, true)));
        server.delete(&path("second"), json!(null)).await.ok(200);
        until_gone(&server, VMS, "shared").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_stay_without_their_owner() {
    let server = start().await;
    let owner = server.post(VMS, &vm("owner")).await.ok(201);
    // Many, and the last of them just before the owner goes.
    for number in 0..50 {
        server
            .post(LEASES, &owned(json!({ "metadata": { "name": format!("l{number:02}") } }), json!([owned_by(&owner, true)])))
            .await
            .ok(201);
    }
    server.delete(&path("owner"), json!({ "propagationPolicy": "Orphan" })).await.ok(200);
    until_gone(&server, VMS, "owner").await;
    server.post(LEASES, &owned(json!({ "metadata": { "name": "late" } }), json!([owned_by(&owner, true)]))).await.ok(201);
    until_gone(&server, LEASES, "late").await;
    let list = server.get(LEASES).await.ok(200);
    assert_eq!(names(&list).len(), 50);
    for lease in list["items"].as_array().unwrap() {
        assert!(lease["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty), "{lease}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_known_by_its_uid_and_where_nothing_is_known_nothing_goes() {
    let server = start().await;
    let owner = server.post(VMS, &vm("owner")).await.ok(201);
    let host_owner = server.post(HOSTS, &host("h")).await.ok(201);
    let unknown = json!({ "apiVersion": "other.dev/v1", "kind": "Thing", "name": "t", "uid": "1" });
    server.post(VMS, &owned(vm("of-another-kind"), json!([unknown]))).await.ok(201);
    server.post(VMS, &owned(vm("of-a-host"), json!([owned_by(&host_owner, false)]))).await.ok(201);
    // Which namespace's VM a host means cannot be known.
    server.post(HOSTS, &owned(host("strange"), json!([owned_by(&owner, false)]))).await.ok(201);
    let mut impostor = owned_by(&owner, true);
    impostor["uid"] = "00000000-0000-0000-0000-000000000000".into();
    server.post(VMS, &owned(vm("misled"), json!([impostor]))).await.ok(201);
    until_gone(&server, VMS, "misled").await;
    assert_eq!(names(&server.get(VMS).await.ok(200)), ["of-a-host", "of-another-kind", "owner"]);
    assert_eq!(names(&server.get(HOSTS).await.ok(200)), ["h", "strange"]);
    server.delete(&format!("{HOSTS}/h"), json!(null)).await.ok(200);
    until_gone(&server, VMS, "of-a-host").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_word_on_what_becomes_of_the_owned_counts() {
    let server = start().await;
    let owner = server.post(VMS, &held(vm("owner"), json!(["x/hold"]))).await.ok(201);
    server.post(VMS, &held(owned(vm("child"), json!([owned_by(&owner, true)])), json!(["x/hold"]))).await.ok(201);
    let foreground = server.delete(&path("owner"), json!({ "propagationPolicy": "Foreground" })).await.ok(200);
    assert_eq!(foreground["metadata"]["finalizers"], json!(["x/hold", "foregroundDeletion"]));
    let background = server.delete(&path("owner"), json!({ "propagationPolicy": "Background" })).await.ok(200);
    assert_eq!(background["metadata"]["finalizers"], json!(["x/hold"]));
    server.patch(&path("owner"), MERGE, &json!({ "metadata": { "finalizers": null } })).await.ok(200);
    server.get(&path("owner")).await.refused(404, "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_deleted_by_selectors_within_its_namespace() {
    let server = start().await;
    server.post(NAMESPACES, &json!({ "metadata": { "name": "team" } })).await.ok(201);
    let theirs = VMS.replace("default", "team");
    for name in ["a", "b", "c"] {
        let labels = json!({ "app": if name == "c" { "db" } else { "web" } });
        server.post(VMS, &labelled(vm(name), labels.clone())).await.ok(201);
        server.post(&theirs, &labelled(vm(name), labels)).await.ok(201);
    }
    server.delete(&format!("{VMS}?labelSelector=app%20in"), json!(null)).await.refused(400, "BadRequest");
    server.delete("/apis/basalt.dev/v1alpha1/virtualmachines", json!(null)).await.refused(405, "MethodNotAllowed");
    server.delete(&format!("{VMS}?labelSelector=app%3Dweb&fieldSelector=metadata.name!%3Db"), json!(null)).await.ok(200);
    assert_eq!(names(&server.get(VMS).await.ok(200)), ["b", "c"]);
    server.patch(&path("b"), MERGE, &json!({ "metadata": { "finalizers": ["x/hold"] } })).await.ok(200);
    server.delete(VMS, json!(null)).await.ok(200);
    let left = server.get(VMS).await.ok(200);
    assert_eq!((names(&left), left["items"][0]["metadata"]["deletionTimestamp"].is_string()), (vec!["b"], true));
    assert_eq!(names(&server.get(&theirs).await.ok(200)).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_when_all_in_it_is_gone_and_says_what_it_waits_for() {
    let server = start().await;
    let team = format!("{NAMESPACES}/team");
    server.post(NAMESPACES, &json!({ "metadata": { "name": "team" } })).await.ok(201);
    // A name that begins with another's is not of it.
    server.post(NAMESPACES, &json!({ "metadata": { "name": "team-b" } })).await.ok(201);
    server.post(&VMS.replace("default", "team-b"), &vm("theirs")).await.ok(201);
    let theirs = VMS.replace("default", "team");
    server.post(&theirs, &held(vm("held"), json!(["x/hold"]))).await.ok(201);
    for number in 0..20 {
        server.post(&theirs, &vm(&format!("vm-{number}"))).await.ok(201);
    }
    server.post(&LEASES.replace("default", "team"), &json!({ "metadata": { "name": "l" } })).await.ok(201);
    let marked = server.delete(&team, json!(null)).await.ok(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let status = server.post(&theirs, &vm("new")).await.refused(403, "Forbidden");
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let why = |object: &Value| object["status"]["conditions"].to_string();
    until(&server, NAMESPACES, "team", |object| why(object).contains("virtualmachines.basalt.dev has 1 resource instances")).await;
    assert!(why(&server.get(&team).await.ok(200)).contains("x/hold"));
    assert_eq!(names(&server.get(&theirs).await.ok(200)), ["held"]);
    server.patch(&format!("{theirs}/held"), MERGE, &json!({ "metadata": { "finalizers": null } })).await.ok(200);
    until_gone(&server, NAMESPACES, "team").await;
    assert_eq!(names(&server.get(&VMS.replace("default", "team-b")).await.ok(200)), ["theirs"]);
    server.post(NAMESPACES, &json!({ "metadata": { "name": "team" } })).await.ok(201);
    server.post(&theirs, &vm("new")).await.ok(201);
    server.delete(&format!("{NAMESPACES}/default"), json!(null)).await.refused(403, "Forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_into_a_namespace_while_it_goes_does_not_stay_behind() {
    let server = std::sync::Arc::new(start().await);
    for round in 0..10 {
        let namespace = format!("team-{round}");
        let theirs = VMS.replace("default", &namespace);
        server.post(NAMESPACES, &json!({ "metadata": { "name": namespace } })).await.ok(201);
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let (server, theirs) = (server.clone(), theirs.clone());
                tokio::spawn(async move {
                    let mut number = 0;
                    while server.post(&theirs, &vm(&format!("vm-{writer}-{number}"))).await.code == 201 {
                        number += 1;
                    }
                })
            })
            .collect();
        server.delete(&format!("{NAMESPACES}/{namespace}"), json!(null)).await.ok(200);
        futures::future::try_join_all(writers).await.unwrap();
        until_gone(&server, NAMESPACES, &namespace).await;
        for name in names(&server.get(&theirs).await.ok(200)) {
            until_gone(&server, &theirs, name).await;
        }
    }
}
