//! The monitor's own address space (Sv39).
//!
//! ```text
//! 0x0000_4000_0000  the image: text RX, constants R, data RW
//! 0x0008_0000_0000  stacks of the other harts, RW; what lies between two isn't mapped
//! 0x0010_0000_0000  direct map: machine address 0 and up, RW; the image left out
//! upper half        the window, repeated in each of the 256 slots of 1 GiB
//! ```
//!
//! The window is what a shadow table needs of the monitor: the trampoline's page and the contexts of the harts,
//! with the code of their sequences.
//! A shadow table has it in one slot of its upper half; wherever that is, the monitor's own table has it too.

use core::ops::Range;

use crate::address::MachineAddress;

/// Where the image is mapped; `image.ld` links it there.
pub const IMAGE_BASE: u64 = 0x4000_0000;
/// Where the stacks of all harts but the first are mapped.
pub const STACKS: u64 = 32 << 30;
/// Where machine address 0 is mapped.
pub const DIRECT_MAP: u64 = 64 << 30;
/// Bytes of the direct map: memory beyond isn't used.
pub const DIRECT_MAP_SIZE: u64 = 128 << 30;
/// Bytes of the first hart's stack, on which everything is set up as well.
pub const BOOT_STACK: usize = 256 << 10;
/// Bytes of another hart's stack.
pub const HART_STACK: usize = 128 << 10;
/// Address space of the monitor: the only one that is never given to a guest.
pub const MONITOR_ASID: u64 = 0;
/// Slots of 1 GiB in the upper half of an Sv39 address space.
pub const WINDOW_SLOTS: Range<usize> = 256..512;

/// Where the direct map has a machine address.
#[must_use]
pub const fn direct(address: MachineAddress) -> u64 {
    DIRECT_MAP + address.0
}

/// Where a hart's stack is mapped, one that isn't the first. The page before it isn't: a stack that is too small is noticed.
#[must_use]
pub const fn stack(hart: usize) -> Range<u64> {
    let size = HART_STACK as u64;
    let start = STACKS + 2 * size * hart as u64 + size;
    start..start + size
}

/// First address of the window in a slot of the upper half.
#[must_use]
pub const fn window(slot: usize) -> u64 {
    ((slot as u64) << 55).cast_signed().wrapping_shr(25) as u64
}

/// Where the trampoline is, in bytes from the window's start. The page before it isn't mapped: what is less than a page
/// from an address of the guest's isn't the monitor's.
pub const TRAMPOLINE: u64 = 4096;
/// Bytes for a hart's context: not all of them are mapped.
pub const CONTEXT_SPACE: u64 = 128 << 10;

/// Where a hart's context is, in bytes from the window's start. The trampoline comes first.
#[must_use]
pub const fn context_offset(hart: usize) -> u64 {
    CONTEXT_SPACE * (1 + hart as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_canonical() {
        assert_eq!(window(256), 0xffff_ffc0_0000_0000);
        assert_eq!(window(511), 0xffff_ffff_c000_0000);
    }
}
