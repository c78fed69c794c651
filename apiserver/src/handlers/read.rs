//! `get` and `list`.

use super::{Api, Asked, json, object};
use crate::{
    cache::Snapshot,
    error::{Cause, CauseReason, Details, Reason, Status},
    keys,
    negotiate::Form,
    object::Object,
    request::Query,
    selector::{FieldSelector, LabelSelector},
    storage::PATIENCE,
    table,
};
use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{ops::Bound, sync::Arc};

/// Which objects are wanted.
pub struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    /// Reads the selectors of a request.
    pub fn of(asked: &Asked<'_>) -> Result<Self, Status> {
        let mut fields = FieldSelector::parse(asked.query.text("fieldSelector").unwrap_or_default(), &asked.target.def)?;
        if let (Some(name), true) = (&asked.target.name, fields.is_empty()) {
            fields = FieldSelector::parse(&format!("metadata.name={name}"), &asked.target.def)?;
        }
        Ok(Self { labels: LabelSelector::parse(asked.query.text("labelSelector").unwrap_or_default())?, fields })
    }

    /// Whether an object is wanted.
    pub fn wants(&self, object: &Value) -> bool {
        (self.labels.is_empty() || self.labels.matches(object["metadata"]["labels"].as_object())) && self.fields.matches(object)
    }

    pub fn everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

/// Where the next page of a list begins, and in which snapshot: 0 is the newest.
#[derive(Serialize, Deserialize)]
struct Continue {
    rv: u64,
    after: String,
}

impl Continue {
    fn encode(rv: u64, after: &str) -> String {
        URL_SAFE_NO_PAD.encode(json!(Self { rv, after: after.to_owned() }).to_string())
    }
}

/// How much of each object a table carries.
pub fn include_object(query: &Query) -> table::IncludeObject {
    match query.text("includeObject") {
        Some("Object") => table::IncludeObject::Object,
        Some("None") => table::IncludeObject::None,
        _ => table::IncludeObject::Metadata,
    }
}

impl Api {
    /// `get`.
    pub async fn get(&self, asked: &Asked<'_>, name: &str) -> Result<Response<Body>, Status> {
        let def = &asked.target.def;
        let place = keys::place(asked.target.namespace.as_deref(), name);
        let found = match asked.query.number("resourceVersion")? {
            // A reader that is content with any state does not wait for the newest.
            Some(0) => self.storage.kind(def)?.get(&place),
            Some(wanted) => {
                self.reach(wanted).await?;
                self.storage.kind(def)?.get(&place)
            }
            None => None,
        };
        let found = match found {
            Some(found) => Some(found),
            None => self.storage.get(def, &place).await?,
        };
        let found = found.ok_or_else(|| Status::not_found(&def.group, &def.plural, name))?;
        Ok(object(asked, StatusCode::OK, &found))
    }

