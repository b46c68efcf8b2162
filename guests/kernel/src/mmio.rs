//! Registers of devices.

/// Reads a device's register.
pub fn read(address: usize) -> u32 {
    // SAFETY: devices answer whatever they are asked.
    unsafe { (address as *const u32).read_volatile() }
}

/// Writes a device's register.
pub fn write(address: usize, value: u32) {
    // SAFETY: what a device may do to memory is set up by the caller.
    unsafe { (address as *mut u32).write_volatile(value) };
}
