//! Roles, bindings and tokens, as tests give them.

use super::Server;
use serde_json::{Value, json};

pub const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
pub const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
pub const CLUSTER_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
pub const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
pub const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";

pub fn rule(verbs: &[&str], resources: &[&str]) -> Value {
    json!({ "apiGroups": ["basalt.dev"], "resources": resources, "verbs": verbs })
}

pub fn role(kind: &str, name: &str, rules: Value) -> Value {
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": { "name": name }, "rules": rules })
}

pub fn binding(kind: &str, name: &str, role: (&str, &str), user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": kind,
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1 },
        "subjects": [{ "kind": "User", "name": user }],
    })
}

/// Gives a user rights everywhere.
pub async fn give(server: &Server, user: &str, rules: Value) {
    server.post(CLUSTER_ROLES, &role("ClusterRole", user, rules)).await.ok(201);
    server.post(CLUSTER_BINDINGS, &binding("ClusterRoleBinding", user, ("ClusterRole", user), user)).await.ok(201);
}

pub const TOKENS: &str = "/apis/authentication.basalt.dev/v1/accesstokens";

/// A token and the object that lets it in.
pub fn token(name: &str, user: &str, groups: &[&str], expires: &str) -> (String, Value) {
    use sha2::{Digest, Sha256};
    let text = format!("basalt_{name}_{}", "5e".repeat(32));
    let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    let spec = json!({ "user": user, "groups": groups, "tokenHash": hash, "expiresAt": expires });
    (text, json!({ "apiVersion": "authentication.basalt.dev/v1", "kind": "AccessToken", "metadata": { "name": name }, "spec": spec }))
}
