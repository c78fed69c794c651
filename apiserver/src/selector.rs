//! Label and field selectors, in Kubernetes's grammar.

use crate::{
    error::{Reason, Status},
    registry::ResourceDef,
};
use serde_json::{Map, Value};
use std::cmp::Ordering;

/// A label selector: all requirements must hold.
#[derive(Clone, Debug, Default)]
pub struct LabelSelector(Vec<Requirement>);

#[derive(Clone, Debug)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
    /// The label is a whole number, and it is greater (or less) than this one.
    Than(String, Ordering, i64),
}

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (x,y),f notin (z),g,!h`.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let wrong = |what: &str| {
            Status::new(
                Reason::BadRequest,
                format!("unable to parse the label selector {text:?}: {what}: expected such as app=web,zone in (a,b),!old"),
            )
        };
        let mut requirements = Vec::new();
        for part in split_outside_brackets(text) {
            let part = part.trim();
            if part.is_empty() {
                if text.trim().is_empty() {
                    break;
                }
                return Err(wrong("a requirement is empty"));
            }
            requirements.push(requirement(part).ok_or_else(|| wrong(part))?);
        }
        Ok(Self(requirements))
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let label = |key: &str| labels.and_then(|labels| labels.get(key)?.as_str());
        self.0.iter().all(|requirement| match requirement {
            Requirement::In(key, values) => label(key).is_some_and(|value| values.iter().any(|v| v == value)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|value| !values.iter().any(|v| v == value)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
            Requirement::Than(key, order, bound) => {
                label(key).and_then(|value| value.parse::<i64>().ok()).is_some_and(|value| value.cmp(bound) == *order)
            }
        })
    }

    /// Selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn requirement(part: &str) -> Option<Requirement> {
    let key = |text: &str| {
        let text = text.trim();
        crate::metadata::qualified(text).is_none().then(|| text.to_owned())
    };
    let value = |text: &str| {
        let text = text.trim();
        crate::metadata::label_value(text).then(|| text.to_owned())
    };
    if let Some(rest) = part.strip_prefix('!') {
        return key(rest).map(Requirement::Absent);
    }
    if let Some((left, right)) = part.split_once("!=") {
        return Some(Requirement::NotIn(key(left)?, vec![value(right)?]));
    }
    if let Some((left, right)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Some(Requirement::In(key(left)?, vec![value(right)?]));
    }
    for (sign, order) in [('>', Ordering::Greater), ('<', Ordering::Less)] {
        if let Some((left, right)) = part.split_once(sign) {
            return Some(Requirement::Than(key(left)?, order, right.trim().parse().ok()?));
        }
    }
    if let Some((left, list)) = part.split_once('(') {
        let values = list.trim().strip_suffix(')')?.split(',').map(value).collect::<Option<Vec<_>>>()?;
        let mut words = left.split_whitespace();
        let key = key(words.next()?)?;
        return match (words.next()?, words.next()) {
            ("in", None) => Some(Requirement::In(key, values)),
            ("notin", None) => Some(Requirement::NotIn(key, values)),
            _ => None,
        };
    }
    key(part).map(Requirement::Exists)
}

fn split_outside_brackets(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A field selector: all requirements must hold.
#[derive(Clone, Debug, Default)]
pub struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    /// Reads `metadata.name=web,status.phase!=Running` over the fields that the kind lets be selected by.
    pub fn parse(text: &str, def: &ResourceDef) -> Result<Self, Status> {
        let mut requirements = Vec::new();
        for part in split_unescaped(text).into_iter().filter(|part| !part.trim().is_empty()) {
            let wrong = || {
                let what = format!(
                    "unable to parse the field selector {part:?}: expected such as metadata.name=web, with \\ before , = and \\ in a value"
                );
                Status::new(Reason::BadRequest, what)
            };
            let sign = part.find("!=").into_iter().chain(part.find('=')).min().ok_or_else(wrong)?;
            let (field, rest) = part.split_at(sign);
            let (equal, value) = match rest.strip_prefix("!=") {
                Some(value) => (false, value),
                None => (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')).unwrap_or_default()),
            };
            let value = unescape(value.trim()).ok_or_else(wrong)?;
            let field = field.trim();
            let known = field == "metadata.name"
                || (field == "metadata.namespace" && def.namespaced)
                || def.selectable_fields.iter().any(|f| f == field);
            if !known {
                let mut fields = vec!["metadata.name"];
                fields.extend(def.namespaced.then_some("metadata.namespace"));
                fields.extend(def.selectable_fields.iter().map(String::as_str));
                let what = format!("field label not supported: {field:?}: {} can be selected by {}", def.plural, fields.join(", "));
                return Err(Status::new(Reason::BadRequest, what));
            }
            requirements.push((field.to_owned(), equal, value));
        }
        Ok(Self(requirements))
    }

    /// Whether an object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        self.0.iter().all(|(field, equal, wanted)| {
            let value = field.split('.').try_fold(object, |value, name| value.get(name));
            // An Event's source is an object; it is selected by its component, as in Kubernetes.
            let value = value.map(|value| if value.is_object() { &value["component"] } else { value });
            let has = match value {
                Some(Value::String(text)) => text == wanted,
                Some(Value::Null) | None => wanted.is_empty(),
                Some(Value::Bool(yes)) => wanted.parse() == Ok(*yes),
                Some(Value::Number(number)) => number.to_string().as_str() == wanted,
                Some(Value::Array(_) | Value::Object(_)) => false,
            };
            has == *equal
        })
    }

    /// Selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The parts between commas that no backslash precedes.
fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// A value without its backslashes; `None` if one is missing or escapes nothing.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => plain.push(chars.next().filter(|c| matches!(c, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(selector: &str, labels: Value) -> bool {
        LabelSelector::parse(selector).unwrap().matches(labels.as_object())
    }

    #[test]
    fn requirements_mean_what_they_mean_in_kubernetes() {
        let labels = json!({"app": "web", "zone": "a"});
        for yes in ["", "app=web", "app==web", "app in (db, web)", "zone notin (b,c)", "app,!old", "old!=1", "app=web,zone=a"] {
            assert!(matches(yes, labels.clone()), "{yes}");
        }
        let numbers = json!({"n": "5", "t": "x"});
        for (selector, wanted) in [("n>4", true), ("n > 5", false), ("n<6", true), ("n<5", false), ("t>1", false), ("no<1", false)] {
            assert_eq!(matches(selector, numbers.clone()), wanted, "{selector}");
        }
        for no in ["app=db", "!app", "old", "old=1", "app in (db)", "app!=web", "app=web,zone=b"] {
            assert!(!matches(no, labels.clone()), "{no}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_with_an_example() {
        for wrong in ["=", "a=b,,c", "a in b", "a in (b", "a within (b)", "a b", "-=x", "a=b c", "a>b", "a>", "!a=b"] {
            let status = LabelSelector::parse(wrong).unwrap_err();
            assert!(status.message.contains("app=web"), "{wrong}: {status}");
        }
    }

    fn event() -> ResourceDef {
        crate::builtin::definitions().into_iter().find(|def| def.kind == "Event").unwrap()
    }

    #[test]
    fn events_are_selected_by_their_fields() {
        let event_object =
            json!({"metadata": {"name": "a,b=c\\d"}, "involvedObject": {"kind": "Host"}, "source": {"component": "vm"}, "type": "Normal"});
        for (selector, wanted) in [
            ("", true),
            ("involvedObject.kind=Host,type==Normal", true),
            ("involvedObject.kind!=Host", false),
            ("source=vm", true),
            ("source!=vm", false),
            ("reason=", true),
            ("reason!=x", true),
            (r"metadata.name=a\,b\=c\\d", true),
        ] {
            assert_eq!(FieldSelector::parse(selector, &event()).unwrap().matches(&event_object), wanted, "{selector}");
        }
        for wrong in ["spec.x=1", "metadata.name", "metadata.name=a=b", r"metadata.name=a\", r"metadata.name=\x"] {
            assert_eq!(FieldSelector::parse(wrong, &event()).unwrap_err().reason, Reason::BadRequest, "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z=!<>,() \\\\é.]{0,20}") {
            if let Ok(selector) = LabelSelector::parse(&text) {
                selector.matches(json!({"a": "1"}).as_object());
            }
            if let Ok(selector) = FieldSelector::parse(&text, &event()) {
                selector.matches(&json!({"metadata": {"name": "a"}}));
            }
        }
    }
}
