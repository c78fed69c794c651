//! The rules that each user and group has, compiled from all roles and bindings at one state of theirs.

use super::rule::Rule;
use crate::{cache::Objects, identity::Wanted};
use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// The rules of a role, shared by all whom it is bound to.
pub type Rules = Arc<Vec<Rule>>;

/// Who has which rules where.
#[derive(Debug, Default)]
pub struct Index {
    users: HashMap<String, Held>,
    groups: HashMap<String, Held>,
    roles: HashMap<(String, String), Rules>,
    cluster_roles: HashMap<String, Rules>,
}

/// What one user or group holds: everywhere, and in namespaces.
#[derive(Debug, Default)]
struct Held {
    everywhere: Vec<Rules>,
    within: HashMap<String, Vec<Rules>>,
}

/// All objects of the four kinds.
pub struct Source {
    pub roles: Objects,
    pub cluster_roles: Objects,
    pub bindings: Objects,
    pub cluster_bindings: Objects,
}

impl Index {
    /// Compiles roles and bindings. What cannot be read gives nothing to anybody.
    pub fn compile(source: &Source) -> Self {
        let mut index = Self { cluster_roles: cluster_roles(&source.cluster_roles), ..Self::default() };
        for (place, role) in read::<Role>(&source.roles) {
            if let Some((namespace, name)) = place.split_once('/') {
                index.roles.insert((namespace.to_owned(), name.to_owned()), rules(role.rules));
            }
        }
        for (_, binding) in read::<ClusterRoleBinding>(&source.cluster_bindings) {
            if let Some(rules) = index.referenced(&binding.role_ref, None).cloned() {
                binding.subjects.iter().flatten().for_each(|subject| index.bind(subject, None, &rules));
            }
        }
        for (place, binding) in read::<RoleBinding>(&source.bindings) {
            let Some((namespace, _)) = place.split_once('/') else { continue };
            if let Some(rules) = index.referenced(&binding.role_ref, Some(namespace)).cloned() {
                binding.subjects.iter().flatten().for_each(|subject| index.bind(subject, Some(namespace), &rules));
            }
        }
        index
    }

    /// The rules of the role that a binding in a namespace, or in none, names.
    pub fn referenced(&self, role: &RoleRef, namespace: Option<&str>) -> Option<&Rules> {
        match (role.kind.as_str(), namespace) {
            ("ClusterRole", _) => self.cluster_roles.get(&role.name),
            ("Role", Some(namespace)) => self.roles.get(&(namespace.to_owned(), role.name.clone())),
            _ => None,
        }
    }

    /// All rules that somebody has in a namespace, or everywhere.
    pub fn rules<'a>(&'a self, user: &'a str, groups: &'a [String], namespace: Option<&'a str>) -> impl Iterator<Item = &'a Rule> + Clone {
        let of_groups = groups.iter().filter_map(|group| self.groups.get(group));
        self.users.get(user).into_iter().chain(of_groups).flat_map(move |held| {
            let within = namespace.and_then(|namespace| held.within.get(namespace));
            held.everywhere.iter().chain(within.into_iter().flatten()).flat_map(|rules| rules.iter())
        })
    }

    /// Whether some rule allows somebody what they want.
    pub fn allows(&self, user: &str, groups: &[String], wanted: &Wanted<'_>) -> bool {
        let namespace = match wanted {
            Wanted::Resource(wanted) => wanted.namespace,
            Wanted::Path { .. } => None,
        };
        self.rules(user, groups, namespace).any(|rule| rule.allows(wanted))
    }

    fn bind(&mut self, subject: &Subject, namespace: Option<&str>, rules: &Rules) {
        let held = match subject.kind.as_str() {
            "User" => self.users.entry(subject.name.clone()).or_default(),
            "Group" => self.groups.entry(subject.name.clone()).or_default(),
            "ServiceAccount" => {
                // One that names no namespace is of the binding's.
                let Some(own) = subject.namespace.as_deref().filter(|n| !n.is_empty()).or(namespace) else { return };
                self.users.entry(format!("system:serviceaccount:{own}:{}", subject.name)).or_default()
            }
            _ => return,
        };
        let list = match namespace {
            None => &mut held.everywhere,
            Some(namespace) => held.within.entry(namespace.to_owned()).or_default(),
        };
        if !list.iter().any(|known| Arc::ptr_eq(known, rules)) {
            list.push(rules.clone());
        }
    }
}

fn rules(own: Option<Vec<k8s_openapi::api::rbac::v1::PolicyRule>>) -> Rules {
    Arc::new(own.unwrap_or_default().into_iter().map(Rule::from).collect())
}

fn read<K: DeserializeOwned>(objects: &Objects) -> impl Iterator<Item = (&String, K)> {
    objects.iter().filter_map(|(place, object)| match K::deserialize(&*object.value()) {
        Ok(read) => Some((place, read)),
        Err(error) => {
            tracing::error!(object = place, "it gives no rights, for it cannot be read: {error}");
            None
        }
    })
}

/// ClusterRoles by name, those that aggregate others with the rules of all that their selectors match.
fn cluster_roles(objects: &Objects) -> HashMap<String, Rules> {
    let all: BTreeMap<&String, ClusterRole> = read(objects).collect();
    all.iter()
        .map(|(name, role)| {
            let mut found = Vec::new();
            collect(name, role, &all, &mut HashSet::new(), &mut found);
            ((*name).clone(), Arc::new(found))
        })
        .collect()
}

fn collect<'a>(
    name: &'a String,
    role: &ClusterRole,
    all: &BTreeMap<&'a String, ClusterRole>,
    seen: &mut HashSet<&'a String>,
    found: &mut Vec<Rule>,
) {
    if !seen.insert(name) {
        return;
    }
    for rule in role.rules.iter().flatten().cloned().map(Rule::from) {
        if !found.contains(&rule) {
            found.push(rule);
        }
    }
    for selector in role.aggregation_rule.iter().flat_map(|rule| rule.cluster_role_selectors.iter().flatten()) {
        for (other, role) in all.iter().filter(|(_, role)| selects(selector, role.metadata.labels.as_ref())) {
            collect(other, role, all, seen, found);
        }
    }
}

fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    let equal = selector.match_labels.iter().flatten().all(|(key, wanted)| value(key) == Some(wanted));
    equal
        && selector.match_expressions.iter().flatten().all(|wanted| {
            let among = value(&wanted.key).is_some_and(|value| wanted.values.iter().flatten().any(|other| other == value));
            match wanted.operator.as_str() {
                "In" => among,
                "NotIn" => !among,
                "Exists" => value(&wanted.key).is_some(),
                "DoesNotExist" => value(&wanted.key).is_none(),
                _ => false,
            }
        })
}
