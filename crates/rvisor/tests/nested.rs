//! The hypervisor extension at its work: Debian's own kernel loads its `kvm` module, and a second Linux runs under it
//! (`guests/nested`).
//!
//! The image comes from the user's store (`RVISOR_HOME`, else the default). It is pulled if it isn't there, which
//! takes a while.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{finish, rvisor};

/// For both systems to boot, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(900);

/// The monitor that runs in the guest: a static program for RISC-V Linux.
fn monitor() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/nested/src/main.rs");
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nested");
    let options = ["--edition", "2024", "--crate-type", "bin", "--target", "riscv64gc-unknown-none-elf"];
    let code = ["opt-level=s", "panic=abort", "relocation-model=static", "strip=symbols"];
    let status = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(options)
        .args(code.iter().flat_map(|option| ["-C", option]))
        .args(["-D", "warnings", "-o"])
        .arg(&output)
        .arg(source)
        .status();
    assert!(status.expect("rustc runs").success(), "guests/nested is compiled");
    output
}

/// Runs a script in a Debian guest with the monitor on its standard input.
fn run(options: &[&str], script: &str) -> common::Ended {
    let program = std::fs::read(monitor()).expect("the monitor");
    let arguments = ["run", "--rm", "--net", "none"].iter().chain(options).copied();
    finish(rvisor(arguments).args(["debian", "--", "sh", "-c", script]), &program, LIMIT)
}

#[test]
fn second_linux_runs_under_the_guests_kvm() {
    assert!(finish(&mut rvisor(["pull", "debian"]), b"", Duration::from_secs(3600)).status.success());
    let script =
        "cat > /tmp/nested && chmod +x /tmp/nested && modprobe kvm && exec /tmp/nested /boot/vmlinux-*";
    let ended = run(&["--extensions", "h"], script);
    let text = ended.text();
    assert_eq!(ended.status.code(), Some(0), "{text}{}", ended.stderr);
    for line in ["nested: up on Linux", "nested: processes work", "nested: timers work", "Power down"] {
        assert!(text.contains(line), "{line:?} is missing\n{text}");
    }
    // Without the extension there is nothing to run it with.
    let ended = run(&[], "modprobe kvm && test -e /dev/kvm");
    assert_ne!(ended.status.code(), Some(0), "{}", ended.text());
}
