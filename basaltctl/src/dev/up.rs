//! `basaltctl dev up`: makes a fleet, or starts what does not run of one, and waits until its hosts are Ready.

use super::{
    Error, StoreChoice, UpArgs, VmmChoice,
    fleet::{Dir, Fleet},
    network, preflight, process, status,
};
use basalt_api::Host;
use kube::{Api, ResourceExt, api::ListParams};
use std::{
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};
use tokio::time::Instant;

/// How often something is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// How long the gateway and etcd may take to answer.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Starts the fleet.
pub async fn up(args: &UpArgs) -> Result<(), Error> {
    let begin = Instant::now();
    let dir = Dir::new(&args.place.data_dir)?;
    let existing = dir.read()?;
    let bin_dir = args.bin_dir.clone().or_else(|| existing.as_ref().map(|f| f.bin_dir.clone()));
    let bin_dir = bin_dir.map_or_else(own_directory, Ok)?;
    let (vmm, store) = existing.as_ref().map_or((args.vmm, args.store), |f| (f.vmm, f.store));
    preflight::check(vmm, store, &bin_dir)?;
    dir.create()?;
    let dir = Dir::new(dir.path())?;
    let _lock = dir.lock()?;
    let fleet = match existing {
        Some(fleet) => Fleet { bin_dir, ..fleet },
        None => define(&dir, args, bin_dir).await?,
    };
    dir.write(&fleet)?;
    if fleet.subnet.is_some() {
        network::ensure(&fleet).await?;
    }
    if fleet.store == StoreChoice::Etcd {
        start_etcd(&dir, &fleet).await?;
    }
    start_gateway(&dir, &fleet).await?;
    start_agents(&dir, &fleet)?;
    let client = status::client(&dir.kubeconfig()).await?;
    wait_for_hosts(&dir, &fleet, &client, Duration::from_secs(args.timeout)).await?;
    let hosts = fleet.hosts;
    println!("{hosts} host{} Ready after {:.1} s", if hosts == 1 { "" } else { "s" }, begin.elapsed().as_secs_f64());
    println!("export KUBECONFIG={}", dir.kubeconfig().display());
    Ok(())
}

fn own_directory() -> Result<std::path::PathBuf, Error> {
    let exe = std::env::current_exe().map_err(|source| Error::File { action: "find", path: "basaltctl".into(), source })?;
    Ok(exe.parent().unwrap_or(Path::new("/")).to_owned())
}

async fn define(dir: &Dir, args: &UpArgs, bin_dir: std::path::PathBuf) -> Result<Fleet, Error> {
    let subnet = if args.vmm == VmmChoice::Simulated { None } else { Some(network::free_subnet(args.subnet).await?) };
    let etcd_ports = match args.store {
        StoreChoice::Etcd => Some((free_port()?, free_port()?)),
        StoreChoice::Embedded => None,
    };
    Ok(Fleet {
        id: dir.id(),
        hosts: args.hosts,
        vmm: args.vmm,
        store: args.store,
        subnet,
        api_port: free_port()?,
        hub_port: free_port()?,
        etcd_ports,
        host_cpus: args.host_cpus,
        host_memory: args.host_memory,
        host_grace_seconds: args.host_grace_seconds,
        bin_dir,
    })
}

/// A port that nothing listens on. It is the fleet's for its whole life, so that hosts find a restarted gateway.
fn free_port() -> Result<u16, Error> {
    let port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port()).map_err(|source| Error::File { action: "find a free", path: "port".into(), source })
}

async fn start_etcd(dir: &Dir, fleet: &Fleet) -> Result<(), Error> {
    let (client, peer) = fleet.etcd_ports.unwrap_or_default();
    if process::running(dir, "etcd").is_none() {
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command: Vec<OsString> = vec!["etcd".into(), "--data-dir".into(), dir.etcd().into()];
        let flags = [
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
        ];
        command.extend(flags.iter().flat_map(|(flag, value)| [OsString::from(flag), OsString::from(value)]));
        command.extend(["--initial-cluster".into(), format!("default={peer}").into()]);
        let pid = process::start(dir, "etcd", &command)?;
        println!("etcd      started, pid {pid}, 127.0.0.1:{}", fleet.etcd_ports.unwrap_or_default().0);
    }
    until(dir, "etcd", START_DEADLINE, async || tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, client)).await.is_ok()).await
}

