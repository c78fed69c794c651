//! Tokens: made and printed once, good until they are revoked.

use crate::cluster::{Cluster, VM};

#[test]
fn a_token_is_printed_once_works_in_a_kubeconfig_and_ends_when_it_is_revoked() {
    let cluster = Cluster::start();
    cluster.applied(VM);
    let made = cluster.run(&["token", "create", "ci", "--group", "viewers", "--expires-in", "2d", "--description", "builds"]);
    assert_eq!(made.code, 0, "{made}");
    assert!(made.err.contains("token ci for user ci until"), "{made}");
    let token = made.out.trim_end();
    assert!(token.starts_with("basalt_ci_") && !made.err.contains(token), "{made}");

    let holder = cluster.bearing(token);
    let refused = holder.run(&["get", "vm"]);
    assert!(refused.code != 0 && refused.err.contains("User \"ci\" cannot list resource"), "{refused}");
    let role = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: look}, rules: [{apiGroups: [basalt.dev], resources: [virtualmachines], verbs: [get, list]}]}";
    let binding = "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: look}, roleRef: {kind: ClusterRole, name: look}, subjects: [{kind: Group, name: viewers}]}";
    cluster.applied(role);
    cluster.applied(binding);
    let seen = holder.run(&["get", "vm"]);
    assert!(seen.code == 0 && seen.out.contains("web-1"), "{seen}");

    let listed = cluster.run(&["token", "list"]);
    assert!(["ci", "viewers", "in 47h", "builds"].iter().all(|text| listed.out.contains(text)), "{listed}");
    assert!(!listed.out.contains(token), "{listed}");
    // A second of the name would be another token.
    assert_ne!(cluster.run(&["token", "create", "ci"]).code, 0);
    assert_eq!(cluster.run(&["token", "revoke", "ci"]).code, 0);
    let gone = holder.run(&["get", "vm"]);
    assert!(gone.code != 0 && gone.err.contains("revoked"), "{gone}");
    assert_ne!(cluster.run(&["token", "revoke", "ci"]).code, 0);
    assert_eq!(cluster.run(&["token", "create", "ci", "--expires-in", "-1d"]).code, 2);
}
