//! What a role or a binding must be like beyond its schema.

use super::{GROUP, token};
use crate::{
    error::{Cause, CauseReason},
    metadata,
    registry::ResourceDef,
};
use serde_json::Value;

/// Puts in what Kubernetes puts in: the groups that subjects are of.
pub fn complete(def: &ResourceDef, object: &mut Value) {
    if def.group != GROUP {
        return;
    }
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if subject["apiGroup"].as_str().unwrap_or_default().is_empty()
            && matches!(subject["kind"].as_str(), Some("User" | "Group"))
            && let Some(fields) = subject.as_object_mut()
        {
            fields.insert("apiGroup".into(), GROUP.into());
        }
    }
}

/// Everything that is wrong with an object whose schema holds.
pub fn validate(def: &ResourceDef, live: Option<&Value>, object: &Value) -> Vec<Cause> {
    if token::is_token(def) {
        return token::validate(live, object);
    }
    if def.group != GROUP {
        return Vec::new();
    }
    let mut causes = Vec::new();
    if def.plural.ends_with("bindings") {
        binding(live, object, &mut causes);
    } else {
        for (index, rule) in object["rules"].as_array().into_iter().flatten().enumerate() {
            policy(rule, &format!("rules[{index}]"), def.namespaced, &mut causes);
        }
    }
    causes
}

fn policy(rule: &Value, field: &str, namespaced: bool, causes: &mut Vec<Cause>) {
    let given = |name: &str| rule[name].as_array().is_some_and(|list| !list.is_empty());
    let mut required = |name: &str, what: &str| {
        if !given(name) {
            causes.push(cause(CauseReason::FieldValueRequired, format!("{field}.{name}"), format!("Required value: {what}")));
        }
    };
    required("verbs", "verbs must contain at least one value");
    if !given("nonResourceURLs") {
        required("apiGroups", "resource rules must supply at least one api group");
        required("resources", "resource rules must supply at least one resource");
        return;
    }
    let place = format!("{field}.nonResourceURLs");
    if namespaced {
        let what = "Invalid value: namespaced rules cannot apply to non-resource URLs".into();
        causes.push(cause(CauseReason::FieldValueInvalid, place.clone(), what));
    }
    if ["apiGroups", "resources", "resourceNames"].into_iter().any(given) {
        let what = "Invalid value: rules cannot apply to both regular resources and non-resource URLs".into();
        causes.push(cause(CauseReason::FieldValueInvalid, place, what));
    }
}

fn binding(live: Option<&Value>, object: &Value, causes: &mut Vec<Cause>) {
    if object["roleRef"]["name"].as_str().is_none_or(str::is_empty) {
        causes.push(cause(CauseReason::FieldValueRequired, "roleRef.name".into(), "Required value".into()));
    }
    if live.is_some_and(|live| live["roleRef"] != object["roleRef"]) {
        let what = format!("Invalid value: {}: cannot change roleRef", object["roleRef"]);
        causes.push(cause(CauseReason::FieldValueInvalid, "roleRef".into(), what));
    }
    for (index, subject) in object["subjects"].as_array().into_iter().flatten().enumerate() {
        let field = |name: &str| format!("subjects[{index}].{name}");
        let text = |name: &str| subject[name].as_str().unwrap_or_default();
        if text("name").is_empty() {
            causes.push(cause(CauseReason::FieldValueRequired, field("name"), "Required value".into()));
        }
        let account = text("kind") == "ServiceAccount";
        let group = if account { "" } else { GROUP };
        if text("apiGroup") != group {
            let what = format!("Unsupported value: {:?}: supported values: {group:?}", text("apiGroup"));
            causes.push(cause(CauseReason::FieldValueNotSupported, field("apiGroup"), what));
        }
        if account && text("namespace").is_empty() {
            causes.push(cause(CauseReason::FieldValueRequired, field("namespace"), "Required value".into()));
        }
    }
}

fn cause(reason: CauseReason, field: String, message: String) -> Cause {
    Cause { reason, message, field }
}

/// Says what is wrong with the name of an object of a kind.
pub fn names(def: &ResourceDef) -> fn(&str) -> Option<String> {
    if def.group == GROUP { segment } else { metadata::subdomain }
}

/// What is wrong with a name that need only be a segment of a path, as those of roles: `system:basic-user`.
fn segment(name: &str) -> Option<String> {
    match name {
        "." | ".." => Some(format!("may not be '{name}'")),
        _ if name.len() > 253 => Some("must be no more than 253 bytes".into()),
        _ if name.contains(['/', '%']) || name.chars().any(char::is_control) => {
            Some("may not contain '/', '%' or control characters".into())
        }
        _ => None,
    }
}
