//! Bodies in Kubernetes' protobuf: kubectl and client-go send the kinds that they have types for in it.
//!
//! Only what they send is known here, by tables from the `generated.proto` files of k8s.io/api and k8s.io/apimachinery (1.34): the
//! numbers of the fields are theirs. What comes of it is the JSON that the same client would have sent.

use crate::error::{Reason, Status};
use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde_json::{Map, Value};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every such body starts with.
const MAGIC: &[u8] = b"k8s\0";

/// What a field holds.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Texts,
    /// 0 is as good as nothing.
    Count,
    /// 0 is a number.
    Number,
    Bool,
    Time,
    MicroTime,
    /// A map to texts.
    TextMap,
    /// A map to bytes, which JSON has in base64.
    BytesMap,
    /// A message with one field, JSON text.
    Json,
    Message(&'static [Field]),
    Messages(&'static [Field]),
}
use Type::{Bool, BytesMap, Count, Json, Message, Messages, MicroTime, Number, Text, TextMap, Texts, Time};

/// Number, name in JSON, and what it holds.
type Field = (u32, &'static str, Type);

const OWNER: &[Field] = &[
    (1, "kind", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "controller", Bool),
    (7, "blockOwnerDeletion", Bool),
];
const MANAGED: &[Field] = &[
    (1, "manager", Text),
    (2, "operation", Text),
    (3, "apiVersion", Text),
    (4, "time", Time),
    (6, "fieldsType", Text),
    (7, "fieldsV1", Json),
    (8, "subresource", Text),
];
const META: &[Field] = &[
    (1, "name", Text),
    (2, "generateName", Text),
    (3, "namespace", Text),
    (5, "uid", Text),
    (6, "resourceVersion", Text),
    (7, "generation", Count),
    (8, "creationTimestamp", Time),
    (9, "deletionTimestamp", Time),
    (10, "deletionGracePeriodSeconds", Number),
    (11, "labels", TextMap),
    (12, "annotations", TextMap),
    (13, "ownerReferences", Messages(OWNER)),
    (14, "finalizers", Texts),
    (17, "managedFields", Messages(MANAGED)),
];
const DELETE: &[Field] = &[
    (1, "gracePeriodSeconds", Number),
    (2, "preconditions", Message(&[(1, "uid", Text), (2, "resourceVersion", Text)])),
    (3, "orphanDependents", Bool),
    (4, "propagationPolicy", Text),
    (5, "dryRun", Texts),
];
const NAMESPACE: &[Field] =
    &[(1, "metadata", Message(META)), (2, "spec", Message(&[(1, "finalizers", Texts)])), (3, "status", Message(&[(1, "phase", Text)]))];
const SECRET: &[Field] =
    &[(1, "metadata", Message(META)), (2, "data", BytesMap), (3, "type", Text), (4, "stringData", TextMap), (5, "immutable", Bool)];
const REFERENCE: &[Field] = &[
    (1, "kind", Text),
    (2, "namespace", Text),
    (3, "name", Text),
    (4, "uid", Text),
    (5, "apiVersion", Text),
    (6, "resourceVersion", Text),
    (7, "fieldPath", Text),
];
const EVENT: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "involvedObject", Message(REFERENCE)),
    (3, "reason", Text),
    (4, "message", Text),
    (5, "source", Message(&[(1, "component", Text), (2, "host", Text)])),
    (6, "firstTimestamp", Time),
    (7, "lastTimestamp", Time),
    (8, "count", Count),
    (9, "type", Text),
    (10, "eventTime", MicroTime),
    (11, "series", Message(&[(1, "count", Count), (2, "lastObservedTime", MicroTime)])),
    (12, "action", Text),
    (13, "related", Message(REFERENCE)),
    (14, "reportingComponent", Text),
    (15, "reportingInstance", Text),
];
const LEASE: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (1, "holderIdentity", Text),
            (2, "leaseDurationSeconds", Number),
            (3, "acquireTime", MicroTime),
            (4, "renewTime", MicroTime),
            (5, "leaseTransitions", Number),
            (6, "strategy", Text),
            (7, "preferredHolder", Text),
        ]),
    ),
];
const RULES: Type = Messages(&[
    (1, "verbs", Texts),
    (2, "apiGroups", Texts),
    (3, "resources", Texts),
    (4, "resourceNames", Texts),
    (5, "nonResourceURLs", Texts),
]);
const SELECTOR: &[Field] =
    &[(1, "matchLabels", TextMap), (2, "matchExpressions", Messages(&[(1, "key", Text), (2, "operator", Text), (3, "values", Texts)]))];
