//! What can be waited for, and the waiting: it ends when the goal is met, at once when it can no longer be met, and at
//! its deadline with the reasons.

use super::jsonpath::JsonPath;
use crate::{
    connect::Server,
    discovery::{Kind, Kinds},
    error::Error,
    exit::Exit,
    output::{age, blocked},
    target::Target,
};
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    core::DynamicObject,
    runtime::{WatchStreamExt, watcher},
};
use serde_json::Value;
use std::{fmt, str::FromStr, time::Duration};

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The object is as its spec wants it.
    AsWanted,
    /// A condition has a status.
    Condition {
        /// Its type.
        type_: String,
        /// The status, `True` unless said otherwise.
        status: String,
    },
    /// `status.phase` has a value.
    Phase(String),
    /// A path has a value, or any.
    Path {
        /// The path.
        path: JsonPath,
        /// The value; any if none.
        value: Option<String>,
    },
    /// The object exists.
    Created,
    /// The object is gone.
    Deleted {
        /// Its uid: another object of the same name is no reason to wait on.
        uid: Option<String>,
    },
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let accepted = || {
            format!(
                "{text:?} cannot be waited for: write condition=Ready, condition=Ready=False, phase=Running, jsonpath={{.status.host}}=r12-a, create or delete"
            )
        };
        let (what, rest) = text.split_once('=').map_or((text, None), |(what, rest)| (what, Some(rest)));
        let rest = rest.filter(|r| !r.is_empty());
        match (what, rest) {
            ("delete", None) => Ok(Self::Deleted { uid: None }),
            ("create", None) => Ok(Self::Created),
            ("phase", Some(phase)) => Ok(Self::Phase(phase.to_owned())),
            ("condition", Some(rest)) => {
                let (type_, status) = rest.split_once('=').unwrap_or((rest, "True"));
                let known = ["True", "False", "Unknown"].into_iter().find(|s| s.eq_ignore_ascii_case(status));
                let status = known.ok_or_else(|| format!("a condition is True, False or Unknown, and never {status:?}"))?;
                Ok(Self::Condition { type_: type_.to_owned(), status: status.to_owned() })
            }
            ("jsonpath", Some(rest)) => {
                let end =
                    if rest.starts_with('{') { rest.find('}').map_or(rest.len(), |i| i + 1) } else { rest.find('=').unwrap_or(rest.len()) };
                let (path, value) = rest.split_at(end);
                let value = value.strip_prefix('=').map(|v| v.trim_matches(['\'', '"']).to_owned());
                Ok(Self::Path { path: JsonPath::parse(path)?, value })
            }
            _ => Err(accepted()),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsWanted => f.write_str("as wanted"),
            Self::Condition { type_, status } if status == "True" => f.write_str(type_),
            Self::Condition { type_, status } => write!(f, "at {type_}={status}"),
            Self::Phase(phase) => f.write_str(phase),
            Self::Path { value: Some(value), .. } => write!(f, "at the value {value:?}"),
            Self::Path { value: None, .. } => f.write_str("at any value"),
            Self::Created => f.write_str("there"),
            Self::Deleted { .. } => f.write_str("gone"),
        }
    }
}

/// Where an object stands against a goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The goal is met.
    Met,
    /// Not yet, and why not.
    Waiting(Vec<String>),
    /// It will not be met any more, and why not.
    Failed(Vec<String>),
}

/// Kinds whose controllers report on every object: one without a status has not been looked at yet.
const REPORTED: [&str; 2] = ["VirtualMachine", "Host"];
/// Kinds that never fail for good: somebody keeps trying, whatever their phase says.
const KEEPS_TRYING: [&str; 2] = ["VirtualMachine", "Host"];

fn str_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn condition<'a>(object: &'a Value, type_: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find(|c| str_at(c, "/type") == type_)
}

impl Goal {
    /// Where an existing object stands.
    pub fn judge(&self, kind: &Kind, object: &Value) -> Verdict {
        let met = match self {
            Self::Created => true,
            Self::Deleted { uid } => uid.as_deref().is_some_and(|uid| uid != str_at(object, "/metadata/uid")),
            Self::Phase(phase) => str_at(object, "/status/phase") == phase,
            Self::Path { path, value } => {
                let values = path.values(object);
                value.as_ref().map_or(!values.is_empty(), |wanted| values.contains(wanted))
            }
            Self::Condition { type_, status } => {
                condition(object, type_).is_some_and(|c| str_at(c, "/status") == status && current(object, c.get("observedGeneration")))
            }
            Self::AsWanted => as_wanted(kind, object),
        };
        if met {
            return Verdict::Met;
        }
        let reasons = self.reasons(object);
        let failed = !matches!(self, Self::Deleted { .. }) && failed_for_good(kind, object);
        if failed { Verdict::Failed(reasons) } else { Verdict::Waiting(reasons) }
    }

