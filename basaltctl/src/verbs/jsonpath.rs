//! The part of kubectl's JSONPath that waiting needs: `{.status.phase}`, `.status.vmms[0].name`, `.status.vmms[*].name`,
//! `.metadata.labels['a.b/c']`.

use serde_json::Value;

/// A path into an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
    All,
}

impl JsonPath {
    /// Reads a path, with or without the braces.
    pub fn parse(text: &str) -> Result<Self, String> {
        let unusable = |why: &str| {
            format!("{text:?} is not a path that can be waited for ({why}): write {{.status.phase}}, with [0], [*] or ['key'] where needed")
        };
        let inner =
            text.strip_prefix('{').map_or(Some(text), |rest| rest.strip_suffix('}')).ok_or_else(|| unusable("the brace is not closed"))?;
        let mut rest = inner.strip_prefix('$').unwrap_or(inner);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let (inside, after) = after.split_once(']').ok_or_else(|| unusable("a bracket is not closed"))?;
                let quoted = inside.strip_prefix(['\'', '"']).and_then(|i| i.strip_suffix(['\'', '"']));
                steps.push(match (quoted, inside) {
                    (Some(key), _) => Step::Key(key.to_owned()),
                    (None, "*") => Step::All,
                    (None, index) => Step::Index(index.parse().map_err(|_| unusable("filters and slices are not supported"))?),
                });
                rest = after;
            } else {
                let after = rest.strip_prefix('.').unwrap_or(rest);
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let (key, after) = after.split_at(end);
                if key.is_empty() {
                    return Err(unusable("a key is empty"));
                }
                steps.push(Step::Key(key.to_owned()));
                rest = after;
            }
        }
        if steps.is_empty() { Err(unusable("it is empty")) } else { Ok(Self(steps)) }
    }

    /// The values that the path leads to, as text.
    pub fn values(&self, object: &Value) -> Vec<String> {
        let mut found = vec![object];
        for step in &self.0 {
            found = found
                .into_iter()
                .flat_map(|value| match step {
                    Step::Key(key) => value.get(key).into_iter().collect::<Vec<_>>(),
                    Step::Index(index) => value.get(index).into_iter().collect(),
                    Step::All => value.as_array().into_iter().flatten().collect(),
                })
                .collect();
        }
        found.into_iter().filter(|v| !v.is_null()).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_where_kubectls_do() {
        let object = json!({"status": {"phase": "Running", "restarts": 0, "vmms": [{"name": "Qemu"}, {"name": "Simulated"}]}, "metadata": {"labels": {"a.b/c": "x"}}});
        let values = |path: &str| JsonPath::parse(path).unwrap().values(&object);
        assert_eq!(values("{.status.phase}"), ["Running"]);
        assert_eq!(values(".status.restarts"), ["0"]);
        assert_eq!(values("{.status.vmms[*].name}"), ["Qemu", "Simulated"]);
        assert_eq!(values("{.status.vmms[1].name}"), ["Simulated"]);
        assert_eq!(values("{.metadata.labels['a.b/c']}"), ["x"]);
        assert!(values("{.status.nothing}").is_empty());
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for path in ["", "{}", "{.a", ".a..b", ".a[", ".a[?(@.b==1)]"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }
}
