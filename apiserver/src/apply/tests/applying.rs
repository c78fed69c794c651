//! Server-side apply.

use super::fixture::*;
use crate::apply::{ApplyError, Manager, apply};
use serde_json::{Value, json};

#[test]
fn a_first_apply_creates_the_object_and_owns_exactly_what_it_says() {
    let intent = json!({
        "apiVersion": "basalt.dev/v1alpha1", "kind": "Machine",
        "metadata": {"name": "m", "namespace": "default", "labels": {"app": "web"}, "finalizers": ["x/y"]},
        "spec": {
            "cpus": 2, "disks": [{"name": "root", "size": 1, "tags": ["fast"]}], "ports": [{"name": "http"}],
            "groups": ["a", "b"], "args": ["x", "y"], "ref": {"kind": "Image", "name": "i"}, "options": {"k": "v"},
            "boot": {"image": "linux"}, "extra": {"deep": {"er": [1, {"a": 2}]}, "none": {}},
        },
        "status": {"phase": "Bogus"},
    });
    let object = applied("gitops", None, &intent);
    assert_eq!(object["spec"], intent["spec"]);
    assert_eq!(object.get("status"), None, "status is written through its subresource only");
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "gitops", "operation": "Apply", "apiVersion": "basalt.dev/v1alpha1", "time": "2026-11-23T10:01:40Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:finalizers": {"v:\"x/y\"": {}}, "f:labels": {"f:app": {}}},
                "f:spec": {
                    "f:cpus": {}, "f:args": {}, "f:boot": {"f:image": {}}, "f:options": {"f:k": {}}, "f:ref": {},
                    "f:disks": {"k:{\"name\":\"root\"}": {
                        ".": {}, "f:name": {}, "f:size": {}, "f:tags": {"v:\"fast\"": {}},
                    }},
                    "f:ports": {"k:{\"name\":\"http\",\"protocol\":\"TCP\"}": {".": {}, "f:name": {}}},
                    "f:groups": {"v:\"a\"": {}, "v:\"b\"": {}},
                    "f:extra": {"f:deep": {".": {}, "f:er": {}}, "f:none": {}},
                },
            },
        }])
    );
}

#[test]
fn applying_the_same_again_changes_nothing_not_even_times() {
    let intent = machine(json!({"cpus": 2, "disks": [{"name": "root"}]}));
    let first = applied("gitops", None, &intent);
    let second = apply(Some(&first), &intent, &kind(), by("gitops"), false, at(5000)).unwrap();
    assert_eq!(first, second);
}

#[test]
fn a_field_that_another_owns_with_another_value_is_a_conflict() {
    let live = created("kubectl-client-side-apply", machine(json!({"cpus": 1, "memory": "1Gi"})));
    let error = try_apply("gitops", Some(&live), &machine(json!({"cpus": 2}))).unwrap_err();
    let status = error.into_status(&kind(), "m").to_value();
    assert_eq!(
        status,
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Conflict", "code": 409,
            "message": "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using basalt.dev/v1alpha1: .spec.cpus",
            "details": {"causes": [{
                "reason": "FieldManagerConflict",
                "message": "conflict with \"kubectl-client-side-apply\" using basalt.dev/v1alpha1",
                "field": ".spec.cpus",
            }]},
        })
    );
}

#[test]
fn several_conflicts_are_listed_by_their_owners() {
    let live = created("ui", machine(json!({"memory": "1Gi", "disks": [{"name": "root", "size": 1}], "groups": ["a"]})));
    let live = applied("gitops", Some(&live), &machine(json!({"cpus": 1})));
    let status = Manager { name: "agent", subresource: "status" };
    let live = updated(status, &live, 1, |o| o["status"] = json!({"phase": "Running"}));
    let intent = machine(json!({"cpus": 2, "memory": "2Gi", "disks": [{"name": "root", "size": 2}]}));
    assert_eq!(
        try_apply("me", Some(&live), &intent).unwrap_err().to_string(),
        "Apply failed with 3 conflicts: conflicts with \"gitops\":\n- .spec.cpus\n\
         conflicts with \"ui\" using basalt.dev/v1alpha1:\n- .spec.disks[name=\"root\"].size\n- .spec.memory"
    );
    let through_status = Manager { name: "me", subresource: "status" };
    let intent = json!({"apiVersion": "basalt.dev/v1alpha1", "kind": "Machine", "status": {"phase": "Stopped"}});
    assert_eq!(
        apply(Some(&live), &intent, &kind(), through_status, false, at(100)).unwrap_err().to_string(),
        "Apply failed with 1 conflict: conflict with \"agent\" with subresource \"status\" using basalt.dev/v1alpha1: .status.phase"
    );
}