    fn reasons(&self, object: &Value) -> Vec<String> {
        let mut reasons = blocked::lines(object, Timestamp::now());
        if !str_at(object, "/metadata/deletionTimestamp").is_empty() {
            let finalizers = object.pointer("/metadata/finalizers").and_then(Value::as_array);
            let names: Vec<&str> = finalizers.into_iter().flatten().filter_map(Value::as_str).collect();
            let held = if names.is_empty() { String::new() } else { format!("; held by {}", names.join(", ")) };
            reasons.push(format!("it is being deleted{held}"));
        }
        if matches!(self, Self::Deleted { .. }) {
            if reasons.is_empty() {
                reasons.push("it is still there".to_owned());
            }
            return reasons;
        }
        let type_ = match self {
            Self::Condition { type_, .. } => type_,
            _ => "Ready",
        };
        match condition(object, type_) {
            Some(c) => {
                let stale = if current(object, c.get("observedGeneration")) { "" } else { ", of an older spec" };
                let detail =
                    [str_at(c, "/reason"), str_at(c, "/message")].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(": ");
                reasons.push(format!("{type_} is {}{stale}{}{detail}", str_at(c, "/status"), if detail.is_empty() { "" } else { ": " }));
            }
            None if matches!(self, Self::Condition { .. }) => {
                let types = condition_types(object);
                let has = if types.is_empty() { "no conditions yet".to_owned() } else { format!("only {}", types.join(", ")) };
                reasons.push(format!("it has no condition {type_}; it has {has}"));
            }
            None => {}
        }
        let phase = str_at(object, "/status/phase");
        if !str_at(object, "/status/finishedAt").is_empty() {
            reasons.push(format!("it ended as {phase} ({}): {}", str_at(object, "/status/reason"), str_at(object, "/status/message")));
        }
        if reasons.is_empty() {
            reasons.push(if phase.is_empty() { "nothing has been reported on it yet".into() } else { format!("its phase is {phase}") });
        }
        reasons
    }

    /// A condition type that was surely meant to be another, with those that exist.
    fn misspelt(&self, object: &Value) -> Option<Error> {
        let Self::Condition { type_, .. } = self else { return None };
        let types = condition_types(object);
        let near = types.iter().find(|t| *t != type_ && strsim::damerau_levenshtein(&t.to_lowercase(), &type_.to_lowercase()) <= 1)?;
        if types.contains(type_) {
            return None;
        }
        Some(Error::Usage {
            what: format!("there is no condition {type_}"),
            hint: format!("did you mean {near}? The object has {}", types.join(", ")),
        })
    }
}

fn condition_types(object: &Value) -> Vec<String> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().map(|c| str_at(c, "/type").to_owned()).collect()
}

/// What was observed is of the newest spec. Who reports no generation is believed.
fn current(object: &Value, observed: Option<&Value>) -> bool {
    let observed = observed.or_else(|| object.pointer("/status/observedGeneration")).and_then(Value::as_i64);
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    observed.is_none_or(|observed| observed >= generation)
}

fn as_wanted(kind: &Kind, object: &Value) -> bool {
    let ours = kind.group == "basalt.dev";
    let blocked = object.pointer("/status/blockedBy").and_then(Value::as_array).is_some_and(|b| !b.is_empty());
    if !str_at(object, "/metadata/deletionTimestamp").is_empty() || blocked || !current(object, None) {
        return false;
    }
    if ours && kind.kind == "Task" {
        return str_at(object, "/status/phase") == "Completed";
    }
    if ours && kind.kind == "VirtualMachine" && str_at(object, "/status/phase") == "Stopped" {
        // The controller says Stopped only where the spec wants it so.
        return true;
    }
    if ours && kind.kind == "VirtualMachine" && object.pointer("/spec/paused") == Some(&Value::Bool(true)) {
        return str_at(object, "/status/phase") == "Paused";
    }
    match condition(object, "Ready") {
        Some(ready) => str_at(ready, "/status") == "True" && current(object, ready.get("observedGeneration")),
        None => !(ours && REPORTED.contains(&kind.kind.as_str())),
    }
}

