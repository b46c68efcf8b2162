//! What the engine `vs` needs of a physical hart with the H extension. Tests have one without hardware.

use crate::processor::{Asid, Processor};

/// CSRs of a guest that the hardware keeps while it runs: those of VS-mode, and some that modes share.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct VirtualCsrs {
    /// `vsstatus`.
    pub status: u64,
    /// `vsie`, with the bits where `sie` has them.
    pub enabled: u64,
    /// `vstvec`.
    pub vector: u64,
    /// `vsscratch`.
    pub scratch: u64,
    /// `vsepc`.
    pub epc: u64,
    /// `vscause`.
    pub cause: u64,
    /// `vstval`.
    pub value: u64,
    /// `vsatp`.
    pub translation: u64,
    /// `vstimecmp`, where there is one.
    pub deadline: u64,
    /// `htimedelta`, which the guest doesn't change.
    pub time_delta: u64,
    /// `senvcfg`.
    pub environment: u64,
    /// `scounteren`.
    pub counters: u64,
}

/// How the hardware finds a guest's memory: `hgatp` without the VMID, and the VMID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StageEntry {
    /// Mode and root.
    pub root: u64,
    /// Number in the TLB.
    pub vmid: u64,
}

/// Registers of a guest, as the hardware runs them.
pub struct VirtualRegisters<'a> {
    /// Integer registers.
    pub x: &'a mut [u64; 32],
    /// Program counter.
    pub pc: &'a mut u64,
    /// VS-mode, not VU-mode.
    pub is_supervisor: &'a mut bool,
}

/// A trap of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtualTrap {
    /// `scause`.
    pub cause: u64,
    /// `stval`.
    pub value: u64,
    /// The guest physical address of a guest-page fault.
    pub guest_physical: u64,
}

/// Which traps of a guest the hardware doesn't deliver by itself.
pub trait Delegation {
    /// Whether calls of the guest's programs, its page faults and its `sret` come to the monitor.
    fn reveal(&mut self, is_revealed: bool);
}

/// A physical hart with the H extension.
pub trait VirtualProcessor: Processor + Delegation {
    /// Whether guests have `stimecmp` of the hardware (Sstc).
    fn has_guest_timer(&self) -> bool;
    /// A VMID that the TLB has nothing of.
    fn new_vmid(&mut self) -> Asid;
    /// Generation of the VMIDs that hold now.
    fn vmid_generation(&self) -> u64;
    /// Forgets translations of the guest that is loaded.
    fn fence_virtual(&mut self, address: Option<u64>, asid: Option<u16>);
    /// Forgets what the TLB has of guests' memory, that a page isn't there included.
    fn fence_stage(&mut self);
    /// Gives the hardware a guest's registers and memory.
    fn load_virtual(&mut self, entry: &StageEntry, csrs: &VirtualCsrs);
    /// Takes them back.
    fn store_virtual(&mut self, csrs: &mut VirtualCsrs);
    /// Makes interrupts pending for the guest, as bits of `hvip`.
    fn inject(&mut self, pending: u64);
    /// Those of them that the guest hasn't cleared.
    fn injected(&self) -> u64;
    /// Runs the guest until it traps. `float` is the monitor's `sstatus.FS`.
    fn enter_virtual(&mut self, registers: VirtualRegisters<'_>, float: u64) -> VirtualTrap;
    /// The guest's instruction at `pc`; `None` where it isn't mapped any more.
    fn fetch(&mut self, pc: u64) -> Option<u32>;
}
