//! `basaltctl delete`: asks before it deletes more than one object, and waits until what it deleted is gone.

use super::{
    goal::Goal,
    usage,
    wait::{selected, until},
};
use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kinds, request},
    error::Error,
    exit::Exit,
    manifest,
    output::{Screen, age},
    target::{self, Target},
};
use clap::Args;
use http::{Request, header};
use serde_json::{Value, json};
use std::{
    io::{BufRead, Write},
    path::PathBuf,
    time::Duration,
};

// What becomes of the objects that an object owns: they go first, they go later, they stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Cascade {
    Foreground,
    Background,
    Orphan,
}

/// Deletes objects.
#[derive(Debug, Args)]
pub struct Delete {
    /// The objects: KIND/NAME.. or KIND NAME.., or KIND with -l or --all
    #[arg(value_name = "KIND/NAME")]
    words: Vec<String>,
    /// Delete the objects that these files name; - is standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Look into the directories below those given with -f too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Delete the objects of the kind that have these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Delete all objects of the kind in the namespace
    #[arg(long)]
    all: bool,
    /// What becomes of the objects that an object owns: they go first, go later, or stay
    #[arg(long, value_name = "HOW", default_value = "foreground")]
    cascade: Cascade,
    /// Wait until the objects are gone
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = age::parse)]
    timeout: Duration,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// An object that does not exist is no failure
    #[arg(long)]
    ignore_not_found: bool,
}

impl Delete {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        if self.words.is_empty() == self.files.is_empty() {
            return Err(usage("either objects or -f must be given", "for example: basaltctl delete vm/web-1"));
        }
        let documents = manifest::read(&self.files, self.recursive)?;
        let asked = if self.words.is_empty() { Vec::new() } else { target::parse(&self.words)? };
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        if global.namespace.is_some() {
            for one in &asked {
                let kind = kinds.one(&one.kind, &server)?;
                if !kind.namespaced {
                    return Err(usage(format!("a {} is in no namespace, but --namespace is given", kind.kind), "leave --namespace out"));
                }
            }
        }
        let listed = self.all || self.selector.is_some();
        let targets = if listed {
            selected(&server, &kinds, &asked, self.selector.as_deref()).await?.into_iter().map(|(target, _)| target).collect()
        } else if documents.is_empty() {
            target::named(&asked, &kinds, &server)?
        } else {
            super::apply::placed(documents, &kinds, &server, global)?.into_iter().rev().map(|(target, _)| target).collect()
        };
        let (found, missing) = look(&server, targets).await?;
        if !self.ignore_not_found {
            for target in &missing {
                screen.tell(&target.missing(&server, &kinds).await);
            }
        }
        let failed = if self.ignore_not_found || missing.is_empty() { None } else { Some(Exit::NotFound) };
        if found.is_empty() {
            if failed.is_none() {
                screen.say("Nothing to delete.");
            }
            return failed.map_or(Ok(()), |exit| Err(Error::Told(exit)));
        }
        if (found.len() > 1 || self.all) && !self.yes {
            confirm(&server, screen, &found)?;
        }
        screen.say(&server.introduce());
        self.delete(&server, &kinds, screen, found, failed).await
    }

    async fn delete(
        &self,
        server: &Server,
        kinds: &Kinds,
        screen: &Screen,
        found: Vec<(Target, Value)>,
        mut failed: Option<Exit>,
    ) -> Result<(), Error> {
        let mut deleting = Vec::new();
        for (target, object) in found {
            let uid = object.pointer("/metadata/uid").and_then(Value::as_str).map(str::to_owned);
            match self.ask(server, &target, uid.as_deref()).await {
                Ok(()) => deleting.push((target, uid)),
                Err(error) => {
                    screen.tell(&error);
                    failed = Some(failed.unwrap_or_else(|| error.exit()));
                }
            }
        }
        let done = !deleting.is_empty();
        if !self.wait {
            for (target, _) in &deleting {
                screen.print(&format!("{} deleting\n", target.label()))?;
            }
        } else {
            let waits = deleting.into_iter().map(|(target, uid)| async move {
                let goal = Goal::Deleted { uid };
                until(server, kinds, &[target], &goal, self.timeout, screen, |t| screen.print(&format!("{} deleted\n", t.label()))).await
            });
            for outcome in futures::future::join_all(waits).await {
                if let Err(error) = outcome {
                    screen.tell(&error);
                    failed = Some(error.exit());
                }
            }
        }
        match failed {
            None => Ok(()),
            Some(exit @ Exit::TimeUp) => Err(Error::Told(exit)),
            Some(_) if done => Err(Error::Told(Exit::Partial)),
            Some(exit) => Err(Error::Told(exit)),
        }
    }

    async fn ask(&self, server: &Server, target: &Target, uid: Option<&str>) -> Result<(), Error> {
        let policy = match self.cascade {
            Cascade::Foreground => "Foreground",
            Cascade::Background => "Background",
            Cascade::Orphan => "Orphan",
        };
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        if let Some(uid) = uid {
            // Exactly the object that was shown, and not one that has taken its name meanwhile.
            options["preconditions"] = json!({"uid": uid});
        }
        let path = target.kind.path(target.namespace.as_deref(), Some(&target.name), None);
        let builder = Request::delete(&path).header(header::CONTENT_TYPE, "application/json");
        server.call_optional(&format!("delete {}", target.label()), request(builder, options.to_string().into_bytes())?).await?;
        Ok(())
    }
}

type Found = Vec<(Target, Value)>;

async fn look(server: &Server, targets: Vec<Target>) -> Result<(Found, Vec<Target>), Error> {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for target in targets {
        match target.look(server).await? {
            Some(object) => found.push((target, object)),
            None => missing.push(target),
        }
    }
    Ok((found, missing))
}

/// Lists what would go, and what that stops; then asks, if there is somebody to ask.
fn confirm(server: &Server, screen: &Screen, found: &Found) -> Result<(), Error> {
    let effect = |object: &Value| {
        let running =
            object.get("kind").is_some_and(|k| k == "VirtualMachine") && object.pointer("/status/phase").is_some_and(|p| p == "Running");
        if running { "  (it runs, and will be stopped)" } else { "" }
    };
    let affected: Vec<String> = found.iter().map(|(target, object)| format!("{}{}", target.label(), effect(object))).collect();
    let refused = |what: &str| Error::Refused {
        what: format!("{what}: {} objects would be deleted in {}", found.len(), server.introduce()),
        affected: affected
            .iter()
            .take(20)
            .cloned()
            .chain((affected.len() > 20).then(|| format!("and {} more", affected.len() - 20)))
            .collect(),
        hint: "give --yes if that is what you want".into(),
    };
    if !screen.person {
        return Err(refused("nothing was deleted, because nobody can be asked"));
    }
    screen.say(&format!("This deletes {} objects in {}:", found.len(), server.introduce()));
    affected.iter().for_each(|line| screen.say(&format!("  {line}")));
    let word = match found.as_slice() {
        [(one, _)] => one.name.clone(),
        many => many.len().to_string(),
    };
    let _ = write!(std::io::stderr(), "Type {word} to go on: ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|source| Error::Read { what: "the answer".into(), source })?;
    if answer.trim() == word { Ok(()) } else { Err(refused("nothing was deleted, because the answer was another")) }
}
