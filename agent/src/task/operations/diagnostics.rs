//! CollectDiagnostics: what the host knows of its state, in one file that a person can be sent.
//!
//! Each part is a gzip member of its own, so that it is known to the byte what fits before it is written. Secrets stay on the host.

use super::{Ended, Operation, Results, Work};
use crate::{
    files::{self, FileError},
    ledger::Ledger,
    program,
    task::{effect::Effect, log::Level, record::Given},
};
use async_trait::async_trait;
use basalt_api::task;
use basalt_proto::v1::HostManifest;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a program may take to say what it knows.
const DEADLINE: Duration = Duration::from_secs(10);
/// How much is taken of a text that grows, from its end.
const TAIL: u64 = 256 << 10;
/// The programs that are asked, and the name of what they say.
const PROGRAMS: [(&str, &[&str], &str); 4] = [
    ("ip", &["-j", "addr"], "ip-addr.json"),
    ("ip", &["-j", "route"], "ip-route.json"),
    ("df", &["-P"], "df.txt"),
    ("dmesg", &[], "dmesg.txt"),
];
/// What the kernel says by itself.
const KERNEL: [&str; 3] = ["meminfo", "loadavg", "mounts"];

/// A collection of one attempt.
pub struct CollectDiagnostics {
    limit: u64,
    name: String,
}

/// A part of the file.
struct Part {
    name: String,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    /// The end of a file, which is read when its turn comes.
    Tail(PathBuf),
    /// A JSON file without its secrets.
    Json(PathBuf),
}

impl CollectDiagnostics {
    /// Of the task that the attempt is of.
    pub fn new(parameters: &task::CollectDiagnostics, given: &Given) -> Self {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
        let is_name = !given.name.is_empty() && !given.name.starts_with('.') && given.name.len() <= 128 && given.name.bytes().all(fits);
        let name = if is_name { given.name.as_str() } else { "task" };
        // Two namespaces may each have a task of the name, and a name may be used again.
        let uid: String = given.task_uid.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        Self { limit: parameters.limit.bytes(), name: format!("{name}-{}-{uid}.tar.gz", given.attempt) }
    }
}

#[async_trait]
impl Operation for CollectDiagnostics {
    fn steps(&self) -> Vec<String> {
        let asked = PROGRAMS.iter().map(|(program, args, _)| [&[*program], *args].concat().join(" "));
        asked.chain(["pack".to_owned()]).collect()
    }

    async fn run(&self, work: &Work) -> Result<Results, Ended> {
        let mut parts = Vec::new();
        for (step, (name, args, file)) in PROGRAMS.iter().enumerate() {
            work.enter(step)?;
            work.progress(parts.len() as u64, (PROGRAMS.len() + 1) as u64, "parts");
            match work.unless_stopped(program::run(&work.host().path, name, args, DEADLINE)).await? {
                Ok(mut said) => {
                    let surplus = said.stdout.len().saturating_sub(TAIL as usize);
                    said.stdout.drain(..surplus);
                    parts.push(Part { name: (*file).to_owned(), content: Content::Bytes(said.stdout) });
                }
                Err(error) => work.log(Level::Warn, &format!("{file} is left out: {error}")),
            }
        }
        work.enter(PROGRAMS.len())?;
        let dir = work.host().data_dir.join("diagnostics");
        files::make_dir(&dir)?;
        let path = dir.join(&self.name);
        work.declare(Effect::File { path: path.clone() })?;
        let (asked, limit) = (work.clone(), self.limit);
        work.blocking(move || {
            parts.extend(own_parts(&asked.host().data_dir));
            pack(&path, parts, limit, &asked)
        })
        .await
    }
}

/// What the agent and the kernel have in files.
fn own_parts(data_dir: &Path) -> Vec<Part> {
    let mut parts = Vec::new();
    for name in KERNEL {
        let content = std::fs::read(format!("/proc/{name}")).unwrap_or_default();
        parts.push(Part { name: format!("proc/{name}"), content: Content::Bytes(content) });
    }
    if let Some(manifest) = Ledger::peek(&data_dir.join("ledger")) {
        parts.push(Part { name: "ledger.json".into(), content: Content::Bytes(describe(&manifest).into_bytes()) });
    }
    let mut vms: Vec<_> = std::fs::read_dir(data_dir.join("vms")).into_iter().flatten().flatten().collect();
    vms.sort_by_key(std::fs::DirEntry::file_name);
    for vm in vms {
        let uid = vm.file_name().to_string_lossy().into_owned();
        parts.push(Part { name: format!("vms/{uid}/vm.json"), content: Content::Json(vm.path().join("vm.json")) });
        parts.push(Part { name: format!("vms/{uid}/console.log"), content: Content::Tail(vm.path().join("console.log")) });
    }
    parts
}

