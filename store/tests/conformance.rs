//! What a store promises, asked of both engines through the same tests, and what only the embedded one promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use basalt_store::{
    Action, Change, CommitError, Entry, Expect, Previous, Range, Revision, Store, StoreError, WatchError, WatchEvent, WatchStream, Write,
    embedded::{Embedded, Options},
    prefix_end,
};
use bytes::Bytes;
use common::{Fixture, PATIENCE, delete, next, put};
use futures::{FutureExt, StreamExt, future::join_all};
use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};

macro_rules! promises {
    ($($name:ident)*) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::run(super::common::embedded().await, super::$name).await })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::run(super::common::etcd().await, super::$name).await })*
        }
    };
}

promises! {
    an_expectation_that_does_not_hold_stops_the_commit
    a_conflict_names_the_first_key_and_its_state_and_nothing_is_written
    a_commit_of_several_writes_is_one_revision_and_one_event
    revisions_only_grow_and_entries_know_theirs
    a_deletion_of_nothing_changes_nothing
    a_range_is_ordered_bounded_and_limited
    a_large_range_comes_whole
    concurrent_compare_and_swap_loses_no_update
    a_watch_replays_what_came_after_its_start
    a_watch_resumes_after_any_of_many_concurrent_commits
    a_watch_from_the_future_begins_there
    a_watch_sees_only_its_prefix
    events_carry_what_is_now_and_what_was
    every_watch_gets_every_commit_once_and_in_order_while_many_write
    a_watch_from_before_a_compaction_is_refused
    a_commit_that_no_store_takes_is_refused_and_changes_nothing
    a_check_stops_the_others_of_its_commit_and_writes_nothing
}

async fn run<F: Future<Output = ()>>(fixture: Option<Fixture>, test: impl FnOnce(Arc<dyn Store>) -> F) {
    let Some(fixture) = fixture else { return };
    tokio::time::timeout(PATIENCE * 2, test(fixture.store.clone())).await.expect("the test takes too long");
}

