//! Whether KVM runs guests here, found out by running one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, sync::OnceCell};

/// How long the guest may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// A multiboot image of a few instructions: it writes 0x21 to port 0xf4, where `isa-debug-exit` ends QEMU with (0x21 << 1) | 1.
const GUEST: [u8; 42] = [
    0x02, 0xb0, 0xad, 0x1b, 0x00, 0x00, 0x01, 0x00, 0xfe, 0x4f, 0x51, 0xe4, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x20, 0x00, 0x10, 0x00, 0xb0, 0x21, 0x66, 0xba, 0xf4, 0x00, 0xee, 0xf4, 0xeb, 0xfd,
];
const GUEST_EXIT: i32 = 0x43;

static WORKS: OnceCell<bool> = OnceCell::const_new();

/// Whether KVM runs guests on this machine; looked at once.
///
/// That `/dev/kvm` opens proves nothing, and neither does a guest of a few instructions alone: a paravirtual KVM runs that,
/// but no kernel that was not made for it. So the processor must say that it virtualises, too.
pub async fn works(qemu: &str) -> bool {
    *WORKS
        .get_or_init(|| async {
            let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let flags = cpu.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
            let virtualises = flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
            // Without QEMU there is nothing to run the guest with; then the processor's word has to do.
            virtualises && Path::new("/dev/kvm").exists() && runs_guest(qemu, "kvm").await.unwrap_or(true)
        })
        .await
}

/// Whether QEMU runs the guest with an accelerator; `None` if there is no QEMU.
pub async fn runs_guest(qemu: &str, accelerator: &str) -> Option<bool> {
    let dir = directory().ok()?;
    let image = dir.join("guest");
    let mut command = Command::new(qemu);
    command.args([
        "-machine",
        &format!("q35,accel={accelerator}"),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-m",
        "16",
        "-no-reboot",
    ]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-kernel"]).arg(&image);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let ran = match fs::write(&image, GUEST) {
        Ok(()) => tokio::time::timeout(DEADLINE, command.status()).await,
        Err(error) => Ok(Err(error)),
    };
    let _ = fs::remove_dir_all(&dir);
    match ran {
        Ok(Ok(status)) => Some(status.code() == Some(GUEST_EXIT)),
        Ok(Err(_)) => None,
        Err(_) => Some(false),
    }
}

fn directory() -> std::io::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("basalt-probe-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&dir)?;
    Ok(dir)
}
