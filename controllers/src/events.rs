//! Events: what happened to an object, in words, for people.
//!
//! An Event that happens again is counted up, not written again: its name is derived from what it says. Events end some
//! hours after they last happened ([`sweep`]), so that a flapping object cannot fill the store.

use crate::Context;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often ended Events are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
/// How many Events a sweep reads at once.
const SWEEP_PAGE: u32 = 500;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Out of the ordinary.
    pub warning: bool,
    /// CamelCase, for programs.
    pub reason: String,
    /// A sentence, for people.
    pub message: String,
    /// When.
    pub time: Timestamp,
}

/// Writes Events.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    component: String,
}

impl Recorder {
    /// A recorder for a part of Basalt, such as `basalt-gateway`.
    pub fn new(client: Client, component: impl Into<String>) -> Self {
        Self { client, component: component.into() }
    }

    /// Records that something happened to an object. An Event that cannot be written is logged and forgotten: nothing
    /// may rest on one.
    pub async fn record<K: Resource<DynamicType = ()>>(&self, object: &K, happening: Happening) {
        let reference = object.object_ref(&());
        if let Err(error) = self.write(&reference, &happening).await {
            tracing::warn!(
                kind = reference.kind.as_deref(),
                name = reference.name.as_deref(),
                reason = happening.reason,
                "cannot record an event: {error}"
            );
        }
    }

    async fn write(&self, object: &ObjectReference, happening: &Happening) -> Result<(), kube::Error> {
        // Events of cluster-scoped objects live in `default`, where kubectl looks for them.
        let namespace = object.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let name = event_name(object, happening);
        let time = Time(happening.time);
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace), ..ObjectMeta::default() },
            involved_object: object.clone(),
            type_: Some(if happening.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(happening.reason.clone()),
            message: Some(happening.message.clone()),
            first_timestamp: Some(time.clone()),
            last_timestamp: Some(time.clone()),
            count: Some(1),
            source: Some(EventSource { component: Some(self.component.clone()), host: None }),
            reporting_component: Some(self.component.clone()),
            ..Event::default()
        };
        match events.create(&PostParams::default(), &event).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => {}
            other => return other.map(drop),
        }
        let count = events.get_opt(&name).await?.and_then(|e| e.count).unwrap_or(0) + 1;
        let patch = json!({ "count": count, "lastTimestamp": time });
        events.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
    }
}

fn event_name(object: &ObjectReference, happening: &Happening) -> String {
    let mut hasher = DefaultHasher::new();
    (&object.uid, &object.kind, &happening.reason, &happening.message, happening.warning).hash(&mut hasher);
    // Names are at most 253 bytes; the hash tells apart what the cut makes the same.
    let name: String = object.name.as_deref().unwrap_or_default().chars().take(200).collect();
    format!("{}.{:016x}", name.trim_end_matches(['.', '-']), hasher.finish())
}

/// Deletes Events that ended, until `shutdown`.
pub async fn sweep(context: Arc<Context>, shutdown: CancellationToken) {
    let mut interval = tokio::time::interval(SWEEP_INTERVAL);
    while shutdown.run_until_cancelled(interval.tick()).await.is_some() {
        match shutdown.run_until_cancelled(sweep_once(&context)).await {
            Some(Err(error)) => tracing::warn!("cannot delete old events: {error}"),
            Some(Ok(count)) if count > 0 => tracing::debug!(count, "old events deleted"),
            _ => {}
        }
    }
}

async fn sweep_once(context: &Context) -> Result<usize, kube::Error> {
    let all: Api<Event> = Api::all(context.client.clone());
    let (mut params, mut count) = (ListParams::default().limit(SWEEP_PAGE), 0);
    loop {
        let page = all.list(&params).await?;
        for event in &page.items {
            if !has_ended(event, context.now(), context.settings.event_ttl) {
                continue;
            }
            let events: Api<Event> = Api::namespaced(context.client.clone(), &event.namespace().unwrap_or_default());
            match events.delete(&event.name_any(), &DeleteParams::default()).await {
                Ok(_) => count += 1,
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(count),
        }
    }
}

fn has_ended(event: &Event, now: Timestamp, ttl: Duration) -> bool {
    let last = event.last_timestamp.as_ref().map(|t| t.0);
    let last = last.or(event.event_time.as_ref().map(|t| t.0)).or(event.creation_timestamp().map(|t| t.0));
    last.is_some_and(|last| now.duration_since(last).unsigned_abs() > ttl && now > last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(last: &str) -> Event {
        Event { last_timestamp: Some(Time(last.parse().unwrap())), ..Event::default() }
    }

    #[test]
    fn an_event_ends_only_after_its_time_to_live_and_never_because_of_a_clock_set_back() {
        let now = "2026-01-01T12:00:00Z".parse().unwrap();
        let ttl = Duration::from_secs(3600);
        assert!(has_ended(&event("2026-01-01T10:59:59Z"), now, ttl));
        assert!(!has_ended(&event("2026-01-01T11:00:01Z"), now, ttl));
        assert!(!has_ended(&event("2026-01-02T12:00:00Z"), now, ttl));
    }
}
