//! `audit`: what was done is found again by who, what, when and outcome.

use crate::cluster::{Cluster, VM};

#[test]
fn what_was_done_is_found_by_object_verb_and_outcome() {
    let cluster = Cluster::start();
    cluster.applied(VM);
    assert_ne!(cluster.run(&["delete", "vm/nothing"]).code, 0);
    let run = cluster.run(&["audit", "--for", "vm/web-1", "--since", "1h"]);
    assert_eq!(run.code, 0, "{run}");
    assert!(run.out.starts_with("TIME") && run.out.contains("virtualmachines/default/web-1"), "{run}");
    assert!(run.out.contains("admin") && run.out.contains("201") && !run.out.contains("nothing"), "{run}");

    let run = cluster.run(&["audit", "--user", "admin", "--outcome", "success", "-o", "json"]);
    let lines: Vec<serde_json::Value> = run.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["name"] == "web-1"), "{run}");

    let run = cluster.run(&["audit", "--user", "nobody"]);
    assert_eq!((run.code, run.out.as_str()), (0, ""), "{run}");
    assert!(run.err.contains("Nothing found"), "{run}");
    let run = cluster.run(&["audit", "--outcome", "fine"]);
    assert!(run.code != 0 && run.err.contains("success, denied, failed"), "{run}");
}
