//! What a request is about: the path taken apart, the query, the body.

use crate::{
    error::{Reason, Status},
    identity::Attributes,
    namespace,
    object::Object,
    registry::{Registry, ResourceDef},
};
use axum::{
    body::Body,
    http::{HeaderMap, Uri, header},
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// The largest body that is read.
const MAX_BODY: usize = 3 << 20;
/// How much of a body that is too large is read away, so that its sender comes to read the answer.
const MAX_DISCARDED: usize = 64 << 20;
/// How long a body may take to come.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// A request for a kind.
#[derive(Clone, Debug)]
pub struct Target {
    /// The kind.
    pub def: Arc<ResourceDef>,
    /// The namespace of the path.
    pub namespace: Option<String>,
    /// The object of the path.
    pub name: Option<String>,
    /// The subresource of the path, or empty.
    pub subresource: String,
    /// The `apiVersion` that objects of the kind are stored with, if some may have another one than that of the path.
    pub stored_as: Option<String>,
}

impl Target {
    /// Takes a path below `/api` or `/apis` apart; `None` if it leads to no kind.
    pub fn parse(registry: &Registry, path: &str) -> Result<Option<Self>, Status> {
        let mut segments = Vec::new();
        for segment in path.trim_matches('/').split('/') {
            segments.push(percent_decode(segment)?);
        }
        let (group, version, rest) = match segments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["api", version, ..] => (String::new(), (*version).to_owned(), &segments[2..]),
            ["apis", group, version, ..] => ((*group).to_owned(), (*version).to_owned(), &segments[3..]),
            _ => return Ok(None),
        };
        let own = |plural: &str| registry.get(&group, &version, plural).cloned();
        // `namespaces/x/pods` is of pods; `namespaces/x/status` of the namespace.
        let (namespace, rest) = match rest {
            [namespaces, namespace, plural, ..] if namespaces == "namespaces" && own(plural).is_some_and(|def| def.namespaced) => {
                (Some(namespace.clone()), &rest[2..])
            }
            rest => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, String::new()),
            [plural, name] => (plural, Some(name.clone()), String::new()),
            [plural, name, subresource] => (plural, Some(name.clone()), subresource.clone()),
            _ => return Ok(None),
        };
        let Some(def) = own(plural) else { return Ok(None) };
        if def.namespaced && namespace.is_none() && name.is_some() {
            return Ok(None);
        }
        let stored_as = registry.stored_as(&def.group, &def.plural).map(str::to_owned);
        Ok(Some(Self { def, namespace, name, subresource, stored_as }))
    }

    /// An object as it is in the version of the path: without conversion, versions differ in nothing but their name.
    pub fn in_version(&self, object: &Arc<Object>) -> Arc<Object> {
        let wanted = self.def.api_version();
        if self.stored_as.is_none() || object.value()["apiVersion"] == wanted {
            return object.clone();
        }
        let mut value = (*object.value()).clone();
        value["apiVersion"] = wanted.into();
        Arc::new(Object::of(value, object.revision))
    }

    /// What a verb on it means to whoever decides whether it may be. A namespace is in itself, and who lists one object by its
    /// name means that one.
    pub fn attributes<'a>(&'a self, verb: &'a str, query: &'a Query) -> Attributes<'a> {
        let selected = || {
            let fields = query.text("fieldSelector").filter(|_| matches!(verb, "list" | "watch" | "deletecollection"))?;
            fields.split(',').find_map(|field| field.trim().strip_prefix("metadata.name=")).map(|name| name.trim_start_matches('='))
        };
        let name = self.name.as_deref().or_else(selected).unwrap_or_default();
        let own = self.name.as_deref().filter(|_| namespace::is_namespace(&self.def));
        let (group, plural) = (self.def.group.as_str(), self.def.plural.as_str());
        Attributes { verb, group, plural, subresource: &self.subresource, namespace: self.namespace.as_deref().or(own), name }
    }
}

fn percent_decode(segment: &str) -> Result<String, Status> {
    let wrong = || Status::new(Reason::BadRequest, format!("the path segment {segment:?} is not valid"));
    percent_decoded(segment).filter(|text| !text.contains('/') && text != ".." && text != ".").ok_or_else(wrong)
}

/// A text whose `%41` are letters again; none if it is not formed so.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        bytes.push(digit(rest.next()).zip(digit(rest.next())).map(|(high, low)| high << 4 | low)?);
    }
    String::from_utf8(bytes).ok()
}

/// The query of a request.
#[derive(Clone, Debug, Default)]
pub struct Query(pub HashMap<String, String>);

/// What becomes of fields that the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, with a warning.
    Warn,
    /// They are refused.
    Strict,
}

impl Query {
    /// Reads the query of an address.
    pub fn parse(uri: &Uri) -> Result<Self, Status> {
        let query = axum::extract::Query::<HashMap<String, String>>::try_from_uri(uri);
        query.map(|query| Self(query.0)).map_err(|e| Status::new(Reason::BadRequest, format!("the query is not usable: {e}")))
    }

    /// A parameter that is given and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A parameter that is `true` or `1`.
    pub fn flag(&self, name: &str) -> Result<bool, Status> {
        match self.text(name) {
            None | Some("false" | "0" | "False") => Ok(false),
            Some("true" | "1" | "True") => Ok(true),
            Some(other) => Err(self.wrong(name, other, "true or false")),
        }
    }

    /// A parameter that is a number.
    pub fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        let number = |text: &str| text.parse().map_err(|_| self.wrong(name, text, "a whole number"));
        self.text(name).map(number).transpose()
    }

    /// Nothing is to be written.
    pub fn dry_run(&self) -> Result<bool, Status> {
        match self.text("dryRun") {
            None => Ok(false),
            Some("All") => Ok(true),
            Some(other) => Err(self.wrong("dryRun", other, "All")),
        }
    }

    /// What becomes of unknown fields.
    pub fn field_validation(&self) -> Result<FieldValidation, Status> {
        match self.text("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => Err(self.wrong("fieldValidation", other, "Strict, Warn or Ignore")),
        }
    }

    fn wrong(&self, name: &str, value: &str, accepted: &str) -> Status {
        Status::new(Reason::BadRequest, format!("the query parameter {name}={value:?} is not valid: expected {accepted}"))
    }
}

/// Reads a body that is not too large.
pub async fn body(body: Body, headers: &HeaderMap) -> Result<Bytes, Status> {
    let too_large = || Status::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {MAX_BODY} bytes"));
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY) {
        let _ = tokio::time::timeout(BODY_DEADLINE, discard(body)).await;
        return Err(too_large());
    }
    let read = tokio::time::timeout(BODY_DEADLINE, Limited::new(body, MAX_BODY).collect()).await;
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Status::new(Reason::BadRequest, format!("the body could not be read: {error}"))),
        Err(_) => Err(Status::new(Reason::Timeout, format!("the body did not come within {} s", BODY_DEADLINE.as_secs()))),
    }
}

async fn discard(mut body: Body) {
    let mut read = 0;
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_DISCARDED {
            return;
        }
    }
}
