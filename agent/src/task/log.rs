//! The log of an attempt: numbered lines, kept in a file until the gateway has them.
//!
//! Lines survive the agent and are sent again after a lost connection; their numbers tell the gateway which it has. What the
//! gateway cannot take is bounded: past the limit lines are left out, and the log says so.

use crate::files::{self, FileError};
use basalt_proto::v1::TaskLogLine;
use jiff::Timestamp;
use prost_types::Timestamp as WireTime;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// How large the file of an attempt becomes.
const LARGEST_LOG: usize = 16 << 20;
/// Room that is left for the words that lines were left out.
const ROOM_FOR_NOTICE: usize = 16 << 10;
/// How long a line may be.
const LONGEST_LINE: usize = 8 << 10;
/// From this size on the file is begun anew when the gateway has all of it.
const WORTH_CUTTING: usize = 256 << 10;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "they are what they say")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// A line as it stands in the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    number: u64,
    time: Timestamp,
    level: Level,
    step: String,
    text: String,
}

/// The first line of the file: lines before it are with the gateway.
#[derive(Serialize, Deserialize)]
struct Head {
    first: u64,
}

/// Says that lines up to this one are sent as a batch.
#[derive(Serialize, Deserialize)]
struct Mark {
    sent: u64,
}

/// The log of an attempt.
pub struct Log {
    path: PathBuf,
    limit: usize,
    state: Mutex<State>,
}

struct State {
    file: File,
    bytes: usize,
    /// Something was written that is not on disk for sure.
    unsynced: bool,
    /// The number of the next line.
    next: u64,
    /// Lines that were left out since the log was full; the line that says so has been written.
    left_out: Option<u64>,
    /// The numbers before which batches end: a batch that is sent again is the same as it was, as the gateway knows it by its
    /// first line.
    ends: BTreeSet<u64>,
    /// What the gateway may not have yet, in order.
    waiting: VecDeque<Line>,
}