const ROLE: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "rules", RULES),
    (3, "aggregationRule", Message(&[(1, "clusterRoleSelectors", Messages(SELECTOR))])),
];
const BINDING: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "subjects", Messages(&[(1, "kind", Text), (2, "apiGroup", Text), (3, "name", Text), (4, "namespace", Text)])),
    (3, "roleRef", Message(&[(1, "apiGroup", Text), (2, "kind", Text), (3, "name", Text)])),
];
const RESOURCE_ATTRIBUTES: Type = Message(&[
    (1, "namespace", Text),
    (2, "verb", Text),
    (3, "group", Text),
    (4, "version", Text),
    (5, "resource", Text),
    (6, "subresource", Text),
    (7, "name", Text),
]);
const PATH_ATTRIBUTES: Type = Message(&[(1, "path", Text), (2, "verb", Text)]);
const SELF_ACCESS: &[Field] = &[
    (1, "metadata", Message(META)),
    (2, "spec", Message(&[(1, "resourceAttributes", RESOURCE_ATTRIBUTES), (2, "nonResourceAttributes", PATH_ATTRIBUTES)])),
];
const ACCESS: &[Field] = &[
    (1, "metadata", Message(META)),
    (
        2,
        "spec",
        Message(&[
            (1, "resourceAttributes", RESOURCE_ATTRIBUTES),
            (2, "nonResourceAttributes", PATH_ATTRIBUTES),
            (3, "user", Text),
            (4, "groups", Texts),
            (6, "uid", Text),
        ]),
    ),
];
const SELF_RULES: &[Field] = &[(1, "metadata", Message(META)), (2, "spec", Message(&[(1, "namespace", Text)]))];
const SELF: &[Field] = &[(1, "metadata", Message(META))];

/// The fields of a kind, if clients send it so.
fn fields(api_version: &str, kind: &str) -> Option<&'static [Field]> {
    Some(match (api_version, kind) {
        // Clients name the version of what is deleted.
        (_, "DeleteOptions") => DELETE,
        ("v1", "Namespace") => NAMESPACE,
        ("v1", "Secret") => SECRET,
        ("v1", "Event") => EVENT,
        ("coordination.k8s.io/v1", "Lease") => LEASE,
        ("rbac.authorization.k8s.io/v1", "Role" | "ClusterRole") => ROLE,
        ("rbac.authorization.k8s.io/v1", "RoleBinding" | "ClusterRoleBinding") => BINDING,
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => SELF_ACCESS,
        ("authorization.k8s.io/v1", "SubjectAccessReview" | "LocalSubjectAccessReview") => ACCESS,
        ("authorization.k8s.io/v1", "SelfSubjectRulesReview") => SELF_RULES,
        ("authentication.k8s.io/v1", "SelfSubjectReview") => SELF,
        _ => return None,
    })
}

/// The object in a body.
pub fn object(body: &[u8]) -> Result<Value, Status> {
    let wrong = |what: String| Status::new(Reason::BadRequest, format!("the body is not usable protobuf: {what}"));
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| wrong("it does not start with k8s and a zero byte".into()))?;
    let head: &[Field] = &[(1, "typeMeta", Message(&[(1, "apiVersion", Text), (2, "kind", Text)]))];
    let said = message(envelope, head).map_err(wrong)?;
    let text = |name: &str| said["typeMeta"][name].as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let Some(fields) = fields(&api_version, &kind) else {
        return Err(Status::new(
            Reason::UnsupportedMediaType,
            format!("{kind} of {api_version} is not taken in protobuf: send application/json or application/yaml"),
        ));
    };
    let mut object = message(raw(envelope).map_err(wrong)?, fields).map_err(wrong)?;
    object["apiVersion"] = api_version.into();
    object["kind"] = kind.into();
    Ok(object)
}

/// The encoded object in its envelope.
fn raw(mut envelope: &[u8]) -> Result<&[u8], String> {
    let mut found: &[u8] = &[];
    while !envelope.is_empty() {
        match decode_key(&mut envelope).map_err(|e| e.to_string())? {
            (2, WireType::LengthDelimited) => found = delimited(&mut envelope)?,
            (number, wire) => skip_field(wire, number, &mut envelope, DecodeContext::default()).map_err(|e| e.to_string())?,
        }
    }
    Ok(found)
}

fn message(mut bytes: &[u8], fields: &[Field]) -> Result<Value, String> {
    let mut object = Map::new();
    while !bytes.is_empty() {
        let (number, wire) = decode_key(&mut bytes).map_err(|e| e.to_string())?;
        match (fields.iter().find(|field| field.0 == number), wire) {
            (Some((_, name, Count | Number | Bool)), wire) if wire != WireType::Varint => {
                return Err(format!("{name} has the wire type {wire:?}"));
            }
            (Some((_, name, type_ @ (Count | Number | Bool))), _) => {
                let number = decode_varint(&mut bytes).map_err(|e| e.to_string())?;
                match type_ {
                    Bool => object.insert((*name).into(), (number != 0).into()),
                    Count if number == 0 => None,
                    // As it is encoded: two's complement in 64 bits.
                    _ => object.insert((*name).into(), number.cast_signed().into()),
                };
            }
            (Some((_, name, type_)), WireType::LengthDelimited) => {
                let part = delimited(&mut bytes)?;
                insert(&mut object, name, *type_, part).map_err(|e| format!("{name}: {e}"))?;
            }
            (Some((_, name, _)), wire) => return Err(format!("{name} has the wire type {wire:?}")),
            (None, wire) => skip_field(wire, number, &mut bytes, DecodeContext::default()).map_err(|e| e.to_string())?,
        }
    }
    Ok(Value::Object(object))
}

