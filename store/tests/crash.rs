//! What was acknowledged survives `kill -9`: a process of its own writes as fast as it can and is killed, fifty times.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use basalt_store::{Action, Expect, Revision, Store, Write, embedded::Embedded};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

/// Tells the process that it is the writer, in which directory, and which run it is.
const WRITER: &str = "BASALT_TEST_CRASH_WRITER";
const RUNS: usize = 50;
const TASKS: usize = 8;
/// How long a writer lives if nobody kills it.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    if let Ok(writer) = std::env::var(WRITER) {
        let (run, dir) = writer.split_once(' ').unwrap();
        return write_until_killed(run, Path::new(dir)).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<Revision, String> = BTreeMap::new();
    let mut newest = 0;
    for run in 0..RUNS {
        // Some are killed while they open the store, most after some of their commits. The first makes the store.
        let patience = if run == 0 { 5 } else { run * 37 % 120 };
        for (id, revision) in run_and_kill(run, dir.path(), patience) {
            assert!(revision > newest, "run {run}: revision {revision} is given again; {newest} was there before");
            let other = acknowledged.insert(revision, id.clone());
            assert_eq!(other, None, "revision {revision} is also that of {id}");
        }
        newest = check(dir.path(), &acknowledged).await;
    }
    assert!(acknowledged.len() > RUNS * 10, "only {} commits were acknowledged", acknowledged.len());
}

/// Starts the writer, kills it after so many acknowledgements, and returns all that it gave until it was dead.
fn run_and_kill(run: usize, dir: &Path, patience: usize) -> Vec<(String, Revision)> {
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["what_was_acknowledged_survives_a_kill", "--exact", "--nocapture"])
        .env(WRITER, format!("{run} {}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(writer.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    let mut killed = false;
    loop {
        if !killed && acknowledged.len() >= patience {
            writer.kill().unwrap();
            killed = true;
        }
        let mut line = String::new();
        if output.read_line(&mut line).unwrap() == 0 {
            break;
        }
        // A line that the kill cut off says nothing.
        if let Some(rest) = line.strip_suffix('\n').and_then(|line| line.strip_prefix("acknowledged ")) {
            let (id, revision) = rest.split_once(' ').unwrap();
            acknowledged.push((id.to_owned(), revision.parse().unwrap()));
        }
    }
    let status = writer.wait().unwrap();
    assert!(killed, "run {run}: the writer ended by itself: {status}");
    acknowledged
}

/// Opens what the killed writer left; returns its newest revision.
async fn check(dir: &Path, acknowledged: &BTreeMap<Revision, String>) -> Revision {
    let store = Embedded::open(dir, Default::default()).unwrap();
    let range = store.range(b"a/", b"z", 0).await.unwrap();
    let mut halves: HashMap<String, Vec<(String, Revision)>> = HashMap::new();
    for entry in &range.entries {
        let key = String::from_utf8(entry.key.to_vec()).unwrap();
        let (half, id) = key.split_once('/').unwrap();
        assert!(entry.modified <= range.revision, "{key} is from the future");
        if half != "last" {
            assert!(entry.value.starts_with(id.as_bytes()), "{key} has the value of another");
            halves.entry(id.to_owned()).or_default().push((half.to_owned(), entry.modified));
        }
    }
    let mut revisions = HashSet::new();
    for (id, halves) in &halves {
        let [(first, revision), (second, same)] = &halves[..] else { panic!("{id} is there by half: {halves:?}") };
        assert_eq!((first.as_str(), second.as_str(), revision), ("a", "b", same), "{id}");
        assert!(revisions.insert(*revision), "revision {revision} was given twice");
    }
    for (revision, id) in acknowledged {
        let found = halves.get(id).unwrap_or_else(|| panic!("{id} was acknowledged at revision {revision} and is lost"));
        assert_eq!(found[0].1, *revision, "{id}");
    }
    range.revision
}

/// Commits three keys at a time from several tasks, and prints each commit once it is acknowledged.
async fn write_until_killed(run: &str, dir: &Path) {
    let store: Arc<dyn Store> = Embedded::open(dir, Default::default()).unwrap();
    // The test harness leaves a line unfinished.
    println!();
    let tasks = (0..TASKS).map(|task| {
        let (store, run) = (store.clone(), run.to_owned());
        tokio::spawn(async move {
            for i in 0.. {
                let id = format!("{run}-{task}-{i}");
                let value = format!("{id}{}", "x".repeat(500));
                let writes = vec![
                    put(format!("a/{id}"), Expect::Absent, &value),
                    put(format!("last/{task}"), Expect::Any, &id),
                    put(format!("b/{id}"), Expect::Absent, &value),
                ];
                let revision = store.commit(writes).await.unwrap();
                writeln!(std::io::stdout().lock(), "acknowledged {id} {revision}").unwrap();
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    // Should the parent be gone, this is not to write for ever.
    let _ = tokio::time::timeout(PATIENCE, futures::future::join_all(tasks)).await;
}

fn put(key: String, expect: Expect, value: &str) -> Write {
    Write { key: key.into(), expect, action: Action::Put(value.to_owned().into()) }
}
