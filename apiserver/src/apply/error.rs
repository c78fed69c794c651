//! Why a configuration was not applied, and the `Status` that says so.

use super::entries::{EntryError, Operation};
use crate::{
    Cause, CauseReason, ResourceDef, Status,
    error::{Details, Reason},
};
use std::{collections::BTreeMap, fmt};

/// Why a configuration was not applied. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields that the configuration would change.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The configuration cannot be merged.
    #[error("the applied configuration is invalid: {}", .0.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join(", "))]
    Invalid(Vec<Cause>),
    /// The live object's managedFields cannot be read.
    #[error("failed to decode managed fields: {0}")]
    ManagedFields(#[from] EntryError),
}

/// A field that another owner holds with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other owner.
    pub manager: String,
    /// How it came to own the field.
    pub operation: Operation,
    /// In which version it wrote the field.
    pub api_version: String,
    /// Through which subresource it wrote; empty for the object itself.
    pub subresource: String,
    /// Path of the field, such as `.spec.cpus`.
    pub path: String,
}

/// The other owner, as Kubernetes prints it: `"name" with subresource "status" using basalt.dev/v1alpha1`.
struct Holder<'a>(&'a Conflict);

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.manager)?;
        if !self.0.subresource.is_empty() {
            write!(f, " with subresource {:?}", self.0.subresource)?;
        }
        match self.0.operation {
            Operation::Apply => Ok(()),
            Operation::Update => write!(f, " using {}", self.0.api_version),
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", Holder(one), one.path);
    }
    let mut holders: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for conflict in conflicts {
        holders.entry(Holder(conflict).to_string()).or_default().push(&conflict.path);
    }
    let lines: Vec<String> = holders.iter().map(|(holder, paths)| format!("conflicts with {holder}:\n- {}", paths.join("\n- "))).collect();
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

impl ApplyError {
    /// The failed request as clients see it; `name` is the name of the object.
    pub fn into_status(self, def: &ResourceDef, name: &str) -> Status {
        let message = self.to_string();
        match self {
            Self::Conflicts(conflicts) => {
                let causes = conflicts.into_iter().map(|conflict| Cause {
                    reason: CauseReason::FieldManagerConflict,
                    message: format!("conflict with {}", Holder(&conflict)),
                    field: conflict.path,
                });
                Status::new(Reason::Conflict, message).with_details(Details { causes: causes.collect(), ..Details::default() })
            }
            Self::Invalid(causes) => Status::invalid(&def.group, &def.kind, name, causes),
            Self::ManagedFields(_) => Status::new(Reason::InternalError, message),
        }
    }
}
