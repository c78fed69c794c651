//! Version 2 in protobuf, the only form in which kubectl before 1.27 reads it: it validates and explains by it.
//!
//! The messages are those of gnostic's `openapi.v2` package, as far as the documents here use them. A `oneof` is written as
//! its members, of which one is set: on the wire that is the same.

use prost::Message;
use serde_json::{Map, Value};

/// The media type under which the bytes are sent.
pub const MEDIA_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// A Swagger 2.0 document in protobuf.
pub fn encode(document: &Value) -> Vec<u8> {
    Document {
        swagger: text(document, "swagger"),
        info: Some(Info { title: text(&document["info"], "title"), version: text(&document["info"], "version") }),
        paths: Some(Paths {
            path: members(&document["paths"]).map(|(name, value)| NamedPath { name: name.clone(), value: Some(path(value)) }).collect(),
        }),
        definitions: Some(Schemas { named: schemas(&document["definitions"]) }),
    }
    .encode_to_vec()
}

fn path(value: &Value) -> Path {
    let operation = |verb: &str| value.get(verb).map(operation);
    Path {
        get: operation("get"),
        put: operation("put"),
        post: operation("post"),
        delete: operation("delete"),
        patch: operation("patch"),
        parameters: parameters(value),
    }
}

fn operation(value: &Value) -> Operation {
    let response = |(code, response): (&String, &Value)| NamedResponse {
        name: code.clone(),
        value: Some(ResponseValue {
            response: Some(Response {
                description: text(response, "description"),
                schema: response.get("schema").map(|s| SchemaItem { schema: Some(schema(s)) }),
            }),
        }),
    };
    Operation {
        operation_id: text(value, "operationId"),
        parameters: parameters(value),
        responses: Some(Responses { code: members(&value["responses"]).map(response).collect() }),
        extensions: extensions(value),
    }
}

fn parameters(value: &Value) -> Vec<ParametersItem> {
    let simple = |value: &Value| {
        let mut parameter = NonBody::default();
        let (name, description, type_) = (text(value, "name"), text(value, "description"), text(value, "type"));
        match value["in"].as_str() {
            Some("path") => {
                parameter.path = Some(PathParameter { required: true, place: "path".into(), description, name, type_ });
            }
            _ => {
                let unique_items = flag(value, "uniqueItems");
                parameter.query = Some(QueryParameter { place: "query".into(), description, name, type_, unique_items });
            }
        }
        ParametersItem { parameter: Some(Parameter { non_body: Some(parameter) }) }
    };
    value["parameters"].as_array().into_iter().flatten().map(simple).collect()
}

fn schemas(value: &Value) -> Vec<NamedSchema> {
    members(value).map(|(name, value)| NamedSchema { name: name.clone(), value: Some(schema(value)) }).collect()
}

fn schema(value: &Value) -> Schema {
    let number = |name: &str| value[name].as_f64().unwrap_or_default();
    let count = |name: &str| value[name].as_f64().unwrap_or_default() as i64;
    let texts = |name: &str| value[name].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect();
    Schema {
        reference: text(value, "$ref"),
        format: text(value, "format"),
        title: text(value, "title"),
        description: text(value, "description"),
        default: value.get("default").map(any),
        multiple_of: number("multipleOf"),
        maximum: number("maximum"),
        exclusive_maximum: flag(value, "exclusiveMaximum"),
        minimum: number("minimum"),
        exclusive_minimum: flag(value, "exclusiveMinimum"),
        max_length: count("maxLength"),
        min_length: count("minLength"),
        pattern: text(value, "pattern"),
        max_items: count("maxItems"),
        min_items: count("minItems"),
        unique_items: flag(value, "uniqueItems"),
        max_properties: count("maxProperties"),
        min_properties: count("minProperties"),
        required: texts("required"),
        enum_: value["enum"].as_array().into_iter().flatten().map(any).collect(),
        additional_properties: value.get("additionalProperties").map(|additional| {
            Box::new(match additional {
                Value::Object(_) => AdditionalProperties { schema: Some(Box::new(schema(additional))), boolean: None },
                other => AdditionalProperties { schema: None, boolean: Some(other.as_bool().unwrap_or(true)) },
            })
        }),
        type_: value["type"].as_str().map(|type_| Type { value: vec![type_.to_owned()] }),
        items: value.get("items").map(|items| Items { schema: vec![schema(items)] }),
        properties: value.get("properties").map(|properties| Schemas { named: schemas(properties) }),
        extensions: extensions(value),
    }
}

fn extensions(value: &Value) -> Vec<NamedAny> {
    let own = members(value).filter(|(name, _)| name.starts_with("x-"));
    own.map(|(name, value)| NamedAny { name: name.clone(), value: Some(any(value)) }).collect()
}

