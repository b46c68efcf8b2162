//! `cargo test` for RISC-V with Rvisor as its runner, as the book's "Recipes for projects" has it: with a target that
//! needs nothing but rustup's, and a test that is a Linux program all the same.

mod common;

use std::fs;
use std::process::Command;
use std::time::Duration;

use common::{finish, rvisor};

/// For cargo and a machine, on a slow and busy host.
const LIMIT: Duration = Duration::from_secs(600);

const MANIFEST: &str = r#"
[package]
name = "guest"
version = "0.1.0"
edition = "2024"

[[test]]
name = "guest"
harness = false

[workspace]
"#;

/// Opens the file that it is told, copies it to standard output, and ends with code 7 if it isn't there.
const TEST: &str = r#"
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

global_asm!(".globl _start", "_start: mv a0, sp", "call main");

unsafe fn call(number: usize, a: usize, b: usize, c: usize) -> isize {
    let result;
    unsafe { asm!("ecall", in("a7") number, inlateout("a0") a => result, in("a1") b, in("a2") c) };
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn main(stack: *const usize) -> ! {
    unsafe {
        let path = if *stack > 1 { *stack.add(2) } else { c"data/expected".as_ptr() as usize };
        let file = call(56, -100_isize as usize, path, 0);
        if file < 0 {
            call(94, 7, 0, 0);
        }
        let mut bytes = [0_u8; 256];
        let length = call(63, file as usize, bytes.as_mut_ptr() as usize, bytes.len());
        call(64, 1, bytes.as_ptr() as usize, length as usize);
        call(94, 0, 0, 0);
    }
    loop {}
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
"#;

#[test]
fn cargo_runs_tests_in_a_guest() {
    finish(&mut rvisor(["pull", "debian"]), b"", 9 * LIMIT).assert(0, "debian\n");
    let directory = tempfile::tempdir().unwrap();
    // As the guest has it too: without links on the way.
    let project = directory.path().canonicalize().unwrap();
    for name in ["tests", "src", "data"] {
        fs::create_dir(project.join(name)).unwrap();
    }
    fs::write(project.join("Cargo.toml"), MANIFEST).unwrap();
    fs::write(project.join("src/lib.rs"), "#![no_std]\n").unwrap();
    fs::write(project.join("tests/guest.rs"), TEST).unwrap();
    fs::write(project.join("data/expected"), "from the host\n").unwrap();
    let place = project.to_str().unwrap();
    let runner = format!("{} run --rm -v {place}:{place} -w {place} debian --", env!("CARGO_BIN_EXE_rvisor"));
    let cargo = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command
            .args([
                "test",
                "--offline",
                "--quiet",
                "--target",
                "riscv64gc-unknown-none-elf",
                "--test",
                "guest",
            ])
            .args(words)
            .current_dir(&project)
            .env("CARGO_TARGET_RISCV64GC_UNKNOWN_NONE_ELF_RUNNER", &runner)
            .env("CARGO_PROFILE_TEST_PANIC", "abort")
            .env("CARGO_TARGET_DIR", project.join("target"))
            .env_remove("RUSTFLAGS")
            .env_remove("RVISOR_LOG");
        finish(&mut command, b"", LIMIT)
    };
    cargo(&[]).assert(0, "from the host\n");
    let failed = cargo(&["--", "data/missing"]);
    assert_ne!(failed.status.code(), Some(0));
    assert!(failed.stderr.contains("exit status: 7"), "{}", failed.stderr);
}
