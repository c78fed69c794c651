//! A gateway on an etcd that the test runs by itself, besides or instead of a fleet's.

use crate::fleet::{client, program};
use kube::Client;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

const DEADLINE: Duration = Duration::from_secs(60);

/// A running gateway. It is killed when dropped.
pub struct Gateway {
    process: Child,
    dir: PathBuf,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Gateway {
    /// Starts one whose keys are in `dir`, and waits until it is ready.
    pub async fn start(dir: &Path, etcd: &str) -> Self {
        let log = File::create(dir.with_extension("log")).expect("a log can be made");
        // What an earlier one has left says nothing of this one.
        let _ = fs::remove_file(dir.join("gateway.json"));
        let process = Command::new(program("basalt-gateway"))
            .args(["--store", "etcd", "--etcd-endpoints", etcd, "--listen", "127.0.0.1:0", "--hub-listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(dir)
            .stderr(log)
            .spawn()
            .expect("the gateway can be started");
        let gateway = Self { process, dir: dir.to_owned() };
        let ready = async {
            while !gateway.dir.join("gateway.json").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.expect("the gateway becomes ready");
        gateway
    }

    /// The kubeconfig of its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// A client of its API.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig()).await
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(mut self) {
        let pid = i32::try_from(self.process.id()).expect("a pid is small");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
        assert!(self.process.wait().expect("it ends").success());
    }
}
