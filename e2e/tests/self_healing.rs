//! What a VM survives, each on a real guest.

use basalt_api::{VirtualMachine, virtual_machine::VmPhase};
use basalt_e2e::{
    Fleet, Options,
    fleet::kill_and_wait,
    guest::{answer, get},
};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

fn running(vm: Option<&VirtualMachine>) -> bool {
    restarted(0)(vm)
}

/// Running as wanted, after so many restarts.
fn restarted(times: i64) -> impl Fn(Option<&VirtualMachine>) -> bool {
    move |vm| {
        vm.and_then(|vm| vm.status.as_ref()).is_some_and(|s| {
            s.phase == Some(VmPhase::Running)
                && s.restarts == times
                && s.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
        })
    }
}

/// A fleet of one host with the VM `web` running and answering at .11.
async fn with_web() -> Fleet {
    let fleet = Fleet::start(Options::default());
    fleet.apply(&(fleet.guest_images() + &fleet.guest_vm("web", 11)));
    fleet.vm_becomes("web", "Running", running).await;
    answer(fleet.address(11));
    fleet
}

#[tokio::test]
async fn a_vmm_that_is_killed_runs_again() {
    let fleet = with_web().await;
    let pid = fleet.vmm_pid("web").await.expect("the VM has a VMM");
    let begin = Instant::now();
    kill_and_wait(pid);
    fleet.vm_becomes("web", "Running after a restart", restarted(1)).await;
    let started = begin.elapsed();
    answer(fleet.address(11));
    println!("killed to VMM running: {started:.2?}; to answering HTTP: {:.2?}", begin.elapsed());
    let again = fleet.vmm_pid("web").await.expect("the VM has a VMM again");
    assert_ne!(pid, again);
    let events = fleet.kubectl(&["get", "events"], "").succeeded().stdout;
    assert!(events.contains("VmmDied"), "{events}");
}

#[tokio::test]
async fn a_killed_agent_takes_no_vm_with_it_and_the_next_one_adopts_them() {
    let fleet = with_web().await;
    let pid = fleet.vmm_pid("web").await;
    fleet.kill("host-1");
    assert_eq!(fleet.vmm_pid("web").await, pid);
    answer(fleet.address(11));
    fleet.up();
    fleet.vm_becomes("web", "Running, adopted", running).await;
    assert_eq!(fleet.vmm_pid("web").await, pid, "the adopted VMM is the one that ran before");
    // The new agent looks after it as the old one did.
    kill_and_wait(pid.expect("the VM has a VMM"));
    fleet.vm_becomes("web", "Running after a restart", restarted(1)).await;
}

#[tokio::test]
async fn vms_run_on_without_the_gateway_and_a_vmm_killed_meanwhile_is_restarted() {
    let fleet = with_web().await;
    let pid = fleet.vmm_pid("web").await.expect("the VM has a VMM");
    let uid = fleet.vm("web").await.metadata.uid.expect("an object has a uid");
    fleet.kill("gateway");
    answer(fleet.address(11));
    kill_and_wait(pid);
    answer(fleet.address(11));
    let again = fleet.processes_naming(&uid);
    assert!(again.len() == 1 && again[0] != pid, "{again:?} after {pid}");
    fleet.up();
    fleet.vm_becomes("web", "Running, its restart known to the new gateway", restarted(1)).await;
    assert_eq!(fleet.processes_naming(&uid), again, "the gateway's return starts nothing again");
}

