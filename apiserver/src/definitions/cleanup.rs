//! The end of a definition: nothing new is made of its kind, what there is goes, and then the definition itself.

use super::{Condition, FINALIZER, GROUP, PLURAL, set_condition};
use crate::{
    error::{Reason, Status},
    handlers::{Api, checks::finalizers, delete::Deletion},
    keys,
    registry::ResourceDef,
    storage::Outcome,
};
use basalt_store::{Action, Expect, Write};
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;

/// How many objects of a kind that goes are deleted at a time.
const AT_A_TIME: usize = 16;

impl Api {
    /// What has to hold for an object of a user's kind to be made: its definition is there, is to stay, and is what it was when
    /// this was looked at, so that nothing is made behind the back of whoever deletes all objects of the kind.
    pub fn guard_creation(&self, def: &ResourceDef) -> Result<Option<Write>, Status> {
        let registry = self.registry();
        let Some(name) = registry.defined_by(&def.group, &def.plural) else { return Ok(None) };
        let definition = self.storage.cache.kind(GROUP, PLURAL).and_then(|kind| kind.get(name));
        let gone = || Status::new(Reason::NotFound, "the server could not find the requested resource");
        let definition = definition.ok_or_else(gone)?;
        if is_terminating(&definition.value()) {
            let message = "create not allowed while custom resource definition is terminating";
            return Err(Status::new(Reason::MethodNotAllowed, message));
        }
        Ok(Some(Write { key: keys::key(GROUP, PLURAL, name), expect: Expect::At(definition.revision), action: Action::Check }))
    }

    /// Deletes what is left of the kind of a definition that is to go. Says how many objects still hold it.
    pub async fn empty_kind(&self, def: &Arc<ResourceDef>) -> Result<usize, Status> {
        self.storage.catch_up().await?;
        let kind = self.storage.kind(def)?;
        let objects = kind.snapshot(0).objects;
        let doomed = objects.iter().filter(|(_, object)| !is_terminating(&object.value()));
        let doomed: Vec<_> = doomed.map(|(place, object)| (place.clone(), Deletion::of(&object.value()))).collect();
        let mut deletions = futures::stream::iter(doomed)
            .map(|(place, deletion)| async move { self.remove(def, &place, &deletion).await })
            .buffer_unordered(AT_A_TIME);
        while let Some(deleted) = deletions.next().await {
            match deleted {
                Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => {}
                other => drop(other?),
            }
        }
        self.storage.catch_up().await?;
        Ok(kind.snapshot(0).objects.size())
    }

    /// Lets a definition go that has nothing left to wait for.
    pub async fn release_definition(&self, name: &str, never_established: bool) -> Result<(), Status> {
        let registry = self.registry();
        let Some(def) = registry.get(GROUP, "v1", PLURAL) else { return Ok(()) };
        let now = self.now().to_string();
        let changed = self.storage.change(def, name, false, |live| {
            if !is_terminating(live) || !finalizers(live).contains(&FINALIZER) {
                return Ok(Outcome::Keep);
            }
            let left: Vec<_> = finalizers(live).into_iter().filter(|held| *held != FINALIZER).collect();
            if left.is_empty() {
                return Ok(Outcome::Delete);
            }
            let mut new = live.clone();
            new["metadata"]["finalizers"] = json!(left);
            let (reason, message) = match never_established {
                true => ("NeverEstablished", "resource was never established"),
                false => ("InstanceDeletionCompleted", "removed all instances"),
            };
            let condition = Condition { type_: "Terminating", status: false, reason: reason.into(), message: message.into() };
            set_condition(&mut new["status"], &condition, &now);
            Ok(Outcome::Put(new))
        });
        match changed.await {
            Err(status) if status.reason == Reason::NotFound => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Whether an object is being deleted.
pub(super) fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// Whether a definition waits for its objects.
pub(super) fn waits(definition: &Value) -> bool {
    is_terminating(definition) && finalizers(definition).contains(&FINALIZER)
}
