//! Bearer tokens: an AccessToken says whom a token stands for and until when, and holds the hash of its secret, never the secret.
//!
//! A token reads `basalt_<name of the AccessToken>_<256 random bits in hexadecimal>`. Whoever makes one keeps the secret and sends
//! only its hash, so that no log and no backup has it. To revoke a token is to delete its AccessToken.

use super::impersonation;
use crate::{
    error::{Cause, CauseReason, Reason, Status},
    handlers::{Api, Asked},
    identity::{Attributes, Identity, Wanted},
    registry::{Column, ResourceDef},
};
use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The group of the kind.
pub const GROUP: &str = "authentication.basalt.dev";
/// Its plural name.
pub const PLURAL: &str = "accesstokens";
/// What every token starts with.
const PREFIX: &str = "basalt_";
/// Hexadecimal digits of a secret.
const DIGITS: usize = 64;

/// A token that was good when it was looked at.
#[derive(Clone, Debug)]
pub struct Pass {
    name: String,
    hash: String,
    /// From when on it is good for nothing.
    pub expires: Timestamp,
}

/// Whether a kind is AccessToken.
pub fn is_token(def: &ResourceDef) -> bool {
    def.group == GROUP
}

/// The kind.
pub fn definition() -> ResourceDef {
    let schema = json!({
        "type": "object",
        "description": "An AccessToken lets whoever has its secret ask as somebody, until it expires or is deleted.",
        "required": ["spec"],
        "properties": { "spec": {
            "type": "object",
            "description": "Whom the token stands for. It cannot be changed.",
            "required": ["user", "tokenHash", "expiresAt"],
            "properties": {
                "user": { "type": "string", "minLength": 1, "maxLength": 253, "description": "Name of the user that it stands for." },
                "groups": {
                    "type": "array", "maxItems": 64, "items": { "type": "string", "minLength": 1 }, "x-kubernetes-list-type": "set",
                    "description": "Groups that the user is in.",
                },
                "tokenHash": {
                    "type": "string", "pattern": "^[0-9a-f]{64}$",
                    "description": "SHA-256, in hexadecimal, of the whole token: basalt_NAME_SECRET, where SECRET is 64 hexadecimal digits.",
                },
                "expiresAt": { "type": "string", "format": "date-time", "description": "From when on it is good for nothing." },
                "description": { "type": "string", "maxLength": 1024, "description": "What it is for." },
            },
        } },
    });
    ResourceDef {
        group: GROUP.into(),
        version: "v1".into(),
        kind: "AccessToken".into(),
        list_kind: "AccessTokenList".into(),
        plural: PLURAL.into(),
        singular: "accesstoken".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: false,
        has_status: false,
        columns: vec![
            Column::new("User", ".spec.user", "string", "Whom it stands for"),
            Column::new("Expires", ".spec.expiresAt", "string", "From when on it is good for nothing"),
            Column::new("Description", ".spec.description", "string", "What it is for"),
            Column::age(),
        ],
        schema: Arc::new(schema),
        selectable_fields: vec!["spec.user".into()],
        strategic_merge: false,
        scale: None,
    }
}

/// What is wrong with a token beyond its schema.
pub fn validate(live: Option<&Value>, object: &Value) -> Vec<Cause> {
    let cause = |field: &str, message: &str| Cause { reason: CauseReason::FieldValueInvalid, message: message.into(), field: field.into() };
    let mut causes = Vec::new();
    if object["metadata"]["name"].as_str().is_some_and(|name| name.is_empty()) {
        causes.push(cause("metadata.name", "Invalid value: the name is a part of the token, and cannot be made up by the server"));
    }
    if live.is_some_and(|live| live["spec"] != object["spec"]) {
        causes.push(cause("spec", "Invalid value: field is immutable: make another token and delete this one"));
    }
    if object["spec"]["expiresAt"].as_str().is_none_or(|time| time.parse::<Timestamp>().is_err()) {
        causes.push(cause("spec.expiresAt", "Invalid value: not a time such as 2030-01-31T12:00:00Z"));
    }
    causes
}

