//! The kinds that are served: what discovery lists, what paths lead to, and what each object must look like.

use crate::{builtin, subresource::Subresource};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// One served version of one kind.
#[derive(Clone, Debug)]
pub struct ResourceDef {
    /// API group; empty for the core group.
    pub group: String,
    /// Version, such as `v1alpha1`.
    pub version: String,
    /// Kind, such as `VirtualMachine`.
    pub kind: String,
    /// Kind of a list of it.
    pub list_kind: String,
    /// Plural name: the path segment.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Short names for command lines.
    pub short_names: Vec<String>,
    /// Categories, such as `all`.
    pub categories: Vec<String>,
    /// Objects live in namespaces.
    pub namespaced: bool,
    /// `/status` is served, and writes to the object itself leave `status` alone.
    pub has_status: bool,
    /// Printer columns besides the name.
    pub columns: Vec<Column>,
    /// The structural schema of the object, as OpenAPI v3 JSON.
    pub schema: Arc<Value>,
    /// Fields besides metadata.name and metadata.namespace that field selectors may name, as JSON paths without the leading dot.
    pub selectable_fields: Vec<String>,
    /// Strategic merge patches are taken, as clients send them for the kinds that they know from Kubernetes.
    pub strategic_merge: bool,
}

/// A printer column of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header.
    pub name: String,
    /// JSON path into the object, with the leading dot, as in a CustomResourceDefinition.
    pub json_path: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub type_: String,
    /// Format hint, empty for none.
    pub format: String,
    /// What the column shows.
    pub description: String,
    /// 0 is always shown, larger ones with `-o wide` only.
    pub priority: i32,
}

impl ResourceDef {
    /// `group/version`, or the version alone for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// A CustomResourceDefinition cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("the definition {name} cannot be served: {reason}")]
pub struct RegistryError {
    /// Name of the definition.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// All kinds that are served, by group, version and plural name.
#[derive(Clone, Default)]
pub struct Registry {
    defs: BTreeMap<(String, String, String), Arc<ResourceDef>>,
    /// By group, plural name, and name of the subresource.
    subresources: BTreeMap<(String, String, String), Arc<dyn Subresource>>,
}

impl Registry {
    /// The kinds that the API server needs itself.
    pub fn builtin() -> Self {
        let mut registry = Self::default();
        builtin::definitions().into_iter().for_each(|def| registry.add(def));
        registry
    }

    /// Lets somebody answer GET on a subresource of a kind.
    pub fn add_subresource(&mut self, group: &str, plural: &str, name: &str, answers: Arc<dyn Subresource>) {
        self.subresources.insert((group.to_owned(), plural.to_owned(), name.to_owned()), answers);
    }

    /// Who answers GET on a subresource of a kind.
    pub fn subresource(&self, group: &str, plural: &str, name: &str) -> Option<&Arc<dyn Subresource>> {
        self.subresources.get(&(group.to_owned(), plural.to_owned(), name.to_owned()))
    }

    /// Names of the subresources of a kind besides `status`.
    pub fn subresources<'a>(&'a self, group: &'a str, plural: &'a str) -> impl Iterator<Item = &'a str> {
        self.subresources.keys().filter(move |(g, p, _)| g == group && p == plural).map(|(_, _, name)| name.as_str())
    }

    /// Adds every served version of a definition.
    pub fn add_crd(&mut self, crd: &CustomResourceDefinition) -> Result<(), RegistryError> {
        let names = &crd.spec.names;
        let error = |reason: &str| RegistryError { name: crd.metadata.name.clone().unwrap_or_default(), reason: reason.into() };
        for version in crd.spec.versions.iter().filter(|v| v.served) {
            let schema = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()).ok_or_else(|| error("it has no schema"))?;
            let schema = serde_json::to_value(schema).map_err(|e| error(&format!("its schema is not JSON: {e}")))?;
            let columns = version.additional_printer_columns.iter().flatten().map(|c| Column {
                name: c.name.clone(),
                json_path: c.json_path.clone(),
                type_: c.type_.clone(),
                format: c.format.clone().unwrap_or_default(),
                description: c.description.clone().unwrap_or_default(),
                priority: c.priority.unwrap_or(0),
            });
            self.add(ResourceDef {
                group: crd.spec.group.clone(),
                version: version.name.clone(),
                kind: names.kind.clone(),
                list_kind: names.list_kind.clone().unwrap_or_else(|| format!("{}List", names.kind)),
                plural: names.plural.clone(),
                singular: names.singular.clone().unwrap_or_else(|| names.kind.to_lowercase()),
                short_names: names.short_names.clone().unwrap_or_default(),
                categories: names.categories.clone().unwrap_or_default(),
                namespaced: crd.spec.scope == "Namespaced",
                has_status: version.subresources.as_ref().is_some_and(|s| s.status.is_some()),
                columns: columns.collect(),
                schema: Arc::new(schema),
                selectable_fields: version
                    .selectable_fields
                    .iter()
                    .flatten()
                    .map(|f| f.json_path.trim_start_matches('.').to_owned())
                    .collect(),
                strategic_merge: false,
            });
        }
        Ok(())
    }

    /// Adds one kind.
    pub fn add(&mut self, def: ResourceDef) {
        self.defs.insert((def.group.clone(), def.version.clone(), def.plural.clone()), Arc::new(def));
    }

    /// The kind behind a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceDef>> {
        self.defs.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// All kinds, in the order of group, version and plural name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ResourceDef>> {
        self.defs.values()
    }
}
