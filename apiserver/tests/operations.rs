//! What whoever operates a server asks it: its health and its metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use common::{
    start,
    wire::{HOSTS, VMS, host, vm},
};
use http::Method;

/// The value of a series, by its name and labels as they stand in the text.
fn series(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

async fn metrics(server: &common::Server) -> String {
    String::from_utf8(server.get("/metrics").await.body.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_watches_and_the_store_are_measured() {
    let server = start().await;
    server.post(VMS, &vm("a")).await.ok(201);
    server.post(VMS, &vm("a")).await.refused(409, "AlreadyExists");
    let mut watch = server.watch(&format!("{VMS}?timeoutSeconds=600")).await;
    watch.take(1).await;
    let text = metrics(&server).await;
    let created = |code: u16| {
        format!(
            "basalt_api_request_duration_seconds_count{{verb=\"create\",group=\"basalt.dev\",resource=\"virtualmachines\",subresource=\"\",code=\"{code}\"}}"
        )
    };
    assert_eq!((series(&text, &created(201)), series(&text, &created(409))), (Some(1.0), Some(1.0)), "{text}");
    let watches = "basalt_api_watches{group=\"basalt.dev\",resource=\"virtualmachines\"}";
    assert_eq!(series(&text, watches), Some(1.0), "{text}");
    assert_eq!(series(&text, "basalt_api_requests_in_flight{kind=\"readonly\"}"), Some(1.0), "this one: {text}");
    let commits = series(&text, "basalt_store_operation_duration_seconds_count{operation=\"commit\",outcome=\"ok\"}");
    assert!(commits >= Some(2.0), "the namespace and the VM: {text}");
    assert_eq!(series(&text, "basalt_api_cache_lag_revisions"), Some(0.0), "{text}");
    assert_eq!(series(&text, "basalt_store_revision"), series(&text, "basalt_api_cache_revision"));
    drop(watch);
    // The server notices that the client is gone when its connection ends.
    let ended = async { while series(&metrics(&server).await, watches) != Some(0.0) {} };
    tokio::time::timeout(common::wire::PATIENCE, ended).await.expect("the watch is not counted any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_make_the_metrics_grow() {
    let server = start().await;
    server.post(HOSTS, &host("h")).await.ok(201);
    let shapes = |n: usize| {
        [
            (Method::GET, format!("/nowhere/{n}")),
            (Method::GET, format!("/apis/no{n}/v1/things")),
            (Method::GET, format!("/apis/basalt.dev/v1alpha1/no{n}")),
            (Method::GET, format!("{HOSTS}/h/no{n}")),
            (Method::PUT, format!("{HOSTS}/h/no{n}")),
            (Method::GET, format!("{HOSTS}/no{n}")),
            (Method::DELETE, format!("{VMS}/no{n}")),
            (Method::from_bytes(format!("NO{n}").as_bytes()).unwrap(), HOSTS.to_owned()),
        ]
    };
    let mut counts = Vec::new();
    for n in 0..4 {
        for (method, path) in shapes(n) {
            let code = server.send(method, &path, &[], "").await.code;
            assert!((404..=405).contains(&code), "{path}: {code}");
        }
        let text = metrics(&server).await;
        assert!(!text.contains(&format!("no{n}")) && !text.contains(&format!("NO{n}")), "{text}");
        counts.push(text.lines().count());
    }
    // The first answer does not have the series of its own reading yet.
    assert_eq!(counts[1..], [counts[1]; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_come_in_the_format_that_is_asked_for() {
    let server = start().await;
    let plain = server.get("/metrics").await;
    assert_eq!(plain.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let accept = [("accept", "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")];
    let open = server.send(Method::GET, "/metrics", &accept, "").await;
    assert!(open.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    assert!(open.body.ends_with(b"# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_each_check_when_asked() {
    let server = start().await;
    let text = async |path: &str| {
        let answer = server.get(path).await;
        (answer.code, String::from_utf8(answer.body.to_vec()).unwrap())
    };
    assert_eq!(text("/livez").await, (200, "ok".into()));
    assert_eq!(text("/livez?verbose").await, (200, "[+]ping ok\nlivez check passed\n".into()));
    let ready = "[+]ping ok\n[+]store ok\n[+]cache ok\n[+]shutdown ok\nreadyz check passed\n";
    assert_eq!(text("/readyz?verbose").await, (200, ready.into()));
    assert!(text("/readyz?verbose&exclude=store").await.1.contains("[+]store excluded: ok\n"));
    assert_eq!(text("/readyz/store").await, (200, "ok".into()));
    assert_eq!(text("/readyz/nothing").await.0, 404);

    server.end();
    assert_eq!(text("/livez").await.0, 200, "it still lives");
    let (code, told) = text("/readyz").await;
    assert_eq!(code, 500);
    assert!(told.contains("[-]shutdown failed: reason withheld\n") && told.ends_with("readyz check failed\n"), "{told}");
}
