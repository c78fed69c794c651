//! Lists, watches and memory of the API server, against etcd with the same objects.

use super::{BenchError, etcd::Etcd, gateway::resident_mib, percentile};
use crate::{Fleet, Options};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Namespace};
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, PostParams, WatchEvent, WatchParams},
};
use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Size of an object's note; with the rest of it, it has about 1 KiB.
const NOTE: usize = 600;
/// How many objects are listed.
const LISTED: usize = 10_000;
/// How many objects there are when memory is looked at.
const ALL: usize = 100_000;
/// How many are written at once.
const WRITERS: usize = 64;
/// How often a list is measured.
const LISTS: usize = 9;
/// How many watch, and over how many connections to etcd. A watch of the API has a connection for itself: its client speaks HTTP/1.1.
const WATCHERS: usize = 1000;
const CONNECTIONS: usize = 20;
/// How many writes they see, and how far apart these are.
const WRITES: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);
/// How long the last event may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Prints how long a list takes, how late events come, and what objects cost.
pub async fn run() -> Result<(), BenchError> {
    let fleet = Fleet::start(Options { vmm: "simulated", ..Options::default() });
    let client = fleet.client().await;
    let etcd = Etcd::start()?;
    let pid = u32::try_from(fleet.pid("gateway")).unwrap_or_default();
    let before = (resident_mib(pid)?, resident_mib(etcd.pid())?);

    for name in ["bench", "watched"] {
        let namespace = Namespace { metadata: ObjectMeta { name: Some(name.into()), ..Default::default() }, ..Default::default() };
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await.map_err(failed)?;
    }
    fill(&client, &etcd, "default", LISTED).await?;
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let mut ours = Vec::new();
    let mut bytes = 0;
    for _ in 0..LISTS {
        let request = http::Request::get(path).body(Vec::new()).map_err(|e| BenchError::new("make a request", e))?;
        let begin = Instant::now();
        bytes = client.request_text(request).await.map_err(failed)?.len();
        ours.push(begin.elapsed());
    }
    let mut theirs = Vec::new();
    for _ in 0..LISTS {
        theirs.push(etcd.range("default/", LISTED).await?);
    }
    let (ours, theirs) = (percentile(&mut ours, 0.5), percentile(&mut theirs, 0.5));
    println!(
        "list of {LISTED} objects, {:.1} MiB of JSON over TLS, median of {LISTS}; reference: etcd range of the same bytes",
        mib(bytes)
    );
    println!(
        "  list                        {:>8.1} ms   etcd {:>6.1} ms   {:.2} times as fast",
        ms(ours),
        ms(theirs),
        ms(theirs) / ms(ours)
    );

    let (mut ours, mut theirs) = (watch(&fleet).await?, etcd.watch_latency(WATCHERS, CONNECTIONS, WRITES, PAUSE).await?);
    println!(
        "write sent to event seen, {WATCHERS} watchers with a connection each, {:.0} writes/s; reference: etcd's, over {CONNECTIONS} connections",
        1.0 / PAUSE.as_secs_f64()
    );
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (ours, theirs) = (percentile(&mut ours, share), percentile(&mut theirs, share));
        println!(
            "  {name}                         {:>8.1} ms   etcd {:>6.1} ms   ratio {:.2}",
            ms(ours),
            ms(theirs),
            ms(ours) / ms(theirs)
        );
    }

    fill(&client, &etcd, "bench", ALL - LISTED).await?;
    let after = (resident_mib(pid)?, resident_mib(etcd.pid())?);
    let (ours, theirs) = (after.0 - before.0, after.1 - before.1);
    println!("memory of {ALL} objects of 1 KiB (resident, more than when empty); reference: etcd with the same bytes");
    println!("  gateway                     {ours:>8.0} MiB  etcd {theirs:>6.0} MiB  ratio {:.2}", ours / theirs);
    Ok(())
}

fn failed(error: kube::Error) -> BenchError {
    BenchError::new("use the API", error)
}

fn mib(bytes: usize) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "for people")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn lease(name: &str, note: String) -> Lease {
    let annotations = BTreeMap::from([("note".to_owned(), note)]);
    Lease { metadata: ObjectMeta { name: Some(name.into()), annotations: Some(annotations), ..Default::default() }, spec: None }
}

/// Makes objects, and the same bytes in etcd.
async fn fill(client: &Client, etcd: &Etcd, namespace: &str, count: usize) -> Result<(), BenchError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let sample = leases.create(&PostParams::default(), &lease("sample", "x".repeat(NOTE))).await.map_err(failed)?;
    let value = serde_json::to_vec(&sample).map_err(|e| BenchError::new("encode an object", e))?;
    stream::iter(1..count)
        .map(|number| {
            let leases = leases.clone();
            async move { leases.create(&PostParams::default(), &lease(&format!("l-{number:06}"), "x".repeat(NOTE))).await.map_err(failed) }
        })
        .buffer_unordered(WRITERS)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    etcd.fill(&format!("{namespace}/"), count, &value).await
}

/// How late each watcher saw each write.
async fn watch(fleet: &Fleet) -> Result<Vec<Duration>, BenchError> {
    let leases: Api<Lease> = Api::namespaced(fleet.client().await, "watched");
    let mut watched = leases.create(&PostParams::default(), &lease("watched", "0".into())).await.map_err(failed)?;
    let from = watched.resource_version().unwrap_or_default();
    let mut sent = Vec::new();
    let ready = Arc::new(tokio::sync::Semaphore::new(0));
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        let (leases, from, ready) = (leases.clone(), from.clone(), ready.clone());
        watchers.spawn(async move {
            let events = leases.watch(&WatchParams::default(), &from).await.map_err(failed)?;
            ready.add_permits(1);
            let mut events = pin!(events);
            let mut seen = Vec::new();
            while seen.len() < WRITES {
                if let Some(WatchEvent::Modified(_)) = events.try_next().await.map_err(failed)? {
                    seen.push(Instant::now());
                }
            }
            Ok::<_, BenchError>(seen)
        });
    }
    let all = ready.acquire_many(u32::try_from(WATCHERS).unwrap_or(u32::MAX)).await;
    drop(all.map_err(|e| BenchError::new("wait for the watchers", e))?);
    for number in 1..=WRITES {
        tokio::time::sleep(PAUSE).await;
        watched.annotations_mut().insert("note".into(), number.to_string());
        sent.push(Instant::now());
        watched = leases.replace("watched", &PostParams::default(), &watched).await.map_err(failed)?;
    }
    let mut late = Vec::new();
    while let Some(seen) = tokio::time::timeout(DEADLINE, watchers.join_next()).await.map_err(|e| BenchError::new("see all events", e))? {
        let seen = seen.map_err(|e| BenchError::new("run a watcher", e))??;
        late.extend(seen.iter().zip(&sent).map(|(seen, sent)| seen.saturating_duration_since(*sent)));
    }
    Ok(late)
}
