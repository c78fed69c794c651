//! `virtualmachines/NAME/log` from the API to the host and back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests")]

mod common;

use basalt_proto::v1::{End, ReadConsole, TunnelAnswer, tunnel_answer::Answer, tunnel_request::Request};
use common::{Tunnel, create_vm, placed_vm, start, within};
use futures::{AsyncBufReadExt, AsyncReadExt};
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

fn log(name: &str, query: &str) -> http::Request<Vec<u8>> {
    http::Request::get(format!("/apis/basalt.dev/v1alpha1/namespaces/default/virtualmachines/{name}/log{query}")).body(vec![]).unwrap()
}

async fn refused(client: &Client, name: &str, query: &str) -> (u16, String) {
    match client.request_text(log(name, query)).await.unwrap_err() {
        kube::Error::Api(status) => (status.code, status.message.clone()),
        other => panic!("{other:?}"),
    }
}

async fn asked(tunnel: &mut Tunnel) -> (u64, ReadConsole) {
    let request = within("a request", tunnel.requests.message()).await.unwrap().unwrap();
    match request.request.unwrap() {
        Request::ReadConsole(console) => (request.id, console),
        other => panic!("{other:?}"),
    }
}

async fn cancelled(tunnel: &mut Tunnel, id: u64) {
    let request = within("the cancellation", tunnel.requests.message()).await.unwrap().unwrap();
    assert!(request.id == id && matches!(request.request, Some(Request::Cancel(_))), "{request:?}");
}

async fn answer(tunnel: &Tunnel, id: u64, answer: Answer) {
    within("room for an answer", tunnel.answers.send(TunnelAnswer { id, answer: Some(answer) })).await.unwrap();
}

