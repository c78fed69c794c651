//! The audit log: what is written down of requests, and how it is asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use basalt_apiserver::{
    Metrics, Options,
    audit::{Audit, Level, Log, Settings},
};
use common::{
    AS, Server, start, start_with,
    wire::{HOSTS, MERGE, PATIENCE, VMS, host, vm},
};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;

async fn audited(level: Level) -> Server {
    start_with(|dir| {
        let metrics = Metrics::default();
        let log = Arc::new(Log::open(Settings::new(dir.join("audit")), &metrics).unwrap());
        Options { audit: Some(Audit { log, level }), metrics, ..Options::default() }
    })
    .await
}

/// The lines that a query finds.
async fn lines(server: &Server, query: &str) -> Vec<Value> {
    let answer = server.get(&format!("/audit?{query}")).await;
    assert_eq!((answer.code, answer.headers["content-type"].to_str().unwrap()), (200, "application/x-ndjson"), "{answer:?}");
    String::from_utf8(answer.body.to_vec()).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Verb, name and code of each line.
fn brief(lines: &[Value]) -> Vec<String> {
    let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    lines.iter().map(|line| format!("{} {} {}", text(line, "verb"), text(line, "name"), line["code"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_write_is_a_line_and_reads_are_none() {
    let server = audited(Level::Writes).await;
    let made =
        server.send(Method::POST, VMS, &[("user-agent", "tester/1"), ("content-type", "application/json")], vm("a").to_string()).await;
    let id = made.headers["audit-id"].to_str().unwrap().to_owned();
    made.ok(201);
    server.post(VMS, &vm("a")).await.refused(409, "AlreadyExists");
    let mut anonymous = vm("");
    anonymous["metadata"] = json!({ "generateName": "made-" });
    let name = server.post(VMS, &anonymous).await.ok(201)["metadata"]["name"].as_str().unwrap().to_owned();
    server.patch(&format!("{VMS}/a?dryRun=All"), MERGE, &json!({ "spec": { "memory": "2Gi" } })).await.ok(200);
    server.patch(&format!("{VMS}/a/status"), MERGE, &json!({ "status": { "phase": "Running" } })).await.ok(200);
    server.get(&format!("{VMS}/a")).await.ok(200);
    server.get(VMS).await.ok(200);
    server.delete(&format!("{VMS}/a"), json!({ "dryRun": ["All"] })).await.ok(200);
    server.delete(VMS, Value::Null).await.ok(200);
    let lines = lines(&server, "").await;
    let made = format!("create {name} 201");
    let wanted = ["create a 201", "create a 409", &made, "patch a 200", "patch a 200", "delete a 200", "deletecollection  200"];
    assert_eq!(brief(&lines), wanted);

    let first = &lines[0];
    let fields = ["user", "group", "resource", "namespace", "userAgent", "id"].map(|field| first[field].as_str().unwrap());
    assert_eq!(fields, ["admin", "basalt.dev", "virtualmachines", "default", "tester/1", &id]);
    assert_eq!(first["groups"], json!(["system:masters"]));
    assert!(first["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok() && first["milliseconds"].as_f64().unwrap() > 0.0);
    assert_eq!((&first["dryRun"], &first["reason"]), (&Value::Null, &Value::Null));
    assert_eq!(lines[1]["reason"], "AlreadyExists");
    assert_eq!((&lines[3]["dryRun"], &lines[4]["subresource"], &lines[5]["dryRun"]), (&json!(true), &json!("status"), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_body_is_written_down() {
    let server = audited(Level::All).await;
    let mut secret = vm("a");
    secret["metadata"]["annotations"] = json!({ "password": "hunter2" });
    server.post(VMS, &secret).await.ok(201);
    secret["spec"]["memory"] = "hunter2".into();
    secret["metadata"]["name"] = "b".into();
    server.post(VMS, &secret).await.refused(422, "Invalid");
    server.patch(&format!("{VMS}/a"), MERGE, &json!({ "spec": { "hunter2": 1, "memory": "hunter2" } })).await;
    let answer = server.get("/audit").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.lines().count() >= 3 && !text.contains("hunter2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_lines_of_reads_too_and_show_what_was_tried() {
    let server = audited(Level::Writes).await;
    for (method, path) in [(Method::GET, VMS.to_owned()), (Method::GET, "/metrics".into()), (Method::DELETE, format!("{HOSTS}/h"))] {
        server.send(method, &path, &[(AS, "mallory")], "").await.refused(403, "Forbidden");
    }
    server.send(Method::GET, "/audit", &[(AS, "mallory")], "").await.refused(403, "Forbidden");
    let lines = lines(&server, "outcome=denied").await;
    assert_eq!(brief(&lines), ["list  403", "get  403", "delete h 403", "get  403"]);
    assert!(lines.iter().all(|line| line["user"] == "mallory" && line["reason"] == "Forbidden"), "{lines:?}");
    assert_eq!(
        (&lines[0]["resource"], &lines[1]["path"], &lines[3]["path"]),
        (&json!("virtualmachines"), &json!("/metrics"), &json!("/audit"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_requests_are_lines_when_that_is_asked_for() {
    let server = audited(Level::All).await;
    server.get(VMS).await.ok(200);
    server.get(&format!("{VMS}/nothing")).await.refused(404, "NotFound");
    server.get("/apis").await.ok(200);
    assert_eq!(brief(&lines(&server, "").await), ["list  200", "get nothing 404", "get  200"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_asked_by_user_verb_object_time_and_outcome() {
    let server = audited(Level::Writes).await;
    for name in ["a", "b", "c"] {
        server.post(HOSTS, &host(name)).await.ok(201);
    }
    server.post(VMS, &vm("a")).await.ok(201);
    let since = jiff::Timestamp::now();
    server.delete(&format!("{HOSTS}/a"), Value::Null).await.ok(200);
    server.send(Method::DELETE, &format!("{HOSTS}/b"), &[(AS, "eve")], "").await.refused(403, "Forbidden");
    server.delete(&format!("{HOSTS}/nothing"), Value::Null).await.refused(404, "NotFound");
    for (query, wanted) in [
        ("user=eve", &["delete b 403"][..]),
        ("verb=delete", &["delete a 200", "delete b 403", "delete nothing 404"]),
        ("resource=hosts&name=a", &["create a 201", "delete a 200"]),
        ("resource=virtualmachines&group=basalt.dev&namespace=default&name=a", &["create a 201"]),
        ("outcome=denied", &["delete b 403"]),
        ("outcome=failed", &["delete nothing 404"]),
        ("outcome=404", &["delete nothing 404"]),
        ("outcome=success&verb=delete", &["delete a 200"]),
        (&format!("since={since}"), &["delete a 200", "delete b 403", "delete nothing 404"]),
        ("limit=2", &["delete b 403", "delete nothing 404"]),
        ("limit=1&verb=create", &["create a 201"]),
    ] {
        assert_eq!(brief(&lines(&server, query).await), wanted, "{query}");
    }
    for wrong in ["since=yesterday", "outcome=fine", "limit=x", "usr=eve"] {
        let status = server.get(&format!("/audit?{wrong}")).await.refused(400, "BadRequest");
        let name = wrong.split('=').next().unwrap();
        assert!(status["message"].as_str().unwrap().contains(name), "{status}");
    }
    start().await.get("/audit").await.refused(404, "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hangs_up_before_the_answer_leaves_a_line_too() {
    let server = audited(Level::Writes).await;
    let mut connection = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let head = format!("PUT {HOSTS}/h HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{");
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    drop(connection);
    let told = async {
        loop {
            let lines = lines(&server, "verb=update").await;
            if let Some(line) = lines.first() {
                return line.clone();
            }
        }
    };
    let line = tokio::time::timeout(PATIENCE, told).await.expect("a line");
    assert!(line["name"] == "h" && (line["code"] == 499 || line["code"] == 400), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_collected_names_the_owner_that_is_gone() {
    let server = audited(Level::Writes).await;
    let owner = server.post(HOSTS, &host("owner")).await.ok(201);
    let mut owned = vm("owned");
    owned["metadata"]["ownerReferences"] =
        json!([{ "apiVersion": "basalt.dev/v1alpha1", "kind": "Host", "name": "owner", "uid": owner["metadata"]["uid"] }]);
    server.post(VMS, &owned).await.ok(201);
    let mut watch = server.watch(VMS).await;
    server.delete(&format!("{HOSTS}/owner"), Value::Null).await.ok(200);
    assert_eq!(watch.take(2).await, ["ADDED owned", "DELETED owned"]);
    let collected = async {
        loop {
            if let [line] = &lines(&server, "user=system:basalt:garbage-collector").await[..] {
                return line.clone();
            }
        }
    };
    let line = tokio::time::timeout(PATIENCE, collected).await.expect("a line");
    assert_eq!((&line["verb"], &line["resource"], &line["name"]), (&json!("delete"), &json!("virtualmachines"), &json!("owned")));
    let cause = &line["cause"];
    assert_eq!((&cause["resource"], &cause["name"], &cause["uid"]), (&json!("hosts"), &json!("owner"), &owner["metadata"]["uid"]));
    // What happened because of an object is found by it.
    assert_eq!(brief(&lines(&server, "resource=hosts&name=owner").await), ["create owner 201", "delete owner 200", "delete owned 200"]);
}