fn describe(manifest: &HostManifest) -> String {
    let vms = manifest.vms.iter().map(|vm| {
        let mut spec = serde_json::from_str(&vm.spec_json).unwrap_or(Value::Null);
        hide_secrets(&mut spec);
        let desired = vm.desired().as_str_name();
        json!({"uid": vm.uid, "namespace": vm.namespace, "name": vm.name, "generation": vm.generation, "epoch": vm.epoch, "desired": desired, "spec": spec})
    });
    let vms: Vec<Value> = vms.collect();
    format!("{:#}", json!({"host": manifest.host, "clusterUid": manifest.cluster_uid, "generation": manifest.generation, "vms": vms}))
}

/// Replaces the values of fields that are secrets, or may hold some.
fn hide_secrets(value: &mut Value) {
    const SECRET: [&str; 7] = ["cloudinit", "userdata", "password", "secret", "token", "key", "credential"];
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let name = name.to_lowercase();
                if SECRET.iter().any(|word| name.contains(word)) {
                    *field = "(left out)".into();
                } else {
                    hide_secrets(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        _ => {}
    }
}

fn content(part: &Content) -> io::Result<Vec<u8>> {
    match part {
        Content::Bytes(bytes) => Ok(bytes.clone()),
        Content::Tail(path) => {
            let mut file = open_regular(path)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
            let mut tail = Vec::new();
            file.take(TAIL).read_to_end(&mut tail)?;
            Ok(tail)
        }
        Content::Json(path) => {
            let mut text = Vec::new();
            open_regular(path)?.take(TAIL).read_to_end(&mut text)?;
            let mut value: Value = serde_json::from_slice(&text)?;
            hide_secrets(&mut value);
            Ok(format!("{value:#}").into_bytes())
        }
    }
}

/// A file that reading does not wait for.
fn open_regular(path: &Path) -> io::Result<File> {
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    File::open(path)
}

/// A part as a gzip member.
fn member(name: &str, content: &[u8]) -> io::Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name)?;
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default());
    header.set_cksum();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(header.as_bytes())?;
    encoder.write_all(content)?;
    encoder.write_all(&vec![0; content.len().next_multiple_of(512) - content.len()])?;
    encoder.finish()
}

/// The two empty blocks that end a tar file.
fn end_of_file() -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&[0; 1024])?;
    encoder.finish()
}

fn pack(path: &Path, parts: Vec<Part>, limit: u64, work: &Work) -> Result<Results, Ended> {
    let failed = |error: io::Error| Ended::Failed(format!("cannot write {}: {error}", path.display()));
    let end = end_of_file().map_err(failed)?;
    let mut file = new_file(path)?;
    let (mut hasher, mut bytes, mut packed) = (Sha256::new(), 0, 0_u64);
    let total = parts.len() as u64;
    for (done, part) in (0..).zip(&parts) {
        work.check()?;
        work.progress(done, total, "parts");
        let member = match content(&part.content).and_then(|content| member(&part.name, &content)) {
            Ok(member) => member,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                work.log(Level::Warn, &format!("{} is left out: {error}", part.name));
                continue;
            }
        };
        if bytes + member.len() as u64 + end.len() as u64 > limit {
            work.log(Level::Warn, &format!("{} is left out: the file would become larger than {limit} bytes", part.name));
            continue;
        }
        file.write_all(&member).map_err(failed)?;
        hasher.update(&member);
        bytes += member.len() as u64;
        packed += 1;
    }
    if packed == 0 {
        return Err(Ended::Failed(format!("No part fits into {limit} bytes. Give more room: spec.operation.collectDiagnostics.limit")));
    }
    file.write_all(&end).and_then(|()| file.sync_all()).map_err(failed)?;
    hasher.update(&end);
    bytes += end.len() as u64;
    work.progress(total, total, "parts");
    work.log(Level::Info, &format!("{packed} of {total} parts are in {}", path.display()));
    let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let results = [("path", path.display().to_string()), ("bytes", bytes.to_string()), ("sha256", sha256)];
    Ok(results.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn new_file(path: &Path) -> Result<File, FileError> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(FileError::at("make", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_at_any_depth_and_nothing_else() {
        let mut value = json!({"cpus": 2, "cloudInit": {"userData": "x"}, "disks": [{"name": "a", "encryptionKey": "k"}]});
        hide_secrets(&mut value);
        assert_eq!(value, json!({"cpus": 2, "cloudInit": "(left out)", "disks": [{"name": "a", "encryptionKey": "(left out)"}]}));
    }
}
