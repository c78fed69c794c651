//! What somebody else has to say about new objects of a kind: what depends on other objects, and on who asks.

use crate::{access::Look, error::Cause, identity::Identity};
use serde_json::Value;

/// Completes and checks the objects of a kind, besides its schema and rules.
pub trait Admission: Send + Sync + 'static {
    /// Puts in what a writer need not say, or may not. `old` is the object before the change, if there was one.
    fn complete(&self, _new: &mut Value, _old: Option<&Value>, _identity: &Identity) {}

    /// What is wrong with a new object, which its schema accepts. `look` gives an object by group, plural name, namespace and
    /// name.
    fn check(&self, _new: &Value, _look: &Look<'_>) -> Vec<Cause> {
        Vec::new()
    }

    /// Why an object may not be deleted, if it may not.
    fn check_deletion(&self, _live: &Value) -> Result<(), String> {
        Ok(())
    }
}
