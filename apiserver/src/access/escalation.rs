//! Nobody gives rights that they do not have: a role with such rights is neither written nor bound, unless the writer may
//! `escalate` roles, or `bind` that one.

use super::{GROUP, index::Index, rule::Rule, rule::everything, rule::missing, token};
use crate::{
    error::{Reason, Status},
    handlers::{Api, Asked},
    identity::{Attributes, Identity, MASTERS, Wanted},
};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use serde::Deserialize;
use serde_json::Value;

impl Api {
    /// Refuses a role or binding that would give more than its writer has. `new` is valid.
    pub fn check_grant(&self, asked: &Asked<'_>, live: Option<&Value>, new: &Value) -> Result<(), Status> {
        let (def, identity) = (&asked.target.def, asked.identity);
        if token::is_token(def) {
            // Whom it stands for does not change.
            return if live.is_none() { self.check_token(asked, new) } else { Ok(()) };
        }
        if def.group != GROUP || identity.is_in(MASTERS) || live.is_some_and(|live| same_grant(live, new)) {
            return Ok(());
        }
        let index = self.access.index();
        let may = |verb: &str, plural: &str, name: &str| {
            let namespace = asked.target.namespace.as_deref();
            self.access.allows(identity, &Wanted::Resource(Attributes { verb, group: GROUP, plural, subresource: "", namespace, name }))
        };
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        let given = if def.plural.ends_with("bindings") {
            let role = RoleRef::deserialize(&new["roleRef"]).map_err(|e| Status::new(Reason::BadRequest, format!("roleRef: {e}")))?;
            let roles = format!("{}s", role.kind.to_lowercase());
            if may("bind", &roles, &role.name) {
                return Ok(());
            }
            let rules = index.referenced(&role, asked.target.namespace.as_deref());
            rules.ok_or_else(|| Status::not_found(GROUP, &roles, &role.name))?.to_vec()
        } else {
            if may("escalate", &def.plural, name) {
                return Ok(());
            }
            if new.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
                // It will have whatever others put into it.
                everything()
            } else {
                Vec::<PolicyRule>::deserialize(&new["rules"]).unwrap_or_default().into_iter().map(Rule::from).collect()
            }
        };
        let lacking = lacking(&index, identity, asked.target.namespace.as_deref(), &given);
        if lacking.is_empty() {
            return Ok(());
        }
        let rules: Vec<String> = lacking.iter().map(ToString::to_string).collect();
        let what = format!(
            "is forbidden: user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            identity.user,
            identity.groups,
            rules.join("\n")
        );
        Err(Status::about(Reason::Forbidden, GROUP, &def.plural, name, what))
    }
}

fn lacking(index: &Index, identity: &Identity, namespace: Option<&str>, given: &[Rule]) -> Vec<Rule> {
    missing(index.rules(&identity.user, &identity.groups, namespace), given)
}

/// Neither what is given, nor to whom, nor into which other roles it goes, differs.
fn same_grant(live: &Value, new: &Value) -> bool {
    ["rules", "aggregationRule", "roleRef", "subjects"].iter().all(|field| live.get(*field) == new.get(*field))
        && live["metadata"]["labels"] == new["metadata"]["labels"]
}
