//! Calls of the firmware below (RISC-V SBI specification 2.0).

use core::sync::atomic::{AtomicBool, Ordering};

use super::assembly::sbi_call;
use crate::address::MachineAddress;

mod extension {
    pub const CONSOLE_PUTCHAR: u64 = 1;
    pub const CONSOLE_GETCHAR: u64 = 2;
    pub const BASE: u64 = 0x10;
    pub const TIME: u64 = 0x5449_4d45;
    pub const IPI: u64 = 0x73_5049;
    pub const HSM: u64 = 0x48_534d;
    pub const SRST: u64 = 0x5352_5354;
    pub const DBCN: u64 = 0x4442_434e;
}

/// Whether the firmware has the extension with this id.
fn has(id: u64) -> bool {
    // SAFETY: asks only.
    unsafe { sbi_call(extension::BASE, 3, [id, 0, 0]) == (0, 1) }
}

static DEBUG_CONSOLE: AtomicBool = AtomicBool::new(false);

/// Finds out which console the firmware has.
pub fn probe() {
    DEBUG_CONSOLE.store(has(extension::DBCN), Ordering::Relaxed);
}

/// Prints `length` bytes at `address`, as many as the firmware takes at once; returns how many.
pub fn console_write(address: MachineAddress, length: usize) -> usize {
    // SAFETY: the firmware reads memory that is the monitor's.
    let (error, written) = unsafe { sbi_call(extension::DBCN, 0, [length as u64, address.0, 0]) };
    if error == 0 { (written as usize).min(length) } else { 0 }
}

/// Prints one byte.
pub fn console_put(byte: u8) {
    // SAFETY: prints only.
    unsafe { sbi_call(extension::CONSOLE_PUTCHAR, 0, [byte.into(), 0, 0]) };
}

/// Whether [`console_write`] and [`console_read`] work.
pub fn has_debug_console() -> bool {
    DEBUG_CONSOLE.load(Ordering::Relaxed)
}

/// Reads up to `length` bytes of input to `address`; returns how many.
///
/// # Safety
/// The memory is the caller's to be written to.
pub unsafe fn console_read(address: MachineAddress, length: usize) -> usize {
    // SAFETY: the caller's.
    let (error, read) = unsafe { sbi_call(extension::DBCN, 1, [length as u64, address.0, 0]) };
    if error == 0 { (read as usize).min(length) } else { 0 }
}

/// Reads one byte of input, if there is one.
pub fn console_get() -> Option<u8> {
    // SAFETY: reads a byte.
    let (value, _) = unsafe { sbi_call(extension::CONSOLE_GETCHAR, 0, [0; 3]) };
    u8::try_from(value).ok()
}

/// Asks for a timer interrupt at `ticks` of `time`; `u64::MAX` for none.
pub fn set_timer(ticks: u64) {
    // SAFETY: the monitor's own timer.
    unsafe { sbi_call(extension::TIME, 0, [ticks, 0, 0]) };
}

/// Makes a software interrupt pending on a hart.
pub fn send_ipi(hart_id: u64) {
    // SAFETY: the monitor's own interrupt.
    unsafe { sbi_call(extension::IPI, 0, [1, hart_id, 0]) };
}

/// Starts a hart at `entry` with `argument` in `a1`; the firmware's error otherwise.
///
/// # Safety
/// `entry` is code that may be entered without translation, with that argument.
pub unsafe fn start_hart(hart_id: u64, entry: MachineAddress, argument: MachineAddress) -> Result<(), i64> {
    // SAFETY: the caller's.
    let (error, _) = unsafe { sbi_call(extension::HSM, 0, [hart_id, entry.0, argument.0]) };
    if error == 0 { Ok(()) } else { Err(error) }
}

/// Switches the hardware off. `failed` goes into the reason.
pub fn shut_down(failed: bool) -> ! {
    // SAFETY: that is what it is for.
    unsafe { sbi_call(extension::SRST, 0, [0, failed.into(), 0]) };
    loop {
        super::assembly::wait_for_interrupt();
    }
}

/// Ids of the firmware's implementation and its version.
pub fn implementation() -> (u64, u64) {
    // SAFETY: asks only.
    unsafe { (sbi_call(extension::BASE, 1, [0; 3]).1, sbi_call(extension::BASE, 2, [0; 3]).1) }
}

/// Whether `time` of a program in U-mode traps to the monitor if the monitor wants it to. OpenSBI, which others follow, takes
/// illegal instructions first and answers for it; Rvisor's own doesn't.
pub fn leaves_time() -> bool {
    const RVISOR: u64 = 0x5256;
    implementation().0 == RVISOR
}
