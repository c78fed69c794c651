//! The reference: etcd as the distribution ships it, on loopback, its data on the same disk.

use super::{BenchError, throughput};
use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp};
use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::sync::Mutex;

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