    /// `list`.
    pub async fn list(&self, asked: &Asked<'_>) -> Result<Response<Body>, Status> {
        let def = &asked.target.def;
        let selection = Selection::of(asked)?;
        let limit = usize::try_from(asked.query.number("limit")?.unwrap_or(0)).unwrap_or(usize::MAX);
        let (snapshot, after) = match asked.query.text("continue") {
            Some(token) => self.next_page(asked, token).await?,
            None => (self.snapshot(asked).await?, None),
        };
        let range = asked.target.namespace.as_ref().map(|ns| (format!("{ns}/"), format!("{ns}0")));
        let start = match (&after, &range) {
            (Some(after), _) => Bound::Excluded(after.clone()),
            (None, Some((start, _))) => Bound::Included(start.clone()),
            (None, None) => Bound::Unbounded,
        };
        let end = range.map_or(Bound::Unbounded, |(_, end)| Bound::Excluded(end));
        let mut page: Vec<(&String, Arc<Object>)> = Vec::new();
        let mut more = false;
        for (place, object) in snapshot.objects.range::<String, _>((start, end)) {
            if !selection.everything() && !selection.wants(&object.value()) {
                continue;
            }
            if limit > 0 && page.len() == limit {
                more = true;
                break;
            }
            page.push((place, asked.target.in_version(object)));
        }
        let mut metadata = json!({ "resourceVersion": snapshot.revision.to_string() });
        if more && let Some((place, _)) = page.last() {
            metadata["continue"] = Continue::encode(snapshot.revision, place).into();
            self.storage.kind(def)?.keep_page(&snapshot);
        }
        // Only what is asked for in another form than it is stored in has to be read.
        let values = || page.iter().map(|(_, object)| object.value());
        Ok(json(
            StatusCode::OK,
            match asked.form {
                Form::Objects => {
                    let size = page.iter().map(|(_, object)| object.json.len() + 1).sum::<usize>();
                    let mut body = Vec::with_capacity(size + 256);
                    body.extend_from_slice(format!("{{\"apiVersion\":{:?},\"items\":[", def.api_version()).as_bytes());
                    for (index, (_, object)) in page.iter().enumerate() {
                        if index > 0 {
                            body.push(b',');
                        }
                        body.extend_from_slice(&object.json);
                    }
                    body.extend_from_slice(format!("],\"kind\":{:?},\"metadata\":{metadata}}}", def.list_kind).as_bytes());
                    Body::from(body)
                }
                Form::Metadata => {
                    let items: Vec<Value> = values().map(|value| table::partial(&value)).collect();
                    let list = json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items });
                    Body::from(list.to_string())
                }
                Form::Table => {
                    let options = table::Options { include_object: include_object(asked.query), no_headers: false };
                    Body::from(table::render(def, &values().collect::<Vec<_>>(), metadata, options, Timestamp::now()).to_string())
                }
            },
        ))
    }

    async fn snapshot(&self, asked: &Asked<'_>) -> Result<Snapshot, Status> {
        let kind = self.storage.kind(&asked.target.def)?;
        let wanted = asked.query.number("resourceVersion")?;
        let exact = match (asked.query.text("resourceVersionMatch"), wanted) {
            (None, _) | (Some("NotOlderThan"), Some(_)) => false,
            (Some("Exact"), Some(wanted)) if wanted > 0 => true,
            (Some("Exact" | "NotOlderThan"), _) => {
                return Err(wrong_match("Forbidden: it is of use only with a resourceVersion, and Exact only with one that is not 0"));
            }
            (Some(other), _) => {
                return Err(wrong_match(&format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\"")));
            }
        };
        match wanted {
            Some(0) => Ok(kind.snapshot(self.storage.cache.revision())),
            None => Ok(kind.snapshot(self.storage.catch_up().await?)),
            Some(wanted) => {
                let newest = self.reach(wanted).await?;
                let snapshot = kind.snapshot(newest);
                if exact && snapshot.revision != wanted {
                    return Err(expired(wanted, snapshot.revision));
                }
                Ok(snapshot)
            }
        }
    }

    /// Waits for a revision that the client has seen somewhere; refuses one that there is not.
    pub async fn reach(&self, wanted: u64) -> Result<u64, Status> {
        if self.storage.cache.reaches(wanted, std::time::Duration::ZERO).await {
            return Ok(self.storage.cache.revision());
        }
        let newest = self.storage.store.revision().await?;
        if wanted <= newest && self.storage.cache.reaches(wanted, PATIENCE).await {
            return Ok(self.storage.cache.revision());
        }
        let mut status = Status::new(Reason::Timeout, format!("Too large resource version: {wanted}, current: {newest}"));
        let cause =
            Cause { reason: CauseReason::ResourceVersionTooLarge, message: "Too large resource version".into(), field: String::new() };
        status.details = Some(Box::new(Details { causes: vec![cause], retry_after_seconds: Some(1), ..Details::default() }));
        Err(status)
    }

    async fn next_page(&self, asked: &Asked<'_>, token: &str) -> Result<(Snapshot, Option<String>), Status> {
        let shown: String = token.chars().take(80).collect();
        let wrong = || Status::new(Reason::BadRequest, format!("continue key is not valid: {shown:?} was not given out by this server"));
        let token: Continue = URL_SAFE_NO_PAD.decode(token).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(wrong)?;
        if asked.target.namespace.as_ref().is_some_and(|ns| !token.after.starts_with(&format!("{ns}/"))) {
            return Err(wrong());
        }
        let kind = self.storage.kind(&asked.target.def)?;
        if token.rv == 0 {
            return Ok((kind.snapshot(self.storage.catch_up().await?), Some(token.after)));
        }
        if let Some(snapshot) = kind.page(token.rv) {
            return Ok((snapshot, Some(token.after)));
        }
        let mut status = Status::new(
            Reason::Expired,
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        );
        status.continue_token = Some(Continue::encode(0, &token.after).into());
        Err(status)
    }
}

/// `resourceVersionMatch` is not as it can be.
fn wrong_match(what: &str) -> Status {
    let reason = if what.starts_with("Forbidden") { CauseReason::FieldValueForbidden } else { CauseReason::FieldValueNotSupported };
    let cause = Cause { reason, message: what.to_owned(), field: "resourceVersionMatch".into() };
    Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause])
}

/// The history or the state that was asked for is gone.
pub fn expired(asked: u64, oldest: u64) -> Status {
    Status::new(Reason::Expired, format!("too old resource version: {asked} ({oldest})"))
}
