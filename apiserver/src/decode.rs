//! Request bodies: JSON and YAML into a value, with errors that say where. Nothing is guessed and nothing is dropped: a key
//! given twice, a second document or a nesting without end are refused.

use crate::{
    error::{Reason, Status},
    protobuf,
};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// How deeply objects and lists may be nested.
pub const MAX_DEPTH: usize = 64;

/// Reads a body by its media type.
pub fn object(body: &[u8], content_type: Option<&str>) -> Result<Value, Status> {
    let media = content_type.unwrap_or("application/json").split(';').next().unwrap_or_default().trim();
    if media == protobuf::MEDIA_TYPE {
        return protobuf::object(body);
    }
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
    let node = Place::ROOT.deserialize(&mut deserializer);
    let node = node.and_then(|node| deserializer.end().map(|()| node));
    node.map_err(|e| Status::new(Reason::BadRequest, format!("the body is not usable JSON: {e}")))
}

fn yaml(text: &str) -> Result<Node, Status> {
    // YAML 1.2, where `no` and `0777` are texts. Duplicates are left to `Place`, which names them by their path.
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::PassThrough,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let said = e.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter);
        Status::new(Reason::BadRequest, format!("the body is not usable YAML: {said}"))
    })
}

/// A JSON value without duplicate keys and without endless nesting.
struct Node(Value);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Place::ROOT.deserialize(deserializer)
    }
}

/// Where a value is: the last step that led to it, and the place before that step.
#[derive(Clone, Copy)]
struct Place<'a> {
    step: Step<'a>,
    above: Option<&'a Place<'a>>,
    depth: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Item(usize),
}

impl Place<'_> {
    const ROOT: Place<'static> = Place { step: Step::Root, above: None, depth: 0 };

    fn check_depth<E: Error>(&self) -> Result<(), E> {
        if self.depth < MAX_DEPTH { Ok(()) } else { Err(E::custom(format!("nested more than {MAX_DEPTH} levels deep"))) }
    }

    fn below<'b>(&'b self, step: Step<'b>) -> Place<'b> {
        Place { step, above: Some(self), depth: self.depth + 1 }
    }
}

/// As `spec.disks[1].name`.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above {
            above.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if self.above.is_some_and(|above| matches!(above.step, Step::Root)) => f.write_str(name),
            Step::Field(name) => write!(f, ".{name}"),
            Step::Item(index) => write!(f, "[{index}]"),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
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
        self.check_depth()?;
        let mut items = Vec::new();
        while let Some(Node(item)) = list.next_element_seed(self.below(Step::Item(items.len())))? {
            items.push(item);
        }
        Ok(Node(items.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        self.check_depth()?;
        let mut fields = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let place = self.below(Step::Field(&key));
            if fields.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate field \"{place}\"")));
            }
            let Node(value) = map.next_value_seed(place)?;
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
        let json = message(br#"{"spec":{"disks":[{},{"name":1,"name":2}]}}"#, "application/json");
        assert!(json.contains("duplicate field \"spec.disks[1].name\" at line 1 column"), "{json}");
        let yaml = message(b"spec:\n  disks:\n  - {}\n  - name: a\n    name: b\n", "application/yaml");
        assert!(yaml.contains("duplicate field \"spec.disks[1].name\"") && yaml.contains("line 4"), "{yaml}");
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

    #[test]
    fn yaml_is_read_as_version_1_2_says() {
        let yaml = |text: &str| object(text.as_bytes(), Some("application/yaml")).unwrap();
        assert_eq!(yaml("a: [yes, no, on, y]\nb: [true, False]"), serde_json::json!({"a": ["yes", "no", "on", "y"], "b": [true, false]}));
        assert_eq!(yaml("a: [0777, 08, 1_000, 0x10]"), serde_json::json!({"a": ["0777", "08", "1_000", 16]}));
        assert_eq!(yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}"), serde_json::json!({"a": {"x": 1}, "b": {"x": 1, "y": 2}}));
    }

    #[test]
    fn what_is_wrong_is_told_in_a_line() {
        let bomb = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, i| {
            text + &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","))
        });
        let deep: String = (0..100).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        for wrong in ["a: .inf", "a: *nope", "? [a, b]\n: c", "a:\n\tb: 1", "a: &a [*a]", "a: 1\n---\nb: 2\n", bomb.as_str(), deep.as_str()]
        {
            let said = message(wrong.as_bytes(), "application/yaml");
            assert!(said.lines().count() == 1 && said.contains("line"), "{wrong}: {said}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200), yaml in any::<bool>()) {
            let _ = object(&body, Some(if yaml { "application/yaml" } else { "application/json" }));
        }
    }
}
