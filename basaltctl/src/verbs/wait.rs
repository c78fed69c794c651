//! `basaltctl wait`: until objects are as wanted, or as `--for` says. It ends at the first that has failed for good.

use super::{
    goal::{Goal, reach},
    usage, with_query,
};
use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kinds, get},
    error::Error,
    exit::Exit,
    output::{Screen, age},
    target::{self, Target},
};
use clap::Args;
use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::Value;
use std::time::Duration;

/// Waits until objects are as wanted.
#[derive(Debug, Args)]
#[command(
    after_help = "Without --for it waits until each object is as its spec wants it.\nExit codes: 10 if an object failed for good, 11 if time is up."
)]
pub struct Wait {
    /// The objects: KIND/NAME.. or KIND NAME.., or KIND with -l or --all
    #[arg(value_name = "KIND/NAME", required = true)]
    words: Vec<String>,
    /// What to wait for: condition=TYPE[=STATUS], phase=PHASE, jsonpath={PATH}[=VALUE], create or delete
    #[arg(long = "for", value_name = "GOAL")]
    goal: Option<Goal>,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = age::parse)]
    timeout: Duration,
    /// Wait for the objects of the kind that have these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Wait for all objects of the kind in the namespace
    #[arg(long)]
    all: bool,
}

impl Wait {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let asked = target::parse(&self.words)?;
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        let targets = if self.all || self.selector.is_some() {
            let found = selected(&server, &kinds, &asked, self.selector.as_deref()).await?;
            found.into_iter().map(|(target, _)| target).collect()
        } else {
            target::named(&asked, &kinds, &server)?
        };
        if targets.is_empty() {
            screen.say("Nothing matches, so there is nothing to wait for.");
            return Ok(());
        }
        let goal = self.goal.clone().unwrap_or(Goal::AsWanted);
        until(&server, &kinds, &targets, &goal, self.timeout, screen, |target| screen.print(&format!("{} is {goal}\n", target.label())))
            .await
    }
}

/// Waits for all of `targets` at once; `met` is told each that got there. The first that fails for good ends it.
pub async fn until(
    server: &Server,
    kinds: &Kinds,
    targets: &[Target],
    goal: &Goal,
    limit: Duration,
    screen: &Screen,
    mut met: impl FnMut(&Target) -> Result<(), Error>,
) -> Result<(), Error> {
    let wait = |target: &'_ Target| {
        let target = target.clone();
        async move {
            let label = target.short();
            let tell = |reasons: &[String]| screen.say(&format!("waiting for {label}: {}", reasons.join("; ")));
            let outcome = reach(server, kinds, &target, goal, limit, tell).await;
            (target, outcome)
        }
    };
    let mut waits: FuturesUnordered<_> = targets.iter().map(wait).collect();
    let mut errors = Vec::new();
    while let Some((target, outcome)) = waits.next().await {
        match outcome {
            Ok(()) => met(&target)?,
            Err(error @ (Error::TimeUp { .. } | Error::NotFound { .. })) => errors.push(error),
            Err(error) => {
                errors.push(error);
                break;
            }
        }
    }
    let Some(last) = errors.pop() else { return Ok(()) };
    errors.iter().for_each(|error| screen.tell(error));
    match errors.first().map(Error::exit) {
        Some(exit) if last.exit() != Exit::Failed => {
            screen.tell(&last);
            Err(Error::Told(exit))
        }
        _ => Err(last),
    }
}

/// The objects of the kinds that have the labels, each as it is now.
pub async fn selected(
    server: &Server,
    kinds: &Kinds,
    asked: &[target::Asked],
    selector: Option<&str>,
) -> Result<Vec<(Target, Value)>, Error> {
    let mut found = Vec::new();
    for one in asked {
        if !one.names.is_empty() {
            return Err(usage("names cannot be combined with -l or --all", "give either names or a selector"));
        }
        let kind = kinds.one(&one.kind, server)?;
        let path = with_query(&kind.path(kind.namespace(&server.namespace), None, None), &[("labelSelector", selector)]);
        let list = server.call(&format!("list {}", kind.plural), get(&path)?).await?;
        let items = list.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
        for item in items {
            let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            if let Some(name) = text("/metadata/name") {
                found.push((Target { kind: kind.clone(), namespace: text("/metadata/namespace"), name }, item));
            }
        }
        if found.is_empty()
            && let Some(namespace) = kind.namespace(&server.namespace)
        {
            target::namespace_exists(server, kinds, namespace).await?;
        }
    }
    Ok(found)
}
