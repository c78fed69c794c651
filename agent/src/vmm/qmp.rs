//! QMP: QEMU's machine protocol, JSON lines over a unix socket (docs/interop/qmp-spec of QEMU).

use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};
use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::sync::oneshot;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{Mutex, broadcast, watch},
    task::JoinHandle,
};

/// How long QEMU may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// How many events may wait for somebody who listens.
const EVENTS: usize = 256;

/// A QMP exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// QEMU did not answer in time, or closed the connection.
    #[error("no answer: {0}")]
    Silent(&'static str),
    /// QEMU refused the command.
    #[error("{0}")]
    Refused(String),
}

type Waiting = Arc<std::sync::Mutex<HashMap<u64, oneshot::Sender<Result<Value, QmpError>>>>>;

/// A connection to one QEMU.
pub struct Qmp {
    writer: Mutex<OwnedWriteHalf>,
    waiting: Waiting,
    next: AtomicU64,
    events: broadcast::Sender<String>,
    closed: watch::Receiver<bool>,
    reader: JoinHandle<()>,
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Qmp {
    /// Connects to a socket and agrees on capabilities.
    pub async fn connect(socket: &Path) -> Result<Self, QmpError> {
        let stream =
            tokio::time::timeout(DEADLINE, connect(socket)).await.map_err(|_| QmpError::Silent("the connection is not accepted"))??;
        let (reader, writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let greeting = tokio::time::timeout(DEADLINE, lines.next_line()).await.map_err(|_| QmpError::Silent("there is no greeting"))??;
        if !greeting.is_some_and(|greeting| greeting.contains("\"QMP\"")) {
            return Err(QmpError::Silent("there is no greeting"));
        }
        let (events, _) = broadcast::channel(EVENTS);
        let (close, closed) = watch::channel(false);
        let waiting = Waiting::default();
        let (told, answered) = (events.clone(), waiting.clone());
        let reader = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
                if let Some(event) = message["event"].as_str() {
                    // Nobody who listens is no failure.
                    let _ = told.send(event.to_owned());
                } else if let Some(asker) = message["id"].as_u64().and_then(|id| lock(&answered).remove(&id)) {
                    let answer = match message.get("error") {
                        Some(error) => Err(QmpError::Refused(error["desc"].as_str().unwrap_or_default().to_owned())),
                        None => Ok(message["return"].clone()),
                    };
                    let _ = asker.send(answer);
                }
            }
            lock(&answered).clear();
            close.send_replace(true);
        });
        let qmp = Self { writer: Mutex::new(writer), waiting, next: AtomicU64::new(1), events, closed, reader };
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs a command and waits for its answer.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let mut line = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        line.push('\n');
        let exchange = async {
            self.writer.lock().await.write_all(line.as_bytes()).await?;
            answer.await.map_err(|_| QmpError::Silent("the connection was closed"))?
        };
        let outcome = tokio::time::timeout(DEADLINE, exchange).await;
        outcome.unwrap_or_else(|_| {
            lock(&self.waiting).remove(&id);
            Err(QmpError::Silent("the time is up"))
        })
    }

    /// The names of events from now on.
    pub fn events(&self) -> broadcast::Receiver<String> {
        self.events.subscribe()
    }

    /// Whether QEMU has closed the connection.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Resolves when QEMU closes the connection.
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        // The sender ends with the connection.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

/// Connects to a socket by way of its directory's descriptor: a path may be longer than a socket's address.
async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let dir = socket.parent().unwrap_or(Path::new("."));
    let dir: OwnedFd = std::fs::File::open(dir)?.into();
    let name = socket.file_name().unwrap_or_default().to_string_lossy();
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())).await
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // The map is whole between any two statements that can panic.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
