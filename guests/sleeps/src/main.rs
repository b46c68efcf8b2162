//! Sleeps for ever: nothing wakes it, and it reports nothing.
#![no_std]
#![no_main]

use guest_runtime::{csr, println};

#[unsafe(no_mangle)]
fn guest_main(hart: usize) -> ! {
    if hart == 0 {
        println!("asleep");
    }
    loop {
        csr::wait_for_interrupt();
    }
}
