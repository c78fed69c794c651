//! The `basaltctl` binary: reads the command line, runs it, and exits with its code.

use basaltctl::{
    cli::{Cli, near_verbs},
    exit::Exit,
};
use clap::{
    Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are data; a reader that went away is no failure.
            let _ = error.print();
            if let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) =
                (error.kind(), error.get(ContextKind::InvalidSubcommand))
            {
                let near = near_verbs(word);
                if !near.is_empty() {
                    let _ = writeln!(std::io::stderr(), "Did you mean {}?", near.join(", "));
                }
            }
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { Exit::Ok } else { Exit::Usage }.code());
        }
    };
    // Another provider in the process would be a fault of the build; then TLS says so by itself.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => ExitCode::from(runtime.block_on(basaltctl::run(&cli)).code()),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: cannot start: {error}");
            ExitCode::from(Exit::Bug.code())
        }
    }
}
