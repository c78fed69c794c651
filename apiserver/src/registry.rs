//! The kinds that are served: what discovery lists, what paths lead to, and what each object must look like.

use crate::{
    admission::Admission,
    builtin,
    openapi::Documents,
    schema::{Schema, SchemaError},
    subresource::Subresource,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceSubresourceScale,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

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
    /// Where the numbers are that `/scale` tells; none if it is not served.
    pub scale: Option<Arc<ScalePaths>>,
}

/// Where an object says how many are wanted of what it stands for, and how many there are: names of fields, from the outside in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// How many are wanted.
    pub spec_replicas: Vec<String>,
    /// How many there are.
    pub status_replicas: Vec<String>,
    /// Which objects those are, as a label selector in text.
    pub label_selector: Option<Vec<String>>,
}

impl ScalePaths {
    fn new(told: &CustomResourceSubresourceScale) -> Self {
        let path = |path: &str| path.trim_start_matches('.').split('.').map(str::to_owned).collect();
        let selector = told.label_selector_path.as_deref().filter(|selector| !selector.is_empty());
        Self {
            spec_replicas: path(&told.spec_replicas_path),
            status_replicas: path(&told.status_replicas_path),
            label_selector: selector.map(path),
        }
    }
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

impl Column {
    /// A column that is always shown.
    pub fn new(name: &str, json_path: &str, type_: &str, description: &str) -> Self {
        Self {
            name: name.into(),
            json_path: json_path.into(),
            type_: type_.into(),
            format: String::new(),
            description: description.into(),
            priority: 0,
        }
    }

    /// The age of the object.
    pub fn age() -> Self {
        Self::new("Age", ".metadata.creationTimestamp", "date", "Time since creation")
    }
}

impl ResourceDef {
    /// A kind of Kubernetes in its version `v1`: not in namespaces, without status and columns.
    pub fn builtin(group: &str, kind: &str, schema: Value) -> Self {
        Self {
            group: group.into(),
            version: "v1".into(),
            kind: kind.into(),
            list_kind: format!("{kind}List"),
            plural: format!("{}s", kind.to_lowercase()),
            singular: kind.to_lowercase(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: false,
            has_status: false,
            columns: Vec::new(),
            schema: Arc::new(schema),
            selectable_fields: Vec::new(),
            strategic_merge: true,
            scale: None,
        }
    }

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

/// A kind, and its schema once it is compiled.
#[derive(Clone)]
struct Served {
    def: Arc<ResourceDef>,
    schema: Option<Arc<Schema>>,
}

/// All kinds that are served, by group, version and plural name.
#[derive(Clone, Default)]
pub struct Registry {
    defs: BTreeMap<(String, String, String), Served>,
    /// By group, plural name, and name of the subresource.
    subresources: BTreeMap<(String, String, String), Arc<dyn Subresource>>,
    admissions: BTreeMap<(String, String), Arc<dyn Admission>>,
    /// The definitions that the program itself brings, by name.
    own: BTreeMap<String, Arc<CustomResourceDefinition>>,
    /// By group and plural name: what is known of the kinds that users have defined.
    custom: BTreeMap<(String, String), Custom>,
    /// What OpenAPI says of these kinds.
    pub(crate) documents: Documents,
}

/// A kind that a user has defined.
#[derive(Clone)]
struct Custom {
    definition: String,
    stored_as: Option<String>,
}

/// A user's definition, compiled.
pub(crate) struct Compiled {
    id: (String, String),
    versions: Vec<(Arc<ResourceDef>, Arc<Schema>)>,
    stored_as: Option<String>,
}

impl Compiled {
    /// Compiles a definition, which is served by the names that it has got.
    pub(crate) fn new(crd: &CustomResourceDefinition, names: &CustomResourceDefinitionNames) -> Result<Self, RegistryError> {
        let mut versions = Vec::new();
        for def in definitions_of(crd, names)? {
            let error =
                |error: SchemaError| RegistryError { name: crd.metadata.name.clone().unwrap_or_default(), reason: error.to_string() };
            let schema = Schema::compile(&def.schema).map_err(error)?;
            versions.push((Arc::new(def), Arc::new(schema)));
        }
        let storage = crd.spec.versions.iter().find(|version| version.storage);
        let stored_as = storage.filter(|_| crd.spec.versions.len() > 1).map(|version| format!("{}/{}", crd.spec.group, version.name));
        Ok(Self { id: (crd.spec.group.clone(), names.plural.clone()), versions, stored_as })
    }

    /// Group and plural name of the kind.
    pub(crate) fn id(&self) -> (&str, &str) {
        (&self.id.0, &self.id.1)
    }

    /// The kind in each served version.
    pub(crate) fn defs(&self) -> impl Iterator<Item = &Arc<ResourceDef>> {
        self.versions.iter().map(|(def, _)| def)
    }
}

/// The kind of a definition, by the names that it has got, in each served version.
fn definitions_of(crd: &CustomResourceDefinition, names: &CustomResourceDefinitionNames) -> Result<Vec<ResourceDef>, RegistryError> {
    let error = |reason: &str| RegistryError { name: crd.metadata.name.clone().unwrap_or_default(), reason: reason.into() };
    let mut defs = Vec::new();
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
        let mut columns: Vec<Column> = columns.collect();
        if columns.is_empty() {
            columns.push(Column {
                name: "Age".into(),
                json_path: ".metadata.creationTimestamp".into(),
                type_: "date".into(),
                format: String::new(),
                description: "Time since creation".into(),
                priority: 0,
            });
        }
        defs.push(ResourceDef {
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
            columns,
            schema: Arc::new(schema),
            selectable_fields: version.selectable_fields.iter().flatten().map(|f| f.json_path.trim_start_matches('.').to_owned()).collect(),
            strategic_merge: false,
            scale: version.subresources.as_ref().and_then(|s| s.scale.as_ref()).map(|scale| Arc::new(ScalePaths::new(scale))),
        });
    }
    Ok(defs)
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

    /// Lets somebody have a say about the objects of a kind.
    pub fn add_admission(&mut self, group: &str, plural: &str, admission: Arc<dyn Admission>) {
        self.admissions.insert((group.to_owned(), plural.to_owned()), admission);
    }

    /// Who has a say about the objects of a kind.
    pub fn admission(&self, group: &str, plural: &str) -> Option<&Arc<dyn Admission>> {
        self.admissions.get(&(group.to_owned(), plural.to_owned()))
    }

    /// Who answers GET on a subresource of a kind.
    pub fn subresource(&self, group: &str, plural: &str, name: &str) -> Option<&Arc<dyn Subresource>> {
        self.subresources.get(&(group.to_owned(), plural.to_owned(), name.to_owned()))
    }

    /// Names of the subresources of a kind besides `status`.
    pub fn subresources<'a>(&'a self, group: &'a str, plural: &'a str) -> impl Iterator<Item = &'a str> {
        self.subresources.keys().filter(move |(g, p, _)| g == group && p == plural).map(|(_, _, name)| name.as_str())
    }

