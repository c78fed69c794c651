//! `basaltctl start`, `stop`, `restart`, `pause` and `resume`: each a change of the VM's spec, and the wait for what comes of it.

use super::{
    goal::{Goal, reach},
    usage,
};
use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kinds, request},
    error::Error,
    output::{Screen, age},
    target::{self, Target},
};
use basalt_api::virtual_machine::STRATEGY_BEFORE_STOP;
use clap::Args;
use http::{Request, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

/// Which VMs, and how long to wait.
#[derive(Debug, Args)]
pub struct Vms {
    /// The virtual machines: vm/NAME..
    #[arg(value_name = "vm/NAME", required = true)]
    words: Vec<String>,
    /// Wait until they are so
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = age::parse)]
    timeout: Duration,
}

/// Runs VMs that are stopped.
#[derive(Debug, Args)]
pub struct Start {
    #[command(flatten)]
    vms: Vms,
}

/// Shuts VMs down and keeps them so.
#[derive(Debug, Args)]
pub struct Stop {
    #[command(flatten)]
    vms: Vms,
    /// Do not wait for the guests: what they have not written is lost
    #[arg(long)]
    force: bool,
}

/// Shuts VMs down and starts them again, with their newest spec.
#[derive(Debug, Args)]
pub struct Restart {
    #[command(flatten)]
    vms: Vms,
    /// Do not wait for the guests: what they have not written is lost
    #[arg(long)]
    force: bool,
}

/// Holds the vCPUs of VMs.
#[derive(Debug, Args)]
pub struct Pause {
    #[command(flatten)]
    vms: Vms,
}

/// Lets VMs run whose vCPUs are held.
#[derive(Debug, Args)]
pub struct Resume {
    #[command(flatten)]
    vms: Vms,
}

/// What is to be done with a VM as it is: the merge patch, or that there is nothing to do.
type Change = fn(&Value, bool, Timestamp) -> Result<Option<Value>, Error>;

impl Start {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        self.vms.change(global, screen, ("start", "runs"), false, start).await
    }
}

impl Stop {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        self.vms.change(global, screen, ("stop", "is stopped"), self.force, stop).await
    }
}

impl Restart {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        self.vms.change(global, screen, ("restart", "was restarted"), self.force, restart).await
    }
}

impl Pause {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        self.vms.change(global, screen, ("pause", "is paused"), false, pause).await
    }
}

impl Resume {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        self.vms.change(global, screen, ("resume", "runs"), false, resume).await
    }
}

fn strategy(vm: &Value) -> &str {
    vm["spec"]["runStrategy"].as_str().unwrap_or("Always")
}

fn title(vm: &Value) -> String {
    format!("vm/{}", vm["metadata"]["name"].as_str().unwrap_or_default())
}

fn start(vm: &Value, _: bool, now: Timestamp) -> Result<Option<Value>, Error> {
    let before = vm["metadata"]["annotations"][STRATEGY_BEFORE_STOP].as_str().filter(|before| *before == "RerunOnFailure");
    Ok(match strategy(vm) {
        "Halted" => Some(json!({
            "metadata": { "annotations": { STRATEGY_BEFORE_STOP: null } },
            "spec": { "runStrategy": before.unwrap_or("Always") },
        })),
        // Its guest shut itself down; a change of its spec lets it run again.
        _ if vm["status"]["phase"] == "Stopped" => Some(json!({ "spec": { "restartRequestedAt": now.to_string() } })),
        _ => None,
    })
}

fn stop(vm: &Value, force: bool, now: Timestamp) -> Result<Option<Value>, Error> {
    let stopped = strategy(vm) == "Halted";
    if stopped && (!force || vm["status"]["phase"] == "Stopped") {
        return Ok(None);
    }
    let mut patch = json!({ "spec": { "runStrategy": "Halted" } });
    if !stopped {
        patch["metadata"] = json!({ "annotations": { STRATEGY_BEFORE_STOP: strategy(vm) } });
    }
    if force {
        patch["spec"]["forceStopRequestedAt"] = now.to_string().into();
    }
    Ok(Some(patch))
}

fn restart(vm: &Value, force: bool, now: Timestamp) -> Result<Option<Value>, Error> {
    if strategy(vm) == "Halted" {
        return Err(usage(format!("{} is stopped", title(vm)), format!("basaltctl start {} starts it", title(vm))));
    }
    let mut patch = json!({ "spec": { "restartRequestedAt": now.to_string() } });
    if force {
        patch["spec"]["forceStopRequestedAt"] = now.to_string().into();
    }
    Ok(Some(patch))
}

