//! `scale`: how many are wanted of what an object stands for, and how many there are, in a form that is the same for every
//! kind (`autoscaling/v1`), so that whoever scales need not know the kind.

use super::{
    Api, Asked,
    checks::tolerate,
    object,
    write::{Mark, with_warnings},
};
use crate::{
    apply,
    builtin::schema_of,
    decode,
    error::{Cause, CauseReason, Reason, Status},
    keys, metadata,
    object::Object,
    patch::{self, Patch},
    registry::{Column, ResourceDef, ScalePaths},
    request::Target,
    schema::{Schema, UnknownField},
};
use axum::{
    body::Body,
    http::{Response, StatusCode},
};
use k8s_openapi::api::autoscaling::v1::Scale;
use serde_json::{Map, Value, json};
use std::sync::{Arc, LazyLock};

/// The kind, which is served of other kinds' objects only.
static SCALE: LazyLock<Arc<ResourceDef>> = LazyLock::new(|| {
    let mut schema = schema_of::<Scale>("How many are wanted of what an object stands for, and how many there are.");
    schema["properties"]["spec"]["properties"]["replicas"]["minimum"] = 0.into();
    let columns = vec![
        Column::new("Desired", ".spec.replicas", "integer", "How many are wanted"),
        Column::new("Available", ".status.replicas", "integer", "How many there are"),
        Column::age(),
    ];
    Arc::new(ResourceDef { namespaced: true, columns, ..ResourceDef::builtin("autoscaling", "Scale", schema) })
});

static SCHEMA: LazyLock<Option<Schema>> = LazyLock::new(|| Schema::compile(&SCALE.schema).ok());

/// What a writer sends.
enum Wanted {
    Whole(Value),
    Patch(Patch),
}

impl Api {
    /// `get`, `update` and `patch` of the scale of an object.
    pub async fn scale(&self, asked: &Asked<'_>, verb: &str, name: &str, body: &[u8]) -> Result<Response<Body>, Status> {
        let def = &asked.target.def;
        let Some(paths) = &def.scale else {
            return Err(Status::new(Reason::NotFound, "the server could not find the requested resource"));
        };
        let target = Target { def: SCALE.clone(), stored_as: None, ..asked.target.clone() };
        let about_scale = Asked { target: &target, ..*asked };
        if verb == "get" {
            let found = self.storage.get(def, &keys::place(asked.target.namespace.as_deref(), name)).await?;
            let found = found.ok_or_else(|| Status::not_found(&def.group, &def.plural, name))?;
            if at(&found.value(), &paths.spec_replicas).is_none() {
                let what = format!("the spec replicas field \".{}\" does not exist", paths.spec_replicas.join("."));
                return Err(Status::about(Reason::InternalError, &def.group, &def.plural, name, what));
            }
            return Ok(object(&about_scale, StatusCode::OK, &scale_of(paths, &found)));
        }
        let wanted = match verb {
            "update" => Wanted::Whole(decode::object(body, asked.content_type())?),
            _ => Wanted::Patch(Patch::parse(body, asked.content_type(), &SCALE)?),
        };
        let applies = matches!(wanted, Wanted::Patch(Patch::Apply(_)));
        if applies && asked.query.text("fieldManager").is_none() {
            return Err(Status::new(Reason::Invalid, "fieldManager: Required value: is required for apply patch"));
        }
        let mut warnings = Vec::new();
        let changed = self.modify(asked, name, |live| {
            let mut scale = scaled(paths, live);
            match &wanted {
                Wanted::Whole(whole) => scale = whole.clone(),
                Wanted::Patch(Patch::Json(operations)) => patch::apply_json(&mut scale, operations).map_err(|failure| {
                    Status::about(Reason::Invalid, &def.group, &def.plural, name, format!("could not be patched: {failure}"))
                })?,
                Wanted::Patch(Patch::Merge(fields)) => json_patch::merge(&mut scale, fields),
                Wanted::Patch(Patch::Strategic(fields)) => patch::apply_strategic(&mut scale, fields, &SCALE)?,
                Wanted::Patch(Patch::Apply(intent)) => scale = intent.clone(),
            }
            warnings = self.check_scale(&about_scale, name, &mut scale)?;
            // To clients in Go no number is 0.
            let replicas = scale["spec"].get("replicas").cloned().or((!applies).then(|| json!(0)));
            let mut new = if applies { json!({ "metadata": { "name": name } }) } else { live.clone() };
            self.check_head(asked, &mut new)?;
            for field in ["uid", "resourceVersion"] {
                if let Some(given) = scale["metadata"].get(field) {
                    new["metadata"][field] = given.clone();
                }
            }
            if let Some(replicas) = replicas {
                put(&mut new, &paths.spec_replicas, replicas).map_err(|field| {
                    let message = format!("Invalid value: {field} is not an object, so that there is no place for replicas in it");
                    let cause = Cause { reason: CauseReason::FieldValueInvalid, message, field };
                    Status::invalid(&def.group, &def.kind, name, vec![cause])
                })?;
            }
            let mut mark = Mark::Update;
            if applies {
                let (manager, force) = (asked.manager()?, asked.query.flag("force")?);
                new = apply::apply(Some(live), &new, def, manager, force, self.now()).map_err(|error| error.into_status(def, name))?;
                mark = Mark::Applied;
            }
            warnings.extend(self.complete(asked, &mut new)?);
            Ok((new, mark))
        });
        let changed = changed.await?;
        Ok(with_warnings(object(&about_scale, StatusCode::OK, &scale_of(paths, &changed)), &warnings))
    }

