//! Who asks, and for what.

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";

/// The group of everybody who is known.
pub const AUTHENTICATED: &str = "system:authenticated";

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

    /// The same, in the group of everybody who is known.
    pub(crate) fn known(mut self) -> Self {
        if !self.groups.iter().any(|group| group == AUTHENTICATED) {
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
