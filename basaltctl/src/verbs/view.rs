//! All there is to know about one object, in one model that is both printed for people and given out as JSON.

use super::{events, events::Event, task_tree::Branch, why::reason_text};
use crate::{
    error::Error,
    output::{age, blocked, object, table::drawn, text},
};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Map, Value};

/// An object, its conditions and reasons set apart, and its events.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    api_version: String,
    kind: String,
    metadata: Value,
    /// The few things that an operator looks for first.
    summary: Vec<Line>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    blocked_by: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refusals: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Value>,
    /// The tasks that this one is made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Branch>,
    /// What happened to a task, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    timeline: Vec<Value>,
    /// Everything else that the object has, by its field: `spec`, `status` and whatever its kind has.
    fields: Map<String, Value>,
    events: Vec<Event>,
}

/// A line of the summary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Line {
    label: String,
    text: String,
}

fn str_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.iter().map(|i| shown(Some(i))).collect::<Vec<_>>().join(", "),
        Some(other) => other.to_string(),
    }
}

/// The refusals of a VM: host, reason and message.
pub fn refusals(object: &Value) -> Vec<(String, String, String)> {
    let entries = object.pointer("/status/refusals").and_then(Value::as_array);
    entries.into_iter().flatten().map(|r| (str_at(r, "/host").into(), str_at(r, "/reason").into(), str_at(r, "/message").into())).collect()
}

impl View {
    /// The view of `object`. A task has parts.
    pub fn new(object: Value, parts: Vec<Branch>, events: Vec<Event>, now: Timestamp) -> Self {
        let mut object = object::without_managed_fields(object);
        let summary = summary(&object, now);
        let mut taken = |key: &str| -> Vec<Value> {
            let list = object.pointer_mut("/status").and_then(Value::as_object_mut).and_then(|s| s.remove(key));
            list.and_then(|l| l.as_array().cloned()).unwrap_or_default()
        };
        let (blocked_by, refusals, conditions) = (taken("blockedBy"), taken("refusals"), taken("conditions"));
        let timeline = taken("timeline");
        let mut fields = object.as_object().cloned().unwrap_or_default();
        let mut text = |key: &str| fields.remove(key).map(|v| shown(Some(&v))).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let metadata = fields.remove("metadata").unwrap_or_default();
        Self { api_version, kind, metadata, summary, blocked_by, refusals, conditions, parts, timeline, fields, events }
    }

    /// The view as text, wrapped to `columns`.
    pub fn render(&self, columns: Option<usize>, now: Timestamp) -> Result<String, Error> {
        let mut out = String::new();
        for Line { label, text } in self.head(now).iter().chain(&self.summary) {
            out.push_str(&text::wrapped(&format!("{:<14}", format!("{label}:")), &" ".repeat(14), &text::clean(text), columns));
        }
        if !self.blocked_by.is_empty() {
            out.push_str("\nWaits for:\n");
            let object = serde_json::json!({"status": {"blockedBy": self.blocked_by}});
            for reason in blocked::reasons(&object, now) {
                out.push_str(&reason_text(&reason, "  ", columns));
            }
        }
        let rows = |list: &[Value], keys: &[&str]| -> Vec<Vec<String>> {
            let cell = |entry: &Value, key: &str| match key {
                "lastTransitionTime" => age::since(str_at(entry, "/lastTransitionTime"), now).unwrap_or_default(),
                key => shown(entry.get(key)),
            };
            list.iter().map(|entry| keys.iter().map(|key| cell(entry, key)).collect()).collect()
        };
        if !self.refusals.is_empty() {
            out.push_str("\nRefused by:\n");
            out.push_str(&text::hanging(
                &["HOST", "REASON", "MESSAGE"],
                &rows(&self.refusals, &["host", "reason", "message"]),
                "  ",
                columns,
            ));
        }
        if !self.conditions.is_empty() {
            out.push_str("\nConditions:\n");
            let keys = ["type", "status", "lastTransitionTime", "reason", "message"];
            out.push_str(&text::hanging(&["TYPE", "STATUS", "FOR", "REASON", "MESSAGE"], &rows(&self.conditions, &keys), "  ", columns));
        }
        if !self.parts.is_empty() {
            out.push_str("\nParts:\n");
            self.parts.iter().for_each(|part| part.write(&mut out, 1));
        }
        if !self.timeline.is_empty() {
            out.push_str("\nTimeline:\n");
            out.push_str(&text::hanging(&["TIME", "ATTEMPT", "WHAT"], &rows(&self.timeline, &["time", "attempt", "what"]), "  ", columns));
        }
        for (key, value) in &self.fields {
            let empty = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
            if !empty && !value.is_null() {
                let mut title: Vec<char> = key.chars().collect();
                title.iter_mut().take(1).for_each(|c| *c = c.to_ascii_uppercase());
                out.push_str(&format!("\n{}:\n", title.into_iter().collect::<String>()));
                for line in object::yaml(value)?.lines() {
                    out.push_str(&format!("  {}\n", text::clean(line)));
                }
            }
        }
        out.push_str("\nEvents:\n");
        if self.events.is_empty() {
            out.push_str("  none\n");
        } else {
            out.push_str(&events::render(&self.events, false, "  ", columns));
        }
        Ok(out)
    }

