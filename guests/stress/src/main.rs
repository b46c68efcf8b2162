//! All harts work on the same memory, code and page tables, with timer interrupts all the time. Each check has
//! a number, the first that fails is reported.
#![no_std]
#![no_main]

mod atomics;
mod code;
mod locks;
mod memory;
mod pages;

use guest_runtime::team::{DURATION, Member};
use guest_runtime::{exit, println};

/// What all harts do together until [`Member::goes_on`] says no: rounds done.
type Work = fn(Member) -> Result<u64, Wrong>;

/// What went wrong.
#[derive(Debug)]
pub struct Wrong {
    /// The name of what was looked at.
    pub what: &'static str,
    /// What it should have been.
    pub expected: u64,
    /// What it was.
    pub found: u64,
}

/// `found` must be what was expected.
pub fn expect(what: &'static str, expected: u64, found: u64) -> Result<(), Wrong> {
    if expected == found { Ok(()) } else { Err(Wrong { what, expected, found }) }
}

const CHECKS: &[&[(&str, Work)]] =
    &[atomics::CHECKS, locks::CHECKS, code::CHECKS, pages::CHECKS, memory::CHECKS];

#[unsafe(no_mangle)]
fn guest_main(hart: usize) -> ! {
    let member = Member::join(hart);
    let count = CHECKS.iter().map(|checks| checks.len()).sum::<usize>() as u64;
    for ((name, work), number) in CHECKS.iter().flat_map(|checks| checks.iter()).zip(1..) {
        member.start(DURATION / count);
        match work(member) {
            Ok(rounds) if member.is_first() => println!("{number}: {name}: {rounds} rounds: ok"),
            Ok(_) => {}
            Err(wrong) => {
                println!("{number}: {name}: FAILED on hart {hart}: {wrong:x?}");
                exit(number)
            }
        }
    }
    member.barrier();
    if member.is_first() {
        println!(
            "stress passed on {} harts, {} timer interrupts on the first",
            member.harts,
            member.timers()
        );
        exit(0)
    }
    loop {
        guest_runtime::csr::wait_for_interrupt();
    }
}
