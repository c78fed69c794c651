//! What a fleet needs of the machine, looked at before anything is started.

use super::{Error, StoreChoice, VmmChoice};
use std::{env, path::Path};

/// Finds everything that is missing at once.
pub fn check(vmm: VmmChoice, store: StoreChoice, bin_dir: &Path) -> Result<(), Error> {
    let mut missing = Vec::new();
    let mut packages = Vec::new();
    let real = vmm != VmmChoice::Simulated;
    let root = nix::unistd::geteuid().is_root();
    if real && !root {
        missing.push("root: hosts are network namespaces, guests are on taps (--vmm simulated needs no root)");
    }
    if real && !on_path("ip") {
        missing.push("ip, of iproute2");
        packages.push("iproute2");
    }
    let (qemu, cloud_hypervisor) = (on_path("qemu-system-x86_64"), on_path("cloud-hypervisor"));
    match vmm {
        VmmChoice::Qemu if !qemu => missing.push("qemu-system-x86_64"),
        VmmChoice::Auto if !qemu && !cloud_hypervisor => missing.push("a VMM program: qemu-system-x86_64 or cloud-hypervisor"),
        VmmChoice::CloudHypervisor if !cloud_hypervisor => {
            missing.push("cloud-hypervisor (no distribution package: put its release binary on PATH)")
        }
        _ => {}
    }
    if !qemu && matches!(vmm, VmmChoice::Qemu | VmmChoice::Auto) && !(vmm == VmmChoice::Auto && cloud_hypervisor) {
        packages.extend(["qemu-system-x86", "qemu-utils"]);
    }
    if real && !Path::new("/dev/net/tun").exists() {
        missing.push("/dev/net/tun: load the kernel module with `modprobe tun`");
    }
    if store == StoreChoice::Etcd && !on_path("etcd") {
        missing.push("etcd");
        packages.push("etcd-server");
    }
    let programs: Vec<String> = ["basalt-gateway", "basalt-agent"]
        .iter()
        .filter(|program| !bin_dir.join(program).is_file())
        .map(|program| format!("{program} in {} (build it with `make build`, or name its directory with --bin-dir)", bin_dir.display()))
        .collect();
    if missing.is_empty() && programs.is_empty() {
        return Ok(());
    }
    let missing = missing.into_iter().map(str::to_owned).chain(programs).collect();
    Err(Error::Missing { vmm: vmm.flag(), missing, remedy: remedy(root || !real, &packages) })
}

fn remedy(privileged: bool, packages: &[&str]) -> String {
    let sudo = if nix::unistd::geteuid().is_root() { "" } else { "sudo " };
    let mut steps = Vec::new();
    if !packages.is_empty() {
        steps.push(if on_path("dnf") {
            let fedora = packages.iter().map(|p| match *p {
                "iproute2" => "iproute",
                "qemu-utils" => "qemu-img",
                "qemu-system-x86" => "qemu-system-x86-core",
                "etcd-server" => "etcd",
                other => other,
            });
            format!("{sudo}dnf install -y {}", fedora.collect::<Vec<_>>().join(" "))
        } else {
            format!("{sudo}apt-get install -y {}", packages.join(" "))
        });
    }
    if !privileged {
        let again: Vec<String> = env::args().collect();
        steps.push(format!("sudo {}", again.join(" ")));
    }
    if steps.is_empty() { "mend what is listed above, then run the command again".into() } else { steps.join(" && ") }
}

fn on_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}
