//! The two engines, each empty and its own: the embedded one in a temporary directory, and a real etcd on loopback.

use basalt_store::{Action, Expect, Store, WatchError, WatchEvent, WatchStream, Write, embedded::Embedded, etcd::Etcd};
use bytes::Bytes;
use futures::StreamExt;
use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// How long anything may take before a test is over.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A store with what must live as long as it.
pub struct Fixture {
    pub store: Arc<dyn Store>,
    etcd: Option<EtcdProcess>,
    _dir: TempDir,
}

pub async fn embedded() -> Option<Fixture> {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(&dir.path().join("store"), Default::default()).unwrap();
    Some(Fixture { store, etcd: None, _dir: dir })
}

/// Nothing only if the environment says that there is no etcd here; without it, a missing etcd fails the test.
pub async fn etcd() -> Option<Fixture> {
    if std::env::var_os("BASALT_TEST_WITHOUT_ETCD").is_some_and(|value| value == "1") {
        eprintln!("skipped: BASALT_TEST_WITHOUT_ETCD=1");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let process = EtcdProcess::start(&dir);
    let store = Etcd::connect(std::slice::from_ref(&process.endpoint)).await.unwrap();
    Some(Fixture { store, etcd: Some(process), _dir: dir })
}

impl Fixture {
    /// A further connection to the etcd.
    pub async fn connect(&self) -> Arc<Etcd> {
        let process = self.etcd.as_ref().expect("this is of the embedded engine");
        Etcd::connect(std::slice::from_ref(&process.endpoint)).await.unwrap()
    }
}

struct EtcdProcess {
    child: Child,
    endpoint: String,
}

impl EtcdProcess {
    fn start(dir: &TempDir) -> Self {
        // Another program may take a port between finding it free and etcd's taking it.
        (0..5).find_map(|attempt| Self::attempt(dir, attempt)).expect("etcd did not start in five attempts")
    }

    fn attempt(dir: &TempDir, attempt: u32) -> Option<Self> {
        let listeners = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let [port, peer_port] = listeners.map(|listener| listener.local_addr().unwrap().port());
        let (endpoint, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer_port}"));
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(dir.path().join(attempt.to_string()))
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start etcd: {e}. Install etcd-server, or set BASALT_TEST_WITHOUT_ETCD=1 to go without"));
        let mut process = Self { child, endpoint };
        let begin = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if process.child.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(begin.elapsed() < PATIENCE, "etcd does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(process)
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn put(key: impl AsRef<[u8]>, expect: Expect, value: impl AsRef<[u8]>) -> Write {
    Write { key: Bytes::copy_from_slice(key.as_ref()), expect, action: Action::Put(Bytes::copy_from_slice(value.as_ref())) }
}

pub fn delete(key: impl AsRef<[u8]>, expect: Expect) -> Write {
    Write { key: Bytes::copy_from_slice(key.as_ref()), expect, action: Action::Delete }
}

/// The next commit of a watch; progress notices are passed over.
pub async fn next(stream: &mut WatchStream) -> Result<WatchEvent, WatchError> {
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await.expect("nothing came").expect("the watch ended without an error");
        match event {
            Ok(event) if event.changes.is_empty() => {}
            other => return other,
        }
    }
}
