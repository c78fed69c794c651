//! The reference: etcd as the distribution ships it, on loopback, its data on the same disk.

use super::{BenchError, throughput};
use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp};
use futures::{StreamExt, TryStreamExt, stream};
use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{sync::Mutex, task::JoinSet};

/// An etcd of the bench's own; it ends with this.
pub struct Etcd {
    process: Child,
    endpoint: String,
    _dir: TempDir,
    /// From the start of the process until it accepted connections.
    pub start: Duration,
}

impl Etcd {
    /// Starts an etcd on free ports.
    pub fn start() -> Result<Self, BenchError> {
        let failed = |e: std::io::Error| BenchError::new("start etcd", e);
        let dir = tempfile::tempdir().map_err(failed)?;
        let port = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|l| l.local_addr()).map(|a| a.port());
        let (client, peer) = (port().map_err(failed)?, port().map_err(failed)?);
        let (endpoint, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let begin = Instant::now();
        let process = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path())
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let mut etcd = Self { process, endpoint, _dir: dir, start: Duration::ZERO };
        while TcpStream::connect((Ipv4Addr::LOCALHOST, client)).is_err() {
            if begin.elapsed() > Duration::from_secs(30) {
                return Err(BenchError::new("start etcd", "it does not answer after 30 s"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        etcd.start = begin.elapsed();
        Ok(etcd)
    }

    /// Where it answers, as a URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Pid of the process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Puts keys with a value below a prefix.
    pub async fn fill(&self, prefix: &str, count: usize, value: &[u8]) -> Result<(), BenchError> {
        let failed = |e: etcd_client::Error| BenchError::new("write to etcd", e);
        let client = Client::connect([&self.endpoint], None).await.map_err(failed)?;
        stream::iter(0..count)
            .map(|number| {
                let mut kv = client.kv_client();
                async move { kv.put(format!("{prefix}{number:06}"), value, None).await.map_err(failed) }
            })
            .buffer_unordered(64)
            .try_for_each(|_| std::future::ready(Ok(())))
            .await
    }

    /// How long a range of so many keys below a prefix takes.
    pub async fn range(&self, prefix: &str, count: usize) -> Result<Duration, BenchError> {
        let failed = |e: etcd_client::Error| BenchError::new("read from etcd", e);
        let client = Client::connect([&self.endpoint], None).await.map_err(failed)?;
        let mut kv = client.kv_client().max_decoding_message_size(usize::MAX);
        let begin = Instant::now();
        let answer = kv.get(prefix, Some(GetOptions::new().with_prefix())).await.map_err(failed)?;
        if answer.kvs().len() != count {
            return Err(BenchError::new("read from etcd", format!("{} keys instead of {count}", answer.kvs().len())));
        }
        Ok(begin.elapsed())
    }

    /// How late each of `watchers` over `connections` saw each of `writes` writes.
    pub async fn watch_latency(
        &self,
        watchers: usize,
        connections: usize,
        writes: usize,
        pause: Duration,
    ) -> Result<Vec<Duration>, BenchError> {
        let failed = |e: etcd_client::Error| BenchError::new("watch etcd", e);
        let mut following = JoinSet::new();
        for _ in 0..connections {
            let client = Client::connect([&self.endpoint], None).await.map_err(failed)?;
            for _ in 0..watchers / connections {
                let mut watch = client.watch_client().watch("watched", None).await.map_err(failed)?;
                following.spawn(async move {
                    let mut seen = Vec::new();
                    while seen.len() < writes {
                        let answer = watch.message().await.map_err(failed)?;
                        let answer = answer.ok_or_else(|| BenchError::new("watch etcd", "it ended the watch"))?;
                        seen.extend(answer.events().iter().map(|_| Instant::now()));
                    }
                    Ok::<_, BenchError>(seen)
                });
            }
        }
        let mut kv = Client::connect([&self.endpoint], None).await.map_err(failed)?.kv_client();
        let mut sent = Vec::new();
        for number in 0..writes {
            tokio::time::sleep(pause).await;
            sent.push(Instant::now());
            kv.put("watched", format!("{number:01024}"), None).await.map_err(failed)?;
        }
        let mut late = Vec::new();
        while let Some(seen) = following.join_next().await {
            let seen = seen.map_err(|e| BenchError::new("run a watcher", e))??;
            late.extend(seen.iter().zip(&sent).map(|(seen, sent)| seen.saturating_duration_since(*sent)));
        }
        Ok(late)
    }

    /// Compare-and-swap writes a second by so many clients, each on a connection and a key of its own.
    pub async fn cas_writes(&self, clients: usize, duration: Duration, value: &[u8]) -> Result<f64, BenchError> {
        let failed = |e: etcd_client::Error| BenchError::new("write to etcd", e);
        let mut connections = Vec::new();
        for _ in 0..clients {
            connections.push(Client::connect([&self.endpoint], None).await.map_err(failed)?);
        }
        throughput(clients, duration, |client| {
            let (key, value) = (format!("bench-{clients}-{client}"), value.to_vec());
            let shared = Arc::new(Mutex::new((connections[client].kv_client(), 0i64)));
            move || {
                let (shared, key, value) = (shared.clone(), key.clone(), value.clone());
                async move {
                    let mut state = shared.lock().await;
                    let expected = Compare::mod_revision(key.clone(), CompareOp::Equal, state.1);
                    let txn = Txn::new().when([expected]).and_then([TxnOp::put(key, value, None)]);
                    let answer = state.0.txn(txn).await.map_err(failed)?;
                    if !answer.succeeded() {
                        return Err(BenchError::new("write to etcd", "a compare failed"));
                    }
                    state.1 = answer.header().map_or(0, |h| h.revision());
                    Ok(())
                }
            }
        })
        .await
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
