//! The Cloud Hypervisor driver against what the program itself answered, and against the program where it is on PATH.
//!
//! `recorded/cloud-hypervisor-54.json` holds the requests that version 54.0.0 was asked, in their order, and its answers to the
//! byte, for a machine with a qcow2 disk and a tap.

#![allow(clippy::unwrap_used)] // the stand-in for the program is part of the tests

use basalt_agent::vmm::{GuestState, Machine, MachineBoot, MachineDisk, VmDir, Vmm, VmmError, cloud_hypervisor::CloudHypervisor};
use serde::Deserialize;
use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

/// One request with its answer.
#[derive(Deserialize)]
struct Exchange {
    label: String,
    request: String,
    answer: String,
}

/// Answers requests on a VM's socket as they were recorded under these labels, in order; what was asked is kept.
fn replay(dir: &VmDir, labels: &[&str]) -> Arc<Mutex<Vec<String>>> {
    let recorded: Vec<Exchange> = serde_json::from_str(include_str!("recorded/cloud-hypervisor-54.json")).unwrap();
    let find = |label: &&str| recorded.iter().find(|exchange| exchange.label == **label).unwrap();
    let mut exchanges: VecDeque<(String, String)> =
        labels.iter().map(find).map(|exchange| (format!("{} ", exchange.request), exchange.answer.clone())).collect();
    let listener = UnixListener::bind(dir.path().join("api.sock")).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    tokio::spawn(async move {
        while let Some((wanted, answer)) = exchanges.pop_front() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 16 << 10];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            kept.lock().unwrap().push(request.lines().next().unwrap_or_default().replace(" HTTP/1.1", ""));
            let as_recorded = request.starts_with(&wanted);
            let answer = if as_recorded { answer } else { "HTTP/1.1 599 Not as recorded\r\nContent-Length: 0\r\n\r\n".into() };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    asked
}

fn directory() -> (tempfile::TempDir, VmDir) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = VmDir::new(temporary.path());
    (temporary, dir)
}

#[tokio::test]
async fn each_state_of_a_machine_is_understood() {
    let states = [
        ("info created", GuestState::Created),
        ("info running", GuestState::Running),
        ("info paused", GuestState::Paused),
        ("info without a machine", GuestState::Shutdown),
    ];
    for (label, wanted) in states {
        let (_temporary, dir) = directory();
        replay(&dir, &[label]);
        assert_eq!(CloudHypervisor.state(&dir).await.unwrap(), wanted, "{label}");
    }
}

