//! A VM's spec made of files and devices of this host.

use crate::{
    images::Images,
    net,
    vmm::{Machine, MachineBoot, MachineDisk, MachineNic, VmDir},
};
use basalt_api::{
    BlockedCode, Image, VirtualMachineSpec,
    image::{ImageFormat, ImageOnHost, ImageSpec},
    virtual_machine::{Boot, Disk, Problem},
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf};

/// The images that a VM names: their specs, or nothing for one that does not exist.
pub type ImageSpecs = BTreeMap<String, Option<ImageSpec>>;

/// What tells one machine from another, field by field: a change of it takes effect with a new start only.
pub fn shape(spec: &VirtualMachineSpec, images: &ImageSpecs) -> String {
    let parts = [
        ("cpus", serde_json::json!(spec.cpus)),
        ("memory", serde_json::json!(spec.memory)),
        ("boot", serde_json::json!(spec.boot)),
        ("disks", serde_json::json!(spec.disks)),
        ("networks", serde_json::json!(spec.networks)),
        ("images", serde_json::json!(images)),
    ];
    let part = |(name, value): &(&str, serde_json::Value)| {
        let digest: String = Sha256::digest(value.to_string()).iter().take(8).map(|b| format!("{b:02x}")).collect();
        format!("{name}={digest}")
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}

/// In which fields two shapes differ. Of a machine that an older agent made no field is known.
pub fn differences(made: &str, wanted: &str) -> Vec<String> {
    if !made.contains('=') {
        return Vec::new();
    }
    let parts = |shape: &str| shape.split(',').map(str::to_owned).collect::<Vec<_>>();
    let made = parts(made);
    let new = parts(wanted).into_iter().filter(|part| !made.contains(part));
    new.filter_map(|part| part.split_once('=').map(|(name, _)| name.to_owned())).collect()
}

/// A machine that can be made, and the disks that have to be there first.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// The machine; its taps are named but need not exist.
    pub machine: Machine,
    /// Overlays to make: the image, whether it is qcow2, and where the overlay goes.
    pub overlays: Vec<(PathBuf, bool, PathBuf)>,
    /// Bridge of each interface, in the machine's order.
    pub bridges: Vec<String>,
}

/// The files of a VM's images.
pub type ImageFiles = BTreeMap<String, PathBuf>;

/// Looks at all images that a VM names. Reads files: not for the runtime's threads.
pub fn check_images(images: &Images, specs: &ImageSpecs) -> (Vec<(String, ImageOnHost)>, Result<ImageFiles, Problem>) {
    let (mut seen, mut files, mut problem) = (Vec::new(), BTreeMap::new(), None);
    for (name, spec) in specs {
        let checked = images.check(name, spec.as_ref());
        seen.push((name.clone(), checked.seen));
        match checked.file {
            Ok(file) => drop(files.insert(name.clone(), file)),
            Err(wrong) => problem = problem.or(Some(wrong)),
        }
    }
    (seen, problem.map_or(Ok(files), Err))
}

/// Draws the machine of a VM from its spec and the files of its images.
pub fn draw(
    uid: &str,
    title: &str,
    spec: &VirtualMachineSpec,
    specs: &ImageSpecs,
    files: &ImageFiles,
    dir: &VmDir,
) -> Result<Blueprint, Problem> {
    let file = |name: &str, wanted: &[ImageFormat]| {
        let format = specs.get(name).and_then(Option::as_ref).map(|spec| spec.format);
        match (files.get(name), format) {
            (Some(file), Some(format)) if wanted.contains(&format) => Ok((file.clone(), format)),
            (_, format) => {
                let has = format.map_or_else(|| "no format".to_owned(), |format| format!("{format:?}"));
                let wanted: Vec<_> = wanted.iter().map(|format| format!("{format:?}")).collect();
                Err(unusable(name, format!("Image {name} is {has}, but {} is needed here", wanted.join(" or "))))
            }
        }
    };
    let mut overlays = Vec::new();
    let mut disk = |disk: &Disk| {
        let (image, format) = file(&disk.image, &[ImageFormat::Raw, ImageFormat::Qcow2])?;
        let qcow2 = format == ImageFormat::Qcow2;
        if disk.read_only {
            return Ok(MachineDisk { name: disk.name.clone(), path: image, qcow2, read_only: true });
        }
        let overlay = dir.path().join(format!("disk-{}.qcow2", disk.name));
        overlays.push((image, qcow2, overlay.clone()));
        Ok(MachineDisk { name: disk.name.clone(), path: overlay, qcow2: true, read_only: false })
    };
    let mut disks = spec.disks.iter().map(&mut disk).collect::<Result<Vec<_>, Problem>>()?;
    let boot = match &spec.boot {
        Boot::Kernel(kernel) => MachineBoot::Kernel {
            kernel: file(&kernel.image, &[ImageFormat::Kernel])?.0,
            initramfs: kernel.initramfs.as_ref().map(|name| file(name, &[ImageFormat::Initramfs]).map(|f| f.0)).transpose()?,
            cmdline: cmdline(&kernel.cmdline, title, spec),
        },
        Boot::Disk(boot) => {
            let index = disks.iter().position(|disk| disk.name == boot.name).ok_or_else(|| Problem {
                code: BlockedCode::StartFailed,
                object: None,
                message: format!("spec.boot.disk.name is {:?}, but spec.disks has no disk of that name", boot.name),
                retry_at: None,
            })?;
            let first = disks.remove(index);
            disks.insert(0, first);
            MachineBoot::Disk
        }
    };
    let nics = spec.networks.iter().enumerate().map(|(index, network)| MachineNic {
        name: network.name.clone(),
        tap: net::tap_name(uid, index),
        mac: network.mac.clone().unwrap_or_else(|| net::derive_mac(uid, &network.name)),
    });
    let machine = Machine {
        uid: uid.to_owned(),
        title: title.to_owned(),
        cpus: spec.cpus,
        memory_bytes: spec.memory.bytes(),
        boot,
        disks,
        nics: nics.collect(),
    };
    Ok(Blueprint { machine, overlays, bridges: spec.networks.iter().map(|n| n.bridge.clone()).collect() })
}

