//! What is special about Namespaces: how a new one is completed, what its writers may not change, and what it waits for
//! while it is being deleted.

use crate::{builtin::NAMESPACE_FINALIZER, handlers::checks::finalizers, registry::ResourceDef};
use serde_json::{Map, Value, json};
use std::ops::Deref;

/// The label that lets a namespace be selected by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The namespace that is always there.
pub const DEFAULT: &str = "default";

/// Whether a kind is Namespace.
pub fn is_namespace(def: &ResourceDef) -> bool {
    def.group.is_empty() && def.kind == "Namespace"
}

/// Sets what the server sets in a new namespace (`live` is none) or in a changed one: its finalizer in `spec`, its phase and
/// the label with its name. What has another form than an object is left for validation to refuse.
pub fn complete(namespace: &mut Value, live: Option<&Value>) {
    let name = namespace["metadata"]["name"].clone();
    if let Some(labels) = namespace.get_mut("metadata").and_then(|metadata| field(metadata, "labels")) {
        labels.insert(NAME_LABEL.to_owned(), name);
    }
    let (finalizers, status) = match live {
        None => (json!([NAMESPACE_FINALIZER]), json!({ "phase": "Active" })),
        Some(live) => (live["spec"]["finalizers"].clone(), live["status"].clone()),
    };
    if let Some(spec) = field(namespace, "spec") {
        spec.insert("finalizers".to_owned(), finalizers);
        spec.retain(|_, value| !value.is_null());
    }
    if let Some(fields) = namespace.as_object_mut() {
        fields.insert("status".to_owned(), status);
        fields.retain(|_, value| !value.is_null());
    }
}

/// An object's field that is an object, made if it is not there.
fn field<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    let value = object.as_object_mut()?.entry(name).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

/// Whether an object is held by something besides its finalizers: a namespace by what is in it.
pub fn holds(def: &ResourceDef, object: &Value) -> bool {
    is_namespace(def) && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

/// What a namespace's status says of it when it is to be deleted.
pub fn mark_terminating(def: &ResourceDef, object: &mut Value) {
    if is_namespace(def)
        && let Some(status) = field(object, "status")
    {
        status.insert("phase".to_owned(), "Terminating".into());
    }
}

/// What is left of a kind in a namespace.
pub struct Remainder {
    /// The kind.
    pub resource: String,
    /// How many objects.
    pub objects: usize,
    /// The finalizers that hold them.
    pub finalizers: Vec<String>,
}

impl Remainder {
    /// What is left among objects of a kind; none if nothing is.
    pub fn of(def: &ResourceDef, objects: impl Iterator<Item = impl Deref<Target = Value>>) -> Option<Self> {
        let dot = if def.group.is_empty() { "" } else { "." };
        let mut left = Self { resource: format!("{}{dot}{}", def.plural, def.group), objects: 0, finalizers: Vec::new() };
        for object in objects {
            left.objects += 1;
            for finalizer in finalizers(&object) {
                if !left.finalizers.iter().any(|known| known == finalizer) {
                    left.finalizers.push(finalizer.to_owned());
                }
            }
        }
        left.finalizers.sort();
        (left.objects > 0).then_some(left)
    }
}

/// Says in a namespace's conditions what its deletion waits for, in Kubernetes's words.
pub fn explain(namespace: &mut Value, left: &[Remainder], now: &str) {
    let resources: Vec<_> = left.iter().map(|kind| format!("{} has {} resource instances", kind.resource, kind.objects)).collect();
    let held: Vec<_> = left
        .iter()
        .filter(|kind| !kind.finalizers.is_empty())
        .map(|kind| format!("{} in {} instances", kind.finalizers.join(", "), kind.resource))
        .collect();
    let remaining = format!("Some resources are remaining: {}", resources.join(", "));
    let finalizers = format!("Some content in the namespace has finalizers remaining: {}", held.join("; "));
    let Some(status) = field(namespace, "status") else { return };
    let mut conditions = status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    for (type_, true_, reasons, messages) in [
        (
            "NamespaceContentRemaining",
            !resources.is_empty(),
            ["SomeResourcesRemain", "ContentRemoved"],
            [remaining.as_str(), "All content successfully removed"],
        ),
        (
            "NamespaceFinalizersRemaining",
            !held.is_empty(),
            ["SomeFinalizersRemain", "ContentHasNoFinalizers"],
            [finalizers.as_str(), "All content-preserving finalizers finished"],
        ),
    ] {
        let which = usize::from(!true_);
        let state = if true_ { "True" } else { "False" };
        let mut condition = json!({
            "type": type_, "status": state, "reason": reasons[which], "message": messages[which], "lastTransitionTime": now,
        });
        match conditions.iter_mut().find(|known| known["type"] == type_) {
            Some(known) => {
                if known["status"] == state {
                    condition["lastTransitionTime"] = known["lastTransitionTime"].clone();
                }
                *known = condition;
            }
            None => conditions.push(condition),
        }
    }
    status.insert("conditions".to_owned(), conditions.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_active_and_held_by_what_is_in_it() {
        let mut namespace = json!({"metadata": {"name": "a", "labels": {"x": "y"}}, "status": {"phase": "Odd"}});
        complete(&mut namespace, None);
        let labels = json!({"x": "y", NAME_LABEL: "a"});
        let wanted =
            json!({"metadata": {"name": "a", "labels": labels}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
        assert_eq!(namespace, wanted);
    }

    #[test]
    fn a_writer_changes_neither_phase_nor_finalizer_of_a_namespace() {
        let mut live = json!({"metadata": {"name": "a"}});
        complete(&mut live, None);
        let mut new = json!({"metadata": {"name": "a"}, "status": {"phase": "Terminating"}});
        complete(&mut new, Some(&live));
        assert_eq!(new, live);
    }

    #[test]
    fn fields_of_the_wrong_type_are_left_for_validation() {
        for wrong in [json!({"metadata": {"labels": "x"}, "spec": 3}), json!({"metadata": 1}), json!([])] {
            let mut namespace = wrong.clone();
            complete(&mut namespace, None);
        }
    }

    #[test]
    fn the_conditions_say_what_a_deletion_waits_for_and_keep_their_times() {
        let left = [Remainder { resource: "virtualmachines.basalt.dev".into(), objects: 2, finalizers: vec!["x/y".into()] }];
        let mut namespace = json!({"status": {"phase": "Terminating"}});
        explain(&mut namespace, &left, "t1");
        explain(&mut namespace, &left, "t2");
        let conditions = &namespace["status"]["conditions"];
        assert_eq!(conditions[0]["message"], "Some resources are remaining: virtualmachines.basalt.dev has 2 resource instances");
        assert_eq!(conditions[1]["status"], "True");
        assert_eq!(conditions[1]["lastTransitionTime"], "t1");
        explain(&mut namespace, &[], "t3");
        assert_eq!(namespace["status"]["conditions"][0]["lastTransitionTime"], "t3");
    }
}
