//! What can go wrong, told in one shape: what, where it came from, why, and what to do about it.
//!
//! The order of blame is that of the connection: name, connection, TLS, clock, authentication, and only then what was
//! asked for. A failure is never told as something that comes later in that order.

use crate::{blame::Unreachable, exit::Exit, manifest::ManifestError, output::text};
use kube::core::{Status, response::StatusCause};
use std::path::PathBuf;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line asks for something that cannot be.
    #[error("{what}")]
    Usage {
        /// What cannot be.
        what: String,
        /// What to write instead.
        hint: String,
    },
    /// There is no kubeconfig where one was looked for.
    #[error("no kubeconfig was found")]
    NoKubeconfig {
        /// Where it was looked for.
        looked: Vec<PathBuf>,
    },
    /// The kubeconfig cannot be used.
    #[error("the kubeconfig cannot be used: {reason}")]
    Kubeconfig {
        /// The files.
        files: String,
        /// What is wrong with it, without any of its secrets.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// The server cannot be reached.
    #[error(transparent)]
    Unreachable(Box<Unreachable>),
    /// The server refused a request.
    #[error("cannot {action}: {}", .status.message)]
    Api {
        /// What was asked, as a verb and an object.
        action: String,
        /// What the server said.
        status: Box<Status>,
        /// Places in the user's file that the server's causes are about.
        places: Vec<String>,
        /// The context and the server.
        at: String,
    },
    /// The server answered something that is not the Kubernetes protocol.
    #[error("cannot {action}: the server's answer is not understood")]
    Answer {
        /// What was asked.
        action: String,
        /// What is wrong with the answer.
        reason: String,
        /// The context and the server.
        at: String,
    },
    /// The server serves no such kind.
    #[error("the server has no kind {given:?}")]
    UnknownKind {
        /// What was asked for.
        given: String,
        /// The nearest names.
        near: Vec<String>,
        /// The context and the server.
        at: String,
    },
    /// The namespace does not exist.
    #[error("the namespace {name:?} does not exist")]
    NoNamespace {
        /// Its name.
        name: String,
        /// Where the name comes from.
        from: String,
    },
    /// An object does not exist.
    #[error("{object} does not exist{}", .namespace.as_ref().map(|n| format!(" in namespace {n}")).unwrap_or_default())]
    NotFound {
        /// Kind and name.
        object: String,
        /// The namespace that was looked in.
        namespace: Option<String>,
        /// What a person calls the kind.
        kind: String,
    },
    /// The input has faults; nothing was applied or deleted.
    #[error("{}", manifest_headline(.0))]
    Manifest(Vec<ManifestError>),
    /// A wait ran out of time.
    #[error("time is up after {waited}: {object} is not {goal}")]
    TimeUp {
        /// Kind and name.
        object: String,
        /// What was waited for.
        goal: String,
        /// How long.
        waited: String,
        /// What it waits for.
        reasons: Vec<String>,
        /// The command that says more.
        next: String,
    },
    /// The object has failed for good, so that waiting is of no use.
    #[error("{object} failed: it will not become {goal}")]
    Failed {
        /// Kind and name.
        object: String,
        /// What was waited for.
        goal: String,
        /// Why it failed.
        reasons: Vec<String>,
        /// The command that says more.
        next: String,
        /// What the process exits with.
        exit: Exit,
    },
    /// A confirmation is missing.
    #[error("{what}")]
    Refused {
        /// What was not done.
        what: String,
        /// What would be affected.
        affected: Vec<String>,
        /// How to go on.
        hint: String,
    },
    /// Nothing matched, and the user asked to be told by the exit code.
    #[error("nothing matched")]
    NothingMatched,
    /// Each failure was told when it happened.
    #[error("some of it failed")]
    Told(Exit),
    /// A file or standard input cannot be read.
    #[error("cannot read {what}: {source}")]
    Read {
        /// What was read.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {what}: {source}")]
    Write {
        /// The file.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The server ended what it was sending before it was whole.
    #[error("the server's answer was cut off after {bytes} bytes; nothing was kept of it: {reason}")]
    CutOff {
        /// How much there was.
        bytes: usize,
        /// Why.
        reason: String,
    },
    /// Standard output is closed or full.
    #[error("cannot write to standard output: {0}")]
    Output(std::io::Error),
    /// A fleet on this machine.
    #[error(transparent)]
    Dev(#[from] crate::dev::Error),
    /// A fault of this program.
    #[error("a bug in basaltctl: {0}")]
    Bug(String),
}

fn manifest_headline(errors: &[ManifestError]) -> String {
    match errors {
        [one] => format!("nothing was changed: {one}"),
        many => format!("nothing was changed: the input has {} faults", many.len()),
    }
}

/// An error as an operator reads it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What went wrong.
    pub what: String,
    /// Where: the server and the context, or the file.
    pub at: Vec<String>,
    /// Why, as far as it is known.
    pub why: Vec<String>,
    /// What to do.
    pub remedy: Vec<String>,
    /// Lines of the user's file, printed as they are.
    pub snippet: Vec<String>,
}

impl Error {
    /// What the process exits with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage { .. } | Self::NoKubeconfig { .. } | Self::Kubeconfig { .. } | Self::UnknownKind { .. } => Exit::Usage,
            Self::Unreachable(_) | Self::Answer { .. } | Self::CutOff { .. } => Exit::Unreachable,
            Self::Api { status, .. } => exit_of(status),
            Self::Bug(_) => Exit::Bug,
            Self::Dev(error) => error.exit(),
            Self::NoNamespace { .. } | Self::NotFound { .. } => Exit::NotFound,
            Self::Manifest(_) | Self::Read { .. } | Self::Write { .. } => Exit::Invalid,
            Self::TimeUp { .. } => Exit::TimeUp,
            Self::Failed { exit, .. } => *exit,
            Self::Refused { .. } => Exit::Refused,
            Self::NothingMatched => Exit::NothingMatched,
            Self::Told(exit) => *exit,
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Ok,
            Self::Output(_) => Exit::Bug,
        }
    }

    /// The error as an operator reads it; `None` if there is nothing left to tell.
    pub fn report(&self) -> Option<Report> {
        let mut report = Report { what: self.to_string(), ..Report::default() };
        match self {
            Self::Told(_) => return None,
            Self::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return None,
            Self::Usage { hint, .. } => report.remedy.push(hint.clone()),
            Self::NoKubeconfig { looked } => {
                report.at = looked.iter().map(|p| p.display().to_string()).collect();
                report.why.push(if looked.len() == 1 { "this file does not exist" } else { "none of these files exists" }.into());
                report.remedy.push(
                    "export KUBECONFIG=/path/to/admin.kubeconfig, or give --kubeconfig; the gateway writes one at its first start".into(),
                );
            }
            Self::Kubeconfig { files, hint, .. } => {
                report.at.push(files.clone());
                report.remedy.push(hint.clone());
            }
            Self::Unreachable(unreachable) => {
                report.at.push(unreachable.at.clone());
                report.why.push(unreachable.why.clone());
                report.remedy.push(unreachable.remedy.clone());
            }
            Self::Api { action, status, places, at } => {
                let causes = status.details.as_ref().map(|d| d.causes.as_slice()).unwrap_or_default();
                let told = |c: &StatusCause| if c.field.is_empty() { c.message.clone() } else { format!("{}: {}", c.field, c.message) };
                report.at = if places.len() == 1 { places.clone() } else { vec![at.clone()] };
                if causes.len() > 1 || (causes.len() == 1 && !places.is_empty()) {
                    report.what = format!("cannot {action}: the server refuses it");
                    report.why = causes.iter().map(told).collect();
                }
                if places.len() > 1 {
                    report.why = places.iter().zip(&report.why).map(|(place, why)| format!("{place}: {why}")).collect();
                }
                report.remedy.extend(remedy_of(status));
            }
            Self::Answer { reason, at, .. } => {
                report.at.push(at.clone());
                report.why.push(reason.clone());
                report.remedy.push("see that the server URL of the context is that of a gateway's API (port 9443)".into());
            }
            Self::UnknownKind { near, at, .. } => {
                report.at.push(at.clone());
                let near = if near.is_empty() { String::new() } else { format!("did you mean {}? ", near.join(", ")) };
                report.remedy.push(format!("{near}basaltctl api-resources lists all kinds"));
            }
            Self::NoNamespace { from, .. } => {
                report.at.push(from.clone());
                report.remedy.push("basaltctl get namespaces lists those that exist; -n chooses one".into());
            }
            Self::NotFound { namespace, kind, .. } => {
                let all = if namespace.is_some() { " -A" } else { "" };
                report.remedy.push(format!("basaltctl get {kind}{all} lists those that exist"));
            }
            Self::Manifest(errors) => {
                if let [one] = errors.as_slice() {
                    report.at.extend(one.place());
                    report.snippet = one.snippet().to_vec();
                    report.remedy.extend(one.remedy());
                } else {
                    for error in errors {
                        let place = error.place().map(|p| format!("{p}: ")).unwrap_or_default();
                        report.why.push(format!("{place}{error}"));
                    }
                }
            }
            Self::TimeUp { reasons, next, .. } | Self::Failed { reasons, next, .. } => {
                report.why.clone_from(reasons);
                report.remedy.push(next.clone());
            }
            Self::Refused { affected, hint, .. } => {
                report.why.clone_from(affected);
                report.remedy.push(hint.clone());
            }
            Self::NothingMatched | Self::Read { .. } | Self::Write { .. } | Self::Output(_) => {}
            Self::CutOff { .. } => report.remedy.push("run it again; the gateway's log may say why".into()),
            Self::Dev(error) => error.explain(&mut report),
            Self::Bug(_) => report.remedy.push("run it again with --log-level debug and report what it says".into()),
        }
        Some(report)
    }
}

