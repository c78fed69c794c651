//! Cloud Hypervisor 52 or newer, over its REST API on a unix socket (`vmm/src/api/openapi/cloud-hypervisor.yaml` of its sources).
//!
//! The process is started empty, then the machine is created and booted over the API. Its serial console goes to its standard
//! output, which is the console log opened for appending, so that the log can be cut down while the guest runs.

use super::{GuestState, Machine, MachineBoot, VmCounters, VmDir, Vmm, VmmError, VmmProbe, VmmProcess, kvm, spawned};
use crate::process;
use async_trait::async_trait;
use basalt_api::host::{Accelerator, VmmName};
use reqwest::{Client, Method};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, time::Instant};

const PROGRAM: &str = "cloud-hypervisor";
const SOCKET: &str = "api.sock";
const EVENTS: &str = "events.json";
/// How long the program may take to answer a request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take until it answers at all.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// How long it may take to end when it is asked to.
const QUIT_DEADLINE: Duration = Duration::from_secs(3);
/// How often something is looked at that is waited for, and how often the guest's state is asked for: the API has no events.
const LOOK: Duration = Duration::from_millis(5);
const POLL: Duration = Duration::from_millis(500);

/// The Cloud Hypervisor driver.
#[derive(Default)]
pub struct CloudHypervisor;

/// `VmConfig`: what we use of it.
#[derive(Debug, Serialize)]
struct VmConfig {
    cpus: CpusConfig,
    memory: MemoryConfig,
    payload: PayloadConfig,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    disks: Vec<DiskConfig>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    net: Vec<NetConfig>,
    serial: ConsoleConfig,
    console: ConsoleConfig,
    platform: PlatformConfig,
    pvpanic: bool,
}

#[derive(Debug, Serialize)]
struct CpusConfig {
    boot_vcpus: u32,
    max_vcpus: u32,
}

#[derive(Debug, Serialize)]
struct MemoryConfig {
    size: u64,
}

#[derive(Debug, Default, Serialize)]
struct PayloadConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    firmware: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initramfs: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline: Option<String>,
}

#[derive(Debug, Serialize)]
struct DiskConfig {
    id: String,
    path: PathBuf,
    readonly: bool,
    /// Never guessed from the content, which a guest can forge.
    image_type: &'static str,
    /// Overlays have their image behind them.
    backing_files: bool,
}

#[derive(Debug, Serialize)]
struct NetConfig {
    id: String,
    tap: String,
    mac: String,
}

#[derive(Debug, Serialize)]
struct ConsoleConfig {
    mode: &'static str,
}

#[derive(Debug, Serialize)]
struct PlatformConfig {
    uuid: String,
}

#[derive(Debug, Deserialize)]
struct VmInfo {
    state: String,
}

/// Where a firmware for booting disks is: the distributions' places of `rust-hypervisor-firmware` and EDK2's CLOUDHV build.
const FIRMWARES: [&str; 3] =
    ["/usr/share/cloud-hypervisor/CLOUDHV.fd", "/usr/share/cloud-hypervisor/hypervisor-fw", "/usr/share/edk2/x64/CLOUDHV.4m.fd"];

fn config(machine: &Machine) -> Result<VmConfig, String> {
    let payload = match &machine.boot {
        MachineBoot::Kernel { kernel, initramfs, cmdline } => PayloadConfig {
            kernel: Some(kernel.clone()),
            initramfs: initramfs.clone(),
            cmdline: Some(cmdline.clone()),
            ..PayloadConfig::default()
        },
        MachineBoot::Disk => {
            let firmware = FIRMWARES.iter().map(Path::new).find(|path| path.exists());
            let firmware =
                firmware.ok_or_else(|| format!("there is no firmware to boot a disk with; one of {} is needed", FIRMWARES.join(", ")))?;
            PayloadConfig { firmware: Some(firmware.to_owned()), ..PayloadConfig::default() }
        }
    };
    Ok(VmConfig {
        cpus: CpusConfig { boot_vcpus: machine.cpus, max_vcpus: machine.cpus },
        memory: MemoryConfig { size: machine.memory_bytes },
        payload,
        disks: machine
            .disks
            .iter()
            .map(|disk| DiskConfig {
                id: disk.name.clone(),
                path: disk.path.clone(),
                readonly: disk.read_only,
                image_type: if disk.qcow2 { "Qcow2" } else { "Raw" },
                backing_files: disk.qcow2 && !disk.read_only,
            })
            .collect(),
        net: machine.nics.iter().map(|nic| NetConfig { id: nic.name.clone(), tap: nic.tap.clone(), mac: nic.mac.clone() }).collect(),
        serial: ConsoleConfig { mode: "Tty" },
        console: ConsoleConfig { mode: "Off" },
        platform: PlatformConfig { uuid: machine.uid.clone() },
        pvpanic: true,
    })
}

