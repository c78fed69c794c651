//! What becomes of those who ask too much, and of those beside them; and how watches end when the server does.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use axum::{body::Body, extract::Request};
use basalt_apiserver::{InProcess, Limits, Rate};
use basalt_store::{CommitError, Entry, Previous, Range, Revision, Store, StoreError, WatchError, WatchStream, Write};
use common::{
    AS, Server, start, start_within,
    wire::{Answer, HOSTS, PATIENCE, VMS, host, vm},
};
use futures::future::join_all;
use http::Method;
use std::sync::Arc;
use tokio::sync::watch;
use tower::ServiceExt;

/// A store that takes writes only while it is open.
struct Closable {
    store: Arc<dyn Store>,
    open: watch::Sender<bool>,
}

#[async_trait::async_trait]
impl Store for Closable {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }
    async fn get(&self, key: &[u8]) -> Result<Option<Entry>, StoreError> {
        self.store.get(key).await
    }
    async fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Range, StoreError> {
        self.store.range(start, end, limit).await
    }
    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, CommitError> {
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        self.store.commit(writes).await
    }
    async fn watch(&self, prefix: &[u8], after: Revision, previous: Previous) -> Result<WatchStream, WatchError> {
        self.store.watch(prefix, after, previous).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}

async fn closable(limits: Limits) -> (Server, Arc<Closable>) {
    let mut kept = None;
    let server = start_within(limits, |store| {
        let store = Arc::new(Closable { store, open: watch::Sender::new(true) });
        kept = Some(store.clone());
        store
    })
    .await;
    (server, kept.unwrap())
}

/// Sends a request as a user who may do everything.
async fn send_as(server: &Server, user: &str, method: Method, path: &str, body: String) -> Answer {
    let who = format!("{user}/system:masters");
    server.send(method, path, &[(AS, &who), ("content-type", "application/json")], body).await
}

async fn waiting(server: &Server, count: usize) {
    let line = format!("basalt_api_requests_waiting {count}\n");
    let seen = async { while !String::from_utf8_lossy(&server.get("/metrics").await.body).contains(&line) {} };
    tokio::time::timeout(PATIENCE, seen).await.expect("so many wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_noisy_client_waits_in_its_own_line_and_nobody_else_does() {
    let limits = Limits { in_flight_per_identity: 2, in_flight: 4, waiting_per_identity: 3, ..Limits::default() };
    let (server, store) = closable(limits).await;
    store.open.send_replace(false);
    let server = Arc::new(server);
    let noisy: Vec<_> = (0..5)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move { send_as(&server, "noisy", Method::POST, HOSTS, host(&format!("h{n}")).to_string()).await })
        })
        .collect();
    waiting(&server, 3).await;
    let refused = send_as(&server, "noisy", Method::POST, HOSTS, host("more").to_string()).await;
    assert_eq!(refused.headers["retry-after"], "1");
    let status = refused.refused(429, "TooManyRequests");
    assert_eq!(status["details"]["retryAfterSeconds"], 1);

    // Its own reads, other people, health and the other parts of the program go on.
    send_as(&server, "noisy", Method::GET, HOSTS, String::new()).await.ok(200);
    send_as(&server, "quiet", Method::GET, HOSTS, String::new()).await.ok(200);
    let other = tokio::spawn({
        let server = server.clone();
        async move { send_as(&server, "quiet", Method::POST, VMS, vm("v").to_string()).await }
    });
    assert_eq!(server.get("/readyz").await.code, 200);
    store.open.send_replace(true);
    for answer in join_all(noisy).await {
        answer.unwrap().ok(201);
    }
    other.await.unwrap().ok(201);
    waiting(&server, 0).await;
    send_as(&server, "noisy", Method::POST, HOSTS, host("more").to_string()).await.ok(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_places_are_taken_the_parts_of_the_program_go_on() {
    let limits = Limits { in_flight_per_identity: 1, in_flight: 1, waiting_per_identity: 0, ..Limits::default() };
    let (server, store) = closable(limits).await;
    store.open.send_replace(false);
    let server = Arc::new(server);
    let stuck = tokio::spawn({
        let server = server.clone();
        // Those who look whether the place is taken may have it just now.
        async move {
            loop {
                let answer = server.post(HOSTS, &host("h")).await;
                if answer.code != 429 {
                    break answer;
                }
            }
        }
    });
    let full = async { while send_as(&server, "other", Method::GET, HOSTS, String::new()).await.code != 429 {} };
    tokio::time::timeout(PATIENCE, full).await.expect("the place is taken");
    let mut request = Request::get(HOSTS).body(Body::empty()).unwrap();
    request.extensions_mut().insert(InProcess::default());
    assert_eq!(server.router.clone().oneshot(request).await.unwrap().status(), 200);
    for path in ["/livez", "/readyz", "/version"] {
        assert_eq!(server.get(path).await.code, 200, "{path}");
    }
    store.open.send_replace(true);
    stuck.await.unwrap().ok(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_too_fast_is_told_when_to_come_back() {
    let limits = Limits { reads: Rate { per_second: 0.02, burst: 3.0 }, ..Limits::default() };
    let server = start_within(limits, |store| store).await;
    for _ in 0..3 {
        send_as(&server, "fast", Method::GET, HOSTS, String::new()).await.ok(200);
    }
    let refused = send_as(&server, "fast", Method::GET, HOSTS, String::new()).await;
    let after: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=50).contains(&after), "{after}");
    refused.refused(429, "TooManyRequests");
    send_as(&server, "fast", Method::POST, HOSTS, host("h").to_string()).await.ok(201);
    send_as(&server, "other", Method::GET, HOSTS, String::new()).await.ok(200);
    let metrics = String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains("basalt_api_requests_refused_total{reason=\"rate\"} 1\n"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_has_so_many_watches_and_gets_them_back() {
    let server = start_within(Limits { watches_per_identity: 2, ..Limits::default() }, |store| store).await;
    let (first, mut second) = (server.watch(HOSTS).await, server.watch(HOSTS).await);
    server.get(&format!("{HOSTS}?watch=1")).await.refused(429, "TooManyRequests");
    send_as(&server, "other", Method::GET, &format!("{HOSTS}?watch=1&timeoutSeconds=1"), String::new()).await;
    server.post(HOSTS, &host("h")).await.ok(201);
    assert_eq!(second.take(1).await, ["ADDED h"]);
    drop(first);
    let again = async { while server.get(&format!("{HOSTS}?watch=1&timeoutSeconds=1")).await.code == 429 {} };
    tokio::time::timeout(PATIENCE, again).await.expect("a watch that has ended makes room");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_end_cleanly_with_the_server_and_with_a_bookmark_if_they_want_one() {
    let server = start().await;
    let mut marked = server.watch(&format!("{HOSTS}?allowWatchBookmarks=true")).await;
    let mut plain = server.watch(HOSTS).await;
    server.post(HOSTS, &host("h")).await.ok(201);
    let last = server.revision().await;
    for watch in [&mut marked, &mut plain] {
        assert_eq!(watch.take(1).await, ["ADDED h"]);
    }
    server.end();
    let line = marked.next().await.unwrap();
    assert_eq!((line.type_.as_str(), line.version()), ("BOOKMARK", last));
    assert_eq!((marked.next().await, plain.next().await), (None, None));
}