    /// What a writer sent is a scale of this object; says what to warn of.
    fn check_scale(&self, asked: &Asked<'_>, name: &str, scale: &mut Value) -> Result<Vec<UnknownField>, Status> {
        self.check_head(asked, scale)?;
        self.check_name(scale, name)?;
        let Some(schema) = &*SCHEMA else { return Err(Status::new(Reason::InternalError, "a Scale cannot be read")) };
        let mut unknown = schema.prune(scale);
        unknown.extend(metadata::prune(scale));
        let warnings = tolerate(asked, scale, unknown)?;
        let causes = schema.validate(scale, None);
        match causes.is_empty() {
            true => Ok(warnings),
            false => Err(Status::invalid(&SCALE.group, &SCALE.kind, name, causes)),
        }
    }
}

/// The scale of an object.
fn scale_of(paths: &ScalePaths, object: &Object) -> Arc<Object> {
    Arc::new(Object::of(scaled(paths, &object.value()), object.revision))
}

fn scaled(paths: &ScalePaths, object: &Value) -> Value {
    let number = |path| at(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut status = json!({ "replicas": number(&paths.status_replicas) });
    if let Some(path) = &paths.label_selector {
        status["selector"] = at(object, path).filter(|selector| selector.is_string()).cloned().unwrap_or_else(|| json!(""));
    }
    let fields = ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"];
    let metadata: Map<_, _> =
        fields.iter().filter_map(|field| Some((String::from(*field), object["metadata"].get(*field)?.clone()))).collect();
    json!({
        "apiVersion": SCALE.api_version(),
        "kind": SCALE.kind,
        "metadata": metadata,
        "spec": { "replicas": number(&paths.spec_replicas) },
        "status": status,
    })
}

fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name)).filter(|value| !value.is_null())
}

/// Puts a value where a path leads to; what is on the way and is not there is made. Fails with the field that is in the way.
fn put(object: &mut Value, path: &[String], value: Value) -> Result<(), String> {
    let mut place = object;
    for (depth, name) in path.iter().enumerate() {
        if place.is_null() {
            *place = json!({});
        }
        let in_the_way = || path.iter().take(depth).map(String::as_str).collect::<Vec<_>>().join(".");
        place = place.as_object_mut().ok_or_else(in_the_way)?.entry(name).or_insert(Value::Null);
    }
    *place = value;
    Ok(())
}
