//! `basaltctl exit-codes`: the list, so that nobody has to look for it in a manual.

use super::Format;
use crate::{
    error::Error,
    exit,
    output::{Screen, object},
};
use clap::Args;
use serde_json::{Value, json};

/// Lists the exit codes.
#[derive(Debug, Args)]
pub struct ExitCodes {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

impl ExitCodes {
    /// Runs the verb.
    pub fn run(&self, screen: &Screen) -> Result<(), Error> {
        if self.output == Format::Json {
            let codes: Vec<Value> =
                exit::ALL.iter().map(|e| json!({"code": e.code(), "name": e.name(), "meaning": e.to_string()})).collect();
            return screen.print(&object::json(&codes.into()));
        }
        let lines: String = exit::ALL.iter().map(|e| format!("{:>3}  {e}\n", e.code())).collect();
        screen.print(&lines)
    }
}
