//! Traps: taking them and returning from them (Privileged ISA, "Machine-Level ISA" and "Supervisor-Level
//! ISA", sections on trap handling).

use rvisor_isa::csr::{mcause, mstatus, mtvec};
use rvisor_isa::{Exception, Interrupt, Privilege};

use crate::state::Hart;

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
    pub fn take_trap(&mut self, trap: Trap) {
        let (pc, from) = (self.pc, self.privilege);
        let (code, delegated) = match trap.cause {
            Cause::Exception(exception) => (exception.code(), self.csr.medeleg >> exception.code() & 1 != 0),
            Cause::Interrupt(interrupt) => {
                (mcause::INTERRUPT | interrupt.code(), self.csr.mideleg & interrupt.bit() != 0)
            }
        };
        if delegated && self.privilege != Privilege::Machine {
            self.enter_supervisor(code, trap.value);
        } else {
            self.enter_machine(code, trap.value);
        }
        self.tlb.context_changed();
        self.tell_trap(trap, pc, from);
    }

    fn enter_supervisor(&mut self, code: u64, value: u64) {
        let csr = &mut self.csr;
        csr.scause = code;
        csr.stval = value;
        csr.sepc = self.pc;
        let enabled = csr.mstatus & mstatus::SIE != 0;
        csr.mstatus &= !(mstatus::SIE | mstatus::SPIE | mstatus::SPP);
        if enabled {
            csr.mstatus |= mstatus::SPIE;
        }
        if self.privilege == Privilege::Supervisor {
            csr.mstatus |= mstatus::SPP;
        }
        self.privilege = Privilege::Supervisor;
        self.pc = vector(csr.stvec, code);
    }

    fn enter_machine(&mut self, code: u64, value: u64) {
        let csr = &mut self.csr;
        csr.mcause = code;
        csr.mtval = value;
        csr.mepc = self.pc;
        let enabled = csr.mstatus & mstatus::MIE != 0;
        csr.mstatus &= !(mstatus::MIE | mstatus::MPIE | mstatus::MPP);
        if enabled {
            csr.mstatus |= mstatus::MPIE;
        }
        csr.mstatus |= (self.privilege as u64) << mstatus::MPP_SHIFT;
        self.privilege = Privilege::Machine;
        self.pc = vector(csr.mtvec, code);
    }

    /// `mret`: leaves the program counter at `mepc`.
    pub fn mret(&mut self) -> Result<(), IllegalInstruction> {
        if self.privilege != Privilege::Machine {
            return Err(IllegalInstruction);
        }
        let csr = &mut self.csr;
        self.privilege = csr.previous_privilege();
        let enable = csr.mstatus & mstatus::MPIE != 0;
        csr.mstatus &= !(mstatus::MIE | mstatus::MPP);
        csr.mstatus |= mstatus::MPIE;
        if enable {
            csr.mstatus |= mstatus::MIE;
        }
        if self.privilege != Privilege::Machine {
            csr.mstatus &= !mstatus::MPRV;
        }
        self.pc = csr.mepc;
        self.tlb.context_changed();
        self.tell_return(Privilege::Machine);
        Ok(())
    }

    /// `sret`: leaves the program counter at `sepc`.
    pub fn sret(&mut self) -> Result<(), IllegalInstruction> {
        self.check_supervisor(mstatus::TSR)?;
        let from = self.privilege;
        let csr = &mut self.csr;
        self.privilege =
            if csr.mstatus & mstatus::SPP != 0 { Privilege::Supervisor } else { Privilege::User };
        let enable = csr.mstatus & mstatus::SPIE != 0;
        csr.mstatus &= !(mstatus::SIE | mstatus::SPP | mstatus::MPRV);
        csr.mstatus |= mstatus::SPIE;
        if enable {
            csr.mstatus |= mstatus::SIE;
        }
        self.pc = csr.sepc;
        self.tlb.context_changed();
        self.tell_return(from);
        Ok(())
    }

    /// Called after `mstatus` was changed from outside, where that has changed what accesses may do.
    pub fn context_changed(&mut self) {
        self.tlb.context_changed();
    }

    /// Whether `wfi` may be executed now (`mstatus.TW`; never in U-mode).
    pub fn check_wfi(&self) -> Result<(), IllegalInstruction> {
        self.check_supervisor(mstatus::TW)
    }

    /// Whether `sfence.vma` and `sinval.vma` may be executed now (`mstatus.TVM`; never in U-mode).
    pub fn check_fence_vma(&self) -> Result<(), IllegalInstruction> {
        self.check_supervisor(mstatus::TVM)
    }

    /// Whether `sfence.w.inval` and `sfence.inval.ir` may be executed now (never in U-mode).
    pub fn check_fence_invalidate(&self) -> Result<(), IllegalInstruction> {
        self.check_supervisor(0)
    }

    /// Allows M-mode always, S-mode unless the bit of `mstatus` that traps it is set, U-mode never.
    fn check_supervisor(&self, trapped_by: u64) -> Result<(), IllegalInstruction> {
        match self.privilege {
            Privilege::Machine => Ok(()),
            Privilege::Supervisor if self.csr.mstatus & trapped_by == 0 => Ok(()),
            Privilege::Supervisor | Privilege::User => Err(IllegalInstruction),
        }
    }
}

/// Where a trap enters: the base of `mtvec` or `stvec`; in vectored mode, an interrupt's own slot.
fn vector(tvec: u64, code: u64) -> u64 {
    let base = tvec & mtvec::BASE;
    let vectored = tvec & mtvec::MODE == mtvec::VECTORED && code & mcause::INTERRUPT != 0;
    if vectored { base.wrapping_add(4 * (code & !mcause::INTERRUPT)) } else { base }
}

#[cfg(test)]
mod precise;
#[cfg(test)]
mod tests;
