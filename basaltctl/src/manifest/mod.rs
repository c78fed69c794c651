//! Files with objects in them: read whole, parsed whole, and judged whole before anything is sent.
//!
//! A file holds YAML documents, JSON values one after another, or `List`s of objects. Every fault is told with the file,
//! the document, the line and the column, and all faults at once.

pub mod node;
mod snippet;

use crate::error::Error;
use node::{Node, Place};
use serde_json::Value;
use std::{
    io::Read,
    path::{Path, PathBuf},
};

/// An object from a file.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file, or `standard input`.
    pub file: String,
    /// Number of the document in the file, from 1.
    pub number: usize,
    /// The object.
    pub value: Value,
    tree: Node,
    /// Lines before the text that `tree` was read from.
    offset: u64,
}

impl Document {
    /// A text of the object, empty if it is not there.
    pub fn text(&self, pointer: &str) -> &str {
        self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// The name of the object.
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// `file:line:column` of the field that the server's path names.
    pub fn place_of(&self, path: &str) -> String {
        let place = self.tree.find(path);
        format!("{}:{}:{}", self.file, place.line + self.offset, place.column)
    }

    /// `file:line` where the object begins.
    pub fn place(&self) -> String {
        format!("{}:{}", self.file, self.tree.place.line + self.offset)
    }
}

/// A fault of the input.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file or directory cannot be read.
    #[error("{path} cannot be read: {reason}")]
    Read {
        /// The file or directory.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// A directory holds no manifests.
    #[error("the directory {path} holds no .yaml, .yml or .json file")]
    NoFiles {
        /// The directory.
        path: String,
    },
    /// `-f` names a web address.
    #[error("{url} is a web address, and -f takes files")]
    Url {
        /// The address.
        url: String,
    },
    /// A file is too large.
    #[error("{file} is larger than {limit} MiB")]
    TooLarge {
        /// The file.
        file: String,
        /// The limit.
        limit: u64,
    },
    /// A file is not UTF-8.
    #[error("{file} is not UTF-8 text: the byte {byte:#04x} cannot stand there")]
    NotUtf8 {
        /// The file.
        file: String,
        /// Where.
        place: Place,
        /// The offending byte.
        byte: u8,
    },
    /// A document does not parse.
    #[error("{file} does not parse: {reason}")]
    Parse {
        /// The file.
        file: String,
        /// Where.
        place: Option<Place>,
        /// Why.
        reason: String,
        /// The lines around it, secrets hidden.
        snippet: Vec<String>,
    },
    /// A file holds no object.
    #[error("{file} holds no object")]
    Empty {
        /// The file.
        file: String,
    },
    /// A document is not an object.
    #[error("document {number} of {file} is {found}, and an object was expected")]
    NotAnObject {
        /// The file.
        file: String,
        /// Number of the document.
        number: usize,
        /// Where it begins.
        place: Place,
        /// What it is.
        found: &'static str,
    },
    /// A required field is missing or not a text.
    #[error("document {number} of {file} has no {field}")]
    Missing {
        /// The file.
        file: String,
        /// Number of the document.
        number: usize,
        /// Where it should be.
        place: Place,
        /// Which one.
        field: &'static str,
    },
    /// The same object is given twice.
    #[error("{object} is given twice")]
    Twice {
        /// The object.
        object: String,
        /// The first place.
        first: String,
        /// The second place.
        second: String,
    },
    /// The server serves no such kind.
    #[error("the server has no kind {kind} in {api_version}")]
    UnknownKind {
        /// `apiVersion` of the object.
        api_version: String,
        /// `kind` of the object.
        kind: String,
        /// Where.
        place: String,
        /// The nearest names.
        near: Vec<String>,
    },
    /// The object says another namespace than the command line.
    #[error("{object} is in namespace {own}, but --namespace says {given}")]
    OtherNamespace {
        /// The object.
        object: String,
        /// Its namespace.
        own: String,
        /// The one that was given.
        given: String,
        /// Where.
        place: String,
    },
}

fn at(file: &str, place: Place) -> String {
    format!("{file}:{}:{}", place.line, place.column)
}

impl ManifestError {
    /// `file:line:column`, as far as it is known.
    pub fn place(&self) -> Option<String> {
        match self {
            Self::NotUtf8 { file, place, .. } | Self::NotAnObject { file, place, .. } | Self::Missing { file, place, .. } => {
                Some(at(file, *place))
            }
            Self::Parse { file, place, .. } => place.map(|p| at(file, p)),
            Self::UnknownKind { place, .. } | Self::OtherNamespace { place, .. } => Some(place.clone()),
            Self::Twice { first, second, .. } => Some(format!("{first} and {second}")),
            _ => None,
        }
    }

