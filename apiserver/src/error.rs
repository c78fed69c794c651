//! Errors as Kubernetes clients know them: a `Status` object with a machine-readable reason and causes.

use axum::{
    body::Body,
    http::{Response, StatusCode, header},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};

/// `reason` of a failed [`Status`], with its HTTP code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The request cannot be understood (400).
    BadRequest,
    /// Nobody is known to ask (401).
    Unauthorized,
    /// The asker may not (403).
    Forbidden,
    /// No such object or path (404).
    NotFound,
    /// The path knows no such verb (405).
    MethodNotAllowed,
    /// None of the accepted media types can be answered (406).
    NotAcceptable,
    /// The object exists (409).
    AlreadyExists,
    /// The object is not as the request expects (409).
    Conflict,
    /// The resource version is too old (410).
    Expired,
    /// The body is too large (413).
    RequestEntityTooLarge,
    /// The body has a media type that is not understood (415).
    UnsupportedMediaType,
    /// The object breaks its schema (422).
    Invalid,
    /// Too many requests (429).
    TooManyRequests,
    /// A fault of ours (500).
    InternalError,
    /// Not now (503).
    ServiceUnavailable,
    /// Took too long (504).
    Timeout,
}

impl Reason {
    /// The HTTP code that goes with the reason.
    pub fn code(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::AlreadyExists | Self::Conflict => StatusCode::CONFLICT,
            Self::Expired => StatusCode::GONE,
            Self::RequestEntityTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            Self::ServiceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// `reason` of a [`Cause`]: the words that Kubernetes uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CauseReason {
    /// A required value is missing.
    FieldValueRequired,
    /// A value breaks a constraint.
    FieldValueInvalid,
    /// A value is not among the accepted ones.
    FieldValueNotSupported,
    /// A value names something that is not there.
    FieldValueNotFound,
    /// A value must be unique and is not.
    FieldValueDuplicate,
    /// A value has the wrong type.
    FieldValueTypeInvalid,
    /// A value is too long.
    FieldValueTooLong,
    /// A list or map has too many items.
    FieldValueTooMany,
    /// A value may not be given here.
    FieldValueForbidden,
    /// Another manager owns the field.
    FieldManagerConflict,
    /// The namespace of the object is being deleted.
    NamespaceTerminating,
    /// The resource version asked for has not been reached yet.
    ResourceVersionTooLarge,
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// What kind of wrong.
    pub reason: CauseReason,
    /// What is wrong with which value, and what would be accepted.
    pub message: String,
    /// Path of the field, such as `spec.disks[1].name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The object that a [`Status`] is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Name of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Group of the resource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Plural name of the resource, or the kind for invalid objects.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Uid of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// What is wrong, field by field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// A failed request, as the wire shows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Status {
    /// Machine-readable reason.
    pub reason: Reason,
    /// What an operator reads.
    pub message: String,
    /// The object and the causes.
    pub details: Option<Box<Details>>,
    /// With what a list that cannot go on consistently can go on all the same.
    pub continue_token: Option<Box<str>>,
}

impl Status {
    /// A failure without an object.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), details: None, continue_token: None }
    }

    /// The same with an object and causes.
    #[must_use]
    pub fn with_details(mut self, details: Details) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// `<resource>.<group> "<name>" not found`.
    pub fn not_found(group: &str, plural: &str, name: &str) -> Self {
        Self::about(Reason::NotFound, group, plural, name, "not found")
    }

    /// `<resource>.<group> "<name>" already exists`.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> Self {
        Self::about(Reason::AlreadyExists, group, plural, name, "already exists")
    }

    /// `<resource>.<group> "<name>" <what>`.
    pub fn about(reason: Reason, group: &str, plural: &str, name: &str, what: impl AsRef<str>) -> Self {
        let what = what.as_ref();
        let dot = if group.is_empty() { "" } else { "." };
        Self::new(reason, format!("{plural}{dot}{group} {name:?} {what}")).with_details(Details {
            name: name.into(),
            group: group.into(),
            kind: plural.into(),
            ..Details::default()
        })
    }

    /// An object that breaks its schema, with every cause: `<Kind>.<group> "<name>" is invalid: ...`, as Kubernetes prints it.
    pub fn invalid(group: &str, kind: &str, name: &str, causes: Vec<Cause>) -> Self {
        let dot = if group.is_empty() { "" } else { "." };
        let texts: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let list = if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) };
        Self::new(Reason::Invalid, format!("{kind}{dot}{group} {name:?} is invalid: {list}")).with_details(Details {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            causes,
            ..Details::default()
        })
    }

    /// The `Status` object as JSON.
    pub fn to_value(&self) -> serde_json::Value {
        let mut value = serde_json::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.reason.code().as_u16(),
        });
        if let Some(token) = &self.continue_token {
            value["metadata"]["continue"] = (**token).into();
        }
        if let Some(details) = &self.details {
            value["details"] = serde_json::json!(details);
        }
        value
    }
}

impl From<basalt_store::StoreError> for Status {
    fn from(error: basalt_store::StoreError) -> Self {
        use basalt_store::StoreError;
        let (reason, message) = match &error {
            // Names are checked before anything is written, so that it can only be the size.
            StoreError::Invalid { reason } => {
                return Self::new(Reason::RequestEntityTooLarge, format!("the object cannot be stored: {reason}"));
            }
            StoreError::Closed | StoreError::Refused { .. } => (Reason::ServiceUnavailable, error.to_string()),
            StoreError::Open { .. } | StoreError::Revision { .. } | StoreError::Engine { .. } => (Reason::InternalError, error.to_string()),
        };
        tracing::error!("{message}");
        Self::new(reason, message)
    }
}

impl IntoResponse for Status {
    fn into_response(self) -> axum::response::Response {
        let mut response = Response::new(Body::from(self.to_value().to_string()));
        *response.status_mut() = self.reason.code();
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.details.as_ref().and_then(|d| d.retry_after_seconds) {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}
