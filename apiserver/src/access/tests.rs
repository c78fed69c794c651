//! The evaluator against one that looks at every role and binding each time, in the words of Kubernetes' documentation.

use super::{
    index::{Index, Source},
    rule::{Rule, missing},
};
use crate::{
    cache::Objects,
    identity::{Attributes, Wanted},
    object::Object,
};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};
use std::sync::Arc;

/// All roles and bindings: `namespace/name` or the name, and the object.
#[derive(Clone, Debug, Default)]
struct World {
    roles: Vec<(String, Value)>,
    cluster_roles: Vec<(String, Value)>,
    bindings: Vec<(String, Value)>,
    cluster_bindings: Vec<(String, Value)>,
}

impl World {
    fn index(&self) -> Index {
        let objects = |list: &[(String, Value)]| -> Objects {
            let mut objects = Objects::new_sync();
            list.iter().for_each(|(place, object)| objects.insert_mut(place.clone(), Arc::new(Object::of(object.clone(), 1))));
            objects
        };
        Index::compile(&Source {
            roles: objects(&self.roles),
            cluster_roles: objects(&self.cluster_roles),
            bindings: objects(&self.bindings),
            cluster_bindings: objects(&self.cluster_bindings),
        })
    }

    /// The last of a name counts, as in a map.
    fn find<'a>(list: &'a [(String, Value)], place: &str) -> Option<&'a Value> {
        list.iter().rev().find(|(own, _)| own == place).map(|(_, object)| object)
    }

    fn rules(&self, role: &Value, namespace: Option<&str>) -> Vec<Value> {
        let name = role["name"].as_str().unwrap();
        let found = match (role["kind"].as_str().unwrap(), namespace) {
            ("ClusterRole", _) => Self::find(&self.cluster_roles, name),
            (_, Some(namespace)) => Self::find(&self.roles, &format!("{namespace}/{name}")),
            _ => None,
        };
        found.and_then(|role| role["rules"].as_array().cloned()).unwrap_or_default()
    }

    fn allows(&self, user: &str, groups: &[String], wanted: &Wanted<'_>) -> bool {
        let asked_in = match wanted {
            Wanted::Resource(wanted) => wanted.namespace,
            Wanted::Path { .. } => None,
        };
        let is = |subject: &Value, namespace: Option<&str>| match subject["kind"].as_str().unwrap() {
            "User" => subject["name"] == user,
            "Group" => groups.iter().any(|group| subject["name"] == group.as_str()),
            _ => {
                let of = subject["namespace"].as_str().or(namespace).unwrap_or("none");
                user == format!("system:serviceaccount:{of}:{}", subject["name"].as_str().unwrap())
            }
        };
        let in_force = |place: &str, namespace: Option<&str>, list: &[(String, Value)], binding: &Value| {
            std::ptr::eq(Self::find(list, place).unwrap(), binding)
                && (namespace.is_none() || namespace == asked_in)
                && binding["subjects"].as_array().unwrap().iter().any(|subject| is(subject, namespace))
                && self.rules(&binding["roleRef"], namespace).iter().any(|rule| naive(rule, wanted))
        };
        self.cluster_bindings.iter().any(|(place, binding)| in_force(place, None, &self.cluster_bindings, binding))
            || self.bindings.iter().any(|(place, binding)| {
                let namespace = place.split('/').next();
                in_force(place, namespace, &self.bindings, binding)
            })
    }
}

fn naive(rule: &Value, wanted: &Wanted<'_>) -> bool {
    let list = |name: &str| -> Vec<&str> { rule[name].as_array().into_iter().flatten().map(|v| v.as_str().unwrap()).collect() };
    let any = |name: &str, wanted: &str| list(name).contains(&"*") || list(name).contains(&wanted);
    match wanted {
        Wanted::Path { verb, path } => {
            let matches = |own: &&str| own == path || (own.ends_with('*') && path.starts_with(own.trim_end_matches('*')));
            any("verbs", verb) && list("nonResourceURLs").iter().any(matches)
        }
        Wanted::Resource(Attributes { verb, group, plural, subresource, name, .. }) => {
            let whole = if subresource.is_empty() { (*plural).to_owned() } else { format!("{plural}/{subresource}") };
            let every = format!("*/{subresource}");
            let resource = any("resources", &whole) || (!subresource.is_empty() && list("resources").contains(&every.as_str()));
            let named = list("resourceNames").is_empty() || list("resourceNames").contains(name);
            any("verbs", verb) && any("apiGroups", group) && resource && named
        }
    }
}

const VERBS: [&str; 4] = ["get", "list", "create", "*"];
const GROUPS: [&str; 3] = ["", "basalt.dev", "*"];
const RESOURCES: [&str; 6] = ["vms", "vms/status", "*/status", "*", "hosts", "hosts/log"];
const NAMES: [&str; 2] = ["a", "b"];
const PATHS: [&str; 5] = ["/metrics", "/openapi/*", "/openapi/v2", "/*", "*"];
const NAMESPACES: [&str; 2] = ["one", "two"];
const ROLES: [&str; 3] = ["r1", "r2", "system:r3"];

fn some(from: &'static [&'static str], least: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(from), least..3)
}