async fn a_check_stops_the_others_of_its_commit_and_writes_nothing(store: Arc<dyn Store>) {
    let check = |expect| Write { key: Bytes::from_static(b"guard"), expect, action: Action::Check };
    let at = commit(&store, put("guard", Expect::Absent, "g")).await;
    let made = store.commit(vec![check(Expect::At(at)), put("k", Expect::Absent, "1")]).await.unwrap();
    assert_eq!(store.get(b"guard").await.unwrap().unwrap().modified, at);
    assert_eq!(changed(&next(&mut watch(&store, "", at).await).await.unwrap()), [b"k"]);
    for refused in [check(Expect::At(made)), check(Expect::Absent)] {
        let refused = store.commit(vec![refused, put("k", Expect::Any, "2")]).await.unwrap_err();
        let CommitError::Conflict { key, current } = refused else { panic!("{refused}") };
        assert_eq!((&key[..], current.unwrap().modified), (&b"guard"[..], at));
    }
    // Alone it is a question.
    store.commit(vec![check(Expect::At(at))]).await.unwrap();
    store.commit(vec![delete("guard", Expect::Any)]).await.unwrap();
    store.commit(vec![check(Expect::At(at)), put("k", Expect::Any, "2")]).await.unwrap_err();
    assert_eq!(&store.get(b"k").await.unwrap().unwrap().value[..], b"1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_forgets_what_is_old_when_it_is_told_to() {
    let Some(fixture) = common::etcd().await else { return };
    let engine = fixture.connect().await;
    let first = commit(&fixture.store, put("key", Expect::Absent, "0")).await;
    let forgotten = async {
        let mut made = first;
        loop {
            made = commit(&fixture.store, put("key", Expect::At(made), "")).await;
            let after = fixture.store.revision().await.unwrap();
            let refused = match fixture.store.watch(b"key", first, Previous::Told).await {
                Ok(mut watch) => next(&mut watch).await.err(),
                Err(refused) => Some(refused),
            };
            match refused {
                Some(WatchError::Compacted { oldest, .. }) => return assert!(oldest <= after),
                other => assert!(other.is_none(), "{other:?}"),
            }
        }
    };
    let keeper = engine.forget(std::time::Duration::from_millis(10));
    tokio::time::timeout(PATIENCE, async {
        tokio::select! { () = keeper => {}, () = forgotten => {} }
    })
    .await
    .expect("it is forgotten");
}

async fn commit(store: &Arc<dyn Store>, write: Write) -> Revision {
    store.commit(vec![write]).await.unwrap()
}

async fn watch(store: &Arc<dyn Store>, prefix: &str, after: Revision) -> WatchStream {
    store.watch(prefix.as_bytes(), after, Previous::Told).await.unwrap()
}

fn keys(range: &Range) -> Vec<&str> {
    range.entries.iter().map(|entry| std::str::from_utf8(&entry.key).unwrap()).collect()
}

fn changed(event: &WatchEvent) -> Vec<&[u8]> {
    event.changes.iter().map(|change| &change.key()[..]).collect()
}

async fn an_expectation_that_does_not_hold_stops_the_commit(store: Arc<dyn Store>) {
    let before = commit(&store, put("there", Expect::Any, "0")).await;
    let at = commit(&store, put("there", Expect::Any, "1")).await;
    let later = commit(&store, put("elsewhere", Expect::Any, "1")).await;
    for (key, expect, holds) in [
        ("there", Expect::Absent, false),
        ("there", Expect::At(0), false),
        ("there", Expect::At(before), false),
        ("there", Expect::At(later), false),
        ("there", Expect::At(u64::MAX), false),
        ("nowhere", Expect::At(0), false),
        ("nowhere", Expect::At(at), false),
        ("there", Expect::At(at), true),
        ("there", Expect::Any, true),
        ("nowhere", Expect::Any, true),
        ("nobody", Expect::Absent, true),
    ] {
        for write in [delete(key, expect), put(key, expect, "2")] {
            // A deletion that is possible would change what the put finds.
            if holds && write.action == Action::Delete {
                continue;
            }
            let before = store.get(key.as_bytes()).await.unwrap();
            match store.commit(vec![write.clone()]).await {
                Ok(revision) => {
                    assert!(holds, "{write:?} was taken");
                    let entry = store.get(key.as_bytes()).await.unwrap().unwrap();
                    assert_eq!((entry.modified, &entry.value[..]), (revision, &b"2"[..]));
                }
                Err(CommitError::Conflict { key: named, current }) => {
                    assert!(!holds, "{write:?} was refused");
                    assert_eq!((&named[..], current), (key.as_bytes(), before.clone()));
                    assert_eq!(store.get(key.as_bytes()).await.unwrap(), before);
                }
                Err(error) => panic!("{write:?}: {error}"),
            }
        }
    }
    let at = store.get(b"there").await.unwrap().unwrap().modified;
    commit(&store, delete("there", Expect::At(at))).await;
    assert_eq!(store.get(b"there").await.unwrap(), None);
}

async fn a_conflict_names_the_first_key_and_its_state_and_nothing_is_written(store: Arc<dyn Store>) {
    let at = commit(&store, put("b", Expect::Absent, "old")).await;
    let known = store.revision().await.unwrap();
    let writes = vec![put("a", Expect::Any, "x"), put("b", Expect::Absent, "x"), put("c", Expect::At(7), "x")];
    let Err(CommitError::Conflict { key, current }) = store.commit(writes).await else { panic!("it was taken") };
    assert_eq!(&key[..], b"b");
    assert_eq!(current, Some(Entry { key: "b".into(), value: "old".into(), modified: at }));
    let all = store.range(b"a", b"z", 0).await.unwrap();
    assert_eq!(keys(&all), ["b"]);
    assert_eq!(all.revision, store.revision().await.unwrap());
    assert_eq!(all.revision, known);
}

async fn a_commit_of_several_writes_is_one_revision_and_one_event(store: Arc<dyn Store>) {
    let before = commit(&store, put("gone", Expect::Absent, "1")).await;
    let mut stream = watch(&store, "", before).await;
    let writes = vec![put("z", Expect::Absent, "1"), delete("gone", Expect::At(before)), put("a", Expect::Any, "2")];
    let revision = store.commit(writes).await.unwrap();
    let event = next(&mut stream).await.unwrap();
    let mut touched = changed(&event);
    touched.sort_unstable();
    assert_eq!((event.revision, touched), (revision, vec![&b"a"[..], b"gone", b"z"]));
    let all = store.range(b"a", b"zz", 0).await.unwrap();
    assert_eq!(keys(&all), ["a", "z"]);
    assert!(all.entries.iter().all(|entry| entry.modified == revision));
}

async fn revisions_only_grow_and_entries_know_theirs(store: Arc<dyn Store>) {
    let first = commit(&store, put("k", Expect::Absent, "1")).await;
    assert!(first >= 1);
    let second = commit(&store, put("k", Expect::At(first), "2")).await;
    let third = commit(&store, delete("k", Expect::At(second))).await;
    let fourth = commit(&store, put("k", Expect::Absent, "")).await;
    let fifth = commit(&store, put("k", Expect::Any, "5")).await;
    assert!(first < second && second < third && third < fourth && fourth < fifth);
    assert_eq!(store.get(b"k").await.unwrap(), Some(Entry { key: "k".into(), value: "5".into(), modified: fifth }));
    let known = store.revision().await.unwrap();
    assert!(known >= fifth && known < commit(&store, put("k", Expect::Any, "6")).await);
}

async fn a_deletion_of_nothing_changes_nothing(store: Arc<dyn Store>) {
    let before = commit(&store, put("k", Expect::Any, "1")).await;
    let mut stream = watch(&store, "", before).await;
    let known = store.revision().await.unwrap();
    assert!(known >= before);
    assert_eq!(commit(&store, delete("nothing", Expect::Any)).await, known);
    assert_eq!(commit(&store, delete("nothing", Expect::Absent)).await, known);
    let after = store.commit(vec![delete("nothing", Expect::Any), put("k", Expect::Any, "2")]).await.unwrap();
    let event = next(&mut stream).await.unwrap();
    assert_eq!((event.revision, changed(&event)), (after, vec![&b"k"[..]]));
}

async fn a_range_is_ordered_bounded_and_limited(store: Arc<dyn Store>) {
    for key in ["b/2", "b", "a", "b/10", "c", "b/1", "b0"] {
        commit(&store, put(key, Expect::Absent, key)).await;
    }
    let newest = store.revision().await.unwrap();
    let range = async |start: &str, end: &str, limit| store.range(start.as_bytes(), end.as_bytes(), limit).await.unwrap();
    let all = range("a", "d", 0).await;
    assert_eq!((keys(&all), all.more, all.revision), (vec!["a", "b", "b/1", "b/10", "b/2", "b0", "c"], false, newest));
    let below = store.range(b"b/", &prefix_end(b"b/"), 0).await.unwrap();
    assert_eq!(keys(&below), ["b/1", "b/10", "b/2"]);
    assert_eq!(keys(&range("a", "c", 0).await), ["a", "b", "b/1", "b/10", "b/2", "b0"]);
    for (limit, more) in [(1, true), (6, true), (7, false), (8, false)] {
        let part = range("a", "d", limit).await;
        assert_eq!((part.entries.len(), part.more), (limit.min(7), more), "limit {limit}");
        assert_eq!(part.entries[..], all.entries[..limit.min(7)]);
    }
    for (start, end) in [("b", "b"), ("d", "a"), ("x", "y"), ("", "")] {
        let nothing = range(start, end, 0).await;
        assert_eq!((nothing.entries.len(), nothing.more, nothing.revision), (0, false, newest), "{start:?} to {end:?}");
    }
}

async fn a_large_range_comes_whole(store: Arc<dyn Store>) {
    let value = vec![b'x'; 100 << 10];
    let commits = (0..64).map(|i| store.commit(vec![put(format!("large/{i:03}"), Expect::Absent, &value)]));
    assert!(join_all(commits).await.iter().all(Result::is_ok));
    let all = store.range(b"large/", b"large0", 0).await.unwrap();
    assert_eq!((all.entries.len(), all.more), (64, false));
    assert!(all.entries.iter().all(|entry| entry.value == value));
}

async fn concurrent_compare_and_swap_loses_no_update(store: Arc<dyn Store>) {
    commit(&store, put("sum", Expect::Absent, "0")).await;
    let count = async |store: Arc<dyn Store>| {
        for _ in 0..20 {
            loop {
                let entry = store.get(b"sum").await.unwrap().unwrap();
                let sum: u32 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                match store.commit(vec![put("sum", Expect::At(entry.modified), (sum + 1).to_string())]).await {
                    Ok(_) => break,
                    Err(CommitError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    join_all((0..8).map(|_| count(store.clone()))).await;
    assert_eq!(&store.get(b"sum").await.unwrap().unwrap().value[..], b"160");
}

async fn a_watch_replays_what_came_after_its_start(store: Arc<dyn Store>) {
    let mut starts = vec![0];
    for i in 0..5 {
        starts.push(commit(&store, put("k", Expect::Any, i.to_string())).await);
    }
    let mut streams = Vec::new();
    for after in &starts {
        streams.push((*after, watch(&store, "k", *after).await));
    }
    let live = commit(&store, put("k", Expect::Any, "live")).await;
    for (after, stream) in &mut streams {
        for revision in starts.iter().filter(|revision| *revision > after).chain([&live]) {
            assert_eq!(next(stream).await.unwrap().revision, *revision, "after {after}");
        }
    }
}

async fn a_watch_resumes_after_any_of_many_concurrent_commits(store: Arc<dyn Store>) {
    const COMMITS: usize = 60;
    let absent = commit(&store, put("k/gone", Expect::Any, "")).await;
    let puts = (0..COMMITS).map(|i| vec![put(format!("k/{i:02}"), Expect::Absent, i.to_string())]);
    // Some among them fail, one deletes, and two want the same key: each for itself.
    let refused = (0..5).map(|i| vec![put(format!("k/no-{i}"), Expect::At(absent), ""), put(format!("k/other-{i}"), Expect::Any, "")]);
    let deletion = vec![delete("k/gone", Expect::At(absent))];
    let twice = [vec![put("k/same", Expect::Absent, "a")], vec![put("k/same", Expect::Absent, "b")]];
    let outcomes = join_all(puts.chain(refused).chain([deletion]).chain(twice).map(|writes| store.commit(writes))).await;
    let mut made: Vec<Revision> = outcomes.into_iter().filter_map(Result::ok).collect();
    made.sort_unstable();
    made.dedup();
    assert_eq!(made.len(), COMMITS + 2, "{made:?}");
    for (i, after) in made.iter().enumerate().step_by(7) {
        let mut stream = watch(&store, "k/", *after).await;
        for revision in &made[i + 1..] {
            let event = next(&mut stream).await.unwrap();
            assert_eq!((event.revision, event.changes.len()), (*revision, 1), "after {after}");
        }
    }
    let all = store.range(b"k/", &prefix_end(b"k/"), 0).await.unwrap();
    assert_eq!(all.entries.len(), COMMITS + 1);
    assert!(all.entries.iter().all(|entry| made.contains(&entry.modified)) && all.revision >= *made.last().unwrap());
}

async fn a_watch_from_the_future_begins_there(store: Arc<dyn Store>) {
    let start = commit(&store, put("k", Expect::Any, "0")).await + 300;
    let mut stream = watch(&store, "", start).await;
    let mut later = Vec::new();
    while later.len() < 2 {
        later.extend(Some(commit(&store, put("k", Expect::Any, "1")).await).filter(|made| *made > start));
    }
    assert_eq!(next(&mut stream).await.unwrap().revision, later[0]);
    assert_eq!(next(&mut stream).await.unwrap().revision, later[1]);
}

async fn a_watch_sees_only_its_prefix(store: Arc<dyn Store>) {
    let mut stream = watch(&store, "b/", 0).await;
    commit(&store, put("a", Expect::Any, "1")).await;
    commit(&store, put("b", Expect::Any, "1")).await;
    let first = store.commit(vec![put("b0", Expect::Any, "1"), put("b/1", Expect::Any, "1"), put("a", Expect::Any, "2")]).await.unwrap();
    commit(&store, delete("b", Expect::Any)).await;
    let second = commit(&store, delete("b/1", Expect::Any)).await;
    let event = next(&mut stream).await.unwrap();
    assert_eq!((event.revision, changed(&event)), (first, vec![&b"b/1"[..]]));
    let event = next(&mut stream).await.unwrap();
    assert_eq!((event.revision, changed(&event)), (second, vec![&b"b/1"[..]]));
}

async fn events_carry_what_is_now_and_what_was(store: Arc<dyn Store>) {
    let first = commit(&store, put("k", Expect::Absent, "1")).await;
    let second = commit(&store, put("k", Expect::Any, "2")).await;
    let third = commit(&store, delete("k", Expect::Any)).await;
    let [one, two] = [("1", first), ("2", second)].map(|(value, modified)| Entry { key: "k".into(), value: value.into(), modified });
    let mut stream = watch(&store, "k", first - 1).await;
    let expected = [
        (first, Change::Put { entry: one.clone(), previous: None }),
        (second, Change::Put { entry: two.clone(), previous: Some(one) }),
        (third, Change::Delete { key: "k".into(), previous: Some(two) }),
    ];
    for (revision, change) in expected {
        assert_eq!(next(&mut stream).await.unwrap(), WatchEvent { revision, changes: vec![change] });
    }
}

async fn every_watch_gets_every_commit_once_and_in_order_while_many_write(store: Arc<dyn Store>) {
    const WRITERS: usize = 8;
    const COMMITS: usize = 40;
    let begin = store.revision().await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut made = Vec::new();
            for i in 0..COMMITS {
                let value = format!("{writer}-{i}");
                let writes = vec![put(format!("k/{writer}"), Expect::Any, &value), put(format!("k/shared-{}", i % 5), Expect::Any, &value)];
                made.push((store.commit(writes).await.unwrap(), value));
            }
            made
        })
    });
    let writers: Vec<_> = writers.collect();
    // Watches that begin before, at and during the writing, so that replay and live tail meet at many points.
    let watchers = (0..12).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let after = store.revision().await.unwrap();
            let mut stream = store.watch(b"k/", after, Previous::Told).await.unwrap();
            let mut seen = BTreeMap::new();
            let mut last = after;
            loop {
                let event = next(&mut stream).await.unwrap();
                assert!(event.revision > last, "{} came after {last}", event.revision);
                assert_eq!(event.changes.len(), 2);
                last = event.revision;
                let Change::Put { entry, .. } = &event.changes[0] else { panic!("{event:?}") };
                if entry.key == "k/end-1" || entry.key == "k/end-2" {
                    return (after, seen);
                }
                seen.insert(event.revision, String::from_utf8(entry.value.to_vec()).unwrap());
            }
        })
    });
    let watchers: Vec<_> = watchers.collect();
    let made: BTreeMap<Revision, String> = join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(made.len(), WRITERS * COMMITS, "a revision was given twice");
    assert!(*made.keys().next().unwrap() > begin);
    // A watcher may have begun after the last of the writers: this ends them all, whenever they began.
    let mut unfinished = join_all(watchers.into_iter().map(|watcher| async {
        let mut watcher = watcher;
        loop {
            tokio::select! {
                done = &mut watcher => return done.unwrap(),
                outcome = store.commit(vec![put("k/end-1", Expect::Any, ""), put("k/end-2", Expect::Any, "")]) => drop(outcome.unwrap()),
            }
        }
    }))
    .await;
    for (after, seen) in unfinished.drain(..) {
        let expected: BTreeMap<_, _> = made.range(after + 1..).map(|(revision, value)| (*revision, value.clone())).collect();
        assert_eq!(seen, expected);
    }
}

