//! Who asks, and whether they may.

use crate::error::{Reason, Status};

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";

/// Who asks: found out by whoever accepted the connection, and put into the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the user.
    pub user: String,
    /// Groups that the user is in.
    pub groups: Vec<String>,
}

impl Identity {
    /// Somebody who has not said who they are.
    pub fn anonymous() -> Self {
        Self { user: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
    }
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'a str,
    /// Group of the kind.
    pub group: &'a str,
    /// Plural name of the kind.
    pub plural: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, if the request is in one.
    pub namespace: Option<&'a str>,
    /// Name of the object, if it has one.
    pub name: &'a str,
}

/// Refuses a path that is of no kind to those who may not read it: all but the members of [`MASTERS`].
pub fn authorize_path(identity: Option<&Identity>, path: &str) -> Result<(), Status> {
    let Some(identity) = identity else {
        return authorize(None, Attributes { verb: "get", group: "", plural: "", subresource: "", namespace: None, name: "" });
    };
    if identity.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    Err(Status::new(Reason::Forbidden, format!("forbidden: User {:?} cannot get path {path:?}", identity.user)))
}

/// Refuses what somebody may not do. Members of [`MASTERS`] may do everything, others nothing.
pub fn authorize(identity: Option<&Identity>, wanted: Attributes<'_>) -> Result<(), Status> {
    let Some(identity) = identity else {
        return Err(Status::new(Reason::Unauthorized, "Unauthorized: no client certificate of this control plane's CA was given"));
    };
    if identity.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let slash = if wanted.subresource.is_empty() { "" } else { "/" };
    let place = wanted.namespace.map_or_else(|| "at the cluster scope".to_owned(), |ns| format!("in the namespace {ns:?}"));
    let dot = if wanted.group.is_empty() { "" } else { "." };
    Err(Status::about(
        Reason::Forbidden,
        wanted.group,
        wanted.plural,
        wanted.name,
        format!(
            "is forbidden: User {:?} cannot {} resource \"{}{slash}{}{dot}{}\" {place}",
            identity.user, wanted.verb, wanted.plural, wanted.subresource, wanted.group
        ),
    ))
}
