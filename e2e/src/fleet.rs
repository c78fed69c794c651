//! A fleet of real programs for one test.

use crate::guest;
use basalt_api::VirtualMachine;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{Condition, await_condition},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// What a test wants of its fleet.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of hosts.
    pub hosts: u8,
    /// As `--vmm` takes it.
    pub vmm: &'static str,
    /// As `--store` takes it.
    pub store: &'static str,
    /// More flags for `basaltctl dev up`.
    pub flags: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { hosts: 1, vmm: "qemu", store: "embedded", flags: Vec::new() }
    }
}

/// A running fleet. Dropping it ends it and removes every trace.
pub struct Fleet {
    dir: TempDir,
    options: Options,
}

impl Fleet {
    /// Starts a fleet and waits until its hosts are Ready.
    pub fn start(options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("bslt").tempdir().expect("a temporary directory can be made");
        let fleet = Self { dir, options };
        fleet.up();
        fleet
    }

    /// Starts what does not run of the fleet, and waits until its hosts are Ready.
    pub fn up(&self) {
        let hosts = self.options.hosts.to_string();
        let mut args =
            vec!["dev", "up", "--data-dir", self.path_text(), "--hosts", &hosts, "--vmm", self.options.vmm, "--store", self.options.store];
        args.extend(self.options.flags.iter().map(String::as_str));
        self.ctl(&args).succeeded();
    }

    /// The fleet's directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn path_text(&self) -> &str {
        self.dir.path().to_str().expect("temporary directories have plain names")
    }

    /// An address of the fleet's network.
    pub fn address(&self, last: u8) -> Ipv4Addr {
        let state: Value =
            serde_json::from_slice(&fs::read(self.path().join("fleet.json")).expect("the fleet has a state")).expect("it is JSON");
        let subnet = state["subnet"].as_str().expect("the fleet has a network").trim_end_matches("/24");
        let [a, b, c, _] = subnet.parse::<Ipv4Addr>().expect("a subnet is an address").octets();
        Ipv4Addr::new(a, b, c, last)
    }

    /// Runs `basaltctl` against the fleet.
    pub fn ctl(&self, args: &[&str]) -> Ran {
        self.ctl_with_input(args, "")
    }

    /// Runs `basaltctl` with something on its standard input.
    pub fn ctl_with_input(&self, args: &[&str], input: &str) -> Ran {
        run(&program("basaltctl"), args, input, &self.kubeconfig())
    }

    /// Runs the `kubectl` on PATH against the fleet.
    pub fn kubectl(&self, args: &[&str], input: &str) -> Ran {
        run(Path::new("kubectl"), args, input, &self.kubeconfig())
    }

    /// Applies manifests with `basaltctl apply -f -`.
    pub fn apply(&self, manifests: &str) {
        self.ctl_with_input(&["apply", "-f", "-"], manifests).succeeded();
    }

    /// The kubeconfig of its administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path().join("admin.kubeconfig")
    }

    /// A client of its API.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig()).await
    }

    /// Where its etcd answers, as a URL.
    pub fn etcd(&self) -> String {
        let state: Value =
            serde_json::from_slice(&fs::read(self.path().join("fleet.json")).expect("the fleet has a state")).expect("it is JSON");
        format!("http://127.0.0.1:{}", state["etcdPorts"][0])
    }

    /// The pid of a program of the fleet, such as `gateway` or `host-1`.
    pub fn pid(&self, name: &str) -> i32 {
        let file = self.path().join("run").join(format!("{name}.pid"));
        fs::read_to_string(&file).expect("the program has a pid file").trim().parse().expect("it holds a pid")
    }

    /// Kills a program of the fleet with SIGKILL and waits until it is gone.
    pub fn kill(&self, name: &str) {
        kill_and_wait(self.pid(name));
    }

    /// The images of the test guest, as manifests.
    pub fn guest_images(&self) -> String {
        let dir = guest::directory();
        format!(
            "apiVersion: basalt.dev/v1alpha1\nkind: Image\nmetadata: {{name: guest-kernel}}\nspec: {{source: 'file://{0}/vmlinuz', format: Kernel}}\n---\n\
             apiVersion: basalt.dev/v1alpha1\nkind: Image\nmetadata: {{name: guest-initramfs}}\nspec: {{source: 'file://{0}/initramfs.cpio.gz', format: Initramfs}}\n---\n",
            dir.display()
        )
    }

    /// A VM that boots the test guest at an address, as a manifest.
    pub fn guest_vm(&self, name: &str, last: u8) -> String {
        format!(
            "apiVersion: basalt.dev/v1alpha1\nkind: VirtualMachine\nmetadata: {{name: {name}}}\nspec:\n  memory: 192Mi\n  boot:\n    kernel: {{image: guest-kernel, initramfs: guest-initramfs, cmdline: console=ttyS0 quiet}}\n  networks:\n  - {{name: lan, bridge: br0, address: {}/24, gateway: {}}}\n---\n",
            self.address(last),
            self.address(1)
        )
    }

    /// Waits until a VM is as `condition` wants it; says what it looks like if it never is.
    pub async fn vm_becomes(&self, name: &str, what: &str, condition: impl Condition<VirtualMachine>) {
        let vms: Api<VirtualMachine> = Api::default_namespaced(self.client().await);
        let waited = tokio::time::timeout(guest::BOOT_DEADLINE, await_condition(vms, name, condition)).await;
        if !matches!(waited, Ok(Ok(_))) {
            let seen = self.ctl(&["get", "vm", name, "-o", "yaml"]);
            panic!("VM {name} never became {what}: {waited:?}\n{}\n{}", seen.stdout, self.logs());
        }
    }

    /// A VM as it is now.
    pub async fn vm(&self, name: &str) -> VirtualMachine {
        let vms: Api<VirtualMachine> = Api::default_namespaced(self.client().await);
        vms.get(name).await.expect("the VM exists")
    }

    /// The pid of the QEMU process of a VM, if there is one in the fleet's namespaces: found in the process table, not in
    /// what Basalt says of it.
    pub async fn vmm_pid(&self, name: &str) -> Option<i32> {
        let uid = self.vm(name).await.metadata.uid?;
        self.processes_naming(&uid).first().copied()
    }

    /// Pids of the QEMU processes whose command line holds a text.
    pub fn processes_naming(&self, text: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command);
            if command.contains(text) && command.split('\0').next().is_some_and(|p| p.contains("qemu-system")) {
                pids.push(pid);
            }
        }
        pids
    }

    /// The end of every log of the fleet.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.path().join("logs")).into_iter().flatten().flatten() {
            let log = fs::read_to_string(entry.path()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            text += &format!("== {}\n{}\n", entry.path().display(), lines[lines.len().saturating_sub(40)..].join("\n"));
        }
        text
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let ran = self.ctl(&["dev", "down", "--data-dir", self.path_text()]);
        if !ran.success && !std::thread::panicking() {
            panic!("the fleet was not removed: {}", ran.stderr);
        }
    }
}

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The command line.
    pub command: String,
    /// It exited with 0.
    pub success: bool,
    /// Its exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Panics with what was printed if the command failed.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert!(self.success, "`{}` failed with {:?}\n{}{}", self.command, self.code, self.stdout, self.stderr);
        self
    }
}

