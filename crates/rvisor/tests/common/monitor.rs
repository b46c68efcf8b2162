//! The type-1 home, built once for all tests of a program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The image of the type-1 home, as `cargo xtask metal` builds it.
pub fn monitor() -> &'static Path {
    const TARGET: &str = "riscv64gc-unknown-none-elf";
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        // Where `cargo xtask metal` has it, too.
        let directory = root.join("target/metal");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--locked", "--package", "rvisor-metal", "--features", "image"]);
        cargo.args(["--target", TARGET, "--target-dir"]).arg(&directory);
        cargo.current_dir(root);
        for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            cargo.env_remove(variable);
        }
        assert!(cargo.status().expect("cargo runs").success(), "the image builds");
        directory.join(TARGET).join("release/rvisor-metal")
    })
}
