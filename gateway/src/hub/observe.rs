//! What becomes of a report about a VM: a pure judgement on the report, the VM as the API has it, and what was written last.

use super::fleet::host as host_of;
use basalt_api::{
    VirtualMachine, VirtualMachineStatus,
    virtual_machine::{ObservedVm, VmState},
};
use basalt_proto::v1::VmReport;
use kube::ResourceExt;
use serde_json::{Value, json};

/// The longest report about one VM that is read.
const LONGEST: usize = 64 << 10;

/// A VM as a host reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Namespace of the VM.
    pub namespace: String,
    /// Name of the VM.
    pub name: String,
    /// Uid of the VM: a VM that has the name of an earlier one is another.
    pub uid: String,
    /// What the host found.
    pub observed: ObservedVm,
}

/// A part of a report that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{field} of {subject} is not usable: {reason}")]
pub struct Unreadable {
    /// The field of the message.
    pub field: &'static str,
    /// What it is about.
    pub subject: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Why a report about a VM is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// There is no such VM (any more).
    #[error("there is no such VM")]
    Unknown,
    /// The VM is placed elsewhere, or nowhere.
    #[error("the VM is not placed on this host but on {}", .0.as_deref().unwrap_or("none"))]
    NotHere(Option<String>),
    /// The host acts under another placement than the newest.
    #[error("the report is of placement epoch {reported}, and the newest is {newest}")]
    Epoch {
        /// The report's.
        reported: i64,
        /// The VM's.
        newest: i64,
    },
    /// The host found nothing of the VM, but has not acknowledged that nothing of it shall be there: it may start it yet.
    #[error("the host has not acknowledged that the VM is to be removed, so that nothing is there proves nothing")]
    NotToldToRemove,
}

/// What is to be done with a report about a VM.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is news: write it.
    Write,
    /// The API says the same.
    Same,
    /// It is not taken.
    Refused(Refusal),
}

/// What was last written of a VM, and the revision that this made.
#[derive(Clone, Debug)]
pub struct Written {
    /// What was written.
    pub observed: ObservedVm,
    /// The VM's resource version after it.
    pub revision: u64,
}

/// Reads a host's report about a VM.
pub fn read(report: &VmReport, host: &str) -> Result<Observation, Unreadable> {
    let subject = || format!("VM {}/{}", report.namespace, report.name);
    if report.observed_json.len() > LONGEST {
        return Err(Unreadable { field: "observed_json", subject: subject(), reason: format!("it is longer than {LONGEST} bytes") });
    }
    let observed =
        with_host(&report.observed_json, host).map_err(|reason| Unreadable { field: "observed_json", subject: subject(), reason })?;
    Ok(Observation { namespace: report.namespace.clone(), name: report.name.clone(), uid: report.uid.clone(), observed })
}

/// Reads an object of the API that an agent has left without its `host`.
pub fn with_host<T: serde::de::DeserializeOwned>(json: &str, host: &str) -> Result<T, String> {
    let mut value: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let object = value.as_object_mut().ok_or("it is not a JSON object")?;
    object.insert("host".to_owned(), host.into());
    serde_json::from_value(value).map_err(|e| e.to_string())
}

/// Decides on a report of `host`. `vm` is the VM as the hub's mirror has it, which may be older than what was written last.
pub fn judge(seen: &Observation, vm: Option<&VirtualMachine>, written: Option<&Written>, told_to_remove: bool) -> Verdict {
    let Some(vm) = vm.filter(|vm| vm.uid().as_deref() == Some(&seen.uid)) else {
        return Verdict::Refused(Refusal::Unknown);
    };
    let placed = host_of(vm);
    if placed != Some(&seen.observed.host) {
        return Verdict::Refused(Refusal::NotHere(placed.map(str::to_owned)));
    }
    let status: Option<&VirtualMachineStatus> = vm.status.as_ref();
    let newest = status.and_then(|status| status.placement_epoch).unwrap_or_default();
    if seen.observed.epoch != newest {
        return Verdict::Refused(Refusal::Epoch { reported: seen.observed.epoch, newest });
    }
    if seen.observed.state == VmState::Absent && !told_to_remove {
        return Verdict::Refused(Refusal::NotToldToRemove);
    }
    let revision = vm.resource_version().and_then(|text| text.parse().ok()).unwrap_or(0);
    let standing = match written {
        Some(written) if written.revision > revision => Some(&written.observed),
        _ => status.and_then(|status| status.observed.as_ref()),
    };
    if standing == Some(&seen.observed) { Verdict::Same } else { Verdict::Write }
}

