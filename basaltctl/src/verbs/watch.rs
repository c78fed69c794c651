//! `get -w`: on a terminal a table that is redrawn in place, says how old it is and whether it is live, and marks what
//! changed; elsewhere a line for each change, with a time and a verb.
//!
//! A broken connection is said and mended. After it the list is read again, and what changed meanwhile is told as well.

use super::{
    get::{Shape, table_of, table_request, typed},
    with_query,
};
use crate::{
    connect::Server,
    discovery::{Kind, get},
    error::Error,
    exit::Exit,
    output::{
        Screen, age, object,
        table::{Column, Row, Style, Table},
        text,
    },
};
use futures::StreamExt;
use jiff::{Timestamp, Zoned};
use kube::core::WatchEvent;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What is watched, and how it is shown.
pub(super) struct Watch<'a> {
    pub server: &'a Server,
    pub kind: &'a Kind,
    pub path: String,
    pub selector: Option<&'a str>,
    pub field_selector: Option<&'a str>,
    pub shape: Shape,
    pub style: Style,
    pub with_namespace: bool,
    pub managed_fields: bool,
}

/// An object as it was last seen.
#[derive(Clone, Debug)]
struct Seen {
    row: Row,
    object: Value,
    changed: Option<Instant>,
}

type Key = (String, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

const MARKED: Duration = Duration::from_secs(3);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Watch<'_> {
    fn tabular(&self) -> bool {
        matches!(self.shape, Shape::Table | Shape::Wide)
    }

    /// Lists, then watches, until the process is ended. Only the first list may fail.
    pub async fn run(&self, screen: &Screen) -> Result<(), Error> {
        let mut view = View::new(self, screen);
        let mut version = self.list(&mut view).await?;
        view.refresh()?;
        let mut pause = Duration::ZERO;
        loop {
            let query = [
                ("watch", Some("true")),
                ("resourceVersion", Some(version.as_str())),
                ("labelSelector", self.selector),
                ("fieldSelector", self.field_selector),
            ];
            let path = with_query(&self.path, &query);
            let request = if self.tabular() { table_request(&path)? } else { get(&path)? };
            let trouble = match self.server.watch(&format!("watch {}", self.kind.plural), request).await {
                Err(error) if error.exit() == Exit::TryAgain => None,
                Err(error @ Error::Api { .. }) if error.exit() != Exit::Bug => return Err(error),
                Err(error) => Some(error.to_string()),
                Ok(events) => {
                    pause = Duration::ZERO;
                    self.follow(Box::pin(events), &mut view, &mut version).await?
                }
            };
            if let Some(trouble) = trouble {
                view.lost(&trouble)?;
                pause = (pause * 2).clamp(Duration::from_secs(1), LONGEST_PAUSE);
                view.sleep(pause).await?;
            } else if pause.is_zero() {
                // A server that ends watches at once must not be asked in a tight loop.
                pause = Duration::from_millis(200);
                view.sleep(pause).await?;
            }
            match self.list(&mut view).await {
                Ok(newest) => version = newest,
                Err(error @ Error::Api { .. }) if error.exit() == Exit::Denied => return Err(error),
                Err(error) => view.lost(&error.to_string())?,
            }
        }
    }

    /// Reads the list, and tells the view what is new, changed and gone since it last looked.
    async fn list(&self, view: &mut View<'_>) -> Result<String, Error> {
        let path = with_query(&self.path, &[("labelSelector", self.selector), ("fieldSelector", self.field_selector)]);
        let request = if self.tabular() { table_request(&path)? } else { get(&path)? };
        let answer = self.server.call(&format!("list {}", self.kind.plural), request).await?;
        let found = self.seen(&answer, view)?;
        view.found()?;
        let gone: Vec<Key> = view.seen.keys().filter(|k| !found.iter().any(|(key, _)| key == *k)).cloned().collect();
        for (key, seen) in found {
            view.take(Some(Change::Added), key, seen)?;
        }
        for key in gone {
            if let Some(seen) = view.seen.get(&key).cloned() {
                view.take(Some(Change::Deleted), key, seen)?;
            }
        }
        Ok(answer.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// The objects in an answer: rows of a table, items of a list, or one object.
    fn seen(&self, answer: &Value, view: &mut View<'_>) -> Result<Vec<(Key, Seen)>, Error> {
        if self.tabular() {
            let table = table_of(self.server, answer)?;
            if !table.columns.is_empty() {
                view.columns = table.columns;
            }
            let seen = table
                .rows
                .into_iter()
                .map(|row| ((row.namespace.clone(), row.name.clone()), Seen { row, object: Value::Null, changed: None }));
            return Ok(seen.collect());
        }
        let items = match answer.get("items").and_then(Value::as_array) {
            Some(items) => items.clone(),
            None => vec![answer.clone()],
        };
        let seen = items.into_iter().map(|item| {
            let text = |pointer: &str| item.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            let row = Row {
                namespace: text("/metadata/namespace"),
                name: text("/metadata/name"),
                version: text("/metadata/resourceVersion"),
                ..Row::default()
            };
            let item = typed(item, self.kind);
            let object = if self.managed_fields { item } else { object::without_managed_fields(item) };
            ((row.namespace.clone(), row.name.clone()), Seen { row, object, changed: None })
        });
        Ok(seen.collect())
    }

    /// Takes events until the stream ends. What ended it is told, unless it is the ordinary end.
    async fn follow(
        &self,
        mut events: impl futures::Stream<Item = Result<WatchEvent<Value>, kube::Error>> + Unpin,
        view: &mut View<'_>,
        version: &mut String,
    ) -> Result<Option<String>, Error> {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = view.tick() => {
                    view.refresh()?;
                    continue;
                }
            };
            let (change, object) = match event {
                None => return Ok(None),
                Some(Err(error)) => return Ok(Some(error.to_string())),
                Some(Ok(WatchEvent::Error(status))) if status.code == 410 => return Ok(None),
                Some(Ok(WatchEvent::Error(status))) => return Ok(Some(status.message.clone())),
                Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                    *version = bookmark.metadata.resource_version;
                    continue;
                }
                Some(Ok(WatchEvent::Added(object))) => (Change::Added, object),
                Some(Ok(WatchEvent::Modified(object))) => (Change::Modified, object),
                Some(Ok(WatchEvent::Deleted(object))) => (Change::Deleted, object),
            };
            for (key, seen) in self.seen(&object, view)? {
                if !seen.row.version.is_empty() {
                    version.clone_from(&seen.row.version);
                }
                view.take(Some(change), key, seen)?;
            }
            view.refresh()?;
        }
    }
}

