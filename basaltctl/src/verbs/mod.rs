//! The verbs, one file each, and the waiting that several of them share.

pub mod api_resources;
pub mod apply;
pub mod audit;
pub mod backup;
pub mod delete;
pub mod describe;
pub mod events;
pub mod exit_codes;
pub mod explain;
pub mod get;
pub mod goal;
pub mod jsonpath;
pub mod lifecycle;
pub mod logs;
mod task_tree;
pub mod tasks;
pub mod token;
pub mod version;
pub mod view;
pub mod wait;
mod watch;
pub mod why;

use crate::{discovery::escaped, error::Error};

// How the simpler verbs print. Documented variants would take a page of --help for each flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

/// `path` with the parameters that have a value.
fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(key, value)| Some(format!("{key}={}", escaped((*value)?))));
    let query = given.collect::<Vec<_>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

/// A command line that cannot be, with what to write instead.
fn usage(what: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::Usage { what: what.into(), hint: hint.into() }
}
