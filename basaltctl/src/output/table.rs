//! Tables as the server sends them, printed so that they fit: columns of low priority go first, then long cells lose
//! their middle; nothing ever wraps. How far something is is a bar where a terminal has room for it. Only abnormal cells are coloured, and the word is always there too.

use super::{age, text};
use jiff::SignedDuration;
use serde_json::Value;

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Header, in capitals.
    pub name: String,
    /// Numbers stand at the right.
    pub number: bool,
    /// Shown only when everything is asked for.
    pub extra: bool,
}

impl Column {
    /// A column of text that is always shown.
    pub fn text(name: &str) -> Self {
        Self { name: name.to_owned(), number: false, extra: false }
    }
}

/// A row: the cells, and the object they are about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// One text a column.
    pub cells: Vec<String>,
    /// Namespace of the object; empty for none.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// When the object was made, as the server wrote it.
    pub created: String,
    /// Resource version of the object.
    pub version: String,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Columns of the terminal; none if it is not one.
    pub room: Option<usize>,
    /// Show the columns of low priority too.
    pub wide: bool,
    /// Leave the header out.
    pub no_headers: bool,
    /// Colour abnormal cells.
    pub colour: bool,
}

const GAP: usize = 3;
const NARROWEST: usize = 6;
/// How many signs a bar has, where there is room, and what it begins with.
const BARS: [usize; 2] = [10, 5];
const BAR: char = '[';
/// How much of a name is left at the least for a bar.
const NAME: usize = 12;

impl Table {
    /// Reads a `meta.k8s.io/v1` Table; `None` if `value` is something else.
    pub fn from_server(value: &Value) -> Option<Self> {
        if value.get("kind")?.as_str()? != "Table" {
            return None;
        }
        let str_at = |v: &Value, key: &str| v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let columns = value.get("columnDefinitions").and_then(Value::as_array).into_iter().flatten().map(|c| Column {
            name: str_at(c, "name").to_uppercase(),
            number: matches!(c.get("type").and_then(Value::as_str), Some("integer" | "number")),
            extra: c.get("priority").and_then(Value::as_i64).unwrap_or(0) > 0,
        });
        let columns: Vec<Column> = columns.collect();
        let rows = value.get("rows").and_then(Value::as_array).into_iter().flatten().map(|r| {
            let metadata = r.pointer("/object/metadata").unwrap_or(&Value::Null);
            let mut cells: Vec<String> = r.get("cells").and_then(Value::as_array).into_iter().flatten().map(cell).collect();
            let name = Some(str_at(metadata, "name")).filter(|n| !n.is_empty()).or_else(|| cells.first().cloned());
            cells.iter_mut().for_each(|c| *c = if c.is_empty() { "-".into() } else { text::clean(c) });
            Row {
                cells,
                namespace: str_at(metadata, "namespace"),
                name: name.unwrap_or_default(),
                created: str_at(metadata, "creationTimestamp"),
                version: str_at(metadata, "resourceVersion"),
            }
        });
        let rows = rows.collect();
        Some(Self { columns, rows })
    }

    /// Puts a column of texts in front.
    pub fn prepend(&mut self, name: &str, mut text: impl FnMut(&Row) -> String) {
        self.columns.insert(0, Column::text(name));
        for row in &mut self.rows {
            let cell = text(row);
            row.cells.insert(0, cell);
        }
    }

    /// The table as text.
    pub fn render(&self, style: Style) -> String {
        self.redrawn(style, &mut Vec::new())
    }

