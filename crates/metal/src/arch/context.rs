//! What the trampoline keeps for each physical hart while a guest runs on it.

use crate::processor::Privileged;
use crate::sequence::{CODE_WORDS, ENTRIES, Entry};

/// Pages of its own in the window. The trampoline knows the fields by their offsets.
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
    /// The window's slot, as an address shifted right by 30 bits.
    pub window_slot: i64,
    /// Not zero where sequences are made.
    pub sequences: u64,
    /// The key of a sequence that has been missing often.
    pub wanted: u64,
    /// What routines of sequences save: where they return to, or t3 at a fault.
    pub link: u64,
    /// The same: `sstatus` before.
    pub old_status: u64,
    /// With the H extension: bits of `hstatus` that are set besides, while a guest's own traps are revealed.
    pub revealed: u64,
    /// The guest's privileged state, where the trampoline may serve traps by itself.
    pub privileged: Privileged,
    /// Sequences by their keys: from the second page on.
    pub table: Table,
    /// Their code.
    pub code: Code,
}

/// Where to find a sequence.
#[repr(C, align(4096))]
pub struct Table(pub [Entry; ENTRIES]);

impl Default for Table {
    fn default() -> Self {
        Self([Entry::EMPTY; ENTRIES])
    }
}

/// Executable in the window, and writable where the monitor has its heap.
#[repr(C, align(4096))]
pub struct Code(pub [u32; CODE_WORDS]);

impl Default for Code {
    fn default() -> Self {
        Self([0; CODE_WORDS])
    }
}

// The trampoline reaches fields with 12 bits, the table with one `lui`.
const _: () = assert!(core::mem::offset_of!(HartContext, table) == 4096);
const _: () = assert!(size_of::<HartContext>() < super::layout::CONTEXT_SPACE as usize);
