//! Control and status registers.

/// Reads the CSR of that name.
#[macro_export]
macro_rules! read_csr {
    ($name:literal) => {{
        let value: usize;
        // SAFETY: reading the CSRs that a kernel names has no effect.
        unsafe { core::arch::asm!(concat!("csrr {}, ", $name), out(reg) value) };
        value
    }};
}

/// Writes the CSR of that name.
#[macro_export]
macro_rules! write_csr {
    ($name:literal, $value:expr) => {{
        let value: usize = $value;
        // SAFETY: kernels own their machine.
        unsafe { core::arch::asm!(concat!("csrw ", $name, ", {}"), in(reg) value) };
    }};
}

pub use {read_csr as read, write_csr as write};

/// `sie` and `sip`: software, timer and external interrupts.
pub const SOFTWARE: usize = 1 << 1;
/// Timer.
pub const TIMER: usize = 1 << 5;
/// External.
pub const EXTERNAL: usize = 1 << 9;
/// Ticks of `time` in a millisecond.
pub const TICKS_PER_MILLISECOND: u64 = 10_000;

/// `time`.
pub fn time() -> u64 {
    read_csr!("time") as u64
}

/// Sleeps until one of these interrupts is pending.
pub fn wait_for(interrupts: usize) {
    write_csr!("sie", interrupts);
    while read_csr!("sip") & interrupts == 0 {
        // SAFETY: sleeps.
        unsafe { core::arch::asm!("wfi") };
    }
    write_csr!("sie", 0);
}