fn end(error: &str) -> Answer {
    Answer::End(End { error: error.into() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_is_read_from_the_host_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, _reports) = gateway.ready_host("h1").await;
    let mut tunnel = agent.tunnel().await;
    let vm = placed_vm(&client, "web", "h1").await;
    let text = tokio::spawn({
        let client = client.clone();
        async move { client.request_text(log("web", "?tailLines=2")).await }
    });
    let (id, request) = asked(&mut tunnel).await;
    assert_eq!(request, ReadConsole { vm_uid: vm.uid().unwrap(), tail_lines: Some(2), follow: false });
    answer(&tunnel, id, Answer::Chunk(b"one\n".to_vec())).await;
    answer(&tunnel, id, Answer::Chunk(b"two\n".to_vec())).await;
    answer(&tunnel, id, end("")).await;
    assert_eq!(within("the text", text).await.unwrap().unwrap(), "one\ntwo\n");

    // An empty console is no error.
    let text = tokio::spawn({
        let client = client.clone();
        async move { client.request_text(log("web", "")).await }
    });
    let (id, request) = asked(&mut tunnel).await;
    assert_eq!((request.tail_lines, request.follow), (None, false));
    answer(&tunnel, id, end("")).await;
    assert_eq!(within("the text", text).await.unwrap().unwrap(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_console_goes_on_until_its_reader_goes() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, _reports) = gateway.ready_host("h1").await;
    let mut tunnel = agent.tunnel().await;
    placed_vm(&client, "web", "h1").await;
    let reading = tokio::spawn({
        let client = client.clone();
        async move { client.request_stream(log("web", "?follow=true")).await.map(Box::pin) }
    });
    let (id, request) = asked(&mut tunnel).await;
    assert!(request.follow);
    answer(&tunnel, id, Answer::Chunk(b"one\n".to_vec())).await;
    let mut stream = within("the response", reading).await.unwrap().unwrap();
    let mut line = String::new();
    within("the first line", stream.read_line(&mut line)).await.unwrap();
    answer(&tunnel, id, Answer::Chunk(b"two\n".to_vec())).await;
    within("the second line", stream.read_line(&mut line)).await.unwrap();
    assert_eq!(line, "one\ntwo\n");
    drop(stream);
    cancelled(&mut tunnel, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_console_ends_with_the_right_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, _reports) = gateway.ready_host("h1").await;
    let mut tunnel = agent.tunnel().await;
    placed_vm(&client, "web", "h1").await;
    let bob = gateway.token_client("bob").await;
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let binding = json!({
        "metadata": { "name": "bob" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "viewer" },
        "subjects": [{ "kind": "User", "name": "bob" }],
    });
    bindings.create(&Default::default(), &serde_json::from_value(binding).unwrap()).await.unwrap();
    let reading = tokio::spawn(async move { bob.request_stream(log("web", "?follow=true")).await.map(Box::pin) });
    let (id, _) = asked(&mut tunnel).await;
    answer(&tunnel, id, Answer::Chunk(b"one\n".to_vec())).await;
    let mut stream = within("the response", reading).await.unwrap().unwrap();
    let mut text = String::new();
    within("the first line", stream.read_line(&mut text)).await.unwrap();
    bindings.delete("bob", &Default::default()).await.unwrap();
    within("the end", stream.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "one\n");
    cancelled(&mut tunnel, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_before_anything_was_printed_cancels_too() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, _reports) = gateway.ready_host("h1").await;
    let mut tunnel = agent.tunnel().await;
    placed_vm(&client, "web", "h1").await;
    let reading = tokio::spawn({
        let client = client.clone();
        async move { client.request_stream(log("web", "?follow=true")).await.map(drop) }
    });
    let (id, _) = asked(&mut tunnel).await;
    reading.abort();
    cancelled(&mut tunnel, id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_console_that_cannot_be_read_is_a_status_that_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    create_vm(&client, "unplaced", json!({ "spec": { "runStrategy": "Halted" } })).await;
    let (code, message) = refused(&client, "unplaced", "").await;
    assert!(code == 400 && message.contains("unplaced") && message.contains("not placed"), "{code} {message}");
    assert_eq!(refused(&client, "nobody", "").await.0, 404);

    let (agent, _reports) = gateway.ready_host("h1").await;
    placed_vm(&client, "web", "h1").await;
    let (code, message) = refused(&client, "web", "").await;
    assert!(code == 503 && message.contains("h1") && message.contains("not connected"), "{code} {message}");
    for query in ["?tailLines=many", "?tailLines=-1", "?follow=perhaps"] {
        let (code, message) = refused(&client, "web", query).await;
        let parameter = query.trim_start_matches('?').split('=').next().unwrap();
        assert!(code == 400 && message.contains(parameter), "{query}: {code} {message}");
    }
    let mut tunnel = agent.tunnel().await;
    let asking = tokio::spawn({
        let client = client.clone();
        async move { refused(&client, "web", "").await }
    });
    let (id, _) = asked(&mut tunnel).await;
    answer(&tunnel, id, end("there is no console yet")).await;
    let (code, message) = within("the refusal", asking).await.unwrap();
    assert!(code == 503 && message.contains("h1") && message.contains("no console yet"), "{code} {message}");

    // A host that is lost in the middle.
    let asking = tokio::spawn({
        let client = client.clone();
        async move { refused(&client, "web", "").await }
    });
    asked(&mut tunnel).await;
    drop(tunnel);
    let (code, message) = within("the refusal", asking).await.unwrap();
    assert!(code == 503 && message.contains("lost"), "{code} {message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_up_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, _reports) = gateway.ready_host("h1").await;
    let mut tunnel = agent.tunnel().await;
    placed_vm(&client, "web", "h1").await;
    let slow = tokio::spawn({
        // A connection of its own, whose window is full soon.
        let client = gateway.admin().await;
        async move { client.request_stream(log("web", "?follow=true")).await.map(Box::pin) }
    });
    let (slow_id, _) = asked(&mut tunnel).await;
    answer(&tunnel, slow_id, Answer::Chunk(vec![b'x'; 1 << 16])).await;
    let mut slow = within("the response", slow).await.unwrap().unwrap();
    for _ in 0..128 {
        answer(&tunnel, slow_id, Answer::Chunk(vec![b'x'; 1 << 16])).await;
    }
    let other = tokio::spawn({
        let client = client.clone();
        async move { client.request_text(log("web", "")).await }
    });
    let (id, _) = asked(&mut tunnel).await;
    answer(&tunnel, id, Answer::Chunk(b"quick\n".to_vec())).await;
    answer(&tunnel, id, end("")).await;
    assert_eq!(within("the other's text", other).await.unwrap().unwrap(), "quick\n");
    answer(&tunnel, slow_id, end("")).await;
    let mut text = Vec::new();
    within("the slow one's text", slow.read_to_end(&mut text)).await.unwrap();
    assert_eq!(text.len(), 129 << 16);
}