async fn a_watch_from_before_a_compaction_is_refused(store: Arc<dyn Store>) {
    let first = commit(&store, put("k", Expect::Any, "1")).await;
    let second = commit(&store, put("k", Expect::Any, "2")).await;
    let third = commit(&store, delete("k", Expect::Any)).await;
    let fourth = commit(&store, put("k", Expect::Any, "4")).await;
    store.compact(third).await.unwrap();
    store.compact(second).await.unwrap();
    for after in [first, second] {
        let refused = match store.watch(b"", after, Previous::Told).await {
            Err(error) => error,
            Ok(mut stream) => next(&mut stream).await.unwrap_err(),
        };
        let WatchError::Compacted { asked, oldest } = refused else { panic!("{refused}") };
        assert!(asked == after && (third..fourth).contains(&oldest), "{asked}, {oldest}");
    }
    assert_eq!(next(&mut watch(&store, "", third).await).await.unwrap().revision, fourth);
    assert_eq!(&store.get(b"k").await.unwrap().unwrap().value[..], b"4");
    let future = store.compact(fourth + 1000).await.unwrap_err();
    assert!(matches!(future, StoreError::Revision { asked, .. } if asked == fourth + 1000), "{future}");
}

async fn a_commit_that_no_store_takes_is_refused_and_changes_nothing(store: Arc<dyn Store>) {
    let before = commit(&store, put("k", Expect::Any, "1")).await;
    let known = store.revision().await.unwrap();
    let many = (0..200).map(|i| put(format!("many/{i}"), Expect::Any, "")).collect();
    for (what, writes) in [
        ("no key", vec![put("", Expect::Any, "1")]),
        ("a long key", vec![put([b'k'; 100_000], Expect::Any, "1")]),
        ("a key twice", vec![put("k", Expect::Any, "2"), delete("k", Expect::Any)]),
        ("a large value", vec![put("k", Expect::Any, vec![0; 4 << 20])]),
        ("many writes", many),
    ] {
        match store.commit(writes).await {
            Err(CommitError::Store(error @ StoreError::Invalid { .. })) => assert!(!error.outcome_unknown()),
            other => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(store.get(b"").await.unwrap(), None);
    assert_eq!(store.get(&[b'k'; 100_000]).await.unwrap(), None);
    assert_eq!(store.revision().await.unwrap(), known);
    assert!(commit(&store, put("k", Expect::At(before), "2")).await > before);
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Embedded::open(dir.path(), Options::default()).unwrap() as Arc<dyn Store>;
    let store = open();
    let first = commit(&store, put("k", Expect::Absent, "1")).await;
    let second = commit(&store, put("gone", Expect::Absent, "1")).await;
    let third = commit(&store, delete("gone", Expect::At(second))).await;
    drop(store);
    let store = open();
    assert_eq!(store.revision().await.unwrap(), third);
    let all = store.range(b"a", b"z", 0).await.unwrap();
    assert_eq!(all.entries, [Entry { key: "k".into(), value: "1".into(), modified: first }]);
    let mut stream = watch(&store, "", third).await;
    let fourth = commit(&store, put("k", Expect::At(first), "2")).await;
    assert!(fourth > third);
    assert_eq!(next(&mut stream).await.unwrap().revision, fourth);
}

#[tokio::test]
async fn a_watch_is_taken_up_after_reopening_and_tells_all_that_it_would_have_told() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Embedded::open(dir.path(), Options::default()).unwrap() as Arc<dyn Store>;
    let mut store = open();
    let mut uncut = watch(&store, "a", 0).await;
    let mut told = Vec::new();
    for i in 0..300_u64 {
        let key = format!("{}/{}", ["a", "b"][usize::from(i % 7 == 0)], i % 11);
        let write = if i % 5 == 4 { delete(&key, Expect::Any) } else { put(&key, Expect::Any, format!("value {i}")) };
        commit(&store, write).await;
        // One of several writes too, of which a watch sees some.
        store.commit(several(i)).await.unwrap();
        if i % 100 == 50 {
            told.extend(ready(&mut uncut).await);
            let known = told.last().map_or(0, |event: &WatchEvent| event.revision);
            drop((uncut, store));
            store = open();
            // What is committed before the history is asked for comes after it.
            commit(&store, put("a/0", Expect::Any, "first after the start")).await;
            uncut = watch(&store, "a", known).await;
        }
    }
    told.extend(ready(&mut uncut).await);
    drop((uncut, store));
    store = open();
    let mut again = watch(&store, "a", 0).await;
    assert_eq!(ready(&mut again).await, told);
    assert!(told.len() > 400, "{}", told.len());
    assert!(told.iter().flat_map(|event| &event.changes).any(|change| matches!(change, Change::Delete { previous: Some(_), .. })));
    // What is compacted stays so.
    store.compact(told[300].revision).await.unwrap();
    commit(&store, put("a/0", Expect::Any, "last")).await;
    drop((again, store));
    store = open();
    let refused = store.watch(b"a", told[299].revision, Previous::Told).await.err();
    assert!(matches!(refused, Some(WatchError::Compacted { oldest, .. }) if oldest == told[300].revision), "{refused:?}");
    assert_eq!(ready(&mut watch(&store, "a", told[300].revision).await).await[..told.len() - 301], told[301..]);
}

#[tokio::test]
async fn a_commit_too_large_to_be_recorded_is_the_end_of_history_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Embedded::open(dir.path(), Options::default()).unwrap() as Arc<dyn Store>;
    let store = open();
    commit(&store, put("k", Expect::Absent, "x".repeat(200_000))).await;
    let replaced = commit(&store, put("k", Expect::Any, "2")).await;
    let last = commit(&store, put("k", Expect::Any, "3")).await;
    drop(store);
    let store = open();
    let refused = store.watch(b"", replaced - 1, Previous::Told).await.err();
    assert!(matches!(refused, Some(WatchError::Compacted { oldest, .. }) if oldest == replaced), "{refused:?}");
    assert_eq!(next(&mut watch(&store, "", replaced).await).await.unwrap().revision, last);
}

