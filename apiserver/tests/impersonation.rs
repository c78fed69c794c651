//! Acting as somebody else.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what fails here fails the test")]

mod common;

use basalt_apiserver::{
    Metrics, Options,
    audit::{Audit, Level, Log, Settings},
};
use common::{
    AS, Server,
    rbac::{CLUSTER_BINDINGS, binding, give, rule},
    start, start_with,
    wire::{HOSTS, VMS, vm},
};
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;

const WHO: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

fn may(group: &str, resource: &str, names: &[&str]) -> Value {
    let mut rule = json!({ "apiGroups": [group], "resources": [resource], "verbs": ["impersonate"] });
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    rule
}

/// Who somebody is with some headers; the message, if they are refused.
async fn who(server: &Server, user: &str, headers: &[(&str, &str)]) -> Result<Value, String> {
    let mut all = vec![(AS, user), ("content-type", "application/json")];
    all.extend(headers);
    let answer = server.send(Method::POST, WHO, &all, "{}").await;
    match answer.code {
        201 => Ok(answer.ok(201)["status"]["userInfo"].take()),
        403 => Err(answer.refused(403, "Forbidden")["message"].as_str().unwrap().to_owned()),
        code => Err(format!("{code} {}", String::from_utf8_lossy(&answer.body))),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_of_another_identity_must_be_allowed() {
    let server = start().await;
    let rules = json!([
        may("", "users", &["bob"]),
        may("", "groups", &["dev", "ops"]),
        may("", "serviceaccounts", &["bot"]),
        may("authentication.k8s.io", "uids", &["17"]),
        may("authentication.k8s.io", "userextras/scopes", &["read"]),
    ]);
    give(&server, "alice", rules).await;
    let bob = who(&server, "alice", &[("impersonate-user", "bob")]).await;
    assert_eq!(bob.unwrap(), json!({ "username": "bob", "groups": ["system:authenticated"] }));
    let all = [
        ("impersonate-user", "bob"),
        ("impersonate-group", "ops"),
        ("impersonate-group", "dev"),
        ("impersonate-uid", "17"),
        ("Impersonate-Extra-Sc%6fpes", "read"),
    ];
    let wanted =
        json!({ "username": "bob", "groups": ["ops", "dev", "system:authenticated"], "uid": "17", "extra": { "scopes": ["read"] } });
    assert_eq!(who(&server, "alice", &all).await.unwrap(), wanted);
    let account = who(&server, "alice", &[("impersonate-user", "system:serviceaccount:team:bot")]).await.unwrap();
    assert_eq!(account["groups"], json!(["system:serviceaccounts", "system:serviceaccounts:team", "system:authenticated"]));

    let refused = who(&server, "alice", &[("impersonate-user", "carol")]).await.unwrap_err();
    let says = "users \"carol\" is forbidden: User \"alice\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope";
    assert_eq!(refused, says);
    for (name, value, what) in [
        ("impersonate-group", "system:masters", "groups \"system:masters\""),
        ("impersonate-uid", "18", "uids.authentication.k8s.io \"18\""),
        ("impersonate-extra-scopes", "write", "userextras.authentication.k8s.io \"write\""),
        ("impersonate-extra-other", "read", "userextras.authentication.k8s.io \"read\""),
    ] {
        let refused = who(&server, "alice", &[("impersonate-user", "bob"), (name, value)]).await.unwrap_err();
        assert!(refused.starts_with(what), "{refused}");
    }
    let refused = who(&server, "alice", &[("impersonate-user", "system:serviceaccount:team:other")]).await.unwrap_err();
    assert!(refused.contains("cannot impersonate resource \"serviceaccounts\" in API group \"\" in the namespace \"team\""), "{refused}");
    // Nobody has what the other is in but by its name, and headers that name nobody are a mistake.
    for headers in [&[("impersonate-group", "dev")][..], &[("impersonate-uid", "17")], &[("impersonate-extra-scopes", "read")]] {
        assert!(who(&server, "alice", headers).await.unwrap_err().starts_with("400 "));
    }
    let twice = [("impersonate-user", "bob"), ("impersonate-user", "carol")];
    assert!(who(&server, "alice", &twice).await.unwrap_err().starts_with("400 "));
    assert_eq!(who(&server, "alice", &[("impersonate-user", "")]).await.unwrap()["username"], "alice");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_acts_as_another_has_their_rights_and_not_ones_own() {
    let server = start().await;
    give(&server, "viewer", json!([rule(&["list"], &["virtualmachines"])])).await;
    let as_viewer = [("impersonate-user", "viewer")];
    server.send(Method::GET, VMS, &as_viewer, "").await.ok(200);
    server.send(Method::GET, HOSTS, &as_viewer, "").await.refused(403, "Forbidden");
    let post = [("impersonate-user", "viewer"), ("content-type", "application/json")];
    server.send(Method::POST, VMS, &post, vm("a").to_string()).await.refused(403, "Forbidden");
    server.send(Method::GET, "/metrics", &as_viewer, "").await.refused(403, "Forbidden");
    // By kubectl, for whom this is made.
    let listed = server.kubectl_ok(&["get", "vms", "--as", "viewer"], "").await;
    assert!(listed.contains("No resources found"), "{listed}");
    let (success, text) = server.kubectl(&["get", "hosts", "--as=viewer", "--as-group=dev"], "").await;
    assert!(!success && text.contains("User \"viewer\" cannot list resource \"hosts\""), "{text}");
    assert_eq!(server.kubectl(&["auth", "can-i", "list", "vms", "--as=viewer"], "").await, (true, "yes\n".to_owned()));
    let own = server.seen_by("viewer", &[]).await;
    let (success, text) = own.kubectl(&["get", "--raw", VMS, "--as=admin", "--as-group=system:masters"], "").await;
    assert!(!success && text.contains("cannot impersonate resource \"users\""), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_as_another_ends_with_the_right_to_act_as_them() {
    let server = start().await;
    give(&server, "viewer", json!([rule(&["list", "watch"], &["virtualmachines"])])).await;
    give(&server, "alice", json!([may("", "users", &["viewer"])])).await;
    server.post(VMS, &vm("a")).await.ok(201);
    for lost in ["alice", "viewer"] {
        let mut watch = server.watch_with(VMS, &[(AS, "alice"), ("impersonate-user", "viewer")]).await;
        assert_eq!(watch.take(1).await, ["ADDED a"]);
        server.delete(&format!("{CLUSTER_BINDINGS}/{lost}"), Value::Null).await.ok(200);
        assert_eq!(watch.next().await, None);
        server.post(CLUSTER_BINDINGS, &binding("ClusterRoleBinding", lost, ("ClusterRole", lost), lost)).await.ok(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_has_both() {
    let server = start_with(|dir| {
        let metrics = Metrics::default();
        let log = Arc::new(Log::open(Settings::new(dir.join("audit")), &metrics).unwrap());
        Options { audit: Some(Audit { log, level: Level::Writes }), metrics, ..Options::default() }
    })
    .await;
    let json = ("content-type", "application/json");
    let as_ops = [("impersonate-user", "bob"), ("impersonate-group", "system:masters"), json];
    server.send(Method::POST, VMS, &as_ops, vm("a").to_string()).await.ok(201);
    let as_admin = [(AS, "eve"), ("impersonate-user", "bob"), json];
    server.send(Method::POST, VMS, &as_admin, vm("b").to_string()).await.refused(403, "Forbidden");
    server.send(Method::POST, VMS, &[json], vm("c").to_string()).await.ok(201);
    for (query, users) in [("", &["admin", "eve", "admin"][..]), ("?user=bob", &["admin", "eve"]), ("?user=eve", &["eve"])] {
        let answer = server.get(&format!("/audit{query}")).await;
        let lines: Vec<Value> = answer.body.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let who: Vec<_> = lines.iter().map(|line| line["user"].as_str().unwrap()).collect();
        assert_eq!(who, users, "{lines:?}");
        if query.is_empty() {
            assert_eq!(lines[0]["impersonated"], json!({ "user": "bob", "groups": ["system:masters"] }));
            assert_eq!((&lines[1]["impersonated"]["user"], &lines[1]["code"]), (&json!("bob"), &json!(403)));
            assert_eq!(lines[2]["impersonated"], Value::Null);
        }
    }
}