    fn head(&self, now: Timestamp) -> Vec<Line> {
        let created = str_at(&self.metadata, "/creationTimestamp");
        let age = age::since(created, now).map(|a| format!(" ({a} ago)")).unwrap_or_default();
        let pairs = |key: &str| {
            let map = self.metadata.get(key).and_then(Value::as_object);
            map.into_iter().flatten().map(|(k, v)| format!("{k}={}", shown(Some(v)))).collect::<Vec<_>>().join(", ")
        };
        let deleting = str_at(&self.metadata, "/deletionTimestamp");
        let since = age::since(deleting, now).map(|a| format!("since {a}, waits for finalizers")).unwrap_or_default();
        let owners = self.metadata.get("ownerReferences").and_then(Value::as_array).into_iter().flatten();
        let owners: Vec<String> = owners.map(|o| format!("{}/{}", str_at(o, "/kind"), str_at(o, "/name"))).collect();
        let lines = [
            ("Name", str_at(&self.metadata, "/name").to_owned()),
            ("Namespace", str_at(&self.metadata, "/namespace").to_owned()),
            ("Kind", format!("{} ({})", self.kind, self.api_version)),
            ("Created", if created.is_empty() { String::new() } else { format!("{created}{age}") }),
            ("Deleting", since),
            ("Labels", pairs("labels")),
            ("Annotations", pairs("annotations")),
            ("Owners", owners.join(", ")),
            ("Finalizers", shown(self.metadata.get("finalizers"))),
        ];
        lines.into_iter().filter(|(_, text)| !text.is_empty()).map(|(label, text)| Line { label: label.into(), text }).collect()
    }
}

/// What an operator looks for first: by kind where it is one of ours, else the phase.
fn summary(object: &Value, now: Timestamp) -> Vec<Line> {
    let at = |pointer: &str| shown(object.pointer(pointer));
    let part = |prefix: &str, text: String| if text.is_empty() { text } else { format!("{prefix}{text}") };
    let ago = |pointer: &str| age::since(str_at(object, pointer), now).map(|a| format!("{a} ago")).unwrap_or_default();
    let joined = |parts: &[String]| parts.iter().filter(|p| !p.is_empty()).cloned().collect::<Vec<_>>().join(", ");
    let lines = match str_at(object, "/kind") {
        "VirtualMachine" => vec![
            ("Phase", at("/status/phase")),
            ("Host", joined(&[at("/status/host"), part("placement epoch ", at("/status/placementEpoch"))])),
            ("Addresses", at("/status/addresses")),
            ("Size", joined(&[at("/spec/cpus") + " CPUs", part("memory ", at("/spec/memory"))])),
            ("Runs", joined(&[at("/spec/runStrategy"), part("restarts ", at("/status/restarts"))])),
            ("VMM", joined(&[at("/status/vmm"), at("/status/observed/accelerator"), part("started ", ago("/status/observed/startedAt"))])),
        ],
        "Host" => vec![
            (
                "Phase",
                at("/status/phase")
                    + if object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) { ", no new VMs (unschedulable)" } else { "" },
            ),
            ("Heartbeat", ago("/status/lastHeartbeat")),
            ("Capacity", sizes(object, "/status/capacity")),
            ("For VMs", sizes(object, "/status/allocatable")),
            ("VMMs", vmms(object)),
            ("Addresses", at("/status/addresses")),
            ("Agent", at("/status/agentVersion")),
        ],
        "Task" => task_summary(object, now),
        _ => vec![("Phase", at("/status/phase"))],
    };
    lines.into_iter().filter(|(_, text)| !text.is_empty()).map(|(label, text)| Line { label: label.into(), text }).collect()
}