fn rule() -> impl Strategy<Value = Value> {
    let resources = (some(&VERBS, 1), some(&GROUPS, 1), some(&RESOURCES, 1), some(&NAMES, 0)).prop_map(
        |(verbs, groups, resources, names)| json!({ "verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names }),
    );
    let paths = (some(&VERBS, 1), some(&PATHS, 1)).prop_map(|(verbs, paths)| json!({ "verbs": verbs, "nonResourceURLs": paths }));
    prop_oneof![3 => resources, 1 => paths]
}

fn role() -> impl Strategy<Value = Value> {
    prop::collection::vec(rule(), 0..3).prop_map(|rules| json!({ "metadata": {}, "rules": rules }))
}

fn subject() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(&["alice", "bob"][..]).prop_map(|name| json!({ "kind": "User", "name": name })),
        select(&["dev", "ops", "system:authenticated"][..]).prop_map(|name| json!({ "kind": "Group", "name": name })),
        (select(&["bot"][..]), prop::option::of(select(&NAMESPACES[..]))).prop_map(|(name, namespace)| match namespace {
            Some(namespace) => json!({ "kind": "ServiceAccount", "name": name, "namespace": namespace }),
            None => json!({ "kind": "ServiceAccount", "name": name }),
        }),
    ]
}

fn binding() -> impl Strategy<Value = Value> {
    (select(&["Role", "ClusterRole"][..]), select(&ROLES[..]), prop::collection::vec(subject(), 0..3)).prop_map(|(kind, name, subjects)| {
        let role = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name });
        json!({ "metadata": {}, "roleRef": role, "subjects": subjects })
    })
}

fn world() -> impl Strategy<Value = World> {
    let within = || (select(&NAMESPACES[..]), select(&ROLES[..])).prop_map(|(namespace, name)| format!("{namespace}/{name}"));
    let name = || select(&ROLES[..]).prop_map(str::to_owned);
    (
        prop::collection::vec((within(), role()), 0..4),
        prop::collection::vec((name(), role()), 0..4),
        prop::collection::vec((within(), binding()), 0..4),
        prop::collection::vec((name(), binding()), 0..3),
    )
        .prop_map(|(roles, cluster_roles, bindings, cluster_bindings)| World { roles, cluster_roles, bindings, cluster_bindings })
}

/// Every request that can be made with the words above.
fn requests() -> Vec<Wanted<'static>> {
    let mut all = Vec::new();
    for verb in ["get", "list", "create", "delete"] {
        for group in ["", "basalt.dev", "other"] {
            for (plural, subresource) in [("vms", ""), ("vms", "status"), ("hosts", ""), ("hosts", "log"), ("hosts", "status")] {
                for namespace in [None, Some("one"), Some("two")] {
                    for name in ["", "a", "c"] {
                        all.push(Wanted::Resource(Attributes { verb, group, plural, subresource, namespace, name }));
                    }
                }
            }
        }
        all.extend(["/metrics", "/openapi/v2", "/openapi", "/"].map(|path| Wanted::Path { verb, path }));
    }
    all
}

fn rules(role: &Value) -> Vec<Rule> {
    use k8s_openapi::api::rbac::v1::PolicyRule;
    serde_json::from_value::<Vec<PolicyRule>>(role["rules"].clone()).unwrap().into_iter().map(Rule::from).collect()
}

proptest! {
    #[test]
    fn the_compiled_index_decides_as_looking_at_every_binding_does(world in world()) {
        let index = world.index();
        for user in ["alice", "bob", "system:serviceaccount:one:bot"] {
            for groups in [vec![], vec!["dev".to_owned()], vec!["ops".to_owned(), "system:authenticated".to_owned()]] {
                for wanted in requests() {
                    prop_assert_eq!(index.allows(user, &groups, &wanted), world.allows(user, &groups, &wanted), "{} {:?} {:?}", user, groups, wanted);
                }
            }
        }
    }

    /// Escalation rests on this: if nothing is missing, nothing can be done by the given rules that could not be done before.
    #[test]
    fn what_is_covered_allows_nothing_that_is_not_allowed_already(held in role(), given in role()) {
        let (held, given) = (rules(&held), rules(&given));
        let lacking = missing(held.iter(), &given);
        for wanted in requests() {
            let (before, gained) = (held.iter().any(|rule| rule.allows(&wanted)), given.iter().any(|rule| rule.allows(&wanted)));
            prop_assert!(!gained || before || lacking.iter().any(|rule| rule.allows(&wanted)), "{:?}", wanted);
        }
        prop_assert!(missing(given.iter(), &given).is_empty());
    }
}

#[test]
fn a_role_has_the_rules_of_those_that_its_selector_matches() {
    let role = |labels: Value, resource: &str| json!({ "metadata": { "labels": labels }, "rules": [{ "verbs": ["get"], "apiGroups": [""], "resources": [resource] }] });
    let mut sum = role(json!({ "into": "sum" }), "own");
    sum["aggregationRule"] = json!({ "clusterRoleSelectors": [
        { "matchLabels": { "into": "sum" } },
        { "matchExpressions": [{ "key": "team", "operator": "In", "values": ["a"] }, { "key": "old", "operator": "DoesNotExist" }] },
    ] });
    let mut world = World {
        cluster_roles: vec![
            ("sum".into(), sum),
            ("label".into(), role(json!({ "into": "sum" }), "labelled")),
            ("expression".into(), role(json!({ "team": "a" }), "expressed")),
            ("no".into(), role(json!({ "team": "a", "old": "yes" }), "old")),
        ],
        ..World::default()
    };
    let subject = json!({ "kind": "User", "name": "alice" });
    let reference = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "sum" });
    world.cluster_bindings.push(("b".into(), json!({ "metadata": {}, "roleRef": reference, "subjects": [subject] })));
    let index = world.index();
    for (plural, allowed) in [("own", true), ("labelled", true), ("expressed", true), ("old", false)] {
        let wanted = Wanted::Resource(Attributes { verb: "get", plural, ..Attributes::default() });
        assert_eq!(index.allows("alice", &[], &wanted), allowed, "{plural}");
    }
}
