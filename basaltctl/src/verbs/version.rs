//! `basaltctl version`: of this program, and of the server if it can be reached.

use super::Format;
use crate::{
    cli::Global,
    connect::Server,
    discovery::get,
    error::Error,
    output::{Screen, object},
};
use basalt_daemon::version::VERSION;
use clap::Args;
use serde_json::{Value, json};

/// Prints the versions.
#[derive(Debug, Args)]
pub struct Version {
    /// Print only the version of this program, and ask no server
    #[arg(long)]
    client: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

impl Version {
    /// Runs the verb. The client's version is printed even if the server cannot be reached.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let answer = if self.client { Ok(None) } else { ask(global).await.map(Some) };
        let server = answer.as_ref().ok().and_then(Option::as_ref);
        let text = |key: &str| server.and_then(|s| s.get(key)).and_then(Value::as_str).unwrap_or_default();
        match self.output {
            Format::Json => {
                let mut versions = json!({"clientVersion": {"gitVersion": VERSION}});
                if let Some(server) = server {
                    versions["serverVersion"] = server.clone();
                }
                screen.print(&object::json(&versions))?;
            }
            Format::Text => {
                screen.print(&format!("client  {VERSION}\n"))?;
                if server.is_some() {
                    screen.print(&format!("server  {}  {}\n", text("gitVersion"), text("platform")))?;
                }
            }
        }
        answer.map(|_| ())
    }
}

async fn ask(global: &Global) -> Result<Value, Error> {
    Server::connect(global).await?.call("ask the server's version", get("/version")?).await
}
