//! Control and status registers.

use core::arch::asm;

/// Machine software interrupt, in `mie`, `mip` and `mcause`.
pub const MACHINE_SOFTWARE: u64 = 3;
/// Machine timer interrupt.
pub const MACHINE_TIMER: u64 = 7;
/// Machine external interrupt.
pub const MACHINE_EXTERNAL: u64 = 11;
/// Supervisor software interrupt.
pub const SUPERVISOR_SOFTWARE: u64 = 1;
/// Set in `mcause` for interrupts.
pub const INTERRUPT: u64 = 1 << 63;

/// Reads the CSR of that name or number.
#[macro_export]
macro_rules! read_csr {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading the CSRs that guests name has no effect.
        unsafe { core::arch::asm!(concat!("csrr {}, ", $name), out(reg) value) };
        value
    }};
}

/// Writes the CSR of that name.
#[macro_export]
macro_rules! write_csr {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: guests own their machine.
        unsafe { core::arch::asm!(concat!("csrw ", $name, ", {}"), in(reg) value) };
    }};
}

pub use {read_csr as read, write_csr as write};

/// Allows S- and U-mode all memory (physical memory protection entry 0).
pub fn allow_all_memory() {
    write_csr!("pmpaddr0", u64::MAX >> 10);
    write_csr!("pmpcfg0", 0x1f);
}

/// Allows S- and U-mode this range only; `size` is a power of two and `start` a multiple of it.
pub fn allow_only(start: usize, size: usize) {
    write_csr!("pmpaddr0", (start >> 2 | (size / 2 - 1) >> 2) as u64);
    write_csr!("pmpcfg0", 0x1f);
}

/// Sleeps until an interrupt that `mie` enables is pending.
pub fn wait_for_interrupt() {
    // SAFETY: sleeping has no effect.
    unsafe { asm!("wfi") };
}
