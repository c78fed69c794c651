//! `basaltctl explain placement vm/NAME`: why a VM is where it is, why not elsewhere, and what would change that.

use super::{Format, usage, with_query};
use crate::{
    cli::Global,
    connect::Server,
    discovery::{Kinds, get},
    error::Error,
    output::{Screen, object, text},
    target,
};
use basalt_api::placement::{HostVerdict, PlacementReport};
use clap::{Args, Subcommand};

/// Explains what the control plane decided.
#[derive(Debug, Subcommand)]
pub enum Explain {
    /// Say why a VM is on its host, or on none, and what each host lacks
    Placement(Placement),
}

/// Says why a VM is on its host, or on none.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  basaltctl explain placement vm/web-1\n  basaltctl explain placement vm/web-1 --host r12-a")]
pub struct Placement {
    /// The VM: vm/NAME
    #[arg(value_name = "vm/NAME", required = true)]
    words: Vec<String>,
    /// Tell all of one host: each constraint, and what its points are made of
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    output: Format,
}

impl Explain {
    /// Runs the verb.
    pub async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let Self::Placement(placement) = self;
        placement.run(global, screen).await
    }
}

impl Placement {
    async fn run(&self, global: &Global, screen: &Screen) -> Result<(), Error> {
        let asked = target::parse(&self.words)?;
        let server = Server::connect(global).await?;
        let kinds = Kinds::discover(&server).await?;
        let mut out = String::new();
        for target in target::named(&asked, &kinds, &server)? {
            if target.kind.kind != "VirtualMachine" {
                return Err(usage(format!("{} is not placed on a host", target.short()), "write vm/NAME; basaltctl get vms lists them"));
            }
            target.must_exist(&server, &kinds).await?;
            let path = target.kind.path(target.namespace.as_deref(), Some(&target.name), Some("placement"));
            let action = format!("explain the placement of {}", target.label());
            let answer = server.call(&action, get(&with_query(&path, &[("host", self.host.as_deref())]))?).await?;
            if self.output == Format::Json {
                out.push_str(&object::json(&answer));
                continue;
            }
            let report: PlacementReport = serde_json::from_value(answer).map_err(|error| Error::Answer {
                action: action.clone(),
                reason: error.to_string(),
                at: server.target.at(),
            })?;
            if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&rendered(&report, self.host.is_some(), screen.columns));
        }
        screen.print(&out)
    }
}

fn rendered(report: &PlacementReport, whole: bool, columns: Option<usize>) -> String {
    let accepting = report.hosts.iter().filter(|host| host.accepts).count();
    let mut out = match (&report.current, &report.chosen) {
        (Some(current), Some(chosen)) if current == chosen => format!("vm/{} is on host {current}, the best place for it now\n", report.vm),
        (Some(current), Some(chosen)) => {
            format!(
                "vm/{} is on host {current}; placed now, it would come to host {chosen}. It stays, for a VM is placed once\n",
                report.vm
            )
        }
        (Some(current), None) => format!("vm/{} is on host {current}; placed now, it would find no host\n", report.vm),
        (None, Some(chosen)) => format!("vm/{} comes to host {chosen}\n", report.vm),
        (None, None) => format!("vm/{} fits on no host\n", report.vm),
    };
    out = text::wrapped("", "  ", &text::clean(out.trim_end()), columns);
    if let Some(change) = &report.smallest_change {
        out.push_str(&text::wrapped("  do    ", "        ", &text::clean(change), columns));
    }
    if !whole {
        out.push_str(&format!("\n{accepting} of {} hosts could take it:\n", report.hosts.len()));
        let mut hosts: Vec<&HostVerdict> = report.hosts.iter().collect();
        hosts.sort_by(|a, b| (b.accepts, b.score).cmp(&(a.accepts, a.score)).then_with(|| a.host.cmp(&b.host)));
        let rows: Vec<Vec<String>> = hosts.into_iter().map(row).collect();
        out.push_str(&text::hanging(&["HOST", "FITS", "POINTS", "WHY"], &rows, "  ", columns));
        return out;
    }
    for host in &report.hosts {
        out.push_str(&format!("\nHost {} {}:\n", host.host, if host.accepts { "could take it" } else { "cannot take it" }));
        let rows: Vec<Vec<String>> = host
            .constraints
            .iter()
            .map(|constraint| {
                let holds = if constraint.holds { "ok" } else { "NO" };
                vec![holds.to_owned(), constraint.name.to_string(), format!("{}; there is: {}", constraint.need, constraint.have)]
            })
            .collect();
        out.push_str(&text::hanging(&["", "REFUSES WITH", "NEEDED"], &rows, "  ", columns));
        out.push_str(&format!("\n{} points:\n", host.score));
        let rows: Vec<Vec<String>> =
            host.parts.iter().map(|part| vec![part.points.to_string(), part.name.clone(), part.why.clone()]).collect();
        out.push_str(&text::hanging(&["POINTS", "FOR", "WHY"], &rows, "  ", columns));
    }
    out
}

