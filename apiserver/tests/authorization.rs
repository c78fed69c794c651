//! Who may do what, over the wire: roles and bindings as Kubernetes has them.

mod common;

use common::{
    Server,
    rbac::{BINDINGS, CLUSTER_BINDINGS, CLUSTER_ROLES, RBAC, ROLES, TOKENS, binding, give, role, rule, token},
    start,
    wire::{APPLY, HOSTS, MERGE, NAMESPACES, VMS, host, names, vm},
};
use http::Method;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_role_may_look_at_the_kinds_and_nothing_else() {
    let server = start().await;
    let alice = server.seen_by("alice", &["dev"]).await;
    for path in ["/api", "/apis", "/apis/basalt.dev/v1alpha1", "/openapi/v2", "/version"] {
        alice.get(path).await.ok(200);
    }
    let message = |status: Value| status["message"].as_str().unwrap().to_owned();
    let refused = message(alice.get(VMS).await.refused(403, "Forbidden"));
    let says = "virtualmachines.basalt.dev is forbidden: User \"alice\" cannot list resource \"virtualmachines\" in API group \"basalt.dev\" in the namespace \"default\"";
    assert_eq!(refused, says);
    let refused = message(alice.get(&format!("{HOSTS}/h1/status")).await.refused(403, "Forbidden"));
    let says = "hosts.basalt.dev \"h1\" is forbidden: User \"alice\" cannot get resource \"hosts/status\" in API group \"basalt.dev\" at the cluster scope";
    assert_eq!(refused, says);
    assert_eq!(message(alice.get("/metrics").await.refused(403, "Forbidden")), "forbidden: User \"alice\" cannot get path \"/metrics\"");
    for (method, path) in [
        (Method::POST, VMS.to_owned()),
        (Method::PUT, format!("{VMS}/web")),
        (Method::PATCH, format!("{VMS}/web")),
        (Method::DELETE, format!("{VMS}/web")),
        (Method::DELETE, VMS.to_owned()),
        (Method::GET, format!("{VMS}?watch=true")),
        (Method::GET, format!("{NAMESPACES}/default")),
    ] {
        alice.send(method, &path, &[], "").await.refused(403, "Forbidden");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_holds_when_its_binding_is_answered_and_ends_with_it() {
    let server = start().await;
    let alice = server.seen_by("alice", &[]).await;
    for _ in 0..20 {
        give(&server, "alice", json!([rule(&["list"], &["virtualmachines"])])).await;
        alice.get(VMS).await.ok(200);
        alice.get(HOSTS).await.refused(403, "Forbidden");
        server.delete(&format!("{CLUSTER_BINDINGS}/alice"), Value::Null).await.ok(200);
        alice.get(VMS).await.refused(403, "Forbidden");
        server.delete(&format!("{CLUSTER_ROLES}/alice"), Value::Null).await.ok(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_holds_in_its_namespace_for_its_names_and_subresources() {
    let server = start().await;
    server.post(NAMESPACES, &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "other" } })).await.ok(201);
    let mut named = rule(&["get", "list", "watch", "patch"], &["virtualmachines", "*/status"]);
    named["resourceNames"] = json!(["web"]);
    server.post(ROLES, &role("Role", "web", json!([named, rule(&["create"], &["virtualmachines"])]))).await.ok(201);
    server.post(BINDINGS, &binding("RoleBinding", "web", ("Role", "web"), "alice")).await.ok(201);
    server.post(VMS, &vm("web")).await.ok(201);
    let alice = server.seen_by("alice", &[]).await;
    alice.get(&format!("{VMS}/web")).await.ok(200);
    alice.get(&format!("{VMS}/web/status")).await.ok(200);
    alice.patch(&format!("{VMS}/web/status"), MERGE, &json!({ "status": {} })).await.ok(200);
    alice.get(&format!("{VMS}/db")).await.refused(403, "Forbidden");
    alice.get(VMS).await.refused(403, "Forbidden");
    // Who lists one by its name has a name.
    assert_eq!(names(&alice.get(&format!("{VMS}?fieldSelector=metadata.name%3Dweb")).await.ok(200)), ["web"]);
    alice.get(&format!("{VMS}?fieldSelector=metadata.name%3Ddb")).await.refused(403, "Forbidden");
    alice.get(&format!("{VMS}/web").replace("/default/", "/other/")).await.refused(403, "Forbidden");
    alice.post(VMS, &vm("db")).await.ok(201);
    // Apply that makes an object is a create, too.
    let bob = server.seen_by("bob", &[]).await;
    give(&server, "bob", json!([rule(&["patch"], &["virtualmachines"])])).await;
    let path = |name: &str| format!("{VMS}/{name}?fieldManager=t&force=true");
    bob.patch(&path("web"), APPLY, &vm("web")).await.ok(200);
    let status = bob.patch(&path("new"), APPLY, &vm("new")).await.refused(403, "Forbidden");
    assert!(status["message"].as_str().unwrap().contains("cannot create resource"), "{status}");
    server.get(&format!("{VMS}/new")).await.refused(404, "NotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_and_service_accounts_are_subjects() {
    let server = start().await;
    server.post(CLUSTER_ROLES, &role("ClusterRole", "look", json!([rule(&["get", "list"], &["*"])]))).await.ok(201);
    let mut both = binding("ClusterRoleBinding", "look", ("ClusterRole", "look"), "x");
    both["subjects"] = json!([{ "kind": "Group", "name": "dev" }, { "kind": "ServiceAccount", "name": "bot", "namespace": "default" }]);
    let made = server.post(CLUSTER_BINDINGS, &both).await.ok(201);
    assert_eq!(made["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    server.seen_by("alice", &["dev"]).await.get(HOSTS).await.ok(200);
    server.seen_by("system:serviceaccount:default:bot", &[]).await.get(HOSTS).await.ok(200);
    server.seen_by("system:serviceaccount:other:bot", &["ops"]).await.get(HOSTS).await.refused(403, "Forbidden");
    server.seen_by("dev", &[]).await.get(HOSTS).await.refused(403, "Forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_rights_that_they_lack() {
    let server = start().await;
    let rbac =
        |verbs: &[&str], resources: &[&str]| json!({ "apiGroups": ["rbac.authorization.k8s.io"], "resources": resources, "verbs": verbs });
    let kinds = ["roles", "clusterroles", "rolebindings", "clusterrolebindings"];
    let writes = rbac(&["create", "update", "patch", "get"], &kinds);
    give(&server, "alice", json!([writes, rule(&["get", "list"], &["virtualmachines"])])).await;
    let alice = server.seen_by("alice", &["dev"]).await;
    let told = |status: Value| status["message"].as_str().unwrap().to_owned();

    let own = role("Role", "own", json!([rule(&["list", "get"], &["virtualmachines"])]));
    alice.post(ROLES, &own).await.ok(201);
    let more = role("Role", "more", json!([rule(&["get", "delete"], &["virtualmachines", "hosts"])]));
    let refused = told(alice.post(ROLES, &more).await.refused(403, "Forbidden"));
    let says = "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"alice\" (groups=[\"dev\", \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"basalt.dev\"], Resources:[\"hosts\"], Verbs:[\"get\"]}\n{APIGroups:[\"basalt.dev\"], Resources:[\"virtualmachines\"], Verbs:[\"delete\"]}\n{APIGroups:[\"basalt.dev\"], Resources:[\"hosts\"], Verbs:[\"delete\"]}";
    assert_eq!(
        {
            let mut lines: Vec<_> = refused.lines().collect();
            lines[1..].sort_unstable();
            lines.join("\n")
        },
        {
            let mut lines: Vec<_> = says.lines().collect();
            lines[1..].sort_unstable();
            lines.join("\n")
        }
    );
    // By no other door either.
    alice.patch(&format!("{ROLES}/own"), MERGE, &more).await.refused(400, "BadRequest");
    let rules = json!({ "rules": more["rules"] });
    alice.patch(&format!("{ROLES}/own"), MERGE, &rules).await.refused(403, "Forbidden");
    alice.patch(&format!("{ROLES}/more?fieldManager=t"), APPLY, &more).await.refused(403, "Forbidden");
    alice.post(&format!("{ROLES}?dryRun=All"), &more).await.refused(403, "Forbidden");
    let mut sum = role("ClusterRole", "sum", json!([]));
    sum["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { "a": "b" } }] });
    alice.post(CLUSTER_ROLES, &sum).await.refused(403, "Forbidden");
    alice
        .post(CLUSTER_BINDINGS, &binding("ClusterRoleBinding", "up", ("ClusterRole", "cluster-admin"), "alice"))
        .await
        .refused(403, "Forbidden");
    alice.post(BINDINGS, &binding("RoleBinding", "up", ("ClusterRole", "cluster-admin"), "alice")).await.refused(403, "Forbidden");
    alice.post(BINDINGS, &binding("RoleBinding", "up", ("Role", "none"), "alice")).await.refused(404, "NotFound");
    // What she has she may give on, and a change that gives nothing is none of this.
    alice.post(BINDINGS, &binding("RoleBinding", "own", ("Role", "own"), "bob")).await.ok(201);
    server.post(ROLES, &more).await.ok(201);
    alice.patch(&format!("{ROLES}/more"), MERGE, &json!({ "metadata": { "annotations": { "a": "b" } } })).await.ok(200);
    // Who may escalate or bind may.
    give(&server, "carol", json!([writes, rbac(&["escalate"], &["roles"]), rbac(&["bind"], &["roles"])])).await;
    let carol = server.seen_by("carol", &[]).await;
    carol.post(ROLES, &role("Role", "all", json!([rule(&["*"], &["*"])]))).await.ok(201);
    carol.post(BINDINGS, &binding("RoleBinding", "all", ("Role", "all"), "carol")).await.ok(201);
    carol.post(VMS, &vm("web")).await.ok(201);
    carol.post(HOSTS, &host("h1")).await.refused(403, "Forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_and_bindings_that_make_no_sense_are_refused_by_field() {
    let server = start().await;
    let field = |status: Value| status["details"]["causes"][0]["field"].as_str().unwrap_or_default().to_owned();
    for (rules, wanted) in [
        (json!([{ "apiGroups": [""], "resources": ["pods"], "verbs": [] }]), "rules[0].verbs"),
        (json!([{ "apiGroups": [], "resources": ["pods"], "verbs": ["get"] }]), "rules[0].apiGroups"),
        (json!([{ "apiGroups": [""], "verbs": ["get"] }]), "rules[0].resources"),
        (json!([{ "nonResourceURLs": ["/x"], "verbs": ["get"] }]), "rules[0].nonResourceURLs"),
    ] {
        assert_eq!(field(server.post(ROLES, &role("Role", "r", rules)).await.refused(422, "Invalid")), wanted);
    }
    server.post(CLUSTER_ROLES, &role("ClusterRole", "system:odd-name.", json!([]))).await.ok(201);
    server.get(&format!("{CLUSTER_ROLES}/system:odd-name.")).await.ok(200);
    server.post(CLUSTER_ROLES, &role("ClusterRole", "a%2Fb", json!([]))).await.refused(422, "Invalid");
    let good = binding("RoleBinding", "b", ("ClusterRole", "system:odd-name."), "alice");
    let changed = |pointer: &str, value: Value| {
        let mut changed = good.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        changed
    };
    for (wrong, wanted) in [
        (changed("/roleRef/kind", json!("Rôle")), "roleRef.kind"),
        (changed("/roleRef/apiGroup", json!("x")), "roleRef.apiGroup"),
        (changed("/roleRef/name", json!("")), "roleRef.name"),
        (changed("/subjects/0/kind", json!("Robot")), "subjects[0].kind"),
        (changed("/subjects/0/name", json!("")), "subjects[0].name"),
        (changed("/subjects/0", json!({ "kind": "ServiceAccount", "name": "a" })), "subjects[0].namespace"),
        (changed("/subjects/0", json!({ "kind": "Group", "name": "a", "apiGroup": "x" })), "subjects[0].apiGroup"),
    ] {
        assert_eq!(field(server.post(BINDINGS, &wrong).await.refused(422, "Invalid")), wanted);
    }
    server.post(BINDINGS, &good).await.ok(201);
    let other = json!({ "roleRef": { "name": "cluster-admin" } });
    let status = server.patch(&format!("{BINDINGS}/b"), MERGE, &other).await.refused(422, "Invalid");
    assert!(status["message"].as_str().unwrap().contains("cannot change roleRef"), "{status}");
    let cluster = binding("ClusterRoleBinding", "b", ("Role", "r"), "alice");
    assert_eq!(field(server.post(CLUSTER_BINDINGS, &cluster).await.refused(422, "Invalid")), "roleRef.kind");
    assert_eq!(server.get(&format!("{RBAC}/rolebindings")).await.ok(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_that_are_there_from_the_start_can_be_used_with_kubectl() {
    let server = start().await;
    let listed = server.kubectl_ok(&["get", "clusterroles"], "").await;
    assert!(listed.contains("cluster-admin") && listed.contains("system:basic-user") && listed.contains("system:discovery"), "{listed}");
    let mut verbs = rule(&["get", "list", "create", "patch"], &["virtualmachines"]);
    server.kubectl_ok(&["apply", "-f", "-"], &role("ClusterRole", "vms", json!([verbs])).to_string()).await;
    server.kubectl_ok(&["apply", "-f", "-"], &binding("RoleBinding", "alice", ("ClusterRole", "vms"), "alice").to_string()).await;
    let wide = server.kubectl_ok(&["get", "rolebinding", "alice", "-o", "wide"], "").await;
    assert!(wide.contains("vms") && wide.contains("alice"), "{wide}");
    let alice = server.seen_by("alice", &[]).await;
    assert!(alice.kubectl_ok(&["apply", "-f", "-"], &common::vm("web", "1Gi")).await.contains("created"));
    let (success, text) = alice.kubectl(&["delete", "vm", "web"], "").await;
    let says = "Error from server (Forbidden): virtualmachines.basalt.dev \"web\" is forbidden: User \"alice\" cannot delete resource \"virtualmachines\" in API group \"basalt.dev\" in the namespace \"default\"";
    assert!(!success && text.contains(says), "{text}");
    verbs["verbs"].as_array_mut().unwrap().push("delete".into());
    server.kubectl_ok(&["apply", "-f", "-"], &role("ClusterRole", "vms", json!([verbs])).to_string()).await;
    alice.kubectl_ok(&["delete", "vm", "web"], "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reviews_say_who_asks_and_what_they_may() {
    let server = start().await;
    give(&server, "alice", json!([rule(&["get", "list"], &["virtualmachines"])])).await;
    let alice = server.seen_by("alice", &["dev"]).await;
    let who = alice.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.ok(201);
    assert_eq!(who["status"]["userInfo"], json!({ "username": "alice", "groups": ["dev", "system:authenticated"] }));
    let access = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = async |server: &Server, spec: Value| server.post(access, &json!({ "spec": spec, "status": { "allowed": true } })).await;
    let vms = |verb: &str| json!({ "resourceAttributes": { "verb": verb, "group": "basalt.dev", "resource": "virtualmachines", "namespace": "default" } });
    assert_eq!(review(&alice, vms("get")).await.ok(201)["status"]["allowed"], true);
    assert_eq!(review(&alice, vms("delete")).await.ok(201)["status"]["allowed"], false);
    assert_eq!(review(&server, vms("delete")).await.ok(201)["status"]["allowed"], true);
    let path = json!({ "nonResourceAttributes": { "verb": "get", "path": "/metrics" } });
    assert_eq!(review(&alice, path.clone()).await.ok(201)["status"]["allowed"], false);
    review(&alice, json!({})).await.refused(422, "Invalid");
    let mut both = vms("get");
    both["nonResourceAttributes"] = path["nonResourceAttributes"].clone();
    review(&alice, both).await.refused(422, "Invalid");
    // Of others only those may ask who are allowed to.
    let others = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let mut of_alice = vms("list");
    of_alice["user"] = "alice".into();
    alice.post(others, &json!({ "spec": of_alice })).await.refused(403, "Forbidden");
    assert_eq!(server.post(others, &json!({ "spec": of_alice })).await.ok(201)["status"]["allowed"], true);
    of_alice["user"] = "bob".into();
    assert_eq!(server.post(others, &json!({ "spec": of_alice })).await.ok(201)["status"]["allowed"], false);
    let rules =
        json!({ "spec": { "namespace": "default" }, "status": { "resourceRules": null, "nonResourceRules": null, "incomplete": false } });
    let rules = alice.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &rules).await.ok(201);
    assert!(rules["status"]["resourceRules"].as_array().unwrap().contains(&rule(&["get", "list"], &["virtualmachines"])), "{rules}");
    // They are answered and not kept.
    server.get(access).await.refused(405, "MethodNotAllowed");
    server.delete(&format!("{access}/x"), Value::Null).await.refused(405, "MethodNotAllowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_says_who_one_is_and_what_one_can_do() {
    let server = start().await;
    let alice = server.seen_by("alice", &["dev"]).await;
    // These send protobuf, as kubectl does for the kinds that it knows.
    server
        .kubectl_ok(
            &["create", "clusterrole", "vms", "--verb=get,list", "--resource=virtualmachines.basalt.dev", "--resource-name=web"],
            "",
        )
        .await;
    server.kubectl_ok(&["create", "rolebinding", "alice", "--clusterrole=vms", "--user=alice", "--group=none"], "").await;
    let made = server.get(&format!("{CLUSTER_ROLES}/vms")).await.ok(200);
    let rules =
        json!([{ "apiGroups": ["basalt.dev"], "resources": ["virtualmachines"], "resourceNames": ["web"], "verbs": ["get", "list"] }]);
    assert_eq!(made["rules"], rules);
    assert_eq!(alice.kubectl(&["auth", "can-i", "get", "virtualmachines.basalt.dev/web"], "").await, (true, "yes\n".to_owned()));
    let (success, text) = alice.kubectl(&["auth", "can-i", "delete", "vm"], "").await;
    assert!(!success && text.contains("no"), "{text}");
    let listed = alice.kubectl_ok(&["auth", "can-i", "--list"], "").await;
    let line = listed.lines().find(|line| line.contains("virtualmachines.basalt.dev")).unwrap();
    assert!(line.contains("[web]") && line.contains("[get list]"), "{listed}");
    assert!(listed.contains("selfsubjectaccessreviews.authorization.k8s.io") && listed.contains("/openapi/*"), "{listed}");
    let who = alice.kubectl(&["auth", "whoami", "-o", "json"], "").await;
    // kubectl knows this verb since 1.26.
    assert!(who.1.contains("\"alice\"") || who.1.contains("unknown"), "{}", who.1);
    let text = serde_json::to_string(&role("ClusterRole", "vms", json!([rule(&["delete"], &["virtualmachines"])]))).unwrap();
    server.kubectl_ok(&["auth", "reconcile", "-f", "-"], &text).await;
    assert_eq!(alice.kubectl(&["auth", "can-i", "delete", "vm"], "").await, (true, "yes\n".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_stands_for_its_user_until_it_expires_or_is_revoked() {
    let server = start().await;
    give(&server, "robot", json!([rule(&["list"], &["virtualmachines"])])).await;
    let door = server.seen_by_nobody().await;
    let ask = async |path: &str, authorization: &str| door.send(Method::GET, path, &[("authorization", authorization)], "").await;
    let (good, object) = token("ci", "robot", &["dev"], "2999-01-01T00:00:00Z");
    let (old, expired) = token("old", "robot", &[], "2020-01-01T00:00:00Z");
    let message = |status: Value| status["message"].as_str().unwrap().to_owned();
    let unknown = message(ask(VMS, &format!("Bearer {good}")).await.refused(401, "Unauthorized"));
    server.post(TOKENS, &object).await.ok(201);
    server.post(TOKENS, &expired).await.ok(201);
    ask(VMS, &format!("Bearer {good}")).await.ok(200);
    ask(VMS, &format!("bearer {good}")).await.ok(200);
    ask(HOSTS, &format!("Bearer {good}")).await.refused(403, "Forbidden");
    // Who has not the secret does not learn whether there is such a token, nor when it ended.
    let forged = |token: &str| format!("Bearer {}", token.replace("5e5e", "5e5f"));
    for wrong in [forged(&good), forged(&old), "Bearer ".into(), "Bearer x".into(), "Bearer basalt_ci_".into(), format!("Bearer {good}0")] {
        assert_eq!(message(ask(VMS, &wrong).await.refused(401, "Unauthorized")), unknown, "{wrong}");
    }
    assert!(message(ask(VMS, "Basic YTpi").await.refused(401, "Unauthorized")).contains("only bearer tokens"));
    assert!(message(ask(VMS, &format!("Bearer {old}")).await.refused(401, "Unauthorized")).contains("has expired"));
    door.get(VMS).await.refused(401, "Unauthorized");
    // Neither its user nor its end can be changed.
    let longer = json!({ "spec": { "expiresAt": "2999-01-01T00:00:00Z" } });
    server.patch(&format!("{TOKENS}/old"), MERGE, &longer).await.refused(422, "Invalid");
    assert!(!server.get(TOKENS).await.body.windows(16).any(|part| good.as_bytes().ends_with(part)), "the secret is nowhere");
    server.delete(&format!("{TOKENS}/ci"), Value::Null).await.ok(200);
    assert_eq!(message(ask(VMS, &format!("Bearer {good}")).await.refused(401, "Unauthorized")), unknown);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_a_token_of_somebody_else() {
    let server = start().await;
    let tokens =
        json!({ "apiGroups": ["authentication.basalt.dev"], "resources": ["accesstokens"], "verbs": ["create", "update", "patch"] });
    let impersonate = json!({ "apiGroups": [""], "resources": ["users"], "resourceNames": ["robot"], "verbs": ["impersonate"] });
    give(&server, "alice", json!([tokens, impersonate])).await;
    let alice = server.seen_by("alice", &["dev"]).await;
    for (user, groups, code) in [
        ("alice", &["dev"][..], 201),
        ("alice", &[], 201),
        ("robot", &[], 201),
        ("alice", &["system:masters"], 403),
        ("robot", &["dev"], 403),
        ("admin", &[], 403),
    ] {
        let name = format!("t{}-{user}-{code}", groups.len());
        let (_, object) = token(&name, user, groups, "2999-01-01T00:00:00Z");
        assert_eq!(alice.post(TOKENS, &object).await.code, code, "{user} {groups:?}");
        if code == 403 {
            let path = format!("{TOKENS}/{name}?fieldManager=t");
            alice.patch(&path, APPLY, &object).await.refused(403, "Forbidden");
        }
    }
}
