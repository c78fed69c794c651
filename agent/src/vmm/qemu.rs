//! QEMU, over QMP: a q35 machine with virtio devices, with KVM where it truly works and by software emulation elsewhere.
//!
//! QEMU runs in a session of its own with its VM's directory as its working directory. `-no-shutdown` keeps it when the guest
//! has gone down, so that how it went can be asked also by an agent that was not there. `qmp.sock` is the agent's,
//! `qmp-operator.sock` is for people, `serial.sock` is the serial console, whose output is always in `console.log` too.

use super::{
    GuestState, Machine, MachineBoot, VmCounters, VmDir, Vmm, VmmError, VmmProbe, VmmProcess, kvm,
    qmp::{Qmp, QmpError},
    spawned,
};
use crate::process;
use async_trait::async_trait;
use basalt_api::host::{Accelerator, VmmName};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{process::Command, time::Instant};

const PROGRAM: &str = "qemu-system-x86_64";
/// How long QEMU may take until it answers on its socket.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long QEMU may take to end when it is asked to.
const QUIT_DEADLINE: Duration = Duration::from_secs(3);
/// How long QEMU may take to say its version.
const PROBE_DEADLINE: Duration = Duration::from_secs(5);
/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(5);
/// Sockets of QEMU in its VM's directory.
const SOCKETS: [&str; 3] = ["qmp.sock", "qmp-operator.sock", "serial.sock"];

/// The QEMU driver.
#[derive(Default)]
pub struct Qemu {
    connections: Mutex<HashMap<PathBuf, Arc<Qmp>>>,
}

impl Qemu {
    /// The connection to a VM's QEMU; one is kept, because QEMU talks to one at a time.
    async fn qmp(&self, dir: &VmDir) -> Result<Arc<Qmp>, QmpError> {
        let lock = || self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = lock().get(dir.path()).filter(|qmp| !qmp.is_closed()) {
            return Ok(kept.clone());
        }
        let made = Arc::new(Qmp::connect(&socket(dir)).await?);
        lock().insert(dir.path().to_owned(), made.clone());
        Ok(made)
    }

    fn forget(&self, dir: &VmDir) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).remove(dir.path());
    }

    async fn ask(&self, dir: &VmDir, request: &'static str, arguments: Value) -> Result<Value, VmmError> {
        let answer = match self.qmp(dir).await {
            Ok(qmp) => qmp.execute(request, arguments).await,
            Err(error) => Err(error),
        };
        answer.map_err(|error| match error {
            QmpError::Refused(reason) => VmmError::Refused { vm: title(dir), request, reason },
            error => VmmError::Silent { vm: title(dir), request, socket: socket(dir).display().to_string(), reason: error.to_string() },
        })
    }
}

async fn accelerator() -> Accelerator {
    if kvm::works(PROGRAM).await { Accelerator::Kvm } else { Accelerator::Tcg }
}

fn socket(dir: &VmDir) -> PathBuf {
    dir.path().join("qmp.sock")
}

