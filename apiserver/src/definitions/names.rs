//! Names: what a definition may be called among all kinds of its group. A name that another has is not taken from it.

use crate::registry::ResourceDef;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionNames as Names;
use std::collections::HashSet;

/// The names that others of a group have.
#[derive(Default)]
pub struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

/// A name that cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason in the condition NamesAccepted.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

impl Taken {
    /// Adds the names of a kind.
    pub fn add(&mut self, names: &Names) {
        self.resources.insert(names.plural.clone());
        self.resources.extend(names.singular.clone());
        self.resources.extend(names.short_names.iter().flatten().cloned());
        self.kinds.insert(names.kind.clone());
        self.kinds.extend(names.list_kind.clone());
    }

    /// Adds the names of a kind that is served.
    pub fn add_def(&mut self, def: &ResourceDef) {
        self.resources.extend([def.plural.clone(), def.singular.clone()]);
        self.resources.extend(def.short_names.iter().cloned());
        self.kinds.extend([def.kind.clone(), def.list_kind.clone()]);
    }
}

/// The names that a definition gets, of those that it asks for and those that it has already; and what it cannot have.
pub fn accept(wanted: &Names, has: &Names, taken: &Taken) -> (Names, Option<Refusal>) {
    let mut refusal = None;
    // As in Kubernetes, what is told is the last conflict.
    let mut free = |reason: &'static str, name: &str, has: &str, taken: &HashSet<String>| {
        let free = name == has || !taken.contains(name);
        if !free {
            refusal = Some(Refusal { reason, message: format!("{name:?} is already in use") });
        }
        free
    };
    let mut got = has.clone();
    if free("PluralConflict", &wanted.plural, &has.plural, &taken.resources) {
        got.plural.clone_from(&wanted.plural);
    }
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    if free("SingularConflict", &text(&wanted.singular), &text(&has.singular), &taken.resources) {
        got.singular.clone_from(&wanted.singular);
    }
    let ours = has.short_names.clone().unwrap_or_default();
    let mut short = wanted.short_names.iter().flatten();
    let all_free = short.all(|name| ours.contains(name) || free("ShortNamesConflict", name, "", &taken.resources));
    if all_free {
        got.short_names.clone_from(&wanted.short_names);
    }
    if free("KindConflict", &wanted.kind, &has.kind, &taken.kinds) {
        got.kind.clone_from(&wanted.kind);
    }
    if free("ListKindConflict", &text(&wanted.list_kind), &text(&has.list_kind), &taken.kinds) {
        got.list_kind.clone_from(&wanted.list_kind);
    }
    got.categories.clone_from(&wanted.categories);
    (got, refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(plural: &str, kind: &str, short: &[&str]) -> Names {
        Names {
            plural: plural.into(),
            singular: Some(kind.to_lowercase()),
            kind: kind.into(),
            list_kind: Some(format!("{kind}List")),
            short_names: Some(short.iter().map(|name| (*name).to_owned()).collect()),
            categories: None,
        }
    }

    #[test]
    fn what_another_has_is_refused_and_the_rest_is_accepted() {
        let mut taken = Taken::default();
        taken.add(&names("widgets", "Widget", &["w"]));
        let wanted = names("wheels", "Wheel", &["w", "wh"]);
        let (got, refusal) = accept(&wanted, &Names::default(), &taken);
        assert_eq!(refusal, Some(Refusal { reason: "ShortNamesConflict", message: "\"w\" is already in use".into() }));
        assert_eq!((got.plural.as_str(), got.kind.as_str(), got.short_names), ("wheels", "Wheel", None));
        let (got, refusal) = accept(&names("widgetz", "Widget", &[]), &Names::default(), &taken);
        assert_eq!((refusal.unwrap().reason, got.kind.as_str()), ("ListKindConflict", ""));
    }

    #[test]
    fn what_a_definition_has_already_it_keeps() {
        let has = names("widgets", "Widget", &["w"]);
        let mut taken = Taken::default();
        taken.add(&has);
        taken.add(&names("others", "Other", &["o"]));
        assert_eq!(accept(&has, &has, &taken), (has.clone(), None));
        let (got, refusal) = accept(&names("widgets", "Widget", &["o"]), &has, &taken);
        assert_eq!((refusal.unwrap().reason, got), ("ShortNamesConflict", has));
    }
}
