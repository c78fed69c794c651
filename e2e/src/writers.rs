//! Writers who know what became of each of their writes, and watchers who see all of them: what a fault must not disturb.
//!
//! A writer makes one Lease, replaces it by its resource version, deletes it and makes the next. Each write is a step that can
//! happen only after the one before it and only once, so that a write whose answer is lost is tried again until it is seen to
//! have happened. In the end the steps of all writers are what every watcher has seen and what the store holds: nothing else,
//! nothing twice, and at the revisions that were acknowledged.

use futures::{AsyncBufReadExt, StreamExt};
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{task::JoinHandle, time::timeout};

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// How long a gateway may take to answer a write, whatever has become of it.
const ANSWER: Duration = Duration::from_secs(40);
/// How long it may take until all is as it should be in the end.
const END: Duration = Duration::from_secs(90);
/// The steps in the life of an object: the first makes it and the last deletes it.
const LIFE: usize = 6;
/// What the watchers wait for in the end.
const LAST: &str = "the-last";

/// Writers and watchers at work.
pub struct Work {
    clients: Arc<Vec<Client>>,
    ending: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<Vec<Option<u64>>>>,
    watchers: Vec<(Watched, JoinHandle<Vec<Seen>>)>,
}

/// What a watcher asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watched {
    Everything,
    /// And bookmarks.
    Marked,
    /// What has the label of some steps.
    Selected,
}

/// An event as a watcher saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    revision: u64,
    type_: String,
    name: String,
    step: String,
}

/// Whether an object after a step has the label that the watch of some looks for: it comes, stays and goes.
fn selected(step: usize) -> bool {
    step % 4 < 2
}

