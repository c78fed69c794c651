//! What is written under a lease is written only while the lease is the writer's.
#![allow(clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use axum::body::Body;
use basalt_apiserver::Fence;
use common::{
    Server, start,
    wire::{LEASES, MERGE, VMS, resource_version, vm},
};
use http::{Request, StatusCode, header};
use serde_json::{Value, json};
use tower::ServiceExt;

/// What a request behind a fence is answered.
async fn behind(server: &Server, revision: u64, method: &str, path: &str, body: &Value) -> StatusCode {
    let fence = Fence { namespace: "default".into(), lease: "term".into(), revision };
    let type_ = if method == "PATCH" { MERGE } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, type_).extension(fence);
    let answer = server.router.clone().oneshot(request.body(Body::from(body.to_string())).expect("it is a request"));
    answer.await.expect("a router answers").status()
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_term_has_ended_writes_nothing() {
    let server = start().await;
    let term = resource_version(&server.post(LEASES, &json!({ "metadata": { "name": "term" } })).await.ok(201));
    let web = format!("{VMS}/web");
    let more = json!({ "spec": { "cpus": 2 } });
    assert_eq!(behind(&server, term, "POST", VMS, &vm("web")).await, 201);
    assert_eq!(behind(&server, term, "PATCH", &web, &more).await, 200);

    let taken = json!({ "spec": { "holderIdentity": "another" } });
    let next = resource_version(&server.patch(&format!("{LEASES}/term"), MERGE, &taken).await.ok(200));
    let before = server.get(&web).await.ok(200);
    for (method, path, body) in [
        ("POST", VMS, vm("late")),
        ("PATCH", web.as_str(), json!({ "spec": { "cpus": 3 } })),
        ("DELETE", web.as_str(), json!({ "kind": "DeleteOptions" })),
    ] {
        assert_eq!(behind(&server, term, method, path, &body).await, 409, "{method}");
    }
    assert_eq!(server.get(VMS).await.ok(200)["items"], json!([before]));
    // Reading is free, and the next term writes.
    assert_eq!(behind(&server, term, "GET", &web, &json!(null)).await, 200);
    assert_eq!(behind(&server, next, "DELETE", &web, &json!({ "kind": "DeleteOptions" })).await, 200);
    server.delete(&format!("{LEASES}/term"), json!(null)).await.ok(200);
    assert_eq!(behind(&server, next, "POST", VMS, &vm("late")).await, 409);
}
