//! `basaltctl apply -f`: server-side apply of everything in the files, or of nothing if one of them has a fault.

use super::{goal::Goal, wait::until, with_query};
use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kinds, request},
    error::{Error, exit_of},
    exit::Exit,
    manifest::{self, Document, ManifestError},
    output::{Screen, age},
    target::Target,
};
use clap::Args;
use http::{Request, header};
use kube::core::Status;
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

/// The name under which this program owns fields.
pub const FIELD_MANAGER: &str = "basaltctl";

// Whether anything is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DryRun {
    None,
    Server,
}

/// Creates or changes objects so that they are as files say.
#[derive(Debug, Args)]
#[command(after_help = "All files are read before anything is sent: if one has a fault, nothing is applied.")]
pub struct Apply {
    /// A file, a directory, or - for standard input; may be given several times
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Look into the directories below those given with -f too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Take over fields that others own
    #[arg(long)]
    force_conflicts: bool,
    /// Let the server check everything and store nothing
    #[arg(long, value_name = "WHERE", default_value = "none", num_args = 0..=1, default_missing_value = "server", require_equals = true)]
    dry_run: DryRun,
    /// Wait until each object is as wanted
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = age::parse)]
    timeout: Duration,
    /// Apply always works at the server; accepted for those who are used to write it
    #[arg(long, hide = true)]
    server_side: bool,
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Created,
    Configured,
    Unchanged,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

impl Apply {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let documents = manifest::read(&self.files, self.recursive)?;
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        let placed = placed(documents, &kinds, &server, global)?;
        screen.say(&server.introduce());
        let total = placed.len();
        let (mut done, mut failed) = (Vec::new(), None);
        for (index, (target, document)) in placed.into_iter().enumerate() {
            match self.apply(&server, &target, &document).await {
                Ok(outcome) => {
                    let note = if self.dry_run == DryRun::Server { " (server dry run)" } else { "" };
                    screen.print(&format!("{} {}{note}\n", target.label(), outcome.word()))?;
                    done.push(target);
                }
                Err(error) => {
                    screen.tell(&error);
                    let exit = error.exit();
                    failed = Some(failed.unwrap_or(exit));
                    // The server went away: the rest would fail the same way, each after its timeout.
                    if exit == Exit::Unreachable {
                        screen.say(&format!("not tried: the {} objects after {}", total - index - 1, target.label()));
                        break;
                    }
                }
            }
        }
        if self.wait && self.dry_run == DryRun::None && !done.is_empty() {
            let met = |target: &Target| screen.print(&format!("{} is as wanted\n", target.label()));
            if let Err(error) = until(&server, &kinds, &done, &Goal::AsWanted, self.timeout, screen, met).await {
                let Some(_) = failed else { return Err(error) };
                screen.tell(&error);
            }
        }
        match failed {
            None => Ok(()),
            Some(_) if !done.is_empty() => {
                screen.say(&format!("{} of {total} objects were applied; each failure is told above", done.len()));
                Err(Error::Told(Exit::Partial))
            }
            Some(exit) => Err(Error::Told(exit)),
        }
    }

    async fn apply(&self, server: &Server, target: &Target, document: &Document) -> Result<Outcome, Error> {
        let action = format!("apply {}", target.label());
        let before = match target.look(server).await {
            // A name that the server does not even look for.
            Err(Error::Api { status, at, .. }) => {
                return Err(Error::Api { action, status, places: vec![document.place_of("metadata.name")], at });
            }
            other => other?,
        };
        let path = with_query(
            &target.kind.path(target.namespace.as_deref(), Some(&target.name), None),
            &[
                ("fieldManager", Some(FIELD_MANAGER)),
                ("fieldValidation", Some("Strict")),
                ("force", self.force_conflicts.then_some("true")),
                ("dryRun", (self.dry_run == DryRun::Server).then_some("All")),
            ],
        );
        let mut object = document.value.clone();
        if let (Some(namespace), Some(metadata)) = (&target.namespace, object.get_mut("metadata").and_then(Value::as_object_mut)) {
            metadata.insert("namespace".into(), namespace.clone().into());
        }
        // JSON is YAML, and this media type is what server-side apply is asked for by.
        let builder =
            Request::patch(&path).header(header::CONTENT_TYPE, "application/apply-patch+yaml").header(header::ACCEPT, "application/json");
        let after = match server.call(&action, request(builder, object.to_string().into_bytes())?).await {
            Ok(after) => after,
            Err(Error::Api { status, .. }) if status.code == 404 && target.namespace.is_some() => {
                let name = target.namespace.clone().unwrap_or_default();
                return Err(Error::NoNamespace { name, from: document.place_of("metadata.namespace") });
            }
            Err(Error::Api { action, status, at, .. }) => {
                let places = places(document, &status);
                return Err(Error::Api { action, status, places, at });
            }
            Err(error) => return Err(error),
        };
        Ok(match before {
            None => Outcome::Created,
            Some(before) if same(&before, &after) => Outcome::Unchanged,
            Some(_) => Outcome::Configured,
        })
    }
}