/// Addresses that the spec gives to the guest.
pub fn addresses(spec: &VirtualMachineSpec) -> Vec<String> {
    let address = |address: &String| address.split('/').next().unwrap_or_default().to_owned();
    spec.networks.iter().filter_map(|network| network.address.as_ref().map(address)).collect()
}

/// The kernel's own parameter for a static address (Documentation/admin-guide/nfs/nfsroot.rst), for the first interface
/// that has one.
fn cmdline(given: &str, title: &str, spec: &VirtualMachineSpec) -> String {
    let network = spec.networks.iter().enumerate().find_map(|(index, n)| Some((index, n.address.as_ref()?.split_once('/')?, n)));
    let Some((index, (address, prefix), network)) = network else { return given.to_owned() };
    let bits: u32 = prefix.parse().unwrap_or(32);
    let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0));
    let gateway = network.gateway.as_deref().unwrap_or_default();
    let name = title.rsplit('/').next().unwrap_or_default();
    format!("{given} ip={address}::{gateway}:{mask}:{name}:eth{index}:off").trim_start().to_owned()
}

fn unusable(image: &str, message: String) -> Problem {
    let object = Some(basalt_api::ObjectReference::image(image));
    Problem { code: BlockedCode::ImageUnusable, object, message, retry_at: None }
}

/// An Image's spec as the manifest carries it: empty for none.
pub fn image_spec(json: &str) -> Result<Option<ImageSpec>, serde_json::Error> {
    if json.is_empty() { Ok(None) } else { serde_json::from_str::<<Image as kube::core::object::HasSpec>::Spec>(json).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> VirtualMachineSpec {
        serde_json::from_value(value).unwrap()
    }

    fn draw_with(spec: &VirtualMachineSpec, images: &[(&str, &str)]) -> Result<Blueprint, Problem> {
        let specs: ImageSpecs = images
            .iter()
            .map(|(name, format)| {
                ((*name).to_owned(), serde_json::from_value(json!({"source": format!("file:///i/{name}"), "format": format})).ok())
            })
            .collect();
        let files = images.iter().map(|(name, _)| ((*name).to_owned(), PathBuf::from(format!("/i/{name}")))).collect();
        draw("u", "default/web", spec, &specs, &files, &VmDir::new("/v/u"))
    }

    #[test]
    fn a_static_address_reaches_the_kernel_and_no_other_part_of_the_command_line_is_touched() {
        let vm = spec(json!({"memory": "1Gi", "boot": {"kernel": {"image": "k", "cmdline": "quiet"}},
            "networks": [{"name": "a", "bridge": "br0"}, {"name": "b", "bridge": "br1", "address": "198.18.1.11/22", "gateway": "198.18.0.1"}]}));
        let machine = draw_with(&vm, &[("k", "Kernel")]).unwrap().machine;
        let MachineBoot::Kernel { cmdline, .. } = machine.boot else { panic!("no kernel") };
        assert_eq!(cmdline, "quiet ip=198.18.1.11::198.18.0.1:255.255.252.0:web:eth1:off");
    }

    #[test]
    fn the_boot_disk_comes_first_and_a_writable_disk_is_an_overlay_of_its_image() {
        let vm = spec(json!({"memory": "1Gi", "boot": {"disk": {"name": "root"}},
            "disks": [{"name": "tools", "image": "t", "readOnly": true}, {"name": "root", "image": "r"}]}));
        let blueprint = draw_with(&vm, &[("t", "Qcow2"), ("r", "Raw")]).unwrap();
        let disks: Vec<_> = blueprint.machine.disks.iter().map(|d| (d.name.as_str(), d.read_only, d.path.to_str().unwrap())).collect();
        assert_eq!(disks, [("root", false, "/v/u/disk-root.qcow2"), ("tools", true, "/i/t")]);
        assert_eq!(blueprint.overlays, [(PathBuf::from("/i/r"), false, PathBuf::from("/v/u/disk-root.qcow2"))]);
    }

    #[test]
    fn an_image_of_the_wrong_format_or_a_boot_disk_that_is_not_there_is_named() {
        let vm = spec(json!({"memory": "1Gi", "boot": {"kernel": {"image": "k"}}}));
        let problem = draw_with(&vm, &[("k", "Raw")]).unwrap_err();
        assert!(problem.message.contains("k is Raw, but Kernel"), "{}", problem.message);
        let vm = spec(json!({"memory": "1Gi", "boot": {"disk": {"name": "root"}}}));
        assert!(draw_with(&vm, &[]).unwrap_err().message.contains("\"root\""));
    }
}
