//! The roles and bindings that are there from the start: what everybody who is known may do, and what the program that runs the
//! API server adds. One that is gone is made again, and rights that a newer version gives are added to what is there, unless its
//! annotation says that it is to be let be.

use super::{GROUP, rule::Rule, rule::missing};
use crate::{
    apply::{Manager, record_update},
    error::Status,
    handlers::Api,
    identity::{AUTHENTICATED, MASTERS},
    keys,
    storage::Outcome,
};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde::Deserialize;
use serde_json::{Value, json};

/// `"false"` keeps a role from being completed at the start.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// A ClusterRole that is there from the start.
#[derive(Clone, Debug)]
pub struct BuiltinRole {
    /// Its name.
    pub name: String,
    /// Labels besides the one that says that it is built in.
    pub labels: Vec<(String, String)>,
    /// Its rules, as in a ClusterRole.
    pub rules: Value,
    /// A label whose bearers' rules it has too.
    pub aggregates: Option<(String, String)>,
    /// Groups that it is bound to, everywhere.
    pub groups: Vec<String>,
}

impl BuiltinRole {
    /// A role that is bound to nobody.
    pub fn new(name: &str, rules: Value) -> Self {
        Self { name: name.to_owned(), labels: Vec::new(), rules, aggregates: None, groups: Vec::new() }
    }

    /// The same, bound to a group.
    #[must_use]
    pub fn of_group(mut self, group: &str) -> Self {
        self.groups.push(group.to_owned());
        self
    }

    fn role(&self) -> Value {
        let mut role =
            json!({ "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": metadata(&self.name), "rules": self.rules });
        for (name, value) in &self.labels {
            role["metadata"]["labels"][name] = value.as_str().into();
        }
        if let Some((name, value)) = &self.aggregates {
            role["aggregationRule"] = json!({ "clusterRoleSelectors": [{ "matchLabels": { name: value } }] });
        }
        role
    }

    fn binding(&self) -> Value {
        let subjects: Vec<_> = self.groups.iter().map(|group| json!({ "kind": "Group", "name": group, "apiGroup": GROUP })).collect();
        json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "ClusterRoleBinding",
            "metadata": metadata(&self.name),
            "roleRef": { "apiGroup": GROUP, "kind": "ClusterRole", "name": self.name },
            "subjects": subjects,
        })
    }
}

fn metadata(name: &str) -> Value {
    json!({ "name": name, "labels": { "kubernetes.io/bootstrapping": "rbac-defaults" }, "annotations": { AUTOUPDATE: "true" } })
}

/// What everybody who is known may do: look at what there is, and ask what they may do.
fn everybody() -> [BuiltinRole; 3] {
    let paths = ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz", "/version", "/version/"];
    let discovery = json!([{ "nonResourceURLs": paths, "verbs": ["get"] }]);
    let own = json!([
        { "apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], "verbs": ["create"] },
        { "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"] },
    ]);
    let all = json!([{ "apiGroups": ["*"], "resources": ["*"], "verbs": ["*"] }, { "nonResourceURLs": ["*"], "verbs": ["*"] }]);
    [
        BuiltinRole::new("system:discovery", discovery).of_group(AUTHENTICATED),
        BuiltinRole::new("system:basic-user", own).of_group(AUTHENTICATED),
        // By this name it is bound by what is written for Kubernetes.
        BuiltinRole::new("cluster-admin", all).of_group(MASTERS),
    ]
}

impl Api {
    /// Makes the roles and bindings that are to be there, and completes those that are.
    pub async fn ensure_roles(&self, further: &[BuiltinRole]) -> Result<(), Status> {
        for role in everybody().iter().chain(further) {
            self.ensure("clusterroles", role.role(), |live, new| {
                let rules = |value: &Value| -> Vec<Rule> {
                    Vec::<PolicyRule>::deserialize(&value["rules"]).unwrap_or_default().into_iter().map(Rule::from).collect()
                };
                let lacking = missing(rules(live).iter(), &rules(new));
                let has = live["rules"].as_array().cloned().unwrap_or_default();
                live["rules"] = has.into_iter().chain(lacking.iter().map(Rule::to_value)).collect();
            })
            .await?;
            if !role.groups.is_empty() {
                self.ensure("clusterrolebindings", role.binding(), |live, new| {
                    let mut has = live["subjects"].as_array().cloned().unwrap_or_default();
                    let wanted = new["subjects"].as_array().cloned().unwrap_or_default();
                    has.extend(wanted.into_iter().filter(|subject| !live["subjects"].as_array().is_some_and(|l| l.contains(subject))));
                    live["subjects"] = has.into();
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Makes an object if it is not there; otherwise puts into it what `complete` does.
    async fn ensure(&self, plural: &str, new: Value, complete: impl Fn(&mut Value, &Value)) -> Result<(), Status> {
        let Some(def) = self.registry().get(GROUP, "v1", plural).cloned() else { return Ok(()) };
        let place = keys::place(None, new["metadata"]["name"].as_str().unwrap_or_default());
        let manager = Manager { name: "basalt", subresource: "" };
        if self.storage.get(&def, &place).await?.is_none() {
            let mut made = new.clone();
            made["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
            made["metadata"]["creationTimestamp"] = self.now().to_string().into();
            made["metadata"]["generation"] = 1.into();
            record_update(None, &mut made, &def, manager, self.now());
            // Another gateway may have made it meanwhile.
            return self.storage.create(&def, &place, made).await.map(drop);
        }
        let changed = self.storage.change(&def, &place, false, |live| {
            if live["metadata"]["annotations"][AUTOUPDATE] == "false" {
                return Ok(Outcome::Keep);
            }
            let mut completed = live.clone();
            complete(&mut completed, &new);
            if completed == *live {
                return Ok(Outcome::Keep);
            }
            completed["metadata"]["generation"] = (live["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
            record_update(Some(live), &mut completed, &def, manager, self.now());
            Ok(Outcome::Put(completed))
        });
        changed.await.map(drop)
    }
}