#[test]
fn force_takes_the_contested_fields_and_no_others() {
    let live = created("ui", machine(json!({"cpus": 1, "memory": "1Gi"})));
    let object = forced("gitops", &live, &machine(json!({"cpus": 2})));
    assert_eq!(object["spec"], json!({"cpus": 2, "memory": "1Gi"}));
    assert_eq!(owned(&object, "gitops", "Apply"), json!({"f:spec": {"f:cpus": {}}}));
    assert_eq!(owned(&object, "ui", "Update"), json!({"f:spec": {".": {}, "f:memory": {}}}));
}

#[test]
fn an_owner_that_loses_its_last_field_goes() {
    let live = applied("a", None, &machine(json!({"cpus": 1})));
    let object = forced("b", &live, &machine(json!({"cpus": 2})));
    assert_eq!(entries(&object).len(), 1);
    assert_eq!(entries(&object)[0]["manager"], "b");
}

#[test]
fn an_equal_value_is_shared_and_stays_until_its_last_owner_drops_it() {
    let both = machine(json!({"cpus": 2, "memory": "1Gi"}));
    let one = machine(json!({"memory": "1Gi"}));
    let live = applied("a", None, &both);
    let live = applied("b", Some(&live), &both);
    assert_eq!(owned(&live, "a", "Apply"), owned(&live, "b", "Apply"));
    let live = applied("a", Some(&live), &one);
    assert_eq!(live["spec"]["cpus"], 2);
    let live = applied("b", Some(&live), &one);
    assert_eq!(live["spec"], json!({"memory": "1Gi"}));
}

#[test]
fn a_field_that_a_plain_update_owns_too_stays_when_it_is_applied_no_more() {
    let live = created("ui", machine(json!({"cpus": 2, "memory": "1Gi"})));
    let live = applied("gitops", Some(&live), &machine(json!({"cpus": 2})));
    let live = applied("gitops", Some(&live), &machine(json!({})));
    assert_eq!(live["spec"], json!({"cpus": 2, "memory": "1Gi"}));
    assert_eq!(owned(&live, "gitops", "Apply"), json!({"f:spec": {}}));
}

#[test]
fn what_is_applied_no_more_goes_with_its_empty_parents_and_takes_defaults_along() {
    let live = applied("gitops", None, &machine(json!({"cpus": 1, "boot": {"image": "linux"}, "options": {"a": "1"}})));
    // The API server filled in a default that nobody owns.
    let mut live = live;
    live["spec"]["boot"]["cmdline"] = json!("quiet");
    let object = applied("gitops", Some(&live), &machine(json!({"cpus": 1})));
    assert_eq!(object["spec"], json!({"cpus": 1}));
    // Another owner inside keeps the parent and its own field, and the default.
    let shared = updated(by("ui"), &live, 1, |o| o["spec"]["options"]["b"] = json!("2"));
    let shared = updated(by("ui"), &shared, 2, |o| o["spec"]["boot"]["image"] = json!("bsd"));
    let object = applied("gitops", Some(&shared), &machine(json!({"cpus": 1})));
    assert_eq!(object["spec"], json!({"cpus": 1, "boot": {"image": "bsd", "cmdline": "quiet"}, "options": {"b": "2"}}));
}

#[test]
fn the_object_keeps_its_metadata_when_a_manager_applies_no_labels_any_more() {
    let mut live = applied("gitops", None, &labelled(json!({"a": "1"})));
    live["metadata"]["uid"] = json!("u-1");
    live["metadata"]["resourceVersion"] = json!("7");
    let object = applied("gitops", Some(&live), &machine(json!({"cpus": 1})));
    let mut metadata = object["metadata"].clone();
    metadata.as_object_mut().unwrap().remove("managedFields");
    assert_eq!(metadata, json!({"name": "m", "uid": "u-1", "resourceVersion": "7"}));
}

