//! The board's platform devices, as the guest sees them: [`uart`], [`plic`], [`aclint`], [`rtc`] and
//! [`finisher`].
//!
//! Every front end implements [`Device`](rvisor_waist::Device) and reaches the outside only through what it
//! is given at construction: interrupt lines, a clock, a back end, a closure. Where on the board a device
//! stands is not its business: `SIZE` says how many bytes it decodes, the board chooses the base.
//!
//! Virtio devices live in a crate of their own.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod aclint;
pub mod finisher;
pub mod plic;
pub mod rtc;
pub mod uart;

#[cfg(test)]
mod test_utils;

use rvisor_waist::{OutOfRange, Width};

/// The index of the 32-bit register at `offset`, for devices that answer nothing but aligned words.
fn word_index(offset: u64, width: Width) -> Result<usize, OutOfRange> {
    if width != Width::Word || !offset.is_multiple_of(4) {
        return Err(OutOfRange);
    }
    usize::try_from(offset / 4).map_err(|_| OutOfRange)
}
