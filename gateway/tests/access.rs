//! How people reach the API over TLS, and what stays the same when the gateway is started again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests")]

mod common;

use basalt_api::{Host, VirtualMachine};
use common::{epoch, manifest, placed_vm, start, vms, within};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use serde_json::json;
use std::{os::unix::fs::PermissionsExt, path::Path, process::Output, process::Stdio};
use tokio::io::AsyncWriteExt;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_ca_the_token_the_identity_and_the_generations_going_up() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, reports) = gateway.ready_host("h1").await;
    let vm = placed_vm(&client, "web", "h1").await;
    let mut manifests = agent.manifests(0).await;
    let before = manifest(&mut manifests, "the VM", |m| m.vms.len() == 1).await;
    // The newest change of all is one whose object is gone.
    Api::<Host>::all(client.clone()).delete("h1", &Default::default()).await.unwrap();
    let (ca, token, uid) = (gateway.file("ca.crt"), gateway.token(), gateway.ready.cluster_uid.clone());
    drop((reports, client));
    gateway.stop().await;
    assert!(!dir.path().join("gateway.json").exists(), "a gateway that has ended is not ready");

    let gateway = start(dir.path()).await;
    assert_eq!((gateway.file("ca.crt"), gateway.token(), gateway.ready.cluster_uid.clone()), (ca, token, uid));
    let place: serde_json::Value = serde_json::from_str(&gateway.file("gateway.json")).unwrap();
    assert_eq!(place["clusterUid"], gateway.ready.cluster_uid);
    assert_eq!(place["pid"], std::process::id());
    assert_eq!(place["apiUrl"], format!("https://{}", gateway.ready.api));
    assert_eq!(place["hubUrl"], format!("https://{}", gateway.ready.hub));
    // The certificate of before is still good.
    let hub = gateway.dial(Some((&agent.enrolled.certificate_pem, &agent.key))).await.unwrap();
    let agent = common::Agent { hub, ..agent };
    let mut manifests = agent.manifests(before.generation).await;
    let after = manifest(&mut manifests, "the VM", |m| m.vms.len() == 1).await;
    assert_eq!(after.hash, before.hash);
    assert!(after.generation >= before.generation, "{} < {}", after.generation, before.generation);
    common::place_by_hand(&gateway.admin().await, "web", "h2", epoch(&vm) + 1).await;
    let next = manifest(&mut manifests, "no VM", |m| m.vms.is_empty()).await;
    assert!(next.generation > after.generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_for_their_owner_and_the_ca_is_for_all() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    for secret in ["pki/ca.key", "pki/server.key", "pki/admin.key", "join-token", "admin.kubeconfig", "secret-keys"] {
        assert_eq!(mode(&dir.path().join(secret)), 0o600, "{secret}");
    }
    assert_eq!(mode(&dir.path().join("pki")), 0o700);
    assert_eq!(mode(&dir.path().join("ca.crt")), 0o644);
    assert_eq!(gateway.token().trim().len(), 64, "256 bits in hexadecimal");
    let log = gateway.file("gateway.json");
    assert!(!log.contains(gateway.token().trim()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_only_the_health_and_the_version_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let mut config = kube::Config::new(format!("https://{}", gateway.ready.api).parse().unwrap());
    config.root_cert = Some(vec![x509_parser::pem::parse_x509_pem(gateway.file("ca.crt").as_bytes()).unwrap().1.contents]);
    let client = kube::Client::try_from(config).unwrap();
    let get = |path: &str| client.request_text(http::Request::get(path.to_owned()).body(vec![]).unwrap());
    assert_eq!(get("/readyz").await.unwrap(), "ok");
    assert!(get("/version").await.unwrap().contains("gitVersion"));
    match get("/apis/basalt.dev/v1alpha1/hosts").await.unwrap_err() {
        kube::Error::Api(status) => assert_eq!((status.code, status.reason.as_str()), (401, "Unauthorized")),
        other => panic!("{other:?}"),
    }
    assert!(get("/livez?verbose").await.unwrap().contains("[+]ping ok"));
    assert!(get("/metrics").await.is_err(), "what there is and how busy it is is not for everybody");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_tell_of_hosts_controllers_and_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let (agent, _reports) = gateway.ready_host("h1").await;
    let mut manifests = agent.manifests(0).await;
    manifest(&mut manifests, "the first", |_| true).await;
    let text = client.request_text(http::Request::get("/metrics").body(vec![]).unwrap()).await.unwrap();
    assert!(text.contains("basalt_hub_hosts_connected 1.0\n"), "{text}");
    for series in [
        "basalt_controller_reconciles_total{controller=\"host\",outcome=\"ok\"}",
        "basalt_controller_reconcile_duration_seconds_count{controller=\"host\"}",
        "basalt_controller_reconciles_in_flight{controller=\"host\"}",
        "basalt_build_info{version=",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(text.contains(&format!("\n{series}")), "{series}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_watches_and_idle_connections_do_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let client = gateway.admin().await;
    let hosts: Api<Host> = Api::all(client.clone());
    let mut watch = hosts.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    // One that shakes hands and says nothing, and one that does not even shake hands.
    let _mute = gateway.dial(None).await.unwrap();
    let _rude = tokio::net::TcpStream::connect(gateway.ready.api).await.unwrap();
    gateway.stop().await;
    let rest = within("the end of the watch", async { while let Ok(Some(_)) = watch.try_next().await {} });
    rest.await;
    start(dir.path()).await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_on_the_same_data_is_refused_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let second = basalt_gateway::run(common::config(dir.path()), Default::default(), |_| ());
    let error = within("the refusal", second).await.unwrap_err().to_string();
    assert!(error.contains("store"), "{error}");
    let client = gateway.admin().await;
    assert!(Api::<Host>::all(client).list(&Default::default()).await.unwrap().items.is_empty());
    assert!(dir.path().join("gateway.json").exists(), "the first is still ready");
}

async fn kubectl(kubeconfig: &Path, arguments: &[&str], input: &str) -> Output {
    let mut child = tokio::process::Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["--cache-dir", &kubeconfig.with_file_name("kube-cache").to_string_lossy()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl is on PATH (Debian: kubernetes-client)");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    within("kubectl", child.wait_with_output()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_with_the_kubeconfig_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (agent, _reports) = gateway.ready_host("h1").await;
    let kubeconfig = gateway.kubeconfig();
    let told = |output: Output| {
        let (out, err) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
        assert!(output.status.success(), "{out}{err}");
        out
    };
    let vm = "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {name: web}\nspec:\n  memory: 256Mi\n  boot: {kernel: {image: linux}}\n";
    assert!(told(kubectl(&kubeconfig, &["apply", "-f", "-"], vm).await).contains("web created"));
    told(kubectl(&kubeconfig, &["wait", "vm/web", "--for=condition=Scheduled", "--timeout=20s"], "").await);
    let hosts = told(kubectl(&kubeconfig, &["get", "hosts"], "").await);
    assert!(hosts.contains("h1") && hosts.contains("Ready"), "{hosts}");

    // The console, by the path that kubectl asks raw.
    let mut tunnel = agent.tunnel().await;
    let path = "/apis/basalt.dev/v1alpha1/namespaces/default/virtualmachines/web/log";
    let reading = tokio::spawn(async move { kubectl(&kubeconfig, &["get", "--raw", path], "").await });
    let asked = within("the request", tunnel.requests.message()).await.unwrap().unwrap();
    for answer in [
        basalt_proto::v1::tunnel_answer::Answer::Chunk(b"hello from the guest\n".to_vec()),
        basalt_proto::v1::tunnel_answer::Answer::End(Default::default()),
    ] {
        tunnel.answers.send(basalt_proto::v1::TunnelAnswer { id: asked.id, answer: Some(answer) }).await.unwrap();
    }
    assert_eq!(told(within("kubectl", reading).await.unwrap()), "hello from the guest\n");
    assert!(vms(&gateway.admin().await).get_opt("web").await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_reaches_itself_its_lease_and_its_vms_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let (h1, _r1) = gateway.ready_host("h1").await;
    let admin = gateway.admin().await;
    placed_vm(&admin, "web", "h1").await;
    let (h2, _r2) = gateway.ready_host("h2").await;
    let h1 = gateway.client(Some((&h1.enrolled.certificate_pem, &h1.key)));
    let h2 = gateway.client(Some((&h2.enrolled.certificate_pem, &h2.key)));
    let ask = async |client: &kube::Client, method: &str, path: &str| {
        let request = http::Request::builder().method(method).uri(path).header("content-type", "application/merge-patch+json");
        let body = if method == "GET" { vec![] } else { b"{}".to_vec() };
        match client.request_text(request.body(body).unwrap()).await {
            Ok(_) => 200,
            Err(kube::Error::Api(status)) => status.code,
            Err(other) => panic!("{other:?}"),
        }
    };
    let ours = "/apis/basalt.dev/v1alpha1";
    let lease = "/apis/coordination.k8s.io/v1/namespaces/basalt-system/leases/h1";
    let (host, vm) = (format!("{ours}/hosts/h1"), format!("{ours}/namespaces/default/virtualmachines/web"));
    for (method, path) in [
        ("GET", host.clone()),
        ("PATCH", format!("{host}/status")),
        ("GET", lease.to_owned()),
        ("PATCH", lease.to_owned()),
        ("GET", vm.clone()),
        ("PATCH", format!("{vm}/status")),
    ] {
        assert_eq!(ask(&h1, method, &path).await, 200, "{method} {path}");
        assert_eq!(ask(&h2, method, &path).await, 403, "{method} {path}");
    }
    for (method, path) in [
        ("PATCH", host.clone()),
        ("DELETE", host),
        ("GET", format!("{ours}/hosts")),
        ("PATCH", vm.clone()),
        ("DELETE", vm),
        ("GET", format!("{ours}/virtualmachines")),
        ("GET", format!("{ours}/namespaces/default/virtualmachines/none")),
        ("GET", "/api/v1/namespaces".to_owned()),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles".to_owned()),
        ("GET", "/metrics".to_owned()),
    ] {
        assert_eq!(ask(&h1, method, &path).await, 403, "{method} {path}");
    }
    // What was its own is seen until it is another's.
    let vms_of_h1 = vms(&h1);
    let mut watch = vms_of_h1.watch(&WatchParams::default().fields("metadata.name=web"), "0").await.unwrap().boxed();
    let first = within("the VM", watch.try_next()).await.unwrap();
    assert!(matches!(first, Some(WatchEvent::Added(_))), "{first:?}");
    let placed = vms(&admin).get("web").await.unwrap();
    common::place_by_hand(&admin, "web", "h2", epoch(&placed) + 1).await;
    let rest: Vec<_> = within("the end of the watch", watch.try_collect()).await.unwrap();
    let of_h1 = |event: &WatchEvent<VirtualMachine>| matches!(event, WatchEvent::Modified(vm) if vm.status.as_ref().unwrap().host.as_deref() == Some("h1"));
    assert!(rest.iter().all(of_h1), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_built_in_role_may_do_what_is_written_of_it_and_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let admin = gateway.admin().await;
    let ours = "/apis/basalt.dev/v1alpha1";
    let create = async |path: &str, object: serde_json::Value| {
        let request = http::Request::post(path).header("content-type", "application/json");
        admin.request_text(request.body(object.to_string().into_bytes()).unwrap()).await.unwrap();
    };
    let roles = ["viewer", "operator", "auditor", "admin"];
    for role in roles {
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": { "name": role },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": role }],
        });
        create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    }
    let (_h1, _reports) = gateway.ready_host("h1").await;
    placed_vm(&admin, "web", "h1").await;
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "stringData": { "word": "w" } });
    create("/api/v1/namespaces/default/secrets", secret).await;
    let task = json!({
        "apiVersion": "basalt.dev/v1alpha1", "kind": "Task", "metadata": { "name": "t", "namespace": "default" },
        "spec": { "host": "h1", "operation": { "probe": { "steps": 1 } } },
    });
    create(&format!("{ours}/namespaces/default/tasks"), task).await;
    let clients: Vec<_> = futures::future::join_all(roles.map(|role| gateway.token_client(role))).await;

    let vm = format!("{ours}/namespaces/default/virtualmachines/web");
    let review = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": { "user": "viewer", "resourceAttributes": { "verb": "get", "resource": "hosts", "group": "basalt.dev" } } });
    let (none, change) = (json!(null), json!({ "metadata": { "labels": { "a": "b" } } }));
    // Method, path, body, and who may: viewer, operator, auditor, admin.
    let cases = [
        ("GET", vm.clone(), &none, [true, true, true, true]),
        ("GET", format!("{vm}/status"), &none, [true, true, true, true]),
        ("GET", format!("{ours}/hosts"), &none, [true, true, true, true]),
        ("GET", format!("{ours}/namespaces/default/tasks/t/log"), &none, [true, true, false, true]),
        ("GET", format!("{vm}/placement"), &none, [true, true, false, true]),
        ("GET", "/api/v1/namespaces/default/events".into(), &none, [true, true, true, true]),
        ("GET", "/apis/coordination.k8s.io/v1/leases".into(), &none, [true, true, true, true]),
        ("PATCH", vm.clone(), &change, [false, true, false, true]),
        ("PATCH", format!("{ours}/namespaces/default/tasks/t"), &change, [false, true, false, true]),
        // A status is its controller's.
        ("PATCH", format!("{vm}/status"), &change, [false, false, false, true]),
        ("PATCH", "/api/v1/namespaces/default".into(), &change, [false, false, false, true]),
        ("GET", "/api/v1/namespaces/default/secrets/s".into(), &none, [false, false, false, true]),
        ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".into(), &none, [false, false, true, true]),
        ("GET", "/apis/authentication.basalt.dev/v1/accesstokens".into(), &none, [false, false, true, true]),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews".into(), &review, [false, false, true, true]),
        ("GET", "/audit".into(), &none, [false, false, true, true]),
        ("GET", "/metrics".into(), &none, [false, false, true, true]),
        ("GET", "/version".into(), &none, [true, true, true, true]),
        ("DELETE", vm, &none, [false, true, false, true]),
    ];
    for (method, path, body, may) in cases {
        for ((role, client), may) in roles.iter().zip(&clients).zip(may) {
            let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
            let request = http::Request::builder().method(method).uri(&path).header("content-type", kind);
            let body = if body.is_null() { vec![] } else { body.to_string().into_bytes() };
            let answer = client.request_text(request.body(body).unwrap()).await;
            let refused = matches!(&answer, Err(kube::Error::Api(status)) if status.code == 403);
            assert_eq!(refused, !may, "{role} {method} {path}: {answer:?}");
            let other = matches!(&answer, Err(kube::Error::Api(status)) if ![403, 404].contains(&status.code));
            assert!(!other && (refused || answer.is_ok() || method == "DELETE"), "{role} {method} {path}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_roles_are_there_and_a_certificate_of_another_ca_is_of_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = start(dir.path()).await;
    let roles: Api<k8s_openapi::api::rbac::v1::ClusterRole> = Api::all(gateway.admin().await);
    for name in ["viewer", "operator", "admin", "auditor", "system:basic-user"] {
        roles.get(name).await.unwrap();
    }
    // The same names, signed by somebody else.
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let own = params.self_signed(&key).unwrap();
    let other_dir = tempfile::tempdir().unwrap();
    let other = start(other_dir.path()).await;
    let (certificate, secret) = (other.file("pki/admin.crt"), other.file("pki/admin.key"));
    for (certificate, key) in [(own.pem(), key.serialize_pem()), (certificate, secret)] {
        let client = gateway.client(Some((&certificate, &key)));
        let refused = client.request_text(http::Request::get("/api/v1/namespaces").body(vec![]).unwrap()).await.unwrap_err();
        assert!(!matches!(refused, kube::Error::Api(_)), "the connection is refused: {refused:?}");
    }
}