/// The JSON patch that writes what was observed, and does so only while the VM is the same and placed here under this epoch.
pub fn patch(seen: &Observation) -> Value {
    json!([
        { "op": "test", "path": "/metadata/uid", "value": seen.uid },
        { "op": "test", "path": "/status/host", "value": seen.observed.host },
        { "op": "test", "path": "/status/placementEpoch", "value": seen.observed.epoch },
        { "op": "add", "path": "/status/observed", "value": seen.observed },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(host: Option<&str>, epoch: i64, observed: Option<&ObservedVm>) -> VirtualMachine {
        serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": "a", "uid": "u", "resourceVersion": "10" },
            "spec": { "memory": "256Mi", "boot": { "disk": { "name": "root" } } },
            "status": { "host": host, "placementEpoch": epoch, "observed": observed },
        }))
        .unwrap()
    }

    fn seen(state: &str) -> Observation {
        let observed_json = json!({ "epoch": 3, "generation": 1, "state": state }).to_string();
        let report = VmReport { uid: "u".into(), namespace: "default".into(), name: "a".into(), observed_json, events: vec![] };
        read(&report, "h1").unwrap()
    }

    #[test]
    fn news_of_the_newest_placement_is_written_and_what_is_known_is_not() {
        let seen = seen("Running");
        assert_eq!(judge(&seen, Some(&vm(Some("h1"), 3, None)), None, false), Verdict::Write);
        assert_eq!(judge(&seen, Some(&vm(Some("h1"), 3, Some(&seen.observed))), None, false), Verdict::Same);
    }

    #[test]
    fn what_was_written_counts_until_the_mirror_has_it() {
        let (old, new) = (seen("Starting"), seen("Running"));
        let mirrored = vm(Some("h1"), 3, Some(&old.observed));
        let written = |revision| Written { observed: new.observed.clone(), revision };
        assert_eq!(judge(&new, Some(&mirrored), Some(&written(11)), false), Verdict::Same);
        // Back to what the mirror still shows: that must be written.
        assert_eq!(judge(&old, Some(&mirrored), Some(&written(11)), false), Verdict::Write);
        assert_eq!(judge(&new, Some(&mirrored), Some(&written(9)), false), Verdict::Write);
    }

    #[test]
    fn late_reports_and_those_of_other_hosts_are_refused() {
        let seen = seen("Running");
        let refused = |vm: Option<&VirtualMachine>| match judge(&seen, vm, None, true) {
            Verdict::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(None), Refusal::Unknown);
        assert_eq!(refused(Some(&vm(Some("h2"), 3, None))), Refusal::NotHere(Some("h2".into())));
        assert_eq!(refused(Some(&vm(None, 3, None))), Refusal::NotHere(None));
        assert_eq!(refused(Some(&vm(Some("h1"), 4, None))), Refusal::Epoch { reported: 3, newest: 4 });
        let mut again = vm(Some("h1"), 3, None);
        again.metadata.uid = Some("another".into());
        assert_eq!(refused(Some(&again)), Refusal::Unknown);
    }

    #[test]
    fn absence_counts_only_from_a_host_that_knows_the_vm_is_to_be_removed() {
        let (absent, vm) = (seen("Absent"), vm(Some("h1"), 3, None));
        assert_eq!(judge(&absent, Some(&vm), None, false), Verdict::Refused(Refusal::NotToldToRemove));
        assert_eq!(judge(&absent, Some(&vm), None, true), Verdict::Write);
    }

    #[test]
    fn a_host_cannot_report_as_another() {
        let report = VmReport {
            observed_json: json!({ "host": "h2", "epoch": 1, "generation": 1, "state": "Running" }).to_string(),
            ..VmReport::default()
        };
        assert_eq!(read(&report, "h1").unwrap().observed.host, "h1");
    }

    #[test]
    fn an_unreadable_report_names_the_field_and_the_vm() {
        for json in ["", "[]", "{}", r#"{"epoch":1,"generation":1,"state":"Dancing"}"#, &" ".repeat(LONGEST + 1)] {
            let report = VmReport { namespace: "ns".into(), name: "a".into(), observed_json: json.into(), ..VmReport::default() };
            let error = read(&report, "h1").unwrap_err().to_string();
            assert!(error.starts_with("observed_json of VM ns/a is not usable: "), "{error}");
        }
    }
}