    /// The table as text, its columns at least as wide as in `kept`, which grows with them: a table that is drawn again and
    /// again keeps its shape.
    pub fn redrawn(&self, style: Style, kept: &mut Vec<usize>) -> String {
        let shown: Vec<usize> = (0..self.columns.len()).filter(|&i| style.wide || !self.columns[i].extra).collect();
        let header = |i: usize| if style.no_headers { "" } else { self.columns[i].name.as_str() };
        let cell_of = |row: &'_ Row, i: usize, bar: usize| match row.cells.get(i) {
            Some(cell) => told(&self.columns[i], cell, bar),
            None => "-".into(),
        };
        let widest = |i: usize, bar: usize| {
            let cells = self.rows.iter().map(|row| text::width(&cell_of(row, i, bar)));
            cells.max().unwrap_or(0).max(text::width(header(i)))
        };
        // A name may lose its middle for a bar, nothing else may.
        let fits = |bar: usize, room: usize| {
            let widths = shown.iter().map(|&i| if i == 0 { widest(i, bar).min(NAME) } else { widest(i, bar) });
            widths.sum::<usize>() + 2 * shown.len().saturating_sub(1) <= room
        };
        let bar = style.room.and_then(|room| BARS.into_iter().find(|&bar| fits(bar, room))).unwrap_or(0);
        let cell = |row: &'_ Row, i: usize| cell_of(row, i, bar);
        kept.resize(shown.len(), 0);
        kept.iter_mut().zip(&shown).for_each(|(kept, &i)| *kept = widest(i, bar).max(*kept));
        let natural: &[usize] = kept;
        let narrowest = |i: usize| if bar > 0 && self.columns[i].name == "PROGRESS" { widest(i, bar) } else { NARROWEST };
        let floors: Vec<usize> = shown.iter().map(|&i| text::width(header(i)).max(narrowest(i))).collect();
        let (gap, widths) = fitted(natural, &floors, style.room);

        let mut out = String::new();
        let mut line = |texts: Vec<(String, bool)>| {
            let mut text = String::new();
            let last = texts.len().saturating_sub(1);
            let mut used = 0;
            for (n, (cell_text, coloured)) in texts.into_iter().enumerate() {
                // What does not fit even so is cut off at the edge.
                let column = style.room.map_or(widths[n], |room| widths[n].min(room.saturating_sub(used)));
                let shown_text = text::cut(&text::shortened(&cell_text, widths[n]), column);
                let pad = " ".repeat(column.saturating_sub(text::width(&shown_text)));
                let painted = match severity(&self.columns[shown[n]].name, &cell_text) {
                    Some(sgr) if coloured && style.colour => format!("\x1b[{sgr}m{shown_text}\x1b[0m"),
                    _ => shown_text,
                };
                if self.columns[shown[n]].number && !cell_text.starts_with(BAR) {
                    text.push_str(&pad);
                    text.push_str(&painted);
                } else {
                    text.push_str(&painted);
                    if n != last {
                        text.push_str(&pad);
                    }
                }
                used += widths[n] + gap;
                if n != last && style.room.is_none_or(|room| used < room) {
                    text.push_str(&" ".repeat(gap));
                }
            }
            out.push_str(text.trim_end());
            out.push('\n');
        };
        if !style.no_headers {
            line(shown.iter().map(|&i| (self.columns[i].name.clone(), false)).collect());
        }
        for row in &self.rows {
            line(shown.iter().map(|&i| (cell(row, i), true)).collect());
        }
        out
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A cell as a person reads it: how far something is in percent, with a bar if there is room, and how long it takes yet.
fn told(column: &Column, cell: &str, bar: usize) -> String {
    let number = cell.parse::<u64>().ok().filter(|_| column.number);
    match (column.name.as_str(), number) {
        ("PROGRESS", Some(percent)) => drawn(percent, bar),
        ("ETA", Some(seconds)) => age::short(SignedDuration::from_secs(seconds.try_into().unwrap_or(i64::MAX))),
        _ => cell.to_owned(),
    }
}

/// How far something is: a bar of so many signs, if any, and the percent.
pub fn drawn(percent: u64, signs: usize) -> String {
    let percent = percent.min(100);
    if signs == 0 {
        return format!("{percent}%");
    }
    let full = usize::try_from(percent).unwrap_or(0) * signs / 100;
    format!("{BAR}{}{}] {percent:>3}%", "#".repeat(full), ".".repeat(signs - full))
}

/// The gap between columns and the width of each, so that a row takes no more than `room`: first the gap shrinks, then
/// the widest column gives way, one column at a time, never below its floor.
fn fitted(natural: &[usize], floors: &[usize], room: Option<usize>) -> (usize, Vec<usize>) {
    let mut widths = natural.to_vec();
    let Some(room) = room else { return (GAP, widths) };
    let total = |widths: &[usize], gap: usize| widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1);
    let gap = (1..=GAP).rev().find(|&gap| total(&widths, gap) <= room || gap == 1).unwrap_or(1);
    let gap = if total(&widths, gap) > room { 2 } else { gap };
    while total(&widths, gap) > room {
        let widest = (0..widths.len()).filter(|&i| widths[i] > floors[i]).max_by_key(|&i| widths[i]);
        match widest {
            Some(i) => widths[i] -= 1,
            None => break,
        }
    }
    (gap, widths)
}