fn task_summary(object: &Value, now: Timestamp) -> Vec<(&'static str, String)> {
    let at = |pointer: &str| shown(object.pointer(pointer));
    let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64);
    let time = |pointer: &str| str_at(object, pointer).parse::<Timestamp>().ok();
    let joined = |parts: Vec<String>| parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
    let seconds = |seconds: u64| age::short(SignedDuration::from_secs(seconds.try_into().unwrap_or(i64::MAX)));
    let (started, finished) = (time("/status/startedAt"), time("/status/finishedAt"));
    let stopping = object.pointer("/status/stopping") == Some(&Value::Bool(true));
    let phase = match (at("/status/phase"), at("/status/reason")) {
        (phase, reason) if reason.is_empty() => phase,
        (phase, reason) => format!("{phase} ({reason})"),
    };
    let phase = if stopping { format!("{phase}, its host has not proved yet that nothing of it runs") } else { phase };
    let progress = object.pointer("/status/progress").filter(|_| finished.is_none()).map(|progress| {
        let unit = shown(progress.get("unit"));
        let of = number("/status/progress/total").map(|total| format!(" of {total}")).unwrap_or_default();
        joined(vec![
            number("/status/progress/percent").map(|percent| drawn(percent, 10)).unwrap_or_default(),
            format!("{}{of} {unit}", number("/status/progress/done").unwrap_or(0)),
            number("/status/progress/rate").map(|rate| format!("{rate} {unit}/s")).unwrap_or_default(),
            number("/status/progress/etaSeconds").map(|left| format!("{} left", seconds(left))).unwrap_or_default(),
            shown(progress.get("step")),
        ])
    });
    let took = match (started, finished) {
        (Some(started), Some(finished)) => age::short(finished.duration_since(started)),
        (Some(started), None) => format!("{} so far", age::short(now.duration_since(started))),
        _ => String::new(),
    };
    let deadline = time("/status/deadline").filter(|_| finished.is_none()).map(|deadline| match deadline.duration_since(now) {
        left if left.is_positive() => format!("in {}", age::short(left)),
        over => format!("{} ago", age::short(-over)),
    });
    let results = object.pointer("/status/result").and_then(Value::as_object).into_iter().flatten();
    let results: Vec<String> = results.map(|(key, value)| format!("{key}={}", shown(Some(value)))).collect();
    let attempt = number("/status/attempt").filter(|attempt| *attempt > 0);
    let attempts = number("/spec/retry/limit").map_or(1, |retries| retries + 1);
    let kind = str_at(object, "/metadata/labels/basalt.dev~1object").to_owned();
    vec![
        ("Phase", phase),
        ("Message", at("/status/message")),
        ("Operation", at("/metadata/labels/basalt.dev~1operation")),
        ("Object", kind.replacen('.', "/", 1)),
        ("Host", at("/status/host")),
        ("Attempt", attempt.map(|attempt| format!("{attempt} of at most {attempts}")).unwrap_or_default()),
        ("Progress", progress.unwrap_or_default()),
        ("Took", took),
        ("Deadline", deadline.unwrap_or_default()),
        ("Result", results.join(", ")),
        ("Residue", at("/status/residue")),
        ("Created by", at("/metadata/annotations/basalt.dev~1created-by")),
    ]
}

fn sizes(object: &Value, pointer: &str) -> String {
    let Some(resources) = object.pointer(pointer) else { return String::new() };
    format!("{} CPUs, memory {}", shown(resources.get("cpus")), shown(resources.get("memory")))
}

fn vmms(object: &Value) -> String {
    let list = object.pointer("/status/vmms").and_then(Value::as_array).into_iter().flatten();
    list.map(|v| format!("{} {} ({})", str_at(v, "/name"), str_at(v, "/version"), str_at(v, "/accelerator"))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn pending() -> View {
        let object = json!({
            "apiVersion": "basalt.dev/v1alpha1", "kind": "VirtualMachine",
            "metadata": {"name": "web-1", "namespace": "default", "creationTimestamp": "2026-11-23T11:57:00Z", "generation": 1,
                "labels": {"app": "web"}, "managedFields": [{"manager": "basaltctl"}]},
            "spec": {"cpus": 2, "memory": "512Gi", "runStrategy": "Always"},
            "status": {"phase": "Pending", "restarts": 0, "observedGeneration": 1,
                "conditions": [{"type": "Ready", "status": "False", "reason": "NoHostFits", "lastTransitionTime": "2026-11-23T11:57:01Z",
                    "message": "no host fits: 2 hosts were looked at"}],
                "blockedBy": [{"code": "NoHostFits", "since": "2026-11-23T11:57:01Z", "hint": "make room on a host, or make the VM smaller",
                    "next": {"action": "placement is tried again when a host changes"}}],
                "refusals": [{"host": "r12-a", "reason": "InsufficientMemory", "message": "needs 512Gi, of 64Gi 40Gi are free"},
                    {"host": "r12-b", "reason": "HostUnschedulable", "message": "spec.unschedulable is set"}]},
        });
        View::new(object, Vec::new(), Vec::new(), now())
    }

    #[test]
    fn a_pending_vm_is_explained_in_80_columns() {
        let text = pending().render(Some(80), now()).unwrap();
        assert!(text.lines().all(|l| text::width(l) <= 80), "{text}");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_json_view_says_what_the_text_says() {
        insta::assert_json_snapshot!(pending());
    }

    #[test]
    fn a_host_shows_what_it_has() {
        let object = json!({"apiVersion": "basalt.dev/v1alpha1", "kind": "Host", "metadata": {"name": "r12-a"}, "spec": {"unschedulable": true},
            "status": {"phase": "NotReady", "lastHeartbeat": "2026-11-23T11:56:48Z", "capacity": {"cpus": 64, "memory": "512Gi"},
                "vmms": [{"name": "Qemu", "version": "10.0.2", "accelerator": "Kvm"}]}});
        insta::assert_snapshot!(View::new(object, Vec::new(), Vec::new(), now()).render(Some(80), now()).unwrap());
    }
}