fn insert(object: &mut Map<String, Value>, name: &str, type_: Type, part: &[u8]) -> Result<(), String> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(Value::from).map_err(|e| e.to_string());
    let mut push = |value| match object.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
        Value::Array(values) => values.push(value),
        other => *other = value,
    };
    match type_ {
        Texts => push(text(part)?),
        Messages(fields) => push(message(part, fields)?),
        TextMap | BytesMap => {
            let (key, value) = entry(part)?;
            let value = if let BytesMap = type_ { BASE64_STANDARD.encode(value).into() } else { text(value)? };
            let Value::String(key) = text(key)? else { return Ok(()) };
            if let Value::Object(map) = object.entry(name).or_insert_with(|| Value::Object(Map::new())) {
                map.insert(key, value);
            }
        }
        _ => {
            let value = match type_ {
                Time | MicroTime => time(part, matches!(type_, MicroTime))?,
                Json => {
                    let json = message_bytes(part)?;
                    if json.is_empty() { Value::Null } else { serde_json::from_slice(json).map_err(|e| e.to_string())? }
                }
                Message(fields) => message(part, fields)?,
                _ => text(part)?,
            };
            // What is not set is encoded all the same.
            if !matches!(&value, Value::Null) && value != "" {
                object.insert(name.into(), value);
            }
        }
    }
    Ok(())
}

fn delimited<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = decode_varint(bytes).map_err(|e| e.to_string())?;
    let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len()).ok_or("a field is longer than the body")?;
    let (part, rest) = bytes.split_at(length);
    *bytes = rest;
    Ok(part)
}

/// Key and value of an entry of a map.
fn entry(mut bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    while !bytes.is_empty() {
        match decode_key(&mut bytes).map_err(|e| e.to_string())? {
            (1, WireType::LengthDelimited) => key = delimited(&mut bytes)?,
            (2, WireType::LengthDelimited) => value = delimited(&mut bytes)?,
            (number, wire) => skip_field(wire, number, &mut bytes, DecodeContext::default()).map_err(|e| e.to_string())?,
        }
    }
    Ok((key, value))
}

/// The one field of a message, bytes.
fn message_bytes(bytes: &[u8]) -> Result<&[u8], String> {
    entry(bytes).map(|(first, _)| first)
}

/// A time; null for none.
fn time(bytes: &[u8], micro: bool) -> Result<Value, String> {
    let said = message(bytes, &[(1, "seconds", Number), (2, "nanos", Number)])?;
    let Some(seconds) = said["seconds"].as_i64() else { return Ok(Value::Null) };
    let nanos = if micro { said["nanos"].as_i64().and_then(|nanos| i32::try_from(nanos).ok()).unwrap_or(0) } else { 0 };
    let time = Timestamp::new(seconds, nanos).map_err(|e| e.to_string())?;
    Ok(if micro { format!("{time:.6}") } else { time.to_string() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    // What kubectl 1.32 sent for `create namespace team`, `create secret generic s --from-literal=a=b` and `auth can-i get pods`.
    const RECORDED: &[u8] =
        b"k8s\x00\n\x0f\n\x02v1\x12\tNamespace\x12\x1c\n\x14\n\x04team\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00\x12\x00\x1a\x02\n\x00\x1a\x00\"\x00";
    const SECRET: &[u8] =
        b"k8s\x00\n\x0c\n\x02v1\x12\x06Secret\x12\x1d\n\x11\n\x01s\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00\x12\x06\n\x01a\x12\x01b\x1a\x00\x1a\x00\"\x00";
    const CAN_I: &[u8] = b"k8s\x00\n2\n\x17authorization.k8s.io/v1\x12\x17SelfSubjectAccessReview\x12<\n\x10\n\x00\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00\x12\x1e\n\x1c\n\x07default\x12\x03get\x1a\x00\"\x00*\x04pods2\x00:\x00\x1a\x08\x08\x00\x12\x00\x1a\x00 \x00\x1a\x00\"\x00";

    #[test]
    fn recorded_bodies_are_what_json_would_say() {
        for (body, expected) in [
            (RECORDED, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "team" }, "spec": {}, "status": {} })),
            (SECRET, json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "s" }, "data": { "a": "Yg==" } })),
            (
                CAN_I,
                json!({
                    "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
                    "spec": { "resourceAttributes": { "namespace": "default", "verb": "get", "resource": "pods" } },
                }),
            ),
        ] {
            assert_eq!(object(body).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_cut_off_or_of_another_kind_is_refused() {
        for end in 0..RECORDED.len() {
            let _ = object(&RECORDED[..end]);
        }
        assert!(object(b"").is_err() && object(b"{}").is_err());
        let other = object(b"k8s\0\n\x09\n\x02v1\x12\x03Pod\x12\x00").unwrap_err();
        assert!(other.message.contains("Pod of v1 is not taken in protobuf"), "{}", other.message);
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..64), cut in 0..60usize) {
            let cut = cut.min(RECORDED.len());
            let _ = object(&[MAGIC, &bytes].concat());
            let _ = object(&[&RECORDED[..cut], &bytes].concat());
        }
    }
}
