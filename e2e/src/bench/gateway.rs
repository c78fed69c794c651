//! The gateway's start and its memory when idle, against etcd's.

use super::{BenchError, etcd::Etcd, percentile};
use crate::fleet::program;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How often the start is measured.
const STARTS: usize = 7;
/// How long a program is left alone before its memory is read.
const IDLE: Duration = Duration::from_secs(3);

/// Prints start-to-ready and idle memory.
pub fn run() -> Result<(), BenchError> {
    let dir = tempfile::tempdir().map_err(|e| BenchError::new("make a directory", e))?;
    let (first, gateway) = start(dir.path())?;
    stop(gateway);
    let mut starts = Vec::new();
    for _ in 1..STARTS {
        let (ready, gateway) = start(dir.path())?;
        starts.push(ready);
        stop(gateway);
    }
    let (_, gateway) = start(dir.path())?;
    let etcd = Etcd::start()?;
    std::thread::sleep(IDLE);
    let (ours, theirs) = (resident_mib(gateway.id())?, resident_mib(etcd.pid())?);
    let start = percentile(&mut starts, 0.5);
    println!("gateway start to ready, embedded store; reference: etcd start to first connection");
    println!("  first start, makes its PKI  {:>8.0} ms", first.as_secs_f64() * 1e3);
    println!(
        "  median of {} more            {:>8.0} ms   etcd {:>6.0} ms   ratio {:.2}",
        starts.len(),
        start.as_secs_f64() * 1e3,
        etcd.start.as_secs_f64() * 1e3,
        start.as_secs_f64() / etcd.start.as_secs_f64()
    );
    println!("idle memory (resident)        {ours:>8.1} MiB  etcd {theirs:>6.1} MiB  ratio {:.2}", ours / theirs);
    stop(gateway);
    Ok(())
}

fn start(dir: &Path) -> Result<(Duration, Child), BenchError> {
    let failed = |e: std::io::Error| BenchError::new("start the gateway", e);
    let ready = dir.join("gateway.json");
    let _ = fs::remove_file(&ready);
    let begin = Instant::now();
    let mut gateway = Command::new(program("basalt-gateway"))
        .arg("--data-dir")
        .arg(dir)
        .args(["--listen", "127.0.0.1:0", "--hub-listen", "127.0.0.1:0", "--log-level", "warn"])
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    while !ready.exists() {
        if let Some(status) = gateway.try_wait().map_err(failed)? {
            return Err(BenchError::new("start the gateway", format!("it ended: {status}")));
        }
        if begin.elapsed() > Duration::from_secs(30) {
            return Err(BenchError::new("start the gateway", "it is not ready after 30 s"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok((begin.elapsed(), gateway))
}

fn stop(mut process: Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(process.id()).unwrap_or_default());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let _ = process.wait();
}

/// Resident memory of a process.
pub fn resident_mib(pid: u32) -> Result<f64, BenchError> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|e| BenchError::new("read the memory of a process", e))?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| BenchError::new("read the memory of a process", "no VmRSS"))
}
