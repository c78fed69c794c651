//! The kinds of RBAC: Role, ClusterRole, RoleBinding and ClusterRoleBinding.

use super::GROUP;
use crate::{
    builtin::schema_of,
    registry::{Column, ResourceDef},
};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use serde_json::{Value, json};

/// The kinds of RBAC.
pub fn definitions() -> Vec<ResourceDef> {
    let bound = || {
        let role = Column::new("Role", ".roleRef.name", "string", "The role that is given");
        let kind = Column { priority: 1, ..Column::new("Kind", ".roleRef.kind", "string", "Role or ClusterRole") };
        let subjects = Column { priority: 1, ..Column::new("Subjects", ".subjects[*].name", "string", "Those to whom it is given") };
        vec![role, Column::age(), kind, subjects]
    };
    let def = |kind: &str, namespaced: bool, columns: Vec<Column>, schema: Value| ResourceDef {
        namespaced,
        columns,
        ..ResourceDef::builtin(GROUP, kind, schema)
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
        def("Role", true, vec![Column::age()], schema_of::<Role>("A Role is a set of rights within its namespace.")),
        def(
            "ClusterRole",
            false,
            vec![Column::age()],
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
