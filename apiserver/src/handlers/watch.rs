//! `watch`: the events of a kind as a stream of JSON lines.

use super::{Api, Asked, read::Selection};
use crate::{
    cache::{Cache, Event, LiveEvents},
    error::{Cause, CauseReason, Status},
    handlers::read::{expired, include_object},
    negotiate::Form,
    object::Object,
    registry::ResourceDef,
    request::{Query, Target},
    table,
    telemetry::{Counted, Metrics},
};
use axum::{
    body::Body,
    http::{HeaderValue, Response, header},
};
use bytes::Bytes;
use futures::stream;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

/// How long a watch lasts if its client does not say, and at the most.
const LIFE: (Duration, Duration) = (Duration::from_secs(30 * 60), Duration::from_secs(24 * 60 * 60));
/// How often a watch that wants bookmarks gets one.
const BOOKMARK: Duration = Duration::from_secs(30);
/// How many lines are sent at once at the most.
const BATCH: usize = 256;

struct Watch {
    def: Arc<ResourceDef>,
    target: Target,
    selection: Selection,
    form: Form,
    include_object: table::IncludeObject,
    headers_sent: bool,
    /// Lines that are ready to be sent.
    ready: VecDeque<Bytes>,
    /// Joined to what is in `ready` at the start without a gap and without an overlap.
    live: LiveEvents,
    cache: Arc<Cache>,
    /// Everything up to this revision has been sent.
    revision: u64,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    shutdown: CancellationToken,
    ended: bool,
    metrics: Metrics,
    _counted: Counted,
}

/// Where a watch begins.
enum Start {
    /// With the present state, and word of its end if it is asked for.
    Present { announce_end: bool },
    /// With the first event from now on.
    Now,
    /// With the first event after a revision.
    After(u64),
}

impl Start {
    fn parse(query: &Query) -> Result<Self, Status> {
        let after = query.number("resourceVersion")?.filter(|version| *version > 0);
        let matching = query.text("resourceVersionMatch");
        let forbidden = |field: &str, why: &str| {
            let cause = Cause { reason: CauseReason::FieldValueForbidden, message: format!("Forbidden: {why}"), field: field.into() };
            Status::invalid("meta.k8s.io", "ListOptions", "", vec![cause])
        };
        if query.text("sendInitialEvents").is_none() {
            if matching.is_some() {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                return Err(forbidden("resourceVersionMatch", why));
            }
            // As in Kubernetes: without a version, or with 0, the present state comes first.
            return Ok(after.map_or(Self::Present { announce_end: false }, Self::After));
        }
        if matching != Some("NotOlderThan") {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(forbidden("resourceVersionMatch", why));
        }
        if query.flag("sendInitialEvents")? {
            return Ok(Self::Present { announce_end: query.flag("allowWatchBookmarks")? });
        }
        Ok(after.map_or(Self::Now, Self::After))
    }
}

impl Api {
    /// `watch`.
    pub async fn watch(&self, asked: &Asked<'_>) -> Result<Response<Body>, Status> {
        let def = asked.target.def.clone();
        let selection = Selection::of(asked)?;
        let kind = self.storage.kind(&def)?;
        let start = Start::parse(asked.query)?;
        let life = asked.query.number("timeoutSeconds")?.filter(|s| *s > 0).map_or(LIFE.0, Duration::from_secs).min(LIFE.1);
        let newest = match (&start, asked.query.number("resourceVersion")?) {
            (_, Some(0)) => self.storage.cache.revision(),
            (Start::After(wanted), _) if self.is_from_the_future(*wanted).await? => {
                return Ok(lines(Body::from(error_line(*wanted, self.storage.cache.revision()))));
            }
            (_, Some(wanted)) => self.reach(wanted).await?,
            (_, None) => self.storage.catch_up().await?,
        };
        let (replay, snapshot, live, revision) = match start {
            Start::After(after) => match self.storage.watch(&kind, after).await? {
                Ok((replay, live)) => (replay, None, live, after),
                // As an event and not as a refusal: not every client knows to list again after a refusal.
                Err(gone) => return Ok(lines(Body::from(error_line(after, gone.oldest)))),
            },
            Start::Present { .. } | Start::Now => {
                let (snapshot, live) = kind.watch_from_now(newest);
                let revision = snapshot.revision;
                (Vec::new(), Some(snapshot), live, revision)
            }
        };
        let mut watch = Watch {
            target: asked.target.clone(),
            selection,
            form: asked.form,
            include_object: include_object(asked.query),
            headers_sent: false,
            ready: VecDeque::new(),
            live,
            cache: self.storage.cache.clone(),
            revision,
            bookmarks: asked.query.flag("allowWatchBookmarks")?,
            next_bookmark: Instant::now() + BOOKMARK,
            end: Instant::now() + life,
            shutdown: self.shutdown.clone(),
            ended: false,
            _counted: self.metrics.watch(&def),
            metrics: self.metrics.clone(),
            def,
        };
        if let (Start::Present { announce_end }, Some(snapshot)) = (start, snapshot) {
            for object in snapshot.objects.values() {
                if watch.wants(object) {
                    watch.line("ADDED", object);
                }
            }
            if announce_end {
                watch.bookmark(true);
            }
        }
        for event in replay {
            watch.event(&event);
        }
        Ok(lines(Body::from_stream(stream::unfold(watch, |mut watch| async move {
            let lines = watch.next().await?;
            Some((Ok::<_, Infallible>(lines), watch))
        }))))
    }