/// Live list, applied list, merged list, by the names of the items.
#[test]
fn a_keyed_list_merges_in_the_order_in_which_it_is_applied() {
    let cases: &[(&[&str], &[&str], &[&str])] = &[
        (&[], &["a", "b"], &["a", "b"]),
        (&["a", "b"], &[], &["a", "b"]),
        (&["a", "b"], &["a", "b"], &["a", "b"]),
        (&["a", "b"], &["b", "a"], &["b", "a"]),
        (&["a", "b"], &["c"], &["a", "b", "c"]),
        (&["a", "b"], &["c", "a"], &["c", "a", "b"]),
        (&["a", "b", "c"], &["x", "c"], &["a", "b", "x", "c"]),
        (&["a", "x", "b"], &["b", "a"], &["x", "b", "a"]),
        (&["a", "b", "x"], &["b", "a", "n"], &["b", "x", "a", "n"]),
        (&["x", "a", "y", "b", "z"], &["a", "n", "b"], &["x", "a", "y", "n", "b", "z"]),
    ];
    let list = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>();
    for (live, intent, merged) in cases {
        let object = created("ui", machine(json!({"cpus": 1, "disks": list(live)})));
        let object = applied("gitops", Some(&object), &machine(json!({"disks": list(intent)})));
        assert_eq!(object["spec"]["disks"], json!(list(merged)), "{live:?} + {intent:?}");
        let object = created("ui", machine(json!({"groups": live})));
        let object = applied("gitops", Some(&object), &machine(json!({"groups": intent})));
        assert_eq!(object["spec"]["groups"], json!(merged), "{live:?} + {intent:?} as sets");
    }
}

#[test]
fn items_of_a_keyed_list_merge_and_go_one_by_one() {
    let live = created("ui", machine(json!({"disks": [{"name": "root", "size": 1}, {"name": "swap", "size": 2}]})));
    let live = applied("gitops", Some(&live), &machine(json!({"disks": [{"name": "root", "tags": ["t"]}, {"name": "home"}]})));
    assert_eq!(live["spec"]["disks"], json!([{"name": "root", "size": 1, "tags": ["t"]}, {"name": "swap", "size": 2}, {"name": "home"}]));
    let live = applied("gitops", Some(&live), &machine(json!({"disks": []})));
    assert_eq!(live["spec"]["disks"], json!([{"name": "root", "size": 1}, {"name": "swap", "size": 2}]));
}

#[test]
fn a_missing_key_field_counts_with_its_default() {
    let live = created("ui", machine(json!({"ports": [{"name": "dns", "protocol": "TCP", "size": 1}]})));
    let object =
        applied("gitops", Some(&live), &machine(json!({"ports": [{"name": "dns", "size": 1}, {"name": "dns", "protocol": "UDP"}]})));
    assert_eq!(object["spec"]["ports"], json!([{"name": "dns", "protocol": "TCP", "size": 1}, {"name": "dns", "protocol": "UDP"}]));
}

#[test]
fn an_empty_list_is_owned_like_an_empty_map() {
    let live = applied("gitops", None, &machine(json!({"groups": ["a"], "options": {"k": "v"}})));
    let object = applied("gitops", Some(&live), &machine(json!({"groups": [], "options": {}})));
    assert_eq!(object["spec"], json!({"groups": [], "options": {}}));
    assert_eq!(owned(&object, "gitops", "Apply"), json!({"f:spec": {"f:groups": {}, "f:options": {}}}));
}

#[test]
fn atomic_lists_and_maps_are_owned_and_replaced_whole() {
    let live = created("ui", machine(json!({"args": ["a"], "ref": {"kind": "Image", "name": "i"}})));
    let intent = machine(json!({"args": ["b"], "ref": {"name": "j"}}));
    assert_eq!(conflicts("gitops", &live, &intent), ["ui Update .spec.args", "ui Update .spec.ref"]);
    assert_eq!(forced("gitops", &live, &intent)["spec"], json!({"args": ["b"], "ref": {"name": "j"}}));
}

#[test]
fn a_schema_that_makes_a_list_atomic_makes_its_part_owners_whole_owners() {
    let mut live = applied("a", None, &machine(json!({"args": ["x"]})));
    live["metadata"]["managedFields"][0]["fieldsV1"] = json!({"f:spec": {"f:args": {"v:\"x\"": {}}}});
    assert_eq!(conflicts("b", &live, &machine(json!({"args": ["y"]}))), ["a Apply .spec.args"]);
    let object = applied("a", Some(&live), &machine(json!({"args": ["y"]})));
    assert_eq!(owned(&object, "a", "Apply"), json!({"f:spec": {"f:args": {}}}));
}

#[test]
fn owners_by_uid_and_finalizers_merge() {
    let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "K", "name": uid, "uid": uid});
    let with = |owners: Value, finalizers: Value| {
        json!({"apiVersion": "basalt.dev/v1alpha1", "kind": "Machine",
            "metadata": {"name": "m", "ownerReferences": owners, "finalizers": finalizers}})
    };
    let live = created("ui", with(json!([owner("1")]), json!(["f/a"])));
    let live = applied("gitops", Some(&live), &with(json!([owner("2")]), json!(["f/b"])));
    assert_eq!(live["metadata"]["ownerReferences"], json!([owner("1"), owner("2")]));
    assert_eq!(live["metadata"]["finalizers"], json!(["f/a", "f/b"]));
    assert_eq!(
        owned(&live, "gitops", "Apply"),
        json!({"f:metadata": {"f:finalizers": {"v:\"f/b\"": {}}, "f:ownerReferences": {"k:{\"uid\":\"2\"}": {}}}})
    );
}

