//! Tells the crate what it is made from, for the code that it keeps from one run to the next: code made by
//! another translator must never run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use twox_hash::XxHash3_128;

/// What decides which host code is made, and what it finds in memory.
const SOURCES: [&str; 4] = ["src", "../hart/src", "../isa/src", "../waist/src"];

fn main() {
    let mut all = Vec::new();
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    if let Ok(output) = Command::new(compiler).arg("-vV").output() {
        all.extend(output.stdout);
    }
    for name in ["TARGET", "OPT_LEVEL", "CARGO_ENCODED_RUSTFLAGS"] {
        all.extend(env::var(name).unwrap_or_default().bytes().chain([0]));
    }
    for directory in SOURCES {
        println!("cargo::rerun-if-changed={directory}");
        let mut files = Vec::new();
        find(Path::new(directory), &mut files);
        files.sort();
        for path in files {
            let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            all.extend(path.as_os_str().as_encoded_bytes());
            all.extend(text.len().to_le_bytes());
            all.extend(text);
        }
    }
    println!("cargo::rustc-env=TRANSLATOR_BUILD={:032x}", XxHash3_128::oneshot(&all));
}

fn find(directory: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            find(&path, files);
        } else {
            files.push(path);
        }
    }
}
