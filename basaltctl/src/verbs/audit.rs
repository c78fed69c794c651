//! `basaltctl audit`: who did what, as the server's audit log has it, the newest last.

use super::{usage, with_query};
use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kinds, get},
    error::Error,
    exit::Exit,
    output::{Screen, age, text},
    target,
};
use clap::Args;
use futures::AsyncReadExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use std::time::Duration;

/// Lists what was done, and refused, the newest last.
#[derive(Debug, Args)]
pub struct Audit {
    /// Only what this user did
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only this verb: create, update, patch, delete, deletecollection, get, list or watch
    #[arg(long, value_name = "VERB")]
    verb: Option<String>,
    /// Only what was done to this object, or because of it
    #[arg(long = "for", value_name = "KIND/NAME")]
    about: Option<String>,
    /// Only what is not older, such as 30m or 24h
    #[arg(long, value_name = "DURATION", value_parser = age::parse)]
    since: Option<Duration>,
    /// Only what ended so: success, denied, failed, or an HTTP code
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<String>,
    /// How many lines at the most
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// How to print; json is a line for each, as the server has it
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: super::Format,
}

impl Audit {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let asked = self.about.as_ref().map(|word| target::parse(std::slice::from_ref(word))).transpose()?;
        let server = Server::connect(global).await?;
        let mut about = None;
        if let Some(asked) = asked {
            let kinds = Kinds::discover(&server).await?;
            let targets = target::named(&asked, &kinds, &server)?;
            about = targets.into_iter().next();
            if about.is_none() {
                return Err(usage("no object is named", "write --for KIND/NAME, for example --for vm/web-1"));
            }
        }
        let since = self.since.and_then(|since| SignedDuration::try_from(since).ok());
        let since = since.and_then(|since| Timestamp::now().checked_sub(since).ok()).map(|time| time.to_string());
        let limit = self.limit.to_string();
        let path = with_query(
            "/audit",
            &[
                ("user", self.user.as_deref()),
                ("verb", self.verb.as_deref()),
                ("group", about.as_ref().map(|about| about.kind.group.as_str())),
                ("resource", about.as_ref().map(|about| about.kind.plural.as_str())),
                ("namespace", about.as_ref().and_then(|about| about.namespace.as_deref())),
                ("name", about.as_ref().map(|about| about.name.as_str())),
                ("since", since.as_deref()),
                ("outcome", self.outcome.as_deref()),
                ("limit", Some(&limit)),
            ],
        );
        let mut answer = Box::pin(server.stream("read the audit log", get(&path)?).await?);
        let mut lines = String::new();
        if let Err(error) = answer.read_to_string(&mut lines).await {
            screen.say(&format!("the audit log ended in its midst: {error}"));
            return Err(Error::Told(Exit::Unreachable));
        }
        if self.output == super::Format::Json {
            return screen.print(&lines);
        }
        if lines.is_empty() {
            screen.say("Nothing found.");
            return Ok(());
        }
        screen.print(&render(&lines, screen.columns))
    }
}

/// The lines as a table, the cause last.
fn render(lines: &str, columns: Option<usize>) -> String {
    let rows: Vec<Vec<String>> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).map(|line: Value| row(&line)).collect();
    text::hanging(&["TIME", "USER", "VERB", "OBJECT", "OUTCOME", "FROM", "BECAUSE OF"], &rows, "", columns)
}

fn row(line: &Value) -> Vec<String> {
    let field = |name: &str| line[name].as_str().unwrap_or_default();
    // To the second: what is finer is in the JSON.
    let time = field("time").parse().map_or_else(|_| field("time").to_owned(), |time: Timestamp| time.strftime("%FT%TZ").to_string());
    if let Some(lost) = line["lost"].as_u64() {
        return [&time, "", "", "", "", "", &format!("{lost} lines are missing here")].map(str::to_owned).into();
    }
    let mut object = match field("path") {
        "" => named(line),
        path => path.to_owned(),
    };
    if line["dryRun"] == true {
        object += " (dry run)";
    }
    let outcome = match (&line["code"], field("reason")) {
        (code, "") => code.to_string(),
        (code, reason) => format!("{code} {reason}"),
    };
    let from = if field("source").is_empty() { "the server" } else { field("source") };
    let cause = &line["cause"];
    let because = match cause["generation"].as_i64() {
        _ if cause.is_null() => String::new(),
        Some(generation) => format!("{} at generation {generation}", named(cause)),
        None => named(cause),
    };
    [&time, field("user"), field("verb"), &object, &outcome, from, &because].map(str::to_owned).into()
}

/// `virtualmachines/default/web-1/status`.
fn named(value: &Value) -> String {
    let parts = ["resource", "namespace", "name", "subresource"].map(|part| value[part].as_str().unwrap_or_default());
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_who_did_what_with_which_outcome_and_why() {
        let line = json!({
            "time": "2026-11-23T21:30:00.123Z", "user": "system:basalt:controllers", "verb": "patch", "resource": "virtualmachines",
            "namespace": "default", "name": "web", "subresource": "status", "code": 409, "reason": "Conflict", "dryRun": true,
            "cause": { "resource": "hosts", "name": "h1", "generation": 3 },
        });
        let wanted = [
            "2026-11-23T21:30:00Z",
            "system:basalt:controllers",
            "patch",
            "virtualmachines/default/web/status (dry run)",
            "409 Conflict",
            "the server",
            "hosts/h1 at generation 3",
        ];
        assert_eq!(row(&line), wanted);
    }

    #[test]
    fn what_is_missing_is_told_and_what_others_wrote_cannot_move_the_cursor() {
        let lines = format!(
            "{}\n{}\nhalf a li",
            json!({ "time": "2026-11-23T21:30:00Z", "lost": 7 }),
            json!({ "time": "2026-11-23T21:30:01Z", "user": "\u{1b}[2Jeve", "verb": "get", "path": "/metrics", "code": 403 })
        );
        let text = render(&lines, None);
        assert!(text.contains("7 lines are missing here") && text.contains("/metrics") && !text.contains('\u{1b}'), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
