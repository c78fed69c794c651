//! What whoever operates a gateway relies on: the audit log, and limits.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use basalt_api::Host;
use basalt_gateway::config::{AuditLevel, Settings};
use common::{Gateway, config, placed_vm, start, start_with, within};
use kube::Api;
use serde_json::{Value, json};
use std::{os::unix::fs::PermissionsExt, path::Path};

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
