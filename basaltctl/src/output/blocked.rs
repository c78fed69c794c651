//! `status.blockedBy` in sentences: why an object waits, what happens next by itself, and what a person can do.

use super::age;
use jiff::Timestamp;
use serde_json::Value;

fn str_of<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty())
}

/// One reason, in the three lines that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The code, in words if it is a known one, and what it waits for.
    pub what: String,
    /// The details, and what a person can do.
    pub hint: Option<String>,
    /// What happens next by itself.
    pub next: Option<String>,
}

/// The reasons in `object.status.blockedBy`.
pub fn reasons(object: &Value, now: Timestamp) -> Vec<Reason> {
    let entries = object.pointer("/status/blockedBy").and_then(Value::as_array);
    entries.into_iter().flatten().map(|entry| reason(entry, now)).collect()
}

fn reason(entry: &Value, now: Timestamp) -> Reason {
    let code = str_of(entry, "/code").unwrap_or("Unknown");
    // A newer server may know codes that this program does not: they are shown as they are.
    let known: Option<basalt_api::BlockedCode> = serde_json::from_value(Value::from(code)).ok();
    let mut what = known.map_or_else(|| code.to_owned(), |known| format!("{known} ({code})"));
    if let (Some(kind), Some(name)) = (str_of(entry, "/object/kind"), str_of(entry, "/object/name")) {
        what.push_str(&format!(": {}/{name}", kind.to_lowercase()));
    }
    if let Some(since) = str_of(entry, "/since").and_then(|s| age::since(s, now)) {
        what.push_str(&format!(", for {since}"));
    }
    let next = str_of(entry, "/next/action").map(|action| match str_of(entry, "/next/at") {
        Some(at) => format!("{action}, {}", moment(at, now)),
        None => action.to_owned(),
    });
    Reason { what, hint: str_of(entry, "/hint").map(str::to_owned), next }
}

fn moment(at: &str, now: Timestamp) -> String {
    match at.parse::<Timestamp>() {
        Ok(time) if time > now => format!("in {}", age::short(time.duration_since(now))),
        Ok(_) => "now".to_owned(),
        Err(_) => at.to_owned(),
    }
}

/// The reasons, one line each, for errors and progress.
pub fn lines(object: &Value, now: Timestamp) -> Vec<String> {
    let line = |r: Reason| {
        let hint = r.hint.map(|h| format!(": {h}")).unwrap_or_default();
        let next = r.next.map(|n| format!("; next: {n}")).unwrap_or_default();
        format!("{}{hint}{next}", r.what)
    };
    reasons(object, now).into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reason_says_what_since_when_what_next_and_what_to_do() {
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        let object = json!({"status": {"blockedBy": [
            {"code": "RestartBackOff", "object": {"kind": "Host", "name": "r12-a"}, "since": "2026-11-23T11:58:00Z",
             "next": {"action": "the host starts it again", "at": "2026-11-23T12:00:08Z"}, "hint": "read basaltctl logs vm/web-1"},
            {"code": "SomethingNewer", "since": "2026-11-23T11:00:00Z", "hint": "wait"},
        ]}});
        insta::assert_snapshot!(lines(&object, now).join("\n"), @r"
        the VMM died; waiting before the next start (RestartBackOff): host/r12-a, for 2m: read basaltctl logs vm/web-1; next: the host starts it again, in 8s
        SomethingNewer, for 60m: wait
        ");
    }
}