async fn start_gateway(dir: &Dir, fleet: &Fleet) -> Result<(), Error> {
    let data = dir.gateway();
    let begin = Instant::now();
    let ready = data.join("gateway.json");
    if process::running(dir, "gateway").is_none() {
        // What an earlier gateway left says nothing of the new one.
        remove_if_there(&ready)?;
        let mut command: Vec<OsString> = vec![fleet.bin_dir.join("basalt-gateway").into(), "--data-dir".into(), data.clone().into()];
        let settings = [
            ("--listen", format!("127.0.0.1:{}", fleet.api_port)),
            ("--hub-listen", format!("{}:{}", fleet.hub_address(), fleet.hub_port)),
            ("--advertise", format!("127.0.0.1,{}", fleet.hub_address())),
            ("--host-grace-seconds", fleet.host_grace_seconds.to_string()),
        ];
        command.extend(settings.into_iter().flat_map(|(flag, value)| [OsString::from(flag), OsString::from(value)]));
        if let Some((client, _)) = fleet.etcd_ports {
            command.extend(["--store".into(), "etcd".into(), "--etcd-endpoints".into(), format!("http://127.0.0.1:{client}").into()]);
        }
        let pid = process::start(dir, "gateway", &command)?;
        until(dir, "gateway", START_DEADLINE, async || ready.exists()).await?;
        println!("gateway   ready after {:.2} s, pid {pid}, https://127.0.0.1:{}", begin.elapsed().as_secs_f64(), fleet.api_port);
    }
    copy_private(&data.join("admin.kubeconfig"), &dir.kubeconfig())
}

fn start_agents(dir: &Dir, fleet: &Fleet) -> Result<(), Error> {
    for (number, host) in (1u8..).zip(fleet.host_names()) {
        if process::running(dir, &host).is_some() {
            continue;
        }
        let mut command: Vec<OsString> = Vec::new();
        if fleet.subnet.is_some() {
            command.extend(["ip".into(), "netns".into(), "exec".into(), fleet.namespace(&host).into()]);
        }
        command.extend([fleet.bin_dir.join("basalt-agent").into(), "--data-dir".into(), dir.host(&host).into()]);
        let gateway = dir.gateway();
        let settings: [(&str, OsString); 5] = [
            ("--host", host.clone().into()),
            ("--gateway", format!("https://{}:{}", fleet.hub_address(), fleet.hub_port).into()),
            ("--ca-file", gateway.join("ca.crt").into()),
            ("--token-file", gateway.join("join-token").into()),
            ("--vmm", fleet.vmm.flag().into()),
        ];
        command.extend(settings.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value]));
        if let Some(cpus) = fleet.host_cpus {
            command.extend(["--capacity-cpus".into(), cpus.to_string().into()]);
        }
        if let Some(memory) = fleet.host_memory {
            command.extend(["--capacity-memory".into(), memory.to_string().into()]);
        }
        let pid = process::start(dir, &host, &command)?;
        let place =
            fleet.host_address(number).map_or_else(|| "simulated".to_owned(), |a| format!("{a} in namespace {}", fleet.namespace(&host)));
        println!("{host:<9} started, pid {pid}, {place}");
    }
    Ok(())
}

async fn wait_for_hosts(dir: &Dir, fleet: &Fleet, client: &kube::Client, timeout: Duration) -> Result<(), Error> {
    let hosts: Api<Host> = Api::all(client.clone());
    let deadline = Instant::now() + timeout;
    loop {
        let known = hosts.list(&ListParams::default()).await.map_err(Box::new)?;
        let mut waiting = Vec::new();
        for name in fleet.host_names() {
            if process::running(dir, &name).is_none() {
                return Err(process::failed(dir, &name, "has ended"));
            }
            let ready = known.iter().find(|h| h.name_any() == name).and_then(|h| {
                let condition = h.status.as_ref()?.conditions.iter().find(|c| c.type_ == "Ready")?;
                Some((condition.status == "True", condition.message.clone()))
            });
            match ready {
                Some((true, _)) => {}
                Some((false, message)) => waiting.push(format!("{name}: {message}")),
                None => waiting.push(format!("{name}: not registered yet")),
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Error::NotReady { waiting, total: usize::from(fleet.hosts), after: timeout, logs: dir.logs() });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until `ready`, as long as the program runs.
async fn until(dir: &Dir, program: &str, timeout: Duration, ready: impl AsyncFn() -> bool) -> Result<(), Error> {
    let deadline = Instant::now() + timeout;
    while !ready().await {
        if process::running(dir, program).is_none() {
            return Err(process::failed(dir, program, "has ended"));
        }
        if Instant::now() > deadline {
            return Err(process::failed(dir, program, format!("is not ready after {} s", timeout.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::File { action: "remove", path: path.into(), source }),
        _ => Ok(()),
    }
}

fn copy_private(from: &Path, to: &Path) -> Result<(), Error> {
    let text = fs::read(from).map_err(|source| Error::File { action: "read", path: from.into(), source })?;
    remove_if_there(to)?;
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(to);
    let written = file.and_then(|mut file| io::Write::write_all(&mut file, &text));
    written.map_err(|source| Error::File { action: "write", path: to.into(), source })
}