impl Work {
    /// Begins, at gateways of which each may be gone for a while; every client is of one of them.
    pub async fn begin(clients: Vec<Client>, writers: usize) -> Self {
        let clients = Arc::new(clients);
        let (ending, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let start = revision(&call(&clients[0], Method::GET, PATH, None).await.expect("there is a gateway"));
        let watchers = [Watched::Everything, Watched::Marked, Watched::Selected].into_iter().enumerate().map(|(at, what)| {
            let clients = clients.clone();
            (what, tokio::spawn(async move { watch(&clients, at, what, start).await }))
        });
        let watchers = watchers.collect();
        let writers = (0..writers).map(|number| {
            let (clients, ending, acknowledged) = (clients.clone(), ending.clone(), acknowledged.clone());
            tokio::spawn(async move { write(&clients, number, &ending, &acknowledged).await })
        });
        let writers = writers.collect();
        Self { clients, ending, acknowledged, writers, watchers }
    }

    /// How many writes were acknowledged until now.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so many more writes are acknowledged.
    pub async fn goes_on(&self, writes: usize) {
        let wanted = self.acknowledged() + writes;
        let written = async {
            while self.acknowledged() < wanted {
                self.no_panic();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(END, written).await.expect("the writers go on");
    }

    fn no_panic(&self) {
        let watchers = self.watchers.iter().filter(|(_, task)| task.is_finished()).count();
        assert_eq!((self.writers.iter().filter(|task| task.is_finished()).count(), watchers), (0, 0), "a writer or a watcher gave up");
    }

    /// Ends the writers, and sees that all that they did is there and was seen, once. Says how many steps that were.
    pub async fn check(self) -> usize {
        self.ending.store(true, Ordering::SeqCst);
        let mut steps = Vec::new();
        for (number, writer) in self.writers.into_iter().enumerate() {
            let steps_of = timeout(END, writer).await.unwrap_or_else(|_| panic!("writer {number} ends")).expect("a writer does not fail");
            steps.push(steps_of);
        }
        let client = &self.clients[0];
        let last = json!({ "metadata": { "name": LAST, "labels": { "selected": "true" } } });
        call(client, Method::POST, PATH, Some(&last)).await.expect("the gateway is there in the end");
        let mut seen = Vec::new();
        for (what, watcher) in self.watchers {
            let events = timeout(END, watcher).await.unwrap_or_else(|_| panic!("the watcher of {what:?} ends"));
            let events = events.expect("a watcher does not fail");
            for pair in events.windows(2) {
                assert!(pair[0].revision < pair[1].revision, "the watcher of {what:?} saw {pair:?} in this order");
            }
            seen.push(events);
        }
        let [everything, marked, of_some] = &seen[..] else { panic!("three watchers watch") };
        assert_eq!(first_difference(everything, marked), None);
        assert_eq!(first_difference(of_some, &some_of(everything)), None);
        let list = call(client, Method::GET, PATH, None).await.expect("the gateway is there in the end");
        check_steps(&steps, everything, &list);
        steps.iter().map(Vec::len).sum()
    }
}

/// The first place at which two sequences differ, with what is there.
fn first_difference<'a>(one: &'a [Seen], other: &'a [Seen]) -> Option<(usize, Option<&'a Seen>, Option<&'a Seen>)> {
    (0..one.len().max(other.len())).map(|at| (at, one.get(at), other.get(at))).find(|(_, one, other)| one != other)
}

/// What the watcher of some objects should have seen.
fn some_of(events: &[Seen]) -> Vec<Seen> {
    let mut within: BTreeMap<&str, bool> = BTreeMap::new();
    let mut some = Vec::new();
    for event in events {
        let is = event.type_ != "DELETED" && (event.name == LAST || selected(event.step.parse().expect("a step is a number")));
        let was = within.insert(&event.name, is).unwrap_or(false);
        let type_ = match (was, is) {
            (false, false) => continue,
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
        };
        // What leaves the selection is seen as it was before.
        let step = match (type_, &*event.type_) {
            ("DELETED", "MODIFIED") => (event.step.parse::<usize>().expect("a step is a number") - 1).to_string(),
            _ => event.step.clone(),
        };
        some.push(Seen { type_: type_.into(), step, ..event.clone() });
    }
    some
}

/// Each step of each writer was seen once, in order, at the revision that was acknowledged, and what is left is there.
fn check_steps(steps: &[Vec<Option<u64>>], events: &[Seen], list: &Value) {
    let mut left: BTreeMap<String, (u64, String)> = BTreeMap::new();
    let mut of: Vec<Vec<&Seen>> = vec![Vec::new(); steps.len()];
    for event in events.iter().filter(|event| event.name != LAST) {
        let (writer, _) = event.name.trim_start_matches('w').split_once('-').expect("a name of ours");
        of[writer.parse::<usize>().expect("a writer is a number")].push(event);
        match &*event.type_ {
            "DELETED" => drop(left.remove(&event.name)),
            _ => drop(left.insert(event.name.clone(), (event.revision, event.step.clone()))),
        }
    }
    for (writer, (steps, seen)) in steps.iter().zip(of).enumerate() {
        for (step, acknowledged) in steps.iter().enumerate() {
            let (type_, shown) = match step % LIFE {
                0 => ("ADDED", step),
                last if last == LIFE - 1 => ("DELETED", step - 1),
                _ => ("MODIFIED", step),
            };
            let event = seen.get(step).unwrap_or_else(|| panic!("step {step} of writer {writer} was seen by no watcher"));
            let wanted = (type_, name(writer, step), shown.to_string());
            assert_eq!((&*event.type_, event.name.clone(), event.step.clone()), wanted, "writer {writer}, step {step}: {event:?}");
            assert!(acknowledged.is_none_or(|at| at == event.revision), "writer {writer}, step {step}: {acknowledged:?}, {event:?}");
        }
        assert_eq!(seen.len(), steps.len(), "writer {writer}: more was seen than was written: {:?}", seen.last());
    }
    let items = list["items"].as_array().expect("a list has items").iter();
    let found = items.filter(|item| item["metadata"]["name"] != LAST).map(|item| {
        let step = item["metadata"]["annotations"]["step"].as_str().unwrap_or_default().to_owned();
        (item["metadata"]["name"].as_str().unwrap_or_default().to_owned(), (revision(item), step))
    });
    assert_eq!(found.collect::<BTreeMap<_, _>>(), left, "what is there is not what was written");
}

fn name(writer: usize, step: usize) -> String {
    format!("w{writer}-{}", step / LIFE)
}

/// Makes one step after the other until the end; returns the revision of each, unless its answer was lost.
async fn write(clients: &[Client], writer: usize, ending: &AtomicBool, acknowledged: &AtomicUsize) -> Vec<Option<u64>> {
    let mut steps = Vec::new();
    let mut current = 0;
    let mut at = writer;
    while !ending.load(Ordering::SeqCst) {
        let step = steps.len();
        let path = format!("{PATH}/{}", name(writer, step));
        // Known to have been made once there was an answer, or once it is seen.
        let mut doubtful = false;
        steps.push(loop {
            let client = &clients[at % clients.len()];
            let mut object = json!({
                "metadata": { "name": name(writer, step), "annotations": { "step": step.to_string() }, "labels": { "selected": selected(step).to_string() } },
                "spec": { "holderIdentity": format!("{writer}-{step}-{}", "x".repeat(200)) },
            });
            let answer = match step % LIFE {
                0 => call(client, Method::POST, PATH, Some(&object)).await,
                last if last == LIFE - 1 => {
                    let only = json!({ "preconditions": { "resourceVersion": current.to_string() } });
                    call(client, Method::DELETE, &path, Some(&only)).await
                }
                _ => {
                    object["metadata"]["resourceVersion"] = current.to_string().into();
                    call(client, Method::PUT, &path, Some(&object)).await
                }
            };
            match answer {
                // What is answered is the object as it was: at which revision it went, the watchers see.
                Ok(_) if step % LIFE == LIFE - 1 => break None,
                Ok(answer) => {
                    current = revision(&answer);
                    break Some(current);
                }
                Err(Failed::Refused(404)) if doubtful && step % LIFE == LIFE - 1 => break None,
                Err(Failed::Refused(409)) if doubtful => {
                    // It has been made since: by whom else?
                    let Some(found) = look(clients, &mut at, &path).await else { panic!("{path} conflicts and is not there") };
                    assert_eq!(found["metadata"]["annotations"]["step"], step.to_string(), "{path}");
                    current = revision(&found);
                    break None;
                }
                Err(Failed::Refused(code)) => panic!("step {step} of {path}, at {current}, was refused with {code}; in doubt: {doubtful}"),
                Err(Failed::Unknown) => {
                    doubtful = true;
                    at += 1;
                    tokio::time::sleep(RETRY).await;
                }
            }
        });
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
    steps
}

/// An object, from the first gateway that answers.
async fn look(clients: &[Client], at: &mut usize, path: &str) -> Option<Value> {
    loop {
        match call(&clients[*at % clients.len()], Method::GET, path, None).await {
            Ok(found) => return Some(found),
            Err(Failed::Refused(404)) => return None,
            Err(Failed::Refused(code)) => panic!("{path} is answered with {code}"),
            Err(Failed::Unknown) => {
                *at += 1;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Why there is no answer, or no good one.
#[derive(Debug)]
enum Failed {
    /// It was not done.
    Refused(u16),
    /// Whether it was done is unknown.
    Unknown,
}

async fn call(client: &Client, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failed> {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header("content-type", "application/json").body(body);
    let answer = client.request::<Value>(request.expect("it is a request"));
    match timeout(ANSWER, answer).await.unwrap_or_else(|_| panic!("{path} is not answered at all")) {
        Ok(answer) => Ok(answer),
        // Too many, a fault inside, no store: not done, or nobody knows.
        Err(kube::Error::Api(status)) if status.code == 429 || status.code >= 500 => Err(Failed::Unknown),
        Err(kube::Error::Api(status)) => Err(Failed::Refused(status.code)),
        Err(_) => Err(Failed::Unknown),
    }
}

/// Watches from a revision on, and after each end from the last revision that it knows, until the last object.
async fn watch(clients: &[Client], mut at: usize, what: Watched, start: u64) -> Vec<Seen> {
    let query = match what {
        Watched::Everything => "",
        Watched::Marked => "&allowWatchBookmarks=true",
        Watched::Selected => "&labelSelector=selected%3Dtrue",
    };
    let mut known = start;
    let mut seen = Vec::new();
    loop {
        let request = Request::get(format!("{PATH}?watch=1&resourceVersion={known}{query}")).body(Vec::new()).expect("it is a request");
        let Ok(Ok(stream)) = timeout(ANSWER, clients[at % clients.len()].request_stream(request)).await else {
            at += 1;
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let mut lines = stream.lines();
        // A line that was cut off was not seen.
        while let Some(Ok(line)) = lines.next().await {
            let Ok(mut line) = serde_json::from_str::<Value>(&line) else { break };
            if line["kind"] == "Status" {
                // Not ready yet, or no store.
                assert!(line["code"].as_u64().is_some_and(|code| code >= 500 || code == 429), "{line}");
                break;
            }
            let (type_, object) = (line["type"].as_str().unwrap_or_default().to_owned(), line["object"].take());
            assert_ne!(type_, "ERROR", "the watcher of {what:?} wanted to go on after {known}: {object}");
            known = revision(&object);
            if type_ == "BOOKMARK" {
                continue;
            }
            let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let step = object["metadata"]["annotations"]["step"].as_str().unwrap_or_default().to_owned();
            seen.push(Seen { revision: known, type_, name, step });
            if seen.last().is_some_and(|last| last.name == LAST) {
                return seen;
            }
        }
        at += 1;
        tokio::time::sleep(RETRY).await;
    }
}

fn revision(object: &Value) -> u64 {
    let version = object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok());
    version.unwrap_or_else(|| panic!("no resource version: {object}"))
}
