//! Logs: sentences for people on a terminal, one JSON object a line otherwise.

use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log level or filter is not one.
#[derive(Debug, thiserror::Error)]
#[error(
    "log level {value:?} is not understood: expected error, warn, info, debug, trace, or a filter such as basalt_gateway=debug,info ({reason})"
)]
pub struct LogLevelError {
    value: String,
    reason: String,
}

/// Starts logging to standard error. `RUST_LOG` wins over `level`.
pub fn init(level: &str, format: LogFormat) -> Result<(), LogLevelError> {
    let level = std::env::var("RUST_LOG").ok().filter(|v| !v.is_empty()).unwrap_or_else(|| level.to_owned());
    let filter = EnvFilter::builder().parse(&level).map_err(|e| LogLevelError { value: level.clone(), reason: e.to_string() })?;
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // A second call in one process (tests) keeps the first subscriber.
    let _ = if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        registry.with(lines.with_ansi(colour).with_target(false)).try_init()
    };
    Ok(())
}