/// The object is what it was, but for the bookkeeping of the server. Resource versions would not do: a dry run changes
/// none, and the first apply of an object may only note who owned its fields before.
fn same(before: &Value, after: &Value) -> bool {
    let contents = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for key in ["managedFields", "resourceVersion", "generation"] {
                metadata.remove(key);
            }
        }
        object
    };
    contents(before) == contents(after)
}

/// Where in the user's file the causes are that the server names: as many places as causes.
fn places(document: &Document, status: &Status) -> Vec<String> {
    if !matches!(exit_of(status), Exit::Invalid | Exit::Conflict) {
        return vec![document.place()];
    }
    let fields: Vec<&str> = status.details.iter().flat_map(|d| &d.causes).map(|c| c.field.as_str()).collect();
    if fields.is_empty() { vec![document.place()] } else { fields.into_iter().map(|field| document.place_of(field)).collect() }
}

/// Each document with the object that it is about, namespaces first; a fault of any is an error of all.
pub fn placed(documents: Vec<Document>, kinds: &Kinds, server: &Server, global: &Global) -> Result<Vec<(Target, Document)>, Error> {
    let (mut placed, mut faults) = (Vec::new(), Vec::new());
    for document in documents {
        let (api_version, kind) = (document.text("/apiVersion"), document.text("/kind"));
        let Some(known) = kinds.of_object(api_version, kind) else {
            let near = kinds.0.iter().filter(|k| k.kind.eq_ignore_ascii_case(kind) || kinds.near(kind).contains(&k.plural));
            faults.push(ManifestError::UnknownKind {
                api_version: api_version.to_owned(),
                kind: kind.to_owned(),
                place: document.place_of("kind"),
                near: near.map(|k| format!("{} in {}", k.kind, k.api_version())).collect(),
            });
            continue;
        };
        let own = Some(document.text("/metadata/namespace")).filter(|n| !n.is_empty());
        if let (Some(own), Some(given), true) = (own, &global.namespace, known.namespaced)
            && own != given
        {
            faults.push(ManifestError::OtherNamespace {
                object: format!("{kind}/{}", document.name()),
                own: own.to_owned(),
                given: given.clone(),
                place: document.place_of("metadata.namespace"),
            });
            continue;
        }
        let namespace = known.namespaced.then(|| own.unwrap_or(&server.namespace).to_owned());
        placed.push((Target { kind: known.clone(), namespace, name: document.name().to_owned() }, document));
    }
    if !faults.is_empty() {
        return Err(Error::Manifest(faults));
    }
    placed.sort_by_key(|(target, _)| !matches!(target.kind.kind.as_str(), "Namespace" | "CustomResourceDefinition"));
    Ok(placed)
}
