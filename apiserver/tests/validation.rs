//! Rules in CEL, as schemas carry them: what they refuse, in which words, and what hostile ones and hostile objects do.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails the test")]

mod common;

use basalt_store::Store;
use common::{
    Server, start, start_serving,
    wire::{APPLY, Answer, JSON_PATCH, MERGE, VMS, vm},
};
use http::Method;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use std::sync::Arc;

const WIDGETS: &str = "/apis/test.dev/v1/widgets";

/// The definition of a kind whose spec has this schema.
fn definition(spec: Value, more: Value) -> CustomResourceDefinition {
    let mut schema = json!({ "type": "object", "properties": { "spec": spec, "status": {
        "type": "object", "properties": { "epoch": { "type": "integer" } },
        "x-kubernetes-validations": [{ "rule": "self.epoch >= oldSelf.epoch", "message": "never falls" }],
    } } });
    json_patch::merge(&mut schema, &more);
    serde_json::from_value(json!({
        "metadata": { "name": "widgets.test.dev" },
        "spec": {
            "group": "test.dev", "scope": "Cluster",
            "names": { "kind": "Widget", "plural": "widgets" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema }, "subresources": { "status": {} } }],
        },
    }))
    .unwrap()
}

/// A server of widgets whose spec has this schema.
async fn widgets(spec: Value) -> Server {
    start_serving(definition(spec, json!({})), |store| store).await.unwrap()
}

/// A schema of an object with these properties and rules.
fn object(properties: Value, rules: Value) -> Value {
    json!({ "type": "object", "properties": properties, "x-kubernetes-validations": rules })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "test.dev/v1", "kind": "Widget", "metadata": { "name": name }, "spec": spec })
}

fn path(name: &str) -> String {
    format!("{WIDGETS}/{name}")
}

/// What is told of a refusal: reason, field and message of each cause.
#[track_caller]
fn told(answer: Answer) -> Vec<(String, String, String)> {
    let status = answer.refused(422, "Invalid");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    status["details"]["causes"].as_array().unwrap().iter().map(|c| (text(&c["reason"]), text(&c["field"]), text(&c["message"]))).collect()
}

fn cause(reason: &str, field: &str, message: &str) -> (String, String, String) {
    (reason.into(), field.into(), message.into())
}

