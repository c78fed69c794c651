//! What may I do, what may they do, and who am I: reviews, which are created, answered and never stored.

use crate::{
    builtin::schema_of,
    decode,
    error::{Cause, CauseReason, Reason, Status},
    handlers::{Api, Asked, checks::remove, json},
    identity::{Attributes, Identity, Wanted},
    registry::ResourceDef,
};
use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use k8s_openapi::api::{
    authentication::v1::SelfSubjectReview,
    authorization::v1::{SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview},
};
use serde_json::{Value, json};

const AUTHORIZATION: &str = "authorization.k8s.io";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// Whether a kind is of those that are answered and not stored.
pub fn is_review(def: &ResourceDef) -> bool {
    def.group == AUTHORIZATION || def.group == AUTHENTICATION
}

/// The kinds.
pub fn definitions() -> Vec<ResourceDef> {
    let def = ResourceDef::builtin;
    vec![
        def(AUTHORIZATION, "SelfSubjectAccessReview", schema_of::<SelfSubjectAccessReview>("Whether the asker may do something.")),
        def(AUTHORIZATION, "SelfSubjectRulesReview", schema_of::<SelfSubjectRulesReview>("What the asker may do in a namespace.")),
        def(AUTHORIZATION, "SubjectAccessReview", schema_of::<SubjectAccessReview>("Whether somebody may do something.")),
        def(AUTHENTICATION, "SelfSubjectReview", schema_of::<SelfSubjectReview>("Who the asker is.")),
    ]
}

impl Api {
    /// Answers a review.
    pub async fn review(&self, asked: &Asked<'_>, body: &[u8]) -> Result<Response<Body>, Status> {
        let def = &asked.target.def;
        let mut review = decode::object(body, asked.content_type())?;
        self.check_head(asked, &mut review)?;
        // Whatever was sent: it is ours to say.
        remove(&mut review, "status");
        self.complete(asked, &mut review)?;
        let causes = self.schema(def)?.validate(&review, None);
        if !causes.is_empty() {
            return Err(Status::invalid(&def.group, &def.kind, "", causes));
        }
        let status = match def.kind.as_str() {
            "SelfSubjectReview" => json!({ "userInfo": user_info(asked.identity) }),
            "SelfSubjectRulesReview" => self.rules_of(asked.identity, text(&review["spec"], "namespace"))?,
            kind => {
                let other = (kind == "SubjectAccessReview").then(|| subject(&review["spec"])).transpose()?;
                let wanted = wanted(&review["spec"]).ok_or_else(|| {
                    invalid(def, "spec", "Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified")
                })?;
                let allowed = self.allows(other.as_ref().unwrap_or(asked.identity), &wanted).await;
                json!({ "allowed": allowed })
            }
        };
        review["status"] = status;
        Ok(json(StatusCode::CREATED, review.to_string()))
    }

    fn rules_of(&self, identity: &Identity, namespace: &str) -> Result<Value, Status> {
        if namespace.is_empty() {
            return Err(Status::new(Reason::BadRequest, "no namespace on request"));
        }
        let index = self.access.index();
        let (mut resources, mut paths) = (Vec::new(), Vec::new());
        for rule in index.rules(&identity.user, &identity.groups, Some(namespace)) {
            let list = if rule.paths.is_empty() { &mut resources } else { &mut paths };
            let rule = rule.to_value();
            if !list.contains(&rule) {
                list.push(rule);
            }
        }
        Ok(json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": self.access.further_rights(identity) }))
    }
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_default()
}

/// Who somebody is, as in a review.
fn user_info(identity: &Identity) -> Value {
    let mut info = json!({ "username": identity.user, "groups": identity.groups });
    if !identity.uid.is_empty() {
        info["uid"] = identity.uid.as_str().into();
    }
    if !identity.extra.is_empty() {
        info["extra"] = json!(identity.extra);
    }
    info
}

fn wanted(spec: &Value) -> Option<Wanted<'_>> {
    let given = |field: &str| spec.get(field).filter(|value| value.is_object());
    match (given("resourceAttributes"), given("nonResourceAttributes")) {
        (Some(of), None) => Some(Wanted::Resource(Attributes {
            verb: text(of, "verb"),
            group: text(of, "group"),
            plural: text(of, "resource"),
            subresource: text(of, "subresource"),
            namespace: Some(text(of, "namespace")).filter(|namespace| !namespace.is_empty()),
            name: text(of, "name"),
        })),
        (None, Some(of)) => Some(Wanted::Path { verb: text(of, "verb"), path: text(of, "path") }),
        _ => None,
    }
}

fn subject(spec: &Value) -> Result<Identity, Status> {
    let user = text(spec, "user");
    let groups: Vec<&str> = spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if user.is_empty() && groups.is_empty() {
        let what = "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of user or group must be specified";
        return Err(Status::new(Reason::Invalid, what));
    }
    Ok(Identity::new(user, groups))
}

fn invalid(def: &ResourceDef, field: &str, message: &str) -> Status {
    let cause = Cause { reason: CauseReason::FieldValueInvalid, message: message.into(), field: field.into() };
    Status::invalid(&def.group, &def.kind, "", vec![cause])
}
