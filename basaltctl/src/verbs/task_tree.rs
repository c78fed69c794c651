//! Tasks with the tasks that are their parts and those that they wait for, as `tasks tree` and `describe` show them.

use super::with_query;
use crate::{
    connect::Server,
    discovery::{Kind, Kinds, get},
    error::Error,
    output::{age, text},
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// How deep parts are shown. Tasks make tasks only a few levels deep.
const DEPTH: usize = 16;

/// A task among its like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Branch {
    namespace: String,
    name: String,
    /// What it is and how it stands, in a line.
    summary: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Branch>,
}

impl Branch {
    /// Its parts alone.
    pub fn into_parts(self) -> Vec<Branch> {
        self.parts
    }

    /// Writes it and its parts, a line each.
    pub fn write(&self, out: &mut String, depth: usize) {
        out.push_str(&format!("{}{}\n", "  ".repeat(depth), text::clean(&self.summary)));
        self.parts.iter().for_each(|part| part.write(out, depth + 1));
    }
}

/// Looks tasks up, each only once.
pub struct Tasks<'a> {
    server: &'a Server,
    kind: Kind,
    /// Those that are parts of others.
    parts: Vec<Value>,
    /// Those that others wait for, by namespace and name, if they exist.
    awaited: BTreeMap<(String, String), Option<Value>>,
    now: Timestamp,
}

pub fn str_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn name_of(task: &Value) -> (&str, &str) {
    (str_at(task, "/metadata/namespace"), str_at(task, "/metadata/name"))
}

fn parent_of(task: &Value) -> (&str, &str) {
    (str_at(task, "/metadata/labels/basalt.dev~1parent-namespace"), str_at(task, "/metadata/labels/basalt.dev~1parent"))
}

/// The tasks with labels, the oldest first: of a namespace, or of all if there is none.
pub async fn labelled(server: &Server, kind: &Kind, namespace: Option<&str>, selector: &str) -> Result<Vec<Value>, Error> {
    let selector = Some(selector).filter(|selector| !selector.is_empty());
    let path = with_query(&kind.path(namespace, None, None), &[("labelSelector", selector)]);
    let list = server.call("list tasks", get(&path)?).await?;
    let mut items = list["items"].as_array().cloned().unwrap_or_default();
    items.sort_by_key(|task| (str_at(task, "/metadata/creationTimestamp").to_owned(), str_at(task, "/metadata/name").to_owned()));
    Ok(items)
}

impl<'a> Tasks<'a> {
    /// Finds those that are parts of others, in all namespaces if that is allowed.
    pub async fn find(server: &'a Server, kinds: &Kinds, now: Timestamp) -> Result<Self, Error> {
        let kind = kinds.one("tasks.basalt.dev", server)?;
        let parts = match labelled(server, &kind, None, "basalt.dev/parent").await {
            Err(Error::Api { status, .. }) if status.code == 403 => {
                labelled(server, &kind, kind.namespace(&server.namespace), "basalt.dev/parent").await?
            }
            other => other?,
        };
        Ok(Self { server, kind, parts, awaited: BTreeMap::new(), now })
    }

    /// A task with its parts.
    pub async fn branch(&mut self, task: &Value) -> Result<Branch, Error> {
        let parts = self.parts_of(task, 0);
        self.look_at_awaited(task).await?;
        for part in &parts {
            self.look_at_awaited(part).await?;
        }
        Ok(self.grown(task, 0))
    }

    /// The tasks without those that are parts of another among them.
    pub fn roots<'v>(tasks: &[&'v Value]) -> Vec<&'v Value> {
        let is_part = |task: &Value| tasks.iter().any(|other| name_of(other) == parent_of(task));
        tasks.iter().filter(|task| !is_part(task)).copied().collect()
    }

    fn parts_of(&self, task: &Value, depth: usize) -> Vec<Value> {
        if depth == DEPTH {
            return Vec::new();
        }
        let own = self.parts.iter().filter(|part| parent_of(part) == name_of(task));
        own.flat_map(|part| std::iter::once(part.clone()).chain(self.parts_of(part, depth + 1))).collect()
    }

    async fn look_at_awaited(&mut self, task: &Value) -> Result<(), Error> {
        let namespace = name_of(task).0;
        for name in awaited_by(task) {
            let key = (namespace.to_owned(), name.to_owned());
            if !self.awaited.contains_key(&key) {
                let path = self.kind.path(Some(namespace), Some(name), None);
                let found = self.server.call_optional(&format!("get task/{name}"), get(&path)?).await?;
                self.awaited.insert(key, found);
            }
        }
        Ok(())
    }

    fn grown(&self, task: &Value, depth: usize) -> Branch {
        let (namespace, name) = name_of(task);
        let waits = awaited_by(task).map(|of| {
            let found = self.awaited.get(&(namespace.to_owned(), of.to_owned())).and_then(Option::as_ref);
            format!("{of} ({})", found.map_or("does not exist", |task| str_at(task, "/status/phase")))
        });
        let waits: Vec<String> = waits.collect();
        let after = if waits.is_empty() { String::new() } else { format!(", after {}", waits.join(", ")) };
        let reason = match str_at(task, "/status/reason") {
            "" | "Succeeded" => String::new(),
            reason => format!(" ({reason})"),
        };
        let age = age::since(str_at(task, "/metadata/creationTimestamp"), self.now).unwrap_or_default();
        let operation = str_at(task, "/metadata/labels/basalt.dev~1operation");
        let summary = format!("{operation} task/{name}  {}{reason}, {age} ago{after}", str_at(task, "/status/phase"));
        let parts = self.parts.iter().filter(|part| depth < DEPTH && parent_of(part) == (namespace, name));
        let parts = parts.map(|part| self.grown(part, depth + 1)).collect();
        Branch { namespace: namespace.to_owned(), name: name.to_owned(), summary, parts }
    }
}

fn awaited_by(task: &Value) -> impl Iterator<Item = &str> {
    task["spec"]["dependsOn"].as_array().into_iter().flatten().filter_map(|of| of["task"].as_str())
}