fn several(i: u64) -> Vec<Write> {
    (0..=i % 4).map(|n| put(format!("{}/many-{n}", ["a", "c"][usize::from(n == 1)]), Expect::Any, format!("{i} {n}"))).collect()
}

/// What a watch has ready.
async fn ready(stream: &mut WatchStream) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    while let Some(Some(event)) = stream.next().now_or_never() {
        events.push(event.unwrap());
    }
    events
}

#[tokio::test]
async fn a_directory_has_one_opener() {
    let dir = tempfile::tempdir().unwrap();
    let _store = Embedded::open(dir.path(), Options::default()).unwrap();
    let Err(StoreError::Open { place, reason }) = Embedded::open(dir.path(), Options::default()) else { panic!("it was opened twice") };
    assert_eq!((place, &reason[..]), (dir.path().display().to_string(), "another process has it open"));
}

#[tokio::test]
async fn a_watcher_that_does_not_keep_up_is_told_so_and_gets_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Embedded::open(dir.path(), Options { watcher_backlog: 10, ..Options::default() }).unwrap();
    let mut stream = watch(&store, "", 0).await;
    for i in 1..=30 {
        assert_eq!(commit(&store, put("k", Expect::Any, "1")).await, i);
    }
    let mut seen = 0;
    let end = loop {
        match next(&mut stream).await {
            Ok(event) => {
                seen += 1;
                assert_eq!(event.revision, seen);
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(end, WatchError::Lagged), "{end}");
    assert!((1..30).contains(&seen), "{seen} commits were delivered");
}

#[tokio::test]
async fn the_history_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Embedded::open(dir.path(), Options { history_commits: 10, ..Options::default() }).unwrap();
    for _ in 0..30 {
        commit(&store, put("k", Expect::Any, "1")).await;
    }
    let refused = store.watch(b"", 19, Previous::Told).await.err();
    assert!(matches!(refused, Some(WatchError::Compacted { asked: 19, oldest: 20 })), "{refused:?}");
    assert_eq!(next(&mut watch(&store, "", 20).await).await.unwrap().revision, 21);
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, u8, Option<u8>)>),
    Range(u8, u8, usize),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..6u8, 0..4u8, proptest::option::of(any::<u8>()));
    let step = prop_oneof![
        8 => proptest::collection::vec(write, 1..4).prop_map(Step::Commit),
        3 => (0..7u8, 0..7u8, 0..4usize).prop_map(|(start, end, limit)| Step::Range(start, end, limit)),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_embedded_store_does_what_a_map_does(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(like_a_map(steps));
    }
}