/// The object says that it will not get any further: `Failed` or `Stalled` is True, or its phase is a failure and nothing
/// is waited for. What always says why it waits has failed when it no longer does.
fn failed_for_good(kind: &Kind, object: &Value) -> bool {
    if ["Failed", "Stalled"].into_iter().any(|t| condition(object, t).is_some_and(|c| str_at(c, "/status") == "True")) {
        return true;
    }
    let keeps_trying = kind.group == "basalt.dev" && KEEPS_TRYING.contains(&kind.kind.as_str());
    let waits = object.pointer("/status/blockedBy").and_then(Value::as_array).is_some_and(|b| !b.is_empty());
    let ended = kind.group == "basalt.dev" && kind.kind == "Task" && !str_at(object, "/status/finishedAt").is_empty();
    let failed = || current(object, None) && matches!(str_at(object, "/status/phase"), "Failed" | "TimedOut" | "Cancelled");
    ended || (!keeps_trying && !waits && failed())
}

/// Waits until `target` meets `goal`. `progress` is told the reasons whenever they change.
pub async fn reach(
    server: &Server,
    kinds: &Kinds,
    target: &Target,
    goal: &Goal,
    limit: Duration,
    mut progress: impl FnMut(&[String]),
) -> Result<(), Error> {
    let resource = target.kind.resource();
    let api: Api<DynamicObject> = match &target.namespace {
        Some(namespace) => Api::namespaced_with(server.client.clone(), namespace, &resource),
        None => Api::all_with(server.client.clone(), &resource),
    };
    let mut states = std::pin::pin!(watcher::watch_object(api, &target.name).default_backoff());
    let deadline = tokio::time::sleep(limit);
    let mut deadline = std::pin::pin!(deadline);
    let mut reasons: Vec<String> = Vec::new();
    loop {
        let state = tokio::select! {
            state = states.next() => state,
            () = &mut deadline => return Err(time_up(target, goal, limit, reasons)),
        };
        let now = match state {
            None => return Err(Error::Bug("a watch ended by itself".into())),
            Some(Ok(None)) => match goal {
                Goal::Deleted { .. } => return Ok(()),
                Goal::Created => vec!["it does not exist".to_owned()],
                _ => return Err(target.missing(server, kinds).await),
            },
            Some(Ok(Some(object))) => {
                let object = serde_json::to_value(&object).map_err(|e| Error::Bug(e.to_string()))?;
                if let Some(error) = goal.misspelt(&object) {
                    return Err(error);
                }
                match goal.judge(&target.kind, &object) {
                    Verdict::Met => return Ok(()),
                    Verdict::Failed(reasons) => return Err(failed(target, goal, reasons, str_at(&object, "/status/phase"))),
                    Verdict::Waiting(reasons) => reasons,
                }
            }
            Some(Err(error)) => vec![watch_trouble(server, target, error).await?],
        };
        if without_ages(&now) != without_ages(&reasons) {
            progress(&now);
        }
        reasons = now;
    }
}

/// Trouble that may pass is a reason to wait on; what cannot pass is an error.
async fn watch_trouble(server: &Server, target: &Target, error: watcher::Error) -> Result<String, Error> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if matches!(status.code, 400 | 401 | 403 | 404 | 405) =>
        {
            Err(server.blame(&format!("watch {}", target.label()), kube::Error::Api(status)).await)
        }
        other => Ok(format!("the server cannot be asked at the moment: {other}")),
    }
}

fn without_ages(reasons: &[String]) -> Vec<String> {
    reasons.iter().map(|r| r.chars().filter(|c| !c.is_ascii_digit()).collect()).collect()
}

fn next(target: &Target) -> String {
    format!("basaltctl describe {}", target.short())
}

fn time_up(target: &Target, goal: &Goal, limit: Duration, reasons: Vec<String>) -> Error {
    let waited = age::short(SignedDuration::try_from(limit).unwrap_or(SignedDuration::MAX));
    Error::TimeUp { object: target.label(), goal: goal.to_string(), waited, reasons, next: next(target) }
}

