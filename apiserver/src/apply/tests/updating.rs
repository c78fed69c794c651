//! Ownership by writes other than apply.

use super::fixture::*;
use crate::apply::{Manager, record_update, unchanged};
use serde_json::{Value, json};

#[test]
fn a_creator_owns_the_fields_and_the_containers() {
    let object = created(
        "ui",
        json!({
            "apiVersion": "basalt.dev/v1alpha1", "kind": "Machine",
            "metadata": {"name": "m", "labels": {"app": "web"}, "uid": "u", "creationTimestamp": "2026-11-23T09:00:00Z"},
            "spec": {"cpus": 1, "disks": [{"name": "root"}], "groups": ["a"], "args": ["x"], "boot": {}},
            "status": {"phase": "Pending"},
        }),
    );
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{
            "manager": "ui", "operation": "Update", "apiVersion": "basalt.dev/v1alpha1", "time": "2026-11-23T10:00:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    ".": {}, "f:cpus": {}, "f:args": {}, "f:boot": {}, "f:groups": {".": {}, "v:\"a\"": {}},
                    "f:disks": {".": {}, "k:{\"name\":\"root\"}": {".": {}, "f:name": {}}},
                },
            },
        }])
    );
}

#[test]
fn a_writer_owns_what_it_changed_and_the_former_owner_does_not() {
    let live = created("a", machine(json!({"cpus": 1, "memory": "1Gi"})));
    let live = updated(by("b"), &live, 60, |o| o["spec"]["cpus"] = json!(2));
    assert_eq!(owned(&live, "a", "Update"), json!({"f:spec": {".": {}, "f:memory": {}}}));
    assert_eq!(owned(&live, "b", "Update"), json!({"f:spec": {"f:cpus": {}}}));
    assert_eq!(entry(&live, "a", "Update")["time"], "2026-11-23T10:00:00Z");
    assert_eq!(entry(&live, "b", "Update")["time"], "2026-11-23T10:01:00Z");
}

#[test]
fn a_write_of_the_same_values_changes_no_owner_and_no_time() {
    let live = created("a", machine(json!({"cpus": 1, "disks": [{"name": "root", "size": 1}]})));
    let new = updated(by("b"), &live, 60, |_| {});
    assert_eq!(new, live);
    // Neither does a client that does not send managedFields at all.
    let new = updated(by("b"), &live, 60, |o| {
        o["metadata"].as_object_mut().unwrap().remove("managedFields");
    });
    assert_eq!(new, live);
}

#[test]
fn a_removed_field_belongs_to_nobody() {
    let live = applied("gitops", None, &machine(json!({"cpus": 1, "memory": "1Gi", "disks": [{"name": "root", "size": 1}]})));
    let live = updated(by("ui"), &live, 60, |o| {
        let spec = o["spec"].as_object_mut().unwrap();
        spec.remove("cpus");
        spec["disks"] = json!([]);
    });
    assert_eq!(owned(&live, "gitops", "Apply"), json!({"f:spec": {"f:memory": {}}}));
    assert_eq!(owned(&live, "ui", "Update"), Value::Null);
}

#[test]
fn a_change_inside_an_item_takes_that_field_only() {
    let live = applied("gitops", None, &machine(json!({"disks": [{"name": "root", "size": 1}, {"name": "swap"}]})));
    let live = updated(by("ui"), &live, 60, |o| o["spec"]["disks"][0]["size"] = json!(2));
    assert_eq!(
        owned(&live, "gitops", "Apply"),
        json!({"f:spec": {"f:disks": {
            "k:{\"name\":\"root\"}": {".": {}, "f:name": {}}, "k:{\"name\":\"swap\"}": {".": {}, "f:name": {}},
        }}})
    );
    assert_eq!(owned(&live, "ui", "Update"), json!({"f:spec": {"f:disks": {"k:{\"name\":\"root\"}": {"f:size": {}}}}}));
    // A mere change of order is nobody's.
    let turned = updated(by("x"), &live, 90, |o| o["spec"]["disks"].as_array_mut().unwrap().reverse());
    assert_eq!(entries(&turned), entries(&live));
}

#[test]
fn writes_by_one_manager_join_and_those_through_status_are_kept_apart() {
    let live = created("a", machine(json!({"cpus": 1})));
    let live = updated(by("a"), &live, 30, |o| o["spec"]["memory"] = json!("1Gi"));
    let live = updated(Manager { name: "a", subresource: "status" }, &live, 60, |o| o["status"] = json!({"phase": "Running"}));
    let entries = entries(&live);
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["fieldsV1"], json!({"f:spec": {".": {}, "f:cpus": {}, "f:memory": {}}}));
    assert_eq!((&entries[1]["subresource"], &entries[1]["fieldsV1"]), (&json!("status"), &json!({"f:status": {".": {}, "f:phase": {}}})));
}

#[test]
fn a_heartbeat_touches_one_field_of_one_owner() {
    let agent = Manager { name: "agent", subresource: "status" };
    let live = created("ui", machine(json!({"cpus": 1})));
    let live =
        updated(agent, &live, 1, |o| o["status"] = json!({"phase": "Pending", "conditions": [{"type": "Ready", "status": "False"}]}));
    let next = updated(agent, &live, 2, |o| o["status"]["conditions"][0]["status"] = json!("True"));
    assert_eq!(owned(&next, "agent", "Update"), owned(&live, "agent", "Update"));
    assert_eq!(entry(&next, "agent", "Update")["time"], "2026-11-23T10:00:02Z");
    assert_eq!(entry(&next, "ui", "Update"), entry(&live, "ui", "Update"));
}

