//! The hardware: all unsafe code and all assembly of the metal home.
//!
//! `assembly` has every line of assembly; `layout` says where things are in the monitor's address space. What the
//! rest of the crate uses is safe: [`Partition`] (a guest's RAM), `PhysicalHart` (the hart that runs guests), the
//! console, the heap.
#![allow(unsafe_code)]

#[cfg(target_os = "none")]
mod assembly;
#[cfg(target_os = "none")]
pub mod console;
pub(crate) mod context;
#[cfg(target_os = "none")]
mod delegation;
mod frames;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod hypervisor;
pub mod layout;
#[cfg(target_os = "none")]
mod mmio;
#[cfg(target_os = "none")]
mod paging;
#[cfg(target_os = "none")]
mod panic;
pub(crate) mod partition;
#[cfg(target_os = "none")]
mod processor;
#[cfg(target_os = "none")]
mod sbi;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
pub mod virtio;

pub use frames::Frames;
pub use partition::Partition;

#[cfg(target_os = "none")]
pub use mmio::Registers;

#[cfg(target_os = "none")]
pub use assembly::{current_hart, read_time as now};
#[cfg(target_os = "none")]
pub use processor::PhysicalHart;

/// Interrupts a physical hart, by its index.
#[cfg(target_os = "none")]
pub fn interrupt(hart: usize) {
    if let Some(id) = start::hart_id(hart) {
        sbi::send_ipi(id);
    }
}

/// Whether a device interrupts this hart.
#[cfg(target_os = "none")]
pub fn is_external_interrupt_pending() -> bool {
    assembly::read_sip() >> 9 & 1 == 1
}

/// Switches the hardware off.
#[cfg(target_os = "none")]
pub fn shut_down(failed: bool) -> ! {
    sbi::shut_down(failed)
}
