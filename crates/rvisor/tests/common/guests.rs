//! The bare-metal guests of `guests/`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The guest's ELF file. All guests are built the first time one is asked for.
pub fn guest(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(build_guests).join(name)
}

fn build_guests() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests");
    let mut cargo = Command::new(env!("CARGO"));
    // Where `cargo xtask instructions` has them, too.
    let target = folder.join("target");
    cargo.args(["build", "--release", "--locked", "--target-dir"]).arg(&target).current_dir(folder);
    // The guests' own configuration names target and linker script; it is found from their folder, and what
    // the host's build set in the environment would override it.
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    assert!(cargo.status().expect("cargo runs").success(), "the guests build");
    target.join("riscv64gc-unknown-none-elf/release")
}
