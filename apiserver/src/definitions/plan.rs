//! What becomes of the definitions, as a pure function of all of them: who gets which names, who is served, and what their
//! statuses say.

use super::{
    Condition, is_true,
    names::{Taken, accept},
    set_condition,
};
use crate::registry::Registry;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition as Definition, CustomResourceDefinitionNames as Names,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// What is known of a definition's spec.
pub type Known = Result<Arc<Definition>, String>;

/// A definition as it is, and its spec if that can be served.
pub struct Seen<'a> {
    pub object: &'a Value,
    pub known: &'a Known,
}

/// What becomes of a definition.
#[derive(Debug)]
pub struct Verdict {
    /// The names that it is served by, if it is.
    pub served: Option<Names>,
    /// What its status is to be.
    pub status: Value,
}

/// Decides on all definitions, by name. Those of the program's own kinds are not among them.
pub fn plan(definitions: &BTreeMap<&str, Seen<'_>>, own: &Registry, now: &str) -> BTreeMap<String, Verdict> {
    let accepted = |seen: &Seen<'_>| Names::deserialize(&seen.object["status"]["acceptedNames"]).unwrap_or_default();
    let group = |seen: &Seen<'_>| seen.object["spec"]["group"].as_str().unwrap_or_default().to_owned();
    // What has been given stays given; what is new is given to the eldest first.
    let mut given: BTreeMap<&str, Names> = definitions.iter().map(|(name, seen)| (*name, accepted(seen))).collect();
    let mut order: Vec<_> = definitions.iter().collect();
    order.sort_by_key(|(name, seen)| (seen.object["metadata"]["creationTimestamp"].as_str().unwrap_or_default(), **name));
    let mut verdicts = BTreeMap::new();
    for (name, seen) in order {
        let mut status = seen.object["status"].clone();
        if !status.is_object() {
            status = json!({ "conditions": [] });
        }
        let verdict = match seen.known {
            Err(why) => {
                let said = [("NonStructuralSchema", true, "Violations", why.as_str()), ("Established", false, "NotAccepted", why)];
                for (type_, state, reason, message) in said {
                    let condition = Condition { type_, status: state, reason: reason.into(), message: message.into() };
                    set_condition(&mut status, &condition, now);
                }
                Verdict { served: None, status }
            }
            Ok(definition) => {
                let of_group = group(seen);
                let mut taken = Taken::default();
                own.iter().filter(|def| def.group == of_group).for_each(|def| taken.add_def(def));
                let others = definitions.iter().filter(|(other, seen)| *other != name && group(seen) == of_group);
                others.filter_map(|(other, _)| given.get(other)).for_each(|names| taken.add(names));
                let (names, refusal) = accept(&definition.spec.names, &accepted(seen), &taken);
                given.insert(name, names.clone());
                decide(seen.object, names, refusal.map(|refusal| (refusal.reason, refusal.message)), status, now)
            }
        };
        verdicts.insert((*name).to_owned(), verdict);
    }
    verdicts
}

fn decide(object: &Value, names: Names, refusal: Option<(&str, String)>, mut status: Value, now: &str) -> Verdict {
    let accepted = refusal.is_none();
    let (reason, message) = refusal.unwrap_or(("NoConflicts", "no conflicts found".into()));
    let established = accepted || is_true(object, "Established");
    let mut say = |type_, state, reason: &str, message: &str| {
        set_condition(&mut status, &Condition { type_, status: state, reason: reason.into(), message: message.into() }, now);
    };
    say("NamesAccepted", accepted, reason, &message);
    match established {
        true => say("Established", true, "InitialNamesAccepted", "the initial names have been accepted"),
        false => say("Established", false, "NotAccepted", "not all names are accepted"),
    }
    if object["metadata"]["deletionTimestamp"].is_string() {
        say("Terminating", true, "InstanceDeletionInProgress", "CustomResource deletion is in progress");
    }
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != "NonStructuralSchema");
    }
    status["acceptedNames"] = json!(names);
    Verdict { served: established.then_some(names), status }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(plural: &str, kind: &str, created: &str) -> Value {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.x.dev"), "creationTimestamp": created },
            "spec": {
                "group": "x.dev", "scope": "Cluster",
                "names": { "plural": plural, "singular": kind.to_lowercase(), "kind": kind, "listKind": format!("{kind}List") },
                "versions": [{ "name": "v1", "served": true, "storage": true }],
            },
        })
    }

    fn decided(objects: &[Value]) -> BTreeMap<String, Verdict> {
        let known: Vec<Known> = objects.iter().map(|object| Ok(Arc::new(Definition::deserialize(object).unwrap()))).collect();
        let seen = objects.iter().zip(&known).map(|(object, known)| (object["metadata"]["name"].as_str().unwrap(), Seen { object, known }));
        plan(&seen.collect(), &Registry::builtin(), "2026-02-01T00:00:00Z")
    }

    #[test]
    fn the_elder_of_two_gets_the_kind_that_both_want_and_keeps_it() {
        let mut objects = [definition("as", "Thing", "2026-01-02T00:00:00Z"), definition("bs", "Thing", "2026-01-01T00:00:00Z")];
        let verdicts = decided(&objects);
        assert!(verdicts["as.x.dev"].served.is_none() && verdicts["bs.x.dev"].served.is_some());
        let conditions = &verdicts["as.x.dev"].status["conditions"];
        assert_eq!((&conditions[0]["status"], &conditions[1]["status"]), (&json!("False"), &json!("False")));
        assert!(conditions[0]["message"].as_str().unwrap().ends_with("is already in use"));
        // Once given, it does not matter who is the elder.
        objects[1]["status"] = verdicts["bs.x.dev"].status.clone();
        objects[1]["metadata"]["creationTimestamp"] = "2026-01-03T00:00:00Z".into();
        let again = decided(&objects);
        assert!(again["as.x.dev"].served.is_none() && again["bs.x.dev"].served.is_some());
        assert_eq!(again["bs.x.dev"].status, objects[1]["status"]);
    }

    #[test]
    fn what_cannot_be_served_says_why() {
        let object = definition("as", "A", "2026-01-02T00:00:00Z");
        let known = Err("it has no schema".to_owned());
        let verdicts =
            plan(&BTreeMap::from([("as.x.dev", Seen { object: &object, known: &known })]), &Registry::builtin(), "2026-02-01T00:00:00Z");
        let verdict = &verdicts["as.x.dev"];
        assert!(verdict.served.is_none());
        assert_eq!(verdict.status["conditions"][0]["reason"], "Violations");
    }
}
