//! Makes a kernel that boot loaders take: linked where they put it, as bare bytes.

fn main() {
    let directory = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo::rustc-link-search={directory}/../runtime");
    println!("cargo::rustc-link-arg=--defsym=image_base=0x80200000");
    println!("cargo::rustc-link-arg=--oformat=binary");
}
