//! The command line: global flags as kubectl has them, and one variant for each verb.

use crate::{dev, output::age, verbs};
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::{path::PathBuf, time::Duration};

const TOPICS: &str = "Output goes to standard output, everything else to standard error.\nExit codes: basaltctl exit-codes. Colours: NO_COLOR=1 turns them off.";

/// The command line.
#[derive(Debug, Parser)]
#[command(name = "basaltctl", version = basalt_daemon::version::VERSION, about = "Looks at and changes a Basalt cluster", after_help = TOPICS)]
#[command(disable_help_subcommand = true, infer_subcommands = false, propagate_version = false)]
pub struct Cli {
    /// Flags that every verb takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags that every verb takes.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The kubeconfig file [default: $KUBECONFIG, which may list several, else ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig to use [default: its current-context]
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The namespace [default: that of the context, else "default"]
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// How long one request may take, such as 30s; 0 for as long as it takes
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = age::parse)]
    pub request_timeout: Duration,
    /// What to log to standard error: error, warn, info, debug, trace, or a filter [default: warn; RUST_LOG wins]
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl Global {
    /// How long one request may take.
    pub fn patience(&self) -> Option<Duration> {
        Some(self.request_timeout).filter(|t| !t.is_zero())
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Create or change objects so that they are as files say
    Apply(verbs::apply::Apply),
    /// List objects, or print some
    Get(verbs::get::Get),
    /// Show all there is to know about an object, with its events
    Describe(verbs::describe::Describe),
    /// Delete objects, and wait until they are gone
    Delete(verbs::delete::Delete),
    /// Wait until objects are as wanted
    Wait(verbs::wait::Wait),
    /// Print the serial console of a virtual machine, or the log of a task
    Logs(verbs::logs::Logs),
    /// Run virtual machines that are stopped
    Start(verbs::lifecycle::Start),
    /// Shut virtual machines down and keep them so
    Stop(verbs::lifecycle::Stop),
    /// Shut virtual machines down and start them again, with their newest spec
    Restart(verbs::lifecycle::Restart),
    /// Hold virtual machines still
    Pause(verbs::lifecycle::Pause),
    /// Let virtual machines run that are paused
    Resume(verbs::lifecycle::Resume),
    /// End tasks, whatever they are doing
    Cancel(verbs::tasks::Cancel),
    /// Create a task like one that has ended
    Retry(verbs::tasks::Retry),
    /// Look at tasks by what they are about
    #[command(subcommand)]
    Tasks(verbs::tasks::Tasks),
    /// Say why an object is not yet as wanted, and what happens next
    Why(verbs::why::Why),
    /// Explain what was decided, such as where a VM runs
    #[command(subcommand)]
    Explain(verbs::explain::Explain),
    /// List events, the newest last
    Events(verbs::events::Events),
    /// List who did what, and what was refused, the newest last
    Audit(verbs::audit::Audit),
    /// Write all objects into a file
    Backup(verbs::backup::Backup),
    /// Put the objects of a backup into an empty store
    Restore(verbs::backup::Restore),
    /// List the kinds that the server serves
    ApiResources(verbs::api_resources::ApiResources),
    /// Print the versions of this program and of the server
    Version(verbs::version::Version),
    /// Run a fleet of one gateway and several hosts on this machine
    #[command(subcommand)]
    Dev(dev::Command),
    /// Make, list and revoke tokens for programs and people without a certificate
    #[command(subcommand)]
    Token(verbs::token::Token),
    /// List the exit codes
    ExitCodes(verbs::exit_codes::ExitCodes),
}

/// At most three verbs that are near to `word`.
pub fn near_verbs(word: &str) -> Vec<String> {
    let distance = |verb: &str| strsim::damerau_levenshtein(verb, word);
    let command = Cli::command();
    let mut near: Vec<(usize, String)> = command.get_subcommands().map(|c| (distance(c.get_name()), c.get_name().to_owned())).collect();
    near.retain(|(distance, _)| *distance <= 2);
    near.sort();
    near.into_iter().take(3).map(|(_, verb)| verb).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_verb_is_answered_with_the_nearest() {
        assert_eq!(near_verbs("gte"), ["get"]);
        assert_eq!(near_verbs("aply"), ["apply"]);
        assert!(near_verbs("frobnicate").is_empty());
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
