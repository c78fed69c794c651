//! `create`, `update`, `patch` and apply.

mod common;

use common::{
    start,
    wire::{APPLY, JSON_PATCH, LEASES, MERGE, NAMESPACES, STRATEGIC, VMS, labelled, names, resource_version, vm},
};
use http::Method;
use serde_json::{Value, json};

fn web() -> String {
    format!("{VMS}/web")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_object_is_completed_by_the_server_and_its_name_is_taken() {
    let server = start().await;
    let mut sent = vm("web");
    sent["metadata"]["uid"] = "mine".into();
    sent["metadata"]["generation"] = 7.into();
    sent["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    sent["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z".into();
    sent["status"] = json!({ "phase": "Running" });
    let created = server.post(VMS, &sent).await.ok(201);
    let meta = &created["metadata"];
    assert_eq!((&meta["namespace"], &meta["generation"], meta.get("deletionTimestamp")), (&json!("default"), &json!(1), None));
    assert!(meta["uid"] != "mine" && meta["creationTimestamp"].as_str() > Some("2020"), "{meta}");
    assert_eq!((&created["spec"]["cpus"], created.get("status")), (&json!(1), None));

    let again = server.post(VMS, &vm("web")).await.refused(409, "AlreadyExists");
    assert_eq!(again["message"], "virtualmachines.basalt.dev \"web\" already exists");
    // The same name elsewhere is another object.
    server.post(NAMESPACES, &json!({ "metadata": { "name": "team" } })).await.ok(201);
    server.post(&VMS.replace("default", "team"), &vm("web")).await.ok(201);
    let nowhere = server.post(&VMS.replace("default", "none"), &vm("web")).await.refused(404, "NotFound");
    assert_eq!(nowhere["message"], "namespaces \"none\" not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_made_up_from_a_prefix() {
    let server = start().await;
    let mut seen = Vec::new();
    for _ in 0..20 {
        let mut sent = vm("");
        sent["metadata"] = json!({ "generateName": "web-" });
        let created = server.post(VMS, &sent).await.ok(201);
        let name = created["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("web-") && name.len() == 9 && !seen.contains(&name), "{name}");
        seen.push(name);
    }
    // A prefix that leaves no room is cut: what comes of it must be a name wherever it is used.
    let mut sent = vm("");
    sent["metadata"] = json!({ "generateName": format!("{}-", "a".repeat(200)) });
    let created = server.post(VMS, &sent).await.ok(201);
    assert_eq!(created["metadata"]["name"].as_str().unwrap().len(), 63);
    sent["metadata"] = json!({});
    server.post(VMS, &sent).await.refused(422, "Invalid");
    sent["metadata"] = json!({ "generateName": "We b" });
    server.post(VMS, &sent).await.refused(422, "Invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_of_the_state_that_its_writer_has_seen() {
    let server = start().await;
    let first = server.post(VMS, &vm("web")).await.ok(201);
    let mut second = first.clone();
    second["spec"]["cpus"] = 2.into();
    let second = server.put(&web(), &second).await.ok(200);
    assert!(resource_version(&second) > resource_version(&first));

    let mut stale = first.clone();
    stale["spec"]["cpus"] = 3.into();
    let status = server.put(&web(), &stale).await.refused(409, "Conflict");
    assert!(
        status["message"]
            .as_str()
            .unwrap()
            .starts_with("Operation cannot be fulfilled on virtualmachines.basalt.dev \"web\": the object has been modified")
    );
    for media in [MERGE, APPLY] {
        let patch = json!({ "apiVersion": "basalt.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "resourceVersion": first["metadata"]["resourceVersion"] }, "spec": { "cpus": 4 } });
        server.patch(&format!("{}?fieldManager=t&force=true", web()), media, &patch).await.refused(409, "Conflict");
    }
    // Of another object with the same name nothing is written either.
    let mut other = second.clone();
    other["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    server.put(&web(), &other).await.refused(409, "Conflict");
    server.patch(&web(), MERGE, &json!({ "metadata": { "uid": "x" } })).await.refused(409, "Conflict");
    // Custom kinds are not replaced unseen, as in Kubernetes.
    let mut unseen = second.clone();
    unseen["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let status = server.put(&web(), &unseen).await.refused(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "metadata.resourceVersion");
    assert_eq!(server.get(&web()).await.ok(200), second);

    server.put(&format!("{VMS}/none"), &labelled(vm("none"), json!({ "a": "b" }))).await.refused(422, "Invalid");
    let mut none = first.clone();
    none["metadata"]["name"] = "none".into();
    server.put(&format!("{VMS}/none"), &none).await.refused(404, "NotFound");
    server.patch(&format!("{VMS}/none"), MERGE, &json!({})).await.refused(404, "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_at_once_each_change_is_kept() {
    let server = start().await;
    server.post(VMS, &vm("web")).await.ok(201);
    let (server, path) = (&server, &web());
    // Half of them read and replace, the others patch without looking.
    let writers = (0..16).map(|writer| async move {
        for round in 0..10 {
            let field = format!("w{writer}-{round}");
            if writer % 2 == 0 {
                let patch = json!({ "metadata": { "annotations": { field: "" } } });
                server.patch(path, MERGE, &patch).await.ok(200);
                continue;
            }
            loop {
                let mut seen = server.get(path).await.ok(200);
                seen["metadata"]["annotations"][&field] = "".into();
                match server.put(path, &seen).await {
                    answer if answer.code == 409 => {}
                    answer => break drop(answer.ok(200)),
                }
            }
        }
    });
    futures::future::join_all(writers).await;
    let kept = server.get(path).await.ok(200);
    assert_eq!(kept["metadata"]["annotations"].as_object().unwrap().len(), 160);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_back_to_what_was_there_before_is_no_less_a_write() {
    let server = start().await;
    server.post(VMS, &vm("web")).await.ok(201);
    // Each is nothing new to who has not seen the one before it.
    for round in 0..200 {
        let cpus = 1 + round % 2;
        let patch = json!({ "spec": { "cpus": cpus } });
        let tried = server.patch(&format!("{}?dryRun=All", web()), MERGE, &json!({ "metadata": { "labels": { "a": "b" } } })).await.ok(200);
        assert_eq!(tried["spec"]["cpus"], if round == 0 { 1 } else { 1 + (round - 1) % 2 });
        assert_eq!(server.patch(&web(), MERGE, &patch).await.ok(200)["spec"]["cpus"], cpus);
    }
    assert_eq!(server.get(&web()).await.ok(200)["spec"]["cpus"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_patch_sets_replaces_and_removes() {
    let server = start().await;
    server.post(VMS, &labelled(vm("web"), json!({ "a": "1", "b": "2" }))).await.ok(201);
    let patch = json!({
        "metadata": { "labels": { "a": null, "c": "3" } },
        "spec": { "disks": [{ "name": "d", "image": "i" }], "cpus": null },
    });
    let patched = server.patch(&web(), MERGE, &patch).await.ok(200);
    assert_eq!(patched["metadata"]["labels"], json!({ "b": "2", "c": "3" }));
    // What is taken out comes back as its default.
    assert_eq!(
        (&patched["spec"]["cpus"], &patched["spec"]["disks"]),
        (&json!(1), &json!([{ "name": "d", "image": "i", "readOnly": false }]))
    );
    let patched = server.patch(&web(), MERGE, &json!({ "spec": { "disks": [{ "name": "e", "image": "i" }] } })).await.ok(200);
    assert_eq!(patched["spec"]["disks"].as_array().unwrap().len(), 1);
    assert_eq!(server.patch(&web(), MERGE, &json!({})).await.ok(200), patched);
    server.patch(&web(), MERGE, &json!([])).await.refused(400, "BadRequest");
    let status = server.patch(&web(), MERGE, &json!({ "spec": { "memory": null } })).await.refused(422, "Invalid");
    assert_eq!(
        status["details"]["causes"][0],
        json!({ "reason": "FieldValueRequired", "field": "spec.memory", "message": "Required value" })
    );
    assert_eq!(server.get(&web()).await.ok(200), patched);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_patch_is_made_whole_or_not_at_all() {
    let server = start().await;
    let created = server.post(VMS, &labelled(vm("web"), json!({ "a": "1" }))).await.ok(201);
    let patch = json!([
        { "op": "test", "path": "/spec/cpus", "value": 1 },
        { "op": "replace", "path": "/spec/cpus", "value": 2 },
        { "op": "add", "path": "/metadata/labels/x~1y", "value": "2" },
        { "op": "copy", "from": "/metadata/labels/a", "path": "/metadata/labels/b" },
        { "op": "move", "from": "/metadata/labels/a", "path": "/metadata/labels/c" },
    ]);
    let patched = server.patch(&web(), JSON_PATCH, &patch).await.ok(200);
    assert_eq!(patched["metadata"]["labels"], json!({ "x/y": "2", "b": "1", "c": "1" }));
    assert!(resource_version(&patched) > resource_version(&created));
    for (patch, told) in [
        (json!([{ "op": "replace", "path": "/spec/cpus", "value": 3 }, { "op": "test", "path": "/spec/cpus", "value": 1 }]), "/spec/cpus"),
        (json!([{ "op": "remove", "path": "/spec/none" }]), "/spec/none"),
        (json!([{ "op": "add", "path": "/spec/disks/9", "value": {} }]), "/spec/disks/9"),
    ] {
        let status = server.patch(&web(), JSON_PATCH, &patch).await.refused(422, "Invalid");
        assert!(status["message"].as_str().unwrap().contains(told), "{status}");
    }
    for wrong in
        [json!({}), json!([{ "op": "frob", "path": "/a" }]), json!([{ "op": "add", "path": "no-pointer", "value": 1 }]), json!([{}])]
    {
        server.patch(&web(), JSON_PATCH, &wrong).await.refused(400, "BadRequest");
    }
    server.patch(&web(), JSON_PATCH, &json!([{ "op": "replace", "path": "", "value": 1 }])).await.refused(400, "BadRequest");
    let status =
        server.patch(&web(), JSON_PATCH, &json!([{ "op": "replace", "path": "/spec/cpus", "value": 0 }])).await.refused(422, "Invalid");
    assert_eq!(status["details"]["causes"][0]["field"], "spec.cpus");
    assert_eq!(server.get(&web()).await.ok(200), patched);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_patch_that_copies_itself_large_is_refused() {
    let server = start().await;
    let created = server.post(VMS, &labelled(vm("web"), json!({ "a": "1" }))).await.ok(201);
    let doubling: Vec<Value> = (0..64).map(|_| json!({ "op": "copy", "from": "/metadata", "path": "/metadata/annotations" })).collect();
    server.patch(&web(), JSON_PATCH, &json!(doubling)).await.refused(422, "Invalid");
    let many: Vec<Value> = (0..10_001).map(|_| json!({ "op": "test", "path": "/spec/cpus", "value": 1 })).collect();
    server.patch(&web(), JSON_PATCH, &json!(many)).await.refused(413, "RequestEntityTooLarge");
    assert_eq!(server.get(&web()).await.ok(200), created);
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_and_status_are_written_through_doors_of_their_own() {
    let server = start().await;
    let created = server.post(VMS, &vm("web")).await.ok(201);
    let status_path = format!("{}/status", web());
    let mut both = created.clone();
    both["spec"]["cpus"] = 2.into();
    both["status"] = json!({ "restarts": 3 });
    both["metadata"]["labels"] = json!({ "a": "1" });
    let by_status = server.put(&status_path, &both).await.ok(200);
    assert_eq!(
        (&by_status["status"]["restarts"], &by_status["spec"], by_status["metadata"].get("labels")),
        (&json!(3), &created["spec"], None)
    );
    assert_eq!(by_status["metadata"]["generation"], 1);
    both["metadata"]["resourceVersion"] = by_status["metadata"]["resourceVersion"].clone();
    both["status"] = json!({ "restarts": 9 });
    let by_main = server.put(&web(), &both).await.ok(200);
    assert_eq!(
        (&by_main["status"]["restarts"], &by_main["spec"]["cpus"], &by_main["metadata"]["generation"]),
        (&json!(3), &json!(2), &json!(2))
    );
    let patched = server.patch(&status_path, MERGE, &json!({ "spec": { "cpus": 7 }, "status": { "restarts": 4 } })).await.ok(200);
    assert_eq!((&patched["status"]["restarts"], &patched["spec"]["cpus"]), (&json!(4), &json!(2)));
    let patched = server.patch(&web(), JSON_PATCH, &json!([{ "op": "remove", "path": "/status" }])).await.ok(200);
    assert_eq!(patched["status"]["restarts"], 4);
    server.patch(&status_path, MERGE, &json!({ "status": { "restarts": "many" } })).await.refused(422, "Invalid");
    server.post(&status_path, &both).await.refused(405, "MethodNotAllowed");
    server.delete(&status_path, json!(null)).await.refused(404, "NotFound");
    server.get(&format!("{}/frob", web())).await.refused(404, "NotFound");
    server.get(&format!("{LEASES}/a/status")).await.refused(404, "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_generation_grows_with_the_spec_and_with_nothing_else() {
    let server = start().await;
    let created = server.post(VMS, &vm("web")).await.ok(201);
    let generation = |object: &Value| object["metadata"]["generation"].as_i64().unwrap();
    let steps = [
        (web(), json!({ "metadata": { "labels": { "a": "1" } } }), 1),
        (format!("{}/status", web()), json!({ "status": { "restarts": 1 } }), 1),
        (web(), json!({ "spec": { "cpus": 2 } }), 2),
        (web(), json!({ "spec": { "cpus": 2 } }), 2),
        (web(), json!({ "metadata": { "generation": 40 } }), 2),
        (web(), json!({ "metadata": { "annotations": { "a": "1" } }, "spec": { "runStrategy": "Halted" } }), 3),
    ];
    let mut version = resource_version(&created);
    for (path, patch, wanted) in steps {
        let patched = server.patch(&path, MERGE, &patch).await.ok(200);
        assert_eq!(generation(&patched), wanted, "{patch}");
        // What changes nothing is not written.
        let changes = !["generation", "{\"spec\":{\"cpus\":2}}"].iter().any(|same| patch.to_string().contains(same))
            || (wanted == 2 && version < resource_version(&patched));
        assert_eq!(resource_version(&patched) > version, changes, "{patch}");
        version = resource_version(&patched);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dry_run_answers_is_not_written() {
    let server = start().await;
    let before = server.revision().await;
    let dry = server.post(&format!("{VMS}?dryRun=All"), &vm("web")).await.ok(201);
    assert_eq!((&dry["spec"]["cpus"], dry["metadata"].get("resourceVersion"), dry["metadata"]["uid"].is_string()), (&json!(1), None, true));
    assert_eq!((server.revision().await, names(&server.get(VMS).await.ok(200)).len()), (before, 0));
    let created = server.post(VMS, &vm("web")).await.ok(201);
    server.post(&format!("{VMS}?dryRun=All"), &vm("web")).await.refused(409, "AlreadyExists");
    let mut changed = created.clone();
    changed["spec"]["cpus"] = 5.into();
    let path = format!("{}?dryRun=All&fieldManager=t&force=true", web());
    assert_eq!(server.put(&path, &changed).await.ok(200)["spec"]["cpus"], 5);
    assert_eq!(server.patch(&path, MERGE, &json!({ "spec": { "cpus": 6 } })).await.ok(200)["spec"]["cpus"], 6);
    let intent = json!({ "apiVersion": "basalt.dev/v1alpha1", "kind": "VirtualMachine", "spec": { "cpus": 7 } });
    assert_eq!(server.patch(&path, APPLY, &intent).await.ok(200)["spec"]["cpus"], 7);
    server.patch(&path, MERGE, &json!({ "spec": { "cpus": 0 } })).await.refused(422, "Invalid");
    server.delete(&path, json!(null)).await.ok(200);
    server.delete(&web(), json!({ "dryRun": ["All"] })).await.ok(200);
    server.delete(&format!("{VMS}?dryRun=All"), json!(null)).await.ok(200);
    assert_eq!(server.get(&web()).await.ok(200), created);
    server.post(&format!("{VMS}?dryRun=Some"), &vm("x")).await.refused(400, "BadRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_keeps_in_metadata_no_writer_changes() {
    let server = start().await;
    let created = server.post(VMS, &vm("web")).await.ok(201);
    let patch = json!({ "metadata": {
        "creationTimestamp": "2001-01-01T00:00:00Z", "deletionTimestamp": "2001-01-01T00:00:00Z", "deletionGracePeriodSeconds": 3,
        "generation": 9, "selfLink": "x",
    } });
    assert_eq!(server.patch(&web(), MERGE, &patch).await.ok(200), created);
    server.patch(&web(), MERGE, &json!({ "metadata": { "name": "other" } })).await.refused(400, "BadRequest");
    server.patch(&web(), MERGE, &json!({ "metadata": { "namespace": "other" } })).await.refused(400, "BadRequest");
    server.patch(&web(), MERGE, &json!({ "kind": "Host" })).await.refused(400, "BadRequest");
    assert_eq!(server.get(&web()).await.ok(200), created);
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_creates_owns_takes_back_and_conflicts() {
    let server = start().await;
    let path = |manager: &str, more: &str| format!("{}?fieldManager={manager}{more}", web());
    let intent = |labels: Value| json!({ "apiVersion": "basalt.dev/v1alpha1", "kind": "VirtualMachine", "metadata": { "name": "web", "labels": labels }, "spec": vm("web")["spec"] });
    let created = server.patch(&path("alice", ""), APPLY, &intent(json!({ "a": "1", "b": "1" }))).await.ok(201);
    assert_eq!(server.patch(&path("alice", ""), APPLY, &intent(json!({ "a": "1", "b": "1" }))).await.ok(200), created);
    let taken_back = server.patch(&path("alice", ""), APPLY, &intent(json!({ "a": "1" }))).await.ok(200);
    assert_eq!(taken_back["metadata"]["labels"], json!({ "a": "1" }));
    let status = server.patch(&path("bob", ""), APPLY, &intent(json!({ "a": "2" }))).await.refused(409, "Conflict");
    assert_eq!(
        status["details"]["causes"][0],
        json!({ "reason": "FieldManagerConflict", "message": "conflict with \"alice\"", "field": ".metadata.labels.a" })
    );
    let forced = server.patch(&path("bob", "&force=true"), APPLY, &intent(json!({ "a": "2" }))).await.ok(200);
    assert_eq!(forced["metadata"]["labels"], json!({ "a": "2" }));

    server.patch(&web(), APPLY, &intent(json!({}))).await.refused(422, "Invalid");
    server.patch(&path("bob", ""), APPLY, &json!({ "metadata": { "managedFields": [] } })).await.refused(400, "BadRequest");
    server.patch(&path(&"x".repeat(129), ""), APPLY, &intent(json!({}))).await.refused(400, "BadRequest");
    let other =
        server.patch(&format!("{VMS}/other?fieldManager=a"), APPLY, &json!({ "metadata": { "uid": "x" }, "spec": vm("")["spec"] })).await;
    other.refused(409, "Conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_a_bare_object_twice_writes_once_and_says_who_did() {
    let server = start().await;
    let bare = |name: &str| json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name } });
    let path = |name: &str| format!("{LEASES}/{name}?fieldManager=setup");
    let created = server.patch(&path("l1"), APPLY, &bare("l1")).await.ok(201);
    let managed = &created["metadata"]["managedFields"];
    assert_eq!((&managed[0]["manager"], &managed[0]["operation"], managed.get(1)), (&json!("setup"), &json!("Apply"), None), "{managed}");
    let before = server.revision().await;
    assert_eq!(server.patch(&path("l1"), APPLY, &bare("l1")).await.ok(200), created);
    assert_eq!(server.revision().await, before);
    // To a namespace the server adds what nobody applied.
    let team = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "team" } });
    let team_path = format!("{NAMESPACES}/team?fieldManager=setup");
    let created = server.patch(&team_path, APPLY, &team).await.ok(201);
    assert_eq!(server.patch(&team_path, APPLY, &team).await.ok(200), created);
    // The same of an object that somebody else made, and of one that was applied with more.
    server.post(LEASES, &json!({ "metadata": { "name": "l2" }, "spec": { "holderIdentity": "a" } })).await.ok(201);
    let mut more = bare("l3");
    more["spec"] = json!({ "holderIdentity": "a" });
    server.patch(&path("l3"), APPLY, &more).await.ok(201);
    for name in ["l2", "l3"] {
        let applied = server.patch(&path(name), APPLY, &bare(name)).await.ok(200);
        let managed = applied["metadata"]["managedFields"].as_array().unwrap();
        assert!(managed.iter().any(|entry| entry["manager"] == "setup" && entry["fieldsV1"] == json!({})), "{managed:?}");
        assert_eq!(server.patch(&path(name), APPLY, &bare(name)).await.ok(200), applied);
    }
    assert_eq!(server.get(&format!("{LEASES}/l3")).await.ok(200)["spec"].get("holderIdentity"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn strategic_merge_patches_are_for_the_kinds_of_kubernetes() {
    let server = start().await;
    server
        .post(NAMESPACES, &json!({ "metadata": { "name": "team", "labels": { "a": "1" }, "finalizers": ["x/one", "x/two"] } }))
        .await
        .ok(201);
    let path = format!("{NAMESPACES}/team");
    let patch = json!({ "metadata": {
        "labels": { "a": null, "b": "2" },
        "finalizers": ["x/three"],
        "$deleteFromPrimitiveList/finalizers": ["x/one"],
        "$setElementOrder/finalizers": ["x/three", "x/two"],
    } });
    let patched = server.patch(&path, STRATEGIC, &patch).await.ok(200);
    assert_eq!(patched["metadata"]["labels"], json!({ "b": "2", "kubernetes.io/metadata.name": "team" }));
    assert_eq!(patched["metadata"]["finalizers"], json!(["x/three", "x/two"]));
    let condition = |type_: &str, status: &str| json!({ "type": type_, "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let status_path = format!("{path}/status");
    server
        .patch(&status_path, STRATEGIC, &json!({ "status": { "conditions": [condition("A", "True"), condition("B", "True")] } }))
        .await
        .ok(200);
    let merged = server.patch(&status_path, STRATEGIC, &json!({ "status": { "conditions": [condition("B", "False")] } })).await.ok(200);
    assert_eq!(merged["status"]["conditions"], json!([condition("A", "True"), condition("B", "False")]));
    for wrong in [json!({ "metadata": { "$frob": [] } }), json!({ "metadata": { "labels": { "$patch": "frob" } } }), json!([])] {
        server.patch(&path, STRATEGIC, &wrong).await.refused(400, "BadRequest");
    }
    server.post(LEASES, &json!({ "metadata": { "name": "l" }, "spec": { "holderIdentity": "a" } })).await.ok(201);
    let lease = server.patch(&format!("{LEASES}/l"), STRATEGIC, &json!({ "spec": { "holderIdentity": "b" } })).await.ok(200);
    assert_eq!(lease["spec"]["holderIdentity"], "b");

    server.post(VMS, &vm("web")).await.ok(201);
    let status = server.patch(&web(), STRATEGIC, &json!({})).await.refused(415, "UnsupportedMediaType");
    let message = status["message"].as_str().unwrap();
    assert!(message.contains(MERGE) && message.contains(JSON_PATCH) && message.contains(APPLY), "{message}");
    let accepted = server.patch(&path, "text/plain", &json!({})).await.refused(415, "UnsupportedMediaType");
    assert!(accepted["message"].as_str().unwrap().contains(STRATEGIC), "{accepted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_refused_warned_of_or_dropped_as_the_writer_wants() {
    let server = start().await;
    let mut sent = vm("web");
    sent["spec"]["memroy"] = "1Gi".into();
    sent["metadata"]["lables"] = json!({});
    let strict = server.post(&format!("{VMS}?fieldValidation=Strict"), &sent).await.refused(400, "BadRequest");
    assert!(strict["message"].as_str().unwrap().contains("strict decoding error: unknown field \"spec.memroy\""), "{strict}");
    let ignored = server.post(&format!("{VMS}?fieldValidation=Ignore&dryRun=All"), &sent).await;
    assert_eq!(ignored.warnings(), [""; 0]);
    let warned = server.post(VMS, &sent).await;
    assert_eq!(warned.warnings().len(), 2);
    assert!(warned.warnings()[0].starts_with("299 - \"unknown field \\\"spec.memroy\\\""), "{:?}", warned.warnings());
    assert_eq!(warned.ok(201)["spec"].get("memroy"), None);
    server.patch(&format!("{}?fieldValidation=Strict", web()), MERGE, &json!({ "spec": { "memroy": 1 } })).await.refused(400, "BadRequest");
    server.post(&format!("{VMS}?fieldValidation=Loose"), &sent).await.refused(400, "BadRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn yaml_is_taken_as_json_is() {
    let server = start().await;
    let text = "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata:\n  name: web\nspec:\n  memory: 1Gi\n  boot: {kernel: {image: k}}\n";
    let created = server.send(Method::POST, VMS, &[("content-type", "application/yaml; charset=utf-8")], text).await.ok(201);
    assert_eq!(created["spec"]["memory"], "1Gi");
    let applied = server.send(Method::PATCH, &format!("{}?fieldManager=t", web()), &[("content-type", APPLY)], text).await.ok(200);
    assert_eq!(applied["spec"], created["spec"]);
    // Bodies without a type are taken for JSON.
    server.send(Method::POST, VMS, &[], vm("other").to_string()).await.ok(201);
}
