//! `basaltctl get`: lists objects, or prints some of them, in every shape.

use super::{usage, watch, with_query};
use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kind, Kinds, get, request},
    error::Error,
    exit::Exit,
    output::{
        Screen, object,
        table::{Style, Table},
    },
    target::{self, Target},
};
use clap::Args;
use http::{Request, header};
use serde_json::Value;

// The variants have no documentation on purpose: with it, --help would take a page for each flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shape {
    Table,
    Wide,
    Yaml,
    Json,
    Jsonl,
    Name,
}

/// Lists objects, or prints some of them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  basaltctl get hosts\n  basaltctl get vm -A -w\n  basaltctl get vm/web-1 host/r12-a -o yaml")]
pub struct Get {
    /// The objects: KIND, KIND,KIND, KIND NAME.. or KIND/NAME..
    #[arg(value_name = "KIND", required = true)]
    words: Vec<String>,
    /// Only objects with these labels, such as app=web,tier!=test
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only objects with these fields, such as metadata.name=web-1
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// In all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// What to print of each object; several make one List in yaml and json
    #[arg(short, long, value_name = "SHAPE", default_value = "table")]
    output: Shape,
    /// Go on showing changes: in place on a terminal, else a line for each
    #[arg(short, long)]
    watch: bool,
    /// Leave the header out
    #[arg(long)]
    no_headers: bool,
    /// Print cells whole, even if the terminal is too narrow for them
    #[arg(long)]
    no_truncate: bool,
    /// Exit with code 4 if nothing matches
    #[arg(long)]
    exit_empty: bool,
    /// Print metadata.managedFields too
    #[arg(long)]
    show_managed_fields: bool,
}

/// The server answers with a Table, or with JSON if it knows none.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json";

/// A GET request for a Table.
pub fn table_request(path: &str) -> Result<Request<Vec<u8>>, Error> {
    request(Request::get(path).header(header::ACCEPT, TABLE), Vec::new())
}

/// The table in a server's answer.
pub fn table_of(server: &Server, answer: &Value) -> Result<Table, Error> {
    Table::from_server(answer).ok_or_else(|| Error::Answer {
        action: "print a table".into(),
        reason: "the server sends no Table; -o yaml, json and name need none".into(),
        at: server.target.at(),
    })
}