/// What the user sees.
struct View<'a> {
    watch: &'a Watch<'a>,
    screen: &'a Screen,
    columns: Vec<Column>,
    seen: BTreeMap<Key, Seen>,
    /// Lines of the last frame, to be drawn over.
    drawn: usize,
    /// Widths of the printed columns: they grow and never shrink, so that lines stay aligned.
    widths: Vec<usize>,
    lost_since: Option<Instant>,
    headed: bool,
}

impl<'a> View<'a> {
    fn new(watch: &'a Watch<'a>, screen: &'a Screen) -> Self {
        Self {
            watch,
            screen,
            columns: Vec::new(),
            seen: BTreeMap::new(),
            drawn: 0,
            widths: Vec::new(),
            lost_since: None,
            headed: watch.style.no_headers,
        }
    }

    fn in_place(&self) -> bool {
        self.screen.terminal && self.watch.tabular()
    }

    /// Until the picture is next out of date by itself: ages and marks, on a terminal.
    async fn tick(&self) {
        if self.in_place() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    async fn sleep(&mut self, pause: Duration) -> Result<(), Error> {
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
            tokio::time::sleep(left.min(Duration::from_secs(1))).await;
            if self.lost_since.is_some() {
                self.refresh()?;
            }
        }
        Ok(())
    }

    fn lost(&mut self, why: &str) -> Result<(), Error> {
        if self.lost_since.is_none() {
            self.lost_since = Some(Instant::now());
            if !self.in_place() {
                self.screen.say(&format!("DISCONNECTED, trying again: {why}"));
            }
        }
        self.refresh()
    }

    fn found(&mut self) -> Result<(), Error> {
        if self.lost_since.take().is_some() && !self.in_place() {
            self.screen.say("connected again; what changed meanwhile follows");
        }
        Ok(())
    }

    /// Takes in an object. What is as it was seen before is no change.
    fn take(&mut self, change: Option<Change>, key: Key, mut seen: Seen) -> Result<(), Error> {
        let known = self.seen.get(&key);
        let change = match (change, known) {
            (Some(Change::Deleted), _) => Change::Deleted,
            (_, Some(known)) if known.row.version == seen.row.version => return Ok(()),
            (_, Some(_)) => Change::Modified,
            (_, None) => Change::Added,
        };
        if change == Change::Deleted {
            self.seen.remove(&key);
        } else {
            // The first picture is no change.
            seen.changed = (self.drawn > 0).then(Instant::now);
            self.seen.insert(key, seen.clone());
        }
        if self.in_place() { Ok(()) } else { self.line(change, &seen) }
    }