    /// The lines around it.
    pub fn snippet(&self) -> &[String] {
        match self {
            Self::Parse { snippet, .. } => snippet,
            _ => &[],
        }
    }

    /// What to do.
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Url { url } => format!("fetch it first: curl -fsSL {url} | basaltctl apply -f -"),
            Self::NoFiles { .. } => "give -R to look into the directories below it too".into(),
            Self::Missing { field: "metadata.name", .. } => "give the object a name; generateName does not work with apply".into(),
            Self::Missing { field, .. } => format!("add {field}"),
            Self::UnknownKind { near, .. } if !near.is_empty() => {
                format!("did you mean {}? basaltctl api-resources lists all kinds", near.join(", "))
            }
            Self::UnknownKind { .. } => "basaltctl api-resources lists all kinds, with their apiVersion".into(),
            Self::OtherNamespace { .. } => "leave --namespace out, or take the namespace out of the file".into(),
            Self::Twice { .. } => "keep one of the two".into(),
            _ => return None,
        })
    }
}

/// More than any manifest needs, and less than a wrong file takes down.
const LIMIT_MIB: u64 = 64;

/// Reads everything that `-f` names: files, directories, and `-` for standard input.
pub fn read(sources: &[PathBuf], recursive: bool) -> Result<Vec<Document>, Error> {
    let mut faults = Vec::new();
    let mut documents: Vec<Document> = Vec::new();
    for source in sources {
        for (name, bytes) in contents(source, recursive, &mut faults) {
            match parse(&name, &bytes) {
                Ok(found) => documents.extend(found),
                Err(found) => faults.extend(found),
            }
        }
    }
    for (index, second) in documents.iter().enumerate() {
        let key = |d: &Document| ["/apiVersion", "/kind", "/metadata/namespace", "/metadata/name"].map(|p| d.text(p).to_owned());
        if let Some(first) = documents[..index].iter().find(|d| key(d) == key(second)) {
            let object = format!("{}/{}", second.text("/kind"), second.name());
            faults.push(ManifestError::Twice { object, first: first.place(), second: second.place() });
        }
    }
    if faults.is_empty() { Ok(documents) } else { Err(Error::Manifest(faults)) }
}

fn contents(source: &Path, recursive: bool, faults: &mut Vec<ManifestError>) -> Vec<(String, Vec<u8>)> {
    let text = source.display().to_string();
    if text == "-" {
        return taken("standard input".into(), std::io::stdin().lock(), faults);
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        faults.push(ManifestError::Url { url: text });
        return Vec::new();
    }
    if !source.is_dir() {
        return file_contents(source, faults);
    }
    let mut files = Vec::new();
    collect(source, recursive, &mut files, faults);
    if files.is_empty() && faults.is_empty() {
        faults.push(ManifestError::NoFiles { path: text });
    }
    files.iter().flat_map(|f| file_contents(f, faults)).collect()
}

fn file_contents(path: &Path, faults: &mut Vec<ManifestError>) -> Vec<(String, Vec<u8>)> {
    let name = path.display().to_string();
    match std::fs::File::open(path) {
        Ok(file) => taken(name, file, faults),
        Err(error) => {
            faults.push(ManifestError::Read { path: name, reason: error.to_string() });
            Vec::new()
        }
    }
}

fn taken(name: String, reader: impl Read, faults: &mut Vec<ManifestError>) -> Vec<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    match reader.take((LIMIT_MIB << 20) + 1).read_to_end(&mut bytes) {
        Err(error) => faults.push(ManifestError::Read { path: name, reason: error.to_string() }),
        Ok(_) if bytes.len() as u64 > LIMIT_MIB << 20 => faults.push(ManifestError::TooLarge { file: name, limit: LIMIT_MIB }),
        Ok(_) => return vec![(name, bytes)],
    }
    Vec::new()
}

/// The manifests of a directory, in the order of their names.
fn collect(directory: &Path, recursive: bool, files: &mut Vec<PathBuf>, faults: &mut Vec<ManifestError>) {
    let mut fault =
        |error: std::io::Error| faults.push(ManifestError::Read { path: directory.display().to_string(), reason: error.to_string() });
    let entries = match std::fs::read_dir(directory).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) => return fault(error),
    };
    let mut paths: Vec<(PathBuf, bool)> = entries.iter().map(|e| (e.path(), e.file_type().is_ok_and(|t| t.is_dir()))).collect();
    paths.sort();
    for (path, directory) in paths {
        let known = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if directory && recursive {
            collect(&path, recursive, files, faults);
        } else if !directory && known {
            files.push(path);
        }
    }
}

