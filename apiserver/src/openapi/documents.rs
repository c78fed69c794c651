//! The documents as they are sent: each is made once for a set of kinds, when it is first asked for, and known by a hash of
//! its content, so that whoever has it already need not get it again.

use super::{base, protobuf, v2_document, v3_document};
use crate::{negotiate, registry::Registry};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header},
};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::OnceLock,
};

const JSON: &str = "application/json";

/// What `/openapi/v2` and all below `/openapi/v3` answer for one set of kinds.
#[derive(Default)]
pub struct Documents {
    v2: OnceLock<Document>,
    v2_in_protobuf: OnceLock<Document>,
    v3: OnceLock<Versions>,
}

/// A copy of a set of kinds is made to be changed.
impl Clone for Documents {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The document of each group and version, by its path, and the index of them.
struct Versions {
    index: Document,
    documents: BTreeMap<String, Document>,
}

struct Document {
    bytes: Bytes,
    media_type: &'static str,
    hash: String,
}

/// Answers a request for a document; `path` is what follows `/openapi/`. There may be none.
pub fn answer(registry: &Registry, path: &str, uri: &Uri, headers: &HeaderMap) -> Option<Response<Body>> {
    let documents = &registry.documents;
    if path == "v2" {
        let document = match negotiate::wants_openapi_protobuf(headers) {
            true => documents.v2_in_protobuf.get_or_init(|| Document::new(protobuf::encode(&v2_document(registry)), protobuf::MEDIA_TYPE)),
            false => documents.v2.get_or_init(|| Document::new(v2_document(registry).to_string(), JSON)),
        };
        return Some(document.answer(headers));
    }
    let versions = documents.v3.get_or_init(|| Versions::of(registry));
    if path == "v3" {
        return Some(versions.index.answer(headers));
    }
    let path = path.strip_prefix("v3/")?;
    let document = versions.documents.get(path)?;
    let wanted = uri.query().into_iter().flat_map(|query| query.split('&')).find_map(|parameter| parameter.strip_prefix("hash="));
    Some(match wanted {
        None => document.answer(headers),
        Some(hash) if hash == document.hash => {
            let mut response = document.answer(headers);
            // Under this address there is never anything else.
            let for_ever = HeaderValue::from_static("private, immutable, max-age=31536000");
            response.headers_mut().insert(header::CACHE_CONTROL, for_ever);
            response
        }
        Some(_) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            if let Ok(address) = HeaderValue::from_str(&document.address(path)) {
                response.headers_mut().insert(header::LOCATION, address);
            }
            response
        }
    })
}

impl Versions {
    fn of(registry: &Registry) -> Self {
        let versions: BTreeSet<(&str, &str)> = registry.iter().map(|def| (def.group.as_str(), def.version.as_str())).collect();
        let documents: BTreeMap<String, Document> = versions
            .into_iter()
            .map(|(group, version)| (base(group, version), Document::new(v3_document(registry, group, version).to_string(), JSON)))
            .collect();
        let entry = |(path, document): (&String, &Document)| (path.clone(), json!({ "serverRelativeURL": document.address(path) }));
        let paths: Map<_, _> = documents.iter().map(entry).collect();
        Self { index: Document::new(json!({ "paths": paths }).to_string(), JSON), documents }
    }
}

impl Document {
    fn new(bytes: impl Into<Bytes>, media_type: &'static str) -> Self {
        let bytes = bytes.into();
        let mut hash = String::new();
        for byte in Sha256::digest(&bytes).iter().take(16) {
            let _ = write!(hash, "{byte:02X}");
        }
        Self { bytes, media_type, hash }
    }

    /// Where it is, for as long as it does not change.
    fn address(&self, path: &str) -> String {
        format!("/openapi/v3/{path}?hash={}", self.hash)
    }

    fn answer(&self, headers: &HeaderMap) -> Response<Body> {
        let tag = format!("\"{}\"", self.hash);
        let known = has(headers, &tag);
        let mut response = Response::new(if known { Body::empty() } else { Body::from(self.bytes.clone()) });
        if known {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let fields = response.headers_mut();
        if !known {
            fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.media_type));
        }
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            fields.insert(header::ETAG, tag);
        }
        fields.insert(header::VARY, HeaderValue::from_static("accept"));
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        response
    }
}

/// Whether the client has what goes by this tag.
fn has(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    known.map(str::trim).any(|known| known == "*" || known.trim_start_matches("W/") == tag)
}
