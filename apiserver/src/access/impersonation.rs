//! Who asks may act as somebody else, by the headers that `kubectl --as` sends, if they have the right to `impersonate` each
//! user, group and so on that they name.

use crate::{
    error::{Reason, Status},
    identity::{ANONYMOUS, AUTHENTICATED, Attributes, Identity, UNAUTHENTICATED},
};
use axum::http::{HeaderMap, HeaderValue};

const VERB: &str = "impersonate";
const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
/// Followed by the name of something else that is known of the user.
const EXTRA: &str = "impersonate-extra-";
/// What a name, and each of its values, may be of, besides a user and groups.
const AUTHENTICATION: &str = "authentication.k8s.io";
const ACCOUNT: &str = "system:serviceaccount:";

/// Whom the headers name; none if they name nobody.
pub fn wanted(headers: &HeaderMap) -> Result<Option<Identity>, Status> {
    let mut other = Identity::new(single(headers, USER)?, all(headers, GROUP)?);
    other.uid = single(headers, UID)?;
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            let decoded = crate::request::percent_decoded(key).unwrap_or_else(|| key.to_owned());
            other.extra.entry(decoded.to_lowercase()).or_default().extend(all(headers, name.as_str())?);
        }
    }
    if !other.user.is_empty() {
        return Ok(Some(other));
    }
    if other == Identity::default() {
        return Ok(None);
    }
    let what = format!("a group, a uid or an extra was to be impersonated without a user: {USER} is missing");
    Err(Status::new(Reason::BadRequest, what))
}

/// What one must be allowed, to act as somebody who was named.
pub fn needs(other: &Identity) -> Vec<Attributes<'_>> {
    let mut needs = vec![of_user(&other.user)];
    needs.extend(other.groups.iter().map(|group| of_group(group)));
    if !other.uid.is_empty() {
        needs.push(Attributes { verb: VERB, group: AUTHENTICATION, plural: "uids", name: &other.uid, ..Attributes::default() });
    }
    for (key, values) in &other.extra {
        let extra = Attributes { verb: VERB, group: AUTHENTICATION, plural: "userextras", subresource: key, ..Attributes::default() };
        needs.extend(values.iter().map(|name| Attributes { name, ..extra }));
    }
    needs
}

/// What one must be allowed, to act as a user.
pub fn of_user(user: &str) -> Attributes<'_> {
    match account(user) {
        Some((namespace, name)) => {
            Attributes { verb: VERB, plural: "serviceaccounts", namespace: Some(namespace), name, ..Attributes::default() }
        }
        None => Attributes { verb: VERB, plural: "users", name: user, ..Attributes::default() },
    }
}

/// What one must be allowed, to act as a member of a group.
pub fn of_group(group: &str) -> Attributes<'_> {
    Attributes { verb: VERB, plural: "groups", name: group, ..Attributes::default() }
}

/// Somebody who was named, in the groups that they are in without being named in them.
pub fn taken_on(mut other: Identity) -> Identity {
    if let (Some((namespace, _)), true) = (account(&other.user), other.groups.is_empty()) {
        other.groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
    }
    if !other.is_in(AUTHENTICATED) && !other.is_in(UNAUTHENTICATED) {
        other.groups.push(if other.user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED }.to_owned());
    }
    other
}

/// Namespace and name of a service account.
fn account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(ACCOUNT)?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

fn text<'a>(name: &str, value: &'a HeaderValue) -> Result<&'a str, Status> {
    let text = std::str::from_utf8(value.as_bytes()).ok();
    text.ok_or_else(|| Status::new(Reason::BadRequest, format!("the header {name} is not valid: expected text in UTF-8")))
}

fn single(headers: &HeaderMap, name: &'static str) -> Result<String, Status> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map_or(Ok(""), |value| text(name, value))?;
    if values.next().is_some() {
        return Err(Status::new(Reason::BadRequest, format!("the header {name} was given more than once: expected one value")));
    }
    Ok(first.to_owned())
}

fn all(headers: &HeaderMap, name: &str) -> Result<Vec<String>, Status> {
    headers.get_all(name).iter().map(|value| text(name, value).map(str::to_owned)).collect()
}
