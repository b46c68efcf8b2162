//! Tells the linker how the image is made: by its script, as the bytes that a boot loader loads, with a map beside it
//! to look addresses up in.

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    println!("cargo::rerun-if-changed=image.ld");
    if variable("CARGO_CFG_TARGET_OS") == "none" {
        let (directory, out) = (variable("CARGO_MANIFEST_DIR"), variable("OUT_DIR"));
        for argument in [&format!("-T{directory}/image.ld"), "--oformat=binary", &format!("-Map={out}/map")] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
