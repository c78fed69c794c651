//! `basaltctl describe`: all there is to know about an object, with what it waits for and what happened to it.

use super::{Format, events, get::typed, task_tree, usage, view::View, wait::selected};
use crate::{
    cli::Global,
    connect::Server,
    discovery::Kinds,
    error::Error,
    output::{Screen, object},
    target::{self, Target},
};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

/// Shows all there is to know about objects.
#[derive(Debug, Args)]
pub struct Describe {
    /// The objects: KIND/NAME.. or KIND NAME.., or KIND for all of them
    #[arg(value_name = "KIND/NAME", required = true)]
    words: Vec<String>,
    /// Only objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

impl Describe {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let asked = target::parse(&self.words)?;
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        let found: Vec<(Target, Value)> = if asked.iter().all(|a| a.names.is_empty()) {
            selected(&server, &kinds, &asked, self.selector.as_deref()).await?
        } else if self.selector.is_some() {
            return Err(usage("names cannot be combined with a selector", "give either names or a selector"));
        } else {
            let mut found = Vec::new();
            for target in target::named(&asked, &kinds, &server)? {
                let object = target.must_exist(&server, &kinds).await?;
                found.push((target, object));
            }
            found
        };
        if found.is_empty() {
            screen.say("No resources found.");
        }
        let now = Timestamp::now();
        let mut views = Vec::new();
        for (target, object) in found {
            let events = events::about(&server, &kinds, &target).await?;
            let parts = match target.kind.qualified().as_str() {
                "task.basalt.dev" => task_tree::Tasks::find(&server, &kinds, now).await?.branch(&object).await?.into_parts(),
                _ => Vec::new(),
            };
            views.push(View::new(typed(object, &target.kind), parts, events, now));
        }
        if self.output == Format::Json {
            let value = |view: &View| serde_json::to_value(view).map_err(|e| Error::Bug(e.to_string()));
            let value = match views.as_slice() {
                [one] => value(one)?,
                many => Value::Array(many.iter().map(value).collect::<Result<_, _>>()?),
            };
            return screen.print(&object::json(&value));
        }
        let texts: Result<Vec<String>, Error> = views.iter().map(|v| v.render(screen.columns, now)).collect();
        screen.print(&texts?.join("\n\n"))
    }
}
