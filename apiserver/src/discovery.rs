//! Discovery: what groups, versions and kinds there are, in the old form and in the aggregated one.

use crate::{
    access::review,
    registry::{Registry, ResourceDef},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The version of Kubernetes whose protocol is spoken: clients choose their ways by it.
const KUBERNETES: (&str, &str) = ("1", "34");
/// What can be done with every kind.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// `/version`.
pub fn version() -> Value {
    let (major, minor) = KUBERNETES;
    json!({
        "major": major,
        "minor": minor,
        "gitVersion": format!("v{major}.{minor}.0+basalt-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other }),
    })
}

/// `/api`.
pub fn api_versions() -> Value {
    json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })
}

/// `/apis`.
pub fn api_groups(registry: &Registry) -> Value {
    let groups: Vec<Value> = groups(registry).iter().map(|(name, versions)| group_entry(name, versions)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/<group>`.
pub fn group(registry: &Registry, name: &str) -> Option<Value> {
    let versions = groups(registry).remove(name)?;
    let mut entry = group_entry(name, &versions);
    entry["kind"] = "APIGroup".into();
    entry["apiVersion"] = "v1".into();
    Some(entry)
}

/// `/api/v1` and `/apis/<group>/<version>`.
pub fn resources(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    let mut api_version = None;
    for def in registry.iter().filter(|def| def.group == group && def.version == version) {
        api_version = Some(def.api_version());
        resources.push(json!({
            "name": def.plural,
            "singularName": def.singular,
            "namespaced": def.namespaced,
            "kind": def.kind,
            "verbs": verbs(def),
            "shortNames": def.short_names,
            "categories": def.categories,
        }));
        for Served { name, kind, verbs } in subresources(registry, def) {
            let name = format!("{}/{name}", def.plural);
            let mut entry = json!({ "name": name, "singularName": "", "namespaced": def.namespaced, "kind": kind.kind, "verbs": verbs });
            if kind != Kind::of(def) {
                entry["group"] = kind.group.into();
                entry["version"] = kind.version.into();
            }
            resources.push(entry);
        }
    }
    api_version
        .map(|api_version| json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources }))
}

/// `/api` and `/apis` in the aggregated form: everything at once.
pub fn aggregated(registry: &Registry, core: bool) -> Value {
    let mut items = Vec::new();
    for (name, versions) in groups(registry).into_iter().filter(|(name, _)| name.is_empty() == core).chain(core_group(registry, core)) {
        let versions: Vec<Value> = versions
            .iter()
            .map(|version| {
                let resources: Vec<Value> = registry
                    .iter()
                    .filter(|def| def.group == name && def.version == *version)
                    .map(|def| aggregated_resource(registry, def))
                    .collect();
                json!({ "version": version, "resources": resources, "freshness": "Current" })
            })
            .collect();
        items.push(json!({ "metadata": { "name": name, "creationTimestamp": null }, "versions": versions }));
    }
    json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items })
}

fn aggregated_resource(registry: &Registry, def: &ResourceDef) -> Value {
    let kind = Kind::of(def);
    let subresources: Vec<Value> = subresources(registry, def)
        .map(|Served { name, kind, verbs }| json!({ "subresource": name, "responseKind": kind, "verbs": verbs }))
        .collect();
    json!({
        "resource": def.plural,
        "responseKind": kind,
        "scope": if def.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": def.singular,
        "verbs": verbs(def),
        "shortNames": def.short_names,
        "categories": def.categories,
        "subresources": subresources,
    })
}

fn verbs(def: &ResourceDef) -> &'static [&'static str] {
    if review::is_review(def) { &["create"] } else { &VERBS }
}

/// A subresource, and what it answers with.
struct Served<'a> {
    name: &'a str,
    kind: Kind<'a>,
    verbs: &'static [&'static str],
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
struct Kind<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

impl<'a> Kind<'a> {
    const SCALE: Self = Self { group: "autoscaling", version: "v1", kind: "Scale" };

    fn of(def: &'a ResourceDef) -> Self {
        Self { group: &def.group, version: &def.version, kind: &def.kind }
    }
}

fn subresources<'a>(registry: &'a Registry, def: &'a ResourceDef) -> impl Iterator<Item = Served<'a>> {
    let verbs: &[_] = &["get", "patch", "update"];
    let status = def.has_status.then(|| Served { name: "status", kind: Kind::of(def), verbs });
    let scale = def.scale.is_some().then_some(Served { name: "scale", kind: Kind::SCALE, verbs });
    let own = registry.subresources(&def.group, &def.plural).map(|name| Served { name, kind: Kind::of(def), verbs: &["get"] });
    status.into_iter().chain(scale).chain(own)
}

/// The groups but the core one, with their versions.
fn groups(registry: &Registry) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for def in registry.iter().filter(|def| !def.group.is_empty()) {
        let versions = groups.entry(def.group.clone()).or_default();
        if !versions.contains(&def.version) {
            versions.push(def.version.clone());
        }
    }
    groups.values_mut().for_each(|versions| versions.sort_by_key(|version| std::cmp::Reverse(priority(version))));
    groups
}

/// Stable versions before betas before alphas, and the newest of each first: clients take the first for the preferred one.
fn priority(version: &str) -> (u8, u32, u32) {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    let rest = version.strip_prefix('v').unwrap_or_default();
    match (rest.split_once("beta"), rest.split_once("alpha")) {
        (Some((major, minor)), _) => (2, number(major), number(minor)),
        (_, Some((major, minor))) => (1, number(major), number(minor)),
        _ if number(rest) > 0 => (3, number(rest), 0),
        _ => (0, 0, 0),
    }
}

fn core_group(registry: &Registry, core: bool) -> Option<(String, Vec<String>)> {
    (core && registry.iter().any(|def| def.group.is_empty())).then(|| (String::new(), vec!["v1".to_owned()]))
}

fn group_entry(name: &str, versions: &[String]) -> Value {
    let versions: Vec<Value> = versions.iter().map(|v| json!({ "groupVersion": format!("{name}/{v}"), "version": v })).collect();
    json!({ "name": name, "versions": versions, "preferredVersion": versions.first() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preferred_version_is_the_newest_stable_one() {
        let mut registry = Registry::builtin();
        let lease = registry.get("coordination.k8s.io", "v1", "leases").cloned().unwrap();
        for version in ["v1alpha1", "v10", "v2", "v2beta1", "v2alpha3"] {
            registry.add(ResourceDef { version: version.into(), ..(*lease).clone() });
        }
        let group = group(&registry, "coordination.k8s.io").unwrap();
        let versions: Vec<_> = group["versions"].as_array().unwrap().iter().map(|v| v["version"].as_str().unwrap()).collect();
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v2alpha3", "v1alpha1"]);
        assert_eq!(group["preferredVersion"]["version"], "v10");
    }
}
