//! A gateway that the test runs by itself, besides or instead of a fleet's.

use crate::fleet::{client, kill_and_wait, program};
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
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.with_extension("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("== {}\n{}", self.dir.display(), lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

impl Gateway {
    /// Starts one on an etcd whose keys are in `dir`, and waits until it is ready.
    pub async fn start(dir: &Path, etcd: &str) -> Self {
        let args = ["--store", "etcd", "--etcd-endpoints", etcd, "--listen", "127.0.0.1:0", "--hub-listen", "127.0.0.1:0"];
        let mut gateway = Self::spawn(dir, &args);
        gateway.ready().await;
        gateway
    }

    /// Starts one whose data are in `dir`, and does not wait for it.
    pub fn spawn(dir: &Path, args: &[&str]) -> Self {
        let log = File::options().create(true).append(true).open(dir.with_extension("log")).expect("a log can be made");
        // What an earlier one has left says nothing of this one.
        let _ = fs::remove_file(dir.join("gateway.json"));
        let process = Command::new(program("basalt-gateway"))
            .args(args)
            .arg("--data-dir")
            .arg(dir)
            .stderr(log)
            .spawn()
            .expect("the gateway can be started");
        Self { process, dir: dir.to_owned() }
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) {
        let ready = async {
            while !self.dir.join("gateway.json").exists() {
                let ended = self.process.try_wait().expect("it can be asked");
                assert!(ended.is_none(), "the gateway ended: {ended:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, ready).await.expect("the gateway becomes ready");
    }

    /// The kubeconfig of its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// A client of its API.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig()).await
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a pid is small")
    }

    /// Kills it with SIGKILL and waits until it is gone.
    pub fn kill(mut self) {
        kill_and_wait(self.pid());
        let _ = self.process.wait();
    }

    /// Asks it to end, and waits until it has.
    pub fn terminate(mut self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).expect("it runs");
        assert!(self.process.wait().expect("it ends").success());
    }
}
