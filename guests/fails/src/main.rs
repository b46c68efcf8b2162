//! Reports that check 42 failed.
#![no_std]
#![no_main]

#[unsafe(no_mangle)]
fn guest_main(_hart: usize) -> ! {
    guest_runtime::exit(42)
}
