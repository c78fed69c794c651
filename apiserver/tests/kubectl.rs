//! The real kubectl against the API server: what a person does every day. It is the one on PATH, which may be as old as
//! Debian 12's (1.20: it validates by OpenAPI version 2, before it sends anything) or new (the server validates).

mod common;

use common::{start, vm};

#[tokio::test(flavor = "multi_thread")]
async fn apply_get_describe_change_and_delete_work_as_against_kubernetes() {
    let server = start().await;
    let created = server.kubectl_ok(&["apply", "-f", "-"], &vm("web", "512Mi")).await;
    assert_eq!(created, "virtualmachine.basalt.dev/web created\n");
    assert!(server.kubectl_ok(&["apply", "-f", "-"], &vm("web", "512Mi")).await.contains("unchanged"));
    assert!(server.kubectl_ok(&["apply", "-f", "-"], &vm("web", "1Gi")).await.contains("configured"));
    let table = server.kubectl_ok(&["get", "vm"], "").await;
    assert!(table.contains("NAME") && table.contains("MEMORY") && table.contains("1Gi"), "{table}");
    assert!(server.kubectl_ok(&["get", "vm", "-o", "wide"], "").await.contains("EPOCH"));
    assert_eq!(server.kubectl_ok(&["get", "vm", "web", "-o", "jsonpath={.spec.memory}/{.spec.runStrategy}"], "").await, "1Gi/Always");
    assert!(server.kubectl_ok(&["describe", "vm", "web"], "").await.contains("1Gi"));
    server.kubectl_ok(&["patch", "vm", "web", "--type=merge", "-p", r#"{"spec":{"cpus":2}}"#], "").await;
    server.kubectl_ok(&["patch", "vm", "web", "--type=json", "-p", r#"[{"op":"replace","path":"/spec/cpus","value":3}]"#], "").await;
    server.kubectl_ok(&["label", "vm", "web", "app=web"], "").await;
    server.kubectl_ok(&["annotate", "vm", "web", "note=x"], "").await;
    assert!(server.kubectl_ok(&["get", "vm", "-l", "app=web", "-o", "name"], "").await.contains("virtualmachine.basalt.dev/web"));
    assert!(server.kubectl_ok(&["get", "vm", "-A"], "").await.contains("default"));
    assert!(server.kubectl_ok(&["get", "vm", "--field-selector", "metadata.name=other"], "").await.contains("No resources"));
    server.set_ready("web").await;
    server.kubectl_ok(&["wait", "vm/web", "--for=condition=Ready", "--timeout=5s"], "").await;
    server.kubectl_ok(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &vm("web", "2Gi")).await;
    assert!(server.kubectl_ok(&["delete", "vm", "web"], "").await.contains("deleted"));
    let (found, text) = server.kubectl(&["get", "vm", "web"], "").await;
    assert!(!found && text.contains("virtualmachines.basalt.dev \"web\" not found"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_of_server_side_apply_names_the_other_manager() {
    let server = start().await;
    server.kubectl_ok(&["apply", "--server-side", "--field-manager=alice", "-f", "-"], &vm("web", "1Gi")).await;
    let (success, text) = server.kubectl(&["apply", "--server-side", "--field-manager=bob", "-f", "-"], &vm("web", "2Gi")).await;
    assert!(!success && text.contains("alice") && text.contains(".spec.memory"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_are_listed_and_explained() {
    let server = start().await;
    let kinds = server.kubectl_ok(&["api-resources"], "").await;
    assert!(kinds.contains("virtualmachines") && kinds.contains("vm") && kinds.contains("leases"), "{kinds}");
    let explained = server.kubectl_ok(&["explain", "host.spec"], "").await;
    assert!(explained.contains("unschedulable") && explained.contains("No new VM is placed"), "{explained}");
    assert!(server.kubectl_ok(&["explain", "vm.spec.disks", "--recursive"], "").await.contains("readOnly"));
    for (kind, field, said) in [
        ("vm", "blockOwnerDeletion<boolean>", "What an operator wants"),
        ("secret", "stringData<map[string]string>", "encrypted where they are stored"),
        ("clusterrolebinding", "apiGroup<string>", "rights everywhere"),
        ("crd", "additionalPrinterColumns<[]Object>", "adds a kind"),
        ("lease", "holderIdentity<string>", "held by renewing it"),
    ] {
        // Between name and type stands a tab, or nothing: the old kubectl, which also writes fieldsV1 as a map of it does not know what.
        let whole = server.kubectl_ok(&["explain", kind, "--recursive"], "").await.replace('\t', "");
        assert!(whole.contains(field), "{whole}");
        assert!(whole.contains("fieldsV1<Object>") || whole.contains("fieldsV1<map[string]>"), "{whole}");
        let explained = server.kubectl_ok(&["explain", kind], "").await;
        assert!(explained.contains(said) && !explained.contains("<no description>"), "{explained}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_objects_are_refused_by_field_and_nothing_is_stored() {
    let server = start().await;
    // The second text is that of a kubectl that looks for itself.
    let cases = [
        (vm("web", "-1Gi"), "spec.memory: Invalid value: \"-1Gi\"", ""),
        (vm("web", "1Gi").replace("memory", "memroy"), "unknown field \"spec.memroy\"", "unknown field \"memroy\""),
        (vm("web", "1Gi, cpus: two"), "spec.cpus in body must be of type integer", "got \"string\", expected \"integer\""),
        (vm("web", "1Gi, cpus: 0"), "spec.cpus in body should be greater than or equal to 1", ""),
        (vm("web", "1Gi, disks: [{name: a, image: x}, {name: a, image: y}]"), "spec.disks[1]: Duplicate value", ""),
        (vm("web", "1Gi").replace("memory: 1Gi, ", ""), "spec.memory: Required value", "missing required field \"memory\""),
        (vm("web", "1Gi, runStrategy: Sometimes"), "supported values: \"Always\", \"RerunOnFailure\", \"Halted\"", ""),
        (vm("web", "1Gi").replace("kernel: {image: k}", "kernel: {image: k}, disk: {name: a}"), "one of kernel, disk", ""),
        (vm("We_b", "1Gi"), "RFC 1123 subdomain", ""),
        (vm(&"a".repeat(254), "1Gi"), "no more than 253", ""),
    ];
    for (manifest, wanted, by_itself) in cases {
        let (success, text) = server.kubectl(&["apply", "-f", "-"], &manifest).await;
        let told = text.contains(wanted) || (!by_itself.is_empty() && text.contains(by_itself));
        assert!(!success && told, "{manifest}\n{text}");
    }
    assert!(server.kubectl_ok(&["get", "vm", "-A"], "").await.contains("No resources found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_with_what_is_in_it() {
    let server = start().await;
    server.kubectl_ok(&["apply", "-f", "-"], "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n").await;
    server.kubectl_ok(&["apply", "-n", "team", "-f", "-"], &vm("web", "1Gi")).await;
    server.kubectl_ok(&["delete", "namespace", "team", "--timeout=20s"], "").await;
    assert!(server.kubectl_ok(&["get", "vm", "-A"], "").await.contains("No resources found"));
    let (success, text) = server.kubectl(&["apply", "-n", "team", "-f", "-"], &vm("web", "1Gi")).await;
    assert!(!success && text.contains("namespaces \"team\" not found"), "{text}");
}
