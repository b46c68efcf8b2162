//! The bare-metal guests of `guests/`, run by the command line as a user would.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The guest's ELF file. All guests are built the first time one is asked for.
fn guest(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build_guests).join(name)
}

fn build_guests() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    let mut cargo = Command::new(env!("CARGO"));
    // The guests' own configuration names target and linker script; it is found from their folder, and what
    // the host's build set in the environment would override it.
    cargo.args(["build", "--release", "--locked", "--target-dir"]).arg(&target).current_dir(folder);
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    assert!(cargo.status().expect("cargo runs").success(), "the guests build");
    target.join("riscv64gc-unknown-none-elf/release")
}

/// `rvisor boot --bare GUEST ARGUMENTS…`
fn boot(name: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rvisor"))
        .args(["boot", "--bare"])
        .arg(guest(name))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("rvisor starts")
}

#[track_caller]
fn assert_passes(output: &Output, last_words: &str) {
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains(last_words), "{}\n{text}\n{errors}", output.status);
}

#[test]
fn selftest_passes_with_one_two_and_four_harts() {
    for harts in ["1", "2", "4"] {
        assert_passes(&boot("selftest", &["--cpus", harts, "--timeout", "120"]), "selftest passed");
    }
}

fn hostile_guest_does_no_harm_with(harts: &str) {
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{harts}.img"));
    File::create(&disk).and_then(|file| file.set_len(1 << 20)).expect("a disk");
    let disk = disk.to_str().expect("a path in UTF-8");
    let arguments = ["--cpus", harts, "--memory", "64M", "--disk", disk, "--net", "user", "--timeout", "500"];
    assert_passes(&boot("hostile", &arguments), "hostile survived");
}

#[test]
fn hostile_guest_does_no_harm_with_two_harts() {
    hostile_guest_does_no_harm_with("2");
}

#[test]
fn hostile_guest_does_no_harm_with_four_harts() {
    hostile_guest_does_no_harm_with("4");
}

#[test]
fn number_of_the_failing_check_is_the_exit_code() {
    assert_eq!(boot("fails", &["--timeout", "60"]).status.code(), Some(42));
}

#[test]
fn sleeping_guest_ends_at_the_time_limit() {
    let output = boot("sleeps", &["--timeout", "2"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("asleep"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(errors.trim_end().lines().count(), 1, "one line says why: {errors}");
}
