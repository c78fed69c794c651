//! Schemas as tables of cases, and what must hold of any object: none makes a schema panic, defaults settle at once, and what
//! was pruned has nothing unknown.

use super::Schema;
use crate::error::CauseReason;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

fn schema(spec: Value) -> Schema {
    Schema::compile(&json!({ "type": "object", "properties": { "spec": spec } })).unwrap()
}

fn said(spec: Value, value: Value) -> Vec<String> {
    schema(spec).validate(&json!({ "spec": value }), None).into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

/// The schemas of all kinds that are served.
static OURS: LazyLock<Vec<Schema>> = LazyLock::new(|| {
    let crds = basalt_api::crds();
    let crds = crds.iter().map(|crd| json!(crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema));
    let builtin = crate::builtin::definitions();
    crds.chain(builtin.iter().map(|def| (*def.schema).clone())).map(|s| Schema::compile(&s).unwrap()).collect()
});

#[test]
fn messages_are_those_of_kubernetes() {
    let cases = [
        (json!({ "type": "integer" }), json!("x"), "spec: Invalid value: \"string\": spec in body must be of type integer: \"string\""),
        (json!({ "type": "string", "pattern": "^a$" }), json!("b"), "spec: Invalid value: \"b\": spec in body should match '^a$'"),
        (
            json!({ "type": "integer", "minimum": 1.0 }),
            json!(0),
            "spec: Invalid value: 0: spec in body should be greater than or equal to 1",
        ),
        (json!({ "type": "integer", "maximum": 3.0 }), json!(4), "spec: Invalid value: 4: spec in body should be less than or equal to 3"),
        (json!({ "type": "integer", "multipleOf": 2.0 }), json!(3), "spec: Invalid value: 3: spec in body should be a multiple of 2"),
        (json!({ "type": "string", "minLength": 1 }), json!(""), "spec: Invalid value: \"\": spec in body should be at least 1 chars long"),
        (json!({ "type": "string", "maxLength": 1 }), json!("ab"), "spec: Too long: may not be more than 1 bytes"),
        (json!({ "type": "string", "enum": ["A", "B"] }), json!("C"), "spec: Unsupported value: \"C\": supported values: \"A\", \"B\""),
        (json!({ "type": "array", "maxItems": 1, "items": {} }), json!([1, 2]), "spec: Too many: 2: must have at most 1 items"),
        (json!({ "type": "object", "required": ["a"] }), json!({}), "spec.a: Required value"),
        (
            json!({ "type": "array", "items": { "type": "object" }, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"] }),
            json!([{ "name": "root" }, { "name": "root" }]),
            "spec[1]: Duplicate value: {\"name\":\"root\"}",
        ),
        (
            json!({ "type": "string", "format": "date-time" }),
            json!("soon"),
            "spec: Invalid value: \"soon\": spec in body must be of type date-time: \"soon\"",
        ),
    ];
    for (spec, value, wanted) in cases {
        assert_eq!(said(spec.clone(), value.clone()), [wanted], "{spec} {value}");
    }
}

#[test]
fn formats_take_what_every_client_reads() {
    let good = [
        ("date-time", json!("2026-11-23T16:00:00Z")),
        ("date-time", json!("2026-11-23T16:00:00.123456+01:00")),
        ("int32", json!(-1)),
        ("uint32", json!(4_294_967_295_u32)),
        ("byte", json!("aGk=")),
    ];
    let bad = [
        ("date-time", json!("2026-11-23 16:00:00Z")),
        ("date-time", json!("2026-11-23T16:00Z")),
        ("date-time", json!("2026-13-23T16:00:00Z")),
        ("date-time", json!("2026-11-23T16:00:00+01:00[Europe/Paris]")),
        ("date-time", json!("2026-11-23T16:00:00")),
        ("int32", json!(2_147_483_648_u32)),
        ("uint32", json!(-1)),
        ("int64", json!(9_223_372_036_854_775_808_u64)),
        ("uuid", json!("x")),
    ];
    let of = |format: &str, value: &Value| {
        let type_ = if value.is_number() { "integer" } else { "string" };
        said(json!({ "type": type_, "format": format }), value.clone())
    };
    for (format, value) in good {
        assert!(of(format, &value).is_empty(), "{format} {value}");
    }
    for (format, value) in bad {
        assert_eq!(of(format, &value).len(), 1, "{format} {value}");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once_but_not_without_end() {
    let disks = json!({ "type": "array", "items": { "type": "integer" } });
    let causes = schema(disks).validate(&json!({ "spec": vec!["x"; 1000] }), None);
    assert_eq!(causes.len(), 64);
    assert!(causes.iter().all(|c| c.reason == CauseReason::FieldValueTypeInvalid));
}

#[test]
fn a_null_is_the_default_or_nothing_unless_it_is_allowed() {
    let spec = json!({ "type": "object", "properties": {
        "a": { "type": "integer", "default": 1 },
        "b": { "type": "integer" },
        "c": { "type": "integer", "nullable": true },
        "d": { "type": "integer", "nullable": true, "default": 2 },
        "m": { "type": "object", "additionalProperties": { "type": "integer", "default": 3 } },
        "l": { "type": "array", "items": { "type": "integer", "default": 4 } },
    } });
    let schema = schema(spec);
    let mut object = json!({ "spec": { "a": null, "b": null, "c": null, "d": null, "m": { "x": null }, "l": [null] } });
    assert!(schema.prune(&mut object).is_empty());
    schema.apply_defaults(&mut object);
    assert_eq!(object, json!({ "spec": { "a": 1, "c": null, "d": null, "m": { "x": 3 }, "l": [4] } }));
}

#[test]
fn unknown_fields_are_told_with_the_name_that_was_meant() {
    let spec = json!({ "type": "object", "properties": {
        "memory": { "type": "string" },
        "disks": { "type": "array", "items": { "type": "object", "properties": { "size": { "type": "string" } } } },
        "any": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        "embedded": { "type": "object", "x-kubernetes-embedded-resource": true },
    } });
    let mut object = json!({
        "apiVersion": "v1", "kind": "K", "metadata": { "name": "x" },
        "spec": { "memroy": "1Gi", "disks": [{ "sice": 1 }], "any": { "x": { "y": 1 } }, "embedded": { "kind": "A", "x": 1 } },
        "zzzzzz": 1,
    });
    let unknown: Vec<_> = schema(spec).prune(&mut object).iter().map(ToString::to_string).collect();
    assert_eq!(
        unknown,
        [
            "unknown field \"zzzzzz\"",
            "unknown field \"spec.memroy\" (did you mean \"memory\"?)",
            "unknown field \"spec.disks[0].sice\" (did you mean \"size\"?)",
            "unknown field \"spec.embedded.x\"",
        ]
    );
    let left = json!({ "disks": [{}], "any": { "x": { "y": 1 } }, "embedded": { "kind": "A" } });
    assert_eq!(object, json!({ "apiVersion": "v1", "kind": "K", "metadata": { "name": "x" }, "spec": left }));
}

#[test]
fn an_integer_is_stored_without_a_point() {
    let mut object = json!({ "spec": 2.0 });
    let schema = schema(json!({ "type": "integer", "format": "uint32" }));
    schema.prune(&mut object);
    assert_eq!(object.to_string(), r#"{"spec":2}"#);
    assert!(schema.validate(&object, None).is_empty());
    assert_eq!(schema.validate(&json!({ "spec": 2.5 }), None).len(), 1);
}

#[test]
fn a_schema_that_cannot_be_meant_is_refused() {
    for wrong in [json!({ "type": "strin" }), json!({ "type": "string", "pattern": "(" })] {
        let error = Schema::compile(&json!({ "properties": { "spec": { "items": wrong } } })).unwrap_err().to_string();
        assert!(error.contains("spec[*]"), "{error}");
    }
}

/// Objects that are made of the words of our kinds, so that they are looked into, and of anything else.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
        "[a-z0-9:TZ+.-]{0,24}".prop_map(Value::from),
        Just(json!("1Gi")),
        Just(json!("Always")),
    ];
    let name = prop_oneof![
        prop::sample::select(vec![
            "metadata",
            "spec",
            "status",
            "boot",
            "kernel",
            "disk",
            "image",
            "name",
            "cpus",
            "memory",
            "disks",
            "networks",
            "placement",
            "hostSelector",
            "conditions",
            "observed",
            "involvedObject",
            "finalizers",
            "cmdline",
            "phase",
            "source",
        ])
        .prop_map(str::to_owned),
        "[a-z]{0,6}",
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..6).prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn defaults_settle_at_once(object in anything()) {
        for schema in &*OURS {
            let mut once = object.clone();
            schema.prune(&mut once);
            schema.apply_defaults(&mut once);
            let mut twice = once.clone();
            schema.apply_defaults(&mut twice);
            prop_assert_eq!(&once, &twice);
        }
    }

    #[test]
    fn what_was_pruned_and_completed_has_nothing_unknown(object in anything()) {
        for schema in &*OURS {
            let mut pruned = object.clone();
            schema.prune(&mut pruned);
            schema.apply_defaults(&mut pruned);
            let mut again = pruned.clone();
            prop_assert_eq!(schema.prune(&mut again), vec![]);
            prop_assert_eq!(pruned, again);
        }
    }

    #[test]
    fn no_object_and_no_schema_makes_it_panic(object in anything(), other in anything()) {
        for schema in &*OURS {
            schema.validate(&object, None);
        }
        if let Ok(schema) = Schema::compile(&other) {
            let mut object = object;
            schema.prune(&mut object);
            schema.apply_defaults(&mut object);
            schema.validate(&object, None);
        }
        let mut other = json!({ "metadata": other });
        crate::metadata::prune(&mut other);
        crate::metadata::validate(&other["metadata"], true, crate::metadata::subdomain);
    }
}