/// What a server says that does not take a definition.
async fn not_served(spec: Value, more: Value) -> String {
    start_serving(definition(spec, more), |store| store).await.err().expect("the definition is refused").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_does_not_hold_refuses_with_its_message_reason_and_field() {
    let number = json!({ "type": "integer" });
    let rules = json!([
        { "rule": "self.min <= self.max", "message": "min must not be above max" },
        { "rule": "self.min != 7" },
        { "rule": "self.min != 8", "messageExpression": "'min is ' + string(self.min) + ' of ' + string(self.max)", "reason": "FieldValueForbidden", "fieldPath": ".min" },
        { "rule": "self.min != 9", "messageExpression": "self.names[5]", "message": "nine is not to be had", "reason": "FieldValueRequired", "fieldPath": ".labels['a.b']" },
        { "rule": "self.min != 10", "messageExpression": "'two\\nlines'", "reason": "FieldValueDuplicate" },
    ]);
    let labels = json!({ "type": "object", "additionalProperties": { "type": "string", "x-kubernetes-validations": [{ "rule": "self != 'bad'", "message": "bad value" }] } });
    let names = json!({ "type": "array", "items": { "type": "string", "x-kubernetes-validations": [{ "rule": "self.startsWith('n')", "message": "starts with n" }] } });
    let server = widgets(object(json!({ "min": number, "max": number, "labels": labels, "names": names }), rules)).await;

    server.post(WIDGETS, &widget("a", json!({ "min": 1, "max": 2, "labels": { "x": "good" }, "names": ["n1"] }))).await.ok(201);
    let cases = [
        (json!({ "min": 3, "max": 2 }), cause("FieldValueInvalid", "spec", "Invalid value: min must not be above max")),
        (json!({ "min": 7, "max": 20 }), cause("FieldValueInvalid", "spec", "Invalid value: failed rule: self.min != 7")),
        (json!({ "min": 8, "max": 20 }), cause("FieldValueForbidden", "spec.min", "Forbidden: min is 8 of 20")),
        (json!({ "min": 9, "max": 20 }), cause("FieldValueRequired", "spec.labels[a.b]", "Required value: nine is not to be had")),
        (json!({ "min": 10, "max": 20 }), cause("FieldValueDuplicate", "spec", "Duplicate value: failed rule: self.min != 10")),
        (
            json!({ "min": 1, "max": 2, "labels": { "k.v": "bad" } }),
            cause("FieldValueInvalid", "spec.labels[k.v]", "Invalid value: \"bad\": bad value"),
        ),
        (
            json!({ "min": 1, "max": 2, "names": ["n", "x"] }),
            cause("FieldValueInvalid", "spec.names[1]", "Invalid value: \"x\": starts with n"),
        ),
        // A rule that cannot be evaluated refuses too.
        (
            json!({ "max": 2 }),
            cause("FieldValueInvalid", "spec", "Invalid value: \"object\": no such key: min evaluating rule: self.min <= self.max"),
        ),
    ];
    for (spec, expected) in cases {
        let causes = told(server.post(WIDGETS, &widget("b", spec.clone())).await);
        assert_eq!(causes.first(), Some(&expected), "{spec}");
    }
    server.get(&path("b")).await.refused(404, "NotFound");
    let status = server.post(WIDGETS, &widget("b", json!({ "min": 3, "max": 2 }))).await.refused(422, "Invalid");
    assert_eq!(status["message"], "Widget.test.dev \"b\" is invalid: spec: Invalid value: min must not be above max");
    // Every way to write comes by the same rules.
    let above = json!({ "apiVersion": "test.dev/v1", "kind": "Widget", "spec": { "min": 5 } });
    assert_eq!(told(server.patch(&path("a"), MERGE, &above).await).len(), 1);
    assert_eq!(told(server.patch(&format!("{}?fieldManager=t&force=true", path("a")), APPLY, &above).await).len(), 1);
    assert_eq!(told(server.patch(&path("a"), JSON_PATCH, &json!([{ "op": "replace", "path": "/spec/min", "value": 5 }])).await).len(), 1);
    assert_eq!(told(server.patch(&format!("{}?dryRun=All", path("a")), MERGE, &above).await).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_wait_until_the_types_are_right_and_run_beside_other_faults() {
    let server = widgets(object(
        json!({ "n": { "type": "integer", "maximum": 5 }, "s": { "type": "string" } }),
        json!([{ "rule": "self.n < 3", "message": "small" }]),
    ))
    .await;
    let causes = told(server.post(WIDGETS, &widget("a", json!({ "n": "x", "s": 1 }))).await);
    assert_eq!(causes.len(), 3, "{causes:?}");
    assert!(causes[2].2.contains("some validation rules were not checked because the object was invalid"), "{causes:?}");
    let causes = told(server.post(WIDGETS, &widget("a", json!({ "n": 9 }))).await);
    assert_eq!(causes.iter().map(|c| c.1.as_str()).collect::<Vec<_>>(), ["spec.n", "spec"], "{causes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn transition_rules_compare_with_what_was_there() {
    let immutable = json!([{ "rule": "self == oldSelf", "message": "cannot be changed", "reason": "FieldValueForbidden" }]);
    let disk = object(
        json!({ "name": { "type": "string" }, "size": { "type": "integer" } }),
        json!([{ "rule": "self.size >= oldSelf.size", "message": "disks only grow", "fieldPath": ".size" }]),
    );
    let server = widgets(object(
        json!({
            "class": { "type": "string", "x-kubernetes-validations": immutable },
            "disks": { "type": "array", "items": disk, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"] },
            "zones": { "type": "object", "additionalProperties": { "type": "string", "x-kubernetes-validations": immutable } },
            "once": { "type": "string", "x-kubernetes-validations": [
                { "rule": "oldSelf.hasValue() ? self == oldSelf.value() : self == 'first'", "optionalOldSelf": true, "message": "first is first, and stays" },
            ] },
        }),
        json!([{ "rule": "!has(oldSelf.class) || has(self.class)", "message": "class cannot be taken away" }]),
    ))
    .await;
    let first = json!({ "class": "fast", "disks": [{ "name": "a", "size": 1 }, { "name": "b", "size": 9 }], "zones": { "x": "1" }, "once": "first" });
    // Nothing was there: only the rule that says so runs.
    assert_eq!(told(server.post(WIDGETS, &widget("w", json!({ "once": "second" }))).await).len(), 1);
    server.post(WIDGETS, &widget("w", first)).await.ok(201);

    let refused = [
        (json!({ "class": "slow" }), cause("FieldValueForbidden", "spec.class", "Forbidden: cannot be changed")),
        (json!({ "class": null }), cause("FieldValueInvalid", "spec", "Invalid value: class cannot be taken away")),
        (json!({ "zones": { "x": "2" } }), cause("FieldValueForbidden", "spec.zones[x]", "Forbidden: cannot be changed")),
        // Items are known by their keys, wherever they stand.
        (
            json!({ "disks": [{ "name": "b", "size": 8 }, { "name": "a", "size": 2 }] }),
            cause("FieldValueInvalid", "spec.disks[0].size", "Invalid value: disks only grow"),
        ),
        (json!({ "once": "second" }), cause("FieldValueInvalid", "spec.once", "Invalid value: \"second\": first is first, and stays")),
    ];
    for (patch, expected) in refused {
        let causes = told(server.patch(&path("w"), MERGE, &json!({ "spec": patch })).await);
        assert_eq!(causes, [expected], "{patch}");
    }
    let taken = [
        json!({ "disks": [{ "name": "c", "size": 1 }, { "name": "b", "size": 9 }, { "name": "a", "size": 5 }] }),
        json!({ "disks": [{ "name": "b", "size": 10 }] }),
        json!({ "disks": [{ "name": "a", "size": 1 }] }),
        json!({ "zones": { "y": "2", "x": null } }),
        json!({ "zones": { "x": "2" }, "class": "fast" }),
    ];
    for patch in taken {
        server.patch(&path("w"), MERGE, &json!({ "spec": patch })).await.ok(200);
    }
    // The status has its own door and the same rules.
    let status = format!("{}/status", path("w"));
    server.patch(&status, MERGE, &json!({ "status": { "epoch": 3 } })).await.ok(200);
    let causes = told(server.patch(&status, MERGE, &json!({ "status": { "epoch": 2 } })).await);
    assert_eq!(causes, [cause("FieldValueInvalid", "status", "Invalid value: never falls")]);
    server.patch(&status, MERGE, &json!({ "status": { "epoch": 4 } })).await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_knows_its_name_and_embedded_objects_know_theirs() {
    let rules = json!([
        { "rule": "self.metadata.name.startsWith('w')", "message": "names start with w", "fieldPath": ".spec" },
        { "rule": "!has(self.metadata.generateName) || self.metadata.generateName == 'w-'", "message": "made up from w-" },
        { "rule": "self.kind == 'Widget' && self.apiVersion == 'test.dev/v1'" },
    ]);
    let embedded = json!({
        "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true,
        "x-kubernetes-validations": [{ "rule": "self.metadata.name != 'no' && self.kind != 'No'", "message": "no" }],
    });
    let crd = definition(object(json!({ "template": embedded }), json!([])), json!({ "x-kubernetes-validations": rules }));
    let server = start_serving(crd, |store| store).await.unwrap();
    server.post(WIDGETS, &widget("web", json!({}))).await.ok(201);
    let causes = told(server.post(WIDGETS, &widget("other", json!({}))).await);
    assert_eq!((causes[0].1.as_str(), causes[0].2.as_str()), ("spec", "Invalid value: names start with w"));
    let mut made_up = widget("", json!({}));
    made_up["metadata"] = json!({ "generateName": "w-" });
    server.post(WIDGETS, &made_up).await.ok(201);
    made_up["metadata"] = json!({ "generateName": "x-" });
    assert_eq!(told(server.post(WIDGETS, &made_up).await).len(), 2);
    let within = |name: &str| json!({ "template": { "apiVersion": "v1", "kind": "Yes", "metadata": { "name": name } } });
    server.post(WIDGETS, &widget("w1", within("yes"))).await.ok(201);
    assert_eq!(told(server.post(WIDGETS, &widget("w2", within("no"))).await)[0].1, "spec.template");
    // Nothing else of the metadata is to be asked for.
    let labels = json!({ "x-kubernetes-validations": [{ "rule": "has(self.metadata.labels)" }] });
    let refused = not_served(object(json!({}), json!([])), labels).await;
    assert!(refused.contains("undefined field 'labels'"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_within_all_of_are_rules_and_those_within_other_alternatives_are_none() {
    let rule = |text: &str| json!([{ "rule": text, "message": text }]);
    let mut spec = object(json!({ "n": { "type": "integer" }, "list": { "type": "array", "items": { "type": "integer" } } }), json!([]));
    spec["allOf"] = json!([
        { "x-kubernetes-validations": rule("self.n != 1") },
        { "properties": { "n": { "x-kubernetes-validations": rule("self != 2") } }, "allOf": [{ "properties": { "list": { "items": { "x-kubernetes-validations": rule("self != 3") } } } }] },
    ]);
    spec["anyOf"] = json!([{ "x-kubernetes-validations": rule("self.n != 4") }]);
    let server = widgets(spec).await;
    for (spec, field) in [(json!({ "n": 1 }), "spec"), (json!({ "n": 2 }), "spec.n"), (json!({ "n": 5, "list": [3] }), "spec.list[0]")] {
        assert_eq!(told(server.post(WIDGETS, &widget("w", spec)).await)[0].1, field);
    }
    server.post(WIDGETS, &widget("w", json!({ "n": 4 }))).await.ok(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_changed_may_go_on_breaking_a_rule_that_came_later() {
    let schema = |rules: Value, of_items: Value| {
        let item = json!({ "type": "integer", "x-kubernetes-validations": of_items });
        object(json!({ "a": { "type": "integer" }, "b": { "type": "integer" }, "list": { "type": "array", "items": item } }), rules)
    };
    let mut kept: Option<Arc<dyn Store>> = None;
    let before = start_serving(definition(schema(json!([]), json!([])), json!({})), |store| kept.insert(store).clone()).await.unwrap();
    before.post(WIDGETS, &widget("w", json!({ "a": 9, "list": [7, 8] }))).await.ok(201);

    let small = schema(json!([{ "rule": "self.a < 5", "message": "a is too large" }]), json!([{ "rule": "self < 5", "message": "large" }]));
    let server = start_serving(definition(small, json!({})), |_| kept.unwrap()).await.unwrap();
    server.patch(&path("w"), MERGE, &json!({ "metadata": { "labels": { "x": "y" } } })).await.ok(200);
    server.patch(&format!("{}/status", path("w")), MERGE, &json!({ "status": { "epoch": 1 } })).await.ok(200);
    // The spec was changed, and breaks its rule; the list in it was not.
    let causes = told(server.patch(&path("w"), MERGE, &json!({ "spec": { "b": 1 } })).await);
    assert_eq!(causes, [cause("FieldValueInvalid", "spec", "Invalid value: a is too large")]);
    server.patch(&path("w"), MERGE, &json!({ "spec": { "a": 1 } })).await.ok(200);
    let causes = told(server.patch(&path("w"), MERGE, &json!({ "spec": { "list": [7, 9] } })).await);
    assert_eq!(causes.iter().map(|c| c.1.as_str()).collect::<Vec<_>>(), ["spec.list[0]", "spec.list[1]"]);
    server.patch(&path("w"), MERGE, &json!({ "spec": { "list": [1] } })).await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_cannot_be_used_makes_the_definition_refused_with_its_place() {
    let rule = |rule: Value| {
        object(json!({ "list": { "type": "array", "items": object(json!({ "n": { "type": "integer" } }), json!([rule])) } }), json!([]))
    };
    let cases = [
        (json!({ "rule": "self.n ==" }), "1:10: "),
        (json!({ "rule": "self.m == 1" }), "undefined field 'm'"),
        (json!({ "rule": "self.n" }), "it must evaluate to a bool and not to a int"),
        (json!({ "rule": "nothing(self.n)" }), "undeclared reference to 'nothing'"),
        (json!({ "rule": "self.n == oldSelf.n" }), "oldSelf cannot be used"),
        (json!({ "rule": "self.n > 1", "optionalOldSelf": true }), "it does not use oldSelf"),
        (json!({ "rule": "self.n > 1", "messageExpression": "self.n" }), "it must evaluate to a string and not to a int"),
        (json!({ "rule": "self.n > 1", "messageExpression": "1 +" }), "message expression"),
        (json!({ "rule": "self.n > 1", "fieldPath": ".m" }), "it leads to no field of the schema"),
        (json!({ "rule": "self.n > 1", "reason": "Because" }), "a rule cannot fail for it"),
        (json!({ "rule": "self.n > 1\n && true" }), "needs a message"),
        (json!({ "rule": "self.n > 1", "message": "a\nb" }), "more than one line"),
        (json!({ "rule": "" }), "a rule has no expression"),
        (json!({ "rule": format!("{}self.n > 1", "!".repeat(5001)) }), ""),
        (json!({ "rule": format!("self.n == {}1{}", "[".repeat(5000), "]".repeat(5000)) }), ""),
        (json!({ "rule": format!("self.n == 1{}", " + 1".repeat(2000)) }), "nested more than"),
        (json!({ "rule": format!("self.n == {}", "1".repeat(20_000)) }), "it is longer than"),
    ];
    for (bad, why) in cases {
        let refused = not_served(rule(bad.clone()), json!({})).await;
        let start = "cannot serve widgets: the schema of spec.list[*] is not usable: ";
        assert!(refused.starts_with(start) && refused.contains(why), "{bad}: {refused}");
    }
    let many = vec![json!({ "rule": format!("self.n != {}", "1".repeat(1000)) }); 300];
    let refused = not_served(object(json!({ "n": { "type": "integer" } }), json!(many)), json!({})).await;
    assert!(refused.contains("is the most that is taken"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_rules_and_objects_end_at_their_budget_and_the_server_goes_on() {
    let doubling = (0..60).fold("['aaaaaaaaaa']".to_owned(), |list, _| format!("{list}.map(x, x + x)")) + ".size() == 1";
    let quadratic = "self.list.all(a, self.list.all(b, self.list.all(c, a + b + c >= 0)))";
    let list = json!({ "type": "array", "items": { "type": "integer" } });
    let each = json!({ "type": "array", "items": { "type": "string", "x-kubernetes-validations": [{ "rule": "[1,2,3,4,5,6,7,8,9,10].all(x, [1,2,3,4,5,6,7,8,9,10].all(y, [1,2,3,4,5,6,7,8,9,10].all(z, self.size() < 1000)))" }] } });
    let text = json!({ "type": "string", "x-kubernetes-validations": [{ "rule": "!self.matches('^(a+)+$') || self.size() < 1000", "message": "long" }] });
    let pattern = json!({ "type": "string", "x-kubernetes-validations": [{ "rule": "''.matches(self)", "message": "no match" }] });
    let server = widgets(object(
        json!({ "double": { "type": "boolean" }, "list": list, "each": each, "text": text, "pattern": pattern }),
        json!([{ "rule": format!("!has(self.double) || {doubling}") }, { "rule": format!("!has(self.list) || {quadratic}") }]),
    ))
    .await;
    let numbers: Vec<u32> = (0..2000).collect();
    let cases = [
        (json!({ "double": true }), "due to call cost exceeds limit for rule: "),
        (json!({ "list": numbers }), "due to call cost exceeds limit for rule: "),
        (json!({ "each": vec!["x"; 5000] }), "validation failed due to running out of cost budget"),
        (json!({ "text": "a".repeat(200_000) }), "long"),
        (json!({ "pattern": "(" }), "\"(\" is not a pattern evaluating rule: ''.matches(self)"),
        (json!({ "pattern": "((a{999}){999}){999}" }), "the pattern is too large"),
        (json!({ "pattern": format!("{}a{}", "(".repeat(5000), ")".repeat(5000)) }), "is not a pattern"),
    ];
    for (spec, why) in cases {
        let causes = told(server.post(WIDGETS, &widget("w", spec)).await);
        assert!(causes.len() == 1 && causes[0].2.contains(why), "{why}: {causes:?}");
    }
    server.post(WIDGETS, &widget("w", json!({ "list": [1, 2, 3], "text": "b", "pattern": "" }))).await.ok(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vm_must_keep_to_is_said_by_its_definition() {
    let server = start().await;
    let mut web = vm("web");
    web["spec"] = json!({
        "memory": "1Gi", "boot": { "disk": { "name": "root" } },
        "disks": [{ "name": "root", "image": "debian" }, { "name": "tools", "image": "iso", "readOnly": true }],
        "networks": [{ "name": "a", "bridge": "br0", "address": "10.0.0.2/24", "gateway": "10.0.0.1", "mac": "02:00:00:00:00:01" }, { "name": "b", "bridge": "br0" }],
    });
    server.post(VMS, &web).await.ok(201);
    let path = format!("{VMS}/web");
    let disks = |root: Value, tools: Value| json!([{ "op": "replace", "path": "/spec/disks/0", "value": root }, { "op": "replace", "path": "/spec/disks/1", "value": tools }]);
    let (root, tools) = (json!({ "name": "root", "image": "debian" }), json!({ "name": "tools", "image": "iso", "readOnly": true }));
    let refused = [
        (
            json!([{ "op": "replace", "path": "/spec/boot/disk/name", "value": "rot" }]),
            cause("FieldValueInvalid", "spec.boot.disk.name", "Invalid value: spec.disks has no disk named rot"),
        ),
        (
            disks(json!({ "name": "root", "image": "ubuntu" }), tools.clone()),
            cause(
                "FieldValueForbidden",
                "spec.disks[0].image",
                "Forbidden: the image of a writable disk cannot be changed: the disk keeps what was written to it. Add a disk of another name in its place",
            ),
        ),
        (
            disks(root.clone(), json!({ "name": "tools", "image": "iso" })),
            cause(
                "FieldValueForbidden",
                "spec.disks[1].readOnly",
                "Forbidden: a disk is read-only or writable for its life. Add a disk of another name in its place",
            ),
        ),
        (
            json!([{ "op": "add", "path": "/spec/networks/1/mac", "value": "02:00:00:00:00:01" }]),
            cause("FieldValueDuplicate", "spec.networks", "Duplicate value: two networks have the same mac"),
        ),
        (
            json!([{ "op": "add", "path": "/spec/networks/1/address", "value": "10.0.0.2/24" }]),
            cause("FieldValueDuplicate", "spec.networks", "Duplicate value: two networks have the same address"),
        ),
        (
            json!([{ "op": "remove", "path": "/spec/networks/0/address" }]),
            cause(
                "FieldValueRequired",
                "spec.networks[0].address",
                "Required value: a gateway goes with a static address, and there is none",
            ),
        ),
    ];
    for (patch, expected) in refused {
        assert_eq!(told(server.patch(&path, JSON_PATCH, &patch).await), [expected], "{patch}");
    }
    let taken = [
        disks(root.clone(), json!({ "name": "tools", "image": "newer", "readOnly": true })),
        disks(json!({ "name": "other", "image": "ubuntu" }), root.clone()),
        json!([{ "op": "replace", "path": "/spec/boot", "value": { "kernel": { "image": "k" } } }, { "op": "remove", "path": "/spec/disks" }]),
    ];
    for patch in taken {
        server.patch(&path, JSON_PATCH, &patch).await.ok(200);
    }
    // An epoch that fell would let a VM run on two hosts.
    let status = format!("{path}/status");
    server.patch(&status, MERGE, &json!({ "status": { "placementEpoch": 2 } })).await.ok(200);
    for fallen in [json!(1), Value::Null] {
        let causes = told(server.patch(&status, MERGE, &json!({ "status": { "placementEpoch": fallen } })).await);
        assert_eq!(causes[0].1, "status.placementEpoch");
    }
    server.patch(&status, MERGE, &json!({ "status": { "placementEpoch": 3 } })).await.ok(200);
    let deleted = server.send(Method::DELETE, &path, &[], "").await;
    assert!(deleted.code < 300, "{deleted:?}");
}
