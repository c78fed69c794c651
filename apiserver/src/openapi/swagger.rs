//! What version 2 cannot say: schemas are brought down to Swagger 2.0 in the way in which Kubernetes brings down those of
//! custom resources. What is left out is still enforced by the server.

use serde_json::{Map, Value};

/// What Swagger 2.0 has no word for.
const UNKNOWN: [&str; 7] = ["nullable", "oneOf", "anyOf", "allOf", "not", "deprecated", "x-kubernetes-validations"];

/// A schema without what version 2 cannot say.
pub(super) fn lower(schema: &Value) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let mut lowered: Map<String, Value> =
        fields.iter().filter(|(name, _)| !UNKNOWN.contains(&name.as_str())).map(|(name, value)| (name.clone(), value.clone())).collect();
    let flag = |name: &str| fields.get(name).and_then(Value::as_bool).unwrap_or(false);
    if flag("x-kubernetes-int-or-string") {
        lowered.remove("type");
    }
    if flag("x-kubernetes-preserve-unknown-fields") {
        // Clients of version 2 take the fields that are named for all that there are.
        lowered.remove("properties");
        lowered.remove("items");
    }
    for name in ["items", "additionalProperties"] {
        if let Some(value) = lowered.get_mut(name) {
            *value = lower(value);
        }
    }
    if let Some(Value::Object(properties)) = lowered.get_mut("properties") {
        properties.values_mut().for_each(|value| *value = lower(value));
    }
    lowered.into()
}
