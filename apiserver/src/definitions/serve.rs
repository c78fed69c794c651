//! Follows the definitions: compiles what has changed, swaps the registry, writes the statuses, and empties the kinds that go.
//!
//! Each pass looks at all definitions as they are, whatever woke it.

use super::{
    GROUP, PLURAL, check,
    cleanup::waits,
    plan::{Known, Seen, Verdict, plan},
};
use crate::{
    apply::{Manager, record_update},
    cache::Event,
    error::{Reason, Status},
    handlers::Api,
    object::Object,
    registry::{Compiled, Registry},
    storage::{Outcome, PATIENCE},
};
use futures::{StreamExt, stream::SelectAll};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionNames as Names;
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio_stream::wrappers::BroadcastStream;

/// How often all is looked at, whatever the events say.
const SWEEP: Duration = Duration::from_secs(60);
/// How soon what has failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Which state of a definition's spec something was made of.
#[derive(Clone, PartialEq, Eq)]
struct Version {
    uid: String,
    generation: i64,
}

impl Version {
    fn of(object: &Value) -> Self {
        let meta = &object["metadata"];
        Self { uid: meta["uid"].as_str().unwrap_or_default().to_owned(), generation: meta["generation"].as_i64().unwrap_or(0) }
    }
}

/// A definition that is served.
struct Served {
    version: Version,
    names: Names,
    compiled: Compiled,
}

/// All definitions but those of the program, and what becomes of each.
#[derive(Default)]
pub struct Decided {
    objects: Vec<(String, Arc<Object>)>,
    verdicts: BTreeMap<String, Verdict>,
}

/// The events of the kinds that have to become empty.
type Emptying = SelectAll<BroadcastStream<Arc<Event>>>;

/// Makes what the definitions say come true.
pub struct Follower {
    api: Arc<Api>,
    /// The kinds that are served whatever the definitions say.
    own: Arc<Registry>,
    read: HashMap<String, (Version, Known)>,
    served: BTreeMap<String, Served>,
}