    /// A revision that the store has not made yet: its state was put back to an earlier one since the client read it.
    async fn is_from_the_future(&self, revision: u64) -> Result<bool, Status> {
        Ok(revision > self.storage.cache.revision() && revision > self.storage.store.revision().await?)
    }
}

fn lines(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn error_line(asked: u64, oldest: u64) -> Bytes {
    encode("ERROR", expired(asked, oldest).to_value().to_string().as_bytes())
}

impl Watch {
    /// The next lines; none when the watch is over.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.ready.is_empty() {
                let count = self.ready.len().min(BATCH);
                return Some(match count {
                    1 => self.ready.pop_front()?,
                    _ => self.ready.drain(..count).collect::<Vec<_>>().concat().into(),
                });
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                event = self.live.recv() => match event {
                    Ok(event) => {
                        self.event(&event);
                        // What has come meanwhile goes out with it.
                        self.take_in(|watch, _| watch.ready.len() >= BATCH);
                    }
                    Err(broadcast::error::RecvError::Lagged(missed)) => self.lose(missed),
                    Err(broadcast::error::RecvError::Closed) => self.ended = true,
                },
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => self.mark(),
                () = tokio::time::sleep_until(self.end) => self.end(),
                () = self.shutdown.cancelled() => self.end(),
            }
        }
    }

    /// Takes in the events that have come, until `enough`.
    fn take_in(&mut self, enough: impl Fn(&Self, &Event) -> bool) {
        loop {
            match self.live.try_recv() {
                Ok(event) => {
                    self.event(&event);
                    if enough(self, &event) {
                        return;
                    }
                }
                Err(broadcast::error::TryRecvError::Lagged(missed)) => return self.lose(missed),
                Err(_) => return,
            }
        }
    }

    fn lose(&mut self, missed: u64) {
        tracing::info!(plural = self.def.plural, missed, "a watcher did not keep up and is dropped; it resumes from where it was");
        self.metrics.watch_dropped(&self.def);
        self.ended = true;
    }

    /// Ends the watch, with a bookmark if it wants any, so that the next begins where this one ends.
    fn end(&mut self) {
        if self.bookmarks {
            self.mark();
        }
        self.ended = true;
    }

    /// A bookmark, behind all that has happened up to now.
    fn mark(&mut self) {
        self.next_bookmark = Instant::now() + BOOKMARK;
        // What happened up to this revision is on its way to this watch already.
        let reached = self.cache.revision();
        self.take_in(|_, event| event.revision > reached);
        if !self.ended {
            self.revision = self.revision.max(reached);
            self.bookmark(false);
        }
    }

    fn event(&mut self, event: &Event) {
        self.revision = self.revision.max(event.revision);
        let was = event.previous.as_ref().filter(|previous| self.wants(previous));
        let is = !event.deleted && self.wants(&event.object);
        match (was, is) {
            (None, false) => {}
            (None, true) => self.line("ADDED", &event.object),
            (Some(_), true) => self.line("MODIFIED", &event.object),
            (Some(_), false) if event.deleted => self.line("DELETED", &event.object),
            // It is seen to go as it was when it was last wanted.
            (Some(previous), false) => self.line("DELETED", &Arc::new(previous.at(event.revision))),
        }
    }

    fn wants(&self, object: &Object) -> bool {
        if self.target.namespace.is_none() && self.selection.everything() {
            return true;
        }
        let here = self.target.namespace.as_ref().is_none_or(|ns| object.value()["metadata"]["namespace"].as_str() == Some(ns));
        here && self.selection.wants(&object.value())
    }

    fn line(&mut self, type_: &str, object: &Arc<Object>) {
        let object = self.target.in_version(object);
        let body = match self.form {
            Form::Objects => None,
            Form::Metadata => Some(table::partial(&object.value())),
            Form::Table => {
                let options = table::Options { include_object: self.include_object, no_headers: self.headers_sent };
                let metadata = json!({ "resourceVersion": object.value()["metadata"]["resourceVersion"] });
                self.headers_sent = true;
                Some(table::render(&self.def, &[object.value()], metadata, options, Timestamp::now()))
            }
        };
        self.ready.push_back(match body {
            Some(body) => encode(type_, body.to_string().as_bytes()),
            None => encode(type_, &object.json),
        });
    }

    fn bookmark(&mut self, initial_end: bool) {
        let mut metadata = json!({ "resourceVersion": self.revision.to_string(), "creationTimestamp": null });
        if initial_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let body: Value = match self.form {
            Form::Objects => json!({ "kind": self.def.kind, "apiVersion": self.def.api_version(), "metadata": metadata }),
            Form::Metadata => json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata }),
            Form::Table => {
                let object = json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata });
                json!({ "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": [], "rows": [{ "cells": [], "object": object }] })
            }
        };
        self.ready.push_back(encode("BOOKMARK", body.to_string().as_bytes()));
    }
}

fn encode(type_: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(type_.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}
