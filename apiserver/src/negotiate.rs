//! In which form an answer is wanted: whole objects, a Table, or metadata alone.

use crate::error::{Reason, Status};
use axum::http::{HeaderMap, header};

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Objects as they are.
    Objects,
    /// A `meta.k8s.io/v1` Table.
    Table,
    /// `PartialObjectMetadata`.
    Metadata,
}

/// The first of the accepted forms that can be given.
pub fn form(headers: &HeaderMap) -> Result<Form, Status> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let found = accept.split(',').find_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        if !matches!(media, "application/json" | "*/*" | "application/*" | "") {
            return None;
        }
        let mut form = (None, None, None);
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name {
                "as" => form.0 = Some(value),
                "v" => form.1 = Some(value),
                "g" => form.2 = Some(value),
                _ => {}
            }
        }
        match form {
            (None, ..) => Some(Form::Objects),
            (Some("Table"), Some("v1"), Some("meta.k8s.io")) => Some(Form::Table),
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some("v1"), Some("meta.k8s.io")) => Some(Form::Metadata),
            _ => None,
        }
    });
    found.ok_or_else(|| {
        Status::new(Reason::NotAcceptable, "only the following media types are accepted: application/json, application/json;as=Table;v=v1;g=meta.k8s.io, application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
    })
}

/// The aggregated form of discovery is wanted.
pub fn wants_aggregated_discovery(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|range| range.contains("as=APIGroupDiscoveryList") && range.contains("v=v2") && !range.contains("v2beta1"))
}

/// Version 2 of OpenAPI is wanted in protobuf: the old name of the media type has an `@`.
pub fn wants_openapi_protobuf(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let first = accept.split(',').next().unwrap_or_default().trim();
    matches!(
        first,
        "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" | "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    )
}
