//! `basaltctl api-resources`: what kinds the server serves, and how they are called.

use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kind, Kinds},
    error::Error,
    output::{
        Screen, object,
        table::{Column, Row, Style, Table},
    },
};
use clap::Args;
use serde_json::{Value, json};

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Shape {
    Table,
    Wide,
    Name,
    Json,
}

/// Lists the kinds that the server serves.
#[derive(Debug, Args)]
pub struct ApiResources {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Shape,
    /// Leave the header out
    #[arg(long)]
    no_headers: bool,
}

impl ApiResources {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let server = Server::connect(global).await?;
        let Kinds(kinds) = Kinds::discover(&server).await?;
        match self.output {
            Shape::Json => screen.print(&object::json(&Value::Array(kinds.iter().map(value).collect()))),
            Shape::Name => screen.print(&kinds.iter().map(|k| format!("{}\n", plural(k))).collect::<String>()),
            Shape::Table | Shape::Wide => {
                let style =
                    Style { room: screen.columns, wide: self.output == Shape::Wide, no_headers: self.no_headers, colour: screen.colour };
                screen.print(&table(&kinds).render(style))
            }
        }
    }
}

fn plural(kind: &Kind) -> String {
    if kind.group.is_empty() { kind.plural.clone() } else { format!("{}.{}", kind.plural, kind.group) }
}

fn value(kind: &Kind) -> Value {
    json!({
        "name": kind.plural, "singularName": kind.singular, "shortNames": kind.short_names, "apiVersion": kind.api_version(),
        "kind": kind.kind, "namespaced": kind.namespaced, "verbs": kind.verbs, "categories": kind.categories,
    })
}

fn table(kinds: &[Kind]) -> Table {
    let mut columns: Vec<Column> = ["NAME", "SHORT", "APIVERSION", "NAMESPACED", "KIND", "VERBS"].map(Column::text).into();
    columns[5].extra = true;
    let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    let row = |k: &Kind| Row {
        cells: vec![
            k.plural.clone(),
            dash(k.short_names.join(",")),
            k.api_version(),
            k.namespaced.to_string(),
            k.kind.clone(),
            dash(k.verbs.join(",")),
        ],
        name: k.plural.clone(),
        ..Row::default()
    };
    Table { columns, rows: kinds.iter().map(row).collect() }
}
