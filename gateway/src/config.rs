//! The gateway's settings: a YAML file, the environment and flags, the later ones stronger.

use crate::hub::tasks::log::Bounds;
use basalt_apiserver::{Limits, Rate};
use basalt_daemon::{
    logs::LogFormat,
    traces::{self, Collector},
};
use clap::Parser;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// The settings as they are given; what is left out has a default. The same names stand in the file.
#[derive(Clone, Debug, Default, Parser, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[command(name = "basalt-gateway", version = basalt_daemon::version::VERSION, about = "The control plane of Basalt: API server, controllers and agent hub")]
pub struct Settings {
    /// File with settings, YAML
    #[arg(long, env = "BASALT_GATEWAY_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Print the settings in force, secrets hidden, and exit
    #[arg(long)]
    #[serde(skip)]
    pub print_config: bool,
    /// Put the objects of a backup into the store, which must be empty, and exit
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub restore: Option<PathBuf>,
    /// Directory of keys, state and admin.kubeconfig [default: /var/lib/basalt]
    #[arg(long, env = "BASALT_GATEWAY_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the API listens [default: 0.0.0.0:9443]
    #[arg(long, env = "BASALT_GATEWAY_LISTEN", value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where the hub listens for agents [default: 0.0.0.0:9444]
    #[arg(long, env = "BASALT_GATEWAY_HUB_LISTEN", value_name = "ADDR:PORT")]
    pub hub_listen: Option<SocketAddr>,
    /// Names and addresses that the gateway is reached by; the first goes into admin.kubeconfig [default: 127.0.0.1]
    #[arg(long, env = "BASALT_GATEWAY_ADVERTISE", value_name = "NAME", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advertise: Option<Vec<String>>,
    /// Where the state is [default: embedded]
    #[arg(long, env = "BASALT_GATEWAY_STORE", value_enum)]
    pub store: Option<StoreKind>,
    /// etcd endpoints, such as `http://127.0.0.1:2379`
    #[arg(long, env = "BASALT_GATEWAY_ETCD_ENDPOINTS", value_name = "URL", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub etcd_endpoints: Option<Vec<String>>,
    /// File with the token that hosts join by; made at the first start [default: DATA_DIR/join-token]
    #[arg(long, env = "BASALT_GATEWAY_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// How often agents report when nothing changes, in seconds [default: 2]
    #[arg(long, env = "BASALT_GATEWAY_HEARTBEAT_SECONDS", value_name = "S")]
    pub heartbeat_seconds: Option<u32>,
    /// Seconds without a report after which a host is NotReady [default: 10]
    #[arg(long, env = "BASALT_GATEWAY_HOST_GRACE_SECONDS", value_name = "S")]
    pub host_grace_seconds: Option<u64>,
    /// What the audit log, DATA_DIR/audit, holds: writes and refusals, all requests, or nothing [default: writes]
    #[arg(long, env = "BASALT_GATEWAY_AUDIT", value_enum)]
    pub audit: Option<AuditLevel>,
    /// How large a file of the audit log may be before the next is begun, in MiB [default: 100]
    #[arg(long, env = "BASALT_GATEWAY_AUDIT_FILE_MIB", value_name = "MIB")]
    pub audit_file_mib: Option<u64>,
    /// How old a file of the audit log may be before the next is begun, in hours [default: 168]
    #[arg(long, env = "BASALT_GATEWAY_AUDIT_FILE_HOURS", value_name = "H")]
    pub audit_file_hours: Option<u64>,
    /// How many files of the audit log are kept besides the newest [default: 50]
    #[arg(long, env = "BASALT_GATEWAY_AUDIT_FILES", value_name = "N")]
    pub audit_files: Option<usize>,
    /// How large all files of the audit log together may be, in MiB [default: 1024]
    #[arg(long, env = "BASALT_GATEWAY_AUDIT_TOTAL_MIB", value_name = "MIB")]
    pub audit_total_mib: Option<u64>,
    /// How long an attempt of a task goes on after its host was last heard of, in seconds [default: 30]
    #[arg(long, env = "BASALT_GATEWAY_TASK_LEASE_SECONDS", value_name = "S")]
    pub task_lease_seconds: Option<u64>,
    /// How often it is looked for tasks whose time has come and that no timer has found, in seconds [default: 30]
    #[arg(long, env = "BASALT_GATEWAY_TASK_SWEEP_SECONDS", value_name = "S")]
    pub task_sweep_seconds: Option<u64>,
    /// How long logs of tasks are kept, in days [default: 30]
    #[arg(long, env = "BASALT_GATEWAY_TASK_LOG_DAYS", value_name = "D")]
    pub task_log_days: Option<u32>,
    /// How large the log of a task may become, in MiB [default: 16]
    #[arg(long, env = "BASALT_GATEWAY_TASK_LOG_MIB", value_name = "MIB")]
    pub task_log_mib: Option<u64>,
    /// How large all logs of tasks together may become, in MiB; the oldest are forgotten first [default: 1024]
    #[arg(long, env = "BASALT_GATEWAY_TASK_LOG_TOTAL_MIB", value_name = "MIB")]
    pub task_log_total_mib: Option<u64>,
    /// How many requests are worked on at once [default: 1024]
    #[arg(long, env = "BASALT_GATEWAY_LIMIT_IN_FLIGHT", value_name = "N")]
    pub limit_in_flight: Option<usize>,
    /// How many writes, and how many reads, of one identity are worked on at once [default: 256]
    #[arg(long, env = "BASALT_GATEWAY_LIMIT_IN_FLIGHT_PER_IDENTITY", value_name = "N")]
    pub limit_in_flight_per_identity: Option<usize>,
    /// How many writes, and how many reads, of one identity may wait for others to end [default: 1024]
    #[arg(long, env = "BASALT_GATEWAY_LIMIT_WAITING_PER_IDENTITY", value_name = "N")]
    pub limit_waiting_per_identity: Option<usize>,
    /// How long requests wait for others to end, in seconds [default: 10]
    #[arg(long, env = "BASALT_GATEWAY_LIMIT_WAIT_SECONDS", value_name = "S")]
    pub limit_wait_seconds: Option<u64>,
    /// How many watches of one identity may be open [default: 10000]
    #[arg(long, env = "BASALT_GATEWAY_LIMIT_WATCHES_PER_IDENTITY", value_name = "N")]
    pub limit_watches_per_identity: Option<usize>,
    /// How many writes a second one identity may ask for, on average; 0 for any number [default: 0]
    #[arg(long, env = "BASALT_GATEWAY_LIMIT_WRITES_PER_SECOND", value_name = "N")]
    pub limit_writes_per_second: Option<u32>,
    /// How many reads a second one identity may ask for, on average; 0 for any number [default: 0]
    #[arg(long, env = "BASALT_GATEWAY_LIMIT_READS_PER_SECOND", value_name = "N")]
    pub limit_reads_per_second: Option<u32>,
    /// How many requests a second all those together may ask who do not say who they are; 0 for any number [default: 50]
    #[arg(long, env = "BASALT_GATEWAY_LIMIT_ANONYMOUS_PER_SECOND", value_name = "N")]
    pub limit_anonymous_per_second: Option<u32>,
    /// Where traces are sent: an OTLP receiver that speaks gRPC, such as `http://collector.example:4317` [default:
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`, or nowhere]
    #[arg(long, env = "BASALT_GATEWAY_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// The CA of the receiver's certificate, if it is reached over https [default: `OTEL_EXPORTER_OTLP_CERTIFICATE`]
    #[arg(long, env = "BASALT_GATEWAY_OTLP_CA_FILE", value_name = "FILE")]
    pub otlp_ca_file: Option<PathBuf>,
    /// What is logged: error, warn, info, debug, trace, or a filter; `RUST_LOG` wins [default: info]
    #[arg(long, env = "BASALT_GATEWAY_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How log lines are written [default: text on a terminal, json otherwise]
    #[arg(long, env = "BASALT_GATEWAY_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
}

/// Where the state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum StoreKind {
    /// In this process, below the data directory.
    Embedded,
    /// In an etcd cluster.
    Etcd,
}

/// What is written down of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AuditLevel {
    /// Nothing.
    Off,
    /// Writes, but for the heartbeats of hosts, and refusals.
    Writes,
    /// Every request.
    All,
}

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
#[allow(missing_docs, reason = "each is described where it is read")]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: SocketAddr,
    pub hub_listen: SocketAddr,
    pub advertise: Vec<String>,
    pub store: StoreKind,
    pub etcd_endpoints: Vec<String>,
    pub join_token_file: PathBuf,
    pub heartbeat_seconds: u32,
    pub host_grace_seconds: u64,
    pub audit: AuditLevel,
    pub audit_file_mib: u64,
    pub audit_file_hours: u64,
    pub audit_files: usize,
    pub audit_total_mib: u64,
    pub task_lease_seconds: u64,
    pub task_sweep_seconds: u64,
    pub task_log_days: u32,
    pub task_log_mib: u64,
    pub task_log_total_mib: u64,
    pub limit_in_flight: usize,
    pub limit_in_flight_per_identity: usize,
    pub limit_waiting_per_identity: usize,
    pub limit_wait_seconds: u64,
    pub limit_watches_per_identity: usize,
    pub limit_writes_per_second: u32,
    pub limit_reads_per_second: u32,
    pub limit_anonymous_per_second: u32,
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

    /// How much is kept of what tasks write down.
    pub fn task_logs(&self) -> Bounds {
        Bounds {
            age: SignedDuration::from_hours(i64::from(self.task_log_days) * 24),
            each: self.task_log_mib.saturating_mul(1 << 20),
            total: self.task_log_total_mib.saturating_mul(1 << 20),
        }
    }

    /// How much may be asked.
    pub fn limits(&self) -> Limits {
        Limits {
            writes: Rate::per_second(self.limit_writes_per_second),
            reads: Rate::per_second(self.limit_reads_per_second),
            anonymous: Rate::per_second(self.limit_anonymous_per_second),
            in_flight_per_identity: self.limit_in_flight_per_identity,
            in_flight: self.limit_in_flight,
            waiting_per_identity: self.limit_waiting_per_identity,
            patience: Duration::from_secs(self.limit_wait_seconds),
            watches_per_identity: self.limit_watches_per_identity,
        }
    }
}

impl Settings {
    /// Puts in the defaults and checks the whole.
    pub fn resolve(self) -> Result<Config, SettingError> {
        let otlp = traces::of_environment();
        let error = |name, reason: &str| SettingError { name, reason: reason.to_owned() };
        let data_dir = self.data_dir.unwrap_or_else(|| "/var/lib/basalt".into());
        let config = Config {
            join_token_file: self.join_token_file.unwrap_or_else(|| data_dir.join("join-token")),
            data_dir,
            listen: self.listen.unwrap_or_else(|| ([0, 0, 0, 0], 9443).into()),
            hub_listen: self.hub_listen.unwrap_or_else(|| ([0, 0, 0, 0], 9444).into()),
            advertise: self.advertise.filter(|a| !a.is_empty()).unwrap_or_else(|| vec!["127.0.0.1".into()]),
            store: self.store.unwrap_or(StoreKind::Embedded),
            etcd_endpoints: self.etcd_endpoints.unwrap_or_default(),
            heartbeat_seconds: self.heartbeat_seconds.unwrap_or(2),
            host_grace_seconds: self.host_grace_seconds.unwrap_or(10),
            audit: self.audit.unwrap_or(AuditLevel::Writes),
            audit_file_mib: self.audit_file_mib.unwrap_or(100),
            audit_file_hours: self.audit_file_hours.unwrap_or(168),
            audit_files: self.audit_files.unwrap_or(50),
            audit_total_mib: self.audit_total_mib.unwrap_or(1024),
            task_lease_seconds: self.task_lease_seconds.unwrap_or(30),
            task_sweep_seconds: self.task_sweep_seconds.unwrap_or(30),
            task_log_days: self.task_log_days.unwrap_or(30),
            task_log_mib: self.task_log_mib.unwrap_or(16),
            task_log_total_mib: self.task_log_total_mib.unwrap_or(1024),
            limit_in_flight: self.limit_in_flight.unwrap_or(1024),
            limit_in_flight_per_identity: self.limit_in_flight_per_identity.unwrap_or(256),
            limit_waiting_per_identity: self.limit_waiting_per_identity.unwrap_or(1024),
            limit_wait_seconds: self.limit_wait_seconds.unwrap_or(10),
            limit_watches_per_identity: self.limit_watches_per_identity.unwrap_or(10_000),
            limit_writes_per_second: self.limit_writes_per_second.unwrap_or(0),
            limit_reads_per_second: self.limit_reads_per_second.unwrap_or(0),
            limit_anonymous_per_second: self.limit_anonymous_per_second.unwrap_or(50),
            otlp_endpoint: self.otlp_endpoint.or(otlp.0),
            otlp_ca_file: self.otlp_ca_file.or(otlp.1),
            log_level: self.log_level.unwrap_or_else(|| "info,fjall=warn,lsm_tree=warn".into()),
            log_format: self.log_format.unwrap_or_default(),
        };
        if config.store == StoreKind::Etcd && config.etcd_endpoints.is_empty() {
            return Err(error("etcdEndpoints", "the etcd store needs at least one, such as http://127.0.0.1:2379"));
        }
        if config.heartbeat_seconds == 0 || u64::from(config.heartbeat_seconds) * 2 > config.host_grace_seconds {
            return Err(error("hostGraceSeconds", "must be at least twice heartbeatSeconds, which must be at least 1"));
        }
        if config.audit_file_mib == 0 || config.audit_file_mib > config.audit_total_mib {
            return Err(error("auditTotalMib", "must be at least auditFileMib, which must be at least 1"));
        }
        if config.audit_file_hours == 0 {
            return Err(error("auditFileHours", "must be at least 1"));
        }
        if config.task_lease_seconds < 3 || config.task_sweep_seconds == 0 {
            return Err(error("taskLeaseSeconds", "must be at least 3, and taskSweepSeconds at least 1"));
        }
        if config.task_log_days == 0 || config.task_log_mib == 0 || config.task_log_mib > config.task_log_total_mib {
            return Err(error("taskLogTotalMib", "must be at least taskLogMib, which must be at least 1, and so must taskLogDays"));
        }
        if config.limit_in_flight == 0 || config.limit_in_flight_per_identity == 0 || config.limit_watches_per_identity == 0 {
            return Err(error("limitInFlight", "must be at least 1, and so must limitInFlightPerIdentity and limitWatchesPerIdentity"));
        }
        Ok(config)
    }
}
