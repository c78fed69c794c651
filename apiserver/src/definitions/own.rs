//! The definitions of the kinds that the program itself brings are objects too, so that whoever looks for a definition finds it.
//! What is served is what the program says, whatever is stored.

use super::{Condition, GROUP, PLURAL, complete, set_condition};
use crate::{
    apply::{Manager, record_update},
    error::Status,
    handlers::Api,
    registry::ResourceDef,
    storage::Outcome,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition as Definition;
use serde_json::{Value, json};

const MANAGER: Manager<'static> = Manager { name: "basalt", subresource: "" };

impl Api {
    /// Makes the definitions of the program's own kinds, and brings those of another version of it up to date.
    pub async fn ensure_definitions(&self) -> Result<(), Status> {
        let registry = self.registry();
        let Some(def) = registry.get(GROUP, "v1", PLURAL) else { return Ok(()) };
        futures::future::try_join_all(registry.own().map(|own| self.ensure_definition(def, own))).await.map(drop)
    }

    async fn ensure_definition(&self, def: &ResourceDef, own: &Definition) -> Result<(), Status> {
        let now = self.now();
        let mut new = json!({
            "apiVersion": def.api_version(),
            "kind": def.kind,
            "metadata": { "name": own.metadata.name, "labels": { "app.kubernetes.io/managed-by": "basalt" } },
            "spec": own.spec,
        });
        complete(&mut new, None);
        // Nobody can delete it, so that there is nothing to wait for.
        new["metadata"]["finalizers"] = json!([]);
        // As the same definition from a file is stored.
        self.schema(def)?.prune(&mut new);
        self.schema(def)?.apply_defaults(&mut new);
        new["status"]["acceptedNames"] = new["spec"]["names"].clone();
        let said = [
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ];
        for (type_, reason, message) in said {
            let condition = Condition { type_, status: true, reason: reason.into(), message: message.into() };
            set_condition(&mut new["status"], &condition, &now.to_string());
        }
        let place = own.metadata.name.as_deref().unwrap_or_default();
        if self.storage.get(def, place).await?.is_none() {
            new["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
            new["metadata"]["creationTimestamp"] = now.to_string().into();
            new["metadata"]["generation"] = 1.into();
            record_update(None, &mut new, def, MANAGER, now);
            // Another gateway may have made it meanwhile.
            return self.storage.create(def, place, new).await.map(drop);
        }
        let changed = self.storage.change(def, place, false, |live| Ok(updated(live, &new, def, now)));
        changed.await.map(drop)
    }
}

fn updated(live: &Value, new: &Value, def: &ResourceDef, now: jiff::Timestamp) -> Outcome {
    let terminating = live["metadata"]["deletionTimestamp"].is_string();
    if live["spec"] == new["spec"] && live["status"]["acceptedNames"] == new["status"]["acceptedNames"] && !terminating {
        return Outcome::Keep;
    }
    let mut changed = live.clone();
    changed["spec"] = new["spec"].clone();
    changed["status"] = new["status"].clone();
    changed["metadata"]["finalizers"] = json!([]);
    changed["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "basalt".into();
    if let (true, Some(metadata)) = (terminating, changed["metadata"].as_object_mut()) {
        metadata.remove("deletionTimestamp");
        metadata.remove("deletionGracePeriodSeconds");
    }
    changed["metadata"]["generation"] = (live["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
    record_update(Some(live), &mut changed, def, MANAGER, now);
    Outcome::Put(changed)
}
