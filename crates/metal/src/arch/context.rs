//! What the trampoline keeps for each physical hart while a guest runs on it.

use crate::processor::Privileged;

/// A page of its own in the window. The trampoline knows the fields by their offsets.
#[repr(C, align(4096))]
#[derive(Default)]
pub struct HartContext {
    /// The guest's integer registers that the trampoline uses for itself: a0, t0 to t6. The others stay unused.
    pub x: [u64; 32],
    /// The guest's program counter.
    pub pc: u64,
    /// `sstatus`: what to enter with, and what it was at the trap.
    pub status: u64,
    /// `scause` at the trap.
    pub cause: u64,
    /// `stval` at the trap.
    pub value: u64,
    /// `satp` while the guest runs.
    pub guest_satp: u64,
    /// `stvec` while the guest runs.
    pub guest_stvec: u64,
    /// The monitor's `satp`.
    pub monitor_satp: u64,
    /// The monitor's `stvec`.
    pub monitor_stvec: u64,
    /// The monitor's stack pointer.
    pub stack_pointer: u64,
    /// Where the guest's integer registers are kept.
    pub registers: u64,
    /// Where the monitor goes on.
    pub return_address: u64,
    /// Index of the physical hart: `tp` in the monitor.
    pub index: u64,
    /// Not zero where `satp` needs a full `sfence.vma` behind it: the harts have no ASIDs.
    pub flush: u64,
    /// The guest's privileged state, where the trampoline may serve traps by itself.
    pub privileged: Privileged,
}
