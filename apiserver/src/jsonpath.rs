//! The JSONPath of printer columns: `.status.vmms[*].name`, `.status.conditions[?(@.type=="Ready")].status`, `['a.b']`.

use serde_json::Value;

/// A path that was read once and is evaluated often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Where(String, String),
}

impl JsonPath {
    /// Reads a path; a path that is not understood selects nothing.
    pub fn new(text: &str) -> Self {
        Self(steps(text).unwrap_or_else(|| vec![Step::Field(String::new())]))
    }

    /// The values that the path leads to.
    pub fn select<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let mut found = vec![value];
        for step in &self.0 {
            found = found.into_iter().flat_map(|value| follow(step, value)).collect();
        }
        found
    }
}

fn follow<'v>(step: &Step, value: &'v Value) -> Vec<&'v Value> {
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            let index = if *index < 0 { i64::try_from(items.len()).unwrap_or(0) + index } else { *index };
            usize::try_from(index).ok().and_then(|index| items.get(index)).into_iter().collect()
        }
        Step::All => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            _ => Vec::new(),
        },
        Step::Where(name, wanted) => {
            let items = value.as_array().into_iter().flatten();
            items.filter(|item| item[name].as_str() == Some(wanted)).collect()
        }
    }
}

fn steps(text: &str) -> Option<Vec<Step>> {
    let mut rest = text.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            // `\.` is a dot within a name.
            let mut name = after[..end].to_owned();
            let mut tail = &after[end..];
            while name.ends_with('\\') && tail.starts_with('.') {
                name.pop();
                let end = tail[1..].find(['.', '[']).map_or(tail.len(), |i| i + 1);
                name += &tail[..end];
                tail = &tail[end..];
            }
            match name.as_str() {
                "" => {}
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            rest = tail;
        } else if let Some(after) = rest.strip_prefix('[') {
            let end = if after.starts_with('?') { after.find(")]").map(|i| i + 1)? } else { after.find(']')? };
            let inner = &after[..end];
            rest = &after[end + 1..];
            steps.push(if inner == "*" {
                Step::All
            } else if let Some(filter) = inner.strip_prefix("?(@.").and_then(|f| f.strip_suffix(')')) {
                let (name, wanted) = filter.split_once("==")?;
                Step::Where(name.trim().to_owned(), wanted.trim().trim_matches(['"', '\'']).to_owned())
            } else if let Some(name) = inner.strip_prefix(['\'', '"']) {
                Step::Field(name.trim_end_matches(['\'', '"']).to_owned())
            } else {
                Step::Index(inner.parse().ok()?)
            });
        } else {
            return None;
        }
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_where_kubectl_says() {
        let object = json!({"a": {"b.c": 1, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}});
        let cases: [(&str, Value); 7] = [
            (".a['b.c']", json!([1])),
            (".a.b\\.c", json!([1])),
            (".a.l[*].n", json!(["x", "y"])),
            (".a.l[0].v", json!([1])),
            (".a.l[-1].v", json!([2])),
            (".a.l[?(@.n==\"y\")].v", json!([2])),
            (".no.such", json!([])),
        ];
        for (path, wanted) in cases {
            assert_eq!(json!(JsonPath::new(path).select(&object)), wanted, "{path}");
        }
    }
}
