//! What a host should be: a pure function of the fleet. The same fleet makes the same bytes, whatever order it was learned in.

use super::fleet::{Fleet, images_of};
use basalt_api::{VirtualMachine, virtual_machine::RunStrategy};
use basalt_proto::v1::{Desired, HostManifest, ImageManifest, VmManifest};
use prost::Message;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// A VM or image cannot be put into a manifest.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode the spec of {kind} {name}: {source}")]
pub struct ProjectionError {
    kind: &'static str,
    name: String,
    source: serde_json::Error,
}

/// What all manifests of a control plane have in common.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// Its identity: agents obey manifests of one control plane only.
    pub cluster_uid: String,
    /// How often agents report when nothing changes.
    pub heartbeat: Duration,
}

/// The manifest of a host, complete but for its generation.
pub fn project(plane: &ControlPlane, host: &str, fleet: &Fleet) -> Result<HostManifest, ProjectionError> {
    let mut manifest = HostManifest {
        cluster_uid: plane.cluster_uid.clone(),
        host: host.to_owned(),
        generation: 0,
        hash: Vec::new(),
        vms: fleet.vms_on(host).map(|vm| project_vm(vm, fleet)).collect::<Result<_, _>>()?,
        heartbeat_seconds: u32::try_from(plane.heartbeat.as_secs()).unwrap_or(u32::MAX),
    };
    // Of the content alone: the generation and the hash itself are not set yet.
    manifest.hash = Sha256::digest(manifest.encode_to_vec()).to_vec();
    Ok(manifest)
}

