//! The file that lines are appended to, by a thread of its own: whoever appends only copies a line into memory.
//!
//! At most so much waits in memory. What does not fit, or cannot be written, is dropped and counted, and the next line that is
//! written says how many are missing. The file is rotated by size and age, and the oldest files are deleted by number and size.

use super::Event;
use crate::telemetry::Metrics;
use jiff::{SignedDuration, Timestamp};
use prometheus_client::metrics::counter::Counter;
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    mem,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The file that is written.
const CURRENT: &str = "audit.log";
/// How much may wait in memory to be written.
const WAITING: usize = 4 << 20;
/// How long the thread gathers lines after it has written some: each write costs as much as a hundred lines.
const GATHER: Duration = Duration::from_millis(5);
/// How long a flush waits for a disk that does not answer.
const FLUSH: Duration = Duration::from_secs(3);
/// How many may read the log at once.
const READERS: usize = 2;

/// Where the log is, and how much of it is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory, which is made if it is not there.
    pub dir: PathBuf,
    /// A file is ended before it is larger, in bytes.
    pub file_bytes: u64,
    /// A file is ended when its first line is older.
    pub file_age: Duration,
    /// How many ended files are kept.
    pub files: usize,
    /// How large all files together may be, in bytes.
    pub total_bytes: u64,
}

impl Settings {
    /// The defaults, in a directory.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, file_bytes: 100 << 20, file_age: Duration::from_secs(7 * 24 * 3600), files: 50, total_bytes: 1 << 30 }
    }
}

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}")]
pub struct LogError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// An open log. It is written to its end when it is closed or dropped.
pub struct Log {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    readers: Semaphore,
}

struct Shared {
    settings: Settings,
    state: Mutex<State>,
    /// There is something to write, or the end.
    filled: Condvar,
    /// Something was written, or given up.
    settled: Condvar,
    /// Held while files change their names, and while they are opened to be read.
    names: Mutex<()>,
    written: Counter,
    dropped: Counter,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// How many lines are in `waiting`.
    lines: u64,
    /// Lines that were dropped since the last one that was written.
    lost: u64,
    /// How many lines were taken, and how many of them are written or given up.
    taken: u64,
    settled: u64,
    closed: bool,
}

