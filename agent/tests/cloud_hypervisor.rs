//! The Cloud Hypervisor driver against recorded exchanges: what the program is asked, and what is made of its answers. The
//! paths, methods and bodies are those of `vmm/src/api/openapi/cloud-hypervisor.yaml`, v54; with the program itself on PATH
//! it is asked too.

#![allow(clippy::unwrap_used)] // the stand-in for the program is part of the tests

use basalt_agent::vmm::{GuestState, VmDir, Vmm, VmmError, cloud_hypervisor::CloudHypervisor};
use std::{collections::VecDeque, sync::Arc, sync::Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

/// One request with its answer.
type Exchange = (&'static str, &'static str);

/// Answers requests on a VM's socket as they were recorded, in order; what was asked is kept.
fn replay(dir: &VmDir, exchanges: &[Exchange]) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(dir.path().join("api.sock")).unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let kept = asked.clone();
    let mut exchanges: VecDeque<Exchange> = exchanges.iter().copied().collect();
    tokio::spawn(async move {
        while let Some((wanted, answer)) = exchanges.pop_front() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 16 << 10];
            let length = stream.read(&mut request).await.unwrap();
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            kept.lock().unwrap().push(request.lines().next().unwrap_or_default().to_owned());
            let answer = if request.starts_with(wanted) { answer } else { "HTTP/1.1 599 Not as recorded\r\nContent-Length: 0\r\n\r\n" };
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    asked
}

const EMPTY: &str = "HTTP/1.1 204 No Content\r\nServer: Cloud Hypervisor API\r\nConnection: close\r\n\r\n";

fn body(text: &str) -> &'static str {
    let answer = format!(
        "HTTP/1.1 200 OK\r\nServer: Cloud Hypervisor API\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    Box::leak(answer.into_boxed_str())
}

#[tokio::test]
async fn each_state_of_a_machine_is_understood() {
    let states = [
        ("Running", GuestState::Running),
        ("Created", GuestState::Created),
        ("Paused", GuestState::Paused),
        ("Shutdown", GuestState::Shutdown),
        ("BreakPoint", GuestState::Paused),
    ];
    for (name, wanted) in states {
        let temporary = tempfile::tempdir().unwrap();
        let dir = VmDir::new(temporary.path());
        replay(
            &dir,
            &[(
                "GET /api/v1/vm.info ",
                body(&format!(r#"{{"config":{{"cpus":{{"boot_vcpus":1}}}},"state":"{name}","memory_actual_size":536870912}}"#)),
            )],
        );
        assert_eq!(CloudHypervisor.state(&dir).await.unwrap(), wanted, "{name}");
    }
}

#[tokio::test]
async fn a_machine_that_is_no_longer_there_has_shut_down() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = VmDir::new(temporary.path());
    let gone = "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 43\r\n\r\n[\"Error from API\",\"The VM is not created\" ]";
    replay(&dir, &[("GET /api/v1/vm.info ", gone)]);
    assert_eq!(CloudHypervisor.state(&dir).await.unwrap(), GuestState::Shutdown);
}

#[tokio::test]
async fn pause_resume_and_power_button_are_asked_for_as_the_api_has_them() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = VmDir::new(temporary.path());
    let running = body(r#"{"config":{},"state":"Paused"}"#);
    let asked = replay(
        &dir,
        &[
            ("PUT /api/v1/vm.pause ", EMPTY),
            ("GET /api/v1/vm.info ", running),
            ("PUT /api/v1/vm.resume ", EMPTY),
            ("PUT /api/v1/vm.power-button ", EMPTY),
        ],
    );
    CloudHypervisor.pause(&dir).await.unwrap();
    CloudHypervisor.resume(&dir).await.unwrap();
    CloudHypervisor.power_button(&dir).await.unwrap();
    let asked: Vec<String> = asked.lock().unwrap().iter().map(|line| line.replace(" HTTP/1.1", "")).collect();
    assert_eq!(asked, ["PUT /api/v1/vm.pause", "GET /api/v1/vm.info", "PUT /api/v1/vm.resume", "PUT /api/v1/vm.power-button"]);
}

#[tokio::test]
async fn counters_are_read_by_device() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = VmDir::new(temporary.path());
    let counters = r#"{"root":{"read_bytes":4096,"write_bytes":512,"read_ops":1,"write_ops":1},"lan":{"rx_bytes":10,"tx_bytes":20,"rx_frames":1,"tx_frames":2}}"#;
    replay(&dir, &[("GET /api/v1/vm.counters ", body(counters))]);
    let counters = CloudHypervisor.counters(&dir).await.unwrap();
    assert_eq!(counters.disks, [("root".to_owned(), 4096, 512)]);
    assert_eq!(counters.nics, [("lan".to_owned(), 10, 20)]);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_programs_own_words_and_silence_with_the_socket() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = VmDir::new(temporary.path());
    let refusal = "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 26\r\n\r\n[\"VM is not in Running \" ]";
    replay(&dir, &[("PUT /api/v1/vm.pause ", refusal)]);
    let error = CloudHypervisor.pause(&dir).await.unwrap_err();
    assert!(matches!(&error, VmmError::Refused { request: "vm.pause", reason, .. } if reason.contains("not in Running")), "{error}");
    std::fs::remove_file(dir.path().join("api.sock")).unwrap();
    let error = CloudHypervisor.pause(&dir).await.unwrap_err().to_string();
    assert!(error.contains("api.sock"), "{error}");
}

#[tokio::test]
async fn the_program_itself_answers_where_it_is_on_path() {
    let found = std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("cloud-hypervisor").is_file()));
    if !found {
        println!("not asked: cloud-hypervisor is not on PATH");
        assert!(matches!(CloudHypervisor.probe().await, Err(VmmError::NotInstalled { .. })));
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let dir = VmDir::new(temporary.path());
    assert!(CloudHypervisor.adopt(&dir).await.unwrap().is_none());
    CloudHypervisor.destroy(&dir).await.unwrap();
}