fn run(program: &Path, args: &[&str], input: &str, kubeconfig: &Path) -> Ran {
    let mut child = Command::new(program)
        .args(args)
        .env("KUBECONFIG", kubeconfig)
        .env("BASALT_BIN_DIR", bin_dir())
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run {}: {e}", program.display()));
    let mut stdin = child.stdin.take().expect("it was piped");
    let input = input.to_owned();
    // A command that does not read its input closes it: no error of the test's.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).ok());
    let Output { status, stdout, stderr } = child.wait_with_output().expect("a started command ends");
    writer.join().expect("the writer does not panic");
    Ran {
        command: format!("{} {}", program.display(), args.join(" ")),
        success: status.success(),
        code: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// A client as a kubeconfig says.
pub async fn client(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).expect("there is a kubeconfig");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.expect("it is complete");
    Client::try_from(config).expect("it makes a client")
}

/// The directory of the programs under test: that of the test itself, two up from `deps/`.
pub fn bin_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a process knows its program");
    let dir = exe.parent().expect("a program is in a directory");
    let dir = if dir.ends_with("deps") { dir.parent().expect("deps is in a directory") } else { dir };
    dir.to_owned()
}

/// A program under test. `make test` builds all of them before the tests.
pub fn program(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace --bins", path.display());
    path
}

/// Kills a process with SIGKILL and waits until it is gone.
pub fn kill_and_wait(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the process exists");
    let alive =
        || fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| s.rsplit_once(") ").is_some_and(|(_, r)| !r.starts_with('Z')));
    while alive() {
        std::thread::sleep(Duration::from_millis(5));
    }
}