/// One request to the program of a VM.
async fn ask(dir: &VmDir, method: Method, request: &'static str, body: Option<&VmConfig>) -> Result<Value, VmmError> {
    let socket = dir.path().join(SOCKET);
    let vm = dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let silent = |reason: String| VmmError::Silent { vm: vm.clone(), request, socket: socket.display().to_string(), reason };
    let client = Client::builder().unix_socket(socket.as_path()).timeout(REQUEST_DEADLINE).build().map_err(|e| silent(e.to_string()))?;
    let mut asked = client.request(method, format!("http://localhost/api/v1/{request}"));
    if let Some(body) = body {
        asked = asked.json(body);
    }
    let answer = asked.send().await.map_err(|e| silent(crate::identity::sources(&e)))?;
    let status = answer.status();
    let text = answer.text().await.map_err(|e| silent(e.to_string()))?;
    if !status.is_success() {
        // The causes, outermost first, as an array of texts.
        let causes = serde_json::from_str::<Vec<String>>(&text).map(|causes| causes.join(": "));
        let said = causes.unwrap_or_else(|_| text.trim().to_owned());
        let reason = if said.is_empty() { status.to_string() } else { said };
        return Err(VmmError::Refused { vm, request, reason });
    }
    // Most requests are answered with nothing.
    Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// An event of the monitor: JSON values one after another.
#[derive(Deserialize)]
struct Event {
    source: String,
    event: String,
    properties: Option<BTreeMap<String, String>>,
}

/// What the event monitor knows of a guest and the API does not tell: it calls a guest whose kernel panicked running, and one
/// that has shut down created.
#[derive(Default)]
struct Told {
    panicked: bool,
    shut_down: bool,
}

fn told(dir: &VmDir) -> Told {
    let events = fs::read(dir.path().join(EVENTS)).unwrap_or_default();
    // The last one may be half written.
    let events = serde_json::Deserializer::from_slice(&events).into_iter::<Event>().map_while(Result::ok);
    events.fold(Told::default(), |told, event| match (event.source.as_str(), event.event.as_str()) {
        ("vm", "booted") => Told::default(),
        ("vm", "shutdown") => Told { shut_down: true, ..told },
        ("guest", "panic") => {
            let kind = event.properties.as_ref().and_then(|properties| properties.get("event"));
            Told { panicked: told.panicked || kind.is_some_and(|kind| kind == "panic"), ..told }
        }
        _ => told,
    })
}

async fn put(dir: &VmDir, request: &'static str) -> Result<(), VmmError> {
    ask(dir, Method::PUT, request, None).await.map(drop)
}

#[async_trait]
impl Vmm for CloudHypervisor {
    fn name(&self) -> VmmName {
        VmmName::CloudHypervisor
    }

    async fn probe(&self) -> Result<VmmProbe, VmmError> {
        let output = Command::new(PROGRAM).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
        let Ok(Ok(output)) = tokio::time::timeout(REQUEST_DEADLINE, output).await else {
            return Err(VmmError::NotInstalled { program: PROGRAM.into() });
        };
        if !kvm::works("qemu-system-x86_64").await {
            let reason = "KVM does not run guests on this machine, and Cloud Hypervisor needs it".to_owned();
            return Err(VmmError::Start { program: PROGRAM.into(), vm: "the probe".into(), reason });
        }
        let version = String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("cloud-hypervisor ").to_owned();
        Ok(VmmProbe { version, accelerator: Accelerator::Kvm })
    }

    async fn start(&self, machine: &Machine, dir: &VmDir) -> Result<VmmProcess, VmmError> {
        self.destroy(dir).await?;
        let start = |reason: String| VmmError::Start { program: PROGRAM.into(), vm: machine.title.clone(), reason };
        let config = config(machine).map_err(start)?;
        let path = dir.console_log();
        let console = fs::File::options().create(true).append(true).open(&path).map_err(spawned::at("open", &path))?;
        // A guest that shuts down leaves its VMM behind to say so; a VMM that ends by itself has failed (since version 52).
        let args = ["--no-shutdown", "--api-socket", SOCKET, "--event-monitor", &format!("path={EVENTS}")].map(str::to_owned);
        let process = spawned::start(PROGRAM, &args, &machine.title, dir, Some(console))?;
        let begin = Instant::now();
        while ask(dir, Method::GET, "vmm.ping", None).await.is_err() {
            if !process::lives(&process) {
                return Err(start(spawned::last_words(dir)));
            }
            if begin.elapsed() > START_DEADLINE {
                self.destroy(dir).await?;
                return Err(start(format!("it does not answer after {} s", START_DEADLINE.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
        let made = async {
            ask(dir, Method::PUT, "vm.create", Some(&config)).await?;
            put(dir, "vm.boot").await
        };
        if let Err(error) = made.await {
            // What is left is a program without a machine, which looks like one whose guest has shut down.
            self.destroy(dir).await?;
            return Err(error);
        }
        Ok(process)
    }

    async fn adopt(&self, dir: &VmDir) -> Result<Option<VmmProcess>, VmmError> {
        spawned::find(dir)
    }

    async fn state(&self, dir: &VmDir) -> Result<GuestState, VmmError> {
        let info = ask(dir, Method::GET, "vm.info", None).await;
        let info = match info {
            // The program is there, but there is no machine in it: it was taken away.
            Err(VmmError::Refused { .. }) => return Ok(GuestState::Shutdown),
            info => info?,
        };
        let state = serde_json::from_value::<VmInfo>(info).map(|info| info.state).unwrap_or_default();
        Ok(match state.as_str() {
            "Running" if told(dir).panicked => GuestState::Crashed,
            "Running" => GuestState::Running,
            "Created" if told(dir).shut_down => GuestState::Shutdown,
            "Created" => GuestState::Created,
            "Shutdown" => GuestState::Shutdown,
            _ => GuestState::Paused,
        })
    }

    async fn resume(&self, dir: &VmDir) -> Result<(), VmmError> {
        // A machine that was created but not booted is held, too.
        let request = if self.state(dir).await? == GuestState::Created { "vm.boot" } else { "vm.resume" };
        put(dir, request).await
    }

    async fn pause(&self, dir: &VmDir) -> Result<(), VmmError> {
        put(dir, "vm.pause").await
    }

    async fn power_button(&self, dir: &VmDir) -> Result<(), VmmError> {
        put(dir, "vm.power-button").await
    }

    async fn destroy(&self, dir: &VmDir) -> Result<(), VmmError> {
        if let Some(process) = self.adopt(dir).await? {
            // In the order that lets it flush its disks; each may be refused where it has gone down by itself.
            for request in ["vm.shutdown", "vm.delete", "vmm.shutdown"] {
                if let Err(VmmError::Silent { .. }) = put(dir, request).await {
                    break;
                }
            }
            spawned::end(&process, QUIT_DEADLINE, dir).await?;
        }
        spawned::forget(dir, &[SOCKET, "api.sock.lock", EVENTS])
    }

    async fn counters(&self, dir: &VmDir) -> Result<VmCounters, VmmError> {
        let answer = ask(dir, Method::GET, "vm.counters", None).await?;
        let devices: BTreeMap<String, BTreeMap<String, u64>> = serde_json::from_value(answer).unwrap_or_default();
        let mut counters = VmCounters::default();
        for (name, device) in devices {
            let number = |field: &str| device.get(field).copied();
            if let (Some(read), Some(written)) = (number("read_bytes"), number("write_bytes")) {
                counters.disks.push((name, read, written));
            } else if let (Some(received), Some(sent)) = (number("rx_bytes"), number("tx_bytes")) {
                counters.nics.push((name, received, sent));
            }
        }
        Ok(counters)
    }

    async fn changed(&self, dir: &VmDir, from: GuestState) {
        let Ok(Some(process)) = self.adopt(dir).await else { return };
        let polled = async {
            while self.state(dir).await.ok() == Some(from) {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::select! {
            () = polled => {}
            () = process::exited(&process) => {}
        }
    }
}
