//! Request bodies: JSON and YAML into a value, with errors that say where. Nothing is guessed and nothing is dropped: a key
//! given twice, a second document or a nesting without end are refused.

use crate::error::{Reason, Status};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// How deeply objects and lists may be nested.
pub const MAX_DEPTH: usize = 64;

/// Reads a body by its media type.
pub fn object(body: &[u8], content_type: Option<&str>) -> Result<Value, Status> {
    let media = content_type.unwrap_or("application/json").split(';').next().unwrap_or_default().trim();
    let text = std::str::from_utf8(body).map_err(|e| {
        Status::new(Reason::BadRequest, format!("the body is not valid UTF-8: the byte at offset {} is not", e.valid_up_to()))
    })?;
    let value = match media {
        "application/json" | "application/json-patch+json" | "application/merge-patch+json" | "application/strategic-merge-patch+json" => {
            json(text)
        }
        "application/yaml" | "application/apply-patch+yaml" | "text/yaml" => yaml(text),
        other => Err(Status::new(
            Reason::UnsupportedMediaType,
            format!("the body of the request was in an unknown format {other:?}: accepted are application/json and application/yaml"),
        )),
    };
    value.map(|node| node.0)
}

fn json(text: &str) -> Result<Node, Status> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let node = Depth(MAX_DEPTH).deserialize(&mut deserializer);
    let node = node.and_then(|node| deserializer.end().map(|()| node));
    node.map_err(|e| Status::new(Reason::BadRequest, format!("the body is not usable JSON: {e}")))
}

fn yaml(text: &str) -> Result<Node, Status> {
    serde_saphyr::from_str(text).map_err(|e| Status::new(Reason::BadRequest, format!("the body is not usable YAML: {e}")))
}

/// A JSON value without duplicate keys and without endless nesting.
struct Node(Value);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Depth(MAX_DEPTH).deserialize(deserializer)
    }
}

/// How much deeper the value may go.
#[derive(Clone, Copy)]
struct Depth(usize);

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Depth {
    fn deeper<E: Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom(format!("nested more than {MAX_DEPTH} levels deep")))
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value).map(|n| Node(n.into())).ok_or_else(|| E::custom(format!("the number {value} has no JSON form")))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let deeper = self.deeper()?;
        let mut items = Vec::new();
        while let Some(Node(item)) = list.next_element_seed(deeper)? {
            items.push(item);
        }
        Ok(Node(items.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let deeper = self.deeper()?;
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Node(value) = map.next_value_seed(deeper)?;
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate field {key:?}")));
            }
            fields.insert(key, value);
        }
        Ok(Node(fields.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(body: &[u8], content_type: &str) -> String {
        object(body, Some(content_type)).unwrap_err().message
    }

    #[test]
    fn what_does_not_parse_is_told_with_line_and_column() {
        assert!(message(b"{\n  \"a\": }", "application/json").contains("line 2 column"));
        let yaml = message(b"a: 1\nb: [1, 2\nc: 3\n", "application/yaml");
        assert!(yaml.contains("line"), "{yaml}");
    }

    #[test]
    fn invalid_utf8_duplicate_fields_and_endless_nesting_are_refused() {
        assert!(message(b"{\"a\": \"\xff\"}", "application/json").contains("offset 7"));
        assert!(message(b"{\"a\": 1, \"a\": 2}", "application/json").contains("duplicate field \"a\""));
        assert!(message("[".repeat(100_000).as_bytes(), "application/json").contains("64 levels"));
        assert!(message("[".repeat(100_000).as_bytes(), "application/yaml").len() < 4096);
        assert!(message(b"a: 1\n---\nb: 2\n", "application/yaml").contains("document"));
        assert_eq!(object(b"{}", Some("text/html")).unwrap_err().reason, Reason::UnsupportedMediaType);
    }

    #[test]
    fn yaml_and_json_say_the_same() {
        let json = object(br#"{"a": [1, -2, 1.5, true, null, "no"]}"#, None).unwrap();
        let yaml = object(b"a: [1, -2, 1.5, true, null, \"no\"]", Some("application/yaml")).unwrap();
        assert_eq!(json, yaml);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200), yaml in any::<bool>()) {
            let _ = object(&body, Some(if yaml { "application/yaml" } else { "application/json" }));
        }
    }
}
