//! Puts the commit into the version.

use std::process::Command;

fn main() {
    let commit = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|o| o.status.success())
        .and_then(|o| String::from_utf8(o.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |s| s.trim().to_owned());
    println!("cargo:rustc-env=BASALT_COMMIT={commit}");
    // The log of HEAD changes with every commit and checkout; it may be absent in an export without a repository.
    if let Ok(output) = Command::new("git").args(["rev-parse", "--git-path", "logs/HEAD"]).output()
        && let Ok(path) = String::from_utf8(output.stdout)
    {
        println!("cargo:rerun-if-changed={}", path.trim());
    }
    println!("cargo:rerun-if-changed=build.rs");
}
