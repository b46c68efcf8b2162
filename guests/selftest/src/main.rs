//! Checks that the machine does what the manuals say: each check has a number, the first that fails is
//! reported.
#![no_std]
#![no_main]

mod harts;
mod interrupts;
mod traps;

use guest_runtime::{exit, println};

/// A check: the name that is printed, and what must return true.
type Check = (&'static str, fn() -> bool);

#[unsafe(no_mangle)]
fn guest_main(hart: usize) -> ! {
    if hart != 0 {
        harts::serve(hart);
    }
    let checks = traps::CHECKS.iter().chain(interrupts::CHECKS).chain(harts::CHECKS);
    for ((name, check), number) in checks.zip(1..) {
        let passed = check();
        println!("{number}: {name}: {}", if passed { "ok" } else { "FAILED" });
        if !passed {
            exit(number);
        }
    }
    println!("selftest passed");
    exit(0)
}