impl Log {
    /// Opens the log, or begins it.
    pub fn open(settings: Settings, metrics: &Metrics) -> Result<Self, LogError> {
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| LogError { action, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&settings.dir).map_err(failed("make", &settings.dir))?;
        let path = settings.dir.join(CURRENT);
        let file = Current::open(&settings.dir).map_err(failed("open", &path))?;
        let (written, dropped) = (Counter::default(), Counter::default());
        metrics.register(|registry| {
            registry.register("basalt_audit_lines", "Lines written to the audit log", written.clone());
            registry.register("basalt_audit_lines_dropped", "Lines that the audit log lost", dropped.clone());
        });
        let (state, names) = (Mutex::default(), Mutex::default());
        let shared = Shared { settings, state, filled: Condvar::new(), settled: Condvar::new(), names, written, dropped };
        let shared = Arc::new(shared);
        let writer = Writer { shared: shared.clone(), file: Some(file), failing: false };
        let thread = thread::Builder::new().name("audit".into()).spawn(move || writer.run());
        let thread = thread.map_err(failed("start the writer of", &path))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), readers: Semaphore::new(READERS) })
    }

    /// Takes a line, which ends in a newline.
    pub fn append(&self, line: &[u8]) {
        let mut state = self.shared.state();
        if state.closed || state.waiting.len() + line.len() > WAITING {
            state.lost += 1;
            self.shared.dropped.inc();
            return;
        }
        state.waiting.extend_from_slice(line);
        state.lines += 1;
        state.taken += 1;
        let first = state.lines == 1;
        drop(state);
        if first {
            self.shared.filled.notify_one();
        }
    }

    /// Waits until everything up to now is written.
    pub fn flush(&self) {
        let state = self.shared.state();
        let wanted = state.taken;
        let end = self.shared.settled.wait_timeout_while(state, FLUSH, |state| state.settled < wanted);
        drop(end);
    }

    /// Writes what waits to the disk, and takes no more.
    pub fn close(&self) {
        self.shared.state().closed = true;
        self.shared.filled.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the audit log has failed");
        }
    }

    /// A turn to read.
    pub(super) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.readers.acquire().await.ok()
    }

    /// All files, the newest first.
    pub(super) fn files(&self) -> io::Result<Vec<File>> {
        let _names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = &self.shared.settings.dir;
        let mut ended = ended(dir)?;
        ended.reverse();
        let current = File::open(dir.join(CURRENT));
        current.into_iter().map(Ok).chain(ended.iter().map(|(path, _)| File::open(path))).collect()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two of its statements that can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread.
struct Writer {
    shared: Arc<Shared>,
    /// None after a failure: it is opened anew for the next lines.
    file: Option<Current>,
    failing: bool,
}

impl Writer {
    fn run(mut self) {
        loop {
            let shared = self.shared.clone();
            let wait = shared.filled.wait_while(shared.state(), |state| state.lines == 0 && !state.closed);
            let mut state = wait.unwrap_or_else(PoisonError::into_inner);
            let (text, lines, lost) = (mem::take(&mut state.waiting), mem::take(&mut state.lines), mem::take(&mut state.lost));
            let closed = state.closed;
            drop(state);
            if lines > 0 || lost > 0 {
                self.write(&text, lines, lost);
            }
            let mut state = shared.state();
            state.settled += lines;
            drop(state);
            shared.settled.notify_all();
            if closed {
                if let Some(Err(error)) = self.file.map(|current| current.file.sync_all()) {
                    tracing::error!("the end of the audit log is not on disk: {error}");
                }
                return;
            }
            thread::sleep(GATHER);
        }
    }

    fn write(&mut self, text: &[u8], lines: u64, lost: u64) {
        match self.try_write(text, lost) {
            Ok(()) => {
                self.shared.written.inc_by(lines);
                if mem::take(&mut self.failing) {
                    tracing::info!(lost, "the audit log is written again");
                }
            }
            Err(error) => {
                self.shared.dropped.inc_by(lines);
                self.shared.state().lost += lost + lines;
                self.file = None;
                if !mem::replace(&mut self.failing, true) {
                    tracing::error!("the audit log cannot be written, lines are lost: {error}");
                }
            }
        }
    }

    fn try_write(&mut self, text: &[u8], lost: u64) -> io::Result<()> {
        let settings = &self.shared.settings;
        let mut current = match self.file.take() {
            Some(current) => current,
            None => Current::open(&settings.dir)?,
        };
        let now = Timestamp::now();
        let old = current
            .begun
            .is_some_and(|begun| now.duration_since(begun) > SignedDuration::try_from(settings.file_age).unwrap_or(SignedDuration::MAX));
        if current.bytes > 0 && (old || current.bytes + text.len() as u64 > settings.file_bytes) {
            current.file.sync_all()?;
            let _names = self.shared.names.lock().unwrap_or_else(PoisonError::into_inner);
            rotate(settings, now)?;
            current = Current::open(&settings.dir)?;
        }
        let gap = Event { time: now, lost: Some(lost), ..Event::default() };
        let mut whole = if lost > 0 { serde_json::to_vec(&gap)? } else { Vec::new() };
        if lost > 0 {
            whole.push(b'\n');
        }
        whole.extend_from_slice(text);
        current.append(&whole, now)?;
        self.file = Some(current);
        Ok(())
    }
}

/// The file that is written.
struct Current {
    file: File,
    bytes: u64,
    /// When its first line was written.
    begun: Option<Timestamp>,
}

impl Current {
    fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(CURRENT);
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path)?;
        if file.metadata()?.is_file() {
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
        }
        let mut bytes = file.metadata()?.len();
        if bytes > 0 {
            // A line that a crash cut off is ended, so that it does not spoil the next.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                bytes += 1;
            }
        }
        let begun = first_time(&path).or_else(|| (bytes > 0).then(Timestamp::now));
        Ok(Self { file, bytes, begun })
    }

    /// Appends lines, all or none.
    fn append(&mut self, lines: &[u8], now: Timestamp) -> io::Result<()> {
        if let Err(error) = self.file.write_all(lines) {
            // A half line is worse than none. If this fails too, the next who opens the file ends the half line.
            let _ = self.file.set_len(self.bytes);
            return Err(error);
        }
        self.bytes += lines.len() as u64;
        self.begun.get_or_insert(now);
        Ok(())
    }
}

fn first_time(path: &Path) -> Option<Timestamp> {
    let mut line = String::new();
    BufReader::new(File::open(path).ok()?.take(64 << 10)).read_line(&mut line).ok()?;
    serde_json::from_str::<Event>(&line).ok().map(|event| event.time)
}

/// Ends the current file, and deletes the oldest that are too many.
fn rotate(settings: &Settings, now: Timestamp) -> io::Result<()> {
    // To the microsecond and in order as text, also after a restart within the second.
    let name = format!("audit-{}.log", now.strftime("%Y%m%dT%H%M%S%.6fZ"));
    fs::rename(settings.dir.join(CURRENT), settings.dir.join(name))?;
    let files = ended(&settings.dir)?;
    // With room for the one that is begun.
    let mut total = settings.file_bytes + files.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let mut count = files.len();
    for (path, bytes) in files {
        if count <= settings.files && total <= settings.total_bytes {
            break;
        }
        fs::remove_file(path)?;
        (count, total) = (count - 1, total - bytes);
    }
    Ok(())
}