#[test]
fn unknown_fields_merge_by_what_they_look_like() {
    let live = created("ui", machine(json!({"extra": {"a": {"b": 1}, "l": [1]}})));
    let live = applied("gitops", Some(&live), &machine(json!({"extra": {"a": {"c": 2}}})));
    assert_eq!(live["spec"]["extra"], json!({"a": {"b": 1, "c": 2}, "l": [1]}));
    assert_eq!(owned(&live, "gitops", "Apply"), json!({"f:spec": {"f:extra": {"f:a": {".": {}, "f:c": {}}}}}));
    assert_eq!(conflicts("gitops", &live, &machine(json!({"extra": {"l": [2]}}))), ["ui Update .spec.extra.l"]);
}

#[test]
fn an_object_that_nobody_owns_belongs_to_before_first_apply() {
    let live = machine(json!({"cpus": 1, "memory": "1Gi"}));
    assert_eq!(conflicts("gitops", &live, &machine(json!({"cpus": 2}))), ["before-first-apply Update .spec.cpus"]);
    let object = applied("gitops", Some(&live), &machine(json!({"cpus": 1})));
    assert_eq!(owned(&object, "before-first-apply", "Update"), json!({"f:spec": {".": {}, "f:cpus": {}, "f:memory": {}}}));
}

#[test]
fn the_time_of_an_applier_moves_with_its_set_or_the_object() {
    let live = applied("a", None, &machine(json!({"cpus": 1})));
    let apply_at = |live: &Value, spec: Value, seconds: i64| {
        let object = apply(Some(live), &machine(spec), &kind(), by("a"), false, at(seconds)).unwrap();
        (entry(&object, "a", "Apply")["time"].clone(), object)
    };
    assert_eq!(apply_at(&live, json!({"cpus": 1}), 200).0, "2026-11-23T10:01:40Z");
    assert_eq!(apply_at(&live, json!({"cpus": 2}), 200).0, "2026-11-23T10:03:20Z");
    let other = updated(by("ui"), &live, 150, |o| o["spec"]["memory"] = json!("1Gi"));
    assert_eq!(apply_at(&other, json!({"cpus": 1, "memory": "1Gi"}), 200).0, "2026-11-23T10:03:20Z");
}

#[test]
fn status_is_applied_through_its_subresource_and_nothing_else_is() {
    let live = created("ui", machine(json!({"cpus": 1})));
    let intent = json!({
        "apiVersion": "basalt.dev/v1alpha1", "kind": "Machine",
        "metadata": {"name": "m", "labels": {"a": "b"}, "resourceVersion": "4"},
        "spec": {"cpus": 9},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    });
    let agent = Manager { name: "agent", subresource: "status" };
    let object = apply(Some(&live), &intent, &kind(), agent, false, at(9)).unwrap();
    assert_eq!((&object["spec"], &object["status"]), (&live["spec"], &intent["status"]));
    assert_eq!(object["metadata"].get("labels"), None);
    assert_eq!(object["metadata"]["resourceVersion"], "4");
    assert_eq!(
        entry(&object, "agent", "Apply"),
        json!({
            "manager": "agent", "operation": "Apply", "apiVersion": "basalt.dev/v1alpha1", "time": "2026-11-23T10:00:09Z",
            "fieldsType": "FieldsV1", "subresource": "status",
            "fieldsV1": {"f:status": {
                "f:phase": {},
                "f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:type": {}, "f:status": {}}},
            }},
        })
    );
}

#[test]
fn what_only_the_api_server_writes_is_not_taken_from_a_configuration() {
    let mut live = created("ui", machine(json!({"cpus": 1})));
    live["metadata"]["creationTimestamp"] = json!("2026-11-23T09:00:00Z");
    live["metadata"]["uid"] = json!("u-1");
    let mut intent = machine(json!({"cpus": 1}));
    intent["metadata"]["creationTimestamp"] = Value::Null;
    intent["metadata"]["generation"] = json!(99);
    intent["metadata"]["uid"] = json!("");
    let object = applied("gitops", Some(&live), &intent);
    assert_eq!(object["metadata"]["creationTimestamp"], "2026-11-23T09:00:00Z");
    assert_eq!(object["metadata"]["uid"], "u-1");
    assert_eq!(object["metadata"].get("generation"), None);
    assert_eq!(owned(&object, "gitops", "Apply"), json!({"f:spec": {"f:cpus": {}}}));
}

