//! The kinds of RBAC: Role, ClusterRole, RoleBinding and ClusterRoleBinding.

use super::GROUP;
use crate::{
    builtin::schema_of,
    registry::{Column, ResourceDef},
};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Value, json};
use std::sync::Arc;

/// The kinds of RBAC.
pub fn definitions() -> Vec<ResourceDef> {
    let column = |name: &str, json_path: &str, type_: &str, description: &str| Column {
        name: name.into(),
        json_path: json_path.into(),
        type_: type_.into(),
        format: String::new(),
        description: description.into(),
        priority: 0,
    };
    let age = || column("Age", ".metadata.creationTimestamp", "date", "Time since creation");
    let bound = || {
        let role = column("Role", ".roleRef.name", "string", "The role that is given");
        let kind = Column { priority: 1, ..column("Kind", ".roleRef.kind", "string", "Role or ClusterRole") };
        let subjects = Column { priority: 1, ..column("Subjects", ".subjects[*].name", "string", "Those to whom it is given") };
        vec![role, age(), kind, subjects]
    };
    let def = |kind: &str, namespaced: bool, columns: Vec<Column>, schema: Value| ResourceDef {
        group: GROUP.into(),
        version: "v1".into(),
        kind: kind.into(),
        list_kind: format!("{kind}List"),
        plural: format!("{}s", kind.to_lowercase()),
        singular: kind.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        has_status: false,
        columns,
        schema: Arc::new(schema),
        selectable_fields: Vec::new(),
        strategic_merge: true,
    };
    let binding = |schema: Value, roles: Value| {
        let mut schema = schema;
        schema["properties"]["roleRef"]["properties"]["kind"]["enum"] = roles;
        schema["properties"]["roleRef"]["properties"]["apiGroup"]["enum"] = json!([GROUP]);
        schema["properties"]["roleRef"]["properties"]["apiGroup"]["default"] = GROUP.into();
        if let Some(required) = schema.pointer_mut("/properties/roleRef/required").and_then(Value::as_array_mut) {
            required.retain(|name| name != "apiGroup");
        }
        schema["properties"]["subjects"]["items"]["properties"]["kind"]["enum"] = json!(["User", "Group", "ServiceAccount"]);
        schema
    };
    vec![
        def("Role", true, vec![age()], schema_of::<Role>("A Role is a set of rights within its namespace.")),
        def(
            "ClusterRole",
            false,
            vec![age()],
            schema_of::<ClusterRole>("A ClusterRole is a set of rights, everywhere or where it is bound."),
        ),
        def(
            "RoleBinding",
            true,
            bound(),
            binding(schema_of::<RoleBinding>("A RoleBinding gives a role's rights within its namespace."), json!(["Role", "ClusterRole"])),
        ),
        def(
            "ClusterRoleBinding",
            false,
            bound(),
            binding(
                schema_of::<ClusterRoleBinding>("A ClusterRoleBinding gives a ClusterRole's rights everywhere."),
                json!(["ClusterRole"]),
            ),
        ),
    ]
}