#[test]
fn the_change_from_null_or_empty_to_something_is_seen() {
    let live = created("a", machine(json!({"cpus": 1, "options": {}, "boot": null})));
    let live = updated(by("b"), &live, 1, |o| {
        o["spec"]["options"] = json!({"k": "v"});
        o["spec"]["boot"] = json!({"image": "i"});
        o["spec"]["cpus"] = Value::Null;
    });
    assert_eq!(owned(&live, "b", "Update"), json!({"f:spec": {"f:boot": {"f:image": {}}, "f:cpus": {}, "f:options": {"f:k": {}}}}));
}

#[test]
fn a_value_that_changes_its_shape_changes_hands_whole() {
    let live = created("a", machine(json!({"extra": {"x": {"y": 1}}})));
    let live = updated(by("b"), &live, 1, |o| o["spec"]["extra"]["x"] = json!("text"));
    assert_eq!(owned(&live, "a", "Update"), json!({"f:spec": {".": {}, "f:extra": {}}}));
    assert_eq!(owned(&live, "b", "Update"), json!({"f:spec": {"f:extra": {"f:x": {}}}}));
}

#[test]
fn one_and_one_point_zero_are_the_same_number() {
    let live = created("a", machine(json!({"cpus": 1})));
    let new = updated(by("b"), &live, 1, |o| o["spec"]["cpus"] = json!(1.0));
    assert_eq!(entries(&new), entries(&live));
}

#[test]
fn a_list_with_an_item_twice_owns_that_item_whole() {
    let live = created("a", machine(json!({"groups": ["x", "x", "y"]})));
    assert_eq!(owned(&live, "a", "Update"), json!({"f:spec": {".": {}, "f:groups": {".": {}, "v:\"x\"": {}, "v:\"y\"": {}}}}));
    let live = updated(by("b"), &live, 1, |o| o["spec"]["groups"] = json!(["x", "y"]));
    assert_eq!(owned(&live, "b", "Update"), json!({"f:spec": {"f:groups": {"v:\"x\"": {}}}}));
}

#[test]
fn a_client_may_edit_ownership_or_have_it_forgotten() {
    let live = created("a", machine(json!({"cpus": 1, "memory": "1Gi"})));
    let edited = updated(by("a"), &live, 1, |o| {
        o["metadata"]["managedFields"][0]["manager"] = json!("z");
        o["metadata"]["managedFields"][0]["operation"] = json!("Apply");
    });
    assert_eq!(owned(&edited, "z", "Apply"), owned(&live, "a", "Update"));
    for reset in [json!([]), json!([{}])] {
        let new = updated(by("a"), &live, 1, |o| o["metadata"]["managedFields"] = reset);
        assert_eq!(entries(&new), Vec::<Value>::new());
    }
}

#[test]
fn ownership_that_cannot_be_read_or_comes_through_status_is_not_taken() {
    let live = created("a", machine(json!({"cpus": 1})));
    for nonsense in [json!("x"), json!([1]), json!([{"manager": "m"}]), Value::Null, json!({})] {
        let new = updated(by("b"), &live, 1, |o| o["metadata"]["managedFields"] = nonsense);
        assert_eq!(entries(&new), entries(&live));
    }
    let status = Manager { name: "b", subresource: "status" };
    let new = updated(status, &live, 1, |o| o["metadata"]["managedFields"][0]["manager"] = json!("z"));
    assert_eq!(entries(&new), entries(&live));
}

#[test]
fn more_than_ten_writers_share_their_oldest_entries() {
    let mut live = applied("gitops", None, &machine(json!({"cpus": 1})));
    for n in 0..13 {
        live = updated(by(&format!("w{n:02}")), &live, 200 + n, |o| o["spec"]["options"][format!("o{n:02}")] = json!("x"));
    }
    let names: Vec<Value> = entries(&live).iter().map(|e| e["manager"].clone()).collect();
    assert_eq!(names, ["gitops", "ancient-changes", "w04", "w05", "w06", "w07", "w08", "w09", "w10", "w11", "w12"]);
    assert_eq!(
        owned(&live, "ancient-changes", "Update"),
        json!({"f:spec": {"f:options": {".": {}, "f:o00": {}, "f:o01": {}, "f:o02": {}, "f:o03": {}}}})
    );
    assert_eq!(entry(&live, "ancient-changes", "Update")["time"], "2026-11-23T10:03:23Z");
}

#[test]
fn an_object_is_unchanged_if_only_times_and_the_resource_version_differ() {
    let live = applied("b", None, &machine(json!({"cpus": 1})));
    let live = applied("a", Some(&live), &machine(json!({"memory": "1Gi"})));
    let mut later = live.clone();
    later["metadata"]["managedFields"][0]["time"] = json!("2027-01-01T00:00:00Z");
    later["metadata"]["managedFields"].as_array_mut().unwrap().reverse();
    later["metadata"]["resourceVersion"] = json!("12");
    assert!(unchanged(&live, &later));
    for change in ["/spec/cpus", "/metadata/name", "/metadata/managedFields/0/manager", "/kind"] {
        let mut other = later.clone();
        *other.pointer_mut(change).unwrap() = json!("other");
        assert!(!unchanged(&live, &other), "{change}");
    }
    for new in [json!({"status": {}}), json!({"metadata": {"labels": {}}})] {
        let mut other = later.clone();
        let patch = |target: &mut Value, patch: &Value| json_patch::merge(target, patch);
        patch(&mut other, &new);
        assert!(!unchanged(&live, &other), "{new}");
    }
}

#[test]
fn an_object_without_metadata_is_left_alone() {
    for mut odd in [json!(1), json!([]), json!({}), json!({"metadata": 1})] {
        let before = odd.clone();
        record_update(None, &mut odd, &kind(), by("a"), at(0));
        assert_eq!(odd, before);
    }
}
