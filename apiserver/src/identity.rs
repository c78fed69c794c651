//! Who asks, for what, and whether they may.
//!
//! The gateway authenticates a connection or a token and puts an [`Identity`] into the request's extensions; a request
//! without one is nobody's. [`authorize`] is the only place that decides.

use crate::{
    Status,
    error::{Details, Reason},
};
use std::fmt;

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the user: the common name of a certificate, or what a token stands for.
    pub user: String,
    /// Groups that the user is in.
    pub groups: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: &'a str,
    /// API group; empty for the core group.
    pub group: &'a str,
    /// Plural name of the kind; empty for a path that is no resource.
    pub resource: &'a str,
    /// Subresource; empty for the object itself.
    pub subresource: &'a str,
    /// Namespace; empty for all of them and for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Name of the object; empty for collections.
    pub name: &'a str,
    /// The path, for what is no resource.
    pub path: &'a str,
}

impl fmt::Display for Attributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.resource.is_empty() {
            return write!(f, "cannot {} path {:?}", self.verb, self.path);
        }
        let slash = if self.subresource.is_empty() { "" } else { "/" };
        let resource = format!("{}{slash}{}", self.resource, self.subresource);
        write!(f, "cannot {} resource {resource:?} in API group {:?}", self.verb, self.group)?;
        if self.namespace.is_empty() { f.write_str(" at the cluster scope") } else { write!(f, " in the namespace {:?}", self.namespace) }
    }
}

/// Refuses what `identity` may not do.
pub fn authorize(identity: &Identity, attributes: &Attributes<'_>) -> Result<(), Status> {
    if identity.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let Attributes { group, resource, name, .. } = attributes;
    let dot = if group.is_empty() { "" } else { "." };
    let subject = match (resource.is_empty(), name.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!("{resource}{dot}{group} is "),
        (false, false) => format!("{resource}{dot}{group} {name:?} is "),
    };
    let message = format!("{subject}forbidden: User {:?} {attributes}", identity.user);
    let details = Details { name: (*name).into(), group: (*group).into(), kind: (*resource).into(), ..Details::default() };
    Err(Status::new(Reason::Forbidden, message).with_details(details))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(group: &str) -> Identity {
        Identity { user: "ada".into(), groups: vec![group.into()] }
    }

    #[test]
    fn masters_may_do_everything() {
        assert_eq!(authorize(&identity(MASTERS), &Attributes { verb: "delete", resource: "hosts", ..Attributes::default() }), Ok(()));
    }

    #[test]
    fn a_refusal_names_the_user_the_verb_and_the_place() {
        let attributes = Attributes {
            verb: "get",
            group: "basalt.dev",
            resource: "virtualmachines",
            subresource: "log",
            namespace: "shop",
            name: "web",
            ..Attributes::default()
        };
        let status = authorize(&identity("staff"), &attributes).unwrap_err();
        assert_eq!(status.reason, Reason::Forbidden);
        assert_eq!(
            status.message,
            r#"virtualmachines.basalt.dev "web" is forbidden: User "ada" cannot get resource "virtualmachines/log" in API group "basalt.dev" in the namespace "shop""#
        );
    }
}