impl Get {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let asked = target::parse(&self.words)?;
        let by_name = asked.iter().any(|a| !a.names.is_empty());
        if by_name && self.all_namespaces {
            return Err(usage("names cannot be combined with -A", "give the namespace with -n"));
        }
        if by_name && (self.selector.is_some() || self.field_selector.is_some()) {
            return Err(usage("names cannot be combined with a selector", "give either names or a selector"));
        }
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        let mut wanted: Vec<(Kind, Vec<String>)> = Vec::new();
        for one in &asked {
            let found = kinds.called(&one.kind, &server)?;
            wanted.extend(found.into_iter().map(|kind| (kind, one.names.clone())));
        }
        if self.watch {
            return self.watch(&server, &kinds, screen, &wanted).await;
        }
        match self.output {
            Shape::Table | Shape::Wide => self.tables(&server, &kinds, screen, &wanted).await,
            _ => self.objects(&server, &kinds, screen, &wanted).await,
        }
    }

    /// How tables are printed.
    pub fn style(&self, screen: &Screen) -> Style {
        let room = screen.columns.filter(|_| !self.no_truncate);
        Style { room, wide: self.output == Shape::Wide, no_headers: self.no_headers, colour: screen.colour }
    }

    async fn watch(&self, server: &Server, kinds: &Kinds, screen: &Screen, wanted: &[(Kind, Vec<String>)]) -> Result<(), Error> {
        let hint = "for example: basaltctl get vm -w, or basaltctl get vm/web-1 -w";
        let [(kind, names)] = wanted else { return Err(usage("only one kind can be watched at a time", hint)) };
        if names.len() > 1 {
            return Err(usage("only one object, or all of a kind, can be watched at a time", hint));
        }
        if let Some(namespace) = kind.namespace(&server.namespace).filter(|_| !self.all_namespaces) {
            target::namespace_exists(server, kinds, namespace).await?;
        }
        let named = names.first().map(|name| format!("metadata.name={name}"));
        let watch = watch::Watch {
            server,
            kind,
            path: kind.path(self.namespace(kind, server), None, None),
            selector: self.selector.as_deref(),
            field_selector: named.as_deref().or(self.field_selector.as_deref()),
            shape: self.output,
            style: self.style(screen),
            with_namespace: self.all_namespaces && kind.namespaced,
            managed_fields: self.show_managed_fields,
        };
        watch.run(screen).await
    }

    fn namespace<'a>(&self, kind: &Kind, server: &'a Server) -> Option<&'a str> {
        kind.namespace(&server.namespace).filter(|_| !self.all_namespaces)
    }

    fn list_path(&self, kind: &Kind, server: &Server) -> String {
        let path = kind.path(self.namespace(kind, server), None, None);
        with_query(&path, &[("labelSelector", self.selector.as_deref()), ("fieldSelector", self.field_selector.as_deref())])
    }

    async fn tables(&self, server: &Server, kinds: &Kinds, screen: &Screen, wanted: &[(Kind, Vec<String>)]) -> Result<(), Error> {
        let (mut tables, mut failed) = (Vec::new(), None);
        for (kind, names) in wanted {
            let mut table = Table::default();
            if names.is_empty() {
                let answer = server.call(&format!("list {}", kind.plural), table_request(&self.list_path(kind, server))?).await?;
                table = table_of(server, &answer)?;
            }
            for name in names {
                let target = self.target(kind, name, server);
                let path = kind.path(target.namespace.as_deref(), Some(name), None);
                match server.call_optional(&format!("get {}", target.label()), table_request(&path)?).await? {
                    Some(answer) => {
                        let one = table_of(server, &answer)?;
                        table.columns = one.columns;
                        table.rows.extend(one.rows);
                    }
                    None => failed = Some(self.tell_missing(&target, server, kinds, screen).await),
                }
            }
            if self.all_namespaces && kind.namespaced {
                table.prepend("NAMESPACE", |row| row.namespace.clone());
            }
            if wanted.len() > 1 && !table.columns.is_empty() {
                let name_at = usize::from(self.all_namespaces && kind.namespaced);
                for row in &mut table.rows {
                    row.cells[name_at] = format!("{}/{}", kind.qualified(), row.cells[name_at]);
                }
            }
            if !table.rows.is_empty() {
                tables.push(table.render(self.style(screen)));
            }
        }
        screen.print(&tables.join("\n"))?;
        self.finish(server, kinds, screen, wanted, tables.is_empty(), failed).await
    }

    async fn objects(&self, server: &Server, kinds: &Kinds, screen: &Screen, wanted: &[(Kind, Vec<String>)]) -> Result<(), Error> {
        let (mut items, mut failed) = (Vec::new(), None);
        for (kind, names) in wanted {
            if names.is_empty() {
                let answer = server.call(&format!("list {}", kind.plural), get(&self.list_path(kind, server))?).await?;
                let listed = answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
                items.extend(listed.into_iter().map(|item| typed(item, kind)));
            }
            for name in names {
                let target = self.target(kind, name, server);
                match target.look(server).await? {
                    Some(object) => items.push(typed(object, kind)),
                    None => failed = Some(self.tell_missing(&target, server, kinds, screen).await),
                }
            }
        }
        if !self.show_managed_fields {
            items = items.into_iter().map(object::without_managed_fields).collect();
        }
        let empty = items.is_empty();
        let one = matches!(wanted, [(_, names)] if names.len() == 1);
        if !(one && empty) {
            screen.print(&rendered(items, self.output, one, kinds)?)?;
        }
        self.finish(server, kinds, screen, wanted, empty, failed).await
    }

    fn target(&self, kind: &Kind, name: &str, server: &Server) -> Target {
        Target { kind: kind.clone(), namespace: self.namespace(kind, server).map(str::to_owned), name: name.to_owned() }
    }

    async fn tell_missing(&self, target: &Target, server: &Server, kinds: &Kinds, screen: &Screen) -> Exit {
        let error = target.missing(server, kinds).await;
        screen.tell(&error);
        error.exit()
    }

    async fn finish(
        &self,
        server: &Server,
        kinds: &Kinds,
        screen: &Screen,
        wanted: &[(Kind, Vec<String>)],
        empty: bool,
        failed: Option<Exit>,
    ) -> Result<(), Error> {
        if let Some(exit) = failed {
            return Err(Error::Told(exit));
        }
        if !empty {
            return Ok(());
        }
        let namespaced = wanted.iter().any(|(kind, _)| self.namespace(kind, server).is_some());
        if namespaced {
            target::namespace_exists(server, kinds, &server.namespace).await?;
        }
        if matches!(self.output, Shape::Table | Shape::Wide) {
            screen.say(&if namespaced {
                format!("No resources found in {} namespace.", server.namespace)
            } else {
                "No resources found.".into()
            });
        }
        if self.exit_empty { Err(Error::Told(Exit::NothingMatched)) } else { Ok(()) }
    }
}

/// The object with its apiVersion and kind, which lists may leave out.
pub fn typed(mut object: Value, kind: &Kind) -> Value {
    if let Some(map) = object.as_object_mut() {
        for (key, value) in [("apiVersion", kind.api_version()), ("kind", kind.kind.clone())] {
            map.entry(key).or_insert_with(|| value.into());
        }
    }
    object
}

/// `kind/name` of an object.
pub fn name_line(object: &Value, kinds: &Kinds) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let kind = kinds.of_object(text("/apiVersion"), text("/kind")).map_or_else(|| text("/kind").to_lowercase(), Kind::qualified);
    format!("{kind}/{}\n", text("/metadata/name"))
}

fn rendered(mut items: Vec<Value>, shape: Shape, one: bool, kinds: &Kinds) -> Result<String, Error> {
    let whole = |items: &mut Vec<Value>| if one && items.len() == 1 { items.remove(0) } else { object::list(std::mem::take(items)) };
    Ok(match shape {
        Shape::Yaml => object::yaml(&whole(&mut items))?,
        Shape::Json => object::json(&whole(&mut items)),
        Shape::Jsonl => items.iter().map(|i| format!("{i}\n")).collect(),
        Shape::Name | Shape::Table | Shape::Wide => items.iter().map(|i| name_line(i, kinds)).collect(),
    })
}
