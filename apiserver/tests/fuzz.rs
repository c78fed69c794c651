//! Manifests, patches and intents with random faults: each is taken or refused as the client's error, never as the server's, and
//! what is refused changes nothing. `make fuzz` does it for long.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use common::{
    Server, start,
    wire::{APPLY, JSON_PATCH, MERGE, VMS, vm},
};
use http::Method;
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde_json::{Map, Value, json};

/// How often each is tried by `make test`.
const CASES: u32 = 200;

/// Names and texts that mean something somewhere, and some that do not.
fn text() -> impl Strategy<Value = String> {
    let known = [
        "metadata",
        "name",
        "namespace",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
        "managedFields",
        "resourceVersion",
        "uid",
        "deletionTimestamp",
        "spec",
        "status",
        "disks",
        "networks",
        "boot",
        "kernel",
        "image",
        "cpus",
        "memory",
        "1Gi",
        "kind",
        "apiVersion",
        "f:spec",
        "k:{\"name\":\"a\"}",
        ".",
        "",
        "/",
        "~1",
        "-",
        "a\u{0}b",
        "2001-01-01T00:00:00Z",
        "$patch",
        "replace",
    ];
    prop_oneof![3 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,20}"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3i64..9).prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..4).prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Where and how a value is changed: steps by position, and what is put there (`None` takes it away).
fn faults() -> impl Strategy<Value = Vec<(Vec<u8>, String, Option<Value>)>> {
    prop::collection::vec((prop::collection::vec(any::<u8>(), 0..5), text(), prop::option::weighted(0.8, value())), 0..4)
}

fn damage(root: &mut Value, faults: &[(Vec<u8>, String, Option<Value>)]) {
    for (steps, name, put) in faults {
        let mut path = String::new();
        for step in steps {
            let step = usize::from(*step);
            match root.pointer(&path) {
                Some(Value::Object(fields)) if !fields.is_empty() => {
                    let key = fields.keys().nth(step % fields.len()).unwrap();
                    path += &format!("/{}", key.replace('~', "~0").replace('/', "~1"));
                }
                Some(Value::Array(items)) if !items.is_empty() => path += &format!("/{}", step % items.len()),
                _ => break,
            }
        }
        let at = root.pointer_mut(&path).unwrap();
        match (at, put) {
            (Value::Object(fields), Some(put)) if name.len() % 2 == 0 => {
                fields.insert(name.clone(), put.clone());
            }
            (Value::Object(fields), None) => {
                let index = name.len().checked_rem(fields.len()).unwrap_or(0);
                fields.retain({
                    let mut number = 0;
                    move |_, _| {
                        number += 1;
                        number != index + 1
                    }
                });
            }
            (at, Some(put)) => *at = put.clone(),
            (at, None) => *at = Value::Null,
        }
    }
}

/// A VM with something in each part.
fn whole() -> Value {
    let mut whole = vm("web");
    whole["metadata"]["labels"] = json!({ "a": "1" });
    whole["metadata"]["annotations"] = json!({ "note": "x" });
    whole["metadata"]["finalizers"] = json!(["x/y"]);
    whole["spec"]["disks"] = json!([{ "name": "a", "image": "i" }, { "name": "b", "image": "i" }]);
    whole["spec"]["networks"] = json!([{ "name": "n", "bridge": "br0" }]);
    whole
}

async fn state(server: &Server) -> Value {
    server.get(VMS).await.ok(200)["items"].clone()
}

/// Sends it; it must be answered as the protocol has it.
async fn tried(server: &Server, method: Method, path: &str, media: &str, body: String) -> Result<(), TestCaseError> {
    let before = state(server).await;
    let answer = server.send(method, path, &[("content-type", media)], body.clone()).await;
    let said = String::from_utf8_lossy(&answer.body);
    prop_assert!(answer.code < 500, "{body}\n{} {said}", answer.code);
    if answer.code >= 400 {
        let status: Value = serde_json::from_slice(&answer.body).unwrap();
        prop_assert_eq!(&status["kind"], "Status");
        prop_assert!(status["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", said);
        prop_assert_eq!(state(server).await, before, "{} changed something", body);
    } else {
        // What was stored can be read, and written again as it is.
        let object: Value = serde_json::from_slice(&answer.body).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap();
        let again = server.put(&format!("{VMS}/{name}"), &object).await;
        prop_assert!(again.code < 500 && again.code != 400, "{object}\n{} {}", again.code, String::from_utf8_lossy(&again.body));
    }
    Ok(())
}

/// Leaves the one VM as it was, and no other.
async fn renew(server: &Server) {
    for item in state(server).await.as_array().unwrap() {
        let path = format!("{VMS}/{}", item["metadata"]["name"].as_str().unwrap());
        server.patch(&path, MERGE, &json!({ "metadata": { "finalizers": null } })).await;
        server.delete(&path, json!(null)).await;
    }
    server.post(VMS, &whole()).await.ok(201);
}

fn fuzz<S: Strategy>(strategy: S, send: impl AsyncFn(&Server, S::Value) -> Result<(), TestCaseError>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let server = runtime.block_on(start());
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 500, ..Config::default() };
    let ran = TestRunner::new(config).run(&strategy, |case| {
        runtime.block_on(async {
            renew(&server).await;
            send(&server, case).await
        })
    });
    assert!(ran.is_ok(), "{}", ran.unwrap_err());
}

#[test]
fn manifests_with_faults() {
    fuzz((faults(), any::<bool>()), async |server, (faults, yaml)| {
        let mut object = whole();
        object["metadata"]["name"] = "new".into();
        damage(&mut object, &faults);
        // All JSON is YAML.
        let media = if yaml { "application/yaml" } else { "application/json" };
        tried(server, Method::POST, VMS, media, object.to_string()).await?;
        let mut object = whole();
        damage(&mut object, &faults);
        tried(server, Method::PUT, &format!("{VMS}/web"), media, object.to_string()).await
    });
}

#[test]
fn patches_with_faults() {
    let operations = prop::collection::vec(
        (
            prop::sample::select(&["add", "remove", "replace", "move", "copy", "test", "x"][..]),
            prop::collection::vec(text(), 0..4),
            text(),
            value(),
        ),
        0..4,
    );
    fuzz((faults(), operations), async |server, (faults, operations)| {
        let mut fields = json!({ "metadata": { "labels": { "b": "2" } }, "spec": { "cpus": 2, "disks": [{ "name": "c", "image": "i" }] } });
        damage(&mut fields, &faults);
        let path = format!("{VMS}/web");
        tried(server, Method::PATCH, &path, MERGE, fields.to_string()).await?;
        let operations: Vec<Value> = operations
            .into_iter()
            .map(|(op, path, from, value)| json!({ "op": op, "path": format!("/{}", path.join("/")), "from": format!("/{from}"), "value": value }))
            .collect();
        tried(server, Method::PATCH, &path, JSON_PATCH, json!(operations).to_string()).await
    });
}

#[test]
fn intents_with_faults() {
    fuzz((faults(), faults(), any::<bool>()), async |server, (first, second, force)| {
        for (manager, faults) in [("one", first), ("two", second)] {
            let mut intent = whole();
            damage(&mut intent, &faults);
            let path = format!("{VMS}/web?fieldManager={manager}&force={force}");
            tried(server, Method::PATCH, &path, APPLY, intent.to_string()).await?;
        }
        Ok(())
    });
}

#[test]
fn recorded_ownership_with_faults() {
    let strategy = (value(), text(), text(), prop::option::of(value()));
    fuzz(strategy, async |server, (fields, manager, operation, time)| {
        let entry = json!({
            "manager": manager, "operation": if operation.is_empty() { "Update".into() } else { operation }, "apiVersion": "basalt.dev/v1alpha1",
            "time": time, "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": fields },
        });
        let patch = json!({ "metadata": { "managedFields": [entry] } });
        tried(server, Method::PATCH, &format!("{VMS}/web"), MERGE, patch.to_string()).await?;
        tried(server, Method::PATCH, &format!("{VMS}/web?fieldManager=one&force=true"), APPLY, whole().to_string()).await
    });
}
