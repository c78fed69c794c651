//! `basaltctl logs vm/NAME`: the serial console of a virtual machine, as its host recorded it. `basaltctl logs task/NAME`: what a task
//! wrote down, also if it is gone.

use super::{usage, with_query};
use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kinds, get},
    error::Error,
    output::{Screen, age},
    target::{self, Asked},
};
use clap::Args;
use futures::AsyncReadExt;
use std::{io::Write, time::Duration};

/// Prints the serial console of a virtual machine, or the log of a task.
#[derive(Debug, Args)]
pub struct Logs {
    /// The virtual machine: vm/NAME, or NAME; or the task: task/NAME
    #[arg(value_name = "vm/NAME", required = true)]
    words: Vec<String>,
    /// Go on printing what the guest writes
    #[arg(short, long)]
    follow: bool,
    /// Of the log of a task, print only what is not older than this, such as 10m
    #[arg(long, value_name = "DURATION", value_parser = age::parse)]
    since: Option<Duration>,
    /// Print only the last lines
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
}

impl Logs {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let asked = match self.words.as_slice() {
            [name] if !name.contains('/') => vec![Asked { kind: "virtualmachine".into(), names: vec![name.clone()] }],
            words => target::parse(words)?,
        };
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        let targets = target::named(&asked, &kinds, &server)?;
        let [target] = targets.as_slice() else {
            return Err(usage("logs prints one console at a time", "write basaltctl logs vm/NAME"));
        };
        let has_log = target.kind.kind == "VirtualMachine" || target.kind.subresources.iter().any(|s| s == "log");
        if !has_log {
            return Err(usage(format!("a {} has no log", target.kind.kind), "write basaltctl logs vm/NAME"));
        }
        let lines = self.tail.map(|n| n.to_string());
        let path = target.kind.path(target.namespace.as_deref(), Some(&target.name), Some("log"));
        let is_task = target.kind.kind == "Task";
        if self.since.is_some() && !is_task {
            return Err(usage("the lines of a console have no times, so there is no --since", "write --tail LINES"));
        }
        let since = self.since.map(|since| since.as_secs().to_string());
        let query = with_query(
            &path,
            &[("follow", self.follow.then_some("true")), ("tailLines", lines.as_deref()), ("sinceSeconds", since.as_deref())],
        );
        let action = format!("read the {} of {}", if is_task { "log" } else { "console" }, target.label());
        let mut console = match server.stream(&action, get(&query)?).await {
            Ok(console) => Box::pin(console),
            Err(error @ Error::Api { .. }) if error.exit() == crate::exit::Exit::NotFound => {
                target.must_exist(&server, &kinds).await?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let mut out = std::io::stdout();
        let mut chunk = vec![0; 16 * 1024];
        loop {
            match console.read(&mut chunk).await {
                Ok(0) => return Ok(()),
                Ok(length) => out.write_all(&chunk[..length]).and_then(|()| out.flush()).map_err(Error::Output)?,
                Err(error) => {
                    screen.say(&format!("the console stream of {} ended: {error}", target.label()));
                    return Err(Error::Told(crate::exit::Exit::Unreachable));
                }
            }
        }
    }
}
