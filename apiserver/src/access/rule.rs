//! One rule of a role: what it allows, and whether it allows all that another one does.

use crate::identity::{Attributes, Wanted};
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Map, Value, json};
use std::fmt::{self, Write};

const ALL: &str = "*";

/// A rule as the evaluator reads it. An absent list is an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub paths: Vec<String>,
}

impl From<PolicyRule> for Rule {
    fn from(rule: PolicyRule) -> Self {
        Self {
            verbs: rule.verbs,
            groups: rule.api_groups.unwrap_or_default(),
            resources: rule.resources.unwrap_or_default(),
            names: rule.resource_names.unwrap_or_default(),
            paths: rule.non_resource_urls.unwrap_or_default(),
        }
    }
}

impl Rule {
    /// Whether it allows what somebody wants.
    pub fn allows(&self, wanted: &Wanted<'_>) -> bool {
        match wanted {
            Wanted::Path { verb, path } => has(&self.verbs, verb) && self.paths.iter().any(|own| path_covers(own, path)),
            Wanted::Resource(wanted) => {
                has(&self.verbs, wanted.verb)
                    && has(&self.groups, wanted.group)
                    && self.resources.iter().any(|own| is_resource(own, wanted))
                    && (self.names.is_empty() || self.names.iter().any(|own| own == wanted.name))
            }
        }
    }

    /// Whether it allows all that another rule does. The other is a [piece](Self::pieces): it has one verb, one resource and so on.
    fn covers(&self, piece: &Self) -> bool {
        let all = |own: &[String], others: &[String]| others.iter().all(|other| has(own, other));
        all(&self.verbs, &piece.verbs)
            && all(&self.groups, &piece.groups)
            && piece.resources.iter().all(|other| self.resources.iter().any(|own| resource_covers(own, other)))
            && piece.paths.iter().all(|other| self.paths.iter().any(|own| path_covers(own, other)))
            && (self.names.is_empty() || (!piece.names.is_empty() && piece.names.iter().all(|other| self.names.contains(other))))
    }

    /// The rule taken apart into rules of one verb and one resource or path each, which together say the same.
    fn pieces(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut pieces = Vec::new();
        for verb in &self.verbs {
            for group in &self.groups {
                for resource in &self.resources {
                    let piece = Self { verbs: one(verb), groups: one(group), resources: one(resource), ..Self::default() };
                    if self.names.is_empty() {
                        pieces.push(piece);
                    } else {
                        pieces.extend(self.names.iter().map(|name| Self { names: one(name), ..piece.clone() }));
                    }
                }
            }
            pieces.extend(self.paths.iter().map(|path| Self { verbs: one(verb), paths: one(path), ..Self::default() }));
        }
        pieces
    }

    /// As in a role or a review, without empty lists.
    pub fn to_value(&self) -> Value {
        let lists = [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.paths),
        ];
        lists
            .into_iter()
            .filter(|(_, list)| !list.is_empty())
            .map(|(name, list)| (name.to_owned(), json!(list)))
            .collect::<Map<_, _>>()
            .into()
    }
}

/// As Kubernetes prints it: `{APIGroups:["apps"], Resources:["deployments"], Verbs:["get"]}`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("NonResourceURLs", &self.paths),
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        f.write_char('{')?;
        for (index, (name, list)) in lists.into_iter().filter(|(_, list)| !list.is_empty()).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{name}:{list:?}")?;
        }
        f.write_char('}')
    }
}

/// What of `wanted` none of `held` allows, in pieces.
pub fn missing<'a>(held: impl Iterator<Item = &'a Rule> + Clone, wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::pieces).filter(|piece| !held.clone().any(|rule| rule.covers(piece))).collect()
}

/// Everything.
pub fn everything() -> Vec<Rule> {
    let all = || vec![ALL.to_owned()];
    vec![Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() }, Rule { verbs: all(), paths: all(), ..Rule::default() }]
}

fn has(own: &[String], wanted: &str) -> bool {
    own.iter().any(|own| own == ALL || own == wanted)
}

/// `vms`, `vms/status`, `*/status` or `*`.
fn is_resource(own: &str, wanted: &Attributes<'_>) -> bool {
    if own == ALL {
        return true;
    }
    match own.split_once('/') {
        None => wanted.subresource.is_empty() && own == wanted.plural,
        Some((resource, subresource)) => {
            !wanted.subresource.is_empty() && subresource == wanted.subresource && (resource == ALL || resource == wanted.plural)
        }
    }
}

fn resource_covers(own: &str, other: &str) -> bool {
    own == ALL
        || own == other
        || match (own.split_once('/'), other.split_once('/')) {
            (Some((ALL, subresource)), Some((_, of))) => subresource == of,
            _ => false,
        }
}

/// A path, or all that begin with what is before a `*` at the end.
fn path_covers(own: &str, other: &str) -> bool {
    own == other || own.strip_suffix('*').is_some_and(|start| other.starts_with(start.trim_end_matches('*')))
}
