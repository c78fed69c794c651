//! A YAML document with the place of everything in it, so that an error of the server can point into the user's file.

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};
use std::fmt;

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl From<Location> for Place {
    fn from(location: Location) -> Self {
        Self { line: location.line(), column: location.column() }
    }
}

/// A value and its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where it begins.
    pub place: Place,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Place, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        Ok(Self { place: spanned.referenced.into(), content: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("what JSON can say: null, a boolean, a number, a text, a list or a map")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Content, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number that is infinite or not a number cannot be sent"))?;
        Ok(Content::Scalar(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Content::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Content, A::Error> {
        let mut map: Vec<(String, Place, Node)> = Vec::new();
        while let Some((key, value)) = entries.next_entry::<Spanned<String>, Node>()? {
            if map.iter().any(|(known, ..)| *known == key.value) {
                return Err(A::Error::custom(format!("the key {:?} is given twice", key.value)));
            }
            map.push((key.value, key.referenced.into(), value));
        }
        Ok(Content::Map(map))
    }
}

impl Node {
    /// The value without places.
    pub fn value(&self) -> Value {
        match &self.content {
            Content::Scalar(value) => value.clone(),
            Content::List(items) => items.iter().map(Self::value).collect(),
            Content::Map(entries) => Value::Object(entries.iter().map(|(k, _, v)| (k.clone(), v.value())).collect::<Map<_, _>>()),
        }
    }

    /// The items of a list under `key`.
    pub fn items(&self, key: &str) -> Option<&[Node]> {
        match &self.get(key)?.content {
            Content::List(items) => Some(items),
            _ => None,
        }
    }

    fn get(&self, key: &str) -> Option<&Node> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(k, ..)| k == key).map(|(_, _, v)| v),
            _ => None,
        }
    }

    /// What kind of value it is, for errors.
    pub fn describe(&self) -> &'static str {
        match &self.content {
            Content::Scalar(Value::Null) => "nothing",
            Content::Scalar(_) => "a single value",
            Content::List(_) => "a list",
            Content::Map(_) => "a map",
        }
    }

    /// The place of the field that `path` names, in the way the server writes paths: `spec.disks[1].name`,
    /// `.spec.disks[name="root"].image`. Where the path leads out of the document, the deepest part that is there.
    pub fn find(&self, path: &str) -> Place {
        let mut at = self;
        let mut place = self.place;
        for step in steps(path) {
            let next = match (&at.content, &step) {
                (Content::Map(entries), Step::Key(key)) => entries.iter().find(|(k, ..)| k == key).map(|(_, place, v)| (*place, v)),
                (Content::List(items), Step::Key(key)) => key.parse().ok().and_then(|i: usize| items.get(i)).map(|v| (v.place, v)),
                (Content::List(items), Step::Where(key, wanted)) => items
                    .iter()
                    .find(|item| {
                        item.get(key).is_some_and(|v| v.value().as_str().map_or_else(|| v.value().to_string(), str::to_owned) == *wanted)
                    })
                    .map(|v| (v.place, v)),
                _ => None,
            };
            let Some((found, node)) = next else { break };
            place = found;
            at = node;
        }
        place
    }
}

#[derive(Debug, PartialEq)]
enum Step {
    Key(String),
    Where(String, String),
}

fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut key = String::new();
    let mut chars = path.chars();
    let flush = |key: &mut String, steps: &mut Vec<Step>| {
        if !key.is_empty() {
            steps.push(Step::Key(std::mem::take(key)));
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '.' => flush(&mut key, &mut steps),
            '[' => {
                flush(&mut key, &mut steps);
                let mut quoted = false;
                let inner: String = chars
                    .by_ref()
                    .take_while(|c| {
                        quoted ^= *c == '"';
                        quoted || *c != ']'
                    })
                    .collect();
                let unquoted = |text: &str| text.trim_matches('"').to_owned();
                steps.push(match inner.split(',').next().and_then(|first| first.split_once('=')) {
                    Some((key, value)) => Step::Where(key.to_owned(), unquoted(value)),
                    None => Step::Key(unquoted(&inner)),
                });
            }
            c => key.push(c),
        }
    }
    flush(&mut key, &mut steps);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "metadata:\n  labels:\n    a.b/c: x\nspec:\n  disks:\n  - name: root\n    image: one\n  - {name: data, image: two}\n";

    #[test]
    fn a_path_of_the_server_leads_to_the_line() {
        let node: Node = serde_saphyr::from_str(TEXT).unwrap();
        let line = |path: &str| (node.find(path).line, node.find(path).column);
        assert_eq!(line("spec.disks[0].image"), (7, 5));
        assert_eq!(line(".spec.disks[name=\"data\"].image"), (8, 18));
        assert_eq!(line("metadata.labels[a.b/c]"), (3, 5));
        assert_eq!(line("spec.disks[1].missing"), (8, 5), "the item that lacks the field");
        assert_eq!(line("spec.memory"), (4, 1), "the map that lacks the field");
    }

    #[test]
    fn values_are_what_json_would_say() {
        let node: Node = serde_saphyr::from_str("a: 1\nb: [true, null, 1.5, '1']\n8080: x\n").unwrap();
        assert_eq!(node.value(), serde_json::json!({"a": 1, "b": [true, null, 1.5, "1"], "8080": "x"}));
    }
}
