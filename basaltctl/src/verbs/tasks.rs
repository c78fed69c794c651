//! `basaltctl cancel`, `retry` and `tasks`: what is done with long-running operations, and what has been.

use super::{
    goal::{Goal, reach},
    task_tree::{self, labelled, str_at},
    usage,
};
use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kinds, request},
    error::Error,
    output::{
        Screen, age,
        table::{Column, Row, Style, Table},
        text,
    },
    target::{self, Target},
};
use clap::{Args, Subcommand};
use http::{Request, header};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::time::Duration;

/// How many names a retry tries.
const NAMES: usize = 100;

/// Asks for the end of tasks. It cannot be taken back.
#[derive(Debug, Args)]
pub struct Cancel {
    /// The tasks: task/NAME..
    #[arg(value_name = "task/NAME", required = true)]
    words: Vec<String>,
    /// Wait until nothing of them runs any more
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = age::parse)]
    timeout: Duration,
}

/// Creates a task like one that has ended.
#[derive(Debug, Args)]
pub struct Retry {
    /// The task: task/NAME
    #[arg(value_name = "task/NAME", required = true)]
    words: Vec<String>,
}

/// Looks at tasks by what they are about.
#[derive(Debug, Subcommand)]
pub enum Tasks {
    /// Print the tasks about an object, with their parts and what they wait for
    Tree(Tree),
    /// List the tasks that have ended, the newest last
    History(History),
}

/// Prints the tasks about an object.
#[derive(Debug, Args)]
pub struct Tree {
    /// The object: vm/NAME, host/NAME, image/NAME or task/NAME
    #[arg(value_name = "KIND/NAME", required = true)]
    words: Vec<String>,
}

/// Lists the tasks that have ended.
#[derive(Debug, Args)]
pub struct History {
    /// Only those about an object, such as vm/web-1
    #[arg(long, value_name = "KIND/NAME")]
    object: Option<String>,
    /// Only those that ran on a host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only those of an operation, such as Probe
    #[arg(long, value_name = "OPERATION")]
    operation: Option<String>,
    /// Only those that a user created
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Only those that ended in a phase, such as Failed
    #[arg(long, value_name = "PHASE")]
    phase: Option<String>,
    /// Only those that ended within a time, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = age::parse)]
    since: Option<Duration>,
}

fn has_ended(task: &Value) -> bool {
    !str_at(task, "/status/finishedAt").is_empty()
}

async fn tasks(words: &[String], server: &Server, kinds: &Kinds) -> Result<Vec<Target>, Error> {
    let targets = target::named(&target::parse(words)?, kinds, server)?;
    match targets.iter().find(|target| target.kind.kind != "Task") {
        Some(other) => Err(usage(format!("{} is not a task", other.short()), "write task/NAME; basaltctl get tasks lists them")),
        None => Ok(targets),
    }
}

impl Cancel {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        for target in tasks(&self.words, &server, &kinds).await? {
            let task = target.must_exist(&server, &kinds).await?;
            if has_ended(&task) {
                screen.print(&format!("{} has ended already, as {}\n", target.label(), str_at(&task, "/status/phase")))?;
                continue;
            }
            let path = target.kind.path(target.namespace.as_deref(), Some(&target.name), None);
            let patch = Request::patch(path).header(header::CONTENT_TYPE, "application/merge-patch+json");
            let body = json!({ "spec": { "cancelRequested": true } }).to_string();
            server.call(&format!("cancel {}", target.label()), request(patch, body.into_bytes())?).await?;
            screen.print(&format!("{} is to end\n", target.label()))?;
            if self.wait {
                let tell = |reasons: &[String]| screen.say(&format!("waiting for {}: {}", target.short(), reasons.join("; ")));
                let goal = Goal::Phase("Cancelled".into());
                reach(&server, &kinds, &target, &goal, self.timeout, tell).await?;
                screen.print(&format!("{} is Cancelled\n", target.label()))?;
            }
        }
        Ok(())
    }
}

impl Retry {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        for target in tasks(&self.words, &server, &kinds).await? {
            let task = target.must_exist(&server, &kinds).await?;
            if !has_ended(&task) {
                let what = format!("{} has not ended: it is {}", target.short(), str_at(&task, "/status/phase"));
                return Err(usage(what, format!("basaltctl cancel {} ends it", target.short())));
            }
            let mut spec = task["spec"].clone();
            spec["cancelRequested"] = false.into();
            // `x` is retried as x-retry-1, and that as x-retry-2.
            let stem = target.name.rsplit_once("-retry-").map_or(&*target.name, |(stem, _)| stem);
            let path = target.kind.path(target.namespace.as_deref(), None, None);
            let mut made = None;
            for number in 1..=NAMES {
                let name = format!("{stem}-retry-{number}");
                let one = Target { name: name.clone(), ..target.clone() };
                if one.look(&server).await?.is_some() {
                    continue;
                }
                let new = json!({ "apiVersion": target.kind.api_version(), "kind": "Task", "metadata": { "name": name }, "spec": spec });
                let post = Request::post(&path).header(header::CONTENT_TYPE, "application/json");
                server.call(&format!("create {}", one.label()), request(post, new.to_string().into_bytes())?).await?;
                made = Some(one);
                break;
            }
            let Some(made) = made else {
                return Err(usage(format!("{stem} has been retried {NAMES} times"), "delete some of the retries"));
            };
            screen.print(&format!("{} created\n", made.label()))?;
        }
        Ok(())
    }
}