async fn like_a_map(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let open = || Embedded::open(dir.path(), Options::default()).unwrap();
    let mut store = open();
    let mut model: BTreeMap<u8, Entry> = BTreeMap::new();
    let mut revision = 0;
    for step in steps {
        match step {
            Step::Reopen => {
                drop(store);
                store = open();
            }
            Step::Range(start, end, limit) => {
                let range = store.range(&[b'a' + start], &[b'a' + end], limit).await.unwrap();
                let all: Vec<Entry> =
                    if start < end { model.range(start..end).map(|(_, entry)| entry.clone()).collect() } else { Vec::new() };
                let shown = if limit == 0 { all.len() } else { limit.min(all.len()) };
                assert_eq!(range, Range { entries: all[..shown].to_vec(), revision, more: shown < all.len() });
            }
            Step::Commit(writes) => {
                // A key may stand in only one of the writes.
                let writes: BTreeMap<u8, _> = writes.into_iter().map(|(key, expect, value)| (key, (expect, value))).collect();
                let expect = |key: &u8, kind: u8| match kind {
                    0 => Expect::Absent,
                    1 => Expect::At(model.get(key).map_or(1, |entry| entry.modified)),
                    2 => Expect::At(revision + 1),
                    _ => Expect::Any,
                };
                let asked: Vec<Write> = writes
                    .iter()
                    .map(|(key, (kind, value))| Write {
                        key: vec![b'a' + key].into(),
                        expect: expect(key, *kind),
                        action: value.map_or(Action::Delete, |value| Action::Put(vec![value].into())),
                    })
                    .collect();
                let holds = |key: &u8, kind: u8| match kind {
                    0 => !model.contains_key(key),
                    1 => model.contains_key(key),
                    2 => false,
                    _ => true,
                };
                let conflict = writes.iter().find(|(key, (kind, _))| !holds(key, *kind)).map(|(key, _)| *key);
                match (store.commit(asked).await, conflict) {
                    (Err(CommitError::Conflict { key, current }), Some(expected)) => {
                        assert_eq!((&key[..], current.as_ref()), (&[b'a' + expected][..], model.get(&expected)));
                    }
                    (Ok(made), None) => {
                        let changes = writes.iter().any(|(key, (_, value))| value.is_some() || model.contains_key(key));
                        revision += u64::from(changes);
                        assert_eq!(made, revision);
                        for (key, (_, value)) in writes {
                            match value {
                                Some(value) => {
                                    model.insert(key, Entry { key: vec![b'a' + key].into(), value: vec![value].into(), modified: revision })
                                }
                                None => model.remove(&key),
                            };
                        }
                    }
                    (outcome, conflict) => panic!("{outcome:?}, expected conflict: {conflict:?}"),
                }
            }
        }
    }
}
