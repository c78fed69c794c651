//! `watch`: the events of a kind as a stream of JSON lines.

use super::{Api, Asked, read::Selection};
use crate::{
    cache::{Event, Object},
    error::Status,
    handlers::read::{expired, include_object},
    negotiate::Form,
    registry::ResourceDef,
    table,
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

/// How long a watch lasts if its client does not say.
const LIFE: Duration = Duration::from_secs(30 * 60);
/// How often a watch that wants bookmarks gets one.
const BOOKMARK: Duration = Duration::from_secs(30);
/// How many lines are sent at once at the most.
const BATCH: usize = 256;

struct Watch {
    def: Arc<ResourceDef>,
    namespace: Option<String>,
    selection: Selection,
    form: Form,
    include_object: table::IncludeObject,
    headers_sent: bool,
    /// Lines that are ready to be sent.
    ready: VecDeque<Bytes>,
    live: broadcast::Receiver<Arc<Event>>,
    /// Events up to this one have been sent.
    revision: u64,
    bookmarks: bool,
    next_bookmark: Instant,
    end: Instant,
    shutdown: CancellationToken,
    ended: bool,
}

impl Api {
    /// `watch`.
    pub async fn watch(&self, asked: &Asked<'_>) -> Result<Response<Body>, Status> {
        let def = asked.target.def.clone();
        let selection = Selection::of(asked)?;
        let kind = self.storage.kind(&def)?;
        let wanted = asked.query.number("resourceVersion")?;
        let initial = match (asked.query.text("sendInitialEvents"), wanted) {
            (Some(_), _) => asked.query.flag("sendInitialEvents")?,
            // As in Kubernetes: without a version, or with 0, the present state comes first.
            (None, None | Some(0)) => true,
            (None, Some(_)) => false,
        };
        let life = asked.query.number("timeoutSeconds")?.filter(|s| *s > 0).map_or(LIFE, Duration::from_secs);
        let newest = match wanted {
            Some(0) => self.storage.cache.revision(),
            Some(wanted) => self.reach(wanted).await?,
            None => self.storage.catch_up().await?,
        };
        let (replay, present, live) = match (initial, wanted) {
            (false, Some(after)) if after > 0 => {
                let (replay, live) = kind.watch(after).map_err(|gone| expired(after, gone.oldest))?;
                (replay, None, live)
            }
            _ => {
                let (snapshot, live) = kind.watch_from_now(newest);
                (Vec::new(), Some(snapshot), live)
            }
        };
        let mut watch = Watch {
            namespace: asked.target.namespace.clone(),
            selection,
            form: asked.form,
            include_object: include_object(asked.query),
            headers_sent: false,
            ready: VecDeque::new(),
            live,
            revision: present.as_ref().map_or(wanted.unwrap_or(0), |snapshot| snapshot.revision),
            bookmarks: asked.query.flag("allowWatchBookmarks")?,
            next_bookmark: Instant::now() + BOOKMARK,
            end: Instant::now() + life,
            shutdown: self.shutdown.clone(),
            ended: false,
            def,
        };
        if let Some(snapshot) = present.filter(|_| initial) {
            for object in snapshot.objects.values() {
                if watch.wants(object) {
                    watch.line("ADDED", object);
                }
            }
            if asked.query.text("sendInitialEvents").is_some() && watch.bookmarks {
                watch.bookmark(true);
            }
        }
        for event in replay {
            watch.event(&event);
        }
        let lines = stream::unfold(watch, |mut watch| async move {
            let lines = watch.next().await?;
            Some((Ok::<_, Infallible>(lines), watch))
        });
        let mut response = Response::new(Body::from_stream(lines));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }
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
                        while self.ready.len() < BATCH && let Ok(event) = self.live.try_recv() {
                            self.event(&event);
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::info!(plural = self.def.plural, missed, "a watcher did not keep up and is dropped; it resumes from where it was");
                        self.ended = true;
                    }
                    Err(broadcast::error::RecvError::Closed) => self.ended = true,
                },
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK;
                    self.bookmark(false);
                }
                () = tokio::time::sleep_until(self.end) => self.ended = true,
                () = self.shutdown.cancelled() => self.ended = true,
            }
        }
    }

    fn event(&mut self, event: &Event) {
        // An event that the snapshot or the replay held already.
        if event.revision <= self.revision {
            return;
        }
        self.revision = event.revision;
        let was = event.previous.as_ref().is_some_and(|previous| self.wants(previous));
        let is = !event.deleted && self.wants(&event.object);
        match (was, is) {
            (false, true) => self.line("ADDED", &event.object),
            (true, true) => self.line("MODIFIED", &event.object),
            (true, false) => self.line("DELETED", &event.object),
            (false, false) => {}
        }
    }

    fn wants(&self, object: &Object) -> bool {
        let here = self.namespace.as_ref().is_none_or(|ns| object.value["metadata"]["namespace"].as_str() == Some(ns));
        here && self.selection.wants(&object.value)
    }

    fn line(&mut self, type_: &str, object: &Object) {
        let body = match self.form {
            Form::Objects => None,
            Form::Metadata => Some(table::partial(&object.value)),
            Form::Table => {
                let options = table::Options { include_object: self.include_object, no_headers: self.headers_sent };
                let metadata = json!({ "resourceVersion": object.value["metadata"]["resourceVersion"] });
                self.headers_sent = true;
                Some(table::render(&self.def, &[&object.value], metadata, options, Timestamp::now()))
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
