//! `basaltctl events`: what happened, the newest last; and the events of one object for `describe`.

use super::{Format, with_query};
use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kinds, get},
    error::Error,
    output::{Screen, age, object, text},
    target,
};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// Lists events, the newest last.
#[derive(Debug, Args)]
pub struct Events {
    /// Only events about this object
    #[arg(long = "for", value_name = "KIND/NAME")]
    about: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

/// An event, in one shape for both of the ways in which Kubernetes writes them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When it happened last, as the server wrote it.
    pub last: String,
    /// How often it happened.
    pub count: i64,
    /// `Normal` or `Warning`.
    #[serde(rename = "type")]
    pub type_: String,
    /// The reason, in a word.
    pub reason: String,
    /// Who said so.
    pub from: String,
    /// What it is about.
    pub object: String,
    /// What happened.
    pub message: String,
}

impl Events {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let asked = self.about.as_ref().map(|word| target::parse(std::slice::from_ref(word))).transpose()?;
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        let events = match asked {
            None => list(&server, &kinds, Some(&*server.namespace).filter(|_| !self.all_namespaces), None).await?,
            Some(asked) => {
                let mut events = Vec::new();
                for target in target::named(&asked, &kinds, &server)? {
                    events.extend(about(&server, &kinds, &target).await?);
                }
                events
            }
        };
        if self.output == Format::Json {
            return screen.print(&object::json(&serde_json::to_value(&events).map_err(|e| Error::Bug(e.to_string()))?));
        }
        if events.is_empty() {
            screen.say("No events found.");
            return Ok(());
        }
        screen.print(&render(&events, true, "", screen.columns))
    }
}

/// The events about one object, the newest last.
pub async fn about(server: &Server, kinds: &Kinds, target: &target::Target) -> Result<Vec<Event>, Error> {
    let object = format!("{}/{}", target.kind.kind, target.name);
    let mut events = list(server, kinds, target.namespace.as_deref(), Some(&target.name)).await?;
    events.retain(|e| e.object == object);
    Ok(events)
}

async fn list(server: &Server, kinds: &Kinds, namespace: Option<&str>, name: Option<&str>) -> Result<Vec<Event>, Error> {
    let Some(kind) = kinds.0.iter().find(|k| k.kind == "Event" && k.listable()) else { return Ok(Vec::new()) };
    let field = if kind.group.is_empty() { "involvedObject.name" } else { "regarding.name" };
    let selector = name.map(|name| format!("{field}={name}"));
    let path = kind.path(namespace, None, None);
    let listed = match server.call("list events", get(&with_query(&path, &[("fieldSelector", selector.as_deref())]))?).await {
        // A server that cannot select by this field gives all, and the caller sorts out.
        Err(Error::Api { status, .. }) if status.code == 400 && selector.is_some() => server.call("list events", get(&path)?).await?,
        other => other?,
    };
    let items = listed.get("items").and_then(Value::as_array);
    let mut events: Vec<Event> = items.into_iter().flatten().map(event).collect();
    events.sort_by_key(|e| e.last.parse::<Timestamp>().ok());
    Ok(events)
}

fn event(value: &Value) -> Event {
    let first = |pointers: &[&str]| {
        let texts = pointers.iter().filter_map(|p| value.pointer(p).and_then(Value::as_str));
        texts.into_iter().find(|t| !t.is_empty()).unwrap_or_default().to_owned()
    };
    let about = |key: &str| first(&[&format!("/involvedObject/{key}"), &format!("/regarding/{key}")]);
    let count = ["/series/count", "/count", "/deprecatedCount"].iter().find_map(|p| value.pointer(p).and_then(Value::as_i64));
    Event {
        last: first(&[
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/deprecatedLastTimestamp",
            "/eventTime",
            "/metadata/creationTimestamp",
        ]),
        count: count.unwrap_or(1).max(1),
        type_: first(&["/type"]),
        reason: first(&["/reason"]),
        from: first(&["/reportingComponent", "/reportingController", "/source/component", "/deprecatedSource/component"]),
        object: format!("{}/{}", about("kind"), about("name")),
        message: first(&["/message", "/note"]),
    }
}

/// The events as lines: the message last, wrapped below itself.
pub fn render(events: &[Event], with_object: bool, indent: &str, columns: Option<usize>) -> String {
    let now = Timestamp::now();
    let rows = events.iter().map(|e| {
        let age = age::since(&e.last, now).unwrap_or_else(|| "-".into());
        let age = if e.count > 1 { format!("{age} (x{})", e.count) } else { age };
        let mut cells = vec![age, e.type_.clone(), e.reason.clone()];
        if with_object {
            cells.push(e.object.clone());
        }
        cells.extend([e.from.clone(), e.message.clone()]);
        cells
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let headers: &[&str] =
        if with_object { &["LAST", "TYPE", "REASON", "OBJECT", "FROM", "MESSAGE"] } else { &["LAST", "TYPE", "REASON", "FROM", "MESSAGE"] };
    text::hanging(headers, &rows, indent, columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_ways_of_writing_an_event_read_the_same() {
        let core =
            event(&json!({"involvedObject": {"kind": "Host", "name": "a"}, "type": "Warning", "reason": "R", "message": "m", "count": 3,
            "lastTimestamp": "2026-11-23T12:00:00Z", "source": {"component": "c"}}));
        let new =
            event(&json!({"regarding": {"kind": "Host", "name": "a"}, "type": "Warning", "reason": "R", "note": "m", "deprecatedCount": 3,
            "eventTime": "2026-11-23T12:00:00Z", "reportingController": "c"}));
        assert_eq!(core, new);
        assert_eq!(core.count, 3);
    }
}