/// Any value is carried as YAML, which JSON is.
fn any(value: &Value) -> Any {
    Any { yaml: value.to_string() }
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn flag(value: &Value, name: &str) -> bool {
    value[name].as_bool().unwrap_or(false)
}

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<Schemas>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPath>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedPath {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Path>,
}

#[derive(Clone, PartialEq, Message)]
struct Path {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "3")]
    put: Option<Operation>,
    #[prost(message, optional, tag = "4")]
    post: Option<Operation>,
    #[prost(message, optional, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
    #[prost(message, repeated, tag = "9")]
    parameters: Vec<ParametersItem>,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(string, tag = "5")]
    operation_id: String,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<ParametersItem>,
    #[prost(message, optional, tag = "9")]
    responses: Option<Responses>,
    #[prost(message, repeated, tag = "13")]
    extensions: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct ParametersItem {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(message, optional, tag = "2")]
    non_body: Option<NonBody>,
}

#[derive(Clone, PartialEq, Message)]
struct NonBody {
    #[prost(message, optional, tag = "3")]
    query: Option<QueryParameter>,
    #[prost(message, optional, tag = "4")]
    path: Option<PathParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct QueryParameter {
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "3")]
    description: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    type_: String,
    #[prost(bool, tag = "20")]
    unique_items: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PathParameter {
    #[prost(bool, tag = "1")]
    required: bool,
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "3")]
    description: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "5")]
    type_: String,
}

#[derive(Clone, PartialEq, Message)]
struct Responses {
    #[prost(message, repeated, tag = "1")]
    code: Vec<NamedResponse>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedResponse {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<ResponseValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseValue {
    #[prost(message, optional, tag = "1")]
    response: Option<Response>,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(message, optional, tag = "2")]
    schema: Option<SchemaItem>,
}

#[derive(Clone, PartialEq, Message)]
struct SchemaItem {
    #[prost(message, optional, tag = "1")]
    schema: Option<Schema>,
}

/// `Definitions` and `Properties`, which are alike.
#[derive(Clone, PartialEq, Message)]
struct Schemas {
    #[prost(message, repeated, tag = "1")]
    named: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "3")]
    title: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(message, optional, tag = "5")]
    default: Option<Any>,
    #[prost(double, tag = "6")]
    multiple_of: f64,
    #[prost(double, tag = "7")]
    maximum: f64,
    #[prost(bool, tag = "8")]
    exclusive_maximum: bool,
    #[prost(double, tag = "9")]
    minimum: f64,
    #[prost(bool, tag = "10")]
    exclusive_minimum: bool,
    #[prost(int64, tag = "11")]
    max_length: i64,
    #[prost(int64, tag = "12")]
    min_length: i64,
    #[prost(string, tag = "13")]
    pattern: String,
    #[prost(int64, tag = "14")]
    max_items: i64,
    #[prost(int64, tag = "15")]
    min_items: i64,
    #[prost(bool, tag = "16")]
    unique_items: bool,
    #[prost(int64, tag = "17")]
    max_properties: i64,
    #[prost(int64, tag = "18")]
    min_properties: i64,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, repeated, tag = "20")]
    enum_: Vec<Any>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<AdditionalProperties>>,
    #[prost(message, optional, tag = "22")]
    type_: Option<Type>,
    #[prost(message, optional, tag = "23")]
    items: Option<Items>,
    #[prost(message, optional, tag = "25")]
    properties: Option<Schemas>,
    #[prost(message, repeated, tag = "31")]
    extensions: Vec<NamedAny>,
}

#[derive(Clone, PartialEq, Message)]
struct AdditionalProperties {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
    #[prost(bool, optional, tag = "2")]
    boolean: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedAny {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "2")]
    yaml: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_kubectl_looks_for_is_in_the_bytes() {
        let document = json!({
            "swagger": "2.0",
            "info": { "title": "T", "version": "1" },
            "paths": { "/a/{name}": { "patch": {
                "x-kubernetes-group-version-kind": { "kind": "A" },
                "parameters": [{ "name": "dryRun", "in": "query", "type": "string" }, { "name": "name", "in": "path", "type": "string" }],
                "responses": { "200": { "description": "OK", "schema": { "$ref": "#/definitions/A" } } },
            } } },
            "definitions": { "A": {
                "type": "object",
                "x-kubernetes-group-version-kind": [{ "kind": "A" }],
                "properties": { "n": { "type": "integer", "minimum": 1.0 }, "m": { "type": "object", "additionalProperties": { "type": "string" } } },
            } },
        });
        let read = Document::decode(encode(&document).as_slice()).unwrap();
        let path = &read.paths.unwrap().path[0];
        let patch = path.value.as_ref().unwrap().patch.as_ref().unwrap();
        let parameter = patch.parameters[0].parameter.as_ref().unwrap().non_body.as_ref().unwrap();
        assert_eq!((path.name.as_str(), parameter.query.as_ref().unwrap().name.as_str()), ("/a/{name}", "dryRun"));
        assert_eq!(patch.extensions[0].value.as_ref().unwrap().yaml, "{\"kind\":\"A\"}");
        let definition = &read.definitions.unwrap().named[0];
        let schema = definition.value.as_ref().unwrap();
        assert_eq!(definition.name, "A");
        assert_eq!(schema.extensions[0].name, "x-kubernetes-group-version-kind");
        let properties = &schema.properties.as_ref().unwrap().named;
        let map = properties.iter().find(|p| p.name == "m").unwrap().value.as_ref().unwrap();
        assert!(map.additional_properties.as_ref().unwrap().schema.is_some());
    }
}
