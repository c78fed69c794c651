//! `watch`: what every client's cache rests on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "what fails here fails the test")]

mod common;

use basalt_api::VirtualMachine;
use basalt_store::{Action, CommitError, Previous, Range, Revision, Store, StoreError, WatchError, WatchStream, Write, embedded::Embedded};
use common::{
    Server, start, start_on,
    wire::{HOSTS, Line, MERGE, NAMESPACES, VMS, Watch, host, labelled, names, resource_version, vm},
};
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, ResourceExt,
    runtime::{WatchStreamExt, reflector, watcher},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use tokio_util::sync::CancellationToken;

async fn relabel(server: &Server, name: &str, labels: Value) -> Value {
    server.patch(&format!("{VMS}/{name}"), MERGE, &json!({ "metadata": { "labels": labels } })).await.ok(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_where_it_is_told_to() {
    let server = start().await;
    let a = resource_version(&server.post(VMS, &vm("a")).await.ok(201));
    server.post(VMS, &vm("b")).await.ok(201);
    relabel(&server, "a", json!({ "x": "1" })).await;
    server.delete(&format!("{VMS}/b"), json!(null)).await.ok(200);
    let newest = resource_version(&server.get(VMS).await.ok(200));

    // Without a version, and with 0, the present state comes first.
    for (round, query) in ["", "?resourceVersion=", "?resourceVersion=0"].into_iter().enumerate() {
        let mut watch = server.watch(&format!("{VMS}{query}")).await;
        assert_eq!(watch.take(1).await, ["ADDED a"], "{query}");
        relabel(&server, "a", json!({ "round": round.to_string() })).await;
        assert_eq!(watch.take(1).await, ["MODIFIED a"], "{query}");
    }
    // After a version comes what happened since, each with the version that it made.
    let mut watch = server.watch(&format!("{VMS}?resourceVersion={a}")).await;
    let lines = [watch.next().await.unwrap(), watch.next().await.unwrap(), watch.next().await.unwrap()];
    assert_eq!(lines.each_ref().map(Line::brief), ["ADDED b", "MODIFIED a", "DELETED b"]);
    assert!(lines[0].version() > a && lines[1].version() > lines[0].version() && lines[2].version() == newest);
    let mut watch = server.watch(&format!("{VMS}?resourceVersion={newest}&fieldSelector=metadata.name%3Da")).await;
    assert_eq!(watch.take(1).await, ["MODIFIED a"]);
    // One object, in the form that kubectl used to ask.
    server.post(VMS, &vm("c")).await.ok(201);
    let mut watch = server.watch(&format!("{VMS}/c?resourceVersion={a}")).await;
    assert_eq!(watch.take(1).await, ["ADDED c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_of_its_namespace_and_of_its_kind() {
    let server = start().await;
    server.post(NAMESPACES, &json!({ "metadata": { "name": "team" } })).await.ok(201);
    let (mut here, mut everywhere) = (server.watch(VMS).await, server.watch("/apis/basalt.dev/v1alpha1/virtualmachines").await);
    server.post(HOSTS, &host("h")).await.ok(201);
    server.post(&VMS.replace("default", "team"), &vm("theirs")).await.ok(201);
    server.post(VMS, &vm("ours")).await.ok(201);
    assert_eq!(here.take(1).await, ["ADDED ours"]);
    assert_eq!(everywhere.take(2).await, ["ADDED theirs", "ADDED ours"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_enters_and_leaves_the_selection_is_added_and_deleted() {
    let server = start().await;
    server.post(VMS, &labelled(vm("a"), json!({ "app": "web" }))).await.ok(201);
    server.post(VMS, &vm("b")).await.ok(201);
    let mut watch = server.watch(&format!("{VMS}?labelSelector=app%3Dweb")).await;
    assert_eq!(watch.take(1).await, ["ADDED a"]);
    relabel(&server, "b", json!({ "app": "web" })).await;
    relabel(&server, "b", json!({ "other": "1" })).await;
    assert_eq!(watch.take(2).await, ["ADDED b", "MODIFIED b"]);
    let left = relabel(&server, "a", json!({ "app": "db" })).await;
    let line = watch.next().await.unwrap();
    // It goes as it was when it was last selected, at the version that took it out.
    assert_eq!((line.brief().as_str(), &line.object["metadata"]["labels"]), ("DELETED a", &json!({ "app": "web" })));
    assert_eq!(line.version(), resource_version(&left));
    // What is not selected is not heard of, nor is its end.
    relabel(&server, "a", json!({ "x": "1" })).await;
    server.delete(&format!("{VMS}/a"), json!(null)).await.ok(200);
    server.delete(&format!("{VMS}/b"), json!(null)).await.ok(200);
    let line = watch.next().await.unwrap();
    assert_eq!((line.brief().as_str(), &line.object["metadata"]["labels"]["other"]), ("DELETED b", &json!("1")));

    // The same when it is told from history.
    let mut watch = server.watch(&format!("{VMS}?labelSelector=app%3Dweb&resourceVersion={}", resource_version(&left) - 1)).await;
    assert_eq!(watch.take(2).await, ["DELETED a", "DELETED b"]);

    let mut watch = server.watch(&format!("{NAMESPACES}?fieldSelector=status.phase%3DActive")).await;
    assert_eq!(watch.take(1).await, ["ADDED default"]);
    let held = json!({ "metadata": { "name": "team", "finalizers": ["x/hold"] } });
    server.post(NAMESPACES, &held).await.ok(201);
    server.delete(&format!("{NAMESPACES}/team"), json!(null)).await.ok(200);
    assert_eq!(watch.take(2).await, ["ADDED team", "DELETED team"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_in_time_and_its_bookmark_is_where_the_next_begins() {
    let server = start().await;
    server.post(VMS, &vm("a")).await.ok(201);
    let mut watch = server.watch(&format!("{VMS}?timeoutSeconds=1&allowWatchBookmarks=true")).await;
    // What happens to other kinds moves the bookmark too.
    let newest = resource_version(&server.post(HOSTS, &host("h")).await.ok(201));
    assert_eq!(watch.take(1).await, ["ADDED a"]);
    let bookmark = watch.next().await.unwrap();
    assert_eq!((bookmark.type_.as_str(), &bookmark.object["kind"]), ("BOOKMARK", &json!("VirtualMachine")));
    assert!(bookmark.version() >= newest, "{bookmark:?}");
    assert_eq!(watch.next().await, None);
    let mut next = server.watch(&format!("{VMS}?resourceVersion={}&timeoutSeconds=1", bookmark.version())).await;
    server.post(VMS, &vm("b")).await.ok(201);
    assert_eq!(next.take(1).await, ["ADDED b"]);
    // Who does not ask for bookmarks gets none.
    assert_eq!(next.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_initial_events_is_announced() {
    let server = start().await;
    for name in ["a", "b"] {
        server.post(VMS, &vm(name)).await.ok(201);
    }
    let listing = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let newest = server.revision().await;
    let mut watch = server.watch(&format!("{VMS}?{listing}")).await;
    assert_eq!(watch.take(2).await, ["ADDED a", "ADDED b"]);
    let end = watch.next().await.unwrap();
    assert_eq!((end.type_.as_str(), &end.object["metadata"]["annotations"]["k8s.io/initial-events-end"]), ("BOOKMARK", &json!("true")));
    assert_eq!(end.version(), newest);
    server.post(VMS, &vm("c")).await.ok(201);
    assert_eq!(watch.take(1).await, ["ADDED c"]);
    let mut without = server.watch(&format!("{VMS}?sendInitialEvents=false&resourceVersionMatch=NotOlderThan")).await;
    server.post(VMS, &vm("d")).await.ok(201);
    assert_eq!(without.take(1).await, ["ADDED d"]);
    for wrong in ["sendInitialEvents=true", "resourceVersionMatch=NotOlderThan", "sendInitialEvents=true&resourceVersionMatch=Exact"] {
        server.get(&format!("{VMS}?watch=1&{wrong}")).await.refused(422, "Invalid");
    }
}

/// The only line of a watch that cannot begin, which is an error.
async fn refusal(mut watch: Watch) -> Value {
    let line = watch.next().await.unwrap();
    assert_eq!(line.type_, "ERROR");
    assert_eq!(watch.next().await, None);
    line.object
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_what_is_gone_or_never_was_says_410_in_the_stream() {
    let server = start().await;
    let first = resource_version(&server.post(VMS, &vm("a")).await.ok(201));
    let (server, rounds) = (&server, 0..700);
    // A kind remembers 10,000 events.
    futures::stream::iter(rounds)
        .for_each_concurrent(32, |round| async move {
            let path = format!("{VMS}/vm-{round}");
            server.post(VMS, &vm(&format!("vm-{round}"))).await.ok(201);
            for step in 0..14 {
                server.patch(&path, MERGE, &json!({ "metadata": { "annotations": { "step": step.to_string() } } })).await.ok(200);
            }
        })
        .await;
    let status = refusal(server.watch(&format!("{VMS}?resourceVersion={first}")).await).await;
    assert_eq!((&status["code"], &status["reason"], &status["kind"]), (&json!(410), &json!("Expired"), &json!("Status")));
    assert!(status["message"].as_str().unwrap().starts_with(&format!("too old resource version: {first} (")), "{status}");
    // The store never made it: what the client has is of another history, and it has to list again.
    let status = refusal(server.watch(&format!("{VMS}?resourceVersion=99999999")).await).await;
    assert_eq!(status["code"], 410);
    server.get(&format!("{VMS}?watch=1&resourceVersion=x")).await.refused(400, "BadRequest");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_tables_and_metadata() {
    let server = start().await;
    server.post(VMS, &vm("a")).await.ok(201);
    let mut watch = server.watch_as(VMS, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let first = watch.next().await.unwrap().object;
    server.post(VMS, &vm("b")).await.ok(201);
    let second = watch.next().await.unwrap().object;
    let columns = |table: &Value| table["columnDefinitions"].as_array().unwrap().len();
    assert_eq!((&first["rows"][0]["cells"][0], &second["rows"][0]["cells"][0]), (&json!("a"), &json!("b")));
    assert!(columns(&first) > 5 && columns(&second) == 0, "the columns are told once");
    let mut watch = server.watch_as(VMS, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await;
    let line = watch.next().await.unwrap().object;
    assert_eq!((&line["kind"], line.get("spec")), (&json!("PartialObjectMetadata"), None));
}

/// A copy of the objects, kept by the lines of a watch, which must fit it.
#[derive(Default)]
struct Mirror {
    objects: BTreeMap<String, Value>,
    version: u64,
}

impl Mirror {
    fn take(&mut self, line: Line) {
        assert!(line.version() > self.version, "{} is not after {}", line.version(), self.version);
        self.version = line.version();
        let name = line.object["metadata"]["name"].as_str().unwrap().to_owned();
        let count = |object: &Value| object["spec"]["cpus"].as_u64().unwrap();
        match (line.type_.as_str(), self.objects.get(&name)) {
            ("ADDED", None) => assert_eq!(count(&line.object), 1, "{name} was added before"),
            ("MODIFIED", Some(known)) => assert_eq!(count(&line.object), count(known) + 1, "{name} was changed before"),
            ("DELETED", Some(known)) => assert_eq!(count(&line.object), count(known), "{name} was changed before"),
            (type_, known) => panic!("{type_} {name}, which is {known:?}"),
        }
        if line.type_ == "DELETED" {
            self.objects.remove(&name)
        } else {
            self.objects.insert(name, line.object)
        };
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_16_writers_write_no_watcher_misses_or_repeats_anything() {
    let server = Arc::new(start().await);
    let start = server.revision().await;
    let writers = (0..16).map(|writer| {
        let server = server.clone();
        tokio::spawn(async move {
            for round in 0..12 {
                let name = format!("vm-{writer}-{}", round % 3);
                let path = format!("{VMS}/{name}");
                if server.post(VMS, &vm(&name)).await.code == 201 {
                    for cpus in 2..5 {
                        server.patch(&path, MERGE, &json!({ "spec": { "cpus": cpus } })).await.ok(200);
                    }
                }
                if round < 10 {
                    server.delete(&path, json!(null)).await.ok(200);
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    let done = CancellationToken::new();
    // Watchers that begin at any moment, and begin again where they left.
    let watchers = (0..24).map(|watcher| {
        let (server, done) = (server.clone(), done.clone());
        tokio::spawn(async move {
            for _ in 0..watcher {
                server.revision().await;
            }
            let mut mirror = Mirror { version: start, ..Mirror::default() };
            if watcher % 2 == 1 {
                let list = server.get(VMS).await.ok(200);
                mirror.version = resource_version(&list);
                mirror.objects = names(&list).into_iter().map(str::to_owned).zip(list["items"].as_array().unwrap().clone()).collect();
            }
            loop {
                let ending = done.is_cancelled();
                let from = format!("{VMS}?resourceVersion={}", mirror.version);
                if ending {
                    // All there is, to the last.
                    let mut watch = server.watch(&format!("{from}&timeoutSeconds=1")).await;
                    while let Some(line) = watch.next().await {
                        mirror.take(line);
                    }
                    return mirror.objects;
                }
                let mut watch = server.watch(&from).await;
                for _ in 0..5 + watcher {
                    tokio::select! {
                        line = watch.next() => mirror.take(line.unwrap()),
                        () = done.cancelled() => break,
                    }
                }
            }
        })
    });
    let watchers: Vec<_> = watchers.collect();
    futures::future::try_join_all(writers).await.unwrap();
    done.cancel();
    let list = server.get(VMS).await.ok(200);
    for mirror in futures::future::try_join_all(watchers).await.unwrap() {
        assert_eq!(json!(mirror.values().collect::<Vec<_>>()), list["items"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_reads_nothing_for_long_gets_all_of_it_or_an_end() {
    let server = start().await;
    let (server, first) = (&server, server.revision().await);
    let mut watch = server.watch(&format!("{VMS}?resourceVersion={first}")).await;
    // More than what the kernel and the server keep for it.
    let text = &"x".repeat(6000);
    futures::stream::iter(0..64)
        .for_each_concurrent(32, |number| async move {
            let name = format!("vm-{number}");
            server.post(VMS, &vm(&name)).await.ok(201);
            for round in 0..100 {
                let patch = json!({ "metadata": { "annotations": { "round": round.to_string(), "text": text } } });
                server.patch(&format!("{VMS}/{name}"), MERGE, &patch).await.ok(200);
            }
        })
        .await;
    let last = server.revision().await;
    let mut version = first;
    while version < last {
        match watch.next().await {
            Some(line) => {
                // Every revision is of this kind.
                assert_eq!(line.version(), version + 1);
                version = line.version();
            }
            None => watch = server.watch(&format!("{VMS}?resourceVersion={version}")).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_one_commit_all_reach_the_watcher() {
    let kept: Arc<Mutex<Option<Arc<dyn Store>>>> = Arc::default();
    let server = start_on(|store| {
        *kept.lock().unwrap() = Some(store.clone());
        store
    })
    .await;
    let store = kept.lock().unwrap().take().unwrap();
    let mut watch = server.watch(VMS).await;
    let writes = ["a", "b", "c"].map(|name| {
        let mut object = vm(name);
        object["metadata"]["namespace"] = "default".into();
        let key = format!("/registry/basalt.dev/virtualmachines/default/{name}");
        Write { key: key.into(), expect: basalt_store::Expect::Absent, action: Action::Put(object.to_string().into()) }
    });
    store.commit(writes.to_vec()).await.unwrap();
    assert_eq!(watch.take(3).await, ["ADDED a", "ADDED b", "ADDED c"]);
}

/// A store whose watch can be cut, as the connection to an etcd is, and held back before it is made anew.
struct Cuttable {
    store: Arc<dyn Store>,
    cut: Mutex<CancellationToken>,
    whole: tokio::sync::watch::Sender<bool>,
}

#[async_trait::async_trait]
impl Store for Cuttable {
    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }
    async fn get(&self, key: &[u8]) -> Result<Option<basalt_store::Entry>, StoreError> {
        self.store.get(key).await
    }
    async fn range(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Range, StoreError> {
        self.store.range(start, end, limit).await
    }
    async fn commit(&self, writes: Vec<Write>) -> Result<Revision, CommitError> {
        self.store.commit(writes).await
    }
    async fn watch(&self, prefix: &[u8], after: Revision, previous: Previous) -> Result<WatchStream, WatchError> {
        let _ = self.whole.subscribe().wait_for(|whole| *whole).await;
        let cut = CancellationToken::new();
        *self.cut.lock().unwrap() = cut.clone();
        Ok(self.store.watch(prefix, after, previous).await?.take_until(cut.cancelled_owned()).boxed())
    }
    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.store.compact(revision).await
    }
}

impl Cuttable {
    /// What another gateway writes.
    async fn put(&self, name: &str, cpus: u64) -> Revision {
        let mut object = vm(name);
        object["metadata"]["namespace"] = "default".into();
        object["spec"]["cpus"] = cpus.into();
        let write = Write { key: key(name).into(), expect: basalt_store::Expect::Any, action: Action::Put(object.to_string().into()) };
        self.store.commit(vec![write]).await.unwrap()
    }

    fn cut(&self) {
        self.whole.send_replace(false);
        self.cut.lock().unwrap().cancel();
    }
}

fn key(name: &str) -> String {
    format!("/registry/basalt.dev/virtualmachines/default/{name}")
}

async fn start_cuttable() -> (Server, Arc<Cuttable>) {
    let kept: Arc<Mutex<Option<Arc<Cuttable>>>> = Arc::default();
    let server = start_on(|store| {
        let cuttable = Arc::new(Cuttable { store, cut: Mutex::default(), whole: tokio::sync::watch::Sender::new(true) });
        *kept.lock().unwrap() = Some(cuttable.clone());
        cuttable
    })
    .await;
    let store = kept.lock().unwrap().take().unwrap();
    (server, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_of_the_store_is_taken_up_where_it_ended() {
    let (server, store) = start_cuttable().await;
    let known = resource_version(&server.post(VMS, &vm("a")).await.ok(201));
    let mut watch = server.watch(&format!("{VMS}?resourceVersion={known}")).await;
    store.cut();
    store.put("a", 2).await;
    store.put("a", 3).await;
    store.whole.send_replace(true);
    assert_eq!(watch.take(2).await, ["MODIFIED a", "MODIFIED a"]);
    // History goes back to before the cut.
    assert_eq!(server.watch(&format!("{VMS}?resourceVersion={known}")).await.take(2).await, ["MODIFIED a", "MODIFIED a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_store_was_away_watchers_see_the_difference_in_order() {
    let (server, store) = start_cuttable().await;
    for name in ["a", "b", "z"] {
        server.post(VMS, &vm(name)).await.ok(201);
    }
    let known = resource_version(&server.get(VMS).await.ok(200));
    let mut watch = server.watch(&format!("{VMS}?resourceVersion={known}")).await;
    store.cut();
    // Other gateways write meanwhile, and what they did is compacted: the first in the order of keys is changed last.
    store.put("z", 2).await;
    store.commit(vec![Write { key: key("b").into(), expect: basalt_store::Expect::Any, action: Action::Delete }]).await.unwrap();
    store.put("new", 1).await;
    let last = store.put("a", 2).await;
    store.compact(last).await.unwrap();
    store.whole.send_replace(true);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|line: &Line| line.version() < last) {
        seen.push(watch.next().await.unwrap());
    }
    assert_eq!(seen.iter().map(Line::brief).collect::<Vec<_>>(), ["DELETED b", "MODIFIED z", "ADDED new", "MODIFIED a"]);
    assert!(seen.is_sorted_by_key(Line::version), "{seen:?}");
    // Who was not there for all of it has to list again.
    assert_eq!(refusal(server.watch(&format!("{VMS}?resourceVersion={known}")).await).await["code"], 410);
    server.post(VMS, &vm("later")).await.ok(201);
    assert_eq!(watch.take(1).await, ["ADDED later"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_resumed_at_a_server_that_has_just_been_started() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Embedded::open(&dir.path().join("store"), Default::default()).unwrap();
    let (again, kept) = (store.clone(), store.clone());
    let server = start_on(move |_| store).await;
    for name in ["a", "b"] {
        server.post(VMS, &labelled(vm(name), json!({ "x": "1" }))).await.ok(201);
    }
    let known = server.revision().await;
    relabel(&server, "a", json!({ "x": "2" })).await;
    server.post(HOSTS, &host("h")).await.ok(201);
    relabel(&server, "b", json!({ "y": "1" })).await;
    server.delete(&format!("{VMS}/b"), json!(null)).await.ok(200);
    server.post(VMS, &vm("b")).await.ok(201);
    relabel(&server, "a", json!({ "x": "1" })).await;
    let [everything, selected] = [format!("{VMS}?resourceVersion={known}"), format!("{VMS}?resourceVersion={known}&labelSelector=x%3D1")];
    let hosts = format!("{HOSTS}?resourceVersion={known}");
    let mut told = Vec::new();
    for (path, lines) in [(&everything, 5), (&selected, 4), (&hosts, 1)] {
        told.push(lines_of(&server, path, lines).await);
    }
    assert_eq!(told[1].iter().map(Line::brief).collect::<Vec<_>>(), ["DELETED a", "MODIFIED b", "DELETED b", "ADDED a"]);
    let server = start_on(move |_| again).await;
    for (index, (path, lines)) in [(&everything, 5), (&selected, 4), (&hosts, 1)].into_iter().enumerate() {
        assert_eq!(lines_of(&server, path, lines).await, told[index], "{path}");
    }
    // What the store knows no more is gone here too, and what was told of it is as good as ever.
    kept.compact(server.revision().await).await.unwrap();
    assert_eq!(lines_of(&server, &everything, 5).await, told[0]);
    let early = format!("{VMS}?resourceVersion={}", known - 1);
    assert_eq!(refusal(server.watch(&early).await).await["code"], 410);
    let mut watch = server.watch(&everything).await;
    watch.take(5).await;
    server.post(VMS, &vm("c")).await.ok(201);
    assert_eq!(watch.take(1).await, ["ADDED c"]);
}

async fn lines_of(server: &Server, path: &str, count: usize) -> Vec<Line> {
    let mut watch = server.watch(path).await;
    let mut lines = Vec::new();
    while lines.len() < count {
        lines.push(watch.next().await.expect("the watch goes on"));
    }
    lines
}

async fn reflected(server: &Server, config: watcher::Config) {
    let api: Api<VirtualMachine> = Api::default_namespaced(server.client());
    for name in ["a", "b"] {
        server.post(VMS, &vm(name)).await.ok(201);
    }
    // A streaming list is content with what the server knows: have it know them.
    server.get(VMS).await.ok(200);
    let (store, writer) = reflector::store();
    let mut events = reflector(writer, watcher(api, config)).applied_objects().boxed();
    let ready = async {
        store.wait_until_ready().await.unwrap();
        assert_eq!(store.len(), 2);
        server.patch(&format!("{VMS}/a"), MERGE, &json!({ "spec": { "cpus": 2 } })).await.ok(200);
        server.delete(&format!("{VMS}/b"), json!(null)).await.ok(200);
        server.post(VMS, &vm("c")).await.ok(201);
    };
    let seen = async {
        let mut seen = BTreeMap::new();
        while !seen.contains_key("c") || seen.get("a") != Some(&2) {
            let object = events.try_next().await.unwrap().unwrap();
            seen.insert(object.name_any(), object.spec.cpus);
        }
    };
    futures::join!(ready, seen);
    let mut state: Vec<_> = store.state().iter().map(|vm| (vm.name_any(), vm.spec.cpus)).collect();
    state.sort();
    assert_eq!(state, [("a".to_owned(), 2), ("c".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_of_kube_rs_follows_by_list_and_watch() {
    reflected(&start().await, watcher::Config::default().page_size(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_of_kube_rs_follows_by_a_streaming_list() {
    reflected(&start().await, watcher::Config::default().streaming_lists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_of_kube_rs_lists_again_when_history_is_gone() {
    let (server, store) = start_cuttable().await;
    server.post(VMS, &vm("a")).await.ok(201);
    let api: Api<VirtualMachine> = Api::default_namespaced(server.client());
    // Watches that last a second, so that the next one begins after the cut.
    let mut events = watcher(api, watcher::Config::default().timeout(1).disable_bookmarks()).default_backoff().boxed();
    let mut lists = 0;
    while lists == 0 {
        lists += usize::from(matches!(events.try_next().await.unwrap().unwrap(), watcher::Event::InitDone));
    }
    store.cut();
    // The history is gone up to a change of another kind, after which this kind has none.
    let last = resource_version(&server.post(HOSTS, &host("h")).await.ok(201));
    store.compact(last).await.unwrap();
    store.whole.send_replace(true);
    while lists == 1 {
        // Errors are told on the way; what counts is that it comes back by itself.
        let event = tokio::time::timeout(common::wire::PATIENCE, events.next()).await.expect("the watcher comes back").unwrap();
        lists += usize::from(matches!(event, Ok(watcher::Event::InitDone)));
    }
}
