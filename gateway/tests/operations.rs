//! What whoever operates a gateway relies on: the audit log, and limits.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use basalt_api::Host;
use basalt_gateway::config::{AuditLevel, Settings};
use common::{Gateway, config, placed_vm, start, start_with, within};
use futures::StreamExt;
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use std::{os::unix::fs::PermissionsExt, path::Path};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn audit(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("audit/audit.log")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn asked(gateway: &Gateway, query: &str) -> Vec<Value> {
    let request = http::Request::get(format!("/audit?{query}")).body(vec![]).unwrap();
    let text = gateway.admin().await.request_text(request).await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_on_by_default_for_its_owner_only_and_whole_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let hosts: Api<Host> = Api::all(gateway.admin().await);
    for n in 0..20 {
        let host: Host = serde_json::from_value(json!({ "metadata": { "name": format!("h{n}") }, "spec": {} })).unwrap();
        hosts.create(&Default::default(), &host).await.unwrap();
    }
    gateway.stop().await;
    let mode = |path: &str| std::fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("audit"), mode("audit/audit.log")), (0o700, 0o600));
    let lines = audit(dir.path());
    let made: Vec<&Value> = lines.iter().filter(|line| line["verb"] == "create" && line["resource"] == "hosts").collect();
    assert_eq!(made.len(), 20, "every write is there: {lines:?}");
    let line = made[0];
    assert_eq!((&line["user"], &line["groups"], &line["code"]), (&json!("admin"), &json!(["system:masters"]), &json!(201)));
    assert!(line["source"].as_str().unwrap().starts_with("127.0.0.1:"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_controllers_and_hosts_write_names_what_made_them_act() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (_agent, _reports) = gateway.ready_host("h1").await;
    let vm = placed_vm(&client, "web", "h1").await;
    let placed = async {
        loop {
            let lines = asked(&gateway, "resource=virtualmachines&namespace=default&name=web&user=system:basalt:controllers").await;
            if let Some(line) = lines.iter().find(|line| line["subresource"] == "status") {
                return line.clone();
            }
        }
    };
    let line = within("the line of the placement", placed).await;
    let cause = json!({
        "controller": "vm", "group": "basalt.dev", "resource": "virtualmachines", "namespace": "default", "name": "web",
        "uid": vm.metadata.uid, "generation": 1,
    });
    assert_eq!(line["cause"], cause, "{line}");
    assert_eq!(line["source"], Value::Null, "it did not come over the network");
    // Its Event, which comes after it, has the same cause.
    let told = async {
        loop {
            let lines = asked(&gateway, "resource=virtualmachines&name=web&verb=create").await;
            if lines.iter().any(|line| line["resource"] == "events" && line["cause"] == cause) {
                return;
            }
        }
    };
    within("the line of the Event", told).await;

    let host = asked(&gateway, "user=system:basalt:hub&resource=hosts&name=h1&verb=patch").await;
    assert_eq!(host[0]["cause"], json!({ "controller": "hub", "group": "basalt.dev", "resource": "hosts", "name": "h1" }));
    assert!(asked(&gateway, "resource=leases&verb=patch&outcome=success").await.is_empty(), "heartbeats are not worth a line");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_can_be_turned_off_and_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut off = config(dir.path());
    off.audit = AuditLevel::Off;
    let gateway = start_with(off).await;
    let request = http::Request::get("/audit").body(vec![]).unwrap();
    assert!(matches!(gateway.admin().await.request_text(request).await, Err(kube::Error::Api(status)) if status.code == 404));
    gateway.stop().await;
    assert!(!dir.path().join("audit").exists());

    let mut all = config(dir.path());
    all.audit = AuditLevel::All;
    let gateway = start_with(all).await;
    Api::<Host>::all(gateway.admin().await).list(&Default::default()).await.unwrap();
    assert_eq!(asked(&gateway, "user=admin&verb=list").await.len(), 1);
}

#[test]
fn settings_of_the_audit_log_that_cannot_be_kept_are_refused() {
    let settings = Settings { audit_file_mib: Some(200), audit_total_mib: Some(100), ..Settings::default() };
    let error = settings.resolve().unwrap_err().to_string();
    assert!(error.contains("auditTotalMib") && error.contains("auditFileMib"), "{error}");
}

type Raw = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// A TLS connection to the API without any client behind it; as the administrator, or as nobody.
async fn raw(gateway: &Gateway, admin: bool, protocol: &[u8]) -> Raw {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(gateway.file("ca.crt").as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let mut config = match admin {
        true => {
            let certificate = CertificateDer::from_pem_slice(gateway.file("pki/admin.crt").as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(gateway.file("pki/admin.key").as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
        false => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = tokio::net::TcpStream::connect(gateway.ready.api).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.unwrap()
}

/// What comes until the server ends the connection, or until it has said so much.
async fn answer(stream: &mut Raw) -> String {
    let mut read = Vec::new();
    let all = async {
        while !read.windows(4).any(|four| four == b"\r\n\r\n") {
            match stream.read_buf(&mut read).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    within("an answer, or the end", all).await;
    String::from_utf8_lossy(&read).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_floods_are_refused_and_cost_nobody_else_anything() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let fine = raw_get(&gateway, "x: y\r\n".repeat(50)).await;
    assert!(fine.starts_with("HTTP/1.1 200"), "{fine}");
    for head in ["x: y\r\n".repeat(200), format!("x: {}\r\n", "y".repeat(1 << 20)), "x-endless: ".repeat(1 << 18)] {
        let refused = raw_get(&gateway, head).await;
        // An end without an answer is one too, while more of the head comes.
        assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 431") || refused.starts_with("HTTP/1.1 400"), "{refused}");
    }
    let refused = raw_get_h2(&gateway, 1 << 20).await;
    assert!(refused.is_none_or(|code| code == 431), "{refused:?}");
    assert_eq!(raw_get_h2(&gateway, 100).await, Some(200));
    gateway.stop().await;
}

async fn raw_get(gateway: &Gateway, fields: String) -> String {
    let mut stream = raw(gateway, false, b"http/1.1").await;
    let head = format!("GET /livez HTTP/1.1\r\nhost: h\r\nconnection: close\r\n{fields}\r\n");
    // The server need not read all of it.
    let _ = stream.write_all(head.as_bytes()).await;
    answer(&mut stream).await
}

/// The code of the answer to a request with a header field of this size; none if the server ends the request or the connection.
async fn raw_get_h2(gateway: &Gateway, size: usize) -> Option<u16> {
    let stream = raw(gateway, false, b"h2").await;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    let driving = tokio::spawn(connection);
    let uri = format!("https://{}/livez", gateway.ready.api);
    let request = http::Request::get(uri).header("x", "y".repeat(size)).body(String::new()).unwrap();
    let answer = within("an answer, or the end", sender.send_request(request)).await;
    driving.abort();
    answer.ok().map(|answer| answer.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_holds_its_places_holds_up_neither_hosts_nor_controllers() {
    let dir = tempfile::tempdir().unwrap();
    let mut tight = config(dir.path());
    (tight.limit_in_flight_per_identity, tight.limit_waiting_per_identity) = (2, 0);
    let gateway = start_with(tight).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        // The body never comes.
        let mut stream = raw(&gateway, true, b"http/1.1").await;
        let head =
            "POST /apis/basalt.dev/v1alpha1/hosts HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    let hosts: Api<Host> = Api::all(gateway.admin().await);
    let host: Host = serde_json::from_value(json!({ "metadata": { "name": "by-hand" }, "spec": {} })).unwrap();
    let refused = async {
        loop {
            match hosts.create(&kube::api::PostParams { dry_run: true, ..Default::default() }, &host).await {
                Err(kube::Error::Api(status)) => return status,
                other => assert!(other.is_ok(), "{other:?}"),
            }
        }
    };
    let refused = within("the refusal of another write", refused).await;
    assert_eq!((refused.code, refused.reason.as_str()), (429, "TooManyRequests"));
    assert_eq!(refused.details.as_ref().map(|details| details.retry_after_seconds), Some(1));
    // The hub writes that it is there, and the controller that it is Ready; and it may be read.
    let _ready = gateway.ready_host("h1").await;
    drop(held);
    within("room for writes again", async { while hosts.create(&Default::default(), &host).await.is_err() {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_do_not_say_who_they_are_are_few() {
    let dir = tempfile::tempdir().unwrap();
    let mut few = config(dir.path());
    few.limit_anonymous_per_second = 1;
    let gateway = start_with(few).await;
    let get = async |path: &str| {
        let mut stream = raw(&gateway, false, b"http/1.1").await;
        let head = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        answer(&mut stream).await
    };
    let mut codes = Vec::new();
    while codes.last().is_none_or(|code| code != "429") {
        codes.push(get("/apis").await[9..12].to_owned());
    }
    assert!(codes.len() > 1 && codes[..codes.len() - 1].iter().all(|code| code == "401"), "{codes:?}");
    assert!(get("/livez").await.starts_with("HTTP/1.1 200") && get("/version").await.starts_with("HTTP/1.1 200"));
    Api::<Host>::all(gateway.admin().await).list(&Default::default()).await.unwrap();
    // Each refusal for want of a name is a line, and what was too much is none.
    let lines = asked(&gateway, "user=system:anonymous").await;
    assert!(lines.len() == codes.len() - 1 && lines.iter().all(|line| line["code"] == 401), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_tls_ends_with_a_bookmark_when_the_gateway_ends() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let hosts: Api<Host> = Api::all(gateway.admin().await);
    let mut watch = hosts.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let host: Host = serde_json::from_value(json!({ "metadata": { "name": "h" }, "spec": {} })).unwrap();
    hosts.create(&Default::default(), &host).await.unwrap();
    assert!(matches!(within("the host", watch.next()).await, Some(Ok(WatchEvent::Added(_)))));
    let ended = tokio::spawn(gateway.stop());
    let last = within("the end of the watch", async {
        let mut last = None;
        while let Some(event) = watch.next().await {
            last = Some(event.expect("it ends between events"));
        }
        last
    });
    assert!(matches!(last.await, Some(WatchEvent::Bookmark(_))));
    ended.await.unwrap();
}
