//! Traps: taking them and returning from them (Privileged ISA, "Machine-Level ISA" and "Supervisor-Level
//! ISA", sections on trap handling).

use crate::state::Hart;

/// Privilege mode, with the encoding of `mstatus.MPP`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Privilege {
    /// U-mode.
    User = 0,
    /// S-mode.
    Supervisor = 1,
    /// M-mode.
    Machine = 3,
}

/// Synchronous exception, with its code in `mcause`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub enum Exception {
    InstructionAddressMisaligned = 0,
    InstructionAccessFault = 1,
    IllegalInstruction = 2,
    Breakpoint = 3,
    LoadAddressMisaligned = 4,
    LoadAccessFault = 5,
    StoreAddressMisaligned = 6,
    StoreAccessFault = 7,
    EnvironmentCallFromUser = 8,
    EnvironmentCallFromSupervisor = 9,
    EnvironmentCallFromMachine = 11,
    InstructionPageFault = 12,
    LoadPageFault = 13,
    StorePageFault = 15,
}

/// Interrupt, with its code in `mcause` and its bit in `mip`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the manual's")]
pub enum Interrupt {
    SupervisorSoftware = 1,
    MachineSoftware = 3,
    SupervisorTimer = 5,
    MachineTimer = 7,
    SupervisorExternal = 9,
    MachineExternal = 11,
}

/// Why a trap is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// An instruction's doing.
    Exception(Exception),
    /// From outside.
    Interrupt(Interrupt),
}

/// A trap about to be taken. `mepc` is the hart's program counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trap {
    /// Why.
    pub cause: Cause,
    /// For `mtval` or `stval`.
    pub value: u64,
}

impl Trap {
    /// The trap of an exception.
    #[must_use]
    pub const fn exception(exception: Exception, value: u64) -> Self {
        Self { cause: Cause::Exception(exception), value }
    }

    /// The trap of an interrupt.
    #[must_use]
    pub const fn interrupt(interrupt: Interrupt) -> Self {
        Self { cause: Cause::Interrupt(interrupt), value: 0 }
    }
}

/// The instruction isn't allowed or doesn't exist: whoever has its bits raises the exception with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IllegalInstruction;

impl Hart {
    /// Takes a trap: the program counter must stand at the instruction that trapped, or that the interrupt
    /// precedes. It stands at the handler afterwards.
    pub fn take_trap(&mut self, _trap: Trap) {
        self.tlb.context_changed();
    }

    /// `mret`: leaves the program counter at `mepc`.
    pub fn mret(&mut self) -> Result<(), IllegalInstruction> {
        Ok(())
    }

    /// `sret`: leaves the program counter at `sepc`.
    pub fn sret(&mut self) -> Result<(), IllegalInstruction> {
        Ok(())
    }

    /// Whether `wfi` may be executed now (`mstatus.TW`; U-mode).
    pub fn check_wfi(&self) -> Result<(), IllegalInstruction> {
        Ok(())
    }

    /// Whether `sfence.vma`, `sinval.vma` may be executed now (`mstatus.TVM`; U-mode).
    pub fn check_fence_vma(&self) -> Result<(), IllegalInstruction> {
        Ok(())
    }
}