/// The exit code for what the server said.
pub fn exit_of(status: &Status) -> Exit {
    match status.code {
        400 | 405 | 406 | 413 | 415 | 422 => Exit::Invalid,
        401 | 403 => Exit::Denied,
        404 => Exit::NotFound,
        409 => Exit::Conflict,
        410 | 429 | 503 | 504 => Exit::TryAgain,
        _ => Exit::Bug,
    }
}

fn remedy_of(status: &Status) -> Option<String> {
    let managers = status.details.iter().flat_map(|d| &d.causes).any(|c| c.reason == "FieldManagerConflict");
    let text = match status.code {
        401 => "the server does not know you: see that the kubeconfig's certificate or token is of this cluster and has not expired",
        403 => "ask whoever runs the cluster for the permission, or use another context (--context)",
        409 if managers => "leave the field out of your file, so that the other manager keeps it; or take it over with --force-conflicts",
        409 => "look at the object as it is now (basaltctl get .. -o yaml), then run the command again",
        413 => "make the object smaller",
        410 | 429 | 503 | 504 => "run the command again in a moment",
        500.. => "look at the gateway's log",
        _ => return None,
    };
    Some(text.to_owned())
}

impl Report {
    /// The report as text, wrapped to `width` columns if there is a width.
    pub fn render(&self, width: Option<usize>, colour: bool) -> String {
        let (red, plain) = if colour { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
        let mut out = text::wrapped(&format!("{red}error:{plain} "), "  ", &text::clean(&self.what), width);
        for (label, lines) in [("at  ", &self.at), ("why ", &self.why), ("do  ", &self.remedy)] {
            for (index, line) in lines.iter().enumerate() {
                let label = if index == 0 { label } else { "    " };
                out.push_str(&text::wrapped(&format!("  {label}  "), "        ", &text::clean(line), width));
            }
            if label == "at  " {
                for line in &self.snippet {
                    out.push_str("        ");
                    out.push_str(&text::clean(line));
                    out.push('\n');
                }
            }
        }
        out
    }
}
