//! What holds for any objects, configurations and entries.

use super::fixture::*;
use crate::apply::{
    apply, entries,
    fields::Fields,
    record_update,
    schema::{Schema, Scope},
    walk::{compare, fields_of},
};
use proptest::{collection, prelude::*, sample};
use serde_json::{Map, Value, json};

/// Some of the given pairs, as an object.
fn some(pairs: Vec<(&'static str, BoxedStrategy<Value>)>) -> impl Strategy<Value = Value> {
    let fields: Vec<_> = pairs
        .into_iter()
        .map(|(name, value)| proptest::option::of(value).prop_map(move |value| value.map(|value| (name.to_owned(), value))))
        .collect();
    fields.prop_map(|fields| Value::Object(fields.into_iter().flatten().collect::<Map<_, _>>()))
}

fn one_of(values: &'static [&'static str]) -> BoxedStrategy<Value> {
    sample::select(values).prop_map(|v| json!(v)).boxed()
}

fn set(values: &'static [&'static str]) -> BoxedStrategy<Value> {
    let length = 0..=values.len();
    sample::subsequence(values, length).prop_shuffle().prop_map(|v| json!(v)).boxed()
}

fn disks(names: &'static [&'static str]) -> BoxedStrategy<Value> {
    sample::subsequence(names, 0..=names.len())
        .prop_shuffle()
        .prop_flat_map(|names| {
            let items: Vec<_> = names
                .into_iter()
                .map(|name| {
                    some(vec![("size", (0..3i64).prop_map(|n| json!(n)).boxed()), ("tags", set(&["s", "t"]))])
                        .prop_map(move |mut item| {
                            item["name"] = json!(name);
                            item
                        })
                        .boxed()
                })
                .collect();
            items.prop_map(Value::Array)
        })
        .boxed()
}

/// Objects that fit the schema, of few names and values so that they meet often.
fn objects() -> impl Strategy<Value = Value> {
    let spec = some(vec![
        ("cpus", (1..3i64).prop_map(|n| json!(n)).boxed()),
        ("memory", one_of(&["1Gi", "2Gi"])),
        ("disks", disks(&["a", "b", "c"])),
        ("groups", set(&["x", "y", "z"])),
        ("args", set(&["1", "2"])),
        ("ref", some(vec![("kind", one_of(&["k"])), ("name", one_of(&["n", "m"]))]).boxed()),
        ("options", some(vec![("k", one_of(&["v", "w"])), ("l", one_of(&["v"]))]).boxed()),
        ("boot", some(vec![("image", one_of(&["i", "j"])), ("cmdline", one_of(&["", "quiet"]))]).boxed()),
        ("extra", some(vec![("a", some(vec![("b", one_of(&["c", "d"]))]).boxed()), ("s", one_of(&["c"]))]).boxed()),
    ]);
    let labels = some(vec![("app", one_of(&["web", "db"])), ("tier", one_of(&["1"]))]);
    (spec, labels).prop_map(|(spec, labels)| {
        let mut object = machine(spec);
        object["metadata"]["labels"] = labels;
        object
    })
}