impl Tasks {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        match self {
            Self::Tree(tree) => tree.run(&server, &kinds, screen).await,
            Self::History(history) => history.run(&server, &kinds, screen).await,
        }
    }
}

/// The label by which the tasks about an object are found.
fn about(target: &Target) -> (&'static str, String) {
    ("basalt.dev/object", format!("{}.{}", target.kind.kind.to_lowercase(), target.name))
}

impl Tree {
    async fn run(&self, server: &Server, kinds: &Kinds, screen: &Screen) -> Result<(), Error> {
        let mut out = String::new();
        let kind = kinds.one("tasks.basalt.dev", server)?;
        let here = kind.namespace(&server.namespace);
        let mut tasks = task_tree::Tasks::find(server, kinds, Timestamp::now()).await?;
        for target in target::named(&target::parse(&self.words)?, kinds, server)? {
            let (label, value) = about(&target);
            let found = match target.kind.kind.as_str() {
                "Task" => target.look(server).await?.into_iter().collect(),
                "Host" => {
                    let mut found = labelled(server, &kind, here, &format!("basalt.dev/host={}", target.name)).await?;
                    found.extend(labelled(server, &kind, here, &format!("{label}={value},basalt.dev/host!={}", target.name)).await?);
                    found
                }
                _ => labelled(server, &kind, here, &format!("{label}={value}")).await?,
            };
            out.push_str(&format!("{}\n", text::clean(&target.short())));
            // One whose parent is shown is shown below that.
            for task in task_tree::Tasks::roots(&found.iter().collect::<Vec<_>>()) {
                tasks.branch(task).await?.write(&mut out, 1);
            }
            if found.is_empty() {
                screen.say(&format!("No task is about {}.", target.short()));
            }
        }
        screen.print(&out)
    }
}

impl History {
    async fn run(&self, server: &Server, kinds: &Kinds, screen: &Screen) -> Result<(), Error> {
        let mut labels = Vec::new();
        if let Some(object) = &self.object {
            let targets = target::named(&target::parse(std::slice::from_ref(object))?, kinds, server)?;
            labels.extend(targets.first().map(about));
        }
        labels.extend(self.operation.clone().map(|operation| ("basalt.dev/operation", operation)));
        let selector = labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
        let kind = kinds.one("tasks.basalt.dev", server)?;
        let now = Timestamp::now();
        let oldest = self.since.and_then(|since| now.checked_sub(SignedDuration::try_from(since).ok()?).ok());
        let time = |task: &Value, pointer: &str| str_at(task, pointer).parse::<Timestamp>().ok();
        let mut ended = labelled(server, &kind, kind.namespace(&server.namespace), &selector).await?;
        ended.retain(|task| {
            let is = |wanted: &Option<String>, pointer: &str| wanted.as_ref().is_none_or(|wanted| str_at(task, pointer) == wanted);
            has_ended(task)
                && is(&self.host, "/status/host")
                && is(&self.phase, "/status/phase")
                && is(&self.user, "/metadata/annotations/basalt.dev~1created-by")
                && oldest.is_none_or(|oldest| time(task, "/status/finishedAt").is_some_and(|at| at >= oldest))
        });
        ended.sort_by_key(|task| time(task, "/status/finishedAt"));
        let row = |task: &Value| {
            let (start, end) = (time(task, "/status/startedAt"), time(task, "/status/finishedAt"));
            let took = start.zip(end).map_or_else(|| "-".to_owned(), |(start, end)| age::short(end.duration_since(start)));
            let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
            Row {
                cells: vec![
                    or_dash(str_at(task, "/status/finishedAt")),
                    str_at(task, "/metadata/name").to_owned(),
                    str_at(task, "/metadata/labels/basalt.dev~1operation").to_owned(),
                    or_dash(str_at(task, "/status/host")),
                    took,
                    or_dash(str_at(task, "/metadata/annotations/basalt.dev~1created-by")),
                    str_at(task, "/status/phase").to_owned(),
                    or_dash(str_at(task, "/status/reason")),
                ],
                name: str_at(task, "/metadata/name").to_owned(),
                ..Row::default()
            }
        };
        let columns = ["ENDED", "NAME", "OPERATION", "HOST", "TOOK", "BY", "PHASE", "REASON"].map(Column::text).into();
        let table = Table { columns, rows: ended.iter().map(row).collect() };
        if table.rows.is_empty() {
            screen.say("No task has ended that is as asked.");
            return Ok(());
        }
        screen.print(&table.render(Style { room: screen.columns, wide: false, no_headers: false, colour: screen.colour }))
    }
}