#[tokio::test]
async fn an_agent_started_without_the_gateway_restarts_what_died_from_its_ledger() {
    let fleet = with_web().await;
    let pid = fleet.vmm_pid("web").await.expect("the VM has a VMM");
    fleet.kill("host-1");
    fleet.kill("gateway");
    kill_and_wait(pid);
    // `up` would start the gateway first; the agent's own command line is what an init system would run.
    let namespace = fs::read_to_string(fleet.path().join("fleet.json")).expect("the fleet has a state");
    let namespace: serde_json::Value = serde_json::from_str(&namespace).expect("it is JSON");
    let namespace = format!("basalt-{}-host-1", namespace["id"].as_str().expect("it has an id"));
    let log = fs::File::create(fleet.path().join("logs/host-1-alone.log")).expect("a log can be made");
    let mut agent = Command::new("ip")
        .args(["netns", "exec", &namespace])
        .arg(basalt_e2e::fleet::program("basalt-agent"))
        .args(["--host", "host-1", "--gateway", "https://127.0.0.1:1", "--vmm", "qemu", "--data-dir"])
        .arg(fleet.path().join("hosts/host-1"))
        .stderr(log)
        .spawn()
        .expect("the agent can be started");
    answer(fleet.address(11));
    agent.kill().expect("the agent runs");
    agent.wait().expect("the agent ends");
    fleet.up();
    fleet.vm_becomes("web", "Running after a restart", restarted(1)).await;
}

/// The directory of a VM on the fleet's only host, found by its uid.
async fn vm_dir(fleet: &Fleet, name: &str) -> PathBuf {
    let uid = fleet.vm(name).await.metadata.uid.expect("an object has a uid");
    find(&fleet.path().join("hosts"), &uid).expect("the host has a directory for the VM")
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<_> = fs::read_dir(dir).ok()?.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).collect();
    let here = entries.iter().find(|e| e.file_name().to_string_lossy().contains(name)).map(|e| e.path());
    here.or_else(|| entries.iter().find_map(|e| find(&e.path(), name)))
}

#[tokio::test]
async fn a_vm_stopped_by_hand_through_qmp_is_brought_back() {
    let fleet = with_web().await;
    let pid = fleet.vmm_pid("web").await;
    let socket = vm_dir(&fleet, "web").await.join("qmp-operator.sock");
    let stream = UnixStream::connect(&socket).expect("the operator's QMP socket answers");
    let mut answers = BufReader::new(stream.try_clone().expect("a socket can be cloned")).lines();
    let say = |text: &str| writeln!(&stream, "{text}").expect("QMP reads");
    say(r#"{"execute":"qmp_capabilities"}"#);
    say(r#"{"execute":"stop"}"#);
    let stopped = answers.find(|line| line.as_ref().is_ok_and(|l| l.contains("\"STOP\""))).expect("QEMU tells of the stop");
    let resumed = answers.find(|line| line.as_ref().is_ok_and(|l| l.contains("\"RESUME\""))).expect("the agent lets it run again");
    println!("{}\n{}", stopped.unwrap(), resumed.unwrap());
    answer(fleet.address(11));
    assert_eq!(fleet.vmm_pid("web").await, pid, "resumed, not restarted");
    fleet.vm_becomes("web", "Running", running).await;
}

#[tokio::test]
async fn a_deleted_vm_leaves_no_process_tap_or_file() {
    let fleet = with_web().await;
    let uid = fleet.vm("web").await.metadata.uid.expect("an object has a uid");
    let dir = vm_dir(&fleet, "web").await;
    let state: serde_json::Value = serde_json::from_slice(&fs::read(fleet.path().join("fleet.json")).unwrap()).unwrap();
    let namespace = format!("basalt-{}-host-1", state["id"].as_str().unwrap());
    let taps = || {
        let out = Command::new("ip").args(["-n", &namespace, "-o", "link", "show", "type", "tun"]).output().expect("ip runs");
        String::from_utf8_lossy(&out.stdout).lines().count()
    };
    assert_eq!((fleet.processes_naming(&uid).len(), taps(), dir.exists()), (1, 1, true));
    fleet.ctl(&["delete", "vm", "web"]).succeeded();
    assert_eq!((fleet.processes_naming(&uid).len(), taps(), dir.exists()), (0, 0, false));
    assert!(find(&fleet.path().join("hosts"), &uid).is_none());
    assert!(get(fleet.address(11), "/").is_err());
    assert_eq!(fleet.ctl(&["get", "vm", "web"]).code, Some(5));
}
