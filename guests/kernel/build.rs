//! Puts the linker script where the linker finds it.

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo::rustc-link-search={directory}");
    println!("cargo::rerun-if-changed=guest.ld");
}
