//! Secrets: used as in Kubernetes, and nothing of their values in the store.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use basalt_apiserver::{ApiServer, Options, Registry, StartError, secret::seal::Keys};
use basalt_store::{Store, embedded::Embedded};
use common::{
    start, start_on,
    wire::{APPLY, MERGE},
};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
/// What is looked for in the store: as it was written, and as it is in JSON.
const PLAIN: &str = "correct-horse-battery-staple";
const BASE64: &str = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ==";

fn secret(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": { "password": PLAIN } })
}

async fn stored(store: &dyn Store) -> Vec<u8> {
    store.range(b"/", b"0", 0).await.unwrap().entries.into_iter().flat_map(|entry| [entry.key, entry.value].concat()).collect()
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_written_read_listed_and_watched_and_the_store_and_backups_have_nothing_of_it() {
    let store: Arc<Mutex<Option<Arc<dyn Store>>>> = Arc::default();
    let kept = store.clone();
    let server = start_on(move |store| {
        *kept.lock().unwrap() = Some(store.clone());
        store
    })
    .await;
    let store = store.lock().unwrap().take().unwrap();
    let mut watch = server.watch(SECRETS).await;
    let made = server.post(SECRETS, &secret("db")).await.ok(201);
    assert_eq!((&made["data"], &made["type"], made.get("stringData")), (&json!({ "password": BASE64 }), &json!("Opaque"), None));
    server.patch(&format!("{SECRETS}/db"), MERGE, &json!({ "stringData": { "user": "root" } })).await.ok(200);
    let both = json!({ "password": BASE64, "user": "cm9vdA==" });
    assert_eq!(server.get(&format!("{SECRETS}/db")).await.ok(200)["data"], both);
    assert_eq!(server.get(SECRETS).await.ok(200)["items"][0]["data"], both);
    assert_eq!(watch.next().await.unwrap().object["data"], json!({ "password": BASE64 }));
    assert_eq!(watch.next().await.unwrap().object["data"], both);
    let applied = json!({ "apiVersion": "v1", "kind": "Secret", "data": { "password": BASE64 } });
    server.patch(&format!("{SECRETS}/applied?fieldManager=t"), APPLY, &applied).await.ok(201);
    let backup = server.get("/backup").await.body;
    for bytes in [stored(&*store).await, backup.to_vec()] {
        assert!(has(&bytes, "/registry/core/secrets/default/db"));
        assert!(!has(&bytes, PLAIN) && !has(&bytes, BASE64) && !has(&bytes, &BASE64[..20]) && !has(&bytes, "cm9vdA"));
    }
    server.delete(&format!("{SECRETS}/db"), Value::Null).await.ok(200);
    assert_eq!(watch.take(2).await, ["ADDED applied", "DELETED db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_secret_is_refused_without_repeating_it_and_what_is_immutable_stays() {
    let server = start().await;
    let with = |field: &str, value: Value| {
        let mut secret = secret("s");
        secret[field] = value;
        secret
    };
    for wrong in [
        with("data", json!({ "a": PLAIN })),
        with("data", json!({ "a/b": BASE64 })),
        with("stringData", json!({ "a": { "b": PLAIN } })),
        with("type", json!("kubernetes.io/tls")),
        with("data", json!({ "a": "A".repeat(2 << 20) })),
    ] {
        let status = server.post(SECRETS, &wrong).await.refused(422, "Invalid");
        assert!(!status.to_string().contains(PLAIN), "{status}");
    }
    server.post(SECRETS, &with("immutable", json!(true))).await.ok(201);
    let path = format!("{SECRETS}/s");
    for change in [
        json!({ "data": { "password": "" } }),
        json!({ "stringData": { "more": "x" } }),
        json!({ "immutable": false }),
        json!({ "type": "x" }),
    ] {
        server.patch(&path, MERGE, &change).await.refused(422, "Invalid");
    }
    server.patch(&path, MERGE, &json!({ "metadata": { "labels": { "a": "b" } } })).await.ok(200);
    // Who may see other things may not see these.
    server.seen_by("alice", &[]).await.get(&path).await.refused(403, "Forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_at_the_start_and_a_store_is_not_served_with_keys_that_are_not_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path(), Default::default()).unwrap();
    let (old, new) = (Keys::generate("old").unwrap(), Keys::generate("new").unwrap());
    let serve = async |keys: &str| {
        let shutdown = tokio_util::sync::CancellationToken::new();
        let options = Options { keys: Some(Keys::parse(keys).unwrap()), shutdown: shutdown.clone(), ..Options::default() };
        let server = ApiServer::start(store.clone(), Registry::builtin(), options).await;
        server.map(|server| (common::serve_to_admin(server), shutdown))
    };
    let (server, shutdown) = serve(&old).await.unwrap();
    let server = server.await;
    server.post(SECRETS, &secret("db")).await.ok(201);
    shutdown.cancel();
    assert!(matches!(serve(&new).await, Err(StartError::Seal(_))));
    assert!(has(&stored(&*store).await, "sealed:old:"));

    let (server, shutdown) = serve(&(new.clone() + &old)).await.unwrap();
    assert_eq!(server.await.get(&format!("{SECRETS}/db")).await.ok(200)["data"]["password"], BASE64);
    assert!(!has(&stored(&*store).await, "sealed:old:"));
    shutdown.cancel();
    // The old key is of no use any more.
    let (server, _shutdown) = serve(&new).await.unwrap();
    assert_eq!(server.await.get(&format!("{SECRETS}/db")).await.ok(200)["data"]["password"], BASE64);
    assert!(matches!(serve(&old).await, Err(StartError::Seal(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_makes_and_shows_secrets() {
    let server = start().await;
    server.kubectl_ok(&["create", "secret", "generic", "db", &format!("--from-literal=password={PLAIN}")], "").await;
    assert_eq!(server.kubectl_ok(&["get", "secret", "db", "-o", "jsonpath={.data.password}"], "").await, BASE64);
    assert!(server.kubectl_ok(&["get", "secrets"], "").await.contains("Opaque"));
    assert!(!server.kubectl_ok(&["describe", "secret", "db"], "").await.contains(PLAIN));
}
