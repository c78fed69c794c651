//! A watch ends with the right to it.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use common::{
    AS, Server,
    rbac::{CLUSTER_BINDINGS, CLUSTER_ROLES, TOKENS, binding, give, role, rule, token},
    start,
    wire::{MERGE, VMS, Watch, vm},
};
use serde_json::{Value, json};

fn watching() -> Value {
    json!([rule(&["list", "watch"], &["virtualmachines"])])
}

async fn watch_as(server: &Server, who: &str) -> Watch {
    server.watch_with(VMS, &[(AS, who)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_with_the_binding_that_allows_it_and_tells_nothing_of_later() {
    let server = start().await;
    give(&server, "alice", watching()).await;
    give(&server, "bob", watching()).await;
    server.post(VMS, &vm("a")).await.ok(201);
    for round in 0..10 {
        let (mut alice, mut bob, mut admin) = (watch_as(&server, "alice").await, watch_as(&server, "bob").await, server.watch(VMS).await);
        let there = 1 + round;
        for watch in [&mut alice, &mut bob, &mut admin] {
            watch.take(there).await;
        }
        server.delete(&format!("{CLUSTER_BINDINGS}/alice"), Value::Null).await.ok(200);
        let later = format!("later{round}");
        server.post(VMS, &vm(&later)).await.ok(201);
        assert_eq!(alice.next().await, None);
        // The others go on, undisturbed.
        for watch in [&mut bob, &mut admin] {
            assert_eq!(watch.take(1).await, [format!("ADDED {later}")]);
        }
        server.seen_by("alice", &[]).await.get(&format!("{VMS}?watch=true")).await.refused(403, "Forbidden");
        server.post(CLUSTER_BINDINGS, &binding("ClusterRoleBinding", "alice", ("ClusterRole", "alice"), "alice")).await.ok(201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_two_bindings_allow_ends_with_the_last_rule_of_the_second() {
    let server = start().await;
    give(&server, "alice", watching()).await;
    server.post(CLUSTER_ROLES, &role("ClusterRole", "team", watching())).await.ok(201);
    let mut team = binding("ClusterRoleBinding", "team", ("ClusterRole", "team"), "x");
    team["subjects"] = json!([{ "kind": "Group", "name": "team" }]);
    server.post(CLUSTER_BINDINGS, &team).await.ok(201);
    let mut watch = watch_as(&server, "alice/team").await;
    server.delete(&format!("{CLUSTER_BINDINGS}/alice"), Value::Null).await.ok(200);
    server.post(VMS, &vm("a")).await.ok(201);
    assert_eq!(watch.take(1).await, ["ADDED a"]);
    let only_list = json!({ "rules": [rule(&["list"], &["virtualmachines"])] });
    server.patch(&format!("{CLUSTER_ROLES}/team"), MERGE, &only_list).await.ok(200);
    assert_eq!(watch.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_the_rights_themselves_ends_without_telling_how() {
    let server = start().await;
    let rules = json!([{ "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["*"], "verbs": ["*"] }]);
    give(&server, "alice", rules).await;
    let mut watch = server.watch_with(&format!("{CLUSTER_BINDINGS}?fieldSelector=metadata.name%3Dalice"), &[(AS, "alice")]).await;
    assert_eq!(watch.take(1).await, ["ADDED alice"]);
    server.delete(&format!("{CLUSTER_BINDINGS}/alice"), Value::Null).await.ok(200);
    assert_eq!(watch.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_when_its_token_is_revoked_or_expires() {
    let server = start().await;
    give(&server, "robot", watching()).await;
    let door = server.seen_by_nobody().await;
    let (first, object) = token("first", "robot", &[], "2999-01-01T00:00:00Z");
    let (second, other) = token("second", "robot", &[], "2999-01-01T00:00:00Z");
    server.post(TOKENS, &object).await.ok(201);
    server.post(TOKENS, &other).await.ok(201);
    let bearer = |token: &str| format!("Bearer {token}");
    let mut watches = [
        door.watch_with(VMS, &[("authorization", &bearer(&first))]).await,
        door.watch_with(VMS, &[("authorization", &bearer(&second))]).await,
    ];
    server.delete(&format!("{TOKENS}/first"), Value::Null).await.ok(200);
    server.post(VMS, &vm("a")).await.ok(201);
    assert_eq!(watches[0].next().await, None);
    assert_eq!(watches[1].take(1).await, ["ADDED a"]);
    door.send(http::Method::GET, VMS, &[("authorization", &bearer(&first))], "").await.refused(401, "Unauthorized");

    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    // Of somebody who may do everything: it is the token that ends.
    let (third, object) = token("third", "robot", &["system:masters"], &soon.to_string());
    server.post(TOKENS, &object).await.ok(201);
    let mut watch = door.watch_with(VMS, &[("authorization", &bearer(&third))]).await;
    assert_eq!(watch.take(1).await, ["ADDED a"]);
    assert_eq!(watch.next().await, None);
    assert!(jiff::Timestamp::now() >= soon, "it goes on until then");
    server.post(VMS, &vm("b")).await.ok(201);
    assert_eq!(watches[1].take(1).await, ["ADDED b"]);
}