    /// Adds every served version of a definition that the program itself brings.
    pub fn add_crd(&mut self, crd: &CustomResourceDefinition) -> Result<(), RegistryError> {
        for def in definitions_of(crd, &crd.spec.names)? {
            self.add(def);
        }
        self.own.insert(crd.metadata.name.clone().unwrap_or_default(), Arc::new(crd.clone()));
        Ok(())
    }

    /// Whether the program itself brings the kind that a definition with this name defines.
    pub(crate) fn brings(&self, definition: &str) -> bool {
        self.own.contains_key(definition)
    }

    /// The definitions that the program itself brings.
    pub(crate) fn own(&self) -> impl Iterator<Item = &Arc<CustomResourceDefinition>> {
        self.own.values()
    }

    /// Adds the kind of a user's definition.
    pub(crate) fn add_compiled(&mut self, definition: &str, compiled: &Compiled) {
        for (def, schema) in &compiled.versions {
            self.insert(def.clone(), Some(schema.clone()));
        }
        let custom = Custom { definition: definition.to_owned(), stored_as: compiled.stored_as.clone() };
        self.custom.insert(compiled.id.clone(), custom);
    }

    /// The name of the user's definition of a kind; none for the kinds of the program.
    pub(crate) fn defined_by(&self, group: &str, plural: &str) -> Option<&str> {
        self.custom.get(&(group.to_owned(), plural.to_owned())).map(|custom| custom.definition.as_str())
    }

    /// The `apiVersion` that new objects of a kind are stored with, if objects of it may have another one.
    pub(crate) fn stored_as(&self, group: &str, plural: &str) -> Option<&str> {
        self.custom.get(&(group.to_owned(), plural.to_owned()))?.stored_as.as_deref()
    }

    /// Adds one kind.
    pub fn add(&mut self, def: ResourceDef) {
        self.insert(Arc::new(def), None);
    }

    fn insert(&mut self, def: Arc<ResourceDef>, schema: Option<Arc<Schema>>) {
        self.documents = Documents::default();
        self.defs.insert((def.group.clone(), def.version.clone(), def.plural.clone()), Served { def, schema });
    }

    /// Compiles the schemas of all kinds; of one that cannot be, says which it is.
    pub(crate) fn compile(&mut self) -> Result<(), (Arc<ResourceDef>, SchemaError)> {
        for served in self.defs.values_mut().filter(|served| served.schema.is_none()) {
            let schema = Schema::compile(&served.def.schema).map_err(|error| (served.def.clone(), error))?;
            served.schema = Some(Arc::new(schema));
        }
        Ok(())
    }

    /// The kind behind a path.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceDef>> {
        self.served(group, version, plural).map(|served| &served.def)
    }

    /// Its compiled schema.
    pub(crate) fn schema(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Schema>> {
        self.served(group, version, plural)?.schema.as_ref()
    }

    fn served(&self, group: &str, version: &str, plural: &str) -> Option<&Served> {
        self.defs.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// All kinds, in the order of group, version and plural name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ResourceDef>> {
        self.defs.values().map(|served| &served.def)
    }

    /// All kinds, each in one of its versions.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &Arc<ResourceDef>> {
        let mut seen = BTreeSet::new();
        self.iter().filter(move |def| seen.insert((def.group.as_str(), def.plural.as_str())))
    }
}
