//! What the gateway adds to `/metrics`: the hosts that are connected, and the process as every Prometheus client tells it.

use nix::sys::{
    resource::{Resource, UsageWho, getrlimit, getrusage},
    time::TimeValLike,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};
use std::{
    fmt,
    fs::{read_dir, read_to_string},
    time::{SystemTime, UNIX_EPOCH},
};

/// Adds what the gateway knows.
pub fn register(registry: &mut Registry, hosts: impl Fn() -> usize + Send + Sync + 'static) {
    registry.register("basalt_build", "The program", Info::new([("version", basalt_daemon::version::VERSION)]));
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    registry.register_collector(Box::new(Present { hosts: Box::new(hosts), started }));
}

/// What is looked up when it is asked for.
struct Present {
    hosts: Box<dyn Fn() -> usize + Send + Sync>,
    started: f64,
}

impl fmt::Debug for Present {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Present")
    }
}

impl Collector for Present {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("basalt_hub_hosts_connected", "Hosts whose agent is connected", Some(float((self.hosts)() as u64)))?;
        gauge("process_resident_memory_bytes", "Memory of the process that is in use", resident())?;
        gauge("process_open_fds", "File descriptors that are open", read_dir("/proc/self/fd").ok().map(|fds| float(fds.count() as u64)))?;
        let most = getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| float(soft));
        gauge("process_max_fds", "File descriptors that may be open", most)?;
        gauge("process_start_time_seconds", "When the process started, in seconds since 1970", Some(self.started))?;
        let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Ok(()) };
        let microseconds = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        let cpu = ConstCounter::new(float(microseconds.unsigned_abs()) / 1e6);
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", "Time that the process spent on a CPU", None, cpu.metric_type())?)
    }
}

/// Exact up to 2^53, which none of these reaches.
#[allow(clippy::cast_precision_loss, reason = "see above")]
fn float(number: u64) -> f64 {
    number as f64
}

fn resident() -> Option<f64> {
    let status = read_to_string("/proc/self/status").ok()?;
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(float(kibibytes.trim().parse::<u64>().ok()? * 1024))
}
