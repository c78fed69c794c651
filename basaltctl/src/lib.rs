//! `basaltctl`: the command line of Basalt. It speaks the Kubernetes wire protocol and nothing else, so it works with any
//! API server that does, and kubectl works where it does.
//!
//! One file a verb, under `verbs`. What a verb prints is data on standard output; everything else is on standard error.

pub mod blame;
pub mod cli;
pub mod connect;
pub mod dev;
pub mod discovery;
pub mod error;
pub mod exit;
pub mod manifest;
pub mod output;
pub mod target;
pub mod verbs;

use cli::{Cli, Verb};
use error::Error;
use exit::Exit;
use output::Screen;

/// Runs one command and tells what went wrong with it, if anything did.
pub async fn run(cli: &Cli) -> Exit {
    let screen = Screen::of_process();
    match dispatch(cli, &screen).await {
        Ok(()) => Exit::Ok,
        Err(error) => {
            screen.tell(&error);
            error.exit()
        }
    }
}

async fn dispatch(cli: &Cli, screen: &Screen) -> Result<(), Error> {
    let global = &cli.global;
    // The client library logs each failed request as an error; this program tells it better.
    let level = global.log_level.as_deref().unwrap_or("warn,kube_client=off,kube_runtime=off");
    let hint = || "for example --log-level debug".to_owned();
    basalt_daemon::logs::init(level, basalt_daemon::logs::LogFormat::Auto, None)
        .map_err(|e| Error::Usage { what: e.to_string(), hint: hint() })?;
    match &cli.verb {
        Verb::Apply(verb) => verb.run(global, screen).await,
        Verb::Get(verb) => verb.run(global, screen).await,
        Verb::Describe(verb) => verb.run(global, screen).await,
        Verb::Delete(verb) => verb.run(global, screen).await,
        Verb::Wait(verb) => verb.run(global, screen).await,
        Verb::Logs(verb) => verb.run(global, screen).await,
        Verb::Start(verb) => verb.run(global, screen).await,
        Verb::Stop(verb) => verb.run(global, screen).await,
        Verb::Restart(verb) => verb.run(global, screen).await,
        Verb::Pause(verb) => verb.run(global, screen).await,
        Verb::Resume(verb) => verb.run(global, screen).await,
        Verb::Cancel(verb) => verb.run(global, screen).await,
        Verb::Retry(verb) => verb.run(global, screen).await,
        Verb::Tasks(command) => command.run(global, screen).await,
        Verb::Why(verb) => verb.run(global, screen).await,
        Verb::Explain(command) => command.run(global, screen).await,
        Verb::Events(verb) => verb.run(global, screen).await,
        Verb::Audit(verb) => verb.run(global, screen).await,
        Verb::Backup(verb) => verb.run(global, screen).await,
        Verb::Restore(verb) => verb.run(screen),
        Verb::ApiResources(verb) => verb.run(global, screen).await,
        Verb::Version(verb) => verb.run(global, screen).await,
        Verb::Dev(command) => Ok(dev::run(command).await?),
        Verb::Token(verb) => verb.run(global, screen).await,
        Verb::ExitCodes(verb) => verb.run(screen),
    }
}
