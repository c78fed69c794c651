//! Who asks, and for what.

use std::collections::BTreeMap;

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";

/// Somebody who has not said who they are.
pub const ANONYMOUS: &str = "system:anonymous";

/// The group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";

/// The group of those who have not said who they are.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";

/// Who asks: found out by whoever accepted the connection, and put into the request's extensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Name of the user.
    pub user: String,
    /// Groups that the user is in.
    pub groups: Vec<String>,
    /// Tells the user from others who had the name before; empty if that is not known.
    pub uid: String,
    /// What else is known of the user. No rule asks for it.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Identity {
    /// A user in groups.
    pub fn new(user: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { user: user.into(), groups: groups.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Somebody who has not said who they are.
    pub fn anonymous() -> Self {
        Self::new(ANONYMOUS, [UNAUTHENTICATED])
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }

    /// The same, in the group of everybody who is known.
    pub(crate) fn known(mut self) -> Self {
        if !self.is_in(AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
        self
    }
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// Something with objects of a kind.
    Resource(Attributes<'a>),
    /// Something with a path that leads to no kind.
    Path {
        /// The method in lower case.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

/// What somebody wants to do with objects of a kind.
#[derive(Clone, Copy, Debug, Default)]
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
