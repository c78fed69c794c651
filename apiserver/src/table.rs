//! Tables: objects as people see them, one row each, by the printer columns of their kind.

use crate::{jsonpath::JsonPath, registry::ResourceDef};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::ops::Deref;

/// How much of each object a row carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
    /// Nothing.
    None,
}

/// How a table is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What each row carries of its object.
    pub include_object: IncludeObject,
    /// Leave the column definitions out: a watch sends them once.
    pub no_headers: bool,
}

/// A `meta.k8s.io/v1` Table of objects.
pub fn render(def: &ResourceDef, objects: &[impl Deref<Target = Value>], list_metadata: Value, options: Options, now: Timestamp) -> Value {
    let is_event = def.group.is_empty() && def.kind == "Event";
    let paths: Vec<JsonPath> = def.columns.iter().map(|c| JsonPath::new(&c.json_path)).collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut cells = vec![object["metadata"]["name"].clone()];
            cells.extend(def.columns.iter().zip(&paths).map(|(column, path)| cell(&column.type_, &path.select(object), now)));
            if is_event {
                complete_event(def, object, &mut cells[1..], now);
            }
            let mut row = json!({ "cells": cells });
            match options.include_object {
                IncludeObject::Metadata => row["object"] = partial(object),
                IncludeObject::Object => row["object"] = Value::clone(object),
                IncludeObject::None => {}
            }
            row
        })
        .collect();
    let mut columns = vec![json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name of the object, unique in its namespace for its kind.",
    })];
    columns.extend(def.columns.iter().map(|column| {
        json!({
            "name": column.name,
            // A date is shown as an age, which is text.
            "type": if column.type_ == "date" { "string" } else { &column.type_ },
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    }));
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": if options.no_headers { json!([]) } else { json!(columns) },
        "rows": rows,
    })
}

/// An object's metadata alone, as PartialObjectMetadata.
pub fn partial(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

/// What no path says of an Event: which object it is about, as `host/h1`, and when it was seen last if it is one of a series.
fn complete_event(def: &ResourceDef, event: &Value, cells: &mut [Value], now: Timestamp) {
    for (column, cell) in def.columns.iter().zip(cells) {
        match column.name.as_str() {
            "Object" => {
                let kind = event["involvedObject"]["kind"].as_str().unwrap_or_default().to_lowercase();
                let name = event["involvedObject"]["name"].as_str().unwrap_or_default();
                *cell = if name.is_empty() { kind } else { format!("{kind}/{name}") }.into();
            }
            "Last Seen" => {
                let times = [&event["series"]["lastObservedTime"], &event["lastTimestamp"], &event["firstTimestamp"], &event["eventTime"]];
                let time = times.into_iter().find_map(|time| time.as_str()?.parse::<Timestamp>().ok());
                *cell = time.map_or_else(|| "<unknown>".into(), |time| age(time, now).into());
            }
            _ => {}
        }
    }
}

fn cell(type_: &str, values: &[&Value], now: Timestamp) -> Value {
    match (type_, values) {
        (_, []) | (_, [Value::Null]) => Value::Null,
        ("date", [value, ..]) => match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
            Some(time) => age(time, now).into(),
            None => "<invalid>".into(),
        },
        ("integer", [value, ..]) if !value.is_number() => Value::Null,
        ("number", [value, ..]) if !value.is_number() => Value::Null,
        ("boolean", [value, ..]) if !value.is_boolean() => Value::Null,
        ("string", values) => values.iter().map(|value| text(value)).collect::<Vec<_>>().join(",").into(),
        (_, [value, ..]) => (*value).clone(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// How long ago, in the two largest units that matter, as Kubernetes writes it: `5s`, `3m20s`, `4h`, `2d3h`, `88d`, `2y`.
pub fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - time.as_second();
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |a: i64, unit: &str, b: i64, small: &str| if b == 0 { format!("{a}{unit}") } else { format!("{a}{unit}{b}{small}") };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if hours < 3 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 8 * 365 => two(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_written_as_kubectl_writes_them() {
        let now = Timestamp::from_second(2_000_000_000).unwrap();
        let cases = [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (900, "15m"),
            (4 * 3600 + 300, "4h5m"),
            (20 * 3600, "20h"),
            (3 * 86400 + 3600, "3d1h"),
            (88 * 86400, "88d"),
        ];
        for (seconds, wanted) in cases {
            assert_eq!(age(now - jiff::SignedDuration::from_secs(seconds), now), wanted);
        }
        assert_eq!(age(now + jiff::SignedDuration::from_secs(60), now), "<invalid>");
    }

    #[test]
    fn events_are_shown_as_kubectl_shows_them() {
        let def = crate::builtin::definitions().into_iter().find(|def| def.kind == "Event").unwrap();
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let event = json!({
            "metadata": {"name": "e.1"}, "involvedObject": {"kind": "VirtualMachine", "name": "web"},
            "type": "Normal", "reason": "Placed", "message": "on host-1", "lastTimestamp": "2026-01-01T00:00:30Z",
        });
        let series = json!({"eventTime": "2026-01-01T00:00:00.000000Z", "series": {"lastObservedTime": "2026-01-01T00:00:55.000000Z"}});
        let table = render(&def, &[&event, &series], json!({}), Options { include_object: IncludeObject::None, no_headers: false }, now);
        let names: Vec<_> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["Name", "Last Seen", "Type", "Reason", "Object", "Message", "Count"]);
        assert_eq!(table["rows"][0]["cells"], json!(["e.1", "30s", "Normal", "Placed", "virtualmachine/web", "on host-1", null]));
        assert_eq!(table["rows"][1]["cells"][1], "5s");
        assert_eq!(table["rows"][0].get("object"), None);
    }

    #[test]
    fn cells_have_the_type_of_their_column() {
        let now = Timestamp::UNIX_EPOCH;
        let (text, list) = (json!("x"), json!(["a", "b"]));
        assert_eq!(cell("string", &[&list], now), "a,b");
        assert_eq!(cell("string", &[&text, &text], now), "x,x");
        assert_eq!(cell("integer", &[&text], now), Value::Null);
        assert_eq!(cell("integer", &[&json!(1)], now), 1);
        assert_eq!(cell("date", &[&text], now), "<invalid>");
        assert_eq!(cell("date", &[], now), Value::Null);
    }
}
