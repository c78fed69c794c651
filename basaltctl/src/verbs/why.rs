//! `basaltctl why KIND/NAME`: why an object is not yet as wanted, what happens next by itself, and what a person can do.

use super::{
    goal::{Goal, Verdict},
    view::refusals,
};
use crate::{
    cli::Global,
    connect::Server,
    discovery::Kinds,
    error::Error,
    output::{Screen, blocked, text},
    target,
};
use clap::Args;
use jiff::Timestamp;

/// Says why objects are not yet as wanted.
#[derive(Debug, Args)]
pub struct Why {
    /// The objects: KIND/NAME.. or KIND NAME..
    #[arg(value_name = "KIND/NAME", required = true)]
    words: Vec<String>,
}

impl Why {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let asked = target::parse(&self.words)?;
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        let now = Timestamp::now();
        let mut out = String::new();
        for target in target::named(&asked, &kinds, &server)? {
            let object = target.must_exist(&server, &kinds).await?;
            let phase = object.pointer("/status/phase").and_then(|p| p.as_str()).map(|p| format!(" ({p})")).unwrap_or_default();
            let (says, others) = match Goal::AsWanted.judge(&target.kind, &object) {
                Verdict::Met => ("is as wanted", Vec::new()),
                Verdict::Waiting(reasons) => ("waits", reasons),
                Verdict::Failed(reasons) => ("has failed for good", reasons),
            };
            out.push_str(&format!("{}{phase} {says}\n", text::clean(&target.label())));
            let reasons = blocked::reasons(&object, now);
            if reasons.is_empty() {
                for reason in others {
                    out.push_str(&text::wrapped("  ", "  ", &text::clean(&reason), screen.columns));
                }
            }
            for reason in reasons {
                out.push_str(&reason_text(&reason, "  ", screen.columns));
            }
            for (host, code, message) in refusals(&object) {
                out.push_str(&text::wrapped(
                    &format!("    host {host}  "),
                    "      ",
                    &text::clean(&format!("{code}: {message}")),
                    screen.columns,
                ));
            }
        }
        screen.print(&out)
    }
}

/// One reason: what, then the hint and the next step below it.
pub fn reason_text(reason: &blocked::Reason, indent: &str, columns: Option<usize>) -> String {
    let below = format!("{indent}        ");
    let mut out = text::wrapped(indent, &below, &text::clean(&reason.what), columns);
    for (label, line) in [("hint", &reason.hint), ("next", &reason.next)] {
        if let Some(line) = line {
            out.push_str(&text::wrapped(&format!("{indent}  {label}  "), &below, &text::clean(line), columns));
        }
    }
    out
}