/// The objects of one file.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Vec<Document>, Vec<ManifestError>> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = error.valid_up_to();
        let before = String::from_utf8_lossy(&bytes[..good]).into_owned();
        let place = Place {
            line: 1 + before.matches('\n').count() as u64,
            column: 1 + before.chars().rev().take_while(|c| *c != '\n').count() as u64,
        };
        vec![ManifestError::NotUtf8 { file: file.to_owned(), place, byte: bytes.get(good).copied().unwrap_or_default() }]
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut roots: Vec<(Node, u64)> = Vec::new();
    for (part, offset) in parts(text) {
        match nodes(part) {
            Ok(found) => roots.extend(found.into_iter().map(|n| (n, offset))),
            Err(error) => return Err(vec![fault(file, text, offset, &error)]),
        }
    }
    let (mut documents, mut faults) = (Vec::new(), Vec::new());
    for (index, (root, offset)) in roots.into_iter().enumerate() {
        expand(file, index + 1, root, offset, &mut documents, &mut faults);
    }
    if documents.is_empty() && faults.is_empty() {
        faults.push(ManifestError::Empty { file: file.to_owned() });
    }
    if faults.is_empty() { Ok(documents) } else { Err(faults) }
}

/// JSON values that follow each other without `---` are documents too: each with the number of lines before it.
fn parts(text: &str) -> Vec<(&str, u64)> {
    let json = text.trim_start().starts_with('{');
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let mut ends = vec![0];
    while json && let Some(next) = values.next() {
        match next {
            Ok(_) => ends.push(values.byte_offset()),
            Err(_) => return vec![(text, 0)],
        }
    }
    if ends.len() < 3 {
        return vec![(text, 0)];
    }
    let lines = |end: usize| text[..end].matches('\n').count() as u64;
    ends.windows(2).map(|pair| (&text[pair[0]..pair[1]], lines(pair[0]))).collect()
}

/// The documents of a text, read on a thread of its own: an unoptimised build takes much stack for each level of nesting.
fn nodes(text: &str) -> Result<Vec<Node>, Unparsed> {
    // Deep nesting is refused long before it could hurt: no schema of ours nests as deep as this.
    let options = || serde_saphyr::options! { with_snippet: false, budget: serde_saphyr::budget! { max_depth: 64, max_documents: 10_000 } };
    let read = || serde_saphyr::from_multiple_with_options(text, options()).map_err(Unparsed::from);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(PARSER_STACK).spawn_scoped(scope, read);
        let ended = thread.map_err(|e| Unparsed { place: None, said: format!("no thread to read it: {e}") })?.join();
        ended.unwrap_or_else(|_| Err(Unparsed { place: None, said: "the parser failed on it".into() }))
    })
}

const PARSER_STACK: usize = 32 << 20;

/// What the parser has against a text, and where.
struct Unparsed {
    place: Option<Place>,
    said: String,
}

impl From<serde_saphyr::Error> for Unparsed {
    fn from(error: serde_saphyr::Error) -> Self {
        let place = error.location().map(Place::from).filter(|p| p.line > 0);
        Self { place, said: error.without_snippet().render_with_formatter(&serde_saphyr::UserMessageFormatter) }
    }
}

fn fault(file: &str, text: &str, offset: u64, error: &Unparsed) -> ManifestError {
    let place = error.place.map(|p| Place { line: p.line + offset, ..p });
    // The place is told apart from the reason.
    let reason = error.said.split(" at line ").next().unwrap_or_default().trim_end_matches([':', ',', ' ']).to_owned();
    let snippet = place.map(|p| snippet::around(text, p)).unwrap_or_default();
    ManifestError::Parse { file: file.to_owned(), place, reason: snippet::hidden(&reason, text), snippet }
}

fn expand(file: &str, number: usize, tree: Node, offset: u64, documents: &mut Vec<Document>, faults: &mut Vec<ManifestError>) {
    let value = tree.value();
    let moved = |place: Place| Place { line: place.line + offset, ..place };
    if !value.is_object() {
        faults.push(ManifestError::NotAnObject { file: file.to_owned(), number, place: moved(tree.place), found: tree.describe() });
        return;
    }
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty());
    let list = text("/kind").is_some_and(|k| k.ends_with("List")) && value.pointer("/metadata/name").is_none();
    if let Some(items) = tree.items("items").filter(|_| list) {
        for item in items {
            expand(file, number, item.clone(), offset, documents, faults);
        }
        return;
    }
    let before = faults.len();
    for (pointer, field) in [("/apiVersion", "apiVersion"), ("/kind", "kind"), ("/metadata/name", "metadata.name")] {
        if text(pointer).is_none() {
            faults.push(ManifestError::Missing { file: file.to_owned(), number, place: moved(tree.find(field)), field });
        }
    }
    if faults.len() == before {
        documents.push(Document { file: file.to_owned(), number, value, tree, offset });
    }
}

#[cfg(test)]
mod tests;