/// The files that have ended, with their sizes, the oldest first.
fn ended(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with("audit-") && name.ends_with(".log")) {
            files.push((entry.path(), entry.metadata()?.len()));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn line(user: &str) -> Vec<u8> {
        let mut line = serde_json::to_vec(&Event { time: Timestamp::now(), user: user.into(), ..Event::default() }).unwrap();
        line.push(b'\n');
        line
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn lines(dir: &Path) -> Vec<Event> {
        let text = fs::read_to_string(dir.join(CURRENT)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn files_end_when_they_are_large_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { file_bytes: 1000, files: 3, total_bytes: 10_000, ..Settings::new(dir.path().to_owned()) };
        let log = Log::open(settings, &Metrics::default()).unwrap();
        for n in 0..200 {
            log.append(&line(&format!("user-{n}")));
            log.flush();
        }
        log.close();
        let found = names(dir.path());
        assert_eq!(found.len(), 4, "{found:?}");
        for name in &found {
            let metadata = fs::metadata(dir.path().join(name)).unwrap();
            assert!(metadata.len() <= 1000 && metadata.permissions().mode() & 0o777 == 0o600, "{name}: {metadata:?}");
        }
        assert_eq!(lines(dir.path()).last().unwrap().user, "user-199");
    }

    #[test]
    fn files_together_do_not_grow_beyond_their_size() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings { file_bytes: 1000, files: 100, total_bytes: 3000, ..Settings::new(dir.path().to_owned()) };
        let log = Log::open(settings, &Metrics::default()).unwrap();
        for _ in 0..200 {
            log.append(&line("u"));
            log.flush();
        }
        let total: u64 = names(dir.path()).iter().map(|name| fs::metadata(dir.path().join(name)).unwrap().len()).sum();
        assert!((1000..=3000).contains(&total), "{total}");
    }

    #[test]
    fn a_file_ends_when_it_is_old_also_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let old = Event { time: Timestamp::now() - SignedDuration::from_hours(25), user: "old".into(), ..Event::default() };
        fs::write(dir.path().join(CURRENT), serde_json::to_string(&old).unwrap() + "\n").unwrap();
        let settings = Settings { file_age: Duration::from_secs(24 * 3600), ..Settings::new(dir.path().to_owned()) };
        let log = Log::open(settings, &Metrics::default()).unwrap();
        log.append(&line("new"));
        log.close();
        assert_eq!(names(dir.path()).len(), 2);
        assert_eq!(lines(dir.path()).iter().map(|event| event.user.as_str()).collect::<Vec<_>>(), ["new"]);
    }

    #[test]
    fn what_a_full_disk_loses_is_counted_and_told_in_the_next_line() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/dev/full", dir.path().join(CURRENT)).unwrap();
        let metrics = Metrics::default();
        let log = Log::open(Settings::new(dir.path().to_owned()), &metrics).unwrap();
        for _ in 0..3 {
            log.append(&line("lost"));
            log.flush();
        }
        let text = metrics.text(false).unwrap();
        assert!(text.contains("basalt_audit_lines_dropped_total 3\n") && text.contains("basalt_audit_lines_total 0\n"), "{text}");
        // There is room again.
        fs::remove_file(dir.path().join(CURRENT)).unwrap();
        log.append(&line("kept"));
        log.close();
        let lines = lines(dir.path());
        assert_eq!((lines[0].lost, lines[1].user.as_str(), lines.len()), (Some(3), "kept", 2));
    }

    #[test]
    fn what_comes_faster_than_it_is_written_is_dropped_and_does_not_wait() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::default();
        let log = Log::open(Settings::new(dir.path().to_owned()), &metrics).unwrap();
        let huge = vec![b' '; WAITING + 1];
        log.append(&huge);
        log.append(&line("next"));
        log.close();
        let lines = lines(dir.path());
        assert_eq!((lines[0].lost, lines[1].user.as_str()), (Some(1), "next"));
        log.append(&line("after the end"));
        assert!(metrics.text(false).unwrap().contains("basalt_audit_lines_dropped_total 2\n"));
    }

    #[test]
    fn a_line_that_a_crash_cut_off_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CURRENT), "{\"time\":\"2026-01-01T00:00:00Z\",\"us").unwrap();
        let log = Log::open(Settings::new(dir.path().to_owned()), &Metrics::default()).unwrap();
        log.append(&line("next"));
        log.close();
        let text = fs::read_to_string(dir.path().join(CURRENT)).unwrap();
        assert_eq!(serde_json::from_str::<Event>(text.lines().last().unwrap()).unwrap().user, "next");
    }
}