#[tokio::test]
async fn a_guest_that_shut_down_or_panicked_is_known_by_the_events_for_the_api_does_not_tell() {
    let (_temporary, dir) = directory();
    replay(&dir, &["info running", "info running", "info shutdown"]);
    // As `event!("guest", "panic", "event", ...)` of `devices/src/pvpanic.rs` writes them.
    let event = |kind: &str| {
        format!(r#"{{"timestamp":{{"secs":1,"nanos":2}},"source":"guest","event":"panic","properties":{{"event":"{kind}"}}}}"#)
    };
    let booted = r#"{"timestamp":{"secs":0,"nanos":1},"source":"vm","event":"booted","properties":null}"#;
    std::fs::write(dir.path().join("events.json"), format!("{booted}\n\n{}\n\n", event("crash_loaded"))).unwrap();
    assert_eq!(CloudHypervisor.state(&dir).await.unwrap(), GuestState::Running);
    std::fs::write(dir.path().join("events.json"), format!("{booted}\n\n{}\n\n", event("panic"))).unwrap();
    assert_eq!(CloudHypervisor.state(&dir).await.unwrap(), GuestState::Crashed);
    let shutdown = booted.replace("booted", "shutdown");
    std::fs::write(dir.path().join("events.json"), format!("{booted}\n\n{shutdown}\n\n{{\"timest")).unwrap();
    assert_eq!(CloudHypervisor.state(&dir).await.unwrap(), GuestState::Shutdown);
}

#[tokio::test]
async fn pause_resume_and_power_button_are_asked_for_as_the_api_has_them() {
    let (_temporary, dir) = directory();
    let asked = replay(&dir, &["pause", "info paused", "resume", "power button", "info created", "boot"]);
    CloudHypervisor.pause(&dir).await.unwrap();
    CloudHypervisor.resume(&dir).await.unwrap();
    CloudHypervisor.power_button(&dir).await.unwrap();
    // A machine that was made but not booted is held, too.
    CloudHypervisor.resume(&dir).await.unwrap();
    assert_eq!(
        *asked.lock().unwrap(),
        [
            "PUT /api/v1/vm.pause",
            "GET /api/v1/vm.info",
            "PUT /api/v1/vm.resume",
            "PUT /api/v1/vm.power-button",
            "GET /api/v1/vm.info",
            "PUT /api/v1/vm.boot"
        ]
    );
}

#[tokio::test]
async fn counters_are_read_by_device() {
    let (_temporary, dir) = directory();
    replay(&dir, &["counters"]);
    let counters = CloudHypervisor.counters(&dir).await.unwrap();
    assert_eq!(counters.disks, [("root".to_owned(), 0, 0)]);
    assert_eq!(counters.nics, [("lan".to_owned(), 0, 0)]);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_programs_own_words_and_silence_with_the_socket() {
    let (_temporary, dir) = directory();
    replay(&dir, &["power button when down", "counters before boot"]);
    let error = CloudHypervisor.power_button(&dir).await.unwrap_err();
    let told = matches!(&error, VmmError::Refused { request: "vm.power-button", reason, .. } if reason.ends_with(": VM is not running"));
    assert!(told, "{error}");
    let error = CloudHypervisor.counters(&dir).await.unwrap_err();
    assert!(matches!(&error, VmmError::Refused { request: "vm.counters", .. }), "{error}");
    std::fs::remove_file(dir.path().join("api.sock")).unwrap();
    let error = CloudHypervisor.pause(&dir).await.unwrap_err().to_string();
    assert!(error.contains("api.sock"), "{error}");
}

/// The program itself, through every request of the driver. It needs no guest that gets anywhere, but a kernel to load.
#[tokio::test]
async fn the_program_itself_obeys_where_it_is_on_path() {
    let on_path = |name: &str| std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join(name).is_file());
    let guest = std::env::var_os("BASALT_GUEST_DIR").map(PathBuf::from);
    let (true, true, Some(guest)) = (on_path("cloud-hypervisor"), std::path::Path::new("/dev/kvm").exists(), guest) else {
        println!("not asked: cloud-hypervisor on PATH, /dev/kvm and BASALT_GUEST_DIR are needed");
        return;
    };
    let (_temporary, dir) = directory();
    assert!(CloudHypervisor.adopt(&dir).await.unwrap().is_none());
    let disk = dir.path().join("disk-root.raw");
    std::fs::File::create(&disk).unwrap().set_len(16 << 20).unwrap();
    let mut machine = Machine {
        uid: "0b5e1c1e-7a4e-4a5e-9c0e-0a5d5d5d0a01".into(),
        title: "default/web".into(),
        cpus: 1,
        memory_bytes: 256 << 20,
        boot: MachineBoot::Kernel {
            kernel: guest.join("vmlinuz"),
            initramfs: Some(guest.join("initramfs.cpio.gz")),
            cmdline: "console=ttyS0 earlyprintk=ttyS0".into(),
        },
        disks: vec![MachineDisk { name: "root".into(), path: disk, qcow2: false, read_only: false }],
        nics: vec![],
    };
    let process = CloudHypervisor.start(&machine, &dir).await.unwrap();
    assert_eq!(CloudHypervisor.adopt(&dir).await.unwrap(), Some(process.clone()));
    CloudHypervisor.pause(&dir).await.unwrap();
    assert_eq!(CloudHypervisor.state(&dir).await.unwrap(), GuestState::Paused);
    CloudHypervisor.resume(&dir).await.unwrap();
    assert_eq!(CloudHypervisor.state(&dir).await.unwrap(), GuestState::Running);
    assert_eq!(CloudHypervisor.counters(&dir).await.unwrap().disks[0].0, "root");
    CloudHypervisor.power_button(&dir).await.unwrap();
    // A VMM that is killed is noticed by its process, at once.
    let killed = std::process::Command::new("kill").args(["-9", &process.pid.to_string()]).status().unwrap();
    assert!(killed.success());
    CloudHypervisor.changed(&dir, GuestState::Running).await;
    assert!(CloudHypervisor.adopt(&dir).await.unwrap().is_none());
    // What is left of it does not hinder the next, and the next leaves nothing.
    CloudHypervisor.start(&machine, &dir).await.unwrap();
    CloudHypervisor.destroy(&dir).await.unwrap();
    assert!(CloudHypervisor.adopt(&dir).await.unwrap().is_none());
    assert!(!dir.path().join("api.sock").exists());
    // A machine that is refused leaves no program behind.
    machine.boot = MachineBoot::Kernel { kernel: guest.join("no-such-kernel"), initramfs: None, cmdline: String::new() };
    let error = CloudHypervisor.start(&machine, &dir).await.unwrap_err();
    assert!(matches!(error, VmmError::Refused { .. }), "{error}");
    assert!(CloudHypervisor.adopt(&dir).await.unwrap().is_none());
}
