//! The agent's settings: a YAML file, the environment and flags, the later ones stronger.

use crate::vmm::VmmChoice;
use basalt_api::Memory;
use basalt_daemon::{
    logs::LogFormat,
    traces::{self, Collector},
};
use clap::Parser;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The settings as they are given; what is left out has a default. The same names stand in the file.
#[derive(Clone, Debug, Default, Parser, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[command(name = "basalt-agent", version = basalt_daemon::version::VERSION, about = "The agent of a host: keeps its VMs as the gateway wants them")]
pub struct Settings {
    /// File with settings, YAML
    #[arg(long, env = "BASALT_AGENT_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Print the settings in force, secrets hidden, and exit
    #[arg(long)]
    #[serde(skip)]
    pub print_config: bool,
    /// Name of the host [default: the machine's host name]
    #[arg(long, env = "BASALT_AGENT_HOST", value_name = "NAME")]
    pub host: Option<String>,
    /// The gateway's hub, such as `https://gateway.example:9444`
    #[arg(long, env = "BASALT_AGENT_GATEWAY", value_name = "URL")]
    pub gateway: Option<String>,
    /// The gateway's CA certificate; needed to enrol, kept from then on
    #[arg(long, env = "BASALT_AGENT_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// The join token; needed to enrol
    #[arg(long, env = "BASALT_AGENT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Directory of keys, ledger and VMs [default: /var/lib/basalt-agent]
    #[arg(long, env = "BASALT_AGENT_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// VMM programs to use; `simulated` runs no guests [default: auto]
    #[arg(long, env = "BASALT_AGENT_VMM", value_enum)]
    pub vmm: Option<VmmChoice>,
    /// CPUs that the host offers [default: those of the machine]
    #[arg(long, env = "BASALT_AGENT_CAPACITY_CPUS", value_name = "N")]
    pub capacity_cpus: Option<u32>,
    /// Memory that the host offers, such as 64Gi [default: that of the machine]
    #[arg(long, env = "BASALT_AGENT_CAPACITY_MEMORY", value_name = "SIZE")]
    pub capacity_memory: Option<Memory>,
    /// How much of each guest's console is kept [default: 1Mi]
    #[arg(long, env = "BASALT_AGENT_CONSOLE_LIMIT", value_name = "SIZE")]
    pub console_limit: Option<Memory>,
    /// Where traces are sent: an OTLP receiver that speaks gRPC, such as `http://collector.example:4317` [default:
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, or nowhere]
    #[arg(long, env = "BASALT_AGENT_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// The CA of the receiver's certificate, if it is reached over https [default: `OTEL_EXPORTER_OTLP_CERTIFICATE`]
    #[arg(long, env = "BASALT_AGENT_OTLP_CA_FILE", value_name = "FILE")]
    pub otlp_ca_file: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter; `RUST_LOG` wins [default: info]
    #[arg(long, env = "BASALT_AGENT_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How log lines are written [default: text on a terminal, json otherwise]
    #[arg(long, env = "BASALT_AGENT_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// The longest data directory in bytes: a unix socket's path has 107 at most (unix(7)), and that of a VMM is
/// `vms/<uid of 36>/api.sock` in it.
const LONGEST_DATA_DIR: usize = 107 - "/vms//api.sock".len() - 36;

/// A setting is not usable.
#[derive(Debug, thiserror::Error)]
#[error("the setting {name} is not usable: {reason}")]
pub struct SettingError {
    name: &'static str,
    reason: String,
}

/// The settings in force.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "each is described at its setting")]
pub struct Config {
    pub host: String,
    pub gateway: String,
    pub ca_file: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    pub data_dir: PathBuf,
    pub vmm: VmmChoice,
    pub capacity_cpus: Option<u32>,
    pub capacity_memory: Option<Memory>,
    pub console_limit: Memory,
    pub otlp_endpoint: Option<String>,
    pub otlp_ca_file: Option<PathBuf>,
    pub log_level: String,
    pub log_format: LogFormat,
}

impl Config {
    /// Where traces go, if they are asked for.
    pub fn collector(&self) -> Option<Collector> {
        let endpoint = self.otlp_endpoint.clone()?;
        Some(Collector { endpoint, ca_file: self.otlp_ca_file.clone() })
    }
}

impl Settings {
    /// Puts in the defaults and checks the whole.
    pub fn resolve(self) -> Result<Config, SettingError> {
        let otlp = traces::of_environment();
        let error = |name, reason: &str| SettingError { name, reason: reason.to_owned() };
        let machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?.trim().split('.').next().map(str::to_lowercase);
        let host = self.host.or_else(machine).filter(|host| !host.is_empty());
        let gateway =
            self.gateway.ok_or_else(|| error("gateway", "it is missing: give the hub's address, such as https://gateway.example:9444"))?;
        if !gateway.starts_with("https://") {
            return Err(error("gateway", "expected an address that begins with https://"));
        }
        let data_dir = self.data_dir.unwrap_or_else(|| "/var/lib/basalt-agent".into());
        if data_dir.as_os_str().len() > LONGEST_DATA_DIR {
            let reason = format!(
                "{} has {} bytes, and at most {LONGEST_DATA_DIR} leave room for the paths of the VMMs' sockets; choose a shorter one",
                data_dir.display(),
                data_dir.as_os_str().len()
            );
            return Err(error("dataDir", &reason));
        }
        Ok(Config {
            host: host.ok_or_else(|| error("host", "the machine has no host name; give one"))?,
            gateway,
            ca_file: self.ca_file,
            token_file: self.token_file,
            data_dir,
            vmm: self.vmm.unwrap_or(VmmChoice::Auto),
            capacity_cpus: self.capacity_cpus,
            capacity_memory: self.capacity_memory,
            console_limit: self.console_limit.unwrap_or(Memory::from_mib(1)),
            otlp_endpoint: self.otlp_endpoint.or(otlp.0),
            otlp_ca_file: self.otlp_ca_file.or(otlp.1),
            log_level: self.log_level.unwrap_or_else(|| "info".into()),
            log_format: self.log_format.unwrap_or_default(),
        })
    }
}