    fn line(&mut self, change: Change, seen: &Seen) -> Result<(), Error> {
        let line = match self.watch.shape {
            Shape::Json | Shape::Jsonl => format!("{}\n", json!({"type": change.word(), "object": seen.object})),
            Shape::Yaml => format!("---\n# {}\n{}", change.word(), object::yaml(&seen.object)?),
            Shape::Name => format!("{}/{}\n", self.watch.kind.qualified(), seen.row.name),
            Shape::Table | Shape::Wide => {
                let table = self.table([seen]);
                let shown: Vec<usize> = (0..table.columns.len()).filter(|&i| self.watch.style.wide || !table.columns[i].extra).collect();
                let head = ["TIME".to_owned(), "EVENT".to_owned()].into_iter().chain(shown.iter().map(|&i| table.columns[i].name.clone()));
                let time = Zoned::now().strftime("%H:%M:%S").to_string();
                let cells = [time, change.word().to_owned()]
                    .into_iter()
                    .chain(shown.iter().map(|&i| table.rows[0].cells.get(i).cloned().unwrap_or_default()));
                let (head, cells): (Vec<String>, Vec<String>) = (head.collect(), cells.collect());
                if self.widths.is_empty() {
                    self.widths = head.iter().map(|h| text::width(h).max(8)).collect();
                }
                for (width, cell) in self.widths.iter_mut().zip(&cells) {
                    *width = (*width).max(text::width(cell));
                }
                let joined = |cells: &[String]| {
                    let padded =
                        cells.iter().zip(&self.widths).map(|(c, w)| format!("{c}{}", " ".repeat(w.saturating_sub(text::width(c)))));
                    format!("{}\n", padded.collect::<Vec<_>>().join("   ").trim_end())
                };
                let head = if std::mem::replace(&mut self.headed, true) { String::new() } else { joined(&head) };
                head + &joined(&cells)
            }
        };
        self.screen.print(&line)
    }

    fn table<'s>(&self, seen: impl IntoIterator<Item = &'s Seen>) -> Table {
        let mut table = Table { columns: self.columns.clone(), rows: seen.into_iter().map(|s| s.row.clone()).collect() };
        if self.watch.with_namespace {
            table.prepend("NAMESPACE", |row| row.namespace.clone());
        }
        table
    }

    /// Draws the picture over the last one.
    fn refresh(&mut self) -> Result<(), Error> {
        if !self.in_place() {
            return Ok(());
        }
        let frame = self.frame();
        let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
        self.drawn = frame.matches('\n').count();
        self.screen.print(&format!("{up}\r\x1b[J{frame}"))
    }

    fn frame(&mut self) -> String {
        let (now, instant) = (Timestamp::now(), Instant::now());
        let room = self.screen.rows.unwrap_or(24).saturating_sub(3).max(1);
        let mut table = self.table(self.seen.values().take(room));
        let ages: Vec<usize> = (0..table.columns.len()).filter(|&i| table.columns[i].name == "AGE").collect();
        for row in &mut table.rows {
            for &i in &ages {
                if let (Some(age), Some(cell)) = (age::since(&row.created, now), row.cells.get_mut(i)) {
                    *cell = age;
                }
            }
        }
        let fresh: Vec<bool> = self.seen.values().map(|s| s.changed.is_some_and(|c| instant.duration_since(c) < MARKED)).collect();
        // Two columns at the left are for the marks; nothing may wrap, or drawing over it would go wrong.
        let columns = self.screen.columns.unwrap_or(80);
        let style = Style { room: Some(columns.saturating_sub(2)), ..self.watch.style };
        let headers = usize::from(!style.no_headers);
        let mut frame = String::new();
        for (index, line) in table.redrawn(style, &mut self.widths).lines().enumerate() {
            let marked = index >= headers && fresh.get(index - headers).copied().unwrap_or(false);
            frame.push_str(&format!("{}{line}\n", if marked { "* " } else { "  " }));
        }
        if self.seen.len() > room {
            frame.push_str(&format!("  .. and {} more\n", self.seen.len() - room));
        }
        let state = match self.lost_since {
            Some(since) => format!("DISCONNECTED {} s, trying again", instant.duration_since(since).as_secs()),
            None => "live".to_owned(),
        };
        let none = if self.seen.is_empty() { "nothing there yet; " } else { "" };
        let footer = format!("  {none}as of {}, {state}; Ctrl-C ends it", Zoned::now().strftime("%H:%M:%S"));
        frame.push_str(&text::cut(&footer, columns));
        frame.push('\n');
        frame
    }
}
