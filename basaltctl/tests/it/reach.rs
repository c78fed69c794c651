//! Reaching the server: the kubeconfig, the versions, and who is blamed when it cannot be reached.

use crate::cluster::{Cluster, Ctl};

#[test]
fn version_prints_the_client_even_if_the_server_is_away() {
    let cluster = Cluster::start();
    let run = cluster.run(&["version"]);
    assert_eq!(run.code, 0, "{run}");
    assert!(run.out.contains("client  ") && run.out.contains("server  "), "{run}");
    let both: serde_json::Value = serde_json::from_str(&cluster.run(&["version", "-o", "json"]).out).unwrap();
    assert!(both["clientVersion"]["gitVersion"].is_string() && both["serverVersion"].is_object());

    let away = Ctl::at("http://127.0.0.1:1");
    let run = away.run(&["version"]);
    assert_eq!(run.code, 9, "{run}");
    assert!(run.out.starts_with("client  ") && run.err.contains("nothing listens on 127.0.0.1:1"), "{run}");
    assert_eq!(away.run(&["version", "--client"]).code, 0);
    assert_eq!(away.run(&["--version"]).code, 0);
}

#[test]
fn an_unreachable_server_is_never_told_as_an_unknown_kind() {
    let run = Ctl::at("http://127.0.0.1:1").run(&["get", "frobs"]);
    assert_eq!(run.code, 9, "{run}");
    assert!(run.err.contains("nothing listens") && !run.err.contains("frobs"), "{run}");
}

#[test]
fn a_server_that_does_not_answer_is_given_up_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let run = Ctl::at(&format!("http://{}", silent.local_addr().unwrap())).run(&["get", "vm", "--request-timeout", "1s"]);
    assert_eq!(run.code, 9, "{run}");
    assert!(run.err.contains("does not answer") && run.err.contains("--request-timeout"), "{run}");
}

#[test]
fn what_is_no_tls_and_no_api_server_is_said_to_be_so() {
    let cluster = Cluster::start();
    let run = Ctl::at(&cluster.url().replace("http://", "https://")).run(&["get", "vm"]);
    assert_eq!(run.code, 9, "{run}");
    assert!(run.err.contains("does not speak it"), "{run}");
}

#[test]
fn the_kubeconfig_is_found_as_kubectl_finds_it() {
    let cluster = Cluster::start();
    let list = format!("/nowhere/a:{}", cluster.kubeconfig());
    assert_eq!(cluster.with("KUBECONFIG", &list).run(&["get", "hosts"]).code, 0);
    assert_eq!(cluster.with("KUBECONFIG", "/nowhere/a").run(&["get", "hosts", "--kubeconfig", &cluster.kubeconfig()]).code, 0);
    let run = cluster.with("KUBECONFIG", "/nowhere/a").run(&["get", "hosts"]);
    assert_eq!(run.code, 2, "{run}");
    assert!(run.err.contains("/nowhere/a"), "{run}");
    let run = cluster.run(&["get", "hosts", "--context", "lab-9"]);
    assert_eq!(run.code, 2, "{run}");
    assert!(run.err.contains("lab-9"), "{run}");
    let secret = cluster.file("broken", "users: [{name: a, user: {token: hunter2\n");
    let run = cluster.run(&["get", "hosts", "--kubeconfig", &secret]);
    assert_eq!(run.code, 2, "{run}");
    assert!(!run.err.contains("hunter2"), "{run}");
}

#[test]
fn nonsense_on_the_command_line_exits_with_2() {
    let ctl = Ctl::at("http://127.0.0.1:1");
    for words in [
        &["gte", "vm"][..],
        &["get"],
        &["get", "vm", "-o", "xml"],
        &["get", "vm", "--request-timeout", "soon"],
        &["get", "vm/a/b"],
        &["delete"],
    ] {
        assert_eq!(ctl.run(words).code, 2, "{words:?}");
    }
    assert!(ctl.run(&["gte"]).err.contains("Did you mean get?"));
    assert_eq!(ctl.run(&["exit-codes"]).out.lines().count(), 17);
}
