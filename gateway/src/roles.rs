//! Who may do what with the kinds of Basalt: the roles that are there from the start, and what a host may do.

use crate::https;
use basalt_api::{GROUP, SYSTEM_NAMESPACE};
use basalt_apiserver::{Attributes, Authorizer, BuiltinRole, Identity, Look};
use serde_json::{Value, json};

/// A ClusterRole with this label is a part of [`viewer`](viewer_role): so do the roles of user-defined kinds get into it.
const INTO_VIEWER: (&str, &str) = ("rbac.basalt.dev/aggregate-to-viewer", "true");
const INTO_OPERATOR: (&str, &str) = ("rbac.basalt.dev/aggregate-to-operator", "true");

const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];

/// The roles `viewer`, `operator`, `auditor` and `admin`.
pub fn builtin() -> Vec<BuiltinRole> {
    // By name, so that a kind that holds secrets is not read by those who may read the others.
    let ours: Vec<String> = basalt_api::crds().into_iter().map(|crd| crd.spec.names.plural).collect();
    let rule = |groups: &[&str], resources: Value, verbs: &[&str]| json!({ "apiGroups": groups, "resources": resources, "verbs": verbs });
    let all_of_ours: Vec<String> = ours.iter().flat_map(|plural| [plural.clone(), format!("{plural}/status")]).collect();
    let common = json!(["namespaces", "events"]);
    let mut viewer = BuiltinRole::new(
        "viewer",
        json!([
            rule(&[GROUP], json!(all_of_ours), &READ),
            rule(&[GROUP], json!(["virtualmachines/log", "virtualmachines/placement", "tasks/log"]), &["get"]),
            rule(&[""], common, &READ),
            rule(&["coordination.k8s.io"], json!(["leases"]), &READ),
        ]),
    );
    viewer.aggregates = Some((INTO_VIEWER.0.to_owned(), INTO_VIEWER.1.to_owned()));
    // What viewers see operators see.
    viewer.labels = vec![(INTO_OPERATOR.0.to_owned(), INTO_OPERATOR.1.to_owned())];
    let mut operator =
        BuiltinRole::new("operator", json!([rule(&[GROUP], json!(ours), &WRITE), rule(&[""], json!(["events"]), &["create", "patch"])]));
    operator.aggregates = Some((INTO_OPERATOR.0.to_owned(), INTO_OPERATOR.1.to_owned()));
    let auditor = BuiltinRole::new(
        "auditor",
        json!([
            rule(&[GROUP], json!(all_of_ours), &READ),
            rule(&[""], json!(["namespaces", "events"]), &READ),
            rule(&["coordination.k8s.io"], json!(["leases"]), &READ),
            rule(&["rbac.authorization.k8s.io"], json!(["*"]), &READ),
            rule(&["authentication.basalt.dev"], json!(["accesstokens"]), &READ),
            rule(&["authorization.k8s.io"], json!(["subjectaccessreviews"]), &["create"]),
            json!({ "nonResourceURLs": ["/audit", "/metrics"], "verbs": ["get"] }),
        ]),
    );
    let admin = BuiltinRole::new("admin", json!([rule(&["*"], json!(["*"]), &["*"]), json!({ "nonResourceURLs": ["*"], "verbs": ["*"] })]));
    vec![viewer, operator, auditor, admin]
}

/// What a host may do, with the certificate that its agent has: read itself, its lease and the VMs that are placed on it, and
/// write their status.
///
/// Agents speak with the hub, which asks nothing of them but whose certificate it is; this is what the same certificate is good
/// for at the API. No role can say it, for which VMs are a host's changes with every placement.
pub struct OwnHost;

impl Authorizer for OwnHost {
    fn concerns(&self, identity: &Identity) -> bool {
        https::host(identity).is_some()
    }

    fn allows(&self, identity: &Identity, wanted: &Attributes<'_>, look: &Look<'_>) -> bool {
        let Some(host) = https::host(identity) else { return false };
        let reads = matches!((wanted.verb, wanted.subresource), ("get" | "list" | "watch", ""));
        let reports = matches!((wanted.verb, wanted.subresource), ("get" | "update" | "patch", "status"));
        match (wanted.group, wanted.plural) {
            (GROUP, "hosts") => wanted.name == host && (reads || reports),
            ("coordination.k8s.io", "leases") => {
                let renews = matches!((wanted.verb, wanted.subresource), ("update" | "patch", ""));
                wanted.namespace == Some(SYSTEM_NAMESPACE) && wanted.name == host && (reads || renews)
            }
            (GROUP, "virtualmachines") => {
                let placed = || {
                    let vm = look(GROUP, "virtualmachines", wanted.namespace, wanted.name);
                    vm.is_some_and(|vm| vm["status"]["host"] == host)
                };
                wanted.namespace.is_some() && (reads || reports) && placed()
            }
            _ => false,
        }
    }
}