fn failed(target: &Target, goal: &Goal, reasons: Vec<String>, phase: &str) -> Error {
    let exit = match phase {
        "TimedOut" => Exit::TimedOut,
        "Cancelled" => Exit::Cancelled,
        "Completed" => Exit::Completed,
        _ => Exit::Failed,
    };
    Error::Failed { object: target.label(), goal: goal.to_string(), reasons, next: next(target), exit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn kind(kind: &str, group: &str) -> Kind {
        Kind { kind: kind.into(), group: group.into(), ..Kind::default() }
    }

    fn met(goal: &str, object: &Value) -> bool {
        goal.parse::<Goal>().unwrap().judge(&kind("VirtualMachine", "basalt.dev"), object) == Verdict::Met
    }

    fn vm(status: Value) -> Value {
        json!({"metadata": {"generation": 2, "uid": "u"}, "status": status})
    }

    #[test]
    fn goals_are_read_as_kubectl_reads_them() {
        let running = vm(json!({"phase": "Running", "observedGeneration": 2, "conditions": [{"type": "Ready", "status": "True"}]}));
        for goal in [
            "condition=Ready",
            "condition=Ready=true",
            "phase=Running",
            "jsonpath={.status.phase}=Running",
            "jsonpath=.status.phase",
            "create",
        ] {
            assert!(met(goal, &running), "{goal}");
        }
        for goal in ["condition=Ready=False", "condition=Other", "phase=Stopped", "jsonpath={.status.host}", "delete"] {
            assert!(!met(goal, &running), "{goal}");
        }
        for goal in ["", "ready", "condition=", "condition=Ready=maybe", "phase", "jsonpath={.a[?(@.b)]}", "delete=now"] {
            assert!(goal.parse::<Goal>().is_err(), "{goal}");
        }
    }

    #[test]
    fn a_condition_of_an_older_spec_does_not_count() {
        let stale = vm(json!({"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}));
        assert!(!met("condition=Ready", &stale));
        let stale = vm(json!({"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1}]}));
        assert!(!met("condition=Ready", &stale));
    }

    #[test]
    fn a_vm_never_fails_for_good_and_a_task_does() {
        let object = vm(json!({"phase": "Failed", "observedGeneration": 2}));
        let goal: Goal = "phase=Running".parse().unwrap();
        assert!(matches!(goal.judge(&kind("VirtualMachine", "basalt.dev"), &object), Verdict::Waiting(_)));
        assert!(matches!(goal.judge(&kind("Task", "basalt.dev"), &object), Verdict::Failed(_)));
        let waits = vm(json!({"phase": "Failed", "blockedBy": [{"code": "X", "hint": "y"}]}));
        assert!(matches!(goal.judge(&kind("Task", "basalt.dev"), &waits), Verdict::Waiting(_)));
        let stalled = vm(json!({"conditions": [{"type": "Stalled", "status": "True"}]}));
        assert!(matches!(goal.judge(&kind("Any", "example.com"), &stalled), Verdict::Failed(_)));
    }

    #[test]
    fn as_wanted_means_reported_unblocked_and_ready_or_stopped_on_purpose() {
        let wanted = |k: &str, object: &Value| Goal::AsWanted.judge(&kind(k, "basalt.dev"), object) == Verdict::Met;
        assert!(!wanted("VirtualMachine", &json!({"metadata": {"generation": 1}})), "nobody has looked at it yet");
        assert!(wanted("Image", &json!({"metadata": {"generation": 1}})), "nothing is to come");
        assert!(wanted("VirtualMachine", &vm(json!({"phase": "Stopped", "observedGeneration": 2}))));
        let ready = |blocked: Value| {
            vm(json!({"observedGeneration": 2, "blockedBy": blocked, "conditions": [{"type": "Ready", "status": "True"}]}))
        };
        assert!(wanted("VirtualMachine", &ready(json!([]))));
        assert!(!wanted("VirtualMachine", &ready(json!([{"code": "WaitingForHost", "hint": ""}]))));
    }

    #[test]
    fn a_misspelt_condition_is_told_at_once_with_those_that_exist() {
        let object = vm(json!({"conditions": [{"type": "Ready", "status": "False"}, {"type": "Scheduled", "status": "True"}]}));
        let error = |goal: &str| goal.parse::<Goal>().unwrap().misspelt(&object).map(|e| e.to_string());
        assert_eq!(error("condition=ready"), Some("there is no condition ready".into()));
        assert_eq!(error("condition=Redy"), Some("there is no condition Redy".into()));
        assert_eq!(error("condition=Ready"), None);
        assert_eq!(error("condition=Healthy"), None, "a controller may yet write it");
    }
}