fn row(host: &HostVerdict) -> Vec<String> {
    let missing = host.constraints.iter().filter(|constraint| !constraint.holds);
    let missing: Vec<String> =
        missing.map(|constraint| format!("{}: needs {}; {}", constraint.name, constraint.need, constraint.have)).collect();
    let why = if host.accepts {
        host.parts.iter().map(|part| format!("{} {}", part.name, part.points)).collect::<Vec<_>>().join(", ")
    } else {
        missing.join("; ")
    };
    let points = if host.accepts { host.score.to_string() } else { String::new() };
    vec![host.host.clone(), if host.accepts { "yes" } else { "no" }.to_owned(), points, why]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> PlacementReport {
        let constraint =
            |name: &str, need: &str, have: &str, holds: bool| json!({ "name": name, "need": need, "have": have, "holds": holds });
        let host = |name: &str, accepts: bool, free: &str| {
            json!({ "host": name, "accepts": accepts, "score": 780,
                "constraints": [constraint("HostUnschedulable", "a host that takes new VMs", "it takes VMs", true),
                    constraint("InsufficientMemory", "64Gi of memory", free, accepts)],
                "parts": [{ "name": "Room", "points": 730, "why": "30 CPUs and 58Gi would be left" }, { "name": "Images", "points": 50, "why": "its images are here" }] })
        };
        serde_json::from_value(json!({ "vm": "db", "namespace": "default", "chosen": "r12-b",
            "hosts": [host("r12-a", false, "12Gi of 128Gi is free"), host("r12-b", true, "100Gi of 128Gi is free")] }))
        .unwrap()
    }

    #[test]
    fn all_hosts_are_told_in_a_line_each_and_one_with_all_of_it() {
        insta::assert_snapshot!(rendered(&report(), false, Some(80)), @r"
        vm/db comes to host r12-b

        1 of 2 hosts could take it:
          HOST   FITS  POINTS  WHY
          r12-b  yes   780     Room 730, Images 50
          r12-a  no    -       InsufficientMemory: needs 64Gi of memory; 12Gi of 128Gi
                               is free
        ");
        let mut one = report();
        one.hosts.truncate(1);
        (one.chosen, one.smallest_change) = (None, Some("free 52Gi of memory on host r12-a, or ask for 12Gi at most".into()));
        insta::assert_snapshot!(rendered(&one, true, Some(80)), @r"
        vm/db fits on no host
          do    free 52Gi of memory on host r12-a, or ask for 12Gi at most

        Host r12-a cannot take it:
              REFUSES WITH        NEEDED
          ok  HostUnschedulable   a host that takes new VMs; there is: it takes VMs
          NO  InsufficientMemory  64Gi of memory; there is: 12Gi of 128Gi is free

        780 points:
          POINTS  FOR     WHY
          730     Room    30 CPUs and 58Gi would be left
          50      Images  its images are here
        ");
    }
}