impl Api {
    /// Whom a request's bearer token stands for, if it has one.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Option<(Identity, Pass)>, Status> {
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
        let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(unknown)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Status::new(Reason::Unauthorized, "Unauthorized: only bearer tokens and client certificates are taken"));
        }
        self.token_holder(token.trim()).await.map(Some)
    }

    /// Whom a token stands for.
    pub async fn token_holder(&self, token: &str) -> Result<(Identity, Pass), Status> {
        let name = name_of(token).ok_or_else(unknown)?;
        let tokens = self.storage.cache.kind(GROUP, PLURAL).ok_or_else(unknown)?;
        let mut found = tokens.get(name);
        if found.is_none() && self.storage.catch_up().await.is_ok() {
            found = tokens.get(name);
        }
        let found = found.map(|found| found.value());
        let spec = found.as_ref().map(|found| &found["spec"]);
        let hash = spec.and_then(|spec| spec["tokenHash"].as_str()).unwrap_or_default();
        // That there is no such token takes as long as that there is one with another secret.
        if !same(&hex(&Sha256::digest(token)), hash) {
            return Err(unknown());
        }
        let Some(spec) = spec else { return Err(unknown()) };
        let expires: Option<Timestamp> = spec["expiresAt"].as_str().and_then(|time| time.parse().ok());
        let Some(expires) = expires.filter(|expires| *expires > Timestamp::now()) else {
            return Err(Status::new(Reason::Unauthorized, format!("Unauthorized: the bearer token {name:?} has expired")));
        };
        let groups = spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let identity = Identity::new(spec["user"].as_str().unwrap_or_default(), groups);
        Ok((identity, Pass { name: name.to_owned(), hash: hash.to_owned(), expires }))
    }

    /// Whether a token that was good still is, as far as the cache knows.
    pub fn is_good(&self, pass: &Pass) -> bool {
        let live = self.storage.cache.kind(GROUP, PLURAL).and_then(|tokens| tokens.get(&pass.name));
        live.is_some_and(|live| live.value()["spec"]["tokenHash"] == pass.hash) && pass.expires > Timestamp::now()
    }

    /// Refuses a token that stands for somebody whom its maker is not and may not impersonate.
    pub fn check_token(&self, asked: &Asked<'_>, new: &Value) -> Result<(), Status> {
        let identity = asked.identity;
        let may = |wanted: Attributes<'_>| self.access.allows(identity, &Wanted::Resource(wanted));
        let user = new["spec"]["user"].as_str().unwrap_or_default();
        let mut groups = new["spec"]["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let own = |group: &str| user == identity.user && identity.is_in(group);
        let lacking = if user != identity.user && !may(impersonation::of_user(user)) {
            Some(("user", user))
        } else {
            groups.find(|group| !own(group) && !may(impersonation::of_group(group))).map(|group| ("group", group))
        };
        let Some((what, name)) = lacking else { return Ok(()) };
        let def = &asked.target.def;
        let message =
            format!("is forbidden: User {:?} cannot impersonate the {what} {name:?}, whom the token would stand for", identity.user);
        Err(Status::about(Reason::Forbidden, &def.group, &def.plural, new["metadata"]["name"].as_str().unwrap_or_default(), message))
    }
}

fn unknown() -> Status {
    Status::new(Reason::Unauthorized, "Unauthorized: the bearer token is not known here; it may have been revoked")
}

/// The name in a token that is formed as one.
fn name_of(token: &str) -> Option<&str> {
    // Names have no underscores.
    let (name, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let digits = secret.len() == DIGITS && secret.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (digits && !name.is_empty() && !name.contains('/')).then_some(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The time that it takes says nothing about how much is the same. A hash that is missing is like none.
fn same(given: &str, stored: &str) -> bool {
    let stored = stored.bytes().chain(std::iter::repeat(0));
    let difference = given.bytes().zip(stored).fold(0, |difference, (given, stored)| difference | (given ^ stored));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_apart_only_if_it_is_formed_as_one() {
        let secret = "0f".repeat(32);
        assert_eq!(name_of(&format!("basalt_ci.deploy-1_{secret}")), Some("ci.deploy-1"));
        for wrong in
            ["", "basalt_", "basalt_ci", &format!("basalt__{secret}"), &format!("basalt_ci_{secret}0"), &format!("basalt_a/b_{secret}")]
        {
            assert_eq!(name_of(wrong), None, "{wrong}");
        }
        assert_eq!(name_of(&format!("basalt_ci_{}", secret.replace('f', "F"))), None);
    }

    #[test]
    fn hashes_are_the_same_only_if_all_of_them_is() {
        let hash = hex(&Sha256::digest("x"));
        assert!(same(&hash, &hash));
        assert!(!same(&hash, "") && !same(&hash, &hash[..63]) && !same(&hash, &hash.replace('2', "3")));
    }
}
