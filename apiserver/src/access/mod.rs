//! Who may do what: the rules of Kubernetes' RBAC, read from the watch cache.
//!
//! Members of `system:masters` may do everything; others what a rule of a role that is bound to them allows, and what an
//! [`Authorizer`] of the program that runs the API server adds. The roles and bindings are compiled when one of them has
//! changed and somebody asks, and not for each request.

pub mod bootstrap;
pub mod escalation;
pub mod impersonation;
mod index;
pub mod kinds;
pub mod review;
mod rule;
pub mod standing;
#[cfg(test)]
mod tests;
pub mod token;
pub mod validate;

use crate::{
    cache::{Cache, Kind},
    error::{Details, Reason, Status},
    handlers::Api,
    identity::{Attributes, Identity, MASTERS, Wanted},
    keys,
    registry::ResourceDef,
};
use index::{Index, Source};
use serde_json::Value;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tokio::sync::watch;

/// The group of the kinds that say who may do what.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// Whether objects of a kind decide who may do what.
pub fn decides(def: &ResourceDef) -> bool {
    def.group == GROUP || token::is_token(def)
}

/// Allows what no role says: what depends on more than who asks for what, such as on what an object says.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether it has a say in what somebody may do.
    fn concerns(&self, identity: &Identity) -> bool;

    /// Whether somebody may, which must not change but by what happens to the object in question. `look` gives an object by group, plural name, namespace and name.
    fn allows(&self, identity: &Identity, wanted: &Attributes<'_>, look: &Look<'_>) -> bool;
}

/// Gives an object as the cache has it, by group, plural name, namespace and name.
pub type Look<'a> = dyn Fn(&str, &str, Option<&str>, &str) -> Option<Arc<Value>> + 'a;

/// Decides who may do what.
pub struct Access {
    cache: Arc<Cache>,
    /// Roles, ClusterRoles, RoleBindings and ClusterRoleBindings.
    kinds: Option<[Arc<Kind>; 4]>,
    /// With how many events of each kind there were when it was compiled: it is good until there are more.
    compiled: RwLock<(Option<[u64; 4]>, Arc<Index>)>,
    compiling: Mutex<()>,
    /// Counts what may have taken somebody's right: the events of roles, bindings and tokens.
    changes: watch::Sender<u64>,
    further: Vec<Arc<dyn Authorizer>>,
}

impl Access {
    /// By the roles and bindings in a cache, and by others.
    pub fn new(cache: Arc<Cache>, further: Vec<Arc<dyn Authorizer>>) -> Self {
        let kind = |plural: &str| cache.kind(GROUP, plural);
        let kinds = match (kind("roles"), kind("clusterroles"), kind("rolebindings"), kind("clusterrolebindings")) {
            (Some(roles), Some(cluster_roles), Some(bindings), Some(cluster_bindings)) => {
                Some([roles, cluster_roles, bindings, cluster_bindings])
            }
            _ => None,
        };
        let changes = watch::Sender::new(0);
        for kind in kinds.iter().flatten().cloned().chain(cache.kind(token::GROUP, token::PLURAL)) {
            kind.count_in(changes.clone());
        }
        Self { cache, kinds, compiled: RwLock::default(), compiling: Mutex::default(), changes, further }
    }

    /// Whether somebody may, as far as the cache knows.
    pub fn allows(&self, identity: &Identity, wanted: &Wanted<'_>) -> bool {
        if identity.is_in(MASTERS) || self.index().allows(&identity.user, &identity.groups, wanted) {
            return true;
        }
        let Wanted::Resource(wanted) = wanted else { return false };
        let look = self.look();
        self.further.iter().any(|authorizer| authorizer.concerns(identity) && authorizer.allows(identity, wanted, &look))
    }

    /// Gives objects as the cache has them.
    pub fn look(&self) -> impl Fn(&str, &str, Option<&str>, &str) -> Option<Arc<Value>> {
        |group, plural, namespace, name| Some(self.cache.kind(group, plural)?.get(&keys::place(namespace, name))?.value())
    }

    /// Whether somebody may do more than their roles say.
    fn further_rights(&self, identity: &Identity) -> bool {
        self.further.iter().any(|authorizer| authorizer.concerns(identity))
    }

    /// The rules in force.
    fn index(&self) -> Arc<Index> {
        let Some(kinds) = &self.kinds else { return Arc::default() };
        let events = || kinds.each_ref().map(|kind| kind.events());
        let good = |now: [u64; 4]| {
            let compiled = self.compiled.read().unwrap_or_else(PoisonError::into_inner);
            (compiled.0 == Some(now)).then(|| compiled.1.clone())
        };
        if let Some(index) = good(events()) {
            return index;
        }
        let _alone = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted before the objects are read: what comes meanwhile is compiled again.
        let now = events();
        if let Some(index) = good(now) {
            return index;
        }
        let [roles, cluster_roles, bindings, cluster_bindings] = kinds.each_ref().map(|kind| kind.snapshot(0).objects);
        let index = Arc::new(Index::compile(&Source { roles, cluster_roles, bindings, cluster_bindings }));
        *self.compiled.write().unwrap_or_else(PoisonError::into_inner) = (Some(now), index.clone());
        index
    }
}

impl Api {
    /// Refuses what somebody may not do.
    pub async fn authorize(&self, identity: &Identity, wanted: &Wanted<'_>) -> Result<(), Status> {
        if self.allows(identity, wanted).await { Ok(()) } else { Err(forbidden(identity, wanted)) }
    }

    /// Whether somebody may, by the newest state if the cached one says no: who was given a right can use it at once.
    pub async fn allows(&self, identity: &Identity, wanted: &Wanted<'_>) -> bool {
        self.access.allows(identity, wanted) || (self.storage.catch_up().await.is_ok() && self.access.allows(identity, wanted))
    }
}

/// The refusal, in the words of Kubernetes.
pub fn forbidden(identity: &Identity, wanted: &Wanted<'_>) -> Status {
    let (message, details) = match wanted {
        Wanted::Path { .. } => (format!("forbidden: {}", Refused(identity, wanted)), Details::default()),
        Wanted::Resource(Attributes { group, plural, name, .. }) => {
            let dot = if group.is_empty() { "" } else { "." };
            let quoted = if name.is_empty() { String::new() } else { format!(" {name:?}") };
            let details = Details { name: (*name).into(), group: (*group).into(), kind: (*plural).into(), ..Details::default() };
            (format!("{plural}{dot}{group}{quoted} is forbidden: {}", Refused(identity, wanted)), details)
        }
    };
    Status::new(Reason::Forbidden, message).with_details(details)
}

/// Who cannot do what, in a line.
struct Refused<'a>(&'a Identity, &'a Wanted<'a>);

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = &self.0.user;
        match self.1 {
            Wanted::Path { verb, path } => write!(f, "User {user:?} cannot {verb} path {path:?}"),
            Wanted::Resource(wanted) => {
                let slash = if wanted.subresource.is_empty() { "" } else { "/" };
                let resource = format!("{}{slash}{}", wanted.plural, wanted.subresource);
                write!(f, "User {user:?} cannot {} resource {resource:?} in API group {:?} ", wanted.verb, wanted.group)?;
                match wanted.namespace {
                    Some(namespace) => write!(f, "in the namespace {namespace:?}"),
                    None => f.write_str("at the cluster scope"),
                }
            }
        }
    }
}
