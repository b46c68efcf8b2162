//! Registers of physical devices.

use core::ptr;

use super::layout;
use crate::address::MachineAddress;

/// Registers of one device, of 32 bits each.
pub struct Registers {
    base: u64,
    size: u64,
}

impl Registers {
    /// The registers in `size` bytes at `start`.
    ///
    /// # Safety
    /// The device tree says that they are there, they are mapped, and whoever has them answers for what the device
    /// does to memory.
    pub(super) unsafe fn new(start: MachineAddress, size: u64) -> Self {
        Self { base: layout::direct(start), size }
    }

    fn pointer(&self, offset: u64) -> Option<*mut u32> {
        (offset.is_multiple_of(4) && offset.checked_add(4)? <= self.size)
            .then_some((self.base + offset) as *mut u32)
    }

    /// Reads a register; zero where there is none.
    pub fn read(&self, offset: u64) -> u32 {
        // SAFETY: inside the registers by `pointer`.
        self.pointer(offset).map_or(0, |register| unsafe { ptr::read_volatile(register) })
    }

    /// Writes a register, if it is there.
    pub fn write(&self, offset: u64, value: u32) {
        if let Some(register) = self.pointer(offset) {
            // SAFETY: inside the registers by `pointer`.
            unsafe { ptr::write_volatile(register, value) };
        }
    }
}
