//! Logs: sentences for people on a terminal, one JSON object a line otherwise.

use crate::traces::{TARGET, Traces};
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, registry, registry::LookupSpan, util::SubscriberInitExt};

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

/// Starts logging to standard error, and gives spans to `traces`. `RUST_LOG` wins over `level`.
pub fn init(level: &str, format: LogFormat, traces: Option<&Traces>) -> Result<(), LogLevelError> {
    let level = std::env::var("RUST_LOG").ok().filter(|v| !v.is_empty()).unwrap_or_else(|| level.to_owned());
    // Spans that are sent are not logged: without a collector they are nothing at all.
    let filter = format!("{level},{TARGET}=off");
    let filter = EnvFilter::builder().parse(filter).map_err(|e| LogLevelError { value: level, reason: e.to_string() })?;
    // A second call in one process (tests) keeps the first subscriber.
    let _ = match traces {
        None => registry().with(filter).with(lines(format)).try_init(),
        Some(traces) => registry().with(lines(format).with_filter(filter)).with(traces.layer()).try_init(),
    };
    Ok(())
}

fn lines<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    if json {
        lines.json().flatten_event(true).boxed()
    } else {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        lines.with_ansi(colour).with_target(false).boxed()
    }
}