/// Follows the definitions until the API shuts down.
pub async fn run(mut follower: Follower) {
    let shutdown = follower.api.shutdown.clone();
    let forever = async {
        while let Some(kind) = follower.api.storage.cache.kind(GROUP, PLURAL) {
            // From before they are looked at, so that what happens meanwhile wakes the next pass.
            let (_, mut events) = kind.watch_from_now(0);
            let (again, mut emptying) = match follower.pass().await {
                Ok(emptying) => (SWEEP, emptying),
                Err(status) => {
                    tracing::warn!("the definitions of kinds cannot be followed and are looked at again: {status}");
                    (RETRY, SelectAll::new())
                }
            };
            tokio::select! {
                _ = events.recv() => {}
                Some(_) = emptying.next() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    };
    shutdown.run_until_cancelled(forever).await;
}

impl Follower {
    /// A follower of an API that serves its own kinds only, up to now.
    pub fn new(api: Arc<Api>) -> Self {
        let own = api.registry();
        Self { api, own, read: HashMap::new(), served: BTreeMap::new() }
    }

    /// Serves what the definitions say, as they are.
    pub async fn take_in(&mut self) -> Result<Decided, Status> {
        let Some(kind) = self.api.storage.cache.kind(GROUP, PLURAL) else { return Ok(Decided::default()) };
        let snapshot = kind.snapshot(0);
        let own = self.own.clone();
        let foreign = snapshot.objects.iter().filter(|(name, _)| !own.brings(name));
        let objects: Vec<(String, Arc<Object>)> = foreign.map(|(name, object)| (name.clone(), object.clone())).collect();
        self.read(&objects);
        let values: Vec<_> = objects.iter().map(|(name, object)| (name, object.value())).collect();
        let seen = values.iter().filter_map(|(name, object)| {
            let known = &self.read.get(*name)?.1;
            Some((name.as_str(), Seen { object, known }))
        });
        let verdicts = plan(&seen.collect(), &own, &self.api.now().to_string());
        let names: BTreeMap<&str, &Names> =
            verdicts.iter().filter_map(|(name, verdict)| Some((name.as_str(), verdict.served.as_ref()?))).collect();
        self.serve(&names).await?;
        self.api.defined.send_replace(snapshot.revision);
        Ok(Decided { objects, verdicts })
    }

    /// Brings everything in line with the definitions as they are. What comes out wakes up when something goes that a
    /// definition waits for.
    async fn pass(&mut self) -> Result<Emptying, Status> {
        let Decided { objects, verdicts } = self.take_in().await?;
        for (name, object) in &objects {
            let object = &*object.value();
            if let Some(verdict) = verdicts.get(name).filter(|verdict| !is_done(object) && verdict.status != object["status"]) {
                self.write_status(name, object, &verdict.status).await?;
            }
        }
        self.clean_up(&objects).await
    }

    /// Reads the definitions whose specs have changed.
    fn read(&mut self, objects: &[(String, Arc<Object>)]) {
        let mut read = HashMap::new();
        for (name, object) in objects {
            let version = Version::of(&object.value());
            let known = match self.read.remove(name) {
                Some((known_version, known)) if known_version == version => known,
                _ => check::read(&object.value()),
            };
            read.insert(name.clone(), (version, known));
        }
        self.read = read;
    }

    /// Swaps the registry for one with the definitions that are served by these names, if that is another.
    async fn serve(&mut self, names: &BTreeMap<&str, &Names>) -> Result<(), Status> {
        let mut changed = self.served.keys().any(|name| !names.contains_key(name.as_str()));
        let mut served = BTreeMap::new();
        for (name, names) in names {
            let Some((version, Ok(definition))) = self.read.get(*name) else { continue };
            match self.served.remove(*name) {
                Some(same) if same.version == *version && same.names == **names => {
                    served.insert((*name).to_owned(), same);
                }
                last => {
                    changed |= last.is_some();
                    match Compiled::new(definition, names) {
                        Ok(compiled) => {
                            let (version, names) = (version.clone(), (*names).clone());
                            served.insert((*name).to_owned(), Served { version, names, compiled });
                            changed = true;
                        }
                        Err(error) => tracing::error!("{error}"),
                    }
                }
            }
        }
        self.served = served;
        if !changed {
            return Ok(());
        }
        let mut registry = (*self.own).clone();
        let mut late = Vec::new();
        for (name, served) in &self.served {
            let (group, plural) = served.compiled.id();
            if self.api.storage.cache.kind(group, plural).is_some() || self.api.storage.cache.add(group, plural, PATIENCE).await {
                registry.add_compiled(name, &served.compiled);
            } else {
                late.push(name.clone());
            }
        }
        let registry = Arc::new(registry);
        let before = self.api.kinds.send_replace(registry.clone());
        for def in before.kinds().filter(|def| !registry.kinds().any(|other| other.group == def.group && other.plural == def.plural)) {
            tracing::info!(group = def.group, plural = def.plural, "the kind is not served any more");
            self.api.storage.cache.remove(&def.group, &def.plural);
        }
        self.served.retain(|name, _| !late.contains(name));
        match late.as_slice() {
            [] => Ok(()),
            late => Err(Status::new(Reason::Timeout, format!("the objects of {} could not be loaded", late.join(", ")))),
        }
    }

    /// Writes what a definition's status is to say, if it is still the one that this was decided of.
    async fn write_status(&self, name: &str, decided: &Value, status: &Value) -> Result<(), Status> {
        let Some(def) = self.own.get(GROUP, "v1", PLURAL) else { return Ok(()) };
        let now = self.api.now();
        let changed = self.api.storage.change(def, name, false, |live| {
            if live["metadata"]["resourceVersion"] != decided["metadata"]["resourceVersion"] {
                return Ok(Outcome::Keep);
            }
            let mut new = live.clone();
            new["status"] = status.clone();
            record_update(Some(live), &mut new, def, Manager { name: "basalt", subresource: "status" }, now);
            Ok(Outcome::Put(new))
        });
        match changed.await {
            Err(status) if status.reason == Reason::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// Empties the kinds whose definitions are to go, and lets those go that are empty.
    async fn clean_up(&self, objects: &[(String, Arc<Object>)]) -> Result<Emptying, Status> {
        let mut emptying = SelectAll::new();
        for (name, _) in objects.iter().filter(|(_, object)| waits(&object.value())) {
            let served = self.served.get(name).and_then(|served| served.compiled.defs().next());
            let Some(def) = served else {
                self.api.release_definition(name, true).await?;
                continue;
            };
            let Some(kind) = self.api.storage.cache.kind(&def.group, &def.plural) else { continue };
            let (_, events) = kind.watch_from_now(0);
            if self.api.empty_kind(def).await? == 0 {
                self.api.release_definition(name, false).await?;
            } else {
                emptying.push(BroadcastStream::new(events));
            }
        }
        Ok(emptying)
    }
}

/// Whether nothing is left of a definition's kind: it is held by others, and its end has been told.
fn is_done(definition: &Value) -> bool {
    definition["metadata"]["deletionTimestamp"].is_string() && !waits(definition)
}

impl Api {
    /// Waits until the definitions that there are now are in effect here.
    pub async fn definitions_settle(&self) -> Result<(), Status> {
        self.storage.catch_up().await?;
        let Some(kind) = self.storage.cache.kind(GROUP, PLURAL) else { return Ok(()) };
        let newest = kind.snapshot(0).revision;
        let mut defined = self.defined.subscribe();
        let reached = defined.wait_for(|revision| *revision >= newest);
        // They are in effect later then; there is nothing that the client could do about it.
        let _ = tokio::time::timeout(PATIENCE, reached).await;
        Ok(())
    }
}
