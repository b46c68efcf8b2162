//! The first hart's share of the interrupt controller (RISC-V Platform-Level Interrupt Controller Specification).

use crate::mmio::{read, write};

const PRIORITIES: usize = 0xc00_0000;
const ENABLED: usize = PRIORITIES + 0x2000;
const THRESHOLD: usize = PRIORITIES + 0x20_0000;
const CLAIM: usize = THRESHOLD + 4;

/// Lets these sources through, a bit for each, and no others.
pub fn enable(sources: u32) {
    (1..32).filter(|source| sources >> source & 1 == 1).for_each(|source| write(PRIORITIES + 4 * source, 1));
    write(ENABLED, sources);
    write(THRESHOLD, 0);
}

/// Takes interrupts of those sources that are enabled, each with what makes its device be quiet.
pub fn serve(mut quiet: impl FnMut(u32)) {
    loop {
        match read(CLAIM) {
            0 => return,
            source => {
                quiet(source);
                write(CLAIM, source);
            }
        }
    }
}