fn title(dir: &VmDir) -> String {
    dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// QEMU's command line for a machine. Names of files within the VM's directory are relative to it.
fn command_line(machine: &Machine, accelerator: Accelerator) -> Vec<String> {
    let (accel, cpu) = match accelerator {
        Accelerator::Kvm => ("kvm", "host"),
        _ => ("tcg", "max"),
    };
    // A comma within a value is doubled; names of VMs and files of ours have none, images' paths may.
    let quoted = |text: &str| text.replace(',', ",,");
    let mut args: Vec<String> = Vec::new();
    let mut add = |items: &[&str]| args.extend(items.iter().map(|item| (*item).to_owned()));
    add(&["-name", &format!("guest={},debug-threads=on", quoted(&machine.title)), "-uuid", &machine.uid]);
    add(&["-machine", &format!("q35,accel={accel}"), "-cpu", cpu, "-smp", &machine.cpus.to_string()]);
    add(&["-m", &format!("{}K", machine.memory_bytes >> 10), "-nodefaults", "-no-user-config", "-display", "none", "-S", "-no-shutdown"]);
    add(&["-action", "panic=pause"]);
    add(&["-qmp", "unix:qmp.sock,server=on,wait=off", "-qmp", "unix:qmp-operator.sock,server=on,wait=off"]);
    add(&[
        "-chardev",
        "socket,id=serial0,path=serial.sock,server=on,wait=off,logfile=console.log,logappend=on",
        "-serial",
        "chardev:serial0",
    ]);
    add(&["-device", "pvpanic-pci", "-device", "virtio-rng-pci"]);
    if let MachineBoot::Kernel { kernel, initramfs, cmdline } = &machine.boot {
        add(&["-kernel", &kernel.to_string_lossy()]);
        if let Some(initramfs) = initramfs {
            add(&["-initrd", &initramfs.to_string_lossy()]);
        }
        add(&["-append", cmdline]);
    }
    for (index, disk) in machine.disks.iter().enumerate() {
        let format = if disk.qcow2 { "qcow2" } else { "raw" };
        let read_only = if disk.read_only { "on" } else { "off" };
        let path = quoted(&disk.path.to_string_lossy());
        add(&["-blockdev", &format!("driver={format},node-name=disk{index},read-only={read_only},file.driver=file,file.filename={path}")]);
        let boot = if machine.boot == MachineBoot::Disk && index == 0 { ",bootindex=0" } else { "" };
        add(&["-device", &format!("virtio-blk-pci,drive=disk{index},serial={}{boot}", quoted(&disk.name))]);
    }
    for (index, nic) in machine.nics.iter().enumerate() {
        add(&["-netdev", &format!("tap,id=nic{index},ifname={},script=no,downscript=no", nic.tap)]);
        add(&["-device", &format!("virtio-net-pci,netdev=nic{index},mac={},romfile=", nic.mac)]);
    }
    args
}

#[async_trait]
impl Vmm for Qemu {
    fn name(&self) -> VmmName {
        VmmName::Qemu
    }

    async fn probe(&self) -> Result<VmmProbe, VmmError> {
        let output = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(PROBE_DEADLINE, output).await;
        let Ok(Ok(output)) = output else { return Err(VmmError::NotInstalled { program: PROGRAM.into() }) };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.split_whitespace().nth(3).unwrap_or("unknown").to_owned();
        let accelerator = accelerator().await;
        if accelerator == Accelerator::Tcg && kvm::runs_guest(PROGRAM, "tcg").await != Some(true) {
            return Err(VmmError::Start {
                program: PROGRAM.into(),
                vm: "the probe".into(),
                reason: "it did not run a guest of ten instructions".into(),
            });
        }
        Ok(VmmProbe { version, accelerator })
    }

    async fn start(&self, machine: &Machine, dir: &VmDir) -> Result<VmmProcess, VmmError> {
        self.destroy(dir).await?;
        let accelerator = accelerator().await;
        let start = |reason: String| VmmError::Start { program: PROGRAM.into(), vm: machine.title.clone(), reason };
        let process = spawned::start(PROGRAM, &command_line(machine, accelerator), &machine.title, dir, None)?;
        let begin = Instant::now();
        while self.qmp(dir).await.is_err() {
            if !process::lives(&process) {
                return Err(start(spawned::last_words(dir)));
            }
            if begin.elapsed() > START_DEADLINE {
                self.destroy(dir).await?;
                return Err(start(format!("it does not answer on {} after {} s", socket(dir).display(), START_DEADLINE.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
        self.ask(dir, "cont", json!({})).await?;
        Ok(process)
    }

    async fn adopt(&self, dir: &VmDir) -> Result<Option<VmmProcess>, VmmError> {
        spawned::find(dir)
    }

    async fn state(&self, dir: &VmDir) -> Result<GuestState, VmmError> {
        let status = self.ask(dir, "query-status", json!({})).await?;
        Ok(match status["status"].as_str().unwrap_or_default() {
            "running" | "in-migrate" => GuestState::Running,
            "prelaunch" => GuestState::Created,
            "shutdown" => GuestState::Shutdown,
            "guest-panicked" | "internal-error" | "io-error" | "watchdog" => GuestState::Crashed,
            _ => GuestState::Paused,
        })
    }

    async fn resume(&self, dir: &VmDir) -> Result<(), VmmError> {
        self.ask(dir, "cont", json!({})).await.map(drop)
    }

    async fn pause(&self, dir: &VmDir) -> Result<(), VmmError> {
        self.ask(dir, "stop", json!({})).await.map(drop)
    }

    async fn power_button(&self, dir: &VmDir) -> Result<(), VmmError> {
        self.ask(dir, "system_powerdown", json!({})).await.map(drop)
    }

    async fn destroy(&self, dir: &VmDir) -> Result<(), VmmError> {
        if let Some(process) = self.adopt(dir).await? {
            // It answers before it ends, or ends before it answers.
            let _ = self.ask(dir, "quit", json!({})).await;
            spawned::end(&process, QUIT_DEADLINE, dir).await?;
        }
        self.forget(dir);
        spawned::forget(dir, &SOCKETS)
    }

    async fn counters(&self, dir: &VmDir) -> Result<VmCounters, VmmError> {
        let stats = self.ask(dir, "query-blockstats", json!({ "query-nodes": false })).await?;
        let disks = stats.as_array().into_iter().flatten().filter_map(|disk| {
            let number = |name: &str| disk["stats"][name].as_u64().unwrap_or(0);
            let name = disk["node-name"].as_str().or_else(|| disk["qdev"].as_str())?;
            Some((name.to_owned(), number("rd_bytes"), number("wr_bytes")))
        });
        // QEMU counts nothing of a tap; the tap itself does.
        Ok(VmCounters { disks: disks.collect(), nics: Vec::new() })
    }

    async fn changed(&self, dir: &VmDir, from: GuestState) {
        let Ok(Some(process)) = self.adopt(dir).await else { return };
        let Ok(qmp) = self.qmp(dir).await else { return process::exited(&process).await };
        let mut events = qmp.events();
        // What changed before the events were listened to is seen here.
        if self.state(dir).await.ok() != Some(from) {
            return;
        }
        let told = async {
            while let Ok(event) = events.recv().await {
                if matches!(event.as_str(), "STOP" | "RESUME" | "SHUTDOWN" | "RESET" | "GUEST_PANICKED" | "SUSPEND" | "WAKEUP") {
                    return;
                }
            }
        };
        tokio::select! {
            () = told => {}
            () = qmp.closed() => {}
            () = process::exited(&process) => {}
        }
    }
}
