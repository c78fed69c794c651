//! From `apply` to a guest that runs, against starting the same QEMU by hand.

use super::{BenchError, percentile};
use crate::{Fleet, Options, guest};
use basalt_api::{VirtualMachine, virtual_machine::VmPhase};
use kube::{
    Api,
    api::{DeleteParams, PostParams},
    runtime::wait::{await_condition, conditions},
};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How many VMs are measured, one after the other.
const SAMPLES: usize = 10;

/// Prints the latency from the API request to the running guest.
pub async fn run() -> Result<(), BenchError> {
    let fleet = Fleet::start(Options::default());
    fleet.apply(&fleet.guest_images());
    let mut through_api = Vec::new();
    let mut by_hand = Vec::new();
    for n in 0..SAMPLES {
        by_hand.push(start_by_hand()?);
        through_api.push(start_through_api(&fleet, n).await?);
    }
    let (api, hand) = (percentile(&mut through_api, 0.5), percentile(&mut by_hand, 0.5));
    println!("apply to guest started, median of {SAMPLES}; reference: the same QEMU machine started by hand until QMP says it runs");
    println!(
        "  create to status Running    {:>8.0} ms   by hand {:>4.0} ms   ratio {:.2}, {:.0} ms beyond the VMM's own start",
        api.as_secs_f64() * 1e3,
        hand.as_secs_f64() * 1e3,
        api.as_secs_f64() / hand.as_secs_f64(),
        (api.as_secs_f64() - hand.as_secs_f64()) * 1e3
    );
    Ok(())
}

async fn start_through_api(fleet: &Fleet, n: usize) -> Result<Duration, BenchError> {
    let failed = |e: kube::Error| BenchError::new("create a VM", e);
    let name = format!("bench-{n}");
    let manifest = fleet.guest_vm(&name, 11);
    let vm: VirtualMachine =
        serde_saphyr::from_str(manifest.trim_end_matches("---\n")).map_err(|e| BenchError::new("read the manifest", e))?;
    let vms: Api<VirtualMachine> = Api::default_namespaced(fleet.client().await);
    // The connection is made before the clock starts.
    vms.get_opt(&name).await.map_err(failed)?;
    let running = |vm: Option<&VirtualMachine>| vm.and_then(|vm| vm.status.as_ref()?.phase) == Some(VmPhase::Running);
    let params = PostParams::default();
    let begin = Instant::now();
    let (created, waited) =
        tokio::join!(vms.create(&params, &vm), tokio::time::timeout(guest::BOOT_DEADLINE, await_condition(vms.clone(), &name, running)));
    let took = begin.elapsed();
    let created = created.map_err(failed)?;
    waited.map_err(|e| BenchError::new("start a VM", e))?.map_err(|e| BenchError::new("start a VM", e))?;
    let uid = created.metadata.uid.unwrap_or_default();
    vms.delete(&name, &DeleteParams::default()).await.map_err(failed)?;
    let gone = tokio::time::timeout(guest::BOOT_DEADLINE, await_condition(vms, &name, conditions::is_deleted(&uid))).await;
    gone.map_err(|e| BenchError::new("delete a VM", e))?.map_err(|e| BenchError::new("delete a VM", e))?;
    Ok(took)
}

fn start_by_hand() -> Result<Duration, BenchError> {
    let failed = |e: std::io::Error| BenchError::new("start QEMU by hand", e);
    let dir = tempfile::tempdir().map_err(failed)?;
    let images = guest::directory();
    let socket = dir.path().join("qmp.sock");
    let begin = Instant::now();
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35,accel=tcg", "-nodefaults", "-no-user-config", "-display", "none", "-m", "192M", "-S"])
        .args(["-append", "console=ttyS0 quiet"])
        .arg("-kernel")
        .arg(images.join("vmlinuz"))
        .arg("-initrd")
        .arg(images.join("initramfs.cpio.gz"))
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        .stdout(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let started = resume(&socket, begin);
    let took = begin.elapsed();
    let _ = qemu.kill();
    let _ = qemu.wait();
    started.map(|()| took)
}

fn resume(socket: &Path, begin: Instant) -> Result<(), BenchError> {
    let failed = |e: std::io::Error| BenchError::new("talk to QEMU", e);
    let stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(e) if begin.elapsed() > Duration::from_secs(10) => return Err(failed(e)),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let mut answers = BufReader::new(stream.try_clone().map_err(failed)?).lines();
    (&stream).write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"cont\"}\n").map_err(failed)?;
    answers
        .find(|line| line.as_ref().is_ok_and(|l| l.contains("\"RESUME\"")))
        .map_or_else(|| Err(BenchError::new("talk to QEMU", "it never resumed")), |line| line.map(drop).map_err(failed))
}
