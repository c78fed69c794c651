//! Garbage collection: what belongs to an object goes with it, and what is in a namespace goes with that.
//!
//! It follows the events of all kinds and keeps an index of who owns what. What it does is always decided on the present
//! state, so that a restart, a lost event and a periodic look at everything are the same code path.

use crate::{
    cache::Event,
    error::{Reason, Status},
    handlers::{
        Api,
        delete::{Deletion, Propagation},
        write::finalizers,
    },
    registry::ResourceDef,
    storage::Outcome,
};
use futures::{StreamExt, stream::SelectAll};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio_stream::wrappers::BroadcastStream;

/// Holds an object until all that it owns is gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Holds an object until nothing refers to it as its owner.
pub const ORPHAN: &str = "orphan";
/// How often everything is looked at, whatever the events say.
const SWEEP: Duration = Duration::from_secs(60);

/// A new Namespace's own fields.
pub fn complete_namespace(namespace: &mut Value) {
    let name = namespace["metadata"]["name"].clone();
    namespace["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
    namespace["spec"]["finalizers"] = json!([crate::builtin::NAMESPACE_FINALIZER]);
    namespace["status"]["phase"] = "Active".into();
}

fn is_namespace(def: &ResourceDef) -> bool {
    def.group.is_empty() && def.kind == "Namespace"
}

/// Whether an object is held by something besides its finalizers: a namespace by what is in it.
pub fn holds(def: &ResourceDef, object: &Value) -> bool {
    is_namespace(def) && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

/// What a kind's own status says of an object that is to be deleted.
pub fn mark_terminating(def: &ResourceDef, object: &mut Value) {
    if is_namespace(def) {
        object["status"]["phase"] = "Terminating".into();
    }
}

/// An object of any kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Id {
    group: String,
    plural: String,
    place: String,
}

struct Collector {
    api: Arc<Api>,
    /// Uid of an owner -> what refers to it.
    dependents: HashMap<String, HashSet<Id>>,
    /// What refers to which owners.
    owners: HashMap<Id, Vec<String>>,
    /// Uid -> object, of those that wait for what they own.
    waiting: HashMap<String, Id>,
    /// Namespaces that are being emptied.
    terminating: HashSet<String>,
}

/// Collects garbage until the API shuts down.
pub async fn run(api: Arc<Api>) {
    let shutdown = api.shutdown.clone();
    shutdown.run_until_cancelled(collect(api)).await;
}

async fn collect(api: Arc<Api>) {
    loop {
        let mut collector = Collector {
            api: api.clone(),
            dependents: HashMap::new(),
            owners: HashMap::new(),
            waiting: HashMap::new(),
            terminating: HashSet::new(),
        };
        let mut events = SelectAll::new();
        let mut todo = Vec::new();
        for def in api.registry.iter() {
            let Ok(kind) = api.storage.kind(def) else { continue };
            let (snapshot, live) = kind.watch_from_now(0);
            for (place, object) in &snapshot.objects {
                todo.push(collector.note(def, place, &object.value));
            }
            let def = def.clone();
            events.push(BroadcastStream::new(live).map(move |event| (def.clone(), event)).boxed());
        }
        for id in todo {
            collector.settle(&id).await;
        }
        let sweep = tokio::time::sleep(SWEEP);
        tokio::pin!(sweep);
        loop {
            tokio::select! {
                next = events.next() => match next {
                    Some((def, Ok(event))) => collector.event(&def, &event).await,
                    // Too much came at once: begin anew with all there is.
                    Some((_, Err(_))) => break,
                    None => return,
                },
                () = &mut sweep => break,
            }
        }
    }
}

impl Collector {
    async fn event(&mut self, def: &ResourceDef, event: &Event) {
        let meta = &event.object.value["metadata"];
        let place = crate::keys::place(meta["namespace"].as_str(), meta["name"].as_str().unwrap_or_default());
        if !event.deleted {
            let id = self.note(def, &place, &event.object.value);
            self.settle(&id).await;
            return;
        }
        let id = Id { group: def.group.clone(), plural: def.plural.clone(), place };
        let uid = meta["uid"].as_str().unwrap_or_default();
        self.waiting.remove(uid);
        for owner in self.forget(&id) {
            if let Some(owner) = self.waiting.get(&owner).cloned() {
                self.settle(&owner).await;
            }
        }
        for dependent in self.dependents.get(uid).cloned().unwrap_or_default() {
            self.settle(&dependent).await;
        }
        let namespace = meta["namespace"].as_str().unwrap_or_default();
        if self.terminating.contains(namespace) {
            self.empty_namespace(namespace.to_owned()).await;
        }
    }

    /// Puts an object into the index.
    fn note(&mut self, def: &ResourceDef, place: &str, object: &Value) -> Id {
        let id = Id { group: def.group.clone(), plural: def.plural.clone(), place: place.to_owned() };
        self.forget(&id);
        let meta = &object["metadata"];
        let owners: Vec<String> =
            meta["ownerReferences"].as_array().into_iter().flatten().filter_map(|o| o["uid"].as_str().map(str::to_owned)).collect();
        for owner in &owners {
            self.dependents.entry(owner.clone()).or_default().insert(id.clone());
        }
        if !owners.is_empty() {
            self.owners.insert(id.clone(), owners);
        }
        if meta["deletionTimestamp"].is_string() {
            if finalizers(object).iter().any(|f| [FOREGROUND, ORPHAN].contains(f)) {
                self.waiting.insert(meta["uid"].as_str().unwrap_or_default().to_owned(), id.clone());
            }
            if is_namespace(def) {
                self.terminating.insert(place.to_owned());
            }
        }
        id
    }

    fn forget(&mut self, id: &Id) -> Vec<String> {
        let owners = self.owners.remove(id).unwrap_or_default();
        for owner in &owners {
            if let Some(dependents) = self.dependents.get_mut(owner) {
                dependents.remove(id);
                if dependents.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
        owners
    }

    /// Does what the present state of an object asks for.
    async fn settle(&mut self, id: &Id) {
        let outcome = self.try_settle(id).await;
        match outcome {
            Ok(()) => {}
            Err(status) if matches!(status.reason, Reason::NotFound | Reason::Conflict) => {}
            // The sweep comes back to it.
            Err(status) => tracing::warn!(plural = id.plural, place = id.place, "garbage collection failed and is tried again: {status}"),
        }
    }

    async fn try_settle(&mut self, id: &Id) -> Result<(), Status> {
        let Some(def) = self.def(id) else { return Ok(()) };
        let Some(object) = self.api.storage.get(&def, &id.place).await? else { return Ok(()) };
        let object = &object.value;
        let meta = &object["metadata"];
        if meta["deletionTimestamp"].is_null() {
            let references = meta["ownerReferences"].as_array().map(Vec::as_slice).unwrap_or_default();
            if !references.is_empty() && !self.any_owner_lives(meta, references).await? {
                tracing::info!(plural = id.plural, place = id.place, "deleted: none of its owners exist any more");
                let deletion = Deletion { uid: meta["uid"].as_str().map(str::to_owned), ..Deletion::default() };
                self.api.remove(&def, &id.place, &deletion).await?;
            }
            return Ok(());
        }
        let uid = meta["uid"].as_str().unwrap_or_default();
        let held = finalizers(object);
        let dependents: Vec<Id> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        if held.contains(&ORPHAN) {
            for dependent in &dependents {
                self.orphan(dependent, uid).await?;
            }
            return self.let_go(&def, &id.place, ORPHAN).await;
        }
        if held.contains(&FOREGROUND) {
            if dependents.is_empty() {
                return self.let_go(&def, &id.place, FOREGROUND).await;
            }
            for dependent in &dependents {
                if let Some(def) = self.def(dependent) {
                    let deletion = Deletion { propagation: Propagation::Foreground, ..Deletion::default() };
                    match self.api.remove(&def, &dependent.place, &deletion).await {
                        Err(status) if status.reason == Reason::NotFound => {}
                        other => drop(other?),
                    }
                }
            }
            return Ok(());
        }
        if is_namespace(&def) {
            self.empty_namespace(id.place.clone()).await;
        }
        Ok(())
    }

    fn def(&self, id: &Id) -> Option<Arc<ResourceDef>> {
        self.api.registry.iter().find(|def| def.group == id.group && def.plural == id.plural).cloned()
    }

    async fn any_owner_lives(&self, meta: &Value, references: &[Value]) -> Result<bool, Status> {
        for reference in references {
            let text = |field: &str| reference[field].as_str().unwrap_or_default();
            let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
            let Some(def) = self.api.registry.iter().find(|def| def.group == group && def.kind == text("kind")) else {
                // An owner of a kind that is not served may well exist elsewhere.
                return Ok(true);
            };
            // An owner is in the same namespace, or in none.
            let namespace = if def.namespaced { meta["namespace"].as_str() } else { None };
            let owner = self.api.storage.get(def, &crate::keys::place(namespace, text("name"))).await?;
            if owner.is_some_and(|owner| owner.value["metadata"]["uid"].as_str() == Some(text("uid"))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn orphan(&self, id: &Id, owner: &str) -> Result<(), Status> {
        let Some(def) = self.def(id) else { return Ok(()) };
        let changed = self.api.storage.change(&def, &id.place, false, |live| {
            let mut new = live.clone();
            if let Some(references) = new["metadata"]["ownerReferences"].as_array_mut() {
                references.retain(|reference| reference["uid"].as_str() != Some(owner));
            }
            Ok(if new == *live { Outcome::Keep } else { Outcome::Put(new) })
        });
        match changed.await {
            Err(status) if status.reason == Reason::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    async fn let_go(&self, def: &ResourceDef, place: &str, finalizer: &str) -> Result<(), Status> {
        let changed = self.api.storage.change(def, place, false, |live| {
            let left: Vec<_> = finalizers(live).into_iter().filter(|f| *f != finalizer).collect();
            if left.is_empty() && !holds(def, live) {
                return Ok(Outcome::Delete);
            }
            let mut new = live.clone();
            new["metadata"]["finalizers"] = json!(left);
            Ok(Outcome::Put(new))
        });
        changed.await.map(drop)
    }

    /// Deletes what is in a terminating namespace, and the namespace when nothing is left.
    async fn empty_namespace(&mut self, name: String) {
        let outcome = self.try_empty(&name).await;
        match outcome {
            Ok(true) => {
                self.terminating.remove(&name);
            }
            Ok(false) => {}
            Err(status) => tracing::warn!(namespace = name, "the namespace cannot be emptied and is tried again: {status}"),
        }
    }

    async fn try_empty(&self, name: &str) -> Result<bool, Status> {
        self.api.storage.catch_up().await?;
        let mut left = 0;
        let defs: Vec<_> = self.api.registry.iter().filter(|def| def.namespaced).cloned().collect();
        for def in &defs {
            let objects = self.api.storage.kind(def)?.snapshot(0).objects;
            for (place, object) in objects.range(format!("{name}/")..format!("{name}0")) {
                left += 1;
                if object.value["metadata"]["deletionTimestamp"].is_null() {
                    match self.api.remove(def, place, &Deletion::default()).await {
                        Err(status) if status.reason == Reason::NotFound => {}
                        other => drop(other?),
                    }
                }
            }
        }
        if left > 0 {
            return Ok(false);
        }
        let Some(def) = self.api.registry.get("", "v1", "namespaces") else { return Ok(true) };
        let changed = self.api.storage.change(def, name, false, |live| {
            if live["metadata"]["deletionTimestamp"].is_null() {
                return Ok(Outcome::Keep);
            }
            if finalizers(live).is_empty() {
                return Ok(Outcome::Delete);
            }
            let mut new = live.clone();
            new["spec"]["finalizers"] = json!([]);
            Ok(if new == *live { Outcome::Keep } else { Outcome::Put(new) })
        });
        match changed.await {
            Err(status) if status.reason == Reason::NotFound => Ok(true),
            other => other.map(|_| true),
        }
    }
}
