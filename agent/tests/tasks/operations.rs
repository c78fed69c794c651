//! What each operation does on a host, and that nothing of it is left when it is stopped or its agent is killed.

use crate::gateway::{Gateway, Host, attempt};
use basalt_agent::{
    task::{
        effect::Effect,
        record::{Given, Journal, Token},
    },
    vm::record::Record,
};
use basalt_api::task::{Outcome, Reported};
use basalt_proto::v1::{TaskAttempt, task_control::Control};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::{
    ffi::OsString,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

const VM: &str = "6f1c2a52-7f5e-4a8f-9d5f-0c8f4f0e7c11";

/// A program that stands in for another, found before it on `PATH`.
fn stand_in(dir: &Path, program: &str, script: &str) {
    fs::create_dir_all(dir).unwrap();
    let path = dir.join(program);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn path_with(dir: &Path) -> OsString {
    let mut path = dir.as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    path
}

/// Runs one attempt to its end on a host of its own.
async fn once(data_dir: &Path, path: OsString, attempt: TaskAttempt) -> (Reported, Vec<String>) {
    let mut gateway = Gateway::start().await;
    let _host = Host::with_path(&gateway, data_dir.into(), path);
    gateway.offer(attempt);
    let ended = gateway.end().await;
    gateway.settle().await;
    ended
}

fn plain_path() -> OsString {
    std::env::var_os("PATH").unwrap()
}

fn pull(source: &Path, sha256: Option<&str>) -> TaskAttempt {
    let spec = json!({"source": format!("file://{}", source.display()), "format": "Raw", "sha256": sha256});
    TaskAttempt { object_json: spec.to_string(), ..attempt("pull", json!({"imagePull": {"image": "disk"}})) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_only_if_it_is_there_and_what_its_digest_says() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let run = async |attempt| once(&dir.path().join("agent"), plain_path(), attempt).await.0;
    let missing = run(pull(&image, None)).await;
    assert_eq!(missing.outcome, Some(Outcome::Failed));
    assert!(missing.message.unwrap().contains("does not exist on this host"));
    fs::write(&image, "abc").unwrap();
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let whole = run(pull(&image, Some(digest))).await;
    assert_eq!(whole.outcome, Some(Outcome::Succeeded));
    assert_eq!((whole.result["bytes"].as_str(), whole.result["sha256"].as_str()), ("3", digest));
    fs::write(&image, "abd").unwrap();
    assert!(run(pull(&image, Some(digest))).await.message.unwrap().contains("but spec.sha256 is"));
    let none = run(TaskAttempt { object_json: String::new(), ..pull(&image, None) }).await;
    assert!(none.message.unwrap().contains("There is no Image \"disk\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pull_of_a_large_image_is_stopped_between_blocks_and_interrupted_by_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    // It has no blocks on the disk and takes hours to read.
    fs::File::create(&image).unwrap().set_len(8 << 40).unwrap();
    let mut gateway = Gateway::start().await;
    let host = Host::start(&gateway, dir.path().join("agent"));
    gateway.offer(pull(&image, None));
    gateway.step("read and verify").await;
    gateway.say(Control::Stop("enough".into())).await;
    assert_eq!(gateway.end().await.0.outcome, Some(Outcome::Stopped));
    gateway.settle().await;
    gateway.offer(TaskAttempt { token: "again".into(), ..pull(&image, None) });
    gateway.step("read and verify").await;
    host.kill().await;
    let _host = Host::start(&gateway, dir.path().join("agent"));
    assert_eq!(gateway.end().await.0.outcome, Some(Outcome::Interrupted));
}

fn collect(limit: &str) -> TaskAttempt {
    attempt("collect", json!({"collectDiagnostics": {"limit": limit}}))
}

fn with_a_vm(dir: &TempDir) -> PathBuf {
    let vm = dir.path().join("vms").join(VM);
    fs::create_dir_all(&vm).unwrap();
    fs::write(vm.join("vm.json"), serde_json::to_vec(&Record { uid: VM.into(), ..Record::default() }).unwrap()).unwrap();
    fs::write(vm.join("console.log"), "hello from the guest\n").unwrap();
    vm
}

#[tokio::test(flavor = "multi_thread")]
async fn diagnostics_are_in_one_file_that_tar_reads_and_what_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let vm = with_a_vm(&dir);
    let (reported, _) = once(dir.path(), plain_path(), collect("64Mi")).await;
    assert_eq!(reported.outcome, Some(Outcome::Succeeded), "{:?}", reported.message);
    let path = &reported.result["path"];
    assert!(path.starts_with(dir.path().join("diagnostics/job-1-").to_str().unwrap()), "{path}");
    assert_eq!(reported.result["bytes"], fs::metadata(path).unwrap().len().to_string());
    let summed = Command::new("sha256sum").arg(path).output().unwrap().stdout;
    assert!(String::from_utf8(summed).unwrap().starts_with(&reported.result["sha256"]));
    let listed = Command::new("tar").args(["-tzf", path]).output().unwrap();
    assert!(listed.status.success());
    let listed = String::from_utf8(listed.stdout).unwrap();
    for part in ["proc/meminfo", "df.txt", "ip-addr.json", &format!("vms/{VM}/vm.json"), &format!("vms/{VM}/console.log")] {
        assert!(listed.lines().any(|line| line == part), "{part} in {listed}");
    }
    let console = Command::new("tar").args(["-xzOf", path, &format!("vms/{VM}/console.log")]).output().unwrap().stdout;
    assert_eq!(console, b"hello from the guest\n");
    // A console that cannot be compressed into the room.
    let noise: Vec<u8> = (0..4096).flat_map(|_| uuid::Uuid::new_v4().into_bytes()).collect();
    fs::write(vm.join("console.log"), noise).unwrap();
    let (reported, lines) = once(dir.path(), plain_path(), collect("64Ki")).await;
    assert_eq!(reported.outcome, Some(Outcome::Succeeded), "{:?}", reported.message);
    assert!(fs::metadata(&reported.result["path"]).unwrap().len() <= 64 << 10);
    assert!(lines.iter().any(|line| line.contains("console.log is left out")), "{lines:?}");
    let (reported, _) = once(dir.path(), plain_path(), collect("0")).await;
    assert_eq!(reported.outcome, Some(Outcome::Failed));
    assert_eq!(fs::read_dir(dir.path().join("diagnostics")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn diagnostics_are_interrupted_by_a_kill_in_each_step_and_leave_nothing() {
    for (program, step) in [("ip", "ip -j addr"), ("df", "df -P"), ("dmesg", "dmesg")] {
        let dir = tempfile::tempdir().unwrap();
        let programs = dir.path().join("programs");
        stand_in(&programs, program, "exec sleep 1000");
        let mut gateway = Gateway::start().await;
        let host = Host::with_path(&gateway, dir.path().into(), path_with(&programs));
        gateway.offer(collect("64Mi"));
        gateway.step(step).await;
        host.kill().await;
        let _host = Host::start(&gateway, dir.path().into());
        let (reported, _) = gateway.end().await;
        assert_eq!((reported.outcome, reported.residue.len()), (Some(Outcome::Interrupted), 0));
        assert!(!dir.path().join("diagnostics").exists());
        gateway.settle().await;
    }
}

fn snapshot() -> TaskAttempt {
    TaskAttempt { vm_uid: VM.into(), ..attempt("snap", json!({"vmSnapshot": {"vm": "web", "snapshot": "before"}})) }
}

fn qemu_img(args: &[&str], disk: &Path) -> String {
    let output = Command::new("qemu-img").args(args).arg(disk).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn make_disk(disk: &Path) {
    let output = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(disk).arg("1M").output().unwrap();
    assert!(output.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_taken_of_all_disks_of_a_vm_that_does_not_run_and_never_twice() {
    let dir = tempfile::tempdir().unwrap();
    let run = async |attempt| once(dir.path(), plain_path(), attempt).await.0;
    assert!(run(snapshot()).await.message.unwrap().contains("not on this host"));
    let vm = with_a_vm(&dir);
    let diskless = run(snapshot()).await;
    assert_eq!(diskless.outcome, Some(Outcome::NotSupported));
    let (root, other) = (vm.join("disk-root.qcow2"), vm.join("disk-other.qcow2"));
    make_disk(&root);
    make_disk(&other);
    let taken = run(snapshot()).await;
    assert_eq!(taken.outcome, Some(Outcome::Succeeded), "{:?}", taken.message);
    assert_eq!(taken.result["disks"], "2");
    let again = run(snapshot()).await;
    assert_eq!(again.outcome, Some(Outcome::Failed));
    for disk in [&root, &other] {
        assert_eq!(qemu_img(&["snapshot", "-l"], disk).matches("before").count(), 1);
    }
    let outside = run(TaskAttempt { vm_uid: "../../etc".into(), ..snapshot() }).await;
    assert_eq!(outside.outcome, Some(Outcome::Failed));
    // A VMM that this agent has no driver for may be running.
    fs::write(vm.join("vm.json"), json!({"uid": VM, "vmm": "Qemu"}).to_string()).unwrap();
    assert_eq!(run(snapshot()).await.outcome, Some(Outcome::NotSupported));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshots_of_an_attempt_that_was_killed_are_removed_and_those_of_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let vm = with_a_vm(&dir);
    let (root, other) = (vm.join("disk-root.qcow2"), vm.join("disk-other.qcow2"));
    for disk in [&root, &other] {
        make_disk(disk);
    }
    qemu_img(&["snapshot", "-c", "kept"], &root);
    qemu_img(&["snapshot", "-c", "before"], &root);
    // Killed after the first disk's was taken and before the second's was, the third disk's VM being gone by now.
    let tasks = dir.path().join("tasks");
    fs::create_dir_all(&tasks).unwrap();
    let journal = Journal::begin(&tasks, Token::parse("snap").unwrap(), Given::from(snapshot()), Timestamp::now()).unwrap();
    let effect = |disk: &Path| Effect::Snapshot { disk: disk.into(), name: "before".into() };
    journal.change(|record| record.effects = vec![effect(&root), effect(&other), effect(&vm.join("disk-gone.qcow2"))]).unwrap();
    let mut gateway = Gateway::start().await;
    let _host = Host::start(&gateway, dir.path().into());
    let (reported, _) = gateway.end().await;
    assert_eq!((reported.outcome, reported.residue.len()), (Some(Outcome::Interrupted), 0), "{:?}", reported.residue);
    let left = qemu_img(&["snapshot", "-l"], &root);
    assert!(left.contains("kept") && !left.contains("before"), "{left}");
}

/// Stands in for bootc and ostree: what they would change is in files of the directory.
fn stand_in_for_bootc(dir: &Path) -> OsString {
    let state = dir.display();
    let image = |name: &str| json!({"image": {"image": {"image": name}, "imageDigest": "sha256:0"}}).to_string();
    let (booted, rollback, staged) = (image("r/os:1"), image("r/os:0"), image("$(cat $S/staged)").replace('"', "\\\""));
    stand_in(
        dir,
        "bootc",
        &format!(
            r#"S={state}
case "$1" in
status) staged=null; [ -f $S/staged ] && staged="{staged}"; queued=false; [ -f $S/queued ] && queued=true
  echo '{{"status":{{"booted":{booted},"rollback":{rollback},"staged":'"$staged"',"rollbackQueued":'$queued'}}}}' ;;
switch) [ -n "$container" ] && exit 1; echo "$3" > $S/staged; echo "Queued for next boot: $3"; [ -f $S/hang ] && exec sleep 1000; exit 0 ;;
rollback) if [ -f $S/queued ]; then rm $S/queued; else touch $S/queued; fi; [ -f $S/hang ] && exec sleep 1000; exit 0 ;;
*) exit 2 ;;
esac"#
        ),
    );
    stand_in(dir, "ostree", &format!("[ \"$*\" = 'admin undeploy 0' ] && rm {state}/staged"));
    path_with(dir)
}

fn stage() -> TaskAttempt {
    attempt("os", json!({"osStage": {"image": "r/os@sha256:2"}}))
}

#[tokio::test(flavor = "multi_thread")]
async fn os_images_are_staged_and_rolled_back_by_bootc_and_nothing_is_done_twice() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("programs");
    let path = stand_in_for_bootc(&state);
    let run = async |operation: Value| once(dir.path(), path.clone(), attempt("os", operation)).await.0;
    for _ in 0..2 {
        let staged = run(json!({"osStage": {"image": "r/os@sha256:2"}})).await;
        assert_eq!(staged.outcome, Some(Outcome::Succeeded), "{:?}", staged.message);
        assert_eq!((staged.result["image"].as_str(), staged.result["state"].as_str()), ("r/os@sha256:2", "Staged"));
    }
    let discarding = run(json!({"osRollback": {}})).await;
    assert_eq!(discarding.outcome, Some(Outcome::Failed));
    assert!(discarding.message.unwrap().contains("would discard it"));
    fs::remove_file(state.join("staged")).unwrap();
    for _ in 0..2 {
        let queued = run(json!({"osRollback": {}})).await;
        assert_eq!(queued.outcome, Some(Outcome::Succeeded), "{:?}", queued.message);
        assert!(state.join("queued").exists(), "a second rollback would have taken the first one back");
    }
    fs::remove_file(state.join("queued")).unwrap();
    let idle = run(json!({"osApply": {}})).await;
    assert_eq!(idle.outcome, Some(Outcome::Failed));
    assert!(idle.message.unwrap().contains("would change nothing"));
    stand_in(&state, "bootc", "echo '{\"status\": {\"booted\": null, \"type\": null}}'");
    for operation in [json!({"osStage": {"image": "r/os:2"}}), json!({"osApply": {}}), json!({"osRollback": {}})] {
        let reported = run(operation.clone()).await;
        assert_eq!(reported.outcome, Some(Outcome::NotSupported));
        assert!(reported.message.unwrap().contains("has not booted from an OS image"));
        let (reported, _) = once(dir.path(), dir.path().as_os_str().to_owned(), attempt("os", operation)).await;
        assert_eq!(reported.outcome, Some(Outcome::NotSupported));
        assert!(reported.message.unwrap().contains("there is no bootc on its PATH"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_staged_or_queued_is_taken_back_when_the_attempt_is_stopped_or_killed_and_named_if_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("programs");
    let path = stand_in_for_bootc(&state);
    fs::write(state.join("hang"), "").unwrap();
    let mut gateway = Gateway::start().await;
    let host = Host::with_path(&gateway, dir.path().into(), path.clone());
    gateway.offer(stage());
    gateway.step("stage").await;
    gateway.say(Control::Stop("enough".into())).await;
    let (reported, _) = gateway.end().await;
    assert_eq!((reported.outcome, reported.residue.len()), (Some(Outcome::Stopped), 0), "{:?}", reported.residue);
    assert!(!state.join("staged").exists());
    gateway.settle().await;

    gateway.offer(TaskAttempt { token: "again".into(), ..stage() });
    gateway.step("stage").await;
    host.kill().await;
    let host = Host::with_path(&gateway, dir.path().into(), path.clone());
    let (reported, _) = gateway.end().await;
    assert_eq!((reported.outcome, reported.residue.len()), (Some(Outcome::Interrupted), 0), "{:?}", reported.residue);
    assert!(!state.join("staged").exists());
    gateway.settle().await;
    host.kill().await;

    // Killed after bootc had heard, and the undo of one of them fails.
    fs::remove_file(state.join("hang")).unwrap();
    fs::write(state.join("staged"), "r/os@sha256:2").unwrap();
    fs::write(state.join("queued"), "").unwrap();
    stand_in(&state, "ostree", "echo 'no space' >&2; exit 1");
    let journal = Journal::begin(&dir.path().join("tasks"), Token::parse("os").unwrap(), Given::from(stage()), Timestamp::now()).unwrap();
    let staged = Effect::OsStaged { image: "r/os@sha256:2".into(), before: None };
    journal.change(|record| record.effects = vec![staged, Effect::RollbackQueued {}]).unwrap();
    let _host = Host::with_path(&gateway, dir.path().into(), path);
    let (reported, _) = gateway.end().await;
    assert_eq!(reported.outcome, Some(Outcome::Interrupted));
    assert!(!state.join("queued").exists());
    assert_eq!(reported.residue.len(), 1);
    assert!(reported.residue[0].contains("the staged OS image r/os@sha256:2 is left"), "{:?}", reported.residue);
}

/// Stands in for a bootc that has staged an image, and for a systemctl that is asked to reboot and does not come to it by itself.
fn stand_in_before_a_reboot(dir: &Path) -> OsString {
    let image = |name: &str, digest: &str| json!({"image": {"image": {"image": name}, "imageDigest": digest}});
    let status = json!({"status": {"booted": image("r/os:1", "sha256:1"), "staged": image("r/os:2", "sha256:2"), "rollbackQueued": false}});
    stand_in(dir, "bootc", &format!("echo '{status}'"));
    stand_in(dir, "systemctl", &format!("[ \"$*\" = reboot ] && echo asked >> {}/rebooted", dir.display()));
    path_with(dir)
}

/// What bootc says after the reboot.
fn boots(dir: &Path, booted: (&str, &str), previous: (&str, &str)) {
    let image = |(name, digest): (&str, &str)| json!({"image": {"image": {"image": name}, "imageDigest": digest}});
    let status = json!({"status": {"booted": image(booted), "rollback": image(previous), "staged": null, "rollbackQueued": false}});
    stand_in(dir, "bootc", &format!("echo '{status}'"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_into_another_os_is_told_by_the_agent_of_the_next_boot_by_what_has_booted() {
    let (one, two) = (("r/os:1", "sha256:1"), ("r/os:2", "sha256:2"));
    let dir = tempfile::tempdir().unwrap();
    let programs = dir.path().join("programs");
    let mut gateway = Gateway::start().await;
    for (token, booted, previous) in [("good", two, one), ("kept", one, ("r/os:0", "sha256:0")), ("taken-back", one, two)] {
        let path = stand_in_before_a_reboot(&programs);
        let host = Host::booted(&gateway, dir.path().into(), path.clone(), "boot-1");
        gateway.offer(attempt(token, json!({"osApply": {}})));
        gateway.step("reboot").await;
        while !programs.join("rebooted").exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        host.kill().await;
        boots(&programs, booted, previous);
        let host = Host::booted(&gateway, dir.path().into(), path, "boot-2");
        let (reported, _) = gateway.end().await;
        let message = reported.message.unwrap_or_default();
        match token {
            "good" => {
                assert_eq!((reported.outcome, reported.result["digest"].as_str()), (Some(Outcome::Succeeded), "sha256:2"), "{message}");
            }
            _ => {
                assert_eq!(reported.outcome, Some(Outcome::Failed));
                assert!(message.contains("but into r/os:1, and not into r/os:2"), "{message}");
                assert_eq!(message.contains("it ran and was taken back"), token == "taken-back", "{message}");
            }
        }
        assert_eq!(reported.residue.len(), 0, "{:?}", reported.residue);
        gateway.settle().await;
        host.kill().await;
        assert_eq!(fs::read_to_string(programs.join("rebooted")).unwrap(), "asked\n", "one reboot, and no second by the next agent");
        fs::remove_file(programs.join("rebooted")).unwrap();
    }

    // Killed before the reboot came: it may come yet, and that is said.
    let path = stand_in_before_a_reboot(&programs);
    let host = Host::booted(&gateway, dir.path().into(), path.clone(), "boot-2");
    gateway.offer(attempt("early", json!({"osApply": {}})));
    gateway.step("reboot").await;
    while !programs.join("rebooted").exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    host.kill().await;
    let _host = Host::booted(&gateway, dir.path().into(), path, "boot-2");
    let (reported, _) = gateway.end().await;
    assert_eq!(reported.outcome, Some(Outcome::Interrupted));
    assert!(reported.residue.len() == 1 && reported.residue[0].contains("may still come"), "{:?}", reported.residue);
}