#[test]
fn ownership_that_is_no_list_is_an_error_too() {
    let mut live = machine(json!({}));
    live["metadata"]["managedFields"] = json!({});
    assert_eq!(
        try_apply("gitops", Some(&live), &machine(json!({}))).unwrap_err().to_string(),
        "failed to decode managed fields: metadata.managedFields: expected a list of entries, got an object"
    );
}

#[test]
fn kubectl_takes_over_what_client_side_apply_left() {
    let annotated = |spec: Value, last: Value| {
        let mut object = machine(spec);
        object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": machine(last).to_string() + "\n"});
        object
    };
    let before = json!({"cpus": 1, "memory": "1Gi"});
    let live = created("kubectl-client-side-apply", annotated(before.clone(), before.clone()));
    let object = applied("kubectl", Some(&live), &machine(json!({"cpus": 2})));
    assert_eq!(object["spec"]["cpus"], 2);
    assert_eq!(
        object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"],
        machine(json!({"cpus": 2})).to_string() + "\n"
    );
    assert_eq!(object, applied("kubectl", Some(&object), &machine(json!({"cpus": 2}))));
    // Another manager has no such claim; neither has kubectl on a field that was changed since.
    assert_eq!(conflicts("gitops", &live, &machine(json!({"cpus": 2}))), ["kubectl-client-side-apply Update .spec.cpus"]);
    let changed = updated(by("ui"), &live, 5, |o| o["spec"]["cpus"] = json!(7));
    assert_eq!(conflicts("kubectl", &changed, &machine(json!({"cpus": 2, "memory": "2Gi"}))), ["ui Update .spec.cpus"]);
}

#[test]
fn a_configuration_that_cannot_be_merged_is_refused_with_its_causes() {
    let cases = [
        (json!({"disks": [{"size": 1}]}), "spec.disks[0]: Required value: an item of this list is identified by name"),
        (json!({"disks": ["x"]}), "spec.disks[0]: an item of this list must be an object"),
        (json!({"disks": [{"name": "a"}, {"name": "a"}]}), "spec.disks[1]: Duplicate value: name=\"a\""),
        (json!({"groups": ["a", "a"]}), "spec.groups[1]: Duplicate value: \"a\""),
        (json!({"groups": [{}]}), "spec.groups[0]: an item of this set must be a string, number or boolean"),
    ];
    for (spec, message) in cases {
        let error = try_apply("gitops", None, &machine(spec)).unwrap_err();
        assert_eq!(error.into_status(&kind(), "m").to_string(), format!("Machine.basalt.dev \"m\" is invalid: {message}"));
    }
    let mut intent = machine(json!({}));
    intent["metadata"]["managedFields"] = json!([]);
    assert_eq!(
        try_apply("gitops", None, &intent).unwrap_err().to_string(),
        "the applied configuration is invalid: metadata.managedFields: must not be set in an applied configuration"
    );
    assert!(matches!(try_apply("gitops", None, &json!([])), Err(ApplyError::Invalid(_))));
}

#[test]
fn unreadable_ownership_of_the_live_object_is_an_error_that_says_where() {
    let good = json!({"manager": "a", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}});
    let cases = [
        ("operation", json!("Patch"), "operation: \"Patch\" is not one of Apply, Update"),
        ("apiVersion", json!(""), "apiVersion: must not be empty"),
        ("fieldsType", json!("FieldsV2"), "fieldsType: \"FieldsV2\" is not FieldsV1"),
        ("manager", json!(1), "manager: expected a string, got a number"),
        ("fieldsV1", json!({"f:a": 1}), "fieldsV1: a number stands where an object of fields is expected"),
        ("fieldsV1", json!({"f:a": {"b": {}}}), "fieldsV1: \"b\" is not a path element (f:<name>, k:<keys>, v:<value> or i:<index>)"),
        ("fieldsV1", json!({"k:[]": {}}), "fieldsV1: \"k:[]\" is not a path element (f:<name>, k:<keys>, v:<value> or i:<index>)"),
    ];
    for (name, value, what) in cases {
        let mut live = machine(json!({"cpus": 1}));
        let mut bad = good.clone();
        bad[name] = value;
        live["metadata"]["managedFields"] = json!([good, bad]);
        let status = try_apply("gitops", Some(&live), &machine(json!({"cpus": 1}))).unwrap_err().into_status(&kind(), "m");
        assert_eq!(
            (status.reason.code().as_u16(), status.message),
            (500, format!("failed to decode managed fields: metadata.managedFields[1].{what}"))
        );
    }
}
