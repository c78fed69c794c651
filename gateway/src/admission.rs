//! What is asked of objects besides their schema. Of new tasks: that their host exists and that they do not depend on themselves;
//! and what is put in: by what they are found, and who made them. Of VMs that are to be deleted: that they are not protected.

use basalt_api::{
    GROUP,
    task::{CREATED_BY, HOST_LABEL, OBJECT_LABEL, OPERATION_LABEL, Operation},
};
use basalt_apiserver::{Admission, Cause, CauseReason, Identity, Look};
use basalt_controllers::task::{FINALIZER, cycle};
use serde_json::{Value, json};

/// The longest value of a label.
const LABEL: usize = 63;

/// Has a say about tasks.
pub struct Tasks;

impl Admission for Tasks {
    fn complete(&self, new: &mut Value, old: Option<&Value>, identity: &Identity) {
        let operation: Option<Operation> = serde_json::from_value(new["spec"]["operation"].clone()).ok();
        let Some(operation) = operation else { return };
        let host = new["spec"]["host"].as_str().map(str::to_owned);
        let namespace = new["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let object = operation.object(host.as_deref(), &namespace);
        let object = object.map(|object| format!("{}.{}", object.kind.to_lowercase(), object.name));
        let labels = [(OPERATION_LABEL, Some(operation.name().to_owned())), (HOST_LABEL, host), (OBJECT_LABEL, object)];
        for (name, value) in labels {
            if let Some(value) = value.filter(|value| value.len() <= LABEL) {
                new["metadata"]["labels"][name] = value.into();
            }
        }
        let maker = match old {
            Some(old) => old["metadata"]["annotations"][CREATED_BY].clone(),
            None => identity.user.as_str().into(),
        };
        new["metadata"]["annotations"][CREATED_BY] = maker;
        if old.is_none() {
            let finalizers = new["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            let held = finalizers.iter().any(|name| name == FINALIZER);
            new["metadata"]["finalizers"] = finalizers.into_iter().chain((!held).then(|| json!(FINALIZER))).collect();
        }
    }

    fn check(&self, new: &Value, look: &Look<'_>) -> Vec<Cause> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut causes = Vec::new();
        let hosts =
            [("spec.host", &new["spec"]["host"]), ("spec.operation.vmMigrate.target", &new["spec"]["operation"]["vmMigrate"]["target"])];
        for (field, host) in hosts {
            if let Some(host) = host.as_str().filter(|host| look(GROUP, "hosts", None, host).is_none()) {
                let message = format!("Not found: {host:?}: there is no such host; basaltctl get hosts tells which there are");
                causes.push(Cause { reason: CauseReason::FieldValueNotFound, message, field: field.into() });
            }
        }
        let (name, namespace) = (text(&new["metadata"]["name"]), text(&new["metadata"]["namespace"]));
        let ahead = |task: &Value| -> Vec<String> {
            let list = task["spec"]["dependsOn"].as_array();
            list.into_iter().flatten().map(|of| text(&of["task"])).collect()
        };
        let of = |task: &str| {
            if task == name {
                ahead(new)
            } else {
                look(GROUP, "tasks", Some(&namespace), task).map(|task| ahead(&task)).unwrap_or_default()
            }
        };
        if let Some(cycle) = cycle(&name, of) {
            let message = format!("Invalid value: the tasks would wait for each other for ever: {}", cycle.join(" -> "));
            causes.push(Cause { reason: CauseReason::FieldValueInvalid, message, field: "spec.dependsOn".into() });
        }
        let again =
            serde_json::from_value::<Operation>(new["spec"]["operation"].clone()).is_ok_and(|operation| !operation.may_be_repeated());
        if again && new["spec"]["retry"]["limit"].as_i64().unwrap_or(0) > 0 {
            let message = format!("Invalid value: {}: the operation may not be repeated: expected 0", new["spec"]["retry"]["limit"]);
            causes.push(Cause { reason: CauseReason::FieldValueInvalid, message, field: "spec.retry.limit".into() });
        }
        causes
    }
}

/// Has a say about VMs.
pub struct VirtualMachines;

impl Admission for VirtualMachines {
    fn check_deletion(&self, live: &Value) -> Result<(), String> {
        if live["spec"]["protected"].as_bool() == Some(true) {
            return Err("the VM is protected: set spec.protected to false first".into());
        }
        Ok(())
    }
}