fn project_vm(vm: &VirtualMachine, fleet: &Fleet) -> Result<VmManifest, ProjectionError> {
    let meta = &vm.metadata;
    let (namespace, name) = (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    let error = |source| ProjectionError { kind: "VirtualMachine", name: format!("{namespace}/{name}"), source };
    let spec_json = serde_json::to_string(&vm.spec).map_err(error)?;
    let desired = desired(vm);
    // What is to be removed needs no images.
    let images = if desired == Desired::Absent { Vec::new() } else { project_images(vm, fleet)? };
    Ok(VmManifest {
        uid: meta.uid.clone().unwrap_or_default(),
        namespace,
        name,
        generation: meta.generation.unwrap_or_default(),
        epoch: vm.status.as_ref().and_then(|status| status.placement_epoch).unwrap_or_default(),
        desired: desired.into(),
        spec_json,
        images,
    })
}

fn desired(vm: &VirtualMachine) -> Desired {
    if vm.metadata.deletion_timestamp.is_some() {
        return Desired::Absent;
    }
    match vm.spec.run_strategy {
        RunStrategy::Always => Desired::Running,
        RunStrategy::RerunOnFailure => Desired::RunningUntilShutdown,
        RunStrategy::Halted => Desired::Stopped,
    }
}

fn project_images(vm: &VirtualMachine, fleet: &Fleet) -> Result<Vec<ImageManifest>, ProjectionError> {
    let encode = |name: &str| {
        let spec = fleet.image(name).map(|image| serde_json::to_string(&image.spec)).transpose();
        let spec_json = spec.map_err(|source| ProjectionError { kind: "Image", name: name.to_owned(), source })?.unwrap_or_default();
        Ok(ImageManifest { name: name.to_owned(), spec_json })
    };
    images_of(vm).into_iter().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use basalt_api::{Image, VirtualMachine};
    use proptest::prelude::*;
    use serde_json::json;

    fn plane() -> ControlPlane {
        ControlPlane { cluster_uid: "c".into(), heartbeat: Duration::from_secs(2) }
    }

    fn vm(name: &str, host: &str, revision: u64) -> VirtualMachine {
        serde_json::from_value(json!({
            "metadata": { "namespace": "default", "name": name, "uid": format!("uid-{name}"), "generation": 1, "resourceVersion": revision.to_string() },
            "spec": { "memory": "256Mi", "boot": { "kernel": { "image": "linux", "initramfs": "initrd" } },
                      "disks": [{ "name": "root", "image": "disk" }, { "name": "more", "image": "disk" }] },
            "status": { "host": host, "placementEpoch": 3 },
        }))
        .unwrap()
    }

    fn image(name: &str, revision: u64) -> Image {
        serde_json::from_value(json!({
            "metadata": { "name": name, "resourceVersion": revision.to_string() },
            "spec": { "source": format!("file:///{name}"), "format": "Raw" },
        }))
        .unwrap()
    }

    #[test]
    fn a_host_gets_its_own_vms_with_the_images_that_they_name_and_no_others() {
        let mut fleet = Fleet::default();
        assert_eq!(fleet.put_vm(vm("a", "h1", 1)), ["h1".to_owned()].into());
        assert!(fleet.put_vm(vm("b", "h2", 2)).contains("h2"));
        assert_eq!(fleet.put_image(image("linux", 3)), ["h1".to_owned(), "h2".to_owned()].into());
        assert!(fleet.put_image(image("unused", 4)).is_empty());
        let manifest = project(&plane(), "h1", &fleet).unwrap();
        assert_eq!(manifest.vms.len(), 1);
        let seen = &manifest.vms[0];
        assert_eq!((seen.uid.as_str(), seen.epoch, seen.desired()), ("uid-a", 3, Desired::Running));
        let images: Vec<_> = seen.images.iter().map(|i| (i.name.as_str(), i.spec_json.is_empty())).collect();
        assert_eq!(images, [("disk", true), ("initrd", true), ("linux", false)]);
        let spec: basalt_api::VirtualMachineSpec = serde_json::from_str(&seen.spec_json).unwrap();
        assert_eq!(spec, vm("a", "h1", 1).spec);
        assert!(project(&plane(), "h3", &fleet).unwrap().vms.is_empty());
    }

    #[test]
    fn what_is_wanted_follows_run_strategy_and_deletion() {
        let cases = [("Always", Desired::Running), ("RerunOnFailure", Desired::RunningUntilShutdown), ("Halted", Desired::Stopped)];
        for (strategy, expected) in cases {
            let mut value = serde_json::to_value(vm("a", "h1", 1)).unwrap();
            value["spec"]["runStrategy"] = json!(strategy);
            assert_eq!(desired(&serde_json::from_value(value.clone()).unwrap()), expected);
            value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            assert_eq!(desired(&serde_json::from_value(value).unwrap()), Desired::Absent);
        }
    }

    #[test]
    fn a_report_of_a_vm_is_no_change_for_its_host() {
        let mut fleet = Fleet::default();
        fleet.put_vm(vm("a", "h1", 1));
        let before = (fleet.revision(), project(&plane(), "h1", &fleet).unwrap());
        let mut reported = vm("a", "h1", 2);
        reported.status.as_mut().unwrap().restarts = 1;
        assert!(fleet.put_vm(reported).is_empty());
        assert!(fleet.revision() > before.0);
        assert_eq!(project(&plane(), "h1", &fleet).unwrap(), before.1);
    }

    #[test]
    fn a_vm_that_a_new_list_lacks_leaves_its_host() {
        let mut fleet = Fleet::default();
        fleet.put_vm(vm("a", "h1", 1));
        fleet.put_vm(vm("b", "h2", 2));
        assert_eq!(fleet.replace_vms(vec![vm("b", "h2", 2)], 9), ["h1".to_owned()].into());
        assert!(project(&plane(), "h1", &fleet).unwrap().vms.is_empty());
        assert_eq!(fleet.revision(), 9);
    }

    /// A change of the fleet, as the watches deliver it.
    #[derive(Clone, Debug)]
    enum Step {
        PutVm(u8, u8),
        RemoveVm(u8),
        PutImage(u8),
        RemoveImage(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..6u8, 0..3u8).prop_map(|(name, host)| Step::PutVm(name, host)),
            (0..6u8).prop_map(Step::RemoveVm),
            (0..3u8).prop_map(Step::PutImage),
            (0..3u8).prop_map(Step::RemoveImage),
        ]
    }

    const IMAGES: [&str; 3] = ["linux", "initrd", "disk"];

    fn apply(fleet: &mut Fleet, step: &Step, revision: u64) -> super::super::fleet::Concerned {
        match step {
            Step::PutVm(name, host) => {
                let mut vm = vm(&format!("vm{name}"), &format!("h{host}"), revision);
                // A change of the host without a change of the spec comes with a new epoch.
                vm.status.as_mut().unwrap().placement_epoch = Some(i64::from(*host));
                fleet.put_vm(vm)
            }
            Step::RemoveVm(name) => fleet.remove_vm(&vm(&format!("vm{name}"), "h0", revision)),
            Step::PutImage(name) => fleet.put_image(image(IMAGES[usize::from(*name)], revision)),
            Step::RemoveImage(name) => fleet.remove_image(&image(IMAGES[usize::from(*name)], revision)),
        }
    }

    proptest! {
        #[test]
        fn the_order_in_which_objects_are_learned_makes_no_difference(
            objects in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let put = |fleet: &mut Fleet, object: usize| match object {
                image @ 0..3 => fleet.put_image(self::image(IMAGES[image], 1)),
                other => fleet.put_vm(vm(&format!("vm{other}"), "h1", 2)),
            };
            let (mut sorted, mut shuffled) = (Fleet::default(), Fleet::default());
            (0..6).for_each(|object| drop(put(&mut sorted, object)));
            objects.into_iter().for_each(|object| drop(put(&mut shuffled, object)));
            prop_assert_eq!(project(&plane(), "h1", &sorted).unwrap(), project(&plane(), "h1", &shuffled).unwrap());
        }

        #[test]
        fn a_host_whose_manifest_changes_is_told_and_the_revision_has_grown(steps in proptest::collection::vec(step(), 1..40)) {
            let mut fleet = Fleet::default();
            for (index, step) in steps.iter().enumerate() {
                let hosts = ["h0", "h1", "h2"];
                let before: Vec<_> = hosts.iter().map(|host| project(&plane(), host, &fleet).unwrap()).collect();
                let revision = fleet.revision();
                let concerned = apply(&mut fleet, step, 1 + u64::try_from(index).unwrap());
                for (host, before) in hosts.iter().zip(before) {
                    if project(&plane(), host, &fleet).unwrap() != before {
                        prop_assert!(concerned.contains(*host), "{:?} was not told of {:?}", host, step);
                        prop_assert!(fleet.revision() > revision);
                    }
                }
            }
        }
    }
}