impl Log {
    /// Opens the log in the directory of an attempt; all lines that are in its file count as not sent.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        Self::with_limit(dir, LARGEST_LOG)
    }

    fn with_limit(dir: &Path, limit: usize) -> Result<Self, FileError> {
        let path = dir.join("log");
        let stored = files::read(&path)?.unwrap_or_default();
        let mut lines = stored.split(|byte| *byte == b'\n');
        let mut next = lines.next().and_then(|line| serde_json::from_slice::<Head>(line).ok()).map_or(0, |head| head.first);
        let mut waiting = VecDeque::new();
        // A crash or a full disk may have torn a line.
        let mut ends = BTreeSet::new();
        for line in lines {
            if let Ok(mark) = serde_json::from_slice::<Mark>(line) {
                ends.insert(mark.sent);
            } else if let Some(line) = serde_json::from_slice::<Line>(line).ok().filter(|line| line.number >= next) {
                next = line.number + 1;
                waiting.push_back(line);
            }
        }
        let first = waiting.front().map_or(next, |line| line.number);
        let (file, bytes) = begin(&path, first, &waiting, &ends)?;
        let state = State { file, bytes, unsynced: false, next, left_out: None, ends, waiting };
        Ok(Self { path, limit, state: Mutex::new(state) })
    }

    /// Adds what may be several lines.
    pub fn add(&self, level: Level, step: &str, text: &str) {
        let mut state = self.lock();
        for text in text.trim_end_matches('\n').split('\n') {
            self.add_line(&mut state, level, step, fit(text.trim_end_matches('\r')));
        }
    }

    fn add_line(&self, state: &mut State, level: Level, step: &str, text: String) {
        let full = state.bytes + text.len() + LONGEST_LINE / 2 + ROOM_FOR_NOTICE > self.limit;
        match (&mut state.left_out, full) {
            (Some(left_out), true) => *left_out += 1,
            (None, true) => {
                state.left_out = Some(1);
                let notice = format!("Lines are left out from here on: the gateway has not taken those of the last {} bytes", self.limit);
                self.write(state, Level::Warn, step, notice);
            }
            (left_out, false) => {
                if let Some(count) = left_out.take() {
                    self.write(state, Level::Warn, step, format!("{count} lines were left out here"));
                }
                self.write(state, level, step, text);
            }
        }
    }

    fn write(&self, state: &mut State, level: Level, step: &str, text: String) {
        let line = Line { number: state.next, time: Timestamp::now(), level, step: fit(step), text };
        self.append(state, serde_json::to_vec(&line).unwrap_or_default());
        state.next += 1;
        state.waiting.push_back(line);
    }

    fn append(&self, state: &mut State, mut encoded: Vec<u8>) {
        encoded.push(b'\n');
        if let Err(error) = state.file.write_all(&encoded) {
            // It is still sent; only a crash would lose it.
            tracing::warn!(file = %self.path.display(), "a log line cannot be kept: {error}");
        }
        state.bytes += encoded.len();
        state.unsynced = true;
    }

    /// The number of the next line.
    pub fn next(&self) -> u64 {
        self.lock().next
    }

    /// The batch of lines from a number on, and the number of the first. It is on disk when this returns, so that after a crash it
    /// is the same, and no number is given to another line.
    pub fn batch(&self, from: u64, bytes: usize) -> Option<(u64, Vec<TaskLogLine>)> {
        let mut state = self.lock();
        let later = || state.waiting.iter().skip_while(|line| line.number < from);
        let first = later().next()?.number;
        let sent_before = state.ends.range(first + 1..).next().copied();
        let mut room = bytes;
        let mut fits = |line: &&Line| {
            let has_room = room > 0;
            room = room.saturating_sub(line.text.len() + line.step.len() + 32);
            sent_before.map_or(has_room, |end| line.number < end)
        };
        let lines = later().zip(first..).take_while(|(line, number)| line.number == *number).map(|(line, _)| line);
        let lines: Vec<_> = lines.take_while(&mut fits).map(wire).collect();
        if sent_before.is_none() {
            let sent = first + lines.len() as u64;
            state.ends.insert(sent);
            self.append(&mut state, serde_json::to_vec(&Mark { sent }).unwrap_or_default());
        }
        if state.unsynced {
            if let Err(error) = state.file.sync_data() {
                tracing::warn!(file = %self.path.display(), "the log cannot be synced: {error}");
            }
            state.unsynced = false;
        }
        Some((first, lines))
    }

    /// The gateway has all lines before this one.
    pub fn acknowledge(&self, before: u64) {
        let mut state = self.lock();
        while state.waiting.front().is_some_and(|line| line.number < before) {
            state.waiting.pop_front();
        }
        if state.waiting.is_empty() && state.bytes > WORTH_CUTTING.min(self.limit / 2) {
            state.ends.clear();
            match begin(&self.path, state.next, &state.waiting, &state.ends) {
                Ok((file, bytes)) => (state.file, state.bytes) = (file, bytes),
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // At worst a line is missing from the file.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begin(path: &Path, first: u64, waiting: &VecDeque<Line>, ends: &BTreeSet<u64>) -> Result<(File, usize), FileError> {
    let mut content = serde_json::to_vec(&Head { first }).unwrap_or_default();
    content.push(b'\n');
    let marks = ends.iter().map(|sent| serde_json::to_vec(&Mark { sent: *sent }));
    for line in waiting.iter().map(serde_json::to_vec).chain(marks) {
        content.extend(line.unwrap_or_default());
        content.push(b'\n');
    }
    files::write(path, &content, 0o600)?;
    let file = File::options().append(true).open(path).map_err(FileError::at("open", path))?;
    Ok((file, content.len()))
}

fn wire(line: &Line) -> TaskLogLine {
    TaskLogLine {
        time: Some(WireTime { seconds: line.time.as_second(), nanos: line.time.subsec_nanosecond() }),
        level: line.level.name().to_owned(),
        step: line.step.clone(),
        text: line.text.clone(),
    }
}

/// A text as a line that neither moves a cursor nor fills a disk.
fn fit(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LONGEST_LINE));
    for (at, char) in text.char_indices() {
        if line.len() > LONGEST_LINE - 64 {
            line.push_str(&format!("... ({} more bytes are left out)", text.len() - at));
            break;
        }
        if char.is_control() {
            line.extend(char.escape_default());
        } else {
            line.push(char);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(log: &Log, from: u64) -> (u64, Vec<String>) {
        log.batch(from, 1 << 20).map_or((from, Vec::new()), |(first, lines)| (first, lines.into_iter().map(|line| line.text).collect()))
    }

    /// All lines from a number on, whatever batches they are in.
    fn texts(log: &Log, from: u64) -> (u64, Vec<String>) {
        let (first, mut lines) = batch(log, from);
        loop {
            match batch(log, first + lines.len() as u64).1 {
                more if more.is_empty() => return (first, lines),
                more => lines.extend(more),
            }
        }
    }

    #[test]
    fn a_batch_that_is_sent_again_is_the_same_also_after_a_crash_and_with_more_lines_behind_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        for text in ["a", "b"] {
            log.add(Level::Info, "s", text);
            batch(&log, log.next() - 1);
        }
        log.add(Level::Info, "s", "c\nd");
        for log in [log, Log::open(dir.path()).unwrap()] {
            assert_eq!(batch(&log, 0), (0, vec!["a".to_owned()]));
            assert_eq!(batch(&log, 1), (1, vec!["b".to_owned()]));
            assert_eq!(batch(&log, 2), (2, vec!["c".to_owned(), "d".to_owned()]));
        }
    }

    #[test]
    fn lines_survive_and_keep_their_numbers_until_they_are_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        log.add(Level::Info, "s", "a\nb\n");
        log.add(Level::Warn, "s", "c");
        log.acknowledge(1);
        assert_eq!(texts(&log, 0), (1, vec!["b".to_owned(), "c".to_owned()]));
        assert_eq!(texts(&log, 2), (2, vec!["c".to_owned()]));
        // A torn line at the end is as none.
        std::fs::OpenOptions::new().append(true).open(dir.path().join("log")).unwrap().write_all(b"{\"number\":3,").unwrap();
        let again = Log::open(dir.path()).unwrap();
        assert_eq!(texts(&again, 0).1, ["a", "b", "c"]);
        again.add(Level::Info, "s", "d");
        assert_eq!(texts(&Log::open(dir.path()).unwrap(), 3), (3, vec!["d".to_owned()]));
    }

    #[test]
    fn a_long_line_is_cut_and_control_characters_are_escaped() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path()).unwrap();
        log.add(Level::Info, "s", &"ä".repeat(5 << 20));
        log.add(Level::Info, "s", "\x1b[2Jgone\u{7}");
        let lines = texts(&log, 0).1;
        assert!(lines[0].len() <= LONGEST_LINE, "{}", lines[0].len());
        assert!(lines[0].ends_with("more bytes are left out)"));
        assert_eq!(lines[1], "\\u{1b}[2Jgone\\u{7}");
    }

    #[test]
    fn a_full_log_says_so_stays_below_its_limit_and_goes_on_when_there_is_room() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::with_limit(dir.path(), 64 << 10).unwrap();
        for _ in 0..1000 {
            log.add(Level::Info, "s", &"x".repeat(100));
        }
        assert!(std::fs::metadata(dir.path().join("log")).unwrap().len() <= 64 << 10);
        let lines = texts(&log, 0).1;
        assert!(lines.last().unwrap().starts_with("Lines are left out from here on"));
        log.acknowledge(log.next());
        log.add(Level::Info, "s", "on");
        let (first, after) = texts(&log, 0);
        assert_eq!(first, lines.len() as u64);
        assert_eq!(after, [format!("{} lines were left out here", 1001 - lines.len()), "on".to_owned()]);
        assert_eq!(texts(&Log::open(dir.path()).unwrap(), 0), (first, after));
    }
}