/// The colour of a cell that an operator should look at.
fn severity(column: &str, cell: &str) -> Option<&'static str> {
    let bad = ["Failed", "NotReady", "Error", "TimedOut", "Unusable", "Missing"];
    let odd = ["Pending", "Unknown", "Terminating", "Stopping", "Paused"];
    match column {
        "STATUS" | "PHASE" | "STATE" if bad.contains(&cell) => Some("31"),
        "STATUS" | "PHASE" | "STATE" if odd.contains(&cell) => Some("33"),
        "UNSCHEDULABLE" if cell == "true" => Some("33"),
        "TYPE" if cell == "Warning" => Some("33"),
        "READY" if cell == "False" => Some("31"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vms() -> Table {
        let column = |name: &str, type_: &str, priority: i32| json!({"name": name, "type": type_, "priority": priority});
        let row = |cells: Value, name: &str| json!({"cells": cells, "object": {"metadata": {"name": name, "namespace": "default"}}});
        Table::from_server(&json!({
            "kind": "Table",
            "columnDefinitions": [
                column("Name", "string", 0), column("Phase", "string", 0), column("Host", "string", 0), column("Address", "string", 0),
                column("CPUs", "integer", 0), column("Memory", "string", 0), column("Restarts", "integer", 0),
                column("VMM", "string", 1), column("Epoch", "integer", 1), column("Age", "date", 0),
            ],
            "rows": [
                row(json!(["web-1", "Running", "r12-a", "198.18.77.11", 2, "512Mi", 0, "Qemu", 1, "3m"]), "web-1"),
                row(json!(["a-name-that-somebody-generated-from-a-pipeline-7f3a9c21", "Pending", null, null, 64, "1Ti", 12, null, null, "88d"]),
                    "a-name-that-somebody-generated-from-a-pipeline-7f3a9c21"),
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_pipe_gets_whole_cells() {
        insta::assert_snapshot!(vms().render(Style::default()), @r"
        NAME                                                      PHASE     HOST    ADDRESS        CPUS   MEMORY   RESTARTS   AGE
        web-1                                                     Running   r12-a   198.18.77.11      2   512Mi           0   3m
        a-name-that-somebody-generated-from-a-pipeline-7f3a9c21   Pending   -       -                64   1Ti            12   88d
        ");
    }

    #[test]
    fn a_terminal_of_80_columns_gets_rows_that_fit() {
        let text = vms().render(Style { room: Some(80), ..Style::default() });
        insta::assert_snapshot!(text, @r"
        NAME                   PHASE    HOST   ADDRESS       CPUS  MEMORY  RESTARTS  AGE
        web-1                  Running  r12-a  198.18.77.11     2  512Mi          0  3m
        a-name-tha~e-7f3a9c21  Pending  -      -               64  1Ti           12  88d
        ");
    }

    fn tasks() -> Table {
        let column = |name: &str, type_: &str| json!({"name": name, "type": type_, "priority": 0});
        let row = |cells: Value| json!({"cells": cells});
        Table::from_server(&json!({
            "kind": "Table",
            "columnDefinitions": [
                column("Name", "string"), column("Operation", "string"), column("Host", "string"), column("Phase", "string"),
                column("Step", "string"), column("Progress", "integer"), column("ETA", "integer"), column("Age", "date"),
            ],
            "rows": [
                row(json!(["nightly-copy-of-the-golden-image", "ImagePull", "r12-a", "Executing", "read", 57, 130, "3m"])),
                row(json!(["self-test", "Probe", "r12-b", "Pending", null, null, null, "2s"])),
                row(json!(["done", "Probe", "r12-b", "Completed", "step 5 of 5", 100, null, "1h"])),
            ],
        }))
        .unwrap()
    }

    #[test]
    fn progress_is_a_bar_where_there_is_room_and_always_a_number() {
        insta::assert_snapshot!(tasks().render(Style { room: Some(120), ..Style::default() }), @r"
        NAME                               OPERATION   HOST    PHASE       STEP                   PROGRESS     ETA   AGE
        nightly-copy-of-the-golden-image   ImagePull   r12-a   Executing   read          [#####.....]  57%   2m10s   3m
        self-test                          Probe       r12-b   Pending     -                             -       -   2s
        done                               Probe       r12-b   Completed   step 5 of 5   [##########] 100%       -   1h
        ");
        insta::assert_snapshot!(tasks().render(Style { room: Some(80), ..Style::default() }), @r"
        NAME          OPERATION  HOST   PHASE      STEP             PROGRESS    ETA  AGE
        nightl~image  ImagePull  r12-a  Executing  read         [##...]  57%  2m10s  3m
        self-test     Probe      r12-b  Pending    -                       -      -  2s
        done          Probe      r12-b  Completed  step 5 of 5  [#####] 100%      -  1h
        ");
        insta::assert_snapshot!(tasks().render(Style { room: Some(60), ..Style::default() }), @r"
        NAME    OPERATION  HOST   PHASE   STEP    PROGRESS    ETA  A
        nig~ge  ImagePull  r12-a  Exe~ng  read         57%  2m10s  3
        sel~st  Probe      r12-b  Pen~ng  -              -      -  2
        done    Probe      r12-b  Com~ed  ste~ 5      100%      -  1
        ");
        insta::assert_snapshot!(tasks().render(Style::default()), @r"
        NAME                               OPERATION   HOST    PHASE       STEP          PROGRESS     ETA   AGE
        nightly-copy-of-the-golden-image   ImagePull   r12-a   Executing   read               57%   2m10s   3m
        self-test                          Probe       r12-b   Pending     -                    -       -   2s
        done                               Probe       r12-b   Completed   step 5 of 5       100%       -   1h
        ");
    }

    #[test]
    fn nothing_wraps_however_narrow_the_terminal() {
        for room in 1..120 {
            for wide in [false, true] {
                let text = tasks().render(Style { room: Some(room), wide, ..Style::default() });
                assert!(text.lines().all(|l| text::width(l) <= room), "{room}:\n{text}");
                let text = vms().render(Style { room: Some(room), wide, ..Style::default() });
                assert!(text.lines().all(|l| text::width(l) <= room), "{room}:\n{text}");
            }
        }
    }

    #[test]
    fn only_abnormal_cells_are_coloured_and_the_words_are_the_same() {
        let coloured = vms().render(Style { colour: true, ..Style::default() });
        assert!(coloured.contains("\x1b[33mPending\x1b[0m") && !coloured.contains("m\x1b[0mRunning"));
        let stripped = coloured.replace("\x1b[33m", "").replace("\x1b[0m", "");
        assert_eq!(stripped, vms().render(Style::default()));
    }

    #[test]
    fn a_cell_cannot_move_the_cursor() {
        let table = json!({"kind": "Table", "columnDefinitions": [{"name": "Name", "type": "string"}], "rows": [{"cells": ["a\x1b[2Jb"]}]});
        assert!(!Table::from_server(&table).unwrap().render(Style::default()).contains('\x1b'));
    }
}