fn pause(vm: &Value, _: bool, _: Timestamp) -> Result<Option<Value>, Error> {
    if strategy(vm) == "Halted" {
        return Err(usage(format!("{} is stopped", title(vm)), "only a VM that runs can be paused"));
    }
    Ok((vm["spec"]["paused"] != true).then(|| json!({ "spec": { "paused": true } })))
}

fn resume(vm: &Value, _: bool, _: Timestamp) -> Result<Option<Value>, Error> {
    Ok((vm["spec"]["paused"] == true).then(|| json!({ "spec": { "paused": null } })))
}

impl Vms {
    async fn change(&self, global: &Global, screen: &Screen, words: (&str, &str), force: bool, change: Change) -> Result<(), Error> {
        let (verb, done) = words;
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        let targets = target::named(&target::parse(&self.words)?, &kinds, &server)?;
        if let Some(other) = targets.iter().find(|target| target.kind.kind != "VirtualMachine") {
            return Err(usage(format!("{} is not a virtual machine", other.short()), "write vm/NAME; basaltctl get vms lists them"));
        }
        let mut changes = Vec::new();
        // Nothing is changed if one of them cannot be.
        for target in &targets {
            let vm = target.must_exist(&server, &kinds).await?;
            changes.push((target, change(&vm, force, Timestamp::now())?));
        }
        for (target, patch) in &changes {
            let Some(patch) = patch else { continue };
            let path = target.kind.path(target.namespace.as_deref(), Some(&target.name), None);
            let request_ = Request::patch(path).header(header::CONTENT_TYPE, "application/merge-patch+json");
            server.call(&format!("{verb} {}", target.label()), request(request_, patch.to_string().into_bytes())?).await?;
        }
        for (target, patch) in changes {
            self.follow(&server, &kinds, screen, target, patch.is_some(), done).await?;
        }
        Ok(())
    }

    async fn follow(
        &self,
        server: &Server,
        kinds: &Kinds,
        screen: &Screen,
        target: &Target,
        changed: bool,
        done: &str,
    ) -> Result<(), Error> {
        if !self.wait {
            let what = if changed { "changed" } else { "unchanged" };
            return screen.print(&format!("{} {what}\n", target.label()));
        }
        let tell = |reasons: &[String]| screen.say(&format!("waiting for {}: {}", target.short(), reasons.join("; ")));
        reach(server, kinds, target, &Goal::AsWanted, self.timeout, tell).await?;
        let already = if changed { "" } else { " already" };
        screen.print(&format!("{} {done}{already}\n", target.label()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(strategy: &str, phase: &str) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"runStrategy": strategy}, "status": {"phase": phase}})
    }

    #[test]
    fn a_vm_that_was_stopped_starts_as_it_ran_before() {
        let stopped = stop(&vm("RerunOnFailure", "Running"), false, Timestamp::UNIX_EPOCH).unwrap().unwrap();
        assert_eq!(stopped["spec"], json!({"runStrategy": "Halted"}));
        let mut halted = vm("Halted", "Stopped");
        halted["metadata"]["annotations"] = stopped["metadata"]["annotations"].clone();
        assert_eq!(start(&halted, false, Timestamp::UNIX_EPOCH).unwrap().unwrap()["spec"]["runStrategy"], "RerunOnFailure");
        assert_eq!(start(&vm("Halted", "Stopped"), false, Timestamp::UNIX_EPOCH).unwrap().unwrap()["spec"]["runStrategy"], "Always");
    }

    #[test]
    fn a_guest_that_shut_itself_down_is_started_and_one_that_runs_is_left_alone() {
        let again = start(&vm("RerunOnFailure", "Stopped"), false, Timestamp::UNIX_EPOCH).unwrap().unwrap();
        assert_eq!(again, json!({"spec": {"restartRequestedAt": "1970-01-01T00:00:00Z"}}));
        assert_eq!(start(&vm("Always", "Running"), false, Timestamp::UNIX_EPOCH).unwrap(), None);
    }

    #[test]
    fn what_is_so_already_is_not_changed_and_what_cannot_be_is_refused() {
        assert_eq!(stop(&vm("Halted", "Stopped"), true, Timestamp::UNIX_EPOCH).unwrap(), None);
        assert!(stop(&vm("Halted", "Stopping"), true, Timestamp::UNIX_EPOCH).unwrap().is_some());
        assert_eq!(resume(&vm("Always", "Running"), false, Timestamp::UNIX_EPOCH).unwrap(), None);
        assert!(restart(&vm("Halted", "Stopped"), false, Timestamp::UNIX_EPOCH).is_err());
        assert!(pause(&vm("Halted", "Stopped"), false, Timestamp::UNIX_EPOCH).is_err());
    }
}
