//! Compiles the in-guest agent (`guests/agent`), a program for RISC-V Linux without a standard library, which is
//! carried in this crate.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guests/agent/src");
    println!("cargo::rerun-if-changed={}", source.display());
    let output = Path::new(&env::var_os("OUT_DIR").expect("cargo sets it")).join("agent");
    let compiler = env::var_os("RUSTC").expect("cargo sets it");
    // For a bare target: the agent brings its own system calls, so that any Rust toolchain can build it.
    let options = ["--edition", "2024", "--crate-type", "bin", "--target", "riscv64gc-unknown-none-elf"];
    let code = ["opt-level=s", "panic=abort", "relocation-model=static", "strip=symbols"];
    let status = Command::new(compiler)
        .args(options)
        .args(code.iter().flat_map(|option| ["-C", option]))
        .args(["-D", "warnings", "-o"])
        .arg(output)
        .arg(source.join("main.rs"))
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "the in-guest agent can't be compiled; `rustup target add riscv64gc-unknown-none-elf` gets what it needs"
    );
}