/// Any JSON, with words that mean something to us here and there.
fn anything() -> impl Strategy<Value = Value> {
    let words = sample::select(vec![
        "",
        ".",
        "f:",
        "f:spec",
        "f:metadata",
        "k:{\"name\":\"a\"}",
        "k:{}",
        "k:1",
        "v:1",
        "v:",
        "v:\"x\"",
        "i:0",
        "i:x",
        "x:y",
        "é:",
        "metadata",
        "managedFields",
        "spec",
        "status",
        "disks",
        "groups",
        "name",
        "labels",
        "manager",
        "operation",
        "Apply",
        "Update",
        "apiVersion",
        "fieldsType",
        "FieldsV1",
        "fieldsV1",
        "time",
        "2026-11-23T10:00:00Z",
        "subresource",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 6, move |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
            collection::vec((words.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

/// FieldsV1 as we write it.
fn fields_v1() -> impl Strategy<Value = Value> {
    let elements = sample::select(vec![
        "f:spec",
        "f:a.b/c",
        "f:",
        "k:{\"name\":\"a\"}",
        "k:{\"a\":1,\"b\":true}",
        "v:1",
        "v:\"x\"",
        "v:null",
        "i:0",
        "i:12",
    ]);
    let leaf = Just(json!({}));
    let level = leaf.prop_recursive(4, 32, 5, move |inner| {
        (any::<bool>(), collection::vec((elements.clone(), inner), 1..5)).prop_map(|(member, nodes)| {
            let mut map: Map<String, Value> = nodes.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            if member {
                map.insert(".".to_owned(), json!({}));
            }
            Value::Object(map)
        })
    });
    level.prop_map(|mut value| {
        value.as_object_mut().unwrap().remove(".");
        value
    })
}

fn leaves(value: &Value, def: &crate::ResourceDef) -> Vec<String> {
    fields_of(value, Schema::of(def), Scope::ButStatus, &mut Vec::new()).paths()
}

fn sorted_lists(value: &Value) -> Value {
    match value {
        Value::Array(list) => {
            let mut list: Vec<Value> = list.iter().map(sorted_lists).collect();
            list.sort_by_key(Value::to_string);
            Value::Array(list)
        }
        Value::Object(map) => Value::Object(map.iter().map(|(k, v)| (k.clone(), sorted_lists(v))).collect()),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn applying_twice_is_applying_once(live in objects(), first in objects(), intent in objects()) {
        let live = forced("a", &created("ui", live), &first);
        let once = forced("a", &live, &intent);
        let twice = apply(Some(&once), &intent, &kind(), by("a"), false, at(999)).unwrap();
        prop_assert_eq!(&once, &twice);
    }

    #[test]
    fn an_applier_owns_exactly_what_it_says(live in objects(), first in objects(), intent in objects()) {
        let def = kind();
        let object = forced("a", &forced("a", &created("ui", live), &first), &intent);
        let set = fields_of(&intent, Schema::of(&def), Scope::ButStatus, &mut Vec::new());
        let expected = if set.is_empty() { Value::Null } else { Value::Object(set.print()) };
        prop_assert_eq!(owned(&object, "a", "Apply"), expected);
        // And the object has every field of it with its value.
        let change = compare(Some(&object), &intent, Schema::of(&def), Scope::ButStatus);
        prop_assert_eq!(set.intersection(&change.changed).paths(), Vec::<String>::new());
    }

    #[test]
    fn without_force_no_field_of_another_changes(live in objects(), first in objects(), intent in objects()) {
        let def = kind();
        let live = forced("a", &created("ui", live), &first);
        if let Ok(object) = apply(Some(&live), &intent, &def, by("a"), false, at(100)) {
            prop_assert_eq!(entry(&object, "ui", "Update"), entry(&live, "ui", "Update"));
            let entry = entry(&live, "ui", "Update");
            let set = Fields::parse(&entry["fieldsV1"]).unwrap();
            let change = compare(Some(&live), &object, Schema::of(&def), Scope::ButStatus);
            prop_assert_eq!(set.intersection(&change.changed).paths(), Vec::<String>::new());
            prop_assert_eq!(set.intersection(&change.removed).paths(), Vec::<String>::new());
        }
    }

    #[test]
    fn a_field_that_nobody_applied_survives_any_apply_that_does_not_name_it(live in objects(), intent in objects()) {
        let def = kind();
        let object = forced("a", &created("ui", live.clone()), &intent);
        let change = compare(Some(&live), &object, Schema::of(&def), Scope::ButStatus);
        prop_assert!(change.removed.is_empty());
        let named = leaves(&intent, &def);
        for path in change.changed.paths() {
            // What changed is named, or holds something that is.
            prop_assert!(named.iter().any(|name| name.starts_with(&path)), "{} changed", path);
        }
    }

    #[test]
    fn configurations_that_do_not_meet_commute(a in objects(), b in objects(), mask in any::<[bool; 6]>()) {
        let live = created("ui", machine(json!({"memory": "1Gi"})));
        let (a, b) = (part_of(&a, &mask, true), part_of(&b, &mask, false));
        let ab = applied("b", Some(&applied("a", Some(&live), &a)), &b);
        let ba = applied("a", Some(&applied("b", Some(&live), &b)), &a);
        prop_assert_eq!(sorted_lists(&ab), sorted_lists(&ba));
    }

    #[test]
    fn whatever_is_written_every_field_has_one_updater(writes in collection::vec((sample::select(vec!["a", "b", "c"]), objects()), 1..6)) {
        let def = kind();
        let mut live: Option<Value> = None;
        for (manager, mut new) in writes {
            record_update(live.as_ref(), &mut new, &def, by(manager), at(0));
            live = Some(new);
        }
        let live = live.unwrap();
        let mut seen: Vec<String> = Vec::new();
        for entry in entries(&live) {
            seen.extend(Fields::parse(&entry["fieldsV1"]).unwrap().paths());
        }
        let total = seen.len();
        seen.sort();
        seen.dedup();
        prop_assert_eq!(seen.len(), total, "a field has two updaters");
        for path in leaves(&live, &def) {
            prop_assert!(seen.binary_search(&path).is_ok(), "{} has no owner", path);
        }
    }

    #[test]
    fn printing_what_was_read_gives_the_same(value in fields_v1()) {
        let fields = Fields::parse(&value).unwrap();
        let printed = Value::Object(fields.print());
        prop_assert_eq!(&printed, &value);
        prop_assert_eq!(Fields::parse(&printed).unwrap(), fields);
    }

    #[test]
    fn sets_behave_as_sets(a in fields_v1(), b in fields_v1()) {
        let (a, b) = (Fields::parse(&a).unwrap(), Fields::parse(&b).unwrap());
        let mut union = a.clone();
        union.add(b.clone());
        let mut other_union = b.clone();
        other_union.add(a.clone());
        prop_assert_eq!(&union, &other_union);
        let both = a.intersection(&b);
        let mut only_a = a.clone();
        let met = only_a.remove(&b);
        prop_assert_eq!(met, !both.is_empty());
        let mut again = only_a.clone();
        again.add(both.clone());
        prop_assert_eq!(&again, &a);
        only_a.add(b.clone());
        prop_assert_eq!(&only_a, &union);
    }

    #[test]
    fn no_input_makes_it_panic(live in anything(), intent in anything(), managed in anything(), sent in anything()) {
        let def = kind();
        let dress = |value: &Value, managed: &Value| {
            let mut value = if value.is_object() { value.clone() } else { json!({"spec": value}) };
            if !value["metadata"].is_object() {
                value["metadata"] = json!({"labels": value["metadata"].clone()});
            }
            value["metadata"]["managedFields"] = managed.clone();
            value
        };
        for subresource in ["", "status"] {
            let manager = crate::apply::Manager { name: "kubectl", subresource };
            for live in [&live, &dress(&live, &managed), &dress(&live, &entry_with(&managed))] {
                for force in [true, false] {
                    if let Err(error) = apply(Some(live), &intent, &def, manager, force, at(0)) {
                        error.into_status(&def, "m");
                    }
                }
                let mut new = dress(&intent, &sent);
                record_update(Some(live), &mut new, &def, manager, at(0));
                let readable = |value: &Value| {
                    entries::parse(value.get("metadata").and_then(|m| m.get("managedFields")), Schema::of(&def)).is_ok()
                };
                prop_assert!(readable(&new) || !readable(live), "what is written can be read");
                record_update(None, &mut new, &def, manager, at(0));
            }
        }
    }
}

/// One of two parts of an object that share nothing: of disks and options some items, else whole fields by the mask.
fn part_of(object: &Value, mask: &[bool; 6], first: bool) -> Value {
    let mut part = object.clone();
    part["metadata"].as_object_mut().unwrap().remove("labels");
    let spec = part["spec"].as_object_mut().unwrap();
    spec.remove("memory");
    let names = ["cpus", "groups", "args", "ref", "boot", "extra"];
    for (name, _) in names.iter().zip(mask).filter(|(_, mask)| **mask != first) {
        spec.remove(*name);
    }
    if let Some(disks) = spec.get_mut("disks").and_then(Value::as_array_mut) {
        disks.retain(|disk| (disk["name"] == "a") == first);
    }
    if let Some(options) = spec.get_mut("options").and_then(Value::as_object_mut) {
        options.retain(|name, _| (name == "k") == first);
    }
    part
}

fn entry_with(fields: &Value) -> Value {
    json!([{"manager": "x", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields}])
}
